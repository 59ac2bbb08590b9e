//! A path between two hosts that is as bad as a test wants it: a thread that carries frames between two TAPs.
//!
//! Each direction has a delay, a rate with a queue in front of it that overflows, and losses by a seeded generator: the same
//! frames in the same order meet the same fate. Neighbours: `netlab::world`, for the hosts at both ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use netlab::world::Host;

/// How bad a path is, in each direction.
#[derive(Clone, Copy)]
pub struct Weather {
    /// How long a frame takes.
    pub delay: Duration,
    /// Of a thousand frames so many are lost.
    pub loss: u64,
    /// Bytes in a second; none for no limit.
    pub rate: Option<f64>,
}

/// The queue in front of a rate: frames that wait longer are lost.
const QUEUE: Duration = Duration::from_millis(200);

/// The path; it ends when this is dropped.
pub struct Path {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Path {
    /// Joins two hosts: an interface `wan0` with the first address, and `wan1` with the second.
    pub fn between(left: (&Host, &'static str), right: (&Host, &'static str), weather: Weather) -> Self {
        let ends = [("wan0", left), ("wan1", right)].map(|(name, (host, address))| {
            // The descriptor stays with its interface, wherever that is moved.
            let tap = host.spawn(move || open_tap(name)).join().unwrap();
            host.set_address(name, address);
            tap
        });
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || carry(ends, weather, &stop)
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let outcome = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || outcome.is_some_and(|outcome| outcome.is_ok()));
    }
}

fn open_tap(name: &str) -> File {
    let tap = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap).unwrap();
    // SAFETY: the descriptor is open.
    let copy = unsafe { libc::fcntl(tap.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 0) };
    assert!(copy >= 0);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(copy, libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) }, 0);
    // SAFETY: it is new and ours alone.
    unsafe { File::from_raw_fd(copy) }
}

/// What is on its way in one direction.
struct Direction {
    frames: VecDeque<(Instant, Vec<u8>)>,
    /// When the rate allows another frame.
    free: Instant,
    dice: u64,
}

fn carry(mut ends: [File; 2], weather: Weather, stop: &AtomicBool) {
    let mut poll = Poll::new().unwrap();
    for (token, end) in ends.iter().enumerate() {
        poll.registry().register(&mut SourceFd(&end.as_raw_fd()), Token(token), Interest::READABLE).unwrap();
    }
    let mut events = Events::with_capacity(4);
    let mut directions = [7, 11].map(|dice| Direction { frames: VecDeque::new(), free: Instant::now(), dice });
    let mut buffer = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let due = directions.iter().filter_map(|direction| direction.frames.front().map(|(at, _)| *at)).min();
        let wait = due.map_or(Duration::from_millis(100), |due| due.saturating_duration_since(Instant::now()));
        poll.poll(&mut events, Some(wait.min(Duration::from_millis(100)))).ok();
        for from in 0..2 {
            loop {
                match ends[from].read(&mut buffer) {
                    Ok(len) => directions[from].take(&buffer[..len], weather),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        let now = Instant::now();
        for (from, direction) in directions.iter_mut().enumerate() {
            while direction.frames.front().is_some_and(|(at, _)| *at <= now) {
                let (_, frame) = direction.frames.pop_front().unwrap();
                // An interface that is down takes nothing.
                let _ = ends[1 - from].write(&frame);
            }
        }
    }
}

impl Direction {
    fn take(&mut self, frame: &[u8], weather: Weather) {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let now = Instant::now();
        self.free = self.free.max(now);
        if (self.dice >> 33) % 1000 < weather.loss || self.free > now + QUEUE {
            return;
        }
        if let Some(rate) = weather.rate {
            self.free += Duration::from_secs_f64(frame.len() as f64 / rate);
        }
        self.frames.push_back((self.free + weather.delay, frame.to_vec()));
    }
}
