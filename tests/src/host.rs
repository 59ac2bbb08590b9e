//! Test hosts: where guests run, with a network world of their own (`lab/world.sh`).
//!
//! Two kinds with the same calls. [`Kind::Local`] is this machine in its own network, mount and process namespaces, for machines whose
//! processor has svm or vmx. [`Kind::Outer`] is a QEMU/TCG machine with SVM and a stock Debian kernel above this machine's own files,
//! for all others. `ETHERLOOM_HOST=local|outer` overrides the choice.
//! Either is an agent (`bin/lab-agent.rs`) at the end of a pipe; it ends when the pipe does, so a killed test run leaves nothing behind.
//! Invariant: nothing here waits without a time limit. Neighbours: `vm.rs` (guests), `wire.rs` (what is said).

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::ops::Deref;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::debian::Kernel;
use crate::image;
use crate::wire::{Frame, Kind as Say, Spawn, read_frame, write_frame};

/// How long a command may take unless the caller says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The user that unprivileged commands run as.
const NOBODY: (u32, u32) = (65534, 65534);

/// The outer host's processor. As a Zen: QEMU's own choice is a K8, for whose GART Linux, outer and guest, searches all of PCI by way
/// of 16,000 exits. Without five-level tables, which only lengthen every walk, and without
/// fast string moves (ERMS, FSRM): emulation takes those byte by byte, and every kernel and C library prefers them where announced.
const OUTER_CPU: &str = "max,+svm,-la57,-erms,-fsrm,family=25,model=1";

/// Where a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This machine, in namespaces of its own.
    Local,
    /// A QEMU/TCG machine with SVM on this machine.
    Outer,
}

impl Kind {
    /// What this machine needs, or what `ETHERLOOM_HOST` says.
    pub fn choose() -> Result<Kind> {
        match std::env::var("ETHERLOOM_HOST").as_deref() {
            Ok("local") => return Ok(Kind::Local),
            Ok("outer") => return Ok(Kind::Outer),
            Ok(other) => bail!("ETHERLOOM_HOST={other}: local or outer"),
            Err(_) => {}
        }
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let virtualizes = cpuinfo
            .lines()
            .filter(|line| line.starts_with("flags"))
            .any(|line| line.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"));
        Ok(if virtualizes { Kind::Local } else { Kind::Outer })
    }
}

/// What to run on a host.
#[derive(Clone, Debug)]
pub struct Exec {
    spawn: Spawn,
    patience: Duration,
}

impl Exec {
    /// A command line for `sh -c`.
    pub fn new(command: impl Into<String>) -> Exec {
        Exec { spawn: Spawn { command: command.into(), ..Spawn::default() }, patience: PATIENCE }
    }

    /// With these shell commands before it.
    pub fn after(mut self, commands: &str) -> Exec {
        self.spawn.command.insert_str(0, commands);
        self
    }

    /// As a user without privileges.
    pub fn unprivileged(mut self) -> Exec {
        self.spawn.user = Some(NOBODY);
        self
    }

    /// On a terminal of its own instead of pipes.
    pub fn tty(mut self) -> Exec {
        self.spawn.tty = true;
        self
    }

    /// With this long to wait for it, instead of [`PATIENCE`].
    pub fn patience(mut self, patience: Duration) -> Exec {
        self.patience = patience;
        self
    }
}

impl From<&str> for Exec {
    fn from(command: &str) -> Exec {
        Exec::new(command)
    }
}

impl From<String> for Exec {
    fn from(command: String) -> Exec {
        Exec::new(command)
    }
}

/// What a command that ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output, or to its terminal.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !bytes.is_empty() {
                write!(f, "\n{name}: {}", tail(bytes))?;
            }
        }
        Ok(())
    }
}

/// A test host. Everything on it ends with it.
pub struct Host {
    kind: Kind,
    /// False where we have no other user to run as, being none but ourselves.
    other_users: bool,
    link: Arc<Wire>,
    next: AtomicU32,
}

