//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo for the NAT's own addresses, echo through the host where it lets us, and
//! errors to guests.
//!
//! An echo request to elsewhere goes out through a `SOCK_DGRAM` socket of the kernel's (icmp(7)), one per guest and
//! identifier; the kernel puts an identifier of its own in and lets only the answers to it through. Where
//! `net.ipv4.ping_group_range` forbids that, the guest is told "communication administratively prohibited".
//!
//! The NAT is a router in the guest's eyes: a packet for elsewhere arrives with one hop less, and one that had its last
//! is answered "time exceeded" ([`hops`]). So a guest's traceroute sees the gateway first, and then what the host sees.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use link::{DropReason, VnetHeader};

use crate::ends::Address;
use crate::env::{Env, Ready};
use crate::host::{Datagram, Family, Host, Kind, Readiness, Rejection, SocketId};
use crate::route::{Route, route};
use crate::slab::Slab;
use crate::tcp::visible;
use crate::timers::Timer;
use crate::wire::{self, ETHERNET, ICMP, ICMPV6, IPV4, IPV6, Ip, IpHeader};

/// What is told apart by the version of IP.
struct Numbers {
    protocol: u8,
    echo_request: u8,
    echo_reply: u8,
    unreachable: u8,
    time_exceeded: u8,
    /// Bytes of the offending packet that an error quotes: as much as fits 576 bytes (RFC 1812 §4.3.2.3), or 1280
    /// (RFC 4443 §2.4(c)).
    quote: usize,
}

const V4: Numbers = Numbers {
    protocol: ICMP,
    echo_request: 8,
    echo_reply: 0,
    unreachable: 3,
    time_exceeded: 11,
    quote: 576 - IPV4 - HEADER,
};

const V6: Numbers = Numbers {
    protocol: ICMPV6,
    echo_request: 128,
    echo_reply: 129,
    unreachable: 1,
    time_exceeded: 3,
    quote: 1280 - IPV6 - HEADER,
};

/// The type of ICMPv6 "parameter problem" (RFC 4443 §3.4).
const PARAMETER_PROBLEM: u8 = 4;

/// Bytes of an ICMP header.
const HEADER: usize = 8;

impl Numbers {
    fn of(address: IpAddr) -> &'static Self {
        if address.is_ipv4() { &V4 } else { &V6 }
    }
}

/// Why a packet cannot arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Protocol,
    Port,
    Prohibited,
    /// The source address means nothing beyond the link.
    Scope,
}

impl Unreachable {
    /// What an error of the host's says about a way in this family.
    pub(crate) fn of(errno: i32, family: Family) -> Option<Self> {
        match errno {
            libc::ENETUNREACH | libc::ENETDOWN | libc::EAFNOSUPPORT => Some(Self::Network),
            // A host with IPv6 switched off has no address to send from.
            libc::EADDRNOTAVAIL if family == Family::V6 => Some(Self::Network),
            libc::EHOSTUNREACH | libc::EHOSTDOWN => Some(Self::Host),
            libc::EACCES | libc::EPERM => Some(Self::Prohibited),
            _ => None,
        }
    }

    /// The code of "destination unreachable": RFC 792 and RFC 1812 §5.2.7.1, or RFC 4443 §3.1.
    fn code(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Network, _) => 0,
            (Self::Host, Family::V4) | (Self::Prohibited, Family::V6) => 1,
            (Self::Protocol, _) | (Self::Scope, Family::V6) => 2,
            (Self::Port, Family::V4) | (Self::Host, Family::V6) => 3,
            (Self::Port, Family::V6) => 4,
            (Self::Prohibited | Self::Scope, Family::V4) => 13,
        }
    }
}

/// Identifiers that may be in use at once.
const MAX_FLOWS: usize = 256;

/// How long an identifier stays in use without a packet (RFC 5508 REQ-2: at least 60 s).
const IDLE: Duration = Duration::from_secs(60);

/// Errors that guests are told of in a second, or at once.
const ERRORS: u32 = 1000;

/// How many errors may be told of now: RFC 4443 §2.4(f) and RFC 1812 §4.3.2.8 ask for a limit.
pub(crate) struct Budget {
    left: u32,
    counted: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: ERRORS, counted: now }
    }

    /// Takes one, if there is one left. In each millisecond one comes back.
    fn take(&mut self, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.counted).as_millis().min(ERRORS.into()) as u32;
        if back > 0 {
            self.left = (self.left + back).min(ERRORS);
            self.counted = now;
        }
        let any = self.left > 0;
        self.left -= u32::from(any);
        any
    }
}

