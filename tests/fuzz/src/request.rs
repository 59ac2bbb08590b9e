//! What clients and switches send each other on `DIR/ctl`, and what clients say of themselves.
//!
//! The input is a request, a reply and a description at once.

use link::vde::wire::{Address, Reply, Request, RequestError};
use vswitch::vde::escape;

/// Bytes of a description that are shown.
const MAX_SHOWN: usize = 128;
/// Characters for one byte: `\x1b`.
const ESCAPED: usize = 4;

/// Tries an input.
pub fn target(data: &[u8]) {
    match Request::parse(data) {
        Ok(request) => read(data, &request),
        Err(RequestError::Short(len)) => assert_eq!(len, data.len()),
        Err(RequestError::Long) => assert!(data.len() > Request::MAX_LEN),
        Err(_) => {}
    }
    if let Some(reply) = data.first_chunk().and_then(Reply::parse) {
        assert_eq!(Reply::parse(&reply.encode()), Some(reply));
        assert!(reply.offer.is_none() || reply.can_offer());
        check_address(&reply.switch);
    }
    check_escaped(data);
}

/// A request that was read.
fn read(data: &[u8], request: &Request) {
    check_address(&request.client);
    assert!(!request.description.contains(&0));
    assert!(request.port <= link::vde::wire::MAX_PORT);
    let written = request.encode();
    let again = Request::parse(&written).expect("a request is written as a request");
    let shown = &request.description[..request.description.len().min(Request::MAX_DESCRIPTION)];
    assert_eq!(again, Request { description: shown.to_vec(), ..request.clone() });
    assert_eq!(again.encode(), written);
    // Every part of it is the beginning of a request.
    for cut in 0..Request::MIN_LEN {
        assert_eq!(Request::parse(&data[..cut]), Err(RequestError::Short(cut)));
    }
    check_escaped(&request.description);
}

/// A path, if there is one, is what the system would make of the address.
fn check_address(address: &Address) {
    assert_eq!(Address::parse(address.as_bytes()), Some(*address));
    let Some(path) = address.path() else { return };
    // One that fills the address to its end has no place for a NUL.
    let has_room = path.as_os_str().len() <= Address::MAX_PATH;
    assert_eq!(Address::of_path(path), has_room.then_some(*address));
}

/// Nothing comes through that moves a terminal or changes the direction of writing, and nothing gets lost.
fn check_escaped(text: &[u8]) {
    let escaped = escape(text);
    assert!(escaped.len() <= MAX_SHOWN * ESCAPED + '…'.len_utf8());
    let is_invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
    };
    assert!(!escaped.contains(is_invisible), "{escaped:?}");
    let kept = &text[..text.len().min(MAX_SHOWN)];
    let shown = if kept.len() < text.len() { escaped.strip_suffix('…').expect("it was cut") } else { &escaped };
    assert_eq!(unescape(shown), kept);
}

/// The text that was escaped.
fn unescape(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16).expect("a digit") as u8;
                bytes.push(digit(high) << 4 | digit(low));
                tail
            }
            (b'\\', _) => panic!("no escape: {shown}"),
            (byte, tail) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    bytes
}
