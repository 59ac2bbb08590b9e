//! VLANs: the tag that a frame carries, who is in which VLAN, and what becomes of the tag (IEEE 802.1Q-2018 §6.9,
//! §9.6).
//!
//! Only a C-tag (0x8100) directly behind the addresses is a tag here. An S-tag (0x88a8) is payload, and so is a second
//! C-tag: provider networks pass through, and the switch works on the outer tag.
//!
//! A *transparent* port is in all VLANs: tagged in each but VLAN 0, the network of untagged frames. Its frames keep
//! whatever tag they carry. Invariant: no port is both an untagged and a tagged member of a VLAN; VLAN 0 has no tagged
//! member.
//!
//! Neighbour: [`super::settings`] changes the table.

use super::portset::PortSet;
use super::{Refusal, TagAction};
use crate::{PortId, VlanId};

/// The EtherType of a C-tag (§9.5).
pub(super) const TPID: u16 = 0x8100;
/// The VLAN identifier in tag control information.
const VID: u16 = 0x0fff;

/// The outer tag of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// None.
    Absent,
    /// This tag control information: PCP, DEI, VID.
    Present(u16),
    /// The frame ends within the tag, or where the EtherType behind it should be.
    Cut,
}

impl Tag {
    /// The tag of a frame whose addresses are followed by the EtherType `kind`.
    pub(super) fn parse(kind: u16, frame: &[u8]) -> Self {
        if kind != TPID {
            return Self::Absent;
        }
        match frame.get(14..18) {
            Some(&[high, low, ..]) => Self::Present(u16::from_be_bytes([high, low])),
            _ => Self::Cut,
        }
    }
}

/// A frame that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// The VLAN it is in.
    pub(super) vlan: VlanId,
    /// The tag it came with.
    pub(super) tci: Option<u16>,
}

impl Admission {
    /// What becomes of the tag where the VLAN leaves tagged, or untagged.
    pub(super) fn action(self, is_tagged: bool) -> TagAction {
        let vid = self.vlan.number();
        match self.tci {
            None if is_tagged => TagAction::Insert(vid),
            None => TagAction::Keep,
            Some(tci) if is_tagged && tci & VID == vid => TagAction::Keep,
            Some(tci) if is_tagged => TagAction::Replace(tci & !VID | vid),
            Some(_) => TagAction::Remove,
        }
    }

    /// What becomes of the tag at a transparent port, where a priority tag stays on a frame of VLAN 0.
    pub(super) fn transparent_action(self) -> TagAction {
        if self.vlan == VlanId::UNTAGGED { TagAction::Keep } else { self.action(true) }
    }
}

/// How a port is in VLANs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Membership {
    /// In all of them: no VLANs are configured here.
    #[default]
    Transparent,
    /// In those it was put into.
    Configured {
        /// The VLAN of frames without a tag, in both directions (the PVID); none refuses them.
        untagged: Option<VlanId>,
    },
}

/// The members of one VLAN, transparent ports apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Ports where it goes without a tag.
    pub untagged: PortSet,
    /// Ports where it goes with its tag.
    pub tagged: PortSet,
}

/// The VLANs there are. VLAN 0 always is.
#[derive(Debug)]
pub(super) struct Vlans {
    table: Vec<Option<Box<Members>>>,
    /// The ports that are in all VLANs.
    pub(super) transparent: PortSet,
}

impl Vlans {
    pub(super) fn new() -> Self {
        Self { table: vec![Some(Box::default())], transparent: PortSet::default() }
    }

    pub(super) fn get(&self, vlan: VlanId) -> Option<&Members> {
        self.table.get(vlan.index())?.as_deref()
    }

    pub(super) fn get_mut(&mut self, vlan: VlanId) -> Option<&mut Members> {
        self.table.get_mut(vlan.index())?.as_deref_mut()
    }

    /// Makes a VLAN; whether it is new.
    pub(super) fn create(&mut self, vlan: VlanId) -> bool {
        if self.table.len() <= vlan.index() {
            self.table.resize_with(vlan.index() + 1, || None);
        }
        let place = &mut self.table[vlan.index()];
        let is_new = place.is_none();
        place.get_or_insert_default();
        is_new
    }

    pub(super) fn remove(&mut self, vlan: VlanId) {
        if let Some(place) = self.table.get_mut(vlan.index()) {
            *place = None;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (VlanId, &Members)> {
        let table = (0..).zip(&self.table);
        table.filter_map(|(number, members)| Some((VlanId::new(number)?, members.as_deref()?)))
    }

    /// Takes a port out of every VLAN.
    pub(super) fn remove_port(&mut self, port: PortId) {
        self.transparent.remove(port);
        for members in self.table.iter_mut().flatten() {
            members.untagged.remove(port);
            members.tagged.remove(port);
        }
    }

    /// The VLAN of a frame that comes in on a port (§6.9.1).
    pub(super) fn classify(&self, port: PortId, membership: Membership, tag: Tag) -> Result<Admission, Refusal> {
        let tci = match tag {
            Tag::Absent => None,
            Tag::Present(tci) => Some(tci),
            Tag::Cut => return Err(Refusal::CutTag),
        };
        let vid = VlanId::new(tci.unwrap_or(0) & VID).ok_or(Refusal::ReservedVlan)?;
        let vlan = match membership {
            Membership::Transparent => vid,
            Membership::Configured { untagged } if vid == VlanId::UNTAGGED => {
                untagged.ok_or(Refusal::NoUntaggedVlan)?
            }
            Membership::Configured { .. } if self.has(vid, port) => vid,
            Membership::Configured { .. } => return Err(Refusal::NotMember(vid)),
        };
        Ok(Admission { vlan, tci })
    }

    /// What becomes of the tag at a port, if the port is in the frame's VLAN (§6.9.2).
    pub(super) fn action(&self, port: PortId, membership: Membership, frame: Admission) -> Option<TagAction> {
        if membership == Membership::Transparent {
            return Some(frame.transparent_action());
        }
        let members = self.get(frame.vlan)?;
        if members.untagged.contains(port) {
            Some(frame.action(false))
        } else {
            members.tagged.contains(port).then(|| frame.action(true))
        }
    }

    fn has(&self, vlan: VlanId, port: PortId) -> bool {
        self.get(vlan).is_some_and(|members| members.tagged.contains(port) || members.untagged.contains(port))
    }
}

#[cfg(test)]
#[path = "vlan_test.rs"]
mod tests;
