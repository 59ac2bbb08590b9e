//! `tap://name`: an Ethernet interface of this host's kernel, or of a network namespace's.
//!
//! A TAP opened here carries the virtio-net header (Linux `Documentation/networking/tuntap.rst`, virtio 1.2 §5.1.6), so
//! the kernel's 64 KiB frames cross uncut in both directions. Each frame is one `readv` or `writev`: header, then the
//! owner's fragments, without a copy. The kernel is told with `TUNSETOFFLOAD` what may come out; it cuts the rest itself.
//!
//! Invariant: the descriptor never blocks, and a refused frame costs one counted drop. The interface's MTU and flags are
//! asked for on a socket of the namespace in which it was opened; where that cannot be found, the MTU is 1500 and the
//! link is up.
//!
//! Neighbours: [`crate::Soft`] where the kernel lacks an offload; the scripts that give the interface addresses.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::{
    Capabilities, Counters, DEFAULT_MTU, DropReason, Fragment, FragmentMut, Frame, Link, LinkState, MAX_FRAME_LEN,
    Offloads, RxBatch, RxSlot, TxBatch, VnetHeader,
};

const DEVICE: &std::ffi::CStr = c"/dev/net/tun";
/// The most fragments of one frame that go to the kernel as they are: `UIO_MAXIOV` less the header and the guard byte.
const MAX_FRAGMENTS: usize = 1022;

/// A TAP interface.
pub struct Tap {
    fd: OwnedFd,
    /// A socket in the interface's namespace, for questions about it.
    control: Option<OwnedFd>,
    interface: String,
    locator: String,
    capabilities: Capabilities,
    has_header: bool,
    /// What the interface's flags said when they were last looked at.
    state: LinkState,
    iovecs: Iovecs,
    counters: Counters,
}

