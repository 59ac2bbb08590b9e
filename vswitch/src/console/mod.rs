//! VDE's console: the same commands on standard input, on the management socket and in the rc file.
//!
//! | file | what it holds |
//! |---|---|
//! | `command` | the table of commands; a line is parsed |
//! | `interpreter` | a command is carried out and answered; files of commands |
//! | `port` `vlan` `hash` `fstp` `mirror` `mcast` | what the commands of a topic do |
//! | `debug` | what a session is told of as it happens |
//! | `answer` | success, and failure by number |
//! | `session` `stream` | somebody who talks to the console; lines and queues |
//! | `door` `standard` | the management socket; standard input and output |
//!
//! The words and the formats are vde_switch's, so that scripts which drive it drive this switch. What it has not is
//! added in its style, and never to what its commands print.

mod answer;
pub mod command;
mod debug;
mod door;
mod fstp;
mod hash;
mod interpreter;
mod mcast;
mod mirror;
mod port;
mod session;
mod standard;
mod stream;
mod vlan;

use std::io;
use std::path::{Path, PathBuf};

use mio::{Registry, Token};
use slab::Slab;

use crate::Event;
use crate::about::About;
use crate::options::Config;
use crate::switch::{Switch, Wake};
use debug::{Categories, Root};
use door::Door;
use interpreter::{Complaint, Facts, Interpreter, Next};
use link::socket_file::SocketError;
use session::{Room, Served, Session};

