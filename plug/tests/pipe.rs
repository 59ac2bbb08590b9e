//! `dpipe` with real commands; and beside Debian's dpipe, which must do the same with the same words.
//!
//! The commands' standard outputs are pipes, so what a test looks at is written to standard error by one of them.

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);

/// A name, the words, and what comes of it: standard error and the exit status. `FILE` and `GROUP` are paths.
type Case<'a> = (&'a str, &'a [&'a str], &'a str, i32);

/// Which of the lowest descriptors a command has.
const DESCRIPTORS: &str = "for n in 0 1 2 3 4 5; do test -e /proc/$$/fd/$n && echo $n >&2; done; true";

#[rustfmt::skip]
const CASES: &[Case<'static>] = &[
    ("both directions",
     &["sh", "-c", "echo hello; read x; echo $x >&2", "=", "sh", "-c", "read x; echo $x | tr a-z A-Z"],
     "HELLO\n", 0),
    ("more than the pipes hold, and the end of one side is the other's end of file",
     &["sh", "-c", "exec 3<&0; wc -c <&3 >&2 & head -c 3000000 /dev/zero; exec >&-; wait", "=", "cat"],
     "3000000\n", 0),
    ("alternates",
     &["sh", "-c", "echo a; read x; echo $x >&2", "=",
       "sh", "-c", "read x; eval \"echo $x b >&$ALTERNATE_STDOUT; read y <&$ALTERNATE_STDIN\"; echo $y b", "=",
       "sh", "-c", "read x; echo $x c"],
     "a b c b\n", 0),
    ("alternates in two commands",
     &["sh", "-c", "echo a; read x; echo $x >&2", "=",
       "sh", "-c", "read x; echo $x b >&4; read y <&3; echo $y b", "=",
       "sh", "-c", "read x; echo $x c >&4; read y <&3; echo $y c", "=",
       "sh", "-c", "read x; echo $x d"],
     "a b c d c b\n", 0),
    ("a filter to the right",
     &["sh", "-c", "echo a; read x; echo $x >&2", "=}", "sed", "-u", "s/$/ b/", "}=", "sh", "-c", "read x; echo $x c"],
     "a b c\n", 0),
    ("a filter to the left",
     &["sh", "-c", "echo a; read x; echo $x >&2", "={", "sed", "-u", "s/$/ b/", "{=", "sh", "-c", "read x; echo $x c"],
     "a c b\n", 0),
    ("all signs in one line",
     &["sh", "-c", "echo a; read x; echo $x >&2", "=}", "sed", "-u", "s/$/ b/", "}={", "sed", "-u", "s/$/ c/", "{=",
       "sh", "-c", "read x; echo $x d >&4; read y <&3; echo $y d", "=", "sh", "-c", "read x; echo $x e"],
     "a b d e d c\n", 0),
    ("several filters",
     &["sh", "-c", "echo a; read x; echo $x >&2", "=}", "sed", "-u", "s/$/ b/", "}=}", "sed", "-u", "s/$/ c/", "}=",
       "sh", "-c", "read x; echo $x d"],
     "a b c d\n", 0),
    ("words that are no signs", &["sh", "-c", "echo $* >&2", "x", "x=", "x=y", "{}", "=", "true"], "x= x=y {}\n", 0),
    ("a command's own options", &["true", "=", "sh", "-c", "echo $* >&2", "x", "-d", "--help", "-p"],
     "-d --help -p\n", 0),
    ("two dashes", &["--", "true", "=", "sh", "-c", "exit 3"], "", 3),
    ("the first command's descriptors", &["sh", "-c", DESCRIPTORS, "=", "true", "=", "true"],
     "0\n1\n2\n", 0),
    ("the descriptors of one in between", &["true", "=", "sh", "-c", DESCRIPTORS, "=", "true"],
     "0\n1\n2\n3\n4\n", 0),
    ("the last command's descriptors", &["true", "=", "true", "=", "sh", "-c", DESCRIPTORS],
     "0\n1\n2\n", 0),
    ("the last command's status", &["sh", "-c", "exit 3", "=", "sh", "-c", "exit 4", "=", "sh", "-c", "exit 5"],
     "", 5),
    ("it waits for all", &["sh", "-c", "sleep 0.3; echo late >&2", "=", "sh", "-c", "exit 6"], "late\n", 6),
    ("the last is killed", &["true", "=", "sh", "-c", "kill -9 $$"], "", 0),
    ("the first is killed", &["sh", "-c", "kill -9 $$", "=", "sh", "-c", "cat; exit 7"], "", 7),
    ("the last does not exist", &["cat", "=", "no-such-command"], "", 127),
    ("the first does not exist", &["no-such-command", "=", "sh", "-c", "cat; exit 8"], "", 8),
    ("one in between does not exist", &["cat", "=", "no-such-command", "=", "sh", "-c", "cat; exit 9"], "", 9),
    ("the last is no program", &["cat", "=", "/etc/passwd"], "", 127),
    ("the last is a directory", &["cat", "=", "/tmp"], "", 127),
    ("the last has no name", &["cat", "=", ""], "", 127),
    ("the pid file", &["-p", "FILE", "sh", "-c", "test $(cat FILE) = $PPID && echo right >&2", "=", "true"],
     "right\n", 0),
    ("the group file",
     &["-P", "GROUP", "sh", "-c",
       "test $(cat GROUP) = -$PPID && env kill -0 -- $(cat GROUP) && echo right >&2", "=", "true"],
     "right\n", 0),
    ("it becomes the last command", &["-n", "true", "=", "sh", "-c", "exit 3"], "", 3),
    ("it becomes a command that does not exist", &["-n", "cat", "=", "no-such-command"], "", 127),
    ("it becomes the last command, which has the pid",
     &["-n", "-p", "FILE", "true", "=", "sh", "-c", "test $(cat FILE) = $$ && echo right >&2; exit 4"],
     "right\n", 4),
    ("the files go although the whole group is killed",
     &["-n", "-p", "FILE", "-P", "GROUP", "cat", "=", "sh", "-c", "env kill -TERM -- -$$; sleep 10"], "", 143),
];

