//! `plug --confine` with the user-mode NAT.
//!
//! The NAT runs in a namespace that has no way out but one to the host `remote`, 10.9.0.2, which answers also at 10.9.0.3.
//! The guest is behind the TAP, 10.0.2.15.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use netlab::confined::{is_confined, names_in_root};
use netlab::process::Process;
use netlab::world::{Host, PATIENCE, Transfer, lab, run};

use super::{UNPRIVILEGED, has_users, open_tuntap, start};

/// Connections that are open at once.
const MANY: usize = 1000;

#[test]
fn a_confined_nat_carries_everything_as_root() {
    lab(|| carries_everything("", ""));
}

#[test]
fn a_confined_nat_carries_everything_as_an_unprivileged_user() {
    lab(|| {
        if has_users() {
            open_tuntap();
            carries_everything(UNPRIVILEGED, "user 65534");
        }
    });
}

#[test]
fn a_resolv_conf_that_is_no_link_is_followed_too() {
    lab(|| {
        let etc = Etc::new();
        fs::write("/etc/resolv.conf", "nameserver 10.9.0.2\n").unwrap();
        let world = World::new("");
        let plug = world.plug("");
        assert_eq!(names_in_root(plug.pid(), "/"), ["etc"]);
        assert_eq!(world.resolve(), Some(Ipv4Addr::new(10, 9, 0, 2)));
        etc.replace("/etc/resolv.conf", "nameserver 10.9.0.3\n");
        assert_eq!(world.resolve(), Some(Ipv4Addr::new(10, 9, 0, 3)));
    });
}

