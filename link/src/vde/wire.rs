//! What a VDE client and a switch say to each other on `DIR/ctl`: one request, one reply, both host-endian and packed.
//!
//! Pure: bytes in, values out. There is no standard; the layouts are those that vde-2 and libvdeplug put on the wire.
//!
//! ```text
//! request v3      0 magic 0xfeedface · 4 version 3 · 8 control type (low byte) and port (upper 24 bits)
//!                12 sockaddr_un of the client's datagram socket, 110 bytes · 122 description, no NUL
//! request v1      0 magic · 4 control type · 8 MAC address, 6 bytes · 14 sockaddr_un · 124 description
//! reply           0 sockaddr_un of the switch's datagram socket, 110 bytes
//! ```
//!
//! # The offload trailer
//!
//! A path in `sun_path` ends at its first NUL byte, and neither the kernel nor vde_switch nor libvdeplug looks behind it.
//! Ends that know offloads write their offer into the last 16 of the 110 bytes:
//!
//! ```text
//!  94 magic: "ELq\x01" in a request, "ELr\x01" in a reply
//!  98 version 1
//!  99 what the sender is willing to receive: 0x01 VnetHeader, 0x02 partial checksums, 0x04 TSO over IPv4,
//!     0x08 TSO over IPv6, 0x10 UDP segmentation
//! 100 zeros, 10 bytes; a receiver ignores them
//! ```
//!
//! The magic differs by direction, so that a switch which answers out of the memory that held the request makes no
//! agreement. When both sent a trailer with bit 0x01, every datagram of the connection, both ways, begins with the 12
//! bytes of [`crate::VnetHeader`], and each side sends only what the other is willing to receive. A trailer needs a path
//! of at most 91 bytes; beside a longer path, or an abstract address, there is none, and frames travel bare.
//!
//! Neighbours: `mod` is the client, `vswitch::vde` the switch.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Offloads;

const MAGIC: u32 = 0xfeed_face;
const VERSION: u32 = 3;
/// Bytes in front of the address of a version 3 request.
const HEAD_LEN: usize = 12;
/// Bytes in front of the address of a version 1 request.
const HEAD_LEN_V1: usize = 14;
/// The greatest control type: 0 is a new control connection, 1 the same for port 0.
const MAX_CONTROL_TYPE: u8 = 1;
/// The greatest port number that a request can name.
pub const MAX_PORT: u32 = 0xff_ffff;

const TRAILER_START: usize = Address::LEN - 16;
const TRAILER_VERSION: u8 = 1;

/// A `sockaddr_un` of 110 bytes: a path, or an abstract address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address([u8; Address::LEN]);

/// Who wrote an offload trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Switch,
}

impl Side {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Client => *b"ELq\x01",
            Self::Switch => *b"ELr\x01",
        }
    }
}

impl Address {
    /// Bytes of the wire form.
    pub const LEN: usize = 110;

    /// The longest path, in bytes, with a NUL behind it.
    pub const MAX_PATH: usize = Self::LEN - FAMILY_LEN - 1;

    /// The address of this path; none if it is empty, holds a NUL, or is longer than [`Address::MAX_PATH`].
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        let path = path.as_os_str().as_bytes();
        if path.is_empty() || path.len() > Self::MAX_PATH || path.contains(&0) {
            return None;
        }
        let mut bytes = [0; Self::LEN];
        bytes[..FAMILY_LEN].copy_from_slice(&FAMILY);
        bytes[FAMILY_LEN..FAMILY_LEN + path.len()].copy_from_slice(path);
        Some(Self(bytes))
    }

    /// Takes bytes from a peer; none if they are of another address family than `AF_UNIX`.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        bytes.starts_with(&FAMILY).then_some(Self(*bytes))
    }

    /// The path, up to its NUL; none for an abstract address.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        let name = &self.0[FAMILY_LEN..];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        (end > 0).then(|| Path::new(OsStr::from_bytes(&name[..end])))
    }

    /// The 110 bytes, as `connect` and `bind` take them. All of them count in an abstract address (unix(7)).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Whether the path leaves room for a NUL and a trailer.
    fn has_room(&self) -> bool {
        self.path().is_some_and(|path| FAMILY_LEN + path.as_os_str().len() < TRAILER_START)
    }

    /// Writes a trailer where there is room for one.
    fn set_offer(&mut self, side: Side, offer: Option<Offloads>) {
        let Some(offloads) = offer.filter(|_| self.has_room()) else { return };
        let mut trailer = [0; Self::LEN - TRAILER_START];
        trailer[..4].copy_from_slice(&side.magic());
        trailer[4] = TRAILER_VERSION;
        trailer[5] = feature_bits(offloads);
        self.0[TRAILER_START..].copy_from_slice(&trailer);
    }

    /// Takes a trailer out, so that what is left is the address alone.
    fn take_offer(&mut self, side: Side) -> Option<Offloads> {
        let end = FAMILY_LEN + self.path()?.as_os_str().len();
        let has_room = self.has_room();
        let [m0, m1, m2, m3, version, features, ..] = self.0[TRAILER_START..] else { return None };
        // Whatever stands behind a path is no part of it.
        self.0[end..].fill(0);
        let is_ours = has_room && [m0, m1, m2, m3] == side.magic() && version == TRAILER_VERSION;
        if !is_ours || features & FEATURE_HEADER == 0 {
            return None;
        }
        let has = |bit| features & bit != 0;
        let checksum = has(FEATURE_CHECKSUM);
        // Every segmentation depends on partial checksums.
        Some(Offloads {
            checksum,
            tso4: checksum && has(FEATURE_TSO4),
            tso6: checksum && has(FEATURE_TSO6),
            uso: checksum && has(FEATURE_USO),
        })
    }
}

