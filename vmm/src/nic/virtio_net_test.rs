//! The network card between a fake driver and the far end of a pair: see `virtio_net.rs`.

use link::{
    Capabilities, Checksum, DropReason, Fragment, FragmentMut, GsoType, Link, LinkState, MAX_FRAME_LEN, MacAddr,
    Offloads, OwnedFrame, PairEnd, RxBatch, TxBatch, VnetHeader, pair,
};
use vm_memory::{Bytes, GuestAddress};

use super::attachment_test::Scripted;
use super::virtio_net::bit;
use super::{NicConfig, NicHandle, VirtioNet};
use crate::hypervisor::NotifyAddress;
use crate::pci::gsi;
use crate::virtio::fake_driver::{
    FakeDriver, FakeMachine, FakeQueue, HOLE, INDIRECT, MESSAGE_DATA, NEXT, RAM_END, SEAM, WRITE, descriptor,
    eventually, readable, writable,
};
use crate::virtio::feature;

pub(super) const SLOT: u8 = 3;
pub(super) const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// Everything the card offers.
pub(super) const ALL: u64 = u64::MAX;
pub(super) const RECEIVE: u16 = 0;
pub(super) const TRANSMIT: u16 = 1;

/// A machine with one card on one end of a pair, and the other end.
pub(super) struct Bench {
    pub(super) machine: FakeMachine,
    pub(super) handle: NicHandle,
    pub(super) far: PairEnd,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_mtu(None)
    }

    pub(super) fn with_mtu(mtu: Option<u16>) -> Self {
        let (near, mut far) = pair("test").unwrap();
        far.accept(Offloads::ALL).unwrap();
        let machine = FakeMachine::new();
        let handle = attach(&machine, Box::new(near), mtu);
        Self { machine, handle, far }
    }

    pub(super) fn driver(&self, features: u64) -> Net<'_> {
        Net::new(&self.machine, features)
    }

    pub(super) fn far_sends(&mut self, header: VnetHeader, frame: &[u8]) {
        let mut batch = TxBatch::new();
        batch.push(header, [Fragment::new(frame)]);
        assert_eq!(self.far.send(&batch).unwrap(), 1);
    }

    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        self.handle.counters().unwrap().nic.drops.get(reason)
    }

    pub(super) fn link_drops(&self, reason: DropReason) -> u64 {
        self.handle.counters().unwrap().link.drops.get(reason)
    }
}

pub(super) fn attach(machine: &FakeMachine, link: Box<dyn Link>, mtu: Option<u16>) -> NicHandle {
    let config = NicConfig { name: "net0".into(), mac: MAC, mtu, slot: Some(SLOT) };
    VirtioNet::attach(&machine.root, machine.memory.clone(), config, link).unwrap()
}

pub(super) fn receive(end: &mut PairEnd) -> OwnedFrame {
    let mut frame = None;
    eventually("a frame at the far end", || {
        frame = try_receive(end);
        frame.is_some()
    });
    frame.unwrap()
}

pub(super) fn try_receive(end: &mut PairEnd) -> Option<OwnedFrame> {
    let mut buffer = vec![0; MAX_FRAME_LEN];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut buffer)]);
    end.receive(&mut batch).unwrap();
    let (header, len) = batch.frames().next()?;
    buffer.truncate(len);
    Some(OwnedFrame { header, bytes: buffer })
}

/// The driver of a card, with its two queues.
pub(super) struct Net<'m> {
    pub(super) driver: FakeDriver<'m>,
    pub(super) features: u64,
    pub(super) receive: FakeQueue<'m>,
    pub(super) transmit: FakeQueue<'m>,
}

impl<'m> Net<'m> {
    /// Finds the card, negotiates, sets everything up with MSI-X and says DRIVER_OK.
    pub(super) fn new(machine: &'m FakeMachine, features: u64) -> Self {
        Self::with_queues(machine, features, 64)
    }

    pub(super) fn in_slot(machine: &'m FakeMachine, slot: u8, features: u64) -> Self {
        Self::set_up(machine, slot, features, 64)
    }

    pub(super) fn with_queues(machine: &'m FakeMachine, features: u64, size: u16) -> Self {
        Self::set_up(machine, SLOT, features, size)
    }

