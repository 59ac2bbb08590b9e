//! One bridge by itself: what it does with hand-made BPDUs.

use super::bpdu::{Message, Rapid, SenderRole};
use super::values::Priority;
use super::*;

const P1: PortId = PortId::FIRST;

fn second() -> Duration {
    Duration::from_secs(1)
}

fn id(number: u8) -> BridgeId {
    BridgeId { priority: 0x8000, address: MacAddr([2, 0, 0, 0, 0, number]) }
}

/// Bridge 5 with one port, its link up.
struct One {
    stp: Stp,
    now: Instant,
    out: Vec<Action>,
}

impl One {
    fn new(settings: PortSettings) -> Self {
        let now = Instant::now();
        let mut one = Self { stp: bridge(), now, out: Vec::new() };
        one.stp.enable(now, &mut one.out);
        one.stp.add_port(P1, settings, now, &mut one.out);
        one.stp.set_link(P1, true, now, &mut one.out);
        one
    }

    fn status(&self) -> PortStatus {
        self.stp.port(P1).unwrap()
    }

    /// Hears a BPDU and returns what came of it.
    fn hear(&mut self, bpdu: Bpdu) -> Vec<Action> {
        self.out.clear();
        self.stp.receive(P1, &bpdu.to_frame(id(9).address), self.now, &mut self.out);
        std::mem::take(&mut self.out)
    }

    fn pass(&mut self, span: Duration) -> Vec<Action> {
        let until = self.now + span;
        self.out.clear();
        while let Some(at) = self.stp.deadline().filter(|at| *at <= until) {
            assert!(at >= self.now);
            self.now = at;
            self.stp.expire(at, &mut self.out);
        }
        self.now = until;
        std::mem::take(&mut self.out)
    }
}

fn bridge() -> Stp {
    Stp::new(BridgeSettings { priority: 0x8000, address: id(5).address })
}

fn message(from: u8, rapid: Option<Rapid>) -> Message {
    Message {
        priority: Priority { root: id(from), cost: 0, bridge: id(from), port: PortIdentifier(0x8001) },
        times: Times::DEFAULT,
        topology_change: false,
        topology_change_ack: false,
        rapid,
    }
}

fn config(from: u8) -> Bpdu {
    Bpdu::Message(message(from, None))
}

fn rapid(role: SenderRole) -> Rapid {
    Rapid { role, proposal: false, learning: false, forwarding: false, agreement: false }
}

fn rst(from: u8) -> Bpdu {
    Bpdu::Message(message(from, Some(rapid(SenderRole::Designated))))
}

fn sent(actions: &[Action]) -> Vec<Bpdu> {
    let frames = actions.iter().filter_map(|action| match action {
        Action::Transmit { frame, .. } => Some(frame),
        _ => None,
    });
    frames.map(|frame| Bpdu::parse(frame).unwrap()).collect()
}

fn states(actions: &[Action]) -> Vec<PortState> {
    let states = actions.iter().filter_map(|action| match action {
        Action::SetState { state, .. } => Some(*state),
        _ => None,
    });
    states.collect()
}

#[test]
fn an_edge_port_forwards_at_once() {
    let one = One::new(PortSettings { edge: Edge::Always, ..PortSettings::default() });
    assert_eq!(states(&one.out).last(), Some(&PortState::Forwarding));
    assert!(one.status().oper_edge);
    assert!(!one.out.iter().any(|action| matches!(action, Action::TopologyChanged { .. })));
}

#[test]
fn an_edge_port_that_hears_a_bpdu_is_one_no_more_until_its_link_comes_anew() {
    let mut one = One::new(PortSettings { edge: Edge::Always, ..PortSettings::default() });
    one.hear(rst(9));
    assert!(!one.status().oper_edge);
    one.pass(100 * second());
    assert!(!one.status().oper_edge);
    one.stp.set_link(P1, false, one.now, &mut one.out);
    one.stp.set_link(P1, true, one.now, &mut one.out);
    assert_eq!((one.status().oper_edge, one.status().state), (true, PortState::Forwarding));
}

