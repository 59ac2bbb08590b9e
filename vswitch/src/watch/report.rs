//! What a switch says of itself: from the switch's own types to those of [`super::protocol`].

use std::time::{Duration, Instant, SystemTime};

use link::{Counters, LinkState};

use super::clock::rfc3339;
use super::protocol::{
    EgressReport, EventReport, ExplanationReport, LeftOutReport, MemberReport, PeerReport, PortReport, PortTreeReport,
    StationReport, SwitchReport, TrafficReport, TreeReport, VlanReport,
};
use crate::about::About;
use crate::bridge::explain::Explanation;
use crate::bridge::fdb::Station;
use crate::bridge::{Egress, LeftOut, Membership, TagAction, Verdict};
use crate::stp::{PortState, Role};
use crate::switch::{Kind, Member, Port, Switch};
use crate::{Event, PortId, VlanId};

pub(super) fn switch(switch: &Switch, about: &About) -> SwitchReport {
    let stp = switch.stp();
    SwitchReport {
        name: about.name.clone(),
        version: About::VERSION.to_owned(),
        dir: about.dir.display().to_string(),
        pid: std::process::id(),
        time: rfc3339(SystemTime::now()),
        started: rfc3339(about.started),
        uptime_seconds: seconds(about.begun.elapsed()),
        hub: switch.bridge.is_hub(),
        snooping: switch.bridge.is_snooping(),
        numports: switch.numports(),
        stations: switch.bridge.fdb().len() as u64,
        ageing_seconds: seconds(switch.bridge.fdb().ageing()),
        spanning_tree: stp.is_enabled().then(|| {
            let tree = stp.root();
            TreeReport {
                bridge: tree.bridge.to_string(),
                root: tree.root.to_string(),
                root_path_cost: tree.cost,
                root_port: tree.port.map(|port| port.number()),
                topology_changes: tree.topology_changes,
            }
        }),
    }
}

pub(super) fn port(switch: &Switch, port: &Port, now: Instant) -> PortReport {
    let id = port.id;
    let settings = switch.bridge.port_settings(id).copied().unwrap_or_default();
    let tree = switch.stp().port(id).filter(|_| switch.stp().is_enabled());
    let (transparent, untagged) = match settings.membership {
        Membership::Transparent => (true, None),
        Membership::Configured { untagged } => (false, untagged),
    };
    let tagged =
        if transparent { Vec::new() } else { switch.bridge.tagged_vlans(id).map(|vlan| vlan.number()).collect() };
    PortReport {
        port: id.number(),
        carrier: has_carrier(switch, port),
        state: settings.state.name().to_owned(),
        spanning_tree: tree.map(|tree| PortTreeReport {
            role: role_name(tree.role).to_owned(),
            edge: tree.oper_edge,
            rstp: tree.is_rstp,
            guarded: tree.guarded,
            path_cost: tree.settings.path_cost,
        }),
        vlan: VlanReport { transparent, untagged: untagged.map(|vlan| vlan.number()), tagged },
        stations: switch.bridge.fdb().stations_on(id),
        mac_limit: settings.mac_limit,
        learning: settings.learning,
        storm: switch.bridge.is_storming(id, now),
        traffic: traffic(&switch.counters(port)),
        members: switch.members_of(port).map(member).collect(),
    }
}

fn member(member: &Member) -> MemberReport {
    let (kind, peer, description) = match &member.kind {
        Kind::Link => ("link", None, None),
        Kind::Client { peer, description } => {
            let peer = PeerReport { pid: peer.pid, uid: peer.uid, gid: peer.gid };
            ("client", Some(peer), Some(description.clone()).filter(|words| !words.is_empty()))
        }
    };
    MemberReport {
        member: member.key,
        name: member.name.clone(),
        kind: kind.to_owned(),
        carrier: member.carrier() == LinkState::Up,
        since: rfc3339(member.since),
        peer,
        description,
        traffic: traffic(&member.counters()),
    }
}

pub(super) fn station(station: &Station) -> StationReport {
    StationReport {
        vlan: station.vlan.number(),
        address: station.address.to_string(),
        port: station.port.number(),
        age_seconds: station.age.map(seconds),
        is_static: station.age.is_none(),
    }
}