    fn set_up(machine: &'m FakeMachine, slot: u8, features: u64, size: u16) -> Self {
        let driver = FakeDriver::probe(machine, slot);
        let features = driver.negotiate(features);
        driver.enable_msix(3);
        let event_idx = features & feature::EVENT_IDX != 0;
        let receive = driver.set_up_queue(RECEIVE, size, event_idx);
        let transmit = driver.set_up_queue(TRANSMIT, size, event_idx);
        driver.start();
        assert!(!driver.needs_reset());
        Self { driver, features, receive, transmit }
    }

    fn machine(&self) -> &'m FakeMachine {
        self.driver.machine
    }

    /// Transmits a frame in one chain of two descriptors, and rings.
    pub(super) fn send(&mut self, header: VnetHeader, frame: &[u8]) -> u16 {
        let header = self.machine().place(&header.to_bytes());
        let data = self.machine().place(frame);
        let head = self.transmit.add(&[readable(header, VnetHeader::LEN), readable(data, frame.len())]);
        self.driver.notify(TRANSMIT);
        head
    }

    /// Gives `count` buffers of `len` bytes, and rings. Returns their addresses by head.
    pub(super) fn give(&mut self, count: usize, len: usize) -> Vec<(u16, u64)> {
        let machine = self.machine();
        let buffers = (0..count)
            .map(|_| {
                let address = machine.place(&vec![0xee; len]);
                (self.receive.add(&[writable(address, len)]), address)
            })
            .collect();
        self.driver.notify(RECEIVE);
        buffers
    }

    /// Waits for a frame in buffers given before: its header with `num_buffers`, and its bytes.
    pub(super) fn take(&mut self, buffers: &[(u16, u64)]) -> (VnetHeader, u16, Vec<u8>) {
        let (mut bytes, mut wanted) = (Vec::new(), 1);
        let mut taken = 0;
        while taken < wanted {
            // The buffers of a frame appear together: only the first is waited for.
            let (head, len) =
                if taken == 0 { self.receive.wait_used() } else { self.receive.take_used().expect("all buffers") };
            let address = buffers.iter().find(|buffer| buffer.0 == head).expect("a buffer that was given").1;
            bytes.extend(self.machine().bytes(address, len as usize));
            wanted = u16::from_le_bytes([bytes[10], bytes[11]]);
            taken += 1;
        }
        let frame = bytes.split_off(VnetHeader::LEN);
        let header: [u8; VnetHeader::LEN] = bytes.try_into().unwrap();
        (VnetHeader::parse(&header).unwrap(), taken, frame)
    }
}

pub(super) fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + len) as u8).collect()
}

pub(super) fn tso(gso_size: u16) -> VnetHeader {
    VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso_type: GsoType::TcpV4,
        ecn: false,
        gso_size,
        hdr_len: 54,
    }
}

#[test]
fn a_driver_reads_address_status_mtu_and_unknown_speed() {
    let bench = Bench::with_mtu(Some(9000));
    let net = bench.driver(ALL);
    assert_eq!(net.driver.device_id(), 0x1041);
    assert_eq!(net.driver.device_config(0), MAC.0);
    assert_eq!(net.driver.device_config(6), [1, 0], "link up");
    assert_eq!(u16::from_le_bytes(net.driver.device_config(10)), 9000);
    assert_eq!(net.driver.device_config(12), [0xff; 5]);
    assert_ne!(net.features & bit::MTU, 0);
    assert_ne!(net.features & bit::SPEED_DUPLEX, 0);
}

#[test]
fn offloads_are_offered_as_the_link_takes_them() {
    let machine = FakeMachine::new();
    let some = Offloads { checksum: true, tso4: true, tso6: false, uso: false };
    let link = Scripted::new(Capabilities { offloads: some, mtu: 1400 });
    let _handle = attach(&machine, Box::new(link), None);
    let offered = FakeDriver::probe(&machine, SLOT).offered();
    assert_ne!(offered & bit::CSUM, 0);
    assert_ne!(offered & bit::HOST_TSO4, 0);
    assert_eq!(offered & (bit::HOST_TSO6 | bit::HOST_USO), 0);
    assert_eq!(offered & bit::RECEIVE, bit::RECEIVE);
    assert_ne!(offered & bit::MTU, 0, "the link's is not 1500");
}

