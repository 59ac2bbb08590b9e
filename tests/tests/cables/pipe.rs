//! dpipe, vde_plug and switches, theirs and ours.

use std::any::Any;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, command, has_interface, lab, run, wait_until};

#[test]
fn two_vde_plugs_in_dpipe_join_two_switches() {
    lab(|| {
        let mut switches = [Switch::start("a", "-t tap0"), Switch::start("b", "-t tap1")];
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        // With nothing between, with filters on both ways, and with a program that knows both sides.
        for (before, between) in ["=", "=} cat }={ cat {=", "= wirefilter ="].into_iter().enumerate() {
            let line = format!("-p /run/pid vde_plug /run/a {between} vde_plug /run/b");
            let mut cable = Process::start(&format!("{} pipe {line}", program("plug").display()));
            wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
            left.ping("-c 3", "10.0.0.2");
            right.ping("-c 3 -s 1472", "10.0.0.1");
            // Between two of VDE's own plugs, as here, wirefilter loses the stream under load.
            if !between.contains("wirefilter") {
                Transfer::start(&left, &right, "10.0.0.2:5000", 4 << 20).finish();
                Transfer::start(&right, &left, "10.0.0.1:5000", 4 << 20).finish();
            }
            cable.signal(libc::SIGTERM);
            assert_eq!(cable.wait(PATIENCE).code(), Some(0), "{}", cable.said());
            assert!(!fs::exists("/run/pid").unwrap());
            // A plug that is gone has left its port.
            switches.iter_mut().for_each(|switch| switch.process.wait_for_times(before + 1, " left"));
        }
    });
}

#[test]
fn the_end_of_one_vde_plug_ends_the_cable() {
    lab(|| {
        let a = Switch::start("a", "-t tap0");
        let mut b = Switch::start("b", "-t tap1");
        let line = format!("{} pipe vde_plug /run/a = vde_plug /run/b", program("plug").display());
        let mut cable = Process::start(&line);
        wait_until("both plugs are there", PATIENCE, || a.show().len() == 2 && b.show().len() == 2);
        a.stop();
        assert!(cable.wait(PATIENCE).code().is_some(), "{}", cable.said());
        b.process.wait_for(" left");
    });
}

#[test]
fn every_pairing_of_theirs_and_ours_carries_frames() {
    lab(|| {
        let plug = program("plug").display().to_string();
        let ours = |name: &str| {
            let path = format!("/run/{name}");
            symlink(&plug, &path).unwrap();
            path
        };
        let dpipes = ["dpipe".to_owned(), ours("dpipe")];
        let plugs = ["vde_plug".to_owned(), ours("vde_plug")];
        for theirs in [true, false] {
            let _switches = if theirs { their_switches() } else { our_switches() };
            let left = Host::with("left", "tap0", "10.0.0.1/24");
            let right = Host::with("right", "tap1", "10.0.0.2/24");
            for (dpipe, (near, far)) in dpipes.iter().flat_map(|dpipe| {
                plugs.iter().flat_map(|near| plugs.iter().map(move |far| (near, far))).map(move |ends| (dpipe, ends))
            }) {
                let line = format!("{dpipe} {near} /run/a = {far} /run/b");
                let mut cable = Process::start(&line);
                cable.wait_until("a ping passes", || left.reaches("10.0.0.2"));
                right.ping("-c 2 -s 1472", "10.0.0.1");
                assert_eq!(Transfer::start(&left, &right, "10.0.0.2:5000", 4 << 20).finish(), 4 << 20, "{line}");
                if !theirs && near == &plugs[1] && far == &plugs[1] {
                    left.ping("-c 2 -s 8972", "10.0.0.2");
                }
                cable.signal(libc::SIGTERM);
                cable.wait(PATIENCE);
                wait_until("the cable is gone", PATIENCE, || !left.reaches("10.0.0.2"));
            }
            run("ip netns del left");
            run("ip netns del right");
        }
    });
}

#[test]
fn addresses_that_are_used_on_the_stream_are_in_the_systems_log() {
    lab(|| {
        let log = system_log();
        symlink(program("plug"), "/run/vde_plug").unwrap();
        let _switches = our_switches();
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        right.run("ip addr add 10.0.0.7/24 dev tap1");
        // Debian's says the same.
        for plug in ["/run/vde_plug", "vde_plug"] {
            let line = format!("dpipe {plug} --iplog /run/a = vde_plug /run/b");
            let mut command = command(&line);
            command.env("SSH_CLIENT", "192.0.2.9 4444 22");
            let mut cable = Process::start_command(command, &line);
            wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
            right.ping("-c 2 -I 10.0.0.7", "10.0.0.1");
            cable.signal(libc::SIGTERM);
            cable.wait(PATIENCE);
            let lines = lines_until(&log, "STOP: user root IP 192.0.2.9");
            let times = |words: &str| lines.iter().filter(|line| line.ends_with(words)).count();
            assert_eq!(times("START: user root IP 192.0.2.9"), 1, "{plug}: {lines:?}");
            for address in ["10.0.0.2", "10.0.0.7"] {
                let words = format!(": user root Real-IP 192.0.2.9 has got VDE-IP4 {address} on vlan 0");
                assert_eq!(times(&words), 1, "{plug}: {lines:?}");
            }
            assert_eq!(times("10.0.0.1 on vlan 0"), 0, "{plug}: {lines:?}");
            wait_until("the cable is gone", PATIENCE, || !left.reaches("10.0.0.2"));
        }
    });
}

/// The lab's own /dev/log. The rest of /dev is as it was.
fn system_log() -> UnixDatagram {
    fs::create_dir("/run/dev").unwrap();
    run("mount --rbind /dev /run/dev");
    run("mount -t tmpfs none /dev");
    for entry in fs::read_dir("/run/dev").unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "log" {
            symlink(entry.path(), Path::new("/dev").join(entry.file_name())).unwrap();
        }
    }
    let log = UnixDatagram::bind("/dev/log").unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    log
}

/// What is logged, up to a line that ends so.
fn lines_until(log: &UnixDatagram, last: &str) -> Vec<String> {
    let (mut lines, mut buffer) = (Vec::<String>::new(), [0; 2000]);
    while lines.last().is_none_or(|line| !line.ends_with(last)) {
        let len = log.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {lines:?}"));
        lines.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    lines
}

/// Switches of Debian's in /run/a and /run/b, on tap0 and tap1.
fn their_switches() -> Vec<Box<dyn Any>> {
    let start = |name: &str, tap: &str| {
        let mut switch = Process::start(&format!("vde_switch -s /run/{name} -t {tap}"));
        switch.wait_until("its TAP is there", || has_interface(tap));
        Box::new(switch) as Box<dyn Any>
    };
    vec![start("a", "tap0"), start("b", "tap1")]
}

/// Switches of ours there.
fn our_switches() -> Vec<Box<dyn Any>> {
    let start =
        |name: &str, tap: &str| Box::new(Switch::start(name, &format!("--port tap://{tap}?mtu=9000"))) as Box<dyn Any>;
    vec![start("a", "tap0"), start("b", "tap1")]
}
