//! How a frame is handed over: a header of work left undone, and memory fragments, in batches.
//!
//! Fragments may point into guest memory, which the guest can rewrite at any time. So a [`Fragment`] is never a `&[u8]`:
//! it is passed whole to the kernel as an `iovec`, or copied out once and the copy is parsed. [`VnetHeader`] is such a
//! parsed copy: a value of that type has consistent fields, and [`VnetHeader::check`] holds it against the frame's length.
//!
//! Neighbours: `soft` does the work a header leaves undone; the links themselves read and write fragments.

use std::marker::PhantomData;
use std::ops::Range;

use crate::{DropReason, ETHERNET_HEADER_LEN};

/// The kind of segmentation that a frame longer than the MTU still needs (virtio 1.2 §5.1.6, `gso_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GsoType {
    /// None: the frame goes out as it is.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over IPv4 or IPv6, each segment a datagram of its own.
    Udp,
}

/// What is known or left to do about the transport checksum of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It is in the frame; nobody has verified it.
    #[default]
    Complete,
    /// It has been verified, or the frame never left this machine (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Valid,
    /// The checksum field holds the sum of the pseudo-header; the sum from `start` to the end of the frame is to be
    /// stored at `start + offset` (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Bytes from the start of the frame to the transport header.
        start: u16,
        /// Bytes from `start` to the 16-bit checksum field.
        offset: u16,
    },
}

/// The work left undone in a frame: `struct virtio_net_hdr_v1` (virtio 1.2 §5.1.6), parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum.
    pub checksum: Checksum,
    /// The segmentation.
    pub gso_type: GsoType,
    /// Whether a segmented TCP frame carries CWR that only the first segment may keep (`VIRTIO_NET_HDR_GSO_ECN`).
    pub ecn: bool,
    /// Payload bytes of each segment behind the transport header; not 0 if `gso_type` is not `None`.
    pub gso_size: u16,
    /// Bytes of all headers in front of the payload: a hint, never trusted.
    pub hdr_len: u16,
}

impl VnetHeader {
    /// Bytes of the wire form.
    pub const LEN: usize = 12;

    /// A frame with nothing left to do.
    pub const WHOLE: Self =
        Self { checksum: Checksum::Complete, gso_type: GsoType::None, ecn: false, gso_size: 0, hdr_len: 0 };

    const F_NEEDS_CSUM: u8 = 1;
    const F_DATA_VALID: u8 = 2;
    const GSO_NONE: u8 = 0;
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_UDP_L4: u8 = 5;
    const GSO_ECN: u8 = 0x80;

    /// Parses the little-endian wire form. `num_buffers` (bytes 10 and 11) belongs to the receiving NIC and is ignored.
    ///
    /// # Errors
    /// [`DropReason::BadOffload`]: an unknown `gso_type`, segmentation without a partial checksum (which virtio 1.2
    /// §5.1.6.2 forbids), or a segment size of 0.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, DropReason> {
        let [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *bytes;
        let gso_type = match gso & !Self::GSO_ECN {
            Self::GSO_NONE => GsoType::None,
            Self::GSO_TCPV4 => GsoType::TcpV4,
            Self::GSO_TCPV6 => GsoType::TcpV6,
            Self::GSO_UDP_L4 => GsoType::Udp,
            _ => return Err(DropReason::BadOffload),
        };
        let checksum = if flags & Self::F_NEEDS_CSUM != 0 {
            Checksum::Partial { start: u16::from_le_bytes([s0, s1]), offset: u16::from_le_bytes([o0, o1]) }
        } else if flags & Self::F_DATA_VALID != 0 {
            Checksum::Valid
        } else {
            Checksum::Complete
        };
        if gso_type == GsoType::None {
            return Ok(Self { checksum, ..Self::WHOLE });
        }
        let header = Self {
            checksum,
            gso_type,
            ecn: gso & Self::GSO_ECN != 0,
            gso_size: u16::from_le_bytes([g0, g1]),
            hdr_len: u16::from_le_bytes([h0, h1]),
        };
        if header.gso_size == 0 || !header.needs_checksum() {
            return Err(DropReason::BadOffload);
        }
        Ok(header)
    }