/// The guests' echo requests under way.
#[derive(Default)]
pub(crate) struct Pings {
    flows: Slab<Flow>,
    by_key: HashMap<(Address, u16), u32>,
}

struct Flow {
    guest: IpAddr,
    ident: u16,
    last_used: Instant,
    listed: bool,
    armed: Option<Instant>,
}

impl Pings {
    /// Takes an ICMP packet from a guest.
    pub(crate) fn input<H: Host>(&mut self, env: &mut Env<H>, ip: &Ip<'_>) -> Result<(), DropReason> {
        let numbers = Numbers::of(ip.from);
        let header: &[u8; HEADER] = ip.payload.first_chunk().ok_or(DropReason::Malformed)?;
        if checksum(ip.from, ip.to, ip.payload) != 0 {
            return Err(DropReason::Malformed);
        }
        if header[..2] != [numbers.echo_request, 0] {
            // Errors a guest reports concern flows that recover on their own.
            return Err(DropReason::Unserved);
        }
        if env.is_own(ip.to) || is_every_router(ip.to) {
            let from = if env.is_own(ip.to) { ip.to } else { env.router(ip.from) };
            echo(env, from, ip.from, ip.payload);
            return Ok(());
        }
        match route(&env.config, ip.to) {
            Route::Host(address) => self.forward(env, ip, address),
            Route::Nowhere => {
                unreachable(env, ip, Unreachable::Host);
                Err(DropReason::Unserved)
            }
            _ => Err(DropReason::Unserved),
        }
    }

    /// Sends an echo request on to the host's world.
    fn forward<H: Host>(&mut self, env: &mut Env<H>, ip: &Ip<'_>, to: IpAddr) -> Result<(), DropReason> {
        let hops = hops(env, ip, to)?;
        let ident = wire::be16(ip.payload, 4);
        let place = match self.by_key.get(&(ip.from.into(), ident)) {
            Some(&place) => place,
            None => self.open(env, ip, ident)?,
        };
        let Some(flow) = self.flows.get_mut(place) else { return Ok(()) };
        flow.last_used = env.now;
        env.timers.arm(Timer::Ping(place), &mut flow.armed, env.now + IDLE);
        let to = SocketAddr::from((to, 0));
        let mut sent = env.host.send_to(id(place), ip.payload, to, hops);
        if sent.is_err() && self.reject(env, place) {
            sent = env.host.send_to(id(place), ip.payload, to, hops);
        }
        sent.map_err(|error| refuse(env, ip, &error))
    }

