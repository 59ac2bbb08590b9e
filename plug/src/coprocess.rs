//! A program whose standard input and output carry frames: `cmd://`, and what `ssh` is made of.
//!
//! Theory of operation. The program is *expected* to say hello, if it is known to be ours ([`Begin::Hello`]); what it says
//! before, as the start-up files of a shell do, is shown and skipped. One that has to connect first is expected to say so
//! by [`CONNECTED`] ([`Begin::Connected`]). Until then there is no carrier. Otherwise, and from then on, frames pass
//! (*running*). When its output ends it is *ending*: its status is waited for, a little, and says how
//! the link ends. What it writes to standard error goes to the log, line by line, under the name that it was given.
//!
//! Invariant: nothing here waits for the program, but the end of the link: a program that does not end with its input is
//! terminated, and killed after [`GRACE`].

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use link::stream::wire::Framing;
use link::stream::{FrameStream, Opening};
use link::{Capabilities, Counters, DropCounts, DropReason, Link, LinkState, Offloads, RxBatch, TxBatch};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fault::FaultKind;
use crate::stdio::DIRECT;

/// The line on standard error by which a program says that it is connected; it is not shown.
pub(crate) const CONNECTED: &str = "ETHERLOOM connected";
/// How long a hello may take: a name is resolved, a connection made, a password typed.
const HELLO_TIME: Duration = Duration::from_secs(120);
/// How long a program may take to end.
const GRACE: Duration = Duration::from_millis(500);
/// How often an ending program is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// Bytes of a pipe: four of the longest frames. More would only add delay.
const PIPE_BYTES: i32 = 256 * 1024;
/// Bytes of a line of its words at most.
const MAX_LINE: usize = 1024;

/// How the program's output begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With frames; it may be one of VDE's.
    Frames,
    /// With frames, once it has said [`CONNECTED`], or with the first frame.
    Connected,
    /// With a hello: it is ours.
    Hello,
}

/// A program that carries frames.
pub(crate) struct Coprocess {
    name: String,
    /// What its words are shown under.
    speaker: String,
    child: Child,
    stream: FrameStream,
    words: Words,
    state: State,
    watch: Option<(Registry, Token)>,
    drops: DropCounts,
}

#[derive(Debug)]
enum State {
    /// Its hello is awaited, until then.
    Expected(Instant),
    /// Its connection is awaited.
    Connecting,
    Running,
    /// Its output has ended, or makes no sense.
    Ending {
        error: io::Error,
        /// How long it may take to end.
        until: Instant,
        /// When it is looked at next.
        look: Instant,
    },
}

/// How a program ended.
pub(crate) struct End {
    /// Its status; none if it had to be killed.
    pub(crate) status: Option<ExitStatus>,
    /// Whether it had said hello, or did not have to.
    pub(crate) has_run: bool,
    /// Why its output ended.
    pub(crate) error: io::Error,
    /// The last of its words.
    pub(crate) last_words: Vec<String>,
}

impl Coprocess {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(mut command: Command, name: &str, speaker: &str, begin: Begin) -> io::Result<Self> {
        command.env_remove(DIRECT);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (Some(input), Some(output), Some(words)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
        for pipe in [&input, &output] {
            // A smaller pipe serves too.
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        }
        Ok(Self {
            name: name.to_owned(),
            speaker: speaker.to_owned(),
            stream: FrameStream::new(output, input, Framing::Vde, Opening::Silent)?,
            child,
            words: Words::new(words)?,
            state: match begin {
                Begin::Frames => State::Running,
                Begin::Connected => State::Connecting,
                Begin::Hello => State::Expected(Instant::now() + HELLO_TIME),
            },
            watch: None,
            drops: DropCounts::default(),
        })
    }

    /// As [`Link::register`].
    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.watch = Some((registry.try_clone()?, token));
        self.stream.register(registry, token)?;
        registry.register(&mut SourceFd(&self.words.pipe.as_raw_fd()), token, Interest::READABLE)
    }

