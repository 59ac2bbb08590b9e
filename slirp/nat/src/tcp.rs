//! TCP: a connection with the guest on one side, a host socket on the other, and bytes moved between their rings.
//!
//! # Theory of operation
//! The guest's SYN is kept, and answered only after the host's connection has been made: then a [`Stack`] is made (or
//! taken from the few kept) and given the SYN. So a refused connection is refused to the guest by a reset, one that
//! times out gets no answer, one without a route an ICMP error; and a half-open connection costs a packet's bytes.
//! A forwarded connection begins at the host; its stack sends the SYN as soon as the guest's Ethernet address is known.
//!
//! | phase | guest's segment | host readiness | leaves to |
//! |---|---|---|---|
//! | `Connecting` | RST ends it; SYN is a repetition | connected, or failed | `Open`, or answered and gone |
//! | `Open` | into the stack; bytes to the host at the batch's end | bytes into the stack as slots come | gone |
//!
//! In `Open`, four facts decide the end: the host has finished (its end was read; FIN follows the bytes), the guest has
//! finished (its FIN came; the host is told when it has all bytes), the connection was reset by the guest (the host
//! socket is reset), or by the host (the stack sends a reset). When both have finished and everything was delivered,
//! the flow goes. TIME-WAIT is not kept: a FIN that the guest repeats, because its acknowledgement was lost, is answered by
//! a reset, and harms nobody, for both sides have everything.
//!
//! Where the two sides take turns, the acknowledgement of what the guest says rides on the host's answer: that halves the
//! frames to the guest. It waits [`ANSWER`] at most, and only if the segment is short and the last one to the guest had
//! data; a connection that has let one wait in vain lets none wait again, for the guest may hold back bytes until then.
//!
//! A guest that is silent is asked whether it still has the connection (RFC 9293 §3.8.4): after two hours, as systems do it
//! by default, so that no NAT ends a connection sooner than RFC 5382 REQ-5 allows (2 hours and 4 minutes); after 4 minutes
//! if one side has finished, for a guest's system forgets such connections of its own accord, and a reset tells of it.
//! One that stays silent for 10 minutes more is gone. What is at the far end the host's system asks in the same way
//! (`SO_KEEPALIVE`), and a SYN that nobody answers there it gives up. One timer serves all connections.
//!
//! A connection that is idle for two seconds gives the memory of its rings back; where the guest's bytes have a hole, what
//! lies behind it is kept.
//!
//! RFC 9293 is smoltcp's business; here are §3.5.2 (resets) and §3.10.7.1 (segments for no connection).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use link::{Checksum, DropReason, GsoType, VnetHeader};
use smoltcp::socket::tcp::State;

use crate::config::Protocol;
use crate::ends::End;
use crate::env::{Env, Ready};
use crate::flow::FlowState;
use crate::host::{Family, Host, Kind, Readiness, SocketId};
use crate::icmp::{self, Unreachable};
use crate::route::{Route, route};
use crate::slab::Slab;
use crate::stack::{Emitted, RING, Shape, Stack};
use crate::timers::Timer;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ip, IpHeader};

/// Connections at most.
const MAX_FLOWS: usize = 16384;

/// Stacks kept for the next connection.
const SPARE_STACKS: usize = 16;

/// A guest that owes an acknowledgement for so long is gone.
const STALL: Duration = Duration::from_secs(120);

/// A guest that is silent for so long is asked whether it still has the connection.
const SILENCE: Duration = Duration::from_secs(2 * 3600);

/// The same, if one side has finished.
const SILENCE_HALF_CLOSED: Duration = Duration::from_secs(4 * 60);

/// How often it is asked.
const PROBE_AGAIN: Duration = Duration::from_secs(30);

/// How long it has to answer.
const PROBING: Duration = Duration::from_secs(10 * 60);

/// Silent guests are looked for at most so often.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How long an idle connection keeps the memory that its bytes went through.
const KEEP: Duration = Duration::from_secs(2);

/// How long an acknowledgement waits for the host's answer.
const ANSWER: Duration = Duration::from_millis(20);

/// Bytes of a segment that is the end of what the guest has to say: fewer than fit.
const SHORT: usize = 1024;

/// How long a forwarded connection waits for a guest to show itself.
const RESOLVE: Duration = Duration::from_secs(30);

/// How often the guest's address is asked for.
const RESOLVE_AGAIN: Duration = Duration::from_secs(1);

