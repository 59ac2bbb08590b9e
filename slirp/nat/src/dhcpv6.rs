//! The DHCPv6 server (RFC 8415): settings for guests that made up their own address, and sixteen addresses, remembered
//! per identity association, for those that ask for one.
//!
//! # Theory of operation
//! A lease is `free`, `offered` (for a minute) or `bound` (for the lease time), each to one association: a client's
//! DUID and the number that the client gave it. SOLICIT offers the address that the association had, or asks for, or the
//! first free one, and binds it at once if the client wishes so (rapid commit); REQUEST, RENEW and REBIND bind; RELEASE
//! and DECLINE free. An address that the client names and cannot have is answered with a lifetime of 0.
//!
//! Servers are addressed through their group only (§16). Every answer carries the name server (RFC 3646), unless guests
//! are not to have one, the domains to search, and where to boot from (RFC 5970).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use link::DropReason;

use crate::config::{Ipv6, LEASES};
use crate::env::Env;
use crate::ndp::search_list;
use crate::wire;

/// UDP ports of server and client, and the servers' group (§7.1, §7.2).
pub(crate) const SERVER_PORT: u16 = 547;
const CLIENT_PORT: u16 = 546;
pub(crate) const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// How long a lease lasts: as with DHCPv4.
const LEASE_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an offer stands.
const OFFER_TIME: Duration = Duration::from_secs(60);

/// Bytes of a message in front of its options: type and transaction.
const HEADER: usize = 4;

/// Bytes of an association in front of its options (§21.4), and of an address in front of its own (§21.6).
const IA_HEADER: usize = 12;
const ADDRESS_HEADER: usize = 24;

/// Bytes of the longest DUID (§11.1).
const MAX_DUID: usize = 130;

/// Associations of one message that are answered.
const MAX_ASSOCIATIONS: usize = 4;

/// Bytes of domain names that are handed out: all fits the smallest MTU of IPv6.
const MAX_SEARCH: usize = 512;

/// Message types (§7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;

/// Options (§21, RFC 3646).
mod option {
    pub const CLIENT: u16 = 1;
    pub const SERVER: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const ADDRESS: u16 = 5;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const DNS: u16 = 23;
    pub const SEARCH: u16 = 24;
    /// RFC 5970 §3.1.
    pub const BOOT_URL: u16 = 59;
}

/// Status codes (§21.13).
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NO_BINDING: u16 = 3;
const NOT_ON_LINK: u16 = 4;

/// The leases.
#[derive(Default)]
pub(crate) struct Dhcpv6 {
    leases: [Option<Lease>; LEASES as usize],
}

struct Lease {
    owner: Owner,
    /// From then on another guest may have it.
    until: Instant,
}

/// Whose an address is.
#[derive(Clone, PartialEq, Eq)]
struct Owner {
    duid: Vec<u8>,
    association: [u8; 4],
}

/// What matters of a client's message.
struct Message<'a> {
    kind: u8,
    transaction: [u8; 3],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    rapid_commit: bool,
    associations: Vec<Association>,
}

/// An association, and the address in it that the client names.
#[derive(Clone, Copy)]
struct Association {
    number: [u8; 4],
    address: Option<Ipv6Addr>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let (&[kind, a, b, c], options) = bytes.split_first_chunk::<HEADER>().ok_or(DropReason::Malformed)?;
        let mut message = Self {
            kind,
            transaction: [a, b, c],
            client: None,
            server: None,
            rapid_commit: false,
            associations: Vec::new(),
        };
        for option in Options(options) {
            let (code, value) = option?;
            match code {
                option::CLIENT if (1..=MAX_DUID).contains(&value.len()) => message.client = Some(value),
                option::CLIENT => return Err(DropReason::Malformed),
                option::SERVER => message.server = Some(value),
                option::RAPID_COMMIT => message.rapid_commit = true,
                option::IA_NA if message.associations.len() < MAX_ASSOCIATIONS => {
                    message.associations.push(Association::parse(value)?);
                }
                _ => {}
            }
        }
        Ok(message)
    }

    /// Whether the message names client and server as its type demands (§16).
    fn is_valid(&self, duid: &[u8]) -> bool {
        let (client, ours) = (self.client.is_some(), self.server == Some(duid));
        match self.kind {
            SOLICIT | CONFIRM | REBIND => client && self.server.is_none(),
            REQUEST | RENEW | RELEASE | DECLINE => client && ours,
            INFORMATION_REQUEST => (ours || self.server.is_none()) && self.associations.is_empty(),
            _ => false,
        }
    }
}

