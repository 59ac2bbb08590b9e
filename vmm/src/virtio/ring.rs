//! One split virtqueue (virtio 1.2 §2.7), worked by the device against a driver that may be hostile.
//!
//! # Theory of operation
//! The available side is the virtio-queue crate's. Chains come out of [`Ring::pop`] as host memory ranges, each checked to
//! lie in guest RAM; what cannot be mapped makes the chain *bad*, which its owner counts and gives back with length 0. A
//! contradiction in the ring itself makes the ring *broken*: it is said once, the driver is told to reset the device, and
//! the ring yields nothing any more.
//!
//! The used side is ours, because the crate shows each used buffer to the driver at once, and the buffers of one merged
//! frame must appear together (§5.1.6.3.2): [`Ring::push_used`] writes entries, [`Ring::publish`] shows them.
//!
//! Legal moves: working → broken, at a fault; there is no way back but a new ring after a reset. Every descriptor is read
//! from guest memory once. Neighbours: `transport.rs` makes rings at DRIVER_OK, `nic/virtio_net.rs` and `rng.rs` work them.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use link::{Fragment, FragmentMut};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::Interrupts;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.6).
const NO_INTERRUPT: u16 = 1;
/// Descriptors in one chain, and pieces that they may fall into at the seams of RAM. Linux's `IOV_MAX`.
const MAX_SEGMENTS: usize = 1024;

/// What is wrong with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Not a power of two, or more than the device allows.
    #[error("a ring of {0} entries")]
    Size(u16),
    /// Descriptor table, driver area or device area are misaligned or not in guest memory (§2.7).
    #[error("a ring outside guest memory, or misaligned, at {0:#x}")]
    Address(u64),
    /// The available index ran ahead by more than the ring holds.
    #[error("the available index is beyond the ring")]
    Index,
    /// An available entry names a descriptor that does not exist.
    #[error("descriptor {0} does not exist")]
    Head(u16),
}

/// Where the driver put a ring, and how large it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Entries, a power of two.
    pub size: u16,
    /// Guest-physical address of the descriptor table, aligned to 16.
    pub descriptors: u64,
    /// Guest-physical address of the driver area (available ring), aligned to 2.
    pub driver: u64,
    /// Guest-physical address of the device area (used ring), aligned to 4.
    pub device: u64,
}

/// Host memory that one descriptor, or a part of it, maps to.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pointer: *mut u8,
    len: usize,
}

// SAFETY: the pointer goes into guest RAM, which any thread may access as volatile bytes; who holds segments also holds
// the memory they came from (see `Ring::memory`).
unsafe impl Send for Segment {}

impl Segment {
    /// Length in bytes, not 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte; segments of a chain never are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part from `offset` on; empty if there is none.
    #[must_use]
    pub fn skip(self, offset: usize) -> Self {
        let offset = offset.min(self.len);
        Self { pointer: self.pointer.wrapping_add(offset), len: self.len - offset }
    }

    /// As a readable fragment. `memory` is the memory of the ring that it was popped from, and keeps it mapped.
    #[must_use]
    pub fn fragment<'a>(&self, _memory: &'a GuestMemoryMmap) -> Fragment<'a> {
        // SAFETY: the range was checked to lie in a region of the ring's memory when it was popped. Clones of that memory
        // share its regions, which are neither unmapped nor moved while one of them lives.
        unsafe { Fragment::from_raw(self.pointer, self.len) }
    }

    /// As a writable fragment, likewise.
    #[must_use]
    pub fn fragment_mut<'a>(&self, _memory: &'a GuestMemoryMmap) -> FragmentMut<'a> {
        // SAFETY: as above; guest RAM is never covered by a Rust reference.
        unsafe { FragmentMut::from_raw(self.pointer, self.len) }
    }
}

/// A descriptor chain taken from a ring. Its buffers are in the vector given to [`Ring::pop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The number to give back to [`Ring::push_used`].
    pub head: u16,
    /// Bytes in all of its buffers.
    pub len: usize,
    /// Whether it can be used. A bad chain has no buffers: a descriptor points outside guest memory or runs the other way,
    /// the chain loops, is longer than the ring (§2.7.5.3.1), or has none.
    pub good: bool,
}

