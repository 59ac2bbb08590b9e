//! One TCP connection with a guest: a smoltcp interface and a socket set of one socket, so that the cost of a packet
//! does not grow with the number of connections.
//!
//! smoltcp sees IP packets. It neither fills in nor verifies TCP checksums: `tcp` verifies what comes in and leaves
//! partial, or fills in, what goes out. With segmentation it emits nearly 64 KiB at once and says how to cut them.
//!
//! Settings, and why (smoltcp 0.14): no Nagle and no delayed ACK unless `tcp` asks for one, because both hold up a lone
//! segment of 64 KiB or the tail of a transfer by 10 ms or a round trip; any-IP, because the far ends of a NAT have every
//! address.
//!
//! smoltcp's segmentation over IPv6 drops every packet longer than the MTU. So there the MTU is declared as long as a
//! packet can be, and what smoltcp does with the real one is done here: the segment size in a SYN of the guest's is
//! bounded before smoltcp sees it, that in ours is written behind smoltcp's back, and the size to cut at follows.
//!
//! A stack is used for one connection after the other; `listen` and `connect` begin a new one.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use crate::host::Family;
use crate::memory::Mapping;
use crate::wire::{IPV4, IPV6, be16};

/// Bytes of each ring. The one towards the host is also the receive window: 718 segments of MTU 1500, so that a guest
/// cannot overrun the queue of 1000 packets that a TAP has.
pub(crate) const RING: usize = 1 << 20;

/// Bytes of the rings that a stack may keep which waits for its next connection.
const BULKY: usize = 64 << 10;

/// What one emission is bounded by: the longest IPv4 packet.
const MAX_PACKET: usize = 65535;

/// The longest IPv6 packet.
const MAX_PACKET_IPV6: usize = IPV6 + 65535;

/// Bytes of the TCP header that smoltcp emits behind the handshake.
const TCP_HEADER: usize = 20;

/// What a guest takes that names no segment size, as smoltcp has it (RFC 9293 §3.7.1).
const DEFAULT_MSS: u16 = 536;

/// The smallest segment size that smoltcp obeys.
const MIN_MSS: u16 = 48;

/// What a connection's packets look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub family: Family,
    /// Bytes of IP packet, if it is not to be segmented.
    pub mtu: u16,
    /// The guest's side cuts segments itself.
    pub segmentation: bool,
}

impl Shape {
    fn capabilities(self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::ignored();
        checksum.ipv4 = Checksum::Tx;
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu.into();
        capabilities.checksum = checksum;
        let longest = NonZeroUsize::new(self.longest()).filter(|_| self.segmentation);
        match self.family {
            Family::V4 => capabilities.segmentation.tcpv4 = longest,
            Family::V6 => capabilities.segmentation.tcpv6 = longest,
        }
        if self.hides_mtu() {
            capabilities.max_transmission_unit = MAX_PACKET_IPV6;
        }
        capabilities
    }

    /// Whether smoltcp is told another MTU than the link has.
    fn hides_mtu(self) -> bool {
        self.segmentation && self.family == Family::V6
    }

    /// Bytes of the IP header.
    pub(crate) fn header(self) -> usize {
        match self.family {
            Family::V4 => IPV4,
            Family::V6 => IPV6,
        }
    }

    /// The longest payload of one segment.
    fn segment(self) -> u16 {
        self.mtu - (self.header() + TCP_HEADER) as u16
    }

    /// The longest packet to be segmented: as many full segments as fit, so that none is cut off a tail of a few bytes.
    fn longest(self) -> usize {
        let (headers, segment) = (self.header() + TCP_HEADER, usize::from(self.segment()));
        headers + (MAX_PACKET - headers) / segment * segment
    }
}

/// A packet that was emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    /// Bytes of IP packet.
    pub len: usize,
    /// The size to cut the payload into, if it is to be cut.
    pub segment: Option<u16>,
}

/// The connection.
pub(crate) struct Stack {
    interface: Interface,
    shape: Shape,
    /// The longest segment that the guest takes, within the MTU.
    mss: u16,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    /// Bytes moved since the rings' memory was last given back: a bound on what has been touched.
    moved: usize,
    // Behind the socket that uses them: fields are dropped in this order.
    rings: [Mapping; 2],
}

impl Stack {
    pub(crate) fn new(shape: Shape, seed: u64, now: Instant) -> io::Result<Self> {
        let mut rings = [Mapping::new(RING)?, Mapping::new(RING)?];
        let [rx, tx] = &mut rings;
        // SAFETY: the only slice of this mapping; the socket that holds it is dropped before `rings`.
        let rx = unsafe { rx.slice() };
        // SAFETY: as above.
        let tx = unsafe { tx.slice() };
        let mut socket = Socket::new(SocketBuffer::new(rx), SocketBuffer::new(tx));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let interface = interface(shape, seed, now);
        Ok(Self { interface, shape, mss: DEFAULT_MSS, sockets, handle, moved: 0, rings })
    }

