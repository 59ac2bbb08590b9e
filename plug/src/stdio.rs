//! `stdio://`: standard input and output as a VDE stream, as vde_plug has it.
//!
//! Whether a program of VDE's stands in the way, as wirefilter, which passes a greeting on and nothing that may follow it,
//! cannot be found out from here. So it greets only where [`DIRECT`] says that nothing does; it answers every greeting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use link::stream::wire::Framing;
use link::stream::{FrameStream, Opening};
use link::{Capabilities, Counters, Link, Offloads, RxBatch, TxBatch, Way};
use mio::{Registry, Token};

use crate::detour::Detour;
use crate::quic::Fingerprint;

/// The environment variable by which dpipe says that the command at the other end is joined to this one directly.
pub const DIRECT: &str = "ETHERLOOM_DIRECT";

/// Who is at the other end of standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioRole {
    /// One of VDE's programs, or one of ours.
    Plain,
    /// The near side of an `ssh://` link. If it has said its key, QUIC is offered to it.
    Cable(Option<Fingerprint>),
}

/// This process's standard input and output. Nothing else may be written there.
pub struct Stdio {
    stream: FrameStream,
    detour: Detour,
}

impl Stdio {
    /// Takes them over.
    ///
    /// # Errors
    /// They are closed.
    pub fn open(role: StdioRole) -> io::Result<Self> {
        let offered = match role {
            StdioRole::Cable(Some(peer)) => Detour::listen(peer).inspect_err(|why| log::warn!("no QUIC: {why}")).ok(),
            StdioRole::Plain | StdioRole::Cable(None) => None,
        };
        let (detour, invitation) = offered.map(|(detour, invitation)| (detour, invitation.to_string())).unzip();
        let opening = match role {
            StdioRole::Plain if std::env::var_os(DIRECT).is_some() => Opening::Greet,
            StdioRole::Plain => Opening::Silent,
            StdioRole::Cable(_) => Opening::Hello(invitation.as_deref()),
        };
        let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let output: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
        let stream = FrameStream::new(input, output, Framing::Vde, opening)?;
        Ok(Self { stream, detour: detour.unwrap_or_default() })
    }
}

impl Link for Stdio {
    fn name(&self) -> &str {
        "stdio://"
    }

    fn capabilities(&self) -> Capabilities {
        self.detour.capabilities().unwrap_or_else(|| self.stream.capabilities())
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.stream.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.detour.register(registry, token);
        self.stream.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.detour.deregister(registry);
        self.stream.deregister(registry)
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.detour.service(now);
        self.stream.service()
    }

    fn deadline(&self) -> Option<Instant> {
        self.stream.deadline().into_iter().chain(self.detour.deadline()).min()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.detour.send(batch).map_or_else(|| self.stream.send(batch), Ok)
    }

    fn answers(&self) -> bool {
        self.detour.answers()
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        Ok(self.stream.receive(batch)? + self.detour.receive(batch))
    }

    fn way(&self) -> Option<Way> {
        self.detour.way()
    }

    fn counters(&self) -> Counters {
        let mut counters = self.stream.counters();
        counters.merge(&self.detour.counters());
        counters
    }
}
