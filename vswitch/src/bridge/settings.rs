//! What an administrator sets and sees of the bridge: ports, VLANs, stations.
//!
//! Invariant: whatever follows from a setting (the sets of members, whether a port may send, which stations are still
//! where they were learned) is brought up to date by the setter, so that [`Bridge::forward`] never has to look for it.
//!
//! Neighbour: [`super`] decides by these settings.

use std::time::{Duration, Instant};

use link::MacAddr;

use super::fdb::{Fdb, Station};
use super::storm::{StormControl, StormLimits};
use super::vlan::{Members, Membership};
use super::{Bridge, LeftOut, Listener, Mirror, Port, PortSet, Refusal};
use crate::stp::PortState;
use crate::{PortId, VlanId};

/// What was set for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// Whether something is plugged in.
    pub connected: bool,
    /// Spanning tree's word.
    pub state: PortState,
    /// How it is in VLANs; [`Bridge::tagged_vlans`] lists the tagged ones.
    pub membership: Membership,
    /// Storm control.
    pub storm: StormLimits,
    /// Stations it may bring in; frames from one more are dropped. None is no limit.
    pub mac_limit: Option<u32>,
    /// Whether sources are learned. Where they are not, frames pass all the same, and only static entries lead here.
    pub learning: bool,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            connected: false,
            state: PortState::Forwarding,
            membership: Membership::Transparent,
            storm: StormLimits::default(),
            mac_limit: None,
            learning: true,
        }
    }
}

/// A setting that the bridge does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BridgeError {
    /// The port was not added.
    #[error("port {0} does not exist")]
    NoSuchPort(PortId),
    /// The VLAN was not created.
    #[error("VLAN {0} does not exist")]
    NoSuchVlan(VlanId),
    /// The VLAN was created before.
    #[error("VLAN {0} exists")]
    VlanExists(VlanId),
    /// The VLAN cannot go while ports are in it.
    #[error("VLAN {0} has ports")]
    VlanInUse(VlanId),
    /// VLAN 0 is always there, and no tag can name it.
    #[error("VLAN 0 is the network of untagged frames: it stays, and has no tagged ports")]
    VlanZero,
    /// The VLAN is the port's untagged one.
    #[error("port {port}: VLAN {vlan} is its untagged one")]
    IsUntagged {
        /// The port.
        port: PortId,
        /// The VLAN.
        vlan: VlanId,
    },
    /// The VLAN is none of the port's tagged ones.
    #[error("port {port}: VLAN {vlan} is none of its tagged ones")]
    NotTagged {
        /// The port.
        port: PortId,
        /// The VLAN.
        vlan: VlanId,
    },
    /// The port cannot watch itself.
    #[error("port {0} cannot be both a source and the destination of a mirror")]
    MirrorLoop(PortId),
    /// The address is a group's or nobody's.
    #[error("{0} is not a station's address")]
    NotAStation(MacAddr),
}

impl Bridge {
    /// Adds a port that forwards, transparent to VLANs. Nothing leaves by it before [`Bridge::set_connected`]. A port
    /// that is there already is left as it is.
    pub fn add_port(&mut self, port: PortId) {
        if self.ports.len() <= port.index() {
            self.ports.resize_with(port.index() + 1, || None);
        }
        if self.ports[port.index()].is_none() {
            self.ports[port.index()] = Some(Port::new());
            self.vlans.transparent.insert(port);
        }
    }

    /// Removes a port with its settings and stations, static ones too.
    pub fn remove_port(&mut self, port: PortId) {
        if let Some(place) = self.ports.get_mut(port.index()).filter(|place| place.is_some()) {
            *place = None;
            self.open.remove(port);
            self.plain.remove(port);
            self.vlans.remove_port(port);
            self.fdb.remove_port(port);
            self.snoop.forget_port(port);
            self.remove_mirror(port);
            for mirror in &mut self.mirrors {
                mirror.rx.remove(port);
                mirror.tx.remove(port);
            }
        }
    }

    /// Says whether something is plugged into the port. When the last leaves, its stations are forgotten.
    pub fn set_connected(&mut self, port: PortId, connected: bool) {
        if !connected {
            self.fdb.forget_port(port);
            self.snoop.forget_port(port);
        }
        // Of a port that is not there, nothing is to be said.
        let _ = self.change(port, |settings| settings.connected = connected);
    }

