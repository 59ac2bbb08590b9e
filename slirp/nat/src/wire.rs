//! Ethernet, IP of both versions and UDP on the wire: parsed once into types that cannot be wrong, emitted from plain
//! values; and the Internet checksum (RFC 1071).
//!
//! The bytes given to a parser here are a private copy: nobody changes them between check and use. Every parser bounds
//! its slices by lengths it has checked, and answers a bad packet with the reason it is dropped for.
//!
//! Behind the parser one type, [`Ip`], stands for both versions, so that the protocols above are written once.
//!
//! Formats: Ethernet II (IEEE 802.3 clause 3), IPv4 (RFC 791 §3.1), IPv6 and its extension headers (RFC 8200), UDP
//! (RFC 768).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use link::{DropReason, MacAddr};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = link::ETHERNET_HEADER_LEN;

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;

/// Bytes of an IPv6 header.
pub(crate) const IPV6: usize = 40;

/// Bytes of IPv6's fragment header (RFC 8200 §4.5).
pub(crate) const FRAGMENT: usize = 8;

/// Bytes of a UDP header.
pub(crate) const UDP: usize = 8;

/// EtherType of IPv4.
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;

/// EtherType of IPv6.
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// EtherType of ARP.
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;

/// IP protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
/// TCP.
pub(crate) const TCP: u8 = 6;
/// UDP.
pub(crate) const UDP_PROTOCOL: u8 = 17;
/// ICMPv6.
pub(crate) const ICMPV6: u8 = 58;
/// Nothing follows (RFC 8200 §4.7).
pub(crate) const NO_NEXT_HEADER: u8 = 59;

/// IPv6 extension headers (RFC 8200 §4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const DESTINATION: u8 = 60;

/// Extension headers that a packet may have: more than any sender uses.
const MAX_EXTENSIONS: usize = 8;

/// Codes of ICMPv6 "parameter problem" (RFC 4443 §3.4).
pub(crate) const ERRONEOUS_FIELD: u8 = 0;
/// A next header that nobody here knows.
pub(crate) const UNKNOWN_HEADER: u8 = 1;
/// An option that nobody here knows.
const UNKNOWN_OPTION: u8 = 2;

/// The hop limit of what the NAT itself sends (RFC 1700).
pub(crate) const TTL: u8 = 64;

/// The hop limit that says that a packet passed no router (RFC 4861 §11.2).
pub(crate) const ON_LINK: u8 = 255;

/// Reads a big-endian number; 0 behind the end, which no parser here reaches.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// Reads four bytes as an address; the unspecified one behind the end.
pub(crate) fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Ipv4Addr::new(a, b, c, d),
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

/// Reads sixteen bytes as an address; the unspecified one behind the end.
pub(crate) fn address6(bytes: &[u8], at: usize) -> Ipv6Addr {
    bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()).map_or(Ipv6Addr::UNSPECIFIED, |&a| a.into())
}

/// The Ethernet address of an IPv6 multicast address (RFC 2464 §7).
pub(crate) fn multicast_mac(address: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = address.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// An Ethernet header, and the payload behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ethernet<'a> {
    pub to: MacAddr,
    pub from: MacAddr,
    pub ethertype: u16,
    pub payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Self, DropReason> {
        let (header, payload) = frame.split_first_chunk::<ETHERNET>().ok_or(DropReason::Runt)?;
        let [t0, t1, t2, t3, t4, t5, f0, f1, f2, f3, f4, f5, e0, e1] = *header;
        Ok(Self {
            to: MacAddr([t0, t1, t2, t3, t4, t5]),
            from: MacAddr([f0, f1, f2, f3, f4, f5]),
            ethertype: u16::from_be_bytes([e0, e1]),
            payload,
        })
    }
}

/// Writes an Ethernet header into the first 14 bytes of `frame`.
pub(crate) fn put_ethernet(frame: &mut [u8], to: MacAddr, from: MacAddr, ethertype: u16) {
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame[12..ETHERNET].copy_from_slice(&ethertype.to_be_bytes());
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub ident: u32,
    /// Bytes of payload in front of this fragment, a multiple of 8.
    pub offset: usize,
    pub more: bool,
}

/// An IP packet whose lengths agree and whose header is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip<'a> {
    pub from: IpAddr,
    /// Of the same family.
    pub to: IpAddr,
    /// What the payload is.
    pub protocol: u8,
    /// Where in `bytes` the protocol's number is.
    pub protocol_at: usize,
    /// TTL, or hop limit.
    pub hop_limit: u8,
    /// Set if this is not the whole packet.
    pub fragment: Option<Fragment>,
    /// The whole packet, without what the frame has behind it.
    pub bytes: &'a [u8],
    pub payload: &'a [u8],
}

