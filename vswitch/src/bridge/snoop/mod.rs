//! IGMP and MLD snooping: who listens to which group (RFC 4541).
//!
//! # Theory of operation
//! Reports enter a port into a group for the group membership interval; queries and PIM hellos make a port a router's.
//! A frame to a group then goes to the group's ports and the routers' ports. It floods instead, as without snooping,
//! wherever less could lose it: groups of the link itself, anything that is not IP, a segment without a querier (nobody
//! makes listeners report), the time until the first query's answers are in, and unknown groups after a listener found
//! the table full. Queries flood; reports and leaves go to routers' ports alone, so that listeners do not silence each
//! other.
//!
//! A leave changes nothing by itself: the querier asks whether others listen, and that question shortens the group's
//! time on every port to the last member query time (RFC 3376 §6.6.1); who still listens answers within it.
//!
//! Each VLAN is a segment of its own, each VLAN within a VLAN too, and IPv4 and IPv6 are apart.
//!
//! Neighbours: [`message`] parses; [`super::Bridge`] asks [`Snoop::reach`] before it notes what the frame says.

mod message;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::clock::Tick;
use super::vlan::Admission;
use crate::{PortId, VlanId};
use message::{Family, Query};
pub(super) use message::{Message, Packet, parse};

/// Ports in groups, and routers' ports, at most.
const CAPACITY: usize = 16384;
/// Segments at most.
const SEGMENTS: usize = 8192;
/// Query interval, until a querier says otherwise (RFC 3376 §8.2).
const QUERY_INTERVAL: Tick = 125_000;
/// Losses to be survived (RFC 3376 §8.1).
const ROBUSTNESS: u64 = 2;
/// What a querier says is taken up to here, so that no port stays in a group for days.
const LONGEST: Tick = 3_600_000;
/// Ageing passes over the table are at least this far apart.
const SWEEP_PAUSE: Tick = 1000;

/// A link as listeners and queriers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    vlan: VlanId,
    /// The VLANs of the tags behind the bridge's own, each plus one.
    inner: [u16; 2],
    family: Family,
}

/// What is known of a segment.
#[derive(Clone, Debug)]
struct Querier {
    /// The querier counts until then.
    present_until: Tick,
    /// The answers to its first query are in by then.
    settled_at: Tick,
    /// How long a report counts.
    membership: Tick,
    robustness: u64,
    /// Routers' ports, and until when.
    routers: Ports,
}

type Ports = BTreeMap<PortId, Tick>;

/// Who listens to what.
#[derive(Debug, Default)]
pub(super) struct Snoop {
    pub(super) is_on: bool,
    pub(super) floods_unregistered: bool,
    segments: BTreeMap<Segment, Querier>,
    groups: BTreeMap<(Segment, IpAddr), Ports>,
    /// Places in `groups` and in `routers`.
    entries: usize,
    /// A listener found the table full and may count on a flood until then.
    overflow_until: Tick,
    /// No entry expires before.
    next_expiry: Option<Tick>,
    malformed: u64,
}

/// Why a frame to a group floods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodReason {
    /// It is no IP packet to that group, or a malformed one.
    NotIp,
    /// The group is for the link itself: 224.0.0.0/24, ff02::1 and narrower scopes.
    LinkLocal,
    /// A question is for all listeners.
    Query,
    /// No querier has been heard of late, or its first query is not answered yet.
    NoQuerier,
    /// Listeners may be missing from a table that is full.
    TableFull,
    /// Nobody has reported, and such groups were set to flood.
    Unregistered,
}

impl fmt::Display for FloodReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIp => "it is not IP",
            Self::LinkLocal => "the group is the link's own",
            Self::Query => "queries are for all",
            Self::NoQuerier => "no querier is there",
            Self::TableFull => "the table of listeners is full",
            Self::Unregistered => "nobody has reported, and such groups flood",
        })
    }
}

/// Where a frame to a group goes.
#[derive(Debug)]
pub(super) enum Reach<'a> {
    /// Everywhere.
    Flood(FloodReason),
    /// To these, as far as they count yet.
    Ports { members: Option<&'a Ports>, routers: &'a Ports, tick: Tick },
}

impl Reach<'_> {
    /// The ports; empty for a flood.
    pub(super) fn ports(&self) -> impl Iterator<Item = PortId> {
        let (members, routers, tick) = match self {
            Self::Flood(_) => (None, None, 0),
            Self::Ports { members, routers, tick } => (*members, Some(*routers), *tick),
        };
        let members_now = members.into_iter().flat_map(move |ports| living(ports, tick));
        let routers_now = routers.into_iter().flat_map(move |ports| living(ports, tick));
        members_now.chain(routers_now.filter(move |port| !members.is_some_and(|ports| lives(ports, *port, tick))))
    }
}

