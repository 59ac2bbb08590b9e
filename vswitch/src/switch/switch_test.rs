//! A switch whose members are ends of links in memory: the far ends are the stations.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use link::{
    Capabilities, Checksum, DropReason, FragmentMut, GsoType, Null, Offloads, OwnedFrame, PairEnd, RxBatch, TxBatch,
    VnetHeader, pair,
};
use mio::{Poll, Token};

use super::*;
use crate::VlanId;
use crate::stp::BridgeSettings;

/// A switch and the loop it is registered with; the test takes the loop's place.
struct Lab {
    switch: Switch,
    _poll: Poll,
}

fn port(number: u32) -> PortId {
    PortId::new(number).unwrap()
}

impl Lab {
    fn new(numports: u32) -> Self {
        let poll = Poll::new().unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let address = "02:00:00:00:00:01".parse().unwrap();
        let stp = Stp::new(BridgeSettings { priority: 0x8000, address });
        Self { switch: Switch::new(Bridge::new(7), stp, numports, registry), _poll: poll }
    }

    /// Plugs a station into a port, which is made if need be.
    fn plug(&mut self, id: PortId) -> PairEnd {
        let (station, inside) = pair(&id.to_string()).unwrap();
        self.plug_link(id, Box::new(Soft::new(inside)));
        station
    }

    fn plug_link(&mut self, id: PortId, link: Box<dyn Link>) -> MemberKey {
        let id = self.switch.assign_port(Some(id), None).unwrap();
        self.switch.plug_in(id, link, Kind::Link).unwrap()
    }

    /// What the event loop does when everything is ready.
    fn run(&mut self) {
        let keys: Vec<_> = self.switch.floor.members.iter().map(|(_, member)| member.key).collect();
        keys.into_iter().for_each(|key| self.switch.serve(key));
        while self.switch.has_work() {
            self.switch.work();
        }
    }

    /// One turn, of whoever is first.
    fn take_turn(&mut self) {
        let floor = &mut self.switch.floor;
        let key = floor.line.pop_front().or_else(|| floor.probing.pop()).unwrap();
        self.switch.take_turn(key);
    }

    fn drops(&self, id: PortId, reason: DropReason) -> u64 {
        self.switch.counters(self.switch.port(id).unwrap()).drops.get(reason)
    }
}

/// A frame between two stations, told apart by the last bytes of their addresses.
fn frame(destination: u8, source: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1, destination, 2, 0, 0, 0, 1, source, 0x08, 0x00];
    bytes.extend_from_slice(payload);
    bytes
}

fn send(station: &mut PairEnd, frames: &[OwnedFrame]) {
    let mut batch = TxBatch::new();
    for frame in frames {
        batch.push(frame.header, [Fragment::new(&frame.bytes)]);
    }
    assert_eq!(station.send(&batch).unwrap(), frames.len());
}

fn send_plain(station: &mut PairEnd, bytes: &[u8]) {
    send(station, &[OwnedFrame { header: VnetHeader::WHOLE, bytes: bytes.to_vec() }]);
}

/// Everything that has arrived at a station.
fn received(station: &mut PairEnd) -> Vec<OwnedFrame> {
    station.accept(Offloads::ALL).unwrap();
    let mut frames = Vec::new();
    let mut buffer = vec![0; link::MAX_FRAME_LEN];
    loop {
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        if station.receive(&mut batch).unwrap() == 0 {
            return frames;
        }
        let (header, len) = batch.frames().next().unwrap();
        frames.push(OwnedFrame { header, bytes: buffer[..len].to_vec() });
    }
}

fn received_plain(station: &mut PairEnd) -> Vec<Vec<u8>> {
    received(station).into_iter().map(|frame| frame.bytes).collect()
}

#[test]
fn frames_reach_everybody_until_it_is_known_where_their_station_is() {
    let mut lab = Lab::new(8);
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| lab.plug(port(number)));
    send_plain(&mut a, &frame(2, 1, b"hello"));
    lab.run();
    assert_eq!([received_plain(&mut b), received_plain(&mut c)].map(|frames| frames.len()), [1, 1]);
    send_plain(&mut b, &frame(1, 2, b"here I am"));
    lab.run();
    assert_eq!(received_plain(&mut a), [frame(1, 2, b"here I am")]);
    assert!(received_plain(&mut c).is_empty());
}

