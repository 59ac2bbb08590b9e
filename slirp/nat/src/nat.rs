//! The core: frames and time in, frames and socket actions out.
//!
//! # Theory of operation
//! The owner hands in what the guest sends ([`Nat::input`], and [`Nat::flush`] behind a batch), what host sockets can do
//! ([`Nat::ready`]) and the passing of time ([`Nat::expire`]); and takes frames for the guest out, one at a time, as it
//! has slots for them ([`Nat::output`]). Nothing here blocks, sleeps or looks at a clock.
//!
//! A frame from the guest passes: Ethernet (for us?), ARP or IP (valid? from a guest's address?), fragments, then its
//! protocol. Each step that refuses it names a [`DropReason`]; it is counted here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use link::{Checksum, DropCounts, DropReason, GsoType, MAX_FRAME_LEN, MacAddr, Offloads, VnetHeader};

use crate::arp;
use crate::config::{Config, Forward};
use crate::dhcp::{self, Dhcp};
use crate::dhcpv6::{self, Dhcpv6};
use crate::dns::{self, Dns};
use crate::env::{Env, Ready};
use crate::flow::FlowState;
use crate::forward::{ForwardError, ForwardId, ForwardState, Forwards};
use crate::fragment::Reassembly;
use crate::host::{Host, Kind, Readiness};
use crate::icmp::{self, Pings};
use crate::ndp::{self, Ndp};
use crate::route::{Route, route};
use crate::tcp::Tcp;
use crate::tftp::{self, Tftp};
use crate::timers::Timer;
use crate::udp::Udp;
use crate::wire::{self, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip};

/// What the NAT takes from the guest's side: everything.
pub const OFFLOADS: Offloads = Offloads::ALL;

/// The NAT, over a [`Host`].
pub struct Nat<H> {
    env: Env<H>,
    dhcp: Dhcp,
    dhcpv6: Dhcpv6,
    dns: Dns,
    tcp: Tcp,
    udp: Udp,
    pings: Pings,
    ndp: Ndp,
    tftp: Tftp,
    forwards: Forwards,
    reassembly: Reassembly,
    fragments_armed: Option<Instant>,
    /// The frame being made.
    out: Vec<u8>,
}

impl<H: Host> Nat<H> {
    /// Makes the NAT and sets up its forwarding rules. `seed` comes from the operating system's randomness: initial
    /// sequence numbers and query identifiers derive from it.
    ///
    /// # Errors
    /// A forwarding rule's port is taken or not permitted; the error names the rule.
    pub fn new(config: Config, host: H, seed: u64, now: Instant) -> Result<Self, ForwardError> {
        let mut env = Env::new(config, host, seed, now);
        let forwards = Forwards::open(&mut env)?;
        Ok(Self {
            env,
            dhcp: Dhcp::default(),
            dhcpv6: Dhcpv6::default(),
            dns: Dns::default(),
            tcp: Tcp::new(now),
            udp: Udp::default(),
            pings: Pings::default(),
            ndp: Ndp::default(),
            tftp: Tftp::default(),
            forwards,
            reassembly: Reassembly::default(),
            fragments_armed: None,
            out: vec![0; MAX_FRAME_LEN],
        })
    }

    /// What the guest's side takes from now on.
    pub fn accept(&mut self, offloads: Offloads) {
        self.env.offloads = offloads;
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.env.config
    }

