//! The user-mode NAT: its whole core over a model of the operating system.
//!
//! The input begins with the settings. Then come steps: a byte that names the step, one whose bits say how the frame is
//! handed over and whether all comes to rest behind it, then what the step needs. Lengths and checksums of frames are
//! right, unless the input says what they are to be, so that messages are mostly read.
//!
//! `host` is the model; `frame` makes frames, and holds what the NAT emits against the formats.

mod frame;
mod host;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use link::{Checksum, GsoType, MacAddr, Offloads, VnetHeader};
use nat::{Config, Family, ForwardId, Ipv6, Kind, Nat, Readiness, Rejection, SocketId};

use super::data::Data;
use frame::{ICMP, ICMPV6, Packet, TCP, UDP, address6};
use host::{Event, Host, readiness};

/// Steps of a run; what comes after them is passed over.
const MAX_STEPS: usize = 96;
/// Frames that storms make in a run.
const STORM_FRAMES: usize = 1600;
/// Rules that are added in a run.
const MAX_RULES: usize = 8;
/// Frames in a row without an end.
const ENDLESS: usize = 200_000;
/// Times that the NAT wakes in the end, until nothing is left.
const WAKEUPS: usize = 50_000;
/// What the NAT keeps at most of each kind.
const LIMITS: [(Kind, usize); 4] = [(Kind::Tcp, 16384), (Kind::Udp, 16384), (Kind::Ping, 256), (Kind::Dns, 1024)];
const MAX_FILES: usize = 128;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const ALL_DHCP: &str = "ff02::1:2";

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut data = Data::new(data);
    let mut lab = Lab::new(&mut data);
    for _ in 0..MAX_STEPS {
        if data.is_empty() {
            break;
        }
        lab.step(&mut data);
        lab.check();
    }
    lab.end();
}

/// A guest behind the NAT.
struct Lab {
    nat: Nat<Host>,
    now: Instant,
    offloads: Offloads,
    /// Both ends of each TCP connection that the NAT has spoken of, and the guest's next numbers: sequence and
    /// acknowledgement.
    connections: BTreeMap<(End, End), (u32, u32)>,
    rules: Vec<ForwardId>,
    storm_left: usize,
    dropped: u64,
}

/// An address and a port.
type End = (IpAddr, u16);

/// How a frame is handed over.
#[derive(Clone, Copy)]
enum Hand {
    Whole,
    Verified,
    Partial,
    Segments(GsoType, u16),
}

impl Lab {
    fn new(data: &mut Data<'_>) -> Self {
        let config = settings(data);
        let now = Instant::now();
        let offloads = Offloads::NONE;
        let mut host = Host::default();
        host.resolvers.push(SocketAddr::from(([192, 0, 2, 53], 53)));
        let nat = Nat::new(config, host, 1, now).expect("rules that the model takes");
        let (connections, rules) = (BTreeMap::new(), Vec::new());
        Self { nat, now, offloads, connections, rules, storm_left: STORM_FRAMES, dropped: 0 }
    }

