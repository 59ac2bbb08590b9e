//! UDP: one host socket for each address and port of a guest's, whoever it talks with (endpoint-independent mapping and
//! filtering, RFC 4787 §4.1 and §5), so that programs that meet through a third party work. QEMU's NAT does the same.
//!
//! A datagram that arrives for a forwarding rule makes its sender a *peer* of the rule: what the guest answers to it
//! leaves by the rule's socket. An ICMP error that comes back for a datagram is passed on to the guest.
//!
//! A mapping goes after three minutes without a datagram out (RFC 4787 REQ-5 and REQ-6: at least two), one that was
//! only used for DNS sooner.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use link::{Checksum, DropReason, MacAddr, VnetHeader};

use crate::config::Protocol;
use crate::ends::End;
use crate::env::{Env, Ready};
use crate::flow::FlowState;
use crate::host::{Datagram, Family, Host, Kind, Readiness, SocketId};
use crate::icmp::{self, Unreachable};
use crate::route::{Route, route};
use crate::slab::Slab;
use crate::tcp::visible;
use crate::timers::Timer;
use crate::wire::{self, ETHERNET, Ip, IpHeader, UDP, UDP_PROTOCOL};

/// Mappings at most.
const MAX_FLOWS: usize = 16384;

/// Peers of forwarding rules at most.
const MAX_PEERS: usize = 16384;

/// Ports that are tried for a peer whose own one is another's.
const OTHER_PORTS: u8 = 16;

/// How long a mapping lasts without a datagram from the guest.
const IDLE: Duration = Duration::from_secs(180);

/// The same for one that was only used to ask name servers.
const IDLE_DNS: Duration = Duration::from_secs(20);

/// All mappings.
#[derive(Default)]
pub(crate) struct Udp {
    flows: Slab<Flow>,
    by_guest: HashMap<End, u32>,
    peers: HashMap<(End, End), Peer>,
    peers_armed: Option<Instant>,
}

struct Flow {
    guest: End,
    last_used: Instant,
    idle: Duration,
    listed: bool,
    armed: Option<Instant>,
    tally: Tally,
}

/// What has passed since when.
struct Tally {
    begun: Instant,
    /// Bytes that the guest has sent.
    sent: u64,
    /// Bytes that have come for it.
    received: u64,
}

/// Who sent to a forwarding rule, and by which socket it is answered.
struct Peer {
    address: SocketAddr,
    socket: SocketId,
    last_used: Instant,
    tally: Tally,
}

/// A forwarding rule, as far as UDP needs it.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    pub socket: SocketId,
    pub guest: SocketAddr,
}

impl Udp {
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// What is told of each mapping, and of each peer of a forwarding rule.
    pub(crate) fn states(&self) -> impl Iterator<Item = FlowState> {
        let mappings = self.flows.iter().map(|flow| flow.tally.state(flow.guest, None, "open"));
        let peers = self.peers.iter();
        mappings.chain(peers.map(|((guest, remote), peer)| peer.tally.state(*guest, Some(*remote), "forwarded")))
    }

    /// Takes a datagram from a guest that is for the host's world; `segment` says that it is several, and how long.
    pub(crate) fn input<H: Host>(
        &mut self,
        env: &mut Env<H>,
        ip: &Ip<'_>,
        datagram: &wire::Udp<'_>,
        segment: Option<u16>,
    ) -> Result<(), DropReason> {
        let guest = End::new(ip.from, datagram.from_port);
        let remote = End::new(ip.to, datagram.to_port);
        if guest.port() == 0 || remote.port() == 0 {
            return Err(DropReason::Malformed);
        }
        if let Some(peer) = self.peers.get_mut(&(guest, remote)) {
            peer.last_used = env.now;
            peer.tally.sent += datagram.payload.len() as u64;
            let (socket, to) = (peer.socket, peer.address);
            let hops = icmp::hops(env, ip, to.ip())?;
            return self.send(env, ip, datagram, segment, (socket, to, hops));
        }
        let to = match route(&env.config, ip.to) {
            Route::Host(address) => SocketAddr::new(address, remote.port()),
            Route::Closed => return Err(DropReason::Unserved),
            Route::Nowhere => {
                icmp::unreachable(env, ip, Unreachable::Host);
                return Err(DropReason::Unserved);
            }
            Route::Refused | Route::Barred | Route::Dns => {
                icmp::unreachable(env, ip, Unreachable::Port);
                return Ok(());
            }
        };
        let hops = icmp::hops(env, ip, to.ip())?;
        let place = match self.by_guest.get(&guest) {
            Some(&place) => place,
            None => self.open(env, ip, guest)?,
        };
        if let Some(flow) = self.flows.get_mut(place) {
            flow.last_used = env.now;
            flow.tally.sent += datagram.payload.len() as u64;
            flow.idle = if remote.port() == 53 { flow.idle } else { IDLE };
            env.timers.arm(Timer::Udp(place), &mut flow.armed, env.now + flow.idle);
        }
        self.send(env, ip, datagram, segment, (id(place), to, hops))
    }

