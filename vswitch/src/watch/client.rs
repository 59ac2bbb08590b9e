//! The commands: they ask a switch that runs, and print what it says.
//!
//! What follows a switch (`show --watch`, `events`, `dump`) works on a thread of its own; the first thread waits for a
//! signal, or for the reader of standard output to go. So Ctrl-C leaves the terminal as it was and a capture whole, and
//! `vswitch events | head` ends when it should.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use link::MacAddr;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use program::options::printable;
use program::signals::Signals;

use super::SOCKET;
use super::clock::local;
use super::protocol::{Answer, Request, StationReport};
use super::show::{self, Sample};
use super::table::{self, Column, Row};
use super::units::span_of_seconds;
use crate::options::{Question, WatchRequest};
use crate::{PortId, VlanId};

/// How long a switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far the two samples of a single `show` are apart.
const SAMPLE_TIME: Duration = Duration::from_millis(250);
/// How long what follows a switch may take to end, once it was told to.
const ENDING_TIME: Duration = Duration::from_secs(2);
/// Bytes of a line of an answer: more than any port has to say, and less than would hurt.
const MAX_LINE: u64 = 64 << 20;
/// Columns of a table that does not go to a terminal.
const DEFAULT_WIDTH: usize = 100;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there.
    #[error("{}: no switch runs there ({why}); -s names the directory of another", .dir.display())]
    NoSwitch {
        /// Where.
        dir: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// There is a switch that cannot be asked.
    #[error("{}: the switch there takes no questions: is it vde_switch, or was it run with --no-api?", .0.display())]
    NotWatchable(PathBuf),
    /// There is a switch that this user may not ask.
    #[error("{}: permission denied; the switch's -m and -g say who may ask", .0.display())]
    NotPermitted(PathBuf),
    /// The connection failed.
    #[error("{}: {}", .dir.display(), link::reason(.source))]
    Connection {
        /// The switch.
        dir: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Nothing came for too long.
    #[error("{}: the switch does not answer", .0.display())]
    Silent(PathBuf),
    /// It closed the connection.
    #[error("{}: the switch has ended", .0.display())]
    Ended(PathBuf),
    /// What it says makes no sense.
    #[error("{}: the switch says what this program does not understand: is it of another version?", .0.display())]
    Nonsense(PathBuf),
    /// It says no.
    #[error("{}", printable(.0))]
    Refused(String),
    /// A capture would go to a terminal.
    #[error("a capture is nothing for a terminal: try -w FILE, or vswitch dump {0} | wireshark -k -i -")]
    Terminal(PortId),
    /// The file of a capture cannot be made.
    #[error("{}: {}", .path.display(), link::reason(.source))]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The capture has ended by itself.
    #[error("port {0}: the capture has ended: the port was removed, or the switch has ended")]
    CaptureEnded(PortId),
    /// What was asked for cannot be written.
    #[error("cannot write the answer: {}", link::reason(.0))]
    Output(#[source] io::Error),
    /// The operating system refused what following needs.
    #[error("cannot wait for signals: {}", link::reason(.0))]
    Host(#[source] io::Error),
}

/// Asks a switch that runs, and prints what it says. A reader of standard output that has gone is no error.
///
/// # Errors
/// There is no such switch, it does not answer, or it says no.
pub fn ask(request: &WatchRequest) -> Result<(), AskError> {
    let dir = &request.dir;
    let outcome = match &request.question {
        Question::Show { json, every: None } => show_once(dir, *json),
        Question::Show { json, every: Some(every) } => show_again(dir, *json, *every),
        Question::Mac { json } => mac(dir, *json),
        Question::Explain { port, vlan, source, destination } => explain(dir, *port, *vlan, *source, *destination),
        Question::Events { json } => events(dir, *json),
        Question::Dump { port, file } => dump(dir, *port, file.as_deref()),
    };
    match outcome {
        Err(AskError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// A connection to a switch.
struct Client {
    dir: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(dir: &Path) -> Result<Self, AskError> {
        let stream = UnixStream::connect(dir.join(SOCKET)).map_err(|error| no_connection(dir, error))?;
        let broken = |source| AskError::Connection { dir: dir.to_owned(), source };
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        Ok(Self { dir: dir.to_owned(), stream: BufReader::new(stream) })
    }

    fn ask(&mut self, request: &Request) -> Result<(), AskError> {
        let mut line = serde_json::to_vec(request).unwrap_or_default();
        line.push(b'\n');
        match self.stream.get_ref().write_all(&line) {
            // It has closed, and may have said why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(|source| self.broken(source)),
        }
    }

    /// The next line of an answer.
    fn hear(&mut self) -> Result<Answer, AskError> {
        let mut line = Vec::new();
        let heard = (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line);
        let len = heard.map_err(|source| self.broken(source))?;
        if len == 0 {
            return Err(AskError::Ended(self.dir.clone()));
        }
        match serde_json::from_slice(&line) {
            Ok(Answer::Error(error)) => Err(AskError::Refused(error.message)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(self.nonsense()),
        }
    }

    /// No longer loses patience: what comes now comes when it happens.
    fn follow(&self) -> Result<UnixStream, AskError> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(None).and_then(|()| stream.try_clone()).map_err(|source| self.broken(source))
    }

    fn broken(&self, source: io::Error) -> AskError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent(self.dir.clone()),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AskError::Ended(self.dir.clone()),
            _ => AskError::Connection { dir: self.dir.clone(), source },
        }
    }

    fn nonsense(&self) -> AskError {
        AskError::Nonsense(self.dir.clone())
    }

    fn sample(&mut self) -> Result<Sample, AskError> {
        self.ask(&Request::Show {})?;
        let Answer::Switch(switch) = self.hear()? else { return Err(self.nonsense()) };
        let mut sample = Sample { switch: *switch, ports: Vec::new() };
        loop {
            match self.hear()? {
                Answer::Port(port) => sample.ports.push(*port),
                Answer::End {} => return Ok(sample),
                _ => return Err(self.nonsense()),
            }
        }
    }
}

/// What it means that there is no connection.
fn no_connection(dir: &Path, error: io::Error) -> AskError {
    let no_switch = |why| AskError::NoSwitch { dir: dir.to_owned(), why };
    match error.kind() {
        io::ErrorKind::NotFound if !dir.is_dir() => no_switch("there is no such directory"),
        io::ErrorKind::NotFound => match UnixStream::connect(dir.join("ctl")) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => AskError::NotPermitted(dir.to_owned()),
            Err(_) => no_switch("it has no control socket, or nobody is behind it"),
            Ok(_) => AskError::NotWatchable(dir.to_owned()),
        },
        io::ErrorKind::ConnectionRefused => no_switch("it has ended, and left its sockets behind"),
        io::ErrorKind::PermissionDenied => AskError::NotPermitted(dir.to_owned()),
        _ => AskError::Connection { dir: dir.to_owned(), source: error },
    }
}

fn show_once(dir: &Path, json: bool) -> Result<(), AskError> {
    let mut client = Client::connect(dir)?;
    let before = client.sample()?;
    if json {
        return print_json(&before);
    }
    thread::sleep(SAMPLE_TIME);
    let now = client.sample()?;
    print_lines(&show::lines(&before, &now, width()))
}

fn show_again(dir: &Path, json: bool, every: Duration) -> Result<(), AskError> {
    let mut client = Client::connect(dir)?;
    let (stop, stopped) = mpsc::channel();
    let work = move || {
        let mut before = client.sample()?;
        if json {
            loop {
                print_json(&before)?;
                if is_told(&stopped, every) {
                    return Ok(());
                }
                before = client.sample()?;
            }
        }
        let mut screen = Screen::open()?;
        let mut wait = SAMPLE_TIME;
        while !is_told(&stopped, wait) {
            let now = client.sample()?;
            screen.draw(show::lines(&before, &now, width()))?;
            before = now;
            wait = every;
        }
        Ok(())
    };
    follow(Some(stdout_fd()), work, move || {
        // It has ended already if nobody hears.
        let _ = stop.send(());
    })
}

/// Waits; whether the end was asked for.
fn is_told(stopped: &Receiver<()>, wait: Duration) -> bool {
    stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout)
}

fn mac(dir: &Path, json: bool) -> Result<(), AskError> {
    #[derive(serde::Serialize)]
    struct Stations {
        stations: Vec<StationReport>,
    }
    let mut client = Client::connect(dir)?;
    client.ask(&Request::Mac {})?;
    let mut stations = Vec::new();
    loop {
        match client.hear()? {
            Answer::Station(station) => stations.push(station),
            Answer::End {} => break,
            _ => return Err(client.nonsense()),
        }
    }
    stations.sort_by(|one, other| (one.vlan, &one.address).cmp(&(other.vlan, &other.address)));
    if json {
        return print_json(&Stations { stations });
    }
    let columns = [Column::number("VLAN"), Column::text("ADDRESS"), Column::number("PORT"), Column::number("AGE")];
    let row = |station: &StationReport| {
        let age = station.age_seconds.map_or_else(|| "static".to_owned(), span_of_seconds);
        Row::Cells(vec![station.vlan.to_string(), printable(&station.address), station.port.to_string(), age])
    };
    let rows: Vec<Row> = stations.iter().map(row).collect();
    print_lines(&table::lines(&columns, &rows, DEFAULT_WIDTH))
}

fn explain(
    dir: &Path,
    port: Option<PortId>,
    vlan: VlanId,
    source: MacAddr,
    destination: MacAddr,
) -> Result<(), AskError> {
    let mut client = Client::connect(dir)?;
    client.ask(&Request::Explain {
        port: port.map(|port| port.number().into()),
        vlan: Some(vlan).filter(|vlan| *vlan != VlanId::UNTAGGED).map(VlanId::number),
        source: source.to_string(),
        destination: destination.to_string(),
    })?;
    let Answer::Explanation(explanation) = client.hear()? else { return Err(client.nonsense()) };
    let lines: Vec<String> = explanation.text.lines().map(printable).collect();
    print_lines(&lines)
}

fn events(dir: &Path, json: bool) -> Result<(), AskError> {
    let mut client = Client::connect(dir)?;
    client.ask(&Request::Events {})?;
    let Answer::Following {} = client.hear()? else { return Err(client.nonsense()) };
    let stream = client.follow()?;
    let work = move || loop {
        match client.hear()? {
            Answer::Event(event) if json => print_json(&event)?,
            Answer::Event(event) => print_lines(&[format!("{} {}", local(&event.time), printable(&event.text))])?,
            _ => return Err(client.nonsense()),
        }
    };
    follow(Some(stdout_fd()), work, move || {
        // The switch closes in turn, and that is the end.
        let _ = stream.shutdown(Shutdown::Both);
    })
}

fn dump(dir: &Path, port: PortId, file: Option<&Path>) -> Result<(), AskError> {
    if file.is_none() && io::stdout().is_terminal() {
        return Err(AskError::Terminal(port));
    }
    let mut client = Client::connect(dir)?;
    client.ask(&Request::Dump { port: port.number().into() })?;
    let Answer::Capture(_) = client.hear()? else { return Err(client.nonsense()) };
    let mut output = match file {
        Some(path) => File::create(path).map_err(|source| AskError::File { path: path.to_owned(), source })?,
        None => File::from(io::stdout().as_fd().try_clone_to_owned().map_err(AskError::Output)?),
    };
    let stream = client.follow()?;
    let watched = file.is_none().then(stdout_fd);
    let work = move || {
        io::copy(&mut client.stream, &mut output).map_err(AskError::Output)?;
        Err(AskError::CaptureEnded(port))
    };
    follow(watched, work, move || {
        // The switch then says what the capture came to, and closes.
        let _ = stream.shutdown(Shutdown::Write);
    })
}

const SIGNAL: Token = Token(0);
const DONE: Token = Token(1);
const OUTPUT: Token = Token(2);

/// Does `work` on a thread until it ends by itself, the reader of `output` has gone, or a signal comes; then `stop`
/// makes it end soon, and whatever it comes to is no error.
fn follow(
    output: Option<RawFd>,
    work: impl FnOnce() -> Result<(), AskError> + Send + 'static,
    stop: impl FnOnce(),
) -> Result<(), AskError> {
    let mut signals = Signals::block().map_err(AskError::Host)?;
    let mut poll = Poll::new().map_err(AskError::Host)?;
    let registry = poll.registry();
    registry.register(&mut SourceFd(&signals.as_raw_fd()), SIGNAL, Interest::READABLE).map_err(AskError::Host)?;
    if let Some(output) = output {
        // A file cannot be watched, and has no reader who could go.
        let _ = registry.register(&mut SourceFd(&output), OUTPUT, Interest::WRITABLE);
    }
    let waker = Arc::new(Waker::new(registry, DONE).map_err(AskError::Host)?);
    let (done, outcome) = mpsc::channel();
    let worker_waker = Arc::clone(&waker);
    thread::spawn(move || {
        // If nobody waits any more, the process is about to end.
        let _ = done.send(work());
        let _ = worker_waker.wake();
    });

    let mut stop = Some(stop);
    let mut deadline: Option<Instant> = None;
    let mut events = Events::with_capacity(8);
    loop {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(AskError::Host(error)),
            _ => {}
        }
        if let Ok(outcome) = outcome.try_recv() {
            return if deadline.is_some() { Ok(()) } else { outcome };
        }
        if events.iter().any(|event| event.token() == OUTPUT && (event.is_error() || event.is_write_closed())) {
            return Ok(());
        }
        let is_signalled = std::iter::from_fn(|| signals.take()).any(|signal| signal != libc::SIGCONT);
        if is_signalled {
            match stop.take() {
                Some(stop) => stop(),
                None => return Ok(()),
            }
            deadline = Some(Instant::now() + ENDING_TIME);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Ok(());
        }
    }
}

/// Where tables are drawn one after the other: in place on a terminal, otherwise one below the other.
struct Screen {
    is_terminal: bool,
    /// What was drawn last, to be left behind.
    last: Vec<String>,
}

/// To another screen and back, so that what was on the first one stays. There the cursor is not shown, and what is too
/// long for a line ends with it.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

impl Screen {
    fn open() -> Result<Self, AskError> {
        let screen = Self { is_terminal: io::stdout().is_terminal(), last: Vec::new() };
        if screen.is_terminal {
            print(ENTER)?;
        }
        Ok(screen)
    }

    fn draw(&mut self, lines: Vec<String>) -> Result<(), AskError> {
        if self.is_terminal {
            print(&drawing(&lines, height()))?;
        } else {
            if !self.last.is_empty() {
                print("\n")?;
            }
            print_lines(&lines)?;
        }
        self.last = lines;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            // There is nobody to tell if the terminal is gone.
            let _ = print(LEAVE).and_then(|()| print_lines(&self.last));
        }
    }
}

