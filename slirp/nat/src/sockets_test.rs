//! The core with real sockets on 127.0.0.1 and ::1, reached by the guest through the gateway's addresses.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use link::Offloads;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::config::{Config, Entrance, Forward};
use crate::nat::Nat;
use crate::sockets::Sockets;
use crate::testing::*;

type RealLab = Lab<Sockets>;

fn lab(config: Config) -> RealLab {
    Lab::with(config, Sockets::new().unwrap())
}

impl RealLab {
    /// Runs in real time until something has come about.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut ready = Vec::new();
        while !done(self) {
            assert!(Instant::now() < deadline, "{what} never comes about");
            self.nat.host_mut().wait(Some(Duration::from_millis(1)), &mut ready).unwrap();
            self.now = Instant::now();
            for readiness in ready.drain(..) {
                self.nat.ready(self.now, readiness);
            }
            self.nat.expire(self.now);
            self.step();
        }
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        self.connect_to((GATEWAY, port))
    }

    fn connect_to(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        let handle = self.guest.connect(to);
        self.until("an answer to the SYN", |lab| lab.guest.tcp(handle).state() != State::SynSent);
        handle
    }

    /// Sends so many bytes and the end, and expects both back.
    fn is_echoed(&mut self, handle: SocketHandle, len: u32) {
        let data: Vec<u8> = (0..len).map(|i| ((i * 7) >> 3) as u8).collect();
        let (mut given, mut got) = (0, Vec::new());
        self.until("the echo", |lab| {
            let socket = lab.guest.tcp(handle);
            if given < data.len() && socket.can_send() {
                given += socket.send_slice(&data[given..]).unwrap();
            } else if given == data.len() {
                socket.close();
            }
            while socket.can_recv() {
                got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
            }
            !lab.guest.tcp(handle).may_recv()
        });
        assert!(got == data);
    }

    fn sockets(&mut self) -> usize {
        self.nat.host_mut().len()
    }
}

/// A server on 127.0.0.1 that hands each connection to `serve`, in a thread.
fn server(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    server_at("127.0.0.1:0", serve)
}

fn server_at(address: &str, serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 65536];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
}

/// The gateway's addresses, and those of the host's loopback that they lead to.
const WAYS: [(IpAddr, &str); 2] = [(IpAddr::V4(GATEWAY), "127.0.0.1:0"), (IpAddr::V6(GATEWAY6), "[::1]:0")];

#[test]
fn a_server_echoes_everything_and_the_end_of_it() {
    for ((gateway, address), offloads) in
        WAYS.into_iter().flat_map(|way| [Offloads::NONE, Offloads::ALL].map(|offloads| (way, offloads)))
    {
        let port = server_at(address, echo);
        let mut lab = lab(Config::default());
        lab.guest = Guest::new(offloads == Offloads::NONE);
        lab.nat.accept(offloads);
        let handle = lab.connect_to((gateway, port));
        lab.is_echoed(handle, 4_000_000);
        lab.until("the end", |lab| lab.sockets() == 0);
        assert_eq!(lab.nat.flows().0, 0);
    }
}

#[test]
fn a_closed_port_refuses() {
    for (gateway, address) in WAYS {
        let mut lab = lab(Config::default());
        let port = TcpListener::bind(address).unwrap().local_addr().unwrap().port();
        let handle = lab.connect_to((gateway, port));
        assert_eq!(lab.guest.tcp(handle).state(), State::Closed);
        assert_eq!((lab.nat.flows().0, lab.sockets()), (0, 0));
    }
}

