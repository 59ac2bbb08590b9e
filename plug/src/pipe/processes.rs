//! A [`Pipeline`] made real: pipes, processes, their end.
//!
//! Invariants: each end of a pipe is in one process only, so that a command's end is seen at once by those it talked
//! to. Every process that is started here is waited for here, unless this process becomes the last command.
//!
//! Order: the two descriptors for alternates are taken first, so that they are the lowest that are free, as in dpipe;
//! then the background, the process group, the files, the pipes, the commands.
//!
//! Neighbours: `grammar` says who reads what; `program::signals` and `program::process`.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, killpg, signal};
use nix::unistd::{ForkResult, Pid, dup2, dup2_stderr, dup2_stdin, dup2_stdout, dup3, fork, getpgrp, getpid, setpgid};
use program::options::printable;
use program::process::{PidFile, daemonize};
use program::signals::Signals;

use super::{PipeError, Pipeline, Stage, Wrapper};
use crate::stdio::DIRECT;

/// The status of a command that cannot be run, for whatever reason.
const CANNOT_RUN: u8 = 127;

/// What a pipe is asked to hold, in bytes; see the man page's words in [`super::PROGRAM`].
const PIPE_SIZE: i32 = 256 * 1024;

/// Runs the commands until all have ended; returns the exit status.
pub(super) fn run(pipeline: Pipeline) -> Result<u8, PipeError> {
    let alternates = Alternates::reserve()?;
    let background = if pipeline.daemon { Some(daemonize()?) } else { None };
    lead_group()?;
    hear_of_children()?;
    let before = SigSet::thread_get_mask().map_err(|error| host("read the signal mask", error))?;
    let waits = pipeline.wrapper == Wrapper::Waits;
    let block =
        || Signals::block_and(&[libc::SIGCHLD]).map_err(|source| PipeError::Host { act: "take signals", source });
    let signals = if waits { Some(block()?) } else { None };
    let files = [
        pipeline.pid_file.as_deref().map(PidFile::create).transpose()?,
        pipeline.group_file.as_deref().map(PidFile::create_for_group).transpose()?,
    ];
    if pipeline.wrapper == Wrapper::Becomes && files.iter().any(Option::is_some) {
        leave_a_cleaner(&files)?;
    }
    let mut starter = Starter {
        pipes: (0..pipeline.pipes).map(|_| Pipe::new()).collect::<Result<_, _>>()?,
        alternates,
        before,
        is_silent: pipeline.daemon,
    };

    let mut stages = pipeline.stages;
    let heir = if waits { None } else { stages.pop() };
    let mut family = Family { members: Vec::new(), status: 0 };
    let mut failed = None;
    let last = stages.len().wrapping_sub(1);
    for (place, stage) in stages.iter().enumerate() {
        let name = name(stage);
        let is_last = waits && place == last;
        match starter.start(stage) {
            Ok(child) => family.members.push(Member { name, child, is_last }),
            Err(source) => {
                family.status = if is_last { CANNOT_RUN } else { family.status };
                if pipeline.daemon {
                    failed.get_or_insert(PipeError::Command { command: name, source });
                } else {
                    log::error!("{}: {}", printable(&name), link::reason(&source));
                }
            }
        }
    }
    if let Some(error) = failed {
        // Those of a wrapper that becomes a command have no one to wait for them: they see the ends of their pipes.
        if let Some(signals) = signals {
            drop(starter);
            family.wait(signals, Some(Signal::SIGTERM));
        }
        return Err(error);
    }
    if let Some(background) = background {
        background.detach()?;
    }
    match (heir, signals) {
        (Some(heir), _) => {
            let source = starter.become_it(&heir);
            log::error!("{}: {}", printable(&name(&heir)), link::reason(&source));
            Ok(CANNOT_RUN)
        }
        (None, Some(signals)) => {
            drop(starter);
            Ok(family.wait(signals, None))
        }
        (None, None) => unreachable!("who does not wait has an heir"),
    }
}

