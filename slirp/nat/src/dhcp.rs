//! The DHCP and BOOTP server (RFC 2131, RFC 951; options of RFC 2132, search list of RFC 3397): sixteen addresses.
//!
//! # Theory of operation
//! A lease is free, offered (for a minute), bound (for the lease time; for ever, to a BOOTP client, which never renews) or
//! declined (for ten minutes). DISCOVER offers the address the guest had, or asks for, or the first free one; REQUEST binds
//! it, or is answered NAK if the address is not the guest's to have; RELEASE frees it, but the guest is remembered, so
//! that it gets the same address again unless another needed it. DECLINE says that somebody else uses the address: nobody
//! gets it for a while. Requests that name another server are not for us. When every address is taken, the request is a
//! drop for the limit.
//!
//! A guest is known by its client identifier (RFC 2132 §9.14), or else by its MAC address. One that speaks without an
//! identifier of its own in one stage of its boot, and with one in another, is the same guest by its MAC; two identifiers
//! behind one MAC are two guests (RFC 2131 §4.2).
//!
//! A message without a type is BOOTP (RFC 1534): its answer has no options that are DHCP's own, and is 300 bytes long.

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

/// How long an address is left alone that a guest has found in use.
const DECLINED_TIME: Duration = Duration::from_secs(600);

/// A lease that does not end while anybody lives to see it.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Bytes in front of the options, with the magic cookie (RFC 2131 §2).
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Bytes of a message that every client takes (RFC 2131 §2).
const MIN_MESSAGE: usize = 300;
const MAX_MESSAGE: usize = 548;

/// Fields for names in front of the options (RFC 951 §3).
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;

