//! The attachment: the pump between a network card's rings and its link, for every model.
//!
//! # Theory of operation
//! One thread per card, one event loop. It wakes for a doorbell (the guest has frames, or has given buffers), for the link
//! (readiness, or its deadline), and for control messages from vcpus and the monitor. Then it takes one *turn*: it moves
//! frames both ways, a bounded number, and interrupts the guest once a batch. If more is to do it looks for messages without
//! waiting and takes another turn; otherwise it sleeps. Idle means no wakeups.
//!
//! Backpressure is decided here, and it is always *wait*: when the link is full, frames stay with the guest's rings until
//! the link is ready; when the guest has no buffers, frames stay in the link until the receive doorbell. A frame is dropped
//! here only when the cable is out or the link is gone.
//!
//! After every send and every service the link is emptied into the guest's buffers, since a link that carries on both sides
//! of a connection (the user-mode NAT) makes answers while it takes frames.
//!
//! Legal moves:
//!
//! ```text
//! no queues ── Activate ──► queues ── Quiesce ──► no queues       a message each; Quiesce answers when memory is let go
//! plugged ◄── SetLink ──► unplugged                               unplugged, both directions are discarded and counted
//! link alive ── an error ──► link gone                            said once; carrier off, transmitted frames discarded
//! ```
//!
//! Locks: none. A vcpu waits for the pump only in `Quiesce` and for counters, and a turn is short.
//! Neighbours: `virtio_net.rs` implements [`NicQueues`]; `link` is the other side.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use link::event::EventFd;
use link::{Counters, DropReason, FragmentMut, Link, LinkState, MAX_FRAME_LEN, RxBatch, TxBatch, VnetHeader};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::{Carrier, Error, NicQueues};

const CONTROL: Token = Token(0);
const TRANSMIT: Token = Token(1);
const RECEIVE: Token = Token(2);
const LINK: Token = Token(3);

/// Batches moved in one direction before the pump looks for messages again.
const BATCHES_PER_TURN: usize = 4;

/// The descriptors that a guest's notifications signal.
#[derive(Clone)]
pub struct Doorbells {
    /// The guest has frames to transmit.
    pub transmit: Arc<EventFd>,
    /// The guest has given buffers to receive into.
    pub receive: Arc<EventFd>,
}

/// What a card has carried, in the guest's sense of transmit and receive, and what its link says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Between rings and link.
    pub nic: Counters,
    /// The link's own.
    pub link: Counters,
    /// Turns that the pump has taken: one for each time it was woken, and more while it was busy.
    pub wakeups: u64,
}

/// Starts the thread that joins a card, called `name` in messages, to its link.
///
/// # Errors
/// The link cannot be polled, or the host is out of descriptors or threads.
pub fn start(
    name: &str,
    link: Box<dyn Link>,
    doorbells: &Doorbells,
    carrier: Arc<dyn Carrier>,
) -> Result<NicHandle, Error> {
    let fail = |act: &'static str| move |source: io::Error| Error::Host { name: name.to_owned(), act, source };
    let poll = Poll::new().map_err(fail("make an event loop"))?;
    let waker = Waker::new(poll.registry(), CONTROL).map_err(fail("make an event loop"))?;
    for (doorbell, token) in [(&doorbells.transmit, TRANSMIT), (&doorbells.receive, RECEIVE)] {
        poll.registry()
            .register(&mut SourceFd(&doorbell.as_raw_fd()), token, Interest::READABLE)
            .map_err(fail("poll a doorbell"))?;
    }
    let (sender, messages) = channel();
    let mut pump = Pump::new(name, link, poll, messages, doorbells.clone(), carrier);
    pump.link.register(pump.poll.registry(), LINK).map_err(fail("poll the link"))?;
    pump.show_carrier();
    let thread = std::thread::Builder::new()
        .name(format!("nic {name}"))
        .spawn(move || pump.run())
        .map_err(fail("start a thread"))?;
    Ok(NicHandle { control: Control { sender, waker: Arc::new(waker) }, thread: Some(thread) })
}

