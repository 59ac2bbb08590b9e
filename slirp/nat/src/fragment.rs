//! Putting together the fragments of a guest's packets (RFC 791 §3.2, RFC 1122 §3.3.2; RFC 8200 §4.5), within bounds.
//!
//! A packet is kept as one buffer and the sorted ranges of it that have come. Fragments that overlap are what nobody
//! sends but attackers (RFC 5722 has the argument, for IPv6), so a packet with one is dropped, and its later fragments
//! with it, since they never complete anything. Of IPv6's extension headers, those in front of the fragment header end
//! here; the others are part of what is put together.
//!
//! Bounds: [`MAX_PACKETS`] at a time, the oldest gives way; [`MAX_PIECES`] each; [`TIMEOUT`] from the first fragment.

use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use link::DropReason;

use crate::wire::{Fragment, ICMP, Ip, IpHeader};

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
    /// How many gave way and are still to be counted.
    displaced: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    from: IpAddr,
    to: IpAddr,
    /// Only IPv4 tells packets apart by it.
    protocol: u8,
    ident: u32,
}

struct Packet {
    key: Key,
    until: Instant,
    /// What the payload is, as its first fragment says, and that one's hop limit.
    protocol: u8,
    hop_limit: u8,
    /// Bytes of header in front of the payload.
    header: usize,
    /// The payload, as far as it has come, behind room for a header.
    bytes: Vec<u8>,
    /// What of the payload is there; sorted, apart from each other.
    ranges: Vec<Range<usize>>,
    /// Bytes of payload in all, once the last fragment has come.
    len: Option<usize>,
}

impl Reassembly {
    /// Takes a fragment; returns the whole packet if this was the last one missing.
    pub(crate) fn input(
        &mut self,
        ip: &Ip<'_>,
        fragment: Fragment,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, DropReason> {
        let range = fragment.offset..fragment.offset + ip.payload.len();
        let header = IpHeader::whole(ip.from, ip.to, ip.protocol, 0).len();
        // Every fragment but the last is a multiple of eight bytes, and none reaches beyond what a packet has.
        if range.end + header > 65535 || range.is_empty() || (fragment.more && range.end % 8 != 0) {
            return Err(DropReason::Malformed);
        }
        let protocol = if ip.from.is_ipv4() { ip.protocol } else { 0 };
        let key = Key { from: ip.from, to: ip.to, protocol, ident: fragment.ident };
        let place = match self.packets.iter().position(|packet| packet.key == key) {
            Some(place) => place,
            None => self.begin(key, header, now),
        };
        match self.packets[place].add(ip, fragment, range) {
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

    /// How many packets gave way since the last call.
    pub(crate) fn take_displaced(&mut self) -> u64 {
        std::mem::take(&mut self.displaced)
    }

    /// When [`Reassembly::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.packets.first().map(|packet| packet.until)
    }

    fn begin(&mut self, key: Key, header: usize, now: Instant) -> usize {
        if self.packets.len() == MAX_PACKETS {
            self.packets.remove(0);
            self.displaced += 1;
        }
        self.packets.push(Packet {
            key,
            until: now + TIMEOUT,
            protocol: ICMP,
            hop_limit: 0,
            header,
            bytes: vec![0; header],
            ranges: Vec::new(),
            len: None,
        });
        self.packets.len() - 1
    }
}

impl Packet {
    /// Adds a fragment; true if the packet is whole now.
    fn add(&mut self, ip: &Ip<'_>, fragment: Fragment, range: Range<usize>) -> Result<bool, DropReason> {
        if !fragment.more {
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
        if range.start == 0 {
            (self.protocol, self.hop_limit) = (ip.protocol, ip.hop_limit);
        }
        let place_of = self.header + range.start..self.header + range.end;
        if self.bytes.len() < place_of.end {
            self.bytes.resize(place_of.end, 0);
        }
        self.bytes[place_of].copy_from_slice(ip.payload);
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
        let len = self.bytes.len() - self.header;
        let header = IpHeader::whole(self.key.from, self.key.to, self.protocol, len);
        IpHeader { hop_limit: self.hop_limit, ..header }.put(&mut self.bytes);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [&str; 2] = ["10.0.2.15", "10.0.2.2"];
    const V6: [&str; 2] = ["fec0::15", "2001:db8::1"];

    fn fragment_of(ends: [&str; 2], ident: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        let [from, to] = ends.map(|address| address.parse::<IpAddr>().unwrap());
        let fragment = Some(Fragment { ident, offset, more });
        IpHeader { fragment, ..IpHeader::whole(from, to, 17, 0) }.over(payload)
    }

    fn fragment(ident: u32, offset: usize, more: bool, payload: &[u8]) -> Vec<u8> {
        fragment_of(V4, ident, offset, more, payload)
    }

    fn input(set: &mut Reassembly, packet: &[u8], now: Instant) -> Result<Option<Vec<u8>>, DropReason> {
        let ip = Ip::parse(packet).unwrap();
        set.input(&ip, ip.fragment.unwrap(), now)
    }

    #[test]
    fn fragments_in_any_order_make_the_packet() {
        let payload: Vec<u8> = (0..100).collect();
        let now = Instant::now();
        for ends in [V4, V6] {
            for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
                let mut set = Reassembly::default();
                let mut whole = None;
                for piece in order {
                    let (start, end, more) = [(0, 40, true), (40, 80, true), (80, 100, false)][piece];
                    let packet = fragment_of(ends, 0x1_2345, start, more, &payload[start..end]);
                    whole = input(&mut set, &packet, now).unwrap();
                }
                let whole = whole.unwrap();
                let ip = Ip::parse(&whole).unwrap();
                assert_eq!((ip.payload, ip.protocol, ip.fragment), (&payload[..], 17, None));
                assert!(set.packets.is_empty());
            }
        }
    }

    #[test]
    fn overlaps_and_bogus_lengths_drop_the_packet() {
        let now = Instant::now();
        for ends in [V4, V6] {
            let fragment = |ident, offset, more, payload: &[u8]| fragment_of(ends, ident, offset, more, payload);
            let mut set = Reassembly::default();
            input(&mut set, &fragment(1, 0, true, &[0; 16]), now).unwrap();
            assert_eq!(input(&mut set, &fragment(1, 8, true, &[0; 16]), now), Err(DropReason::Malformed));
            assert!(set.packets.is_empty());
            assert_eq!(input(&mut set, &fragment(2, 0, true, &[0; 7]), now), Err(DropReason::Malformed));
            assert_eq!(input(&mut set, &fragment(2, 65528, false, &[0; 16]), now), Err(DropReason::Malformed));
            input(&mut set, &fragment(3, 80, true, &[0; 8]), now).unwrap();
            assert_eq!(input(&mut set, &fragment(3, 40, false, &[0; 8]), now), Err(DropReason::Malformed));
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let now = Instant::now();
        let mut set = Reassembly::default();
        for ident in 0..1000 {
            input(&mut set, &fragment(ident, 8, true, &[0; 8]), now).unwrap();
        }
        assert_eq!(set.packets.len(), MAX_PACKETS);
        assert_eq!((set.take_displaced(), set.take_displaced()), (1000 - MAX_PACKETS as u64, 0));
        assert_eq!(set.expire(now + TIMEOUT), MAX_PACKETS);
        assert_eq!(set.deadline(), None);
    }
}
