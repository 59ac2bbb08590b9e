//! Two links joined: what one delivers goes into the other, until one of them ends or a signal comes.
//!
//! One thread, one event loop, which wakes for a link's readiness or deadline, for interfaces that go up or down, for
//! signals, and for questions at the control socket. Where one link has no carrier, the other is told ([`Link::show_carrier`]). Backpressure is decided here, and it
//! is always *drop*: what a link does not take at once is counted as [`link::DropReason::LinkFull`].

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use link::socket_file::SocketError;
use link::{Counters, InterfaceWatch, Link, LinkState};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use program::signals::Signals;

use crate::control::Control;
use crate::iplog::{Addresses, Used};
use crate::port::{Memory, Port};
use crate::report;

/// Turns of each link after which the event loop looks at everything else again.
const TURNS: usize = 16;
const SIGNALS: Token = Token(2);
const INTERFACES: Token = Token(3);
/// Those who are connected to the control socket come behind.
const CONTROL: Token = Token(4);

/// Two links, and what wakes for them.
pub struct Join {
    poll: Poll,
    ports: [Port; 2],
    /// Carrier when it was last looked at.
    carriers: [LinkState; 2],
    memory: Memory,
    signals: Signals,
    interfaces: InterfaceWatch,
    addresses: Option<AddressLog>,
    control: Option<Control>,
}

/// The addresses behind the second link, and who is told of new ones.
type AddressLog = (Addresses, Box<dyn FnMut(Used)>);

/// How a join has ended.
#[derive(Debug)]
pub enum Ending {
    /// By a signal.
    Signal,
    /// By the end of a link, which has this name.
    Link(String, io::Error),
}

impl Join {
    /// Takes over two links that take every offload.
    ///
    /// # Errors
    /// A link cannot be polled.
    pub fn new(links: [Box<dyn Link>; 2], signals: Signals) -> io::Result<Self> {
        let poll = Poll::new()?;
        let [first, second] = links;
        let first = Port::open(first, poll.registry(), Token(0))?;
        let ports = [first, Port::open(second, poll.registry(), Token(1))?];
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        let interfaces = InterfaceWatch::open()?;
        poll.registry().register(&mut SourceFd(&interfaces.as_raw_fd()), INTERFACES, Interest::READABLE)?;
        // So what has none from the beginning is told.
        let carriers = [LinkState::Up; 2];
        Ok(Self {
            poll,
            ports,
            carriers,
            memory: Memory::default(),
            signals,
            interfaces,
            addresses: None,
            control: None,
        })
    }

    /// Has each IP address told that is used behind the second link.
    pub fn tell_addresses(&mut self, tell: impl FnMut(Used) + 'static) {
        self.addresses = Some((Addresses::default(), Box::new(tell)));
    }

    /// Answers at a control socket what the links have carried (`report`).
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn answer_at(&mut self, path: &Path) -> Result<(), SocketError> {
        self.control = Some(Control::open(path, self.poll.registry(), CONTROL)?);
        Ok(())
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// The event loop fails.
    pub fn run(&mut self) -> io::Result<Ending> {
        let mut events = Events::with_capacity(8);
        // A link may have been ready, or due, before it was registered.
        let mut is_first = true;
        loop {
            match self.poll.poll(&mut events, if is_first { Some(Duration::ZERO) } else { self.timeout() }) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let is_told = |token| events.iter().any(|event| event.token() == token);
            if is_told(SIGNALS) && std::iter::from_fn(|| self.signals.take()).any(|signal| signal != libc::SIGCONT) {
                return Ok(Ending::Signal);
            }
            if is_told(INTERFACES) && self.interfaces.take() {
                self.ports.iter_mut().for_each(Port::look_again);
            }
            let now = Instant::now();
            for index in 0..2 {
                let port = &mut self.ports[index];
                let is_due = port.deadline().is_some_and(|deadline| deadline <= now);
                if (is_first || is_due || is_told(Token(index)))
                    && let Err(error) = port.service(now)
                {
                    return Ok(self.ended(index, error));
                }
            }
            is_first = false;
            for _ in 0..TURNS {
                for index in 0..2 {
                    if let Err((index, error)) = self.take_turn(index) {
                        return Ok(self.ended(index, error));
                    }
                }
            }
            self.look_at_carriers();
            if let Some(control) = &mut self.control {
                for event in events.iter().filter(|event| event.token() >= CONTROL) {
                    if event.token() == CONTROL {
                        control.accept(self.poll.registry());
                    } else {
                        control.note(event.token());
                    }
                }
                let reports = || self.ports.iter().map(Port::report).collect::<Vec<_>>();
                control.serve(|line| report::answer(line, &reports()));
            }
        }
    }

    /// What each link has carried and dropped, with its name.
    pub fn counters(&self) -> impl Iterator<Item = (&str, Counters)> {
        self.ports.iter().map(|port| (port.name(), port.counters()))
    }

    fn timeout(&self) -> Option<Duration> {
        let is_asked = self.control.as_ref().is_some_and(Control::has_work);
        if is_asked || self.ports.iter().any(|port| port.may_have_frames) {
            return Some(Duration::ZERO);
        }
        let deadline = self.ports.iter().filter_map(Port::deadline).min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Forwards one batch of a link's frames; an error is that of the link with this index.
    fn take_turn(&mut self, index: usize) -> Result<(), (usize, io::Error)> {
        let [first, second] = &mut self.ports;
        let (from, to) = if index == 0 { (first, second) } else { (second, first) };
        if !from.may_have_frames || !self.memory.receive(from).map_err(|error| (index, error))? {
            return Ok(());
        }
        if let Some((addresses, tell)) = self.addresses.as_mut().filter(|_| index == 1) {
            self.memory.frames().filter_map(|frame| addresses.note(frame)).for_each(tell);
        }
        self.memory.send(to).map_err(|error| (1 - index, error))
    }

    fn ended(&self, index: usize, error: io::Error) -> Ending {
        Ending::Link(self.ports[index].name().to_owned(), error)
    }

    /// Shows each link the carrier of the other, where that has changed.
    fn look_at_carriers(&mut self) {
        for index in 0..2 {
            let state = self.ports[index].state();
            if self.carriers[index] != state {
                self.carriers[index] = state;
                let words = if state == LinkState::Up { "carrier" } else { "no carrier" };
                log::info!("{}: {words}", self.ports[index].name());
                self.ports[1 - index].show_carrier(state);
            }
        }
    }
}
