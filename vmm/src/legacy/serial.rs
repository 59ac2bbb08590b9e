//! COM1: a 16550A at port 0x3F8, interrupt 4, on vm-superio's register model.
//!
//! What the guest sends goes to an [`Output`] that never blocks for long. What the operator types waits in [`Serial::feed`]'s
//! caller until the 64-byte FIFO has room and the guest asserts RTS: `feed` says how much it took, and the caller is woken
//! (`Control::wake`) when that may have changed. So no byte is lost however slowly the guest reads, and none to a driver that
//! empties the FIFO when it is opened: Linux raises RTS after that.

use std::convert::Infallible;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial as Uart};

use crate::bus::BusDevice;
use crate::control::Control;
use crate::hypervisor::Hypervisor;
use crate::terminal::Output;

/// The first of eight ports.
pub const PORT: u16 = 0x3F8;
/// All eight.
pub const PORTS: Range<u64> = PORT as u64..PORT as u64 + 8;
/// ISA interrupt and global system interrupt, edge-triggered.
pub const IRQ: u32 = 4;

const DATA: u64 = 0;
const MODEM_CONTROL: u64 = 4;
/// Modem control: request to send, and loopback, which turns the bit into a test signal.
const RTS: u8 = 1 << 1;
const LOOP: u8 = 1 << 4;

/// The port.
pub struct Serial {
    state: Mutex<State>,
    hypervisor: Arc<dyn Hypervisor>,
    output: Arc<Output>,
    control: Arc<Control>,
    /// Somebody holds input back until the guest can take more.
    starved: AtomicBool,
}

struct State {
    uart: Uart<Line, NoEvents, Sink>,
    /// The guest wants to receive.
    ready: bool,
}

impl Serial {
    /// A port that writes to `output`.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, output: Arc<Output>, control: Arc<Control>) -> Self {
        Self {
            state: Mutex::new(State::new(&hypervisor, &output)),
            hypervisor,
            output,
            control,
            starved: AtomicBool::new(false),
        }
    }

    /// Gives the guest as much of `input` as it can take now; returns how many bytes that was. When it was not all, the event
    /// loop is woken as soon as it makes sense to try again.
    pub fn feed(&self, input: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = match state.uart.fifo_capacity() {
            0 => 0,
            _ if !state.ready => 0,
            _ => state.uart.enqueue_raw_bytes(input).unwrap_or(0),
        };
        self.starved.store(taken < input.len(), Ordering::SeqCst);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_for_more(&self) {
        if self.starved.swap(false, Ordering::SeqCst) {
            self.control.wake();
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, address: u64, data: &mut [u8]) {
        const FIFO: usize = 64;
        let mut state = self.lock();
        let offset = address - PORTS.start;
        data[0] = state.uart.read(offset as u8);
        // Once for a FIFO rather than once for a byte.
        if offset == DATA && state.uart.fifo_capacity() == FIFO {
            self.ask_for_more();
        }
    }

    fn write(&self, address: u64, data: &[u8]) {
        let mut state = self.lock();
        let offset = address - PORTS.start;
        // Sink and Line never fail.
        let _ = state.uart.write(offset as u8, data[0]);
        if offset == MODEM_CONTROL {
            state.ready = data[0] & (RTS | LOOP) == RTS;
            self.ask_for_more();
        }
    }

    fn reset(&self) {
        *self.lock() = State::new(&self.hypervisor, &self.output);
        self.ask_for_more();
    }
}

impl State {
    fn new(hypervisor: &Arc<dyn Hypervisor>, output: &Arc<Output>) -> Self {
        Self { uart: Uart::new(Line(hypervisor.clone()), Sink(output.clone())), ready: false }
    }
}

/// The interrupt line: an edge-triggered pulse for each reason to look.
struct Line(Arc<dyn Hypervisor>);

impl Trigger for Line {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        let pulse = self.0.set_line(IRQ, true).and_then(|()| self.0.set_line(IRQ, false));
        if let Err(error) = pulse {
            log::error!("serial: cannot raise interrupt {IRQ}: {error}");
        }
        Ok(())
    }
}

struct Sink(Arc<Output>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::NotifyAddress;
    use mio::{Poll, Token, Waker};
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::AtomicU32;

    #[derive(Default)]
    struct Pulses(AtomicU32);

    impl Hypervisor for Pulses {
        fn signal_msi(&self, _: u64, _: u32) -> io::Result<()> {
            Ok(())
        }
        fn set_line(&self, gsi: u32, level: bool) -> io::Result<()> {
            assert_eq!(gsi, 4);
            self.0.fetch_add(u32::from(level), Ordering::SeqCst);
            Ok(())
        }
        fn add_doorbell(&self, _: NotifyAddress, _: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }
        fn remove_doorbell(&self, _: NotifyAddress, _: BorrowedFd<'_>) -> io::Result<()> {
            Ok(())
        }
    }

    fn serial() -> (Serial, Arc<Pulses>, Poll) {
        let poll = Poll::new().unwrap();
        let control = Arc::new(Control::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let pulses = Arc::new(Pulses::default());
        let serial = Serial::new(pulses.clone(), Arc::new(Output::discard()), control);
        (serial, pulses, poll)
    }

    fn read(serial: &Serial, offset: u64) -> u8 {
        let mut data = [0xff];
        serial.read(PORTS.start + offset, &mut data);
        data[0]
    }

    fn woken(poll: &mut Poll) -> bool {
        let mut events = mio::Events::with_capacity(4);
        poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn input_beyond_the_fifo_is_held_and_asked_for_again() {
        let (serial, pulses, mut poll) = serial();
        serial.write(PORTS.start + 1, &[1]);
        serial.write(PORTS.start + MODEM_CONTROL, &[RTS]);
        let input: Vec<u8> = (0..100).collect();
        assert_eq!(serial.feed(&input), 64);
        assert_eq!(pulses.0.load(Ordering::SeqCst), 1);
        assert_eq!(serial.feed(&input[64..]), 0);
        for expected in 0..63 {
            assert_eq!(read(&serial, 0), expected);
        }
        assert!(!woken(&mut poll));
        assert_eq!(read(&serial, 0), 63);
        assert!(woken(&mut poll));
        assert_eq!(serial.feed(&input[64..]), 36);
        for expected in 64..100 {
            assert_eq!(read(&serial, 0), expected);
        }
        assert!(!woken(&mut poll));
    }

    #[test]
    fn input_waits_until_the_guest_requests_it() {
        let (serial, _, mut poll) = serial();
        assert_eq!(serial.feed(b"early"), 0);
        serial.write(PORTS.start + MODEM_CONTROL, &[RTS | LOOP]);
        assert!(woken(&mut poll));
        assert_eq!(serial.feed(b"early"), 0);
        serial.write(PORTS.start + MODEM_CONTROL, &[RTS]);
        assert!(woken(&mut poll));
        assert_eq!(serial.feed(b"early"), 5);
    }

    #[test]
    fn a_reset_empties_the_port() {
        let (serial, ..) = serial();
        serial.write(PORTS.start + MODEM_CONTROL, &[RTS]);
        assert_eq!(serial.feed(b"abc"), 3);
        assert_eq!(read(&serial, 5) & 1, 1);
        serial.reset();
        assert_eq!(read(&serial, 5) & 1, 0);
        assert_eq!(serial.feed(b"abc"), 0);
    }

    #[test]
    fn it_is_a_16550a() {
        let (serial, ..) = serial();
        serial.write(PORTS.start + 2, &[1]);
        assert_eq!(read(&serial, 2) & 0xC0, 0xC0);
    }
}
