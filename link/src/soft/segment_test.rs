//! Every segment is read back by etherparse, and hostile frames are thrown at the parser.

use super::*;
use crate::soft::sample::{Random, Sample, read};

fn cut(header: &VnetHeader, frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
    let mut segments = Vec::new();
    let count = segment(header, frame, |headers, payload| segments.push([headers, payload].concat()))?;
    assert_eq!(count, segments.len());
    Ok(segments)
}

fn assert_cut_well(sample: &Sample) {
    let (header, frame) = sample.frame();
    let segments = cut(&header, &frame).unwrap();
    assert_eq!(segments.len(), sample.segments());
    let mut payload = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let is_last = index + 1 == segments.len();
        let seen = read(segment);
        let Checksum::Partial { start, .. } = header.checksum else { unreachable!() };
        assert_eq!(segment[..14], frame[..14]);
        assert_eq!(segment.len() - seen.payload.len(), frame.len() - sample.payload.len(), "header lengths");
        assert!(is_last || seen.payload.len() == usize::from(sample.gso_size));
        if !sample.v6 {
            assert_eq!(seen.ip_id, Sample::IP_ID.wrapping_add(index as u16));
        }
        if !sample.udp {
            assert_eq!(seen.sequence, Sample::SEQUENCE.wrapping_add(payload.len() as u32));
            let dropped = if is_last { 0 } else { 0x09 } | if index == 0 { 0 } else { 0x80 };
            assert_eq!(seen.tcp_flags, sample.tcp_flags & !dropped);
            assert_eq!(segment[usize::from(start)..][..4], frame[usize::from(start)..][..4], "ports");
        }
        payload.extend(seen.payload);
    }
    assert_eq!(payload, sample.payload);
}

#[test]
fn segments_of_random_frames_satisfy_an_independent_parser() {
    for seed in 0..600 {
        let sample = Sample::random(&mut Random(seed));
        println!("seed {seed}: {} bytes at {}", sample.payload.len(), sample.gso_size);
        assert_cut_well(&sample);
    }
}

#[test]
fn every_size_around_a_segment_boundary_is_cut_well() {
    for payload in [0, 1, 99, 100, 101, 199, 200, 201, 999, 1000, 1001] {
        for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_cut_well(&Sample { v6, udp, tcp_flags: 0xff, ..Sample::tcp4(payload, 100) });
        }
    }
}

#[test]
fn fin_and_psh_close_the_last_segment_and_cwr_opens_the_first() {
    let (header, frame) = Sample { tcp_flags: 0x99, ..Sample::tcp4(300, 100) }.frame();
    let flags: Vec<_> = cut(&header, &frame).unwrap().iter().map(|segment| read(segment).tcp_flags).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
}

#[test]
fn a_partial_checksum_is_finished() {
    for seed in 0..200 {
        let sample = Sample::random(&mut Random(seed));
        let (header, mut frame) = sample.partial();
        let Checksum::Partial { start, offset } = header.checksum else { unreachable!() };
        finish_checksum(&mut frame, start, offset).unwrap();
        assert_eq!(read(&frame).payload, sample.payload);
    }
}

#[test]
fn a_udp_checksum_of_zero_becomes_all_ones_and_a_tcp_one_stays() {
    let mut udp = Sample { udp: true, ..Sample::tcp4(2, 2) };
    udp.payload = vec![0, 0];
    let (header, mut frame) = udp.partial();
    let Checksum::Partial { start, offset } = header.checksum else { unreachable!() };
    finish_checksum(&mut frame, start, offset).unwrap();
    // What is missing to a sum of 0xffff makes the checksum zero.
    udp.payload = frame[usize::from(start + offset)..][..2].to_vec();
    let (header, mut frame) = udp.partial();
    finish_checksum(&mut frame, start, offset).unwrap();
    assert_eq!(frame[usize::from(start + offset)..][..2], [0xff, 0xff]);
    let gso = VnetHeader { gso_type: GsoType::Udp, gso_size: 2, ..header };
    let (_, unfinished) = udp.frame();
    let segments = cut(&gso, &unfinished).unwrap();
    assert_eq!(segments, [frame]);

    let mut zeros = vec![0xff; 40];
    zeros[20..].fill(0);
    finish_checksum(&mut zeros, 14, 16).unwrap();
    assert_eq!(zeros[30..32], [0, 0]);
}

