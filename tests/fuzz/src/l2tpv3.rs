//! L2TPv3 headers in every layout.
//!
//! The input is a layout in three bytes, and a header.

use link::DropReason;
use plug::l2tpv3::wire::{CookieSize, Layout, MAX_OFFSET};

use super::data::Data;

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut data = Data::new(data);
    let layout = Layout {
        is_udp: data.flag(),
        cookie: data.pick(&[CookieSize::None, CookieSize::Four, CookieSize::Eight]),
        has_counter: data.flag(),
        offset: data.byte() % (MAX_OFFSET + 1),
    };
    let bytes = data.take(usize::MAX);
    let len = layout.len();
    assert!((4..=Layout::MAX_LEN).contains(&len));
    match layout.parse(bytes) {
        Ok(header) => {
            assert!(bytes.len() >= len && header.session != 0);
            let mut written = vec![0xaa; len];
            layout.emit(&header, &mut written);
            assert_eq!(layout.parse(&written), Ok(header));
            // But for flags, which mean nothing, and the offset, which is not looked at.
            let (flags, end) = (if layout.is_udp { 4 } else { 0 }, len - usize::from(layout.offset));
            assert_eq!(written[flags..end], bytes[flags..end]);
        }
        Err(DropReason::Runt) => assert!(bytes.len() < len),
        Err(DropReason::Malformed) => assert!(layout.is_udp && bytes[1] & 0x0f != 3),
        Err(DropReason::Unserved) => {
            let session = if layout.is_udp { 4 } else { 0 };
            assert!((layout.is_udp && bytes[0] & 0x80 != 0) || bytes[session..session + 4] == [0; 4]);
        }
        Err(other) => panic!("{other}"),
    }
}
