//! The root of bus 0: host bridge, slots, configuration mechanism #1, and decoding of BARs.
//!
//! # Theory of operation
//! Devices are attached while the machine is put together; each gets its BARs assigned, disabled. A guest's configuration
//! write goes to the device; if its BARs or its decoding bits changed thereby, the root rebuilds its list of regions and
//! tells the device, one such change at a time. A port or memory access looks the region up under a read lock, lets go of
//! it, and asks the device.
//!
//! The configuration address (0xCF8) is one register of the machine: guests serialise its use with a lock of their own.
//! Neighbours: `bus.rs` routes 0xCF8..0xD00 (without 0xCF9, the reset register) and both windows here.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::config::{BarKind, BarRange, ConfigSpace, Decoded, Identity, Space};
use super::intx::{IntxLines, IntxPin};
use super::{Error, PciDevice, lock};
use crate::bus::BusDevice;
use crate::hypervisor::Hypervisor;

/// Slots on the bus; slot 0 is the host bridge's.
pub const SLOTS: u8 = 32;
/// Where memory BARs are assigned; the DSDT's `_CRS` announces it.
pub const MEMORY_WINDOW: Range<u64> = 0xC000_0000..0xFEC0_0000;
/// Where I/O BARs are assigned.
pub const PORT_WINDOW: Range<u64> = 0xC000..0x1_0000;

const CONFIG_ADDRESS: u16 = 0xCF8;
const CONFIG_DATA: u16 = 0xCFC;
const CONFIG_ENABLE: u32 = 1 << 31;
/// The header's BAR and command registers, which decoding depends on.
const HEADER_END: u8 = 0x28;

/// A slot that was found free, and the interrupt pin of the device that goes there.
pub struct Place {
    slot: u8,
    intx: IntxPin,
}

impl Place {
    /// The slot, 1 to 31.
    #[must_use]
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// Splits into the slot, for [`Root::attach`], and INTA, for the device.
    #[must_use]
    pub fn into_parts(self) -> (u8, IntxPin) {
        (self.slot, self.intx)
    }
}

/// Bus 0 and its host bridge.
pub struct Root {
    hypervisor: Arc<dyn Hypervisor>,
    lines: Arc<IntxLines>,
    address: AtomicU32,
    bus: RwLock<Slots>,
    /// Held during a configuration write and the changes of decoding that follow from it.
    configuring: Mutex<()>,
}

struct Slots {
    devices: [Option<Arc<dyn PciDevice>>; SLOTS as usize],
    /// What each device decodes, as the regions have it.
    decoded: [Decoded; SLOTS as usize],
    regions: Vec<Region>,
    next_memory: u64,
    next_port: u64,
}

#[derive(Clone)]
struct Region {
    range: BarRange,
    bar: usize,
    device: Arc<dyn PciDevice>,
}

impl Root {
    /// A bus with only its host bridge, at 00:00.0.
    #[must_use]
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Self {
        let mut devices = [const { None }; SLOTS as usize];
        devices[0] = Some(Arc::new(HostBridge::new()) as Arc<dyn PciDevice>);
        Self {
            lines: IntxLines::new(Arc::clone(&hypervisor)),
            hypervisor,
            address: AtomicU32::new(0),
            bus: RwLock::new(Slots {
                devices,
                decoded: [[None; 6]; SLOTS as usize],
                regions: Vec::new(),
                next_memory: MEMORY_WINDOW.start,
                next_port: PORT_WINDOW.start,
            }),
            configuring: Mutex::new(()),
        }
    }

