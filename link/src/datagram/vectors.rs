//! The arrays of one `sendmmsg` or `recvmmsg`, in reusable memory, and the calls themselves.
//!
//! Invariant: pointers in the arrays are set by [`Vectors::messages`], right before the call that follows them; nothing
//! is added between the two.

use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockAddr, SockAddrStorage};

use super::BATCH;
use crate::{Fragment, FragmentMut, Frame};

/// The most fragments of one frame that go to the kernel as they are: `UIO_MAXIOV` less the prefix.
const MAX_FRAGMENTS: usize = 1023;

/// Messages to be sent, or room for some to be received.
pub(super) struct Vectors {
    /// A piece of `stride` bytes for the prefix of each message.
    prefixes: Box<[u8]>,
    stride: usize,
    messages: Vec<libc::mmsghdr>,
    iovecs: Vec<libc::iovec>,
    /// Length of each frame sent, or of the slot it is received into; without the prefix.
    lens: Vec<usize>,
    /// Whether a message is the last of its frame; only for frames sent.
    ends: Vec<bool>,
    /// Where each message goes, or comes from; empty on a connected socket.
    names: Vec<Name>,
    /// Frames in too many fragments for the kernel, in one.
    copies: Vec<Vec<u8>>,
}

// SAFETY: between two system calls nobody follows the pointers in the arrays; each call sets them anew.
unsafe impl Send for Vectors {}

impl Vectors {
    /// For prefixes of so many bytes at most.
    pub(super) fn new(stride: usize) -> Self {
        let prefixes = vec![0; stride * BATCH].into();
        Self {
            prefixes,
            stride,
            messages: Vec::new(),
            iovecs: Vec::new(),
            lens: Vec::new(),
            ends: Vec::new(),
            names: Vec::new(),
            copies: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.iovecs.clear();
        self.lens.clear();
        self.ends.clear();
        self.names.clear();
        self.copies.clear();
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.lens.len()
    }

    /// Length of the frame in a message, or of its slot.
    pub(super) fn frame_len(&self, index: usize) -> usize {
        self.lens.get(index).copied().unwrap_or_default()
    }

    /// Whether a message to be sent is the first of its frame.
    pub(super) fn begins_frame(&self, index: usize) -> bool {
        index.checked_sub(1).is_none_or(|before| self.ends_frame(before))
    }

    /// Whether a message to be sent is the last of its frame.
    pub(super) fn ends_frame(&self, index: usize) -> bool {
        self.ends.get(index).copied().unwrap_or(true)
    }

    /// Adds a frame to be sent; the caller sees to it that there are no more than [`BATCH`], and that either all of them
    /// have an address or none.
    /// `is_last` says that no other message has the same frame.
    pub(super) fn push_frame(&mut self, frame: &Frame<'_>, prefix: &[u8], to: Option<&SockAddr>, is_last: bool) {
        let first = self.push_prefix(prefix.len());
        if let Some(piece) = self.prefix_mut(self.lens.len(), prefix.len()) {
            piece.copy_from_slice(prefix);
        }
        if frame.fragments.len() > MAX_FRAGMENTS {
            let mut copy = Vec::with_capacity(frame.len());
            frame.append_to(&mut copy);
            self.iovecs.push(iovec(&mut copy));
            self.copies.push(copy);
        } else {
            self.iovecs.extend_from_slice(Fragment::as_iovecs(frame.fragments));
        }
        self.names.extend(to.map(|to| Name { len: to.len(), storage: to.clone().as_storage() }));
        self.ends.push(is_last);
        self.finish_message(first, frame.len());
    }

    /// Adds memory to receive a frame into, behind a prefix of so many bytes.
    pub(super) fn push_slot(&mut self, slot: &[FragmentMut<'_>], prefix: usize, has_address: bool) {
        let first = self.push_prefix(prefix);
        let fragments = &slot[..slot.len().min(MAX_FRAGMENTS)];
        self.iovecs.extend_from_slice(FragmentMut::as_iovecs(fragments));
        if has_address {
            let storage = SockAddrStorage::zeroed();
            self.names.push(Name { len: storage.size_of(), storage });
        }
        self.finish_message(first, fragments.iter().map(FragmentMut::len).sum());
    }

    /// Adds the vector of the next message's prefix; returns the index of the message's first vector.
    fn push_prefix(&mut self, len: usize) -> usize {
        let first = self.iovecs.len();
        if len != 0
            && let Some(piece) = self.prefix_mut(self.lens.len(), len)
        {
            let vector = iovec(piece);
            self.iovecs.push(vector);
        }
        first
    }

    fn prefix_mut(&mut self, index: usize, len: usize) -> Option<&mut [u8]> {
        self.prefixes.get_mut(index * self.stride..)?.get_mut(..len)
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
    pub(super) fn messages(&mut self) -> &mut [libc::mmsghdr] {
        let mut rest = self.iovecs.as_mut_slice();
        for message in &mut self.messages {
            let (own, others) = rest.split_at_mut(message.msg_hdr.msg_iovlen);
            message.msg_hdr.msg_iov = own.as_mut_ptr();
            rest = others;
        }
        for (message, name) in self.messages.iter_mut().zip(&mut self.names) {
            message.msg_hdr.msg_namelen = name.len;
            message.msg_hdr.msg_name = (&raw mut name.storage).cast();
        }
        &mut self.messages
    }

    /// Bytes of a received message, and whether it was cut.
    pub(super) fn received(&self, index: usize) -> (usize, bool) {
        self.messages
            .get(index)
            .map_or((0, false), |message| (message.msg_len as usize, message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0))
    }

    /// The prefix of a received message.
    pub(super) fn prefix(&self, index: usize, len: usize) -> &[u8] {
        self.prefixes.get(index * self.stride..).and_then(|rest| rest.get(..len)).unwrap_or_default()
    }

    /// Who sent a received message, if that is an Internet address; to be asked once.
    pub(super) fn take_source(&mut self, index: usize) -> Option<SocketAddr> {
        let len = self.messages.get(index)?.msg_hdr.msg_namelen;
        let storage = mem::replace(&mut self.names.get_mut(index)?.storage, SockAddrStorage::zeroed());
        // SAFETY: the kernel has written an address of its family and this length, or nothing, which is all zeros.
        unsafe { SockAddr::new(storage, len) }.as_socket()
    }
}

/// An address, where the kernel reads or writes it.
struct Name {
    storage: SockAddrStorage,
    len: libc::socklen_t,
}

fn iovec(bytes: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

/// Sends messages; returns how many, at least one.
pub(super) fn send_many(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    retry(|| {
        // SAFETY: the messages point to vectors of fragments, which are readable while the caller holds them.
        unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), count(messages), flags as _) }
    })
}

/// Receives messages; returns how many, at least one.
pub(super) fn receive_many(fd: BorrowedFd<'_>, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
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
