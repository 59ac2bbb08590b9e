//! Frames on a byte stream: three framings, and how two of our programs agree on the best of them.
//!
//! | framing | record |
//! |---|---|
//! | VDE | length (2 bytes, big-endian), frame; a length of 0 is skipped |
//! | QEMU | length (4 bytes, big-endian), frame |
//! | Etherloom | length (4 bytes, big-endian) of what follows: [`VnetHeader`] (12 bytes), frame |
//!
//! # Agreement
//!
//! A VDE stream has no handshake, and what is sent on it must be frames. Three things pass between its records that a
//! program of VDE's never sees or never gets:
//!
//! - the *greeting*: [`GREETING_RECORDS`] records of length 0, which VDE's programs skip. It says: I am Etherloom's.
//! - the *hello*: a line, `ETHERLOOM 1 csum tso4 tso6 uso`, the offloads that its sender receives, and perhaps
//!   `data=…`, another way that its sender offers for frames ([`Hello`]). Its first two bytes are no length of a frame. It
//!   is sent to a peer that has greeted, or that is known to be ours.
//! - the *turn*: a line, `ETHERLOOM go`. What its sender sends after it is in Etherloom's framing. It follows when hellos
//!   have passed both ways.
//!
//! So no side ever waits for the other, and each direction changes at a boundary that its sender chooses.
//!
//! Pure, but for the memory. Neighbour: `super`, which reads and writes.

use crate::datagram::MAX_PLAIN_LEN;
use crate::{DropReason, GsoType, MAX_FRAME_LEN, Offloads, VnetHeader};

/// Records of length 0 that make a greeting.
pub const GREETING_RECORDS: usize = 5;
/// A greeting.
pub const GREETING: [u8; 2 * GREETING_RECORDS] = [0; 2 * GREETING_RECORDS];

/// What every line begins with.
const MAGIC: &[u8; 10] = b"ETHERLOOM ";
/// Bytes of a line at most, its end included.
const MAX_LINE: usize = 256;
/// The longest record that QEMU 7.2 sends or takes, in bytes.
const MAX_QEMU_RECORD: usize = 69_632;
/// Bytes that a decoder holds.
const BUFFER: usize = 256 * 1024;

/// How frames lie in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// As vde_plug has it.
    Vde,
    /// As QEMU's `-netdev stream` and `-netdev socket` have it.
    Qemu,
    /// Ours.
    Etherloom,
}

impl Framing {
    /// Whether a frame may be sent.
    ///
    /// # Errors
    /// [`DropReason::Runt`], [`DropReason::Oversized`], [`DropReason::BadOffload`].
    pub fn check(self, header: &VnetHeader, len: usize) -> Result<(), DropReason> {
        let is_long = self == Self::Etherloom && header.gso_type != GsoType::None;
        if len > if is_long { MAX_FRAME_LEN } else { MAX_PLAIN_LEN } {
            return Err(DropReason::Oversized);
        }
        if self != Self::Etherloom && !Offloads::NONE.permit(header) {
            return Err(DropReason::BadOffload);
        }
        header.check(len)
    }

    /// Appends what stands before a frame that [`Framing::check`] lets pass.
    #[allow(clippy::cast_possible_truncation, reason = "a frame that was checked is shorter than 65,536 + 12 bytes")]
    pub fn prefix(self, header: &VnetHeader, len: usize, out: &mut Vec<u8>) {
        match self {
            Self::Vde => out.extend_from_slice(&(len as u16).to_be_bytes()),
            Self::Qemu => out.extend_from_slice(&(len as u32).to_be_bytes()),
            Self::Etherloom => {
                out.extend_from_slice(&((VnetHeader::LEN + len) as u32).to_be_bytes());
                out.extend_from_slice(&header.to_bytes());
            }
        }
    }

    fn length_len(self) -> usize {
        if self == Self::Vde { 2 } else { 4 }
    }

