//! The console of the program, beside vde_switch's: what scripts, people and other programs have of it.
//!
//! Debian's `vde2` is the other side: `vde_switch`, `vde_plug`, `unixcmd` and `unixterm`. Everything is in a directory
//! that the test removes.

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn answers_are_those_of_vde_switch() {
    let script = "\
        help nosuch
        ds/showinfo
        showinfo
        show
        ds
        h
        port/p
        #comment

        plugin/list
        plugin/del foo
        hash/print
        hash/find 00:11:22:33:44:55
        hash/find 0:11:2:33:44:55 1
        hash/find xx
        hash/find
        hash/setsize 100
        hash/setsize
        hash/setsize 0
        hash/setgcint 5
        hash/setexpire 200
        hash/setminper 7
        hash/showinfo
        fstp/showinfo
        fstp/print
        fstp/bonus
        fstp/bonus 9 3 5
        fstp/bonus 0 99 5
        fstp/print 0
        fstp/print 7
        fstp/print 4095
        fstp/setedge
        fstp/setedge 5 1 1
        fstp/setedge 0 1 1
        port/showinfo
        port/print
        port/print 1
        port/print 2
        port/print 99
        port/create 4
        port/create 4
        port/create 33
        port/create5
        port/createauto
        port/print 4
        port/allprint
        port/allprint 4
        port/allprint 9
        port/remove 4
        port/remove 9
        port/remove 99
        port/remove 1
        port/setnumports 2
        port/setnumports 40
        port/setnumports 0
        port/setnumports x
        port/showinfo
        port/allocatable 5 0
        port/allocatable 5
        port/allocatable 9 1
        port/allocatable 99 1
        port/allprint 5
        port/allocatable 5 1
        port/setuser 5 root
        port/setuser 5 nosuchuser
        port/setuser 9 root
        port/setuser 99 root
        port/allprint 5
        port/setuser 5 12345
        port/setgroup 5 root
        port/setgroup 5 nosuchgroup
        port/allprint 5
        port/setuser 5 NONE
        port/setgroup 5 NONE
        port/setuser 5
        port/allprint 5
        port/epclose 5 0
        port/epclose 5
        port/epclose 1 9999
        port/epclose 9 1
        port/setvlan 5 7
        vlan/create 7
        vlan/create 7
        vlan/create 0
        vlan/create 4095
        vlan/create 4096
        vlan/create
        vlan/create 4093
        vlan/addport 7 9
        vlan/addport 7 99
        vlan/addport 8 1
        vlan/addport 7
        vlan/addport 7 1
        vlan/addport 7 1
        vlan/addport 0 1
        vlan/print
        vlan/allprint
        vlan/print 7
        vlan/print 8
        vlan/print 4095
        vlan/remove 7
        vlan/remove 0
        vlan/remove 9
        vlan/delport 7 1
        vlan/delport 7 1
        vlan/delport 0 1
        vlan/delport 9 1
        port/setvlan 5 7
        port/setvlan 9 7
        port/setvlan 99 7
        port/setvlan 5 4096
        port/setvlan 5
        vlan/addport 7 5
        vlan/delport 7 5
        vlan/allprint
        port/allprint 5
        port/setvlan 1 4095
        port/print
        vlan/print
        port/setvlan 1 0
        port/resetcounter 1
        port/resetcounter 99
        port/resetcounter
        port/print 1
        port/remove 5
        vlan/remove 7
        vlan/allprint 4093
        port/sethub 1
        port/showinfo
        port/sethub 0
        debug/add port/+
        debug/add port/+
        debug/del port/+
        debug/del port/+
        debug/add nosuch
        debug/del /
        debug/add port/ep
        debug/del port
        fstp/setfstp 1
        fstp/showinfo
        fstp/setfstp 0
        load /nonexistent
        load /dev/null";
    let [theirs, ours] = ["/usr/bin/vde_switch", OURS].map(|program| {
        let switch = Switch::start(program, &[]);
        let _plug = Plug::join(&switch, 1);
        let mut console = switch.console();
        let answer = |line: &str| mask(&switch, &console.ask(line.trim()));
        (script.lines().map(answer).collect::<Vec<_>>(), mask(&switch, &switch.console().greeting))
    });
    assert_eq!(ours.1, theirs.1);
    for (line, (ours, theirs)) in script.lines().zip(ours.0.iter().zip(&theirs.0)) {
        assert_eq!(ours, theirs, "{line}");
    }
}