#[test]
fn without_a_bridge_a_port_is_found_to_be_an_edge_after_three_seconds() {
    let mut one = One::new(PortSettings::default());
    assert_eq!(states(&one.pass(3 * second() - Duration::from_millis(1))), []);
    assert_eq!(states(&one.pass(Duration::from_millis(1))), [PortState::Forwarding]);
    assert!(one.status().oper_edge);
}

#[test]
fn a_port_that_is_no_edge_waits_max_age_and_a_hello_for_an_answer() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    assert_eq!(states(&one.pass(20 * second())), [PortState::Learning]);
    assert_eq!(states(&one.pass(2 * second())), [PortState::Forwarding]);
}

#[test]
fn a_port_set_to_edge_forwards_at_once_if_no_bridge_was_heard() {
    for (heard, state) in [(false, PortState::Forwarding), (true, PortState::Discarding)] {
        let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
        if heard {
            one.hear(rst(9));
        }
        let edge = PortSettings { edge: Edge::Always, ..PortSettings::default() };
        one.stp.set_port(P1, edge, one.now, &mut one.out);
        assert_eq!(one.status().state, state);
    }
}

#[test]
fn bpdu_guard_shuts_the_port_until_it_is_reset() {
    let guarded = PortSettings { edge: Edge::Always, bpdu_guard: true, ..PortSettings::default() };
    let mut one = One::new(guarded);
    let actions = one.hear(rst(1));
    assert_eq!(
        actions,
        [
            Action::GuardTripped { port: P1 },
            Action::SetState { port: P1, state: PortState::Discarding },
            Action::Flush { port: P1 }
        ]
    );
    assert_eq!((one.status().role, one.status().guarded), (Role::Disabled, true));
    assert_eq!(one.stp.root().port, None);
    assert_eq!(one.hear(rst(1)), []);
    assert_eq!(one.pass(100 * second()), []);
    one.stp.set_link(P1, false, one.now, &mut one.out);
    one.stp.set_link(P1, true, one.now, &mut one.out);
    assert_eq!(one.out, []);
    one.stp.reset_guard(P1, one.now, &mut one.out);
    assert_eq!(states(&one.out), [PortState::Forwarding]);
    assert!(!one.status().guarded);
    one.hear(rst(1));
    let open = PortSettings { bpdu_guard: false, ..guarded };
    one.stp.set_port(P1, open, one.now, &mut one.out);
    assert_eq!(one.status().state, PortState::Forwarding);
}

#[test]
fn frames_that_are_no_bpdus_do_not_trip_the_guard() {
    let mut one = One::new(PortSettings { bpdu_guard: true, ..PortSettings::default() });
    one.stp.receive(P1, &[0; 60], one.now, &mut one.out);
    assert!(!one.status().guarded);
    assert_eq!(one.status().counters.bad, 1);
}

#[test]
fn switched_off_everything_forwards_and_nothing_is_said() {
    let mut one = One::new(PortSettings { bpdu_guard: true, ..PortSettings::default() });
    one.hear(rst(1));
    one.out.clear();
    one.stp.disable(&mut one.out);
    assert_eq!(one.out, [Action::SetState { port: P1, state: PortState::Forwarding }]);
    assert_eq!((one.stp.is_enabled(), one.stp.deadline()), (false, None));
    assert_eq!(one.hear(rst(1)), []);
    one.stp.set_link(P1, false, one.now, &mut one.out);
    one.stp.set_link(P1, true, one.now, &mut one.out);
    one.stp.expire(one.now, &mut one.out);
    assert_eq!(one.out, []);
    assert_eq!((one.status().role, one.status().state), (Role::Disabled, PortState::Forwarding));
    one.stp.enable(one.now, &mut one.out);
    assert_eq!(states(&one.out), [PortState::Discarding]);
}

