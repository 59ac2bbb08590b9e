//! Virtio over PCI (virtio 1.2 §4.1): one BAR, the capabilities that point into it, negotiation, doorbells.
//!
//! # Theory of operation
//! The driver walks the status bits (§3.1.1); legal moves here:
//!
//! ```text
//! reset ── ACKNOWLEDGE, DRIVER ──► features are written
//!   ▲                                │ FEATURES_OK, kept only if the features are a subset and have VERSION_1
//!   │                                ▼
//!   │                              queues are set up
//!   │                                │ DRIVER_OK: a ring is made of each enabled queue, the device is activated
//!   │ status 0                       ▼
//!   └───────────────────────────── live ── a broken ring, or no valid one ──► live, with NEEDS_RESET
//! ```
//!
//! What is written at the wrong time is ignored. Notifications are eventfds where the device has a thread of its own: the
//! hypervisor signals them, and only if it cannot do they come through here.
//!
//! Locks: `state` is held while the device is activated or reset, which waits for its thread; nothing that such a thread
//! calls takes it. The ISR status, vectors and MSI-X are in [`Interrupts`] with short locks of their own.
//! Neighbours: `interrupts.rs`, `ring.rs`; `pci/root.rs` calls in.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use link::event::EventFd;
use vm_memory::GuestMemoryMmap;

use super::ring::{Layout, Ring};
use super::{ActivateError, Error, Interrupts, VirtioDevice, feature};
use crate::hypervisor::{Hypervisor, NotifyAddress};
use crate::pci::{
    self, BarKind, COMMAND, ConfigSpace, Decoded, Identity, MSIX_CAPABILITY, Msix, PciDevice, STATUS, Space,
    capability_body, command, lock,
};

/// The vendor of every virtio device, and the base of modern device numbers (§4.1.2).
const VENDOR: u16 = 0x1af4;
const DEVICE_BASE: u16 = 0x1040;

/// The BAR: each structure has a page of its own.
const BAR: u8 = 0;
const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0x0000;
const COMMON_LEN: usize = 60;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const DEVICE_LEN: u64 = 0x1000;
const NOTIFY: u64 = 0x3000;
const NOTIFY_MULTIPLIER: u32 = 4;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PENDING_END: u64 = 0x6000;

/// Vendor-specific capability (PCI 3.0 appendix H), and what virtio puts into it (§4.1.4).
const VENDOR_CAPABILITY: u8 = 0x09;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_ISR: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

/// Device status bits (§2.1).
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 0x40;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    name: String,
    config: Mutex<ConfigSpace>,
    state: Mutex<State>,
    interrupts: Arc<Interrupts>,
    hypervisor: Arc<dyn Hypervisor>,
    doorbells: Vec<Option<Arc<EventFd>>>,
    /// Where the doorbells are registered: the address of the BAR.
    registered: Mutex<Option<u64>>,
    msix_control: u8,
    /// The capability that gives access to the BAR through configuration space (§4.1.4.9).
    pci_window: u8,
}

/// What the driver negotiates.
struct State {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemoryMmap,
    offered: u64,
    status: u8,
    features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

#[derive(Clone, Copy)]
struct QueueSetup {
    max_size: u16,
    layout: Layout,
    enabled: bool,
}

impl VirtioPci {
    /// Puts a device into a slot of the bus. `interrupts` has been made for that slot's pin and this device's queues.
    ///
    /// # Errors
    /// The slot is taken, or the windows are full.
    pub fn attach(
        root: &pci::Root,
        slot: u8,
        memory: GuestMemoryMmap,
        interrupts: Arc<Interrupts>,
        device: Box<dyn VirtioDevice>,
    ) -> Result<(), Error> {
        let queues = device.queue_sizes().len();
        let (mut config, msix_control, pci_window) = configuration(&*device, &interrupts);
        config.set_interrupt(1, pci::gsi(slot, 0) as u8);
        let transport = Self {
            name: interrupts.name().to_owned(),
            config: Mutex::new(config),
            interrupts,
            hypervisor: Arc::clone(root.hypervisor()),
            doorbells: (0..queues).map(|queue| device.doorbell(queue)).collect(),
            state: Mutex::new(State::new(device, memory)),
            registered: Mutex::new(None),
            msix_control,
            pci_window,
        };
        root.attach(slot, Arc::new(transport))?;
        Ok(())
    }

    fn common_read(&self, offset: usize, data: &mut [u8]) {
        let image = lock(&self.state).common(&self.interrupts);
        copy_at(&image, offset, data);
    }

