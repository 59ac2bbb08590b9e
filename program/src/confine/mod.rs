//! What a long-running program gives up once its descriptors are open.
//!
//! | file | what is given up |
//! |---|---|
//! | `privileges` | new privileges, capabilities, root's user |
//! | `root` | the file system, other processes' IPC and the host's name: namespaces with an empty root |
//! | `landlock` | the same once more by landlock(7), and TCP, abstract sockets and signals |
//! | `seccomp` `calls` `violation` | system calls: what is allowed, and the line that the first other one ends with |
//!
//! [`confine`] runs them in this order: each needs what a later one takes away. The network namespace is never left.
//!
//! Invariant: what cannot be had for lack of support in the kernel, or because something around this process forbids it,
//! is named in the [`Report`], and the rest is done all the same. Dropping capabilities and the system calls are not
//! among these: without them [`confine`] fails.
//!
//! Documented in: capabilities(7), user_namespaces(7), mount_namespaces(7), pivot_root(2), landlock(7), seccomp(2).

mod calls;
mod landlock;
mod privileges;
mod root;
mod seccomp;
mod violation;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use calls::Family;
pub use privileges::Capability;

/// What a program still needs. The default is nothing but its descriptors, its memory and its clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files, and directories with all below them, that are read.
    pub read: Vec<PathBuf>,
    /// Files that others replace by renaming, as they do with `/etc/resolv.conf`, and that are read again. The
    /// directories that they are in become readable; where such a file is a symbolic link, that of the file it leads to,
    /// and the link stays as it is now. Who stays root and would read more there than anybody may gets the file alone, so
    /// that renaming is not noticed; the [`Report`] says so.
    pub follow: Vec<PathBuf>,
    /// Directories in which files and sockets are made, written and removed.
    pub write: Vec<PathBuf>,
    /// Kinds of sockets that are made, bound and connected. What is open already needs none of them.
    pub families: Vec<Family>,
    /// Requests of ioctl(2), by number.
    pub ioctls: Vec<u64>,
    /// Whether threads are started.
    pub threads: bool,
    /// Whether other programs are started. They run under the same rules, so little is left of these: the file system
    /// stays, and of the system calls only those go that change the system or look into other processes.
    pub programs: bool,
    /// Capabilities that are kept.
    pub capabilities: Vec<Capability>,
}

impl Confinement {
    /// What the user-mode NAT needs whose link, a TAP, a VDE switch or a stream, is open already: it makes sockets towards
    /// the host's networks, follows `resolv_conf`, reads the TFTP folder, and at the end removes the sockets that others
    /// find it by, which are in the directories `sockets`.
    #[must_use]
    pub fn for_nat(resolv_conf: &Path, tftp: Option<&Path>, sockets: &[&Path]) -> Self {
        Self {
            read: tftp.into_iter().map(Path::to_owned).collect(),
            follow: vec![resolv_conf.to_owned()],
            write: sockets.iter().map(|path| (*path).to_owned()).collect(),
            families: vec![Family::Inet, Family::Inet6, Family::Unix],
            ioctls: calls::TAP_REQUESTS.to_vec(),
            ..Self::default()
        }
    }

    /// What an open TAP needs to find out and to tell whether there is carrier.
    #[must_use]
    pub fn for_tap() -> Self {
        Self { ioctls: calls::TAP_REQUESTS.to_vec(), ..Self::default() }
    }

    /// What either of two needs.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.read.extend(other.read);
        self.follow.extend(other.follow);
        self.write.extend(other.write);
        self.families.extend(other.families);
        self.ioctls.extend(other.ioctls);
        self.threads |= other.threads;
        self.programs |= other.programs;
        self.capabilities.extend(other.capabilities);
        self
    }
}

/// The process cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// What is given up is a thread's, so that others would keep it.
    #[error("confinement: the process has {0} threads already")]
    Threads(usize),
    /// The kernel refused what it never refuses.
    #[error("confinement: cannot {act}: {}", link::reason(.source))]
    System {
        /// What was to be done.
        act: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The list of system calls makes no filter.
    #[error("confinement: no filter of system calls: {0}")]
    Filter(#[from] seccompiler::Error),
}

impl ConfineError {
    fn system<E: Into<io::Error>>(act: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { act, source: source.into() }
    }
}

/// What a process has given up, in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    done: Vec<&'static str>,
    missing: Vec<String>,
}

impl Report {
    /// What could not be had, and why; nothing if the process is as confined as it asked to be.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Logs it: as a warning if something could not be had.
    pub fn log(&self) {
        log::log!(if self.missing.is_empty() { log::Level::Info } else { log::Level::Warn }, "{self}");
    }

    fn note(&mut self, what: &'static str, outcome: Result<(), Unavailable>) {
        match outcome {
            Ok(()) => self.done.push(what),
            Err(Unavailable(why)) => self.missing.push(format!("{what} ({why})")),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "confined by: {}", self.done.join(", "))?;
        if self.missing.is_empty() { Ok(()) } else { write!(f, "; not by: {}", self.missing.join(", ")) }
    }
}

/// Why a mechanism is not to be had here.
struct Unavailable(String);

impl Unavailable {
    fn new<E: Into<io::Error>>(act: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self(format!("{act}: {}", link::reason(&error.into())))
    }
}

/// Gives up everything else than `confinement` names, for good. Descriptors stay as they are; the working directory stays
/// where it still exists, and else becomes the root.
///
/// It belongs behind everything that opens something and before any thread. It takes over `SIGSYS`: a system call that is
/// not allowed ends the process with status 1 and a line on standard error.
///
/// # Errors
/// [`ConfineError`]; the process may have given up a part already, and should end.
pub fn confine(confinement: &Confinement) -> Result<Report, ConfineError> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(threads) if threads > 1 => return Err(ConfineError::Threads(threads)),
        _ => {}
    }
    let mut report = Report::default();
    // Who removes files at the end has to stay their owner.
    let stays_root = privileges::is_root() && (confinement.programs || !confinement.write.is_empty());
    privileges::forbid_new().map_err(ConfineError::system("forbid new privileges"))?;
    if !confinement.programs {
        let places = root::Places::find(confinement, stays_root);
        report.missing.extend(places.missing());
        report.note("an empty root", root::enter(&places, !confinement.capabilities.is_empty()));
        report.note("landlock", landlock::restrict(confinement, &places));
    }
    privileges::bound(&confinement.capabilities).map_err(ConfineError::system("bound capabilities"))?;
    if privileges::is_root() && !stays_root {
        report.note("user nobody", privileges::become_nobody());
    }
    privileges::drop_capabilities(&confinement.capabilities).map_err(ConfineError::system("drop capabilities"))?;
    report.done.push(if confinement.capabilities.is_empty() { "no capabilities" } else { "few capabilities" });
    violation::report().map_err(ConfineError::system("watch for SIGSYS"))?;
    seccomp::apply(confinement)?;
    report.done.push("seccomp");
    Ok(report)
}
