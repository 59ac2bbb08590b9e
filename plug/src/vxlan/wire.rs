//! The VXLAN header (RFC 7348 §5), read and written. It does no I/O and keeps nothing.
//!
//! ```text
//!  0 flags, 0x08 = I: the VNI counts · 1 reserved, 3 bytes · 4 VNI, 3 bytes · 7 reserved
//! ```
//!
//! Reserved bits are sent as zeros and ignored on receipt, as the RFC has it; so the group policy and other extensions
//! that some VTEPs put there do no harm.

use std::fmt;

use link::DropReason;

/// Bytes of the header.
pub const LEN: usize = 8;
/// The port that IANA has assigned (RFC 7348 §8).
pub const PORT: u16 = 4789;

/// Flag I: the VNI is valid.
const VNI_VALID: u8 = 0x08;

/// A VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vni(u32);

impl Vni {
    /// The largest.
    pub const MAX: u32 = 0xff_ffff;

    /// A number from 0 to [`Vni::MAX`].
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number <= Self::MAX).then_some(Self(number))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads the VNI.
///
/// # Errors
/// [`DropReason::Malformed`]: flag I is not set.
pub fn parse(header: &[u8; LEN]) -> Result<Vni, DropReason> {
    let [flags, _, _, _, a, b, c, _] = *header;
    if flags & VNI_VALID == 0 {
        return Err(DropReason::Malformed);
    }
    Ok(Vni(u32::from_be_bytes([0, a, b, c])))
}

/// Writes a header.
#[must_use]
pub fn emit(vni: Vni) -> [u8; LEN] {
    let [_, a, b, c] = vni.0.to_be_bytes();
    [VNI_VALID, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_round_trips() {
        for number in [0, 1, 0x12_3456, Vni::MAX] {
            let vni = Vni::new(number).unwrap();
            assert_eq!(parse(&emit(vni)), Ok(vni));
        }
        assert_eq!(emit(Vni(0x12_3456)), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }

    #[test]
    fn reserved_bits_mean_nothing_and_flag_i_must_be_set() {
        assert_eq!(parse(&[0xff, 1, 2, 3, 0, 0, 7, 0xff]), Ok(Vni(7)));
        assert_eq!(parse(&[0xf7, 0, 0, 0, 0, 0, 7, 0]), Err(DropReason::Malformed));
    }
}
