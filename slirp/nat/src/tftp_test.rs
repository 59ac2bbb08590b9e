//! The server against a client in the test, through the whole core.

use std::net::SocketAddrV4;

use super::*;
use crate::config::Config;
use crate::testing::*;

const OCTET: &[u8] = b"octet\0";

fn lab(files: &[(&str, Vec<u8>)]) -> Lab<Model> {
    let files = files.iter().map(|(name, bytes)| (name.as_bytes().to_vec(), bytes.clone())).collect();
    let model = Model { files, ..Model::default() };
    Lab::with(Config { tftp: Some("/srv".into()), ..Config::default() }, model)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

fn request(name: &str, mode: &[u8], options: &str) -> Vec<u8> {
    let options = options.split_terminator(' ').flat_map(|word| [word.as_bytes(), &[0]].concat());
    [&[0, 1], name.as_bytes(), &[0], mode].concat().into_iter().chain(options).collect()
}

fn acknowledgement(block: u16) -> Vec<u8> {
    [&[0, 4][..], &block.to_be_bytes()].concat()
}

/// Sends a packet from a client's port; returns the packets that come back.
fn ask(lab: &mut Lab<Model>, port: u16, packet: &[u8]) -> Vec<Vec<u8>> {
    let frames = lab.exchange(datagram(port, SocketAddrV4::new(GATEWAY, PORT), packet));
    frames.iter().filter_map(|frame| answer(frame, port)).collect()
}

fn answer(frame: &[u8], port: u16) -> Option<Vec<u8>> {
    let (protocol, from, _, datagram) = parse(frame);
    assert_eq!((protocol, from), (17, GATEWAY));
    assert_eq!(wire::be16(&datagram, 0), PORT);
    (wire::be16(&datagram, 2) == port).then(|| datagram[8..].to_vec())
}

fn error_code(packets: &[Vec<u8>]) -> u16 {
    assert_eq!(packets.len(), 1);
    assert_eq!(packets[0][..2], [0, 5]);
    assert_eq!(packets[0].last(), Some(&0));
    wire::be16(&packets[0], 2)
}

/// Takes a whole file, one block at a time, from the first packets on; returns it and the number of blocks.
fn take(lab: &mut Lab<Model>, port: u16, mut packets: Vec<Vec<u8>>, block: usize) -> (Vec<u8>, u64) {
    let (mut bytes, mut count) = (Vec::new(), 0u64);
    if packets[0][..2] == [0, 6] {
        packets = ask(lab, port, &acknowledgement(0));
    }
    loop {
        assert_eq!(packets.len(), 1);
        count += 1;
        assert_eq!(packets[0][..2], [0, 3]);
        assert_eq!(wire::be16(&packets[0], 2), count as u16);
        bytes.extend(&packets[0][4..]);
        let len = packets[0].len() - 4;
        packets = ask(lab, port, &acknowledgement(count as u16));
        if len < block {
            assert!(packets.is_empty());
            return (bytes, count);
        }
    }
}

#[test]
fn files_of_every_length_arrive_and_leave_nothing_behind() {
    for (len, blocks) in [(0, 1), (1, 1), (511, 1), (512, 2), (513, 2), (5120, 11)] {
        let mut lab = lab(&[("dir/file", pattern(len))]);
        let first = ask(&mut lab, 2000, &request("/dir/file", OCTET, ""));
        assert_eq!(take(&mut lab, 2000, first, 512), (pattern(len), blocks), "{len}");
        assert!(lab.host().open_files.is_empty());
        lab.pass(TIMEOUT * 20);
        assert_eq!(lab.nat.deadline(), None);
    }
}

#[test]
fn block_numbers_go_on_behind_65535() {
    let mut lab = lab(&[("f", pattern(8 * 66_000 + 3))]);
    let first = ask(&mut lab, 2000, &request("f", OCTET, "blksize 8"));
    let (bytes, blocks) = take(&mut lab, 2000, first, 8);
    assert!(bytes == pattern(8 * 66_000 + 3));
    assert_eq!(blocks, 66_001);
}

#[test]
fn options_are_agreed_on_in_any_case_and_unknown_ones_left_out() {
    let mut lab = lab(&[("f", pattern(3000))]);
    let words = "tsize 0 BlkSize 1468 multicast x timeout 3 blksize2 9 windowsize 400";
    let answer = ask(&mut lab, 2000, &request("f", b"OcTeT\0", words)).remove(0);
    assert_eq!(answer[2..], *b"tsize\x003000\0BlkSize\x001468\0timeout\x003\0windowsize\x0064\0");
    for (option, offered) in [
        ("blksize 7", None),
        ("blksize 99999999", Some("blksize\x0065464\0")),
        ("timeout 0", None),
        ("timeout 256", None),
        ("windowsize 0", None),
        ("blksize -1", None),
        ("tsize", None),
        ("tsize 0", None),
    ] {
        let mut lab = self::lab(&[("f", pattern(if option == "tsize 0" { 0 } else { 3000 }))]);
        let answer = ask(&mut lab, 2000, &request("f", OCTET, option)).remove(0);
        match offered {
            Some(offered) => assert_eq!(answer[2..], *offered.as_bytes()),
            None => assert_eq!(answer[..4], [0, 3, 0, 1], "{option}"),
        }
    }
}

#[test]
fn blocks_longer_than_a_packet_arrive_in_fragments() {
    let mut lab = lab(&[("f", pattern(10_000))]);
    ask(&mut lab, 2000, &request("f", OCTET, "blksize 8192"));
    lab.exchange(datagram(2000, SocketAddrV4::new(GATEWAY, PORT), &acknowledgement(0)));
    let fragments = lab.exchange(datagram(2000, SocketAddrV4::new(GATEWAY, PORT), &acknowledgement(1)));
    // The rest, 1808 bytes, is in two.
    assert_eq!(fragments.len(), 2);
}

#[test]
fn silence_is_answered_by_repetition_and_then_by_the_end() {
    let mut lab = lab(&[("f", pattern(100))]);
    assert_eq!(ask(&mut lab, 2000, &request("f", OCTET, "")).len(), 1);
    let begun = lab.now;
    let mut repeated = Vec::new();
    while lab.nat.deadline().is_some() {
        lab.pass(TIMEOUT * 100);
        let packets: Vec<_> = lab.guest.others.drain(..).filter_map(|frame| answer(&frame, 2000)).collect();
        repeated.extend(packets.iter().map(|packet| ((lab.now - begun).as_secs(), packet[1])));
    }
    assert_eq!(repeated, [(1, 3), (3, 3), (7, 3), (15, 3), (23, 3), (31, 3), (39, 5)]);
    assert!(lab.host().open_files.is_empty());
    // The client's own timeout stays.
    let begun = lab.now;
    ask(&mut lab, 2000, &request("f", OCTET, "timeout 2"));
    lab.pass(TIMEOUT * 100);
    lab.pass(TIMEOUT * 100);
    assert_eq!((lab.now - begun).as_secs(), 4);
    assert_eq!(lab.guest.others.len(), 2);
}

#[test]
fn a_doubled_acknowledgement_does_not_double_the_transfer() {
    let mut lab = lab(&[("f", pattern(5000))]);
    ask(&mut lab, 2000, &request("f", OCTET, ""));
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(1)).len(), 1);
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(1)).len(), 0);
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(0)).len(), 0);
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(9)).len(), 0);
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(2)).len(), 1);
}