    /// Spanning tree's word on the port.
    pub fn set_state(&mut self, port: PortId, state: PortState) {
        let _ = self.change(port, |settings| settings.state = state);
    }

    /// Forgets the stations learned on the port, and its groups, because the spanning tree has changed. Groups flood
    /// until the next query is answered: listeners may be elsewhere now.
    pub fn flush(&mut self, port: PortId) {
        self.fdb.forget_port(port);
        self.snoop.forget_port(port);
        self.snoop.unsettle();
    }

    /// Whether every frame goes to every port of its VLAN. A hub learns nothing; what was learned is forgotten.
    pub fn set_hub(&mut self, is_hub: bool) {
        self.is_hub = is_hub;
        self.is_special = is_hub || !self.mirrors.is_empty();
        if is_hub {
            self.fdb.forget_all();
        }
    }

    /// Whether it is a hub.
    #[must_use]
    pub fn is_hub(&self) -> bool {
        self.is_hub
    }

    /// Whether BPDUs are for spanning tree. If not, they are forwarded as to any group.
    pub fn set_stp(&mut self, is_on: bool) {
        self.is_stp_on = is_on;
    }

    /// Whether BPDUs are for spanning tree.
    #[must_use]
    pub fn is_stp_on(&self) -> bool {
        self.is_stp_on
    }

    /// Whether frames to IP groups go to listeners and routers only. Switched off, it forgets who listens.
    pub fn set_snooping(&mut self, is_on: bool) {
        self.snoop.is_on = is_on;
        if !is_on {
            self.snoop.clear();
        }
    }

    /// Whether IGMP and MLD are looked at.
    #[must_use]
    pub fn is_snooping(&self) -> bool {
        self.snoop.is_on
    }

    /// Whether groups that nobody has reported flood, where they otherwise go to routers only.
    pub fn set_flood_unregistered(&mut self, floods: bool) {
        self.snoop.floods_unregistered = floods;
    }

    /// Whether groups that nobody has reported flood.
    #[must_use]
    pub fn floods_unregistered(&self) -> bool {
        self.snoop.floods_unregistered
    }

    /// Who listens to which group, and routers' ports.
    pub fn listeners(&self, now: Instant) -> impl Iterator<Item = Listener> {
        self.snoop.listeners(self.clock.at(now))
    }

    /// IGMP, MLD and PIM messages that were malformed; they went where other frames to groups go.
    #[must_use]
    pub fn malformed_reports(&self) -> u64 {
        self.snoop.malformed()
    }

    /// Sets up a mirror, in place of one with the same destination. Stations on the destination are forgotten.
    ///
    /// # Errors
    /// There is no such destination, or it is one of the mirror's sources.
    pub fn set_mirror(&mut self, mirror: Mirror) -> Result<(), BridgeError> {
        let port = mirror.destination;
        self.port_mut(port)?;
        if mirror.rx.contains(port) || mirror.tx.contains(port) {
            return Err(BridgeError::MirrorLoop(port));
        }
        self.remove_mirror(port);
        self.mirrors.push(mirror);
        self.is_special = true;
        self.fdb.forget_port(port);
        self.snoop.forget_port(port);
        self.change(port, |_| {})
    }

    /// Removes the mirror to a port; whether there was one.
    pub fn remove_mirror(&mut self, destination: PortId) -> bool {
        let before = self.mirrors.len();
        self.mirrors.retain(|mirror| mirror.destination != destination);
        self.is_special = self.is_hub || !self.mirrors.is_empty();
        // The port may be on its way out, and then it has no settings to change.
        let _ = self.change(destination, |_| {});
        self.mirrors.len() != before
    }

    /// The mirrors there are.
    #[must_use]
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// The ports there are.
    pub fn ports(&self) -> impl Iterator<Item = PortId> {
        (1..).zip(&self.ports).filter(|(_, place)| place.is_some()).filter_map(|(number, _)| PortId::new(number))
    }

    /// What was set for a port, if it is there.
    #[must_use]
    pub fn port_settings(&self, port: PortId) -> Option<&PortSettings> {
        self.port(port).map(|port| &port.settings)
    }

    /// The tagged VLANs of a port, in order. A transparent port has none, being in all.
    pub fn tagged_vlans(&self, port: PortId) -> impl Iterator<Item = VlanId> {
        self.vlans.iter().filter(move |(_, members)| members.tagged.contains(port)).map(|(vlan, _)| vlan)
    }