/// Why a packet is not taken, and whether its sender is to hear of it: the code of "parameter problem", and where in
/// the packet the problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub reason: DropReason,
    pub problem: Option<(u8, usize)>,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self { reason, problem: None }
    }
}

impl<'a> Ip<'a> {
    /// Parses a packet of either version.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes).map_err(Refusal::from),
            Some(6) => Self::parse_v6(bytes),
            _ => Err(DropReason::Malformed.into()),
        }
    }

    /// Parses and verifies (RFC 1122 §3.2.1.2). Options are skipped: a host that is no router obeys none of them.
    fn parse_v4(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; IPV4] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total_len = usize::from(be16(header, 2));
        if header_len < IPV4 || total_len < header_len {
            return Err(DropReason::Malformed);
        }
        let bytes = bytes.get(..total_len).ok_or(DropReason::Malformed)?;
        let (head, payload) = bytes.split_at(header_len);
        if fold(sum(head)) != 0xffff {
            return Err(DropReason::Malformed);
        }
        let field = be16(header, 6);
        let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
        let fragment = Fragment { ident: be16(header, 4).into(), offset, more };
        Ok(Self {
            from: address(header, 12).into(),
            to: address(header, 16).into(),
            protocol: header[9],
            protocol_at: 9,
            hop_limit: header[8],
            fragment: (more || offset != 0).then_some(fragment),
            bytes,
            payload,
        })
    }

    /// Parses a packet and the extension headers in front of its payload (RFC 8200 §4). A chain of more than
    /// [`MAX_EXTENSIONS`] is malformed.
    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let header: &[u8; IPV6] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
        let bytes = bytes.get(..IPV6 + usize::from(be16(header, 4))).ok_or(DropReason::Malformed)?;
        let mut ip = Self {
            from: address6(header, 8).into(),
            to: address6(header, 24).into(),
            protocol: header[6],
            protocol_at: 6,
            hop_limit: header[7],
            fragment: None,
            bytes,
            payload: &bytes[IPV6..],
        };
        for extension in 0..=MAX_EXTENSIONS {
            match ip.protocol {
                // Directly behind the IPv6 header, or nowhere (RFC 8200 §4.1).
                HOP_BY_HOP if extension > 0 => return Err(ip.problem(UNKNOWN_HEADER, ip.protocol_at)),
                HOP_BY_HOP | DESTINATION => ip.skip_options()?,
                ROUTING => ip.skip_routing()?,
                FRAGMENT_HEADER => {
                    ip.take_fragment()?;
                    if ip.fragment.is_some() {
                        return Ok(ip);
                    }
                }
                _ => return Ok(ip),
            }
        }
        Err(DropReason::Malformed.into())
    }

    fn problem(&self, code: u8, at: usize) -> Refusal {
        let reason = if code == ERRONEOUS_FIELD { DropReason::Malformed } else { DropReason::Unserved };
        Refusal { reason, problem: Some((code, at)) }
    }

    /// Where the payload begins.
    fn payload_at(&self) -> usize {
        self.bytes.len() - self.payload.len()
    }

    /// Takes the extension header at the payload's beginning off, and returns it.
    fn take_extension(&mut self, len: usize) -> Result<&'a [u8], DropReason> {
        let (header, rest) = self.payload.split_at_checked(len).ok_or(DropReason::Malformed)?;
        self.protocol_at = self.payload_at();
        self.protocol = *header.first().ok_or(DropReason::Malformed)?;
        self.payload = rest;
        Ok(header)
    }

    /// The length of the extension header at the payload's beginning, in its second byte.
    fn extension_len(&self) -> Result<usize, DropReason> {
        self.payload.get(1).map(|&len| (usize::from(len) + 1) * 8).ok_or(DropReason::Malformed)
    }

    /// Skips options that may be skipped; the two high bits of their type say so (RFC 8200 §4.2).
    fn skip_options(&mut self) -> Result<(), Refusal> {
        const PAD1: u8 = 0;
        let header = self.take_extension(self.extension_len()?)?;
        let mut rest = &header[2..];
        while let [kind, tail @ ..] = rest {
            if *kind == PAD1 {
                rest = tail;
                continue;
            }
            let (len, value) = tail.split_first().ok_or(DropReason::Malformed)?;
            let behind = value.get(usize::from(*len)..).ok_or(DropReason::Malformed)?;
            match kind >> 6 {
                0 => {}
                1 => return Err(DropReason::Unserved.into()),
                _ => return Err(self.problem(UNKNOWN_OPTION, self.payload_at() - rest.len())),
            }
            rest = behind;
        }
        Ok(())
    }

    /// Skips a routing header that has nothing left to route (RFC 8200 §4.4; RFC 5095 forbids to obey the others).
    fn skip_routing(&mut self) -> Result<(), Refusal> {
        let at = self.payload_at();
        let header = self.take_extension(self.extension_len()?)?;
        match header.get(3) {
            Some(0) => Ok(()),
            _ => Err(self.problem(ERRONEOUS_FIELD, at + 2)),
        }
    }

    /// Takes note of a fragment header. One that says that the packet is whole is skipped (RFC 6946 §4).
    fn take_fragment(&mut self) -> Result<(), DropReason> {
        let header = self.take_extension(FRAGMENT)?;
        let field = be16(header, 2);
        let (offset, more) = (usize::from(field & !7), field & 1 != 0);
        let ident = u32::from(be16(header, 4)) << 16 | u32::from(be16(header, 6));
        self.fragment = (more || offset != 0).then_some(Fragment { ident, offset, more });
        Ok(())
    }

    /// The packet as smoltcp is to see it: the payload directly behind the header. Borrowed, if it is so already.
    pub(crate) fn plain(&self) -> std::borrow::Cow<'a, [u8]> {
        if self.from.is_ipv4() || self.payload_at() == IPV6 {
            return self.bytes.into();
        }
        let header = IpHeader { hop_limit: self.hop_limit, ..IpHeader::whole(self.from, self.to, self.protocol, 0) };
        header.over(self.payload).into()
    }
}

