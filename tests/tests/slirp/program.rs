//! `slirp` and `slirp4netns`: what they serve, how they are asked, how they end.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::Output;
use std::thread::JoinHandle;
use std::time::Duration;

use netlab::confined::{is_confined, names_in_root};
use netlab::process::{Process, Switch, program};
use netlab::world::{Host, PATIENCE, Transfer, command, lab, run, wait_until};
use serde_json::{Value, json};

/// An address of the host's that is not a loopback address.
const OUTSIDE: &str = "192.0.2.1";

/// Starts slirp; waits until everything is set up.
pub(crate) fn start(options: &str) -> Process {
    start_as("slirp", options)
}

/// The same, under another name.
pub(crate) fn start_as(name: &str, options: &str) -> Process {
    let path = format!("/run/{name}");
    if !fs::exists(&path).unwrap() {
        symlink(program("slirp"), &path).unwrap();
    }
    // Its standard output is a file that is looked at, its standard input a pipe.
    let mut process = Process::start(&format!("{path} --ready-fd 1 --exit-fd 0 {options}"));
    process.wait_for("1");
    process
}

/// Runs slirp to its end.
pub(crate) fn slirp(options: &str) -> Output {
    command(&format!("{} {options}", program("slirp").display())).output().unwrap()
}

/// A lab's host with an address outside, and a namespace that has nothing.
fn world() -> Host {
    run(&format!("ip addr add {OUTSIDE}/32 dev lo"));
    Host::new("inner")
}

/// Serves one connection in a namespace: sends back what comes.
pub(crate) fn echo_in(host: &Host, address: &'static str) {
    let (tell, listens) = std::sync::mpsc::channel();
    host.spawn(move || {
        let listener = TcpListener::bind(address).unwrap();
        tell.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = stream.try_clone().unwrap();
        std::io::copy(&mut reader, &mut stream).unwrap();
    });
    listens.recv_timeout(PATIENCE).unwrap();
}

/// Answers one datagram on a host; returns who has asked.
pub(crate) fn answer_one(host: &Host, address: &'static str) -> JoinHandle<SocketAddr> {
    let (tell, listens) = std::sync::mpsc::channel();
    let answering = host.spawn(move || {
        let socket = UdpSocket::bind(address).unwrap();
        tell.send(()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..len], from).unwrap();
        from
    });
    listens.recv_timeout(PATIENCE).unwrap();
    answering
}

/// Sends bytes and expects them back.
pub(crate) fn is_echoed(address: &str) {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let copy = sent.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&copy).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    sender.join().unwrap();
    assert!(came == sent, "{} bytes came back of {}", came.len(), sent.len());
}

/// What a connection from a host ends with: none if it is made.
pub(crate) fn connect_error(host: &Host, address: &'static str) -> Option<ErrorKind> {
    let attempt = move || TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(2));
    host.spawn(move || attempt().err().map(|error| error.kind())).join().unwrap()
}

