//! User-mode NAT: a guest behind a link reaches the host's world through ordinary sockets, without privileges.
//!
//! It is a pure core, [`Nat`] (frames and time in, frames and socket actions out), over a seam, [`Host`], and one file
//! with real sockets, [`Sockets`]. The link that puts it behind a network card is `plug`'s `user://`.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | the settings, taken from a locator |
//! | `nat` | dispatch: whose frame it is, and what may be dropped for which reason |
//! | `arp` `ndp` `dhcp` `dhcpv6` `dns` `icmp` `tcp` `udp` `forward` | one protocol each |
//! | `tftp` `folder` | files for guests: the server, and the one folder that they come from |
//! | `guestfwd` `commands` `smb` | what of the host's answers at an address of the guests' network |
//! | `route` | which address leads where: what of the host a guest reaches |
//! | `fragment` | packets put together again |
//! | `flow` | what is told of flows to who watches |
//! | `stack` `memory` | a TCP connection with the guest: smoltcp, and its rings |
//! | `env` `ends` `slab` `timers` | what the protocols share: ways to the guest, keys, tables, deadlines |
//! | `wire` | formats and checksums |
//! | `host` `sockets` | the seam to the operating system, and what is behind it |
//!
//! The addresses of guest forwarding (`guestfwd`) are IPv4 only.

mod arp;
mod commands;
mod config;
mod dhcp;
mod dhcpv6;
mod dns;
mod ends;
mod env;
mod flow;
mod folder;
mod forward;
mod fragment;
mod guestfwd;
mod host;
#[cfg(test)]
mod hostile_test;
mod icmp;
#[cfg(test)]
mod ipv6_test;
mod memory;
mod nat;
#[cfg(test)]
mod nat_test;
mod ndp;
#[cfg(test)]
mod ndp_test;
mod route;
mod slab;
mod smb;
mod sockets;
#[cfg(test)]
mod sockets_test;
mod stack;
mod tcp;
#[cfg(test)]
mod testing;
mod tftp;
mod timers;
mod udp;
mod wire;

pub use config::{BOOTFILE_LEN, Config, Entrance, Forward, Ipv6, LEASES, MTU_RANGE, Name, Network, Network6, Protocol};
pub use flow::FlowState;
pub use folder::FolderError;
pub use forward::{ForwardError, ForwardId, ForwardState};
pub use guestfwd::{GuestForward, Target};
pub use host::{Datagram, Family, Host, Kind, Readiness, Rejection, SocketId};
pub use nat::{Nat, OFFLOADS};
pub use smb::ShareError;
pub use sockets::{SocketError, Sockets};
