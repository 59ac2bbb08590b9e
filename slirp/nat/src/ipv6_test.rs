//! The core over IPv6, and what both versions share: TCP with and without segmentation, UDP, fragments, extension
//! headers, DNS, hop limits, families that are off, and hostile input. Neighbour discovery has a file of its own.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use link::{Checksum, DropReason, GsoType, Offloads, VnetHeader};
use smoltcp::socket::tcp::State;

use crate::config::Config;
use crate::env::Random;
use crate::host::{Readiness, Rejection};
use crate::testing::*;
use crate::wire::{self, Fragment, Ip, IpHeader};

const SECOND: Duration = Duration::from_secs(1);

fn to(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn connect(lab: &mut Lab<Model>, address: Ipv6Addr, port: u16) -> smoltcp::iface::SocketHandle {
    let handle = lab.guest.connect(to(address, port));
    lab.settle();
    handle
}

/// A segment of the guest's without checksum, to port 80 of the remote host.
fn segment(sequence: u32, acknowledgement: u32, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x10, 0, 0, 80];
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledgement.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(data);
    segment
}

const VERIFIED: VnetHeader = VnetHeader { checksum: Checksum::Valid, ..VnetHeader::WHOLE };

/// Opens a connection by hand, with this MSS, and returns the SYN|ACK.
fn open_by_hand(lab: &mut Lab<Model>, options: &[u8]) -> Vec<u8> {
    lab.nat.input(lab.now, &VERIFIED, &packet(REMOTE6, wire::TCP, &segment(1000, 0, 2, options, b"")));
    while let Some(readiness) = lab.host().events.pop_front() {
        lab.nat.ready(lab.now, readiness);
    }
    let (_, frame) = lab.nat.output(lab.now).unwrap();
    let (_, _, _, answer) = parse_any(frame);
    assert_eq!(answer[13], 0x12, "SYN and ACK");
    let sequence = u32::from_be_bytes(answer[4..8].try_into().unwrap());
    let ack = segment(1001, sequence.wrapping_add(1), 0x10, &[], b"");
    lab.nat.input(lab.now, &VERIFIED, &packet(REMOTE6, wire::TCP, &ack));
    lab.nat.flush();
    answer
}

#[test]
fn connections_are_made_refused_and_told_unreachable() {
    let mut lab = Lab::new();
    let open = connect(&mut lab, REMOTE6, 80);
    assert_eq!(lab.guest.tcp(open).state(), State::Established);
    assert_eq!(lab.host().connection().to, Some(to(REMOTE6, 80)));
    let refused = connect(&mut lab, REMOTE6, 81);
    assert_eq!(lab.guest.tcp(refused).state(), State::Closed);
    // No route; and no address to send from, on a host that has IPv6 switched off.
    for port in [83, 84] {
        connect(&mut lab, REMOTE6, port);
        let (protocol, from, _, message) = parse_any(&lab.guest.others.pop_front().unwrap());
        assert_eq!((protocol, from, message[0], message[1]), (wire::ICMPV6, GATEWAY6.into(), 1, 0));
        let quoted = etherparse::PacketHeaders::from_ip_slice(&message[8..]).unwrap();
        assert_eq!(quoted.transport.unwrap().tcp().unwrap().destination_port, port);
        assert_eq!(wire::transport_sum(from, GUEST6, wire::ICMPV6, &message), 0xffff);
    }
}

#[test]
fn the_gateway_leads_to_the_hosts_loopback_if_it_is_set() {
    let mut lab = Lab::new();
    connect(&mut lab, GATEWAY6, 80);
    assert_eq!(lab.host().connection().to, Some("[::1]:80".parse().unwrap()));
    let mut lab = Lab::with(Config { host_loopback: false, ..Config::default() }, Model::default());
    connect(&mut lab, GATEWAY6, 80);
    let (protocol, from, _, message) = parse_any(&lab.guest.others.pop_front().unwrap());
    assert_eq!((protocol, from, message[0], message[1]), (wire::ICMPV6, GATEWAY6.into(), 1, 0));
    assert!(lab.host().connections.is_empty());
}

