//! What broke libslirp, made anew from the descriptions of its CVEs: packets shorter than what they claim to be, fragments
//! that contradict each other, and the protocols whose payload it rewrote. Each is a counted drop, or passes as it is, and
//! behind it the NAT still hands out a lease and answers a ping.
//!
//! Neighbours: `nat_test` and `ipv6_test` have random changes of every frame, `ndp_test`, `dhcp_test`, `dhcpv6_test` and
//! `tftp_test` the bad messages of one protocol, `fragment` the bounds of what is put together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use link::{DropReason, VnetHeader};

use crate::config::Config;
use crate::testing::*;
use crate::wire::{self, ETHERNET, ETHERTYPE_ARP, Fragment, IpHeader, UDP};

/// Of the longest IPv4 packet, what is left for the payload.
const LONGEST: usize = 65535 - wire::IPV4;

/// Sends a frame that gets no answer; returns for which reason it was dropped, if it was.
fn drop_of(lab: &mut Lab<Model>, frame: &[u8]) -> Option<DropReason> {
    let count = |lab: &Lab<Model>| DropReason::ALL.map(|reason| lab.nat.drops().get(reason));
    let before = count(lab);
    lab.nat.input(lab.now, &VnetHeader::WHOLE, frame);
    lab.nat.flush();
    assert!(lab.nat.output(lab.now).is_none(), "an answer to {frame:x?}");
    let after = count(lab);
    let mut reasons = (0..before.len()).filter(|&i| after[i] != before[i]);
    let reason = reasons.next()?;
    assert_eq!((after[reason], reasons.next()), (before[reason] + 1, None), "more than one drop");
    Some(DropReason::ALL[reason])
}

fn untouched(lab: &mut Lab<Model>) -> bool {
    lab.host().sent.is_empty() && lab.host().connections.is_empty()
}

fn fragment(ident: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
    let fragment = Some(Fragment { ident, offset, more });
    packet_of(IpHeader { fragment, ..IpHeader::whole(GUEST, REMOTE, wire::UDP_PROTOCOL, 0) }, payload)
}

// CVE-2019-6778 (identification, port 113), CVE-2020-7039 (IRC, port 6667) and CVE-2020-8608 (FTP and IRC): what a guest
// says there was rewritten in buffers too small for it.
#[test]
fn commands_with_addresses_in_them_pass_unchanged_and_open_nothing() {
    let long = [&b"PRIVMSG x :\x01DCC SEND "[..], &[b'9'; 3000], b"\x01"].concat();
    let said: [(u16, &[u8]); 7] = [
        (21, b"PORT 10,0,2,15,4,1\r\n"),
        (21, b"227 Entering Passive Mode (10,0,2,15,255,255)\r\n"),
        (113, b"1024,80"),
        (113, &[b'1'; 5000]),
        (544, b"1024\0user\0user\0command\0"),
        (6667, b"PRIVMSG x :\x01DCC CHAT chat 167772687 1024\x01\r\n"),
        (6667, &long),
    ];
    let mut lab = Lab::new();
    for (port, bytes) in said {
        let handle = lab.guest.connect(SocketAddrV4::new(REMOTE, port));
        lab.settle();
        lab.guest.tcp(handle).send_slice(bytes).unwrap();
        lab.step();
        assert!(lab.host().connection().sent == bytes, "{port}");
        let id = lab.host().open_ids()[0];
        lab.host().connection().inbound = bytes.iter().copied().collect();
        lab.nat.ready(lab.now, readiness(id));
        lab.step();
        assert!(lab.guest.tcp(handle).recv(|got| (got.len(), got == bytes)).unwrap(), "{port}");
        lab.guest.tcp(handle).abort();
        lab.step();
    }
    // Talk and CU-SeeMe, which name an address as well.
    for port in [517, 518, 7648] {
        let message = [&[1, 0, 0, 0, 10, 0, 2, 15][..], &[0; 60]].concat();
        lab.exchange(datagram(4000, SocketAddrV4::new(REMOTE, port), &message));
        assert!(lab.host().sent.last().unwrap().1 == message, "{port}");
    }
    assert!(lab.host().listeners.is_empty() && lab.nat.forwards().is_empty());
    prove_life(&mut lab);
}

