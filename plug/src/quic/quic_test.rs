//! Two ends over loopback, with a relay between them that loses, repeats and invents datagrams.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::PathBuf;

use link::{Checksum, Fragment, FragmentMut, VnetHeader};
use mio::{Events, Poll};

use super::*;

const LOCAL: &str = "127.0.0.1:0";
const ENOUGH: Duration = Duration::from_secs(20);

/// Both ends and what drives them.
struct Bench {
    poll: Poll,
    links: Vec<Quic>,
    relay: Option<Relay>,
    /// What each end has received.
    received: Vec<Vec<(VnetHeader, Vec<u8>)>>,
}

impl Bench {
    fn new(links: Vec<Quic>, relay: Option<Relay>) -> Self {
        let poll = Poll::new().unwrap();
        let mut bench = Self { poll, links: Vec::new(), relay, received: Vec::new() };
        if let Some(relay) = &bench.relay {
            let fd = relay.socket.as_raw_fd();
            bench.poll.registry().register(&mut SourceFd(&fd), Token(99), Interest::READABLE).unwrap();
        }
        links.into_iter().for_each(|link| bench.add(link));
        bench
    }

    fn add(&mut self, mut link: Quic) {
        link.register(self.poll.registry(), Token(self.links.len())).unwrap();
        self.links.push(link);
        self.received.push(Vec::new());
    }

    /// One pass of the loop.
    fn turn(&mut self) {
        let now = Instant::now();
        let deadline = self.links.iter().filter_map(Link::deadline).min();
        let longest = Duration::from_millis(20);
        let wait = deadline.map_or(longest, |deadline| deadline.saturating_duration_since(now).min(longest));
        self.poll.poll(&mut Events::with_capacity(8), Some(wait)).unwrap();
        if let Some(relay) = &mut self.relay {
            relay.carry();
        }
        let mut memory = vec![0; MAX_FRAME_LEN];
        for (link, received) in self.links.iter_mut().zip(&mut self.received) {
            link.service(Instant::now()).unwrap();
            loop {
                let mut batch = RxBatch::new();
                batch.push([FragmentMut::new(&mut memory)]);
                if link.receive(&mut batch).unwrap() == 0 {
                    break;
                }
                let (header, len) = batch.frames().next().unwrap();
                let mut frame = vec![0; len];
                batch.copy_to(0, 0, &mut frame);
                received.push((header, frame));
            }
        }
    }

    fn run_until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < ENOUGH, "not after {ENOUGH:?}: {what}");
            self.turn();
        }
    }

    fn run_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.turn();
        }
    }

    fn connect(&mut self) {
        self.run_until("both ends are up", |bench| bench.links.iter().all(|link| link.state() == LinkState::Up));
    }

    fn send(&mut self, link: usize, header: VnetHeader, frame: &[u8]) {
        let mut batch = TxBatch::new();
        batch.push(header, [Fragment::new(frame)]);
        assert_eq!(self.links[link].send(&batch).unwrap(), 1);
    }

    fn drops(&self, link: usize, reason: DropReason) -> u64 {
        self.links[link].counters().drops.get(reason)
    }
}

/// Stands between the two: what comes from the one it knows goes to the other, unless it is lost.
struct Relay {
    socket: UdpSocket,
    listener: SocketAddr,
    connector: Option<SocketAddr>,
    dice: u64,
    /// Of a thousand.
    loss: u64,
    /// Every datagram goes twice, and once more in the end.
    replay: bool,
    seen: Vec<Vec<u8>>,
}

