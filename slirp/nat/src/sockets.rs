//! The one file with host sockets: [`Host`] over non-blocking sockets of the system's and an epoll instance.
//!
//! Every socket is registered once, edge-triggered, under a token that is its [`SocketId`]. An owner with an event loop of
//! its own registers the epoll instance itself there, edge-triggered, and [`Sockets::poll`] drains it without waiting. One
//! without registers what else it waits for here, and waits here ([`Sockets::wait_for_all`]): that saves a look at a second
//! epoll instance for each event.
//! Datagram sockets are watched for reading only: the kernel would report room for writing after every datagram sent.
//!
//! Documented in: socket(7), tcp(7), udp(7), icmp(7), unix(7); ip(7) and ipv6(7) for `IP_RECVERR` and `IPV6_RECVERR`, by
//! which a socket that is not connected learns of ICMP errors; resolv.conf(5).

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link::socket_file::{self, SocketError as SocketFileError, SocketFile};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::commands::Commands;
use crate::config::Config;
use crate::folder::{Folder, FolderError};
use crate::guestfwd::Target;
use crate::host::{Datagram, Family, Host, Kind, Readiness, Rejection, SocketId};
use crate::smb::{self, Share, ShareError};

/// Events taken out of the epoll instance at a time.
const EVENTS: usize = 256;

/// The first of the tokens that are not the owner's.
const OWN_TOKENS: usize = 1 << 32;

/// Connections that wait to be accepted: the kernel's own bound is lower, or it is this.
const BACKLOG: i32 = 4096;

/// The address of an end that has none.
const UNSPECIFIED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Name servers looked at, as resolv.conf(5) has it.
const MAX_RESOLVERS: usize = 3;

