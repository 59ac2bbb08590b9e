//! User-mode NAT: a guest behind a link reaches the host's world through ordinary sockets, without privileges.
//!
//! It is a pure core, [`Nat`] (frames and time in, frames and socket actions out), over a seam, [`Host`], and one file
//! with real sockets, [`Sockets`]. The link that puts it behind a network card is `plug`'s `user://`.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | the settings, taken from a locator |
//! | `nat` | dispatch: whose frame it is, and what may be dropped for which reason |
//! | `arp` `dhcp` `dns` `icmp` `tcp` `udp` `forward` | one protocol each |
//! | `route` | which address leads where: what of the host a guest reaches |
//! | `fragment` | packets put together again |
//! | `flow` | what is told of flows to who watches |
//! | `stack` `memory` | a TCP connection with the guest: smoltcp, and its rings |
//! | `env` `slab` `timers` | what the protocols share: ways to the guest, tables, deadlines |
//! | `wire` | formats and checksums |
//! | `host` `sockets` | the seam to the operating system, and what is behind it |
//!
//! There is no IPv6 yet, no TFTP and no guestfwd.

mod arp;
mod config;
mod dhcp;
mod dns;
mod env;
mod flow;
mod forward;
mod fragment;
mod host;
mod icmp;
mod memory;
mod nat;
#[cfg(test)]
mod nat_test;
mod route;
mod slab;
mod sockets;
#[cfg(test)]
mod sockets_test;
mod stack;
mod tcp;
#[cfg(test)]
mod testing;
mod timers;
mod udp;
mod wire;

pub use config::{Config, Entrance, Forward, LEASES, MTU_RANGE, Name, Network, Protocol};
pub use flow::FlowState;
pub use forward::{ForwardError, ForwardId, ForwardState};
pub use host::{Datagram, Host, Kind, Readiness, Rejection, SocketId};
pub use nat::{Nat, OFFLOADS};
pub use sockets::{SocketError, Sockets};
