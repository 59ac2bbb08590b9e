//! What every protocol of the core works with: the settings, the host, the clock, and the ways to the guest.
//!
//! Two ways lead to the guest. Answers made of nothing but their question (ARP, NDP, DHCP, ICMP, resets) are queued,
//! within bounds, and the queue's overflow is a counted drop. Whoever has data waiting in a host socket or a TCP ring
//! is put on the *ready list* instead, and makes one frame each time the owner has a slot for it: the data stay where they
//! are until then, so a slow guest slows its peers down and costs no memory.
//!
//! Invariant: an entry of the ready list appears there once; its owner remembers that it is listed.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use link::{DropCounts, DropReason, MacAddr, Offloads, VnetHeader};

use crate::arp;
use crate::config::Config;
use crate::ends::Address;
use crate::icmp;
use crate::ndp;
use crate::timers::Timers;
use crate::wire::{self, ETHERNET, Fragment, IpHeader, UDP, UDP_PROTOCOL};

/// Frames that wait for a slot before the next one is dropped.
const QUEUE_FRAMES: usize = 1024;

/// Bytes of those frames.
const QUEUE_BYTES: usize = 1 << 20;

/// Guests whose addresses are remembered.
const MAX_NEIGHBOURS: usize = 4096;

/// Flows that wait for a guest's address.
const MAX_WAITING: usize = 1024;

/// Who has something to say to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    Tcp(u32),
    Udp(u32),
    Ping(u32),
    Forward(u32),
    Tftp(u32),
}

/// The working environment of the protocols.
pub(crate) struct Env<H> {
    pub config: Config,
    pub host: H,
    /// When this call into the core happened.
    pub now: Instant,
    /// What the owner takes.
    pub offloads: Offloads,
    pub queue: Queue,
    pub ready: VecDeque<Ready>,
    pub timers: Timers,
    pub neighbours: Neighbours,
    pub drops: DropCounts,
    /// A limit was reached once, and told of.
    limit_told: bool,
    /// The ICMP errors that guests may still be told of.
    pub errors: icmp::Budget,
    pub random: Random,
    /// The identification of the next packet that is cut into fragments (RFC 6864).
    pub next_ident: u32,
    /// Room for one datagram from a host socket, as long as IP has them.
    pub datagram: Vec<u8>,
}