    fn step(&mut self, data: &mut Data<'_>) {
        let (step, how) = (data.byte(), data.byte());
        let hand = match how & 3 {
            0 => Hand::Whole,
            1 => Hand::Verified,
            2 => Hand::Partial,
            _ if how & 4 == 0 => Hand::Whole,
            _ => Hand::Segments(data.pick(&[GsoType::TcpV4, GsoType::TcpV6, GsoType::Udp]), data.word()),
        };
        match step % 28 {
            0 => self.pass(Duration::from_millis(u64::from(data.word()) * 20)),
            1 => {
                for _ in 0..data.byte() {
                    self.take();
                }
            }
            2 => {
                let bytes: [u8; VnetHeader::LEN] = std::array::from_fn(|_| data.byte());
                let header = VnetHeader::parse(&bytes).unwrap_or(VnetHeader::WHOLE);
                let frame = data.piece();
                self.nat.input(self.now, &header, frame);
            }
            3 => {
                let to = data.pick(&[frame::GATEWAY_MAC, MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1])]);
                let frame = frame::ethernet(to, mac(data.byte()), data.pick(&[0x800, 0x86dd, 0x806]), data.piece());
                self.input(&frame);
            }
            4 => {
                let (operation, number) = (u16::from(data.byte() & 3), data.byte());
                let mut frame = frame::arp(operation, mac(number), guest_v4(data), remote_v4(data));
                let cut = usize::from(data.byte());
                frame.truncate(if cut < frame.len() { frame.len() - cut } else { frame.len() });
                self.input(&frame);
            }
            5 => {
                let (packet, protocol) = (packet(data), data.byte());
                self.send(Packet { protocol, ..packet }, data.piece().to_vec(), hand);
            }
            6 => self.send_extended(data, hand),
            7 => {
                let packet = Packet { protocol: UDP, ..packet(data) };
                let (from, to) = (1000 + u16::from(data.byte()), port(data));
                let payload = if data.flag() { vec![1; data.word().into()] } else { data.piece().to_vec() };
                self.send(packet, frame::datagram(from, to, &payload), hand);
            }
            8 => {
                let packet = server(data, 3);
                let mut question =
                    vec![data.byte() & 3, data.byte() & 3, data.byte() & 0x87, 0, 0, 1, 0, 0, 0, 0, 0, 0];
                question.extend(data.piece());
                self.send(packet, frame::datagram(2000 + u16::from(data.byte() & 3), 53, &question), hand);
            }
            9 => self.ask_dhcp(data, hand),
            10 => {
                let from = address6("fe80::15");
                let mut message = vec![data.byte() % 14, 1, 2, data.byte() & 3];
                for _ in 0..data.byte() % 8 {
                    message.extend([0, data.pick(&[1, 2, 3, 5, 6, 8, 14, 15, 25, 59])]);
                    let value = data.piece();
                    let len = if data.byte() == 255 { data.word() } else { value.len() as u16 };
                    message.extend(len.to_be_bytes());
                    message.extend(value);
                }
                let packet = Packet { from: from.into(), to: address6(ALL_DHCP).into(), ..packet_v6(mac(0)) };
                self.send(packet, frame::datagram(546, 547, &message), hand);
            }
            11 => {
                let packet = server(data, 2);
                let message = tftp(data);
                self.send(packet, frame::datagram(3000 + u16::from(data.byte() & 7), 69, &message), hand);
            }
            12 => {
                let packet = packet(data);
                let (protocol, kind) = if packet.from.is_ipv4() { (ICMP, 8) } else { (ICMPV6, 128) };
                let mut message = vec![kind, 0, 0, 0, 0, data.byte(), 0, 1];
                let len = if data.flag() { data.word() } else { data.byte().into() };
                message.resize(8 + usize::from(len), 7);
                self.send(Packet { protocol, ..packet }, message, hand);
            }
            13 => {
                let packet = Packet { protocol: ICMPV6, hops: 255, ..packet_v6(mac(data.byte())) };
                let from = data.pick(&["fec0::15", "fe80::15", "::", "fec0::2"]);
                let target = remote_v6(data);
                let [.., a, b, c] = target.octets();
                let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
                let to = data.pick(&[group, address6("ff02::1"), address6("ff02::2"), address6("fec0::2")]);
                let mut message = vec![133 + data.byte() % 5, 0, 0, 0, data.byte(), 0, 0, 0];
                if message[0] > 134 {
                    message.extend(target.octets());
                }
                if data.flag() {
                    message.extend([data.byte() & 3, 1]);
                    message.extend(packet.mac.0);
                }
                message.extend(data.piece());
                self.send(Packet { from: address6(from).into(), to: to.into(), ..packet }, message, hand);
            }
            14 => {
                let packet = Packet { protocol: TCP, ..packet(data) };
                let (from, to) = (4000 + u16::from(data.byte()), port(data));
                let segment = segment((from, to), (data.word().into(), 0), 2, data);
                self.send(packet, segment, hand);
            }
            15 => self.send_segment(data, hand),
            16 => self.acknowledge_all(data.pick(&[0x10, 0x11, 0x14, 0x18]), data.word()),
            17 => self.send_fragments(data),
            18 => {
                let event = match data.byte() % 5 {
                    0 => Event::End,
                    1 => Event::Break,
                    2 => Event::Room(data.flag().then(|| data.word().into())),
                    _ => Event::Data(usize::from(data.word()) * 4),
                };
                let host = self.nat.host_mut();
                if let Some(id) = host.pick(Kind::Tcp, data.byte()) {
                    host.happen(id, event);
                }
            }
            19 => {
                let kind = data.pick(&[Kind::Udp, Kind::Ping, Kind::Forward, Kind::Dns]);
                let from = (remote(data), port(data));
                let bytes = if data.flag() { vec![129; data.word().into()] } else { data.piece().to_vec() };
                let host = self.nat.host_mut();
                if let Some(id) = host.pick(kind, data.byte()) {
                    host.arrive(id, bytes, from.into());
                }
            }
            20 => self.answer_question(data),
            21 => {
                let kind = data.pick(&[Kind::Udp, Kind::Ping, Kind::Forward]);
                let to = (remote(data), port(data));
                let by = data.flag().then(|| remote(data));
                let (icmp_type, icmp_code, info) = (data.byte(), data.byte(), data.word().into());
                let quote = data.piece().to_vec();
                let host = self.nat.host_mut();
                if let Some(id) = host.pick(kind, data.byte()) {
                    host.reject(id, Rejection { to: to.into(), by, icmp_type, icmp_code, info, quote });
                }
            }
            22 => {
                let peer = SocketAddr::from((remote_v4(data), data.word()));
                let host = self.nat.host_mut();
                host.waiting.push_back(peer);
                if let Some(id) = host.pick(Kind::Forward, data.byte()) {
                    host.events.push_back(readiness(id));
                }
            }
            23 => {
                let bits = data.byte();
                let host = self.nat.host_mut();
                (host.is_full, host.forbids_ping) = (bits & 1 != 0, bits & 2 != 0);
                host.resolvers = (0..bits >> 2 & 3).map(|n| ([192, 0, 2, n], 81 + u16::from(n)).into()).collect();
            }
            24 => {
                let bits = data.byte();
                let [checksum, tso4, tso6, uso] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                self.offloads = Offloads { checksum, tso4, tso6, uso };
                self.nat.accept(self.offloads);
            }
            25 => self.storm(data),
            26 => self.change_rules(data),
            _ => {
                // Late, or about nothing.
                let (kind, bits) = (data.pick(&Kind::ALL), data.byte());
                let id = SocketId { kind, index: u32::from(data.byte() & 7) };
                let [readable, writable, finished, error] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                self.nat.ready(self.now, Readiness { id, readable, writable, finished, error });
            }
        }
        if how & 0x80 == 0 {
            self.rest();
        }
    }

    /// Time passes.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.nat.expire(self.now);
        assert!(self.nat.deadline().is_none_or(|at| at > self.now), "what was due is due still");
    }

    /// Hands a frame over as it is.
    fn input(&mut self, frame: &[u8]) {
        self.nat.input(self.now, &VnetHeader::WHOLE, frame);
    }

    fn send(&mut self, packet: Packet, payload: Vec<u8>, hand: Hand) {
        let start = packet.header_len() as u16;
        let offset = frame::checksum_at(packet.protocol).unwrap_or(0) as u16;
        let partial = VnetHeader { checksum: Checksum::Partial { start, offset }, ..VnetHeader::WHOLE };
        let header = match hand {
            Hand::Whole => VnetHeader::WHOLE,
            Hand::Verified => VnetHeader { checksum: Checksum::Valid, ..VnetHeader::WHOLE },
            Hand::Partial => partial,
            Hand::Segments(gso_type, size) => VnetHeader { gso_type, gso_size: size.max(1), ..partial },
        };
        self.nat.input(self.now, &header, &packet.over(payload));
    }

    /// Lets everything that is under way arrive.
    fn rest(&mut self) {
        for number in 0.. {
            assert!(number < ENDLESS, "the two never come to rest");
            self.nat.flush();
            if let Some(readiness) = self.nat.host_mut().events.pop_front() {
                self.nat.ready(self.now, readiness);
            } else if !self.take() {
                return;
            }
        }
    }

    /// Takes a frame for the guest; returns whether there was one.
    fn take(&mut self) -> bool {
        let expected = self.nat.has_output();
        let mtu = self.nat.config().mtu;
        let Some((header, frame)) = self.nat.output(self.now) else { return false };
        assert!(expected);
        if let Some(segment) = frame::check(mtu, self.offloads, &header, frame) {
            self.connections.insert((segment.guest, segment.remote), (segment.acknowledged, segment.end));
        }
        true
    }

    /// What always holds.
    fn check(&mut self) {
        let dropped = self.nat.drops().total();
        assert!(dropped >= self.dropped);
        self.dropped = dropped;
        let (tcp, udp) = self.nat.flows();
        assert!(self.nat.flow_states().len() >= tcp + udp);
        let host = self.nat.host_mut();
        assert!(host.count(Kind::Tcp) <= tcp && host.count(Kind::Udp) == udp, "sockets without a flow");
        for (kind, most) in LIMITS {
            assert!(host.count(kind) <= most, "{} of {kind:?}", host.count(kind));
        }
        assert!(host.files() <= MAX_FILES, "{} files", host.files());
    }

    /// The world ends, and time passes: nothing is left but the rules, and the NAT still answers.
    fn end(&mut self) {
        self.rest();
        let host = self.nat.host_mut();
        (host.is_full, host.resolvers) = (false, Vec::new());
        host.end();
        self.rest();
        for number in 0.. {
            assert!(number < WAKEUPS, "no rest");
            let Some(at) = self.nat.deadline() else { break };
            self.pass(at.saturating_duration_since(self.now));
            self.rest();
        }
        assert_eq!(self.nat.flows(), (0, 0), "{:?}", self.nat.flow_states());
        assert_eq!(self.nat.flow_states(), []);
        assert!(!self.nat.has_output());
        let rules = self.nat.forwards().len();
        let host = self.nat.host_mut();
        assert_eq!(Kind::ALL.map(|kind| host.count(kind)), [0, 0, 0, 0, rules]);
        assert_eq!(host.files(), 0);
        self.prove_life();
    }

    fn prove_life(&mut self) {
        let (ipv4, ipv6) = (self.nat.config().ipv4, self.nat.config().ipv6.is_some());
        let v4 = Packet { to: GATEWAY.into(), protocol: ICMP, ..packet_v4(mac(1)) };
        let v6 = Packet { to: address6("fec0::2").into(), protocol: ICMPV6, ..packet_v6(mac(1)) };
        for (packet, kind, is_on) in [(v4, 8, ipv4), (v6, 128, ipv6)] {
            if !is_on {
                continue;
            }
            self.send(packet, vec![kind, 0, 0, 0, 0, 9, 0, 1], Hand::Whole);
            let mut answers = 0;
            while let Some((_, frame)) = self.nat.output(self.now) {
                // An echo reply of this version, and not the advertisement that may come with it.
                let (ethertype, reply) = if kind == 8 { ([8, 0], 0) } else { ([0x86, 0xdd], 129) };
                answers += usize::from(frame[12..14] == ethertype && frame[packet.header_len()] == reply);
            }
            assert_eq!(answers, 1, "{} does not answer", packet.to);
        }
    }

    /// An IPv6 packet with a chain of extension headers.
    fn send_extended(&mut self, data: &mut Data<'_>, hand: Hand) {
        const NUMBERS: [u8; 8] = [0, 60, 43, 44, 60, UDP, TCP, ICMPV6];
        let first = data.pick(&NUMBERS);
        let mut chain = Vec::new();
        let mut inner = first;
        for _ in 0..data.byte() % 10 {
            inner = data.pick(&NUMBERS);
            let mut header = vec![inner, 0, data.byte(), data.byte(), 0, 0, 0, data.byte() & 3];
            if data.flag() {
                header[1] = data.byte();
                header.extend(data.piece());
            }
            chain.extend(header);
        }
        let packet = Packet { to: remote_v6(data).into(), ..packet_v6(mac(0)) };
        let mut payload = match inner {
            UDP => frame::datagram(1000, port(data), data.piece()),
            TCP => segment((4000, port(data)), (data.word().into(), 0), 2, data),
            ICMPV6 => vec![128, 0, 0, 0, 0, data.byte(), 0, 1],
            _ => data.piece().to_vec(),
        };
        Packet { protocol: inner, ..packet }.fill_checksum(&mut payload);
        let frame = Packet { protocol: first, ..packet }.plain(&[chain, payload].concat());
        let checksum = if matches!(hand, Hand::Verified) { Checksum::Valid } else { Checksum::Complete };
        self.nat.input(self.now, &VnetHeader { checksum, ..VnetHeader::WHOLE }, &frame);
    }

    fn ask_dhcp(&mut self, data: &mut Data<'_>, hand: Hand) {
        let (bits, number) = (data.byte(), data.byte());
        let own = if bits & 1 == 0 { Ipv4Addr::UNSPECIFIED } else { guest_v4(data) };
        let mut message = vec![0; 236];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[10] = bits & 0x80;
        message[12..16].copy_from_slice(&own.octets());
        message[28..34].copy_from_slice(&mac(number).0);
        // One without the cookie is BOOTP.
        message.extend(if bits & 2 == 0 { [99, 130, 83, 99] } else { [0; 4] });
        if bits & 4 == 0 {
            message.extend([53, 1, data.byte() % 9]);
        }
        for _ in 0..data.byte() % 6 {
            message.push(data.pick(&[50, 54, 55, 57, 61, 0, 255, 12]));
            match data.byte() {
                0..40 => message.extend([4, 10, 0, 2, data.byte()]),
                40..80 => message.extend([2, data.byte(), data.byte()]),
                80..90 => message.push(data.byte()),
                _ => {
                    let value = data.piece();
                    message.push(value.len() as u8);
                    message.extend(value);
                }
            }
        }
        if bits & 8 != 0 {
            message.truncate(data.word().into());
        }
        let packet = Packet { from: own.into(), to: Ipv4Addr::BROADCAST.into(), ..packet_v4(mac(number)) };
        self.send(packet, frame::datagram(68, 67, &message), hand);
    }

    /// A segment of a connection that there is, its numbers near what they should be.
    fn send_segment(&mut self, data: &mut Data<'_>, hand: Hand) {
        let place = usize::from(data.byte()) % self.connections.len().max(1);
        let Some((&(guest, remote), &(sequence, acknowledgement))) = self.connections.iter().nth(place) else { return };
        let near = |base: u32, data: &mut Data<'_>| match data.byte() {
            0..160 => base,
            160..220 => base.wrapping_add_signed(i32::from(data.word() as i16)),
            _ => u32::from(data.word()) << 16 | u32::from(data.word()),
        };
        let numbers = (near(sequence, data), near(acknowledgement, data));
        let flags = data.pick(&[0x10, 0x18, 0x11, 0x14, 0x04, 0x02, 0x12, 0x01, 0x30, 0xff]);
        let mut bytes = segment((guest.1, remote.1), numbers, flags, data);
        let len = if data.flag() { data.word() } else { data.byte().into() };
        bytes.resize((bytes.len() + usize::from(len)).min(65000), 3);
        let around = if guest.0.is_ipv4() { packet_v4(mac(0)) } else { packet_v6(mac(0)) };
        let packet = Packet { from: guest.0, to: remote.0, protocol: TCP, ..around };
        self.send(packet, bytes, hand);
        if let Some(known) = self.connections.get_mut(&(guest, remote)) {
            known.0 = known.0.wrapping_add(len.into());
        }
    }

    /// The guest answers on every connection at once.
    fn acknowledge_all(&mut self, flags: u8, window: u16) {
        for (&(guest, remote), &(sequence, acknowledgement)) in &self.connections {
            let mut segment = [guest.1.to_be_bytes(), remote.1.to_be_bytes()].concat();
            segment.extend(sequence.to_be_bytes());
            segment.extend(acknowledgement.to_be_bytes());
            segment.extend([0x50, flags]);
            segment.extend(window.to_be_bytes());
            segment.extend([0; 4]);
            let around = if guest.0.is_ipv4() { packet_v4(mac(0)) } else { packet_v6(mac(0)) };
            let frame = Packet { from: guest.0, to: remote.0, protocol: TCP, ..around }.over(segment);
            self.nat.input(self.now, &VnetHeader::WHOLE, &frame);
        }
    }

    /// A datagram, or an echo request, in fragments: in one order or the other, with one left out or moved.
    fn send_fragments(&mut self, data: &mut Data<'_>) {
        let packet = packet(data);
        let whole = if data.flag() {
            frame::datagram(1000, port(data), &vec![1; data.word().into()])
        } else {
            let kind = if packet.from.is_ipv4() { 8 } else { 128 };
            let mut message = vec![kind, 0, 0, 0, 0, 1, 0, 1];
            message.resize(8 + usize::from(data.word()), 5);
            message
        };
        let protocol = match (whole[0], packet.from) {
            (8, IpAddr::V4(_)) => ICMP,
            (128, IpAddr::V6(_)) => ICMPV6,
            _ => UDP,
        };
        let packet = Packet { protocol, ..packet };
        let mut whole = whole;
        packet.fill_checksum(&mut whole);
        let ident = u32::from(data.byte());
        let step = (usize::from(data.word()).clamp(whole.len() / 140, 60_000) + 8) & !7;
        let (bits, strange) = (data.byte(), usize::from(data.byte()));
        let shift = usize::from(data.word()) & !7;
        let mut pieces: Vec<_> = whole.chunks(step).enumerate().collect();
        let last = pieces.len() - 1;
        if bits & 1 != 0 {
            pieces.reverse();
        }
        for (place, piece) in pieces {
            let is_strange = place == strange;
            if is_strange && bits & 2 != 0 {
                continue;
            }
            let offset = place * step + if is_strange && bits & 4 != 0 { shift } else { 0 };
            let more = place != last || is_strange && bits & 8 != 0;
            let frame = Packet { fragment: Some((ident, offset, more)), ..packet }.over(piece.to_vec());
            self.input(&frame);
        }
    }

    /// A name server answers.
    fn answer_question(&mut self, data: &mut Data<'_>) {
        let number = data.byte();
        let host = self.nat.host_mut();
        let Some(id) = host.pick(Kind::Dns, number) else { return };
        let mut answer = host.sent(id).to_vec();
        if let Some(flags) = answer.get_mut(2..4) {
            flags.copy_from_slice(&[data.byte() | 0x80, data.byte()]);
        }
        answer.extend(data.piece());
        if data.flag() {
            answer.resize(data.word().into(), 0);
        }
        host.arrive(id, answer, ([192, 0, 2, 53], 53).into());
    }

    /// Many frames of one sort.
    fn storm(&mut self, data: &mut Data<'_>) {
        let (kind, is_v4) = (data.byte(), data.flag());
        let count = (usize::from(data.byte()) * 6).min(self.storm_left);
        self.storm_left -= count;
        let around = if is_v4 { packet_v4(mac(0)) } else { packet_v6(mac(0)) };
        let far = if is_v4 { REMOTE.into() } else { address6("2001:db8::80").into() };
        let own = |number| {
            if is_v4 {
                IpAddr::from([10, 0, 2, number])
            } else {
                Ipv6Addr::from([0xfec0, 0, 0, 0, 0, 0, 0, number.into()]).into()
            }
        };
        let port = port(data);
        for number in 0..count as u16 {
            let [high, low] = number.to_be_bytes();
            let (packet, payload) = match kind % 8 {
                0 => (Packet { to: far, ..around }, frame::datagram(5000 + number, port, b"x")),
                1 => {
                    let syn = segment((5000 + number, port), (0, 0), 2, &mut Data::new(&[]));
                    (Packet { to: far, protocol: TCP, ..around }, syn)
                }
                2 => {
                    let (protocol, kind) = if is_v4 { (ICMP, 8) } else { (ICMPV6, 128) };
                    (Packet { to: far, protocol, ..around }, vec![kind, 0, 0, 0, high, low, 0, 1])
                }
                3 => {
                    let question = [high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
                    (Packet { to: own(3), ..around }, frame::datagram(2000, 53, &question))
                }
                4 => (Packet { to: own(2), ..around }, frame::datagram(6000 + number, 69, b"\0\x01file\0octet\0")),
                5 => {
                    let fragment = Some((number.into(), 8, true));
                    (Packet { to: far, fragment, ..around }, vec![0; 64])
                }
                6 => {
                    let from = if is_v4 {
                        IpAddr::from([10, 0, 2, low])
                    } else {
                        Ipv6Addr::from([0xfec0, 0, 0, 0, 0, 0, 1, number]).into()
                    };
                    (Packet { from, to: far, mac: mac(low), ..around }, frame::datagram(1, port, b"x"))
                }
                _ => (Packet { to: far, protocol: 132, ..around }, vec![0; 64]),
            };
            self.send(packet, payload, Hand::Whole);
        }
    }

    fn change_rules(&mut self, data: &mut Data<'_>) {
        if data.flag() && self.rules.len() < MAX_RULES {
            let guest = data.pick(&["10.0.2.15:22", ":80", "10.0.2.200:53", "192.0.2.1:9"]);
            let rule = format!("{}:127.0.0.1:2000-{guest}", data.pick(&["tcp", "udp"]));
            let rule = rule.parse().expect("a rule");
            self.rules.extend(self.nat.add_forward(rule));
        } else if !self.rules.is_empty() {
            let place = usize::from(data.byte()) % self.rules.len();
            assert!(self.nat.remove_forward(self.rules.swap_remove(place)));
        }
    }
}

