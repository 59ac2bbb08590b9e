//! A guest without a processor, for tests: memory, a PCI bus, and a driver that finds and works virtio devices through
//! configuration space and BARs exactly as a real one would (virtio 1.2 §3.1.1, §4.1).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::fake_hypervisor::FakeHypervisor;
use super::feature;
use crate::hypervisor::NotifyAddress;
use crate::pci::{self, command};

/// Where messages go, and the data of vector 0; vector n has this plus n.
pub(crate) const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
pub(crate) const MESSAGE_DATA: u32 = 0x40;

/// RAM in regions: the first two touch, then comes a hole.
pub(crate) const REGIONS: [(u64, usize); 3] = [(0, 2 << 20), (2 << 20, 2 << 20), (6 << 20, 1 << 20)];
pub(crate) const SEAM: u64 = 2 << 20;
pub(crate) const HOLE: u64 = 4 << 20;
pub(crate) const RAM_END: u64 = 7 << 20;

/// Waits until something has happened on another thread.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// RAM and a bus.
pub(crate) struct FakeMachine {
    pub(crate) hypervisor: Arc<FakeHypervisor>,
    pub(crate) root: pci::Root,
    pub(crate) memory: GuestMemoryMmap,
    next: AtomicU64,
}

impl FakeMachine {
    pub(crate) fn new() -> Self {
        let hypervisor = FakeHypervisor::new();
        let ranges = REGIONS.map(|(start, len)| (GuestAddress(start), len));
        Self {
            root: pci::Root::new(hypervisor.clone()),
            hypervisor,
            memory: GuestMemoryMmap::from_ranges(&ranges).unwrap(),
            next: AtomicU64::new(0x1000),
        }
    }

    /// Some RAM that nobody else has, below the seam, aligned to 64 bytes.
    pub(crate) fn allocate(&self, len: usize) -> u64 {
        let address = self.next.fetch_add(len.next_multiple_of(64) as u64, Ordering::Relaxed);
        assert!(address + len as u64 <= SEAM, "the fake machine is out of memory");
        address
    }

    /// RAM with these contents.
    pub(crate) fn place(&self, bytes: &[u8]) -> u64 {
        let address = self.allocate(bytes.len());
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        address
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(crate) fn config_read(&self, slot: u8, offset: u8, data: &mut [u8]) {
        self.select(slot, offset);
        assert!(self.root.pio_read(0xcfc + u16::from(offset & 3), data));
    }

    pub(crate) fn config_write(&self, slot: u8, offset: u8, data: &[u8]) {
        self.select(slot, offset);
        assert!(self.root.pio_write(0xcfc + u16::from(offset & 3), data));
    }

    pub(crate) fn config_u32(&self, slot: u8, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.config_read(slot, offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn config_u16(&self, slot: u8, offset: u8) -> u16 {
        let mut data = [0; 2];
        self.config_read(slot, offset, &mut data);
        u16::from_le_bytes(data)
    }

    pub(crate) fn config_u8(&self, slot: u8, offset: u8) -> u8 {
        let mut data = [0; 1];
        self.config_read(slot, offset, &mut data);
        data[0]
    }

    /// A store as KVM sees it: to a doorbell, or else an exit.
    pub(crate) fn store(&self, address: u64, data: &[u8]) {
        if !self.hypervisor.store(NotifyAddress::Mmio(address)) {
            self.root.mmio_write(address, data);
        }
    }

    pub(crate) fn load<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0xff; N];
        self.root.mmio_read(address, &mut data);
        data
    }

    fn select(&self, slot: u8, offset: u8) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & !3);
        assert!(self.root.pio_write(0xcf8, &address.to_le_bytes()));
    }
}

/// A structure found through a capability (§4.1.4): its offset in the BAR.
#[derive(Clone, Copy, Debug, Default)]
struct Structures {
    common: u64,
    notify: u64,
    multiplier: u64,
    isr: u64,
    device: u64,
}

