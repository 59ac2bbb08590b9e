//! What the far side of a `quic://` cable may send inside the connection: datagrams, parts of messages in any order, lanes, a
//! hello.
//!
//! The input is a sequence of actions. What is held is bounded at every step, and what comes out is a frame that agrees
//! with its header.

use std::time::{Duration, Instant};

use bytes::Bytes;
use link::{Fragment, TxBatch};
use plug::quic::fragment::{MAX_BYTES, MAX_OPEN, PART_HEADER, Reassembly, cut};
use plug::quic::wire::{Hello, LaneReader, MAX_MESSAGE, PART, lane_message, message, parse_message};

use super::data::Data;

/// Tries an input.
pub fn target(bytes: &[u8]) {
    let mut data = Data::new(bytes);
    let mut now = Instant::now();
    let mut reassembly = Reassembly::default();
    let (mut lane, mut is_broken) = (LaneReader::default(), false);
    while !data.is_empty() {
        match data.byte() % 7 {
            0 => now += Duration::from_millis(u64::from(data.byte()) * 10),
            1 => insert(&mut reassembly, now, Bytes::copy_from_slice(data.piece())),
            2 => {
                // A part with a chosen header.
                let mut part = vec![PART, 0, 0, 0, data.byte() % 8, data.byte() % 8, data.byte() % 8];
                part.extend_from_slice(data.piece());
                insert(&mut reassembly, now, part.into());
            }
            3 => {
                // A long one, so that the bound on bytes is met.
                let mut part = vec![PART, 1, 0, 0, data.byte(), data.byte() % 4, 4];
                part.resize(PART_HEADER + usize::from(data.word()), 7);
                insert(&mut reassembly, now, part.into());
            }
            4 if !is_broken => {
                lane.push(data.piece());
                is_broken = !empty(&mut lane);
            }
            5 => check_message(data.piece()),
            _ => check_hello(data.take(Hello::LEN)),
        }
        let (open, held) = reassembly.held();
        assert!(open <= MAX_OPEN && held <= MAX_BYTES);
    }
}

fn insert(reassembly: &mut Reassembly, now: Instant, part: Bytes) {
    let mut drops = 0;
    let whole = reassembly.insert(now, &part, |_| drops += 1);
    // One at a time may be there too much, and all that were there may have been too old.
    assert!(drops <= MAX_OPEN + 1);
    if let Some(whole) = whole {
        assert!(whole.len() <= MAX_MESSAGE);
        check_message(&whole);
    }
}

/// Takes the messages out of a lane; returns whether it is sound.
fn empty(lane: &mut LaneReader) -> bool {
    loop {
        match lane.next_message() {
            Ok(Some(message)) => check_message(&message),
            Ok(None) => {
                assert!(lane.buffered() < 4 + MAX_MESSAGE);
                return true;
            }
            Err(_) => return false,
        }
    }
}

/// A message that was read is written again, whole, in parts and in a lane.
fn check_message(bytes: &[u8]) {
    let Ok((header, frame)) = parse_message(bytes) else { return };
    assert_eq!(header.check(frame.len()), Ok(()));
    let mut batch = TxBatch::new();
    batch.push(header, [Fragment::new(frame)]);
    let written = batch.frames().next().expect("it was pushed");
    let (whole, framed) = (message(&written), lane_message(&written));
    assert_eq!(parse_message(&whole), Ok((header, frame)));
    let mut lane = LaneReader::default();
    lane.push(&framed);
    assert_eq!(lane.next_message(), Ok(Some(Bytes::from(whole.clone()))));
    let parts = cut(&whole, 1, 64 + PART_HEADER).unwrap_or_default();
    let mut reassembly = Reassembly::default();
    let now = Instant::now();
    let again = parts.iter().rev().filter_map(|part| reassembly.insert(now, part, |reason| panic!("{reason}")));
    assert!(again.last().is_none_or(|again| again == whole));
}

fn check_hello(bytes: &[u8]) {
    let Some(hello) = bytes.first_chunk().and_then(|bytes| Hello::parse(bytes).ok()) else { return };
    assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
}
