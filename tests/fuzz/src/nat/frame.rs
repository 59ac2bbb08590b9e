//! Frames of the guest's, made up with the right lengths and checksums, and what every frame for the guest must be.
//!
//! Nothing here is the NAT's: what it emits is held against the formats by other code than its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use link::{Checksum, GsoType, MAX_FRAME_LEN, MacAddr, Offloads, VnetHeader};

pub const ETHERNET: usize = 14;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
const FRAGMENT: u8 = 44;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// The Ethernet address of the gateway.
pub const GATEWAY_MAC: MacAddr = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
const GATEWAY6_MAC: MacAddr = MacAddr([0x52, 0x56, 0, 0, 0, 2]);

/// What surrounds a packet's payload.
#[derive(Clone, Copy)]
pub struct Packet {
    pub mac: MacAddr,
    pub from: IpAddr,
    /// Of the same family.
    pub to: IpAddr,
    pub protocol: u8,
    pub hops: u8,
    /// Identification, offset in bytes, whether more follow.
    pub fragment: Option<(u32, usize, bool)>,
}

/// What matters of a frame for the guest: a TCP segment.
pub struct Segment {
    pub guest: (IpAddr, u16),
    pub remote: (IpAddr, u16),
    /// The sequence number behind it, and the one that it acknowledges.
    pub end: u32,
    pub acknowledged: u32,
}

impl Packet {
    /// A frame with this payload. Its transport checksum is filled in.
    pub fn over(&self, mut payload: Vec<u8>) -> Vec<u8> {
        if self.fragment.is_none() {
            self.fill_checksum(&mut payload);
        }
        self.plain(&payload)
    }

    /// A frame with this payload as it is.
    pub fn plain(&self, payload: &[u8]) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, self.hops, self.protocol, 0, 0];
                let total = (20 + payload.len()).min(65535) as u16;
                header[2..4].copy_from_slice(&total.to_be_bytes());
                if let Some((ident, offset, more)) = self.fragment {
                    let offset = (offset / 8) as u16 & 0x1fff | if more { 0x2000 } else { 0 };
                    header[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
                    header[6..8].copy_from_slice(&offset.to_be_bytes());
                }
                header.extend([from.octets(), to.octets()].concat());
                let sum = !fold(sum(&header));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                let mac = if to.is_broadcast() { MacAddr::BROADCAST } else { GATEWAY_MAC };
                ethernet(mac, self.mac, IPV4, &[&header, payload].concat())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut body = Vec::new();
                if let Some((ident, offset, more)) = self.fragment {
                    body.extend([self.protocol, 0]);
                    body.extend((offset as u16 & !7 | u16::from(more)).to_be_bytes());
                    body.extend(ident.to_be_bytes());
                }
                body.extend(payload);
                let next = if self.fragment.is_some() { FRAGMENT } else { self.protocol };
                let [high, low] = (body.len().min(65535) as u16).to_be_bytes();
                let mut packet = vec![0x60, 0, 0, 0, high, low, next, self.hops];
                packet.extend([from.octets(), to.octets()].concat());
                packet.extend(body);
                let [.., a, b, c, d] = to.octets();
                let mac = if to.is_multicast() { MacAddr([0x33, 0x33, a, b, c, d]) } else { GATEWAY6_MAC };
                ethernet(mac, self.mac, IPV6, &packet)
            }
            _ => panic!("{} and {}", self.from, self.to),
        }
    }

    /// Bytes in front of the payload.
    pub fn header_len(&self) -> usize {
        ETHERNET + if self.from.is_ipv4() { 20 } else { 40 }
    }

    /// Fills in the checksum of a whole payload.
    pub fn fill_checksum(&self, payload: &mut [u8]) {
        let Some(at) = checksum_at(self.protocol).filter(|at| at + 2 <= payload.len()) else { return };
        payload[at..at + 2].fill(0);
        let sum = !self.sum(payload);
        payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn sum(&self, payload: &[u8]) -> u16 {
        fold(pseudo(self.from, self.to, self.protocol, payload.len()) + sum(payload))
    }
}

/// An Ethernet frame.
pub fn ethernet(to: MacAddr, from: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0, &from.0, &ethertype.to_be_bytes()[..], payload].concat()
}

/// A UDP datagram, its checksum still to be filled in.
pub fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()).min(65535) as u16;
    [&from.to_be_bytes(), &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0][..], payload].concat()
}

/// An ARP packet for IPv4 over Ethernet.
pub fn arp(operation: u16, mac: MacAddr, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(mac.0);
    packet.extend(from.octets());
    packet.extend([0; 6]);
    packet.extend(to.octets());
    ethernet(MacAddr::BROADCAST, mac, ARP, &packet)
}