#[test]
fn nothing_is_due_while_no_port_has_a_link() {
    let mut one = One::new(PortSettings::default());
    assert!(one.stp.deadline().is_some());
    one.stp.set_link(P1, false, one.now, &mut one.out);
    assert_eq!(one.stp.deadline(), None);
}

#[test]
fn a_port_that_is_gone_leads_nowhere() {
    let mut one = One::new(PortSettings::default());
    one.hear(rst(1));
    assert_eq!(one.stp.root().port, Some(P1));
    one.stp.remove_port(P1, one.now, &mut one.out);
    assert_eq!((one.stp.root().root, one.stp.port(P1), one.stp.deadline()), (id(5), None, None));
}

#[test]
fn a_proposal_is_agreed_to_at_once() {
    let mut one = One::new(PortSettings::default());
    let proposal = Rapid { proposal: true, ..rapid(SenderRole::Designated) };
    let actions = one.hear(Bpdu::Message(message(1, Some(proposal))));
    let [Bpdu::Message(answer)] = sent(&actions)[..] else { panic!("{actions:?}") };
    let answer = answer.rapid.unwrap();
    assert_eq!((answer.role, answer.agreement, answer.forwarding), (SenderRole::Root, true, true));
    assert_eq!(states(&actions), [PortState::Forwarding]);
}

#[test]
fn an_agreement_counts_on_a_point_to_point_port_only() {
    for (point_to_point, state) in [(true, PortState::Forwarding), (false, PortState::Discarding)] {
        let mut one = One::new(PortSettings { point_to_point, ..PortSettings::default() });
        let agreement = Rapid { agreement: true, ..rapid(SenderRole::Root) };
        let priority = Priority { root: id(5), cost: 2000, bridge: id(9), port: PortIdentifier(0x8001) };
        one.hear(Bpdu::Message(Message { priority, ..message(9, Some(agreement)) }));
        assert_eq!(one.status().state, state);
    }
}

#[test]
fn a_neighbour_that_learns_by_worse_information_stops_the_port() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    one.pass(30 * second());
    assert_eq!(one.status().state, PortState::Forwarding);
    let deaf = Rapid { learning: true, ..rapid(SenderRole::Designated) };
    assert_eq!(states(&one.hear(Bpdu::Message(message(9, Some(deaf))))), [PortState::Discarding]);
}

#[test]
fn information_ages_after_three_hellos() {
    let mut one = One::new(PortSettings::default());
    one.hear(rst(1));
    one.pass(6 * second() - Duration::from_millis(1));
    assert_eq!(one.stp.root().root, id(1));
    one.pass(Duration::from_millis(1));
    assert_eq!(one.stp.root().root, id(5));
}

#[test]
fn an_stp_neighbour_is_spoken_to_in_stp_after_migrate_time_and_in_rstp_when_it_learns_it() {
    let mut one = One::new(PortSettings::default());
    one.hear(config(9));
    assert!(one.status().is_rstp, "the first three seconds are for RSTP");
    one.pass(4 * second());
    one.hear(config(9));
    assert!(!one.status().is_rstp);
    let hellos = sent(&one.pass(2 * second()));
    assert!(matches!(hellos[..], [Bpdu::Message(Message { rapid: None, .. })]), "{hellos:?}");
    one.hear(rst(9));
    assert!(!one.status().is_rstp, "not within three seconds of the change");
    one.pass(4 * second());
    one.hear(rst(9));
    assert!(one.status().is_rstp);
}

#[test]
fn asked_to_check_the_port_speaks_rstp_again() {
    let mut one = One::new(PortSettings::default());
    one.pass(4 * second());
    one.hear(config(9));
    assert!(!one.status().is_rstp);
    one.stp.check_migration(P1, one.now, &mut one.out);
    assert!(one.status().is_rstp);
    one.pass(4 * second());
    one.hear(config(9));
    assert!(!one.status().is_rstp);
}