#[test]
fn those_who_share_a_port_hear_the_others_and_not_each_other() {
    let mut lab = Lab::new(8);
    let [mut a, mut sibling, mut b] = [1, 1, 2].map(|number| lab.plug(port(number)));
    send_plain(&mut a, &frame(9, 1, b"anybody?"));
    lab.run();
    assert!(received_plain(&mut sibling).is_empty());
    assert_eq!(received_plain(&mut b).len(), 1);
    send_plain(&mut b, &frame(1, 3, b"to station 1"));
    lab.run();
    assert_eq!((received_plain(&mut a).len(), received_plain(&mut sibling).len()), (1, 1));
}

#[test]
fn a_member_that_takes_nothing_costs_counted_drops_and_nobody_else() {
    let mut lab = Lab::new(8);
    let [mut a, mut b, _deaf] = [1, 2, 3].map(|number| lab.plug(port(number)));
    for round in 0..40u8 {
        let batch: Vec<_> =
            (0..64).map(|_| OwnedFrame { header: VnetHeader::WHOLE, bytes: frame(9, 1, &[round]) }).collect();
        send(&mut a, &batch);
        lab.run();
        assert_eq!(received_plain(&mut b).len(), 64);
    }
    assert_eq!(lab.drops(port(3), DropReason::LinkFull), 40 * 64 - 1024);
    assert_eq!(lab.drops(port(2), DropReason::LinkFull), 0);
}

#[test]
fn what_a_client_sent_before_it_left_arrives() {
    let mut lab = Lab::new(2);
    let mut other = lab.plug(port(1));
    let (mut client, inside) = pair("client").unwrap();
    let (ctl, control) = UnixStream::pair().unwrap();
    control.set_nonblocking(true).unwrap();
    let member = Client { link: Box::new(Soft::new(inside)), control: Control::new(control) };
    let id = lab.switch.assign_port(None, None).unwrap();
    let key = lab.switch.add_client(id, member, Kind::Link).unwrap();
    lab.run();
    (0..200).for_each(|number| send_plain(&mut client, &frame(9, 2, &[number; 50])));
    drop(ctl);
    lab.switch.serve_control(key);
    assert_eq!(received_plain(&mut other).len(), 200);
    assert!(lab.switch.member(key).is_none());
}

#[test]
fn a_flood_costs_the_others_a_turn_and_no_more() {
    let mut lab = Lab::new(8);
    let [mut flooder, mut b, mut c] = [1, 2, 3].map(|number| lab.plug(port(number)));
    let flood: Vec<_> =
        (0..1000).map(|_| OwnedFrame { header: VnetHeader::WHOLE, bytes: frame(9, 1, &[0; 1000]) }).collect();
    send(&mut flooder, &flood);
    send_plain(&mut b, &frame(8, 2, b"me too"));
    for key in 0..3 {
        lab.switch.serve(key);
    }
    for _ in 0..3 {
        lab.take_turn();
    }
    let heard = received_plain(&mut c);
    assert!(heard.len() < 10, "{}", heard.len());
    assert!(heard.contains(&frame(8, 2, b"me too")));
}

#[test]
fn a_turn_grows_with_small_frames_and_stays_short_with_long_ones() {
    let mut lab = Lab::new(8);
    let mut a = lab.plug(port(1));
    let turn_after = |lab: &mut Lab, a: &mut PairEnd, len: usize| {
        let batch: Vec<_> = (0..64).map(|_| OwnedFrame { header: VnetHeader::WHOLE, bytes: vec![2; len] }).collect();
        send(a, &batch);
        lab.switch.serve(0);
        for _ in 0..5 {
            lab.take_turn();
        }
        let turn = lab.switch.member(0).unwrap().pace.turn();
        lab.run();
        turn
    };
    assert_eq!(turn_after(&mut lab, &mut a, 60), 32);
    assert_eq!(lab.switch.member(0).unwrap().pace.turn(), 1, "alone again");
    assert_eq!(turn_after(&mut lab, &mut a, 60_000), 2);
}

