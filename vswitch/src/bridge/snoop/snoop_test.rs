use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::frames::{self, bytes, igmp, mld, mld_query, pim_hello, query_v3, tagged};
use super::message::Message;
use super::*;
use crate::bridge::lab::{BROADCAST, Chance, GROUP, Lab, frame, port, station, vlan};

const ALL: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const JOINED: [u8; 4] = [239, 1, 2, 3];

/// Four ports and a snooping bridge. Port 1 has the querier, whose first query is answered by now.
fn with_querier() -> Lab {
    let mut lab = Lab::new(4);
    lab.bridge.set_snooping(true);
    ask(&mut lab);
    lab.wait(Duration::from_secs(10));
    lab
}

fn ask(lab: &mut Lab) {
    assert_eq!(lab.reach(1, &bytes(frames::QUERY)), [2, 3, 4]);
    lab.forward(1, &mld_query(Ipv6Addr::UNSPECIFIED, 10_000));
}

/// A frame of data to an IPv4 group.
fn data(group: [u8; 4]) -> Vec<u8> {
    frames::ipv4(17, [10, 9, 9, 1], group, &[0; 8])
}

fn data_v6(group: &str) -> Vec<u8> {
    let mut frame = bytes(frames::SOLICITATION);
    let group: Ipv6Addr = group.parse().unwrap();
    frame[38..54].copy_from_slice(&group.octets());
    frame[2..6].copy_from_slice(&group.octets()[12..]);
    frame
}

fn read(frame: &[u8]) -> Message {
    parse(frame, Admission { vlan: VlanId::UNTAGGED, tci: None }).message
}

#[test]
fn what_linux_sends_is_understood() {
    let joined: IpAddr = JOINED.into();
    let joined_v6: IpAddr = "ff15::1234".parse().unwrap();
    let solicited: IpAddr = "ff02::1:ff00:7".parse().unwrap();
    for (hex, expected) in [
        (frames::REPORT_V1, Message::Report(vec![joined])),
        (frames::REPORT_V2, Message::Report(vec![joined])),
        (frames::REPORT_V3, Message::Report(vec![joined])),
        (frames::LEAVE_V2, Message::Leave),
        (frames::LEAVE_V3, Message::Report(vec![])),
        (frames::REPORT_MLD1, Message::Report(vec![joined_v6])),
        (frames::REPORT_MLD2, Message::Report(vec![joined_v6, solicited])),
        (frames::DONE_MLD1, Message::Leave),
        (frames::LEAVE_MLD2, Message::Report(vec![])),
        (frames::SOLICITATION, Message::Data(solicited)),
    ] {
        assert_eq!(read(&bytes(hex)), expected, "{hex}");
    }
}

#[test]
fn groups_reach_their_listeners_and_the_routers_alone() {
    let mut lab = with_querier();
    for report in [frames::REPORT_V1, frames::REPORT_V2, frames::REPORT_V3] {
        assert_eq!(lab.reach(2, &bytes(report)), [1]);
        assert_eq!(lab.reach(4, &data(JOINED)), [1, 2]);
        lab.bridge.flush(port(3));
        assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
        lab = with_querier();
    }
    for report in [frames::REPORT_MLD1, frames::REPORT_MLD2] {
        assert_eq!(lab.reach(3, &bytes(report)), [1]);
        assert_eq!(lab.reach(4, &data_v6("ff15::1234")), [1, 3]);
        lab = with_querier();
    }
    lab.forward(3, &bytes(frames::REPORT_MLD2));
    assert_eq!(lab.reach(2, &bytes(frames::SOLICITATION)), [1, 3]);
}

#[test]
fn groups_that_nobody_reported_go_to_routers_unless_set_to_flood() {
    let mut lab = with_querier();
    assert_eq!(lab.reach(2, &data([239, 9, 9, 9])), [1]);
    assert_eq!(lab.reach(2, &data_v6("ff15::9")), [1]);
    lab.bridge.set_flood_unregistered(true);
    assert_eq!(lab.reach(2, &data([239, 9, 9, 9])), [1, 3, 4]);
}

#[test]
fn what_hosts_need_not_report_floods() {
    let mut lab = with_querier();
    assert_eq!(lab.reach(2, &data([224, 0, 0, 251])), [1, 3, 4]);
    assert_eq!(lab.reach(2, &data_v6("ff02::1")), [1, 3, 4]);
    assert_eq!(lab.reach(2, &data_v6("ff01::5")), [1, 3, 4]);
    assert_eq!(lab.reach(2, &frame(GROUP, station(2), &[])), [1, 3, 4]);
    assert_eq!(lab.reach(2, &frame(BROADCAST, station(2), &[])), [1, 3, 4]);
    // Its address on Ethernet is that of another group.
    let mut astray = data(JOINED);
    astray[5] = 9;
    assert_eq!(lab.reach(2, &astray), [1, 3, 4]);
    // 239.128.0.251 shares its address on Ethernet with 224.0.0.251, and is not it.
    assert_eq!(lab.reach(2, &data([239, 128, 0, 251])), [1]);
}