    /// Storm control of a port; buckets begin full.
    ///
    /// # Errors
    /// There is no such port.
    pub fn set_storm_limits(&mut self, port: PortId, limits: StormLimits) -> Result<(), BridgeError> {
        let place = self.port_mut(port)?;
        place.settings.storm = limits;
        place.storm = StormControl::new(limits);
        Ok(())
    }

    /// Whether a storm is on: frames were dropped, and it was not calm since.
    #[must_use]
    pub fn is_storming(&self, port: PortId, now: Instant) -> bool {
        let storm = self.port(port).and_then(|port| port.storm.as_ref());
        storm.is_some_and(|storm| storm.is_storming(self.clock.at(now)))
    }

    /// How many stations a port may bring in. Stations that are there already stay. A hub, which learns nothing, and a
    /// port with learning off have no limit.
    ///
    /// # Errors
    /// There is no such port.
    pub fn set_mac_limit(&mut self, port: PortId, limit: Option<u32>) -> Result<(), BridgeError> {
        let place = self.port_mut(port)?;
        place.settings.mac_limit = limit;
        place.limit = limit.unwrap_or(u32::MAX);
        place.is_limit_told = false;
        Ok(())
    }

    /// Whether a port's sources are learned; see [`PortSettings::learning`]. Switched off, it forgets what was learned.
    ///
    /// # Errors
    /// There is no such port.
    pub fn set_learning(&mut self, port: PortId, is_on: bool) -> Result<(), BridgeError> {
        self.change(port, |settings| settings.learning = is_on)?;
        if !is_on {
            self.fdb.forget_port(port);
        }
        Ok(())
    }

    /// Puts a port into all VLANs, as it was when it was added.
    ///
    /// # Errors
    /// There is no such port.
    pub fn set_transparent(&mut self, port: PortId) -> Result<(), BridgeError> {
        self.change(port, |settings| settings.membership = Membership::Transparent)?;
        self.vlans.remove_port(port);
        self.vlans.transparent.insert(port);
        Ok(())
    }

    /// Sets the VLAN of frames without a tag. A transparent port becomes a configured one, with this VLAN alone.
    ///
    /// # Errors
    /// There is no such port, or no such VLAN.
    pub fn set_untagged(&mut self, port: PortId, vlan: Option<VlanId>) -> Result<(), BridgeError> {
        let before = self.port_mut(port)?.settings.membership;
        if let Some(vlan) = vlan {
            let members = self.vlans.get_mut(vlan).ok_or(BridgeError::NoSuchVlan(vlan))?;
            members.tagged.remove(port);
            members.untagged.insert(port);
        }
        match before {
            Membership::Transparent => {
                self.vlans.transparent.remove(port);
                self.fdb.forget_port(port);
            }
            Membership::Configured { untagged: Some(old) } if vlan != Some(old) => {
                if let Some(members) = self.vlans.get_mut(old) {
                    members.untagged.remove(port);
                }
                self.fdb.forget_port_vlan(port, old);
            }
            Membership::Configured { .. } => {}
        }
        self.change(port, |settings| settings.membership = Membership::Configured { untagged: vlan })
    }

    /// Adds a tagged VLAN to a port. A transparent port becomes a configured one, with VLAN 0 untagged and this one.
    ///
    /// # Errors
    /// There is no such port or VLAN; it is VLAN 0; it is the port's untagged VLAN.
    pub fn add_tagged(&mut self, vlan: VlanId, port: PortId) -> Result<(), BridgeError> {
        let membership = self.port_mut(port)?.settings.membership;
        if vlan == VlanId::UNTAGGED {
            return Err(BridgeError::VlanZero);
        }
        let members = self.vlans.get_mut(vlan).ok_or(BridgeError::NoSuchVlan(vlan))?;
        if members.untagged.contains(port) {
            return Err(BridgeError::IsUntagged { port, vlan });
        }
        members.tagged.insert(port);
        if membership == Membership::Transparent {
            self.set_untagged(port, Some(VlanId::UNTAGGED))?;
        }
        Ok(())
    }

    /// Takes a tagged VLAN from a port.
    ///
    /// # Errors
    /// There is no such port or VLAN, or the port does not have it tagged.
    pub fn remove_tagged(&mut self, vlan: VlanId, port: PortId) -> Result<(), BridgeError> {
        self.port_mut(port)?;
        let members = self.vlans.get_mut(vlan).ok_or(BridgeError::NoSuchVlan(vlan))?;
        if !members.tagged.remove(port) {
            return Err(BridgeError::NotTagged { port, vlan });
        }
        self.fdb.forget_port_vlan(port, vlan);
        Ok(())
    }

