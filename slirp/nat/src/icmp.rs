//! ICMP (RFC 792): echo for the NAT's own addresses, echo through the host where it lets us, and errors to guests.
//!
//! An echo request to elsewhere goes out through a `SOCK_DGRAM` socket of the kernel's (icmp(7)), one per guest and
//! identifier; the kernel puts an identifier of its own in and lets only the answers to it through. Where
//! `net.ipv4.ping_group_range` forbids that, the guest is told "communication administratively prohibited".

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use link::{DropReason, VnetHeader};

use crate::config::ipv4_of;
use crate::env::{Env, Ready};
use crate::host::{Datagram, Host, Kind, Readiness, Rejection, SocketId};
use crate::route::{Route, route};
use crate::slab::Slab;
use crate::tcp::visible;
use crate::timers::Timer;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, IPV4, Ipv4, Ipv4Header};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;

/// Codes of "destination unreachable" (RFC 792, RFC 1812 §5.2.7.1).
pub(crate) const NET_UNREACHABLE: u8 = 0;
pub(crate) const HOST_UNREACHABLE: u8 = 1;
pub(crate) const PORT_UNREACHABLE: u8 = 3;
pub(crate) const PROHIBITED: u8 = 13;
const PROTOCOL_UNREACHABLE: u8 = 2;

/// Bytes of an ICMP header.
const HEADER: usize = 8;

/// Bytes of the offending packet that an error quotes: as much as fits 576 bytes (RFC 1812 §4.3.2.3).
const QUOTE: usize = 576 - IPV4 - HEADER;

/// Identifiers that may be in use at once.
const MAX_FLOWS: usize = 256;

/// How long an identifier stays in use without a packet (RFC 5508 REQ-2: at least 60 s).
const IDLE: Duration = Duration::from_secs(60);

/// The guests' echo requests under way.
#[derive(Default)]
pub(crate) struct Pings {
    flows: Slab<Flow>,
    by_key: HashMap<(Ipv4Addr, u16), u32>,
}

struct Flow {
    guest: Ipv4Addr,
    ident: u16,
    last_used: Instant,
    listed: bool,
    armed: Option<Instant>,
}

impl Pings {
    /// Takes an ICMP packet from a guest.
    pub(crate) fn input<H: Host>(&mut self, env: &mut Env<H>, ip: &Ipv4<'_>) -> Result<(), DropReason> {
        let header: &[u8; HEADER] = ip.payload.first_chunk().ok_or(DropReason::Malformed)?;
        if wire::fold(wire::sum(ip.payload)) != 0xffff {
            return Err(DropReason::Malformed);
        }
        if header[..2] != [ECHO_REQUEST, 0] {
            // Errors a guest reports concern flows that recover on their own.
            return Err(DropReason::Unserved);
        }
        if ip.to == env.config.gateway || ip.to == env.config.dns {
            echo(env, ip.to, ip.from, ip.payload);
            return Ok(());
        }
        match route(&env.config, ip.to) {
            Route::Host(address) => self.forward(env, ip, address),
            Route::Nowhere => {
                unreachable(env, ip.from, HOST_UNREACHABLE, ip.bytes);
                Err(DropReason::Unserved)
            }
            _ => Err(DropReason::Unserved),
        }
    }

    /// Sends an echo request on to the host's world.
    fn forward<H: Host>(&mut self, env: &mut Env<H>, ip: &Ipv4<'_>, to: Ipv4Addr) -> Result<(), DropReason> {
        let ident = wire::be16(ip.payload, 4);
        let place = match self.by_key.get(&(ip.from, ident)) {
            Some(&place) => place,
            None => self.open(env, ip, ident)?,
        };
        let Some(flow) = self.flows.get_mut(place) else { return Ok(()) };
        flow.last_used = env.now;
        env.timers.arm(Timer::Ping(place), &mut flow.armed, env.now + IDLE);
        let to = SocketAddr::from((to, 0));
        let mut sent = env.host.send_to(id(place), ip.payload, to);
        if sent.is_err() && self.reject(env, place) {
            sent = env.host.send_to(id(place), ip.payload, to);
        }
        sent.map_err(|error| refuse(env, ip, &error))
    }

    fn open<H: Host>(&mut self, env: &mut Env<H>, ip: &Ipv4<'_>, ident: u16) -> Result<u32, DropReason> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(DropReason::Limit);
        }
        let place = self.flows.next();
        if let Err(error) = env.host.datagram(id(place), Datagram::Ping) {
            return Err(refuse(env, ip, &error));
        }
        let flow = Flow { guest: ip.from, ident, last_used: env.now, listed: false, armed: None };
        self.flows.insert(flow);
        self.by_key.insert((ip.from, ident), place);
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
        let mac = env.neighbours.get(flow.guest)?;
        let (len, from) = match env.host.receive_from(id(place), &mut env.datagram) {
            Ok(received) => received,
            Err(_) => return None,
        };
        env.list(Ready::Ping(place), &mut flow.listed);
        let message = env.datagram.get_mut(..len)?;
        if len < HEADER || message[0] != ECHO_REPLY {
            return None;
        }
        message[4..6].copy_from_slice(&flow.ident.to_be_bytes());
        put_checksum(message);
        let from = visible(env, ipv4_of(from.ip())?);
        let header = Ipv4Header::whole(from, flow.guest, wire::ICMP, len);
        if IPV4 + len > usize::from(env.config.mtu) {
            let message = env.datagram[..len].to_vec();
            env.queue_fragments(mac, header, &message);
            return None;
        }
        wire::put_ethernet(out, mac, env.mac_for(from), ETHERTYPE_IPV4);
        header.put(&mut out[ETHERNET..]);
        out[ETHERNET + IPV4..][..len].copy_from_slice(&env.datagram[..len]);
        Some((VnetHeader::WHOLE, ETHERNET + IPV4 + len))
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
        let key = (flow.guest, flow.ident);
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
            let mut message = [0; HEADER];
            message[0] = ECHO_REQUEST;
            message[4..6].copy_from_slice(&flow.ident.to_be_bytes());
            let guest = flow.guest;
            pass_on(env, guest, wire::ICMP, &rejection, &message);
        }
        any
    }
}

