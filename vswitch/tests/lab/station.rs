//! Frames, and a socket that sees those of an interface (packet(7)).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use crate::world::Host;

/// The EtherType of frames that only tests know (IEEE 802-2014 §9.2.3, local experiments).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// Everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

/// A station's address.
pub fn station(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    [0x02, 0, 0, 0, high, low]
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

/// A socket on an interface.
pub struct Station(File);

impl Station {
    /// Opens one on a host's interface.
    pub fn open(host: &Host, interface: &'static str) -> Self {
        host.spawn(move || Self(open(interface).unwrap())).join().unwrap()
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }

    /// The numbers of the test's frames that arrive from now on, for so long.
    pub fn listen(&mut self, time: Duration) -> Vec<u32> {
        let deadline = Instant::now() + time;
        let (mut numbers, mut buffer) = (Vec::new(), vec![0; 70_000]);
        while Instant::now() < deadline {
            match self.0.read(&mut buffer) {
                Ok(len) => numbers.extend(number_of(&buffer[..len])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        numbers
    }
}

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
    let timeout = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
    let len = size_of_val(&timeout) as libc::socklen_t;
    // SAFETY: the value is as long as stated.
    let set = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const timeout).cast(), len) };
    if bound < 0 || set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}
