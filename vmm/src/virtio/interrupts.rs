//! What a virtio device tells its driver unasked: used buffers, configuration changes, that it needs a reset.
//!
//! Shared between the transport, on vcpu threads, and whoever works the rings. With MSI-X each event has a vector
//! (virtio 1.2 §4.1.5.1.2); without, it sets a bit of the ISR status and the pin stays asserted until that is read
//! (§4.1.4.5). Invariant: the pin is asserted exactly if the ISR status is not 0, MSI-X is off and the command register
//! does not disable it; all three change under one lock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use crate::hypervisor::Hypervisor;
use crate::pci::{IntxPin, Msix, lock};

/// "No vector" in `config_msix_vector` and `queue_msix_vector` (§4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The device's voice.
pub struct Interrupts {
    name: String,
    msix: Msix,
    pin: Mutex<Pin>,
    config_vector: AtomicU16,
    queue_vectors: Box<[AtomicU16]>,
    generation: AtomicU8,
    needs_reset: AtomicBool,
    complained: AtomicBool,
    driver_ok: AtomicBool,
    bus_master: AtomicBool,
}

struct Pin {
    pin: IntxPin,
    isr: u8,
    disabled: bool,
}

impl Interrupts {
    /// For a device that messages call `name`, with this many queues, at this pin.
    #[must_use]
    pub fn new(name: &str, hypervisor: Arc<dyn Hypervisor>, pin: IntxPin, queues: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            msix: Msix::new(hypervisor, queues as u16 + 1),
            pin: Mutex::new(Pin { pin, isr: 0, disabled: false }),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
            complained: AtomicBool::new(false),
            driver_ok: AtomicBool::new(false),
            bus_master: AtomicBool::new(false),
        })
    }

    /// What messages about the device begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells the driver that buffers of `queue` were used.
    pub fn queue(&self, queue: usize) {
        if let Some(vector) = self.queue_vectors.get(queue) {
            self.raise(vector.load(Ordering::Acquire), ISR_QUEUE);
        }
    }

    /// Tells the driver, if it is ready, that the device configuration has changed (§4.1.5.4).
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise_config();
    }

    /// Sets DEVICE_NEEDS_RESET and tells the driver (§2.1.2). The log hears of it once in the device's life: a driver
    /// could go on doing it.
    pub fn need_reset(&self, reason: &dyn fmt::Display) {
        let level = if self.complained.swap(true, Ordering::Relaxed) { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "{}: {reason}: the device needs a reset", self.name);
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.raise_config();
        }
    }

    /// Whether the device may read and write guest memory: the command register's Bus Master bit (PCI 3.0 §6.2.2).
    #[must_use]
    pub fn bus_master(&self) -> bool {
        self.bus_master.load(Ordering::Acquire)
    }

    pub(super) fn set_bus_master(&self, master: bool) {
        self.bus_master.store(master, Ordering::Release);
    }

    pub(super) fn msix(&self) -> &Msix {
        &self.msix
    }

    pub(super) fn set_driver_ok(&self, ok: bool) {
        self.driver_ok.store(ok, Ordering::Release);
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    pub(super) fn queue_vector(&self, queue: usize) -> u16 {
        self.queue_vectors.get(queue).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// A vector that does not exist cannot be set: the driver reads "none" back (§4.1.5.1.2.2).
    pub(super) fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.existing(vector), Ordering::Release);
    }

    pub(super) fn set_queue_vector(&self, queue: usize, vector: u16) {
        if let Some(target) = self.queue_vectors.get(queue) {
            target.store(self.existing(vector), Ordering::Release);
        }
    }

    /// The guest reads the ISR status, which clears it (§4.1.4.5).
    pub(super) fn take_isr(&self) -> u8 {
        let mut pin = lock(&self.pin);
        let isr = std::mem::take(&mut pin.isr);
        pin.pin.set(false);
        isr
    }

    /// The Interrupt Status bit of the PCI status register (PCI 3.0 §6.2.3).
    pub(super) fn is_pending(&self) -> bool {
        lock(&self.pin).isr != 0
    }

    /// The guest wrote the command register or the MSI-X control register.
    pub(super) fn set_intx(&self, disabled: bool) {
        let mut pin = lock(&self.pin);
        pin.disabled = disabled;
        self.drive(&pin);
    }

    /// The virtio device is reset (§4.1.4.3.1); MSI-X itself belongs to PCI and stays.
    pub(super) fn reset(&self) {
        self.driver_ok.store(false, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.take_isr();
    }

    fn raise_config(&self) {
        if self.driver_ok.load(Ordering::Acquire) {
            self.raise(self.config_vector(), ISR_CONFIG);
        }
    }

    fn raise(&self, vector: u16, isr: u8) {
        if self.msix.signal(vector) {
            return;
        }
        let mut pin = lock(&self.pin);
        pin.isr |= isr;
        self.drive(&pin);
    }

    fn drive(&self, pin: &Pin) {
        pin.pin.set(pin.isr != 0 && !pin.disabled && !self.msix.enabled());
    }

    fn existing(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }
}
