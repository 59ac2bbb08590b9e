use super::super::protocol::{PeerReport, PortTreeReport, TrafficReport};
use super::*;

fn sample(uptime_seconds: f64, ports: Vec<PortReport>) -> Sample {
    let switch = SwitchReport {
        name: "vswitch".to_owned(),
        version: "1.2.3".to_owned(),
        dir: "/run/lab".to_owned(),
        pid: 77,
        time: String::new(),
        started: String::new(),
        uptime_seconds,
        hub: false,
        snooping: false,
        numports: 32,
        stations: 1,
        ageing_seconds: 300.0,
        spanning_tree: None,
    };
    Sample { switch, ports }
}

fn port(number: u16, frames: u64, members: Vec<MemberReport>) -> PortReport {
    PortReport {
        port: number,
        carrier: true,
        state: "forwarding".to_owned(),
        spanning_tree: None,
        vlan: VlanReport { transparent: true, untagged: None, tagged: Vec::new() },
        stations: 0,
        mac_limit: None,
        learning: true,
        storm: false,
        traffic: TrafficReport { receive_frames: frames, receive_bytes: frames * 1000, ..TrafficReport::default() },
        members,
    }
}

fn member(name: &str, peer: Option<PeerReport>, description: Option<&str>) -> MemberReport {
    MemberReport {
        member: 0,
        name: name.to_owned(),
        kind: String::new(),
        carrier: true,
        since: String::new(),
        peer,
        description: description.map(str::to_owned),
        traffic: TrafficReport::default(),
    }
}

#[test]
fn rates_are_differences_over_the_switchs_own_time() {
    let tap = || member("tap://lab0?up=on", None, None);
    let mut dropping = port(2, 7, Vec::new());
    dropping.traffic.drops.insert("link-full".to_owned(), 12);
    let before = sample(100.0, vec![port(1, 1000, vec![tap()]), dropping.clone()]);
    let now = sample(102.0, vec![port(1, 6000, vec![tap()]), dropping]);
    let lines = lines(&before, &now, 100);
    assert_eq!(
        lines,
        [
            "vswitch 1.2.3 in /run/lab, process 77, up 1 min 42 s: 2 of 32 ports, 1 station",
            "rates over 2.00 s; in is into the switch",
            "PORT KIND NAME PEER STATE VLAN IN f/s bit/s frames OUT f/s bit/s frames",
            "   1 tap  lab0 -    up    all   2.50k 20.0M  6.00k       0     0      0",
            "   2 -    -    -    empty all       0     0      7       0     0      0",
            "     dropped: 12 link-full",
        ]
    );
}

#[test]
fn a_port_that_is_new_or_was_reset_has_no_rate() {
    let before = sample(1.0, vec![port(1, 500, Vec::new())]);
    let now = sample(2.0, vec![port(1, 20, Vec::new()), port(2, 20, Vec::new())]);
    for line in &lines(&before, &now, 100)[3..] {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[6..9], ["-", "-", "20"], "{line}");
    }
}

#[test]
fn a_spanning_tree_has_a_column_of_roles_and_a_line_of_its_own() {
    let mut tree = port(1, 0, vec![member("tap://a", None, None)]);
    tree.state = "discarding".to_owned();
    tree.spanning_tree =
        Some(PortTreeReport { role: "alternate".to_owned(), edge: false, rstp: true, guarded: false, path_cost: 2000 });
    let mut now = sample(2.0, vec![tree]);
    now.switch.spanning_tree = Some(TreeReport {
        bridge: "8000.02:00:00:00:00:01".to_owned(),
        root: "1000.02:00:00:00:00:02".to_owned(),
        root_path_cost: 2000,
        root_port: Some(3),
        topology_changes: 1,
    });
    let lines = lines(&now, &now, 100);
    assert_eq!(
        lines[1],
        "spanning tree: 8000.02:00:00:00:00:01, root 1000.02:00:00:00:00:02 by port 3 at cost 2000, 1 change"
    );
    assert!(lines[4].contains("discarding alternate all"), "{}", lines[4]);
}

#[test]
fn everybody_on_a_port_is_named_and_nobody_moves_the_terminal() {
    let peer = |pid| Some(PeerReport { pid, uid: 0, gid: 0 });
    let members = vec![member("vde:QEMU", peer(5), Some("QEMU")), member("vde:pid 6", peer(6), Some("\x1b[2J"))];
    let now = sample(2.0, vec![port(1, 0, members)]);
    let lines = lines(&now, &now, 100);
    assert!(lines[3].starts_with("   1 vde  QEMU "), "{}", lines[3]);
    assert!(lines[3].contains("root (5)") && lines[4].contains("root (6)"));
    assert!(lines.iter().all(|line| !line.contains('\x1b')));
}

#[test]
fn vlans_are_untagged_then_tagged() {
    let report = |untagged, tagged: &[u16]| VlanReport { transparent: false, untagged, tagged: tagged.to_vec() };
    assert_eq!(vlan(&report(Some(10), &[])), "10");
    assert_eq!(vlan(&report(None, &[20, 30])), "- t20,30");
    assert_eq!(vlan(&report(Some(1), &[2])), "1 t2");
}

#[test]
fn a_busy_port_fits_its_screen() {
    let peer = Some(PeerReport { pid: 4_194_304, uid: 0, gid: 0 });
    let mut busy = port(1000, u64::MAX / 1000, vec![member("vde:x", peer, Some(&"long ".repeat(20)))]);
    busy.vlan = VlanReport { transparent: false, untagged: Some(4094), tagged: (100..120).collect() };
    let now = sample(1.0, vec![busy]);
    for width in [200, 100, 80] {
        for line in lines(&now, &now, width) {
            assert!(line.chars().count() <= width, "{line}");
        }
    }
    assert!(lines(&now, &now, 100)[2].contains("frames"));
}
