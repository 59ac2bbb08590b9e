//! Clients that mean no good: each costs one line in the log at most, and two others, who exchange frames meanwhile, lose
//! none.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crate::client::{Client, free_path, reply, request};
use netlab::process::{Process, Switch};
use netlab::station::{BROADCAST, Station, frame, new_address, number_of};
use netlab::world::{PATIENCE, lab, wait_until};

/// Time in which the others show that they are unharmed.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn a_client_that_says_nothing_is_sent_off_after_ten_seconds() {
    lab(|| {
        let switch = Switch::start("a", "");
        let others = Others::begin(&switch);
        let mut silent = knock(&switch);
        let begun = Instant::now();
        assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
        assert!(begun.elapsed() > Duration::from_secs(9));
        others.have_lost_nothing();
        switch.has_warned_once_of("said nothing for 10 s");
    });
}

#[test]
fn a_client_that_leaves_after_half_a_request_is_forgotten() {
    lab(|| {
        let switch = Switch::start("a", "");
        let others = Others::begin(&switch);
        let mut half = knock(&switch);
        half.write_all(&request(&free_path(), b"")[..61]).unwrap();
        drop(half);
        others.have_lost_nothing();
        switch.has_warned_once_of("half a request (61 bytes)");
    });
}

#[test]
fn a_client_that_sends_seventy_kilobytes_is_sent_off() {
    lab(|| {
        let switch = Switch::start("a", "");
        let others = Others::begin(&switch);
        let mut talker = knock(&switch);
        // The switch hangs up before it has heard all.
        let mut words = request(&free_path(), b"");
        words.resize(70_000, b'x');
        let _ = talker.write_all(&words);
        let _ = talker.read(&mut [0; 1]);
        others.have_lost_nothing();
        switch.has_warned_once_of("longer than any request");
    });
}

#[test]
fn a_client_cannot_claim_the_socket_of_another() {
    lab(|| {
        let switch = Switch::start("a", "");
        let mut victim = Client::join(switch.dir());
        let others = Others::begin(&switch);
        // What the switch sent to its own socket for the victim would come from the victim.
        refuse(&switch, &victim.switch.clone());
        switch.has_warned_once_of("refused: its socket '/run/a/001.0'");
        // Of one who has joined and has kept its path.
        let kept = free_path();
        let member = UnixDatagram::bind(&kept).unwrap();
        let mut ctl = knock(&switch);
        ctl.write_all(&request(&kept, b"")).unwrap();
        member.connect(reply(&mut ctl).unwrap()).unwrap();
        refuse(&switch, &kept);
        wait_until("that is said too", PATIENCE, || switch.warnings().len() == 2);
        others.have_lost_nothing();
        let mut sender = Client::join(switch.dir());
        sender.send(&frame(BROADCAST, sender.address(), 7, 100));
        expect(&mut victim, 7);
    });
}

#[test]
fn one_that_never_reads_loses_what_others_send_it_and_they_lose_nothing() {
    lab(|| {
        let switch = Switch::start("a", "");
        let mut sleeper = Client::join(switch.dir());
        let mut flooder = Client::join(switch.dir());
        sleeper.send(&frame(BROADCAST, sleeper.address(), 0, 100));
        let others = Others::begin(&switch);
        let count = |port: u32, name: &str| switch.port(port)[name].as_u64().unwrap();
        let (before, frames) = (count(1, "transmit_frames"), 20_000);
        let (to, from) = (sleeper.address(), flooder.address());
        for number in 0..frames {
            flooder.send(&frame(to, from, number, 1400));
        }
        wait_until("all has been received", PATIENCE, || count(2, "receive_frames") == u64::from(frames));
        let dropped = switch.port(1)["drops"]["link-full"].as_u64().unwrap();
        assert_eq!(count(1, "transmit_frames") - before + dropped, u64::from(frames));
        assert!(dropped > 10_000, "{dropped}");
        others.have_lost_nothing();
        assert_eq!(switch.warnings(), [""; 0]);
    });
}

#[test]
fn a_stopped_program_costs_the_others_nothing_and_goes_on_when_it_is_continued() {
    lab(|| {
        let mut switch = Switch::start("a", "");
        let mut plug = Process::start("vde_plug /run/a");
        switch.process.wait_for_times(1, " joined");
        let address = new_address();
        let hello = frame(BROADCAST, address, 0, 46);
        plug.tell(&[&[0, hello.len() as u8], hello.as_slice()].concat());
        wait_until("the plug's place is known", PATIENCE, || switch.port(1)["stations"] == 1);
        plug.signal(libc::SIGSTOP);
        let mut sender = Client::join(switch.dir());
        let others = Others::begin(&switch);
        for number in 0..10_000 {
            sender.send(&frame(address, sender.address(), number, 1400));
        }
        wait_until("the plug's socket is full", PATIENCE, || switch.port(1)["drops"]["link-full"].as_u64() > Some(0));
        others.have_lost_nothing();
        let heard = plug.said_bytes().len();
        plug.signal(libc::SIGCONT);
        wait_until("the plug goes on", PATIENCE, || plug.said_bytes().len() > heard);
        plug.close_stdin();
        plug.wait(PATIENCE);
        assert_eq!(switch.warnings(), [""; 0]);
    });
}

