//! Stations: what sends frames into a network and receives them from it; and a socket that does so on an interface
//! (packet(7)).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::world::Host;

/// The EtherType of frames that only tests know (IEEE 802-2014 §9.2.3, local experiments).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// An address that no other station of this lab has.
pub fn new_address() -> [u8; 6] {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [a, b, c, d] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    [0x02, 0, a, b, c, d]
}

/// A frame with a number and so many bytes of payload, at least four.
pub fn frame(to: [u8; 6], from: [u8; 6], number: u32, payload: usize) -> Vec<u8> {
    let mut frame = [to.as_slice(), &from, &ETHERTYPE, &number.to_be_bytes()].concat();
    frame.resize(14 + payload, 0x5a);
    frame
}

/// The number of a frame that [`frame`] has made.
pub fn number_of(frame: &[u8]) -> Option<u32> {
    (frame.get(12..14)? == ETHERTYPE).then_some(())?;
    frame.get(14..18).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()))
}

/// What sends and receives frames.
pub trait Station {
    /// Its address.
    fn address(&self) -> [u8; 6];

    /// Sends a frame.
    fn send(&mut self, frame: &[u8]);

    /// The next frame, if there is one within a few milliseconds.
    fn receive(&mut self) -> Option<Vec<u8>>;

    /// The numbers of the test's frames that arrive from now on, for so long.
    fn listen(&mut self, time: Duration) -> Vec<u32> {
        let deadline = Instant::now() + time;
        let mut numbers = Vec::new();
        while Instant::now() < deadline {
            numbers.extend(self.receive().and_then(|frame| number_of(&frame)));
        }
        numbers
    }
}

/// The time that [`Station::receive`] waits.
pub const MOMENT: Duration = Duration::from_millis(5);

/// A socket on an interface, as the station that is behind it.
pub struct Interface {
    socket: File,
    address: [u8; 6],
}

impl Interface {
    /// Opens one on a host's interface.
    pub fn open(host: &Host, interface: &'static str) -> Self {
        let socket = host.spawn(move || open(interface).unwrap()).join().unwrap();
        Self { socket, address: new_address() }
    }
}

impl Station for Interface {
    fn address(&self) -> [u8; 6] {
        self.address
    }

    fn send(&mut self, frame: &[u8]) {
        // An interface that is down takes nothing, and the test is to find out.
        match self.socket.write_all(frame) {
            Err(error) if error.kind() != ErrorKind::NetworkDown => panic!("{error}"),
            _ => {}
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match self.socket.read(&mut buffer) {
            Ok(len) => Some(buffer[..len].to_vec()),
            Err(error) if [ErrorKind::WouldBlock, ErrorKind::NetworkDown].contains(&error.kind()) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until two stations hear each other. Both send, as hosts do: the Linux bridge is slow to forget a station that has
/// moved and says nothing.
pub fn wait_until_both_hear(one: &mut dyn Station, other: &mut dyn Station, patience: Duration) {
    let begun = Instant::now();
    let first = NUMBERS.fetch_add(1 << 16, Ordering::Relaxed);
    let hears = |station: &mut dyn Station| {
        let numbers = std::iter::from_fn(|| station.receive()).filter_map(|frame| number_of(&frame));
        numbers.filter(|number| *number >= first).count() > 0
    };
    let (mut one_hears, mut other_hears) = (false, false);
    for number in first.. {
        one.send(&frame(other.address(), one.address(), number, 100));
        other.send(&frame(one.address(), other.address(), number, 100));
        one_hears |= hears(one);
        other_hears |= hears(other);
        if one_hears && other_hears {
            return;
        }
        assert!(begun.elapsed() < patience, "{patience:?}: one hears: {one_hears}, other hears: {other_hears}");
    }
}

/// Numbers that were not used yet.
static NUMBERS: AtomicU32 = AtomicU32::new(1 << 16);

fn open(interface: &str) -> io::Result<File> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    let protocol = u16::from_ne_bytes(ETHERTYPE);
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let file = unsafe { File::from_raw_fd(fd) };
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index as i32;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as stated.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
    let timeout = libc::timeval { tv_sec: 0, tv_usec: MOMENT.as_micros() as i64 };
    let len = size_of_val(&timeout) as libc::socklen_t;
    // SAFETY: the value is as long as stated.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), len) };
    if bound < 0 || set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
