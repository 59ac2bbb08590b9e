//! The machine: puts memory, vcpus, buses and boot together, runs them, and takes them apart again.
//!
//! Life of a machine:
//!
//! ```text
//! new ──► run ─┬─► running ──► stopped ─┬─► end            every vcpu joined, output written, terminal put back
//!              └──────── reset ◄────────┘                  guest reboot without `no_reboot`
//! ```
//!
//! `new` finds every error that can be found without running the guest (files, memory, /dev/kvm). Devices are attached between
//! `new` and `run`. While running, each vcpu has a thread and the caller's thread has the event loop: one match lists all that
//! can wake it. A reset makes a new virtual machine in the kernel, zeroes RAM, resets every device on the buses and loads the
//! kernel again.
//!
//! Invariant: between "stopped" and the next "running" no vcpu thread exists, so devices and memory are nobody else's.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use vm_memory::GuestMemoryMmap;

use crate::acpi;
use crate::boot::{self, Payload};
use crate::bus::{BusDevice, Buses, Overlap};
use crate::config::Config;
use crate::control::{Control, Request};
use crate::cpu::{self, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::kvm::{self, Vm};
use crate::legacy::i8042::{self, I8042};
use crate::legacy::pm::{self, PowerManagement};
use crate::legacy::rtc::{self, Rtc};
use crate::legacy::serial::{self, Serial};
use crate::memory;
use crate::pci;
use crate::terminal::{Escape, HELP, Input, Key, Output, Raw};
use link::reason;
use program::signals::Signals;

const WAKE: Token = Token(0);
const SIGNAL: Token = Token(1);
const STDIN: Token = Token(2);

/// Typed bytes that the guest has not taken yet; beyond this, standard input is left to fill up.
const TYPED_AHEAD: usize = 64 * 1024;

/// Why a machine could not be made or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// See [`kvm::Error`].
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// See [`memory::Error`].
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// See [`boot::Error`].
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// A vcpu cannot go on: the guest or KVM has failed.
    #[error(transparent)]
    Guest(#[from] cpu::Fault),
    /// Two devices at one address.
    #[error(transparent)]
    Bus(#[from] Overlap),
    /// The host lacks something ordinary.
    #[error("machine: {act}: {}", reason(.source))]
    Host {
        /// What was wanted, in words.
        act: &'static str,
        /// The host's answer.
        source: io::Error,
    },
}

/// Why a machine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The guest powered itself off.
    Shutdown,
    /// The guest reset itself and [`Config::no_reboot`] was set.
    Reset,
    /// The operator typed Ctrl-A x.
    Quit,
    /// This signal asked for it.
    Signal(i32),
}

/// A virtual machine, not yet or no longer running.
pub struct Machine {
    config: Config,
    buses: Buses,
    hypervisor: Arc<Vm>,
    memory: GuestMemoryMmap,
    payload: Payload,
    /// Vcpu 0's registers, when the kernel is loaded and has not run yet.
    start: Option<cpu::Start>,
    serial: Arc<Serial>,
    clock: Arc<Rtc>,
    output: Arc<Output>,
    control: Arc<Control>,
    poll: Poll,
    stops: Vec<Box<dyn FnOnce() + Send>>,
    // Last: the mask is given back when everything else has ended.
    signals: Signals,
}

impl Machine {
    /// Makes a machine with RAM, legacy devices and a loaded kernel. From here on the signals that end a process are blocked
    /// and waited for, so make it before other threads, and after forking.
    ///
    /// # Errors
    /// Anything that can be wrong with the files, the memory or `/dev/kvm`.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let mut payload = Payload::open(&config.kernel, config.initrd.as_deref(), &config.command_line)?;
        let memory = memory::allocate(config.memory)?;
        let start = load(&mut payload, &memory, config.cpus)?;
        let hypervisor = Arc::new(Vm::new(config.cpus, memory.clone())?);
        let signals = Signals::block().map_err(host("block signals"))?;
        cpu::install_kick_handler().map_err(host("handle a signal"))?;
        let poll = Poll::new().map_err(host("make an event loop"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(host("make an event loop"))?;
        let control = Arc::new(Control::new(waker));
        let output = Arc::new(if config.serial_stdio {
            Output::stdout().map_err(host("write to standard output"))?
        } else {
            Output::discard()
        });
        let serial = Arc::new(Serial::new(hypervisor.clone(), output.clone(), control.clone()));
        let high = memory::high_ram(&memory);
        let clock = Arc::new(Rtc::new(
            memory::low_ram_end(&memory),
            high.end - high.start,
            hypervisor.clone(),
            control.clone(),
        ));
        let mut machine = Self {
            config: config.clone(),
            buses: Buses::default(),
            hypervisor,
            memory,
            payload,
            start: Some(start),
            serial,
            clock,
            output,
            control,
            poll,
            stops: Vec::new(),
            signals,
        };
        machine.attach_legacy()?;
        Ok(machine)
    }

    /// Guest memory, for devices that transfer data themselves. Cloning it is cheap.
    pub fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// Interrupts and doorbells, for devices.
    pub fn hypervisor(&self) -> Arc<dyn Hypervisor> {
        self.hypervisor.clone()
    }

    /// Gives I/O ports to a device.
    ///
    /// # Errors
    /// They are taken.
    pub fn attach_ports(&mut self, ports: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), Error> {
        Ok(self.buses.ports.attach(ports, device)?)
    }

    /// Gives guest-physical addresses to a device.
    ///
    /// # Errors
    /// They are taken.
    pub fn attach_memory(&mut self, addresses: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), Error> {
        Ok(self.buses.memory.attach(addresses, device)?)
    }

    /// Gives the PCI root its configuration ports and the windows of its BARs.
    ///
    /// # Errors
    /// They are taken: there is a root already.
    pub fn attach_pci(&mut self, root: &Arc<pci::Root>) -> Result<(), Error> {
        let ports = Arc::new(pci::Ports(root.clone()));
        let reset = u64::from(pm::RESET);
        for range in [0xCF8..reset, reset + 1..0xD00, pci::PORT_WINDOW] {
            self.attach_ports(range, ports.clone())?;
        }
        self.attach_memory(pci::MEMORY_WINDOW, Arc::new(pci::Memory(root.clone())))
    }

    /// Has `stop` called when the machine has ended for good and no vcpu runs any more, however it ended. In the order given.
    pub fn on_stop(&mut self, stop: impl FnOnce() + Send + 'static) {
        self.stops.push(Box::new(stop));
    }

    /// Runs the guest until it powers off, or resets with [`Config::no_reboot`], or the operator or a signal ends it. All
    /// vcpus have stopped, all output is written and the terminal is put back when this returns.
    ///
    /// # Errors
    /// The guest has crashed, or a reset failed.
    pub fn run(mut self) -> Result<ExitReason, Error> {
        let buses = Arc::new(std::mem::take(&mut self.buses));
        let result = self.run_until_end(&buses);
        for stop in self.stops.drain(..) {
            stop();
        }
        self.output.close();
        result
    }

    fn run_until_end(&mut self, buses: &Arc<Buses>) -> Result<ExitReason, Error> {
        let mut console = Console::open(self)?;
        loop {
            let vcpus = self.start_vcpus(buses)?;
            let waited = self.wait(&mut console);
            // Also when waiting failed: nobody may be left running.
            self.control.ask(Request::Quit);
            join(vcpus);
            match waited? {
                Request::Shutdown => return Ok(ExitReason::Shutdown),
                Request::Quit => return Ok(ExitReason::Quit),
                Request::Signal(signal) => return Ok(ExitReason::Signal(signal)),
                Request::Fault(fault) => return Err(fault.into()),
                Request::Reset if self.config.no_reboot => return Ok(ExitReason::Reset),
                Request::Reset => self.reset(buses)?,
            }
        }
    }

    /// The event loop: waits until somebody asks the machine to stop.
    fn wait(&mut self, console: &mut Console) -> Result<Request, Error> {
        let mut events = Events::with_capacity(8);
        loop {
            if let Some(request) = self.control.take() {
                return Ok(request);
            }
            if let Err(error) = self.poll.poll(&mut events, self.clock.sleep())
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(host("wait for events")(error));
            }
            self.clock.tick();
            for event in &events {
                match event.token() {
                    SIGNAL => self.take_signals(console),
                    STDIN => console.take_input(self),
                    // A request, a new alarm, or the guest has taken what was typed ahead.
                    WAKE => console.feed(self),
                    other => log::error!("machine: event for nobody: {other:?}"),
                }
            }
        }
    }

    fn take_signals(&mut self, console: &mut Console) {
        while let Some(signal) = self.signals.take() {
            if signal == libc::SIGCONT {
                console.continued();
            } else {
                log::info!("machine: ended by signal {signal}");
                self.control.ask(Request::Signal(signal));
            }
        }
    }

    fn start_vcpus(&mut self, buses: &Arc<Buses>) -> Result<Vec<JoinHandle<()>>, Error> {
        let start = match self.start.take() {
            Some(start) => start,
            None => load(&mut self.payload, &self.memory, self.config.cpus)?,
        };
        let supported = self.hypervisor.supported_cpuid()?;
        let cpus = self.config.cpus;
        // All of them before any runs: the guest must find what the tables announce.
        let vcpus: Vec<Vcpu> = (0..cpus)
            .map(|id| {
                let start = (id == 0).then_some(&start);
                Vcpu::new(&self.hypervisor, &supported, id, cpus, start)
            })
            .collect::<Result<_, _>>()?;
        let mut threads = Vec::with_capacity(vcpus.len());
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let (buses, control) = (buses.clone(), self.control.clone());
            let spawned = thread::Builder::new().name(format!("vcpu {id}")).spawn(move || vcpu.run(&buses, &control));
            match spawned {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    self.control.ask(Request::Quit);
                    join(threads);
                    return Err(host("start a vcpu thread")(source));
                }
            }
        }
        Ok(threads)
    }

    fn reset(&mut self, buses: &Buses) -> Result<(), Error> {
        log::info!("machine: reset by the guest");
        buses.ports.reset();
        buses.memory.reset();
        self.hypervisor.renew()?;
        memory::wipe(&self.memory).map_err(host("clear guest RAM"))?;
        self.control.rearm();
        Ok(())
    }

    fn attach_legacy(&mut self) -> Result<(), Error> {
        let control = &self.control;
        let i8042 = Arc::new(I8042::new(control.clone()));
        let power = Arc::new(PowerManagement::new(control.clone()));
        let ports = &mut self.buses.ports;
        for range in i8042::PORTS {
            ports.attach(range, i8042.clone())?;
        }
        ports.attach(rtc::PORTS, self.clock.clone())?;
        ports.attach(serial::PORTS, self.serial.clone())?;
        ports.attach(pm::PORTS, power.clone())?;
        let reset = u64::from(pm::RESET);
        ports.attach(reset..reset + 1, power)?;
        Ok(())
    }
}

