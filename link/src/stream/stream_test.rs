//! Streams over socket pairs and pipes.

use std::io::Write;
use std::os::unix::net::UnixStream;

use super::*;
use crate::{Checksum, FragmentMut, GsoType, VnetHeader};

/// A stream and the far end of it.
fn stream(framing: Framing, opening: Opening<'_>) -> (FrameStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    (over(near, framing, opening), far)
}

fn over(near: UnixStream, framing: Framing, opening: Opening<'_>) -> FrameStream {
    let output = near.try_clone().unwrap();
    FrameStream::new(near.into(), output.into(), framing, opening).unwrap()
}

fn send(stream: &mut FrameStream, header: VnetHeader, frames: &[&[u8]]) {
    let mut batch = TxBatch::new();
    frames.iter().for_each(|frame| batch.push(header, [Fragment::new(&frame[..4]), Fragment::new(&frame[4..])]));
    assert_eq!(stream.send(&batch).unwrap(), frames.len());
}

fn try_receive(stream: &mut FrameStream) -> io::Result<Option<(VnetHeader, Vec<u8>)>> {
    let mut buffer = vec![0; 70_000];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut buffer)]);
    stream.receive(&mut batch)?;
    let frame = batch.frames().next();
    Ok(frame.map(|(header, len)| (header, buffer[..len].to_vec())))
}

fn read(far: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    far.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn frames_pass_both_ways_in_each_framing() {
    for (framing, prefix) in [(Framing::Vde, &[0, 60][..]), (Framing::Qemu, &[0, 0, 0, 60])] {
        let (mut near, mut far) = stream(framing, Opening::Silent);
        send(&mut near, VnetHeader::WHOLE, &[&[7; 60], &[8; 60]]);
        let expected = [prefix, &[7; 60], prefix, &[8; 60]].concat();
        assert_eq!(read(&mut far, expected.len()), expected);
        far.write_all(&expected[..30]).unwrap();
        assert_eq!(try_receive(&mut near).unwrap(), None);
        far.write_all(&expected[30..]).unwrap();
        assert_eq!(try_receive(&mut near).unwrap().unwrap().1, [7; 60]);
        assert_eq!(try_receive(&mut near).unwrap().unwrap().1, [8; 60]);
        assert_eq!(try_receive(&mut near).unwrap(), None);
        assert_eq!((near.counters().tx_frames, near.counters().rx_frames), (2, 2));
    }
}

#[test]
fn two_of_ours_agree_and_long_frames_pass_uncut() {
    for openings in [
        [Opening::Greet, Opening::Greet],
        [Opening::Hello(Some("way")), Opening::Greet],
        [Opening::Silent, Opening::Hello(Some("way"))],
    ] {
        let (near, far) = UnixStream::pair().unwrap();
        let mut ends = [over(near, Framing::Vde, openings[0]), over(far, Framing::Vde, openings[1])];
        send(&mut ends[0], VnetHeader::WHOLE, &[&[1; 60]]);
        for _ in 0..4 {
            for end in &mut ends {
                end.service().unwrap();
            }
            let [one, other] = &mut ends;
            assert_eq!(try_receive(one).unwrap(), None);
            if let Some((_, frame)) = try_receive(other).unwrap() {
                assert_eq!(frame, [1; 60]);
            }
        }
        assert!(ends.iter().all(|end| end.is_agreed() && end.capabilities().offloads == Offloads::ALL), "{openings:?}");
        let offers = openings.map(|opening| if let Opening::Hello(data) = opening { data } else { None });
        assert_eq!([ends[1].peer_data(), ends[0].peer_data()], offers);
        assert_eq!(ends[1].counters().rx_frames, 1);
        let header = VnetHeader {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso_type: GsoType::TcpV4,
            gso_size: 1448,
            ..VnetHeader::WHOLE
        };
        send(&mut ends[1], header, &[&[9; 64_000]]);
        let received = try_receive(&mut ends[0]).unwrap().unwrap();
        assert_eq!((received.0, received.1.len()), (header, 64_000));
    }
}

#[test]
fn a_far_side_that_never_reads_costs_the_oldest_frames() {
    let (mut near, mut far) = stream(Framing::Vde, Opening::Silent);
    let number = |number: u32| [vec![0; 14], number.to_be_bytes().to_vec(), vec![0; 1400]].concat();
    for index in 0..2000 {
        send(&mut near, VnetHeader::WHOLE, &[&number(index)]);
    }
    let dropped = near.counters().drops.get(DropReason::LinkFull);
    assert!((100..1700).contains(&dropped), "{dropped}");
    let mut numbers = Vec::new();
    while numbers.last() != Some(&1999) {
        let record = read(&mut far, 2 + 1418);
        assert_eq!(record[..2], 1418_u16.to_be_bytes());
        numbers.push(u32::from_be_bytes(record[16..20].try_into().unwrap()));
        near.service().unwrap();
    }
    assert!(numbers.is_sorted() && numbers[0] == 0, "what had begun is not dropped");
    assert_eq!(numbers.len() as u64, 2000 - dropped);
    assert_eq!(near.counters().tx_frames, 2000 - dropped, "what was dropped was not sent");
}

#[test]
fn the_end_comes_after_what_was_sent_before_it() {
    let (mut near, mut far) = stream(Framing::Vde, Opening::Silent);
    far.write_all(&[&[0, 60][..], &[7; 60], &[0]].concat()).unwrap();
    drop(far);
    assert_eq!(try_receive(&mut near).unwrap().unwrap().1, [7; 60]);
    assert_eq!(try_receive(&mut near).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn garbage_is_an_error_that_shows_it() {
    let (mut near, mut far) = stream(Framing::Vde, Opening::Silent);
    far.write_all(b"bash: vde_plug: command not found\n").unwrap();
    let error = try_receive(&mut near).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("'bash: vde_plug: command not found'"), "{error}");
}

#[test]
fn a_frame_for_which_the_far_side_needs_ours_is_not_sent_to_another() {
    let (mut near, far) = stream(Framing::Vde, Opening::Silent);
    let partial = VnetHeader { checksum: Checksum::Partial { start: 34, offset: 16 }, ..VnetHeader::WHOLE };
    send(&mut near, partial, &[&[0; 60]]);
    send(&mut near, VnetHeader::WHOLE, &[&[0; 10], &[0; 9300]]);
    let drops = near.counters().drops;
    assert_eq!(drops.get(DropReason::BadOffload), 1);
    assert_eq!((drops.get(DropReason::Runt), drops.get(DropReason::Oversized)), (1, 1));
    far.set_nonblocking(true).unwrap();
    assert!((&far).read(&mut [0]).is_err());
}

#[test]
fn descriptors_get_their_flags_back() {
    let (near, _far) = UnixStream::pair().unwrap();
    let kept = near.try_clone().unwrap();
    let is_blocking = || !OFlag::from_bits_retain(fcntl(&kept, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK);
    let stream = over(near, Framing::Vde, Opening::Silent);
    assert!(!is_blocking());
    drop(stream);
    assert!(is_blocking());
}
