//! The few acts on Unix-domain sockets that the standard library lacks, for both ends of a VDE connection.
//!
//! A socket file gets its mode whatever the umask is, and never more than it, not even for a moment: Linux takes the
//! permissions of the socket's own inode for the file that `bind` makes, less the umask. Symbolic links are not followed.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::wire::Address;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes (`SOCK_STREAM`).
    Stream,
    /// Datagrams (`SOCK_DGRAM`).
    Datagram,
}

/// A new socket, non-blocking.
///
/// # Errors
/// The process, or the system, is out of descriptors.
pub fn open(kind: Kind) -> io::Result<OwnedFd> {
    let kind = match kind {
        Kind::Stream => libc::SOCK_STREAM,
        Kind::Datagram => libc::SOCK_DGRAM,
    };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Connects a socket.
///
/// # Errors
/// What connect(2) says: among others `ECONNREFUSED` where a socket file has nobody behind it, `EPROTOTYPE` where that
/// socket is of another kind, `EPERM` where it listens to another peer.
pub fn connect(fd: BorrowedFd<'_>, address: &Address) -> io::Result<()> {
    // SAFETY: the address is as long as stated.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_bytes().as_ptr().cast(), LEN) })
}

/// Binds a socket; a file that this makes has this mode.
///
/// # Errors
/// What bind(2) says: among others `EADDRINUSE` where the path exists.
pub fn bind(fd: BorrowedFd<'_>, address: &Address, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })?;
    // SAFETY: the address is as long as stated.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_bytes().as_ptr().cast(), LEN) })?;
    address.path().map_or(Ok(()), |path| set_mode(path, mode))
}

/// Lets a bound stream socket be connected to.
///
/// # Errors
/// The socket is not bound, or carries datagrams.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })
}

/// Sets the permissions of a file that is no symbolic link.
///
/// # Errors
/// What fchmodat(2) says: `EOPNOTSUPP` for a symbolic link.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string.
    check(unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) })
}

/// Whether the far side of a connected stream socket has closed, or shut down its sending half, whatever is unread.
#[must_use]
pub fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut question = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one pollfd, which lives through the call.
    unsafe { libc::poll(&raw mut question, 1, 0) > 0 }
}

const LEN: libc::socklen_t = Address::LEN as libc::socklen_t;

const _: () = assert!(Address::LEN == size_of::<libc::sockaddr_un>());

fn check(value: libc::c_int) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
