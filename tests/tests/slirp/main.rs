//! The user-mode NAT as a program, among namespaces, switches and the programs that use them.
//!
//! Each test is one lab of network namespaces (`netlab`).
//!
//! | module | subject |
//! |---|---|
//! | `program` | `slirp` and `slirp4netns`: what they serve, how they are asked, how they end |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod program;
