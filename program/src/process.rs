//! What the process does for its surroundings: the background, the pid file, and files that go when it goes.
//!
//! [`daemonize`] forks before any thread exists; the parent stays until the child says that the machine is set up, so
//! that an error still reaches the caller's terminal and exit status.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::getpgrp;

/// A process matter that failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The fork, or what belongs to it.
    #[error("cannot go to the background: {}", link::reason(.0))]
    Daemonize(#[source] io::Error),
    /// The process that removes files at the end.
    #[error("cannot start a process that removes files at the end: {}", link::reason(.0))]
    Keeper(#[source] io::Error),
    /// The pid file cannot be made or written.
    #[error("pid file {}: {}", .path.display(), link::reason(.source))]
    PidFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another live process holds the pid file.
    #[error("pid file {}: process {owner} is running and holds it", .path.display())]
    PidFileHeld {
        /// Its path.
        path: PathBuf,
        /// What it contains.
        owner: String,
    },
}

/// Lets this process have as many descriptors as it may: the usual soft limit is meant for programs that use select(2).
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most).map(|()| most));
    match raised {
        Ok(most) => log::debug!("up to {most} descriptors"),
        Err(error) => log::debug!("the limit of descriptors stays as it is: {}", error.desc()),
    }
}

/// Lets this thread's sleeps end within a microsecond of their time; usual are 50 µs (prctl(2), `PR_SET_TIMERSLACK`).
pub fn sharpen_sleep() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1000) {
        log::debug!("the timer slack stays as it is: {}", error.desc());
    }
}

/// The child's side of [`daemonize`]: the parent waits until this is finished or gone.
#[derive(Debug)]
pub struct Background {
    parent: File,
    /// Opened at once: later there may be no file system any more.
    null: File,
}

/// Forks. Only the child returns, in a session of its own; its standard error is still the caller's.
///
/// Must be called while the process has one thread.
///
/// # Errors
/// The system refused a pipe, a fork or a session, or `/dev/null` cannot be opened.
pub fn daemonize() -> Result<Background, ProcessError> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(ProcessError::Daemonize)?;
    let (mut read_end, write_end) = pipe().map_err(ProcessError::Daemonize)?;
    // SAFETY: the process has one thread, so the child's memory is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(ProcessError::Daemonize(io::Error::last_os_error())),
        0 => {
            // SAFETY: setsid takes no arguments; it cannot fail in a new child.
            unsafe { libc::setsid() };
            Ok(Background { parent: write_end, null })
        }
        _ => {
            drop(write_end);
            let mut status = [1];
            // No byte means that the child is gone: it has said why.
            let _ = read_end.read(&mut status);
            std::process::exit(status[0].into());
        }
    }
}

impl Background {
    /// Lets the parent exit with status 0 and turns the standard descriptors to `/dev/null`.
    ///
    /// # Errors
    /// The system refused a descriptor, or the parent is gone.
    pub fn detach(mut self) -> Result<(), ProcessError> {
        for standard in 0..=2 {
            // SAFETY: both are descriptor numbers; the target is replaced.
            if unsafe { libc::dup2(self.null.as_raw_fd(), standard) } < 0 {
                return Err(ProcessError::Daemonize(io::Error::last_os_error()));
            }
        }
        self.parent.write_all(&[0]).map_err(ProcessError::Daemonize)
    }
}

/// A second process, which waits for the end of this one, however that comes, and then removes files: for one that cannot
/// do so itself, because it has given up its rights or its file system. It holds no other descriptor of this one's.
pub struct Keeper {
    /// Its end of the pipe closes with this process.
    _alive: File,
}

impl Keeper {
    /// Starts it. Files that others have put in the places of these stay.
    ///
    /// Must be called while the process has one thread; signals that are blocked then do not end the keeper.
    ///
    /// # Errors
    /// The system refused a pipe or a fork.
    pub fn start(files: Vec<PathBuf>) -> Result<Self, ProcessError> {
        let (read_end, alive) = pipe().map_err(ProcessError::Keeper)?;
        let files: Vec<_> = files.into_iter().map(|path| (identity(&path), path)).collect();
        // SAFETY: the process has one thread, so the child's memory is consistent.
        match unsafe { libc::fork() } {
            -1 => Err(ProcessError::Keeper(io::Error::last_os_error())),
            0 => {
                keep(&read_end, &files);
                // SAFETY: it does not return; what the parent has is not to be dropped here.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Self { _alive: alive }),
        }
    }
}

/// The keeper's life.
fn keep(pipe: &File, files: &[(Option<(u64, u64)>, PathBuf)]) {
    // SAFETY: setsid takes no arguments; a terminal's signals are not for this process.
    unsafe { libc::setsid() };
    // SAFETY: both are descriptor numbers; the target is replaced.
    if unsafe { libc::dup2(pipe.as_raw_fd(), 0) } < 0 {
        return;
    }
    // SAFETY: no pointers; whatever else is open belongs to the parent, and nothing here uses it.
    unsafe { libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) };
    // The end of the pipe comes, and no byte before it; whatever else is said, the files are still in use.
    if io::stdin().read_exact(&mut [0]).is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
        return;
    }
    for (ours, path) in files {
        if ours.is_some() && identity(path) == *ours {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let own = |fd| {
        // SAFETY: the descriptor is new and ours alone.
        File::from(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    Ok((own(ends[0]), own(ends[1])))
}

/// A pid file that is locked while the process lives and removed at its end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    lock: File,
}

impl PidFile {
    /// Writes this process's id and a newline. A file left over by a process that is gone is taken over.
    ///
    /// # Errors
    /// [`ProcessError::PidFileHeld`] if its process lives, [`ProcessError::PidFile`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self, ProcessError> {
        Self::create_with(path, std::process::id().into())
    }

    /// Writes the id of this process's group instead, negative, as kill(1) takes it.
    ///
    /// # Errors
    /// As [`PidFile::create`].
    pub fn create_for_group(path: &Path) -> Result<Self, ProcessError> {
        Self::create_with(path, -i64::from(getpgrp().as_raw()))
    }

    /// Removes the file, unless somebody has put another in its place. Dropping does the same; this is for a process
    /// that holds it by inheritance.
    pub fn remove(&self) {
        let identity = |file: Metadata| (file.dev(), file.ino());
        if let (Ok(ours), Ok(theirs)) = (self.lock.metadata(), std::fs::symlink_metadata(&self.path))
            && identity(ours) == identity(theirs)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn create_with(path: &Path, id: i64) -> Result<Self, ProcessError> {
        let error = |source| ProcessError::PidFile { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(error)?;
        if file.try_lock().is_err() {
            let mut owner = String::new();
            let _ = (&file).take(32).read_to_string(&mut owner);
            return Err(ProcessError::PidFileHeld { path: path.to_owned(), owner: owner.trim().to_owned() });
        }
        file.set_len(0).map_err(error)?;
        file.rewind().map_err(error)?;
        writeln!(file, "{id}").map_err(error)?;
        Ok(Self { path: path.to_owned(), lock: file })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_held_while_its_process_lives_and_removed_after() {
        let path = std::env::temp_dir().join(format!("etherloom-pidfile-test-{}", std::process::id()));
        std::fs::write(&path, "99999\n").unwrap();
        let held = PidFile::create(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert!(matches!(PidFile::create(&path), Err(ProcessError::PidFileHeld { .. })));
        drop(held);
        assert!(!path.exists());
        let held = PidFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's\n").unwrap();
        drop(held);
        assert!(path.exists(), "it was another's");
        std::fs::remove_file(&path).unwrap();
    }
}