/// The driver of one device.
pub(crate) struct FakeDriver<'m> {
    pub(crate) machine: &'m FakeMachine,
    pub(crate) slot: u8,
    pub(crate) bar: u64,
    pub(crate) msix: u8,
    /// The capability that opens a window on the BAR (§4.1.4.9).
    pub(crate) window: u8,
    at: Structures,
}

impl<'m> FakeDriver<'m> {
    /// Finds the device, sizes its BAR, reads its capabilities, and enables memory and bus mastering.
    pub(crate) fn probe(machine: &'m FakeMachine, slot: u8) -> Self {
        assert_eq!(machine.config_u16(slot, 0), 0x1af4, "a virtio device in slot {slot}");
        let mut driver = Self { machine, slot, bar: 0, msix: 0, window: 0, at: Structures::default() };
        driver.size_bar();
        driver.find_capabilities();
        let enabled = command::MEMORY | command::MASTER;
        driver.set_command(enabled);
        driver
    }

    pub(crate) fn set_command(&self, command: u16) {
        self.machine.config_write(self.slot, 4, &command.to_le_bytes());
    }

    pub(crate) fn move_bar(&mut self, base: u64) {
        self.machine.config_write(self.slot, 0x10, &(base as u32).to_le_bytes());
        self.machine.config_write(self.slot, 0x14, &((base >> 32) as u32).to_le_bytes());
        self.bar = base;
    }

    pub(crate) fn device_id(&self) -> u16 {
        self.machine.config_u16(self.slot, 2)
    }

    /// Reset, then up to FEATURES_OK, with what is wanted of what is offered. Returns the features in force.
    pub(crate) fn negotiate(&self, wanted: u64) -> u64 {
        self.reset();
        self.set_status(1);
        self.set_status(1 | 2);
        let features = self.offered() & (wanted | feature::VERSION_1);
        self.write_features(features);
        self.set_status(1 | 2 | 8);
        assert_eq!(self.status() & 8, 8, "features {features:#x} accepted");
        features
    }

