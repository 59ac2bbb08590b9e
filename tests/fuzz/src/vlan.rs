//! Frames with and without tags in a bridge with every setting there is.
//!
//! The input is a sequence of steps at a bridge with six ports: a byte that names the step, then what it needs. Half of
//! all steps are frames.

use std::time::{Duration, Instant};

use link::{DropReason, MacAddr};
use vswitch::bridge::explain::Question;
use vswitch::bridge::{Bridge, Egress, Membership, Mirror, PortSet, StormLimits, TagAction, Verdict};
use vswitch::stp::PortState;
use vswitch::{PortId, VlanId};

use super::data::{Data, port, station, vlan};

const PORTS: u8 = 6;
/// Steps of a run; what comes after them is passed over.
const MAX_STEPS: usize = 256;
/// The first bytes of a tag that the bridge looks at.
const TPID: [u8; 2] = [0x81, 0];
const VID: u16 = 0x0fff;
const BPDU: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0]);
const PAUSE: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 1]);
const GROUP: MacAddr = MacAddr([0x09, 0, 0x2b, 0, 0, 4]);
const NOBODY: MacAddr = MacAddr([0; 6]);

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut data = Data::new(data);
    let mut lab = Lab::new();
    for _ in 0..MAX_STEPS {
        if data.is_empty() {
            break;
        }
        lab.step(&mut data);
    }
}

/// A bridge, and a time.
pub(super) struct Lab {
    pub(super) bridge: Bridge,
    pub(super) now: Instant,
}

impl Lab {
    pub(super) fn new() -> Self {
        let mut bridge = Bridge::new(1);
        for number in 1..=PORTS {
            bridge.add_port(port(number));
            bridge.set_connected(port(number), true);
        }
        for number in [5, 6] {
            bridge.create_vlan(vlan(number)).expect("a VLAN is made once");
        }
        Self { bridge, now: Instant::now() }
    }

    fn step(&mut self, data: &mut Data<'_>) {
        let step = data.byte();
        // Ports that there are, and now and then one that never was.
        let id = port(1 + data.byte() % (PORTS + 1));
        let bridge = &mut self.bridge;
        // What a setter refuses changes nothing.
        let _ = match step & 31 {
            0 => bridge.set_untagged(id, Some(pick_vlan(data))),
            1 => bridge.set_untagged(id, None),
            2 => bridge.add_tagged(pick_vlan(data), id),
            3 => bridge.remove_tagged(pick_vlan(data), id),
            4 => bridge.set_transparent(id),
            5 => bridge.create_vlan(pick_vlan(data)),
            6 => bridge.remove_vlan(pick_vlan(data)),
            7 => {
                let (broadcast, multicast, unknown_unicast) = (data.limit(), data.limit(), data.limit());
                bridge.set_storm_limits(id, StormLimits { broadcast, multicast, unknown_unicast })
            }
            8 => bridge.set_mac_limit(id, data.limit()),
            9 => bridge.set_learning(id, data.flag()),
            10 => {
                let (rx, tx) = (pick_ports(data), pick_ports(data));
                let vlans = [pick_vlan(data), pick_vlan(data)].into_iter().take(usize::from(data.byte() % 3)).collect();
                bridge.set_mirror(Mirror { rx, tx, vlans, destination: id, allow_ingress: data.flag() })
            }
            11 => bridge.add_static(pick_vlan(data), pick_address(data), id),
            12 => {
                bridge.set_state(id, data.pick(&[PortState::Forwarding, PortState::Learning, PortState::Discarding]));
                Ok(())
            }
            13 => {
                self.set_anything(id, data);
                Ok(())
            }
            14 | 15 => {
                self.wait(Duration::from_millis(u64::from(data.word()) * 10));
                Ok(())
            }
            16 => {
                let frame = data.piece();
                self.forward(id, frame);
                Ok(())
            }
            _ => {
                let frame = pick_frame(data);
                self.forward(id, &frame);
                Ok(())
            }
        };
    }