    fn open<H: Host>(&mut self, env: &mut Env<H>, ip: &Ip<'_>, ident: u16) -> Result<u32, DropReason> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(DropReason::Limit);
        }
        let place = self.flows.next();
        if let Err(error) = env.host.datagram(id(place), Datagram::Ping(Family::of(ip.from))) {
            return Err(refuse(env, ip, &error));
        }
        let flow = Flow { guest: ip.from, ident, last_used: env.now, listed: false, armed: None };
        self.flows.insert(flow);
        self.by_key.insert((ip.from.into(), ident), place);
        Ok(place)
    }

    /// Takes note of what a host socket can do now.
    pub(crate) fn ready<H: Host>(&mut self, env: &mut Env<H>, place: u32, readiness: Readiness) {
        if readiness.error {
            self.reject(env, place);
        }
        let Some(flow) = self.flows.get_mut(place) else { return };
        env.list(Ready::Ping(place), &mut flow.listed);
    }

    /// Makes the next frame of a flow in `out`.
    pub(crate) fn output<H: Host>(
        &mut self,
        env: &mut Env<H>,
        place: u32,
        out: &mut [u8],
    ) -> Option<(VnetHeader, usize)> {
        let flow = self.flows.get_mut(place)?;
        flow.listed = false;
        let guest = flow.guest;
        let Some(mac) = env.neighbours.get(guest) else {
            env.ask(guest);
            flow.listed = env.neighbours.wait(guest, Ready::Ping(place));
            return None;
        };
        let (len, from) = match env.host.receive_from(id(place), &mut env.datagram) {
            Ok(received) => received,
            Err(_) => return None,
        };
        env.list(Ready::Ping(place), &mut flow.listed);
        let from = visible(env, guest, from.ip());
        let numbers = Numbers::of(guest);
        let message = env.datagram.get_mut(..len)?;
        if len < HEADER || message[0] != numbers.echo_reply || from.is_ipv4() != guest.is_ipv4() {
            return None;
        }
        message[4..6].copy_from_slice(&flow.ident.to_be_bytes());
        put_checksum(from, guest, message);
        let header = IpHeader::whole(from, guest, numbers.protocol, len);
        if header.len() + len > usize::from(env.config.mtu) {
            let message = message.to_vec();
            env.queue_fragments(mac, header, &message);
            return None;
        }
        let at = ETHERNET + header.len();
        out.get_mut(at..at + len)?.copy_from_slice(message);
        wire::put_ethernet(out, mac, env.mac_for(from), header.ethertype());
        header.put(&mut out[ETHERNET..]);
        Some((VnetHeader::WHOLE, at + len))
    }

    /// A flow's timer has fired.
    pub(crate) fn fired<H: Host>(&mut self, env: &mut Env<H>, place: u32, at: Instant) {
        let Some(flow) = self.flows.get_mut(place) else { return };
        if flow.armed != Some(at) {
            return;
        }
        flow.armed = None;
        let until = flow.last_used + IDLE;
        if until > env.now {
            return env.timers.arm(Timer::Ping(place), &mut flow.armed, until);
        }
        let key = (flow.guest.into(), flow.ident);
        env.neighbours.forget(Ready::Ping(place));
        self.flows.remove(place);
        self.by_key.remove(&key);
        env.host.close(id(place));
    }

    /// Passes ICMP errors on to the guest; returns whether there were any.
    fn reject<H: Host>(&mut self, env: &mut Env<H>, place: u32) -> bool {
        let mut any = false;
        while let Some(rejection) = env.host.rejection(id(place)) {
            any = true;
            let Some(flow) = self.flows.get_mut(place) else { break };
            let guest = flow.guest;
            let numbers = Numbers::of(guest);
            // What the error quotes begins with the header that the kernel sent; only the identifier differs.
            let mut message = rejection.quote.clone();
            message.resize(message.len().max(HEADER), 0);
            message[0] = numbers.echo_request;
            message[4..6].copy_from_slice(&flow.ident.to_be_bytes());
            pass_on(env, guest, numbers.protocol, &rejection, &message);
        }
        any
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Ping, index: place }
}

/// Answers an echo request.
fn echo<H>(env: &mut Env<H>, from: IpAddr, to: IpAddr, request: &[u8]) {
    let Some(mac) = env.neighbours.get(to) else { return };
    let numbers = Numbers::of(to);
    let header = IpHeader::whole(from, to, numbers.protocol, request.len());
    let mut reply = request.to_vec();
    reply[0] = numbers.echo_reply;
    put_checksum(from, to, &mut reply);
    if header.len() + reply.len() > usize::from(env.config.mtu) {
        env.queue_fragments(mac, header, &reply);
    } else {
        env.queue_packet(mac, header, |out| out.copy_from_slice(&reply));
    }
}

/// The hop limit with which a guest's packet goes on to `to`; none says that it has arrived, for `to` is the host's own
/// loopback, for which the gateway stands.
///
/// # Errors
/// The packet may not go on, and the guest was told why.
pub(crate) fn hops<H>(env: &mut Env<H>, ip: &Ip<'_>, to: IpAddr) -> Result<Option<u8>, DropReason> {
    if to.is_loopback() {
        return Ok(None);
    }
    // RFC 4291 §2.5.6: no router forwards packets with link-local addresses.
    if matches!(ip.from, IpAddr::V6(from) if from.is_unicast_link_local()) {
        unreachable(env, ip, Unreachable::Scope);
        return Err(DropReason::Unserved);
    }
    match ip.hop_limit {
        0 | 1 => {
            let from = env.router(ip.from);
            error(env, from, ip.from, [Numbers::of(ip.from).time_exceeded, 0], 0, Offender::of(ip));
            Err(DropReason::Unserved)
        }
        limit => Ok(Some(limit - 1)),
    }
}

/// Tells a guest that its packet cannot arrive: as the gateway, or, about a port, as its owner.
pub(crate) fn unreachable<H>(env: &mut Env<H>, ip: &Ip<'_>, why: Unreachable) {
    let from = if why == Unreachable::Port { ip.to } else { env.router(ip.from) };
    let type_code = [Numbers::of(ip.from).unreachable, why.code(Family::of(ip.from))];
    error(env, from, ip.from, type_code, 0, Offender::of(ip));
}

