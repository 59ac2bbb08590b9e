//! For the tests: a guest with smoltcp as its TCP, a model of the operating system, and a lab that joins them.
//!
//! The model's peers are told by their port: 80 takes connections, 81 refuses, 82 is silent, 83 has no route, for 84 the
//! host has no address, and a datagram to port 9 comes back as "port unreachable". Time in a [`Lab`] is what the test
//! says it is.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use link::{Checksum, MacAddr, VnetHeader};
use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::config::Config;
use crate::env::Random;
use crate::guestfwd::Target;
use crate::host::{Datagram, Host, Kind, Readiness, Rejection, SocketId};
use crate::icmp;
use crate::nat::Nat;
use crate::wire::{self, ETHERNET, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ip, IpHeader, UDP};

pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub(crate) const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
pub(crate) const GUEST_MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([0x52, 0x55, 10, 0, 2, 2]);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0x15);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const DNS6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);
pub(crate) const REMOTE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80);
pub(crate) const GATEWAY6_MAC: MacAddr = MacAddr([0x52, 0x56, 0, 0, 0, 2]);

/// A guest: TCP by smoltcp, everything else as frames.
pub(crate) struct Guest {
    pub sockets: SocketSet<'static>,
    interface: Interface,
    wire: GuestWire,
    /// Frames that were neither TCP nor ARP nor between neighbours.
    pub others: VecDeque<Vec<u8>>,
    next_port: u16,
}

struct GuestWire {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    verify: bool,
}

