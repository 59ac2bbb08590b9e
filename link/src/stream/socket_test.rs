//! Links over connections, against sockets made by hand and against each other.

use std::io::{Read, Write};
use std::net::TcpStream;

use mio::{Events, Poll};

use super::*;
use crate::{Fragment, FragmentMut, VnetHeader};

/// A link and its event loop.
struct Owner {
    link: StreamSocket,
    poll: Poll,
}

impl Owner {
    fn open(address: StreamAddress, role: Role) -> Self {
        let config = StreamConfig { name: "stream://test".to_owned(), address, role };
        let (mut link, poll) = (StreamSocket::open(config).unwrap(), Poll::new().unwrap());
        link.register(poll.registry(), Token(0)).unwrap();
        Self { link, poll }
    }

    /// Runs until something holds.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut StreamSocket) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut events = Events::with_capacity(8);
        while !holds(&mut self.link) {
            assert!(Instant::now() < end, "{what}");
            self.poll.poll(&mut events, Some(Duration::from_millis(10))).unwrap();
            self.link.service(Instant::now()).unwrap();
        }
    }

    fn until_state(&mut self, state: LinkState) {
        self.until("the state", |link| {
            let _ = receive(link);
            link.state() == state
        });
    }
}

fn send(link: &mut StreamSocket, frame: &[u8]) {
    let mut batch = TxBatch::new();
    batch.push(VnetHeader::WHOLE, [Fragment::new(frame)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

fn receive(link: &mut StreamSocket) -> Option<Vec<u8>> {
    let mut buffer = [0; 100];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut buffer)]);
    link.receive(&mut batch).unwrap();
    let len = batch.frames().next()?.1;
    Some(buffer[..len].to_vec())
}

fn any_port() -> StreamAddress {
    StreamAddress::Inet("127.0.0.1:0".to_owned())
}

#[test]
fn a_listener_has_one_client_after_another() {
    let mut owner = Owner::open(any_port(), Role::Listen);
    let address = owner.link.local_address().unwrap();
    for round in 0..2 {
        assert_eq!(owner.link.state(), LinkState::Down);
        send(&mut owner.link, &[0; 60]);
        assert_eq!(owner.link.counters().drops.get(DropReason::LinkDown), round + 1);
        let mut client = TcpStream::connect(address).unwrap();
        owner.until_state(LinkState::Up);
        client.write_all(&[&[0, 0, 0, 60][..], &[round as u8; 60]].concat()).unwrap();
        owner.until("a frame", |link| receive(link).is_some_and(|frame| frame == [round as u8; 60]));
        send(&mut owner.link, &[5; 60]);
        let mut bytes = [0; 64];
        client.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes[..5], [0, 0, 0, 60, 5]);
        drop(client);
        owner.until_state(LinkState::Down);
    }
    assert_eq!((owner.link.counters().rx_frames, owner.link.counters().tx_frames), (2, 2));
}

#[test]
fn a_client_that_was_told_to_comes_back() {
    let dir = std::env::temp_dir().join(format!("stream-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let address = StreamAddress::Unix(dir.join("sock"));
    let mut client = Owner::open(address.clone(), Role::Connect(Some(Duration::from_millis(20))));
    for _ in 0..2 {
        client.link.service(Instant::now()).unwrap();
        assert_eq!(client.link.state(), LinkState::Down);
        let mut listener = Owner::open(address.clone(), Role::Listen);
        client.until_state(LinkState::Up);
        listener.until_state(LinkState::Up);
        send(&mut client.link, &[9; 60]);
        listener.until("a frame", |link| receive(link).is_some());
        drop(listener);
        client.until_state(LinkState::Down);
    }
    assert!(!dir.join("sock").exists());
    std::fs::remove_dir(&dir).unwrap();
}

#[test]
fn a_client_that_was_not_told_to_ends_with_the_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = StreamAddress::Inet(listener.local_addr().unwrap().to_string());
    let mut client = Owner::open(address.clone(), Role::Connect(None));
    client.until_state(LinkState::Up);
    drop(listener.accept().unwrap());
    let end = Instant::now() + PATIENCE;
    let error = loop {
        assert_eq!(receive(&mut client.link), None);
        if let Err(error) = client.link.service(Instant::now()) {
            break error;
        }
        assert!(Instant::now() < end);
    };
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    drop(listener);
    let mut late = Owner::open(address, Role::Connect(None));
    let end = Instant::now() + PATIENCE;
    while late.link.service(Instant::now()).is_ok() {
        assert!(Instant::now() < end);
    }
}

#[test]
fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
    let dir = std::env::temp_dir().join(format!("stream-stale-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let owner = Owner::open(StreamAddress::Unix(path.clone()), Role::Listen);
    let config = StreamConfig { name: "listen://x".to_owned(), address: StreamAddress::Unix(path), role: Role::Listen };
    let error = StreamSocket::open(config).map(drop).unwrap_err().to_string();
    assert_eq!(error, "listen://x: cannot listen: Address already in use");
    drop(owner);
    std::fs::remove_dir(&dir).unwrap();
}
