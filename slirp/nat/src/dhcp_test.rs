//! The server through the core: who gets which address, and what is in the answers.

use super::*;
use crate::testing::{GATEWAY, GUEST, GUEST_MAC, Lab, Model, packet_from, parse};

const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// An answer's fields and options.
struct Answer {
    to: Ipv4Addr,
    bytes: Vec<u8>,
}

impl Answer {
    fn option(&self, code: u8) -> Option<Vec<u8>> {
        let mut rest = &self.bytes[FIXED..];
        let mut found: Option<Vec<u8>> = None;
        while let [code_here, len, tail @ ..] = rest {
            if *code_here == option::END {
                break;
            }
            let (value, tail) = tail.split_at(usize::from(*len));
            if *code_here == code {
                found.get_or_insert_default().extend(value);
            }
            rest = tail;
        }
        found
    }

    fn kind(&self) -> Option<u8> {
        self.option(option::MESSAGE_TYPE).map(|value| value[0])
    }

    fn address(&self) -> Ipv4Addr {
        wire::address(&self.bytes, 16)
    }

    fn text(&self, field: std::ops::Range<usize>) -> &[u8] {
        self.bytes[field].split(|byte| *byte == 0).next().unwrap()
    }
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// Sends what is behind the fixed part of a message; takes the answer.
fn ask(lab: &mut Lab<Model>, mac: MacAddr, own: Ipv4Addr, behind: &[u8]) -> Option<Answer> {
    let mut message = vec![0; 236];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[12..16].copy_from_slice(&own.octets());
    message[28..34].copy_from_slice(&mac.0);
    message.extend(behind);
    message.resize(message.len().max(300), 0);
    let mut datagram = vec![0; wire::UDP];
    wire::put_udp(&mut datagram, CLIENT_PORT, SERVER_PORT, message.len());
    datagram.extend(message);
    let mut frame = packet_from(own, Ipv4Addr::BROADCAST, wire::UDP_PROTOCOL, &datagram);
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&mac.0);
    let mut answers = lab.exchange(frame);
    // Whoever is new hears a router advertisement too.
    answers.retain(|answer| answer[12..14] == wire::ETHERTYPE_IPV4.to_be_bytes());
    assert!(answers.len() <= 1);
    let (_, from, to, datagram) = parse(&answers.pop()?);
    assert_eq!(from, GATEWAY);
    Some(Answer { to, bytes: datagram[wire::UDP..].to_vec() })
}

/// A DHCP message of this kind.
fn dhcp(lab: &mut Lab<Model>, kind: u8, mac: MacAddr, own: Ipv4Addr, options: &[&[u8]]) -> Option<Answer> {
    ask(lab, mac, own, &[&COOKIE[..], &[53, 1, kind], &options.concat(), &[255]].concat())
}

fn lease(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, 15 + n)
}

fn wants(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [50, 4, a, b, c, d]
}

