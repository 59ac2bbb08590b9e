//! The running switch: one event loop, and one `match` that lists everything that can wake it.
//!
//! Theory of operation. Each round: what became ready is served (doors are opened, requests heard, members put in line),
//! what is due is done, members in line get their turns, and what has happened meanwhile is told to those who listen. With
//! nothing ready and nothing due the loop sleeps.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use link::InterfaceWatch;
use mio::{Events, Poll};
use program::signals::Signals;
use slab::Slab;

use crate::about::About;
use crate::console::{Consoles, Order};
use crate::switch::{Kind, Switch, SwitchError, Wake};
use crate::vde::{Knock, Listener, Request, VdeError, escape};
use crate::watch::Watchers;
use crate::{Event, PortId};

/// How long a client may take to say which port it wants.
const KNOCK_TIME: Duration = Duration::from_secs(10);
/// Clients at the door at once; one more takes the place of the one that has waited longest.
const MAX_KNOCKS: usize = 256;

/// A switch with its doors.
pub struct Server {
    /// The event loop.
    pub poll: Poll,
    /// What ends it.
    pub signals: Signals,
    /// What has been set up.
    pub switch: Switch,
    /// The watching commands and the metrics endpoint. Their socket is in the directory of the door, which removes that.
    pub watchers: Watchers,
    /// The door of the VDE clients.
    pub door: Listener,
    /// Word of interfaces that go down and come up.
    pub interfaces: InterfaceWatch,
    /// The consoles.
    pub consoles: Consoles,
    /// What it says of itself.
    pub about: About,
}

impl Server {
    /// Runs until a signal or a console ends it.
    ///
    /// # Errors
    /// The event loop fails.
    pub fn run(self) -> io::Result<()> {
        let Self { mut poll, signals, switch, door, interfaces, consoles, watchers, about } = self;
        let mut rounds = Rounds { signals, switch, watchers, door, knocks: Slab::new(), interfaces, consoles, about };
        let mut events = Events::with_capacity(256);
        loop {
            match poll.poll(&mut events, rounds.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for wake in events.iter().filter_map(|event| Wake::from_token(event.token())) {
                if rounds.serve(wake, poll.registry()) == Order::End {
                    return Ok(());
                }
            }
            rounds.finish(poll.registry());
            if let Some(time) = rounds.switch.rest() {
                thread::sleep(time);
            }
        }
    }
}

/// The state of the loop's rounds.
struct Rounds {
    signals: Signals,
    switch: Switch,
    watchers: Watchers,
    door: Listener,
    /// Clients that have not said all yet, and until when they may.
    knocks: Slab<(Knock, Instant)>,
    interfaces: InterfaceWatch,
    consoles: Consoles,
    about: About,
}

impl Rounds {
    /// How long there is nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.switch.has_work() || self.watchers.has_work() {
            return Some(Duration::ZERO);
        }
        let knock = self.knocks.iter().map(|(_, (_, deadline))| *deadline).min();
        let deadline = [knock, self.switch.deadline()].into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Serves what has become ready.
    fn serve(&mut self, wake: Wake, registry: &mio::Registry) -> Order {
        match wake {
            Wake::Signal => return self.hear_signals(),
            Wake::Interfaces => self.look_at_carriers(),
            Wake::Door => self.open_door(registry),
            Wake::Knock(key) => self.hear(key, registry),
            Wake::Member(key) => self.switch.serve(key),
            Wake::Control(key) => self.switch.serve_control(key),
            Wake::ConsoleDoor => self.consoles.accept(registry),
            Wake::Console(key) => return self.consoles.serve(key, &mut self.switch, &self.about, registry),
            Wake::WatchDoor => self.watchers.accept(registry),
            Wake::Watch(key) => self.watchers.serve(key, &mut self.switch, &self.about, registry),
            Wake::MetricsDoor => self.watchers.accept_metrics(registry),
            Wake::Metrics(key) => self.watchers.serve_metrics(key, &self.switch, &self.about, registry),
        }
        Order::Continue
    }

    /// What is left of a round: what is due, the turns, and the news.
    fn finish(&mut self, registry: &mio::Registry) {
        if !self.knocks.is_empty() {
            self.close_silent_knocks(registry);
        }
        if self.switch.deadline().is_some() {
            self.switch.expire(Instant::now());
        }
        self.switch.work();
        self.watchers.pump(&mut self.switch, &self.about, registry);
        let events = self.switch.take_events();
        if !events.is_empty() {
            events.iter().for_each(log);
            self.consoles.publish(&events, &self.switch, registry);
            self.watchers.publish(&events, registry);
        }
    }