/// What the operator types, on its way to the guest.
struct Console {
    raw: Option<Raw>,
    /// `None` at the end of the input, or when there was none.
    input: Option<Input>,
    /// The event loop tells when `input` has something. Regular files and /dev/null always have.
    pollable: bool,
    /// Nothing is read until the guest has taken some of `typed`.
    paused: bool,
    escape: Escape,
    typed: VecDeque<u8>,
}

impl Console {
    fn open(machine: &Machine) -> Result<Self, Error> {
        let mut console = Self {
            raw: None,
            input: None,
            pollable: false,
            paused: true,
            escape: Escape::default(),
            typed: VecDeque::new(),
        };
        let registry = machine.poll.registry();
        registry
            .register(&mut SourceFd(&machine.signals.as_raw_fd()), SIGNAL, Interest::READABLE)
            .map_err(host("wait for signals"))?;
        if machine.config.serial_stdio {
            console.raw = Some(Raw::enter().map_err(host("make the terminal raw"))?);
            let input = Input::stdin().map_err(host("read standard input"))?;
            let registered = registry.register(&mut SourceFd(&input.as_raw_fd()), STDIN, Interest::READABLE);
            console.pollable = match registered {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
                Err(error) => return Err(host("wait for standard input")(error)),
            };
            console.input = Some(input);
            console.paused = false;
            if !console.pollable {
                console.take_input(machine);
            }
        }
        Ok(console)
    }

