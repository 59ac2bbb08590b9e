//! The CMOS real-time clock: a Motorola MC146818 at ports 0x70 (index) and 0x71 (data), with the PC's memory sizes.
//!
//! The time is the host's, in UTC, plus what the guest has set it apart. The alarm and the update interrupt work; the
//! periodic one does not. Registers A to D say what a kernel checks (never updating, 24 hours, BCD, battery good).
//!
//! Theory of operation: whoever changes a register leaves in `due` the host second at which an enabled interrupt is next to be
//! raised, and wakes the event loop, which sleeps until then and calls [`Rtc::tick`]. With no interrupt enabled nobody wakes
//! up. The registers themselves ([`Cmos`]) are pure: time is an argument.
//!
//! Register numbers: MC146818 data sheet; 0x32 is the century that the FADT names; sizes are where PC firmware puts them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;
use crate::control::Control;
use crate::hypervisor::Hypervisor;

/// The index port; the data port follows.
pub const PORT: u16 = 0x70;
/// Both ports.
pub const PORTS: Range<u64> = PORT as u64..PORT as u64 + 2;
/// ISA interrupt and global system interrupt, edge-triggered.
pub const IRQ: u32 = 8;
/// The register that holds the century.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0;
const ALARM_SECONDS: u8 = 1;
const MINUTES: u8 = 2;
const ALARM_MINUTES: u8 = 3;
const HOURS: u8 = 4;
const ALARM_HOURS: u8 = 5;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const REGISTER_A: u8 = 0xA;
const REGISTER_B: u8 = 0xB;
const REGISTER_C: u8 = 0xC;
const REGISTER_D: u8 = 0xD;

/// Register A: 32.768 kHz time base, 1024 Hz rate; bit 7, update in progress, is never set.
const TIME_BASE: u8 = 0x26;
const B_24_HOURS: u8 = 1 << 1;
const B_BINARY: u8 = 1 << 2;
/// Interrupt enables in register B, and the flags in register C, which have the same bits.
const UPDATE: u8 = 1 << 4;
const ALARM: u8 = 1 << 5;
const PERIODIC: u8 = 1 << 6;
const B_SET: u8 = 1 << 7;
const C_REQUEST: u8 = 1 << 7;
/// An alarm register with both of these matches anything.
const ANY: u8 = 0xC0;
const DAY_SECONDS: i64 = 86_400;
/// Register D: RAM and time are valid.
const BATTERY_GOOD: u8 = 0x80;
const AFTERNOON: u8 = 0x80;

/// The device.
pub struct Rtc {
    cmos: Mutex<Cmos>,
    hypervisor: Arc<dyn Hypervisor>,
    control: Arc<Control>,
}

impl Rtc {
    /// A clock in a machine with RAM up to `low_ram_end` and `high_ram` bytes above 4 GiB.
    pub fn new(low_ram_end: u64, high_ram: u64, hypervisor: Arc<dyn Hypervisor>, control: Arc<Control>) -> Self {
        Self { cmos: Mutex::new(Cmos::new(low_ram_end, high_ram)), hypervisor, control }
    }

    /// How long the event loop may sleep before [`Rtc::tick`] has something to do; `None` for ever.
    pub fn sleep(&self) -> Option<Duration> {
        let due = u64::try_from(self.lock().due?).unwrap_or(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Duration::from_secs(due).saturating_sub(since))
    }

