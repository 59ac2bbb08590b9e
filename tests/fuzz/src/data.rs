//! Bytes as a sequence of choices. Behind their end all are 0, so that every input is a whole one.

use link::MacAddr;
use vswitch::{PortId, VlanId};

/// What is left of an input.
pub struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    /// All of an input.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// The next two bytes, the high one first.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Whether the next byte is odd.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of these, by the next byte.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// A number in half of all cases.
    pub fn limit(&mut self) -> Option<u32> {
        let byte = self.byte();
        (byte & 1 == 1).then_some(u32::from(byte >> 1))
    }

    /// So many bytes, or all that is left.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// As many bytes as the next byte says, or all that is left.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte());
        self.take(len)
    }
}

/// The port of this number.
pub fn port(number: impl Into<u32>) -> PortId {
    PortId::new(number.into()).expect("from 1 to 65535")
}

/// The VLAN of this number.
pub fn vlan(number: u16) -> VlanId {
    VlanId::new(number).expect("below 4095")
}

/// The address of a station, or of a bridge.
pub fn station(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}
