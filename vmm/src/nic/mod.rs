//! Network cards: what a guest's driver sees of a link.
//!
//! A card is a model (registers, rings: one file each) and an attachment (the thread that moves frames between the rings
//! and the link: written once). A model that was never heard of before is one more file that implements [`NicQueues`] and
//! [`Carrier`] and starts an [`attachment`]. Invariant: only the attachment calls the link, and only the model touches
//! guest memory; between them go batches of fragments.
//!
//! | file | what it holds |
//! |---|---|
//! | `attachment` | the pump: one thread, one event loop, backpressure |
//! | `virtio_net` | the virtio network card (virtio 1.2 §5.1) |

pub mod attachment;
mod virtio_net;

#[cfg(test)]
mod attachment_test;
#[cfg(test)]
mod fuzz_test;
#[cfg(test)]
mod virtio_net_test;

pub use attachment::{NicCounters, NicHandle};
pub use virtio_net::VirtioNet;

use std::io;

use link::{DropCounts, LinkState, MacAddr, Offloads, RxBatch, TxBatch, VnetHeader};

use crate::{pci, virtio};

/// What a network card is made from.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// What messages call it: `net0`.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// The MTU to advertise to the guest, 68 to 65535; none advertises the link's if that is not 1500.
    pub mtu: Option<u16>,
    /// Its slot on the bus, 1 to 31; none takes the lowest that is free.
    pub slot: Option<u8>,
}

/// A network card that could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has no place on the bus.
    #[error("nic {name}: {source}")]
    Pci {
        /// The card's name.
        name: String,
        /// Why.
        source: pci::Error,
    },
    /// The transport could not be put together.
    #[error("nic {name}: {source}")]
    Virtio {
        /// The card's name.
        name: String,
        /// Why.
        source: virtio::Error,
    },
    /// The host lacks something ordinary.
    #[error("nic {name}: {act}: {}", link::reason(.source))]
    Host {
        /// The card's name.
        name: String,
        /// What was wanted, in words.
        act: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// The guest's side of an attachment, while its driver is ready: the rings of a model. Lives in the pump's thread.
///
/// Transmit: [`gather`](Self::gather), then the link, then [`transmitted`](Self::transmitted). Receive:
/// [`offer`](Self::offer), then the link, then [`received`](Self::received). A model counts what it drops itself, and what
/// is wrong with its rings is its own affair: it then has nothing to transmit and no buffers.
pub trait NicQueues: Send {
    /// What the driver takes in the frames it receives, negotiated. Asked once, at the start.
    fn accepts(&self) -> Offloads;

    /// Adds to the empty `batch` the frames that the guest wants to transmit, a limited number of them: first those that
    /// were gathered before and not yet taken.
    fn gather<'a>(&'a mut self, batch: &mut TxBatch<'a>, drops: &mut DropCounts);

    /// The link took the first `frames` of those gathered last; their buffers go back to the guest.
    fn transmitted(&mut self, frames: usize);

    /// There was nothing to gather: the guest is to ring the transmit doorbell from now on. Returns whether there is
    /// something already.
    fn rearm_transmit(&mut self) -> bool;

    /// Adds to the empty `batch` slots in the guest's memory, a limited number of them.
    fn offer<'a>(&'a mut self, batch: &mut RxBatch<'a>, drops: &mut DropCounts);

    /// The link filled the first slots of those offered last: for each its header, and its length in bytes.
    fn received(&mut self, frames: &[(VnetHeader, usize)], drops: &mut DropCounts);

    /// There was nothing to offer: the guest is to ring the receive doorbell from now on. Returns whether there are
    /// buffers already.
    fn rearm_receive(&mut self) -> bool;

    /// The end of a batch: interrupts the guest for everything that was given back to it, if it wants to know.
    fn interrupt(&mut self);
}

/// What a model shows its guest of the link, whether or not a driver is ready. Called in the pump's thread.
pub trait Carrier: Send + Sync {
    /// The carrier has come or gone.
    fn carrier(&self, state: LinkState);
}