    /// Standard input has something, or its end.
    fn take_input(&mut self, machine: &Machine) {
        let mut bytes = [0; 4096];
        while let Some(input) = &mut self.input {
            match input.read(&mut bytes) {
                Ok(0) => self.end_input(machine),
                Ok(length) => self.type_keys(machine, &bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::warn!("serial: standard input: {error}");
                    self.end_input(machine);
                }
            }
            self.send(machine);
            self.paused = self.typed.len() >= TYPED_AHEAD;
            if self.pollable || self.paused {
                break;
            }
        }
        if !self.paused {
            self.rearm(machine);
        }
    }

    /// Gives the guest what it has room for, and reads on when that has made room here.
    fn feed(&mut self, machine: &Machine) {
        self.send(machine);
        if self.paused && self.typed.len() < TYPED_AHEAD && self.input.is_some() {
            self.paused = false;
            if self.pollable {
                self.rearm(machine);
            } else {
                self.take_input(machine);
            }
        }
    }

    /// The process was stopped and goes on.
    fn continued(&self) {
        if let Some(raw) = &self.raw {
            raw.reapply();
        }
    }

    fn type_keys(&mut self, machine: &Machine, bytes: &[u8]) {
        for byte in bytes {
            match self.escape.key(*byte) {
                Key::Byte(byte) => self.typed.push_back(byte),
                Key::Quit => machine.control.ask(Request::Quit),
                Key::Help => machine.output.push(HELP),
                Key::Nothing => {}
            }
        }
    }

