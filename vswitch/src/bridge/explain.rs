//! A decision, step by step, for people: which way a frame would go, and why.
//!
//! [`Bridge::explain`] asks the same functions as [`Bridge::forward`], in the same order, about a frame that nobody
//! sent, and changes nothing: no station is learned, no storm control token taken.
//!
//! Neighbour: [`super`] describes the stages.

use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use link::MacAddr;

use super::clock::Tick;
use super::fdb::{Key, Learned, Station};
use super::snoop::{Packet, Reach};
use super::vlan::{Members, Tag};
use super::{
    Bridge, Destination, Egress, FloodReason, Header, LeftOut, Refusal, StormKind, TagAction, Verdict, refuse_learned,
};
use crate::stp::PortState;
use crate::{PortId, VlanId};

/// A frame to be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it comes in; none for where its source was last heard.
    pub ingress: Option<PortId>,
    /// Its source.
    pub source: MacAddr,
    /// Its destination.
    pub destination: MacAddr,
    /// The VLAN of its tag; none, or VLAN 0, for no tag. Where the ingress is looked up, this is the VLAN of the
    /// station, and the frame carries a tag if the station's port has that VLAN tagged.
    pub vlan: Option<VlanId>,
    /// The group that it has in its IP header, for snooping to decide on; none for a frame that is not IP.
    pub group: Option<IpAddr>,
}

impl Question {
    /// A frame without a tag from one station to another, or to the members of a group.
    #[must_use]
    pub fn new(source: MacAddr, destination: MacAddr) -> Self {
        Self { ingress: None, source, destination, vlan: None, group: None }
    }

    /// A packet to an IP group, whose address on Ethernet follows from it (RFC 1112 §6.4, RFC 2464 §7).
    #[must_use]
    pub fn to_group(source: MacAddr, group: IpAddr) -> Self {
        let destination = match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                MacAddr([0x01, 0, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(group) => {
                let [.., a, b, c, d] = group.octets();
                MacAddr([0x33, 0x33, a, b, c, d])
            }
        };
        Self { group: Some(group), ..Self::new(source, destination) }
    }
}

/// What a stage decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The source's port was looked up, and this is it.
    Located(Station),
    /// The source's port was looked up and is not known, so nothing can be said.
    NotLocated,
    /// The frame comes in, in this VLAN.
    Admitted {
        /// Where.
        port: PortId,
        /// In which VLAN.
        vlan: VlanId,
        /// Whether it carries a tag.
        is_tagged: bool,
    },
    /// What is learned of its source.
    Learned(Learned),
    /// Its source is not looked at: the bridge is a hub, or the port does not learn.
    NotLearned,
    /// Storm control lets a frame of this kind pass.
    NoStorm(StormKind),
    /// Whom it is for.
    Destination(Destination),
    /// It floods although snooping is on.
    GroupFloods(FloodReason),
    /// It goes to this many listeners' and routers' ports.
    GroupReaches(usize),
    /// It goes no further.
    Refused(Refusal),
}

/// An answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// Where the frame comes in, if that is known.
    pub ingress: Option<PortId>,
    /// Its VLAN, if it is let in.
    pub vlan: Option<VlanId>,
    /// What the stages decide, in order.
    pub steps: Vec<Step>,
    /// What becomes of the frame; none if it is not known where it comes in.
    pub verdict: Option<Verdict>,
    /// Where it leaves.
    pub egress: Vec<Egress>,
    /// Where it does not leave, and why; empty for a frame that is not forwarded.
    pub left_out: Vec<(PortId, LeftOut)>,
    /// Copies for mirrors.
    pub mirrors: Vec<Egress>,
}