/// A card's thread, for whoever made the card. Dropping it ends the thread and closes the link.
pub struct NicHandle {
    control: Control,
    thread: Option<JoinHandle<()>>,
}

impl NicHandle {
    /// What the card has carried so far; nothing if its thread has ended.
    #[must_use]
    pub fn counters(&self) -> Option<NicCounters> {
        self.control.ask(Message::Counters)
    }

    /// Plugs the cable in or pulls it out. The guest sees the carrier change; while it is out, frames are discarded.
    pub fn set_link(&self, state: LinkState) {
        self.control.tell(Message::SetLink(state));
    }

    /// What the model's vcpu side needs.
    pub(crate) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends the thread and closes the link, whose captures are complete then. A driver that is still there sees its
    /// queues stand still.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.control.tell(Message::Stop);
            if thread.join().is_err() {
                log::error!("nic: its thread had panicked");
            }
        }
    }
}

impl Drop for NicHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes this thread one that does not preempt others when it wakes (sched(7), `SCHED_BATCH`).
///
/// Where a processor is idle that changes nothing. Where the vcpu that rang the doorbell has the only one, it goes on and
/// queues more frames, without ringing again, until it halts or its slice ends: batches instead of a frame per switch.
fn yield_to_vcpus(name: &str) {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters outlive the call; 0 is this thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameters) } < 0 {
        log::debug!("nic {name}: SCHED_BATCH: {}", io::Error::last_os_error());
    }
}

/// The way from a vcpu to the pump.
#[derive(Clone)]
pub(crate) struct Control {
    sender: Sender<Message>,
    waker: Arc<Waker>,
}

impl Control {
    /// Hands the rings over. Returns whether anybody is there to take them.
    pub(crate) fn activate(&self, queues: Box<dyn NicQueues>) -> bool {
        self.tell(Message::Activate(queues))
    }

    /// Has the rings dropped. When this returns, nothing of this card touches guest memory.
    pub(crate) fn quiesce(&self) {
        self.ask(Message::Quiesce);
    }

    /// Sends a question and waits for the answer; none if the thread has ended.
    fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Message) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        if self.tell(question(reply)) { answer.recv().ok() } else { None }
    }

    fn tell(&self, message: Message) -> bool {
        let sent = self.sender.send(message).is_ok();
        if let Err(error) = self.waker.wake() {
            log::error!("nic: cannot wake its thread: {error}");
        }
        sent
    }
}

enum Message {
    /// The driver is ready.
    Activate(Box<dyn NicQueues>),
    /// The device is reset.
    Quiesce(SyncSender<()>),
    SetLink(LinkState),
    Counters(SyncSender<NicCounters>),
    Stop,
}

/// Everything the thread owns.
struct Pump {
    name: String,
    link: Box<dyn Link>,
    poll: Poll,
    messages: Receiver<Message>,
    /// Kept open as long as they are polled.
    _doorbells: Doorbells,
    carrier: Arc<dyn Carrier>,
    /// The carrier that the guest has been shown.
    shown: Option<LinkState>,
    queues: Option<Box<dyn NicQueues>>,
    /// The guest may have frames.
    transmit_ready: bool,
    /// The link took less than it was given, and has said nothing since.
    link_full: bool,
    /// The link may have frames and the guest buffers.
    receive_ready: bool,
    plugged: bool,
    link_alive: bool,
    stopped: bool,
    counters: Counters,
    wakeups: u64,
    transmit_batch: TxBatch<'static>,
    receive_batch: RxBatch<'static>,
    frames: Vec<(VnetHeader, usize)>,
}

