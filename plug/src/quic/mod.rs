//! `quic://`: a cable between two hosts, over QUIC (RFC 9000) and its datagrams (RFC 9221).
//!
//! One end connects, and connects again whenever it has to; the other listens and serves one peer, whose newest connection
//! counts. Both prove keys that the other has pinned. The link has carrier as long as the two are connected.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | what a locator says |
//! | `identity` `pins` `tls` | who is who: our key, the far side's, the handshake between them |
//! | `session` | one connection: hello, lanes, datagrams |
//! | `classify` | which frames go in lanes |
//! | `wire` `fragment` | formats: what travels, and how it is cut |
//! | `queue` `steady` | what waits, and how fast it goes |
//! | `socket` | UDP |
//!
//! # How frames travel
//!
//! TCP inside the cable would take a lost packet for congestion: at 1 % of loss and 50 ms no more than some 1.5 Mbit/s would
//! pass, however wide the path is. So segments that carry something go in *lanes*, streams in which QUIC repeats what was
//! lost: TCP sees a late segment, and 64 KiB of it cross as they are, with the virtio-net header. Everything else goes in
//! datagrams, is never repeated and waits for nothing; what is longer than the path takes is cut and put together at the far
//! side. Datagrams go before lanes. What TCP needs to know about congestion it is told by the queue in front of the lanes,
//! which drops what has waited for [`LANE_PATIENCE`]; that in front of datagrams is shorter ([`DATAGRAM_PATIENCE`]).
//!
//! # Strangers
//!
//! A listener remembers nothing of an address that has not answered (retry tokens, RFC 9000 §8.1.2), and no more than
//! [`MAX_PENDING`] handshakes at a time, each for [`HANDSHAKE`]. Packets that belong to nothing are counted as
//! [`DropReason::Malformed`], handshakes over the limit as [`DropReason::Limit`], refused keys as [`DropReason::Unserved`].
//!
//! # Theory of operation
//!
//! All I/O is in [`Link::service`], [`Link::send`] and [`Link::receive`]; each ends by driving every session: timers, events,
//! what waits, transmission, until nothing moves. Between two calls the only state is a deadline. An idle cable wakes for one
//! packet in each direction per `keepalive`, which the end that connects begins.
//!
//! Neighbours: `crate::spec` opens it inside [`link::Soft`], which cuts datagrams of UDP that are still to be segmented.

mod classify;
mod config;
pub mod fragment;
mod identity;
mod pins;
mod queue;
mod session;
mod socket;
mod steady;
mod tls;
pub mod wire;

