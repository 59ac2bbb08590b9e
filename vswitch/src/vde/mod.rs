//! The way into the switch for VDE's clients: `DIR/ctl`, and a datagram socket in DIR for each client that was let in.
//!
//! | file | what it holds |
//! |---|---|
//! | `listener` | `ctl`: making it, recovering it, letting clients in |
//! | `knock` | a client that has connected and not yet said what it wants |
//! | `member` | a client that is in: its link |
//! | `escape` | a client's own words, fit to be shown |
//!
//! Nothing here blocks and nothing here waits: the event loop registers what there is to wait for, and decides how long
//! a [`Knock`] may take.
//!
//! Neighbours: `link::vde::wire` for the formats, `link::datagram` for the frames.

mod escape;
mod knock;
mod listener;
mod member;

pub use escape::escape;
pub use knock::{Knock, Peer, Refusal};
pub use link::vde::Control;
pub use link::vde::wire::Request;
pub use listener::{Listener, Settings, VdeError};
pub use member::Member;

#[cfg(test)]
#[path = "vde_test.rs"]
mod tests;
