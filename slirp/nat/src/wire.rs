//! Ethernet, IPv4 and UDP on the wire: parsed once into types that cannot be wrong, emitted from plain values; and the
//! Internet checksum (RFC 1071).
//!
//! The bytes given to a parser here are a private copy: nobody changes them between check and use. Every parser bounds
//! its slices by lengths it has checked, and answers a bad packet with the reason it is dropped for.
//!
//! Formats: Ethernet II (IEEE 802.3 clause 3), IPv4 (RFC 791 §3.1), UDP (RFC 768).

use std::net::Ipv4Addr;

use link::{DropReason, MacAddr};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = link::ETHERNET_HEADER_LEN;

/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;

/// Bytes of a UDP header.
pub(crate) const UDP: usize = 8;

/// EtherType of IPv4.
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;

/// EtherType of ARP.
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;

/// IP protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
/// TCP.
pub(crate) const TCP: u8 = 6;
/// UDP.
pub(crate) const UDP_PROTOCOL: u8 = 17;

/// The hop limit of what the NAT itself sends (RFC 1700).
pub(crate) const TTL: u8 = 64;

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

/// An IPv4 packet whose lengths agree and whose header checksum is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4<'a> {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    pub ident: u16,
    /// Bytes of payload in front of this fragment.
    pub fragment_offset: usize,
    pub more_fragments: bool,
    /// The whole packet, without what the frame has behind it.
    pub bytes: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Parses and verifies (RFC 1122 §3.2.1.2). Options are skipped: a host that is no router obeys none of them.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let header: &[u8; IPV4] = bytes.first_chunk().ok_or(DropReason::Malformed)?;
        let header_len = usize::from(header[0] & 0xf) * 4;
        let total_len = usize::from(be16(header, 2));
        if header[0] >> 4 != 4 || header_len < IPV4 || total_len < header_len {
            return Err(DropReason::Malformed);
        }
        let bytes = bytes.get(..total_len).ok_or(DropReason::Malformed)?;
        let (head, payload) = bytes.split_at(header_len);
        if fold(sum(head)) != 0xffff {
            return Err(DropReason::Malformed);
        }
        let fragment = be16(header, 6);
        Ok(Self {
            from: address(header, 12),
            to: address(header, 16),
            protocol: header[9],
            ident: be16(header, 4),
            fragment_offset: usize::from(fragment & 0x1fff) * 8,
            more_fragments: fragment & 0x2000 != 0,
            bytes,
            payload,
        })
    }

    pub(crate) fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// The values of an IPv4 header that the NAT emits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipv4Header {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    pub ident: u16,
    /// Bytes of payload in front of this fragment, a multiple of 8.
    pub fragment_offset: usize,
    pub more_fragments: bool,
    pub payload_len: usize,
}

impl Ipv4Header {
    pub(crate) fn whole(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload_len: usize) -> Self {
        Self { from, to, protocol, ident: 0, fragment_offset: 0, more_fragments: false, payload_len }
    }

    /// Writes the header into the first 20 bytes of `packet`.
    pub(crate) fn put(&self, packet: &mut [u8]) {
        let total = u16::try_from(IPV4 + self.payload_len).unwrap_or(u16::MAX);
        let offset = u16::try_from(self.fragment_offset / 8).unwrap_or(0);
        let header = &mut packet[..IPV4];
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[4..6].copy_from_slice(&self.ident.to_be_bytes());
        header[6..8].copy_from_slice(&(offset | if self.more_fragments { 0x2000 } else { 0 }).to_be_bytes());
        header[8] = TTL;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&self.from.octets());
        header[16..20].copy_from_slice(&self.to.octets());
        let checksum = !fold(sum(header));
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
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
    /// Parses the payload of `ip`; `verify` asks for the checksum to be held against it.
    pub(crate) fn parse(ip: &Ipv4<'a>, verify: bool) -> Result<Self, DropReason> {
        let header: &[u8; UDP] = ip.payload.first_chunk().ok_or(DropReason::Malformed)?;
        let len = usize::from(be16(header, 4));
        let datagram = ip.payload.get(..len).ok_or(DropReason::Malformed)?;
        let payload = datagram.get(UDP..).ok_or(DropReason::Malformed)?;
        if verify && be16(header, 6) != 0 && transport_sum(ip.from, ip.to, UDP_PROTOCOL, datagram) != 0xffff {
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
pub(crate) fn fill_udp_checksum(from: Ipv4Addr, to: Ipv4Addr, datagram: &mut [u8]) {
    datagram[6..8].fill(0);
    let checksum = match !transport_sum(from, to, UDP_PROTOCOL, datagram) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// The folded sum of a segment with its pseudo-header: all ones if its checksum is right.
pub(crate) fn transport_sum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, segment: &[u8]) -> u16 {
    fold(pseudo_sum(from, to, protocol, segment.len()) + sum(segment))
}

/// The sum of the pseudo-header (RFC 9293 §3.1), to be folded.
pub(crate) fn pseudo_sum(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, len: usize) -> u64 {
    sum(&from.octets()) + sum(&to.octets()) + u64::from(protocol) + len as u64
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
        let (from, to) = (Ipv4Addr::new(10, 0, 2, 2), Ipv4Addr::new(10, 0, 2, 15));
        let mut packet = vec![0; IPV4 + UDP + 3];
        Ipv4Header::whole(from, to, UDP_PROTOCOL, UDP + 3).put(&mut packet);
        packet[IPV4 + UDP..].copy_from_slice(b"abc");
        put_udp(&mut packet[IPV4..], 53, 4000, 3);
        fill_udp_checksum(from, to, &mut packet[IPV4..]);
        let parsed = etherparse::PacketHeaders::from_ip_slice(&packet).unwrap();
        let udp = parsed.transport.unwrap().udp().unwrap();
        assert_eq!((udp.source_port, udp.destination_port), (53, 4000));
        assert_eq!(udp.calc_checksum_ipv4_raw(from.octets(), to.octets(), b"abc").unwrap(), udp.checksum);
        let ip = Ipv4::parse(&packet).unwrap();
        assert_eq!(Udp::parse(&ip, true).unwrap().payload, b"abc");
    }

    #[test]
    fn short_and_contradictory_packets_are_malformed() {
        let mut packet = vec![0; IPV4 + UDP];
        Ipv4Header::whole(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, UDP_PROTOCOL, UDP).put(&mut packet);
        for len in 0..packet.len() {
            assert!(Ipv4::parse(&packet[..len]).is_err(), "{len}");
        }
        assert!(Ipv4::parse(&packet).is_ok());
        put_udp(&mut packet[IPV4..], 1, 2, 1);
        assert!(Udp::parse(&Ipv4::parse(&packet).unwrap(), false).is_err());
        packet[0] = 0x44;
        assert!(Ipv4::parse(&packet).is_err());
    }
}
