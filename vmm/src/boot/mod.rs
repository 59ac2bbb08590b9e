//! Direct boot: from files on the host to a kernel in guest memory and registers to start it with.
//!
//! [`Payload`] holds the opened files, so that the machine can load them again at each reset without a path, a privilege or a
//! second copy in memory: files are read straight into guest RAM. The kernel is entered in 64-bit mode
//! (Documentation/x86/boot.rst, "64-bit Boot Protocol"), whatever its format:
//!
//! * `bzimage.rs` checks and places a bzImage, `elf.rs` an ELF vmlinux;
//! * `zero_page.rs` places command line and initrd and writes `boot_params`;
//! * `long_mode.rs` writes page tables and GDT and says what the registers are.
//!
//! Low memory, in bytes: GDT at 0x500, zero page at 0x7000, page tables 0x9000 to 0xF000, command line at 0x2_0000; ACPI
//! tables at 0xE_0000 (`acpi.rs`). All of it is below 0x9_FC00, where the e820 map's first RAM ends, or reserved there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vm_memory::GuestMemoryMmap;

use crate::cpu::Start;
use crate::memory::low_ram_end;
use link::reason;

mod bzimage;
mod elf;
mod long_mode;
mod zero_page;

/// Where the kernel may lie: the first byte above the legacy area.
const HIGH_MEMORY: u64 = 0x10_0000;

