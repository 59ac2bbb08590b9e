//! `slirp` with thousands of flows, without descriptors, with name servers that come and go, and without a network: the
//! rest goes on, nothing is left behind, and who has nothing to do sleeps.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use netlab::process::{Process, program};
use netlab::world::{Host, PATIENCE, command, lab, run, wait_until};
use serde_json::Value;

const SERVER: &str = "192.0.2.1:5000";

/// A lab's host with an address outside, and a namespace that slirp serves.
fn world(options: &str) -> (Host, Process) {
    run("ip addr add 192.0.2.1/32 dev lo");
    let inner = Host::new("inner");
    let slirp = start(options);
    (inner, slirp)
}

fn start(options: &str) -> Process {
    let options = format!("--ready-fd 1 --exit-fd 0 --api-socket /run/api {options} --netns /run/netns/inner");
    let mut slirp = Process::start(&format!("{} {options}", program("slirp").display()));
    slirp.wait_for("1");
    slirp
}

/// Open descriptors of a process.
fn descriptors(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

/// How often a process has gone to sleep.
fn sleeps(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

/// Waits for 2 seconds in which a process does not wake up.
fn sleeps_soundly(process: &Process) {
    wait_until("two seconds without a wakeup", PATIENCE, || {
        let before = sleeps(process);
        sleep(Duration::from_secs(2));
        sleeps(process) == before
    });
}

/// What slirp tells of itself.
fn status() -> Value {
    let output = command(&format!("{} --status /run/api --json", program("slirp").display())).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn flows(protocol: &str) -> usize {
    status()["flows"].as_array().unwrap().iter().filter(|flow| flow["proto"] == protocol).count()
}

/// Takes connections, for good, and sends back what comes by each of them in turn.
fn serve_tcp() -> JoinHandle<()> {
    let listener = TcpListener::bind(SERVER).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(len @ 1..) = stream.read(&mut buffer) {
                        stream.write_all(&buffer[..len]).unwrap();
                    }
                })
                .unwrap();
        }
    })
}

/// Sends datagrams back, for good.
fn serve_udp() {
    let socket = UdpSocket::bind(SERVER).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
}

/// Sends by a connection and expects it back.
fn is_alive(stream: &mut TcpStream) {
    stream.write_all(b"hello").unwrap();
    let mut came = [0; 5];
    stream.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"hello");
}

fn connect(limit: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SERVER.parse().unwrap(), limit)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A socket by which one datagram has been there and back.
fn talk() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    // A datagram may be lost where thousands are under way.
    let answered = (0..20).any(|_| {
        socket.send_to(b"hello", SERVER).unwrap();
        socket.recv_from(&mut [0; 10]).is_ok()
    });
    assert!(answered);
    socket
}

#[test]
fn thousands_of_flows_live_at_once_and_leave_nothing() {
    const FLOWS: usize = 2000;
    lab(|| {
        let (inner, slirp) = world("");
        let _server = serve_tcp();
        serve_udp();
        let before = descriptors(&slirp);
        let (tell, opened) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let guest = inner.spawn(move || {
            let mut streams: Vec<_> = (0..FLOWS).map(|_| connect(PATIENCE).unwrap()).collect();
            let sockets: Vec<_> = (0..FLOWS).map(|_| talk()).collect();
            streams.iter_mut().for_each(is_alive);
            tell.send(()).unwrap();
            ended.recv().unwrap();
            streams.iter_mut().for_each(is_alive);
            drop(sockets);
        });
        opened.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(descriptors(&slirp) >= before + 2 * FLOWS);
        assert_eq!((flows("tcp"), flows("udp")), (FLOWS, FLOWS));
        sleeps_soundly(&slirp);
        end.send(()).unwrap();
        guest.join().unwrap();
        // Mappings for datagrams last for minutes.
        wait_until("no connection is left", PATIENCE, || descriptors(&slirp) == before + FLOWS);
        assert_eq!((flows("tcp"), flows("udp")), (0, FLOWS));
        assert!(!status()["drops"].as_object().unwrap().contains_key("limit"), "{}", status());
    });
}

#[test]
fn without_descriptors_what_is_new_is_dropped_and_the_rest_goes_on() {
    lab(|| {
        run("ip addr add 192.0.2.1/32 dev lo");
        let inner = Host::new("inner");
        let options = "--ready-fd 1 --exit-fd 0 --api-socket /run/api --netns /run/netns/inner";
        let line = format!("prlimit --nofile=60:60 {} {options}", program("slirp").display());
        let mut slirp = Process::start(&line);
        slirp.wait_for("1");
        let _server = serve_tcp();
        serve_udp();
        let before = descriptors(&slirp);
        let guest = inner.spawn(|| {
            let mut streams = Vec::new();
            let refused = loop {
                match connect(Duration::from_secs(2)) {
                    Ok(stream) => streams.push(stream),
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), ErrorKind::TimedOut);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"x", SERVER).unwrap();
            streams.iter_mut().for_each(is_alive);
            assert!(streams.len() > 20, "{}", streams.len());
            // One that ends makes room for one that begins.
            streams.pop();
            let mut another = connect(PATIENCE).unwrap();
            is_alive(&mut another);
        });
        guest.join().unwrap();
        wait_until("no connection is left", PATIENCE, || descriptors(&slirp) == before);
        assert!(status()["drops"]["limit"].as_u64().unwrap() >= 2, "{}", status());
        let said = slirp.said();
        assert_eq!(said.matches("descriptors are used up").count(), 1, "{said}");
    });
}

