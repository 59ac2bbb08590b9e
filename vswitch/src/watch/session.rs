//! A watcher's session: requests in, a line or a stream of lines out, a step at a time.
//!
//! Theory of operation. A step sends what is there, and if everything went out it makes more: the next request's first
//! lines, the next ports or stations of an answer, the next frames of a capture. So a watcher that does not read stops
//! its own answers and nothing else. What cannot wait for it, events and frames, is counted as missed.
//!
//! ```text
//! Listening ── show ──> Showing ──┐        events ──> Following ── the watcher closes ─────────────────> gone
//!     ^ ────── mac ───> Listing ──┤        dump ────> Capturing ── it closes, or the port goes ──> Ending ──> gone
//!     └───────────────────────────┘        a line that is too long ─────────────────────────────> Ending
//! ```

use std::time::{Instant, SystemTime};
use std::vec;

use link::MacAddr;

use super::connection::{Connection, MAX_HEARD, Step};
use super::protocol::{Answer, CaptureReport, Request, append, append_error};
use super::{pcapng, report};
use crate::about::About;
use crate::bridge::explain::Question;
use crate::bridge::fdb::Station;
use crate::switch::{CaptureKey, Switch};
use crate::vde::Peer;
use crate::{PortId, VlanId};

/// Bytes of an answer that a step makes, about.
const CHUNK: usize = 32 * 1024;
/// Bytes of captured frames that a step takes, about.
const CAPTURE_CHUNK: usize = 256 * 1024;
/// Bytes of events kept for a watcher that does not read.
const MAX_EVENTS: usize = 256 * 1024;
/// Captures at a time.
pub(super) const MAX_CAPTURES: usize = 16;

/// A watcher.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: Connection,
    peer: Peer,
    state: State,
    /// When it last asked something, by the count of all requests.
    pub(super) asked: u64,
}

#[derive(Debug)]
enum State {
    /// The next line is a request.
    Listening,
    /// The ports are being told, from this one on.
    Showing(u32),
    /// The stations are being told.
    Listing(vec::IntoIter<Station>),
    /// It hears of events; so many were missed since it last had room.
    Following { missed: u64 },
    /// It gets the frames of a port.
    Capturing(CaptureSession),
    /// Nothing more is said.
    Ending,
}

#[derive(Debug)]
struct CaptureSession {
    key: CaptureKey,
    port: PortId,
    began: SystemTime,
    passed: u64,
    missed: u64,
}

impl Session {
    pub(super) fn new(connection: Connection, peer: Peer, asked: u64) -> Self {
        Self { connection, peer, state: State::Listening, asked }
    }