impl Guest {
    pub(crate) fn new(verify: bool) -> Self {
        let mut wire = GuestWire { rx: VecDeque::new(), tx: VecDeque::new(), verify };
        let config = InterfaceConfig::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC.0)));
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap();
            addresses.push(IpCidr::new(GUEST6.into(), 64)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        interface.routes_mut().add_default_ipv6_route(GATEWAY6).unwrap();
        Self { sockets: SocketSet::new(Vec::new()), interface, wire, others: VecDeque::new(), next_port: 40000 }
    }

    fn socket() -> Socket<'static> {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 256 << 10]), SocketBuffer::new(vec![0; 256 << 10]));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket
    }

    pub(crate) fn connect(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        self.next_port = self.next_port.checked_add(1).unwrap_or(40000);
        let mut socket = Self::socket();
        socket.connect(self.interface.context(), to.into(), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let mut socket = Self::socket();
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Queues a frame of any kind.
    pub(crate) fn send(&mut self, frame: Vec<u8>) {
        self.wire.tx.push_back(frame);
    }

    fn receive(&mut self, frame: Vec<u8>) {
        let ethernet = Ethernet::parse(&frame).unwrap();
        let for_smoltcp = match ethernet.ethertype {
            ETHERTYPE_ARP => true,
            _ => {
                let ip = Ip::parse(ethernet.payload).unwrap();
                // Questions and answers of neighbours.
                let ndp = ip.protocol == wire::ICMPV6 && [135, 136].contains(&ip.payload[0]);
                ip.protocol == wire::TCP || ndp
            }
        };
        if for_smoltcp {
            self.wire.rx.push_back(frame);
        } else {
            self.others.push_back(frame);
        }
    }

    fn poll(&mut self, now: smoltcp::time::Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }
}

impl Device for GuestWire {
    type RxToken<'a> = GuestRx;
    type TxToken<'a> = GuestTx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(GuestRx, GuestTx<'_>)> {
        Some((GuestRx(self.rx.pop_front()?), GuestTx(&mut self.tx)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<GuestTx<'_>> {
        Some(GuestTx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        if !self.verify {
            capabilities.checksum = ChecksumCapabilities::ignored();
            capabilities.checksum.ipv4 = smoltcp::phy::Checksum::Both;
            capabilities.checksum.icmpv6 = smoltcp::phy::Checksum::Both;
            capabilities.checksum.tcp = smoltcp::phy::Checksum::Tx;
        }
        capabilities
    }
}

pub(crate) struct GuestRx(Vec<u8>);

impl RxToken for GuestRx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct GuestTx<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for GuestTx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// A guest behind a NAT.
pub(crate) struct Lab<H> {
    pub nat: Nat<H>,
    pub guest: Guest,
    pub now: Instant,
    start: Instant,
    /// Of a thousand frames, how many are lost each way, and how many change places with the next.
    pub loss: u64,
    pub swaps: u64,
    pub random: Random,
}

impl<H: Host> Lab<H> {
    pub(crate) fn with(config: Config, host: H) -> Self {
        let now = Instant::now();
        let nat = Nat::new(config, host, 1, now).unwrap();
        let mut lab = Self { nat, guest: Guest::new(true), now, start: now, loss: 0, swaps: 0, random: Random::new(7) };
        lab.guest.send(arp_request(GATEWAY));
        lab.guest.send(neighbour_solicitation(GUEST6, GATEWAY6));
        lab.step();
        // The first advertisement.
        lab.guest.others.clear();
        lab
    }

    /// Lets frames cross until neither side has more to say now.
    pub(crate) fn step(&mut self) {
        for _ in 0..10_000 {
            let micros = (self.now - self.start).as_micros() as i64 + 1;
            self.guest.poll(smoltcp::time::Instant::from_micros(micros));
            let frames = self.impair(|lab| lab.guest.wire.tx.pop_front());
            for frame in &frames {
                self.nat.input(self.now, &VnetHeader::WHOLE, frame);
            }
            self.nat.flush();
            let answers = self.impair(|lab| lab.nat.output(lab.now).map(|(header, frame)| complete(header, frame)));
            let quiet = frames.is_empty() && answers.is_empty();
            answers.into_iter().for_each(|frame| self.guest.receive(frame));
            if quiet {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    fn impair(&mut self, mut next: impl FnMut(&mut Self) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        while let Some(frame) = next(self) {
            if self.random.next() % 1000 < self.loss {
                continue;
            }
            frames.push(frame);
            if self.random.next() % 1000 < self.swaps && frames.len() > 1 {
                let last = frames.len() - 1;
                frames.swap(last - 1, last);
            }
            if frames.len() == 64 {
                break;
            }
        }
        frames
    }

    /// Lets time pass: to the next deadline of either side, `limit` at most.
    pub(crate) fn pass(&mut self, limit: Duration) {
        let micros = (self.now - self.start).as_micros() as i64 + 1;
        let guest = self
            .guest
            .interface
            .poll_delay(smoltcp::time::Instant::from_micros(micros), &self.guest.sockets)
            .map(|delay| self.now + Duration::from_micros(delay.total_micros()));
        let next = [self.nat.deadline(), guest].into_iter().flatten().min();
        let limit = self.now + limit;
        self.now = next.map_or(limit, |next| next.min(limit)).max(self.now);
        self.nat.expire(self.now);
        self.step();
    }

    /// Whether the NAT wakes nobody: all that is to be done is to look for silent guests, hours from now.
    pub(crate) fn is_idle(&self) -> bool {
        let hours = self.now + Duration::from_secs(3600);
        !self.nat.has_output() && self.nat.deadline().is_none_or(|at| at > hours)
    }

    /// Sends a frame and returns what comes back, TCP and neighbours' talk apart.
    pub(crate) fn exchange(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.guest.send(frame);
        self.step();
        self.guest.others.drain(..).collect()
    }
}

/// A frame with its checksum in, as a guest's driver has it after the card's work.
fn complete(header: VnetHeader, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if let Checksum::Partial { start, offset } = header.checksum {
        let (start, at) = (usize::from(start), usize::from(start + offset));
        let checksum = !wire::fold(wire::sum(&frame[start..]));
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

impl Lab<Model> {
    pub(crate) fn new() -> Self {
        Self::with(Config::default(), Model::default())
    }

    pub(crate) fn host(&mut self) -> &mut Model {
        self.nat.host_mut()
    }

    /// Reports what the model has ready, and lets frames cross.
    pub(crate) fn settle(&mut self) {
        self.step();
        while let Some(readiness) = self.host().events.pop_front() {
            self.nat.ready(self.now, readiness);
            self.step();
        }
    }
}

/// The model of the operating system.
#[derive(Default)]
pub(crate) struct Model {
    pub connections: HashMap<SocketId, Connection>,
    pub datagrams: HashMap<SocketId, DatagramSocket>,
    pub events: VecDeque<Readiness>,
    pub resolvers: Vec<SocketAddr>,
    /// Peers that wait at a listener.
    pub waiting: VecDeque<SocketAddr>,
    /// Every datagram that was sent.
    pub sent: Vec<(SocketId, Vec<u8>, SocketAddr)>,
    /// The hop limit of the last one.
    pub hops: Option<u8>,
    pub listeners: Vec<SocketId>,
    pub ping_forbidden: bool,
    pub sockets_left: Option<usize>,
    /// Files to be served, and those that are open.
    pub files: HashMap<Vec<u8>, Vec<u8>>,
    pub open_files: HashMap<u32, Vec<u8>>,
}

#[derive(Default)]
pub(crate) struct Connection {
    pub to: Option<SocketAddr>,
    pub refused: Option<i32>,
    pub established: bool,
    /// What the guest sent.
    pub sent: Vec<u8>,
    /// How much more may be sent before it blocks.
    pub room: Option<usize>,
    /// What is there for the guest.
    pub inbound: VecDeque<u8>,
    pub inbound_end: bool,
    pub broken: bool,
    pub finished: bool,
    pub was_reset: bool,
    pub closed: bool,
}

#[derive(Default)]
pub(crate) struct DatagramSocket {
    pub inbound: VecDeque<(Vec<u8>, SocketAddr)>,
    pub rejections: VecDeque<Rejection>,
}

pub(crate) fn readiness(id: SocketId) -> Readiness {
    Readiness { id, readable: true, writable: true, finished: false, error: false }
}

fn blocked<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

fn errno<T>(code: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(code))
}

impl Model {
    /// The only connection there is.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        let mut open: Vec<_> = self.connections.values_mut().filter(|c| !c.closed).collect();
        assert_eq!(open.len(), 1);
        open.remove(0)
    }

    /// The name of a connection that was not closed.
    pub(crate) fn open_ids(&self) -> Vec<SocketId> {
        self.connections.iter().filter(|(_, c)| !c.closed).map(|(id, _)| *id).collect()
    }

    /// Sockets of all kinds that were not closed.
    pub(crate) fn open(&self) -> usize {
        self.open_ids().len() + self.datagrams.len()
    }

    fn charge(&mut self) -> io::Result<()> {
        match &mut self.sockets_left {
            Some(0) => errno(libc::EMFILE),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn live(&mut self, id: SocketId) -> io::Result<&mut Connection> {
        self.connections.get_mut(&id).filter(|c| !c.closed).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Host for Model {
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> io::Result<()> {
        self.charge()?;
        let mut connection = Connection { to: Some(to), ..Connection::default() };
        match to.port() {
            81 => connection.refused = Some(libc::ECONNREFUSED),
            82 => {}
            83 => return errno(libc::ENETUNREACH),
            84 => return errno(libc::EADDRNOTAVAIL),
            _ => connection.established = true,
        }
        if to.port() != 82 {
            self.events.push_back(readiness(id));
        }
        self.connections.insert(id, connection);
        Ok(())
    }

    fn connect_target(&mut self, id: SocketId, target: &Target) -> io::Result<()> {
        match target {
            Target::Tcp(address) => self.connect(id, *address),
            Target::Unix(_) => errno(libc::ECONNREFUSED),
            Target::Command(_) | Target::Share => {
                self.connections.insert(id, Connection { established: true, ..Connection::default() });
                self.events.push_back(readiness(id));
                Ok(())
            }
        }
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        let connection = self.live(id)?;
        match connection.refused {
            Some(code) => errno(code),
            None => Ok(connection.established),
        }
    }

    fn listen(&mut self, id: SocketId, at: SocketAddr) -> io::Result<SocketAddr> {
        self.listeners.push(id);
        Ok(at)
    }

    fn listen_at(&mut self, id: SocketId, _: &Path) -> io::Result<()> {
        self.listeners.push(id);
        Ok(())
    }

    fn accept(&mut self, _: SocketId, id: SocketId) -> io::Result<SocketAddr> {
        self.charge()?;
        let Some(peer) = self.waiting.pop_front() else { return blocked() };
        self.connections.insert(id, Connection { established: true, ..Connection::default() });
        Ok(peer)
    }

    fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty());
        let connection = self.live(id)?;
        if connection.broken {
            return errno(libc::ECONNRESET);
        }
        if connection.inbound.is_empty() {
            return if connection.inbound_end { Ok(0) } else { blocked() };
        }
        let len = buffer.len().min(connection.inbound.len());
        for (to, from) in buffer.iter_mut().zip(connection.inbound.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }

    fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize> {
        let connection = self.live(id)?;
        if connection.broken {
            return errno(libc::EPIPE);
        }
        let len = data.len().min(connection.room.unwrap_or(usize::MAX));
        if len == 0 {
            return blocked();
        }
        if let Some(room) = &mut connection.room {
            *room -= len;
        }
        connection.sent.extend(&data[..len]);
        Ok(len)
    }

    fn finish(&mut self, id: SocketId) {
        if let Ok(connection) = self.live(id) {
            connection.finished = true;
        }
    }

    fn datagram(&mut self, id: SocketId, how: Datagram) -> io::Result<SocketAddr> {
        self.charge()?;
        if matches!(how, Datagram::Ping(_)) && self.ping_forbidden {
            return errno(libc::EACCES);
        }
        self.datagrams.insert(id, DatagramSocket::default());
        Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 5000))
    }

    fn receive_from(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let Some(socket) = self.datagrams.get_mut(&id) else { return errno(libc::EBADF) };
        if !socket.rejections.is_empty() {
            return errno(libc::ECONNREFUSED);
        }
        let Some((data, from)) = socket.inbound.pop_front() else { return blocked() };
        let len = data.len().min(buffer.len());
        buffer[..len].copy_from_slice(&data[..len]);
        Ok((len, from))
    }

    fn send_to(&mut self, id: SocketId, data: &[u8], to: SocketAddr, hops: Option<u8>) -> io::Result<()> {
        let Some(socket) = self.datagrams.get_mut(&id) else { return errno(libc::EBADF) };
        self.hops = hops;
        if to.port() == 9 {
            let (icmp_type, icmp_code) = if to.is_ipv4() { (3, 3) } else { (1, 4) };
            let quote = data.to_vec();
            socket.rejections.push_back(Rejection { to, by: None, icmp_type, icmp_code, info: 0, quote });
            self.events.push_back(Readiness { error: true, ..readiness(id) });
        }
        self.sent.push((id, data.to_vec(), to));
        Ok(())
    }

    fn rejection(&mut self, id: SocketId) -> Option<Rejection> {
        self.datagrams.get_mut(&id)?.rejections.pop_front()
    }

    fn close(&mut self, id: SocketId) {
        match id.kind {
            Kind::Tcp => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.closed = true;
                }
            }
            _ => drop(self.datagrams.remove(&id)),
        }
    }

    fn reset(&mut self, id: SocketId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.was_reset = true;
            connection.closed = true;
        }
    }

    fn open_file(&mut self, file: u32, name: &[u8]) -> io::Result<u64> {
        self.charge()?;
        let Some(bytes) = self.files.get(name) else { return errno(libc::ENOENT) };
        self.open_files.insert(file, bytes.clone());
        Ok(bytes.len() as u64)
    }

    fn read_file(&mut self, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(bytes) = self.open_files.get(&file) else { return errno(libc::EIO) };
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn close_file(&mut self, file: u32) {
        self.open_files.remove(&file);
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.clone()
    }
}

/// A frame from the guest to the gateway's Ethernet address.
pub(crate) fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET];
    let to = if ethertype == ETHERTYPE_IPV6 { GATEWAY6_MAC } else { GATEWAY_MAC };
    wire::put_ethernet(&mut frame, to, GUEST_MAC, ethertype);
    frame.extend(payload);
    frame
}

/// The guest's address that talks with another one.
pub(crate) fn guest_for(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { GUEST.into() } else { GUEST6.into() }
}

pub(crate) fn packet(to: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let to = to.into();
    packet_from(guest_for(to), to, protocol, payload)
}

pub(crate) fn packet_from(from: impl Into<IpAddr>, to: impl Into<IpAddr>, protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet_of(IpHeader::whole(from, to, protocol, 0), payload)
}

/// A frame with exactly this header.
pub(crate) fn packet_of(header: IpHeader, payload: &[u8]) -> Vec<u8> {
    frame(header.ethertype(), &header.over(payload))
}

pub(crate) fn datagram(from_port: u16, to: impl Into<SocketAddr>, payload: &[u8]) -> Vec<u8> {
    let to = to.into();
    packet(to.ip(), wire::UDP_PROTOCOL, &datagram_bytes(from_port, to, payload))
}

/// A datagram of the guest's, from its UDP header on.
pub(crate) fn datagram_bytes(from_port: u16, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0; UDP];
    datagram.extend(payload);
    wire::put_udp(&mut datagram, from_port, to.port(), payload.len());
    wire::fill_udp_checksum(guest_for(to.ip()), to.ip(), &mut datagram);
    datagram
}

pub(crate) fn echo_request(to: impl Into<IpAddr>, ident: u16, payload: &[u8]) -> Vec<u8> {
    let to = to.into();
    let (kind, protocol) = if to.is_ipv4() { (8, wire::ICMP) } else { (128, wire::ICMPV6) };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message[4..6].copy_from_slice(&ident.to_be_bytes());
    message.extend(payload);
    icmp::put_checksum(guest_for(to), to, &mut message);
    packet(to, protocol, &message)
}

/// A frame of neighbour discovery: for a group, if `to` is one.
pub(crate) fn ndp(from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    icmp::put_checksum(from.into(), to.into(), &mut message);
    let mut frame =
        packet_of(IpHeader { hop_limit: wire::ON_LINK, ..IpHeader::whole(from, to, wire::ICMPV6, 0) }, &message);
    if to.is_multicast() {
        frame[..6].copy_from_slice(&wire::multicast_mac(to).0);
    }
    frame
}

/// A question for `target`, sent to its group; from a guest that has no address yet, if `from` is unspecified.
pub(crate) fn neighbour_solicitation(from: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if !from.is_unspecified() {
        message.extend([1, 1]);
        message.extend(GUEST_MAC.0);
    }
    let [.., a, b, c] = target.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
    ndp(from, group.into(), message)
}

pub(crate) fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(GUEST_MAC.0);
    packet.extend(GUEST.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    let mut frame = frame(ETHERTYPE_ARP, &packet);
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame
}

/// A DHCP message with these options behind its type.
pub(crate) fn dhcp(kind: u8, mac: MacAddr, client: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(b"xid!");
    message[12..16].copy_from_slice(&client.octets());
    message[28..34].copy_from_slice(&mac.0);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(options);
    message.push(255);
    let mut datagram = vec![0; UDP];
    wire::put_udp(&mut datagram, 68, 67, message.len());
    datagram.extend(message);
    let mut frame = packet_from(client, Ipv4Addr::BROADCAST, wire::UDP_PROTOCOL, &datagram);
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&mac.0);
    frame
}

/// What a frame carries behind its IPv4 header: protocol, addresses, payload.
pub(crate) fn parse(frame: &[u8]) -> (u8, Ipv4Addr, Ipv4Addr, Vec<u8>) {
    match parse_any(frame) {
        (protocol, IpAddr::V4(from), IpAddr::V4(to), payload) => (protocol, from, to, payload),
        _ => panic!("not IPv4: {frame:x?}"),
    }
}

/// The same for both versions of IP.
pub(crate) fn parse_any(frame: &[u8]) -> (u8, IpAddr, IpAddr, Vec<u8>) {
    let ethernet = Ethernet::parse(frame).unwrap();
    let ip = Ip::parse(ethernet.payload).unwrap();
    assert_eq!(ethernet.ethertype == ETHERTYPE_IPV4, ip.from.is_ipv4());
    (ip.protocol, ip.from, ip.to, ip.payload.to_vec())
}

/// Option `code` of a DHCP message in a frame.
pub(crate) fn dhcp_option(frame: &[u8], code: u8) -> Option<Vec<u8>> {
    let (_, _, _, datagram) = parse(frame);
    let mut rest = datagram.get(8 + 240..)?;
    while let [found, len, tail @ ..] = rest {
        if *found == 255 {
            break;
        }
        if *found == code {
            return Some(tail[..usize::from(*len)].to_vec());
        }
        rest = &tail[usize::from(*len)..];
    }
    None
}

/// A lease and a ping: the NAT lives.
pub(crate) fn prove_life(lab: &mut Lab<Model>) {
    lab.guest.others.clear();
    lab.step();
    lab.guest.others.clear();
    let mac = MacAddr([2, 0, 0, 0, 9, 9]);
    lab.now += Duration::from_secs(48 * 3600);
    lab.nat.expire(lab.now);
    let offers = lab.exchange(dhcp(1, mac, Ipv4Addr::UNSPECIFIED, &[]));
    assert!(offers.iter().any(|frame| dhcp_option(frame, 53) == Some(vec![2])));
    lab.exchange(arp_request(GATEWAY));
    assert!(!lab.exchange(echo_request(GATEWAY, 5, b"alive")).is_empty());
}

/// Bytes without a pattern of their own, the same every time.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut random = Random::new(3);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Moves `data` both ways at once and returns what arrived: at the host, at the guest.
pub(crate) fn transfer(lab: &mut Lab<Model>, handle: SocketHandle, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let id = lab.host().open_ids()[0];
    lab.host().connection().inbound = data.iter().copied().collect();
    let (mut got, mut given) = (Vec::new(), 0);
    lab.nat.ready(lab.now, readiness(id));
    for _ in 0..200_000 {
        let socket = lab.guest.tcp(handle);
        if socket.can_send() && given < data.len() {
            given += socket.send_slice(&data[given..]).unwrap();
        }
        while socket.can_recv() {
            got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
        }
        lab.step();
        if got.len() == data.len() && lab.host().connection().sent.len() == data.len() {
            break;
        }
        lab.pass(Duration::from_millis(1));
    }
    (lab.host().connection().sent.clone(), got)
}
