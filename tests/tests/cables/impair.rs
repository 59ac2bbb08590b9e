//! Impaired links as ports of the switch: what hosts behind them see.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlab::process::Switch;
use netlab::station::{BROADCAST, Interface, Station, frame};
use netlab::world::{Host, PATIENCE, Transfer, lab, wait_until};
use plug::control::ask;
use serde_json::Value;

const CONTROL: &str = "/run/control";

/// A switch between two hosts, of which the right one is behind an impaired link.
fn world(settings: &str) -> (Switch, Host, Host) {
    let switch = Switch::start("a", &format!("-t tap0 --port impair://{{tap://tap1}}?{settings}"));
    let left = Host::with("left", "tap0", "10.0.0.1/24");
    let right = Host::with("right", "tap1", "10.0.0.2/24");
    (switch, left, right)
}

fn tell(line: &str) -> String {
    ask(Path::new(CONTROL), line).unwrap()
}

fn figures() -> Value {
    serde_json::from_str(&tell("show --json")).unwrap()
}

/// The shortest of five round trips, in milliseconds.
fn round_trip(from: &Host, address: &str) -> f64 {
    let said = from.run(&format!("busybox ping -c 5 -i 0.2 -W 5 {address}"));
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.split_once(' ')?.0.parse().ok());
    times.reduce(f64::min).unwrap()
}

#[test]
fn a_ping_shows_the_delay_and_its_change() {
    lab(|| {
        let (_switch, left, _right) = world(&format!("delay=30ms&control={CONTROL}"));
        let slow = round_trip(&left, "10.0.0.2");
        assert!((60.0..120.0).contains(&slow), "{slow} ms");
        tell("set delay=off");
        let fast = round_trip(&left, "10.0.0.2");
        assert!(fast < 30.0, "{fast} ms");
        tell("set rx.delay=40ms");
        let one_way = round_trip(&left, "10.0.0.2");
        assert!((40.0..80.0).contains(&one_way), "{one_way} ms");
        println!("lab: round trips of {slow} ms for 60, {fast} ms for 0, {one_way} ms for 40");
    });
}

#[test]
fn loss_begins_and_ends_while_it_runs() {
    lab(|| {
        let (switch, left, _right) = world(&format!("control={CONTROL}"));
        assert!(left.reaches("10.0.0.2"));
        assert_eq!(tell("set tx.loss=100%"), "ok\n");
        assert!(!left.reaches("10.0.0.2"));
        let lost = figures()["tx"]["drops"]["impaired"].as_u64().unwrap();
        assert!(lost > 0);
        assert!(switch.port(2)["drops"]["impaired"].as_u64().unwrap() >= lost, "{}", switch.port(2));
        assert!(ask(Path::new(CONTROL), "set loss=101%").unwrap_err().to_string().contains("loss=101%: expected"));
        tell("reset");
        assert!(left.reaches("10.0.0.2"));
    });
}

#[test]
fn a_blackhole_swallows_everything_and_ends() {
    lab(|| {
        let (_switch, left, _right) = world(&format!("control={CONTROL}"));
        assert!(left.reaches("10.0.0.2"));
        let begun = Instant::now();
        tell("blackhole 3");
        assert!(!left.reaches("10.0.0.2"));
        wait_until("the blackhole is over", PATIENCE, || left.reaches("10.0.0.2"));
        assert!(begun.elapsed() >= Duration::from_secs(3));
        assert_eq!(figures()["tx"]["blackhole_seconds"], Value::Null);
    });
}

#[test]
fn tcp_gets_through_a_bad_network_at_its_rate() {
    lab(|| {
        let (_switch, left, right) = world(&format!(
            "delay=5ms&jitter=2ms&loss=0.5%&burst=2&duplicate=1%&reorder=1%&corrupt=0.5%&rate=40mbit&control={CONTROL}"
        ));
        let bytes: u64 = 4 << 20;
        for (from, to, address) in [(&left, &right, "10.0.0.2:5000"), (&right, &left, "10.0.0.1:5000")] {
            let begun = Instant::now();
            assert_eq!(Transfer::start(from, to, address, bytes).finish(), bytes);
            let rate = bytes as f64 * 8.0 / begun.elapsed().as_secs_f64();
            assert!(rate < 40e6, "{rate} bit/s");
            println!("lab: {:.1} Mbit/s of 40", rate / 1e6);
        }
        // What the kernel and the switch had not cut would be a few frames only, and have no bit inverted.
        for side in ["tx", "rx"] {
            let side = &figures()[side];
            assert!(side["frames"].as_u64().unwrap() > bytes / 1500, "{side}");
            assert!(side["corrupted"].as_u64() > Some(0) && side["drops"]["impaired"].as_u64() > Some(0), "{side}");
        }
        // It carries whole segments again.
        tell("reset");
        Transfer::start(&left, &right, "10.0.0.2:5001", 16 << 20).finish();
    });
}

#[test]
fn a_seed_loses_the_same_frames_in_every_run() {
    lab(|| {
        let run = |name: &'static str, left: &'static str, right: &'static str| {
            let options = format!("--port tap://{left}?up=on --port impair://{{tap://{right}?up=on}}?loss=10%&seed=11");
            let _switch = Switch::start(name, &options);
            let mut sender = Interface::open(&Host::HERE, left);
            let mut receiver = Interface::open(&Host::HERE, right);
            let mut heard = Vec::new();
            for burst in 0..20 {
                (0..25).for_each(|n| sender.send(&frame(BROADCAST, sender.address(), burst * 25 + n, 100)));
                heard.extend(receiver.listen(Duration::from_millis(50)));
            }
            heard.extend(receiver.listen(Duration::from_millis(200)));
            heard
        };
        let first = run("a", "tap0", "tap1");
        assert!((400..490).contains(&first.len()), "{}", first.len());
        assert_eq!(first, run("b", "tap2", "tap3"));
    });
}

#[test]
fn an_idle_impaired_link_wakes_nobody() {
    lab(|| {
        let (switch, left, right) = world(&format!("delay=5ms&jitter=2ms&loss=1%&rate=10mbit&control={CONTROL}"));
        let mut sender = Interface::open(&left, "tap0");
        let mut receiver = Interface::open(&right, "tap1");
        (0..100).for_each(|n| sender.send(&frame(BROADCAST, sender.address(), n, 1000)));
        assert!(receiver.listen(Duration::from_millis(500)).len() > 80);
        tell("show");
        let wakes = || {
            let status = fs::read_to_string(format!("/proc/{}/status", switch.process.pid())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        };
        wait_until("it sleeps for two seconds", PATIENCE, || {
            let before = wakes();
            sleep(Duration::from_secs(2));
            wakes() == before
        });
    });
}
