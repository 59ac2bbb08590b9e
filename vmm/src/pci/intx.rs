//! INTx: interrupt pins, and the lines that devices share (PCI 3.0 §2.2.6).
//!
//! Pin p (0 is INTA) of slot n is wired to global system interrupt 16 + (n + p) % 8, which the DSDT's `_PRT` repeats.
//! Invariant: a line is high exactly as long as at least one of its pins is asserted, and the hypervisor is told only
//! about changes, in the order in which they happen.

use std::sync::{Arc, Mutex};

use super::lock;
use crate::hypervisor::Hypervisor;

/// The first of the eight global system interrupts that pins are wired to.
pub const GSI_BASE: u32 = 16;

const LINES: usize = 8;

/// The global system interrupt of pin `pin` (0 to 3) in slot `slot`.
#[must_use]
pub fn gsi(slot: u8, pin: u8) -> u32 {
    GSI_BASE + line(slot, pin) as u32
}

fn line(slot: u8, pin: u8) -> usize {
    (usize::from(slot) + usize::from(pin)) % LINES
}

/// The eight lines of bus 0.
pub struct IntxLines {
    hypervisor: Arc<dyn Hypervisor>,
    /// For each line, the slots that assert it; a slot has at most one pin on a line.
    asserted: Mutex<[u32; LINES]>,
}

impl IntxLines {
    /// All lines low.
    #[must_use]
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Arc<Self> {
        Arc::new(Self { hypervisor, asserted: Mutex::new([0; LINES]) })
    }

    /// The pin `pin` (0 is INTA) of the device in slot `slot`.
    #[must_use]
    pub fn pin(self: &Arc<Self>, slot: u8, pin: u8) -> IntxPin {
        IntxPin { lines: Arc::clone(self), slot, pin }
    }

    fn set(&self, slot: u8, pin: u8, level: bool) {
        let line = line(slot, pin);
        let bit = 1 << (slot % 32);
        let mut asserted = lock(&self.asserted);
        let before = asserted[line];
        let after = if level { before | bit } else { before & !bit };
        asserted[line] = after;
        if (before == 0) != (after == 0)
            && let Err(error) = self.hypervisor.set_line(gsi(slot, pin), after != 0)
        {
            log::warn!("pci: interrupt line {}: {error}", gsi(slot, pin));
        }
    }
}

/// One device's interrupt pin.
pub struct IntxPin {
    lines: Arc<IntxLines>,
    slot: u8,
    pin: u8,
}

impl IntxPin {
    /// Asserts the pin or releases it.
    pub fn set(&self, level: bool) {
        self.lines.set(self.slot, self.pin, level);
    }

    /// The value of the Interrupt Pin register (PCI 3.0 §6.2.4): 1 is INTA.
    #[must_use]
    pub fn register(&self) -> u8 {
        self.pin + 1
    }

    /// The global system interrupt that the pin is wired to.
    #[must_use]
    pub fn gsi(&self) -> u32 {
        gsi(self.slot, self.pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::fake_hypervisor::FakeHypervisor;

    #[test]
    fn a_shared_line_stays_high_until_the_last_pin_is_released() {
        let hypervisor = FakeHypervisor::new();
        let lines = IntxLines::new(hypervisor.clone());
        let (a, b) = (lines.pin(3, 0), lines.pin(11, 0));
        assert_eq!((a.gsi(), b.gsi()), (19, 19));
        a.set(true);
        b.set(true);
        a.set(false);
        assert!(hypervisor.line(19));
        b.set(false);
        assert!(!hypervisor.line(19));
        assert_eq!(hypervisor.line_changes(), 2);
    }

    #[test]
    fn pins_of_a_slot_go_to_neighbouring_lines() {
        assert_eq!([gsi(0, 0), gsi(1, 0), gsi(1, 3), gsi(7, 1), gsi(31, 3)], [16, 17, 20, 16, 18]);
    }
}