    /// The longest record that is one, in bytes.
    fn max_record(self) -> usize {
        match self {
            Self::Vde => MAX_PLAIN_LEN,
            Self::Qemu => MAX_QEMU_RECORD,
            Self::Etherloom => VnetHeader::LEN + MAX_FRAME_LEN,
        }
    }
}

/// What a side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// What it receives.
    pub receives: Offloads,
    /// Another way for frames, without blanks; what that means is between those who use it.
    pub data: Option<&'a str>,
}

impl Hello<'_> {
    /// The line.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut receives = self.receives;
        let flags = OFFLOADS.iter().filter(|(_, flag)| *flag(&mut receives)).map(|(word, _)| (*word).to_owned());
        let data = self.data.map(|data| format!("{DATA}{data}"));
        let words: Vec<String> = std::iter::once("1".to_owned()).chain(flags).chain(data).collect();
        [MAGIC, words.join(" ").as_bytes(), b"\n"].concat()
    }
}

/// What stands before another way.
const DATA: &str = "data=";

/// The turn.
#[must_use]
pub fn turn() -> Vec<u8> {
    [MAGIC, b"go\n".as_slice()].concat()
}

/// Where the first line of ours begins.
pub(super) fn find_line(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MAGIC.len()).position(|window| window == MAGIC)
}

/// A place among the offloads.
type Flag = fn(&mut Offloads) -> &mut bool;
const OFFLOADS: [(&str, Flag); 4] = [
    ("csum", |offloads| &mut offloads.checksum),
    ("tso4", |offloads| &mut offloads.tso4),
    ("tso6", |offloads| &mut offloads.tso6),
    ("uso", |offloads| &mut offloads.uso),
];

/// What a stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame.
    Frame(VnetHeader, &'a [u8]),
    /// A record that is no frame.
    Bad(DropReason),
    /// A greeting.
    Greeting,
    /// A hello.
    Hello(Hello<'a>),
    /// A turn; the decoder has turned.
    Turn,
}

/// Something that is no record, and the stream cannot be followed behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what came is no stream of frames: {}", printable(.0))]
pub struct Garbage(pub Vec<u8>);

impl Garbage {
    /// What came, as far as it is shown.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes[..bytes.len().min(256)].to_vec())
    }
}

/// The first bytes, for people: text as text, anything else in hexadecimal digits.
fn printable(bytes: &[u8]) -> String {
    let is_text = |c: &u8| c.is_ascii_graphic() || c.is_ascii_whitespace();
    let first = &bytes[..bytes.len().min(80)];
    let len = first.iter().take_while(|c| is_text(c)).count();
    if len >= 4.min(bytes.len()) && len > 0 {
        return format!("'{}'", String::from_utf8_lossy(&first[..len]).trim().escape_debug());
    }
    first.iter().take(16).map(|c| format!("{c:02x}")).collect::<Vec<_>>().join(" ")
}

/// Takes a stream apart that comes in pieces of any size.
pub struct Decoder {
    framing: Framing,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Records of length 0 in a row.
    zeros: usize,
}

