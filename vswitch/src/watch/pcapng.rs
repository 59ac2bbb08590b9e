//! The blocks of a capture of one port, in pcapng (draft-ietf-opsawg-pcapng): appended to memory, in native byte order.
//!
//! Frames stand as they passed the port: a frame still to be segmented is one long frame, and a comment says into what
//! it will be cut. Only a partial checksum is filled in, in the captured copy: a reader would otherwise see a wrong one
//! in every frame that this host sends. A frame that the bridge dropped as it came in has the reason as a comment.
//!
//! Times are nanoseconds. The pcap-file crate is not used here: it writes the time of an interface's statistics as one
//! 64-bit number, which on a little-endian machine is not what the format has.

use std::time::{SystemTime, UNIX_EPOCH};

use link::soft::finish_checksum;
use link::{Checksum, GsoType, VnetHeader};

use crate::switch::{Caught, Direction};

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const LINKTYPE_ETHERNET: u16 = 1;

/// Options of any block.
const END_OF_OPTIONS: u16 = 0;
const COMMENT: u16 = 1;

/// Appends the head of the file: its section, and its one interface.
pub(super) fn append_head(application: &str, name: &str, out: &mut Vec<u8>) {
    const OS: u16 = 3;
    const APPLICATION: u16 = 4;
    const NAME: u16 = 2;
    const DESCRIPTION: u16 = 3;
    const TIME_RESOLUTION: u16 = 9;
    const FCS_LENGTH: u16 = 13;
    append_block(SECTION_HEADER, out, |out| {
        out.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        // How long the section will be is not known.
        out.extend(u64::MAX.to_ne_bytes());
        append_option(OS, b"Linux", out);
        append_option(APPLICATION, application.as_bytes(), out);
        append_option(END_OF_OPTIONS, &[], out);
    });
    append_block(INTERFACE_DESCRIPTION, out, |out| {
        out.extend(LINKTYPE_ETHERNET.to_ne_bytes());
        out.extend([0; 2]);
        // Frames are whole, however long.
        out.extend(0u32.to_ne_bytes());
        append_option(NAME, name.as_bytes(), out);
        let description =
            "inbound came into the switch; partial checksums are filled in, long frames are still to be cut";
        append_option(DESCRIPTION, description.as_bytes(), out);
        append_option(TIME_RESOLUTION, &[9], out);
        append_option(FCS_LENGTH, &[0], out);
        append_option(END_OF_OPTIONS, &[], out);
    });
}

/// Appends a frame, given in two parts.
pub(super) fn append_frame(caught: &Caught, parts: [&[u8]; 2], out: &mut Vec<u8>) {
    const FLAGS: u16 = 2;
    const DROP_COUNT: u16 = 4;
    const INBOUND: u32 = 1;
    const OUTBOUND: u32 = 2;
    append_block(ENHANCED_PACKET, out, |out| {
        out.extend(0u32.to_ne_bytes());
        append_time(caught.time, out);
        #[allow(clippy::cast_possible_truncation, reason = "a frame is not longer than link::MAX_FRAME_LEN")]
        let len = caught.len as u32;
        out.extend(len.to_ne_bytes());
        out.extend(len.to_ne_bytes());
        let start = out.len();
        for part in parts {
            out.extend_from_slice(part);
        }
        if let (Checksum::Partial { start: at, offset }, Some(frame)) = (caught.header.checksum, out.get_mut(start..)) {
            // A checksum that lies outside the frame stays as it is: the receiver will count it.
            let _ = finish_checksum(frame, at, offset);
        }
        pad(caught.len, out);
        let flags = if caught.direction == Direction::In { INBOUND } else { OUTBOUND };
        append_option(FLAGS, &flags.to_ne_bytes(), out);
        if caught.missed_before != 0 {
            append_option(DROP_COUNT, &caught.missed_before.to_ne_bytes(), out);
        }
        if let Some(reason) = caught.dropped {
            append_option(COMMENT, format!("dropped by the switch: {reason}").as_bytes(), out);
        }
        if let Some(comment) = segmentation(&caught.header) {
            append_option(COMMENT, comment.as_bytes(), out);
        }
        append_option(END_OF_OPTIONS, &[], out);
    });
}

/// What a capture came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statistics {
    pub began: SystemTime,
    pub ended: SystemTime,
    /// Frames that passed the port.
    pub passed: u64,
    /// Those of them that are not in the file, because its reader was too slow.
    pub missed: u64,
}

/// Appends what the capture came to: the file's last block.
pub(super) fn append_statistics(statistics: &Statistics, out: &mut Vec<u8>) {
    const START_TIME: u16 = 2;
    const END_TIME: u16 = 3;
    const RECEIVED: u16 = 4;
    const DROPPED: u16 = 5;
    const DELIVERED: u16 = 8;
    append_block(INTERFACE_STATISTICS, out, |out| {
        out.extend(0u32.to_ne_bytes());
        append_time(statistics.ended, out);
        for (code, time) in [(START_TIME, statistics.began), (END_TIME, statistics.ended)] {
            let mut value = Vec::new();
            append_time(time, &mut value);
            append_option(code, &value, out);
        }
        let delivered = statistics.passed.saturating_sub(statistics.missed);
        for (code, frames) in [(RECEIVED, statistics.passed), (DROPPED, statistics.missed), (DELIVERED, delivered)] {
            append_option(code, &frames.to_ne_bytes(), out);
        }
        append_option(END_OF_OPTIONS, &[], out);
    });
}

/// Into what a frame is still to be cut.
fn segmentation(header: &VnetHeader) -> Option<String> {
    let size = header.gso_size;
    match header.gso_type {
        GsoType::None => None,
        GsoType::TcpV4 | GsoType::TcpV6 => Some(format!("still to be cut into TCP segments of {size} bytes")),
        GsoType::Udp => Some(format!("still to be cut into UDP datagrams of {size} bytes")),
    }
}

fn append_block(kind: u32, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    #[allow(clippy::cast_possible_truncation, reason = "a frame and a few options")]
    let len = (out.len() - start + 4) as u32;
    out.extend(len.to_ne_bytes());
    if let Some(place) = out.get_mut(start + 4..start + 8) {
        place.copy_from_slice(&len.to_ne_bytes());
    }
}

/// Appends an option. A value is cut where the format has no more room for its length.
fn append_option(code: u16, value: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    out.extend(code.to_ne_bytes());
    out.extend(len.to_ne_bytes());
    out.extend_from_slice(&value[..usize::from(len)]);
    pad(usize::from(len), out);
}

/// Fills up to 32 bits behind a value of that length.
fn pad(len: usize, out: &mut Vec<u8>) {
    out.resize(out.len() + len.next_multiple_of(4) - len, 0);
}

/// Appends nanoseconds since the epoch, the upper half first.
#[allow(clippy::cast_possible_truncation, reason = "64 bits of nanoseconds last until 2554; the halves are taken")]
fn append_time(time: SystemTime, out: &mut Vec<u8>) {
    let nanoseconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    out.extend(((nanoseconds >> 32) as u32).to_ne_bytes());
    out.extend((nanoseconds as u32).to_ne_bytes());
}