    fn send(&mut self, machine: &Machine) {
        if !self.typed.is_empty() {
            let taken = machine.serial.feed(self.typed.make_contiguous());
            self.typed.drain(..taken);
        }
    }

    /// Has the event loop report standard input again if there is more: it reports changes, and only once.
    fn rearm(&mut self, machine: &Machine) {
        if let (Some(input), true) = (&self.input, self.pollable) {
            let again =
                machine.poll.registry().reregister(&mut SourceFd(&input.as_raw_fd()), STDIN, Interest::READABLE);
            if let Err(error) = again {
                log::error!("serial: cannot wait for standard input: {error}");
            }
        }
    }

    fn end_input(&mut self, machine: &Machine) {
        if let (Some(input), true) = (self.input.take(), self.pollable) {
            // Closing it would do as well, were it not a duplicate of a descriptor that stays open.
            let _ = machine.poll.registry().deregister(&mut SourceFd(&input.as_raw_fd()));
        }
    }
}

fn load(payload: &mut Payload, memory: &GuestMemoryMmap, cpus: u8) -> Result<cpu::Start, Error> {
    let rsdp = acpi::write(memory, cpus).map_err(|_| boot::Error::NoMemory)?;
    Ok(payload.load(memory, rsdp)?)
}

/// Ends the threads of vcpus that have been asked to stop.
fn join(threads: Vec<JoinHandle<()>>) {
    for thread in &threads {
        cpu::kick(thread);
    }
    for thread in threads {
        // One that has panicked has asked for the end itself, and the panic has been printed.
        let _ = thread.join();
    }
}

fn host(act: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Host { act, source }
}

#[cfg(test)]
#[path = "machine_test.rs"]
mod tests;
