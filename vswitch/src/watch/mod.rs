//! Watching a switch: the socket that `vswitch show` and its like ask, and the metrics endpoint.
//!
//! # The socket
//! `DIR/api`, a stream socket with the mode and the group of `DIR/ctl`: who may join may ask. Requests and answers are
//! JSON, one document a line; an answer is several lines. Requests on one connection are answered in order. A line of
//! more than 8192 bytes is answered with an error and ends the connection; so does closing the sending side, once
//! everything that was asked is answered.
//!
//! | request | answer |
//! |---|---|
//! | `{"show":{}}` | `{"switch":{…}}`, `{"port":{…}}` for each port, `{"end":{}}` |
//! | `{"mac":{}}` | `{"station":{…}}` for each station, in no order, `{"end":{}}` |
//! | `{"explain":{"port":N,"vlan":N,"source":MAC,"destination":MAC}}` (1) | `{"explanation":{…}}`, `{"end":{}}` |
//! | `{"events":{}}` | `{"following":{}}`, then `{"event":{…}}` for each event (2) |
//! | `{"dump":{"port":N}}` | `{"capture":{…}}`, and behind the end of that line a pcapng file (2) |
//! | anything else, or in vain | `{"error":{"message":…}}` |
//!
//! (1) `port` and `vlan` may be left out. (2) Until the watcher closes its sending side, or the port is removed.
//!
//! Field names are in snake_case and those of the Rust types in `protocol`; a reader passes over those it does not
//! know. Numbers are numbers, and a unit is in the name (`uptime_seconds`). `time`, `started` and `since` are RFC 3339
//! in UTC. Frames and bytes are counters that only grow until they are reset from the console; a rate is a difference
//! of two answers by the difference of their `uptime_seconds`.
//!
//! An event has `time`, `event`, `text` for people, and what belongs to it:
//!
//! | event | fields |
//! |---|---|
//! | `port_added` `port_removed` `topology_changed` `guard_tripped` `storm` `mac_limit` | `port` |
//! | `joined` `left` | `port`, `member`, `name`; `reason` if it did not leave by itself |
//! | `refused` | `reason` |
//! | `station_moved` | `vlan`, `address`, `from_port`, `port` |
//! | `port_state` | `port`, `state`: `discarding`, `learning` or `forwarding` |
//! | `missed` | `missed`: how many events this watcher lost here, because it did not read |
//!
//! # Theory of operation
//! A watcher costs the switch bounded memory and bounded time, whatever it does. Answers are made a piece at a time, as
//! they are taken ([`session`], [`metrics`]); what cannot wait is lost to the watcher and counted. There are at most
//! 256 sessions and 32 scrapes. One more takes the place of the one that has been silent longest and follows nothing.
//!
//! | file | what it holds |
//! |---|---|
//! | `protocol` `report` | requests and answers; a switch put into them |
//! | `door` `connection` `session` | the sockets, bytes in and out, a watcher's session |
//! | `pcapng` `metrics` `clock` | the formats of captures, of figures, of times |
//! | `client` `show` `table` `units` | the commands, and what they print |

mod client;
mod clock;
mod connection;
mod door;
mod metrics;
mod pcapng;
mod protocol;
mod report;
mod session;
mod show;
mod table;
mod units;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::SystemTime;

use mio::Registry;
use slab::Slab;

use crate::Event;
use crate::about::About;
use crate::options::Config;
use crate::switch::{Switch, Wake};
use crate::vde::{Listener, Peer};
pub use client::{AskError, ask};
use connection::{Connection, Step, Stream};
use door::Door;
use link::socket_file::SocketError;
use metrics::{EventCounts, Scrape, View};
use protocol::{Answer, append, append_error};
use session::Session;

/// The name of the socket in the switch's directory. It is no number: VDE's clients look for ports under such names.
const SOCKET: &str = "api";
/// Watchers at a time.
const MAX_SESSIONS: usize = 256;
/// Clients of the metrics endpoint at a time.
const MAX_SCRAPES: usize = 32;
/// Steps that one readiness is worth.
const STEPS: usize = 4;
/// Steps that a capture may take in a round of the event loop: it may need more than an answer does, to keep pace.
const CAPTURE_STEPS: usize = 16;

