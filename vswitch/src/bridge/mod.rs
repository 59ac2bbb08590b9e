//! The forwarding decision: which ports a frame leaves by, with which tag, and why (IEEE 802.1Q-2018 clause 8.6).
//!
//! Pure: a frame, the port it came in on and the time go in, and a list of [`Egress`] comes out; the caller sends,
//! applies the [`TagAction`], and counts a frame that went nowhere under its [`DropReason`].
//!
//! # Theory of operation
//! A frame passes these stages; each that refuses it names a [`Refusal`]:
//!
//! ```text
//! admit      is the port up? source and destination fit to be bridged? spanning tree?   vlan: in which VLAN is it?
//! lookup     where is the destination?                                                  fdb
//! learn      enter the source; has the port too many?                                   fdb
//! storm      is it one flooded frame too many?                                          storm
//! route      the destination's port, the group's ports, or all ports of the VLAN        snoop, vlan, portset
//! mirror     copies for those who watch, of dropped frames too                          mirror
//! ```
//!
//! The destination is looked up before the source is learned, so what a frame teaches never decides on that frame.
//! [`explain`] walks the same stages by the same functions, and changes nothing.
//!
//! Of the group addresses that IEEE 802.1Q-2018 table 8-1 keeps from being forwarded, only the pause address is kept
//! here, and that of BPDUs while spanning tree is on: in a lab, LLDP and LACP are to reach the other machine.
//!
//! | file | what it holds |
//! |---|---|
//! | `settings` | what an administrator sets and sees |
//! | `fdb` `hash` `address` `clock` | stations; their hash; addresses and time as numbers |
//! | `vlan` `portset` | tags and membership |
//! | `storm` `mirror` `snoop` | storm control, mirrors, IGMP and MLD |
//! | `explain` | a decision, step by step, for people |

mod address;
mod clock;
pub mod explain;
pub mod fdb;
mod hash;
mod mirror;
mod portset;
mod settings;
mod snoop;
mod storm;
mod vlan;

use std::fmt;
use std::time::Instant;

use link::DropReason;

use crate::stp::PortState;
use crate::{Event, PortId, VlanId};
use address::Address;
use clock::{Clock, Tick};
use fdb::{Fdb, Key, Learned};
pub use mirror::Mirror;
pub use portset::PortSet;
pub use settings::{BridgeError, PortSettings};
pub use snoop::{FloodReason, Listener};
use snoop::{Reach, Snoop};
use storm::{StormControl, Taken};
pub use storm::{StormKind, StormLimits};
use vlan::{Admission, Tag, Vlans};
pub use vlan::{Members, Membership};

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

/// What becomes of a frame. Mirrors have been listed whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves by the ports that were listed; by none if its destination is where it came from, or nobody is there.
    Forward,
    /// It is a BPDU, and spanning tree is on: the frame is for [`crate::stp`].
    Bpdu,
    /// It goes nowhere.
    Drop(DropReason),
}

/// Why a frame is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bridge has no such port.
    NoPort,
    /// Nothing is plugged into the port.
    NotConnected,
    /// The port only takes what a mirror sends.
    MirrorDestination,
    /// The source address is a group's, or nobody's (all zeroes).
    BadSource,
    /// The frame asks the far end of this cable to pause (IEEE 802.3 annex 31B).
    Pause,
    /// It is a BPDU, and spanning tree takes it.
    Bpdu,
    /// Spanning tree has the port discard.
    Discarding,
    /// The frame ends within its tag.
    CutTag,
    /// The tag has VLAN 4095, which no frame may carry (IEEE 802.1Q-2018 table 9-2).
    ReservedVlan,
    /// The frame has no tag, and the port no VLAN for such frames.
    NoUntaggedVlan,
    /// The port is not in the tag's VLAN.
    NotMember(VlanId),
    /// The source is one station more than the port may bring in.
    MacLimit,
    /// Spanning tree has the port learn, and not yet forward.
    Learning,
    /// It is one frame of this kind too many.
    Storm(StormKind),
}