/// Bytes read from the host at a time: what one emission takes, so that they are still cached when it does.
const CHUNK: usize = 128 << 10;

/// Offsets in a TCP header (RFC 9293 §3.1).
const HEADER: usize = 20;
const CHECKSUM: usize = 16;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// All connections.
pub(crate) struct Tcp {
    flows: Slab<Flow>,
    by_key: HashMap<Key, u32>,
    /// Flows with bytes for the host from this batch.
    dirty: Vec<u32>,
    #[expect(clippy::vec_box, reason = "flows hold boxes: a kilobyte is not to be moved about")]
    spare: Vec<Box<Stack>>,
    /// When silent guests are looked for.
    silence_armed: Option<Instant>,
    /// Room for an immediate answer of smoltcp's: a header.
    reply: Box<[u8; 512]>,
    start: Instant,
}

/// A connection's two ends, as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    guest: End,
    remote: End,
}

struct Flow {
    key: Key,
    phase: Phase,
    /// The host socket exists.
    open: bool,
    readable: bool,
    writable: bool,
    /// The host's peer sends no more: after the bytes that are there comes the end.
    ending: bool,
    /// The host's end was read, and FIN put behind the bytes.
    host_done: bool,
    /// The guest's FIN came.
    guest_done: bool,
    /// The host was told so.
    finished: bool,
    /// A reset is on its way to the guest.
    aborting: bool,
    /// The guest is asked whether it still has the connection.
    probing: bool,
    listed: bool,
    dirty: bool,
    armed: Option<Instant>,
    /// When the guest was last heard; for a forwarded connection, at first, when it began.
    heard: Instant,
    /// The sequence number behind all that the guest has sent, in order or not.
    sent_to: u32,
    /// The sequence number that was last acknowledged to it.
    acknowledged_to: u32,
    /// The last segment to the guest had data.
    spoke: bool,
    /// An acknowledgement waits for data to ride on.
    waits: bool,
    /// One has waited in vain.
    hasty: bool,
    begun: Instant,
    /// Bytes that the host has taken.
    sent: u64,
    /// Bytes that were taken from the host.
    received: u64,
}

enum Phase {
    /// The SYN packet, and where else to try (name servers).
    Connecting {
        syn: Vec<u8>,
        others: Vec<SocketAddr>,
    },
    Open(Box<Stack>),
}

impl Flow {
    fn new(key: Key, phase: Phase, heard: Instant) -> Self {
        Self {
            key,
            phase,
            open: true,
            readable: false,
            writable: false,
            ending: false,
            host_done: false,
            guest_done: false,
            finished: false,
            aborting: false,
            probing: false,
            listed: false,
            dirty: false,
            armed: None,
            heard,
            sent_to: 0,
            acknowledged_to: 0,
            spoke: false,
            waits: false,
            hasty: false,
            begun: heard,
            sent: 0,
            received: 0,
        }
    }

    /// What is told of it.
    fn state(&self) -> FlowState {
        let state = match &self.phase {
            Phase::Connecting { .. } => "connecting",
            Phase::Open(stack) if matches!(stack.state(), State::SynSent | State::SynReceived) => "opening",
            Phase::Open(_) => match (self.guest_done, self.host_done) {
                (false, false) => "established",
                (true, false) => "guest-closed",
                (false, true) => "host-closed",
                (true, true) => "closing",
            },
        };
        FlowState {
            protocol: Protocol::Tcp,
            guest: self.key.guest.into(),
            remote: Some(self.key.remote.into()),
            state,
            sent: self.sent,
            received: self.received,
            begun: self.begun,
        }
    }

    /// Gives the host what the guest sent, and its end.
    fn push<H: Host>(&mut self, host: &mut H, id: SocketId) {
        let Phase::Open(stack) = &mut self.phase else { return };
        while self.open && self.writable {
            match stack.drain(|bytes| host.send(id, bytes)) {
                None | Some(Ok(0)) => break,
                Some(Ok(len)) => self.sent += len as u64,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Some(Err(_)) => return self.abort(host, id),
            }
        }
        if self.open && self.guest_done && !self.finished && stack.received() == 0 {
            self.finished = true;
            host.finish(id);
        }
    }

