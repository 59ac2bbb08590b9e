//! A model of the operating system under the NAT: sockets that hold what the input puts in, and files of a few lengths.
//!
//! The NAT names its sockets itself, so the model holds it to that: a name is opened only while it is free, nothing is
//! asked of a socket that does not exist, and nothing is sent behind the end of a connection.
//!
//! Peers are told by their port: 81 refuses, 82 is silent, 83 has no route, all others take connections.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use nat::{Datagram, Kind, Readiness, Rejection, SocketId, Target};

/// Numbers of errors (errno(3)).
const EACCES: i32 = 13;
const EMFILE: i32 = 24;
const EIO: i32 = 5;
const ENOENT: i32 = 2;
const EPIPE: i32 = 32;
const EMSGSIZE: i32 = 90;
const ENETUNREACH: i32 = 101;
const ECONNRESET: i32 = 104;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;

/// Bytes of datagrams that the kernel takes, and gives, over either version of IP.
const LONGEST_V4: usize = 65507;
const LONGEST_V6: usize = 65527;

/// The system.
#[derive(Default)]
pub struct Host {
    /// In order, so that one input always does the same.
    sockets: BTreeMap<SocketId, Socket>,
    /// What is to be reported.
    pub events: VecDeque<Readiness>,
    pub resolvers: Vec<SocketAddr>,
    /// Peers that wait at the listeners.
    pub waiting: VecDeque<SocketAddr>,
    /// Whether there are no more descriptors.
    pub is_full: bool,
    pub forbids_ping: bool,
    files: BTreeMap<u32, File>,
}

enum Socket {
    Listener,
    Connection(Connection),
    Datagrams(Datagrams),
}

#[derive(Default)]
struct Connection {
    /// None while it is under way.
    outcome: Option<Result<(), i32>>,
    inbound: usize,
    ended: bool,
    broken: bool,
    /// How much more may be sent before it blocks.
    room: Option<usize>,
    finished: bool,
}

#[derive(Default)]
struct Datagrams {
    inbound: VecDeque<(Vec<u8>, SocketAddr)>,
    rejections: VecDeque<Rejection>,
    /// What was sent last.
    sent: Vec<u8>,
}

struct File {
    len: u64,
    is_broken: bool,
}

/// What may happen to a connection.
#[derive(Clone, Copy)]
pub enum Event {
    Data(usize),
    End,
    Break,
    Room(Option<usize>),
}

fn errno<T>(code: i32) -> io::Result<T> {
    Err(io::Error::from_raw_os_error(code))
}

fn blocked<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// All that may have become possible.
pub fn readiness(id: SocketId) -> Readiness {
    Readiness { id, readable: true, writable: true, finished: false, error: false }
}

impl Host {
    /// How many sockets of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.ids(kind).count()
    }

    /// How many files are open.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    fn ids(&self, kind: Kind) -> impl Iterator<Item = SocketId> {
        let (first, last) = (SocketId { kind, index: 0 }, SocketId { kind, index: u32::MAX });
        self.sockets.range(first..=last).map(|(id, _)| *id)
    }

    /// One of the sockets of a kind.
    pub fn pick(&self, kind: Kind, number: u8) -> Option<SocketId> {
        self.ids(kind).nth(usize::from(number) % self.count(kind).max(1))
    }

    /// Something happens to a connection.
    pub fn happen(&mut self, id: SocketId, event: Event) {
        let Some(Socket::Connection(connection)) = self.sockets.get_mut(&id) else { return };
        let mut report = readiness(id);
        match event {
            Event::Data(len) => connection.inbound += len,
            Event::End => (connection.ended, report.finished) = (true, true),
            Event::Break => {
                connection.broken = true;
                connection.outcome.get_or_insert(Err(ETIMEDOUT));
                (report.finished, report.error) = (true, true);
            }
            Event::Room(room) => connection.room = room,
        }
        self.events.push_back(report);
    }

    /// A datagram arrives.
    pub fn arrive(&mut self, id: SocketId, mut bytes: Vec<u8>, from: SocketAddr) {
        let Some(Socket::Datagrams(socket)) = self.sockets.get_mut(&id) else { return };
        bytes.truncate(if from.is_ipv4() { LONGEST_V4 } else { LONGEST_V6 });
        socket.inbound.push_back((bytes, from));
        self.events.push_back(readiness(id));
    }

    /// What was sent last comes back with an error.
    pub fn reject(&mut self, id: SocketId, rejection: Rejection) {
        let Some(Socket::Datagrams(socket)) = self.sockets.get_mut(&id) else { return };
        socket.rejections.push_back(rejection);
        self.events.push_back(Readiness { error: true, ..readiness(id) });
    }

    /// What a datagram socket has sent last.
    pub fn sent(&self, id: SocketId) -> &[u8] {
        match self.sockets.get(&id) {
            Some(Socket::Datagrams(socket)) => &socket.sent,
            _ => &[],
        }
    }

    /// Every connection breaks, and nobody waits any more.
    pub fn end(&mut self) {
        self.waiting.clear();
        for id in self.ids(Kind::Tcp).collect::<Vec<_>>() {
            self.happen(id, Event::Break);
        }
    }

    fn open(&mut self, id: SocketId, socket: Socket) -> io::Result<()> {
        assert!(!self.sockets.contains_key(&id), "{id:?} is open already");
        if self.is_full {
            return errno(EMFILE);
        }
        self.sockets.insert(id, socket);
        Ok(())
    }

    fn connection(&mut self, id: SocketId) -> &mut Connection {
        match self.sockets.get_mut(&id) {
            Some(Socket::Connection(connection)) => connection,
            _ => panic!("{id:?} is no connection"),
        }
    }

    fn datagrams(&mut self, id: SocketId) -> &mut Datagrams {
        match self.sockets.get_mut(&id) {
            Some(Socket::Datagrams(socket)) => socket,
            _ => panic!("{id:?} takes no datagrams"),
        }
    }
}

