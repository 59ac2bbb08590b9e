//! `fstp/…`: spanning tree.
//!
//! vde_switch has a tree for each VLAN; here is one, the standard's, and what is said of one VLAN counts for all.
//! Settings may come before their port: it is made then, as it would be for a client.

use std::fmt::Write;

use super::answer::{Failure, Outcome};
use super::command::Fstp;
use super::debug::bridge_id;
use super::port;
use crate::stp::{BridgeSettings, Edge, PortSettings, Role, Stp};
use crate::switch::{Port, Switch};
use crate::{PortId, VlanId};

pub(super) fn execute(command: &Fstp, switch: &mut Switch, out: &mut String) -> Outcome {
    match *command {
        Fstp::ShowInfo => {
            let id = switch.stp().root().bridge;
            let _ = writeln!(out, "MAC {} Priority {} ({:#06x})", id.address, id.priority, id.priority);
            let _ = writeln!(out, "FSTP={}", switch.stp().is_enabled());
        }
        Fstp::Set(true) => switch.with_stp(Stp::enable),
        Fstp::Set(false) => switch.with_stp(|stp, _, actions| stp.disable(actions)),
        Fstp::SetEdge(vlan, id, is_edge) => {
            check_vlan(switch, vlan)?;
            let edge = if is_edge { Edge::Always } else { Edge::Auto };
            make_port(switch, id)?;
            set_port(switch, id, |settings| settings.edge = edge)?;
        }
        Fstp::Bonus(vlan, id, bonus) => {
            check_vlan(switch, vlan)?;
            make_port(switch, id)?;
            let cost = PortSettings::default().path_cost.saturating_sub(bonus).max(1);
            set_port(switch, id, |settings| settings.path_cost = cost)?;
        }
        Fstp::Print(Some(vlan)) => {
            check_vlan(switch, vlan)?;
            print(switch, vlan, out);
        }
        Fstp::Print(None) => {
            for (vlan, _) in switch.bridge.vlans() {
                print(switch, vlan, out);
            }
        }
        Fstp::SetPriority(priority) => {
            let address = switch.stp().root().bridge.address;
            switch.with_stp(|stp, now, actions| stp.set_bridge(BridgeSettings { priority, address }, now, actions));
        }
    }
    Ok(())
}

/// Changes what the administrator says of a port.
pub(super) fn set_port(switch: &mut Switch, id: PortId, change: impl FnOnce(&mut PortSettings)) -> Outcome {
    let mut settings = switch.stp().port(id).ok_or(Failure::new(libc::ENXIO))?.settings;
    change(&mut settings);
    switch.with_stp(|stp, now, actions| stp.set_port(id, settings, now, actions));
    Ok(())
}

fn check_vlan(switch: &Switch, vlan: VlanId) -> Outcome {
    let exists = switch.bridge.vlans().any(|(other, _)| other == vlan);
    if exists { Ok(()) } else { Err(Failure::new(libc::ENXIO)) }
}

fn make_port(switch: &mut Switch, id: PortId) -> Outcome {
    if switch.port(id).is_err() {
        switch.create_port(id)?;
    }
    Ok(())
}

fn print(switch: &Switch, vlan: VlanId, out: &mut String) {
    let (stp, status) = (switch.stp(), switch.stp().root());
    let is_root = if status.root == status.bridge { "ROOTSWITCH" } else { "" };
    let disabled = if stp.is_enabled() { "" } else { "FSTP IS DISABLED" };
    let designated = status.port.and_then(|port| stp.port(port)).map(|port| bridge_id(port.designated_bridge));
    let cheapest = |port: &Port| {
        let bonus = PortSettings::default().path_cost.checked_sub(stp.port(port.id)?.settings.path_cost)?;
        (bonus != 0).then_some((port.id.number(), bonus))
    };
    let (bonus_port, bonus) = switch.ports().find_map(cheapest).unwrap_or_default();
    let _ = writeln!(out, "FST DATA VLAN {:04} {is_root} {disabled}", vlan.number());
    let _ = writeln!(out, " ++ root {}", bridge_id(status.root));
    let _ = writeln!(out, " ++ designated {}", designated.as_deref().unwrap_or("ff:ff:ff:ff:ff:ff:ff:ff"));
    let _ = writeln!(
        out,
        " ++ rootport {:04} cost {} age {} bonusport {bonus_port:04} bonuscost {bonus}",
        status.port.map_or(0, PortId::number),
        status.cost,
        status.times.message_age.as_secs(),
    );
    for (port, is_tagged) in port::members_of(switch, vlan) {
        let Some(state) = stp.port(port.id).filter(|_| !port.members.is_empty()) else { continue };
        let role = match state.role {
            Role::Root => "Root",
            Role::Designated => "Designated",
            Role::Alternate | Role::Backup => "Alternate/Backup",
            Role::Disabled if stp.is_enabled() => "Unknown",
            // Without a tree every port is its segment's way.
            Role::Disabled => "Designated",
        };
        let _ = writeln!(
            out,
            " -- Port {:04} tagged={} portcost={} role={role}",
            port.id.number(),
            u8::from(is_tagged),
            state.settings.path_cost,
        );
    }
}
