//! `DIR/ctl`: made, recovered, listened to; and clients let in.
//!
//! Nothing that is not ours is followed or replaced: DIR is a directory and no symbolic link, modes are set on the file
//! that was made and never through a link, a `ctl` is removed only if it is a socket with nobody behind it, and at the end
//! only files are removed that are still the ones bound here. A lock on DIR (flock(2)) keeps two switches apart while
//! they recover the same `ctl`.
//!
//! # Whose socket a client may name
//!
//! The client names a datagram socket, and the switch, which may be root, connects to it. So:
//!
//! - The path is opened once, without following a final symbolic link; what was opened is checked, and the connection
//!   is made to just that file. It must be a socket that belongs to the client's user, whom the kernel names
//!   (`SO_PEERCRED`); root may name any.
//! - The kernel refuses a socket of another kind than datagrams, and one that is connected to somebody else. That
//!   protects every client that has joined a switch.
//! - The sockets of this switch are refused by the name that they were bound to, under whatever path they are reached.
//!
//! What remains: another process of the same user, while its socket is bound and not yet connected; abstract addresses,
//! which have no owner (they are refused to nobody, and reach only the switch's own network namespace); and without
//! `/proc` the moment between check and connection.
//!
//! Neighbours: `knock` hears what a client wants, `member` is what it becomes.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use link::Offloads;
use link::datagram::FrameSocket;
use link::vde::socket::{self, Kind};
use link::vde::wire::{Address, Reply};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::member::ClientLink;
use super::{Control, Knock, Member, Peer, Request, escape};
use crate::PortId;
use link::socket_file::{self, SocketError, SocketFile, set_group, system};

/// Where a switch is to be found, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The directory; made if it does not exist, its parent not.
    pub dir: PathBuf,
    /// Permissions of `ctl` and of the data sockets.
    pub mode: u32,
    /// Permissions of the directory.
    pub dir_mode: u32,
    /// The group of all of them.
    pub group: Option<u32>,
}

impl Settings {
    /// `ctl` and data sockets, as vde_switch has them where nothing else is said.
    pub const DEFAULT_MODE: u32 = 0o600;
    /// The directory, likewise.
    pub const DEFAULT_DIR_MODE: u32 = 0o2700;
}

/// Why a switch cannot be found in its directory, or a client cannot be let in.
#[derive(Debug, thiserror::Error)]
pub enum VdeError {
    /// The directory's place is taken.
    #[error("{}: it exists and is no directory", .0.display())]
    NotDirectory(PathBuf),
    /// A switch is there.
    #[error("{}: another switch is running there", .0.display())]
    Running(PathBuf),
    /// The sockets in the directory would have paths that no address holds.
    #[error("{}: the path is too long: {} bytes are the most for a switch", .0.display(), MAX_DIR)]
    TooLong(PathBuf),
    /// `ctl`, the directory, or a data socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The client's socket cannot be connected to.
    #[error("its socket '{address}': {}", link::reason(.source))]
    Client {
        /// The address, escaped.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The client names something else than a socket.
    #[error("its socket '{0}' is none")]
    ClientNotSocket(String),
    /// The client names a socket of somebody else.
    #[error("its socket '{address}' belongs to user {owner}, and it is user {uid}")]
    ClientNotOwner {
        /// The path, escaped.
        address: String,
        /// Whose it is.
        owner: u32,
        /// Who the client is.
        uid: u32,
    },
    /// The client names a socket of the switch.
    #[error("its socket '{0}' is one of this switch")]
    ClientNamesSwitch(String),
    /// The client did not take the reply.
    #[error("it does not take the reply: {}", link::reason(.0))]
    Reply(io::Error),
}

/// A switch's `ctl`.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    settings: Settings,
    /// The directory, locked as long as this is open.
    _lock: File,
    made_dir: bool,
    ctl: Option<SocketFile>,
    /// A descriptor to give away when there are no more, so that a client can be taken in and sent off.
    spare: RefCell<Option<File>>,
    next_id: u32,
}

/// Clients that wait to be accepted.
const BACKLOG: i32 = 1024;
/// The longest directory, in bytes: behind it come `/`, a port number, `.` and an id.
const MAX_DIR: usize = Address::MAX_PATH - 17;
/// Names tried for a data socket.
const MAX_NAMES: u32 = 4096;

