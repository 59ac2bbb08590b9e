//! The agent: pid 1 of a test host, which runs the commands that the harness sends over standard input and output.
//!
//! It is started by `outer-init` in the outer host (the stream is a virtio-serial port) or by `unshare` on the machine itself (the
//! stream is a pair of pipes). Theory of operation: the main thread reads frames; each process has a thread per output stream and one
//! for its input; one thread reaps every child, orphans included, as pid 1 must. `Exit` is sent when the process has ended and its
//! outputs have, or after [`GRACE`] if something it left behind holds them. At the end of the stream everything is killed and, with
//! `--poweroff`, the machine goes down: a harness that dies takes its host with it. Neighbour: `wire.rs`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tests::wire::{Frame, Kind, Spawn, read_frame, write_frame};

/// How long an ended process' outputs may stay open in other hands before `Exit` is sent all the same.
const GRACE: Duration = Duration::from_millis(300);

fn main() {
    let poweroff = std::env::args().any(|argument| argument == "--poweroff");
    if let Err(error) = serve() {
        eprintln!("lab-agent: {error}");
    }
    if poweroff {
        power_off();
    }
}

fn serve() -> io::Result<()> {
    let agent = Arc::new(Agent {
        out: Mutex::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        table: Mutex::default(),
    });
    agent.say(Kind::Hello, 0, &[]);
    let reaping = Arc::clone(&agent);
    thread::spawn(move || reaping.reap());
    let mut stream = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    while let Some(frame) = read_frame(&mut stream)? {
        agent.obey(frame);
    }
    agent.sweep();
    Ok(())
}

struct Agent {
    out: Mutex<File>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// Who runs, by id.
    running: HashMap<u32, Running>,
    /// Every group ever started: something of it may outlive its leader.
    groups: Vec<i32>,
}

struct Running {
    pid: i32,
    stdin: Option<Sender<Vec<u8>>>,
    /// Hears once from every output stream that has ended.
    ended: Receiver<()>,
    outputs: usize,
}

impl Agent {
    fn say(&self, kind: Kind, id: u32, payload: &[u8]) {
        // The harness is gone if this fails; the end of its stream ends us.
        let _ = write_frame(&mut *lock(&self.out), kind, id, payload);
    }

    fn obey(self: &Arc<Self>, frame: Frame) {
        match frame.kind {
            Kind::Spawn => {
                let started = match Spawn::from_bytes(&frame.payload) {
                    Some(spawn) => self.spawn(frame.id, &spawn),
                    None => Err(io::Error::from(io::ErrorKind::InvalidData)),
                };
                if let Err(error) = started {
                    self.say(Kind::Failed, frame.id, error.to_string().as_bytes());
                }
            }
            Kind::Stdin => {
                if let Some(stdin) = lock(&self.table).running.get(&frame.id).and_then(|running| running.stdin.as_ref())
                {
                    let _ = stdin.send(frame.payload);
                }
            }
            Kind::CloseStdin => {
                if let Some(running) = lock(&self.table).running.get_mut(&frame.id) {
                    running.stdin = None;
                }
            }
            Kind::Signal => {
                if let Some(running) = lock(&self.table).running.get(&frame.id) {
                    send_signal(running.pid, frame.number());
                }
            }
            Kind::Sweep => self.sweep(),
            _ => {}
        }
    }

    fn spawn(self: &Arc<Self>, id: u32, spawn: &Spawn) -> io::Result<()> {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&spawn.command);
        if let Some((uid, gid)) = spawn.user {
            command.uid(uid).gid(gid);
        }
        let tty = spawn.tty;
        own_session(&mut command, tty);
        let (stdin, outputs) = if tty {
            let (master, slave) = open_terminal()?;
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            (Some(master.try_clone()?), vec![(Kind::Stdout, master)])
        } else {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            (None, Vec::new())
        };