    /// Being continued after a stop is no reason to end.
    fn hear_signals(&mut self) -> Order {
        let ends = std::iter::from_fn(|| self.signals.take()).any(|signal| signal != libc::SIGCONT);
        if ends { Order::End } else { Order::Continue }
    }

    fn look_at_carriers(&mut self) {
        if self.interfaces.take() {
            self.switch.look_at_carriers();
        }
    }

    /// Lets everybody in who stands at the control socket.
    fn open_door(&mut self, registry: &mio::Registry) {
        loop {
            match self.door.accept() {
                Ok(Some(knock)) => self.begin(knock, registry),
                Ok(None) => return,
                Err(error) => {
                    log::warn!("{}/ctl: cannot accept a client: {}", self.door.dir().display(), link::reason(&error));
                    return;
                }
            }
        }
    }

    fn begin(&mut self, mut knock: Knock, registry: &mio::Registry) {
        if self.knocks.len() >= MAX_KNOCKS {
            let oldest = self.knocks.iter().min_by_key(|(_, (_, deadline))| *deadline).map(|(key, _)| key as u32);
            if let Some(key) = oldest {
                self.refuse(key, "too many clients at the door, and this one has waited longest", registry);
            }
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_KNOCKS")]
        let key = self.knocks.vacant_key() as u32;
        match knock.register(registry, Wake::Knock(key).token()) {
            Ok(()) => {
                self.knocks.insert((knock, Instant::now() + KNOCK_TIME));
                // Most have said everything by now.
                self.hear(key, registry);
            }
            Err(error) => log::warn!("{}: {}", knock.peer(), link::reason(&error)),
        }
    }

    /// Hears what a client at the door wants.
    fn hear(&mut self, key: u32, registry: &mio::Registry) {
        let Some((knock, _)) = self.knocks.get_mut(key as usize) else { return };
        match knock.hear() {
            Ok(None) => {}
            Ok(Some(request)) => {
                let (mut knock, _) = self.knocks.remove(key as usize);
                let _ = knock.deregister(registry);
                let peer = knock.peer().to_string();
                if let Err(error) = self.admit(knock, &request) {
                    log::warn!("{peer}: refused: {error}");
                    self.news(Event::Refused { reason: format!("{peer}: {error}") }, registry);
                }
            }
            Err(refusal) => self.refuse(key, &refusal.to_string(), registry),
        }
    }

    fn admit(&mut self, knock: Knock, request: &Request) -> Result<(), AdmissionError> {
        let peer = knock.peer().clone();
        let wanted = PortId::new(request.port);
        if request.port != 0 && wanted.is_none() {
            return Err(AdmissionError::NoSuchPort(request.port));
        }
        let port = self.switch.assign_port(wanted, Some(&peer))?;
        let client = self.door.admit(knock, request, port)?;
        self.switch.add_client(port, client, Kind::Client { peer, description: escape(&request.description) })?;
        Ok(())
    }

    fn refuse(&mut self, key: u32, why: &str, registry: &mio::Registry) {
        let (mut knock, _) = self.knocks.remove(key as usize);
        let _ = knock.deregister(registry);
        let reason = format!("{}: {why}", knock.peer());
        log::warn!("{reason}");
        self.news(Event::Refused { reason }, registry);
    }

    fn news(&mut self, event: Event, registry: &mio::Registry) {
        let events = [event];
        self.consoles.publish(&events, &self.switch, registry);
        self.watchers.publish(&events, registry);
    }

    fn close_silent_knocks(&mut self, registry: &mio::Registry) {
        let now = Instant::now();
        let is_due = |(key, (_, deadline)): (usize, &(Knock, Instant))| (*deadline <= now).then_some(key as u32);
        let due: Vec<u32> = self.knocks.iter().filter_map(is_due).collect();
        for key in due {
            self.refuse(key, &format!("said nothing for {} s", KNOCK_TIME.as_secs()), registry);
        }
    }
}

/// Why a client that said what it wants does not get it.
#[derive(Debug, thiserror::Error)]
enum AdmissionError {
    #[error("it asks for port {0}, and no switch has that")]
    NoSuchPort(u32),
    #[error(transparent)]
    Switch(#[from] SwitchError),
    #[error(transparent)]
    Vde(#[from] VdeError),
}

/// One line for a change of state.
fn log(event: &Event) {
    match event {
        Event::Left { reason: Some(_), .. } | Event::GuardTripped(_) | Event::Storm(_) | Event::MacLimit(_) => {
            log::warn!("{event}");
        }
        _ => log::info!("{event}"),
    }
}
