//! What a frame to a group says: IGMP (RFC 1112 appendix I, RFC 2236 §2, RFC 3376 §4), MLD (RFC 2710 §3, RFC 3810 §5),
//! PIM hellos (RFC 7761 §4.9.2), or data.
//!
//! Nothing from the frame is believed before its length and checksum are: a message that fails is
//! [`Message::Malformed`]. A frame whose addresses contradict each other, on Ethernet and in IP, is [`Message::Other`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Segment;
use crate::bridge::clock::Tick;
use crate::bridge::vlan::Admission;

/// Query response interval, where a query does not give it (RFC 3376 §8.3).
pub(super) const RESPONSE: Tick = 10_000;
/// PIM's default hold time (RFC 7761 §4.11).
const PIM_HOLD: Tick = 105_000;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_CTAG: u16 = 0x8100;
const ETHERTYPE_STAG: u16 = 0x88a8;
const PROTOCOL_IGMP: u8 = 2;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_PIM: u8 = 103;
const ALL_PIM_ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 13);
const ALL_PIM_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 13);

/// An Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bridge) enum Family {
    V4,
    V6,
}

/// A frame to a group, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct Packet {
    pub(in crate::bridge) segment: Segment,
    pub(in crate::bridge) message: Message,
}

impl Packet {
    /// Data to a group, if one is named, and otherwise something that is not IP.
    pub(in crate::bridge) fn data(frame: Admission, group: Option<IpAddr>) -> Self {
        let family = if group.is_some_and(|group| group.is_ipv6()) { Family::V6 } else { Family::V4 };
        let message = group.filter(IpAddr::is_multicast).map_or(Message::Other, Message::Data);
        Self { segment: Segment::new(frame, [0; 2], family), message }
    }
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) enum Message {
    /// Who listens?
    Query(Query),
    /// Somebody listens to these groups.
    Report(Vec<IpAddr>),
    /// Somebody no longer listens.
    Leave,
    /// A router is there, for so many ticks.
    Hello { group: IpAddr, hold: Tick },
    /// Data to this group.
    Data(IpAddr),
    /// A message that is none.
    Malformed,
    /// Not IP, or not to a group.
    Other,
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct Query {
    /// The group asked for; none for all.
    pub(super) group: Option<IpAddr>,
    /// Within this time listeners answer.
    pub(super) response: Tick,
    /// The querier's robustness, if it says.
    pub(super) robustness: Option<u64>,
    /// The querier's interval, if it says.
    pub(super) interval: Option<Tick>,
    /// Whether it comes from a router, and not from a switch without an address (RFC 4541 §2.1.1).
    pub(super) has_source_address: bool,
    /// Whether who does not answer is no member any more.
    pub(super) shortens: bool,
}

/// Reads a frame with a group's address, let in as `admission`.
pub(in crate::bridge) fn parse(frame: &[u8], admission: Admission) -> Packet {
    let (family, inner, message) = read(frame, admission).unwrap_or((Family::V4, [0; 2], Message::Other));
    Packet { segment: Segment::new(admission, inner, family), message }
}

fn read(frame: &[u8], admission: Admission) -> Option<(Family, [u16; 2], Message)> {
    let mut rest = frame.get(12..)?;
    let mut inner = [0; 2];
    // The bridge's own tag is the segment's VLAN; what is left of two tags tells segments within it apart.
    let tags = if admission.tci.is_some() {
        rest = rest.get(4..)?;
        &mut inner[..1]
    } else {
        &mut inner[..]
    };
    for tag in tags {
        if !matches!(be16(rest, 0)?, ETHERTYPE_CTAG | ETHERTYPE_STAG) {
            break;
        }
        *tag = (be16(rest, 2)? & 0x0fff) + 1;
        rest = rest.get(4..)?;
    }
    let (kind, packet) = (be16(rest, 0)?, rest.get(2..)?);
    let address = frame.first_chunk::<6>()?;
    match kind {
        ETHERTYPE_IPV4 => Some((Family::V4, inner, read_ipv4(packet, address)?)),
        ETHERTYPE_IPV6 => Some((Family::V6, inner, read_ipv6(packet, address)?)),
        _ => None,
    }
}

/// None where the packet is not one to the group that the frame's address stands for (RFC 1112 §6.4).
fn read_ipv4(packet: &[u8], address: &[u8; 6]) -> Option<Message> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let (source, group) = (Ipv4Addr::from(*packet[12..].first_chunk()?), Ipv4Addr::from(*packet[16..].first_chunk()?));
    let [_, b, c, d] = group.octets();
    if header[0] >> 4 != 4 || header_len < 20 || !group.is_multicast() || *address != [0x01, 0, 0x5e, b & 0x7f, c, d] {
        return None;
    }
    let protocol = header[9];
    if protocol != PROTOCOL_IGMP && !(protocol == PROTOCOL_PIM && group == ALL_PIM_ROUTERS_V4) {
        return Some(Message::Data(group.into()));
    }
    let body = (|| {
        let total_len = usize::from(be16(packet, 2)?);
        let is_fragment = be16(packet, 6)? & 0x3fff != 0;
        let is_sound = sum(packet.get(..header_len)?) == 0xffff && !is_fragment;
        packet.get(header_len..total_len).filter(|body| is_sound && sum(body) == 0xffff)
    })();
    let Some(body) = body else { return Some(Message::Malformed) };
    Some(if protocol == PROTOCOL_PIM { read_pim(body, group.into()) } else { read_igmp(body, source, group) })
}

