//! `hash/…`: stations.
//!
//! The table here has no size, and nothing sweeps it by the clock: what vde_switch calls the hash size and the interval
//! of the garbage collector is kept and shown, and means nothing else.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::answer::{Failure, Outcome};
use super::command::Hash;
use super::interpreter::Facts;
use crate::bridge::Bridge;
use crate::bridge::fdb::Station;
use crate::switch::Switch;

pub(super) fn execute(command: &Hash, switch: &mut Switch, facts: &mut Facts, out: &mut String) -> Outcome {
    let bridge = &mut switch.bridge;
    match *command {
        Hash::ShowInfo => show(bridge, facts, out),
        Hash::SetSize(size) => facts.hash_size = size.next_power_of_two(),
        Hash::SetGcInterval(seconds) => facts.gc_interval = seconds,
        Hash::SetExpire(seconds) => bridge.set_ageing(Duration::from_secs(seconds.into())),
        Hash::SetMinPersistence(seconds) => bridge.fdb_mut().set_hold(Duration::from_secs(seconds.into())),
        Hash::Print => {
            let mut stations: Vec<_> = bridge.stations(Instant::now()).collect();
            stations.sort_unstable_by_key(|station| (station.vlan, station.address));
            stations.iter().for_each(|station| print(station, facts, out));
        }
        Hash::Find(address, vlan) => match bridge.station(vlan, address, Instant::now()) {
            Some(station) => print(&station, facts, out),
            None => return Err(Failure::new(libc::ENODEV)),
        },
        Hash::Add(address, port, vlan) => bridge.add_static(vlan, address, port)?,
        Hash::Del(address, vlan) => {
            if !bridge.fdb_mut().forget(vlan, address) {
                return Err(Failure::new(libc::ENODEV));
            }
        }
    }
    Ok(())
}

fn show(bridge: &Bridge, facts: &Facts, out: &mut String) {
    let Facts { hash_size, gc_interval, .. } = facts;
    let (expire, persistence) = (bridge.fdb().ageing().as_secs(), bridge.fdb().hold().as_secs());
    let _ = write!(
        out,
        "Hash size {hash_size}\nGC interval {gc_interval} secs\nGC expire {expire} secs\n\
         Min persistence {persistence} secs\n"
    );
}

fn print(station: &Station, facts: &Facts, out: &mut String) {
    let Station { vlan, address, port, age } = station;
    let _ = write!(out, "Hash: {:04} Addr: {address} VLAN {:04} ", place(station, facts), vlan.number());
    let _ = match age {
        Some(age) => writeln!(out, "to port: {:03}  age {} secs", port.number(), age.as_secs()),
        None => writeln!(out, "to port: {:03}  static", port.number()),
    };
}

/// The place that a station has in a table of the size that is shown.
fn place(station: &Station, facts: &Facts) -> u32 {
    let [a, b, c, d, e, f] = station.address.0;
    let folded = u32::from_be_bytes([c, d, e, f]) ^ u32::from_be_bytes([0, 0, a, b]) ^ u32::from(station.vlan.number());
    (folded ^ folded >> 16) & (facts.hash_size - 1)
}
