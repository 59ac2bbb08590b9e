//! A virtual CPU: what it is when it starts, and the loop that runs it.
//!
//! One thread owns one vcpu. A guest's port and memory accesses are dispatched to the buses on that thread; everything else
//! that makes KVM return is either nothing or a [`Fault`] that ends the machine with one line. A vcpu stops when
//! [`Control::stopping`]; [`kick`] gets it out of the guest for that: the signal handler sets `immediate_exit` in the vcpu's
//! own run page, so that a kick which arrives just before KVM_RUN is not lost (api.rst, KVM_CAP_IMMEDIATE_EXIT).
//!
//! Vcpu 0 starts at the kernel's 64-bit entry; the others wait for their INIT and SIPI inside KVM.

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::thread::JoinHandle;

use kvm_bindings::{
    CpuId, Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_run, kvm_run__bindgen_ty_1 as ExitData,
    kvm_sregs,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::bus::Buses;
use crate::control::{Control, Request};
use crate::cpuid::{self, Identity};
use crate::kvm::{self, Vm, request};
use link::reason;

const MSR_IA32_MISC_ENABLE: u32 = 0x1A0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2FF;
/// Local vector table entries for the LINT0 and LINT1 pins (SDM vol. 3A §11.5.1), and their delivery modes.
const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_EXTINT: u32 = 7 << 8;

/// Why a vcpu cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The guest's exception handling broke down.
    #[error("vcpu {cpu}: triple fault at rip {rip:#x}: the guest has crashed")]
    TripleFault {
        /// Number of the vcpu.
        cpu: u8,
        /// Its instruction pointer.
        rip: u64,
    },
    /// KVM gave up (api.rst, KVM_EXIT_INTERNAL_ERROR).
    #[error("vcpu {cpu}: KVM internal error {suberror} ({}) at rip {rip:#x}", suberror_name(*.suberror))]
    Internal {
        /// Number of the vcpu.
        cpu: u8,
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// Its instruction pointer.
        rip: u64,
    },
    /// The processor refused to enter the guest.
    #[error("vcpu {cpu}: the processor refuses to enter the guest, hardware reason {reason:#x}")]
    Entry {
        /// Number of the vcpu.
        cpu: u8,
        /// As the hardware gave it.
        reason: u64,
    },
    /// KVM returned for a reason that this machine never asked for.
    #[error("vcpu {cpu}: unexpected exit {exit} at rip {rip:#x}")]
    Unexpected {
        /// Number of the vcpu.
        cpu: u8,
        /// KVM's exit reason in words.
        exit: String,
        /// Its instruction pointer.
        rip: u64,
    },
    /// A device model broke its promise never to.
    #[error("vcpu {cpu}: internal error: its thread has panicked")]
    Panic {
        /// Number of the vcpu.
        cpu: u8,
    },
    /// KVM_RUN failed.
    #[error("vcpu {cpu}: KVM_RUN: {}", reason(.source))]
    Run {
        /// Number of the vcpu.
        cpu: u8,
        /// The host's answer.
        source: io::Error,
    },
}

/// The registers with which the guest's kernel is entered.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// General registers.
    pub registers: kvm_regs,
    /// Turns the power-on segments and control registers into those of the entry.
    pub configure: fn(&mut kvm_sregs),
}

/// A vcpu that is not running. Dropping it gives it back to the host, not to the virtual machine.
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
}

impl Vcpu {
    /// Makes vcpu `id` of `cpus`; with a `start` it runs there, without it waits for a SIPI.
    ///
    /// # Errors
    /// The host kernel refused something.
    pub fn new(vm: &Vm, supported: &CpuId, id: u8, cpus: u8, start: Option<&Start>) -> Result<Self, kvm::Error> {
        let fd = vm.create_vcpu(id)?;
        let identity = Identity { apic_id: id, cpus, tsc_deadline: vm.has_tsc_deadline() };
        let entries = cpuid::for_vcpu(supported.as_slice(), identity);
        let leaves = CpuId::from_entries(&entries).map_err(|_| kvm::Error::Request {
            act: "build the CPUID of a virtual CPU",
            source: io::Error::from_raw_os_error(libc::E2BIG),
        })?;
        fd.set_cpuid2(&leaves).map_err(request("set the CPUID of a virtual CPU"))?;
        set_msrs(&fd)?;
        set_lint(&fd)?;
        if let Some(start) = start {
            set_start(&fd, start)?;
        }
        Ok(Self { id, fd })
    }

