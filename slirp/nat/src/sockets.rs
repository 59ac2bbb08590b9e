//! The one file with host sockets: [`Host`] over non-blocking sockets of the system's and an epoll instance.
//!
//! Every socket is registered once, edge-triggered, under a token that is its [`SocketId`]. [`Sockets::poll`] drains the
//! epoll instance without waiting, so the instance itself can be registered, edge-triggered, with an outer event loop.
//! Datagram sockets are watched for reading only: the kernel would report room for writing after every datagram sent.
//!
//! Documented in: socket(7), tcp(7), udp(7), icmp(7); ip(7) for `IP_RECVERR`, by which a socket that is not connected
//! learns of ICMP errors; unix(7); resolv.conf(5).

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link::socket_file::{self, SocketError as SocketFileError, SocketFile};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::host::{Datagram, Host, Kind, Readiness, Rejection, SocketId};

/// Events taken out of the epoll instance at a time.
const EVENTS: usize = 256;

/// Connections that wait to be accepted: the kernel's own bound is lower, or it is this.
const BACKLOG: i32 = 4096;

/// Name servers looked at, as resolv.conf(5) has it.
const MAX_RESOLVERS: usize = 3;

/// The epoll instance cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("host sockets: cannot make an epoll instance: {}", link::reason(.0))]
pub struct SocketError(#[from] io::Error);

/// The host's sockets.
pub struct Sockets {
    poll: Poll,
    events: Events,
    tables: [Vec<Option<Socket>>; Kind::ALL.len()],
    resolver: ResolvConf,
    /// The address that connections and datagrams leave from, if the system is not to choose.
    source: Option<Ipv4Addr>,
    /// Files of Unix sockets that listen.
    files: HashMap<SocketId, SocketFile>,
}

impl Sockets {
    /// No socket yet.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> Result<Self, SocketError> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            tables: Default::default(),
            resolver: ResolvConf::new(PathBuf::from("/etc/resolv.conf")),
            source: None,
            files: HashMap::new(),
        })
    }

    /// Reads the name servers from another file than `/etc/resolv.conf`.
    #[must_use]
    pub fn with_resolv_conf(mut self, path: &Path) -> Self {
        self.resolver = ResolvConf::new(path.to_owned());
        self
    }

    /// Lets what guests send over IPv4 leave from this address of the host's.
    #[must_use]
    pub fn with_source(mut self, source: Option<Ipv4Addr>) -> Self {
        self.source = source;
        self
    }

    /// Appends what has become ready to `out`, without waiting.
    ///
    /// # Errors
    /// The epoll instance is broken.
    pub fn poll(&mut self, out: &mut Vec<Readiness>) -> io::Result<()> {
        self.wait(Some(Duration::ZERO), out)
    }

    /// The same, but waits for something to become ready, `timeout` at most.
    ///
    /// # Errors
    /// The epoll instance is broken.
    pub fn wait(&mut self, mut timeout: Option<Duration>, out: &mut Vec<Readiness>) -> io::Result<()> {
        loop {
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let before = out.len();
            out.extend(self.events.iter().filter_map(|event| {
                let finished = event.is_read_closed() || event.is_write_closed();
                Some(Readiness {
                    id: id(event.token())?,
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    finished,
                    error: event.is_error(),
                })
            }));
            if out.len() - before < EVENTS {
                return Ok(());
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// How many sockets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.iter().flatten().flatten().count()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, id: SocketId) -> io::Result<&Socket> {
        let socket = self.tables[id.kind as usize].get(id.index as usize).and_then(Option::as_ref);
        socket.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Registers a socket and keeps it under its name; one that has it already is closed.
    fn keep(&mut self, id: SocketId, socket: Socket) -> io::Result<()> {
        let interest = match id.kind {
            Kind::Tcp => Interest::READABLE | Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        self.poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), token(id), interest)?;
        let table = &mut self.tables[id.kind as usize];
        let index = id.index as usize;
        if table.len() <= index {
            table.resize_with(index + 1, || None);
        }
        table[index] = Some(socket);
        Ok(())
    }

    fn take(&mut self, id: SocketId) -> Option<Socket> {
        if id.kind == Kind::Forward {
            self.files.remove(&id);
        }
        // Closing a descriptor takes it out of the epoll instance (epoll(7)): it has no duplicates.
        self.tables[id.kind as usize].get_mut(id.index as usize)?.take()
    }
}

impl AsRawFd for Sockets {
    /// The epoll instance, to be registered with an outer event loop.
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}

impl Host for Sockets {
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> io::Result<()> {
        let socket = new_socket(Domain::for_address(to), Type::STREAM, None)?;
        // What the guest sends goes out at once, as it would on its own.
        socket.set_tcp_nodelay(true)?;
        if let (Some(source), true) = (self.source, to.is_ipv4()) {
            socket.bind(&SocketAddrV4::new(source, 0).into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.keep(id, socket)
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        let socket = self.get(id)?;
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn listen(&mut self, id: SocketId, at: SocketAddrV4) -> io::Result<SocketAddrV4> {
        let socket = new_socket(Domain::IPV4, Type::STREAM, None)?;
        // Connections of a former run in TIME-WAIT do not hold the port.
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        let address = local_address(&socket)?;
        self.keep(id, socket)?;
        Ok(address)
    }

    fn listen_at(&mut self, id: SocketId, path: &Path) -> io::Result<()> {
        const MODE: u32 = 0o600;
        let path = std::path::absolute(path)?;
        let (socket, file) = socket_file::listen(path, MODE, None, BACKLOG).map_err(into_io)?;
        self.keep(id, socket.into())?;
        self.files.insert(id, file);
        Ok(())
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<SocketAddrV4> {
        let (socket, peer) = self.get(listener)?.accept_raw()?;
        socket.set_nonblocking(true)?;
        socket.set_cloexec(true)?;
        let peer = if peer.is_unix() {
            SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)
        } else {
            socket.set_tcp_nodelay(true)?;
            peer.as_socket_ipv4().ok_or(io::ErrorKind::Unsupported)?
        };
        self.keep(id, socket)?;
        Ok(peer)
    }

    fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.get(id)?;
        retry(|| socket.read(buffer))
    }

    fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize> {
        let mut socket = self.get(id)?;
        retry(|| socket.write(data))
    }

    fn finish(&mut self, id: SocketId) {
        if let Ok(socket) = self.get(id)
            && let Err(error) = socket.shutdown(Shutdown::Write)
        {
            log::debug!("tcp: cannot end sending: {error}");
        }
    }

    fn datagram(&mut self, id: SocketId, how: Datagram) -> io::Result<SocketAddrV4> {
        let socket = match how {
            Datagram::Ping => new_socket(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?,
            Datagram::Connected(to) => new_socket(Domain::for_address(to), Type::DGRAM, None)?,
            Datagram::Unbound | Datagram::Bound(_) => new_socket(Domain::IPV4, Type::DGRAM, None)?,
        };
        match how {
            Datagram::Bound(at) => socket.bind(&at.into())?,
            Datagram::Unbound => {
                socket.bind(&SocketAddrV4::new(self.source.unwrap_or(Ipv4Addr::UNSPECIFIED), 0).into())?;
            }
            Datagram::Connected(to) => socket.connect(&to.into())?,
            Datagram::Ping => {}
        }
        if !matches!(how, Datagram::Connected(_)) {
            receive_errors(&socket)?;
        }
        let address = local_address(&socket)?;
        self.keep(id, socket)?;
        Ok(address)
    }

    fn receive_from(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let socket = self.get(id)?;
        let (len, from) = retry(|| socket.recv_from(uninit(buffer)))?;
        let from = from.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((len, from))
    }

    fn send_to(&mut self, id: SocketId, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = self.get(id)?;
        let sent = match id.kind {
            // Connected: its one peer is known.
            Kind::Dns => retry(|| socket.send(data)),
            _ => retry(|| socket.send_to(data, &to.into())),
        };
        sent.map(|_| ())
    }

    fn rejection(&mut self, id: SocketId) -> Option<Rejection> {
        read_error(self.get(id).ok()?.as_raw_fd())
    }

    fn close(&mut self, id: SocketId) {
        drop(self.take(id));
    }

    fn reset(&mut self, id: SocketId) {
        if let Some(socket) = self.take(id) {
            // Closing with a linger time of 0 sends a reset (socket(7)).
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!("tcp: cannot reset: {error}");
            }
        }
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolver.servers().to_vec()
    }
}

/// What the operating system said, or the like of it.
fn into_io(error: SocketFileError) -> io::Error {
    match error {
        SocketFileError::System { source, .. } => source,
        SocketFileError::InUse(_) => io::ErrorKind::AddrInUse.into(),
        SocketFileError::NotSocket(_) => io::Error::from_raw_os_error(libc::ENOTSOCK),
        SocketFileError::TooLong(_) => io::Error::from_raw_os_error(libc::ENAMETOOLONG),
    }
}

/// Kind and index in one number.
fn token(id: SocketId) -> Token {
    Token((id.kind as usize) << 32 | id.index as usize)
}

fn id(token: Token) -> Option<SocketId> {
    let kind = *Kind::ALL.get(token.0 >> 32)?;
    Some(SocketId { kind, index: (token.0 & 0xffff_ffff) as u32 })
}

fn new_socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking().cloexec(), protocol)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddrV4> {
    Ok(socket.local_addr()?.as_socket_ipv4().unwrap_or(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)))
}

fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The buffer as the kernel takes it: it only writes.
fn uninit(buffer: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: same layout; the callee is the kernel by way of socket2, which stores initialised bytes and no others.
    unsafe { &mut *(std::ptr::from_mut(buffer) as *mut [MaybeUninit<u8>]) }
}

/// Asks for ICMP errors to be queued (ip(7), `IP_RECVERR`).
fn receive_errors(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_RECVERR,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes one ICMP error out of a socket's error queue (ip(7), `MSG_ERRQUEUE`). Other errors are passed over.
fn read_error(fd: RawFd) -> Option<Rejection> {
    loop {
        let mut control = ControlBuffer([0; 512]);
        // SAFETY: an all-zero msghdr and sockaddr_in are valid values.
        let (mut message, mut to): (libc::msghdr, libc::sockaddr_in) = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_mut(&mut to).cast();
        message.msg_namelen = size_of_val(&to) as libc::socklen_t;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: name and control point to buffers of the lengths given, which outlive the call; no payload is asked.
        let received = unsafe { libc::recvmsg(fd, &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        if received < 0 {
            return None;
        }
        if let Some((error, by)) = extended_error(&message) {
            return Some(Rejection {
                to: SocketAddrV4::new(ipv4(to.sin_addr), u16::from_be(to.sin_port)),
                by,
                icmp_type: error.ee_type,
                icmp_code: error.ee_code,
                mtu: u16::try_from(error.ee_info).unwrap_or(0),
            });
        }
    }
}

/// Room for control messages, aligned as `cmsghdr` is.
#[repr(align(8))]
struct ControlBuffer([u8; 512]);

/// The ICMP error in a message's control data, and who sent it.
fn extended_error(message: &libc::msghdr) -> Option<(libc::sock_extended_err, Option<Ipv4Addr>)> {
    /// What the kernel stores behind the control message's header.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        error: libc::sock_extended_err,
        offender: libc::sockaddr_in,
    }
    // SAFETY: the kernel has just filled in the message, whose control buffer is alive and aligned.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a control message inside the buffer.
        let head = unsafe { *header };
        // SAFETY: computes with a length only.
        let wanted = unsafe { libc::CMSG_LEN(size_of::<Data>() as u32) } as usize;
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_IP, libc::IP_RECVERR) && head.cmsg_len >= wanted {
            // SAFETY: the header is valid.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: the length was checked; the bytes need not be aligned.
            let data = unsafe { data.cast::<Data>().read_unaligned() };
            if data.error.ee_origin != libc::SO_EE_ORIGIN_ICMP {
                return None;
            }
            let known = i32::from(data.offender.sin_family) == libc::AF_INET;
            return Some((data.error, known.then(|| ipv4(data.offender.sin_addr))));
        }
        // SAFETY: message and header belong together, and are as the kernel left them.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn ipv4(address: libc::in_addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be(address.s_addr))
}

/// The name servers of a `resolv.conf`, read again when the file has changed.
struct ResolvConf {
    path: PathBuf,
    /// Device, inode, size, and time of change of what was read.
    seen: Option<(u64, u64, u64, i64, i64)>,
    servers: Vec<SocketAddr>,
}

impl ResolvConf {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: None, servers: Vec::new() }
    }

    fn servers(&mut self) -> &[SocketAddr] {
        let seen = fs::metadata(&self.path).ok().map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()));
        if seen.is_none() || seen != self.seen {
            let servers = fs::read_to_string(&self.path).map(|text| parse_resolv_conf(&text)).unwrap_or_default();
            if servers != self.servers {
                log::info!("dns: name servers of {}: {servers:?}", self.path.display());
            }
            self.servers = servers;
            self.seen = seen;
        }
        &self.servers
    }
}

