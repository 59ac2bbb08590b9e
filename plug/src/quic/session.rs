//! One connection, and what it means to the cable: hello, lanes, datagrams.
//!
//! Theory of operation. When the handshake has ended, each side opens a stream and says its hello there. A session is
//! *pending* until the far side's hello has come, which is also the word that the far side has accepted our key; only then can
//! it carry frames. Each lane is a stream that is opened when its first frame is there and stays open.
//!
//! | state | becomes | when |
//! |---|---|---|
//! | pending | active | the hello is there, and the far side's key may stay |
//! | pending | closed | it took too long, or said something else |
//! | active | closed | a newer session took its place, the far side has gone, or it broke the format |
//!
//! Invariant: what waits inside is bounded: unacknowledged bytes by a multiple of the congestion window, datagrams by
//! [`DATAGRAMS`], received bytes by the windows of `transport`, and parts of messages by `fragment`.
//!
//! Neighbours: the link in `mod.rs` owns the sessions and the queues that [`Session::feed`] empties.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use link::{Counters, DropCounts, DropReason, Offloads};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, Event, StreamEvent, StreamId, VarInt, WriteError,
};
use rustls::pki_types::CertificateDer;

use super::Fingerprint;
use super::classify::LANES;
use super::fragment::{self, Reassembly};
use super::queue::Queue;
use super::wire::{Hello, HelloError, LaneReader, PART};

/// Bytes of datagrams that are handed to the connection before it has room for them.
const DATAGRAMS: usize = 16 * 1024;
/// Bytes of a lane that are taken at a time.
const CHUNK: usize = 64 * 1024;

/// Why a connection is closed, as the far side is told (RFC 9000 §20.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Farewell {
    /// The link was closed.
    Closed = 0,
    /// The same peer has connected anew.
    Replaced = 1,
    /// It is no cable, or one of another version.
    Foreign = 2,
    /// A lane broke the format.
    Broken = 3,
    /// Another was faster to be trusted.
    Refused = 4,
    /// Its hello did not come.
    Slow = 5,
}

impl Farewell {
    fn words(self) -> &'static str {
        match self {
            Self::Closed => "the cable was taken out",
            Self::Replaced => "the same peer has connected anew",
            Self::Foreign => "this is another version",
            Self::Broken => "the format was broken",
            Self::Refused => "another peer is trusted",
            Self::Slow => "the handshake took too long",
        }
    }
}

/// What the link has to know.
#[derive(Debug)]
pub enum News {
    /// The far side has said hello: the session may become the active one.
    Hello(Hello),
    /// It has not.
    Foreign(HelloError),
    /// It is over.
    Lost(ConnectionError),
}

/// What waits to be sent.
pub struct Backlog {
    /// Messages for datagrams, with the length of the frame.
    pub datagrams: Queue<usize>,
    /// Messages for lanes, with the lane too.
    pub lanes: Queue<(u8, usize)>,
}

/// A connection.
pub struct Session {
    /// Its number at the endpoint.
    pub handle: ConnectionHandle,
    /// The state machine.
    pub connection: Connection,
    /// When a pending session has had its time; none for others.
    pub deadline: Option<Instant>,
    /// What the far side has said.
    pub hello: Option<Hello>,
    /// Whether something was read that the far side should be told of.
    pub must_transmit: bool,
    own: Hello,
    greeting: Vec<u8>,
    /// The far side's first stream, as long as it has not said hello.
    greeter: Option<StreamId>,
    lanes_out: Vec<Option<StreamId>>,
    /// The rest of a message that a lane has taken in part.
    unfinished: Option<(StreamId, Bytes)>,
    next_id: u32,
    lanes_in: HashMap<StreamId, LaneReader>,
    readable: VecDeque<StreamId>,
    reassembly: Reassembly,
}

impl Session {
    /// A pending one.
    pub fn new(handle: ConnectionHandle, connection: Connection, own: Hello, deadline: Instant) -> Self {
        Self {
            handle,
            connection,
            deadline: Some(deadline),
            hello: None,
            must_transmit: false,
            own,
            greeting: Vec::new(),
            greeter: None,
            lanes_out: vec![None; usize::from(LANES)],
            unfinished: None,
            next_id: 0,
            lanes_in: HashMap::new(),
            readable: VecDeque::new(),
            reassembly: Reassembly::default(),
        }
    }