#[test]
fn what_the_driver_negotiated_is_what_the_link_is_told() {
    let mut bench = Bench::new();
    let negotiated = bit::GUEST_CSUM | bit::GUEST_TSO6 | bit::GUEST_USO4;
    let _net = bench.driver(negotiated);
    let expected = Offloads { checksum: true, tso4: false, tso6: true, uso: false };
    let far = &mut bench.far;
    eventually("accept", || far.capabilities().offloads == expected);
}

#[test]
fn a_transmitted_frame_arrives_with_its_header() {
    let mut bench = Bench::new();
    let (near, far) = (frame(1514), frame(60_000));
    {
        let Bench { machine, far: end, .. } = &mut bench;
        let mut net = Net::new(machine, ALL);
        let head = net.send(VnetHeader::WHOLE, &near);
        assert_eq!(net.transmit.wait_used(), (head, 0));
        assert_eq!(receive(end), OwnedFrame { header: VnetHeader::WHOLE, bytes: near });
        net.send(tso(1448), &far);
        assert_eq!(receive(end), OwnedFrame { header: tso(1448), bytes: far });
    }
    let counters = bench.handle.counters().unwrap();
    assert_eq!((counters.nic.tx_frames, counters.nic.tx_bytes), (2, 61_514));
    assert_eq!(counters.nic, counters.link);
}

#[test]
fn a_header_may_be_split_across_descriptors_anywhere() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let mut net = Net::new(machine, ALL);
    let mut whole = tso(1000).to_bytes().to_vec();
    whole.extend(frame(3000));
    for cuts in [vec![], vec![1], vec![12], vec![13], vec![5, 7, 40], (1..20).collect::<Vec<_>>()] {
        let mut buffers = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([whole.len()]) {
            buffers.push(readable(machine.place(&whole[start..end]), end - start));
            start = end;
        }
        net.transmit.add(&buffers);
        net.driver.notify(TRANSMIT);
        assert_eq!(receive(far), OwnedFrame { header: tso(1000), bytes: frame(3000) }, "{cuts:?}");
        net.transmit.wait_used();
    }
}

#[test]
fn an_indirect_chain_may_cross_a_seam_of_memory() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let mut net = Net::new(machine, ALL);
    let header = machine.place(&VnetHeader::WHOLE.to_bytes());
    machine.memory.write_slice(&frame(1000), GuestAddress(SEAM - 400)).unwrap();
    let mut table = descriptor(header, 12, NEXT, 1).to_vec();
    table.extend(descriptor(SEAM - 400, 1000, 0, 0));
    let table_at = machine.place(&table);
    net.transmit.describe(9, table_at, 32, INDIRECT, 0);
    net.transmit.make_available(9);
    net.driver.notify(TRANSMIT);
    assert_eq!(receive(far).bytes, frame(1000));
    assert_eq!(net.transmit.wait_used(), (9, 0));
}

/// What a hostile driver can put under head 0, and how it is counted.
type Mischief = (&'static str, fn(&FakeMachine, &FakeQueue<'_>), DropReason);

