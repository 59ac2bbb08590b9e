//! The entropy device (virtio 1.2 §5.4): one queue of buffers to be filled with random bytes.
//!
//! It works on the vcpu's thread: a request is filled from the host's getrandom(2), which never blocks once the host is
//! up, and at most [`REQUEST_LIMIT`] bytes of it, so that a notification costs a bounded time.

use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::{ActivateError, Error, Interrupts, Ring, Segment, VirtioDevice, VirtioPci};
use crate::pci;

/// Bytes filled per request; the driver asks again for more.
pub const REQUEST_LIMIT: usize = 4096;

const DEVICE_ID: u16 = 4;
/// Base class 0xff: it fits no other.
const PCI_CLASS: u32 = 0xff_0000;
const QUEUE_SIZES: [u16; 1] = [64];

/// The entropy device.
#[derive(Default)]
pub struct Rng {
    ring: Option<Ring>,
    segments: Vec<Segment>,
}

impl Rng {
    /// Puts one on the bus, into this slot or the lowest that is free.
    ///
    /// # Errors
    /// The bus has no room.
    pub fn attach(root: &pci::Root, memory: GuestMemoryMmap, slot: Option<u8>) -> Result<(), Error> {
        let (slot, pin) = root.place(slot)?.into_parts();
        let interrupts = Interrupts::new("rng", Arc::clone(root.hypervisor()), pin, QUEUE_SIZES.len());
        VirtioPci::attach(root, slot, memory, interrupts, Box::new(Self::default()))
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u16 {
        DEVICE_ID
    }

    fn pci_class(&self) -> u32 {
        PCI_CLASS
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, _features: u64, rings: Vec<Option<Ring>>) -> Result<(), ActivateError> {
        self.ring = rings.into_iter().next().flatten();
        Ok(())
    }

    fn notify(&mut self, _queue: usize) {
        let Some(ring) = &mut self.ring else { return };
        // A ring's worth at a time, and no more than that twice, whatever the driver does meanwhile.
        for _ in 0..2 {
            for _ in 0..ring.size() {
                let Some(chain) = ring.pop_writable(&mut self.segments) else { break };
                let filled = if chain.good { fill(ring.memory(), &self.segments) } else { 0 };
                ring.push_used(chain.head, filled as u32);
            }
            if !ring.listen() {
                break;
            }
        }
        ring.interrupt();
    }

    fn reset(&mut self) {
        self.ring = None;
    }
}

/// Fills the buffers in order, up to the limit; returns the bytes written.
fn fill(memory: &GuestMemoryMmap, segments: &[Segment]) -> usize {
    let mut bytes = [0; REQUEST_LIMIT];
    let wanted = segments.iter().map(Segment::len).sum::<usize>().min(REQUEST_LIMIT);
    let random = random(&mut bytes[..wanted]);
    let mut done = 0;
    for segment in segments {
        done += segment.fragment_mut(memory).copy_from(0, &random[done..]);
    }
    done
}

/// As many random bytes as the host gives without waiting.
fn random(bytes: &mut [u8]) -> &[u8] {
    // SAFETY: the buffer is `bytes.len()` bytes long.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), libc::GRND_NONBLOCK) };
    &bytes[..usize::try_from(count).unwrap_or(0)]
}
