//! Cables: links to other hosts and other programs, among the real ones they have to get along with, in network
//! namespaces of their own.
//!
//! | module | subject |
//! |---|---|
//! | `datagram` | udp, dgram and mcast between switches of ours, and who else may send there |
//! | `qemu_datagram` | the same and l2tpv3 to QEMU, byte for byte |
//! | `vxlan` | the kernel's vxlan device, and VTEPs of ours among each other |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod datagram;
mod qemu_datagram;
mod vxlan;
