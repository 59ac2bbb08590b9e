//! Neighbour discovery (RFC 4861): answers for the gateway and the name server, questions for guests, and router
//! advertisements, from which guests configure themselves (RFC 4862), with the name server and the domains to search
//! (RFC 8106).
//!
//! # What is advertised, and when
//! A guest that asks is answered. The first frame of a guest, and the first after an hour, is followed by an
//! advertisement for all, so that guests which were there before the NAT need not ask, and what they know does not age
//! while they talk. There is no timer: a router that advertises itself to sleeping guests would wake them and us. In
//! return the lifetimes are long; the router's is the longest there is, 18 hours.
//!
//! Of the two flags for DHCPv6, *other* is always set: it has the domains and, for those that look there only, the name
//! server. *Managed* is set only if guests cannot make up an address, for the prefix is not 64 bits long: where they
//! can, it would give each a second address to no use. Who asks for a lease gets one in any case.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use link::{DropReason, MacAddr};

use crate::config::{Config, Ipv6, Name};
use crate::env::Env;
use crate::icmp;
use crate::wire::{self, Ethernet, ICMPV6, Ip, IpHeader, ON_LINK};

/// Types of messages (RFC 4861 §4).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// All of them: the last one is "redirect".
pub(crate) const TYPES: std::ops::RangeInclusive<u8> = ROUTER_SOLICITATION..=137;

/// Options (RFC 4861 §4.6, RFC 8106 §5).
mod option {
    pub const SOURCE: u8 = 1;
    pub const TARGET: u8 = 2;
    pub const PREFIX: u8 = 3;
    pub const MTU: u8 = 5;
    pub const RDNSS: u8 = 25;
    pub const DNSSL: u8 = 31;
}

/// Flags of a neighbour advertisement: from a router, solicited, to be believed.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Flags of a router advertisement: addresses, and other settings, by DHCPv6.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;

/// Flags of a prefix: its addresses are on the link; guests make up addresses in it.
const ON_LINK_PREFIX: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;

/// Bytes of a neighbour message in front of its options.
const NEIGHBOUR: usize = 24;

/// Seconds for which the gateway stays a router without being heard, and its name server one (RFC 8319 §3: at most).
const ROUTER_LIFETIME: u16 = 65535;

/// Seconds for which addresses in the prefix are valid, and preferred (RFC 4861 §6.2.1).
const VALID: u32 = 30 * 24 * 3600;
const PREFERRED: u32 = 7 * 24 * 3600;

/// After so long what a guest knows is refreshed.
const REFRESH: Duration = Duration::from_secs(3600);

/// Every node of the link (RFC 4291 §2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What is remembered of advertisements.
#[derive(Default)]
pub(crate) struct Ndp {
    /// When all guests were last told.
    advertised: Option<Instant>,
}

impl Ndp {
    /// Takes one of the messages of [`TYPES`].
    pub(crate) fn input<H>(&mut self, env: &mut Env<H>, frame: &Ethernet<'_>, ip: &Ip<'_>) -> Result<(), DropReason> {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (ip.from, ip.to) else { return Err(DropReason::Malformed) };
        let Some(net) = env.config.ipv6 else { return Err(DropReason::Unserved) };
        // A message that passed a router is no neighbour's (RFC 4861 §6.1.1 and §7.1).
        let whole = wire::transport_sum(ip.from, ip.to, ICMPV6, ip.payload) == 0xffff;
        let &[kind, 0, ..] = ip.payload else { return Err(DropReason::Malformed) };
        if ip.hop_limit != ON_LINK || !whole {
            return Err(DropReason::Malformed);
        }
        match kind {
            ROUTER_SOLICITATION => {
                let options = ip.payload.get(8..).ok_or(DropReason::Malformed)?;
                let source = link_address(options, option::SOURCE)?;
                check_sender(frame, from, source)?;
                if from.is_unspecified() {
                    self.advertise(env, &net);
                } else if let Some(mac) = env.neighbours.get(from) {
                    put_advertisement(env, &net, mac, from);
                }
                Ok(())
            }
            NEIGHBOUR_SOLICITATION => {
                let (target, options) = neighbour(ip.payload)?;
                let source = link_address(options, option::SOURCE)?;
                check_sender(frame, from, source)?;
                // RFC 4861 §7.1.1: who has no address yet asks the group of the one it wants.
                if target.is_multicast() || from.is_unspecified() && to != group_of(target) {
                    return Err(DropReason::Malformed);
                }
                if env.is_own(target.into()) {
                    answer(env, target, frame.from, from);
                }
                Ok(())
            }
            NEIGHBOUR_ADVERTISEMENT => {
                let (target, options) = neighbour(ip.payload)?;
                check_sender(frame, from, link_address(options, option::TARGET)?)?;
                if target.is_multicast() || from.is_unspecified() {
                    return Err(DropReason::Malformed);
                }
                if env.is_guest(target) {
                    env.neighbours.learn(target, frame.from, &mut env.ready);
                }
                Ok(())
            }
            _ => Err(DropReason::Unserved),
        }
    }

