//! The corpora of the fuzz targets, replayed: what once was found stays mended.
//!
//! The targets are `../fuzz/src`, the same files that the fuzzers are built from.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Tries every input of a target; the panic of one that fails is followed by its name.
fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let inputs = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut inputs: Vec<PathBuf> = inputs.map(|entry| entry.expect("an entry").path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}: nothing to replay", directory.display());
    for input in inputs {
        let data = fs::read(&input).unwrap_or_else(|error| panic!("{}: {error}", input.display()));
        if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(|| target(&data))) {
            eprintln!("with {}", input.display());
            panic::resume_unwind(cause);
        }
    }
}

#[test]
fn requests_are_read_and_escaped() {
    replay("request", targets::request::target);
}

#[test]
fn console_lines_are_answered() {
    replay("console", targets::console::target);
}

#[test]
fn bpdus_leave_spanning_tree_sound() {
    replay("bpdu", targets::bpdu::target);
}

#[test]
fn frames_stay_in_their_vlan() {
    replay("vlan", targets::vlan::target);
}

#[test]
fn group_messages_leave_snooping_sound() {
    replay("igmp", targets::igmp::target);
}

#[test]
fn streams_are_taken_apart_alike_in_any_pieces() {
    replay("stream", targets::stream::target);
}

#[test]
fn vxlan_headers_are_read_and_stations_found() {
    replay("vxlan", targets::vxlan::target);
}

#[test]
fn l2tpv3_headers_are_read_in_every_layout() {
    replay("l2tpv3", targets::l2tpv3::target);
}

#[test]
fn what_a_cable_carries_is_bounded_and_sound() {
    replay("cable", targets::cable::target);
}

#[test]
fn the_nat_is_bounded_sound_and_alive_behind_anything() {
    replay("nat", targets::nat::target);
}
