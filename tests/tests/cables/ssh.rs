//! Cables over a real sshd: what they carry, how they end, how they come back.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use netlab::probes::Probes;
use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, command, lab, lab_within, run, wait_until};
use serde_json::{Value, json};

use crate::far::{Far, start_on, start_path};

/// Switches here and on a far host, in /run/a and /run/b, and a guest of each, at 10.0.0.1 and 10.0.0.2.
struct Sides {
    a: Switch,
    _b: Switch,
    far: Far,
    left: Host,
    right: Host,
}

impl Sides {
    fn new() -> Self {
        let far = Far::new("far", "192.168.7.2");
        let a = Switch::start("a", "--port tap://tap0?mtu=9000");
        let b = Switch::start("b", "--port tap://tap1?mtu=9000");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        Self { a, _b: b, far, left, right }
    }

    fn wait_for_ping(&self) {
        wait_until("a ping passes", PATIENCE, || self.left.reaches("10.0.0.2"));
    }

    /// What every cable carries.
    fn carries_everything(&self) {
        self.wait_for_ping();
        self.right.ping("-c 3 -s 8972", "10.0.0.1");
        assert_eq!(Transfer::start(&self.left, &self.right, "10.0.0.2:5000", 64 << 20).finish(), 64 << 20);
        assert_eq!(Transfer::start(&self.right, &self.left, "10.0.0.1:5000", 64 << 20).finish(), 64 << 20);
        let range = "--dhcp-range=10.0.0.50,10.0.0.60,1h --port=0 --bind-interfaces --interface=tap0";
        let line = format!("dnsmasq -d -C /dev/null --dhcp-leasefile=/run/leases --user=root {range}");
        let mut server = Process::start(&self.left.line(&line));
        server.wait_for("DHCP, sockets bound");
        let lease = self.right.run("busybox udhcpc -i tap1 -q -n -f -t 10 -T 1 -s /bin/true");
        drop(lease);
        server.wait_for("DHCPACK");
    }
}

#[test]
fn a_cable_of_one_command_carries_ping_tcp_and_dhcp() {
    lab(|| {
        let sides = Sides::new();
        let mut cable = start_on(&Host::HERE, &format!("plug /run/a {}", sides.far.locator("/run/b")));
        sides.carries_everything();
        // The offload reached the far side: fewer frames than segments of 8960 bytes.
        let bytes = sides.a.port(1)["receive_bytes"].as_u64().unwrap();
        let frames = sides.a.port(1)["receive_frames"].as_u64().unwrap();
        assert!(bytes / frames > 9100, "{bytes} bytes in {frames} frames");
        cable.signal(libc::SIGTERM);
        assert_eq!(cable.wait(PATIENCE).code(), Some(0), "{}", cable.said());
    });
}

#[test]
fn frames_go_over_quic_where_udp_passes_and_over_ssh_where_not() {
    lab(|| {
        let sides = Sides::new();
        let line = format!("plug /run/a {}?data=quic", sides.far.locator("/run/b"));
        let mut cable = start_on(&Host::HERE, &line);
        cable.wait_for(": connected");
        sides.carries_everything();
        // What ssh has carried is little beside it.
        let written = only_child_io(cable.pid());
        assert!(written < 32 << 20, "ssh has been given {written} bytes");
        drop(cable);
        sides.far.host.run("nft add table inet lab");
        sides.far.host.run("nft add chain inet lab input { type filter hook input priority 0 ; }");
        sides.far.host.run("nft add rule inet lab input meta l4proto udp drop");
        let mut cable = start_on(&Host::HERE, &line);
        cable.wait_for(": carrier");
        sides.carries_everything();
        assert_eq!(cable.said().matches("warn").count(), 0, "{}", cable.said());
        cable.signal(libc::SIGTERM);
        assert_eq!(cable.wait(PATIENCE).code(), Some(0));
    });
}

