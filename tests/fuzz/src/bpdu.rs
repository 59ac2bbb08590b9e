//! BPDUs and everything else that moves spanning tree.
//!
//! The input is a sequence of events at a bridge with four ports: a byte whose low half names the event and whose high
//! half the port, then what the event needs. A second bridge reads what the first one sends.

use std::time::{Duration, Instant};

use link::MacAddr;
use vswitch::PortId;
use vswitch::stp::{Action, BridgeSettings, Edge, PortSettings, PortState, Stp};

use super::data::{Data, port, station};

/// Ports there are at first.
const PORTS: u8 = 4;
/// Events of a run; what comes after them is passed over.
const MAX_EVENTS: usize = 256;
/// BPDUs that may leave a port at once (IEEE 802.1D-2004 table 17-1), and one more for each second.
const HOLD_COUNT: u64 = 6;
/// Actions that may come of one event, for each port: a state, a flush, a guard, a BPDU, some changes of topology.
const MAX_ACTIONS: usize = 8;
/// Wake-ups in a second, for each port: it has nine timers.
const MAX_WAKEUPS: u64 = 9;
/// What the first bytes of a BPDU's frame are, but for its length.
const HEAD: [u8; 12] = [0x01, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 1, 0];

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut data = Data::new(data);
    let mut lab = Lab::new();
    for _ in 0..MAX_EVENTS {
        if data.is_empty() {
            break;
        }
        lab.step(&mut data);
    }
    lab.advance(Duration::from_secs(10));
}

struct Lab {
    stp: Stp,
    now: Instant,
    out: Vec<Action>,
    ports: Vec<Place>,
    /// Reads what is sent.
    witness: Stp,
    sent: u64,
}

/// What the lab knows of a port.
struct Place {
    id: PortId,
    exists: bool,
    /// What the bridge was told last.
    told: PortState,
    /// What was sent last.
    frame: Vec<u8>,
    sent: u64,
    begun: Instant,
}

impl Lab {
    fn new() -> Self {
        let now = Instant::now();
        let mut stp = Stp::new(BridgeSettings { priority: 0x8000, address: station(5) });
        let mut witness = Stp::new(BridgeSettings { priority: 0x8000, address: station(99) });
        let mut out = Vec::new();
        witness.add_port(PortId::FIRST, PortSettings::default(), now, &mut out);
        witness.enable(now, &mut out);
        out.clear();
        let ports = (1..=PORTS).map(|number| Place {
            id: port(number),
            exists: true,
            told: PortState::Forwarding,
            frame: Vec::new(),
            sent: 0,
            begun: now,
        });
        let ports: Vec<_> = ports.collect();
        for place in &ports {
            stp.add_port(place.id, PortSettings::default(), now, &mut out);
            stp.set_link(place.id, true, now, &mut out);
        }
        stp.enable(now, &mut out);
        let mut lab = Self { stp, now, out, ports, witness, sent: 0 };
        lab.settle();
        lab
    }

    fn step(&mut self, data: &mut Data<'_>) {
        let event = data.byte();
        let place = usize::from(event >> 4) % self.ports.len();
        // Now and then a port that never was.
        let id = if event >> 4 == 15 { port(9u8) } else { self.ports[place].id };
        let (now, out) = (self.now, &mut self.out);
        match event & 15 {
            0 => self.stp.receive(id, &framed(&message(2, data)), now, out),
            1 => self.stp.receive(id, &framed(&message(0, data)), now, out),
            2 => self.stp.receive(id, &framed(&[0x42, 0x42, 3, 0, 0, 0, 0x80]), now, out),
            3 => self.stp.receive(id, &framed(data.piece()), now, out),
            4 => self.stp.receive(id, data.piece(), now, out),
            5 => {
                let from = usize::from(data.byte()) % self.ports.len();
                self.stp.receive(id, &self.ports[from].frame, now, out);
            }
            6 => self.advance(Duration::from_millis(u64::from(data.byte()) * 40)),
            7 => {
                // The owner was kept elsewhere.
                self.now += Duration::from_secs(data.byte().into());
                self.stp.expire(self.now, &mut self.out);
            }
            8 => self.stp.set_link(id, data.flag(), now, out),
            9 => self.stp.set_port(id, port_settings(data), now, out),
            10 => {
                self.stp.remove_port(id, now, out);
                self.ports[place].exists &= self.ports[place].id != id;
            }
            11 => {
                let place = &mut self.ports[place];
                self.stp.add_port(place.id, port_settings(data), now, out);
                if !place.exists {
                    *place =
                        Place { exists: true, told: PortState::Forwarding, sent: 0, begun: now, ..empty(place.id) };
                }
            }
            12 if data.flag() => {
                if !self.stp.is_enabled() {
                    self.ports.iter_mut().for_each(|place| (place.sent, place.begun) = (0, now));
                }
                self.stp.enable(now, out);
            }
            12 => self.stp.disable(out),
            13 => {
                let priority = u16::from(data.byte()) << 8;
                self.stp.set_bridge(BridgeSettings { priority, address: station(data.byte()) }, now, out);
            }
            14 => {
                let [hello, max_age, delay] = [(); 3].map(|()| Duration::from_millis(u64::from(data.byte()) * 200));
                // Times that contradict each other change nothing.
                let _ = self.stp.set_times(hello, max_age, delay, now, out);
            }
            _ if data.flag() => self.stp.reset_guard(id, now, out),
            _ => self.stp.check_migration(id, now, out),
        }
        self.settle();
    }