fn settings(data: &mut Data<'_>) -> Config {
    let (bits, more) = (data.byte(), data.byte());
    let is_set = |bit| bits & bit != 0;
    let mut config = Config { mtu: data.pick(&[1500, 576, 1280, 9000, 65521]), ..Config::default() };
    if is_set(1) || config.mtu < 1280 {
        config.ipv6 = None;
    } else if is_set(2) {
        config.ipv4 = false;
    }
    if is_set(4) && config.ipv6.is_some() {
        config.ipv6 = Some(Ipv6::of_network("fec0::/96".parse().expect("a network")));
    }
    config.restrict = is_set(8);
    config.tftp = (!is_set(16)).then(|| "/srv".into());
    config.dns_relay = !is_set(32);
    config.host_loopback = !is_set(64);
    if more & 1 != 0 && config.ipv4 {
        let rules = ["tcp::2222-:22", "udp::5353-:53", "udp::5354-10.0.2.200:53", "tcp::2223-10.0.2.200:22"];
        config.forwards = rules.map(|rule| rule.parse().expect("a rule")).to_vec();
    }
    if more & 2 != 0 && config.ipv4 {
        let rules = ["::80-tcp:127.0.0.1:8080", ":10.0.2.9:25-tcp:127.0.0.1:81"];
        config.guest_forwards = rules.map(|rule| rule.parse().expect("a rule")).to_vec();
    }
    if more & 4 != 0 {
        config.bootfile = Some("menu.ipxe".into());
        config.tftp_server_name = Some("n".repeat(200));
    }
    if more & 8 != 0 {
        let name = |number| format!("{}.{number}.example", "x".repeat(60)).parse().expect("a name");
        config.search = (0..40).map(name).collect();
    }
    config
}

