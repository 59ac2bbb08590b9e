//! The bridge's time: whole milliseconds since the first instant it was told.
//!
//! A table entry then holds its time in eight bytes, and a frame that carries the same instant as the one before, as
//! all frames of a batch do, costs a comparison. An instant before the first is the first.
//!
//! Neighbours: [`super::fdb`], [`super::storm`] and [`super::snoop`] count in ticks.

use std::time::{Duration, Instant};

/// Milliseconds on a [`Clock`].
pub type Tick = u64;

/// Converts instants to ticks and back.
#[derive(Debug, Default)]
pub struct Clock {
    first: Option<Instant>,
    latest: Option<Instant>,
    tick: Tick,
}

impl Clock {
    /// The tick of `now`, for a caller that goes on in time.
    #[inline]
    pub fn advance(&mut self, now: Instant) -> Tick {
        if self.latest != Some(now) {
            self.first.get_or_insert(now);
            self.tick = self.at(now);
            self.latest = Some(now);
        }
        self.tick
    }

    /// The tick of `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> Tick {
        self.first.map_or(0, |first| ticks(now.saturating_duration_since(first)))
    }

    /// The instant of a tick, if the clock runs and the platform has such an instant.
    #[must_use]
    pub fn instant(&self, tick: Tick) -> Option<Instant> {
        self.first?.checked_add(Duration::from_millis(tick))
    }
}

/// A duration in ticks, rounded down.
#[must_use]
pub fn ticks(duration: Duration) -> Tick {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_count_from_the_first_instant() {
        let start = Instant::now();
        let mut clock = Clock::default();
        assert_eq!((clock.at(start), clock.instant(5)), (0, None));
        assert_eq!(clock.advance(start), 0);
        assert_eq!(clock.advance(start + Duration::from_micros(2500)), 2);
        assert_eq!(clock.at(start + Duration::from_secs(1)), 1000);
        assert_eq!(clock.instant(1000), Some(start + Duration::from_secs(1)));
    }
}
