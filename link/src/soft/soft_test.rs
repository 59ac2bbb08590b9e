//! [`Soft`] around a link whose capabilities, room and queue the test sets.

use super::sample::{Random, Sample, read};
use super::*;

/// A link that takes as many frames as it has room for, and delivers what the test put into it.
#[derive(Default)]
struct Wire {
    takes: Offloads,
    room: usize,
    sent: Vec<OwnedFrame>,
    /// Where the fragments of sent frames lay.
    addresses: Vec<*const u8>,
    queue: VecDeque<OwnedFrame>,
    accepts: Offloads,
    refuses_offloads: bool,
    receive_calls: usize,
    counters: Counters,
}

// SAFETY: the addresses are compared, never followed.
unsafe impl Send for Wire {}

impl Wire {
    fn with_room(room: usize) -> Self {
        Self { room, ..Self::default() }
    }
}

impl Link for Wire {
    fn name(&self) -> &str {
        "wire://"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { offloads: self.takes, mtu: 1500 }
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if self.refuses_offloads {
            return Err(io::Error::other("refused"));
        }
        self.accepts = offloads;
        Ok(())
    }
    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let taken = self.room.min(batch.len());
        for frame in batch.frames().take(taken) {
            assert!(self.takes.permit(&frame.header), "{:?}", frame.header);
            self.addresses
                .extend(Fragment::as_iovecs(frame.fragments).first().map(|first| first.iov_base.cast_const().cast()));
            self.sent.push(frame.into());
        }
        self.room -= taken;
        Ok(taken)
    }
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.receive_calls += 1;
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            let Some(frame) = self.queue.pop_front() else { break };
            if let Err(reason) = slot.write(frame.header, &[&frame.bytes]) {
                self.counters.drops.count(reason);
            }
        }
        Ok(batch.filled() - before)
    }
    fn counters(&self) -> Counters {
        self.counters
    }
}

fn batch_of<'a>(frames: &'a [(VnetHeader, Vec<u8>)]) -> TxBatch<'a> {
    let mut batch = TxBatch::new();
    for (header, bytes) in frames {
        // In two parts, the first of which ends within the headers.
        let (front, back) = bytes.split_at(bytes.len().min(20));
        batch.push(*header, [Fragment::new(front), Fragment::new(back)]);
    }
    batch
}

fn receive<L: Link>(link: &mut L, slot_len: usize, slots: usize) -> Vec<OwnedFrame> {
    let mut frames = Vec::new();
    loop {
        let mut buffers = vec![vec![0; slot_len]; slots];
        let mut batch = RxBatch::new();
        for buffer in &mut buffers {
            batch.push([FragmentMut::new(buffer)]);
        }
        if link.receive(&mut batch).unwrap() == 0 {
            return frames;
        }
        let lengths: Vec<_> = batch.frames().collect();
        for (buffer, (header, len)) in buffers.iter().zip(lengths) {
            frames.push(OwnedFrame { header, bytes: buffer[..len].to_vec() });
        }
    }
}

fn payload_of(frames: &[OwnedFrame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| read(&frame.bytes).payload).collect()
}

fn owned((header, bytes): (VnetHeader, Vec<u8>)) -> OwnedFrame {
    OwnedFrame { header, bytes }
}

#[test]
fn permitted_frames_pass_in_the_memory_they_lie_in() {
    let mut soft = Soft::new(Wire { takes: Offloads::ALL, ..Wire::with_room(10) });
    let frames = [Sample::tcp4(9000, 1000).frame(), Sample::tcp4(10, 1000).partial()];
    assert_eq!(soft.send(&batch_of(&frames)).unwrap(), 2);
    assert_eq!(soft.inner.sent, frames.clone().map(owned));
    assert_eq!(soft.inner.addresses, [frames[0].1.as_ptr(), frames[1].1.as_ptr()]);
}

