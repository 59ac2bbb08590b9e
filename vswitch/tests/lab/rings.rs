//! Spanning tree in rings: one port blocks, frames arrive once, and the network heals when a cable is cut.
//!
//! A *cable* is a link between two TAPs: a bridge without spanning tree, which passes BPDUs. It is cut by taking both TAPs
//! down at once. The Linux bridge's spanning tree is STP (IEEE 802.1D-1998), in the kernel.

use std::fs;
use std::time::{Duration, Instant};

use crate::client::Client;
use netlab::process::Switch;
use netlab::station::{BROADCAST, Interface, Station, frame, wait_until_both_hear};
use netlab::world::{Host, command, lab, run, wait_until};

/// The shortest times that IEEE 802.1D-1998 allows, in hundredths of a second, and a priority that wins.
const HASTY_ROOT: &str = "hello_time 100 max_age 600 forward_delay 400 priority 4096";
/// The same for a bridge that is not to be the root: its ports begin by its own times.
const HASTY: &str = "hello_time 100 max_age 600 forward_delay 400";
/// In such a tree: until old information is void and a port has gone through both delays, and some more.
const HASTY_BOUND: Duration = Duration::from_secs(6 + 2 * 4 + 4);
/// RSTP needs none of the times where all neighbours speak it. 2 s on a quiet machine.
const RAPID_BOUND: Duration = Duration::from_secs(5);
/// The same where a neighbour falls silent, which takes three hello times of two seconds to notice.
const SILENCE_BOUND: Duration = Duration::from_secs(3 * 2 + 5);
/// Until a port that hears no bridge is known to lead to a host (three seconds), and until STP has settled.
const SETTLING: Duration = Duration::from_secs(30);

#[test]
fn three_switches_and_a_linux_bridge_in_a_ring_block_one_port_and_heal() {
    lab(|| {
        // br0 ── s1 ══ s2 ── s3 ── br0, where ══ is a vde:// link.
        let mut s1 = Switch::start("s1", "-F -t s1-br");
        let s2 = Switch::start("s2", "-F --port vde:///run/s1 -t s2-s3");
        let s3 = Switch::start("s3", "-F -t s3-s2 -t s3-br");
        s1.process.wait_for_times(2, " joined");
        cable("s2-s3", "s3-s2");
        bridge("br0", &["s1-br", "s3-br"], HASTY_ROOT);
        let mut far = host_on("br0", "far");
        let (mut c1, mut c2, mut c3) = (Client::join(s1.dir()), Client::join(s2.dir()), Client::join(s3.dir()));

        let ring = || {
            let ours = [(&s1, 1), (&s1, 2), (&s2, 1), (&s2, 2), (&s3, 1), (&s3, 2)];
            let ours = ours.iter().map(|(switch, port)| switch.state(*port));
            let theirs = ["s1-br", "s3-br"].iter().map(|port| bridge_state("br0", port));
            ours.chain(theirs).collect::<Vec<_>>()
        };
        wait_until_one_blocks(ring);
        wait_until_both_hear(&mut c1, &mut far, SETTLING);
        let mut stations: [&mut dyn Station; 4] = [&mut c1, &mut c2, &mut c3, &mut far];
        wait_until_all_hear_each_other(&mut stations);
        assert_broadcasts_arrive_once(&mut stations);

        for (cut, healed) in [("s1-br", "br0 and s1"), ("s3-br", "br0 and s3")] {
            let since = Instant::now();
            run(&format!("ip link set {cut} down"));
            wait_until_both_hear(&mut c1, &mut far, HASTY_BOUND);
            wait_until_both_hear(&mut c3, &mut far, HASTY_BOUND);
            println!("lab: the link between {healed} is cut: {} ms", since.elapsed().as_millis());
            run(&format!("ip link set {cut} up"));
            wait_until_one_blocks(ring);
            assert_broadcasts_arrive_once(&mut [&mut c1, &mut c2, &mut c3, &mut far]);
        }
    });
}

