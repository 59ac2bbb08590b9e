//! The hub: links joined so that what one delivers goes to all others, as in QEMU's `-net` networks.
//!
//! One thread, one event loop. It wakes for a link's readiness or deadline, and for messages. Then it takes *turns*: from
//! each port that may have frames one batch, flooded to every other port, until no port has any. A port that was sent to
//! may have frames too, since a link that carries on both sides of a connection (the user-mode NAT) makes answers while
//! it takes frames.
//!
//! Backpressure is decided here, and it is always *drop*: what a port does not take at once is counted as
//! [`link::DropReason::LinkFull`] on that port, so a slow port never holds up the others. A port whose link fails is closed, said
//! once, and the others go on.
//!
//! Every link stands inside [`Soft`], so a frame still to be segmented floods as it is and is cut only for the ports that
//! need it. The hub learns no addresses; that is the business of the switch, which has a loop of its own.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use link::{Counters, Link, Soft, pair};
use mio::{Events, Poll, Token, Waker};

use crate::OpenError;
use crate::port::{Memory, Port};

/// The token of messages; ports have their numbers.
const MESSAGE: Token = Token(usize::MAX);

/// A running hub. Dropping it ends its thread and closes its links.
pub struct Hub {
    messages: Sender<Message>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What a port has carried: into its link (transmitted) and out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortCounters {
    /// The locator of the port's link.
    pub name: String,
    /// The link's own counters, with what the hub dropped because the link was full.
    pub counters: Counters,
}

/// Both ends of a link in memory: the first is a network card's, the second goes into [`Hub::start`].
pub type Cable = (Box<dyn Link>, Box<dyn Link>);

/// Makes the link between a card and a port. The card's end takes every offload and delivers what the card accepts.
///
/// # Errors
/// The process is out of file descriptors.
pub fn cable(name: &str) -> Result<Cable, OpenError> {
    let (card, hub) = pair(name).map_err(|source| OpenError::Host { act: "make a cable", source })?;
    Ok((Box::new(Soft::new(card)), Box::new(hub)))
}

impl Hub {
    /// Joins these links, in a thread of its own.
    ///
    /// # Errors
    /// A link cannot be polled, or the process is out of descriptors or threads.
    pub fn start(links: Vec<Box<dyn Link>>) -> Result<Self, OpenError> {
        let fail = |act| move |source| OpenError::Host { act, source };
        let poll = Poll::new().map_err(fail("make the hub's event loop"))?;
        let waker = Waker::new(poll.registry(), MESSAGE).map_err(fail("make the hub's event loop"))?;
        let mut ports = Vec::with_capacity(links.len());
        for (index, link) in links.into_iter().enumerate() {
            let link = Box::new(Soft::new(link));
            let name = link.name().to_owned();
            let port = Port::open(link, poll.registry(), Token(index)).map_err(fail("poll a link of the hub"))?;
            ports.push(Member { name, port: Some(port), past: Counters::default() });
        }
        let (sender, messages) = channel();
        let floor = Floor { poll, messages, ports, memory: Memory::default() };
        let thread = std::thread::Builder::new().name("hub".to_owned()).spawn(move || floor.run());
        Ok(Self { messages: sender, waker, thread: Some(thread.map_err(fail("start the hub's thread"))?) })
    }

    /// What each port has carried and dropped, in the order of the links; nothing if the thread has ended.
    #[must_use]
    pub fn counters(&self) -> Vec<PortCounters> {
        let (reply, answer) = sync_channel(1);
        self.tell(Message::Counters(reply));
        answer.recv().unwrap_or_default()
    }

    fn tell(&self, message: Message) {
        // A thread that has ended hears nothing, and the answer never comes.
        if self.messages.send(message).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("hub: cannot wake its thread: {error}");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.tell(Message::Stop);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("hub: its thread had panicked");
        }
    }
}

enum Message {
    Counters(SyncSender<Vec<PortCounters>>),
    Stop,
}

/// Everything the thread owns.
struct Floor {
    poll: Poll,
    messages: Receiver<Message>,
    ports: Vec<Member>,
    memory: Memory,
}

impl Floor {
    fn run(mut self) {
        let mut events = Events::with_capacity(64);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("hub: its event loop failed: {error}");
                return;
            }
            if !self.hear() {
                return;
            }
            let now = Instant::now();
            for (index, port) in self.ports.iter_mut().enumerate() {
                let is_ready = events.iter().any(|event| event.token() == Token(index));
                let deadline = port.port.as_ref().and_then(Port::deadline);
                if is_ready || deadline.is_some_and(|deadline| deadline <= now) {
                    port.attempt(|port| port.service(now));
                }
            }
            for index in 0..self.ports.len() {
                self.take_turn(index);
            }
        }
    }

    /// How long there is nothing to do.
    fn timeout(&self) -> Option<Duration> {
        let mut ports = self.ports.iter().filter_map(|member| member.port.as_ref());
        if ports.clone().any(|port| port.may_have_frames) {
            return Some(Duration::ZERO);
        }
        let deadline = ports.by_ref().filter_map(Port::deadline).min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Answers messages; returns whether to go on.
    fn hear(&self) -> bool {
        for message in self.messages.try_iter() {
            match message {
                // Who asked may have stopped waiting.
                Message::Counters(reply) => drop(reply.send(self.ports.iter().map(Member::counters).collect())),
                Message::Stop => return false,
            }
        }
        true
    }

    /// Forwards one batch of a port's frames.
    fn take_turn(&mut self, index: usize) {
        let Self { ports, memory, .. } = self;
        let Some(member) = ports.get_mut(index) else { return };
        let has_frames = |port: &mut Port| if port.may_have_frames { memory.receive(port) } else { Ok(false) };
        if member.attempt(has_frames) != Some(true) {
            return;
        }
        for (other, member) in ports.iter_mut().enumerate() {
            if other != index {
                member.attempt(|port| memory.send(port));
            }
        }
    }
}

/// A link of the hub's.
struct Member {
    name: String,
    /// `None` after an error.
    port: Option<Port>,
    /// What it had carried by then.
    past: Counters,
}

impl Member {
    /// Does something with the link, and closes it if that fails.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut Port) -> io::Result<T>) -> Option<T> {
        let port = self.port.as_mut()?;
        match act(port) {
            Ok(value) => Some(value),
            Err(error) => {
                log::error!("hub: {}: {error}: the port is closed", self.name);
                self.past = port.counters();
                self.port = None;
                None
            }
        }
    }

    fn counters(&self) -> PortCounters {
        PortCounters { name: self.name.clone(), counters: self.port.as_ref().map_or(self.past, Port::counters) }
    }
}

#[cfg(test)]
#[path = "hub_test.rs"]
mod tests;
