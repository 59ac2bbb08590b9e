use std::collections::BTreeSet;

use link::DropReason;

use crate::bridge::TagAction::{Insert, Keep, Remove, Replace};
use crate::bridge::lab::{BROADCAST, Chance, Lab, NOBODY, apply, frame, port, station, vlan};
use crate::bridge::{BridgeError, Membership, Verdict};
use crate::{PortId, VlanId};

const REFUSED: Verdict = Verdict::Drop(DropReason::VlanRefused);
const C: u16 = 0x8100;
const S: u16 = 0x88a8;

fn broadcast(tags: &[(u16, u16)]) -> Vec<u8> {
    frame(BROADCAST, station(1), tags)
}

#[test]
fn untagged_frames_get_the_tag_that_each_port_wants() {
    let mut lab = Lab::with_vlans();
    let untagged = broadcast(&[]);
    assert_eq!(lab.ways(2, &untagged), [(1, Insert(5)), (4, Insert(5)), (5, Keep)]);
    assert_eq!(lab.ways(3, &untagged), [(1, Insert(6)), (4, Insert(6)), (5, Insert(6))]);
    assert_eq!(lab.verdict(4, &untagged), REFUSED);
    assert_eq!(lab.ways(1, &untagged), [(6, Keep)]);
    assert_eq!(lab.ways(6, &untagged), [(1, Keep)]);
}

#[test]
fn tagged_frames_keep_or_lose_their_tag() {
    let mut lab = Lab::with_vlans();
    // PCP 5, DEI 1, VLAN 5.
    let tagged = broadcast(&[(C, 0xb005)]);
    assert_eq!(lab.ways(4, &tagged), [(1, Keep), (2, Remove), (5, Remove)]);
    assert_eq!(lab.ways(1, &tagged), [(2, Remove), (4, Keep), (5, Remove)]);
    // The tag names the port's own untagged VLAN.
    assert_eq!(lab.ways(2, &tagged), [(1, Keep), (4, Keep), (5, Remove)]);
    assert_eq!(lab.verdict(3, &tagged), REFUSED);
    assert_eq!(lab.verdict(6, &tagged), REFUSED);
    assert_eq!(lab.ways(5, &broadcast(&[(C, 6)])), [(1, Keep), (3, Remove), (4, Keep)]);
}

#[test]
fn a_priority_tag_becomes_a_vlan_tag_of_the_same_priority() {
    let mut lab = Lab::with_vlans();
    let priority = broadcast(&[(C, 0xf000)]);
    assert_eq!(lab.ways(2, &priority), [(1, Replace(0xf005)), (4, Replace(0xf005)), (5, Remove)]);
    assert_eq!(lab.verdict(4, &priority), REFUSED);
    // Transparent ports leave VLAN 0 as it is; a port that was put into it sends without tags.
    assert_eq!(lab.ways(1, &priority), [(6, Remove)]);
    assert_eq!(Lab::new(2).ways(1, &priority), [(2, Keep)]);
}

#[test]
fn transparent_ports_pass_any_tag_unchanged() {
    let mut lab = Lab::new(3);
    for tags in [&[][..], &[(C, 0)], &[(C, 0xe000)], &[(C, 1)], &[(C, 0xfffe)], &[(C, 7), (C, 8)], &[(S, 7), (C, 8)]] {
        assert_eq!(lab.ways(1, &broadcast(tags)), [(2, Keep), (3, Keep)], "{tags:?}");
    }
    assert_eq!(lab.verdict(1, &broadcast(&[(C, 0x0fff)])), REFUSED);
}

#[test]
fn a_service_tag_is_payload() {
    let mut lab = Lab::with_vlans();
    let outer = broadcast(&[(S, 6), (C, 5)]);
    assert_eq!(lab.ways(2, &outer), [(1, Insert(5)), (4, Insert(5)), (5, Keep)]);
    assert_eq!(lab.verdict(4, &outer), REFUSED);
    assert_eq!(lab.ways(1, &outer), [(6, Keep)]);
}

#[test]
fn of_two_tags_the_outer_one_counts() {
    let mut lab = Lab::with_vlans();
    let double = broadcast(&[(C, 5), (C, 6)]);
    assert_eq!(lab.ways(4, &double), [(1, Keep), (2, Remove), (5, Remove)]);
    assert_eq!(apply(Remove, &double), broadcast(&[(C, 6)]));
}

#[test]
fn a_frame_that_ends_within_its_tag_is_malformed() {
    let mut lab = Lab::new(2);
    let tagged = broadcast(&[(C, 5)]);
    for len in 14..18 {
        assert_eq!(lab.verdict(1, &tagged[..len]), Verdict::Drop(DropReason::Malformed));
    }
    assert_eq!(lab.ways(1, &tagged[..18]), [(2, Keep)]);
}