/// Options (RFC 2132).
mod option {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const REQUESTED: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOTFILE: u8 = 67;
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

struct Lease {
    /// None after a DECLINE.
    client: Option<Client>,
    /// From then on another guest may have it.
    until: Instant,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Client {
    mac: MacAddr,
    /// An identifier that says more than the MAC.
    id: Option<Box<[u8]>>,
}

impl Client {
    /// Whether a lease of this MAC is another's all the same.
    fn may_share(&self, other: &Self) -> bool {
        self.mac == other.mac && (self.id.is_none() || other.id.is_none() || self.id == other.id)
    }
}

/// What matters of a client's message.
struct Message {
    /// None for BOOTP.
    kind: Option<u8>,
    xid: [u8; 4],
    flags: [u8; 2],
    /// The address that the client says it has (ciaddr).
    address: Ipv4Addr,
    client: Client,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// Bytes that the client takes.
    max_len: usize,
}

impl Message {
    fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let (fixed, options) = bytes.split_first_chunk::<FIXED>().ok_or(DropReason::Malformed)?;
        // A request, over Ethernet, with addresses of six bytes, without a relay in between.
        if fixed[..3] != [1, 1, 6] {
            return Err(DropReason::Malformed);
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&fixed[28..34]);
        let mut message = Self {
            kind: None,
            xid: [fixed[4], fixed[5], fixed[6], fixed[7]],
            flags: [fixed[10], fixed[11]],
            address: wire::address(fixed, 12),
            client: Client { mac: MacAddr(mac), id: None },
            requested: None,
            server: None,
            max_len: MAX_MESSAGE,
        };
        if message.client.mac.is_multicast() || mac == [0; 6] {
            return Err(DropReason::Malformed);
        }
        // BOOTP without RFC 1497 has no options.
        if fixed[236..] == COOKIE {
            message.parse_options(options)?;
        }
        if message.kind.is_none() {
            message.max_len = MIN_MESSAGE;
        }
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
                (option::MESSAGE_TYPE, [kind]) => self.kind = Some(*kind),
                (option::REQUESTED, [_, _, _, _]) => self.requested = Some(wire::address(value, 0)),
                (option::SERVER_ID, [_, _, _, _]) => self.server = Some(wire::address(value, 0)),
                (option::MESSAGE_TYPE | option::REQUESTED | option::SERVER_ID, _) => {
                    return Err(DropReason::Malformed);
                }
                (option::MAX_SIZE, [_, _]) => {
                    // Of the IP packet (RFC 2132 §9.10).
                    let len = usize::from(wire::be16(value, 0)).saturating_sub(wire::IPV4 + wire::UDP);
                    self.max_len = self.max_len.max(len);
                }
                // Ethernet and the MAC says nothing new.
                (option::CLIENT_ID, [1, mac @ ..]) if *mac == self.client.mac.0 => {}
                (option::CLIENT_ID, [_, _, ..]) => self.client.id = Some(value.into()),
                _ => {}
            }
        }
        Ok(())
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
            // One that has an address wants to know what to boot.
            None if env.is_guest(message.address) && place(&env.config, message.address).is_none() => {
                reply(env, &message, None, message.address);
            }
            None => {
                let place = self.find(&env.config, &message, env.now).ok_or(DropReason::Limit)?;
                self.bind(env, &message, place, FOR_EVER);
            }
            Some(DISCOVER) => {
                let place = self.find(&env.config, &message, env.now).ok_or(DropReason::Limit)?;
                self.offer(env, &message, place);
            }
            Some(REQUEST) => self.request(env, &message),
            Some(RELEASE) => self.release(&message.client, env.now),
            Some(DECLINE) => self.decline(env, &message),
            Some(INFORM) if env.is_guest(message.address) => reply(env, &message, Some(ACK), message.address),
            Some(_) => return Err(DropReason::Unserved),
        }
        Ok(())
    }

    /// Finds an address for a guest: the one it had, or wants, or the first that is free.
    fn find(&self, config: &Config, message: &Message, now: Instant) -> Option<usize> {
        let wanted = message.requested.or(Some(message.address)).and_then(|address| place(config, address));
        self.of(&message.client)
            .or_else(|| wanted.filter(|&place| self.is_free(place, &message.client, now)))
            .or_else(|| self.leases.iter().position(Option::is_none))
            .or_else(|| (0..self.leases.len()).find(|&place| self.is_free(place, &message.client, now)))
    }

    fn offer<H>(&mut self, env: &mut Env<H>, message: &Message, place: usize) {
        let until = env.now + OFFER_TIME;
        // An offer does not shorten a lease that is running.
        let running = self.leases[place].as_ref().filter(|lease| lease.belongs_to(&message.client));
        let until = running.map_or(until, |lease| lease.until.max(until));
        self.leases[place] = Some(Lease { client: Some(message.client.clone()), until });
        reply(env, message, Some(OFFER), env.config.lease(place as u8));
    }

    /// Binds the address that a guest asks for (RFC 2131 §4.3.2), or says that it cannot have it.
    fn request<H>(&mut self, env: &mut Env<H>, message: &Message) {
        let address = message.requested.unwrap_or(message.address);
        let place = place(&env.config, address).filter(|&place| {
            // The guest's own lease, or, after the NAT was started anew, one that nobody has.
            self.of(&message.client).is_none_or(|own| own == place) && self.is_free(place, &message.client, env.now)
        });
        match place {
            Some(place) => self.bind(env, message, place, LEASE_TIME),
            None => {
                log::debug!("dhcp: {} asks for {address}, which it cannot have", message.client.mac);
                reply(env, message, Some(NAK), Ipv4Addr::UNSPECIFIED);
            }
        }
    }

    fn bind<H>(&mut self, env: &mut Env<H>, message: &Message, place: usize, time: Duration) {
        let (address, mac) = (env.config.lease(place as u8), message.client.mac);
        self.leases[place] = Some(Lease { client: Some(message.client.clone()), until: env.now + time });
        log::info!("dhcp: {mac} has {address}");
        env.neighbours.learn(address, mac, &mut env.ready);
        reply(env, message, message.kind.map(|_| ACK), address);
    }

    fn release(&mut self, client: &Client, now: Instant) {
        if let Some(lease) = self.of(client).and_then(|place| self.leases[place].as_mut()) {
            lease.until = now;
        }
    }

    /// Leaves an address alone that its guest has found in use (RFC 2131 §4.3.3).
    fn decline<H>(&mut self, env: &mut Env<H>, message: &Message) {
        let own = self.of(&message.client);
        let Some(place) = message.requested.and_then(|address| place(&env.config, address)).filter(|p| own == Some(*p))
        else {
            return;
        };
        log::warn!("dhcp: {} is in use already, {} says", env.config.lease(place as u8), message.client.mac);
        self.leases[place] = Some(Lease { client: None, until: env.now + DECLINED_TIME });
    }

    /// The lease that a guest has, or had.
    fn of(&self, client: &Client) -> Option<usize> {
        let by = |same: &dyn Fn(&Client) -> bool| {
            self.leases.iter().position(|lease| lease.as_ref().and_then(|l| l.client.as_ref()).is_some_and(same))
        };
        let by_id = client.id.as_ref().and_then(|id| by(&|other| other.id.as_ref() == Some(id)));
        by_id.or_else(|| by(&|other| other.may_share(client)))
    }

    fn is_free(&self, place: usize, client: &Client, now: Instant) -> bool {
        self.leases[place].as_ref().is_none_or(|lease| lease.belongs_to(client) || lease.until <= now)
    }
}

impl Lease {
    fn belongs_to(&self, client: &Client) -> bool {
        let same = |own: &Client| own.may_share(client) || own.id.is_some() && own.id == client.id;
        self.client.as_ref().is_some_and(same)
    }
}

/// The place of an address among the leases.
fn place(config: &Config, address: Ipv4Addr) -> Option<usize> {
    (0..LEASES).find(|&number| config.lease(number) == address).map(usize::from)
}

