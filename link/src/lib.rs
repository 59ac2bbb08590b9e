//! The link: one noun for everything that carries Ethernet frames.
//!
//! A guest's network card, a switch port and a cable are each an *owner* of a [`Link`]; a TAP, the user-mode NAT, a
//! switch or a capture file is what the link is made of. Neither knows the other.
//!
//! A frame travels as a [`VnetHeader`] (checksum and segmentation still to be done) and a list of memory fragments, in
//! batches, so that a guest's descriptors reach `writev` without a copy. What a link cannot take, [`soft`] does in
//! software, and nothing else touches those bits.
//!
//! | file | what it holds |
//! |---|---|
//! | `frame` | header, fragments, batches: how a frame is handed over |
//! | `counters` | what a link has carried, and what it dropped and why |
//! | `locator` | the grammar that names a link on every command line |
//! | `null` `pair` `tap` `vde` | the plain kinds, one file each; `vde` with the formats that a switch needs too |
//! | `stream` | frames over byte streams: the framings, and `stream://` and `listen://` |
//! | `datagram` | frames over datagram sockets: what `vde`, `udp`, `dgram`, `mcast` and tunnels have in common |
//! | `udp` `dgram` `mcast` | one bare frame a datagram: between two addresses, two socket files, or to a group |
//! | `outer` | addresses, sockets and sizes of what carries frames over UDP and IP |
//! | `socket_file` | sockets that others connect to, and their files |
//! | `interface_watch` | word of the kernel that an interface went up or down |
//! | `pcap` `soft` | links around another link: a capture, and offloads in software |

mod counters;
pub mod datagram;
mod dgram;
pub mod event;
mod frame;
mod interface_watch;
mod locator;
mod mac;
mod mcast;
mod null;
pub mod outer;
mod pair;
mod pcap;
mod reason;
pub mod socket_file;
pub mod soft;
pub mod stream;
mod tap;
#[cfg(test)]
mod testing;
mod udp;
pub mod vde;

pub use counters::{Counters, DropCounts, DropReason};
pub use dgram::{DgramConfig, Files};
pub use frame::{Checksum, Fragment, FragmentMut, Frame, GsoType, OwnedFrame, RxBatch, RxSlot, TxBatch, VnetHeader};
pub use interface_watch::InterfaceWatch;
pub use locator::{Locator, LocatorError, Options};
pub use mac::MacAddr;
pub use mcast::{Mcast, McastConfig};
pub use null::Null;
pub use outer::DatagramError;
pub use pair::{PairEnd, pair};
pub use pcap::{Pcap, PcapConfig, PcapError, Resolution};
pub use reason::reason;
pub use soft::Soft;
pub use stream::{StreamConfig, StreamError, StreamSocket};
pub use tap::{Tap, TapError};
pub use udp::UdpConfig;
pub use vde::{Vde, VdeConfig, VdeError};

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::{Registry, Token};

/// Bytes of an untagged Ethernet header (IEEE 802.3 clause 3): two addresses and the EtherType.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// The longest frame that can cross a link: a 65,535-byte IP packet behind an Ethernet header with two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65535 + ETHERNET_HEADER_LEN + 8;

/// The MTU of a link that was not told otherwise, in bytes of payload behind the Ethernet header.
pub const DEFAULT_MTU: u16 = 1500;

/// What one end can leave undone in a frame because the other end will see to it.
///
/// Each flag permits the matching field of [`VnetHeader`] (virtio 1.2 §5.1.6): a link's [`Capabilities`] say what may be
/// sent into it, [`Link::accept`] tells it what may come out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums (`VIRTIO_NET_HDR_F_NEEDS_CSUM`). Every other flag depends on it.
    pub checksum: bool,
    /// TCP over IPv4 longer than the MTU, to be cut at `gso_size`.
    pub tso4: bool,
    /// TCP over IPv6 longer than the MTU.
    pub tso6: bool,
    /// UDP longer than the MTU, to be cut into datagrams of `gso_size` (Linux `UDP_SEGMENT`).
    pub uso: bool,
}

impl Offloads {
    /// Whole frames only: checksums filled in, nothing longer than the MTU.
    pub const NONE: Self = Self { checksum: false, tso4: false, tso6: false, uso: false };

    /// Everything this crate knows of.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, uso: true };

    /// What both sides can do.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self {
            checksum: self.checksum && other.checksum,
            tso4: self.tso4 && other.tso4,
            tso6: self.tso6 && other.tso6,
            uso: self.uso && other.uso,
        }
    }

    /// Whether a frame with this header may cross as it is.
    #[must_use]
    pub fn permit(self, header: &VnetHeader) -> bool {
        let gso = match header.gso_type {
            GsoType::None => true,
            GsoType::TcpV4 => self.tso4,
            GsoType::TcpV6 => self.tso6,
            GsoType::Udp => self.uso,
        };
        gso && (self.checksum || !header.needs_checksum())
    }

    /// Whether any kind of segmentation is left to the other side, so that frames may exceed the MTU.
    #[must_use]
    pub fn any_segmentation(self) -> bool {
        self.tso4 || self.tso6 || self.uso
    }
}

/// What may be sent into a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What the sender may leave undone.
    pub offloads: Offloads,
    /// The largest payload behind the Ethernet header, in bytes, of a frame that is not to be segmented.
    pub mtu: u16,
}

