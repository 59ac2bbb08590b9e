//! The bytes of a session: lines in, a queue out.

use std::io::{self, Write};
use std::mem;

/// Bytes of a line, at most, without the rest of what was read with it.
pub(super) const MAX_LINE: usize = 4096;

/// What has been read and not yet carried out.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// What is left of a line that was too long is passed over.
    is_skipping: bool,
    is_at_end: bool,
}

/// A line with more bytes than [`MAX_LINE`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Nothing more will come: what is left is a line too.
    pub(super) fn end(&mut self) {
        self.is_at_end = true;
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// The next line, once all of it is there. Bytes that are not UTF-8 are replaced: no command has any.
    pub(super) fn next(&mut self) -> Option<Result<String, TooLong>> {
        let end = self.bytes.iter().position(|byte| *byte == b'\n');
        let line: Vec<u8> = match end {
            Some(end) => self.bytes.drain(..=end).collect(),
            None if self.is_at_end && (self.is_skipping || !self.bytes.is_empty()) => mem::take(&mut self.bytes),
            None => {
                if self.bytes.len() > MAX_LINE {
                    self.is_skipping = true;
                }
                if self.is_skipping {
                    self.bytes.clear();
                }
                return None;
            }
        };
        let is_whole = !mem::take(&mut self.is_skipping);
        Some(if is_whole { Ok(String::from_utf8_lossy(&line).into_owned()) } else { Err(TooLong) })
    }
}

/// What has been said and not yet taken.
#[derive(Debug, Default)]
pub(super) struct Queue {
    bytes: Vec<u8>,
    sent: usize,
}

impl Queue {
    pub(super) fn push(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Bytes not yet taken.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Hands over what is taken now; whether that was all.
    pub(super) fn flush(&mut self, to: &mut impl Write) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            match to.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Half of it or more is behind: let go of it.
                    if self.sent * 2 > self.bytes.len() {
                        self.bytes.drain(..mem::take(&mut self.sent));
                    }
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        *self = Self::default();
        Ok(true)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes some bytes at a time, and then none.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(3);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn all(lines: &mut Lines) -> Vec<Result<String, TooLong>> {
        std::iter::from_fn(|| lines.next()).collect()
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut lines = Lines::default();
        lines.push(b"port/sho");
        assert_eq!(all(&mut lines), []);
        lines.push(b"winfo\nvlan/print\r\n\nrest");
        let three = ["port/showinfo\n", "vlan/print\r\n", "\n"].map(|line| Ok(line.to_owned()));
        assert_eq!(all(&mut lines), three);
        lines.end();
        assert_eq!(all(&mut lines), [Ok("rest".to_owned())]);
    }

    #[test]
    fn a_line_that_does_not_end_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            lines.push(&[b'x'; 1000]);
            assert_eq!(lines.next(), None);
            assert!(lines.bytes.len() <= MAX_LINE + 1000);
        }
        lines.push(b"\nhelp\n");
        assert_eq!(all(&mut lines), [Err(TooLong), Ok("help\n".to_owned())]);
    }

    #[test]
    fn a_queue_hands_over_what_is_taken_and_keeps_the_rest_in_order() {
        let mut queue = Queue::default();
        let mut narrow = Narrow { taken: Vec::new(), room: 8 };
        queue.push("0123456789");
        assert!(!queue.flush(&mut narrow).unwrap());
        assert_eq!(queue.len(), 2);
        queue.push("ab");
        narrow.room = 100;
        assert!(queue.flush(&mut narrow).unwrap());
        assert_eq!((narrow.taken.as_slice(), queue.len()), (b"0123456789ab".as_slice(), 0));
    }
}
