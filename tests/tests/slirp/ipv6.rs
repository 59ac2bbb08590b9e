//! `slirp` and `slirp4netns` with IPv6: what a namespace gets, whom it reaches, and which ports lead into it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use netlab::world::{Host, PATIENCE, Transfer, lab, run};
use serde_json::json;

use crate::program::{answer_one, ask, connect_error, echo_in, is_echoed, start, start_as};

/// A lab's host with addresses outside, and a namespace that has nothing; both with IPv6.
fn world() -> Host {
    run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0");
    run("ip addr add 192.0.2.1/32 dev lo");
    run("ip addr add 2001:db8::1/128 dev lo nodad");
    run("ip addr add 2001:db8::2/128 dev lo nodad");
    let host = Host::new("inner");
    host.run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
    host
}

/// Asks from an address on a host, and expects to be answered from where it has asked; returns its own address.
fn ask_one(host: &Host, from: &'static str, to: &'static str) -> SocketAddr {
    let asking = host.spawn(move || {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        let mut buffer = [0; 100];
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (5, to.parse().unwrap()));
        socket.local_addr().unwrap()
    });
    asking.join().unwrap()
}

#[test]
fn a_namespace_is_set_up_and_reaches_the_world_at_once() {
    lab(|| {
        let inner = world();
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let _slirp = start("--netns /run/netns/inner net0");
        let _listener = TcpListener::bind("[2001:db8::1]:4999").unwrap();
        assert_eq!(connect_error(&inner, "[2001:db8::1]:4999"), None, "no address is waited for");
        let shown = inner.run("ip -6 addr show net0");
        assert!(
            shown.contains("inet6 fec0::100/64 ") && !shown.contains("fec0::100/64 scope site tentative"),
            "{shown}"
        );
        let routes = inner.run("ip -6 route show default");
        assert!(routes.contains("default via fec0::2 dev net0"), "{routes}");
        for address in ["fec0::2", "2001:db8::1"] {
            inner.run(&format!("ping -6 -c 2 -i 0.2 -W 5 {address}"));
        }
        Transfer::start(&inner, &Host::HERE, "[2001:db8::1]:5000", 32 << 20).finish();
        assert_eq!(connect_error(&inner, "[2001:db8::1]:5001"), Some(ErrorKind::ConnectionRefused));
        let answering = answer_one(&Host::HERE, "[2001:db8::1]:5353");
        ask_one(&inner, "[::]:0", "[2001:db8::1]:5353");
        answering.join().unwrap();
    });
}

#[test]
fn a_namespace_without_ipv6_is_left_without() {
    lab(|| {
        let inner = world();
        inner.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
        let _slirp = start("--netns /run/netns/inner");
        assert_eq!(inner.run("ip -6 addr show tap0"), "");
        Transfer::start(&inner, &Host::HERE, "192.0.2.1:5000", 1 << 20).finish();
    });
}

#[test]
fn its_network_is_what_the_command_line_says() {
    lab(|| {
        let inner = world();
        let _slirp = start(
            "--netns /run/netns/inner --ipv4 off --ipv6-net fd00:1:2::/64 --ipv6-host fd00:1:2::9 --host-loopback \
             --outbound-addr6 2001:db8::2",
        );
        assert!(inner.run("ip -6 addr show tap0").contains("inet6 fd00:1:2::100/64"));
        assert!(!inner.run("ip addr show tap0").contains("inet 10."));
        let listener = TcpListener::bind("[2001:db8::1]:5000").unwrap();
        let client = inner.spawn(|| drop(TcpStream::connect("[2001:db8::1]:5000").unwrap()));
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), "2001:db8::2".parse::<IpAddr>().unwrap());
        client.join().unwrap();
        let answering = answer_one(&Host::HERE, "[2001:db8::1]:5353");
        ask_one(&inner, "[::]:0", "[2001:db8::1]:5353");
        assert_eq!(answering.join().unwrap().ip(), peer.ip());
    });
}

