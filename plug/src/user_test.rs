//! The link as its owner drives it: an outer event loop, batches, and readiness of a nested one.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use link::{Fragment, FragmentMut, Link, Locator, Offloads, RxBatch, TxBatch, VnetHeader};
use mio::{Events, Poll, Token};

use super::User;

const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const GATEWAY_MAC: [u8; 6] = [0x52, 0x55, 10, 0, 2, 2];

fn open(text: &str) -> Result<User, String> {
    User::open(&Locator::from_qemu(text)).map_err(|error| error.to_string())
}

fn send(user: &mut User, frame: &[u8]) {
    let mut batch = TxBatch::new();
    let (head, tail) = frame.split_at(frame.len() / 2);
    batch.push(VnetHeader::WHOLE, [Fragment::new(head), Fragment::new(tail)]);
    assert_eq!(user.send(&batch).unwrap(), 1);
}

fn receive(user: &mut User) -> Vec<Vec<u8>> {
    let mut buffers = vec![vec![0; 2000]; 4];
    let mut batch = RxBatch::new();
    buffers.iter_mut().for_each(|buffer| batch.push([FragmentMut::new(buffer)]));
    user.receive(&mut batch).unwrap();
    let lens: Vec<_> = batch.frames().map(|(_, len)| len).collect();
    drop(batch);
    lens.iter().zip(buffers).map(|(len, buffer)| buffer[..*len].to_vec()).collect()
}

/// A UDP datagram without checksum (RFC 768) from the guest to the gateway.
fn datagram(to_port: u16, payload: &[u8]) -> Vec<u8> {
    let len = 20 + 8 + payload.len() as u16;
    let mut ip = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]].concat();
    let mut sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let udp =
        [&4000u16.to_be_bytes()[..], &to_port.to_be_bytes(), &(len - 20).to_be_bytes(), &[0, 0], payload].concat();
    [&GATEWAY_MAC[..], &GUEST_MAC, &[8, 0], &ip, &udp].concat()
}

#[test]
fn arp_is_answered_in_the_batch_behind_the_question() {
    let mut user = open("user").unwrap();
    let question = [
        &[0xff; 6][..],
        &GUEST_MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &GUEST_MAC,
        &[10, 0, 2, 15],
        &[0; 6],
        &[10, 0, 2, 2],
    ]
    .concat();
    send(&mut user, &question);
    let answers = receive(&mut user);
    // The first frame of all is followed by a router advertisement as well.
    assert_eq!(answers.iter().map(|frame| &frame[12..14]).collect::<Vec<_>>(), [[0x08, 0x06], [0x86, 0xdd]]);
    assert_eq!(answers[0][6..12], GATEWAY_MAC);
    let counters = user.counters();
    assert_eq!((counters.tx_frames, counters.rx_frames, counters.drops.total()), (1, 2, 0));
}

#[test]
fn an_outer_event_loop_wakes_for_every_datagram_and_for_nothing_else() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut user = open("user,ipv6=off").unwrap();
    user.accept(Offloads::ALL).unwrap();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(4);
    user.register(poll.registry(), Token(7)).unwrap();
    for round in 0..5u8 {
        send(&mut user, &datagram(server.local_addr().unwrap().port(), &[round]));
        let mut buffer = [0; 10];
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(buffer[0], round);
        server.send_to(&[round, 1], from).unwrap();
        let mut frames = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while frames.is_empty() {
            assert!(Instant::now() < deadline);
            poll.poll(&mut events, Some(Duration::from_secs(5))).unwrap();
            assert!(events.iter().all(|event| event.token() == Token(7)));
            user.service(Instant::now()).unwrap();
            frames = receive(&mut user);
        }
        assert_eq!(frames[0][42..], [round, 1]);
    }
    poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
    assert!(events.is_empty());
    // The one thing left is the mapping's end, minutes away.
    assert!(user.deadline().unwrap() > Instant::now() + Duration::from_secs(60));
    user.deregister(poll.registry()).unwrap();
}

#[test]
fn what_the_locator_says_wrong_is_named_before_anything_is_opened() {
    assert_eq!(open("user,hostfwd=tcp::1").err().unwrap(), {
        "user: hostfwd=tcp::1: expected [tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport"
    });
    assert_eq!(open("user,nonsense=1").err().unwrap(), "user: unknown option 'nonsense'");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let rule = format!("tcp:127.0.0.1:{}-:22", taken.local_addr().unwrap().port());
    let error = open(&format!("user,hostfwd={rule}")).err().unwrap();
    assert!(error.starts_with(&format!("user: hostfwd={rule}: cannot listen on ")), "{error}");
}