/// Tells a guest that its packet's protocol is not served.
pub(crate) fn unknown_protocol<H>(env: &mut Env<H>, ip: &Ip<'_>) {
    match ip.from {
        IpAddr::V4(_) => unreachable(env, ip, Unreachable::Protocol),
        IpAddr::V6(_) if ip.protocol == wire::NO_NEXT_HEADER => {}
        IpAddr::V6(_) => parameter_problem(env, ip.bytes, wire::UNKNOWN_HEADER, ip.protocol_at),
    }
}

/// Tells a guest what of its IPv6 packet, whose header is there, was not understood (RFC 4443 §3.4).
pub(crate) fn parameter_problem<H>(env: &mut Env<H>, packet: &[u8], code: u8, at: usize) {
    let guest = wire::address6(packet, 8).into();
    if env.is_guest(guest) {
        let to = wire::address6(packet, 24).into();
        let from = env.router(guest);
        error(env, from, guest, [PARAMETER_PROBLEM, code], at as u32, Offender { to, packet });
    }
}

/// Passes an ICMP error from the host's world on: about a packet that began with `payload` behind its IP header. One of
/// the other family, about an answer that left by a forwarding rule, has numbers of its own and ends here.
pub(crate) fn pass_on<H>(env: &mut Env<H>, guest: IpAddr, protocol: u8, rejection: &Rejection, payload: &[u8]) {
    if rejection.to.is_ipv4() != guest.is_ipv4() {
        return;
    }
    let to = visible(env, guest, rejection.to.ip());
    let from = rejection.by.map_or(env.router(guest), |by| visible(env, guest, by));
    let packet = IpHeader::whole(guest, to, protocol, 0).over(payload);
    let type_code = [rejection.icmp_type, rejection.icmp_code];
    error(env, from, guest, type_code, rejection.info, Offender { to, packet: &packet });
}

/// The packet that an error is about.
struct Offender<'a> {
    to: IpAddr,
    packet: &'a [u8],
}

impl<'a> Offender<'a> {
    fn of(ip: &Ip<'a>) -> Self {
        Self { to: ip.to, packet: ip.bytes }
    }
}

/// Queues an ICMP error. `info` stands behind the checksum: the MTU of "packet too big" (RFC 1191 §4, RFC 4443 §3.2),
/// the pointer of "parameter problem", else 0.
fn error<H>(env: &mut Env<H>, from: IpAddr, guest: IpAddr, type_code: [u8; 2], info: u32, about: Offender<'_>) {
    // RFC 1122 §3.2.2, RFC 4443 §2.4(e): no error about a packet that was for many.
    if env.is_for_many(about.to) || !env.errors.take(env.now) {
        return;
    }
    let Some(mac) = env.neighbours.get(guest) else { return };
    let numbers = Numbers::of(guest);
    let quote = &about.packet[..about.packet.len().min(numbers.quote)];
    let header = IpHeader::whole(from, guest, numbers.protocol, HEADER + quote.len());
    env.queue_packet(mac, header, |message| {
        message[..2].copy_from_slice(&type_code);
        message[4..8].copy_from_slice(&info.to_be_bytes());
        message[HEADER..].copy_from_slice(quote);
        put_checksum(from, guest, message);
    });
}

/// Tells the guest why the host would not send its packet, and names the reason to be counted.
pub(crate) fn refuse<H>(env: &mut Env<H>, ip: &Ip<'_>, error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => return DropReason::Limit,
        Some(code) => {
            if let Some(why) = Unreachable::of(code, Family::of(ip.from)) {
                unreachable(env, ip, why);
            }
        }
        None => {}
    }
    DropReason::HostError
}

/// Whether a packet for this address is for every node, or every router, of the link (RFC 4291 §2.7.1).
fn is_every_router(address: IpAddr) -> bool {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    address == ALL_NODES || address == ALL_ROUTERS
}

/// The checksum of a message whose own checksum field is 0; 0, if it is filled in and right.
fn checksum(from: IpAddr, to: IpAddr, message: &[u8]) -> u16 {
    match from {
        IpAddr::V4(_) => !wire::fold(wire::sum(message)),
        IpAddr::V6(_) => !wire::transport_sum(from, to, ICMPV6, message),
    }
}

/// Stores the checksum of a message.
pub(crate) fn put_checksum(from: IpAddr, to: IpAddr, message: &mut [u8]) {
    message[2..4].fill(0);
    let checksum = checksum(from, to, message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}
