//! Links made of other links, and the way from a [`Locator`] to a link.
//!
//! | file | what it holds |
//! |---|---|
//! | `spec` | what each kind's options mean: plain data, checked before anything is opened |
//! | `user` | the user-mode NAT |
//! | `quic` | a cable between two hosts over QUIC |
//! | `hub` | links joined so that each hears all others |
//!
//! [`check`] and [`open`] know every kind that exists: null, pcap, quic, tap, user and vde.

mod hub;
pub mod quic;
mod spec;
mod user;

pub use hub::{Cable, Hub, PortCounters, cable};
pub use quic::{Quic, QuicConfig, QuicError};
pub use spec::{BringUp, Spec, TapSpec};
pub use user::{User, UserError};

use std::io;

use link::{Link, Locator, LocatorError, PcapError, TapError, VdeError};

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
    /// The user-mode NAT.
    #[error(transparent)]
    User(#[from] UserError),
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