impl Listener {
    /// Makes the directory if need be, and `ctl` in it; recovers a `ctl` that a switch left behind when it died.
    ///
    /// The modes are set whatever the umask is. A directory that exists gets them too, if this user may change it. A
    /// process that forks afterwards must not drop this in both halves: dropping it removes the files.
    ///
    /// # Errors
    /// Another switch is running there, something else is in the way, or there is no permission.
    pub fn open(settings: Settings) -> Result<Self, VdeError> {
        let (dir, made_dir) = make_directory(&settings.dir)?;
        match Self::open_in(Settings { dir: dir.clone(), ..settings }, made_dir) {
            Err(error) if made_dir => {
                let _ = fs::remove_dir(&dir);
                Err(error)
            }
            result => result,
        }
    }

    fn open_in(settings: Settings, made_dir: bool) -> Result<Self, VdeError> {
        let dir = &settings.dir;
        if dir.as_os_str().len() > MAX_DIR {
            return Err(VdeError::TooLong(dir.clone()));
        }
        let lock = lock_directory(dir)?;
        match set_directory_modes(&lock, &settings) {
            Err(error) if made_dir || error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(system("set the mode of", dir)(error).into());
            }
            _ => {}
        }
        let ctl = dir.join("ctl");
        let (fd, ctl) =
            socket_file::listen(ctl, settings.mode, settings.group, BACKLOG).map_err(|error| match error {
                SocketError::InUse(_) => VdeError::Running(dir.clone()),
                other => other.into(),
            })?;
        remove_data_sockets(dir);
        let spare = RefCell::new(File::open("/dev/null").ok());
        let listener = UnixListener::from(fd);
        Ok(Self { listener, settings, _lock: lock, made_dir, ctl: Some(ctl), spare, next_id: 0 })
    }

    /// The directory, as an absolute path without symbolic links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// The group of the directory and the sockets, if one was named.
    #[must_use]
    pub fn group(&self) -> Option<u32> {
        self.settings.group
    }

    /// Permissions of the sockets.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.settings.mode
    }

    /// Makes clients at the door appear under `token`.
    ///
    /// # Errors
    /// The descriptor cannot be polled.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.listener.as_raw_fd()), token, Interest::READABLE)
    }

    /// Takes in the next client at the door; none if nobody is there.
    ///
    /// # Errors
    /// This process or the system is out of descriptors or memory. Those at the door have been sent off, so the caller
    /// says so in one line and waits for the next readiness, as if nobody were there: it must not call again at once.
    pub fn accept(&self) -> io::Result<Option<Knock>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => match Knock::new(stream) {
                    Ok(knock) => return Ok(Some(knock)),
                    Err(error) => log::warn!("{}/ctl: who is it? {}", self.dir().display(), link::reason(&error)),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if is_passing(&error) => {}
                // The kernel looks for a descriptor before it looks for a client.
                Err(error) => return if self.send_off() == Some(0) { Ok(None) } else { Err(error) },
            }
        }
    }

    /// Closes the connections at the door, with the one descriptor kept for that, so that their clients get an end of file
    /// instead of waiting for ever. Returns how many there were; none if that descriptor is gone too.
    fn send_off(&self) -> Option<usize> {
        let mut spare = self.spare.borrow_mut();
        drop(spare.take()?);
        let mut count = 0;
        for _ in 0..BACKLOG {
            match self.listener.accept() {
                Ok(_) => count += 1,
                Err(error) if is_passing(&error) => {}
                Err(_) => break,
            }
        }
        *spare = File::open("/dev/null").ok();
        Some(count)
    }

    /// Lets a client in: connects to its socket, makes one for it to send to, and tells it.
    ///
    /// # Errors
    /// Its socket is not one that it may name ([the rules](self)), or is gone; or there are no descriptors left.
    pub fn admit(&mut self, knock: Knock, request: &Request, port: PortId) -> Result<Member, VdeError> {
        let fd = socket::open(Kind::Datagram).map_err(system("make a data socket in", self.dir()))?;
        let fd = self.connect_client(fd, &request.client, knock.peer())?;
        let (address, file) = self.bind_data_socket(fd.as_fd(), port)?;
        let mut reply = Reply { switch: address, offer: request.offer.map(|_| Offloads::ALL) };
        if !reply.can_offer() {
            reply.offer = None;
        }
        let name = match request.description.as_slice() {
            [] => format!("vde:pid {}", knock.peer().pid),
            words => format!("vde:{}", escape(words)),
        };
        let mut stream = knock.into_stream();
        stream.write_all(&reply.encode()).map_err(VdeError::Reply)?;
        let peer_receives = reply.offer.and(request.offer);
        let link = ClientLink::new(FrameSocket::new(fd, peer_receives), name, file);
        Ok(Member { link: Box::new(link), control: Control::new(stream) })
    }

    /// Connects to the socket that a client names.
    fn connect_client(&self, fd: OwnedFd, client: &Address, peer: &Peer) -> Result<OwnedFd, VdeError> {
        let Some(path) = client.path() else {
            let name = client.as_bytes().split_at(3).1;
            let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let address = format!("@{}", escape(&name[..end]));
            socket::connect(fd.as_fd(), client).map_err(|source| VdeError::Client { address, source })?;
            return Ok(fd);
        };
        let address = escape(path.as_os_str().as_encoded_bytes());
        let refused = |source| VdeError::Client { address: address.clone(), source };
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(refused)?;
        let metadata = file.metadata().map_err(refused)?;
        if !metadata.file_type().is_socket() {
            return Err(VdeError::ClientNotSocket(address));
        }
        if peer.uid != 0 && metadata.uid() != peer.uid {
            return Err(VdeError::ClientNotOwner { address, owner: metadata.uid(), uid: peer.uid });
        }
        connect_opened(fd.as_fd(), &file, client).map_err(refused)?;
        let datagram = UnixDatagram::from(fd);
        let bound = datagram.peer_addr().map_err(refused)?;
        let is_ours = |path: &Path| path.parent() == Some(self.dir()) && is_data_name(path);
        if bound.as_pathname().is_some_and(is_ours) {
            return Err(VdeError::ClientNamesSwitch(address));
        }
        Ok(datagram.into())
    }

    /// Binds a data socket to `DIR/NNN.id`.
    fn bind_data_socket(&mut self, fd: BorrowedFd<'_>, port: PortId) -> Result<(Address, SocketFile), VdeError> {
        let mut tries = 0;
        loop {
            let path = self.dir().join(format!("{:03}.{}", port.number(), self.next_id));
            self.next_id = self.next_id.wrapping_add(1);
            let address = Address::of_path(&path).ok_or_else(|| VdeError::TooLong(self.dir().to_owned()))?;
            match socket::bind(fd, &address, self.settings.mode) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < MAX_NAMES => {
                    tries += 1;
                    continue;
                }
                Err(error) => return Err(system("bind", &path)(error).into()),
            }
            let file = SocketFile::new(path);
            set_group(file.path(), self.settings.group)?;
            return Ok((address, file));
        }
    }
}

