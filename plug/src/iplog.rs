//! Which IP addresses are used by those who come over a cable: for the system's log, as vde_plug's `--iplog` has it.
//!
//! Pure: frames in, addresses that are new out. What counts is the source of IPv4 and IPv6 packets, untagged or with one
//! VLAN tag (IEEE 802.1Q-2018 §9.6); ARP and everything malformed says nothing.
//!
//! Invariant: it remembers [`MAX_ADDRESSES`] at most, and forgets the oldest first; so an address can be told again.
//!
//! Neighbours: `join` shows it the frames of one link, `main` writes the log.

use std::collections::{HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses that are remembered at most.
pub const MAX_ADDRESSES: usize = 1024;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// An address, and the VLAN it was used in; 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Used {
    /// The address.
    pub address: IpAddr,
    /// The VLAN, 0 to 4095.
    pub vlan: u16,
}

/// The addresses that were seen.
#[derive(Debug, Default)]
pub struct Addresses {
    seen: HashSet<Used>,
    /// The same, the oldest first.
    order: VecDeque<Used>,
}

impl Addresses {
    /// Looks at a frame; returns its source if that is new.
    pub fn note(&mut self, frame: &[u8]) -> Option<Used> {
        let used = source(frame)?;
        if !self.seen.insert(used) {
            return None;
        }
        self.order.push_back(used);
        if self.order.len() > MAX_ADDRESSES
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Some(used)
    }
}

/// The IP source of a frame, unless it is unspecified.
fn source(frame: &[u8]) -> Option<Used> {
    let word = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let (ethertype, vlan, packet) = match word(12)? {
        ETHERTYPE_VLAN => (word(16)?, word(14)? & 0xfff, frame.get(18..)?),
        ethertype => (ethertype, 0, frame.get(14..)?),
    };
    let address = match ethertype {
        // RFC 791 §3.1, RFC 8200 §3.
        ETHERTYPE_IPV4 => IpAddr::from(Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?)),
        ETHERTYPE_IPV6 => IpAddr::from(Ipv6Addr::from(*packet.get(8..)?.first_chunk::<16>()?)),
        _ => return None,
    };
    (!address.is_unspecified()).then_some(Used { address, vlan })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(address: [u8; 4]) -> Vec<u8> {
        [&[0; 12][..], &[8, 0, 0x45], &[0; 11], &address, &[0; 40]].concat()
    }

    #[test]
    fn each_address_is_told_once_for_each_vlan() {
        let mut addresses = Addresses::default();
        let used = |vlan| Some(Used { address: "10.0.0.2".parse().unwrap(), vlan });
        assert_eq!(addresses.note(&ipv4([10, 0, 0, 2])), used(0));
        assert_eq!(addresses.note(&ipv4([10, 0, 0, 2])), None);
        let mut tagged = ipv4([10, 0, 0, 2]);
        tagged.splice(12..12, [0x81, 0, 0x60, 7]);
        assert_eq!(addresses.note(&tagged), used(7));
        let ipv6 = [&[0; 12][..], &[0x86, 0xdd, 0x60], &[0; 7], &Ipv6Addr::LOCALHOST.octets(), &[0; 16]].concat();
        assert_eq!(addresses.note(&ipv6), Some(Used { address: Ipv6Addr::LOCALHOST.into(), vlan: 0 }));
    }

    #[test]
    fn what_has_no_source_says_nothing() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.note(&ipv4([0; 4])), None);
        let frame = ipv4([10, 0, 0, 2]);
        (0..30).for_each(|len| assert_eq!(addresses.note(&frame[..len]), None, "{len}"));
        assert_eq!(addresses.note(&[&[0; 12][..], &[8, 6], &[1; 46]].concat()), None);
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut addresses = Addresses::default();
        for number in 1..=MAX_ADDRESSES + 1 {
            let [high, low] = (number as u16).to_be_bytes();
            assert!(addresses.note(&ipv4([10, 0, high, low])).is_some());
        }
        assert!(addresses.note(&ipv4([10, 0, 0, 2])).is_none() && addresses.note(&ipv4([10, 0, 0, 1])).is_some());
        assert_eq!((addresses.seen.len(), addresses.order.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
    }
}