fn carries_everything(wrapper: &str, owner: &str) {
    let etc = Etc::new();
    // As systemd-resolved has it.
    fs::create_dir("/run/resolve").unwrap();
    fs::write("/run/resolve/resolv.conf", "nameserver 10.9.0.2\n").unwrap();
    symlink("../run/resolve/resolv.conf", "/etc/resolv.conf").unwrap();
    let world = World::new(owner);
    let mut plug = world.plug(wrapper);
    let pid = plug.pid();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = descriptors();

    is_confined(pid);
    assert_eq!(names_in_root(pid, "/"), ["etc", "run"]);
    assert_eq!(names_in_root(pid, "/etc"), ["resolv.conf"]);
    assert_eq!(names_in_root(pid, "/run"), ["resolve"]);

    world.guest.ping("-c 2", "10.0.2.2");
    world.guest.ping("-c 2", "10.9.0.2");
    let bytes = 64 << 20;
    assert_eq!(Transfer::start(&world.guest, &world.remote, "10.9.0.2:5000", bytes).finish(), bytes);
    assert_eq!(world.ask_udp("10.9.0.2:7"), b"ping");
    assert_eq!(world.resolve(), Some(Ipv4Addr::new(10, 9, 0, 2)));
    etc.replace("/run/resolve/resolv.conf", "nameserver 10.9.0.3\n");
    assert_eq!(world.resolve(), Some(Ipv4Addr::new(10, 9, 0, 3)));
    world.forwards("127.0.0.1:2222", "10.0.2.15:22");
    world.opens_many("10.9.0.2:5001");
    // A refusal crosses as one: nothing listens there.
    let refused = world.guest.spawn(|| TcpStream::connect_timeout(&address("10.9.0.2:9"), PATIENCE).map(drop));
    assert_eq!(refused.join().unwrap().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    plug.wait_until("connections leave no descriptors", || descriptors() < before + 16);

    plug.signal(libc::SIGTERM);
    assert_eq!(plug.wait(PATIENCE).code(), Some(0), "{}", plug.said());
    assert!(!plug.said().contains("error"), "{}", plug.said());
}

/// An `/etc` of the lab's own, without a `resolv.conf`.
struct Etc;

impl Etc {
    fn new() -> Self {
        fs::create_dir("/run/etc").unwrap();
        for file in ["passwd", "group", "hosts", "nsswitch.conf", "ld.so.cache"] {
            fs::copy(format!("/etc/{file}"), format!("/run/etc/{file}")).unwrap();
        }
        run("mount --bind /run/etc /etc");
        Self
    }

    /// Puts another file in a file's place.
    fn replace(&self, path: &str, text: &str) {
        let new = format!("{path}.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    }
}

struct World {
    remote: Host,
    guest: Host,
}

impl World {
    /// The hosts; `owner` says who may use the TAP, as `ip tuntap` has it.
    fn new(owner: &str) -> Self {
        run("ip link add out type veth peer name in");
        let remote = Host::with("remote", "in", "10.9.0.2/24");
        remote.run("ip addr add 10.9.0.3/24 dev in");
        Host::HERE.set_address("out", "10.9.0.1/24");
        let groups = if has_users() { "0 2147483647" } else { "0 0" };
        fs::write("/proc/sys/net/ipv4/ping_group_range", groups).unwrap();
        run(&format!("ip tuntap add dev tap0 mode tap {owner}"));
        run("ip link set tap0 up");
        for server in ["10.9.0.2", "10.9.0.3"] {
            serve(&remote, &format!("{server}:53"), answer_query);
        }
        serve(&remote, "10.9.0.2:7", |_, datagram| datagram.to_vec());
        Self { remote, guest: Host::new("guest") }
    }

    /// Starts the NAT, and gives the guest the other side of the TAP.
    fn plug(&self, wrapper: &str) -> Process {
        let plug = start(wrapper, "tap://tap0 user://?hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22");
        run("ip link set tap0 netns guest");
        self.guest.set_address("tap0", "10.0.2.15/24");
        self.guest.run("ip route add default via 10.0.2.2");
        plug
    }

    /// What a server answers to the guest.
    fn ask_udp(&self, server: &'static str) -> Vec<u8> {
        self.guest.spawn(move || ask(server, b"ping")).join().unwrap()
    }

    /// The address that the name server says: it is its own.
    fn resolve(&self) -> Option<Ipv4Addr> {
        let query = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x04name\x04test\0\0\x01\0\x01".as_slice()].concat();
        let answer = self.guest.spawn(move || ask("10.0.2.3:53", &query)).join().unwrap();
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(answer.get(answer.len() - 4..)?).ok()?))
    }

    /// A connection to a port of the host reaches one of the guest, and is answered.
    fn forwards(&self, host: &'static str, guest: &'static str) {
        let (listens, server) = echo(&self.guest, guest, 1);
        listens.recv_timeout(PATIENCE).unwrap();
        let mut stream = connect(host);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        server.join().unwrap();
    }

    /// Many connections are open at once, and each is answered.
    fn opens_many(&self, server: &'static str) {
        let (listens, echoes) = echo(&self.remote, server, MANY);
        listens.recv_timeout(PATIENCE).unwrap();
        let clients = self.guest.spawn(move || {
            let mut streams: Vec<_> = (0..MANY).map(|_| connect(server)).collect();
            streams.iter_mut().for_each(|stream| stream.write_all(b"x").unwrap());
            streams.iter_mut().for_each(|stream| stream.read_exact(&mut [0]).unwrap());
        });
        clients.join().unwrap();
        echoes.join().unwrap();
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn connect(to: &str) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address(to), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Takes so many connections, and only then sends back a byte on each.
fn echo(host: &Host, at: &'static str, connections: usize) -> (Receiver<()>, JoinHandle<()>) {
    let (tell, listens) = channel();
    let server = host.spawn(move || {
        let listener = TcpListener::bind(at).unwrap();
        tell.send(()).unwrap();
        let mut streams: Vec<_> = (0..connections).map(|_| listener.accept().unwrap().0).collect();
        for stream in &mut streams {
            let mut byte = [0];
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        }
    });
    (listens, server)
}

/// Sends a datagram and returns its answer; repeats it, as nothing else would.
fn ask(server: &str, datagram: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE / 20)).unwrap();
    let mut answer = [0; 1500];
    for _ in 0..20 {
        socket.send(datagram).unwrap();
        if let Ok(len) = socket.recv(&mut answer) {
            return answer[..len].to_vec();
        }
    }
    panic!("{server} does not answer");
}

/// Answers datagrams until the lab ends.
fn serve(host: &Host, at: &str, answer: fn(Ipv4Addr, &[u8]) -> Vec<u8>) {
    let at = address(at);
    let (tell, is_bound) = channel();
    host.spawn(move || {
        let socket = UdpSocket::bind(at).unwrap();
        tell.send(()).unwrap();
        let SocketAddr::V4(own) = at else { panic!("{at}") };
        let mut datagram = [0; 1500];
        while let Ok((len, from)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&answer(*own.ip(), &datagram[..len]), from);
        }
    });
    is_bound.recv_timeout(PATIENCE).unwrap();
}

/// A name server to which every name is its own address (RFC 1035 §4.1).
fn answer_query(own: Ipv4Addr, query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    // A response, recursion available, one answer.
    answer[2] |= 0x80;
    answer[3] |= 0x80;
    answer[7] = 1;
    // The name of the question, A, IN, a minute, four bytes.
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(own.octets());
    answer
}
