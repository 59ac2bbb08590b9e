//! Watching a switch from outside: the commands, the socket behind them, captures as tshark reads them, the figures.
//!
//! Each test has a switch of its own in a temporary directory. Its clients are VDE links of ours in this process.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use link::{Checksum, Fragment, GsoType, Link, TxBatch, Vde, VdeConfig, VnetHeader};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const BROADCAST: [u8; 6] = [0xff; 6];
const ALICE: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const BOB: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

/// A running switch with its directory, which goes when this is dropped.
struct Lab {
    place: PathBuf,
    switch: Child,
}

impl Lab {
    fn new(options: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("vswitch-watch-{}-{number}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let switch = start(&place, options);
        let lab = Self { place, switch };
        let socket = lab.dir().join(if options.contains(&"--no-api") { "ctl" } else { "api" });
        wait_until("the switch listens", || UnixStream::connect(&socket).is_ok());
        lab
    }

    fn dir(&self) -> PathBuf {
        self.place.join("sw")
    }

    /// Runs a command of the switch's program on it.
    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
        command.arg(words[0]).arg("-s").arg(self.dir()).args(&words[1..]).stdin(Stdio::null());
        command
    }

    /// What a command that succeeds prints.
    fn say(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.say(words)).unwrap()
    }

    /// A client with a name.
    fn join(&self, name: &str) -> Station {
        let config = VdeConfig { dir: Some(self.dir()), description: Some(name.to_owned()), ..VdeConfig::default() };
        Station(Vde::open(&config).unwrap())
    }

    /// A connection to the socket of the watching commands.
    fn watch(&self) -> Watcher {
        let stream = UnixStream::connect(self.dir().join("api")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Watcher(BufReader::new(stream))
    }

    /// A port as `show --json` has it.
    fn port(&self, number: u64) -> Value {
        let shown = self.json(&["show", "--json"]);
        shown["ports"].as_array().unwrap().iter().find(|port| port["port"] == number).unwrap().clone()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap()
    }

    /// Ends the switch by SIGTERM.
    fn end(&mut self) {
        // SAFETY: no pointers; the process is a child that has not been waited for.
        unsafe { libc::kill(self.switch.id() as i32, libc::SIGTERM) };
        assert_eq!(self.switch.wait().unwrap().code(), Some(0), "{}", self.log());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.switch.kill();
        let _ = self.switch.wait();
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn start(place: &Path, options: &[&str]) -> Child {
    let log = File::options().create(true).append(true).open(place.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitch"));
    command.arg("-s").arg(place.join("sw")).args(["--nostdin", "-f", "/dev/null"]).args(options);
    command.env("ETHERLOOM_LOG", "info").current_dir(place).stdin(Stdio::null()).stderr(log).spawn().unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not so: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// A client of the switch.
struct Station(Vde);

impl Station {
    /// Sends a frame, however long the switch takes to have room for it.
    fn send(&mut self, header: VnetHeader, bytes: &[u8]) {
        let mut batch = TxBatch::new();
        batch.push(header, [Fragment::new(bytes)]);
        wait_until("a frame is sent", || self.0.send(&batch).unwrap() == 1);
    }

    fn send_plain(&mut self, to: [u8; 6], from: [u8; 6], payload: usize) {
        self.send(VnetHeader::WHOLE, &frame(to, from, payload));
    }
}

fn frame(to: [u8; 6], from: [u8; 6], payload: usize) -> Vec<u8> {
    let mut frame = [to.as_slice(), &from, &[0x88, 0xb5]].concat();
    frame.resize(14 + payload, 0x5a);
    frame
}

/// A TCP segment over IPv4 of so many bytes of payload, with the checksum left to be done.
fn tcp(payload: usize) -> (VnetHeader, Vec<u8>) {
    let total = u16::try_from(40 + payload).unwrap();
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    let sum = ones_sum(&ip);
    ip[10..12].copy_from_slice(&(!sum).to_be_bytes());
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend((total - 20).to_be_bytes());
    let mut segment = vec![0x04, 0, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 0x20, 0, 0, 0, 0, 0];
    segment[16..18].copy_from_slice(&ones_sum(&pseudo).to_be_bytes());
    segment.extend((0..payload).map(|place| place as u8));
    let bytes = [BOB.as_slice(), &ALICE, &[8, 0], &ip, &segment].concat();
    (VnetHeader { checksum: Checksum::Partial { start: 34, offset: 16 }, ..VnetHeader::WHOLE }, bytes)
}

fn ones_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A connection to the socket of the watching commands.
struct Watcher(BufReader<UnixStream>);

impl Watcher {
    fn ask(&mut self, request: &str) {
        // A switch with no place for this watcher has said so, and closed.
        let _ = self.0.get_ref().write_all(format!("{request}\n").as_bytes());
    }

    /// The next line; none at the end.
    fn hear(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.0.read_line(&mut line).unwrap() > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    fn hear_error(&mut self) -> String {
        self.hear().unwrap()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The lines of an answer, up to its end.
    fn hear_all(&mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.hear().filter(|line| line.get("end").is_none())).collect()
    }

    fn close_sending(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }
}

#[test]
fn show_names_ports_clients_and_traffic() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut alice = lab.join("alice\x1b[2J");
    for _ in 0..10 {
        alice.send_plain(BROADCAST, ALICE, 100);
    }
    alice.send_plain(BROADCAST, [3, 0, 0, 0, 0, 1], 100);
    wait_until("all frames have come in", || lab.port(2)["receive_frames"] == 11);

    let shown = lab.json(&["show", "--json"]);
    let switch = &shown["switch"];
    assert_eq!((&switch["name"], &switch["numports"], &switch["stations"]), (&"vswitch".into(), &32.into(), &1.into()));
    assert_eq!(switch["pid"], lab.switch.id());
    assert_eq!(switch["dir"], fs::canonicalize(lab.dir()).unwrap().to_str().unwrap());
    let port = lab.port(2);
    assert_eq!((&port["state"], &port["carrier"]), (&"forwarding".into(), &true.into()));
    assert_eq!((&port["receive_bytes"], &port["drops"]["reserved"]), (&(11 * 114).into(), &1.into()));
    let member = &port["members"][0];
    assert_eq!((&member["kind"], &member["peer"]["pid"]), (&"client".into(), &std::process::id().into()));
    assert_eq!(member["description"], r"alice\x1b[2J");
    assert_eq!(lab.port(1)["transmit_frames"], 10);

    let table = lab.say(&["show"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].ends_with(": 2 of 32 ports, 1 station"), "{table}");
    assert!(lines[1].starts_with("rates over 0.2") || lines[1].starts_with("rates over 0.3"), "{table}");
    assert!(lines[2].starts_with("PORT KIND NAME"), "{table}");
    assert!(lines[3].starts_with("   1 null -"), "{table}");
    assert!(lines[4].starts_with(r"   2 vde  alice\x1b[2J"), "{table}");
    assert_eq!(lines[5], "     dropped: 1 reserved");
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{table}");
}

#[test]
fn show_again_appends_where_there_is_no_terminal_and_ends_with_its_reader() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut show = lab.command(&["show", "--json", "--watch=0.1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(show.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let shown: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(shown["ports"].as_array().unwrap().len(), 1);
    }
    drop(lines);
    assert_eq!(show.wait().unwrap().code(), Some(0));

    let mut show = lab.command(&["show", "--watch=0.1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(show.stdout.take().unwrap());
    let mut text = String::new();
    while text.matches("PORT KIND").count() < 2 {
        assert!(output.read_line(&mut text).unwrap() > 0, "{text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
    // SAFETY: no pointers; the process is a child that has not been waited for.
    unsafe { libc::kill(show.id() as i32, libc::SIGTERM) };
    assert_eq!(show.wait().unwrap().code(), Some(0));
}

#[test]
fn show_on_a_terminal_draws_in_place_and_gives_the_cursor_back() {
    let lab = Lab::new(&["--port", "null://"]);
    let line = format!("{} show -s {} --watch=0.1", env!("CARGO_BIN_EXE_vswitch"), lab.dir().display());
    // script(1) makes the terminal; it passes its standard input on, so a byte 3 is Ctrl-C, which is not ignored here
    // whatever the tests were told to ignore.
    let mut script = Command::new("env")
        .args(["--default-signal", "script"])
        .args(["-q", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = script.stdin.take().unwrap();
    let mut output = BufReader::new(script.stdout.take().unwrap());
    let mut seen = Vec::new();
    while String::from_utf8_lossy(&seen).matches("PORT KIND").count() < 3 {
        assert!(output.read_until(b'\n', &mut seen).unwrap() > 0);
    }
    input.write_all(&[3]).unwrap();
    output.read_to_end(&mut seen).unwrap();
    assert!(script.wait().unwrap().success());
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.contains("\x1b[?25l") && seen.matches("\x1b[H").count() >= 3 && !seen.contains("\x1b[2J"), "{seen:?}");
    let (_, after) = seen.rsplit_once("\x1b[?25h\x1b[?1049l").unwrap();
    assert!(after.contains("PORT KIND"), "{after:?}");
}

#[test]
fn mac_and_explain_tell_where_stations_are() {
    let lab = Lab::new(&["--port", "null://"]);
    let (mut alice, mut bob) = (lab.join("alice"), lab.join("bob"));
    bob.send_plain(BROADCAST, BOB, 50);
    alice.send_plain(BROADCAST, ALICE, 50);
    wait_until("both are known", || lab.json(&["show", "--json"])["switch"]["stations"] == 2);
    let table = lab.say(&["mac"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "VLAN ADDRESS           PORT AGE");
    assert!(lines[1].starts_with("   0 02:00:00:00:00:0a    2"), "{table}");
    assert!(lines[2].starts_with("   0 02:00:00:00:00:0b    3"), "{table}");
    let stations = lab.json(&["mac", "--json"]);
    assert_eq!((&stations["stations"][1]["port"], &stations["stations"][1]["static"]), (&3.into(), &false.into()));

    let text = lab.say(&["explain", "02:00:00:00:00:0a", "02:00:00:00:00:0b"]);
    assert!(text.contains("source: on port 2 in VLAN 0") && text.contains("leaves by port 3, as it is"), "{text}");
    let text = lab.say(&["explain", "--port", "1", "02:00:00:00:00:0c", "02:00:00:00:00:0d"]);
    assert!(text.contains("ingress: port 1") && text.contains("leaves by port 2"), "{text}");
    let mut watcher = lab.watch();
    watcher.ask(r#"{"explain":{"port":2,"source":"2:0:0:0:0:a","destination":"2:0:0:0:0:b"}}"#);
    let explanation = &watcher.hear().unwrap()["explanation"];
    assert_eq!((&explanation["verdict"], &explanation["egress"][0]["port"]), (&"forward".into(), &3.into()));
}

#[test]
fn long_answers_come_whole() {
    let ports = ["--port", "null://"].repeat(300);
    let lab = Lab::new(&[["--numports", "400"].as_slice(), &ports].concat());
    let mut alice = lab.join("alice");
    for number in 0..5000u32 {
        let [a, b, c, d] = number.to_be_bytes();
        alice.send_plain(BROADCAST, [2, 1, a, b, c, d], 50);
    }
    wait_until("all stations are known", || lab.json(&["show", "--json"])["switch"]["stations"] == 5000);
    let shown = lab.json(&["show", "--json"]);
    let numbers: Vec<u64> =
        shown["ports"].as_array().unwrap().iter().map(|port| port["port"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=301).collect::<Vec<u64>>());
    let stations = lab.json(&["mac", "--json"]);
    let addresses: HashSet<&str> =
        stations["stations"].as_array().unwrap().iter().map(|station| station["address"].as_str().unwrap()).collect();
    assert_eq!(addresses.len(), 5000);
    // Several requests at once are answered in order, also those without an end of line.
    let mut watcher = lab.watch();
    watcher.0.get_ref().write_all(b"{\"show\":{}}\n\n{\"mac\":{}}\n{\"show\":{}}").unwrap();
    watcher.close_sending();
    assert_eq!([watcher.hear_all().len(), watcher.hear_all().len(), watcher.hear_all().len()], [302, 5000, 302]);
    assert_eq!(watcher.hear(), None);
}

#[test]
fn events_are_told_as_they_happen() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut follower = lab.watch();
    follower.ask(r#"{"events":{}}"#);
    assert!(follower.hear().unwrap().get("following").is_some());
    let alice = lab.join("alice");
    let mut next = || follower.hear().unwrap()["event"].clone();
    let event = next();
    assert_eq!((&event["event"], &event["port"]), (&"port_added".into(), &2.into()));
    let event = next();
    assert_eq!((&event["event"], &event["name"]), (&"joined".into(), &"vde:alice".into()));
    assert_eq!(event["text"], "port 2: vde:alice joined");
    assert_eq!(event["time"].as_str().unwrap().len(), "2026-03-01T12:34:56.789Z".len());
    drop(alice);
    assert_eq!(next()["event"], "left");

    for (words, is_json) in [(["events", "--json"].as_slice(), true), (&["events"], false)] {
        let mut events = lab.command(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(events.stdout.take().unwrap());
        // When it has begun to follow is not known: something happens until it has seen some of it.
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let mut line = String::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    drop(lab.join("bob"));
                    sleep(Duration::from_millis(20));
                }
            });
            output.read_line(&mut line).unwrap();
            is_over.store(true, Ordering::Relaxed);
        });
        if is_json {
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["port"], 2, "{line}");
        } else {
            assert!(line.contains(" port 2: vde:bob "), "{line}");
        }
        // Its reader goes, and so does it, although nothing happens.
        drop(output);
        assert_eq!(events.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_follower_that_does_not_read_is_told_how_much_it_missed() {
    let lab = Lab::new(&[]);
    let mut follower = lab.watch();
    follower.ask(r#"{"events":{}}"#);
    assert!(follower.hear().unwrap().get("following").is_some());
    const REFUSED: u64 = 8000;
    for _ in 0..REFUSED {
        let mut client = UnixStream::connect(lab.dir().join("ctl")).unwrap();
        client.write_all(b"garbage!garbage!").unwrap();
        // Until it is closed: everything has happened then.
        let _ = client.read(&mut [0]);
    }
    // One that reads hears that the switch goes on.
    assert_eq!(lab.json(&["show", "--json"])["switch"]["numports"], 32);
    let (mut told, mut missed) = (0, 0);
    while told + missed < REFUSED {
        let event = follower.hear().unwrap()["event"].clone();
        match event["event"].as_str().unwrap() {
            "refused" => told += 1,
            "missed" => missed += event["missed"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert_eq!(told + missed, REFUSED);
    assert!(missed > 0, "everything was told, so nothing was shown");
    // And it goes on to hear.
    let _bob = lab.join("bob");
    assert_eq!(follower.hear().unwrap()["event"]["event"], "port_added");
}

#[test]
fn tshark_reads_what_dump_writes() {
    let lab = Lab::new(&["--port", "null://"]);
    let (mut alice, mut bob) = (lab.join("alice"), lab.join("bob"));
    bob.send_plain(BROADCAST, BOB, 50);
    wait_until("bob is known", || lab.json(&["show", "--json"])["switch"]["stations"] == 1);
    let file = lab.place.join("a.pcapng");
    let mut dump = lab.command(&["dump", "2", "-w", file.to_str().unwrap()]).spawn().unwrap();
    let piped = lab.command(&["dump", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("both captures are open", || lab.log().matches("captures it").count() == 2);

    alice.send_plain(BROADCAST, ALICE, 50);
    alice.send_plain(BROADCAST, [3, 0, 0, 0, 0, 1], 60);
    let (header, bytes) = tcp(100);
    alice.send(header, &bytes);
    let (header, bytes) = tcp(30_000);
    alice.send(VnetHeader { gso_type: GsoType::TcpV4, gso_size: 1448, hdr_len: 54, ..header }, &bytes);
    wait_until("all have come in", || lab.port(2)["receive_frames"] == 4);
    bob.send_plain(ALICE, BOB, 70);
    wait_until("all have passed", || lab.port(2)["transmit_frames"] == 2);
    for child in [&dump, &piped] {
        // SAFETY: no pointers; the process is a child that has not been waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    }
    assert_eq!(dump.wait().unwrap().code(), Some(0));
    let piped = piped.wait_with_output().unwrap();
    assert_eq!((piped.status.code(), piped.stderr.as_slice()), (Some(0), b"".as_slice()));
    assert_eq!(blocks(&piped.stdout).packets.len(), 5);
    wait_until("the captures have ended", || lab.log().matches("has ended its capture").count() == 2);

    let fields =
        ["frame.len", "frame.interface_name", "frame.packet_flags_direction", "tcp.checksum.status", "frame.comment"];
    let fields = fields.into_iter().flat_map(|field| ["-e", field]);
    let output = Command::new("tshark")
        .args(["-n", "-o", "tcp.check_checksum:TRUE", "-T", "fields", "-E", "separator=|", "-r"])
        .arg(&file)
        .args(fields)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A checksum status of 1 is good. Directions: 1 in, 2 out.
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(),
        [
            "64|port 2 (vde:alice)|0x00000001||",
            "74|port 2 (vde:alice)|0x00000001||dropped by the switch: reserved",
            "154|port 2 (vde:alice)|0x00000001|1|",
            "30054|port 2 (vde:alice)|0x00000001|1|still to be cut into TCP segments of 1448 bytes",
            "84|port 2 (vde:alice)|0x00000002||",
        ]
    );
    let output = Command::new("capinfos").arg("-M").arg(&file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for fact in
        ["nanoseconds (9)", "Capture application: vswitch ", "Number of packets:   5\n", "Strict time order:   True"]
    {
        assert!(text.contains(fact), "{fact}: {text}");
    }
}

#[test]
fn a_capture_that_is_not_read_loses_frames_and_counts_them() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut alice = lab.join("alice");
    let mut watcher = lab.watch();
    watcher.ask(r#"{"dump":{"port":1}}"#);
    assert_eq!(watcher.hear().unwrap()["capture"]["name"], "null://");
    let (header, bytes) = tcp(60_000);
    let header = VnetHeader { gso_type: GsoType::TcpV4, gso_size: 1448, hdr_len: 54, ..header };
    const SENT: u64 = 600;
    for _ in 0..SENT {
        alice.send(header, &bytes);
    }
    wait_until("all have passed", || lab.port(1)["transmit_frames"] == SENT);
    assert_eq!(lab.port(1)["drops"], serde_json::json!({}));
    let resident = fs::read_to_string(format!("/proc/{}/status", lab.switch.id())).unwrap();
    let resident = resident.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
    let kilobytes: u64 = resident.trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 64 * 1024, "the switch holds {kilobytes} kB");
    watcher.close_sending();
    let mut file = Vec::new();
    watcher.0.read_to_end(&mut file).unwrap();
    let blocks = blocks(&file);
    let (kept, missed) = (blocks.packets.len() as u64, blocks.statistics[&5]);
    assert!(kept > 100 && missed > 100, "{kept} kept, {missed} missed");
    assert_eq!((blocks.statistics[&4], blocks.statistics[&8], kept + missed), (SENT, kept, SENT));
    // Those that were lost in between are also told of where they are missing.
    assert!(blocks.dropped <= missed);
}

/// A pcapng file taken apart by its lengths alone.
struct Blocks {
    packets: Vec<Vec<u8>>,
    /// Frames missed, by the packets' own word.
    dropped: u64,
    statistics: HashMap<u16, u64>,
}

fn blocks(file: &[u8]) -> Blocks {
    let mut found = Blocks { packets: Vec::new(), dropped: 0, statistics: HashMap::new() };
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    let number = |value: &[u8]| u64::from_ne_bytes(value.try_into().unwrap());
    let mut at = 0;
    let mut kinds = Vec::new();
    while at < file.len() {
        let (kind, len) = (word(at), word(at + 4) as usize);
        assert_eq!((len % 4, word(at + len - 4) as usize), (0, len));
        let body = &file[at + 8..at + len - 4];
        match kind {
            6 => {
                let captured = word(at + 20) as usize;
                found.packets.push(body[20..20 + captured].to_vec());
                for (code, value) in options(&body[20 + captured.next_multiple_of(4)..]) {
                    found.dropped += if code == 4 { number(value) } else { 0 };
                }
            }
            5 => {
                found.statistics = options(&body[12..]).into_iter().map(|(code, value)| (code, number(value))).collect()
            }
            _ => {}
        }
        kinds.push(kind);
        at += len;
    }
    assert_eq!(kinds[..2], [0x0a0d_0d0a, 1]);
    assert_eq!(kinds.last(), Some(&5));
    found
}

fn options(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    loop {
        let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
        let len = usize::from(u16::from_ne_bytes([bytes[2], bytes[3]]));
        if code == 0 {
            assert_eq!(bytes.len(), 4);
            return options;
        }
        options.push((code, &bytes[4..4 + len]));
        bytes = &bytes[4 + len.next_multiple_of(4)..];
    }
}

#[test]
fn dump_refuses_a_terminal_and_ports_that_do_not_exist() {
    let lab = Lab::new(&["--port", "null://"]);
    let line = format!("{} dump -s {} 1", env!("CARGO_BIN_EXE_vswitch"), lab.dir().display());
    let output = Command::new("script").args(["-q", "-e", "-c", &line, "/dev/null"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("a capture is nothing for a terminal") && text.contains("vswitch dump 1 | wireshark"),
        "{text}"
    );
    let output = lab.run(&["dump", "9", "-w", "never"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "vswitch: port 9 does not exist\n");
    assert!(!Path::new("never").exists());
}

#[test]
fn the_switch_going_ends_those_who_follow_it() {
    let mut lab = Lab::new(&["--port", "null://"]);
    let commands = [["events"].as_slice(), &["show", "--watch=0.1"], &["dump", "1"]];
    let children: Vec<Child> = commands
        .iter()
        .map(|words| lab.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    wait_until("they follow", || lab.log().contains("captures it") && count_watchers(&lab) >= 3);
    lab.end();
    assert!(!lab.dir().exists(), "the directory is left behind");
    for (child, words) in children.into_iter().zip(commands) {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{words:?}: {error}");
        assert!(error.contains("has ended"), "{error}");
    }
}

/// Connections to the socket of the watching commands.
fn count_watchers(lab: &Lab) -> usize {
    let path = fs::canonicalize(lab.dir()).unwrap().join("api");
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    // The listening socket has the same path.
    sockets.lines().filter(|line| line.ends_with(path.to_str().unwrap())).count() - 1
}

#[test]
fn hostile_watchers_harm_nobody() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut alice = lab.join("alice");
    let silent: Vec<Watcher> = (0..200).map(|_| lab.watch()).collect();
    let mut followers: Vec<Watcher> = (0..20).map(|_| lab.watch()).collect();
    for follower in &mut followers {
        follower.ask(r#"{"events":{}}"#);
    }
    for garbage in ["hello", "{\"show\":", "{\"show\":{\"x\":[[[[", "\u{0}", "[1,2", "{\"dump\":{\"port\":70000}}"] {
        let mut watcher = lab.watch();
        watcher.ask(garbage);
        assert!(!watcher.hear_error().is_empty());
        // The next question is answered all the same.
        watcher.ask(r#"{"mac":{}}"#);
        assert_eq!(watcher.hear_all().len(), 0);
    }
    let mut long = lab.watch();
    let megabyte = vec![b'x'; 1 << 20];
    long.0.get_ref().write_all(&megabyte).unwrap();
    assert_eq!(long.hear_error(), "a request has 8192 bytes at most");
    assert_eq!(long.hear(), None);
    let mut nested = lab.watch();
    nested.ask(&"[".repeat(8000));
    assert!(nested.hear_error().starts_with("no request: "));
    let mut half = lab.watch();
    half.0.get_ref().write_all(b"{\"show\"").unwrap();
    half.close_sending();
    assert!(half.hear_error().starts_with("no request: "));
    // Asks a lot, reads nothing.
    let deaf: Vec<Watcher> = (0..10).map(|_| lab.watch()).collect();
    for watcher in &deaf {
        watcher.0.get_ref().set_nonblocking(true).unwrap();
        let questions = "{\"show\":{}}\n".repeat(10_000);
        let _ = watcher.0.get_ref().write(questions.as_bytes());
    }
    for _ in 0..100 {
        alice.send_plain(BROADCAST, ALICE, 100);
    }
    wait_until("all have passed", || lab.port(1)["transmit_frames"] == 100);
    assert_eq!(lab.port(2)["drops"], serde_json::json!({}));
    drop((silent, followers, deaf, long, nested, half));
    wait_until("everybody is gone", || count_watchers(&lab) == 0);
}

#[test]
fn too_many_watchers_take_the_place_of_silent_ones_and_never_of_followers() {
    let lab = Lab::new(&["--port", "null://"]);
    let mut first = lab.watch();
    first.ask(r#"{"events":{}}"#);
    assert!(first.hear().is_some());
    let mut silent: Vec<Watcher> = (0..256).map(|_| lab.watch()).collect();
    assert_eq!(lab.json(&["show", "--json"])["switch"]["numports"], 32);
    let _bob = lab.join("bob");
    assert_eq!(first.hear().unwrap()["event"]["event"], "port_added");
    assert_eq!(silent[0].hear(), None);
    // Once all places are taken by followers, there is none.
    silent.clear();
    let mut followers = Vec::new();
    wait_until("all places are taken", || {
        let mut watcher = lab.watch();
        watcher.ask(r#"{"events":{}}"#);
        let answer = watcher.hear().unwrap();
        followers.push(watcher);
        answer.get("error").is_some()
    });
    assert!(followers.len() <= 256);
    let output = lab.run(&["show"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "vswitch: there are 256 watchers already\n");
    drop(followers);
    wait_until("the places are free again", || lab.run(&["show", "--json"]).status.success());
}

#[test]
fn captures_have_a_limit_and_their_places_come_back() {
    let lab = Lab::new(&["--port", "null://"]);
    for _ in 0..2 {
        let mut captures: Vec<Watcher> = (0..16).map(|_| lab.watch()).collect();
        for capture in &mut captures {
            capture.ask(r#"{"dump":{"port":1}}"#);
            assert!(capture.hear().unwrap().get("capture").is_some());
        }
        let mut one_more = lab.watch();
        one_more.ask(r#"{"dump":{"port":1}}"#);
        assert_eq!(one_more.hear_error(), "there are 16 captures already, and no more at a time");
        drop((captures, one_more));
        wait_until("everybody is gone", || count_watchers(&lab) == 0);
    }
}

#[test]
fn the_socket_has_the_modes_of_ctl_and_is_recovered_and_removed() {
    let options = ["-m", "660", "-g", "1", "--port", "null://"];
    let mut lab = Lab::new(&options);
    let api = lab.dir().join("api");
    let [one, other] = [&api, &lab.dir().join("ctl")].map(|path| fs::metadata(path).unwrap());
    assert!(one.file_type().is_socket());
    assert_eq!(one.permissions().mode() & 0o777, 0o660);
    use std::os::unix::fs::MetadataExt;
    assert_eq!((one.gid(), one.gid()), (other.gid(), 1));
    lab.switch.kill().unwrap();
    lab.switch.wait().unwrap();
    let error = String::from_utf8(lab.run(&["show"]).stderr).unwrap();
    assert!(error.contains("no switch runs there (it has ended, and left its sockets behind); -s names"), "{error}");
    lab.switch = start(&lab.place, &options);
    wait_until("the switch answers", || lab.run(&["show", "--json"]).status.success());
    lab.end();
    assert!(!api.exists());
}

#[test]
fn a_switch_that_cannot_be_asked_is_named_with_a_hint() {
    let lab = Lab::new(&["--no-api"]);
    assert!(!lab.dir().join("api").exists());
    let output = lab.run(&["show"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("is it vde_switch, or was it run with --no-api?"), "{error}");
    let output = Command::new(env!("CARGO_BIN_EXE_vswitch")).args(["mac", "-s", "/nonexistent/sw"]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "vswitch: /nonexistent/sw: no switch runs there (there is no such directory); \
         -s names the directory of another\n"
    );
}

/// Asks for figures; returns the head and the body.
fn fetch(mut stream: impl Read + Write, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn metrics_keep_to_the_format() {
    let ports = ["--port", "null://"].repeat(200);
    let options = [["--metrics", "unix:figures", "-n", "300", "-F"].as_slice(), &ports].concat();
    let mut lab = Lab::new(&options);
    let mut alice = lab.join("a\"b\\c");
    for _ in 0..5 {
        alice.send_plain(BROADCAST, [3, 0, 0, 0, 0, 1], 100);
    }
    wait_until("all have come in", || lab.port(201)["receive_frames"] == 5);
    let path = lab.place.join("figures");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let connect = || UnixStream::connect(&path).unwrap();
    let (head, body) = fetch(connect(), "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{head}");

    let samples = samples(&body);
    let port = r#"port="201",name="vde:a\"b\\\\c""#;
    assert_eq!(samples[&format!("vswitch_port_receive_frames_total{{{port}}}")], 5.0);
    assert_eq!(samples[&format!("vswitch_port_dropped_frames_total{{{port},reason=\"reserved\"}}")], 5.0);
    assert_eq!(samples[&format!("vswitch_port_carrier{{{port}}}")], 1.0);
    assert_eq!(samples["vswitch_ports"], 201.0);
    assert_eq!(samples["vswitch_events_total{event=\"port_added\"}"], 201.0);
    assert_eq!(samples["vswitch_spanning_tree_enabled"], 1.0);
    let states = ["discarding", "learning", "forwarding"];
    let in_state = |state: &str| samples[&format!("vswitch_port_state{{{port},state=\"{state}\"}}")];
    assert_eq!(states.map(in_state).iter().sum::<f64>(), 1.0);

    for (request, status) in [
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("DELETE /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        ("HEAD /metrics HTTP/1.1\r\n\r\n", "200"),
    ] {
        let (head, _) = fetch(connect(), request);
        assert_eq!(head.split(' ').nth(1), Some(status), "{request:?}: {head}");
    }
    let mut long = connect();
    long.write_all(&[b'x'; 100_000]).unwrap();
    let mut answer = String::new();
    long.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // Those who say nothing make room.
    let silent: Vec<UnixStream> = (0..100).map(|_| connect()).collect();
    assert!(fetch(connect(), "GET /metrics HTTP/1.1\r\n\r\n").0.contains(" 200 OK"));
    drop(silent);
    lab.end();
    assert!(!path.exists());
}

#[test]
fn metrics_come_over_loopback_too() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let lab = Lab::new(&["--metrics", &address]);
    let (head, body) = fetch(TcpStream::connect(&address).unwrap(), "GET /metrics HTTP/1.0\n\n");
    assert!(head.contains(" 200 OK"), "{head}");
    assert_eq!(samples(&body)["vswitch_ports_limit"], 32.0);
    assert!(lab.log().is_empty() || !lab.log().contains("error"), "{}", lab.log());
}

/// The samples, checked as promtool would: HELP and TYPE once and in front of a family's samples, which stand together;
/// no sample twice; every value a number.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let mut samples = BTreeMap::new();
    let mut families = HashSet::new();
    let mut family = "";
    let mut has_type = false;
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(families.insert(family), "{line}");
            has_type = false;
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(name == family && !has_type && ["counter", "gauge"].contains(&kind), "{line}");
            has_type = true;
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            assert!(name == family && has_type, "{line}");
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "{line}");
        }
    }
    samples
}
