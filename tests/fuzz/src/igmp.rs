//! IGMP, MLD and PIM in a bridge that snoops.
//!
//! The input is a sequence of steps at a bridge with six ports: a byte that names the step, one whose low half is a port
//! and whose high half says which tags a frame has, then what the step needs. Addresses and checksums are filled in, so
//! that messages are mostly read; some are left wrong.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use link::MacAddr;
use vswitch::bridge::Verdict;
use vswitch::bridge::explain::{Question, Step};
use vswitch::{PortId, VlanId};

use super::data::{Data, port, station, vlan};
use super::vlan::Lab;

/// Steps of a run; what comes after them is passed over.
const MAX_STEPS: usize = 128;
/// The table is looked at after so many steps: a full one takes its time.
const CHECKED: usize = 16;
/// Listeners and routers' ports that are kept, at most.
const CAPACITY: usize = 16384;
/// Groups of the longest report that is made up.
const MAX_GROUPS: u16 = 1100;
/// Groups of all of them in a run: more than the table holds.
const ALL_GROUPS: u16 = 18000;
/// Nothing that a frame says counts for longer than an hour, and the last look at it is a second later.
const LONGEST: Duration = Duration::from_secs(3602);
const ROUTER_ALERT_V4: [u8; 4] = [0x94, 4, 0, 0];
const ROUTER_ALERT_V6: [u8; 6] = [5, 2, 0, 0, 1, 0];
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_PIM: u8 = 103;

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut data = Data::new(data);
    let mut lab = Lab::new();
    lab.bridge.set_snooping(true);
    let mut groups_left = ALL_GROUPS;
    for number in 0..MAX_STEPS {
        if data.is_empty() {
            break;
        }
        step(&mut lab, &mut data, &mut groups_left);
        if number % CHECKED == 0 {
            check_listeners(&lab);
        }
    }
    check_listeners(&lab);
    lab.wait(LONGEST);
    assert_eq!(lab.bridge.listeners(lab.now).next(), None);
    assert_eq!(lab.bridge.deadline(), None);
}

fn step(lab: &mut Lab, data: &mut Data<'_>, groups_left: &mut u16) {
    let (step, place) = (data.byte(), data.byte());
    let id = port(1 + (place & 15) % 7);
    let tags = place >> 4;
    let is_spoilt = step & 0xf0 == 0xf0;
    match step & 15 {
        0 => lab.wait(Duration::from_millis(u64::from(data.word()) * 20)),
        1 => set(lab, id, data),
        // Version 2 and version 3, from a router or not.
        2 => {
            let source = Ipv4Addr::new(10, 0, 0, data.byte() & 1);
            let source = if source.octets()[3] == 0 { Ipv4Addr::UNSPECIFIED } else { source };
            let named = if data.flag() { group_v4(data) } else { Ipv4Addr::UNSPECIFIED };
            let mut body = vec![0x11, data.byte(), 0, 0];
            body.extend(named.octets());
            body.extend(data.piece());
            let to = if named.is_unspecified() { Ipv4Addr::new(224, 0, 0, 1) } else { named };
            send(lab, id, &tagged(tags, &igmp(source, to, &body, is_spoilt)));
        }
        3 => {
            let (kind, named) = (data.pick(&[0x12, 0x16, 0x17]), group_v4(data));
            let body = [&[kind, 0, 0, 0], &named.octets()[..]].concat();
            send(lab, id, &tagged(tags, &igmp(Ipv4Addr::new(10, 0, 0, 2), named, &body, is_spoilt)));
        }
        4 => {
            let body = [&[0x22, 0, 0, 0, 0, 0, 0, data.byte()], data.piece()].concat();
            send(lab, id, &tagged(tags, &igmp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 22), &body, is_spoilt)));
        }
        5 => {
            let to = group_v4(data);
            send(lab, id, &tagged(tags, &igmp(Ipv4Addr::new(10, 0, 0, 2), to, data.piece(), is_spoilt)));
        }
        6 => {
            let kind = data.pick(&[130, 131, 132, 143]);
            let to = group_v6(data);
            let mut body = vec![kind, 0, 0, 0, data.byte(), data.byte(), 0, data.byte()];
            if kind != 143 {
                let named = if data.flag() { to } else { Ipv6Addr::UNSPECIFIED };
                body.extend(named.octets());
            }
            body.extend(data.piece());
            send(lab, id, &tagged(tags, &mld(to, &body, is_spoilt)));
        }
        7 => {
            let to = group_v6(data);
            send(lab, id, &tagged(tags, &mld(to, data.piece(), is_spoilt)));
        }
        8 => {
            let body = [&[0x20, 0, 0, 0], data.piece()].concat();
            let pim = ipv4(Ipv4Addr::new(10, 0, 0, 3), Ipv4Addr::new(224, 0, 0, 13), PROTOCOL_PIM, &body, is_spoilt);
            send(lab, id, &tagged(tags, &pim));
        }
        9 => {
            let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 13);
            let body = [&[0x20, 0, 0, 0], data.piece()].concat();
            send(lab, id, &tagged(tags, &ipv6(to, PROTOCOL_PIM, &[], &body, is_spoilt)));
        }
        10 | 11 => send_data(lab, id, tags, group_v4(data).into()),
        12 => send_data(lab, id, tags, group_v6(data).into()),
        // An IP packet of any bytes, to the address that it gives.
        13 => {
            let packet = data.piece();
            let group = packet.get(16..).and_then(|octets| octets.first_chunk::<4>());
            let group = group.copied().map_or(Ipv4Addr::new(224, 0, 0, 1), Ipv4Addr::from);
            send(lab, id, &tagged(tags, &(group.into(), [&[0x08, 0], packet].concat())));
        }
        14 => {
            let packet = data.piece();
            let group = packet.get(24..).and_then(|octets| octets.first_chunk::<16>());
            let group = group.copied().map_or(Ipv6Addr::LOCALHOST, Ipv6Addr::from);
            send(lab, id, &tagged(tags, &(group.into(), [&[0x86, 0xdd], packet].concat())));
        }
        _ => {
            let (first, count) = (data.word(), data.word());
            // Few reports are long, for they take their time.
            let count = if step == 15 { count % MAX_GROUPS } else { count % 32 }.min(*groups_left);
            *groups_left -= count;
            let mut body = vec![0x22, 0, 0, 0, 0, 0];
            body.extend(count.to_be_bytes());
            for number in 0..count {
                let [high, low] = first.wrapping_add(number).to_be_bytes();
                body.extend([4, 0, 0, 0, 239, 1, high, low]);
            }
            send(lab, id, &tagged(tags, &igmp(Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(224, 0, 0, 22), &body, false)));
        }
    }
}

