//! The sockets that watchers come in by: made, recovered, and accepted from.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::WatchError;
use super::connection::Stream;
use crate::options::MetricsAddress;
use link::socket_file::{self, SocketError, SocketFile};

/// A socket that listens.
#[derive(Debug)]
pub(super) enum Door {
    /// At a path; the file is removed at the end.
    Unix(UnixListener, SocketFile),
    /// At a loopback address.
    Tcp(TcpListener, String),
}

/// Watchers that wait to be accepted.
const BACKLOG: i32 = 128;

impl Door {
    /// Makes a socket at a path, in place of one that nobody listens on.
    ///
    /// # Errors
    /// Somebody listens there, something else is in the way, or there is no permission.
    pub(super) fn open_unix(path: PathBuf, mode: u32, group: Option<u32>) -> Result<Self, SocketError> {
        let (fd, file) = socket_file::listen(path, mode, group, BACKLOG)?;
        Ok(Self::Unix(UnixListener::from_std(fd.into()), file))
    }

    /// Makes the socket of the metrics endpoint. Where it is a file, only its owner and root may ask.
    pub(super) fn open_metrics(address: &MetricsAddress) -> Result<Self, WatchError> {
        const MODE: u32 = 0o600;
        match address {
            MetricsAddress::Unix(path) => Ok(Self::open_unix(path.clone(), MODE, None)?),
            MetricsAddress::Tcp(address) => {
                let what = address.to_string();
                let listener = TcpListener::bind(*address);
                let system = |source| WatchError::System { act: "listen on", what: what.clone(), source };
                Ok(Self::Tcp(listener.map_err(system)?, what))
            }
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Unix(_, file) => file.path().display().to_string(),
            Self::Tcp(_, address) => address.clone(),
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> Result<(), WatchError> {
        let fd = match self {
            Self::Unix(listener, _) => listener.as_raw_fd(),
            Self::Tcp(listener, _) => listener.as_raw_fd(),
        };
        let registered = registry.register(&mut SourceFd(&fd), token, Interest::READABLE);
        registered.map_err(|source| WatchError::System { act: "watch", what: self.name(), source })
    }

    /// The next at the door; none if nobody is there.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub(super) fn accept(&self) -> io::Result<Option<Stream>> {
        loop {
            let accepted = match self {
                Self::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
                Self::Tcp(listener, _) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            };
            match accepted {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Err(error),
                },
            }
        }
    }
}
