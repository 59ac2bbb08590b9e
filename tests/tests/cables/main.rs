//! Cables: what joins switches and other links, among the real programs it has to get along with.
//!
//! Each test is one lab, in namespaces that end with it ([`netlab::world::lab`]).
//!
//! | module | subject |
//! |---|---|
//! | `pipe` | `dpipe` with Debian's `vde_plug` at its ends |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod pipe;
