//! `quic://` between two switches on two hosts.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlab::probes::Probes;
use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, has_interface, lab, run, wait_until};
use plug::control::ask;
use plug::quic::{Fingerprint, Identity};
use serde_json::Value;

/// Two hosts with a good path between them: 192.168.0.1 and .2.
fn hosts() -> (Host, Host) {
    run("ip link add wan0 type veth peer name wan1");
    let left = Host::with("left", "wan0", "192.168.0.1/24");
    let right = Host::with("right", "wan1", "192.168.0.2/24");
    (left, right)
}

/// The same over a path that is as bad as these settings of an impaired link, and lasts as long as the process.
fn hosts_with_a_bad_path(settings: &str) -> (Host, Host, Process) {
    let plug = program("plug");
    let mut path = Process::start(&format!("{} impair://{{tap://wan0}}?{settings} tap://wan1", plug.display()));
    path.wait_until("the path is there", || has_interface("wan0") && has_interface("wan1"));
    let left = Host::with("left", "wan0", "192.168.0.1/24");
    let right = Host::with("right", "wan1", "192.168.0.2/24");
    (left, right, path)
}

/// A key in /run/NAME.key.
fn key(name: &str) -> Fingerprint {
    Identity::load_or_create(format!("/run/{name}.key").as_ref()).unwrap().fingerprint()
}

/// A switch on a host with a TAP of the host's own, which has this address, and a cable.
fn switch(host: &Host, name: &str, address: &str, mtu: u32, cable: &str) -> Switch {
    let tap = format!("tap-{name}");
    let options = format!("--port tap://{tap}?mtu={mtu} --port {cable}&mtu={mtu}");
    let switch = Switch::start_by(&host.line(""), name, &options);
    host.set_address(&tap, address);
    switch
}

/// The switches of two hosts, joined by a cable: 10.0.0.1 and .2.
fn joined(left: &Host, right: &Host, mtu: u32) -> (Switch, Switch) {
    let (a, b) = (key("a"), key("b"));
    let listener = format!("quic://?listen=192.168.0.2:4433&key=/run/b.key&peer={a}");
    let right_switch = switch(right, "b", "10.0.0.2/24", mtu, &listener);
    let connector = format!("quic://192.168.0.2:4433?key=/run/a.key&peer={b}");
    let left_switch = switch(left, "a", "10.0.0.1/24", mtu, &connector);
    wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
    (left_switch, right_switch)
}

#[test]
fn a_cable_carries_pings_and_transfers() {
    lab(|| {
        let (left, right) = hosts();
        let (_a, _b) = joined(&left, &right, 1500);
        left.ping("-c 3", "10.0.0.2");
        right.ping("-c 3 -s 1472", "10.0.0.1");
        let begun = Instant::now();
        Transfer::start(&left, &right, "10.0.0.2:5000", 64 << 20).finish();
        println!("lab: {:.0} Mbit/s over a good path", 64.0 * 8.39 / begun.elapsed().as_secs_f64());
        Transfer::start(&right, &left, "10.0.0.1:5000", 8 << 20).finish();
    });
}

/// Bytes that a TCP connection with the congestion control of RFC 5681 carries in a second.
fn tcp_rate(from: &Host, to: &Host, address: &str, time: Duration) -> f64 {
    let address: SocketAddr = address.parse().unwrap();
    let (tell, listens) = channel();
    let receiver = to.spawn(move || {
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut received, begun) = (vec![0; 1 << 16], 0, Instant::now());
        while begun.elapsed() < time {
            received += stream.read(&mut buffer).unwrap();
        }
        received as f64 / begun.elapsed().as_secs_f64()
    });
    listens.recv_timeout(PATIENCE).unwrap();
    let sender = from.spawn(move || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        set_reno(&stream);
        // The receiver hangs up when it has seen enough.
        while stream.write_all(&[0; 1 << 16]).is_ok() {}
    });
    let rate = receiver.join().unwrap();
    sender.join().unwrap();
    rate
}

fn set_reno(stream: &TcpStream) {
    let name = b"reno";
    let len = name.len() as libc::socklen_t;
    // SAFETY: the value is as long as stated.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), len)
    };
    assert_eq!(set, 0);
}

#[test]
fn over_a_lossy_path_it_carries_more_than_tcp_would_and_datagrams_are_not_delayed() {
    lab(|| {
        let delay = Duration::from_millis(50);
        // What is under way, and 200 ms at the rate that wait.
        let (left, right, mut path) = hosts_with_a_bad_path(
            "delay=50ms&loss=1%&rate=100mbit&limit=50000&buffer=3125000&seed=7&control=/run/path",
        );
        let time = Duration::from_secs(8);
        // What ssh can carry at most, since that is a TCP connection itself.
        let bare = tcp_rate(&left, &right, "192.168.0.2:5000", time);
        let (_a, _b) = joined(&left, &right, 1500);
        let probes = Probes::start(&left, &right, "10.0.0.2:6000");
        let cabled = tcp_rate(&left, &right, "10.0.0.2:5000", time);
        let (p99, came) = probes.stop().unwrap();
        println!("lab: {:.1} Mbit/s bare, {:.1} through the cable", bare * 8e-6, cabled * 8e-6);
        println!("lab: UDP meanwhile: 99 of 100 within {p99:?}, {:.1} % came", came * 100.0);
        assert!(cabled > 3.0 * bare, "{bare} bare, {cabled} through the cable");
        assert!(p99 < 2 * delay && came > 0.95, "{p99:?}, {came}");
        // It was as bad as it was to be.
        let figures: Value = serde_json::from_str(&ask("/run/path".as_ref(), "show --json").unwrap()).unwrap();
        for side in ["tx", "rx"] {
            let [frames, lost] = [&figures[side]["frames"], &figures[side]["drops"]["impaired"]];
            let lost = lost.as_f64().unwrap() / frames.as_f64().unwrap();
            assert!((0.005..0.015).contains(&lost), "{side}: {lost}");
        }
        path.signal(libc::SIGTERM);
        assert_eq!(path.wait(PATIENCE).code(), Some(0), "{}", path.said());
    });
}

