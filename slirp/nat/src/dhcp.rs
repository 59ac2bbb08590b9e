//! The DHCP server (RFC 2131, options of RFC 2132, search list of RFC 3397): sixteen addresses, remembered per MAC.
//!
//! # Theory of operation
//! A lease is `free`, `offered` (for a minute) or `bound` (for the lease time), each to one MAC address. DISCOVER
//! offers the address the guest had, or asks for, or the first free one; REQUEST binds it, or is answered NAK if the
//! address is not the guest's to have; RELEASE and DECLINE free it, but the MAC is remembered, so that the guest gets
//! the same address again unless another needed it. Requests that name another server are not for us.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use link::{DropReason, MacAddr};

use crate::config::{Config, LEASES, Name};
use crate::env::Env;
use crate::wire;

/// UDP ports of server and client (RFC 2131 §4.1).
pub(crate) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// How long a lease lasts, as with QEMU.
const LEASE_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offer stands.
const OFFER_TIME: Duration = Duration::from_secs(60);

/// Bytes in front of the options, with the magic cookie (RFC 2131 §2).
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Bytes of a message that every client takes (RFC 2131 §2).
const MIN_MESSAGE: usize = 300;
const MAX_MESSAGE: usize = 548;

/// Options (RFC 2132).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const MESSAGE: u8 = 56;
    pub const SEARCH: u8 = 119;
    pub const END: u8 = 255;
}

/// Message types (RFC 2132 §9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// The leases.
#[derive(Default)]
pub(crate) struct Dhcp {
    leases: [Option<Lease>; LEASES as usize],
}

#[derive(Clone, Copy)]
struct Lease {
    mac: MacAddr,
    /// From then on another guest may have it.
    until: Instant,
}

/// What matters of a client's message.
struct Message {
    kind: u8,
    xid: [u8; 4],
    flags: [u8; 2],
    client: Ipv4Addr,
    mac: MacAddr,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Message {
    fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let (fixed, options) = bytes.split_first_chunk::<FIXED>().ok_or(DropReason::Malformed)?;
        // A request, over Ethernet, with addresses of six bytes, without a relay in between.
        if fixed[..3] != [1, 1, 6] || fixed[236..] != COOKIE {
            return Err(DropReason::Malformed);
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        let mut message = Self {
            kind: 0,
            xid: [fixed[4], fixed[5], fixed[6], fixed[7]],
            flags: [fixed[10], fixed[11]],
            client: wire::address(fixed, 12),
            mac: MacAddr(mac),
            requested: None,
            server: None,
        };
        if message.mac.is_multicast() || message.mac.0 == [0; 6] {
            return Err(DropReason::Malformed);
        }
        message.parse_options(options)?;
        Ok(message)
    }

    fn parse_options(&mut self, mut rest: &[u8]) -> Result<(), DropReason> {
        while let [code, tail @ ..] = rest {
            rest = tail;
            match *code {
                option::PAD => continue,
                option::END => break,
                _ => {}
            }
            let (len, tail) = rest.split_first().ok_or(DropReason::Malformed)?;
            let (value, tail) = tail.split_at_checked(usize::from(*len)).ok_or(DropReason::Malformed)?;
            rest = tail;
            match (*code, value) {
                (option::MESSAGE_TYPE, [kind]) => self.kind = *kind,
                (option::REQUESTED, [_, _, _, _]) => self.requested = Some(wire::address(value, 0)),
                (option::SERVER_ID, [_, _, _, _]) => self.server = Some(wire::address(value, 0)),
                (option::MESSAGE_TYPE | option::REQUESTED | option::SERVER_ID, _) => {
                    return Err(DropReason::Malformed);
                }
                _ => {}
            }
        }
        if self.kind == 0 { Err(DropReason::Malformed) } else { Ok(()) }
    }
}

impl Dhcp {
    /// Takes the payload of a datagram to the server's port.
    pub(crate) fn input<H>(&mut self, env: &mut Env<H>, payload: &[u8]) -> Result<(), DropReason> {
        let message = Message::parse(payload)?;
        if message.server.is_some_and(|server| server != env.config.gateway) {
            return Ok(());
        }
        match message.kind {
            DISCOVER => {
                let address = self.offer(&env.config, &message, env.now).ok_or(DropReason::Limit)?;
                reply(env, &message, OFFER, address);
            }
            REQUEST => self.request(env, &message),
            RELEASE | DECLINE => self.release(message.mac, env.now),
            INFORM if env.is_guest(message.client) => reply(env, &message, ACK, message.client),
            _ => return Err(DropReason::Unserved),
        }
        Ok(())
    }

    /// Finds an address for a guest: the one it had, or wants, or the first that is free.
    fn offer(&mut self, config: &Config, message: &Message, now: Instant) -> Option<Ipv4Addr> {
        let wanted = message.requested.and_then(|address| place(config, address));
        let place = self
            .of(message.mac)
            .or_else(|| wanted.filter(|&place| self.is_free(place, message.mac, now)))
            .or_else(|| (0..self.leases.len()).find(|&place| self.leases[place].is_none()))
            .or_else(|| (0..self.leases.len()).find(|&place| self.is_free(place, message.mac, now)))?;
        let until = now + OFFER_TIME;
        // An offer does not shorten a lease that is running.
        let until = self.leases[place].filter(|l| l.mac == message.mac).map_or(until, |l| l.until.max(until));
        self.leases[place] = Some(Lease { mac: message.mac, until });
        Some(config.lease(place as u8))
    }

