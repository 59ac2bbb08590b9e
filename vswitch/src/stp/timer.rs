//! A timer of a port (IEEE 802.1D-2004 §17.17).
//!
//! The standard counts seconds down and lets some states keep a timer at its full value by setting it again each
//! second. Here a timer holds the moment at which it will be zero, or is held at its full value until the state is
//! left, so that nothing has to happen while it runs.

use std::time::{Duration, Instant};

/// A timer. Only [`Timer::tick`] makes a running one zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// It has run out, or was never set.
    Zero,
    /// It will be zero then.
    Running(Instant),
    /// It stands at this value, not 0.
    Held(Duration),
}

impl Timer {
    /// A timer that is zero in `span` from `now`.
    pub(super) fn start(span: Duration, now: Instant) -> Self {
        if span.is_zero() { Self::Zero } else { Self::Running(now + span) }
    }

    /// Whether it has run out.
    pub(super) fn is_zero(self) -> bool {
        self == Self::Zero
    }

    /// Notices that it has run out.
    pub(super) fn tick(&mut self, now: Instant) {
        if let Self::Running(at) = *self
            && at <= now
        {
            *self = Self::Zero;
        }
    }

    /// Lets a held timer run.
    pub(super) fn release(&mut self, now: Instant) {
        if let Self::Held(span) = *self {
            *self = Self::start(span, now);
        }
    }

    /// When it will be zero, if it runs.
    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Running(at) => Some(at),
            Self::Zero | Self::Held(_) => None,
        }
    }
}
