//! Where a guest's port and memory-mapped accesses go.
//!
//! A [`Bus`] is a sorted list of address ranges, filled while the machine is put together and never changed while a guest
//! runs, so vcpus look addresses up without a lock. Ranges that move (PCI BARs) are the PCI root's business: it owns one
//! fixed window here and decodes inside it. What nobody owns reads as all ones and swallows stores, as on a PC.
//! Neighbours: `cpu.rs` calls in, `legacy/` and `pci/` answer.

use std::ops::Range;
use std::sync::Arc;

/// A device's registers as a vcpu sees them. Called on vcpu threads, possibly on several at once.
pub trait BusDevice: Send + Sync {
    /// The guest loads `data.len()` bytes (1, 2, 4 or 8) at `address`, which is a port number or a guest-physical address,
    /// not an offset. `data` holds all ones on entry: bytes that a device leaves alone read as unconnected.
    fn read(&self, address: u64, data: &mut [u8]);

    /// The guest stores `data` (1, 2, 4 or 8 bytes) at `address`.
    fn write(&self, address: u64, data: &[u8]);

    /// The machine is reset; no vcpu is running. Registers return to their power-on values.
    fn reset(&self) {}
}

/// Why a range could not be given to a device.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("bus: {start:#x}..{end:#x} overlaps {other_start:#x}..{other_end:#x} or is empty")]
pub struct Overlap {
    start: u64,
    end: u64,
    other_start: u64,
    other_end: u64,
}

/// One address space: the I/O ports or the physical addresses.
#[derive(Default)]
pub struct Bus {
    /// Sorted by start; no two overlap.
    ranges: Vec<(Range<u64>, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// A bus with nothing on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives every address in `range` to `device`. One device may own several ranges.
    ///
    /// # Errors
    /// The range is empty or part of it is taken.
    pub fn attach(&mut self, range: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), Overlap> {
        let taken =
            self.ranges.iter().map(|(taken, _)| taken).find(|taken| taken.start < range.end && range.start < taken.end);
        let clash = match taken {
            Some(taken) => Some(taken.clone()),
            None if range.is_empty() => Some(range.clone()),
            None => None,
        };
        if let Some(other) = clash {
            return Err(Overlap { start: range.start, end: range.end, other_start: other.start, other_end: other.end });
        }
        let place = self.ranges.partition_point(|(taken, _)| taken.start < range.start);
        self.ranges.insert(place, (range, device));
        Ok(())
    }

    /// A guest's load. The owner of the first byte's address answers for all of them.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(device) = self.owner(address) {
            device.read(address, data);
        }
    }

    /// A guest's store. The owner of the first byte's address takes all of them.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some(device) = self.owner(address) {
            device.write(address, data);
        }
    }

    /// Resets every device, once, in the order of the addresses.
    pub fn reset(&self) {
        for (index, (_, device)) in self.ranges.iter().enumerate() {
            let seen = self.ranges[..index].iter().any(|(_, earlier)| Arc::ptr_eq(earlier, device));
            if !seen {
                device.reset();
            }
        }
    }

    fn owner(&self, address: u64) -> Option<&dyn BusDevice> {
        let next = self.ranges.partition_point(|(range, _)| range.start <= address);
        let (range, device) = self.ranges.get(next.checked_sub(1)?)?;
        range.contains(&address).then_some(device.as_ref())
    }
}

/// The two address spaces of a PC.
#[derive(Default)]
pub struct Buses {
    /// I/O ports, 0 to 0xffff.
    pub ports: Bus,
    /// Guest-physical addresses outside RAM and the interrupt controllers.
    pub memory: Bus,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, address: u64, data: &mut [u8]) {
            data[0] = address as u8;
        }
        fn write(&self, address: u64, data: &[u8]) {
            self.0.lock().unwrap().push((address, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_owner_of_its_first_byte() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.attach(0x10..0x20, device.clone()).unwrap();
        bus.write(0x1f, &[1, 2]);
        bus.write(0x20, &[3]);
        bus.write(0x0f, &[4]);
        assert_eq!(*device.0.lock().unwrap(), [(0x1f, vec![1, 2])]);
    }

    #[test]
    fn what_nobody_owns_reads_as_all_ones() {
        let mut bus = Bus::new();
        bus.attach(0x10..0x20, Arc::new(Recorder::default())).unwrap();
        let mut data = [0; 4];
        bus.read(0x9, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.read(0x11, &mut data);
        assert_eq!(data, [0x11, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn ranges_may_touch_but_not_overlap() {
        let mut bus = Bus::new();
        let device: Arc<dyn BusDevice> = Arc::new(Recorder::default());
        bus.attach(0xcfa..0xd00, device.clone()).unwrap();
        bus.attach(0xcf8..0xcf9, device.clone()).unwrap();
        bus.attach(0xcf9..0xcfa, device.clone()).unwrap();
        assert!(bus.attach(0xcff..0xd01, device.clone()).is_err());
        assert!(bus.attach(0x10..0x10, device).is_err());
    }

    #[test]
    fn the_last_address_of_the_space_is_an_address() {
        let mut bus = Bus::new();
        bus.attach(0..u64::MAX, Arc::new(Recorder::default())).unwrap();
        let mut data = [0; 1];
        bus.read(u64::MAX, &mut data);
        assert_eq!(data, [0xff]);
    }
}
