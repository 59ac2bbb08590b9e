//! QEMU without a guest: the frames it announces itself with arrive at our links, and ours at its capture, byte for byte.

use std::fs;
use std::time::Duration;

use netlab::process::{Process, Switch};
use netlab::station::{BROADCAST, Interface, Station, frame};
use netlab::world::{Host, PATIENCE, lab, run, wait_until};

/// Long enough for a frame that will not come.
const A_WHILE: Duration = Duration::from_millis(300);
const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x77];
const ROUNDS: usize = 3;

#[test]
fn stream_to_a_listener_of_ours() {
    lab(|| exchange("listen://127.0.0.1:7001", "stream,id=n,addr.type=inet,addr.host=127.0.0.1,addr.port=7001"));
}

#[test]
fn stream_to_a_listener_of_qemus() {
    lab(|| exchange("stream:///run/qemu?reconnect=0.1", "stream,id=n,server=on,addr.type=unix,addr.path=/run/qemu"));
}

#[test]
fn socket_to_a_listener_of_ours() {
    lab(|| exchange("listen://127.0.0.1:7001", "socket,id=n,connect=127.0.0.1:7001"));
}

#[test]
fn socket_to_a_listener_of_qemus() {
    lab(|| exchange("stream://127.0.0.1:7001?reconnect=0.1", "socket,id=n,listen=127.0.0.1:7001"));
}

#[test]
fn dgram_between_addresses() {
    lab(|| {
        exchange(
            "udp://127.0.0.2:7002?local=127.0.0.1:7001",
            "dgram,id=n,local.type=inet,local.host=127.0.0.2,local.port=7002,\
         remote.type=inet,remote.host=127.0.0.1,remote.port=7001",
        )
    });
}

#[test]
fn dgram_between_socket_files() {
    lab(|| {
        exchange(
            "dgram:///run/theirs?local=/run/ours",
            "dgram,id=n,local.type=unix,local.path=/run/theirs,remote.type=unix,remote.path=/run/ours",
        )
    });
}

#[test]
fn dgram_to_a_group() {
    lab(|| {
        exchange(
            "dgram://230.0.0.1:7001?local=127.0.0.1",
            "dgram,id=n,remote.type=inet,remote.host=230.0.0.1,remote.port=7001,local.type=inet,local.host=127.0.0.1,\
         local.port=0",
        )
    });
}

#[test]
fn socket_to_a_group() {
    lab(|| exchange("mcast://230.0.0.1:7001?local=127.0.0.1", "socket,id=n,mcast=230.0.0.1:7001,localaddr=127.0.0.1"));
}

#[test]
fn socket_between_addresses() {
    lab(|| exchange("udp://7001->127.0.0.1:7002", "socket,id=n,udp=127.0.0.1:7001,localaddr=127.0.0.1:7002"));
}

#[test]
fn l2tpv3_over_udp() {
    lab(|| {
        exchange(
            "l2tpv3://127.0.0.2:7002?udp=on&src=127.0.0.1&srcport=7001&txsession=0x22&rxsession=0x11&txcookie=0xdeadbeef\
         &rxcookie=0x1234&counter=on",
            "l2tpv3,id=n,udp=on,src=127.0.0.2,dst=127.0.0.1,srcport=7002,dstport=7001,txsession=0x11,rxsession=0x22,\
         txcookie=0x1234,rxcookie=0xdeadbeef,counter=on",
        )
    });
}

#[test]
fn l2tpv3_over_udp_with_everything_in_its_header() {
    lab(|| {
        exchange(
            "l2tpv3://127.0.0.2:7002?udp=on&src=127.0.0.1&srcport=7001&txsession=2&rxsession=1&cookie64=on\
         &txcookie=0x1122334455667788&rxcookie=0xffffffffffffffff&pincounter=on&offset=4",
            "l2tpv3,id=n,udp=on,src=127.0.0.2,dst=127.0.0.1,srcport=7002,dstport=7001,txsession=1,rxsession=2,cookie64=on,\
         txcookie=0xffffffffffffffff,rxcookie=0x1122334455667788,counter=on,pincounter=on,offset=4",
        )
    });
}

