//! The signals that end a machine, as a descriptor for its event loop (signalfd(2)).
//!
//! They are blocked in every thread that is started while a [`Signals`] exists, so it must be made before any other thread.
//! A signal that our parent has told us to ignore (nohup, a shell's background job) stays ignored.

use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

/// Asking to end: terminate, interrupt, hang up, quit.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The blocked signals. Dropping it, on the thread that made it, gives that thread its old mask back.
pub struct Signals {
    descriptor: File,
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals in this thread and those that it starts.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn block() -> io::Result<Self> {
        Self::block_and(&[])
    }

    /// The same with other signals too, as `SIGCHLD`.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn block_and(others: &[i32]) -> io::Result<Self> {
        let mut set = empty_set();
        others.iter().for_each(|signal| add(&mut set, *signal));
        for signal in ENDING.into_iter().filter(|signal| !is_ignored(*signal)) {
            add(&mut set, signal);
        }
        // Continued after a stop: the terminal may have changed hands.
        add(&mut set, libc::SIGCONT);
        let before = block(&set)?;
        match descriptor(&set) {
            Ok(descriptor) => Ok(Self { descriptor, before }),
            Err(error) => {
                set_mask(&before);
                Err(error)
            }
        }
    }

    /// The next pending signal, if any.
    pub fn take(&mut self) -> Option<i32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        self.descriptor.read_exact(&mut info).ok()?;
        // ssi_signo, a u32, comes first (signalfd(2)).
        Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]]))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What is still pending has been answered by whatever ended the machine.
        while self.take().is_some() {}
        set_mask(&self.before);
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to room for one sigset_t, which sigemptyset fills and cannot fail to.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it has just been filled.
    unsafe { set.assume_init() }
}

fn add(set: &mut libc::sigset_t, signal: libc::c_int) {
    // SAFETY: `set` is an initialised sigset_t; an invalid number would only be refused.
    unsafe { libc::sigaddset(set, signal) };
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: only asks, into room for one sigaction.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeros are a valid sigaction, and sigaction(2) has filled it when it returns 0.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Adds to this thread's mask and returns the mask before.
fn block(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = empty_set();
    // SAFETY: both pointers are to initialised sigset_t.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, &mut before) } {
        0 => Ok(before),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn set_mask(set: &libc::sigset_t) {
    // SAFETY: `set` is an initialised sigset_t; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, std::ptr::null_mut()) };
}

fn descriptor(set: &libc::sigset_t) -> io::Result<File> {
    // SAFETY: -1 asks for a new descriptor; `set` is an initialised sigset_t.
    let descriptor = unsafe { libc::signalfd(-1, set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, new, and nobody else's.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_instead_of_killing() {
        let mut signals = Signals::block().unwrap();
        assert_eq!(signals.take(), None);
        // SAFETY: a signal to this thread, blocked above.
        unsafe { libc::raise(libc::SIGTERM) };
        assert_eq!(signals.take(), Some(libc::SIGTERM));
        assert_eq!(signals.take(), None);
    }
}