impl Decoder {
    /// For a stream that begins in this framing.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self { framing, buffer: vec![0; BUFFER].into(), start: 0, end: 0, zeros: 0 }
    }

    /// Where the next bytes go: never empty after [`Decoder::next_item`] has returned `None`.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < BUFFER / 2 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put there.
    pub fn filled(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buffer.len());
    }

    /// Bytes that belong to no item yet.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Forgets bytes of the rest.
    pub fn skip(&mut self, len: usize) {
        self.start = (self.start + len).min(self.end);
    }

    /// The next item, if it is there as a whole.
    ///
    /// # Errors
    /// [`Garbage`].
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, Garbage> {
        loop {
            let framing = self.framing;
            let length_len = framing.length_len();
            let Some(length) = self.rest().get(..length_len) else { return Ok(None) };
            if framing == Framing::Vde && MAGIC.starts_with(length) {
                return self.line();
            }
            let len = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            if len > framing.max_record() {
                return Err(Garbage::of(self.rest()));
            }
            if self.rest().len() < length_len + len {
                return Ok(None);
            }
            let begin = self.start + length_len;
            self.start = begin + len;
            if len == 0 {
                self.zeros += 1;
                if self.zeros == GREETING_RECORDS {
                    return Ok(Some(Item::Greeting));
                }
                continue;
            }
            self.zeros = 0;
            return Ok(Some(record(framing, &self.buffer[begin..begin + len])));
        }
    }

    fn line(&mut self) -> Result<Option<Item<'_>>, Garbage> {
        let rest = self.rest();
        let agrees = rest.iter().zip(MAGIC).all(|(one, other)| one == other);
        let end = rest.iter().take(MAX_LINE).position(|c| *c == b'\n');
        let end = match end {
            Some(end) if agrees => end,
            None if agrees && rest.len() < MAX_LINE => return Ok(None),
            _ => return Err(Garbage::of(rest)),
        };
        let begin = self.start;
        self.start += end + 1;
        let bytes = &self.buffer[begin..self.end];
        let line = bytes.get(MAGIC.len()..end).unwrap_or_default();
        let item = parse_line(line).ok_or_else(|| Garbage::of(bytes))?;
        if item == Item::Turn {
            self.framing = Framing::Etherloom;
        }
        Ok(Some(item))
    }
}

/// What follows the magic. Words of later versions are passed over.
fn parse_line(line: &[u8]) -> Option<Item<'_>> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    match words.next()? {
        "go" => Some(Item::Turn),
        version => {
            version.parse::<u32>().ok().filter(|version| *version > 0)?;
            let (mut receives, mut data) = (Offloads::NONE, None);
            for word in words {
                data = word.strip_prefix(DATA).or(data);
                if let Some((_, flag)) = OFFLOADS.iter().find(|(name, _)| *name == word) {
                    *flag(&mut receives) = true;
                }
            }
            Some(Item::Hello(Hello { receives, data }))
        }
    }
}

