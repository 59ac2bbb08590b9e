//! The metrics endpoint: figures in Prometheus' text format 0.0.4, over as much HTTP as fetching them takes.
//!
//! A request is a head of [`MAX_HEARD`] bytes at most; `GET` and `HEAD` of `/metrics` are served, and every answer ends
//! its connection. The figures are written a piece at a time, as the far end takes them, so that a switch with many
//! ports is not held up. A client that says nothing is not timed out: there is a limit to how many there are, and the
//! one that came first makes room.

use std::fmt::Write;
use std::time::{Instant, UNIX_EPOCH};

use link::Counters;

use super::connection::{Connection, MAX_HEARD, Step};
use super::report::{STATES, has_carrier, port_name};
use crate::about::About;
use crate::switch::{Port, Switch};

/// Bytes that a step makes, about.
const CHUNK: usize = 32 * 1024;

/// Events by name, since the switch began.
pub(super) type EventCounts = std::collections::BTreeMap<&'static str, u64>;

/// Somebody who fetches figures.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) connection: Connection,
    state: State,
    /// When it came, by the count of all of them.
    pub(super) came: u64,
}

#[derive(Debug)]
enum State {
    /// The head of a request is coming in.
    Hearing,
    /// The families are being told from this place on, and within one that is told by ports, from this port on.
    Telling {
        family: usize,
        port: u32,
    },
    Ending,
}

/// What the figures are taken from.
pub(super) struct View<'a> {
    pub(super) switch: &'a Switch,
    pub(super) about: &'a About,
    pub(super) events: &'a EventCounts,
}

impl Scrape {
    pub(super) fn new(connection: Connection, came: u64) -> Self {
        Self { connection, state: State::Hearing, came }
    }

    /// Sends what it takes and makes more, within bounds.
    pub(super) fn step(&mut self, view: &View<'_>) -> Step {
        self.go_on(view).unwrap_or(Step::Gone)
    }

    fn go_on(&mut self, view: &View<'_>) -> std::io::Result<Step> {
        if let State::Ending = self.state {
            return self.connection.end();
        }
        if !self.connection.flush()? {
            return Ok(Step::Wait);
        }
        if let State::Telling { family, port } = &mut self.state {
            let mut text = String::new();
            while text.len() < CHUNK && *family < FAMILIES.len() {
                tell(view, family, port, &mut text);
            }
            if text.is_empty() {
                self.state = State::Ending;
            }
            self.connection.out().extend_from_slice(text.as_bytes());
            return Ok(Step::Again);
        }
        self.listen()
    }

    fn listen(&mut self) -> std::io::Result<Step> {
        loop {
            let heard = self.connection.heard();
            let is_whole =
                [b"\r\n\r\n".as_slice(), b"\n\n"].iter().any(|end| heard.windows(end.len()).any(|w| w == *end));
            let is_long = heard.len() >= MAX_HEARD;
            if is_whole || is_long || self.connection.has_ended() {
                let answer = if is_whole { respond(heard) } else { Response::error("400 Bad Request") };
                let answer =
                    if is_long && !is_whole { Response::error("431 Request Header Fields Too Large") } else { answer };
                self.state = if answer.has_figures { State::Telling { family: 0, port: 0 } } else { State::Ending };
                self.connection.out().extend_from_slice(answer.text.as_bytes());
                return Ok(Step::Again);
            }
            if !self.connection.hear()? {
                return Ok(Step::Wait);
            }
        }
    }
}

/// The head of an answer, with the body if that is short.
struct Response {
    text: String,
    has_figures: bool,
}

impl Response {
    fn error(status: &str) -> Self {
        Self::short(status, "")
    }

    fn short(status: &str, headers: &str) -> Self {
        let body = format!("{status}: the figures are at /metrics\n");
        let len = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len}\r\n");
        Self { text: format!("{head}{headers}Connection: close\r\n\r\n{body}"), has_figures: false }
    }
}

/// Answers a request's head.
fn respond(head: &[u8]) -> Response {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Response::error("400 Bad Request");
    };
    if !version.starts_with("HTTP/1.") {
        return Response::error("505 HTTP Version Not Supported");
    }
    if !matches!(method, "GET" | "HEAD") {
        return Response::short("405 Method Not Allowed", "Allow: GET, HEAD\r\n");
    }
    if target.split('?').next() != Some("/metrics") {
        return Response::error("404 Not Found");
    }
    // How long it will be is not known: the end of the connection tells.
    let text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nConnection: close\r\n\r\n";
    Response { text: text.to_owned(), has_figures: method == "GET" }
}