    /// Runs the guest until the machine is stopping; asks for that itself when it cannot go on.
    pub fn run(mut self, buses: &Buses, control: &Control) {
        let _kickable = Kickable::new(&mut self.fd);
        let _watch = Watch { cpu: self.id, control };
        while !control.stopping() {
            if let Some(request) = self.step(buses) {
                control.ask(request);
            }
        }
    }

    /// One stay in the guest.
    fn step(&mut self, buses: &Buses) -> Option<Request> {
        let page: *const kvm_run = self.fd.get_kvm_run();
        let id = self.id;
        match self.fd.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                for item in data.chunks(access_width(page)) {
                    buses.ports.write(u64::from(port), item);
                }
                None
            }
            Ok(VcpuExit::IoIn(port, data)) => {
                for item in data.chunks_mut(access_width(page)) {
                    buses.ports.read(u64::from(port), item);
                }
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.memory.read(address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                buses.memory.write(address, data);
                None
            }
            Ok(VcpuExit::Intr | VcpuExit::IrqWindowOpen | VcpuExit::Hlt) => None,
            Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Some(Request::Shutdown),
            Ok(VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _)) => Some(Request::Reset),
            Ok(VcpuExit::Shutdown) => Some(Request::Fault(Fault::TripleFault { cpu: id, rip: self.rip() })),
            Ok(VcpuExit::InternalError) => {
                Some(Request::Fault(Fault::Internal { cpu: id, suberror: internal_suberror(page), rip: self.rip() }))
            }
            Ok(VcpuExit::FailEntry(reason, _)) => Some(Request::Fault(Fault::Entry { cpu: id, reason })),
            Ok(exit) => {
                let exit = format!("{exit:?}");
                Some(Request::Fault(Fault::Unexpected { cpu: id, exit, rip: self.rip() }))
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                // Cleared before the caller looks at the stop button: a kick after that sets it again.
                self.fd.set_kvm_immediate_exit(0);
                None
            }
            Err(error) => Some(Request::Fault(Fault::Run { cpu: id, source: error.into() })),
        }
    }

    fn rip(&self) -> u64 {
        self.fd.get_regs().map_or(0, |registers| registers.rip)
    }
}

/// Prepares this process for [`kick`]. Once per process is enough; more do no harm.
///
/// # Errors
/// The signal cannot be handled.
pub fn install_kick_handler() -> io::Result<()> {
    Ok(register_signal_handler(kick_signal(), on_kick)?)
}

/// Gets the thread's vcpu out of the guest. The thread must not have been joined; that it has ended is fine.
pub fn kick(thread: &JoinHandle<()>) {
    // SAFETY: the handle has not been joined, so its pthread_t is valid even when the thread has ended.
    let result = unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
    // ESRCH: it has ended, which is what was wanted.
    debug_assert!(result == 0 || result == libc::ESRCH);
}

fn kick_signal() -> libc::c_int {
    SIGRTMIN() + 1
}

thread_local! {
    /// The run page of the vcpu that this thread runs. Constant and without a destructor: a signal handler may read it.
    static RUN_PAGE: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// While this exists, kicks of this thread reach the vcpu.
struct Kickable;

impl Kickable {
    fn new(fd: &mut VcpuFd) -> Self {
        let page: *mut kvm_run = fd.get_kvm_run();
        RUN_PAGE.set(page);
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        RUN_PAGE.set(ptr::null_mut());
    }
}

/// Ends the machine when a vcpu's thread unwinds, so that nobody waits for it for ever.
struct Watch<'a> {
    cpu: u8,
    control: &'a Control,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.control.ask(Request::Fault(Fault::Panic { cpu: self.cpu }));
        }
    }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let page = RUN_PAGE.get();
    if !page.is_null() {
        set_immediate_exit(page);
    }
}

