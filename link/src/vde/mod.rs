//! `vde://DIR`: a port of a VDE switch, ours or vde-2's, joined as a client.
//!
//! The join, in the order that libvdeplug has: connect to `DIR/ctl` (to `DIR/PORT` first if a port is asked for: a switch
//! may offer some of its ports to others than the rest); bind a datagram socket; send the request; receive the reply;
//! connect to the data socket that it names. From then on frames pass between the two datagram sockets, and `ctl` says one
//! thing only, by its end: that the switch is gone. The client's own path has served when the switch has connected to it,
//! and is removed at once.
//!
//! Invariant: opening waits for the switch no longer than [`PATIENCE`] (vde_switch refuses some requests by silence), and
//! what is open never blocks. An error on the data socket costs frames, the end of `ctl` is the end of the link.
//!
//! # Offloads
//!
//! The request offers all of them, since it is made before the owner can say what it accepts, and an offer cannot be
//! changed: an owner that accepts less stands inside [`crate::Soft`], which cuts. A switch that offers some in return gets
//! and sends frames behind a [`crate::VnetHeader`]; with any other, frames are whole, and their headers are not on the wire.
//!
//! # Frame sizes
//!
//! Frames of up to [`JUMBO_MTU`] bytes of payload are sent and received. But nothing in the protocol says what the network
//! behind the switch carries, and vde_switch cuts frames at 1518 bytes; so the link states 1500 unless its owner knows
//! better ([`VdeConfig::mtu`]).
//!
//! Neighbours: `wire` for the formats, `socket` for system calls, `crate::datagram` for the frames; `vswitch::vde` is the
//! switch's side.

mod control;
pub mod socket;
pub mod wire;

pub use control::Control;

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::lchown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use nix::unistd::Group;

use crate::datagram::{FrameSocket, JUMBO_MTU};
use crate::{Capabilities, Counters, DEFAULT_MTU, DropReason, Link, LinkState, Offloads, RxBatch, TxBatch};
use socket::Kind;
use wire::{Address, Reply, Request};

/// How long the switch may take to let a client in.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Permissions of the client's datagram socket where nothing else is said: the switch is root, or the same user.
const DEFAULT_MODE: u32 = 0o600;
/// The same with a group: the switch may be one of its members.
const DEFAULT_GROUP_MODE: u32 = 0o660;
/// Where the client's datagram socket goes if the switch's directory is closed to it.
const FALLBACK_DIRS: [&str; 3] = ["/var/run", "/var/tmp", "/tmp"];
/// Names tried in one directory.
const MAX_NAMES: u32 = 1000;

/// Which switch, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VdeConfig {
    /// The switch's directory; none for the first that exists of `~/.vdeplug/default`, `~/.vde2/default.switch`,
    /// `/var/run/vde.ctl` and `/tmp/vde.ctl`.
    pub dir: Option<PathBuf>,
    /// The port, 1 to [`wire::MAX_PORT`]; 0 for any that is free.
    pub port: u32,
    /// The group, by name or number, that may use this client's socket.
    pub group: Option<String>,
    /// Permissions of this client's socket; none, and 0, for the usual ones. If given, the switch's data socket gets
    /// them too, where this user may do that.
    pub mode: Option<u32>,
    /// The MTU that the link states, in bytes: 68 to [`JUMBO_MTU`].
    pub mtu: u16,
    /// What the switch shows for this client, at most 128 bytes; none for the program and its process.
    pub description: Option<String>,
}

impl Default for VdeConfig {
    fn default() -> Self {
        Self { dir: None, port: 0, group: None, mode: None, mtu: DEFAULT_MTU, description: None }
    }
}

/// Why a switch cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum VdeError {
    /// Nobody listens in the directory.
    #[error("{switch}: no switch is running there ({why})")]
    NoSwitch {
        /// The link.
        switch: String,
        /// How that is known.
        why: &'static str,
    },
    /// None of the usual directories has a switch.
    #[error("vde://: no switch is running in any of the usual places ({places}); name its directory: vde://DIR")]
    NoneFound {
        /// Where it was looked for.
        places: String,
    },
    /// A file in place of the directory, with something else in it than a directory's path.
    #[error("{}: expected a switch's directory, or a file with one line, vde://DIR", .0.display())]
    NotDirectory(PathBuf),
    /// The switch has hung up.
    #[error("{switch}: the switch refuses this client: it closed the connection without a reply{hint}")]
    Refused {
        /// The link.
        switch: String,
        /// What may be the reason.
        hint: &'static str,
    },
    /// The switch says nothing.
    #[error("{switch}: the switch did not reply within {} s: it refuses this client, or hangs", PATIENCE.as_secs())]
    Silent {
        /// The link.
        switch: String,
    },
    /// The reply makes no sense.
    #[error("{switch}: the switch's reply is no address of a socket")]
    Reply {
        /// The link.
        switch: String,
    },
    /// No such group.
    #[error("{switch}: no such group '{group}'")]
    Group {
        /// The link.
        switch: String,
        /// Its name.
        group: String,
    },
    /// The operating system refused.
    #[error("{switch}: cannot {act}: {}{hint}", crate::reason(.source))]
    System {
        /// The link.
        switch: String,
        /// What was to be done.
        act: String,
        /// What it said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
}

