//! A connection of somebody who asks: bytes in, bytes out, and neither ever waits.
//!
//! Invariant: what is kept to be sent is what the owner put there, who looks at [`Connection::pending`] first; what is
//! kept of what was heard is no more than [`MAX_HEARD`].
//!
//! A connection ends in this order: everything is sent, its sending side is closed, and what the far end still says is
//! discarded until that closes too. Otherwise the far end could lose the answer to a connection reset.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

/// Bytes of a request at most.
pub(super) const MAX_HEARD: usize = 8192;
/// Bytes that one step reads and discards at most.
const MAX_DISCARDED: usize = 64 * 1024;

/// What to do with a connection after it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Its readiness will tell when there is more to do.
    Wait,
    /// There is more to do now, after everybody else had a turn.
    Again,
    /// It is over.
    Gone,
}

/// Where it comes from.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(buffer),
            Stream::Tcp(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).write(buffer),
            Stream::Tcp(stream) => (&*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    fn close_sending(&self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    heard: Vec<u8>,
    out: Vec<u8>,
    /// Bytes of `out` that were sent.
    sent: usize,
    /// The far end will say nothing more.
    has_ended: bool,
    is_closed: bool,
    /// Whether its owner has it in a line, to be served again without readiness.
    pub(super) is_queued: bool,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            heard: Vec::new(),
            out: Vec::new(),
            sent: 0,
            has_ended: false,
            is_closed: false,
            is_queued: false,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match &mut self.stream {
            Stream::Unix(stream) => registry.register(stream, token, interest),
            Stream::Tcp(stream) => registry.register(stream, token, interest),
        }
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        // What fails here is gone already.
        let _ = match &mut self.stream {
            Stream::Unix(stream) => registry.deregister(stream),
            Stream::Tcp(stream) => registry.deregister(stream),
        };
    }

    /// Where to put what is to be sent.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes not yet sent.
    pub(super) fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Sends what the far end takes; whether that is everything.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match (&self.stream).write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => self.sent += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.out.drain(..std::mem::take(&mut self.sent));
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Reads once; whether there may be more at once.
    pub(super) fn hear(&mut self) -> io::Result<bool> {
        let room = MAX_HEARD.saturating_sub(self.heard.len());
        let mut buffer = [0; MAX_HEARD];
        if room == 0 || self.has_ended {
            return Ok(false);
        }
        loop {
            match (&self.stream).read(&mut buffer[..room]) {
                Ok(0) => self.has_ended = true,
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            return Ok(true);
        }
    }

    /// What was heard and not yet taken.
    pub(super) fn heard(&self) -> &[u8] {
        &self.heard
    }

    /// Takes the first bytes of what was heard.
    pub(super) fn take_heard(&mut self, len: usize) -> Vec<u8> {
        self.heard.drain(..len.min(self.heard.len())).collect()
    }

    /// Whether the far end has closed its sending side, and everything it said was heard.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Reads and forgets, within bounds. Returns whether to wait, to go on, or that the far end has closed.
    pub(super) fn discard(&mut self) -> io::Result<Step> {
        self.heard = Vec::new();
        let mut waste = [0; 4096];
        let mut discarded = 0;
        while !self.has_ended && discarded < MAX_DISCARDED {
            match (&self.stream).read(&mut waste) {
                Ok(0) => self.has_ended = true,
                Ok(len) => discarded += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(error) => return Err(error),
            }
        }
        Ok(if self.has_ended { Step::Gone } else { Step::Again })
    }

    /// The last of a connection: sends what is left, says that there is no more, and waits for the far end to close.
    pub(super) fn end(&mut self) -> io::Result<Step> {
        if !self.flush()? {
            return Ok(Step::Wait);
        }
        if !std::mem::replace(&mut self.is_closed, true) {
            self.stream.close_sending()?;
        }
        self.discard()
    }
}