#[test]
fn what_the_link_does_not_take_is_done_and_the_rest_passes_in_order() {
    let takes = Offloads { checksum: true, tso4: true, ..Offloads::NONE };
    let mut soft = Soft::new(Wire { takes, ..Wire::with_room(100) });
    let six = Sample { v6: true, ..Sample::tcp4(2500, 1000) };
    let frames = [Sample::tcp4(9000, 1000).frame(), six.frame(), six.partial(), six.frame()];
    assert_eq!(soft.send(&batch_of(&frames)).unwrap(), 4);
    let sent = &soft.inner.sent;
    assert_eq!(sent.len(), 1 + 3 + 1 + 3);
    assert_eq!(sent[0], owned(frames[0].clone()));
    assert_eq!(sent[4], owned(frames[2].clone()));
    assert_eq!(payload_of(&sent[1..4]), six.payload);
    assert_eq!(payload_of(&sent[5..8]), six.payload);
    assert_eq!(soft.inner.addresses[0], frames[0].1.as_ptr());
    assert_eq!(soft.inner.addresses[4], frames[2].1.as_ptr());
}

#[test]
fn a_partial_checksum_is_finished_for_a_plain_link() {
    let mut soft = Soft::new(Wire::with_room(10));
    let sample = Sample { udp: true, tags: 1, ..Sample::tcp4(100, 1000) };
    assert_eq!(soft.send(&batch_of(&[sample.partial()])).unwrap(), 1);
    assert_eq!(soft.inner.sent[0].header, VnetHeader::WHOLE);
    assert_eq!(payload_of(&soft.inner.sent), sample.payload);
}

#[test]
fn a_link_that_fills_up_within_a_frame_loses_and_doubles_nothing() {
    let samples: Vec<_> = (0..3).map(|i| Sample::tcp4(5000 + i, 1000)).collect();
    let frames: Vec<_> = samples.iter().map(Sample::frame).collect();
    let expected: Vec<u8> = samples.iter().flat_map(|sample| sample.payload.clone()).collect();
    for step in 1..18 {
        let mut soft = Soft::new(Wire::default());
        let mut batch = batch_of(&frames);
        let mut rounds = 0;
        while !batch.is_empty() || !soft.unsent.is_empty() {
            soft.inner.room = step;
            if rounds % 2 == 0 {
                soft.service(Instant::now()).unwrap();
            }
            let taken = soft.send(&batch).unwrap();
            batch.advance(taken);
            rounds += 1;
            assert!(rounds < 100);
        }
        assert_eq!(soft.inner.sent.len(), 16 + 1);
        assert_eq!(payload_of(&soft.inner.sent), expected, "{step} frames at a time");
    }
}

#[test]
fn the_rest_of_a_frame_goes_before_the_next_one_and_on_readiness() {
    let mut soft = Soft::new(Wire::with_room(2));
    let sample = Sample::tcp4(3000, 1000);
    assert_eq!(soft.send(&batch_of(&[sample.frame()])).unwrap(), 1, "the frame counts as taken");
    let whole = (VnetHeader::WHOLE, sample.frame().1);
    assert_eq!(soft.send(&batch_of(std::slice::from_ref(&whole))).unwrap(), 0, "still full");
    soft.inner.room = 1;
    soft.service(Instant::now()).unwrap();
    assert_eq!(payload_of(&soft.inner.sent), sample.payload);
    soft.inner.room = 1;
    assert_eq!(soft.send(&batch_of(&[whole])).unwrap(), 1);
}

#[test]
fn capabilities_may_change_between_two_sends() {
    let mut soft = Soft::new(Wire::with_room(100));
    let frame = [Sample::tcp4(3000, 1000).frame()];
    assert_eq!(soft.send(&batch_of(&frame)).unwrap(), 1);
    soft.inner.takes = Offloads::ALL;
    assert_eq!(soft.send(&batch_of(&frame)).unwrap(), 1);
    soft.inner.takes = Offloads { checksum: true, ..Offloads::NONE };
    assert_eq!(soft.send(&batch_of(&frame)).unwrap(), 1);
    assert_eq!(soft.inner.sent.len(), 3 + 1 + 3);
}

