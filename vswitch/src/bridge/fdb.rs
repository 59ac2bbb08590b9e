//! The forwarding database: which port each station was last heard on (IEEE 802.1Q-2018 §8.8).
//!
//! # Theory of operation
//! A station is a VLAN and an address. It is learned from a source address, moves with its station, and counts no
//! longer when it has not been heard for the ageing time. A static entry is an administrator's word: it neither moves
//! nor ages.
//!
//! A frame costs a probe for its destination and one for its source, and one or two more where they are unknown,
//! whatever the table holds. Nothing is swept on a frame's behalf: an entry past its time is passed over where it is
//! met. Sweeping only makes room, so the bridge has a deadline for it only after somebody found none, and at most 64
//! times in an ageing time and once a second. A flood of invented addresses therefore fills the table once, is counted
//! from then on, and costs a frame no more than other frames do.
//!
//! Invariant: the count of a port is the number of its dynamic entries in the table, those past their time included;
//! the static ones are counted too. Forgetting a port that has none costs no pass over the table.
//!
//! Neighbours: `hash` for the keys, `clock` for ticks; [`super::Bridge`] learns and asks.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use link::MacAddr;

use super::address::Address;
use super::clock::{Tick, ticks};
use super::hash::Keyed;
use crate::{PortId, VlanId};

/// How long a station is remembered without being heard, as IEEE 802.1Q-2018 table 8-6 recommends.
pub const DEFAULT_AGEING: Duration = Duration::from_secs(300);

/// Stations remembered at most, unless told otherwise.
pub const DEFAULT_CAPACITY: usize = 65536;

/// Sweeps are at least this far apart, and at least 1/64 of the ageing time.
const SWEEP_PAUSE: Tick = 1000;

/// A forwarding database.
#[derive(Debug)]
pub struct Fdb {
    stations: HashMap<Key, Entry, Keyed>,
    /// Dynamic entries by port index.
    counts: Vec<u32>,
    /// Static entries.
    statics: usize,
    ageing: Tick,
    /// Ageing times of their own, by VLAN index; empty while no VLAN has one.
    vlan_ageing: Vec<Option<Tick>>,
    hold: Tick,
    capacity: usize,
    refused: u64,
    /// No entry expires before.
    next_expiry: Tick,
    /// No sweep before.
    next_sweep: Tick,
    /// Somebody found no room since the last sweep.
    is_room_wanted: bool,
}

/// What learning does with a source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// The station was unknown, and is entered.
    New,
    /// It is known on this port.
    Known,
    /// It was known on another port, and is here now.
    Moved(PortId),
    /// It was heard on another port a moment ago, and stays there ([`Fdb::set_hold`]).
    Held(PortId),
    /// A static entry has it on another port.
    Fixed(PortId),
    /// The port may bring in no more stations.
    PortFull,
    /// The table is full.
    TableFull,
}

/// An entry, as a table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its VLAN.
    pub vlan: VlanId,
    /// Its address.
    pub address: MacAddr,
    /// Where it is.
    pub port: PortId,
    /// How long ago it was heard; none for a static entry.
    pub age: Option<Duration>,
}

/// A VLAN and an address in one word: 12 bits and 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

impl Key {
    #[inline]
    pub(super) fn new(vlan: VlanId, address: Address) -> Self {
        Self(u64::from(vlan.number()) << 48 | address.number())
    }

    fn vlan(self) -> VlanId {
        VlanId::new((self.0 >> 48) as u16).unwrap_or_default()
    }

    fn address(self) -> MacAddr {
        Address::from_high_bits(self.0 << 16).into()
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// When; [`Entry::STATIC`] is later than any time, so that a static entry is never old and never heard later. A
    /// cell, because asking the table shared is what costs least.
    heard: Cell<Tick>,
    port: PortId,
}

impl Entry {
    const STATIC: Tick = Tick::MAX;