    /// The hypervisor that the bus was made with, for its devices.
    #[must_use]
    pub fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        &self.hypervisor
    }

    /// Finds a free slot: the one wanted, or the lowest.
    ///
    /// # Errors
    /// The slot wanted does not exist or is taken, or all are.
    pub fn place(&self, wanted: Option<u8>) -> Result<Place, Error> {
        let bus = self.slots();
        let slot = match wanted {
            Some(slot) => match bus.devices.get(usize::from(slot)) {
                None => return Err(Error::NoSuchSlot(slot)),
                Some(Some(_)) => return Err(Error::Taken(slot)),
                Some(None) => slot,
            },
            None => bus.devices.iter().position(Option::is_none).ok_or(Error::Full)? as u8,
        };
        Ok(Place { slot, intx: self.lines.pin(slot, 0) })
    }

    /// Puts a device into a slot and assigns its BARs; none responds before the guest enables it.
    ///
    /// # Errors
    /// The slot does not exist or is taken, or a window has no room for a BAR.
    pub fn attach(&self, slot: u8, device: Arc<dyn PciDevice>) -> Result<(), Error> {
        let mut bus = self.slots_mut();
        match bus.devices.get(usize::from(slot)) {
            None => return Err(Error::NoSuchSlot(slot)),
            Some(Some(_)) => return Err(Error::Taken(slot)),
            Some(None) => {}
        }
        let mut config = lock(device.config());
        let bars: Vec<_> = config.bars().collect();
        for (bar, kind, size) in bars {
            let base = bus.allocate(kind, size).ok_or(Error::NoRoom { slot, bar, size })?;
            config.assign(bar, base);
        }
        config.seal();
        drop(config);
        bus.devices[usize::from(slot)] = Some(device);
        Ok(())
    }

    /// The guest reads 1, 2 or 4 bytes from a port. Returns whether anything here answers to it.
    pub fn pio_read(&self, port: u16, data: &mut [u8]) -> bool {
        if port == CONFIG_ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.address.load(Ordering::Relaxed).to_le_bytes());
            return true;
        }
        if let Some(lane) = data_lane(port, data.len()) {
            data.fill(0xff);
            if let Some((device, register)) = self.selected() {
                device.config_read(register + lane, data);
            }
            return true;
        }
        self.bar_read(Space::Ports, port.into(), data)
    }

    /// The guest writes 1, 2 or 4 bytes to a port. Returns whether anything here answers to it.
    pub fn pio_write(&self, port: u16, data: &[u8]) -> bool {
        if port == CONFIG_ADDRESS
            && let Ok(address) = data.try_into()
        {
            // Bits 1, 0 and 30 to 24 are reserved and read as zero (§3.2.2.3.2).
            self.address.store(u32::from_le_bytes(address) & 0x80ff_fffc, Ordering::Relaxed);
            return true;
        }
        if let Some(lane) = data_lane(port, data.len()) {
            self.config_write(lane, data);
            return true;
        }
        self.bar_write(Space::Ports, port.into(), data)
    }

    /// The guest loads 1 to 8 bytes. Returns whether a BAR is there; if not, `data` is as it was.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) -> bool {
        self.bar_read(Space::Memory, address, data)
    }

    /// The guest stores 1 to 8 bytes. Returns whether a BAR is there.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> bool {
        self.bar_write(Space::Memory, address, data)
    }

    /// The machine is reset: every device returns to its state at power-on and has let go of guest memory on return.
    pub fn reset(&self) {
        let _guard = lock(&self.configuring);
        self.address.store(0, Ordering::Relaxed);
        let devices = self.slots().devices.clone();
        for (slot, device) in devices.iter().enumerate() {
            if let Some(device) = device {
                device.reset();
                self.follow(slot, device);
            }
        }
    }

    fn config_write(&self, lane: u8, data: &[u8]) {
        let _guard = lock(&self.configuring);
        let Some((device, register)) = self.selected() else { return };
        device.config_write(register + lane, data);
        if register < HEADER_END {
            self.follow(usize::from(slot_of(self.address.load(Ordering::Relaxed))), &device);
        }
    }

    /// Takes note of what a device decodes now. The caller holds `configuring`.
    fn follow(&self, slot: usize, device: &Arc<dyn PciDevice>) {
        let decoded = lock(device.config()).decoded();
        let mut bus = self.slots_mut();
        if bus.decoded[slot] == decoded {
            return;
        }
        bus.decoded[slot] = decoded;
        bus.rebuild();
        drop(bus);
        device.decoding_changed(&decoded);
    }

    /// The device and the register (a multiple of 4) that the configuration address selects.
    fn selected(&self) -> Option<(Arc<dyn PciDevice>, u8)> {
        let address = self.address.load(Ordering::Relaxed);
        let bus_and_function = address & 0x00ff_0700;
        if address & CONFIG_ENABLE == 0 || bus_and_function != 0 {
            return None;
        }
        let device = self.slots().devices[usize::from(slot_of(address))].clone()?;
        Some((device, (address & 0xfc) as u8))
    }

    fn bar_read(&self, space: Space, address: u64, data: &mut [u8]) -> bool {
        let Some((region, offset)) = self.find(space, address) else { return false };
        if offset + data.len() as u64 <= region.range.size {
            region.device.bar_read(region.bar, offset, data);
        } else {
            data.fill(0xff);
        }
        true
    }

    fn bar_write(&self, space: Space, address: u64, data: &[u8]) -> bool {
        let Some((region, offset)) = self.find(space, address) else { return false };
        if offset + data.len() as u64 <= region.range.size {
            region.device.bar_write(region.bar, offset, data);
        }
        true
    }

    /// A handful of regions: the first in slot order wins where the guest let them overlap.
    fn find(&self, space: Space, address: u64) -> Option<(Region, u64)> {
        let bus = self.slots();
        bus.regions.iter().find_map(|region| Some((region.clone(), region.range.offset(space, address)?)))
    }

    fn slots(&self) -> RwLockReadGuard<'_, Slots> {
        self.bus.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> RwLockWriteGuard<'_, Slots> {
        self.bus.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The root as the owner of port ranges.
