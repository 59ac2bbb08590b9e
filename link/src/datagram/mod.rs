//! Frames over sockets that keep boundaries: one frame a datagram, without FCS, behind a prefix that the kind of link
//! writes and reads ([`Envelope`]).
//!
//! | file | what it holds |
//! |---|---|
//! | `envelope` | what a kind knows of its datagrams: prefix, destinations, who is welcome |
//! | `link` | a link that is such a socket and nothing else |
//! | `vectors` | the arrays of one system call |
//!
//! Theory of operation. A batch is one `sendmmsg` or `recvmmsg` whose vectors are the owner's fragments: nothing is
//! copied but the prefixes. How many datagrams are asked for follows how many came the last time, so that a lone frame
//! does not pay for 64 vectors. A frame with several destinations is as many messages of the same vectors; it counts as
//! sent once if any of them left, and each that did not is a drop.
//!
//! Invariant: the socket never blocks, and what comes out of it is a frame: no shorter than an Ethernet header, no longer
//! than [`MAX_PLAIN_LEN`] unless its header has it segmented, uncut (`MSG_TRUNC`), with a prefix that its envelope takes.
//! Anything else is one counted drop. A flood of such datagrams does not hold the caller: after some hundred of them
//! `receive` returns, and [`FrameSocket::deadline`] asks for the next call.
//!
//! An error on such a socket says little about the far end: `ECONNREFUSED` may mean that it is about to be replaced. So
//! errors are counted and the socket stays; who knows better (`vde` has a control connection) says when the end has come.
//! Only the end of a `SOCK_SEQPACKET` connection, which the kernel reports, is an error.
//!
//! # How much may be under way
//!
//! A datagram occupies its sender's `SO_SNDBUF` until it is received, or has left the host. If both ends of an `AF_UNIX`
//! connection are connected to each other, that is the only limit; otherwise it is also `net.unix.max_dgram_qlen`
//! datagrams (10). Over the Internet, the receiver's `SO_RCVBUF` is the limit of a burst.
//!
//! Neighbours: `vde` and `vswitch::vde`, `udp`, `dgram`, `mcast`, and the tunnels in `plug`, which make such sockets.

mod envelope;
mod link;
mod vectors;

pub use envelope::{Bare, Envelope, MAX_DESTINATIONS, MAX_PREFIX, Received, To, Vnet};
pub use link::DatagramLink;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::{
    Capabilities, Counters, DropReason, ETHERNET_HEADER_LEN, Frame, GsoType, MAX_FRAME_LEN, Offloads, RxBatch, TxBatch,
    VnetHeader,
};
use vectors::{Vectors, receive_many, send_many};

/// The largest payload of a frame that is not to be segmented, in bytes.
pub const JUMBO_MTU: u16 = 9216;

/// The longest frame that is not to be segmented, in bytes: two VLAN tags are allowed for.
pub const MAX_PLAIN_LEN: usize = JUMBO_MTU as usize + ETHERNET_HEADER_LEN + 8;

/// What `SO_SNDBUF` and `SO_RCVBUF` are set to, in bytes; the kernel doubles it. So about 4 MiB are under way at most:
/// some 55 frames of 64 KiB, enough for the window of a TCP connection at 10 Gbit/s and 3 ms; some 1,800 of 1514 bytes,
/// less than 5 ms at 5 Gbit/s. It is also what a far end that never reads can make the kernel keep. Without
/// `CAP_NET_ADMIN` the limits are `net.core.wmem_max` and `net.core.rmem_max`.
const BUFFER: libc::c_int = 2 * 1024 * 1024;
/// Datagrams of one system call.
const BATCH: usize = 64;
/// Datagrams asked for at least.
const MIN_EXPECTED: usize = 4;
/// Datagrams that are no frames after which `receive` returns.
const MAX_BAD: usize = 256;

/// A socket that carries frames. Its methods are those of [`crate::Link`]; a link around it adds a name and knows when
/// the far end is gone.
pub struct FrameSocket<E: Envelope = Vnet> {
    fd: OwnedFd,
    is_seqpacket: bool,
    envelope: E,
    vectors: Vectors,
    /// Some copy of the frame that the vectors begin with, or are in the middle of, has left.
    has_left: bool,
    /// Datagrams to ask for.
    expected: usize,
    /// Since when there may be more to receive without a readiness that tells.
    unfinished: Option<Instant>,
    /// For owners that wait for room.
    room: Option<Room>,
    counters: Counters,
}