/// A port of a VDE switch.
pub struct Vde {
    name: String,
    socket: FrameSocket,
    control: Control,
    mtu: u16,
    is_gone: bool,
    /// Frames that were to be sent after the end.
    late: u64,
}

impl Vde {
    /// Joins a switch. Waits for its reply, for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// There is no switch, it refuses this client or says nothing, or there is no permission.
    pub fn open(config: &VdeConfig) -> Result<Self, VdeError> {
        let places = match &config.dir {
            Some(dir) => vec![dir.clone()],
            None => usual_places(),
        };
        for place in &places {
            match Join::new(place, config) {
                Err(VdeError::NoSwitch { .. }) if config.dir.is_none() => {}
                Err(error) => return Err(error),
                Ok(join) => return join.finish(config),
            }
        }
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Err(VdeError::NoneFound { places: places.join(", ") })
    }

    /// Whether the switch agreed on offloads.
    #[must_use]
    pub fn has_header(&self) -> bool {
        self.socket.has_header()
    }
}

impl Link for Vde {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { mtu: self.mtu, ..self.socket.capabilities() }
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        self.socket.accept(offloads)
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.socket.register(registry, token, true)?;
        self.control.register(registry, token)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.socket.deregister(registry)?;
        self.control.deregister(registry)
    }

    fn service(&mut self, _: Instant) -> io::Result<()> {
        self.is_gone |= self.control.is_gone();
        if self.is_gone {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the switch is gone, or has put this client out"));
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.socket.deadline()
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        if self.is_gone {
            self.late += batch.len() as u64;
            return Ok(batch.len());
        }
        self.socket.send(batch)
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        self.socket.receive(batch)
    }

    fn state(&self) -> LinkState {
        if self.is_gone { LinkState::Down } else { LinkState::Up }
    }

    fn counters(&self) -> Counters {
        let mut counters = self.socket.counters();
        counters.drops.add(DropReason::LinkDown, self.late);
        counters
    }
}

/// A join under way: connected to `ctl`.
struct Join {
    name: String,
    dir: PathBuf,
    control: UnixStream,
    deadline: Instant,
}

