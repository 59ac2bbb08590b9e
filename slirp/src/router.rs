//! The event loop between the NAT and its link: one thread, which wakes for the link, for host sockets, for whoever uses
//! the API, for interfaces that go up or down, and for what ends it.
//!
//! All of it is in one epoll instance, that of the NAT's host sockets.
//!
//! It is not `plug::Join` of `user://` and the link, because that copies each frame once more on either way: here a frame
//! is read into the memory from which the NAT takes it, and written from the memory in which the NAT has made it.
//!
//! Backpressure is decided here: towards the guest it is *wait*. The one frame that the link did not take is kept, and the
//! NAT makes no other until the link is ready: the data stay in the host's sockets. A link that tells only of frames, as a
//! TAP, which always takes them, is the exception: there it would be *drop*. Towards the host the NAT decides.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use link::{
    Counters, DropCounts, DropReason, Fragment, FragmentMut, InterfaceWatch, Link, MAX_FRAME_LEN, Offloads, OwnedFrame,
    RxBatch, TxBatch, VnetHeader,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nat::{Nat, OFFLOADS, Readiness, Sockets};
use program::signals::Signals;

use crate::api::Api;

/// Frames taken from the link in one turn.
const BATCH_FRAMES: usize = 16;
/// Frames made for the guest in one turn: with 16 of 64 KiB, what a processor's cache holds.
const BATCH_MADE: usize = 16;
/// Turns after which the event loop looks at everything else again.
const TURNS: usize = 16;

const LINK: Token = Token(0);
const SIGNALS: Token = Token(1);
const INTERFACES: Token = Token(2);
const EXIT: Token = Token(3);
/// That of the API, and all above.
const API: Token = Token(4);

/// How it has ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// By a signal, or by the descriptor that was to end it.
    Asked,
    /// By the end of the link.
    Link(io::Error),
}

/// A NAT, its link, and what wakes for them.
pub(crate) struct Router {
    /// Of the NAT's host sockets.
    registry: Registry,
    nat: Nat<Sockets>,
    link: Box<dyn Link>,
    /// The link tells of frames as long as it has some, and of nothing else.
    tells: bool,
    /// What it did not take.
    drops: DropCounts,
    signals: Signals,
    interfaces: InterfaceWatch,
    exit: Option<OwnedFd>,
    api: Option<Api>,
    /// What the link takes; the NAT was told.
    takes: Offloads,
    /// The link may have frames.
    may_have_frames: bool,
    /// Frames to look for in one turn.
    wanted: usize,
    /// The link had frames when it was last waited for.
    was_told: bool,
    /// A frame that the link did not take.
    held: Option<OwnedFrame>,
    ready: Vec<Readiness>,
    buffers: Vec<Box<[u8]>>,
    frames: Vec<(VnetHeader, usize)>,
    incoming: RxBatch<'static>,
    outgoing: TxBatch<'static>,
}

impl Router {
    /// Takes over a NAT and a link that takes every offload; `signals` end it.
    ///
    /// # Errors
    /// The link cannot be polled, or the process is out of descriptors.
    pub(crate) fn new(mut nat: Nat<Sockets>, mut link: Box<dyn Link>, signals: Signals) -> io::Result<Self> {
        let registry = nat.host_mut().registry().try_clone()?;
        link.register(&registry, LINK)?;
        let tells = link.tell_while_ready(&registry, LINK)?;
        link.accept(OFFLOADS)?;
        let watch = |fd, token| registry.register(&mut SourceFd(&fd), token, Interest::READABLE);
        watch(signals.as_raw_fd(), SIGNALS)?;
        let interfaces = InterfaceWatch::open()?;
        watch(interfaces.as_raw_fd(), INTERFACES)?;
        let takes = link.capabilities().offloads;
        nat.accept(takes);
        Ok(Self {
            registry,
            nat,
            link,
            tells,
            drops: DropCounts::default(),
            signals,
            interfaces,
            exit: None,
            api: None,
            takes,
            may_have_frames: true,
            wanted: BATCH_FRAMES,
            was_told: false,
            held: None,
            ready: Vec::new(),
            buffers: (0..BATCH_FRAMES).map(|_| vec![0; MAX_FRAME_LEN].into()).collect(),
            frames: Vec::new(),
            incoming: RxBatch::new(),
            outgoing: TxBatch::new(),
        })
    }

