//! A TAP in the network namespace of another process, whose frames are carried by this one.
//!
//! A child of ours enters the namespaces, makes the interface there, gives it addresses and routes, and hands its descriptor
//! back: this process stays where it is, and the descriptor works here. As an unprivileged user it enters the user namespace
//! that owns the network namespace first (user_namespaces(7)): there it may do all of this.
//!
//! IPv4 addresses are set by netdevice(7)'s ioctls, as `link::tap` sets the MTU; those of IPv6 by `rtnetlink`. The
//! kernel may make more of them from the NAT's router advertisements.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use link::{MacAddr, Tap, TapError};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::rtnetlink::Rtnetlink;

/// Where to make a TAP, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// The network namespace.
    pub net: Where,
    /// The user namespace to enter first, if it is not the network namespace's owner.
    pub user: Option<PathBuf>,
    /// The interface.
    pub interface: String,
    /// What is done to it; without, it is made and left down.
    pub setup: Option<Setup>,
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// That of a process.
    Process(u32),
    /// That of a file.
    File(PathBuf),
}

/// How an interface is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Its MTU, in bytes.
    pub mtu: u16,
    /// Its Ethernet address, if the kernel is not to choose.
    pub mac: Option<MacAddr>,
    /// IPv4, if it is to have any.
    pub ipv4: Option<Setup4>,
    /// IPv6, if it is to have any.
    pub ipv6: Option<Setup6>,
}

/// An interface's IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup4 {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its netmask.
    pub mask: Ipv4Addr,
    /// Where the default route leads.
    pub gateway: Ipv4Addr,
}

/// An interface's IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// Bits of its network part.
    pub prefix: u8,
    /// Where the default route leads.
    pub gateway: Ipv6Addr,
    /// Whether a namespace without IPv6 is an error, and not just left without.
    pub required: bool,
}

/// Why there is no TAP in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// No such process.
    #[error("process {0}: there is no such process")]
    NoProcess(u32),
    /// A namespace's file.
    #[error("{}: {}", .path.display(), link::reason(.source))]
    File {
        /// Its path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A namespace does not let us in.
    #[error("{object}: cannot enter the {kind} namespace: {}{}", link::reason(.source), entering_hint(.source))]
    Enter {
        /// Whose.
        object: String,
        /// User or network.
        kind: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// The interface.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// What the interface was to be given.
    #[error("{interface}: cannot {act}: {}{}", link::reason(.source), setup_hint(.source))]
    Setup {
        /// The interface.
        interface: String,
        /// What was to be done.
        act: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// What the child said.
    #[error("{0}")]
    Child(String),
    /// The child, or the way to it.
    #[error("cannot {act}: {}", link::reason(.source))]
    Host {
        /// What was to be done.
        act: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

fn entering_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => ": it belongs to another user; run as that user, or as root",
        Some(libc::EINVAL) => ": that is no such namespace",
        _ => "",
    }
}

fn setup_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EACCES) => ": IPv6 is off there (sysctl net.ipv6.conf.default.disable_ipv6)",
        _ => "",
    }
}

impl Namespace {
    /// Makes the TAP. Must be called while the process has one thread.
    ///
    /// # Errors
    /// [`NamespaceError`], in one line.
    pub fn open(&self) -> Result<Tap, NamespaceError> {
        let host = |act| move |error: nix::Error| NamespaceError::Host { act, source: error.into() };
        let files = Files::open(self)?;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(host("make a socket"))?;
        // SAFETY: the process has one thread, so the child's memory is consistent.
        match unsafe { fork() }.map_err(host("start a process"))? {
            ForkResult::Child => {
                let outcome = self.make(&files).and_then(|tap| hand_over(&theirs, b"", Some(tap.as_fd())));
                if let Err(error) = outcome {
                    // The parent has nobody else to hear of it from.
                    let _ = hand_over(&theirs, error.to_string().as_bytes(), None);
                }
                // SAFETY: no arguments matter; the parent's cleaning up is not ours.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let taken = take_over(&ours);
                wait(child);
                Ok(Tap::adopt(taken?)?)
            }
        }
    }