/// Queues an answer (RFC 2131 §4.1, §4.3.1); one without a type is BOOTP's.
fn reply<H>(env: &mut Env<H>, request: &Message, kind: Option<u8>, address: Ipv4Addr) {
    let config = &env.config;
    let inform = request.kind == Some(INFORM);
    let nak = kind == Some(NAK);
    let mut message = vec![0; FIXED];
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&request.xid);
    message[10..12].copy_from_slice(&request.flags);
    if kind == Some(ACK) {
        message[12..16].copy_from_slice(&request.address.octets());
    }
    if !nak && !inform {
        message[16..20].copy_from_slice(&address.octets());
    }
    message[28..34].copy_from_slice(&request.client.mac.0);
    message[236..FIXED].copy_from_slice(&COOKIE);
    if !nak {
        put_boot_fields(&mut message, config);
    }
    let mut options =
        Options { message, max_len: request.max_len.min(usize::from(config.mtu) - wire::IPV4 - wire::UDP) };
    if let Some(kind) = kind {
        options.put(option::MESSAGE_TYPE, &[kind]);
        options.put(option::SERVER_ID, &config.gateway.octets());
    }
    if nak {
        options.put(option::MESSAGE, b"requested address not available");
    } else {
        if kind.is_some() && !inform {
            options.put(option::LEASE_TIME, &(LEASE_TIME.as_secs() as u32).to_be_bytes());
        }
        options.put_settings(config);
    }
    let message = options.end();

    // To a guest that has no address yet, unless it takes none but broadcasts.
    let broadcast = nak || request.flags[0] & 0x80 != 0;
    let (mac, to) = match broadcast {
        true => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        false => (request.client.mac, address),
    };
    let from = (config.gateway, SERVER_PORT);
    env.queue_datagram(mac, from, (to, CLIENT_PORT), &message);
}

/// Says from which server a guest boots which file. A server that is named by its address is stated as such; else it is
/// the gateway, as with QEMU.
fn put_boot_fields(message: &mut [u8], config: &Config) {
    let name = config.tftp_server_name.as_deref().unwrap_or_default();
    let server = name.parse().unwrap_or(config.gateway);
    message[20..24].copy_from_slice(&server.octets());
    put_name(&mut message[SERVER_NAME], name);
    put_name(&mut message[FILE], config.bootfile.as_deref().unwrap_or_default());
}

/// Stores a name, unless it is too long for its field with the NUL behind it.
fn put_name(field: &mut [u8], name: &str) {
    if name.len() < field.len() {
        field[..name.len()].copy_from_slice(name.as_bytes());
    }
}

/// A message whose options are being written.
struct Options {
    message: Vec<u8>,
    max_len: usize,
}

impl Options {
    /// The settings, what a guest needs most first.
    fn put_settings(&mut self, config: &Config) {
        self.put(option::SUBNET_MASK, &config.network.mask().octets());
        if !config.restrict {
            self.put(option::ROUTER, &config.gateway.octets());
        }
        if config.offers_dns() {
            self.put(option::DNS, &config.dns.octets());
        }
        self.put(option::BROADCAST, &config.network.broadcast().octets());
        if config.mtu != link::DEFAULT_MTU {
            self.put(option::MTU, &config.mtu.to_be_bytes());
        }
        let texts = [
            (option::HOSTNAME, config.hostname.as_ref().map(Name::as_str)),
            (option::DOMAIN, config.domain.as_ref().map(Name::as_str)),
            (option::TFTP_SERVER, config.tftp_server_name.as_deref()),
            (option::BOOTFILE, config.bootfile.as_deref()),
        ];
        for (code, text) in texts {
            text.into_iter().for_each(|text| self.put(code, text.as_bytes()));
        }
        for part in search_list(&config.search).chunks(255) {
            // RFC 3396: a long value is continued in another option of the same code.
            self.put(option::SEARCH, part);
        }
    }

    /// Adds an option, unless the message would become longer than the client takes.
    fn put(&mut self, code: u8, value: &[u8]) {
        let Ok(len) = u8::try_from(value.len()) else { return };
        if self.message.len() + 2 + value.len() >= self.max_len {
            return log::debug!("dhcp: option {code} does not fit the message");
        }
        self.message.extend([code, len]);
        self.message.extend(value);
    }

    fn end(mut self) -> Vec<u8> {
        self.message.push(option::END);
        self.message.resize(self.message.len().max(MIN_MESSAGE), 0);
        self.message
    }
}

/// The names in DNS wire form; what two have in common at their ends is there once (RFC 3397 §2, RFC 1035 §4.1.4).
fn search_list(names: &[Name]) -> Vec<u8> {
    let mut list = Vec::new();
    let mut known: Vec<(&str, u16)> = Vec::new();
    for name in names {
        let mut rest = name.as_str();
        loop {
            if let Some((_, at)) = known.iter().find(|(end, _)| *end == rest) {
                list.extend((0xc000 | at).to_be_bytes());
                break;
            }
            // A pointer has 14 bits.
            if let Some(at) = u16::try_from(list.len()).ok().filter(|at| *at < 0x4000) {
                known.push((rest, at));
            }
            let (label, tail) = rest.split_once('.').unwrap_or((rest, ""));
            // A `Name` has labels of 63 bytes at most.
            list.push(label.len() as u8);
            list.extend(label.as_bytes());
            rest = tail;
            if rest.is_empty() {
                list.push(0);
                break;
            }
        }
    }
    list
}

#[cfg(test)]
#[path = "dhcp_test.rs"]
mod tests;