#[test]
fn bytes_arrive_whole_and_in_order_both_ways() {
    for offloads in [Offloads::NONE, Offloads::ALL, Offloads { tso6: false, ..Offloads::ALL }] {
        let mut lab = Lab::new();
        lab.guest = Guest::new(offloads == Offloads::NONE);
        lab.nat.accept(offloads);
        let handle = connect(&mut lab, REMOTE6, 80);
        let data = pattern(3_000_000);
        let (at_host, at_guest) = transfer(&mut lab, handle, &data);
        assert!(at_host == data && at_guest == data, "{offloads:?}");
    }
}

#[test]
fn bytes_arrive_over_a_link_that_loses_and_swaps_frames() {
    for offloads in [Offloads::NONE, Offloads::ALL] {
        let mut lab = Lab::new();
        lab.guest = Guest::new(offloads == Offloads::NONE);
        lab.nat.accept(offloads);
        let handle = connect(&mut lab, REMOTE6, 80);
        (lab.loss, lab.swaps) = (10, 20);
        let data = pattern(1_000_000);
        let (at_host, at_guest) = transfer(&mut lab, handle, &data);
        assert!(at_host == data && at_guest == data, "{offloads:?}");
    }
}

#[test]
fn segments_are_cut_at_what_the_guest_takes_and_the_mtu_allows() {
    // The guest's MSS and window scale; the size expected.
    for (mss, size) in [(Some(1220u16), 1220), (Some(1440), 1440), (Some(8940), 1440), (None, 536)] {
        for offloads in [Offloads::ALL, Offloads::NONE] {
            let mut lab = Lab::new();
            lab.nat.accept(offloads);
            let mss = mss.map(|mss| [2, 4, (mss >> 8) as u8, mss as u8]);
            let options = [mss.as_ref().map_or(&[][..], |mss| mss), &[1, 3, 3, 7]].concat();
            let answer = open_by_hand(&mut lab, &options);
            assert_eq!(answer[20..24], [2, 4, 5, 0xa0], "our own: the MTU less 60");
            let id = lab.host().open_ids()[0];
            lab.host().connection().inbound = pattern(200_000).into();
            lab.nat.ready(lab.now, readiness(id));
            let mut longest = (VnetHeader::WHOLE, 0);
            while let Some((header, frame)) = lab.nat.output(lab.now) {
                assert!(offloads.permit(&header), "{header:?}");
                header.check(frame.len()).unwrap();
                // Length and payload agree with what the header says.
                assert_eq!(Ip::parse(&frame[14..]).unwrap().bytes.len(), frame.len() - 14);
                if frame.len() > longest.1 {
                    longest = (header, frame.len());
                }
            }
            let (header, len) = longest;
            if offloads == Offloads::NONE {
                assert_eq!(len, 74 + size);
                continue;
            }
            assert_eq!((header.gso_type, usize::from(header.gso_size)), (GsoType::TcpV6, size));
            assert_eq!((header.checksum, header.hdr_len), (Checksum::Partial { start: 54, offset: 16 }, 74));
            assert!(len > 60_000 && len <= 65_535 + 14, "{len}");
        }
    }
}

#[test]
fn segments_to_be_cut_are_taken_whole() {
    let mut lab = Lab::new();
    lab.nat.accept(Offloads::ALL);
    let answer = open_by_hand(&mut lab, &[2, 4, 5, 0xa0]);
    let sequence = u32::from_be_bytes(answer[4..8].try_into().unwrap()).wrapping_add(1);
    let data = pattern(60_000);
    let header = VnetHeader {
        checksum: Checksum::Partial { start: 54, offset: 16 },
        gso_type: GsoType::TcpV6,
        gso_size: 1440,
        ..VnetHeader::WHOLE
    };
    let frame = packet(REMOTE6, wire::TCP, &segment(1001, sequence, 0x10, &[], &data));
    lab.nat.input(lab.now, &header, &frame);
    lab.nat.flush();
    assert!(lab.host().connection().sent == data);
    // The other version's segmentation is a contradiction.
    lab.nat.input(lab.now, &VnetHeader { gso_type: GsoType::TcpV4, ..header }, &frame);
    assert_eq!(lab.nat.drops().get(DropReason::BadOffload), 1);
}