/// Asks the API.
pub(crate) fn ask(request: &str) -> Value {
    let mut stream = UnixStream::connect("/run/api").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn a_namespace_is_set_up_and_reaches_the_world() {
    lab(|| {
        let inner = world();
        let mut slirp = start("--netns /run/netns/inner --mtu 9000 --pcap /run/pcap net0");
        let shown = inner.run("ip addr show");
        assert!(shown.contains("inet 10.0.2.100/24 brd 10.0.2.255 scope global net0"), "{shown}");
        assert!(shown.contains("mtu 9000") && shown.contains("LOOPBACK,UP"), "{shown}");
        assert_eq!(inner.run("ip route show default").trim(), "default via 10.0.2.2 dev net0");
        inner.ping("-c 2", "10.0.2.2");
        Transfer::start(&inner, &Host::HERE, "192.0.2.1:5000", 32 << 20).finish();
        assert_eq!(connect_error(&inner, "192.0.2.1:5001"), Some(ErrorKind::ConnectionRefused));
        slirp.signal(libc::SIGTERM);
        assert_eq!(slirp.wait(PATIENCE).code(), Some(0), "{}", slirp.said());
        assert!(!inner.run("ip link").contains("net0"), "the TAP goes with slirp");
        assert!(fs::metadata("/run/pcap").unwrap().len() > 32 << 20, "every byte was captured");
    });
}

#[test]
fn the_hosts_loopback_is_out_of_reach_unless_asked_for() {
    lab(|| {
        let inner = world();
        let _listener = TcpListener::bind("127.0.0.1:7000").unwrap();
        for (name, options, error) in [
            ("slirp", "--netns /run/netns/inner", Some(ErrorKind::NetworkUnreachable)),
            ("slirp", "--netns /run/netns/inner --host-loopback", None),
            ("slirp4netns", "-c --netns-type=path /run/netns/inner tap0", None),
            (
                "slirp4netns",
                "-c --disable-host-loopback --netns-type=path /run/netns/inner tap0",
                Some(ErrorKind::NetworkUnreachable),
            ),
        ] {
            let _slirp = start_as(name, options);
            assert_eq!(connect_error(&inner, "10.0.2.2:7000"), error, "{name} {options}");
        }
    });
}

#[test]
fn ports_lead_into_a_namespace_by_tcp_and_udp() {
    lab(|| {
        let inner = world();
        let rules = "--hostfwd tcp:127.0.0.1:8000-8002-:80-82 --hostfwd udp:192.0.2.1:5353-10.0.2.100:53";
        let _slirp = start(&format!("--netns /run/netns/inner {rules}"));
        echo_in(&inner, "10.0.2.100:80");
        is_echoed("127.0.0.1:8000");
        echo_in(&inner, "10.0.2.100:82");
        is_echoed("127.0.0.1:8002");

        let answering = answer_one(&inner, "10.0.2.100:53");
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"hello", "192.0.2.1:5353").unwrap();
        let mut buffer = [0; 100];
        assert_eq!(socket.recv_from(&mut buffer).unwrap(), (5, "192.0.2.1:5353".parse().unwrap()));
        assert_eq!(answering.join().unwrap(), socket.local_addr().unwrap(), "the sender's own address is seen");
    });
}

#[test]
fn a_unix_socket_leads_into_a_namespace() {
    lab(|| {
        let inner = world();
        let mut slirp = start("--netns /run/netns/inner --hostfwd unix:/run/web-:80");
        echo_in(&inner, "10.0.2.100:80");
        let mut stream = UnixStream::connect("/run/web").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut came = String::new();
        stream.read_to_string(&mut came).unwrap();
        assert_eq!(came, "hello");
        slirp.signal(libc::SIGTERM);
        slirp.wait(PATIENCE);
        assert!(!fs::exists("/run/web").unwrap());
    });
}

#[test]
fn a_restricted_namespace_is_reached_and_reaches_nobody() {
    lab(|| {
        let inner = world();
        let _listener = TcpListener::bind("192.0.2.1:5000").unwrap();
        let _slirp = start("--netns /run/netns/inner --restrict --hostfwd tcp:127.0.0.1:8000-:80");
        assert_eq!(connect_error(&inner, "192.0.2.1:5000"), Some(ErrorKind::TimedOut));
        assert_eq!(connect_error(&inner, "10.0.2.3:53"), Some(ErrorKind::TimedOut));
        echo_in(&inner, "10.0.2.100:80");
        is_echoed("127.0.0.1:8000");
    });
}

#[test]
fn without_dns_the_name_server_is_silent() {
    lab(|| {
        let inner = world();
        for (name, options) in [
            ("slirp", "--no-dns --netns /run/netns/inner"),
            ("slirp4netns", "-c --disable-dns --netns-type=path /run/netns/inner tap0"),
        ] {
            let _slirp = start_as(name, options);
            assert_eq!(connect_error(&inner, "10.0.2.3:53"), Some(ErrorKind::TimedOut), "{name}");
        }
    });
}