#[test]
fn contradictions_are_counted_once_and_do_not_stop_the_others() {
    let mut soft = Soft::new(Wire::with_room(4));
    let good = Sample::tcp4(2000, 1000).frame();
    let mut bad = good.clone();
    bad.1.pop();
    let mut runt = good.clone();
    runt.1.truncate(9);
    let mut huge = good.clone();
    huge.1.resize(MAX_FRAME_LEN + 1, 0);
    let frames = [bad.clone(), good.clone(), runt, huge, good.clone(), bad, good];
    let mut batch = batch_of(&frames);
    let taken = soft.send(&batch).unwrap();
    assert_eq!(taken, 6, "the last good frame found no room");
    batch.advance(taken);
    soft.inner.room = 2;
    assert_eq!(soft.send(&batch).unwrap(), 1);
    assert_eq!(soft.inner.sent.len(), 6);
    let drops = soft.counters().drops;
    assert_eq!(drops.get(DropReason::BadOffload), 2);
    assert_eq!(drops.get(DropReason::Runt), 1);
    assert_eq!(drops.get(DropReason::Oversized), 1);
}

#[test]
fn long_batches_are_cut_round_by_round() {
    let samples: Vec<_> = (0..20).map(|i| Sample::tcp4(50_000 + i, 1448)).collect();
    let frames: Vec<_> = samples.iter().map(Sample::frame).collect();
    let mut soft = Soft::new(Wire::with_room(10_000));
    assert_eq!(soft.send(&batch_of(&frames)).unwrap(), 20);
    assert_eq!(payload_of(&soft.inner.sent), samples.iter().flat_map(|s| s.payload.clone()).collect::<Vec<_>>());
    assert!(soft.workbench.frames.len() <= ROUND_BYTES + MAX_FRAME_LEN);
}

#[test]
fn the_inner_link_fills_the_owners_slots_once_it_was_empty() {
    let mut soft = Soft::new(Wire::default());
    soft.accept(Offloads::ALL).unwrap();
    assert_eq!(soft.inner.accepts, Offloads::ALL);
    assert!(receive(&mut soft, 2000, 4).is_empty());
    let frame = owned(Sample::tcp4(9000, 1000).frame());
    soft.inner.queue.extend([frame.clone(), frame.clone()]);
    assert_eq!(receive(&mut soft, 10_000, 4), [frame.clone(), frame]);
    assert!(soft.stage.is_empty() && soft.undelivered.is_empty());
}

#[test]
fn frames_on_their_way_when_the_owner_accepts_less_are_cut_for_small_slots() {
    let mut soft = Soft::new(Wire::default());
    soft.accept(Offloads::ALL).unwrap();
    assert!(receive(&mut soft, 2000, 4).is_empty());
    let samples: Vec<_> = (0..9).map(|i| Sample::tcp4(9000 + i, 1000)).collect();
    soft.inner.queue.extend(samples.iter().map(|sample| owned(sample.frame())));
    soft.accept(Offloads::NONE).unwrap();
    let frames = receive(&mut soft, 1514, 3);
    assert_eq!(payload_of(&frames), samples.iter().flat_map(|s| s.payload.clone()).collect::<Vec<_>>());
    assert!(frames.iter().all(|frame| frame.header == VnetHeader::WHOLE));
    assert_eq!(soft.counters().drops.total(), 0);
    assert_eq!(soft.staging, Staging::Off);
}

#[test]
fn a_surprise_in_the_owners_slot_is_taken_out_again() {
    let mut soft = Soft::new(Wire::default());
    soft.accept(Offloads { checksum: true, ..Offloads::NONE }).unwrap();
    assert!(receive(&mut soft, 2000, 4).is_empty());
    let (small, long) = (Sample::tcp4(100, 1000), Sample::tcp4(9000, 1000));
    let partial = owned(small.partial());
    soft.inner.queue.extend([partial.clone(), owned(long.frame()), partial.clone()]);
    let frames = receive(&mut soft, 20_000, 5);
    assert_eq!(frames.len(), 11);
    assert_eq!((&frames[0], &frames[10]), (&partial, &partial));
    assert_eq!(payload_of(&frames[1..10]), long.payload);
}