/// What can be wrong with a kernel, a command line or an initrd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or read.
    #[error("{what} '{}': {}", .path.display(), reason(.source))]
    File {
        /// "kernel" or "initrd".
        what: &'static str,
        /// As configured.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// The file is neither a bzImage nor an ELF.
    #[error("kernel '{}': not a Linux kernel: neither a bzImage nor an ELF vmlinux", .0.display())]
    NotAKernel(PathBuf),
    /// The file is a kernel, but one that cannot be started here.
    #[error("kernel '{}': {why}", .path.display())]
    Unsupported {
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file ends before the kernel does.
    #[error("kernel '{}': truncated: {has} bytes, the header announces {needs}", .path.display())]
    Truncated {
        /// As configured.
        path: PathBuf,
        /// Size of the file.
        has: u64,
        /// Size that the headers imply.
        needs: u64,
    },
    /// Not enough RAM for the kernel.
    #[error("kernel '{}': needs RAM up to {} MiB, the guest has {} MiB below 4 GiB", .path.display(), .needs.div_ceil(1 << 20), .has >> 20)]
    KernelDoesNotFit {
        /// As configured.
        path: PathBuf,
        /// End of the kernel in guest memory, in bytes.
        needs: u64,
        /// End of the RAM below 4 GiB, in bytes.
        has: u64,
    },
    /// Not enough RAM for the initrd.
    #[error("initrd '{}': {} MiB do not fit beside the kernel, which leaves {} MiB free", .path.display(), .size.div_ceil(1 << 20), .free >> 20)]
    InitrdDoesNotFit {
        /// As configured.
        path: PathBuf,
        /// Size of the file, in bytes.
        size: u64,
        /// Space between the kernel and the highest address that it lets an initrd have, in bytes.
        free: u64,
    },
    /// The command line is longer than the kernel accepts.
    #[error("kernel command line: {has} bytes, the kernel takes at most {max}")]
    CommandLineTooLong {
        /// Length in bytes.
        has: usize,
        /// The kernel's limit.
        max: usize,
    },
    /// Guest memory is too small for even the boot structures.
    #[error("memory: too little guest RAM to boot")]
    NoMemory,
}

/// A kernel and what goes with it, opened.
pub struct Payload {
    kernel: Opened,
    initrd: Option<Opened>,
    command_line: String,
}

/// A kernel in guest memory.
struct Loaded {
    /// Guest-physical address of the 64-bit entry point.
    entry: u64,
    /// First byte after everything that the kernel uses before it has read the memory map.
    end: u64,
    /// The setup header: the bzImage's own, or one made up for an ELF.
    header: linux_loader::loader::bootparam::setup_header,
}

/// A regular file and its name for messages.
struct Opened {
    what: &'static str,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Payload {
    /// Opens the files. `command_line` is passed to the kernel as it is.
    ///
    /// # Errors
    /// A file does not exist, may not be read, or is a directory or a device.
    pub fn open(kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Result<Self, Error> {
        Ok(Self {
            kernel: Opened::open("kernel", kernel)?,
            initrd: initrd.map(|path| Opened::open("initrd", path)).transpose()?,
            command_line: command_line.to_owned(),
        })
    }

    /// Loads everything into zeroed guest memory and returns vcpu 0's registers. `rsdp` is the guest-physical address of the
    /// ACPI root pointer.
    ///
    /// # Errors
    /// The kernel is none, or something does not fit. Guest memory then holds parts of it.
    pub fn load(&mut self, memory: &GuestMemoryMmap, rsdp: u64) -> Result<Start, Error> {
        let loaded = match bzimage::load(&mut self.kernel, memory)? {
            Some(loaded) => loaded,
            None => match elf::load(&mut self.kernel, memory)? {
                Some(loaded) => loaded,
                None => return Err(Error::NotAKernel(self.kernel.path.clone())),
            },
        };
        let zero_page = zero_page::write(memory, &loaded, self.initrd.as_mut(), &self.command_line, rsdp)?;
        long_mode::start(memory, loaded.entry, zero_page).map_err(|_| Error::NoMemory)
    }
}

impl Opened {
    fn open(what: &'static str, path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::File { what, path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(fail(io::Error::from_raw_os_error(libc::EISDIR)));
        }
        if kind.is_char_device() || kind.is_fifo() || kind.is_socket() || kind.is_block_device() {
            return Err(fail(io::Error::other("not a regular file")));
        }
        Ok(Self { what, path: path.to_owned(), file, size: metadata.len() })
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::File { what: self.what, path: self.path.clone(), source }
    }

    fn unsupported(&self, why: impl Into<String>) -> Error {
        Error::Unsupported { path: self.path.clone(), why: why.into() }
    }

    /// Checks that a kernel which occupies `start..end` in guest memory has room there.
    fn check_room(&self, memory: &GuestMemoryMmap, start: u64, end: u64) -> Result<(), Error> {
        if start < HIGH_MEMORY {
            return Err(self.unsupported(format!("wants to be loaded at {start:#x}, below the first MiB's end")));
        }
        let has = low_ram_end(memory);
        if end > has {
            return Err(Error::KernelDoesNotFit { path: self.path.clone(), needs: end, has });
        }
        Ok(())
    }
}

/// Vm-memory's errors carry an operating-system error or mean that an address is outside RAM.
fn memory_error(error: vm_memory::GuestMemoryError) -> io::Error {
    match error {
        vm_memory::GuestMemoryError::IOError(source) => source,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;
    use std::io::Write;
    use vm_memory::{Bytes, GuestAddress};
    use vmm_sys_util::tempfile::TempFile;

    pub(super) fn file(contents: &[u8]) -> TempFile {
        let file = TempFile::new().unwrap();
        file.as_file().write_all(contents).unwrap();
        file
    }

    /// A bzImage with one setup sector, 64 bytes of kernel and the given header changes.
    pub(super) fn image(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut image = vec![0; 1024 + 64];
        image[0x1f1] = 1;
        image[0x1f4..0x1f8].copy_from_slice(&4u32.to_le_bytes());
        image[0x1fe..0x200].copy_from_slice(&0xaa55u16.to_le_bytes());
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        image[0x211] = 1;
        image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
        image[0x236..0x238].copy_from_slice(&1u16.to_le_bytes());
        image[0x238..0x23c].copy_from_slice(&255u32.to_le_bytes());
        image[0x258..0x260].copy_from_slice(&0x20_0000u64.to_le_bytes());
        image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
        image[1024..].fill(0x90);
        change(&mut image);
        image
    }

    fn load(kernel: &[u8], initrd: Option<&[u8]>, command_line: &str) -> Result<Start, Error> {
        let memory = allocate(8 << 20).unwrap();
        load_into(&memory, kernel, initrd, command_line)
    }

    fn load_into(
        memory: &GuestMemoryMmap,
        kernel: &[u8],
        initrd: Option<&[u8]>,
        command_line: &str,
    ) -> Result<Start, Error> {
        let kernel = file(kernel);
        let initrd = initrd.map(file);
        Payload::open(kernel.as_path(), initrd.as_ref().map(TempFile::as_path), command_line)?.load(memory, 0xE_0000)
    }

    #[test]
    fn a_bzimage_starts_at_its_64_bit_entry() {
        let memory = allocate(8 << 20).unwrap();
        let start = load_into(&memory, &image(|_| ()), None, "quiet").unwrap();
        assert_eq!(start.registers.rip, 0x20_0200);
        assert_eq!(start.registers.rsi, zero_page::ADDRESS);
        let first: u8 = memory.read_obj(GuestAddress(0x20_0000)).unwrap();
        assert_eq!(first, 0x90);
        let mut line = [0; 6];
        memory.read_slice(&mut line, GuestAddress(zero_page::COMMAND_LINE)).unwrap();
        assert_eq!(&line, b"quiet\0");
    }

    #[test]
    fn a_text_file_is_no_kernel() {
        let error = load(b"#!/bin/sh\nexit 0\n", None, "").err().unwrap();
        assert!(error.to_string().ends_with("not a Linux kernel: neither a bzImage nor an ELF vmlinux"), "{error}");
        assert!(matches!(load(&[0; 4096], None, "").err().unwrap(), Error::NotAKernel(_)));
        assert!(matches!(load(b"", None, "").err().unwrap(), Error::NotAKernel(_)));
    }

    #[test]
    fn a_truncated_bzimage_is_named_so() {
        let whole = image(|_| ());
        for length in [0x210, 0x264, 1000, 1024, whole.len() - 1] {
            let error = load(&whole[..length], None, "").err().unwrap();
            assert!(matches!(error, Error::Truncated { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn a_32_bit_bzimage_is_refused() {
        let kernel = image(|image| image[0x236] = 0);
        let error = load(&kernel, None, "").err().unwrap().to_string();
        assert!(error.contains("64-bit"), "{error}");
    }

    #[test]
    fn a_kernel_that_needs_more_ram_is_refused() {
        let kernel = image(|image| image[0x263] = 0x10);
        assert!(matches!(load(&kernel, None, "").err().unwrap(), Error::KernelDoesNotFit { .. }));
        let wild = image(|image| image[0x258..0x260].fill(0xff));
        assert!(load(&wild, None, "").is_err());
    }

    #[test]
    fn an_initrd_that_does_not_fit_is_refused() {
        let error = load(&image(|_| ()), Some(&vec![0; 6 << 20]), "").err().unwrap();
        assert!(matches!(error, Error::InitrdDoesNotFit { .. }), "{error}");
        assert!(load(&image(|_| ()), Some(&vec![0; 4 << 20]), "").is_ok());
    }

    #[test]
    fn an_initrd_lies_at_the_top_of_low_ram() {
        let memory = allocate(8 << 20).unwrap();
        load_into(&memory, &image(|_| ()), Some(b"cpio"), "").unwrap();
        let mut found = [0; 4];
        memory.read_slice(&mut found, GuestAddress((8 << 20) - 4096)).unwrap();
        assert_eq!(&found, b"cpio");
    }

    #[test]
    fn a_command_line_beyond_the_kernels_limit_is_refused() {
        assert!(load(&image(|_| ()), None, &"x".repeat(255)).is_ok());
        assert!(matches!(
            load(&image(|_| ()), None, &"x".repeat(256)).err().unwrap(),
            Error::CommandLineTooLong { has: 256, max: 255 }
        ));
    }

    #[test]
    fn a_missing_kernel_and_a_directory_are_named() {
        let open = |path: &str| Payload::open(Path::new(path), None, "").err().unwrap().to_string();
        assert_eq!(open("/no/such/file"), "kernel '/no/such/file': No such file or directory");
        assert_eq!(open("/"), "kernel '/': Is a directory");
        assert_eq!(open("/dev/null"), "kernel '/dev/null': not a regular file");
    }

    #[test]
    fn damaged_headers_never_panic() {
        let whole = image(|_| ());
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut damaged = whole.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let place = 0x1f1 + (state >> 33) as usize % 0x80;
                damaged[place] = (state >> 56) as u8;
            }
            let mut kernel = Opened {
                what: "kernel",
                path: PathBuf::new(),
                file: file(&[]).into_file(),
                size: damaged.len() as u64,
            };
            kernel.file.write_all(&damaged).unwrap();
            let memory = allocate(4 << 20).unwrap();
            let _ = bzimage::load(&mut kernel, &memory);
            if state & 0xff == 0 {
                let _ = elf::load(&mut kernel, &memory);
            }
        }
    }
}
