//! The virtual machine as the host kernel sees it: `/dev/kvm` (Documentation/virt/kvm/api.rst).
//!
//! Invariant: exactly one VM descriptor exists at a time. A machine reset closes it and makes a new one, which is the only way
//! to have every piece of in-kernel state (interrupt controllers, timer, clock, MSRs) back at power-on values for certain.
//! Doorbells go with it: devices remove theirs when they are reset and add them again when the guest maps them again.
//! Implements [`Hypervisor`]; `cpu.rs` makes vcpus from it; `machine.rs` owns it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_msi, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::hypervisor::{Hypervisor, NotifyAddress};
use crate::memory::VGA_HOLE;
use link::reason;

/// The only API version there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// Three pages for Intel's real-mode task segment and one for its identity map, below the BIOS area, where no RAM is.
const TSS_ADDRESS: usize = 0xFFFB_D000;
const IDENTITY_MAP_ADDRESS: u64 = 0xFFFB_C000;

/// What this machine cannot do without, with the names that api.rst uses.
const REQUIRED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// What can be wrong with `/dev/kvm`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such device.
    #[error("/dev/kvm: {}: is the kvm module loaded?", reason(.0))]
    Missing(io::Error),
    /// The user may not open it.
    #[error("/dev/kvm: {}: add yourself to group kvm", reason(.0))]
    Denied(io::Error),
    /// It cannot be opened for another reason.
    #[error("/dev/kvm: {}", reason(.0))]
    Open(io::Error),
    /// It is not KVM, or not one that we know.
    #[error("/dev/kvm: API version {0} instead of 12: not a usable KVM")]
    Version(i32),
    /// The host kernel is too old, or built without something.
    #[error("/dev/kvm: the host kernel lacks {0}")]
    Lacks(&'static str),
    /// More vcpus than the host supports.
    #[error("/dev/kvm: {wanted} virtual CPUs wanted, the host allows {max}")]
    TooManyCpus {
        /// As configured.
        wanted: u8,
        /// KVM_CAP_MAX_VCPUS.
        max: usize,
    },
    /// A request that should have worked did not.
    #[error("/dev/kvm: {act}: {}", reason(.source))]
    Request {
        /// What was asked for, in words.
        act: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// A virtual machine without vcpus: RAM, interrupt controllers and timer.
pub struct Vm {
    // Before `memory`, so that it is closed first.
    vm: RwLock<VmFd>,
    memory: GuestMemoryMmap,
    kvm: kvm_ioctls::Kvm,
}

impl Vm {
    /// Opens `/dev/kvm`, checks that it can run `cpus` vcpus, and makes a virtual machine with `memory`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(cpus: u8, memory: GuestMemoryMmap) -> Result<Self, Error> {
        let kvm = open()?;
        check(&kvm, cpus)?;
        let vm = RwLock::new(make(&kvm, &memory)?);
        Ok(Self { kvm, memory, vm })
    }

    /// Replaces the virtual machine by a new one. Every vcpu of the old one must have been dropped.
    ///
    /// # Errors
    /// The host kernel refused; the old machine is still there.
    pub fn renew(&self) -> Result<(), Error> {
        let fresh = make(&self.kvm, &self.memory)?;
        *self.vm.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Makes the vcpu whose KVM id, and thus local APIC id, is `id`.
    ///
    /// # Errors
    /// The host kernel refused.
    pub fn create_vcpu(&self, id: u8) -> Result<VcpuFd, Error> {
        self.vm().create_vcpu(u64::from(id)).map_err(request("create a virtual CPU"))
    }

    /// The CPUID leaves that the host CPU and KVM can give a guest.
    ///
    /// # Errors
    /// The host kernel refused.
    pub fn supported_cpuid(&self) -> Result<CpuId, Error> {
        self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(request("get the supported CPUID"))
    }

    /// Whether the local APIC's timer has TSC-deadline mode, which the supported CPUID does not tell.
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    fn vm(&self) -> RwLockReadGuard<'_, VmFd> {
        self.vm.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hypervisor for Vm {
    fn signal_msi(&self, address: u64, data: u32) -> io::Result<()> {
        let msi =
            kvm_msi { address_lo: address as u32, address_hi: (address >> 32) as u32, data, ..Default::default() };
        // The result tells whether an APIC took the interrupt. Nobody listening is the guest's affair.
        self.vm().signal_msi(msi)?;
        Ok(())
    }

    fn set_line(&self, gsi: u32, level: bool) -> io::Result<()> {
        Ok(self.vm().set_irq_line(gsi, level)?)
    }

    fn add_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()> {
        let doorbell = borrow_event(doorbell);
        Ok(self.vm().register_ioevent(&doorbell, &io_event(address), NoDatamatch)?)
    }

    fn remove_doorbell(&self, address: NotifyAddress, doorbell: BorrowedFd<'_>) -> io::Result<()> {
        let doorbell = borrow_event(doorbell);
        Ok(self.vm().unregister_ioevent(&doorbell, &io_event(address), NoDatamatch)?)
    }
}

/// Wraps a failed ioctl in the words of what was wanted.
pub(crate) fn request(act: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Request { act, source: error.into() }
}

fn open() -> Result<kvm_ioctls::Kvm, Error> {
    kvm_ioctls::Kvm::new().map_err(|error| {
        let error = io::Error::from(error);
        match error.kind() {
            io::ErrorKind::NotFound => Error::Missing(error),
            io::ErrorKind::PermissionDenied => Error::Denied(error),
            // The node is there (udev makes it statically) but no module serves it.
            _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => Error::Missing(error),
            _ => Error::Open(error),
        }
    })
}

fn check(kvm: &kvm_ioctls::Kvm, cpus: u8) -> Result<(), Error> {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(Error::Version(version));
    }
    for (capability, name) in REQUIRED {
        if !kvm.check_extension(capability) {
            return Err(Error::Lacks(name));
        }
    }
    let max = kvm.get_max_vcpus();
    if usize::from(cpus) > max {
        return Err(Error::TooManyCpus { wanted: cpus, max });
    }
    Ok(())
}

fn make(kvm: &kvm_ioctls::Kvm, memory: &GuestMemoryMmap) -> Result<VmFd, Error> {
    let vm = loop {
        match kvm.create_vm() {
            Ok(vm) => break vm,
            // The kernel lets a signal interrupt this one.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(request("create a virtual machine")(error)),
        }
    };
    vm.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(request("set the identity map address"))?;
    vm.set_tss_address(TSS_ADDRESS).map_err(request("set the task segment address"))?;
    vm.create_irq_chip().map_err(request("create the interrupt controllers"))?;
    vm.create_pit2(kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() })
        .map_err(request("create the interval timer"))?;
    for (slot, piece) in (0..).zip(slots(memory)) {
        let region = kvm_userspace_memory_region { slot, ..piece };
        // SAFETY: the piece lies within a mapping that `memory` keeps; whoever owns the VM owns `memory` too and drops the VM
        // first (field order in `Vm`) or, at a reset, keeps the memory.
        unsafe { vm.set_user_memory_region(region) }.map_err(request("give the guest its RAM"))?;
    }
    Ok(vm)
}

/// RAM as KVM is to see it: without the VGA hole.
fn slots(memory: &GuestMemoryMmap) -> Vec<kvm_userspace_memory_region> {
    let mut slots = Vec::new();
    for region in memory.iter() {
        let start = region.start_addr().raw_value();
        let end = start + region.len();
        let hole = VGA_HOLE.start.clamp(start, end)..VGA_HOLE.end.clamp(start, end);
        let pieces = [start..hole.start, hole.end..end];
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            slots.push(kvm_userspace_memory_region {
                slot: 0,
                flags: 0,
                guest_phys_addr: piece.start,
                memory_size: piece.end - piece.start,
                userspace_addr: region.as_ptr() as u64 + (piece.start - start),
            });
        }
    }
    slots
}