impl Relay {
    fn new(listener: SocketAddr, loss: u64, replay: bool) -> Self {
        let socket = UdpSocket::bind(LOCAL).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, listener, connector: None, dice: 5, loss, replay, seen: Vec::new() }
    }

    fn carry(&mut self) {
        let mut buffer = vec![0; 65536];
        while let Ok((len, from)) = self.socket.recv_from(&mut buffer) {
            self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let to = if from == self.listener { self.connector } else { Some(self.listener) };
            if from != self.listener {
                self.connector = Some(from);
            }
            let Some(to) = to.filter(|_| (self.dice >> 33) % 1000 >= self.loss) else { continue };
            for _ in 0..=u8::from(self.replay) {
                self.socket.send_to(&buffer[..len], to).unwrap();
            }
            if self.replay && to == self.listener {
                self.seen.push(buffer[..len].to_vec());
            }
        }
    }
}

fn identity() -> Identity {
    Identity::ephemeral().unwrap()
}

fn listener(own: &Identity, peer: &Identity) -> Quic {
    listener_at(LOCAL.parse().unwrap(), own, peer)
}

fn listener_at(address: SocketAddr, own: &Identity, peer: &Identity) -> Quic {
    let config = QuicConfig::new("quic://listener".into(), Role::Listen(address), own.clone(), peer.fingerprint());
    Quic::open(&QuicConfig { mtu: 9000, ..config }).unwrap()
}

fn connector(to: SocketAddr, own: &Identity, peer: &Identity) -> Quic {
    let role = Role::Connect(to.to_string());
    let config = QuicConfig::new("quic://connector".into(), role, own.clone(), peer.fingerprint());
    Quic::open(&QuicConfig { mtu: 9000, ..config }).unwrap()
}

fn pair(loss: u64, replay: bool) -> Bench {
    let (a, b) = (identity(), identity());
    let far = listener(&b, &a);
    let relay = Relay::new(far.local_addr().unwrap(), loss, replay);
    let near = connector(relay.socket.local_addr().unwrap(), &a, &b);
    Bench::new(vec![near, far], Some(relay))
}

/// A UDP frame's beginning is not looked at; its number is.
fn plain(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; len];
    frame[..12].fill(2);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A TCP segment of 10.0.0.1 to 10.0.0.2, to be cut.
