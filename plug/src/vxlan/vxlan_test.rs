use std::net::UdpSocket;

use link::{Fragment, FragmentMut, Link, RxBatch, TxBatch};

use super::*;

const VNI: &str = "vni=7";

fn config(text: &str) -> Result<VxlanConfig, LocatorError> {
    VxlanConfig::from_locator(&text.parse()?)
}

fn open(text: &str) -> DatagramLink<Vtep> {
    config(text).unwrap().open(text.to_owned()).unwrap()
}

/// Three far ends at addresses of their own and a port that is free there and here; and the link among them.
fn among_three() -> (DatagramLink<Vtep>, [UdpSocket; 3]) {
    let first = UdpSocket::bind("127.7.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let [second, third] = ["127.7.0.2", "127.7.0.3"].map(|host| UdpSocket::bind((host, port)).unwrap());
    let link =
        open(&format!("vxlan://127.7.0.1:{port}?{VNI}&peer=127.7.0.2:{port}&peer=127.7.0.3:{port}&local=127.7.0.9"));
    let far = [first, second, third];
    for socket in &far {
        socket.set_nonblocking(true).unwrap();
    }
    (link, far)
}

fn frame(to: u8, from: u8) -> Vec<u8> {
    let address = |station| if station == 0xff { [0xff; 6] } else { [2, 0, 0, 0, 0, station] };
    [&address(to)[..], &address(from), &[0x88, 0xb5], &[from; 50]].concat()
}

fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
    [&wire::emit(Vni::new(vni).unwrap())[..], frame].concat()
}

fn send(link: &mut DatagramLink<Vtep>, frames: &[Vec<u8>]) {
    let mut batch = TxBatch::new();
    for bytes in frames {
        batch.push(VnetHeader::WHOLE, [Fragment::new(bytes)]);
    }
    assert_eq!(link.send(&batch).unwrap(), frames.len());
}

/// On the loopback interface, what was sent is there.
fn receive(link: &mut DatagramLink<Vtep>) -> Vec<Vec<u8>> {
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

/// What each far end has got.
fn heard(far: &[UdpSocket; 3]) -> [Vec<Vec<u8>>; 3] {
    let all = |socket: &UdpSocket| {
        let mut buffer = [0; 2000];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())).collect()
    };
    far.each_ref().map(all)
}

#[test]
fn what_is_unknown_goes_to_every_peer_and_what_was_learned_to_one() {
    let (mut link, far) = among_three();
    let near = (std::net::Ipv4Addr::new(127, 7, 0, 9), far[0].local_addr().unwrap().port());
    let (unknown, broadcast) = (frame(2, 1), frame(0xff, 1));
    send(&mut link, &[unknown.clone(), broadcast.clone()]);
    assert_eq!(heard(&far), [(); 3].map(|()| vec![datagram(7, &unknown), datagram(7, &broadcast)]));
    assert_eq!(link.counters().tx_frames, 2);

    far[1].send_to(&datagram(7, &frame(0xff, 2)), near).unwrap();
    assert_eq!(receive(&mut link), [frame(0xff, 2)]);
    assert!(heard(&far).iter().all(Vec::is_empty), "what one peer says is not told to the others");
    send(&mut link, &[unknown.clone(), broadcast.clone()]);
    let flooded = vec![datagram(7, &broadcast)];
    assert_eq!(heard(&far), [flooded.clone(), vec![datagram(7, &unknown), datagram(7, &broadcast)], flooded]);

    // The station moves.
    far[2].send_to(&datagram(7, &frame(0xff, 2)), near).unwrap();
    assert_eq!(receive(&mut link).len(), 1);
    send(&mut link, std::slice::from_ref(&unknown));
    assert_eq!(heard(&far), [vec![], vec![], vec![datagram(7, &unknown)]]);
    assert_eq!(link.counters().drops.total(), 0);
}

#[test]
fn a_batch_to_three_peers_is_longer_than_one_system_call_and_keeps_its_order() {
    let (mut link, far) = among_three();
    let frames: Vec<_> = (0..100).map(|number| frame(0xff, number)).collect();
    send(&mut link, &frames);
    let expected: Vec<_> = frames.iter().map(|frame| datagram(7, frame)).collect();
    for heard in heard(&far) {
        assert!(heard == expected);
    }
    assert_eq!(link.counters().tx_frames, 100);
}

#[test]
fn an_answer_goes_to_the_peers_port_and_not_to_its_source_port() {
    let (mut link, far) = among_three();
    let near = (std::net::Ipv4Addr::new(127, 7, 0, 9), far[0].local_addr().unwrap().port());
    let by_flow = UdpSocket::bind("127.7.0.1:0").unwrap();
    by_flow.set_nonblocking(true).unwrap();
    by_flow.send_to(&datagram(7, &frame(0xff, 2)), near).unwrap();
    assert_eq!(receive(&mut link).len(), 1);
    send(&mut link, &[frame(2, 1)]);
    assert_eq!(heard(&far), [vec![datagram(7, &frame(2, 1))], vec![], vec![]]);
    assert!(by_flow.recv(&mut [0; 100]).is_err());
}

