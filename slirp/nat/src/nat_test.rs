//! The core against a model of the operating system: every protocol, the ends of connections, and hostile input.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use link::{Checksum, DropReason, GsoType, MacAddr, Offloads, VnetHeader};
use smoltcp::socket::tcp::State;

use crate::config::{Config, Forward};
use crate::env::Random;
use crate::forward::ForwardError;
use crate::host::{Kind, Readiness, SocketId};
use crate::testing::*;
use crate::wire::{self, Fragment, Ip, IpHeader};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn to(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

fn offered(frame: &[u8]) -> Ipv4Addr {
    wire::address(&parse(frame).3, 8 + 16)
}

#[test]
fn gateway_and_name_server_answer_arp_and_nobody_else() {
    let mut lab = Lab::new();
    for (target, answers) in [(GATEWAY, true), (DNS, true), (Ipv4Addr::new(10, 0, 2, 77), false), (GUEST, false)] {
        lab.nat.input(lab.now, &VnetHeader::WHOLE, &arp_request(target));
        let answer = lab.nat.output(lab.now).map(|(_, frame)| frame.to_vec());
        assert_eq!(answer.is_some(), answers, "{target}");
        if let Some(answer) = answer {
            assert_eq!(answer[6..12], answer[22..28]);
            assert_eq!(answer[28..32], target.octets());
        }
    }
}

#[test]
fn gateway_answers_echo_of_any_size() {
    let mut lab = Lab::new();
    for len in [0, 56, 1472] {
        let replies = lab.exchange(echo_request(GATEWAY, 5, &pattern(len)));
        let (protocol, from, dest, reply) = parse(&replies[0]);
        assert_eq!((protocol, from, dest), (1, GATEWAY, GUEST));
        assert_eq!(reply[0], 0);
        assert_eq!(reply[8..], pattern(len));
        assert_eq!(wire::fold(wire::sum(&reply)), 0xffff);
    }
}

#[test]
fn dhcp_hands_out_what_qemu_does() {
    let config = Config {
        hostname: Some("guest".parse().unwrap()),
        domain: Some("lab.example".parse().unwrap()),
        search: vec!["a.example".parse().unwrap()],
        ..Config::default()
    };
    let mut lab = Lab::with(config, Model::default());
    let offer = lab.exchange(dhcp(1, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[])).remove(0);
    assert_eq!(dhcp_option(&offer, 53).unwrap(), [2]);
    assert_eq!(offered(&offer), GUEST);
    let ack = lab.exchange(dhcp(3, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]));
    let ack = &ack[0];
    assert_eq!(offered(ack), GUEST);
    for (code, value) in [
        (53, &[5][..]),
        (1, &[255, 255, 255, 0]),
        (3, &[10, 0, 2, 2]),
        (6, &[10, 0, 2, 3]),
        (54, &[10, 0, 2, 2]),
        (51, &[0, 1, 0x51, 0x80]),
        (12, b"guest"),
        (15, b"lab.example"),
        (119, b"\x01a\x07example\0"),
    ] {
        assert_eq!(dhcp_option(ack, code).as_deref(), Some(value), "option {code}");
    }
    assert_eq!(dhcp_option(ack, 26), None);
}

#[test]
fn leases_are_remembered_refused_released_and_run_out() {
    let mut lab = Lab::new();
    let mac = |n: u8| MacAddr([2, 0, 0, 0, 0, n]);
    let discover = |lab: &mut Lab<Model>, n| {
        lab.exchange(dhcp(1, mac(n), Ipv4Addr::UNSPECIFIED, &[])).first().map(|frame| offered(frame))
    };
    let request = |lab: &mut Lab<Model>, n, last| {
        let answer = lab.exchange(dhcp(3, mac(n), Ipv4Addr::UNSPECIFIED, &[50, 4, 10, 0, 2, last])).remove(0);
        dhcp_option(&answer, 53).unwrap()[0]
    };
    for n in 0..16 {
        assert_eq!(discover(&mut lab, n), Some(Ipv4Addr::new(10, 0, 2, 15 + n)));
        assert_eq!(request(&mut lab, n, 15 + n), 5);
    }
    assert_eq!(discover(&mut lab, 3), Some(Ipv4Addr::new(10, 0, 2, 18)), "remembered");
    assert_eq!(request(&mut lab, 4, 18), 6, "another's address");
    assert_eq!(request(&mut lab, 4, 200), 6, "no lease's address");
    assert_eq!(discover(&mut lab, 100), None, "none is free");
    assert_eq!(lab.nat.drops().get(DropReason::Limit), 1);
    lab.exchange(dhcp(7, mac(9), Ipv4Addr::new(10, 0, 2, 24), &[]));
    assert_eq!(discover(&mut lab, 100), Some(Ipv4Addr::new(10, 0, 2, 24)), "released");
    lab.now += 25 * 3600 * SECOND;
    assert!(discover(&mut lab, 101).is_some(), "run out");
}

#[test]
fn a_restricted_guest_gets_a_lease_without_a_way_out() {
    let config = Config { restrict: true, ..Config::default() };
    let mut lab = Lab::with(config, Model::default());
    let offer = lab.exchange(dhcp(1, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[])).remove(0);
    assert_eq!((dhcp_option(&offer, 3), dhcp_option(&offer, 6)), (None, None));
    lab.exchange(datagram(4000, to(REMOTE, 7), b"x"));
    lab.exchange(datagram(4000, to(DNS, 53), &[0; 12]));
    let handle = lab.guest.connect(to(REMOTE, 80));
    lab.settle();
    assert_eq!(lab.guest.tcp(handle).state(), State::SynSent);
    assert!(lab.host().sent.is_empty() && lab.host().connections.is_empty());
    assert_eq!(lab.exchange(echo_request(GATEWAY, 1, b"")).len(), 1);
}

