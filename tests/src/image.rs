//! The two initial file systems: the outer host's, which only finds the machine's own root, and the guest's, which is all it has.
//!
//! Both are uncompressed newc archives (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`) written without root.
//! Programs come from the machine (`busybox-static`, and others with the libraries `ldd` names), modules from the kernel package.
//! Neighbours: `debian.rs`, and `lab/` for the scripts that run inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian::{CacheLock, Kernel};

/// What the outer host needs before it sees the machine's root: KVM, the port to the harness, the share, links to make a world of.
const OUTER_MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "9p", "9pnet_virtio", "overlay", "kvm_amd", "tun", "veth"];

/// What a guest loads, by the name its `/init` knows it under.
const GUEST_MODULES: &[(&str, &[&str])] = &[
    ("virtio", &["virtio_pci"]),
    ("virtio_net", &["virtio_net"]),
    ("virtio_rng", &["virtio_rng"]),
    ("e1000", &["e1000"]),
    ("8139cp", &["8139cp"]),
    ("8139too", &["8139too"]),
];

/// What a guest has beside busybox, each from the package of its name.
const GUEST_PROGRAMS: &[&str] = &["iperf3", "socat"];

/// The initrd of the outer host.
pub fn outer_initrd(kernel: &Kernel) -> Result<PathBuf> {
    let mut archive = Archive::new();
    archive.dirs(&["bin", "dev", "lower", "m", "new", "proc", "rw", "sys"]);
    archive.file("init", 0o755, include_bytes!("../lab/outer-init"));
    archive.copy("bin/busybox", &program("busybox", "busybox-static")?)?;
    let mut order = String::new();
    for (index, module) in kernel.modules(OUTER_MODULES)?.into_iter().enumerate() {
        let name = format!("m/{index:02}.ko");
        archive.copy(&name, module)?;
        order += &format!("/{name} ");
    }
    archive.file("modules", 0o644, order.as_bytes());
    archive.keep("outer.cpio")
}

/// The initrd of every guest.
pub fn guest_initrd(kernel: &Kernel) -> Result<PathBuf> {
    let mut archive = Archive::new();
    archive.dirs(&["bin", "dev", "etc", "lib64", "m", "proc", "root", "run", "sys", "tmp", "www"]);
    archive.file("init", 0o755, include_bytes!("../lab/guest-init"));
    archive.file("bin/lease", 0o755, include_bytes!("../lab/guest-lease"));
    archive.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n");
    archive.file("etc/hosts", 0o644, b"127.0.0.1 localhost\n");
    archive.copy("bin/busybox", &program("busybox", "busybox-static")?)?;
    for name in GUEST_PROGRAMS {
        let path = program(name, name)?;
        for library in libraries(&path)? {
            archive.copy(library.to_string_lossy().trim_start_matches('/'), &library)?;
        }
        archive.copy(&format!("bin/{name}"), &path)?;
    }
    for (name, modules) in GUEST_MODULES {
        let mut order = String::new();
        for module in kernel.modules(modules)? {
            let file = format!("m/{}", module.file_name().unwrap_or_default().to_string_lossy());
            archive.copy(&file, module)?;
            order += &format!("/{file}\n");
        }
        archive.file(&format!("m/{name}.list"), 0o644, order.as_bytes());
    }
    archive.keep("guest.cpio")
}

/// A newc archive in the making; a name is taken once.
struct Archive {
    bytes: Vec<u8>,
    names: Vec<String>,
}

impl Archive {
    fn new() -> Archive {
        Archive { bytes: Vec::new(), names: Vec::new() }
    }

    fn dirs(&mut self, names: &[&str]) {
        for name in names {
            self.entry(name, 0o040755, &[]);
        }
    }

    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let mut parents: Vec<&Path> =
            Path::new(name).ancestors().skip(1).filter(|path| *path != Path::new("")).collect();
        parents.reverse();
        for parent in parents {
            self.entry(&parent.to_string_lossy(), 0o040755, &[]);
        }
        self.entry(name, 0o100000 | mode, contents);
    }

    fn copy(&mut self, name: &str, from: &Path) -> Result<()> {
        let contents = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(name, 0o755, &contents);
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        if self.names.iter().any(|taken| taken == name) {
            return;
        }
        self.names.push(name.to_owned());
        self.record(name, mode, contents, self.names.len());
    }

    fn record(&mut self, name: &str, mode: u32, contents: &[u8], inode: usize) {
        let fields = [inode, mode as usize, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the archive into the cache unless it is there already, the same.
    fn keep(mut self, name: &str) -> Result<PathBuf> {
        self.record("TRAILER!!!", 0, &[], 0);
        let cache = crate::cache_dir()?;
        let path = cache.join(name);
        let _lock = CacheLock::take(&cache)?;
        if fs::read(&path).ok().as_deref() != Some(&self.bytes) {
            let part = path.with_extension("part");
            fs::write(&part, &self.bytes).with_context(|| format!("write {}", part.display()))?;
            fs::rename(&part, &path)?;
        }
        Ok(path)
    }
}

/// Where a program is, or which package has it.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not installed: run tests/install.sh, or apt-get install {package}"))
}

/// The shared libraries of a program, its loader included.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<PathBuf> =
        listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect();
    if found.is_empty() {
        bail!("ldd names no library of {}", program.display());
    }
    Ok(found)
}