impl Capabilities {
    /// No offloads, 1500 bytes.
    pub const PLAIN: Self = Self { offloads: Offloads::NONE, mtu: DEFAULT_MTU };
}

/// Whether frames can pass, as a network card shows it to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Carrier.
    Up,
    /// No carrier: the cable is out, or the far end is away for now.
    Down,
}

/// One end of something that carries Ethernet frames.
///
/// The owner drives a link from one thread: it registers the link with its event loop, and when the loop reports the
/// link's token, or [`Link::deadline`] has passed, it calls [`Link::service`] once and then [`Link::receive`] until that
/// returns 0. Nothing here ever blocks.
pub trait Link: Send {
    /// The locator this link was opened from: the object of every message about it.
    fn name(&self) -> &str;

    /// What may be sent into this link now. Fixed between two calls of [`Link::service`].
    fn capabilities(&self) -> Capabilities;

    /// What of that the link passes on as it is; a wrapper does the rest in software.
    fn native_offloads(&self) -> Offloads {
        self.capabilities().offloads
    }

    /// Tells the link what its owner takes out of [`Link::receive`]. Called before the first `receive`, and again when
    /// it changes (a guest driver negotiates). A link that cannot honour it stands inside [`soft`], which can.
    ///
    /// # Errors
    /// The operating system refused the setting; the link then keeps delivering whole frames.
    fn accept(&mut self, offloads: Offloads) -> io::Result<()>;

    /// Makes readiness of this link appear under `token`. Called once, before any other method that does I/O.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()>;

    /// Asks that readiness to receive be told as long as it lasts (level-triggered), and no other readiness. For an owner
    /// that never waits for room: it need not look for more after each lone frame, since more will be told. Called after
    /// [`Link::register`], with the same token; returns whether the link does so.
    ///
    /// # Errors
    /// The link is not registered.
    fn tell_while_ready(&mut self, _registry: &Registry, _token: Token) -> io::Result<bool> {
        Ok(false)
    }

    /// Undoes [`Link::register`], so that the link can move to another owner.
    ///
    /// # Errors
    /// The descriptor was not registered.
    fn deregister(&mut self, registry: &Registry) -> io::Result<()>;

    /// Does the link's own work (timers, host sockets): called on every readiness and every passed deadline.
    ///
    /// # Errors
    /// The link is beyond repair; its owner treats it as gone.
    fn service(&mut self, _now: Instant) -> io::Result<()> {
        Ok(())
    }

    /// When [`Link::service`] must be called even if nothing becomes ready; a moment that has passed means at once. Asking
    /// does not move it: an owner compares it with the time at which its turn began.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Sends frames, in order, and returns how many the link took: those it sent and those it dropped and counted.
    ///
    /// A number smaller than the batch means that the link is full. The owner then either drops the rest and counts it
    /// as [`DropReason::LinkFull`], or waits for the link's readiness and sends the rest again.
    ///
    /// # Errors
    /// The link is beyond repair.
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize>;

    /// Whether taking frames may make others to be received, without a readiness that tells: the owner of such a link
    /// receives after each [`Link::send`].
    fn answers(&self) -> bool {
        false
    }

    /// Receives frames into the slots of `batch`, from its first slot on, and returns how many slots it filled.
    ///
    /// Fewer than the batch has slots means that nothing more is there: readiness will tell. A frame that does not fit
    /// its slot is dropped and counted as [`DropReason::Oversized`], never cut.
    ///
    /// # Errors
    /// The link is beyond repair.
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize>;

    /// Carrier, as the far end has it. Fixed between two calls of [`Link::service`], [`Link::send`] or
    /// [`Link::look_again`].
    fn state(&self) -> LinkState {
        LinkState::Up
    }

    /// Something outside may have changed the carrier without a readiness of this link's ([`InterfaceWatch`]): asks again.
    fn look_again(&mut self) {}

    /// The owner has no carrier to offer, or has it again: what it joins this link to is away. A link that ends in something
    /// with a carrier of its own shows it there.
    fn show_carrier(&mut self, _carrier: LinkState) {}

    /// How frames reach the far end now, where the name does not say: for who watches.
    fn way(&self) -> Option<Way> {
        None
    }

    /// What this link has carried and dropped since it was opened.
    fn counters(&self) -> Counters;
}

/// How frames reach the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// By what.
    pub name: &'static str,
    /// The far end's address, if it is known.
    pub peer: Option<SocketAddr>,
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }
    fn native_offloads(&self) -> Offloads {
        (**self).native_offloads()
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        (**self).accept(offloads)
    }
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        (**self).register(registry, token)
    }
    fn tell_while_ready(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        (**self).tell_while_ready(registry, token)
    }
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        (**self).deregister(registry)
    }
    fn service(&mut self, now: Instant) -> io::Result<()> {
        (**self).service(now)
    }
    fn deadline(&self) -> Option<Instant> {
        (**self).deadline()
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        (**self).send(batch)
    }
    fn answers(&self) -> bool {
        (**self).answers()
    }
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        (**self).receive(batch)
    }
    fn state(&self) -> LinkState {
        (**self).state()
    }
    fn look_again(&mut self) {
        (**self).look_again();
    }
    fn show_carrier(&mut self, carrier: LinkState) {
        (**self).show_carrier(carrier);
    }
    fn way(&self) -> Option<Way> {
        (**self).way()
    }
    fn counters(&self) -> Counters {
        (**self).counters()
    }
}
