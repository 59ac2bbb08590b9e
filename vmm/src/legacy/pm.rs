//! Power management: ACPI's fixed registers (ACPI 6.4 §4.8.3) and the PIIX reset control register at 0xCF9.
//!
//! ```text
//! 0x600 PM1 status    16 bits, write 1 to clear; nothing ever sets a bit
//! 0x602 PM1 enable    16 bits
//! 0x604 PM1 control   16 bits; SCI_EN is always set; SLP_EN with SLP_TYP 5 powers off
//! 0x608 PM timer      32 bits, 3.579545 MHz
//! 0xCF9 reset         bit 2 going from 0 to 1 resets (bit 1, "hard", makes no difference)
//! ```
//!
//! The status register's events are not wired up, so the SCI is never raised: there is no button, and the timer's carry is
//! not reported, which is the driver's choice to ask for.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bus::BusDevice;
use crate::control::{Control, Request};

/// PM1a event block: status, then enable.
pub const EVENT: u16 = 0x600;
/// PM1a control block.
pub const CONTROL: u16 = 0x604;
/// PM timer.
pub const TIMER: u16 = 0x608;
/// All of the above.
pub const PORTS: Range<u64> = EVENT as u64..TIMER as u64 + 4;
/// Reset control register, among PCI's configuration ports but a byte register of its own.
pub const RESET: u16 = 0xCF9;
/// What the FADT says to write there.
pub const RESET_VALUE: u8 = 6;
/// The system control interrupt: ISA interrupt and global system interrupt.
pub const SCI: u32 = 9;
/// SLP_TYP of the S5 state, as `_S5` has it.
pub const SLEEP_TYPE_OFF: u8 = 5;

const SCI_ENABLED: u16 = 1;
const SLEEP_ENABLE: u16 = 1 << 13;
const SLEEP_TYPE_SHIFT: u16 = 10;
const RESET_CPU: u8 = 1 << 2;
const TIMER_HZ: u128 = 3_579_545;

/// The registers.
pub struct PowerManagement {
    control: Arc<Control>,
    started: Instant,
    registers: Mutex<Registers>,
}

#[derive(Default)]
struct Registers {
    enable: u16,
    control: u16,
    reset: u8,
}

impl PowerManagement {
    /// Registers that stop the machine through `control`.
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, started: Instant::now(), registers: Mutex::default() }
    }
}

impl BusDevice for PowerManagement {
    fn read(&self, address: u64, data: &mut [u8]) {
        let registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        if address == u64::from(RESET) {
            data[0] = registers.reset;
            return;
        }
        let block = registers.block(self.started.elapsed());
        for (place, address) in data.iter_mut().zip(address..) {
            let offset = address.saturating_sub(PORTS.start) as usize;
            *place = block.get(offset).copied().unwrap_or(0xff);
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        let mut registers = self.registers.lock().unwrap_or_else(PoisonError::into_inner);
        for (byte, address) in data.iter().zip(address..) {
            if let Some(request) = registers.write(address, *byte) {
                self.control.ask(request);
            }
        }
    }

    fn reset(&self) {
        *self.registers.lock().unwrap_or_else(PoisonError::into_inner) = Registers::default();
    }
}

impl Registers {
    /// The twelve bytes from [`EVENT`] on.
    fn block(&self, elapsed: Duration) -> [u8; 12] {
        let mut block = [0; 12];
        block[2..4].copy_from_slice(&self.enable.to_le_bytes());
        block[4..6].copy_from_slice(&(self.control | SCI_ENABLED).to_le_bytes());
        block[8..12].copy_from_slice(&timer(elapsed).to_le_bytes());
        block
    }

    /// Takes one byte. SLP_EN is write-only and lives in the upper byte of the control register, as SLP_TYP does.
    fn write(&mut self, address: u64, byte: u8) -> Option<Request> {
        let set = |register: &mut u16, high: bool| {
            let shift = if high { 8 } else { 0 };
            *register = (*register & !(0xff << shift)) | (u16::from(byte) << shift);
        };
        let offset = address.wrapping_sub(u64::from(EVENT));
        match offset {
            2 | 3 => set(&mut self.enable, offset == 3),
            4 | 5 => {
                set(&mut self.control, offset == 5);
                let sleep = self.control & SLEEP_ENABLE != 0;
                self.control &= !SLEEP_ENABLE;
                let kind = (self.control >> SLEEP_TYPE_SHIFT) & 7;
                if sleep && kind == u16::from(SLEEP_TYPE_OFF) {
                    return Some(Request::Shutdown);
                }
            }
            _ if address == u64::from(RESET) => {
                let rising = byte & RESET_CPU != 0 && self.reset & RESET_CPU == 0;
                self.reset = byte & !RESET_CPU;
                return rising.then_some(Request::Reset);
            }
            _ => {}
        }
        None
    }
}

fn timer(elapsed: Duration) -> u32 {
    (elapsed.as_nanos() * TIMER_HZ / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(registers: &mut Registers, address: u16, data: &[u8]) -> Option<Request> {
        let mut last = None;
        for (byte, address) in data.iter().zip(u64::from(address)..) {
            last = registers.write(address, *byte).or(last);
        }
        last
    }

    #[test]
    fn sleeping_in_s5_powers_off() {
        let mut registers = Registers::default();
        let value = ((5u16 << 10) | SLEEP_ENABLE | 1).to_le_bytes();
        assert!(matches!(write(&mut registers, CONTROL, &value), Some(Request::Shutdown)));
    }

    #[test]
    fn choosing_a_sleep_type_alone_does_nothing() {
        let mut registers = Registers::default();
        assert!(write(&mut registers, CONTROL, &(5u16 << 10).to_le_bytes()).is_none());
        let other = ((3u16 << 10) | SLEEP_ENABLE).to_le_bytes();
        assert!(write(&mut registers, CONTROL, &other).is_none());
        assert_eq!(registers.block(Duration::ZERO)[5] & 0x20, 0);
    }

    #[test]
    fn acpi_mode_is_always_on() {
        let mut registers = Registers::default();
        write(&mut registers, CONTROL, &[0, 0]);
        assert_eq!(registers.block(Duration::ZERO)[4], 1);
    }

    #[test]
    fn reset_happens_on_the_rising_edge() {
        let mut registers = Registers::default();
        assert!(write(&mut registers, RESET, &[2]).is_none());
        assert!(matches!(write(&mut registers, RESET, &[6]), Some(Request::Reset)));
    }

    #[test]
    fn the_timer_wraps_at_32_bits() {
        assert_eq!(timer(Duration::from_secs(1)), 3_579_545);
        assert_eq!(timer(Duration::from_secs(1200)), (3_579_545u64 * 1200 % (1 << 32)) as u32);
    }
}