    fn common_write(&self, offset: usize, data: &[u8]) {
        let mut state = lock(&self.state);
        match (offset, data) {
            (0, &[a, b, c, d]) => state.device_feature_select = u32::from_le_bytes([a, b, c, d]),
            (8, &[a, b, c, d]) => state.driver_feature_select = u32::from_le_bytes([a, b, c, d]),
            (12, &[a, b, c, d]) => state.write_features(u32::from_le_bytes([a, b, c, d])),
            (16, &[a, b]) => self.interrupts.set_config_vector(u16::from_le_bytes([a, b])),
            (20, &[status]) => self.write_status(&mut state, status),
            (22, &[a, b]) => state.queue_select = u16::from_le_bytes([a, b]),
            (26, &[a, b]) => {
                self.interrupts.set_queue_vector(state.queue_select.into(), u16::from_le_bytes([a, b]));
            }
            _ => state.write_queue(offset, data),
        }
    }

    /// The status register (§2.1): bits can be set, or all cleared.
    fn write_status(&self, state: &mut State, status: u8) {
        if status == 0 {
            self.reset_device(state);
            return;
        }
        let new = status & !state.status & !STATUS_NEEDS_RESET;
        if new & STATUS_FEATURES_OK == 0 || state.features_are_fine() {
            state.status |= new;
        } else {
            state.status |= new & !STATUS_FEATURES_OK;
        }
        let ready = STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        if new & STATUS_DRIVER_OK != 0 && state.status & ready == ready {
            self.interrupts.set_driver_ok(true);
            if let Err(error) = state.activate(&self.interrupts) {
                self.interrupts.need_reset(&error);
            }
        }
    }

    fn reset_device(&self, state: &mut State) {
        state.device.reset();
        self.interrupts.reset();
        state.reset();
    }

    /// A notification that did not go to an eventfd by itself (§4.1.5.2).
    fn notify(&self, offset: u64) {
        let queue = (offset / u64::from(NOTIFY_MULTIPLIER)) as usize;
        match self.doorbells.get(queue) {
            Some(Some(doorbell)) => doorbell.signal(),
            Some(None) => {
                let mut state = lock(&self.state);
                if state.status & STATUS_DRIVER_OK != 0 && self.interrupts.bus_master() {
                    state.device.notify(queue);
                }
            }
            None => {}
        }
    }

    /// The command register has been written, or the whole space reset.
    fn follow_config(&self) {
        let (command, control) = {
            let config = lock(&self.config);
            (config.command(), config.word(self.msix_control))
        };
        self.interrupts.msix().set_control(control);
        self.interrupts.set_intx(command & command::INTX_DISABLE != 0);
        let master = command & command::MASTER != 0;
        if master && !self.interrupts.bus_master() {
            self.interrupts.set_bus_master(true);
            // Whatever was left undone meanwhile.
            for doorbell in self.doorbells.iter().flatten() {
                doorbell.signal();
            }
        }
        self.interrupts.set_bus_master(master);
    }

    /// Reads or writes the BAR through the capability's window, if it is set to a sensible access (§4.1.4.9.1).
    fn window_access(&self, write: bool) {
        let (offset, len, mut data) = {
            let config = lock(&self.config);
            if config.word(self.pci_window + 4) as u8 != BAR {
                return;
            }
            let data = config.dword(self.pci_window + 16).to_le_bytes();
            (u64::from(config.dword(self.pci_window + 8)), config.dword(self.pci_window + 12) as usize, data)
        };
        if !matches!(len, 1 | 2 | 4) || !offset.is_multiple_of(len as u64) || offset + len as u64 > BAR_SIZE {
            return;
        }
        if write {
            self.bar_write(BAR.into(), offset, &data[..len]);
        } else {
            self.bar_read(BAR.into(), offset, &mut data[..len]);
            lock(&self.config).put(usize::from(self.pci_window) + 16, &data[..len]);
        }
    }

    fn in_window(&self, offset: u8) -> bool {
        offset & !3 == self.pci_window + 16
    }

    fn set_doorbells(&self, base: Option<u64>) {
        let mut registered = lock(&self.registered);
        let before = std::mem::replace(&mut *registered, base);
        if before == base {
            return;
        }
        for (queue, doorbell) in self.doorbells.iter().enumerate() {
            let Some(doorbell) = doorbell else { continue };
            let at = |base: u64| NotifyAddress::Mmio(base + NOTIFY + u64::from(NOTIFY_MULTIPLIER) * queue as u64);
            if let Some(base) = before
                && let Err(error) = self.hypervisor.remove_doorbell(at(base), doorbell.as_fd())
            {
                log::debug!("{}: doorbell of queue {queue}: {error}", self.name);
            }
            if let Some(base) = base
                && let Err(error) = self.hypervisor.add_doorbell(at(base), doorbell.as_fd())
            {
                // The guest put the BAR where another doorbell is. Its stores come through `notify` now.
                log::debug!("{}: doorbell of queue {queue}: {error}", self.name);
            }
        }
    }
}

impl PciDevice for VirtioPci {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &Mutex<ConfigSpace> {
        &self.config
    }