fn io_event(address: NotifyAddress) -> IoEventAddress {
    match address {
        NotifyAddress::Mmio(address) => IoEventAddress::Mmio(address),
        NotifyAddress::Pio(port) => IoEventAddress::Pio(u64::from(port)),
    }
}

/// An `EventFd` view of a descriptor that somebody else owns and closes.
fn borrow_event(descriptor: BorrowedFd<'_>) -> ManuallyDrop<EventFd> {
    // SAFETY: the descriptor is open for as long as the borrow, which outlives every use here; ManuallyDrop never closes it.
    ManuallyDrop::new(unsafe { EventFd::from_raw_fd(descriptor.as_raw_fd()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{HIGH_RAM_START, LOW_RAM_LIMIT, allocate};

    fn shape(memory: &GuestMemoryMmap) -> Vec<(u64, u64)> {
        slots(memory).iter().map(|slot| (slot.guest_phys_addr, slot.memory_size)).collect()
    }

    #[test]
    fn slots_leave_the_vga_hole_open() {
        let memory = allocate(LOW_RAM_LIMIT + 4096).unwrap();
        assert_eq!(shape(&memory), [(0, 0xA_0000), (0xC_0000, LOW_RAM_LIMIT - 0xC_0000), (HIGH_RAM_START, 4096)]);
    }

    #[test]
    fn slots_map_an_address_to_the_same_byte_as_memory_does() {
        let memory = allocate(4 << 20).unwrap();
        let host = memory.get_host_address(vm_memory::GuestAddress(0)).unwrap() as u64;
        for slot in slots(&memory) {
            assert_eq!(slot.userspace_addr - host, slot.guest_phys_addr);
        }
    }

    #[test]
    fn one_mib_of_ram_has_two_slots() {
        let memory = allocate(1 << 20).unwrap();
        assert_eq!(shape(&memory), [(0, 0xA_0000), (0xC_0000, 0x4_0000)]);
    }
}
