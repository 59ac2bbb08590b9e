//! `port/…`: ports, and what is plugged into them.

use std::fmt::Write;
use std::time::Instant;

use nix::unistd::{Group, User};
use program::options::printable;

use super::answer::{Failure, Outcome};
use super::command::{self, Storm};
use super::fstp;
use crate::bridge::Membership;
use crate::stp::{Edge, Stp};
use crate::switch::{Kind, Member, Port, Switch};
use crate::{PortId, VlanId};

pub(super) fn execute(command: &command::Port, switch: &mut Switch, out: &mut String) -> Outcome {
    use command::Port as Command;
    match command {
        Command::ShowInfo => {
            let _ = writeln!(out, "Numports={}\nHUB={}\ncounters=true", switch.numports(), switch.bridge.is_hub());
        }
        Command::SetNumPorts(count) => switch.set_numports(*count)?,
        Command::SetHub(is_hub) => switch.bridge.set_hub(*is_hub),
        Command::SetVlan(id, vlan) => {
            check(switch, *id)?;
            switch.bridge.set_untagged(*id, *vlan)?;
        }
        Command::CreateAuto => {
            let mut free = (1..=switch.numports()).filter_map(PortId::new).filter(|id| switch.port(*id).is_err());
            let id = free.next().ok_or(Failure::new(libc::ENOSPC))?;
            create(switch, id)?;
            let _ = writeln!(out, "Port {:04}", id.number());
        }
        Command::Create(id) => create(switch, *id)?,
        Command::Remove(id) => {
            check(switch, *id)?;
            switch.remove_port(*id)?;
        }
        Command::Allocatable(id, is_allocatable) => change(switch, *id)?.allocatable = *is_allocatable,
        Command::SetUser(id, user) => {
            let find = |name: &str| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
            let user = user.as_deref().map(|name| number(name, find)).transpose()?;
            change(switch, *id)?.user = user;
        }
        Command::SetGroup(id, group) => {
            let find = |name: &str| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
            let group = group.as_deref().map(|name| number(name, find)).transpose()?;
            change(switch, *id)?.group = group;
        }
        Command::EndpointClose(id, member) => {
            check(switch, *id)?;
            switch.close_member(*id, *member)?;
        }
        Command::ResetCounter(id) => reset_counters(switch, *id)?,
        Command::Print(id) => print(switch, *id, |port| !port.members.is_empty(), table, out)?,
        Command::AllPrint(id) => print(switch, *id, |_| true, table, out)?,
        Command::Settings(id) => print(switch, *id, |_| true, settings, out)?,
        Command::Drops(id) => print(switch, *id, |_| true, drops, out)?,
        Command::Add(id, locator) => {
            let id = switch.add_link(locator, *id)?;
            let _ = writeln!(out, "Port {:04}", id.number());
        }
        Command::Del(id) => unplug_links(switch, *id)?,
        Command::Transparent(id) => switch.bridge.set_transparent(*id)?,
        Command::Storm(id, kind, limit) => {
            check(switch, *id)?;
            let mut limits = switch.bridge.port_settings(*id).ok_or(Failure::new(libc::ENXIO))?.storm;
            *match kind {
                Storm::Broadcast => &mut limits.broadcast,
                Storm::Multicast => &mut limits.multicast,
                Storm::Unknown => &mut limits.unknown_unicast,
            } = *limit;
            switch.bridge.set_storm_limits(*id, limits)?;
        }
        Command::MacLimit(id, limit) => switch.bridge.set_mac_limit(*id, *limit)?,
        Command::Learning(id, is_on) => switch.bridge.set_learning(*id, *is_on)?,
        Command::Edge(id, edge) => fstp::set_port(switch, *id, |settings| settings.edge = *edge)?,
        Command::Cost(id, cost) => fstp::set_port(switch, *id, |settings| settings.path_cost = *cost)?,
        Command::Guard(id, is_on) => fstp::set_port(switch, *id, |settings| settings.bpdu_guard = *is_on)?,
        Command::GuardReset(id) => {
            check(switch, *id)?;
            switch.with_stp(|stp: &mut Stp, now: Instant, actions| stp.reset_guard(*id, now, actions));
        }
    }
    Ok(())
}

