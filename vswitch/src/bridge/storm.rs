//! Storm control: how much broadcast, multicast and unknown unicast a port may bring in.
//!
//! Each kind has a token bucket that fills at the limit and holds one second's worth, so a port at rest may send that
//! much at once. A frame still to be segmented counts as one: it is decided on once.
//!
//! A storm begins with the first frame dropped, and is over when the bucket has filled up again, that is after a second
//! of silence, or longer below the limit. It is told of once.
//!
//! Neighbour: [`super::Bridge`] asks for each frame of these kinds; known unicast never comes here.

use std::fmt;

use super::clock::Tick;

/// What storm control limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StormKind {
    /// Frames to everybody.
    Broadcast,
    /// Frames to a group.
    Multicast,
    /// Frames to a station that is not known, which flood.
    UnknownUnicast,
}

impl fmt::Display for StormKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Multicast => "multicast",
            Self::UnknownUnicast => "unknown unicast",
        })
    }
}

/// Limits in frames per second; none is no limit, 0 lets nothing through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StormLimits {
    /// Of frames to everybody.
    pub broadcast: Option<u32>,
    /// Of frames to groups.
    pub multicast: Option<u32>,
    /// Of frames to stations that are not known.
    pub unknown_unicast: Option<u32>,
}

/// The buckets of one port.
#[derive(Clone, Debug)]
pub(super) struct StormControl {
    broadcast: Option<Bucket>,
    multicast: Option<Bucket>,
    unknown_unicast: Option<Bucket>,
}

impl StormControl {
    /// Full buckets; none if nothing is limited.
    pub(super) fn new(limits: StormLimits) -> Option<Box<Self>> {
        (limits != StormLimits::default()).then(|| {
            Box::new(Self {
                broadcast: limits.broadcast.map(Bucket::new),
                multicast: limits.multicast.map(Bucket::new),
                unknown_unicast: limits.unknown_unicast.map(Bucket::new),
            })
        })
    }

    /// Whether a frame of this kind would pass.
    pub(super) fn passes(&self, kind: StormKind, tick: Tick) -> bool {
        let bucket = match kind {
            StormKind::Broadcast => &self.broadcast,
            StormKind::Multicast => &self.multicast,
            StormKind::UnknownUnicast => &self.unknown_unicast,
        };
        bucket.as_ref().is_none_or(|bucket| bucket.content(tick) >= FRAME)
    }

    /// Whether a storm is on.
    pub(super) fn is_storming(&self, tick: Tick) -> bool {
        let buckets = [&self.broadcast, &self.multicast, &self.unknown_unicast];
        buckets.into_iter().flatten().any(|bucket| bucket.is_storming && !bucket.is_full(tick))
    }

    /// Takes a frame of this kind.
    pub(super) fn take(&mut self, kind: StormKind, tick: Tick) -> Taken {
        let was_storming = self.is_storming(tick);
        let passes = self.passes(kind, tick);
        let bucket = match kind {
            StormKind::Broadcast => &mut self.broadcast,
            StormKind::Multicast => &mut self.multicast,
            StormKind::UnknownUnicast => &mut self.unknown_unicast,
        };
        let Some(bucket) = bucket else { return Taken::Passed };
        let content = bucket.content(tick);
        bucket.is_storming &= !bucket.is_full(tick);
        bucket.filled = tick;
        bucket.tokens = content;
        if passes {
            bucket.tokens -= FRAME;
            return Taken::Passed;
        }
        bucket.is_storming = true;
        if was_storming { Taken::Dropped } else { Taken::StormBegan }
    }
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It passes.
    Passed,
    /// It is dropped, the first of a storm.
    StormBegan,
    /// It is dropped.
    Dropped,
}

/// Tokens that a frame takes: a bucket gets its rate's number of them each millisecond.
const FRAME: u64 = 1000;

#[derive(Clone, Debug)]
struct Bucket {
    rate: u64,
    tokens: u64,
    filled: Tick,
    is_storming: bool,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        let rate = u64::from(rate);
        Self { rate, tokens: rate * FRAME, filled: 0, is_storming: false }
    }

    fn content(&self, tick: Tick) -> u64 {
        let gained = tick.saturating_sub(self.filled).saturating_mul(self.rate);
        self.tokens.saturating_add(gained).min(self.rate * FRAME)
    }

    fn is_full(&self, tick: Tick) -> bool {
        self.rate != 0 && self.content(tick) == self.rate * FRAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(broadcast: u32) -> Box<StormControl> {
        StormControl::new(StormLimits { broadcast: Some(broadcast), ..StormLimits::default() }).unwrap()
    }

    fn passed(control: &mut StormControl, frames: usize, tick: Tick) -> usize {
        (0..frames).filter(|_| control.take(StormKind::Broadcast, tick) == Taken::Passed).count()
    }

    #[test]
    fn a_port_at_rest_may_send_one_second_s_worth_and_then_the_limit() {
        let mut control = control(100);
        assert_eq!(passed(&mut control, 500, 0), 100);
        assert_eq!(passed(&mut control, 500, 9), 0);
        assert_eq!(passed(&mut control, 500, 10), 1);
        assert_eq!((11..1011).map(|tick| passed(&mut control, 5, tick)).sum::<usize>(), 100);
        assert_eq!(passed(&mut control, 500, 60_000), 100);
    }

    #[test]
    fn other_kinds_are_not_limited() {
        let mut control = control(0);
        assert_eq!(control.take(StormKind::Broadcast, 0), Taken::StormBegan);
        assert_eq!(control.take(StormKind::Multicast, 0), Taken::Passed);
        assert_eq!(control.take(StormKind::UnknownUnicast, 0), Taken::Passed);
        assert!(StormControl::new(StormLimits::default()).is_none());
    }

    #[test]
    fn a_storm_is_told_of_once_until_it_is_calm() {
        let mut control = control(2);
        let mut began = |tick| (0..5).filter(|_| control.take(StormKind::Broadcast, tick) == Taken::StormBegan).count();
        assert_eq!(began(0), 1);
        assert_eq!((1..3000).map(&mut began).sum::<usize>(), 0);
        assert_eq!(began(4000), 1);
        assert!(control.is_storming(4001) && !control.is_storming(5000));
    }
}
