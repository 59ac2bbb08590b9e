use std::path::PathBuf;
use std::time::SystemTime;

use link::MacAddr;
use mio::Poll;

use super::*;
use crate::bridge::Bridge;
use crate::stp::{BridgeSettings, Stp};

/// A switch without doors, and somebody who talks to it.
struct Desk {
    switch: Switch,
    about: About,
    facts: Facts,
    categories: Categories,
    _poll: Poll,
}

impl Desk {
    fn new() -> Self {
        let poll = Poll::new().unwrap();
        let stp = Stp::new(BridgeSettings { priority: 0x8000, address: MacAddr([2, 0, 0, 0, 0, 9]) });
        let registry = poll.registry().try_clone().unwrap();
        let about = About {
            name: "vswitch".to_owned(),
            dir: PathBuf::from("/run/a\nb"),
            mgmt: Some(PathBuf::from("/run/m")),
            started: SystemTime::now(),
            begun: Instant::now(),
        };
        Self {
            switch: Switch::new(Bridge::new(0), stp, 32, registry),
            about,
            facts: Facts { mode: 0o600, mgmt_mode: 0o660, hash_size: 128, gc_interval: 2 },
            categories: Categories::default(),
            _poll: poll,
        }
    }

    fn ask(&mut self, line: &str) -> String {
        let Self { switch, about, facts, categories, .. } = self;
        let mut interpreter = Interpreter { switch, about, facts, categories, out: String::new() };
        assert_eq!(interpreter.line(line), Next::Line, "{line}");
        interpreter.out
    }

    /// Carries out lines that succeed and say nothing else.
    fn tell(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.ask(line), "1000 Success\n", "{line}");
        }
    }

    /// The table that a line is answered with.
    fn table(&mut self, line: &str) -> String {
        let answer = self.ask(line);
        let table =
            answer.strip_prefix("0000 DATA END WITH '.'\n").and_then(|rest| rest.strip_suffix(".\n1000 Success\n"));
        table.unwrap_or_else(|| panic!("{line}: {answer}")).to_owned()
    }

    fn fails(&mut self, line: &str, number: i32) {
        let answer = self.ask(line);
        assert!(answer.lines().last().unwrap().starts_with(&format!("1{number:03} ")), "{line}: {answer}");
    }
}

#[test]
fn every_command_answers_and_none_says_what_a_terminal_obeys() {
    let mut desk = Desk::new();
    desk.tell(&["port/create 1", "port/create 2", "vlan/create 7"]);
    for entry in COMMANDS.iter().filter(|entry| !["logout", "shutdown"].contains(&entry.path)) {
        for arguments in ["", " 1", " 2 1", " 0 1 1", " 7 2 \u{1b}[2J", " 2:0:0:0:0:1 1 7", " null://", " \u{9b}x\u{7}"]
        {
            let answer = desk.ask(&format!("{}{arguments}", entry.path));
            let last = answer.lines().last().unwrap_or_default();
            if entry.shape == Shape::Menu {
                assert!(last.starts_with("1038 "), "{}{arguments}: {answer}", entry.path);
            } else {
                assert!(last.starts_with('1'), "{}{arguments}: {answer}", entry.path);
                assert_eq!(
                    answer.starts_with("0000 "),
                    entry.shape == Shape::Table,
                    "{}{arguments}: {answer}",
                    entry.path
                );
            }
            assert!(!answer.contains(|c: char| c.is_control() && c != '\n'), "{}{arguments}: {answer:?}", entry.path);
        }
    }
}

#[test]
fn help_lists_every_command_with_its_arguments() {
    let mut desk = Desk::new();
    assert_eq!(desk.table("help").lines().count(), COMMANDS.len() + 2);
    let help = desk.table("help port/st");
    assert!(help.ends_with(
        "\nport/storm         N KIND FPS/off  limit frames/s in, of KIND broadcast, multicast or unknown\n"
    ));
    assert_eq!(help.lines().count(), 3);
}

#[test]
fn information_is_on_lines_of_its_own() {
    let mut desk = Desk::new();
    assert_eq!(desk.table("ds/showinfo"), "ctl dir /run/a\\nb\nstd mode 0600\n");
    let info = desk.table("showinfo");
    let pid = std::process::id();
    assert!(info.starts_with("VDE switch V."), "{info}");
    assert!(
        info.ends_with(&format!("\n\npid {pid} MAC 02:00:00:00:00:09 uptime 0\nmgmt /run/m perm 0660\n")),
        "{info}"
    );
}

#[test]
fn static_stations_are_entered_found_and_removed() {
    let mut desk = Desk::new();
    desk.fails("hash/add 2:0:0:0:0:1 1", libc::ENXIO);
    desk.tell(&["port/create 1", "hash/add 2:0:0:0:0:1 1", "hash/add 2:0:0:0:0:2 1 7"]);
    desk.fails("hash/add ff:ff:ff:ff:ff:ff 1", libc::EINVAL);
    let second = "Hash: 0005 Addr: 02:00:00:00:00:02 VLAN 0007 to port: 001  static\n";
    assert_eq!(desk.table("hash/find 2:0:0:0:0:2 7"), second);
    assert_eq!(desk.table("hash/print").lines().count(), 2);
    desk.tell(&["hash/del 2:0:0:0:0:1"]);
    assert_eq!(desk.table("hash/print"), second);
    desk.fails("hash/del 2:0:0:0:0:1", libc::ENODEV);
}

