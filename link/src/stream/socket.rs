//! `stream://` and `listen://`: frames over a TCP or Unix connection, in QEMU's framing, as its `-netdev stream` and
//! `-netdev socket,connect=` and `listen=` have it.
//!
//! Legal moves: *listening* → *connected* → listening; *waiting* → *connecting* → *connected* → waiting, or the end of the
//! link if it was not told to try again. Carrier is there in *connected* only; frames sent otherwise are counted as
//! [`DropReason::LinkDown`]. As with QEMU a listener has one client at a time, and the next waits in its backlog.
//!
//! Neighbour: `super`, for what passes on the connection.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket, Type};

use super::wire::Framing;
use super::{FrameStream, Opening};
use crate::datagram::JUMBO_MTU;
use crate::{Capabilities, Counters, DropCounts, DropReason, Link, LinkState, Offloads, RxBatch, TxBatch};

/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the other end is, or where others find this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamAddress {
    /// `HOST:PORT`; an empty host is every address of this one.
    Inet(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connects; again after so long when the connection fails or ends, if that is given.
    Connect(Option<Duration>),
    /// It is connected to.
    Listen,
}

/// A stream link to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// The locator, for messages.
    pub name: String,
    /// The address.
    pub address: StreamAddress,
    /// The role.
    pub role: Role,
}

/// Why a stream link cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No such host.
    #[error("{name}: {}", crate::reason(.source))]
    Resolve {
        /// The link.
        name: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The operating system refused.
    #[error("{name}: cannot {act}: {}", crate::reason(.source))]
    System {
        /// The link.
        name: String,
        /// What was to be done.
        act: &'static str,
        /// What it said.
        source: io::Error,
    },
}

/// One end of a connection that comes and may go.
pub struct StreamSocket {
    config: StreamConfig,
    addresses: Vec<SockAddr>,
    /// The address to try next.
    next: usize,
    listener: Option<Socket>,
    state: State,
    /// How the connection has ended, and when that was found.
    end: Option<(io::Error, Instant)>,
    watch: Option<(Registry, Token)>,
    past: Counters,
    drops: DropCounts,
}

enum State {
    /// For a client.
    Listening,
    /// Until it is tried again.
    Waiting(Instant),
    /// Until it has taken too long.
    Connecting(Socket, Instant),
    Connected(Box<FrameStream>),
}