    /// Makes an idle stack ready for another connection.
    pub(crate) fn renew(&mut self, shape: Shape, seed: u64, now: Instant) {
        self.shape = shape;
        self.mss = DEFAULT_MSS;
        self.interface = interface(shape, seed, now);
        self.socket_mut().set_ack_delay(None);
    }

    /// Lets the acknowledgement of what comes next wait for data to ride on, if none waits yet. More than one segment's
    /// bytes do not wait (RFC 9293 §3.8.6.3).
    pub(crate) fn delay_acknowledgement(&mut self, by: Duration) {
        // Not None, which would let one that waits already wait for its time whatever comes.
        self.socket_mut().set_ack_delay(Some(by.into()));
    }

    /// Takes over a change of what the guest's side accepts.
    pub(crate) fn reshape(&mut self, shape: Shape, seed: u64, now: Instant) {
        if self.shape != shape {
            self.shape = shape;
            self.interface = interface(shape, seed, now);
        }
    }

    /// Waits for the guest's SYN to this address; false if smoltcp cannot serve it (port 0).
    pub(crate) fn listen(&mut self, at: SocketAddr) -> bool {
        let socket = self.socket_mut();
        socket.abort();
        socket.set_keep_alive(None);
        socket.listen(at).is_ok()
    }

    /// Connects to the guest; false if smoltcp cannot (port 0).
    pub(crate) fn connect(&mut self, from: SocketAddr, to: SocketAddr) -> bool {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        socket.abort();
        socket.set_keep_alive(None);
        socket.connect(self.interface.context(), to, from).is_ok()
    }

    /// Takes a packet from the guest; an immediate answer is written into `out`.
    pub(crate) fn ingress(&mut self, now: Instant, packet: &[u8], out: &mut [u8]) -> Option<Emitted> {
        if self.shape.family == Family::V6 && is_syn(self.shape, packet) {
            let mut bounded = packet.to_vec();
            self.mss = bound_mss(self.shape, &mut bounded).unwrap_or(DEFAULT_MSS).max(MIN_MSS);
            return self.poll(now, Some(&bounded), out);
        }
        self.poll(now, Some(packet), out)
    }

    /// Writes the next packet for the guest into `out`, if there is one.
    pub(crate) fn egress(&mut self, now: Instant, out: &mut [u8]) -> Option<Emitted> {
        self.poll(now, None, out)
    }

    fn poll(&mut self, now: Instant, input: Option<&[u8]>, out: &mut [u8]) -> Option<Emitted> {
        let ingress = input.is_some();
        let mut device = Phy { input, output: Some(out), emitted: None, shape: self.shape };
        if ingress {
            self.interface.poll_ingress_single(now, &mut device, &mut self.sockets);
        } else {
            self.interface.poll_egress(now, &mut device, &mut self.sockets);
        }
        let emitted = device.emitted?;
        if !self.shape.hides_mtu() {
            return Some(emitted);
        }
        let packet = out.get_mut(..emitted.len)?;
        if is_syn(self.shape, packet) {
            bound_mss(self.shape, packet);
        }
        Some(Emitted { segment: self.cut(packet), ..emitted })
    }

    /// The size to cut a packet of smoltcp's at, if it is longer than the guest takes.
    fn cut(&self, packet: &[u8]) -> Option<u16> {
        let header = tcp_header_len(self.shape, packet)?;
        let payload = packet.len().checked_sub(self.shape.header() + header)?;
        // Options take from the payload's room.
        let segment = self.mss.saturating_sub((header - TCP_HEADER) as u16);
        (payload > usize::from(segment)).then_some(segment)
    }

    /// When [`Stack::egress`] is to be called again.
    pub(crate) fn deadline(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }

    /// Bytes from the guest that wait for the host.
    pub(crate) fn received(&self) -> usize {
        self.socket().recv_queue()
    }