#[test]
fn a_link_that_refuses_offloads_is_received_in_software() {
    let mut soft = Soft::new(Wire { refuses_offloads: true, ..Wire::default() });
    soft.accept(Offloads::NONE).unwrap();
    for _ in 0..2 {
        let sample = Sample::tcp4(9000, 1000);
        soft.inner.queue.push_back(owned(sample.frame()));
        assert_eq!(payload_of(&receive(&mut soft, 1514, 2)), sample.payload);
    }
}

#[test]
fn received_contradictions_and_misfits_are_counted() {
    let mut soft = Soft::new(Wire::default());
    soft.accept(Offloads::NONE).unwrap();
    let mut bad = owned(Sample::tcp4(2000, 1000).frame());
    bad.bytes.pop();
    soft.inner.queue.extend([bad, owned(Sample::tcp4(2000, 1000).frame())]);
    assert!(receive(&mut soft, 500, 4).is_empty());
    assert_eq!(soft.counters().drops.get(DropReason::BadOffload), 1);
    assert_eq!(soft.counters().drops.get(DropReason::Oversized), 2);
}

#[test]
fn a_pair_whose_far_end_lowers_its_offloads_delivers_whole_frames() {
    let (near, far) = crate::pair("test").unwrap();
    let (mut near, mut far) = (Soft::new(near), Soft::new(far));
    far.accept(Offloads::ALL).unwrap();
    let sample = Sample { v6: true, ..Sample::tcp4(9000, 1000) };
    assert_eq!(near.send(&batch_of(&[sample.frame()])).unwrap(), 1);
    far.accept(Offloads::NONE).unwrap();
    assert_eq!(near.send(&batch_of(&[sample.frame()])).unwrap(), 1);
    let frames = receive(&mut far, 1600, 4);
    assert_eq!(frames.len(), 18);
    assert_eq!(payload_of(&frames), [sample.payload.clone(), sample.payload].concat());
}

#[test]
fn random_traffic_through_a_stuttering_link_arrives_whole() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let samples: Vec<_> = (0..30).map(|_| Sample::random_below(&mut random, 4000)).collect();
        let frames: Vec<_> = samples.iter().map(Sample::frame).collect();
        let mut soft = Soft::new(Wire::default());
        let mut batch = batch_of(&frames);
        while !batch.is_empty() || !soft.unsent.is_empty() {
            soft.inner.room = random.below(20);
            soft.service(Instant::now()).unwrap();
            let taken = soft.send(&batch).unwrap();
            batch.advance(taken);
        }
        let expected: Vec<u8> = samples.into_iter().flat_map(|sample| sample.payload).collect();
        assert_eq!(payload_of(&soft.inner.sent), expected, "seed {seed}");
    }
}

#[test]
fn hostile_traffic_never_panics_in_either_direction() {
    let mut random = Random(7);
    let mut soft = Soft::new(Wire::default());
    for _ in 0..100_000 {
        let (_, mut bytes) = Sample::random_below(&mut random, 120).frame();
        bytes.truncate(random.below(bytes.len() + 20));
        let mut wire = [0; VnetHeader::LEN];
        wire.iter_mut().for_each(|byte| *byte = random.next() as u8 & 0x3f);
        wire[1] = [0, 1, 4, 5][random.below(4)];
        wire[3] = 0;
        wire[5] = 0;
        wire[7] = 0;
        wire[9] = 0;
        let Ok(header) = VnetHeader::parse(&wire) else { continue };
        soft.inner.room = random.below(3);
        soft.inner.sent.clear();
        soft.inner.addresses.clear();
        soft.inner.takes.checksum = random.below(2) == 0;
        soft.send(&batch_of(&[(header, bytes.clone())])).unwrap();
        soft.inner.queue.push_back(OwnedFrame { header, bytes });
        if random.below(100) == 0 {
            let checksum = random.below(2) == 0;
            soft.accept(Offloads { checksum, tso4: checksum && random.below(2) == 0, ..Offloads::NONE }).unwrap();
        }
        receive(&mut soft, random.below(200), 2);
    }
    assert!(soft.counters().drops.get(DropReason::BadOffload) > 1000);
}
