//! How fast the cable sends: by delay, not by single losses.
//!
//! What the cable carries has congestion control of its own, which sees what the cable drops. So the controller here has
//! another task than TCP's: to fill the path without filling its queues, whatever single packets the path loses.
//!
//! Theory of operation. Once in a round trip it compares the shortest round trip of that round with the shortest of the last
//! half minute. The difference is the queue that stands on the path.
//!
//! | what a round shows | the window |
//! |---|---|
//! | a queue of more than the target: [`MIN_TARGET`], or a sixteenth of the round trip | shrinks to what leaves no queue |
//! | more than [`TOLERATED`] percent lost, over [`SAMPLE`] packets or more | shrinks by a third |
//! | neither, and most of the window was used | grows by an eighth, and less the nearer the queue is to its target |
//! | nothing arrived for long (persistent congestion, RFC 9002 §7.6) | begins anew |
//!
//! After it has shrunk, one round passes without a judgement: it shows the queue from before. In the beginning the window
//! grows by half in each round, until [`SLOW_ACKS`] packets in a row show a queue. Since the queue is emptied whenever it
//! has reached its target, the shortest round trip stays known.
//!
//! Fairness. Against others that watch delay it converges, since all of them see the same queue. It gives way to a flow that
//! fills the path's queue (loss-based TCP behind a deep buffer), down to [`MIN_PACKETS`] packets a round trip. Where losses
//! come from a short queue that overflows, it yields only above [`TOLERATED`] percent: more than TCP would take, which is
//! what a cable over a bad path is for, and bounded by what the flows inside ask for.
//!
//! Neighbours: `quinn-proto` calls it and paces by its window.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// The queue that may stand on a short path.
pub const MIN_TARGET: Duration = Duration::from_millis(5);
/// Losses that are not taken for congestion, in percent.
pub const TOLERATED: u64 = 8;
/// Packets over which losses are counted at least.
pub const SAMPLE: u64 = 64;
/// Packets in a row that have waited in a queue end the beginning.
pub const SLOW_ACKS: u32 = 8;
/// The smallest window, in packets.
pub const MIN_PACKETS: u64 = 32;
/// The largest window, in bytes: 5 Gbit/s over 100 ms.
const MAX_WINDOW: u64 = 64 << 20;
/// The first window, in packets.
const INITIAL_PACKETS: u64 = 64;
/// For how long a round trip counts as the shortest: this to twice this.
const MEMORY: Duration = Duration::from_secs(15);

/// Makes controllers.
#[derive(Debug, Default)]
pub struct SteadyConfig;

impl ControllerFactory for SteadyConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady::new(now, current_mtu))
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
pub struct Steady {
    window: u64,
    packet: u64,
    is_starting: bool,
    /// Packets in a row that took longer than they should, in the beginning.
    slow_acks: u32,
    /// Whether this round shows what was before the window shrank.
    is_settling: bool,
    last_sent: u64,
    /// The packet whose acknowledgement ends the round.
    round_end: u64,
    round: Round,
    /// Bytes acknowledged and lost since losses were last judged.
    acked: u64,
    lost: u64,
    base: Base,
}

/// What a round has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    shortest: Option<Duration>,
    /// Bytes that were acknowledged.
    acked: u64,
    is_limited: bool,
    is_marked: bool,
}

/// The shortest round trip of this stretch of time and of the one before.
#[derive(Clone, Copy, Debug)]
struct Base {
    since: Instant,
    current: Option<Duration>,
    previous: Option<Duration>,
}

impl Steady {
    fn new(now: Instant, mtu: u16) -> Self {
        let packet = u64::from(mtu);
        Self {
            window: INITIAL_PACKETS * packet,
            packet,
            is_starting: true,
            slow_acks: 0,
            is_settling: false,
            last_sent: 0,
            round_end: 0,
            round: Round::default(),
            acked: 0,
            lost: 0,
            base: Base { since: now, current: None, previous: None },
        }
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(MIN_PACKETS * self.packet, MAX_WINDOW);
    }

    /// So many bytes made the trip in this time.
    fn note_ack(&mut self, trip: Duration, bytes: u64, is_limited: bool) {
        self.round.shortest = Some(self.round.shortest.map_or(trip, |shortest| shortest.min(trip)));
        self.round.is_limited |= is_limited;
        self.round.acked += bytes;
        self.acked += bytes;
        if !self.is_starting {
            return;
        }
        let base = self.base.shortest().unwrap_or(trip);
        self.slow_acks = if trip > base + target(base) { self.slow_acks + 1 } else { 0 };
        if self.slow_acks >= SLOW_ACKS {
            self.shrink(base.as_secs_f64() / trip.as_secs_f64());
            self.round_end = self.last_sent;
        }
    }

    fn shrink(&mut self, share: f64) {
        self.is_starting = false;
        self.is_settling = true;
        self.set_window((self.window as f64 * share.clamp(0.3, 1.0)) as u64);
    }

    fn end_round(&mut self, now: Instant) {
        let round = std::mem::take(&mut self.round);
        self.round_end = self.last_sent;
        let Some(shortest) = round.shortest else { return };
        let base = self.base.note(now, shortest);
        let is_lossy = self.judge_losses();
        if std::mem::take(&mut self.is_settling) {
            return;
        }
        let queue = shortest.saturating_sub(base);
        let target = target(base);
        if queue > target {
            self.shrink(base.as_secs_f64() / shortest.as_secs_f64());
        } else if is_lossy || round.is_marked {
            self.shrink(2.0 / 3.0);
        } else if !round.is_limited || round.acked < self.window / 4 * 3 {
            // The window is not what holds the sender back, and a larger one would be a burst to come.
        } else if self.is_starting {
            self.set_window(self.window + round.acked / 2);
        } else {
            let room = 1.0 - queue.as_secs_f64() / target.as_secs_f64();
            let growth = (self.window as f64 / 8.0 * room) as u64;
            self.set_window(self.window + growth.max(2 * self.packet));
        }
    }

