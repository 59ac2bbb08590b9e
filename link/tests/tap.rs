//! The TAP against the kernel of this host, in a network namespace that each test makes for itself.
//!
//! Each test runs once more as a child process that has left for a namespace of its own.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TcpOptionElement, TransportHeader};
use link::{
    Checksum, DropReason, Fragment, FragmentMut, GsoType, Link, LinkState, Offloads, RxBatch, Soft, Tap, TapError,
    TxBatch, VnetHeader,
};

const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const KERNEL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const KERNEL_PORT: u16 = 5000;
const PEER_PORT: u16 = 6000;
const PATIENCE: Duration = Duration::from_secs(5);

#[test]
fn tcp_leaves_the_kernel_in_frames_longer_than_the_mtu() {
    in_namespace("tcp_leaves_the_kernel_in_frames_longer_than_the_mtu", || {
        let mut tap = configured_tap();
        tap.accept(Offloads::ALL).unwrap();
        let (stream, mut peer) = connect(&mut tap);
        let data = pattern(100_000);
        let (received, frames) = peer.download(&mut tap, stream, &data);
        assert!(received == data);
        assert!(frames.iter().any(|frame| frame.header.gso_type == GsoType::TcpV4 && frame.bytes.len() > 3000));
        assert!(frames.len() < data.len() / 1448 / 2, "{} frames", frames.len());
    });
}

#[test]
fn without_accept_every_frame_is_whole_and_fits_the_mtu() {
    in_namespace("without_accept_every_frame_is_whole_and_fits_the_mtu", || {
        let mut tap = configured_tap();
        for round in 0..2 {
            let (stream, mut peer) = connect(&mut tap);
            let data = pattern(100_000);
            let (received, frames) = peer.download(&mut tap, stream, &data);
            assert!(received == data);
            assert!(frames.len() > 60);
            for frame in frames {
                assert!(frame.bytes.len() <= 1514 && !frame.header.needs_checksum(), "{:?}", frame.header);
                frame.assert_sound();
            }
            // What was accepted for a while is not delivered any more.
            tap.accept(Offloads::ALL).unwrap();
            tap.accept(Offloads::NONE).unwrap();
            println!("round {round}");
        }
    });
}

#[test]
fn datagrams_leave_the_kernel_uncut_where_it_knows_how() {
    in_namespace("datagrams_leave_the_kernel_uncut_where_it_knows_how", || {
        let mut tap = configured_tap();
        if !tap.capabilities().offloads.uso {
            println!("this kernel's TAP has no UDP segmentation");
            return;
        }
        tap.accept(Offloads::ALL).unwrap();
        let socket = UdpSocket::bind((KERNEL, KERNEL_PORT)).unwrap();
        set_udp_segment(&socket, 1000);
        assert_eq!(socket.send_to(&pattern(10_500), (PEER, PEER_PORT)).unwrap(), 10_500);
        let frame = receive_from(&mut tap, KERNEL_PORT);
        assert_eq!((frame.header.gso_type, frame.header.gso_size), (GsoType::Udp, 1000));
        assert_eq!(frame.bytes.len(), 14 + 20 + 8 + 10_500);
        let mut payload = Vec::new();
        let cut = link::soft::segment(&frame.header, &frame.bytes, |headers, part| {
            Received { header: VnetHeader::WHOLE, bytes: [headers, part].concat() }.assert_sound();
            payload.extend_from_slice(part);
        });
        assert_eq!(cut, Ok(11));
        assert!(payload == pattern(10_500));
    });
}

#[test]
fn long_frames_of_ours_reach_the_kernels_sockets() {
    in_namespace("long_frames_of_ours_reach_the_kernels_sockets", || {
        let mut tap = configured_tap();
        upload(&mut tap);
        if tap.capabilities().offloads.uso {
            upload_datagrams(&mut tap);
        }
        assert_eq!(tap.counters().drops.total(), 0);
    });
}