#[test]
fn extension_headers_do_not_keep_a_connection_from_being_made() {
    let mut lab = Lab::new();
    let syn = segment(1000, 0, 2, &[2, 4, 5, 0xa0], b"");
    let chain = [&[60, 0, 5, 2, 0, 0, 1, 0][..], &[wire::TCP, 0, 1, 4, 0, 0, 0, 0], &syn].concat();
    lab.nat.input(lab.now, &VERIFIED, &packet(REMOTE6, 0, &chain));
    while let Some(readiness) = lab.host().events.pop_front() {
        lab.nat.ready(lab.now, readiness);
    }
    let (_, frame) = lab.nat.output(lab.now).unwrap();
    assert_eq!(parse_any(frame).3[13], 0x12);
}

#[test]
fn datagrams_cross_both_ways_from_one_socket_per_port() {
    let mut lab = Lab::new();
    lab.exchange(datagram(4000, to(REMOTE6, 7), b"one"));
    lab.exchange(datagram(4000, to(GATEWAY6, 8), b"two"));
    lab.exchange(datagram(4000, to(REMOTE, 7), b"another family, another socket"));
    let sent = lab.host().sent.clone();
    assert_eq!((sent[0].2, sent[1].2), (to(REMOTE6, 7), "[::1]:8".parse().unwrap()));
    assert!(sent[0].0 == sent[1].0 && sent[0].0 != sent[2].0);
    for (from, seen) in
        [("[2001:db8::80]:7", REMOTE6), ("[::1]:8", GATEWAY6), ("[2001:db8::99]:9", "2001:db8::99".parse().unwrap())]
    {
        let socket = lab.host().datagrams.get_mut(&sent[0].0).unwrap();
        socket.inbound.push_back((b"answer".to_vec(), from.parse().unwrap()));
        lab.nat.ready(lab.now, readiness(sent[0].0));
        lab.step();
        let (protocol, from, dest, udp) = parse_any(&lab.guest.others.pop_front().unwrap());
        assert_eq!((protocol, from, dest, &udp[8..]), (17, seen.into(), GUEST6.into(), &b"answer"[..]));
        assert_eq!(wire::transport_sum(from, dest, 17, &udp), 0xffff);
    }
    for _ in 0..10 {
        lab.pass(60 * SECOND);
    }
    assert_eq!((lab.nat.flows().1, lab.host().open(), lab.nat.deadline()), (0, 0, None));
}

#[test]
fn a_datagram_without_checksum_is_dropped() {
    let mut lab = Lab::new();
    let mut bytes = datagram_bytes(4000, to(REMOTE6, 7), b"one");
    bytes[6..8].fill(0);
    lab.exchange(packet(REMOTE6, 17, &bytes));
    assert!(lab.host().sent.is_empty());
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), 1);
}

#[test]
fn segmented_datagrams_are_cut() {
    let mut lab = Lab::new();
    let header = VnetHeader {
        checksum: Checksum::Partial { start: 54, offset: 6 },
        gso_type: GsoType::Udp,
        gso_size: 1000,
        ..VnetHeader::WHOLE
    };
    lab.nat.input(lab.now, &header, &datagram(4000, to(REMOTE6, 7), &pattern(2500)));
    let sent: Vec<_> = lab.host().sent.iter().map(|(_, data, _)| data.len()).collect();
    assert_eq!(sent, [1000, 1000, 500]);
}

/// The fragments of a datagram, with a destination option in front of the fragment header of each.
fn fragments(ident: u32, whole: &[u8], step: usize) -> Vec<Vec<u8>> {
    let pieces = whole.chunks(step).enumerate().map(|(i, piece)| {
        let fragment = Some(Fragment { ident, offset: i * step, more: (i + 1) * step < whole.len() });
        packet_of(IpHeader { fragment, ..IpHeader::whole(GUEST6, REMOTE6, 17, 0) }, piece)
    });
    pieces.collect()
}

