//! Rapid spanning tree (IEEE 802.1D-2004 clause 17), with STP for neighbours that know no better.
//!
//! Pure: links, BPDUs and the time go in, and [`Action`]s come out. One tree for all VLANs.
//!
//! | file | what it holds |
//! |---|---|
//! | `values` | identifiers, priority vectors, times |
//! | `bpdu` | the frames |
//! | `timer` | a port's timer |
//! | `port` | a port's variables, Timers, Receive, Protocol Migration, Bridge Detection, State Transition |
//! | `info` | Port Information |
//! | `selection` | Port Role Selection, and the bridge's variables |
//! | `roles` | Port Role Transitions |
//! | `topology` | Topology Change |
//! | `transmit` | Port Transmit |
//!
//! Every call runs the machines until all of them rest, so between two calls nothing is pending but timers:
//!
//! ```text
//! BPDU, link, setting, timer ──> information ──> selection ──> roles ──> state ──> topology ──┐
//!                                     ^                                                       │ until all rest
//!                                     └───────────────────────────────────────────────────────┤
//!                                                    SetState, Flush, then Transmit <─────────┘
//! ```
//!
//! Timers are moments, not counters, so there is no tick. In a stable tree the one periodic work is the hello, once per
//! hello time for all ports together, and none at all where every port with a link leads to the root or stands by.
//!
//! Ports discard before others forward, and both before a BPDU tells of it, so actions are to be carried out in order.
//! The standard's own weakness stays: while word of a lost root still goes round, a loop can stand for a moment.
//!
//! Not there: `ForceProtocolVersion` (§17.13.4), as migration does without, and rapid ageing instead of flushing.

mod bpdu;
mod info;
mod port;
mod roles;
mod selection;
mod timer;
mod topology;
mod transmit;
mod values;

use std::time::{Duration, Instant};

use link::MacAddr;

use crate::PortId;
use bpdu::Bpdu;
use port::Port;
use roles::Together;
use selection::Tree;
pub use values::{BridgeId, PortIdentifier, Times, TimesError};

/// Rounds over all ports that the machines may take to rest. A round is a handful of steps of each machine, and what an
/// event sets off crosses the ports in a few; the bound is there so that no BPDU can ever hold the switch up.
const MAX_ROUNDS: usize = 64;

/// Spanning tree of one bridge.
///
/// It begins switched off: the bridge then forwards on all ports, as [`crate::bridge::Bridge`] does with a new port.
#[derive(Debug)]
pub struct Stp {
    tree: Tree,
    /// In the order of their numbers.
    ports: Vec<Port>,
}

impl Stp {
    /// Spanning tree, switched off, of a bridge without ports, with the times of table 17-1.
    #[must_use]
    pub fn new(settings: BridgeSettings) -> Self {
        Self { tree: Tree::new(settings, Times::DEFAULT), ports: Vec::new() }
    }

    /// Switches spanning tree on: ports discard until they are known to close no loop.
    pub fn enable(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.is_enabled() {
            return;
        }
        self.tree.started = Some(now);
        self.tree.reselect = true;
        for port in &mut self.ports {
            port.begin(&self.tree);
            port.fdb_flush = true;
        }
        self.run(now, out);
    }

    /// Switches spanning tree off: all ports forward, guarded ones too.
    pub fn disable(&mut self, out: &mut Vec<Action>) {
        self.tree.started = None;
        self.tree.select_roles(&mut []);
        for port in &mut self.ports {
            port.begin(&self.tree);
            announce(port, PortState::Forwarding, out);
        }
    }

