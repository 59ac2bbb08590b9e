//! Records that wait to be written to a stream.
//!
//! The queue is bounded in bytes; when it is full its *oldest* frame goes: what is old is worth least, and a queue that is
//! never emptied from its head only adds delay. Words, which are no frames, are never dropped; a confirmation goes before
//! everything that has not begun to be written.
//!
//! Neighbour: `super`, which writes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::wire;
use crate::{Counters, Fragment, Frame};

/// Bytes that wait to be written at most: 3 ms at 1.4 Gbit/s, and eight of the longest frames.
const QUEUE_BYTES: usize = 512 * 1024;

/// Records that wait to be written. The first may have been written in part.
#[derive(Default)]
pub(super) struct Queue {
    records: VecDeque<Record>,
    bytes: usize,
    /// Bytes of the first that are written.
    written: usize,
}

struct Record {
    bytes: Vec<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Words,
    Confirmation,
    /// A frame of so many bytes.
    Frame(usize, Waits),
}

/// What the queue knows of a frame's time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Waits {
    /// When it came.
    pub(super) since: Instant,
    /// Whether the far side will confirm it.
    pub(super) is_confirmed: bool,
}

impl Record {
    fn is_frame(&self) -> bool {
        matches!(self.kind, Kind::Frame(..))
    }
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds words that must not be lost.
    pub(super) fn push_words(&mut self, words: &[u8]) {
        self.bytes += words.len();
        self.records.push_back(Record { bytes: words.to_vec(), kind: Kind::Words });
    }

    /// Adds a frame with what stands before it, of which so many bytes have been written; some only if nothing else waits.
    pub(super) fn push_frame(&mut self, frame: &Frame<'_>, prefix: &[u8], written: usize, waits: Waits) {
        if self.is_empty() {
            self.written = written;
        }
        let mut bytes = Vec::with_capacity(prefix.len() + frame.len());
        bytes.extend_from_slice(prefix);
        frame.append_to(&mut bytes);
        self.bytes += bytes.len();
        self.records.push_back(Record { bytes, kind: Kind::Frame(frame.len(), waits) });
    }

    /// Has a confirmation be written next, in place of one that still waits.
    pub(super) fn confirm(&mut self, total: u64) {
        let at = usize::from(self.written > 0);
        let bytes = wire::confirmation(total).to_vec();
        match self.records.get_mut(at).filter(|record| record.kind == Kind::Confirmation) {
            Some(record) => record.bytes = bytes,
            None => {
                self.bytes += bytes.len();
                self.records.insert(at, Record { bytes, kind: Kind::Confirmation });
            }
        }
    }

    /// Drops the oldest frames until the queue is no longer than it may be; returns how many.
    pub(super) fn shorten(&mut self) -> u64 {
        let mut dropped = 0;
        while self.bytes > QUEUE_BYTES && self.drop_oldest(|_| true) {
            dropped += 1;
        }
        dropped
    }

    /// Drops the frames that have waited for longer than this; returns how many.
    pub(super) fn expire(&mut self, now: Instant, patience: Duration) -> u64 {
        let mut dropped = 0;
        while self.drop_oldest(|since| now.saturating_duration_since(since) > patience) {
            dropped += 1;
        }
        dropped
    }

    /// Drops the oldest frame that has not begun to be written, if that is to be dropped.
    fn drop_oldest(&mut self, is_to_go: impl Fn(Instant) -> bool) -> bool {
        let first = usize::from(self.written > 0);
        let Some(oldest) = self.records.iter().skip(first).position(Record::is_frame) else { return false };
        let goes = |record: &Record| matches!(record.kind, Kind::Frame(_, waits) if is_to_go(waits.since));
        if !self.records.get(first + oldest).is_some_and(goes) {
            return false;
        }
        let Some(record) = self.records.remove(first + oldest) else { return false };
        self.bytes -= record.bytes.len();
        true
    }

    /// Whether any may be written.
    pub(super) fn may_write(&self, room: u64) -> bool {
        self.records.front().is_some_and(|first| self.written > 0 || room > 0 || !first.is_frame())
    }

    /// How many records may be written at once, if there is room for so many bytes of frames: all words, what has begun, and
    /// frames as long as there is any room.
    pub(super) fn writable(&self, mut room: u64) -> usize {
        let first = usize::from(self.written > 0);
        let may_go = |(index, record): &(usize, &Record)| {
            if *index < first || !record.is_frame() {
                return true;
            }
            let has_room = room > 0;
            room = room.saturating_sub(record.bytes.len() as u64);
            has_room
        };
        self.records.iter().enumerate().take_while(may_go).count()
    }

    /// What the first records still have to be written.
    pub(super) fn vectors(&self, most: usize) -> Vec<Fragment<'_>> {
        let mut skip = self.written;
        let records = self.records.iter().take(most);
        records.map(|record| Fragment::new(&record.bytes).skip(std::mem::take(&mut skip))).collect()
    }

    /// So many bytes more have been written; counts the frames that are through, and returns the bytes of those records that
    /// the far side will confirm.
    pub(super) fn advance(&mut self, written: usize, counters: &mut Counters) -> u64 {
        let mut through = 0;
        self.written += written;
        while let Some(first) = self.records.front().filter(|first| first.bytes.len() <= self.written) {
            self.written -= first.bytes.len();
            self.bytes -= first.bytes.len();
            if let Kind::Frame(len, waits) = first.kind {
                counters.sent(len);
                through += if waits.is_confirmed { first.bytes.len() as u64 } else { 0 };
            }
            self.records.pop_front();
        }
        through
    }
}
