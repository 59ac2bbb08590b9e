//! The program between two hosts: network namespaces of their own, each with one of the switch's TAPs.
//!
//! The test runs once more inside namespaces that it makes for itself, as their root: nothing outside changes, and nobody
//! has to be root outside.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Each TAP of the switch, and the host that gets it.
const PLACES: [(&str, &str); 2] = [("lab0", "host0"), ("lab1", "host1")];

/// A running switch; it ends when this is dropped.
struct Switch(Child);

impl Switch {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
        for (tap, _) in PLACES {
            command.args(["-t", tap]);
        }
        Self(command.spawn().unwrap())
    }

    /// Ends it by SIGTERM; returns its exit status.
    fn end(&mut self) -> Option<i32> {
        run(&format!("kill -TERM {}", self.0.id()));
        self.0.wait().unwrap().code()
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_hosts_ping_through_the_switch_and_sigterm_ends_it() {
    if std::env::var_os("VSWITCH_IN_NAMESPACE").is_none() {
        return run_in_namespaces("two_hosts_ping_through_the_switch_and_sigterm_ends_it");
    }
    let mut switch = Switch::start();
    for (number, (tap, host)) in PLACES.into_iter().enumerate() {
        wait_for_interface(tap);
        run(&format!("ip netns add {host}"));
        run(&format!("ip link set {tap} netns {host}"));
        run(&format!("ip -n {host} addr add 10.77.0.{}/24 dev {tap}", number + 1));
        run(&format!("ip -n {host} link set {tap} up"));
    }
    run("ip netns exec host1 busybox ping -c 3 -W 5 10.77.0.1");
    run("ip netns exec host0 busybox ping -c 3 -W 5 -s 1400 10.77.0.2");
    assert_eq!(switch.end(), Some(0));
}

/// Runs this test again as root of new network and mount namespaces, with a /run for `ip netns`.
fn run_in_namespaces(test: &str) {
    let script = "mount -t tmpfs none /run && exec \"$0\" --exact \"$1\" --nocapture";
    // SAFETY: no pointers, and it cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let output = Command::new("unshare")
        .args(if root { [].as_slice() } else { &["--map-root-user"] })
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("VSWITCH_IN_NAMESPACE", "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn wait_for_interface(name: &str) {
    let begun = Instant::now();
    while !Command::new("ip").args(["link", "show", "dev", name]).output().unwrap().status.success() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{name} does not appear");
        sleep(Duration::from_millis(20));
    }
}