#[test]
fn hostile_datagrams_are_counted_and_teach_nothing() {
    let (mut link, far) = among_three();
    let near = (std::net::Ipv4Addr::new(127, 7, 0, 9), far[0].local_addr().unwrap().port());
    let good = datagram(7, &frame(0xff, 2));
    let stranger = UdpSocket::bind("127.7.0.4:0").unwrap();
    stranger.send_to(&good, near).unwrap();
    let without_vni = [&[0; 8][..], &frame(0xff, 2)].concat();
    let oversized = datagram(7, &[2; 1991 + 10]);
    for bad in
        [&[][..], &[8], &good[..7], &good[..8], &good[..21], &datagram(8, &frame(0xff, 2)), &without_vni, &oversized]
    {
        far[1].send_to(bad, near).unwrap();
    }
    assert!(receive(&mut link).is_empty());
    let drops: Vec<_> = link.counters().drops.iter().collect();
    let expected =
        [(DropReason::Runt, 5), (DropReason::Oversized, 1), (DropReason::Malformed, 1), (DropReason::Unserved, 2)];
    assert_eq!(drops, expected);
    send(&mut link, &[frame(2, 1)]);
    assert_eq!(heard(&far).map(|heard| heard.len()), [1, 1, 1]);
}

#[test]
fn a_peer_that_is_not_there_costs_its_copies_and_nothing_else() {
    let (mut link, far) = among_three();
    let [first, _, third] = far;
    for _ in 0..10 {
        send(&mut link, &[frame(0xff, 1)]);
    }
    let mut buffer = [0; 100];
    for socket in [first, third] {
        assert_eq!(std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count(), 10);
    }
    assert!(receive(&mut link).is_empty());
}

#[test]
fn a_locator_says_all_of_it() {
    let full = "vxlan://10.0.0.1:8472?vni=0x7&peer=10.0.0.2";
    assert!(config(full).is_err(), "decimal only");
    let parsed = config(
        "vxlan://10.0.0.1:8472?vni=16777215&peer=host&peer=[fd00::1]:1&local=10.0.0.9\
         &port=4790&ttl=3&dev=eth0&ageing=20&mtu=9000",
    );
    let peer = |host: &str, port| Endpoint { host: host.to_owned(), port };
    let expected = VxlanConfig {
        peers: vec![peer("10.0.0.1", 8472), peer("host", 4789), peer("fd00::1", 1)],
        vni: Vni::new(Vni::MAX).unwrap(),
        local: Some(peer("10.0.0.9", 0)),
        port: 4790,
        ttl: Some(3),
        dev: Some("eth0".to_owned()),
        ageing: Duration::from_secs(20),
        mtu: Some(9000),
    };
    assert_eq!(parsed, Ok(expected));
    let plain = config("vxlan://10.0.0.1?vni=7").unwrap();
    assert_eq!((plain.port, plain.ageing, plain.ttl), (4789, DEFAULT_AGEING, None));
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |text: &str, words: &str| {
        let error = config(text).map_err(|error| error.to_string());
        let error = error.and_then(|config| config.open(text.to_owned()).map(drop).map_err(|error| error.to_string()));
        let error = error.unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    };
    refused("vxlan://10.0.0.1", "vxlan: vni=: expected the network's number, 0 to 16777215");
    refused("vxlan://10.0.0.1?vni=16777216", "vxlan: vni=16777216: expected");
    refused("vxlan://?vni=1", "vxlan: peer=: expected 1 to 64 VTEPs");
    refused("vxlan://:4789?vni=1", "vxlan: peer=:4789: expected HOST or HOST:PORT");
    refused("vxlan://10.0.0.1?vni=1&colour=red", "unknown option 'colour'");
    refused("vxlan://10.0.0.1?vni=1&ttl=0", "vxlan: ttl=0: expected 1 to 255");
    refused("vxlan://10.0.0.1?vni=1&ageing=0", "vxlan: ageing=0: expected seconds");
    refused("vxlan://239.1.1.1?vni=1&peer=239.1.1.2", "239.1.1.2 is one group more than one");
    refused("vxlan://239.1.1.1?vni=1&port=5000", "port= has to be the same");
    refused("vxlan://[ff02::7]?vni=1", "ff02::7 is an IPv6 group");
    refused("vxlan://10.0.0.1?vni=1&peer=::1", "cannot find host '::1': it has no IPv4 address");
    refused("vxlan://127.0.0.1?vni=1&dev=nowhere0", "cannot use interface nowhere0: No such device");
}