    /// Takes from the host what there is room for.
    fn pull<H: Host>(&mut self, host: &mut H, id: SocketId) {
        let Phase::Open(stack) = &mut self.phase else { return };
        if !self.open || !self.readable || self.host_done || !stack.may_fill() {
            return;
        }
        // Little room means that much is under way: acknowledgements will make more.
        if RING - stack.unacknowledged() < RING / 4 {
            return;
        }
        let mut room = 0;
        let filled = stack.fill(|buffer| {
            room = buffer.len().min(CHUNK);
            host.receive(id, &mut buffer[..room])
        });
        match filled {
            None => {}
            Some(Ok(0)) => {
                self.host_done = true;
                stack.close();
            }
            // A short read empties a stream socket; what comes later is a new edge (epoll(7)). Its end may be there.
            Some(Ok(len)) => {
                self.received += len as u64;
                self.readable = len == room || self.ending;
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Some(Err(_)) => self.abort(host, id),
        }
    }

    /// The host's side broke: the guest gets a reset.
    fn abort<H: Host>(&mut self, host: &mut H, id: SocketId) {
        if let Phase::Open(stack) = &mut self.phase {
            stack.abort();
        }
        self.aborting = true;
        self.open = false;
        host.close(id);
    }

    /// Whether everything was delivered, or nothing can be any more.
    fn over(&self) -> Option<Ending> {
        let Phase::Open(stack) = &self.phase else { return None };
        let delivered = self.host_done && self.finished && stack.received() == 0;
        match stack.state() {
            State::Closed if self.aborting => Some(Ending::Closed),
            State::Closed | State::Listen if !(self.host_done && self.guest_done) => Some(Ending::Reset),
            State::Closed | State::TimeWait if delivered => Some(Ending::Closed),
            _ => None,
        }
    }

    /// Remembers how far the guest has sent.
    fn note_sent(&mut self, segment: &Segment) {
        let end = segment.sequence.wrapping_add(segment.len());
        // A SYN begins the count; a distance of more than half the numbers is one backwards (RFC 9293 §3.4).
        if segment.has(SYN) || end.wrapping_sub(self.sent_to) < 1 << 31 {
            self.sent_to = end;
        }
    }

    /// How long the acknowledgement of a segment may wait. What follows the host's end has no answer.
    fn patience(&mut self, segment: &Segment) -> Duration {
        let patient = self.spoke && !self.hasty && !self.host_done && segment.payload_len < SHORT;
        self.waits |= patient && segment.len() > 0;
        if patient { ANSWER } else { Duration::ZERO }
    }

    /// Remembers how far an emitted segment acknowledges, and whether it has data.
    fn note_emitted(&mut self, segment: &[u8]) {
        let number = |at| u32::from(wire::be16(segment, at));
        self.acknowledged_to = number(8) << 16 | number(10);
        self.spoke = segment.len() > usize::from(segment[12] >> 4) * 4;
        self.hasty |= self.waits && !self.spoke;
        self.waits = false;
    }

    /// How long the guest may be silent before it is asked.
    fn longest_silence(&self) -> Duration {
        if self.guest_done || self.host_done { SILENCE_HALF_CLOSED } else { SILENCE }
    }

    /// Whether memory is held that no byte needs.
    fn is_idle_and_touched(&self) -> bool {
        let Phase::Open(stack) = &self.phase else { return false };
        stack.is_touched() && stack.received() == 0 && !self.awaits_guest()
    }

    /// Whether the guest owes something.
    fn awaits_guest(&self) -> bool {
        let Phase::Open(stack) = &self.phase else { return false };
        stack.unacknowledged() > 0
            || matches!(
                stack.state(),
                State::SynSent | State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
            )
    }
}

/// How a flow ends for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Closed,
    Reset,
}

/// The fields of a segment that are looked at before smoltcp does.
struct Segment {
    from_port: u16,
    to_port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    payload_len: usize,
}