    /// The key that the far side has proved.
    pub fn peer(&self) -> Option<Fingerprint> {
        let identity = self.connection.crypto_session().peer_identity()?;
        let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
        keys.first().map(|key| Fingerprint::of_key(key))
    }

    /// What the far side takes.
    pub fn offloads(&self) -> Offloads {
        self.hello.map_or(Offloads::NONE, |hello| hello.offloads.intersect(self.own.offloads))
    }

    /// Ends it.
    pub fn close(&mut self, now: Instant, why: Farewell) {
        self.deadline = None;
        self.connection.close(now, VarInt::from_u32(why as u32), Bytes::from_static(why.words().as_bytes()));
    }

    /// The next thing that has happened.
    pub fn poll(&mut self) -> Option<News> {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.say_hello(),
                Event::ConnectionLost { reason } => return Some(News::Lost(reason)),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                        if id.index() == 0 {
                            self.greeter = Some(id);
                        } else {
                            self.lanes_in.insert(id, LaneReader::default());
                            self.note_readable(id);
                        }
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) if self.lanes_in.contains_key(&id) => {
                    self.note_readable(id)
                }
                _ => {}
            }
        }
        self.hear_hello()
    }

    /// Hands the connection what it has room for; returns whether it got something.
    pub fn feed(&mut self, now: Instant, backlog: &mut Backlog, counters: &mut Counters) -> bool {
        let drops = &mut counters.drops;
        drops.add(DropReason::LinkFull, backlog.datagrams.expire(now) + backlog.lanes.expire(now));
        let fed = self.feed_datagrams(backlog, counters);
        self.feed_lanes(backlog, counters) || fed
    }

    /// The next message that has come. `drops` counts what is none.
    ///
    /// # Errors
    /// A lane is broken.
    pub fn next_message(&mut self, now: Instant, drops: &mut DropCounts) -> Result<Option<Bytes>, Farewell> {
        while let Some(datagram) = self.connection.datagrams().recv() {
            if datagram.first() != Some(&PART) {
                return Ok(Some(datagram));
            }
            if let Some(message) = self.reassembly.insert(now, &datagram, |reason| drops.count(reason)) {
                return Ok(Some(message));
            }
        }
        while let Some(id) = self.readable.front().copied() {
            let Some(lane) = self.lanes_in.get_mut(&id) else {
                self.readable.pop_front();
                continue;
            };
            if let Some(message) = lane.next_message().map_err(|_| Farewell::Broken)? {
                return Ok(Some(message));
            }
            let mut has_more = false;
            if let Ok(mut chunks) = self.connection.recv_stream(id).read(true) {
                if let Ok(Some(chunk)) = chunks.next(CHUNK) {
                    lane.push(&chunk.bytes);
                    has_more = true;
                }
                self.must_transmit |= chunks.finalize().should_transmit();
            }
            if !has_more {
                self.readable.pop_front();
            }
        }
        Ok(None)
    }

    fn say_hello(&mut self) {
        // The first stream, and a few bytes in it: what a connection that has just begun always has room for.
        if let Some(id) = self.connection.streams().open(Dir::Uni)
            && let Err(error) = self.connection.send_stream(id).write(&self.own.to_bytes())
        {
            log::debug!("no room for a hello: {error}");
        }
    }

    fn hear_hello(&mut self) -> Option<News> {
        let id = self.greeter?;
        let missing = Hello::LEN - self.greeting.len();
        if let Ok(mut chunks) = self.connection.recv_stream(id).read(true) {
            if let Ok(Some(chunk)) = chunks.next(missing) {
                self.greeting.extend_from_slice(&chunk.bytes);
            }
            self.must_transmit |= chunks.finalize().should_transmit();
        }
        let hello = Hello::parse(self.greeting.as_slice().try_into().ok()?);
        self.greeter = None;
        Some(hello.map_or_else(News::Foreign, |hello| {
            self.hello = Some(hello);
            News::Hello(hello)
        }))
    }

    fn note_readable(&mut self, id: StreamId) {
        if !self.readable.contains(&id) {
            self.readable.push_back(id);
        }
    }

    fn feed_datagrams(&mut self, backlog: &mut Backlog, counters: &mut Counters) -> bool {
        let mut fed = false;
        while self.datagrams_waiting() < DATAGRAMS {
            let Some(size) = self.connection.datagrams().max_size() else { break };
            let Some((len, message)) = backlog.datagrams.pop() else { break };
            let sent = if message.len() <= size {
                self.send_datagram(message.into())
            } else {
                self.next_id = self.next_id.wrapping_add(1);
                fragment::cut(&message, self.next_id, size)
                    .and_then(|parts| parts.into_iter().try_for_each(|part| self.send_datagram(part)))
            };
            match sent {
                Ok(()) => counters.sent(len),
                Err(reason) => counters.drops.count(reason),
            }
            fed = true;
        }
        fed
    }

    fn send_datagram(&mut self, datagram: Bytes) -> Result<(), DropReason> {
        self.connection.datagrams().send(datagram, false).map_err(|_| DropReason::LinkFull)
    }

    fn datagrams_waiting(&mut self) -> usize {
        transport::DATAGRAM_BUFFER.saturating_sub(self.connection.datagrams().send_buffer_space())
    }

    fn feed_lanes(&mut self, backlog: &mut Backlog, counters: &mut Counters) -> bool {
        // What is on its way, what waits behind a hole that is being mended, and a little more.
        let window = self.connection.congestion_state().window();
        self.connection.set_send_window(window * 9 / 4 + CHUNK as u64);
        let mut fed = false;
        loop {
            let (id, mut rest) = match self.unfinished.take() {
                Some(unfinished) => unfinished,
                None => {
                    let Some(((lane, len), message)) = backlog.lanes.pop() else { return fed };
                    let Some(id) = self.lane(lane) else {
                        counters.drops.count(DropReason::LinkFull);
                        continue;
                    };
                    counters.sent(len);
                    (id, message.into())
                }
            };
            let before = rest.len();
            match self.connection.send_stream(id).write_chunks(std::slice::from_mut(&mut rest)) {
                Ok(_) if rest.is_empty() => fed = true,
                Ok(_) | Err(WriteError::Blocked) => {
                    fed |= rest.len() < before;
                    self.unfinished = Some((id, rest));
                    return fed;
                }
                Err(_) => counters.drops.count(DropReason::LinkDown),
            }
        }
    }

    fn lane(&mut self, lane: u8) -> Option<StreamId> {
        let place = self.lanes_out.get_mut(usize::from(lane))?;
        if place.is_none() {
            *place = self.connection.streams().open(Dir::Uni);
        }
        *place
    }
}