// CVE-2019-14378: the first fragment is longer than the buffer that the others are put into.
#[test]
fn fragments_beyond_the_longest_packet_are_dropped() {
    let mut lab = Lab::new();
    assert_eq!(drop_of(&mut lab, &fragment(1, 0, true, &[0; 65_000])), None);
    assert_eq!(drop_of(&mut lab, &fragment(1, 65_000, true, &[0; 800])), Some(DropReason::Malformed));
    assert_eq!(drop_of(&mut lab, &fragment(2, 65_528, false, &[0; 8])), Some(DropReason::Malformed));
    assert!(untouched(&mut lab));
    // The longest packet there can be arrives.
    let mut whole = vec![0; LONGEST];
    wire::put_udp(&mut whole, 4000, 7, LONGEST - UDP);
    wire::fill_udp_checksum(GUEST, REMOTE, &mut whole);
    let (first, second) = whole.split_at(60_000);
    assert_eq!(drop_of(&mut lab, &fragment(3, 60_000, false, second)), None);
    assert_eq!(drop_of(&mut lab, &fragment(3, 0, true, first)), None);
    assert_eq!(lab.host().sent[0].1.len(), LONGEST - UDP);
    prove_life(&mut lab);
}

// CVE-2019-15890 and CVE-2020-1983: fragments that cover others were freed, and used again.
#[test]
fn fragments_that_cover_others_drop_their_packet() {
    // From, to, and whether more follow.
    let sets: [&[(usize, usize, bool)]; 5] = [
        &[(8, 24, true), (0, 32, true)],
        &[(0, 32, true), (8, 16, true)],
        &[(0, 16, true), (24, 40, true), (8, 32, true)],
        &[(0, 16, true), (8, 24, false)],
        &[(16, 32, false), (0, 24, true)],
    ];
    let mut lab = Lab::new();
    for (ident, set) in (0..).zip(sets) {
        let (last, first) = set.split_last().unwrap();
        let send = |lab: &mut Lab<Model>, &(from, to, more): &(usize, usize, bool)| {
            drop_of(lab, &fragment(ident, from, more, &vec![0; to - from]))
        };
        for piece in first {
            assert_eq!(send(&mut lab, piece), None, "{set:?}");
        }
        assert_eq!(send(&mut lab, last), Some(DropReason::Malformed), "{set:?}");
    }
    assert!(untouched(&mut lab));
    prove_life(&mut lab);
}

// The same: what came together was there still when its last fragment came again.
#[test]
fn a_last_fragment_that_comes_twice_delivers_its_packet_once() {
    let mut lab = Lab::new();
    let whole = datagram_bytes(4000, SocketAddr::from((REMOTE, 7)), &[7; 56]);
    let (first, second) = whole.split_at(32);
    for (offset, more, piece) in [(0, true, first), (32, false, second), (32, false, second)] {
        assert_eq!(drop_of(&mut lab, &fragment(9, offset, more, piece)), None);
    }
    assert_eq!(lab.host().sent.len(), 1);
    let before = lab.nat.drops().get(DropReason::Malformed);
    lab.pass(Duration::from_secs(30));
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), before + 1);
    prove_life(&mut lab);
}

// All of them: fragments that never end.
#[test]
fn packets_that_never_end_are_counted_when_they_give_way_or_time_out() {
    let mut lab = Lab::new();
    let packets = 100;
    for ident in 0..packets {
        let reason = drop_of(&mut lab, &fragment(ident, 8, true, &[0; 64]));
        assert!([None, Some(DropReason::Limit)].contains(&reason));
    }
    let waiting = u64::from(packets) - lab.nat.drops().get(DropReason::Limit);
    assert!((1..u64::from(packets)).contains(&waiting));
    while lab.nat.deadline().is_some() {
        lab.pass(Duration::from_secs(60));
    }
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), waiting);
    assert!(untouched(&mut lab));
    prove_life(&mut lab);
}

