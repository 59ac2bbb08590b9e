//! How the parts of a running machine ask it to stop.
//!
//! The first request wins; later ones (another vcpu that faults while the first is being joined) are dropped. Whoever asks is
//! never blocked: the machine's event loop is woken and does the work. Vcpus look at [`Control::stopping`] after each exit.
//! Neighbours: `machine.rs` waits and re-arms, `legacy/pm.rs`, `legacy/i8042.rs` and `cpu.rs` ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use mio::Waker;

use crate::cpu;

/// Why the vcpus are to stop.
#[derive(Debug)]
pub enum Request {
    /// The guest powered itself off (ACPI S5).
    Shutdown,
    /// The guest asked for a reset.
    Reset,
    /// The operator typed Ctrl-A x.
    Quit,
    /// A signal asked us to end.
    Signal(i32),
    /// A vcpu cannot go on.
    Fault(cpu::Fault),
}

/// The machine's stop button, shared by everything that may press it.
pub struct Control {
    first: Mutex<Option<Request>>,
    stopping: AtomicBool,
    waker: Waker,
}

impl Control {
    /// A button that nobody has pressed; `waker` wakes the machine's event loop.
    pub fn new(waker: Waker) -> Self {
        Self { first: Mutex::new(None), stopping: AtomicBool::new(false), waker }
    }

    /// Asks the machine to stop. Only the first request since the last [`Control::rearm`] counts.
    pub fn ask(&self, request: Request) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopping.swap(true, Ordering::SeqCst) {
            return;
        }
        *first = Some(request);
        drop(first);
        self.wake();
    }

    /// Wakes the event loop without asking for anything.
    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!("machine: cannot wake the event loop: {error}");
        }
    }

    /// Whether somebody has asked. Vcpus then return.
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The request, once.
    pub fn take(&self) -> Option<Request> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes the button usable again. No vcpu may be running.
    pub fn rearm(&self) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stopping.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Poll, Token};

    #[test]
    fn the_first_request_wins_until_rearmed() {
        let poll = Poll::new().unwrap();
        let control = Control::new(Waker::new(poll.registry(), Token(0)).unwrap());
        control.ask(Request::Reset);
        control.ask(Request::Shutdown);
        assert!(control.stopping());
        assert!(matches!(control.take(), Some(Request::Reset)));
        assert!(control.take().is_none());
        control.ask(Request::Shutdown);
        assert!(control.take().is_none());
        control.rearm();
        assert!(!control.stopping());
        control.ask(Request::Shutdown);
        assert!(matches!(control.take(), Some(Request::Shutdown)));
    }
}