/// Whether there is such a port: `EINVAL` above the number of ports, `ENXIO` below.
pub(super) fn check(switch: &Switch, id: PortId) -> Outcome {
    if u32::from(id.number()) > switch.numports() {
        return Err(Failure::new(libc::EINVAL));
    }
    switch.port(id)?;
    Ok(())
}

/// The ports in a VLAN and whether they are tagged there; transparent ones are untagged in VLAN 0.
pub(super) fn members_of(switch: &Switch, vlan: VlanId) -> impl Iterator<Item = (&Port, bool)> {
    let bridge = &switch.bridge;
    let members = bridge.vlans().find(|(other, _)| *other == vlan).map(|(_, members)| members);
    switch.ports().filter_map(move |port| {
        let is_transparent = vlan == VlanId::UNTAGGED && bridge.transparent_ports().contains(port.id);
        let members = members?;
        if is_transparent || members.untagged.contains(port.id) {
            return Some((port, false));
        }
        members.tagged.contains(port.id).then_some((port, true))
    })
}

fn create(switch: &mut Switch, id: PortId) -> Outcome {
    switch.create_port(id)?;
    switch.port_mut(id)?.allocatable = false;
    Ok(())
}

fn change(switch: &mut Switch, id: PortId) -> Result<&mut Port, Failure> {
    check(switch, id)?;
    Ok(switch.port_mut(id)?)
}

/// The number of a user or a group.
fn number(name: &str, find: impl FnOnce(&str) -> nix::Result<Option<u32>>) -> Result<u32, Failure> {
    match name.parse() {
        Ok(number) => Ok(number),
        Err(_) => find(name).ok().flatten().ok_or(Failure::new(libc::EINVAL)),
    }
}

fn reset_counters(switch: &mut Switch, id: Option<PortId>) -> Outcome {
    if let Some(id) = id.filter(|id| u32::from(id.number()) > switch.numports()) {
        return Err(Failure::from(crate::switch::SwitchError::PortLimit { port: id, limit: switch.numports() }));
    }
    // A port that is not there has counted nothing: vde_switch calls that success.
    let ids: Vec<_> = switch.ports().map(|port| port.id).filter(|port| id.is_none_or(|id| id == *port)).collect();
    for id in ids {
        switch.reset_counters(id)?;
    }
    Ok(())
}

fn unplug_links(switch: &mut Switch, id: PortId) -> Outcome {
    check(switch, id)?;
    let members = switch.members_of(switch.port(id)?).filter(|member| member.kind == Kind::Link);
    let keys: Vec<_> = members.map(|member| member.key).collect();
    if keys.is_empty() {
        return Err(Failure::saying(libc::ENXIO, format_args!("port {id} has no link that the switch has opened")));
    }
    for key in keys {
        switch.close_member(id, key)?;
    }
    Ok(())
}

/// Prints one port, or all, of those that are wanted.
fn print(
    switch: &Switch,
    id: Option<PortId>,
    is_wanted: impl Fn(&Port) -> bool,
    print: impl Fn(&Switch, &Port, &mut String),
    out: &mut String,
) -> Outcome {
    let Some(id) = id else {
        switch.ports().filter(|port| is_wanted(port)).for_each(|port| print(switch, port, out));
        return Ok(());
    };
    check(switch, id)?;
    let port = switch.port(id)?;
    if !is_wanted(port) {
        return Err(Failure::new(libc::ENXIO));
    }
    print(switch, port, out);
    Ok(())
}