    /// Whether it is on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.tree.started.is_some()
    }

    /// Adds a port without a link, or changes the settings of one that is there.
    pub fn add_port(&mut self, port: PortId, settings: PortSettings, now: Instant, out: &mut Vec<Action>) {
        match self.position(port) {
            Ok(_) => return self.set_port(port, settings, now, out),
            Err(place) => self.ports.insert(place, Port::new(port, settings.within_bounds(), &self.tree)),
        }
        self.run(now, out);
    }

    /// Removes a port. Nothing more is said of it.
    pub fn remove_port(&mut self, port: PortId, now: Instant, out: &mut Vec<Action>) {
        if let Ok(place) = self.position(port) {
            self.ports.remove(place);
            self.tree.reselect = true;
            self.run(now, out);
        }
    }

    /// Changes what the administrator says of a port. [`Edge::Always`] counts from now on if no bridge was heard on the
    /// port since its link came up, else from the next link on; without `bpdu_guard` a shut port opens.
    pub fn set_port(&mut self, port: PortId, settings: PortSettings, now: Instant, out: &mut Vec<Action>) {
        if let Some(port) = self.port_mut(port) {
            port.set_settings(settings.within_bounds());
            port.update_enabled(now);
            self.tree.reselect = true;
            self.run(now, out);
        }
    }

    /// Says whether something is plugged into a port.
    pub fn set_link(&mut self, port: PortId, up: bool, now: Instant, out: &mut Vec<Action>) {
        if let Some(port) = self.port_mut(port) {
            port.link_up = up;
            self.run(now, out);
        }
    }

    /// Changes what the administrator says of the bridge.
    pub fn set_bridge(&mut self, settings: BridgeSettings, now: Instant, out: &mut Vec<Action>) {
        self.tree.id = BridgeId::new(settings);
        self.reselect(now, out);
    }

    /// Changes the times that this bridge hands out where it is the root, and the pace of its hellos everywhere.
    ///
    /// # Errors
    /// A time out of the bounds of table 17-1, or two that contradict each other (§17.14). Nothing changes then.
    pub fn set_times(
        &mut self,
        hello: Duration,
        max_age: Duration,
        forward_delay: Duration,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), TimesError> {
        self.tree.times = Times::checked(hello, max_age, forward_delay)?;
        self.reselect(now, out);
        Ok(())
    }

    /// Takes a frame to the bridge group address, whole from the destination address on, that came in on a port.
    pub fn receive(&mut self, port: PortId, frame: &[u8], now: Instant, out: &mut Vec<Action>) {
        if !self.is_enabled() {
            return;
        }
        let Ok(place) = self.position(port) else { return };
        let (tree, Some(port)) = (&self.tree, self.ports.get_mut(place)) else { return };
        let Some(bpdu) = Bpdu::parse(frame) else {
            port.counters.bad += 1;
            return;
        };
        port.counters.received += 1;
        if let Bpdu::Message(message) = bpdu
            && port.is_own(&message, tree)
        {
            port.counters.own += 1;
        }
        if !port.port_enabled {
            return;
        }
        if port.settings.bpdu_guard {
            port.tripped = true;
            out.push(Action::GuardTripped { port: port.id });
        } else {
            port.receive(bpdu, now);
        }
        self.run(now, out);
    }

    /// Opens a port that BPDU guard has shut.
    pub fn reset_guard(&mut self, port: PortId, now: Instant, out: &mut Vec<Action>) {
        if let Some(port) = self.port_mut(port) {
            port.tripped = false;
            self.run(now, out);
        }
    }

    /// Tries RSTP again on a port that has fallen back to STP (mcheck, §17.19.13).
    pub fn check_migration(&mut self, port: PortId, now: Instant, out: &mut Vec<Action>) {
        if let Some(port) = self.port_mut(port) {
            port.mcheck = true;
            self.run(now, out);
        }
    }

    /// When [`Stp::expire`] has something to do; never while spanning tree is off or no port has a link.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.tree.started?;
        self.ports.iter().filter_map(|port| port.deadline(&self.tree)).min()
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.run(now, out);
    }

    /// A port, as a table shows it.
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<PortStatus> {
        self.position(port).ok().and_then(|place| self.ports.get(place)).map(Port::status)
    }

    /// The tree, as a table shows it.
    #[must_use]
    pub fn root(&self) -> RootStatus {
        RootStatus {
            bridge: self.tree.id,
            root: self.tree.root_priority.root,
            cost: self.tree.root_priority.cost,
            port: self.tree.root_port,
            times: self.tree.designated_times(),
            bridge_times: self.tree.times,
            topology_changes: self.tree.changes,
            changed_at: self.tree.changed_at,
        }
    }

    fn position(&self, port: PortId) -> Result<usize, usize> {
        self.ports.binary_search_by_key(&port, |port| port.id)
    }

    fn port_mut(&mut self, port: PortId) -> Option<&mut Port> {
        let place = self.position(port).ok()?;
        self.ports.get_mut(place)
    }

    /// The bridge's own values have changed.
    fn reselect(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.tree.reselect = true;
        if self.is_enabled() {
            self.run(now, out);
        } else {
            self.tree.select_roles(&mut []);
        }
    }

    /// Runs all machines until they rest, and says what has come of it.
    fn run(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.is_enabled() {
            return;
        }
        for port in &mut self.ports {
            port.tick(&self.tree, now);
            port.update_enabled(now);
        }
        let was_changing = self.ports.iter().any(|port| !port.tc_while.is_zero());
        let before = out.len();
        let rests = (0..MAX_ROUNDS).any(|_| !self.round(now, out));
        debug_assert!(rests, "the machines do not come to rest");
        if out.iter().skip(before).any(|action| matches!(action, Action::TopologyChanged { .. })) {
            self.tree.changes += u64::from(!was_changing);
            self.tree.changed_at = Some(now);
        }
        self.publish(now, out);
    }

    /// One round of all machines but Port Transmit; whether any of them moved.
    fn round(&mut self, now: Instant, out: &mut Vec<Action>) -> bool {
        let mut moved = false;
        for port in &mut self.ports {
            moved |= port.protocol_migration(now);
            moved |= port.bridge_detection();
            while port.information(&self.tree, now) {
                moved = true;
            }
        }
        if self.tree.reselect || self.ports.iter().any(|port| !port.selected) {
            self.tree.select_roles(&mut self.ports);
            moved = true;
        }
        for place in 0..self.ports.len() {
            while self.role_transition(place, now) {
                moved = true;
            }
        }
        for port in &mut self.ports {
            while port.state_transition() {
                moved = true;
            }
        }
        for place in 0..self.ports.len() {
            while self.topology_change(place, now, out) {
                moved = true;
            }
        }
        moved
    }

    fn role_transition(&mut self, place: usize, now: Instant) -> bool {
        let Some(port) = self.ports.get(place) else { return false };
        let together = Together::look(&self.ports, port);
        let Some(port) = self.ports.get_mut(place) else { return false };
        match port.role_transition(&self.tree, together, now) {
            roles::Step::Rests => return false,
            roles::Step::Moved => {}
            roles::Step::SyncTree => self.ports.iter_mut().for_each(|port| port.sync = true),
            roles::Step::ReRootTree => self.ports.iter_mut().for_each(|port| port.re_root = true),
        }
        true
    }

    fn topology_change(&mut self, place: usize, now: Instant, out: &mut Vec<Action>) -> bool {
        let Some(port) = self.ports.get_mut(place) else { return false };
        match port.topology_change(&self.tree, now, out) {
            topology::Step::Rests => return false,
            topology::Step::Moved => {}
            topology::Step::Propagate => {
                let others = self.ports.iter_mut().enumerate().filter(|(other, _)| *other != place);
                others.for_each(|(_, port)| port.tc_prop = true);
            }
        }
        true
    }

    /// What the bridge has to do: discard, then forward, forget, and tell the neighbours.
    fn publish(&mut self, now: Instant, out: &mut Vec<Action>) {
        for discard in [true, false] {
            for port in &mut self.ports {
                let state = port.state();
                if (state == PortState::Discarding) == discard {
                    announce(port, state, out);
                }
            }
        }
        for port in self.ports.iter_mut().filter(|port| port.fdb_flush) {
            port.fdb_flush = false;
            out.push(Action::Flush { port: port.id });
        }
        for port in &mut self.ports {
            port.transmit(&self.tree, now, out);
        }
    }
}