/// The values of an IP header that the NAT emits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpHeader {
    pub from: IpAddr,
    /// Of the same family.
    pub to: IpAddr,
    pub protocol: u8,
    pub hop_limit: u8,
    pub fragment: Option<Fragment>,
    pub payload_len: usize,
}

impl IpHeader {
    pub(crate) fn whole(from: impl Into<IpAddr>, to: impl Into<IpAddr>, protocol: u8, payload_len: usize) -> Self {
        let (from, to) = (from.into(), to.into());
        debug_assert_eq!(from.is_ipv4(), to.is_ipv4());
        Self { from, to, protocol, hop_limit: TTL, fragment: None, payload_len }
    }

    /// Bytes of the header; with IPv6, of the fragment header as well.
    pub(crate) fn len(&self) -> usize {
        match self.from {
            IpAddr::V4(_) => IPV4,
            IpAddr::V6(_) => IPV6 + if self.fragment.is_some() { FRAGMENT } else { 0 },
        }
    }

    pub(crate) fn ethertype(&self) -> u16 {
        if self.from.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
    }

    /// Writes the header into the first [`IpHeader::len`] bytes of `packet`.
    pub(crate) fn put(&self, packet: &mut [u8]) {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.put_v4(&mut packet[..IPV4], from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.put_v6(&mut packet[..self.len()], from, to),
            _ => {}
        }
    }

    /// A packet of its own with this header and `payload`, whose length counts.
    pub(crate) fn over(self, payload: &[u8]) -> Vec<u8> {
        let header = Self { payload_len: payload.len(), ..self };
        let mut packet = vec![0; header.len()];
        header.put(&mut packet);
        packet.extend_from_slice(payload);
        packet
    }