    /// Lets time go by, with an owner who wakes when it is asked to.
    fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        let mut wakeups = 0;
        while let Some(due) = self.stp.deadline().filter(|due| *due <= end) {
            self.now = due;
            self.stp.expire(due, &mut self.out);
            self.settle();
            wakeups += 1;
        }
        let most = MAX_WAKEUPS * u64::from(PORTS) * (span.as_secs() + 1);
        assert!(wakeups <= most, "{wakeups} wake-ups in {span:?}");
        self.now = end;
    }

    /// Looks at what has come of an event.
    fn settle(&mut self) {
        let now = self.now;
        assert!(self.out.len() <= MAX_ACTIONS * self.ports.len(), "{:#?}", self.out);
        for action in std::mem::take(&mut self.out) {
            let (Action::Transmit { port, .. }
            | Action::SetState { port, .. }
            | Action::Flush { port }
            | Action::GuardTripped { port }
            | Action::TopologyChanged { port }) = &action;
            let place = self.ports.iter_mut().find(|place| place.id == *port).expect("there is such a port");
            assert!(place.exists, "{action:?}");
            match action {
                Action::Transmit { port, frame } => {
                    let status = self.stp.port(port).expect("there is such a port");
                    assert!(status.link_up && !status.guarded, "{port}: {status:?}");
                    if !is_at_its_end(&frame) {
                        self.witness.receive(PortId::FIRST, &frame, now, &mut Vec::new());
                        self.sent += 1;
                    }
                    place.sent += 1;
                    place.frame = frame;
                }
                Action::SetState { state, .. } => place.told = state,
                Action::Flush { .. } | Action::GuardTripped { .. } | Action::TopologyChanged { .. } => {}
            }
        }
        let read = self.witness.port(PortId::FIRST).expect("it was added").counters;
        assert_eq!((read.received, read.bad), (self.sent, 0), "a BPDU was sent that is none");
        for place in &self.ports {
            let Some(status) = self.stp.port(place.id) else {
                assert!(!place.exists);
                continue;
            };
            assert_eq!(status.state, place.told, "port {}", place.id);
            let seconds = (now - place.begun).as_secs();
            // The hold count gives one more for half of the shortest hello time.
            assert!(place.sent <= HOLD_COUNT + 2 * (seconds + 1), "port {}: {} in {seconds} s", place.id, place.sent);
        }
        if let Some(due) = self.stp.deadline() {
            assert!(due > now, "due {:?} ago", now - due);
        }
    }
}

/// Whether a frame is a Configuration BPDU of maximum age: the root is as far away as it may be for this bridge, and too
/// far for the next, which is to refuse the frame (IEEE 802.1D-2004 §9.3.4, §17.21.23).
fn is_at_its_end(frame: &[u8]) -> bool {
    frame.get(20) == Some(&0) && frame.get(44..46) == frame.get(46..48)
}

fn empty(id: PortId) -> Place {
    Place { id, exists: false, told: PortState::Forwarding, frame: Vec::new(), sent: 0, begun: Instant::now() }
}

/// A frame to the bridge group address.
fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = HEAD.to_vec();
    frame.extend([0, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
    frame.extend(body);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// An RST BPDU (version 2) or a Configuration BPDU (version 0) whose values are often ones that matter.
fn message(version: u8, data: &mut Data<'_>) -> Vec<u8> {
    let bridge = |data: &mut Data<'_>| {
        let MacAddr(address) = station(data.byte() & 15);
        [&[data.byte() & 0xf0, 0], &address[..]].concat()
    };
    let mut body = vec![0x42, 0x42, 3, 0, 0, version, version, data.byte()];
    body.extend(bridge(data));
    body.extend((u32::from(data.byte()) * 1000).to_be_bytes());
    body.extend(bridge(data));
    body.extend([0x80, data.byte()]);
    for _ in 0..4 {
        // In quarters of a second.
        body.extend((u16::from(data.byte()) << 6).to_be_bytes());
    }
    body.push(0);
    body
}

fn port_settings(data: &mut Data<'_>) -> PortSettings {
    let bits = data.byte();
    PortSettings {
        path_cost: u32::from(data.byte()) * 1000,
        priority: data.byte(),
        edge: [Edge::Auto, Edge::Always, Edge::Never, Edge::Auto][usize::from(bits & 3)],
        point_to_point: bits & 4 == 0,
        bpdu_guard: bits & 8 != 0,
    }
}
