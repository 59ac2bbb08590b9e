//! Deadlines of any number of flows: arming costs a logarithm, asking for the first one nothing.
//!
//! A timer is never taken back. Whoever armed one remembers its time, arms another only if that is earlier, and asks
//! itself when it fires whether anything is due. So a flow that moves its deadline on with every packet has one entry
//! here, and costs one wakeup in the time of its deadline at most.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A TCP flow, by its place.
    Tcp(u32),
    /// A UDP flow.
    Udp(u32),
    /// A ping flow.
    Ping(u32),
    /// A question to a name server.
    Dns(u32),
    /// A TFTP transfer.
    Tftp(u32),
    /// A forwarding rule that ran out of sockets.
    Forward(u32),
    /// The oldest datagram being put together.
    Fragments,
    /// The oldest peer of a UDP forwarding rule.
    Peers,
    /// The TCP flow whose guest has been silent for longest.
    Silence,
}

/// The deadlines.
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    /// Arms a timer, unless it is armed for that time or earlier; `armed` remembers.
    pub(crate) fn arm(&mut self, timer: Timer, armed: &mut Option<Instant>, at: Instant) {
        if armed.is_none_or(|armed| at < armed) {
            *armed = Some(at);
            self.heap.push(Reverse((at, timer)));
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// The first deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes out a timer whose time has come. It is stale unless its owner remembers this very time.
    pub(crate) fn fired(&mut self, now: Instant) -> Option<(Timer, Instant)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((at, timer))| (timer, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn later_deadlines_cost_no_entry_and_earlier_ones_fire_first() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (mut timers, mut a, mut b) = (Timers::default(), None, None);
        timers.arm(Timer::Tcp(1), &mut a, at(10));
        timers.arm(Timer::Tcp(1), &mut a, at(20));
        timers.arm(Timer::Tcp(2), &mut b, at(5));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.fired(at(4)), None);
        assert_eq!(timers.fired(at(30)), Some((Timer::Tcp(2), at(5))));
        assert_eq!(timers.fired(at(30)), Some((Timer::Tcp(1), at(10))));
        assert_eq!(timers.fired(at(30)), None);
        assert_eq!(timers.next(), None);
    }
}