#[test]
fn what_happens_to_ports_is_told_as_vde_switch_tells_it() {
    let told = ["/usr/bin/vde_switch", OURS].map(|program| {
        let switch = Switch::start(program, &[]);
        let mut console = switch.console();
        console.ask("debug/add port");
        let mut plug = Plug::begin(&switch, 3);
        let joined = console.read_until("port/descr Port 03", "\"\n");
        // vde_switch may miss that somebody leaves who has just joined.
        plug.send(&[0xff; 60]);
        let begun = Instant::now();
        while !console.ask("port/print 3").contains("IN:  pkts          1") {
            assert!(begun.elapsed() < PATIENCE, "no frame comes in");
        }
        drop(plug);
        let left = console.read_until("port/- 03", "\n");
        mask(&switch, &format!("{joined}{left}"))
    });
    assert_eq!(told[1], told[0]);
}

#[test]
fn files_are_loaded_as_vde_switch_loads_them() {
    let told = ["/usr/bin/vde_switch", OURS].map(|program| {
        let switch = Switch::start(program, &[]);
        fs::write(switch.dir.join("inner"), "# inner\nport/showinfo\nlogout\nnosuch").unwrap();
        let inner = switch.dir.join("inner").display().to_string();
        fs::write(switch.dir.join("outer"), format!("vlan/create 7\nvlan/create 7\nload {inner}\n")).unwrap();
        let answer = switch.console().ask(&format!("load {}", switch.dir.join("outer").display()));
        mask(&switch, &answer)
    });
    assert_eq!(told[1], told[0]);
}

#[test]
fn files_that_load_themselves_come_to_an_end() {
    let switch = Switch::start(OURS, &[]);
    let path = switch.dir.join("loop").display().to_string();
    fs::write(&path, format!("load {path}\n")).unwrap();
    let mut console = switch.console();
    let answer = console.ask(&format!("load {path}"));
    assert!(answer.contains("1040 Too many levels of symbolic links\n"), "{answer}");
    for (path, error) in [("/dev/zero", "1027 File too large"), (".", "1021 Is a directory")] {
        assert_eq!(console.ask(&format!("load {path}")), format!("{error}\n"));
    }
}

#[test]
fn the_driver_of_nixos_gets_its_answer_and_ends_the_switch() {
    let place = Place::new();
    let dir = place.0.join("ctl").display().to_string();
    let mut child = place.vde_switch(OURS, &["--sock", &dir, "--dirmode", "0700", "--hub"]).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    input.write_all(b"showinfo\n").unwrap();
    let answer = read_until(&mut output, "1000 Success\n");
    assert!(answer.starts_with("0000 DATA END WITH '.'\nVDE switch V."), "{answer}");
    assert!(fs::exists(format!("{dir}/ctl")).unwrap());
    drop(input);
    assert!(wait(&mut child));
    assert!(!fs::exists(&dir).unwrap());
}

#[test]
fn on_a_pipe_there_are_answers_and_nothing_else() {
    let place = Place::new();
    let dir = place.0.join("ctl").display().to_string();
    let mut child = place.vde_switch(OURS, &["-s", &dir]).spawn().unwrap();
    // The last line has no end but that of the input.
    child.stdin.take().unwrap().write_all(b"vlan/create 7\n\n# x\nlogout\nnosuch\nvlan/create 7").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "1000 Success\n1038 Function not implemented\n1017 File exists\n");
}