#[test]
fn a_window_is_sent_at_once_and_repeated_from_what_arrived() {
    let mut lab = lab(&[("f", pattern(512 * 9 + 1))]);
    ask(&mut lab, 2000, &request("f", OCTET, "windowsize 4"));
    let numbers = |packets: Vec<Vec<u8>>| packets.iter().map(|p| wire::be16(p, 2)).collect::<Vec<_>>();
    assert_eq!(numbers(ask(&mut lab, 2000, &acknowledgement(0))), [1, 2, 3, 4]);
    assert_eq!(numbers(ask(&mut lab, 2000, &acknowledgement(2))), [3, 4, 5, 6]);
    assert_eq!(numbers(ask(&mut lab, 2000, &acknowledgement(2))), [3, 4, 5, 6], "asked for again");
    assert_eq!(numbers(ask(&mut lab, 2000, &acknowledgement(2))), [0; 0], "once only");
    lab.pass(TIMEOUT * 2);
    let again = lab.guest.others.drain(..).filter_map(|frame| answer(&frame, 2000)).collect();
    assert_eq!(numbers(again), [3, 4, 5, 6]);
    let last = ask(&mut lab, 2000, &acknowledgement(6));
    assert_eq!(last[3][4..], pattern(512 * 9 + 1)[512 * 9..]);
    assert_eq!(numbers(last), [7, 8, 9, 10]);
    assert!(ask(&mut lab, 2000, &acknowledgement(10)).is_empty());
    assert!(lab.host().open_files.is_empty());
}

#[test]
fn text_gets_the_line_ends_of_the_network() {
    let text = b"one\ntwo\r\nthree\r".repeat(100);
    let mut lab = lab(&[("f", text.clone())]);
    for block in [8, 9, 512] {
        // No windows and no length for text.
        let options = format!("windowsize 8 tsize 0 blksize {block}");
        let first = ask(&mut lab, 2000, &request("f", b"netascii\0", &options));
        assert_eq!(first[0][2..], *format!("blksize\0{block}\0").as_bytes());
        let (bytes, _) = take(&mut lab, 2000, first, block);
        assert!(bytes == b"one\r\ntwo\r\0\r\nthree\r\0".repeat(100), "{block}");
    }
}

#[test]
fn what_is_refused_is_told_by_its_code() {
    let mut lab = lab(&[("f", pattern(10))]);
    for (packet, code) in [
        (request("missing", OCTET, ""), 1),
        (request("../f", OCTET, ""), 2),
        (request("dir/../f", OCTET, ""), 2),
        (request("/", OCTET, ""), 2),
        (request("f", b"mail\0", ""), 4),
        ([&[0, 2][..], b"f\0octet\0"].concat(), 2),
        (vec![0, 9], 4),
        (acknowledgement(1), 5),
    ] {
        assert_eq!(error_code(&ask(&mut lab, 2000, &packet)), code, "{}", packet.escape_ascii());
    }
    assert!(lab.host().open_files.is_empty());
}

