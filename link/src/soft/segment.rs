//! Cutting one long frame into the frames that go over a wire, and filling in the checksums that were left partial.
//!
//! TCP over IPv4 and IPv6, and UDP where each segment is a datagram of its own (virtio 1.2 §5.1.6.2), behind up to two
//! VLAN tags (802.1Q §9.3). Formats: IPv4 RFC 791 §3.1, IPv6 RFC 8200 §3 and §4, TCP RFC 9293 §3.1, UDP RFC 768.
//!
//! Invariant: works on a private copy of the frame, and [`Segments::new`] has held every offset and length against that
//! copy; what the frame's own bytes contradict is [`DropReason::BadOffload`]. Neighbours: `checksum` adds, the parent
//! copies frames in and sends segments out.

use std::ops::Range;

use super::checksum::Sum;
use crate::{Checksum, DropReason, GsoType, VnetHeader};

/// The most segments one frame is cut into: 65,535 bytes at 32 apiece, below the 48 that Linux gives a TCP at least.
const MAX_SEGMENTS: usize = 2048;
/// The most bytes of headers that are repeated in every segment.
const MAX_HEADERS: usize = 512;
/// The most IPv6 extension headers that are skipped.
const MAX_EXTENSIONS: usize = 8;
const MAX_VLAN_TAGS: usize = 2;

const TPID_CUSTOMER: u16 = 0x8100;
const TPID_SERVICE: u16 = 0x88a8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;
const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
const IPV6_DESTINATION: u8 = 60;

pub(super) const IPV4_MIN: usize = 20;
pub(super) const IPV4_TOTAL_LENGTH: usize = 2;
pub(super) const IPV4_ID: usize = 4;
pub(super) const IPV4_FRAGMENT: usize = 6;
const IPV4_PROTOCOL: usize = 9;
pub(super) const IPV4_CHECKSUM: usize = 10;
const IPV4_ADDRESSES: Range<usize> = 12..20;

pub(super) const IPV6_LEN: usize = 40;
pub(super) const IPV6_PAYLOAD_LENGTH: usize = 4;
const IPV6_NEXT_HEADER: usize = 6;
const IPV6_SEGMENTS_LEFT: usize = 3;
const IPV6_ADDRESSES: Range<usize> = 8..40;

const TCP_MIN: usize = 20;
const TCP_SEQUENCE: usize = 4;
const TCP_DATA_OFFSET: usize = 12;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;

pub(super) const UDP_LEN: usize = 8;
pub(super) const UDP_LENGTH: usize = 4;
pub(super) const UDP_CHECKSUM: usize = 6;

/// Fills in a checksum that was left partial: the sum from `start` to the end of the frame goes to `start + offset`.
///
/// # Errors
/// [`DropReason::BadOffload`]: the field lies outside the frame; [`DropReason::Runt`]: there is no Ethernet header. The
/// frame is then unchanged.
pub fn finish_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), DropReason> {
    VnetHeader { checksum: Checksum::Partial { start, offset }, ..VnetHeader::WHOLE }.check(frame.len())?;
    let (start, offset) = (usize::from(start), usize::from(offset));
    let covered = &mut frame[start..];
    let mut sum = Sum::default();
    sum.add(covered);
    // Only for UDP does a zero mean something else than 0xffff; its field alone lies at 6.
    let checksum = if offset == UDP_CHECKSUM { sum.finish_nonzero() } else { sum.finish() };
    covered[offset..offset + 2].copy_from_slice(&checksum);
    Ok(())
}

/// Cuts a frame that still needs segmentation and hands out its segments in order, each as headers and payload: together
/// a frame with nothing left to do. Returns how many there were.
///
/// # Errors
/// [`DropReason::BadOffload`], [`DropReason::Runt`]: the header does not fit the frame. Nothing has been handed out then.
pub fn segment(header: &VnetHeader, frame: &[u8], mut emit: impl FnMut(&[u8], &[u8])) -> Result<usize, DropReason> {
    let segments = Segments::new(header, frame)?;
    let mut headers = Vec::new();
    for index in 0..segments.count() {
        headers.clear();
        segments.append_headers(index, &mut headers);
        emit(&headers, &frame[segments.payload(index)]);
    }
    Ok(segments.count())
}

/// A frame to be cut, its headers understood and found consistent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segments<'f> {
    frame: &'f [u8],
    network: Network,
    transport: Transport,
    /// Where the network, the transport header and the payload begin.
    network_at: usize,
    transport_at: usize,
    payload_at: usize,
    gso_size: usize,
    /// The sum of addresses and protocol: the pseudo-header without the length.
    pseudo: Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
}

