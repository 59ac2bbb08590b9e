use std::net::UdpSocket;

use link::{Fragment, FragmentMut, Link, RxBatch, TxBatch};

use super::*;

fn ours(text: &str) -> Result<L2tpv3Config, LocatorError> {
    L2tpv3Config::from_locator(&text.parse()?)
}

fn qemu(text: &str) -> Result<L2tpv3Config, LocatorError> {
    L2tpv3Config::from_locator(&Locator::from_qemu(text))
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|place| place as u8).collect()
}

fn send(link: &mut DatagramLink<Session>, bytes: &[u8]) {
    let mut batch = TxBatch::new();
    batch.push(VnetHeader::WHOLE, [Fragment::new(bytes)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

/// On the loopback interface, what was sent is there.
fn receive(link: &mut DatagramLink<Session>) -> Vec<Vec<u8>> {
    let mut memory = vec![0; 16 * 2000];
    let mut batch = RxBatch::new();
    for slot in memory.chunks_mut(2000) {
        batch.push([FragmentMut::new(slot)]);
    }
    link.receive(&mut batch).unwrap();
    let lens: Vec<_> = batch.frames().map(|(_, len)| len).collect();
    drop(batch);
    memory.chunks(2000).zip(lens).map(|(slot, len)| slot[..len].to_vec()).collect()
}

#[test]
fn both_spellings_mean_the_same() {
    let options = "rxsession=0xffffffff,txsession=34,rxcookie=0x1122334455667788,txcookie=5,cookie64=on,pincounter=on";
    let theirs = format!("l2tpv3,src=10.0.0.1,dst=10.0.0.2,udp=on,srcport=1701,dstport=1702,offset=4,{options}");
    let expected = L2tpv3Config {
        remote: Endpoint { host: "10.0.0.2".to_owned(), port: 1702 },
        local: Endpoint { host: "10.0.0.1".to_owned(), port: 1701 },
        family: Family::Any,
        layout: Layout { is_udp: true, cookie: CookieSize::Eight, has_counter: true, offset: 4 },
        pin_counter: true,
        tx: Header { session: 34, cookie: 5, counter: 0 },
        rx: Header { session: u32::MAX, cookie: 0x1122_3344_5566_7788, counter: 0 },
        mtu: None,
    };
    assert_eq!(qemu(&theirs), Ok(expected.clone()));
    let same =
        format!("l2tpv3://10.0.0.2:1702?src=10.0.0.1&srcport=1701&udp=on&offset=4&{}", options.replace(',', "&"));
    assert_eq!(ours(&same), Ok(expected));
    let raw = ours("l2tpv3://10.0.0.2?txsession=1").unwrap();
    assert_eq!((raw.layout, raw.rx, raw.local.port), (Layout::default(), raw.tx, 0));
    // One number for both ports, and for both sessions.
    assert_eq!(ours("l2tpv3://10.0.0.2:7?udp=on&txsession=1").unwrap().local.port, 7);
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |text: &str, words: &str| {
        let error = ours(text).unwrap_err().to_string();
        assert!(error.contains(words), "{text}: {error}");
    };
    refused("l2tpv3://?txsession=1", "l2tpv3: dst=: expected the far end's address");
    refused("l2tpv3://a?dst=b&txsession=1", "l2tpv3: dst=b: 'a' is given already");
    refused("l2tpv3://a:7?txsession=1", "l2tpv3: dst=a:7: a port belongs there with udp=on");
    refused("l2tpv3://a?txsession=1&srcport=7", "l2tpv3: srcport=7: expected a port, 1 to 65535, and udp=on");
    refused("l2tpv3://a?txsession=1&udp=on", "l2tpv3: dstport=: expected the far end's port");
    refused("l2tpv3://a", "l2tpv3: txsession=: expected the far end's session");
    refused("l2tpv3://a?txsession=0", "l2tpv3: txsession=0: session 0 is for control messages");
    refused("l2tpv3://a?txsession=0x100000000", "l2tpv3: txsession=0x100000000: expected a number of 32 bits");
    refused("l2tpv3://a?txsession=1&txcookie=4294967296", "txcookie=4294967296: expected a number of 32 bits");
    refused("l2tpv3://a?txsession=1&txcookie=1", "expected txcookie and rxcookie, or neither");
    refused("l2tpv3://a?txsession=1&cookie64=on", "expected txcookie and rxcookie, or neither");
    refused("l2tpv3://a?txsession=1&offset=49", "l2tpv3: offset=49: expected 0 to 48 bytes");
    refused("l2tpv3://a?txsession=1&mtu=67", "l2tpv3: mtu=67: expected 68 to 9216 bytes");
    refused("l2tpv3://a?txsession=1&colour=red", "unknown option 'colour'");
}

#[test]
fn over_udp_only_our_session_with_our_cookie_is_heard() {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = far.local_addr().unwrap().port();
    let options = "udp=on&src=127.8.0.1&txsession=34&rxsession=17&txcookie=5&rxcookie=6&counter=on";
    let text = format!("l2tpv3://127.0.0.1:{port}?{options}");
    let mut link = ours(&text).unwrap().open(text).unwrap();
    let mut buffer = [0; 2000];
    for counter in 1..=2 {
        send(&mut link, &frame(60));
        let len = far.recv(&mut buffer).unwrap();
        let header = [0, 3, 0, 0, 0, 0, 0, 34, 0, 0, 0, 5, 0, 0, 0, counter];
        assert_eq!(buffer[..len], [&header[..], &frame(60)].concat());
    }
    let near = ("127.8.0.1", port);
    let good = [&[0, 3, 0, 0, 0, 0, 0, 17, 0, 0, 0, 6, 9, 9, 9, 9][..], &frame(60)].concat();
    let with = |place: usize, byte: u8| {
        let mut bad = good.clone();
        bad[place] = byte;
        bad
    };
    let oversized = [&good[..16], &frame(2001)].concat();
    let bad = [with(7, 18), with(7, 0), with(11, 7), with(0, 0x80), with(1, 2), oversized, good[..29].to_vec()];
    for datagram in bad.iter().map(Vec::as_slice).chain([&[][..], &[0], &good[..15], &good[..16]]) {
        far.send_to(datagram, near).unwrap();
    }
    UdpSocket::bind("127.8.0.2:0").unwrap().send_to(&good, near).unwrap();
    far.send_to(&good, near).unwrap();
    assert_eq!(receive(&mut link), [frame(60)]);
    let drops: Vec<_> = link.counters().drops.iter().collect();
    let expected =
        [(DropReason::Runt, 5), (DropReason::Oversized, 1), (DropReason::Malformed, 1), (DropReason::Unserved, 4)];
    assert_eq!(drops, expected);
}
