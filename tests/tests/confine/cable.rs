//! `plug --confine` between plain links.

use std::fs;
use std::os::unix::fs::FileTypeExt;

use netlab::confined::{is_confined, names_in_root};
use netlab::process::{Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, command, lab, run, wait_until};

use super::{UNPRIVILEGED, has_users, open_tuntap, start};

const BYTES: u64 = 16 << 20;

#[test]
fn a_confined_bad_network_is_changed_and_removes_its_socket() {
    lab(|| {
        fs::create_dir("/run/control").unwrap();
        let mut plug = start("", "tap://one impair://{tap://two}?control=/run/control/bad");
        is_confined(plug.pid());
        assert_eq!(names_in_root(plug.pid(), "/"), ["run"]);
        assert_eq!(names_in_root(plug.pid(), "/run"), ["control"]);
        let (one, two) = (Host::with("a", "one", "10.0.0.1/24"), Host::with("b", "two", "10.0.0.2/24"));
        assert_eq!(Transfer::start(&one, &two, "10.0.0.2:5000", BYTES).finish(), BYTES);
        let impair = |words: &str| run(&format!("{} impair /run/control/bad {words}", program("plug").display()));
        assert_eq!(impair("set loss=100%"), "ok\n");
        assert!(!one.reaches("10.0.0.2"));
        assert_eq!(impair("set loss=0%"), "ok\n");
        one.ping("-c 2", "10.0.0.2");
        plug.signal(libc::SIGTERM);
        assert_eq!(plug.wait(PATIENCE).code(), Some(0), "{}", plug.said());
        assert_eq!(fs::read_dir("/run/control").unwrap().count(), 0);
    });
}

#[test]
fn confined_streams_between_two_processes() {
    lab(|| {
        fs::create_dir("/run/s").unwrap();
        run("chmod 777 /run/s");
        let (wrapper, owner) = if has_users() { (UNPRIVILEGED, "user 65534") } else { ("", "") };
        if has_users() {
            open_tuntap();
        }
        for tap in ["one", "two"] {
            run(&format!("ip tuntap add dev {tap} mode tap {owner}"));
        }
        let mut listens = start(wrapper, "tap://one listen:///run/s/socket");
        assert!(fs::metadata("/run/s/socket").unwrap().file_type().is_socket());
        let mut connects = start(wrapper, "stream:///run/s/socket tap://two");
        is_confined(listens.pid());
        is_confined(connects.pid());
        let (one, two) = (Host::with("a", "one", "10.0.0.1/24"), Host::with("b", "two", "10.0.0.2/24"));
        assert_eq!(Transfer::start(&one, &two, "10.0.0.2:5000", BYTES).finish(), BYTES);
        for plug in [&mut connects, &mut listens] {
            plug.signal(libc::SIGTERM);
            assert_eq!(plug.wait(PATIENCE).code(), Some(0), "{}", plug.said());
        }
        assert_eq!(fs::read_dir("/run/s").unwrap().count(), 0);
    });
}

/// Both ends of links that carry frames in ways of their own.
const PAIRS: &[[&str; 2]] = &[
    ["udp://127.0.0.1:7002?local=127.0.0.1:7001", "udp://127.0.0.1:7001?local=127.0.0.1:7002"],
    ["dgram:///run/d/b?local=/run/d/a", "dgram:///run/d/a?local=/run/d/b"],
    ["mcast://230.0.0.1:1234?local=127.0.0.1", "mcast://230.0.0.1:1234?local=127.0.0.1"],
    ["vxlan://127.0.0.2?vni=5&local=127.0.0.1", "vxlan://127.0.0.1?vni=5&local=127.0.0.2"],
    [
        "l2tpv3://127.0.0.2?txsession=1&rxsession=2&src=127.0.0.1",
        "l2tpv3://127.0.0.1?txsession=2&rxsession=1&src=127.0.0.2",
    ],
    ["listen://127.0.0.1:7003", "stream://127.0.0.1:7003"],
    ["vde:///run/lab", "vde:///run/lab[7]"],
];

#[test]
fn every_link_that_may_be_confined_carries_frames() {
    lab(|| {
        fs::create_dir("/run/d").unwrap();
        let _switch = Switch::start("lab", "");
        let (one, two) = (Host::new("a"), Host::new("b"));
        for (number, links) in PAIRS.iter().enumerate() {
            let mut plugs = Vec::new();
            for (end, (host, link)) in [&one, &two].into_iter().zip(links).enumerate() {
                let tap = format!("tap{number}.{end}");
                let plug = start("", &format!("tap://{tap} {link}"));
                is_confined(plug.pid());
                let netns = ["a", "b"][end];
                run(&format!("ip link set {tap} netns {netns}"));
                host.set_address(&tap, &format!("10.0.{number}.{}/24", end + 1));
                plugs.push(plug);
            }
            one.ping("-c 2 -s 4000", &format!("10.0.{number}.2"));
            two.ping("-c 2", &format!("10.0.{number}.1"));
            for mut plug in plugs.into_iter().rev() {
                plug.signal(libc::SIGTERM);
                assert_eq!(plug.wait(PATIENCE).code(), Some(0), "{links:?}: {}", plug.said());
            }
        }
        assert_eq!(fs::read_dir("/run/d").unwrap().count(), 0);
    });
}

#[test]
fn a_confined_capture_is_written() {
    lab(|| {
        let mut plug = start("", "tap://one pcap:///run/file.pcap");
        let host = Host::with("a", "one", "10.0.0.1/24");
        assert!(!host.reaches("10.0.0.2"));
        plug.signal(libc::SIGTERM);
        assert_eq!(plug.wait(PATIENCE).code(), Some(0), "{}", plug.said());
        // The file's header, and at least one question of ARP.
        assert!(fs::metadata("/run/file.pcap").unwrap().len() >= 24 + 16 + 42);
    });
}

#[test]
fn in_the_background_the_pid_file_goes_at_the_end() {
    lab(|| {
        fs::create_dir("/run/p").unwrap();
        run(&format!("{} --confine -d -p /run/p/pid tap://one null://", program("plug").display()));
        let pid: u32 = fs::read_to_string("/run/p/pid").unwrap().trim().parse().unwrap();
        is_confined(pid);
        run(&format!("kill {pid}"));
        wait_until("the pid file is gone", PATIENCE, || fs::read_dir("/run/p").unwrap().count() == 0);
    });
}

#[test]
fn what_needs_more_later_is_refused_before_anything_is_opened() {
    lab(|| {
        for link in ["ssh://host/run/lab", "cmd://cat", "quic://host:4433", "--reconnect /run/lab"] {
            let line = format!("{} --confine {link} tap://never", program("plug").display());
            let output = command(&line).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.lines().count()), (Some(64), 1), "{link}: {said}");
            assert!(said.starts_with("plug: --confine: ") && said.trim_end().ends_with("later"), "{link}: {said}");
        }
    });
}
