//! DHCPv6 as its clients speak it, through the whole core.

use link::VnetHeader;

use super::*;
use crate::config::Config;
use crate::host::Host;
use crate::nat::Nat;
use crate::testing::*;
use crate::wire::{IpHeader, UDP, UDP_PROTOCOL};

const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x15);

/// Options found, in their order.
type Found = Vec<(u16, Vec<u8>)>;

fn found(bytes: &[u8]) -> Found {
    Options(bytes).map(|option| option.unwrap()).map(|(code, value)| (code, value.to_vec())).collect()
}

fn get(options: &Found, code: u16) -> Option<&[u8]> {
    options.iter().find(|(found, _)| *found == code).map(|(_, value)| &value[..])
}

fn option_bytes(code: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, code, value);
    out
}

/// A frame with a client's message.
fn frame(kind: u8, options: &[u8]) -> Vec<u8> {
    let message = [&[kind, 1, 2, 3][..], options].concat();
    let mut datagram = vec![0; UDP];
    wire::put_udp(&mut datagram, CLIENT_PORT, SERVER_PORT, message.len());
    datagram.extend(message);
    wire::fill_udp_checksum(CLIENT, GROUP, &mut datagram);
    let mut frame = packet_of(IpHeader::whole(CLIENT, GROUP, UDP_PROTOCOL, 0), &datagram);
    frame[..6].copy_from_slice(&wire::multicast_mac(GROUP).0);
    frame
}

/// Sends a message; the type of the answer and its options.
fn ask<H: Host>(nat: &mut Nat<H>, now: Instant, kind: u8, options: &[u8]) -> Option<(u8, Found)> {
    nat.input(now, &VnetHeader::WHOLE, &frame(kind, options));
    let mut answer = None;
    while let Some((_, frame)) = nat.output(now) {
        let (protocol, from, to, datagram) = parse_any(frame);
        if protocol != UDP_PROTOCOL {
            continue;
        }
        assert_eq!((from, to), ("fe80::2".parse().unwrap(), CLIENT.into()));
        assert_eq!(wire::transport_sum(from, to, UDP_PROTOCOL, &datagram), 0xffff);
        assert_eq!((wire::be16(&datagram, 0), wire::be16(&datagram, 2)), (547, 546));
        assert_eq!(datagram[9..12], [1, 2, 3], "the transaction");
        answer = Some((datagram[8], found(&datagram[12..])));
    }
    answer
}

fn client(n: u8) -> Vec<u8> {
    option_bytes(option::CLIENT, &[0, 3, 0, 1, 2, 0, 0, 0, 0, n])
}

fn server() -> Vec<u8> {
    option_bytes(option::SERVER, &[0, 3, 0, 1, 0x52, 0x56, 0, 0, 0, 2])
}

fn association(address: Option<&str>) -> Vec<u8> {
    let mut options = Vec::new();
    if let Some(address) = address {
        put_address(&mut options, address.parse().unwrap(), Duration::ZERO);
    }
    option_bytes(option::IA_NA, &[&[9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], &options].concat())
}

/// The addresses and their lifetimes in the answer's association, or its status.
fn addresses(options: &Found) -> Result<Vec<(String, u32)>, u16> {
    let inner = found(&get(options, option::IA_NA).unwrap()[IA_HEADER..]);
    if let Some(status) = get(&inner, option::STATUS) {
        return Err(wire::be16(status, 0));
    }
    let seconds = |value: &[u8]| u32::from_be_bytes(value[20..24].try_into().unwrap());
    Ok(inner.iter().map(|(_, value)| (wire::address6(value, 0).to_string(), seconds(value))).collect())
}

fn nat(config: Config) -> (Nat<Model>, Instant) {
    let now = Instant::now();
    (Nat::new(config, Model::default(), 1, now).unwrap(), now)
}

