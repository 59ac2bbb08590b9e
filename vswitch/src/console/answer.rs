//! What a console says: success, or a failure by the number of a system error, as vde_switch has it.
//!
//! Commands of vde_switch fail with the numbers it fails with. Where the system's words for a number would not say what
//! is wrong, ours follow the number instead.

use std::error::Error;
use std::fmt;
use std::io;

use crate::bridge::BridgeError;
use crate::switch::SwitchError;
use program::options::printable;

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    errno: i32,
    /// What is wrong, if the system's words for the number do not say it.
    words: Option<String>,
}

/// What a command's execution comes to.
pub(super) type Outcome = Result<(), Failure>;

impl Failure {
    pub(super) fn new(errno: i32) -> Self {
        Self { errno, words: None }
    }

    pub(super) fn saying(errno: i32, words: impl fmt::Display) -> Self {
        Self { errno, words: Some(printable(&words.to_string())) }
    }

    /// The error of a system call that is somewhere in the chain of causes, or `EINVAL`, with the words of the whole.
    fn from_chain(whole: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(whole);
        while let Some(error) = cause {
            if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                return Self::saying(errno, whole);
            }
            cause = error.source();
        }
        Self::saying(libc::EINVAL, whole)
    }
}

impl fmt::Display for Failure {
    /// As in `1017 File exists`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Some(words) => write!(f, "1{:03} {words}", self.errno),
            None => write!(f, "1{:03} {}", self.errno, link::reason(&io::Error::from_raw_os_error(self.errno))),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::new(errno),
            None => Self::saying(libc::EIO, link::reason(&error)),
        }
    }
}

impl From<SwitchError> for Failure {
    fn from(error: SwitchError) -> Self {
        match error {
            SwitchError::NoPort(_) | SwitchError::NoMember { .. } => Self::new(libc::ENXIO),
            SwitchError::PortExists(_) => Self::new(libc::EEXIST),
            SwitchError::PortLimit { .. } => Self::new(libc::EINVAL),
            SwitchError::PortInUse(_) => Self::new(libc::EADDRINUSE),
            SwitchError::Full(_) => Self::saying(libc::ENOSPC, error),
            error => Self::from_chain(&error),
        }
    }
}

impl From<BridgeError> for Failure {
    fn from(error: BridgeError) -> Self {
        match error {
            BridgeError::NoSuchPort(_) | BridgeError::NoSuchVlan(_) => Self::new(libc::ENXIO),
            BridgeError::VlanExists(_) => Self::new(libc::EEXIST),
            BridgeError::VlanInUse(_) => Self::new(libc::EADDRINUSE),
            error => Self::saying(libc::EINVAL, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PortId;

    #[test]
    fn a_failure_is_a_number_and_the_system_s_words() {
        assert_eq!(Failure::new(libc::EEXIST).to_string(), "1017 File exists");
        assert_eq!(Failure::new(libc::ENOSYS).to_string(), "1038 Function not implemented");
        assert_eq!(Failure::from(SwitchError::NoPort(PortId::FIRST)).to_string(), "1006 No such device or address");
        assert_eq!(Failure::from(SwitchError::PortInUse(PortId::FIRST)).to_string(), "1098 Address already in use");
    }

    #[test]
    fn a_link_that_cannot_be_opened_says_why_on_one_line() {
        let locator = "nosuch://a\n1000".parse().unwrap();
        let error = SwitchError::from(plug::open(&locator).err().unwrap());
        let text = Failure::from(error).to_string();
        assert!(text.starts_with("1022 ") && text.contains("nosuch") && !text.contains('\n'), "{text}");
    }
}
