//! Our dpipe with Debian's vde_plug at both ends, between two of our switches.

use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, lab, wait_until};

#[test]
fn two_vde_plugs_in_dpipe_join_two_switches() {
    lab(|| {
        let mut switches = [Switch::start("a", "-t tap0"), Switch::start("b", "-t tap1")];
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        // With nothing between, with filters on both ways, and with a program that knows both sides.
        for (before, between) in ["=", "=} cat }={ cat {=", "= wirefilter ="].into_iter().enumerate() {
            let line = format!("-p /run/pid vde_plug /run/a {between} vde_plug /run/b");
            let mut cable = Process::start(&format!("{} {line}", program("examples/dpipe").display()));
            wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
            left.ping("-c 3", "10.0.0.2");
            right.ping("-c 3 -s 1472", "10.0.0.1");
            Transfer::start(&left, &right, "10.0.0.2:5000", 4 << 20).finish();
            Transfer::start(&right, &left, "10.0.0.1:5000", 4 << 20).finish();
            cable.signal(libc::SIGTERM);
            assert_eq!(cable.wait(PATIENCE).code(), Some(0), "{}", cable.said());
            assert!(!std::fs::exists("/run/pid").unwrap());
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
        let line = format!("{} vde_plug /run/a = vde_plug /run/b", program("examples/dpipe").display());
        let mut cable = Process::start(&line);
        wait_until("both plugs are there", PATIENCE, || a.show().len() == 2 && b.show().len() == 2);
        a.stop();
        assert!(cable.wait(PATIENCE).code().is_some(), "{}", cable.said());
        b.process.wait_for(" left");
    });
}