/// Why a TAP cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel refused.
    #[error("{object}: {}{hint}", crate::reason(.source))]
    System {
        /// The interface, or the device file.
        object: String,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        hint: String,
    },
    /// A name that no interface can have.
    #[error("'{0}' is no interface name: 1 to 15 bytes, without '/' and blanks")]
    Name(String),
    /// A descriptor that is a TUN/TAP of another sort.
    #[error("{object}: {why}")]
    Unfit {
        /// The descriptor or the interface.
        object: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Tap {
    /// Opens the interface of this name, or makes one that lives as long as this value. `%d` in the name stands for the
    /// first free number; an empty name lets the kernel choose.
    ///
    /// # Errors
    /// No `/dev/net/tun`, no permission, the interface is in use or of another sort.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let mut request = InterfaceRequest::new(name)?;
        let fd = open_device().map_err(TapError::device)?;
        request.set_flags(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        ioctl_request(fd.as_fd(), libc::TUNSETIFF, &mut request).map_err(|error| TapError::attach(name, error))?;
        Self::configure(fd, request.name(), true)
    }

    /// Takes over a TAP that another program has opened with `IFF_NO_PI`, about which the kernel does not answer: in
    /// `TUNGETIFF` that bit is `IFF_NOFILTER`. A TAP without the virtio-net header works too, without offloads.
    ///
    /// # Errors
    /// The descriptor is no TAP, or is one queue of several.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TapError> {
        let object = format!("descriptor {}", fd.as_raw_fd());
        let mut request = InterfaceRequest::default();
        ioctl_request(fd.as_fd(), libc::TUNGETIFF, &mut request)
            .map_err(|source| TapError::system(&object, source, ": it is not an attached TAP"))?;
        let flags = request.flags();
        let unfit = |why| Err(TapError::Unfit { object, why });
        if flags & libc::IFF_TAP == 0 {
            return unfit("a TUN carries IP packets, a TAP Ethernet frames: open it with IFF_TAP");
        }
        if flags & libc::IFF_MULTI_QUEUE != 0 {
            return unfit("the TAP is one queue of several (IFF_MULTI_QUEUE): frames on the others would be lost");
        }
        set_nonblocking(fd.as_fd()).map_err(|source| TapError::system(&request.name(), source, ""))?;
        Self::configure(fd, request.name(), flags & libc::IFF_VNET_HDR != 0)
    }

    /// The interface's name in the kernel.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Whether the interface outlives its last user, with its addresses.
    ///
    /// # Errors
    /// No permission.
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        ioctl_value(self.fd.as_fd(), libc::TUNSETPERSIST, u32::from(persistent)).map_err(|error| self.error(error))
    }

    /// Brings the interface up or down.
    ///
    /// # Errors
    /// No permission, or the interface belongs to another namespace.
    pub fn set_up(&mut self, up: bool) -> Result<(), TapError> {
        let mut request = self.ask(libc::SIOCGIFFLAGS).map_err(|error| self.error(error))?;
        let flags = request.flags();
        request.set_flags(if up { flags | libc::IFF_UP } else { flags & !libc::IFF_UP });
        self.tell(libc::SIOCSIFFLAGS, &mut request).map_err(|error| self.error(error))?;
        self.look_again();
        Ok(())
    }

    /// Sets the interface's MTU, in bytes.
    ///
    /// # Errors
    /// No permission, the interface belongs to another namespace, or the kernel takes no such MTU.
    pub fn set_mtu(&mut self, mtu: u16) -> Result<(), TapError> {
        let mut request = InterfaceRequest::named(&self.interface);
        request.set_number(i32::from(mtu));
        self.tell(libc::SIOCSIFMTU, &mut request).map_err(|error| self.error(error))?;
        self.capabilities.mtu = mtu;
        Ok(())
    }

    fn configure(fd: OwnedFd, interface: String, has_header: bool) -> Result<Self, TapError> {
        let offloads = if has_header { configure_header(fd.as_fd()) } else { Ok(Offloads::NONE) }
            .map_err(|source| TapError::system(&interface, source, ": the kernel's TAP lacks the virtio-net header"))?;
        let control = open_control(fd.as_fd(), &interface);
        let locator = format!("tap://{interface}");
        let capabilities = Capabilities { offloads, mtu: DEFAULT_MTU };
        let (iovecs, counters) = (Iovecs::default(), Counters::default());
        let state = LinkState::Up;
        let mut tap = Self { fd, control, interface, locator, capabilities, has_header, state, iovecs, counters };
        tap.look_again();
        if let Ok(answer) = tap.ask(libc::SIOCGIFMTU) {
            tap.capabilities.mtu = u16::try_from(answer.number()).unwrap_or(u16::MAX);
        }
        Ok(tap)
    }

    fn ask(&self, question: libc::Ioctl) -> io::Result<InterfaceRequest> {
        let mut request = InterfaceRequest::named(&self.interface);
        self.tell(question, &mut request)?;
        Ok(request)
    }

    fn tell(&self, command: libc::Ioctl, request: &mut InterfaceRequest) -> io::Result<()> {
        let control = self.control.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        ioctl_request(control.as_fd(), command, request)
    }

    fn error(&self, source: io::Error) -> TapError {
        TapError::system(&self.interface, source, "")
    }

    /// Sends one frame, or says what became of it.
    fn send_frame(&mut self, frame: &Frame<'_>) -> Result<(), Refusal> {
        frame.header.check(frame.len())?;
        if frame.len() > MAX_FRAME_LEN {
            return Err(DropReason::Oversized.into());
        }
        if !self.capabilities.offloads.permit(&frame.header) {
            return Err(DropReason::BadOffload.into());
        }
        let header = frame.header.to_bytes();
        let mut copy = Vec::new();
        let gathered = [if frame.fragments.len() > MAX_FRAGMENTS {
            frame.append_to(&mut copy);
            Fragment::new(&copy)
        } else {
            Fragment::new(&[])
        }];
        let fragments = if copy.is_empty() { frame.fragments } else { &gathered };
        let header = [Fragment::new(if self.has_header { &header } else { &[] })];
        let iovecs = self.iovecs.join(&[Fragment::as_iovecs(&header), Fragment::as_iovecs(fragments)]);
        write_vectored(self.fd.as_fd(), iovecs).map_err(Refusal::from)
    }

    /// Receives one frame; returns whether there was one.
    fn receive_frame(&mut self, slot: RxSlot<'_, '_>) -> io::Result<bool> {
        let mut header = [0; VnetHeader::LEN];
        let mut guard = [0];
        let header_len = if self.has_header { header.len() } else { 0 };
        let ends = [FragmentMut::new(&mut header[..header_len]), FragmentMut::new(&mut guard)];
        let [front, back] = FragmentMut::as_iovecs(&ends) else { return Ok(false) };
        let middle = FragmentMut::as_iovecs(slot.fragments());
        let middle = &middle[..middle.len().min(MAX_FRAGMENTS)];
        let capacity: usize = middle.iter().map(|iovec| iovec.iov_len).sum();
        let iovecs = self.iovecs.join(&[&[*front], middle, &[*back]]);
        let Some(len) = read_vectored(self.fd.as_fd(), iovecs)? else { return Ok(false) };
        let Some(len) = len.checked_sub(header_len) else { return Ok(false) };
        // The kernel cuts what does not fit. The guard byte tells.
        if len > capacity {
            self.counters.drops.count(DropReason::Oversized);
            return Ok(true);
        }
        match VnetHeader::parse(&header) {
            Ok(header) => {
                slot.fill(header, len);
                self.counters.received(len);
            }
            Err(reason) => self.counters.drops.count(reason),
        }
        Ok(true)
    }
}

