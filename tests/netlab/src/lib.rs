//! Labs: our programs among the real programs they have to get along with, in network namespaces of their own.
//!
//! | module | what it holds |
//! |---|---|
//! | `world` | what a lab is made of: namespaces, hosts, pings, transfers |
//! | `confined` | what the system shows of a confined process |
//! | `probes` | datagrams that measure delay |
//! | `process` | programs that run in it; the switch |
//! | `routed` | a router and a server behind this host |
//! | `station` | frames, and what sends and receives them |

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "for tests: what goes wrong here fails the test")]

pub mod confined;
pub mod probes;
pub mod process;
pub mod routed;
pub mod station;
pub mod world;