pub(super) fn explanation(explanation: &Explanation) -> ExplanationReport {
    let (verdict, drop_reason) = match explanation.verdict {
        None => (None, None),
        Some(Verdict::Forward) => (Some("forward"), None),
        Some(Verdict::Bpdu) => (Some("bpdu"), None),
        Some(Verdict::Drop(reason)) => (Some("drop"), Some(reason.name().to_owned())),
    };
    let left_out = |(port, why): &(PortId, LeftOut)| LeftOutReport { port: port.number(), reason: why.to_string() };
    ExplanationReport {
        ingress_port: explanation.ingress.map(PortId::number),
        vlan: explanation.vlan.map(VlanId::number),
        steps: explanation.steps.iter().map(ToString::to_string).collect(),
        verdict: verdict.map(str::to_owned),
        drop_reason,
        egress: explanation.egress.iter().map(egress).collect(),
        mirrors: explanation.mirrors.iter().map(egress).collect(),
        left_out: explanation.left_out.iter().map(left_out).collect(),
        text: explanation.to_string(),
    }
}

fn egress(egress: &Egress) -> EgressReport {
    let (tag, tci) = match egress.tag {
        TagAction::Keep => ("keep", None),
        TagAction::Insert(tci) => ("insert", Some(tci)),
        TagAction::Replace(tci) => ("replace", Some(tci)),
        TagAction::Remove => ("remove", None),
    };
    EgressReport { port: egress.port.number(), tag: tag.to_owned(), tag_vlan: tci.map(|tci| tci & 0x0fff) }
}

pub(super) fn event(event: &Event, time: SystemTime) -> EventReport {
    let text = event.to_string();
    let report =
        EventReport { time: rfc3339(time), event: event_name(event).to_owned(), text, ..EventReport::default() };
    match event {
        Event::PortAdded(port)
        | Event::PortRemoved(port)
        | Event::TopologyChanged(port)
        | Event::GuardTripped(port)
        | Event::Storm(port)
        | Event::MacLimit(port) => EventReport { port: Some(port.number()), ..report },
        Event::Joined { port, member, name } => {
            EventReport { port: Some(port.number()), member: Some(*member), name: Some(name.clone()), ..report }
        }
        Event::Left { port, member, name, reason } => EventReport {
            port: Some(port.number()),
            member: Some(*member),
            name: Some(name.clone()),
            reason: reason.clone(),
            ..report
        },
        Event::Refused { reason } => EventReport { reason: Some(reason.clone()), ..report },
        Event::StationMoved { vlan, address, from, to } => EventReport {
            port: Some(to.number()),
            from_port: Some(from.number()),
            vlan: Some(vlan.number()),
            address: Some(address.to_string()),
            ..report
        },
        Event::PortState { port, state } => {
            EventReport { port: Some(port.number()), state: Some(state.name().to_owned()), ..report }
        }
    }
}

/// What a watcher is told that has not read.
pub(super) fn missed(count: u64) -> EventReport {
    EventReport {
        time: rfc3339(SystemTime::now()),
        event: "missed".to_owned(),
        missed: Some(count),
        text: format!("{count} events missed: they came faster than they were read"),
        ..EventReport::default()
    }
}

/// The name of an event in JSON and in metrics.
pub(super) fn event_name(event: &Event) -> &'static str {
    match event {
        Event::PortAdded(_) => "port_added",
        Event::PortRemoved(_) => "port_removed",
        Event::Joined { .. } => "joined",
        Event::Left { .. } => "left",
        Event::Refused { .. } => "refused",
        Event::StationMoved { .. } => "station_moved",
        Event::PortState { .. } => "port_state",
        Event::TopologyChanged(_) => "topology_changed",
        Event::GuardTripped(_) => "guard_tripped",
        Event::Storm(_) => "storm",
        Event::MacLimit(_) => "mac_limit",
    }
}

/// The states that a port can be in.
pub(super) const STATES: [PortState; 3] = [PortState::Discarding, PortState::Learning, PortState::Forwarding];

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Disabled => "disabled",
        Role::Root => "root",
        Role::Designated => "designated",
        Role::Alternate => "alternate",
        Role::Backup => "backup",
    }
}

/// Whether frames reach the far end of anything that is plugged into a port.
pub(super) fn has_carrier(switch: &Switch, port: &Port) -> bool {
    switch.members_of(port).any(|member| member.carrier() == LinkState::Up)
}

/// What is plugged into a port, in words.
pub(super) fn port_name(switch: &Switch, port: &Port) -> String {
    let names: Vec<&str> = switch.members_of(port).map(|member| member.name.as_str()).collect();
    names.join(", ")
}

fn traffic(counters: &Counters) -> TrafficReport {
    TrafficReport {
        receive_frames: counters.rx_frames,
        receive_bytes: counters.rx_bytes,
        transmit_frames: counters.tx_frames,
        transmit_bytes: counters.tx_bytes,
        drops: counters.drops.iter().map(|(reason, frames)| (reason.name().to_owned(), frames)).collect(),
    }
}

/// Seconds, to the millisecond.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