        // The table is held until the process is in it, or the reaper might not know whom it buried.
        let mut table = lock(&self.table);
        let mut child = command.spawn()?;
        drop(command);
        let pid = child.id() as i32;
        let stdin = stdin.or_else(|| child.stdin.take().map(|pipe| File::from(OwnedFd::from(pipe))));
        let mut outputs = outputs;
        outputs.extend(child.stdout.take().map(|pipe| (Kind::Stdout, File::from(OwnedFd::from(pipe)))));
        outputs.extend(child.stderr.take().map(|pipe| (Kind::Stderr, File::from(OwnedFd::from(pipe)))));
        self.say(Kind::Started, id, &pid.to_le_bytes());

        let (sender, ended) = channel();
        let running = Running { pid, stdin: stdin.map(feed), ended, outputs: outputs.len() };
        for (kind, mut output) in outputs {
            let (agent, sender) = (Arc::clone(self), sender.clone());
            thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                // A terminal whose last user has gone reads as EIO.
                while let Ok(len @ 1..) = output.read(&mut buffer) {
                    agent.say(kind, id, &buffer[..len]);
                }
                let _ = sender.send(());
            });
        }
        table.running.insert(id, running);
        table.groups.push(pid);
        Ok(())
    }

    /// Buries every child; those the harness asked for are announced.
    fn reap(self: &Arc<Self>) {
        loop {
            let Some((pid, status)) = wait_any() else {
                thread::sleep(Duration::from_millis(10));
                continue;
            };
            let mut table = lock(&self.table);
            let Some(id) = table.running.iter().find(|(_, running)| running.pid == pid).map(|(id, _)| *id) else {
                continue;
            };
            let Some(running) = table.running.remove(&id) else { continue };
            drop(table);
            let agent = Arc::clone(self);
            thread::spawn(move || {
                for _ in 0..running.outputs {
                    if running.ended.recv_timeout(GRACE).is_err() {
                        break;
                    }
                }
                agent.say(Kind::Exit, id, &status.to_le_bytes());
            });
        }
    }

    fn sweep(&self) {
        for group in std::mem::take(&mut lock(&self.table).groups) {
            send_signal(-group, libc::SIGKILL);
        }
    }
}

/// A thread that writes what it is sent: a process that does not read must not stop the agent.
fn feed(mut stdin: File) -> Sender<Vec<u8>> {
    let (sender, receiver) = channel::<Vec<u8>>();
    thread::spawn(move || {
        while let Ok(bytes) = receiver.recv() {
            if stdin.write_all(&bytes).is_err() {
                break;
            }
        }
    });
    sender
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the child the leader of a session, on its standard input as the terminal if it has one.
fn own_session(command: &mut Command, tty: bool) {
    let prepare = move || {
        // SAFETY: setsid has no arguments and is async-signal-safe.
        if unsafe { libc::setsid() } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: TIOCSCTTY takes an integer; descriptor 0 is open.
        if tty && unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: `prepare` makes two system calls and touches no memory of the parent.
    unsafe { command.pre_exec(prepare) };
}

/// A new terminal, 80 columns by 24 rows: the agent's end and the process'.
fn open_terminal() -> io::Result<(File, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: both descriptors are out parameters that live across the call; no name and no termios are asked for.
    let result = unsafe { libc::openpty(&mut master, &mut slave, std::ptr::null_mut(), std::ptr::null(), &size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openpty succeeded, so the descriptor is open and nobody else's.
    let master = unsafe { File::from_raw_fd(master) };
    // SAFETY: as above.
    let slave = unsafe { OwnedFd::from_raw_fd(slave) };
    for fd in [master.as_raw_fd(), slave.as_raw_fd()] {
        // SAFETY: a flag set on a descriptor we own.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok((master, slave))
}

/// The next child that ended and its status; `None` if there is no child.
fn wait_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a live out parameter.
    let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
    (pid > 0).then_some((pid, status))
}

fn send_signal(pid: i32, signal: i32) {
    // SAFETY: kill takes two integers; at worst the process is gone.
    unsafe { libc::kill(pid, signal) };
}

fn power_off() {
    // SAFETY: reboot with this command does not return where it works, and fails where we are not the machine's root.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}