/// A metric with all its samples.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    source: Source,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// How a family's samples are made: once, or for each port.
enum Source {
    Switch(OfSwitch),
    Port(OfPort),
}

/// Where the samples of a family go.
struct Samples<'a> {
    name: &'a str,
    /// Labels of every sample.
    labels: &'a str,
    out: &'a mut String,
}

impl Samples<'_> {
    fn put(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let mut list = self.labels.to_owned();
        for (name, text) in labels {
            append_label(name, text, &mut list);
        }
        // Writing to a string cannot fail.
        let _ = match list.as_str() {
            "" => writeln!(self.out, "{} {value}", self.name),
            list => writeln!(self.out, "{}{{{list}}} {value}", self.name),
        };
    }
}

/// Appends a label, with what the format wants escaped.
fn append_label(name: &str, text: &str, list: &mut String) {
    if !list.is_empty() {
        list.push(',');
    }
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = write!(list, "{name}=\"{text}\"");
}

/// Tells a family, or a part of it: moves `family` and `port` on.
fn tell(view: &View<'_>, family: &mut usize, port: &mut u32, out: &mut String) {
    let Some(Family { name, help, kind, source }) = FAMILIES.get(*family) else { return };
    if *port == 0 {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
    match source {
        Source::Switch(source) => source(view, &mut Samples { name, labels: "", out }),
        Source::Port(source) => {
            for one in view.switch.ports().skip_while(|one| u32::from(one.id.number()) < *port) {
                let mut labels = String::new();
                append_label("port", &one.id.to_string(), &mut labels);
                append_label("name", &port_name(view.switch, one), &mut labels);
                source(view, one, &mut Samples { name, labels: &labels, out });
                if out.len() >= CHUNK {
                    *port = u32::from(one.id.number()) + 1;
                    return;
                }
            }
        }
    }
    *port = 0;
    *family += 1;
}

/// The figures, in order. Counters of a port begin at 0 again when they are reset from the console.
static FAMILIES: [Family; 20] = [
    of_switch("vswitch_info", Kind::Gauge, "What runs.", |view, to| {
        to.put(&[("version", About::VERSION), ("name", &view.about.name)], 1);
    }),
    of_switch("vswitch_start_time_seconds", Kind::Gauge, "When it began, in seconds since the epoch.", |view, to| {
        to.put(&[], view.about.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    }),
    of_switch("vswitch_uptime_seconds", Kind::Gauge, "How long it has run.", |view, to| {
        to.put(&[], view.about.begun.elapsed().as_secs_f64());
    }),
    of_switch("vswitch_ports", Kind::Gauge, "Ports there are.", |view, to| to.put(&[], view.switch.ports().count())),
    of_switch("vswitch_ports_limit", Kind::Gauge, "Ports there may be.", |view, to| {
        to.put(&[], view.switch.numports())
    }),
    of_switch("vswitch_stations", Kind::Gauge, "Stations in the forwarding database.", |view, to| {
        to.put(&[], view.switch.bridge.fdb().len());
    }),
    of_switch("vswitch_events_total", Kind::Counter, "Events, by kind.", |view, to| {
        for (event, count) in view.events {
            to.put(&[("event", event)], count);
        }
    }),
    of_switch(
        "vswitch_events_lost_total",
        Kind::Counter,
        "Events of the bridge that were too many to tell.",
        |view, to| {
            to.put(&[], view.switch.bridge.lost_events());
        },
    ),
    of_switch("vswitch_spanning_tree_enabled", Kind::Gauge, "Whether spanning tree is on.", |view, to| {
        to.put(&[], u8::from(view.switch.stp().is_enabled()));
    }),
    of_switch("vswitch_topology_changes_total", Kind::Counter, "Changes of the spanning tree.", |view, to| {
        to.put(&[], view.switch.stp().root().topology_changes);
    }),
    of_port("vswitch_port_receive_frames_total", Kind::Counter, "Frames that came in.", |view, port, to| {
        to.put(&[], counters(view, port).rx_frames);
    }),
    of_port("vswitch_port_receive_bytes_total", Kind::Counter, "Bytes of frames that came in.", |view, port, to| {
        to.put(&[], counters(view, port).rx_bytes);
    }),
    of_port("vswitch_port_transmit_frames_total", Kind::Counter, "Frames that went out.", |view, port, to| {
        to.put(&[], counters(view, port).tx_frames);
    }),
    of_port("vswitch_port_transmit_bytes_total", Kind::Counter, "Bytes of frames that went out.", |view, port, to| {
        to.put(&[], counters(view, port).tx_bytes);
    }),
    of_port(
        "vswitch_port_dropped_frames_total",
        Kind::Counter,
        "Frames that went nowhere, by reason.",
        |view, port, to| {
            for (reason, frames) in counters(view, port).drops.iter() {
                to.put(&[("reason", reason.name())], frames);
            }
        },
    ),
    of_port("vswitch_port_members", Kind::Gauge, "Clients and links that are plugged in.", |_, port, to| {
        to.put(&[], port.members.len());
    }),
    of_port("vswitch_port_carrier", Kind::Gauge, "Whether frames reach the far end.", |view, port, to| {
        to.put(&[], u8::from(has_carrier(view.switch, port)));
    }),
    of_port(
        "vswitch_port_state",
        Kind::Gauge,
        "What the port does with frames: 1 for the state it is in.",
        |view, port, to| {
            let settings = view.switch.bridge.port_settings(port.id);
            for state in STATES {
                to.put(&[("state", state.name())], u8::from(settings.is_some_and(|settings| settings.state == state)));
            }
        },
    ),
    of_port("vswitch_port_stations", Kind::Gauge, "Stations learned on the port.", |view, port, to| {
        to.put(&[], view.switch.bridge.fdb().stations_on(port.id));
    }),
    of_port("vswitch_port_storm", Kind::Gauge, "Whether storm control drops frames now.", |view, port, to| {
        to.put(&[], u8::from(view.switch.bridge.is_storming(port.id, Instant::now())));
    }),
];

type OfSwitch = fn(&View<'_>, &mut Samples<'_>);
type OfPort = fn(&View<'_>, &Port, &mut Samples<'_>);

const fn of_switch(name: &'static str, kind: Kind, help: &'static str, source: OfSwitch) -> Family {
    Family { name, help, kind, source: Source::Switch(source) }
}

const fn of_port(name: &'static str, kind: Kind, help: &'static str, source: OfPort) -> Family {
    Family { name, help, kind, source: Source::Port(source) }
}

fn counters(view: &View<'_>, port: &Port) -> Counters {
    view.switch.counters(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figures_are_served() {
        let status = |head: &str| respond(head.as_bytes()).text.lines().next().unwrap().to_owned();
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(status("GET /metrics?x=y HTTP/1.0\r\n\r\n"), "HTTP/1.1 200 OK");
        assert_eq!(status("GET /metricsx HTTP/1.1\r\n\r\n"), "HTTP/1.1 404 Not Found");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(status("GET /metrics HTTP/2\r\n\r\n"), "HTTP/1.1 505 HTTP Version Not Supported");
        for odd in ["\r\n\r\n", "GET /metrics\r\n\r\n", "GET / metrics HTTP/1.1\r\n\r\n"] {
            assert_eq!(status(odd), "HTTP/1.1 400 Bad Request", "{odd:?}");
        }
        assert!(!respond(b"HEAD /metrics HTTP/1.1\r\n\r\n").has_figures);
    }

    #[test]
    fn labels_are_escaped() {
        let mut list = String::new();
        append_label("port", "3", &mut list);
        append_label("name", "a\"b\\c\nd", &mut list);
        assert_eq!(list, r#"port="3",name="a\"b\\c\nd""#);
    }

    #[test]
    fn names_are_those_of_prometheus_and_each_is_there_once() {
        let mut names = std::collections::HashSet::new();
        for Family { name, kind, .. } in &FAMILIES {
            assert!(names.insert(*name), "{name}");
            assert!(
                name.starts_with("vswitch_") && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_'),
                "{name}"
            );
            assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter), "{name}");
        }
    }
}
