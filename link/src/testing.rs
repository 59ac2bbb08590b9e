//! What the tests of links over sockets share: frames, and the ways in and out of a link.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::{DropReason, Fragment, FragmentMut, Link, MAX_FRAME_LEN, RxBatch, TxBatch, VnetHeader};

/// A frame of so many bytes with a mark.
pub(crate) fn frame(len: usize, mark: u8) -> Vec<u8> {
    (0..len).map(|place| if place < 14 { mark } else { (place % 251) as u8 ^ mark }).collect()
}

/// Sends frames; returns how many were taken.
pub(crate) fn send(link: &mut dyn Link, frames: &[Vec<u8>]) -> usize {
    let mut batch = TxBatch::new();
    for bytes in frames {
        batch.push(VnetHeader::WHOLE, [Fragment::new(bytes)]);
    }
    link.send(&batch).unwrap()
}

/// Receives what there is, and goes on until there are so many frames.
pub(crate) fn receive_soon(link: &mut dyn Link, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut memory = vec![0; 16 * MAX_FRAME_LEN];
    let mut frames = Vec::new();
    loop {
        let mut batch = RxBatch::new();
        for slot in memory.chunks_mut(MAX_FRAME_LEN) {
            batch.push([FragmentMut::new(slot)]);
        }
        link.receive(&mut batch).unwrap();
        let lens: Vec<_> = batch.frames().map(|(_, len)| len).collect();
        drop(batch);
        let slots = memory.chunks(MAX_FRAME_LEN).zip(lens);
        frames.extend(slots.map(|(slot, len)| slot[..len].to_vec()));
        if frames.len() >= count {
            return frames;
        }
        assert!(Instant::now() < deadline, "{} of {count} frames", frames.len());
        sleep(Duration::from_millis(1));
    }
}

/// What a link has dropped.
pub(crate) fn drops(link: &dyn Link) -> Vec<(DropReason, u64)> {
    link.counters().drops.iter().collect()
}