#[test]
fn broken_packets_and_errors_of_clients_get_no_answer() {
    let mut lab = lab(&[("f", pattern(1000))]);
    let whole = request("f", OCTET, "blksize 8");
    for len in 0..4 + OCTET.len() - 1 {
        assert!(ask(&mut lab, 2000, &whole[..len]).is_empty(), "{len}");
    }
    assert!(ask(&mut lab, 2000, &[0, 5, 0, 0, 0]).is_empty());
    ask(&mut lab, 2000, &request("f", OCTET, ""));
    assert!(ask(&mut lab, 2000, b"\0\x05\0\x08no\0").is_empty());
    assert!(lab.host().open_files.is_empty());
    assert!(lab.nat.drops().total() > 0);
}

#[test]
fn a_repeated_request_is_a_copy_at_first_and_a_new_beginning_later() {
    let mut lab = lab(&[("f", pattern(5000))]);
    let first = request("f", OCTET, "");
    ask(&mut lab, 2000, &first);
    assert_eq!(wire::be16(&ask(&mut lab, 2000, &acknowledgement(1))[0], 2), 2);
    assert!(ask(&mut lab, 2000, &first).is_empty());
    assert_eq!(wire::be16(&ask(&mut lab, 2000, &acknowledgement(2))[0], 2), 3);
    lab.now += COPY;
    assert_eq!(wire::be16(&ask(&mut lab, 2000, &first)[0], 2), 1);
    assert_eq!(lab.host().open_files.len(), 1);
}

#[test]
fn too_many_transfers_end_the_one_heard_of_longest_ago() {
    let mut lab = lab(&[("f", pattern(5000))]);
    for port in 0..MAX_TRANSFERS as u16 {
        ask(&mut lab, 2000 + port, &request("f", OCTET, ""));
        lab.now += Duration::from_millis(1);
    }
    ask(&mut lab, 2000, &acknowledgement(1));
    assert_eq!(lab.nat.drops().total(), 0);
    assert_eq!(ask(&mut lab, 5000, &request("f", OCTET, "")).len(), 1);
    assert_eq!(lab.nat.drops().get(DropReason::Limit), 1);
    assert_eq!(lab.host().open_files.len(), MAX_TRANSFERS);
    assert_eq!(error_code(&ask(&mut lab, 2001, &acknowledgement(1))), 5, "it gave way");
    assert_eq!(ask(&mut lab, 2000, &acknowledgement(2)).len(), 1, "it was heard of");
}

#[test]
fn without_a_folder_there_is_no_server() {
    let mut lab = Lab::new();
    assert!(lab.exchange(datagram(2000, SocketAddrV4::new(GATEWAY, PORT), &request("f", OCTET, ""))).is_empty());
    assert!(lab.host().open_files.is_empty());
}

#[test]
fn a_restricted_guest_is_served() {
    let mut model = Model::default();
    model.files.insert(b"f".to_vec(), pattern(10));
    let mut lab = Lab::with(Config { tftp: Some("/srv".into()), restrict: true, ..Config::default() }, model);
    assert_eq!(ask(&mut lab, 2000, &request("f", OCTET, "")).len(), 1);
}

#[test]
fn hostile_packets_cost_drops_and_nothing_else() {
    let mut lab = lab(&[("f", pattern(5000))]);
    let mut random = crate::env::Random::new(11);
    let valid = [
        request("f", OCTET, "blksize 8 windowsize 64 tsize 0 timeout 1"),
        request("f", b"netascii\0", "blksize 65464"),
        acknowledgement(0),
        acknowledgement(1),
        vec![0, 5, 0, 1, 0],
    ];
    for _ in 0..50_000 {
        let mut packet = valid[random.next() as usize % valid.len()].clone();
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % packet.len();
            packet[at] = random.next() as u8;
        }
        packet.truncate(packet.len() - random.next() as usize % 3);
        let port = 2000 + (random.next() % 8) as u16;
        lab.nat.input(lab.now, &link::VnetHeader::WHOLE, &datagram(port, SocketAddrV4::new(GATEWAY, PORT), &packet));
        while lab.nat.output(lab.now).is_some() {}
        lab.now += Duration::from_millis(random.next() % 50);
        lab.nat.expire(lab.now);
        assert!(lab.host().open_files.len() <= 8);
    }
    assert!(lab.nat.drops().get(DropReason::Malformed) > 1000);
    // Time ends what is left, and a client is served as before.
    while lab.nat.deadline().is_some() {
        lab.pass(TIMEOUT * 100);
    }
    lab.guest.others.clear();
    assert!(lab.host().open_files.is_empty());
    let first = ask(&mut lab, 3000, &request("f", OCTET, ""));
    assert_eq!(take(&mut lab, 3000, first, 512).0, pattern(5000));
}
