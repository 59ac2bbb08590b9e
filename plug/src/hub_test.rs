//! Hubs of cables, and of links that misbehave.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use link::{
    Capabilities, Checksum, DropReason, Fragment, FragmentMut, GsoType, LinkState, Null, Offloads, RxBatch, TxBatch,
    VnetHeader,
};
use mio::Registry;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// A hub of cables, and the cards' ends of these.
fn hub_of_cables(count: usize) -> (Hub, Vec<Box<dyn Link>>) {
    let (cards, ports) = (0..count).map(|index| cable(&format!("card{index}")).unwrap()).unzip();
    (Hub::start(ports).unwrap(), cards)
}

fn send(link: &mut dyn Link, header: VnetHeader, bytes: &[u8]) -> usize {
    let mut batch = TxBatch::new();
    batch.push(header, [Fragment::new(bytes)]);
    link.send(&batch).unwrap()
}

fn try_receive(link: &mut dyn Link) -> Option<(VnetHeader, Vec<u8>)> {
    let mut buffer = vec![0; 70_000];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut buffer)]);
    link.receive(&mut batch).unwrap();
    let (header, len) = batch.frames().next()?;
    buffer.truncate(len);
    Some((header, buffer))
}

fn receive(link: &mut dyn Link) -> (VnetHeader, Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(frame) = try_receive(link) {
            return frame;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    panic!("{}: no frame", link.name());
}

/// A TCP frame of the given payload, its checksum partial, to be cut at 1000 bytes.
fn long_frame(payload: usize) -> (VnetHeader, Vec<u8>) {
    let mut frame = vec![0; 54 + payload];
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    frame[23] = 6;
    frame[46] = 0x50;
    let header = VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso_type: GsoType::TcpV4,
        gso_size: 1000,
        ..VnetHeader::WHOLE
    };
    (header, frame)
}

#[test]
fn a_frame_reaches_every_port_but_its_own() {
    let (_hub, mut cards) = hub_of_cables(4);
    for sender in 0..4 {
        let frame = [sender as u8; 60];
        assert_eq!(send(&mut *cards[sender], VnetHeader::WHOLE, &frame), 1);
        for (index, card) in cards.iter_mut().enumerate() {
            if index != sender {
                assert_eq!(receive(&mut **card).1, frame);
            }
        }
    }
    assert!(cards.iter_mut().all(|card| try_receive(&mut **card).is_none()));
}

#[test]
fn a_long_frame_is_cut_only_for_ports_that_need_it() {
    let (hub, mut cards) = hub_of_cables(3);
    cards[1].accept(Offloads::ALL).unwrap();
    let (header, frame) = long_frame(2500);
    send(&mut *cards[0], header, &frame);
    assert_eq!(receive(&mut *cards[1]), (header, frame));
    let lengths: Vec<_> = (0..3).map(|_| receive(&mut *cards[2])).map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(lengths, [1054, 1054, 554]);
    let counters = hub.counters();
    assert_eq!(counters.iter().map(|port| port.counters.tx_frames).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(counters[2].name, "pair://card2/1");
}

#[test]
fn a_full_port_drops_and_does_not_hold_up_the_others() {
    let (hub, mut cards) = hub_of_cables(3);
    for number in 0..5000u32 {
        let mut frame = [0; 60];
        frame[..4].copy_from_slice(&number.to_be_bytes());
        assert_eq!(send(&mut *cards[0], VnetHeader::WHOLE, &frame), 1);
        assert_eq!(receive(&mut *cards[1]).1, frame);
    }
    let counters = hub.counters();
    let full = counters[2].counters.drops.get(DropReason::LinkFull);
    assert_eq!((counters[2].counters.tx_frames + full, counters[1].counters.drops.total()), (5000, 0));
    assert!(full > 0);
}

#[test]
fn a_dropped_hub_takes_the_carrier_with_it() {
    let (hub, cards) = hub_of_cables(2);
    assert_eq!(cards[0].state(), LinkState::Up);
    drop(hub);
    assert!(cards.iter().all(|card| card.state() == LinkState::Down));
}

#[test]
fn a_hub_without_ports_and_one_with_a_single_port_do_nothing() {
    assert_eq!(Hub::start(Vec::new()).unwrap().counters(), []);
    let (hub, mut cards) = hub_of_cables(1);
    send(&mut *cards[0], VnetHeader::WHOLE, &[1; 60]);
    assert!(try_receive(&mut *cards[0]).is_none());
    drop(hub);
}

/// A link that says nothing by readiness: it answers what is sent to it, and speaks when its deadline comes.
#[derive(Default)]
struct Silent {
    answers: VecDeque<Vec<u8>>,
    deadline: Option<Instant>,
    fails: bool,
    services: Arc<AtomicUsize>,
}

impl Link for Silent {
    fn name(&self) -> &str {
        "silent://"
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
    fn service(&mut self, now: Instant) -> io::Result<()> {
        self.services.fetch_add(1, Ordering::Relaxed);
        if self.deadline.take_if(|deadline| *deadline <= now).is_some() {
            self.answers.push_back(b"the deadline has come".to_vec());
        }
        Ok(())
    }
    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if self.fails {
            return Err(io::Error::other("broken"));
        }
        for frame in batch.frames() {
            let mut answer = b"answer to ".to_vec();
            frame.append_to(&mut answer);
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
            let _ = slot.write(VnetHeader::WHOLE, &[&answer]);
        }
        Ok(batch.filled() - before)
    }
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

#[test]
fn answers_that_a_link_makes_while_it_takes_frames_are_fetched() {
    let (mut card, port) = cable("card").unwrap();
    let _hub = Hub::start(vec![port, Box::<Silent>::default()]).unwrap();
    for _ in 0..100 {
        send(&mut *card, VnetHeader::WHOLE, b"a question of 23 bytes");
        assert_eq!(receive(&mut *card).1, b"answer to a question of 23 bytes");
    }
}

#[test]
fn a_deadline_is_kept_and_otherwise_the_hub_sleeps() {
    let (mut card, port) = cable("card").unwrap();
    let services = Arc::new(AtomicUsize::new(0));
    let deadline = Some(Instant::now() + Duration::from_millis(100));
    let silent = Silent { deadline, services: Arc::clone(&services), ..Silent::default() };
    let _hub = Hub::start(vec![port, Box::new(silent)]).unwrap();
    assert_eq!(receive(&mut *card).1, b"the deadline has come");
    assert!(Some(Instant::now()) >= deadline);
    assert_eq!(services.load(Ordering::Relaxed), 1, "woken once");
}

#[test]
fn a_port_whose_link_fails_is_closed_and_the_others_go_on() {
    let (mut cards, mut ports): (Vec<_>, Vec<_>) = (0..2).map(|_| cable("card").unwrap()).unzip();
    ports.push(Box::new(Silent { fails: true, ..Silent::default() }));
    ports.push(Box::<Null>::default());
    let hub = Hub::start(ports).unwrap();
    for _ in 0..3 {
        send(&mut *cards[0], VnetHeader::WHOLE, &[7; 60]);
        assert_eq!(receive(&mut *cards[1]).1, [7; 60]);
    }
    assert_eq!(hub.counters()[3].counters.tx_frames, 3);
}