impl Segment {
    fn parse(ip: &Ip<'_>, verify: bool) -> Result<Self, DropReason> {
        let header: &[u8; HEADER] = ip.payload.first_chunk().ok_or(DropReason::Malformed)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        let payload_len = ip.payload.len().checked_sub(header_len).ok_or(DropReason::Malformed)?;
        if header_len < HEADER {
            return Err(DropReason::Malformed);
        }
        if verify && wire::transport_sum(ip.from, ip.to, wire::TCP, ip.payload) != 0xffff {
            return Err(DropReason::Malformed);
        }
        let number = |at: usize| u32::from(wire::be16(header, at)) << 16 | u32::from(wire::be16(header, at + 2));
        Ok(Self {
            from_port: wire::be16(header, 0),
            to_port: wire::be16(header, 2),
            sequence: number(4),
            acknowledgement: number(8),
            flags: header[13],
            payload_len,
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The sequence numbers it takes up. A payload is no longer than an IP packet.
    fn len(&self) -> u32 {
        self.payload_len as u32 + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

impl Tcp {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            flows: Slab::default(),
            by_key: HashMap::new(),
            dirty: Vec::new(),
            spare: Vec::new(),
            silence_armed: None,
            reply: Box::new([0; 512]),
            start,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// What is told of each connection.
    pub(crate) fn states(&self) -> impl Iterator<Item = FlowState> {
        self.flows.iter().map(Flow::state)
    }

    /// Takes a segment from a guest; `verify` asks for its checksum to be verified.
    pub(crate) fn input<H: Host>(&mut self, env: &mut Env<H>, ip: &Ip<'_>, verify: bool) -> Result<(), DropReason> {
        let segment = Segment::parse(ip, verify)?;
        if segment.from_port == 0 || segment.to_port == 0 {
            return Err(DropReason::Malformed);
        }
        let key = Key { guest: End::new(ip.from, segment.from_port), remote: End::new(ip.to, segment.to_port) };
        let Some(&place) = self.by_key.get(&key) else {
            return self.unknown(env, key, ip, &segment);
        };
        let Some(flow) = self.flows.get_mut(place) else { return Ok(()) };
        flow.heard = env.now;
        flow.note_sent(&segment);
        if let Phase::Connecting { syn, .. } = &mut flow.phase {
            if segment.has(RST) {
                self.remove(env, place, Ending::Closed);
            } else if segment.has(SYN) && !segment.has(ACK) {
                // The same again, or a new attempt after the guest has started anew.
                *syn = ip.plain().into_owned();
            }
            return Ok(());
        }
        self.segment(env, place, ip, &segment);
        Ok(())
    }

    /// Gives the host what came in this batch.
    pub(crate) fn flush<H: Host>(&mut self, env: &mut Env<H>) {
        while let Some(place) = self.dirty.pop() {
            let Some(flow) = self.flows.get_mut(place) else { continue };
            flow.dirty = false;
            flow.push(&mut env.host, id(place));
            env.list(Ready::Tcp(place), &mut flow.listed);
            self.settle(env, place);
        }
    }

    /// Makes the next frame of a flow in `out`.
    pub(crate) fn output<H: Host>(
        &mut self,
        env: &mut Env<H>,
        place: u32,
        out: &mut [u8],
    ) -> Option<(VnetHeader, usize)> {
        let now = self.clock(env.now);
        let flow = self.flows.get_mut(place)?;
        flow.listed = false;
        let guest = flow.key.guest.ip();
        let shape = shape(env, Family::of(guest));
        let Some(mac) = env.neighbours.get(guest) else {
            self.resolve(env, place);
            return None;
        };
        let seed = env.random.next();
        flow.pull(&mut env.host, id(place));
        let Phase::Open(stack) = &mut flow.phase else { return None };
        stack.reshape(shape, seed, now);
        let Some(emitted) = stack.egress(now, &mut out[ETHERNET..]) else {
            self.settle(env, place);
            return None;
        };
        flow.note_emitted(&out[ETHERNET + shape.header()..ETHERNET + emitted.len]);
        env.list(Ready::Tcp(place), &mut flow.listed);
        let remote = flow.key.remote.ip();
        let header = finish(&mut out[..ETHERNET + emitted.len], (remote, guest), emitted, env.offloads.checksum);
        wire::put_ethernet(out, mac, env.mac_for(remote), ethertype(shape.family));
        Some((header, ETHERNET + emitted.len))
    }

    /// Takes note of what a host socket can do now.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, place: u32, readiness: Readiness) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        flow.readable |= readiness.readable || readiness.finished || readiness.error;
        flow.writable |= readiness.writable;
        flow.ending |= readiness.finished || readiness.error;
        if let Phase::Connecting { .. } = flow.phase {
            return match env.host.connected(id(place)) {
                Ok(true) => self.connected(env, place),
                Ok(false) => {}
                Err(error) => self.failed(env, place, &error),
            };
        }
        if readiness.writable {
            flow.push(&mut env.host, id(place));
        }
        env.list(Ready::Tcp(place), &mut flow.listed);
        self.settle(env, place);
    }

    /// A flow's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, place: u32, at: Instant) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        if flow.armed != Some(at) {
            return;
        }
        flow.armed = None;
        let silence = env.now.saturating_duration_since(flow.heard);
        let unknown = env.neighbours.get(flow.key.guest.ip()).is_none();
        if flow.awaits_guest() && (silence >= STALL || unknown && silence >= RESOLVE) {
            return self.remove(env, place, Ending::Reset);
        }
        if unknown {
            env.neighbours.forget(Ready::Tcp(place));
            flow.listed = false;
        }
        if silence >= KEEP && flow.is_idle_and_touched() {
            let whole = flow.sent_to == flow.acknowledged_to;
            if let Phase::Open(stack) = &mut flow.phase {
                stack.release(whole);
            }
        }
        env.list(Ready::Tcp(place), &mut flow.listed);
    }

    /// Asks guests that have been silent for long, and ends the connections of those that stay so.
    pub(crate) fn watch<H: Host>(&mut self, env: &mut Env<H>, at: Instant) {
        if self.silence_armed != Some(at) {
            return;
        }
        self.silence_armed = None;
        let (mut gone, mut next) = (Vec::new(), None::<Instant>);
        for (place, flow) in self.flows.iter_mut() {
            let limit = flow.heard + flow.longest_silence();
            if env.now >= limit + PROBING {
                gone.push(place);
                continue;
            }
            let due = if env.now >= limit { limit + PROBING } else { limit };
            next = Some(next.map_or(due, |next| next.min(due)));
            let Phase::Open(stack) = &mut flow.phase else { continue };
            if env.now >= limit && !flow.probing {
                flow.probing = true;
                stack.probe(Some(PROBE_AGAIN));
                env.list(Ready::Tcp(place), &mut flow.listed);
            }
        }
        for place in gone {
            self.remove(env, place, Ending::Reset);
        }
        if let Some(next) = next {
            env.timers.arm(Timer::Silence, &mut self.silence_armed, next.max(env.now + LOOK_AGAIN));
        }
    }

    /// Takes a connection that arrived for a forwarding rule.
    ///
    /// # Errors
    /// What accept(2) says: none waits, or there are too many.
    pub(crate) fn accept<H: Host>(
        &mut self,
        env: &mut Env<H>,
        listener: SocketId,
        guest: SocketAddr,
    ) -> io::Result<()> {
        if self.flows.len() >= MAX_FLOWS {
            env.limited();
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let place = self.flows.next();
        let peer = env.host.accept(listener, id(place)).inspect_err(|error| {
            if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) {
                env.limited();
            }
        })?;
        let Some(key) = self.forwarded_key(env, guest.into(), peer) else {
            env.host.reset(id(place));
            return Ok(());
        };
        let now = env.now;
        let Some(mut stack) = self.stack(env, Family::of(guest.ip())) else {
            env.host.reset(id(place));
            return Ok(());
        };
        if !stack.connect(key.remote.into(), key.guest.into()) {
            env.host.reset(id(place));
            return Ok(());
        }
        let mut flow = Flow::new(key, Phase::Open(stack), now);
        flow.writable = true;
        flow.readable = true;
        env.list(Ready::Tcp(place), &mut flow.listed);
        let inserted = self.flows.insert(flow);
        debug_assert_eq!(inserted, place);
        self.by_key.insert(key, place);
        Ok(())
    }

    /// Under which addresses a forwarded connection appears to the guest: the peer's own, or the gateway's if the
    /// guest could not answer that one.
    fn forwarded_key<H>(&self, env: &mut Env<H>, guest: End, peer: SocketAddr) -> Option<Key> {
        let mut key = Key { guest, remote: End::new(visible(env, guest.ip(), peer.ip()), peer.port()) };
        for _ in 0..64 {
            if key.remote.port() != 0 && !self.by_key.contains_key(&key) {
                return Some(key);
            }
            key.remote = key.remote.with_port(0x8000 | env.random.next() as u16);
        }
        None
    }

    /// A segment that belongs to no flow (RFC 9293 §3.10.7.1).
    fn unknown<H: Host>(
        &mut self,
        env: &mut Env<H>,
        key: Key,
        ip: &Ip<'_>,
        segment: &Segment,
    ) -> Result<(), DropReason> {
        if segment.has(RST) {
            return Err(DropReason::Unserved);
        }
        if !segment.has(SYN) || segment.has(ACK) {
            if env.config.restrict {
                return Err(DropReason::Unserved);
            }
            reset(env, key, segment);
            return Ok(());
        }
        if let Some(rule) = env.config.guest_forward(key.remote) {
            let place = self.room()?;
            let outcome = env.host.connect_target(id(place), &rule.target);
            return self.begin(env, key, ip, segment, outcome, Vec::new());
        }
        match route(&env.config, ip.to) {
            Route::Nowhere => {
                icmp::unreachable(env, ip, Unreachable::Host);
                Err(DropReason::Unserved)
            }
            Route::Closed => Err(DropReason::Unserved),
            Route::Dns if segment.to_port == 53 => {
                let targets = env.host.resolvers();
                self.connect(env, key, ip, segment, targets)
            }
            Route::Dns | Route::Refused => {
                reset(env, key, segment);
                Ok(())
            }
            // What libslirp says, and scripts look for.
            Route::Barred => {
                icmp::unreachable(env, ip, Unreachable::Network);
                Ok(())
            }
            Route::Host(address) => {
                icmp::hops(env, ip, address)?;
                let target = SocketAddr::from((address, segment.to_port));
                self.connect(env, key, ip, segment, vec![target])
            }
        }
    }

    /// Starts a connection to the first of `targets`.
    fn connect<H: Host>(
        &mut self,
        env: &mut Env<H>,
        key: Key,
        ip: &Ip<'_>,
        segment: &Segment,
        mut targets: Vec<SocketAddr>,
    ) -> Result<(), DropReason> {
        let place = self.room()?;
        targets.reverse();
        let mut outcome = Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        while outcome.is_err()
            && let Some(target) = targets.pop()
        {
            outcome = env.host.connect(id(place), target);
        }
        self.begin(env, key, ip, segment, outcome, targets)
    }

    /// The place of the next connection.
    fn room(&self) -> Result<u32, DropReason> {
        if self.flows.len() >= MAX_FLOWS { Err(DropReason::Limit) } else { Ok(self.flows.next()) }
    }

    /// Keeps the SYN of a connection that was started in the next place, or tells the guest why it was not.
    fn begin<H: Host>(
        &mut self,
        env: &mut Env<H>,
        key: Key,
        ip: &Ip<'_>,
        segment: &Segment,
        outcome: io::Result<()>,
        others: Vec<SocketAddr>,
    ) -> Result<(), DropReason> {
        if let Err(error) = outcome {
            return refuse(env, key, ip, segment, &error);
        }
        let phase = Phase::Connecting { syn: ip.plain().into_owned(), others };
        let mut flow = Flow::new(key, phase, env.now);
        flow.note_sent(segment);
        let place = self.flows.insert(flow);
        self.by_key.insert(key, place);
        Ok(())
    }

    /// The host's connection is made: the guest's SYN gets its answer.
    fn connected<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        let family = Family::of(flow.key.guest.ip());
        let stack = self.stack(env, family);
        let now = self.clock(env.now);
        let Some(flow) = self.flows.get_mut(place) else { return };
        let Some(mut stack) = stack else { return self.remove(env, place, Ending::Reset) };
        let Phase::Connecting { syn, .. } = &flow.phase else { return };
        let answered = stack.listen(flow.key.remote.into()) && stack.ingress(now, syn, &mut self.reply[..]).is_none();
        if !answered || stack.state() != State::SynReceived {
            return self.remove(env, place, Ending::Reset);
        }
        flow.phase = Phase::Open(stack);
        flow.writable = true;
        env.list(Ready::Tcp(place), &mut flow.listed);
    }

    /// The host's connection has failed: the guest is told how, or the next name server is tried.
    fn failed<H: Host>(&mut self, env: &mut Env<H>, place: u32, error: &io::Error) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        let Phase::Connecting { syn, others } = &mut flow.phase else { return };
        env.host.close(id(place));
        while let Some(target) = others.pop() {
            if env.host.connect(id(place), target).is_ok() {
                return;
            }
        }
        let (key, syn) = (flow.key, std::mem::take(syn));
        self.remove(env, place, Ending::Closed);
        let Ok(ip) = Ip::parse(&syn) else { return };
        let Ok(segment) = Segment::parse(&ip, false) else { return };
        if let Err(reason) = refuse(env, key, &ip, &segment, error) {
            env.drops.count(reason);
        }
    }