    /// To be called when a guest was heard: tells all what there is, if that is due.
    pub(crate) fn heard<H>(&mut self, env: &mut Env<H>) {
        if let Some(net) = env.config.ipv6
            && self.advertised.is_none_or(|at| env.now.saturating_duration_since(at) >= REFRESH)
        {
            self.advertise(env, &net);
        }
    }

    fn advertise<H>(&mut self, env: &mut Env<H>, net: &Ipv6) {
        self.advertised = Some(env.now);
        put_advertisement(env, net, wire::multicast_mac(ALL_NODES), ALL_NODES);
    }
}

/// Asks for the Ethernet address of a guest.
pub(crate) fn ask<H>(env: &mut Env<H>, target: Ipv6Addr) {
    let IpAddr::V6(from) = env.router(target.into()) else { return };
    let group = group_of(target);
    let mut message = vec![0; NEIGHBOUR];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..NEIGHBOUR].copy_from_slice(&target.octets());
    put_link_address(&mut message, option::SOURCE, Env::<H>::own_mac(from));
    queue(env, wire::multicast_mac(group), from, group, message);
}

/// Answers a question for one of the NAT's own addresses.
fn answer<H>(env: &mut Env<H>, target: Ipv6Addr, mac: MacAddr, asker: Ipv6Addr) {
    let mut message = vec![0; NEIGHBOUR];
    message[0] = NEIGHBOUR_ADVERTISEMENT;
    message[4] = ROUTER | OVERRIDE;
    message[8..NEIGHBOUR].copy_from_slice(&target.octets());
    put_link_address(&mut message, option::TARGET, Env::<H>::own_mac(target));
    if asker.is_unspecified() {
        // Somebody wants this address for itself (RFC 4862 §5.4.3); all are told whose it is.
        return queue(env, wire::multicast_mac(ALL_NODES), target, ALL_NODES, message);
    }
    message[4] |= SOLICITED;
    queue(env, mac, target, asker, message);
}

/// Queues a router advertisement (RFC 4861 §4.2).
fn put_advertisement<H>(env: &mut Env<H>, net: &Ipv6, mac: MacAddr, to: Ipv6Addr) {
    let config = &env.config;
    let from = net.link_local();
    let self_configured = net.network.prefix == 64;
    let lifetime = if config.restrict { 0 } else { ROUTER_LIFETIME };
    let flags = if self_configured { OTHER } else { OTHER | MANAGED };
    let mut message = vec![ROUTER_ADVERTISEMENT, 0, 0, 0, wire::TTL, flags];
    message.extend(lifetime.to_be_bytes());
    // Times of reachability and of retransmission: the guest's own.
    message.extend([0; 8]);
    put_link_address(&mut message, option::SOURCE, Env::<H>::own_mac(from));
    message.extend([option::MTU, 1, 0, 0]);
    message.extend(u32::from(config.mtu).to_be_bytes());
    let prefix_flags = if self_configured { ON_LINK_PREFIX | AUTONOMOUS } else { ON_LINK_PREFIX };
    message.extend([option::PREFIX, 4, net.network.prefix, prefix_flags]);
    message.extend(VALID.to_be_bytes());
    message.extend(PREFERRED.to_be_bytes());
    message.extend([0; 4]);
    message.extend(net.network.address.octets());
    if config.offers_dns() {
        message.extend([option::RDNSS, 3, 0, 0]);
        message.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        message.extend(net.dns.octets());
    }
    put_search_list(&mut message, config);
    queue(env, mac, from, to, message);
}