pub use config::{Key, Peer, QuicConfig, Role};
pub use identity::{BadFingerprint, Fingerprint, Identity, IdentityError};

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use link::datagram::MAX_PLAIN_LEN;
use link::{
    Capabilities, Counters, DropReason, ETHERNET_HEADER_LEN, Frame, GsoType, Link, LinkState, MAX_FRAME_LEN, Offloads,
    RxBatch, TxBatch, Way,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use quinn_proto::{
    ClientConfig, ConnectionError, DatagramEvent, Endpoint, EndpointConfig, HashedConnectionIdGenerator, Incoming,
    ServerConfig, Transmit, TransportErrorCode,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use pins::{Pins, Trust};
use queue::Queue;
use session::{Backlog, Farewell, News, Session, transport};
use socket::{Received, Socket};
use tls::Gate;
use wire::{Hello, HelloError};

/// What a cable takes as it is.
pub const OFFLOADS: Offloads = Offloads { checksum: true, tso4: true, tso6: true, uso: false };

/// How long a frame for a lane may wait: TCP hears of congestion by then.
pub const LANE_PATIENCE: Duration = Duration::from_millis(100);
/// How long a frame for a datagram may wait.
pub const DATAGRAM_PATIENCE: Duration = Duration::from_millis(25);
/// Handshakes under way at a listener.
pub const MAX_PENDING: usize = 8;
/// Sessions at a listener, with those that have ended and wait for late packets (RFC 9000 §10.2).
pub const MAX_SESSIONS: usize = 4 * MAX_PENDING;
/// How long a handshake may take.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// The first pause before another attempt to connect; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that stood so long was a good one: pauses begin anew.
const GOOD: Duration = Duration::from_secs(10);
/// Bytes that wait in front of lanes and of datagrams, at most.
const LANE_BACKLOG: usize = 8 << 20;
const DATAGRAM_BACKLOG: usize = 2 << 20;
/// When a full socket is tried again.
const SOCKET_PAUSE: Duration = Duration::from_millis(1);
/// Reads of the socket in one call of `service`.
const MAX_READS: usize = 32;
/// Datagrams written at once.
const TRAIN: usize = 32;
/// The name in the TLS handshake, which nobody looks at: keys count.
const SERVER_NAME: &str = "etherloom";
/// TLS alert `access_denied` (RFC 8446 §6.2): a refused key.
const ACCESS_DENIED: u8 = 49;

/// Why a cable cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// Our key.
    #[error("quic: {0}")]
    Identity(#[from] IdentityError),
    /// Nothing says where the user's files are.
    #[error("quic: neither XDG_CONFIG_HOME nor HOME is set: where {0} is has to be given (key=, known=)")]
    NoHome(&'static str),
    /// The far side's name is unknown.
    #[error("{link}: cannot resolve {host}: {}", link::reason(.source))]
    Resolve {
        /// The link.
        link: String,
        /// The far side.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The socket.
    #[error("{link}: cannot open its UDP socket at {address}: {}", link::reason(.source))]
    Socket {
        /// The link.
        link: String,
        /// Where it should be.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The cryptography of this build lacks what QUIC needs.
    #[error("{0}: this build has no cipher for QUIC")]
    Crypto(String),
}

/// One end of a cable.
pub struct Quic {
    name: String,
    /// How loudly it says that it does not connect.
    level: log::Level,
    mtu: u16,
    socket: Socket,
    endpoint: Endpoint,
    gate: Arc<Gate>,
    side: Side,
    sessions: Vec<Session>,
    /// The number of the session that carries frames, and since when.
    active: Option<(quinn_proto::ConnectionHandle, Instant)>,
    backlog: Backlog,
    counters: Counters,
    /// What the socket had no room for.
    unsent: Option<(Transmit, Vec<u8>)>,
    /// Whether the socket may have more than was read.
    has_unread: bool,
    deadline: Option<Instant>,
    received: Vec<Received>,
}

/// What is different at the two ends.
enum Side {
    Connector {
        config: Box<ClientConfig>,
        targets: Vec<SocketAddr>,
        /// The one that is tried next.
        next: usize,
        /// When, if no session is under way.
        retry: Option<Instant>,
        pause: Duration,
        /// What was said about the last failure.
        told: String,
    },
    Listener,
}

impl Quic {
    /// Opens the socket, and a connector's first connection. Resolves the far side's name, once, which can take a while;
    /// nothing blocks from then on.
    ///
    /// # Errors
    /// There is no key, no such host, or the address is taken.
    pub fn open(config: &QuicConfig) -> Result<Self, QuicError> {
        let now = Instant::now();
        let name = config.name.clone();
        let identity = match &config.key {
            Key::Given(identity) => identity.clone(),
            Key::File(Some(path)) => Identity::load_or_create(path)?,
            Key::File(None) => Identity::load_or_create(&config::user_file("quic.key")?)?,
        };
        let trust = match &config.peer {
            Peer::Pinned(peer) => Trust::Peer(*peer),
            Peer::Known { path: Some(path), first } => Trust::Known { path: path.clone(), first: *first },
            Peer::Known { path: None, first } => {
                Trust::Known { path: config::user_file("known_peers")?, first: *first }
            }
        };
        let gate = Gate::new(name.clone(), identity.fingerprint(), Pins::new(config.pin_name(), trust));
        let no_cipher = || QuicError::Crypto(name.clone());
        let socket_error = |address| {
            let link = name.clone();
            move |source| QuicError::Socket { link, address, source }
        };
        let (socket, side, server) = match &config.role {
            Role::Listen(address) => {
                let tls = tls::server(&identity, gate.clone()).ok_or_else(no_cipher)?;
                let mut server = ServerConfig::with_crypto(Arc::new(tls));
                server.transport_config(transport::config(config.idle, None)).max_incoming(MAX_PENDING);
                (Socket::bind(*address).map_err(socket_error(*address))?, Side::Listener, Some(Arc::new(server)))
            }
            Role::Connect(host) => {
                let resolve_error = |source| QuicError::Resolve { link: name.clone(), host: host.clone(), source };
                let mut targets: Vec<_> = host.to_socket_addrs().map_err(resolve_error)?.collect();
                let first = *targets.first().ok_or_else(|| resolve_error(io::ErrorKind::NotFound.into()))?;
                targets.retain(|target| target.is_ipv4() == first.is_ipv4());
                let tls = tls::client(&identity, gate.clone()).ok_or_else(no_cipher)?;
                let mut client = ClientConfig::new(Arc::new(tls));
                client.transport_config(transport::config(config.idle, Some(config.keepalive)));
                let side = Side::Connector {
                    config: Box::new(client),
                    targets,
                    next: 0,
                    retry: Some(now),
                    pause: FIRST_PAUSE,
                    told: String::new(),
                };
                (Socket::towards(first).map_err(socket_error(first))?, side, None)
            }
        };
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, identity.reset_secret());
        let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key));
        let cid_key = identity.cid_key();
        endpoint_config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
        let endpoint = Endpoint::new(Arc::new(endpoint_config), server, true, None);
        log::info!("{name}: this end's key is {}", identity.fingerprint());
        let mut quic = Self {
            name,
            level: if config.is_detour { log::Level::Info } else { log::Level::Warn },
            mtu: config.mtu,
            socket,
            endpoint,
            gate,
            side,
            sessions: Vec::new(),
            active: None,
            backlog: Backlog {
                datagrams: Queue::new(DATAGRAM_BACKLOG, DATAGRAM_PATIENCE),
                lanes: Queue::new(LANE_BACKLOG, LANE_PATIENCE),
            },
            counters: Counters::default(),
            unsent: None,
            has_unread: false,
            deadline: None,
            received: Vec::new(),
        };
        quic.drive(now);
        Ok(quic)
    }

    /// Where the socket is bound: a listener's port, if it was given as 0.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// This end's key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.gate.own()
    }

    /// The far side's address and key, if it is connected.
    #[must_use]
    pub fn peer(&self) -> Option<(SocketAddr, Fingerprint)> {
        let session = self.sessions.iter().find(|session| self.is_active(session))?;
        Some((session.connection.remote_address(), session.peer()?))
    }

    fn is_active(&self, session: &Session) -> bool {
        self.active.is_some_and(|(handle, _)| handle == session.handle)
    }

    fn hello(&self) -> Hello {
        Hello { offloads: OFFLOADS, mtu: self.mtu }
    }

    /// Reads the socket until it is empty, or it is the turn of others.
    fn read(&mut self, now: Instant) -> io::Result<()> {
        let mut received = std::mem::take(&mut self.received);
        self.has_unread = true;
        for _ in 0..MAX_READS {
            self.has_unread = self.socket.receive(&mut received)?;
            for datagram in received.drain(..) {
                self.hear(now, datagram);
            }
            if !self.has_unread {
                break;
            }
        }
        self.received = received;
        Ok(())
    }

    fn hear(&mut self, now: Instant, Received { from, to, ecn, data }: Received) {
        let mut answer = Vec::new();
        match self.endpoint.handle(now, from, to, ecn, data, &mut answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(session) = self.sessions.iter_mut().find(|session| session.handle == handle) {
                    session.connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(now, incoming),
            // What it has no room for is asked for again.
            Some(DatagramEvent::Response(transmit)) => {
                self.socket.send(&transmit, &answer);
            }
            None => self.counters.drops.count(DropReason::Malformed),
        }
    }

    /// A handshake begins, if its address is real and there is room.
    fn admit(&mut self, now: Instant, incoming: Incoming) {
        let mut answer = Vec::new();
        if !incoming.remote_address_validated() {
            if let Ok(transmit) = self.endpoint.retry(incoming, &mut answer) {
                self.socket.send(&transmit, &answer);
            }
            return;
        }
        let pending = self.sessions.iter().filter(|session| session.deadline.is_some()).count();
        if pending >= MAX_PENDING || self.sessions.len() >= MAX_SESSIONS {
            self.counters.drops.count(DropReason::Limit);
            self.endpoint.ignore(incoming);
            return;
        }
        match self.endpoint.accept(incoming, now, &mut answer, None) {
            Ok((handle, connection)) => {
                self.sessions.push(Session::new(handle, connection, self.hello(), now + HANDSHAKE));
            }
            Err(error) => {
                self.counters.drops.count(DropReason::Malformed);
                if let Some(transmit) = error.response {
                    self.socket.send(&transmit, &answer);
                }
            }
        }
    }

    /// Does everything that can be done at `now`.
    fn drive(&mut self, now: Instant) {
        self.connect(now);
        if let Some((transmit, contents)) = self.unsent.take()
            && !self.socket.send(&transmit, &contents)
        {
            self.unsent = Some((transmit, contents));
        }
        let mut index = 0;
        while index < self.sessions.len() {
            let had = self.active;
            self.drive_session(index, now);
            // One that was replaced has to say so.
            index = if had.is_some() && had != self.active { 0 } else { index + 1 };
        }
        self.sessions.retain(|session| !session.connection.is_drained());
        self.connect(now);
        let retry = match &self.side {
            Side::Connector { retry, .. } => *retry,
            Side::Listener => None,
        };
        let unsent = self.unsent.is_some().then(|| now + SOCKET_PAUSE);
        let unread = self.has_unread.then_some(now);
        let timers = self.sessions.iter_mut().flat_map(|session| [session.connection.poll_timeout(), session.deadline]);
        self.deadline = timers.chain([retry, unsent, unread]).flatten().min();
    }

    fn drive_session(&mut self, index: usize, now: Instant) {
        loop {
            let Some(session) = self.sessions.get_mut(index) else { return };
            session.must_transmit = false;
            if session.connection.poll_timeout().is_some_and(|due| due <= now) {
                session.connection.handle_timeout(now);
            }
            if session.deadline.is_some_and(|deadline| deadline <= now) {
                session.close(now, Farewell::Slow);
                let handle = session.handle;
                self.has_failed(now, handle, &|| "it does not answer".to_owned());
                continue;
            }
            while let Some(event) = session.connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(session.handle, event) {
                    session.connection.handle_event(event);
                }
            }
            while let Some(news) = self.sessions.get_mut(index).and_then(Session::poll) {
                match news {
                    News::Hello(hello) => self.activate(index, now, hello),
                    News::Foreign(error) => self.reject(index, now, error),
                    News::Lost(reason) => self.lose(index, now, &reason),
                }
            }
            let Some(session) = self.sessions.get_mut(index) else { return };
            if self.active.is_some_and(|(handle, _)| handle == session.handle) {
                session.feed(now, &mut self.backlog, &mut self.counters);
            }
            if self.unsent.is_some() {
                return;
            }
            let mut contents = Vec::new();
            let train = self.socket.train().min(TRAIN);
            let Some(transmit) = session.connection.poll_transmit(now, train, &mut contents) else { return };
            if !self.socket.send(&transmit, &contents) {
                self.unsent = Some((transmit, contents));
            }
        }
    }

    /// The far side of a session has said hello: it becomes the one that carries frames.
    fn activate(&mut self, index: usize, now: Instant, hello: Hello) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(peer) = session.peer().filter(|peer| self.gate.settle(*peer)) else {
            session.close(now, Farewell::Refused);
            return;
        };
        session.deadline = None;
        let (handle, address) = (session.handle, session.connection.remote_address());
        let before = self.active.replace((handle, now));
        if let Some((before, _)) = before
            && let Some(session) = self.sessions.iter_mut().find(|session| session.handle == before)
        {
            session.close(now, Farewell::Replaced);
        }
        let again = if before.is_some() { "connected anew" } else { "connected" };
        log::info!("{}: {again}: {address}, {peer}", self.name);
        if hello.mtu != self.mtu {
            log::warn!("{}: the far side's MTU is {}, and ours {}", self.name, hello.mtu, self.mtu);
        }
        if let Side::Connector { told, .. } = &mut self.side {
            told.clear();
        }
    }

    fn reject(&mut self, index: usize, now: Instant, error: HelloError) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.close(now, Farewell::Foreign);
        let handle = session.handle;
        let why = match error {
            HelloError::Foreign => "it is no cable of ours".to_owned(),
            HelloError::Version(version) => format!("its version is {version}, and ours 1"),
        };
        self.has_failed(now, handle, &|| why.clone());
    }

    /// A session is over, by the far side's word or its silence.
    fn lose(&mut self, index: usize, now: Instant, reason: &ConnectionError) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.deadline = None;
        let handle = session.handle;
        let own = self.gate.own();
        self.has_failed(now, handle, &|| match reason {
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::crypto(ACCESS_DENIED) =>
            {
                format!("the far side refuses our key, {own}")
            }
            ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
            ConnectionError::TransportError(error) if error.code == TransportErrorCode::crypto(ACCESS_DENIED) => {
                String::new()
            }
            ConnectionError::TimedOut => "the far side is silent".to_owned(),
            ConnectionError::Reset => "the far side was started anew".to_owned(),
            other => other.to_string(),
        });
    }

    /// What follows the end of a session, and of an attempt to make one. An empty `why` has been told elsewhere.
    fn has_failed(&mut self, now: Instant, handle: quinn_proto::ConnectionHandle, why: &dyn Fn() -> String) {
        let stood = match self.active {
            Some((active, since)) if active == handle => {
                self.active = None;
                let waiting = self.backlog.datagrams.clear() + self.backlog.lanes.clear();
                self.counters.drops.add(DropReason::LinkDown, waiting);
                log::info!("{}: disconnected: {}", self.name, why());
                Some(now.saturating_duration_since(since))
            }
            _ => None,
        };
        let Side::Connector { retry, pause, told, .. } = &mut self.side else { return };
        // One that was replaced, or has failed already, has nothing to say.
        if self.active.is_some() || retry.is_some() {
            return;
        }
        if stood.is_some_and(|stood| stood >= GOOD) {
            *pause = FIRST_PAUSE;
        }
        *retry = Some(now + pause.mul_f64(jitter()));
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        let why = why();
        if stood.is_none() && *told != why {
            if !why.is_empty() {
                log::log!(self.level, "{}: cannot connect: {why}; it goes on trying", self.name);
            }
            *told = why;
        }
    }

    /// Begins a connection, if one is due.
    fn connect(&mut self, now: Instant) {
        let hello = self.hello();
        let Side::Connector { config, targets, next, retry, .. } = &mut self.side else { return };
        if retry.is_none_or(|retry| retry > now) {
            return;
        }
        *retry = None;
        let Some(target) = targets.get(*next % targets.len().max(1)).copied() else { return };
        *next = next.wrapping_add(1);
        match self.endpoint.connect(now, (**config).clone(), target, SERVER_NAME) {
            Ok((handle, connection)) => {
                self.sessions.push(Session::new(handle, connection, hello, now + HANDSHAKE));
            }
            Err(error) => {
                log::log!(self.level, "{}: cannot connect to {target}: {error}; it goes on trying", self.name);
                *retry = Some(now + LONGEST_PAUSE);
            }
        }
    }

    /// Queues a frame, or says why not.
    fn take(&mut self, now: Instant, frame: &Frame<'_>) -> Result<(), DropReason> {
        if self.active.is_none() {
            return Err(DropReason::LinkDown);
        }
        frame.header.check(frame.len())?;
        let longest = match frame.header.gso_type {
            GsoType::None => (usize::from(self.mtu) + ETHERNET_HEADER_LEN + 8).min(MAX_PLAIN_LEN),
            _ => MAX_FRAME_LEN,
        };
        if frame.len() > longest {
            return Err(DropReason::Oversized);
        }
        if !self.capabilities().offloads.permit(&frame.header) {
            return Err(DropReason::BadOffload);
        }
        // What is still to be cut is TCP's, and goes in a lane whatever it looks like: no datagram is long enough.
        let lane = classify::lane(frame).or_else(|| (frame.header.gso_type != GsoType::None).then_some(0));
        let dropped = match lane {
            Some(lane) => self.backlog.lanes.push(now, (lane, frame.len()), wire::lane_message(frame)),
            None => self.backlog.datagrams.push(now, frame.len(), wire::message(frame)),
        };
        self.counters.drops.add(DropReason::LinkFull, dropped);
        Ok(())
    }
}

