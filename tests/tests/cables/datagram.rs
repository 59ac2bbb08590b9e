//! Bare frames in datagrams between switches of ours: two addresses, two socket files, a group. And datagrams from others.

use std::net::UdpSocket;
use std::time::Duration;

use netlab::process::Switch;
use netlab::station::{BROADCAST, Interface, Station, frame, new_address};
use netlab::world::{Host, PATIENCE, Transfer, lab, run, wait_until};

/// Long enough for a frame that will not come.
const A_WHILE: Duration = Duration::from_millis(300);
/// Frames that come while the switch does something else.
const BURST: u32 = 1000;

/// Two switches with a host each and a cable between them carry pings that fit and that do not, and checked TCP.
fn carries_pings_and_tcp(one: &str, other: &str) {
    let a = Switch::start("a", &format!("-t tap0 --port {one}"));
    let b = Switch::start("b", &format!("-t tap1 --port {other}"));
    let left = Host::with("left", "tap0", "10.0.0.1/24");
    let right = Host::with("right", "tap1", "10.0.0.2/24");
    wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
    left.ping("-c 3", "10.0.0.2");
    right.ping("-c 3 -s 1472", "10.0.0.1");
    Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20).finish();
    Transfer::start(&right, &left, "10.0.0.1:5000", 8 << 20).finish();
    for switch in [a, b] {
        assert_eq!(switch.warnings(), Vec::<String>::new());
    }
}

#[test]
fn udp_joins_two_switches() {
    lab(|| {
        carries_pings_and_tcp("udp://127.0.0.2:7000?local=127.0.0.1:7000", "udp://127.0.0.2:7000->127.0.0.1:7000");
    });
}

#[test]
fn udp_over_ipv6_joins_two_switches() {
    lab(|| {
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0");
        carries_pings_and_tcp("udp://[::1]:7002?local=[::1]:7001", "udp://[::1]:7001?local=[::1]:7002&mtu=1400");
    });
}

#[test]
fn two_socket_files_join_two_switches() {
    lab(|| carries_pings_and_tcp("dgram:///run/sock.b?local=/run/sock.a", "dgram:///run/sock.a?local=/run/sock.b"));
}

#[test]
fn a_path_that_is_narrower_than_a_frame_carries_it_in_fragments() {
    lab(|| {
        run("ip link add here type veth peer name there");
        let far = Host::with("far", "there", "10.9.0.2/24");
        Host::HERE.set_address("here", "10.9.0.1/24");
        for line in ["ip link set here mtu 1300", "ip -n far link set there mtu 1300"] {
            run(line);
        }
        let _a = Switch::start("a", "-t tap0 --port udp://10.9.0.2:7000?local=10.9.0.1:7000");
        let _b = Switch::start_by(&far.line(""), "b", "--port tap://tap1 --port udp://10.9.0.1:7000?local=:7000");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        far.set_address("tap1", "10.0.0.2/24");
        wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
        left.ping("-c 3 -s 1472", "10.0.0.2");
        Transfer::start(&left, &far, "10.0.0.2:5000", 8 << 20).finish();
    });
}

#[test]
fn members_of_a_group_are_one_ethernet_without_a_loop() {
    lab(|| {
        let port = "mcast://239.5.5.5:7000?local=127.0.0.1";
        let switches = ["a", "b", "c"].map(|name| Switch::start(name, &format!("-t tap-{name} --port {port}")));
        let mut stations = ["tap-a", "tap-b", "tap-c"].map(|tap| {
            run(&format!("ip link set {tap} up"));
            Interface::open(&Host::HERE, tap)
        });
        let [a, b, c] = &mut stations;
        for number in 0..5 {
            a.send(&frame(BROADCAST, a.address(), number, 100));
        }
        let all = [0, 1, 2, 3, 4];
        assert_eq!(b.listen(A_WHILE), all, "each once");
        assert_eq!(c.listen(A_WHILE), all);
        assert_eq!(a.listen(A_WHILE), [0; 0], "none comes back");
        for switch in &switches {
            assert_eq!(switch.port(2)["drops"], serde_json::json!({}));
        }
    });
}

#[test]
fn what_others_send_is_counted_or_refused_and_nothing_of_it_is_forwarded() {
    lab(|| {
        let far = UdpSocket::bind("127.0.0.2:7000").unwrap();
        let switch = Switch::start("a", "-t tap0 --port udp://127.0.0.2:7000?local=127.0.0.1:7000");
        run("ip link set tap0 up");
        let mut tap = Interface::open(&Host::HERE, "tap0");
        let sent = frame(BROADCAST, new_address(), 1, 100);
        let stranger = UdpSocket::bind("127.0.0.3:7000").unwrap();
        stranger.connect("127.0.0.1:7000").unwrap();
        stranger.send(&sent).unwrap();
        let oversized = frame(BROADCAST, new_address(), 2, 9300);
        for datagram in [&[][..], &[1; 13], &oversized, &sent] {
            far.send_to(datagram, "127.0.0.1:7000").unwrap();
        }
        assert_eq!(tap.listen(A_WHILE), [1]);
        assert_eq!(switch.port(2)["drops"], serde_json::json!({"runt": 2, "oversized": 1}));
        assert_eq!(stranger.send(&sent).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        // A burst waits in the kernel until the switch has time for it.
        switch.process.signal(libc::SIGSTOP);
        for number in 0..BURST {
            far.send_to(&frame(BROADCAST, new_address(), number, 1400), "127.0.0.1:7000").unwrap();
        }
        switch.process.signal(libc::SIGCONT);
        let received = || switch.port(2)["receive_frames"].as_u64().unwrap();
        wait_until("the burst is received", PATIENCE, || received() == 1 + u64::from(BURST));
    });
}

#[test]
fn a_far_end_that_is_away_costs_frames_and_comes_again() {
    lab(|| {
        let mut b = Some(Switch::start("b", "-t tap1 --port udp://127.0.0.1:7000?local=127.0.0.2:7000"));
        let a = Switch::start("a", "-t tap0 --port udp://127.0.0.2:7000?local=127.0.0.1:7000");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        run("ip tuntap add tap2 mode tap");
        for round in 0..2 {
            let tap = ["tap1", "tap2"][round];
            let right = Host::with(["right", "next"][round], tap, "10.0.0.2/24");
            // A station at another port has another address.
            left.run("ip neigh flush all");
            wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
            left.ping("-c 3", "10.0.0.2");
            right.ping("-c 1", "10.0.0.1");
            b.take().unwrap().stop();
            wait_until("the loss is counted", PATIENCE, || {
                left.reaches("10.0.0.2");
                a.port(2)["drops"]["link-down"].as_u64().unwrap_or(0) > 0
            });
            b = Some(Switch::start("b", "-t tap2 --port udp://127.0.0.1:7000?local=127.0.0.2:7000"));
        }
    });
}
