//! The reverse of cutting: datagrams of one flow that follow one another leave as one long frame, to be cut again where
//! they are delivered (what Linux calls generic receive offload). One long frame takes one way through the receiver's
//! network stack where its datagrams would each take theirs.
//!
//! Only what comes back the same is joined: cutting the long frame again (virtio 1.2 §5.1.6.2, as `segment` does it and as
//! Linux does) gives the frames that went in. So the datagrams are of one length, but for the last, which may be shorter;
//! their headers differ in lengths, checksums and IPv4 identification alone; and that counts up, or the datagrams are
//! atomic, so that it means nothing (RFC 6864 §4.1). Only partial checksums are joined: there is nothing to verify.

use super::checksum::Sum;
use super::segment::{
    IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_ID, IPV4_MIN, IPV4_TOTAL_LENGTH, IPV6_LEN, IPV6_PAYLOAD_LENGTH, Network,
    PROTOCOL_UDP, UDP_CHECKSUM, UDP_LEN, UDP_LENGTH, find_network, get_u16, parse_ipv4, parse_ipv6, parse_udp,
    pseudo_sum, put_u16,
};
use crate::{Checksum, GsoType, VnetHeader};

/// The most datagrams that Linux takes in one frame (`UDP_MAX_SEGMENTS` of its older releases).
const MAX_DATAGRAMS: usize = 64;
/// The most bytes of a packet.
const MAX_PACKET: usize = 65535;
/// Don't fragment, in the byte that also holds the upper bits of the fragment offset.
const IPV4_DONT_FRAGMENT: u8 = 0x40;

/// A run of datagrams that may leave as one frame.
#[derive(Clone, Copy, Debug)]
pub struct DatagramRun {
    network: Network,
    network_at: usize,
    /// Where the payload begins, in bytes from the start of each frame.
    payload_at: usize,
    /// Payload bytes of each datagram but the last.
    size: usize,
    payload: usize,
    count: usize,
    is_closed: bool,
}

impl DatagramRun {
    /// A run of one, if the frame is a datagram that others could join.
    #[must_use]
    pub fn begin(header: &VnetHeader, frame: &[u8]) -> Option<Self> {
        let (network, network_at) = find_network(frame)?;
        let (_, packet) = frame.split_at_checked(network_at)?;
        let (protocol, len) = match network {
            Network::V4 => parse_ipv4(packet)?,
            Network::V6 => parse_ipv6(packet)?,
        };
        // Options would have to be compared, too.
        let is_plain = len == if network == Network::V4 { IPV4_MIN } else { IPV6_LEN };
        let size = packet.len().checked_sub(len + parse_udp(packet.get(len..)?)?)?;
        let udp_at = network_at + len;
        let start = u16::try_from(udp_at).ok()?;
        let is_partial = header.checksum == Checksum::Partial { start, offset: UDP_CHECKSUM as u16 };
        (protocol == PROTOCOL_UDP && is_plain && is_partial && header.gso_type == GsoType::None && size > 0).then_some(
            Self { network, network_at, payload_at: udp_at + UDP_LEN, size, payload: size, count: 1, is_closed: false },
        )
    }

    /// Takes the next frame in, if it continues the run that began with the frame `first`.
    pub fn extend(&mut self, first: &[u8], header: &VnetHeader, frame: &[u8]) -> bool {
        if self.is_closed || self.count == MAX_DATAGRAMS || frame.len() > first.len() {
            return false;
        }
        let Some(next) = Self::begin(header, frame) else { return false };
        let fits = self.payload_at - self.network_at + self.payload + next.size <= MAX_PACKET;
        if !fits || next.payload_at != self.payload_at || !self.same_flow(first, frame) {
            return false;
        }
        self.is_closed = next.size < self.size;
        self.payload += next.size;
        self.count += 1;
        true
    }

    /// Datagrams in the run.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where each frame's payload begins, in bytes from its start.
    #[must_use]
    pub fn payload_at(&self) -> usize {
        self.payload_at
    }

    /// Appends the headers of the long frame to `out`, made from those of the run's first frame; the payloads of all its
    /// frames follow them.
    pub fn append_headers(&self, first: &[u8], out: &mut Vec<u8>) -> VnetHeader {
        let headers = out.len();
        out.extend_from_slice(&first[..self.payload_at]);
        let (packet, udp) = out[headers + self.network_at..].split_at_mut(self.payload_at - self.network_at - UDP_LEN);
        let datagram = UDP_LEN + self.payload;
        match self.network {
            Network::V4 => {
                put_u16(packet, IPV4_TOTAL_LENGTH, packet.len() + datagram);
                put_u16(packet, IPV4_CHECKSUM, 0);
                let mut sum = Sum::default();
                sum.add(packet);
                packet[IPV4_CHECKSUM..IPV4_CHECKSUM + 2].copy_from_slice(&sum.finish());
            }
            Network::V6 => put_u16(packet, IPV6_PAYLOAD_LENGTH, datagram),
        }
        put_u16(udp, UDP_LENGTH, datagram);
        if let Some(mut sum) = pseudo_sum(packet, self.network, PROTOCOL_UDP) {
            sum.add_u16(datagram as u16);
            // What stands in the field of a partial checksum is the sum itself, not its complement.
            let [high, low] = sum.finish();
            udp[UDP_CHECKSUM..UDP_CHECKSUM + 2].copy_from_slice(&[!high, !low]);
        }
        VnetHeader {
            checksum: Checksum::Partial { start: (self.payload_at - UDP_LEN) as u16, offset: UDP_CHECKSUM as u16 },
            gso_type: GsoType::Udp,
            ecn: false,
            gso_size: self.size as u16,
            hdr_len: self.payload_at as u16,
        }
    }

    /// Whether the headers differ in nothing that cutting could not make again.
    fn same_flow(&self, first: &[u8], frame: &[u8]) -> bool {
        let same = |from: usize, to: usize| {
            let range = self.network_at + from..self.network_at + to;
            first.get(range.clone()) == frame.get(range)
        };
        let udp = self.payload_at - UDP_LEN - self.network_at;
        let ports = same(udp, udp + UDP_LENGTH);
        let ethernet = first.get(..self.network_at) == frame.get(..self.network_at);
        let packet = match self.network {
            Network::V4 => {
                let id = |frame| get_u16(frame, self.network_at + IPV4_ID).unwrap_or(0);
                let is_atomic = first.get(self.network_at + IPV4_FRAGMENT) == Some(&IPV4_DONT_FRAGMENT);
                let counts_up = id(frame) == id(first).wrapping_add(self.count as u16);
                (is_atomic || counts_up)
                    && same(0, IPV4_TOTAL_LENGTH)
                    && same(IPV4_FRAGMENT, IPV4_CHECKSUM)
                    && same(IPV4_CHECKSUM + 2, IPV4_MIN)
            }
            Network::V6 => same(0, IPV6_PAYLOAD_LENGTH) && same(IPV6_PAYLOAD_LENGTH + 2, IPV6_LEN),
        };
        ports && ethernet && packet
    }
}

#[cfg(test)]
#[path = "join_test.rs"]
mod tests;
