//! Somebody who talks to the console.
//!
//! A session on the management socket gets a banner, and `vde$ ` after each answer; it is not read from while its
//! answers are not taken, so it can only hold itself up. Standard input is read from in any case, since its end ends
//! the switch; what standard output does not take is kept up to the same bound, and then dropped. It has a prompt on a
//! terminal only, so that a program that drives the switch reads answers and nothing else, and `logout` means nothing
//! there.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use link::event::EventFd;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::answer::Failure;
use super::debug::{Categories, News};
use super::interpreter::{BANNER, Facts, Interpreter, MAX_ANSWER, Next};
use super::standard::Standard;
use super::stream::{Lines, Queue, TooLong};
use crate::about::About;
use crate::switch::Switch;

/// What commands are carried out on.
pub(super) struct Room<'a> {
    pub(super) switch: &'a mut Switch,
    pub(super) about: &'a About,
    pub(super) facts: &'a mut Facts,
}

/// What comes of serving a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// It waits for more to be said, or for its answers to be taken.
    Waits,
    /// It is over.
    Ended,
    /// The switch is to end.
    EndsSwitch,
}

/// Bytes that wait to be taken, at most. A table of 100,000 stations has 7 MB.
const MAX_QUEUED: usize = MAX_ANSWER;
/// Lines and reads after which everybody else is served before this session goes on.
const TURN: usize = 64;
/// Bytes of a read.
const CHUNK: usize = 4096;
/// How long the end of the switch waits for standard output to take something.
const LAST_WORDS_MILLIS: i32 = 1000;

const PROMPT: &str = "\nvde$ ";
const GOODBYE: &str = "9999 END OF SESSION";

/// A session.
pub(super) struct Session {
    ends: Ends,
    has_prompt: bool,
    lines: Lines,
    queue: Queue,
    categories: Categories,
    /// It ends when its answers are taken.
    is_over: bool,
    /// It was said once that nobody reads.
    is_loss_told: bool,
}

enum Ends {
    Socket(UnixStream),
    Standard {
        input: Standard,
        output: Standard,
        /// Word of an input that epoll has none of.
        again: EventFd,
    },
}

