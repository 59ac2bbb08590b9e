//! What a data packet costs with many flows open, for `valgrind --tool=callgrind`: `flow-cost TCP UDP ACTIVE PACKETS`.
//!
//! TCP connections and UDP mappings of one guest are opened over a model of the host, which takes and gives whatever is
//! asked for without a system call. Then PACKETS times, in turn over the first ACTIVE flows of either kind, a segment of
//! 1000 bytes and a datagram leave the guest, and one of each comes back for it, and the segment is acknowledged: 4 data
//! packets a turn, and as many bytes either way are printed. The instructions of two runs that differ in PACKETS only,
//! subtracted, leave the set-up out.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use link::{Checksum, Offloads, VnetHeader};
use nat::{Config, Datagram, Host, Kind, Nat, Readiness, Rejection, SocketId, Target};

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const PAYLOAD: usize = 1000;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: u8 = 17;
const TCP: u8 = 6;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Gives as many bytes, or datagrams, to whoever asks as there are.
#[derive(Default)]
struct Model {
    bytes: usize,
    datagrams: usize,
    taken: usize,
    connected: VecDeque<SocketId>,
}

/// What the guest knows of one of its connections.
struct Flow {
    port: u16,
    sequence: u32,
    acknowledgement: u32,
}

fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [tcp @ 1..=16000, udp @ 1..=16000, active, packets] = numbers[..] else {
        eprintln!("usage: flow-cost TCP UDP ACTIVE PACKETS, with 1 to 16000 flows of each");
        return ExitCode::from(2);
    };
    if !(1..=tcp.min(udp)).contains(&active) {
        eprintln!("flow-cost: at least one flow must be active, and no more than there are");
        return ExitCode::from(2);
    }
    let mut now = Instant::now();
    let Ok(mut nat) = Nat::new(Config::default(), Model::default(), 1, now) else { return ExitCode::FAILURE };
    nat.accept(Offloads::ALL);
    let mut flows: Vec<Flow> = (0..tcp as u16).map(|n| open(&mut nat, now, 20000 + n)).collect();
    for n in 0..udp as u16 {
        datagram(&mut nat, now, 20000 + n);
    }
    nat.flush();
    let mut came = 0;
    for number in 0..packets {
        let place = number % active;
        if number % 16 == 0 {
            now += Duration::from_micros(50);
        }
        came += turn(&mut nat, now, place, &mut flows[place as usize]);
    }
    let flows = nat.flows();
    println!("{} bytes left, {came} came; flows: {flows:?}", nat.host_mut().taken);
    ExitCode::SUCCESS
}

/// Opens a connection: SYN, the host's connection, SYN and acknowledgement, acknowledgement.
fn open(nat: &mut Nat<Model>, now: Instant, port: u16) -> Flow {
    let mut flow = Flow { port, sequence: 1000, acknowledgement: 0 };
    segment(nat, now, &flow, SYN, 0);
    flow.sequence += 1;
    while let Some(id) = nat.host_mut().connected.pop_front() {
        nat.ready(now, Readiness { id, readable: false, writable: true, finished: false, error: false });
    }
    while let Some((_, frame)) = nat.output(now) {
        if frame[ETHERNET + 9] == TCP {
            let sequence = &frame[ETHERNET + IP + 4..];
            flow.acknowledgement =
                u32::from_be_bytes([sequence[0], sequence[1], sequence[2], sequence[3]]).wrapping_add(1);
        }
    }
    segment(nat, now, &flow, ACK, 0);
    nat.flush();
    while nat.output(now).is_some() {}
    flow
}

/// A segment and a datagram each way; returns how many bytes of payload came for the guest.
fn turn(nat: &mut Nat<Model>, now: Instant, place: u32, flow: &mut Flow) -> usize {
    segment(nat, now, flow, ACK, PAYLOAD);
    flow.sequence = flow.sequence.wrapping_add(PAYLOAD as u32);
    datagram(nat, now, flow.port);
    nat.flush();
    nat.host_mut().bytes = PAYLOAD;
    nat.host_mut().datagrams = 1;
    for kind in [Kind::Tcp, Kind::Udp] {
        let id = SocketId { kind, index: place };
        nat.ready(now, Readiness { id, readable: true, writable: false, finished: false, error: false });
    }
    let mut came = 0;
    while let Some((_, frame)) = nat.output(now) {
        came += match frame[ETHERNET + 9] {
            TCP => frame.len() - ETHERNET - IP - 20,
            UDP => frame.len() - ETHERNET - IP - 8,
            _ => 0,
        };
    }
    flow.acknowledgement = flow.acknowledgement.wrapping_add(PAYLOAD as u32);
    segment(nat, now, flow, ACK, 0);
    nat.flush();
    while nat.output(now).is_some() {}
    came
}