#[test]
fn standard_input_may_be_a_file_and_its_end_ends_the_switch() {
    let place = Place::new();
    let dir = place.0.join("ctl").display().to_string();
    let (input, output) = (place.0.join("in"), place.0.join("out"));
    fs::write(&input, "vlan/create 7\n".repeat(1000)).unwrap();
    fs::write(&output, "before\n").unwrap();
    let appended = File::options().append(true).open(&output).unwrap();
    let mut child =
        place.vde_switch(OURS, &["-s", &dir]).stdin(File::open(&input).unwrap()).stdout(appended).spawn().unwrap();
    assert!(wait(&mut child));
    assert_eq!(
        fs::read_to_string(&output).unwrap(),
        format!("before\n1000 Success\n{}", "1017 File exists\n".repeat(999))
    );
    let mut child = place.vde_switch(OURS, &["-s", &dir]).stdin(Stdio::null()).spawn().unwrap();
    assert!(wait(&mut child));
}

#[test]
fn with_nostdin_the_end_of_standard_input_means_nothing() {
    let switch = Switch::start(OURS, &["--nostdin"]);
    let mut console = switch.console();
    drop(switch.child.borrow_mut().stdin.take());
    assert!(console.ask("port/showinfo").starts_with("0000 DATA"));
    assert!(switch.console().ask("port/showinfo").starts_with("0000 DATA"));
}

#[test]
fn others_who_have_the_same_standard_input_find_it_as_it_was() {
    let place = Place::new();
    let dir = place.0.join("ctl").display().to_string();
    let (input, output) = (pipe(), pipe());
    let mut child = place
        .vde_switch(OURS, &["-s", &dir])
        .stdin(Stdio::from(input.0.try_clone().unwrap()))
        .stdout(Stdio::from(output.1.try_clone().unwrap()))
        .spawn()
        .unwrap();
    File::from(input.1).write_all(b"port/showinfo\n").unwrap();
    assert!(wait(&mut child));
    for fd in [&input.0, &output.1] {
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0);
    }
}

#[test]
fn a_terminal_has_a_prompt() {
    let place = Place::new();
    let dir = place.0.join("ctl").display().to_string();
    let (mut ours, theirs) = terminal();
    let ends = [theirs.try_clone().unwrap(), theirs];
    let [input, output] = ends.map(Stdio::from);
    let mut child = place.vde_switch(OURS, &["-s", &dir]).stdin(input).stdout(output).spawn().unwrap();
    ours.write_all(b"vlan/create 7\n").unwrap();
    assert_eq!(read_until(&mut ours, "vde$ "), "vlan/create 7\r\n1000 Success\r\n\r\nvde$ ");
    ours.write_all(b"logout\nvlan/create 7\n").unwrap();
    let answer = read_until(&mut ours, "vde$ ");
    assert!(answer.ends_with("1017 File exists\r\n\r\nvde$ "), "{answer}");
    // Control-D.
    ours.write_all(&[4]).unwrap();
    assert!(wait(&mut child));
}

#[test]
fn a_standard_output_that_nobody_reads_holds_nothing_up() {
    let switch = Switch::start(OURS, &[]);
    let mut input = switch.child.borrow_mut().stdin.take().unwrap();
    // More than a pipe holds.
    input.write_all(&b"help\n".repeat(100)).unwrap();
    assert!(switch.console().ask("port/showinfo").starts_with("0000 DATA"));
    drop(input);
    // It waits for its last words to be read, and not for ever.
    assert!(wait(&mut switch.child.borrow_mut()));
}

#[test]
fn unixcmd_and_unixterm_talk_to_it() {
    let switch = Switch::start(OURS, &[]);
    let socket = switch.mgmt();
    let output = Command::new("unixcmd").args(["-s", &socket, "-f", "/etc/vde2/vdecmd", "port/showinfo"]).output();
    // It puts a NUL behind each line, and always exits 255.
    assert_eq!(text(&output.unwrap().stdout).replace('\0', ""), "Numports=32\nHUB=false\ncounters=true\n");

    let mut terminal =
        Command::new("unixterm").arg(&socket).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    assert!(read_until(&mut output, "vde$ ").starts_with("VDE switch V."));
    input.write_all(b"vlan/create 7\n").unwrap();
    assert_eq!(read_until(&mut output, "vde$ "), "1000 Success\n\nvde$ ");
    input.write_all(b"logout\n").unwrap();
    assert!(wait(&mut terminal));
}