const BAD_CHAINS: [Mischief; 14] = [
    ("descriptor loop", |m, q| chain(m, q, &[(12, NEXT, 1), (100, NEXT, 0)]), DropReason::BadDescriptor),
    ("loop to itself", |m, q| chain(m, q, &[(12, NEXT, 0)]), DropReason::BadDescriptor),
    ("next outside the table", |m, q| chain(m, q, &[(12, NEXT, 64)]), DropReason::BadDescriptor),
    ("writable", |m, q| chain(m, q, &[(12, NEXT, 1), (100, WRITE, 0)]), DropReason::BadDescriptor),
    ("huge length", |m, q| chain(m, q, &[(12, NEXT, 1), (u32::MAX, 0, 0)]), DropReason::BadDescriptor),
    ("zero length", |m, q| chain(m, q, &[(0, 0, 0)]), DropReason::Runt),
    ("a header only", |m, q| chain(m, q, &[(12, 0, 0)]), DropReason::Runt),
    ("too long a frame", |m, q| chain(m, q, &[(12, NEXT, 1), (MAX_FRAME_LEN as u32 + 1, 0, 0)]), DropReason::Oversized),
    ("in the hole", |_, q| q.describe(0, HOLE + 0x1000, 1000, 0, 0), DropReason::BadDescriptor),
    ("over the end", |_, q| q.describe(0, RAM_END - 10, 1000, 0, 0), DropReason::BadDescriptor),
    ("over the last address", |_, q| q.describe(0, u64::MAX - 10, 1000, 0, 0), DropReason::BadDescriptor),
    ("indirect table of bad length", |m, q| indirect(m, q, 100, 40), DropReason::BadDescriptor),
    ("empty indirect table", |m, q| indirect(m, q, 1, 0), DropReason::BadDescriptor),
    ("chain longer than the queue", |m, q| indirect(m, q, 65, 65 * 16), DropReason::BadDescriptor),
];

fn chain(machine: &FakeMachine, queue: &FakeQueue<'_>, descriptors: &[(u32, u16, u16)]) {
    let memory = machine.place(&[0; 200]);
    for (index, &(len, flags, next)) in descriptors.iter().enumerate() {
        queue.describe(index as u16, memory, len, flags, next);
    }
}

fn indirect(machine: &FakeMachine, queue: &FakeQueue<'_>, entries: u16, len: u32) {
    let memory = machine.place(&[0; 64]);
    let entry = |i: u16| descriptor(memory, 20, if i + 1 < entries { NEXT } else { 0 }, i + 1);
    let table: Vec<u8> = (0..entries).flat_map(entry).collect();
    queue.describe(0, machine.place(&table), len, INDIRECT, 0);
}

#[test]
fn a_bad_transmit_chain_is_one_counted_drop() {
    for (what, put, reason) in BAD_CHAINS {
        let mut bench = Bench::new();
        {
            let Bench { machine, far, .. } = &mut bench;
            let mut net = Net::new(machine, ALL);
            // Head 0 is the mischief's; the good frame that follows takes others.
            put(machine, &net.transmit);
            net.transmit.make_available(0);
            net.driver.notify(TRANSMIT);
            assert_eq!(net.transmit.wait_used(), (0, 0), "{what}");
            let (header, data) = (machine.place(&[0; 12]), machine.place(&frame(100)));
            net.transmit.describe(20, header, 12, NEXT, 21);
            net.transmit.describe(21, data, 100, 0, 0);
            net.transmit.make_available(20);
            net.driver.notify(TRANSMIT);
            assert_eq!(receive(far).bytes, frame(100), "{what}");
            assert!(!net.driver.needs_reset(), "{what}");
        }
        let drops = bench.handle.counters().unwrap().nic.drops;
        assert_eq!((drops.get(reason), drops.total()), (1, 1), "{what}");
    }
}

#[test]
fn a_frame_with_a_bad_offload_header_is_one_counted_drop() {
    let bench = Bench::new();
    let mut net = bench.driver(ALL);
    let partial = |start, offset| VnetHeader { checksum: Checksum::Partial { start, offset }, ..VnetHeader::WHOLE };
    let mut unknown = VnetHeader::WHOLE.to_bytes();
    unknown[1] = 9;
    let mut without_checksum = tso(1000).to_bytes();
    without_checksum[0] = 0;
    let bad = [
        unknown,
        without_checksum,
        tso(0).to_bytes(),
        partial(100, 0).to_bytes(),
        partial(0xffff, 0xffff).to_bytes(),
        partial(90, 9).to_bytes(),
    ];
    for header in bad {
        let (header, data) = (bench.machine.place(&header), bench.machine.place(&frame(100)));
        net.transmit.add(&[readable(header, 12), readable(data, 100)]);
        net.driver.notify(TRANSMIT);
        net.transmit.wait_used();
    }
    assert_eq!(bench.drops(DropReason::BadOffload), bad.len() as u64);
}

#[test]
fn an_offload_that_was_not_negotiated_is_refused() {
    let bench = Bench::new();
    let mut net = bench.driver(bit::CSUM | bit::HOST_TSO6);
    net.send(tso(1000), &frame(3000));
    net.transmit.wait_used();
    assert_eq!(bench.drops(DropReason::BadOffload), 1);
}

