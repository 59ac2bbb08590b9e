//! Labs: the program among the real programs it has to get along with, in network namespaces of their own.
//!
//! Each test is one lab, in namespaces that end with it ([`world::lab`]): nothing outside changes, nobody has to be root
//! outside, and names such as `tap0` and `/run/a` are free in each.
//!
//! | module | subject |
//! |---|---|
//! | `taps` | hosts on TAPs, and how the program begins and ends |
//! | `peers` | Debian's VDE programs, QEMU, User-mode Linux; our own link to switches, ours and Debian's |
//! | `rings` | spanning tree in rings, with the Linux bridge and without |
//! | `hostile` | clients that mean no good, and what they cost the others: nothing |
//! | `churn` | many clients that come and go |
//! | `client` | a VDE client made by hand |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod churn;
mod client;
mod hostile;
mod peers;
mod rings;
mod taps;
