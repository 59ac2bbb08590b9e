//! `impair://{LOCATOR}?…`: a link around any other that makes a bad network of it.
//!
//! | file | what it holds |
//! |---|---|
//! | `settings` | the keys, and the settings that they make |
//! | `units` | percentages, times, rates, sizes |
//! | `fate` | what becomes of a frame: pure |
//! | `draw` | chance that can be repeated |
//! | `lane` | a direction: the frames that wait |
//! | `timer` | a timer that rings to the microsecond |
//! | `control` | the lines that change settings |
//!
//! [`settings::KEYS`] lists the keys, with netem's words (tc-netem(8)). A plain key is for both directions, one behind
//! `tx.` for frames into the wrapped link, one behind `rx.` for those out of it. `seed=N` makes every decision of
//! chance repeatable: without it a seed is made up, and told at the level of info. `control=PATH` makes a control
//! socket.
//!
//! # What differs from netem
//!
//! - Jitter does not put frames out of order, unless `overtake=on`; netem's does.
//! - A correlation does not change how many frames are affected: with this probability a frame fares as the one before.
//! - A number without unit is in milliseconds for delays (in seconds for a blackhole); tc(8) has microseconds there.
//! - A frame of `reorder` skips the delay, but not the queue that the rate makes.
//! - The limit is 50000 frames where there is no rate, not 1000.
//!
//! # wirefilter's options
//!
//! | wirefilter | here |
//! |---|---|
//! | `-l 10` | `loss=10%` |
//! | `-l 10 -L 3` | `loss=10%&burst=3` |
//! | `-d 1000` | `delay=1000ms` |
//! | `-d 1000+500`, `-d 1000+500U` | `delay=1000ms&jitter=500ms` |
//! | `-d 1000+500N` | `delay=1000ms&jitter=166.667ms&distribution=normal`: its variation is three deviations |
//! | `-D 5` | `duplicate=5%`, of which each arrives twice, never more often |
//! | `-b 128K` | `rate=128kibps` |
//! | `-s 128K` | `speed=128kibps` |
//! | `-c 65536` | `buffer=65536` |
//! | `-m 1516` | `mtu=1500`: it counts the Ethernet header, and two bytes of its own |
//! | `-n 8` | `noise=8` |
//! | `-N` | `overtake=on` |
//! | `LR`, `RL` in front of a value | `tx.` or `rx.` in front of the key |
//! | `-M SOCK` | `control=PATH` |
//!
//! Not here: a variation of other values than the delay, and chains of states with values for each (a channel with two
//! states is `gemodel`).
//!
//! # Long frames
//!
//! A wire loses single segments. So as soon as anything is set for a direction, the link takes (or asks its inner link
//! for) whole frames alone in that direction, and [`link::Soft`] around it (or inside of it) segments and checksums
//! them first: loss, rate, MTU and everything else applies to what would be on a wire, and a damaged frame is found out
//! by the checksum it has. A direction with nothing set passes frames on as they are. A blackhole alone loses long
//! frames whole.
//!
//! The link states the MTU of the inner link whatever `mtu` says: a bad path tells nobody.
//!
//! # Time
//!
//! Theory of operation. A frame is taken, its fate decided at once, and it waits until it is due. Frames for the inner
//! link are sent by [`Link::service`], those for the owner are there for [`Link::receive`]. The inner link, a timer,
//! and the control socket with those who are connected to it are all registered with an event loop of the link's own,
//! whose descriptor is what the owner waits for: the timer is exact where an owner's deadline is rounded up to a
//! millisecond. With nothing set and nothing waiting, frames go straight through; nothing is then due and no timer set.
//!
//! A frame that the inner link does not take when it is due waits for room, and counts as waiting.
//!
//! The link's counters are the inner link's, with the frames that were dropped here: [`DropReason::Impaired`] for what
//! was lost, [`DropReason::Oversized`] for what exceeds `mtu`, [`DropReason::LinkFull`] for what exceeds `limit` or
//! `buffer`.

pub mod control;
pub mod draw;
pub mod fate;
mod lane;
pub mod settings;
mod timer;
pub mod units;