impl nat::Host for Host {
    fn connect(&mut self, id: SocketId, to: SocketAddr) -> io::Result<()> {
        let outcome = match to.port() {
            81 => Some(Err(ECONNREFUSED)),
            82 => None,
            83 => return errno(ENETUNREACH),
            _ => Some(Ok(())),
        };
        self.open(id, Socket::Connection(Connection { outcome, ..Connection::default() }))?;
        if outcome.is_some() {
            self.events.push_back(readiness(id));
        }
        Ok(())
    }

    fn connect_target(&mut self, id: SocketId, target: &Target) -> io::Result<()> {
        match target {
            Target::Tcp(to) => self.connect(id, *to),
            _ => errno(ENOENT),
        }
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        match self.connection(id).outcome {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(code)) => errno(code),
        }
    }

    fn listen(&mut self, id: SocketId, at: SocketAddr) -> io::Result<SocketAddr> {
        self.open(id, Socket::Listener)?;
        Ok(at)
    }

    fn listen_at(&mut self, id: SocketId, _: &Path) -> io::Result<()> {
        self.open(id, Socket::Listener)
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> io::Result<SocketAddr> {
        assert!(matches!(self.sockets.get(&listener), Some(Socket::Listener)), "{listener:?} does not listen");
        let Some(&peer) = self.waiting.front() else { return blocked() };
        self.open(id, Socket::Connection(Connection { outcome: Some(Ok(())), ..Connection::default() }))?;
        self.waiting.pop_front();
        Ok(peer)
    }

    fn receive(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty());
        let connection = self.connection(id);
        if connection.broken {
            return errno(ECONNRESET);
        }
        if connection.inbound == 0 && !connection.ended {
            return blocked();
        }
        let len = buffer.len().min(connection.inbound);
        connection.inbound -= len;
        buffer[..len].fill(7);
        Ok(len)
    }

    fn send(&mut self, id: SocketId, data: &[u8]) -> io::Result<usize> {
        let connection = self.connection(id);
        assert!(!connection.finished, "{id:?} has ended");
        if connection.broken {
            return errno(EPIPE);
        }
        let len = data.len().min(connection.room.unwrap_or(usize::MAX));
        if len == 0 {
            return blocked();
        }
        connection.room = connection.room.map(|room| room - len);
        Ok(len)
    }

    fn finish(&mut self, id: SocketId) {
        let connection = self.connection(id);
        assert!(!connection.finished, "{id:?} ends twice");
        connection.finished = true;
    }

    fn datagram(&mut self, id: SocketId, how: Datagram) -> io::Result<SocketAddr> {
        if matches!(how, Datagram::Ping(_)) && self.forbids_ping {
            return errno(EACCES);
        }
        self.open(id, Socket::Datagrams(Datagrams::default()))?;
        Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5000)))
    }

    fn receive_from(&mut self, id: SocketId, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let socket = self.datagrams(id);
        if !socket.rejections.is_empty() {
            return errno(ECONNREFUSED);
        }
        let Some((bytes, from)) = socket.inbound.pop_front() else { return blocked() };
        let len = bytes.len().min(buffer.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok((len, from))
    }

    fn send_to(&mut self, id: SocketId, data: &[u8], to: SocketAddr, hops: Option<u8>) -> io::Result<()> {
        assert!(to.ip().is_loopback() || id.kind == Kind::Dns || hops.is_some_and(|hops| hops > 0));
        let socket = self.datagrams(id);
        if !socket.rejections.is_empty() {
            return errno(ECONNREFUSED);
        }
        if to.port() == 83 {
            return errno(ENETUNREACH);
        }
        if data.len() > if to.is_ipv4() { LONGEST_V4 } else { LONGEST_V6 } {
            return errno(EMSGSIZE);
        }
        socket.sent = data.to_vec();
        Ok(())
    }

    fn rejection(&mut self, id: SocketId) -> Option<Rejection> {
        match self.sockets.get_mut(&id) {
            Some(Socket::Datagrams(socket)) => socket.rejections.pop_front(),
            _ => None,
        }
    }

    fn close(&mut self, id: SocketId) {
        self.sockets.remove(&id);
    }

    fn reset(&mut self, id: SocketId) {
        self.sockets.remove(&id);
    }

    fn open_file(&mut self, file: u32, name: &[u8]) -> io::Result<u64> {
        assert!(!name.starts_with(b"/") && !name.split(|byte| *byte == b'/').any(|part| part == b".."));
        let len = match name {
            b"none" => 0,
            b"file" | b"broken" => 5000,
            b"long" => 1 << 40,
            _ => return errno(ENOENT),
        };
        if self.is_full {
            return errno(EMFILE);
        }
        self.files.insert(file, File { len, is_broken: name == b"broken" });
        Ok(len)
    }

    fn read_file(&mut self, file: u32, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.files.get(&file).expect("an open file");
        if file.is_broken && offset > 600 {
            return errno(EIO);
        }
        let left = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        // Text, as far as line ends matter.
        for (byte, place) in buffer[..len].iter_mut().zip(offset..) {
            *byte = [b'a', b'\n', b'\r', b'b'][place as usize % 4];
        }
        Ok(len)
    }

    fn close_file(&mut self, file: u32) {
        self.files.remove(&file);
    }

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        self.resolvers.clone()
    }
}
