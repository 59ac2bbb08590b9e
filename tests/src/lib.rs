//! The harness of the end-to-end tests, the demo and the bench: test hosts, guests, and what they are made of.
//!
//! A [`Host`] is a place where /dev/kvm works and the network is ours; a [`Guest`] is a stock Debian kernel on it, in the VMM under
//! test. Both answer `run("command")`. Map: `host.rs` (the two kinds of host, processes on them), `vm.rs` (guests), `image.rs` and
//! `debian.rs` (what they boot), `wire.rs` and `bin/lab-agent.rs` (how a host is spoken to), `lab/` (the scripts inside).

pub mod debian;
pub mod host;
pub mod image;
pub mod vm;
pub mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use program::options::Program;

pub use host::{Exec, Host, Lease, Output, Process};
pub use vm::{Guest, Vm, Vmm};

/// The programs, by their tables.
pub static PROGRAMS: [&Program; 7] = [
    &vmm::cli::PROGRAM,
    &vswitch::options::PROGRAM,
    &plug::cli::PLUG,
    &plug::cli::VDE_PLUG,
    &plug::pipe::PROGRAM,
    &slirp::cli::SLIRP,
    &slirp::cli::SLIRP4NETNS,
];

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where what is made once is kept.
pub fn cache_dir() -> Result<PathBuf> {
    let dir = target_dir().join("lab");
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

/// A program of this workspace, built in the profile this harness was built in when it is first asked for: what is tested is never
/// stale, and stays the same for the whole run.
pub fn built(package: &str, bin: &str) -> Result<PathBuf> {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.get(bin) {
        return Ok(path.clone());
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--bin", bin]).current_dir(workspace());
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.stdin(Stdio::null()).status().context("run cargo")?;
    ensure!(status.success(), "cargo build --package {package} --bin {bin}: {status}");
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let path = target_dir().join(profile).join(bin);
    built.insert(bin.to_owned(), path.clone());
    Ok(path)
}

fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}
