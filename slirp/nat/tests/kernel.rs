//! The NAT between the kernel's own IP on both sides: a guest behind a TAP, and a server behind a router.
//!
//! ```text
//! guest ── tap0 ── NAT, out ── in, router, far ── near, server
//! ```
//!
//! A lab per test (`netlab`); what the guest has of IPv6 it has from router advertisements.

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Instant;

use link::{Fragment, FragmentMut, Link, MAX_FRAME_LEN, RxBatch, Tap, TxBatch};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nat::{Config, Nat, OFFLOADS, Sockets};
use netlab::routed::{self, Routed};
use netlab::world::{Host, PATIENCE, Transfer, command, lab, run, statistic, wait_until};

/// The server's addresses, each with those of the gateway and of the router as they are seen on the way there.
const WAYS: [[&str; 3]; 2] =
    [["10.0.2.2", "198.51.100.2", "203.0.113.1"], ["fec0::2", "2001:db8:1::2", "2001:db8:2::1"]];

struct World {
    guest: Host,
    router: Host,
    server: Host,
}

impl World {
    /// Everything in its place, and the guest configured.
    fn new() -> Self {
        let Routed { router, server } = Routed::new();
        let guest = routed::host("guest");
        serve(Tap::open("tap0").unwrap());
        run("ip link set tap0 netns guest");
        guest.set_address("tap0", "10.0.2.15/24");
        guest.run("ip route add default via 10.0.2.2");
        wait_until("an address and a router", PATIENCE, || {
            let router = guest.run("ip -6 route show default").contains("via fe80::2");
            router && guest.run("ip -6 addr show dev tap0").contains("inet6 fec0::")
        });
        Self { guest, router, server }
    }
}

/// Has a thread be the NAT of a TAP.
fn serve(mut tap: Tap) {
    tap.accept(OFFLOADS).unwrap();
    let mut nat = Nat::new(Config::default(), Sockets::new().unwrap(), 1, Instant::now()).unwrap();
    nat.accept(tap.capabilities().offloads);
    thread::spawn(move || {
        let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
        tap.register(poll.registry(), Token(0)).unwrap();
        let sockets = nat.host_mut().as_raw_fd();
        poll.registry().register(&mut SourceFd(&sockets), Token(1), Interest::READABLE).unwrap();
        let (mut buffer, mut ready) = (vec![0; MAX_FRAME_LEN], Vec::new());
        loop {
            let timeout = nat.deadline().map(|at| at.saturating_duration_since(Instant::now()));
            poll.poll(&mut events, timeout).unwrap();
            loop {
                let mut batch = RxBatch::new();
                batch.push([FragmentMut::new(&mut buffer)]);
                tap.receive(&mut batch).unwrap();
                let Some((header, len)) = batch.frames().next() else { break };
                drop(batch);
                nat.input(Instant::now(), &header, &buffer[..len]);
            }
            nat.flush();
            nat.host_mut().poll(&mut ready).unwrap();
            for readiness in ready.drain(..) {
                nat.ready(Instant::now(), readiness);
            }
            nat.expire(Instant::now());
            while let Some((header, frame)) = nat.output(Instant::now()) {
                let mut batch = TxBatch::new();
                batch.push(header, [Fragment::new(frame)]);
                tap.send(&batch).unwrap();
            }
        }
    });
}

#[test]
fn a_guest_configures_itself_and_reaches_hosts_of_both_families() {
    lab(|| {
        let World { guest, server, .. } = World::new();
        for [gateway, _, remote] in WAYS {
            guest.ping("-c 2", gateway);
            guest.ping("-c 2", remote);
            // In fragments.
            guest.ping("-c 1 -s 4000", remote);
            let port = if remote.contains(':') { format!("[{remote}]:7000") } else { format!("{remote}:7000") };
            let before = statistic(&guest, "tap0", "tx_packets");
            let bytes = Transfer::start(&guest, &server, &port, 30 << 20).finish();
            let frames = statistic(&guest, "tap0", "tx_packets") - before;
            // In segments longer than the MTU.
            assert!(frames < bytes / 4000, "{remote}: {frames} frames");
        }
    });
}

#[test]
fn what_a_server_sends_arrives_in_segments_longer_than_the_mtu() {
    lab(|| {
        let World { guest, server, .. } = World::new();
        for address in ["203.0.113.1:7000", "[2001:db8:2::1]:7000"] {
            let data: Vec<u8> = (0..20_000_000u32).map(|i| (i >> 3) as u8).collect();
            let sent = data.clone();
            let listener = server.spawn(move || TcpListener::bind(address).unwrap()).join().unwrap();
            let sender = thread::spawn(move || listener.accept().unwrap().0.write_all(&sent).unwrap());
            let before = statistic(&guest, "tap0", "rx_packets");
            let received = guest.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                received
            });
            assert!(received.join().unwrap() == data, "{address}");
            sender.join().unwrap();
            let frames = statistic(&guest, "tap0", "rx_packets") - before;
            assert!(frames < data.len() as u64 / 4000, "{address}: {frames} frames");
        }
    });
}

#[test]
fn long_datagrams_come_back_whole() {
    lab(|| {
        let World { guest, server, .. } = World::new();
        for (address, any) in [("203.0.113.1:7", "0.0.0.0:0"), ("[2001:db8:2::1]:7", "[::]:0")] {
            let echo = server.spawn(move || UdpSocket::bind(address).unwrap()).join().unwrap();
            thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while let Ok((len, from)) = echo.recv_from(&mut buffer) {
                    echo.send_to(&buffer[..len], from).unwrap();
                }
            });
            let socket = guest.spawn(move || UdpSocket::bind(any).unwrap()).join().unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for len in [0, 1, 1452, 1453, 20_000, 60_000] {
                let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                socket.send_to(&data, address).unwrap();
                let mut buffer = vec![0; 65536];
                let (got, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((from, got), (address.parse().unwrap(), len));
                assert!(buffer[..got] == data);
            }
        }
    });
}

#[test]
fn traceroute_sees_the_gateway_and_every_router_behind_it() {
    lab(|| {
        let World { guest, .. } = World::new();
        for hops in WAYS {
            let [.., remote] = hops;
            let programs: &[&str] =
                if remote.contains(':') { &["traceroute6"] } else { &["traceroute", "traceroute -I"] };
            for program in programs {
                let said = guest.run(&format!("busybox {program} -n -q 1 -w 5 -m 6 {remote}"));
                let seen: Vec<_> = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
                assert_eq!(seen, hops, "{program}: {said}");
            }
        }
    });
}

#[test]
fn the_guest_learns_of_a_smaller_mtu_on_the_way() {
    lab(|| {
        let World { guest, router, server } = World::new();
        router.run("ip link set far mtu 1400");
        server.run("ip link set near mtu 1400");
        for [.., remote] in WAYS {
            wait_until("the path's MTU", PATIENCE, || {
                // The first ones are lost.
                command(&guest.line(&format!("busybox ping -c 1 -W 1 -s 1440 {remote}"))).output().unwrap();
                guest.run(&format!("ip route get {remote}")).contains("mtu 1400")
            });
            guest.ping("-c 1 -s 1440", remote);
        }
    });
}