#[test]
fn frames_longer_than_the_path_takes_cross_it() {
    lab(|| {
        let (left, right) = hosts();
        let (_a, _b) = joined(&left, &right, 9000);
        left.ping("-c 3 -s 8972", "10.0.0.2");
        right.ping("-c 3 -s 8972", "10.0.0.1");
        Transfer::start(&left, &right, "10.0.0.2:5000", 16 << 20).finish();
    });
}

#[test]
fn a_peer_that_comes_back_from_another_address_is_let_in_at_once() {
    lab(|| {
        let (left, right) = hosts();
        let (mut a, b) = joined(&left, &right, 1500);
        a.process.signal(libc::SIGKILL);
        a.process.wait(PATIENCE);
        right.run("ip neigh flush all");
        left.run("ip addr del 192.168.0.1/24 dev wan0");
        left.run("ip addr add 192.168.0.3/24 dev wan0");
        let connector = format!("quic://192.168.0.2:4433?key=/run/a.key&peer={}", key("b"));
        let _again = switch(&left, "again", "10.0.0.3/24", 1500, &connector);
        wait_until("they are joined again", Duration::from_secs(10), || left.reaches("10.0.0.2"));
        assert!(b.process.said().contains("connected anew: 192.168.0.3:"), "{}", b.process.said());
    });
}

#[test]
fn a_listener_that_was_started_anew_is_found_again() {
    lab(|| {
        let (left, right) = hosts();
        let (_a, mut b) = joined(&left, &right, 1500);
        b.process.signal(libc::SIGKILL);
        b.process.wait(PATIENCE);
        let listener = format!("quic://?listen=192.168.0.2:4433&key=/run/b.key&peer={}", key("a"));
        let _again = switch(&right, "again", "10.0.0.4/24", 1500, &listener);
        // Less than the silence after which the connection would be lost.
        wait_until("they are joined again", Duration::from_secs(12), || left.reaches("10.0.0.4"));
    });
}

#[test]
fn a_wrong_key_costs_one_line_and_nothing_is_forwarded() {
    lab(|| {
        let (left, right) = hosts();
        let (a, b, stranger) = (key("a"), key("b"), key("stranger"));
        let listener = format!("quic://?listen=192.168.0.2:4433&key=/run/b.key&peer={a}");
        let right_switch = switch(&right, "b", "10.0.0.2/24", 1500, &listener);
        let wrong = format!("quic://192.168.0.2:4433?key=/run/stranger.key&peer={b}");
        let left_switch = switch(&left, "wrong", "10.0.0.1/24", 1500, &wrong);
        right_switch.has_warned_once_of(&format!("refused: the far side's key is {stranger}, not {a}"));
        left_switch.has_warned_once_of(&format!("cannot connect: the far side refuses our key, {stranger}"));
        assert!(!left.reaches("10.0.0.2"));
        assert_eq!(right_switch.port(2)["rx_frames"].as_u64().unwrap_or(0), 0);
        left_switch.stop();
        let right_one = format!("quic://192.168.0.2:4433?key=/run/a.key&peer={b}");
        let _left = switch(&left, "a", "10.0.0.1/24", 1500, &right_one);
        wait_until("the right one is in", PATIENCE, || left.reaches("10.0.0.2"));
        assert_eq!(right_switch.warnings().len(), 1);
    });
}

#[test]
fn garbage_at_the_port_is_counted_and_no_more() {
    lab(|| {
        let (left, right) = hosts();
        let (_a, b) = joined(&left, &right, 1500);
        let flood = left.spawn(|| {
            let socket = UdpSocket::bind("192.168.0.1:0").unwrap();
            let mut datagram = vec![0; 1200];
            for number in 0..5000_u32 {
                // Half of them look like the first packet of a handshake (RFC 9000 §17.2.2).
                datagram[0] = if number % 2 == 0 { 0xc3 } else { number as u8 };
                datagram[1..6].copy_from_slice(&[0, 0, 0, 1, 8]);
                datagram[6..10].copy_from_slice(&number.to_be_bytes());
                let _ = socket.send_to(&datagram, "192.168.0.2:4433");
            }
        });
        flood.join().unwrap();
        left.ping("-c 3", "10.0.0.2");
        assert!(b.port(2)["drops"]["malformed"].as_u64().unwrap() > 100, "{}", b.port(2));
        assert!(b.warnings().is_empty(), "{:?}", b.warnings());
    });
}

#[test]
fn an_idle_cable_lets_its_switch_sleep() {
    lab(|| {
        let (left, right) = hosts();
        let (a, b) = joined(&left, &right, 1500);
        sleep(Duration::from_secs(3));
        let before = [&a, &b].map(wakeups);
        sleep(Duration::from_secs(10));
        let woken = [wakeups(&a) - before[0], wakeups(&b) - before[1]];
        println!("lab: woken {woken:?} times in 10 s");
        assert!(woken.iter().all(|woken| *woken < 40), "{woken:?}");
    });
}

/// How often a switch has gone to sleep.
fn wakeups(switch: &Switch) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", switch.process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