fn read_igmp(body: &[u8], source: Ipv4Addr, group: Ipv4Addr) -> Message {
    let Some(&[kind, code, _, _, a, b, c, d]) = body.first_chunk::<8>() else { return Message::Malformed };
    let named = Ipv4Addr::new(a, b, c, d);
    match kind {
        0x11 => read_igmp_query(body, code, named, source).unwrap_or(Message::Malformed),
        0x12 | 0x16 if named.is_multicast() => Message::Report(vec![named.into()]),
        0x17 if named.is_multicast() => Message::Leave,
        0x22 => read_records(body, 4, |octets| {
            octets.first_chunk().map(|octets| Ipv4Addr::from(*octets).into()).filter(IpAddr::is_multicast)
        }),
        0x12 | 0x16 | 0x17 => Message::Malformed,
        _ => Message::Data(group.into()),
    }
}

fn read_igmp_query(body: &[u8], code: u8, named: Ipv4Addr, source: Ipv4Addr) -> Option<Message> {
    if !(named.is_unspecified() || named.is_multicast()) {
        return None;
    }
    let mut query = Query {
        group: (!named.is_unspecified()).then_some(named.into()),
        // Tenths of a second; 0 is version 1, which has a constant.
        response: if code == 0 { RESPONSE } else { u64::from(code) * 100 },
        robustness: None,
        interval: None,
        has_source_address: !source.is_unspecified(),
        shortens: true,
    };
    if body.len() > 8 {
        query.response = if code == 0 { 100 } else { expand(code) * 100 };
        read_querier(&mut query, body.get(8..)?, 4)?;
    }
    Some(Message::Query(query))
}

/// The part that version 3 of IGMP and version 2 of MLD have in common (RFC 3376 §4.1.5 to §4.1.9).
fn read_querier(query: &mut Query, fields: &[u8], address_len: usize) -> Option<()> {
    let &[flags, interval, high, low] = fields.first_chunk::<4>()?;
    let sources = usize::from(u16::from_be_bytes([high, low]));
    fields.get(4..4 + sources * address_len)?;
    query.robustness = Some(u64::from(flags & 7)).filter(|robustness| *robustness != 0);
    query.interval = Some(expand(interval) * 1000).filter(|interval| *interval != 0);
    query.shortens = flags & 8 == 0 && sources == 0;
    Some(())
}

/// The groups that somebody listens to, of a report with records (RFC 3376 §4.2, RFC 3810 §5.2).
fn read_records(body: &[u8], address_len: usize, group: impl Fn(&[u8]) -> Option<IpAddr>) -> Message {
    let read = || {
        let mut rest = body.get(8..)?;
        let mut groups = Vec::new();
        for _ in 0..be16(body, 6)? {
            let &[kind, auxiliary, high, low] = rest.first_chunk::<4>()?;
            let sources = usize::from(u16::from_be_bytes([high, low]));
            let named = group(rest.get(4..4 + address_len)?)?;
            rest = rest.get(4 + address_len * (1 + sources) + usize::from(auxiliary) * 4..)?;
            // Include or allow: sources are listed; exclude: all but those listed (RFC 3376 §4.2.12).
            let listens = match kind {
                1 | 3 | 5 => sources != 0,
                2 | 4 => true,
                _ => false,
            };
            if listens {
                groups.push(named);
            }
        }
        Some(groups)
    };
    read().map_or(Message::Malformed, Message::Report)
}

