//! The operator's end of the serial port: raw terminal mode, the Ctrl-A escape, standard input and output.
//!
//! Invariants: the terminal is put back on every way out (return, error, panic, `exit`, the signals that `machine.rs` turns
//! into a return); output leaves in order and is written out before the machine ends, unless standard output is stuck; a vcpu
//! never waits for a stuck standard output longer than [`PATIENCE`]; standard input is never made non-blocking, since the
//! shell shares it.
//!
//! Theory of operation: guest bytes go into a bounded buffer. A thread sleeps until there are some, lets a burst gather for
//! [`GATHER`], and writes. So a line costs one wakeup and one write instead of one for each byte, and a vcpu only waits when
//! the buffer is full.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long output that makes no progress may hold up a vcpu or the end.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a burst may gather before it is written. Not noticeable to a person who types.
const GATHER: Duration = Duration::from_millis(2);
/// Bytes that the guest may be ahead.
const CAPACITY: usize = 64 * 1024;
/// Bytes written at once: what a pipe or terminal that is ready at all takes soon.
const PIECE: usize = 4096;

/// What the keys that follow Ctrl-A do.
pub const HELP: &[u8] = b"\r\n\
    Ctrl-A x       quit\r\n\
    Ctrl-A h       this help\r\n\
    Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n";

/// Where the guest's serial output goes.
pub struct Output {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// Something has been written.
    drained: Condvar,
}

struct Queue {
    bytes: VecDeque<u8>,
    /// A piece has been taken out of `bytes` and is not yet written.
    writing: bool,
    /// No more will come.
    closing: bool,
    /// The other end is gone; nothing can be written any more.
    broken: bool,
    /// Somebody has waited in vain; do not wait again until there is progress.
    stuck: bool,
    /// When a piece was last written.
    progress: Instant,
    /// Bytes thrown away because the output was stuck.
    lost: u64,
}

impl Output {
    /// Output to this process's standard output.
    ///
    /// # Errors
    /// No descriptor or thread is left.
    pub fn stdout() -> io::Result<Self> {
        Self::to(io::stdout().as_fd().try_clone_to_owned()?.into())
    }

    /// Output to a file, pipe or terminal.
    ///
    /// # Errors
    /// No thread is left.
    pub fn to(file: File) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(false));
        let writer = thread::Builder::new().name("serial".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.write_out(file)
        })?;
        Ok(Self { shared, writer: Mutex::new(Some(writer)) })
    }

    /// Output to nowhere.
    pub fn discard() -> Self {
        Self { shared: Arc::new(Shared::new(true)), writer: Mutex::new(None) }
    }

    /// Takes bytes in the order of the calls. Waits, at most [`PATIENCE`] without any progress, when the buffer is full; then
    /// they are lost and counted.
    pub fn push(&self, bytes: &[u8]) {
        let queue = self.shared.lock();
        let mut queue = self.shared.wait_for_room(queue);
        if queue.broken {
            return;
        }
        if queue.bytes.len() >= CAPACITY {
            queue.lost += bytes.len() as u64;
            return;
        }
        let first = queue.bytes.is_empty();
        queue.bytes.extend(bytes);
        if first {
            self.shared.filled.notify_one();
        }
    }

    /// Writes out what there is and ends the thread; what cannot be written within [`PATIENCE`] is given up. Later bytes are
    /// discarded.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        let mut queue = self.shared.lock();
        queue.closing = true;
        queue.progress = Instant::now();
        self.shared.filled.notify_one();
        while !queue.broken && (queue.writing || !queue.bytes.is_empty()) {
            let (next, progress) = self.shared.wait_for_progress(queue);
            queue = next;
            if !progress {
                queue.lost += queue.bytes.len() as u64;
                break;
            }
        }
        let (lost, stuck) = (queue.lost, queue.writing);
        queue.broken = true;
        drop(queue);
        if lost > 0 {
            log::warn!("serial: {lost} bytes lost, standard output was stuck");
        }
        // A writer that hangs in write() ends with the process.
        if !stuck && writer.join().is_err() {
            log::error!("serial: the output thread has panicked");
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(broken: bool) -> Self {
        Self {
            queue: Mutex::new(Queue {
                bytes: VecDeque::new(),
                writing: false,
                closing: false,
                broken,
                stuck: false,
                progress: Instant::now(),
                lost: 0,
            }),
            filled: Condvar::new(),
            drained: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_room<'a>(&self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        while queue.bytes.len() >= CAPACITY && !queue.broken && !queue.stuck && !queue.closing {
            let (next, progress) = self.wait_for_progress(queue);
            queue = next;
            queue.stuck |= !progress;
        }
        queue
    }

    /// Waits until something has been written; false when nothing was for [`PATIENCE`].
    fn wait_for_progress<'a>(&self, queue: MutexGuard<'a, Queue>) -> (MutexGuard<'a, Queue>, bool) {
        let before = queue.progress;
        let (queue, _) = self
            .drained
            .wait_timeout_while(queue, PATIENCE, |queue| queue.progress == before && !queue.broken)
            .unwrap_or_else(PoisonError::into_inner);
        let progress = queue.progress != before || queue.broken;
        (queue, progress)
    }

    /// The thread.
    fn write_out(&self, mut file: File) {
        let mut piece = [0; PIECE];
        while let Some(length) = self.next_piece(&mut piece) {
            let result = write_all(&mut file, &piece[..length]);
            let mut queue = self.lock();
            queue.writing = false;
            queue.stuck = false;
            queue.progress = Instant::now();
            if let Err(error) = result {
                // The reader has gone. That is its right; the guest runs on.
                log::info!("serial: standard output: {error}");
                queue.broken = true;
                queue.bytes = VecDeque::new();
            }
            drop(queue);
            self.drained.notify_all();
        }
    }

    /// Waits for something to write and takes it; `None` at the end.
    fn next_piece(&self, piece: &mut [u8; PIECE]) -> Option<usize> {
        let mut queue = self.lock();
        if queue.bytes.is_empty() {
            queue = self
                .filled
                .wait_while(queue, |queue| queue.bytes.is_empty() && !queue.closing && !queue.broken)
                .unwrap_or_else(PoisonError::into_inner);
            if !queue.closing {
                drop(queue);
                thread::sleep(GATHER);
                queue = self.lock();
            }
        }
        if queue.broken || queue.bytes.is_empty() {
            return None;
        }
        let length = queue.bytes.len().min(PIECE);
        for (place, byte) in piece.iter_mut().zip(queue.bytes.drain(..length)) {
            *place = byte;
        }
        queue.writing = true;
        Some(length)
    }
}

