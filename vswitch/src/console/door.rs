//! The management socket.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use link::socket_file::{self, SocketError, SocketFile, system};

/// Sessions that wait to be accepted.
const BACKLOG: i32 = 15;

/// The management socket.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// Removes the file when the switch ends.
    _file: SocketFile,
}

impl Door {
    pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, SocketError> {
        // The working directory may be another when the file is to be removed.
        let path = std::path::absolute(path).map_err(system("look at", path))?;
        let (fd, file) = socket_file::listen(path, mode, group, BACKLOG)?;
        Ok(Self { listener: fd.into(), _file: file })
    }

    pub(super) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.listener.as_raw_fd()), token, Interest::READABLE)
    }

    /// Asks for word at once, if there is somebody else at the door.
    pub(super) fn rearm(&self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.listener.as_raw_fd()), token, Interest::READABLE)
    }

    /// The next one at the door; none if nobody is there.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(Some(stream)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}