/// None where the packet is not one to the group that the frame's address stands for (RFC 2464 §7).
fn read_ipv6(packet: &[u8], address: &[u8; 6]) -> Option<Message> {
    let header = packet.first_chunk::<40>()?;
    let (source, group) = (Ipv6Addr::from(*packet[8..].first_chunk()?), Ipv6Addr::from(*packet[24..].first_chunk()?));
    let [.., a, b, c, d] = group.octets();
    if header[0] >> 4 != 6 || !group.is_multicast() || *address != [0x33, 0x33, a, b, c, d] {
        return None;
    }
    let payload = packet.get(40..40 + usize::from(be16(packet, 4)?));
    let body_of = |body: &[u8], protocol| {
        let pseudo = u32::from(sum(&header[8..])) + body.len() as u32 + u32::from(protocol);
        fold(pseudo + u32::from(sum(body))) == 0xffff
    };
    Some(match header[6] {
        // MLD stands behind a hop-by-hop header with a router alert (RFC 3810 §5), and nothing else is worth a look
        // there.
        0 => {
            let Some((next, body)) = payload.and_then(skip_hop_by_hop) else {
                return Some(if payload.is_none() { Message::Malformed } else { Message::Data(group.into()) });
            };
            let is_mld = next == PROTOCOL_ICMPV6 && matches!(body.first(), Some(130..=132 | 143));
            if !is_mld {
                Message::Data(group.into())
            } else if header[7] == 1 && body_of(body, PROTOCOL_ICMPV6) {
                read_mld(body, source).unwrap_or(Message::Malformed)
            } else {
                Message::Malformed
            }
        }
        PROTOCOL_PIM if group == ALL_PIM_ROUTERS_V6 => match payload {
            Some(body) if body_of(body, PROTOCOL_PIM) => read_pim(body, group.into()),
            _ => Message::Malformed,
        },
        _ => Message::Data(group.into()),
    })
}

/// The next header and what it heads, behind a hop-by-hop header that has a router alert for MLD (RFC 2711).
fn skip_hop_by_hop(payload: &[u8]) -> Option<(u8, &[u8])> {
    let len = 8 + usize::from(*payload.get(1)?) * 8;
    let (next, body) = (*payload.first()?, payload.get(len..)?);
    let mut options = payload.get(2..len)?;
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [5, 2, 0, 0, ..] => return Some((next, body)),
            [_, len, rest @ ..] => options = rest.get(usize::from(*len)..)?,
            _ => return None,
        }
    }
}

fn read_mld(body: &[u8], source: Ipv6Addr) -> Option<Message> {
    let is_link_local = source.segments()[0] & 0xffc0 == 0xfe80;
    // A host without an address yet may report, but not ask (RFC 3810 §5.1.14, §5.2.13).
    if !is_link_local && !source.is_unspecified() {
        return None;
    }
    let address = |octets: &[u8]| octets.first_chunk().map(|octets: &[u8; 16]| Ipv6Addr::from(*octets));
    let group = |octets: &[u8]| address(octets).map(IpAddr::from).filter(IpAddr::is_multicast);
    let kind = *body.first()?;
    if kind == 143 {
        return Some(read_records(body, 16, group));
    }
    let named = address(body.get(8..)?)?;
    match kind {
        131 => group(&named.octets()).map(|named| Message::Report(vec![named])),
        132 => group(&named.octets()).map(|_| Message::Leave),
        _ if is_link_local && (named.is_unspecified() || named.is_multicast()) => {
            let code = be16(body, 4)?;
            let mut query = Query {
                group: (!named.is_unspecified()).then_some(named.into()),
                response: u64::from(code),
                robustness: None,
                interval: None,
                has_source_address: true,
                shortens: true,
            };
            if body.len() > 24 {
                // RFC 3810 §5.1.3: from 32768 on, three bits of exponent and twelve of mantissa.
                if code & 0x8000 != 0 {
                    query.response = u64::from(code & 0x0fff | 0x1000) << ((code >> 12 & 7) + 3);
                }
                read_querier(&mut query, body.get(24..)?, 16)?;
            }
            Some(Message::Query(query))
        }
        _ => None,
    }
}

fn read_pim(body: &[u8], group: IpAddr) -> Message {
    // Version 2, type 0.
    if body.first() != Some(&0x20) {
        return Message::Data(group);
    }
    let read = || {
        let mut hold = PIM_HOLD;
        let mut options = body.get(4..)?;
        while !options.is_empty() {
            let (kind, len) = (be16(options, 0)?, usize::from(be16(options, 2)?));
            let value = options.get(4..4 + len)?;
            if kind == 1 && len == 2 {
                hold = u64::from(be16(value, 0)?) * 1000;
            }
            options = options.get(4 + len..)?;
        }
        Some(hold)
    };
    read().map_or(Message::Malformed, |hold| Message::Hello { group, hold })
}

/// An eight-bit code: from 128 on, three bits of exponent and four of mantissa (RFC 3376 §4.1.1).
fn expand(code: u8) -> u64 {
    if code < 128 { u64::from(code) } else { u64::from(code & 0x0f | 0x10) << ((code >> 4 & 7) + 3) }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
}

/// The Internet checksum's sum (RFC 1071): 0xffff where the checksum is right.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    // At most 32768 words of 16 bits: the sum fits.
    fold(words.sum()) as u16
}

fn fold(mut sum: u32) -> u32 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}
