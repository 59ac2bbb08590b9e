//! The Internet checksum (RFC 1071): the ones' complement of the ones'-complement sum of 16-bit words.
//!
//! The sum does not care about byte order (RFC 1071 §2 B), so memory is added eight bytes at a time as the machine reads
//! it, and order matters only once, when the result is stored. Neighbour: `segment`, which decides what is summed.

/// Bytes added in one step of [`Sum::add`].
const BLOCK: usize = 32;

/// A ones'-complement sum in progress, of 16-bit words as this machine reads them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even offset of what is summed. An odd last byte counts as if a zero followed.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut lanes = [0u128; BLOCK / 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane += u128::from(u64::from_ne_bytes(*word));
            }
        }
        let mut total: u128 = lanes.iter().sum();
        let (words, tail) = rest.as_chunks::<8>();
        for word in words {
            total += u128::from(u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        total += u128::from(u64::from_ne_bytes(last));
        self.0 += u64::from(fold(total));
    }

    /// Adds one 16-bit number.
    pub(super) fn add_u16(&mut self, number: u16) {
        self.0 += u64::from(number.to_be());
    }

    /// The checksum, in the order in which it stands in the frame.
    pub(super) fn finish(self) -> [u8; 2] {
        (!fold(u128::from(self.0))).to_ne_bytes()
    }

    /// The checksum of a protocol in which a zero says that there is none (RFC 768): a zero becomes its equal, 0xffff.
    pub(super) fn finish_nonzero(self) -> [u8; 2] {
        match self.finish() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }
}

/// Adds the carries back in until sixteen bits are left.
#[allow(clippy::cast_possible_truncation, reason = "each step keeps the low half and adds the high one")]
fn fold(sum: u128) -> u16 {
    let sum = (sum >> 64) + u128::from(sum as u64);
    let sum = (sum >> 64) as u64 + (sum as u64 >> 32) + u64::from(sum as u32);
    let sum = (sum >> 32) + u64::from(sum as u32);
    let mut sum = (sum >> 32) as u32 + sum as u32;
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(bytes: &[u8]) -> [u8; 2] {
        let mut sum = Sum::default();
        sum.add(bytes);
        sum.finish()
    }

    /// RFC 1071 §4.1, word by word.
    fn by_the_book(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).unwrap()).to_be_bytes()
    }

    #[test]
    fn the_example_of_rfc_1071_section_3_sums_to_ddf2() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), (!0xddf2u16).to_be_bytes());
    }

    #[test]
    fn wide_adds_equal_narrow_ones_at_every_length_and_extreme() {
        let mixed: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [mixed, vec![0xff; 2000], vec![0; 2000]] {
            for len in 0..bytes.len() {
                assert_eq!(checksum(&bytes[..len]), by_the_book(&bytes[..len]), "{len} bytes");
            }
        }
        assert_eq!(checksum(&vec![0xff; 65535]), by_the_book(&vec![0xff; 65535]));
    }

    #[test]
    fn parts_at_even_offsets_add_up() {
        let bytes: Vec<u8> = (0..255).collect();
        for cut in (0..bytes.len()).step_by(2) {
            let mut sum = Sum::default();
            sum.add(&bytes[..cut]);
            sum.add(&bytes[cut..]);
            assert_eq!(sum.finish(), by_the_book(&bytes));
        }
    }

    #[test]
    fn numbers_add_as_they_stand_in_the_frame() {
        let mut sum = Sum::default();
        sum.add_u16(0x1234);
        sum.add_u16(0xfedc);
        assert_eq!(sum.finish(), by_the_book(&[0x12, 0x34, 0xfe, 0xdc]));
    }
}