    /// What the child does.
    fn make(&self, files: &Files) -> Result<Tap, NamespaceError> {
        files.enter(self)?;
        let mut tap = Tap::open(&self.interface)?;
        if let Some(setup) = &self.setup {
            setup.apply(&mut tap)?;
        }
        Ok(tap)
    }

    /// The name of the namespace, for messages.
    fn object(&self) -> String {
        match &self.net {
            Where::Process(pid) => format!("process {pid}"),
            Where::File(path) => path.display().to_string(),
        }
    }
}

/// The namespaces' files.
struct Files {
    net: File,
    /// The user namespace; none if it is ours already.
    user: Option<File>,
    /// It was asked for by its path.
    user_is_named: bool,
}

impl Files {
    fn open(namespace: &Namespace) -> Result<Self, NamespaceError> {
        let file =
            |path: &Path| File::open(path).map_err(|source| NamespaceError::File { path: path.to_owned(), source });
        let net = match &namespace.net {
            Where::File(path) => file(path)?,
            Where::Process(pid) => match file(Path::new(&format!("/proc/{pid}/ns/net"))) {
                Err(NamespaceError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    return Err(NamespaceError::NoProcess(*pid));
                }
                outcome => outcome?,
            },
        };
        let user = match &namespace.user {
            Some(path) => Some(file(path)?),
            // Where the owner is out of our reach, the network namespace may still let us in, or will say why not.
            None => owner(net.as_fd()).ok(),
        };
        let own = File::open("/proc/self/ns/user");
        let identity = |file: &File| file.metadata().ok().map(|file| (file.dev(), file.ino()));
        let is_ours = |file: &File| own.as_ref().is_ok_and(|own| identity(own) == identity(file));
        Ok(Self { net, user: user.filter(|user| !is_ours(user)), user_is_named: namespace.user.is_some() })
    }

    fn enter(&self, namespace: &Namespace) -> Result<(), NamespaceError> {
        let refused = |kind| {
            let object = namespace.object();
            move |error: nix::Error| NamespaceError::Enter { object, kind, source: error.into() }
        };
        if let Some(user) = &self.user {
            match setns(user, CloneFlags::CLONE_NEWUSER) {
                Err(error) if self.user_is_named => return Err(refused("user")(error)),
                _ => {}
            }
        }
        setns(&self.net, CloneFlags::CLONE_NEWNET).map_err(refused("network"))
    }
}

impl Setup {
    fn apply(&self, tap: &mut Tap) -> Result<(), NamespaceError> {
        let name = tap.interface().to_owned();
        let failed = failed(&name);
        let control = socket().map_err(failed("make a socket"))?;
        let control = control.as_fd();
        let mut lo = request("lo");
        lo.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        tell(control, libc::SIOCSIFFLAGS, &mut lo).map_err(failed("bring lo up"))?;
        if let Some(mac) = self.mac {
            let mut change = request(&name);
            change.ifr_ifru.ifru_hwaddr = hardware(mac);
            tell(control, libc::SIOCSIFHWADDR, &mut change).map_err(failed("set the Ethernet address"))?;
        }
        tap.set_mtu(self.mtu)?;
        tap.set_up(true)?;
        self.ipv4.map_or(Ok(()), |ipv4| ipv4.apply(&name, control))?;
        self.ipv6.map_or(Ok(()), |ipv6| ipv6.apply(&name))
    }
}

impl Setup4 {
    fn apply(&self, name: &str, control: BorrowedFd<'_>) -> Result<(), NamespaceError> {
        let failed = failed(name);
        let mut change = request(name);
        change.ifr_ifru.ifru_addr = address(self.address);
        tell(control, libc::SIOCSIFADDR, &mut change).map_err(failed("set the address"))?;
        change.ifr_ifru.ifru_netmask = address(self.mask);
        tell(control, libc::SIOCSIFNETMASK, &mut change).map_err(failed("set the netmask"))?;
        // SAFETY: zeros are a valid rtentry.
        let mut route: libc::rtentry = unsafe { mem::zeroed() };
        route.rt_gateway = address(self.gateway);
        route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        tell(control, libc::SIOCADDRT, &mut route).map_err(failed("set the default route"))
    }
}