    /// The little-endian wire form, with `num_buffers` 1.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let (flags, start, offset) = match self.checksum {
            Checksum::Complete => (0, 0, 0),
            Checksum::Valid => (Self::F_DATA_VALID, 0, 0),
            Checksum::Partial { start, offset } => (Self::F_NEEDS_CSUM, start, offset),
        };
        let gso = match self.gso_type {
            GsoType::None => Self::GSO_NONE,
            GsoType::TcpV4 => Self::GSO_TCPV4,
            GsoType::TcpV6 => Self::GSO_TCPV6,
            GsoType::Udp => Self::GSO_UDP_L4,
        } | if self.ecn { Self::GSO_ECN } else { 0 };
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = start.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        [flags, gso, h0, h1, g0, g1, s0, s1, o0, o1, 1, 0]
    }

    /// The header of the same frame after `bytes` were put in (or, if negative, taken out) in front of its network header:
    /// a VLAN tag.
    #[must_use]
    pub fn shifted(self, bytes: i16) -> Self {
        let checksum = match self.checksum {
            Checksum::Partial { start, offset } => {
                Checksum::Partial { start: start.saturating_add_signed(bytes), offset }
            }
            other => other,
        };
        // 0 says that it is not known.
        let hdr_len = if self.hdr_len == 0 { 0 } else { self.hdr_len.saturating_add_signed(bytes) };
        Self { checksum, hdr_len, ..self }
    }

    /// Whether the transport checksum is still to be filled in.
    #[must_use]
    pub fn needs_checksum(&self) -> bool {
        matches!(self.checksum, Checksum::Partial { .. })
    }

    /// Holds the header against the length of its frame.
    ///
    /// # Errors
    /// [`DropReason::Runt`] for a frame shorter than an Ethernet header, [`DropReason::BadOffload`] for a checksum field
    /// outside the frame.
    pub fn check(&self, frame_len: usize) -> Result<(), DropReason> {
        if frame_len < ETHERNET_HEADER_LEN {
            return Err(DropReason::Runt);
        }
        match self.checksum {
            Checksum::Partial { start, offset } if usize::from(start) + usize::from(offset) + 2 > frame_len => {
                Err(DropReason::BadOffload)
            }
            _ => Ok(()),
        }
    }
}

/// Readable memory of a frame, which another party (a guest) may change at any time. Layout of `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Fragment<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a [u8]>,
}

// SAFETY: a fragment is a borrowed range of bytes; reading it from another thread is no different from here, and the
// type promises nothing about concurrent writes.
unsafe impl Send for Fragment<'_> {}

