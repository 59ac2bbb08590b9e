//! Tests of the link: two stations in memory, one behind an impaired link. Where time matters, they wait for the link's
//! readiness as an owner does.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use link::{Checksum, Locator, PairEnd, Soft, VnetHeader, pair};
use mio::event::Event;

use super::*;

const TOKEN: Token = Token(7);
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(query: &str) -> ImpairConfig {
    let mut locator: Locator = format!("impair://{{null://}}?{query}").parse().unwrap();
    let config = ImpairConfig::take_from(&mut locator.options).unwrap();
    locator.options.finish().unwrap();
    config
}

/// A number and padding, behind an Ethernet header.
fn frame(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 100];
    bytes[14..18].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

/// An owner with an event loop, its impaired link, and the station behind it.
struct World {
    poll: Poll,
    link: Soft<Impair<Soft<PairEnd>>>,
    far: PairEnd,
    /// How often the owner was woken.
    wakes: usize,
}

impl World {
    fn new(query: &str) -> Self {
        Self::with_config(&config(query))
    }

    fn with_config(config: &ImpairConfig) -> Self {
        let (near, mut far) = pair("test").unwrap();
        far.accept(Offloads::ALL).unwrap();
        let mut link = Soft::new(Impair::open(Soft::new(near), config).unwrap());
        let poll = Poll::new().unwrap();
        link.accept(Offloads::ALL).unwrap();
        link.register(poll.registry(), TOKEN).unwrap();
        Self { poll, link, far, wakes: 0 }
    }

    /// Waits for readiness, as long as said, and serves the link.
    fn turn(&mut self, time: Duration) {
        let mut events = Events::with_capacity(8);
        self.poll.poll(&mut events, Some(time)).unwrap();
        if events.iter().map(Event::token).any(|token| token == TOKEN) {
            self.wakes += 1;
            self.link.service(Instant::now()).unwrap();
        }
    }

    /// Goes on until something holds.
    fn until(&mut self, mut holds: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE);
            self.turn(Duration::from_millis(100));
        }
    }

    fn send(&mut self, frames: impl IntoIterator<Item = u32>) -> usize {
        send(&mut self.link, frames)
    }

    /// What the far station has got.
    fn heard(&mut self) -> Vec<u32> {
        receive(&mut self.far).iter().map(|(_, bytes)| number(bytes)).collect()
    }

    /// What the owner gets.
    fn received(&mut self) -> Vec<u32> {
        receive(&mut self.link).iter().map(|(_, bytes)| number(bytes)).collect()
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.link.counters().drops.get(reason)
    }
}

fn send(link: &mut impl Link, frames: impl IntoIterator<Item = u32>) -> usize {
    let frames: Vec<_> = frames.into_iter().map(frame).collect();
    let mut batch = TxBatch::new();
    frames.iter().for_each(|bytes| batch.push(VnetHeader::WHOLE, [Fragment::new(bytes)]));
    link.send(&batch).unwrap()
}

/// Receives until there is nothing more.
fn receive(link: &mut impl Link) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let mut buffers = vec![vec![0; MAX_FRAME_LEN]; 4];
        let mut batch = RxBatch::new();
        buffers.iter_mut().for_each(|buffer| batch.push([FragmentMut::new(buffer)]));
        let received = link.receive(&mut batch).unwrap();
        let frames: Vec<_> = batch.frames().collect();
        all.extend(buffers.into_iter().zip(frames).map(|(buffer, (header, len))| (header, buffer[..len].to_vec())));
        if received < 4 {
            return all;
        }
    }
}

#[test]
fn with_nothing_set_frames_go_straight_through() {
    let mut world = World::new("");
    assert_eq!(world.send([1, 2]), 2);
    assert_eq!(world.heard(), [1, 2]);
    send(&mut world.far, [3]);
    assert_eq!(world.received(), [3]);
    assert_eq!(world.link.native_offloads(), Offloads::ALL);
    assert_eq!(world.link.name(), "impair://{pair://test/0}");
}

#[test]
fn both_directions_are_delayed_and_the_owner_is_woken_in_time() {
    let mut world = World::new("tx.delay=30ms&rx.delay=60ms");
    let begun = Instant::now();
    world.send([1]);
    send(&mut world.far, [2]);
    world.until(|world| {
        world.received();
        world.heard() == [1]
    });
    let heard = begun.elapsed();
    world.until(|world| world.received() == [2]);
    let received = begun.elapsed();
    assert!(heard >= Duration::from_millis(30) && received >= Duration::from_millis(60), "{heard:?} {received:?}");
}

