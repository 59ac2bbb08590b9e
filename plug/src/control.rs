//! Control sockets: lines of text in, text out.
//!
//! A line that makes no sense is answered `error: …`. Who asks one question shuts down the sending half and reads to
//! the end: [`ask`].
//!
//! Invariant: only the user of this process, and root, can connect (mode 0600), and nobody there can hold up the owner:
//! a line is at most [`MAX_LINE`] bytes, no line is answered before the answer to the last one is on its way, after
//! [`MAX_LINES`] it is another's turn, and there are at most [`MAX_CLIENTS`], of whom the oldest goes when one more
//! comes.
//!
//! Neighbours: `impair` and `join`, which serve one each, for what the lines do.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link::socket_file::{self, SocketError, SocketFile};
use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

/// The longest line, in bytes.
pub const MAX_LINE: usize = 4096;
/// Lines that are answered at a time.
pub const MAX_LINES: usize = 16;
/// Who may be connected at once.
pub const MAX_CLIENTS: usize = 8;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;
/// What an answer begins with that says what was wrong.
const ERROR: &str = "error: ";

/// Asks whom this control socket is of one line, and returns its answer. Waits for five seconds at most.
///
/// # Errors
/// Nobody listens there, or says nothing; or the link refuses the line, and the error has its words
/// ([`io::ErrorKind::InvalidInput`]).
pub fn ask(path: &Path, line: &str) -> io::Result<String> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    if line.contains('\n') || line.len() >= MAX_LINE {
        return Err(refused("expected one line, shorter than 4096 bytes"));
    }
    let mut stream = Blocking::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    match answer.strip_prefix(ERROR) {
        Some(why) => Err(refused(why.trim_end())),
        None if answer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Ok(answer),
    }
}

/// The socket and those who are connected.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    file: SocketFile,
    /// The oldest first.
    clients: VecDeque<Client>,
    next: usize,
}

/// Somebody who is connected.
#[derive(Debug)]
struct Client {
    token: Token,
    stream: UnixStream,
    heard: Vec<u8>,
    /// The part of an answer that did not go at once.
    answer: VecDeque<u8>,
    has_ended: bool,
    /// It may have lines, or room for an answer.
    is_ready: bool,
}

impl Control {
    /// Makes the socket, in place of one that nobody listens on, and registers it under `token`; those who connect get
    /// the tokens above.
    ///
    /// # Errors
    /// Somebody listens there, something else is in the way, or there is no permission.
    pub fn open(path: &Path, registry: &Registry, token: Token) -> Result<Self, SocketError> {
        const MODE: u32 = 0o600;
        let absolute: PathBuf = std::path::absolute(path).map_err(socket_file::system("find", path))?;
        let (fd, file) = socket_file::listen(absolute, MODE, None, 8)?;
        let mut listener = UnixListener::from_std(fd.into());
        let registered = registry.register(&mut listener, token, Interest::READABLE);
        registered.map_err(socket_file::system("watch", file.path()))?;
        Ok(Self { listener, file, clients: VecDeque::new(), next: token.0 + 1 })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Lets in everybody who has come.
    pub fn accept(&mut self, registry: &Registry) {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let token = Token(self.next);
                    self.next += 1;
                    if self.clients.len() >= MAX_CLIENTS {
                        self.clients.pop_front();
                    }
                    match registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
                        Ok(()) => self.clients.push_back(Client::new(token, stream)),
                        Err(error) => log::warn!("{}: {}", self.path().display(), link::reason(&error)),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if [io::ErrorKind::Interrupted, io::ErrorKind::ConnectionAborted].contains(&error.kind()) => {}
                Err(error) => {
                    log::warn!("{}: {}", self.path().display(), link::reason(&error));
                    return;
                }
            }
        }
    }

    /// Somebody has become ready.
    pub fn note(&mut self, token: Token) {
        self.clients.iter_mut().filter(|client| client.token == token).for_each(|client| client.is_ready = true);
    }

    /// Whether somebody is ready.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.clients.iter().any(|client| client.is_ready)
    }

    /// Serves those who are ready, for one turn; `execute` answers a line.
    pub fn serve(&mut self, mut execute: impl FnMut(&str) -> Result<String, String>) {
        self.clients.retain_mut(|client| !client.is_ready || client.serve(&mut execute).is_ok());
    }
}

impl Client {
    fn new(token: Token, stream: UnixStream) -> Self {
        Self { token, stream, heard: Vec::new(), answer: VecDeque::new(), has_ended: false, is_ready: false }
    }

    /// Goes on as long as there is something to do and it is its turn; an error, of whatever kind, is the end of the
    /// connection.
    fn serve(&mut self, execute: &mut impl FnMut(&str) -> Result<String, String>) -> io::Result<()> {
        for _ in 0..MAX_LINES {
            while !self.answer.is_empty() {
                match self.stream.write(self.answer.as_slices().0) {
                    Ok(written) => drop(self.answer.drain(..written)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.wait(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some(line) = self.next_line()? {
                let text = String::from_utf8_lossy(&line);
                if !text.trim().is_empty() {
                    let mut answer = execute(&text).unwrap_or_else(|why| format!("{ERROR}{why}"));
                    if !answer.ends_with('\n') {
                        answer.push('\n');
                    }
                    self.answer.extend(answer.into_bytes());
                }
                continue;
            }
            if self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut buffer = [0; MAX_LINE];
            match self.stream.read(&mut buffer) {
                Ok(0) => self.has_ended = true,
                Ok(len) => self.heard.extend_from_slice(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.wait(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Readiness will tell.
    fn wait(&mut self) -> io::Result<()> {
        self.is_ready = false;
        Ok(())
    }

    /// Takes a whole line out of what was heard; the last one may lack its end.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.heard.iter().position(|byte| *byte == b'\n') {
            Some(end) => Ok(Some(self.heard.drain(..=end).collect())),
            None if self.heard.len() >= MAX_LINE => Err(io::ErrorKind::InvalidData.into()),
            None if self.has_ended && !self.heard.is_empty() => Ok(Some(std::mem::take(&mut self.heard))),
            None => Ok(None),
        }
    }
}