    /// A segment for an open connection.
    fn segment<H: Host>(&mut self, env: &mut Env<H>, place: u32, ip: &Ip<'_>, segment: &Segment) {
        let now = self.clock(env.now);
        let Some(flow) = self.flows.get_mut(place) else { return };
        let patience = flow.patience(segment);
        let Phase::Open(stack) = &mut flow.phase else { return };
        stack.delay_acknowledgement(patience);
        if flow.probing {
            flow.probing = false;
            stack.probe(None);
        }
        let answer = stack.ingress(now, &ip.plain(), &mut self.reply[..]);
        flow.guest_done |=
            matches!(stack.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if stack.received() > RING / 2 {
            flow.push(&mut env.host, id(place));
        }
        if !flow.dirty {
            flow.dirty = true;
            self.dirty.push(place);
        }
        if let (Some(emitted), Some(mac)) = (answer, env.neighbours.get(ip.from)) {
            let packet = &self.reply[..emitted.len];
            let header = IpHeader::whole(ip.to, ip.from, wire::TCP, 0);
            flow.note_emitted(&packet[header.len()..]);
            let from = env.mac_for(ip.to);
            env.queue_frame(ETHERNET + emitted.len, |frame| {
                wire::put_ethernet(frame, mac, from, header.ethertype());
                frame[ETHERNET..].copy_from_slice(packet);
                finish(frame, (ip.to, ip.from), emitted, false);
            });
        }
    }

    /// Ends a flow that is over; else sees to its timer.
    fn settle<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        let now = self.clock(env.now);
        let start = self.start;
        let Some(flow) = self.flows.get_mut(place) else { return };
        if let Some(ending) = flow.over() {
            // What is still to be emitted (a last acknowledgement, a reset) comes first.
            if flow.listed && ending == Ending::Closed {
                return;
            }
            return self.remove(env, place, ending);
        }
        if flow.listed {
            return;
        }
        let silent = (flow.heard + flow.longest_silence()).max(env.now + LOOK_AGAIN);
        env.timers.arm(Timer::Silence, &mut self.silence_armed, silent);
        let (awaits, touched) = (flow.awaits_guest(), flow.is_idle_and_touched());
        let Phase::Open(stack) = &mut flow.phase else { return };
        // Nothing was to be emitted now, whatever smoltcp says: a deadline that has passed must not spin.
        let soonest = env.now + Duration::from_millis(10);
        let mut next = stack.deadline(now).map(|at| instant(start, at).max(soonest));
        if awaits {
            let stall = (flow.heard + STALL).max(soonest);
            next = Some(next.map_or(stall, |next| next.min(stall)));
        }
        if touched {
            let keep = (flow.heard + KEEP).max(soonest);
            next = Some(next.map_or(keep, |next| next.min(keep)));
        }
        if let Some(at) = next {
            env.timers.arm(Timer::Tcp(place), &mut flow.armed, at);
        }
    }