/// Which way the buffers of a queue run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    DriverToDevice,
    DeviceToDriver,
}

/// A live virtqueue. Held by one thread.
pub struct Ring {
    queue: Queue,
    memory: GuestMemoryMmap,
    interrupts: Arc<Interrupts>,
    index: usize,
    event_idx: bool,
    layout: Layout,
    /// Entries written and not shown to the driver yet.
    unpublished: u16,
    /// The used index at the last decision about an interrupt.
    decided_at: u16,
    broken: bool,
}

impl Ring {
    /// A ring as the driver set it up: queue `index` of the device that `interrupts` speaks for.
    ///
    /// # Errors
    /// A size or an address that §2.7 forbids, or memory that the guest does not have.
    pub fn new(
        memory: &GuestMemoryMmap,
        interrupts: &Arc<Interrupts>,
        index: usize,
        layout: Layout,
        event_idx: bool,
    ) -> Result<Self, RingError> {
        let Layout { size, descriptors, driver, device } = layout;
        let mut queue = Queue::new(size).map_err(|_| RingError::Size(size))?;
        check_area(memory, descriptors, 16, 16 * usize::from(size))?;
        check_area(memory, driver, 2, 6 + 2 * usize::from(size))?;
        check_area(memory, device, 4, 6 + 8 * usize::from(size))?;
        let set = |done: Result<(), virtio_queue::Error>, address| done.map_err(|_| RingError::Address(address));
        set(queue.try_set_desc_table_address(GuestAddress(descriptors)), descriptors)?;
        set(queue.try_set_avail_ring_address(GuestAddress(driver)), driver)?;
        set(queue.try_set_used_ring_address(GuestAddress(device)), device)?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(Self {
            queue,
            memory: memory.clone(),
            interrupts: Arc::clone(interrupts),
            index,
            event_idx,
            layout,
            unpublished: 0,
            decided_at: 0,
            broken: false,
        })
    }

    /// The memory that segments of this ring point into.
    #[must_use]
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Whether the device may work at all: it is allowed to master the bus, and the ring is not broken.
    #[must_use]
    pub fn is_working(&self) -> bool {
        !self.broken && self.interrupts.bus_master()
    }

    /// The next chain of buffers for the device to read; they are put into `segments`.
    pub fn pop_readable(&mut self, segments: &mut Vec<Segment>) -> Option<Chain> {
        self.pop(segments, Direction::DriverToDevice)
    }

    /// The next chain of buffers for the device to write.
    pub fn pop_writable(&mut self, segments: &mut Vec<Segment>) -> Option<Chain> {
        self.pop(segments, Direction::DeviceToDriver)
    }

    /// Gives a chain back with `len` bytes written into it. The driver sees it after [`Ring::publish`].
    pub fn push_used(&mut self, head: u16, len: u32) {
        let slot = self.queue.next_used().wrapping_add(self.unpublished) % self.layout.size;
        let entry = u64::from(head) | u64::from(len) << 32;
        self.store_entry(slot, entry);
        self.unpublished += 1;
        if self.unpublished >= self.layout.size {
            self.publish();
        }
    }

    /// Shows the driver every chain given back so far, at once.
    pub fn publish(&mut self) {
        if self.unpublished == 0 {
            return;
        }
        let used = self.queue.next_used().wrapping_add(self.unpublished);
        self.unpublished = 0;
        self.queue.set_next_used(used);
        let stored = self.memory.store(used.to_le(), GuestAddress(self.layout.device + 2), Ordering::Release);
        if stored.is_err() {
            self.fail(RingError::Address(self.layout.device));
        }
    }

    /// Publishes, and interrupts the driver if it asked to know (§2.7.7.2).
    pub fn interrupt(&mut self) {
        self.publish();
        if self.decided_at != self.queue.next_used() && self.driver_wants_interrupt() {
            self.interrupts.queue(self.index);
        }
        self.decided_at = self.queue.next_used();
    }

    /// Asks the driver not to notify, while the device looks by itself (§2.7.10).
    pub fn silence(&mut self) {
        if !self.broken && self.queue.disable_notification(&self.memory).is_err() {
            self.fail(RingError::Address(self.layout.device));
        }
    }