#[test]
fn a_guest_forwarding_address_answers_at_its_ports_only() {
    let rules = ["::80-tcp:127.0.0.1:8080", ":10.0.2.9:22-cmd:x"].map(|rule| rule.parse().unwrap());
    let server = Ipv4Addr::new(10, 0, 2, 4);
    for restrict in [false, true] {
        let config = Config { guest_forwards: rules.to_vec(), restrict, ..Config::default() };
        let mut lab = Lab::with(config, Model::default());
        let handle = connect(&mut lab, server, 80);
        assert_eq!(lab.guest.tcp(handle).state(), State::Established);
        assert_eq!(lab.host().connection().to, Some("127.0.0.1:8080".parse().unwrap()));
        let closed = connect(&mut lab, server, 81);
        let expected = if restrict { State::SynSent } else { State::Closed };
        assert_eq!(lab.guest.tcp(closed).state(), expected);
        // The guest asks for one address a second.
        lab.now += SECOND;
        let command = connect(&mut lab, Ipv4Addr::new(10, 0, 2, 9), 22);
        assert_eq!(lab.guest.tcp(command).state(), State::Established);
        // Nobody takes its address.
        assert_eq!(lab.exchange(packet_from(server, GATEWAY, 17, &[0; 8])).len(), 0);
        assert!(lab.nat.drops().get(DropReason::Unserved) > 0);
    }
}

/// Opens a connection to a port of the remote host, as far as it gets.
fn connect(lab: &mut Lab<Model>, address: Ipv4Addr, port: u16) -> smoltcp::iface::SocketHandle {
    let handle = lab.guest.connect(to(address, port));
    lab.settle();
    handle
}

#[test]
fn a_connection_answers_only_after_the_hosts_has_been_made() {
    let mut lab = Lab::new();
    let handle = lab.guest.connect(to(REMOTE, 80));
    lab.step();
    assert_eq!(lab.guest.tcp(handle).state(), State::SynSent);
    lab.settle();
    assert_eq!(lab.guest.tcp(handle).state(), State::Established);
    assert_eq!(lab.host().connection().to, Some(to(REMOTE, 80).into()));
}

#[test]
fn the_gateway_leads_to_loopback_only_if_it_is_set() {
    let mut lab = Lab::new();
    connect(&mut lab, GATEWAY, 80);
    assert_eq!(lab.host().connection().to, Some("127.0.0.1:80".parse().unwrap()));
    let mut lab = Lab::with(Config { host_loopback: false, ..Config::default() }, Model::default());
    connect(&mut lab, GATEWAY, 80);
    let (protocol, from, _, message) = parse(&lab.guest.others.pop_front().unwrap());
    assert_eq!((protocol, from, message[0], message[1]), (1, GATEWAY, 3, 0));
    assert!(lab.host().connections.is_empty());
}

#[test]
fn refused_is_refused_silent_is_silent_and_unreachable_is_told() {
    let mut lab = Lab::new();
    let refused = connect(&mut lab, REMOTE, 81);
    assert_eq!(lab.guest.tcp(refused).state(), State::Closed);
    let silent = connect(&mut lab, REMOTE, 82);
    assert_eq!(lab.guest.tcp(silent).state(), State::SynSent);
    connect(&mut lab, REMOTE, 83);
    let error = lab.guest.others.pop_front().unwrap();
    let (protocol, from, _, message) = parse(&error);
    assert_eq!((protocol, from, message[0], message[1]), (1, GATEWAY, 3, 0));
    let quoted = etherparse::PacketHeaders::from_ip_slice(&message[8..]).unwrap();
    assert_eq!(quoted.transport.unwrap().tcp().unwrap().destination_port, 83);
    assert_eq!(lab.nat.flows().0, 1);

    // The silent one: the host gives up, and the guest hears nothing.
    let id = lab.host().open_ids()[0];
    lab.host().connection().refused = Some(libc::ETIMEDOUT);
    lab.nat.ready(lab.now, Readiness { error: true, ..readiness(id) });
    lab.step();
    assert_eq!(lab.guest.tcp(silent).state(), State::SynSent);
    assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
}

#[test]
fn bytes_arrive_whole_and_in_order_both_ways() {
    for offloads in [Offloads::NONE, Offloads::ALL] {
        let mut lab = Lab::new();
        lab.guest = Guest::new(offloads == Offloads::NONE);
        lab.nat.accept(offloads);
        let handle = connect(&mut lab, REMOTE, 80);
        let data = pattern(3_000_000);
        let (at_host, at_guest) = transfer(&mut lab, handle, &data);
        assert!(at_host == data && at_guest == data, "{offloads:?}");
    }
}

#[test]
fn bytes_arrive_over_a_link_that_loses_and_swaps_frames() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    (lab.loss, lab.swaps) = (10, 20);
    let data = pattern(1_000_000);
    let (at_host, at_guest) = transfer(&mut lab, handle, &data);
    assert!(at_host == data && at_guest == data);
}

#[test]
fn an_acknowledgement_waits_for_the_answer_where_both_sides_take_turns() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    // Both return the bytes that are not acknowledged yet.
    let ask = |lab: &mut Lab<Model>| {
        lab.guest.tcp(handle).send_slice(b"?").unwrap();
        lab.step();
        lab.guest.tcp(handle).send_queue()
    };
    let answer = |lab: &mut Lab<Model>| {
        let id = lab.host().open_ids()[0];
        lab.host().connection().inbound.push_back(b'!');
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        assert_eq!(lab.guest.tcp(handle).recv(|bytes| (bytes.len(), bytes.len())), Ok(1));
        lab.guest.tcp(handle).send_queue()
    };
    assert_eq!((ask(&mut lab), answer(&mut lab)), (0, 0));
    for _ in 0..3 {
        assert_eq!((ask(&mut lab), answer(&mut lab)), (1, 0));
    }
    // Two segments' worth are acknowledged at once.
    assert_eq!(ask(&mut lab), 1);
    lab.guest.tcp(handle).send_slice(&pattern(3000)).unwrap();
    lab.step();
    assert_eq!(lab.guest.tcp(handle).send_queue(), 0);
}