#[test]
fn three_hundred_clients_at_once_are_served_and_the_silent_among_them_sent_off() {
    lab(|| {
        let switch = Switch::start("a", "-n 1000");
        let others = Others::begin(&switch);
        let silent: Vec<_> = (0..300).map(|_| knock(&switch)).collect();
        // 256 may stand at the door; those that have waited longest make room.
        wait_until("44 were sent off", PATIENCE, || switch.warnings().len() == 44);
        assert!(switch.warnings().iter().all(|line| line.contains("too many clients at the door")));
        let joined: Vec<_> = (0..300).map(|_| Client::join(switch.dir())).collect();
        drop((silent, joined));
        others.have_lost_nothing();
    });
}

#[test]
fn a_switch_without_descriptors_sends_clients_off_and_serves_those_it_has() {
    lab(|| {
        let switch = Switch::start_by("prlimit --nofile=48", "a", "-n 1000");
        let others = Others::begin(&switch);
        let mut guests = Vec::new();
        let refused = loop {
            match Client::try_join(switch.dir(), b"") {
                Ok(guest) => guests.push(guest),
                Err(error) => break error,
            }
            assert!(guests.len() < 48);
        };
        assert_eq!(refused.kind(), ErrorKind::UnexpectedEof);
        switch.has_warned_once_of("Too many open files");
        others.have_lost_nothing();
        // One leaves, and there is room for one.
        drop(guests.pop());
        wait_until("there is room again", PATIENCE, || Client::try_join(switch.dir(), b"").is_ok());
    });
}

#[test]
fn a_client_stays_when_its_data_socket_is_removed_from_the_directory() {
    lab(|| {
        let switch = Switch::start("a", "");
        let mut client = Client::join(switch.dir());
        let others = Others::begin(&switch);
        fs::remove_file(&client.switch).unwrap();
        let mut other = Client::join(switch.dir());
        client.send(&frame(BROADCAST, client.address(), 1, 100));
        assert!(other.listen(A_WHILE).contains(&1));
        others.have_lost_nothing();
        drop((client, other));
        assert_eq!(switch.warnings(), [""; 0]);
    });
}

#[test]
fn a_client_that_goes_on_talking_on_ctl_is_not_listened_to() {
    lab(|| {
        let switch = Switch::start("a", "");
        let mut talker = Client::join(switch.dir());
        let others = Others::begin(&switch);
        for _ in 0..1000 {
            talker.ctl.write_all(&[b'x'; 1000]).unwrap();
        }
        others.have_lost_nothing();
        assert_eq!(switch.warnings(), [""; 0]);
    });
}

/// Has a client name this socket as its own; it is refused.
fn refuse(switch: &Switch, path: &Path) {
    let mut thief = knock(switch);
    thief.write_all(&request(path, b"thief")).unwrap();
    reply(&mut thief).unwrap_err();
}

/// A connection to `ctl` that has said nothing yet.
fn knock(switch: &Switch) -> UnixStream {
    let stream = UnixStream::connect(switch.dir().join("ctl")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Two clients that exchange frames, one on the way at any time, until they are asked whether all have arrived.
struct Others {
    stop: Arc<AtomicBool>,
    exchange: JoinHandle<()>,
}

impl Others {
    /// Begins; comes back when the switch knows both.
    fn begin(switch: &Switch) -> Self {
        let (mut one, mut other) = (Client::join(switch.dir()), Client::join(switch.dir()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut number = 0x4000_0000;
        let mut exchange = move || {
            for _ in 0..2 {
                one.send(&frame(other.address(), one.address(), number, 500));
                expect(&mut other, number);
                mem::swap(&mut one, &mut other);
                number += 1;
            }
        };
        exchange();
        let exchange = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                exchange();
            }
        });
        Self { stop, exchange }
    }

    /// They go on for a while; each frame must have arrived.
    fn have_lost_nothing(self) {
        sleep(A_WHILE);
        self.stop.store(true, Ordering::Relaxed);
        self.exchange.join().expect("a frame was lost");
    }
}

/// Waits for one frame; others, which are not for this station, are passed over.
fn expect(station: &mut Client, number: u32) {
    let begun = Instant::now();
    loop {
        let frame = station.receive();
        if frame.is_some_and(|frame| number_of(&frame) == Some(number)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "frame {number:#x} does not arrive");
    }
}