impl Refusal {
    /// What becomes of the frame.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        Verdict::Drop(match self {
            Self::Bpdu => return Verdict::Bpdu,
            Self::NoPort | Self::NotConnected => DropReason::LinkDown,
            Self::MirrorDestination | Self::Discarding | Self::Learning => DropReason::Blocked,
            Self::BadSource | Self::Pause => DropReason::Reserved,
            Self::CutTag => DropReason::Malformed,
            Self::ReservedVlan | Self::NoUntaggedVlan | Self::NotMember(_) => DropReason::VlanRefused,
            Self::MacLimit => DropReason::MacLimit,
            Self::Storm(_) => DropReason::Storm,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("there is no such port"),
            Self::NotConnected => f.write_str("nothing is plugged into the port"),
            Self::MirrorDestination => f.write_str("the port is a mirror's destination"),
            Self::BadSource => f.write_str("no station has this source address"),
            Self::Pause => f.write_str("pause frames are for the far end of the cable only"),
            Self::Bpdu => f.write_str("it is a BPDU, which spanning tree takes"),
            Self::Discarding => f.write_str("spanning tree has the port discarding"),
            Self::CutTag => f.write_str("it ends within its tag"),
            Self::ReservedVlan => f.write_str("VLAN 4095 is reserved"),
            Self::NoUntaggedVlan => f.write_str("the port has no VLAN for frames without a tag"),
            Self::NotMember(vlan) => write!(f, "the port is not in VLAN {vlan}"),
            Self::MacLimit => f.write_str("the port brings in as many stations as it may"),
            Self::Learning => f.write_str("spanning tree has the port learning only"),
            Self::Storm(kind) => write!(f, "the port brings in too much {kind}"),
        }
    }
}

/// Why a frame does not leave by a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It came in there.
    Ingress,
    /// The bridge has no such port.
    NoPort,
    /// Nothing is plugged in.
    NotConnected,
    /// The port only takes what a mirror sends.
    MirrorDestination,
    /// Spanning tree does not have the port forwarding.
    Blocked(PortState),
    /// The port is not in the frame's VLAN.
    NotMember,
    /// The destination is elsewhere.
    Elsewhere,
    /// Nobody there listens to the group.
    NoListener,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "the frame came in there",
            Self::NoPort => "there is no such port",
            Self::NotConnected => "nothing is plugged in",
            Self::MirrorDestination => "it is a mirror's destination",
            Self::Blocked(PortState::Learning) => "spanning tree has it learning only",
            Self::Blocked(_) => "spanning tree has it discarding",
            Self::NotMember => "it is not in the VLAN",
            Self::Elsewhere => "the destination is elsewhere",
            Self::NoListener => "nobody there listens to the group",
        })
    }
}

/// The bridge: settings and tables.
#[derive(Debug)]
pub struct Bridge {
    ports: Vec<Option<Port>>,
    /// The ports that may send, whatever the frame.
    open: PortSet,
    /// The ports that take and send any untagged frame between known stations: transparent, open both ways, learning.
    plain: PortSet,
    vlans: Vlans,
    fdb: Fdb,
    clock: Clock,
    snoop: Snoop,
    mirrors: Vec<Mirror>,
    is_hub: bool,
    is_stp_on: bool,
    /// It is a hub, or there are mirrors: no frame is the common case.
    is_special: bool,
    events: Events,
}

/// A port: what was set, and what follows from it.
#[derive(Debug)]
struct Port {
    settings: PortSettings,
    /// Why it takes no frame at all.
    closed_in: Option<Refusal>,
    /// Why it sends no frame at all; in step with [`Bridge::open`].
    closed_out: Option<LeftOut>,
    /// Stations it may bring in.
    limit: u32,
    storm: Option<Box<StormControl>>,
    /// The event of the MAC limit was told, and nothing was learned since.
    is_limit_told: bool,
}

impl Port {
    fn new() -> Self {
        Self {
            settings: PortSettings::default(),
            closed_in: Some(Refusal::NotConnected),
            closed_out: Some(LeftOut::NotConnected),
            limit: u32::MAX,
            storm: None,
            is_limit_told: false,
        }
    }
}

