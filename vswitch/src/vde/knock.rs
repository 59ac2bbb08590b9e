//! A client that has connected to `DIR/ctl` and not yet said what it wants.
//!
//! Who it is, the kernel says (`SO_PEERCRED`, `SO_PEERGROUPS`: what the process was when it connected); nothing that the
//! client sends changes that. What it wants is a [`Request`], which no length announces: it is what one send brings, or
//! several as long as bytes are missing.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use link::vde::wire::RequestError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::Request;

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process; 0 if it is not visible from here.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

/// A connection to `ctl`.
#[derive(Debug)]
pub struct Knock {
    stream: UnixStream,
    peer: Peer,
    heard: Vec<u8>,
}

/// Why a client is not let in; the words follow the client's name in a log line.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It left without a word.
    #[error("it left without a request")]
    Gone,
    /// It left in the midst of its request.
    #[error("it left after half a request ({0} bytes)")]
    Half(usize),
    /// What it said is no request.
    #[error(transparent)]
    Malformed(RequestError),
    /// The connection failed.
    #[error("{}", link::reason(.0))]
    Host(io::Error),
}

impl Knock {
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = Peer::of(stream.as_fd())?;
        Ok(Self { stream, peer, heard: Vec::new() })
    }

    /// Who it is.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Makes what it says appear under `token`.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.stream.as_raw_fd()), token, Interest::READABLE)
    }

    /// Undoes [`Knock::register`], which comes before [`super::Listener::admit`].
    ///
    /// # Errors
    /// The descriptor was not registered.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.stream.as_raw_fd()))
    }

    /// Listens, on readiness: the request, or nothing as long as bytes are missing.
    ///
    /// # Errors
    /// [`Refusal`]: there will be no request. The connection is then to be closed, by dropping this.
    pub fn hear(&mut self) -> Result<Option<Request>, Refusal> {
        // One byte more than a request may have shows that there are too many.
        let mut buffer = [0; Request::MAX_LEN + 1];
        loop {
            let room = buffer.len().saturating_sub(self.heard.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) if self.heard.is_empty() => return Err(Refusal::Gone),
                Ok(0) => return Err(Refusal::Half(self.heard.len())),
                Ok(len) => self.heard.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(Refusal::Gone),
                Err(error) => return Err(Refusal::Host(error)),
            }
            match Request::parse(&self.heard) {
                Ok(request) => return Ok(Some(request)),
                Err(RequestError::Short(_)) => {}
                Err(error) => return Err(Refusal::Malformed(error)),
            }
        }
    }

    /// The same client as if the kernel had called it another user.
    #[cfg(test)]
    pub(super) fn of_user(mut self, uid: u32) -> Self {
        self.peer.uid = uid;
        self
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of user {}", self.pid, self.uid)
    }
}

impl Peer {
    pub(crate) fn of(stream: BorrowedFd<'_>) -> io::Result<Self> {
        let mut credentials = [libc::ucred { pid: 0, uid: 0, gid: 0 }];
        option(stream, libc::SO_PEERCRED, &mut credentials)?;
        let [libc::ucred { pid, uid, gid }] = credentials;
        let mut groups = vec![0; 32];
        let count = loop {
            match option(stream, libc::SO_PEERGROUPS, &mut groups) {
                Ok(count) => break count,
                Err(error) if error.raw_os_error() == Some(libc::ERANGE) && groups.len() < MAX_GROUPS => {
                    groups.resize(MAX_GROUPS, 0);
                }
                Err(error) => return Err(error),
            }
        };
        groups.truncate(count);
        Ok(Self { pid, uid, gid, groups })
    }
}

/// Linux `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65536;

/// Reads a socket option of plain numbers; returns how many of `values` it filled.
fn option<T: Copy>(fd: BorrowedFd<'_>, name: libc::c_int, values: &mut [T]) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(size_of_val(values)).unwrap_or(0);
    // SAFETY: the memory is as long as stated, and every bit pattern is a value of the types used here.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, name, values.as_mut_ptr().cast(), &raw mut len) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(len as usize / size_of::<T>())
}
