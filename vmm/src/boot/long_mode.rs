//! The processor state at the 64-bit entry point (Documentation/x86/boot.rst, "64-bit Boot Protocol").
//!
//! Paging is on and maps the first 4 GiB onto themselves with 2 MiB pages; the GDT has a 64-bit code segment at selector 0x10
//! and a data segment at 0x18; interrupts are off; RSI points to the zero page. Table formats: Intel SDM vol. 3A §3.4.5 and
//! §4.5.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::cpu::Start;

const GDT: u64 = 0x500;
/// Page map level 4, then the page directory pointers, then four page directories of 1 GiB each.
const PML4: u64 = 0x9000;
const POINTERS: u64 = 0xA000;
const DIRECTORIES: u64 = 0xB000;
const TABLE: u64 = 0x1000;
const _: () = assert!(DIRECTORIES + 4 * TABLE <= super::zero_page::COMMAND_LINE);

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
/// Base 0, limit 4 GiB in pages, present: 64-bit execute/read and 32-bit read/write.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

const PRESENT_WRITABLE: u64 = 0x3;
const LARGE: u64 = 1 << 7;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Writes the tables and returns the registers that start the kernel at `entry`.
pub(super) fn start(memory: &GuestMemoryMmap, entry: u64, zero_page: u64) -> Result<Start, GuestMemoryError> {
    write_tables(memory)?;
    Ok(Start {
        registers: kvm_regs {
            rip: entry,
            rsi: zero_page,
            // Below the zero page; the kernel sets its own before it needs one.
            rsp: zero_page,
            rflags: 2,
            ..Default::default()
        },
        configure,
    })
}

fn write_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    for (index, descriptor) in (0..).zip(DESCRIPTORS) {
        memory.write_obj(descriptor, GuestAddress(GDT + index * 8))?;
    }
    memory.write_obj(POINTERS | PRESENT_WRITABLE, GuestAddress(PML4))?;
    for gib in 0..4 {
        let directory = DIRECTORIES + gib * TABLE;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(POINTERS + gib * 8))?;
        for page in 0..512 {
            let address = (gib << 30) | (page << 21);
            memory.write_obj(address | PRESENT_WRITABLE | LARGE, GuestAddress(directory + page * 8))?;
        }
    }
    Ok(())
}

fn configure(special: &mut kvm_sregs) {
    let code = kvm_segment {
        base: 0,
        limit: 0xFFFF_FFFF,
        selector: CODE_SELECTOR,
        type_: 0xB,
        present: 1,
        dpl: 0,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment { selector: DATA_SELECTOR, type_: 3, db: 1, l: 0, ..code };
    special.cs = code;
    special.ds = data;
    special.es = data;
    special.fs = data;
    special.gs = data;
    special.ss = data;
    special.gdt = kvm_dtable { base: GDT, limit: (DESCRIPTORS.len() * 8 - 1) as u16, ..Default::default() };
    special.idt = kvm_dtable::default();
    special.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    special.cr3 = PML4;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LME | EFER_LMA;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    #[test]
    fn the_first_four_gib_map_onto_themselves() {
        let memory = allocate(1 << 20).unwrap();
        write_tables(&memory).unwrap();
        let read = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        for address in [0, 0x20_0000, 0x1234_5678, 0xFEE0_0000u64] {
            let pointers = read(PML4) & !0xfff;
            let directory = read(pointers + (address >> 30) * 8) & !0xfff;
            let entry = read(directory + ((address >> 21) & 511) * 8);
            assert_eq!(entry, (address & !0x1f_ffff) | PRESENT_WRITABLE | LARGE);
        }
    }
}