fn id(place: u32) -> SocketId {
    SocketId { kind: Kind::Ping, index: place }
}

/// Answers an echo request.
fn echo<H>(env: &mut Env<H>, from: Ipv4Addr, to: Ipv4Addr, request: &[u8]) {
    let Some(mac) = env.neighbours.get(to) else { return };
    let header = Ipv4Header::whole(from, to, wire::ICMP, request.len());
    let mut reply = request.to_vec();
    reply[0] = ECHO_REPLY;
    put_checksum(&mut reply);
    if IPV4 + reply.len() > usize::from(env.config.mtu) {
        env.queue_fragments(mac, header, &reply);
    } else {
        env.queue_packet(mac, header, |out| out.copy_from_slice(&reply));
    }
}

/// Tells a guest, as the gateway, that its packet cannot arrive.
pub(crate) fn unreachable<H>(env: &mut Env<H>, guest: Ipv4Addr, code: u8, packet: &[u8]) {
    let from = env.config.gateway;
    error(env, from, guest, [UNREACHABLE, code], 0, packet);
}

/// Tells a guest that its packet's protocol is not served.
pub(crate) fn unknown_protocol<H>(env: &mut Env<H>, ip: &Ipv4<'_>) {
    unreachable(env, ip.from, PROTOCOL_UNREACHABLE, ip.bytes);
}

/// Passes an ICMP error from the host's world on: about a packet that began with `payload` behind its IP header.
pub(crate) fn pass_on<H>(
    env: &mut Env<H>,
    guest: Ipv4Addr,
    protocol: u8,
    rejection: &Rejection,
    payload: &[u8; HEADER],
) {
    let remote = visible(env, *rejection.to.ip());
    let from = rejection.by.map_or(env.config.gateway, |by| visible(env, by));
    let mut quoted = [0; IPV4 + HEADER];
    Ipv4Header::whole(guest, remote, protocol, HEADER).put(&mut quoted);
    quoted[IPV4..].copy_from_slice(payload);
    error(env, from, guest, [rejection.icmp_type, rejection.icmp_code], rejection.mtu, &quoted);
}

/// Queues an ICMP error. `mtu` stands in its place if the error is "fragmentation needed" (RFC 1191 §4).
fn error<H>(env: &mut Env<H>, from: Ipv4Addr, guest: Ipv4Addr, type_code: [u8; 2], mtu: u16, packet: &[u8]) {
    // RFC 1122 §3.2.2: no error about a packet that was for many.
    let to = wire::address(packet, 16);
    if to.is_multicast() || to.is_broadcast() || to == env.config.network.broadcast() {
        return;
    }
    let Some(mac) = env.neighbours.get(guest) else { return };
    let quote = &packet[..packet.len().min(QUOTE)];
    let header = Ipv4Header::whole(from, guest, wire::ICMP, HEADER + quote.len());
    env.queue_packet(mac, header, |message| {
        message[..2].copy_from_slice(&type_code);
        message[6..8].copy_from_slice(&mtu.to_be_bytes());
        message[HEADER..].copy_from_slice(quote);
        put_checksum(message);
    });
}

/// Tells the guest why the host would not send its packet, and names the reason to be counted.
pub(crate) fn refuse<H>(env: &mut Env<H>, ip: &Ipv4<'_>, error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => return DropReason::Limit,
        Some(code) => {
            if let Some(code) = unreachable_code(code) {
                unreachable(env, ip.from, code, ip.bytes);
            }
        }
        None => {}
    }
    DropReason::HostError
}

/// The code of "destination unreachable" that says what an error of the host's says.
pub(crate) fn unreachable_code(errno: i32) -> Option<u8> {
    match errno {
        libc::ENETUNREACH | libc::ENETDOWN => Some(NET_UNREACHABLE),
        libc::EHOSTUNREACH | libc::EHOSTDOWN => Some(HOST_UNREACHABLE),
        libc::EACCES | libc::EPERM => Some(PROHIBITED),
        _ => None,
    }
}

/// The error that a UDP port refuses with.
pub(crate) fn port_unreachable<H>(env: &mut Env<H>, ip: &Ipv4<'_>) {
    let (from, guest) = (ip.to, ip.from);
    error(env, from, guest, [UNREACHABLE, PORT_UNREACHABLE], 0, ip.bytes);
}

fn put_checksum(message: &mut [u8]) {
    message[2..4].fill(0);
    let checksum = !wire::fold(wire::sum(message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}
