//! What bridges compare: identifiers, priority vectors and times (IEEE 802.1D-2004 §9.2, §17.5, §17.6, §17.18).
//!
//! Lower is better throughout, so the derived order of [`Priority`] is the order of the standard. `bpdu` puts these
//! values on the wire; the state machines compare them.

use std::fmt;
use std::time::Duration;

use link::MacAddr;

use super::{BridgeSettings, PortSettings};
use crate::PortId;

/// A bridge identifier (§9.2.5): the lower is the better candidate for the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgeId {
    /// The priority in the upper four bits; the rest is an extension that some bridges use for a VLAN.
    pub priority: u16,
    /// The bridge's address.
    pub address: MacAddr,
}

impl BridgeId {
    pub(super) fn new(settings: BridgeSettings) -> Self {
        Self { priority: settings.priority & 0xf000, address: settings.address }
    }
}

impl fmt::Display for BridgeId {
    /// As in `8000.52:54:00:12:34:56`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}.{}", self.priority, self.address)
    }
}

/// A port identifier (§9.2.7): a priority in the upper four bits, a number in the lower twelve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortIdentifier(pub u16);

impl PortIdentifier {
    /// Numbers beyond 4095, which the standard does not have, begin again at 1. A cable between two ports of one bridge
    /// whose numbers then agree looks like a port looped to itself, and both ends discard.
    pub(super) fn new(port: PortId, settings: &PortSettings) -> Self {
        Self(u16::from(settings.priority & 0xf0) << 8 | ((port.number() - 1) % 4095 + 1))
    }

    fn number(self) -> u16 {
        self.0 & 0xfff
    }
}

impl fmt::Display for PortIdentifier {
    /// As in `8001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// A priority vector without the receiving port (§17.5). Lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority {
    pub root: BridgeId,
    pub cost: u32,
    pub bridge: BridgeId,
    pub port: PortIdentifier,
}

impl Priority {
    /// What a bridge that knows no other holds: itself as root (§17.18.3).
    pub(super) fn of_bridge(id: BridgeId) -> Self {
        Self { root: id, cost: 0, bridge: id, port: PortIdentifier(0) }
    }

    /// Whether a message with this vector replaces `held` (§17.6): it is better, or it differs and comes from the very
    /// port that `held` came from.
    pub(super) fn is_superior_to(&self, held: &Self) -> bool {
        let same_sender = self.bridge.address == held.bridge.address && self.port.number() == held.port.number();
        self < held || (same_sender && self != held)
    }
}

/// The times that travel with a priority vector (§17.18.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How old the information is: about one second for each bridge it has crossed.
    pub message_age: Duration,
    /// The age at which it is void.
    pub max_age: Duration,
    /// The time between two BPDUs.
    pub hello: Duration,
    /// The time in each of the states before forwarding, where no neighbour allows less.
    pub forward_delay: Duration,
}

impl Times {
    const SECOND: Duration = Duration::from_secs(1);

    /// Table 17-1.
    pub(super) const DEFAULT: Self = Self {
        message_age: Duration::ZERO,
        max_age: Duration::from_secs(20),
        hello: Duration::from_secs(2),
        forward_delay: Duration::from_secs(15),
    };

    /// Times of this bridge, held against table 17-1 and the relations of §17.14.
    pub(super) fn checked(hello: Duration, max_age: Duration, forward_delay: Duration) -> Result<Self, TimesError> {
        let seconds = Duration::from_secs;
        if !(seconds(1)..=seconds(2)).contains(&hello) {
            return Err(TimesError::Hello(hello));
        }
        if !(seconds(6)..=seconds(40)).contains(&max_age) {
            return Err(TimesError::MaxAge(max_age));
        }
        if !(seconds(4)..=seconds(30)).contains(&forward_delay) {
            return Err(TimesError::ForwardDelay(forward_delay));
        }
        if 2 * (forward_delay - Self::SECOND) < max_age {
            return Err(TimesError::MaxAgeTooLong { max_age, forward_delay });
        }
        if max_age < 2 * (hello + Self::SECOND) {
            return Err(TimesError::MaxAgeTooShort { max_age, hello });
        }
        Ok(Self { message_age: Duration::ZERO, max_age, hello, forward_delay })
    }

    /// Times of a neighbour, brought within table 17-1 and the longer hello of IEEE 802.1D-1998 table 8-3, so that
    /// nobody outside can make this bridge hasty.
    #[must_use]
    pub(super) fn clamped(self) -> Self {
        let seconds = Duration::from_secs;
        Self {
            message_age: self.message_age,
            max_age: self.max_age.clamp(seconds(6), seconds(40)),
            hello: self.hello.clamp(seconds(1), seconds(10)),
            forward_delay: self.forward_delay.clamp(seconds(4), seconds(30)),
        }
    }