const FAMILY: [u8; FAMILY_LEN] = (libc::AF_UNIX as libc::sa_family_t).to_ne_bytes();
const FAMILY_LEN: usize = size_of::<libc::sa_family_t>();

const FEATURE_HEADER: u8 = 0x01;
const FEATURE_CHECKSUM: u8 = 0x02;
const FEATURE_TSO4: u8 = 0x04;
const FEATURE_TSO6: u8 = 0x08;
const FEATURE_USO: u8 = 0x10;
/// The feature byte of an offer.
fn feature_bits(offloads: Offloads) -> u8 {
    let bit = |is_set, bit| if is_set { bit } else { 0 };
    FEATURE_HEADER
        | bit(offloads.checksum, FEATURE_CHECKSUM)
        | bit(offloads.tso4, FEATURE_TSO4)
        | bit(offloads.tso6, FEATURE_TSO6)
        | bit(offloads.uso, FEATURE_USO)
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({})", self.0[FAMILY_LEN..].escape_ascii())
    }
}

/// A client's request to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The port it wants; 0 for any.
    pub port: u32,
    /// Its datagram socket.
    pub client: Address,
    /// What it is willing to receive, if it carries the offload header.
    pub offer: Option<Offloads>,
    /// Its own words about itself: at most 134 bytes, hostile, of no particular encoding.
    pub description: Vec<u8>,
}

/// Bytes that are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not yet: the rest may be on its way.
    #[error("half a request: {0} bytes")]
    Short(usize),
    /// More than any request has.
    #[error("longer than any request: over {} bytes", Request::MAX_LEN)]
    Long,
    /// Another protocol.
    #[error("no VDE request: magic {0:#010x}")]
    Magic(u32),
    /// A version that nobody speaks.
    #[error("request of version {0}: 1 and 3 are spoken here")]
    Version(u32),
    /// Something other than a connection is asked for.
    #[error("control type {0}: 0 and 1 are known")]
    ControlType(u8),
    /// The address is none of a Unix-domain socket.
    #[error("its address is of family {0}, not AF_UNIX")]
    Family(u16),
}

impl Request {
    /// The shortest request, in bytes.
    pub const MIN_LEN: usize = HEAD_LEN + Address::LEN;
    /// The longest request, in bytes.
    pub const MAX_LEN: usize = 256;
    /// The longest description that every switch takes, in bytes.
    pub const MAX_DESCRIPTION: usize = 128;

    /// Parses what a client has sent. A request has no length of its own: it is what one send brings.
    ///
    /// # Errors
    /// [`RequestError::Short`] while bytes are missing; the others are final.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let short = RequestError::Short(bytes.len());
        if bytes.len() > Self::MAX_LEN {
            return Err(RequestError::Long);
        }
        let magic = u32_at(bytes, 0).ok_or(short)?;
        if magic != MAGIC {
            return Err(RequestError::Magic(magic));
        }
        let (kind, address_at) = match u32_at(bytes, 4).ok_or(short)? {
            // The version field of version 1 is its control type.
            kind @ (0 | 1) => (kind, HEAD_LEN_V1),
            VERSION => (u32_at(bytes, 8).ok_or(short)?, HEAD_LEN),
            version => return Err(RequestError::Version(version)),
        };
        let [control_type, ..] = kind.to_le_bytes();
        if control_type > MAX_CONTROL_TYPE {
            return Err(RequestError::ControlType(control_type));
        }
        let (address, description) =
            bytes.get(address_at..).and_then(<[u8]>::split_first_chunk::<{ Address::LEN }>).ok_or(short)?;
        let [f0, f1, ..] = *address;
        let mut client = Address::parse(address).ok_or(RequestError::Family(u16::from_ne_bytes([f0, f1])))?;
        let offer = client.take_offer(Side::Client);
        let end = description.iter().position(|byte| *byte == 0).unwrap_or(description.len());
        Ok(Self { port: kind >> 8, client, offer, description: description[..end].to_vec() })
    }

    /// The wire form, version 3. The description is cut to [`Request::MAX_DESCRIPTION`] bytes, the port to 24 bits.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut client = self.client;
        client.set_offer(Side::Client, self.offer);
        let description = &self.description[..self.description.len().min(Self::MAX_DESCRIPTION)];
        let mut bytes = Vec::with_capacity(Self::MIN_LEN + description.len());
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend(VERSION.to_ne_bytes());
        bytes.extend((self.port << 8).to_ne_bytes());
        bytes.extend(client.as_bytes());
        bytes.extend(description);
        bytes
    }
}