#[test]
fn large_datagrams_cross_in_fragments_both_ways() {
    let mut lab = Lab::new();
    let data = pattern(20_000);
    let mut pieces = fragments(0xdead_beef, &datagram_bytes(4000, to(REMOTE6, 2049), &data), 1448);
    pieces.reverse();
    pieces.into_iter().for_each(|piece| lab.guest.send(piece));
    lab.step();
    let (id, sent, _) = lab.host().sent[0].clone();
    assert!(sent == data);
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((data.clone(), to(REMOTE6, 2049)));
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
    assert!(wire::Udp::parse(&Ip::parse(&answer).unwrap(), true).unwrap().payload == data);
}

#[test]
fn overlapping_fragments_drop_the_whole_datagram() {
    let mut lab = Lab::new();
    let whole = datagram_bytes(4000, to(REMOTE6, 7), &[7; 40]);
    let mut pieces = fragments(5, &whole, 16);
    let fragment = Some(Fragment { ident: 5, offset: 8, more: true });
    pieces.insert(1, packet_of(IpHeader { fragment, ..IpHeader::whole(GUEST6, REMOTE6, 17, 0) }, &[0; 16]));
    pieces.into_iter().for_each(|piece| lab.guest.send(piece));
    lab.step();
    assert!(lab.host().sent.is_empty());
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), 1);
    // What came behind the overlap waits for what never comes, and goes.
    lab.pass(40 * SECOND);
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), 2);
    assert_eq!(lab.nat.deadline(), None);
}

#[test]
fn fragments_within_a_packet_put_together_are_malformed() {
    let mut lab = Lab::new();
    // What comes together begins with another fragment header.
    let inner = [&[17, 0, 0, 1, 0, 0, 0, 9][..], &[0; 24]].concat();
    for (offset, more) in [(0, true), (16, false)] {
        let fragment = Some(Fragment { ident: 6, offset, more });
        let header = IpHeader { fragment, ..IpHeader::whole(GUEST6, REMOTE6, 44, 0) };
        lab.guest.send(packet_of(header, &inner[offset..offset + 16]));
    }
    lab.step();
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), 1);
}

#[test]
fn what_is_not_understood_is_answered_with_its_place() {
    let mut lab = Lab::new();
    // A protocol nobody serves; an option that must be understood; a routing header that wants to go on.
    for (protocol, payload, code, at) in
        [(132, &[0; 20][..], 1, 6), (60, &[17, 0, 0xbe, 4, 0, 0, 0, 0], 2, 42), (43, &[17, 0, 0, 1, 0, 0, 0, 0], 0, 42)]
    {
        let answers = lab.exchange(packet(REMOTE6, protocol, payload));
        let (_, from, _, message) = parse_any(&answers[0]);
        assert_eq!((from, message[0], message[1]), (GATEWAY6.into(), 4, code));
        assert_eq!(message[4..8], [0, 0, 0, at]);
    }
    // Nothing behind the header is nothing to complain about, and what was for many is not complained about.
    for frame in [packet(REMOTE6, 59, b""), packet("ff02::77".parse::<Ipv6Addr>().unwrap(), 132, b"")] {
        assert!(lab.exchange(frame).is_empty());
    }
    assert_eq!(lab.nat.drops().total(), 5);
}

#[test]
fn a_refused_datagram_is_told_to_its_sender() {
    let mut lab = Lab::new();
    lab.exchange(datagram(4000, to(REMOTE6, 9), b"x"));
    lab.settle();
    let (_, from, _, message) = parse_any(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from, message[0], message[1]), (GATEWAY6.into(), 1, 4));
    let quoted = etherparse::PacketHeaders::from_ip_slice(&message[8..]).unwrap();
    let udp = quoted.transport.unwrap().udp().unwrap();
    assert_eq!((udp.source_port, udp.destination_port, udp.length), (4000, 9, 9));
}