impl<'f> Segments<'f> {
    /// Holds the header against the frame's bytes, which must not change any more.
    pub(super) fn new(header: &VnetHeader, frame: &'f [u8]) -> Result<Self, DropReason> {
        header.check(frame.len())?;
        Self::parse(header, frame).ok_or(DropReason::BadOffload)
    }

    fn parse(header: &VnetHeader, frame: &'f [u8]) -> Option<Self> {
        let (network, network_at) = find_network(frame)?;
        let packet = &frame[network_at..];
        let (protocol, network_len) = match network {
            Network::V4 => parse_ipv4(packet)?,
            Network::V6 => parse_ipv6(packet)?,
        };
        let transport = match (header.gso_type, network, protocol) {
            (GsoType::TcpV4, Network::V4, PROTOCOL_TCP) | (GsoType::TcpV6, Network::V6, PROTOCOL_TCP) => Transport::Tcp,
            (GsoType::Udp, _, PROTOCOL_UDP) => Transport::Udp,
            _ => return None,
        };
        let transport_len = match transport {
            Transport::Tcp => parse_tcp(&packet[network_len..])?,
            Transport::Udp => parse_udp(&packet[network_len..])?,
        };
        let transport_at = network_at + network_len;
        let segments = Self {
            frame,
            network,
            transport,
            network_at,
            transport_at,
            payload_at: transport_at + transport_len,
            gso_size: usize::from(header.gso_size),
            pseudo: pseudo_sum(packet, network, protocol)?,
        };
        segments.agrees_with(header.checksum).then_some(segments)
    }

    /// The checksum to be finished is the transport's, and the cut leaves a sane number of segments.
    fn agrees_with(&self, checksum: Checksum) -> bool {
        let Checksum::Partial { start, offset } = checksum else { return false };
        usize::from(start) == self.transport_at
            && usize::from(offset) == self.transport.checksum_at()
            && self.gso_size != 0
            && self.payload_at <= MAX_HEADERS
            && self.count() <= MAX_SEGMENTS
    }

    /// How many segments the frame makes: at least one.
    pub(super) fn count(&self) -> usize {
        (self.frame.len() - self.payload_at).div_ceil(self.gso_size).max(1)
    }

    /// Where in the frame the payload of segment `index` lies.
    pub(super) fn payload(&self, index: usize) -> Range<usize> {
        let start = self.payload_at + index * self.gso_size;
        start..self.frame.len().min(start + self.gso_size)
    }

    /// Appends all headers of segment `index`, from the destination address on, checksums filled in.
    pub(super) fn append_headers(&self, index: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.frame[..self.payload_at]);
        let payload = &self.frame[self.payload(index)];
        let (link_and_network, transport) = out[start..].split_at_mut(self.transport_at);
        self.patch_network(&mut link_and_network[self.network_at..], index, transport.len() + payload.len());
        match self.transport {
            Transport::Tcp => self.patch_tcp(transport, index),
            Transport::Udp => put_u16(transport, UDP_LENGTH, transport.len() + payload.len()),
        }
        self.patch_checksum(transport, payload);
    }

    fn patch_network(&self, packet: &mut [u8], index: usize, transport_len: usize) {
        let len = packet.len() + transport_len;
        match self.network {
            Network::V6 => put_u16(packet, IPV6_PAYLOAD_LENGTH, len - IPV6_LEN),
            Network::V4 => {
                let id = u16::from_be_bytes([packet[IPV4_ID], packet[IPV4_ID + 1]]);
                put_u16(packet, IPV4_TOTAL_LENGTH, len);
                put_u16(packet, IPV4_ID, usize::from(id).wrapping_add(index));
                put_u16(packet, IPV4_CHECKSUM, 0);
                let mut sum = Sum::default();
                sum.add(packet);
                packet[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&sum.finish());
            }
        }
    }

    /// Sequence number and flags: FIN and PSH close the last segment, CWR opens the first (RFC 3168 §6.1.2).
    #[allow(clippy::cast_possible_truncation, reason = "a frame is shorter than 64 KiB and a bit")]
    fn patch_tcp(&self, tcp: &mut [u8], index: usize) {
        let field = &mut tcp[TCP_SEQUENCE..TCP_SEQUENCE + 4];
        let sequence = field.iter().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
        field.copy_from_slice(&sequence.wrapping_add((index * self.gso_size) as u32).to_be_bytes());
        if index + 1 < self.count() {
            tcp[TCP_FLAGS] &= !TCP_FIN_PSH;
        }
        if index > 0 {
            tcp[TCP_FLAGS] &= !TCP_CWR;
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "a segment is shorter than its frame, whose length fits")]
    fn patch_checksum(&self, transport: &mut [u8], payload: &[u8]) {
        let at = self.transport.checksum_at();
        put_u16(transport, at, 0);
        let mut sum = self.pseudo;
        sum.add_u16((transport.len() + payload.len()) as u16);
        sum.add(transport);
        sum.add(payload);
        let checksum = match self.transport {
            Transport::Tcp => sum.finish(),
            Transport::Udp => sum.finish_nonzero(),
        };
        transport[at..at + 2].copy_from_slice(&checksum);
    }
}