/// A link that says back what it hears while it takes it, or one whose far end has gone mad.
#[derive(Default)]
struct Odd {
    is_mad: bool,
    answers: VecDeque<Vec<u8>>,
}

impl Link for Odd {
    fn name(&self) -> &str {
        "odd://"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::PLAIN
    }
    fn accept(&mut self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }
    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if self.is_mad {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        for heard in batch.frames() {
            let mut answer = Vec::new();
            heard.append_to(&mut answer);
            answer[..12].rotate_left(6);
            self.answers.push_back(answer);
        }
        Ok(batch.len())
    }
    fn answers(&self) -> bool {
        true
    }
    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            let Some(answer) = self.answers.pop_front() else { break };
            slot.write(VnetHeader::WHOLE, &[&answer]).unwrap();
        }
        Ok(batch.filled() - before)
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

#[test]
fn a_member_whose_link_fails_is_taken_out_and_the_others_go_on() {
    let mut lab = Lab::new(8);
    let [mut a, mut b] = [1, 2].map(|number| lab.plug(port(number)));
    lab.plug_link(port(3), Box::new(Odd { is_mad: true, ..Odd::default() }));
    lab.switch.take_events();
    for _ in 0..2 {
        send_plain(&mut a, &frame(9, 1, b"x"));
        lab.run();
    }
    assert_eq!(received_plain(&mut b).len(), 2);
    let reason = Some("Bad file descriptor".to_owned());
    let left = Event::Left { port: port(3), member: 2, name: "odd://".to_owned(), reason };
    assert_eq!(lab.switch.take_events(), [left]);
    assert!(lab.switch.port(port(3)).unwrap().members.is_empty());
}

#[test]
fn answers_are_fetched_from_links_that_make_them_while_they_take_frames() {
    let mut lab = Lab::new(8);
    let mut a = lab.plug(port(1));
    lab.plug_link(port(2), Box::<Odd>::default());
    send_plain(&mut a, &frame(2, 1, b"echo"));
    lab.switch.serve(0);
    while lab.switch.has_work() {
        lab.switch.work();
    }
    assert_eq!(received_plain(&mut a), [frame(1, 2, b"echo")]);
}

#[test]
fn tags_go_in_and_out_between_fragments_and_the_checksum_moves_along() {
    let mut lab = Lab::new(8);
    let [mut access, mut trunk] = [1, 2].map(|number| lab.plug(port(number)));
    let vlan = VlanId::new(5).unwrap();
    lab.switch.bridge.create_vlan(vlan).unwrap();
    lab.switch.bridge.set_untagged(port(1), Some(vlan)).unwrap();
    let header = VnetHeader { checksum: Checksum::Partial { start: 34, offset: 6 }, ..VnetHeader::WHOLE };
    let untagged = frame(2, 1, &[7; 46]);
    let mut tagged = untagged.clone();
    tagged.splice(12..12, [0x81, 0x00, 0, 5]);
    send(&mut access, &[OwnedFrame { header, bytes: untagged.clone() }]);
    received(&mut trunk);
    lab.run();
    let moved = VnetHeader { checksum: Checksum::Partial { start: 38, offset: 6 }, ..VnetHeader::WHOLE };
    assert_eq!(received(&mut trunk), [OwnedFrame { header: moved, bytes: tagged.clone() }]);
    received(&mut access);
    send(&mut trunk, &[OwnedFrame { header: moved, bytes: tagged }]);
    lab.run();
    assert_eq!(received(&mut access), [OwnedFrame { header, bytes: untagged }]);
}