/// Writes everything, waiting where somebody else has made the descriptor non-blocking.
fn write_all(file: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_writable(file.as_raw_fd());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_writable(descriptor: RawFd) {
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: `poll` is one valid pollfd for the duration of the call. Any failure only means an early retry.
    unsafe { libc::poll(&mut poll, 1, -1) };
}

/// What the operator's keys mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// For the guest.
    Byte(u8),
    /// Ctrl-A x.
    Quit,
    /// Ctrl-A h.
    Help,
    /// Part of an escape, or an escape that means nothing.
    Nothing,
}

/// Recognises Ctrl-A escapes in what the operator types.
#[derive(Debug, Default)]
pub struct Escape {
    armed: bool,
}

impl Escape {
    /// The next byte typed.
    pub fn key(&mut self, byte: u8) -> Key {
        const CTRL_A: u8 = 1;
        match (std::mem::take(&mut self.armed), byte) {
            (false, CTRL_A) => {
                self.armed = true;
                Key::Nothing
            }
            (false, byte) => Key::Byte(byte),
            (true, CTRL_A) => Key::Byte(CTRL_A),
            (true, b'x' | b'X') => Key::Quit,
            (true, b'h' | b'H' | b'?') => Key::Help,
            (true, _) => Key::Nothing,
        }
    }
}

/// Standard input. Reading blocks unless the descriptor has been reported readable, or never blocks ([`Input::is_pollable`]).
pub struct Input(File);

impl Input {
    /// This process's standard input.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn stdin() -> io::Result<Self> {
        Ok(Self(io::stdin().as_fd().try_clone_to_owned()?.into()))
    }

    /// Reads once; 0 at the end. A terminal that has been hung up is at its end.
    ///
    /// # Errors
    /// As read(2), but for EIO and EINTR.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                result => return result,
            }
        }
    }
}