    fn config_read(&self, offset: u8, data: &mut [u8]) {
        if self.in_window(offset) {
            self.window_access(false);
        }
        lock(&self.config).read(offset, data);
        if let Some(at) = STATUS.checked_sub(offset)
            && let Some(status) = data.get_mut(usize::from(at))
            && self.interrupts.is_pending()
        {
            *status |= 1 << 3;
        }
    }

    fn config_write(&self, offset: u8, data: &[u8]) {
        lock(&self.config).write(offset, data);
        if self.in_window(offset) {
            self.window_access(true);
        }
        let register = offset & !3;
        if register == COMMAND || register == self.msix_control & !3 {
            self.follow_config();
        }
    }

    fn decoding_changed(&self, decoded: &Decoded) {
        let bar = decoded[usize::from(BAR)].filter(|bar| bar.space == Space::Memory);
        self.set_doorbells(bar.map(|bar| bar.base));
    }

    fn bar_read(&self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.common_read(offset as usize, data),
            ISR => data[0] = self.interrupts.take_isr(),
            DEVICE..NOTIFY => lock(&self.state).device.read_config((offset - DEVICE) as usize, data),
            TABLE..PENDING => self.interrupts.msix().table_read(offset - TABLE, data),
            PENDING..PENDING_END => self.interrupts.msix().pending_read(offset - PENDING, data),
            _ => {}
        }
    }

    fn bar_write(&self, _bar: usize, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => self.common_write(offset as usize, data),
            DEVICE..NOTIFY => lock(&self.state).device.write_config((offset - DEVICE) as usize, data),
            NOTIFY..TABLE => self.notify(offset - NOTIFY),
            TABLE..PENDING => self.interrupts.msix().table_write(offset - TABLE, data),
            _ => {}
        }
    }

    fn reset(&self) {
        self.reset_device(&mut lock(&self.state));
        lock(&self.config).reset();
        self.interrupts.msix().reset();
        self.follow_config();
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.set_doorbells(None);
        lock(&self.state).device.reset();
    }
}

impl State {
    fn new(device: Box<dyn VirtioDevice>, memory: GuestMemoryMmap) -> Self {
        let queues = device.queue_sizes().iter().map(|&max_size| QueueSetup::new(max_size)).collect();
        let offered = device.features() | feature::TRANSPORT;
        Self {
            device,
            memory,
            offered,
            status: 0,
            features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues,
        }
    }

    fn reset(&mut self) {
        self.status = 0;
        self.features = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
    }

    /// `struct virtio_pci_common_cfg` (§4.1.4.3) as it reads now.
    fn common(&self, interrupts: &Interrupts) -> [u8; COMMON_LEN] {
        let selected = usize::from(self.queue_select);
        let queue = self.queues.get(selected).copied();
        let layout = queue.map_or(Layout::default(), |queue| queue.layout);
        let needs_reset = if interrupts.needs_reset() { STATUS_NEEDS_RESET } else { 0 };
        let mut image = [0; COMMON_LEN];
        image[0..4].copy_from_slice(&self.device_feature_select.to_le_bytes());
        image[4..8].copy_from_slice(&half(self.offered, self.device_feature_select).to_le_bytes());
        image[8..12].copy_from_slice(&self.driver_feature_select.to_le_bytes());
        image[12..16].copy_from_slice(&half(self.features, self.driver_feature_select).to_le_bytes());
        image[16..18].copy_from_slice(&interrupts.config_vector().to_le_bytes());
        image[18..20].copy_from_slice(&(self.queues.len() as u16).to_le_bytes());
        image[20] = self.status | needs_reset;
        image[21] = interrupts.generation();
        image[22..24].copy_from_slice(&self.queue_select.to_le_bytes());
        image[24..26].copy_from_slice(&layout.size.to_le_bytes());
        image[26..28].copy_from_slice(&interrupts.queue_vector(selected).to_le_bytes());
        image[28] = queue.is_some_and(|queue| queue.enabled).into();
        image[30..32].copy_from_slice(&self.queue_select.to_le_bytes());
        image[32..40].copy_from_slice(&layout.descriptors.to_le_bytes());
        image[40..48].copy_from_slice(&layout.driver.to_le_bytes());
        image[48..56].copy_from_slice(&layout.device.to_le_bytes());
        image
    }

    fn write_features(&mut self, value: u32) {
        if self.status & STATUS_FEATURES_OK == 0 {
            match self.driver_feature_select {
                0 => self.features = self.features & !0xffff_ffff | u64::from(value),
                1 => self.features = self.features & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            }
        }
    }

    /// §3.1.1 step 6: what was not offered cannot be taken, and the driver must be a modern one.
    fn features_are_fine(&self) -> bool {
        self.features & !self.offered == 0 && self.features & feature::VERSION_1 != 0
    }

