//! Which VTEP each station is behind: learned from the inner source address and the outer one (RFC 7348 §4.1). Pure: time
//! is an argument.
//!
//! A station that has moved is found where it was heard last. One that has not been heard for the ageing time is unknown
//! again. Nothing is swept on a frame's behalf: an entry past its time is passed over where it is met, and sweeping, which
//! only makes room, happens when there is none, at most once a second. A full table learns nothing new: frames to
//! stations that it does not know go to every peer, as to any unknown one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::MacAddr;

/// How long a station is remembered without being heard, as the kernel's device has it.
pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);
/// Stations remembered at most.
pub const CAPACITY: usize = 16384;

const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A table of stations.
#[derive(Debug)]
pub struct Table {
    stations: HashMap<MacAddr, Entry>,
    ageing: Duration,
    capacity: usize,
    /// No sweep before.
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    behind: SocketAddr,
    heard: Instant,
}

impl Table {
    /// An empty table for so many stations.
    #[must_use]
    pub fn new(ageing: Duration, capacity: usize) -> Self {
        Self { stations: HashMap::new(), ageing, capacity, next_sweep: None }
    }

    /// Notes that a station was heard from behind a VTEP. An address that no station has (a group's, or none) is not
    /// learned.
    pub fn learn(&mut self, station: MacAddr, behind: SocketAddr, now: Instant) {
        if station.is_multicast() || station.0 == [0; 6] {
            return;
        }
        if let Some(entry) = self.stations.get_mut(&station) {
            *entry = Entry { behind, heard: now };
            return;
        }
        if self.stations.len() >= self.capacity {
            self.sweep(now);
        }
        if self.stations.len() < self.capacity {
            self.stations.insert(station, Entry { behind, heard: now });
        }
    }

    /// The VTEP that a station is behind; none if it is not known, or not heard for too long.
    #[must_use]
    pub fn find(&self, station: MacAddr, now: Instant) -> Option<SocketAddr> {
        let entry = self.stations.get(&station)?;
        self.is_fresh(entry, now).then_some(entry.behind)
    }

    /// Stations in the table, those past their time included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stations.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    fn is_fresh(&self, entry: &Entry, now: Instant) -> bool {
        now.saturating_duration_since(entry.heard) < self.ageing
    }

    fn sweep(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|next| now < next) {
            return;
        }
        self.next_sweep = Some(now + SWEEP_PAUSE);
        let ageing = self.ageing;
        self.stations.retain(|_, entry| now.saturating_duration_since(entry.heard) < ageing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    fn vtep(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 4789))
    }

    #[test]
    fn a_station_is_found_where_it_was_heard_last() {
        let mut table = Table::new(DEFAULT_AGEING, CAPACITY);
        let now = Instant::now();
        assert_eq!(table.find(A, now), None);
        table.learn(A, vtep(1), now);
        table.learn(B, vtep(2), now);
        assert_eq!((table.find(A, now), table.find(B, now)), (Some(vtep(1)), Some(vtep(2))));
        table.learn(A, vtep(2), now);
        assert_eq!(table.find(A, now), Some(vtep(2)));
    }

    #[test]
    fn a_station_is_forgotten_that_is_not_heard() {
        let mut table = Table::new(Duration::from_secs(10), CAPACITY);
        let now = Instant::now();
        table.learn(A, vtep(1), now);
        let later = now + Duration::from_secs(9);
        assert_eq!(table.find(A, later), Some(vtep(1)));
        table.learn(A, vtep(1), later);
        assert_eq!(table.find(A, now + Duration::from_secs(18)), Some(vtep(1)));
        assert_eq!(table.find(A, now + Duration::from_secs(19)), None);
    }

    #[test]
    fn groups_and_nobody_are_not_learned() {
        let mut table = Table::new(DEFAULT_AGEING, CAPACITY);
        for address in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr([0; 6])] {
            table.learn(address, vtep(1), Instant::now());
        }
        assert!(table.is_empty());
    }

    #[test]
    fn a_full_table_learns_again_when_some_have_aged() {
        let mut table = Table::new(Duration::from_secs(10), 2);
        let now = Instant::now();
        table.learn(A, vtep(1), now);
        table.learn(B, vtep(1), now + Duration::from_secs(5));
        table.learn(C, vtep(1), now + Duration::from_secs(6));
        assert_eq!(table.find(C, now + Duration::from_secs(6)), None);
        // Known ones go on being followed.
        table.learn(B, vtep(2), now + Duration::from_secs(6));
        assert_eq!(table.find(B, now + Duration::from_secs(6)), Some(vtep(2)));
        table.learn(C, vtep(1), now + Duration::from_secs(11));
        assert_eq!(table.find(C, now + Duration::from_secs(11)), Some(vtep(1)));
        assert_eq!(table.len(), 2);
    }
}