impl Transport {
    fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => TCP_CHECKSUM,
            Self::Udp => UDP_CHECKSUM,
        }
    }
}

/// Skips the Ethernet header and its tags.
pub(super) fn find_network(frame: &[u8]) -> Option<(Network, usize)> {
    let mut at = crate::ETHERNET_HEADER_LEN - 2;
    for _ in 0..=MAX_VLAN_TAGS {
        let ethertype = get_u16(frame, at)?;
        match ethertype {
            ETHERTYPE_IPV4 => return Some((Network::V4, at + 2)),
            ETHERTYPE_IPV6 => return Some((Network::V6, at + 2)),
            TPID_CUSTOMER | TPID_SERVICE => at += 4,
            _ => return None,
        }
    }
    None
}

/// Protocol and header length of an unfragmented packet that fills the frame.
pub(super) fn parse_ipv4(packet: &[u8]) -> Option<(u8, usize)> {
    let header = packet.get(..IPV4_MIN)?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(get_u16(header, IPV4_TOTAL_LENGTH)?);
    let more_or_offset = get_u16(header, IPV4_FRAGMENT)? & 0x3fff;
    let sound = header[0] >> 4 == 4 && len >= IPV4_MIN && len <= total && total == packet.len() && more_or_offset == 0;
    sound.then_some((header[IPV4_PROTOCOL], len))
}

/// Protocol and length of all headers of an unfragmented packet that fills the frame.
pub(super) fn parse_ipv6(packet: &[u8]) -> Option<(u8, usize)> {
    let header = packet.get(..IPV6_LEN)?;
    let payload = usize::from(get_u16(header, IPV6_PAYLOAD_LENGTH)?);
    if header[0] >> 4 != 6 || payload != packet.len() - IPV6_LEN {
        return None;
    }
    let (mut next, mut at) = (header[IPV6_NEXT_HEADER], IPV6_LEN);
    for _ in 0..=MAX_EXTENSIONS {
        match next {
            // On the way to a waypoint the pseudo-header's destination is not the packet's (RFC 8200 §8.1).
            IPV6_ROUTING if *packet.get(at + IPV6_SEGMENTS_LEFT)? != 0 => return None,
            IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_DESTINATION => {
                let [following, units] = *packet.get(at..)?.first_chunk()?;
                next = following;
                at += (usize::from(units) + 1) * 8;
            }
            _ => return (at <= packet.len()).then_some((next, at)),
        }
    }
    None
}

/// Length of a TCP header.
fn parse_tcp(segment: &[u8]) -> Option<usize> {
    let len = usize::from(segment.get(TCP_DATA_OFFSET)? >> 4) * 4;
    (len >= TCP_MIN && len <= segment.len()).then_some(len)
}

/// Length of a UDP header whose datagram fills the packet.
pub(super) fn parse_udp(datagram: &[u8]) -> Option<usize> {
    let len = usize::from(get_u16(datagram, UDP_LENGTH)?);
    (len >= UDP_LEN && len == datagram.len()).then_some(UDP_LEN)
}

/// The pseudo-header of RFC 9293 §3.1 and RFC 8200 §8.1, but for the length.
pub(super) fn pseudo_sum(packet: &[u8], network: Network, protocol: u8) -> Option<Sum> {
    let mut sum = Sum::default();
    sum.add(packet.get(match network {
        Network::V4 => IPV4_ADDRESSES,
        Network::V6 => IPV6_ADDRESSES,
    })?);
    sum.add_u16(u16::from(protocol));
    Some(sum)
}

pub(super) fn get_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Stores the low sixteen bits of a number, inside headers that have been parsed.
#[allow(clippy::cast_possible_truncation, reason = "lengths fit, identifications wrap")]
pub(super) fn put_u16(bytes: &mut [u8], at: usize, number: usize) {
    bytes[at..at + 2].copy_from_slice(&(number as u16).to_be_bytes());
}

#[cfg(test)]
#[path = "segment_test.rs"]
mod tests;