impl<H> Env<H> {
    pub(crate) fn new(config: Config, host: H, seed: u64, now: Instant) -> Self {
        let mut random = Random(seed);
        let next_ident = random.next() as u32;
        Self {
            config,
            host,
            now,
            offloads: Offloads::NONE,
            queue: Queue::default(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            neighbours: Neighbours::default(),
            drops: DropCounts::default(),
            limit_told: false,
            errors: icmp::Budget::new(now),
            random,
            next_ident,
            datagram: vec![0; 65536],
        }
    }

    /// Counts what was dropped because a table is full, or because the process is out of descriptors or memory. The first
    /// time it is logged.
    pub(crate) fn limited(&mut self) {
        self.drops.count(DropReason::Limit);
        if !std::mem::replace(&mut self.limit_told, true) {
            log::warn!(
                "nat: a table is full, or descriptors are used up: what is new is dropped, what is there goes on"
            );
        }
    }

    /// Whether a guest can have this address.
    pub(crate) fn is_guest(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        let in_network = match (address, &self.config.ipv6) {
            (IpAddr::V4(address), _) => self.config.ipv4 && self.config.network.is_host(address),
            (IpAddr::V6(address), Some(net)) => net.network.is_host(address) || address.is_unicast_link_local(),
            (IpAddr::V6(_), None) => false,
        };
        in_network && !self.is_own(address)
    }

    /// Whether this is one of the NAT's own addresses.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        match (address, &self.config.ipv6) {
            (IpAddr::V4(address), _) => self.config.ipv4 && self.config.is_own(address),
            (IpAddr::V6(address), Some(net)) => {
                address == net.gateway || address == net.dns || address == net.link_local()
            }
            (IpAddr::V6(_), None) => false,
        }
    }

    /// The NAT's own address that talks with this guest about what belongs to no other one.
    pub(crate) fn router(&self, guest: IpAddr) -> IpAddr {
        match (guest, &self.config.ipv6) {
            (IpAddr::V6(guest), Some(net)) if guest.is_unicast_link_local() => net.link_local().into(),
            (IpAddr::V6(_), Some(net)) => net.gateway.into(),
            _ => self.config.gateway.into(),
        }
    }

    /// The name server's address in the family of this guest's.
    pub(crate) fn name_server(&self, guest: IpAddr) -> IpAddr {
        match (guest, &self.config.ipv6) {
            (IpAddr::V6(_), Some(net)) => net.dns.into(),
            _ => self.config.dns.into(),
        }
    }

    /// The Ethernet address that goes with one of the NAT's own, as libslirp has it: `52:55` and the IPv4 address, or
    /// `52:56` and the last four bytes of the IPv6 address.
    pub(crate) fn own_mac(address: impl Into<IpAddr>) -> MacAddr {
        let (second, [a, b, c, d]) = match address.into() {
            IpAddr::V4(address) => (0x55, address.octets()),
            IpAddr::V6(address) => (0x56, (address.to_bits() as u32).to_be_bytes()),
        };
        MacAddr([0x52, second, a, b, c, d])
    }

    /// From whom packets of `from` come at the Ethernet layer: itself if it is one of the NAT's own, else the gateway.
    pub(crate) fn mac_for(&self, from: IpAddr) -> MacAddr {
        let is_own = match from {
            IpAddr::V4(from) => self.config.is_own(from),
            IpAddr::V6(_) => from == self.name_server(from),
        };
        Self::own_mac(if is_own { from } else { self.router(from) })
    }

    /// Whether a frame to this Ethernet address is for the NAT.
    pub(crate) fn is_own_mac(&self, mac: MacAddr) -> bool {
        let [.., a, b, c, d] = mac.0;
        let v4 = Ipv4Addr::new(a, b, c, d);
        let v6 = self.config.ipv6.map(|net| [net.gateway, net.dns].map(Self::own_mac));
        self.is_own(v4.into()) && mac == Self::own_mac(v4) || v6.is_some_and(|own| own.contains(&mac))
    }

    /// Whether packets to this address are for more than one host, as far as the NAT can know.
    pub(crate) fn is_for_many(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(to) => to.is_multicast() || to == Ipv4Addr::BROADCAST || to == self.config.network.broadcast(),
            IpAddr::V6(to) => to.is_multicast(),
        }
    }

    /// Asks for the Ethernet address of a guest.
    pub(crate) fn ask(&mut self, guest: IpAddr) {
        match guest {
            IpAddr::V4(guest) => arp::ask(self, guest),
            IpAddr::V6(guest) => ndp::ask(self, guest),
        }
    }

    /// Queues one frame for the guest; `build` fills in `len` zeroed bytes.
    pub(crate) fn queue_frame(&mut self, len: usize, build: impl FnOnce(&mut [u8])) {
        if !self.queue.push(len, build) {
            self.drops.count(DropReason::NoBuffer);
        }
    }

    /// Queues one IP packet for a guest whose Ethernet address is known; `build` fills in the zeroed payload.
    pub(crate) fn queue_packet(&mut self, to_mac: MacAddr, header: IpHeader, build: impl FnOnce(&mut [u8])) {
        let from_mac = self.mac_for(header.from);
        let payload = ETHERNET + header.len();
        self.queue_frame(payload + header.payload_len, |frame| {
            wire::put_ethernet(frame, to_mac, from_mac, header.ethertype());
            header.put(&mut frame[ETHERNET..]);
            build(&mut frame[payload..]);
        });
    }

    /// Queues a UDP datagram for a guest, in fragments if it is longer than the MTU.
    pub(crate) fn queue_datagram(
        &mut self,
        to_mac: MacAddr,
        from: (impl Into<IpAddr>, u16),
        to: (impl Into<IpAddr>, u16),
        payload: &[u8],
    ) {
        let len = UDP + payload.len();
        let header = IpHeader::whole(from.0, to.0, UDP_PROTOCOL, len);
        let build = |datagram: &mut [u8]| {
            datagram[UDP..].copy_from_slice(payload);
            wire::put_udp(datagram, from.1, to.1, payload.len());
            wire::fill_udp_checksum(header.from, header.to, datagram);
        };
        if header.len() + len <= usize::from(self.config.mtu) {
            return self.queue_packet(to_mac, header, build);
        }
        let mut whole = vec![0; len];
        build(&mut whole);
        self.queue_fragments(to_mac, header, &whole);
    }

    /// Queues a packet in fragments (RFC 791 §3.2, RFC 8200 §4.5), all of them or none.
    pub(crate) fn queue_fragments(&mut self, to_mac: MacAddr, mut header: IpHeader, payload: &[u8]) {
        header.fragment = Some(Fragment { ident: self.next_ident, offset: 0, more: true });
        let step = (usize::from(self.config.mtu) - header.len()) & !7;
        if !self.queue.has_room(payload.len().div_ceil(step), payload.len()) {
            return self.drops.count(DropReason::NoBuffer);
        }
        let ident = self.next_ident;
        self.next_ident = self.next_ident.wrapping_add(1);
        for (i, piece) in payload.chunks(step).enumerate() {
            let offset = i * step;
            let fragment = Some(Fragment { ident, offset, more: offset + piece.len() < payload.len() });
            let header = IpHeader { fragment, payload_len: piece.len(), ..header };
            self.queue_packet(to_mac, header, |out| out.copy_from_slice(piece));
        }
    }

    /// Puts someone on the ready list, once.
    pub(crate) fn list(&mut self, who: Ready, listed: &mut bool) {
        if !*listed {
            *listed = true;
            self.ready.push_back(who);
        }
    }
}