impl Setup6 {
    fn apply(&self, name: &str) -> Result<(), NamespaceError> {
        let failed = failed(name);
        let index = if_nametoindex(name).map_err(|error| failed("find the interface")(error.into()))?;
        let rtnetlink = Rtnetlink::open().map_err(failed("make a socket"))?;
        match rtnetlink.add_address(index, self.address, self.prefix) {
            // What the kernel says where there is no IPv6, and where it is turned off (ip-sysctl: disable_ipv6).
            Err(error) if !self.required && matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EACCES)) => {
                log::info!("{name}: there is no IPv6: {}", link::reason(&error));
                return Ok(());
            }
            outcome => outcome.map_err(failed("set the IPv6 address"))?,
        }
        rtnetlink.add_default_route(index, self.gateway).map_err(failed("set the IPv6 default route"))
    }
}

/// The error of what was to be done to this interface.
fn failed(name: &str) -> impl Fn(&'static str) -> Box<dyn FnOnce(io::Error) -> NamespaceError> {
    let name = name.to_owned();
    move |act| {
        let interface = name.clone();
        Box::new(move |source| NamespaceError::Setup { interface, act, source })
    }
}

/// The user namespace that owns a network namespace (ioctl_ns(2)).
fn owner(net: BorrowedFd<'_>) -> io::Result<File> {
    /// `NS_GET_USERNS`.
    const GET_OWNER: libc::Ioctl = nix::request_code_none!(0xb7, 1) as libc::Ioctl;
    // SAFETY: takes no argument.
    let fd = unsafe { libc::ioctl(net.as_raw_fd(), GET_OWNER) };
    own(fd).map(File::from)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    own(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A question or order about an interface.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // One byte stays zero: names are shorter than IFNAMSIZ.
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}

fn address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: zeros are a valid sockaddr.
    let mut socket: libc::sockaddr = unsafe { mem::zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    // A sockaddr_in has the port in two bytes, then the address.
    for (place, byte) in socket.sa_data[2..].iter_mut().zip(address.octets()) {
        *place = byte as libc::c_char;
    }
    socket
}

fn hardware(mac: MacAddr) -> libc::sockaddr {
    // SAFETY: zeros are a valid sockaddr.
    let mut socket: libc::sockaddr = unsafe { mem::zeroed() };
    socket.sa_family = libc::ARPHRD_ETHER;
    for (place, byte) in socket.sa_data.iter_mut().zip(mac.0) {
        *place = byte as libc::c_char;
    }
    socket
}

/// What the orders of [`tell`] are about: `ifreq` for those of interfaces, `rtentry` for those of routes.
trait Order {}
impl Order for libc::ifreq {}
impl Order for libc::rtentry {}

fn tell<T: Order>(control: BorrowedFd<'_>, command: libc::Ioctl, order: &mut T) -> io::Result<()> {
    // SAFETY: each command used here reads the structure that it is used with, and no pointer in it is set.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), command, std::ptr::from_mut(order)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends words, or a descriptor with a byte.
fn hand_over(to: &OwnedFd, words: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), NamespaceError> {
    let words = if words.is_empty() { b"\0" } else { words };
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &rights[..0] } else { &rights };
    sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(words)], control, MsgFlags::empty(), None)
        .map(drop)
        .map_err(|error| NamespaceError::Host { act: "hand the TAP over", source: error.into() })
}

/// Receives what [`hand_over`] sent.
fn take_over(from: &OwnedFd) -> Result<OwnedFd, NamespaceError> {
    let mut words = [0; 1024];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut words)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(|error| NamespaceError::Host { act: "take the TAP over", source: error.into() })?;
    let len = message.bytes;
    let descriptor = message.cmsgs().ok().into_iter().flatten().find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    match descriptor {
        // SAFETY: the kernel has just made it for this process, and it is taken once.
        Some(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        None => Err(NamespaceError::Child(match String::from_utf8_lossy(&words[..len]).into_owned() {
            silence if silence.is_empty() => "the process in the namespace is gone".to_owned(),
            words => words,
        })),
    }
}

fn wait(child: Pid) {
    if let Err(error) = waitpid(child, None) {
        log::debug!("process {child}: {error}");
    }
}
