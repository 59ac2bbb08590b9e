//! The connection to `DIR/ctl` after the join, at either end.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::socket;

/// Reads of unwanted bytes in a row.
const MAX_BURST: usize = 64;

/// What is left of the connection to `ctl`. It says one thing only, by its end: that the far side is gone.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Watches a connected stream socket, which must not block.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Makes the far side's going appear under `token`.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.0.as_raw_fd()), token, Interest::READABLE)
    }

    /// Undoes [`Control::register`].
    ///
    /// # Errors
    /// The descriptor was not registered.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.0.as_raw_fd()))
    }

    /// Whether the far side has gone; to be asked on readiness. What it says instead is discarded.
    pub fn is_gone(&mut self) -> bool {
        let mut waste = [0; 4096];
        for _ in 0..MAX_BURST {
            match self.0.read(&mut waste) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        // Somebody who talks for so long may be gone behind it all; what is left unread stays in his socket buffer.
        socket::is_hung_up(self.0.as_fd())
    }
}