/// A datagram of one flow, its checksum left partial.
fn datagram(id: u8) -> OwnedFrame {
    let mut bytes = frame(2, 1, &[]);
    bytes.extend([0x45, 0, 0, 50, 0, id, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend([1, 1, 2, 2, 0, 30, 0, 0]);
    bytes.extend([id; 22]);
    OwnedFrame {
        header: VnetHeader { checksum: Checksum::Partial { start: 34, offset: 6 }, ..VnetHeader::WHOLE },
        bytes,
    }
}

#[test]
fn datagrams_that_came_together_leave_together_where_they_can_be_cut_again() {
    let mut lab = Lab::new(8);
    let [mut a, mut able, mut plain] = [1, 2, 3].map(|number| lab.plug(port(number)));
    received(&mut able);
    plain.accept(Offloads::NONE).unwrap();
    send(&mut a, &(0..30).map(datagram).collect::<Vec<_>>());
    lab.run();
    let long = received(&mut able);
    // Turns of 1, 2, 4, 8 and 16 frames; the last holds 15.
    assert_eq!(
        long.iter().map(|frame| frame.bytes.len()).collect::<Vec<_>>(),
        [1, 2, 4, 8, 15].map(|count| 42 + count * 22)
    );
    assert_eq!((long[4].header.gso_type, long[4].header.gso_size), (GsoType::Udp, 22));
    let mut cut = received_plain(&mut plain);
    assert_eq!(cut.len(), 30);
    assert_eq!(cut.pop().unwrap()[42..], [29; 22]);
}

#[test]
fn a_client_gets_the_first_free_port_that_admits_it() {
    let mut lab = Lab::new(3);
    let peer = |uid| Peer { pid: 1, uid, gid: uid, groups: vec![] };
    lab.plug(port(1));
    lab.switch.create_port(port(2)).unwrap();
    lab.switch.port_mut(port(2)).unwrap().user = Some(1000);
    assert_eq!(lab.switch.assign_port(None, Some(&peer(1000))).unwrap(), port(2));
    assert_eq!(lab.switch.assign_port(None, Some(&peer(0))).unwrap(), port(2));
    assert_eq!(lab.switch.assign_port(None, Some(&peer(1001))).unwrap(), port(3));
    let refused = lab.switch.assign_port(Some(port(2)), Some(&peer(1001))).unwrap_err();
    assert_eq!(refused.to_string(), "port 2 is not for user 1001");
    let stations = [2, 3].map(|number| lab.plug(port(number)));
    assert_eq!(lab.switch.assign_port(None, None).unwrap_err().to_string(), "all 3 ports are in use (numports)");
    drop(stations);
    let refused = lab.switch.assign_port(Some(port(4)), None).unwrap_err();
    assert_eq!(refused.to_string(), "port 4: the switch has 3 ports (numports)");
}

#[test]
fn counters_outlive_members_and_start_again_when_they_are_reset() {
    let mut lab = Lab::new(8);
    let mut a = lab.plug(port(1));
    lab.plug_link(port(2), Box::<Null>::default());
    send_plain(&mut a, &frame(9, 1, &[0; 46]));
    lab.run();
    let counters = |lab: &Lab, number| lab.switch.counters(lab.switch.port(port(number)).unwrap());
    lab.switch.unplug(0, None);
    lab.switch.unplug(1, None);
    assert_eq!((counters(&lab, 1).rx_frames, counters(&lab, 1).rx_bytes), (1, 60));
    assert_eq!(counters(&lab, 2).tx_frames, 1);
    lab.switch.reset_counters(port(1)).unwrap();
    assert_eq!(counters(&lab, 1), Counters::default());
}

#[test]
fn a_port_in_use_stays_and_one_that_is_not_goes() {
    let mut lab = Lab::new(8);
    let station = lab.plug(port(2));
    assert_eq!(lab.switch.create_port(port(2)).unwrap_err().to_string(), "port 2 exists");
    assert_eq!(lab.switch.remove_port(port(2)).unwrap_err().to_string(), "port 2 is in use");
    assert_eq!(lab.switch.set_numports(1).unwrap_err().to_string(), "port 2 is in use");
    assert_eq!(lab.switch.close_member(port(2), 5).unwrap_err().to_string(), "port 2 has no member 5");
    lab.switch.close_member(port(2), 0).unwrap();
    assert_eq!(station.state(), LinkState::Down);
    lab.switch.remove_port(port(2)).unwrap();
    assert_eq!(lab.switch.port(port(2)).unwrap_err().to_string(), "port 2 does not exist");
}
