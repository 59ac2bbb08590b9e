//! A guest that writes garbage everywhere: into every register, descriptor and ring, in any order, with resets and moved
//! BARs in between. Seeded, so that a failure can be had again.
//!
//! What is shown: nothing panics (a panic in the pump's thread would take its answers with it), the pump answers within a
//! bound whatever the guest does, what the link is handed is guest memory and nothing else, and a driver that resets the
//! device finds it working.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use link::{
    Capabilities, Counters, Fragment, Link, LinkState, MAX_FRAME_LEN, Offloads, PairEnd, RxBatch, TxBatch, VnetHeader,
    pair,
};
use mio::{Registry, Token};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::virtio_net_test::{ALL, Bench, MAC, Net, SLOT, attach, frame, receive, try_receive};
use crate::hypervisor::NotifyAddress;
use crate::virtio::fake_driver::{FakeDriver, FakeMachine, INDIRECT, NEXT, REGIONS, WRITE, descriptor, writable};
use crate::virtio::{Rng, feature};

/// Garbage accesses per run and device.
const OPERATIONS: usize = 100_000;
/// Different runs.
const SEEDS: Range<u64> = 1..4;
/// How long the pump may take to answer at worst, on a machine that is busy with other tests.
const ANSWER: Duration = Duration::from_secs(5);
const RNG_SLOT: u8 = 7;

/// Numbers that look random (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `limit` - 1.
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A value of the kind that finds mistakes.
    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << self.below(64),
            3 => self.below(256),
            4 => self.address(),
            _ => self.next(),
        }
    }

    /// An address in RAM, or just outside, or anywhere.
    fn address(&mut self) -> u64 {
        let (start, len) = self.pick(&REGIONS);
        match self.below(8) {
            0 => self.next(),
            1 => (start + len as u64).wrapping_sub(self.below(64)),
            2 => start.wrapping_sub(self.below(64)),
            _ => (start + self.below(len as u64)) & !0xf,
        }
    }

    fn len(&mut self) -> u32 {
        match self.below(8) {
            0 => self.next() as u32,
            1 => 0,
            2 => self.below(200_000) as u32,
            _ => self.below(2048) as u32,
        }
    }
}

/// The guest: what it knows of where its rings are, since garbage that nobody looks at finds nothing.
struct Vandal<'m> {
    machine: &'m FakeMachine,
    random: Random,
    slot: u8,
    queues: u16,
    bar: u64,
    rings: Vec<Rings>,
}

#[derive(Clone, Copy)]
struct Rings {
    descriptors: u64,
    driver: u64,
    device: u64,
    size: u16,
}

