//! One direction of an impaired link: its [`Impairment`], and the frames that wait until they are due.
//!
//! Invariant: what waits is bounded by the impairment's limits, and a frame that was taken leaves by [`Lane::due`] or
//! is counted under one drop reason.
//!
//! Neighbours: `fate` decides; the link around it receives and sends.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use link::{Checksum, DropCounts, ETHERNET_HEADER_LEN, OwnedFrame};

use super::fate::{Fate, Impairment, Length, Waiting};

/// A direction.
#[derive(Debug)]
pub struct Lane {
    /// What is done to its frames.
    pub impairment: Impairment,
    /// What has happened to its frames.
    pub figures: Figures,
    /// Frames that are not due yet, the earliest on top.
    queue: BinaryHeap<Reverse<Queued>>,
    /// Frames that are due.
    due: VecDeque<OwnedFrame>,
    /// Bytes of both.
    bytes: usize,
    /// The place in line of the next frame, among those that are due at once.
    place: u64,
}

/// Frames that were offered to a lane while it did something to frames, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Frames.
    pub frames: u64,
    /// Those that went nowhere.
    pub drops: DropCounts,
    /// Those that arrive twice.
    pub duplicated: u64,
    /// Those with an inverted bit.
    pub corrupted: u64,
    /// Those that skipped the delay.
    pub reordered: u64,
}

#[derive(Debug)]
struct Queued {
    due: Instant,
    place: u64,
    frame: OwnedFrame,
}

impl Lane {
    /// An empty lane.
    #[must_use]
    pub fn new(impairment: Impairment) -> Self {
        Self {
            impairment,
            figures: Figures::default(),
            queue: BinaryHeap::new(),
            due: VecDeque::new(),
            bytes: 0,
            place: 0,
        }
    }

    /// Whether a frame passes as if there were no lane.
    #[must_use]
    pub fn is_clear(&self, now: Instant) -> bool {
        self.impairment.is_clear(now) && self.waiting().frames == 0
    }

    /// What waits.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting { frames: self.queue.len() + self.due.len(), bytes: self.bytes }
    }

    /// When the next frame is due, of those that were not at the last call of [`Lane::due`].
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(first)| first.due)
    }

    /// Takes a frame.
    pub fn take(&mut self, mut frame: OwnedFrame, now: Instant) {
        self.figures.frames += 1;
        let delivery = match self.impairment.decide(length(&frame.bytes), self.waiting(), now) {
            Fate::Dropped(reason) => return self.figures.drops.count(reason),
            Fate::Delivered(delivery) => delivery,
        };
        self.figures.reordered += u64::from(delivery.is_reordered);
        if !delivery.flips.is_empty() {
            self.figures.corrupted += 1;
            invert(&mut frame, &delivery.flips);
        }
        let copy = delivery.again.map(|due| (due, frame.clone()));
        self.put(frame, delivery.due);
        if let Some((due, copy)) = copy {
            self.figures.duplicated += 1;
            self.put(copy, due);
        }
    }

    /// The frames that are due, in order; who delivers one takes it away by [`Lane::delivered`].
    pub fn due(&mut self, now: Instant) -> &VecDeque<OwnedFrame> {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse(first)) = self.queue.pop() else { break };
            self.due.push_back(first.frame);
        }
        &self.due
    }

    /// The first so many of those that are due have gone.
    pub fn delivered(&mut self, count: usize) {
        for frame in self.due.drain(..count.min(self.due.len())) {
            self.bytes -= frame.bytes.len();
        }
    }

    fn put(&mut self, frame: OwnedFrame, due: Instant) {
        self.bytes += frame.bytes.len();
        self.queue.push(Reverse(Queued { due, place: self.place, frame }));
        self.place += 1;
    }
}

/// Inverts bits of a frame. A checksum that somebody had found right is to be looked at again.
fn invert(frame: &mut OwnedFrame, bits: &[usize]) {
    for bit in bits {
        if let Some(byte) = frame.bytes.get_mut(bit / 8) {
            *byte ^= 0x80 >> (bit % 8);
        }
    }
    if frame.header.checksum == Checksum::Valid {
        frame.header.checksum = Checksum::Complete;
    }
}

fn length(frame: &[u8]) -> Length {
    let mut header = ETHERNET_HEADER_LEN;
    // IEEE 802.1Q-2018 §9.5: a tag, or two, stands where the EtherType would.
    while header <= ETHERNET_HEADER_LEN + 4
        && matches!(frame.get(header - 2..header), Some([0x81, 0x00] | [0x88, 0xa8]))
    {
        header += 4;
    }
    Length { frame: frame.len(), payload: frame.len().saturating_sub(header) }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.place).cmp(&(other.due, other.place))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Queued {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_tags_are_no_payload() {
        let frame = |types: &[u8]| [&[0; 12], types, &[0; 100]].concat();
        let payload = |types: &[u8]| length(&frame(types)).payload;
        assert_eq!(payload(&[8, 0]), 100);
        assert_eq!(payload(&[0x81, 0, 0, 1, 8, 0]), 100);
        assert_eq!(payload(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 1, 8, 0]), 100);
        assert_eq!(length(&[0; 5]), Length { frame: 5, payload: 0 });
    }

    #[test]
    fn a_damaged_frame_is_no_longer_known_to_be_right() {
        let header = link::VnetHeader { checksum: Checksum::Valid, ..link::VnetHeader::WHOLE };
        let mut frame = OwnedFrame { header, bytes: vec![0; 3] };
        invert(&mut frame, &[0, 15, 24]);
        assert_eq!((frame.header, frame.bytes), (link::VnetHeader::WHOLE, vec![0x80, 1, 0]));
    }
}