#[test]
fn a_sender_does_not_make_the_link_forget_what_is_to_be_received() {
    let mut world = World::new("tx.delay=1000s&rx.delay=10ms");
    send(&mut world.far, [1]);
    assert!(world.received().is_empty());
    world.turn(Duration::ZERO);
    // It becomes due while the owner is busy, and sends.
    std::thread::sleep(Duration::from_millis(20));
    world.send([2]);
    let before = world.wakes;
    world.until(|world| world.wakes > before);
    assert_eq!(world.received(), [1]);
}

#[test]
fn an_owner_that_never_sleeps_longer_sees_frames_no_earlier_than_they_are_due() {
    let mut world = World::new("delay=20ms");
    let begun = Instant::now();
    world.send([1]);
    while world.heard().is_empty() {
        let before = begun.elapsed();
        world.link.service(Instant::now()).unwrap();
        assert!(before < PATIENCE);
    }
    assert!(begun.elapsed() >= Duration::from_millis(20));
}

#[test]
fn an_idle_link_wakes_nobody() {
    let mut world = World::new("delay=10ms&rate=10mbit");
    world.send(0..10);
    world.until(|world| world.heard().contains(&9));
    world.turn(Duration::ZERO);
    let before = world.wakes;
    world.turn(Duration::from_millis(200));
    assert_eq!((world.wakes, world.link.deadline()), (before, None));
}

#[test]
fn the_same_seed_loses_the_same_frames_each_way() {
    let survivors = || {
        let mut world = World::new("loss=20%&seed=5");
        world.send(0..500);
        send(&mut world.far, 0..500);
        let all = (world.heard(), world.received());
        assert_eq!(world.drops(DropReason::Impaired), 1000 - (all.0.len() + all.1.len()) as u64);
        all
    };
    let (tx, rx) = survivors();
    assert_eq!((tx.clone(), rx.clone()), survivors());
    assert!(tx != rx && (370..430).contains(&tx.len()) && (370..430).contains(&rx.len()));
}

#[test]
fn duplicates_and_damaged_frames_arrive() {
    let mut world = World::new("tx.duplicate=100%&rx.corrupt=100%");
    world.send([1, 2]);
    assert_eq!(world.heard(), [1, 1, 2, 2]);
    send(&mut world.far, [3]);
    let (header, bytes) = receive(&mut world.link).pop().unwrap();
    assert_eq!(header, VnetHeader::WHOLE);
    let inverted: u32 = bytes.iter().zip(frame(3)).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!(inverted, 1);
}

#[test]
fn long_frames_are_segmented_before_they_are_impaired() {
    // TCP over IPv4, 4 segments of 1000 bytes.
    let mut long = vec![0; 14 + 20 + 20 + 4000];
    long[12..14].copy_from_slice(&[8, 0]);
    long[14] = 0x45;
    long[16..18].copy_from_slice(&4040_u16.to_be_bytes());
    long[22..24].copy_from_slice(&[64, 6]);
    long[46] = 0x50;
    let header = VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso_type: link::GsoType::TcpV4,
        gso_size: 1000,
        hdr_len: 54,
        ecn: false,
    };
    let exchange = |world: &mut World| {
        let mut batch = TxBatch::new();
        batch.push(header, [Fragment::new(&long)]);
        world.link.send(&batch).unwrap();
        // The far station has no software that would cut for it: it sends what it is told is accepted.
        if world.far.capabilities().offloads.permit(&header) {
            world.far.send(&batch).unwrap();
        }
        (receive(&mut world.far), receive(&mut world.link))
    };
    let mut world = World::new("tx.mtu=9000");
    let (heard, received) = exchange(&mut world);
    assert_eq!(heard.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [1054; 4]);
    assert!(heard.iter().all(|(header, _)| *header == VnetHeader::WHOLE));
    assert_eq!(received, [(header, long.clone())]);
    assert_eq!(world.link.native_offloads(), Offloads::NONE);
    let mut world = World::new("rx.loss=50%");
    assert_eq!(world.far.capabilities().offloads, Offloads::NONE);
    assert_eq!(exchange(&mut world).0, [(header, long.clone())]);
    // What was on its way before the settings changed is cut, too.
    let (near, mut far) = pair("changed").unwrap();
    let mut link = Impair::open(Soft::new(near), &config("")).unwrap();
    link.accept(Offloads::ALL).unwrap();
    assert!(receive(&mut link).is_empty());
    let mut batch = TxBatch::new();
    batch.push(header, [Fragment::new(&long)]);
    far.send(&batch).unwrap();
    link.execute("set duplicate=100%", Instant::now()).unwrap();
    link.service(Instant::now()).unwrap();
    assert_eq!(receive(&mut link).iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [1054; 8]);
}