#[test]
fn long_frames_cross_a_plain_tap_in_software() {
    in_namespace("long_frames_cross_a_plain_tap_in_software", || {
        let plain = tun_tap::Iface::without_packet_info("tap0", tun_tap::Mode::Tap).unwrap();
        // SAFETY: the descriptor is open for as long as `plain` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(plain.as_raw_fd()) };
        let tap = Tap::adopt(fd.try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((tap.capabilities().offloads, tap.interface()), (Offloads::NONE, "tap0"));
        configure();
        let mut tap = Soft::new(tap);
        tap.accept(Offloads::ALL).unwrap();
        upload(&mut tap);
        upload_datagrams(&mut tap);
        let (stream, mut peer) = connect(&mut tap);
        let (received, frames) = peer.download(&mut tap, stream, &pattern(50_000));
        assert!(received == pattern(50_000));
        frames.iter().for_each(Received::assert_sound);
        assert_eq!(tap.counters().drops.total(), 0);
    });
}

#[test]
fn a_descriptor_that_was_handed_over_keeps_its_offloads() {
    in_namespace("a_descriptor_that_was_handed_over_keeps_its_offloads", || {
        let tap = configured_tap();
        let mut adopted = Tap::adopt(tap.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(adopted.capabilities(), tap.capabilities());
        drop(tap);
        upload(&mut adopted);
    });
}

#[test]
fn refused_frames_are_counted_under_their_reason() {
    in_namespace("refused_frames_are_counted_under_their_reason", || {
        let mut tap = open("tap%d");
        assert_eq!(tap.interface(), "tap0");
        assert_eq!((tap.name(), tap.state()), ("tap://tap0", LinkState::Down));
        let frame = [1; 60];
        send(&mut tap, VnetHeader::WHOLE, &frame);
        assert_eq!(tap.counters().drops.get(DropReason::LinkDown), 1);
        tap.set_up(true).unwrap();
        assert_eq!(tap.state(), LinkState::Up);
        let partial = Checksum::Partial { start: 34, offset: 16 };
        let contradiction =
            VnetHeader { checksum: partial, gso_type: GsoType::TcpV6, gso_size: 10, ..VnetHeader::WHOLE };
        send(&mut tap, contradiction, &frame);
        send(&mut tap, VnetHeader { checksum: partial, ..VnetHeader::WHOLE }, &frame[..40]);
        assert_eq!(tap.counters().drops.get(DropReason::BadOffload), 2);
        send(&mut tap, VnetHeader::WHOLE, &frame[..13]);
        assert_eq!(tap.counters().drops.get(DropReason::Runt), 1);
        send(&mut tap, VnetHeader::WHOLE, &[1; 70_000]);
        assert_eq!(tap.counters().drops.get(DropReason::Oversized), 1);
        let mut many = TxBatch::new();
        many.push(VnetHeader::WHOLE, (0..1400).map(|_| Fragment::new(&frame[..1])));
        assert_eq!(tap.send(&many).unwrap(), 1);
        assert_eq!((tap.counters().tx_frames, tap.counters().tx_bytes), (1, 1400));
        tap.set_up(false).unwrap();
        assert_eq!(tap.state(), LinkState::Down);
    });
}

#[test]
fn the_owner_is_woken_when_the_interface_comes_up() {
    in_namespace("the_owner_is_woken_when_the_interface_comes_up", || {
        let mut tap = open("tap0");
        ip("link set tap0 addrgenmode none");
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        tap.register(poll.registry(), mio::Token(0)).unwrap();
        poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
        poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
        assert!(events.is_empty());
        ip("link set tap0 up");
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(!events.is_empty());
        tap.service(Instant::now()).unwrap();
        assert_eq!(tap.state(), LinkState::Up);
    });
}

#[test]
fn a_frame_longer_than_its_slot_is_dropped_whole() {
    in_namespace("a_frame_longer_than_its_slot_is_dropped_whole", || {
        let mut tap = configured_tap();
        let socket = UdpSocket::bind((KERNEL, KERNEL_PORT)).unwrap();
        for len in [100, 58, 57] {
            socket.send_to(&vec![0; len], (PEER, PEER_PORT)).unwrap();
        }
        let mut buffer = [0; 100];
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        assert_eq!(tap.receive(&mut batch).unwrap(), 1);
        assert_eq!(batch.frames().next().unwrap().1, 100);
        assert_eq!(tap.counters().drops.get(DropReason::Oversized), 1);
        assert_eq!(receive_from(&mut tap, KERNEL_PORT).bytes.len(), 99);
    });
}

#[test]
fn a_missing_and_a_busy_and_an_unfit_interface_are_named() {
    in_namespace("a_missing_and_a_busy_and_an_unfit_interface_are_named", || {
        let first = open("");
        assert_eq!(first.interface(), "tap0", "the kernel chose");
        let busy = Tap::open("tap0").map(drop).unwrap_err();
        assert_eq!(busy.to_string(), "tap0: Device or resource busy: another program has opened it");
        ip("tuntap add tap7 mode tap multi_queue");
        let several = Tap::open("tap7").map(drop).unwrap_err();
        assert!(several.to_string().ends_with("several queues (multi_queue)"), "{several}");
        ip("tuntap add tun7 mode tun");
        let other = Tap::open("tun7").map(drop).unwrap_err();
        assert!(other.to_string().starts_with("tun7: Invalid argument: it exists and is no TAP"), "{other}");
        let loopback = Tap::open("lo").map(drop).unwrap_err();
        assert!(loopback.to_string().starts_with("lo: Invalid argument: it exists and is no TAP"), "{loopback}");
        let tun = tun_tap::Iface::without_packet_info("tun8", tun_tap::Mode::Tun).unwrap();
        // SAFETY: the descriptor is open for as long as `tun` lives.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(tun.as_raw_fd()) };
        assert!(matches!(Tap::adopt(fd.try_clone_to_owned().unwrap()), Err(TapError::Unfit { .. })));
    });
}

#[test]
fn a_persistent_interface_outlives_its_user_and_keeps_its_mtu() {
    in_namespace("a_persistent_interface_outlives_its_user_and_keeps_its_mtu", || {
        let mut tap = open("lab0");
        tap.set_persistent(true).unwrap();
        tap.set_mtu(9000).unwrap();
        drop(tap);
        let tap = open("lab0");
        assert_eq!(tap.capabilities().mtu, 9000);
        tap.set_persistent(false).unwrap();
        drop(tap);
        assert!(!fs::exists("/proc/self/net/dev_snmp6/lab0").unwrap());
    });
}

#[test]
fn an_interface_that_was_deleted_is_an_error_and_not_a_drop() {
    in_namespace("an_interface_that_was_deleted_is_an_error_and_not_a_drop", || {
        let mut tap = configured_tap();
        ip("link del tap0");
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, [Fragment::new(&[1; 60])]);
        assert!(tap.send(&batch).is_err());
        let mut buffer = [0; 100];
        let mut batch = RxBatch::new();
        batch.push([FragmentMut::new(&mut buffer)]);
        assert!(tap.receive(&mut batch).is_err());
    });
}

/// Runs `body` in a child process of its own in a new network namespace.
fn in_namespace(test: &str, body: fn()) {
    if std::env::var_os("LINK_IN_NAMESPACE").is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env("LINK_IN_NAMESPACE", "1");
    // SAFETY: no pointers.
    let user = unsafe { libc::geteuid() };
    let as_root = format!("0 {user} 1");
    let enter = move || {
        if user == 0 {
            return unshare(libc::CLONE_NEWNET);
        }
        unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
        fs::write("/proc/self/uid_map", &as_root)
    };
    // SAFETY: between fork and exec the child makes system calls only.
    unsafe { command.pre_exec(enter) };
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    print!("{text}");
}

fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    if unsafe { libc::unshare(flags) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(name: &str) -> Tap {
    Tap::open(name).unwrap_or_else(|error| panic!("{error}"))
}

/// `tap0` as the kernel's way to [`PEER`].
fn configured_tap() -> Tap {
    let tap = open("tap0");
    configure();
    tap
}

fn configure() {
    ip("link set tap0 addrgenmode none address 02:00:00:00:00:01");
    ip("address add 10.9.0.1/24 dev tap0");
    ip("link set tap0 up");
    ip("neighbour add 10.9.0.2 lladdr 02:00:00:00:00:99 dev tap0");
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

fn set_udp_segment(socket: &UdpSocket, size: libc::c_int) {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the option is one int.
    let done = unsafe { libc::setsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), len) };
    assert_eq!(done, 0);
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 253) as u8).collect()
}

