//! The hub: links joined so that what one delivers goes to all others, as in QEMU's `-net` networks.
//!
//! One thread, one event loop. It wakes for a link's readiness or deadline, and for messages. Then it takes *turns*: from
//! each port that may have frames one batch, flooded to every other port, until no port has any. A port that was sent to
//! may have frames too, since a link that carries on both sides of a connection (the user-mode NAT) makes answers while
//! it takes frames.
//!
//! Backpressure is decided here, and it is always *drop*: what a port does not take at once is counted as
//! [`DropReason::LinkFull`] on that port, so a slow port never holds up the others. A port whose link fails is closed, said
//! once, and the others go on.
//!
//! Every link stands inside [`Soft`], so a frame still to be segmented floods as it is and is cut only for the ports that
//! need it. The hub learns no addresses; that is the business of the switch, which has a loop of its own.

use std::io;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use link::{
    Counters, DropCounts, DropReason, Fragment, FragmentMut, Link, MAX_FRAME_LEN, Offloads, RxBatch, Soft, TxBatch,
    VnetHeader, pair,
};
use mio::{Events, Poll, Registry, Token, Waker};

use crate::OpenError;

/// Frames taken from a port in one turn.
const BATCH_FRAMES: usize = 16;
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
            ports.push(Port::open(link, poll.registry(), Token(index)).map_err(fail("poll a link of the hub"))?);
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
    ports: Vec<Port>,
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
                if is_ready || port.deadline().is_some_and(|deadline| deadline <= now) {
                    port.service(now);
                }
            }
            for index in 0..self.ports.len() {
                self.take_turn(index);
            }
        }
    }

    /// How long there is nothing to do.
    fn timeout(&self) -> Option<Duration> {
        if self.ports.iter().any(|port| port.may_have_frames) {
            return Some(Duration::ZERO);
        }
        let deadline = self.ports.iter().filter_map(Port::deadline).min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    /// Answers messages; returns whether to go on.
    fn hear(&self) -> bool {
        for message in self.messages.try_iter() {
            match message {
                // Who asked may have stopped waiting.
                Message::Counters(reply) => drop(reply.send(self.ports.iter().map(Port::counters).collect())),
                Message::Stop => return false,
            }
        }
        true
    }

    /// Forwards one batch of a port's frames.
    fn take_turn(&mut self, index: usize) {
        let Some(port) = self.ports.get_mut(index).filter(|port| port.may_have_frames) else { return };
        self.memory.receive(port);
        if self.memory.frames.is_empty() {
            port.may_have_frames = false;
            return;
        }
        for (other, port) in self.ports.iter_mut().enumerate() {
            if other != index {
                self.memory.send(port);
            }
        }
    }
}

/// Where frames lie on their way through.
struct Memory {
    buffers: Vec<Box<[u8]>>,
    frames: Vec<(VnetHeader, usize)>,
    incoming: RxBatch<'static>,
    outgoing: TxBatch<'static>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            buffers: (0..BATCH_FRAMES).map(|_| vec![0; MAX_FRAME_LEN].into()).collect(),
            frames: Vec::new(),
            incoming: RxBatch::new(),
            outgoing: TxBatch::new(),
        }
    }
}

impl Memory {
    fn receive(&mut self, port: &mut Port) {
        let mut batch = mem::take(&mut self.incoming).recycle();
        for buffer in &mut self.buffers {
            batch.push([FragmentMut::new(buffer)]);
        }
        port.receive(&mut batch);
        self.frames.clear();
        self.frames.extend(batch.frames());
        self.incoming = batch.recycle();
    }

    /// Sends every frame into a port.
    fn send(&mut self, port: &mut Port) {
        let mut batch = mem::take(&mut self.outgoing).recycle();
        for (buffer, (header, len)) in self.buffers.iter().zip(&self.frames) {
            batch.push(*header, [Fragment::new(&buffer[..*len])]);
        }
        port.send(&batch);
        self.outgoing = batch.recycle();
    }
}

/// A link of the hub's.
struct Port {
    name: String,
    /// `None` after an error.
    link: Option<Soft<Box<dyn Link>>>,
    may_have_frames: bool,
    drops: DropCounts,
}

impl Port {
    fn open(link: Box<dyn Link>, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut link = Soft::new(link);
        link.register(registry, token)?;
        link.accept(Offloads::ALL)?;
        Ok(Self { name: link.name().to_owned(), link: Some(link), may_have_frames: true, drops: DropCounts::default() })
    }

    fn deadline(&self) -> Option<Instant> {
        self.link.as_ref()?.deadline()
    }

    fn service(&mut self, now: Instant) {
        self.may_have_frames = true;
        self.attempt(|link| link.service(now));
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) {
        self.attempt(|link| link.receive(batch));
    }

    fn send(&mut self, batch: &TxBatch<'_>) {
        if let Some(taken) = self.attempt(|link| link.send(batch)) {
            self.drops.add(DropReason::LinkFull, (batch.len() - taken) as u64);
            self.may_have_frames |= self.link.as_ref().is_some_and(Link::answers);
        }
    }

    fn counters(&self) -> PortCounters {
        let mut counters = self.link.as_ref().map(Link::counters).unwrap_or_default();
        counters.drops.merge(&self.drops);
        PortCounters { name: self.name.clone(), counters }
    }

    /// Does something with the link, and closes it if that fails.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut Soft<Box<dyn Link>>) -> io::Result<T>) -> Option<T> {
        match act(self.link.as_mut()?) {
            Ok(value) => Some(value),
            Err(error) => {
                log::error!("hub: {}: {error}: the port is closed", self.name);
                self.link = None;
                self.may_have_frames = false;
                None
            }
        }
    }
}

#[cfg(test)]
#[path = "hub_test.rs"]
mod tests;