/// Why a switch cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A socket at a path.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The operating system refused.
    #[error("cannot {act} {what}: {}", link::reason(.source))]
    System {
        /// What was to be done.
        act: &'static str,
        /// With what.
        what: String,
        /// What it said.
        source: io::Error,
    },
}

/// Everybody who watches.
#[derive(Debug, Default)]
pub struct Watchers {
    door: Option<Door>,
    sessions: Slab<Session>,
    /// Requests, and scrapes, so far: the order in which they came.
    count: u64,
    /// Open captures.
    captures: usize,
    metrics_door: Option<Door>,
    scrapes: Slab<Scrape>,
    /// Those who have more to be done than one turn allowed, in order.
    line: VecDeque<Wake>,
    events: EventCounts,
}

impl Watchers {
    /// Opens the socket of the watching commands beside the control socket, and the metrics endpoint.
    ///
    /// # Errors
    /// A socket cannot be made.
    pub fn open(config: &Config, door: &Listener, registry: &Registry) -> Result<Self, WatchError> {
        let mut watchers = Self::default();
        if config.api {
            let mut api = Door::open_unix(door.dir().join(SOCKET), door.mode(), door.group())?;
            api.register(registry, Wake::WatchDoor.token())?;
            watchers.door = Some(api);
        }
        if let Some(address) = &config.metrics {
            let mut metrics = Door::open_metrics(address)?;
            metrics.register(registry, Wake::MetricsDoor.token())?;
            watchers.metrics_door = Some(metrics);
        }
        Ok(watchers)
    }

    /// Somebody is at the socket of the watching commands.
    pub fn accept(&mut self, registry: &Registry) {
        while let Some(stream) = accept(self.door.as_ref()) {
            match Peer::of(stream.as_fd()) {
                Ok(peer) => self.begin(stream, peer, registry),
                Err(error) => log::warn!("cannot find out who asks: {}", link::reason(&error)),
            }
        }
    }