#[test]
fn groups_flood_without_a_querier() {
    let mut lab = Lab::new(4);
    lab.bridge.set_snooping(true);
    lab.forward(2, &bytes(frames::REPORT_V2));
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    assert_eq!(lab.reach(3, &bytes(frames::REPORT_V2)), [1, 2, 4]);
    ask(&mut lab);
    // Nobody has had the time to answer.
    lab.wait(Duration::from_millis(9_999));
    assert_eq!(lab.reach(4, &data([239, 9, 9, 9])), [1, 2, 3]);
    lab.wait(Duration::from_millis(1));
    assert_eq!(lab.reach(4, &data([239, 9, 9, 9])), [1]);
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    // It is gone for longer than queriers pause: 255 s.
    lab.wait(Duration::from_secs(244));
    assert_eq!(lab.reach(4, &data([239, 9, 9, 9])), [1]);
    lab.wait(Duration::from_secs(1));
    assert_eq!(lab.reach(4, &data([239, 9, 9, 9])), [1, 2, 3]);
}

#[test]
fn a_listener_that_reports_no_more_is_forgotten_after_260_seconds() {
    let mut lab = with_querier();
    lab.forward(2, &bytes(frames::REPORT_V2));
    for _ in 0..2 {
        lab.wait(Duration::from_millis(129_999));
        ask(&mut lab);
    }
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2]);
    lab.wait(Duration::from_millis(2));
    assert_eq!(lab.reach(4, &data(JOINED)), [1]);
    assert_eq!(lab.bridge.listeners(lab.now).filter(|listener| listener.group.is_some()).count(), 0);
}

#[test]
fn a_leave_lets_the_querier_find_out_who_is_left() {
    let mut lab = with_querier();
    lab.forward(2, &bytes(frames::REPORT_V2));
    lab.forward(3, &bytes(frames::REPORT_V3));
    assert_eq!(lab.reach(2, &bytes(frames::LEAVE_V2)), [1]);
    lab.wait(Duration::from_secs(5));
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    // The last member query: one second, twice. Port 3 answers.
    lab.forward(1, &igmp([10, 9, 9, 254], JOINED, &[0x11, 10, 0, 0, 239, 1, 2, 3]));
    lab.wait(Duration::from_millis(500));
    lab.forward(3, &bytes(frames::REPORT_V2));
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    lab.wait(Duration::from_millis(1500));
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 3]);
}

#[test]
fn questions_about_sources_and_suppressed_ones_shorten_nothing() {
    let group = Ipv4Addr::from(JOINED);
    for (flags, sources) in [(0x0a, &[][..]), (0x02, &[[10, 0, 0, 1]])] {
        let mut lab = with_querier();
        lab.forward(2, &bytes(frames::REPORT_V3));
        lab.forward(1, &query_v3(group, 10, flags, 125, sources));
        lab.wait(Duration::from_secs(5));
        assert_eq!(lab.reach(4, &data(JOINED)), [1, 2]);
    }
    let mut lab = with_querier();
    lab.forward(2, &bytes(frames::REPORT_V3));
    lab.forward(1, &query_v3(group, 10, 2, 125, &[]));
    lab.wait(Duration::from_secs(5));
    assert_eq!(lab.reach(4, &data(JOINED)), [1]);
}

#[test]
fn a_querier_s_own_timers_count() {
    let mut lab = Lab::new(4);
    lab.bridge.set_snooping(true);
    // Robustness 3, 20 s between queries, 1 s to answer: 61 s.
    lab.forward(1, &query_v3(ALL, 10, 3, 20, &[]));
    lab.wait(Duration::from_secs(1));
    lab.forward(2, &bytes(frames::REPORT_V3));
    lab.wait(Duration::from_secs(50));
    lab.forward(1, &query_v3(ALL, 10, 3, 20, &[]));
    lab.wait(Duration::from_secs(10));
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2]);
    lab.wait(Duration::from_secs(1));
    assert_eq!(lab.reach(4, &data(JOINED)), [1]);
}