#[test]
fn a_full_queue_and_a_small_mtu_lose_frames_under_their_own_names() {
    let mut world = World::new("tx.delay=1000s&tx.limit=3");
    assert_eq!(world.send(0..5), 5);
    assert_eq!(world.drops(DropReason::LinkFull), 2);
    let mut world = World::new("mtu=85");
    assert_eq!((world.send([1]), world.drops(DropReason::Oversized)), (1, 1));
    assert!(world.heard().is_empty());
}

#[test]
fn a_sender_is_held_up_and_told_when_to_go_on() {
    let mut world = World::new("tx.speed=80kbit");
    // 10 ms a frame.
    let begun = Instant::now();
    let mut sent = 0;
    world.until(|world| {
        sent += world.send(sent as u32..10);
        sent == 10
    });
    assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    assert_eq!(world.heard(), Vec::from_iter(0..10));
    assert_eq!(world.link.counters().drops.total(), 0);
}

#[test]
fn frames_stay_in_the_inner_link_as_long_as_the_speed_does_not_take_them() {
    let mut world = World::new("rx.speed=80kbit");
    send(&mut world.far, 0..10);
    let (begun, mut all) = (Instant::now(), Vec::new());
    world.until(|world| {
        all.extend(world.received());
        all.len() == 10
    });
    assert!(begun.elapsed() >= Duration::from_millis(80), "{:?}", begun.elapsed());
    assert_eq!(all, Vec::from_iter(0..10));
}

#[test]
fn frames_that_the_inner_link_does_not_take_wait_for_room() {
    let mut world = World::new("tx.delay=1ms");
    assert_eq!(world.send(0..1500), 1500);
    // The pair holds 1024.
    let mut heard = Vec::new();
    world.until(|world| {
        world.turn(Duration::from_millis(5));
        heard.extend(world.heard());
        heard.len() == 1500
    });
    assert!(heard.is_sorted());
    assert_eq!(world.link.counters().drops.total(), 0);
}

#[test]
fn a_station_that_floods_does_not_keep_the_owner() {
    let mut world = World::new("rx.delay=1000s");
    send(&mut world.far, 0..1000);
    assert!(world.received().is_empty());
    let waiting = world.link.inner().rx.waiting().frames;
    assert_eq!(waiting, MAX_PULL);
    world.until(|world| {
        world.received();
        world.link.inner().rx.waiting().frames == 1000
    });
}

