//! `vswitch show`: the table of ports.
//!
//! A rate is the difference of two samples by the time between them, as the switch's own clock has it; the line above
//! the table says how long that was. A single `show` therefore takes two samples, a quarter of a second apart.

use nix::unistd::{Uid, User};
use program::options::printable;

use super::protocol::{MemberReport, PortReport, SwitchReport, TreeReport, VlanReport};
use super::table::{self, Column, Row, cut};
use super::units::{counted, scaled, span_of_seconds};

/// What a switch said once.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(super) struct Sample {
    pub switch: SwitchReport,
    pub ports: Vec<PortReport>,
}

/// Frames and bits a second of a port.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    receive_frames: f64,
    receive_bits: f64,
    transmit_frames: f64,
    transmit_bits: f64,
}

/// The lines for a sample and the one before it, no wider than this if that can be.
pub(super) fn lines(before: &Sample, now: &Sample, width: usize) -> Vec<String> {
    let seconds = now.switch.uptime_seconds - before.switch.uptime_seconds;
    let mut lines = heading(now);
    lines.push(format!("rates over {seconds:.2} s; in is into the switch"));
    lines = lines.iter().map(|line| cut(line, width)).collect();
    let has_tree = now.switch.spanning_tree.is_some();
    let mut rows = Vec::new();
    for port in &now.ports {
        let earlier = before.ports.iter().find(|earlier| earlier.port == port.port);
        append_rows(port, earlier.and_then(|earlier| rates(earlier, port, seconds)), has_tree, &mut rows);
    }
    lines.extend(table::lines(&columns(has_tree), &rows, width));
    lines
}

fn columns(has_tree: bool) -> Vec<Column> {
    let left =
        [Column::number("PORT"), Column::text("KIND"), Column::elastic("NAME", 8), Column::elastic("PEER", 8).spare(1)];
    let state = [Column::text("STATE")].into_iter().chain(has_tree.then_some(Column::text("ROLE")));
    let right = [
        Column::elastic("VLAN", 5),
        Column::number("IN f/s"),
        Column::number("bit/s"),
        Column::number("frames").spare(2),
        Column::number("OUT f/s"),
        Column::number("bit/s"),
        Column::number("frames").spare(2),
    ];
    left.into_iter().chain(state).chain(right).collect()
}

fn heading(now: &Sample) -> Vec<String> {
    let switch = &now.switch;
    let SwitchReport { name, version, pid, numports, .. } = switch;
    let uptime = span_of_seconds(switch.uptime_seconds);
    let stations = counted(switch.stations, "station");
    let (dir, name) = (printable(&switch.dir), printable(name));
    let ports = now.ports.len();
    let mut lines =
        vec![format!("{name} {version} in {dir}, process {pid}, up {uptime}: {ports} of {numports} ports, {stations}")];
    let mut traits = Vec::new();
    if switch.hub {
        traits.push("a hub: every frame goes to every port".to_owned());
    }
    if let Some(tree) = &switch.spanning_tree {
        traits.push(tree_words(tree));
    }
    if switch.snooping {
        traits.push("IGMP and MLD snooping".to_owned());
    }
    if !traits.is_empty() {
        lines.push(traits.join("; "));
    }
    lines
}

fn tree_words(tree: &TreeReport) -> String {
    let TreeReport { bridge, root, root_path_cost, root_port, topology_changes } = tree;
    let changes = counted(*topology_changes, "change");
    match root_port {
        None => format!("spanning tree: {bridge} is the root, {changes}"),
        Some(port) => {
            format!("spanning tree: {bridge}, root {root} by port {port} at cost {root_path_cost}, {changes}")
        }
    }
}

/// None if the counters were reset between the two.
fn rates(before: &PortReport, now: &PortReport, seconds: f64) -> Option<Rates> {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
    let (before, now) = (&before.traffic, &now.traffic);
    let rates = Rates {
        receive_frames: rate(before.receive_frames, now.receive_frames)?,
        receive_bits: rate(before.receive_bytes, now.receive_bytes)? * 8.0,
        transmit_frames: rate(before.transmit_frames, now.transmit_frames)?,
        transmit_bits: rate(before.transmit_bytes, now.transmit_bytes)? * 8.0,
    };
    (seconds > 0.0).then_some(rates)
}

/// A row for the port and its first member, one for each other member, and a note of what was dropped.
fn append_rows(port: &PortReport, rates: Option<Rates>, has_tree: bool, rows: &mut Vec<Row>) {
    let rate = |pick: fn(&Rates) -> f64| rates.as_ref().map_or_else(|| "-".to_owned(), |rates| scaled(pick(rates)));
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let total = |frames: u64| scaled(frames as f64);
    let mut members = port.members.iter();
    let mut cells = vec![port.port.to_string()];
    cells.extend(members.next().map_or_else(|| ["-", "-", "-"].map(str::to_owned), member_cells));
    cells.push(state(port));
    if has_tree {
        cells.push(role(port));
    }
    cells.push(vlan(&port.vlan));
    cells.extend([
        rate(|rates| rates.receive_frames),
        rate(|rates| rates.receive_bits),
        total(port.traffic.receive_frames),
        rate(|rates| rates.transmit_frames),
        rate(|rates| rates.transmit_bits),
        total(port.traffic.transmit_frames),
    ]);
    let width = cells.len();
    rows.push(Row::Cells(cells));
    for member in members {
        let mut cells = vec![String::new()];
        cells.extend(member_cells(member));
        cells.resize(width, String::new());
        rows.push(Row::Cells(cells));
    }
    if !port.traffic.drops.is_empty() {
        let drops = port.traffic.drops.iter().map(|(reason, frames)| format!("{frames} {}", printable(reason)));
        rows.push(Row::Note(format!("dropped: {}", drops.collect::<Vec<_>>().join(", "))));
    }
}

/// Kind, name and peer.
fn member_cells(member: &MemberReport) -> [String; 3] {
    let Some(peer) = &member.peer else {
        let (kind, address) = member.name.split_once("://").unwrap_or(("link", &member.name));
        // What is behind the address are settings.
        let place = address.split('?').next().filter(|place| !place.is_empty()).unwrap_or(address);
        return [printable(kind), if place.is_empty() { "-".to_owned() } else { printable(place) }, "-".to_owned()];
    };
    let user = User::from_uid(Uid::from_raw(peer.uid)).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_else(|| peer.uid.to_string());
    let name = member.description.as_deref().map_or_else(|| "-".to_owned(), printable);
    ["vde".to_owned(), name, format!("{} ({})", printable(&user), peer.pid)]
}

fn state(port: &PortReport) -> String {
    let state = match &port.spanning_tree {
        _ if port.members.is_empty() => "empty",
        Some(tree) if tree.guarded => "guarded",
        _ if !port.carrier => "no carrier",
        None => "up",
        Some(_) => &port.state,
    };
    if port.storm { format!("{state}, storm") } else { state.to_owned() }
}

fn role(port: &PortReport) -> String {
    match &port.spanning_tree {
        Some(tree) if tree.edge => "edge".to_owned(),
        Some(tree) => tree.role.clone(),
        None => "-".to_owned(),
    }
}

/// The untagged VLAN, then the tagged ones behind a t.
fn vlan(vlan: &VlanReport) -> String {
    if vlan.transparent {
        return "all".to_owned();
    }
    let untagged = vlan.untagged.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string());
    let tagged: Vec<String> = vlan.tagged.iter().map(ToString::to_string).collect();
    if tagged.is_empty() { untagged } else { format!("{untagged} t{}", tagged.join(",")) }
}

#[cfg(test)]
#[path = "show_test.rs"]
mod tests;