fn segment(nat: &mut Nat<Model>, now: Instant, flow: &Flow, flags: u8, payload: usize) {
    let mut frame = [0; ETHERNET + IP + 20 + PAYLOAD];
    let len = ETHERNET + IP + 20 + payload;
    put_headers(&mut frame[..len], TCP, flow.port);
    let segment = &mut frame[ETHERNET + IP..];
    segment[4..8].copy_from_slice(&flow.sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&flow.acknowledgement.to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    let checksum = Checksum::Partial { start: (ETHERNET + IP) as u16, offset: 16 };
    nat.input(now, &VnetHeader { checksum, ..VnetHeader::WHOLE }, &frame[..len]);
}

fn datagram(nat: &mut Nat<Model>, now: Instant, port: u16) {
    let mut frame = [0; ETHERNET + IP + 8 + PAYLOAD];
    put_headers(&mut frame, UDP, port);
    frame[ETHERNET + IP + 4..ETHERNET + IP + 6].copy_from_slice(&(8 + PAYLOAD as u16).to_be_bytes());
    let checksum = Checksum::Partial { start: (ETHERNET + IP) as u16, offset: 6 };
    nat.input(now, &VnetHeader { checksum, ..VnetHeader::WHOLE }, &frame);
}

/// Ethernet, IPv4 and the ports, from the guest to port 80 of the remote host.
fn put_headers(frame: &mut [u8], protocol: u8, port: u16) {
    let len = (frame.len() - ETHERNET) as u16;
    frame[..6].copy_from_slice(&[0x52, 0x55, 10, 0, 2, 2]);
    frame[6..12].copy_from_slice(&[0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    frame[12..14].copy_from_slice(&[8, 0]);
    let ip = &mut frame[ETHERNET..];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    (ip[8], ip[9]) = (64, protocol);
    ip[12..16].copy_from_slice(&GUEST.octets());
    ip[16..20].copy_from_slice(&REMOTE.octets());
    let words = ip[..IP].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    ip[IP..IP + 2].copy_from_slice(&port.to_be_bytes());
    ip[IP + 2..IP + 4].copy_from_slice(&80u16.to_be_bytes());
}

fn blocked<T>() -> io::Result<T> {
    Err(io::ErrorKind::WouldBlock.into())
}

impl Host for Model {
    fn connect(&mut self, id: SocketId, _: SocketAddr) -> io::Result<()> {
        self.connected.push_back(id);
        Ok(())
    }

    fn connect_target(&mut self, _: SocketId, _: &Target) -> io::Result<()> {
        blocked()
    }

    fn connected(&mut self, _: SocketId) -> io::Result<bool> {
        Ok(true)
    }

    fn listen(&mut self, _: SocketId, at: SocketAddr) -> io::Result<SocketAddr> {
        Ok(at)
    }

    fn listen_at(&mut self, _: SocketId, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn accept(&mut self, _: SocketId, _: SocketId) -> io::Result<SocketAddr> {
        blocked()
    }

    fn receive(&mut self, _: SocketId, buffer: &mut [u8]) -> io::Result<usize> {
        match std::mem::take(&mut self.bytes).min(buffer.len()) {
            0 => blocked(),
            len => Ok(len),
        }
    }

    fn send(&mut self, _: SocketId, data: &[u8]) -> io::Result<usize> {
        self.taken += data.len();
        Ok(data.len())
    }

    fn finish(&mut self, _: SocketId) {}

    fn datagram(&mut self, _: SocketId, _: Datagram) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5000)))
    }

    fn receive_from(&mut self, _: SocketId, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        if std::mem::take(&mut self.datagrams) == 0 {
            return blocked();
        }
        Ok((PAYLOAD.min(buffer.len()), SocketAddr::from((REMOTE, 80))))
    }

    fn send_to(&mut self, _: SocketId, data: &[u8], _: SocketAddr, _: Option<u8>) -> io::Result<()> {
        self.taken += data.len();
        Ok(())
    }

    fn rejection(&mut self, _: SocketId) -> Option<Rejection> {
        None
    }

    fn close(&mut self, _: SocketId) {}

    fn reset(&mut self, _: SocketId) {}

    fn open_file(&mut self, _: u32, _: &[u8]) -> io::Result<u64> {
        blocked()
    }

    fn read_file(&mut self, _: u32, _: u64, _: &mut [u8]) -> io::Result<usize> {
        blocked()
    }

    fn close_file(&mut self, _: u32) {}

    fn resolvers(&mut self) -> Vec<SocketAddr> {
        Vec::new()
    }
}