#[test]
fn a_guest_is_told_where_to_boot_from() {
    let config = Config { bootfile: Some("pxe/menu.ipxe".into()), ..Config::default() };
    let mut lab = Lab::with(config.clone(), Model::default());
    let offer = dhcp(&mut lab, DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert_eq!(wire::address(&offer.bytes, 20), GATEWAY);
    assert_eq!(offer.text(FILE), b"pxe/menu.ipxe");
    assert_eq!(offer.option(67).unwrap(), b"pxe/menu.ipxe");
    assert_eq!((offer.text(SERVER_NAME), offer.option(66)), (&b""[..], None));

    let named = Config { tftp_server_name: Some("boot.example".into()), ..config.clone() };
    let offer = dhcp(&mut Lab::with(named, Model::default()), DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert_eq!(wire::address(&offer.bytes, 20), GATEWAY);
    assert_eq!(offer.text(SERVER_NAME), b"boot.example");
    assert_eq!(offer.option(66).unwrap(), b"boot.example");

    let elsewhere = Config { tftp_server_name: Some("192.0.2.7".into()), ..config };
    let offer = dhcp(&mut Lab::with(elsewhere, Model::default()), DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert_eq!(wire::address(&offer.bytes, 20), Ipv4Addr::new(192, 0, 2, 7));
}

#[test]
fn names_too_long_for_their_field_are_in_their_option() {
    let name = "n".repeat(200);
    let config = Config { tftp_server_name: Some(name.clone()), ..Config::default() };
    let offer = dhcp(&mut Lab::with(config, Model::default()), DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert_eq!(offer.text(SERVER_NAME), b"");
    assert_eq!(offer.option(66).unwrap(), name.as_bytes());
}

#[test]
fn bootp_clients_get_a_lease_for_ever_in_300_bytes() {
    let config = Config { bootfile: Some("kernel".into()), hostname: Some("h".parse().unwrap()), ..Config::default() };
    for vendor in [&COOKIE[..], &[99, 130, 83, 99, 255], &[0; 64], &[1, 2, 3, 4]] {
        let mut lab = Lab::with(config.clone(), Model::default());
        let answer = ask(&mut lab, mac(1), NONE, vendor).unwrap();
        assert_eq!((answer.bytes.len(), answer.address(), answer.to), (300, lease(0), lease(0)));
        assert_eq!((answer.kind(), answer.option(51), answer.option(54)), (None, None, None));
        assert_eq!(answer.option(1).unwrap(), [255, 255, 255, 0]);
        assert_eq!(answer.option(3).unwrap(), GATEWAY.octets());
        assert_eq!(answer.option(12).unwrap(), b"h");
        assert_eq!(answer.text(FILE), b"kernel");
        let own = Ipv4Addr::new(10, 0, 2, 77);
        let answer = ask(&mut lab, mac(9), own, vendor).unwrap();
        assert_eq!((answer.address(), answer.to, answer.text(FILE)), (own, own, &b"kernel"[..]));
        lab.now += 10 * LEASE_TIME;
        assert_eq!(dhcp(&mut lab, DISCOVER, mac(2), NONE, &[]).unwrap().address(), lease(1));
        assert_eq!(ask(&mut lab, mac(1), NONE, vendor).unwrap().address(), lease(0));
    }
}

#[test]
fn every_common_option_is_there_and_the_search_list_is_compressed() {
    let names = ["eng.lab.example", "lab.example", "x.lab.example", "other"];
    let config =
        Config { mtu: 9000, search: names.iter().map(|name| name.parse().unwrap()).collect(), ..Config::default() };
    let mut lab = Lab::with(config, Model::default());
    let offer = dhcp(&mut lab, DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert_eq!(offer.option(28).unwrap(), [10, 0, 2, 255]);
    assert_eq!(offer.option(26).unwrap(), 9000u16.to_be_bytes());
    assert_eq!(offer.option(119).unwrap(), b"\x03eng\x03lab\x07example\0\xc0\x04\x01x\xc0\x04\x05other\0");
}

#[test]
fn a_message_is_as_long_as_the_client_takes() {
    let search: Vec<Name> = (0..40).map(|n| format!("domain-number-{n}.test{n}").parse().unwrap()).collect();
    let config = Config { search, ..Config::default() };
    let whole = search_list(&config.search);
    assert!((600..1000).contains(&whole.len()), "{}", whole.len());
    let mut lab = Lab::with(config, Model::default());
    let short = dhcp(&mut lab, DISCOVER, GUEST_MAC, NONE, &[]).unwrap();
    assert!(short.bytes.len() <= MAX_MESSAGE);
    let long = dhcp(&mut lab, DISCOVER, GUEST_MAC, NONE, &[&[57, 2, 0xff, 0xff]]).unwrap();
    assert_eq!(long.option(119).unwrap(), whole);
}

#[test]
fn a_guest_keeps_its_address_through_the_stages_of_its_boot() {
    let mut lab = Lab::new();
    let own_id = [61, 5, 255, 1, 2, 3, 4];
    let mac_id = [&[61, 7, 1][..], &mac(1).0].concat();
    let wanted = wants(lease(0));
    // A boot ROM, a client without an identifier, one with its own; then the machine gets another card.
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(1), NONE, &[&mac_id]).unwrap().address(), lease(0));
    assert_eq!(dhcp(&mut lab, REQUEST, mac(1), NONE, &[&mac_id, &wanted]).unwrap().kind(), Some(ACK));
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(1), NONE, &[]).unwrap().address(), lease(0));
    assert_eq!(dhcp(&mut lab, REQUEST, mac(1), NONE, &[&own_id, &wanted]).unwrap().kind(), Some(ACK));
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(2), NONE, &[&own_id]).unwrap().address(), lease(0));
    // Two identifiers behind one card are two guests.
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(2), NONE, &[&[61, 2, 255, 9]]).unwrap().address(), lease(1));
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(2), NONE, &[&own_id]).unwrap().address(), lease(0));
}