    /// The operating system's side, for its owner to ask it for readiness.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.env.host
    }

    /// Frames dropped, from and to the guest.
    pub fn drops(&self) -> &DropCounts {
        &self.env.drops
    }

    /// Connections and UDP mappings that exist.
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }

    /// What is to be told of each of them, and of UDP peers of forwarding rules.
    pub fn flow_states(&self) -> Vec<FlowState> {
        self.tcp.states().chain(self.udp.states()).collect()
    }

    /// Sets up a forwarding rule.
    ///
    /// # Errors
    /// The host's port is taken or not permitted, or no guest can have the address; the error names the rule.
    pub fn add_forward(&mut self, rule: Forward) -> Result<ForwardId, ForwardError> {
        self.forwards.add(&mut self.env, rule)
    }

    /// Ends a forwarding rule; returns whether there was one of that number. Connections that it has brought stay.
    pub fn remove_forward(&mut self, id: ForwardId) -> bool {
        self.forwards.remove(&mut self.env, &mut self.udp, id)
    }

    /// The forwarding rules in force, in the order in which they were added.
    pub fn forwards(&self) -> Vec<ForwardState> {
        self.forwards.list()
    }

    /// Takes a frame from the guest: a private copy, which nobody changes meanwhile.
    pub fn input(&mut self, now: Instant, header: &VnetHeader, frame: &[u8]) {
        self.env.now = now;
        if let Err(reason) = self.frame(header, frame) {
            match reason {
                DropReason::Limit => self.env.limited(),
                _ => self.env.drops.count(reason),
            }
        }
    }

    /// To be called behind a batch of [`Nat::input`]: gives the host what came for it.
    pub fn flush(&mut self) {
        self.tcp.flush(&mut self.env);
    }

    /// Takes note of what a host socket can do now.
    pub fn ready(&mut self, now: Instant, readiness: Readiness) {
        self.env.now = now;
        let place = readiness.id.index;
        match readiness.id.kind {
            Kind::Tcp => self.tcp.ready(&mut self.env, place, readiness),
            Kind::Udp => self.udp.ready(&mut self.env, place, readiness),
            Kind::Ping => self.pings.ready(&mut self.env, place, readiness),
            Kind::Dns => self.dns.ready(&mut self.env, place),
            Kind::Forward => self.forwards.ready(&mut self.env, &mut self.tcp, place),
        }
    }

    /// Does what is due.
    pub fn expire(&mut self, now: Instant) {
        self.env.now = now;
        while let Some((timer, at)) = self.env.timers.fired(now) {
            match timer {
                Timer::Tcp(place) => self.tcp.fired(&mut self.env, place, at),
                Timer::Udp(place) => self.udp.fired(&mut self.env, place, at),
                Timer::Ping(place) => self.pings.fired(&mut self.env, place, at),
                Timer::Dns(place) => self.dns.fired(&mut self.env, place, at),
                Timer::Tftp(place) => self.tftp.fired(&mut self.env, place, at),
                Timer::Forward(place) => self.forwards.fired(&mut self.env, &mut self.tcp, place, at),
                Timer::Silence => self.tcp.watch(&mut self.env, at),
                Timer::Peers => self.udp.expire_peers(&mut self.env, at),
                Timer::Fragments => self.expire_fragments(at),
            }
        }
    }

    /// When [`Nat::expire`] is to be called; never, if the NAT is idle.
    pub fn deadline(&self) -> Option<Instant> {
        self.env.timers.next()
    }

    /// Deadlines that are kept.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> usize {
        self.env.timers.len()
    }

    /// Whether [`Nat::output`] may have a frame.
    pub fn has_output(&self) -> bool {
        !self.env.queue.is_empty() || !self.env.ready.is_empty()
    }

    /// The next frame for the guest.
    pub fn output(&mut self, now: Instant) -> Option<(VnetHeader, &[u8])> {
        self.env.now = now;
        loop {
            if let Some((header, len)) = self.env.queue.pop_into(&mut self.out) {
                return Some((header, &self.out[..len]));
            }
            let made = match self.env.ready.pop_front()? {
                Ready::Tcp(place) => self.tcp.output(&mut self.env, place, &mut self.out),
                Ready::Udp(place) => self.udp.output(&mut self.env, place, &mut self.out),
                Ready::Ping(place) => self.pings.output(&mut self.env, place, &mut self.out),
                Ready::Forward(place) => self.forwards.output(&mut self.env, &mut self.udp, place, &mut self.out),
                Ready::Tftp(place) => {
                    // Into the queue: it may be in fragments.
                    self.tftp.output(&mut self.env, place);
                    None
                }
            };
            if let Some((header, len)) = made {
                return Some((header, &self.out[..len]));
            }
        }
    }

    fn frame(&mut self, header: &VnetHeader, frame: &[u8]) -> Result<(), DropReason> {
        header.check(frame.len())?;
        if frame.len() > MAX_FRAME_LEN {
            return Err(DropReason::Oversized);
        }
        let ethernet = Ethernet::parse(frame)?;
        let multicast6 = ethernet.ethertype == ETHERTYPE_IPV6 && ethernet.to.0[..2] == [0x33, 0x33];
        let ours = self.env.is_own_mac(ethernet.to) || ethernet.to == MacAddr::BROADCAST || multicast6;
        if !ours || ethernet.from.is_multicast() {
            return Err(DropReason::Unserved);
        }
        match ethernet.ethertype {
            ETHERTYPE_ARP if self.env.config.ipv4 => arp::input(&mut self.env, &ethernet)?,
            ETHERTYPE_IPV4 if self.env.config.ipv4 => self.packet(header, &ethernet)?,
            ETHERTYPE_IPV6 if self.env.config.ipv6.is_some() => self.packet(header, &ethernet)?,
            _ => return Err(DropReason::Unserved),
        }
        self.ndp.heard(&mut self.env);
        Ok(())
    }

    fn packet(&mut self, header: &VnetHeader, ethernet: &Ethernet<'_>) -> Result<(), DropReason> {
        let ip = parse(&mut self.env, ethernet.payload)?;
        if (ethernet.ethertype == ETHERTYPE_IPV4) != ip.from.is_ipv4() {
            return Err(DropReason::Malformed);
        }
        if self.env.is_guest(ip.from) {
            self.env.neighbours.learn(ip.from, ethernet.from, &mut self.env.ready);
        } else {
            // A guest without an address asks for one, and does nothing else.
            let asks = if ip.from.is_ipv4() { wire::UDP_PROTOCOL } else { wire::ICMPV6 };
            if !ip.from.is_unspecified() || ip.protocol != asks {
                return Err(DropReason::Unserved);
            }
        }
        let Some(fragment) = ip.fragment else { return self.transport(header, ethernet, &ip) };
        if header.gso_type != GsoType::None || header.needs_checksum() {
            return Err(DropReason::BadOffload);
        }
        let whole = self.reassembly.input(&ip, fragment, self.env.now);
        self.env.drops.add(DropReason::Limit, self.reassembly.take_displaced());
        let whole = whole?;
        if let Some(at) = self.reassembly.deadline() {
            self.env.timers.arm(Timer::Fragments, &mut self.fragments_armed, at);
        }
        let Some(whole) = whole else { return Ok(()) };
        let ip = parse(&mut self.env, &whole)?;
        // A fragment of a packet that has come together is nobody's but an attacker's.
        if ip.fragment.is_some() {
            return Err(DropReason::Malformed);
        }
        self.transport(&VnetHeader::WHOLE, ethernet, &ip)
    }

    fn transport(&mut self, header: &VnetHeader, ethernet: &Ethernet<'_>, ip: &Ip<'_>) -> Result<(), DropReason> {
        // What was verified, or never left this machine, needs no verification; RFC 1122 §4.1.3.4 asks for the rest.
        let verify = header.checksum == Checksum::Complete;
        let gso_fits = match header.gso_type {
            GsoType::None => true,
            GsoType::TcpV4 => ip.protocol == wire::TCP && ip.from.is_ipv4(),
            GsoType::TcpV6 => ip.protocol == wire::TCP && ip.from.is_ipv6(),
            GsoType::Udp => ip.protocol == wire::UDP_PROTOCOL,
        };
        if !gso_fits {
            return Err(DropReason::BadOffload);
        }
        match (ip.protocol, ip.from) {
            (wire::TCP, _) if self.env.is_for_many(ip.to) => Err(DropReason::Malformed),
            (wire::TCP, _) => self.tcp.input(&mut self.env, ip, verify),
            (wire::UDP_PROTOCOL, _) => self.datagram(header, ip, verify),
            (wire::ICMP, IpAddr::V4(_)) => self.pings.input(&mut self.env, ip),
            (wire::ICMPV6, IpAddr::V6(_)) => match ip.payload.first() {
                Some(kind) if ndp::TYPES.contains(kind) => self.ndp.input(&mut self.env, ethernet, ip),
                _ if ip.from.is_unspecified() => Err(DropReason::Unserved),
                _ => self.pings.input(&mut self.env, ip),
            },
            _ => {
                if route(&self.env.config, ip.to) != Route::Closed {
                    icmp::unknown_protocol(&mut self.env, ip);
                }
                Err(DropReason::Unserved)
            }
        }
    }

    fn datagram(&mut self, header: &VnetHeader, ip: &Ip<'_>, verify: bool) -> Result<(), DropReason> {
        let udp = wire::Udp::parse(ip, verify)?;
        let config = &self.env.config;
        if udp.to_port == dhcp::SERVER_PORT && (ip.to == Ipv4Addr::BROADCAST || ip.to == config.gateway) {
            return self.dhcp.input(&mut self.env, udp.payload);
        }
        if ip.from.is_unspecified() {
            return Err(DropReason::Unserved);
        }
        if let (dhcpv6::SERVER_PORT, IpAddr::V6(from), true) = (udp.to_port, ip.from, ip.to == dhcpv6::GROUP) {
            return self.dhcpv6.input(&mut self.env, from, udp.payload);
        }
        if udp.to_port == tftp::PORT && config.tftp.is_some() && ip.to == self.env.router(ip.from) {
            let (client, server) = ((ip.from, udp.from_port), (ip.to, udp.to_port));
            return self.tftp.input(&mut self.env, SocketAddr::from(client), SocketAddr::from(server), udp.payload);
        }
        if udp.to_port == dns::PORT && route(config, ip.to) == Route::Dns {
            return self.dns.input(&mut self.env, SocketAddr::new(ip.from, udp.from_port), udp.payload);
        }
        let segment = (header.gso_type == GsoType::Udp).then_some(header.gso_size);
        self.udp.input(&mut self.env, ip, &udp, segment)
    }

    fn expire_fragments(&mut self, at: Instant) {
        if self.fragments_armed != Some(at) {
            return;
        }
        self.fragments_armed = None;
        let dropped = self.reassembly.expire(self.env.now);
        self.env.drops.add(DropReason::Malformed, dropped as u64);
        if let Some(at) = self.reassembly.deadline() {
            self.env.timers.arm(Timer::Fragments, &mut self.fragments_armed, at);
        }
    }
}

/// Parses a packet; where its sender is to hear of a problem, it does.
fn parse<'a, H>(env: &mut Env<H>, bytes: &'a [u8]) -> Result<Ip<'a>, DropReason> {
    Ip::parse(bytes).map_err(|refusal| {
        if let Some((code, at)) = refusal.problem
            && !env.config.restrict
        {
            icmp::parameter_problem(env, bytes, code, at);
        }
        refusal.reason
    })
}
