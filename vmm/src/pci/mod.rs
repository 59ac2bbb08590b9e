//! PCI as the guest sees it: one bus of 32 slots behind configuration mechanism #1 (PCI 3.0 §3.2.2.3.2).
//!
//! A device model implements [`PciDevice`] and owns a [`ConfigSpace`]; the [`Root`] owns the slots, assigns BARs as firmware
//! would (a kernel booted directly has none) and decodes accesses to them wherever the guest has put them since.
//! Invariant: every method of a device may be called on several vcpu threads at once, and the root holds no lock of its own
//! while a device answers a BAR access. A device locks itself, for as short as it can.
//!
//! | file | what it holds |
//! |---|---|
//! | `config` | a type-0 configuration space: BARs, command register, capabilities |
//! | `msix` | message-signalled interrupts: table and pending bits |
//! | `intx` | interrupt lines that several devices share |
//! | `root` | host bridge, slots, decoding |

mod config;
mod intx;
mod msix;
mod root;

pub use config::{BarKind, BarRange, COMMAND, ConfigSpace, Decoded, Identity, STATUS, Space, command};
pub use intx::{GSI_BASE, IntxLines, IntxPin, gsi};
pub use msix::{MSIX_CAPABILITY, Msix, capability_body};
pub use root::{MEMORY_WINDOW, Memory, PORT_WINDOW, Place, Ports, Root, SLOTS};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A device of PCI that cannot be put together or attached.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Every slot has a device.
    #[error("pci: no free slot: all {SLOTS} are taken")]
    Full,
    /// The slot wanted has a device.
    #[error("pci: slot {0} is taken")]
    Taken(u8),
    /// There is no such slot.
    #[error("pci: there is no slot {0}: slots are 0 to {max}", max = SLOTS - 1)]
    NoSuchSlot(u8),
    /// A BAR does not fit what is left of its window.
    #[error("pci: slot {slot}: no room for BAR {bar} of {size:#x} bytes")]
    NoRoom {
        /// The device's slot.
        slot: u8,
        /// The BAR's number.
        bar: usize,
        /// Its size in bytes.
        size: u64,
    },
}

/// One single-function device. Methods are called on vcpu threads, possibly on several at once.
pub trait PciDevice: Send + Sync {
    /// What messages about it begin with: `nic net0`.
    fn name(&self) -> &str;

    /// Where its configuration space is. The root locks it to assign and to decode BARs.
    fn config(&self) -> &Mutex<ConfigSpace>;

    /// The guest loads 1, 2 or 4 bytes of configuration space, within one aligned dword.
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        lock(self.config()).read(offset, data);
    }

    /// The guest stores 1, 2 or 4 bytes, likewise. A device overrides it to follow changes of its own registers; BARs and
    /// the decoding bits of the command register are the root's business.
    fn config_write(&self, offset: u8, data: &[u8]) {
        lock(self.config()).write(offset, data);
    }

    /// BARs have moved, or have been enabled or disabled. Called after the change; no other such call is under way.
    fn decoding_changed(&self, _decoded: &Decoded) {}

    /// The guest loads 1, 2, 4 or 8 bytes at `offset` of BAR `bar`, all within it.
    fn bar_read(&self, bar: usize, offset: u64, data: &mut [u8]);

    /// The guest stores 1, 2, 4 or 8 bytes at `offset` of BAR `bar`, all within it.
    fn bar_write(&self, bar: usize, offset: u64, data: &[u8]);

    /// The machine is reset: everything returns to its state at power-on, BARs to where they were assigned. On return
    /// the device touches guest memory no more.
    fn reset(&self);
}

/// Locks a mutex whose data stays consistent even if a thread died while it held it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
