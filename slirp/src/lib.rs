//! The program `slirp`: the user-mode NAT on any link, also in a network namespace of another process.
//!
//! | file | what it holds |
//! |---|---|
//! | `cli` | its command line, and the plan that every command line becomes |
//! | `slirp4netns` | the command line under that name |
//! | `setup` | from a plan to a running NAT |
//! | `namespace` | a TAP in another process's network namespace |
//! | `rtnetlink` | IPv6 addresses and routes for it |
//! | `router` | the event loop between the NAT and its link |
//! | `api` | the socket by which rules are changed and flows are shown |
//! | `status` | who asks there: `slirp --status` |
//!
//! Neighbours: `nat` has the NAT itself, `plug` opens the links.

mod api;
pub mod cli;
mod namespace;
mod router;
mod rtnetlink;
pub mod setup;
mod slirp4netns;
pub mod status;