    /// A register of the selected queue, which can be set up until it is enabled (§4.1.5.1.3).
    fn write_queue(&mut self, offset: usize, data: &[u8]) {
        let live = self.status & STATUS_DRIVER_OK != 0;
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if live || queue.enabled {
            return;
        }
        let layout = &mut queue.layout;
        match (offset, data) {
            (24, &[a, b]) => {
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= queue.max_size {
                    layout.size = size;
                }
            }
            (28, &[a, b]) => queue.enabled = u16::from_le_bytes([a, b]) == 1,
            (32..40, data) => write_half(&mut layout.descriptors, offset - 32, data),
            (40..48, data) => write_half(&mut layout.driver, offset - 40, data),
            (48..56, data) => write_half(&mut layout.device, offset - 48, data),
            _ => {}
        }
    }

    fn activate(&mut self, interrupts: &Arc<Interrupts>) -> Result<(), ActivateError> {
        let event_idx = self.features & feature::EVENT_IDX != 0;
        let rings = self
            .queues
            .iter()
            .enumerate()
            .map(|(index, queue)| {
                let ring = || Ring::new(&self.memory, interrupts, index, queue.layout, event_idx);
                queue.enabled.then(ring).transpose().map_err(|source| ActivateError::Queue { index, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.device.activate(self.features, rings)
    }
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self { max_size, layout: Layout { size: max_size, ..Layout::default() }, enabled: false }
    }
}

/// The configuration space, the offset of MSI-X's control register and that of the window capability.
fn configuration(device: &dyn VirtioDevice, interrupts: &Interrupts) -> (ConfigSpace, u8, u8) {
    let mut config = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: DEVICE_BASE + device.device_id(),
        class: device.pci_class(),
        // §4.1.2.1: a modern device has revision 1 or higher, and a subsystem number of 0x40 or higher.
        revision: 1,
        subsystem_vendor: VENDOR,
        subsystem: 0x40 + device.device_id(),
    });
    config.add_bar(BAR.into(), BarKind::Memory64, BAR_SIZE);
    let notify_len = NOTIFY_MULTIPLIER * device.queue_sizes().len() as u32;
    add_structure(&mut config, CAP_COMMON, COMMON, COMMON_LEN as u32, &[]);
    add_structure(&mut config, CAP_NOTIFY, NOTIFY, notify_len, &NOTIFY_MULTIPLIER.to_le_bytes());
    add_structure(&mut config, CAP_ISR, ISR, 1, &[]);
    add_structure(&mut config, CAP_DEVICE, DEVICE, DEVICE_LEN as u32, &[]);
    let body = structure(CAP_PCI, 0, 0, &[0; 4]);
    // The driver writes bar, offset, length and data; the rest is fixed.
    let writable = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let pci_window = config.add_capability(VENDOR_CAPABILITY, &body, &writable);
    let (body, writable) = capability_body(interrupts.msix().vectors(), BAR, TABLE as u32, PENDING as u32);
    let msix = config.add_capability(MSIX_CAPABILITY, &body, &writable);
    debug_assert!(Msix::pending_len(interrupts.msix().vectors()) as u64 <= PENDING_END - PENDING);
    (config, msix + 2, pci_window)
}

fn add_structure(config: &mut ConfigSpace, kind: u8, offset: u64, len: u32, extra: &[u8]) {
    config.add_capability(VENDOR_CAPABILITY, &structure(kind, offset as u32, len, extra), &[]);
}

/// `struct virtio_pci_cap` (§4.1.4) behind ID and next pointer: length, type, BAR, id, padding, offset, length.
fn structure(kind: u8, offset: u32, len: u32, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + extra.len() as u8, kind, BAR, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(extra);
    body
}

/// The 32 bits of a 64-bit register that a select register shows; others read as zero (§4.1.4.3.1).
fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

/// A store into a 64-bit register: either half, or all of it.
fn write_half(register: &mut u64, offset: usize, data: &[u8]) {
    match (offset, data) {
        (0, &[a, b, c, d]) => *register = *register & !0xffff_ffff | u64::from(u32::from_le_bytes([a, b, c, d])),
        (4, &[a, b, c, d]) => *register = *register & 0xffff_ffff | u64::from(u32::from_le_bytes([a, b, c, d])) << 32,
        (0, data) => {
            if let Ok(bytes) = data.try_into() {
                *register = u64::from_le_bytes(bytes);
            }
        }
        _ => {}
    }
}

/// Copies what `image` has at `offset`; the rest of `data` stays as it was.
fn copy_at(image: &[u8], offset: usize, data: &mut [u8]) {
    for (target, byte) in data.iter_mut().zip(image.iter().skip(offset)) {
        *target = *byte;
    }
}
