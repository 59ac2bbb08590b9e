//! The forwarding decision of a learning bridge (IEEE 802.1D-2004 §7.7): group and unknown destinations flood, known ones
//! go to their port, and a frame for a station on the port it came from goes nowhere.

use std::time::Instant;

use link::{ETHERNET_HEADER_LEN, MacAddr};
use plug::{Egress, Forward};

use crate::fdb::{DEFAULT_AGEING, DEFAULT_CAPACITY, Fdb};

/// Forwarding by learned addresses.
#[derive(Debug)]
pub struct Learning {
    fdb: Fdb<usize>,
}

impl Default for Learning {
    fn default() -> Self {
        Self { fdb: Fdb::new(DEFAULT_AGEING, DEFAULT_CAPACITY) }
    }
}

impl Forward for Learning {
    fn forward(&mut self, ingress: usize, header: &[u8; ETHERNET_HEADER_LEN], now: Instant) -> Egress {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, _, _] = *header;
        self.fdb.learn(MacAddr([s0, s1, s2, s3, s4, s5]), ingress, now);
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        if destination.is_multicast() {
            return Egress::Flood;
        }
        match self.fdb.lookup(destination, now) {
            None => Egress::Flood,
            Some(port) if port == ingress => Egress::Nowhere,
            Some(port) => Egress::Port(port),
        }
    }

    fn port_closed(&mut self, port: usize) {
        self.fdb.forget_port(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(destination: u8, source: u8) -> [u8; ETHERNET_HEADER_LEN] {
        [2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source, 8, 0]
    }

    #[test]
    fn unknown_unicast_floods_and_known_unicast_goes_to_its_port() {
        let now = Instant::now();
        let mut learning = Learning::default();
        assert_eq!(learning.forward(0, &header(2, 1), now), Egress::Flood);
        assert_eq!(learning.forward(1, &header(1, 2), now), Egress::Port(0));
        assert_eq!(learning.forward(0, &header(2, 1), now), Egress::Port(1));
    }

    #[test]
    fn neighbours_on_one_port_are_not_forwarded() {
        let now = Instant::now();
        let mut learning = Learning::default();
        learning.forward(0, &header(9, 1), now);
        assert_eq!(learning.forward(0, &header(1, 2), now), Egress::Nowhere);
    }

    #[test]
    fn broadcast_floods_and_a_closed_port_is_forgotten() {
        let now = Instant::now();
        let mut learning = Learning::default();
        let mut broadcast = header(0, 1);
        broadcast[..6].fill(0xff);
        assert_eq!(learning.forward(0, &broadcast, now), Egress::Flood);
        learning.port_closed(0);
        assert_eq!(learning.forward(1, &header(1, 2), now), Egress::Flood);
    }
}
