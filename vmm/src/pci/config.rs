//! A type-0 configuration space (PCI 3.0 §6.1): 256 bytes, of which a mask says what the guest may change.
//!
//! The mask makes BAR sizing work by itself: the low bits of a BAR cannot be written, so all ones read back as its size
//! (§6.2.5.1). Invariant: reads and writes are total; any offset and length leave the read-only bytes as they were.
//! Neighbours: `root.rs` assigns BARs and decodes them, `msix.rs` lives behind a capability here.

/// Offset of the 16-bit command register.
pub const COMMAND: u8 = 0x04;
/// Offset of the 16-bit status register.
pub const STATUS: u8 = 0x06;

const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const FIRST_CAPABILITY: usize = 0x40;
/// Status: a list of capabilities exists (§6.2.3).
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BARS: usize = 6;

/// Bits of the command register (PCI 3.0 §6.2.2).
pub mod command {
    /// Responds to I/O space accesses.
    pub const IO: u16 = 1 << 0;
    /// Responds to memory space accesses.
    pub const MEMORY: u16 = 1 << 1;
    /// May act as a master: read and write guest memory, send messages.
    pub const MASTER: u16 = 1 << 2;
    /// Must not assert its INTx pin.
    pub const INTX_DISABLE: u16 = 1 << 10;
    /// What the guest may change: also parity and SERR, memory write and invalidate, which do nothing here.
    pub const WRITABLE: u16 = IO | MEMORY | MASTER | 1 << 4 | 1 << 6 | 1 << 8 | INTX_DISABLE;
}

/// The read-only head of the space (PCI 3.0 §6.2.1).
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class, subclass, programming interface from the top, 24 bits.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
}

/// What a BAR maps, and how it is encoded (PCI 3.0 §6.2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// 32-bit memory, not prefetchable.
    Memory32,
    /// 64-bit memory, not prefetchable; takes two registers.
    Memory64,
    /// I/O ports.
    Ports,
}

/// An address space that BARs live in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Guest-physical memory.
    Memory,
    /// I/O ports, 0 to 0xFFFF.
    Ports,
}

/// Where an enabled BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarRange {
    /// Its address space.
    pub space: Space,
    /// Its first address.
    pub base: u64,
    /// Its size in bytes, a power of two.
    pub size: u64,
}

impl BarRange {
    /// The offset of `address` in the BAR, if it lies there.
    #[must_use]
    pub fn offset(&self, space: Space, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.base)?;
        (self.space == space && offset < self.size).then_some(offset)
    }
}

/// The BARs that respond now.
pub type Decoded = [Option<BarRange>; BARS];

/// Configuration registers of one function.
pub struct ConfigSpace {
    bytes: [u8; 256],
    writable: [u8; 256],
    at_reset: [u8; 256],
    bars: [Option<(BarKind, u64)>; BARS],
    next_capability: usize,
    last_capability: usize,
}

