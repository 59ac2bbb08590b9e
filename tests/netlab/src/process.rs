//! Programs that run in a lab, and the one the labs are about.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{PATIENCE, command, has_interface, wait_until};

/// A program of ours, built beside the test that runs.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join(name);
    assert!(program.exists(), "{} is not built: cargo build --bins", program.display());
    program
}

/// A program that runs; it is killed when this is dropped. What it says, on either channel, is in a file.
pub struct Process {
    child: Child,
    log: PathBuf,
    line: String,
}

impl Process {
    /// Starts a command line; standard input is a pipe that stays open.
    pub fn start(line: &str) -> Self {
        Self::start_command(command(line), line)
    }

    /// Starts a command.
    pub fn start_command(mut command: Command, line: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = PathBuf::from(format!("/run/log.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        Self { child, log, line: line.to_owned() }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        said(&self.log)
    }

    /// The same, byte for byte.
    pub fn said_bytes(&self) -> Vec<u8> {
        fs::read(&self.log).unwrap()
    }

    /// Waits until it has said something.
    pub fn wait_for(&mut self, words: &str) {
        self.wait_for_times(1, words);
    }

    /// Waits until it has said something so many times.
    pub fn wait_for_times(&mut self, times: usize, words: &str) {
        let log = self.log.clone();
        self.wait_until(&format!("'{words}' is said {times} times"), || said(&log).matches(words).count() >= times);
    }

    /// Waits until something holds, as long as it runs.
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            let status = self.child.try_wait().unwrap();
            let in_time = begun.elapsed() < PATIENCE && status.is_none();
            assert!(in_time, "{} ({status:?}): not after {PATIENCE:?}: {what}\n{}", self.line, self.said());
            sleep(Duration::from_millis(10));
        }
    }

    /// Gives it bytes to read.
    pub fn tell(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers; the process is a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0, "{}", self.line);
    }

    /// Waits for its end.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < patience, "{} does not end:\n{}", self.line, self.said());
            sleep(Duration::from_millis(10));
        }
    }
}

fn said(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running switch of ours, in `/run/NAME`. When this is dropped it gets a SIGTERM, must end with status 0, and must
/// leave no socket behind.
pub struct Switch {
    /// The program.
    pub process: Process,
    dir: PathBuf,
}

impl Switch {
    /// Starts it with these options; waits until all its links are plugged in and it answers.
    pub fn start(name: &str, options: &str) -> Self {
        Self::start_by("", name, options)
    }

    /// Starts it by way of another program, as `prlimit --nofile=64`.
    pub fn start_by(wrapper: &str, name: &str, options: &str) -> Self {
        let dir = PathBuf::from("/run").join(name);
        let vswitch = program("vswitch");
        let line = format!("{wrapper} {} -s {} --nostdin {options}", vswitch.display(), dir.display());
        let mut command = command(&line);
        command.env("ETHERLOOM_LOG", "info");
        let mut switch = Self { process: Process::start_command(command, name), dir };
        let words: Vec<&str> = options.split_whitespace().collect();
        let api = switch.dir.join("api");
        switch.process.wait_until("it answers", || UnixStream::connect(&api).is_ok());
        // It answers when it has set up everything.
        let links = words.iter().filter(|word| ["-t", "--port"].contains(word)).count();
        assert_eq!(switch.show().len(), links, "{}", switch.process.said());
        let taps = words.windows(2).filter(|pair| pair[0] == "-t").map(|pair| pair[1]);
        taps.for_each(|tap| assert!(has_interface(tap), "{tap} is not there"));
        switch
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lines of warnings and errors that it has written.
    pub fn warnings(&self) -> Vec<String> {
        let said = self.process.said();
        let is_warning = |line: &&str| line.contains(": warn: ") || line.contains(": error: ");
        said.lines().filter(is_warning).map(str::to_owned).collect()
    }

    /// There is one line of warning, and it has these words.
    pub fn has_warned_once_of(&self, words: &str) {
        wait_until("a warning is there", PATIENCE, || !self.warnings().is_empty());
        let warnings = self.warnings();
        assert!(matches!(warnings.as_slice(), [line] if line.contains(words)), "{words}: {warnings:?}");
    }

    /// What it says of each port, by `DIR/api`.
    pub fn show(&self) -> Vec<Value> {
        let mut api = UnixStream::connect(self.dir.join("api")).unwrap();
        api.set_read_timeout(Some(PATIENCE)).unwrap();
        api.write_all(b"{\"show\":{}}\n").unwrap();
        api.shutdown(Shutdown::Write).unwrap();
        let lines = BufReader::new(api).lines().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
        lines.filter_map(|mut line| line.get_mut("port").map(Value::take)).collect()
    }

    /// What it says of one port; null if there is none.
    pub fn port(&self, number: u32) -> Value {
        self.show().into_iter().find(|port| port["port"] == number).unwrap_or_default()
    }

    /// What spanning tree has a port do.
    pub fn state(&self, port: u32) -> String {
        self.port(port)["state"].as_str().unwrap_or("missing").to_owned()
    }

    /// Ends it by SIGTERM.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.process.signal(libc::SIGTERM);
        assert_eq!(self.process.wait(PATIENCE).code(), Some(0), "{}", self.process.said());
        // A directory that was there before it stays.
        assert_eq!(fs::read_dir(&self.dir).into_iter().flatten().count(), 0, "{} is not empty", self.dir.display());
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}:\n{}", self.dir.display(), self.process.said());
        } else if self.process.child.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}