fn mac(number: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, number])
}

fn guest_v4(data: &mut Data<'_>) -> Ipv4Addr {
    match data.byte() {
        byte @ ..16 => Ipv4Addr::new(10, 0, 2, 15 + byte),
        16 => Ipv4Addr::UNSPECIFIED,
        byte => Ipv4Addr::new(10, 0, 2, byte),
    }
}

fn remote_v4(data: &mut Data<'_>) -> Ipv4Addr {
    match data.byte() {
        ..64 => REMOTE,
        64..96 => GATEWAY,
        96..112 => Ipv4Addr::new(10, 0, 2, 3),
        112 => Ipv4Addr::BROADCAST,
        113 => Ipv4Addr::new(10, 0, 2, 255),
        114 => Ipv4Addr::LOCALHOST,
        115 => Ipv4Addr::new(224, 0, 0, 1),
        116..124 => Ipv4Addr::new(10, 0, 2, 4),
        124..128 => Ipv4Addr::new(10, 0, 2, 9),
        128 => Ipv4Addr::UNSPECIFIED,
        129..160 => Ipv4Addr::new(10, 0, 2, data.byte()),
        _ => Ipv4Addr::from(u32::from(data.word()) << 16 | u32::from(data.word())),
    }
}

fn remote_v6(data: &mut Data<'_>) -> Ipv6Addr {
    match data.byte() {
        ..64 => address6("2001:db8::80"),
        64..96 => address6("fec0::2"),
        96..112 => address6("fec0::3"),
        112..120 => address6("fe80::2"),
        120 => address6("ff02::1"),
        121 => address6("ff02::2"),
        122 => address6(ALL_DHCP),
        123 => Ipv6Addr::LOCALHOST,
        124 => Ipv6Addr::UNSPECIFIED,
        125 => address6("::ffff:192.0.2.80"),
        126 => address6("fec0::99"),
        _ => Ipv6Addr::from(std::array::from_fn(|_| data.byte())),
    }
}