#[test]
fn debians_dpipe_does_the_same() {
    for (name, words, stderr, status) in CASES {
        for (whose, program) in [("ours", ours()), ("Debian's", "dpipe".into())] {
            let scratch = Scratch::new();
            let words = words.iter().map(|word| scratch.fill(word));
            let output = finish(&program, words.collect::<Vec<_>>(), Some("off"));
            let outcome = (String::from_utf8_lossy(&output.stderr).into_owned(), code(&output));
            assert_eq!(outcome, ((*stderr).to_owned(), Some(*status)), "{name}, {whose}");
            wait_until(&format!("{name}, {whose}: the files are gone"), || scratch.is_empty());
        }
    }
}

#[test]
fn files_stay_if_nobody_is_to_clean_up() {
    for program in [ours(), "dpipe".into()] {
        let scratch = Scratch::new();
        let words = ["-N", "-p", "FILE", "true", "=", "sh", "-c", "echo $$ >&2"].map(|word| scratch.fill(word));
        let output = finish(&program, words.to_vec(), None);
        assert_eq!(fs::read(scratch.fill("FILE")).unwrap(), output.stderr);
    }
}

#[test]
fn what_cannot_be_run_is_named() {
    let said = |words: &[&str]| {
        let output = finish(&ours(), words.iter().map(ToString::to_string).collect(), None);
        assert!(output.stdout.is_empty());
        (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
    };
    let nowhere = "dpipe: error: no-such-command: No such file or directory\n".to_owned();
    assert_eq!(said(&["cat", "=", "no-such-command"]), (nowhere.clone(), 127));
    assert_eq!(said(&["no-such-command", "=", "cat"]), (nowhere.clone(), 0));
    assert_eq!(said(&["-n", "cat", "=", "no-such-command"]), (nowhere, 127));
    let in_background = "dpipe: no-such-command: No such file or directory\n".to_owned();
    assert_eq!(said(&["-d", "no-such-command", "=", "sleep", "1000"]), (in_background, 1));
    assert_eq!(said(&["cat", "=", "/tmp"]), ("dpipe: error: /tmp: Permission denied\n".to_owned(), 127));
    assert_eq!(said(&["a", "=", "=", "b"]), ("dpipe: there is no command before '='\n".to_owned(), 2));
    let file = "dpipe: pid file /nowhere/x: No such file or directory\n".to_owned();
    assert_eq!(said(&["-p", "/nowhere/x", "true", "=", "true"]), (file, 1));
    let killed = "dpipe: warn: sh: killed by SIGKILL\n".to_owned();
    assert_eq!(said(&["sh", "-c", "kill -9 $$", "=", "cat"]), (killed, 0));
    let (usage, status) = said(&["sh", "-c", "echo not run >&2"]);
    assert!(usage.starts_with("usage: dpipe [OPTION]") && !usage.contains("not run") && status == 0, "{usage}");
}

#[test]
fn a_pipe_without_a_reader_ends_its_writer_silently() {
    let output = finish(&ours(), ["yes", "=", "head", "-c", "10"].map(str::to_owned).to_vec(), None);
    assert_eq!((output.stderr.as_slice(), output.status.code()), (b"".as_slice(), Some(0)));
    // Blocked and ignored: none that the caller has not.
    let masks = |words: &[&str]| finish(&ours(), words.iter().map(ToString::to_string).collect(), None).stderr;
    let grep = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"];
    let plain = Command::new("env").arg("--default-signal").args(grep).output().unwrap().stdout;
    let inside = masks(&["sh", "-c", "exec grep -E 'Sig(Blk|Ign)' /proc/self/status >&2", "=", "true"]);
    assert_eq!(String::from_utf8_lossy(&inside), String::from_utf8_lossy(&plain));
}

#[test]
fn pipes_are_enlarged() {
    // A writer fills the pipe without blocking; nobody reads.
    let fill = "dd if=/dev/zero bs=4096 oflag=nonblock 2>&1 >&1 | sed -n 's/ bytes.*//p' >&2";
    let fill = format!("exec 5>&1; {{ {}; }}", fill.replace("2>&1 >&1 |", "2>&1 >&5 |"));
    let output = finish(&ours(), vec!["sh".into(), "-c".into(), fill, "=".into(), "sleep".into(), "0.5".into()], None);
    let limit: u64 = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap().trim().parse().unwrap();
    let held: u64 = String::from_utf8_lossy(&output.stderr).trim().parse().unwrap();
    assert_eq!(held, limit.min(256 * 1024));
}

#[test]
fn a_signal_ends_the_group_and_its_status_says_which() {
    for (signal, status) in [(Signal::SIGTERM, 0), (Signal::SIGINT, 130), (Signal::SIGHUP, 129), (Signal::SIGQUIT, 131)]
    {
        let scratch = Scratch::new();
        // A shell that takes its time, and one that has started another process.
        let slow =
            "trap 'sleep 0.3; echo slow >&2; exit 9' TERM INT HUP QUIT; echo ready >&2; while :; do sleep 0.1; done";
        let parent = "sleep 1000 & echo ready >&2; wait";
        let words = ["-p", "FILE", "-P", "GROUP", "sh", "-c", slow, "=", "sh", "-c", parent];
        let mut child = start(&ours(), words.map(|word| scratch.fill(word)).to_vec());
        let mut said = BufReader::new(child.stderr.take().unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
        }
        let pid = Pid::from_raw(child.id() as i32);
        assert_eq!(fs::read_to_string(scratch.fill("FILE")).unwrap(), format!("{pid}\n"));
        assert_eq!(fs::read_to_string(scratch.fill("GROUP")).unwrap(), format!("-{pid}\n"));
        kill(pid, signal).unwrap();
        assert_eq!(wait(&mut child).code(), Some(status), "{signal}");
        assert!(scratch.is_empty(), "{signal}");
        // A shell starts processes of its background with SIGINT and SIGQUIT ignored (POSIX XCU 2.9.3).
        if [Signal::SIGINT, Signal::SIGQUIT].contains(&signal) {
            killpg(pid, Signal::SIGTERM).unwrap();
        }
        wait_until("the group is gone", || killpg(pid, None).is_err());
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("slow\n"), "{signal}: it waits for those that take their time");
    }
}

