//! Ports, the links in them, and the frames between: what the event loop drives and the console changes.
//!
//! | file | what it holds |
//! |---|---|
//! | `port` | a port, and a member: a link plugged into it |
//! | `floor` | every port and member, and the line of those that may have frames |
//! | `pace` | how many frames a turn takes, and when to rest before the next |
//! | `path` | the data path of a turn |
//! | `capture` | what passes a port, kept until a watcher fetches it |
//! | `wake` | what a token means |
//!
//! Theory of operation. A member that is ready stands in a line; [`Switch::work`] lets each of them have a *turn*: some of
//! its frames are received, the bridge decides on each, and every port gets its share as one batch. A member with more
//! frames goes to the end of the line. So one that floods costs the others their share of the time, never more. What
//! a member does not take at once is dropped and counted as [`link::DropReason::LinkFull`]: this is the one place that decides so.
//!
//! A member whose link fails is taken out, said once, and the others go on.

mod capture;
mod floor;
mod pace;
mod path;
mod port;
mod wake;

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::time::{Duration, Instant, SystemTime};

use link::{Counters, Fragment, Link, LinkState, Locator, Soft, TxBatch, VnetHeader};
use mio::Registry;

use crate::bridge::{Bridge, Verdict};
use crate::stp::{Action, Stp};
use crate::vde::{Control, Member as Client, Peer};
use crate::{Event, PortId};

pub use capture::{Capture, CaptureKey, Caught, Direction};
pub use port::{Kind, Member, MemberKey, Port};
pub use wake::Wake;

use capture::Passing;
use floor::Floor;
use path::Memory;
use port::Tells;

/// Turns after which the event loop looks at everything else again.
const TURNS: usize = 64;
/// Turns of a member that has left: enough for all that a socket holds, in the smallest frames.
const LAST_TURNS: usize = 128;

/// Why something could not be done to a switch.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// No such port.
    #[error("port {0} does not exist")]
    NoPort(PortId),
    /// The port is there already.
    #[error("port {0} exists")]
    PortExists(PortId),
    /// A port above the number of ports.
    #[error("port {port}: the switch has {limit} ports (numports)")]
    PortLimit {
        /// The port.
        port: PortId,
        /// How many there are at most.
        limit: u32,
    },
    /// Something is plugged in.
    #[error("port {0} is in use")]
    PortInUse(PortId),
    /// Every port is in use.
    #[error("all {0} ports are in use (numports)")]
    Full(u32),
    /// The port is another user's.
    #[error("port {port} is not for user {uid}")]
    NotAdmitted {
        /// The port.
        port: PortId,
        /// Who wanted to join.
        uid: u32,
    },
    /// No such member.
    #[error("port {port} has no member {member}")]
    NoMember {
        /// The port.
        port: PortId,
        /// The member.
        member: MemberKey,
    },
    /// A link that cannot be opened.
    #[error(transparent)]
    Open(#[from] plug::OpenError),
    /// The operating system refused to watch a link.
    #[error("{name}: {}", link::reason(.source))]
    Watch {
        /// The link.
        name: String,
        /// What it said.
        source: io::Error,
    },
}

/// A switch.
pub struct Switch {
    /// The forwarding decision and everything it depends on.
    pub bridge: Bridge,
    /// Spanning tree.
    stp: Stp,
    numports: u32,
    floor: Floor,
    timers: BTreeSet<(Instant, MemberKey)>,
    registry: Registry,
    memory: Memory,
    actions: Vec<Action>,
    /// BPDUs of a turn.
    bpdus: Vec<Vec<u8>>,
    events: Vec<Event>,
    /// Whether a member of those that had a turn in this round floods.
    has_flood: bool,
}

impl Switch {
    /// A switch without ports, which will have at most `numports`. Links are registered with `registry`.
    #[must_use]
    pub fn new(bridge: Bridge, stp: Stp, numports: u32, registry: Registry) -> Self {
        Self {
            bridge,
            stp,
            numports,
            floor: Floor::default(),
            timers: BTreeSet::new(),
            registry,
            memory: Memory::default(),
            actions: Vec::new(),
            bpdus: Vec::new(),
            events: Vec::new(),
            has_flood: false,
        }
    }

