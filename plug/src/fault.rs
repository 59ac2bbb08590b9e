//! Why a link that reaches another host came to its end, in the terms of a cable's exit status.

use std::io;

/// The end of a link. Travels inside an [`io::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// What kind of end.
    pub kind: FaultKind,
    /// The end, for people, with the object's name.
    pub what: String,
}

/// What kind of end, and so whether another try may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The far side has ended as it should.
    Ended,
    /// There is no switch, or it lets nobody in now.
    Unavailable,
    /// The way to the far side is broken.
    Transport,
    /// The far side speaks something else.
    Protocol,
    /// The far side does not admit us, or we do not trust it.
    Denied,
    /// Something of this host's.
    Failed,
}

impl FaultKind {
    /// The exit status (sysexits(3)).
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Ended => 0,
            Self::Unavailable => 69,
            Self::Transport => 75,
            Self::Protocol => 76,
            Self::Denied => 77,
            Self::Failed => 1,
        }
    }

    /// The kind that a status stands for, if it is one of a cable's.
    #[must_use]
    pub fn of_status(status: u8) -> Option<Self> {
        let kinds = [Self::Ended, Self::Unavailable, Self::Transport, Self::Protocol, Self::Denied];
        kinds.into_iter().find(|kind| kind.status() == status)
    }

    /// Whether the same may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Ended | Self::Unavailable | Self::Transport)
    }

    /// As an error.
    #[must_use]
    pub fn error(self, what: String) -> io::Error {
        io::Error::other(Fault { kind: self, what })
    }

    /// What an error of a link means. One that says nothing of its kind is the end of a stream, no stream of frames at
    /// all, or a broken way.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>());
        match (fault, error.kind()) {
            (Some(fault), _) => fault.kind,
            (None, io::ErrorKind::UnexpectedEof) => Self::Ended,
            (None, io::ErrorKind::InvalidData) => Self::Protocol,
            (None, io::ErrorKind::PermissionDenied) => Self::Denied,
            (None, _) => Self::Transport,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_keeps_its_kind_inside_an_error() {
        for status in [0, 69, 75, 76, 77] {
            let kind = FaultKind::of_status(status).unwrap();
            let error = kind.error("ssh://x: away".to_owned());
            assert_eq!((FaultKind::of(&error).status(), error.to_string().as_str()), (status, "ssh://x: away"));
        }
        assert_eq!(FaultKind::of_status(1), None);
        assert_eq!(FaultKind::of(&io::ErrorKind::BrokenPipe.into()), FaultKind::Transport);
    }
}