#[test]
fn an_available_index_beyond_the_ring_needs_a_reset() {
    for queue in [RECEIVE, TRANSMIT] {
        let bench = Bench::new();
        let mut net = bench.driver(ALL);
        let index = net.transmit.avail_index().wrapping_add(65);
        if queue == RECEIVE { &mut net.receive } else { &mut net.transmit }.set_avail_index(index);
        net.driver.notify(queue);
        eventually("needs a reset", || net.driver.needs_reset());
        eventually("an interrupt", || bench.machine.hypervisor.message_count(MESSAGE_DATA) == 1);
        assert!(bench.handle.counters().is_some(), "the pump is alive");
        let mut net = bench.driver(ALL);
        net.send(VnetHeader::WHOLE, &frame(100));
        net.transmit.wait_used();
    }
}

#[test]
fn a_head_that_does_not_exist_needs_a_reset() {
    let bench = Bench::new();
    let mut net = bench.driver(ALL);
    net.transmit.make_available(64);
    net.driver.notify(TRANSMIT);
    eventually("needs a reset", || net.driver.needs_reset());
}

#[test]
fn a_received_frame_fills_as_many_buffers_as_it_needs() {
    let mut bench = Bench::new();
    for (features, frame_len, buffer_len) in [(ALL, 1514, 128), (bit::MRG_RXBUF, 1514, 128), (ALL, 60_000, 1536)] {
        bench.far.accept(Offloads::ALL).unwrap();
        let Bench { machine, far, .. } = &mut bench;
        let mut net = Net::new(machine, features);
        let buffers = net.give(64, buffer_len);
        let mut batch = TxBatch::new();
        let bytes = frame(frame_len);
        batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
        far.send(&batch).unwrap();
        let (header, count, received) = net.take(&buffers);
        assert_eq!(header, VnetHeader::WHOLE);
        assert_eq!(usize::from(count), (frame_len + 12).div_ceil(buffer_len));
        assert!(received == bytes);
    }
}

#[test]
fn chains_that_a_frame_leaves_over_serve_the_next() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let mut net = Net::with_queues(machine, ALL, 256);
    let buffers = net.give(256, 1536);
    for i in 0..256 {
        let bytes = frame(100 + i);
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
        far.send(&batch).unwrap();
        assert_eq!(net.take(&buffers).2, bytes, "{i}");
    }
}

#[test]
fn few_buffers_still_receive_small_frames() {
    let mut bench = Bench::new();
    bench.far_sends(tso(1000), &frame(5000));
    let Bench { machine, .. } = &bench;
    let mut net = Net::new(machine, ALL);
    let buffers = net.give(4, 1536);
    let (header, count, bytes) = net.take(&buffers);
    assert_eq!((header, count), (tso(1000), 4));
    assert!(bytes == frame(5000));
}

#[test]
fn a_frame_waits_until_there_are_enough_buffers() {
    let mut bench = Bench::new();
    bench.far_sends(VnetHeader::WHOLE, &frame(10_000));
    bench.far_sends(VnetHeader::WHOLE, &frame(100));
    let mut net = bench.driver(ALL);
    let mut buffers = net.give(2, 1536);
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(net.receive.take_used(), None);
    buffers.extend(net.give(8, 1536));
    assert!(net.take(&buffers).2 == frame(10_000));
    assert!(net.take(&buffers).2 == frame(100));
    assert_eq!(bench.handle.counters().unwrap().nic.drops.total(), 0);
}

#[test]
fn a_frame_larger_than_the_whole_ring_is_dropped() {
    let mut bench = Bench::new();
    bench.far_sends(VnetHeader::WHOLE, &frame(10_000));
    bench.far_sends(VnetHeader::WHOLE, &frame(1000));
    let mut net = Net::with_queues(&bench.machine, ALL, 4);
    let buffers = net.give(4, 1024);
    assert!(net.take(&buffers).2 == frame(1000));
    assert_eq!(bench.drops(DropReason::Oversized), 1);
}