/// How to wait for room.
struct Room {
    registry: Registry,
    token: Token,
    is_awaited: bool,
}

impl FrameSocket {
    /// Takes over a connected, non-blocking socket and enlarges its buffers. If `peer_receives` is given, each datagram
    /// begins with a [`VnetHeader`], and this side receives every offload; both sides have to know that.
    #[must_use]
    pub fn new(fd: OwnedFd, peer_receives: Option<Offloads>) -> Self {
        Self::with_envelope(fd, Vnet::new(peer_receives))
    }

    /// Whether each datagram begins with a [`VnetHeader`].
    #[must_use]
    pub fn has_header(&self) -> bool {
        self.envelope.has_header()
    }
}

impl<E: Envelope> FrameSocket<E> {
    /// Takes over a non-blocking socket, connected unless the envelope has addresses, and enlarges its buffers.
    #[must_use]
    pub fn with_envelope(fd: OwnedFd, envelope: E) -> Self {
        set_buffer(fd.as_fd(), [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF]);
        set_buffer(fd.as_fd(), [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF]);
        let is_seqpacket = socket_type(fd.as_fd()) == Some(libc::SOCK_SEQPACKET);
        let vectors = Vectors::new(envelope.tx_len().max(envelope.rx_len()).min(MAX_PREFIX));
        Self {
            fd,
            is_seqpacket,
            envelope,
            vectors,
            has_left: false,
            expected: MIN_EXPECTED,
            unfinished: None,
            room: None,
            counters: Counters::default(),
        }
    }