fn remote(data: &mut Data<'_>) -> IpAddr {
    if data.flag() { remote_v6(data).into() } else { remote_v4(data).into() }
}

fn port(data: &mut Data<'_>) -> u16 {
    data.pick(&[80, 7, 81, 82, 83, 53, 69, 67, 547, 25, 0, 9, 22, 4242])
}

fn packet_v4(mac: MacAddr) -> Packet {
    Packet { mac, from: GUEST.into(), to: REMOTE.into(), protocol: UDP, hops: 64, fragment: None }
}

fn packet_v6(mac: MacAddr) -> Packet {
    let (from, to) = (address6("fec0::15").into(), address6("2001:db8::80").into());
    Packet { from, to, ..packet_v4(mac) }
}

/// A packet from a guest to anywhere.
fn packet(data: &mut Data<'_>) -> Packet {
    let bits = data.byte();
    let hops = if bits & 6 == 6 { data.byte() } else { 64 };
    let mac = mac(bits >> 6);
    if bits & 1 == 0 {
        Packet { from: guest_v4(data).into(), to: remote_v4(data).into(), hops, ..packet_v4(mac) }
    } else {
        let from = data.pick(&["fec0::15", "fec0::16", "fe80::15", "::", "fec0::1234"]);
        Packet { from: address6(from).into(), to: remote_v6(data).into(), hops, ..packet_v6(mac) }
    }
}

