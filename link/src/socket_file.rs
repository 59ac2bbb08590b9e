//! Sockets that have a file: how a program makes those that others connect to, and how it removes them.
//!
//! A file gets its mode and its group whatever the umask is. Only a socket that nobody listens on is replaced, and at the
//! end a file is removed only if it is still the one made here.
//!
//! Neighbours: `vde::socket` for the system calls; the switch's doors, and links that are controlled while they run.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use crate::vde::socket::{self, Kind};
use crate::vde::wire::Address;

/// Why nobody can be listened to at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("{}: another program listens there", .0.display())]
    InUse(PathBuf),
    /// Something else is in the way.
    #[error("{}: it exists and is no socket; it is left alone", .0.display())]
    NotSocket(PathBuf),
    /// No address holds the path.
    #[error("{}: the path is too long for a socket", .0.display())]
    TooLong(PathBuf),
    /// The operating system refused.
    #[error("cannot {act} {}: {}", .path.display(), crate::reason(.source))]
    System {
        /// What was to be done.
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A stream socket that listens at an absolute path, in place of one that nobody listens on.
///
/// # Errors
/// [`SocketError`].
pub fn listen(
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
    backlog: i32,
) -> Result<(OwnedFd, SocketFile), SocketError> {
    let address = Address::of_path(&path).ok_or_else(|| SocketError::TooLong(path.clone()))?;
    let fd = socket::open(Kind::Stream).map_err(system("make", &path))?;
    match socket::bind(fd.as_fd(), &address, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(&path, &address)?;
            socket::bind(fd.as_fd(), &address, mode).map_err(system("bind", &path))?;
        }
        outcome => outcome.map_err(system("bind", &path))?,
    }
    let file = SocketFile::new(path);
    set_group(file.path(), group)?;
    socket::listen(fd.as_fd(), backlog).map_err(system("listen on", file.path()))?;
    Ok((fd, file))
}

/// Gives a file that is no symbolic link to a group, if one is named.
///
/// # Errors
/// [`SocketError::System`].
pub fn set_group(path: &Path, group: Option<u32>) -> Result<(), SocketError> {
    if group.is_none() {
        return Ok(());
    }
    lchown(path, None, group).map_err(system("set the group of", path))
}

/// The error of an act on a file.
pub fn system(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::System { act, path, source }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path, address: &Address) -> Result<(), SocketError> {
    let there = fs::symlink_metadata(path).map_err(system("look at", path))?;
    if !there.file_type().is_socket() {
        return Err(SocketError::NotSocket(path.to_owned()));
    }
    let probe = socket::open(Kind::Stream).map_err(system("make", path))?;
    match socket::connect(probe.as_fd(), address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        // Also one that is too busy to take the connection.
        Ok(()) => return Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(SocketError::InUse(path.to_owned())),
        Err(error) => return Err(system("ask who is behind", path)(error)),
    }
    fs::remove_file(path).map_err(system("remove the stale", path))
}

/// A socket's file, removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// The file of a socket that was bound just now.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let identity = identity(&path);
        Self { path, identity }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // The directory may have been taken away meanwhile; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}
