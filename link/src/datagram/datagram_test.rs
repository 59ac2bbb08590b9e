use std::os::fd::FromRawFd;
use std::os::unix::net::UnixDatagram;

use super::*;
use crate::{Checksum, Fragment, FragmentMut};

fn non_blocking(socket: UnixDatagram) -> OwnedFd {
    socket.set_nonblocking(true).unwrap();
    socket.into()
}

fn pair(peer_receives: Option<Offloads>) -> (FrameSocket, FrameSocket) {
    let (a, b) = UnixDatagram::pair().unwrap();
    (FrameSocket::new(non_blocking(a), peer_receives), FrameSocket::new(non_blocking(b), peer_receives))
}

/// A frame socket, and a far end that says what it likes.
fn beside(peer_receives: Option<Offloads>) -> (FrameSocket, UnixDatagram) {
    let (a, b) = UnixDatagram::pair().unwrap();
    (FrameSocket::new(non_blocking(a), peer_receives), b)
}

fn send(socket: &mut FrameSocket, frames: &[(VnetHeader, &[u8])]) -> usize {
    let mut batch = TxBatch::new();
    for (header, bytes) in frames {
        batch.push(*header, [Fragment::new(bytes)]);
    }
    socket.send(&batch).unwrap()
}

/// Receives into so many slots of this size.
fn receive(socket: &mut FrameSocket, slots: usize, size: usize) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut memory = vec![0; slots * size];
    let mut batch = RxBatch::new();
    for slot in memory.chunks_mut(size) {
        // In two fragments, as a guest has them.
        let (head, tail) = slot.split_at_mut(size / 3);
        batch.push([FragmentMut::new(head), FragmentMut::new(tail)]);
    }
    let received = socket.receive(&mut batch).unwrap();
    let frames: Vec<_> = batch.frames().collect();
    assert_eq!(received, frames.len());
    frames.into_iter().zip(memory.chunks(size)).map(|((header, len), slot)| (header, slot[..len].to_vec())).collect()
}

fn frame(len: usize, mark: u8) -> Vec<u8> {
    let mut bytes = vec![mark; len];
    for (place, byte) in bytes.iter_mut().enumerate().skip(14) {
        *byte = (place % 251) as u8 ^ mark;
    }
    bytes
}

fn segmented() -> VnetHeader {
    VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso_type: GsoType::TcpV4,
        gso_size: 1448,
        hdr_len: 54,
        ..VnetHeader::WHOLE
    }
}

fn drops(socket: &FrameSocket) -> Vec<(DropReason, u64)> {
    socket.counters().drops.iter().collect()
}

#[test]
fn batches_cross_in_order() {
    let (mut a, mut b) = pair(None);
    let sent: Vec<_> = (0..200).map(|mark| frame(60 + usize::from(mark), mark)).collect();
    let batch: Vec<_> = sent.iter().map(|bytes| (VnetHeader::WHOLE, bytes.as_slice())).collect();
    assert_eq!(send(&mut a, &batch), 200);
    let mut received = receive(&mut b, 150, 2000);
    assert_eq!(received.len(), 150);
    received.extend(receive(&mut b, 150, 2000));
    assert!(received.into_iter().map(|(_, bytes)| bytes).eq(sent));
    assert_eq!((a.counters().tx_frames, b.counters().rx_frames), (200, 200));
    assert_eq!(a.counters().tx_bytes, b.counters().rx_bytes);
    assert!(receive(&mut b, 1, 100).is_empty());
}

#[test]
fn a_lone_frame_needs_few_vectors_and_a_stream_many() {
    let (mut a, mut b) = pair(None);
    let one = frame(60, 1);
    for _ in 0..8 {
        send(&mut a, &[(VnetHeader::WHOLE, &one)]);
        assert_eq!(receive(&mut b, 64, 100).len(), 1);
        assert_eq!(b.expected, MIN_EXPECTED);
    }
    send(&mut a, &vec![(VnetHeader::WHOLE, one.as_slice()); 200]);
    assert_eq!(receive(&mut b, 200, 100).len(), 200);
    assert_eq!(b.expected, BATCH);
}

