//! Frames over a connected Unix-domain datagram socket: one frame a datagram.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::{Capabilities, Counters, Offloads, RxBatch, TxBatch};

/// A connected socket that carries frames.
pub struct FrameSocket {
    fd: OwnedFd,
    capabilities: Capabilities,
    counters: Counters,
}

impl FrameSocket {
    /// Takes a socket.
    pub fn new(fd: OwnedFd, _peer_receives: Option<Offloads>) -> Self {
        Self { fd, capabilities: Capabilities::PLAIN, counters: Counters::default() }
    }
    /// What may be sent.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    /// Registers.
    pub fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, interest)
    }
    /// Deregisters.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }
    /// Accept.
    pub fn accept(&mut self, _offloads: Offloads) -> io::Result<()> {
        Ok(())
    }
    /// Service.
    pub fn service(&mut self, _now: std::time::Instant) {}
    /// Deadline.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        None
    }
    /// Sends.
    pub fn send(&mut self, _batch: &TxBatch<'_>) -> io::Result<usize> {
        Ok(0)
    }
    /// Receives.
    pub fn receive(&mut self, _batch: &mut RxBatch<'_>) -> io::Result<usize> {
        Ok(0)
    }
    /// Counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