    /// Status 0, and the wait until it is back (§4.1.4.3.2).
    pub(crate) fn reset(&self) {
        self.set_status(0);
        assert_eq!(self.status(), 0);
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.write_common(0, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read_common(4)))
        };
        half(0) | half(1) << 32
    }

    pub(crate) fn write_features(&self, features: u64) {
        for select in 0..2u32 {
            self.write_common(8, &select.to_le_bytes());
            self.write_common(12, &((features >> (32 * select)) as u32).to_le_bytes());
        }
    }

    /// Enables MSI-X with a message for each of the first `vectors`.
    pub(crate) fn enable_msix(&self, vectors: u16) {
        let table = u64::from(self.machine.config_u32(self.slot, self.msix + 4) & !7);
        for vector in 0..vectors {
            let entry = self.bar + table + 16 * u64::from(vector);
            self.machine.store(entry, &(MESSAGE_ADDRESS as u32).to_le_bytes());
            self.machine.store(entry + 4, &((MESSAGE_ADDRESS >> 32) as u32).to_le_bytes());
            self.machine.store(entry + 8, &(MESSAGE_DATA + u32::from(vector)).to_le_bytes());
            self.machine.store(entry + 12, &0u32.to_le_bytes());
        }
        self.machine.config_write(self.slot, self.msix + 2, &0x8000u16.to_le_bytes());
        self.write_common(16, &0u16.to_le_bytes());
        assert_eq!(u16::from_le_bytes(self.read_common(16)), 0);
    }

    /// Sets up a queue in fresh memory, with vector `queue` + 1.
    pub(crate) fn set_up_queue(&self, queue: u16, size: u16, event_idx: bool) -> FakeQueue<'m> {
        let fake = FakeQueue::new(self.machine, size, event_idx);
        self.select_queue(queue);
        self.write_common(24, &size.to_le_bytes());
        self.write_common(26, &(queue + 1).to_le_bytes());
        self.write_common(32, &(fake.descriptors as u32).to_le_bytes());
        self.write_common(36, &((fake.descriptors >> 32) as u32).to_le_bytes());
        self.write_common(40, &(fake.avail as u32).to_le_bytes());
        self.write_common(44, &((fake.avail >> 32) as u32).to_le_bytes());
        self.write_common(48, &fake.used.to_le_bytes());
        self.write_common(28, &1u16.to_le_bytes());
        fake
    }

    pub(crate) fn select_queue(&self, queue: u16) {
        self.write_common(22, &queue.to_le_bytes());
    }

    /// DRIVER_OK.
    pub(crate) fn start(&self) {
        self.set_status(1 | 2 | 4 | 8);
    }

    pub(crate) fn set_status(&self, status: u8) {
        self.write_common(20, &[status]);
    }

    pub(crate) fn status(&self) -> u8 {
        self.read_common::<1>(20)[0]
    }

    pub(crate) fn needs_reset(&self) -> bool {
        self.status() & 0x40 != 0
    }

    /// Reads the ISR status, which acknowledges the interrupt.
    pub(crate) fn isr(&self) -> u8 {
        self.machine.load::<1>(self.bar + self.at.isr)[0]
    }

    pub(crate) fn notify(&self, queue: u16) {
        self.machine.store(self.notify_address(queue), &queue.to_le_bytes());
    }

    pub(crate) fn notify_address(&self, queue: u16) -> u64 {
        self.select_queue(queue);
        let offset = u64::from(u16::from_le_bytes(self.read_common(30)));
        self.bar + self.at.notify + offset * self.at.multiplier
    }

    pub(crate) fn device_config<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.machine.load(self.bar + self.at.device + offset)
    }

    pub(crate) fn read_common<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.machine.load(self.bar + self.at.common + offset)
    }

    pub(crate) fn write_common(&self, offset: u64, data: &[u8]) {
        self.machine.store(self.bar + self.at.common + offset, data);
    }

    fn size_bar(&mut self) {
        let before = [self.machine.config_u32(self.slot, 0x10), self.machine.config_u32(self.slot, 0x14)];
        assert_eq!(before[0] & 0xf, 0b100, "64-bit memory");
        for offset in [0x10, 0x14] {
            self.machine.config_write(self.slot, offset, &[0xff; 4]);
        }
        let low = self.machine.config_u32(self.slot, 0x10) & !0xf;
        let high = self.machine.config_u32(self.slot, 0x14);
        let size = !(u64::from(high) << 32 | u64::from(low)) + 1;
        assert_eq!(size, 0x8000);
        self.bar = u64::from(before[1]) << 32 | u64::from(before[0] & !0xf);
        assert!(self.bar.is_multiple_of(size) && self.bar >= 0xc000_0000, "assigned: {:#x}", self.bar);
        self.move_bar(self.bar);
    }

    fn find_capabilities(&mut self) {
        let machine = self.machine;
        let slot = self.slot;
        let mut capability = machine.config_u8(slot, 0x34);
        while capability != 0 {
            match machine.config_u8(slot, capability) {
                0x11 => self.msix = capability,
                0x09 => self.note_structure(capability),
                other => panic!("capability {other:#x}"),
            }
            capability = machine.config_u8(slot, capability + 1);
        }
        assert!(self.msix != 0 && self.window != 0 && self.at.multiplier != 0);
    }

    fn note_structure(&mut self, capability: u8) {
        let offset = u64::from(self.machine.config_u32(self.slot, capability + 8));
        match self.machine.config_u8(self.slot, capability + 3) {
            1 => self.at.common = offset,
            2 => {
                self.at.notify = offset;
                self.at.multiplier = self.machine.config_u32(self.slot, capability + 16).into();
            }
            3 => self.at.isr = offset,
            4 => self.at.device = offset,
            5 => self.window = capability,
            other => panic!("structure {other}"),
        }
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FakeBuffer {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) write: bool,
}

/// For the device to read.
pub(crate) fn readable(address: u64, len: usize) -> FakeBuffer {
    FakeBuffer { address, len: len as u32, write: false }
}

/// For the device to write.
pub(crate) fn writable(address: u64, len: usize) -> FakeBuffer {
    FakeBuffer { address, len: len as u32, write: true }
}

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// The driver's side of a split virtqueue.
pub(crate) struct FakeQueue<'m> {
    machine: &'m FakeMachine,
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    event_idx: bool,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    avail_index: u16,
    used_index: u16,
}