#[test]
fn a_declined_address_is_left_alone_for_a_while() {
    let mut lab = Lab::new();
    let server = [54, 4, 10, 0, 2, 2];
    dhcp(&mut lab, DISCOVER, mac(1), NONE, &[]);
    dhcp(&mut lab, REQUEST, mac(1), NONE, &[&wants(lease(0)), &server]);
    // Nobody declines what is another's.
    assert!(dhcp(&mut lab, DECLINE, mac(2), NONE, &[&wants(lease(0)), &server]).is_none());
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(1), NONE, &[]).unwrap().address(), lease(0));
    assert!(dhcp(&mut lab, DECLINE, mac(1), NONE, &[&wants(lease(0)), &server]).is_none());
    assert_eq!(dhcp(&mut lab, DISCOVER, mac(1), NONE, &[]).unwrap().address(), lease(1));
    assert_eq!(dhcp(&mut lab, REQUEST, mac(3), NONE, &[&wants(lease(0))]).unwrap().kind(), Some(NAK));
    lab.now += DECLINED_TIME;
    assert_eq!(dhcp(&mut lab, REQUEST, mac(3), NONE, &[&wants(lease(0))]).unwrap().kind(), Some(ACK));
}

#[test]
fn an_informed_guest_keeps_its_own_address() {
    let mut lab = Lab::new();
    let own = Ipv4Addr::new(10, 0, 2, 99);
    let answer = dhcp(&mut lab, INFORM, GUEST_MAC, own, &[]).unwrap();
    assert_eq!((answer.kind(), answer.address(), answer.to), (Some(ACK), NONE, own));
    assert_eq!(answer.option(51), None);
    assert_eq!(answer.option(6).unwrap(), [10, 0, 2, 3]);
}

#[test]
fn a_lease_is_renewed_rebound_and_taken_up_again_after_a_new_start() {
    let mut lab = Lab::new();
    // INIT-REBOOT: the server knows nothing of it.
    assert_eq!(dhcp(&mut lab, REQUEST, GUEST_MAC, NONE, &[&wants(lease(4))]).unwrap().kind(), Some(ACK));
    // RENEWING, REBINDING: the client uses its address, and asks for none.
    let answer = dhcp(&mut lab, REQUEST, GUEST_MAC, lease(4), &[]).unwrap();
    assert_eq!((answer.kind(), answer.address()), (Some(ACK), lease(4)));
    assert_eq!(wire::address(&answer.bytes, 12), lease(4));
    // The network is another one.
    let nak = dhcp(&mut lab, REQUEST, mac(1), NONE, &[&[50, 4, 192, 168, 1, 7]]).unwrap();
    assert_eq!((nak.kind(), nak.to, nak.address()), (Some(NAK), Ipv4Addr::BROADCAST, NONE));
    // Another server was chosen.
    assert!(dhcp(&mut lab, REQUEST, mac(1), NONE, &[&wants(GUEST), &[54, 4, 10, 0, 2, 9]]).is_none());
}

#[test]
fn a_broken_option_makes_the_message_malformed() {
    let mut lab = Lab::new();
    for options in [&[53, 2, 1, 1][..], &[50, 3, 1, 2, 3], &[54, 0], &[53, 1, DISCOVER, 50, 200]] {
        let before = lab.nat.drops().get(DropReason::Malformed);
        assert!(ask(&mut lab, mac(1), NONE, &[&COOKIE[..], options].concat()).is_none());
        assert_eq!(lab.nat.drops().get(DropReason::Malformed), before + 1, "{options:?}");
    }
}

#[test]
fn hostile_messages_cost_drops_and_nothing_else() {
    let mut lab = Lab::new();
    let mut random = crate::env::Random::new(5);
    for _ in 0..50_000 {
        let mut behind = [&COOKIE[..], &[53, 1, (random.next() % 9) as u8]].concat();
        for _ in 0..random.next() % 4 {
            let code = [50, 54, 57, 61, 55, 0, 255, 53][random.next() as usize % 8];
            let len = [0, 1, 2, 4, 7, 255][random.next() as usize % 6];
            behind.extend([code, len]);
            behind.extend((0..random.next() % 9).map(|_| random.next() as u8));
        }
        let own = if random.next().is_multiple_of(4) { lease((random.next() % 20) as u8) } else { NONE };
        ask(&mut lab, mac((random.next() % 40) as u8), own, &behind);
        lab.now += Duration::from_millis(random.next() % 200);
    }
    assert!(lab.nat.drops().get(DropReason::Malformed) > 1000 && lab.nat.drops().get(DropReason::Limit) > 0);
    lab.now += 2 * LEASE_TIME;
    assert!(dhcp(&mut lab, DISCOVER, mac(200), NONE, &[]).is_some());
}