impl Session {
    /// A session on the management socket.
    pub(super) fn on_socket(stream: UnixStream, registry: &Registry, token: Token) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        registry.register(&mut SourceFd(&stream.as_raw_fd()), token, BOTH)?;
        let mut session = Self::new(Ends::Socket(stream), true);
        session.queue.push(BANNER);
        session.queue.push(PROMPT.trim_start());
        session.flush()?;
        Ok(session)
    }

    /// The session on standard input and output.
    pub(super) fn on_standard(registry: &Registry, token: Token) -> io::Result<Self> {
        let (mut input, mut output, again) = (Standard::input()?, Standard::output()?, EventFd::new()?);
        output.register(registry, token, Interest::WRITABLE)?;
        if !input.register(registry, token, Interest::READABLE)? {
            registry.register(&mut SourceFd(&again.as_raw_fd()), token, Interest::READABLE)?;
            again.signal();
        }
        let has_prompt = input.is_terminal();
        Ok(Self::new(Ends::Standard { input, output, again }, has_prompt))
    }

    fn new(ends: Ends, has_prompt: bool) -> Self {
        Self {
            ends,
            has_prompt,
            lines: Lines::default(),
            queue: Queue::default(),
            categories: Categories::default(),
            is_over: false,
            is_loss_told: false,
        }
    }

    /// What it is told of.
    pub(super) fn categories(&self) -> Categories {
        self.categories
    }

    /// Reads, carries out and answers, as much as there is and as is taken.
    pub(super) fn serve(&mut self, room: &mut Room<'_>, registry: &Registry, token: Token) -> Served {
        match self.take_turn(room) {
            Ok(Some(served)) => served,
            Ok(None) => match self.rearm(registry, token) {
                Ok(()) => Served::Waits,
                Err(_) => self.end(),
            },
            Err(_) => self.end(),
        }
    }

    /// Tells of what has happened, if it wants to know.
    pub(super) fn publish(&mut self, news: &[News]) -> Served {
        self.queue.push(&self.categories.select(news));
        match self.flush() {
            Ok(_) => Served::Waits,
            Err(_) => self.end(),
        }
    }

    pub(super) fn deregister(&self, registry: &Registry) {
        if let Ends::Socket(stream) = &self.ends {
            // It is closed next.
            let _ = registry.deregister(&mut SourceFd(&stream.as_raw_fd()));
        }
    }

    /// What the end of its input means.
    fn end(&mut self) -> Served {
        match &self.ends {
            Ends::Socket(_) => Served::Ended,
            Ends::Standard { .. } => {
                self.say_last_words();
                Served::EndsSwitch
            }
        }
    }

    /// One turn; nothing if there may be more to do.
    fn take_turn(&mut self, room: &mut Room<'_>) -> io::Result<Option<Served>> {
        let mut buffer = [0; CHUNK];
        for _ in 0..TURN {
            let is_taken = self.flush()?;
            if !is_taken && matches!(self.ends, Ends::Socket(_)) {
                return Ok(Some(Served::Waits));
            }
            if self.is_over {
                return Ok(Some(self.end()));
            }
            if let Some(line) = self.lines.next() {
                if self.answer(line, room) == Next::Shutdown {
                    self.say_last_words();
                    return Ok(Some(Served::EndsSwitch));
                }
                continue;
            }
            if self.lines.is_at_end() {
                self.is_over = true;
                continue;
            }
            let read = match &mut self.ends {
                Ends::Socket(stream) => stream.read(&mut buffer),
                Ends::Standard { input, .. } => input.read(&mut buffer),
            };
            match read {
                Ok(0) => self.lines.end(),
                Ok(count) => self.lines.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(Served::Waits)),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Carries a line out.
    fn answer(&mut self, line: Result<String, TooLong>, room: &mut Room<'_>) -> Next {
        let next = match line {
            Ok(line) => {
                let Room { switch, about, facts } = room;
                let categories = &mut self.categories;
                let mut interpreter = Interpreter { switch, about, facts, categories, out: String::new() };
                let next = interpreter.line(&line);
                self.queue.push(&interpreter.out);
                next
            }
            Err(TooLong) => {
                self.queue.push(&format!("{}\n", Failure::new(libc::E2BIG)));
                Next::Line
            }
        };
        match (next, &self.ends) {
            (Next::Line, _) if self.has_prompt => self.queue.push(PROMPT),
            (Next::Logout | Next::Shutdown, Ends::Socket(_)) => {
                self.queue.push(GOODBYE);
                self.is_over = true;
            }
            _ => {}
        }
        next
    }

    /// Hands over what is taken now; whether that was all.
    ///
    /// # Errors
    /// Nobody will take any more, or more waits than is kept: the session is over.
    fn flush(&mut self) -> io::Result<bool> {
        let outcome = match &mut self.ends {
            Ends::Socket(stream) => self.queue.flush(stream),
            Ends::Standard { output, .. } => self.queue.flush(output),
        };
        match (outcome, &self.ends) {
            (Ok(false), _) if self.queue.len() > MAX_QUEUED => self.lose("it does not read what it is told"),
            // What comes in still counts, and its end.
            (Err(error), Ends::Standard { .. }) => self.lose(&link::reason(&error)),
            (outcome, _) => outcome,
        }
    }

    /// Drops what waits, since nobody takes it.
    fn lose(&mut self, why: &str) -> io::Result<bool> {
        self.queue.clear();
        match self.ends {
            Ends::Socket(_) => {
                log::warn!("a console was cut off: {why}");
                Err(io::ErrorKind::WriteZero.into())
            }
            Ends::Standard { .. } => {
                if !std::mem::replace(&mut self.is_loss_told, true) {
                    log::warn!("the console's answers on standard output are lost: {why}");
                }
                Ok(true)
            }
        }
    }

    /// Asks for word at once, if there is still something to read.
    fn rearm(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match &self.ends {
            Ends::Socket(stream) => registry.reregister(&mut SourceFd(&stream.as_raw_fd()), token, BOTH),
            Ends::Standard { input, again, .. } if input.never_waits() => {
                again.clear();
                again.signal();
                Ok(())
            }
            Ends::Standard { input, .. } => input.rearm(registry, token, Interest::READABLE),
        }
    }

    /// The switch ends: what is still to be said is said, as long as somebody takes it.
    fn say_last_words(&mut self) {
        while let Ok(false) = self.flush() {
            match &self.ends {
                Ends::Standard { output, .. } if output.wait_for_room(LAST_WORDS_MILLIS) => {}
                _ => return,
            }
        }
    }
}

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

#[cfg(test)]
mod tests {
    use mio::Poll;

    use super::*;
    use crate::console::debug;

    #[test]
    fn a_console_that_does_not_read_what_it_is_told_is_cut_off() {
        let poll = Poll::new().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut session = Session::on_socket(ours, poll.registry(), Token(0)).unwrap();
        session.categories.execute(&super::super::command::Debug::Add(String::new()), &mut String::new()).unwrap();
        let news = debug::refused(&"x".repeat(1 << 20));
        let told = (0..100).take_while(|_| session.publish(&news) == Served::Waits).count();
        assert!((MAX_QUEUED >> 20..100).contains(&told), "{told}");
        drop(theirs);
    }
}
