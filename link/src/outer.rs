//! What links over UDP and IP have in common outside of their datagrams: hosts and ports, sockets, and the MTU that is
//! left for a frame.
//!
//! Names are resolved when a link is opened, once. A socket is connected wherever the far end is one address: the kernel
//! then refuses strangers before they cost anything, and tells of a far end that is not there.
//!
//! # Sizes
//!
//! A link states as its MTU what fits into one packet of the path, as far as the kernel knows the path when the link is
//! opened (the MTU of the route; 1500 bytes if it knows none), so that owners do not send what has to be fragmented. A
//! longer frame is sent all the same, in fragments of IP. Packets do not forbid fragmentation (no DF): a path that turns
//! out to be narrower costs time, not frames.
//!
//! Neighbours: `udp` and `mcast` here, `vxlan` and `l2tpv3` in `plug`.

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::datagram::JUMBO_MTU;
use crate::{DEFAULT_MTU, ETHERNET_HEADER_LEN};

/// Bytes of a UDP header (RFC 768).
pub const UDP_HEADER_LEN: usize = 8;
/// The smallest MTU that a link can state, in bytes: that of IPv4 (RFC 791).
pub const MIN_MTU: u16 = 68;

/// Why a link over datagrams cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatagramError {
    /// A name without an address.
    #[error("{link}: cannot find host '{host}': {}", crate::reason(.source))]
    Host {
        /// The link.
        link: String,
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// An address that is not what is needed there.
    #[error("{link}: {address} is {why}")]
    Address {
        /// The link.
        link: String,
        /// The address.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operating system refused.
    #[error("{link}: cannot {act}: {}{hint}", crate::reason(.source))]
    System {
        /// The link.
        link: String,
        /// What was to be done.
        act: String,
        /// What it said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
}

impl DatagramError {
    /// The operating system refused.
    #[must_use]
    pub fn system(link: &str, act: impl Into<String>, source: io::Error) -> Self {
        Self::System { link: link.to_owned(), act: act.into(), source, hint: "" }
    }
}

/// A host and a port, as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address; empty for any address of this host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Which addresses of a host count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// The first one, whatever it is.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// This one, or the other where this one is any.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::Any { other } else { self }
    }

    fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

impl Endpoint {
    /// Parses `HOST:PORT`, `:PORT` and `[IPV6]:PORT`; with a default port also `HOST` and a bare IPv6 address.
    ///
    /// # Errors
    /// What is expected there.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, &'static str> {
        const EXPECTED: &str = "expected HOST:PORT, with an IPv6 address in brackets";
        let new = |host: &str, port| Self { host: host.to_owned(), port };
        if let (Ok(address), Some(port)) = (text.parse::<Ipv6Addr>(), default_port) {
            return Ok(new(&address.to_string(), port));
        }
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or(EXPECTED)).transpose()? {
            Some((host, "")) => (host, None),
            Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(EXPECTED)?)),
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        if host.contains(':') && host.parse::<Ipv6Addr>().is_err() {
            return Err(EXPECTED);
        }
        match port {
            Some(port) => Ok(new(host, port.parse().map_err(|_| "expected a port from 0 to 65535 behind the colon")?)),
            None => default_port.map(|port| new(host, port)).ok_or(EXPECTED),
        }
    }

    /// The family of the other end's address, if this one's is certain.
    #[must_use]
    pub fn family(&self) -> Family {
        self.host.parse().map_or(Family::Any, Family::of)
    }

    /// Finds the address.
    ///
    /// # Errors
    /// [`DatagramError::Host`].
    pub fn resolve(&self, link: &str, family: Family) -> Result<SocketAddr, DatagramError> {
        if self.host.is_empty() {
            let any: IpAddr =
                if family == Family::V6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            return Ok(SocketAddr::new(any, self.port));
        }
        let error = |source| DatagramError::Host { link: link.to_owned(), host: self.host.clone(), source };
        let mut found = (self.host.as_str(), self.port).to_socket_addrs().map_err(error)?;
        found.find(|address| family.has(address)).ok_or_else(|| {
            let family = if family == Family::V6 { "it has no IPv6 address" } else { "it has no IPv4 address" };
            error(io::Error::other(family))
        })
    }
}

/// A UDP socket, bound to an address of this host and connected to a far one.
///
/// # Errors
/// The local address is taken, not this host's or the far one, or there is no route.
pub fn connected_udp(link: &str, local: SocketAddr, remote: SocketAddr) -> Result<Socket, DatagramError> {
    let socket = new_socket(link, remote, Type::DGRAM, Protocol::UDP)?;
    bind(link, &socket, local)?;
    connect(link, &socket, remote)?;
    let own = socket.local_addr().ok().and_then(|own| own.as_socket());
    if own == Some(remote) {
        let why = "its own address: what it sends would come back";
        return Err(DatagramError::Address { link: link.to_owned(), address: remote.to_string(), why });
    }
    Ok(socket)
}

