//! Cables between hosts, in network namespaces of their own, over paths that are good and bad.
//!
//! | module | subject |
//! |---|---|
//! | `path` | a path with delay, loss and a rate, made of two TAPs |
//! | `quic` | `quic://` |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod path;
mod quic;