#[test]
fn the_name_server_relays_datagrams_and_connections_from_its_own_address() {
    let mut lab = Lab::new();
    lab.host().resolvers = vec!["[2001:db8::53]:53".parse().unwrap(), "192.0.2.2:53".parse().unwrap()];
    let question = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &b"\x01a\0\0\x01\0\x01"[..]].concat();
    assert!(lab.exchange(datagram(4000, to(DNS6, 53), &question)).is_empty());
    let (id, mut answer, server) = lab.host().sent[0].clone();
    assert_eq!(server, "[2001:db8::53]:53".parse().unwrap());
    answer[2] |= 0x80;
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((answer, server));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let (_, from, _, udp) = parse_any(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from, &udp[8..11]), (DNS6.into(), &[0x12, 0x34, 0x81][..]));
    assert_eq!(wire::transport_sum(from, GUEST6, 17, &udp), 0xffff);
    let handle = connect(&mut lab, DNS6, 53);
    assert_eq!(lab.guest.tcp(handle).state(), State::Established);
    assert_eq!(lab.host().connection().to, Some("[2001:db8::53]:53".parse().unwrap()));
}

/// What a guest sends to a remote host with so many hops to go: a datagram, an echo request and a SYN.
fn with_hops(remote: IpAddr, hop_limit: u8) -> [Vec<u8>; 3] {
    let of = |protocol, payload: &[u8]| {
        packet_of(IpHeader { hop_limit, ..IpHeader::whole(guest_for(remote), remote, protocol, 0) }, payload)
    };
    let echo = echo_request(remote, 7, b"x");
    let echo = Ip::parse(&echo[14..]).unwrap();
    let mut syn = segment(1000, 0, 2, &[], b"");
    let checksum = !wire::transport_sum(guest_for(remote), remote, wire::TCP, &syn);
    syn[16..18].copy_from_slice(&checksum.to_be_bytes());
    [of(17, &datagram_bytes(4000, to(remote, 33434), b"x")), of(echo.protocol, echo.payload), of(wire::TCP, &syn)]
}

#[test]
fn the_gateway_is_one_hop_on_the_way() {
    for (remote, gateway, exceeded) in
        [(IpAddr::from(REMOTE), IpAddr::from(GATEWAY), 11), (REMOTE6.into(), GATEWAY6.into(), 3)]
    {
        let mut lab = Lab::new();
        for frame in with_hops(remote, 1) {
            let sent = Ip::parse(&frame[14..]).unwrap().bytes.to_vec();
            let answers = lab.exchange(frame);
            let (_, from, _, message) = parse_any(&answers[0]);
            assert_eq!((from, message[0], message[1]), (gateway, exceeded, 0));
            assert!(message[8..].starts_with(&sent));
        }
        assert!(lab.host().sent.is_empty() && lab.host().connections.is_empty());
        let [datagram, echo, _] = with_hops(remote, 2);
        for frame in [datagram, echo] {
            lab.exchange(frame);
            assert_eq!(lab.host().hops, Some(1));
        }
        lab.exchange(with_hops(remote, 64)[0].clone());
        assert_eq!(lab.host().hops, Some(63));
        // What is for the gateway has arrived there.
        assert_eq!(lab.exchange(with_hops(gateway, 1)[1].clone()).len(), 1);
        lab.host().sent.clear();
        lab.exchange(with_hops(gateway, 1)[0].clone());
        assert_eq!((lab.host().sent.len(), lab.host().hops), (1, None));
    }
}

#[test]
fn a_guest_is_told_of_a_thousand_errors_a_second_at_most() {
    let mut lab = Lab::new();
    let mut told = |after: Duration| {
        lab.now += after;
        let mut told = 0;
        for _ in 0..1200 {
            lab.nat.input(lab.now, &VnetHeader::WHOLE, &with_hops(REMOTE6.into(), 1)[0]);
            told += usize::from(lab.nat.output(lab.now).is_some());
        }
        told
    };
    assert_eq!([Duration::ZERO, 100 * SECOND / 1000, 9 * SECOND].map(&mut told), [1000, 100, 1000]);
}