#[test]
fn an_acknowledgement_waits_in_vain_only_once() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    for waiting in [1, 0] {
        lab.host().connection().inbound.push_back(b'!');
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        lab.guest.tcp(handle).send_slice(b"?").unwrap();
        lab.step();
        assert_eq!(lab.guest.tcp(handle).send_queue(), waiting);
        lab.pass(Duration::from_millis(20));
        assert_eq!(lab.guest.tcp(handle).send_queue(), 0);
    }
}

#[test]
fn offloads_follow_the_guests_driver_while_connections_last() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    for offloads in [Offloads::ALL, Offloads::NONE, Offloads { tso4: false, ..Offloads::ALL }] {
        lab.nat.accept(offloads);
        let id = lab.host().open_ids()[0];
        lab.host().connection().inbound = pattern(200_000).into();
        lab.nat.ready(lab.now, readiness(id));
        let mut longest = 0;
        let mut frames: VecDeque<(VnetHeader, Vec<u8>)> = VecDeque::new();
        while let Some((header, frame)) = lab.nat.output(lab.now) {
            longest = longest.max(frame.len());
            assert!(offloads.permit(&header), "{header:?}");
            header.check(frame.len()).unwrap();
            frames.push_back((header, frame.to_vec()));
        }
        assert_eq!(longest > 1514, offloads.tso4, "{offloads:?}");
        if offloads.tso4 {
            let (header, frame) = frames.iter().max_by_key(|(_, frame)| frame.len()).unwrap();
            assert_eq!((header.gso_type, header.gso_size), (GsoType::TcpV4, 1460));
            assert_eq!(header.checksum, Checksum::Partial { start: 34, offset: 16 });
            assert_eq!(header.hdr_len, 54);
            assert_eq!(frame.len(), 54 + 44 * 1460);
        }
        // What was looked at is lost to the guest; it comes again.
        for _ in 0..2000 {
            let socket = lab.guest.tcp(handle);
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), ())).unwrap();
            }
            lab.pass(SECOND);
            if lab.host().connection().inbound.is_empty() && lab.is_idle() {
                break;
            }
        }
    }
}

#[test]
fn half_closes_cross_in_both_directions() {
    // The guest first: the host sees the end, and still sends.
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    lab.guest.tcp(handle).send_slice(b"question").unwrap();
    lab.guest.tcp(handle).close();
    lab.step();
    assert!(lab.host().connection().finished);
    assert_eq!(lab.host().connection().sent, b"question");
    let id = lab.host().open_ids()[0];
    lab.host().connection().inbound = b"answer".iter().copied().collect();
    lab.host().connection().inbound_end = true;
    lab.nat.ready(lab.now, Readiness { finished: true, ..readiness(id) });
    lab.step();
    assert_eq!(lab.guest.tcp(handle).recv(|b| (b.len(), b.to_vec())).unwrap(), b"answer");
    lab.step();
    assert!(!lab.guest.tcp(handle).may_recv());
    assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
    assert!(!lab.host().connections[&id].was_reset);

    // The host first: the guest sees the end, and still sends.
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    lab.host().connection().inbound_end = true;
    lab.nat.ready(lab.now, Readiness { finished: true, ..readiness(id) });
    lab.step();
    assert_eq!(lab.guest.tcp(handle).state(), State::CloseWait);
    lab.guest.tcp(handle).send_slice(b"late").unwrap();
    lab.guest.tcp(handle).close();
    lab.step();
    assert_eq!(lab.host().connections[&id].sent, b"late");
    assert!(lab.host().connections[&id].finished && !lab.host().connections[&id].was_reset);
    assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
}

#[test]
fn bytes_for_a_slow_host_are_delivered_after_the_guest_has_gone() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    lab.host().connection().room = Some(10);
    lab.host().connection().inbound_end = true;
    lab.guest.tcp(handle).send_slice(&pattern(5000)).unwrap();
    lab.step();
    lab.nat.ready(lab.now, Readiness { finished: true, writable: false, ..readiness(id) });
    lab.step();
    lab.guest.tcp(handle).close();
    lab.step();
    assert_eq!(lab.host().connection().sent.len(), 10);
    assert!(!lab.host().connection().finished);
    lab.host().connection().room = None;
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let connection = &lab.host().connections[&id];
    assert_eq!(connection.sent, pattern(5000));
    assert!(connection.finished && connection.closed && !connection.was_reset);
    assert_eq!(lab.nat.flows().0, 0);
}

#[test]
fn resets_cross_in_both_directions() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    lab.guest.tcp(handle).abort();
    lab.step();
    assert!(lab.host().connections[&id].was_reset);
    let handle = connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    lab.host().connection().broken = true;
    lab.nat.ready(lab.now, Readiness { error: true, ..readiness(id) });
    lab.step();
    assert_eq!(lab.guest.tcp(handle).state(), State::Closed);
    assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
}

#[test]
fn a_guest_that_vanishes_takes_its_connection_with_it() {
    let mut lab = Lab::new();
    connect(&mut lab, REMOTE, 80);
    let id = lab.host().open_ids()[0];
    lab.host().connection().inbound = pattern(5000).into();
    lab.nat.ready(lab.now, readiness(id));
    lab.loss = 1000;
    for _ in 0..400 {
        lab.pass(SECOND);
    }
    assert!(lab.host().connections[&id].was_reset);
    assert_eq!(lab.nat.flows().0, 0);
    assert!(lab.is_idle());
}

#[test]
fn an_idle_connection_wakes_nobody() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    lab.guest.tcp(handle).send_slice(b"x").unwrap();
    for _ in 0..5 {
        lab.pass(SECOND);
    }
    assert!(lab.is_idle());
}

#[test]
fn a_silent_guest_is_asked_and_keeps_its_connection_if_it_answers() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    for _ in 0..100 {
        lab.pass(HOUR);
        lab.settle();
    }
    assert_eq!((lab.nat.flows().0, lab.guest.tcp(handle).state()), (1, State::Established));
    let data = pattern(5000);
    let (at_host, at_guest) = transfer(&mut lab, handle, &data);
    assert!(at_host == data && at_guest == data, "what was asked is no data");
}