#[test]
fn stations_are_known_per_vlan() {
    let mut lab = Lab::with_vlans();
    lab.forward(4, &frame(BROADCAST, station(9), &[(C, 5)]));
    assert_eq!(lab.ways(2, &frame(station(9), station(2), &[])), [(4, Insert(5))]);
    assert_eq!(lab.ways(3, &frame(station(9), station(3), &[])).len(), 3);
    // A frame that is refused teaches nothing.
    lab.verdict(3, &frame(BROADCAST, station(8), &[(C, 5)]));
    assert!(lab.bridge.stations(lab.now).all(|found| found.address != station(8)));
}

#[test]
fn leaving_a_vlan_forgets_its_stations_there() {
    let mut lab = Lab::with_vlans();
    for tag in [5, 6] {
        lab.forward(4, &frame(BROADCAST, station(9), &[(C, tag)]));
    }
    lab.bridge.remove_tagged(vlan(5), port(4)).unwrap();
    let known: Vec<_> = lab.bridge.stations(lab.now).map(|found| found.vlan).collect();
    assert_eq!(known, [vlan(6)]);
    lab.forward(2, &frame(BROADCAST, station(8), &[]));
    lab.bridge.set_untagged(port(2), Some(vlan(6))).unwrap();
    assert_eq!(lab.bridge.station(vlan(5), station(8), lab.now), None);
    lab.forward(1, &frame(BROADCAST, station(7), &[(C, 99)]));
    lab.bridge.set_untagged(port(1), Some(vlan(0))).unwrap();
    assert_eq!(lab.bridge.station(vlan(99), station(7), lab.now), None);
}

#[test]
fn membership_is_what_was_asked_for() {
    let mut lab = Lab::with_vlans();
    let bridge = &mut lab.bridge;
    assert_eq!(bridge.create_vlan(vlan(5)), Err(BridgeError::VlanExists(vlan(5))));
    assert_eq!(bridge.create_vlan(vlan(0)), Err(BridgeError::VlanExists(vlan(0))));
    assert_eq!(bridge.remove_vlan(vlan(0)), Err(BridgeError::VlanZero));
    assert_eq!(bridge.remove_vlan(vlan(5)), Err(BridgeError::VlanInUse(vlan(5))));
    assert_eq!(bridge.remove_vlan(vlan(7)), Err(BridgeError::NoSuchVlan(vlan(7))));
    assert_eq!(bridge.set_untagged(port(1), Some(vlan(7))), Err(BridgeError::NoSuchVlan(vlan(7))));
    assert_eq!(bridge.add_tagged(vlan(7), port(1)), Err(BridgeError::NoSuchVlan(vlan(7))));
    assert_eq!(bridge.add_tagged(vlan(0), port(1)), Err(BridgeError::VlanZero));
    let untagged = BridgeError::IsUntagged { port: port(2), vlan: vlan(5) };
    assert_eq!(bridge.add_tagged(vlan(5), port(2)), Err(untagged));
    let not_tagged = BridgeError::NotTagged { port: port(2), vlan: vlan(6) };
    assert_eq!(bridge.remove_tagged(vlan(6), port(2)), Err(not_tagged));
    // What was refused has changed nothing.
    assert_eq!(bridge.port_settings(port(1)).unwrap().membership, Membership::Transparent);
    assert_eq!(bridge.tagged_vlans(port(4)).collect::<Vec<_>>(), [vlan(5), vlan(6)]);
    // A tagged VLAN becomes the untagged one, and is no longer tagged.
    bridge.set_untagged(port(4), Some(vlan(6))).unwrap();
    assert_eq!(bridge.tagged_vlans(port(4)).collect::<Vec<_>>(), [vlan(5)]);
    // The first tagged VLAN makes a transparent port a configured one.
    bridge.add_tagged(vlan(6), port(1)).unwrap();
    let configured = Membership::Configured { untagged: Some(vlan(0)) };
    assert_eq!(bridge.port_settings(port(1)).unwrap().membership, configured);
    assert!(bridge.transparent_ports().is_empty());
    bridge.set_transparent(port(1)).unwrap();
    assert_eq!(bridge.transparent_ports().iter().collect::<Vec<_>>(), [port(1)]);
    bridge.create_vlan(vlan(4094)).unwrap();
    assert_eq!(bridge.vlans().map(|(vlan, _)| vlan.number()).collect::<Vec<_>>(), [0, 5, 6, 4094]);
    bridge.remove_vlan(vlan(4094)).unwrap();
}

#[test]
fn setting_the_same_untagged_vlan_again_changes_nothing() {
    let mut lab = Lab::with_vlans();
    lab.forward(2, &frame(BROADCAST, station(8), &[]));
    lab.bridge.set_untagged(port(2), Some(vlan(5))).unwrap();
    assert!(lab.bridge.station(vlan(5), station(8), lab.now).is_some());
    assert_eq!(lab.ways(5, &frame(station(8), station(2), &[])), [(2, Keep)]);
}

/// What VLANs mean, without tables: who is in what.
#[derive(Clone, Debug)]
enum Model {
    Transparent,
    Configured(Option<u16>, BTreeSet<u16>),
}

