//! The names of things: ports and VLANs.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// A port of the switch, from 1 on, as consoles and clients number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(NonZeroU16);

impl PortId {
    /// The first port.
    pub const FIRST: Self = Self(NonZeroU16::MIN);

    /// The port of this number; none for 0, which means "any" on the wire, and for what no switch has.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        u16::try_from(number).ok().and_then(NonZeroU16::new).map(Self)
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0.get()
    }

    /// Its place in a table of ports: 0 for the first.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VLAN identifier (IEEE 802.1Q-2018 §9.6), 0 to 4094. 0 is the network of untagged frames, as in VDE: where no VLANs
/// are configured, everything without a tag is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanId(u16);

impl VlanId {
    /// The network of untagged frames.
    pub const UNTAGGED: Self = Self(0);

    /// One more than the greatest identifier.
    pub const COUNT: usize = 4095;

    /// The VLAN of this number; none for 4095, which IEEE 802.1Q-2018 table 9-2 reserves, and above.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < Self::COUNT).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Its place in a table of [`VlanId::COUNT`] VLANs.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Text that names no port or no VLAN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {what}")]
pub struct IdError {
    text: String,
    what: &'static str,
}

impl FromStr for PortId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdError { text: text.to_owned(), what: "port number (1 to 65535)" };
        text.parse().ok().and_then(Self::new).ok_or_else(error)
    }
}

impl FromStr for VlanId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdError { text: text.to_owned(), what: "VLAN (0 to 4094)" };
        text.parse().ok().and_then(Self::new).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_name_nothing() {
        assert_eq!("7".parse::<PortId>().unwrap().number(), 7);
        for text in ["0", "65536", "-1", "x", ""] {
            assert!(text.parse::<PortId>().is_err(), "{text}");
        }
        assert_eq!("4094".parse::<VlanId>().unwrap().number(), 4094);
        assert_eq!("4095".parse::<VlanId>().unwrap_err().to_string(), "'4095' is not a VLAN (0 to 4094)");
    }
}
