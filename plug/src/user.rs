//! `user://`: the user-mode NAT as a link. Its options are those of QEMU's `-netdev user`; `nat::Config` has them.
//!
//! The link's descriptor is the NAT's epoll instance, registered edge-triggered; [`Link::service`] drains it. Frames are
//! made when a slot is there for them, so the owner calls `receive` behind every `send` and every `service`, until it
//! returns 0 or there is no slot, and again when slots come back: what a slow guest cannot take stays in the host's
//! sockets.
//!
//! Opening has two stages: [`User::config`] turns a locator into plain data, [`User::new`] makes the link.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use link::{
    Capabilities, Counters, DropReason, Link, Locator, LocatorError, MAX_FRAME_LEN, Offloads, RxBatch, TxBatch,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nat::{Config, ForwardError, Nat, OFFLOADS, Readiness, SocketError, Sockets};

/// Why a user-mode network cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The locator.
    #[error(transparent)]
    Locator(#[from] LocatorError),
    /// A forwarding rule.
    #[error("user: {0}")]
    Forward(#[from] ForwardError),
    /// The event loop of the host's sockets, or a folder for TFTP or Samba.
    #[error("user: {0}")]
    Sockets(#[from] SocketError),
}

/// A NAT that serves whoever owns this link.
pub struct User {
    name: String,
    nat: Nat<Sockets>,
    /// The frame being looked at: a private copy, for the original may be guest memory.
    frame: Vec<u8>,
    ready: Vec<Readiness>,
    counters: Counters,
}

impl User {
    /// Takes the settings out of a locator; opens nothing.
    ///
    /// # Errors
    /// What [`Config::from_locator`] says.
    pub fn config(locator: &Locator) -> Result<Config, LocatorError> {
        Config::from_locator(locator)
    }

    /// Makes the NAT, opens what its settings name, and sets up its forwarding rules. `name` is the object of every
    /// message about the link.
    ///
    /// # Errors
    /// [`UserError::Forward`] names the rule whose port is taken; [`UserError::Sockets`].
    pub fn new(name: String, config: Config) -> Result<Self, UserError> {
        Self::with_sockets(name, config, Sockets::new()?)
    }

    /// Both stages.
    ///
    /// # Errors
    /// See there.
    pub fn open(locator: &Locator) -> Result<Self, UserError> {
        Self::new(locator.to_string(), Self::config(locator)?)
    }

    /// The NAT, for those who want to know about its flows and rules.
    #[must_use]
    pub fn nat(&self) -> &Nat<Sockets> {
        &self.nat
    }

    fn with_sockets(name: String, config: Config, sockets: Sockets) -> Result<Self, UserError> {
        let sockets = sockets.prepare(&config)?;
        let nat = Nat::new(config, sockets, random_seed(), Instant::now())?;
        let frame = vec![0; MAX_FRAME_LEN];
        Ok(Self { name, nat, frame, ready: Vec::new(), counters: Counters::default() })
    }
}

impl Link for User {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: OFFLOADS, mtu: self.nat.config().mtu }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.nat.accept(offloads);
        Ok(())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let fd = self.nat.host_mut().as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        let fd = self.nat.host_mut().as_raw_fd();
        registry.deregister(&mut SourceFd(&fd))
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.nat.host_mut().poll(&mut self.ready)?;
        for readiness in self.ready.drain(..) {
            self.nat.ready(now, readiness);
        }
        self.nat.expire(now);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.nat.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let now = Instant::now();
        for frame in batch.frames() {
            self.counters.sent(frame.len());
            let Some(copy) = self.frame.get_mut(..frame.len()) else {
                self.counters.drops.count(DropReason::Oversized);
                continue;
            };
            frame.copy_to(0, copy);
            self.nat.input(now, &frame.header, copy);
        }
        self.nat.flush();
        Ok(batch.len())
    }

    fn answers(&self) -> bool {
        true
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let now = Instant::now();
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            let Some((header, frame)) = self.nat.output(now) else { break };
            match slot.write(header, &[frame]) {
                Ok(()) => self.counters.received(frame.len()),
                Err(reason) => self.counters.drops.count(reason),
            }
        }
        Ok(batch.filled() - before)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.drops.merge(self.nat.drops());
        counters
    }
}

/// 64 bits of the operating system's randomness, by way of the keys of the standard library's hash tables.
pub(crate) fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
#[path = "user_test.rs"]
mod tests;