    /// Binds the address that a guest asks for (RFC 2131 §4.3.2), or says that it cannot have it.
    fn request<H>(&mut self, env: &mut Env<H>, message: &Message) {
        let address = message.requested.unwrap_or(message.client);
        let place = place(&env.config, address).filter(|&place| {
            // The guest's own lease, or, after the NAT was started anew, one that nobody has.
            self.of(message.mac).is_none_or(|own| own == place) && self.is_free(place, message.mac, env.now)
        });
        let Some(place) = place else {
            log::debug!("dhcp: {} asks for {address}, which it cannot have", message.mac);
            return reply(env, message, NAK, Ipv4Addr::UNSPECIFIED);
        };
        self.leases[place] = Some(Lease { mac: message.mac, until: env.now + LEASE_TIME });
        log::info!("dhcp: {} has {address}", message.mac);
        env.neighbours.learn(address, message.mac, &mut env.ready);
        reply(env, message, ACK, address);
    }

    fn release(&mut self, mac: MacAddr, now: Instant) {
        if let Some(lease) = self.of(mac).and_then(|place| self.leases[place].as_mut()) {
            lease.until = now;
        }
    }

    fn of(&self, mac: MacAddr) -> Option<usize> {
        self.leases.iter().position(|lease| lease.is_some_and(|lease| lease.mac == mac))
    }

    fn is_free(&self, place: usize, mac: MacAddr, now: Instant) -> bool {
        self.leases[place].is_none_or(|lease| lease.mac == mac || lease.until <= now)
    }
}

/// The place of an address among the leases.
fn place(config: &Config, address: Ipv4Addr) -> Option<usize> {
    (0..LEASES).find(|&number| config.lease(number) == address).map(usize::from)
}

/// Queues an answer (RFC 2131 §4.1, §4.3.1).
fn reply<H>(env: &mut Env<H>, request: &Message, kind: u8, address: Ipv4Addr) {
    let config = &env.config;
    let mut message = vec![0; FIXED];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&request.xid);
    message[10..12].copy_from_slice(&request.flags);
    if kind == ACK {
        message[12..16].copy_from_slice(&request.client.octets());
    }
    if kind != NAK && request.kind != INFORM {
        message[16..20].copy_from_slice(&address.octets());
        message[20..24].copy_from_slice(&config.gateway.octets());
    }
    message[28..34].copy_from_slice(&request.mac.0);
    message[236..FIXED].copy_from_slice(&COOKIE);
    put(&mut message, option::MESSAGE_TYPE, &[kind]);
    put(&mut message, option::SERVER_ID, &config.gateway.octets());
    if kind == NAK {
        put(&mut message, option::MESSAGE, b"requested address not available");
    } else {
        put_settings(&mut message, config, request.kind == INFORM);
    }
    message.push(option::END);
    message.resize(message.len().max(MIN_MESSAGE), 0);

    // To a guest that has no address yet, unless it takes none but broadcasts.
    let broadcast = kind == NAK || request.flags[0] & 0x80 != 0;
    let (mac, to) = match broadcast {
        true => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        false => (request.mac, address),
    };
    let from = (config.gateway, SERVER_PORT);
    env.queue_datagram(mac, from, (to, CLIENT_PORT), &message);
}

fn put_settings(message: &mut Vec<u8>, config: &Config, inform: bool) {
    put(message, option::SUBNET_MASK, &config.network.mask().octets());
    if !config.restrict {
        put(message, option::ROUTER, &config.gateway.octets());
        if config.dns_relay {
            put(message, option::DNS, &config.dns.octets());
        }
    }
    if !inform {
        let seconds = LEASE_TIME.as_secs() as u32;
        put(message, option::LEASE_TIME, &seconds.to_be_bytes());
    }
    if config.mtu != link::DEFAULT_MTU {
        put(message, option::MTU, &config.mtu.to_be_bytes());
    }
    if let Some(name) = &config.hostname {
        put(message, option::HOSTNAME, name.as_str().as_bytes());
    }
    if let Some(name) = &config.domain {
        put(message, option::DOMAIN, name.as_str().as_bytes());
    }
    let search = search_list(&config.search);
    for part in search.chunks(255) {
        // RFC 3396: a long value is continued in another option of the same code.
        put(message, option::SEARCH, part);
    }
}

/// Adds an option, unless the message would become longer than every client takes.
fn put(message: &mut Vec<u8>, code: u8, value: &[u8]) {
    let Ok(len) = u8::try_from(value.len()) else { return };
    if message.len() + 2 + value.len() >= MAX_MESSAGE {
        return log::warn!("dhcp: option {code} does not fit the message");
    }
    message.extend([code, len]);
    message.extend(value);
}

/// The names in DNS wire form without compression (RFC 3397 §2 allows it, and asks for none).
fn search_list(names: &[Name]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        for label in name.as_str().split('.') {
            // A `Name` has labels of 63 bytes at most.
            list.push(label.len() as u8);
            list.extend(label.as_bytes());
        }
        list.push(0);
    }
    list
}
