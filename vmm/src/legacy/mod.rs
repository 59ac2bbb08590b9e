//! The few devices of an ISA PC that a stock kernel still talks to. Each owns fixed ports; none owns a thread.
//!
//! Not here, because KVM has them: interrupt controllers, interval timer, speaker gate (port 0x61). Absent on purpose: VGA,
//! keyboard and mouse, floppy, DMA, parallel port; their ports read as all ones.

pub mod i8042;
pub mod pm;
pub mod rtc;
pub mod serial;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mio::{Poll, Token, Waker};

    use super::*;
    use crate::bus::Bus;
    use crate::control::Control;
    use crate::terminal::Output;
    use crate::virtio::fake_hypervisor::FakeHypervisor;

    #[test]
    fn garbage_on_every_port_never_panics() {
        let poll = Poll::new().unwrap();
        let control = Arc::new(Control::new(Waker::new(poll.registry(), Token(0)).unwrap()));
        let hypervisor = FakeHypervisor::new();
        let serial = serial::Serial::new(hypervisor.clone(), Arc::new(Output::discard()), control.clone());
        let serial = Arc::new(serial);
        let mut bus = Bus::new();
        for range in i8042::PORTS {
            bus.attach(range, Arc::new(i8042::I8042::new(control.clone()))).unwrap();
        }
        bus.attach(rtc::PORTS, Arc::new(rtc::Rtc::new(1 << 30, 0, hypervisor, control.clone()))).unwrap();
        bus.attach(serial::PORTS, serial.clone()).unwrap();
        bus.attach(pm::PORTS, Arc::new(pm::PowerManagement::new(control.clone()))).unwrap();
        bus.attach(0xCF9..0xCFA, Arc::new(pm::PowerManagement::new(control.clone()))).unwrap();
        let ports: Vec<u64> =
            [0x60..0x68, 0x6E..0x74, 0x3F4..0x402, 0x5FE..0x610, 0xCF6..0xD02].into_iter().flatten().collect();
        let mut state = 7u64;
        for step in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let port = ports[(state >> 33) as usize % ports.len()];
            let mut data = (state >> 20).to_le_bytes();
            let data = &mut data[..[1, 1, 2, 4][state as usize >> 62]];
            // A clock that looks for an alarm which never comes looks through a whole day.
            let slow = port == 0x71 && step % 64 != 0;
            if state >> 61 & 1 == 0 || slow {
                bus.read(port, data);
            } else {
                bus.write(port, data);
            }
            match step % 1000 {
                0 => bus.reset(),
                1 => control.rearm(),
                2 => drop(serial.feed(&[1; 100])),
                _ => {}
            }
        }
    }
}