#[test]
fn a_guest_that_is_killed_leaves_nothing() {
    lab(|| {
        let (inner, slirp) = world("");
        let _server = serve_tcp();
        let before = descriptors(&slirp);
        let mut clients: Vec<_> = (0..5).map(|_| Process::start(&inner.line("busybox nc 192.0.2.1 5000"))).collect();
        for client in &mut clients {
            client.tell(b"hello\n");
            client.wait_for("hello");
        }
        assert_eq!(flows("tcp"), 5);
        for client in &mut clients {
            client.signal(libc::SIGKILL);
            client.wait(PATIENCE);
        }
        wait_until("its connections are gone", PATIENCE, || descriptors(&slirp) == before);
        assert_eq!(flows("tcp"), 0);
    });
}

/// Answers every question at an address on port 53 with itself and one more byte, which tells who it was.
fn serve_dns(address: &str, mark: u8) -> mpsc::Sender<()> {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 600];
        // Until its other end is dropped.
        while ended.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
            let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
            buffer[2] |= 0x80;
            buffer[len] = mark;
            socket.send_to(&buffer[..=len], from).unwrap();
        }
    });
    end
}

/// Asks the NAT's name server from a namespace; returns the mark of who answered, or none if that was the relay itself.
fn ask(host: &Host) -> Option<u8> {
    let question = *b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
    let asking = host.spawn(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect("10.0.2.3:53").unwrap();
        socket.send(&question).unwrap();
        let mut answer = [0; 600];
        let len = socket.recv(&mut answer).unwrap();
        assert_eq!(answer[..2], question[..2]);
        (len > question.len()).then(|| answer[question.len()])
    });
    asking.join().unwrap()
}

#[test]
fn questions_go_where_resolv_conf_says_at_that_moment() {
    lab(|| {
        fs::create_dir("/run/etc").unwrap();
        fs::write("/run/etc/resolv.conf", "nameserver 127.0.0.53\n").unwrap();
        run("mount --bind /run/etc /etc");
        // A stub such as systemd-resolved's, which the namespace could not reach of its own.
        let (inner, slirp) = world("");
        let _stub = serve_dns("127.0.0.53", 53);
        let first = serve_dns("127.0.0.1", 1);
        let _second = serve_dns("127.0.0.2", 2);
        assert_eq!(ask(&inner), Some(53));
        // Changed in place.
        fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\nnameserver 127.0.0.2\n").unwrap();
        assert_eq!(ask(&inner), Some(1));
        drop(first);
        wait_until("the second answers where the first is dead", PATIENCE, || ask(&inner) == Some(2));
        fs::write("/etc/resolv.conf", "").unwrap();
        assert_eq!(ask(&inner), None);
        let before = descriptors(&slirp);
        // Replaced.
        fs::write("/etc/another", "nameserver 127.0.0.53\n").unwrap();
        fs::rename("/etc/another", "/etc/resolv.conf").unwrap();
        assert_eq!(ask(&inner), Some(53));
        assert_eq!(descriptors(&slirp), before);
    });
}

#[test]
fn the_hosts_network_may_go_and_come_back() {
    lab(|| {
        let far = Host::new("far");
        run("ip link add up0 type veth peer name far0 netns far");
        Host::HERE.set_address("up0", "198.51.100.2/24");
        far.set_address("far0", "198.51.100.1/24");
        let serve = |address: &'static str| {
            let (tell, listens) = mpsc::channel();
            far.spawn(move || {
                let listener = TcpListener::bind(address).unwrap();
                tell.send(()).unwrap();
                for mut stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut reader = stream.try_clone().unwrap();
                        std::io::copy(&mut reader, &mut stream)
                    });
                }
            });
            listens.recv_timeout(PATIENCE).unwrap();
        };
        serve("198.51.100.1:5000");
        let (inner, slirp) = world("");
        let to: SocketAddr = "198.51.100.1:5000".parse().unwrap();
        let connect = move || TcpStream::connect_timeout(&to, PATIENCE);
        let mut stream = inner.spawn(connect).join().unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        is_alive(&mut stream);

        run("ip link set up0 down");
        // What is under way waits in the host's socket, and nobody turns in circles meanwhile.
        stream.write_all(b"hello").unwrap();
        sleeps_soundly(&slirp);
        let begun = Instant::now();
        let error = inner.spawn(connect).join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
        assert!(begun.elapsed() < PATIENCE);
        inner.spawn(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "198.51.100.1:7").unwrap()).join().unwrap();
        sleeps_soundly(&slirp);

        run("ip link set up0 up");
        let mut came = [0; 5];
        stream.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"hello");
        is_alive(&mut stream);
        wait_until("new connections are made again", PATIENCE, || inner.spawn(connect).join().unwrap().is_ok());
    });
}
