//! Neighbour discovery and router advertisements, as a guest sees them.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use link::{DropReason, MacAddr, VnetHeader};

use crate::config::{Config, Ipv6};
use crate::env::Env;
use crate::ndp::Ndp;
use crate::testing::*;
use crate::wire::{self, Ethernet, Ip};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// What the NAT says to one frame.
fn answers(lab: &mut Lab<Model>, frame: &[u8]) -> Vec<Vec<u8>> {
    lab.nat.input(lab.now, &VnetHeader::WHOLE, frame);
    std::iter::from_fn(|| lab.nat.output(lab.now).map(|(_, frame)| frame.to_vec())).collect()
}

/// A message of neighbour discovery, verified: its addresses, and itself.
fn message(frame: &[u8]) -> (IpAddr, IpAddr, Vec<u8>) {
    let (protocol, from, to, message) = parse_any(frame);
    assert_eq!((protocol, frame[14 + 7]), (wire::ICMPV6, 255));
    assert_eq!(wire::transport_sum(from, to, wire::ICMPV6, &message), 0xffff);
    (from, to, message)
}

/// The options behind `at` bytes of a message, as pairs of type and content.
fn options(message: &[u8], at: usize) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &message[at..];
    let mut found = Vec::new();
    while let [kind, len, ..] = *rest {
        let (option, behind) = rest.split_at(usize::from(len) * 8);
        found.push((kind, option[2..].to_vec()));
        rest = behind;
    }
    found
}

