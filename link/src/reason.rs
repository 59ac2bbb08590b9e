//! An operating-system error in the words a person expects.
//!
//! `io::Error` prints "No such file or directory (os error 2)"; a message that goes on after it reads better without the
//! number.

use std::io;

/// The error's text without the trailing " (os error N)".
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_left_out() {
        assert_eq!(reason(&io::Error::from_raw_os_error(libc::ENOENT)), "No such file or directory");
        assert_eq!(reason(&io::Error::other("torn")), "torn");
    }
}