impl Join {
    /// Finds the directory and connects to `ctl`.
    fn new(place: &Path, config: &VdeConfig) -> Result<Self, VdeError> {
        let port = if config.port == 0 { String::new() } else { format!("[{}]", config.port) };
        let name = format!("vde://{}{port}", place.display());
        let no_switch = |why| VdeError::NoSwitch { switch: name.clone(), why };
        let dir = directory(place)?;
        let dir = fs::canonicalize(&dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => no_switch("no such directory"),
            io::ErrorKind::PermissionDenied => refused(&name, format!("look at {}", dir.display()), error, MEMBERS),
            _ => refused(&name, format!("look at {}", dir.display()), error, ""),
        })?;
        let deadline = Instant::now() + PATIENCE;
        let own_port = (config.port != 0).then(|| connect_stream(&dir.join(config.port.to_string())).ok()).flatten();
        let control = match own_port {
            Some(control) => control,
            None => connect_stream(&dir.join("ctl")).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => no_switch("it has no ctl"),
                io::ErrorKind::ConnectionRefused => no_switch("its ctl was left behind by one that has died"),
                io::ErrorKind::WouldBlock => VdeError::Silent { switch: name.clone() },
                io::ErrorKind::PermissionDenied => refused(&name, "connect to its ctl".to_owned(), error, MEMBERS),
                _ => refused(&name, "connect to its ctl".to_owned(), error, ""),
            })?,
        };
        Ok(Self { name, dir, control, deadline })
    }

    fn finish(self, config: &VdeConfig) -> Result<Vde, VdeError> {
        let fd = socket::open(Kind::Datagram).map_err(|error| self.system("make a socket", error))?;
        let group = config.group.as_deref().map(|group| self.group_id(group)).transpose()?;
        let asked_mode = config.mode.filter(|mode| *mode != 0);
        let mode = asked_mode.unwrap_or(if group.is_some() { DEFAULT_GROUP_MODE } else { DEFAULT_MODE });
        let (client, own) = self.bind(&fd, mode)?;
        if group.is_some() {
            lchown(&own.0, None, group).map_err(|error| self.system("set the group of its own socket", error))?;
        }
        let reply = self.ask(config, client)?;
        socket::connect(fd.as_fd(), &reply.switch)
            .map_err(|error| self.system("connect to the switch's socket", error))?;
        if let (Some(mode), Some(path)) = (asked_mode, reply.switch.path()) {
            // It belongs to the switch's user, who is often another.
            let _ = socket::set_mode(path, mode);
        }
        drop(own);
        self.control.set_nonblocking(true).map_err(|error| self.system("watch the switch", error))?;
        Ok(Vde {
            name: self.name,
            socket: FrameSocket::new(fd, reply.offer),
            control: Control::new(self.control),
            mtu: config.mtu.min(JUMBO_MTU),
            is_gone: false,
            late: 0,
        })
    }

    /// Binds the client's datagram socket: in the switch's directory, or where else there is room.
    fn bind(&self, fd: &OwnedFd, mode: u32) -> Result<(Address, OwnPath), VdeError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let fallbacks = FALLBACK_DIRS.map(|dir| (PathBuf::from(dir), "vde."));
        let mut first_error = None;
        for (dir, prefix) in std::iter::once((self.dir.clone(), ".")).chain(fallbacks) {
            for _ in 0..MAX_NAMES {
                let path = dir.join(format!("{prefix}{pid:05}-{:05}", NEXT.fetch_add(1, Ordering::Relaxed)));
                let Some(address) = Address::of_path(&path) else { break };
                match socket::bind(fd.as_fd(), &address, mode) {
                    Ok(()) => return Ok((address, OwnPath(path))),
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                    Err(error) => {
                        first_error.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        let error = first_error.unwrap_or_else(|| io::ErrorKind::AddrInUse.into());
        Err(self.system("make a socket file in its directory, nor in /var/run, /var/tmp or /tmp", error))
    }

    /// Sends the request and waits for the reply.
    fn ask(&self, config: &VdeConfig, client: Address) -> Result<Reply, VdeError> {
        let description = config.description.clone().unwrap_or_else(own_description).into_bytes();
        let request = Request { port: config.port, client, offer: Some(Offloads::ALL), description };
        let hint = if config.port == 0 { "" } else { " (the port may be in use, or not exist)" };
        let hung_up = || VdeError::Refused { switch: self.name.clone(), hint };
        let mut control = &self.control;
        match control.write_all(&request.encode()) {
            Err(error) if is_hang_up(&error) => return Err(hung_up()),
            Err(error) => return Err(self.system("ask to be let in", error)),
            Ok(()) => {}
        }
        let mut bytes = [0; Reply::LEN];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let left = self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let read = control.set_read_timeout(Some(left)).and_then(|()| control.read(rest));
            match read {
                Ok(0) => return Err(hung_up()),
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(VdeError::Silent { switch: self.name.clone() });
                }
                Err(error) if is_hang_up(&error) => return Err(hung_up()),
                Err(error) => return Err(self.system("hear its reply", error)),
            }
        }
        Reply::parse(&bytes).ok_or_else(|| VdeError::Reply { switch: self.name.clone() })
    }

    fn group_id(&self, group: &str) -> Result<u32, VdeError> {
        let error = || VdeError::Group { switch: self.name.clone(), group: group.to_owned() };
        if let Ok(number) = group.parse() {
            return Ok(number);
        }
        let found = Group::from_name(group).map_err(|error| self.system("look up a group", error.into()))?;
        found.map(|group| group.gid.as_raw()).ok_or_else(error)
    }

    fn system(&self, act: &str, source: io::Error) -> VdeError {
        refused(&self.name, act.to_owned(), source, "")
    }
}

const MEMBERS: &str = ": the switch's --mode and --group say who may join";

fn refused(switch: &str, act: String, source: io::Error, hint: &'static str) -> VdeError {
    VdeError::System { switch: switch.to_owned(), act, source, hint }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// The client's socket file, removed when this is dropped: as soon as the switch has connected to it.
struct OwnPath(PathBuf);

impl Drop for OwnPath {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a switch is looked for if nobody says where it is.
fn usual_places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let in_home = home.iter().flat_map(|home| [home.join(".vdeplug/default"), home.join(".vde2/default.switch")]);
    in_home.chain(["/var/run/vde.ctl", "/tmp/vde.ctl"].map(PathBuf::from)).collect()
}

/// The directory itself, or the one that a file in its place names.
fn directory(place: &Path) -> Result<PathBuf, VdeError> {
    if !fs::metadata(place).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(place.to_owned());
    }
    let mut text = [0; 4096];
    let len = fs::File::open(place).and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    let line = std::str::from_utf8(&text[..len]).ok().and_then(|text| text.lines().next()).map(str::trim);
    let dir = line.map(|line| line.strip_prefix("vde://").unwrap_or(line));
    match dir.filter(|dir| !dir.is_empty() && !dir.contains("://")) {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Err(VdeError::NotDirectory(place.to_owned())),
    }
}

/// Connects to a stream socket; waits at most [`PATIENCE`] while too many others wait.
fn connect_stream(path: &Path) -> io::Result<UnixStream> {
    let address = Address::of_path(path).ok_or(io::ErrorKind::InvalidFilename)?;
    let stream = UnixStream::from(socket::open(Kind::Stream)?);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    socket::connect(stream.as_fd(), &address)?;
    Ok(stream)
}

/// `PROGRAM pid=N`.
fn own_description() -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let name = program.as_deref().and_then(Path::file_name).unwrap_or("etherloom".as_ref());
    format!("{} pid={}", name.to_string_lossy(), std::process::id())
}