fn option(message: &[u8], kind: u8) -> Option<Vec<u8>> {
    options(message, 16).into_iter().find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// A router solicitation.
fn solicitation(from: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![133, 0, 0, 0, 0, 0, 0, 0];
    if !from.is_unspecified() {
        message.extend([1, 1]);
        message.extend(GUEST_MAC.0);
    }
    ndp(from, ALL_ROUTERS, message)
}

/// The advertisement for one who asks.
fn advertisement(config: Config) -> Vec<u8> {
    let mut lab = Lab::with(config, Model::default());
    let frames = answers(&mut lab, &solicitation(GUEST6));
    assert_eq!(frames.len(), 1);
    let (from, to, message) = message(&frames[0]);
    assert_eq!((from, to, message[0]), (ROUTER.into(), GUEST6.into(), 134));
    message
}

#[test]
fn our_addresses_are_answered_for_and_nobody_elses() {
    let mut lab = Lab::new();
    for (target, mac) in [(GATEWAY6, GATEWAY6_MAC), (DNS6, MacAddr([0x52, 0x56, 0, 0, 0, 3])), (ROUTER, GATEWAY6_MAC)] {
        let frames = answers(&mut lab, &neighbour_solicitation(GUEST6, target));
        assert_eq!(frames.len(), 1, "{target}");
        let (from, to, answer) = message(&frames[0]);
        assert_eq!((from, to), (target.into(), GUEST6.into()));
        assert_eq!((answer[0], answer[4]), (136, 0xe0), "from a router, solicited, to be believed");
        assert_eq!(answer[8..24], target.octets());
        assert_eq!(options(&answer, 24), [(2, mac.0.to_vec())]);
        assert_eq!((&frames[0][..6], &frames[0][6..12]), (&GUEST_MAC.0[..], &mac.0[..]));
    }
    for target in ["fec0::77", "fe80::77", "2001:db8::1", "fec0::15"] {
        assert!(answers(&mut lab, &neighbour_solicitation(GUEST6, target.parse().unwrap())).is_empty(), "{target}");
    }
    assert_eq!(lab.nat.drops().total(), 0);
}

#[test]
fn who_wants_one_of_our_addresses_is_told_that_it_is_taken() {
    let mut lab = Lab::new();
    let frames = answers(&mut lab, &neighbour_solicitation(Ipv6Addr::UNSPECIFIED, GATEWAY6));
    let (from, to, answer) = message(&frames[0]);
    assert_eq!((from, to, answer[4]), (GATEWAY6.into(), ALL_NODES.into(), 0xa0), "not solicited");
    assert_eq!(frames[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
    // Nobody says anything about another's, and the address is not learned: it is not the guest's yet.
    let tentative: Ipv6Addr = "fec0::abcd".parse().unwrap();
    assert!(answers(&mut lab, &neighbour_solicitation(Ipv6Addr::UNSPECIFIED, tentative)).is_empty());
    assert_eq!(lab.nat.drops().total(), 0);
}

#[test]
fn a_router_solicitation_is_answered_with_all_that_a_guest_needs() {
    let config = Config {
        search: vec!["a.example".parse().unwrap(), "b.example".parse().unwrap()],
        domain: Some("own.example".parse().unwrap()),
        ..Config::default()
    };
    let message = advertisement(config);
    assert_eq!((message[4], message[5]), (64, 0x40), "hop limit; other settings by DHCPv6, addresses not");
    assert_eq!(message[6..8], [0xff, 0xff], "a router for 18 hours");
    assert_eq!(option(&message, 1).unwrap(), GATEWAY6_MAC.0);
    assert_eq!(option(&message, 5).unwrap(), [0, 0, 0, 0, 5, 0xdc]);
    let prefix = option(&message, 3).unwrap();
    assert_eq!((prefix[0], prefix[1]), (64, 0xc0), "on the link, autonomous");
    assert_eq!(prefix[14..30], "fec0::".parse::<Ipv6Addr>().unwrap().octets());
    let dns = option(&message, 25).unwrap();
    assert_eq!((dns.len(), &dns[6..]), (22, &DNS6.octets()[..]));
    let search = option(&message, 31).unwrap();
    assert_eq!(&search[6..], b"\x01a\x07example\0\x01b\x07example\0\0\0");
}

#[test]
fn advertisements_follow_the_settings() {
    let domain = Config { domain: Some("own.example".parse().unwrap()), ..Config::default() };
    assert!(option(&advertisement(domain), 31).unwrap()[6..].starts_with(b"\x03own\x07example\0"));
    let restricted = advertisement(Config { restrict: true, ..Config::default() });
    assert_eq!((&restricted[6..8], option(&restricted, 25)), (&[0, 0][..], None), "no router, no name server");
    let net = Ipv6::of_network("fec0::/80".parse().unwrap());
    let managed = advertisement(Config { ipv6: Some(net), mtu: 9000, ..Config::default() });
    let prefix = option(&managed, 3).unwrap();
    assert_eq!((managed[5], prefix[0], prefix[1]), (0xc0, 80, 0x80), "nobody can make up an address");
    assert_eq!(option(&managed, 5).unwrap(), [0, 0, 0, 0, 0x23, 0x28]);
    let long = "x".repeat(60);
    for (mtu, longest) in [(1500, 1460), (65521, 88 + 255 * 8)] {
        let search = (0..100).map(|i| format!("{long}.{i}").parse().unwrap()).collect();
        let crowded = advertisement(Config { search, mtu, ..Config::default() });
        assert!((longest - 72..=longest).contains(&crowded.len()), "{}", crowded.len());
        assert!(option(&crowded, 31).unwrap().len() > 1000);
    }
}

#[test]
fn a_guest_without_an_address_hears_with_all_others() {
    let mut lab = Lab::new();
    let frames = answers(&mut lab, &solicitation(Ipv6Addr::UNSPECIFIED));
    let (from, to, _) = message(&frames[0]);
    assert_eq!((from, to), (ROUTER.into(), ALL_NODES.into()));
}

#[test]
fn the_first_frame_is_followed_by_an_advertisement_and_so_is_the_first_after_an_hour() {
    let now = Instant::now();
    let mut nat = crate::nat::Nat::new(Config::default(), Model::default(), 1, now).unwrap();
    let mut advertised = |now, frame: &[u8]| {
        nat.input(now, &VnetHeader::WHOLE, frame);
        let mut count = 0;
        while let Some((_, frame)) = nat.output(now) {
            count += usize::from(frame[12..14] == [0x86, 0xdd] && message(frame).2[0] == 134);
        }
        assert_eq!(nat.deadline(), None);
        count
    };
    assert_eq!(advertised(now, &arp_request(GATEWAY)), 1);
    assert_eq!(advertised(now, &neighbour_solicitation(GUEST6, GATEWAY6)), 0);
    let later = now + Duration::from_secs(3601);
    assert_eq!(advertised(later, &neighbour_solicitation(GUEST6, GATEWAY6)), 1);
    assert_eq!(advertised(later, &arp_request(GATEWAY)), 0);
}

#[test]
fn a_guest_is_asked_for_through_its_group() {
    let mut env = Env::new(Config::default(), Model::default(), 1, Instant::now());
    let mut out = vec![0; 2000];
    for (target, asker) in [("fec0::12:3456", GATEWAY6), ("fe80::12:3456", ROUTER)] {
        env.ask(target.parse().unwrap());
        let (_, len) = env.queue.pop_into(&mut out).unwrap();
        let (from, to, question) = message(&out[..len]);
        assert_eq!((from, to), (asker.into(), "ff02::1:ff12:3456".parse::<IpAddr>().unwrap()));
        assert_eq!(out[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!((question[0], &question[8..24]), (135, &target.parse::<Ipv6Addr>().unwrap().octets()[..]));
        assert_eq!(options(&question, 24), [(1, GATEWAY6_MAC.0.to_vec())]);
    }
}

#[test]
fn an_advertisement_of_a_neighbour_is_learned() {
    let mut env = Env::new(Config::default(), Model::default(), 1, Instant::now());
    let advertise = |target: Ipv6Addr| {
        let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
        message.extend(target.octets());
        message.extend([2, 1]);
        message.extend(GUEST_MAC.0);
        ndp("fe80::99".parse().unwrap(), GATEWAY6, message)
    };
    // Our own address is not theirs to give away.
    for (target, known) in [("fec0::99".parse().unwrap(), Some(GUEST_MAC)), (GATEWAY6, None)] {
        let frame = advertise(target);
        let ethernet = Ethernet::parse(&frame).unwrap();
        Ndp::default().input(&mut env, &ethernet, &Ip::parse(ethernet.payload).unwrap()).unwrap();
        assert_eq!(env.neighbours.get(target), known);
    }
}

#[test]
fn bad_messages_of_neighbours_are_a_counted_drop_each() {
    let source = [&[1, 1][..], &GUEST_MAC.0].concat();
    let solicit =
        |target: Ipv6Addr, options: &[u8]| [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), options].concat();
    let group: Ipv6Addr = "ff02::1:ff00:2".parse().unwrap();
    let good = solicit(GATEWAY6, &source);
    let mut bad = vec![
        // Options of length 0, longer than the message, cut within, and of another sender's.
        ndp(GUEST6, group, solicit(GATEWAY6, &[1, 0, 0, 0, 0, 0, 0, 0])),
        ndp(GUEST6, group, solicit(GATEWAY6, &[1, 2, 0, 0, 0, 0, 0, 0])),
        ndp(GUEST6, group, solicit(GATEWAY6, &[1])),
        ndp(GUEST6, group, solicit(GATEWAY6, &[1, 1, 2, 0, 0, 0, 9, 9])),
        // An address that nobody can have; a code; without an address, but with a name, and not to the group.
        ndp(GUEST6, group, solicit(ALL_NODES, &source)),
        ndp(GUEST6, group, [&[135, 1][..], &good[2..]].concat()),
        ndp(Ipv6Addr::UNSPECIFIED, group, good.clone()),
        ndp(Ipv6Addr::UNSPECIFIED, ALL_NODES, solicit(GATEWAY6, &[])),
        ndp(Ipv6Addr::UNSPECIFIED, ALL_ROUTERS, [&[133, 0, 0, 0, 0, 0, 0, 0][..], &source].concat()),
        ndp(Ipv6Addr::UNSPECIFIED, ALL_NODES, [&[136][..], &good[1..]].concat()),
        // Advertisements and redirects are the router's business.
        ndp(GUEST6, ALL_NODES, vec![134; 16]),
        ndp(GUEST6, GATEWAY6, [&[137, 0][..], &[0; 38]].concat()),
    ];
    // Every length but the one without options, and the whole.
    bad.extend((1..good.len()).filter(|&len| len != 24).map(|len| ndp_short(&good[..len])));
    // A checksum that is wrong, and a message that has passed a router.
    let mut broken = ndp(GUEST6, group, good.clone());
    broken[60] ^= 1;
    let mut routed = ndp(GUEST6, group, good);
    routed[21] = 254;
    bad.extend([broken, routed]);
    for (i, frame) in bad.into_iter().enumerate() {
        let mut lab = Lab::new();
        assert!(answers(&mut lab, &frame).is_empty(), "{i}");
        assert_eq!(lab.nat.drops().total(), 1, "{i}");
        let reasons = lab.nat.drops();
        assert_eq!(reasons.get(DropReason::Malformed) + reasons.get(DropReason::Unserved), 1, "{i}");
    }
}

/// A message that may be too short for its checksum.
fn ndp_short(message: &[u8]) -> Vec<u8> {
    if message.len() < 4 {
        return packet(GATEWAY6, wire::ICMPV6, message);
    }
    ndp(GUEST6, GATEWAY6, message.to_vec())
}