    /// What may be sent.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: self.envelope.offloads(), mtu: JUMBO_MTU }
    }

    /// As [`crate::Link::accept`]. The far end was told once and for all that everything is received, or sends whole
    /// frames only. An owner that accepts some segmentation has room for the long frames of another kind, and
    /// [`crate::Soft`] cuts them.
    ///
    /// # Errors
    /// The owner accepts no segmentation, and the far end may segment: its frames need another's buffers first.
    pub fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if self.envelope.offloads() != Offloads::NONE && !offloads.any_segmentation() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the far end was told that all are received"));
        }
        Ok(())
    }

    /// Makes readiness appear under `token`: for reading, and if `waits_for_room` also for writing, but only after a
    /// `send` that found the socket full. (Otherwise each datagram that the far end takes would wake the owner.)
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub fn register(&mut self, registry: &Registry, token: Token, waits_for_room: bool) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE)?;
        if waits_for_room {
            self.room = Some(Room { registry: registry.try_clone()?, token, is_awaited: false });
        }
        Ok(())
    }

    /// Undoes [`FrameSocket::register`].
    ///
    /// # Errors
    /// The descriptor was not registered.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.room = None;
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    /// Waits for room from now on, or no longer. If there is room already, readiness follows all the same.
    fn await_room(&mut self, is_full: bool) -> io::Result<()> {
        let Some(room) = self.room.as_mut().filter(|room| room.is_awaited != is_full) else { return Ok(()) };
        let interest = if is_full { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        room.registry.reregister(&mut SourceFd(&self.fd.as_raw_fd()), room.token, interest)?;
        room.is_awaited = is_full;
        Ok(())
    }

    /// As [`crate::Link::deadline`]: at once, if the last `receive` gave up before the socket was empty.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.unfinished
    }

    /// As [`crate::Link::send`].
    ///
    /// # Errors
    /// The descriptor is no socket.
    pub fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let taken = self.send_frames(batch)?;
        self.await_room(taken < batch.len())?;
        Ok(taken)
    }

    fn send_frames(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.envelope.begin();
        let mut frames = batch.frames();
        let mut next = frames.next();
        let mut taken = 0;
        loop {
            self.vectors.clear();
            let mut queued = 0;
            let mut misfit = None;
            while let Some(frame) = next
                && misfit.is_none()
            {
                match self.queue(&frame) {
                    Ok(true) => queued += 1,
                    Ok(false) => break,
                    Err(reason) => misfit = Some(reason),
                }
                next = frames.next();
            }
            let sent = self.send_vectors()?;
            taken += sent;
            if sent < queued {
                return Ok(taken);
            }
            if let Some(reason) = misfit {
                self.counters.drops.count(reason);
                taken += 1;
            }
            if next.is_none() {
                return Ok(taken);
            }
        }
    }

    /// Puts a frame into the vectors; returns whether there was room for all its messages.
    fn queue(&mut self, frame: &Frame<'_>) -> Result<bool, DropReason> {
        if self.vectors.len() == BATCH {
            return Ok(false);
        }
        check(&frame.header, frame.len())?;
        if !self.envelope.offloads().permit(&frame.header) {
            return Err(DropReason::BadOffload);
        }
        let mut prefix = [0; MAX_PREFIX];
        let len = self.envelope.tx_len();
        let prefix = prefix.get_mut(..len).ok_or(DropReason::Limit)?;
        match self.envelope.seal(frame, prefix)? {
            To::Peer => self.vectors.push_frame(frame, prefix, None, true),
            To::Each([]) => return Err(DropReason::LinkDown),
            To::Each(several) if several.len() > BATCH => return Err(DropReason::Limit),
            To::Each(several) if self.vectors.len() + several.len() > BATCH => return Ok(false),
            To::Each([others @ .., last]) => {
                for other in others {
                    self.vectors.push_frame(frame, prefix, Some(other), false);
                }
                self.vectors.push_frame(frame, prefix, Some(last), true);
            }
        }
        Ok(true)
    }

    /// As [`crate::Link::receive`].
    ///
    /// # Errors
    /// A `SOCK_SEQPACKET` connection has ended, or the descriptor is no socket.
    pub fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.envelope.begin();
        let before = batch.filled();
        let mut bad = 0;
        self.unfinished = None;
        loop {
            let wanted = self.expected.min(batch.len() - batch.filled());
            if wanted == 0 {
                break;
            }
            self.vectors.clear();
            for slot in batch.free_slots().take(wanted) {
                self.vectors.push_slot(slot, self.envelope.rx_len(), E::HAS_ADDRESSES);
            }
            let received = match receive_many(self.fd.as_fd(), self.vectors.messages()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_fatal(&error) => return Err(error),
                // A frame that was sent and refused; it is taken off the socket by being reported.
                Err(error) => {
                    self.counters.drops.count(drop_reason(&error));
                    bad += 1;
                    if bad < MAX_BAD { continue } else { break }
                }
            };
            let filled = batch.filled();
            self.take(batch, received)?;
            bad += received - (batch.filled() - filled);
            let likely = (received * 2).clamp(MIN_EXPECTED, BATCH);
            if received < wanted {
                self.expected = likely;
                break;
            }
            self.expected = self.expected.max(likely);
            if bad >= MAX_BAD {
                self.unfinished = Some(Instant::now());
                break;
            }
        }
        Ok(batch.filled() - before)
    }

    /// What this socket has carried and dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Sends what the vectors hold; returns how many frames were sent, or dropped and counted.
    fn send_vectors(&mut self) -> io::Result<usize> {
        let (mut done, mut frames) = (0, 0);
        self.has_left = false;
        while let Some(rest) = self.vectors.messages().get_mut(done..).filter(|rest| !rest.is_empty()) {
            match send_many(self.fd.as_fd(), rest) {
                Ok(sent) => {
                    for index in done..done + sent {
                        frames += self.finish_copy(index, None);
                    }
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // The rest of a frame that is partly away; or all that nobody would ever tell of.
                    while done < self.vectors.len() && (E::LOSES_WHEN_FULL || !self.vectors.begins_frame(done)) {
                        frames += self.finish_copy(done, Some(DropReason::LinkFull));
                        done += 1;
                    }
                    break;
                }
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    frames += self.finish_copy(done, Some(drop_reason(&error)));
                    done += 1;
                }
            }
        }
        Ok(frames)
    }

    /// Counts a message that was sent, or not for this reason; returns 1 if it was the last of its frame.
    fn finish_copy(&mut self, index: usize, failure: Option<DropReason>) -> usize {
        match failure {
            Some(reason) => self.counters.drops.count(reason),
            None => self.has_left = true,
        }
        if !self.vectors.ends_frame(index) {
            return 0;
        }
        if self.has_left {
            self.counters.sent(self.vectors.frame_len(index));
            self.has_left = false;
        }
        1
    }

    /// Turns the first `received` datagrams of the vectors, which lie in the free slots of the batch, into frames.
    fn take(&mut self, batch: &mut RxBatch<'_>, received: usize) -> io::Result<()> {
        // Slots that hold a datagram which is no frame, and so stay free.
        let mut holes = 0;
        for index in 0..received {
            let (bytes, is_cut) = self.vectors.received(index);
            let frame = match bytes {
                0 if self.is_seqpacket => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 if !E::COUNTS_EMPTY => Err(None),
                _ if is_cut => Err(Some(DropReason::Oversized)),
                bytes => self.open(batch, holes, index, bytes),
            };
            let filled = frame.and_then(|(header, len)| fill(batch, holes, header, len).map(|()| len).map_err(Some));
            match filled {
                Ok(len) => self.counters.received(len),
                Err(reason) => {
                    holes += 1;
                    if let Some(reason) = reason {
                        self.counters.drops.count(reason);
                    }
                }
            }
        }
        Ok(())
    }

    /// Looks at a datagram of so many bytes whose frame lies `holes` slots behind the next one. One that is passed over in
    /// silence has no reason.
    fn open(
        &mut self,
        batch: &RxBatch<'_>,
        holes: usize,
        index: usize,
        bytes: usize,
    ) -> Result<(VnetHeader, usize), Option<DropReason>> {
        let prefix = self.envelope.rx_len();
        let len = bytes.checked_sub(prefix).ok_or(DropReason::Runt)?;
        let from = if E::HAS_ADDRESSES { self.vectors.take_source(index) } else { None };
        let slot = batch.free_slots().nth(holes).unwrap_or_default();
        let datagram = Received { prefix: self.vectors.prefix(index, prefix), from, slot, len };
        let header = self.envelope.open(&datagram)?.ok_or(None)?;
        check(&header, len)?;
        Ok((header, len))
    }
}

