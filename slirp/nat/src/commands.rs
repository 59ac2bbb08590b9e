//! The commands that guest forwarding rules start: one for each connection.
//!
//! A command's standard input and output are one end of a socketpair (smbd's, of a connection over the loopback); the other
//! one is the NAT's host socket, so its end of input is the guest's end, and it ends the connection by ending. It leads a process group of its own. Where the
//! connection is reset (the guest has reset it, or is gone) the group gets a SIGTERM, as do all of them when the NAT
//! ends, which waits for them for a moment. Its standard error is the NAT's.
//!
//! Invariant: no zombies. Each process is watched through a pidfd in the epoll instance, and waited for when it has ended.
//!
//! Neighbour: `sockets`, which owns the epoll instance.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::host::SocketId;

/// The high half of the tokens of pidfds: no kind of host socket has this number.
const KIND: usize = 0x7fff;

/// Commands at most: a guest is not to fill the host with processes.
const MAX_COMMANDS: usize = 256;

/// How long the commands have to end when the NAT does, before they are killed.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The commands that run.
#[derive(Default)]
pub(crate) struct Commands {
    running: HashMap<u32, Running>,
    next: u32,
}

struct Running {
    child: Child,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
    /// None when it is gone.
    connection: Option<SocketId>,
}

impl Commands {
    /// Starts a command line for a connection; returns the NAT's end of its input and output.
    pub(crate) fn start_line(&mut self, registry: &Registry, connection: SocketId, line: &str) -> io::Result<Socket> {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        self.start(registry, connection, command, theirs.into())?;
        Ok(ours)
    }

    /// Starts a command for a connection, with `end` as its input and output.
    pub(crate) fn start(
        &mut self,
        registry: &Registry,
        connection: SocketId,
        mut command: Command,
        end: OwnedFd,
    ) -> io::Result<()> {
        if self.running.len() >= MAX_COMMANDS {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        command.stdin(Stdio::from(end.try_clone()?)).stdout(Stdio::from(end)).process_group(0);
        let mut child = command.spawn()?;
        match watch(registry, &child, self.next) {
            Ok(pidfd) => {
                log::debug!("guestfwd: process {} runs {command:?}", child.id());
                self.running.insert(self.next, Running { child, pidfd, connection: Some(connection) });
                self.next = self.next.wrapping_add(1);
                Ok(())
            }
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Takes note of an event of the epoll instance, if it is a command's end.
    pub(crate) fn ready(&mut self, token: Token) {
        if token.0 >> 32 != KIND {
            return;
        }
        let place = (token.0 & 0xffff_ffff) as u32;
        if let Some(mut running) = self.running.remove(&place) {
            // It has ended: this does not wait. Dropping the pidfd takes it out of the epoll instance.
            match running.child.wait() {
                Ok(status) => log::debug!("guestfwd: process {}: {status}", running.child.id()),
                Err(error) => log::debug!("guestfwd: process {}: {error}", running.child.id()),
            }
            drop(running.pidfd);
        }
    }

    /// Forgets whose a command is, for its connection is gone; `end` asks the command to end.
    pub(crate) fn part(&mut self, connection: SocketId, end: bool) {
        // A connection has one command at most, and few connections have any.
        if let Some(running) = self.running.values_mut().find(|running| running.connection == Some(connection)) {
            running.connection = None;
            if end {
                running.signal(Signal::SIGTERM);
            }
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.running.values().for_each(|running| running.signal(Signal::SIGTERM));
        let deadline = Instant::now() + LAST_WORDS;
        for running in self.running.values_mut() {
            while matches!(running.child.try_wait(), Ok(None)) {
                if Instant::now() < deadline {
                    sleep(Duration::from_millis(2));
                } else {
                    running.signal(Signal::SIGKILL);
                    drop(running.child.wait());
                }
            }
        }
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        // The process was not waited for, so its number, and its group's, is nobody else's.
        let group = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let Ok(group) = group
            && let Err(error) = killpg(group, signal)
        {
            log::debug!("guestfwd: process {group}: {error}");
        }
    }
}

/// Registers a process, so that its end is an event.
fn watch(registry: &Registry, child: &Child, place: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    registry.register(&mut SourceFd(&fd.as_raw_fd()), Token(KIND << 32 | place as usize), Interest::READABLE)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;
    use crate::host::Kind;

    fn id(index: usize) -> SocketId {
        SocketId { kind: Kind::Tcp, index: index as u32 }
    }

    #[test]
    fn there_is_a_limit_and_an_ended_command_makes_room() {
        let mut poll = Poll::new().unwrap();
        let mut commands = Commands::default();
        let start = |commands: &mut Commands, n| commands.start_line(poll.registry(), id(n), "exec cat");
        let mut ends: Vec<_> = (0..MAX_COMMANDS).map(|n| start(&mut commands, n).unwrap()).collect();
        assert_eq!(start(&mut commands, MAX_COMMANDS).unwrap_err().raw_os_error(), Some(libc::EMFILE));
        drop(ends.pop());
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
        events.iter().for_each(|event| commands.ready(event.token()));
        assert_eq!(commands.running.len(), MAX_COMMANDS - 1);
        commands.start_line(poll.registry(), id(0), "exec cat").unwrap();
    }
}