#[test]
fn errors_from_the_way_reach_the_guest_with_what_it_sent() {
    for (remote, by, exceeded, too_big) in
        [(IpAddr::from(REMOTE), "198.51.100.1", (11, 0), (3, 4)), (REMOTE6.into(), "2001:db8::1", (3, 0), (2, 0))]
    {
        let by: IpAddr = by.parse().unwrap();
        let mut lab = Lab::new();
        lab.exchange(echo_request(remote, 7, b"payload"));
        lab.exchange(datagram(4000, to(remote, 33434), b"payload"));
        let sent = lab.host().sent.clone();
        for ((id, data, target), (icmp_type, icmp_code)) in
            sent.into_iter().flat_map(|sent| [exceeded, too_big].map(|error| (sent.clone(), error)))
        {
            let mut quote = data.clone();
            if target.port() == 0 {
                // The kernel's own identifier.
                quote[4..6].copy_from_slice(&[0xaa, 0xbb]);
            }
            let info = if (icmp_type, icmp_code) == too_big { 1400 } else { 0 };
            let rejection = Rejection { to: target, by: Some(by), icmp_type, icmp_code, info, quote };
            lab.host().datagrams.get_mut(&id).unwrap().rejections.push_back(rejection);
            lab.nat.ready(lab.now, Readiness { error: true, ..readiness(id) });
            lab.step();
            let (_, from, _, message) = parse_any(&lab.guest.others.pop_front().unwrap());
            assert_eq!((from, message[0], message[1]), (by, icmp_type, icmp_code));
            assert_eq!(u32::from_be_bytes(message[4..8].try_into().unwrap()), info);
            let quoted = Ip::parse(&message[8..]).unwrap();
            assert_eq!((quoted.from, quoted.to), (guest_for(remote), remote));
            if target.port() == 0 {
                // By identifier and sequence number a guest knows which of its requests it was.
                assert_eq!(quoted.payload[4..], [&[0, 7, 0, 1][..], b"payload"].concat());
            } else {
                assert_eq!(quoted.payload[..4], [0x0f, 0xa0, 0x82, 0x9a]);
                assert_eq!(&quoted.payload[8..], b"payload");
            }
        }
    }
}

#[test]
fn link_local_guests_reach_the_gateway_and_not_beyond() {
    let mut lab = Lab::new();
    let [guest, gateway]: [Ipv6Addr; 2] = ["fe80::15", "fe80::2"].map(|address| address.parse().unwrap());
    let datagram = |to: Ipv6Addr| {
        let mut datagram = datagram_bytes(4000, SocketAddr::from((to, 7)), b"x");
        wire::fill_udp_checksum(guest, to, &mut datagram);
        packet_from(guest, to, 17, &datagram)
    };
    assert!(lab.exchange(datagram(gateway)).is_empty());
    let (id, _, target) = lab.host().sent[0].clone();
    assert_eq!(target, "[::1]:7".parse().unwrap());
    lab.host().datagrams.get_mut(&id).unwrap().inbound.push_back((b"y".to_vec(), target));
    lab.nat.ready(lab.now, readiness(id));
    lab.step();
    let (_, from, to, _) = parse_any(&lab.guest.others.pop_front().unwrap());
    assert_eq!((from, to), (gateway.into(), guest.into()), "the answer has the address that was asked");
    let refusal = lab.exchange(datagram(REMOTE6)).remove(0);
    let (_, from, _, message) = parse_any(&refusal);
    assert_eq!((from, message[0], message[1]), (gateway.into(), 1, 2), "beyond the scope of the source");
    assert_eq!(lab.host().sent.len(), 1);
}

