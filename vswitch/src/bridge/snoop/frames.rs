//! Frames for tests: those of hosts as Linux 6 sent them on a TAP of its own, and a router's, made by hand.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An IGMPv2 general query from 10.9.9.254.
pub(in crate::bridge) const QUERY: &str =
    "01005e000001020000000009080046c00020000040000102f00f0a0909fee0000001940400001164ee9b00000000";
/// An IGMPv3 report: 239.1.2.3 is joined (exclude nothing).
pub(in crate::bridge) const REPORT_V3: &str = "01005e000016020000000007080046c00028000040000102f0e90a090907e0000016\
    940400002200e8f90000000104000000ef010203";
/// An IGMPv3 report: 239.1.2.3 is left (include nothing).
pub(super) const LEAVE_V3: &str = "01005e000016020000000007080046c00028000040000102f0e90a090907e0000016\
    940400002200e9f90000000103000000ef010203";
/// An IGMPv2 report for 239.1.2.3.
pub(in crate::bridge) const REPORT_V2: &str =
    "01005e010203020000000007080046c00020000040000102e0030a090907ef010203940400001600f8faef010203";
/// An IGMPv2 leave of 239.1.2.3.
pub(super) const LEAVE_V2: &str =
    "01005e000002020000000007080046c00020000040000102f1050a090907e0000002940400001700f7faef010203";
/// An IGMPv1 report for 239.1.2.3.
pub(super) const REPORT_V1: &str =
    "01005e010203020000000007080046c00020000040000102e0030a090907ef010203940400001200fcfaef010203";
/// An MLDv2 report from no address yet: ff15::1234 and the solicited-node group ff02::1:ff00:7 are joined.
pub(super) const REPORT_MLD2: &str = "33330000001602000000000786dd60000000003800010000000000000000000000000000\
    0000ff0200000000000000000000000000163a000502000001008f005a240000000204000000ff150000000000000000000000001234\
    04000000ff0200000000000000000001ff000007";
/// An MLDv2 report: ff15::1234 is left.
pub(super) const LEAVE_MLD2: &str = "33330000001602000000000786dd6000000000240001fe80000000000000000000fffe000007ff02\
    00000000000000000000000000163a000502000001008f005fbd0000000103000000ff150000000000000000000000001234";
/// An MLDv1 report for ff15::1234.
pub(super) const REPORT_MLD1: &str = "33330000123402000000000786dd6000000000200001fe80000000000000000000fffe000007ff15\
    000000000000000000000000123\
    43a0005020000010083005c9100000000ff150000000000000000000000001234";
/// An MLDv1 done for ff15::1234.
pub(super) const DONE_MLD1: &str = "33330000000202000000000786dd6000000000200001fe80000000000000000000fffe000007ff0200\
    000000000000000000000000023a0005020000010084006dd600000000ff150000000000000000000000001234";
/// A neighbour solicitation to ff02::1:ff00:7.
pub(super) const SOLICITATION: &str = "3333ff00000702000000000786dd6000000000203aff00000000000000000000000000000000ff02\
    00000000000000000001ff0000078700050f00000000fe80000000000000000000fffe0000070e012269aea798f0";

pub(in crate::bridge) fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The same frame with tags put in.
pub(super) fn tagged(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

/// An EtherType and an IPv4 packet of UDP to a group.
pub(in crate::bridge) fn ipv4_data(group: [u8; 4]) -> Vec<u8> {
    ipv4(17, [10, 9, 9, 1], group, &[0, 1, 0, 1, 0, 8, 0, 0])[12..].to_vec()
}

/// An IPv4 packet to a group in a frame.
pub(super) fn ipv4(protocol: u8, from: [u8; 4], group: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, (20 + body.len()) as u8, 0, 0, 0, 0, 1, protocol, 0, 0];
    header.extend([from, group].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let to = [0x01, 0, 0x5e, group[1] & 0x7f, group[2], group[3]];
    [&to, &[2, 0, 0, 0, 0, 9][..], &[8, 0], &header, body].concat()
}

/// An IGMP message, with its checksum put in at offset 2.
pub(super) fn igmp(from: [u8; 4], to: [u8; 4], message: &[u8]) -> Vec<u8> {
    ipv4(2, from, to, &with_checksum(message, 0))
}

/// An IGMPv3 query: a group (unspecified for all), a response code, the suppress flag and robustness, an interval's
/// code, and sources.
pub(super) fn query_v3(group: Ipv4Addr, code: u8, flags: u8, interval: u8, sources: &[[u8; 4]]) -> Vec<u8> {
    let to = if group.is_unspecified() { [224, 0, 0, 1] } else { group.octets() };
    let fixed = [&[0x11, code, 0, 0][..], &group.octets(), &[flags, interval, 0, sources.len() as u8]].concat();
    igmp([10, 9, 9, 254], to, &[fixed, sources.concat()].concat())
}

/// An MLD message from fe80::9, with its checksum put in at offset 2.
pub(super) fn mld(to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let from: Ipv6Addr = "fe80::9".parse().unwrap();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 0, 0, message.len() as u8, 0, 0, 0, 58]].concat();
    let sum = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let body = with_checksum(message, sum);
    let header = [&[0x60, 0, 0, 0, 0, (body.len() + 8) as u8, 0, 1][..], &from.octets(), &to.octets()].concat();
    let [.., a, b, c, d] = to.octets();
    let ethernet = [0x33, 0x33, a, b, c, d, 2, 0, 0, 0, 0, 9, 0x86, 0xdd];
    [&ethernet[..], &header, &[58, 0, 5, 2, 0, 0, 1, 0], &body].concat()
}

/// An MLDv1 query; the unspecified group asks for all.
pub(super) fn mld_query(group: Ipv6Addr, response: u16) -> Vec<u8> {
    let to = if group.is_unspecified() { "ff02::1".parse().unwrap() } else { group };
    let [high, low] = response.to_be_bytes();
    mld(to, &[&[130, 0, 0, 0, high, low, 0, 0][..], &group.octets()].concat())
}

/// A PIM hello with this hold time in seconds, if it gives one.
pub(super) fn pim_hello(hold: Option<u16>) -> Vec<u8> {
    let option = hold.map(|hold| [&[0, 1, 0, 2][..], &hold.to_be_bytes()].concat()).unwrap_or_default();
    let message = with_checksum(&[&[0x20, 0, 0, 0][..], &option].concat(), 0);
    ipv4(103, [10, 9, 9, 254], [224, 0, 0, 13], &message)
}

fn with_checksum(message: &[u8], sum: u32) -> Vec<u8> {
    let mut message = message.to_vec();
    let own = !u16::from_be_bytes(checksum(&message));
    let mut sum = sum + u32::from(own);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    message
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}