/// Lets time pass with a guest that is gone, until the connection is given up; returns for how long it was not.
fn given_up(lab: &mut Lab<Model>) -> Duration {
    let id = lab.host().open_ids()[0];
    lab.loss = 1000;
    let begun = lab.now;
    while lab.nat.flows().0 > 0 {
        assert!(lab.now < begun + 4 * HOUR, "it stays for ever");
        lab.pass(HOUR);
    }
    let connection = &lab.host().connections[&id];
    assert!(connection.was_reset || connection.closed);
    assert_eq!(lab.host().open(), 0);
    let gone = lab.now;
    // Deadlines that nobody has any more are forgotten.
    lab.now += 24 * HOUR;
    lab.nat.expire(lab.now);
    assert_eq!(lab.nat.deadline(), None);
    gone - begun
}

#[test]
fn a_guest_that_vanishes_from_an_idle_connection_is_noticed() {
    let mut lab = Lab::new();
    connect(&mut lab, REMOTE, 80);
    let after = given_up(&mut lab);
    assert!((2 * HOUR + 240 * SECOND..3 * HOUR).contains(&after), "RFC 5382 REQ-5: {after:?}");
}

#[test]
fn a_guest_that_vanishes_after_either_side_has_finished_is_noticed_sooner() {
    for guest_finishes in [true, false] {
        let mut lab = Lab::new();
        let handle = connect(&mut lab, REMOTE, 80);
        if guest_finishes {
            lab.guest.tcp(handle).close();
            lab.settle();
        } else {
            let id = lab.host().open_ids()[0];
            lab.host().connection().inbound_end = true;
            lab.nat.ready(lab.now, Readiness { finished: true, ..readiness(id) });
            lab.settle();
        }
        // The other half is of use, as long as somebody has it.
        for _ in 0..50 {
            lab.pass(100 * SECOND);
        }
        assert_eq!(lab.nat.flows().0, 1);
        let after = given_up(&mut lab);
        assert!((240 * SECOND..1200 * SECOND).contains(&after), "{after:?}");
    }
}

#[test]
fn a_guest_that_vanishes_in_the_handshake_is_noticed() {
    let mut lab = Lab::new();
    lab.guest.connect(to(REMOTE, 80));
    lab.step();
    // Before the acknowledgement of the acknowledgement.
    let id = lab.host().open_ids()[0];
    lab.nat.ready(lab.now, readiness(id));
    let after = given_up(&mut lab);
    assert!(after < 300 * SECOND, "{after:?}");
}

#[test]
fn a_guest_that_has_forgotten_a_connection_says_so_when_asked() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    lab.guest.sockets.remove(handle);
    let begun = lab.now;
    while lab.nat.flows().0 > 0 {
        lab.pass(HOUR);
    }
    assert!((2 * HOUR..2 * HOUR + 60 * SECOND).contains(&(lab.now - begun)));
    assert_eq!(lab.host().open(), 0);
}

#[test]
fn timers_that_were_overtaken_do_not_heap_up() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    for _ in 0..2000 {
        lab.guest.tcp(handle).send_slice(b"x").unwrap();
        lab.pass(3 * SECOND);
        lab.settle();
    }
    assert!(lab.nat.timers() < 10, "{}", lab.nat.timers());
}

#[test]
fn an_idle_connection_gives_its_memory_back_and_goes_on() {
    let mut lab = Lab::new();
    let handle = connect(&mut lab, REMOTE, 80);
    for round in 1..4 {
        let data = pattern(700_000 + round);
        lab.host().connection().sent.clear();
        let (at_host, at_guest) = transfer(&mut lab, handle, &data);
        assert!(at_host == data && at_guest == data);
        assert!(!lab.is_idle(), "memory is to be given back");
        for _ in 0..5 {
            lab.pass(SECOND);
        }
        assert!(lab.is_idle());
    }
}

#[test]
fn a_segment_for_no_connection_is_reset_and_a_reset_is_not() {
    let mut lab = Lab::new();
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x10, 0, 0, 80]);
    segment[8..12].copy_from_slice(&77u32.to_be_bytes());
    (segment[12], segment[13]) = (0x50, 0x10);
    for (flags, answers) in [(0x10, true), (0x04, false)] {
        segment[13] = flags;
        segment[16..18].fill(0);
        let checksum = !wire::transport_sum(GUEST, REMOTE, wire::TCP, &segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        lab.nat.input(lab.now, &VnetHeader::WHOLE, &packet(REMOTE, wire::TCP, &segment));
        let answer = lab.nat.output(lab.now).map(|(_, frame)| parse(frame).3);
        assert_eq!(answer.is_some(), answers);
        if let Some(answer) = answer {
            assert_eq!((answer[13], &answer[4..8]), (0x04, &77u32.to_be_bytes()[..]));
        }
    }
}

#[test]
fn forwarded_connections_reach_the_guest_and_refusals_the_host() {
    let forwards = vec!["tcp::2222-:22".parse().unwrap(), "tcp::2223-:23".parse().unwrap()];
    let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
    let handle = lab.guest.listen(22);
    let peer = "198.51.100.7:5555".parse().unwrap();
    lab.host().waiting.push_back(peer);
    let forward = |index| readiness(SocketId { kind: Kind::Forward, index });
    lab.nat.ready(lab.now, forward(0));
    lab.step();
    let socket = lab.guest.tcp(handle);
    assert_eq!(socket.state(), State::Established);
    assert_eq!(socket.remote_endpoint().unwrap().to_string(), "198.51.100.7:5555", "the real source address");
    let id = lab.host().open_ids()[0];
    lab.host().connection().inbound = b"hello".iter().copied().collect();
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    assert_eq!(lab.guest.tcp(handle).recv(|b| (b.len(), b.to_vec())).unwrap(), b"hello");

    lab.host().waiting.push_back("127.0.0.1:6666".parse().unwrap());
    lab.nat.ready(lab.now, forward(1));
    lab.step();
    assert!(lab.host().connections.values().any(|c| c.was_reset), "nobody listens on the guest's port 23");
    assert_eq!(lab.nat.flows().0, 1);
}