#[test]
fn a_restricted_guest_has_no_way_out() {
    let mut lab = Lab::with(Config { restrict: true, ..Config::default() }, Model::default());
    lab.exchange(datagram(4000, to(REMOTE6, 7), b"x"));
    lab.exchange(datagram(4000, to(DNS6, 53), &[0; 12]));
    assert!(lab.exchange(packet(REMOTE6, 132, &[0; 20])).is_empty());
    let handle = connect(&mut lab, REMOTE6, 80);
    assert_eq!(lab.guest.tcp(handle).state(), State::SynSent);
    assert!(lab.host().sent.is_empty() && lab.host().connections.is_empty());
    assert_eq!(lab.exchange(echo_request(GATEWAY6, 1, b"")).len(), 1);
}

#[test]
fn a_family_that_is_off_is_silent() {
    for (config, on, off) in [
        (Config { ipv4: false, ..Config::default() }, IpAddr::from(GATEWAY6), IpAddr::from(GATEWAY)),
        (Config { ipv6: None, ..Config::default() }, GATEWAY.into(), GATEWAY6.into()),
    ] {
        let mut lab = Lab::with(config, Model::default());
        let before = lab.nat.drops().get(DropReason::Unserved);
        assert_eq!(lab.exchange(echo_request(on, 1, b"")).len(), 1);
        assert!(lab.exchange(echo_request(off, 1, b"")).is_empty());
        lab.exchange(datagram(4000, to(if off.is_ipv4() { IpAddr::from(REMOTE) } else { REMOTE6.into() }, 7), b"x"));
        assert!(lab.host().sent.is_empty());
        assert!(lab.nat.drops().get(DropReason::Unserved) >= before + 2);
    }
    let mut lab = Lab::with(Config { ipv4: false, ..Config::default() }, Model::default());
    lab.nat.input(lab.now, &VnetHeader::WHOLE, &arp_request(GATEWAY));
    assert!(!lab.nat.has_output());
    assert!(lab.exchange(dhcp(1, GUEST_MAC, std::net::Ipv4Addr::UNSPECIFIED, &[])).is_empty());
}

#[test]
fn a_packet_of_one_version_in_a_frame_of_the_other_is_malformed() {
    let mut lab = Lab::new();
    for mut frame in [echo_request(GATEWAY, 1, b""), echo_request(GATEWAY6, 1, b"")] {
        let other: [u8; 2] = if frame[12..14] == [8, 0] { [0x86, 0xdd] } else { [8, 0] };
        frame[12..14].copy_from_slice(&other);
        assert!(lab.exchange(frame).is_empty());
    }
    assert_eq!(lab.nat.drops().get(DropReason::Malformed), 2);
}

#[test]
fn short_packets_of_every_protocol_are_a_counted_drop() {
    let protocols: [(u8, usize); 4] = [(wire::TCP, 20), (17, 8), (wire::ICMPV6, 8), (44, 8)];
    for (protocol, header) in protocols {
        for len in 0..header {
            let mut lab = Lab::new();
            let before = lab.nat.drops().total();
            assert!(lab.exchange(packet(REMOTE6, protocol, &vec![0; len])).is_empty());
            assert_eq!(lab.nat.drops().total(), before + 1, "{protocol} {len}");
            assert!(lab.host().sent.is_empty() && lab.host().connections.is_empty());
        }
    }
}

fn samples() -> Vec<Vec<u8>> {
    let syn = segment(1000, 0, 2, &[2, 4, 5, 0xb4], b"");
    let mut samples = vec![
        neighbour_solicitation(GUEST6, GATEWAY6),
        neighbour_solicitation(Ipv6Addr::UNSPECIFIED, DNS6),
        ndp(GUEST6, "ff02::2".parse().unwrap(), vec![133, 0, 0, 0, 0, 0, 0, 0]),
        echo_request(GATEWAY6, 1, &[7; 40]),
        echo_request(REMOTE6, 1, &[7; 40]),
        datagram(4000, to(REMOTE6, 7), &[1; 60]),
        datagram(4000, to(DNS6, 53), &[0; 40]),
        packet(REMOTE6, wire::TCP, &syn),
        packet(REMOTE6, 0, &[&[60, 0, 5, 2, 0, 0, 1, 0][..], &[wire::TCP, 0, 1, 4, 0, 0, 0, 0], &syn].concat()),
        packet(REMOTE6, 132, &[0; 30]),
    ];
    samples.extend(fragments(77, &datagram_bytes(4000, to(REMOTE6, 7), &[1; 100]), 40));
    samples
}