    /// The same, one bridge further: a second older, in whole seconds (§17.21.25).
    #[must_use]
    pub(super) fn aged(self) -> Self {
        let age = self.message_age + Self::SECOND + Self::SECOND / 2;
        Self { message_age: Duration::from_secs(age.as_secs()), ..self }
    }

    /// How long information with these times is good for: three hellos, or nothing if it is too old (§17.21.23).
    pub(super) fn lifetime(&self) -> Duration {
        if self.aged().message_age <= self.max_age { 3 * self.hello } else { Duration::ZERO }
    }
}

/// Times that a bridge may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimesError {
    /// Table 17-1.
    #[error("spanning tree: hello time {0:?} is not within 1 s to 2 s")]
    Hello(Duration),
    /// Table 17-1.
    #[error("spanning tree: max age {0:?} is not within 6 s to 40 s")]
    MaxAge(Duration),
    /// Table 17-1.
    #[error("spanning tree: forward delay {0:?} is not within 4 s to 30 s")]
    ForwardDelay(Duration),
    /// §17.14: 2 × (forward delay - 1 s) >= max age.
    #[error("spanning tree: max age {max_age:?} is more than 2 * (forward delay {forward_delay:?} - 1s)")]
    MaxAgeTooLong {
        /// The one.
        max_age: Duration,
        /// The other.
        forward_delay: Duration,
    },
    /// §17.14: max age >= 2 × (hello time + 1 s).
    #[error("spanning tree: max age {max_age:?} is less than 2 * (hello time {hello:?} + 1s)")]
    MaxAgeTooShort {
        /// The one.
        max_age: Duration,
        /// The other.
        hello: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(hello: u64, max_age: u64, forward_delay: u64) -> Result<Times, TimesError> {
        let seconds = Duration::from_secs;
        Times::checked(seconds(hello), seconds(max_age), seconds(forward_delay))
    }

    #[test]
    fn times_keep_the_bounds_and_relations_of_the_standard() {
        assert_eq!(times(2, 20, 15), Ok(Times::DEFAULT));
        assert!(times(1, 6, 4).is_ok());
        assert!(times(2, 40, 21).is_ok());
        for (hello, max_age, forward_delay) in
            [(0, 20, 15), (3, 20, 15), (2, 5, 15), (2, 41, 30), (2, 6, 3), (2, 40, 31)]
        {
            assert!(times(hello, max_age, forward_delay).is_err(), "{hello} {max_age} {forward_delay}");
        }
        assert!(matches!(times(2, 20, 10), Err(TimesError::MaxAgeTooLong { .. })));
        let too_short =
            Times::checked(Duration::from_millis(2000), Duration::from_millis(6000), Duration::from_secs(4));
        assert!(too_short.is_ok());
    }

    #[test]
    fn a_bridge_makes_information_a_whole_second_older() {
        let at = |millis| Times { message_age: Duration::from_millis(millis), ..Times::DEFAULT }.aged().message_age;
        assert_eq!(at(0), Duration::from_secs(1));
        assert_eq!(at(1004), Duration::from_secs(2));
        assert_eq!(at(1600), Duration::from_secs(3));
    }

    #[test]
    fn information_of_max_age_is_void() {
        let at = |age| Times { message_age: Duration::from_secs(age), ..Times::DEFAULT }.lifetime();
        assert_eq!(at(19), Duration::from_secs(6));
        assert_eq!(at(20), Duration::ZERO);
    }

    #[test]
    fn a_sender_replaces_its_own_word_even_by_a_worse_one() {
        let bridge = |n| BridgeId { priority: 0x8000, address: MacAddr([2, 0, 0, 0, 0, n]) };
        let good = Priority { root: bridge(1), cost: 5, bridge: bridge(3), port: PortIdentifier(0x8001) };
        let bad = Priority { root: bridge(3), cost: 0, ..good };
        assert!(good < bad);
        assert!(good.is_superior_to(&bad));
        assert!(bad.is_superior_to(&good));
        assert!(!good.is_superior_to(&good));
        assert!(!Priority { bridge: bridge(4), ..bad }.is_superior_to(&good));
    }

    #[test]
    fn ports_beyond_4095_have_identifiers_too() {
        let id = |n| PortIdentifier::new(PortId::new(n).unwrap(), &PortSettings::default());
        assert_eq!(id(1), PortIdentifier(0x8001));
        assert_eq!(id(4095), PortIdentifier(0x8fff));
        assert_eq!(id(4096), PortIdentifier(0x8001));
        assert_eq!(id(65535).to_string(), "800f");
    }
}