/// A switch's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its datagram socket.
    pub switch: Address,
    /// What it is willing to receive, if it carries the offload header.
    pub offer: Option<Offloads>,
}

impl Reply {
    /// Bytes of the wire form.
    pub const LEN: usize = Address::LEN;

    /// Parses the wire form; none if it holds no Unix-domain address.
    #[must_use]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let mut switch = Address::parse(bytes)?;
        let offer = switch.take_offer(Side::Switch);
        Some(Self { switch, offer })
    }

    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut switch = self.switch;
        switch.set_offer(Side::Switch, self.offer);
        switch.0
    }

    /// Whether the path of the reply leaves room to say what is offered.
    #[must_use]
    pub fn can_offer(&self) -> bool {
        self.switch.has_room()
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Offloads = Offloads { checksum: true, tso4: false, tso6: true, uso: false };

    fn address(path: &str) -> Address {
        Address::of_path(Path::new(path)).unwrap()
    }

    /// A version 3 request as libvdeplug 4.0.1 sends it.
    fn libvdeplug_request(port: u8, words: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xce, 0xfa, 0xed, 0xfe, 3, 0, 0, 0, 0, port, 0, 0, 1, 0];
        bytes.extend(b"/tmp/sw/.13160-00000");
        bytes.resize(122, 0);
        bytes.extend(words);
        bytes
    }

    /// A version 1 request.
    fn v1_request(address: &[u8], words: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xce, 0xfa, 0xed, 0xfe, 0, 0, 0, 0, 2, 0, 0, 0, 0, 7, 1, 0];
        bytes.extend(address);
        bytes.resize(124, 0);
        bytes.extend(words);
        bytes
    }

    #[test]
    fn a_request_of_libvdeplug_is_understood() {
        let request = Request::parse(&libvdeplug_request(3, b"vdeplug: user=root pid=13160")).unwrap();
        assert_eq!(request.port, 3);
        assert_eq!(request.client.path(), Some(Path::new("/tmp/sw/.13160-00000")));
        assert_eq!(request.offer, None);
        assert_eq!(request.description, b"vdeplug: user=root pid=13160");
        assert_eq!(request.encode(), libvdeplug_request(3, b"vdeplug: user=root pid=13160"));
    }

    #[test]
    fn a_uml_request_has_an_abstract_address_and_two_bytes_more() {
        let mut bytes = libvdeplug_request(0, &[0, 0]);
        bytes[14..122].fill(0);
        bytes[15..20].copy_from_slice(b"\x39\x30\0\0\x17");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.client.path(), None);
        assert_eq!(request.client.as_bytes()[..], bytes[12..122]);
        assert_eq!(request.description, b"");
    }

    #[test]
    fn a_trailer_inside_an_abstract_address_is_a_part_of_it() {
        let mut bytes = libvdeplug_request(0, b"");
        bytes[14] = 0;
        bytes[106..112].copy_from_slice(b"ELq\x01\x01\x1f");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.offer, None);
        assert_eq!(request.client.as_bytes()[..], bytes[12..122]);
    }

    #[test]
    fn a_version_1_request_is_understood() {
        let request = Request::parse(&v1_request(b"/tmp/old", b"uml")).unwrap();
        assert_eq!((request.port, request.description.as_slice()), (0, &b"uml"[..]));
        assert_eq!(request.client.path(), Some(Path::new("/tmp/old")));
    }

    #[test]
    fn every_part_of_a_request_is_short_until_its_last_byte_is_there() {
        let (v3, v1) = (libvdeplug_request(3, b""), v1_request(b"/tmp/old", b""));
        for (whole, len) in [(&v3, 122), (&v1, 124)] {
            for end in 0..len {
                assert_eq!(Request::parse(&whole[..end]), Err(RequestError::Short(end)));
            }
            assert!(Request::parse(&whole[..len]).is_ok());
        }
    }

    #[test]
    fn other_things_than_requests_are_refused() {
        let changed = |at: usize, to: u8| {
            let mut bytes = libvdeplug_request(3, b"words");
            bytes[at] = to;
            Request::parse(&bytes).unwrap_err()
        };
        assert_eq!(changed(0, 0), RequestError::Magic(u32::from_ne_bytes([0, 0xfa, 0xed, 0xfe])));
        assert_eq!(changed(4, 2), RequestError::Version(2));
        assert_eq!(changed(4, 4), RequestError::Version(4));
        assert_eq!(changed(8, 2), RequestError::ControlType(2));
        assert_eq!(changed(12, 2), RequestError::Family(2));
        assert_eq!(Request::parse(&[b'G'; 4]), Err(RequestError::Magic(0x4747_4747)));
        let long = libvdeplug_request(0, &[b'x'; 135]);
        assert_eq!(Request::parse(&long), Err(RequestError::Long));
        assert_eq!(Request::parse(&long[..256]).unwrap().description.len(), 134);
    }

    #[test]
    fn a_trailer_stands_in_the_last_16_bytes_of_the_address() {
        let request =
            Request { port: 0x12_3456, client: address("/tmp/a"), offer: Some(SOME), description: b"me".to_vec() };
        let bytes = request.encode();
        assert_eq!(bytes[8..12], [0, 0x56, 0x34, 0x12]);
        assert_eq!(bytes[12..20], *b"\x01\0/tmp/a");
        assert!(bytes[20..106].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[106..122], *b"ELq\x01\x01\x0b\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes[122..], *b"me");
        assert_eq!(Request::parse(&bytes), Ok(request));

        let reply = Reply { switch: address("/tmp/sw/001.0"), offer: Some(Offloads::ALL) };
        let bytes = reply.encode();
        assert_eq!(bytes[94..110], *b"ELr\x01\x01\x1f\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(Reply::parse(&bytes), Some(reply));
    }

    #[test]
    fn a_path_that_reaches_into_the_trailer_has_none() {
        let offer = |len: usize| {
            let reply = Reply { switch: address(&"p".repeat(len)), offer: Some(SOME) };
            assert_eq!(reply.can_offer(), len <= 91);
            let parsed = Reply::parse(&reply.encode()).unwrap();
            assert_eq!(parsed.switch, reply.switch);
            parsed.offer
        };
        assert_eq!(offer(91), Some(SOME));
        assert_eq!(offer(92), None);
        assert_eq!(offer(107), None);
        assert_eq!(Address::of_path(Path::new(&"p".repeat(108))), None);
        assert_eq!(Address::of_path(Path::new("")), None);
        assert_eq!(Address::of_path(Path::new("a\0b")), None);
    }

    #[test]
    fn a_path_of_all_108_bytes_ends_without_a_nul() {
        let mut bytes = libvdeplug_request(0, b"");
        bytes[14..122].fill(b'p');
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.client.path().unwrap().as_os_str().len(), 108);
    }

    #[test]
    fn an_echoed_request_makes_no_agreement() {
        let request = Request { port: 0, client: address("/tmp/a"), offer: Some(SOME), description: Vec::new() };
        let echo = request.encode()[12..122].try_into().unwrap();
        assert_eq!(Reply::parse(&echo).unwrap().offer, None);
    }

    #[test]
    fn rubbish_behind_a_path_is_neither_address_nor_offer() {
        let mut bytes = *address("/tmp/a").as_bytes();
        bytes[10..].fill(0xa5);
        assert_eq!(Reply::parse(&bytes), Some(Reply { switch: address("/tmp/a"), offer: None }));
        let reply = |features: u8, version: u8| {
            let mut bytes = Reply { switch: address("/tmp/a"), offer: Some(SOME) }.encode();
            bytes[98] = version;
            bytes[99] = features;
            Reply::parse(&bytes).unwrap().offer
        };
        assert_eq!(reply(0x0b, 1), Some(SOME));
        assert_eq!(reply(0x0b, 2), None, "a version that is not known");
        assert_eq!(reply(0x0a, 1), None, "no header, no offloads");
        assert_eq!(reply(0x09, 1), Some(Offloads::NONE), "segmentation needs partial checksums");
        assert_eq!(reply(0xeb, 1), Some(SOME), "bits of the future");
    }

    #[test]
    fn no_bytes_make_the_parsers_panic() {
        let seed =
            Request { port: 1, client: address("/tmp/a"), offer: Some(SOME), description: b"x".to_vec() }.encode();
        for at in 0..seed.len() {
            for bit in 0..8 {
                let mut bytes = seed.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(request) = Request::parse(&bytes) {
                    assert_eq!(Request::parse(&request.encode()), Ok(request));
                }
            }
        }
    }
}