    fn put_v4(&self, header: &mut [u8], from: Ipv4Addr, to: Ipv4Addr) {
        let total = u16::try_from(IPV4 + self.payload_len).unwrap_or(u16::MAX);
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        if let Some(Fragment { ident, offset, more }) = self.fragment {
            let offset = u16::try_from(offset / 8).unwrap_or(0);
            header[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
            header[6..8].copy_from_slice(&(offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        }
        header[8] = self.hop_limit;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&from.octets());
        header[16..20].copy_from_slice(&to.octets());
        let checksum = !fold(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn put_v6(&self, header: &mut [u8], from: Ipv6Addr, to: Ipv6Addr) {
        let len = u16::try_from(header.len() - IPV6 + self.payload_len).unwrap_or(u16::MAX);
        header.fill(0);
        header[0] = 0x60;
        header[4..6].copy_from_slice(&len.to_be_bytes());
        header[6] = self.protocol;
        header[7] = self.hop_limit;
        header[8..24].copy_from_slice(&from.octets());
        header[24..40].copy_from_slice(&to.octets());
        if let Some(Fragment { ident, offset, more }) = self.fragment {
            let offset = u16::try_from(offset).unwrap_or(0) & !7;
            header[6] = FRAGMENT_HEADER;
            header[40] = self.protocol;
            header[42..44].copy_from_slice(&(offset | u16::from(more)).to_be_bytes());
            header[44..48].copy_from_slice(&ident.to_be_bytes());
        }
    }
}

/// A UDP datagram whose length is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Udp<'a> {
    pub from_port: u16,
    pub to_port: u16,
    pub payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Parses the payload of `ip`; `verify` asks for the checksum to be held against it. Over IPv6 there must be one
    /// (RFC 8200 §8.1).
    pub(crate) fn parse(ip: &Ip<'a>, verify: bool) -> Result<Self, DropReason> {
        let header: &[u8; UDP] = ip.payload.first_chunk().ok_or(DropReason::Malformed)?;
        let len = usize::from(be16(header, 4));
        let datagram = ip.payload.get(..len).ok_or(DropReason::Malformed)?;
        let payload = datagram.get(UDP..).ok_or(DropReason::Malformed)?;
        let has_checksum = be16(header, 6) != 0 || ip.from.is_ipv6();
        if verify && has_checksum && transport_sum(ip.from, ip.to, UDP_PROTOCOL, datagram) != 0xffff {
            return Err(DropReason::Malformed);
        }
        Ok(Self { from_port: be16(header, 0), to_port: be16(header, 2), payload })
    }
}

/// Writes a UDP header with the checksum field 0 into the first 8 bytes of `datagram`.
pub(crate) fn put_udp(datagram: &mut [u8], from_port: u16, to_port: u16, payload_len: usize) {
    let len = u16::try_from(UDP + payload_len).unwrap_or(u16::MAX);
    datagram[..2].copy_from_slice(&from_port.to_be_bytes());
    datagram[2..4].copy_from_slice(&to_port.to_be_bytes());
    datagram[4..6].copy_from_slice(&len.to_be_bytes());
    datagram[6..8].fill(0);
}

/// Stores the checksum of a whole UDP datagram (RFC 768: 0 is sent as all ones).
pub(crate) fn fill_udp_checksum(from: impl Into<IpAddr>, to: impl Into<IpAddr>, datagram: &mut [u8]) {
    datagram[6..8].fill(0);
    let checksum = match !transport_sum(from, to, UDP_PROTOCOL, datagram) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// The folded sum of a segment with its pseudo-header: all ones if its checksum is right.
pub(crate) fn transport_sum(from: impl Into<IpAddr>, to: impl Into<IpAddr>, protocol: u8, segment: &[u8]) -> u16 {
    fold(pseudo_sum(from.into(), to.into(), protocol, segment.len()) + sum(segment))
}

/// The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1), to be folded.
pub(crate) fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    let octets = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    octets(from) + octets(to) + u64::from(protocol) + len as u64
}

/// The sum of 16-bit big-endian words, to be folded. An odd last byte counts as the high one of its word.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    // Summing in native order and 32 bits at a time gives the same result up to a byte swap (RFC 1071 §2(B)).
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut tail = [0; 4];
    tail[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(tail));
    u64::from(u16::from_be_bytes(fold(total).to_ne_bytes()))
}

/// Adds the carries in, until 16 bits are left.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Cannot be cut: the loop ended.
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|w| u64::from(w[0]) << 8 | u64::from(w.get(1).copied().unwrap_or(0)));
        fold(words.sum())
    }

    #[test]
    fn fast_sum_equals_the_definition_at_every_length() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * 37 + 11) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(fold(sum(&bytes[..len])), slow_sum(&bytes[..len]), "{len}");
        }
        assert_eq!(fold(sum(&[0xff; 65535])), slow_sum(&[0xff; 65535]));
    }

    #[test]
    fn emitted_datagram_is_what_etherparse_reads() {
        let v4: [IpAddr; 2] = [[10, 0, 2, 2].into(), [10, 0, 2, 15].into()];
        let v6: [IpAddr; 2] = ["fec0::2", "fec0::15"].map(|address| address.parse().unwrap());
        for [from, to] in [v4, v6] {
            let mut datagram = vec![0; UDP];
            datagram.extend(b"abc");
            put_udp(&mut datagram, 53, 4000, 3);
            fill_udp_checksum(from, to, &mut datagram);
            let packet = IpHeader::whole(from, to, UDP_PROTOCOL, 0).over(&datagram);
            let parsed = etherparse::PacketHeaders::from_ip_slice(&packet).unwrap();
            let udp = parsed.transport.unwrap().udp().unwrap();
            assert_eq!((udp.source_port, udp.destination_port), (53, 4000));
            let checksum = match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), b"abc"),
                (IpAddr::V6(from), IpAddr::V6(to)) => udp.calc_checksum_ipv6_raw(from.octets(), to.octets(), b"abc"),
                _ => unreachable!(),
            };
            assert_eq!(checksum.unwrap(), udp.checksum);
            let ip = Ip::parse(&packet).unwrap();
            assert_eq!((ip.from, ip.to, ip.hop_limit, ip.fragment), (from, to, TTL, None));
            assert_eq!(Udp::parse(&ip, true).unwrap().payload, b"abc");
            // RFC 8200 §8.1: over IPv6 the checksum is mandatory.
            datagram[6..8].fill(0);
            let packet = IpHeader::whole(from, to, UDP_PROTOCOL, 0).over(&datagram);
            assert_eq!(Udp::parse(&Ip::parse(&packet).unwrap(), true).is_ok(), from.is_ipv4());
        }
    }

    #[test]
    fn short_and_contradictory_packets_are_malformed() {
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let mut packet = IpHeader::whole(address, address, UDP_PROTOCOL, 0).over(&[0; UDP]);
            for len in 0..packet.len() {
                assert!(Ip::parse(&packet[..len]).is_err(), "{len}");
            }
            let at = Ip::parse(&packet).unwrap().payload_at();
            put_udp(&mut packet[at..], 1, 2, 1);
            assert!(Udp::parse(&Ip::parse(&packet).unwrap(), false).is_err());
            packet[0] ^= 0x11;
            assert!(Ip::parse(&packet).is_err());
        }
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [from, to] = ["fec0::15", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap());
        IpHeader::whole(from, to, protocol, 0).over(payload)
    }

    #[test]
    fn extension_headers_are_skipped_within_bounds() {
        let mut chain = Vec::new();
        chain.extend([DESTINATION, 0, 1, 4, 0, 0, 0, 0]);
        chain.extend([ROUTING, 1, 0x1e, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        chain.extend([FRAGMENT_HEADER, 0, 4, 0, 0, 0, 0, 0]);
        chain.extend([TCP, 0, 0, 0, 0, 0, 0, 9]);
        chain.extend(b"payload");
        let packet = v6(HOP_BY_HOP, &chain);
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!((ip.protocol, ip.payload, ip.fragment), (TCP, &b"payload"[..], None));
        assert_eq!(packet[ip.protocol_at], TCP);
        assert_eq!(*ip.plain(), v6(TCP, b"payload"));
        for len in 0..chain.len() - 7 {
            assert!(Ip::parse(&v6(HOP_BY_HOP, &chain[..len])).is_err(), "{len}");
        }
        // Without an end.
        let endless = [DESTINATION, 0, 1, 4, 0, 0, 0, 0].repeat(1000);
        assert_eq!(Ip::parse(&v6(DESTINATION, &endless)).unwrap_err(), DropReason::Malformed.into());
    }

    #[test]
    fn extension_headers_that_must_not_be_skipped_are_named() {
        let problem = |packet: &[u8]| Ip::parse(packet).unwrap_err().problem;
        let hop_by_hop_second = [[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0], [TCP, 0, 1, 4, 0, 0, 0, 0]].concat();
        assert_eq!(problem(&v6(DESTINATION, &hop_by_hop_second)), Some((UNKNOWN_HEADER, 40)));
        assert_eq!(problem(&v6(ROUTING, &[TCP, 0, 0, 1, 0, 0, 0, 0])), Some((ERRONEOUS_FIELD, 42)));
        assert_eq!(problem(&v6(DESTINATION, &[TCP, 0, 0, 0x9e, 3, 0, 0, 0])), Some((UNKNOWN_OPTION, 43)));
        assert_eq!(problem(&v6(DESTINATION, &[TCP, 0, 0, 0x5e, 3, 0, 0, 0])), None);
        // An option longer than its header.
        assert_eq!(Ip::parse(&v6(DESTINATION, &[TCP, 0, 1, 9, 0, 0, 0, 0])).unwrap_err(), DropReason::Malformed.into());
    }
}