/// Frames of every protocol, each changed in a few bytes or cut short.
#[test]
fn a_hundred_thousand_hostile_frames_cost_drops_and_nothing_else() {
    let mut lab = Lab::new();
    lab.host().resolvers = vec!["192.0.2.1:53".parse().unwrap()];
    let samples = samples();
    let mut random = Random::new(43);
    for round in 0..100_000u32 {
        let mut frame = samples[random.next() as usize % samples.len()].clone();
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % frame.len();
            frame[at] = random.next() as u8;
        }
        if random.next().is_multiple_of(4) {
            frame.truncate(random.next() as usize % (frame.len() + 1));
        }
        if random.next().is_multiple_of(2) && frame.len() >= 54 {
            // The length mended, so that what was cut gets far.
            let len = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&len.to_be_bytes());
        }
        let header = match random.next() % 4 {
            0 | 1 => VERIFIED,
            2 => VnetHeader {
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
            lab.nat.accept(if random.next().is_multiple_of(2) { Offloads::ALL } else { Offloads::NONE });
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
    lab.nat.accept(Offloads::NONE);
    lab.step();
    lab.exchange(neighbour_solicitation(GUEST6, GATEWAY6));
    assert!(!lab.exchange(echo_request(GATEWAY6, 5, b"alive")).is_empty());
}

/// SYNs with options of any sort, and what comes out behind them: every frame is one that the guest's card can cut.
#[test]
fn hostile_options_never_make_a_frame_that_cannot_be_cut() {
    let mut random = Random::new(44);
    for _ in 0..2000 {
        let mut lab = Lab::new();
        lab.nat.accept(Offloads::ALL);
        let mut options: Vec<u8> = match random.next() % 3 {
            0 => vec![2, 4, random.next() as u8, random.next() as u8],
            1 => vec![2, 4, 0, random.next() as u8, 3, 3, random.next() as u8, 1],
            _ => (0..random.next() % 40).map(|_| random.next() as u8 % 10).collect(),
        };
        options.resize(options.len().next_multiple_of(4), 0);
        let syn = packet(REMOTE6, wire::TCP, &segment(1000, 0, 2, &options, b""));
        lab.nat.input(lab.now, &VERIFIED, &syn);
        while let Some(readiness) = lab.host().events.pop_front() {
            lab.nat.ready(lab.now, readiness);
        }
        let Some((_, frame)) = lab.nat.output(lab.now) else { continue };
        let answer = parse_any(frame).3;
        let sequence = u32::from_be_bytes(answer[4..8].try_into().unwrap()).wrapping_add(1);
        let hole = [&[1, 1, 5, 10][..], &2000u32.to_be_bytes(), &3000u32.to_be_bytes()].concat();
        for (options, at) in [(&[][..], 1001), (&hole, 5001)] {
            let data = packet(REMOTE6, wire::TCP, &segment(at, sequence, 0x10, options, &[1; 100]));
            lab.nat.input(lab.now, &VERIFIED, &data);
        }
        lab.nat.flush();
        for id in lab.host().open_ids() {
            lab.host().connection().inbound = pattern(70_000).into();
            lab.nat.ready(lab.now, readiness(id));
        }
        while let Some((header, frame)) = lab.nat.output(lab.now) {
            header.check(frame.len()).unwrap();
            let len = Ip::parse(&frame[14..]).unwrap().payload.len() - usize::from(frame[66] >> 4) * 4;
            if header.gso_type == GsoType::None {
                assert!(frame.len() <= 1514, "{}", frame.len());
            } else {
                let size = usize::from(header.gso_size);
                assert!(size >= 8 && size < len && usize::from(header.hdr_len) + size <= 1514, "{header:?} {len}");
            }
        }
    }
}
