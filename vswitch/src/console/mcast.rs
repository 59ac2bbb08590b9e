//! `mcast/…`: groups and who listens to them.

use std::fmt::Write;
use std::time::Instant;

use super::command::Multicast;
use crate::bridge::{Bridge, Listener};

pub(super) fn execute(command: &Multicast, bridge: &mut Bridge, out: &mut String) {
    match *command {
        Multicast::ShowInfo => {
            let (snooping, flood) = (bridge.is_snooping(), bridge.floods_unregistered());
            let malformed = bridge.malformed_reports();
            let _ = writeln!(out, "SNOOPING={snooping}\nFLOOD={flood}\nmalformed={malformed}");
        }
        Multicast::SetSnooping(is_on) => bridge.set_snooping(is_on),
        Multicast::SetFlood(floods) => bridge.set_flood_unregistered(floods),
        Multicast::Print => {
            let mut listeners: Vec<_> = bridge.listeners(Instant::now()).collect();
            listeners.sort_unstable_by_key(|listener| (listener.vlan, listener.group, listener.port));
            listeners.iter().for_each(|listener| print(listener, out));
        }
    }
}

fn print(listener: &Listener, out: &mut String) {
    let Listener { vlan, group, port } = listener;
    let group = group.map_or_else(|| "router".to_owned(), |group| group.to_string());
    let _ = writeln!(out, "VLAN {:04} group {group} port {:04}", vlan.number(), port.number());
}