#[test]
fn settings_of_a_port_are_shown_as_they_were_made() {
    let mut desk = Desk::new();
    desk.tell(&["port/create 3", "vlan/create 5", "vlan/create 7"]);
    let plain = "Port 0003 vlans=transparent storm=broadcast:off,multicast:off,unknown:off maclimit=off learning=1 \
                 edge=auto cost=2000 guard=0 shut=0\n";
    assert_eq!(desk.table("port/settings 3"), plain);
    desk.tell(&[
        "port/storm 3 broadcast 100",
        "port/storm 3 unknown 0",
        "port/maclimit 3 4",
        "port/learning 3 0",
        "port/edge 3 on",
        "port/cost 3 20",
        "port/guard 3 1",
        "port/setvlan 3 4095",
        "vlan/addport 5 3",
        "vlan/addport 7 3",
    ]);
    let set = "Port 0003 vlans=untagged:none,tagged:5+7 storm=broadcast:100,multicast:off,unknown:0 maclimit=4 \
               learning=0 edge=on cost=20 guard=1 shut=0\n";
    assert_eq!(desk.table("port/settings"), set);
    desk.tell(&[
        "port/storm 3 broadcast off",
        "port/storm 3 unknown off",
        "port/maclimit 3 off",
        "port/learning 3 1",
        "port/edge 3 auto",
        "port/cost 3 2000",
        "port/guard 3 0",
        "port/guardreset 3",
        "port/transparent 3",
    ]);
    assert_eq!(desk.table("port/settings"), plain);
    assert_eq!(desk.table("port/drops 3"), "Port 0003 dropped=0\n");
    for line in
        ["port/storm 4 broadcast 1", "port/maclimit 4 1", "port/edge 4 on", "port/transparent 4", "port/drops 4"]
    {
        desk.fails(line, libc::ENXIO);
    }
}

#[test]
fn links_are_plugged_in_and_taken_out() {
    let mut desk = Desk::new();
    assert_eq!(desk.table("port/add 4 null://"), "Port 0004\n");
    assert_eq!(desk.table("port/add null://"), "Port 0001\n");
    let ports = desk.table("port/print 4");
    assert!(
        ports.starts_with("Port 0004 untagged_vlan=0000 ACTIVE - Unnamed Allocatable\n Current User: NONE "),
        "{ports}"
    );
    assert!(ports.ends_with("  -- endpoint ID 0000 module null        : null://\n"), "{ports}");
    desk.fails("port/remove 4", libc::EADDRINUSE);
    desk.tell(&["port/del 4"]);
    desk.fails("port/print 4", libc::ENXIO);
    desk.fails("port/del 4", libc::ENXIO);
    desk.tell(&["port/remove 4", "port/epclose 1 1"]);
    desk.fails("port/add nosuch://x", libc::EINVAL);
    desk.fails("port/add 40 null://", libc::EINVAL);
}

#[test]
fn spanning_tree_obeys_and_settings_may_come_before_their_port() {
    let mut desk = Desk::new();
    desk.tell(&["fstp/setedge 0 5 1", "fstp/bonus 0 5 500", "fstp/setprio 4096"]);
    assert!(desk.table("port/settings 5").contains(" edge=on cost=1500 "));
    assert_eq!(desk.table("fstp/setfstp 1"), "");
    assert_eq!(desk.table("fstp/showinfo"), "MAC 02:00:00:00:00:09 Priority 4096 (0x1000)\nFSTP=true\n");
    desk.ask("port/add 5 null://");
    assert_eq!(
        desk.table("fstp/print 0"),
        "FST DATA VLAN 0000 ROOTSWITCH \n ++ root 10:00:02:00:00:00:00:09\n ++ designated ff:ff:ff:ff:ff:ff:ff:ff\n \
         ++ rootport 0000 cost 0 age 0 bonusport 0005 bonuscost 500\n \
         -- Port 0005 tagged=0 portcost=1500 role=Designated\n"
    );
    desk.tell(&["fstp/bonus 0 5 0", "fstp/setedge 0 5 0"]);
    assert!(desk.table("fstp/print").contains(" bonusport 0000 bonuscost 0\n"));
    desk.fails("fstp/setedge 0 33 1", libc::EINVAL);
}

#[test]
fn mirrors_add_up_and_are_removed() {
    let mut desk = Desk::new();
    desk.tell(&["port/create 1", "port/create 2", "port/create 9"]);
    desk.tell(&["mirror/addport 1 9 rx", "mirror/addport 2 9", "mirror/addvlan 7 9", "mirror/ingress 9 1"]);
    assert_eq!(desk.table("mirror/print"), "Mirror to port 0009 rx=1,2 tx=2 vlans=7 ingress=1\n");
    desk.fails("mirror/addport 9 9", libc::EINVAL);
    desk.fails("mirror/addport 3 9", libc::ENXIO);
    desk.fails("mirror/addport 1 3", libc::ENXIO);
    desk.fails("mirror/ingress 1 1", libc::ENXIO);
    desk.tell(&["mirror/del 9"]);
    desk.fails("mirror/del 9", libc::ENXIO);
    assert_eq!(desk.table("mirror/print"), "");
}

#[test]
fn snooping_is_switched_and_a_way_explained() {
    let mut desk = Desk::new();
    desk.tell(&["mcast/setsnooping 1", "mcast/setflood 1"]);
    assert_eq!(desk.table("mcast/showinfo"), "SNOOPING=true\nFLOOD=true\nmalformed=0\n");
    assert_eq!(desk.table("mcast/print"), "");
    desk.ask("port/add 1 null://");
    desk.ask("port/add 2 null://");
    let why = desk.table("explain 2:0:0:0:0:1 2:0:0:0:0:2 1");
    assert!(why.contains("\n  leaves by port 2, as it is\n"), "{why}");
    assert!(desk.table("explain 2:0:0:0:0:1 2:0:0:0:0:2").contains("not known"));
}
