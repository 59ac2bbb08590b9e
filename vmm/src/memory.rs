//! Guest RAM: where it lies in the guest's and in our address space.
//!
//! The guest's map, in bytes (the PC's, with everything movable below 4 GiB left to PCI):
//!
//! ```text
//! 0 .. 0xA0000                 RAM
//! 0xA0000 .. 0xC0000           hole: no VGA adapter, so that a console driver finds none
//! 0xC0000 .. 0x100000          RAM, reserved for ACPI tables (`acpi.rs`)
//! 0x100000 .. 0xC0000000       RAM, as far as there is any
//! 0xC0000000 .. 0xFEC00000     PCI memory window (`pci/`)
//! 0xFEC00000 .. 4 GiB          IOAPIC, local APICs, KVM's own pages
//! 4 GiB ..                     the rest of the RAM
//! ```
//!
//! Invariant: RAM is anonymous, populated when touched, and never moves or shrinks while the machine exists; wiping it gives
//! the pages back to the host. Our mapping is congruent to the guest's addresses modulo 2 MiB, so that huge pages of ours are
//! huge pages of the guest's.

use std::io;
use std::ops::Range;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

use link::reason;

/// RAM below 4 GiB ends here at the latest.
pub const LOW_RAM_LIMIT: u64 = 0xC000_0000;
/// RAM beyond [`LOW_RAM_LIMIT`] goes on here.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// The hole where a VGA adapter would be.
pub const VGA_HOLE: Range<u64> = 0xA_0000..0xC_0000;

const HUGE_PAGE: usize = 2 << 20;

/// RAM could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused the mapping.
    #[error("memory: {mib} MiB of guest RAM: {}", reason(.source))]
    Map {
        /// Size in MiB.
        mib: u64,
        /// The host's answer.
        source: io::Error,
    },
    /// More than the host can address.
    #[error("memory: {0} bytes of guest RAM are more than this host can address")]
    TooBig(u64),
}

/// Maps `size` bytes of guest RAM, a multiple of 4 KiB.
///
/// # Errors
/// The host has no address space or memory for it.
pub fn allocate(size: u64) -> Result<GuestMemoryMmap, Error> {
    let low = size.min(LOW_RAM_LIMIT);
    let mut regions = vec![region(0, low)?];
    if size > low {
        regions.push(region(HIGH_RAM_START, size - low)?);
    }
    GuestMemoryMmap::from_regions(regions).map_err(|_| Error::TooBig(size))
}

/// Where RAM below 4 GiB ends.
pub fn low_ram_end(memory: &GuestMemoryMmap) -> u64 {
    memory.find_region(GuestAddress(0)).map_or(0, |region| region.last_addr().raw_value() + 1)
}

/// The RAM above 4 GiB; empty when there is none.
pub fn high_ram(memory: &GuestMemoryMmap) -> Range<u64> {
    match memory.find_region(GuestAddress(HIGH_RAM_START)) {
        Some(region) => HIGH_RAM_START..HIGH_RAM_START + region.len(),
        None => HIGH_RAM_START..HIGH_RAM_START,
    }
}

/// Turns all RAM into zeros and gives its pages back to the host. No vcpu may be running.
///
/// # Errors
/// The host refused.
pub fn wipe(memory: &GuestMemoryMmap) -> io::Result<()> {
    for region in memory.iter() {
        advise(region, libc::MADV_DONTNEED)?;
    }
    Ok(())
}

fn region(start: u64, size: u64) -> Result<GuestRegionMmap, Error> {
    let bytes = usize::try_from(size).map_err(|_| Error::TooBig(size))?;
    let mapping = {
        let _slack = reserve_around_aligned_gap(bytes);
        MmapRegionBuilder::new(bytes)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            .build()
            .map_err(|error| Error::Map {
                mib: size >> 20,
                source: match error {
                    vm_memory::mmap::MmapRegionError::Mmap(source) => source,
                    other => io::Error::other(other),
                },
            })?
    };
    let region = GuestRegionMmap::new(mapping, GuestAddress(start)).ok_or(Error::TooBig(size))?;
    // Huge pages save a nested-paging fault for each 4 KiB that a booting kernel touches. A host without them says no.
    let _ = advise(&region, libc::MADV_HUGEPAGE);
    // Guest RAM in a core dump helps nobody and may hold anybody's secrets.
    let _ = advise(&region, libc::MADV_DONTDUMP);
    Ok(region)
}

fn advise(region: &GuestRegionMmap, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is exactly the region's own anonymous mapping. MADV_DONTNEED makes its pages read as zeros, which is
    // a legal change of guest memory (it is only ever accessed as volatile bytes); the other advice changes no contents.
    let result = unsafe { libc::madvise(region.as_ptr().cast(), region.size(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the next mapping of `size` bytes likely to start on a 2 MiB boundary: reserves a little more, gives back an aligned
/// piece of exactly that size, and holds what is left on both sides until dropped. The kernel looks for the highest gap that
/// is big enough, which is then the piece. When it takes another, only speed is lost.
fn reserve_around_aligned_gap(size: usize) -> Option<[Slack; 2]> {
    let total = size.checked_add(HUGE_PAGE)?;
    let whole = Slack::map(total)?;
    let address = whole.address;
    let gap = address.next_multiple_of(HUGE_PAGE);
    let slack =
        [Slack { address, size: gap - address }, Slack { address: gap + size, size: address + total - (gap + size) }];
    std::mem::forget(whole);
    drop(Slack { address: gap, size });
    Some(slack)
}

/// Reserved, inaccessible address space.
struct Slack {
    address: usize,
    size: usize,
}

impl Slack {
    fn map(size: usize) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no existing one.
        let pointer = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        (pointer != libc::MAP_FAILED).then_some(Self { address: pointer as usize, size })
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        if self.size > 0 {
            // SAFETY: the range is this value's own reservation; nothing points into it, for it cannot be accessed.
            unsafe { libc::munmap(self.address as *mut libc::c_void, self.size) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn small_ram_lies_below_the_hole() {
        let memory = allocate(64 << 20).unwrap();
        assert_eq!(low_ram_end(&memory), 64 << 20);
        assert!(high_ram(&memory).is_empty());
    }

    #[test]
    fn ram_beyond_the_hole_goes_above_four_gib() {
        let memory = allocate(LOW_RAM_LIMIT + (1 << 30)).unwrap();
        assert_eq!(low_ram_end(&memory), LOW_RAM_LIMIT);
        assert_eq!(high_ram(&memory), 0x1_0000_0000..0x1_4000_0000);
        assert!(memory.find_region(GuestAddress(LOW_RAM_LIMIT)).is_none());
    }

    #[test]
    fn wiped_ram_reads_as_zeros() {
        let memory = allocate(4 << 20).unwrap();
        memory.write_obj(7u32, GuestAddress(0x10_0000)).unwrap();
        wipe(&memory).unwrap();
        assert_eq!(memory.read_obj::<u32>(GuestAddress(0x10_0000)).unwrap(), 0);
    }

    #[test]
    fn ram_starts_on_a_huge_page() {
        let memory = allocate(8 << 20).unwrap();
        let host = memory.get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(host as usize % HUGE_PAGE, 0);
    }

    #[test]
    fn more_ram_than_addresses_is_an_error() {
        assert!(matches!(allocate(1 << 60), Err(Error::Map { .. })));
    }
}