fn record(framing: Framing, bytes: &[u8]) -> Item<'_> {
    let parsed = match (framing, bytes.split_first_chunk::<{ VnetHeader::LEN }>()) {
        (Framing::Etherloom, Some((header, frame))) => VnetHeader::parse(header).map(|header| (header, frame)),
        (Framing::Etherloom, None) => Err(DropReason::Runt),
        (Framing::Vde | Framing::Qemu, _) => Ok((VnetHeader::WHOLE, bytes)),
    };
    let checked = parsed.and_then(|(header, frame)| framing.check(&header, frame.len()).map(|()| (header, frame)));
    checked.map_or_else(Item::Bad, |(header, frame)| Item::Frame(header, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a decoder makes of bytes that come in pieces of `piece`.
    fn items(framing: Framing, bytes: &[u8], piece: usize) -> Result<Vec<String>, Garbage> {
        let mut decoder = Decoder::new(framing);
        let mut items = Vec::new();
        for piece in bytes.chunks(piece) {
            decoder.room()[..piece.len()].copy_from_slice(piece);
            decoder.filled(piece.len());
            while let Some(item) = decoder.next_item()? {
                items.push(match item {
                    Item::Frame(header, frame) => format!("{} {:?}", frame.len(), header.gso_type),
                    other => format!("{other:?}"),
                });
            }
        }
        Ok(items)
    }

    fn encoded(framing: Framing, header: &VnetHeader, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        framing.check(header, len).unwrap();
        framing.prefix(header, len, &mut out);
        out.resize(out.len() + len, 0x45);
        out
    }

    #[test]
    fn every_framing_comes_out_as_it_went_in_whatever_the_pieces() {
        for framing in [Framing::Vde, Framing::Qemu, Framing::Etherloom] {
            let frames = [14, 60, 1514, 9000].map(|len| encoded(framing, &VnetHeader::WHOLE, len)).concat();
            for piece in [1, 2, 3, 1000, 100_000] {
                let expected = ["14 None", "60 None", "1514 None", "9000 None"];
                assert_eq!(items(framing, &frames, piece).unwrap(), expected, "{framing:?} {piece}");
            }
        }
    }

    #[test]
    fn only_our_framing_carries_work_left_undone() {
        let header = VnetHeader {
            checksum: crate::Checksum::Partial { start: 34, offset: 16 },
            gso_type: GsoType::TcpV4,
            gso_size: 1448,
            ..VnetHeader::WHOLE
        };
        assert_eq!(Framing::Vde.check(&header, 9000), Err(DropReason::BadOffload));
        assert_eq!(Framing::Qemu.check(&header, 64_000), Err(DropReason::Oversized));
        let bytes = encoded(Framing::Etherloom, &header, 64_000);
        assert_eq!(items(Framing::Etherloom, &bytes, 999).unwrap(), ["64000 TcpV4"]);
    }

    #[test]
    fn a_greeting_a_hello_and_a_turn_pass_between_frames() {
        let offloads = Offloads { uso: false, ..Offloads::ALL };
        let hello = Hello { receives: offloads, data: Some("quic,x") };
        assert_eq!(hello.line(), b"ETHERLOOM 1 csum tso4 tso6 data=quic,x\n");
        let bytes = [
            encoded(Framing::Vde, &VnetHeader::WHOLE, 60),
            GREETING.to_vec(),
            encoded(Framing::Vde, &VnetHeader::WHOLE, 61),
            hello.line(),
            turn(),
            encoded(Framing::Etherloom, &VnetHeader::WHOLE, 62),
        ]
        .concat();
        for piece in [1, 7, 10_000] {
            let hello = format!("{:?}", Item::Hello(hello));
            let expected = ["60 None", "Greeting", "61 None", &hello, "Turn", "62 None"];
            assert_eq!(items(Framing::Vde, &bytes, piece).unwrap(), expected);
        }
        let newer = b"ETHERLOOM 2 csum quantum\n";
        let receives = Offloads { checksum: true, ..Offloads::NONE };
        assert_eq!(
            items(Framing::Vde, newer, 100).unwrap(),
            [format!("{:?}", Item::Hello(Hello { receives, data: None }))]
        );
    }

    #[test]
    fn records_that_are_no_frames_cost_themselves_only() {
        let bytes = [vec![0, 0, 0, 5, 1, 2, 3, 4, 5], encoded(Framing::Vde, &VnetHeader::WHOLE, 60)].concat();
        assert_eq!(items(Framing::Vde, &bytes, 100).unwrap(), ["Bad(Runt)", "60 None"]);
        let long = [&69_632_u32.to_be_bytes()[..], &vec![0; 69_632]].concat();
        assert_eq!(items(Framing::Qemu, &long, 1000).unwrap(), ["Bad(Oversized)"]);
    }

    #[test]
    fn garbage_is_shown() {
        let shown = |framing, bytes: &[u8]| items(framing, bytes, 1000).unwrap_err().to_string();
        assert!(shown(Framing::Vde, b"Welcome to host\n").ends_with("'Welcome to host'"));
        assert!(shown(Framing::Vde, b"ETHERNET is not it\n").contains("'ETHERNET is"));
        assert!(shown(Framing::Vde, b"ETHERLOOM zero\n").contains("zero"));
        assert!(shown(Framing::Vde, &[b"ETHERLOOM ".as_slice(), &[b'x'; 300]].concat()).contains("xxx"));
        assert!(shown(Framing::Qemu, &70_000_u32.to_be_bytes()).ends_with("00 01 11 70"));
        assert!(shown(Framing::Etherloom, &[0xff; 8]).ends_with("ff ff ff ff ff ff ff ff"));
    }
}
