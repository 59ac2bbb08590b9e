//! A client that was let in: its link.

use std::io;
use std::time::Instant;

use link::datagram::FrameSocket;
use link::{Capabilities, Counters, Link, Offloads, RxBatch, TxBatch};
use mio::{Registry, Token};

use super::Control;
use link::socket_file::SocketFile;

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