    fn open<H: Host>(&mut self, env: &mut Env<H>, ip: &Ip<'_>, guest: End) -> Result<u32, DropReason> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(DropReason::Limit);
        }
        let place = self.flows.next();
        if let Err(error) = env.host.datagram(id(place), Datagram::Unbound(Family::of(ip.from))) {
            return Err(icmp::refuse(env, ip, &error));
        }
        let tally = Tally::new(env.now);
        self.flows.insert(Flow { guest, last_used: env.now, idle: IDLE_DNS, listed: false, armed: None, tally });
        self.by_guest.insert(guest, place);
        Ok(place)
    }

    fn send<H: Host>(
        &mut self,
        env: &mut Env<H>,
        ip: &Ip<'_>,
        datagram: &wire::Udp<'_>,
        segment: Option<u16>,
        (socket, to, hops): (SocketId, SocketAddr, Option<u8>),
    ) -> Result<(), DropReason> {
        let step = segment.map_or(datagram.payload.len(), usize::from).max(1);
        // An empty datagram is one, too.
        let (first, mut rest) = datagram.payload.split_at(step.min(datagram.payload.len()));
        let mut piece = first;
        loop {
            let mut sent = env.host.send_to(socket, piece, to, hops);
            if sent.is_err() && self.reject(env, socket) {
                // The error was an older datagram's.
                sent = env.host.send_to(socket, piece, to, hops);
            }
            sent.map_err(|error| icmp::refuse(env, ip, &error))?;
            if rest.is_empty() {
                return Ok(());
            }
            (piece, rest) = rest.split_at(step.min(rest.len()));
        }
    }

    /// Takes note of what a host socket can do now.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, place: u32, readiness: Readiness) {
        if readiness.error {
            self.reject(env, id(place));
        }
        if let Some(flow) = self.flows.get_mut(place) {
            env.list(Ready::Udp(place), &mut flow.listed);
        }
    }

    /// Makes the next frame of a mapping in `out`.
    pub(crate) fn output<H: Host>(
        &mut self,
        env: &mut Env<H>,
        place: u32,
        out: &mut [u8],
    ) -> Option<(VnetHeader, usize)> {
        let flow = self.flows.get_mut(place)?;
        flow.listed = false;
        let guest = flow.guest;
        let Some(mac) = env.neighbours.get(guest.ip()) else {
            // The datagrams wait in the socket, as with a forwarding rule.
            env.ask(guest.ip());
            flow.listed = env.neighbours.wait(guest.ip(), Ready::Udp(place));
            return None;
        };
        match env.host.receive_from(id(place), &mut out[payload_at(guest)..]) {
            Ok((len, from)) => {
                flow.tally.received += len as u64;
                env.list(Ready::Udp(place), &mut flow.listed);
                let from = End::new(visible(env, guest.ip(), from.ip()), from.port());
                deliver(env, out, mac, from, guest, len)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                env.list(Ready::Udp(place), &mut flow.listed);
                if !self.reject(env, id(place)) {
                    self.unlist(place);
                }
                None
            }
        }
    }

    /// Makes the next frame of a forwarding rule in `out`; the second part says whether more may come.
    pub(crate) fn output_forward<H: Host>(
        &mut self,
        env: &mut Env<H>,
        rule: Rule,
        mac: MacAddr,
        out: &mut [u8],
    ) -> (Option<(VnetHeader, usize)>, bool) {
        let guest = rule.guest.into();
        match env.host.receive_from(rule.socket, &mut out[payload_at(guest)..]) {
            Ok((len, from)) => (self.forward(env, (rule.socket, guest), mac, out, len, from), true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (None, false),
            Err(_) => (None, self.reject(env, rule.socket)),
        }
    }

    fn forward<H: Host>(
        &mut self,
        env: &mut Env<H>,
        (socket, guest): (SocketId, End),
        mac: MacAddr,
        out: &mut [u8],
        len: usize,
        from: SocketAddr,
    ) -> Option<(VnetHeader, usize)> {
        let seen = self.seen_as(env, guest, from).filter(|&seen| {
            let known = self.peers.contains_key(&(guest, seen));
            known || self.peers.len() < MAX_PEERS
        });
        let Some(seen) = seen else {
            env.limited();
            return None;
        };
        let new = || Peer { address: from, socket, last_used: env.now, tally: Tally::new(env.now) };
        let peer = self.peers.entry((guest, seen)).or_insert_with(new);
        (peer.address, peer.socket, peer.last_used) = (from, socket, env.now);
        peer.tally.received += len as u64;
        env.timers.arm(Timer::Peers, &mut self.peers_armed, env.now + IDLE);
        deliver(env, out, mac, seen, guest, len)
    }

    /// Under which address a sender appears to the guest. Those that all appear as the gateway keep their ports as long
    /// as these differ; of two alike, the later one gets another.
    fn seen_as<H>(&self, env: &Env<H>, guest: End, from: SocketAddr) -> Option<End> {
        let first = End::new(visible(env, guest.ip(), from.ip()), from.port());
        let others = (0..OTHER_PORTS).map(|n| {
            let mut hasher = DefaultHasher::new();
            (from, n).hash(&mut hasher);
            first.with_port(0x8000 | hasher.finish() as u16)
        });
        let is_free = |seen: &End| self.peers.get(&(guest, *seen)).is_none_or(|peer| peer.address == from);
        iter::once(first).chain(others).find(is_free)
    }

    /// A forwarding rule has ended: its socket answers nobody any more.
    pub(crate) fn forget(&mut self, socket: SocketId) {
        self.peers.retain(|_, peer| peer.socket != socket);
    }

    /// A mapping's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, place: u32, at: Instant) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        if flow.armed != Some(at) {
            return;
        }
        flow.armed = None;
        let until = flow.last_used + flow.idle;
        if until > env.now {
            return env.timers.arm(Timer::Udp(place), &mut flow.armed, until);
        }
        let guest = flow.guest;
        env.neighbours.forget(Ready::Udp(place));
        self.flows.remove(place);
        self.by_guest.remove(&guest);
        env.host.close(id(place));
    }

    /// The timer of the peers has fired.
    pub(crate) fn expire_peers<H>(&mut self, env: &mut Env<H>, at: Instant) {
        if self.peers_armed != Some(at) {
            return;
        }
        self.peers_armed = None;
        let now = env.now;
        self.peers.retain(|_, peer| peer.last_used + IDLE > now);
        if let Some(next) = self.peers.values().map(|peer| peer.last_used + IDLE).min() {
            env.timers.arm(Timer::Peers, &mut self.peers_armed, next);
        }
    }

    fn unlist(&mut self, place: u32) {
        // The entry on the ready list stays; it finds nothing, and the next readiness lists the flow again.
        if let Some(flow) = self.flows.get_mut(place) {
            flow.listed = false;
        }
    }

    /// Passes ICMP errors on to the guest; returns whether there were any.
    fn reject<H: Host>(&mut self, env: &mut Env<H>, socket: SocketId) -> bool {
        let mut any = false;
        while let Some(rejection) = env.host.rejection(socket) {
            any = true;
            let guest = match socket.kind {
                Kind::Udp => self.flows.get_mut(socket.index).map(|flow| flow.guest),
                _ => self.peers.iter().find(|(_, p)| p.socket == socket && p.address == rejection.to).map(|(k, _)| k.0),
            };
            let Some(guest) = guest else { continue };
            let mut datagram = vec![0; UDP];
            wire::put_udp(&mut datagram, guest.port(), rejection.to.port(), rejection.quote.len());
            datagram.extend_from_slice(&rejection.quote);
            icmp::pass_on(env, guest.ip(), UDP_PROTOCOL, &rejection, &datagram);
        }
        any
    }
}

