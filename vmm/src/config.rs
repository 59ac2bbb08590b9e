//! A machine's configuration, validated: plain data that the command line produces and the machine consumes.
//!
//! Nothing here opens, allocates or reads; a `Config` that exists has values in range.

use std::path::PathBuf;

/// Everything that was asked for, before anything is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// Guest RAM in bytes: a multiple of 4 KiB, at least 1 MiB.
    pub memory: u64,
    /// Number of virtual CPUs, 1 to 254.
    pub cpus: u8,
    /// A bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// The initial RAM disk, if any.
    pub initrd: Option<PathBuf>,
    /// The kernel command line, without a terminating NUL.
    pub command_line: String,
    /// Exit instead of resetting when the guest reboots.
    pub no_reboot: bool,
    /// The guest's name, which messages begin with.
    pub name: Option<String>,
    /// Connect the first serial port to standard input and output.
    pub serial_stdio: bool,
}
