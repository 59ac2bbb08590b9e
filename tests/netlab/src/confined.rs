//! What the system shows of a confined process. Neighbour: `process`, for its number.

use std::fs;

/// Checks what the kernel says of a process that has given up everything it can.
pub fn is_confined(pid: u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let none = "0000000000000000";
    let wanted =
        [("Seccomp", "2"), ("NoNewPrivs", "1"), ("CapEff", none), ("CapPrm", none), ("CapInh", none), ("CapAmb", none)];
    for (name, value) in wanted {
        let line = format!("\n{name}:\t{value}\n");
        assert!(status.contains(&line), "{name}: {status}");
    }
    for namespace in ["mnt", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
    }
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(network(&pid.to_string()), network("self"));
}

/// The names in a directory of a process's root.
pub fn names_in_root(pid: u32, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root{directory}")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