/// Changes a setting.
fn set(lab: &mut Lab, id: PortId, data: &mut Data<'_>) {
    let bridge = &mut lab.bridge;
    // What a setter refuses changes nothing.
    let _ = match data.byte() % 9 {
        0 => bridge.set_untagged(id, Some(data.pick(&[vlan(0), vlan(5), vlan(6)]))),
        1 => bridge.add_tagged(data.pick(&[vlan(5), vlan(6)]), id),
        2 => bridge.set_transparent(id),
        other => {
            match other {
                3 => bridge.set_snooping(data.byte() & 7 != 0),
                4 => bridge.set_flood_unregistered(data.flag()),
                5 => bridge.flush(id),
                6 => bridge.set_connected(id, data.flag()),
                7 => bridge.remove_port(id),
                _ => bridge.add_port(id),
            }
            Ok(())
        }
    };
}

/// What holds of the table at any time.
fn check_listeners(lab: &Lab) {
    let bridge = &lab.bridge;
    let mut count = 0;
    for listener in bridge.listeners(lab.now) {
        count += 1;
        assert!(bridge.port_settings(listener.port).is_some_and(|settings| settings.connected), "{listener:?}");
        assert!(listener.group.is_none_or(|group| group.is_multicast()), "{listener:?}");
    }
    assert!(count <= CAPACITY, "{count} listeners");
    assert!(count == 0 || bridge.is_snooping());
}

/// A message: whom it is for, and its bytes from the EtherType on.
type Packet = (IpAddr, Vec<u8>);

fn send(lab: &mut Lab, ingress: PortId, frame: &[u8]) {
    let mut out = Vec::new();
    let verdict = lab.bridge.forward(ingress, frame, lab.now, &mut out);
    lab.check(ingress, frame, verdict, &out);
}

/// Data goes where it is explained to go: to listeners and routers, unless it floods.
fn send_data(lab: &mut Lab, ingress: PortId, tags: u8, group: IpAddr) {
    let (bridge, now) = (&lab.bridge, lab.now);
    // One tag at most: the explanation knows no others.
    let tags = tags & 3;
    let packet = match group {
        IpAddr::V4(group) => ipv4(Ipv4Addr::new(10, 0, 0, 4), group, PROTOCOL_UDP, &[0; 8], false),
        IpAddr::V6(group) => ipv6(group, PROTOCOL_UDP, &[], &[0; 8], false),
    };
    let frame = tagged(tags, &packet);
    let vlan = VlanId::new(OUTER[usize::from(tags)]).filter(|vlan| *vlan != VlanId::UNTAGGED);
    let question = Question { ingress: Some(ingress), vlan, ..Question::to_group(station(1), group) };
    let said = bridge.explain(&question, now);
    if let (Some(vlan), true) = (said.vlan, said.steps.iter().any(|step| matches!(step, Step::GroupReaches(_)))) {
        let listens = |port| {
            let mut there = bridge.listeners(now).filter(|listener| listener.vlan == vlan && listener.port == port);
            there.any(|listener| listener.group.is_none_or(|other| other == group))
        };
        assert!(said.egress.iter().all(|egress| listens(egress.port)), "{said}");
    }
    let mut out = Vec::new();
    let verdict = lab.bridge.forward(ingress, &frame, now, &mut out);
    assert_eq!((said.verdict, said.egress), (Some(verdict), out.clone()), "{question:?}");
    lab.check(ingress, &frame, verdict, &out);
    assert_ne!(verdict, Verdict::Bpdu);
}