    /// Makes a VLAN that ports can be put into. Transparent ports are in all, made or not.
    ///
    /// # Errors
    /// It exists.
    pub fn create_vlan(&mut self, vlan: VlanId) -> Result<(), BridgeError> {
        if self.vlans.create(vlan) { Ok(()) } else { Err(BridgeError::VlanExists(vlan)) }
    }

    /// Removes a VLAN that no port was put into.
    ///
    /// # Errors
    /// It does not exist, it is VLAN 0, or it has ports.
    pub fn remove_vlan(&mut self, vlan: VlanId) -> Result<(), BridgeError> {
        let members = self.vlans.get(vlan).ok_or(BridgeError::NoSuchVlan(vlan))?;
        if vlan == VlanId::UNTAGGED {
            return Err(BridgeError::VlanZero);
        }
        if !members.untagged.is_empty() || !members.tagged.is_empty() {
            return Err(BridgeError::VlanInUse(vlan));
        }
        self.vlans.remove(vlan);
        Ok(())
    }

    /// The VLANs that were made, and VLAN 0, in order, with the ports put into them.
    pub fn vlans(&self) -> impl Iterator<Item = (VlanId, &Members)> {
        self.vlans.iter()
    }

    /// The ports that are in all VLANs.
    #[must_use]
    pub fn transparent_ports(&self) -> &PortSet {
        &self.vlans.transparent
    }

    /// The forwarding database, to read its settings and counts.
    #[must_use]
    pub fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// The forwarding database, to change its settings and make it forget.
    pub fn fdb_mut(&mut self) -> &mut Fdb {
        &mut self.fdb
    }

    /// How long a station is remembered without being heard.
    pub fn set_ageing(&mut self, ageing: Duration) {
        self.fdb.set_ageing(ageing);
    }

    /// The stations known, in no order.
    pub fn stations(&self, now: Instant) -> impl Iterator<Item = Station> {
        self.fdb.stations(self.clock.at(now))
    }

    /// One station, if it is known.
    #[must_use]
    pub fn station(&self, vlan: VlanId, address: MacAddr, now: Instant) -> Option<Station> {
        self.fdb.find(vlan, address, self.clock.at(now))
    }

    /// Enters a station that neither moves nor ages, until [`Fdb::forget`] or the port's removal.
    ///
    /// # Errors
    /// There is no such port, or no station can have the address.
    pub fn add_static(&mut self, vlan: VlanId, address: MacAddr, port: PortId) -> Result<(), BridgeError> {
        self.port_mut(port)?;
        if address.is_multicast() || address == MacAddr([0; 6]) {
            return Err(BridgeError::NotAStation(address));
        }
        self.fdb.set_static(vlan, address, port);
        Ok(())
    }

    /// Events that were not kept because there were too many.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.events.lost
    }

    fn port_mut(&mut self, port: PortId) -> Result<&mut Port, BridgeError> {
        self.ports.get_mut(port.index()).and_then(Option::as_mut).ok_or(BridgeError::NoSuchPort(port))
    }

    /// Changes a port's settings, and what follows from them.
    fn change(&mut self, port: PortId, change: impl FnOnce(&mut PortSettings)) -> Result<(), BridgeError> {
        let mirror = self.mirrors.iter().find(|mirror| mirror.destination == port).map(|mirror| mirror.allow_ingress);
        let place = self.port_mut(port)?;
        change(&mut place.settings);
        let PortSettings { connected, state, membership, learning, .. } = place.settings;
        (place.closed_in, place.closed_out) = match (mirror, state) {
            _ if !connected => (Some(Refusal::NotConnected), Some(LeftOut::NotConnected)),
            (Some(takes), _) => ((!takes).then_some(Refusal::MirrorDestination), Some(LeftOut::MirrorDestination)),
            (None, PortState::Forwarding) => (None, None),
            (None, PortState::Discarding | PortState::Learning) => (None, Some(LeftOut::Blocked(state))),
        };
        let is_open = place.closed_out.is_none();
        let is_plain = is_open && place.closed_in.is_none() && learning && membership == Membership::Transparent;
        self.open.set(port, is_open);
        self.plain.set(port, is_plain);
        Ok(())
    }
}