impl Link for Tap {
    fn name(&self) -> &str {
        &self.locator
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn accept(&mut self, offloads: Offloads) -> io::Result<()> {
        if !self.has_header {
            return Ok(());
        }
        set_offloads(self.fd.as_fd(), offloads.intersect(self.capabilities.offloads))
    }

    fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.fd.as_raw_fd()), token, Interest::READABLE | Interest::WRITABLE)
    }

    fn tell_while_ready(&mut self, registry: &Registry, token: Token) -> io::Result<bool> {
        // mio knows no level-triggered readiness, so its epoll instance is asked.
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token.0 as u64 };
        let (epoll, fd) = (registry.as_raw_fd(), self.fd.as_raw_fd());
        // SAFETY: the event lives through the call.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_MOD, fd, &raw mut event) })?;
        Ok(true)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
    }

    fn send(&mut self, batch: &TxBatch<'_>) -> io::Result<usize> {
        for (index, frame) in batch.frames().enumerate() {
            match self.send_frame(&frame) {
                Ok(()) => self.counters.sent(frame.len()),
                Err(Refusal::Drop(reason)) => {
                    self.counters.drops.count(reason);
                    if reason == DropReason::LinkDown {
                        self.state = LinkState::Down;
                    }
                }
                Err(Refusal::Full) => return Ok(index),
                Err(Refusal::Gone(error)) => return Err(error),
            }
        }
        Ok(batch.len())
    }

    fn receive(&mut self, batch: &mut RxBatch<'_>) -> io::Result<usize> {
        let before = batch.filled();
        while let Some(slot) = batch.next_slot() {
            if !self.receive_frame(slot)? {
                break;
            }
        }
        Ok(batch.filled() - before)
    }

    /// The owner is woken when the interface comes up.
    fn service(&mut self, _now: Instant) -> io::Result<()> {
        if self.state == LinkState::Down {
            self.look_again();
        }
        Ok(())
    }

    /// Up when the interface is, which is when the kernel takes frames. That it went down shows when a frame is sent, or
    /// is told by [`crate::InterfaceWatch`].
    fn state(&self) -> LinkState {
        self.state
    }

    fn look_again(&mut self) {
        self.state = match self.ask(libc::SIOCGIFFLAGS) {
            Ok(answer) if answer.flags() & libc::IFF_UP == 0 => LinkState::Down,
            _ => LinkState::Up,
        };
    }

    /// Of the interface (`TUNSETCARRIER`).
    fn show_carrier(&mut self, carrier: LinkState) {
        let up = libc::c_int::from(carrier == LinkState::Up);
        if let Err(error) = ioctl_number(self.fd.as_fd(), libc::TUNSETCARRIER, up) {
            log::debug!("{}: its carrier stays as it is: {error}", self.locator);
        }
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why a frame was not sent.
enum Refusal {
    /// Not now.
    Full,
    /// Never: the frame is dropped.
    Drop(DropReason),
    /// The interface is gone.
    Gone(io::Error),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Self::Full,
            Some(libc::EIO) => Self::Drop(DropReason::LinkDown),
            Some(libc::EINVAL) => Self::Drop(DropReason::BadOffload),
            Some(libc::EBADFD | libc::ENODEV | libc::EBADF) => Self::Gone(error),
            _ => Self::Drop(DropReason::HostError),
        }
    }
}