impl Association {
    fn parse(value: &[u8]) -> Result<Self, DropReason> {
        let (header, options) = value.split_first_chunk::<IA_HEADER>().ok_or(DropReason::Malformed)?;
        let mut association = Self { number: [header[0], header[1], header[2], header[3]], address: None };
        for option in Options(options) {
            match option? {
                (option::ADDRESS, value) if value.len() < ADDRESS_HEADER => return Err(DropReason::Malformed),
                (option::ADDRESS, value) => {
                    association.address.get_or_insert(wire::address6(value, 0));
                }
                _ => {}
            }
        }
        Ok(association)
    }
}

/// Options, one behind the other (§21.1).
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = self.0.split_first_chunk::<4>().and_then(|(&[c0, c1, l0, l1], rest)| {
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            let (value, rest) = rest.split_at_checked(len)?;
            Some((u16::from_be_bytes([c0, c1]), value, rest))
        });
        // Behind what cannot be read there is nothing.
        let (found, rest) = match option {
            Some((code, value, rest)) => (Ok((code, value)), rest),
            None => (Err(DropReason::Malformed), &[][..]),
        };
        self.0 = rest;
        Some(found)
    }
}

impl Dhcpv6 {
    /// Takes the payload of a datagram to the servers' group.
    pub(crate) fn input<H>(&mut self, env: &mut Env<H>, from: Ipv6Addr, payload: &[u8]) -> Result<(), DropReason> {
        let Some(net) = env.config.ipv6 else { return Err(DropReason::Unserved) };
        let message = Message::parse(payload)?;
        let duid = duid::<H>(&net);
        if !message.is_valid(&duid) {
            return Err(DropReason::Unserved);
        }
        let commits = message.kind != SOLICIT || message.rapid_commit;
        let mut answer = vec![if commits { REPLY } else { ADVERTISE }];
        answer.extend(message.transaction);
        if let Some(client) = message.client {
            put(&mut answer, option::CLIENT, client);
        }
        put(&mut answer, option::SERVER, &duid);
        match message.kind {
            SOLICIT | REQUEST | RENEW | REBIND => {
                if message.kind == SOLICIT && message.rapid_commit {
                    put(&mut answer, option::RAPID_COMMIT, &[]);
                }
                for &association in &message.associations {
                    self.lease(env, &net, &message, association, (from, commits), &mut answer);
                }
            }
            CONFIRM => {
                let mut named = message.associations.iter().filter_map(|association| association.address).peekable();
                // Without an address there is nothing to confirm, and no answer (§18.3.3).
                named.peek().ok_or(DropReason::Unserved)?;
                let on_link = named.all(|address| net.network.contains(address));
                put_status(&mut answer, if on_link { SUCCESS } else { NOT_ON_LINK });
            }
            RELEASE | DECLINE => {
                for &association in &message.associations {
                    self.release(env.now, &message, association, &mut answer);
                }
                put_status(&mut answer, SUCCESS);
            }
            _ => {}
        }
        put_settings(env, &net, &mut answer);
        if let Some(mac) = env.neighbours.get(from) {
            env.queue_datagram(mac, (env.router(from.into()), SERVER_PORT), (from, CLIENT_PORT), &answer);
        }
        Ok(())
    }

    /// Answers for one association: the address that it has from now on, or that there is none.
    fn lease<H>(
        &mut self,
        env: &mut Env<H>,
        net: &Ipv6,
        message: &Message<'_>,
        association: Association,
        (from, commits): (Ipv6Addr, bool),
        answer: &mut Vec<u8>,
    ) {
        let owner = Owner { duid: message.client.unwrap_or_default().to_vec(), association: association.number };
        let time = if commits { LEASE_TIME } else { OFFER_TIME };
        let mut options = Vec::new();
        let leased = self.place(net, &owner, association.address, env.now).map(|place| {
            // An offer does not shorten a lease that is running.
            let running = self.leases[place].as_ref().filter(|lease| lease.owner == owner).map(|lease| lease.until);
            let until = (env.now + time).max(running.unwrap_or(env.now));
            self.leases[place] = Some(Lease { owner, until });
            net.lease(place as u8)
        });
        if let Some(address) = leased {
            put_address(&mut options, address, LEASE_TIME);
        } else {
            log::debug!("dhcpv6: no address is free");
            put_status(&mut options, NO_ADDRESSES);
        }
        if let Some(named) = association.address.filter(|&named| Some(named) != leased) {
            put_address(&mut options, named, Duration::ZERO);
        }
        put_association(answer, association.number, &options);
        if let (Some(address), true, Some(mac)) = (leased, commits, env.neighbours.get(from)) {
            log::info!("dhcpv6: {mac} has {address}");
            env.neighbours.learn(address, mac, &mut env.ready);
        }
    }