fn segment(number: u32, len: usize) -> (VnetHeader, Vec<u8>) {
    let mut frame = vec![0x5a; len];
    let head = [8, 0, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 9, 9, 0, 80];
    frame[12..38].copy_from_slice(&head);
    frame[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
    frame[38..42].copy_from_slice(&number.to_be_bytes());
    frame[46..48].copy_from_slice(&[0x50, 0x10]);
    let checksum = Checksum::Partial { start: 34, offset: 16 };
    (VnetHeader { checksum, gso_type: GsoType::TcpV4, gso_size: 1448, ..VnetHeader::WHOLE }, frame)
}

#[test]
fn frames_of_every_size_cross_with_their_headers() {
    let mut bench = pair(0, false);
    assert_eq!(bench.links[0].state(), LinkState::Down);
    bench.send(0, VnetHeader::WHOLE, &plain(0, 60));
    assert_eq!(bench.drops(0, DropReason::LinkDown), 1);
    bench.connect();
    let mut sent = Vec::new();
    for (number, len) in (1..).zip([14 + 4, 60, 1514, 9014]) {
        sent.push((VnetHeader::WHOLE, plain(number, len)));
    }
    sent.push(segment(9, 60_000));
    for from in [0, 1] {
        sent.iter().for_each(|(header, frame)| bench.send(from, *header, frame));
        bench.run_until("all is there", |bench| bench.received[1 - from].len() == sent.len());
        let mut received = std::mem::take(&mut bench.received[1 - from]);
        received.sort_by_key(|(_, frame)| frame.len());
        assert!(received == sent);
        bench.send(from, VnetHeader::WHOLE, &plain(1, 9100));
        assert_eq!(bench.drops(from, DropReason::Oversized), 1);
    }
    let counters = bench.links[0].counters();
    assert_eq!((counters.tx_frames, counters.rx_frames), (5, 5));
    assert_eq!(counters.tx_bytes, sent.iter().map(|(_, frame)| frame.len() as u64).sum::<u64>());
}

#[test]
fn segments_are_all_there_in_order_and_datagrams_are_lost_alone() {
    let mut bench = pair(30, false);
    bench.connect();
    for number in 0..500 {
        let (header, frame) = segment(number, 20_000);
        bench.send(0, header, &frame);
        bench.send(0, VnetHeader::WHOLE, &plain(number, 1000));
        bench.run_for(Duration::from_millis(2));
    }
    let is_tcp = |frame: &[u8]| frame[12..14] == [8, 0];
    let dropped = bench.drops(0, DropReason::LinkFull) as usize;
    bench.run_until("all segments are there", |bench| {
        bench.received[1].iter().filter(|(_, frame)| is_tcp(frame)).count() + dropped >= 500
    });
    let number = |at: usize, frame: &[u8]| u32::from_be_bytes(*frame[at..].first_chunk().unwrap());
    let (tcp, other): (Vec<_>, Vec<_>) = bench.received[1].iter().partition(|(_, frame)| is_tcp(frame));
    let numbers: Vec<_> = tcp.iter().map(|(_, frame)| number(38, frame)).collect();
    assert!(numbers.is_sorted());
    let others: BTreeSet<_> = other.iter().map(|(_, frame)| number(14, frame)).collect();
    assert_eq!(others.len(), other.len(), "one came twice");
    assert!((400..500).contains(&others.len()), "{}", others.len());
}

#[test]
fn replayed_and_invented_datagrams_reach_nobody() {
    let mut bench = pair(0, true);
    bench.connect();
    for number in 0..20 {
        bench.send(0, VnetHeader::WHOLE, &plain(number, 3000));
    }
    bench.run_until("all is there", |bench| bench.received[1].len() == 20);
    let relay = bench.relay.as_ref().unwrap();
    for datagram in &relay.seen {
        relay.socket.send_to(datagram, relay.listener).unwrap();
    }
    let stranger = UdpSocket::bind(LOCAL).unwrap();
    let mut first = relay.seen[0].clone();
    for number in 0..200_u8 {
        // The beginning of a handshake that will not go on, from addresses that do not answer, and nonsense.
        first[10] = number;
        stranger.send_to(&first, relay.listener).unwrap();
        stranger.send_to(&[number; 50], relay.listener).unwrap();
        bench.links[1].service(Instant::now()).unwrap();
    }
    bench.run_for(Duration::from_millis(200));
    assert_eq!((bench.received[1].len(), bench.links[1].state()), (20, LinkState::Up));
    assert!(bench.drops(1, DropReason::Malformed) >= 200);
    assert!(bench.links[1].sessions.len() <= 1 + MAX_PENDING);
    bench.send(0, VnetHeader::WHOLE, &plain(99, 60));
    bench.run_until("it still carries", |bench| bench.received[1].len() == 21);
}

#[test]
fn a_wrong_key_is_refused_at_either_end_and_harms_nobody() {
    let (a, b, c) = (identity(), identity(), identity());
    let far = listener(&b, &a);
    let to = far.local_addr().unwrap();
    let stranger = connector(to, &c, &b);
    // The right one, which expects another at the far side.
    let misled = connector(to, &a, &c);
    let mut bench = Bench::new(vec![far, stranger, misled], None);
    bench.run_until("both were refused", |bench| {
        bench.drops(0, DropReason::Unserved) >= 1 && bench.drops(2, DropReason::Unserved) >= 1
    });
    bench.run_for(Duration::from_millis(300));
    assert!(bench.links.iter().all(|link| link.state() == LinkState::Down));
    bench.send(1, VnetHeader::WHOLE, &plain(1, 60));
    bench.links.truncate(2);
    bench.add(connector(to, &a, &b));
    bench.run_until("the right one is in", |bench| bench.links[0].state() == LinkState::Up);
    assert_eq!(bench.links[0].peer().map(|(_, key)| key), Some(a.fingerprint()));
    assert!(bench.received[0].is_empty());
}

#[test]
fn the_newest_connection_of_the_peer_counts() {
    let (a, b) = (identity(), identity());
    let far = listener(&b, &a);
    let to = far.local_addr().unwrap();
    let mut bench = Bench::new(vec![far, connector(to, &a, &b)], None);
    bench.connect();
    let before = bench.links[0].peer().unwrap().0;
    bench.add(connector(to, &a, &b));
    bench.run_until("it was replaced", |bench| bench.links[1].state() == LinkState::Down);
    assert_ne!(bench.links[0].peer().unwrap().0, before);
    bench.send(2, VnetHeader::WHOLE, &plain(7, 60));
    bench.run_until("frames come from the new one", |bench| bench.received[0].len() == 1);
}

#[test]
fn an_end_that_was_started_anew_is_found_again() {
    let (a, b) = (identity(), identity());
    let far = listener(&b, &a);
    let to = far.local_addr().unwrap();
    let mut bench = Bench::new(vec![connector(to, &a, &b), far], None);
    bench.connect();
    // It says good-bye.
    drop(bench.links.pop());
    bench.received.pop();
    bench.run_until("the carrier is gone", |bench| bench.links[0].state() == LinkState::Down);
    bench.add(listener_at(to, &b, &a));
    bench.connect();
    // It dies without a word, and answers the old connection's packets when it is back.
    let dead = bench.links.pop().unwrap();
    bench.received.pop();
    bench.links[0].deregister(bench.poll.registry()).unwrap();
    bench.links[0].register(bench.poll.registry(), Token(0)).unwrap();
    let Quic { socket, .. } = &dead;
    let fd = socket.as_raw_fd();
    // SAFETY: both are open; the socket behind the old number is closed by it.
    let _ = unsafe { libc::dup2(UdpSocket::bind(LOCAL).unwrap().as_raw_fd(), fd) };
    drop(dead);
    bench.add(listener_at(to, &b, &a));
    bench.send(0, VnetHeader::WHOLE, &plain(1, 60));
    bench.connect();
}

#[test]
fn the_first_is_trusted_and_written_down() {
    let known: PathBuf = std::env::temp_dir().join(format!("quic-first-{}", std::process::id()));
    let (a, b, c) = (identity(), identity(), identity());
    let trusting = |first| Peer::Known { path: Some(known.clone()), first };
    let listen = |first| {
        let config = QuicConfig::new("l".into(), Role::Listen(LOCAL.parse().unwrap()), b.clone(), b.fingerprint());
        Quic::open(&QuicConfig { peer: trusting(first), ..config }).unwrap()
    };
    let far = listen(true);
    let to = far.local_addr().unwrap();
    let mut bench = Bench::new(vec![far, connector(to, &a, &b)], None);
    bench.connect();
    let text = std::fs::read_to_string(&known).unwrap();
    assert_eq!(text, format!("listen={LOCAL} {}\n", a.fingerprint()));
    let far = listen(false);
    let to = far.local_addr().unwrap();
    let mut bench = Bench::new(vec![far, connector(to, &c, &b)], None);
    bench.run_until("another is refused", |bench| bench.drops(0, DropReason::Unserved) == 1);
    bench.links.truncate(1);
    bench.add(connector(to, &a, &b));
    bench.connect();
    std::fs::remove_file(known).unwrap();
}

#[test]
fn an_idle_cable_sleeps_until_it_has_to_say_something() {
    let (a, b) = (identity(), identity());
    let far = listener(&b, &a);
    let to = far.local_addr().unwrap();
    let mut bench = Bench::new(vec![connector(to, &a, &b), far], None);
    bench.connect();
    bench.run_for(Duration::from_millis(1500));
    let now = Instant::now();
    for link in &bench.links {
        let wait = link.deadline().unwrap().saturating_duration_since(now);
        assert!(wait > Duration::from_secs(1), "{wait:?}");
    }
}
