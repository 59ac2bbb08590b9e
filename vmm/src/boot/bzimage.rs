//! A bzImage: header checks and placement (Documentation/x86/boot.rst, "The Real-Mode Kernel Header").
//!
//! Nothing in the header is trusted: the file must be as long as `setup_sects` and `syssize` say, and the place it asks for
//! must be RAM. Real-mode setup code is not loaded, for it is never run. Neighbour: `elf.rs` for the other format.

use std::io::{Read, Seek, SeekFrom};

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{Error, Loaded, Opened, memory_error};

/// Where the setup header starts in the file.
const HEADER_OFFSET: u64 = 0x1F1;
/// "HdrS".
const MAGIC: u32 = 0x5372_6448;
/// Boot protocol 2.12 (Linux 3.8) brought `xloadflags` and with it the 64-bit entry point.
const OLDEST_PROTOCOL: u16 = 0x020C;
/// `loadflags`: the protected-mode kernel belongs at 1 MiB or higher.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry point at 0x200.
const XLF_KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
const SECTOR: u64 = 512;

/// Loads a bzImage; `None` when the file is not one.
pub(super) fn load(kernel: &mut Opened, memory: &GuestMemoryMmap) -> Result<Option<Loaded>, Error> {
    let Some(header) = read_header(kernel)? else {
        return Ok(None);
    };
    check_header(kernel, &header)?;
    let setup = setup_size(&header);
    let size = u64::from(header.syssize) * 16;
    let start = header.pref_address;
    let end = start.saturating_add(size.max(u64::from(header.init_size)));
    kernel.check_room(memory, start, end)?;
    kernel.file.seek(SeekFrom::Start(setup)).map_err(|error| kernel.failed(error))?;
    // Not larger than RAM, as was just checked, so it fits a usize.
    memory
        .read_exact_volatile_from(GuestAddress(start), &mut kernel.file, size as usize)
        .map_err(|error| kernel.failed(memory_error(error)))?;
    Ok(Some(Loaded { entry: start + ENTRY_64, end, header }))
}

fn read_header(kernel: &mut Opened) -> Result<Option<setup_header>, Error> {
    // Everything up to and including the magic number and the version.
    const SHORTEST: u64 = 0x208;
    if kernel.size < SHORTEST {
        return Ok(None);
    }
    let mut header = setup_header::default();
    let bytes = header.as_mut_slice();
    let available = bytes.len().min(usize::try_from(kernel.size - HEADER_OFFSET).unwrap_or(usize::MAX));
    kernel
        .file
        .seek(SeekFrom::Start(HEADER_OFFSET))
        .and_then(|_| kernel.file.read_exact(&mut bytes[..available]))
        .map_err(|error| kernel.failed(error))?;
    Ok((header.header == MAGIC).then_some(header))
}

fn check_header(kernel: &Opened, header: &setup_header) -> Result<(), Error> {
    let version = header.version;
    if version < OLDEST_PROTOCOL {
        return Err(kernel.unsupported(format!(
            "boot protocol {}.{:02} is too old, 2.12 (Linux 3.8) or later is needed",
            version >> 8,
            version & 0xff
        )));
    }
    let needs = setup_size(header) + u64::from(header.syssize) * 16;
    if kernel.size < needs {
        return Err(Error::Truncated { path: kernel.path.clone(), has: kernel.size, needs });
    }
    if header.loadflags & LOADED_HIGH == 0 || header.syssize == 0 {
        return Err(kernel.unsupported("a zImage, not a bzImage"));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(kernel.unsupported("no 64-bit entry point: a 32-bit kernel?"));
    }
    Ok(())
}

/// Bytes before the protected-mode kernel: the boot sector and the setup sectors, of which 0 means 4.
fn setup_size(header: &setup_header) -> u64 {
    let sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    (sectors + 1) * SECTOR
}