impl ConfigSpace {
    /// A space without BARs, capabilities or interrupt pin; nothing is enabled.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; 256],
            writable: [0; 256],
            at_reset: [0; 256],
            bars: [None; BARS],
            next_capability: FIRST_CAPABILITY,
            last_capability: 0,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &(identity.class << 8 | u32::from(identity.revision)).to_le_bytes());
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        space.allow(COMMAND.into(), &command::WRITABLE.to_le_bytes());
        // Cache line size and latency timer: drivers write them, nothing here reads them.
        space.allow(0x0c, &[0xff, 0xff]);
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// Adds a BAR of `size` bytes, a power of two of at least 16 (memory) or 4 (ports). For the device's constructor.
    pub fn add_bar(&mut self, bar: usize, kind: BarKind, size: u64) {
        debug_assert!(size.is_power_of_two() && bar < BARS);
        let register = BAR0 + 4 * bar;
        let (flags, low) = match kind {
            BarKind::Memory32 => (0, !0xf),
            BarKind::Memory64 => (0b100, !0xf),
            BarKind::Ports => (0b01, !0x3),
        };
        let mask = !(size - 1);
        self.put(register, &u32::to_le_bytes(flags));
        self.allow(register, &(mask as u32 & low).to_le_bytes());
        if kind == BarKind::Memory64 {
            self.allow(register + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        self.bars[bar] = Some((kind, size));
    }

    /// Adds a capability: its ID (PCI 3.0 appendix H) and the bytes behind the next pointer, with those the guest may
    /// write. Returns its offset. For the device's constructor; the space has room for 192 bytes of them.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.next_capability;
        debug_assert!(at + 2 + body.len() <= 256);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        let link = if self.last_capability == 0 { CAPABILITIES } else { self.last_capability + 1 };
        self.put(link, &[at as u8]);
        self.bytes[usize::from(STATUS)] |= STATUS_CAPABILITIES;
        self.last_capability = at;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        at as u8
    }

    /// Sets the Interrupt Pin register (1 is INTA) and what firmware would put into Interrupt Line.
    pub fn set_interrupt(&mut self, pin: u8, line: u8) {
        self.put(INTERRUPT_PIN, &[pin]);
        self.put(INTERRUPT_LINE, &[line]);
    }

    /// The BARs this function has: number, kind and size in bytes.
    pub fn bars(&self) -> impl Iterator<Item = (usize, BarKind, u64)> + '_ {
        self.bars.iter().enumerate().filter_map(|(bar, entry)| entry.map(|(kind, size)| (bar, kind, size)))
    }

    /// Puts a BAR at `base`, as firmware does.
    pub fn assign(&mut self, bar: usize, base: u64) {
        let register = BAR0 + 4 * bar;
        self.write_masked(register, &(base as u32).to_le_bytes());
        if matches!(self.bars.get(bar), Some(Some((BarKind::Memory64, _)))) {
            self.write_masked(register + 4, &((base >> 32) as u32).to_le_bytes());
        }
    }

    /// Makes the present contents those after a reset.
    pub fn seal(&mut self) {
        self.at_reset = self.bytes;
    }

    /// Returns to the contents at [`ConfigSpace::seal`].
    pub fn reset(&mut self) {
        self.bytes = self.at_reset;
    }

    /// The guest's load; bytes beyond the space read as all ones.
    pub fn read(&self, offset: u8, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0xff);
        }
    }

    /// The guest's store: changes what may be changed.
    pub fn write(&mut self, offset: u8, data: &[u8]) {
        self.write_masked(offset.into(), data);
    }

    /// The device's own store, past the mask. Bytes beyond the space are ignored.
    pub fn put(&mut self, offset: usize, data: &[u8]) {
        for (target, byte) in self.bytes.iter_mut().skip(offset).zip(data) {
            *target = *byte;
        }
    }

    /// A little-endian 16-bit register; `offset` is at most 254.
    #[must_use]
    pub fn word(&self, offset: u8) -> u16 {
        let mut data = [0; 2];
        self.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    /// A little-endian 32-bit register; `offset` is at most 252.
    #[must_use]
    pub fn dword(&self, offset: u8) -> u32 {
        let mut data = [0; 4];
        self.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    /// The command register (bits in [`command`]).
    #[must_use]
    pub fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    /// The BARs that respond: enabled by the command register, at an address other than 0, inside their space.
    #[must_use]
    pub fn decoded(&self) -> Decoded {
        let mut decoded = [None; BARS];
        for (bar, kind, size) in self.bars() {
            decoded[bar] = self.decode(bar, kind, size);
        }
        decoded
    }

    fn decode(&self, bar: usize, kind: BarKind, size: u64) -> Option<BarRange> {
        let register = (BAR0 + 4 * bar) as u8;
        let low = u64::from(self.dword(register));
        let (space, enable, base, end) = match kind {
            BarKind::Ports => (Space::Ports, command::IO, low & !0x3, 1 << 16),
            BarKind::Memory32 => (Space::Memory, command::MEMORY, low & !0xf, 1 << 32),
            BarKind::Memory64 => {
                let high = u64::from(self.dword(register + 4));
                (Space::Memory, command::MEMORY, high << 32 | low & !0xf, u64::MAX)
            }
        };
        let fits = base.checked_add(size).is_some_and(|last| last <= end);
        (self.command() & enable != 0 && base != 0 && fits).then_some(BarRange { space, base, size })
    }

    fn write_masked(&mut self, offset: usize, data: &[u8]) {
        let range = self.bytes.iter_mut().zip(&self.writable).skip(offset);
        for ((target, &mask), &byte) in range.zip(data) {
            *target = *target & !mask | byte & mask;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (target, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *target = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            class: 0x02_0000,
            revision: 1,
            subsystem_vendor: 0x1af4,
            subsystem: 0x40,
        });
        space.add_bar(0, BarKind::Memory64, 0x8000);
        space.add_bar(2, BarKind::Ports, 0x40);
        space.add_bar(3, BarKind::Memory32, 0x1000);
        space
    }

    #[test]
    fn all_ones_written_to_a_bar_read_back_as_its_size() {
        let mut space = space();
        for bar in 0..6 {
            space.write(0x10 + 4 * bar, &[0xff; 4]);
        }
        let sizes: Vec<u32> = (0..6).map(|bar| space.dword(0x10 + 4 * bar)).collect();
        assert_eq!(sizes, [0xffff_8004, 0xffff_ffff, 0xffff_ffc1, 0xffff_f000, 0, 0]);
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = space();
        for offset in 0..=255 {
            space.write(offset, &[0xff; 4]);
        }
        assert_eq!(space.dword(0), 0x1041_1af4);
        assert_eq!(space.dword(8), 0x0200_0001);
        assert_eq!(space.dword(0x2c), 0x0040_1af4);
    }

    #[test]
    fn a_bar_responds_only_when_enabled_and_inside_its_space() {
        let mut space = space();
        space.assign(0, 0x1_c000_0000);
        space.assign(2, 0xc040);
        assert_eq!(space.decoded(), [None; 6]);
        space.write(COMMAND, &(command::MEMORY | command::IO).to_le_bytes());
        assert_eq!(space.decoded()[0].unwrap().base, 0x1_c000_0000);
        assert_eq!(space.decoded()[2].unwrap().base, 0xc040);
        space.assign(2, 0x1_fff0_0000);
        space.write(0x14, &[0xff; 4]);
        space.write(0x10, &[0xff; 4]);
        assert_eq!(space.decoded()[0], None, "ends beyond the last address");
        assert_eq!(space.decoded()[3], None, "never assigned");
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3], &[0xff]);
        let second = space.add_capability(0x11, &[4, 5, 6, 7], &[]);
        assert_eq!([space.bytes[0x34], space.bytes[usize::from(first) + 1]], [first, second]);
        assert_eq!(space.bytes[usize::from(second) + 1], 0);
        assert_eq!(space.word(STATUS) & 0x10, 0x10);
        space.write(first + 2, &[9, 9]);
        assert_eq!(space.bytes[usize::from(first) + 2..][..2], [9, 2]);
    }

    #[test]
    fn reset_brings_the_sealed_contents_back() {
        let mut space = space();
        space.assign(3, 0xc000_0000);
        space.seal();
        space.write(0x1c, &[0xff; 4]);
        space.write(COMMAND, &[7, 0]);
        space.reset();
        assert_eq!((space.dword(0x1c), space.command()), (0xc000_0000, 0));
    }
}