#[test]
fn jumbo_frames_cross_and_longer_ones_are_dropped_whole() {
    let (mut a, mut b) = pair(None);
    let (jumbo, giant) = (frame(MAX_PLAIN_LEN, 1), frame(MAX_PLAIN_LEN + 1, 2));
    assert_eq!(send(&mut a, &[(VnetHeader::WHOLE, &giant), (VnetHeader::WHOLE, &jumbo)]), 2);
    assert_eq!(receive(&mut b, 4, 16384), [(VnetHeader::WHOLE, jumbo)]);
    assert_eq!(drops(&a), [(DropReason::Oversized, 1)]);
    // The far end need not be one of ours.
    let (mut ours, theirs) = beside(None);
    theirs.send(&giant).unwrap();
    assert!(receive(&mut ours, 4, 16384).is_empty());
    assert_eq!(drops(&ours), [(DropReason::Oversized, 1)]);
}

#[test]
fn segments_of_64_kib_cross_with_their_header() {
    let (mut a, mut b) = pair(Some(Offloads::ALL));
    let bytes = frame(MAX_FRAME_LEN, 3);
    assert_eq!(send(&mut a, &[(segmented(), &bytes)]), 1);
    assert_eq!(receive(&mut b, 4, MAX_FRAME_LEN), [(segmented(), bytes.clone())]);
    // Without segmentation nothing is that long.
    assert_eq!(send(&mut a, &[(VnetHeader::WHOLE, &bytes)]), 1);
    assert_eq!(drops(&a), [(DropReason::Oversized, 1)]);
}

#[test]
fn only_what_the_far_end_receives_is_sent() {
    let (mut a, mut b) = pair(Some(Offloads { checksum: true, ..Offloads::NONE }));
    let bytes = frame(3000, 3);
    let partial = VnetHeader { gso_type: GsoType::None, gso_size: 0, hdr_len: 0, ..segmented() };
    assert_eq!(send(&mut a, &[(segmented(), &bytes), (partial, &bytes)]), 2);
    assert_eq!(receive(&mut b, 4, 4000), [(partial, bytes.clone())]);
    assert_eq!(drops(&a), [(DropReason::BadOffload, 1)]);
    let (mut bare, _far) = beside(None);
    assert_eq!(send(&mut bare, &[(partial, &bytes)]), 1);
    assert_eq!(drops(&bare), [(DropReason::BadOffload, 1)]);
    assert_eq!(bare.capabilities().offloads, Offloads::NONE);
}

#[test]
fn a_frame_that_does_not_fit_its_slot_is_dropped_never_cut() {
    for header in [None, Some(Offloads::ALL)] {
        let (mut a, mut b) = pair(header);
        let frames = [frame(100, 1), frame(101, 2), frame(99, 3)];
        assert_eq!(send(&mut a, &frames.each_ref().map(|bytes| (VnetHeader::WHOLE, bytes.as_slice()))), 3);
        let received: Vec<_> = receive(&mut b, 4, 100).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(received, [frame(100, 1), frame(99, 3)]);
        assert_eq!(drops(&b), [(DropReason::Oversized, 1)]);
    }
}