/// Small frames on their way to the guest.
#[derive(Default)]
pub(crate) struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Buffers of frames that have left, to be used again.
    spare: Vec<Vec<u8>>,
}

impl Queue {
    /// Whether so many frames with so many bytes of payload may come in.
    fn has_room(&self, frames: usize, bytes: usize) -> bool {
        self.frames.len() + frames <= QUEUE_FRAMES && self.bytes + bytes <= QUEUE_BYTES
    }

    fn push(&mut self, len: usize, build: impl FnOnce(&mut [u8])) -> bool {
        if !self.has_room(1, len) {
            return false;
        }
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(len, 0);
        build(&mut frame);
        self.bytes += len;
        self.frames.push_back(frame);
        true
    }

    /// Moves the first frame into `out`, which is as long as a frame can be; returns its length.
    pub(crate) fn pop_into(&mut self, out: &mut [u8]) -> Option<(VnetHeader, usize)> {
        let frame = self.frames.pop_front()?;
        let len = frame.len().min(out.len());
        out[..len].copy_from_slice(&frame[..len]);
        self.bytes -= frame.len();
        if self.spare.len() < 64 && frame.capacity() <= 2048 {
            self.spare.push(frame);
        }
        Some((VnetHeader::WHOLE, len))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// The guests' Ethernet addresses, learned from what they send, and who waits for one.
#[derive(Default)]
pub(crate) struct Neighbours {
    known: HashMap<Address, MacAddr>,
    waiting: Vec<(Address, Ready)>,
}

impl Neighbours {
    pub(crate) fn get(&self, address: impl Into<IpAddr>) -> Option<MacAddr> {
        self.known.get(&Address::from(address.into())).copied()
    }

    /// Learns an address; those who waited for it go to the ready list. Where there is no more room, another address
    /// gives way: who still has it shows so by the next packet.
    pub(crate) fn learn(&mut self, address: impl Into<IpAddr>, mac: MacAddr, ready: &mut VecDeque<Ready>) {
        let address = Address::from(address.into());
        if let Some(known) = self.known.get_mut(&address) {
            *known = mac;
        } else {
            if self.known.len() >= MAX_NEIGHBOURS
                && let Some(&other) = self.known.keys().next()
            {
                self.known.remove(&other);
            }
            self.known.insert(address, mac);
        }
        if !self.waiting.is_empty() {
            self.waiting.retain(|&(wanted, who)| {
                if wanted == address {
                    ready.push_back(who);
                }
                wanted != address
            });
        }
    }

    /// Remembers that someone, who stays listed, waits for an address; false if too many wait.
    pub(crate) fn wait(&mut self, address: impl Into<IpAddr>, who: Ready) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push((address.into().into(), who));
        }
        room
    }

    /// Forgets that someone waits.
    pub(crate) fn forget(&mut self, who: Ready) {
        self.waiting.retain(|&(_, waits)| waits != who);
    }
}

/// Numbers that a guest cannot foresee as long as the seed is secret enough for the purpose (SplitMix64).
///
/// Used for packet identifications and to seed each flow's initial sequence number, as RFC 9293 §3.4.1 asks for.
pub(crate) struct Random(u64);

impl Random {
    #[cfg(test)]
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