impl TapError {
    fn system(object: &str, source: io::Error, hint: &str) -> Self {
        Self::System { object: object.to_owned(), source, hint: hint.to_owned() }
    }

    fn device(source: io::Error) -> Self {
        let hint = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => ": load the kernel module with 'modprobe tun'",
            Some(libc::EACCES | libc::EPERM) => ": run as root, or let this user open it",
            _ => "",
        };
        Self::system("/dev/net/tun", source, hint)
    }

    fn attach(name: &str, source: io::Error) -> Self {
        let object = if name.is_empty() { "new TAP" } else { name };
        let named = if name.is_empty() || name.contains('%') { "tap0" } else { name };
        let hint = match source.raw_os_error() {
            Some(libc::EPERM) => {
                format!(": run as root, or create it first with 'ip tuntap add {named} mode tap user NAME'")
            }
            Some(libc::EBUSY) => ": another program has opened it".to_owned(),
            Some(libc::EINVAL) => ": it exists and is no TAP, or one with several queues (multi_queue)".to_owned(),
            _ => String::new(),
        };
        Self::System { object: object.to_owned(), source, hint }
    }
}

/// Layout of `struct ifreq`: a name, and a union of at most 24 bytes (netdevice(7)).
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(mem::size_of::<InterfaceRequest>() >= mem::size_of::<libc::ifreq>());

impl InterfaceRequest {
    /// A name that the kernel may complete.
    fn new(name: &str) -> Result<Self, TapError> {
        let is_odd = |c: char| c == '/' || c == '\0' || c.is_whitespace();
        if name.len() >= libc::IFNAMSIZ || name.contains(is_odd) {
            return Err(TapError::Name(name.to_owned()));
        }
        Ok(Self::named(name))
    }

    /// A name that came from the kernel.
    fn named(name: &str) -> Self {
        let mut request = Self::default();
        for (place, byte) in request.name.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        request
    }

    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(&self.name[..end]).into_owned()
    }

    fn number(&self) -> i32 {
        let [a, b, c, d, ..] = self.value;
        i32::from_ne_bytes([a, b, c, d])
    }

    fn set_number(&mut self, number: i32) {
        self.value[..4].copy_from_slice(&number.to_ne_bytes());
    }

    /// `ifr_flags`, which is 16 bits wide.
    fn flags(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.value[0], self.value[1]]))
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the flags in use are the low 16 bits")]
    fn set_flags(&mut self, flags: i32) {
        self.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    }
}

/// The list of one system call, in reusable memory.
#[derive(Default)]
struct Iovecs(Vec<libc::iovec>);

// SAFETY: between two system calls nobody follows the pointers in the list.
unsafe impl Send for Iovecs {}

impl Iovecs {
    fn join(&mut self, parts: &[&[libc::iovec]]) -> &[libc::iovec] {
        self.0.clear();
        for part in parts {
            self.0.extend_from_slice(part);
        }
        &self.0
    }
}

/// Sizes the header, and finds out what the kernel can leave undone; nothing is accepted yet.
fn configure_header(fd: BorrowedFd<'_>) -> io::Result<Offloads> {
    ioctl_number(fd, libc::TUNSETVNETHDRSZ, VnetHeader::LEN as libc::c_int)?;
    ioctl_number(fd, libc::TUNSETVNETLE, 1)?;
    let without_uso = Offloads { uso: false, ..Offloads::ALL };
    let known = if set_offloads(fd, Offloads::ALL).is_ok() { Offloads::ALL } else { without_uso };
    set_offloads(fd, Offloads::NONE)?;
    Ok(known)
}

fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    let flags = [
        (true, libc::TUN_F_CSUM),
        (offloads.tso4, libc::TUN_F_TSO4),
        (offloads.tso6, libc::TUN_F_TSO6),
        // Linux takes these two only together.
        (offloads.uso, libc::TUN_F_USO4 | libc::TUN_F_USO6),
    ];
    let flags = flags.into_iter().filter(|(on, _)| *on && offloads.checksum).fold(0, |all, (_, flag)| all | flag);
    ioctl_value(fd, libc::TUNSETOFFLOAD, flags)
}

/// A socket that knows the interface; none if the interface belongs to another namespace than this thread's.
fn open_control(tap: BorrowedFd<'_>, interface: &str) -> Option<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let control = own(fd).ok()?;
    let address = |fd: BorrowedFd<'_>| {
        let mut request = InterfaceRequest::named(interface);
        ioctl_request(fd, libc::SIOCGIFHWADDR, &mut request).ok().map(|()| request.value)
    };
    let ours = address(control.as_fd())?;
    (address(tap)? == ours).then_some(control)
}

fn open_device() -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string.
    own(unsafe { libc::open(DEVICE.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC) })
}

fn own(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

fn ioctl_request(fd: BorrowedFd<'_>, command: libc::Ioctl, request: &mut InterfaceRequest) -> io::Result<()> {
    // SAFETY: every command used with this function reads and writes one `struct ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, std::ptr::from_mut(request)) }).map(drop)
}

fn ioctl_number(fd: BorrowedFd<'_>, command: libc::Ioctl, number: libc::c_int) -> io::Result<()> {
    // SAFETY: every command used with this function reads one `int`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, &raw const number) }).map(drop)
}

fn ioctl_value(fd: BorrowedFd<'_>, command: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: every command used with this function takes a number in place of a pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, libc::c_ulong::from(value)) }).map(drop)
}

fn write_vectored(fd: BorrowedFd<'_>, iovecs: &[libc::iovec]) -> io::Result<()> {
    loop {
        // SAFETY: the entries come from fragments, which are readable while the caller holds them.
        let done = unsafe { libc::writev(fd.as_raw_fd(), iovecs.as_ptr(), count(iovecs)) };
        match result(done) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}

/// One frame, or `None` if there is none now.
fn read_vectored(fd: BorrowedFd<'_>, iovecs: &[libc::iovec]) -> io::Result<Option<usize>> {
    loop {
        // SAFETY: the entries come from fragments, which are writable while the caller holds them.
        let done = unsafe { libc::readv(fd.as_raw_fd(), iovecs.as_ptr(), count(iovecs)) };
        match result(done) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => return other.map(Some),
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "at most MAX_FRAGMENTS and two")]
fn count(iovecs: &[libc::iovec]) -> libc::c_int {
    iovecs.len() as libc::c_int
}

fn result(done: isize) -> io::Result<usize> {
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn check(value: libc::c_int) -> io::Result<libc::c_int> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["0123456789abcdef", "a/b", "a b", "a\0"] {
            assert!(matches!(Tap::open(name), Err(TapError::Name(_))), "{name}");
        }
    }

    #[test]
    fn errors_name_the_interface_and_the_way_out() {
        let error = TapError::attach("tap0", io::Error::from_raw_os_error(libc::EPERM));
        let expected = "tap0: Operation not permitted: run as root, or create it first with 'ip tuntap add tap0 mode tap \
                        user NAME'";
        assert_eq!(error.to_string(), expected);
        let error = TapError::device(io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(
            error.to_string(),
            "/dev/net/tun: No such file or directory: load the kernel module with 'modprobe tun'"
        );
    }

    #[test]
    fn a_descriptor_that_is_no_tap_is_refused() {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = Tap::adopt(socket.into()).map(drop).unwrap_err().to_string();
        assert!(error.ends_with(": it is not an attached TAP"), "{error}");
    }
}