#[test]
fn a_daemon_returns_when_all_run_and_leaves_nothing() {
    let scratch = Scratch::new();
    assert!(Command::new("mkfifo").arg(scratch.fill("FIFO")).status().unwrap().success());
    let first = "echo $PPID; cat < FIFO";
    let last = "read pid; test $(cat FILE) = $pid && echo right > RESULT; cat; echo noise >&2";
    let words = ["-d", "-p", "FILE", "-P", "GROUP", "sh", "-c", first, "=", "sh", "-c", last];
    let output = finish(&ours(), words.map(|word| scratch.fill(word)).to_vec(), None);
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
    wait_until("the pid file is right", || {
        fs::read_to_string(scratch.fill("RESULT")).is_ok_and(|text| text == "right\n")
    });
    let pid: i32 = fs::read_to_string(scratch.fill("FILE")).unwrap().trim().parse().unwrap();
    assert_eq!(fs::read_to_string(scratch.fill("GROUP")).unwrap(), format!("-{pid}\n"));
    // The end of the first command is the end of all.
    fs::write(scratch.fill("FIFO"), "").unwrap();
    wait_until("the group is gone", || killpg(Pid::from_raw(pid), None).is_err());
    assert!(!fs::exists(scratch.fill("FILE")).unwrap() && !fs::exists(scratch.fill("GROUP")).unwrap());
}

/// A directory that is removed with what is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dpipe-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Replaces the names of files by paths in this directory.
    fn fill(&self, word: &str) -> String {
        let path = |name: &str| self.0.join(name).to_str().unwrap().to_owned();
        ["FILE", "GROUP", "RESULT", "FIFO"].iter().fold(word.to_owned(), |word, name| word.replace(name, &path(name)))
    }

    fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).unwrap().count() == 0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn ours() -> PathBuf {
    let dpipe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dpipe");
    // Tests run at the same time: one of them makes it.
    let _ = symlink(env!("CARGO_BIN_EXE_plug"), &dpipe);
    dpipe
}

fn start(program: &Path, words: Vec<String>) -> Child {
    // Whatever the tests were told to ignore, as by nohup: it is not.
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program).args(words);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("LC_ALL", "C").spawn().unwrap()
}

/// Runs it to its end; `log` is how much it says.
fn finish(program: &Path, words: Vec<String>, log: Option<&str>) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", &PATIENCE.as_secs().to_string()]).arg(program).args(words);
    command.stdin(Stdio::null()).env("LC_ALL", "C").env_remove("ETHERLOOM_LOG");
    command.envs(log.map(|log| ("ETHERLOOM_LOG", log))).output().unwrap()
}

/// The exit status as a shell has it.
fn code(output: &Output) -> Option<i32> {
    output.status.code().or_else(|| output.status.signal().map(|signal| 128 + signal))
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}
