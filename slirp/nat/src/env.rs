//! What every protocol of the core works with: the settings, the host, the clock, and the ways to the guest.
//!
//! Two ways lead to the guest. Answers made of nothing but their question (ARP, DHCP, ICMP, resets) are queued, within
//! bounds, and the queue's overflow is a counted drop. Whoever has data waiting in a host socket or a TCP ring is put
//! on the *ready list* instead, and makes one frame each time the owner has a slot for it: the data stay where they are
//! until then, so a slow guest slows its peers down and costs no memory.
//!
//! Invariant: an entry of the ready list appears there once; its owner remembers that it is listed.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Instant;

use link::{DropCounts, DropReason, MacAddr, Offloads, VnetHeader};

use crate::config::Config;
use crate::timers::Timers;
use crate::wire::{self, ETHERNET, ETHERTYPE_IPV4, IPV4, Ipv4Header, UDP, UDP_PROTOCOL};

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
    pub random: Random,
    /// The identification of the next packet that is cut into fragments (RFC 6864).
    pub next_ident: u16,
    /// Room for one datagram from a host socket, as long as IPv4 has them.
    pub datagram: Vec<u8>,
}

impl<H> Env<H> {
    pub(crate) fn new(config: Config, host: H, seed: u64, now: Instant) -> Self {
        let mut random = Random(seed);
        let next_ident = random.next() as u16;
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
            random,
            next_ident,
            datagram: vec![0; 65536],
        }
    }

    /// Whether a guest can have this address.
    pub(crate) fn is_guest(&self, address: Ipv4Addr) -> bool {
        self.config.network.is_host(address) && !self.config.is_own(address)
    }

    /// The Ethernet address that goes with one of the NAT's own: `52:55` and the IPv4 address, as libslirp has it.
    pub(crate) fn own_mac(address: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = address.octets();
        MacAddr([0x52, 0x55, a, b, c, d])
    }

    /// From whom packets of `from` come at the Ethernet layer: itself if it is one of the NAT's own, else the gateway.
    pub(crate) fn mac_for(&self, from: Ipv4Addr) -> MacAddr {
        Self::own_mac(if self.config.is_own(from) { from } else { self.config.gateway })
    }

    /// Queues one frame for the guest; `build` fills in `len` zeroed bytes.
    pub(crate) fn queue_frame(&mut self, len: usize, build: impl FnOnce(&mut [u8])) {
        if !self.queue.push(len, build) {
            self.drops.count(DropReason::NoBuffer);
        }
    }

    /// Queues one IPv4 packet for a guest whose Ethernet address is known; `build` fills in the zeroed payload.
    pub(crate) fn queue_packet(&mut self, to_mac: MacAddr, header: Ipv4Header, build: impl FnOnce(&mut [u8])) {
        let from_mac = self.mac_for(header.from);
        self.queue_frame(ETHERNET + IPV4 + header.payload_len, |frame| {
            wire::put_ethernet(frame, to_mac, from_mac, ETHERTYPE_IPV4);
            header.put(&mut frame[ETHERNET..]);
            build(&mut frame[ETHERNET + IPV4..]);
        });
    }

    /// Queues a UDP datagram for a guest, in fragments if it is longer than the MTU.
    pub(crate) fn queue_datagram(
        &mut self,
        to_mac: MacAddr,
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
        payload: &[u8],
    ) {
        let len = UDP + payload.len();
        let build = |datagram: &mut [u8]| {
            datagram[UDP..].copy_from_slice(payload);
            wire::put_udp(datagram, from.1, to.1, payload.len());
            wire::fill_udp_checksum(from.0, to.0, datagram);
        };
        let header = Ipv4Header::whole(from.0, to.0, UDP_PROTOCOL, len);
        if IPV4 + len <= usize::from(self.config.mtu) {
            return self.queue_packet(to_mac, header, build);
        }
        let mut whole = vec![0; len];
        build(&mut whole);
        self.queue_fragments(to_mac, header, &whole);
    }

    /// Queues a packet in fragments (RFC 791 §3.2), all of them or none.
    pub(crate) fn queue_fragments(&mut self, to_mac: MacAddr, header: Ipv4Header, payload: &[u8]) {
        let step = (usize::from(self.config.mtu) - IPV4) & !7;
        if !self.queue.has_room(payload.len().div_ceil(step), payload.len()) {
            return self.drops.count(DropReason::NoBuffer);
        }
        let ident = self.next_ident;
        self.next_ident = self.next_ident.wrapping_add(1);
        for (i, piece) in payload.chunks(step).enumerate() {
            let fragment_offset = i * step;
            let more_fragments = fragment_offset + piece.len() < payload.len();
            let header = Ipv4Header { ident, fragment_offset, more_fragments, payload_len: piece.len(), ..header };
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
    known: HashMap<Ipv4Addr, MacAddr>,
    waiting: Vec<(Ipv4Addr, Ready)>,
}

impl Neighbours {
    pub(crate) fn get(&self, address: Ipv4Addr) -> Option<MacAddr> {
        self.known.get(&address).copied()
    }

    /// Learns an address; those who waited for it go to the ready list.
    pub(crate) fn learn(&mut self, address: Ipv4Addr, mac: MacAddr, ready: &mut VecDeque<Ready>) {
        if let Some(known) = self.known.get_mut(&address) {
            *known = mac;
        } else if self.known.len() < MAX_NEIGHBOURS {
            self.known.insert(address, mac);
        } else {
            return;
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
    pub(crate) fn wait(&mut self, address: Ipv4Addr, who: Ready) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push((address, who));
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