#[test]
fn a_server_that_closes_first_loses_no_byte() {
    let port = server(|mut stream| drop(stream.write_all(&[9; 300_000])));
    let mut lab = lab(Config::default());
    let handle = lab.connect(port);
    let mut got = 0;
    lab.until("the end", |lab| {
        let socket = lab.guest.tcp(handle);
        while socket.can_recv() {
            got += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        !socket.may_recv()
    });
    assert_eq!(got, 300_000);
    lab.guest.tcp(handle).close();
    lab.until("the end", |lab| lab.sockets() == 0);
}

#[test]
fn a_servers_reset_resets_the_guest() {
    let port = server(|stream| {
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    });
    let mut lab = lab(Config::default());
    let handle = lab.connect(port);
    lab.until("the reset", |lab| lab.guest.tcp(handle).state() == State::Closed);
    assert_eq!((lab.nat.flows().0, lab.sockets()), (0, 0));
}

#[test]
fn a_thousand_connections_leave_no_socket() {
    let port = server(echo);
    let mut lab = lab(Config::default());
    for round in 0..1000 {
        let handle = lab.connect(port);
        lab.guest.tcp(handle).send_slice(b"x").unwrap();
        lab.until("the echo", |lab| lab.guest.tcp(handle).can_recv());
        match round % 3 {
            0 => lab.guest.tcp(handle).abort(),
            _ => lab.guest.tcp(handle).close(),
        }
        lab.step();
        lab.until("the end", |lab| !lab.guest.tcp(handle).is_active());
        lab.guest.sockets.remove(handle);
    }
    lab.until("the end", |lab| lab.sockets() == 0);
    assert_eq!(lab.nat.flows(), (0, 0));
}

#[test]
fn datagrams_are_echoed_and_refusals_are_told() {
    for (gateway, address) in WAYS {
        let socket = UdpSocket::bind(address).unwrap();
        let to = SocketAddr::new(gateway, socket.local_addr().unwrap().port());
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                socket.send_to(&buffer[..len], from).unwrap();
            }
        });
        let mut lab = lab(Config::default());
        for payload in [&b""[..], b"hello", &[7; 1452]] {
            lab.guest.send(datagram(4000, to, payload));
            lab.until("the echo", |lab| !lab.guest.others.is_empty());
            let (protocol, from, _, udp) = parse_any(&lab.guest.others.pop_front().unwrap());
            assert_eq!((protocol, from, &udp[8..]), (17, gateway, payload));
        }
        let closed = UdpSocket::bind(address).unwrap().local_addr().unwrap().port();
        lab.guest.send(datagram(4000, SocketAddr::new(gateway, closed), b"x"));
        lab.until("the refusal", |lab| !lab.guest.others.is_empty());
        let (protocol, from, _, message) = parse_any(&lab.guest.others[0]);
        let refusal = if gateway.is_ipv4() { (1, 3, 3) } else { (58, 1, 4) };
        assert_eq!((from, (protocol, message[0], message[1])), (gateway, refusal));
        // It quotes the datagram: ports, and the one byte.
        let quoted = etherparse::PacketHeaders::from_ip_slice(&message[8..]).unwrap();
        let udp = quoted.transport.unwrap().udp().unwrap();
        assert_eq!((udp.source_port, udp.destination_port, message.last()), (4000, closed, Some(&b'x')));
        assert_eq!(lab.sockets(), 1);
    }
}

#[test]
fn forwarding_rules_lead_into_the_guest() {
    for (host, guest) in
        [("127.0.0.1:0", ""), ("[::1]:0", ""), ("127.0.0.1:0", "[fec0::15]"), ("[::1]:0", "[fec0::15]")]
    {
        // Port 0 is for tests: the grammar does not have it.
        let rules = ["tcp", "udp"].map(|protocol| format!("{protocol}::1-{guest}:22").parse::<Forward>().unwrap());
        let forwards = rules.map(|rule| Forward { host: Entrance::Port(host.parse().unwrap()), ..rule }).into();
        let mut lab = lab(Config { forwards, ..Config::default() });
        let addresses: Vec<_> = lab.nat.forwards().into_iter().map(|rule| entrance(&rule.host)).collect();
        let gateway: IpAddr = if guest.is_empty() { GATEWAY.into() } else { GATEWAY6.into() };

        let handle = lab.guest.listen(22);
        let mut client = TcpStream::connect(addresses[0]).unwrap();
        client.write_all(b"hello").unwrap();
        lab.until("the bytes", |lab| lab.guest.tcp(handle).can_recv());
        let bytes = lab.guest.tcp(handle).recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap();
        assert_eq!(bytes, b"hello");
        assert_eq!(lab.guest.tcp(handle).remote_endpoint().unwrap().addr, gateway.into());
        lab.guest.tcp(handle).send_slice(b"bye").unwrap();
        lab.guest.tcp(handle).close();
        lab.step();
        let mut answer = String::new();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "bye");
        drop(client);
        lab.until("the end", |lab| lab.nat.flows().0 == 0);

        let client = UdpSocket::bind(host).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send_to(b"question", addresses[1]).unwrap();
        lab.until("the datagram", |lab| !lab.guest.others.is_empty());
        let (_, from, _, udp) = parse_any(&lab.guest.others.pop_front().unwrap());
        assert_eq!((from, &udp[8..]), (gateway, &b"question"[..]));
        let port = u16::from_be_bytes([udp[0], udp[1]]);
        lab.guest.send(datagram(22, SocketAddr::new(from, port), b"answer"));
        lab.step();
        let mut buffer = [0; 100];
        let (len, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"answer"[..], addresses[1]));
    }
}

fn entrance(host: &Entrance) -> SocketAddr {
    match host {
        Entrance::Port(address) => *address,
        Entrance::Path(path) => panic!("{}", path.display()),
    }
}

#[test]
fn every_address_of_both_families_may_have_one_port() {
    let rule = |text: &str| text.parse::<Forward>().unwrap();
    let mut nat = Nat::new(Config::default(), Sockets::new().unwrap(), 1, Instant::now()).unwrap();
    for protocol in ["tcp", "udp"] {
        let mut first = rule(&format!("{protocol}::1-:22"));
        first.host = Entrance::Port("0.0.0.0:0".parse().unwrap());
        nat.add_forward(first).unwrap();
        let port = entrance(&nat.forwards().last().unwrap().host).port();
        nat.add_forward(rule(&format!("{protocol}:[::]:{port}-[fec0::15]:22"))).unwrap();
        let shown = nat.forwards().last().unwrap().clone();
        let expected = (format!("[::]:{port}"), "[fec0::15]:22".to_owned());
        assert_eq!((shown.host.to_string(), shown.guest.to_string()), expected);
    }
}