    /// Asks for a guest's Ethernet address; the flow goes on when it is known.
    fn resolve<H: Host>(&mut self, env: &mut Env<H>, place: u32) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        let address = flow.key.guest.ip();
        env.ask(address);
        flow.listed = env.neighbours.wait(address, Ready::Tcp(place));
        let at = env.now + RESOLVE_AGAIN;
        env.timers.arm(Timer::Tcp(place), &mut flow.armed, at);
    }

    fn remove<H: Host>(&mut self, env: &mut Env<H>, place: u32, ending: Ending) {
        let Some(flow) = self.flows.remove(place) else { return };
        self.by_key.remove(&flow.key);
        match ending {
            _ if !flow.open => {}
            Ending::Closed => env.host.close(id(place)),
            Ending::Reset => env.host.reset(id(place)),
        }
        if flow.listed && env.neighbours.get(flow.key.guest.ip()).is_none() {
            env.neighbours.forget(Ready::Tcp(place));
        }
        if let Phase::Open(mut stack) = flow.phase
            && self.spare.len() < SPARE_STACKS
        {
            if stack.is_bulky() {
                stack.release(true);
            }
            self.spare.push(stack);
        }
    }

    /// A stack for a new connection; none if there is no memory.
    fn stack<H: Host>(&mut self, env: &mut Env<H>, family: Family) -> Option<Box<Stack>> {
        let (shape, seed, now) = (shape(env, family), env.random.next(), self.clock(env.now));
        if let Some(mut stack) = self.spare.pop() {
            stack.renew(shape, seed, now);
            return Some(stack);
        }
        match Stack::new(shape, seed, now) {
            Ok(stack) => Some(Box::new(stack)),
            Err(_) => {
                env.limited();
                None
            }
        }
    }

    /// smoltcp's time: from the start, in microseconds. One second is added, for it takes 0 for "long ago".
    fn clock(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.start).as_micros() + 1_000_000;
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Tcp, index: place }
}

