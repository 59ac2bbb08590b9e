//! A line in, an answer out: what is the same for every session, and for the files they load.
//!
//! ```text
//! 0000 DATA END WITH '.'      before a table, which may be empty
//! …
//! .
//! 1000 Success                or 1 and the number of an error, and words
//! ```
//!
//! Neighbours: [`super::command`] reads the line, a file for each topic carries it out.

use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use program::options::printable;

use super::answer::{Failure, Outcome};
use super::command::{self, COMMANDS, Command, ParseError, Plugin, Shape};
use super::debug::Categories;
use super::{fstp, hash, mcast, mirror, port, vlan};
use crate::about::About;
use crate::bridge::explain::Question;
use crate::switch::Switch;

/// What consoles show beside the switch and [`About`], and what they keep only to show it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Permissions of the clients' sockets.
    pub(super) mode: u32,
    /// Permissions of the management socket.
    pub(super) mgmt_mode: u32,
    /// A power of two.
    pub(super) hash_size: u32,
    /// In seconds.
    pub(super) gc_interval: u32,
}

/// What follows from a line for its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next line.
    Line,
    /// The session ends.
    Logout,
    /// The switch ends.
    Shutdown,
}

/// Files that load one another, at most.
const MAX_DEPTH: usize = 16;
/// Bytes of a file to be loaded, at most.
const MAX_SCRIPT: u64 = 1 << 20;
/// Bytes of an answer at which a file is not read on.
pub(super) const MAX_ANSWER: usize = 32 << 20;

/// Carries lines out.
pub(super) struct Interpreter<'a> {
    pub(super) switch: &'a mut Switch,
    pub(super) about: &'a About,
    pub(super) facts: &'a mut Facts,
    /// What the session is told of.
    pub(super) categories: &'a mut Categories,
    /// What is said in return.
    pub(super) out: String,
}

/// A line of a file that failed.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) path: PathBuf,
    pub(super) line: usize,
    pub(super) failure: Failure,
    /// What is wrong with it, if it is no command.
    pub(super) cause: Option<ParseError>,
}