/// One port in a group, as a table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The VLAN.
    pub vlan: VlanId,
    /// The group; none for a router's port.
    pub group: Option<IpAddr>,
    /// The port.
    pub port: PortId,
}

impl Snoop {
    /// Messages that were malformed.
    pub(super) fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self {
            is_on: self.is_on,
            floods_unregistered: self.floods_unregistered,
            malformed: self.malformed,
            ..Self::default()
        };
    }

    /// Forgets what was heard on a port.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.retain(|other, _| other != port);
    }

    /// Has groups flood until the next query is answered: the tree has changed, and listeners may be elsewhere.
    pub(super) fn unsettle(&mut self) {
        for querier in self.segments.values_mut() {
            querier.present_until = 0;
        }
    }

    /// Where a frame goes.
    pub(super) fn reach(&self, packet: &Packet, tick: Tick) -> Reach<'_> {
        let Some(querier) = self.segments.get(&packet.segment).filter(|querier| querier.is_settled(tick)) else {
            return Reach::Flood(match packet.message {
                Message::Query(_) => FloodReason::Query,
                Message::Other | Message::Malformed => FloodReason::NotIp,
                Message::Data(group) | Message::Hello { group, .. } if is_of_the_link(group) => FloodReason::LinkLocal,
                _ => FloodReason::NoQuerier,
            });
        };
        let routers = &querier.routers;
        match &packet.message {
            Message::Query(_) => Reach::Flood(FloodReason::Query),
            Message::Other | Message::Malformed => Reach::Flood(FloodReason::NotIp),
            Message::Report(_) | Message::Leave => Reach::Ports { members: None, routers, tick },
            Message::Data(group) | Message::Hello { group, .. } if is_of_the_link(*group) => {
                Reach::Flood(FloodReason::LinkLocal)
            }
            Message::Data(group) | Message::Hello { group, .. } => {
                let members = self.groups.get(&(packet.segment, *group));
                if members.is_some_and(|ports| living(ports, tick).next().is_some()) {
                    Reach::Ports { members, routers, tick }
                } else if tick < self.overflow_until {
                    Reach::Flood(FloodReason::TableFull)
                } else if self.floods_unregistered {
                    Reach::Flood(FloodReason::Unregistered)
                } else {
                    Reach::Ports { members: None, routers, tick }
                }
            }
        }
    }

    /// Takes in what a frame from `ingress` says.
    pub(super) fn note(&mut self, ingress: PortId, packet: &Packet, tick: Tick) {
        match &packet.message {
            Message::Query(query) => self.note_query(ingress, packet.segment, query, tick),
            Message::Report(groups) => {
                let time = self.segments.get(&packet.segment).map_or(DEFAULT_MEMBERSHIP, |querier| querier.membership);
                for group in groups.iter().filter(|group| !is_of_the_link(**group)) {
                    self.join(packet.segment, *group, ingress, tick.saturating_add(time), tick);
                }
            }
            Message::Hello { hold, .. } => self.note_router(ingress, packet.segment, tick + (*hold).min(LONGEST), tick),
            Message::Malformed => self.malformed += 1,
            Message::Leave | Message::Data(_) | Message::Other => {}
        }
    }

    /// When [`Snoop::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.next_expiry
    }

    /// Lets go of what is past its time.
    pub(super) fn expire(&mut self, tick: Tick) {
        if self.next_expiry.is_none_or(|due| tick < due) {
            return;
        }
        self.retain(|_, until| tick < until);
        self.segments.retain(|_, querier| tick < querier.present_until || !querier.routers.is_empty());
        let groups = self.groups.values().chain(self.segments.values().map(|querier| &querier.routers));
        let entries = groups.flat_map(BTreeMap::values).copied();
        let queriers = self.segments.values().map(|querier| querier.present_until).filter(|until| tick < *until);
        self.next_expiry = entries.chain(queriers).min().map(|due| due.max(tick + SWEEP_PAUSE));
    }

    /// The ports in groups, and routers' ports, in order of VLANs.
    pub(super) fn listeners(&self, tick: Tick) -> impl Iterator<Item = Listener> {
        let groups = self.groups.iter().map(|((segment, group), ports)| (segment.vlan, Some(*group), ports));
        let routers = self.segments.iter().map(|(segment, querier)| (segment.vlan, None, &querier.routers));
        routers
            .chain(groups)
            .flat_map(move |(vlan, group, ports)| living(ports, tick).map(move |port| Listener { vlan, group, port }))
    }

    fn note_query(&mut self, ingress: PortId, segment: Segment, query: &Query, tick: Tick) {
        let is_new = !self.segments.contains_key(&segment);
        if is_new && self.segments.len() >= SEGMENTS {
            return;
        }
        let querier = self.segments.entry(segment).or_insert_with(Querier::unheard);
        if tick >= querier.present_until {
            querier.settled_at = tick + query.response;
        }
        if query.group.is_none() {
            querier.robustness = query.robustness.unwrap_or(ROBUSTNESS);
            let cycle = querier.robustness * query.interval.unwrap_or(QUERY_INTERVAL);
            querier.membership = (cycle + query.response).min(LONGEST);
        }
        // The other querier present interval (RFC 3376 §8.5) is half a response time shorter than a membership.
        let present_until = tick + querier.membership - (query.response / 2).min(querier.membership / 2);
        querier.present_until = querier.present_until.max(present_until);
        let last_member_time = (query.response * querier.robustness).max(1000);
        self.note_expiry(present_until);
        if query.has_source_address {
            self.note_router(ingress, segment, present_until, tick);
        }
        if let Some(group) = query.group.filter(|_| query.shortens)
            && let Some(ports) = self.groups.get_mut(&(segment, group))
        {
            for until in ports.values_mut() {
                *until = (*until).min(tick + last_member_time);
            }
            self.note_expiry(tick + last_member_time);
        }
    }

    fn note_router(&mut self, port: PortId, segment: Segment, until: Tick, tick: Tick) {
        if self.segments.len() >= SEGMENTS && !self.segments.contains_key(&segment) {
            return;
        }
        let routers = &mut self.segments.entry(segment).or_insert_with(Querier::unheard).routers;
        let is_entered = enter(routers, &mut self.entries, port, until);
        self.note_entered(is_entered, until, tick);
    }

    fn join(&mut self, segment: Segment, group: IpAddr, port: PortId, until: Tick, tick: Tick) {
        let is_full = self.entries >= CAPACITY;
        let is_entered = match self.groups.get_mut(&(segment, group)) {
            Some(ports) => enter(ports, &mut self.entries, port, until),
            None if is_full => false,
            None => enter(self.groups.entry((segment, group)).or_default(), &mut self.entries, port, until),
        };
        self.note_entered(is_entered, until, tick);
    }

    fn note_entered(&mut self, is_entered: bool, until: Tick, tick: Tick) {
        if is_entered {
            self.note_expiry(until);
        } else {
            self.overflow_until = tick + DEFAULT_MEMBERSHIP;
        }
    }

    fn note_expiry(&mut self, due: Tick) {
        self.next_expiry = Some(self.next_expiry.map_or(due, |next| next.min(due)));
    }

    fn retain(&mut self, keep: impl Fn(PortId, Tick) -> bool) {
        let mut entries = 0;
        for ports in self.segments.values_mut().map(|querier| &mut querier.routers) {
            ports.retain(|port, until| keep(*port, *until));
            entries += ports.len();
        }
        self.groups.retain(|_, ports| {
            ports.retain(|port, until| keep(*port, *until));
            entries += ports.len();
            !ports.is_empty()
        });
        self.entries = entries;
    }
}