#[test]
fn a_client_that_has_said_all_gets_every_answer() {
    let switch = Switch::start(OURS, &[]);
    let mut stream = UnixStream::connect(switch.mgmt()).unwrap();
    stream.write_all(b"vlan/create 7\nvlan/create 7").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("vde$ 1000 Success\n\nvde$ 1017 File exists\n\nvde$ "), "{answer}");
}

#[test]
fn a_large_table_arrives_whole_and_a_console_that_does_not_read_holds_up_nobody() {
    let place = Place::new();
    let mut rc = "port/create 1\n".to_owned();
    for file in 0..5u32 {
        let path = place.0.join(format!("stations{file}"));
        let stations = (0..20_000u32).map(|number| {
            let [_, a, b, c] = (file * 20_000 + number).to_be_bytes();
            format!("hash/add 02:00:00:{a:02x}:{b:02x}:{c:02x} 1\n")
        });
        fs::write(&path, stations.collect::<String>()).unwrap();
        rc.push_str(&format!("load {}\n", path.display()));
    }
    let path = place.0.join("rc");
    fs::write(&path, rc).unwrap();
    let switch = Switch::start(OURS, &["-f", path.to_str().unwrap()]);
    let mut silent = UnixStream::connect(switch.mgmt()).unwrap();
    silent.write_all(&b"hash/print\n".repeat(50)).unwrap();
    let table = switch.console().ask("hash/print");
    assert_eq!(table.lines().count(), 100_000 + 3);
    assert!(table.contains("Addr: 02:00:00:01:86:9f VLAN 0000 to port: 001  static\n"), "the last is missing");
    // It has the whole of what it asked for, when it reads.
    silent.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    silent.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("Addr: ").count(), 50 * 100_000);
}

#[test]
fn a_line_without_end_is_refused_when_it_ends() {
    let switch = Switch::start(OURS, &[]);
    let mut console = switch.console();
    console.stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(console.ask(""), "1007 Argument list too long\n");
    assert_eq!(console.ask("vlan/create 7"), "1000 Success\n");
    assert_eq!(console.ask("\u{1b}[2J\u{0}\u{ff}"), "1038 Function not implemented\n");
}

#[test]
fn consoles_beyond_the_last_are_sent_off_and_there_is_room_when_one_leaves() {
    let switch = Switch::start(OURS, &[]);
    let mut consoles: Vec<_> = (0..64).map(|_| switch.console()).collect();
    let mut one_more = UnixStream::connect(switch.mgmt()).unwrap();
    assert_eq!(one_more.read(&mut [0; 10]).unwrap(), 0);
    let mut last = consoles.pop().unwrap();
    last.stream.write_all(b"logout\n").unwrap();
    assert_eq!(last.read_until("9999", ""), "9999 END OF SESSION");
    assert!(switch.console().ask("port/showinfo").starts_with("0000 DATA"));
}

#[test]
fn shutdown_ends_the_switch_and_takes_its_sockets_away() {
    let switch = Switch::start(OURS, &[]);
    let mut console = switch.console();
    console.stream.write_all(b"shutdown\n").unwrap();
    assert_eq!(console.read_until("9999", ""), "9999 END OF SESSION");
    assert!(wait(&mut switch.child.borrow_mut()));
    assert!(!fs::exists(switch.mgmt()).unwrap());
}

#[test]
fn the_management_socket_is_recovered_and_nothing_else_is_replaced() {
    let place = Place::new();
    let mgmt = place.0.join("mgmt");
    let args = |number: u32| ["-s".to_owned(), place.0.join(format!("ctl{number}")).display().to_string()];
    let start = |number| {
        let [s, dir] = args(number);
        let mut command = place.vde_switch(OURS, &["-M", mgmt.to_str().unwrap(), "--mgmtmode", "660", &s, &dir]);
        command.stderr(Stdio::piped()).spawn().unwrap()
    };
    let fails_with = |mut child: Child, words: &str| {
        assert!(!wait(&mut child));
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    };
    // Left behind by one that has died.
    drop(UnixListener::bind(&mgmt).unwrap());
    let mut first = start(1);
    Console::connect(&mgmt);
    assert_eq!(fs::metadata(&mgmt).unwrap().permissions().mode() & 0o777, 0o660);
    fails_with(start(2), "another program listens there");
    drop(first.stdin.take());
    assert!(wait(&mut first));
    assert!(!fs::exists(&mgmt).unwrap());
    fs::write(&mgmt, "precious").unwrap();
    fails_with(start(3), "is no socket");
    assert_eq!(fs::read_to_string(&mgmt).unwrap(), "precious");
}

