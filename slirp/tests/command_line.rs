//! `slirp` and `slirp4netns` as programs: what they print, and with which status they end. Nothing here needs a network.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

/// Runs the program under a name.
fn run(name: &str, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slirp"));
    command.arg0(name).args(line.split_whitespace());
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (name, line, begins) in [
        ("slirp", "--help", "usage: slirp [OPTION]... LINK\n"),
        ("slirp", "-h", "usage: slirp [OPTION]... LINK\n"),
        ("slirp", "--version", "slirp (Etherloom) "),
        ("/usr/bin/slirp4netns", "--help", "usage: slirp4netns [OPTION]... PID|PATH [TAP]\n"),
        ("slirp4netns", "-v", "slirp4netns version 1."),
    ] {
        let (status, out, error) = run(name, line);
        assert_eq!((status, error.as_str()), (Some(0), ""), "{name} {line}");
        assert!(out.starts_with(begins), "{name} {line}: {out}");
    }
}

#[test]
fn container_engines_find_what_they_look_for() {
    let help = run("slirp4netns", "--help").1;
    for option in [
        "--disable-host-loopback",
        "--mtu",
        "--enable-sandbox",
        "--enable-seccomp",
        "--enable-ipv6",
        "--netns-type",
        "--cidr",
        "--outbound-addr",
        "--api-socket",
    ] {
        assert!(help.contains(option), "{option}");
    }
    let version = run("slirp4netns", "--version").1;
    let config = version.lines().find_map(|line| line.strip_prefix("SLIRP_CONFIG_VERSION_MAX: ")).unwrap();
    assert!(config.parse::<u32>().unwrap() >= 4);
}

#[test]
fn mistakes_are_one_line_and_a_status() {
    for (name, line, status, words) in [
        ("slirp", "", 2, "slirp: expected a link, or --netns; --help says more\n"),
        ("slirp", "--json null://", 2, "slirp: --json goes with --status\n"),
        ("slirp", "--netns 1 --mtu 5", 2, "slirp: user: mtu=5: expected 576 to 65521\n"),
        ("slirp4netns", "", 1, "slirp4netns: PID or PATH must be specified; --help says more\n"),
        ("slirp4netns", "--target-type=bess /run/x", 1, "slirp4netns: --target-type: only netns is offered\n"),
    ] {
        assert_eq!(run(name, line), (Some(status), String::new(), words.to_owned()), "{name} {line}");
    }
}