    /// Whether too much was lost, once there is enough to tell.
    fn judge_losses(&mut self) -> bool {
        let all = self.acked + self.lost;
        if all < SAMPLE * self.packet {
            return false;
        }
        let is_lossy = self.lost * 100 > all * TOLERATED;
        (self.acked, self.lost) = (0, 0);
        is_lossy
    }
}

impl Base {
    fn shortest(&self) -> Option<Duration> {
        self.current.into_iter().chain(self.previous).min()
    }

    fn note(&mut self, now: Instant, shortest: Duration) -> Duration {
        if now.saturating_duration_since(self.since) > MEMORY {
            *self = Self { since: now, current: None, previous: self.current };
        }
        self.current = Some(self.current.map_or(shortest, |current| current.min(shortest)));
        self.shortest().unwrap_or(shortest)
    }
}

/// The queue that may stand on a path with this round trip.
fn target(base: Duration) -> Duration {
    MIN_TARGET.max(base / 16)
}

impl Controller for Steady {
    fn on_sent(&mut self, _: Instant, _: u64, last_packet_number: u64) {
        self.last_sent = last_packet_number;
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, _: &RttEstimator) {
        self.note_ack(now.saturating_duration_since(sent), bytes, !app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, _: u64, _: bool, largest_packet_num_acked: Option<u64>) {
        if largest_packet_num_acked.is_some_and(|largest| largest >= self.round_end) {
            self.end_round(now);
        }
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.lost += lost_bytes;
        // A mark (RFC 3168) comes without a loss.
        self.round.is_marked |= lost_bytes == 0;
        if is_persistent_congestion {
            self.is_starting = true;
            self.set_window(0);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet = u64::from(new_mtu);
        self.set_window(self.window);
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.packet
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: u64 = 1200;

    /// A path with a rate, a round trip and losses, one round at a time. A queue is what the window has more than the path.
    struct Path {
        steady: Steady,
        now: Instant,
        /// Bytes in a round trip.
        holds: u64,
        trip: Duration,
        /// One of so many is lost.
        one_of: u64,
        number: u64,
    }

    impl Path {
        fn new(holds: u64, one_of: u64) -> Self {
            let now = Instant::now();
            let steady = Steady::new(now, PACKET as u16);
            Self { steady, now, holds, trip: Duration::from_millis(100), one_of, number: 0 }
        }

        fn round(&mut self) -> Duration {
            let window = self.steady.window();
            let queue = self.trip.mul_f64(window.saturating_sub(self.holds) as f64 / self.holds as f64);
            let trip = self.trip + queue;
            let sent = self.now;
            self.now += trip;
            let first = self.number;
            for _ in 0..window / PACKET {
                self.number += 1;
                self.steady.on_sent(sent, PACKET, self.number);
            }
            for number in first..self.number {
                if number % self.one_of == 0 {
                    self.steady.on_congestion_event(self.now, sent, false, PACKET);
                } else {
                    self.steady.note_ack(trip, PACKET, true);
                }
            }
            self.steady.on_end_acks(self.now, 0, false, Some(self.number));
            trip
        }
    }

    #[test]
    fn one_lost_packet_in_a_hundred_does_not_slow_it_down() {
        let mut path = Path::new(1_000_000, 100);
        for _ in 0..100 {
            path.round();
        }
        for _ in 0..200 {
            let trip = path.round();
            assert!(path.steady.window() > 800_000, "{}", path.steady.window());
            assert!(trip < Duration::from_millis(130), "{trip:?}");
        }
    }

    #[test]
    fn many_lost_packets_do() {
        let mut path = Path::new(u64::MAX >> 20, 5);
        for _ in 0..100 {
            path.round();
        }
        assert_eq!(path.steady.window(), MIN_PACKETS * PACKET);
    }

    #[test]
    fn a_path_that_becomes_narrow_is_not_filled_for_long() {
        let mut path = Path::new(1_000_000, 1000);
        for _ in 0..50 {
            path.round();
        }
        path.holds = 200_000;
        for _ in 0..20 {
            path.round();
        }
        assert!(path.round() < Duration::from_millis(130));
        path.holds = 1_000_000;
        for _ in 0..50 {
            path.round();
        }
        assert!(path.steady.window() > 800_000);
    }

    #[test]
    fn who_has_little_to_send_keeps_the_window() {
        let now = Instant::now();
        let mut steady = Steady::new(now, PACKET as u16);
        for number in 0..1000 {
            steady.on_sent(now, PACKET, number);
            steady.note_ack(Duration::ZERO, PACKET, false);
            steady.on_end_acks(now, 0, true, Some(number));
        }
        assert_eq!(steady.window(), INITIAL_PACKETS * PACKET);
    }

    #[test]
    fn a_path_that_was_dead_begins_anew() {
        let mut path = Path::new(1_000_000, 1000);
        for _ in 0..50 {
            path.round();
        }
        path.steady.on_congestion_event(path.now, path.now, true, PACKET);
        assert_eq!(path.steady.window(), MIN_PACKETS * PACKET);
        for _ in 0..24 {
            path.round();
        }
        assert!(path.steady.window() > 800_000);
    }
}