#[test]
fn what_is_no_frame_costs_one_counted_drop() {
    let (mut ours, theirs) = beside(None);
    for datagram in [&[7; 13][..], &[], &frame(14, 1)] {
        theirs.send(datagram).unwrap();
    }
    assert_eq!(receive(&mut ours, 8, 100), [(VnetHeader::WHOLE, frame(14, 1))]);
    assert_eq!(drops(&ours), [(DropReason::Runt, 1)]);

    let (mut ours, theirs) = beside(Some(Offloads::ALL));
    let datagram = |header: [u8; VnetHeader::LEN], len| [&header[..], &frame(len, 1)].concat();
    let whole = VnetHeader::WHOLE.to_bytes();
    let unknown = [0, 3, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
    let outside = VnetHeader { checksum: Checksum::Partial { start: 60, offset: 0 }, ..VnetHeader::WHOLE }.to_bytes();
    theirs.send(&[0; 11]).unwrap();
    theirs.send(&whole).unwrap();
    theirs.send(&datagram(whole, 13)).unwrap();
    theirs.send(&datagram(unknown, 60)).unwrap();
    theirs.send(&datagram(outside, 60)).unwrap();
    theirs.send(&datagram(whole, 60)).unwrap();
    assert_eq!(receive(&mut ours, 8, 100), [(VnetHeader::WHOLE, frame(60, 1))]);
    assert_eq!(drops(&ours), [(DropReason::Runt, 3), (DropReason::BadOffload, 2)]);
}

#[test]
fn frames_keep_their_order_between_datagrams_that_are_none() {
    let (mut ours, theirs) = beside(Some(Offloads::ALL));
    let mut expected = Vec::new();
    for mark in 0..40 {
        let header = if mark % 3 == 0 { [0xff; VnetHeader::LEN] } else { VnetHeader::WHOLE.to_bytes() };
        let bytes = frame(20 + usize::from(mark), mark);
        theirs.send(&[&header[..], &bytes].concat()).unwrap();
        if mark % 3 != 0 {
            expected.push((VnetHeader::WHOLE, bytes));
        }
    }
    assert_eq!(receive(&mut ours, 64, 100), expected);
}

#[test]
fn a_full_socket_takes_part_of_a_batch_and_the_rest_later() {
    let (mut a, mut b) = pair(None);
    let bytes = frame(1514, 1);
    let batch = vec![(VnetHeader::WHOLE, bytes.as_slice()); 100];
    let mut taken = 0;
    loop {
        let now = send(&mut a, &batch);
        taken += now;
        if now < 100 {
            break;
        }
    }
    assert!(taken > 500, "{taken} frames fit");
    assert_eq!(send(&mut a, &batch), 0);
    assert_eq!(receive(&mut b, 64, 2000).len(), 64);
    taken += send(&mut a, &batch);
    assert_eq!(a.counters().tx_frames, taken as u64);
    assert_eq!(a.counters().drops.total(), 0);
}

/// What an event loop is told now: nothing, or readable and writable.
fn readiness(poll: &mut mio::Poll) -> Option<(bool, bool)> {
    let mut events = mio::Events::with_capacity(4);
    poll.poll(&mut events, Some(std::time::Duration::ZERO)).unwrap();
    events.iter().next().map(|event| (event.is_readable(), event.is_writable()))
}

#[test]
fn room_wakes_only_an_owner_that_waits_for_it() {
    let (mut a, mut b) = pair(None);
    let mut poll = mio::Poll::new().unwrap();
    a.register(poll.registry(), Token(3), true).unwrap();
    let bytes = frame(1514, 1);
    let batch = vec![(VnetHeader::WHOLE, bytes.as_slice()); 100];
    assert_eq!(send(&mut a, &batch), 100);
    assert_eq!(receive(&mut b, 200, 2000).len(), 100);
    assert_eq!(readiness(&mut poll), None, "nobody asked");
    while send(&mut a, &batch) == 100 {}
    assert_eq!(readiness(&mut poll), None, "it is full");
    while !receive(&mut b, 200, 2000).is_empty() {}
    assert_eq!(readiness(&mut poll), Some((false, true)));
    assert_eq!(send(&mut a, &batch), 100);
    assert_eq!(receive(&mut b, 200, 2000).len(), 100);
    assert_eq!(readiness(&mut poll), None, "nobody asks any more");
    send(&mut b, &batch);
    assert_eq!(readiness(&mut poll), Some((true, false)));
    a.deregister(poll.registry()).unwrap();
}

#[test]
fn frames_in_many_fragments_cross() {
    for header in [None, Some(Offloads::ALL)] {
        let (mut a, mut b) = pair(header);
        let bytes = frame(3000, 9);
        let mut batch = TxBatch::new();
        batch.push(VnetHeader::WHOLE, bytes.chunks(2).map(Fragment::new));
        assert_eq!(a.send(&batch).unwrap(), 1);
        assert_eq!(receive(&mut b, 1, 4000), [(VnetHeader::WHOLE, bytes)]);
    }
}

#[test]
fn a_far_end_that_is_away_costs_frames_and_nothing_else() {
    let (mut a, b) = beside(None);
    drop(b);
    let bytes = frame(60, 1);
    assert_eq!(send(&mut a, &vec![(VnetHeader::WHOLE, bytes.as_slice()); 70]), 70);
    assert_eq!(drops(&a), [(DropReason::LinkDown, 70)]);
    assert!(receive(&mut a, 4, 100).is_empty());
}

#[test]
fn a_flood_of_rubbish_does_not_hold_the_receiver() {
    let (mut ours, theirs) = pair(None);
    let theirs = UnixDatagram::from(theirs.fd);
    let mut sent = 0;
    while theirs.send(&[1]).is_ok() {
        sent += 1;
    }
    assert!(sent > 2 * MAX_BAD as u64, "{sent}");
    assert!(receive(&mut ours, 64, 100).is_empty());
    let seen = ours.counters().drops.get(DropReason::Runt);
    assert!(seen >= MAX_BAD as u64 && seen < sent, "{seen} of {sent}");
    // It asks to be called again until the socket is empty.
    while ours.deadline().is_some() {
        assert!(receive(&mut ours, 64, 100).is_empty());
    }
    assert_eq!(ours.counters().drops.get(DropReason::Runt), sent);
}

#[test]
fn the_end_of_a_sequence_of_packets_is_an_error() {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK;
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }, 0);
    // SAFETY: the descriptors are new and ours alone.
    let [a, b] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let (mut a, mut b) = (FrameSocket::new(a, None), FrameSocket::new(b, None));
    assert_eq!(send(&mut a, &[(VnetHeader::WHOLE, &frame(60, 1))]), 1);
    assert_eq!(receive(&mut b, 4, 100).len(), 1);
    drop(a);
    let mut memory = [0; 100];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut memory)]);
    assert_eq!(b.receive(&mut batch).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(send(&mut b, &[(VnetHeader::WHOLE, &frame(60, 1))]), 1);
    assert_eq!(drops(&b), [(DropReason::LinkDown, 1)]);
}