/// A control socket's place that goes with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("impair-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control")
    }

    fn config(&self, query: &str) -> ImpairConfig {
        ImpairConfig { control: Some(self.socket()), ..config(query) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asks while the owner runs.
fn ask(world: &mut World, place: &Place, line: &'static str) -> io::Result<String> {
    let path = place.socket();
    let asking = std::thread::spawn(move || crate::control::ask(&path, line));
    world.until(|_| asking.is_finished());
    asking.join().unwrap()
}

#[test]
fn settings_change_while_frames_pass() {
    let place = Place::new("change");
    let mut world = World::with_config(&place.config("seed=3"));
    assert_eq!(world.link.native_offloads(), Offloads::ALL);
    assert_eq!(ask(&mut world, &place, "set tx.loss=100% delay=5ms seed=9").unwrap(), "ok\n");
    assert_eq!(world.link.native_offloads(), Offloads::NONE);
    assert_eq!(world.far.capabilities().offloads, Offloads::NONE);
    world.send(0..10);
    world.turn(Duration::from_millis(20));
    assert!(world.heard().is_empty());
    let shown = ask(&mut world, &place, "show").unwrap();
    for words in
        ["impair://{pair://test/0}", "seed=9", "tx: delay=5ms loss=100%", "rx: delay=5ms\n", "10 frames: 10 lost"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let json: Value = serde_json::from_str(&ask(&mut world, &place, "show --json").unwrap()).unwrap();
    assert_eq!(json["tx"]["settings"], json!({"delay": "5ms", "loss": "100%"}));
    assert_eq!((&json["tx"]["drops"]["impaired"], &json["seed"]), (&json!(10), &json!(9)));
    assert_eq!(ask(&mut world, &place, "reset").unwrap(), "ok\n");
    assert_eq!(world.link.native_offloads(), Offloads::ALL);
    world.send([11]);
    assert_eq!(world.heard(), [11]);
}

#[test]
fn a_line_sets_all_or_nothing() {
    let place = Place::new("nothing");
    let mut world = World::with_config(&place.config("loss=1%"));
    let before = world.link.inner().sides();
    for (line, words) in [
        ("set delay=1s colour=red", "colour=red: no such setting; help lists them"),
        ("set delay=1s loss=200%", "loss=200%: expected a percentage"),
        ("set rx.delay=1s rx.gemodel=1%", "rx.gemodel=1%,99%,100%,0%: it takes the place of loss and burst"),
        ("set delay=1s seed=x", "seed=x: expected a number"),
        ("blackhole soon", "blackhole=soon: expected a time"),
        ("sing", "'sing': expected set, show, blackhole, reset or help"),
    ] {
        let error = ask(&mut world, &place, line).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with(words), "{line}: {error}");
    }
    assert_eq!(world.link.inner().sides(), before);
    assert!(ask(&mut world, &place, "help").unwrap().contains("  delay=TIME\n"));
}

#[test]
fn a_blackhole_from_the_control_socket_ends() {
    let place = Place::new("blackhole");
    let mut world = World::with_config(&place.config(""));
    let begun = Instant::now();
    ask(&mut world, &place, "blackhole 0.2").unwrap();
    world.send([1]);
    assert!(begun.elapsed() > Duration::from_millis(200) || world.heard().is_empty());
    std::thread::sleep(Duration::from_millis(200));
    world.send([2]);
    assert_eq!(world.heard(), [2]);
}

#[test]
fn the_control_socket_is_private_and_goes_with_the_link() {
    let place = Place::new("private");
    // Left behind by one that has died.
    drop(UnixListener::bind(place.socket()).unwrap());
    let world = World::with_config(&place.config(""));
    assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let (near, _far) = pair("second").unwrap();
    let error = Impair::open(near, &place.config("")).map(drop).unwrap_err().to_string();
    assert!(error.contains("another program listens there"), "{error}");
    drop(world);
    assert!(!fs::exists(place.socket()).unwrap());
}

#[test]
fn nobody_at_the_control_socket_holds_up_the_link() {
    let place = Place::new("hostile");
    let mut world = World::with_config(&place.config("loss=1%"));
    let connect = || {
        let stream = UnixStream::connect(place.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    // Asks and asks, and reads no answer.
    let mut greedy = connect();
    while greedy.write(b"help\n").is_ok_and(|len| len > 0) {}
    // Never ends a line.
    let mut endless = connect();
    endless.write_all(&[b'x'; 2 * crate::control::MAX_LINE]).unwrap();
    world.turn(Duration::from_millis(100));
    world.turn(Duration::from_millis(100));
    assert!(ask(&mut world, &place, "show").is_ok());
    endless.set_nonblocking(false).unwrap();
    endless.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(endless.read(&mut [0; 100]), Ok(0) | Err(_)));
    // Many come and say nothing.
    let idle: Vec<_> = (0..3 * crate::control::MAX_CLIENTS)
        .map(|_| {
            world.turn(Duration::from_millis(5));
            connect()
        })
        .collect();
    assert!(ask(&mut world, &place, "show").is_ok());
    // Answers that were not read make nobody spin.
    world.turn(Duration::ZERO);
    let before = world.wakes;
    world.turn(Duration::from_millis(100));
    assert_eq!(world.wakes, before);
    drop(idle);
}

#[test]
fn several_lines_are_answered_in_order() {
    let place = Place::new("lines");
    let mut world = World::with_config(&place.config(""));
    let mut stream = UnixStream::connect(place.socket()).unwrap();
    let lines = "set delay=1ms\n\nset x=1\nshow --json\n".repeat(20);
    stream.write_all(lines.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let reading = std::thread::spawn(move || {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    world.until(|_| reading.is_finished());
    let answer = reading.join().unwrap();
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines.len(), 60);
    for answers in lines.chunks(3) {
        assert_eq!((answers[0], &answers[1][..7]), ("ok", "error: "));
        assert!(answers[2].starts_with('{'));
    }
}