    /// What is set less often.
    fn set_anything(&mut self, id: PortId, data: &mut Data<'_>) {
        let bridge = &mut self.bridge;
        match data.byte() % 12 {
            0 => bridge.set_hub(data.flag()),
            1 => bridge.set_stp(data.flag()),
            2 => bridge.set_connected(id, data.flag()),
            3 => bridge.remove_port(id),
            4 if id <= port(PORTS) => bridge.add_port(id),
            5 => bridge.flush(id),
            6 => drop(bridge.remove_mirror(id)),
            7 => bridge.set_ageing(Duration::from_secs(data.byte().into())),
            8 => bridge.fdb_mut().set_capacity(usize::from(data.byte() & 7)),
            9 => bridge.fdb_mut().set_hold(Duration::from_secs(u64::from(data.byte() & 3))),
            10 => {
                let ageing = data.limit().map(|seconds| Duration::from_secs(seconds.into()));
                bridge.fdb_mut().set_vlan_ageing(pick_vlan(data), ageing);
            }
            _ => drop(bridge.take_events()),
        }
    }

    /// Lets time go by, with an owner who wakes when it is asked to.
    pub(super) fn wait(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(due) = self.bridge.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.bridge.expire(self.now);
            assert!(self.bridge.deadline().is_none_or(|next| next > self.now), "nothing has come of expiring");
        }
        self.now = end;
    }

    /// Has the bridge decide on a frame, and looks at the decision.
    fn forward(&mut self, ingress: PortId, frame: &[u8]) {
        let question = question(ingress, frame);
        let said = question.map(|question| self.bridge.explain(&question, self.now));
        let mut out = Vec::new();
        let verdict = self.bridge.forward(ingress, frame, self.now, &mut out);
        self.check(ingress, frame, verdict, &out);
        if let Some(said) = said {
            let meant = [said.egress, said.mirrors].concat();
            assert_eq!((said.verdict, meant), (Some(verdict), out), "{question:?}");
        }
    }

    /// What holds of any decision.
    pub(super) fn check(&self, ingress: PortId, frame: &[u8], verdict: Verdict, out: &[Egress]) {
        let bridge = &self.bridge;
        let is_mirror = |egress: &Egress| bridge.mirrors().iter().any(|mirror| mirror.destination == egress.port);
        let (ways, copies) = out.split_at(out.iter().position(is_mirror).unwrap_or(out.len()));
        assert!(copies.iter().all(is_mirror), "{out:?}");
        assert!(ways.is_empty() || verdict == Verdict::Forward, "{verdict:?} {out:?}");
        if frame.len() < 14 {
            assert_eq!((verdict, out), (Verdict::Drop(DropReason::Runt), &[][..]));
        }
        for (place, Egress { port, tag }) in out.iter().enumerate() {
            assert!(*port != ingress && out[..place].iter().all(|other| other.port != *port), "{ingress}: {out:?}");
            let settings = bridge.port_settings(*port).expect("the port is there");
            assert!(settings.connected, "{out:?}");
            let sent = apply(*tag, frame);
            if place >= ways.len() {
                continue;
            }
            assert_eq!(settings.state, PortState::Forwarding, "{out:?}");
            // A second tag that comes to light was payload.
            let is_exposed = *tag == TagAction::Remove && sent.get(12..14) == Some(&TPID);
            let (before, after) = (vlan_at(bridge, ingress, frame), vlan_at(bridge, *port, &sent));
            let vlan = before.expect("what is in no VLAN goes nowhere");
            assert!(after == Some(vlan) || is_exposed, "{before:?} {after:?} {out:?}");
            // Only a transparent port has a tag of VLAN 0, as the frame came.
            let (was_tagged, vid) = (tci(frame).is_ok_and(|tci| tci.is_some()), tci(&sent).ok().flatten());
            match settings.membership {
                Membership::Transparent if vlan == VlanId::UNTAGGED => assert_eq!(*tag, TagAction::Keep),
                Membership::Configured { untagged } if untagged == Some(vlan) => {
                    assert_eq!(*tag, if was_tagged { TagAction::Remove } else { TagAction::Keep });
                }
                _ => assert_eq!(vid.map(|tci| tci & VID), Some(vlan.number()), "{out:?}"),
            }
        }
    }
}

