//! `vlan/…`: VLANs and the ports in them.
//!
//! A transparent port is shown where vde_switch has a port that nothing was said of: in VLAN 0, untagged.

use std::fmt::Write;

use super::answer::{Failure, Outcome};
use super::command::Vlan;
use super::port::{check, members_of};
use crate::VlanId;
use crate::bridge::BridgeError;
use crate::stp::PortState;
use crate::switch::Switch;

pub(super) fn execute(command: &Vlan, switch: &mut Switch, out: &mut String) -> Outcome {
    match *command {
        Vlan::Create(vlan) => switch.bridge.create_vlan(vlan)?,
        Vlan::Remove(VlanId::UNTAGGED) => return Err(Failure::new(libc::EADDRINUSE)),
        Vlan::Remove(vlan) => switch.bridge.remove_vlan(vlan)?,
        Vlan::AddPort(vlan, port) => {
            check(switch, port)?;
            if !is_untagged(switch, vlan, port) {
                switch.bridge.add_tagged(vlan, port)?;
            }
        }
        Vlan::DelPort(vlan, port) => {
            check(switch, port)?;
            if is_untagged(switch, vlan, port) {
                return Err(Failure::new(libc::EADDRINUSE));
            }
            match switch.bridge.remove_tagged(vlan, port) {
                Ok(()) | Err(BridgeError::NotTagged { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Vlan::Print(vlan) => print(switch, vlan, false, out)?,
        Vlan::AllPrint(vlan) => print(switch, vlan, true, out)?,
    }
    Ok(())
}

fn is_untagged(switch: &Switch, vlan: VlanId, port: crate::PortId) -> bool {
    members_of(switch, vlan).any(|(member, is_tagged)| member.id == port && !is_tagged)
}

fn print(switch: &Switch, wanted: Option<VlanId>, is_all: bool, out: &mut String) -> Outcome {
    let vlans = switch.bridge.vlans().map(|(vlan, _)| vlan);
    let mut vlans = vlans.filter(|vlan| wanted.is_none_or(|wanted| wanted == *vlan)).peekable();
    if vlans.peek().is_none() {
        return Err(Failure::new(libc::ENXIO));
    }
    for vlan in vlans {
        let _ = writeln!(out, "VLAN {:04}", vlan.number());
        for (port, is_tagged) in members_of(switch, vlan) {
            let is_active = !port.members.is_empty();
            if !is_active && !is_all {
                continue;
            }
            let state = switch.bridge.port_settings(port.id).map_or(PortState::Discarding, |settings| settings.state);
            let status = match state {
                // So vde_switch has it: nothing is there to be forwarded to.
                PortState::Forwarding if !is_active => "Learning",
                PortState::Forwarding => "Forwarding",
                PortState::Learning => "Learning",
                PortState::Discarding => "Discarding",
            };
            let (number, tagged, active) = (port.id.number(), u8::from(is_tagged), u8::from(is_active));
            let _ = writeln!(out, " -- Port {number:04} tagged={tagged} active={active} status={status}");
        }
    }
    Ok(())
}
