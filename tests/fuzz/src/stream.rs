//! Streams of frames in each framing, and the words by which two of our programs agree.
//!
//! The input's first byte chooses the framing, its second the size of the pieces in which the rest arrives. What comes out
//! must not depend on the pieces, and what is a frame must be one that may be sent again.

use link::stream::wire::{Decoder, Framing, Item};
use link::{DropReason, Offloads, VnetHeader};

use super::data::Data;

/// What a stream held.
#[derive(Debug, PartialEq)]
enum Held {
    Frame(VnetHeader, Vec<u8>),
    Bad(DropReason),
    Greeting,
    Hello(Offloads, bool, Option<String>),
    Turn,
    Confirmed(u64),
    Garbage,
}

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut choices = Data::new(data.get(..2).unwrap_or_default());
    let framing = choices.pick(&[Framing::Vde, Framing::Qemu, Framing::Etherloom]);
    let piece = usize::from(choices.byte()).max(1);
    let stream = data.get(2..).unwrap_or_default();
    let held = decode(framing, stream, piece);
    assert_eq!(held, decode(framing, stream, stream.len().max(1)), "pieces of {piece}");
    let mut framing = framing;
    for item in held {
        match item {
            Held::Frame(header, frame) => assert_eq!(framing.check(&header, frame.len()), Ok(())),
            Held::Turn => framing = Framing::Etherloom,
            _ => {}
        }
    }
}

fn decode(framing: Framing, stream: &[u8], piece: usize) -> Vec<Held> {
    let mut decoder = Decoder::new(framing);
    let mut held = Vec::new();
    for piece in stream.chunks(piece) {
        decoder.room()[..piece.len()].copy_from_slice(piece);
        decoder.filled(piece.len());
        loop {
            held.push(match decoder.next_item() {
                Ok(None) => break,
                Ok(Some(Item::Frame(header, frame))) => Held::Frame(header, frame.to_vec()),
                Ok(Some(Item::Bad(reason))) => Held::Bad(reason),
                Ok(Some(Item::Greeting)) => Held::Greeting,
                Ok(Some(Item::Hello(hello))) => {
                    Held::Hello(hello.receives, hello.confirms, hello.data.map(str::to_owned))
                }
                Ok(Some(Item::Turn)) => Held::Turn,
                Ok(Some(Item::Confirmed(total))) => Held::Confirmed(total),
                Err(garbage) => {
                    assert!(!garbage.to_string().contains('\n'), "{garbage}");
                    held.push(Held::Garbage);
                    return held;
                }
            });
        }
        assert!(!decoder.room().is_empty(), "room for more");
    }
    held
}