/// Sends each frame to several sockets.
struct ToAll(Vec<socket2::SockAddr>);

impl Envelope for ToAll {
    const HAS_ADDRESSES: bool = true;

    fn tx_len(&self) -> usize {
        2
    }

    fn seal(&mut self, _: &Frame<'_>, prefix: &mut [u8]) -> Result<To<'_>, DropReason> {
        prefix.copy_from_slice(b"to");
        Ok(To::Each(&self.0))
    }

    fn open(&mut self, _: &Received<'_>) -> Result<Option<VnetHeader>, DropReason> {
        Err(DropReason::Unserved)
    }
}

#[test]
fn a_frame_to_several_counts_once_and_each_copy_that_failed_is_a_drop() {
    let dir = std::env::temp_dir().join(format!("etherloom-copies-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let [free, full, missing] = ["free", "full", "missing"].map(|name| dir.join(name));
    let [free_end, full_end] = [&free, &full].map(|path| UnixDatagram::bind(path).unwrap());
    let to = |paths: &[&std::path::PathBuf]| {
        let all = paths.iter().map(|path| socket2::SockAddr::unix(path).unwrap()).collect();
        FrameSocket::with_envelope(non_blocking(UnixDatagram::unbound().unwrap()), ToAll(all))
    };
    let bytes = frame(60, 1);
    let batch = |count| {
        let mut batch = TxBatch::new();
        (0..count).for_each(|_| batch.push(VnetHeader::WHOLE, [Fragment::new(&bytes)]));
        batch
    };

    let mut socket = to(&[&missing, &free]);
    assert_eq!(socket.send(&batch(2)).unwrap(), 2);
    assert_eq!((socket.counters().tx_frames, socket.counters().drops.get(DropReason::LinkDown)), (2, 2));
    let mut buffer = [0; 100];
    for _ in 0..2 {
        assert_eq!(free_end.recv(&mut buffer).unwrap(), 62);
        assert_eq!(buffer[..62], [&b"to"[..], &bytes].concat());
    }

    // Whoever is full first holds up the frame; behind another, it loses its copy.
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(&[0], &full).is_ok() {}
    let mut socket = to(&[&free, &full]);
    assert_eq!(socket.send(&batch(3)).unwrap(), 1);
    assert_eq!((socket.counters().tx_frames, socket.counters().drops.get(DropReason::LinkFull)), (1, 1));
    let mut socket = to(&[&full, &free]);
    assert_eq!(socket.send(&batch(3)).unwrap(), 0);
    assert_eq!(socket.counters(), Counters::default());
    drop(full_end);
    std::fs::remove_dir_all(&dir).unwrap();
}