impl Link for Quic {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let active = self.sessions.iter().find(|session| self.is_active(session));
        Capabilities { offloads: active.map_or(OFFLOADS, Session::offloads), mtu: self.mtu }
    }

    /// The far side was told once and for all that everything is received.
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if !offloads.any_segmentation() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the far side was told that all are received"));
        }
        Ok(())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()))
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.read(now)?;
        self.drive(now);
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let now = Instant::now();
        for frame in batch.frames() {
            if let Err(reason) = self.take(now, &frame) {
                self.counters.drops.count(reason);
            }
        }
        if self.active.is_some() {
            self.drive(now);
        }
        Ok(batch.len())
    }

    /// Sending moves the deadline, which the owner looks at after it has received.
    fn answers(&self) -> bool {
        true
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let Some((active, _)) = self.active else { return Ok(0) };
        let Some(session) = self.sessions.iter_mut().find(|session| session.handle == active) else { return Ok(0) };
        let now = Instant::now();
        let before = batch.filled();
        let mut broken = None;
        while let Some(slot) = batch.next_slot() {
            let message = match session.next_message(now, &mut self.counters.drops) {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(farewell) => {
                    broken = Some(farewell);
                    break;
                }
            };
            let outcome = wire::parse_message(&message)
                .and_then(|(header, frame)| slot.write(header, &[frame]).map(|()| frame.len()));
            match outcome {
                Ok(len) => self.counters.received(len),
                Err(reason) => self.counters.drops.count(reason),
            }
        }
        let must_transmit = session.must_transmit;
        if let Some(farewell) = broken {
            session.close(now, farewell);
            self.counters.drops.count(DropReason::Malformed);
            self.has_failed(now, active, &|| "the far side broke the format".to_owned());
        }
        if must_transmit || broken.is_some() {
            self.drive(now);
        }
        Ok(batch.filled() - before)
    }

    fn state(&self) -> LinkState {
        if self.active.is_some() { LinkState::Up } else { LinkState::Down }
    }

    fn way(&self) -> Option<Way> {
        self.peer().map(|(address, _)| Way { name: "quic", peer: Some(address) })
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.drops.add(DropReason::Unserved, self.gate.refused());
        counters
    }
}

impl Drop for Quic {
    /// Says good-bye, so that the far side need not wait for silence.
    fn drop(&mut self) {
        let now = Instant::now();
        for session in &mut self.sessions {
            session.close(now, Farewell::Closed);
            let mut contents = Vec::new();
            if let Some(transmit) = session.connection.poll_transmit(now, 1, &mut contents) {
                self.socket.send(&transmit, &contents);
            }
        }
    }
}

/// A factor between 0.75 and 1.25, so that cables that were cut together do not come back together.
fn jitter() -> f64 {
    let mut byte = [128];
    // Without randomness the middle will do.
    let _ = SystemRandom::new().fill(&mut byte);
    0.75 + f64::from(byte[0]) / 510.0
}

#[cfg(test)]
#[path = "quic_test.rs"]
mod tests;