impl<'m> Vandal<'m> {
    fn new(machine: &'m FakeMachine, seed: u64, slot: u8, queues: u16) -> Self {
        let mut vandal = Self {
            machine,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            slot,
            queues,
            bar: FakeDriver::probe(machine, slot).bar,
            rings: Vec::new(),
        };
        vandal.set_up();
        vandal
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..2 => self.set_up(),
            2..4 => self.config_write(),
            4..6 => self.config_read(),
            6..20 => self.store_register(),
            20..24 => self.load_register(),
            24..50 => self.write_descriptor(),
            50..70 => self.make_available(),
            70..73 => self.scribble(),
            73..74 => self.move_bar(),
            _ => self.ring_doorbell(),
        }
        if self.random.one_in(2000) {
            self.machine.root.reset();
        }
    }

    /// Goes through the motions of a driver, with a layout that is sometimes possible.
    fn set_up(&mut self) {
        self.put_bar(0xc000_0000);
        let driver = FakeDriver::probe(self.machine, self.slot);
        self.bar = driver.bar;
        driver.set_status(0);
        driver.set_status(3);
        let offered = driver.offered();
        let refused = if self.random.one_in(2) { 0 } else { self.random.next() & self.random.next() };
        driver.write_features(offered & !refused | feature::VERSION_1);
        driver.set_status(11);
        if self.random.one_in(2) {
            driver.enable_msix(self.queues + 1);
        }
        self.rings.clear();
        for queue in 0..self.queues {
            let rings = self.layout();
            driver.select_queue(queue);
            driver.write_common(24, &rings.size.to_le_bytes());
            for (offset, address) in [(32, rings.descriptors), (40, rings.driver), (48, rings.device)] {
                driver.write_common(offset, &address.to_le_bytes());
            }
            driver.write_common(28, &1u16.to_le_bytes());
            for area in [rings.driver, rings.device] {
                let _ = self.machine.memory.write_slice(&[0; 4], GuestAddress(area));
            }
            self.rings.push(rings);
        }
        driver.set_status(15);
    }

    fn layout(&mut self) -> Rings {
        if self.random.one_in(8) {
            let size = self.random.next() as u16;
            let [descriptors, driver, device] = [(); 3].map(|()| self.random.address());
            return Rings { descriptors, driver, device, size };
        }
        let size = 1 << self.random.below(7);
        let base = 0x10_0000 + (self.random.below(64) << 12);
        Rings { descriptors: base, driver: base + 0x800, device: base + 0xa00, size }
    }

    fn config_write(&mut self) {
        let (offset, len) = self.config_access();
        let mut value = self.random.value();
        // Mostly leave the device reachable, or there is nothing to try.
        if offset & 0xfc == 4 && !self.random.one_in(10) {
            value |= 6;
        }
        self.machine.config_write(self.slot, offset, &value.to_le_bytes()[..len]);
    }

    fn config_read(&mut self) {
        let (offset, len) = self.config_access();
        let mut data = [0; 4];
        self.machine.config_read(self.slot, offset, &mut data[..len]);
    }

    fn config_access(&mut self) -> (u8, usize) {
        let len = self.random.pick(&[1, 2, 4]);
        let capabilities = self.random.one_in(2);
        let register = if capabilities { 0x40 + self.random.below(0x80) } else { self.random.below(256) };
        (register as u8 & !(len as u8 - 1), len)
    }

    fn store_register(&mut self) {
        let offset = self.register();
        let len = self.random.pick(&[1, 2, 4, 8]);
        let value = self.random.value().to_le_bytes();
        self.machine.store(self.bar + offset, &value[..len]);
    }

    fn load_register(&mut self) {
        let offset = self.register();
        let mut data = [0; 8];
        let len = self.random.pick(&[1, 2, 4, 8]);
        self.machine.root.mmio_read(self.bar + offset, &mut data[..len]);
    }

    fn register(&mut self) -> u64 {
        match self.random.below(4) {
            0 => self.random.below(0x8000),
            1 => (self.random.below(8) << 12) + self.random.below(64),
            _ => self.random.below(64),
        }
    }

    fn write_descriptor(&mut self) {
        let Some((queue, rings)) = self.some_rings() else { return };
        let index = self.random.below(u64::from(rings.size) + 1);
        let sensible = if queue == 0 { [WRITE, WRITE, WRITE | NEXT] } else { [0, 0, NEXT] };
        let flags = match self.random.below(4) {
            0 => self.random.pick(&[0, NEXT, WRITE, NEXT | WRITE, INDIRECT, INDIRECT | NEXT, 0xffff]),
            _ => self.random.pick(&sensible),
        };
        let entries = u64::from(rings.size).max(1);
        let next = if self.random.one_in(16) { self.random.next() } else { self.random.below(entries) } as u16;
        let len = match flags & INDIRECT {
            0 => self.random.len(),
            _ => self.random.pick(&[16, 32, 64, 512, 1024, 40, 0, 1 << 20]),
        };
        let bytes = descriptor(self.random.address(), len, flags, next);
        let _ = self.machine.memory.write_slice(&bytes, GuestAddress(rings.descriptors.wrapping_add(16 * index)));
    }

    fn make_available(&mut self) {
        let Some((_, rings)) = self.some_rings() else { return };
        let memory = &self.machine.memory;
        let index_at = GuestAddress(rings.driver.wrapping_add(2));
        let Ok(index) = memory.read_obj::<u16>(index_at) else { return };
        let used = memory.read_obj::<u16>(GuestAddress(rings.device.wrapping_add(2))).unwrap_or(0);
        if index.wrapping_sub(used) >= rings.size && !self.random.one_in(100) {
            return;
        }
        let step = if self.random.one_in(300) { self.random.next() as u16 } else { 1 };
        let entries = u64::from(rings.size).max(1);
        let head = if self.random.one_in(300) { self.random.next() } else { self.random.below(entries) } as u16;
        let slot = u64::from(index % rings.size.max(1));
        let _ = memory.write_obj(head, GuestAddress(rings.driver.wrapping_add(4 + 2 * slot)));
        let _ = memory.write_obj(index.wrapping_add(step), index_at);
    }

    fn scribble(&mut self) {
        let address = self.random.address();
        let value = self.random.next();
        let _ = self.machine.memory.write_obj(value, GuestAddress(address));
    }

    fn move_bar(&mut self) {
        let base = self.random.pick(&[0xc000_0000, 0xd000_0000, 0x1_0000_0000, 0xfff0_0000, 0, 0x8000]);
        self.put_bar(base);
    }

    fn put_bar(&mut self, base: u64) {
        self.machine.config_write(self.slot, 0x10, &(base as u32).to_le_bytes());
        self.machine.config_write(self.slot, 0x14, &((base >> 32) as u32).to_le_bytes());
        self.bar = base;
    }

    fn ring_doorbell(&mut self) {
        let queue = self.random.below(u64::from(self.queues) + 1);
        let address = self.bar + 0x3000 + 4 * queue;
        if !self.machine.hypervisor.store(NotifyAddress::Mmio(address)) {
            self.machine.root.mmio_write(address, &(queue as u16).to_le_bytes());
        }
    }

    fn some_rings(&mut self) -> Option<(usize, Rings)> {
        let index = self.random.below(u64::from(self.queues)) as usize;
        Some((index, *self.rings.get(index)?))
    }
}