pub struct Ports(pub Arc<Root>);

impl BusDevice for Ports {
    fn read(&self, address: u64, data: &mut [u8]) {
        if let Ok(port) = address.try_into() {
            self.0.pio_read(port, data);
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        if let Ok(port) = address.try_into() {
            self.0.pio_write(port, data);
        }
    }

    fn reset(&self) {
        self.0.reset();
    }
}

/// The root as the owner of memory ranges. Resets with its [`Ports`].
pub struct Memory(pub Arc<Root>);

impl BusDevice for Memory {
    fn read(&self, address: u64, data: &mut [u8]) {
        self.0.mmio_read(address, data);
    }

    fn write(&self, address: u64, data: &[u8]) {
        self.0.mmio_write(address, data);
    }
}

impl Slots {
    /// The next address in the window of a BAR's kind, aligned to its size.
    fn allocate(&mut self, kind: BarKind, size: u64) -> Option<u64> {
        let (next, window) = match kind {
            BarKind::Ports => (&mut self.next_port, PORT_WINDOW),
            BarKind::Memory32 | BarKind::Memory64 => (&mut self.next_memory, MEMORY_WINDOW),
        };
        let base = next.checked_next_multiple_of(size)?;
        let end = base.checked_add(size).filter(|&end| end <= window.end)?;
        *next = end;
        Some(base)
    }

    fn rebuild(&mut self) {
        self.regions.clear();
        for (device, decoded) in self.devices.iter().zip(&self.decoded) {
            let Some(device) = device else { continue };
            for (bar, range) in decoded.iter().enumerate() {
                if let Some(range) = *range {
                    self.regions.push(Region { range, bar, device: Arc::clone(device) });
                }
            }
        }
    }
}

/// The bridge at 00:00.0, with the numbers of a 440FX and the subsystem that firmware looks for.
struct HostBridge {
    config: Mutex<ConfigSpace>,
}

impl HostBridge {
    fn new() -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x1237,
            class: 0x06_0000,
            revision: 2,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.seal();
        Self { config: Mutex::new(config) }
    }
}

impl PciDevice for HostBridge {
    fn name(&self) -> &str {
        "host bridge"
    }

    fn config(&self) -> &Mutex<ConfigSpace> {
        &self.config
    }

    fn bar_read(&self, _: usize, _: u64, _: &mut [u8]) {}

    fn bar_write(&self, _: usize, _: u64, _: &[u8]) {}

    fn reset(&self) {
        lock(&self.config).reset();
    }
}

fn slot_of(address: u32) -> u8 {
    (address >> 11 & 0x1f) as u8
}