/// Adds the domains to search, as many as the MTU and one option have room for (RFC 8106 §5.2).
fn put_search_list(message: &mut Vec<u8>, config: &Config) {
    const HEADER: usize = 8;
    // An option's length is counted in one byte, in units of eight.
    const LONGEST: usize = 255 * 8 - HEADER;
    let room = LONGEST.min(usize::from(config.mtu) - wire::IPV6 - message.len() - 2 * HEADER);
    let mut list = Vec::new();
    for name in search_list(config) {
        let before = list.len();
        name.put_wire(&mut list);
        if list.len() > room {
            log::warn!("router advertisement: no room for the domain {}", name.as_str());
            list.truncate(before);
        }
    }
    if list.is_empty() {
        return;
    }
    list.resize(list.len().next_multiple_of(8), 0);
    message.extend([option::DNSSL, ((HEADER + list.len()) / 8) as u8, 0, 0]);
    message.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
    message.extend(list);
}

/// The domains to search: those that were named, or the guest's own.
pub(crate) fn search_list(config: &Config) -> impl Iterator<Item = &Name> {
    let own = config.domain.iter().filter(|_| config.search.is_empty());
    config.search.iter().chain(own)
}

/// The target of a neighbour message, and its options.
fn neighbour(message: &[u8]) -> Result<(Ipv6Addr, &[u8]), DropReason> {
    let options = message.get(NEIGHBOUR..).ok_or(DropReason::Malformed)?;
    Ok((wire::address6(message, 8), options))
}

/// The Ethernet address in option `wanted`, if it is there. An option of no length ends no loop: the message is bad
/// (RFC 4861 §4.6).
fn link_address(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while let [kind, len, ..] = *options {
        let len = usize::from(len) * 8;
        let (value, rest) = options.split_at_checked(len).ok_or(DropReason::Malformed)?;
        let body = value.get(2..).ok_or(DropReason::Malformed)?;
        if kind == wanted {
            let address = body.first_chunk::<6>().ok_or(DropReason::Malformed)?;
            found = Some(MacAddr(*address));
        }
        options = rest;
    }
    if options.is_empty() { Ok(found) } else { Err(DropReason::Malformed) }
}

/// A frame in another's name is no way to move a guest's traffic, and who has no address has no name.
fn check_sender(frame: &Ethernet<'_>, from: Ipv6Addr, named: Option<MacAddr>) -> Result<(), DropReason> {
    match named {
        Some(named) if named != frame.from || from.is_unspecified() => Err(DropReason::Malformed),
        _ => Ok(()),
    }
}

/// The solicited-node group of an address (RFC 4291 §2.7.1).
fn group_of(address: Ipv6Addr) -> Ipv6Addr {
    const PREFIX: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
    Ipv6Addr::from_bits(PREFIX.to_bits() | address.to_bits() & 0xff_ffff)
}

fn put_link_address(message: &mut Vec<u8>, option: u8, mac: MacAddr) {
    message.extend([option, 1]);
    message.extend(mac.0);
}

fn queue<H>(env: &mut Env<H>, mac: MacAddr, from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) {
    icmp::put_checksum(from.into(), to.into(), &mut message);
    let header = IpHeader { hop_limit: ON_LINK, ..IpHeader::whole(from, to, ICMPV6, message.len()) };
    env.queue_packet(mac, header, |out| out.copy_from_slice(&message));
}