impl Drop for Listener {
    /// Removes `ctl`, the data sockets of clients still connected, and the directory if it was made here and is empty.
    fn drop(&mut self) {
        drop(self.ctl.take());
        remove_data_sockets(self.dir());
        if self.made_dir {
            let _ = fs::remove_dir(self.dir());
        }
    }
}

/// Makes the directory, with no permission for others yet; returns its absolute path and whether it was made.
fn make_directory(dir: &Path) -> Result<(PathBuf, bool), VdeError> {
    let made = match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(system("make the directory", dir)(error).into()),
    };
    let metadata = fs::symlink_metadata(dir).map_err(system("look at", dir))?;
    if !metadata.is_dir() {
        return Err(VdeError::NotDirectory(dir.to_owned()));
    }
    if made {
        // A umask can take away even the owner's permissions.
        socket::set_mode(dir, 0o700).map_err(system("set the mode of", dir))?;
    }
    Ok((fs::canonicalize(dir).map_err(system("look at", dir))?, made))
}

fn lock_directory(dir: &Path) -> Result<File, VdeError> {
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let lock = OpenOptions::new().read(true).custom_flags(flags).open(dir).map_err(system("open", dir))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(VdeError::Running(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(system("lock", dir)(error).into()),
    }
}

fn set_directory_modes(dir: &File, settings: &Settings) -> io::Result<()> {
    if settings.group.is_some() {
        fchown(dir, None, settings.group)?;
    }
    dir.set_permissions(fs::Permissions::from_mode(settings.dir_mode))
}

/// Connects to a socket file that was opened with `O_PATH`: to that file, whatever its path leads to by now.
fn connect_opened(fd: BorrowedFd<'_>, file: &File, client: &Address) -> io::Result<()> {
    let magic_link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened = Address::of_path(Path::new(&magic_link)).unwrap_or(*client);
    match socket::connect(fd, &opened) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => socket::connect(fd, client),
        result => result,
    }
}

/// Removes the data sockets in a directory: those of a switch that has died, or of the one that ends.
fn remove_data_sockets(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        if is_socket && is_data_name(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a file has the name of a data socket: a port of three digits or more, a dot, an id.
fn is_data_name(path: &Path) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split_once('.')).is_some_and(|(port, id)| port.len() >= 3 && digits(port) && digits(id))
}

/// Whether the next connection may be better off.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}