impl<E: Envelope> AsFd for FrameSocket<E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What makes bytes behind a header a frame, in either direction.
fn check(header: &VnetHeader, len: usize) -> Result<(), DropReason> {
    let limit = if header.gso_type == GsoType::None { MAX_PLAIN_LEN } else { MAX_FRAME_LEN };
    if len > limit {
        return Err(DropReason::Oversized);
    }
    header.check(len)
}

/// Fills the next slot of a batch with the frame that lies `holes` slots behind it.
fn fill(batch: &mut RxBatch<'_>, holes: usize, header: VnetHeader, len: usize) -> Result<(), DropReason> {
    if holes == 0 {
        if let Some(slot) = batch.next_slot() {
            slot.fill(header, len);
        }
        return Ok(());
    }
    let mut copy = vec![0; len];
    let mut rest = copy.as_mut_slice();
    for fragment in batch.free_slots().nth(holes).unwrap_or_default() {
        let done = fragment.as_fragment().copy_to(rest);
        rest = rest.split_at_mut(done).1;
    }
    batch.next_slot().map_or(Ok(()), |slot| slot.write(header, &[&copy]))
}

/// Whether an error is about the descriptor, not about a datagram.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}

/// Why a datagram was not sent.
fn drop_reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(
            libc::ECONNREFUSED
            | libc::ENOTCONN
            | libc::ECONNRESET
            | libc::EPIPE
            | libc::EDESTADDRREQ
            | libc::ENOENT
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
            | libc::ENOPROTOOPT,
        ) => DropReason::LinkDown,
        Some(libc::EMSGSIZE) => DropReason::Oversized,
        _ => DropReason::HostError,
    }
}

/// Sets a buffer as large as this process may, by the first of these options that is permitted; a smaller one serves too.
fn set_buffer(fd: BorrowedFd<'_>, options: [libc::c_int; 2]) {
    let value = BUFFER;
    let len = size_of_val(&value) as libc::socklen_t;
    for option in options {
        // SAFETY: the value is as long as stated.
        let result =
            unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), len) };
        if result == 0 {
            return;
        }
    }
}

fn socket_type(fd: BorrowedFd<'_>) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the memory is as long as stated.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut value).cast(), &raw mut len)
    };
    (result == 0).then_some(value)
}

#[cfg(test)]
#[path = "datagram_test.rs"]
mod tests;