fn set_immediate_exit(page: *mut kvm_run) {
    // SAFETY: the page is mapped while RUN_PAGE is set (Kickable lives inside Vcpu::run, which owns the vcpu).
    let field = unsafe { &raw mut (*page).immediate_exit };
    // SAFETY: as above; the field is a byte that the kernel reads at KVM_RUN, and only this thread writes it.
    unsafe { field.write_volatile(1) };
}

/// The width in bytes of the port access that KVM just returned for. Never zero.
fn access_width(page: *const kvm_run) -> usize {
    let exit = exit_data(page);
    // SAFETY: after KVM_EXIT_IO `io` is the union's live member; it is integers, so even a stale one is only a wrong number.
    let size = unsafe { exit.io.size };
    usize::from(size.max(1))
}

fn internal_suberror(page: *const kvm_run) -> u32 {
    let exit = exit_data(page);
    // SAFETY: as in access_width, after KVM_EXIT_INTERNAL_ERROR, with `internal` as the live member.
    unsafe { exit.internal.suberror }
}

/// A copy of what KVM says about the last exit.
fn exit_data(page: *const kvm_run) -> ExitData {
    // SAFETY: the page stays mapped as long as the vcpu, whose owner calls this, and is not written while it is not running.
    unsafe { (*page).__bindgen_anon_1 }
}

/// The names of api.rst, "KVM_EXIT_INTERNAL_ERROR".
fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        kvm_bindings::KVM_INTERNAL_ERROR_EMULATION => "emulation failure",
        kvm_bindings::KVM_INTERNAL_ERROR_SIMUL_EX => "simultaneous exceptions",
        kvm_bindings::KVM_INTERNAL_ERROR_DELIVERY_EV => "event delivery",
        kvm_bindings::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => "unexpected exit reason",
        _ => "unknown",
    }
}

/// What firmware leaves behind: fast strings on, and write-back as the default memory type, without which Linux believes that
/// the MTRRs are broken and does without PAT.
fn set_msrs(fd: &VcpuFd) -> Result<(), kvm::Error> {
    const FAST_STRINGS: u64 = 1;
    const MTRR_ENABLE: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    let act = "set the MSRs of a virtual CPU";
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE | WRITE_BACK), entry(MSR_IA32_MISC_ENABLE, FAST_STRINGS)];
    let msrs = Msrs::from_entries(&entries)
        .map_err(|_| kvm::Error::Request { act, source: io::Error::from_raw_os_error(libc::E2BIG) })?;
    // KVM stops at the first one that it does not have and says how many it took; neither is vital.
    fd.set_msrs(&msrs).map_err(request(act))?;
    Ok(())
}

/// LINT0 carries the 8259's interrupts, LINT1 the NMI (Intel MP specification 1.4 §3.6.2.2, "virtual wire").
fn set_lint(fd: &VcpuFd) -> Result<(), kvm::Error> {
    let mut state = fd.get_lapic().map_err(request("get the local APIC of a virtual CPU"))?;
    set_apic_register(&mut state, APIC_LVT_LINT0, DELIVER_EXTINT);
    set_apic_register(&mut state, APIC_LVT_LINT1, DELIVER_NMI);
    fd.set_lapic(&state).map_err(request("set the local APIC of a virtual CPU"))
}

fn set_apic_register(state: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (place, byte) in state.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *place = byte as _;
    }
}

fn set_start(fd: &VcpuFd, start: &Start) -> Result<(), kvm::Error> {
    let mut special = fd.get_sregs().map_err(request("get the registers of a virtual CPU"))?;
    (start.configure)(&mut special);
    let act = "set the registers of a virtual CPU";
    fd.set_sregs(&special).map_err(request(act))?;
    fd.set_regs(&start.registers).map_err(request(act))?;
    // As FNINIT and a power-on MXCSR have it (SDM vol. 3A table 9-1).
    let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    fd.set_fpu(&fpu).map_err(request(act))
}