    fn is_static(&self) -> bool {
        self.heard.get() == Self::STATIC
    }
}

impl Fdb {
    /// An empty table; `seed` keys it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            stations: HashMap::with_hasher(Keyed::new(seed)),
            counts: Vec::new(),
            statics: 0,
            ageing: ticks(DEFAULT_AGEING),
            vlan_ageing: Vec::new(),
            hold: 0,
            capacity: DEFAULT_CAPACITY,
            refused: 0,
            next_expiry: Tick::MAX,
            next_sweep: 0,
            is_room_wanted: false,
        }
    }

    /// Stations in the table, those past their time included.
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

    /// Dynamic entries of a port, those past their time included.
    #[must_use]
    pub fn stations_on(&self, port: PortId) -> u32 {
        self.counts.get(port.index()).copied().unwrap_or(0)
    }

    /// How long a station is remembered without being heard, in VLANs that have no time of their own.
    #[must_use]
    pub fn ageing(&self) -> Duration {
        Duration::from_millis(self.ageing)
    }

    /// Sets [`Fdb::ageing`], to the millisecond.
    pub fn set_ageing(&mut self, ageing: Duration) {
        self.ageing = ticks(ageing);
        self.next_expiry = 0;
    }

    /// A VLAN's own ageing time.
    #[must_use]
    pub fn vlan_ageing(&self, vlan: VlanId) -> Option<Duration> {
        self.vlan_ageing.get(vlan.index()).copied().flatten().map(Duration::from_millis)
    }

    /// Gives a VLAN its own ageing time, or takes it away.
    pub fn set_vlan_ageing(&mut self, vlan: VlanId, ageing: Option<Duration>) {
        self.vlan_ageing.resize(VlanId::COUNT, None);
        self.vlan_ageing[vlan.index()] = ageing.map(ticks);
        if self.vlan_ageing.iter().all(Option::is_none) {
            self.vlan_ageing = Vec::new();
        }
        self.next_expiry = 0;
    }

    /// How long after it was last heard a station cannot appear on another port; 0, the default, lets it move at once.
    #[must_use]
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.hold)
    }

    /// Sets [`Fdb::hold`], VDE's minimum persistence, to the millisecond.
    pub fn set_hold(&mut self, hold: Duration) {
        self.hold = ticks(hold);
    }

    /// Stations remembered at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets [`Fdb::capacity`]. What is in the table beyond it stays until it ages.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Removes one entry, static or not; whether it was there.
    pub fn forget(&mut self, vlan: VlanId, address: MacAddr) -> bool {
        let Some(entry) = self.stations.remove(&Key::new(vlan, address.into())) else { return false };
        uncount(&mut self.counts, &mut self.statics, &entry);
        true
    }

    /// Forgets the stations learned on a port.
    pub fn forget_port(&mut self, port: PortId) {
        if self.stations_on(port) != 0 {
            self.retain(|_, entry| entry.port != port || entry.is_static());
        }
    }

    /// Forgets the stations of one VLAN learned on a port.
    pub fn forget_port_vlan(&mut self, port: PortId, vlan: VlanId) {
        if self.stations_on(port) != 0 {
            self.retain(|key, entry| entry.port != port || key.vlan() != vlan || entry.is_static());
        }
    }

    /// Forgets all stations learned.
    pub fn forget_all(&mut self) {
        self.retain(|_, entry| entry.is_static());
    }

    /// Removes the entries of a port, static ones too.
    pub(super) fn remove_port(&mut self, port: PortId) {
        if self.stations_on(port) != 0 || self.statics != 0 {
            self.retain(|_, entry| entry.port != port);
        }
    }

    /// Enters a station for good, and overrides what was learned of it.
    pub(super) fn set_static(&mut self, vlan: VlanId, address: MacAddr, port: PortId) {
        self.forget(vlan, address);
        self.stations.insert(Key::new(vlan, address.into()), Entry { heard: Cell::new(Entry::STATIC), port });
        self.statics += 1;
    }

    /// Notes that a frame from `source` came in on `port`, if that is where it is known to be; whether it is.
    #[inline]
    pub(super) fn hear(&self, source: Key, port: PortId, tick: Tick) -> bool {
        let Some(entry) = self.stations.get(&source).filter(|entry| entry.port == port) else { return false };
        if entry.heard.get() < tick {
            entry.heard.set(tick);
        }
        true
    }

    /// What [`Fdb::learn`] would do.
    pub(super) fn judge(&self, source: Key, port: PortId, limit: u32, tick: Tick) -> Learned {
        let entry = self.stations.get(&source);
        match entry {
            Some(entry) if entry.port == port => Learned::Known,
            Some(entry) if entry.is_static() => Learned::Fixed(entry.port),
            Some(entry) if self.is_fresh(source, entry, tick) && tick.saturating_sub(entry.heard.get()) < self.hold => {
                Learned::Held(entry.port)
            }
            _ if self.stations_on(port) >= limit => Learned::PortFull,
            Some(entry) if self.is_fresh(source, entry, tick) => Learned::Moved(entry.port),
            None if self.stations.len() >= self.capacity => Learned::TableFull,
            _ => Learned::New,
        }
    }

    /// Notes that a frame from `source` came in on `port`, which may bring in up to `limit` stations.
    pub(super) fn learn(&mut self, source: Key, port: PortId, limit: u32, tick: Tick) -> Learned {
        if self.hear(source, port, tick) {
            return Learned::Known;
        }
        let learned = self.judge(source, port, limit, tick);
        match learned {
            Learned::New | Learned::Moved(_) => {
                if let Some(before) = self.stations.insert(source, Entry { heard: Cell::new(tick), port }) {
                    uncount(&mut self.counts, &mut self.statics, &before);
                }
                if self.counts.len() <= port.index() {
                    self.counts.resize(port.index() + 1, 0);
                }
                self.counts[port.index()] += 1;
                self.next_expiry = self.next_expiry.min(tick.saturating_add(self.ageing_of(source)));
            }
            Learned::PortFull => self.is_room_wanted = true,
            Learned::TableFull => {
                self.is_room_wanted = true;
                self.refused += 1;
            }
            Learned::Known | Learned::Held(_) | Learned::Fixed(_) => {}
        }
        learned
    }

    /// The port of a station that counts.
    #[inline]
    pub(super) fn lookup(&self, destination: Key, tick: Tick) -> Option<PortId> {
        let entry = self.stations.get(&destination)?;
        self.is_fresh(destination, entry, tick).then_some(entry.port)
    }

    /// A station that counts.
    pub(super) fn find(&self, vlan: VlanId, address: MacAddr, tick: Tick) -> Option<Station> {
        let key = Key::new(vlan, address.into());
        let entry = self.stations.get(&key)?;
        self.is_fresh(key, entry, tick).then(|| station(key, entry, tick))
    }

    /// The station of this address in the lowest VLAN where it counts. Costs a probe for each VLAN.
    pub(super) fn find_lowest(&self, address: MacAddr, tick: Tick) -> Option<Station> {
        (0..VlanId::COUNT as u16).filter_map(VlanId::new).find_map(|vlan| self.find(vlan, address, tick))
    }

    /// The stations that count, in no order.
    pub(super) fn stations(&self, tick: Tick) -> impl Iterator<Item = Station> {
        let stations = self.stations.iter().filter(move |(key, entry)| self.is_fresh(**key, entry, tick));
        stations.map(move |(key, entry)| station(*key, entry, tick))
    }

    /// When a sweep can make room that somebody wants.
    pub(super) fn deadline(&self) -> Option<Tick> {
        self.is_room_wanted.then(|| self.next_expiry.max(self.next_sweep)).filter(|tick| *tick != Tick::MAX)
    }

    /// Sweeps, if that is due.
    pub(super) fn expire(&mut self, tick: Tick) {
        if self.deadline().is_none_or(|due| tick < due) {
            return;
        }
        let (ageing, vlan_ageing) = (self.ageing, std::mem::take(&mut self.vlan_ageing));
        let mut next_expiry = Tick::MAX;
        self.retain(|key, entry| {
            let ageing = vlan_ageing.get(key.vlan().index()).copied().flatten().unwrap_or(ageing);
            let is_fresh = tick.saturating_sub(entry.heard.get()) < ageing;
            if is_fresh {
                next_expiry = next_expiry.min(entry.heard.get().saturating_add(ageing));
            }
            is_fresh
        });
        self.vlan_ageing = vlan_ageing;
        self.next_expiry = next_expiry;
        self.next_sweep = tick + SWEEP_PAUSE.max(ageing / 64);
        self.is_room_wanted = false;
    }

    #[inline]
    fn is_fresh(&self, key: Key, entry: &Entry, tick: Tick) -> bool {
        tick.saturating_sub(entry.heard.get()) < self.ageing_of(key)
    }

    #[inline]
    fn ageing_of(&self, key: Key) -> Tick {
        if self.vlan_ageing.is_empty() {
            return self.ageing;
        }
        self.vlan_ageing.get(key.vlan().index()).copied().flatten().unwrap_or(self.ageing)
    }

    fn retain(&mut self, mut keep: impl FnMut(Key, &Entry) -> bool) {
        let (counts, statics) = (&mut self.counts, &mut self.statics);
        self.stations.retain(|key, entry| {
            let is_kept = keep(*key, entry);
            if !is_kept {
                uncount(counts, statics, entry);
            }
            is_kept
        });
    }
}

fn station(key: Key, entry: &Entry, tick: Tick) -> Station {
    let age = (!entry.is_static()).then(|| Duration::from_millis(tick.saturating_sub(entry.heard.get())));
    Station { vlan: key.vlan(), address: key.address(), port: entry.port, age }
}

fn uncount(counts: &mut [u32], statics: &mut usize, entry: &Entry) {
    if entry.is_static() {
        *statics -= 1;
    } else if let Some(count) = counts.get_mut(entry.port.index()) {
        *count -= 1;
    }
}

#[cfg(test)]
#[path = "fdb_test.rs"]
mod tests;
