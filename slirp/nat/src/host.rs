//! What the core asks of the operating system, and nothing more: the seam between the pure core and its edge.
//!
//! The core names every host socket itself, by a [`SocketId`]; the edge keeps the descriptor. No method blocks. A
//! socket that would have blocked says so by [`io::ErrorKind::WouldBlock`], and its readiness is reported later as a
//! [`Readiness`] to [`crate::Nat::ready`]. Readiness is a hint (it may be late, or spurious); only a changed state has
//! to be reported (edge-triggered).
//!
//! Neighbours: `sockets` implements this with real sockets, the tests with a model.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::guestfwd::Target;

/// What a host socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A TCP connection of the guest's, or to it.
    Tcp = 0,
    /// A UDP address of the guest's.
    Udp = 1,
    /// The echo requests of a guest with one identifier.
    Ping = 2,
    /// One question to a name server.
    Dns = 3,
    /// A forwarding rule: a listener (TCP) or a bound socket (UDP).
    Forward = 4,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Ping, Self::Dns, Self::Forward];
}

/// The core's name for a host socket. The edge may use it as an index: numbers are small and used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId {
    /// What it serves.
    pub kind: Kind,
    /// Its place in the table of that kind.
    pub index: u32,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// How a datagram socket is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// UDP, on any address of one family and any port, for talking with everyone.
    Unbound(Family),
    /// UDP, bound to this address (hostfwd), in its family alone.
    Bound(SocketAddr),
    /// UDP, connected to one address: only its datagrams arrive.
    Connected(SocketAddr),
    /// ICMP echo (`SOCK_DGRAM`, `IPPROTO_ICMP` or `IPPROTO_ICMPV6`; ping_group_range in icmp(7)).
    Ping(Family),
}

/// What has become possible with a host socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The socket.
    pub id: SocketId,
    /// There is something to receive, or to accept, or the end of it.
    pub readable: bool,
    /// There is room to send, or a connection was made or has failed.
    pub writable: bool,
    /// The far end sends no more; what it sent is still to be received.
    pub finished: bool,
    /// An error is pending.
    pub error: bool,
}

/// An ICMP error that came back for a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Where the datagram was sent to; the type and the code below are of this address's family.
    pub to: SocketAddr,
    /// Who rejected it, if the system knows.
    pub by: Option<IpAddr>,
    /// ICMP type: of RFC 792 (3 unreachable, 11 time exceeded) or RFC 4443 (1 unreachable, 2 too big, 3 time exceeded).
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// The next hop's MTU in bytes, if the packet was too big; else what the error has in its place.
    pub info: u32,
    /// The beginning of what was sent, as far as the error quotes it.
    pub quote: Vec<u8>,
}

/// The operating system, as the core sees it.
pub trait Host {
    /// Starts a TCP connection. Readiness tells when it is made or has failed.
    ///
    /// # Errors
    /// What connect(2) says at once; the socket does not exist then.
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> io::Result<()>;

    /// Starts a connection to what a guest forwarding rule leads to; it is known as a TCP connection from then on.
    ///
    /// # Errors
    /// What connect(2) says at once, or why the command cannot be started; the socket does not exist then.
    fn connect_target(&mut self, id: SocketId, target: &Target) -> io::Result<()>;

    /// Whether a connection under way is made.
    ///
    /// # Errors
    /// Why it failed.
    fn connected(&mut self, id: SocketId) -> io::Result<bool>;

    /// Listens for TCP connections, in the address's family alone; returns the address (port 0 asks for any).
    ///
    /// # Errors
    /// The address is in use or not ours.
    fn listen(&mut self, id: SocketId, at: SocketAddr) -> io::Result<SocketAddr>;

    /// Listens for connections at a Unix socket, whose file goes with it.
    ///
    /// # Errors
    /// Something is in the way, the path is too long, or there is no permission.
    fn listen_at(&mut self, id: SocketId, path: &Path) -> io::Result<()>;

    /// Takes a connection from `listener` as `id`; returns the far end's address, which is unspecified if it has none.
    ///
    /// # Errors
    /// None waits, or the process is out of descriptors.
    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<SocketAddr>;

    /// Receives from a connection; 0 is its end.
    ///
    /// # Errors
    /// Nothing there, or the connection is broken.
    fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize>;

    /// Sends into a connection.
    ///
    /// # Errors
    /// No room, or the connection is broken.
    fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize>;

    /// Says that nothing more will be sent (FIN).
    fn finish(&mut self, id: SocketId);

    /// Makes a datagram socket; returns its own address.
    ///
    /// # Errors
    /// Not permitted, or the address is in use, or the process is out of descriptors.
    fn datagram(&mut self, id: SocketId, how: Datagram) -> io::Result<SocketAddr>;

    /// Receives a datagram. One longer than the buffer is cut.
    ///
    /// # Errors
    /// Nothing there, or an ICMP error is to be fetched by [`Host::rejection`].
    fn receive_from(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Sends a datagram. `hops` is its TTL or hop limit; none says that it does not matter, for
    /// the datagram stays on the host or is the NAT's own.
    ///
    /// # Errors
    /// No route, too long, no room, or an ICMP error is to be fetched by [`Host::rejection`].
    fn send_to(&mut self, id: SocketId, data: &[u8], to: SocketAddr, hops: Option<u8>) -> io::Result<()>;

    /// The next ICMP error that came back for a datagram of this socket.
    fn rejection(&mut self, id: SocketId) -> Option<Rejection>;

    /// Closes a socket; what was sent still arrives. Unknown sockets are ignored.
    fn close(&mut self, id: SocketId);

    /// Closes a connection by a reset. Unknown sockets are ignored.
    fn reset(&mut self, id: SocketId);

    /// Opens a file of the folder that is served by TFTP, under a name of the core's; returns its length in bytes.
    /// `name` is relative to the folder. One that has the name already is closed.
    ///
    /// # Errors
    /// There is none, it is no regular file, may not be read, or lies outside of the folder.
    fn open_file(&mut self, file: u32, name: &[u8]) -> io::Result<u64>;

    /// Reads from such a file; fewer bytes than there is room for are its end.
    ///
    /// # Errors
    /// It can be read no more.
    fn read_file(&mut self, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Closes such a file. Unknown ones are ignored.
    fn close_file(&mut self, file: u32);

    /// The host's name servers, as its configuration has them now, best first.
    fn resolvers(&mut self) -> Vec<SocketAddr>;
}
