//! What is told of a flow to who watches: plain data, made when it is asked for.
//!
//! Neighbours: `tcp` and `udp` keep the counts, [`crate::Nat::flow_states`] collects them.

use std::net::SocketAddr;
use std::time::Instant;

use crate::config::Protocol;

/// A connection, or an address of a guest's that datagrams leave from and come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The far end, as the guest has it; none if there may be many.
    pub remote: Option<SocketAddr>,
    /// What it does, in a word: `connecting` (the host's side), `opening` (the guest's), `established`, `guest-closed`,
    /// `host-closed`, `closing`; of datagrams `open`, or `forwarded` if a rule brought the first.
    pub state: &'static str,
    /// Bytes of payload that the host has taken from the guest.
    pub sent: u64,
    /// Bytes of payload that were taken from the host for the guest.
    pub received: u64,
    /// When it began.
    pub begun: Instant,
}