impl Bridge {
    /// Says which way a frame would go now, and why.
    #[must_use]
    pub fn explain(&self, question: &Question, now: Instant) -> Explanation {
        let tick = self.clock.at(now);
        let mut answer = Explanation {
            question: *question,
            ingress: question.ingress,
            vlan: None,
            steps: Vec::new(),
            verdict: None,
            egress: Vec::new(),
            left_out: Vec::new(),
            mirrors: Vec::new(),
        };
        let mut tagged = question.vlan.filter(|vlan| *vlan != VlanId::UNTAGGED);
        if question.ingress.is_none() {
            let Some(station) = self.locate(question, tick) else {
                answer.steps.push(Step::NotLocated);
                return answer;
            };
            answer.steps.push(Step::Located(station));
            answer.ingress = Some(station.port);
            tagged = Some(station.vlan).filter(|vlan| self.is_tagged(station.port, *vlan));
        }
        let Some(ingress) = answer.ingress else { return answer };
        let tag = tagged.map_or(Tag::Absent, |vlan| Tag::Present(vlan.number()));
        let decided = self.explain_stages(ingress, tag, tick, &mut answer);
        if let Err(refusal) = decided {
            answer.steps.push(Step::Refused(refusal));
        }
        answer.verdict = Some(decided.map_or_else(Refusal::verdict, |()| Verdict::Forward));
        let mut ways = answer.egress.clone();
        self.mirror(ingress, tag, 0, &mut ways);
        answer.mirrors = ways.split_off(answer.egress.len());
        answer
    }

    /// [`Bridge::decide`], without its effects.
    fn explain_stages(&self, ingress: PortId, tag: Tag, tick: Tick, answer: &mut Explanation) -> Result<(), Refusal> {
        let question = answer.question;
        let header = Header { destination: question.destination.into(), source: question.source.into(), kind: 0 };
        let port = self.port(ingress).ok_or(Refusal::NoPort)?;
        let admission = self.admit(ingress, port, header, tag)?;
        answer.vlan = Some(admission.vlan);
        let is_tagged = admission.tci.is_some();
        answer.steps.push(Step::Admitted { port: ingress, vlan: admission.vlan, is_tagged });
        let destination = self.destination(admission.vlan, header.destination, tick);
        if self.learns(port) {
            let learned = self.fdb.judge(Key::new(admission.vlan, header.source), ingress, port.limit, tick);
            answer.steps.push(Step::Learned(learned));
            refuse_learned(learned)?;
        } else {
            answer.steps.push(Step::NotLearned);
        }
        if port.settings.state == PortState::Learning {
            return Err(Refusal::Learning);
        }
        answer.steps.push(Step::Destination(destination));
        if let (Some(kind), Some(storm)) = (destination.storm_kind(), &port.storm) {
            if !storm.passes(kind, tick) {
                return Err(Refusal::Storm(kind));
            }
            answer.steps.push(Step::NoStorm(kind));
        }
        if self.snoops(destination) {
            let packet = Packet::data(admission, question.group);
            let reach = self.snoop.reach(&packet, tick);
            answer.steps.push(match &reach {
                Reach::Flood(reason) => Step::GroupFloods(*reason),
                Reach::Ports { .. } => Step::GroupReaches(reach.ports().count()),
            });
            self.reach_group(ingress, admission, &reach, &mut answer.egress);
        } else {
            self.route(ingress, admission, destination, &mut answer.egress);
        }
        let not_meant = if destination == Destination::Group { LeftOut::NoListener } else { LeftOut::Elsewhere };
        answer.left_out = (self.ports())
            .filter(|port| answer.egress.iter().all(|egress| egress.port != *port))
            .map(|port| (port, self.leaves(ingress, port, admission).map_or_else(|why| why, |_| not_meant)))
            .collect();
        Ok(())
    }

    /// The station that the source is, in its VLAN or, if none is named, in the lowest where it is known.
    fn locate(&self, question: &Question, tick: Tick) -> Option<Station> {
        match question.vlan {
            Some(vlan) => self.fdb.find(vlan, question.source, tick),
            None => self.fdb.find_lowest(question.source, tick),
        }
    }