/// What the NAT works with cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The epoll instance cannot be made.
    #[error("host sockets: cannot make an epoll instance: {}", link::reason(.0))]
    Epoll(#[from] io::Error),
    /// The folder for TFTP.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The folder that is shared.
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// A socket, and how it was told to send.
struct Entry {
    socket: Socket,
    /// The hop limit that was set, if one was.
    hops: Option<u8>,
}

/// The host's sockets.
pub struct Sockets {
    poll: Poll,
    events: Events,
    tables: [Vec<Option<Entry>>; Kind::ALL.len()],
    resolver: ResolvConf,
    folder: Option<Folder>,
    commands: Commands,
    // Behind the commands that use it: fields are dropped in this order.
    share: Option<Share>,
    /// The address that connections and datagrams leave from, if the system is not to choose.
    source: Option<Ipv4Addr>,
    /// The same for IPv6.
    source6: Option<Ipv6Addr>,
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
            folder: None,
            commands: Commands::default(),
            share: None,
            source: None,
            source6: None,
            files: HashMap::new(),
        })
    }

    /// Opens what the settings name, once and for all: it is found by its descriptor later, whatever becomes of the root.
    ///
    /// # Errors
    /// [`SocketError::Folder`], [`SocketError::Share`].
    pub fn prepare(mut self, config: &Config) -> Result<Self, SocketError> {
        self.folder = config.tftp.as_deref().map(Folder::open).transpose()?;
        self.share = config.smb.as_deref().map(Share::open).transpose()?;
        Ok(self)
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

    /// The same for IPv6.
    #[must_use]
    pub fn with_source6(mut self, source: Option<Ipv6Addr>) -> Self {
        self.source6 = source;
        self
    }

    /// Where what goes to addresses of a family leaves from; an unspecified address is the system's choice.
    fn source(&self, family: Family) -> SocketAddr {
        let address = match family {
            Family::V4 => self.source.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
            Family::V6 => self.source6.unwrap_or(Ipv6Addr::UNSPECIFIED).into(),
        };
        SocketAddr::new(address, 0)
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
    pub fn wait(&mut self, timeout: Option<Duration>, out: &mut Vec<Readiness>) -> io::Result<()> {
        self.wait_for_all(timeout, out, &mut Vec::new())
    }

    /// The same; the tokens of what the owner has registered with [`Sockets::registry`], and is ready, go to `others`.
    ///
    /// # Errors
    /// The epoll instance is broken.
    pub fn wait_for_all(
        &mut self,
        mut timeout: Option<Duration>,
        out: &mut Vec<Readiness>,
        others: &mut Vec<Token>,
    ) -> io::Result<()> {
        loop {
            match self.poll.poll(&mut self.events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let mut count = 0;
            for event in &self.events {
                count += 1;
                let token = event.token();
                if token.0 < OWN_TOKENS {
                    others.push(token);
                } else if let Some(id) = id(token) {
                    out.push(Readiness {
                        id,
                        readable: event.is_readable(),
                        writable: event.is_writable(),
                        finished: event.is_read_closed() || event.is_write_closed(),
                        error: event.is_error(),
                    });
                } else {
                    self.commands.ready(token);
                }
            }
            if count < EVENTS {
                return Ok(());
            }
            timeout = Some(Duration::ZERO);
        }
    }

    /// Where the owner registers what it waits for in [`Sockets::wait_for_all`], under tokens below 2^32.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
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
        socket.map(|entry| &entry.socket).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
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
        table[index] = Some(Entry { socket, hops: None });
        Ok(())
    }

    /// Sets the hop limit of what is sent from now on, unless it is that already.
    fn set_hops(&mut self, id: SocketId, hops: u8, to: IpAddr) -> io::Result<()> {
        let entry = self.tables[id.kind as usize].get_mut(id.index as usize).and_then(Option::as_mut);
        let Some(entry) = entry.filter(|entry| entry.hops != Some(hops)) else { return Ok(()) };
        match to {
            IpAddr::V4(_) => entry.socket.set_ttl_v4(hops.into())?,
            IpAddr::V6(_) => entry.socket.set_unicast_hops_v6(hops.into())?,
        }
        entry.hops = Some(hops);
        Ok(())
    }

    fn take(&mut self, id: SocketId) -> Option<Socket> {
        if id.kind == Kind::Forward {
            self.files.remove(&id);
        }
        // Closing a descriptor takes it out of the epoll instance (epoll(7)): it has no duplicates.
        Some(self.tables[id.kind as usize].get_mut(id.index as usize)?.take()?.socket)
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
        // A far end that has vanished is noticed, if only after hours: nobody else would ever end the flow.
        socket.set_keepalive(true)?;
        let source = self.source(Family::of(to.ip()));
        if !source.ip().is_unspecified() {
            socket.bind(&source.into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        self.keep(id, socket)
    }

    fn connect_target(&mut self, id: SocketId, target: &Target) -> io::Result<()> {
        let socket = match target {
            Target::Tcp(address) => return self.connect(id, *address),
            Target::Unix(path) => {
                let socket = new_socket(Domain::UNIX, Type::STREAM, None)?;
                socket.connect(&SockAddr::unix(path)?)?;
                socket
            }
            Target::Command(line) => self.commands.start_line(self.poll.registry(), id, line)?,
            Target::Share => {
                let command = self.share.as_ref().ok_or(io::ErrorKind::NotFound)?.command();
                let (ours, theirs) = smb::loopback_pair()?;
                self.commands.start(self.poll.registry(), id, command, theirs)?;
                ours
            }
        };
        self.keep(id, socket).inspect_err(|_| self.commands.part(id, true))
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        // To send nothing tells all in one call: it fails as the connection did, or would block until it is made.
        match self.send(id, &[]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn listen(&mut self, id: SocketId, at: SocketAddr) -> io::Result<SocketAddr> {
        let socket = new_bound_socket(at, Type::STREAM)?;
        // Connections of a former run in TIME-WAIT do not hold the port.
        socket.set_reuse_address(true)?;
        // Connections that are accepted have these from their listener (tcp(7)).
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
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

    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<SocketAddr> {
        let (socket, peer) = self.get(listener)?.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)?;
        let peer = if peer.is_unix() { UNSPECIFIED } else { peer.as_socket().ok_or(io::ErrorKind::Unsupported)? };
        self.keep(id, socket)?;
        Ok(peer)
    }

    fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        let mut socket = self.get(id)?;
        match retry(|| socket.read(buffer)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && is_local(socket) => Ok(0),
            result => result,
        }
    }

    fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize> {
        let mut socket = self.get(id)?;
        match retry(|| socket.write(data)) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && is_local(socket) => Ok(data.len()),
            result => result,
        }
    }

    fn finish(&mut self, id: SocketId) {
        if let Ok(socket) = self.get(id)
            && let Err(error) = socket.shutdown(Shutdown::Write)
        {
            log::debug!("tcp: cannot end sending: {error}");
        }
    }

    fn datagram(&mut self, id: SocketId, how: Datagram) -> io::Result<SocketAddr> {
        let socket = match how {
            Datagram::Ping(Family::V4) => new_socket(Domain::IPV4, Type::DGRAM, Some(Protocol::ICMPV4))?,
            Datagram::Ping(Family::V6) => new_socket(Domain::IPV6, Type::DGRAM, Some(Protocol::ICMPV6))?,
            Datagram::Connected(to) => new_socket(Domain::for_address(to), Type::DGRAM, None)?,
            Datagram::Bound(at) => new_bound_socket(at, Type::DGRAM)?,
            Datagram::Unbound(family) => new_bound_socket(self.source(family), Type::DGRAM)?,
        };
        match how {
            Datagram::Bound(at) => socket.bind(&at.into())?,
            Datagram::Unbound(family) => socket.bind(&self.source(family).into())?,
            Datagram::Connected(to) => socket.connect(&to.into())?,
            Datagram::Ping(_) => {}
        }
        match how {
            Datagram::Connected(_) => {}
            Datagram::Unbound(family) | Datagram::Ping(family) => receive_errors(&socket, family)?,
            Datagram::Bound(at) => receive_errors(&socket, Family::of(at.ip()))?,
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

    fn send_to(&mut self, id: SocketId, data: &[u8], to: SocketAddr, hops: Option<u8>) -> io::Result<()> {
        if let Some(hops) = hops {
            self.set_hops(id, hops, to.ip())?;
        }
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
        self.commands.part(id, false);
    }

    fn reset(&mut self, id: SocketId) {
        if let Some(socket) = self.take(id) {
            // Closing with a linger time of 0 sends a reset (socket(7)).
            if let Err(error) = socket.set_linger(Some(Duration::ZERO)) {
                log::debug!("tcp: cannot reset: {error}");
            }
        }
        self.commands.part(id, true);
    }

    fn open_file(&mut self, file: u32, name: &[u8]) -> io::Result<u64> {
        self.folder.as_mut().ok_or(io::ErrorKind::NotFound)?.open_file(file, name)
    }

    fn read_file(&mut self, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.folder.as_mut().ok_or(io::ErrorKind::NotFound)?.read_file(file, offset, buffer)
    }

    fn close_file(&mut self, file: u32) {
        if let Some(folder) = &mut self.folder {
            folder.close_file(file);
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

/// Kind and index in one number, which is at least [`OWN_TOKENS`].
fn token(id: SocketId) -> Token {
    Token((id.kind as usize + 1) << 32 | id.index as usize)
}

fn id(token: Token) -> Option<SocketId> {
    let kind = *Kind::ALL.get((token.0 >> 32).checked_sub(1)?)?;
    Some(SocketId { kind, index: (token.0 & 0xffff_ffff) as u32 })
}

fn new_socket(domain: Domain, kind: Type, protocol: Option<Protocol>) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking().cloexec(), protocol)
}

/// A socket that is going to be bound to an address: `::` does not mean IPv4, too.
fn new_bound_socket(at: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = new_socket(Domain::for_address(at), kind, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    Ok(socket.local_addr()?.as_socket().unwrap_or(UNSPECIFIED))
}

/// Whether a guest forwarding rule's command or Unix socket is at the far end. Like the end of a pipe it may be gone
/// without having read everything, and what it has said counts all the same.
fn is_local(socket: &Socket) -> bool {
    socket.local_addr().is_ok_and(|address| address.is_unix())
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

/// Asks for ICMP errors to be queued (ip(7), `IP_RECVERR`; ipv6(7), `IPV6_RECVERR`).
fn receive_errors(socket: &Socket, family: Family) -> io::Result<()> {
    let (level, option) = match family {
        Family::V4 => (libc::SOL_IP, libc::IP_RECVERR),
        Family::V6 => (libc::SOL_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int of the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes one ICMP error out of a socket's error queue (ip(7), `MSG_ERRQUEUE`). Other errors are passed over.
fn read_error(fd: RawFd) -> Option<Rejection> {
    loop {
        let (mut control, mut quote, mut to) = (ControlBuffer([0; 512]), [0; QUOTE], SockAddrStorage::zeroed());
        let mut part = libc::iovec { iov_base: quote.as_mut_ptr().cast(), iov_len: quote.len() };
        // SAFETY: an all-zero msghdr is a valid value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_mut(&mut to).cast();
        message.msg_namelen = to.size_of();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: name, payload and control point to buffers of the lengths given, which outlive the call.
        let received = unsafe { libc::recvmsg(fd, &mut message, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        let len = usize::try_from(received).ok()?;
        // SAFETY: the kernel has just stored an address of this length, in the storage that is large enough for any.
        let to = unsafe { SockAddr::new(to, message.msg_namelen) };
        if let (Some((error, by)), Some(to)) = (extended_error(&message), to.as_socket())
            && let Some((icmp_type, icmp_code)) = icmp_error(&error, to.ip())
        {
            let quote = quote.get(..len).unwrap_or_default().to_vec();
            return Some(Rejection { to, by, icmp_type, icmp_code, info: error.ee_info, quote });
        }
    }
}

/// Bytes looked at of what an error quotes: as much as tools like traceroute compare.
const QUOTE: usize = 128;

/// Type and code of the ICMP error that the kernel tells of. A datagram that is longer than the route is known to carry
/// never leaves the host, but to the guest that is the same.
fn icmp_error(error: &libc::sock_extended_err, to: IpAddr) -> Option<(u8, u8)> {
    match error.ee_origin {
        libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6 => Some((error.ee_type, error.ee_code)),
        libc::SO_EE_ORIGIN_LOCAL if error.ee_errno == libc::EMSGSIZE as u32 => {
            Some(if to.is_ipv4() { (3, 4) } else { (2, 0) })
        }
        _ => None,
    }
}

/// Room for control messages, aligned as `cmsghdr` is.
#[repr(align(8))]
struct ControlBuffer([u8; 512]);

/// The error in a message's control data, and who sent it.
fn extended_error(message: &libc::msghdr) -> Option<(libc::sock_extended_err, Option<IpAddr>)> {
    // SAFETY: the kernel has just filled in the message, whose control buffer is alive and aligned.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a control message inside the buffer.
        let head = unsafe { *header };
        // SAFETY: the header is valid.
        let data = unsafe { libc::CMSG_DATA(header) };
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_IP, libc::IP_RECVERR) => {
                // SAFETY: the data belong to this header, and to an IPv4 error.
                let (error, by) = unsafe { read_control::<libc::sockaddr_in>(&head, data) }?;
                let known = i32::from(by.sin_family) == libc::AF_INET;
                return Some((error, known.then(|| Ipv4Addr::from(by.sin_addr.s_addr.to_ne_bytes()).into())));
            }
            (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
                // SAFETY: the data belong to this header, and to an IPv6 error.
                let (error, by) = unsafe { read_control::<libc::sockaddr_in6>(&head, data) }?;
                let known = i32::from(by.sin6_family) == libc::AF_INET6;
                return Some((error, known.then(|| Ipv6Addr::from(by.sin6_addr.s6_addr).to_canonical())));
            }
            _ => {}
        }
        // SAFETY: message and header belong together, and are as the kernel left them.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// Reads what the kernel stores behind the header of such a control message: the error, and the offender's address.
///
/// # Safety
/// `data` is where the message's data begin, which are as long as the header says; `A` is a struct of plain numbers.
unsafe fn read_control<A: Copy>(head: &libc::cmsghdr, data: *const u8) -> Option<(libc::sock_extended_err, A)> {
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data<A> {
        error: libc::sock_extended_err,
        offender: A,
    }
    // SAFETY: computes with a length only.
    let wanted = unsafe { libc::CMSG_LEN(size_of::<Data<A>>() as u32) } as usize;
    if head.cmsg_len < wanted {
        return None;
    }
    // SAFETY: the length was checked, both types are plain numbers, and the bytes need not be aligned.
    let data = unsafe { data.cast::<Data<A>>().read_unaligned() };
    Some((data.error, data.offender))
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
            let servers = match fs::read_to_string(&self.path) {
                Ok(text) => parse_resolv_conf(&text),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                // No descriptor is left, perhaps: what is known may still be right.
                Err(_) => return &self.servers,
            };
            if servers != self.servers {
                log::info!("dns: name servers of {}: {servers:?}", self.path.display());
            }
            self.servers = servers;
            self.seen = seen;
        }
        &self.servers
    }
}

/// The `nameserver` lines. A link-local address names its interface (`fe80::1%eth0`); if that is not there, it is passed
/// over.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => server_address(address),
            _ => None,
        }
    });
    addresses.take(MAX_RESOLVERS).collect()
}

fn server_address(text: &str) -> Option<SocketAddr> {
    const PORT: u16 = crate::dns::PORT;
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse().ok()?, PORT)),
        Some((address, interface)) => {
            let scope = interface.parse().ok().or_else(|| interface_index(interface))?;
            Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
        }
    }
}

/// The number of a network interface.
fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name ends with a zero and outlives the call, which only reads it.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
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
        fs::write(&path, "nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%nowhere0\n").unwrap();
        let on = |address: &str, scope| SocketAddrV6::new(address.parse().unwrap(), 53, 0, scope).into();
        assert_eq!(file.servers(), [on("fe80::1", 1), on("fe80::2", 7)]);
        fs::remove_file(&path).unwrap();
        assert!(file.servers().is_empty());
    }

    #[test]
    fn a_refused_datagram_comes_back_with_its_address() {
        for (address, family, error) in [("127.0.0.1:0", Family::V4, (3, 3)), ("[::1]:0", Family::V6, (1, 4))] {
            let mut sockets = Sockets::new().unwrap();
            let closed = std::net::UdpSocket::bind(address).unwrap().local_addr().unwrap();
            sockets.datagram(udp(0), Datagram::Unbound(family)).unwrap();
            sockets.send_to(udp(0), b"x", closed, Some(9)).unwrap();
            let mut ready = Vec::new();
            sockets.wait(Some(Duration::from_secs(5)), &mut ready).unwrap();
            assert!(ready.iter().any(|r| r.id == udp(0) && r.error));
            let rejection = sockets.rejection(udp(0)).unwrap();
            assert_eq!(rejection.to, closed);
            assert_eq!((rejection.icmp_type, rejection.icmp_code), error);
            assert_eq!((rejection.by, &rejection.quote[..]), (Some(closed.ip()), &b"x"[..]));
            assert_eq!(sockets.rejection(udp(0)), None);
        }
    }

    #[test]
    fn datagrams_have_the_hop_limit_that_each_was_given() {
        for (address, family) in [("127.0.0.1:0", Family::V4), ("[::1]:0", Family::V6)] {
            let receiver = Socket::from(std::net::UdpSocket::bind(address).unwrap());
            let to = receiver.local_addr().unwrap().as_socket().unwrap();
            let mut sockets = Sockets::new().unwrap();
            sockets.datagram(udp(0), Datagram::Unbound(family)).unwrap();
            for hops in [1, 1, 63, 255, 2] {
                sockets.send_to(udp(0), b"x", to, Some(hops)).unwrap();
                let socket = sockets.get(udp(0)).unwrap();
                let set = match family {
                    Family::V4 => socket.ttl_v4().unwrap(),
                    Family::V6 => socket.unicast_hops_v6().unwrap(),
                };
                assert_eq!(set, u32::from(hops));
                assert_eq!(receiver.recv(uninit(&mut [0; 9])).unwrap(), 1);
            }
        }
    }

    #[test]
    fn what_the_owner_waits_for_is_told_apart_from_sockets() {
        let mut sockets = Sockets::new().unwrap();
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let last = Token(OWN_TOKENS - 1);
        sockets.registry().register(&mut SourceFd(&ours.as_raw_fd()), last, Interest::READABLE).unwrap();
        sockets.datagram(udp(0), Datagram::Bound("127.0.0.1:0".parse().unwrap())).unwrap();
        let to = sockets.get(udp(0)).unwrap().local_addr().unwrap();
        theirs.write_all(b"x").unwrap();
        new_socket(Domain::IPV4, Type::DGRAM, None).unwrap().send_to(b"x", &to).unwrap();
        let (mut ready, mut others) = (Vec::new(), Vec::new());
        sockets.wait_for_all(Some(Duration::from_secs(5)), &mut ready, &mut others).unwrap();
        assert_eq!(others, [last]);
        assert_eq!(ready.iter().map(|readiness| readiness.id).collect::<Vec<_>>(), [udp(0)]);
    }

    #[test]
    fn a_connection_is_under_way_until_it_is_made_or_has_failed() {
        let tcp = |index| SocketId { kind: Kind::Tcp, index };
        let mut sockets = Sockets::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.connect(tcp(0), listener.local_addr().unwrap()).unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        sockets.connect(tcp(1), closed).unwrap();
        // A listener whose queue is full answers no SYN.
        let full = new_socket(Domain::IPV4, Type::STREAM, None).unwrap();
        full.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        full.listen(0).unwrap();
        let full = full.local_addr().unwrap().as_socket().unwrap();
        (2..5).for_each(|index| sockets.connect(tcp(index), full).unwrap());
        sockets.wait(Some(Duration::from_secs(5)), &mut Vec::new()).unwrap();
        assert!(sockets.connected(tcp(0)).unwrap());
        assert_eq!(sockets.connected(tcp(1)).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
        assert!(!sockets.connected(tcp(4)).unwrap());
    }

    #[test]
    fn closed_sockets_are_forgotten() {
        let mut sockets = Sockets::new().unwrap();
        sockets.datagram(udp(3), Datagram::Unbound(Family::V4)).unwrap();
        assert_eq!(sockets.len(), 1);
        sockets.close(udp(3));
        sockets.close(udp(3));
        sockets.reset(udp(77));
        assert!(sockets.is_empty());
        assert!(sockets.send_to(udp(3), b"", "127.0.0.1:1".parse().unwrap(), None).is_err());
    }
}
