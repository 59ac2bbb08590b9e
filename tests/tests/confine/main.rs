//! Confined programs: that they still do their work, and what the system shows of what they gave up.
//!
//! Each test is one lab of network namespaces (`netlab`). What a confined process is refused, `program/tests/confine.rs`
//! tries out.
//!
//! | module | subject |
//! |---|---|
//! | `nat` | the user-mode NAT on a TAP: everything it carries |
//! | `cable` | plain links, which change, end and clean up as ever |

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

mod cable;
mod nat;

use std::fs;

use netlab::process::{Process, program};
use netlab::world::{command, run};

/// Runs what follows as a user who may do nothing.
const UNPRIVILEGED: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all";

/// Whether this lab has more users than root.
fn has_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().nth(2).is_some_and(|count| count != "1")
}

/// Lets every user of this lab open TAPs, whatever the host's rule is.
fn open_tuntap() {
    run("mknod -m 666 /run/tun c 10 200");
    run("mount --bind /run/tun /dev/net/tun");
}

/// Starts a confined cable by way of another program, or of none, and waits until it is confined by everything.
fn start(wrapper: &str, options: &str) -> Process {
    let line = format!("{wrapper} {} --confine {options}", program("plug").display());
    let mut command = command(&line);
    command.env("ETHERLOOM_LOG", "info");
    let mut plug = Process::start_command(command, &line);
    plug.wait_for("confined by: ");
    let said = plug.said();
    assert!(said.contains("an empty root, landlock, ") && !said.contains("missing"), "{said}");
    plug
}