// CVE-2020-29129: a frame of NC-SI (DSP0222) shorter than its header.
#[test]
fn control_frames_of_network_cards_are_not_served() {
    const NCSI: u16 = 0x88f8;
    let mut lab = Lab::new();
    for len in 0..64 {
        let mut command = frame(NCSI, &vec![0; len]);
        assert_eq!(drop_of(&mut lab, &command), Some(DropReason::Unserved), "{len}");
        command[..6].fill(0xff);
        assert_eq!(drop_of(&mut lab, &command), Some(DropReason::Unserved), "{len}");
    }
    prove_life(&mut lab);
}

// CVE-2020-29130.
#[test]
fn arp_packets_cut_short_are_malformed() {
    let mut lab = Lab::new();
    let whole = arp_request(GATEWAY);
    for len in ETHERNET..whole.len() {
        assert_eq!(drop_of(&mut lab, &whole[..len]), Some(DropReason::Malformed), "{len}");
    }
    // Lengths of addresses other than those of Ethernet and IPv4.
    for (at, value) in [(18, 255), (19, 255), (14, 1), (16, 6)] {
        let mut strange = frame(ETHERTYPE_ARP, &whole[ETHERNET..]);
        strange[at] = value;
        assert_eq!(drop_of(&mut lab, &strange), Some(DropReason::Unserved), "{at}");
    }
    prove_life(&mut lab);
}

// CVE-2021-3592.
#[test]
fn bootp_messages_cut_short_are_malformed() {
    let mut lab = Lab::new();
    let whole = dhcp(1, GUEST_MAC, Ipv4Addr::UNSPECIFIED, &[]);
    let message = &parse(&whole).3[UDP..];
    for len in 0..240 {
        let mut datagram = vec![0; UDP];
        wire::put_udp(&mut datagram, 68, 67, len);
        datagram.extend(&message[..len]);
        let frame = packet_from(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, wire::UDP_PROTOCOL, &datagram);
        assert_eq!(drop_of(&mut lab, &frame), Some(DropReason::Malformed), "{len}");
    }
    prove_life(&mut lab);
}

// CVE-2021-3593 (over IPv6) and CVE-2021-3594 (over IPv4).
#[test]
fn datagrams_shorter_than_they_claim_are_malformed() {
    let mut lab = Lab::new();
    for remote in [IpAddr::from(REMOTE), REMOTE6.into()] {
        let whole = datagram_bytes(4000, SocketAddr::from((remote, 7)), &[7; 40]);
        for len in 0..whole.len() {
            let cut = packet(remote, wire::UDP_PROTOCOL, &whole[..len]);
            assert_eq!(drop_of(&mut lab, &cut), Some(DropReason::Malformed), "{remote} {len}");
        }
        for claimed in [0, 1, 7, 49, 1000, 65535_u16] {
            let mut datagram = whole.clone();
            datagram[4..6].copy_from_slice(&claimed.to_be_bytes());
            let frame = packet(remote, wire::UDP_PROTOCOL, &datagram);
            assert_eq!(drop_of(&mut lab, &frame), Some(DropReason::Malformed), "{remote} {claimed}");
        }
    }
    assert!(untouched(&mut lab));
    prove_life(&mut lab);
}

// The same for what is not UDP; ipv6_test has IPv6.
#[test]
fn packets_cut_within_their_header_are_malformed() {
    let mut lab = Lab::new();
    for (protocol, header) in [(wire::TCP, 20), (wire::ICMP, 8)] {
        for len in 0..header {
            let reason = drop_of(&mut lab, &packet(REMOTE, protocol, &vec![0; len]));
            assert_eq!(reason, Some(DropReason::Malformed), "{protocol} {len}");
        }
    }
    // Within the IP header; and one whose header claims to be longer than the packet, or shorter than a header is.
    let whole = echo_request(GATEWAY, 1, b"");
    for len in ETHERNET..ETHERNET + wire::IPV4 {
        assert_eq!(drop_of(&mut lab, &whole[..len]), Some(DropReason::Malformed), "{len}");
    }
    for first in [0x40, 0x44, 0x4f] {
        let mut strange = whole.clone();
        strange[ETHERNET] = first;
        assert_eq!(drop_of(&mut lab, &strange), Some(DropReason::Malformed), "{first:x}");
    }
    assert!(untouched(&mut lab));
    prove_life(&mut lab);
}