#[test]
fn a_rule_that_ends_takes_its_socket_along_and_leaves_its_connections() {
    let mut lab = Lab::new();
    let rule = |text: &str| text.parse::<Forward>().unwrap();
    let tcp = lab.nat.add_forward(rule("tcp::2222-:22")).unwrap();
    let udp = lab.nat.add_forward(rule("udp::5353-:53")).unwrap();
    assert!(matches!(lab.nat.add_forward(rule("tcp::1-10.9.9.9:1")), Err(ForwardError::Guest { .. })));
    let handle = lab.guest.listen(22);
    lab.host().waiting.push_back("198.51.100.7:5555".parse().unwrap());
    let at = |index| SocketId { kind: Kind::Forward, index };
    lab.nat.ready(lab.now, readiness(at(0)));
    lab.step();
    let peer: SocketAddr = "198.51.100.7:777".parse().unwrap();
    lab.host().datagrams.get_mut(&at(1)).unwrap().inbound.push_back((b"question".to_vec(), peer));
    lab.nat.ready(lab.now, readiness(at(1)));
    lab.step();
    assert_eq!(lab.nat.flow_states().iter().map(|flow| flow.state).collect::<Vec<_>>(), ["established", "forwarded"]);

    assert!(lab.nat.remove_forward(tcp) && lab.nat.remove_forward(udp) && !lab.nat.remove_forward(udp));
    assert!(lab.nat.forwards().is_empty());
    assert_eq!(lab.guest.tcp(handle).state(), State::Established);
    lab.exchange(datagram(53, to("198.51.100.7".parse().unwrap(), 777), b"answer"));
    assert_ne!(lab.host().sent[0].0, at(1), "what the guest says now leaves like anything else");
    let again = lab.nat.add_forward(rule("udp::5353-:53")).unwrap();
    assert!(again > udp, "a number is not used again, but its place is");
    assert!(lab.host().datagrams.contains_key(&at(1)), "the last that was free");
}

#[test]
fn without_a_relay_there_is_no_name_server() {
    let mut lab = Lab::with(Config { dns_relay: false, ..Config::default() }, Model::default());
    lab.host().resolvers = vec!["192.0.2.1:53".parse().unwrap()];
    assert!(
        lab.exchange(datagram(4000, to(DNS, 53), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01")).is_empty()
    );
    let handle = connect(&mut lab, DNS, 53);
    assert_eq!(lab.guest.tcp(handle).state(), State::SynSent);
    assert!(lab.host().sent.is_empty() && lab.host().connections.is_empty());
}

#[test]
fn a_forwarded_connection_waits_for_its_guest_to_appear() {
    let forwards = vec!["tcp::2222-10.0.2.40:22".parse().unwrap()];
    let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
    lab.host().waiting.push_back("127.0.0.1:6666".parse().unwrap());
    lab.nat.ready(lab.now, readiness(SocketId { kind: Kind::Forward, index: 0 }));
    let asked = lab.nat.output(lab.now).unwrap().1.to_vec();
    assert_eq!((&asked[12..14], &asked[38..42]), (&[8, 6][..], &[10, 0, 2, 40][..]));
    assert!(lab.nat.output(lab.now).is_none());
    // It asks again, and goes on as soon as the guest is heard.
    lab.now += SECOND;
    lab.nat.expire(lab.now);
    assert_eq!(lab.nat.output(lab.now).unwrap().1[12..14], [8, 6]);
    let mut hello = arp_request(GATEWAY);
    hello[28..32].copy_from_slice(&[10, 0, 2, 40]);
    lab.nat.input(lab.now, &VnetHeader::WHOLE, &hello);
    let frames: Vec<_> = std::iter::from_fn(|| lab.nat.output(lab.now).map(|(_, f)| f.to_vec())).collect();
    assert!(frames.iter().any(|frame| frame[12..14] == [8, 0] && frame[14 + 20 + 13] == 0x02), "a SYN");
    // One that never appears is given up.
    for _ in 0..200 {
        lab.now += SECOND;
        lab.nat.expire(lab.now);
        while lab.nat.output(lab.now).is_some() {}
    }
    assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
}

#[test]
fn datagrams_cross_both_ways_from_one_socket_per_port() {
    let mut lab = Lab::new();
    lab.exchange(datagram(4000, to(REMOTE, 7), b"one"));
    lab.exchange(datagram(4000, to(GATEWAY, 8), b"two"));
    lab.exchange(datagram(4001, to(REMOTE, 7), b""));
    let sent = lab.host().sent.clone();
    assert_eq!(sent[0].2, to(REMOTE, 7).into());
    assert_eq!(sent[1].2, "127.0.0.1:8".parse().unwrap());
    assert_eq!(sent[0].0, sent[1].0);
    assert_ne!(sent[0].0, sent[2].0);
    let id = sent[0].0;
    let inbound = [("192.0.2.80:7", REMOTE), ("127.0.0.1:8", GATEWAY), ("203.0.113.5:99", [203, 0, 113, 5].into())];
    for (from, seen) in inbound {
        let socket = lab.host().datagrams.get_mut(&id).unwrap();
        socket.inbound.push_back((b"answer".to_vec(), from.parse().unwrap()));
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        let (protocol, from, dest, udp) = parse(&lab.guest.others.pop_front().unwrap());
        assert_eq!((protocol, from, dest), (17, seen, GUEST));
        assert_eq!(&udp[8..], b"answer");
        assert_eq!(wire::transport_sum(from, dest, 17, &udp), 0xffff);
    }
    assert_eq!(lab.nat.flows().1, 2);
    for _ in 0..10 {
        lab.pass(60 * SECOND);
    }
    assert_eq!((lab.nat.flows().1, lab.host().open(), lab.nat.deadline()), (0, 0, None));
}

#[test]
fn large_datagrams_cross_in_fragments_both_ways() {
    let mut lab = Lab::new();
    let data = pattern(20_000);
    let whole = datagram(4000, to(REMOTE, 2049), &data);
    let ip = Ip::parse(&whole[14..]).unwrap();
    for (i, piece) in ip.payload.chunks(1480).enumerate() {
        let fragment = Some(Fragment { ident: 9, offset: i * 1480, more: (i + 1) * 1480 < ip.payload.len() });
        lab.guest.send(packet_of(IpHeader { fragment, ..IpHeader::whole(GUEST, REMOTE, 17, 0) }, piece));
    }
    lab.step();
    let (id, sent, _) = lab.host().sent[0].clone();
    assert_eq!(sent, data);
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((data.clone(), to(REMOTE, 2049).into()));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let mut set = crate::fragment::Reassembly::default();
    let mut answer = None;
    for frame in &lab.guest.others {
        assert!(frame.len() <= 1514);
        let ip = Ip::parse(&frame[14..]).unwrap();
        answer = set.input(&ip, ip.fragment.unwrap(), lab.now).unwrap();
    }
    let answer = answer.unwrap();
    let ip = Ip::parse(&answer).unwrap();
    assert_eq!(wire::Udp::parse(&ip, true).unwrap().payload, data);
}

#[test]
fn segmented_datagrams_are_cut() {
    let mut lab = Lab::new();
    let frame = datagram(4000, to(REMOTE, 7), &pattern(2500));
    let header = VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 6 },
        gso_type: GsoType::Udp,
        gso_size: 1000,
        ..VnetHeader::WHOLE
    };
    lab.nat.input(lab.now, &header, &frame);
    let sent: Vec<_> = lab.host().sent.iter().map(|(_, data, _)| data.len()).collect();
    assert_eq!(sent, [1000, 1000, 500]);
}