/// What commands are started with. Dropping it closes what is left of the pipes here.
struct Starter {
    pipes: Vec<Pipe>,
    alternates: Alternates,
    /// The signals that were blocked when this process began.
    before: SigSet,
    /// Whether nothing may be written to this process's standard error.
    is_silent: bool,
}

impl Starter {
    fn start(&mut self, stage: &Stage) -> io::Result<Child> {
        let mut command = self.command(stage)?;
        let Some((input, output)) = stage.alternate else { return command.spawn() };
        let ends = (self.reader(input)?, self.writer(output)?);
        self.alternates.fill(&ends.0, &ends.1)?;
        let child = command.spawn();
        self.alternates.empty()?;
        child
    }

    /// Turns this process into the command; returns why it cannot.
    fn become_it(&mut self, stage: &Stage) -> io::Error {
        self.command(stage).map_or_else(|error| error, |mut command| command.exec())
    }

    fn command(&mut self, stage: &Stage) -> io::Result<Command> {
        let (program, arguments) = stage.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(self.reader(stage.input)?).stdout(self.writer(stage.output)?);
        command.env("ALTERNATE_STDIN", self.alternates.input.as_raw_fd().to_string());
        command.env("ALTERNATE_STDOUT", self.alternates.output.as_raw_fd().to_string());
        if self.pipes.len() == 2 {
            // Nothing stands between the two commands.
            command.env(DIRECT, "1");
        }
        if self.is_silent {
            command.stderr(Stdio::null());
        }
        let before = self.before;
        // SAFETY: the closure makes one system call, which may be made between fork and exec, and allocates nothing.
        unsafe { command.pre_exec(move || before.thread_set_mask().map_err(io::Error::from)) };
        Ok(command)
    }

    fn reader(&mut self, pipe: usize) -> io::Result<PipeReader> {
        let end = self.pipes.get_mut(pipe).and_then(|pipe| pipe.reader.take());
        end.ok_or_else(|| io::Error::other("its pipe has a reader already"))
    }

    fn writer(&mut self, pipe: usize) -> io::Result<PipeWriter> {
        let end = self.pipes.get_mut(pipe).and_then(|pipe| pipe.writer.take());
        end.ok_or_else(|| io::Error::other("its pipe has a writer already"))
    }
}

/// A pipe's ends, both closed on exec, until they are given away.
struct Pipe {
    reader: Option<PipeReader>,
    writer: Option<PipeWriter>,
}

impl Pipe {
    fn new() -> Result<Self, PipeError> {
        let (reader, writer) = io::pipe().map_err(|source| PipeError::Host { act: "make a pipe", source })?;
        // A smaller one serves too: there is a limit for each user.
        if let Err(error) = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)) {
            log::debug!("a pipe stays as small as it is: {}", error.desc());
        }
        Ok(Self { reader: Some(reader), writer: Some(writer) })
    }
}

/// Two descriptors that are kept free for the command that has alternates. `/dev/null` stands in them meanwhile.
struct Alternates {
    input: OwnedFd,
    output: OwnedFd,
    null: File,
}

impl Alternates {
    fn reserve() -> Result<Self, PipeError> {
        let open = || File::open("/dev/null").map_err(|source| PipeError::Host { act: "open /dev/null", source });
        Ok(Self { input: open()?.into(), output: open()?.into(), null: open()? })
    }

    /// Puts a pipe's ends there, to be inherited by the next process.
    fn fill(&mut self, input: &PipeReader, output: &PipeWriter) -> io::Result<()> {
        dup2(input, &mut self.input)?;
        Ok(dup2(output, &mut self.output)?)
    }

    fn empty(&mut self) -> io::Result<()> {
        dup3(&self.null, &mut self.input, OFlag::O_CLOEXEC)?;
        Ok(dup3(&self.null, &mut self.output, OFlag::O_CLOEXEC)?)
    }
}

/// The commands that run.
struct Family {
    members: Vec<Member>,
    /// The exit status so far.
    status: u8,
}

