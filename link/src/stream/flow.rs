//! How much of a stream may be on its way: enough to fill the path, and little more.
//!
//! A stream through ssh has megabytes of room in pipes, ssh's windows and sockets. On a slow path they would all fill, and
//! every frame would wait for seconds. So a far side of ours confirms what it has received, and what is not yet confirmed is
//! kept within a window: more waits in the sender's own queue, where the oldest frame can be dropped.
//!
//! # Theory of operation
//!
//! Each confirmation is a sample of the time that bytes need to the far side and back. A *round* lasts until what was sent at
//! its beginning is confirmed; its shortest sample counts. The shortest of [`MEMORY`] is the path's own time, the *base*.
//!
//! | a round's sample | the window |
//! |---|---|
//! | over the limit: base, a quarter of it and [`SLACK`] | shrinks in their proportion: to three quarters, or less |
//! | below that, and the window was full | doubles until the first time over; later grows by an eighth |
//!
//! When the base is too old the window is the smallest for two rounds: in the first, what waits in the path goes; the sample
//! of the second is the base.
//!
//! Pure. Neighbour: `super`, which sends and confirms.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that the window begins with.
const FIRST: u64 = 128 << 10;
/// Bytes of the smallest window: one of the longest frames, and several confirmations.
const SMALLEST: u64 = 64 << 10;
/// Bytes of the largest: a round trip of 100 ms at 2.7 Gbit/s.
const LARGEST: u64 = 32 << 20;
/// How long bytes may wait on their way, apart from a quarter of the path's own time.
const SLACK: Duration = Duration::from_millis(15);
/// How long the path's own time is believed.
const MEMORY: Duration = Duration::from_secs(30);
/// Times are noted for that many pieces of the window, or pieces of [`PIECE`] bytes if those are longer.
const PIECES: u64 = 256;
const PIECE: u64 = 4 << 10;
/// A piece is no longer than what is sent in this time.
const MOMENT: Duration = Duration::from_millis(1);

/// What is on its way, and how much may be.
pub(super) struct Flow {
    sent: u64,
    confirmed: u64,
    window: u64,
    /// Where pieces end, and when each began to be sent.
    pieces: VecDeque<(u64, Instant)>,
    /// The path's own time, and when it was seen.
    base: Option<(Duration, Instant)>,
    round: Round,
    /// The window has not been too large yet.
    is_starting: bool,
    /// While the base is looked for: rounds that are left, and the window that was.
    looking: Option<(u8, u64)>,
}

#[derive(Default)]
struct Round {
    /// It ends when so much is confirmed.
    end: u64,
    shortest: Option<Duration>,
    was_full: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            sent: 0,
            confirmed: 0,
            window: FIRST,
            pieces: VecDeque::new(),
            base: None,
            round: Round::default(),
            is_starting: true,
            looking: None,
        }
    }
}

impl Flow {
    /// Bytes that may be sent now. A record may be longer if there is any room.
    pub(super) fn room(&self) -> u64 {
        self.window.saturating_sub(self.sent - self.confirmed)
    }

    /// There was more to send than room.
    pub(super) fn note_full(&mut self) {
        self.round.was_full = true;
    }

    /// So many bytes were sent.
    pub(super) fn note_sent(&mut self, len: u64, now: Instant) {
        let before = self.sent;
        self.sent += len;
        let longest = PIECE.max(self.window / PIECES);
        let begins = self.pieces.iter().rev().nth(1).map_or(self.confirmed, |(end, _)| *end);
        match self.pieces.back_mut() {
            Some((end, at)) if before - begins < longest && now.saturating_duration_since(*at) < MOMENT => {
                *end = self.sent;
            }
            _ => self.pieces.push_back((self.sent, now)),
        }
    }

    /// The far side has received so many bytes in all.
    pub(super) fn note_confirmed(&mut self, total: u64, now: Instant) {
        // Whatever a far side says, it cannot have received more than was sent.
        let total = total.clamp(self.confirmed, self.sent);
        if total == self.confirmed {
            return;
        }
        self.confirmed = total;
        while self.pieces.front().is_some_and(|(end, _)| *end < total) {
            self.pieces.pop_front();
        }
        if let Some((end, at)) = self.pieces.front().copied() {
            let sample = now.saturating_duration_since(at);
            self.round.shortest = Some(self.round.shortest.map_or(sample, |shortest| shortest.min(sample)));
            if end == total {
                self.pieces.pop_front();
            }
        }
        if total >= self.round.end {
            self.end_round(now);
        }
    }