/// Where a protocol has its checksum.
pub fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        ICMP | ICMPV6 => Some(2),
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// Panics unless this is a frame that the guest's side takes; returns the TCP segment in it.
pub fn check(mtu: u16, offloads: Offloads, header: &VnetHeader, frame: &[u8]) -> Option<Segment> {
    assert!(frame.len() <= MAX_FRAME_LEN, "{} bytes", frame.len());
    header.check(frame.len()).expect("a header that fits its frame");
    assert!(offloads.permit(header), "{header:?} for {offloads:?}");
    assert!(frame[6] == 0x52 && [0x55, 0x56].contains(&frame[7]), "from {:x?}", &frame[6..12]);
    if header.gso_type == GsoType::None {
        assert!(frame.len() - ETHERNET <= usize::from(mtu), "{} bytes for an MTU of {mtu}", frame.len());
    }
    let packet = &frame[ETHERNET..];
    let (from, to, protocol, at) = match be16(frame, 12) {
        ARP => {
            assert_eq!((packet.len(), &packet[..6]), (28, &[0, 1, 8, 0, 6, 4][..]));
            assert!([1, 2].contains(&be16(packet, 6)) && *header == VnetHeader::WHOLE);
            return None;
        }
        IPV4 => {
            assert_eq!(packet[0], 0x45);
            assert_eq!(usize::from(be16(packet, 2)), packet.len());
            assert_eq!(fold(sum(&packet[..20])), 0xffff);
            let address = |at| IpAddr::from(*packet[at..].first_chunk::<4>().expect("a header"));
            let field = be16(packet, 6);
            if field & 0x3fff != 0 {
                check_fragment(header, usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, packet.len() - 20);
                return None;
            }
            (address(12), address(16), packet[9], 20)
        }
        IPV6 => {
            assert_eq!(packet[0], 0x60);
            assert_eq!(usize::from(be16(packet, 4)) + 40, packet.len());
            let address = |at| IpAddr::from(*packet[at..].first_chunk::<16>().expect("a header"));
            if packet[6] == FRAGMENT {
                let field = be16(packet, 42);
                check_fragment(header, usize::from(field & !7), field & 1 != 0, packet.len() - 48);
                return None;
            }
            (address(8), address(24), packet[6], 40)
        }
        other => panic!("ethertype {other:x}"),
    };
    let payload = &packet[at..];
    assert!(!from.is_unspecified() && !from.is_loopback() && !from.is_multicast(), "from {from}");
    check_checksum(header, (from, to, protocol), payload, ETHERNET + at);
    let headers = match protocol {
        ICMP if from.is_ipv4() => 8,
        ICMPV6 if from.is_ipv6() => 8,
        UDP => {
            assert_eq!(usize::from(be16(payload, 4)), payload.len());
            8
        }
        TCP => usize::from(payload[12] >> 4) * 4,
        other => panic!("protocol {other}"),
    };
    let len = payload.len().checked_sub(headers).expect("whole headers");
    if header.gso_type != GsoType::None {
        let expected = if from.is_ipv4() { GsoType::TcpV4 } else { GsoType::TcpV6 };
        assert_eq!((header.gso_type, protocol), (expected, TCP));
        assert_eq!(usize::from(header.hdr_len), ETHERNET + at + headers);
        let size = usize::from(header.gso_size);
        assert!(size > 0 && size < len && at + headers + size <= usize::from(mtu), "{header:?} over {len} bytes");
    }
    (protocol == TCP).then(|| {
        let number = |at| u32::from(be16(payload, at)) << 16 | u32::from(be16(payload, at + 2));
        let flags = payload[13];
        let numbers = len as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
        Segment {
            guest: (to, be16(payload, 2)),
            remote: (from, be16(payload, 0)),
            end: number(4).wrapping_add(numbers),
            acknowledged: number(8),
        }
    })
}

fn check_fragment(header: &VnetHeader, offset: usize, more: bool, len: usize) {
    assert_eq!(*header, VnetHeader::WHOLE);
    assert!(len > 0 && (!more || len.is_multiple_of(8)) && offset + len <= 65535, "{len} bytes at {offset}");
}

fn check_checksum(header: &VnetHeader, (from, to, protocol): (IpAddr, IpAddr, u8), payload: &[u8], at: usize) {
    let pseudo = if protocol == ICMP { 0 } else { pseudo(from, to, protocol, payload.len()) };
    let field = checksum_at(protocol).expect("a protocol that is known");
    match header.checksum {
        Checksum::Complete => {
            assert_eq!(fold(pseudo + sum(payload)), 0xffff, "{payload:x?}");
            assert!(protocol != UDP || be16(payload, field) != 0);
        }
        Checksum::Valid => panic!("nobody has verified it"),
        Checksum::Partial { start, offset } => {
            assert_eq!((usize::from(start), usize::from(offset)), (at, field));
            assert_eq!(be16(payload, field), fold(pseudo));
        }
    }
}

fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, len: usize) -> u64 {
    if protocol == ICMP {
        return 0;
    }
    let octets = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    octets(from) + octets(to) + u64::from(protocol) + len as u64
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An IPv6 address in its text form.
pub fn address6(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}
