//! Frames over a connected Unix-domain socket that keeps boundaries (`SOCK_DGRAM`, or `SOCK_SEQPACKET`): one frame a
//! datagram, without FCS, behind a [`VnetHeader`] if both sides have agreed on one.
//!
//! Theory of operation. A batch is one `sendmmsg` or `recvmmsg` whose vectors are the owner's fragments: nothing is
//! copied but the headers. How many datagrams are asked for follows how many came the last time, so that a lone frame
//! does not pay for 64 vectors.
//!
//! Invariant: the socket never blocks, and what comes out of it is a frame: no shorter than an Ethernet header, no longer
//! than [`MAX_PLAIN_LEN`] unless its header has it segmented, uncut (`MSG_TRUNC`), with a header that agrees with itself
//! and with the frame's length. Anything else is one counted drop. A flood of such datagrams does not hold the caller:
//! after some hundred of them `receive` returns, and [`FrameSocket::deadline`] asks for the next call.
//!
//! An error on such a socket says little about the far end: `ECONNREFUSED` may mean that it is about to be replaced. So
//! errors are counted and the socket stays; who knows better (`vde` has a control connection) says when the end has come.
//! Only the end of a `SOCK_SEQPACKET` connection, which the kernel reports, is an error.
//!
//! # How much may be under way
//!
//! A datagram occupies its sender's `SO_SNDBUF` until it is received. If both ends are connected to each other, that is
//! the only limit; otherwise it is also `net.unix.max_dgram_qlen` datagrams (10).
//!
//! Neighbours: `vde` and `vswitch::vde`, which make such sockets.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::{
    Capabilities, Counters, DropReason, ETHERNET_HEADER_LEN, FragmentMut, Frame, GsoType, MAX_FRAME_LEN, Offloads,
    RxBatch, TxBatch, VnetHeader,
};

/// The largest payload of a frame that is not to be segmented, in bytes.
pub const JUMBO_MTU: u16 = 9216;

/// The longest frame that is not to be segmented, in bytes: two VLAN tags are allowed for.
pub const MAX_PLAIN_LEN: usize = JUMBO_MTU as usize + ETHERNET_HEADER_LEN + 8;

/// What `SO_SNDBUF` is set to, in bytes; the kernel doubles it. So about 4 MiB are under way at most: some 55 frames of
/// 64 KiB, enough for the window of a TCP connection at 10 Gbit/s and 3 ms; some 1,800 of 1514 bytes, less than 5 ms at
/// 5 Gbit/s. It is also what a far end that never reads can make the kernel keep. Without `CAP_NET_ADMIN` the limit is
/// `net.core.wmem_max`.
const SEND_BUFFER: libc::c_int = 2 * 1024 * 1024;
/// Datagrams of one system call.
const BATCH: usize = 64;
/// Datagrams asked for at least.
const MIN_EXPECTED: usize = 4;
/// Datagrams that are no frames after which `receive` returns.
const MAX_BAD: usize = 256;
/// The most fragments of one frame that go to the kernel as they are: `UIO_MAXIOV` less the header.
const MAX_FRAGMENTS: usize = 1023;

/// A connected socket that carries frames. Its methods are those of [`crate::Link`]; a link around it adds a name and
/// knows when the far end is gone.
pub struct FrameSocket {
    fd: OwnedFd,
    is_seqpacket: bool,
    /// What the far end receives behind a header; none if frames travel without one.
    peer_receives: Option<Offloads>,
    vectors: Box<Vectors>,
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
    /// Takes over a connected, non-blocking socket and enlarges its send buffer. If `peer_receives` is given, each
    /// datagram begins with a [`VnetHeader`], and this side receives every offload; both sides have to know that.
    #[must_use]
    pub fn new(fd: OwnedFd, peer_receives: Option<Offloads>) -> Self {
        set_send_buffer(fd.as_fd());
        let is_seqpacket = socket_type(fd.as_fd()) == Some(libc::SOCK_SEQPACKET);
        Self {
            fd,
            is_seqpacket,
            peer_receives,
            vectors: Box::default(),
            expected: MIN_EXPECTED,
            unfinished: None,
            room: None,
            counters: Counters::default(),
        }
    }

    /// Whether each datagram begins with a [`VnetHeader`].
    #[must_use]
    pub fn has_header(&self) -> bool {
        self.peer_receives.is_some()
    }

