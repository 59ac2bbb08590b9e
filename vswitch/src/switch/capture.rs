//! Captures: what passes a port, kept until a watcher fetches it.
//!
//! Invariant: a capture holds no more than [`MAX_KEPT`] bytes of frames. What comes when it is full is counted as
//! missed, and costs the data path nothing but that.
//!
//! Neighbours: `path` and `floor` put frames in, where they come in and go out; `crate::watch` takes them.

use std::collections::VecDeque;
use std::time::SystemTime;

use link::{DropReason, TxBatch, VnetHeader};
use slab::Slab;

use crate::PortId;

/// The number of a capture in the switch's table of captures.
pub type CaptureKey = u32;

/// Bytes of frames that a capture holds at most.
const MAX_KEPT: usize = 8 << 20;

/// Which way a frame passed the port, as the switch sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the switch.
    In,
    /// Out of it.
    Out,
}

/// A captured frame, but for its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caught {
    /// When.
    pub time: SystemTime,
    /// Which way.
    pub direction: Direction,
    /// What is left to be done about its checksum and segmentation.
    pub header: VnetHeader,
    /// Why the bridge dropped it, if it did.
    pub dropped: Option<DropReason>,
    /// Frames missed just before this one.
    pub missed_before: u64,
    /// Its length in bytes.
    pub len: usize,
}

/// A capture of one port.
#[derive(Debug)]
pub struct Capture {
    /// The port.
    pub port: PortId,
    frames: VecDeque<Caught>,
    /// The frames' bytes, one behind the other.
    bytes: VecDeque<u8>,
    /// Frames missed since the last one kept.
    missed: u64,
}

impl Capture {
    pub(super) fn new(port: PortId) -> Self {
        Self { port, frames: VecDeque::new(), bytes: VecDeque::new(), missed: 0 }
    }

    /// Whether there is a frame to take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames missed behind the last one that [`Capture::take`] can give.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Takes the oldest frame; `read` is given its bytes, in two parts.
    pub fn take<T>(&mut self, read: impl FnOnce(Caught, [&[u8]; 2]) -> T) -> Option<T> {
        let caught = self.frames.pop_front()?;
        let (first, second) = self.bytes.as_slices();
        let (first, second) = match caught.len.checked_sub(first.len()) {
            None => (&first[..caught.len], &second[..0]),
            Some(rest) => (first, &second[..rest]),
        };
        let outcome = read(caught, [first, second]);
        self.bytes.drain(..caught.len);
        Some(outcome)
    }

    /// Keeps a frame if there is room; `copy` appends its bytes.
    fn catch(&mut self, frame: Passing, len: usize, copy: impl FnOnce(&mut VecDeque<u8>)) {
        if self.bytes.len() + len > MAX_KEPT {
            self.missed += 1;
            return;
        }
        let before = self.bytes.len();
        copy(&mut self.bytes);
        let Passing { time, direction, header, dropped } = frame;
        let missed_before = std::mem::take(&mut self.missed);
        let len = self.bytes.len() - before;
        self.frames.push_back(Caught { time, direction, header, dropped, missed_before, len });
    }
}

/// A frame on its way past a port.
#[derive(Clone, Copy)]
pub(super) struct Passing {
    pub(super) time: SystemTime,
    pub(super) direction: Direction,
    pub(super) header: VnetHeader,
    pub(super) dropped: Option<DropReason>,
}

/// Gives a frame to these captures.
pub(super) fn catch(captures: &mut Slab<Capture>, keys: &[CaptureKey], frame: Passing, bytes: &[u8]) {
    for key in keys {
        if let Some(capture) = captures.get_mut(*key as usize) {
            capture.catch(frame, bytes.len(), |kept| kept.extend(bytes));
        }
    }
}

/// Gives what leaves by a port to these captures.
#[cold]
pub(super) fn catch_sent(captures: &mut Slab<Capture>, keys: &[CaptureKey], batch: &TxBatch<'_>) {
    let time = SystemTime::now();
    let mut bytes = Vec::new();
    for frame in batch.frames() {
        bytes.clear();
        frame.append_to(&mut bytes);
        catch(captures, keys, Passing { time, direction: Direction::Out, header: frame.header, dropped: None }, &bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSING: Passing =
        Passing { time: SystemTime::UNIX_EPOCH, direction: Direction::In, header: VnetHeader::WHOLE, dropped: None };

    #[test]
    fn frames_come_out_as_they_went_in_and_what_does_not_fit_is_counted() {
        let mut captures = Slab::new();
        let keys = [captures.insert(Capture::new(PortId::FIRST)) as CaptureKey];
        let mut number = 0u32;
        let mut expected = 0u32;
        // Long enough for the ring to wrap many times.
        for _ in 0..50 {
            for _ in 0..4000 {
                let frame = vec![number as u8; 1000 + number as usize % 500];
                catch(&mut captures, &keys, PASSING, &frame);
                number += 1;
            }
            while let Some((caught, bytes)) = captures[0].take(|caught, parts| (caught, parts.concat())) {
                expected += caught.missed_before as u32;
                assert_eq!(bytes, vec![expected as u8; 1000 + expected as usize % 500]);
                expected += 1;
            }
        }
        for _ in 0..20_000 {
            catch(&mut captures, &keys, PASSING, &[0; 1000]);
        }
        assert_eq!(captures[0].missed(), 20_000 - (MAX_KEPT / 1000) as u64);
        assert!(captures[0].bytes.capacity() <= 2 * MAX_KEPT);
    }
}
