//! Many clients that come and go at random, while two hosts exchange data: nothing is lost but what is counted, and nothing
//! is left when they are gone.
//!
//! No frame is sent to those that come and go, so no address may be unknown and nothing is broadcast: a frame for a client
//! that has left makes the kernel discard what that client had sent and the switch has not yet received (Linux
//! `unix_dgram_disconnected`), and nobody can count that.
//!
//! `VSWITCH_CHURN_CLIENTS` (200) and `VSWITCH_CHURN_SECONDS` (10) say how many and how long.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, free_path, request};
use netlab::process::Switch;
use netlab::station::{Station, frame, number_of};
use netlab::world::{Host, PATIENCE, Transfer, lab_within, wait_until};

/// Threads that the clients are shared out to.
const WORKERS: u64 = 4;
/// What the switch may keep of what it has once needed, in KiB.
const SLACK: u64 = 8 * 1024;

#[test]
fn clients_that_come_and_go_lose_nothing_uncounted_and_leave_nothing_behind() {
    let (clients, seconds) = (setting("VSWITCH_CHURN_CLIENTS", 200), setting("VSWITCH_CHURN_SECONDS", 10));
    lab_within(Duration::from_secs(seconds + 120), || {
        let options = format!("-n {} -t tap0 -t tap1", clients + 100);
        let switch = Switch::start_by("env ETHERLOOM_LOG=error", "a", &options);
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        let addresses = [address(&left, "tap0"), address(&right, "tap1")];
        left.run(&format!("ip neigh add 10.0.0.2 lladdr {} dev tap0", addresses[1]));
        right.run(&format!("ip neigh add 10.0.0.1 lladdr {} dev tap1", addresses[0]));
        let sink = Client::join(switch.dir());
        let transfer = Transfer::start(&left, &right, "10.0.0.2:5000", u64::MAX);
        sleep(Duration::from_secs(1));
        let before = Level::of(&switch);

        let end = Instant::now() + Duration::from_secs(seconds);
        let is_over = AtomicBool::new(false);
        let (heard, did, peak) = thread::scope(|scope| {
            let (switch, is_over, target) = (&switch, &is_over, sink.address());
            let known = parse(&addresses[0]);
            let sink = scope.spawn(move || count_until(sink, known, is_over));
            let churn = move |seed| Churn::new(switch, seed + 1, clients / WORKERS, target).run(end);
            let workers: Vec<_> = (0..WORKERS).map(|seed| scope.spawn(move || churn(seed))).collect();
            sleep((end - Instant::now()).mul_f32(0.9));
            let peak = Level::of(switch);
            let did = workers.into_iter().map(|worker| worker.join().unwrap()).fold(Deeds::default(), Deeds::plus);
            is_over.store(true, Ordering::Relaxed);
            (sink.join().unwrap(), did, peak)
        });
        let bytes = transfer.stop();
        wait_until("what they have sent has been received", PATIENCE, || received(&switch) >= did.frames);
        wait_until("all have left", PATIENCE, || members(&switch) == 2);
        let after = Level::of(&switch);
        println!("lab: {clients} clients, {seconds} s: {did:?}, and {} MiB between the hosts", bytes >> 20);
        println!("lab: before {before:?}, with clients {peak:?}, after {after:?}");

        assert!(did.joins > clients && bytes > 1 << 20);
        let dropped = switch.port(3)["drops"]["link-full"].as_u64().unwrap_or(0);
        println!("lab: {} frames arrived, {dropped} were dropped for want of room", heard);
        assert_eq!(received(&switch), did.frames, "received by the switch");
        assert!((did.frames - dropped..=did.frames).contains(&heard), "{heard} + {dropped} of {}", did.frames);
        // The sink has left: its two descriptors have gone.
        assert_eq!(after.descriptors, before.descriptors - 2);
        assert!(after.memory < before.memory + SLACK, "{} KiB", after.memory);
        let mut names: Vec<_> = fs::read_dir(switch.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["api", "ctl"]);
    });
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

/// The address of an interface, as text.
fn address(host: &Host, interface: &str) -> String {
    host.run(&format!("cat /sys/class/net/{interface}/address")).trim().to_owned()
}

fn parse(address: &str) -> [u8; 6] {
    let bytes: Vec<u8> = address.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Level {
    descriptors: usize,
    /// Resident, in KiB.
    memory: u64,
}

impl Level {
    fn of(switch: &Switch) -> Self {
        let proc = format!("/proc/{}", switch.process.pid());
        let status = fs::read_to_string(format!("{proc}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            descriptors: fs::read_dir(format!("{proc}/fd")).unwrap().count(),
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }
}

/// What clients have done.
#[derive(Clone, Copy, Debug, Default)]
struct Deeds {
    joins: u64,
    /// Connections that ended before there was a member.
    aborted: u64,
    frames: u64,
}

impl Deeds {
    fn plus(self, other: Self) -> Self {
        Self {
            joins: self.joins + other.joins,
            aborted: self.aborted + other.aborted,
            frames: self.frames + other.frames,
        }
    }
}

/// Some of the clients, and what they do next.
struct Churn<'a> {
    switch: &'a Switch,
    random: u64,
    clients: Vec<Option<Client>>,
    target: [u8; 6],
    did: Deeds,
}

impl<'a> Churn<'a> {
    fn new(switch: &'a Switch, seed: u64, count: u64, target: [u8; 6]) -> Self {
        Self { switch, random: seed, clients: (0..count).map(|_| None).collect(), target, did: Deeds::default() }
    }

    fn run(mut self, end: Instant) -> Deeds {
        while Instant::now() < end {
            self.step();
            sleep(Duration::from_micros(self.below(4000)));
        }
        self.did
    }

    fn step(&mut self) {
        let place = self.below(self.clients.len() as u64) as usize;
        match (self.clients[place].take(), self.below(16)) {
            (None, 0) => {
                // It does not wait for the answer, or does not even say all.
                let mut ctl = UnixStream::connect(self.switch.dir().join("ctl")).unwrap();
                let words = request(&free_path(), b"");
                let len = self.below(words.len() as u64 + 1) as usize;
                let _ = ctl.write_all(&words[..len]);
                self.did.aborted += 1;
            }
            (None, _) => {
                self.clients[place] = Some(Client::join(self.switch.dir()));
                self.did.joins += 1;
            }
            // It leaves with the last word still on its way.
            (Some(mut client), 0..4) => self.speak(&mut client),
            (Some(_), 4..8) => {}
            (Some(mut client), _) => {
                self.speak(&mut client);
                self.clients[place] = Some(client);
            }
        }
    }

    fn speak(&mut self, client: &mut Client) {
        for _ in 0..self.below(20) {
            let len = 46 + self.below(1454) as usize;
            client.send(&frame(self.target, client.address(), 0, len));
            self.did.frames += 1;
        }
    }

    /// A number below `limit` (xorshift64).
    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }
}

/// Counts the frames of the test that arrive, and says every second to a known station where it is, so that the switch
/// does not forget.
fn count_until(mut sink: Client, known: [u8; 6], is_over: &AtomicBool) -> u64 {
    let (mut heard, mut next, mut last) = (0, Instant::now(), Instant::now());
    loop {
        if next <= Instant::now() {
            sink.send(&frame(known, sink.address(), 0, 46));
            next += Duration::from_secs(1);
        }
        match sink.receive() {
            Some(frame) => {
                heard += u64::from(number_of(&frame).is_some());
                last = Instant::now();
            }
            None if is_over.load(Ordering::Relaxed) && last.elapsed() > Duration::from_millis(500) => return heard,
            None => {}
        }
    }
}

/// Frames that the switch has received from clients, but for the sink.
fn received(switch: &Switch) -> u64 {
    let ports = switch.show().into_iter().filter(|port| port["port"].as_u64() > Some(3));
    ports.map(|port| port["receive_frames"].as_u64().unwrap()).sum()
}

fn members(switch: &Switch) -> usize {
    switch.show().iter().map(|port| port["members"].as_array().unwrap().len()).sum()
}