    fn end_round(&mut self, now: Instant) {
        let Round { shortest, was_full, .. } = std::mem::take(&mut self.round);
        self.round.end = self.sent;
        let Some(sample) = shortest else { return };
        if let Some((rounds, window)) = self.looking.take() {
            if rounds > 1 {
                self.looking = Some((rounds - 1, window));
            } else {
                self.base = Some((sample, now));
                self.window = window;
            }
            return;
        }
        let Some((base, since)) = self.base.filter(|(base, _)| *base < sample) else {
            let is_first = self.base.replace((sample, now)).is_none();
            if was_full && !is_first {
                self.grow();
            }
            return;
        };
        let limit = base + base / 4 + SLACK;
        if now.saturating_duration_since(since) >= MEMORY {
            self.looking = Some((2, self.window));
            self.window = SMALLEST;
        } else if sample > limit {
            let part = (limit.as_secs_f64() / sample.as_secs_f64()).clamp(0.25, 0.75);
            self.is_starting = false;
            self.window = ((self.window as f64 * part) as u64).max(SMALLEST);
        } else if was_full {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let more = if self.is_starting { self.window } else { self.window / 8 };
        self.window = (self.window + more).min(LARGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with a rate and a time of its own, and all the room there is in front of it.
    struct Path {
        flow: Flow,
        now: Instant,
        /// What was sent, and when it will be confirmed.
        under_way: VecDeque<(u64, Instant)>,
        free: Instant,
        rate: f64,
        time: Duration,
        /// The longest that something was under way in the last second.
        longest: Duration,
        delivered: u64,
    }

    impl Path {
        fn new(bits_per_second: f64, time: Duration) -> Self {
            let now = Instant::now();
            let (flow, under_way) = (Flow::default(), VecDeque::new());
            let rate = bits_per_second / 8.0;
            Self { flow, now, under_way, free: now, rate, time, longest: Duration::ZERO, delivered: 0 }
        }

        /// A sender that always has more; returns bytes per second over this time, and the longest delay.
        fn run(&mut self, time: Duration) -> (f64, Duration) {
            let (begun, end) = (self.now, self.now + time);
            (self.longest, self.delivered) = (Duration::ZERO, 0);
            while self.now < end {
                while self.flow.room() > 0 {
                    let len = 16 << 10;
                    self.free = self.free.max(self.now) + Duration::from_secs_f64(len as f64 / self.rate);
                    self.under_way.push_back((len, self.free + self.time));
                    self.longest = self.longest.max(self.free + self.time - self.now);
                    self.flow.note_sent(len, self.now);
                }
                self.flow.note_full();
                let (len, at) = self.under_way.pop_front().unwrap();
                self.now = at;
                self.delivered += len;
                self.flow.note_confirmed(self.flow.confirmed + len, at);
            }
            (self.delivered as f64 * 8.0 / (self.now - begun).as_secs_f64(), self.longest)
        }
    }

    #[test]
    fn a_path_is_filled_and_little_waits_in_it() {
        for (rate, time) in [(1e6, 0.1), (20e6, 0.1), (100e6, 0.02), (1e9, 0.05), (8e9, 0.0002)] {
            let time = Duration::from_secs_f64(time);
            let mut path = Path::new(rate, time);
            path.run(Duration::from_secs(3));
            let (carried, longest) = path.run(Duration::from_secs(60));
            assert!(carried > 0.9 * rate, "{rate}, {time:?}: {carried}");
            let smallest = Duration::from_secs_f64((SMALLEST + PIECE * 4) as f64 * 8.0 / rate);
            let allowed = (time * 5 / 2 + SLACK * 2).max(smallest * 3 + time);
            assert!(longest < allowed, "{rate}, {time:?}: {longest:?}, not {allowed:?}");
        }
    }

    #[test]
    fn a_path_that_becomes_slower_is_noticed_and_so_is_one_that_becomes_faster() {
        let time = Duration::from_millis(50);
        let mut path = Path::new(200e6, time);
        path.run(Duration::from_secs(5));
        path.rate = 10e6 / 8.0;
        path.run(Duration::from_secs(10));
        let (carried, longest) = path.run(Duration::from_secs(5));
        assert!(carried > 9e6 && longest < time * 3, "{carried} {longest:?}");
        path.rate = 200e6 / 8.0;
        path.run(Duration::from_secs(10));
        let (carried, _) = path.run(Duration::from_secs(5));
        assert!(carried > 180e6, "{carried}");
    }

    #[test]
    fn a_longer_path_is_believed_in_the_end() {
        let mut path = Path::new(100e6, Duration::from_millis(10));
        path.run(Duration::from_secs(5));
        path.time = Duration::from_millis(150);
        path.run(Duration::from_secs(60));
        let (carried, _) = path.run(Duration::from_secs(10));
        assert!(carried > 80e6, "{carried}");
    }

    #[test]
    fn what_a_far_side_cannot_have_received_is_not_believed() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        flow.note_confirmed(u64::MAX, now);
        assert_eq!(flow.room(), FIRST);
        flow.note_sent(1000, now);
        assert_eq!(flow.room(), FIRST - 1000);
        flow.note_confirmed(u64::MAX, now);
        flow.note_confirmed(0, now);
        assert_eq!(flow.room(), FIRST);
    }

    #[test]
    fn times_are_noted_for_a_bounded_number_of_pieces() {
        let (mut flow, now) = (Flow::default(), Instant::now());
        for _ in 0..FIRST / 60 {
            flow.note_sent(60, now);
        }
        assert!(flow.pieces.len() <= 1 + FIRST as usize / PIECE as usize, "{}", flow.pieces.len());
    }
}
