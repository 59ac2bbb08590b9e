//! The pump against a link that does as it is told: see `attachment.rs`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use link::event::EventFd;
use link::{
    Capabilities, Counters, DropReason, Fragment, Link, LinkState, Offloads, OwnedFrame, RxBatch, TxBatch, VnetHeader,
};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::virtio_net_test::{ALL, Net, SLOT, TRANSMIT, attach, frame};
use crate::pci::lock;
use crate::virtio::fake_driver::{FakeDriver, FakeMachine, MESSAGE_DATA, eventually, readable};

/// A link whose other side is the test. Clones are the same link.
#[derive(Clone)]
pub(super) struct Scripted {
    capabilities: Capabilities,
    script: Arc<Mutex<Script>>,
    ready: Arc<EventFd>,
}

#[derive(Default)]
pub(super) struct Script {
    /// Frames that it will take before it is full.
    pub(super) room: usize,
    /// Frames taken, and where each of their fragments was.
    pub(super) taken: Vec<(OwnedFrame, Vec<(usize, usize)>)>,
    /// Frames to be received.
    pub(super) incoming: VecDeque<OwnedFrame>,
    pub(super) down: bool,
    pub(super) broken: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) services: usize,
    pub(super) accepted: Vec<Offloads>,
    pub(super) closed: bool,
    /// As a link that answers what it is sent, and is full until the answers have been taken.
    pub(super) echo: bool,
}

impl Scripted {
    pub(super) fn new(capabilities: Capabilities) -> Self {
        let script = Script { room: usize::MAX, ..Script::default() };
        Self { capabilities, script: Arc::new(Mutex::new(script)), ready: Arc::new(EventFd::new().unwrap()) }
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    pub(super) fn wake(&self) {
        self.ready.signal();
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.script().closed = true;
    }
}

impl Link for Scripted {
    fn name(&self) -> &str {
        "scripted://"
    }
    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.script().accepted.push(offloads);
        Ok(())
    }
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.ready.as_raw_fd()), token, Interest::READABLE)
    }
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.ready.as_raw_fd()))
    }
    fn service(&mut self, _: Instant) -> io::Result<()> {
        self.ready.clear();
        let mut script = self.script();
        script.services += 1;
        script.deadline = script.deadline.filter(|&deadline| deadline > Instant::now());
        Ok(())
    }
    fn deadline(&self) -> Option<Instant> {
        self.script().deadline
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        let mut script = self.script();
        if script.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = if script.echo { 4 - script.incoming.len().min(4) } else { script.room };
        let count = room.min(batch.len());
        script.room -= count.min(script.room);
        for frame in batch.frames().take(count) {
            let iovecs = Fragment::as_iovecs(frame.fragments);
            let places = iovecs.iter().map(|iovec| (iovec.iov_base as usize, iovec.iov_len)).collect();
            let owned = OwnedFrame::from(frame);
            if script.echo {
                script.incoming.push_back(owned.clone());
            }
            script.taken.push((owned, places));
        }
        Ok(count)
    }
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let mut script = self.script();
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            let Some(frame) = script.incoming.pop_front() else { break };
            // A frame that does not fit is the link's to drop.
            let _ = slot.write(frame.header, &[&frame.bytes]);
        }
        Ok(batch.filled() - before)
    }
    fn state(&self) -> LinkState {
        if self.script().down { LinkState::Down } else { LinkState::Up }
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

fn plain() -> Scripted {
    Scripted::new(Capabilities { offloads: Offloads::ALL, mtu: 1500 })
}

fn taken(link: &Scripted) -> Vec<Vec<u8>> {
    link.script().taken.iter().map(|(frame, _)| frame.bytes.clone()).collect()
}

#[test]
fn a_full_link_makes_the_guest_wait_and_loses_nothing() {
    let machine = FakeMachine::new();
    let link = plain();
    link.script().room = 10;
    let handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    let frames: Vec<_> = (0..30).map(|i| frame(100 + i)).collect();
    for frame in &frames {
        net.send(VnetHeader::WHOLE, frame);
    }
    eventually("ten frames", || link.script().taken.len() == 10);
    let before = handle.counters().unwrap();
    assert_eq!(before.nic.tx_frames, 10);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(handle.counters().unwrap().wakeups, before.wakeups + 1, "no wakeup but the question itself");
    link.script().room = 7;
    link.wake();
    eventually("seven more", || link.script().taken.len() == 17);
    link.script().room = usize::MAX;
    link.wake();
    eventually("the rest", || link.script().taken.len() == 30);
    assert_eq!(taken(&link), frames);
    for _ in 0..30 {
        assert_eq!(net.transmit.wait_used().1, 0);
    }
    assert_eq!(handle.counters().unwrap().nic.drops.total(), 0);
}

#[test]
fn a_link_that_is_full_of_answers_goes_on_when_they_are_taken() {
    let machine = FakeMachine::new();
    let link = plain();
    link.script().echo = true;
    let _handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, 0);
    let buffers = net.give(40, 1600);
    let frames: Vec<_> = (0..40).map(|i| frame(100 + i)).collect();
    let machine = net.driver.machine;
    for bytes in &frames {
        let header = machine.place(&VnetHeader::WHOLE.to_bytes());
        let data = machine.place(bytes);
        if net.transmit.has_room(2) {
            net.transmit.add(&[readable(header, 12), readable(data, bytes.len())]);
        }
    }
    net.driver.notify(TRANSMIT);
    let sent = net.transmit.avail_index();
    for bytes in frames.iter().take(sent.into()) {
        assert_eq!(&net.take(&buffers).2, bytes);
    }
}