/// Tells the bridge what a port does, if it is news.
fn announce(port: &mut Port, state: PortState, out: &mut Vec<Action>) {
    if std::mem::replace(&mut port.announced, state) != state {
        out.push(Action::SetState { port: port.id, state });
    }
}

/// What a port does with frames (§7.4, §17.10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortState {
    /// Takes none.
    Discarding,
    /// Learns addresses, and forwards none.
    Learning,
    /// Learns and forwards.
    #[default]
    Forwarding,
}

impl PortState {
    /// Its name in tables and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Discarding => "discarding",
            Self::Learning => "learning",
            Self::Forwarding => "forwarding",
        }
    }
}

/// A port's place in the tree (§17.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// No carrier, or spanning tree is off.
    #[default]
    Disabled,
    /// The way to the root.
    Root,
    /// The way from the root to this segment.
    Designated,
    /// Another way to the root.
    Alternate,
    /// Another way from this bridge to the same segment.
    Backup,
}

/// Whether a port leads to stations only, so that it may forward at once (§17.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Edge {
    /// Yes, until a BPDU arrives; then no, for as long as the link is up.
    Always,
    /// No.
    Never,
    /// It is found out: no BPDU within 3 s (§17.25, bridge detection).
    #[default]
    Auto,
}

/// What the administrator says of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeSettings {
    /// 0 to 61440 in steps of 4096 (§17.14); 32768 unless told otherwise.
    pub priority: u16,
    /// The bridge's address, the rest of its identifier.
    pub address: MacAddr,
}

