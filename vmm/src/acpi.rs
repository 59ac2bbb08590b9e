//! The ACPI tables that tell a guest what is not discoverable: processors, interrupt routing, power and the ISA devices.
//!
//! ACPI 6.4: RSDP (§5.2.5.3) → XSDT (§5.2.8) → FADT (§5.2.9) with FACS (§5.2.10) and DSDT, and MADT (§5.2.12). The tables lie
//! in [`AREA`], which the memory map reserves. They depend on the number of vcpus only.
//!
//! Invariant: what they say is what the machine does. Ports and interrupts come from the constants of `legacy/`, windows and
//! the interrupt of each slot's pins (level-triggered) from `pci/`.

use std::ops::Range;

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, PackageBuilder, Path, ResourceTemplate,
    Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{self, AccessSize, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::legacy::{pm, rtc, serial};
use crate::pci::{self, MEMORY_WINDOW, PORT_WINDOW};

/// The guest-physical addresses of all tables, the RSDP first; also where a guest without boot parameters searches for it.
pub const AREA: Range<u64> = 0xE_0000..0x10_0000;

const OEM: [u8; 6] = *b"ETHLOM";
const OEM_TABLE: [u8; 8] = *b"ETHERLOM";
const OEM_REVISION: u32 = 1;

const LOCAL_APIC: u32 = 0xFEE0_0000;
const IO_APIC: u32 = 0xFEC0_0000;
const PCI_PINS: u8 = 4;

/// Writes the tables for `cpus` vcpus and returns the guest-physical address of the RSDP.
///
/// # Errors
/// [`AREA`] is not RAM.
pub fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<u64, GuestMemoryError> {
    let (rsdp, tables) = build(cpus);
    debug_assert!(tables.len() as u64 <= AREA.end - AREA.start);
    memory.write_slice(&tables, GuestAddress(AREA.start))?;
    Ok(rsdp)
}

/// The tables as one block that belongs at the start of [`AREA`], and the RSDP's address.
fn build(cpus: u8) -> (u64, Vec<u8>) {
    let mut block = Block(vec![0; Rsdp::len()]);
    let facs = block.add(&bytes(&FACS::new()));
    let dsdt = block.add(dsdt().as_slice());
    let fadt = block.add(&fadt(facs, dsdt));
    let madt = block.add(madt(cpus).as_slice());
    let mut xsdt = table(*b"XSDT", 1);
    xsdt.append_slice(&fadt.to_le_bytes());
    xsdt.append_slice(&madt.to_le_bytes());
    let xsdt = block.add(xsdt.as_slice());
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    block.0[..rsdp.len()].copy_from_slice(&rsdp);
    (AREA.start, block.0)
}

struct Block(Vec<u8>);

impl Block {
    /// Appends a table at the next multiple of 64, which is what a FACS needs, and returns its guest-physical address.
    fn add(&mut self, table: &[u8]) -> u64 {
        let place = self.0.len().next_multiple_of(64);
        self.0.resize(place, 0);
        self.0.extend_from_slice(table);
        AREA.start + place as u64
    }
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        // WBINVD works; C1 works; no power and sleep buttons; the RTC wakes nobody; the PM timer has 32 bits.
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    // Both in their 32-bit fields, which every reader understands.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = (pm::SCI as u16).into();
    // No SMI command port: the machine is in ACPI mode from the start.
    fadt.pm1a_evt_blk = u32::from(pm::EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(pm::CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_blk = u32::from(pm::TIMER).into();
    fadt.pm_tmr_len = 4;
    // C2 and C3 do not exist (latencies above 100 and 1000 microseconds).
    fadt.p_lvl2_lat = 0xFFF.into();
    fadt.p_lvl3_lat = 0xFFF.into();
    fadt.century = rtc::CENTURY;
    // §5.2.9.3: ISA devices (bit 0) and no VGA (bit 2); bit 1 clear: no PS/2 controller beyond its reset line.
    fadt.iapc_boot_arch = 0b101.into();
    fadt.reset_reg = port(pm::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = pm::RESET_VALUE;
    bytes(&fadt.finalize())
}

fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(gas::AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}

fn madt(cpus: u8) -> Sdt {
    // §5.2.12.5: conforming (0), or active high (1) and level-triggered (3).
    const CONFORMS: u16 = 0;
    const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
    const DUAL_8259: u32 = 1;
    let mut madt = table(*b"APIC", 5);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    madt.append_slice(&DUAL_8259.to_le_bytes());
    for id in 0..cpus {
        // §5.2.12.2 local APIC: processor uid, APIC id, enabled.
        madt.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    // §5.2.12.3 I/O APIC: an id beside the processors' (a byte suffices: at most 254 of them), inputs from GSI 0.
    madt.append_slice(&[1, 12, cpus, 0]);
    madt.append_slice(&IO_APIC.to_le_bytes());
    madt.append_slice(&0u32.to_le_bytes());
    // §5.2.12.5 overrides: the timer is wired to input 2, the SCI is level-triggered.
    for (irq, gsi, flags) in [(0, 2, CONFORMS), (pm::SCI as u8, pm::SCI, ACTIVE_HIGH_LEVEL)] {
        madt.append_slice(&[2, 10, 0, irq]);
        madt.append_slice(&gsi.to_le_bytes());
        madt.append_slice(&flags.to_le_bytes());
    }
    // §5.2.12.7: LINT1 of every processor is the NMI.
    madt.append_slice(&[4, 6, 0xFF, 0, 0, 1]);
    madt
}

fn dsdt() -> Sdt {
    let mut dsdt = table(*b"DSDT", 2);
    // §7.4.2: S5's SLP_TYP values for PM1a and PM1b.
    let mut off = PackageBuilder::new();
    for value in [pm::SLEEP_TYPE_OFF, 0, 0, 0] {
        off.add_element(&value);
    }
    dsdt.append_slice(&bytes(&Name::new("_S5_".into(), &off)));
    let pci = bytes(&pci_root());
    let serial = bytes(&serial_port());
    let clock = bytes(&real_time_clock());
    let bus = Scope::raw("_SB_".into(), [pci, serial, clock].concat());
    dsdt.append_slice(&bus);
    dsdt
}

/// The host bridge with its windows (PCI firmware specification 3.0 §4.6) and interrupt routing (ACPI §6.2.13).
fn pci_root() -> impl Aml {
    let name = Name::new("_HID".into(), &EISAName::new("PNP0A03"));
    let number = Name::new("_UID".into(), &0u8);
    let bus = AddressSpace::new_bus_number(0u16, 0u16);
    let config = IO::new(0xCF8, 0xCF8, 1, 8);
    let ports = AddressSpace::new_io(PORT_WINDOW.start as u16, (PORT_WINDOW.end - 1) as u16, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        MEMORY_WINDOW.start as u32,
        (MEMORY_WINDOW.end - 1) as u32,
        None,
    );
    let resources = Name::new("_CRS".into(), &ResourceTemplate::new(vec![&bus, &config, &ports, &memory]));
    let routes = Name::new("_PRT".into(), &interrupt_routes());
    let mut children = bytes(&name);
    for child in [&number, &resources, &routes] {
        child.to_aml_bytes(&mut children);
    }
    Owned::device("PCI0", &children)
}

fn interrupt_routes() -> PackageBuilder {
    let mut routes = PackageBuilder::new();
    for slot in 0..pci::SLOTS {
        for pin in 0..PCI_PINS {
            let mut route = PackageBuilder::new();
            // Any function of the slot; the pin; no link device; the interrupt.
            route.add_element(&((u32::from(slot) << 16) | 0xFFFF));
            route.add_element(&pin);
            route.add_element(&0u8);
            route.add_element(&pci::gsi(slot, pin));
            routes.add_element(&route);
        }
    }
    routes
}

fn serial_port() -> impl Aml {
    let ports = IO::new(serial::PORT, serial::PORT, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, serial::IRQ);
    isa_device("COM1", "PNP0501", vec![&ports, &interrupt])
}

fn real_time_clock() -> impl Aml {
    let ports = IO::new(rtc::PORT, rtc::PORT, 1, 2);
    let interrupt = Interrupt::new(true, true, false, false, rtc::IRQ);
    isa_device("RTC0", "PNP0B00", vec![&ports, &interrupt])
}

fn isa_device(name: &str, id: &str, resources: Vec<&dyn Aml>) -> Owned {
    let mut children = bytes(&Name::new("_HID".into(), &EISAName::new(id)));
    Name::new("_UID".into(), &1u8).to_aml_bytes(&mut children);
    Name::new("_CRS".into(), &ResourceTemplate::new(resources)).to_aml_bytes(&mut children);
    Owned::device(name, &children)
}

/// AML that is bytes already.
struct Owned(Vec<u8>);

impl Owned {
    fn device(name: &str, children: &[u8]) -> Self {
        let children = Self(children.to_vec());
        Self(bytes(&Device::new(Path::new(name), vec![&children])))
    }
}

impl Aml for Owned {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// An empty table with a header (§5.2.6). Appending keeps length and checksum right.
fn table(signature: [u8; 4], revision: u8) -> Sdt {
    const HEADER: u32 = 36;
    Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION)
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u32_at(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    fn at(block: &[u8], address: u64) -> &[u8] {
        let table = &block[(address - AREA.start) as usize..];
        &table[..u32_at(table, 4) as usize]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// FADT, MADT, DSDT, FACS, reached as a guest reaches them.
    fn tables(block: &[u8]) -> [&[u8]; 4] {
        assert_eq!(&block[..8], b"RSD PTR ");
        let xsdt = at(block, u64_at(block, 24));
        assert_eq!(&xsdt[..4], b"XSDT");
        assert_eq!(sum(xsdt), 0);
        let (fadt, madt) = (at(block, u64_at(xsdt, 36)), at(block, u64_at(xsdt, 44)));
        let dsdt = at(block, u64::from(u32_at(fadt, 40)));
        let facs = at(block, u64::from(u32_at(fadt, 36)));
        [fadt, madt, dsdt, facs]
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let (_, block) = build(4);
        assert_eq!(sum(&block[..20]), 0);
        assert_eq!(sum(&block[..36]), 0);
        let [fadt, madt, dsdt, facs] = tables(&block);
        for (table, name) in [(fadt, b"FACP"), (madt, b"APIC"), (dsdt, b"DSDT")] {
            assert_eq!(&table[..4], name);
            assert_eq!(sum(table), 0);
        }
        assert_eq!(&facs[..4], b"FACS");
        assert_eq!(facs.as_ptr() as usize % 64, block.as_ptr() as usize % 64);
    }

    #[test]
    fn the_most_vcpus_fit_the_area() {
        let (_, block) = build(254);
        assert!(block.len() as u64 <= AREA.end - AREA.start);
        let [_, madt, ..] = tables(&block);
        assert_eq!(madt[44 + 253 * 8..][..8], [0, 8, 253, 253, 1, 0, 0, 0]);
    }

    #[test]
    fn fadt_points_to_the_ports_that_pm_answers() {
        let (_, block) = build(1);
        let [fadt, ..] = tables(&block);
        assert_eq!(u32_at(fadt, 56), u32::from(pm::EVENT));
        assert_eq!(u32_at(fadt, 64), u32::from(pm::CONTROL));
        assert_eq!(u32_at(fadt, 76), u32::from(pm::TIMER));
        assert_eq!(fadt[116], 1);
        assert_eq!(u64_at(fadt, 120), u64::from(pm::RESET));
        assert_eq!(fadt[128], pm::RESET_VALUE);
    }

    #[test]
    fn every_slot_and_pin_has_its_route() {
        let (_, block) = build(1);
        let [_, _, dsdt, _] = tables(&block);
        for slot in 0u32..32 {
            for pin in 0u8..4 {
                let mut route = Vec::new();
                let mut package = PackageBuilder::new();
                package.add_element(&((slot << 16) | 0xFFFF));
                package.add_element(&pin);
                package.add_element(&0u8);
                package.add_element(&pci::gsi(slot as u8, pin));
                package.to_aml_bytes(&mut route);
                assert!(dsdt.windows(route.len()).any(|window| window == route), "slot {slot} pin {pin}");
            }
        }
    }
}