impl Host {
    /// A host out of the pool that this test program's tests share, for as long as the [`Lease`] lives. The pool grows to
    /// `ETHERLOOM_HOSTS`, or to two where there are two processors.
    pub fn shared() -> Result<Lease> {
        Pool::lease()
    }

    /// A host of one's own, of the kind this machine needs.
    pub fn start() -> Result<Host> {
        Host::start_kind(Kind::choose()?)
    }

    /// A host of one's own, of the given kind.
    pub fn start_kind(kind: Kind) -> Result<Host> {
        let begun = Instant::now();
        let root = effective_user() == 0;
        let command = match kind {
            Kind::Local => local_command(root)?,
            Kind::Outer => outer_command()?,
        };
        let link = Wire::open(command)?;
        let host = Host { kind, other_users: root || kind == Kind::Outer, link, next: AtomicU32::new(1) };
        host.link.wait_hello(Duration::from_secs(120))?;
        let workspace = crate::workspace().display().to_string();
        let world = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/world.sh");
        let images = crate::cache_dir()?.display().to_string();
        host.run(format!("sh {} {} {}", quote(world), quote(&workspace), quote(&images)))
            .context("make the host's network world")?;
        if std::env::var_os("ETHERLOOM_VERBOSE").is_some() {
            eprintln!("lab: {kind:?} host up in {:.1} s", begun.elapsed().as_secs_f32());
        }
        Ok(host)
    }

    /// Where it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Runs a command to its end; an error unless it succeeds. Returns what it wrote to standard output.
    pub fn run(&self, command: impl Into<Exec>) -> Result<String> {
        let exec = command.into();
        let line = exec.spawn.command.clone();
        let output = self.try_run(exec)?;
        ensure!(output.status.success(), "host: `{line}`: {output}");
        Ok(output.text())
    }

    /// Runs a command to its end, whatever that is.
    pub fn try_run(&self, command: impl Into<Exec>) -> Result<Output> {
        let exec = command.into();
        let patience = exec.patience;
        let mut process = self.spawn(exec)?;
        process.close_stdin();
        process.wait(patience)
    }

    /// Starts a command and leaves it running; it is killed when the [`Process`] is dropped.
    pub fn spawn(&self, command: impl Into<Exec>) -> Result<Process> {
        let mut spawn = command.into().spawn;
        if !self.other_users {
            spawn.user = None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.link.shared.state).processes.insert(id, Progress::default());
        self.link.say(Say::Spawn, id, &spawn.to_bytes())?;
        let process = Process { link: Arc::clone(&self.link), id, command: spawn.command };
        process.until(PATIENCE, |progress| progress.pid.is_some().then_some(()))?;
        Ok(process)
    }

    /// Writes a file on the host.
    pub fn put(&self, path: &str, contents: &[u8]) -> Result<()> {
        let mut process = self.spawn(format!("cat >{}", quote(path)))?;
        process.send(contents)?;
        process.close_stdin();
        let output = process.wait(PATIENCE)?;
        ensure!(output.status.success(), "host: write {path}: {output}");
        Ok(())
    }

    /// Reads a file on the host.
    pub fn get(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.try_run(format!("cat {}", quote(path)))?;
        ensure!(output.status.success(), "host: read {path}: {output}");
        Ok(output.stdout)
    }