impl<'a> Fragment<'a> {
    /// A fragment of ordinary memory.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        // SAFETY: the slice is valid for reads of its length for 'a.
        unsafe { Self::from_raw(bytes.as_ptr(), bytes.len()) }
    }

    /// A fragment of shared memory.
    ///
    /// # Safety
    /// `len` bytes at `pointer` stay mapped and readable for `'a`. They may change meanwhile.
    #[must_use]
    pub unsafe fn from_raw(pointer: *const u8, len: usize) -> Self {
        Self { raw: libc::iovec { iov_base: pointer.cast_mut().cast(), iov_len: len }, memory: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.iov_len
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part from `offset` on; empty if there is none.
    #[must_use]
    pub fn skip(self, offset: usize) -> Self {
        let offset = offset.min(self.len());
        let rest = self.len() - offset;
        // SAFETY: offset is at most the length, so the pointer stays inside or one past the fragment.
        let pointer = unsafe { self.raw.iov_base.cast::<u8>().add(offset) };
        // SAFETY: a part of a fragment that is valid for 'a.
        unsafe { Self::from_raw(pointer, rest) }
    }

    /// Copies out of the fragment, from its first byte; returns the bytes copied.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let len = self.len().min(out.len());
        // SAFETY: both ranges hold `len` bytes; `out` is exclusively ours, so they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.raw.iov_base.cast::<u8>(), out.as_mut_ptr(), len) };
        len
    }

    /// The same fragments as the kernel takes them (`writev`, `sendmsg`).
    #[must_use]
    pub fn as_iovecs<'b>(fragments: &'b [Fragment<'a>]) -> &'b [libc::iovec] {
        // SAFETY: `Fragment` is `repr(transparent)` over `iovec`.
        unsafe { std::slice::from_raw_parts(fragments.as_ptr().cast(), fragments.len()) }
    }
}

/// Writable memory for a frame, which another party (a guest) may change at any time. Layout of `struct iovec`.
#[repr(transparent)]
pub struct FragmentMut<'a> {
    raw: libc::iovec,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: as for `Fragment`; the fragment is the only one of ours for its bytes.
unsafe impl Send for FragmentMut<'_> {}

impl<'a> FragmentMut<'a> {
    /// A fragment of ordinary memory.
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Self {
        // SAFETY: the slice is valid for reads and writes of its length for 'a, and exclusively borrowed.
        unsafe { Self::from_raw(bytes.as_mut_ptr(), bytes.len()) }
    }

    /// A fragment of shared memory.
    ///
    /// # Safety
    /// `len` bytes at `pointer` stay mapped, readable and writable for `'a`, and no Rust reference covers them.
    #[must_use]
    pub unsafe fn from_raw(pointer: *mut u8, len: usize) -> Self {
        Self { raw: libc::iovec { iov_base: pointer.cast(), iov_len: len }, memory: PhantomData }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.iov_len
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies into the fragment from `offset` on; returns the bytes copied.
    pub fn copy_from(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let offset = offset.min(self.len());
        let len = (self.len() - offset).min(bytes.len());
        // SAFETY: offset is at most the length of the fragment.
        let target = unsafe { self.raw.iov_base.cast::<u8>().add(offset) };
        // SAFETY: both ranges hold `len` bytes; no Rust reference covers the target.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, len) };
        len
    }

    /// The bytes as a readable fragment, for a wrapper that looks at what was just received.
    #[must_use]
    pub fn as_fragment(&self) -> Fragment<'_> {
        // SAFETY: the same range, valid for longer than the borrow of self.
        unsafe { Fragment::from_raw(self.raw.iov_base.cast::<u8>(), self.raw.iov_len) }
    }

    /// The same fragments as the kernel takes them (`readv`, `recvmsg`).
    #[must_use]
    pub fn as_iovecs<'b>(fragments: &'b [FragmentMut<'a>]) -> &'b [libc::iovec] {
        // SAFETY: `FragmentMut` is `repr(transparent)` over `iovec`.
        unsafe { std::slice::from_raw_parts(fragments.as_ptr().cast(), fragments.len()) }
    }
}

/// Copies from a list of fragments, starting `offset` bytes into it; returns the bytes copied.
fn gather(fragments: &[Fragment<'_>], mut offset: usize, out: &mut [u8]) -> usize {
    let mut done = 0;
    for fragment in fragments {
        if done == out.len() {
            break;
        }
        if offset >= fragment.len() {
            offset -= fragment.len();
            continue;
        }
        done += fragment.skip(offset).copy_to(&mut out[done..]);
        offset = 0;
    }
    done
}

/// One frame of a [`TxBatch`].
#[derive(Clone, Copy)]
pub struct Frame<'b> {
    /// The work left undone.
    pub header: VnetHeader,
    /// The frame's bytes, from the destination address on, without FCS.
    pub fragments: &'b [Fragment<'b>],
    len: usize,
}

impl Frame<'_> {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes from `offset` on; returns how many there were.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) -> usize {
        gather(self.fragments, offset, out)
    }

    /// The whole frame, appended to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + self.len, 0);
        let done = self.copy_to(0, &mut out[start..]);
        debug_assert_eq!(done, self.len);
    }
}

/// A frame that owns its bytes, for queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedFrame {
    /// The work left undone.
    pub header: VnetHeader,
    /// The frame, from the destination address on, without FCS.
    pub bytes: Vec<u8>,
}

impl From<Frame<'_>> for OwnedFrame {
    fn from(frame: Frame<'_>) -> Self {
        let mut bytes = Vec::with_capacity(frame.len());
        frame.append_to(&mut bytes);
        Self { header: frame.header, bytes }
    }
}

/// Frames to be sent, in order.
#[derive(Default)]
pub struct TxBatch<'a> {
    fragments: Vec<Fragment<'a>>,
    frames: Vec<TxEntry>,
    first: usize,
}

struct TxEntry {
    header: VnetHeader,
    fragments: Range<usize>,
    len: usize,
}

impl<'a> TxBatch<'a> {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame.
    pub fn push(&mut self, header: VnetHeader, fragments: impl IntoIterator<Item = Fragment<'a>>) {
        let start = self.fragments.len();
        self.fragments.extend(fragments.into_iter().filter(|f| !f.is_empty()));
        let len = self.fragments[start..].iter().map(Fragment::len).sum();
        self.frames.push(TxEntry { header, fragments: start..self.fragments.len(), len });
    }

