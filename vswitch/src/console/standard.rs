//! Standard input and output, without waiting for either and without changing them.
//!
//! Other programs share these descriptors' file descriptions, the shell among them: `O_NONBLOCK` set here would be set
//! for all, and stay when the switch has ended. So a pipe or a terminal is opened once more, which makes a description
//! of our own; a socket is asked each time not to wait; where neither works, poll(2) is asked before. Regular files
//! never wait.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

/// Standard input, or standard output.
#[derive(Debug)]
pub(super) struct Standard {
    file: File,
    way: Way,
}

/// How it is kept from waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A description of our own is non-blocking.
    Own,
    /// Each call says so.
    Socket,
    /// poll(2) is asked before.
    Asked,
    /// It cannot wait.
    Ready,
}

/// Bytes that a pipe takes at once if it takes any (POSIX `PIPE_BUF`, at least).
const PIECE: usize = 512;

impl Standard {
    pub(super) fn input() -> io::Result<Self> {
        Self::open(io::stdin().as_fd(), OpenOptions::new().read(true))
    }

    pub(super) fn output() -> io::Result<Self> {
        Self::open(io::stdout().as_fd(), OpenOptions::new().write(true))
    }

    fn open(fd: BorrowedFd<'_>, options: &mut OpenOptions) -> io::Result<Self> {
        let file = File::from(fd.try_clone_to_owned()?);
        let kind = file.metadata()?.file_type();
        if kind.is_socket() {
            return Ok(Self { file, way: Way::Socket });
        }
        if kind.is_fifo() || file.is_terminal() {
            options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            if let Ok(own) = options.open(format!("/proc/self/fd/{}", fd.as_raw_fd())) {
                return Ok(Self { file: own, way: Way::Own });
            }
        }
        Ok(Self { file, way: Way::Asked })
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_terminal()
    }

    /// Watches it; returns whether there will be word of it. What epoll does not take is always ready.
    pub(super) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<bool> {
        match registry.register(&mut SourceFd(&self.file.as_raw_fd()), token, interest) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.way = Way::Ready;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Watches it anew, so that there is word at once if it is ready now.
    pub(super) fn rearm(&self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.file.as_raw_fd()), token, interest)
    }

    /// Whether it is always ready.
    pub(super) fn never_waits(&self) -> bool {
        self.way == Way::Ready
    }

    /// Waits until it takes something, up to `millis`; whether it does.
    pub(super) fn wait_for_room(&self, millis: i32) -> bool {
        self.poll(libc::POLLOUT, millis)
    }

    fn poll(&self, events: libc::c_short, millis: i32) -> bool {
        let mut question = libc::pollfd { fd: self.file.as_raw_fd(), events, revents: 0 };
        // SAFETY: one pollfd, which lives through the call.
        unsafe { libc::poll(&raw mut question, 1, millis) > 0 }
    }
}

impl Read for Standard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.way {
            Way::Own | Way::Ready => self.file.read(buffer),
            Way::Asked if !self.poll(libc::POLLIN, 0) => Err(io::ErrorKind::WouldBlock.into()),
            Way::Asked => self.file.read(buffer),
            Way::Socket => {
                let (fd, data) = (self.file.as_raw_fd(), buffer.as_mut_ptr().cast());
                // SAFETY: the buffer is as long as stated.
                outcome(unsafe { libc::recv(fd, data, buffer.len(), libc::MSG_DONTWAIT) })
            }
        }
    }
}

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.way {
            Way::Own | Way::Ready => self.file.write(bytes),
            Way::Asked if !self.poll(libc::POLLOUT, 0) => Err(io::ErrorKind::WouldBlock.into()),
            Way::Asked => self.file.write(&bytes[..bytes.len().min(PIECE)]),
            Way::Socket => {
                let (fd, data) = (self.file.as_raw_fd(), bytes.as_ptr().cast());
                // SAFETY: the bytes are as many as stated.
                outcome(unsafe { libc::send(fd, data, bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn outcome(count: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}