#[test]
fn a_cable_says_by_which_way_it_carries_how_much() {
    lab(|| {
        let sides = Sides::new();
        let plug = program("plug").display().to_string();
        for (way, words) in [("quic", ": connected"), ("ssh", "/run/b?data=ssh: carrier")] {
            let far = sides.far.locator("/run/b");
            let line = format!("plug --control /run/cable /run/a {far}?data={way}");
            let mut cable = start_on(&Host::HERE, &line);
            cable.wait_for(words);
            sides.wait_for_ping();
            let said: Value = serde_json::from_str(&run(&format!("{plug} show --json /run/cable"))).unwrap();
            let [near, link] = [&said["links"][0], &said["links"][1]];
            assert_eq!((&near["link"], &near["way"]), (&json!("vde:///run/a"), &Value::Null), "{said}");
            assert_eq!((&link["way"], &link["carrier"]), (&json!(way), &json!(true)), "{said}");
            assert_eq!(
                link["peer"].as_str().is_some_and(|peer| peer.starts_with("192.168.7.2:")),
                way == "quic",
                "{said}"
            );
            assert!(link["receive_frames"].as_u64() > Some(0) && link["transmit_bytes"].as_u64() > Some(0), "{said}");
            let table = run(&format!("{plug} show /run/cable"));
            assert!(table.starts_with("LINK ") && table.lines().count() == 3, "{table}");
            cable.signal(libc::SIGTERM);
            assert_eq!(cable.wait(PATIENCE).code(), Some(0), "{}", cable.said());
            assert!(!fs::exists("/run/cable").unwrap());
            wait_until("the cable is gone", PATIENCE, || !sides.left.reaches("10.0.0.2"));
        }
    });
}

#[test]
fn a_transfer_over_a_slow_path_does_not_make_others_wait_long() {
    lab(|| {
        let far = Far::behind("far", "192.168.7.2", "delay=20ms&rate=10mbit");
        let (_a, _b) = (Switch::start("a", "-t tap0"), Switch::start("b", "-t tap1"));
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        let _cable = start_on(&Host::HERE, &format!("plug /run/a {}", far.locator("/run/b")));
        wait_until("a ping passes", PATIENCE, || left.reaches("10.0.0.2"));
        let transfer = Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20);
        let probes = Probes::start(&left, &right, "10.0.0.2:6000");
        transfer.finish();
        let (p99, came) = probes.stop().unwrap();
        println!("lab: 99 of 100 within {p99:?} beside a transfer, {:.1} % came", came * 100.0);
        assert!(p99 < Duration::from_millis(600), "{p99:?}");
    });
}

#[test]
fn an_idle_cable_takes_no_processor() {
    lab(|| {
        let far = Far::new("far", "192.168.7.2");
        let (_a, _b) = (Switch::start("a", ""), Switch::start("b", ""));
        let mut cable = start_on(&Host::HERE, &format!("plug /run/a {}?data=quic", far.locator("/run/b")));
        cable.wait_for(": connected");
        let before = milliseconds_run(cable.pid());
        sleep(Duration::from_secs(2));
        let run = milliseconds_run(cable.pid()) - before;
        assert!(run < 100, "{run} ms of 2 s");
    });
}

#[test]
fn dpipe_and_ssh_join_two_plugs() {
    lab(|| {
        let sides = Sides::new();
        let (plug, far) = (program("plug"), sides.far.ssh("plug /run/b"));
        let mut cable = Process::start(&format!("dpipe {} /run/a = {far}", plug.display()));
        sides.carries_everything();
        cable.signal(libc::SIGTERM);
        cable.wait(PATIENCE);
    });
}