    fn begin(&mut self, stream: Stream, peer: Peer, registry: &Registry) {
        log::debug!("{peer} watches");
        let mut connection = Connection::new(stream);
        if self.sessions.len() >= MAX_SESSIONS {
            let others = self.sessions.iter().filter(|(_, session)| !session.is_stream());
            let Some(oldest) = others.min_by_key(|(_, session)| session.asked).map(|(key, _)| key) else {
                log::warn!("{peer}: too many watchers");
                append_error(format!("there are {MAX_SESSIONS} watchers already"), connection.out());
                // It is new, so there is room for a line.
                let _ = connection.flush();
                return;
            };
            // It captures nothing, so nothing of the switch's goes with it.
            self.sessions.remove(oldest).connection.deregister(registry);
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_SESSIONS")]
        let key = self.sessions.vacant_key() as u32;
        match connection.register(registry, Wake::Watch(key).token()) {
            Ok(()) => {
                self.count += 1;
                self.sessions.insert(Session::new(connection, peer, self.count));
            }
            Err(error) => log::warn!("{peer}: {}", link::reason(&error)),
        }
    }

    /// A watching command has asked something, or has room for more of its answer.
    pub fn serve(&mut self, key: u32, switch: &mut Switch, about: &About, registry: &Registry) {
        self.step(key, STEPS, switch, about, registry);
    }

    fn step(&mut self, key: u32, steps: usize, switch: &mut Switch, about: &About, registry: &Registry) {
        let Some(session) = self.sessions.get_mut(key as usize) else { return };
        self.count += 1;
        session.asked = self.count;
        for _ in 0..steps {
            match session.step(switch, about, &mut self.captures) {
                Step::Again => {}
                Step::Wait => return,
                Step::Gone => {
                    session.connection.deregister(registry);
                    self.sessions.remove(key as usize);
                    return;
                }
            }
        }
        if !std::mem::replace(&mut session.connection.is_queued, true) {
            self.line.push_back(Wake::Watch(key));
        }
    }

    /// Somebody is at the metrics endpoint.
    pub fn accept_metrics(&mut self, registry: &Registry) {
        while let Some(stream) = accept(self.metrics_door.as_ref()) {
            if self.scrapes.len() >= MAX_SCRAPES {
                let oldest = self.scrapes.iter().min_by_key(|(_, scrape)| scrape.came).map(|(key, _)| key);
                if let Some(key) = oldest {
                    self.scrapes.remove(key).connection.deregister(registry);
                }
            }
            let mut connection = Connection::new(stream);
            #[allow(clippy::cast_possible_truncation, reason = "at most MAX_SCRAPES")]
            let key = self.scrapes.vacant_key() as u32;
            match connection.register(registry, Wake::Metrics(key).token()) {
                Ok(()) => {
                    self.count += 1;
                    self.scrapes.insert(Scrape::new(connection, self.count));
                }
                Err(error) => log::warn!("metrics: {}", link::reason(&error)),
            }
        }
    }

    /// A request for metrics, or room for more of them.
    pub fn serve_metrics(&mut self, key: u32, switch: &Switch, about: &About, registry: &Registry) {
        let Some(scrape) = self.scrapes.get_mut(key as usize) else { return };
        let view = View { switch, about, events: &self.events };
        for _ in 0..STEPS {
            match scrape.step(&view) {
                Step::Again => {}
                Step::Wait => return,
                Step::Gone => {
                    scrape.connection.deregister(registry);
                    self.scrapes.remove(key as usize);
                    return;
                }
            }
        }
        if !std::mem::replace(&mut scrape.connection.is_queued, true) {
            self.line.push_back(Wake::Metrics(key));
        }
    }

    /// Tells those who follow the events.
    pub fn publish(&mut self, events: &[Event], registry: &Registry) {
        let time = SystemTime::now();
        let is_followed = self.sessions.iter().any(|(_, session)| session.is_stream());
        for event in events {
            *self.events.entry(report::event_name(event)).or_default() += 1;
            if is_followed {
                let mut line = Vec::new();
                append(&Answer::Event(report::event(event, time)), &mut line);
                self.sessions.iter_mut().for_each(|(_, session)| session.tell(&line));
            }
        }
        if is_followed {
            self.sessions.retain(|_, session| {
                let is_there = session.push();
                if !is_there {
                    session.connection.deregister(registry);
                }
                is_there
            });
        }
    }

    /// Whether somebody can be served who has no readiness to come.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.line.is_empty()
    }

    /// Passes on what captures have caught, and more of the answers under way.
    pub fn pump(&mut self, switch: &mut Switch, about: &About, registry: &Registry) {
        for _ in 0..self.line.len() {
            match self.line.pop_front() {
                Some(Wake::Watch(key)) => {
                    if let Some(session) = self.sessions.get_mut(key as usize) {
                        session.connection.is_queued = false;
                    }
                    self.step(key, STEPS, switch, about, registry);
                }
                Some(Wake::Metrics(key)) => {
                    if let Some(scrape) = self.scrapes.get_mut(key as usize) {
                        scrape.connection.is_queued = false;
                    }
                    self.serve_metrics(key, switch, about, registry);
                }
                _ => {}
            }
        }
        if self.captures == 0 {
            return;
        }
        let mut has_more = |key| switch.capture_mut(key).is_none_or(|capture| !capture.is_empty());
        let sessions =
            self.sessions.iter().filter_map(|(key, session)| session.capture().map(|capture| (key, capture)));
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_SESSIONS")]
        let due: Vec<u32> = sessions.filter(|(_, capture)| has_more(*capture)).map(|(key, _)| key as u32).collect();
        for key in due {
            self.step(key, CAPTURE_STEPS, switch, about, registry);
        }
    }
}

/// The next at a door.
fn accept(door: Option<&Door>) -> Option<Stream> {
    let door = door?;
    door.accept().unwrap_or_else(|error| {
        // Those at the door are accepted when the next one comes.
        log::warn!("{}: cannot accept: {}", door.name(), link::reason(&error));
        None
    })
}
