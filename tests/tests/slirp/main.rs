//! The user-mode NAT among the real programs that guests run, and as a program of its own.
//!
//! Each test is one lab of network namespaces (`netlab`).
//!
//! | module | subject |
//! |---|---|
//! | `boot` | leases, files by TFTP, and boot ROMs |
//! | `guestfwd` | commands, addresses and folders of the host's at addresses of the guests' network |
//! | `ipv6` | `slirp` and `slirp4netns` with IPv6: namespaces, rules, and users without rights |
//! | `tools` | what traceroute, mtr, rdisc6, dnsperf and dhclient see in both families |
//! | `program` | `slirp` and `slirp4netns`: what they serve, how they are asked, how they end |
//! | `scale` | thousands of flows, no descriptors left, name servers and networks that come and go |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod boot;
mod guestfwd;
mod ipv6;
mod program;
mod scale;
mod tools;
