//! What can wake the event loop: the meaning of a [`Token`].

use mio::Token;

/// A source of readiness. The number names one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A signal that ends the switch.
    Signal,
    /// Some network interface of this host has changed.
    Interfaces,
    /// A client at the VDE control socket.
    Door,
    /// A client that is saying which port it wants.
    Knock(u32),
    /// Frames, or room, at a member of a port.
    Member(u32),
    /// The control connection of a member: it speaks only by closing.
    Control(u32),
    /// Somebody at the management socket.
    ConsoleDoor,
    /// A line typed at a console.
    Console(u32),
    /// Somebody at the socket of the watching commands.
    WatchDoor,
    /// A request of a watching command, or room for more of its answer.
    Watch(u32),
    /// Somebody at the metrics endpoint.
    MetricsDoor,
    /// A request for metrics.
    Metrics(u32),
}

/// Bits of a token below the kind.
const NUMBER_BITS: u32 = 32;

impl Wake {
    /// The token to register a source under.
    #[must_use]
    pub fn token(self) -> Token {
        let (kind, number) = match self {
            Self::Signal => (0, 0),
            Self::Interfaces => (1, 0),
            Self::Door => (2, 0),
            Self::Knock(number) => (3, number),
            Self::Member(number) => (4, number),
            Self::Control(number) => (5, number),
            Self::ConsoleDoor => (6, 0),
            Self::Console(number) => (7, number),
            Self::WatchDoor => (8, 0),
            Self::Watch(number) => (9, number),
            Self::MetricsDoor => (10, 0),
            Self::Metrics(number) => (11, number),
        };
        Token(kind << NUMBER_BITS | number as usize)
    }

    /// The source of a token that [`Wake::token`] made.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the number is the low half")]
    pub fn from_token(token: Token) -> Option<Self> {
        let number = token.0 as u32;
        Some(match token.0 >> NUMBER_BITS {
            0 => Self::Signal,
            1 => Self::Interfaces,
            2 => Self::Door,
            3 => Self::Knock(number),
            4 => Self::Member(number),
            5 => Self::Control(number),
            6 => Self::ConsoleDoor,
            7 => Self::Console(number),
            8 => Self::WatchDoor,
            9 => Self::Watch(number),
            10 => Self::MetricsDoor,
            11 => Self::Metrics(number),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_means_what_it_was_made_from() {
        let sources = [
            Wake::Signal,
            Wake::Interfaces,
            Wake::Door,
            Wake::Knock(0),
            Wake::Member(u32::MAX),
            Wake::Control(7),
            Wake::ConsoleDoor,
            Wake::Console(1),
            Wake::WatchDoor,
            Wake::Watch(2),
            Wake::MetricsDoor,
            Wake::Metrics(3),
        ];
        for source in sources {
            assert_eq!(Wake::from_token(source.token()), Some(source));
        }
        assert_eq!(Wake::from_token(Token(usize::MAX)), None);
    }
}