#[test]
fn a_refused_datagram_is_told_to_its_sender() {
    let mut lab = Lab::new();
    lab.exchange(datagram(4000, to(REMOTE, 9), b"x"));
    lab.settle();
    let error = lab.guest.others.pop_front().unwrap();
    let (_, from, _, message) = parse(&error);
    assert_eq!((from, message[0], message[1]), (GATEWAY, 3, 3));
    let quoted = etherparse::PacketHeaders::from_ip_slice(&message[8..]).unwrap();
    let udp = quoted.transport.unwrap().udp().unwrap();
    assert_eq!((udp.source_port, udp.destination_port), (4000, 9));
}

#[test]
fn forwarded_datagrams_are_answered_from_the_rules_socket() {
    let forwards = vec!["udp::5353-:53".parse().unwrap()];
    let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
    let id = SocketId { kind: Kind::Forward, index: 0 };
    let peer = "198.51.100.7:777";
    let socket = lab.host().datagrams.get_mut(&id).unwrap();
    socket.inbound.push_back((b"question".to_vec(), peer.parse().unwrap()));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let (_, from, _, udp) = parse(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from.to_string().as_str(), &udp[8..]), ("198.51.100.7", &b"question"[..]));
    lab.exchange(datagram(53, to(from, 777), b"answer"));
    assert_eq!(lab.host().sent, [(id, b"answer".to_vec(), peer.parse().unwrap())]);
    lab.exchange(datagram(53, to(REMOTE, 777), b"another"));
    assert_ne!(lab.host().sent[1].0, id);
}

#[test]
fn a_sender_of_the_other_family_appears_as_the_gateway() {
    for (rule, peer, gateway) in [
        ("udp:[::]:5353-:53", "[2001:db8::7]:777", "10.0.2.2:777"),
        ("udp::5353-[fec0::15]:53", "198.51.100.7:777", "[fec0::2]:777"),
        ("udp:[::]:5353-[fec0::15]:53", "[2001:db8::7]:777", "[2001:db8::7]:777"),
        ("udp:[::]:5353-[fec0::15]:53", "[fec0::77]:777", "[fec0::2]:777"),
    ] {
        let forwards = vec![rule.parse().unwrap(), rule.replace("udp", "tcp").parse().unwrap()];
        let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
        let (peer, gateway): (SocketAddr, SocketAddr) = (peer.parse().unwrap(), gateway.parse().unwrap());
        let id = SocketId { kind: Kind::Forward, index: 0 };
        lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((b"question".to_vec(), peer));
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        let (_, from, _, udp) = parse_any(&lab.guest.others.pop_front().unwrap());
        assert_eq!(
            (from, &udp[..2], &udp[8..]),
            (gateway.ip(), &777_u16.to_be_bytes()[..], &b"question"[..]),
            "{rule}"
        );
        lab.exchange(datagram(53, gateway, b"answer"));
        assert_eq!(lab.host().sent, [(id, b"answer".to_vec(), peer)], "{rule}");

        let handle = lab.guest.listen(53);
        lab.host().waiting.push_back(peer);
        lab.nat.ready(lab.now, readiness(SocketId { kind: Kind::Forward, index: 1 }));
        lab.step();
        let remote = lab.guest.tcp(handle).remote_endpoint().unwrap();
        assert_eq!((IpAddr::from(remote.addr), remote.port), (gateway.ip(), 777), "{rule}");
    }
}

#[test]
fn senders_that_appear_as_the_gateway_are_told_apart() {
    let forwards = vec!["udp:[::]:5353-:53".parse().unwrap()];
    let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
    let id = SocketId { kind: Kind::Forward, index: 0 };
    let senders = ["[2001:db8::7]:777", "[2001:db8::8]:777", "[2001:db8::7]:777"].map(|sender| sender.parse().unwrap());
    let ports = senders.map(|sender| {
        lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((b"question".to_vec(), sender));
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        let (_, from, _, udp) = parse(&lab.guest.others.pop_front().unwrap());
        assert_eq!(from, GATEWAY);
        u16::from_be_bytes([udp[0], udp[1]])
    });
    assert!(ports[0] == 777 && ports[1] != 777 && ports[2] == 777, "{ports:?}");
    for (port, sender) in ports.into_iter().zip(senders) {
        lab.exchange(datagram(53, to(GATEWAY, port), b"answer"));
        assert_eq!(lab.host().sent.last().unwrap().2, sender);
    }
}

