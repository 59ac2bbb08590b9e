//! Rapid spanning tree (IEEE 802.1D-2004 clause 17), with STP for neighbours that know no better.

use std::time::Instant;

use link::MacAddr;

use crate::PortId;

/// What a port does with frames (§7.4, §17.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortState {
    /// Takes none.
    Discarding,
    /// Learns addresses, and forwards none.
    Learning,
    /// Learns and forwards.
    #[default]
    Forwarding,
}

/// A port's place in the tree (§17.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// No carrier, or spanning tree is off.
    #[default]
    Disabled,
    /// The way to the root.
    Root,
    /// The way from the root to this segment.
    Designated,
    /// Another way to the root.
    Alternate,
    /// Another way from this bridge to the same segment.
    Backup,
}

/// Whether a port leads to stations only, so that it may forward at once (§17.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// Yes, until a BPDU arrives.
    Always,
    /// No.
    Never,
    /// It is found out: no BPDU within 3 s (§17.25, bridge detection).
    #[default]
    Auto,
}

/// What the administrator says of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeSettings {
    /// 0 to 61440 in steps of 4096 (§17.14); 32768 unless told otherwise.
    pub priority: u16,
    /// The bridge's address, the rest of its identifier.
    pub address: MacAddr,
}

/// What the administrator says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// 1 to 200,000,000 (§17.14, table 17-3).
    pub path_cost: u32,
    /// 0 to 240 in steps of 16.
    pub priority: u8,
    /// Whether stations only are behind it.
    pub edge: Edge,
    /// Whether one other bridge at most is behind it: a full-duplex cable (§6.4.3).
    pub point_to_point: bool,
    /// Shut the port when a BPDU arrives.
    pub bpdu_guard: bool,
}

/// What spanning tree wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame, complete but for FCS, out of the port.
    Transmit {
        /// The port.
        port: PortId,
        /// The frame, from the destination address on.
        frame: Vec<u8>,
    },
    /// The port does this with frames from now on.
    SetState {
        /// The port.
        port: PortId,
        /// What it does.
        state: PortState,
    },
    /// Forget the stations learned on the port.
    Flush {
        /// The port.
        port: PortId,
    },
    /// A BPDU came in on a guarded port, which stays shut until [`Stp::reset_guard`].
    GuardTripped {
        /// The port.
        port: PortId,
    },
    /// The tree has changed: the port said so, or a neighbour.
    TopologyChanged {
        /// The port.
        port: PortId,
    },
}