/// The `nameserver` lines. Addresses with a scope (`fe80::1%eth0`) are passed over.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => address.parse::<IpAddr>().ok(),
            _ => None,
        }
    });
    addresses.take(MAX_RESOLVERS).map(|address| SocketAddr::new(address, crate::dns::PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(index: u32) -> SocketId {
        SocketId { kind: Kind::Udp, index }
    }

    #[test]
    fn resolv_conf_is_followed_as_it_changes() {
        let path = std::env::temp_dir().join(format!("slirp-resolv-{}", std::process::id()));
        fs::write(&path, "search x\nnameserver 192.0.2.1 # first\n#nameserver 192.0.2.9\nnameserver ::1\n").unwrap();
        let mut file = ResolvConf::new(path.clone());
        assert_eq!(file.servers(), ["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
        fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(file.servers(), ["192.0.2.2:53".parse().unwrap()]);
        fs::remove_file(&path).unwrap();
        assert!(file.servers().is_empty());
    }

    #[test]
    fn a_refused_datagram_comes_back_with_its_address() {
        let mut sockets = Sockets::new().unwrap();
        let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        sockets.datagram(udp(0), Datagram::Unbound).unwrap();
        sockets.send_to(udp(0), b"x", closed).unwrap();
        let mut ready = Vec::new();
        sockets.wait(Some(Duration::from_secs(5)), &mut ready).unwrap();
        assert!(ready.iter().any(|r| r.id == udp(0) && r.error));
        let rejection = sockets.rejection(udp(0)).unwrap();
        assert_eq!(SocketAddr::V4(rejection.to), closed);
        assert_eq!((rejection.icmp_type, rejection.icmp_code), (3, 3));
        assert_eq!(rejection.by, Some(Ipv4Addr::LOCALHOST));
        assert_eq!(sockets.rejection(udp(0)), None);
    }

    #[test]
    fn closed_sockets_are_forgotten() {
        let mut sockets = Sockets::new().unwrap();
        sockets.datagram(udp(3), Datagram::Unbound).unwrap();
        assert_eq!(sockets.len(), 1);
        sockets.close(udp(3));
        sockets.close(udp(3));
        sockets.reset(udp(77));
        assert!(sockets.is_empty());
        assert!(sockets.send_to(udp(3), b"", "127.0.0.1:1".parse().unwrap()).is_err());
    }
}
