//! Ports, and what is plugged into them.
//!
//! A port outlives its members: its settings and its number stay when the last of them leaves. Several VDE clients may
//! share one port; a frame for the port reaches all of them, and they do not hear each other.

use std::io;
use std::mem;
use std::time::{Instant, SystemTime};

use link::{Counters, DropCounts, DropReason, Link, LinkState, Offloads, RxBatch, TxBatch};

use crate::PortId;
use crate::vde::{Control, Peer};

use super::capture::CaptureKey;
use super::pace::Pace;

/// The number of a member in the switch's table of members.
pub type MemberKey = u32;

/// A port of the switch.
#[derive(Debug)]
pub struct Port {
    /// Its number.
    pub id: PortId,
    /// Only this user's clients may join, and root's.
    pub user: Option<u32>,
    /// Only clients that belong to this group may join, and root's.
    pub group: Option<u32>,
    /// Whether a client that asks for no port in particular may get this one.
    pub allocatable: bool,
    /// What is plugged in, in the order in which it came.
    pub members: Vec<MemberKey>,
    /// Frames that the bridge dropped when they came in here.
    pub(super) drops: DropCounts,
    /// What members that have left had carried.
    pub(super) past: Counters,
    /// What the counters stood at when they were last reset.
    pub(super) reset: Counters,
    /// Captures that look at this port; none is the rule.
    pub(super) captures: Vec<CaptureKey>,
}

impl Port {
    pub(super) fn new(id: PortId) -> Self {
        Self {
            id,
            user: None,
            group: None,
            allocatable: true,
            members: Vec::new(),
            drops: DropCounts::default(),
            past: Counters::default(),
            reset: Counters::default(),
            captures: Vec::new(),
        }
    }

    /// Whether a client of this user may join.
    #[must_use]
    pub fn admits(&self, peer: &Peer) -> bool {
        let is_user = self.user.is_some_and(|user| user == peer.uid);
        let is_group = self.group.is_some_and(|group| group == peer.gid || peer.groups.contains(&group));
        (self.user.is_none() && self.group.is_none()) || is_user || is_group || peer.uid == 0
    }
}

/// What sort of thing a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A link that the switch has opened itself.
    Link,
    /// A VDE client.
    Client {
        /// Who runs it, by the kernel's word.
        peer: Peer,
        /// Its own words about itself, escaped.
        description: String,
    },
}

/// Something plugged into a port.
pub struct Member {
    /// Its number.
    pub key: MemberKey,
    /// The port.
    pub port: PortId,
    /// The locator, or a client's data socket.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// When it joined.
    pub since: SystemTime,
    /// It takes every offload, as what [`plug::open`] opens does.
    pub(super) link: Box<dyn Link>,
    /// The connection whose end is the client's.
    pub(super) control: Option<Control>,
    /// Whether it stands in the line of those that may have frames.
    pub(super) is_queued: bool,
    /// The deadline under which it stands among the timers.
    pub(super) deadline: Option<Instant>,
    /// How its frames come.
    pub(super) pace: Pace,
    /// Whether the link says so itself as long as it has frames, and holds none back: it was empty once.
    pub(super) tells: Tells,
    /// Carrier when it was last looked at.
    pub(super) carrier: LinkState,
    drops: DropCounts,
}

/// How a member is known to have more frames after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tells {
    /// By looking.
    Never,
    /// Its link will tell, once it has been found empty: until then a wrapper may hold frames that it received before.
    OnceEmpty,
    /// Its link tells.
    Always,
}

impl Member {
    pub(super) fn new(key: MemberKey, port: PortId, mut link: Box<dyn Link>, kind: Kind) -> io::Result<Self> {
        link.accept(Offloads::ALL)?;
        Ok(Self {
            key,
            port,
            name: link.name().to_owned(),
            kind,
            since: SystemTime::now(),
            carrier: link.state(),
            link,
            control: None,
            is_queued: false,
            deadline: None,
            pace: Pace::default(),
            tells: Tells::Never,
            drops: DropCounts::default(),
        })
    }

    /// What it has carried and dropped.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.link.counters();
        counters.drops.merge(&self.drops);
        counters
    }

    /// Whether frames reach the far end.
    #[must_use]
    pub fn carrier(&self) -> LinkState {
        self.carrier
    }

    /// Receives a turn's frames.
    pub(super) fn receive(&mut self, batch: &mut RxBatch<'_>, now: Instant) -> io::Result<()> {
        self.link.receive(batch)?;
        if self.tells == Tells::OnceEmpty && batch.filled() < batch.len() {
            self.tells = Tells::Always;
        }
        let bytes = batch.frames().map(|(_, len)| len).sum();
        self.pace.note(now, batch.filled(), bytes, self.tells == Tells::Always);
        Ok(())
    }

    /// Sends what the link takes at once; the rest is dropped and counted.
    pub(super) fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<()> {
        let taken = self.link.send(batch)?;
        self.drops.add(DropReason::LinkFull, (batch.len() - taken) as u64);
        Ok(())
    }

    /// Something outside may have changed the carrier; returns whether it has.
    pub(super) fn look_again(&mut self) -> bool {
        self.link.look_again();
        self.note_carrier()
    }

    /// Takes note of the link's carrier; returns whether it has changed.
    pub(super) fn note_carrier(&mut self) -> bool {
        let state = self.link.state();
        mem::replace(&mut self.carrier, state) != state
    }
}