/// A pair's end that looks where the fragments it is handed are.
struct Watched {
    inner: PairEnd,
    /// The guest's memory, as host addresses.
    allowed: Vec<Range<usize>>,
}

impl Watched {
    fn new(inner: PairEnd, memory: &GuestMemoryMmap) -> Self {
        let allowed = memory.iter().map(|region| {
            let start = region.as_ptr() as usize;
            start..start + region.size()
        });
        Self { inner, allowed: allowed.collect() }
    }
}

impl Link for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.inner.accept(offloads)
    }
    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.inner.register(registry, token)
    }
    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.inner.deregister(registry)
    }
    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.inner.service(now)
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        for frame in batch.frames() {
            assert!(frame.header.check(frame.len()).is_ok() && frame.len() <= MAX_FRAME_LEN);
            for iovec in Fragment::as_iovecs(frame.fragments) {
                let start = iovec.iov_base as usize;
                let inside = |range: &Range<usize>| range.start <= start && start + iovec.iov_len <= range.end;
                assert!(self.allowed.iter().any(inside), "{start:#x} + {:#x} is not the guest's", iovec.iov_len);
            }
        }
        self.inner.send(batch)
    }
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.inner.receive(batch)
    }
    fn state(&self) -> LinkState {
        self.inner.state()
    }
    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

fn watched_bench() -> Bench {
    let (near, mut far) = pair("fuzz").unwrap();
    far.accept(Offloads::ALL).unwrap();
    let machine = FakeMachine::new();
    let near = Watched::new(near, &machine.memory);
    let handle = attach(&machine, Box::new(near), None);
    Bench { machine, handle, far }
}

#[test]
fn a_network_card_survives_a_guest_that_writes_garbage() {
    for seed in SEEDS {
        let mut bench = watched_bench();
        vandalise_card(&mut bench, seed);
        works_again(&mut bench);
    }
}