impl Model {
    fn admits(&self, tag: Option<u16>) -> Option<u16> {
        let vid = tag.map_or(0, |tci| tci & 0x0fff);
        match self {
            Self::Transparent => (vid != 4095).then_some(vid),
            Self::Configured(untagged, _) if vid == 0 => *untagged,
            Self::Configured(untagged, tagged) => (*untagged == Some(vid) || tagged.contains(&vid)).then_some(vid),
        }
    }

    /// The frame as it leaves, if it does.
    fn sends(&self, vlan: u16, tag: Option<u16>, payload: &[u8]) -> Option<Vec<u8>> {
        let priority = tag.unwrap_or(0) & 0xf000;
        let with = |tci: Option<u16>| {
            let tags: Vec<_> = tci.map(|tci| (C, tci)).into_iter().collect();
            let mut sent = frame(NOBODY, station(1), &tags);
            sent.truncate(12 + 4 * tags.len());
            sent.extend(payload);
            sent
        };
        match self {
            Self::Transparent if vlan == 0 => Some(with(tag)),
            Self::Transparent => Some(with(Some(priority | vlan))),
            Self::Configured(untagged, _) if *untagged == Some(vlan) => Some(with(None)),
            Self::Configured(_, tagged) => tagged.contains(&vlan).then(|| with(Some(priority | vlan))),
        }
    }
}

#[test]
fn any_configuration_passes_what_its_meaning_says() {
    const PORTS: u32 = 130;
    let vids = [1, 2, 3, 64, 4094];
    let mut chance = Chance::new(11);
    for round in 0..60 {
        let mut lab = Lab::new(PORTS);
        vids.iter().for_each(|vid| lab.bridge.create_vlan(vlan(*vid)).unwrap());
        let mut models = vec![Model::Transparent; PORTS as usize];
        for _ in 0..300 {
            let at = chance.below(models.len());
            change(&mut lab, &mut models[at], port(at as u32 + 1), vids, &mut chance);
        }
        for _ in 0..100 {
            let from = chance.below(models.len());
            let tag = chance.pick(&[None, None, Some(0xa000), Some(4095), Some(0)]);
            let tag = if chance.one_in(2) { Some(chance.pick(&vids) | chance.pick(&[0, 0xf000])) } else { tag };
            let tags: Vec<_> = tag.map(|tci| (C, tci)).into_iter().collect();
            let inner = chance.pick(&[[].as_slice(), &[(S, 9)], &[(S, 9), (C, 1)]]);
            let whole = frame(NOBODY, station(1), &[&tags, inner].concat());
            let payload = &whole[12 + 4 * tags.len()..];
            let (verdict, out) = lab.forward(from as u32 + 1, &whole);
            let Some(vlan) = models[from].admits(tag) else {
                assert_eq!((verdict, out.len()), (REFUSED, 0));
                continue;
            };
            let mut sent: Vec<_> = out.iter().map(|egress| (egress.port, apply(egress.tag, &whole))).collect();
            sent.sort();
            let others = (1..).zip(&models).filter(|(number, _)| *number != from as u32 + 1);
            let meant = others.filter_map(|(number, to)| Some((port(number), to.sends(vlan, tag, payload)?)));
            assert_eq!(sent, meant.collect::<Vec<_>>(), "round {round}: tag {tag:?} from port {}", from + 1);
        }
    }
}

fn change(lab: &mut Lab, model: &mut Model, port: PortId, vids: [u16; 5], chance: &mut Chance) {
    let vid = chance.pick(&vids);
    let configured = match model {
        Model::Transparent => (Some(0), BTreeSet::new()),
        Model::Configured(untagged, tagged) => (*untagged, tagged.clone()),
    };
    *model = match chance.below(6) {
        0 => {
            lab.bridge.set_transparent(port).unwrap();
            Model::Transparent
        }
        1 | 2 => {
            let untagged = chance.pick(&[None, Some(0), Some(vid), Some(vid)]);
            lab.bridge.set_untagged(port, untagged.and_then(VlanId::new)).unwrap();
            let (_, mut tagged) = configured;
            untagged.map(|vid| tagged.remove(&vid));
            Model::Configured(untagged, tagged)
        }
        3 if configured.1.contains(&vid) => {
            lab.bridge.remove_tagged(vlan(vid), port).unwrap();
            let (untagged, mut tagged) = configured;
            tagged.remove(&vid);
            Model::Configured(untagged, tagged)
        }
        _ if configured.0 != Some(vid) => {
            lab.bridge.add_tagged(vlan(vid), port).unwrap();
            let (untagged, mut tagged) = configured;
            tagged.insert(vid);
            Model::Configured(untagged, tagged)
        }
        _ => return,
    };
}

#[test]
fn a_thousand_trunks_of_all_vlans_fit_in_two_megabytes() {
    let mut vlans = super::Vlans::new();
    let mut octets = 0;
    for number in 1..4095 {
        vlans.create(vlan(number));
        let members = vlans.get_mut(vlan(number)).unwrap();
        (1..=1000).for_each(|number| assert!(members.tagged.insert(port(number))));
        octets += size_of_val(members) + members.tagged.memory();
    }
    assert!(octets < 2 << 20, "{octets}");
}