impl<'m> FakeQueue<'m> {
    fn new(machine: &'m FakeMachine, size: u16, event_idx: bool) -> Self {
        let entries = usize::from(size);
        let zeros = |len| machine.place(&vec![0; len]);
        Self {
            machine,
            size,
            descriptors: zeros(16 * entries),
            avail: zeros(6 + 2 * entries),
            used: zeros(6 + 8 * entries),
            event_idx,
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
            avail_index: 0,
            used_index: 0,
        }
    }

    /// Adds a chain of descriptors and makes it available. Returns its head.
    pub(crate) fn add(&mut self, buffers: &[FakeBuffer]) -> u16 {
        let indices: Vec<u16> = buffers.iter().map(|_| self.free.pop().expect("a free descriptor")).collect();
        for (i, buffer) in buffers.iter().enumerate() {
            let next = indices.get(i + 1).copied();
            let flags = if buffer.write { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.describe(indices[i], buffer.address, buffer.len, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        self.chains.insert(head, indices);
        self.make_available(head);
        head
    }

    /// Whether there are descriptors for a chain of this length.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        self.free.len() >= len
    }

    /// Writes one descriptor (§2.7.5).
    pub(crate) fn describe(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let at = self.descriptors + 16 * u64::from(index);
        self.machine.memory.write_slice(&descriptor(address, len, flags, next), GuestAddress(at)).unwrap();
    }

    /// Puts a head into the available ring and moves its index.
    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.avail_index % self.size);
        self.machine.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.set_avail_index(self.avail_index.wrapping_add(1));
    }

    pub(crate) fn set_avail_index(&mut self, index: u16) {
        self.avail_index = index;
        self.machine.memory.store(index, GuestAddress(self.avail + 2), Ordering::Release).unwrap();
    }

    pub(crate) fn avail_index(&self) -> u16 {
        self.avail_index
    }

    /// The next used entry: head and length in bytes.
    pub(crate) fn take_used(&mut self) -> Option<(u16, u32)> {
        if self.device_index() == self.used_index {
            return None;
        }
        let slot = self.used + 4 + 8 * u64::from(self.used_index % self.size);
        let [id, len]: [u32; 2] = self.machine.memory.read_obj(GuestAddress(slot)).unwrap();
        self.used_index = self.used_index.wrapping_add(1);
        if let Some(indices) = self.chains.remove(&(id as u16)) {
            self.free.extend(indices);
        }
        Some((id as u16, len))
    }

    /// Waits for a used entry.
    pub(crate) fn wait_used(&mut self) -> (u16, u32) {
        let mut entry = None;
        eventually("a used buffer", || {
            entry = self.take_used();
            entry.is_some()
        });
        entry.unwrap()
    }

    /// The device's used index.
    pub(crate) fn device_index(&self) -> u16 {
        self.machine.memory.load(GuestAddress(self.used + 2), Ordering::Acquire).unwrap()
    }

    /// Asks for an interrupt when the used index passes `index` (§2.7.7), or for none at all without event indices.
    pub(crate) fn set_used_event(&self, index: u16) {
        let at = self.avail + 4 + 2 * u64::from(self.size);
        self.machine.memory.store(index, GuestAddress(at), Ordering::SeqCst).unwrap();
    }

    pub(crate) fn set_no_interrupt(&self, no: bool) {
        self.machine.memory.store(u16::from(no), GuestAddress(self.avail), Ordering::SeqCst).unwrap();
    }

    /// Whether the device wants to be notified of the next chain added (§2.7.10).
    pub(crate) fn wants_notification(&self) -> bool {
        let memory = &self.machine.memory;
        if self.event_idx {
            let at = self.used + 4 + 8 * u64::from(self.size);
            let event: u16 = memory.load(GuestAddress(at), Ordering::SeqCst).unwrap();
            event == self.avail_index
        } else {
            memory.load::<u16>(GuestAddress(self.used), Ordering::SeqCst).unwrap() & 1 == 0
        }
    }
}

/// The wire form of a descriptor.
pub(crate) fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}