    /// How many ports there may be.
    #[must_use]
    pub fn numports(&self) -> u32 {
        self.numports
    }

    /// Changes how many ports there may be.
    ///
    /// # Errors
    /// [`SwitchError::PortInUse`]: a port above the limit exists.
    pub fn set_numports(&mut self, numports: u32) -> Result<(), SwitchError> {
        match self.ports().last() {
            Some(last) if u32::from(last.id.number()) > numports => Err(SwitchError::PortInUse(last.id)),
            _ => {
                self.numports = numports;
                Ok(())
            }
        }
    }

    /// The ports there are, by number.
    pub fn ports(&self) -> impl DoubleEndedIterator<Item = &Port> {
        self.floor.ports.iter().flatten()
    }

    /// A port.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`].
    pub fn port(&self, id: PortId) -> Result<&Port, SwitchError> {
        self.floor.port(id).ok_or(SwitchError::NoPort(id))
    }

    /// A port, to change who may join it.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`].
    pub fn port_mut(&mut self, id: PortId) -> Result<&mut Port, SwitchError> {
        self.floor.port_mut(id).ok_or(SwitchError::NoPort(id))
    }

    /// A member.
    #[must_use]
    pub fn member(&self, key: MemberKey) -> Option<&Member> {
        self.floor.members.get(key as usize)
    }

    /// What is plugged into a port.
    pub fn members_of<'a>(&'a self, port: &'a Port) -> impl Iterator<Item = &'a Member> {
        port.members.iter().filter_map(|key| self.member(*key))
    }

    /// What a port has carried since its counters were last reset: transmitted went out of the switch, received came in.
    #[must_use]
    pub fn counters(&self, port: &Port) -> Counters {
        let mut sum = self.lifetime_counters(port);
        sum.subtract(&port.reset);
        sum
    }

    /// Starts a port's counters at zero again.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`].
    pub fn reset_counters(&mut self, id: PortId) -> Result<(), SwitchError> {
        let now = self.lifetime_counters(self.port(id)?);
        self.port_mut(id)?.reset = now;
        Ok(())
    }

    fn lifetime_counters(&self, port: &Port) -> Counters {
        let mut sum = port.past;
        sum.drops.merge(&port.drops);
        for member in self.members_of(port) {
            sum.merge(&member.counters());
        }
        sum
    }

    /// Makes a port.
    ///
    /// # Errors
    /// [`SwitchError::PortExists`], [`SwitchError::PortLimit`].
    pub fn create_port(&mut self, id: PortId) -> Result<(), SwitchError> {
        if u32::from(id.number()) > self.numports {
            return Err(SwitchError::PortLimit { port: id, limit: self.numports });
        }
        if self.floor.ports.len() <= id.index() {
            self.floor.ports.resize_with(id.index() + 1, || None);
        }
        let Some(place) = self.floor.ports.get_mut(id.index()).filter(|place| place.is_none()) else {
            return Err(SwitchError::PortExists(id));
        };
        *place = Some(Port::new(id));
        self.memory.add_port(id);
        self.bridge.add_port(id);
        self.with_stp(|stp, now, actions| stp.add_port(id, Default::default(), now, actions));
        self.events.push(Event::PortAdded(id));
        Ok(())
    }

    /// Removes a port and its settings.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`], [`SwitchError::PortInUse`].
    pub fn remove_port(&mut self, id: PortId) -> Result<(), SwitchError> {
        if !self.port(id)?.members.is_empty() {
            return Err(SwitchError::PortInUse(id));
        }
        self.with_stp(|stp, now, actions| stp.remove_port(id, now, actions));
        self.bridge.remove_port(id);
        self.floor.ports[id.index()] = None;
        self.events.push(Event::PortRemoved(id));
        Ok(())
    }

