use std::time::Duration;

use link::{DropReason, MacAddr};

use super::lab::{BROADCAST, Chance, GROUP, Lab, NOBODY, frame, port, set_at_random, station, vlan};
use super::snoop::frames;
use super::*;

const BPDU_ADDRESS: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);

fn plain(to: MacAddr, from: MacAddr) -> Vec<u8> {
    frame(to, from, &[])
}

#[test]
fn unknown_unicast_floods_all_but_ingress() {
    let mut lab = Lab::new(4);
    assert_eq!(lab.reach(2, &plain(NOBODY, station(2))), [1, 3, 4]);
    assert_eq!(lab.reach(2, &plain(BROADCAST, station(2))), [1, 3, 4]);
    assert_eq!(lab.reach(2, &plain(GROUP, station(2))), [1, 3, 4]);
}

#[test]
fn a_known_station_gets_its_frames_alone() {
    let mut lab = Lab::new(4);
    lab.forward(2, &plain(BROADCAST, station(2)));
    lab.forward(3, &plain(BROADCAST, station(3)));
    assert_eq!(lab.ways(3, &plain(station(2), station(3))), [(2, TagAction::Keep)]);
    assert_eq!(lab.reach(2, &plain(station(3), station(2))), [3]);
    // Both are behind port 2: the frame stays there.
    lab.forward(2, &plain(BROADCAST, station(4)));
    assert_eq!(lab.reach(2, &plain(station(4), station(2))), [0; 0]);
}

#[test]
fn ports_without_anything_plugged_in_get_and_bring_nothing() {
    let mut lab = Lab::new(3);
    lab.forward(3, &plain(BROADCAST, station(3)));
    lab.bridge.set_connected(port(3), false);
    lab.bridge.add_port(port(4));
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [2]);
    // Its stations left with the plug.
    assert_eq!(lab.reach(1, &plain(station(3), station(1))), [2]);
    assert_eq!(lab.verdict(4, &plain(BROADCAST, station(4))), Verdict::Drop(DropReason::LinkDown));
    assert_eq!(lab.verdict(9, &plain(BROADCAST, station(4))), Verdict::Drop(DropReason::LinkDown));
}