#[test]
fn without_mergeable_buffers_a_frame_has_one_chain_or_is_dropped() {
    let mut bench = Bench::new();
    bench.far_sends(VnetHeader::WHOLE, &frame(1514));
    bench.far_sends(VnetHeader::WHOLE, &frame(500));
    let mut net = bench.driver(0);
    let buffers = net.give(3, 600);
    let (_, count, bytes) = net.take(&buffers);
    assert_eq!((count, bytes), (1, frame(500)));
    assert_eq!(bench.link_drops(DropReason::Oversized), 1);
}

#[test]
fn a_receive_buffer_without_room_for_the_header_goes_back() {
    let mut bench = Bench::new();
    let mut net = Net::new(&bench.machine, ALL);
    let head = net.receive.add(&[writable(0x1000, 11)]);
    let wrong_way = net.receive.add(&[readable(0x1000, 2000)]);
    let nowhere = net.receive.add(&[writable(HOLE, 2000)]);
    net.driver.notify(RECEIVE);
    for head in [head, wrong_way, nowhere] {
        assert_eq!(net.receive.wait_used(), (head, 0));
    }
    let buffers = net.give(1, 1536);
    let mut batch = TxBatch::new();
    let bytes = frame(700);
    batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
    bench.far.send(&batch).unwrap();
    assert_eq!(net.take(&buffers).2, bytes);
}

#[test]
fn a_received_header_may_be_split_across_descriptors() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    for features in [0, ALL] {
        far.accept(Offloads::ALL).unwrap();
        let mut net = Net::new(machine, features);
        let at = machine.allocate(2000);
        net.receive.add(&[writable(at, 3), writable(at + 3, 14), writable(at + 17, 1900)]);
        net.driver.notify(RECEIVE);
        let mut batch = TxBatch::new();
        let bytes = frame(1000);
        batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
        far.send(&batch).unwrap();
        assert_eq!(net.receive.wait_used().1, 1012);
        assert_eq!(machine.bytes(at, 12), VnetHeader::WHOLE.to_bytes());
        assert_eq!(machine.bytes(at + 12, 1000), bytes);
    }
}

#[test]
fn a_valid_checksum_passes_if_the_driver_wants_to_know() {
    let valid = VnetHeader { checksum: Checksum::Valid, ..VnetHeader::WHOLE };
    for (features, expected) in [(ALL, valid), (bit::MRG_RXBUF, VnetHeader::WHOLE)] {
        let mut bench = Bench::new();
        bench.far_sends(valid, &frame(100));
        let mut net = bench.driver(features);
        let buffers = net.give(1, 1536);
        assert_eq!(net.take(&buffers).0, expected);
    }
}

#[test]
fn a_frame_that_the_driver_does_not_accept_is_dropped_not_delivered() {
    let mut bench = Bench::new();
    bench.far_sends(tso(1000), &frame(1400));
    bench.far_sends(VnetHeader::WHOLE, &frame(100));
    let mut net = bench.driver(bit::MRG_RXBUF);
    let buffers = net.give(4, 1536);
    assert_eq!(net.take(&buffers).2, frame(100));
    assert_eq!(bench.drops(DropReason::BadOffload), 1);
}

#[test]
fn frames_wait_in_the_link_while_the_guest_has_no_buffers() {
    let mut bench = Bench::new();
    let frames: Vec<_> = (0..200).map(|i| frame(60 + i)).collect();
    frames.iter().for_each(|frame| bench.far_sends(VnetHeader::WHOLE, frame));
    let mut net = bench.driver(bit::MRG_RXBUF | feature::EVENT_IDX);
    let mut received = Vec::new();
    while received.len() < frames.len() {
        eventually("wants to be notified", || net.receive.wants_notification());
        let buffers = net.give(7, 600);
        let more = frames.len() - received.len();
        received.extend((0..more.min(7)).map(|_| net.take(&buffers).2));
    }
    assert!(received == frames);
    assert_eq!(bench.handle.counters().unwrap().nic.drops.total(), 0);
}