#[test]
fn codes_with_an_exponent_are_expanded() {
    let response = |frame: &[u8]| match read(frame) {
        Message::Query(query) => (query.response, query.interval),
        other => panic!("{other:?}"),
    };
    assert_eq!(response(&query_v3(ALL, 127, 2, 127, &[])), (12_700, Some(127_000)));
    assert_eq!(response(&query_v3(ALL, 128, 2, 0xff, &[])), (12_800, Some(31_744_000)));
    assert_eq!(response(&bytes(frames::QUERY)), (10_000, None));
    assert_eq!(response(&igmp([0; 4], [224, 0, 0, 1], &[0x11, 0, 0, 0, 0, 0, 0, 0])), (message::RESPONSE, None));
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let mld2 = |code: u16| {
        let [high, low] = code.to_be_bytes();
        mld(all, &[&[130, 0, 0, 0, high, low, 0, 0][..], &[0; 16], &[2, 125, 0, 0]].concat())
    };
    assert_eq!(response(&mld2(32_767)), (32_767, Some(125_000)));
    assert_eq!(response(&mld2(0x8000)), (32_768, Some(125_000)));
    assert_eq!(response(&mld2(0xffff)), (0x1fff << 10, Some(125_000)));
}

#[test]
fn a_querier_without_an_address_is_no_router() {
    let mut lab = Lab::new(4);
    lab.bridge.set_snooping(true);
    lab.forward(1, &igmp([0; 4], [224, 0, 0, 1], &[0x11, 100, 0, 0, 0, 0, 0, 0]));
    lab.wait(Duration::from_secs(10));
    lab.forward(2, &bytes(frames::REPORT_V2));
    assert_eq!(lab.reach(4, &data(JOINED)), [2]);
    assert_eq!(lab.reach(4, &data([239, 9, 9, 9])), [0; 0]);
}

#[test]
fn a_pim_hello_makes_a_router_s_port_for_its_hold_time() {
    let mut lab = with_querier();
    for (hold, time) in [(Some(30), 30), (None, 105)] {
        assert_eq!(lab.reach(3, &pim_hello(hold)), [1, 2, 4]);
        assert_eq!(lab.reach(2, &data([239, 9, 9, 9])), [1, 3]);
        lab.wait(Duration::from_secs(time));
        assert_eq!(lab.reach(2, &data([239, 9, 9, 9])), [1]);
    }
}

#[test]
fn segments_are_apart() {
    let mut lab = Lab::new(4);
    lab.bridge.set_snooping(true);
    let inside = |hex: &str, tags: &[[u8; 4]]| tagged(&bytes(hex), tags);
    let one: [[u8; 4]; 1] = [[0x81, 0, 0, 5]];
    let two: [[u8; 4]; 2] = [[0x88, 0xa8, 0, 5], [0x81, 0, 0, 6]];
    for tags in [&one[..], &two, &[[0x81, 0, 0, 5], [0x81, 0, 0, 6]]] {
        lab.forward(1, &inside(frames::QUERY, tags));
        lab.wait(Duration::from_secs(10));
        lab.forward(2, &inside(frames::REPORT_V2, tags));
        assert_eq!(lab.reach(4, &tagged(&data(JOINED), tags)), [1, 2]);
    }
    // The same group where no querier is: another VLAN, the VLAN within, the other protocol.
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    assert_eq!(lab.reach(4, &tagged(&data(JOINED), &[[0x81, 0, 0, 6]])), [1, 2, 3]);
    assert_eq!(lab.reach(4, &tagged(&data(JOINED), &[[0x88, 0xa8, 0, 5]])), [1, 2, 3]);
    assert_eq!(lab.reach(4, &tagged(&data_v6("ff15::9"), &one)), [1, 2, 3]);
}

#[test]
fn listeners_get_the_tag_of_their_port_and_only_in_their_vlan() {
    let mut lab = Lab::with_vlans();
    lab.bridge.set_snooping(true);
    lab.forward(2, &bytes(frames::QUERY));
    lab.wait(Duration::from_secs(10));
    lab.forward(4, &tagged(&bytes(frames::REPORT_V2), &[[0x81, 0, 0, 5]]));
    lab.forward(5, &bytes(frames::REPORT_V2));
    use crate::bridge::TagAction::{Insert, Keep};
    assert_eq!(lab.ways(2, &data(JOINED)), [(4, Insert(5)), (5, Keep)]);
    lab.bridge.remove_tagged(vlan(5), port(4)).unwrap();
    assert_eq!(lab.ways(2, &data(JOINED)), [(5, Keep)]);
    lab.bridge.set_connected(port(5), false);
    assert_eq!(lab.reach(2, &data(JOINED)), [0; 0]);
}

