//! What travels between the two ends inside the encrypted connection.
//!
//! ```text
//! hello (once, first on the first stream):  "ELQ" 0 | version | features | MTU (16 bits)
//! message:   0 | frame                                   nothing left to do in it
//!            1 | virtio-net header (12 bytes) | frame     checksum or segmentation left undone
//! datagram:  message, or a part of one:  2 | id (32 bits) | index | count | bytes
//! lane:      messages, each behind its length (32 bits)
//! ```
//!
//! Numbers are big-endian; the virtio-net header is as virtio has it. Invariant: what comes out of here is a frame that agrees
//! with its header; no length from outside makes more memory than [`MAX_MESSAGE`] to be set aside.
//!
//! Neighbours: `fragment` cuts messages and puts them together.

use bytes::{Buf, Bytes, BytesMut};
use link::datagram::MAX_PLAIN_LEN;
use link::{DropReason, Frame, GsoType, MAX_FRAME_LEN, Offloads, VnetHeader};

/// The application protocol (RFC 7301). A change that old programs cannot read gets another number.
pub const ALPN: &[u8] = b"etherloom/1";

/// Bytes of the longest message.
pub const MAX_MESSAGE: usize = 1 + VnetHeader::LEN + MAX_FRAME_LEN;

/// The first byte of a part of a message.
pub const PART: u8 = 2;
const WHOLE: u8 = 0;
const WITH_HEADER: u8 = 1;
/// Bytes of the length in front of a message in a lane.
const LENGTH_LEN: usize = 4;

/// What each side says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What may be left undone in frames for the side that says this.
    pub offloads: Offloads,
    /// Its MTU, in bytes.
    pub mtu: u16,
}

/// Bytes that are no hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloError {
    /// Of something else.
    Foreign,
    /// Of a version that is not known here.
    Version(u8),
}

impl Hello {
    /// Bytes of the wire form.
    pub const LEN: usize = 8;

    const MAGIC: [u8; 4] = *b"ELQ\0";
    const VERSION: u8 = 1;
    const CHECKSUM: u8 = 1;
    const TSO4: u8 = 2;
    const TSO6: u8 = 4;

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let features = flag(self.offloads.checksum, Self::CHECKSUM)
            | flag(self.offloads.tso4, Self::TSO4)
            | flag(self.offloads.tso6, Self::TSO6);
        let [m0, m1, m2, m3] = Self::MAGIC;
        let [high, low] = self.mtu.to_be_bytes();
        [m0, m1, m2, m3, Self::VERSION, features, high, low]
    }

    /// Parses the wire form; features that are not known here are ignored.
    ///
    /// # Errors
    /// It is none, or one of another version.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, HelloError> {
        let [m0, m1, m2, m3, version, features, high, low] = *bytes;
        if [m0, m1, m2, m3] != Self::MAGIC {
            return Err(HelloError::Foreign);
        }
        if version != Self::VERSION {
            return Err(HelloError::Version(version));
        }
        let offloads = Offloads {
            checksum: features & Self::CHECKSUM != 0,
            tso4: features & Self::TSO4 != 0,
            tso6: features & Self::TSO6 != 0,
            uso: false,
        };
        Ok(Self { offloads, mtu: u16::from_be_bytes([high, low]) })
    }
}

/// A frame as a message.
#[must_use]
pub fn message(frame: &Frame<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + VnetHeader::LEN + frame.len());
    append_message(frame, &mut message);
    message
}

/// A frame as a message of a lane.
#[must_use]
pub fn lane_message(frame: &Frame<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(LENGTH_LEN + 1 + VnetHeader::LEN + frame.len());
    message.extend_from_slice(&[0; LENGTH_LEN]);
    append_message(frame, &mut message);
    let len = u32::try_from(message.len() - LENGTH_LEN).unwrap_or(u32::MAX);
    if let Some(place) = message.first_chunk_mut() {
        *place = len.to_be_bytes();
    }
    message
}

fn append_message(frame: &Frame<'_>, message: &mut Vec<u8>) {
    if frame.header == VnetHeader::WHOLE {
        message.push(WHOLE);
    } else {
        message.push(WITH_HEADER);
        message.extend_from_slice(&frame.header.to_bytes());
    }
    frame.append_to(message);
}

