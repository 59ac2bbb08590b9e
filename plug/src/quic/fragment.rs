//! Messages longer than a datagram: cut at one side, put together at the other.
//!
//! A part says to which message it belongs, which of how many it is, and nothing about lengths: the message is what its
//! parts are in a row. A part that is lost loses the message.
//!
//! Invariant: what is kept is at most [`MAX_OPEN`] messages and [`MAX_BYTES`], of which none is older than [`PATIENCE`] when
//! another part comes; what goes over that costs the oldest. Time is an argument, and there is no timer: what is left over
//! waits for the next part.
//!
//! Neighbours: `wire` for the format.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use link::DropReason;

use super::wire::{MAX_MESSAGE, PART};

/// Bytes in front of the part itself.
pub const PART_HEADER: usize = 7;
/// The most parts of one message.
pub const MAX_PARTS: usize = 255;
/// Messages of which some parts have come.
pub const MAX_OPEN: usize = 64;
/// Bytes of their parts.
pub const MAX_BYTES: usize = 1 << 20;
/// How long the rest of a message may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Cuts a message into datagrams of at most `size` bytes.
///
/// # Errors
/// [`DropReason::Oversized`]: there would be too many.
pub fn cut(message: &[u8], id: u32, size: usize) -> Result<Vec<Bytes>, DropReason> {
    let room = size.checked_sub(PART_HEADER).filter(|room| *room > 0).ok_or(DropReason::Oversized)?;
    let count = message.len().div_ceil(room).max(1);
    let count = u8::try_from(count).map_err(|_| DropReason::Oversized)?;
    // Parts of one size: a last part of a few bytes would cost a packet as well.
    let step = message.len().div_ceil(usize::from(count)).max(1);
    let parts = (0..count).zip(message.chunks(step));
    Ok(parts
        .map(|(index, part)| {
            let mut datagram = BytesMut::with_capacity(PART_HEADER + part.len());
            datagram.put_u8(PART);
            datagram.put_u32(id);
            datagram.put_u8(index);
            datagram.put_u8(count);
            datagram.put_slice(part);
            datagram.freeze()
        })
        .collect())
}

/// Messages that are being put together.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    open: VecDeque<Open>,
    bytes: usize,
}

#[derive(Debug)]
struct Open {
    id: u32,
    since: Instant,
    parts: Vec<Option<Bytes>>,
    missing: usize,
    bytes: usize,
}

impl Reassembly {
    /// Takes a part (a datagram that begins with [`PART`]); returns the message that it completes. `drop` is told of each
    /// message that is given up, and why.
    pub fn insert(&mut self, now: Instant, part: &[u8], mut drop: impl FnMut(DropReason)) -> Option<Bytes> {
        self.expire(now, &mut drop);
        let Some((id, index, count)) = parse(part) else {
            drop(DropReason::Malformed);
            return None;
        };
        // A copy: the part may lie in a longer packet, which it would keep.
        let body = Bytes::copy_from_slice(part.get(PART_HEADER..).unwrap_or_default());
        let place = match self.open.iter().position(|open| open.id == id) {
            Some(place) => place,
            None => {
                if self.open.len() == MAX_OPEN {
                    self.give_up(&mut drop, DropReason::Limit);
                }
                let parts = vec![None; usize::from(count)];
                self.open.push_back(Open { id, since: now, parts, missing: usize::from(count), bytes: 0 });
                self.open.len() - 1
            }
        };
        let open = self.open.get_mut(place)?;
        let fits = open.parts.len() == usize::from(count) && open.bytes + body.len() <= MAX_MESSAGE;
        match open.parts.get_mut(usize::from(index)) {
            Some(slot) if fits && slot.is_none() => {
                open.missing -= 1;
                open.bytes += body.len();
                self.bytes += body.len();
                *slot = Some(body);
            }
            // It came twice, or contradicts the others.
            _ => {
                drop(DropReason::Malformed);
                return None;
            }
        }
        if open.missing == 0 {
            let open = self.open.remove(place)?;
            self.bytes -= open.bytes;
            let mut message = BytesMut::with_capacity(open.bytes);
            open.parts.iter().flatten().for_each(|part| message.extend_from_slice(part));
            return Some(message.freeze());
        }
        while self.bytes > MAX_BYTES {
            self.give_up(&mut drop, DropReason::Limit);
        }
        None
    }

