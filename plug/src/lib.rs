//! Links made of other links, and the way from a [`Locator`] to a link.
//!
//! | file | what it holds |
//! |---|---|
//! | `cli` `main` | the program `plug` |
//! | `replaced` | the lines that stand for those of VDE's programs |
//! | `spec` | what each kind's options mean: plain data, checked before anything is opened |
//! | `needs` | what each of them needs once it is open: the rest can be given up |
//! | `user` | the user-mode NAT |
//! | `coprocess` | programs whose standard input and output carry frames: `cmd`, and what `ssh` is made of |
//! | `ssh` `stdio` | a cable to another host, and its end in this process |
//! | `detour` | another way for the frames of a cable over ssh |
//! | `reconnect` | a link that is opened again when it has ended |
//! | `fault` | why a link to another host has ended |
//! | `hub` `join` | links joined so that each hears all others; two links |
//! | `control` | sockets at which questions are asked |
//! | `report` | what a cable's links have carried |
//! | `iplog` | which IP addresses are used on a cable |
//! | `port` | a link that is joined to others, for both |
//! | `pipe` | `dpipe`: commands joined by their standard input and output |
//! | `bare` | the locators of links that carry bare frames in datagrams; `link` has the links |
//! | `stream` | the locators of links over connections; `link` has the link |
//! | `vxlan` `l2tpv3` | tunnels to other hosts, each with its wire format |
//! | `quic` | a cable between two hosts over QUIC |
//! | `impair` | a link around another that makes a bad network of it |
//!
//! [`check`] and [`open`] know every kind that exists: cmd, dgram, impair, l2tpv3, listen, mcast, null, pcap,
//! quic, reconnect, socket, ssh, stdio, stream, tap, udp, user, vde and vxlan.

mod bare;
pub mod cli;
pub mod control;
mod coprocess;
mod detour;
mod fault;
mod hub;
pub mod impair;
mod iplog;
mod join;
pub mod l2tpv3;
mod needs;
mod options;
pub mod pipe;
mod port;
pub mod quic;
mod reconnect;
pub mod replaced;
mod report;
mod spec;
mod ssh;
mod stdio;
mod stream;
mod user;
pub mod vxlan;

pub use fault::{Fault, FaultKind};
pub use hub::{Cable, Hub, PortCounters, cable};
pub use impair::{Impair, ImpairConfig, ImpairError};
pub use iplog::Used;
pub use join::{Ending, Join};
pub use l2tpv3::L2tpv3Config;
pub use needs::{NeedsMore, entrances, nat_needs};
pub use quic::{Quic, QuicConfig, QuicError};
pub use reconnect::{Pauses, Reconnect};
pub use spec::{BringUp, Spec, TapSpec};
pub use ssh::{Ssh, SshConfig};
pub use stdio::{DIRECT, Stdio, StdioRole};
pub use user::{User, UserError};
pub use vxlan::VxlanConfig;

use std::io;

use link::{DatagramError, Link, Locator, LocatorError, PcapError, StreamError, TapError, VdeError};

/// Why a link cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A kind that nobody knows, or an option that its kind does not take.
    #[error(transparent)]
    Locator(#[from] LocatorError),
    /// A TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A capture.
    #[error(transparent)]
    Pcap(#[from] PcapError),
    /// A VDE switch.
    #[error(transparent)]
    Vde(#[from] VdeError),
    /// A stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A program.
    #[error("{name}: {}", link::reason(.source))]
    Start {
        /// The link.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A link that carries frames in datagrams.
    #[error(transparent)]
    Datagram(#[from] DatagramError),
    /// The user-mode NAT.
    #[error(transparent)]
    User(#[from] UserError),
    /// A bad network.
    #[error(transparent)]
    Impair(#[from] ImpairError),
    /// A cable over QUIC.
    #[error(transparent)]
    Quic(#[from] QuicError),
    /// A descriptor that was to be inherited.
    #[error("fd={fd}: {}", link::reason(.source))]
    Descriptor {
        /// Its number.
        fd: i32,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused what a link in memory or a hub needs.
    #[error("cannot {act}: {}", link::reason(.source))]
    Host {
        /// What was to be done.
        act: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OpenError {
    /// What it means for a cable.
    #[must_use]
    pub fn kind(&self) -> FaultKind {
        let denied_or = |source: &io::Error, kind| match source.kind() {
            io::ErrorKind::PermissionDenied => FaultKind::Denied,
            _ => kind,
        };
        match self {
            Self::Vde(VdeError::Group { .. } | VdeError::NotDirectory(_)) => FaultKind::Failed,
            Self::Vde(VdeError::System { source, .. }) => denied_or(source, FaultKind::Unavailable),
            Self::Vde(_) => FaultKind::Unavailable,
            Self::Stream(StreamError::Resolve { .. }) => FaultKind::Transport,
            Self::Tap(TapError::System { source, .. }) => denied_or(source, FaultKind::Failed),
            Self::Start { source, .. } | Self::Stream(StreamError::System { source, .. }) => {
                denied_or(source, FaultKind::Failed)
            }
            _ => FaultKind::Failed,
        }
    }
}

/// Holds a locator's options against its kind; opens nothing.
///
/// # Errors
/// [`LocatorError`] names the kind or the option that nobody knows, or the value that does not fit.
pub fn check(locator: &Locator) -> Result<(), LocatorError> {
    Spec::parse(locator).map(drop)
}

/// Opens a link that takes every offload: one that cannot do them itself stands inside [`link::Soft`].
///
/// # Errors
/// What [`check`] says, and what the kind meets when it is opened.
pub fn open(locator: &Locator) -> Result<Box<dyn Link>, OpenError> {
    Spec::parse(locator)?.open()
}