#[test]
fn errors_in_the_rc_file_are_named_by_file_and_line() {
    let place = Place::new();
    let (rc, dir) = (place.0.join("rc"), place.0.join("ctl").display().to_string());
    fs::write(&rc, "vlan/create 7\n\n# x\nvlan/create 7\nport/creat 1\nvlan/addport 7\nvlan/create 8\n").unwrap();
    let rc = rc.display().to_string();
    let mut child = place.vde_switch(OURS, &["-s", &dir, "-f", &rc]).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"vlan/print\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("VLAN 0007\nVLAN 0008\n"), "what follows an error is carried out");
    let expected = [
        format!("{rc}:4: 1017 File exists"),
        format!("{rc}:5: 1038 Function not implemented: there is no such command"),
        format!("{rc}:6: 1022 Invalid argument: vlan/addport takes: N PORT"),
    ];
    let said = text(&output.stderr);
    let said: Vec<_> = said.lines().map(|line| line.trim_start_matches("vde_switch: warn: ")).collect();
    assert_eq!(said, expected);
    let missing = format!("{rc}.missing");
    let mut child = place.vde_switch(OURS, &["-s", &dir, "-f", &missing]).stderr(Stdio::piped()).spawn().unwrap();
    assert!(!wait(&mut child));
    let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(said, format!("vde_switch: {missing}: 1002 No such file or directory\n"));
}

/// The program under test.
const OURS: &str = env!("CARGO_BIN_EXE_vswitch");