    /// Asks the driver to notify at the next chain. Returns whether there is one already, which it will not notify of.
    pub fn listen(&mut self) -> bool {
        if self.broken {
            return false;
        }
        match self.queue.enable_notification(&self.memory) {
            Ok(more) => more,
            Err(_) => {
                self.fail(RingError::Address(self.layout.device));
                false
            }
        }
    }

    fn pop(&mut self, segments: &mut Vec<Segment>, direction: Direction) -> Option<Chain> {
        segments.clear();
        if !self.is_working() {
            return None;
        }
        let size = self.layout.size;
        let mut chains = match self.queue.iter(&self.memory) {
            Ok(chains) => chains,
            Err(_) => {
                self.fail(RingError::Index);
                return None;
            }
        };
        let mut descriptors = chains.next()?;
        let head = descriptors.head_index();
        if head >= size {
            self.fail(RingError::Head(head));
            return None;
        }
        let len = collect(&self.memory, &mut descriptors, size, direction, segments);
        if len.is_none() {
            segments.clear();
        }
        Some(Chain { head, len: len.unwrap_or(0), good: len.is_some() })
    }

    fn driver_wants_interrupt(&mut self) -> bool {
        // The used index must be visible before the driver's wish is read, or both sides may go to sleep.
        fence(Ordering::SeqCst);
        let size = u64::from(self.layout.size);
        let wish = if self.event_idx { 4 + 2 * size } else { 0 };
        let Ok(wish) = self.memory.load::<u16>(GuestAddress(self.layout.driver + wish), Ordering::Relaxed) else {
            self.fail(RingError::Address(self.layout.driver));
            return false;
        };
        let wish = u16::from_le(wish);
        if !self.event_idx {
            return wish & NO_INTERRUPT == 0;
        }
        let used = self.queue.next_used();
        used.wrapping_sub(wish).wrapping_sub(1) < used.wrapping_sub(self.decided_at)
    }

    fn store_entry(&mut self, slot: u16, entry: u64) {
        let address = GuestAddress(self.layout.device + 4 + 8 * u64::from(slot));
        if self.memory.write_obj(entry.to_le(), address).is_err() {
            self.fail(RingError::Address(self.layout.device));
        }
    }

    fn fail(&mut self, error: RingError) {
        if !self.broken {
            self.broken = true;
            self.interrupts.need_reset(&format_args!("queue {}: {error}", self.index));
        }
    }
}

/// Collects a chain's buffers and returns their length in bytes, or nothing if the chain is bad.
fn collect(
    memory: &GuestMemoryMmap,
    descriptors: &mut impl Iterator<Item = virtio_queue::desc::split::Descriptor>,
    limit: u16,
    direction: Direction,
    segments: &mut Vec<Segment>,
) -> Option<usize> {
    let mut len = 0;
    let mut count = 0;
    // The crate ends an iteration early at whatever it dislikes; then the last descriptor still points on.
    let mut complete = false;
    for descriptor in descriptors {
        count += 1;
        if count > limit || descriptor.is_write_only() != (direction == Direction::DeviceToDriver) {
            return None;
        }
        len += map(memory, descriptor.addr(), descriptor.len() as usize, segments)?;
        complete = !descriptor.has_next();
    }
    complete.then_some(len)
}

/// Maps one buffer, which may cross from one region of RAM into the next, but not lie outside.
fn map(memory: &GuestMemoryMmap, address: GuestAddress, len: usize, segments: &mut Vec<Segment>) -> Option<usize> {
    for slice in memory.get_slices(address, len) {
        let slice = slice.ok()?;
        if segments.len() >= MAX_SEGMENTS {
            return None;
        }
        segments.push(Segment { pointer: slice.ptr_guard_mut().as_ptr(), len: slice.len() });
    }
    Some(len)
}

fn check_area(memory: &GuestMemoryMmap, address: u64, align: u64, len: usize) -> Result<(), RingError> {
    let start = GuestAddress(address);
    let inside = start.checked_add(len as u64).is_some() && memory.check_range(start, len);
    if inside && address.is_multiple_of(align) { Ok(()) } else { Err(RingError::Address(address)) }
}