fn vandalise_card(bench: &mut Bench, seed: u64) {
    let Bench { machine, handle, far } = bench;
    let mut vandal = Vandal::new(machine, seed, SLOT, 2);
    let mut slowest = Duration::ZERO;
    let mut sent = 0;
    for operation in 0..OPERATIONS {
        vandal.act();
        if operation % 16 == 0 {
            let mut batch = TxBatch::new();
            let bytes = frame(60 + operation % 1400);
            batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
            far.send(&batch).unwrap();
            while let Some(frame) = try_receive(far) {
                assert!(frame.header.check(frame.bytes.len()).is_ok());
                sent += 1;
            }
        }
        // Also gives the pump time to look at what the vandal has done before the next thing.
        if operation % 4 == 0 {
            let asked = Instant::now();
            handle.counters().expect("the pump lives");
            slowest = slowest.max(asked.elapsed());
        }
    }
    let counters = handle.counters().expect("the pump lives").nic;
    println!("seed {seed}: {sent} frames came out, {counters:?}, slowest answer {slowest:?}");
    assert!(slowest < ANSWER, "{slowest:?}");
    assert!(counters.tx_frames > 200 && counters.rx_frames > 200, "too little got through: {counters:?}");
}

/// A proper driver comes after the vandal, and a frame passes both ways.
fn works_again(bench: &mut Bench) {
    let Bench { machine, far, .. } = bench;
    machine.root.reset();
    let mut net = Net::new(machine, ALL);
    while try_receive(far).is_some() {}
    assert_eq!(net.driver.device_config(0), MAC.0);
    net.send(VnetHeader::WHOLE, &frame(777));
    assert_eq!(receive(far).bytes, frame(777));
    // What the far end sent meanwhile comes first, so the buffers are given again and again.
    let bytes = frame(999);
    let mut marker = TxBatch::new();
    marker.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]);
    let buffer = machine.allocate(2048);
    let mut marked = false;
    for _ in 0..3000 {
        marked = marked || far.send(&marker).unwrap() == 1;
        let head = net.receive.add(&[writable(buffer, 2048)]);
        net.driver.notify(0);
        if net.take(&[(head, buffer)]).2 == bytes {
            return;
        }
    }
    panic!("the frame did not arrive");
}

#[test]
fn the_entropy_device_survives_a_guest_that_writes_garbage() {
    for seed in SEEDS {
        let machine = FakeMachine::new();
        Rng::attach(&machine.root, machine.memory.clone(), Some(RNG_SLOT)).unwrap();
        let mut vandal = Vandal::new(&machine, seed, RNG_SLOT, 1);
        for _ in 0..OPERATIONS {
            vandal.act();
        }
        machine.root.reset();
        let driver = FakeDriver::probe(&machine, RNG_SLOT);
        driver.negotiate(0);
        let mut queue = driver.set_up_queue(0, 8, false);
        driver.start();
        let buffer = machine.place(&[0; 64]);
        queue.add(&[writable(buffer, 64)]);
        driver.notify(0);
        assert_eq!(queue.take_used().unwrap().1, 64);
        assert_ne!(machine.bytes(buffer, 64), [0; 64]);
    }
}

#[test]
fn two_vcpus_may_write_garbage_at_once() {
    let mut bench = watched_bench();
    {
        let machine = &bench.machine;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 1..3 {
                let stop = &stop;
                scope.spawn(move || {
                    let mut random = Random(seed);
                    while !stop.load(Ordering::Relaxed) {
                        let (offset, value) = (random.below(0x8000), random.value().to_le_bytes());
                        machine.root.mmio_write(0xc000_0000 + offset, &value[..random.pick(&[1, 2, 4, 8])]);
                        machine.root.mmio_write(0xc000_0014, &[random.pick(&[0, 3, 11, 15])]);
                    }
                });
            }
            let mut vandal = Vandal::new(machine, 99, SLOT, 2);
            for _ in 0..20_000 {
                match vandal.random.below(4) {
                    0 => vandal.config_write(),
                    1 => vandal.make_available(),
                    2 => vandal.write_descriptor(),
                    _ => vandal.ring_doorbell(),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    works_again(&mut bench);
}