    /// Messages that are not complete, and the bytes of their parts.
    #[must_use]
    pub fn held(&self) -> (usize, usize) {
        (self.open.len(), self.bytes)
    }

    fn expire(&mut self, now: Instant, drop: &mut impl FnMut(DropReason)) {
        while self.open.front().is_some_and(|open| now.saturating_duration_since(open.since) > PATIENCE) {
            self.give_up(drop, DropReason::Malformed);
        }
    }

    fn give_up(&mut self, drop: &mut impl FnMut(DropReason), reason: DropReason) {
        if let Some(open) = self.open.pop_front() {
            self.bytes -= open.bytes;
            drop(reason);
        }
    }
}

/// Id, index and count of a part.
fn parse(part: &[u8]) -> Option<(u32, u8, u8)> {
    let ([PART, a, b, c, d, index, count], body) = part.split_first_chunk()? else { return None };
    (index < count && !body.is_empty()).then_some((u32::from_be_bytes([*a, *b, *c, *d]), *index, *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(len: usize) -> Vec<u8> {
        (0..len).map(|at| at as u8).collect()
    }

    #[test]
    fn a_message_is_whole_again_in_whatever_order_its_parts_come() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for (id, len) in [(1, 1), (2, 1193), (3, 1194), (4, 9000), (5, 65_000)] {
            let mut parts = cut(&message(len), id, 1200).unwrap();
            assert!(parts.iter().all(|part| part.len() <= 1200));
            assert_eq!(parts.len(), len.div_ceil(1193));
            parts.reverse();
            let last = parts.pop().unwrap();
            for part in parts {
                assert_eq!(reassembly.insert(now, &part, |reason| panic!("{reason}")), None);
            }
            let whole = reassembly.insert(now, &last, |reason| panic!("{reason}")).unwrap();
            assert!(whole == message(len));
        }
        assert_eq!(reassembly.held(), (0, 0));
        assert_eq!(cut(&message(2000), 1, PART_HEADER + 5), Err(DropReason::Oversized));
        assert_eq!(cut(&message(2000), 1, PART_HEADER), Err(DropReason::Oversized));
    }

    #[test]
    fn what_contradicts_itself_is_a_counted_drop() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut drops = Vec::new();
        let mut insert = |bytes: &[u8]| {
            drops.clear();
            let whole = reassembly.insert(now, bytes, |reason| drops.push(reason));
            (whole.is_some(), drops.clone())
        };
        let bad = (false, vec![DropReason::Malformed]);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 0, 2]), bad);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 2, 2, 9]), bad);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 0, 0, 9]), bad);
        assert_eq!(insert(&[0; 20]), bad);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 0, 2, 9]), (false, vec![]));
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 0, 2, 9]), bad);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 1, 3, 9]), bad);
        assert_eq!(insert(&[PART, 0, 0, 0, 1, 1, 2, 9]), (true, vec![]));
    }

    #[test]
    fn what_never_ends_is_bounded_and_given_up() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut drops = 0;
        for id in 0..1000 {
            let parts = cut(&message(60_000), id, 50_000).unwrap();
            reassembly.insert(now, &parts[0], |_| drops += 1);
            let (open, bytes) = reassembly.held();
            assert!(open <= MAX_OPEN && bytes <= MAX_BYTES);
        }
        let (open, _) = reassembly.held();
        assert_eq!(drops + open, 1000);
        let parts = cut(&message(2000), 5000, 1200).unwrap();
        let later = now + PATIENCE + Duration::from_millis(1);
        reassembly.insert(later, &parts[0], |reason| assert_eq!(reason, DropReason::Malformed));
        assert_eq!(reassembly.held().0, 1);
    }
}