/// What a decision needs of a frame's first bytes.
#[derive(Clone, Copy, Debug)]
struct Header {
    destination: Address,
    source: Address,
    /// The EtherType behind them.
    kind: u16,
}

impl Header {
    #[inline]
    fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<14>()?;
        // The second word begins with the source and ends with the EtherType.
        let first = u64::from_be_bytes(*head.first_chunk()?);
        let second = u64::from_be_bytes(*head.last_chunk()?);
        let (destination, source) = (Address::from_high_bits(first), Address::from_high_bits(second));
        Some(Self { destination, source, kind: second as u16 })
    }
}

/// Whom a frame is for, as far as the bridge knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The station on this port.
    Station(PortId),
    /// A station that is not known.
    Unknown,
    /// Everybody.
    Broadcast,
    /// A group.
    Group,
    /// One station, which a hub does not look for.
    Hub,
}

impl Destination {
    /// What storm control takes it for.
    #[inline]
    fn storm_kind(self) -> Option<StormKind> {
        match self {
            Self::Unknown => Some(StormKind::UnknownUnicast),
            Self::Broadcast => Some(StormKind::Broadcast),
            Self::Group => Some(StormKind::Multicast),
            Self::Station(_) | Self::Hub => None,
        }
    }
}

/// Where BPDUs go (IEEE 802.1Q-2018 table 8-1).
const BPDU: u64 = 0x0180_c200_0000;
/// Where pause frames go.
const PAUSE: u64 = 0x0180_c200_0001;