#[test]
fn a_removed_port_leaves_nothing_behind() {
    let mut lab = Lab::with_vlans();
    let bridge = &mut lab.bridge;
    bridge.add_static(vlan(5), station(9), port(4)).unwrap();
    bridge.set_mirror(Mirror::to(port(4))).unwrap();
    bridge.remove_port(port(4));
    assert!(bridge.fdb().is_empty() && bridge.mirrors().is_empty() && bridge.port_settings(port(4)).is_none());
    assert!(bridge.vlans().all(|(_, members)| !members.tagged.contains(port(4))));
    bridge.add_port(port(4));
    assert_eq!(bridge.port_settings(port(4)), Some(&PortSettings::default()));
    assert_eq!(bridge.ports().map(PortId::number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_port_that_comes_back_is_as_new() {
    let mut lab = Lab::new(3);
    lab.forward(1, &plain(BROADCAST, station(1)));
    lab.bridge.remove_port(port(3));
    lab.bridge.add_port(port(3));
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [2]);
    lab.bridge.add_static(VlanId::UNTAGGED, station(3), port(3)).unwrap();
    assert_eq!(lab.reach(1, &plain(station(3), station(1))), [0; 0]);
    assert_eq!(lab.verdict(3, &plain(station(1), station(3))), Verdict::Drop(DropReason::LinkDown));
}

#[test]
fn a_station_that_moves_is_followed_and_told_of() {
    let mut lab = Lab::new(3);
    lab.forward(1, &plain(BROADCAST, station(9)));
    lab.forward(2, &plain(BROADCAST, station(9)));
    assert_eq!(lab.reach(3, &plain(station(9), station(3))), [2]);
    let moved = Event::StationMoved { vlan: VlanId::UNTAGGED, address: station(9), from: port(1), to: port(2) };
    assert_eq!(lab.bridge.take_events(), [moved]);
    lab.bridge.fdb_mut().set_hold(Duration::from_secs(3));
    lab.forward(1, &plain(BROADCAST, station(9)));
    assert_eq!(lab.reach(3, &plain(station(9), station(3))), [2]);
}

#[test]
fn a_flapping_station_tells_no_more_than_so_often() {
    let mut lab = Lab::new(2);
    let mut told = 0;
    for number in 0..10_000 {
        lab.forward(1 + number % 2, &plain(BROADCAST, station(9)));
        lab.wait(Duration::from_millis(1));
        told += lab.bridge.take_events().len();
    }
    assert!((100..=352).contains(&told), "{told}");
    assert_eq!(lab.bridge.lost_events(), 9_999 - told as u64);
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    let mut lab = Lab::new(2);
    for number in 0..100_000 {
        lab.forward(1 + number % 2, &plain(BROADCAST, station(9)));
        lab.wait(Duration::from_millis(10));
    }
    assert_eq!(lab.bridge.take_events().len(), 1024);
}

#[test]
fn a_station_is_forgotten_after_the_ageing_time() {
    let mut lab = Lab::new(3);
    lab.bridge.set_ageing(Duration::from_secs(10));
    lab.forward(1, &plain(BROADCAST, station(1)));
    assert_eq!(lab.bridge.deadline(), None);
    lab.wait(Duration::from_millis(9_999));
    assert_eq!(lab.reach(2, &plain(station(1), station(2))), [1]);
    lab.wait(Duration::from_millis(1));
    assert_eq!(lab.reach(2, &plain(station(1), station(2))), [1, 3]);
    assert_eq!(lab.bridge.stations(lab.now).map(|found| found.address).collect::<Vec<_>>(), [station(2)]);
    assert_eq!(lab.bridge.station(VlanId::UNTAGGED, station(1), lab.now), None);
}

#[test]
fn a_full_table_wakes_its_owner_once_there_can_be_room() {
    let mut lab = Lab::new(2);
    lab.bridge.fdb_mut().set_capacity(1);
    lab.forward(1, &plain(BROADCAST, station(1)));
    lab.forward(2, &plain(BROADCAST, station(2)));
    let due = lab.bridge.deadline().unwrap();
    assert!(due >= lab.now + Duration::from_secs(300) && due <= lab.now + Duration::from_secs(301));
    lab.now = due;
    lab.bridge.expire(due);
    assert_eq!((lab.bridge.deadline(), lab.bridge.fdb().len()), (None, 0));
}

#[test]
fn static_stations_are_for_stations() {
    let mut lab = Lab::new(2);
    assert_eq!(lab.bridge.add_static(vlan(0), GROUP, port(1)), Err(BridgeError::NotAStation(GROUP)));
    assert_eq!(lab.bridge.add_static(vlan(0), station(1), port(3)), Err(BridgeError::NoSuchPort(port(3))));
    lab.bridge.add_static(vlan(0), station(1), port(1)).unwrap();
    lab.bridge.set_connected(port(1), false);
    // It is known to be there, so it is not looked for elsewhere.
    assert_eq!(lab.reach(2, &plain(station(1), station(2))), [0; 0]);
}

#[test]
fn spanning_tree_states_stop_frames_both_ways() {
    let mut lab = Lab::new(3);
    for (state, learns) in [(PortState::Discarding, false), (PortState::Learning, true)] {
        lab.bridge.set_state(port(2), state);
        assert_eq!(lab.verdict(2, &plain(BROADCAST, station(2))), Verdict::Drop(DropReason::Blocked));
        assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [3]);
        assert_eq!(lab.bridge.station(VlanId::UNTAGGED, station(2), lab.now).is_some(), learns);
    }
    // Known there, and it may not send.
    assert_eq!(lab.reach(1, &plain(station(2), station(1))), [0; 0]);
    lab.bridge.set_state(port(2), PortState::Forwarding);
    assert_eq!(lab.reach(1, &plain(station(2), station(1))), [2]);
    lab.bridge.flush(port(2));
    assert_eq!(lab.reach(1, &plain(station(2), station(1))), [2, 3]);
}

#[test]
fn bpdus_are_for_spanning_tree_if_it_is_on() {
    let mut lab = Lab::new(3);
    let bpdu = plain(BPDU_ADDRESS, station(1));
    assert_eq!(lab.reach(1, &bpdu), [2, 3]);
    lab.bridge.set_stp(true);
    for state in [PortState::Forwarding, PortState::Learning, PortState::Discarding] {
        lab.bridge.set_state(port(1), state);
        assert_eq!(lab.verdict(1, &bpdu), Verdict::Bpdu);
    }
    // The tree of a VLAN's own bridges is no business of this one.
    lab.bridge.set_state(port(1), PortState::Forwarding);
    assert_eq!(lab.reach(1, &frame(BPDU_ADDRESS, station(1), &[(0x8100, 7)])), [2, 3]);
    lab.bridge.set_stp(false);
    lab.bridge.set_state(port(1), PortState::Discarding);
    assert_eq!(lab.verdict(1, &bpdu), Verdict::Drop(DropReason::Blocked));
}

#[test]
fn of_the_reserved_addresses_only_pause_is_kept_back() {
    let mut lab = Lab::new(2);
    for last in 0..16 {
        let address = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        let (verdict, out) = lab.forward(1, &plain(address, station(1)));
        if last == 1 {
            assert_eq!((verdict, out.len()), (Verdict::Drop(DropReason::Reserved), 0));
        } else {
            assert_eq!((verdict, out.len()), (Verdict::Forward, 1), "{address}");
        }
    }
}

#[test]
fn sources_that_no_station_has_are_refused() {
    let mut lab = Lab::new(2);
    for source in [BROADCAST, GROUP, MacAddr([0; 6])] {
        assert_eq!(lab.verdict(1, &plain(BROADCAST, source)), Verdict::Drop(DropReason::Reserved));
        assert_eq!(lab.verdict(1, &plain(station(2), source)), Verdict::Drop(DropReason::Reserved));
    }
    assert!(lab.bridge.fdb().is_empty());
}

#[test]
fn frames_without_an_ethernet_header_are_runts() {
    let mut lab = Lab::new(2);
    let whole = plain(BROADCAST, station(1));
    for len in 0..14 {
        assert_eq!(lab.verdict(1, &whole[..len]), Verdict::Drop(DropReason::Runt));
    }
    assert_eq!(lab.reach(1, &whole[..14]), [2]);
}

#[test]
fn a_hub_sends_everything_everywhere_and_learns_nothing() {
    let mut lab = Lab::with_vlans();
    lab.forward(5, &plain(BROADCAST, station(5)));
    lab.bridge.set_hub(true);
    assert!(lab.bridge.fdb().is_empty());
    lab.forward(5, &plain(BROADCAST, station(5)));
    assert_eq!(lab.reach(2, &plain(station(5), station(2))), [1, 4, 5]);
    assert_eq!(lab.verdict(4, &plain(station(5), station(2))), Verdict::Drop(DropReason::VlanRefused));
    lab.bridge.set_hub(false);
    lab.forward(5, &plain(BROADCAST, station(5)));
    assert_eq!(lab.reach(2, &plain(station(5), station(2))), [5]);
}

#[test]
fn a_hub_does_not_snoop() {
    let mut lab = Lab::new(3);
    lab.bridge.set_snooping(true);
    lab.forward(1, &frames::bytes(frames::QUERY));
    lab.wait(Duration::from_secs(10));
    let report = frames::bytes(frames::REPORT_V2);
    assert_eq!(lab.reach(2, &report), [1]);
    lab.bridge.set_hub(true);
    assert_eq!(lab.reach(2, &report), [1, 3]);
}

#[test]
fn stations_known_on_a_port_that_was_shut_since_are_no_way_around_it() {
    let mut lab = Lab::new(2);
    lab.forward(1, &plain(BROADCAST, station(1)));
    lab.forward(2, &plain(BROADCAST, station(2)));
    let known = plain(station(2), station(1));
    assert_eq!(lab.reach(1, &known), [2]);
    for state in [PortState::Discarding, PortState::Learning] {
        lab.bridge.set_state(port(1), state);
        assert_eq!(lab.verdict(1, &known), Verdict::Drop(DropReason::Blocked));
    }
}

#[test]
fn storm_control_drops_what_is_over_the_limit_and_says_so_once() {
    let mut lab = Lab::new(3);
    let limits = StormLimits { broadcast: Some(10), multicast: Some(5), unknown_unicast: Some(2) };
    lab.bridge.set_storm_limits(port(1), limits).unwrap();
    lab.forward(3, &plain(BROADCAST, station(3)));
    let passed = |lab: &mut Lab, to| {
        (0..20).filter(|_| lab.forward(1, &plain(to, station(1))) == (Verdict::Drop(DropReason::Storm), vec![])).count()
    };
    assert_eq!([BROADCAST, GROUP, NOBODY, station(3)].map(|to| passed(&mut lab, to)), [10, 15, 18, 0]);
    assert_eq!(lab.bridge.take_events(), [Event::Storm(port(1))]);
    assert!(lab.bridge.is_storming(port(1), lab.now) && !lab.bridge.is_storming(port(2), lab.now));
    lab.wait(Duration::from_secs(2));
    assert!(!lab.bridge.is_storming(port(1), lab.now));
    assert_eq!(passed(&mut lab, BROADCAST), 10);
    assert_eq!(lab.bridge.take_events(), [Event::Storm(port(1))]);
    // Other ports are free.
    assert_eq!((0..20).filter(|_| lab.forward(3, &plain(BROADCAST, station(3))).1.len() == 2).count(), 20);
}

#[test]
fn a_port_with_a_mac_limit_brings_in_no_more_and_says_so_once() {
    let mut lab = Lab::new(2);
    lab.bridge.set_mac_limit(port(1), Some(2)).unwrap();
    for number in [1, 2, 1, 2] {
        assert_eq!(lab.reach(1, &plain(BROADCAST, station(number))), [2]);
    }
    for number in [3, 4, 3] {
        assert_eq!(lab.verdict(1, &plain(BROADCAST, station(number))), Verdict::Drop(DropReason::MacLimit));
    }
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [2]);
    assert_eq!(lab.bridge.take_events(), [Event::MacLimit(port(1))]);
    // A station goes, another may come, and the next is one too many again.
    assert!(lab.bridge.fdb_mut().forget(VlanId::UNTAGGED, station(2)));
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(3))), [2]);
    lab.verdict(1, &plain(BROADCAST, station(4)));
    assert_eq!(lab.bridge.take_events(), [Event::MacLimit(port(1))]);
}