#[test]
fn an_error_of_the_other_family_is_not_passed_on() {
    let forwards = vec!["udp:[::]:5353-:53".parse().unwrap()];
    let mut lab = Lab::with(Config { forwards, ..Config::default() }, Model::default());
    let id = SocketId { kind: Kind::Forward, index: 0 };
    let peer = "[2001:db8::7]:9".parse().unwrap();
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((b"question".to_vec(), peer));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    lab.guest.others.clear();
    lab.exchange(datagram(53, to(GATEWAY, 9), b"answer"));
    assert!(lab.exchange(datagram(53, to(GATEWAY, 9), b"another")).is_empty(), "its numbers mean something else");
}

#[test]
fn questions_go_to_the_next_server_and_come_back_with_their_identifier() {
    let mut lab = Lab::new();
    let question = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &b"\x01a\0\0\x01\0\x01"[..]].concat();
    let failure = lab.exchange(datagram(4000, to(DNS, 53), &question)).remove(0);
    assert_eq!(parse(&failure).3[8..12], [0x12, 0x34, 0x81, 0x82], "no server, SERVFAIL");

    lab.host().resolvers = vec!["192.0.2.1:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    assert!(lab.exchange(datagram(4000, to(DNS, 53), &question)).is_empty());
    assert!(lab.exchange(datagram(4000, to(DNS, 53), &question)).is_empty(), "a repetition");
    assert_eq!(lab.host().sent.len(), 1);
    lab.pass(3 * SECOND);
    let (id, asked, server) = lab.host().sent[1].clone();
    assert_eq!(server, "192.0.2.2:53".parse().unwrap());
    let mut answer = asked;
    answer[2] |= 0x80;
    let socket = lab.host().datagrams.get_mut(&id).unwrap();
    socket.inbound.push_back((b"forged".to_vec(), server));
    socket.inbound.push_back((answer, server));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let (_, from, _, udp) = parse(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from, &udp[8..11]), (DNS, &[0x12, 0x34, 0x81][..]));
    assert_eq!(lab.host().open(), 0);
    for _ in 0..5 {
        lab.pass(SECOND);
    }
    assert_eq!(lab.nat.deadline(), None);
}

#[test]
fn questions_by_tcp_are_relayed_to_the_first_server_that_answers() {
    let mut lab = Lab::new();
    lab.host().resolvers = vec!["192.0.2.1:81".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    let handle = connect(&mut lab, DNS, 53);
    assert_eq!(lab.guest.tcp(handle).state(), State::Established);
    assert_eq!(lab.host().connection().to, Some("192.0.2.2:53".parse().unwrap()));
    let handle = connect(&mut lab, DNS, 80);
    assert_eq!(lab.guest.tcp(handle).state(), State::Closed);
}

#[test]
fn echo_goes_out_where_the_host_allows_it() {
    let mut lab = Lab::new();
    assert!(lab.exchange(echo_request(REMOTE, 77, b"abc")).is_empty());
    let (id, sent, _) = lab.host().sent[0].clone();
    let mut reply = sent;
    (reply[0], reply[4], reply[5]) = (0, 0xaa, 0xbb);
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((reply, to(REMOTE, 0).into()));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let (_, from, _, message) = parse(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from, &message[4..6], &message[8..]), (REMOTE, &[0, 77][..], &b"abc"[..]));
    assert_eq!(wire::fold(wire::sum(&message)), 0xffff);

    lab.host().ping_forbidden = true;
    let error = lab.exchange(echo_request(REMOTE, 78, b"abc")).remove(0);
    assert_eq!(parse(&error).3[..2], [3, 13]);
    for _ in 0..3 {
        lab.pass(100 * SECOND);
    }
    assert_eq!((lab.host().open(), lab.nat.deadline()), (0, None));
}

#[test]
fn running_out_of_sockets_is_counted_and_survived() {
    let mut lab = Lab::new();
    lab.host().sockets_left = Some(0);
    let handle = connect(&mut lab, REMOTE, 80);
    lab.exchange(datagram(4000, to(REMOTE, 7), b"x"));
    lab.exchange(echo_request(REMOTE, 1, b""));
    assert!(lab.nat.drops().get(DropReason::Limit) >= 3);
    lab.host().sockets_left = None;
    for _ in 0..10 {
        lab.pass(SECOND);
        lab.settle();
    }
    assert_eq!(lab.guest.tcp(handle).state(), State::Established, "the guest's next SYN succeeds");
}

#[test]
fn connections_come_and_go_without_leaving_anything() {
    let mut lab = Lab::new();
    for _ in 0..300 {
        let handle = connect(&mut lab, REMOTE, 80);
        lab.guest.tcp(handle).send_slice(b"x").unwrap();
        lab.step();
        let id = lab.host().open_ids()[0];
        lab.host().connection().inbound_end = true;
        lab.nat.ready(lab.now, Readiness { finished: true, ..readiness(id) });
        lab.step();
        lab.guest.tcp(handle).close();
        lab.step();
        lab.guest.sockets.remove(handle);
        assert_eq!((lab.nat.flows().0, lab.host().open()), (0, 0));
    }
}

fn samples() -> Vec<Vec<u8>> {
    let mut syn = vec![0; 24];
    syn[..4].copy_from_slice(&[0x10, 0, 0, 80]);
    (syn[12], syn[13]) = (0x60, 0x02);
    syn[20..].copy_from_slice(&[2, 4, 5, 0xb4]);
    vec![
        arp_request(GATEWAY),
        echo_request(GATEWAY, 1, &[7; 40]),
        echo_request(REMOTE, 1, &[7; 40]),
        datagram(4000, to(REMOTE, 7), &[1; 60]),
        datagram(4000, to(DNS, 53), &[0; 40]),
        dhcp(1, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[50, 4, 10, 0, 2, 15]),
        dhcp(3, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2]),
        packet(REMOTE, wire::TCP, &syn),
        packet(REMOTE, 132, &[0; 30]),
    ]
}

