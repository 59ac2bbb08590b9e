//! Two ends joined in memory: what one sends the other receives. The cable between two owners in one process.
//!
//! Each end has a bounded queue of frames coming its way and an eventfd that is signalled when the queue stops being
//! empty, when room has come back for a sender that found it full, and when the far end goes away.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::event::EventFd;
use crate::{Capabilities, Counters, DEFAULT_MTU, DropReason, Link, LinkState, Offloads, OwnedFrame, RxBatch, TxBatch};

/// Frames that wait at one end before a sender is told that the link is full.
const QUEUE_FRAMES: usize = 1024;

/// Makes a link and returns its two ends.
///
/// # Errors
/// The process is out of file descriptors.
pub fn pair(name: &str) -> io::Result<(PairEnd, PairEnd)> {
    let shared =
        Arc::new(Shared { ends: [Mutex::default(), Mutex::default()], ready: [EventFd::new()?, EventFd::new()?] });
    let end = |side: usize| PairEnd {
        name: format!("pair://{name}/{side}"),
        shared: Arc::clone(&shared),
        side,
        counters: Counters::default(),
    };
    Ok((end(0), end(1)))
}

/// One end of a [`pair`].
pub struct PairEnd {
    name: String,
    shared: Arc<Shared>,
    side: usize,
    counters: Counters,
}

struct Shared {
    /// What each end is to receive, and what it accepts.
    ends: [Mutex<Inbox>; 2],
    ready: [EventFd; 2],
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<OwnedFrame>,
    accepts: Offloads,
    /// The far end found this inbox full and waits for room.
    sender_waits: bool,
    /// The owner of this inbox is gone.
    closed: bool,
}

impl Shared {
    fn inbox(&self, side: usize) -> MutexGuard<'_, Inbox> {
        self.ends[side].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PairEnd {
    fn far(&self) -> usize {
        1 - self.side
    }
}

impl Link for PairEnd {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: self.shared.inbox(self.far()).accepts, mtu: DEFAULT_MTU }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.shared.inbox(self.side).accepts = offloads;
        Ok(())
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.shared.ready[self.side].as_raw_fd()), token, Interest::READABLE)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.shared.ready[self.side].as_raw_fd()))
    }

    fn service(&mut self, _: Instant) -> io::Result<()> {
        self.shared.ready[self.side].clear();
        Ok(())
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let far = self.far();
        let mut inbox = self.shared.inbox(far);
        if inbox.closed {
            self.counters.drops.add(DropReason::LinkDown, batch.len() as u64);
            return Ok(batch.len());
        }
        let room = QUEUE_FRAMES - inbox.frames.len().min(QUEUE_FRAMES);
        let was_empty = inbox.frames.is_empty();
        let mut taken = 0;
        for frame in batch.frames().take(room) {
            self.counters.sent(frame.len());
            inbox.frames.push_back(frame.into());
            taken += 1;
        }
        inbox.sender_waits = taken < batch.len();
        drop(inbox);
        if was_empty && taken > 0 {
            self.shared.ready[far].signal();
        }
        Ok(taken)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let mut inbox = self.shared.inbox(self.side);
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            let Some(frame) = inbox.frames.pop_front() else { break };
            match slot.write(frame.header, &[&frame.bytes]) {
                Ok(()) => self.counters.received(frame.bytes.len()),
                Err(reason) => self.counters.drops.count(reason),
            }
        }
        let wake_sender = inbox.sender_waits && inbox.frames.len() < QUEUE_FRAMES / 2;
        if wake_sender {
            inbox.sender_waits = false;
        }
        drop(inbox);
        if wake_sender {
            self.shared.ready[self.far()].signal();
        }
        Ok(batch.filled() - before)
    }

    fn state(&self) -> LinkState {
        if self.shared.inbox(self.far()).closed { LinkState::Down } else { LinkState::Up }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl Drop for PairEnd {
    fn drop(&mut self) {
        let mut inbox = self.shared.inbox(self.side);
        inbox.closed = true;
        inbox.frames.clear();
        drop(inbox);
        self.shared.ready[self.far()].signal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fragment, FragmentMut, VnetHeader};

    fn receive(end: &mut PairEnd) -> Option<Vec<u8>> {
        let mut buffer = [0; 100];
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        end.receive(&mut batch).unwrap();
        let len = batch.frames().next()?.1;
        Some(buffer[..len].to_vec())
    }

    #[test]
    fn frames_cross_in_order_and_both_ways() {
        let (mut a, mut b) = pair("test").unwrap();
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(b"first"), Fragment::new(b"!")]);
        batch.push(VnetHeader::WHOLE, [Fragment::new(b"second")]);
        assert_eq!(a.send(&batch).unwrap(), 2);
        assert_eq!(receive(&mut b).unwrap(), b"first!");
        assert_eq!(receive(&mut b).unwrap(), b"second");
        assert_eq!(receive(&mut b), None);
        assert_eq!(b.send(&batch).unwrap(), 2);
        assert_eq!(receive(&mut a).unwrap(), b"first!");
    }

    #[test]
    fn a_full_pair_takes_no_more_and_says_so() {
        let (mut a, mut b) = pair("test").unwrap();
        let mut batch = TxBatch::new();
        for _ in 0..QUEUE_FRAMES + 5 {
            batch.push(VnetHeader::WHOLE, [Fragment::new(b"frame")]);
        }
        assert_eq!(a.send(&batch).unwrap(), QUEUE_FRAMES);
        batch.advance(QUEUE_FRAMES);
        assert_eq!(a.send(&batch).unwrap(), 0);
        assert!(receive(&mut b).is_some());
        assert_eq!(a.send(&batch).unwrap(), 1);
    }

    #[test]
    fn a_dropped_end_takes_the_carrier_with_it() {
        let (a, mut b) = pair("test").unwrap();
        assert_eq!(b.state(), LinkState::Up);
        drop(a);
        assert_eq!(b.state(), LinkState::Down);
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(b"frame")]);
        assert_eq!(b.send(&batch).unwrap(), 1);
        assert_eq!(b.counters().drops.get(DropReason::LinkDown), 1);
    }
}