#[test]
fn a_rule_whose_port_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = format!("tcp:127.0.0.1:{}-:22", taken.local_addr().unwrap().port());
    let config = Config { forwards: vec![rule.parse().unwrap()], ..Config::default() };
    let Err(error) = Nat::new(config, Sockets::new().unwrap(), 1, Instant::now()) else { panic!("taken twice") };
    let text = error.to_string();
    assert!(text.starts_with(&format!("hostfwd={rule}: cannot listen on 127.0.0.1:")), "{text}");
    assert!(text.contains("in use"), "{text}");
}

#[test]
fn questions_follow_the_hosts_resolv_conf() {
    // Servers listen on port 53 only, so this one's address is all that can be told: it refuses, and so does the relay.
    let path = std::env::temp_dir().join(format!("slirp-dns-{}", std::process::id()));
    std::fs::write(&path, "nameserver 127.0.0.99\n").unwrap();
    let sockets = Sockets::new().unwrap().with_resolv_conf(&path);
    let mut lab: RealLab = Lab::with(Config::default(), sockets);
    let question = [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", &b"\x01a\0\0\x01\0\x01"[..]].concat();
    lab.guest.send(datagram(4000, SocketAddrV4::new(DNS, 53), &question));
    lab.until("SERVFAIL", |lab| !lab.guest.others.is_empty());
    let (_, from, _, udp) = parse(&lab.guest.others[0]);
    assert_eq!((from, udp[11] & 15), (DNS, 2));
    assert_eq!(lab.sockets(), 0);
    std::fs::remove_file(path).unwrap();
}

/// A guest with a connection to a command, which has told its process number in its first line.
fn command(line: &str) -> (RealLab, SocketHandle, String) {
    let rule = format!("::7-cmd:echo $$; {line}").parse().unwrap();
    let mut lab = lab(Config { guest_forwards: vec![rule], ..Config::default() });
    let handle = lab.connect_to("10.0.2.4:7".parse::<SocketAddr>().unwrap());
    let mut said = Vec::new();
    lab.until("a line", |lab| {
        let socket = lab.guest.tcp(handle);
        if socket.can_recv() {
            said.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
        }
        said.ends_with(b"\n")
    });
    (lab, handle, String::from_utf8(said).unwrap().trim().to_owned())
}

/// Whether a process is there, be it as a zombie.
fn exists(process: &str) -> bool {
    std::fs::exists(format!("/proc/{process}")).unwrap()
}

#[test]
fn a_command_echoes_and_ends_with_its_input() {
    let (mut lab, handle, process) = command("exec cat");
    assert!(exists(&process));
    lab.is_echoed(handle, 1_000_000);
    lab.until("the end", |lab| lab.sockets() == 0 && !exists(&process));
}

#[test]
fn a_command_ends_the_connection_and_is_no_zombie() {
    let (mut lab, handle, process) = command("exit 3");
    lab.until("the end of the process", |_| !exists(&process));
    lab.until("the end", |lab| !lab.guest.tcp(handle).may_recv());
    lab.guest.tcp(handle).close();
    lab.until("the last socket's end", |lab| lab.sockets() == 0);
}

#[test]
fn a_command_and_its_children_end_with_a_reset_connection() {
    let (mut lab, handle, process) = command("sleep 1000; true");
    assert!(exists(&process));
    lab.guest.tcp(handle).abort();
    lab.until("the end", |lab| lab.sockets() == 0 && !exists(&process));
}

#[test]
fn commands_end_with_the_nat() {
    let (lab, _, process) = command("sleep 1000; true");
    drop(lab);
    assert!(!exists(&process));
    // One that does not want to.
    let (lab, _, process) = command("trap '' TERM; sleep 1000; true");
    drop(lab);
    assert!(!exists(&process));
}

#[test]
fn guest_forwarding_leads_to_addresses_and_refusals_are_told() {
    let tcp = server(echo);
    let path = std::env::temp_dir().join(format!("nat-guestfwd-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"unix"))));
    let rules = [format!("::1-tcp:127.0.0.1:{tcp}"), format!("::2-unix:{}", path.display()), "::3-unix:/no".to_owned()];
    let guest_forwards = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let mut lab = lab(Config { guest_forwards, restrict: true, ..Config::default() });
    for (port, wanted) in [(1, &b"echo"[..]), (2, b"unix")] {
        let handle = lab.connect_to(SocketAddrV4::new([10, 0, 2, 4].into(), port));
        lab.guest.tcp(handle).send_slice(b"echo").unwrap();
        let mut got = Vec::new();
        lab.until("an answer", |lab| {
            let socket = lab.guest.tcp(handle);
            if socket.can_recv() {
                got.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
            }
            got == wanted
        });
    }
    let handle = lab.connect_to(SocketAddrV4::new([10, 0, 2, 4].into(), 3));
    assert_eq!(lab.guest.tcp(handle).state(), State::Closed);
    std::fs::remove_file(path).unwrap();
}
