//! Mirrors: copies of frames for a port where somebody watches.
//!
//! A mirror's sources are ports, by direction, and VLANs; its destination is a port that gets nothing else, and by
//! default brings nothing in. A frame appears once in a mirror: as it was received if its port or its VLAN is a source,
//! and otherwise as it was sent by the first source port that sent it. A frame that was dropped has been received all
//! the same.
//!
//! Neighbour: [`super::Bridge::forward`] lists the copies behind the frame's own ways.

use std::collections::BTreeSet;

use super::vlan::Tag;
use super::{Bridge, Egress, PortSet, TagAction};
use crate::{PortId, VlanId};

/// A mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Ports whose received frames are copied.
    pub rx: PortSet,
    /// Ports whose sent frames are copied.
    pub tx: PortSet,
    /// VLANs whose frames are copied, as they came in.
    pub vlans: BTreeSet<VlanId>,
    /// Where the copies go. It names the mirror: a port is the destination of one at most.
    pub destination: PortId,
    /// Whether frames from the destination are taken. No stations are learned there either way.
    pub allow_ingress: bool,
}

impl Mirror {
    /// A mirror without sources.
    #[must_use]
    pub fn to(destination: PortId) -> Self {
        Self {
            rx: PortSet::default(),
            tx: PortSet::default(),
            vlans: BTreeSet::new(),
            destination,
            allow_ingress: false,
        }
    }

    /// The copy of a frame, if it gets one. `ways` are those the frame itself takes.
    fn copy(&self, ingress: PortId, vlan: Option<VlanId>, ways: &[Egress]) -> Option<TagAction> {
        if ingress == self.destination {
            return None;
        }
        if self.rx.contains(ingress) || vlan.is_some_and(|vlan| self.vlans.contains(&vlan)) {
            return Some(TagAction::Keep);
        }
        ways.iter().find(|egress| self.tx.contains(egress.port)).map(|egress| egress.tag)
    }
}

impl Bridge {
    /// Lists the mirrors' copies of a frame whose own ways are in `out` from `first` on.
    pub(super) fn mirror(&self, ingress: PortId, tag: Tag, first: usize, out: &mut Vec<Egress>) {
        let last = out.len();
        let membership = self.port(ingress).map(|port| port.settings.membership);
        let admission = membership.and_then(|membership| self.vlans.classify(ingress, membership, tag).ok());
        for mirror in &self.mirrors {
            let is_connected = self.port(mirror.destination).is_some_and(|port| port.settings.connected);
            let ways = out.get(first..last).unwrap_or_default();
            let copy = mirror.copy(ingress, admission.map(|admission| admission.vlan), ways);
            if let Some(tag) = copy.filter(|_| is_connected) {
                out.push(Egress { port: mirror.destination, tag });
            }
        }
    }
}

#[cfg(test)]
#[path = "mirror_test.rs"]
mod tests;