    /// Finds an address: the one that the association had, or that the client names, or the first that is free.
    fn place(&self, net: &Ipv6, owner: &Owner, named: Option<Ipv6Addr>, now: Instant) -> Option<usize> {
        let places = 0..self.leases.len();
        let named = places.clone().find(|&place| named == Some(net.lease(place as u8)));
        self.of(owner)
            .or_else(|| named.filter(|&place| self.is_free(place, now)))
            .or_else(|| places.clone().find(|&place| self.leases[place].is_none()))
            .or_else(|| places.clone().find(|&place| self.is_free(place, now)))
    }

    fn release(&mut self, now: Instant, message: &Message<'_>, association: Association, answer: &mut Vec<u8>) {
        let owner = Owner { duid: message.client.unwrap_or_default().to_vec(), association: association.number };
        match self.of(&owner).and_then(|place| self.leases[place].as_mut()) {
            Some(lease) => lease.until = now,
            None => {
                let mut options = Vec::new();
                put_status(&mut options, NO_BINDING);
                put_association(answer, association.number, &options);
            }
        }
    }

    fn of(&self, owner: &Owner) -> Option<usize> {
        self.leases.iter().position(|lease| lease.as_ref().is_some_and(|lease| lease.owner == *owner))
    }

    fn is_free(&self, place: usize, now: Instant) -> bool {
        self.leases[place].as_ref().is_none_or(|lease| lease.until <= now)
    }
}

/// The server's own identifier: its Ethernet address (§11.4).
fn duid<H>(net: &Ipv6) -> Vec<u8> {
    let mut duid = vec![0, 3, 0, 1];
    duid.extend(Env::<H>::own_mac(net.gateway).0);
    duid
}

fn put_settings<H>(env: &Env<H>, net: &Ipv6, answer: &mut Vec<u8>) {
    if env.config.offers_dns() {
        put(answer, option::DNS, &net.dns.octets());
    }
    let mut search = Vec::new();
    for name in search_list(&env.config) {
        let before = search.len();
        name.put_wire(&mut search);
        if search.len() > MAX_SEARCH {
            search.truncate(before);
        }
    }
    if !search.is_empty() {
        put(answer, option::SEARCH, &search);
    }
    if let Some(file) = &env.config.bootfile {
        let url = if file.contains("://") { file.clone() } else { format!("tftp://[{}]/{file}", net.gateway) };
        put(answer, option::BOOT_URL, url.as_bytes());
    }
}

/// Adds an association with what is in it. It is to be renewed after half its time, and after four fifths by anyone
/// (§14.2).
fn put_association(answer: &mut Vec<u8>, number: [u8; 4], options: &[u8]) {
    let seconds = LEASE_TIME.as_secs() as u32;
    let times = [(seconds / 2).to_be_bytes(), (seconds / 5 * 4).to_be_bytes()].concat();
    put(answer, option::IA_NA, &[&number, &times[..], options].concat());
}

fn put_address(options: &mut Vec<u8>, address: Ipv6Addr, time: Duration) {
    let seconds = (time.as_secs() as u32).to_be_bytes();
    put(options, option::ADDRESS, &[&address.octets(), &seconds[..], &seconds].concat());
}

fn put_status(options: &mut Vec<u8>, status: u16) {
    put(options, option::STATUS, &status.to_be_bytes());
}

/// Adds an option, whose value is far shorter than 64 KiB.
fn put(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_be_bytes());
    out.extend((value.len() as u16).to_be_bytes());
    out.extend(value);
}

#[cfg(test)]
#[path = "dhcpv6_test.rs"]
mod tests;