    /// Whether it follows something; otherwise another may have its place when there are too many.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.state, State::Following { .. } | State::Capturing(_))
    }

    /// The capture that it gets, if it can take frames now.
    pub(super) fn capture(&self) -> Option<CaptureKey> {
        match &self.state {
            State::Capturing(capture) if self.connection.pending() == 0 => Some(capture.key),
            _ => None,
        }
    }

    /// Ends what the switch does for it.
    pub(super) fn close(&mut self, switch: &mut Switch) {
        if let State::Capturing(capture) = &self.state {
            switch.close_capture(capture.key);
            log::info!("port {}: {} has ended its capture", capture.port, self.peer);
        }
        self.state = State::Ending;
    }

    /// Sends what it takes and makes more, within bounds. `captures` is how many are open.
    pub(super) fn step(&mut self, switch: &mut Switch, about: &About, captures: &mut usize) -> Step {
        let outcome = self.go_on(switch, about, captures).unwrap_or(Step::Gone);
        if outcome == Step::Gone {
            if matches!(self.state, State::Capturing(_)) {
                *captures -= 1;
            }
            self.close(switch);
        }
        outcome
    }

    fn go_on(&mut self, switch: &mut Switch, about: &About, captures: &mut usize) -> std::io::Result<Step> {
        if let State::Ending = self.state {
            return self.connection.end();
        }
        if !self.connection.flush()? {
            return Ok(Step::Wait);
        }
        match &mut self.state {
            State::Listening => return self.listen(switch, about, captures),
            State::Showing(next) => {
                let now = Instant::now();
                let mut told = None;
                // Ports are in a table by number: what is passed over costs next to nothing.
                for port in switch.ports().skip_while(|port| u32::from(port.id.number()) < *next) {
                    append(&Answer::Port(Box::new(report::port(switch, port, now))), self.connection.out());
                    told = Some(u32::from(port.id.number()) + 1);
                    if self.connection.pending() >= CHUNK {
                        break;
                    }
                }
                match told {
                    Some(further) if self.connection.pending() >= CHUNK => *next = further,
                    _ => {
                        append(&Answer::End {}, self.connection.out());
                        self.state = State::Listening;
                    }
                }
            }
            State::Listing(stations) => {
                for station in stations.by_ref() {
                    append(&Answer::Station(report::station(&station)), self.connection.out());
                    if self.connection.pending() >= CHUNK {
                        break;
                    }
                }
                if stations.as_slice().is_empty() {
                    append(&Answer::End {}, self.connection.out());
                    self.state = State::Listening;
                }
            }
            State::Following { missed: 0 } => return self.connection.discard(),
            State::Following { missed } => {
                let event = report::missed(std::mem::take(missed));
                append(&Answer::Event(event), self.connection.out());
            }
            State::Capturing(capture) => {
                let is_closing = match self.connection.discard()? {
                    Step::Wait => false,
                    Step::Again => return Ok(Step::Again),
                    Step::Gone => true,
                };
                let taken =
                    capture.take(switch, if is_closing { usize::MAX } else { CAPTURE_CHUNK }, &mut self.connection);
                if is_closing || taken.is_none() {
                    capture.finish(switch, &mut self.connection);
                    self.close(switch);
                    *captures -= 1;
                } else if self.connection.pending() == 0 {
                    return Ok(Step::Wait);
                }
            }
            State::Ending => {}
        }
        Ok(Step::Again)
    }

    /// Waits for a request, and begins to answer it.
    fn listen(&mut self, switch: &mut Switch, about: &About, captures: &mut usize) -> std::io::Result<Step> {
        loop {
            if let Some(end) = self.connection.heard().iter().position(|byte| *byte == b'\n') {
                let line = self.connection.take_heard(end + 1);
                self.answer(&line, switch, about, captures);
                return Ok(Step::Again);
            }
            if self.connection.heard().len() >= MAX_HEARD {
                log::info!("{}: asks something too long", self.peer);
                append_error(format!("a request has {MAX_HEARD} bytes at most"), self.connection.out());
                self.state = State::Ending;
                return Ok(Step::Again);
            }
            if self.connection.has_ended() {
                // The last request may lack the end of its line.
                let line = self.connection.take_heard(MAX_HEARD);
                if line.is_empty() {
                    return Ok(Step::Gone);
                }
                self.answer(&line, switch, about, captures);
                return Ok(Step::Again);
            }
            if !self.connection.hear()? {
                return Ok(Step::Wait);
            }
        }
    }

    fn answer(&mut self, line: &[u8], switch: &mut Switch, about: &About, captures: &mut usize) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let outcome = match serde_json::from_slice(line) {
            Ok(request) => self.begin(&request, switch, about, captures),
            Err(error) => Err(format!("no request: {error}")),
        };
        if let Err(message) = outcome {
            log::debug!("{}: {message}", self.peer);
            append_error(message, self.connection.out());
        }
    }

    fn begin(
        &mut self,
        request: &Request,
        switch: &mut Switch,
        about: &About,
        captures: &mut usize,
    ) -> Result<(), String> {
        log::debug!("{} asks {request:?}", self.peer);
        let out = self.connection.out();
        match request {
            Request::Show {} => {
                append(&Answer::Switch(Box::new(report::switch(switch, about))), out);
                self.state = State::Showing(0);
            }
            Request::Mac {} => {
                let stations: Vec<Station> = switch.bridge.stations(Instant::now()).collect();
                self.state = State::Listing(stations.into_iter());
            }
            Request::Explain { port, vlan, source, destination } => {
                let address = |text: &str| text.parse::<MacAddr>().map_err(|error| error.to_string());
                let (source, destination) = (address(source)?, address(destination)?);
                let ingress = port.map(port_id).transpose()?;
                let vlan = vlan.map(vlan_id).transpose()?;
                let question = Question { ingress, vlan, ..Question::new(source, destination) };
                let explanation = switch.bridge.explain(&question, Instant::now());
                append(&Answer::Explanation(report::explanation(&explanation)), out);
                append(&Answer::End {}, out);
            }
            Request::Events {} => {
                append(&Answer::Following {}, out);
                self.state = State::Following { missed: 0 };
            }
            Request::Dump { port } => {
                let id = port_id(*port)?;
                if *captures >= MAX_CAPTURES {
                    return Err(format!("there are {MAX_CAPTURES} captures already, and no more at a time"));
                }
                let key = switch.open_capture(id).map_err(|error| error.to_string())?;
                *captures += 1;
                let name = switch.port(id).map(|port| report::port_name(switch, port)).unwrap_or_default();
                log::info!("port {id}: {} captures it", self.peer);
                let began = SystemTime::now();
                let interface = if name.is_empty() { format!("port {id}") } else { format!("port {id} ({name})") };
                append(&Answer::Capture(CaptureReport { port: id.number(), name }), out);
                pcapng::append_head(&format!("{} {}", about.name, About::VERSION), &interface, out);
                self.state = State::Capturing(CaptureSession { key, port: id, began, passed: 0, missed: 0 });
            }
        }
        Ok(())
    }

    /// Tells it of an event, in a line that is ready, if it follows them and has room.
    pub(super) fn tell(&mut self, line: &[u8]) {
        let State::Following { missed } = &mut self.state else { return };
        // Once some were missed they are told of first, so that the order stays.
        if *missed != 0 || self.connection.pending() + line.len() > MAX_EVENTS {
            *missed += 1;
        } else {
            self.connection.out().extend_from_slice(line);
        }
    }

    /// Sends what it was told, as far as it takes it; whether it is still there.
    pub(super) fn push(&mut self) -> bool {
        !matches!(self.state, State::Following { .. }) || self.connection.flush().is_ok()
    }
}