impl AsRawFd for Input {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The settings to go back to; `Some` while the terminal is raw.
static ORIGINAL: Mutex<Option<libc::termios>> = Mutex::new(None);
static EXITS: Once = Once::new();

/// While this exists, standard input is a raw terminal (if it is a terminal at all).
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes standard input raw: no echo, no lines, no signals; output processing stays, so that our own messages still begin
    /// at the left margin. Does nothing when it is not a terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> io::Result<Self> {
        let Some(original) = settings() else {
            return Ok(Self(()));
        };
        EXITS.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                previous(panic);
            }));
            // SAFETY: `at_exit` is a plain function that stays valid. When there is no slot left, only this net is missing.
            unsafe { libc::atexit(at_exit) };
        });
        *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        apply(&raw(original))?;
        Ok(Self(()))
    }

    /// Makes the terminal raw once more: a shell that had the terminal in between (job control) has put it back.
    pub fn reapply(&self) {
        let original = *ORIGINAL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(original) = original
            && let Err(error) = apply(&raw(original))
        {
            log::warn!("terminal: {error}");
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

extern "C" fn at_exit() {
    restore();
}

/// Puts the terminal back, once. Called from anywhere but a signal handler.
fn restore() {
    // The hook of a panic under this very lock must not wait for itself.
    let Ok(mut original) = ORIGINAL.try_lock() else {
        return;
    };
    if let Some(original) = original.take() {
        // Nothing better can be done when it fails.
        let _ = apply(&original);
    }
}

fn raw(mut settings: libc::termios) -> libc::termios {
    settings.c_iflag &= !(libc::IGNBRK
        | libc::BRKINT
        | libc::PARMRK
        | libc::ISTRIP
        | libc::INLCR
        | libc::IGNCR
        | libc::ICRNL
        | libc::IXON);
    settings.c_oflag |= libc::OPOST;
    settings.c_lflag &= !(libc::ECHO | libc::ECHONL | libc::ICANON | libc::ISIG | libc::IEXTEN);
    settings.c_cflag &= !(libc::CSIZE | libc::PARENB);
    settings.c_cflag |= libc::CS8;
    settings.c_cc[libc::VMIN] = 1;
    settings.c_cc[libc::VTIME] = 0;
    settings
}

/// Standard input's terminal settings; `None` when it is not a terminal.
fn settings() -> Option<libc::termios> {
    let mut settings = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the pointer is to room for one termios.
    let result = unsafe { libc::tcgetattr(libc::STDIN_FILENO, settings.as_mut_ptr()) };
    // SAFETY: tcgetattr has filled it when it returns 0.
    (result == 0).then(|| unsafe { settings.assume_init() })
}

fn apply(settings: &libc::termios) -> io::Result<()> {
    // Not TCSADRAIN: output that is stuck would keep us here.
    // SAFETY: `settings` is a valid termios for the duration of the call.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        bytes.iter().map(|byte| escape.key(*byte)).collect()
    }

    #[test]
    fn ctrl_a_starts_an_escape() {
        assert_eq!(keys(b"x"), [Key::Byte(b'x')]);
        assert_eq!(keys(b"\x01x"), [Key::Nothing, Key::Quit]);
        assert_eq!(keys(b"\x01h"), [Key::Nothing, Key::Help]);
        assert_eq!(keys(b"\x01\x01x"), [Key::Nothing, Key::Byte(1), Key::Byte(b'x')]);
        assert_eq!(keys(b"\x01qx"), [Key::Nothing, Key::Nothing, Key::Byte(b'x')]);
    }

    fn pipe() -> (File, File) {
        let (reader, writer) = io::pipe().unwrap();
        (File::from(std::os::fd::OwnedFd::from(reader)), File::from(std::os::fd::OwnedFd::from(writer)))
    }

    #[test]
    fn output_leaves_in_order_and_before_the_end() {
        let (reader, writer) = pipe();
        let output = Output::to(writer).unwrap();
        let consumer = thread::spawn(move || {
            let mut text = Vec::new();
            BufReader::new(reader).read_to_end(&mut text).unwrap();
            text
        });
        let expected: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        for byte in &expected {
            output.push(&[*byte]);
        }
        output.close();
        drop(output);
        assert!(consumer.join().unwrap() == expected);
    }

    #[test]
    fn output_is_prompt() {
        let (reader, writer) = pipe();
        let output = Output::to(writer).unwrap();
        output.push(b"login: \n");
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        assert_eq!(line, "login: \n");
    }

    #[test]
    fn stuck_output_holds_a_vcpu_up_once_only() {
        let (_reader, writer) = pipe();
        let output = Output::to(writer).unwrap();
        let started = Instant::now();
        for _ in 0..100 {
            output.push(&[0; PIECE]);
        }
        let waited = started.elapsed();
        assert!(waited >= PATIENCE && waited < 3 * PATIENCE, "{waited:?}");
        output.close();
        assert!(started.elapsed() < 5 * PATIENCE);
    }

    #[test]
    fn a_reader_that_has_gone_does_not_hold_anything_up() {
        let (reader, writer) = pipe();
        drop(reader);
        let output = Output::to(writer).unwrap();
        let started = Instant::now();
        for _ in 0..100 {
            output.push(&[0; PIECE]);
        }
        output.close();
        assert!(started.elapsed() < PATIENCE);
    }

    #[test]
    fn raw_settings_leave_output_processing_on() {
        // SAFETY: a termios is integers and arrays of them; all zeros is a value.
        let blank: libc::termios = unsafe { std::mem::zeroed() };
        let mut cooked = blank;
        cooked.c_lflag = libc::ECHO | libc::ICANON | libc::ISIG | libc::TOSTOP;
        cooked.c_iflag = libc::ICRNL | libc::IXON;
        let raw = raw(cooked);
        assert_eq!(raw.c_lflag, libc::TOSTOP);
        assert_eq!(raw.c_iflag, 0);
        assert_eq!(raw.c_oflag, libc::OPOST);
    }
}