fn send(link: &mut impl Link, header: VnetHeader, bytes: &[u8]) {
    let mut batch = TxBatch::new();
    batch.push(header, [Fragment::new(bytes)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

struct Received {
    header: VnetHeader,
    bytes: Vec<u8>,
}

impl Received {
    fn tcp(&self) -> Option<(TcpHeader, &[u8])> {
        let headers = PacketHeaders::from_ethernet_slice(&self.bytes).ok()?;
        match headers.transport? {
            TransportHeader::Tcp(tcp) => Some((tcp, headers.payload.slice())),
            _ => None,
        }
    }

    /// Every checksum of a whole IPv4 frame is right.
    fn assert_sound(&self) {
        let headers = PacketHeaders::from_ethernet_slice(&self.bytes).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { return };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        let payload = headers.payload.slice();
        match headers.transport {
            Some(TransportHeader::Tcp(tcp)) => assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload).unwrap()),
            Some(TransportHeader::Udp(udp)) => assert_eq!(udp.checksum, udp.calc_checksum_ipv4(&ip, payload).unwrap()),
            _ => {}
        }
    }
}

fn receive(link: &mut impl Link) -> Option<Received> {
    let mut buffer = vec![0; 70_000];
    let mut batch = RxBatch::new();
    let (front, back) = buffer.split_at_mut(100);
    batch.push([FragmentMut::new(front), FragmentMut::new(back)]);
    link.receive(&mut batch).unwrap();
    let (header, len) = batch.frames().next()?;
    buffer.truncate(len);
    Some(Received { header, bytes: buffer })
}

/// The next frame from this port of the kernel's.
fn receive_from(link: &mut impl Link, port: u16) -> Received {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let Some(frame) = receive(link) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let source = match PacketHeaders::from_ethernet_slice(&frame.bytes).unwrap().transport {
            Some(TransportHeader::Tcp(tcp)) => tcp.source_port,
            Some(TransportHeader::Udp(udp)) => udp.source_port,
            _ => continue,
        };
        if source == port {
            return frame;
        }
    }
    panic!("no frame from port {port}");
}