    /// The path on the host of a program of this machine, copied there once: a rebuild does not change it under a test, and it may
    /// come from where the host has a directory of its own.
    pub fn install(&self, program: &Path) -> Result<String> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let path = format!("/run/lab/bin/{name}");
        if !self.try_run(format!("test -x {path}"))?.status.success() {
            self.run("mkdir -p /run/lab/bin")?;
            self.put(&path, &fs::read(program).with_context(|| format!("read {}", program.display()))?)?;
            self.run(format!("chmod 755 {path}"))?;
        }
        Ok(path)
    }

    /// The path on the host of a file that guests boot. Those of the cache are where every user of the host may read them.
    pub fn image(&self, path: &Path) -> Result<String> {
        let path = match path.strip_prefix(crate::cache_dir()?) {
            Ok(name) => Path::new("/run/lab/images").join(name),
            Err(_) => path.to_owned(),
        };
        Ok(path.display().to_string())
    }

    /// What a process may leave behind, as lines to compare: processes, files where such are made, sockets, interfaces.
    pub fn traces(&self) -> Result<String> {
        self.run(
            "ps -eo args= | grep -v '^\\[' | grep -vE '^(ps|grep|sort|sh -c|/bin/sh -c) ' | sort
             find /tmp /run /dev/shm /var/tmp -xdev | grep -v '^/run/lab/bin' | sort
             ss -Hlntu | sort
             ip -o link | wc -l",
        )
    }

    /// Ends every process that was started here, and what they started.
    pub fn sweep(&self) -> Result<()> {
        self.link.say(Say::Sweep, 0, &[])
    }
}

/// A process on a host; killed, with its group, when dropped.
pub struct Process {
    link: Arc<Wire>,
    id: u32,
    command: String,
}

impl Process {
    /// Its process id on the host.
    pub fn pid(&self) -> i32 {
        self.link.progress(self.id, |progress| progress.pid).flatten().unwrap_or(0)
    }

    /// Gives it bytes to read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for chunk in bytes.chunks(256 << 10) {
            self.link.say(Say::Stdin, self.id, chunk)?;
        }
        Ok(())
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        let _ = self.link.say(Say::CloseStdin, self.id, &[]);
    }

    /// Sends it a signal (not its group).
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.link.say(Say::Signal, self.id, &signal.to_le_bytes())
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> Result<Output> {
        self.until(patience, |progress| {
            let status = progress.status?;
            Some(Output { status, stdout: progress.stdout.clone(), stderr: progress.stderr.clone() })
        })
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.link.progress(self.id, |progress| progress.status).flatten()
    }

    /// What it has written to standard output so far, from the given byte on.
    pub fn stdout_from(&self, start: usize) -> Vec<u8> {
        self.link
            .progress(self.id, |progress| progress.stdout.get(start..).unwrap_or_default().to_vec())
            .unwrap_or_default()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.link
            .progress(self.id, |progress| String::from_utf8_lossy(&progress.stderr).into_owned())
            .unwrap_or_default()
    }

    /// Waits until standard output, from byte `start` on, holds `mark`; returns where the mark begins, counted from 0.
    pub fn wait_for(&self, mark: &[u8], start: usize, patience: Duration) -> Result<usize> {
        let mut searched = start;
        self.until(patience, |progress| {
            let fresh = progress.stdout.get(searched..).unwrap_or_default();
            if let Some(at) = fresh.windows(mark.len()).position(|window| window == mark) {
                return Some(Ok(searched + at));
            }
            searched = (searched + fresh.len()).saturating_sub(mark.len()).max(searched);
            progress.status.map(|status| {
                let said = [tail(&progress.stdout), tail(&progress.stderr)].join("\n");
                Err(anyhow!(
                    "host: `{}` ended ({status}) before {:?}: {said}",
                    self.command,
                    String::from_utf8_lossy(mark)
                ))
            })
        })?
    }

    /// Waits until `look` finds what it wants in the process' progress.
    fn until<T>(&self, patience: Duration, mut look: impl FnMut(&Progress) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.link.shared.state);
        loop {
            let progress = state.processes.get(&self.id).context("host: no such process")?;
            if let Some(reason) = &progress.failed {
                bail!("host: `{}`: {reason}", self.command);
            }
            if let Some(found) = look(progress) {
                return Ok(found);
            }
            if let Some(why) = &state.lost {
                bail!("host: lost while `{}` ran: {why}", self.command);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said = [tail(&progress.stdout), tail(&progress.stderr)].join("\n");
                bail!("host: `{}` is not done after {patience:?}: {said}", self.command);
            }
            state = self.link.shared.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let finished =
            lock(&self.link.shared.state).processes.remove(&self.id).is_some_and(|progress| progress.status.is_some());
        if !finished {
            let _ = self.link.say(Say::Signal, self.id, &libc::SIGKILL.to_le_bytes());
        }
    }
}

