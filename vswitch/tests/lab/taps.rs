//! Hosts on TAPs of the switch, and how the program begins and ends.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread::sleep;
use std::time::Duration;

use crate::client::Client;
use netlab::process::{Process, Switch};
use netlab::world::{Host, PATIENCE, Transfer, command, has_interface, lab, run, wait_until};

#[test]
fn two_hosts_ping_through_the_switch_and_sigterm_ends_it() {
    lab(|| {
        let switch = Switch::start("a", "-t tap0 -t tap1");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        right.ping("-c 3", "10.0.0.1");
        left.ping("-c 3 -s 1400", "10.0.0.2");
        let bytes = Transfer::start(&left, &right, "10.0.0.2:5000", 64 << 20).finish();
        assert_eq!(bytes, 64 << 20);
        switch.stop();
        assert!(!fs::exists("/run/a").unwrap() && !has_interface("tap0"));
    });
}

#[test]
fn jumbo_frames_pass_between_taps() {
    lab(|| {
        let _switch = Switch::start("a", "--port tap://tap0?mtu=9000 --port tap://tap1?mtu=9000");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 3 -s 8972", "10.0.0.2");
        right.ping("-c 3 -s 8972", "10.0.0.1");
    });
}

#[test]
fn run_as_vde_switch_it_takes_its_options_and_goes_to_the_background() {
    lab(|| {
        symlink(env!("CARGO_BIN_EXE_vswitch"), "/run/vde_switch").unwrap();
        run("/run/vde_switch -t tap0 -d -M /run/x.mgmt -p /run/x.pid -sock /run/x");
        // The command came back when the switch was ready; the switch is now a child of the lab's first process, this one.
        assert!(fs::exists("/run/x/ctl").unwrap() && has_interface("tap0"));
        let pid = fs::read_to_string("/run/x.pid").unwrap();
        let pid = pid.trim_end();
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "vde_switch\n");
        Host::HERE.set_address("tap0", "10.0.0.1/24");
        let _plug = Process::start("vde_plug2tap -s /run/x tap1");
        wait_until("tap1 is there", PATIENCE, || has_interface("tap1"));
        Host::with("far", "tap1", "10.0.0.2/24").ping("-c 2", "10.0.0.1");
        run(&format!("kill -TERM {pid}"));
        wait_until("nothing is left of it", PATIENCE, || {
            let left = ["/run/x", "/run/x.pid", "/run/x.mgmt"].iter().any(|path| fs::exists(path).unwrap());
            !left && !has_interface("tap0")
        });
    });
}

#[test]
fn a_second_switch_on_the_same_directory_ends_and_harms_nothing() {
    lab(|| {
        let _switch = Switch::start("a", "-t tap0 -t tap1");
        let second = command(&format!("{} -s /run/a --nostdin -t tap2", env!("CARGO_BIN_EXE_vswitch")));
        let output = { second }.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said, "vswitch: /run/a: another switch is running there\n");
        assert!(!has_interface("tap2"));
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let _right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 1", "10.0.0.2");
    });
}

#[test]
fn a_switch_that_was_killed_leaves_a_directory_that_the_next_one_takes_over() {
    lab(|| {
        let mut killed = Switch::start("a", "-t tap0");
        killed.process.signal(libc::SIGKILL);
        killed.process.wait(PATIENCE);
        drop(killed);
        assert!(fs::exists("/run/a/ctl").unwrap());
        Switch::start("a", "-t tap0").stop();
    });
}

#[test]
fn a_switch_with_nothing_to_do_sleeps() {
    lab(|| {
        let mut switch = Switch::start("a", "-t tap0 -t tap1 --port user:// --metrics 127.0.0.1:9100");
        let _clients = [Client::join(switch.dir()), Client::join(switch.dir())];
        // The kernel greets its neighbours on an interface that has come up, three times within some seconds.
        run("ip link set tap0 down");
        run("ip link set tap1 down");
        let status = format!("/proc/{}/status", switch.process.pid());
        // Each time it wakes it goes to sleep again, and that is counted.
        let naps = || {
            let status = fs::read_to_string(&status).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:")).unwrap();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let does_not_wake_for = |time| {
            let before = naps();
            sleep(time);
            naps() == before
        };
        switch.process.wait_until("it has settled", || does_not_wake_for(Duration::from_millis(500)));
        assert!(does_not_wake_for(Duration::from_secs(3)));
    });
}