fn instant(start: Instant, at: smoltcp::time::Instant) -> Instant {
    let micros = u64::try_from(at.total_micros() - 1_000_000).unwrap_or(0);
    start + Duration::from_micros(micros)
}

fn shape<H>(env: &Env<H>, family: Family) -> Shape {
    let cuts = match family {
        Family::V4 => env.offloads.tso4,
        Family::V6 => env.offloads.tso6,
    };
    Shape { family, mtu: env.config.mtu, segmentation: env.offloads.checksum && cuts }
}

fn ethertype(family: Family) -> u16 {
    match family {
        Family::V4 => ETHERTYPE_IPV4,
        Family::V6 => ETHERTYPE_IPV6,
    }
}

/// How a host address appears to a guest: loopback and addresses of the guest's own network as the gateway, and so do
/// those of the host's links, which mean nothing elsewhere, and those of the other family.
pub(crate) fn visible<H>(env: &Env<H>, guest: IpAddr, address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    let hidden = match address {
        IpAddr::V4(inner) => env.config.network.contains(inner),
        IpAddr::V6(inner) => {
            inner.is_unicast_link_local() || env.config.ipv6.is_some_and(|net| net.network.contains(inner))
        }
    };
    let foreign = address.is_ipv4() != guest.is_ipv4();
    if hidden || foreign || address.is_loopback() || address.is_unspecified() { env.router(guest) } else { address }
}

