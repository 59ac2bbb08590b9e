//! The stock Debian kernel: fetched as a package, unpacked, and asked for modules in loading order.
//!
//! Everything is made once and cached under `target/lab/`; nothing is installed and nothing needs root. Invariant: a directory that
//! exists under its final name is complete, because it is made under another name and renamed. Neighbour: `image.rs`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The meta package whose newest kernel is used.
const META_PACKAGE: &str = "linux-image-amd64";

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Its bzImage, as a user would boot it.
    pub bzimage: PathBuf,
    /// The ELF image inside the bzImage: boots sooner, having nothing to decompress.
    pub vmlinux: PathBuf,
    modules: HashMap<String, PathBuf>,
}

impl Kernel {
    /// The cached kernel; fetches it the first time.
    pub fn stock() -> Result<Kernel> {
        let cache = crate::cache_dir()?;
        let root = cache.join("linux");
        if !root.exists() {
            let _lock = CacheLock::take(&cache)?;
            if !root.exists() {
                fetch(&cache, &root).context("fetch the stock Debian kernel")?;
            }
        }
        let mut modules = HashMap::new();
        collect_modules(&root.join("lib/modules"), &mut modules)?;
        Ok(Kernel { bzimage: root.join("bzImage"), vmlinux: root.join("vmlinux"), modules })
    }

    /// The named modules and all they depend on, each after its dependencies.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<&Path>> {
        let mut order = Vec::new();
        for name in names {
            self.add_module(name, &mut order)?;
        }
        Ok(order)
    }

    fn add_module<'k>(&'k self, name: &str, order: &mut Vec<&'k Path>) -> Result<()> {
        let path =
            self.modules.get(&name.replace('-', "_")).with_context(|| format!("kernel package: no module {name}"))?;
        if order.contains(&path.as_path()) {
            return Ok(());
        }
        let module = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        for dependency in depends(&module) {
            self.add_module(&dependency, order)?;
        }
        order.push(path);
        Ok(())
    }
}

/// Held while the cache is filled, so that two test programs at once do it once.
pub(crate) struct CacheLock {
    _file: File,
}

impl CacheLock {
    pub(crate) fn take(cache: &Path) -> Result<CacheLock> {
        let file = File::create(cache.join("lock")).context("open the lock of the cache")?;
        lock_exclusively(&file).context("lock the cache")?;
        Ok(CacheLock { _file: file })
    }
}

fn lock_exclusively(file: &File) -> io::Result<()> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and an integer.
    match unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fetch(cache: &Path, root: &Path) -> Result<()> {
    eprintln!("lab: fetching Debian's {META_PACKAGE} (once, about 70 MB)");
    let work = cache.join("linux.part");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    // The machine's package lists may be missing or stale: then lists of our own, which need no root.
    let fetched = download(&work, &[]).or_else(|_| {
        let apt = cache.join("apt");
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.join(dir))?;
        }
        let own = [format!("Dir::State::lists={}/lists", apt.display()), format!("Dir::Cache={}/cache", apt.display())];
        run(apt_get(&own).arg("update"))?;
        download(&work, &own)
    });
    let package = fetched?;
    let unpacked = work.join("unpacked");
    run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&unpacked))?;
    let bzimage = find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    fs::rename(bzimage, work.join("bzImage"))?;
    fs::rename(unpacked.join("lib"), work.join("lib"))?;
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&package)?;
    extract_vmlinux(&work.join("bzImage"), &work.join("vmlinux"))?;
    fs::rename(&work, root).context("keep the kernel")
}

fn download(into: &Path, options: &[String]) -> Result<PathBuf> {
    let mut depends = Command::new("apt-cache");
    for option in options {
        depends.arg("-o").arg(option);
    }
    let listed = depends.args(["depends", META_PACKAGE]).output().context("run apt-cache (Debian is needed)")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let package = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("apt-cache knows no {META_PACKAGE}"))?;
    run(apt_get(options).args(["download", package]).current_dir(into))?;
    find(into, |name| name.ends_with(".deb"))
}

fn apt_get(options: &[String]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("-qq");
    for option in options {
        command.arg("-o").arg(option);
    }
    command
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    entries
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .with_context(|| format!("{}: what the package should have is not there", dir.display()))
}

/// The compressed ELF is at `payload_offset` from the protected-mode code (Linux `Documentation/x86/boot.rst`).
fn extract_vmlinux(bzimage: &Path, vmlinux: &Path) -> Result<()> {
    let image = fs::read(bzimage)?;
    let word = |at: usize| image.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let sectors = usize::from(*image.get(0x1f1).context("bzImage: too short")?);
    let start = (sectors + 1) * 512 + word(0x248).context("bzImage: too short")?;
    let payload = word(0x24c)
        .and_then(|len| image.get(start..start + len))
        .context("bzImage: its payload is outside the file")?;
    ensure!(payload.starts_with(b"\xfd7zXZ"), "bzImage: its payload is not xz");
    let packed = vmlinux.with_extension("xz");
    fs::write(&packed, payload)?;
    // A size word follows the stream: --single-stream ends before it.
    let unpacked = Command::new("xz")
        .args(["-dc", "--single-stream"])
        .arg(&packed)
        .stdout(File::create(vmlinux)?)
        .stderr(Stdio::null())
        .status()
        .context("run xz (Debian package xz-utils)")?;
    fs::remove_file(&packed)?;
    let head = fs::read(vmlinux)?;
    ensure!(unpacked.success() || head.starts_with(b"\x7fELF"), "bzImage: its payload does not unpack");
    Ok(())
}

fn collect_modules(dir: &Path, into: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(&entry.path(), into)?;
        } else if let Some(name) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".ko")) {
            into.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

/// The `depends=` entry of a module's `.modinfo`, which is a run of NUL-terminated strings.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value: Vec<u8> = module[at + key.len()..].iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(
            depends(b"\x7fELF..\0license=GPL\0depends=virtio,net-failover\0name=x\0"),
            ["virtio", "net-failover"]
        );
        assert!(depends(b"..\0depends=\0intree=Y\0").is_empty());
        assert!(depends(b"").is_empty());
    }
}