/// What both ends' connections have in common.
pub mod transport {
    use std::sync::Arc;
    use std::time::Duration;

    use quinn_proto::{IdleTimeout, TransportConfig, VarInt};

    use super::super::steady::SteadyConfig;
    use super::LANES;

    /// Bytes of datagrams that have not been sent: what `feed` aims at, and the longest message in parts.
    pub const DATAGRAM_BUFFER: usize = 64 * 1024;
    /// Bytes that may come in a lane, or in all, before the owner takes some: a round trip of 100 ms at 1.3 Gbit/s.
    const RECEIVE_WINDOW: u32 = 16 << 20;
    /// The same for datagrams; what is more costs the oldest.
    const DATAGRAM_WINDOW: usize = 1 << 20;

    /// The settings; only one side keeps the connection alive.
    pub fn config(idle: Duration, keepalive: Option<Duration>) -> Arc<TransportConfig> {
        let mut config = TransportConfig::default();
        config
            .max_idle_timeout(IdleTimeout::try_from(idle).ok())
            .keep_alive_interval(keepalive)
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(VarInt::from_u32(u32::from(LANES) + 1))
            .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
            .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
            .datagram_receive_buffer_size(Some(DATAGRAM_WINDOW))
            .datagram_send_buffer_size(DATAGRAM_BUFFER)
            .congestion_controller_factory(Arc::new(SteadyConfig));
        Arc::new(config)
    }
}
