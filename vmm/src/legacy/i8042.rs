//! The keyboard controller, of which only the reset line is there: 0xFE written to port 0x64 resets the machine.
//!
//! The FADT says that there is no PS/2 controller, so that no driver waits for a keyboard; kernels that reboot "by keyboard"
//! use it all the same. The register model is vm-superio's: both ports read as zero, that is, never busy.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::{I8042Device, Trigger};

use crate::bus::BusDevice;
use crate::control::{Control, Request};

/// The data port and the command port. What lies between them is not the controller's; 0x61 is KVM's.
pub const PORTS: [Range<u64>; 2] = [0x60..0x61, 0x64..0x65];
const BASE: u64 = 0x60;

/// The device.
pub struct I8042(Mutex<I8042Device<ResetLine>>);

impl I8042 {
    /// A controller that resets the machine through `control`.
    pub fn new(control: Arc<Control>) -> Self {
        Self(Mutex::new(I8042Device::new(ResetLine(control))))
    }
}

impl BusDevice for I8042 {
    fn read(&self, address: u64, data: &mut [u8]) {
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        data[0] = device.read((address - BASE) as u8);
    }

    fn write(&self, address: u64, data: &[u8]) {
        let mut device = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(()) = device.write((address - BASE) as u8, data[0]);
    }
}

struct ResetLine(Arc<Control>);

impl Trigger for ResetLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.ask(Request::Reset);
        Ok(())
    }
}