#[test]
fn what_the_frame_contradicts_is_a_bad_offload() {
    let sample = Sample::tcp4(3000, 1000);
    let (header, frame) = sample.frame();
    let bad = |header: VnetHeader, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = frame.clone();
        change(&mut frame);
        assert_eq!(cut(&header, &frame), Err(DropReason::BadOffload));
    };
    bad(VnetHeader { gso_type: GsoType::TcpV6, ..header }, &|_| ());
    bad(VnetHeader { gso_type: GsoType::Udp, ..header }, &|_| ());
    bad(VnetHeader { gso_type: GsoType::None, ..header }, &|_| ());
    bad(VnetHeader { gso_size: 0, ..header }, &|_| ());
    bad(VnetHeader { gso_size: 1, ..header }, &|_| ());
    bad(VnetHeader { checksum: Checksum::Complete, ..header }, &|_| ());
    bad(VnetHeader { checksum: Checksum::Partial { start: 36, offset: 16 }, ..header }, &|_| ());
    bad(VnetHeader { checksum: Checksum::Partial { start: 34, offset: 6 }, ..header }, &|_| ());
    bad(header, &|frame| frame.push(0));
    bad(header, &|frame| frame.truncate(1000));
    bad(header, &|frame| frame.truncate(54));
    bad(header, &|frame| frame[12] = 0x86);
    bad(header, &|frame| frame[14] = 0x44);
    bad(header, &|frame| frame[14] = 0x65);
    bad(header, &|frame| frame[20] = 0x20);
    bad(header, &|frame| frame[21] = 1);
    bad(header, &|frame| frame[23] = 17);
    bad(header, &|frame| frame[46] = 0x40);
    assert_eq!(cut(&header, &frame[..13]), Err(DropReason::Runt));
}

#[test]
fn three_tags_a_fragment_header_and_a_waypoint_are_bad_offloads() {
    let (header, frame) = Sample { tags: 2, ..Sample::tcp4(100, 50) }.frame();
    let mut tagged = frame.clone();
    tagged.splice(12..12, [0x81, 0, 0, 1]);
    let moved = VnetHeader { checksum: Checksum::Partial { start: 46, offset: 16 }, ..header };
    assert_eq!(cut(&moved, &tagged), Err(DropReason::BadOffload));
    for (kind, fourth) in [(44, 0), (43, 1)] {
        let (header, mut frame) = Sample { v6: true, extras: true, ..Sample::tcp4(100, 50) }.frame();
        frame[20] = kind;
        frame[54 + 3] = fourth;
        assert_eq!(cut(&header, &frame), Err(DropReason::BadOffload));
    }
}

#[test]
fn hostile_frames_never_panic() {
    let mut random = Random(42);
    let mut cut_well = 0;
    for _ in 0..150_000 {
        let (mut header, mut frame) = Sample::random_below(&mut random, 200).frame();
        for _ in 0..1 + random.below(4) {
            let at = random.below(frame.len().min(120));
            frame[at] = random.next() as u8;
        }
        match random.below(4) {
            0 => frame.truncate(random.below(frame.len() + 1)),
            1 => header.gso_size = random.next() as u16 & 0xff,
            2 => {
                let (start, offset) = (random.next() as u16 & 0x7f, random.next() as u16 & 0x1f);
                header.checksum = Checksum::Partial { start, offset };
            }
            _ => {}
        }
        cut_well += usize::from(cut(&header, &frame).is_ok());
        if let Checksum::Partial { start, offset } = header.checksum {
            let _ = finish_checksum(&mut frame, start, offset);
        }
    }
    assert!(cut_well > 10_000, "{cut_well} of the frames were still fit to be cut");
}