#[test]
fn a_linux_bridge_opposite_of_the_root_blocks_its_own_port_and_heals() {
    lab(|| {
        // br0 ── s1 ── br1 ── s2 ── br0
        let s1 = Switch::start("s1", "-F -t s1-br0 --port tap://s1-br1");
        let s2 = Switch::start("s2", "-F -t s2-br0 --port tap://s2-br1");
        bridge("br0", &["s1-br0", "s2-br0"], HASTY_ROOT);
        // Until then their other ports have no carrier: so no port begins by the default times, which are longer.
        wait_until("both know the root", SETTLING, || [&s1, &s2].iter().all(|switch| switch.state(1) == "forwarding"));
        bridge("br1", &["s1-br1", "s2-br1"], HASTY);
        let (mut near, mut far) = (host_on("br0", "near"), host_on("br1", "far"));
        let theirs = || ["s1-br1", "s2-br1"].map(|port| bridge_state("br1", port));
        let ring = || {
            let ours = [(&s1, 1), (&s1, 2), (&s2, 1), (&s2, 2)].map(|(switch, port)| switch.state(port));
            let roots = ["s1-br0", "s2-br0"].map(|port| bridge_state("br0", port));
            [ours.to_vec(), roots.to_vec(), theirs().to_vec()].concat()
        };
        wait_until_one_blocks(ring);
        assert_eq!(theirs().iter().filter(|state| *state == "discarding").count(), 1);
        let (mut c1, mut c2) = (Client::join(s1.dir()), Client::join(s2.dir()));
        wait_until_all_hear_each_other(&mut [&mut c1, &mut c2, &mut near, &mut far]);
        assert_broadcasts_arrive_once(&mut [&mut c1, &mut c2, &mut near, &mut far]);

        // The bridge opposite of the root is reached by this link; it has to wait for both of its delays.
        let active = if theirs()[0] == "forwarding" { "s1-br0" } else { "s2-br0" };
        let since = Instant::now();
        run(&format!("ip link set {active} down"));
        wait_until_both_hear(&mut far, &mut near, HASTY_BOUND);
        println!(
            "lab: a link to the root is cut, and a Linux bridge has to open its port: {} ms",
            since.elapsed().as_millis()
        );
    });
}

#[test]
fn a_ring_of_rstp_heals_at_once() {
    lab(|| {
        // s1 ── s2 ══ s3 ══ s4 ══ s1
        let mut s1 = Switch::start("s1", "-F --priority 0 -t s1-s2");
        let mut s2 = Switch::start("s2", "-F -t s2-s1");
        cable("s1-s2", "s2-s1");
        let mut s3 = Switch::start("s3", "-F --port vde:///run/s2");
        s2.process.wait_for_times(2, " joined");
        let s4 = Switch::start("s4", "-F --port vde:///run/s3 --port vde:///run/s1");
        s1.process.wait_for_times(2, " joined");
        s3.process.wait_for_times(2, " joined");
        let mut clients = [&s1, &s2, &s3, &s4].map(|switch| Client::join(switch.dir()));

        let ring = || {
            let ports = |switch: &Switch| [switch.state(1), switch.state(2)];
            [&s1, &s2, &s3, &s4].map(ports).concat()
        };
        wait_until_one_blocks(ring);
        let [c1, c2, c3, c4] = &mut clients;
        wait_until_all_hear_each_other(&mut [c1, c2, c3, c4]);
        assert_broadcasts_arrive_once(&mut [c1, c2, c3, c4]);

        let since = Instant::now();
        run_batch("link set s1-s2 down\nlink set s2-s1 down\n");
        wait_until_both_hear(c2, c1, RAPID_BOUND);
        println!("lab: RSTP, a cable at the root is cut: {} ms", since.elapsed().as_millis());
        assert_broadcasts_arrive_once(&mut [c1, c2, c3, c4]);

        run_batch("link set s1-s2 up\nlink set s2-s1 up\n");
        wait_until_one_blocks(ring);
        wait_until_both_hear(c2, c1, RAPID_BOUND);
        assert_broadcasts_arrive_once(&mut [c1, c2, c3, c4]);

        // Now no carrier tells of it: the neighbour has to miss three hellos.
        let since = Instant::now();
        run("ip link set s1-s2 nomaster");
        wait_until_both_hear(c2, c1, SILENCE_BOUND);
        println!("lab: RSTP, a cable at the root carries no more: {} ms", since.elapsed().as_millis());
        assert_broadcasts_arrive_once(&mut [c1, c2, c3, c4]);

        let since = Instant::now();
        s1.process.signal(libc::SIGKILL);
        wait_until_both_hear(c2, c4, RAPID_BOUND);
        println!("lab: RSTP, the root is killed: {} ms", since.elapsed().as_millis());
        assert_broadcasts_arrive_once(&mut [c2, c3, c4]);
        s1.process.wait(RAPID_BOUND);
    });
}

#[test]
fn a_cable_between_two_ports_of_one_switch_blocks_one_of_them() {
    lab(|| {
        let switch = Switch::start("a", "-F -t loop0 -t loop1");
        cable("loop0", "loop1");
        let (mut one, mut other) = (Client::join(switch.dir()), Client::join(switch.dir()));
        wait_until_one_blocks(|| vec![switch.state(1), switch.state(2)]);
        assert_eq!(switch.state(2), "discarding");
        wait_until_all_hear_each_other(&mut [&mut one, &mut other]);
        assert_broadcasts_arrive_once(&mut [&mut one, &mut other]);
    });
}