    /// Raises the interrupt if it is time.
    pub fn tick(&self) {
        if self.lock().tick(host_time())
            && let Err(error) = self.hypervisor.set_line(IRQ, true).and_then(|()| self.hypervisor.set_line(IRQ, false))
        {
            log::error!("rtc: cannot raise interrupt {IRQ}: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cmos> {
        self.cmos.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Rtc {
    fn read(&self, address: u64, data: &mut [u8]) {
        if address == u64::from(PORT) + 1 {
            data[0] = self.lock().read(host_time());
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        let mut cmos = self.lock();
        let before = cmos.due;
        // A word at the index port is index and data.
        for (byte, address) in data.iter().zip(address..) {
            match address.wrapping_sub(u64::from(PORT)) {
                // Bit 7 masks the NMI, of which there is none.
                0 => cmos.index = byte & 0x7f,
                1 => cmos.write(*byte, host_time()),
                _ => {}
            }
        }
        if cmos.due != before {
            self.control.wake();
        }
    }

    /// Interrupts are off after a reset; a battery-backed clock is otherwise left alone.
    fn reset(&self) {
        self.lock().reset();
    }
}

/// Seconds since 1970.
fn host_time() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

struct Cmos {
    index: u8,
    memory: [u8; 128],
    /// Guest's time less host's time, in seconds.
    offset: i64,
    /// While SET is on, the clock stands still here and the guest changes it.
    held: Option<Fields>,
    /// The host second at which the next enabled interrupt is raised.
    due: Option<i64>,
}

/// A time as it is in the registers, in plain numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fields {
    century: u8,
    year: u8,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    weekday: u8,
}

impl Cmos {
    fn new(low_ram_end: u64, high_ram: u64) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(REGISTER_A)] = TIME_BASE;
        memory[usize::from(REGISTER_B)] = B_24_HOURS;
        memory[usize::from(REGISTER_D)] = BATTERY_GOOD;
        let mut word = |place: usize, value: u64| {
            let value = value.min(0xffff) as u16;
            memory[place..place + 2].copy_from_slice(&value.to_le_bytes());
        };
        // KiB below 640 KiB; KiB from 1 MiB, twice; 64 KiB units from 16 MiB, and from 4 GiB (24 bits).
        word(0x15, 640);
        word(0x17, low_ram_end.saturating_sub(1 << 20) >> 10);
        word(0x30, low_ram_end.saturating_sub(1 << 20) >> 10);
        word(0x34, low_ram_end.saturating_sub(16 << 20) >> 16);
        let high = (high_ram >> 16).min(0xff_ffff) as u32;
        memory[0x5b..0x5e].copy_from_slice(&high.to_le_bytes()[..3]);
        Self { index: 0, memory, offset: 0, held: None, due: None }
    }

    fn read(&mut self, now: i64) -> u8 {
        if self.index == REGISTER_C {
            return std::mem::take(&mut self.memory[usize::from(REGISTER_C)]);
        }
        let fields = || self.fields(now);
        match self.index {
            SECONDS => self.encode(fields().second),
            MINUTES => self.encode(fields().minute),
            HOURS => self.encode_hour(fields().hour),
            WEEKDAY => self.encode(fields().weekday),
            DAY => self.encode(fields().day),
            MONTH => self.encode(fields().month),
            YEAR => self.encode(fields().year),
            CENTURY => self.encode(fields().century),
            index => self.memory[usize::from(index)],
        }
    }

    fn write(&mut self, value: u8, now: i64) {
        self.store(value, now);
        self.due = self.plan(now);
    }

    fn reset(&mut self) {
        self.memory[usize::from(REGISTER_B)] &= !(PERIODIC | ALARM | UPDATE);
        self.memory[usize::from(REGISTER_C)] = 0;
        self.due = None;
    }

    /// Notes an interrupt that is due; whether there is one.
    fn tick(&mut self, now: i64) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let mut flags = UPDATE;
        if self.alarm_matches(due) {
            flags |= ALARM;
        }
        self.memory[usize::from(REGISTER_C)] |= flags | C_REQUEST;
        self.due = self.plan(now);
        true
    }

    /// The first host second after `now` at which an enabled interrupt is raised.
    fn plan(&self, now: i64) -> Option<i64> {
        if self.held.is_some() {
            return None;
        }
        if self.mode(UPDATE) {
            return Some(now + 1);
        }
        if !self.mode(ALARM) {
            return None;
        }
        (now + 1..=now + DAY_SECONDS).find(|second| self.alarm_matches(*second))
    }

    fn alarm_matches(&self, host_second: i64) -> bool {
        let second = host_second.saturating_add(self.offset).rem_euclid(DAY_SECONDS);
        let matches = |index: u8, is: i64, decode: &dyn Fn(u8) -> u8| {
            let value = self.memory[usize::from(index)];
            value & ANY == ANY || i64::from(decode(value)) == is
        };
        matches(ALARM_SECONDS, second % 60, &|value| self.decode(value))
            && matches(ALARM_MINUTES, second / 60 % 60, &|value| self.decode(value))
            && matches(ALARM_HOURS, second / 3600, &|value| self.decode_hour(value))
    }

    fn store(&mut self, value: u8, now: i64) {
        let mut fields = self.fields(now);
        let number = self.decode(value);
        match self.index {
            SECONDS => fields.second = number.min(59),
            MINUTES => fields.minute = number.min(59),
            HOURS => fields.hour = self.decode_hour(value).min(23),
            WEEKDAY => fields.weekday = number.clamp(1, 7),
            DAY => fields.day = number.clamp(1, 31),
            MONTH => fields.month = number.clamp(1, 12),
            YEAR => fields.year = number.min(99),
            CENTURY => fields.century = number.clamp(1, 99),
            REGISTER_A => {
                self.memory[usize::from(REGISTER_A)] = value & 0x7f;
                return;
            }
            REGISTER_B => return self.write_b(value, now),
            REGISTER_C | REGISTER_D => return,
            index => {
                self.memory[usize::from(index)] = value;
                return;
            }
        }
        match &mut self.held {
            Some(held) => *held = fields,
            None => self.offset = fields.seconds() - now,
        }
    }

    /// SET stops the clock for setting and starts it again.
    fn write_b(&mut self, value: u8, now: i64) {
        match (value & B_SET != 0, self.held) {
            (true, None) => self.held = Some(self.fields(now)),
            (false, Some(held)) => {
                self.offset = held.seconds() - now;
                self.held = None;
            }
            _ => {}
        }
        self.memory[usize::from(REGISTER_B)] = value;
    }

    fn fields(&self, now: i64) -> Fields {
        self.held.unwrap_or_else(|| Fields::from_seconds(now.saturating_add(self.offset)))
    }

    fn mode(&self, bit: u8) -> bool {
        self.memory[usize::from(REGISTER_B)] & bit != 0
    }

    fn encode(&self, number: u8) -> u8 {
        if self.mode(B_BINARY) { number } else { ((number / 10) << 4) | (number % 10) }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.mode(B_BINARY) { value } else { (value >> 4) * 10 + (value & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.mode(B_24_HOURS) {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            other => other,
        };
        self.encode(twelve) | if hour >= 12 { AFTERNOON } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.mode(B_24_HOURS) {
            return self.decode(value);
        }
        let hour = self.decode(value & !AFTERNOON) % 12;
        hour + if value & AFTERNOON != 0 { 12 } else { 0 }
    }
}

impl Fields {
    /// The civil date of a time since 1970 (proleptic Gregorian, counted from March so that the leap day comes last).
    fn from_seconds(seconds: i64) -> Self {
        // Keep to the years 100 to 9999, which two times two digits can tell.
        let seconds = seconds.clamp(-59_011_459_200, 253_402_300_799);
        let days = seconds.div_euclid(86_400);
        let clock = seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = (from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            century: (year / 100) as u8,
            year: (year % 100) as u8,
            month: month as u8,
            day: day as u8,
            hour: (clock / 3600) as u8,
            minute: (clock / 60 % 60) as u8,
            second: (clock % 60) as u8,
            // 1970 began on a Thursday; Sunday is 1.
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
        }
    }

    /// The inverse; a day beyond the month's end runs into the next month.
    fn seconds(&self) -> i64 {
        let month = i64::from(self.month);
        let year = i64::from(self.century) * 100 + i64::from(self.year) - i64::from(month <= 2);
        let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let clock = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * 86_400 + clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Saturday 2026-11-21 13:37:59 UTC.
    const NOW: i64 = 1_795_268_279;

    fn cmos() -> Cmos {
        Cmos::new(512 << 20, 0)
    }

    fn read(cmos: &mut Cmos, index: u8) -> u8 {
        cmos.index = index;
        cmos.read(NOW)
    }

    fn write(cmos: &mut Cmos, index: u8, value: u8) {
        cmos.index = index;
        cmos.write(value, NOW);
    }

    fn time(cmos: &mut Cmos) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|index| read(cmos, index))
    }

    #[test]
    fn time_is_bcd_and_24_hours_at_power_on() {
        assert_eq!(time(&mut cmos()), [0x20, 0x26, 0x11, 0x21, 0x13, 0x37, 0x59, 7]);
    }

    #[test]
    fn binary_and_12_hours_follow_register_b() {
        let mut cmos = cmos();
        write(&mut cmos, REGISTER_B, B_BINARY);
        assert_eq!(time(&mut cmos), [20, 26, 11, 21, 0x81, 37, 59, 7]);
    }

    #[test]
    fn no_update_is_ever_in_progress() {
        let mut cmos = cmos();
        write(&mut cmos, REGISTER_A, 0xff);
        assert_eq!(read(&mut cmos, REGISTER_A) & 0x80, 0);
        assert_eq!(read(&mut cmos, REGISTER_D), 0x80);
    }

    #[test]
    fn a_time_set_while_stopped_holds_afterwards() {
        let mut cmos = cmos();
        write(&mut cmos, REGISTER_B, B_SET | B_24_HOURS);
        for (index, value) in [(MONTH, 0x02), (DAY, 0x28), (YEAR, 0x30), (HOURS, 0x01)] {
            write(&mut cmos, index, value);
        }
        write(&mut cmos, REGISTER_B, B_24_HOURS);
        assert_eq!(time(&mut cmos), [0x20, 0x30, 0x02, 0x28, 0x01, 0x37, 0x59, 5]);
        cmos.index = SECONDS;
        assert_eq!(cmos.read(NOW + 1), 0x00);
        cmos.index = MINUTES;
        assert_eq!(cmos.read(NOW + 1), 0x38);
    }

    #[test]
    fn dates_survive_the_way_there_and_back() {
        for seconds in [0, 951_782_400, 951_868_800, 4_107_542_400, -2_208_988_800, NOW, 253_402_300_799] {
            assert_eq!(Fields::from_seconds(seconds).seconds(), seconds);
        }
        let leap = Fields::from_seconds(951_782_400);
        assert_eq!((leap.month, leap.day), (2, 29));
    }

    #[test]
    fn memory_sizes_are_where_firmware_puts_them() {
        let mut cmos = Cmos::new(3 << 30, 1 << 30);
        assert_eq!(read(&mut cmos, 0x34), 0x00);
        assert_eq!(read(&mut cmos, 0x35), 0xBF);
        assert_eq!([0x5b, 0x5c, 0x5d].map(|i| read(&mut cmos, i)), [0, 0x40, 0]);
        assert_eq!([0x17, 0x18].map(|i| read(&mut cmos, i)), [0xff, 0xff]);
    }

    fn set_alarm(cmos: &mut Cmos, [hour, minute, second]: [u8; 3]) {
        write(cmos, ALARM_HOURS, hour);
        write(cmos, ALARM_MINUTES, minute);
        write(cmos, ALARM_SECONDS, second);
        write(cmos, REGISTER_B, B_24_HOURS | ALARM);
    }

    #[test]
    fn an_alarm_is_raised_once_and_its_flags_are_cleared_by_reading() {
        let mut cmos = cmos();
        set_alarm(&mut cmos, [0x13, 0x38, 0x01]);
        assert_eq!(cmos.due, Some(NOW + 2));
        assert!(!cmos.tick(NOW + 1));
        assert!(cmos.tick(NOW + 2));
        assert!(!cmos.tick(NOW + 2));
        assert_eq!(read(&mut cmos, REGISTER_C), C_REQUEST | ALARM | UPDATE);
        assert_eq!(read(&mut cmos, REGISTER_C), 0);
        assert_eq!(cmos.due, Some(NOW + 2 + DAY_SECONDS));
    }

    #[test]
    fn an_alarm_with_wildcards_matches_any_hour() {
        let mut cmos = cmos();
        set_alarm(&mut cmos, [0xC0, 0xFF, 0x05]);
        assert_eq!(cmos.due, Some(NOW + 6));
    }

    #[test]
    fn nothing_is_due_without_an_enabled_interrupt() {
        let mut cmos = cmos();
        assert_eq!(cmos.due, None);
        set_alarm(&mut cmos, [0x13, 0x38, 0x01]);
        cmos.reset();
        assert_eq!((cmos.due, cmos.tick(NOW + 100)), (None, false));
        // No such time of day.
        set_alarm(&mut cmos, [0x13, 0x38, 0x75]);
        assert_eq!(cmos.due, None);
    }

    #[test]
    fn the_update_interrupt_comes_every_second() {
        let mut cmos = cmos();
        write(&mut cmos, REGISTER_B, B_24_HOURS | UPDATE);
        assert!(cmos.tick(NOW + 1) && cmos.tick(NOW + 2));
    }

    #[test]
    fn garbage_never_panics() {
        let mut cmos = cmos();
        let mut state = 1u64;
        for _ in 0..10_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            cmos.index = (state >> 33) as u8 & 0x7f;
            cmos.write((state >> 56) as u8, NOW);
            cmos.index = (state >> 40) as u8 & 0x7f;
            cmos.read(NOW);
        }
    }
}
