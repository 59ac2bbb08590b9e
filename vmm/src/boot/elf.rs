//! An ELF vmlinux: header checks and placement (ELF-64 object file format 1.5; entry as for a bzImage).
//!
//! The checks come first, over everything that `linux-loader` then trusts: class and machine, the program header table inside
//! the file, each segment inside the file and inside RAM. An uncompressed kernel has no setup header, so one is made up.
//! Neighbour: `bzimage.rs` for the other format.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, elf::PvhBootCapability};
use vm_memory::GuestMemoryMmap;

use super::{Error, Loaded, Opened};

const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const EXECUTABLE: u16 = 2;
const X86_64: u16 = 62;
const LOADABLE: u32 = 1;
/// A kernel has a handful of segments; more than this is not one.
const MOST_SEGMENTS: u16 = 64;
/// arch/x86's COMMAND_LINE_SIZE, less the NUL, since an ELF does not say.
const COMMAND_LINE_LIMIT: u32 = 2047;
/// As 64-bit bzImages have it.
const INITRD_ADDRESS_MAX: u32 = 0x7FFF_FFFF;

/// Loads an ELF; `None` when the file is not one.
pub(super) fn load(kernel: &mut Opened, memory: &GuestMemoryMmap) -> Result<Option<Loaded>, Error> {
    let mut header = [0; FILE_HEADER];
    if kernel.size < FILE_HEADER as u64 {
        return Ok(None);
    }
    read_at(kernel, 0, &mut header)?;
    if !header.starts_with(b"\x7fELF") {
        return Ok(None);
    }
    let entry = u64_at(&header, 24);
    let end = check(kernel, memory, &header)?;
    let loaded =
        Elf::load(memory, None, &mut kernel.file, None).map_err(|error| kernel.unsupported(error.to_string()))?;
    debug_assert!(!matches!(
        loaded.pvh_boot_cap,
        PvhBootCapability::PvhEntryIgnored if loaded.kernel_end == 0
    ));
    Ok(Some(Loaded { entry, end, header: made_up_header() }))
}

/// Checks the ELF and returns where it ends in guest memory.
fn check(kernel: &mut Opened, memory: &GuestMemoryMmap, header: &[u8]) -> Result<u64, Error> {
    if header[4] != CLASS_64 || header[5] != LITTLE_ENDIAN || u16_at(header, 18) != X86_64 {
        return Err(kernel.unsupported("an ELF, but not for x86-64"));
    }
    if u16_at(header, 16) != EXECUTABLE {
        return Err(kernel.unsupported("an ELF, but not an executable one such as vmlinux"));
    }
    let table = u64_at(header, 32);
    let count = u16_at(header, 56);
    if usize::from(u16_at(header, 54)) != PROGRAM_HEADER || count == 0 || count > MOST_SEGMENTS {
        return Err(kernel.unsupported("an ELF without usable program headers"));
    }
    let entry = u64_at(header, 24);
    let (mut end, mut entered) = (0, false);
    for index in 0..u64::from(count) {
        let place = table.saturating_add(index * PROGRAM_HEADER as u64);
        check_length(kernel, place.saturating_add(PROGRAM_HEADER as u64))?;
        let mut segment = [0; PROGRAM_HEADER];
        read_at(kernel, place, &mut segment)?;
        let (offset, address) = (u64_at(&segment, 8), u64_at(&segment, 24));
        let (in_file, in_memory) = (u64_at(&segment, 32), u64_at(&segment, 40));
        // Notes are read by the loader too, so they are held to the same rule.
        check_length(kernel, offset.saturating_add(in_file))?;
        if u32::from_le_bytes([segment[0], segment[1], segment[2], segment[3]]) != LOADABLE {
            continue;
        }
        let last = address.saturating_add(in_memory.max(in_file));
        kernel.check_room(memory, address, last)?;
        end = end.max(last);
        entered |= (address..last).contains(&entry);
    }
    if !entered {
        return Err(kernel.unsupported(format!("the entry point {entry:#x} is in none of its segments")));
    }
    Ok(end)
}

