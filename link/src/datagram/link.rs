//! A link that is a socket and nothing else: there is no connection whose end could be noticed, so it is always up.
//!
//! Neighbours: `udp`, `dgram`, and the tunnels in `plug`, which open it.

use std::io;
use std::time::Instant;

use mio::{Registry, Token};

use super::{Envelope, FrameSocket};
use crate::{Capabilities, Counters, Link, Offloads, RxBatch, TxBatch};

/// A socket that carries frames, with a name and an MTU.
pub struct DatagramLink<E: Envelope> {
    name: String,
    socket: FrameSocket<E>,
    mtu: u16,
}

impl<E: Envelope> DatagramLink<E> {
    /// `mtu` is what the link states, in bytes; longer frames are sent all the same if the socket takes them.
    #[must_use]
    pub fn new(name: String, socket: FrameSocket<E>, mtu: u16) -> Self {
        Self { name, socket, mtu }
    }
}

impl<E: Envelope> Link for DatagramLink<E> {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: self.mtu, ..self.socket.capabilities() }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.socket.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, true)
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
