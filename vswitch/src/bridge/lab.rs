//! What the bridge's tests share: a bridge with a clock, frames made by hand, chance from a seed.

use std::time::{Duration, Instant};

use link::MacAddr;

use super::{Bridge, Egress, Mirror, StormLimits, TagAction, Verdict};
use crate::stp::PortState;
use crate::{PortId, VlanId};

pub(super) const BROADCAST: MacAddr = MacAddr::BROADCAST;
/// A group that is none of IP's.
pub(super) const GROUP: MacAddr = MacAddr([0x09, 0, 0x2b, 0, 0, 4]);
pub(super) const NOBODY: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 0xff]);

pub(super) fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

pub(super) fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

/// The address of station `number`.
pub(super) fn station(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// A frame with tags, each an EtherType and tag control information.
pub(super) fn frame(to: MacAddr, from: MacAddr, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    for (kind, tci) in tags {
        frame.extend(kind.to_be_bytes());
        frame.extend(tci.to_be_bytes());
    }
    frame.extend([0x88, 0xb5]);
    frame.extend(b"an experiment of forty-six bytes, as they say..");
    frame
}

/// The frame after what becomes of its tag.
pub(super) fn apply(action: TagAction, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    match action {
        TagAction::Keep => {}
        TagAction::Insert(tci) => {
            frame.splice(12..12, [0x81, 0, (tci >> 8) as u8, tci as u8]);
        }
        TagAction::Replace(tci) => {
            assert_eq!(frame[12..14], [0x81, 0]);
            frame[14..16].copy_from_slice(&tci.to_be_bytes());
        }
        TagAction::Remove => {
            assert_eq!(frame[12..14], [0x81, 0]);
            frame.drain(12..16);
        }
    }
    frame
}

pub(super) struct Lab {
    pub(super) bridge: Bridge,
    pub(super) now: Instant,
}

impl Lab {
    /// A bridge with this many ports, connected.
    pub(super) fn new(ports: u32) -> Self {
        let mut bridge = Bridge::new(1);
        for number in 1..=ports {
            bridge.add_port(port(number));
            bridge.set_connected(port(number), true);
        }
        Self { bridge, now: Instant::now() }
    }

    /// A bridge whose port 1 is transparent, 2 is in VLAN 5 and 3 in VLAN 6, both untagged, 4 has both tagged and no
    /// untagged one, 5 has VLAN 5 untagged and 6 tagged, and 6 has VLAN 0 only.
    pub(super) fn with_vlans() -> Self {
        let mut lab = Self::new(6);
        let bridge = &mut lab.bridge;
        bridge.create_vlan(vlan(5)).unwrap();
        bridge.create_vlan(vlan(6)).unwrap();
        bridge.set_untagged(port(2), Some(vlan(5))).unwrap();
        bridge.set_untagged(port(3), Some(vlan(6))).unwrap();
        bridge.set_untagged(port(4), None).unwrap();
        bridge.add_tagged(vlan(5), port(4)).unwrap();
        bridge.add_tagged(vlan(6), port(4)).unwrap();
        bridge.set_untagged(port(5), Some(vlan(5))).unwrap();
        bridge.add_tagged(vlan(6), port(5)).unwrap();
        bridge.set_untagged(port(6), Some(vlan(0))).unwrap();
        lab
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// What the bridge says of a frame, as it says it.
    pub(super) fn forward(&mut self, ingress: u32, frame: &[u8]) -> (Verdict, Vec<Egress>) {
        let mut out = Vec::new();
        let verdict = self.bridge.forward(port(ingress), frame, self.now, &mut out);
        (verdict, out)
    }

    /// The ports that a frame leaves by, in order, with what becomes of its tag.
    pub(super) fn ways(&mut self, ingress: u32, frame: &[u8]) -> Vec<(u16, TagAction)> {
        let (verdict, out) = self.forward(ingress, frame);
        assert_eq!(verdict, Verdict::Forward);
        let mut ways: Vec<_> = out.iter().map(|egress| (egress.port.number(), egress.tag)).collect();
        ways.sort_by_key(|(port, _)| *port);
        ways
    }

    /// The ports that a frame leaves by, in order.
    pub(super) fn reach(&mut self, ingress: u32, frame: &[u8]) -> Vec<u16> {
        self.ways(ingress, frame).into_iter().map(|(port, _)| port).collect()
    }

    /// What becomes of a frame that is to leave by no port, mirrors apart.
    pub(super) fn verdict(&mut self, ingress: u32, frame: &[u8]) -> Verdict {
        let (verdict, out) = self.forward(ingress, frame);
        assert_eq!(out, []);
        verdict
    }
}

/// Numbers from a seed (Knuth's MMIX generator).
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    pub(super) fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }

    /// Any octet, 0 half the time.
    pub(super) fn octet(&mut self) -> u8 {
        if self.one_in(2) { 0 } else { self.below(256) as u8 }
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Changes settings of a bridge that has ports 1 to 6 and VLANs 5 and 6, of every kind there is.
pub(super) fn set_at_random(bridge: &mut Bridge, chance: &mut Chance) {
    for number in 1..=6 {
        let port = port(number);
        if chance.one_in(3) {
            let limits = StormLimits {
                broadcast: chance.one_in(2).then(|| chance.below(4) as u32),
                multicast: chance.one_in(2).then(|| chance.below(4) as u32),
                unknown_unicast: chance.one_in(2).then(|| chance.below(4) as u32),
            };
            bridge.set_storm_limits(port, limits).unwrap();
        }
        if chance.one_in(4) {
            bridge.set_mac_limit(port, Some(chance.below(4) as u32)).unwrap();
        }
        if chance.one_in(6) {
            bridge.set_learning(port, false).unwrap();
        }
        if chance.one_in(6) {
            bridge.set_state(port, chance.pick(&[PortState::Discarding, PortState::Learning]));
        }
        if chance.one_in(10) {
            bridge.set_connected(port, false);
        }
        if chance.one_in(4) {
            bridge.set_transparent(port).unwrap();
        }
        if chance.one_in(5) {
            let vlans = [vlan(0), vlan(5), vlan(6)];
            bridge.set_untagged(port, Some(chance.pick(&vlans)).filter(|_| chance.one_in(2))).unwrap();
        }
        if chance.one_in(8) {
            let mirror = Mirror {
                rx: (1..=6).map(super::lab::port).filter(|other| *other != port && chance.one_in(3)).collect(),
                tx: (1..=6).map(super::lab::port).filter(|other| *other != port && chance.one_in(3)).collect(),
                vlans: [vlan(0), vlan(5)].into_iter().filter(|_| chance.one_in(3)).collect(),
                destination: port,
                allow_ingress: chance.one_in(2),
            };
            bridge.set_mirror(mirror).unwrap();
        }
        if chance.one_in(6) {
            bridge.add_static(chance.pick(&[vlan(0), vlan(5)]), station(chance.below(20) as u8), port).unwrap();
        }
    }
    bridge.set_hub(chance.one_in(8));
    bridge.set_stp(chance.one_in(3));
    bridge.set_snooping(chance.one_in(2));
    bridge.set_flood_unregistered(chance.one_in(4));
    bridge.set_ageing(Duration::from_secs(chance.below(30) as u64));
    bridge.fdb_mut().set_hold(Duration::from_secs(chance.below(3) as u64));
    bridge.fdb_mut().set_capacity(chance.pick(&[5, 1000]));
    bridge.fdb_mut().set_vlan_ageing(vlan(5), chance.one_in(2).then_some(Duration::from_secs(5)));
}