#[test]
fn a_designated_port_waits_both_forward_delays_for_an_stp_neighbour() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    let (from, mut forwards) = (one.now, None);
    while forwards.is_none() && one.now < from + 60 * second() {
        one.hear(config(9));
        one.pass(second());
        forwards = (one.status().state == PortState::Forwarding).then_some(one.now - from);
    }
    assert_eq!(forwards, Some(35 * second()), "max age, then a forward delay");
}

#[test]
fn a_topology_change_is_told_an_stp_root_by_tcn_until_it_acknowledges() {
    let mut one = One::new(PortSettings::default());
    one.pass(4 * second());
    let mut told = Vec::new();
    for _ in 0..5 {
        one.hear(config(1));
        told.extend(sent(&one.pass(second())));
    }
    assert!(!told.is_empty());
    assert!(told.iter().all(|bpdu| *bpdu == Bpdu::Tcn), "{told:?}");
    one.hear(Bpdu::Message(Message { topology_change_ack: true, ..message(1, None) }));
    let mut told = Vec::new();
    for _ in 0..10 {
        one.hear(config(1));
        told.extend(sent(&one.pass(second())));
    }
    assert_eq!(told, []);
}

#[test]
fn a_tcn_is_acknowledged_and_passed_on() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    let p2 = PortId::new(2).unwrap();
    one.stp.add_port(p2, PortSettings { edge: Edge::Never, ..PortSettings::default() }, one.now, &mut one.out);
    one.stp.set_link(p2, true, one.now, &mut one.out);
    for _ in 0..100 {
        one.hear(config(9));
        one.pass(second());
    }
    assert!(!one.status().is_rstp);
    let changes = one.stp.root().topology_changes;
    let actions = one.hear(Bpdu::Tcn);
    assert!(actions.contains(&Action::TopologyChanged { port: P1 }));
    assert!(actions.contains(&Action::Flush { port: p2 }));
    assert!(!actions.contains(&Action::Flush { port: P1 }));
    assert_eq!(one.stp.root().topology_changes, changes + 1);
    let hellos = sent(&one.pass(2 * second()));
    let is_ack = |bpdu: &Bpdu| matches!(bpdu, Bpdu::Message(message) if message.topology_change_ack);
    assert!(hellos.iter().any(is_ack), "{hellos:?}");
    assert!(!sent(&one.pass(10 * second())).iter().any(is_ack));
}

#[test]
fn a_change_that_a_neighbour_repeats_is_one_event() {
    let mut one = One::new(PortSettings::default());
    one.hear(rst(1));
    one.pass(second());
    let told = Bpdu::Message(Message { topology_change: true, ..message(1, Some(rapid(SenderRole::Designated))) });
    let is_event = |action: &Action| matches!(action, Action::TopologyChanged { .. });
    let counts: Vec<_> =
        [told, told, rst(1), told].map(|bpdu| one.hear(bpdu).iter().filter(|action| is_event(action)).count()).into();
    assert_eq!(counts, [1, 0, 0, 1]);
}

#[test]
fn no_more_than_six_bpdus_leave_at_once_and_then_one_a_second() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    let mut count = sent(&one.out).len();
    for round in 0..50 {
        let settings = BridgeSettings { priority: if round % 2 == 0 { 0 } else { 4096 }, address: id(5).address };
        one.stp.set_bridge(settings, one.now, &mut one.out);
        count = sent(&one.out).len();
    }
    assert_eq!(count, 6);
    let late = sent(&one.pass(second()));
    let [Bpdu::Message(late)] = late[..] else { panic!("{late:?}") };
    assert_eq!(late.priority.root.priority, 4096, "the last word is what is said");
    assert_eq!(one.status().counters.sent, 7);
}