#[test]
fn the_original_vde_plug_serves_on_the_far_side() {
    lab(|| {
        let sides = Sides::new();
        let cable =
            start_on(&Host::HERE, &format!("plug /run/a {}?remote=/usr/bin/vde_plug", sides.far.locator("/run/b")));
        sides.wait_for_ping();
        let bytes = Transfer::start(&sides.left, &sides.right, "10.0.0.2:5000", 16 << 20);
        assert_eq!(bytes.finish(), 16 << 20);
        drop(cable);
        // It is found where there is no plug: not in the path, and not where it is here.
        let config = fs::read_to_string("/run/ssh/config").unwrap();
        let path = config.lines().find(|line| line.starts_with("SetEnv")).unwrap();
        fs::write("/run/ssh/config", config.replace(path, "SetEnv PATH=/usr/bin:/bin")).unwrap();
        let other = Far::new("other", "192.168.7.3");
        let line = format!("plug /run/a {}", other.locator("/run/b"));
        let cable = start_on(&Host::HERE, &line);
        sides.wait_for_ping();
        assert_eq!(cable.said().matches("vde_plug").count(), 0, "{}", cable.said());
        drop(cable);
        fs::copy(program("plug"), "/run/plug").unwrap();
        let mut cable = start_path("/run/plug", &line);
        fs::remove_file("/run/plug").unwrap();
        cable.wait_for("there is no plug on the far side: vde_plug is run");
        sides.wait_for_ping();
    });
}

#[test]
fn a_cable_to_the_original_vde_plug_has_carrier_once_ssh_is_connected() {
    lab(|| {
        let sides = Sides::new();
        let line = format!("plug /run/a {}?remote=vde_plug", sides.far.locator("/run/b"));
        sides.far.signal_sshd(libc::SIGSTOP);
        let mut cable = start_on(&Host::HERE, &line);
        cable.wait_for("/run/b?remote=vde_plug: no carrier");
        assert!(!cable.said().contains(": carrier"), "{}", cable.said());
        sides.far.signal_sshd(libc::SIGCONT);
        cable.wait_for("/run/b?remote=vde_plug: carrier");
        sides.wait_for_ping();
        assert!(!cable.said().contains("ETHERLOOM"), "{}", cable.said());
        drop(cable);
        // A command of the user's stays what it was.
        let own = "IdentityFile /run/ssh/id\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n";
        fs::write("/run/ssh/mux", format!("{own}ControlPath /run/ssh/socket\n")).unwrap();
        fs::write("/run/ssh/own", format!("{own}PermitLocalCommand yes\nLocalCommand touch /run/mark\n")).unwrap();
        let cable = start_on(&Host::HERE, &format!("{line}&ssh=ssh%20-F%20/run/ssh/own"));
        sides.wait_for_ping();
        assert!(fs::exists("/run/mark").unwrap(), "{}", cable.said());
        drop(cable);
        // One that goes through another's connection is not told.
        let mut master = Process::start(&sides.far.ssh("-M -S /run/ssh/socket -N"));
        master.wait_until("there is a master", || fs::exists("/run/ssh/socket").unwrap());
        let _cable = start_on(&Host::HERE, &format!("{line}&ssh=ssh%20-F%20/run/ssh/mux"));
        sides.wait_for_ping();
    });
}

#[test]
fn pipes_over_ssh_join_theirs_and_ours() {
    lab(|| {
        let sides = Sides::new();
        let plug = program("plug").display().to_string();
        for dpipe in ["dpipe", &format!("{plug} pipe")] {
            for (near, far) in [("vde_plug", "plug"), (plug.as_str(), "vde_plug")] {
                let line = format!("{dpipe} {near} /run/a = {}", sides.far.ssh(&format!("{far} /run/b")));
                let mut cable = Process::start(&line);
                cable.wait_until("a ping passes", || sides.left.reaches("10.0.0.2"));
                sides.right.ping("-c 2 -s 1472", "10.0.0.1");
                for (from, to, address) in
                    [(&sides.left, &sides.right, "10.0.0.2:5000"), (&sides.right, &sides.left, "10.0.0.1:5000")]
                {
                    assert_eq!(Transfer::start(from, to, address, 8 << 20).finish(), 8 << 20, "{line}");
                }
                cable.signal(libc::SIGTERM);
                cable.wait(PATIENCE);
                wait_until("the cable is gone", PATIENCE, || !sides.left.reaches("10.0.0.2"));
            }
        }
    });
}