/// The frame in a message.
///
/// # Errors
/// Why it is dropped.
pub fn parse_message(message: &[u8]) -> Result<(VnetHeader, &[u8]), DropReason> {
    let (header, frame) = match message.split_first() {
        Some((&WHOLE, frame)) => (VnetHeader::WHOLE, frame),
        Some((&WITH_HEADER, rest)) => {
            let (header, frame) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
            (VnetHeader::parse(header)?, frame)
        }
        _ => return Err(DropReason::Malformed),
    };
    header.check(frame.len())?;
    let limit = if header.gso_type == GsoType::None { MAX_PLAIN_LEN } else { MAX_FRAME_LEN };
    if frame.len() > limit {
        return Err(DropReason::Oversized);
    }
    Ok((header, frame))
}

/// The far side of a lane does not keep to the format: where the next message begins is not known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneBroken;

/// Cuts the bytes of a lane into messages.
#[derive(Debug, Default)]
pub struct LaneReader {
    /// Bytes of messages that are not complete; less than one message, and what came with its end.
    bytes: BytesMut,
}

impl LaneReader {
    /// Takes bytes that follow those from before.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes taken that have not come out.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.bytes.len()
    }

    /// The next message, if it is complete.
    ///
    /// # Errors
    /// A length that no message has.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, LaneBroken> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if len == 0 || len > MAX_MESSAGE {
            return Err(LaneBroken);
        }
        if self.bytes.len() < LENGTH_LEN + len {
            return Ok(None);
        }
        self.bytes.advance(LENGTH_LEN);
        Ok(Some(self.bytes.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use link::{Checksum, Fragment, TxBatch};

    use super::*;

    fn gso() -> VnetHeader {
        VnetHeader {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso_type: GsoType::TcpV4,
            gso_size: 1448,
            ..VnetHeader::WHOLE
        }
    }

    #[test]
    fn a_hello_says_what_its_side_takes() {
        let offloads = Offloads { uso: false, tso6: false, ..Offloads::ALL };
        let hello = Hello { offloads, mtu: 9000 };
        assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
        assert_eq!(Hello::parse(b"SSH-2.0-"), Err(HelloError::Foreign));
        assert_eq!(Hello::parse(b"ELQ\0\x02\0\0\0"), Err(HelloError::Version(2)));
    }

    #[test]
    fn a_frame_comes_out_of_its_message_with_its_header() {
        let bytes = [7; 20_000];
        for (header, len) in [(VnetHeader::WHOLE, 60), (gso(), 20_000)] {
            let mut batch = TxBatch::new();
            batch.push(header, [Fragment::new(&bytes[..len])]);
            let message = message(&batch.frames().next().unwrap());
            assert_eq!(parse_message(&message), Ok((header, &bytes[..len])));
        }
        let plain = |len| parse_message(&vec![0; 1 + len]).map(|(_, frame)| frame.len());
        assert_eq!(plain(13), Err(DropReason::Runt));
        assert_eq!(plain(MAX_PLAIN_LEN), Ok(MAX_PLAIN_LEN));
        assert_eq!(plain(MAX_PLAIN_LEN + 1), Err(DropReason::Oversized));
        assert_eq!(parse_message(&[]), Err(DropReason::Malformed));
        assert_eq!(parse_message(&[3; 60]), Err(DropReason::Malformed));
        assert_eq!(parse_message(&[1; 12]), Err(DropReason::Runt));
    }

    #[test]
    fn messages_leave_a_lane_however_its_bytes_came() {
        let bytes = [7; 3000];
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes[..60])]);
        batch.push(gso(), [Fragment::new(&bytes)]);
        let stream: Vec<u8> = batch.frames().flat_map(|frame| lane_message(&frame)).collect();
        for step in [1, 7, 64, stream.len()] {
            let mut lane = LaneReader::default();
            let mut lens = Vec::new();
            for part in stream.chunks(step) {
                lane.push(part);
                while let Some(message) = lane.next_message().unwrap() {
                    lens.push(parse_message(&message).unwrap().1.len());
                }
            }
            assert_eq!((lens, lane.buffered()), (vec![60, 3000], 0));
        }
        for length in [0_u32, MAX_MESSAGE as u32 + 1, u32::MAX] {
            let mut lane = LaneReader::default();
            lane.push(&length.to_be_bytes());
            assert_eq!(lane.next_message(), Err(LaneBroken));
        }
    }
}
