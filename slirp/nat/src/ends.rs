//! Addresses and ports as the tables know them: both families in one plain value, hashed in as few words as they have.
//!
//! An IPv4 address is kept in its IPv4-mapped form (RFC 4291 §2.5.5.2). No IPv6 packet brings a mapped address into a
//! table: no guest has one, and `route` leads nowhere for them.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// An address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address([u8; 16]);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.0).to_canonical()
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = u128::from_be_bytes(self.0);
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        if high != 0 {
            state.write_u64(high);
        }
        state.write_u64(low);
    }
}

/// One end of a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    address: Address,
    port: u16,
}

impl End {
    pub(crate) fn new(address: IpAddr, port: u16) -> Self {
        Self { address: address.into(), port }
    }

    pub(crate) fn ip(self) -> IpAddr {
        self.address.into()
    }

    pub(crate) fn port(self) -> u16 {
        self.port
    }

    /// The same end with another port.
    pub(crate) fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> Self {
        Self::new(address.ip(), address.port())
    }
}

impl From<End> for SocketAddr {
    fn from(end: End) -> Self {
        Self::new(end.ip(), end.port)
    }
}

impl Hash for End {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = u128::from_be_bytes(self.address.0);
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        if high == 0 {
            // All that differs between IPv4 addresses fits one word with the port.
            return state.write_u64(low << 16 | u64::from(self.port));
        }
        state.write_u64(high);
        state.write_u64(low);
        state.write_u16(self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ends_of_both_families_come_back_and_differ() {
        let texts = ["10.0.2.15:80", "10.0.2.15:81", "10.0.2.16:80", "[fec0::15]:80", "[fec0::15]:81", "[::1]:80"];
        let ends: HashSet<End> = texts.iter().map(|text| text.parse::<SocketAddr>().unwrap().into()).collect();
        assert_eq!(ends.len(), texts.len());
        for text in texts {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(End::from(address)), address);
            assert!(ends.contains(&End::new(address.ip(), address.port())));
        }
    }
}