#[test]
fn hellos_do_not_keep_the_hold_count_up() {
    let mut one = One::new(PortSettings { edge: Edge::Never, ..PortSettings::default() });
    one.stp.set_times(second(), 6 * second(), 4 * second(), one.now, &mut one.out).unwrap();
    for priority in [0, 4096, 0, 4096, 0, 4096, 0] {
        one.stp.set_bridge(BridgeSettings { priority, address: id(5).address }, one.now, &mut one.out);
    }
    one.pass(10 * second());
    for priority in [4096, 0, 4096, 0] {
        one.out.clear();
        one.stp.set_bridge(BridgeSettings { priority, address: id(5).address }, one.now, &mut one.out);
        assert_eq!(sent(&one.out).len(), 1, "at once");
    }
}

#[test]
fn two_bridges_of_one_identifier_do_not_forward_to_each_other() {
    let mut one = One::new(PortSettings::default());
    one.hear(rst(5));
    assert_eq!((one.status().role, one.status().state), (Role::Backup, PortState::Discarding));
    assert_eq!(one.status().counters.own, 1);
}

#[test]
fn settings_out_of_range_are_brought_within() {
    let wild = PortSettings { path_cost: 0, priority: 0xff, ..PortSettings::default() };
    let one = One::new(wild);
    assert_eq!((one.status().settings.path_cost, one.status().settings.priority), (1, 0xf0));
    assert_eq!(one.status().identifier, PortIdentifier(0xf001));
}

#[test]
fn times_reach_the_neighbours() {
    let mut one = One::new(PortSettings::default());
    one.pass(10 * second());
    one.stp.set_times(second(), 10 * second(), 6 * second(), one.now, &mut one.out).unwrap();
    let [Bpdu::Message(told)] = sent(&one.out)[..] else { panic!("{:?}", one.out) };
    assert_eq!(
        (told.times.hello, told.times.max_age, told.times.forward_delay),
        (second(), 10 * second(), 6 * second())
    );
    assert_eq!(sent(&one.pass(10 * second())).len(), 10);
    assert!(one.stp.set_times(second(), 40 * second(), 6 * second(), one.now, &mut one.out).is_err());
    assert_eq!(one.stp.root().times.max_age, 10 * second());
}

#[test]
fn a_hundred_thousand_random_frames_do_no_harm() {
    let mut seed = 1_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut stp = bridge();
    let (mut now, mut out) = (Instant::now(), Vec::new());
    stp.enable(now, &mut out);
    for number in 1..=4 {
        let port = PortId::new(number).unwrap();
        stp.add_port(port, PortSettings::default(), now, &mut out);
        stp.set_link(port, true, now, &mut out);
    }
    let templates = [rst(3), config(7), Bpdu::Tcn, rst(5)].map(|bpdu| bpdu.to_frame(id(9).address));
    for round in 0..100_000 {
        let mut frame = templates[random() as usize % templates.len()].clone();
        match random() % 4 {
            0 => frame.iter_mut().for_each(|byte| *byte = random() as u8),
            1 => frame.truncate(random() as usize % 60),
            _ => {}
        }
        // Behind the LLC, so that most are BPDUs of some sort.
        for _ in 0..random() % 4 {
            if let Some(byte) = frame.get_mut(17 + random() as usize % 36) {
                *byte = random() as u8;
            }
        }
        now += Duration::from_micros(random() % 20_000);
        if round % 1000 == 0 {
            let port = PortId::new(1 + random() as u32 % 4).unwrap();
            stp.set_link(port, random() % 4 != 0, now, &mut out);
        }
        stp.receive(PortId::new(1 + random() as u32 % 5).unwrap(), &frame, now, &mut out);
        if stp.deadline().is_some_and(|at| at <= now) {
            stp.expire(now, &mut out);
            assert!(stp.deadline().is_none_or(|at| at > now));
        }
        out.clear();
    }
    let counters = (1..=4).map(|number| stp.port(PortId::new(number).unwrap()).unwrap().counters);
    let (bad, received) = counters.fold((0, 0), |(bad, received), c| (bad + c.bad, received + c.received));
    assert!(bad > 10_000 && received > 10_000, "{bad} {received}");
}