#[test]
fn transmitted_fragments_are_the_guests_own_memory() {
    use vm_memory::{GuestAddress, GuestMemoryBackend};
    let machine = FakeMachine::new();
    let link = plain();
    let _handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    let header = machine.place(&VnetHeader::WHOLE.to_bytes());
    let (first, second) = (machine.place(&frame(60)), machine.place(&frame(1000)));
    net.transmit.add(&[readable(header, 12), readable(first, 60), readable(second, 1000)]);
    net.driver.notify(TRANSMIT);
    net.transmit.wait_used();
    let host = |address| machine.memory.get_host_address(GuestAddress(address)).unwrap() as usize;
    assert_eq!(link.script().taken[0].1, [(host(first), 60), (host(second), 1000)]);
}

#[test]
fn a_deadline_is_kept_without_any_other_event() {
    let machine = FakeMachine::new();
    let link = plain();
    link.script().deadline = Some(Instant::now() + Duration::from_millis(30));
    let handle = attach(&machine, Box::new(link.clone()), None);
    assert_eq!(link.script().services, 0);
    eventually("service", || link.script().services == 1);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(link.script().services, 1);
    assert!(handle.counters().unwrap().wakeups <= 3);
}

#[test]
fn a_lost_link_takes_the_carrier_and_discards_what_is_sent() {
    let machine = FakeMachine::new();
    let link = plain();
    let handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    link.script().broken = true;
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    eventually("no carrier", || net.driver.device_config(6) == [0, 0]);
    assert_eq!(machine.hypervisor.message_count(MESSAGE_DATA), 1);
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    let counters = handle.counters().unwrap();
    assert_eq!(counters.nic.drops.get(DropReason::LinkDown), 2);
    assert_eq!(counters.nic.tx_frames, 0);
}

#[test]
fn the_carrier_follows_the_link_and_the_cable() {
    let machine = FakeMachine::new();
    let link = plain();
    let handle = attach(&machine, Box::new(link.clone()), None);
    let net = Net::new(&machine, ALL);
    let generation = net.driver.read_common::<1>(21);
    let up = |up: u8| eventually("carrier", || net.driver.device_config(6) == [up, 0]);
    up(1);
    link.script().down = true;
    link.wake();
    up(0);
    assert_ne!(net.driver.read_common::<1>(21), generation);
    eventually("an interrupt", || machine.hypervisor.message_count(MESSAGE_DATA) == 1);
    handle.set_link(LinkState::Down);
    link.script().down = false;
    link.wake();
    assert!(handle.counters().is_some());
    assert_eq!(net.driver.device_config(6), [0, 0], "the cable is out");
    handle.set_link(LinkState::Up);
    up(1);
    eventually("another", || machine.hypervisor.message_count(MESSAGE_DATA) == 2);
}