/// The far end of a TCP connection with the kernel, as small as can be.
struct TcpPeer {
    next: u32,
    expected: u32,
}

/// Opens a connection to the kernel through the link.
fn connect(link: &mut impl Link) -> (TcpStream, TcpPeer) {
    let listener = TcpListener::bind((KERNEL, KERNEL_PORT)).unwrap();
    let mut peer = TcpPeer { next: 1000, expected: 0 };
    let options = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
    let syn = PacketBuilder::ethernet2(PEER_MAC, KERNEL_MAC).ipv4(PEER.octets(), KERNEL.octets(), 64);
    let syn = syn.tcp(PEER_PORT, KERNEL_PORT, 999, 60_000).syn().options(&options).unwrap();
    let mut frame = Vec::new();
    syn.write(&mut frame, &[]).unwrap();
    send(link, VnetHeader::WHOLE, &frame);
    // Acknowledgements of an earlier connection may come first.
    let tcp = loop {
        let answer = receive_from(link, KERNEL_PORT);
        match answer.tcp() {
            Some((tcp, _)) if tcp.syn && tcp.ack => break tcp,
            _ => {}
        }
    };
    peer.expected = tcp.sequence_number.wrapping_add(1);
    send(link, VnetHeader::WHOLE, &peer.segment(&[]));
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (stream, peer)
}