impl Pump {
    fn new(
        name: &str,
        link: Box<dyn Link>,
        poll: Poll,
        messages: Receiver<Message>,
        doorbells: Doorbells,
        carrier: Arc<dyn Carrier>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            link,
            poll,
            messages,
            _doorbells: doorbells,
            carrier,
            shown: None,
            queues: None,
            transmit_ready: false,
            link_full: false,
            receive_ready: false,
            plugged: true,
            link_alive: true,
            stopped: false,
            counters: Counters::default(),
            wakeups: 0,
            transmit_batch: TxBatch::new(),
            receive_batch: RxBatch::new(),
            frames: Vec::new(),
        }
    }

    fn run(mut self) {
        yield_to_vcpus(&self.name);
        let mut events = Events::with_capacity(8);
        while !self.stopped {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                log::error!("nic {}: waiting for events: {error}", self.name);
                return;
            }
            self.wakeups += 1;
            let mut service = self.deadline_passed();
            for event in &events {
                // Everything that can wake this thread; the link's deadline is above. Doorbells stay readable: each
                // signal makes a new event by itself (epoll(7), edge-triggered).
                match event.token() {
                    CONTROL => self.obey(),
                    TRANSMIT => self.transmit_ready = true,
                    RECEIVE => self.receive_ready = true,
                    LINK => service = true,
                    other => log::error!("nic {}: event for nobody: {other:?}", self.name),
                }
            }
            if service {
                self.service();
            }
            self.turn();
        }
    }

    /// How long to wait for the next event: not at all while there is more to do.
    fn patience(&self) -> Option<Duration> {
        let more = self.receive_ready || self.transmit_ready && !self.link_full;
        if more && (self.queues.is_some() || !self.plugged) {
            return Some(Duration::ZERO);
        }
        let deadline = self.link.deadline().filter(|_| self.link_alive)?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn deadline_passed(&self) -> bool {
        self.link_alive && self.link.deadline().is_some_and(|deadline| deadline <= Instant::now())
    }

    fn obey(&mut self) {
        loop {
            match self.messages.try_recv() {
                Ok(Message::Activate(queues)) => self.activate(queues),
                Ok(Message::Quiesce(reply)) => {
                    self.quiesce();
                    // Nobody waits any more only if the asking thread has died.
                    let _ = reply.send(());
                }
                Ok(Message::SetLink(state)) => {
                    self.plugged = state == LinkState::Up;
                    self.show_carrier();
                    self.receive_ready = true;
                }
                Ok(Message::Counters(reply)) => {
                    let counters =
                        NicCounters { nic: self.counters, link: self.link.counters(), wakeups: self.wakeups };
                    let _ = reply.send(counters);
                }
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => {
                    self.quiesce();
                    self.stopped = true;
                    return;
                }
                Err(TryRecvError::Empty) => return,
            }
        }
    }

    fn activate(&mut self, queues: Box<dyn NicQueues>) {
        let accepts = queues.accepts();
        if let Err(error) = self.link.accept(accepts) {
            log::warn!("nic {}: link {}: offloads {accepts:?}: {error}", self.name, self.link.name());
        }
        self.queues = Some(queues);
        self.link_full = false;
        self.transmit_ready = true;
        self.receive_ready = true;
    }

    fn quiesce(&mut self) {
        self.queues = None;
        self.transmit_ready = false;
        self.receive_ready = false;
        self.link_full = false;
    }

    /// The link's readiness or deadline: lets it work, and tries again whatever waited for it.
    fn service(&mut self) {
        if !self.link_alive {
            return;
        }
        if let Err(error) = self.link.service(Instant::now()) {
            self.lose_link(&error);
        }
        self.link_full = false;
        self.receive_ready = true;
        self.show_carrier();
    }

    /// Moves a bounded number of frames both ways and interrupts the guest for each batch.
    fn turn(&mut self) {
        if self.receive() > 0 {
            self.interrupt();
        }
        self.transmit();
        self.interrupt();
    }

    fn interrupt(&mut self) {
        if let Some(queues) = &mut self.queues {
            queues.interrupt();
        }
    }

    fn transmit(&mut self) {
        for _ in 0..BATCHES_PER_TURN {
            if !self.transmit_ready || self.link_full {
                return;
            }
            let Some((offered, taken)) = self.send_batch() else { return };
            // It may have answers now.
            self.receive_ready |= offered > 0;
            let progress = self.receive() > 0;
            // A link that was full only because nobody took its answers may have room again.
            self.link_full = taken < offered && !progress;
            self.interrupt();
        }
    }

    /// Sends one batch; returns how many frames there were and how many the link took.
    fn send_batch(&mut self) -> Option<(usize, usize)> {
        let queues = self.queues.as_mut()?;
        let mut batch = std::mem::take(&mut self.transmit_batch).recycle();
        queues.gather(&mut batch, &mut self.counters.drops);
        let offered = batch.len();
        let sent = match offered {
            0 => Ok(0),
            _ if self.plugged && self.link_alive => self.link.send(&batch),
            _ => {
                self.counters.drops.add(DropReason::LinkDown, offered as u64);
                Ok(offered)
            }
        };
        let taken = sent.as_ref().map_or(offered, |&taken| taken.min(offered));
        if self.plugged && self.link_alive && sent.is_ok() {
            batch.frames().take(taken).for_each(|frame| self.counters.sent(frame.len()));
        }
        self.transmit_batch = batch.recycle();
        if offered == 0 {
            self.transmit_ready = queues.rearm_transmit();
        } else {
            queues.transmitted(taken);
        }
        if let Err(error) = sent {
            self.counters.drops.add(DropReason::LinkDown, offered as u64);
            self.lose_link(&error);
        }
        Some((offered, taken))
    }

    /// Empties the link into the guest's buffers, as far as there are any; returns the number of frames.
    fn receive(&mut self) -> usize {
        if !self.plugged {
            return self.discard_received();
        }
        self.receive_ready &= self.link_alive;
        let mut total = 0;
        for _ in 0..BATCHES_PER_TURN {
            if !self.receive_ready {
                break;
            }
            let Some(count) = self.fill_batch() else { break };
            total += count;
        }
        if total > 0 {
            self.link_full = false;
        }
        total
    }

    /// Receives one batch; returns the number of frames, if there are queues at all.
    fn fill_batch(&mut self) -> Option<usize> {
        let queues = self.queues.as_mut()?;
        let mut batch = std::mem::take(&mut self.receive_batch).recycle();
        queues.offer(&mut batch, &mut self.counters.drops);
        let slots = batch.len();
        let result = if slots == 0 { Ok(0) } else { self.link.receive(&mut batch) };
        self.frames.clear();
        self.frames.extend(batch.frames());
        self.receive_batch = batch.recycle();
        for &(_, len) in &self.frames {
            self.counters.received(len);
        }
        queues.received(&self.frames, &mut self.counters.drops);
        self.receive_ready = if slots == 0 { queues.rearm_receive() } else { !self.frames.is_empty() };
        if let Err(error) = result {
            self.lose_link(&error);
        }
        Some(self.frames.len())
    }

    /// What arrives while the cable is out goes nowhere.
    fn discard_received(&mut self) -> usize {
        if !self.receive_ready || !self.link_alive {
            return 0;
        }
        let mut nowhere = vec![0; MAX_FRAME_LEN];
        for _ in 0..BATCHES_PER_TURN {
            let mut batch = RxBatch::new();
            batch.push([FragmentMut::new(&mut nowhere)]);
            let count = self.link.receive(&mut batch);
            self.receive_ready = matches!(count, Ok(1..));
            match count {
                Ok(0) => break,
                Ok(count) => self.counters.drops.add(DropReason::LinkDown, count as u64),
                Err(error) => {
                    self.lose_link(&error);
                    break;
                }
            }
        }
        0
    }

    fn show_carrier(&mut self) {
        let up = self.plugged && self.link_alive && self.link.state() == LinkState::Up;
        let state = if up { LinkState::Up } else { LinkState::Down };
        let before = self.shown.replace(state);
        if before == Some(state) {
            return;
        }
        if before.is_some() {
            log::info!("nic {}: link {}", self.name, if up { "up" } else { "down" });
        }
        self.carrier.carrier(state);
    }

    /// The link is beyond repair. The card stays, without a carrier.
    fn lose_link(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.link_alive, false) {
            return;
        }
        log::error!("nic {}: link {} is gone: {error}", self.name, self.link.name());
        if let Err(error) = self.link.deregister(self.poll.registry()) {
            log::debug!("nic {}: link {}: {error}", self.name, self.link.name());
        }
        self.link_full = false;
        self.receive_ready = false;
        self.show_carrier();
    }
}
