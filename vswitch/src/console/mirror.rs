//! `mirror/…`: copies of frames, for a port where somebody watches.

use std::fmt::Write;

use super::answer::{Failure, Outcome};
use super::command;
use super::port::check;
use crate::PortId;
use crate::bridge::{Mirror, PortSet};
use crate::switch::Switch;

pub(super) fn execute(command: &command::Mirror, switch: &mut Switch, out: &mut String) -> Outcome {
    use command::Mirror as Command;
    match command {
        Command::AddPorts { ports, destination, rx, tx } => {
            ports.iter().try_for_each(|port| check(switch, *port))?;
            change(switch, *destination, |mirror| {
                for port in ports {
                    if *rx {
                        mirror.rx.insert(*port);
                    }
                    if *tx {
                        mirror.tx.insert(*port);
                    }
                }
            })?;
        }
        Command::AddVlan(vlan, destination) => {
            change(switch, *destination, |mirror| {
                mirror.vlans.insert(*vlan);
            })?;
        }
        Command::Ingress(destination, is_taken) => {
            find(switch, *destination).ok_or(Failure::new(libc::ENXIO))?;
            change(switch, *destination, |mirror| mirror.allow_ingress = *is_taken)?;
        }
        Command::Del(destination) => {
            if !switch.bridge.remove_mirror(*destination) {
                return Err(Failure::new(libc::ENXIO));
            }
        }
        Command::Print => switch.bridge.mirrors().iter().for_each(|mirror| print(mirror, out)),
    }
    Ok(())
}

fn find(switch: &Switch, destination: PortId) -> Option<&Mirror> {
    switch.bridge.mirrors().iter().find(|mirror| mirror.destination == destination)
}

/// Changes the mirror to a port, a new one if there is none.
fn change(switch: &mut Switch, destination: PortId, change: impl FnOnce(&mut Mirror)) -> Outcome {
    check(switch, destination)?;
    let mut mirror = find(switch, destination).cloned().unwrap_or_else(|| Mirror::to(destination));
    change(&mut mirror);
    Ok(switch.bridge.set_mirror(mirror)?)
}

fn print(mirror: &Mirror, out: &mut String) {
    let ports = |ports: &PortSet| ports.iter().map(|port| port.to_string()).collect::<Vec<_>>().join(",");
    let vlans: Vec<_> = mirror.vlans.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        out,
        "Mirror to port {:04} rx={} tx={} vlans={} ingress={}",
        mirror.destination.number(),
        ports(&mirror.rx),
        ports(&mirror.tx),
        vlans.join(","),
        u8::from(mirror.allow_ingress),
    );
}