/// The VLAN of a frame's first tag, by the low bits of a choice; 0 for no tag.
const OUTER: [u16; 4] = [0, 0, 5, 6];

/// A frame with up to three tags.
fn tagged(tags: u8, (group, packet): &Packet) -> Vec<u8> {
    let MacAddr(destination) = Question::to_group(station(1), *group).destination;
    let mut frame = [destination, station(1).0].concat();
    let outer = OUTER[usize::from(tags & 3)];
    if outer != 0 {
        frame.extend([0x81, 0]);
        frame.extend(outer.to_be_bytes());
    }
    for (bit, tag) in [(4, [0x81, 0, 0, 9]), (8, [0x88, 0xa8, 0, 7])] {
        if tags & bit != 0 {
            frame.extend(tag);
        }
    }
    frame.extend(packet);
    frame
}

fn igmp(source: Ipv4Addr, group: Ipv4Addr, body: &[u8], is_spoilt: bool) -> Packet {
    let mut body = body.to_vec();
    write_checksum(&mut body, 2, 0, is_spoilt);
    ipv4(source, group, PROTOCOL_IGMP, &body, false)
}

/// A packet with a router alert; PIM's checksum is filled in.
fn ipv4(source: Ipv4Addr, group: Ipv4Addr, protocol: u8, body: &[u8], is_spoilt: bool) -> Packet {
    let mut body = body.to_vec();
    if protocol == PROTOCOL_PIM {
        write_checksum(&mut body, 2, 0, is_spoilt);
    }
    let mut header = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 1, protocol, 0, 0];
    header.extend(source.octets());
    header.extend(group.octets());
    header.extend(ROUTER_ALERT_V4);
    let len = u16::try_from(header.len() + body.len()).expect("the longest report fits");
    header[2..4].copy_from_slice(&len.to_be_bytes());
    write_checksum(&mut header, 10, 0, false);
    (group.into(), [&[0x08, 0], &header[..], &body].concat())
}

fn mld(group: Ipv6Addr, body: &[u8], is_spoilt: bool) -> Packet {
    let options = [&[PROTOCOL_ICMPV6, 0], &ROUTER_ALERT_V6[..]].concat();
    ipv6(group, PROTOCOL_ICMPV6, &options, body, is_spoilt)
}

/// A packet whose body, behind hop-by-hop options if there are any, has its checksum in octets 2 and 3.
fn ipv6(group: Ipv6Addr, protocol: u8, options: &[u8], body: &[u8], is_spoilt: bool) -> Packet {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let mut body = body.to_vec();
    let addresses = [source.octets(), group.octets()].concat();
    let pseudo = sum(&addresses) + body.len() as u32 + u32::from(protocol);
    write_checksum(&mut body, 2, pseudo, is_spoilt);
    let len = u16::try_from(options.len() + body.len()).expect("a piece has at most 255 bytes");
    let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([if options.is_empty() { protocol } else { 0 }, 1]);
    packet.extend(addresses);
    packet.extend(options);
    packet.extend(body);
    (group.into(), packet)
}

/// The Internet checksum (RFC 1071) of the bytes and of a pseudo-header, or a wrong one.
fn write_checksum(bytes: &mut [u8], at: usize, pseudo: u32, is_spoilt: bool) {
    let Some(place) = bytes.get_mut(at..at + 2) else { return };
    place.fill(0);
    let mut sum = pseudo + sum(bytes);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = !(sum as u16) ^ u16::from(is_spoilt);
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn group_v4(data: &mut Data<'_>) -> Ipv4Addr {
    match data.byte() {
        byte @ ..250 => Ipv4Addr::new(239, 1, 0, byte & 7),
        250..253 => Ipv4Addr::new(224, 0, 0, data.byte()),
        _ => Ipv4Addr::from(u32::from(data.word()) << 16 | u32::from(data.word())),
    }
}

fn group_v6(data: &mut Data<'_>) -> Ipv6Addr {
    let byte = data.byte();
    let scope = [0xff05, 0xff05, 0xff02, 0xff01][usize::from(byte >> 6)];
    Ipv6Addr::new(scope, 0, 0, 0, 0, 0, 0, u16::from(byte & 15))
}
