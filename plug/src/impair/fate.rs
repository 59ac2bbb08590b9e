//! What becomes of a frame: lost, or delivered, when, how often, and with which bits inverted. Pure.
//!
//! Theory of operation. Frames are numbered as they come, lost ones too. What chance decides about frame n comes from
//! `draw` and from nothing else, so with the same seed the nth frame has the same luck whatever else is set. It passes,
//! in this order: the blackhole, the MTU, loss, the queue's limits; then it leaves at the rate, one after another, and
//! is under way for the delay. Without jitter, or with `overtake` off, frames arrive in the order in which they came,
//! unless `reorder` has one skip its delay.
//!
//! A duplicate follows its original out of the queue, takes its time there too, and has a delay of its own.
//!
//! Invariant: [`Impairment::decide`] depends on its arguments and on earlier calls alone.
//!
//! Neighbours: `settings` says what is asked for; `lane` keeps the frames until they are due.

use std::time::{Duration, Instant};

use link::DropReason;

use super::draw::{Draws, Purpose};
use super::settings::{Chance, Distribution, Settings};
use super::units::Share;

/// Frames that may wait where nothing else is said and there is a rate: netem's limit.
const LIMIT_AT_A_RATE: u32 = 1_000;
/// The same without a rate: all of them are under way. 6 Gbit/s and 100 ms, in the frames of Ethernet's MTU.
const LIMIT: u32 = 50_000;
/// Bytes that may wait where nothing else is said.
const BUFFER: u64 = 128 << 20;
/// A sender that was held up and comes back late has lost nothing, up to this.
const LATENESS: Duration = Duration::from_millis(1);

/// One direction of a bad network.
#[derive(Clone, Debug)]
pub struct Impairment {
    settings: Settings,
    seed: u64,
    direction: u64,
    /// The number of the next frame.
    number: u64,
    is_bad: bool,
    was_lost: bool,
    was_duplicated: bool,
    was_corrupted: bool,
    was_reordered: bool,
    /// Frames since the last that could skip the delay.
    since_reorder: u32,
    /// Until when the line is sending.
    sending: Option<Instant>,
    /// Until when the sender is held up.
    taking: Option<Instant>,
    /// When the last of those that stay in order arrives.
    last_due: Option<Instant>,
    /// Until when everything is lost.
    blackhole: Option<Instant>,
}

/// The lengths of a frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// All of it, without FCS.
    pub frame: usize,
    /// What is behind the Ethernet header and its VLAN tags.
    pub payload: usize,
}

/// What waits already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Frames.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes nowhere.
    Dropped(DropReason),
    /// It arrives.
    Delivered(Delivery),
}

/// How a frame arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// When.
    pub due: Instant,
    /// When once more, if it does.
    pub again: Option<Instant>,
    /// The bits that are inverted, counted from the first of the first byte.
    pub flips: Vec<usize>,
    /// Whether it skips the delay.
    pub is_reordered: bool,
}

/// What chance says about a frame.
struct Luck {
    is_lost: bool,
    is_duplicated: bool,
    is_reordered: bool,
    flips: Vec<usize>,
}

impl Impairment {
    /// A direction to which nothing is done yet. Those of one link have different numbers.
    #[must_use]
    pub fn new(seed: u64, direction: u64) -> Self {
        Self {
            settings: Settings::default(),
            seed,
            direction,
            number: 0,
            is_bad: false,
            was_lost: false,
            was_duplicated: false,
            was_corrupted: false,
            was_reordered: false,
            since_reorder: 0,
            sending: None,
            taking: None,
            last_due: None,
            blackhole: None,
        }
    }

    /// Changes what is done from now on. A blackhole, if one is set, begins.
    pub fn set(&mut self, mut settings: Settings, now: Instant) {
        if let Some(time) = settings.blackhole.take() {
            self.blackhole = now.checked_add(time).filter(|_| !time.is_zero());
        }
        self.settings = settings;
    }