impl StreamSocket {
    /// Begins to connect, or to listen.
    ///
    /// # Errors
    /// The address cannot be resolved, or not be listened at.
    pub fn open(config: StreamConfig) -> Result<Self, StreamError> {
        let addresses = resolve(&config)?;
        let fail = |act| {
            let name = config.name.clone();
            move |source| StreamError::System { name, act, source }
        };
        let (listener, state) = match config.role {
            Role::Listen => (Some(listen(&config.address, &addresses).map_err(fail("listen"))?), State::Listening),
            Role::Connect(_) => (None, State::Waiting(Instant::now())),
        };
        Ok(Self {
            config,
            addresses,
            next: 0,
            listener,
            state,
            end: None,
            watch: None,
            past: Counters::default(),
            drops: DropCounts::default(),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()?.as_socket()
    }

    /// Takes the next client if there is one, connects if it is time, looks whether a connection stands.
    fn advance(&mut self, now: Instant) -> io::Result<()> {
        loop {
            let moved = match &self.state {
                State::Listening => self.accept_client()?,
                State::Waiting(until) if *until <= now => self.connect(now)?,
                State::Connecting(..) => self.look_at_connection(now)?,
                State::Waiting(_) | State::Connected(_) => false,
            };
            if !moved {
                return Ok(());
            }
        }
    }

    fn accept_client(&mut self) -> io::Result<bool> {
        let Some(listener) = &self.listener else { return Ok(false) };
        match listener.accept() {
            Ok((socket, _)) => self.connected(socket).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => {
                log::warn!("{}: cannot accept: {}", self.config.name, crate::reason(&error));
                Ok(false)
            }
        }
    }

    fn connect(&mut self, now: Instant) -> io::Result<bool> {
        let Some(address) = self.addresses.get(self.next) else { return Err(io::ErrorKind::AddrNotAvailable.into()) };
        let socket = Socket::new(address.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(address) {
            // A Unix socket whose backlog is full says EAGAIN and does not go on by itself.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.failed(error, now)?,
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => self.failed(error, now)?,
            _ => {
                if let Some((registry, token)) = &self.watch {
                    registry.register(&mut SourceFd(&socket.as_raw_fd()), *token, Interest::WRITABLE)?;
                }
                self.state = State::Connecting(socket, now + PATIENCE);
            }
        }
        Ok(true)
    }

    fn look_at_connection(&mut self, now: Instant) -> io::Result<bool> {
        let State::Connecting(socket, until) = &self.state else { return Ok(false) };
        let stands = match socket.take_error()? {
            Some(error) => Err(error),
            None => match socket.peer_addr() {
                Ok(_) => Ok(()),
                Err(_) if now < *until => return Ok(false),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            },
        };
        let State::Connecting(socket, _) = std::mem::replace(&mut self.state, State::Listening) else {
            return Ok(false);
        };
        if let Some((registry, _)) = &self.watch {
            registry.deregister(&mut SourceFd(&socket.as_raw_fd()))?;
        }
        match stands {
            Ok(()) => self.connected(socket)?,
            Err(error) => self.failed(error, now)?,
        }
        Ok(true)
    }

    fn connected(&mut self, socket: Socket) -> io::Result<()> {
        if socket.domain()? != Domain::UNIX {
            socket.set_tcp_nodelay(true)?;
            socket.set_keepalive(true)?;
        }
        let output = OwnedFd::from(socket.try_clone()?);
        let mut stream = FrameStream::new(socket.into(), output, Framing::Qemu, Opening::Silent)?;
        if let Some((registry, token)) = &self.watch {
            stream.register(registry, *token)?;
        }
        log::info!("{}: connected", self.config.name);
        self.next = 0;
        self.state = State::Connected(Box::new(stream));
        Ok(())
    }

    /// A connection did not come about, or has ended.
    fn failed(&mut self, error: io::Error, now: Instant) -> io::Result<()> {
        let was_connected = matches!(self.state, State::Connected(_));
        self.hang_up();
        self.next = if was_connected { 0 } else { self.next + 1 };
        let has_another = self.next < self.addresses.len() && !was_connected;
        let words = if was_connected { "disconnected" } else { "not connected" };
        log::info!("{}: {words}: {}", self.config.name, crate::reason(&error));
        self.state = match self.config.role {
            Role::Listen => State::Listening,
            Role::Connect(_) if has_another => State::Waiting(now),
            Role::Connect(Some(pause)) => {
                self.next = 0;
                State::Waiting(now + pause)
            }
            Role::Connect(None) => return Err(error),
        };
        Ok(())
    }

    /// Lets go of the connection.
    fn hang_up(&mut self) {
        if let State::Connected(stream) = &mut self.state {
            if let Some((registry, _)) = &self.watch {
                // Closing the descriptors ends it in any case.
                let _ = stream.deregister(registry);
            }
            self.past.merge(&stream.counters());
            self.state = State::Listening;
        }
    }

    /// Does something with the connection; what goes wrong is the connection's end, which [`Link::service`] deals with.
    fn with_stream<T: Default>(&mut self, act: impl FnOnce(&mut FrameStream) -> io::Result<T>) -> T {
        let State::Connected(stream) = &mut self.state else { return T::default() };
        act(stream).unwrap_or_else(|error| {
            self.end.get_or_insert((error, Instant::now()));
            T::default()
        })
    }
}

impl Link for StreamSocket {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: Offloads::NONE, mtu: JUMBO_MTU }
    }

    fn accept(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if let Some(listener) = &self.listener {
            registry.register(&mut SourceFd(&listener.as_raw_fd()), token, Interest::READABLE)?;
        }
        self.watch = Some((registry.try_clone()?, token));
        if let State::Connected(stream) = &mut self.state {
            stream.register(registry, token)?;
        }
        Ok(())
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        if let Some(listener) = &self.listener {
            registry.deregister(&mut SourceFd(&listener.as_raw_fd()))?;
        }
        match &mut self.state {
            State::Connected(stream) => stream.deregister(registry),
            State::Connecting(socket, _) => registry.deregister(&mut SourceFd(&socket.as_raw_fd())),
            State::Listening | State::Waiting(_) => Ok(()),
        }
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.with_stream(FrameStream::service);
        if let Some((error, _)) = self.end.take() {
            self.failed(error, now)?;
        }
        self.advance(now)
    }

    fn deadline(&self) -> Option<Instant> {
        if let Some((_, since)) = &self.end {
            return Some(*since);
        }
        match &self.state {
            State::Listening => None,
            State::Waiting(until) | State::Connecting(_, until) => Some(*until),
            State::Connected(stream) => stream.deadline(),
        }
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if !matches!(self.state, State::Connected(_)) {
            self.drops.add(DropReason::LinkDown, batch.len() as u64);
            return Ok(batch.len());
        }
        self.with_stream(|stream| stream.send(batch));
        Ok(batch.len())
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        Ok(self.with_stream(|stream| stream.receive(batch)))
    }

    fn state(&self) -> LinkState {
        if matches!(self.state, State::Connected(_)) { LinkState::Up } else { LinkState::Down }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.past;
        if let State::Connected(stream) = &self.state {
            counters.merge(&stream.counters());
        }
        counters.drops.merge(&self.drops);
        counters
    }
}

impl Drop for StreamSocket {
    fn drop(&mut self) {
        if let (StreamAddress::Unix(path), Some(_)) = (&self.config.address, &self.listener) {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn resolve(config: &StreamConfig) -> Result<Vec<SockAddr>, StreamError> {
    let fail = |source| StreamError::Resolve { name: config.name.clone(), source };
    match &config.address {
        StreamAddress::Unix(path) => Ok(vec![SockAddr::unix(path).map_err(fail)?]),
        StreamAddress::Inet(text) => {
            let host = text.rsplit_once(':').map_or("", |(host, _)| host);
            let text = if host.is_empty() { format!("0.0.0.0{text}") } else { text.clone() };
            let found: Vec<_> = text.to_socket_addrs().map_err(fail)?.map(SockAddr::from).collect();
            if found.is_empty() { Err(fail(io::ErrorKind::AddrNotAvailable.into())) } else { Ok(found) }
        }
    }
}

fn listen(address: &StreamAddress, addresses: &[SockAddr]) -> io::Result<Socket> {
    let first = addresses.first().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = Socket::new(first.domain(), Type::STREAM, None)?;
    match address {
        StreamAddress::Unix(path) => {
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
            let asks = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            if is_socket && asks.connect(first).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                // One that has died left it behind.
                std::fs::remove_file(path)?;
            }
        }
        StreamAddress::Inet(_) => socket.set_reuse_address(true)?,
    }
    socket.bind(first)?;
    socket.listen(1)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
#[path = "socket_test.rs"]
mod tests;