/// A shared host for the length of one test; swept and given back when dropped.
pub struct Lease {
    host: Option<Host>,
}

impl Deref for Lease {
    type Target = Host;

    fn deref(&self) -> &Host {
        match &self.host {
            Some(host) => host,
            None => unreachable!("a lease has its host until it is dropped"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        Pool::give_back(self.host.take());
    }
}

/// The hosts that the tests of one program share.
struct Pool {
    idle: Vec<Host>,
    /// How many exist or are being made.
    count: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), count: 0 });
static POOL_NEWS: Condvar = Condvar::new();

impl Pool {
    fn lease() -> Result<Lease> {
        let limit = pool_limit()?;
        let mut pool = lock(&POOL);
        loop {
            if let Some(host) = pool.idle.pop() {
                return Ok(Lease { host: Some(host) });
            }
            if pool.count < limit {
                pool.count += 1;
                drop(pool);
                let started = Host::start();
                if started.is_err() {
                    Pool::give_back(None);
                }
                return Ok(Lease { host: Some(started?) });
            }
            pool = POOL_NEWS.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a host back if it still answers; forgets it otherwise, so that the next test makes a new one.
    fn give_back(host: Option<Host>) {
        let sound = host.filter(|host| {
            host.sweep().is_ok() && host.run(Exec::new("true").patience(Duration::from_secs(20))).is_ok()
        });
        let mut pool = lock(&POOL);
        match sound {
            Some(host) => pool.idle.push(host),
            None => pool.count -= 1,
        }
        POOL_NEWS.notify_one();
    }
}

fn pool_limit() -> Result<usize> {
    match std::env::var("ETHERLOOM_HOSTS") {
        Ok(count) => count
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .with_context(|| format!("ETHERLOOM_HOSTS={count}: a number from 1")),
        Err(_) => Ok(thread::available_parallelism().map_or(1, |count| count.get().min(2))),
    }
}

/// The harness' end of the stream to an agent.
struct Wire {
    to: Mutex<ChildStdin>,
    shared: Arc<Shared>,
    pid: u32,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    hello: bool,
    lost: Option<String>,
    /// What the host itself writes: the outer host's console, QEMU's complaints.
    console: Vec<u8>,
    processes: HashMap<u32, Progress>,
}

#[derive(Default)]
struct Progress {
    pid: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<ExitStatus>,
    failed: Option<String>,
}

impl Wire {
    fn open(command: Command) -> Result<Arc<Wire>> {
        let (pid, to, from, console) = spawn_tied(command)?;
        let shared = Arc::new(Shared::default());
        let reading = Arc::clone(&shared);
        thread::spawn(move || reading.read_frames(from));
        let listening = Arc::clone(&shared);
        thread::spawn(move || listening.read_console(console));
        Ok(Arc::new(Wire { to: Mutex::new(to), shared, pid }))
    }

    fn say(&self, kind: Say, id: u32, payload: &[u8]) -> Result<()> {
        write_frame(&mut *lock(&self.to), kind, id, payload).context("host: its agent does not listen")
    }

    fn progress<T>(&self, id: u32, look: impl FnOnce(&Progress) -> T) -> Option<T> {
        lock(&self.shared.state).processes.get(&id).map(look)
    }

    fn wait_hello(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.shared.state);
        while !state.hello {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.lost.is_some() || left.is_zero() {
                drop(state);
                // Its last words may still be on their way.
                thread::sleep(Duration::from_millis(200));
                bail!("host: does not come up: {}", tail(&lock(&self.shared.state).console));
            }
            state = self.shared.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Once the stream has ended the pid may be somebody else's.
        if lock(&self.shared.state).lost.is_none() {
            kill(self.pid);
        }
    }
}

impl Shared {
    fn read_frames(&self, mut from: ChildStdout) {
        let why = loop {
            match read_frame(&mut from) {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => break "it ended".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        lock(&self.state).lost = Some(why);
        self.news.notify_all();
    }

    fn take(&self, frame: Frame) {
        let mut state = lock(&self.state);
        if frame.kind == Say::Hello {
            state.hello = true;
        }
        if let Some(progress) = state.processes.get_mut(&frame.id) {
            match frame.kind {
                Say::Started => progress.pid = Some(frame.number()),
                Say::Stdout => progress.stdout.extend_from_slice(&frame.payload),
                Say::Stderr => progress.stderr.extend_from_slice(&frame.payload),
                Say::Exit => progress.status = Some(ExitStatus::from_raw(frame.number())),
                Say::Failed => progress.failed = Some(String::from_utf8_lossy(&frame.payload).into_owned()),
                _ => {}
            }
        }
        drop(state);
        self.news.notify_all();
    }

    fn read_console(&self, mut console: ChildStderr) {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = console.read(&mut buffer) {
            lock(&self.state).console.extend_from_slice(&buffer[..len]);
        }
    }
}

/// Starts a child that the kernel kills when this process ends, however it ends. The signal follows the thread that forked, so that
/// thread stays until the child is gone.
fn spawn_tied(mut command: Command) -> Result<(u32, ChildStdin, ChildStdout, ChildStderr)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let tie = || {
        // SAFETY: prctl with these arguments changes one attribute of the calling process and is async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: `tie` makes one system call and touches no memory of the parent.
    unsafe { command.pre_exec(tie) };
    let (sender, receiver) = channel();
    thread::spawn(move || match command.spawn() {
        Ok(mut child) => {
            let ends = take_pipes(&mut child).map(|(to, from, console)| (child.id(), to, from, console));
            let _ = sender.send(ends.with_context(|| format!("{command:?}: no pipes")));
            let _ = child.wait();
        }
        Err(error) => {
            let _ =
                sender.send(Err(error).with_context(|| format!("start {}", command.get_program().to_string_lossy())));
        }
    });
    receiver.recv().context("start a host")?
}

fn take_pipes(child: &mut Child) -> Option<(ChildStdin, ChildStdout, ChildStderr)> {
    Some((child.stdin.take()?, child.stdout.take()?, child.stderr.take()?))
}

/// The agent in namespaces of its own. Without root it has a user namespace too, in which it is root.
fn local_command(root: bool) -> Result<Command> {
    ensure!(Path::new("/dev/kvm").exists(), "/dev/kvm is missing: a local test host needs KVM");
    let mut command = Command::new(image::program("unshare", "util-linux")?);
    command.args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"]);
    if !root {
        command.arg("--map-root-user");
    }
    command.arg(crate::built("tests", "lab-agent")?);
    Ok(command)
}

/// A machine with one processor: with two, KVM on emulated SVM locks up now and then.
fn outer_command() -> Result<Command> {
    let kernel = Kernel::stock()?;
    let agent = crate::built("tests", "lab-agent")?;
    let mut command = Command::new(image::program("qemu-system-x86_64", "qemu-system-x86")?);
    command
        .args(["-accel", "tcg", "-cpu", OUTER_CPU, "-smp", "1", "-m", "3072", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-net", "none", "-vga", "none"])
        .args(["-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console"])
        .args([
            "-device",
            "virtio-serial-pci",
            "-chardev",
            "stdio,id=agent,signal=off",
            "-device",
            "virtserialport,chardev=agent",
        ])
        .args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"])
        .arg("-kernel")
        .arg(&kernel.vmlinux)
        .arg("-initrd")
        .arg(image::outer_initrd(&kernel)?)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 mitigations=off nokaslr lab_agent={}", agent.display()));
    Ok(command)
}

/// A word as the shell reads it back.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn kill(pid: u32) {
    // SAFETY: kill takes two integers; at worst the process is gone.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

fn effective_user() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of what a process said, for a message.
fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(4000);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}