impl Interpreter<'_> {
    /// Carries a line out.
    pub(super) fn line(&mut self, line: &str) -> Next {
        let (next, outcome, _) = self.carry_out(line, &mut Vec::new(), 0);
        if let Some(outcome) = outcome {
            self.conclude(outcome);
        }
        next
    }

    /// Carries a file out; what fails in it is told of, and does not stop it.
    pub(super) fn file(&mut self, path: &Path, complaints: &mut Vec<Complaint>) -> Result<Next, Failure> {
        self.load(path, complaints, 0)
    }

    /// Carries a line out up to its last word: that it succeeded or why not, or nothing where nothing is to be said.
    fn carry_out(
        &mut self,
        line: &str,
        complaints: &mut Vec<Complaint>,
        depth: usize,
    ) -> (Next, Option<Outcome>, Option<ParseError>) {
        let (entry, command) = match command::parse(line) {
            Ok(None) => return (Next::Line, None, None),
            Ok(Some(found)) => found,
            Err((shape, error)) => {
                if shape == Shape::Table {
                    self.out.push_str("0000 DATA END WITH '.'\n.\n");
                }
                let errno = if error == ParseError::Unknown { libc::ENOSYS } else { libc::EINVAL };
                return (Next::Line, Some(Err(Failure::new(errno))), Some(error));
            }
        };
        match command {
            Command::Logout => return (Next::Logout, None, None),
            Command::Shutdown => return (Next::Shutdown, None, None),
            Command::Load(path) => match self.load(&path, complaints, depth) {
                Ok(Next::Shutdown) => return (Next::Shutdown, None, None),
                outcome => return (Next::Line, Some(outcome.map(drop)), None),
            },
            _ => {}
        }
        if entry.shape == Shape::Table {
            self.out.push_str("0000 DATA END WITH '.'\n");
        }
        let outcome = self.execute(&command);
        if entry.shape == Shape::Table {
            self.out.push_str(".\n");
        }
        (Next::Line, Some(outcome), None)
    }

    fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Ok(()) => self.out.push_str("1000 Success\n"),
            Err(failure) => drop(writeln!(self.out, "{failure}")),
        }
    }

    fn load(&mut self, path: &Path, complaints: &mut Vec<Complaint>, depth: usize) -> Result<Next, Failure> {
        if depth >= MAX_DEPTH {
            return Err(Failure::new(libc::ELOOP));
        }
        // A file that blocks, such as a pipe, is not waited for.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let mut bytes = Vec::new();
        file.take(MAX_SCRIPT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_SCRIPT {
            return Err(Failure::new(libc::EFBIG));
        }
        let text = String::from_utf8_lossy(&bytes);
        let name = printable(&path.to_string_lossy());
        for (number, line) in (1..).zip(text.lines()) {
            if self.out.len() > MAX_ANSWER {
                return Err(Failure::new(libc::EFBIG));
            }
            let _ = writeln!(self.out, "vde[{name}]: {}", printable(line));
            let (next, outcome, cause) = self.carry_out(line, complaints, depth + 1);
            if next == Next::Shutdown {
                return Ok(next);
            }
            if let Some(Err(failure)) = &outcome {
                let failure = failure.clone();
                complaints.push(Complaint { path: path.to_owned(), line: number, failure, cause });
            }
            if let Some(outcome) = outcome {
                self.conclude(outcome);
            }
        }
        Ok(Next::Line)
    }

    fn execute(&mut self, command: &Command) -> Outcome {
        let Self { switch, facts, categories, out, .. } = self;
        match command {
            Command::Help(path) => help(path, out),
            Command::ShowInfo => self.show_info(),
            Command::DataSocket => {
                let dir = printable(&self.about.dir.to_string_lossy());
                let _ = writeln!(out, "ctl dir {dir}\nstd mode {:04o}", facts.mode);
            }
            Command::Explain { source, destination, port, vlan } => {
                let question = Question { ingress: *port, vlan: *vlan, ..Question::new(*source, *destination) };
                let _ = write!(out, "{}", switch.bridge.explain(&question, Instant::now()));
            }
            Command::Debug(command) => categories.execute(command, out)?,
            Command::Plugin(Plugin::List) => {
                out.push_str("NAME                   HELP\n------------           ----\n");
                return Err(Failure::new(libc::ENOENT));
            }
            Command::Plugin(Plugin::Add) => {
                return Err(Failure::saying(libc::ENOENT, "there are no plugins: this switch loads no foreign code"));
            }
            Command::Plugin(Plugin::Del) => return Err(Failure::new(libc::ENOENT)),
            Command::Hash(command) => hash::execute(command, switch, facts, out)?,
            Command::Fstp(command) => fstp::execute(command, switch, out)?,
            Command::Port(command) => port::execute(command, switch, out)?,
            Command::Vlan(command) => vlan::execute(command, switch, out)?,
            Command::Mirror(command) => mirror::execute(command, switch, out)?,
            Command::Multicast(command) => mcast::execute(command, &mut switch.bridge, out),
            // They are the session's.
            Command::Logout | Command::Shutdown | Command::Load(_) => {}
        }
        Ok(())
    }

    fn show_info(&mut self) {
        let address = self.switch.stp().root().bridge.address;
        let uptime = self.about.begun.elapsed().as_secs();
        self.out.push_str(BANNER);
        let _ = writeln!(self.out, "pid {} MAC {address} uptime {uptime}", std::process::id());
        if let Some(path) = &self.about.mgmt {
            let path = printable(&path.to_string_lossy());
            let _ = writeln!(self.out, "mgmt {path} perm {:04o}", self.facts.mgmt_mode);
        }
    }
}

/// What a session begins with.
pub(super) const BANNER: &str = concat!("VDE switch V.", env!("CARGO_PKG_VERSION"), " (Etherloom)\n\n");

fn help(path: &str, out: &mut String) {
    out.push_str("COMMAND PATH       SYNTAX          HELP\n------------       --------------  ------------\n");
    for entry in COMMANDS.iter().filter(|entry| entry.path.starts_with(path)) {
        let _ = writeln!(out, "{:<18} {:<15} {}", entry.path, entry.syntax, entry.help);
    }
}

#[cfg(test)]
#[path = "interpreter_test.rs"]
mod tests;