    /// Numbers the frames from 0 again, by another seed or the same.
    pub fn restart(&mut self, seed: u64) {
        let Self { last_due, sending, taking, blackhole, .. } = *self;
        let settings = std::mem::take(&mut self.settings);
        *self = Self { settings, last_due, sending, taking, blackhole, ..Self::new(seed, self.direction) };
    }

    /// What is set; a blackhole is not among it.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How long everything is lost from now on.
    #[must_use]
    pub fn blackhole_left(&self, now: Instant) -> Option<Duration> {
        self.blackhole.map(|end| end.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether a frame passes as if there were nothing here.
    #[must_use]
    pub fn is_clear(&self, now: Instant) -> bool {
        self.settings.is_clear() && self.blackhole_left(now).is_none()
    }

    /// Until when no frame is to be given to [`Impairment::decide`], because the sender is held up.
    #[must_use]
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.taking.filter(|end| *end > now && self.settings.speed.is_some())
    }

    /// Decides about the next frame.
    pub fn decide(&mut self, length: Length, waiting: Waiting, now: Instant) -> Fate {
        let number = self.number;
        self.number += 1;
        let luck = self.luck(number, length);
        if let Some(speed) = self.settings.speed {
            let earliest = now.checked_sub(LATENESS).unwrap_or(now);
            self.taking = Some(self.taking.unwrap_or(now).max(earliest) + time_to_send(length.frame, speed));
        }
        if self.blackhole_left(now).is_some() {
            return Fate::Dropped(DropReason::Impaired);
        }
        if self.settings.mtu.is_some_and(|mtu| length.payload > usize::from(mtu)) {
            return Fate::Dropped(DropReason::Oversized);
        }
        if luck.is_lost {
            return Fate::Dropped(DropReason::Impaired);
        }
        if !self.has_room(1, length, waiting) {
            return Fate::Dropped(DropReason::LinkFull);
        }
        let left = self.leave(length, now);
        let due = if luck.is_reordered { left } else { self.arrive(left, number, Purpose::Delay) };
        let again = (luck.is_duplicated && self.has_room(2, length, waiting)).then(|| {
            let left = self.leave(length, now);
            self.arrive(left, number, Purpose::DelayOfDuplicate)
        });
        Fate::Delivered(Delivery { due, again, flips: luck.flips, is_reordered: luck.is_reordered })
    }

    /// Everything that depends on chance but the delays, for every frame: what is remembered of one for the next must
    /// not depend on other settings.
    fn luck(&mut self, number: u64, length: Length) -> Luck {
        let draws = |purpose| Draws::new(self.seed, self.direction, purpose, number);
        let settings = &self.settings;
        let mut loss = draws(Purpose::Loss);
        let is_lost = match settings.bursts() {
            Some(model) => {
                let change = if self.is_bad { model.recover } else { model.worsen };
                self.is_bad ^= change.happens(&mut loss);
                if self.is_bad { model.loss_in_bad } else { model.loss_in_good }.happens(&mut loss)
            }
            None => happens(settings.loss, &mut self.was_lost, &mut loss),
        };
        let is_duplicated = happens(settings.duplicate, &mut self.was_duplicated, &mut draws(Purpose::Duplicate));
        let mut flips = Vec::new();
        let mut corrupt = draws(Purpose::Corrupt);
        if happens(settings.corrupt, &mut self.was_corrupted, &mut corrupt) && length.frame > 0 {
            flips.push(below(length.frame * 8, &mut corrupt));
        }
        if settings.noise > 0 {
            add_noise(settings.noise, length.frame * 8, &mut draws(Purpose::Noise), &mut flips);
        }
        let is_candidate = self.since_reorder + 1 >= settings.gap;
        let is_reordered = settings.reorder.share != Share::NONE
            && is_candidate
            && happens(settings.reorder, &mut self.was_reordered, &mut draws(Purpose::Reorder));
        self.since_reorder = if is_reordered { 0 } else { self.since_reorder.saturating_add(1) };
        Luck { is_lost, is_duplicated, is_reordered, flips }
    }

    /// Whether so many copies of a frame may wait besides what waits.
    fn has_room(&self, copies: usize, length: Length, waiting: Waiting) -> bool {
        let Settings { limit, buffer, rate, .. } = &self.settings;
        let limit = limit.unwrap_or(if rate.is_some() { LIMIT_AT_A_RATE } else { LIMIT });
        let bytes = (waiting.bytes + copies * length.frame) as u64;
        waiting.frames + copies <= limit as usize && bytes <= buffer.unwrap_or(BUFFER)
    }

    /// When a frame has left the queue.
    fn leave(&mut self, length: Length, now: Instant) -> Instant {
        let Some(rate) = self.settings.rate else { return now };
        let left = self.sending.map_or(now, |end| end.max(now)) + time_to_send(length.frame, rate);
        self.sending = Some(left);
        left
    }

    /// When a frame that has left the queue arrives.
    fn arrive(&mut self, left: Instant, number: u64, purpose: Purpose) -> Instant {
        let Settings { delay, jitter, distribution, overtake, .. } = self.settings;
        let mut time = delay;
        if !jitter.is_zero() {
            let deviation = distribution.draw(&mut Draws::new(self.seed, self.direction, purpose, number));
            time = vary(delay, jitter, deviation);
        }
        let due = left + time;
        let last = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(last);
        if overtake { due } else { last }
    }
}

/// How long so many bytes take at so many bits a second, which are not 0.
fn time_to_send(bytes: usize, rate: u64) -> Duration {
    let nanoseconds = bytes as u128 * 8 * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// A delay that deviates by so many times the jitter; no less than 0.
#[allow(clippy::cast_precision_loss, reason = "of less than a day: nanoseconds are left")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn vary(delay: Duration, jitter: Duration, deviation: f64) -> Duration {
    Duration::from_nanos((delay.as_nanos() as f64 + jitter.as_nanos() as f64 * deviation) as u64)
}

/// Whether something happens to a frame that may depend on what happened to the last one.
fn happens(chance: Chance, last: &mut bool, draws: &mut Draws) -> bool {
    if !(chance.correlation != Share::NONE && chance.correlation.happens(draws)) {
        *last = chance.share.happens(draws);
    }
    *last
}

fn below(bound: usize, draws: &mut Draws) -> usize {
    usize::try_from(draws.below(bound as u64)).unwrap_or(0)
}

/// Bits of a frame that noise inverts. What is between two of them has the geometric distribution, which knows no past:
/// so each frame begins anew.
fn add_noise(noise: u64, bits: usize, draws: &mut Draws, flips: &mut Vec<usize>) {
    #[allow(clippy::cast_precision_loss, reason = "the noise is below 2^31")]
    let probability = noise as f64 / 1_000.0 / (8.0 * 1_048_576.0);
    let scale = (-probability).ln_1p();
    let mut next = 0_usize;
    loop {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and `as` saturates")]
        let between = (draws.unit().ln() / scale) as usize;
        next = next.saturating_add(between);
        if next >= bits {
            return;
        }
        flips.push(next);
        next += 1;
    }
}

impl Distribution {
    /// A deviation in units of the jitter: mean 0, and for all but the uniform one standard deviation 1.
    fn draw(self, draws: &mut Draws) -> f64 {
        match self {
            Self::Uniform => draws.unit() * 2.0 - 1.0,
            Self::Normal => draws.normal(),
            Self::Pareto => pareto(draws),
            // Independent, so their variances add up.
            Self::ParetoNormal => (0.25 * draws.normal() + 0.75 * pareto(draws)) / (0.0625_f64 + 0.5625).sqrt(),
        }
    }
}

/// The Pareto distribution with shape 3, as netem's table has it, moved and scaled to mean 0 and deviation 1.
fn pareto(draws: &mut Draws) -> f64 {
    (draws.unit().powf(-1.0 / 3.0) - 1.5) / 0.75_f64.sqrt()
}

#[cfg(test)]
#[path = "fate_test.rs"]
mod tests;
