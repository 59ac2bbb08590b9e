//! The forwarding database: which port each station was last heard on (IEEE 802.1D-2004 §7.9).
//!
//! Pure: time is an argument. An entry is learned from a source address, moves with its station, and is forgotten when it
//! has not been heard for the ageing time or when its port goes away. The table is bounded; when it is full, stations that
//! are not in it stay unknown, so their frames flood, and are counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use link::MacAddr;

/// How long a station is remembered without being heard, as IEEE 802.1D-2004 table 7-5 recommends.
pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);

/// Stations remembered at most, unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 65536;

/// A forwarding database. `P` names a port.
#[derive(Debug)]
pub struct Fdb<P> {
    stations: HashMap<MacAddr, Station<P>>,
    ageing: Duration,
    capacity: usize,
    /// When the oldest entry can expire at the earliest: no sweep is worth its cost before.
    next_sweep: Option<Instant>,
    refused: u64,
}

#[derive(Debug, Clone, Copy)]
struct Station<P> {
    port: P,
    heard: Instant,
}

/// What learning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned<P> {
    /// The station was unknown.
    New,
    /// It was known on this port.
    Known,
    /// It was known on another port.
    Moved(P),
    /// The table is full, or the address is a group's and cannot be a source.
    Refused,
}

impl<P: Copy + PartialEq> Fdb<P> {
    /// An empty table.
    #[must_use]
    pub fn new(ageing: Duration, capacity: usize) -> Self {
        Self { stations: HashMap::new(), ageing, capacity, next_sweep: None, refused: 0 }
    }

    /// Notes that a frame from `source` came in on `port`.
    pub fn learn(&mut self, source: MacAddr, port: P, now: Instant) -> Learned<P> {
        if source.is_multicast() {
            return Learned::Refused;
        }
        if let Some(station) = self.stations.get_mut(&source) {
            let before = std::mem::replace(station, Station { port, heard: now });
            return if before.port == port { Learned::Known } else { Learned::Moved(before.port) };
        }
        if self.stations.len() >= self.capacity {
            self.sweep(now);
        }
        if self.stations.len() >= self.capacity {
            self.refused += 1;
            return Learned::Refused;
        }
        self.stations.insert(source, Station { port, heard: now });
        Learned::New
    }

    /// The port of a station that was heard within the ageing time.
    #[must_use]
    pub fn lookup(&self, destination: MacAddr, now: Instant) -> Option<P> {
        let station = self.stations.get(&destination)?;
        (now.saturating_duration_since(station.heard) < self.ageing).then_some(station.port)
    }

    /// Forgets every station on a port.
    pub fn forget_port(&mut self, port: P) {
        self.stations.retain(|_, station| station.port != port);
    }

    /// Stations in the table, expired ones that were not swept yet included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stations.len()
    }

    /// Whether no station is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    /// Frames whose source found the table full.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Removes what has expired. Costs a pass over the table, so it is only done when something can have expired.
    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|at| now < at) {
            return;
        }
        let ageing = self.ageing;
        self.stations.retain(|_, station| now.saturating_duration_since(station.heard) < ageing);
        self.next_sweep = self.stations.values().map(|station| station.heard).min().map(|oldest| oldest + ageing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    #[test]
    fn a_station_is_found_where_it_was_last_heard() {
        let now = Instant::now();
        let mut fdb = Fdb::new(DEFAULT_AGEING, 10);
        assert_eq!(fdb.lookup(A, now), None);
        assert_eq!(fdb.learn(A, 1, now), Learned::New);
        assert_eq!(fdb.learn(A, 1, now), Learned::Known);
        assert_eq!(fdb.learn(A, 2, now), Learned::Moved(1));
        assert_eq!(fdb.lookup(A, now), Some(2));
    }

    #[test]
    fn a_silent_station_is_forgotten_and_a_heard_one_is_not() {
        let start = Instant::now();
        let mut fdb = Fdb::new(Duration::from_secs(300), 10);
        fdb.learn(A, 1, start);
        fdb.learn(A, 1, start + Duration::from_secs(200));
        assert_eq!(fdb.lookup(A, start + Duration::from_secs(499)), Some(1));
        assert_eq!(fdb.lookup(A, start + Duration::from_secs(500)), None);
    }

    #[test]
    fn a_full_table_refuses_until_something_expires() {
        let start = Instant::now();
        let mut fdb = Fdb::new(Duration::from_secs(300), 2);
        fdb.learn(A, 1, start);
        fdb.learn(B, 1, start + Duration::from_secs(100));
        assert_eq!(fdb.learn(C, 2, start + Duration::from_secs(101)), Learned::Refused);
        assert_eq!(fdb.refused(), 1);
        assert_eq!(fdb.learn(C, 2, start + Duration::from_secs(300)), Learned::New);
        assert_eq!(fdb.len(), 2);
    }

    #[test]
    fn group_addresses_are_never_learned() {
        let mut fdb = Fdb::new(DEFAULT_AGEING, 2);
        assert_eq!(fdb.learn(MacAddr::BROADCAST, 1, Instant::now()), Learned::Refused);
        assert!(fdb.is_empty());
    }

    #[test]
    fn a_port_takes_its_stations_with_it() {
        let now = Instant::now();
        let mut fdb = Fdb::new(DEFAULT_AGEING, 10);
        fdb.learn(A, 1, now);
        fdb.learn(B, 2, now);
        fdb.forget_port(1);
        assert_eq!((fdb.lookup(A, now), fdb.lookup(B, now)), (None, Some(2)));
    }
}
