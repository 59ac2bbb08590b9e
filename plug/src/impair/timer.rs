//! A timer that an event loop can wait for to the microsecond: timerfd_create(2). An event loop's own timeout is
//! rounded up to milliseconds (epoll_wait(2)).
//!
//! Invariant: the kernel is asked only when the time changes, and a timer that is not set wakes nobody.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer that becomes readable once, when its time has come.
#[derive(Debug)]
pub struct Timer {
    fd: TimerFd,
    set: Option<Instant>,
}

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        Ok(Self { fd, set: None })
    }

    /// Sets the time, or takes it back.
    ///
    /// # Errors
    /// None that the kernel documents for such a timer.
    pub fn set(&mut self, time: Option<Instant>) -> io::Result<()> {
        if self.set == time {
            return Ok(());
        }
        self.set = time;
        match time {
            None => self.fd.unset()?,
            Some(time) => {
                // 0 would take it back.
                let left = time.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
                self.fd.set(expiration, TimerSetTimeFlags::empty())?;
            }
        }
        Ok(())
    }

    /// It has become readable: it is not set any more.
    pub fn has_rung(&mut self) {
        self.set = None;
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}
