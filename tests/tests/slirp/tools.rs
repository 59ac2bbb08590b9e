//! What the tools of the field see through the NAT: routers, ways, names.

use std::fs;

use netlab::process::{Process, program};
use netlab::routed::{self, Routed};
use netlab::world::{Host, PATIENCE, has_interface, lab, run, wait_until};

/// A guest behind the NAT, which is behind a router; the guest is configured by hand and by advertisements.
struct World {
    guest: Host,
    _routed: Routed,
    _plug: Process,
}

impl World {
    fn new() -> Self {
        let routed = Routed::new();
        let mut plug = Process::start(&format!("{} user:// tap://tap0", program("plug").display()));
        plug.wait_until("the TAP is there", || has_interface("tap0"));
        let guest = routed::host("guest");
        run("ip link set tap0 netns guest");
        guest.set_address("tap0", "10.0.2.15/24");
        guest.run("ip route add default via 10.0.2.2");
        wait_until("a router is advertised", PATIENCE, || {
            guest.run("ip -6 route show default").contains("via fe80::2")
        });
        Self { guest, _routed: routed, _plug: plug }
    }
}

#[test]
fn rdisc6_sees_the_router_and_what_it_offers() {
    lab(|| {
        let World { guest, .. } = &World::new();
        let said = guest.run("rdisc6 -1 tap0");
        for line in [
            "Stateful address conf.    :           No",
            "Stateful other conf.      :          Yes",
            "MTU                      :         1500 bytes",
            " Prefix                   : fec0::/64",
            " Recursive DNS server     : fec0::3",
            " from fe80::2",
        ] {
            assert!(said.contains(line), "'{line}' is not in\n{said}");
        }
        assert!(guest.run("ndisc6 -1 fec0::2 tap0").contains("Target link-layer address: 52:56:00:00:00:02"));
    });
}

#[test]
fn traceroute_and_mtr_show_every_hop_in_both_families() {
    lab(|| {
        let World { guest, .. } = &World::new();
        for (family, target, hops) in [
            ("-4", "203.0.113.1", ["10.0.2.2", "198.51.100.2", "203.0.113.1"]),
            ("-6", "2001:db8:2::1", ["fec0::2", "2001:db8:1::2", "2001:db8:2::1"]),
        ] {
            let traced = guest.run(&format!("traceroute {family} -n -w 2 -q 1 {target}"));
            let seen: Vec<_> = traced.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(seen, hops, "{traced}");
            let report = guest.run(&format!("mtr {family} -n -r -c 3 -i 0.2 {target}"));
            for hop in hops {
                let line = report.lines().find(|line| line.contains(hop)).unwrap_or_else(|| panic!("{hop}:\n{report}"));
                assert!(line.contains(" 0.0%"), "{report}");
            }
        }
    });
}

#[test]
fn dnsperf_gets_every_answer_by_datagrams_and_connections() {
    lab(|| {
        fs::write("/run/resolv.conf", "nameserver 127.0.0.1\n").unwrap();
        run("mount --bind /run/resolv.conf /etc/resolv.conf");
        let records: String = (0..100).map(|n| format!(" --address=/host{n}.example/192.0.2.{n}")).collect();
        let options = "-d -C /dev/null --user=root --no-resolv --bind-interfaces --listen-address=127.0.0.1";
        let mut server = Process::start(&format!("dnsmasq {options}{records}"));
        server.wait_for("started");
        let World { guest, .. } = &World::new();
        let questions: String = (0..100).map(|n| format!("host{n}.example A\n")).collect();
        fs::write("/run/questions", questions).unwrap();
        for address in ["10.0.2.3", "fec0::3"] {
            // dnsmasq answers a hundred questions of a connection, and dnsperf's further connections not at all.
            for (mode, asked) in [("-m udp -n 100 -c 20", 10_000), ("-m tcp -n 1 -c 1", 100)] {
                let said = guest.run(&format!("dnsperf -s {address} {mode} -d /run/questions -q 50 -t 10"));
                for outcome in ["Queries completed:    ", "NOERROR "] {
                    assert!(said.contains(&format!("{outcome}{asked} (100.00%)")), "{address} {mode}: {said}");
                }
            }
        }
    });
}

#[test]
fn dhclient_gets_an_address_and_settings_over_ipv6() {
    lab(|| {
        let World { guest, .. } = &World::new();
        fs::write("/run/conf", "request dhcp6.name-servers;\n").unwrap();
        let options = "-6 -v -1 -cf /run/conf -lf /run/leases -pf /run/pid -sf /bin/true";
        let mut client = Process::start(&guest.line(&format!("dhclient -d {options} tap0")));
        client.wait_for("PRC: Bound to lease");
        let leases = fs::read_to_string("/run/leases").unwrap();
        assert!(leases.contains("iaaddr fec0::15 {") && leases.contains("dhcp6.name-servers fec0::3;"), "{leases}");
    });
}
