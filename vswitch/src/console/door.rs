//! The management socket: made, recovered, listened to.
//!
//! As with `DIR/ctl`, only a socket that nobody listens on is replaced, and at the end the file is removed if it is
//! still the one made here.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use link::vde::socket::{self, Kind};
use link::vde::wire::Address;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::ConsoleError;
use crate::vde::SocketFile;

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
    pub(super) fn open(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, ConsoleError> {
        // The working directory may be another when the file is to be removed.
        let path = &std::path::absolute(path).map_err(system("look at", path))?;
        let address = Address::of_path(path).ok_or_else(|| ConsoleError::TooLong(path.clone()))?;
        let open = || socket::open(Kind::Stream).map_err(system("make", path));
        let fd = open()?;
        match socket::bind(fd.as_fd(), &address, mode) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                make_room(path, socket::connect(open()?.as_fd(), &address))?;
                socket::bind(fd.as_fd(), &address, mode).map_err(system("bind", path))?;
            }
            outcome => outcome.map_err(system("bind", path))?,
        }
        let file = SocketFile::new(path.clone());
        if group.is_some() {
            lchown(path, None, group).map_err(system("set the group of", path))?;
        }
        socket::listen(fd.as_fd(), BACKLOG).map_err(system("listen on", path))?;
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

/// Removes a socket that nobody listens on, as connecting to it has shown.
fn make_room(path: &Path, connected: io::Result<()>) -> Result<(), ConsoleError> {
    let there = fs::symlink_metadata(path).map_err(system("look at", path))?;
    if !there.file_type().is_socket() {
        return Err(ConsoleError::NotSocket(path.to_owned()));
    }
    match connected {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system("remove the stale", path))
        }
        // Also a switch that is too busy to take the connection.
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(system("ask who is behind", path)(error)),
        _ => Err(ConsoleError::Running(path.to_owned())),
    }
}

fn system(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConsoleError {
    let path = path.to_owned();
    move |source| ConsoleError::System { act, path, source }
}
