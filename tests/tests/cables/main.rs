//! Labs: cables and links between hosts that are network namespaces, among the real programs they have to get along
//! with.
//!
//! Each test is one lab, in namespaces that end with it ([`netlab::world::lab`]): nothing outside changes, nobody has
//! to be root outside, and names such as `tap0` and `/run/a` are free in each.
//!
//! | module | subject |
//! |---|---|
//! | `impair` | links that are a bad network |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod impair;