    /// Ends, once this descriptor has anything to read, or its other end is closed.
    ///
    /// # Errors
    /// It cannot be polled.
    pub(crate) fn end_with(&mut self, exit: OwnedFd) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&exit.as_raw_fd()), EXIT, Interest::READABLE)?;
        self.exit = Some(exit);
        Ok(())
    }

    /// Serves the API.
    ///
    /// # Errors
    /// It cannot be polled.
    pub(crate) fn serve(&mut self, mut api: Api) -> io::Result<()> {
        api.register(&self.registry, API)?;
        self.api = Some(api);
        Ok(())
    }

    /// Runs until the end.
    ///
    /// # Errors
    /// The event loop fails.
    pub(crate) fn run(&mut self) -> io::Result<Ending> {
        let mut tokens = Vec::new();
        // The link may have been ready, or due, before it was registered.
        let mut is_first = true;
        loop {
            let timeout = if is_first { Some(Duration::ZERO) } else { self.timeout() };
            self.nat.host_mut().wait_for_all(timeout, &mut self.ready, &mut tokens)?;
            let now = Instant::now();
            let mut serve_link = is_first || self.link.deadline().is_some_and(|deadline| deadline <= now);
            is_first = false;
            self.look_for(tokens.contains(&LINK));
            for token in tokens.drain(..) {
                match token {
                    LINK => serve_link = true,
                    SIGNALS => {
                        if std::iter::from_fn(|| self.signals.take()).any(|signal| signal != libc::SIGCONT) {
                            return Ok(Ending::Asked);
                        }
                    }
                    INTERFACES => {
                        if self.interfaces.take() {
                            self.link.look_again();
                        }
                    }
                    EXIT => return Ok(Ending::Asked),
                    _ => {
                        if let Some(api) = &mut self.api {
                            api.serve(&self.registry, token, now, &mut self.nat);
                        }
                    }
                }
            }
            if serve_link && let Err(error) = self.serve_link(now) {
                return Ok(Ending::Link(error));
            }
            for readiness in self.ready.drain(..) {
                self.nat.ready(now, readiness);
            }
            self.nat.expire(now);
            for _ in 0..TURNS {
                match self.take_turn() {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => return Ok(Ending::Link(error)),
                }
            }
        }
    }

    /// The link's name.
    pub(crate) fn name(&self) -> &str {
        self.link.name()
    }

    /// What the link has carried, and what was dropped on either side of it.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.link.counters();
        counters.drops.merge(self.nat.drops());
        counters.drops.merge(&self.drops);
        counters
    }

    /// Decides how many frames to look for. A look that finds none costs as much as one that finds a frame; so where the
    /// link tells of more, it is asked for one, and for more only if it had some at the last look too.
    fn look_for(&mut self, told: bool) {
        if self.tells {
            self.wanted = if told && self.was_told { (2 * self.wanted).min(BATCH_FRAMES) } else { 1 };
            self.was_told = told;
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if self.may_have_frames || self.held.is_none() && self.nat.has_output() {
            return Some(Duration::ZERO);
        }
        let deadline = [self.nat.deadline(), self.link.deadline()].into_iter().flatten().min()?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }

    fn serve_link(&mut self, now: Instant) -> io::Result<()> {
        self.link.service(now)?;
        self.may_have_frames = true;
        let takes = self.link.capabilities().offloads;
        if self.takes != takes {
            self.takes = takes;
            self.nat.accept(takes);
        }
        // Readiness may mean room.
        match self.held.take() {
            Some(frame) => self.send_again(frame),
            None => Ok(()),
        }
    }

    /// Frames from the link, and frames for it; returns whether there may be more.
    fn take_turn(&mut self) -> io::Result<bool> {
        if self.may_have_frames {
            self.receive()?;
        }
        self.send()?;
        Ok(self.may_have_frames || self.held.is_none() && self.nat.has_output())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut batch = mem::take(&mut self.incoming).recycle();
        for buffer in self.buffers.iter_mut().take(self.wanted) {
            batch.push([FragmentMut::new(buffer)]);
        }
        let outcome = self.link.receive(&mut batch);
        self.frames.clear();
        self.frames.extend(batch.frames());
        self.incoming = batch.recycle();
        outcome?;
        // Another look is saved where more would be told.
        self.may_have_frames = self.frames.len() > if self.tells { BATCH_FRAMES - 1 } else { 0 };
        let now = Instant::now();
        for (buffer, (header, len)) in self.buffers.iter().zip(&self.frames) {
            self.nat.input(now, header, &buffer[..*len]);
        }
        if !self.frames.is_empty() {
            self.nat.flush();
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        if self.held.is_some() || !self.nat.has_output() {
            return Ok(());
        }
        let now = Instant::now();
        for _ in 0..BATCH_MADE {
            let Some((header, frame)) = self.nat.output(now) else { break };
            let mut batch = mem::take(&mut self.outgoing).recycle();
            batch.push(header, [Fragment::new(frame)]);
            let outcome = self.link.send(&batch);
            self.outgoing = batch.recycle();
            match outcome? {
                0 if self.tells => self.drops.count(DropReason::LinkFull),
                0 => {
                    self.held = Some(OwnedFrame { header, bytes: frame.to_vec() });
                    break;
                }
                _ => {}
            }
        }
        self.may_have_frames |= self.link.answers();
        Ok(())
    }

    fn send_again(&mut self, frame: OwnedFrame) -> io::Result<()> {
        let mut batch = mem::take(&mut self.outgoing).recycle();
        batch.push(frame.header, [Fragment::new(&frame.bytes)]);
        let outcome = self.link.send(&batch);
        self.outgoing = batch.recycle();
        if outcome? == 0 {
            self.held = Some(frame);
        }
        Ok(())
    }
}
