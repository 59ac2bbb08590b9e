//! Runs of datagrams, joined and cut again.

use super::*;
use crate::soft::segment;

/// A datagram with a partial checksum, as a kernel sends it.
fn datagram(network: Network, id: u16, payload: &[u8]) -> (VnetHeader, Vec<u8>) {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let len = payload.len() + UDP_LEN;
    match network {
        Network::V4 => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(((IPV4_MIN + len) as u16).to_be_bytes());
            frame.extend(id.to_be_bytes());
            frame.extend([0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let mut sum = Sum::default();
            sum.add(&frame[14..]);
            frame[24..26].copy_from_slice(&sum.finish());
        }
        Network::V6 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((len as u16).to_be_bytes());
            frame.extend([17, 64]);
            frame.extend([0xfd; 32]);
        }
    }
    let start = frame.len() as u16;
    let packet = frame[14..].to_vec();
    frame.extend([0x12, 0x34, 0, 53]);
    frame.extend((len as u16).to_be_bytes());
    let mut sum = pseudo_sum(&packet, network, PROTOCOL_UDP).unwrap();
    sum.add_u16(len as u16);
    let [high, low] = sum.finish();
    frame.extend([!high, !low]);
    frame.extend(payload);
    let checksum = Checksum::Partial { start, offset: UDP_CHECKSUM as u16 };
    (VnetHeader { checksum, ..VnetHeader::WHOLE }, frame)
}

/// How many of the frames join the first.
fn run_of(frames: &[(VnetHeader, Vec<u8>)]) -> Option<DatagramRun> {
    let (header, first) = &frames[0];
    let mut run = DatagramRun::begin(header, first)?;
    for (header, frame) in &frames[1..] {
        if !run.extend(first, header, frame) {
            break;
        }
    }
    Some(run)
}

/// The frame with its checksum filled in.
fn finished((header, frame): &(VnetHeader, Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.clone();
    let Checksum::Partial { start, offset } = header.checksum else { panic!("no partial checksum") };
    crate::soft::finish_checksum(&mut frame, start, offset).unwrap();
    frame
}

#[test]
fn a_run_cut_again_is_what_went_in() {
    for network in [Network::V4, Network::V6] {
        for (count, last) in [(2, 22), (7, 5), (64, 22)] {
            let frames: Vec<_> = (0..count)
                .map(|i| {
                    datagram(
                        network,
                        0xfffe_u16.wrapping_add(i),
                        &vec![i as u8; if i + 1 == count { last } else { 22 }],
                    )
                })
                .collect();
            let run = run_of(&frames).unwrap();
            assert_eq!(run.count(), usize::from(count));
            let mut long = Vec::new();
            let header = run.append_headers(&frames[0].1, &mut long);
            for (_, frame) in &frames {
                long.extend(&frame[run.payload_at()..]);
            }
            let mut cut = Vec::new();
            segment(&header, &long, |headers, payload| cut.push([headers, payload].concat())).unwrap();
            assert_eq!(cut, frames.iter().map(finished).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_cutting_could_not_make_again_stays_out() {
    let first = datagram(Network::V4, 1, &[1; 22]);
    let next = datagram(Network::V4, 2, &[2; 22]);
    let joins = |other: (VnetHeader, Vec<u8>)| run_of(&[first.clone(), other]).unwrap().count() == 2;
    let changed = |at: usize, to: u8| {
        let mut other = next.clone();
        other.1[at] = to;
        other
    };
    assert!(joins(next.clone()));
    assert!(!joins(datagram(Network::V4, 2, &[2; 23])), "longer");
    assert!(!joins(datagram(Network::V4, 3, &[2; 22])), "a gap in the identification");
    assert!(!joins(datagram(Network::V6, 2, &[2; 22])), "another network");
    assert!(!joins(changed(5, 9)), "another station");
    assert!(!joins(changed(15, 1)), "another class");
    assert!(!joins(changed(22, 63)), "another time to live");
    assert!(!joins(changed(29, 9)), "another source");
    assert!(!joins(changed(35, 9)), "another port");
    assert!(!joins((VnetHeader::WHOLE, next.1.clone())), "a complete checksum");
    let mut padded = next.clone();
    padded.1.push(0);
    assert!(!joins(padded), "padding");
}

#[test]
fn a_shorter_datagram_ends_the_run() {
    let frames = [22, 10, 22].map(|len| datagram(Network::V6, 0, &vec![0; len]));
    assert_eq!(run_of(&frames).unwrap().count(), 2);
}

#[test]
fn the_identification_of_atomic_datagrams_means_nothing() {
    let frames = [7, 7, 7].map(|id| {
        let (header, mut frame) = datagram(Network::V4, id, &[0; 22]);
        frame[20] = IPV4_DONT_FRAGMENT;
        (header, frame)
    });
    assert_eq!(run_of(&frames).unwrap().count(), 3);
}

#[test]
fn a_run_stays_within_what_a_packet_holds() {
    let frames: Vec<_> = (0..64).map(|id| datagram(Network::V4, id, &[0; 1472])).collect();
    let run = run_of(&frames).unwrap();
    assert_eq!(run.count(), (65535 - 28) / 1472);
    assert!(run_of(&[datagram(Network::V4, 0, &[])]).is_none(), "nothing to be cut at");
}