#[test]
fn what_a_far_shell_prints_is_shown_and_skipped() {
    lab(|| {
        let sides = Sides::new();
        let remote = "echo%20Welcome;%20echo%20Today:%20soup;%20plug";
        let mut cable = start_on(&Host::HERE, &format!("plug /run/a {}?remote={remote}", sides.far.locator("/run/b")));
        cable.wait_for("'Welcome / Today: soup'");
        sides.carries_everything();
        drop(cable);
        let remote = "echo%20Welcome;%20exec%20vde_plug";
        let mut cable = start_on(&Host::HERE, &format!("plug /run/a {}?remote={remote}", sides.far.locator("/run/b")));
        assert_eq!(cable.wait(PATIENCE).code(), Some(76), "{}", cable.said());
        assert!(cable.said().contains("'Welcome'"), "{}", cable.said());
    });
}

#[test]
fn each_end_has_its_status_and_one_line() {
    lab(|| {
        let sides = Sides::new();
        let far = |path: &str| sides.far.locator(path);
        ends("/run/nowhere", 69, "no switch is running there");
        ends(&format!("/run/a {}", far("/run/nowhere")), 69, "no switch is running there");
        ends(&format!("/run/a {}?remote=nonesuch", far("/run/b")), 69, "nonesuch");
        ends("/run/a ssh://root@192.168.7.2:1/run/b", 75, "Connection refused");
        ends("/run/a ssh://root@192.168.7.99:2299/run/b?ssh=ssh%20-oConnectTimeout=1", 75, "ssh has failed");
        ends(&format!("/run/a {}?remote=cat%20/etc/passwd%20%23", far("/run/b")), 76, "root:");
        let stranger = "ssh%20-i%20/run/ssh/stranger%20-oStrictHostKeyChecking=no%20-oUserKnownHostsFile=/dev/null%20-oBatchMode=yes";
        ends(&format!("/run/a {}?ssh={stranger}", far("/run/b")), 77, "Permission denied");
        ends("/run/a /run/b extra", 64, "unexpected argument");
    });
}

#[test]
fn a_login_shell_for_cables_denies_everything_else() {
    lab(|| {
        let sides = Sides::new();
        let shell = program("plug").display().to_string();
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let (root, others) = accounts.split_once('\n').unwrap();
        assert!(root.starts_with("root:"));
        let root = root.rsplit_once(':').unwrap().0;
        fs::write("/run/accounts", format!("{root}:{shell}\n{others}")).unwrap();
        run("mount --bind /run/accounts /etc/passwd");
        let far = Far::new("shell", "192.168.7.3");
        ends(&format!("/run/a {}", far.locator("/run/b")), 77, "as a login shell this is for cables only");
        let _usual = Switch::start("vde.ctl", "--port tap://tap2");
        let _other = Host::with("other", "tap2", "10.0.0.3/24");
        let _cable = start_on(&Host::HERE, &format!("plug /run/a {}", far.locator("")));
        wait_until("a ping passes", PATIENCE, || sides.left.reaches("10.0.0.3"));
    });
}

/// A cable with these links ends with this status, and with one line that has these words.
fn ends(arguments: &str, status: i32, words: &str) {
    let line = format!("{} {arguments}", program("plug").display());
    let ssh = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR";
    let mut command = command(&line);
    command.env("PLUG_SSH", format!("{ssh} -o BatchMode=yes -i /run/ssh/id")).env("ETHERLOOM_LOG", "error");
    let mut process = Process::start_command(command, &line);
    assert_eq!(process.wait(PATIENCE).code(), Some(status), "{line}: {}", process.said());
    let said = process.said();
    assert!(said.lines().count() == 1 && said.contains(words), "{line}: {said}");
}