    /// Frames not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len() - self.first
    }

    /// Whether every frame was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frames not yet taken, in order.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = Frame<'_>> + Clone {
        self.frames[self.first..].iter().map(|entry| Frame {
            header: entry.header,
            fragments: &self.fragments[entry.fragments.clone()],
            len: entry.len,
        })
    }

    /// Takes the first `count` frames out, after a link took them.
    pub fn advance(&mut self, count: usize) {
        self.first = self.frames.len().min(self.first + count);
    }

    /// The same batch, empty, for memory of another lifetime: its capacity is kept.
    #[must_use]
    pub fn recycle<'b>(mut self) -> TxBatch<'b> {
        self.fragments.clear();
        self.frames.clear();
        TxBatch {
            // An empty vector mapped onto itself: the standard library collects it in place.
            fragments: self.fragments.into_iter().map(|_| Fragment::new(&[])).collect(),
            frames: self.frames,
            first: 0,
        }
    }
}

/// Buffers to be received into, in order. Each slot takes one frame.
#[derive(Default)]
pub struct RxBatch<'a> {
    fragments: Vec<FragmentMut<'a>>,
    slots: Vec<RxEntry>,
    filled: usize,
}

struct RxEntry {
    fragments: Range<usize>,
    capacity: usize,
    header: VnetHeader,
    len: usize,
}

impl<'a> RxBatch<'a> {
    /// A batch without a slot.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a slot.
    pub fn push(&mut self, fragments: impl IntoIterator<Item = FragmentMut<'a>>) {
        let start = self.fragments.len();
        self.fragments.extend(fragments.into_iter().filter(|f| !f.is_empty()));
        let capacity = self.fragments[start..].iter().map(FragmentMut::len).sum();
        self.slots.push(RxEntry {
            fragments: start..self.fragments.len(),
            capacity,
            header: VnetHeader::WHOLE,
            len: 0,
        });
    }

    /// Slots in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the batch has no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The first slot without a frame, for a link to fill.
    pub fn next_slot(&mut self) -> Option<RxSlot<'_, 'a>> {
        let entry = self.slots.get_mut(self.filled)?;
        let fragments = &mut self.fragments[entry.fragments.clone()];
        Some(RxSlot { fragments, entry, filled: &mut self.filled })
    }

    /// The memory of the slots without a frame, in order, for a link that receives several frames at once.
    pub(crate) fn free_slots(&self) -> impl Iterator<Item = &[FragmentMut<'a>]> {
        self.slots[self.filled..].iter().map(|entry| &self.fragments[entry.fragments.clone()])
    }

    /// How many slots hold a frame; these are the first ones.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// The frames received, in the order of the slots: header, and length in bytes.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = (VnetHeader, usize)> {
        self.slots[..self.filled].iter().map(|entry| (entry.header, entry.len))
    }

    /// Copies bytes of the frame in slot `index` from `offset` on; returns how many there were.
    pub fn copy_to(&self, index: usize, offset: usize, out: &mut [u8]) -> usize {
        let Some(entry) = self.slots[..self.filled].get(index) else { return 0 };
        let wanted = entry.len.saturating_sub(offset).min(out.len());
        let mut skip = offset;
        let mut done = 0;
        for fragment in &self.fragments[entry.fragments.clone()] {
            if skip >= fragment.len() {
                skip -= fragment.len();
                continue;
            }
            done += fragment.as_fragment().skip(skip).copy_to(&mut out[done..wanted]);
            skip = 0;
        }
        done
    }

    /// Makes all slots but the first `filled` free again, for a wrapper that has copied out what they held.
    pub(crate) fn take_back(&mut self, filled: usize) {
        self.filled = self.filled.min(filled);
    }

    /// The same batch without slots, for memory of another lifetime: its capacity is kept.
    #[must_use]
    pub fn recycle<'b>(mut self) -> RxBatch<'b> {
        self.fragments.clear();
        self.slots.clear();
        RxBatch {
            // An empty vector mapped onto itself: the standard library collects it in place.
            fragments: self.fragments.into_iter().map(|_| FragmentMut::new(&mut [])).collect(),
            slots: self.slots,
            filled: 0,
        }
    }
}

/// One slot of an [`RxBatch`]: memory for one frame. It counts as filled only after [`RxSlot::fill`] or a successful
/// [`RxSlot::write`].
pub struct RxSlot<'b, 'a> {
    fragments: &'b mut [FragmentMut<'a>],
    entry: &'b mut RxEntry,
    filled: &'b mut usize,
}