/// What follows from a command for the switch as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It goes on.
    Continue,
    /// It ends.
    End,
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The management socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The operating system refused to watch a console.
    #[error("cannot watch {what}: {}", link::reason(.source))]
    Watch {
        /// Which console.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// A file of commands that cannot be read.
    #[error("{}: {reason}", .path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Sessions on the management socket, at most.
const MAX_SESSIONS: usize = 64;
/// The session on standard input; those on the management socket follow.
const STANDARD: u32 = 0;
/// The size of vde_switch's hash table, unless told otherwise.
const HASH_SIZE: u32 = 128;
/// The interval of its garbage collector, in seconds.
const GC_INTERVAL: u32 = 2;

/// Everybody who talks to the console.
pub struct Consoles {
    facts: Facts,
    door: Option<Door>,
    standard: Option<Session>,
    sessions: Slab<Session>,
    /// The tree as last told of; none while nobody wants to know.
    root: Option<Root>,
}

impl Consoles {
    /// Opens the management socket, and standard input unless it is to be left alone.
    ///
    /// # Errors
    /// The socket cannot be made, or standard input cannot be watched.
    pub fn open(config: &Config, mgmt_group: Option<u32>, registry: &Registry) -> Result<Self, ConsoleError> {
        let watch = |what| move |source| ConsoleError::Watch { what, source };
        let door = config.mgmt.as_deref().map(|path| Door::open(path, config.mgmt_mode, mgmt_group)).transpose()?;
        if let Some(door) = &door {
            door.register(registry, Wake::ConsoleDoor.token()).map_err(watch("the management socket"))?;
        }
        let standard = match config.daemon || config.nostdin {
            true => None,
            false => Some(Session::on_standard(registry, token(STANDARD)).map_err(watch("standard input"))?),
        };
        let hash_size = config.hash_size.and_then(|size| u32::try_from(size).ok()).unwrap_or(HASH_SIZE);
        let Config { mode, mgmt_mode, .. } = *config;
        let facts = Facts { mode, mgmt_mode, hash_size, gc_interval: GC_INTERVAL };
        Ok(Self { facts, door, standard, sessions: Slab::new(), root: None })
    }

    /// Carries out the commands of a file. One that fails is told of in the log, and the next one follows.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn run_file(&mut self, path: &Path, switch: &mut Switch, about: &About) -> Result<(), ConsoleError> {
        let mut categories = Categories::default();
        let facts = &mut self.facts;
        let mut interpreter = Interpreter { switch, about, facts, categories: &mut categories, out: String::new() };
        let mut complaints = Vec::new();
        let outcome = interpreter.file(path, &mut complaints);
        for Complaint { path, line, failure, cause } in complaints {
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            log::warn!("{}:{line}: {failure}{cause}", path.display());
        }
        match outcome {
            Ok(Next::Shutdown) => log::warn!("{}: shutdown: there is nothing running yet", path.display()),
            Ok(_) => {}
            Err(failure) => {
                return Err(ConsoleError::Script { path: path.to_owned(), reason: failure.to_string() });
            }
        }
        Ok(())
    }

    /// Somebody is at the management socket. One is let in; between two, those who have left are let go of.
    pub fn accept(&mut self, registry: &Registry) {
        let Some(door) = &self.door else { return };
        match door.accept() {
            Ok(None) => return,
            Ok(Some(_)) if self.sessions.len() >= MAX_SESSIONS => {
                log::warn!("management socket: somebody was sent off: there are {MAX_SESSIONS} consoles already");
            }
            Ok(Some(stream)) => match Session::on_socket(stream, registry, token(key(self.sessions.vacant_key()))) {
                Ok(session) => drop(self.sessions.insert(session)),
                Err(error) => log::warn!("management socket: a console is gone at once: {}", link::reason(&error)),
            },
            Err(error) => {
                log::warn!("management socket: {}", link::reason(&error));
                return;
            }
        }
        if let Err(error) = door.rearm(registry, Wake::ConsoleDoor.token()) {
            log::warn!("management socket: {}", link::reason(&error));
        }
    }

    /// A console has something to read, or room for more of an answer.
    pub fn serve(&mut self, key: u32, switch: &mut Switch, about: &About, registry: &Registry) -> Order {
        let session = match place(key) {
            None => self.standard.as_mut(),
            Some(place) => self.sessions.get_mut(place),
        };
        let Some(session) = session else { return Order::Continue };
        let mut room = Room { switch, about, facts: &mut self.facts };
        let served = session.serve(&mut room, registry, token(key));
        if !session.categories().is_empty() {
            let status = room.switch.stp().root();
            self.root.get_or_insert((status.root, status.port));
        }
        self.conclude(key, served, registry)
    }

    /// Tells those who asked with `debug/add`.
    pub fn publish(&mut self, events: &[Event], switch: &Switch, registry: &Registry) {
        let listens = |session: &Session| !session.categories().is_empty();
        let sessions = self.sessions.iter().filter(|(_, session)| listens(session)).map(|(place, _)| key(place));
        let standard = self.standard.as_ref().filter(|session| listens(session)).map(|_| STANDARD);
        let listeners: Vec<u32> = standard.into_iter().chain(sessions).collect();
        if listeners.is_empty() {
            self.root = None;
            return;
        }
        let news = debug::news(events, switch, &mut self.root);
        for key in listeners {
            let session = match place(key) {
                None => self.standard.as_mut(),
                Some(place) => self.sessions.get_mut(place),
            };
            if session.is_some_and(|session| session.publish(&news) == Served::Ended) {
                self.conclude(key, Served::Ended, registry);
            }
        }
    }

    fn conclude(&mut self, key: u32, served: Served, registry: &Registry) -> Order {
        match (served, place(key)) {
            (Served::Waits, _) => return Order::Continue,
            (Served::EndsSwitch, _) => return Order::End,
            (Served::Ended, Some(place)) => {
                if let Some(session) = self.sessions.try_remove(place) {
                    session.deregister(registry);
                }
            }
            (Served::Ended, None) => self.standard = None,
        }
        Order::Continue
    }
}

fn token(key: u32) -> Token {
    Wake::Console(key).token()
}

/// The key of a session on the management socket.
fn key(place: usize) -> u32 {
    // There are at most MAX_SESSIONS.
    u32::try_from(place).map_or(u32::MAX, |place| place + 1)
}

/// The place of a session on the management socket; none for the one on standard input.
fn place(key: u32) -> Option<usize> {
    key.checked_sub(1).map(|place| place as usize)
}