struct Member {
    name: String,
    child: Child,
    is_last: bool,
}

impl Family {
    /// Waits for all, passes signals on, and returns the exit status. `first` is a signal to begin with.
    fn wait(mut self, mut signals: Signals, first: Option<Signal>) -> u8 {
        let mut ended_by = first;
        // We are in the group, too: what we sent to it comes back once.
        let mut own = first.filter(|signal| killpg(getpgrp(), *signal).is_ok());
        loop {
            self.bury(ended_by.is_some());
            if self.members.is_empty() {
                break;
            }
            let mut wakes = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            // Interrupted by nothing but a stop and its end: the signals are looked at again.
            let _ = poll(&mut wakes, PollTimeout::NONE);
            while let Some(taken) = signals.take().and_then(|number| Signal::try_from(number).ok()) {
                match taken {
                    Signal::SIGCHLD | Signal::SIGCONT => {}
                    _ if own == Some(taken) => own = None,
                    _ => {
                        ended_by.get_or_insert(taken);
                        own = Some(taken).filter(|signal| killpg(getpgrp(), *signal).is_ok());
                    }
                }
            }
        }
        match ended_by {
            None => self.status,
            Some(Signal::SIGTERM) => 0,
            Some(signal) => 128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(0)),
        }
    }

    /// Takes note of those that have ended. A signal that nobody expects is told of.
    fn bury(&mut self, is_ending: bool) {
        let status = &mut self.status;
        self.members.retain_mut(|member| {
            let end = match member.child.try_wait() {
                Ok(None) => return true,
                Ok(Some(end)) => end,
                Err(error) => {
                    log::error!("{}: {}", printable(&member.name), link::reason(&error));
                    ExitStatus::default()
                }
            };
            if member.is_last {
                *status = end.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
            }
            let killer = end.signal().and_then(|number| Signal::try_from(number).ok());
            if let Some(killer) = killer.filter(|signal| *signal != Signal::SIGPIPE && !is_ending) {
                log::warn!("{}: killed by {killer}", printable(&member.name));
            }
            false
        });
    }
}

fn name(stage: &Stage) -> String {
    stage.words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

fn host(act: &'static str, error: nix::Error) -> PipeError {
    PipeError::Host { act, source: error.into() }
}

/// Makes this process the leader of a process group of its own; the leader of a session is that already.
fn lead_group() -> Result<(), PipeError> {
    if getpgrp() == getpid() {
        return Ok(());
    }
    setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(|error| host("make a process group", error))
}

/// Where our parent ignored the end of children, so would we, and never hear of one.
fn hear_of_children() -> Result<(), PipeError> {
    // SAFETY: no handler is installed, nor was there one.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
        .map(drop)
        .map_err(|error| host("hear of the end of commands", error))
}

/// Starts a process that holds the files until this one ends, whatever it has become by then, and removes them.
fn leave_a_cleaner(files: &[Option<PidFile>]) -> Result<(), PipeError> {
    let us = this_process().map_err(|source| PipeError::Host { act: "watch this process", source })?;
    // SAFETY: the process has one thread, so the child's memory is consistent.
    match unsafe { fork() }.map_err(|error| host("start a process", error))? {
        ForkResult::Parent { .. } => Ok(()),
        ForkResult::Child => {
            // Signals to the group are for the commands.
            let signals = Signals::block();
            let null = File::open("/dev/null");
            if let Ok(null) = &null {
                let _ = dup2_stdin(null).and_then(|()| dup2_stdout(null)).and_then(|()| dup2_stderr(null));
            }
            while poll(&mut [PollFd::new(us.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).is_err() {}
            files.iter().flatten().for_each(PidFile::remove);
            drop(signals);
            std::process::exit(0);
        }
    }
}

/// A descriptor that can be read when this process has ended (pidfd_open(2)).
fn this_process() -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, getpid().as_raw(), 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0);
    let descriptor = descriptor.ok_or_else(io::Error::last_os_error)?;
    // SAFETY: it is open, new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