    /// The port for somebody who asks for this one, or for any: it is made if need be.
    ///
    /// # Errors
    /// [`SwitchError::Full`], [`SwitchError::PortLimit`], [`SwitchError::NotAdmitted`].
    pub fn assign_port(&mut self, wanted: Option<PortId>, peer: Option<&Peer>) -> Result<PortId, SwitchError> {
        let admits = |port: &Port| peer.is_none_or(|peer| port.admits(peer));
        if let Some(id) = wanted {
            return match self.port(id) {
                Ok(port) if admits(port) => Ok(id),
                Ok(_) => Err(SwitchError::NotAdmitted { port: id, uid: peer.map_or(0, |peer| peer.uid) }),
                Err(_) => self.create_port(id).map(|()| id),
            };
        }
        let ids = (1..=self.numports).filter_map(PortId::new);
        for id in ids {
            match self.port(id) {
                Ok(port) if port.members.is_empty() && port.allocatable && admits(port) => return Ok(id),
                Ok(_) => {}
                Err(_) => return self.create_port(id).map(|()| id),
            }
        }
        Err(SwitchError::Full(self.numports))
    }

    /// Opens a link and plugs it into a port, or into the first free one.
    ///
    /// # Errors
    /// What opening the link meets, and what [`Switch::assign_port`] says.
    pub fn add_link(&mut self, locator: &Locator, wanted: Option<PortId>) -> Result<PortId, SwitchError> {
        let link = plug::open(locator)?;
        let port = self.assign_port(wanted, None)?;
        self.plug_in(port, link, Kind::Link)?;
        Ok(port)
    }

    /// Plugs a client in that was admitted to a port.
    ///
    /// # Errors
    /// [`SwitchError::Watch`].
    pub fn add_client(&mut self, port: PortId, client: Client, kind: Kind) -> Result<MemberKey, SwitchError> {
        let Client { link, mut control } = client;
        let key = self.plug_in(port, Box::new(Soft::new(link)), kind)?;
        let registered = control.register(&self.registry, Wake::Control(key).token());
        if let Some(member) = self.floor.members.get_mut(key as usize) {
            member.control = Some(control);
        }
        if let Err(source) = registered {
            self.unplug(key, None);
            return Err(SwitchError::Watch { name: "control connection".to_owned(), source });
        }
        Ok(key)
    }

    /// Plugs a link that takes every offload into a port.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`], [`SwitchError::Watch`].
    pub fn plug_in(&mut self, id: PortId, link: Box<dyn Link>, kind: Kind) -> Result<MemberKey, SwitchError> {
        self.port(id)?;
        let name = link.name().to_owned();
        let watch = |source| SwitchError::Watch { name: name.clone(), source };
        #[allow(clippy::cast_possible_truncation, reason = "each member has descriptors, and these are 31 bits wide")]
        let key = self.floor.members.vacant_key() as MemberKey;
        let mut member = Member::new(key, id, link, kind).map_err(watch)?;
        let token = Wake::Member(key).token();
        member.link.register(&self.registry, token).map_err(watch)?;
        if member.link.tell_while_ready(&self.registry, token).map_err(watch)? {
            member.tells = Tells::OnceEmpty;
        }
        self.floor.members.insert(member);
        self.port_mut(id)?.members.push(key);
        self.bridge.set_connected(id, true);
        self.show_carrier(id);
        self.floor.make_ready(key);
        self.events.push(Event::Joined { port: id, member: key, name });
        Ok(key)
    }

    /// Takes a member out of its port; `reason` says why, if it was not the member's own doing.
    ///
    /// Its descriptors are closed, so its sockets' far ends see the end.
    pub fn unplug(&mut self, key: MemberKey, reason: Option<String>) {
        let Some(mut member) = self.floor.members.try_remove(key as usize) else { return };
        // The key may soon be another's.
        self.floor.failed.retain(|(failed, _)| *failed != key);
        // What fails here is gone already.
        let _ = member.link.deregister(&self.registry);
        if let Some(control) = &mut member.control {
            let _ = control.deregister(&self.registry);
        }
        if let Some(deadline) = member.deadline {
            self.timers.remove(&(deadline, key));
        }
        let id = member.port;
        let Ok(port) = self.port_mut(id) else { return };
        port.members.retain(|other| *other != key);
        port.past.merge(&member.counters());
        if port.members.is_empty() {
            self.bridge.set_connected(id, false);
        }
        self.show_carrier(id);
        self.events.push(Event::Left { port: id, member: key, name: member.name, reason });
    }

    /// Takes a member out of a port on the administrator's word.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`], [`SwitchError::NoMember`].
    pub fn close_member(&mut self, id: PortId, key: MemberKey) -> Result<(), SwitchError> {
        if !self.port(id)?.members.contains(&key) {
            return Err(SwitchError::NoMember { port: id, member: key });
        }
        self.unplug(key, Some("closed from the console".to_owned()));
        Ok(())
    }