#[test]
fn while_the_cable_is_out_both_directions_are_discarded_and_counted() {
    let machine = FakeMachine::new();
    let link = plain();
    let handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    let buffers = net.give(4, 2000);
    handle.set_link(LinkState::Down);
    // Messages are answered in order: the cable is out now.
    assert!(handle.counters().is_some());
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    for i in 0..10 {
        link.script().incoming.push_back(OwnedFrame { header: VnetHeader::WHOLE, bytes: frame(100 + i) });
    }
    link.wake();
    eventually("eleven drops", || handle.counters().unwrap().nic.drops.get(DropReason::LinkDown) == 11);
    assert_eq!(link.script().taken.len(), 0);
    handle.set_link(LinkState::Up);
    link.script().incoming.push_back(OwnedFrame { header: VnetHeader::WHOLE, bytes: frame(500) });
    link.wake();
    assert_eq!(net.take(&buffers).2, frame(500));
}

#[test]
fn an_idle_card_does_not_wake() {
    let machine = FakeMachine::new();
    let handle = attach(&machine, Box::new(plain()), None);
    let mut net = Net::new(&machine, ALL);
    net.give(10, 2000);
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    std::thread::sleep(Duration::from_millis(10));
    let before = handle.counters().unwrap().wakeups;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(handle.counters().unwrap().wakeups, before + 1);
}

#[test]
fn stopping_closes_the_link_and_leaves_the_device_harmless() {
    let machine = FakeMachine::new();
    let link = plain();
    let handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    handle.stop();
    assert!(link.script().closed);
    net.send(VnetHeader::WHOLE, &frame(100));
    machine.root.reset();
    let driver = FakeDriver::probe(&machine, SLOT);
    driver.negotiate(ALL);
    driver.start();
    assert!(driver.needs_reset());
    driver.reset();
}

#[test]
fn a_machine_reset_keeps_the_link() {
    let machine = FakeMachine::new();
    let link = plain();
    let handle = attach(&machine, Box::new(link.clone()), None);
    let mut net = Net::new(&machine, ALL);
    net.give(10, 2000);
    net.send(VnetHeader::WHOLE, &frame(100));
    net.transmit.wait_used();
    machine.root.reset();
    assert_eq!(machine.hypervisor.doorbells(), []);
    let mut net = Net::new(&machine, ALL);
    net.send(VnetHeader::WHOLE, &frame(200));
    net.transmit.wait_used();
    assert_eq!(taken(&link), [frame(100), frame(200)]);
    let buffers = net.give(10, 2000);
    link.script().incoming.push_back(OwnedFrame { header: VnetHeader::WHOLE, bytes: frame(300) });
    link.wake();
    assert_eq!(net.take(&buffers).2, frame(300));
    assert_eq!(link.script().accepted.len(), 2);
    drop(handle);
    assert!(link.script().closed);
}

#[test]
fn two_cards_have_two_links() {
    use super::{NicConfig, VirtioNet};
    let machine = FakeMachine::new();
    let links = [plain(), plain()];
    let attached = AtomicUsize::new(0);
    let _handles = links.clone().map(|link| {
        let number = attached.fetch_add(1, Ordering::Relaxed);
        let config =
            NicConfig { name: format!("net{number}"), mac: super::virtio_net_test::MAC, mtu: None, slot: None };
        VirtioNet::attach(&machine.root, machine.memory.clone(), config, Box::new(link)).unwrap()
    });
    for (slot, link) in [1, 2].into_iter().zip(&links) {
        let mut net = Net::in_slot(&machine, slot, ALL);
        net.send(VnetHeader::WHOLE, &frame(100 + usize::from(slot)));
        net.transmit.wait_used();
        assert_eq!(taken(link), [frame(100 + usize::from(slot))]);
    }
}
