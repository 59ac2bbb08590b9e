//! Frames for tests: made byte by byte, and read back by etherparse, which shares no code with what is tested.

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

use crate::{Checksum, GsoType, VnetHeader};

/// What a frame to be cut is made of.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub v6: bool,
    pub udp: bool,
    /// VLAN tags, at most 2.
    pub tags: usize,
    /// IPv4 options, TCP options, IPv6 extension headers.
    pub extras: bool,
    pub tcp_flags: u8,
    pub payload: Vec<u8>,
    pub gso_size: u16,
}

/// What etherparse reads in a frame whose every length and checksum it has found right.
#[derive(Debug)]
pub(crate) struct Seen {
    pub ip_id: u16,
    pub sequence: u32,
    pub tcp_flags: u8,
    pub payload: Vec<u8>,
}

/// A seeded sequence (splitmix64): a failed test shows its seed and repeats.
pub(crate) struct Random(pub u64);

impl Sample {
    pub const IP_ID: u16 = 0xfffe;
    pub const SEQUENCE: u32 = 0xffff_f000;

    pub fn tcp4(payload: usize, gso_size: u16) -> Self {
        let payload = (0..payload).map(|i| (i * 7 + i / 251) as u8).collect();
        Self { v6: false, udp: false, tags: 0, extras: false, tcp_flags: 0x10, payload, gso_size }
    }

    /// A frame with up to 60,000 bytes of payload.
    pub fn random(random: &mut Random) -> Self {
        let limit = [64, 3000, 60_000, 60_000][random.below(4)];
        Self::random_below(random, limit)
    }

    /// A frame with fewer than `limit` bytes of payload.
    pub fn random_below(random: &mut Random, limit: usize) -> Self {
        let len = random.below(limit);
        let smallest = (len / 1024).max(1);
        Self {
            v6: random.below(2) == 0,
            udp: random.below(2) == 0,
            tags: random.below(3),
            extras: random.below(2) == 0,
            tcp_flags: random.next() as u8,
            payload: (0..len).map(|_| random.next() as u8).collect(),
            gso_size: (smallest + random.below(3000)) as u16,
        }
    }

    /// The frame, its checksum partial, and the header that asks for segmentation.
    pub fn frame(&self) -> (VnetHeader, Vec<u8>) {
        let transport = self.transport();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            frame.extend([[0x88, 0xa8, 0, 5], [0x81, 0x00, 0, 6]][2 - self.tags + tag]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(self.network(transport.len()));
        let start = frame.len();
        frame.extend(transport);
        let header = VnetHeader {
            checksum: Checksum::Partial { start: start as u16, offset: if self.udp { 6 } else { 16 } },
            gso_type: match (self.udp, self.v6) {
                (true, _) => GsoType::Udp,
                (false, false) => GsoType::TcpV4,
                (false, true) => GsoType::TcpV6,
            },
            ecn: !self.udp && self.tcp_flags & 0x80 != 0,
            gso_size: self.gso_size,
            hdr_len: 0,
        };
        (header, frame)
    }

    /// The same frame without segmentation: only its checksum is partial.
    pub fn partial(&self) -> (VnetHeader, Vec<u8>) {
        let (header, frame) = self.frame();
        (VnetHeader { checksum: header.checksum, ..VnetHeader::WHOLE }, frame)
    }

    pub fn segments(&self) -> usize {
        self.payload.len().div_ceil(usize::from(self.gso_size)).max(1)
    }

    fn addresses(&self) -> Vec<u8> {
        if self.v6 { [[0xfd; 16], [0xfe; 16]].concat() } else { vec![10, 0, 2, 15, 93, 184, 216, 34] }
    }

    fn network(&self, transport: usize) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        let extensions: &[u8] = match (self.v6, self.extras) {
            (_, false) => &[],
            (false, true) => &[1, 1, 1, 0],
            // Hop-by-hop and destination options, padded (RFC 8200 §4.2).
            (true, true) => &[60, 0, 1, 4, 0, 0, 0, 0, protocol, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        let mut packet = if self.v6 {
            let [high, low] = ((extensions.len() + transport) as u16).to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, if self.extras { 0 } else { protocol }, 64]
        } else {
            let [high, low] = ((20 + extensions.len() + transport) as u16).to_be_bytes();
            let [id_high, id_low] = Self::IP_ID.to_be_bytes();
            vec![if self.extras { 0x46 } else { 0x45 }, 0, high, low, id_high, id_low, 0x40, 0, 64, protocol, 0, 0]
        };
        packet.extend(self.addresses());
        packet.extend(extensions);
        if !self.v6 {
            let checksum = !narrow_sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let options: &[u8] = if self.extras { &[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2] } else { &[] };
        let len = self.payload.len() + if self.udp { 8 } else { 20 + options.len() };
        let mut pseudo = self.addresses();
        pseudo.extend([0, if self.udp { 17 } else { 6 }]);
        pseudo.extend((len as u16).to_be_bytes());
        let [high, low] = narrow_sum(&pseudo).to_be_bytes();
        let mut bytes = vec![0x04, 0xd2, 0x16, 0x2e];
        if self.udp {
            bytes.extend((len as u16).to_be_bytes());
            bytes.extend([high, low]);
        } else {
            bytes.extend(Self::SEQUENCE.to_be_bytes());
            let data_offset = ((20 + options.len()) as u8 / 4) << 4;
            bytes.extend([0, 0, 0, 1, data_offset, self.tcp_flags, 1, 0, high, low, 0, 0]);
            bytes.extend(options);
        }
        bytes.extend(&self.payload);
        bytes
    }
}

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Reads a frame, and asserts that every length and checksum in it is right.
pub(crate) fn read(frame: &[u8]) -> Seen {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let payload = headers.payload.slice();
    let net_len = headers.net.as_ref().unwrap().header_len();
    let transport_len = headers.transport.as_ref().unwrap().header_len();
    let links: usize = 14 + 4 * headers.link_exts.len();
    assert_eq!(links + net_len + transport_len + payload.len(), frame.len(), "lengths fill the frame");
    let (ip_id, sequence, tcp_flags) = match (headers.net.unwrap(), headers.transport.unwrap()) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).unwrap());
            (ip.identification, tcp.sequence_number, tcp.to_bytes()[13])
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv6(&ip, payload).unwrap());
            (0, tcp.sequence_number, tcp.to_bytes()[13])
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(udp.length), 8 + payload.len());
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap());
            (ip.identification, 0, 0)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            assert_eq!(usize::from(udp.length), 8 + payload.len());
            assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ip, payload).unwrap());
            (0, 0, 0)
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    };
    Seen { ip_id, sequence, tcp_flags, payload: payload.to_vec() }
}

fn narrow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
