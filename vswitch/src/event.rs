//! What happens in a switch that somebody may want to know: the lines of `vswitch events` and of the console's `debug`.

use std::fmt;

use link::MacAddr;

use crate::stp::PortState;
use crate::switch::MemberKey;
use crate::{PortId, VlanId};

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A port was made.
    PortAdded(PortId),
    /// A port was removed.
    PortRemoved(PortId),
    /// Something was plugged into a port.
    Joined {
        /// The port.
        port: PortId,
        /// Its number among the members.
        member: MemberKey,
        /// What: a locator, or a client's own words, not yet escaped.
        name: String,
    },
    /// Something left a port.
    Left {
        /// The port.
        port: PortId,
        /// Its number among the members.
        member: MemberKey,
        /// What.
        name: String,
        /// Why, if it was not its own doing.
        reason: Option<String>,
    },
    /// A client was not let in.
    Refused {
        /// Who it is, and why not.
        reason: String,
    },
    /// A station was heard on another port than before.
    StationMoved {
        /// Its VLAN.
        vlan: VlanId,
        /// Its address.
        address: MacAddr,
        /// Where it was.
        from: PortId,
        /// Where it is.
        to: PortId,
    },
    /// Spanning tree has changed what a port does with frames.
    PortState {
        /// The port.
        port: PortId,
        /// What it does now.
        state: PortState,
    },
    /// The spanning tree has changed.
    TopologyChanged(PortId),
    /// A port was shut because a BPDU came in.
    GuardTripped(PortId),
    /// A port brings in more than its storm control lets through; said once until it is calm again.
    Storm(PortId),
    /// A port brings in more stations than it may; said once until there is room again.
    MacLimit(PortId),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortAdded(port) => write!(f, "port {port}: made"),
            Self::PortRemoved(port) => write!(f, "port {port}: removed"),
            Self::Joined { port, name, .. } => write!(f, "port {port}: {name} joined"),
            Self::Left { port, name, reason: None, .. } => write!(f, "port {port}: {name} left"),
            Self::Left { port, name, reason: Some(reason), .. } => {
                write!(f, "port {port}: {name} was taken out: {reason}")
            }
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::StationMoved { vlan, address, from, to } => {
                write!(f, "port {to}: {address} (VLAN {vlan}) moved here from port {from}")
            }
            Self::PortState { port, state } => write!(f, "port {port}: {}", state.name()),
            Self::TopologyChanged(port) => write!(f, "port {port}: the spanning tree has changed"),
            Self::GuardTripped(port) => write!(f, "port {port}: shut by the BPDU guard"),
            Self::Storm(port) => write!(f, "port {port}: storm control drops frames"),
            Self::MacLimit(port) => write!(f, "port {port}: brings in more stations than it may"),
        }
    }
}
