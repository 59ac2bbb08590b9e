//! What a link has carried, and what it dropped and why.
//!
//! A frame that came in and went nowhere appears under exactly one [`DropReason`] reason.

use std::fmt;

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// Longer than the link or the receiver's buffer takes.
    Oversized,
    /// A network card's descriptor is malformed, or points outside guest memory.
    BadDescriptor,
    /// The header asks for a checksum or a segmentation that the frame's own bytes contradict.
    BadOffload,
    /// The link would not take it now.
    LinkFull,
    /// The receiver had no buffer.
    NoBuffer,
    /// The link has no carrier.
    LinkDown,
    /// A header inside the frame is malformed (IP, ARP, TCP, UDP, DHCP, …).
    Malformed,
    /// A protocol, or an address, that nobody here serves.
    Unserved,
    /// A limit on flows, sockets or memory was reached.
    Limit,
    /// The operating system refused to send it.
    HostError,
    /// A switch port does not forward now: spanning tree has it discarding or learning, or a guard has shut it.
    Blocked,
    /// The frame's VLAN does not pass this switch port.
    VlanRefused,
    /// A switch port brings in more broadcast, multicast or unknown unicast than it may.
    Storm,
    /// The source address is one more than a switch port may bring in.
    MacLimit,
    /// A control frame that a bridge keeps to itself (IEEE 802.1D-2004 §7.12.6), or a source address that no station has.
    Reserved,
    /// The link was told to lose some.
    Impaired,
}

impl DropReason {
    /// Every reason, in the order they are shown.
    pub const ALL: [Self; 17] = [
        Self::Runt,
        Self::Oversized,
        Self::BadDescriptor,
        Self::BadOffload,
        Self::LinkFull,
        Self::NoBuffer,
        Self::LinkDown,
        Self::Malformed,
        Self::Unserved,
        Self::Limit,
        Self::HostError,
        Self::Blocked,
        Self::VlanRefused,
        Self::Storm,
        Self::MacLimit,
        Self::Reserved,
        Self::Impaired,
    ];

    /// The reason's name in tables and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runt => "runt",
            Self::Oversized => "oversized",
            Self::BadDescriptor => "bad-descriptor",
            Self::BadOffload => "bad-offload",
            Self::LinkFull => "link-full",
            Self::NoBuffer => "no-buffer",
            Self::LinkDown => "link-down",
            Self::Malformed => "malformed",
            Self::Unserved => "unserved",
            Self::Limit => "limit",
            Self::HostError => "host-error",
            Self::Blocked => "blocked",
            Self::VlanRefused => "vlan-refused",
            Self::Storm => "storm",
            Self::MacLimit => "mac-limit",
            Self::Reserved => "reserved",
            Self::Impaired => "impaired",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dropped frames by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::ALL.len()]);

impl DropCounts {
    /// Counts one frame.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several frames dropped for the same reason.
    pub fn add(&mut self, reason: DropReason, frames: u64) {
        self.0[reason as usize] += frames;
    }

    /// Frames dropped for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Frames dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that have occurred.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.get(reason))).filter(|&(_, frames)| frames != 0)
    }

    /// Adds another table to this one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Takes off what an earlier state of this table had counted.
    pub fn subtract(&mut self, earlier: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(earlier.0) {
            *mine -= theirs.min(*mine);
        }
    }
}

/// Frames and bytes by direction, as `ip -s link` has them: transmitted went into the link, received came out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames sent into the link.
    pub tx_frames: u64,
    /// Bytes of those frames, without the offload header.
    pub tx_bytes: u64,
    /// Frames taken out of the link.
    pub rx_frames: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
    /// Frames that went nowhere.
    pub drops: DropCounts,
}

impl Counters {
    /// Counts one frame sent.
    pub fn sent(&mut self, len: usize) {
        self.tx_frames += 1;
        self.tx_bytes += len as u64;
    }

    /// Counts one frame received.
    pub fn received(&mut self, len: usize) {
        self.rx_frames += 1;
        self.rx_bytes += len as u64;
    }

    /// Adds what another link has counted.
    pub fn merge(&mut self, other: &Self) {
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.drops.merge(&other.drops);
    }

    /// Takes off what an earlier state of these counters had counted.
    pub fn subtract(&mut self, earlier: &Self) {
        self.tx_frames -= earlier.tx_frames.min(self.tx_frames);
        self.tx_bytes -= earlier.tx_bytes.min(self.tx_bytes);
        self.rx_frames -= earlier.rx_frames.min(self.rx_frames);
        self.rx_bytes -= earlier.rx_bytes.min(self.rx_bytes);
        self.drops.subtract(&earlier.drops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        let mut counts = DropCounts::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            counts.add(reason, i as u64 + 1);
        }
        assert_eq!(counts.iter().count(), DropReason::ALL.len());
        assert_eq!(counts.total(), (1..=DropReason::ALL.len() as u64).sum());
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