#[test]
fn an_information_request_is_answered_with_the_settings() {
    let config = Config { search: vec!["a.example".parse().unwrap()], ..Config::default() };
    let (mut nat, now) = nat(config);
    for options in [vec![], client(1), server()] {
        let (kind, options) = ask(&mut nat, now, INFORMATION_REQUEST, &options).unwrap();
        assert_eq!(kind, REPLY);
        assert_eq!(get(&options, option::SERVER).unwrap(), &server()[4..]);
        assert_eq!(get(&options, option::DNS).unwrap(), DNS6.octets());
        assert_eq!(get(&options, option::SEARCH).unwrap(), b"\x01a\x07example\0");
        assert_eq!(get(&options, option::IA_NA), None);
    }
    assert_eq!(nat.drops().total(), 0);
}

#[test]
fn what_to_boot_is_told_as_a_url() {
    for (file, url) in [("pxe/a.efi", "tftp://[fec0::2]/pxe/a.efi"), ("http://boot.example/a", "http://boot.example/a")]
    {
        let (mut nat, now) = nat(Config { bootfile: Some(file.to_owned()), ..Config::default() });
        let (_, options) = ask(&mut nat, now, INFORMATION_REQUEST, &[]).unwrap();
        assert_eq!(get(&options, option::BOOT_URL).unwrap(), url.as_bytes());
    }
}

#[test]
fn a_restricted_guest_is_not_told_of_a_name_server() {
    let (mut nat, now) = nat(Config { restrict: true, ..Config::default() });
    let (_, options) = ask(&mut nat, now, INFORMATION_REQUEST, &[]).unwrap();
    assert_eq!(get(&options, option::DNS), None);
}

#[test]
fn an_address_is_offered_bound_renewed_and_released() {
    let (mut nat, now) = nat(Config::default());
    let (kind, options) = ask(&mut nat, now, SOLICIT, &[client(1), association(None)].concat()).unwrap();
    assert_eq!((kind, get(&options, option::CLIENT).unwrap()), (ADVERTISE, &client(1)[4..]));
    assert_eq!(addresses(&options).unwrap(), [("fec0::15".to_owned(), 86400)]);
    assert_eq!(get(&options, option::IA_NA).unwrap()[..12], [9, 9, 9, 9, 0, 0, 0xa8, 0xc0, 0, 1, 0x0e, 0]);
    let named = [client(1), server(), association(Some("fec0::15"))].concat();
    for kind in [REQUEST, RENEW] {
        let (kind, options) = ask(&mut nat, now, kind, &named).unwrap();
        assert_eq!((kind, addresses(&options).unwrap()), (REPLY, vec![("fec0::15".to_owned(), 86400)]));
    }
    let rebind = [client(1), association(Some("fec0::15"))].concat();
    assert_eq!(ask(&mut nat, now, REBIND, &rebind).unwrap().0, REPLY);
    // Another guest wants it, and gets another; the one it cannot have is taken from it.
    let other = [client(2), server(), association(Some("fec0::15"))].concat();
    let (_, options) = ask(&mut nat, now, REQUEST, &other).unwrap();
    assert_eq!(addresses(&options).unwrap(), [("fec0::16".to_owned(), 86400), ("fec0::15".to_owned(), 0)]);
    let (_, options) = ask(&mut nat, now, RELEASE, &named).unwrap();
    assert_eq!(get(&options, option::STATUS).unwrap(), [0, 0]);
    let third = [client(3), server(), association(Some("fec0::15"))].concat();
    assert_eq!(addresses(&ask(&mut nat, now, REQUEST, &third).unwrap().1).unwrap()[0].0, "fec0::15");
    let unknown = [client(9), server(), association(None)].concat();
    assert_eq!(addresses(&ask(&mut nat, now, RELEASE, &unknown).unwrap().1), Err(NO_BINDING));
}