    /// Whether a port brings frames of the VLAN in with a tag.
    fn is_tagged(&self, port: PortId, vlan: VlanId) -> bool {
        let has = |members: &Members| members.tagged.contains(port);
        let is_transparent = self.vlans.transparent.contains(port);
        (is_transparent && vlan != VlanId::UNTAGGED) || self.vlans.get(vlan).is_some_and(has)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} to {}", self.question.source, self.question.destination)?;
        for step in &self.steps {
            writeln!(f, "  {step}")?;
        }
        for Egress { port, tag } in &self.egress {
            writeln!(f, "  leaves by port {port}, {}", describe(*tag))?;
        }
        if self.egress.is_empty() && self.verdict == Some(Verdict::Forward) {
            writeln!(f, "  leaves by no port")?;
        }
        for Egress { port, tag } in &self.mirrors {
            writeln!(f, "  is mirrored to port {port}, {}", describe(*tag))?;
        }
        let mut told: Vec<LeftOut> = Vec::new();
        for (_, why) in &self.left_out {
            if told.contains(why) {
                continue;
            }
            told.push(*why);
            let ports: Vec<_> = self.left_out.iter().filter(|(_, other)| other == why).map(|(port, _)| port).collect();
            let list: Vec<_> = ports.iter().map(ToString::to_string).collect();
            let noun = if list.len() == 1 { "port" } else { "ports" };
            writeln!(f, "  not by {noun} {}: {why}", list.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Located(Station { vlan, port, age: Some(age), .. }) => {
                write!(f, "source: on port {port} in VLAN {vlan}, heard {} s ago", age.as_secs())
            }
            Self::Located(Station { vlan, port, age: None, .. }) => {
                write!(f, "source: on port {port} in VLAN {vlan}, entered by hand")
            }
            Self::NotLocated => f.write_str("source: not known; name the port it comes in by"),
            Self::Admitted { port, vlan, is_tagged } => {
                write!(f, "ingress: port {port}, VLAN {vlan}, {}", if *is_tagged { "tagged" } else { "untagged" })
            }
            Self::Learned(learned) => {
                f.write_str("learning: ")?;
                match learned {
                    Learned::New => f.write_str("the source is new here"),
                    Learned::Known => f.write_str("the source is known here"),
                    Learned::Moved(from) => write!(f, "the source moves here from port {from}"),
                    Learned::Held(on) => write!(f, "the source was on port {on} a moment ago, and stays there"),
                    Learned::Fixed(on) => write!(f, "the source is entered by hand on port {on}, and stays there"),
                    Learned::PortFull => f.write_str("the source is one more than the port may bring in"),
                    Learned::TableFull => f.write_str("the table is full, the source stays unknown"),
                }
            }
            Self::NotLearned => f.write_str("learning: not here"),
            Self::NoStorm(kind) => write!(f, "storm control: {kind} is within its limit"),
            Self::Destination(destination) => match destination {
                Destination::Station(port) => write!(f, "destination: on port {port}"),
                Destination::Unknown => f.write_str("destination: not known, so everywhere"),
                Destination::Broadcast => f.write_str("destination: everybody"),
                Destination::Group => f.write_str("destination: a group"),
                Destination::Hub => f.write_str("destination: not looked for, this is a hub"),
            },
            Self::GroupFloods(reason) => write!(f, "snooping: floods, {reason}"),
            Self::GroupReaches(count) => write!(f, "snooping: {count} ports have listeners or routers"),
            Self::Refused(refusal) => match refusal.verdict() {
                Verdict::Drop(reason) => write!(f, "dropped ({reason}): {refusal}"),
                _ => write!(f, "not forwarded: {refusal}"),
            },
        }
    }
}

fn describe(tag: TagAction) -> String {
    match tag {
        TagAction::Keep => "as it is".to_owned(),
        TagAction::Insert(tci) => format!("with a tag of VLAN {}", tci & 0x0fff),
        TagAction::Replace(tci) => format!("with its tag changed to VLAN {}", tci & 0x0fff),
        TagAction::Remove => "without its tag".to_owned(),
    }
}

#[cfg(test)]
#[path = "explain_test.rs"]
mod tests;