/// The question that is about this frame: one whose tag is a VLAN and nothing else.
fn question(ingress: PortId, frame: &[u8]) -> Option<Question> {
    let (destination, source) = (MacAddr(*frame.first_chunk()?), MacAddr(*frame.get(6..)?.first_chunk()?));
    frame.get(12..14)?;
    let vlan = match tci(frame) {
        Ok(None) => None,
        Ok(Some(tci)) => Some(VlanId::new(tci).filter(|vlan| *vlan != VlanId::UNTAGGED)?),
        Err(()) => return None,
    };
    Some(Question { ingress: Some(ingress), vlan, ..Question::new(source, destination) })
}

/// The tag control information behind the addresses; an error where the frame ends within it.
fn tci(frame: &[u8]) -> Result<Option<u16>, ()> {
    match frame.get(12..) {
        Some([0x81, 0, high, low, _, _, ..]) => Ok(Some(u16::from_be_bytes([*high, *low]))),
        Some([0x81, 0, ..]) => Err(()),
        _ => Ok(None),
    }
}

/// The VLAN that a frame is in at a port (IEEE 802.1Q-2018 §6.9.1), if any.
fn vlan_at(bridge: &Bridge, port: PortId, frame: &[u8]) -> Option<VlanId> {
    let vlan = VlanId::new(tci(frame).ok()?.unwrap_or(0) & VID)?;
    match bridge.port_settings(port)?.membership {
        Membership::Transparent => Some(vlan),
        Membership::Configured { untagged } if vlan == VlanId::UNTAGGED => untagged,
        Membership::Configured { untagged } => {
            (untagged == Some(vlan) || bridge.tagged_vlans(port).any(|tagged| tagged == vlan)).then_some(vlan)
        }
    }
}

/// The frame as it leaves.
fn apply(action: TagAction, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if action == TagAction::Keep {
        return frame;
    }
    let tag = tci(&frame).expect("a frame that ends within its tag goes nowhere but to mirrors, as it is");
    match action {
        TagAction::Keep => {}
        TagAction::Insert(tci) => {
            assert_eq!(tag, None);
            frame.splice(12..12, [TPID, tci.to_be_bytes()].concat());
        }
        TagAction::Replace(tci) => {
            let before = tag.expect("a tag is replaced where there is one");
            assert_eq!(before & !VID, tci & !VID, "the priority changes");
            frame[14..16].copy_from_slice(&tci.to_be_bytes());
        }
        TagAction::Remove => {
            assert!(tag.is_some(), "a tag is removed where there is one");
            frame.drain(12..16);
        }
    }
    frame
}

/// A VLAN: mostly one of a few.
fn pick_vlan(data: &mut Data<'_>) -> VlanId {
    match data.byte() {
        byte @ ..200 => vlan([0, 5, 6, 7, 4094][usize::from(byte) % 5]),
        _ => vlan(data.word() % 4095),
    }
}

fn pick_address(data: &mut Data<'_>) -> MacAddr {
    match data.byte() {
        byte @ ..200 => station(byte & 7),
        byte => [MacAddr::BROADCAST, GROUP, BPDU, PAUSE, NOBODY][usize::from(byte) % 5],
    }
}

fn pick_ports(data: &mut Data<'_>) -> PortSet {
    let bits = data.byte();
    (1..=PORTS).filter(|number| bits & 1 << number != 0).map(port).collect()
}

/// A frame with up to three tags, sometimes cut short.
fn pick_frame(data: &mut Data<'_>) -> Vec<u8> {
    let (MacAddr(destination), MacAddr(source)) = (pick_address(data), pick_address(data));
    let mut frame = [destination, source].concat();
    let shape = data.byte();
    for _ in 0..shape & 3 {
        frame.extend(data.pick(&[TPID, TPID, TPID, [0x88, 0xa8]]));
        // A priority in the upper half of the byte.
        let priority = u16::from(data.byte() & 0xf0) << 8;
        let vid = if shape & 4 == 0 { pick_vlan(data).number() } else { data.word() & VID };
        frame.extend((priority | vid).to_be_bytes());
    }
    frame.extend([0x88, 0xb5, 1, 2, 3, 4]);
    if shape & 0x38 == 0x38 {
        frame.truncate(usize::from(data.byte() & 31));
    }
    frame
}