#[test]
fn a_port_with_learning_off_brings_frames_in_and_is_found_by_static_entries_only() {
    let mut lab = Lab::new(3);
    lab.forward(1, &plain(BROADCAST, station(1)));
    lab.bridge.set_learning(port(1), false).unwrap();
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [2, 3]);
    assert_eq!(lab.reach(2, &plain(station(1), station(2))), [1, 3]);
    lab.bridge.add_static(VlanId::UNTAGGED, station(1), port(1)).unwrap();
    assert_eq!(lab.reach(2, &plain(station(1), station(2))), [1]);
}

#[test]
fn settings_of_ports_that_are_not_there_are_refused() {
    let mut lab = Lab::new(1);
    let absent = port(2);
    let error = Err(BridgeError::NoSuchPort(absent));
    let bridge = &mut lab.bridge;
    assert_eq!(bridge.set_mac_limit(absent, None), error);
    assert_eq!(bridge.set_learning(absent, false), error);
    assert_eq!(bridge.set_storm_limits(absent, StormLimits::default()), error);
    assert_eq!(bridge.set_transparent(absent), error);
    assert_eq!(bridge.set_untagged(absent, None), error);
    assert_eq!(bridge.add_tagged(vlan(0), absent), error);
    assert_eq!(bridge.remove_tagged(vlan(0), absent), error);
    assert_eq!(bridge.set_mirror(Mirror::to(absent)), error);
    bridge.set_connected(absent, true);
    bridge.set_state(absent, PortState::Forwarding);
    assert_eq!(lab.reach(1, &plain(BROADCAST, station(1))), [0; 0]);
}