/// The first byte of the configuration dword that an access to the data port touches, if it is such an access.
fn data_lane(port: u16, len: usize) -> Option<u8> {
    let lane = port.checked_sub(CONFIG_DATA)?;
    (usize::from(lane) + len <= 4).then_some(lane as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::{COMMAND, command};
    use crate::virtio::fake_hypervisor::FakeHypervisor;

    struct Card {
        config: Mutex<ConfigSpace>,
        decoded: Mutex<Decoded>,
        last_write: Mutex<Option<(usize, u64, Vec<u8>)>>,
    }

    impl Card {
        fn new() -> Arc<Self> {
            let mut config = ConfigSpace::new(Identity {
                vendor: 0x1234,
                device: 0x5678,
                class: 0x02_0000,
                revision: 0,
                subsystem_vendor: 0,
                subsystem: 0,
            });
            config.add_bar(0, BarKind::Memory32, 0x1000);
            config.add_bar(1, BarKind::Ports, 0x20);
            Arc::new(Self { config: Mutex::new(config), decoded: Mutex::default(), last_write: Mutex::default() })
        }
    }

    impl PciDevice for Card {
        fn name(&self) -> &str {
            "card"
        }
        fn config(&self) -> &Mutex<ConfigSpace> {
            &self.config
        }
        fn decoding_changed(&self, decoded: &Decoded) {
            *self.decoded.lock().unwrap() = *decoded;
        }
        fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]) {
            data.fill(bar as u8 * 0x10 + offset as u8);
        }
        fn bar_write(&self, bar: usize, offset: u64, data: &[u8]) {
            *self.last_write.lock().unwrap() = Some((bar, offset, data.to_vec()));
        }
        fn reset(&self) {
            self.config.lock().unwrap().reset();
        }
    }

    fn root() -> Root {
        Root::new(FakeHypervisor::new())
    }

    fn select(root: &Root, slot: u32, register: u32) {
        root.pio_write(0xcf8, &(1 << 31 | slot << 11 | register).to_le_bytes());
    }

    fn load(root: &Root, slot: u32, register: u32) -> u32 {
        select(root, slot, register);
        let mut data = [0; 4];
        assert!(root.pio_read(0xcfc, &mut data));
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_host_bridge_answers_and_empty_slots_read_as_ones() {
        let root = root();
        assert_eq!(load(&root, 0, 0), 0x1237_8086);
        assert_eq!(load(&root, 0, 0x2c), 0x1100_1af4);
        assert_eq!(load(&root, 1, 0), u32::MAX);
        assert_eq!(load(&root, 1 << 5, 0), u32::MAX, "bus 1");
        root.pio_write(0xcf8, &0u32.to_le_bytes());
        let mut data = [0; 4];
        root.pio_read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4], "disabled");
    }

    #[test]
    fn configuration_is_reached_by_bytes_words_and_dwords() {
        let root = root();
        select(&root, 0, 0);
        let (mut byte, mut word) = ([0; 1], [0; 2]);
        root.pio_read(0xcfd, &mut byte);
        root.pio_read(0xcfe, &mut word);
        assert_eq!((byte, word), ([0x80], [0x37, 0x12]));
        assert!(!root.pio_read(0xcff, &mut word), "crosses the port");
        assert!(!root.pio_read(0xcf9, &mut byte), "the reset register is not ours");
        let mut address = [0; 4];
        root.pio_read(0xcf8, &mut address);
        assert_eq!(u32::from_le_bytes(address), 1 << 31);
    }

    #[test]
    fn decoding_follows_a_moved_bar_and_the_command_register() {
        let root = root();
        let card = Card::new();
        let slot = root.place(Some(4)).unwrap().slot();
        root.attach(slot, card.clone()).unwrap();
        assert_eq!(load(&root, 4, 0x10), 0xc000_0000);
        assert_eq!(load(&root, 4, 0x14), 0xc001);
        let mut data = [0; 1];
        assert!(!root.mmio_read(0xc000_0004, &mut data), "not enabled yet");
        select(&root, 4, COMMAND.into());
        root.pio_write(0xcfc, &(command::MEMORY | command::IO).to_le_bytes());
        assert!(root.mmio_read(0xc000_0004, &mut data));
        assert_eq!(data, [4]);
        assert!(root.pio_read(0xc003, &mut data));
        assert_eq!(data, [0x13]);
        select(&root, 4, 0x10);
        root.pio_write(0xcfc, &0xd000_0000u32.to_le_bytes());
        assert!(!root.mmio_write(0xc000_0004, &[1]));
        assert!(root.mmio_write(0xd000_0008, &[1, 2]));
        assert_eq!(*card.last_write.lock().unwrap(), Some((0, 8, vec![1, 2])));
        assert_eq!(card.decoded.lock().unwrap()[0].unwrap().base, 0xd000_0000);
        root.reset();
        assert_eq!(*card.decoded.lock().unwrap(), [None; 6]);
        assert_eq!(load(&root, 4, 0x10), 0xc000_0000);
    }

    #[test]
    fn an_access_across_the_end_of_a_bar_reaches_nobody() {
        let root = root();
        let card = Card::new();
        root.attach(1, card.clone()).unwrap();
        select(&root, 1, COMMAND.into());
        root.pio_write(0xcfc, &[2, 0]);
        let mut data = [0; 4];
        assert!(root.mmio_read(0xc000_0ffe, &mut data));
        assert_eq!(data, [0xff; 4]);
        assert!(root.mmio_write(0xc000_0ffe, &data));
        assert_eq!(*card.last_write.lock().unwrap(), None);
    }

    #[test]
    fn a_full_bus_and_a_taken_slot_are_clear_errors() {
        let root = root();
        for _ in 1..SLOTS {
            let slot = root.place(None).unwrap().slot();
            root.attach(slot, Card::new()).unwrap();
        }
        assert_eq!(root.place(None).err(), Some(Error::Full));
        assert_eq!(root.place(Some(3)).err(), Some(Error::Taken(3)));
        assert_eq!(root.place(Some(32)).err(), Some(Error::NoSuchSlot(32)));
        assert_eq!(root.attach(3, Card::new()), Err(Error::Taken(3)));
        assert_eq!(Error::Full.to_string(), "pci: no free slot: all 32 are taken");
    }
}