/// A directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vswitch-console-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// A switch under the name of vde_switch, with pipes for standard input and output, in no one's home.
    fn vde_switch(&self, program: &str, args: &[&str]) -> Command {
        let link = self.0.join("vde_switch");
        let _ = symlink(program, &link);
        let mut command = Command::new(&link);
        command.args(args).env("HOME", &self.0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A switch with a management socket; it is killed when this is dropped.
struct Switch {
    child: std::cell::RefCell<Child>,
    dir: PathBuf,
    _place: Place,
}

impl Switch {
    fn start(program: &str, args: &[&str]) -> Self {
        let place = Place::new();
        let dir = place.0.clone();
        let [ctl, mgmt] = ["ctl", "mgmt"].map(|name| dir.join(name).display().to_string());
        let mut all = vec!["-s", &ctl, "-M", &mgmt];
        all.extend(args);
        let child = place.vde_switch(program, &all).stderr(Stdio::null()).spawn().unwrap();
        Console::connect(Path::new(&mgmt));
        Self { child: child.into(), dir, _place: place }
    }

    /// Its management socket, which [`Switch::start`] has waited for.
    fn mgmt(&self) -> String {
        self.dir.join("mgmt").display().to_string()
    }

    fn console(&self) -> Console {
        Console::connect(&self.dir.join("mgmt"))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A session on the management socket.
struct Console {
    stream: UnixStream,
    greeting: String,
}

impl Console {
    fn connect(path: &Path) -> Self {
        let begun = Instant::now();
        let mut stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{}: {error}", path.display()),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let greeting = read_until(&mut stream, "vde$ ");
        Self { stream, greeting }
    }

    /// Says a line, and returns what is said in return, without the prompt.
    fn ask(&mut self, line: &str) -> String {
        self.stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let answer = read_until(&mut self.stream, "\nvde$ ");
        answer.trim_end_matches("\nvde$ ").to_owned()
    }

    /// Reads until there are some words, and then some more.
    fn read_until(&mut self, words: &str, end: &str) -> String {
        let mut said = String::new();
        while !said
            .split_once(words)
            .is_some_and(|(_, rest)| rest.contains(end) && !(end.is_empty() && rest.len() < 15))
        {
            said.push_str(&read_some(&mut self.stream));
        }
        said
    }
}

/// A vde_plug on a port of a switch; it ends when this is dropped.
struct Plug(Child);

impl Plug {
    /// It is about to join.
    fn begin(switch: &Switch, port: u32) -> Self {
        let url = format!("vde://{}/ctl[{port}]", switch.dir.display());
        Self(Command::new("vde_plug").arg(url).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Sends a frame.
    fn send(&mut self, frame: &[u8]) {
        let len = u16::try_from(frame.len()).unwrap().to_be_bytes();
        self.0.stdin.as_mut().unwrap().write_all(&[&len, frame].concat()).unwrap();
    }

    /// It has joined.
    fn join(switch: &Switch, port: u32) -> Self {
        let plug = Self::begin(switch, port);
        let begun = Instant::now();
        while !switch.console().ask(&format!("port/print {port}")).contains("endpoint") {
            assert!(begun.elapsed() < PATIENCE, "vde_plug does not join");
            thread::sleep(Duration::from_millis(10));
        }
        plug
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What two switches say of the same, without what must differ: names of programs, addresses, process ids, times, the
/// numbers of endpoints, and costs, which are of two generations of the standard.
fn mask(switch: &Switch, said: &str) -> String {
    let said = said.replace(&switch.dir.display().to_string(), "DIR");
    let lines = said.lines().filter(|line| !line.starts_with("(C) ")).map(|line| {
        if line.starts_with("VDE switch V.") {
            return "VDE switch".to_owned();
        }
        let mut before = "";
        let words = line.split(' ').map(|word| {
            let word = match before {
                "pid" | "uptime" | "ID" | "FD" | "age" if word.parse::<u32>().is_ok() => "N",
                _ if word.starts_with("pid=") => "pid=N",
                _ if word.starts_with("portcost=") => "portcost=N",
                _ if word.split(':').count() >= 6 => "MAC",
                _ => word,
            };
            if !word.is_empty() {
                before = word;
            }
            word
        });
        // A number of one digit has a space before it.
        words.collect::<Vec<_>>().join(" ").replace("FD  N", "FD N")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Waits until a program has ended; whether it succeeded.
fn wait(child: &mut Child) -> bool {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Reads until what was read ends so.
fn read_until(from: &mut (impl Read + AsRawFd), end: &str) -> String {
    let mut said = String::new();
    while !said.ends_with(end) {
        said.push_str(&read_some(from));
    }
    said
}

fn read_some(from: &mut (impl Read + AsRawFd)) -> String {
    let mut question = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which lives through the call.
    let ready = unsafe { libc::poll(&raw mut question, 1, PATIENCE.as_millis() as i32) };
    assert_eq!(ready, 1, "nothing more is said");
    let mut buffer = [0; 65536];
    let count = from.read(&mut buffer).unwrap();
    assert_ne!(count, 0, "nothing more will be said");
    text(&buffer[..count])
}

/// The read end of a pipe, and the write end.
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: there is room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    owned(fds)
}

/// A terminal: the side of who types, and the side of the program.
fn terminal() -> (File, OwnedFd) {
    let mut fds = [0; 2];
    let [ours, theirs] = &mut fds;
    let none = std::ptr::null_mut();
    // SAFETY: there is room for two descriptors, and nothing else is asked for.
    assert_eq!(unsafe { libc::openpty(ours, theirs, none, std::ptr::null(), std::ptr::null()) }, 0);
    for fd in fds {
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }, 0);
    }
    let (ours, theirs) = owned(fds);
    (ours.into(), theirs)
}

fn owned([a, b]: [i32; 2]) -> (OwnedFd, OwnedFd) {
    // SAFETY: the descriptor is new and nobody else's.
    let first = unsafe { OwnedFd::from_raw_fd(a) };
    // SAFETY: likewise.
    (first, unsafe { OwnedFd::from_raw_fd(b) })
}
