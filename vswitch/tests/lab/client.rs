//! A VDE client made by hand, byte by byte, as libvdeplug does it: no code of the switch's own joins or sends here.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use netlab::station::{MOMENT, Station, new_address};
use netlab::world::PATIENCE;

/// A client that has joined.
pub struct Client {
    /// The connection to `ctl`; its end is the client's.
    pub ctl: UnixStream,
    /// The frames.
    pub data: UnixDatagram,
    /// The switch's data socket.
    pub switch: PathBuf,
    address: [u8; 6],
}

impl Client {
    /// Joins the switch of this directory.
    pub fn join(dir: &Path) -> Self {
        Self::try_join(dir, b"lab").unwrap()
    }

    /// Joins the switch of this directory, with these words; an error if it does not want that.
    pub fn try_join(dir: &Path, words: &[u8]) -> io::Result<Self> {
        let mut ctl = UnixStream::connect(dir.join("ctl"))?;
        ctl.set_read_timeout(Some(PATIENCE))?;
        let own = free_path();
        let data = UnixDatagram::bind(&own)?;
        let joined = ctl.write_all(&request(&own, words)).and_then(|()| reply(&mut ctl));
        let joined = joined.and_then(|switch| data.connect(&switch).map(|()| switch));
        fs::remove_file(&own)?;
        data.set_read_timeout(Some(MOMENT))?;
        Ok(Self { ctl, data, switch: joined?, address: new_address() })
    }
}

impl Station for Client {
    fn address(&self) -> [u8; 6] {
        self.address
    }

    /// Waits for room if there is none.
    fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.data.send(frame).unwrap(), frame.len());
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        match self.data.recv(&mut buffer) {
            Ok(len) => Some(buffer[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A path that nobody else uses.
pub fn free_path() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    PathBuf::from(format!("/run/tmp/client.{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// A request of version 3 for any port.
pub fn request(own: &Path, words: &[u8]) -> Vec<u8> {
    let mut bytes = request_head();
    bytes.extend(1_u16.to_ne_bytes());
    bytes.extend(own.as_os_str().as_bytes());
    bytes.resize(122, 0);
    bytes.extend(words);
    bytes
}

/// What stands before the address: magic, version, type and port.
pub fn request_head() -> Vec<u8> {
    [0xfeed_face_u32, 3, 0].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Waits for the reply: the path of the switch's data socket.
pub fn reply(ctl: &mut UnixStream) -> io::Result<PathBuf> {
    let mut bytes = [0; 110];
    ctl.read_exact(&mut bytes)?;
    let path = bytes[2..].split(|byte| *byte == 0).next().unwrap();
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
}
