//! The sockets that watchers come in by: made, recovered, and accepted from.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, lchown};
use std::path::Path;

use link::vde::socket::{self, Kind};
use link::vde::wire::Address;
use mio::net::{TcpListener, UnixListener};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::WatchError;
use super::connection::Stream;
use crate::options::MetricsAddress;
use crate::vde::SocketFile;

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
    pub(super) fn open_unix(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, WatchError> {
        let system = |act| move |source| WatchError::System { act, what: path.display().to_string(), source };
        let address = Address::of_path(path).ok_or_else(|| WatchError::TooLong(path.to_owned()))?;
        let fd = socket::open(Kind::Stream).map_err(system("make a socket for"))?;
        match socket::bind(fd.as_fd(), &address, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path, &address)?;
                socket::bind(fd.as_fd(), &address, mode).map_err(system("bind"))?;
            }
            result => result.map_err(system("bind"))?,
        }
        let file = SocketFile::new(path.to_owned());
        if group.is_some() {
            lchown(path, None, group).map_err(system("set the group of"))?;
        }
        socket::listen(fd.as_fd(), BACKLOG).map_err(system("listen on"))?;
        Ok(Self::Unix(UnixListener::from_std(fd.into()), file))
    }

    /// Makes the socket of the metrics endpoint. Where it is a file, only its owner and root may ask.
    pub(super) fn open_metrics(address: &MetricsAddress) -> Result<Self, WatchError> {
        const MODE: u32 = 0o600;
        match address {
            MetricsAddress::Unix(path) => Self::open_unix(path, MODE, None),
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

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &Address) -> Result<(), WatchError> {
    let system = |act| move |source| WatchError::System { act, what: path.display().to_string(), source };
    let there = fs::symlink_metadata(path).map_err(system("look at"))?;
    if !there.file_type().is_socket() {
        return Err(WatchError::NotSocket(path.to_owned()));
    }
    let probe = socket::open(Kind::Stream).map_err(system("make a socket for"))?;
    match socket::connect(probe.as_fd(), address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // Also one that is too busy to take the connection.
        Ok(()) => return Err(WatchError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(WatchError::InUse(path.to_owned())),
        Err(error) => return Err(system("ask who is behind")(error)),
    }
    fs::remove_file(path).map_err(system("remove the stale"))
}
