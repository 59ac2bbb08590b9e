//! Virtio 1.2, modern devices only: the parts that every device shares.
//!
//! A device model implements [`VirtioDevice`]; [`VirtioPci`] puts it on the bus. A third device is one more file beside
//! `rng`. Invariant: a [`Ring`] belongs to exactly one thread at a time; it is handed over at DRIVER_OK and has stopped
//! touching guest memory when [`VirtioDevice::reset`] returns.
//!
//! | file | what it holds |
//! |---|---|
//! | `transport` | virtio over PCI (§4.1): registers, negotiation, doorbells |
//! | `interrupts` | what a device tells its driver unasked |
//! | `ring` | one split virtqueue (§2.7), against a hostile driver |
//! | `rng` | the entropy device (§5.4) |

mod interrupts;
mod ring;
mod rng;
mod transport;

#[cfg(test)]
pub(crate) mod fake_driver;
#[cfg(test)]
pub(crate) mod fake_hypervisor;
#[cfg(test)]
mod transport_test;

pub use interrupts::Interrupts;
pub use ring::{Chain, Layout, Ring, RingError, Segment};
pub use rng::Rng;
pub use transport::VirtioPci;

use std::sync::Arc;

use link::event::EventFd;

use crate::pci;

/// Feature bits of every device (virtio 1.2 §6).
pub mod feature {
    /// The driver may use indirect descriptors (§2.7.5.3).
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Both sides say at which index they want to be notified (§2.7.10).
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The device is a modern one; no other is made here.
    pub const VERSION_1: u64 = 1 << 32;
    /// What the transport and the rings bring along.
    pub const TRANSPORT: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// A virtio device that could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no place on the bus.
    #[error(transparent)]
    Pci(#[from] pci::Error),
    /// The process is out of file descriptors.
    #[error("{name}: no event descriptor: {}", link::reason(.source))]
    EventFd {
        /// What messages about the device begin with.
        name: String,
        /// The host's answer.
        source: std::io::Error,
    },
}

/// The driver is ready, and the device is not: it shows as DEVICE_NEEDS_RESET (§2.1).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ActivateError {
    /// A queue was set up where no memory is, or wrongly.
    #[error("queue {index}: {source}")]
    Queue {
        /// The queue's number.
        index: usize,
        /// What is wrong with it.
        source: RingError,
    },
    /// The thread that does the device's work has ended.
    #[error("the device has been stopped")]
    Stopped,
}

/// What a device model is to the transport. Every method is called on vcpu threads, one at a time.
pub trait VirtioDevice: Send {
    /// The device's number (§5): 1 is a network card, 4 an entropy source.
    fn device_id(&self) -> u16;

    /// PCI class code, 24 bits.
    fn pci_class(&self) -> u32;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The features it offers, without those of [`feature::TRANSPORT`].
    fn features(&self) -> u64;

    /// The driver loads from the device configuration (§2.5). `data` is zero on entry; what lies behind the last field
    /// stays so.
    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    /// The driver stores into the device configuration.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// The descriptor that a driver's notification of `queue` signals without leaving the hypervisor; none if the device
    /// does its work in [`VirtioDevice::notify`]. The same one at every call.
    fn doorbell(&self, _queue: usize) -> Option<Arc<EventFd>> {
        None
    }

    /// DRIVER_OK: the features negotiated, and a ring for each queue that the driver enabled.
    ///
    /// # Errors
    /// The device cannot work; the driver is told to reset it.
    fn activate(&mut self, features: u64, rings: Vec<Option<Ring>>) -> Result<(), ActivateError>;

    /// The driver notified a queue that has no doorbell. Called between `activate` and `reset` only.
    fn notify(&mut self, _queue: usize) {}

    /// The device is reset. On return its rings are gone and it touches guest memory no more.
    fn reset(&mut self);
}