impl Segment {
    /// The segment of a frame that was let in.
    fn new(frame: Admission, inner: [u16; 2], family: Family) -> Self {
        Self { vlan: frame.vlan, inner, family }
    }
}

impl Querier {
    fn unheard() -> Self {
        Self {
            present_until: 0,
            settled_at: 0,
            membership: DEFAULT_MEMBERSHIP,
            robustness: ROBUSTNESS,
            routers: Ports::new(),
        }
    }

    fn is_settled(&self, tick: Tick) -> bool {
        tick < self.present_until && self.settled_at <= tick
    }
}

/// The group membership interval (RFC 3376 §8.4) with the timers' defaults.
const DEFAULT_MEMBERSHIP: Tick = ROBUSTNESS * QUERY_INTERVAL + message::RESPONSE;

/// Groups that flood because hosts need not report them (RFC 4541 §2.1.2, §3).
fn is_of_the_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
        IpAddr::V6(group) => {
            let scope = group.octets()[1] & 0x0f;
            scope < 2 || group.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1]
        }
    }
}

/// Enters a port or prolongs its time; false if there is no room.
fn enter(ports: &mut Ports, entries: &mut usize, port: PortId, until: Tick) -> bool {
    if let Some(time) = ports.get_mut(&port) {
        *time = until;
    } else if *entries < CAPACITY {
        ports.insert(port, until);
        *entries += 1;
    } else {
        return false;
    }
    true
}

fn lives(ports: &Ports, port: PortId, tick: Tick) -> bool {
    ports.get(&port).is_some_and(|until| tick < *until)
}

fn living(ports: &Ports, tick: Tick) -> impl Iterator<Item = PortId> {
    ports.iter().filter(move |(_, until)| tick < **until).map(|(port, _)| *port)
}

#[cfg(test)]
pub(super) mod frames;

#[cfg(test)]
#[path = "snoop_test.rs"]
mod tests;
