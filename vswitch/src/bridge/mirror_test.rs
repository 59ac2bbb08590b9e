use link::DropReason;

use super::*;
use crate::bridge::lab::{BROADCAST, Lab, NOBODY, frame, port, station, vlan};
use crate::bridge::{BridgeError, StormLimits, Verdict};
use crate::stp::PortState;

/// Where a frame leaves, in the order listed.
fn listed(lab: &mut Lab, ingress: u32, frame: &[u8]) -> (Verdict, Vec<(u16, TagAction)>) {
    let (verdict, out) = lab.forward(ingress, frame);
    (verdict, out.iter().map(|egress| (egress.port.number(), egress.tag)).collect())
}

fn mirror(rx: &[u32], tx: &[u32], destination: u32) -> Mirror {
    let set = |numbers: &[u32]| numbers.iter().map(|number| port(*number)).collect();
    Mirror { rx: set(rx), tx: set(tx), ..Mirror::to(port(destination)) }
}

#[test]
fn a_destination_gets_copies_only_and_they_come_last() {
    let mut lab = Lab::new(4);
    lab.bridge.set_mirror(mirror(&[2], &[], 1)).unwrap();
    let ways = vec![(3, TagAction::Keep), (4, TagAction::Keep), (1, TagAction::Keep)];
    assert_eq!(listed(&mut lab, 2, &frame(BROADCAST, station(2), &[])), (Verdict::Forward, ways));
    assert_eq!(lab.reach(3, &frame(BROADCAST, station(3), &[])), [2, 4]);
    assert_eq!(lab.reach(2, &frame(station(3), station(2), &[])), [1, 3]);
    assert_eq!(lab.reach(3, &frame(station(2), station(3), &[])), [2]);
    assert!(lab.bridge.remove_mirror(port(1)) && !lab.bridge.remove_mirror(port(1)));
    assert_eq!(lab.reach(2, &frame(BROADCAST, station(2), &[])), [1, 3, 4]);
}

#[test]
fn a_frame_is_in_a_mirror_once() {
    let mut lab = Lab::new(5);
    lab.bridge.set_mirror(mirror(&[2, 3], &[2, 3, 4], 1)).unwrap();
    let all = frame(BROADCAST, station(2), &[]);
    assert_eq!(listed(&mut lab, 2, &all).1.iter().filter(|(number, _)| *number == 1).count(), 1);
    assert_eq!(listed(&mut lab, 5, &all).1.iter().filter(|(number, _)| *number == 1).count(), 1);
    // A second mirror has its own copy.
    lab.bridge.set_mirror(mirror(&[2], &[], 5)).unwrap();
    assert_eq!(lab.reach(2, &all), [1, 3, 4, 5]);
}

#[test]
fn received_frames_are_copied_as_they_came_and_sent_ones_as_they_went() {
    let mut lab = Lab::with_vlans();
    lab.bridge.set_transparent(port(6)).unwrap();
    lab.bridge.set_mirror(mirror(&[2], &[4], 6)).unwrap();
    let untagged = frame(NOBODY, station(1), &[]);
    assert_eq!(listed(&mut lab, 2, &untagged).1.last(), Some(&(6, TagAction::Keep)));
    assert_eq!(listed(&mut lab, 3, &untagged).1.last(), Some(&(6, TagAction::Insert(6))));
}

#[test]
fn a_vlan_is_copied_whole() {
    let mut lab = Lab::with_vlans();
    let mut of_vlan = Mirror::to(port(6));
    of_vlan.vlans.insert(vlan(5));
    lab.bridge.set_mirror(of_vlan).unwrap();
    assert_eq!(lab.reach(2, &frame(BROADCAST, station(2), &[])), [1, 4, 5, 6]);
    assert_eq!(
        listed(&mut lab, 4, &frame(BROADCAST, station(4), &[(0x8100, 5)])).1.last(),
        Some(&(6, TagAction::Keep))
    );
    assert_eq!(lab.reach(3, &frame(BROADCAST, station(3), &[])), [1, 4, 5]);
}

#[test]
fn dropped_frames_were_received_and_are_copied() {
    let mut lab = Lab::new(3);
    lab.bridge.set_mirror(mirror(&[2], &[], 1)).unwrap();
    lab.bridge.set_storm_limits(port(2), StormLimits { broadcast: Some(0), ..StormLimits::default() }).unwrap();
    let copy = vec![(1, TagAction::Keep)];
    let all = frame(BROADCAST, station(2), &[]);
    assert_eq!(listed(&mut lab, 2, &all), (Verdict::Drop(DropReason::Storm), copy.clone()));
    lab.bridge.set_state(port(2), PortState::Discarding);
    assert_eq!(listed(&mut lab, 2, &all), (Verdict::Drop(DropReason::Blocked), copy.clone()));
    lab.bridge.set_untagged(port(2), None).unwrap();
    lab.bridge.set_state(port(2), PortState::Forwarding);
    assert_eq!(listed(&mut lab, 2, &all), (Verdict::Drop(DropReason::VlanRefused), copy));
}

#[test]
fn a_destination_brings_nothing_in_unless_it_may() {
    let mut lab = Lab::new(3);
    lab.forward(1, &frame(BROADCAST, station(1), &[]));
    lab.bridge.set_mirror(mirror(&[2, 3], &[2, 3], 1)).unwrap();
    assert!(lab.bridge.fdb().is_empty());
    let from_watcher = frame(BROADCAST, station(1), &[]);
    assert_eq!(lab.verdict(1, &from_watcher), Verdict::Drop(DropReason::Blocked));
    lab.bridge.set_mirror(Mirror { allow_ingress: true, ..mirror(&[2, 3], &[2, 3], 1) }).unwrap();
    assert_eq!(lab.bridge.mirrors().len(), 1);
    // No copy of its own frame, and no station that could not be answered.
    assert_eq!(lab.reach(1, &from_watcher), [2, 3]);
    assert!(lab.bridge.fdb().is_empty());
}

#[test]
fn an_unplugged_destination_gets_no_copies() {
    let mut lab = Lab::new(3);
    lab.bridge.set_mirror(mirror(&[2], &[], 1)).unwrap();
    lab.bridge.set_connected(port(1), false);
    assert_eq!(lab.reach(2, &frame(BROADCAST, station(2), &[])), [3]);
}

#[test]
fn a_mirror_does_not_watch_itself_and_forgets_removed_sources() {
    let mut lab = Lab::new(3);
    assert_eq!(lab.bridge.set_mirror(mirror(&[1], &[], 1)), Err(BridgeError::MirrorLoop(port(1))));
    lab.bridge.set_mirror(mirror(&[2], &[2], 1)).unwrap();
    lab.bridge.remove_port(port(2));
    assert!(lab.bridge.mirrors()[0].rx.is_empty() && lab.bridge.mirrors()[0].tx.is_empty());
}
