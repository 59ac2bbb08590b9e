//! How many frames a turn takes, and when the switch had better rest before the next: what a network card calls interrupt
//! moderation.
//!
//! Theory of operation. A lone frame must not wait: a turn takes one frame, and the switch sleeps or looks for more at once.
//! Where frames are there to be had, turns grow. A member whose turns follow one another faster than any two programs
//! answer each other is a *flood*: nobody waits for the single frame, and waking up for each costs more than carrying it.
//! So the switch rests for [`REST`] after a turn that left a flood's link empty, and then takes all that has gathered.

use std::time::{Duration, Instant};

/// How long the switch rests to let a flood's frames gather: less than the shortest round trip between two processes.
pub(super) const REST: Duration = Duration::from_micros(20);
/// Frames of a turn at most.
pub(super) const MAX_TURN: usize = 64;

/// Turns closer than this belong to one burst: a frame every 20 µs is more than a program sends that waits for answers.
const BURST_GAP: Duration = Duration::from_micros(20);
/// Close turns in a row that make a flood.
const FLOOD_TURNS: u32 = 16;
/// Frames that a turn of a flood finds at least; with fewer, it is over.
const FLOOD_FRAMES: usize = 2;
/// Bytes that a turn should not exceed, so that frames are still in the processor's cache when they are sent.
const TURN_BYTES: usize = 128 * 1024;

/// How a member's frames come.
#[derive(Debug)]
pub(super) struct Pace {
    turn: usize,
    last: Option<Instant>,
    close_turns: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { turn: 1, last: None, close_turns: 0 }
    }
}

impl Pace {
    /// Frames that the next turn takes at most, at least 1.
    pub(super) fn turn(&self) -> usize {
        self.turn
    }

    /// Whether the member floods.
    pub(super) fn is_flood(&self) -> bool {
        self.close_turns >= FLOOD_TURNS
    }

    /// A turn at `now` has found so many frames with so many bytes. `is_told`: had there been none, there had been no
    /// turn, so that a full turn says nothing about what follows.
    pub(super) fn note(&mut self, now: Instant, frames: usize, bytes: usize, is_told: bool) {
        let Some(mean) = bytes.checked_div(frames) else {
            self.turn = 1;
            return;
        };
        let is_full = frames == self.turn;
        let is_close = self.last.replace(now).is_some_and(|last| now.saturating_duration_since(last) < BURST_GAP);
        self.close_turns = match self.is_flood() {
            true if is_full || frames >= FLOOD_FRAMES => self.close_turns,
            false if is_close => self.close_turns + 1,
            _ => 0,
        };
        let most = (TURN_BYTES / mean.max(1)).clamp(1, MAX_TURN);
        self.turn = if self.is_flood() {
            most
        } else if is_full && (is_close || !is_told) {
            most.min(2 * self.turn)
        } else {
            1
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of `frames` frames of 64 bytes, a `gap` apart.
    fn turns(pace: &mut Pace, count: u32, frames: usize, gap: Duration, is_told: bool) {
        let start = pace.last.unwrap_or_else(Instant::now);
        for number in 1..=count {
            let frames = frames.min(pace.turn());
            pace.note(start + gap * number, frames, 64 * frames, is_told);
        }
    }

    #[test]
    fn a_lone_frame_is_taken_alone() {
        let mut pace = Pace::default();
        turns(&mut pace, 100, 1, Duration::from_micros(25), true);
        assert_eq!((pace.turn(), pace.is_flood()), (1, false));
    }

    #[test]
    fn turns_grow_while_they_are_full_and_where_nobody_tells_even_after_a_lone_frame() {
        let mut pace = Pace::default();
        turns(&mut pace, 3, MAX_TURN, Duration::from_micros(100), false);
        assert_eq!(pace.turn(), 8);
        turns(&mut pace, 1, 3, Duration::from_micros(100), false);
        assert_eq!(pace.turn(), 1);
    }

    #[test]
    fn turns_stay_within_the_bytes_of_a_cache() {
        let mut pace = Pace::default();
        let now = Instant::now();
        for _ in 0..FLOOD_TURNS + 2 {
            pace.note(now, pace.turn(), pace.turn() * 65_000, true);
        }
        assert_eq!((pace.turn(), pace.is_flood()), (2, true));
    }

    #[test]
    fn close_turns_in_a_row_are_a_flood_until_one_finds_too_little() {
        let mut pace = Pace::default();
        turns(&mut pace, FLOOD_TURNS, 1, Duration::from_micros(6), true);
        assert!(!pace.is_flood(), "the first turn follows none");
        turns(&mut pace, 1, 1, Duration::from_micros(6), true);
        assert_eq!((pace.turn(), pace.is_flood()), (MAX_TURN, true));
        turns(&mut pace, 1000, 5, Duration::from_micros(60), true);
        assert!(pace.is_flood(), "rests are longer than bursts' gaps");
        turns(&mut pace, 1, 1, Duration::from_micros(6), true);
        assert_eq!((pace.turn(), pace.is_flood()), (1, false));
    }

    #[test]
    fn a_turn_that_finds_nothing_ends_a_burst_and_no_flood() {
        let mut pace = Pace::default();
        turns(&mut pace, FLOOD_TURNS + 1, 1, Duration::from_micros(6), false);
        pace.note(Instant::now(), 0, 0, false);
        assert_eq!((pace.turn(), pace.is_flood()), (1, true));
    }
}