#[test]
fn rules_come_and_go_by_the_api() {
    lab(|| {
        let inner = world();
        let _slirp = start_as("slirp4netns", "-c -a /run/api --netns-type=path /run/netns/inner tap0");
        let add = r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":8080,"guest_port":80}}"#;
        assert_eq!(ask(add), json!({ "return": { "id": 1 } }));
        let desc = ask(add)["error"]["desc"].as_str().unwrap().to_owned();
        assert!(desc.starts_with("bad request: add_hostfwd: slirp_add_hostfwd failed"), "{desc}");
        let entry = json!({ "id": 1, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080,
                            "guest_addr": "10.0.2.100", "guest_port": 80 });
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), json!({ "return": { "entries": [entry] } }));
        echo_in(&inner, "10.0.2.100:80");
        is_echoed("127.0.0.1:8080");

        let remove = r#"{"execute":"remove_hostfwd","arguments":{"id":1}}"#;
        assert_eq!(ask(remove), json!({ "return": {} }));
        assert_eq!(connect_error(&Host::HERE, "127.0.0.1:8080"), Some(ErrorKind::ConnectionRefused));
        assert_eq!(ask(remove)["error"]["desc"], "bad request: remove_hostfwd: bad arguments.id");
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), json!({ "return": { "entries": [] } }));
        assert_eq!(ask(add), json!({ "return": { "id": 2 } }), "a number is not used again");
        echo_in(&inner, "10.0.2.100:80");
        is_echoed("127.0.0.1:8080");
    });
}