/// What puts lines in place of those that are on a screen of so many rows: each overwrites its own, so nothing
/// flickers.
fn drawing(lines: &[String], rows: usize) -> String {
    let fits = lines.len() <= rows;
    let shown = if fits { lines.len() } else { rows.saturating_sub(1) };
    let mut text = "\x1b[H".to_owned();
    for (place, line) in lines.iter().take(shown).enumerate() {
        if place > 0 {
            text.push_str("\r\n");
        }
        text.push_str(line);
        text.push_str("\x1b[K");
    }
    if !fits {
        text.push_str(&format!("\r\n… and {} more lines\x1b[K", lines.len() - shown));
    }
    text.push_str("\x1b[J");
    text
}

fn print(text: &str) -> Result<(), AskError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(AskError::Output)
}

fn print_lines(lines: &[String]) -> Result<(), AskError> {
    let mut text = lines.join("\n");
    text.push('\n');
    print(&text)
}

fn print_json(document: &impl serde::Serialize) -> Result<(), AskError> {
    let mut text = serde_json::to_string(document).unwrap_or_default();
    text.push('\n');
    print(&text)
}

fn stdout_fd() -> RawFd {
    io::stdout().as_raw_fd()
}

/// Columns of standard output.
fn width() -> usize {
    window().map_or(DEFAULT_WIDTH, |(columns, _)| columns)
}

/// Rows of standard output.
fn height() -> usize {
    window().map_or(24, |(_, rows)| rows)
}

/// Columns and rows of the terminal that standard output is, if it is one.
fn window() -> Option<(usize, usize)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the pointer is to a winsize that lives through the call.
    let result = unsafe { libc::ioctl(stdout_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_fits_its_screen_and_leaves_nothing_of_the_one_before() {
        let lines: Vec<String> = (0..5).map(|number| format!("line {number}")).collect();
        let text = drawing(&lines, 5);
        assert_eq!(text.matches("\x1b[K").count(), 5);
        assert!(text.starts_with("\x1b[Hline 0") && text.ends_with("line 4\x1b[K\x1b[J"));
        let text = drawing(&lines, 3);
        assert_eq!(text.matches("\r\n").count(), 2);
        assert!(text.contains("line 1") && !text.contains("line 2") && text.contains("and 3 more lines"));
    }
}
