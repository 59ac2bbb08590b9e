//! VXLAN: the kernel's device in another namespace, with an address and with a group; and VTEPs of ours in a mesh.

use std::net::UdpSocket;
use std::time::Duration;

use netlab::process::Switch;
use netlab::station::{BROADCAST, Interface, Station, frame, new_address};
use netlab::world::{Host, PATIENCE, Transfer, lab, run, wait_until};

/// Long enough for a frame that will not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// A host behind a veth pair, `here` and `there`, with a vxlan device that has these settings.
fn with_device(settings: &str) -> Host {
    run("ip link add here type veth peer name there");
    Host::HERE.set_address("here", "10.9.0.1/24");
    let far = Host::with("far", "there", "10.9.0.2/24");
    // A veth pair hands over frames inside of a tunnel unfinished, and a program cannot see that; a wire would not.
    far.run("ethtool -K there tx off");
    far.run(&format!("ip link add vx0 type vxlan id 42 dev there {settings}"));
    far.set_address("vx0", "10.0.0.2/24");
    far
}

/// ARP, pings that fit and that do not, and checked TCP, both ways; the device has learned the station behind us.
fn carries_everything(far: &Host, port: &str) {
    let switch = Switch::start("a", &format!("-t tap0 --port {port}"));
    let left = Host::with("left", "tap0", "10.0.0.1/24");
    wait_until("the device is joined", PATIENCE, || left.reaches("10.0.0.2"));
    left.ping("-c 3", "10.0.0.2");
    far.ping("-c 3 -s 1472", "10.0.0.1");
    left.ping("-c 3 -s 1472", "10.0.0.2");
    Transfer::start(&left, far, "10.0.0.2:5000", 8 << 20).finish();
    Transfer::start(far, &left, "10.0.0.1:5000", 8 << 20).finish();
    let address = left.run("cat /sys/class/net/tap0/address").trim().to_owned();
    let learned = far.run("bridge fdb show dev vx0");
    assert!(learned.contains(&format!("{address} dst 10.9.0.1")), "{learned}");
    assert_eq!(switch.port(2)["drops"], serde_json::json!({}));
    assert_eq!(switch.warnings(), Vec::<String>::new());
}

#[test]
fn the_kernels_device_and_ours_reach_each_other_by_address() {
    lab(|| {
        let far = with_device("dstport 4789 local 10.9.0.2 remote 10.9.0.1");
        carries_everything(&far, "vxlan://10.9.0.2?vni=42&local=10.9.0.1");
    });
}

#[test]
fn the_kernels_device_and_ours_reach_each_other_by_group() {
    lab(|| {
        let far = with_device("dstport 8472 group 239.4.4.4");
        carries_everything(&far, "vxlan://239.4.4.4:8472?vni=42&dev=here");
    });
}

#[test]
fn the_group_is_left_for_the_station_that_was_learned() {
    lab(|| {
        let far = with_device("dstport 4789 group 239.4.4.4");
        let _switch = Switch::start("a", "-t tap0 --port vxlan://239.4.4.4?vni=42&local=10.9.0.1");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        wait_until("the device is joined", PATIENCE, || left.reaches("10.0.0.2"));
        let multicast = |host: &Host| -> u64 {
            let text = host.run("cat /proc/net/netstat");
            let mut lines = text.lines().filter(|line| line.starts_with("IpExt:")).map(str::split_whitespace);
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            names.zip(values).find(|(name, _)| *name == "InMcastPkts").unwrap().1.parse().unwrap()
        };
        let before = multicast(&far);
        left.ping("-c 20", "10.0.0.2");
        let more = multicast(&far) - before;
        assert!(more < 5, "{more} packets to the group");
    });
}

#[test]
fn two_of_ours_carry_jumbo_frames_where_the_path_has_room() {
    lab(|| {
        let vxlan = |far, near| format!("vxlan://127.0.0.{far}?vni=7&local=127.0.0.{near}");
        let _a = Switch::start("a", &format!("--port tap://tap0?mtu=9000 --port {}", vxlan(2, 1)));
        let _b = Switch::start("b", &format!("--port tap://tap1?mtu=9000 --port {}", vxlan(1, 2)));
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
        left.ping("-c 3 -s 8972", "10.0.0.2");
        Transfer::start(&left, &right, "10.0.0.2:5000", 32 << 20).finish();
        Transfer::start(&right, &left, "10.0.0.1:5000", 32 << 20).finish();
    });
}

#[test]
fn two_of_ours_reach_each_other_over_ipv6() {
    lab(|| {
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0");
        let vxlan = |far, near| format!("vxlan://[::1]:{far}?vni=7&local=::1&port={near}");
        let _a = Switch::start("a", &format!("-t tap0 --port {}", vxlan(4702, 4701)));
        let _b = Switch::start("b", &format!("-t tap1 --port {}", vxlan(4701, 4702)));
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
        Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20).finish();
    });
}

#[test]
fn what_one_of_three_peers_says_the_others_hear_once_and_nobody_passes_on() {
    lab(|| {
        let mesh = |own: u8| {
            let others: Vec<_> =
                (1..=3).filter(|other| *other != own).map(|other| format!("peer=127.0.0.{other}")).collect();
            format!("-t tap{own} --port vxlan://?vni=9&local=127.0.0.{own}&{}", others.join("&"))
        };
        let switches = [(1, "a"), (2, "b"), (3, "c")].map(|(own, name)| Switch::start(name, &mesh(own)));
        let mut stations = ["tap1", "tap2", "tap3"].map(|tap| {
            run(&format!("ip link set {tap} up"));
            Interface::open(&Host::HERE, tap)
        });
        let [a, b, c] = &mut stations;
        for number in 0..5 {
            a.send(&frame(BROADCAST, a.address(), number, 100));
        }
        let all = [0, 1, 2, 3, 4];
        assert_eq!(b.listen(A_WHILE), all, "each once");
        assert_eq!(c.listen(A_WHILE), all);
        assert_eq!(a.listen(A_WHILE), [0; 0], "none comes back");
        // Everybody knows where the first station is, and only it hears the answer.
        b.send(&frame(a.address(), b.address(), 10, 100));
        assert_eq!(a.listen(A_WHILE), [10]);
        assert_eq!(c.listen(A_WHILE), [0; 0]);
        assert_eq!(switches[2].port(2)["receive_frames"], 5);

        // A fourth that nobody named, and a peer in another network.
        let stranger = UdpSocket::bind("127.0.0.4:4789").unwrap();
        let datagram = |vni: u8| [&[8, 0, 0, 0, 0, 0, vni, 0][..], &frame(BROADCAST, new_address(), 20, 100)].concat();
        stranger.send_to(&datagram(9), "127.0.0.1:4789").unwrap();
        let peer = UdpSocket::bind("127.0.0.2:0").unwrap();
        peer.send_to(&datagram(8), "127.0.0.1:4789").unwrap();
        peer.send_to(&[0; 8], "127.0.0.1:4789").unwrap();
        peer.send_to(&[0; 60], "127.0.0.1:4789").unwrap();
        peer.send_to(&[], "127.0.0.1:4789").unwrap();
        assert_eq!(a.listen(A_WHILE), [0; 0]);
        let expected = serde_json::json!({"unserved": 2, "malformed": 2, "runt": 1});
        assert_eq!(switches[0].port(2)["drops"], expected);
    });
}
