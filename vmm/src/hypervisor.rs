//! What a device model needs of the hypervisor, as a trait.
//!
//! The KVM machine implements it in `kvm.rs`; the fake guests of the tests implement it in memory. Device models never
//! see a KVM file descriptor, so every one of them can be driven without a virtual machine.

use std::io;
use std::os::fd::BorrowedFd;

/// A guest store that is to wake an event descriptor instead of leaving the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAddress {
    /// A store of any width and value to this guest-physical address.
    Mmio(u64),
    /// An `out` of any width and value to this port.
    Pio(u16),
}

/// Interrupt injection and doorbells. Every method may be called from any thread.
pub trait Hypervisor: Send + Sync {
    /// Delivers one message-signalled interrupt: the 64-bit address and 32-bit data of an MSI-X table entry
    /// (PCI 3.0 §6.8.2).
    fn signal_msi(&self, address: u64, data: u32) -> io::Result<()>;

    /// Sets the level of an interrupt line, numbered as a global system interrupt (ACPI 6.4 §5.2.13). Devices that share
    /// a line go through [`crate::pci::IntxLines`], which ORs their levels before calling this.
    fn set_line(&self, gsi: u32, level: bool) -> io::Result<()>;

    /// Makes guest stores to `address` signal `doorbell` (an eventfd) without leaving the kernel.
    fn add_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()>;

    /// Undoes [`Hypervisor::add_doorbell`] with the same arguments.
    fn remove_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()>;
}
