//! `dgram:///REMOTE?local=/LOCAL`: one bare frame a datagram between two socket files, as QEMU's `-netdev dgram` with
//! `local.type=unix`.
//!
//! Each side binds its own file and sends to the other's by its path, each time anew: either may end and come again. The
//! file's permissions say who may send here. It is made when the link is opened, in place of one that nobody listens to,
//! and removed with the link.
//!
//! Such sockets are not connected, so no more than `net.unix.max_dgram_qlen` datagrams (10) wait for a receiver, and
//! nothing tells when there is room: a frame that it does not take is lost, and counts as `link-full`.
//!
//! Neighbours: `vde::socket` for system calls, `datagram` for the frames; `udp` for the same between hosts.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::SockAddr;

use crate::datagram::{DatagramLink, Envelope, FrameSocket, Received, To};
use crate::outer::DatagramError;
use crate::vde::socket::{self, Kind};
use crate::vde::wire::Address;
use crate::{DEFAULT_MTU, DropReason, Frame, VnetHeader};

/// Permissions of the socket file where nothing else is said.
const DEFAULT_MODE: u32 = 0o600;

/// Between which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DgramConfig {
    /// The far end's.
    pub remote: PathBuf,
    /// This end's.
    pub local: PathBuf,
    /// Its permissions; none for those of its owner alone.
    pub mode: Option<u32>,
    /// The MTU to state, in bytes; none for 1500.
    pub mtu: Option<u16>,
}

impl DgramConfig {
    /// Opens the link.
    ///
    /// # Errors
    /// A path is too long, or the local one is in use or cannot be made.
    pub fn open(&self, name: String) -> Result<DatagramLink<Files>, DatagramError> {
        let too_long = |path: &Path| DatagramError::Address {
            link: name.clone(),
            address: path.display().to_string(),
            why: "no path for a socket: it is longer than 107 bytes, or empty",
        };
        let to = Address::of_path(&self.remote).and_then(|_| SockAddr::unix(&self.remote).ok());
        let to = to.ok_or_else(|| too_long(&self.remote))?;
        let own = Address::of_path(&self.local).ok_or_else(|| too_long(&self.local))?;
        let act = || format!("listen at {}", self.local.display());
        let refused = |source| DatagramError::system(&name, act(), source);
        let fd = socket::open(Kind::Datagram).map_err(refused)?;
        bind(&fd, &own, &self.local, self.mode.unwrap_or(DEFAULT_MODE)).map_err(refused)?;
        let file = SocketFile::new(self.local.clone());
        let socket = FrameSocket::with_envelope(fd, Files { to, _file: file });
        Ok(DatagramLink::new(name, socket, self.mtu.unwrap_or(DEFAULT_MTU)))
    }
}

/// Bare frames to a socket file, and from whoever may send to ours.
pub struct Files {
    to: SockAddr,
    _file: SocketFile,
}

impl Envelope for Files {
    const HAS_ADDRESSES: bool = true;
    const LOSES_WHEN_FULL: bool = true;

    fn tx_len(&self) -> usize {
        0
    }

    fn seal(&mut self, _: &Frame<'_>, _: &mut [u8]) -> Result<To<'_>, DropReason> {
        Ok(To::one(&self.to))
    }

    fn open(&mut self, _: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        Ok(Some(VnetHeader::WHOLE))
    }
}

/// Binds a socket; in place of a socket file that nobody listens to.
fn bind(fd: &OwnedFd, own: &Address, path: &Path, mode: u32) -> io::Result<()> {
    match socket::bind(fd.as_fd(), own, mode) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(own, path) => {
            fs::remove_file(path)?;
            socket::bind(fd.as_fd(), own, mode)
        }
        outcome => outcome,
    }
}

/// Whether this is a socket file of a process that has ended.
fn is_left_behind(own: &Address, path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let probe = socket::open(Kind::Datagram).and_then(|probe| socket::connect(probe.as_fd(), own));
    is_socket && probe.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// A socket file of ours, removed with the link unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.inode.is_some() && inode(&self.path) == self.inode {
            // Somebody may have removed it already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::Link;
    use crate::testing::{drops, frame, receive_soon, send};

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("etherloom-dgram-{}-{name}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn open(&self, local: &str, remote: &str) -> Result<DatagramLink<Files>, DatagramError> {
            let config = DgramConfig { remote: self.0.join(remote), local: self.0.join(local), mode: None, mtu: None };
            config.open("dgram://x".to_owned())
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn frames_cross_between_two_files_that_go_with_their_links() {
        let dir = Dir::new("cross");
        let (mut a, mut b) = (dir.open("a", "b").unwrap(), dir.open("b", "a").unwrap());
        assert_eq!(fs::metadata(dir.0.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        send(&mut a, &[frame(60, 1), frame(9238, 2)]);
        assert_eq!(receive_soon(&mut b, 2), [frame(60, 1), frame(9238, 2)]);
        send(&mut b, &[frame(70, 3)]);
        assert_eq!(receive_soon(&mut a, 1), [frame(70, 3)]);
        drop((a, b));
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
    }

    #[test]
    fn a_far_end_that_is_away_costs_frames_and_may_come_again() {
        let dir = Dir::new("again");
        // One that was killed has left its file.
        drop(UnixDatagram::bind(dir.0.join("a")).unwrap());
        let mut a = dir.open("a", "b").unwrap();
        assert_eq!(send(&mut a, &[frame(60, 1), frame(60, 2)]), 2);
        let b = UnixDatagram::bind(dir.0.join("b")).unwrap();
        drop(b);
        assert_eq!(send(&mut a, &[frame(60, 3)]), 1);
        assert_eq!(drops(&a), [(DropReason::LinkDown, 3)]);
        fs::remove_file(dir.0.join("b")).unwrap();
        let mut b = dir.open("b", "a").unwrap();
        assert_eq!(send(&mut a, &[frame(60, 4)]), 1);
        assert_eq!(receive_soon(&mut b, 1), [frame(60, 4)]);
    }

    #[test]
    fn what_a_full_receiver_does_not_take_is_lost_and_counted() {
        let dir = Dir::new("full");
        let mut a = dir.open("a", "b").unwrap();
        let _b = UnixDatagram::bind(dir.0.join("b")).unwrap();
        assert_eq!(send(&mut a, &vec![frame(60, 1); 100_000]), 100_000);
        let (sent, lost) = (a.counters().tx_frames, a.counters().drops.get(DropReason::LinkFull));
        assert_eq!(sent + lost, 100_000);
        assert!(lost > 0);
    }

    #[test]
    fn a_file_in_use_is_left_alone() {
        let dir = Dir::new("used");
        let _other = UnixDatagram::bind(dir.0.join("a")).unwrap();
        let error = dir.open("a", "b").err().unwrap().to_string();
        assert!(error.ends_with("/a: Address already in use"), "{error}");
        assert!(dir.0.join("a").exists());
        let error = dir.open(&"x".repeat(108), "b").err().unwrap().to_string();
        assert!(error.contains("is no path for a socket"), "{error}");
    }
}