/// What the administrator says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSettings {
    /// 1 to 200,000,000 (§17.14, table 17-3).
    pub path_cost: u32,
    /// 0 to 240 in steps of 16.
    pub priority: u8,
    /// Whether stations only are behind it.
    pub edge: Edge,
    /// Whether one other bridge at most is behind it: a full-duplex cable (§6.4.3).
    pub point_to_point: bool,
    /// Shut the port when a BPDU arrives.
    pub bpdu_guard: bool,
}

impl Default for PortSettings {
    /// A virtual cable: the cost of 10 Gbit/s (table 17-3), point to point, the middle priority, edge if no bridge is
    /// heard.
    fn default() -> Self {
        Self { path_cost: 2000, priority: 128, edge: Edge::Auto, point_to_point: true, bpdu_guard: false }
    }
}

impl PortSettings {
    /// What is out of its range becomes the nearest that is in it.
    fn within_bounds(self) -> Self {
        Self { path_cost: self.path_cost.clamp(1, 200_000_000), priority: self.priority & 0xf0, ..self }
    }
}

/// What spanning tree wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this frame, complete but for FCS, out of the port.
    Transmit {
        /// The port.
        port: PortId,
        /// The frame, from the destination address on.
        frame: Vec<u8>,
    },
    /// The port does this with frames from now on.
    SetState {
        /// The port.
        port: PortId,
        /// What it does.
        state: PortState,
    },
    /// Forget the stations learned on the port.
    Flush {
        /// The port.
        port: PortId,
    },
    /// A BPDU came in on a guarded port, which stays shut until [`Stp::reset_guard`].
    GuardTripped {
        /// The port.
        port: PortId,
    },
    /// The tree has changed: the port has begun to forward, or a neighbour on it has heard of a change. Said once for
    /// as long as the neighbour repeats it.
    TopologyChanged {
        /// The port.
        port: PortId,
    },
}

/// A port, as a table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// Its place in the tree.
    pub role: Role,
    /// What it does with frames.
    pub state: PortState,
    /// What the administrator says of it.
    pub settings: PortSettings,
    /// Whether something is plugged in.
    pub link_up: bool,
    /// Whether it forwards as an edge now.
    pub oper_edge: bool,
    /// Its own identifier.
    pub identifier: PortIdentifier,
    /// The root, by the best bridge on its segment.
    pub designated_root: BridgeId,
    /// The path cost from there to the root.
    pub designated_cost: u32,
    /// The best bridge on its segment: this one behind a Designated Port.
    pub designated_bridge: BridgeId,
    /// That bridge's port.
    pub designated_port: PortIdentifier,
    /// Whether it sends RST BPDUs; else the neighbour speaks STP.
    pub is_rstp: bool,
    /// Whether BPDU guard has shut it.
    pub guarded: bool,
    /// BPDUs.
    pub counters: BpduCounters,
}

/// BPDUs of a port since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BpduCounters {
    /// Sent.
    pub sent: u64,
    /// Received and well-formed.
    pub received: u64,
    /// Of those, the port's own, come back: the port is looped to itself.
    pub own: u64,
    /// Frames to the bridge group address that are no BPDU, or a malformed or outdated one.
    pub bad: u64,
}

/// The tree, as a table shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootStatus {
    /// This bridge.
    pub bridge: BridgeId,
    /// The root: the same, if this is it.
    pub root: BridgeId,
    /// The path cost to the root.
    pub cost: u32,
    /// The port that leads to it.
    pub port: Option<PortId>,
    /// The times in use.
    pub times: Times,
    /// The times that this bridge would hand out as the root.
    pub bridge_times: Times,
    /// How often the topology has changed; what follows within the time that one change is talked of is the same.
    pub topology_changes: u64,
    /// When it last did.
    pub changed_at: Option<Instant>,
}

#[cfg(test)]
#[path = "mod_test.rs"]
mod tests;

#[cfg(test)]
#[path = "net_test.rs"]
mod net_tests;