#[test]
fn malformed_messages_are_counted_and_flood_and_change_nothing() {
    let mut lab = with_querier();
    let known = lab.bridge.listeners(lab.now).count();
    let mut malformed = Vec::new();
    for hex in [frames::REPORT_V2, frames::REPORT_V3, frames::LEAVE_V2, frames::REPORT_MLD1, frames::REPORT_MLD2] {
        let whole = bytes(hex);
        let mut wrong_sum = whole.clone();
        *wrong_sum.last_mut().unwrap() ^= 0x40;
        malformed.push(wrong_sum);
        malformed.push(whole[..whole.len() - 4].to_vec());
    }
    let mut fragment = bytes(frames::REPORT_V2);
    fragment[20] = 0x20;
    malformed.push(fragment);
    // Not a group; more records, sources and auxiliary data than there are octets; too short; PIM options that overrun.
    malformed.push(igmp([10, 9, 9, 1], JOINED, &[0x16, 0, 0, 0, 10, 1, 2, 3]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 1], &[0x11, 0, 0, 0, 10, 1, 2, 3]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 22], &[0x22, 0, 0, 0, 0, 0, 0xff, 0xff, 4, 0, 0, 0, 239, 1, 2, 3]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 22], &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 255, 255, 239, 1, 2, 3]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 22], &[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 255, 0, 0, 239, 1, 2, 3]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 22], &[0x22, 0, 0, 0]));
    malformed.push(igmp([10, 9, 9, 1], [224, 0, 0, 1], &[0x11, 0, 0, 0, 0, 0, 0, 0, 2, 125, 0, 9]));
    malformed.push(frames::ipv4(103, [10, 9, 9, 1], [224, 0, 0, 13], &[0x20, 0, 0xdf, 0xfb, 0, 1, 0, 4]));
    // A query from beyond the link.
    let mut far = mld_query(Ipv6Addr::UNSPECIFIED, 10);
    far[21] = 2;
    malformed.push(far);
    let total = malformed.len() as u64;
    for frame in &malformed {
        assert_eq!(read(frame), Message::Malformed, "{frame:02x?}");
        assert_eq!(lab.reach(2, frame).len(), 3, "{frame:02x?}");
    }
    assert_eq!(lab.bridge.malformed_reports(), total);
    assert_eq!(lab.bridge.listeners(lab.now).count(), known);
}

#[test]
fn a_full_table_of_listeners_loses_nobody() {
    let mut lab = with_querier();
    for group in 0..CAPACITY as u32 + 10 {
        let [_, b, c, d] = group.to_be_bytes();
        lab.forward(2, &igmp([10, 9, 9, 1], [239, b, c, d], &[0x16, 0, 0, 0, 239, b, c, d]));
    }
    assert_eq!(lab.bridge.listeners(lab.now).count(), CAPACITY);
    // The last one may be among those that found no room.
    let [_, b, c, d] = (CAPACITY as u32 + 9).to_be_bytes();
    assert_eq!(lab.reach(4, &data([239, b, c, d])), [1, 2, 3]);
    assert_eq!(lab.reach(4, &data([239, 0, 0, 9])), [1, 2]);
    // With time, all are gone, and there is nothing left to wake for.
    while let Some(due) = lab.bridge.deadline() {
        assert!(due > lab.now);
        lab.now = due;
        lab.bridge.expire(due);
    }
    assert_eq!(lab.bridge.listeners(lab.now).count(), 0);
    assert_eq!(lab.bridge.snoop.entries, 0);
    assert!(lab.bridge.snoop.segments.is_empty() && lab.bridge.snoop.groups.is_empty());
}

#[test]
fn snooping_switched_off_forgets_and_floods() {
    let mut lab = with_querier();
    lab.forward(2, &bytes(frames::REPORT_V2));
    lab.bridge.set_snooping(false);
    assert_eq!(lab.reach(4, &data(JOINED)), [1, 2, 3]);
    assert_eq!((lab.bridge.listeners(lab.now).count(), lab.bridge.deadline()), (0, None));
}

#[test]
fn mutilated_messages_never_panic() {
    let mut chance = Chance::new(9);
    let mut lab = with_querier();
    let whole: Vec<_> = [
        frames::QUERY,
        frames::REPORT_V2,
        frames::REPORT_V3,
        frames::LEAVE_V3,
        frames::REPORT_MLD1,
        frames::REPORT_MLD2,
        frames::DONE_MLD1,
    ]
    .iter()
    .map(|hex| bytes(hex))
    .chain([pim_hello(Some(7)), query_v3(ALL, 3, 3, 3, &[[10, 0, 0, 1]]), mld_query(Ipv6Addr::UNSPECIFIED, 9)])
    .collect();
    for _ in 0..100_000 {
        let mut frame = whole[chance.below(whole.len())].clone();
        for _ in 0..chance.below(3) {
            let at = 12 + chance.below(frame.len() - 12);
            frame[at] = chance.octet();
        }
        if chance.one_in(3) {
            frame.truncate(14 + chance.below(frame.len() - 13));
        }
        if chance.one_in(3) {
            frame = tagged(&frame, &[[0x81, 0, 0, 5], [0x88, 0xa8, 0, 6]][..chance.below(3)]);
        }
        lab.forward(1 + chance.below(4) as u32, &frame);
    }
    assert!(lab.bridge.malformed_reports() > 10_000);
}