#[test]
fn a_triangle_of_cables_has_no_loop_and_a_killed_one_comes_back() {
    lab_within(Duration::from_secs(180), || {
        let names = ["one", "two", "three"];
        let addresses = ["192.168.7.1", "192.168.7.2", "192.168.7.3"];
        let hosts: Vec<_> = names.into_iter().zip(addresses).map(|(name, address)| Far::new(name, address)).collect();
        // Switches belong to no host; the cables do, and cross the network between hosts.
        let switches: Vec<_> = (0..3).map(|index| Switch::start(names[index], &format!("-F -t tap{index}"))).collect();
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        let cable = |from: usize, to: usize| {
            let (near, far) = (names[from], hosts[to].locator(&format!("/run/{}", names[to])));
            hosts[from].start(&format!("plug --reconnect /run/{near} {far}"))
        };
        let mut cables = [cable(0, 1), cable(1, 2), cable(2, 0)];
        let states = || -> Vec<String> {
            let ports = switches.iter().flat_map(Switch::show);
            ports.map(|port| port["state"].as_str().unwrap().to_owned()).collect()
        };
        let is_settled = || states().iter().filter(|state| *state == "discarding").count() == 1 && states().len() == 9;
        wait_until("one port of the triangle blocks", PATIENCE, is_settled);
        wait_until("a ping passes", PATIENCE, || left.reaches("10.0.0.2"));
        let transfer = Transfer::start(&left, &right, "10.0.0.2:5000", u64::MAX);
        std::thread::sleep(Duration::from_secs(1));
        for cable in &mut cables {
            // `ip netns exec` has become the plug, and the shell that it runs has become ssh.
            let ssh = only_child(cable.pid());
            // SAFETY: no pointers; ssh is a descendant of this lab.
            assert_eq!(unsafe { libc::kill(ssh.cast_signed(), libc::SIGKILL) }, 0);
            let since = Instant::now();
            cable.wait_for_times(2, ": carrier");
            cable.wait_until("the triangle is whole", is_settled);
            println!("lab: a killed ssh, and the triangle is whole again: {} ms", since.elapsed().as_millis());
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(transfer.stop() > 1 << 20);
    });
}

#[test]
fn a_host_that_was_away_is_found_soon_after_its_return() {
    lab(|| {
        let sides = Sides::new();
        let mut cable = start_on(&Host::HERE, &format!("plug -r /run/a {}", sides.far.locator("/run/b")));
        sides.wait_for_ping();
        assert_eq!(sides.a.show().len(), 2);
        run("ip link set to-far down");
        // SAFETY: no pointers; ssh is a descendant of this lab.
        unsafe { libc::kill(only_child(cable.pid()).cast_signed(), libc::SIGKILL) };
        wait_until("the port at the switch is left", PATIENCE, || sides.a.port(2)["members"] == serde_json::json!([]));
        cable.wait_for_times(3, "tried again in");
        run("ip link set to-far up");
        let since = Instant::now();
        cable.wait_for_times(2, ": carrier");
        println!("lab: a host has returned, and the cable is back: {} ms", since.elapsed().as_millis());
        sides.wait_for_ping();
    });
}

#[test]
fn any_program_that_speaks_the_stream_is_a_link() {
    lab(|| {
        let _a = Switch::start("a", "-t tap0");
        let _b = Switch::start("b", "-t tap1");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let _right = Host::with("right", "tap1", "10.0.0.2/24");
        let mut cable = Process::start_command(
            {
                let mut command = command(&program("plug").display().to_string());
                command.args(["/run/a", "cmd://vde_plug /run/b"]);
                command
            },
            "plug /run/a 'cmd://vde_plug /run/b'",
        );
        wait_until("a ping passes", PATIENCE, || left.reaches("10.0.0.2"));
        cable.signal(libc::SIGTERM);
        assert_eq!(cable.wait(PATIENCE).code(), Some(0));
        assert_eq!(cable.said(), "");
    });
}

/// The process that another has started.
fn only_child(pid: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.trim().parse().unwrap_or_else(|_| panic!("{pid} has started '{children}'"))
}

/// How long a process has been on a processor (proc(5), schedstat).
fn milliseconds_run(pid: u32) -> u64 {
    let nanoseconds = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    nanoseconds.split(' ').next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

/// Bytes that the process which another has started has read from it and its files.
fn only_child_io(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", only_child(pid))).unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}