/// Bytes that steer a decision more often than chance would.
fn random_frame(chance: &mut Chance) -> Vec<u8> {
    let groups = [BROADCAST, GROUP, BPDU_ADDRESS, MacAddr([1, 0, 0x5e, 1, 2, 3]), MacAddr([0x33, 0x33, 0, 0, 0, 0x16])];
    let mut frame = if chance.one_in(3) { chance.pick(&groups).0 } else { station(chance.below(20) as u8).0 }.to_vec();
    frame.extend(if chance.one_in(20) { [0; 6] } else { station(chance.below(20) as u8).0 });
    for _ in 0..chance.below(4) {
        let tag: [u8; 2] = chance.pick(&[[0x81, 0], [0x88, 0xa8]]);
        frame.extend([tag[0], tag[1], chance.below(256) as u8 & 0xe0, chance.below(8) as u8]);
    }
    frame.extend(chance.pick(&[[0x08, 0], [0x86, 0xdd], [0x88, 0xb5]]));
    frame.extend(chance.pick(&[[0x46, 0, 0, 32], [0x45, 0, 0, 28], [0x60, 0, 0, 0], [0xff, 0xff, 0xff, 0xff]]));
    frame.extend((0..chance.below(80)).map(|_| chance.octet()));
    frame.truncate(if chance.one_in(4) { chance.below(60) } else { frame.len() });
    frame
}

#[test]
fn random_frames_under_random_settings_never_panic_nor_leave_where_they_came_in() {
    let mut chance = Chance::new(3);
    for round in 0..100 {
        let mut lab = Lab::with_vlans();
        set_at_random(&mut lab.bridge, &mut chance);
        for _ in 0..1000 {
            let ingress = 1 + chance.below(8) as u32;
            let frame = random_frame(&mut chance);
            let (verdict, out) = lab.forward(ingress, &frame);
            assert!(out.iter().all(|egress| egress.port != port(ingress)), "round {round}");
            let ways = out.len() - out.iter().filter(|egress| is_mirror(&lab.bridge, egress.port)).count();
            assert!(verdict == Verdict::Forward || ways == 0);
            for (i, egress) in out.iter().enumerate() {
                assert!(out[..i].iter().all(|other| other.port != egress.port), "twice by {}", egress.port);
                assert!(super::lab::apply(egress.tag, &frame).len() >= 14);
            }
            lab.wait(Duration::from_millis(chance.below(2000) as u64));
            if lab.bridge.deadline().is_some_and(|due| due <= lab.now) {
                lab.bridge.expire(lab.now);
                assert!(lab.bridge.deadline().is_none_or(|due| due > lab.now));
            }
        }
    }
}

fn is_mirror(bridge: &Bridge, port: PortId) -> bool {
    bridge.mirrors().iter().any(|mirror| mirror.destination == port)
}
