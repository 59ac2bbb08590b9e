//! The lines that the manual has for users of VDE's other cables (`plug::replaced`), run as they stand there.

use std::fs;

use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, command, lab, run, wait_until};
use plug::replaced::{AUTOLINK, CRYPTCAB, WIREFILTER};
use serde_json::{Value, json};

use crate::far::Far;

/// Switches in /run/a and /run/b with a guest each, and hosts `near` and `host` that know each other by name, of which
/// the second has an sshd.
struct World {
    switches: [Switch; 2],
    left: Host,
    _right: Host,
    near: Host,
    far: Far,
}

impl World {
    fn new() -> Self {
        let far = Far::new("host", "192.168.7.2");
        let near = Host::new("near");
        run("ip link add to-near type veth peer name eth0 netns near");
        run("ip link set to-near master underlay up");
        near.set_address("eth0", "192.168.7.1/24");
        fs::create_dir("/run/far").unwrap();
        fs::write("/run/hosts", "127.0.0.1 localhost\n192.168.7.1 near\n192.168.7.2 host\n").unwrap();
        run("mount --bind /run/hosts /etc/hosts");
        let config = "IdentityFile /run/ssh/id\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n\
                      Port 2299\nUser root\n";
        fs::write("/run/ssh/client", config).unwrap();
        let switches = [Switch::start("a", "-F -t tap0"), Switch::start("b", "-F -t tap1")];
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        Self { switches, left, _right: right, near, far }
    }

    fn wait_for_ping(&self) {
        wait_until("a ping passes", PATIENCE, || self.left.reaches("10.0.0.2"));
    }

    fn wait_for_silence(&self) {
        wait_until("the cable is gone", PATIENCE, || !self.left.reaches("10.0.0.2"));
    }
}

/// The line of ours that stands for a line of theirs.
fn line(table: &[(&'static str, &'static str)], theirs: &str) -> &'static str {
    let (_, ours) = table.iter().find(|(line, _)| line.starts_with(theirs)).unwrap();
    assert!(ours.starts_with("plug ") || ours.starts_with("kill "), "{ours}");
    ours
}

/// A shell that runs it on a host where the user's keys are in a directory of that name.
fn start(host: &Host, home: &str, line: &str) -> Process {
    let programs = program("plug").parent().unwrap().display().to_string();
    let mut command = command(&host.line("/bin/sh -c"));
    command.arg(format!("exec {line}"));
    command.env("PATH", format!("{programs}:/usr/sbin:/usr/bin:/sbin:/bin")).env("HOME", format!("/run/{home}"));
    command.env("PLUG_SSH", "ssh -F /run/ssh/client").env("ETHERLOOM_LOG", "info").env_remove("XDG_CONFIG_HOME");
    Process::start_command(command, line)
}

fn end(mut process: Process) {
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(PATIENCE).code(), Some(0), "{}", process.said());
}

/// What it writes until its end, which is a good one.
fn ask(line: &str) -> String {
    let mut process = start(&Host::HERE, "home", line);
    let status = process.wait(PATIENCE);
    assert!(status.success(), "{line}: {}", process.said());
    process.said()
}

#[test]
fn what_the_manual_says_to_users_of_wirefilter_is_so() {
    lab(|| {
        let world = World::new();
        let cable = start(&Host::HERE, "home", line(WIREFILTER, "wirefilter "));
        world.wait_for_ping();
        let figures = || serde_json::from_str::<Value>(&ask("plug show --json /run/wire")).unwrap();
        assert_eq!(figures()["tx"]["settings"], json!({ "loss": "10%", "delay": "100ms" }));
        ask(line(WIREFILTER, "loss 5"));
        assert_eq!(figures()["rx"]["settings"]["loss"], "5%");
        assert!(ask(line(WIREFILTER, "showinfo")).contains("loss=5%"));
        end(cable);
        world.wait_for_silence();
        // One way only: what goes from the first link into the second.
        let both_ways = line(WIREFILTER, "dpipe ").replace("tx.loss=10%", "tx.loss=100%&control=/run/wire");
        let _cable = start(&Host::HERE, "home", &both_ways);
        wait_until("it answers", PATIENCE, || fs::exists("/run/wire").unwrap());
        assert!(!world.left.reaches("10.0.0.2"));
        let (tx, rx) = (figures()["tx"]["drops"].clone(), figures()["rx"]["drops"].clone());
        assert!(tx["impaired"].as_u64() > Some(0) && rx == json!({}), "{tx} {rx}");
    });
}

#[test]
fn what_the_manual_says_to_users_of_vde_cryptcab_is_so() {
    lab(|| {
        let world = World::new();
        let mut cable = start(&world.near, "home", line(CRYPTCAB, "vde_cryptcab -s /run/a -c host"));
        cable.wait_for(": connected");
        world.wait_for_ping();
        end(cable);
        world.wait_for_silence();
        for how in [" -P", " -x"] {
            let far = start(&world.far.host, "far", line(CRYPTCAB, &format!("vde_cryptcab -s /run/b -p 2100{how}")));
            let near = start(&world.near, "home", line(CRYPTCAB, &format!("vde_cryptcab -s /run/a -c host:2100{how}")));
            wait_until("a ping passes", PATIENCE, || world.left.reaches("10.0.0.2"));
            assert_eq!(near.said().contains(": connected"), how == " -P", "{}{}", near.said(), far.said());
            end(near);
            end(far);
            world.wait_for_silence();
        }
    });
}

#[test]
fn what_the_manual_says_to_users_of_vde_autolink_is_so() {
    lab(|| {
        let world = World::new();
        let mut cable = start(&world.near, "home", line(AUTOLINK, "addwire"));
        assert!(cable.wait(PATIENCE).success(), "{}", cable.said());
        world.wait_for_ping();
        assert!(ask(line(AUTOLINK, "showlinks")).contains("ssh://host/run/b"));
        let mut kill = start(&Host::HERE, "home", &format!("sh -c '{}'", line(AUTOLINK, "linkonoff 0")));
        assert!(kill.wait(PATIENCE).success(), "{}", kill.said());
        world.wait_for_silence();
        wait_until("its files are gone", PATIENCE, || !fs::exists("/run/link.pid").unwrap());
        // Of two lines one carries, and when it ends the other does.
        let start = || start(&world.near, "home", "plug --reconnect /run/a ssh://host/run/b");
        let first = start();
        world.wait_for_ping();
        let _second = start();
        let states =
            || world.switches.iter().flat_map(Switch::show).map(|port| port["state"].clone()).collect::<Vec<_>>();
        wait_until("one port blocks", PATIENCE, || {
            states().len() == 6 && states().iter().filter(|state| **state == json!("discarding")).count() == 1
        });
        end(first);
        world.wait_for_ping();
    });
}
