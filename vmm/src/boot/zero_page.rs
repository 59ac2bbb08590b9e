//! The zero page: command line, initrd and memory map for the kernel (Documentation/x86/zero-page.rst).
//!
//! Invariant: the e820 map says RAM only where `memory.rs` put some, and never where ACPI tables or this page's data must
//! survive (the kernel itself knows to keep the page, the command line and the initrd).

use std::io::{Seek, SeekFrom};

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{Error, HIGH_MEMORY, Loaded, Opened, memory_error};
use crate::acpi;
use crate::memory::{high_ram, low_ram_end};

/// Where the zero page is.
pub(super) const ADDRESS: u64 = 0x7000;
/// Where the command line is. Room up to 0x9_0000.
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
const COMMAND_LINE_ROOM: usize = 0x7_0000;
/// RAM below this is the kernel's; the last KiB below 640 KiB is left to where an EBDA would be.
const CONVENTIONAL_END: u64 = 0x9_FC00;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// "Undefined" boot loader: none of the registered ones.
const LOADER_UNKNOWN: u8 = 0xFF;
/// `vid_mode`: normal.
const VIDEO_NORMAL: u16 = 0xFFFF;
const PAGE: u64 = 4096;

/// Writes the zero page and what it points to; returns its guest-physical address.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    loaded: &Loaded,
    initrd: Option<&mut Opened>,
    command_line: &str,
    rsdp: u64,
) -> Result<u64, Error> {
    let mut params = boot_params { hdr: loaded.header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.vid_mode = VIDEO_NORMAL;
    params.hdr.code32_start = 0;
    write_command_line(memory, &mut params, command_line)?;
    if let Some(initrd) = initrd {
        write_initrd(memory, &mut params, initrd, loaded.end)?;
    }
    let map = memory_map(memory);
    params.e820_entries = map.len() as u8;
    params.e820_table[..map.len()].copy_from_slice(&map);
    memory.write_slice(Bytes4096(params).as_slice(), GuestAddress(ADDRESS)).map_err(|_| Error::NoMemory)?;
    Ok(ADDRESS)
}

fn write_command_line(memory: &GuestMemoryMmap, params: &mut boot_params, command_line: &str) -> Result<(), Error> {
    let has = command_line.len();
    let max = usize::try_from(params.hdr.cmdline_size).unwrap_or(usize::MAX).min(COMMAND_LINE_ROOM - 1);
    if has > max {
        return Err(Error::CommandLineTooLong { has, max });
    }
    let mut bytes = Vec::with_capacity(has + 1);
    bytes.extend_from_slice(command_line.as_bytes());
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(COMMAND_LINE)).map_err(|_| Error::NoMemory)?;
    params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    Ok(())
}

/// Reads the initrd to the highest page boundary that the kernel allows ("as high as possible", boot.rst).
fn write_initrd(
    memory: &GuestMemoryMmap,
    params: &mut boot_params,
    initrd: &mut Opened,
    kernel_end: u64,
) -> Result<(), Error> {
    let size = initrd.size;
    let ceiling = low_ram_end(memory).min(u64::from(params.hdr.initrd_addr_max) + 1);
    let floor = kernel_end.next_multiple_of(PAGE);
    let place = ceiling.checked_sub(size).map(|place| place / PAGE * PAGE).filter(|place| *place >= floor);
    let Some(place) = place else {
        return Err(Error::InitrdDoesNotFit { path: initrd.path.clone(), size, free: ceiling.saturating_sub(floor) });
    };
    initrd.file.seek(SeekFrom::Start(0)).map_err(|error| initrd.failed(error))?;
    memory
        .read_exact_volatile_from(GuestAddress(place), &mut initrd.file, size as usize)
        .map_err(|error| initrd.failed(memory_error(error)))?;
    // Both are below 4 GiB, as low RAM is.
    params.hdr.ramdisk_image = place as u32;
    params.hdr.ramdisk_size = size as u32;
    Ok(())
}

fn memory_map(memory: &GuestMemoryMmap) -> Vec<boot_e820_entry> {
    let entry = |range: std::ops::Range<u64>, kind| boot_e820_entry {
        addr: range.start,
        size: range.end.saturating_sub(range.start),
        r#type: kind,
    };
    let map = [
        entry(0..CONVENTIONAL_END, E820_RAM),
        entry(acpi::AREA, E820_RESERVED),
        entry(HIGH_MEMORY..low_ram_end(memory), E820_RAM),
        entry(high_ram(memory), E820_RAM),
    ];
    map.into_iter().filter(|entry| entry.size > 0).collect()
}

/// `boot_params` is exactly the 4096 bytes of the zero page, without padding.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bytes4096(boot_params);

// SAFETY: `boot_params` is repr(C, packed) and made of integers and arrays of them, so every byte is initialised and every
// bit pattern is a value; the wrapper is transparent.
unsafe impl ByteValued for Bytes4096 {}

const _: () = assert!(size_of::<Bytes4096>() == 4096);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{LOW_RAM_LIMIT, allocate};

    fn map(size: u64) -> Vec<(u64, u64, u32)> {
        memory_map(&allocate(size).unwrap()).iter().map(|entry| (entry.addr, entry.size, entry.r#type)).collect()
    }

    #[test]
    fn the_map_has_ram_below_and_above_the_hole() {
        assert_eq!(
            map(LOW_RAM_LIMIT + (1 << 30)),
            [
                (0, 0x9_FC00, 1),
                (0xE_0000, 0x2_0000, 2),
                (0x10_0000, LOW_RAM_LIMIT - 0x10_0000, 1),
                (0x1_0000_0000, 1 << 30, 1)
            ]
        );
    }

    #[test]
    fn small_guests_have_no_high_ram_in_the_map() {
        assert_eq!(map(64 << 20).len(), 3);
        assert_eq!(map(1 << 20).len(), 2);
    }
}
