//! Lines of the console, on the management socket of a switch with a few ports.
//!
//! The input is what somebody types. A line that opens files or links would act on the host, and is left out. Each line
//! is sent by itself, and its answer read before the next.

use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use mio::{Poll, Registry};
use vswitch::bridge::Bridge;
use vswitch::console::command::{self, ParseError, Shape};
use vswitch::console::{Consoles, Order};
use vswitch::options::Config;
use vswitch::stp::{BridgeSettings, Stp};
use vswitch::switch::Switch;
use vswitch::{About, Event};

use super::data::{port, station};

/// Lines of a run; what comes after them is passed over.
const MAX_LINES: usize = 64;
/// Ports there may be.
const NUMPORTS: u32 = 8;
/// Words of commands that act on the host, wherever they stand in a line.
const FORBIDDEN: [&str; 2] = ["load", "port/add"];
/// A line below is not too long, one above is; between them it depends on how it is read.
const LONG: Range<usize> = 4096..8192;
const PROMPT: &str = "\nvde$ ";
const BEGIN: &str = "0000 DATA END WITH '.'";
const GOODBYE: &str = "9999 END OF SESSION";
/// The key of the first session on the management socket.
const FIRST: u32 = 1;
/// A bound for times that a session is served before its answer is there.
const MAX_TURNS: usize = 1 << 16;

/// Tries an input.
pub fn target(data: &[u8]) {
    let mut lab = Lab::new();
    for line in data.split(|byte| *byte == b'\n').take(MAX_LINES) {
        let text = String::from_utf8_lossy(line);
        if FORBIDDEN.iter().any(|word| text.contains(word)) {
            continue;
        }
        if !lab.say(line, &text) {
            return;
        }
    }
    lab.publish();
}

struct Lab {
    switch: Switch,
    about: About,
    consoles: Consoles,
    registry: Registry,
    client: UnixStream,
    /// The session tells of what happens.
    may_be_told: bool,
    _poll: Poll,
}

impl Lab {
    fn new() -> Self {
        let poll = Poll::new().expect("an event loop");
        let registry = poll.registry().try_clone().expect("its registry");
        let path = socket_path();
        let config = Config { mgmt: Some(path.clone()), nostdin: true, ..Config::default() };
        let mut consoles = Consoles::open(&config, None, &registry).expect("a management socket");
        let mut switch = new_switch(&registry);
        let about = About {
            name: "vswitch".to_owned(),
            dir: PathBuf::from("/run/lab\x1b"),
            mgmt: Some(path.clone()),
            started: SystemTime::UNIX_EPOCH,
            begun: Instant::now(),
        };
        let client = UnixStream::connect(&path).expect("a console");
        client.set_nonblocking(true).expect("it does not block");
        consoles.accept(&registry);
        assert_eq!(consoles.serve(FIRST, &mut switch, &about, &registry), Order::Continue);
        let mut lab = Self { switch, about, consoles, registry, client, may_be_told: false, _poll: poll };
        let banner = lab.hear();
        assert!(banner.starts_with("VDE switch V.") && banner.ends_with(PROMPT), "{banner:?}");
        lab
    }

    /// Says a line and looks at the answer; whether the session goes on.
    fn say(&mut self, line: &[u8], text: &str) -> bool {
        self.client.write_all(&[line, b"\n"].concat()).expect("a line is taken");
        let mut said = String::new();
        let mut order = Order::Continue;
        for turn in 0.. {
            assert!(turn < MAX_TURNS, "{text:?} is not answered");
            order = self.consoles.serve(FIRST, &mut self.switch, &self.about, &self.registry);
            said.push_str(&self.hear());
            if order == Order::End || said.ends_with(PROMPT) || said.ends_with(GOODBYE) {
                break;
            }
        }
        if said.starts_with("1007 ") {
            assert!(line.len() >= LONG.start, "{text:?}");
        } else {
            assert!(line.len() < LONG.end, "{text:?}");
            check_answer(text, &said, order);
        }
        let goes_on = order == Order::Continue && said.ends_with(PROMPT);
        if goes_on {
            self.may_be_told |= text.contains("debug/add");
            self.publish();
        }
        goes_on
    }

    /// Everything that the session has been told, which is not more than fits into its socket, or a part of it.
    fn hear(&mut self) -> String {
        let mut bytes = Vec::new();
        match self.client.read_to_end(&mut bytes) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        let text = String::from_utf8(bytes).expect("a part of an answer ends with a character");
        let odd = text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(odd, None, "{text:?}");
        text
    }

    /// Tells the session of what has happened.
    fn publish(&mut self) {
        let events: Vec<Event> = self.switch.take_events();
        self.consoles.publish(&events, &self.switch, &self.registry);
        for line in self.hear().lines() {
            assert!(self.may_be_told && is_numbered(line, b'3'), "{line:?}");
        }
    }
}

/// A switch whose ports 1 and 2 lead nowhere, with port 3 empty and VLANs 5 and 6 made.
fn new_switch(registry: &Registry) -> Switch {
    let stp = Stp::new(BridgeSettings { priority: 0x8000, address: station(1) });
    let registry = registry.try_clone().expect("the registry again");
    let mut switch = Switch::new(Bridge::new(1), stp, NUMPORTS, registry);
    let null = "null://".parse().expect("a locator");
    for number in 1..=2u8 {
        switch.add_link(&null, Some(port(number))).expect("a port that leads nowhere");
    }
    switch.create_port(port(3u8)).expect("an empty port");
    for number in [5, 6] {
        switch.bridge.create_vlan(super::data::vlan(number)).expect("a VLAN is made once");
    }
    switch.take_events();
    switch
}

/// A place for a socket that nobody else has.
fn socket_path() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("etherloom-fuzz-{}-{number}", std::process::id()))
}

/// What is said of a line: nothing, or a table, or success or failure by number, or a table and either.
fn check_answer(line: &str, said: &str, order: Order) {
    if order == Order::End {
        assert_eq!(line.trim().split('#').next().map(str::trim_end), Some("shutdown"));
        return;
    }
    if let Some(before) = said.strip_suffix(GOODBYE) {
        assert_eq!(before, "");
        assert!(line.trim().starts_with("logout"), "{line:?}");
        return;
    }
    let answer = said.strip_suffix(PROMPT).expect("a prompt is behind an answer");
    let (rest, has_table) = match answer.strip_prefix(BEGIN) {
        Some(table) => (table.split_once("\n.\n").expect("a table ends").1, true),
        None => (answer, false),
    };
    let parsed = command::parse(line);
    let shape = match &parsed {
        Ok(None) => {
            assert_eq!(answer, "", "{line:?}");
            return;
        }
        Ok(Some((entry, _))) => entry.shape,
        Err((shape, _)) => *shape,
    };
    assert_eq!(has_table, shape == Shape::Table, "{line:?}: {said:?}");
    assert!(rest.ends_with('\n') && rest.lines().count() == 1 && is_numbered(rest, b'1'), "{line:?}: {said:?}");
    match parsed {
        Err((_, ParseError::Unknown)) => assert!(rest.starts_with("1038 "), "{line:?}: {said:?}"),
        Err((_, ParseError::Arguments(..))) => assert!(rest.starts_with("1022 "), "{line:?}: {said:?}"),
        Ok(_) => {}
    }
}

/// Whether a line begins with a number of four digits, the first of which is this one.
fn is_numbered(line: &str, first: u8) -> bool {
    let [digit, a, b, c, b' ', ..] = line.as_bytes() else { return false };
    *digit == first && [a, b, c].iter().all(|digit| digit.is_ascii_digit())
}