/// A packet to one of the NAT's own addresses.
fn server(data: &mut Data<'_>, number: u8) -> Packet {
    let bits = data.byte();
    match Family::of(if bits & 1 == 0 { GUEST.into() } else { Ipv6Addr::LOCALHOST.into() }) {
        Family::V4 => Packet { to: [10, 0, 2, number].into(), ..packet_v4(mac(bits >> 6)) },
        Family::V6 => {
            let to = Ipv6Addr::from([0xfec0, 0, 0, 0, 0, 0, 0, number.into()]);
            Packet { to: to.into(), ..packet_v6(mac(bits >> 6)) }
        }
    }
}

/// A message of a TFTP client.
fn tftp(data: &mut Data<'_>) -> Vec<u8> {
    match data.byte() % 8 {
        0..3 => {
            let mut request = vec![0, 1];
            let names: [&[u8]; 7] = [b"file", b"none", b"long", b"broken", b"/file", b"../file", b"absent"];
            let name = data.pick(&names);
            let modes: [&[u8]; 3] = [b"octet", b"netascii", b"mail"];
            let mode = data.pick(&modes);
            request.extend([name, &[0], mode, &[0]].concat());
            for _ in 0..data.byte() % 5 {
                let options: [&[u8]; 5] = [b"blksize", b"windowsize", b"timeout", b"tsize", b"Multicast"];
                let option = data.pick(&options);
                let value = data.word().to_string();
                request.extend([option, &[0], value.as_bytes(), &[0]].concat());
            }
            request
        }
        3..6 => [&[0, 4][..], &data.word().to_be_bytes()].concat(),
        6 => vec![0, data.byte() & 7, 0, 0, 0],
        _ => data.piece().to_vec(),
    }
}

/// A TCP header with options from the input, its checksum still to be filled in.
fn segment(ports: (u16, u16), numbers: (u32, u32), flags: u8, data: &mut Data<'_>) -> Vec<u8> {
    let mut options = match data.byte() & 3 {
        0 => vec![2, 4, 5, 0xb4],
        1 => [&[2, 4][..], &data.word().to_be_bytes(), &[3, 3, data.byte(), 1]].concat(),
        2 => data.piece().to_vec(),
        _ => Vec::new(),
    };
    options.truncate(40);
    options.resize(options.len().next_multiple_of(4), 0);
    let mut segment = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([((20 + options.len()) as u8 / 4) << 4, flags]);
    let window = data.byte();
    let window = if window == 255 { data.word() } else { u16::MAX - u16::from(window) * 256 };
    segment.extend(window.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment
}
