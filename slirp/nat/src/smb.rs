//! A folder that guests see as a share of a file server (`smb`): Samba's smbd, started for each connection to ports 139 and
//! 445 of its address, as inetd starts it, with a configuration of its own in a folder of its own.
//!
//! As with QEMU the share is called `qemu`, needs no password, and is written to as the user who runs the NAT. smbd wants
//! to know its peer's Internet address, so its input and output are a TCP connection over the host's loopback.
//!
//! Documented in: smbd(8), smb.conf(5). Neighbours: `commands` starts it, `sockets` owns it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid, mkdtemp};
use socket2::Socket;

/// TCP ports of the file server (RFC 1002 §4.3, and SMB without NetBIOS).
pub(crate) const PORTS: [u16; 2] = [139, 445];

/// Where smbd is looked for, besides `PATH`.
const PLACES: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

/// The folder cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Samba's server is not there.
    #[error("smb={}: there is no smbd on this machine: install Samba (package samba)", .0.display())]
    NoServer(PathBuf),
    /// The folder's name cannot be written into smb.conf.
    #[error("smb={}: Samba cannot share a folder with a percent sign, a quote or a control character in its name",
        .0.display())]
    Name(PathBuf),
    /// The folder, or smbd's own, cannot be used.
    #[error("smb={}: {}", .path.display(), link::reason(.source))]
    Folder {
        /// The folder that is shared.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The shared folder. smbd's own is removed when this is dropped.
pub(crate) struct Share {
    smbd: PathBuf,
    own: PathBuf,
}

impl Share {
    pub(crate) fn open(path: &Path) -> Result<Self, ShareError> {
        let failed = |source| ShareError::Folder { path: path.to_owned(), source };
        let folder = path.canonicalize().map_err(failed)?;
        if !folder.is_dir() {
            return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        let name = folder.to_str().filter(|name| !name.contains(|c: char| "%\"".contains(c) || c.is_control()));
        let name = name.ok_or_else(|| ShareError::Name(path.to_owned()))?;
        let search = std::env::var_os("PATH").unwrap_or_default();
        let places = std::env::split_paths(&search).chain(PLACES.map(PathBuf::from));
        let smbd = places.map(|place| place.join("smbd")).find(|file| file.is_file());
        let smbd = smbd.ok_or_else(|| ShareError::NoServer(path.to_owned()))?;
        let own = mkdtemp(&std::env::temp_dir().join("smb-XXXXXX")).map_err(|error| failed(error.into()))?;
        let share = Self { smbd, own };
        let user = User::from_uid(geteuid()).map_err(|error| failed(error.into()))?;
        let user = user.map_or_else(|| geteuid().to_string(), |user| user.name);
        fs::write(share.own.join("smb.conf"), configuration(&share.own, name, &user)).map_err(failed)?;
        Ok(share)
    }

    /// The server for one connection.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.smbd);
        command.arg("-l").arg(&self.own).arg("-s").arg(self.own.join("smb.conf"));
        command
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A server that still runs may add files meanwhile.
        if let Err(error) = fs::remove_dir_all(&self.own).or_else(|_| fs::remove_dir_all(&self.own)) {
            log::debug!("smb: cannot remove {}: {}", self.own.display(), link::reason(&error));
        }
    }
}

fn configuration(own: &Path, folder: &str, user: &str) -> String {
    let own = own.display();
    let own_folders = ["private dir", "pid directory", "lock directory", "state directory", "cache directory"]
        .map(|key| format!("{key} = {own}\n"))
        .concat();
    format!(
        "[global]\n{own_folders}ncalrpc dir = {own}/ncalrpc\nlog file = {own}/log.smbd\n\
         smb passwd file = {own}/smbpasswd\ninterfaces = 127.0.0.1\nbind interfaces only = yes\nsecurity = user\n\
         map to guest = Bad User\nload printers = no\nprinting = bsd\ndisable spoolss = yes\n\
         usershare max shares = 0\n\n[qemu]\npath = {folder}\nread only = no\nguest ok = yes\nforce user = {user}\n"
    )
}

/// Two ends of a TCP connection over the loopback: ours, which does not block, and theirs.
pub(crate) fn loopback_pair() -> io::Result<(Socket, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (theirs, peer) = listener.accept()?;
        // Anybody on this machine may have connected.
        if peer == ours.local_addr()? {
            ours.set_nonblocking(true)?;
            ours.set_nodelay(true)?;
            return Ok((ours.into(), theirs.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shared_is_told_with_its_reason() {
        let error = |path: &str| Share::open(Path::new(path)).err().unwrap().to_string();
        assert_eq!(error("/nowhere"), "smb=/nowhere: No such file or directory");
        assert_eq!(error("/etc/passwd"), "smb=/etc/passwd: Not a directory");
        let path = std::env::temp_dir().join(format!("nat-smb-50%-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        assert!(error(path.to_str().unwrap()).contains("percent sign"));
        fs::remove_dir(path).unwrap();
    }

    #[test]
    fn the_pair_is_one_connection() {
        let (ours, theirs) = loopback_pair().unwrap();
        let theirs = TcpStream::from(theirs);
        assert_eq!(ours.local_addr().unwrap().as_socket(), Some(theirs.peer_addr().unwrap()));
        assert_eq!(ours.send(b"x").unwrap(), 1);
    }
}
