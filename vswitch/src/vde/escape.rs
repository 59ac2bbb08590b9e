//! What a client says about itself, fit for terminals, logs and tables.

use std::fmt::Write;

/// The most bytes of a client's text that are shown.
const MAX_SHOWN: usize = 128;

/// The text with everything but printable UTF-8 as `\xNN`, backslashes doubled, cut after 128 bytes of input with an
/// ellipsis. No control character comes through, nor one that changes the direction of writing.
#[must_use]
pub fn escape(text: &[u8]) -> String {
    let shown = &text[..text.len().min(MAX_SHOWN)];
    let mut out = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if is_printable(c) => out.push(c),
                c => escape_bytes(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
            }
        }
        escape_bytes(chunk.invalid(), &mut out);
    }
    if shown.len() < text.len() {
        out.push('…');
    }
    out
}

/// Whether the standard library would show a character in a string literal as it is.
fn is_printable(c: char) -> bool {
    matches!(c, '"' | '\'') || c.escape_debug().len() == 1
}

fn escape_bytes(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_stays_as_it_is() {
        for text in ["QEMU", "vdeplug: user=root pid=13160", "Käse \"und\" 'Brot' 日本"] {
            assert_eq!(escape(text.as_bytes()), text);
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_that_moves_it() {
        assert_eq!(escape(b"\x1b[2Jx\r\n\t\0\x7f"), r"\x1b[2Jx\x0d\x0a\x09\x00\x7f");
        assert_eq!(escape(b"a\xffb\xc3"), r"a\xffb\xc3");
        assert_eq!(escape("\u{9b}31m\u{202e}\u{200b}".as_bytes()), r"\xc2\x9b31m\xe2\x80\xae\xe2\x80\x8b");
        assert_eq!(escape(br"\x1b"), r"\\x1b");
    }

    #[test]
    fn long_text_is_cut() {
        let shown = escape(&[b'x'; 500]);
        assert_eq!(shown, format!("{}…", "x".repeat(MAX_SHOWN)));
        // Cut in the midst of a character, the half is bytes.
        assert!(escape("é".repeat(65).as_bytes()).ends_with("é…"));
        assert!(escape(format!("x{}", "é".repeat(65)).as_bytes()).ends_with(r"\xc3…"));
    }
}