    /// What may be sent.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: self.peer_receives.unwrap_or(Offloads::NONE), mtu: JUMBO_MTU }
    }

    /// As [`crate::Link::accept`]. The far end was told once and for all that everything is received. An owner that accepts
    /// some segmentation has room for the long frames of another kind, and [`crate::Soft`] cuts them.
    ///
    /// # Errors
    /// The owner accepts no segmentation, and the far end may segment: its frames need another's buffers first.
    pub fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if self.has_header() && !offloads.any_segmentation() {
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
        let mut frames = batch.frames();
        let mut taken = 0;
        loop {
            self.vectors.clear();
            let mut misfit = None;
            while self.vectors.len() < BATCH && misfit.is_none() {
                let Some(frame) = frames.next() else { break };
                match self.fits(&frame) {
                    Ok(()) => self.vectors.push_frame(&frame, self.peer_receives.is_some()),
                    Err(reason) => misfit = Some(reason),
                }
            }
            let queued = self.vectors.len();
            let sent = self.send_vectors()?;
            taken += sent;
            if sent < queued {
                return Ok(taken);
            }
            match misfit {
                Some(reason) => {
                    self.counters.drops.count(reason);
                    taken += 1;
                }
                None if queued < BATCH => return Ok(taken),
                None => {}
            }
        }
    }

    /// As [`crate::Link::receive`].
    ///
    /// # Errors
    /// A `SOCK_SEQPACKET` connection has ended, or the descriptor is no socket.
    pub fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
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
                self.vectors.push_slot(slot, self.peer_receives.is_some());
            }
            let received = match receive_many(self.fd.as_fd(), self.vectors.messages()) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_fatal(&error) => return Err(error),
                // It is taken off the socket by being reported.
                Err(_) => {
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

    /// Whether a frame may be sent.
    fn fits(&self, frame: &Frame<'_>) -> Result<(), DropReason> {
        check(&frame.header, frame.len())?;
        if !self.capabilities().offloads.permit(&frame.header) {
            return Err(DropReason::BadOffload);
        }
        Ok(())
    }

    /// Sends what the vectors hold; returns how many frames were sent, or dropped and counted.
    fn send_vectors(&mut self) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = self.vectors.messages().get_mut(done..).filter(|rest| !rest.is_empty()) {
            match send_many(self.fd.as_fd(), rest) {
                Ok(sent) => {
                    let lens = self.vectors.lens.iter().skip(done).take(sent);
                    lens.for_each(|len| self.counters.sent(*len));
                    done += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    self.counters.drops.count(drop_reason(&error));
                    done += 1;
                }
            }
        }
        Ok(done)
    }

    /// Turns the first `received` datagrams of the vectors, which lie in the free slots of the batch, into frames.
    fn take(&mut self, batch: &mut RxBatch<'_>, received: usize) -> io::Result<()> {
        // Slots that hold a datagram which is no frame, and so stay free.
        let mut holes = 0;
        for index in 0..received {
            let frame = match self.vectors.received(index, self.peer_receives.is_some()) {
                Datagram::Empty if self.is_seqpacket => return Err(io::ErrorKind::UnexpectedEof.into()),
                Datagram::Empty => Err(None),
                Datagram::Bad(reason) => Err(Some(reason)),
                Datagram::Frame(header, len) => check(&header, len).map(|()| (header, len)).map_err(Some),
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
}

impl AsFd for FrameSocket {
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

/// What came in one datagram.
enum Datagram {
    /// No byte.
    Empty,
    /// No frame.
    Bad(DropReason),
    /// So many bytes behind this header.
    Frame(VnetHeader, usize),
}

/// The arrays of one system call, in reusable memory.
struct Vectors {
    headers: [[u8; VnetHeader::LEN]; BATCH],
    messages: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    /// Length of each frame sent, or of the slot it is received into.
    lens: Vec<usize>,
    /// Frames in too many fragments for the kernel, in one.
    copies: Vec<Vec<u8>>,
}

// SAFETY: between two system calls nobody follows the pointers in the arrays; each call sets them anew.
unsafe impl Send for Vectors {}

impl Default for Vectors {
    fn default() -> Self {
        let headers = [[0; VnetHeader::LEN]; BATCH];
        Self { headers, messages: Vec::new(), iovecs: Vec::new(), lens: Vec::new(), copies: Vec::new() }
    }
}

impl Vectors {
    fn clear(&mut self) {
        self.messages.clear();
        self.iovecs.clear();
        self.lens.clear();
        self.copies.clear();
    }

    fn len(&self) -> usize {
        self.lens.len()
    }

    /// Adds a frame to be sent; the caller sees to it that there are no more than [`BATCH`].
    fn push_frame(&mut self, frame: &Frame<'_>, has_header: bool) {
        let first = self.iovecs.len();
        if let Some(header) = self.headers.get_mut(self.lens.len()).filter(|_| has_header) {
            *header = frame.header.to_bytes();
            self.iovecs.push(iovec(header));
        }
        if frame.fragments.len() > MAX_FRAGMENTS {
            let mut copy = Vec::with_capacity(frame.len());
            frame.append_to(&mut copy);
            self.iovecs.push(iovec(&mut copy));
            self.copies.push(copy);
        } else {
            self.iovecs.extend_from_slice(crate::Fragment::as_iovecs(frame.fragments));
        }
        self.finish_message(first, frame.len());
    }

    /// Adds memory to receive a frame into.
    fn push_slot(&mut self, slot: &[FragmentMut<'_>], has_header: bool) {
        let first = self.iovecs.len();
        if let Some(header) = self.headers.get_mut(self.lens.len()).filter(|_| has_header) {
            self.iovecs.push(iovec(header));
        }
        let fragments = &slot[..slot.len().min(MAX_FRAGMENTS)];
        self.iovecs.extend_from_slice(FragmentMut::as_iovecs(fragments));
        self.finish_message(first, fragments.iter().map(FragmentMut::len).sum());
    }

    /// Makes a message of the vectors from `first` on. Where they are is known only when all have been added.
    fn finish_message(&mut self, first: usize, len: usize) {
        // SAFETY: all zeros is a message without an address, vectors and control data.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iovlen = self.iovecs.len() - first;
        self.messages.push(message);
        self.lens.push(len);
    }

    /// The messages, ready for the kernel.
    fn messages(&mut self) -> &mut [libc::mmsghdr] {
        let mut rest = self.iovecs.as_mut_slice();
        for message in &mut self.messages {
            let (own, others) = rest.split_at_mut(message.msg_hdr.msg_iovlen);
            message.msg_hdr.msg_iov = own.as_mut_ptr();
            rest = others;
        }
        &mut self.messages
    }

    /// What the kernel has put into a message.
    fn received(&self, index: usize, has_header: bool) -> Datagram {
        let (Some(message), Some(header)) = (self.messages.get(index), self.headers.get(index)) else {
            return Datagram::Empty;
        };
        let len = message.msg_len as usize;
        if len == 0 {
            return Datagram::Empty;
        }
        if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return Datagram::Bad(DropReason::Oversized);
        }
        if !has_header {
            return Datagram::Frame(VnetHeader::WHOLE, len);
        }
        let Some(len) = len.checked_sub(VnetHeader::LEN) else { return Datagram::Bad(DropReason::Runt) };
        VnetHeader::parse(header).map_or_else(Datagram::Bad, |header| Datagram::Frame(header, len))
    }
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Whether an error is about the descriptor, not about a datagram.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}

/// Why a datagram was not sent.
fn drop_reason(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ENOTCONN | libc::ECONNRESET | libc::EPIPE | libc::EDESTADDRREQ) => {
            DropReason::LinkDown
        }
        Some(libc::EMSGSIZE) => DropReason::Oversized,
        _ => DropReason::HostError,
    }
}

/// Sends messages; returns how many, at least one.
fn send_many(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| {
        // SAFETY: the messages point to vectors of fragments, which are readable while the caller holds them.
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count(messages), flags as _) }
    })
}

/// Receives messages; returns how many, at least one.
fn receive_many(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let (flags, no_timeout) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
    retry(|| {
        // SAFETY: the messages point to vectors of fragments, which are writable while the caller holds them.
        unsafe { libc::recvmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count(messages), flags as _, no_timeout) }
    })
}

fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "at most BATCH")]
fn count(messages: &[libc::mmsghdr]) -> libc::c_uint {
    messages.len() as libc::c_uint
}

/// Sets the send buffer as large as this process may; a smaller one serves too.
fn set_send_buffer(fd: BorrowedFd<'_>) {
    let value = SEND_BUFFER;
    let len = size_of_val(&value) as libc::socklen_t;
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
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