#[test]
fn rapid_commit_binds_at_once() {
    let (mut nat, now) = nat(Config::default());
    let rapid = [client(1), association(None), option_bytes(option::RAPID_COMMIT, &[])].concat();
    let (kind, options) = ask(&mut nat, now, SOLICIT, &rapid).unwrap();
    assert_eq!((kind, get(&options, option::RAPID_COMMIT)), (REPLY, Some(&[][..])));
    // An hour later, when an offer would be over, it is still the same guest's.
    let later = now + Duration::from_secs(3600);
    let other = [client(2), association(Some("fec0::15"))].concat();
    assert_eq!(addresses(&ask(&mut nat, later, SOLICIT, &other).unwrap().1).unwrap()[0].0, "fec0::16");
}

#[test]
fn there_are_sixteen_addresses_and_they_run_out() {
    let (mut nat, now) = nat(Config::default());
    let request = |n| [client(n), server(), association(None)].concat();
    for n in 0..16 {
        let (_, options) = ask(&mut nat, now, REQUEST, &request(n)).unwrap();
        assert_eq!(addresses(&options).unwrap()[0].0, format!("fec0::{:x}", 0x15 + n));
    }
    assert_eq!(addresses(&ask(&mut nat, now, REQUEST, &request(16)).unwrap().1), Err(NO_ADDRESSES));
    assert_eq!(addresses(&ask(&mut nat, now, REQUEST, &request(3)).unwrap().1).unwrap()[0].0, "fec0::18");
    let later = now + LEASE_TIME + Duration::from_secs(1);
    assert!(addresses(&ask(&mut nat, later, REQUEST, &request(16)).unwrap().1).is_ok());
}

#[test]
fn an_address_is_confirmed_if_it_belongs_here() {
    let (mut nat, now) = nat(Config::default());
    for (address, status) in [("fec0::77", SUCCESS), ("2001:db8::1", NOT_ON_LINK)] {
        let confirm = [client(1), association(Some(address))].concat();
        let (_, options) = ask(&mut nat, now, CONFIRM, &confirm).unwrap();
        assert_eq!(get(&options, option::STATUS).unwrap(), status.to_be_bytes());
    }
}

#[test]
fn messages_that_are_not_for_us_or_bad_are_a_counted_drop() {
    let another = option_bytes(option::SERVER, &[0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    let bad = [
        (SOLICIT, vec![]),
        (SOLICIT, [client(1), server()].concat()),
        (REQUEST, [client(1), association(None)].concat()),
        (REQUEST, [client(1), another, association(None)].concat()),
        (CONFIRM, [client(1), association(None)].concat()),
        (INFORMATION_REQUEST, association(None)),
        (ADVERTISE, client(1)),
        (REPLY, client(1)),
        (12, client(1)),
        (SOLICIT, option_bytes(option::CLIENT, &[])),
        (SOLICIT, option_bytes(option::CLIENT, &[0; 131])),
        (SOLICIT, [client(1), option_bytes(option::IA_NA, &[0; 11])].concat()),
        (
            SOLICIT,
            [client(1), option_bytes(option::IA_NA, &[&[0; 12][..], &[0, 5, 0, 4, 1, 1, 1, 1]].concat())].concat(),
        ),
        (SOLICIT, [client(1), option_bytes(option::IA_NA, &[&[0; 12][..], &[0, 5, 0, 99]].concat())].concat()),
        (SOLICIT, [client(1), vec![0, 3, 0, 99]].concat()),
        (SOLICIT, [client(1), vec![0, 3, 0]].concat()),
    ];
    for (i, (kind, options)) in bad.into_iter().enumerate() {
        let (mut nat, now) = nat(Config::default());
        assert!(ask(&mut nat, now, kind, &options).is_none(), "{i}");
        assert_eq!(nat.drops().total(), 1, "{i}");
    }
    let solicit = [client(1), association(Some("fec0::15"))].concat();
    let whole = Message::parse(&[&[SOLICIT, 1, 2, 3][..], &solicit].concat()).is_ok();
    assert!(whole);
    for len in (0..solicit.len()).filter(|&len| len != 0 && len != client(1).len()) {
        assert!(Message::parse(&[&[SOLICIT, 1, 2, 3][..], &solicit[..len]].concat()).is_err(), "{len}");
    }
}