// CVE-2021-3595.
#[test]
fn tftp_packets_cut_short_are_malformed() {
    let mut model = Model::default();
    model.files.insert(b"f".to_vec(), vec![0; 100]);
    let mut lab = Lab::with(Config { tftp: Some("/srv".into()), ..Config::default() }, model);
    let server = SocketAddrV4::new(GATEWAY, 69);
    let request = b"\0\x01f\0octet\0";
    // As soon as there is a NUL at the end, a name is one without a mode.
    let cuts = (0..request.len()).map(|len| &request[..len]);
    let others: [&[u8]; 4] = [b"\0\x03", b"\0\x03\0\x01data", b"\0\x04", b"\0\x04\0"];
    for packet in cuts.chain(others) {
        let reason = drop_of(&mut lab, &datagram(2000, server, packet));
        assert_eq!(reason, Some(DropReason::Malformed), "{packet:?}");
    }
    assert!(lab.host().open_files.is_empty());
    prove_life(&mut lab);
}

// CVE-2020-10756: the answer to an echo request was as long as the packet claimed to be, whatever lay behind it.
#[test]
fn echo_requests_longer_than_their_frame_are_malformed_and_answers_no_longer_than_requests() {
    let mut lab = Lab::new();
    for gateway in [IpAddr::from(GATEWAY), GATEWAY6.into()] {
        let whole = echo_request(gateway, 1, &[7; 32]);
        let is_v4 = gateway.is_ipv4();
        let (field, header) = if is_v4 { (16, wire::IPV4) } else { (18, 0) };
        for claimed in [0, 1, 4, 7, 41, 100, 1400, 65000] {
            let mut frame = whole.clone();
            let len = (header + claimed) as u16;
            frame[field..field + 2].copy_from_slice(&len.to_be_bytes());
            if is_v4 {
                frame[24..26].fill(0);
                let checksum = !wire::fold(wire::sum(&frame[ETHERNET..ETHERNET + wire::IPV4]));
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            }
            assert_eq!(drop_of(&mut lab, &frame), Some(DropReason::Malformed), "{gateway} {claimed}");
        }
        // What lies behind the packet in its frame is not part of it.
        let mut padded = whole.clone();
        padded.extend([0xee; 500]);
        let answer = lab.exchange(padded).remove(0);
        assert_eq!(answer.len(), whole.len());
        assert!(!answer.contains(&0xee));
    }
    prove_life(&mut lab);
}

// The same: chains of extension headers that end outside of their packet.
#[test]
fn extension_headers_that_reach_beyond_their_packet_are_malformed() {
    let mut lab = Lab::new();
    let echo = |chain: &[u8]| {
        let message = &parse_any(&echo_request(GATEWAY6, 1, &[7; 16])).3;
        packet_of(IpHeader::whole(GUEST6, GATEWAY6, 60, 0), &[chain, message].concat())
    };
    assert_eq!(lab.exchange(echo(&[wire::ICMPV6, 0, 1, 4, 0, 0, 0, 0])).len(), 1);
    for chain in [
        &[wire::ICMPV6, 255, 1, 4, 0, 0, 0, 0][..],
        &[wire::ICMPV6, 4, 1, 4, 0, 0, 0, 0],
        &[wire::ICMPV6, 0, 1, 200, 0, 0, 0, 0],
        &[60, 0, 1, 4, 0, 0, 0, 0].repeat(40),
    ] {
        assert_eq!(drop_of(&mut lab, &echo(chain)), Some(DropReason::Malformed), "{chain:?}");
    }
    prove_life(&mut lab);
}
