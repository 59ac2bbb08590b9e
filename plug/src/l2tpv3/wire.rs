//! The header of an L2TPv3 data message (RFC 3931 §4.1), read and written as QEMU and the kernel have it. It does no I/O
//! and keeps nothing.
//!
//! ```text
//! over UDP (§4.1.2.1):  00 03 00 00 · what follows   (T = 0, version 3)
//! over IP (§4.1.1.1):                 session, 4 bytes · cookie, 0, 4 or 8 · counter, 0 or 4 · offset, n
//! ```
//!
//! The layout is configured at both ends and not told in the message. The counter stands where the L2-specific sublayer
//! is (§4.6): QEMU's is a plain number, and zero (`pincounter`) is a sublayer without a sequence number, as the kernel's
//! `l2spec_type default` expects it. What it says on receipt is ignored, as QEMU does. Bytes of the offset are zeros.

use link::DropReason;

/// The longest offset, in bytes.
pub const MAX_OFFSET: u8 = 48;

/// How long a cookie is (RFC 3931 §4.1: "0, 32 or 64 bits").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CookieSize {
    /// There is none.
    #[default]
    None,
    /// 32 bits.
    Four,
    /// 64 bits.
    Eight,
}

/// What a header consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Over UDP: with flags and version.
    pub is_udp: bool,
    /// The cookie.
    pub cookie: CookieSize,
    /// Whether there is a counter.
    pub has_counter: bool,
    /// Bytes between header and frame, [`MAX_OFFSET`] at most.
    pub offset: u8,
}

/// The fields of a header; those that a layout has not are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The session, by the receiver's number; 0 is for control messages.
    pub session: u32,
    /// The cookie.
    pub cookie: u64,
    /// The counter.
    pub counter: u32,
}

/// T = 0, version 3.
const DATA_MESSAGE: [u8; 4] = [0, 3, 0, 0];
const CONTROL: u8 = 0x80;
const VERSION: u8 = 0x0f;

impl Layout {
    /// Bytes of the longest header.
    pub const MAX_LEN: usize = 4 + 4 + 8 + 4 + MAX_OFFSET as usize;

    /// Bytes of a header with the offset.
    #[must_use]
    pub fn len(&self) -> usize {
        let cookie = match self.cookie {
            CookieSize::None => 0,
            CookieSize::Four => 4,
            CookieSize::Eight => 8,
        };
        let (flags, counter) = (if self.is_udp { 4 } else { 0 }, if self.has_counter { 4 } else { 0 });
        flags + 4 + cookie + counter + usize::from(self.offset)
    }

    /// Never: a session is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Writes a header into so many bytes as [`Layout::len`] says.
    pub fn emit(&self, header: &Header, out: &mut [u8]) {
        out.fill(0);
        let mut rest = out;
        let mut put = |bytes: &[u8]| {
            let taken = std::mem::take(&mut rest);
            if let Some((place, others)) = taken.split_at_mut_checked(bytes.len()) {
                place.copy_from_slice(bytes);
                rest = others;
            }
        };
        if self.is_udp {
            put(&DATA_MESSAGE);
        }
        put(&header.session.to_be_bytes());
        match self.cookie {
            CookieSize::None => {}
            #[allow(clippy::cast_possible_truncation, reason = "a cookie of 32 bits is no longer")]
            CookieSize::Four => put(&(header.cookie as u32).to_be_bytes()),
            CookieSize::Eight => put(&header.cookie.to_be_bytes()),
        }
        if self.has_counter {
            put(&header.counter.to_be_bytes());
        }
    }

    /// Reads a header; bytes behind it do not matter.
    ///
    /// # Errors
    /// [`DropReason::Runt`] if it is cut short, [`DropReason::Malformed`] for another version, [`DropReason::Unserved`]
    /// for a control message.
    pub fn parse(&self, bytes: &[u8]) -> Result<Header, DropReason> {
        let mut rest = bytes.get(..self.len()).ok_or(DropReason::Runt)?;
        if self.is_udp {
            let [flags, version, _, _] = take(&mut rest)?;
            if version & VERSION != 3 {
                return Err(DropReason::Malformed);
            }
            if flags & CONTROL != 0 {
                return Err(DropReason::Unserved);
            }
        }
        let session = u32::from_be_bytes(take(&mut rest)?);
        if session == 0 {
            return Err(DropReason::Unserved);
        }
        let cookie = match self.cookie {
            CookieSize::None => 0,
            CookieSize::Four => u32::from_be_bytes(take(&mut rest)?).into(),
            CookieSize::Eight => u64::from_be_bytes(take(&mut rest)?),
        };
        let counter = if self.has_counter { u32::from_be_bytes(take(&mut rest)?) } else { 0 };
        Ok(Header { session, cookie, counter })
    }
}

/// Takes the first bytes off.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DropReason> {
    let (first, others) = rest.split_first_chunk().ok_or(DropReason::Runt)?;
    *rest = others;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(layout: Layout, header: &Header) -> Vec<u8> {
        let mut bytes = vec![0xaa; layout.len()];
        layout.emit(header, &mut bytes);
        bytes
    }

    #[test]
    fn headers_are_those_that_qemu_writes() {
        let udp = Layout { is_udp: true, cookie: CookieSize::Four, has_counter: true, offset: 0 };
        let header = Header { session: 0x22, cookie: 0xdead_beef, counter: 1 };
        assert_eq!(emitted(udp, &header), [0, 3, 0, 0, 0, 0, 0, 0x22, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1]);
        let raw = Layout { cookie: CookieSize::Eight, offset: 2, ..Layout::default() };
        let header = Header { session: 7, cookie: 0x0102_0304_0506_0708, counter: 0 };
        assert_eq!(emitted(raw, &header), [0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0]);
    }

    #[test]
    fn every_layout_round_trips_and_cut_short_is_a_runt() {
        for bits in 0..24 {
            let cookie = [CookieSize::None, CookieSize::Four, CookieSize::Eight][bits / 8];
            let (is_udp, has_counter, offset) =
                (bits & 1 != 0, bits & 2 != 0, if bits & 4 != 0 { MAX_OFFSET } else { 0 });
            let layout = Layout { is_udp, cookie, has_counter, offset };
            let header = Header {
                session: 0x1234_5678,
                cookie: if cookie == CookieSize::None { 0 } else { 0x9abc_def0 },
                counter: if has_counter { 42 } else { 0 },
            };
            let bytes = emitted(layout, &header);
            assert!(bytes.len() <= Layout::MAX_LEN);
            assert_eq!(layout.parse(&bytes), Ok(header));
            for len in 0..bytes.len() {
                assert_eq!(layout.parse(&bytes[..len]), Err(DropReason::Runt));
            }
        }
    }

    #[test]
    fn control_messages_and_other_versions_are_refused() {
        let udp = Layout { is_udp: true, ..Layout::default() };
        assert_eq!(udp.parse(&[0x80, 3, 0, 0, 0, 0, 0, 7]), Err(DropReason::Unserved));
        assert_eq!(udp.parse(&[0, 2, 0, 0, 0, 0, 0, 7]), Err(DropReason::Malformed));
        assert_eq!(udp.parse(&[0, 3, 0, 0, 0, 0, 0, 0]), Err(DropReason::Unserved));
        assert_eq!(Layout::default().parse(&[0; 4]), Err(DropReason::Unserved));
    }
}