impl Tally {
    fn new(begun: Instant) -> Self {
        Self { begun, sent: 0, received: 0 }
    }

    fn state(&self, guest: End, remote: Option<End>, state: &'static str) -> FlowState {
        FlowState {
            protocol: Protocol::Udp,
            guest: guest.into(),
            remote: remote.map(Into::into),
            state,
            sent: self.sent,
            received: self.received,
            begun: self.begun,
        }
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Udp, index: place }
}

/// Where in a frame for this guest a datagram's payload begins.
fn payload_at(guest: End) -> usize {
    ETHERNET + IpHeader::whole(guest.ip(), guest.ip(), UDP_PROTOCOL, 0).len() + UDP
}

/// Completes the frame in `out`, whose payload of `len` bytes is in its place already.
fn deliver<H>(
    env: &mut Env<H>,
    out: &mut [u8],
    mac: MacAddr,
    from: End,
    guest: End,
    len: usize,
) -> Option<(VnetHeader, usize)> {
    const FIELD: usize = 6;
    let (source, to) = (from.ip(), guest.ip());
    if source.is_ipv4() != to.is_ipv4() {
        return None;
    }
    let header = IpHeader::whole(source, to, UDP_PROTOCOL, UDP + len);
    let start = ETHERNET + header.len();
    let end = start + UDP + len;
    if end - ETHERNET > usize::from(env.config.mtu) {
        env.queue_datagram(mac, (source, from.port()), (to, guest.port()), out.get(start + UDP..end)?);
        return None;
    }
    wire::put_ethernet(out, mac, env.mac_for(source), header.ethertype());
    header.put(&mut out[ETHERNET..]);
    let datagram = &mut out[start..end];
    wire::put_udp(datagram, from.port(), guest.port(), len);
    if !env.offloads.checksum {
        wire::fill_udp_checksum(source, to, datagram);
        return Some((VnetHeader::WHOLE, end));
    }
    let pseudo = wire::fold(wire::pseudo_sum(source, to, UDP_PROTOCOL, UDP + len));
    datagram[FIELD..FIELD + 2].copy_from_slice(&pseudo.to_be_bytes());
    let checksum = Checksum::Partial { start: start as u16, offset: FIELD as u16 };
    Some((VnetHeader { checksum, ..VnetHeader::WHOLE }, end))
}