    /// Spanning tree, to look at.
    #[must_use]
    pub fn stp(&self) -> &Stp {
        &self.stp
    }

    /// Changes something of spanning tree, and does what it wants done.
    pub fn with_stp<T>(&mut self, change: impl FnOnce(&mut Stp, Instant, &mut Vec<Action>) -> T) -> T {
        let mut actions = mem::take(&mut self.actions);
        let outcome = change(&mut self.stp, Instant::now(), &mut actions);
        self.bridge.set_stp(self.stp.is_enabled());
        for action in actions.drain(..) {
            self.act(action);
        }
        self.actions = actions;
        outcome
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Transmit { port, frame } => {
                let mut batch = TxBatch::new();
                batch.push(VnetHeader::WHOLE, [Fragment::new(&frame)]);
                self.floor.send(port, &batch);
            }
            Action::SetState { port, state } => {
                self.bridge.set_state(port, state);
                self.events.push(Event::PortState { port, state });
            }
            Action::Flush { port } => self.bridge.flush(port),
            Action::GuardTripped { port } => self.events.push(Event::GuardTripped(port)),
            Action::TopologyChanged { port } => self.events.push(Event::TopologyChanged(port)),
        }
    }

    /// Tells spanning tree whether anything on the port has carrier.
    fn show_carrier(&mut self, id: PortId) {
        let Ok(port) = self.port(id) else { return };
        let up = self.members_of(port).any(|member| member.carrier == LinkState::Up);
        self.with_stp(|stp, now, actions| stp.set_link(id, up, now, actions));
    }

    /// Begins to keep what passes a port.
    ///
    /// # Errors
    /// [`SwitchError::NoPort`].
    pub fn open_capture(&mut self, id: PortId) -> Result<CaptureKey, SwitchError> {
        self.port(id)?;
        #[allow(clippy::cast_possible_truncation, reason = "whoever opens captures sets a limit")]
        let key = self.floor.captures.insert(Capture::new(id)) as CaptureKey;
        self.port_mut(id)?.captures.push(key);
        Ok(key)
    }

    /// A capture; none once its port is gone.
    pub fn capture_mut(&mut self, key: CaptureKey) -> Option<&mut Capture> {
        let capture = self.floor.captures.get_mut(key as usize)?;
        let port = self.floor.ports.get(capture.port.index())?.as_ref()?;
        port.captures.contains(&key).then_some(capture)
    }

    /// Ends a capture.
    pub fn close_capture(&mut self, key: CaptureKey) {
        let Some(capture) = self.floor.captures.try_remove(key as usize) else { return };
        if let Some(port) = self.floor.port_mut(capture.port) {
            port.captures.retain(|other| *other != key);
        }
    }

    /// A member is ready: it does its own work, and stands in line for a turn.
    pub fn serve(&mut self, key: MemberKey) {
        let Some(member) = self.floor.members.get_mut(key as usize) else { return };
        if let Err(error) = member.link.service(Instant::now()) {
            self.floor.failed.push((key, error));
            return;
        }
        let (port, carrier_changed) = (member.port, member.note_carrier());
        self.floor.make_ready(key);
        self.set_timer(key);
        if carrier_changed {
            self.show_carrier(port);
        }
    }

    /// The control connection of a member is ready: it has closed, or says something that nobody needs.
    pub fn serve_control(&mut self, key: MemberKey) {
        let control = self.floor.members.get_mut(key as usize).and_then(|member| member.control.as_mut());
        if control.is_some_and(Control::is_gone) {
            self.hear_out(key);
            self.unplug(key, None);
        }
    }

    /// Takes what a member had sent before it left. There is no more to come, unless somebody still holds its socket.
    fn hear_out(&mut self, key: MemberKey) {
        for _ in 0..LAST_TURNS {
            let Some(turn) = self.member(key).map(|member| member.pace.turn()) else { return };
            self.take_turn(key);
            if self.memory.len() < turn {
                return;
            }
        }
    }

    fn set_timer(&mut self, key: MemberKey) {
        let Some(member) = self.floor.members.get_mut(key as usize) else { return };
        let deadline = member.link.deadline();
        let before = mem::replace(&mut member.deadline, deadline);
        if before != deadline {
            before.map(|before| self.timers.remove(&(before, key)));
            deadline.map(|deadline| self.timers.insert((deadline, key)));
        }
    }

    /// Whether a member may have frames.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.floor.line.is_empty() || !self.floor.probing.is_empty()
    }

    /// When [`Switch::expire`] has something to do, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let member = self.timers.first().map(|(deadline, _)| *deadline);
        [member, self.bridge.deadline(), self.stp.deadline()].into_iter().flatten().min()
    }

    /// Does what was due at `now` or before.
    pub fn expire(&mut self, now: Instant) {
        while let Some((deadline, key)) = self.timers.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.timers.remove(&(deadline, key));
            if let Some(member) = self.floor.members.get_mut(key as usize) {
                member.deadline = None;
            }
            self.serve(key);
        }
        if self.bridge.deadline().is_some_and(|deadline| deadline <= now) {
            self.bridge.expire(now);
        }
        if self.stp.deadline().is_some_and(|deadline| deadline <= now) {
            self.with_stp(|stp, now, actions| stp.expire(now, actions));
        }
    }

    /// Some interface of this host has gone down or come up: looks at each member's carrier.
    pub fn look_at_carriers(&mut self) {
        let changed: BTreeSet<PortId> = self
            .floor
            .members
            .iter_mut()
            .filter_map(|(_, member)| member.look_again().then_some(member.port))
            .collect();
        for port in changed {
            self.show_carrier(port);
        }
    }

    /// Gives turns to those in line, as many as do not keep the event loop from everything else.
    pub fn work(&mut self) {
        self.has_flood = false;
        self.floor.line.extend(self.floor.probing.drain(..));
        for _ in 0..TURNS {
            let Some(key) = self.floor.line.pop_front() else { break };
            self.take_turn(key);
        }
        for (key, error) in mem::take(&mut self.floor.failed) {
            self.unplug(key, Some(link::reason(&error)));
        }
    }

    /// How long the switch had better rest before it looks for more frames, if at all.
    #[must_use]
    pub fn rest(&self) -> Option<Duration> {
        (self.has_flood && !self.has_work()).then_some(pace::REST)
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        let mut events = mem::take(&mut self.events);
        events.append(&mut self.bridge.take_events());
        events
    }

    fn take_turn(&mut self, key: MemberKey) {
        let Some(member) = self.floor.members.get_mut(key as usize) else { return };
        member.is_queued = false;
        let now = Instant::now();
        let (ingress, turn) = (member.port, member.pace.turn());
        if let Err(error) = self.memory.receive(turn, |batch| member.receive(batch, now)) {
            self.floor.failed.push((key, error));
            return;
        }
        let received = self.memory.len();
        self.has_flood |= member.pace.is_flood();
        if received == turn && member.tells != Tells::Always {
            self.floor.look_again(key, turn);
        }
        if received > 0 {
            self.forward(ingress, now);
        }
        self.set_timer(key);
    }

    /// Sends the frames of this turn, which came in on `ingress`, on their way.
    fn forward(&mut self, ingress: PortId, now: Instant) {
        let Self { memory, bridge, floor, bpdus, .. } = self;
        let caught = floor.is_captured(ingress).then(SystemTime::now);
        memory.share_out(|header, frame, egress| {
            let verdict = bridge.forward(ingress, frame, now, egress);
            if let Some(time) = caught {
                let dropped = if let Verdict::Drop(reason) = verdict { Some(reason) } else { None };
                floor.catch(ingress, Passing { time, direction: Direction::In, header, dropped }, frame);
            }
            match verdict {
                Verdict::Forward => {}
                Verdict::Bpdu => bpdus.push(frame.to_vec()),
                Verdict::Drop(reason) => floor.count_drop(ingress, reason),
            }
        });
        memory.deliver(floor);
        if !self.bpdus.is_empty() {
            for frame in mem::take(&mut self.bpdus) {
                self.with_stp(|stp, now, actions| stp.receive(ingress, &frame, now, actions));
            }
        }
    }
}

#[cfg(test)]
#[path = "switch_test.rs"]
mod tests;
