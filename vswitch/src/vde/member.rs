//! A client that was let in: its link, and the file of the socket that it sends to.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use link::datagram::FrameSocket;
use link::{Capabilities, Counters, Link, Offloads, RxBatch, TxBatch};
use mio::{Registry, Token};

use super::Control;

/// A client that was let in.
pub struct Member {
    /// Its frames. It is registered for reading only: a switch drops what a client does not take, it never waits. Named
    /// `vde:` and the client's own words, escaped, or its process.
    pub link: Box<dyn Link>,
    /// Its going.
    pub control: Control,
}

/// The link of a client.
pub(super) struct ClientLink {
    socket: FrameSocket,
    name: String,
    /// Removes the file when the client goes.
    _file: SocketFile,
}

impl ClientLink {
    pub(super) fn new(socket: FrameSocket, name: String, file: SocketFile) -> Self {
        Self { socket, name, _file: file }
    }
}

impl Link for ClientLink {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.socket.capabilities()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.socket.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, false)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)
    }

    fn deadline(&self) -> Option<Instant> {
        self.socket.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.socket.send(batch)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.socket.receive(batch)
    }

    fn counters(&self) -> Counters {
        self.socket.counters()
    }
}

/// A socket's file, removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// The file of a socket that was bound just now.
    pub(crate) fn new(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // The directory may have been taken away meanwhile; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