#[test]
fn bad_requests_are_told_in_slirp4netns_words() {
    lab(|| {
        let _inner = world();
        let mut slirp = start_as("slirp4netns", "-c -a /run/api --netns-type=path /run/netns/inner tap0");
        let large = " ".repeat(5000);
        for (request, words) in [
            ("badjson", "bad request: cannot parse JSON"),
            ("", "bad request: cannot parse JSON"),
            (r#"{"execute":"#, "bad request: cannot parse JSON"),
            (r#"{"unexpected":42}"#, "bad request: no execute found"),
            (r#"{"execute":"bad"}"#, "bad request: unknown execute"),
            (r#"{"execute":"add_hostfwd"}"#, "bad request: add_hostfwd: bad arguments.proto"),
            (
                r#"{"execute":"add_hostfwd","arguments":{"proto":"udp","host_port":70000}}"#,
                "bad request: add_hostfwd: bad arguments.host_port",
            ),
            (
                r#"{"execute":"add_hostfwd","arguments":{"proto":"udp","host_port":7,"guest_addr":"x"}}"#,
                "bad request: add_hostfwd: bad arguments.guest_addr",
            ),
            (&large, "bad request: too large message"),
        ] {
            assert_eq!(ask(request), json!({ "error": { "desc": words } }), "{request}");
        }
        // Who says nothing keeps nobody waiting.
        let _silent: Vec<_> = (0..40).map(|_| UnixStream::connect("/run/api").unwrap()).collect();
        assert_eq!(ask(r#"{"execute":"list_hostfwd"}"#), json!({ "return": { "entries": [] } }));
        slirp.signal(libc::SIGTERM);
        slirp.wait(PATIENCE);
        assert!(!fs::exists("/run/api").unwrap());
    });
}

#[test]
fn flows_are_shown_while_they_last() {
    lab(|| {
        let inner = world();
        let _slirp = start("--netns /run/netns/inner --api-socket /run/api");
        let listener = TcpListener::bind("192.0.2.1:5000").unwrap();
        let talk = inner.spawn(|| {
            let mut stream = TcpStream::connect("192.0.2.1:5000").unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        let flow = || {
            let output = slirp("--status /run/api --json");
            assert!(output.status.success());
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            let flows = answer["flows"].as_array().unwrap().clone();
            flows.into_iter().find(|flow| flow["proto"] == "tcp")
        };
        let shown = flow().unwrap();
        assert_eq!((&shown["remote"], &shown["state"]), (&json!("192.0.2.1:5000"), &json!("established")));
        assert_eq!((&shown["sent"], &shown["received"]), (&json!(5), &json!(0)));
        assert!(shown["guest"].as_str().unwrap().starts_with("10.0.2.100:") && shown["age_ms"].is_u64());
        stream.write_all(&[7; 1000]).unwrap();
        wait_until("the bytes are counted", PATIENCE, || flow().is_some_and(|flow| flow["received"] == 1000));
        let table = String::from_utf8(slirp("--status /run/api").stdout).unwrap();
        assert!(table.starts_with("PROTO  GUEST") && table.contains("established     5      1000"), "{table}");
        drop(stream);
        assert_eq!(talk.join().unwrap().len(), 1000);
        wait_until("the flow is gone", PATIENCE, || flow().is_none());
        let output = slirp("--status /run/nobody");
        assert_eq!(output.status.code(), Some(1));
        let words = "slirp: /run/nobody: No such file or directory\n";
        assert_eq!(String::from_utf8(output.stderr).unwrap(), words);
    });
}

#[test]
fn it_says_when_it_is_ready_and_ends_with_a_descriptor() {
    lab(|| {
        let inner = world();
        for (name, options) in
            [("slirp", "--netns /run/netns/inner"), ("slirp4netns", "-c --netns-type=path /run/netns/inner tap0")]
        {
            // Started means that it has said so: by then the address is there.
            let mut slirp = start_as(name, options);
            assert!(inner.reaches("10.0.2.2"), "{name}");
            slirp.close_stdin();
            assert_eq!(slirp.wait(PATIENCE).code(), Some(0), "{name}: {}", slirp.said());
        }
    });
}

#[test]
fn a_user_without_rights_serves_a_namespace_of_its_own() {
    lab(|| {
        run(&format!("ip addr add {OUTSIDE}/32 dev lo"));
        run("sysctl -qw net.ipv6.conf.lo.disable_ipv6=0");
        run("ip addr add 2001:db8::1/128 dev lo nodad");
        fs::copy(program("slirp"), "/run/slirp").unwrap();
        // Where the lab is a user's without rights already, there are no others to become.
        let other = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        let may = command(&format!("{other} true")).status().is_ok_and(|status| status.success());
        let user = if may { other } else { "" };
        if may {
            // Not every machine lets everybody make TAPs.
            run("mknod -m 666 /run/tun c 10 200");
            run("mount --bind /run/tun /dev/net/tun");
        }
        let mut owner = Process::start(&format!("{user} unshare --map-root-user --net sleep 1000"));
        let pid = owner.pid();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let net = format!("/proc/{pid}/ns/net");
        owner.wait_until("its namespace is there", || fs::read_link(&net).is_ok_and(|net| net != own));
        let listeners = [OUTSIDE, "2001:db8::1"].map(|address| (address, TcpListener::bind((address, 5000)).unwrap()));
        // By the process, by the file, and by the file and the user namespace.
        for target in [
            format!("--netns {pid}"),
            format!("--netns /proc/{pid}/ns/net"),
            format!("--netns /proc/{pid}/ns/net --userns-path /proc/{pid}/ns/user"),
        ] {
            let line = format!("{user} /run/slirp --ready-fd 1 --exit-fd 0 {target}");
            let mut slirp = Process::start(&line);
            slirp.wait_for("1");
            let inside = format!("nsenter --target {pid} --user --preserve-credentials --net");
            for (address, listener) in &listeners {
                let mut client = Process::start(&format!("{inside} busybox nc {address} 5000"));
                client.tell(b"hello");
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut [0; 5]).unwrap();
            }
            slirp.signal(libc::SIGTERM);
            assert_eq!(slirp.wait(PATIENCE).code(), Some(0), "{}", slirp.said());
        }
    });
}

#[test]
fn everybody_on_a_switch_gets_a_lease_and_goes_on_without_the_others() {
    lab(|| {
        run(&format!("ip addr add {OUTSIDE}/32 dev lo"));
        let switch = Switch::start("sw", "-t tap0");
        let mut cable = Process::start(&format!("{} tap://tap1?up=on vde:///run/sw", program("plug").display()));
        cable.wait_until("it is plugged in", || switch.show().len() == 2);
        let mut nat = start("vde:///run/sw --hostfwd tcp:127.0.0.1:8000-:80");
        let clients = [("a", "tap0"), ("b", "tap1")].map(|(name, tap)| {
            let client = Host::new(name);
            run(&format!("ip link set {tap} netns {name}"));
            client.run(&format!("ip link set {tap} up"));
            client
        });
        fs::write("/run/lease", SET_ADDRESS).unwrap();
        run("chmod +x /run/lease");
        for (client, tap) in clients.iter().zip(["tap0", "tap1"]) {
            let said = client.run(&format!("busybox udhcpc -i {tap} -q -n -f -t 10 -T 1 -s /run/lease"));
            assert!(!said.contains("nak"), "{said}");
        }
        let [a, b] = clients;
        let shown = format!("{}{}", a.run("ip -4 addr show tap0"), b.run("ip -4 addr show tap1"));
        assert!(shown.contains("10.0.2.15/24") && shown.contains("10.0.2.16/24"), "{shown}");
        Transfer::start(&a, &Host::HERE, "192.0.2.1:5000", 8 << 20).finish();
        Transfer::start(&b, &Host::HERE, "192.0.2.1:5001", 8 << 20).finish();
        echo_in(&a, "10.0.2.15:80");
        is_echoed("127.0.0.1:8000");

        // While the switch takes no frames, they wait.
        echo_in(&a, "10.0.2.15:80");
        switch.process.signal(libc::SIGSTOP);
        let echo = std::thread::spawn(|| is_echoed("127.0.0.1:8000"));
        std::thread::sleep(Duration::from_millis(500));
        switch.process.signal(libc::SIGCONT);
        echo.join().unwrap();

        cable.signal(libc::SIGKILL);
        cable.wait(PATIENCE);
        Transfer::start(&a, &Host::HERE, "192.0.2.1:5002", 8 << 20).finish();
        nat.signal(libc::SIGKILL);
        nat.wait(PATIENCE);
        wait_until("the NAT is gone", PATIENCE, || !a.reaches("10.0.2.2"));
        let _nat = start("/run/sw");
        wait_until("another has taken its place", PATIENCE, || a.reaches("10.0.2.2"));
        Transfer::start(&a, &Host::HERE, "192.0.2.1:5003", 8 << 20).finish();
    });
}

/// What udhcpc runs when it has a lease.
const SET_ADDRESS: &str = "#!/bin/sh\n\
    [ \"$1\" = bound ] || exit 0\n\
    ip addr add $ip/$mask dev $interface\n\
    ip route add default via $router\n";

#[test]
fn in_the_background_it_leaves_a_pid_file_while_it_lives() {
    lab(|| {
        let inner = world();
        let output = slirp("--netns /run/netns/inner -d -p /run/pid");
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(inner.reaches("10.0.2.2"));
        let pid: i32 = fs::read_to_string("/run/pid").unwrap().trim().parse().unwrap();
        // SAFETY: no pointers; the process is the one that has just been started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        wait_until("the pid file is gone", PATIENCE, || !fs::exists("/run/pid").unwrap());
    });
}

#[test]
fn it_gives_up_what_it_does_not_need_and_its_files_go_with_it() {
    lab(|| {
        let inner = world();
        fs::create_dir("/run/files").unwrap();
        let files = "-p /run/files/pid --hostfwd unix:/run/files/web-:80";
        let mut slirp = start(&format!("--netns /run/netns/inner {files}"));
        is_confined(slirp.pid());
        assert_eq!(names_in_root(slirp.pid(), "/"), ["etc"]);
        let status = fs::read_to_string(format!("/proc/{}/status", slirp.pid())).unwrap();
        assert!(status.contains("\nUid:\t65534\t"), "{status}");
        assert!(inner.reaches("10.0.2.2"));
        echo_in(&inner, "10.0.2.100:80");
        let mut stream = UnixStream::connect("/run/files/web").unwrap();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        // Even if it has no time to remove them.
        slirp.signal(libc::SIGKILL);
        slirp.wait(PATIENCE);
        wait_until("its files are gone", PATIENCE, || fs::read_dir("/run/files").unwrap().next().is_none());
        // A service that it starts for guests needs the files of the host.
        let commands = start("--netns /run/netns/inner --guestfwd tcp:10.0.2.9:7-cmd:/bin/cat");
        let reader = inner.spawn(|| {
            let mut stream = TcpStream::connect("10.0.2.9:7").unwrap();
            stream.write_all(b"hello").unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).unwrap();
            answer
        });
        assert_eq!(&reader.join().unwrap(), b"hello");
        let status = fs::read_to_string(format!("/proc/{}/status", commands.pid())).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
        drop(commands);
        let free = start("--netns /run/netns/inner --no-confine");
        let status = fs::read_to_string(format!("/proc/{}/status", free.pid())).unwrap();
        assert!(status.contains("\nSeccomp:\t0\n"), "{status}");
    });
}

#[test]
fn what_cannot_be_is_one_line_and_a_status() {
    lab(|| {
        let _inner = world();
        let _taken = TcpListener::bind("127.0.0.1:7000").unwrap();
        let _slirp = start("--netns /run/netns/inner tap0");
        for (options, status, words) in [
            ("--netns 999999", 1, "slirp: process 999999: there is no such process"),
            ("--netns /run/netns/none", 1, "slirp: /run/netns/none: No such file or directory"),
            ("--netns /run/api", 1, "slirp: /run/api: No such file or directory"),
            ("--netns /dev/null", 1, "slirp: /dev/null: cannot enter the network namespace: Invalid argument"),
            ("--netns /run/netns/inner tap0", 1, "slirp: tap0: Device or resource busy: another program has opened it"),
            ("--netns /run/netns/inner lo", 1, "slirp: lo: Invalid argument: it exists and is no TAP"),
            ("--netns /run/netns/inner a/b", 1, "slirp: 'a/b' is no interface name"),
            ("--hostfwd tcp:127.0.0.1:7000-:7 null://", 1, "slirp: hostfwd=tcp:127.0.0.1:7000-:7: cannot listen on"),
            ("--ready-fd 77 null://", 1, "slirp: descriptor 77: Bad file descriptor"),
            ("vde:///run/none", 1, "slirp: vde:///run/none: "),
            ("--outbound-addr nothing0 null://", 1, "slirp: --outbound-addr: 'nothing0' is no IPv4 address"),
            ("--outbound-addr6 192.0.2.1 null://", 1, "slirp: --outbound-addr6: '192.0.2.1' is no IPv6 address"),
            ("--tftp /run/none null://", 1, "slirp: tftp=/run/none: No such file or directory"),
            (
                "--ipv4 off --ipv6 on --netns /run/netns/inner tap1",
                1,
                "slirp: tap1: cannot set the IPv6 address: Permission denied: IPv6 is off",
            ),
            (
                "--ipv6 off --hostfwd tcp::1-[fec0::15]:1 null://",
                2,
                "slirp: user: hostfwd=tcp::1-[fec0::15]:1: it leads",
            ),
            ("--hostfwd tcp::1 null://", 2, "slirp: user: hostfwd=tcp::1: expected"),
            ("--nett 1 null://", 2, "slirp: unknown option '--nett': did you mean --net?"),
        ] {
            let output = slirp(options);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!((output.status.code(), said.lines().count()), (Some(status), 1), "{options}: {said}");
            assert!(said.starts_with(words), "{options}: {said}");
        }
    });
}
