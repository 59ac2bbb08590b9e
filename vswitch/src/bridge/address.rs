//! An address as one number, so that a frame's is two loads and comparing it is one instruction.
//!
//! Neighbours: [`super::fdb`] makes keys of it; outside the bridge it is a [`MacAddr`].

use link::MacAddr;

/// 48 bits, first octet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address(u64);

impl Address {
    /// The highest 48 bits of a word.
    #[inline]
    pub(super) fn from_high_bits(word: u64) -> Self {
        Self(word >> 16)
    }

    /// As a number.
    #[inline]
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// Whether it is a group's.
    #[inline]
    pub(super) fn is_group(self) -> bool {
        self.0 & 1 << 40 != 0
    }

    /// Whether it is everybody's.
    #[inline]
    pub(super) fn is_broadcast(self) -> bool {
        self.0 == (1 << 48) - 1
    }

    /// Whether a station can have it: neither a group's nor nobody's (all zeroes).
    #[inline]
    pub(super) fn is_station(self) -> bool {
        !self.is_group() && self.0 != 0
    }
}

impl From<MacAddr> for Address {
    fn from(MacAddr([a, b, c, d, e, f]): MacAddr) -> Self {
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }
}

impl From<Address> for MacAddr {
    fn from(address: Address) -> Self {
        let [_, _, a, b, c, d, e, f] = address.0.to_be_bytes();
        Self([a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_keeps_the_address_and_its_bits() {
        for text in
            ["02:00:00:00:00:01", "01:80:c2:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "fe:dc:ba:98:76:54"]
        {
            let mac: MacAddr = text.parse().unwrap();
            let address = Address::from(mac);
            assert_eq!(MacAddr::from(address), mac);
            assert_eq!(address.is_group(), mac.is_multicast());
            assert_eq!(address.is_broadcast(), mac == MacAddr::BROADCAST);
            assert_eq!(address.is_station(), !mac.is_multicast() && mac != MacAddr([0; 6]));
        }
    }
}