#[test]
fn interrupts_come_when_the_event_index_is_passed() {
    let bench = Bench::new();
    let mut net = bench.driver(feature::EVENT_IDX);
    assert_ne!(net.features & feature::EVENT_IDX, 0);
    let interrupts = || bench.machine.hypervisor.message_count(MESSAGE_DATA + 2);
    net.transmit.set_used_event(3);
    for i in 0..4 {
        assert_eq!(interrupts(), 0, "after {i} frames");
        net.send(VnetHeader::WHOLE, &frame(100));
        net.transmit.wait_used();
        assert!(bench.handle.counters().is_some());
    }
    eventually("one interrupt", || interrupts() == 1);
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    assert!(bench.handle.counters().is_some());
    assert_eq!(interrupts(), 1);
}

#[test]
fn a_batch_of_frames_is_one_interrupt() {
    let mut bench = Bench::new();
    (0..32).for_each(|_| bench.far_sends(VnetHeader::WHOLE, &frame(100)));
    let mut net = bench.driver(bit::MRG_RXBUF);
    bench.machine.hypervisor.forget_messages();
    let buffers = net.give(64, 256);
    (0..32).for_each(|_| assert_eq!(net.take(&buffers).2, frame(100)));
    assert!(bench.handle.counters().is_some());
    let interrupts = bench.machine.hypervisor.message_count(MESSAGE_DATA + 1);
    assert!((1..=8).contains(&interrupts), "{interrupts}");
}

#[test]
fn without_msix_the_card_uses_its_pin() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let driver = FakeDriver::probe(machine, SLOT);
    driver.negotiate(ALL & !feature::EVENT_IDX);
    let mut queue = driver.set_up_queue(TRANSMIT, 16, false);
    driver.start();
    let data = machine.place(&[0; 112]);
    queue.add(&[readable(data, 112)]);
    driver.notify(TRANSMIT);
    queue.wait_used();
    assert_eq!(receive(far).bytes.len(), 100);
    eventually("the line", || machine.hypervisor.line(gsi(SLOT, 0)));
    assert_eq!(driver.isr(), 1);
    assert!(!machine.hypervisor.line(gsi(SLOT, 0)));
}

#[test]
fn doorbells_follow_the_bar() {
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let mut net = Net::new(machine, ALL);
    let at = |net: &Net<'_>| [RECEIVE, TRANSMIT].map(|queue| NotifyAddress::Mmio(net.driver.notify_address(queue)));
    assert_eq!(machine.hypervisor.doorbells(), at(&net));
    net.driver.move_bar(0xd000_0000);
    assert_eq!(machine.hypervisor.doorbells(), at(&net));
    assert_eq!(at(&net)[0], NotifyAddress::Mmio(0xd000_3000));
    net.send(VnetHeader::WHOLE, &frame(100));
    assert_eq!(receive(far).bytes, frame(100));
    // A store that leaves the kernel all the same.
    let data = machine.place(&[0; 112]);
    net.transmit.add(&[readable(data, 112)]);
    assert!(machine.root.mmio_write(net.driver.notify_address(TRANSMIT), &[1, 0]));
    assert_eq!(receive(far).bytes, [0; 100]);
    net.driver.set_command(0);
    assert_eq!(machine.hypervisor.doorbells(), []);
}

#[test]
fn frames_wait_for_bus_mastering() {
    use crate::pci::command;
    let mut bench = Bench::new();
    let Bench { machine, far, .. } = &mut bench;
    let mut net = Net::new(machine, ALL);
    net.driver.set_command(command::MEMORY);
    net.send(VnetHeader::WHOLE, &frame(100));
    std::thread::sleep(std::time::Duration::from_millis(10));
    assert_eq!(try_receive(far), None);
    net.driver.set_command(command::MEMORY | command::MASTER);
    assert_eq!(receive(far).bytes, frame(100));
}

#[test]
fn the_carrier_goes_with_the_far_end() {
    let bench = Bench::new();
    let Bench { machine, handle, far } = bench;
    let net = Net::new(&machine, ALL);
    drop(far);
    eventually("no carrier", || net.driver.device_config(6) == [0, 0]);
    eventually("an interrupt", || machine.hypervisor.message_count(MESSAGE_DATA) == 1);
    handle.set_link(LinkState::Up);
    assert!(handle.counters().is_some());
    assert_eq!(net.driver.device_config(6), [0, 0]);
}
