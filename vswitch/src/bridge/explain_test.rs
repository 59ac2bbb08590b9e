use std::time::Duration;

use super::*;
use crate::bridge::lab::{BROADCAST, Chance, GROUP, Lab, NOBODY, frame, port, set_at_random, station, vlan};
use crate::bridge::snoop::frames;

#[test]
fn an_explanation_is_what_forwarding_does() {
    let mut chance = Chance::new(5);
    let (mut forwarded, mut mirrored, mut dropped) = (0, 0, 0);
    for _ in 0..400 {
        let mut lab = Lab::with_vlans();
        set_at_random(&mut lab.bridge, &mut chance);
        for number in 0..100 {
            if number % 25 == 24 {
                // Stations stay known where a port's settings have changed.
                set_at_random(&mut lab.bridge, &mut chance);
            }
            lab.wait(Duration::from_millis(chance.below(1500) as u64));
            let ingress = 1 + chance.below(7) as u32;
            if chance.one_in(10) {
                let message = chance.pick(&[frames::QUERY, frames::REPORT_V2, frames::REPORT_V3]);
                lab.forward(ingress, &frames::bytes(message));
                lab.wait(Duration::from_secs(if chance.one_in(3) { 11 } else { 0 }));
            }
            let sources = [station(1), station(2), station(3), station(4), station(5), GROUP, MacAddr([0; 6])];
            let source = chance.pick(&sources);
            let group: IpAddr = "239.1.2.3".parse().unwrap();
            let mut question = match chance.below(8) {
                7 => Question::new(source, MacAddr([0x01, 0x80, 0xc2, 0, 0, chance.below(3) as u8])),
                0 => Question::new(source, BROADCAST),
                1 => Question::new(source, GROUP),
                2 => Question::to_group(source, group),
                3 => Question::new(source, NOBODY),
                _ => Question::new(source, station(chance.below(5) as u8)),
            };
            question.ingress = Some(port(ingress));
            question.vlan = chance.pick(&[None, None, Some(vlan(0)), Some(vlan(5)), Some(vlan(6)), Some(vlan(7))]);
            let tag = question.vlan.filter(|vlan| vlan.number() != 0).map(|vlan| (0x8100, vlan.number()));
            let tags: Vec<_> = tag.into_iter().collect();
            let mut sent = frame(question.destination, source, &tags);
            if question.group.is_some() {
                sent.truncate(12 + 4 * tags.len());
                sent.extend(frames::ipv4_data([239, 1, 2, 3]));
            }
            let said = lab.bridge.explain(&question, lab.now);
            assert_eq!(said, lab.bridge.explain(&question, lab.now));
            let (verdict, out) = lab.forward(ingress, &sent);
            let meant = [said.egress.clone(), said.mirrors.clone()].concat();
            assert_eq!((said.verdict, &meant), (Some(verdict), &out), "{said}\n{:#?}", lab.bridge);
            if verdict == Verdict::Forward {
                let of = |ports: usize| ports + said.egress.len();
                assert_eq!(of(said.left_out.len()), lab.bridge.ports().count());
                forwarded += 1;
            } else {
                dropped += 1;
            }
            mirrored += said.mirrors.len();
        }
    }
    assert!(forwarded > 5000 && mirrored > 1000 && dropped > 5000, "{forwarded} {mirrored} {dropped}");
}

#[test]
fn the_source_is_looked_up_where_no_port_is_named() {
    let mut lab = Lab::with_vlans();
    lab.forward(4, &frame(BROADCAST, station(4), &[(0x8100, 5)]));
    lab.forward(2, &frame(BROADCAST, station(2), &[]));
    lab.wait(Duration::from_secs(7));
    let said = lab.bridge.explain(&Question::new(station(2), station(4)), lab.now);
    assert_eq!(said.ingress, Some(port(2)));
    assert_eq!(said.egress, [Egress { port: port(4), tag: TagAction::Insert(5) }]);
    let back = lab.bridge.explain(&Question::new(station(4), station(2)), lab.now);
    assert_eq!(back.egress, [Egress { port: port(2), tag: TagAction::Remove }]);
    let elsewhere = Question { vlan: Some(vlan(6)), ..Question::new(station(4), station(2)) };
    let unknown = lab.bridge.explain(&elsewhere, lab.now);
    assert_eq!((unknown.verdict, unknown.steps), (None, vec![Step::NotLocated]));
}

#[test]
fn an_explanation_reads_as_prose() {
    let mut lab = Lab::with_vlans();
    lab.forward(4, &frame(BROADCAST, station(4), &[(0x8100, 5)]));
    lab.forward(2, &frame(BROADCAST, station(2), &[]));
    lab.wait(Duration::from_secs(7));
    let text = lab.bridge.explain(&Question::new(station(2), station(4)), lab.now).to_string();
    let expected = "\
02:00:00:00:00:02 to 02:00:00:00:00:04
  source: on port 2 in VLAN 5, heard 7 s ago
  ingress: port 2, VLAN 5, untagged
  learning: the source is known here
  destination: on port 4
  leaves by port 4, with a tag of VLAN 5
  not by ports 1, 5: the destination is elsewhere
  not by port 2: the frame came in there
  not by ports 3, 6: it is not in the VLAN
";
    assert_eq!(text, expected);
    let refused = Question { ingress: Some(port(3)), vlan: Some(vlan(5)), ..Question::new(station(2), station(4)) };
    let text = lab.bridge.explain(&refused, lab.now).to_string();
    assert!(text.ends_with("\n  dropped (vlan-refused): the port is not in VLAN 5\n"), "{text}");
}

#[test]
fn explaining_changes_nothing() {
    let lab = Lab::with_vlans();
    let question = Question { ingress: Some(port(2)), ..Question::new(station(2), station(4)) };
    let before = format!("{:?}", lab.bridge);
    let said = lab.bridge.explain(&question, lab.now);
    assert!(said.steps.contains(&Step::Learned(Learned::New)));
    assert_eq!(format!("{:?}", lab.bridge), before);
}