fn check_length(kernel: &Opened, needs: u64) -> Result<(), Error> {
    if needs > kernel.size {
        return Err(Error::Truncated { path: kernel.path.clone(), has: kernel.size, needs });
    }
    Ok(())
}

fn made_up_header() -> setup_header {
    setup_header {
        boot_flag: 0xAA55,
        header: 0x5372_6448,
        version: 0x020F,
        loadflags: 1,
        xloadflags: 1,
        kernel_alignment: 0x100_0000,
        initrd_addr_max: INITRD_ADDRESS_MAX,
        cmdline_size: COMMAND_LINE_LIMIT,
        ..Default::default()
    }
}

fn read_at(kernel: &mut Opened, place: u64, bytes: &mut [u8]) -> Result<(), Error> {
    kernel
        .file
        .seek(SeekFrom::Start(place))
        .and_then(|_| kernel.file.read_exact(bytes))
        .map_err(|error| kernel.failed(error))
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;
    use crate::memory::allocate;
    use std::path::PathBuf;
    use vm_memory::{Bytes, GuestAddress};

    /// An ELF with one segment of 16 bytes, loaded at 2 MiB.
    fn vmlinux(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut image = vec![0; FILE_HEADER + PROGRAM_HEADER + 16];
        image[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        image[16] = 2;
        image[18] = 62;
        image[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
        image[32] = FILE_HEADER as u8;
        image[54] = PROGRAM_HEADER as u8;
        image[56] = 1;
        let segment = &mut image[FILE_HEADER..];
        segment[0] = 1;
        segment[8] = (FILE_HEADER + PROGRAM_HEADER) as u8;
        segment[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
        segment[32] = 16;
        segment[40] = 32;
        segment[PROGRAM_HEADER..].fill(0xf4);
        change(&mut image);
        image
    }

    fn load_image(image: &[u8]) -> Result<Option<Loaded>, Error> {
        let temporary = file(image);
        let mut kernel = Opened::open("kernel", temporary.as_path()).unwrap();
        load(&mut kernel, &allocate(4 << 20).unwrap())
    }

    #[test]
    fn segments_go_where_their_physical_addresses_say() {
        let temporary = file(&vmlinux(|_| ()));
        let mut kernel = Opened::open("kernel", temporary.as_path()).unwrap();
        let memory = allocate(4 << 20).unwrap();
        let loaded = load(&mut kernel, &memory).unwrap().unwrap();
        assert_eq!((loaded.entry, loaded.end), (0x20_0000, 0x20_0020));
        let byte: u8 = memory.read_obj(GuestAddress(0x20_000f)).unwrap();
        assert_eq!(byte, 0xf4);
    }

    #[test]
    fn an_elf_for_another_machine_is_refused() {
        for (place, value) in [(4, 1), (5, 2), (18, 3), (16, 3)] {
            assert!(load_image(&vmlinux(|image| image[place] = value)).is_err());
        }
    }

    #[test]
    fn a_truncated_elf_is_named_so() {
        let whole = vmlinux(|_| ());
        for length in [64, 100, whole.len() - 1] {
            let error = load_image(&whole[..length]).err().unwrap();
            assert!(matches!(error, Error::Truncated { .. }), "{error}");
        }
    }

    #[test]
    fn segments_outside_ram_are_refused() {
        let low = vmlinux(|image| image[FILE_HEADER + 26] = 0);
        assert!(load_image(&low).is_err());
        let high = vmlinux(|image| image[FILE_HEADER + 30] = 0xff);
        assert!(matches!(load_image(&high).err().unwrap(), Error::KernelDoesNotFit { .. }));
    }

    #[test]
    fn damaged_headers_never_panic() {
        let whole = vmlinux(|_| ());
        let memory = allocate(4 << 20).unwrap();
        let mut state = 1u64;
        for _ in 0..5_000 {
            let mut damaged = whole.clone();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                damaged[(state >> 33) as usize % 120] = (state >> 56) as u8;
            }
            let temporary = file(&damaged);
            let mut kernel = Opened::open("kernel", temporary.as_path()).unwrap();
            kernel.path = PathBuf::new();
            let _ = load(&mut kernel, &memory);
        }
    }
}