/// A port and its members, those that came last first.
fn table(switch: &Switch, port: &Port, out: &mut String) {
    let settings = switch.bridge.port_settings(port.id);
    let untagged = match settings.map(|settings| settings.membership) {
        Some(Membership::Configured { untagged: None }) => VlanId::COUNT as u16,
        Some(Membership::Configured { untagged: Some(vlan) }) => vlan.number(),
        Some(Membership::Transparent) | None => 0,
    };
    let active = if port.members.is_empty() { "INACTIVE" } else { "ACTIVE" };
    let allocatable = if port.allocatable { "" } else { "NOT " };
    let number = port.id.number();
    let _ = writeln!(out, "Port {number:04} untagged_vlan={untagged:04} {active} - {allocatable}Unnamed Allocatable");
    let current = switch.members_of(port).find_map(|member| match &member.kind {
        Kind::Client { peer, .. } => Some(peer.uid),
        Kind::Link => None,
    });
    let (current, user, group) = (user(current), user(port.user), self::group(port.group));
    let _ = writeln!(out, " Current User: {current} Access Control: (User: {user} - Group: {group})");
    let counters = switch.counters(port);
    let _ = writeln!(out, " IN:  pkts {:10}          bytes {:20}", counters.rx_frames, counters.rx_bytes);
    let _ = writeln!(out, " OUT: pkts {:10}          bytes {:20}", counters.tx_frames, counters.tx_bytes);
    for member in port.members.iter().rev().filter_map(|key| switch.member(*key)) {
        let (module, text) = endpoint(member);
        let _ = writeln!(out, "  -- endpoint ID {:04} module {module:<12}: {}", member.key, printable(text));
    }
}

/// What sort of endpoint a member is, in vde_switch's words where it has any, and its name.
fn endpoint(member: &Member) -> (&str, &str) {
    match (&member.kind, member.name.split_once("://")) {
        (Kind::Client { description, .. }, _) => ("unix prog", description),
        (Kind::Link, Some(("tap", interface))) => ("tuntap", interface),
        (Kind::Link, Some((scheme, _))) => (scheme, &member.name),
        (Kind::Link, None) => ("link", &member.name),
    }
}

fn user(number: Option<u32>) -> String {
    let find = |number: u32| User::from_uid(number.into()).ok().flatten().map(|user| user.name);
    number.map_or_else(|| "NONE".to_owned(), |number| find(number).unwrap_or_else(|| number.to_string()))
}

fn group(number: Option<u32>) -> String {
    let find = |number: u32| Group::from_gid(number.into()).ok().flatten().map(|group| group.name);
    number.map_or_else(|| "NONE".to_owned(), |number| find(number).unwrap_or_else(|| number.to_string()))
}

/// What vde_switch has not: one line.
fn settings(switch: &Switch, port: &Port, out: &mut String) {
    let (Some(bridge), Some(stp)) = (switch.bridge.port_settings(port.id), switch.stp().port(port.id)) else { return };
    let _ = write!(out, "Port {:04} vlans=", port.id.number());
    match bridge.membership {
        Membership::Transparent => out.push_str("transparent"),
        Membership::Configured { untagged } => {
            let untagged = untagged.map_or_else(|| "none".to_owned(), |vlan| vlan.to_string());
            let tagged: Vec<_> = switch.bridge.tagged_vlans(port.id).map(|vlan| vlan.to_string()).collect();
            let _ = write!(out, "untagged:{untagged},tagged:{}", tagged.join("+"));
        }
    }
    let limit = |limit: Option<u32>| limit.map_or_else(|| "off".to_owned(), |limit| limit.to_string());
    let storm = bridge.storm;
    let edge = match stp.settings.edge {
        Edge::Auto => "auto",
        Edge::Always => "on",
        Edge::Never => "off",
    };
    let _ = writeln!(
        out,
        " storm=broadcast:{},multicast:{},unknown:{} maclimit={} learning={} edge={edge} cost={} guard={} shut={}",
        limit(storm.broadcast),
        limit(storm.multicast),
        limit(storm.unknown_unicast),
        limit(bridge.mac_limit),
        u8::from(bridge.learning),
        stp.settings.path_cost,
        u8::from(stp.settings.bpdu_guard),
        u8::from(stp.guarded),
    );
}

fn drops(switch: &Switch, port: &Port, out: &mut String) {
    let drops = switch.counters(port).drops;
    let _ = write!(out, "Port {:04} dropped={}", port.id.number(), drops.total());
    for (reason, frames) in drops.iter() {
        let _ = write!(out, " {reason}={frames}");
    }
    out.push('\n');
}