/// A new socket of the family of an address, non-blocking, whose packets may be fragmented.
///
/// # Errors
/// The process may not have such a socket, or is out of descriptors.
pub fn new_socket(link: &str, like: SocketAddr, kind: Type, protocol: Protocol) -> Result<Socket, DatagramError> {
    let make = || {
        let socket = Socket::new(Domain::for_address(like), kind.nonblocking().cloexec(), Some(protocol))?;
        permit_fragments(&socket, like.is_ipv4())?;
        if like.is_ipv6() && kind == Type::DGRAM {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    make().map_err(|source: io::Error| {
        let hint = if source.kind() == io::ErrorKind::PermissionDenied { " (CAP_NET_RAW is needed)" } else { "" };
        DatagramError::System { link: link.to_owned(), act: "make a socket".to_owned(), source, hint }
    })
}

/// Binds a socket.
///
/// # Errors
/// The address is taken, or not this host's.
pub fn bind(link: &str, socket: &Socket, local: SocketAddr) -> Result<(), DatagramError> {
    let act = || format!("use {local} as its own address");
    socket.bind(&local.into()).map_err(|source| DatagramError::system(link, act(), source))
}

/// Connects a socket that is bound, and forgets what has come in between from others.
///
/// # Errors
/// There is no route.
pub fn connect(link: &str, socket: &Socket, remote: SocketAddr) -> Result<(), DatagramError> {
    let act = || format!("reach {remote}");
    socket.connect(&remote.into()).map_err(|source| DatagramError::system(link, act(), source))?;
    while socket.recv(&mut []).is_ok() {}
    Ok(())
}

/// The MTU that a link states: what was asked for, or what is left of the path's when `headers` bytes stand between the
/// outer IP header and the frame.
#[must_use]
pub fn mtu(asked: Option<u16>, path: Option<usize>, remote: IpAddr, headers: usize) -> u16 {
    let ip = if remote.is_ipv4() { 20 } else { 40 };
    let left = path.unwrap_or(DEFAULT_MTU.into()).saturating_sub(ip + headers + ETHERNET_HEADER_LEN);
    let left = u16::try_from(left).unwrap_or(JUMBO_MTU);
    asked.unwrap_or(left.clamp(MIN_MTU, JUMBO_MTU))
}

/// The MTU of the path to an address, in bytes, as far as the kernel knows it; none if there is no route now. `local` is
/// the address, and `device` the interface, that packets leave from.
#[must_use]
pub fn path_mtu(local: Option<IpAddr>, remote: SocketAddr, device: Option<&str>) -> Option<usize> {
    let socket = Socket::new(Domain::for_address(remote), Type::DGRAM, Some(Protocol::UDP)).ok()?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes())).ok()?;
    }
    if let Some(local) = local {
        socket.bind(&SocketAddr::new(local, 0).into()).ok()?;
    }
    // Any port but 0: nothing is sent.
    socket.connect(&SocketAddr::new(remote.ip(), 9).into()).ok()?;
    let (level, option) =
        if remote.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mut value: libc::c_int = 0;
    let mut len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the memory is as long as stated.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    usize::try_from(value).ok().filter(|mtu| result == 0 && *mtu > 0)
}

/// The number of an interface.
///
/// # Errors
/// There is none of that name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: the name ends with a NUL.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Leaves out DF, and has the host fragment by what it knows of the path.
fn permit_fragments(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    let (level, option, value) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is as long as stated.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        let parse = |text: &str, port| Endpoint::parse(text, port).map(|found| (found.host, found.port));
        let found = |host: &str, port| Ok((host.to_owned(), port));
        assert_eq!(parse("10.0.0.1:5000", None), found("10.0.0.1", 5000));
        assert_eq!(parse(":5000", None), found("", 5000));
        assert_eq!(parse("[fe80::1]:5000", None), found("fe80::1", 5000));
        assert_eq!(parse("[fe80::1]", Some(7)), found("fe80::1", 7));
        assert_eq!(parse("fe80::1", Some(7)), found("fe80::1", 7));
        assert_eq!(parse("host.example", Some(7)), found("host.example", 7));
        for text in ["host", "host:", "host:x", "host:65536", "fe80::1:5000x:", "[fe80::1", "[fe80::1]5000", "a:b:1"] {
            assert!(parse(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_resolved_in_the_family_that_is_needed() {
        let find = |text, family| Endpoint::parse(text, None).unwrap().resolve("udp://x", family);
        assert_eq!(find("127.0.0.1:1", Family::Any).unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(find(":1", Family::V6).unwrap().to_string(), "[::]:1");
        assert_eq!(find(":1", Family::V4).unwrap().to_string(), "0.0.0.0:1");
        let error = find("127.0.0.1:1", Family::V6).unwrap_err().to_string();
        assert_eq!(error, "udp://x: cannot find host '127.0.0.1': it has no IPv6 address");
    }

    #[test]
    fn the_mtu_is_what_the_path_leaves_for_a_frame() {
        let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
        // VXLAN's figures (RFC 7348 §4.3): 50 bytes of overhead, 70 over IPv6.
        assert_eq!(mtu(None, Some(1500), v4, 16), 1450);
        assert_eq!(mtu(None, None, v6, 16), 1430);
        assert_eq!(mtu(None, Some(65536), v4, 8), JUMBO_MTU);
        assert_eq!(mtu(None, Some(100), v4, 16), MIN_MTU);
        assert_eq!(mtu(Some(9000), Some(1500), v4, 16), 9000);
        // The loopback interface's is larger than any packet.
        assert_eq!(path_mtu(None, "127.0.0.1:1".parse().unwrap(), None), Some(65535));
    }
}
