//! What stands around a frame in its datagram: a prefix of fixed length, and addresses.
//!
//! An [`Envelope`] is what one kind of link knows and the socket does not: it writes the prefix of each frame and says
//! where the frame goes, and reads the prefix of each datagram and says whether it is welcome. It does no I/O.
//!
//! Neighbours: [`super::FrameSocket`] calls it; `vde` has [`Vnet`], `udp` has [`Bare`], `mcast`, `dgram` and the tunnels
//! in `plug` have their own.

use std::net::SocketAddr;
use std::slice;

use socket2::SockAddr;

use crate::{DropReason, FragmentMut, Frame, Offloads, VnetHeader};

/// The longest prefix, in bytes.
pub const MAX_PREFIX: usize = 96;
/// The most destinations of one frame.
pub const MAX_DESTINATIONS: usize = super::BATCH;

/// A kind's way to put a frame into a datagram, and to take one out.
pub trait Envelope: Send + 'static {
    /// Whether each datagram has a source and a destination of its own; otherwise the socket is connected.
    const HAS_ADDRESSES: bool = false;
    /// Whether a datagram without a byte counts as a runt; otherwise it is passed over.
    const COUNTS_EMPTY: bool = true;
    /// Whether what a full receiver does not take is lost at once: where nothing would tell of room (`AF_UNIX`, not
    /// connected).
    const LOSES_WHEN_FULL: bool = false;

    /// Bytes in front of a frame that is sent: at most [`MAX_PREFIX`], and always the same.
    fn tx_len(&self) -> usize;

    /// Bytes in front of a frame that is received: at most [`MAX_PREFIX`], and always the same.
    fn rx_len(&self) -> usize {
        self.tx_len()
    }

    /// What the far end receives unfinished.
    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    /// Frames are about to be sent or received: for kinds that need to know what time it is.
    fn begin(&mut self) {}

    /// Writes the prefix of a frame, `tx_len` bytes, and says where it goes. A frame that the socket did not take, or that
    /// has several destinations, may be sealed once more.
    ///
    /// # Errors
    /// Why the frame is dropped.
    fn seal(&mut self, frame: &Frame<'_>, prefix: &mut [u8]) -> Result<To<'_>, DropReason>;

    /// Reads the prefix of a datagram that is no shorter than it. None passes over a datagram in silence, as one of our
    /// own that has come back.
    ///
    /// # Errors
    /// Why the datagram is dropped.
    fn open(&mut self, datagram: &Received<'_>) -> Result<Option<VnetHeader>, DropReason>;
}

/// Where a frame goes.
pub enum To<'a> {
    /// To whom the socket is connected.
    Peer,
    /// To each of these, [`MAX_DESTINATIONS`] at most. An envelope that says so has addresses.
    Each(&'a [SockAddr]),
}

impl<'a> To<'a> {
    /// To one.
    #[must_use]
    pub fn one(address: &'a SockAddr) -> Self {
        Self::Each(slice::from_ref(address))
    }
}

/// A datagram that has come in.
pub struct Received<'a> {
    /// Its first bytes, as many as the envelope asked for.
    pub prefix: &'a [u8],
    /// Who sent it; none if the socket is connected, or that is no Internet address.
    pub from: Option<SocketAddr>,
    pub(super) slot: &'a [FragmentMut<'a>],
    pub(super) len: usize,
}

impl Received<'_> {
    /// Bytes behind the prefix.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.len
    }

    /// The first bytes behind the prefix; none if there are fewer.
    #[must_use]
    pub fn head<const N: usize>(&self) -> Option<[u8; N]> {
        let mut head = [0; N];
        let mut done = 0;
        for fragment in self.slot {
            done += fragment.as_fragment().copy_to(head.get_mut(done..).unwrap_or_default());
        }
        (self.len >= N && done == N).then_some(head)
    }
}

/// Frames of a connected socket, each behind a [`VnetHeader`] if both sides have agreed on one.
pub struct Vnet {
    peer_receives: Option<Offloads>,
}

impl Vnet {
    /// `peer_receives` is what the far end receives behind a header; none if frames travel without one.
    #[must_use]
    pub fn new(peer_receives: Option<Offloads>) -> Self {
        Self { peer_receives }
    }

    /// Whether each datagram begins with a [`VnetHeader`].
    #[must_use]
    pub fn has_header(&self) -> bool {
        self.peer_receives.is_some()
    }
}

impl Envelope for Vnet {
    /// A zero-length datagram is no frame of anybody's: VDE's programs may send one to look whether the socket is there.
    const COUNTS_EMPTY: bool = false;

    fn tx_len(&self) -> usize {
        if self.has_header() { VnetHeader::LEN } else { 0 }
    }

    fn offloads(&self) -> Offloads {
        self.peer_receives.unwrap_or(Offloads::NONE)
    }

    fn seal(&mut self, frame: &Frame<'_>, prefix: &mut [u8]) -> Result<To<'_>, DropReason> {
        if let Some(header) = prefix.first_chunk_mut() {
            *header = frame.header.to_bytes();
        }
        Ok(To::Peer)
    }

    fn open(&mut self, datagram: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        datagram.prefix.first_chunk().map_or(Ok(VnetHeader::WHOLE), VnetHeader::parse).map(Some)
    }
}

/// Whole frames of a connected socket, and nothing else.
pub struct Bare;

impl Envelope for Bare {
    fn tx_len(&self) -> usize {
        0
    }

    fn seal(&mut self, _: &Frame<'_>, _: &mut [u8]) -> Result<To<'_>, DropReason> {
        Ok(To::Peer)
    }

    fn open(&mut self, _: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        Ok(Some(VnetHeader::WHOLE))
    }
}