impl Bridge {
    /// A bridge without ports. `seed` keys its tables, so that nobody outside can choose addresses that collide.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            ports: Vec::new(),
            open: PortSet::default(),
            plain: PortSet::default(),
            vlans: Vlans::new(),
            fdb: Fdb::new(seed),
            clock: Clock::default(),
            snoop: Snoop::default(),
            mirrors: Vec::new(),
            is_hub: false,
            is_stp_on: false,
            is_special: false,
            events: Events::default(),
        }
    }

    /// Decides on one frame that came in on `ingress`: appends to `out` where it goes, copies for mirrors last.
    ///
    /// `frame` begins with the destination address and is whole: snooping reads messages to their end. A frame still to
    /// be segmented is decided on once.
    pub fn forward(&mut self, ingress: PortId, frame: &[u8], now: Instant, out: &mut Vec<Egress>) -> Verdict {
        let tick = self.clock.advance(now);
        let Some(port) = self.pass(ingress, frame, tick) else { return self.forward_any(ingress, frame, tick, out) };
        out.push(Egress { port, tag: TagAction::Keep });
        Verdict::Forward
    }

    /// When [`Bridge::expire`] has something to do, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        // The clock counts whole milliseconds: one more, so that the time has come when the owner wakes.
        let due = self.fdb.deadline().into_iter().chain(self.snoop.deadline()).min()?;
        self.clock.instant(due.saturating_add(1))
    }

    /// Lets go of what is past its time.
    pub fn expire(&mut self, now: Instant) {
        let tick = self.clock.advance(now);
        self.fdb.expire(tick);
        self.snoop.expire(tick);
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events.list)
    }

    /// The common case by itself, for its cost: an untagged frame between known stations on two plain ports. None, and
    /// nothing has changed, if it is any other case.
    #[inline]
    fn pass(&mut self, ingress: PortId, frame: &[u8], tick: Tick) -> Option<PortId> {
        let Header { destination, source, kind } = Header::parse(frame)?;
        if kind == vlan::TPID || destination.is_group() || !source.is_station() || self.is_special {
            return None;
        }
        if !self.plain.contains(ingress) {
            return None;
        }
        let port = self.fdb.lookup(Key::new(VlanId::UNTAGGED, destination), tick)?;
        if port == ingress || !self.plain.contains(port) {
            return None;
        }
        self.fdb.hear(Key::new(VlanId::UNTAGGED, source), ingress, tick).then_some(port)
    }

    #[inline(never)]
    fn forward_any(&mut self, ingress: PortId, frame: &[u8], tick: Tick, out: &mut Vec<Egress>) -> Verdict {
        let Some(header) = Header::parse(frame) else { return Verdict::Drop(DropReason::Runt) };
        let (tag, first) = (Tag::parse(header.kind, frame), out.len());
        let decided = self.decide(ingress, header, tag, frame, tick, out);
        if !self.mirrors.is_empty() {
            self.mirror(ingress, tag, first, out);
        }
        match decided {
            Ok(()) => Verdict::Forward,
            Err(refusal) => refusal.verdict(),
        }
    }

    fn decide(
        &mut self,
        ingress: PortId,
        header: Header,
        tag: Tag,
        frame: &[u8],
        tick: Tick,
        out: &mut Vec<Egress>,
    ) -> Result<(), Refusal> {
        let port = self.port(ingress).ok_or(Refusal::NoPort)?;
        let admission = self.admit(ingress, port, header, tag)?;
        let destination = self.destination(admission.vlan, header.destination, tick);
        let state = port.settings.state;
        if self.learns(port) {
            let key = Key::new(admission.vlan, header.source);
            let learned = self.fdb.learn(key, ingress, port.limit, tick);
            self.note_learned(ingress, admission.vlan, header.source, learned, tick)?;
        }
        if state == PortState::Learning {
            return Err(Refusal::Learning);
        }
        self.take_storm(ingress, destination, tick)?;
        if self.snoops(destination) {
            let packet = snoop::parse(frame, admission);
            self.reach_group(ingress, admission, &self.snoop.reach(&packet, tick), out);
            self.snoop.note(ingress, &packet, tick);
        } else {
            self.route(ingress, admission, destination, out);
        }
        Ok(())
    }

    fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(port.index())?.as_ref()
    }

    /// Whether a frame may come in, and in which VLAN it then is.
    fn admit(&self, ingress: PortId, port: &Port, header: Header, tag: Tag) -> Result<Admission, Refusal> {
        if let Some(refusal) = port.closed_in {
            return Err(refusal);
        }
        if !header.source.is_station() {
            return Err(Refusal::BadSource);
        }
        if header.destination.is_group() {
            if header.destination.number() == PAUSE {
                return Err(Refusal::Pause);
            }
            if self.is_stp_on && header.destination.number() == BPDU && tag == Tag::Absent {
                return Err(Refusal::Bpdu);
            }
        }
        if port.settings.state == PortState::Discarding {
            return Err(Refusal::Discarding);
        }
        self.vlans.classify(ingress, port.settings.membership, tag)
    }

    fn destination(&self, vlan: VlanId, address: Address, tick: Tick) -> Destination {
        if address.is_group() {
            return if address.is_broadcast() { Destination::Broadcast } else { Destination::Group };
        }
        if self.is_hub {
            return Destination::Hub;
        }
        self.fdb.lookup(Key::new(vlan, address), tick).map_or(Destination::Unknown, Destination::Station)
    }

    /// Whether sources are looked at. A hub has no use for them, and what comes from a mirror's destination cannot be
    /// answered.
    fn learns(&self, port: &Port) -> bool {
        port.settings.learning && !self.is_hub && port.closed_out != Some(LeftOut::MirrorDestination)
    }

    /// Whether snooping decides where the frame goes.
    fn snoops(&self, destination: Destination) -> bool {
        self.snoop.is_on && destination == Destination::Group && !self.is_hub
    }

    /// Acts on what learning a source came to.
    fn note_learned(
        &mut self,
        ingress: PortId,
        vlan: VlanId,
        source: Address,
        learned: Learned,
        tick: Tick,
    ) -> Result<(), Refusal> {
        let Some(port) = self.ports.get_mut(ingress.index()).and_then(Option::as_mut) else { return Ok(()) };
        match learned {
            Learned::PortFull => {
                if !std::mem::replace(&mut port.is_limit_told, true) {
                    self.events.push(Event::MacLimit(ingress));
                }
            }
            Learned::New => port.is_limit_told = false,
            Learned::Moved(from) => {
                port.is_limit_told = false;
                self.events.push_move(Event::StationMoved { vlan, address: source.into(), from, to: ingress }, tick);
            }
            Learned::Known | Learned::Held(_) | Learned::Fixed(_) | Learned::TableFull => {}
        }
        refuse_learned(learned)
    }

    fn take_storm(&mut self, ingress: PortId, destination: Destination, tick: Tick) -> Result<(), Refusal> {
        let Some(kind) = destination.storm_kind() else { return Ok(()) };
        let Some(port) = self.ports.get_mut(ingress.index()).and_then(Option::as_mut) else { return Ok(()) };
        let Some(storm) = &mut port.storm else { return Ok(()) };
        match storm.take(kind, tick) {
            Taken::Passed => return Ok(()),
            Taken::StormBegan => self.events.push(Event::Storm(ingress)),
            Taken::Dropped => {}
        }
        Err(Refusal::Storm(kind))
    }

    /// Lists where an admitted frame goes.
    fn route(&self, ingress: PortId, frame: Admission, destination: Destination, out: &mut Vec<Egress>) {
        let Destination::Station(port) = destination else { return self.flood(ingress, frame, out) };
        if let Ok(tag) = self.leaves(ingress, port, frame) {
            out.push(Egress { port, tag });
        }
    }

    /// Lists where a frame to a group goes.
    fn reach_group(&self, ingress: PortId, frame: Admission, reach: &Reach<'_>, out: &mut Vec<Egress>) {
        match reach {
            Reach::Flood(_) => self.flood(ingress, frame, out),
            Reach::Ports { .. } => {
                let ways = reach.ports().filter_map(|port| Some((port, self.leaves(ingress, port, frame).ok()?)));
                out.extend(ways.map(|(port, tag)| Egress { port, tag }));
            }
        }
    }

    /// Whether a frame that is for everybody would leave by a port, and with what becoming of its tag.
    fn leaves(&self, ingress: PortId, port: PortId, frame: Admission) -> Result<TagAction, LeftOut> {
        if port == ingress {
            return Err(LeftOut::Ingress);
        }
        let to = self.port(port).ok_or(LeftOut::NoPort)?;
        if let Some(why) = to.closed_out {
            return Err(why);
        }
        self.vlans.action(port, to.settings.membership, frame).ok_or(LeftOut::NotMember)
    }

    /// Lists every port for which [`Bridge::leaves`] says yes, at a cost for those ports alone.
    fn flood(&self, ingress: PortId, frame: Admission, out: &mut Vec<Egress>) {
        // Walked from within: the nested loops of the sets stay loops.
        let mut list = |members: &PortSet, tag| {
            let ports = members.common(&self.open).filter(|port| *port != ingress);
            ports.for_each(|port| out.push(Egress { port, tag }));
        };
        list(&self.vlans.transparent, frame.transparent_action());
        if let Some(members) = self.vlans.get(frame.vlan) {
            list(&members.untagged, frame.action(false));
            list(&members.tagged, frame.action(true));
        }
    }
}

/// Whether a frame whose source was judged so goes no further.
fn refuse_learned(learned: Learned) -> Result<(), Refusal> {
    if learned == Learned::PortFull { Err(Refusal::MacLimit) } else { Ok(()) }
}

/// Events not yet taken. There is a limit to how many are kept, and to how many moves a second are told, so that two
/// stations with one address cannot make the log the switch's main work.
#[derive(Debug, Default)]
struct Events {
    list: Vec<Event>,
    lost: u64,
    second: Tick,
    moves: u32,
}

impl Events {
    const KEPT: usize = 1024;
    const MOVES_PER_SECOND: u32 = 32;

    fn push(&mut self, event: Event) {
        if self.list.len() < Self::KEPT {
            self.list.push(event);
        } else {
            self.lost += 1;
        }
    }

    fn push_move(&mut self, event: Event, tick: Tick) {
        if tick / 1000 != self.second {
            self.second = tick / 1000;
            self.moves = 0;
        }
        if self.moves < Self::MOVES_PER_SECOND {
            self.moves += 1;
            self.push(event);
        } else {
            self.lost += 1;
        }
    }
}

#[cfg(test)]
mod lab;

#[cfg(test)]
#[path = "bridge_test.rs"]
mod tests;