/// Sees to the checksum and the offload header of a frame that smoltcp emitted between two addresses.
fn finish(frame: &mut [u8], (from, to): (IpAddr, IpAddr), emitted: Emitted, partial: bool) -> VnetHeader {
    let segment_at = ETHERNET + IpHeader::whole(from, to, wire::TCP, 0).len();
    let field = segment_at + CHECKSUM;
    let header_len = segment_at + usize::from(frame[segment_at + 12] >> 4) * 4;
    frame[field..field + 2].fill(0);
    if !partial {
        let checksum = !wire::transport_sum(from, to, wire::TCP, &frame[segment_at..]);
        frame[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        return VnetHeader::WHOLE;
    }
    let pseudo = wire::fold(wire::pseudo_sum(from, to, wire::TCP, frame.len() - segment_at));
    frame[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Partial { start: segment_at as u16, offset: CHECKSUM as u16 };
    let Some(gso_size) = emitted.segment else { return VnetHeader { checksum, ..VnetHeader::WHOLE } };
    let gso_type = if from.is_ipv4() { GsoType::TcpV4 } else { GsoType::TcpV6 };
    VnetHeader { checksum, gso_type, ecn: false, gso_size, hdr_len: header_len as u16 }
}

/// Tells the guest that its connection cannot be, in the words of the host's error.
fn refuse<H: Host>(
    env: &mut Env<H>,
    key: Key,
    ip: &Ip<'_>,
    segment: &Segment,
    error: &io::Error,
) -> Result<(), DropReason> {
    let Some(code) = error.raw_os_error() else {
        reset(env, key, segment);
        return Ok(());
    };
    match (Unreachable::of(code, Family::of(ip.from)), code) {
        (Some(why), _) => icmp::unreachable(env, ip, why),
        (_, libc::ETIMEDOUT) => {}
        (_, libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EAGAIN) => {
            return Err(DropReason::Limit);
        }
        _ => reset(env, key, segment),
    }
    Ok(())
}

/// Answers a segment by a reset (RFC 9293 §3.5.2).
fn reset<H: Host>(env: &mut Env<H>, key: Key, segment: &Segment) {
    let (from, to) = (key.remote.ip(), key.guest.ip());
    let Some(mac) = env.neighbours.get(to) else { return };
    let (sequence, acknowledgement, flags) = if segment.has(ACK) {
        (segment.acknowledgement, 0, RST)
    } else {
        (0, segment.sequence.wrapping_add(segment.len()), RST | ACK)
    };
    env.queue_packet(mac, IpHeader::whole(from, to, wire::TCP, HEADER), |header| {
        header[..2].copy_from_slice(&key.remote.port().to_be_bytes());
        header[2..4].copy_from_slice(&key.guest.port().to_be_bytes());
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        header[12] = (HEADER as u8 / 4) << 4;
        header[13] = flags;
        let checksum = !wire::transport_sum(from, to, wire::TCP, header);
        header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
    });
}