impl TcpPeer {
    fn segment(&self, payload: &[u8]) -> Vec<u8> {
        let packet = PacketBuilder::ethernet2(PEER_MAC, KERNEL_MAC).ipv4(PEER.octets(), KERNEL.octets(), 64);
        let packet = packet.tcp(PEER_PORT, KERNEL_PORT, self.next, 60_000).ack(self.expected).psh();
        let mut frame = Vec::new();
        packet.write(&mut frame, payload).unwrap();
        frame
    }

    /// Ends the connection.
    fn reset(&self, link: &mut impl Link) {
        let packet = PacketBuilder::ethernet2(PEER_MAC, KERNEL_MAC).ipv4(PEER.octets(), KERNEL.octets(), 64);
        let packet = packet.tcp(PEER_PORT, KERNEL_PORT, self.next, 0).rst();
        let mut frame = Vec::new();
        packet.write(&mut frame, &[]).unwrap();
        send(link, VnetHeader::WHOLE, &frame);
    }

    /// Lets the kernel send data; returns what came, and in which frames.
    fn download(&mut self, link: &mut impl Link, mut stream: TcpStream, data: &[u8]) -> (Vec<u8>, Vec<Received>) {
        let (mut received, mut frames) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(move || stream.write_all(data).unwrap());
            while received.len() < data.len() {
                let frame = receive_from(link, KERNEL_PORT);
                let (tcp, payload) = frame.tcp().unwrap();
                if !payload.is_empty() && tcp.sequence_number == self.expected {
                    self.expected = self.expected.wrapping_add(payload.len() as u32);
                    received.extend_from_slice(payload);
                    send(link, VnetHeader::WHOLE, &self.segment(&[]));
                    frames.push(frame);
                }
            }
            self.reset(link);
        });
        (received, frames)
    }
}

/// Sends TCP data to the kernel in frames longer than the MTU.
fn upload(link: &mut impl Link) {
    let (mut stream, mut peer) = connect(link);
    let data = pattern(40_000);
    for part in data.chunks(20_000) {
        let mut frame = peer.segment(part);
        leave_partial(&mut frame, 16);
        send(link, gso(GsoType::TcpV4, 16, 1460), &frame);
        peer.next = peer.next.wrapping_add(part.len() as u32);
    }
    let mut received = vec![0; data.len()];
    stream.read_exact(&mut received).unwrap();
    assert!(received == data);
    peer.reset(link);
}

/// Sends datagrams to the kernel, ten in a frame.
fn upload_datagrams(link: &mut impl Link) {
    let socket = UdpSocket::bind((KERNEL, KERNEL_PORT)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut frame = Vec::new();
    let packet = PacketBuilder::ethernet2(PEER_MAC, KERNEL_MAC)
        .ipv4(PEER.octets(), KERNEL.octets(), 64)
        .udp(PEER_PORT, KERNEL_PORT);
    packet.write(&mut frame, &pattern(9500)).unwrap();
    leave_partial(&mut frame, 6);
    send(link, gso(GsoType::Udp, 6, 1000), &frame);
    let mut received = Vec::new();
    for index in 0..10 {
        let mut datagram = [0; 2000];
        let len = socket.recv(&mut datagram).unwrap();
        assert_eq!(len, if index == 9 { 500 } else { 1000 });
        received.extend_from_slice(&datagram[..len]);
    }
    assert!(received == pattern(9500));
}

fn gso(gso_type: GsoType, offset: u16, gso_size: u16) -> VnetHeader {
    VnetHeader { checksum: Checksum::Partial { start: 34, offset }, gso_type, gso_size, ..VnetHeader::WHOLE }
}

/// Puts the sum of the pseudo-header into the checksum field of an IPv4 frame.
fn leave_partial(frame: &mut [u8], offset: usize) {
    let len = (frame.len() - 34) as u16;
    let mut words: Vec<u16> = frame[26..34].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    words.extend([u16::from(frame[23]), len]);
    let mut sum: u32 = words.into_iter().map(u32::from).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[34 + offset..][..2].copy_from_slice(&(sum as u16).to_be_bytes());
}