use std::fmt::Write as _;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use link::socket_file::SocketError;
use link::{
    Capabilities, Counters, DropReason, Fragment, FragmentMut, Link, LinkState, LocatorError, MAX_FRAME_LEN, Offloads,
    Options, OwnedFrame, RxBatch, TxBatch, Way,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use serde_json::{Map, Value, json};

use crate::control::Control;
use crate::user::random_seed;
use control::Command;
use fate::Impairment;
use lane::Lane;
use settings::{KEYS, Settings, Sides};
use timer::Timer;

/// Sources of the link's own event loop; those who are connected to the control socket come behind.
const INNER: Token = Token(0);
const TIMER: Token = Token(1);
const CONTROL: Token = Token(2);
/// Events fetched at once.
const EVENTS: usize = 16;
/// Frames received at once from the inner link.
const STAGE_FRAMES: usize = 8;
/// Frames received from the inner link before others get a turn.
const MAX_PULL: usize = 256;

/// A bad network to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImpairConfig {
    /// What is done to frames.
    pub sides: Sides,
    /// What chance begins with; none for another every time.
    pub seed: Option<u64>,
    /// Where the control socket is, if there is one.
    pub control: Option<PathBuf>,
}

/// Why a link cannot be impaired.
#[derive(Debug, thiserror::Error)]
pub enum ImpairError {
    /// The control socket.
    #[error("control socket: {0}")]
    Control(#[from] SocketError),
    /// The operating system refused a timer or an event loop, or the inner link cannot be polled.
    #[error("{link}: cannot {act}: {}", link::reason(.source))]
    System {
        /// The link.
        link: String,
        /// What was to be done.
        act: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl ImpairConfig {
    /// Takes the keys out of a locator's options.
    ///
    /// # Errors
    /// A value that its key does not take, or keys that contradict each other.
    pub fn take_from(options: &mut Options) -> Result<Self, LocatorError> {
        let mut sides = Sides::default();
        for prefix in Sides::PREFIXES {
            for key in &KEYS {
                let name = format!("{prefix}{}", key.name);
                if let Some(value) = options.take(&name)? {
                    sides.set(&name, &value).map_err(|error| options.bad_value(&name, &value, &error.why))?;
                }
            }
        }
        sides.check().map_err(|error| options.bad_value(&error.key, &error.value, &error.why))?;
        let seed = options.take_parsed("seed")?;
        let control = options.take("control")?.map(PathBuf::from);
        if control.as_deref() == Some(Path::new("")) {
            return Err(options.bad_value("control", "", &"expected a path"));
        }
        Ok(Self { sides, seed, control })
    }
}

/// Every key and what it means, for the manuals.
#[must_use]
pub fn documentation() -> Vec<(String, &'static str)> {
    let keys = KEYS.iter().map(|key| (format!("{}={}", key.name, key.form), key.help));
    let own = [
        ("seed=N", "What chance begins with: with the same seed the same frames have the same fate, every time."),
        (
            "control=PATH",
            "A socket for changes while it runs. It takes lines: set KEY=VALUE..., show, show --json, blackhole TIME, \
             reset, help.",
        ),
        (
            "tx.KEY=VALUE, rx.KEY=VALUE",
            "For one direction: frames into the wrapped link, or out of it. Other keys are for both.",
        ),
    ];
    keys.chain(own.map(|(form, help)| (form.to_owned(), help))).collect()
}

/// A link around another that does to frames what its settings say. The inner link takes every offload, as one inside
/// of [`link::Soft`] does; this one does not, so it belongs into such a link itself.
pub struct Impair<L> {
    name: String,
    inner: L,
    poll: Poll,
    events: Events,
    timer: Timer,
    control: Option<Control>,
    tx: Lane,
    rx: Lane,
    seed: u64,
    /// What the owner accepts.
    accepts: Offloads,
    /// What the inner link was told.
    accepts_inside: Option<Offloads>,
    /// When a sender that was held up may go on.
    sender_waits: Option<Instant>,
    /// When to look at the inner link again, without a readiness that tells.
    look_again: Option<Instant>,
    stage: Vec<Box<[u8]>>,
    outgoing: TxBatch<'static>,
}

impl<L: Link> Impair<L> {
    /// Wraps a link that is not registered anywhere.
    ///
    /// # Errors
    /// The control socket cannot be made, or the process is out of descriptors.
    pub fn open(mut inner: L, config: &ImpairConfig) -> Result<Self, ImpairError> {
        let name = format!("impair://{{{}}}", inner.name());
        let fail = |act| {
            let link = name.clone();
            move |source| ImpairError::System { link, act, source }
        };
        let poll = Poll::new().map_err(fail("make an event loop"))?;
        let timer = Timer::new().map_err(fail("make a timer"))?;
        inner.register(poll.registry(), INNER).map_err(fail("poll the link inside"))?;
        let timer_fd = timer.as_raw_fd();
        let registered = poll.registry().register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE);
        registered.map_err(fail("poll its timer"))?;
        let control =
            config.control.as_deref().map(|path| Control::open(path, poll.registry(), CONTROL)).transpose()?;
        let seed = config.seed.unwrap_or_else(|| {
            let seed = random_seed();
            log::info!("{name}: seed={seed}");
            seed
        });
        let mut link = Self {
            name,
            inner,
            poll,
            events: Events::with_capacity(EVENTS),
            timer,
            control,
            tx: Lane::new(Impairment::new(seed, 0)),
            rx: Lane::new(Impairment::new(seed, 1)),
            seed,
            accepts: Offloads::NONE,
            accepts_inside: None,
            sender_waits: None,
            look_again: None,
            stage: Vec::new(),
            outgoing: TxBatch::new(),
        };
        link.set(config.sides.clone(), Instant::now());
        Ok(link)
    }

    /// What is set; a blackhole is not among it.
    #[must_use]
    pub fn sides(&self) -> Sides {
        let settings = |lane: &Lane| lane.impairment.settings().clone();
        Sides { tx: settings(&self.tx), rx: settings(&self.rx) }
    }

    fn set(&mut self, sides: Sides, now: Instant) {
        self.tx.impairment.set(sides.tx, now);
        self.rx.impairment.set(sides.rx, now);
    }

    /// Serves what has become ready of the link's own sources.
    fn hear(&mut self, now: Instant) -> io::Result<()> {
        loop {
            match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            let mut count = 0;
            for event in &self.events {
                count += 1;
                match (event.token(), &mut self.control) {
                    (INNER, _) => {}
                    (TIMER, _) => self.timer.has_rung(),
                    (CONTROL, Some(control)) => control.accept(self.poll.registry()),
                    (token, Some(control)) => control.note(token),
                    (_, None) => {}
                }
            }
            if count < EVENTS {
                break;
            }
        }
        if let Some(mut control) = self.control.take() {
            control.serve(|line| self.execute(line, now));
            self.control = Some(control);
        }
        Ok(())
    }

    /// Does what a line on the control socket says, and answers.
    fn execute(&mut self, line: &str, now: Instant) -> Result<String, String> {
        match Command::parse(line)? {
            Command::Set(pairs) => self.change(&pairs, now)?,
            Command::Show { json: false } => return Ok(self.show(now)),
            Command::Show { json: true } => return Ok(self.report(now).to_string()),
            Command::Reset => {
                let nothing = Settings { blackhole: Some(Duration::ZERO), ..Settings::default() };
                self.set(Sides { tx: nothing.clone(), rx: nothing }, now);
                self.restart(self.seed);
                log::info!("{}: reset", self.name);
            }
            Command::Help => return Ok(control::help()),
        }
        Ok("ok".to_owned())
    }

    /// Sets all of these, or none.
    fn change(&mut self, pairs: &[(String, String)], now: Instant) -> Result<(), String> {
        let mut sides = self.sides();
        let mut seed = None;
        for (key, value) in pairs {
            if key == "seed" {
                let number = value.parse().map_err(|_| format!("seed={}: expected a number", value.escape_debug()))?;
                seed = Some(number);
            } else {
                sides.set(key, value).map_err(|error| error.to_string().escape_debug().to_string())?;
            }
        }
        sides.check().map_err(|error| error.to_string())?;
        self.set(sides, now);
        if let Some(seed) = seed {
            self.restart(seed);
        }
        let words: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        log::info!("{}: set {}", self.name, words.join(" "));
        Ok(())
    }

    fn restart(&mut self, seed: u64) {
        self.seed = seed;
        self.tx.impairment.restart(seed);
        self.rx.impairment.restart(seed);
    }

    /// What is set and what has happened, to be read.
    fn show(&self, now: Instant) -> String {
        let mut text = format!("{}\nseed={}\n", self.name, self.seed);
        for (side, lane) in [("tx", &self.tx), ("rx", &self.rx)] {
            let words: Vec<_> =
                lane.impairment.settings().shown().map(|(key, value)| format!("{key}={value}")).collect();
            let words = if words.is_empty() { "nothing".to_owned() } else { words.join(" ") };
            let _ = writeln!(text, "{side}: {words}");
            if let Some(left) = lane.impairment.blackhole_left(now) {
                let _ = writeln!(text, "{side}: blackhole for {} ms", left.as_millis());
            }
            let (figures, waiting) = (&lane.figures, lane.waiting());
            let _ = writeln!(
                text,
                "{side}: {} frames: {} lost, {} too long, {} found no room, {} duplicated, {} damaged, {} reordered; \
                 {} wait ({} bytes)",
                figures.frames,
                figures.drops.get(DropReason::Impaired),
                figures.drops.get(DropReason::Oversized),
                figures.drops.get(DropReason::LinkFull),
                figures.duplicated,
                figures.corrupted,
                figures.reordered,
                waiting.frames,
                waiting.bytes,
            );
        }
        text
    }

    /// The same for programs.
    fn report(&self, now: Instant) -> Value {
        let side = |lane: &Lane| {
            let settings: Map<String, Value> =
                lane.impairment.settings().shown().map(|(key, value)| (key.to_owned(), value.into())).collect();
            let drops: Map<String, Value> =
                lane.figures.drops.iter().map(|(reason, frames)| (reason.name().to_owned(), frames.into())).collect();
            let blackhole = lane.impairment.blackhole_left(now).map(|left| left.as_secs_f64());
            json!({
                "settings": settings,
                "blackhole_seconds": blackhole,
                "frames": lane.figures.frames,
                "drops": drops,
                "duplicated": lane.figures.duplicated,
                "corrupted": lane.figures.corrupted,
                "reordered": lane.figures.reordered,
                "waiting_frames": lane.waiting().frames,
                "waiting_bytes": lane.waiting().bytes,
            })
        };
        json!({ "link": self.name, "seed": self.seed, "tx": side(&self.tx), "rx": side(&self.rx) })
    }

    /// Tells the inner link what to deliver, if that has changed.
    fn accept_inside(&mut self) -> io::Result<()> {
        let offloads = if self.rx.impairment.settings().is_clear() { self.accepts } else { Offloads::NONE };
        if self.accepts_inside.replace(offloads) != Some(offloads) {
            self.inner.accept(offloads)?;
        }
        Ok(())
    }

    /// Sends what is due into the inner link.
    fn flush(&mut self, now: Instant) -> io::Result<()> {
        let due = self.tx.due(now);
        if due.is_empty() {
            return Ok(());
        }
        let mut batch = mem::take(&mut self.outgoing).recycle();
        for frame in due {
            batch.push(frame.header, [Fragment::new(&frame.bytes)]);
        }
        let sent = self.inner.send(&batch)?;
        self.outgoing = batch.recycle();
        self.tx.delivered(sent);
        Ok(())
    }

    /// Takes in what the inner link has.
    fn pull(&mut self, now: Instant) -> io::Result<()> {
        self.look_again = None;
        let has_speed = self.rx.impairment.settings().speed.is_some();
        let wanted = if has_speed { 1 } else { STAGE_FRAMES };
        let mut stage = mem::take(&mut self.stage);
        stage.resize_with(STAGE_FRAMES, || vec![0; MAX_FRAME_LEN].into());
        let mut pulled = 0;
        loop {
            self.look_again = self.rx.impairment.held_until(now).or((pulled >= MAX_PULL).then_some(now));
            if self.look_again.is_some() {
                break;
            }
            let mut batch = RxBatch::new();
            for buffer in stage.iter_mut().take(wanted) {
                batch.push([FragmentMut::new(buffer)]);
            }
            let received = self.inner.receive(&mut batch)?;
            let frames: Vec<_> = batch.frames().collect();
            for (buffer, (header, len)) in stage.iter().zip(frames) {
                let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                self.rx.take(OwnedFrame { header, bytes }, now);
            }
            if received < wanted {
                break;
            }
            pulled += received;
        }
        self.stage = stage;
        Ok(())
    }

    /// Moves what is due into the owner's slots, as much as there is of both.
    fn deliver(&mut self, batch: &mut RxBatch<'_>, now: Instant) {
        let (mut gone, mut misfits) = (0, 0);
        for frame in self.rx.due(now) {
            let Some(slot) = batch.next_slot() else { break };
            misfits += u64::from(slot.write(frame.header, &[&frame.bytes]).is_err());
            gone += 1;
        }
        self.rx.delivered(gone);
        self.rx.figures.drops.add(DropReason::Oversized, misfits);
    }

    /// Sets the timer to when something is to be done next.
    fn set_timer(&mut self, now: Instant) -> io::Result<()> {
        self.set_timer_for([self.rx.next_due(), self.look_again], now)
    }

    /// The same, with these times at which the owner is to receive.
    fn set_timer_for(&mut self, receive: [Option<Instant>; 2], now: Instant) -> io::Result<()> {
        let answer = self.control.as_ref().is_some_and(Control::has_work).then_some(now);
        let others = [self.tx.next_due(), self.sender_waits, answer];
        self.timer.set(receive.into_iter().chain(others).flatten().min())
    }
}

impl<L: Link> Link for Impair<L> {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        let inner = self.inner.capabilities();
        if self.tx.impairment.settings().is_clear() {
            inner
        } else {
            Capabilities { offloads: Offloads::NONE, ..inner }
        }
    }

    fn native_offloads(&self) -> Offloads {
        self.inner.native_offloads().intersect(self.capabilities().offloads)
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.accepts = offloads;
        self.accept_inside()
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.poll.as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.poll.as_raw_fd()))
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.hear(now)?;
        self.accept_inside()?;
        self.inner.service(now)?;
        self.sender_waits = self.sender_waits.filter(|time| *time > now);
        self.flush(now)?;
        // The owner receives next: what is due already needs no timer.
        let receive = [self.rx.next_due(), self.look_again].map(|time| time.filter(|time| *time > now));
        self.set_timer_for(receive, now)
    }

    /// The inner link's, except that nobody asks it before its time.
    fn deadline(&self) -> Option<Instant> {
        let inner = self.inner.deadline()?;
        Some(self.look_again.map_or(inner, |time| time.max(inner)))
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let now = Instant::now();
        if self.tx.is_clear(now) {
            return self.inner.send(batch);
        }
        let mut taken = 0;
        for frame in batch.frames() {
            self.sender_waits = self.tx.impairment.held_until(now);
            if self.sender_waits.is_some() {
                break;
            }
            self.tx.take(frame.into(), now);
            taken += 1;
        }
        self.flush(now)?;
        self.set_timer(now)?;
        Ok(taken)
    }

    fn answers(&self) -> bool {
        self.inner.answers()
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let now = Instant::now();
        if self.rx.is_clear(now) {
            self.look_again = None;
            return self.inner.receive(batch);
        }
        let before = batch.filled();
        self.pull(now)?;
        self.deliver(batch, now);
        self.set_timer(now)?;
        Ok(batch.filled() - before)
    }

    fn state(&self) -> LinkState {
        self.inner.state()
    }

    fn look_again(&mut self) {
        self.inner.look_again();
    }

    fn show_carrier(&mut self, carrier: LinkState) {
        self.inner.show_carrier(carrier);
    }

    fn way(&self) -> Option<Way> {
        self.inner.way()
    }

    fn counters(&self) -> Counters {
        let mut counters = self.inner.counters();
        counters.drops.merge(&self.tx.figures.drops);
        counters.drops.merge(&self.rx.figures.drops);
        counters
    }
}

#[cfg(test)]
#[path = "link_test.rs"]
mod tests;