    /// As [`Link::deregister`].
    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.watch = None;
        self.stream.deregister(registry)?;
        registry.deregister(&mut SourceFd(&self.words.pipe.as_raw_fd()))
    }

    /// As [`Link::service`], but the end is told as a value.
    pub(crate) fn service(&mut self, now: Instant) -> Option<End> {
        self.words.relay(&self.speaker);
        match &self.state {
            State::Expected(until) if *until <= now => {
                let what = format!("{}: it did not say hello for {} s", self.name, HELLO_TIME.as_secs());
                self.begin_to_end(FaultKind::Protocol.error(what));
            }
            State::Expected(_) => match self.stream.await_hello() {
                Ok(None) => {}
                Ok(Some(noise)) => {
                    self.show_noise(&noise);
                    self.state = State::Running;
                }
                Err(error) => self.begin_to_end(error),
            },
            State::Connecting => match self.stream.await_bytes() {
                Ok(has_come) if has_come || self.words.is_connected => self.state = State::Running,
                Ok(_) => {}
                Err(error) => self.begin_to_end(error),
            },
            State::Running => {
                if let Err(error) = self.stream.service() {
                    self.begin_to_end(error);
                }
            }
            State::Ending { .. } => {}
        }
        let State::Ending { until, look, .. } = &mut self.state else { return None };
        let status = self.child.try_wait().ok().flatten();
        if status.is_none() && *until > now {
            *look = (now + LOOK).min(*until);
            return None;
        }
        self.words.relay(&self.speaker);
        let last_words = std::mem::take(&mut self.words.last);
        let State::Ending { error, .. } = std::mem::replace(&mut self.state, State::Running) else { return None };
        let has_run = !matches!(error.kind(), io::ErrorKind::NotConnected);
        Some(End { status, has_run, error, last_words })
    }

    /// As [`Link::deadline`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Expected(until) => Some(*until),
            State::Connecting => None,
            State::Running => self.stream.deadline(),
            State::Ending { look, .. } => Some(*look),
        }
    }

    /// As [`Link::send`].
    pub(crate) fn send(&mut self, batch: &TxBatch<'_>) {
        if !self.is_up() {
            self.drops.add(DropReason::LinkDown, batch.len() as u64);
        } else if let Err(error) = self.stream.send(batch) {
            self.begin_to_end(error);
        }
    }

    /// As [`Link::receive`].
    pub(crate) fn receive(&mut self, batch: &mut RxBatch<'_>) -> usize {
        if !self.is_up() {
            return 0;
        }
        self.stream.receive(batch).unwrap_or_else(|error| {
            self.begin_to_end(error);
            0
        })
    }

    /// Whether frames pass.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Running)
    }

    /// The other way for frames that its hello has offered.
    pub(crate) fn offer(&self) -> Option<&str> {
        self.stream.peer_data()
    }

    /// As [`Link::capabilities`].
    pub(crate) fn capabilities(&self) -> Capabilities {
        self.stream.capabilities()
    }

    /// As [`Link::counters`].
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = self.stream.counters();
        counters.drops.merge(&self.drops);
        counters
    }

    fn begin_to_end(&mut self, error: io::Error) {
        if !matches!(self.state, State::Ending { .. }) {
            let look = Instant::now();
            self.state = State::Ending { error, until: look + GRACE, look };
        }
    }

    fn show_noise(&self, noise: &[u8]) {
        let text = String::from_utf8_lossy(noise);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if !lines.is_empty() {
            let shown = lines.join(" / ").escape_debug().to_string();
            log::warn!(
                "{}: skipped what the far side's shell prints when it starts: '{shown}' (its start-up files should print \
                 on terminals only)",
                self.name
            );
        }
    }
}

impl Drop for Coprocess {
    fn drop(&mut self) {
        if let Some((registry, _)) = self.watch.take() {
            // Closing the descriptors ends it in any case.
            let _ = self.deregister(&registry);
        }
        let pid = Pid::from_raw(self.child.id().cast_signed());
        let has_ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if has_ended(&mut self.child) {
            return;
        }
        // It may have ended by now: then it is still ours to wait for, and the signal reaches nobody else.
        let _ = kill(pid, Signal::SIGTERM);
        let until = Instant::now() + GRACE;
        while !has_ended(&mut self.child) {
            if Instant::now() >= until {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a program writes to standard error.
struct Words {
    pipe: ChildStderr,
    line: Vec<u8>,
    /// The last lines, for the message about its end.
    last: Vec<String>,
    /// Whether [`CONNECTED`] was among them.
    is_connected: bool,
}

impl Words {
    fn new(pipe: ChildStderr) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { pipe, line: Vec::new(), last: Vec::new(), is_connected: false })
    }

    fn relay(&mut self, speaker: &str) {
        let mut bytes = [0; 4096];
        while let Ok(len @ 1..) = self.pipe.read(&mut bytes) {
            for byte in &bytes[..len] {
                if *byte != b'\n' {
                    self.line.push(*byte);
                }
                if *byte == b'\n' || self.line.len() >= MAX_LINE {
                    let text = String::from_utf8_lossy(&self.line).trim_end().escape_debug().to_string();
                    self.line.clear();
                    if text == CONNECTED {
                        self.is_connected = true;
                    } else if !text.is_empty() {
                        log::warn!("{speaker}: {text}");
                        self.last.push(text);
                        self.last.drain(..self.last.len().saturating_sub(4));
                    }
                }
            }
        }
    }
}

/// `cmd://COMMAND`: a program whose standard input and output are a VDE stream.
pub(crate) struct Cmd(Coprocess);

impl Cmd {
    /// Starts it.
    ///
    /// # Errors
    /// The program cannot be run.
    pub(crate) fn open(name: String, argv: &[String]) -> io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments);
        Coprocess::start(command, &name, &name, Begin::Frames).map(Self)
    }
}

impl Link for Cmd {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.0.stream.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.0.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.0.deregister(registry)
    }

    fn service(&mut self, now: Instant) -> io::Result<()> {
        let Some(End { status, error, .. }) = self.0.service(now) else { return Ok(()) };
        let name = &self.0.name;
        match status.map(|status| (status, status.code())) {
            Some((_, Some(0))) if FaultKind::of(&error) == FaultKind::Ended => {
                Err(FaultKind::Ended.error(format!("{name}: it has ended")))
            }
            Some((status, code)) if code != Some(0) => {
                let kind = code.and_then(|code| u8::try_from(code).ok()).and_then(FaultKind::of_status);
                Err(kind.unwrap_or(FaultKind::Transport).error(format!("{name}: {status}")))
            }
            _ => Err(FaultKind::of(&error).error(format!("{name}: {error}"))),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        self.0.send(batch);
        Ok(batch.len())
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        Ok(self.0.receive(batch))
    }

    fn state(&self) -> LinkState {
        if self.0.is_up() { LinkState::Up } else { LinkState::Down }
    }

    fn counters(&self) -> Counters {
        self.0.counters()
    }
}