#[test]
fn l2tpv3_over_ip() {
    lab(|| {
        exchange(
            "l2tpv3://127.0.0.2?src=127.0.0.1&txsession=0x22&rxsession=0x11&txcookie=7&rxcookie=8",
            "l2tpv3,id=n,src=127.0.0.2,dst=127.0.0.1,txsession=0x11,rxsession=0x22,txcookie=8,rxcookie=7",
        )
    });
}

#[test]
fn l2tpv3_over_ipv6() {
    lab(|| {
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0");
        run("ip addr add fd00::1/128 dev lo");
        run("ip addr add fd00::2/128 dev lo");
        exchange(
            "l2tpv3://fd00::2?src=fd00::1&ipv6=on&txsession=1",
            "l2tpv3,id=n,src=fd00::2,dst=fd00::1,ipv6=on,txsession=1,rxsession=1",
        );
    });
}

/// Frames pass both ways between a switch's port and a netdev; QEMU ends and comes again, and they pass once more.
fn exchange(port: &str, netdev: &str) {
    let switch = Switch::start("a", &format!("-t tap0 --port {port} --port pcap:///run/heard.pcap"));
    run("ip link set tap0 up");
    let mut tap = Interface::open(&Host::HERE, "tap0");
    for round in 1..=2 {
        let mut qemu = Process::start(&format!(
            "qemu-system-x86_64 -M q35 -accel tcg -nodefaults -display none -m 64 -qmp stdio -netdev {netdev} \
             -device rtl8139,netdev=n,mac=52:54:00:00:00:77,romfile= \
             -object filter-dump,id=d,netdev=n,file=/run/{round}.pcap"
        ));
        qemu.tell(b"{\"execute\":\"qmp_capabilities\"}\n");
        qemu.wait_for("\"return\"");
        wait_until("the link has carrier", PATIENCE, || switch.port(2)["carrier"] == true);
        // A card that a guest has not set up drops what it gets: an e1000 would hold up what follows the first frame.
        let announce = b"{\"execute\":\"announce-self\",\
            \"arguments\":{\"initial\":50,\"max\":50,\"rounds\":3,\"step\":0}}\n";
        qemu.tell(announce);
        wait_until("QEMU's frames are there", PATIENCE, || captured("/run/heard.pcap", &MAC).len() >= round * ROUNDS);
        assert_eq!(captured("/run/heard.pcap", &MAC), vec![announcement(); round * ROUNDS]);

        let own = tap.address();
        let sent: Vec<_> = [46, 47, 300, 1458, 1500].iter().map(|len| frame(BROADCAST, own, 1, *len)).collect();
        let dump = format!("/run/{round}.pcap");
        // One by one: QEMU's l2tpv3 passes on only the first of those that came together.
        for (number, frame) in sent.iter().enumerate() {
            tap.send(frame);
            wait_until("our frame is there", PATIENCE, || captured(&dump, &own).len() > number);
        }
        assert_eq!(captured(&dump, &own), sent);
        assert_eq!(tap.listen(A_WHILE), [0; 0], "none comes back");
        assert_eq!(switch.port(2)["drops"], serde_json::json!({}));
        qemu.tell(b"{\"execute\":\"quit\"}\n");
        qemu.wait(PATIENCE);
        // A connection ends with it; what carries datagrams cannot know.
        let is_connection = port.starts_with("stream") || port.starts_with("listen");
        wait_until("the link has none", PATIENCE, || !is_connection || switch.port(2)["carrier"] == false);
    }
    assert_eq!(switch.warnings(), Vec::<String>::new());
}

/// The RARP request by which QEMU says where a card is.
fn announcement() -> Vec<u8> {
    let rarp = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
    let mut frame = [&BROADCAST[..], &MAC, &rarp, &MAC, &[0; 4], &MAC, &[0; 4]].concat();
    frame.resize(60, 0);
    frame
}

/// The frames in a capture that this station has sent, as far as they are written.
fn captured(file: &str, station: &[u8; 6]) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).unwrap_or_default();
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut frames = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some((frame, others)) = tail.split_at_checked(len) else { break };
        rest = others;
        if &frame[6..12] == station {
            frames.push(frame.to_vec());
        }
    }
    frames
}
