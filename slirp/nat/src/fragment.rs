//! Putting together the fragments of a guest's packets (RFC 791 §3.2, RFC 1122 §3.3.2), within bounds.
//!
//! A packet is kept as one buffer and the sorted ranges of it that have come. Fragments that overlap are what nobody
//! sends but attackers (RFC 5722 has the argument, for IPv6), so a packet with one is dropped, and its later fragments
//! with it, since they never complete anything.
//!
//! Bounds: [`MAX_PACKETS`] at a time, the oldest gives way; [`MAX_PIECES`] each; [`TIMEOUT`] from the first fragment.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::{Duration, Instant};

use link::DropReason;

use crate::wire::{IPV4, Ipv4, Ipv4Header};

/// Packets being put together.
const MAX_PACKETS: usize = 32;

/// Fragments of one packet: 65,535 bytes in pieces of the smallest MTU taken.
const MAX_PIECES: usize = 128;

/// How long a packet waits for its last fragment, as Linux has it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Packets whose fragments have not all come.
#[derive(Default)]
pub(crate) struct Reassembly {
    /// Oldest first.
    packets: Vec<Packet>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    ident: u16,
}

struct Packet {
    key: Key,
    until: Instant,
    /// The payload, as far as it has come, behind room for a header.
    bytes: Vec<u8>,
    /// What of the payload is there; sorted, apart from each other.
    ranges: Vec<Range<usize>>,
    /// Bytes of payload in all, once the last fragment has come.
    len: Option<usize>,
}

impl Reassembly {
    /// Takes a fragment; returns the whole packet if this was the last one missing.
    pub(crate) fn input(&mut self, ip: &Ipv4<'_>, now: Instant) -> Result<Option<Vec<u8>>, DropReason> {
        let range = ip.fragment_offset..ip.fragment_offset + ip.payload.len();
        // Every fragment but the last is a multiple of eight bytes, and none reaches beyond what IPv4 has.
        if range.end + IPV4 > 65535 || range.is_empty() || (ip.more_fragments && range.end % 8 != 0) {
            return Err(DropReason::Malformed);
        }
        let key = Key { from: ip.from, to: ip.to, protocol: ip.protocol, ident: ip.ident };
        let place = match self.packets.iter().position(|packet| packet.key == key) {
            Some(place) => place,
            None => self.begin(key, now),
        };
        match self.packets[place].add(ip, range) {
            Ok(false) => Ok(None),
            Ok(true) => Ok(Some(self.packets.remove(place).finish())),
            Err(reason) => {
                self.packets.remove(place);
                Err(reason)
            }
        }
    }

    /// Drops what has waited too long; returns how many packets that were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let before = self.packets.len();
        self.packets.retain(|packet| packet.until > now);
        before - self.packets.len()
    }

    /// When [`Reassembly::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.packets.first().map(|packet| packet.until)
    }

    fn begin(&mut self, key: Key, now: Instant) -> usize {
        if self.packets.len() == MAX_PACKETS {
            self.packets.remove(0);
        }
        self.packets.push(Packet { key, until: now + TIMEOUT, bytes: vec![0; IPV4], ranges: Vec::new(), len: None });
        self.packets.len() - 1
    }
}

impl Packet {
    /// Adds a fragment; true if the packet is whole now.
    fn add(&mut self, ip: &Ipv4<'_>, range: Range<usize>) -> Result<bool, DropReason> {
        if !ip.more_fragments {
            if self.len.is_some_and(|len| len != range.end) {
                return Err(DropReason::Malformed);
            }
            self.len = Some(range.end);
        }
        let last = self.ranges.last().map_or(0, |last| last.end);
        if self.len.is_some_and(|len| range.end > len || last > len) {
            return Err(DropReason::Malformed);
        }
        // The same fragment again is no overlap (RFC 1122 §3.3.2: a retransmission).
        if self.ranges.contains(&range) {
            return Ok(false);
        }
        let place = self.ranges.partition_point(|other| other.start < range.start);
        let before = place.checked_sub(1).and_then(|place| self.ranges.get(place));
        let overlaps = before.is_some_and(|before| before.end > range.start)
            || self.ranges.get(place).is_some_and(|behind| behind.start < range.end);
        if overlaps {
            return Err(DropReason::Malformed);
        }
        if self.ranges.len() == MAX_PIECES {
            return Err(DropReason::Limit);
        }
        if self.bytes.len() < IPV4 + range.end {
            self.bytes.resize(IPV4 + range.end, 0);
        }
        self.bytes[IPV4 + range.start..IPV4 + range.end].copy_from_slice(ip.payload);
        self.ranges.insert(place, range);
        Ok(self.is_whole())
    }

    fn is_whole(&self) -> bool {
        let mut end = 0;
        for range in &self.ranges {
            if range.start != end {
                return false;
            }
            end = range.end;
        }
        self.len == Some(end)
    }

    /// The packet, under a header without options.
    fn finish(mut self) -> Vec<u8> {
        let Key { from, to, protocol, ident } = self.key;
        let header = Ipv4Header { ident, ..Ipv4Header::whole(from, to, protocol, self.bytes.len() - IPV4) };
        header.put(&mut self.bytes);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(ident: u16, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4Header {
            ident,
            fragment_offset: offset,
            more_fragments: more,
            ..Ipv4Header::whole([10, 0, 2, 15].into(), [10, 0, 2, 2].into(), 17, payload.len())
        };
        let mut packet = vec![0; IPV4 + payload.len()];
        header.put(&mut packet);
        packet[IPV4..].copy_from_slice(payload);
        packet
    }

    fn input(set: &mut Reassembly, packet: &[u8], now: Instant) -> Result<Option<Vec<u8>>, DropReason> {
        set.input(&Ipv4::parse(packet).unwrap(), now)
    }

    #[test]
    fn fragments_in_any_order_make_the_packet() {
        let payload: Vec<u8> = (0..100).collect();
        let now = Instant::now();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
            let mut set = Reassembly::default();
            let mut whole = None;
            for piece in order {
                let (start, end, more) = [(0, 40, true), (40, 80, true), (80, 100, false)][piece];
                whole = input(&mut set, &fragment(1, start, more, &payload[start..end]), now).unwrap();
            }
            let whole = whole.unwrap();
            assert_eq!(Ipv4::parse(&whole).unwrap().payload, payload);
            assert!(set.packets.is_empty());
        }
    }

    #[test]
    fn overlaps_and_bogus_lengths_drop_the_packet() {
        let now = Instant::now();
        let mut set = Reassembly::default();
        input(&mut set, &fragment(1, 0, true, &[0; 16]), now).unwrap();
        assert_eq!(input(&mut set, &fragment(1, 8, true, &[0; 16]), now), Err(DropReason::Malformed));
        assert!(set.packets.is_empty());
        assert_eq!(input(&mut set, &fragment(2, 0, true, &[0; 7]), now), Err(DropReason::Malformed));
        assert_eq!(input(&mut set, &fragment(2, 65528, false, &[0; 16]), now), Err(DropReason::Malformed));
        input(&mut set, &fragment(3, 80, true, &[0; 8]), now).unwrap();
        assert_eq!(input(&mut set, &fragment(3, 40, false, &[0; 8]), now), Err(DropReason::Malformed));
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let now = Instant::now();
        let mut set = Reassembly::default();
        for ident in 0..1000 {
            input(&mut set, &fragment(ident, 8, true, &[0; 8]), now).unwrap();
        }
        assert_eq!(set.packets.len(), MAX_PACKETS);
        assert_eq!(set.expire(now + TIMEOUT), MAX_PACKETS);
        assert_eq!(set.deadline(), None);
    }
}