#[test]
fn a_guarded_port_is_shut_by_the_first_bpdu_and_opens_when_the_guard_goes() {
    lab(|| {
        fs::write("/run/rc", "port/guard 1 1\n").unwrap();
        let a = Switch::start("a", "-F -t a-b -f /run/rc -M /run/a.mgmt");
        let (mut one, mut other) = (Client::join(a.dir()), Client::join(a.dir()));
        wait_until("it forwards, as to a host", SETTLING, || a.state(1) == "forwarding");
        let b = Switch::start("b", "-F -t b-a");
        let mut far = Client::join(b.dir());
        cable("a-b", "b-a");
        wait_until("it is shut", SETTLING, || a.state(1) == "discarding");
        wait_until("that is said", SETTLING, || !a.warnings().is_empty());
        assert!(matches!(a.warnings().as_slice(), [line] if line.ends_with("port 1: shut by the BPDU guard")));
        wait_until_both_hear(&mut one, &mut other, SETTLING);
        wait_until("the port of its neighbour forwards", SETTLING, || b.state(1) == "forwarding");
        far.send(&frame(BROADCAST, far.address(), 1, 100));
        assert!(one.listen(Duration::from_millis(300)).is_empty());

        // unixcmd always exits with 255.
        let said = command("unixcmd -s /run/a.mgmt -f /etc/vde2/vdecmd port/guard 1 0").output().unwrap();
        wait_until_both_hear(&mut one, &mut far, SETTLING);
        assert_eq!(a.warnings().len(), 1, "{said:?}");
    });
}

/// A bridge with spanning tree, by the kernel's own hand.
fn bridge(name: &str, ports: &[&str], settings: &str) {
    run(&format!("ip link add {name} type bridge stp_state 1 {settings}"));
    plug_into(name, ports);
}

/// Joins two TAPs; BPDUs pass.
fn cable(one: &str, other: &str) {
    let name = format!("c-{one}");
    run(&format!("ip link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"));
    plug_into(&name, &[one, other]);
}

fn plug_into(bridge: &str, ports: &[&str]) {
    run(&format!("ip link set {bridge} up"));
    for port in ports {
        run(&format!("ip link set {port} master {bridge} up"));
    }
}

/// A host on a port of a bridge.
fn host_on(bridge: &str, name: &'static str) -> Interface {
    let host = Host::new(name);
    run(&format!("ip link add v-{name} type veth peer name eth0 netns {name}"));
    run(&format!("ip -n {name} link set eth0 up"));
    plug_into(bridge, &[&format!("v-{name}")]);
    Interface::open(&host, "eth0")
}

/// What the Linux bridge has a port do (Linux `enum` of `BR_STATE_DISABLED` and its like), in the words of IEEE 802.1D-2004.
fn bridge_state(bridge: &str, port: &str) -> String {
    let state = fs::read_to_string(format!("/sys/class/net/{bridge}/brif/{port}/state")).unwrap();
    match state.trim() {
        "0" | "1" | "4" => "discarding",
        "2" => "learning",
        _ => "forwarding",
    }
    .to_owned()
}

fn run_batch(lines: &str) {
    fs::write("/run/batch", lines).unwrap();
    run("ip -batch /run/batch");
}

/// Waits until the tree has settled: of the ports between bridges one discards, and all others forward.
fn wait_until_one_blocks(ports: impl Fn() -> Vec<String>) {
    let settled = || {
        let states = ports();
        let forwarding = states.iter().filter(|state| *state == "forwarding").count();
        forwarding + 1 == states.len() && states.iter().any(|state| state == "discarding")
    };
    wait_until("one port of the ring discards, all others forward", SETTLING, settled);
}

/// Waits until every station's port forwards.
fn wait_until_all_hear_each_other(stations: &mut [&mut dyn Station]) {
    let (first, others) = stations.split_first_mut().unwrap();
    for other in others {
        wait_until_both_hear(*first, *other, SETTLING);
    }
}

/// Has every station broadcast, and every other hear each frame once.
fn assert_broadcasts_arrive_once(stations: &mut [&mut dyn Station]) {
    let hush = Duration::from_millis(40);
    for sender in 0..stations.len() {
        stations.iter_mut().for_each(|station| drop(station.listen(hush)));
        let numbers: Vec<u32> = (0..10).collect();
        for number in &numbers {
            let frame = frame(BROADCAST, stations[sender].address(), *number, 100);
            stations[sender].send(&frame);
        }
        for (index, station) in stations.iter_mut().enumerate() {
            let expected = if index == sender { &[] } else { numbers.as_slice() };
            assert_eq!(station.listen(hush), expected, "at station {index}, from station {sender}");
        }
    }
}