/// Frames of every protocol, each changed in a few bytes or cut short, with header checksums mended so that they get far.
#[test]
fn a_hundred_thousand_hostile_frames_cost_drops_and_nothing_else() {
    let mut lab = Lab::new();
    lab.host().resolvers = vec!["192.0.2.1:53".parse().unwrap()];
    let samples = samples();
    let mut random = Random::new(42);
    for round in 0..150_000u32 {
        let mut frame = samples[random.next() as usize % samples.len()].clone();
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % frame.len();
            frame[at] = random.next() as u8;
        }
        if random.next().is_multiple_of(4) {
            frame.truncate(random.next() as usize % (frame.len() + 1));
        }
        if random.next().is_multiple_of(2) && frame.len() >= 34 {
            frame[24..26].fill(0);
            let checksum = !wire::fold(wire::sum(&frame[14..34]));
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        let header = match random.next() % 4 {
            0 => VnetHeader { checksum: Checksum::Valid, ..VnetHeader::WHOLE },
            1 => VnetHeader {
                checksum: Checksum::Partial { start: random.next() as u16 % 80, offset: random.next() as u16 % 20 },
                gso_type: [GsoType::None, GsoType::TcpV4, GsoType::TcpV6, GsoType::Udp][random.next() as usize % 4],
                gso_size: random.next() as u16 | 1,
                ..VnetHeader::WHOLE
            },
            _ => VnetHeader::WHOLE,
        };
        lab.nat.input(lab.now, &header, &frame);
        if round % 16 == 0 {
            lab.nat.flush();
            while let Some(readiness) = lab.host().events.pop_front() {
                lab.nat.ready(lab.now, readiness);
            }
            while lab.nat.output(lab.now).is_some() {}
            lab.now += Duration::from_millis(random.next() % 200);
            lab.nat.expire(lab.now);
            lab.host().sent.clear();
        }
    }
    assert!(lab.nat.drops().total() > 10_000);
    prove_life(&mut lab);
}

/// Segments of an open connection with every field near its bounds: sequence numbers, windows, flags, options.
#[test]
fn hostile_segments_of_open_connections_never_panic() {
    let mut random = Random::new(4242);
    let mut lab = Lab::new();
    for round in 0..400u32 {
        let port = 20_000 + (round % 30_000) as u16;
        let mut isn = random.next() as u32;
        let send = |lab: &mut Lab<Model>, seq: u32, ack: u32, flags: u8, window: u16, options: &[u8], data: &[u8]| {
            let mut segment = vec![0; 20];
            segment[..2].copy_from_slice(&port.to_be_bytes());
            segment[2..4].copy_from_slice(&80u16.to_be_bytes());
            segment[4..8].copy_from_slice(&seq.to_be_bytes());
            segment[8..12].copy_from_slice(&ack.to_be_bytes());
            (segment[12], segment[13]) = (((20 + options.len()) as u8 / 4) << 4, flags);
            segment[14..16].copy_from_slice(&window.to_be_bytes());
            segment.extend(options);
            segment.extend(data);
            let header = VnetHeader { checksum: Checksum::Valid, ..VnetHeader::WHOLE };
            lab.nat.input(lab.now, &header, &packet(REMOTE, wire::TCP, &segment));
            lab.nat.flush();
        };
        let mss = (random.next() as u16).to_be_bytes();
        let options = [2, 4, mss[0], mss[1], 1, 3, 3, random.next() as u8 % 20, 4, 2, 1, 1];
        send(&mut lab, isn, 0, 0x02, random.next() as u16, &options, b"");
        while let Some(readiness) = lab.host().events.pop_front() {
            lab.nat.ready(lab.now, readiness);
        }
        let mut ack = 0u32;
        for _ in 0..300 {
            while let Some((_, frame)) = lab.nat.output(lab.now) {
                if frame[12..14] == [8, 0] && frame[23] == 6 {
                    let len = frame.len() as u32 - 34 - u32::from(frame[46] >> 4) * 4;
                    let syn_fin = u32::from(frame[47] & 1) + u32::from(frame[47] >> 1 & 1);
                    ack = u32::from_be_bytes(frame[38..42].try_into().unwrap()).wrapping_add(len + syn_fin);
                    isn = u32::from_be_bytes(frame[42..46].try_into().unwrap());
                }
            }
            let near = |random: &mut Random, base: u32| match random.next() % 4 {
                0 | 1 => base,
                2 => base.wrapping_add((random.next() as i32 % 100_000) as u32),
                _ => random.next() as u32,
            };
            let (seq, ack) = (near(&mut random, isn), near(&mut random, ack));
            let flags = match random.next() % 8 {
                0 => random.next() as u8,
                1 => 0x11,
                2 => 0x14,
                _ => 0x10,
            };
            let window = [0, 1, 0xffff, random.next() as u16][random.next() as usize % 4];
            let data = vec![1; random.next() as usize % 3000];
            let sack = [5, 10, 0, 0, 0, 1, 0, 0, 0, 9, 1, 1];
            send(&mut lab, seq, ack, flags, window, if random.next().is_multiple_of(5) { &sack } else { &[] }, &data);
            for id in lab.host().open_ids() {
                let connection = lab.host().connections.get_mut(&id).unwrap();
                match random.next() % 50 {
                    0 => connection.inbound_end = true,
                    1 => connection.broken = true,
                    2 => connection.room = Some(random.next() as usize % 2000),
                    3 => connection.room = None,
                    _ => connection.inbound.extend(std::iter::repeat_n(2, random.next() as usize % 2000)),
                }
                lab.nat.ready(lab.now, readiness(id));
            }
            lab.now += Duration::from_millis(random.next() % 700);
            lab.nat.expire(lab.now);
        }
        lab.host().connections.retain(|_, c| !c.closed);
    }
    prove_life(&mut lab);
}