#[test]
fn ports_lead_into_a_namespace_from_either_family_to_either() {
    lab(|| {
        let inner = world();
        let rules = [
            "tcp:[::1]:8000-8001-[fec0::100]:80",
            "tcp:[::]:8080-:80",
            "tcp::8080-[fec0::100]:80",
            "udp:[2001:db8::1]:5353-[fec0::100]:53",
            "udp:[2001:db8::1]:5354-:53",
            "udp:192.0.2.1:5353-[fec0::100]:53",
            "unix:/run/web-[fec0::100]:80",
        ];
        let rules: String = rules.iter().map(|rule| format!(" --hostfwd {rule}")).collect();
        let _slirp = start(&format!("--netns /run/netns/inner{rules}"));
        for (at, leads_to) in [
            ("[::1]:8000", "[fec0::100]:80"),
            ("[::1]:8001", "[fec0::100]:81"),
            ("[2001:db8::1]:8080", "10.0.2.100:80"),
            ("192.0.2.1:8080", "[fec0::100]:80"),
        ] {
            echo_in(&inner, leads_to);
            is_echoed(at);
        }
        for (from, at, leads_to, seen) in [
            ("[2001:db8::2]:0", "[2001:db8::1]:5353", "[fec0::100]:53", "2001:db8::2"),
            ("[2001:db8::2]:0", "[2001:db8::1]:5354", "10.0.2.100:53", "10.0.2.2"),
            ("192.0.2.1:0", "192.0.2.1:5353", "[fec0::100]:53", "fec0::2"),
        ] {
            let answering = answer_one(&inner, leads_to);
            let own = ask_one(&Host::HERE, from, at);
            let asked = answering.join().unwrap();
            assert_eq!((asked.ip(), asked.port()), (seen.parse().unwrap(), own.port()), "{at}");
        }
        echo_in(&inner, "[fec0::100]:80");
        let mut stream = UnixStream::connect("/run/web").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut came = String::new();
        stream.read_to_string(&mut came).unwrap();
        assert_eq!(came, "hello");
    });
}

#[test]
fn slirp4netns_has_ipv6_when_it_is_asked_for() {
    lab(|| {
        let inner = world();
        let _listener = TcpListener::bind("[::1]:7000").unwrap();
        for (options, error) in [("", None), ("--disable-host-loopback", Some(ErrorKind::NetworkUnreachable))] {
            let _slirp = start_as("slirp4netns", &format!("-c -6 {options} --netns-type=path /run/netns/inner tap0"));
            let shown = inner.run("ip -6 addr show tap0");
            assert!(shown.contains("inet6 fd00::100/64"), "{shown}");
            assert_eq!(connect_error(&inner, "[fd00::2]:7000"), error, "{options}");
        }
        let _slirp = start_as("slirp4netns", "-c --netns-type=path /run/netns/inner tap0");
        assert!(!inner.run("ip -6 addr show tap0").contains("fd00::"));
    });
}

#[test]
fn rules_with_ipv6_addresses_come_and_go_by_the_api() {
    lab(|| {
        let inner = world();
        let _slirp = start_as("slirp4netns", "-c -6 -a /run/api --netns-type=path /run/netns/inner tap0");
        let add = |arguments| ask(&json!({ "execute": "add_hostfwd", "arguments": arguments }).to_string());
        let rules = [
            json!({ "proto": "tcp", "host_addr": "::1", "host_port": 8080, "guest_addr": "fd00::100",
                    "guest_port": 80 }),
            json!({ "proto": "tcp6", "host_port": 8081, "guest_port": 80 }),
            json!({ "proto": "tcp", "host_addr": "2001:db8::1", "host_port": 8082, "guest_addr": "10.0.2.100",
                    "guest_port": 80 }),
        ];
        for (number, rule) in rules.iter().enumerate() {
            assert_eq!(add(rule.clone()), json!({ "return": { "id": number + 1 } }), "{rule}");
        }
        for (at, leads_to) in [
            ("[::1]:8080", "[fd00::100]:80"),
            ("[2001:db8::1]:8081", "[fd00::100]:80"),
            ("[2001:db8::1]:8082", "10.0.2.100:80"),
        ] {
            echo_in(&inner, leads_to);
            is_echoed(at);
        }
        let entries = ask(r#"{"execute":"list_hostfwd"}"#)["return"]["entries"].clone();
        assert_eq!(
            (&entries[0], &entries[1]),
            (
                &json!({ "id": 1, "proto": "tcp", "host_addr": "::1", "host_port": 8080, "guest_addr": "fd00::100",
                         "guest_port": 80 }),
                &json!({ "id": 2, "proto": "tcp", "host_addr": "::", "host_port": 8081, "guest_addr": "fd00::100",
                         "guest_port": 80 }),
            )
        );
        let strange = add(json!({ "proto": "udp", "host_port": 9, "guest_addr": "fec0::15", "guest_port": 9 }));
        let words = strange["error"]["desc"].as_str().unwrap();
        assert!(words.ends_with("the guest's address is not in fd00::/64"), "{words}");
        assert_eq!(ask(r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#), json!({ "return": {} }));
        assert_eq!(connect_error(&Host::HERE, "[::1]:8080"), Some(ErrorKind::ConnectionRefused));
    });
}

#[test]
fn files_and_commands_are_at_the_routers_side() {
    lab(|| {
        let inner = world();
        fs::create_dir("/run/tftp").unwrap();
        let file: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        fs::write("/run/tftp/kernel", &file).unwrap();
        let _slirp = start("--netns /run/netns/inner --tftp /run/tftp --guestfwd ::25-cmd:cat");
        inner.run("curl -sS -o /run/got tftp://10.0.2.2/kernel");
        assert!(fs::read("/run/got").unwrap() == file);
        inner.spawn(|| is_echoed("10.0.2.4:25")).join().unwrap();
    });
}