    /// Bytes for the guest that it has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.socket().send_queue()
    }

    /// Whether bytes for the guest can be taken in.
    pub(crate) fn may_fill(&self) -> bool {
        self.socket().may_send()
    }

    /// Hands bytes from the guest to `take`, which says how many it took. None if there are none.
    pub(crate) fn drain(&mut self, take: impl FnOnce(&[u8]) -> io::Result<usize>) -> Option<io::Result<usize>> {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        if !socket.can_recv() {
            return None;
        }
        let taken: Result<_, RecvError> = socket.recv(|bytes| match take(bytes) {
            Ok(len) => (len.min(bytes.len()), Ok(len)),
            Err(error) => (0, Err(error)),
        });
        if let Ok(Ok(len)) = taken {
            self.moved += len;
        }
        taken.ok()
    }

    /// Lets `fill` put bytes for the guest into the ring; it says how many. None if there is no room.
    pub(crate) fn fill(&mut self, fill: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Option<io::Result<usize>> {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        if !socket.can_send() {
            return None;
        }
        let filled = socket.send(|room| {
            let len = room.len();
            match fill(room) {
                Ok(filled) => (filled.min(len), Ok(filled)),
                Err(error) => (0, Err(error)),
            }
        });
        if let Ok(Ok(len)) = filled {
            self.moved += len;
        }
        filled.ok()
    }

    /// Whether the rings hold memory.
    pub(crate) fn is_touched(&self) -> bool {
        self.moved > 0
    }

    /// Whether they hold more than a stack should that is not in use.
    pub(crate) fn is_bulky(&self) -> bool {
        self.moved > BULKY
    }

    /// Gives back the memory of the ring towards the guest, which must be empty; and that of the other one, if the
    /// caller knows that it is empty and has no hole: what came out of order lies outside of [`Stack::received`].
    pub(crate) fn release(&mut self, all: bool) {
        let [rx, tx] = &self.rings;
        tx.release();
        if all {
            rx.release();
        }
        self.moved = 0;
    }

    /// Asks the guest again and again whether it still has the connection, or no more.
    pub(crate) fn probe(&mut self, every: Option<Duration>) {
        self.socket_mut().set_keep_alive(every.map(Into::into));
    }

    /// Sends FIN behind the bytes in the ring.
    pub(crate) fn close(&mut self) {
        self.socket_mut().close();
    }

    /// Makes the next emission a reset.
    pub(crate) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get::<Socket<'static>>(self.handle)
    }

    fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'static>>(self.handle)
    }
}

fn is_syn(shape: Shape, packet: &[u8]) -> bool {
    const SYN: u8 = 0x02;
    packet.get(shape.header() + 13).is_some_and(|flags| flags & SYN != 0)
}

/// Bytes of a packet's TCP header, if they are there.
fn tcp_header_len(shape: Shape, packet: &[u8]) -> Option<usize> {
    let len = usize::from(packet.get(shape.header() + 12)? >> 4) * 4;
    (TCP_HEADER..=packet.len() - shape.header()).contains(&len).then_some(len)
}

/// Bounds the segment size in a SYN's options (RFC 9293 §3.2) by the MTU, and returns it if there is one.
fn bound_mss(shape: Shape, packet: &mut [u8]) -> Option<u16> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const MSS: u8 = 2;
    let options_at = shape.header() + TCP_HEADER;
    let end = shape.header() + tcp_header_len(shape, packet)?;
    let mut rest = packet.get_mut(options_at..end)?;
    loop {
        let step = match rest {
            [NOP, ..] => 1,
            [] | [END, ..] => return None,
            [MSS, 4, value @ ..] => {
                let mss = be16(value, 0).min(shape.segment());
                value.get_mut(..2)?.copy_from_slice(&mss.to_be_bytes());
                return Some(mss);
            }
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => return None,
        };
        rest = rest.get_mut(step..)?;
    }
}

fn interface(shape: Shape, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Phy { input: None, output: None, emitted: None, shape }, now);
    interface.set_any_ip(true);
    interface
}

/// The device of one call: one packet in at most, one out at most.
struct Phy<'a> {
    input: Option<&'a [u8]>,
    output: Option<&'a mut [u8]>,
    emitted: Option<Emitted>,
    shape: Shape,
}

impl Device for Phy<'_> {
    type RxToken<'b>
        = Rx<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Tx<'b>
    where
        Self: 'b;

    fn receive(&mut self, now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let input = self.input.take()?;
        Some((Rx(input), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        if self.emitted.is_some() {
            return None;
        }
        let output = self.output.as_deref_mut()?;
        Some(Tx { output, emitted: &mut self.emitted, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.shape.capabilities()
    }
}

struct Rx<'b>(&'b [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F>(self, f: F) -> R
    where
        F: FnOnce(&[u8]) -> R,
    {
        f(self.0)
    }
}

struct Tx<'b> {
    output: &'b mut [u8],
    emitted: &'b mut Option<Emitted>,
    segment: Option<u16>,
}

impl TxToken for Tx<'_> {
    fn consume<R, F>(self, len: usize, f: F) -> R
    where
        F: FnOnce(&mut [u8]) -> R,
    {
        // Emissions are bounded by MAX_PACKET, and `output` is that long.
        let result = f(&mut self.output[..len]);
        *self.emitted = Some(Emitted { len, segment: self.segment });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size.map(std::num::NonZeroU16::get);
    }
}