impl<'a> RxSlot<'_, 'a> {
    /// The memory, for a vectored read.
    #[must_use]
    pub fn fragments(&self) -> &[FragmentMut<'a>] {
        self.fragments
    }

    /// Bytes the slot takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entry.capacity
    }

    /// States that the first `len` bytes of the slot now hold a frame with this header.
    ///
    /// # Panics
    /// If `len` exceeds the capacity: the caller's vectored read returned more than it was given room for.
    pub fn fill(self, header: VnetHeader, len: usize) {
        assert!(len <= self.entry.capacity, "a frame of {len} bytes in a slot of {}", self.entry.capacity);
        self.entry.header = header;
        self.entry.len = len;
        *self.filled += 1;
    }

    /// Copies a frame, given in parts, into the slot and fills it.
    ///
    /// # Errors
    /// [`DropReason::Oversized`]: the frame does not fit; the slot stays free.
    pub fn write(self, header: VnetHeader, parts: &[&[u8]]) -> Result<(), DropReason> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.entry.capacity {
            return Err(DropReason::Oversized);
        }
        let mut fragments = self.fragments.iter_mut();
        let mut current = fragments.next();
        let mut offset = 0;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                let Some(fragment) = current.as_mut() else { return Err(DropReason::Oversized) };
                let done = fragment.copy_from(offset, rest);
                offset += done;
                rest = &rest[done..];
                if offset == fragment.len() {
                    current = fragments.next();
                    offset = 0;
                }
            }
        }
        self.fill(header, len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips_through_its_wire_form() {
        let header = VnetHeader {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso_type: GsoType::TcpV6,
            ecn: true,
            gso_size: 1440,
            hdr_len: 74,
        };
        assert_eq!(VnetHeader::parse(&header.to_bytes()), Ok(header));
        assert_eq!(VnetHeader::parse(&[0; 12]), Ok(VnetHeader::WHOLE));
    }

    #[test]
    fn contradictory_headers_are_bad_offloads() {
        let whole = VnetHeader::WHOLE.to_bytes();
        let mut unknown_gso = whole;
        unknown_gso[1] = 3;
        let mut gso_without_checksum = whole;
        gso_without_checksum[1] = 1;
        gso_without_checksum[4] = 100;
        let mut zero_segment = gso_without_checksum;
        zero_segment[0] = 1;
        zero_segment[4] = 0;
        for bytes in [unknown_gso, gso_without_checksum, zero_segment] {
            assert_eq!(VnetHeader::parse(&bytes), Err(DropReason::BadOffload));
        }
    }

    #[test]
    fn checksum_outside_the_frame_is_refused() {
        let header = VnetHeader { checksum: Checksum::Partial { start: 34, offset: 16 }, ..VnetHeader::WHOLE };
        assert_eq!(header.check(51), Err(DropReason::BadOffload));
        assert_eq!(header.check(52), Ok(()));
        assert_eq!(VnetHeader::WHOLE.check(13), Err(DropReason::Runt));
    }

    #[test]
    fn a_frame_is_gathered_across_fragments() {
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [b"abc".as_slice(), b"", b"defg", b"h"].map(Fragment::new));
        let frame = batch.frames().next().unwrap();
        assert_eq!(frame.len(), 8);
        let mut out = [0; 4];
        assert_eq!(frame.copy_to(2, &mut out), 4);
        assert_eq!(&out, b"cdef");
        assert_eq!(frame.copy_to(7, &mut out), 1);
        assert_eq!(frame.copy_to(9, &mut out), 0);
        assert_eq!(OwnedFrame::from(frame).bytes, b"abcdefgh");
    }

    #[test]
    fn a_written_slot_scatters_and_an_oversized_frame_leaves_it_free() {
        let (mut a, mut b) = ([0; 3], [0; 4]);
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut a), FragmentMut::new(&mut b)]);
        let too_long = batch.next_slot().unwrap().write(VnetHeader::WHOLE, &[b"abcde", b"fgh"]);
        assert_eq!(too_long, Err(DropReason::Oversized));
        assert_eq!(batch.filled(), 0);
        batch.next_slot().unwrap().write(VnetHeader::WHOLE, &[b"ab", b"cdef"]).unwrap();
        assert!(batch.next_slot().is_none());
        let mut out = [0; 9];
        assert_eq!(batch.copy_to(0, 1, &mut out), 5);
        assert_eq!(&out[..5], b"bcdef");
    }

    #[test]
    fn a_recycled_batch_keeps_its_capacity() {
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(b"x"), Fragment::new(b"y")]);
        let pointer = batch.fragments.as_ptr().cast::<u8>();
        let batch = batch.recycle();
        assert!(batch.is_empty());
        assert_eq!(batch.fragments.as_ptr().cast::<u8>(), pointer);
    }
}
