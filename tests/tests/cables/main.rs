//! Cables: `plug` and the links that reach other hosts, among the real programs they have to get along with.
//!
//! Each test is one lab of network namespaces (`netlab`).
//!
//! | module | subject |
//! |---|---|
//! | `datagram` | udp, dgram and mcast between switches of ours, and who else may send there |
//! | `qemu` | the same, l2tpv3 and streams to QEMU, byte for byte |
//! | `vxlan` | the kernel's vxlan device, and VTEPs of ours among each other |
//! | `quic` | `quic://`, over paths that are good and bad |
//! | `impair` | bad networks: what they do to hosts, and how they are changed |
//! | `ssh` | cables over a real sshd: what they carry, how they end, how they come back |
//! | `pipe` | `dpipe` with vde_plug, theirs and ours, at its ends |
//! | `replaced` | the manual's lines for users of wirefilter, vde_cryptcab and vde_autolink |
//! | `far` | hosts with an sshd |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod datagram;
mod far;
mod impair;
mod pipe;
mod qemu;
mod quic;
mod replaced;
mod ssh;
mod vxlan;