impl CaptureSession {
    /// Takes about so many bytes of frames; none if the capture is over.
    fn take(&mut self, switch: &mut Switch, most: usize, connection: &mut Connection) -> Option<()> {
        let capture = switch.capture_mut(self.key)?;
        let out = connection.out();
        let start = out.len();
        while out.len() - start < most {
            let taken = capture.take(|caught, parts| {
                pcapng::append_frame(&caught, parts, out);
                caught.missed_before
            });
            let Some(missed_before) = taken else { break };
            self.missed += missed_before;
            self.passed += missed_before + 1;
        }
        Some(())
    }

    /// Writes what it came to.
    fn finish(&mut self, switch: &mut Switch, connection: &mut Connection) {
        let missed = switch.capture_mut(self.key).map_or(0, |capture| capture.missed());
        let statistics = pcapng::Statistics {
            began: self.began,
            ended: SystemTime::now(),
            passed: self.passed + missed,
            missed: self.missed + missed,
        };
        pcapng::append_statistics(&statistics, connection.out());
    }
}

fn port_id(number: u32) -> Result<PortId, String> {
    PortId::new(number).ok_or_else(|| format!("there is no port {number}"))
}

fn vlan_id(number: u16) -> Result<VlanId, String> {
    VlanId::new(number).ok_or_else(|| format!("there is no VLAN {number}"))
}
