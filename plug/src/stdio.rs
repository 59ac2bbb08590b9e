//! `stdio://`: standard input and output as a VDE stream, as vde_plug has it.
//!
//! Whether a program of VDE's stands in the way, as wirefilter, which passes a greeting on and nothing that may follow it,
//! cannot be found out from here. So it greets only where [`DIRECT`] says that nothing does; it answers every greeting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use link::stream::wire::Framing;
use link::stream::{FrameStream, Opening};
use link::{Capabilities, Counters, Link, Offloads, RxBatch, TxBatch};
use mio::{Registry, Token};

/// The environment variable by which dpipe says that the command at the other end is joined to this one directly.
pub const DIRECT: &str = "ETHERLOOM_DIRECT";

/// Who is at the other end of standard input and output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioRole {
    /// One of VDE's programs, or one of ours.
    Plain,
    /// The near side of an `ssh://` link.
    Cable,
}

/// This process's standard input and output. Nothing else may be written there.
pub struct Stdio(FrameStream);

impl Stdio {
    /// Takes them over.
    ///
    /// # Errors
    /// They are closed.
    pub fn open(role: StdioRole) -> io::Result<Self> {
        let opening = match role {
            StdioRole::Plain if std::env::var_os(DIRECT).is_some() => Opening::Greet,
            StdioRole::Plain => Opening::Silent,
            StdioRole::Cable => Opening::Hello(None),
        };
        let input: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let output: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
        FrameStream::new(input, output, Framing::Vde, opening).map(Self)
    }
}

impl Link for Stdio {
    fn name(&self) -> &str {
        "stdio://"
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.0.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }

    fn service(&mut self, _: Instant) -> io::Result<()> {
        self.0.service()
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.0.send(batch)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.0.receive(batch)
    }

    fn counters(&self) -> Counters {
        self.0.counters()
    }
}
