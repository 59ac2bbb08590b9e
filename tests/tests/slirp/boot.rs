//! How a guest comes up: DHCP and BOOTP clients, TFTP clients, and iPXE.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use netlab::process::{Process, program};
use netlab::world::{Host, PATIENCE, command, has_interface, lab, run, wait_until};

/// The folder that is served.
const ROOT: &str = "/run/tftp";

/// What every lease test sets.
const LEASE: &str = "bootfile=pxe/boot.ipxe&tftp-server-name=boot.example&hostname=alice&domainname=lab.example&\
     dnssearch=eng.lab.example&dnssearch=lab.example&mtu=1400";

/// A guest's namespace, whose one interface leads to the NAT with these settings.
fn world(settings: &str) -> (Process, Host) {
    fs::create_dir_all(ROOT).unwrap();
    let line = format!("{} user://?{settings} tap://tap0", program("plug").display());
    let mut plug = Process::start(&line);
    plug.wait_until("the TAP is there", || has_interface("tap0"));
    let guest = Host::new("guest");
    run("ip link set tap0 netns guest");
    guest.run("ip link set tap0 up");
    (plug, guest)
}

/// The same, with an address.
fn addressed(settings: &str) -> (Process, Host) {
    let (plug, guest) = world(settings);
    guest.set_address("tap0", "10.0.2.15/24");
    (plug, guest)
}

/// A script that writes its environment to `/run/env`.
fn environment_script() -> &'static str {
    let path = "/run/script";
    fs::write(path, "#!/bin/sh\nenv >>/run/env\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn has_lines(text: &str, lines: &[&str]) {
    for wanted in lines {
        assert!(text.lines().any(|line| line.trim() == *wanted), "'{wanted}' is not in\n{text}");
    }
}

/// Bytes that repeat at no block's length.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn serve(name: &str, len: usize) {
    fs::write(Path::new(ROOT).join(name), pattern(len)).unwrap();
}

#[test]
fn udhcpc_gets_its_lease() {
    lab(|| {
        let (_plug, guest) = world(LEASE);
        let options = "-O tftp -O bootfile -O search -O mtu -O broadcast";
        guest.run(&format!("busybox udhcpc -i tap0 -n -q -f -s {} {options}", environment_script()));
        let lines = [
            "ip=10.0.2.15",
            "subnet=255.255.255.0",
            "router=10.0.2.2",
            "dns=10.0.2.3",
            "serverid=10.0.2.2",
            "lease=86400",
            "siaddr=10.0.2.2",
            "sname=boot.example",
            "boot_file=pxe/boot.ipxe",
            "tftp=boot.example",
            "bootfile=pxe/boot.ipxe",
            "hostname=alice",
            "domain=lab.example",
            "search=eng.lab.example lab.example",
            "broadcast=10.0.2.255",
            "mtu=1400",
        ];
        has_lines(&fs::read_to_string("/run/env").unwrap(), &lines);
    });
}

#[test]
fn dhclient_gets_keeps_and_releases_its_lease() {
    lab(|| {
        let (_plug, guest) = world(LEASE);
        let config = "request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search,\n\
             host-name, interface-mtu, tftp-server-name, bootfile-name;\n";
        fs::write("/run/conf", config).unwrap();
        let script = environment_script();
        let options = format!("-4 -v -cf /run/conf -lf /run/leases -pf /run/pid -sf {script}");
        let lease = || {
            let mut client = Process::start(&guest.line(&format!("dhclient -d {options} tap0")));
            client.wait_for("bound to 10.0.2.15");
            client.said()
        };
        assert!(lease().contains("DHCPOFFER of 10.0.2.15 from 10.0.2.2"));
        let lines = [
            "fixed-address 10.0.2.15;",
            "filename \"pxe/boot.ipxe\";",
            "server-name \"boot.example\";",
            "option subnet-mask 255.255.255.0;",
            "option broadcast-address 10.0.2.255;",
            "option routers 10.0.2.2;",
            "option dhcp-lease-time 86400;",
            "option dhcp-server-identifier 10.0.2.2;",
            "option domain-name-servers 10.0.2.3;",
            "option domain-name \"lab.example\";",
            "option domain-search \"eng.lab.example.\", \"lab.example.\";",
            "option host-name \"alice\";",
            "option interface-mtu 1400;",
            "option tftp-server-name \"boot.example\";",
            "option bootfile-name \"pxe/boot.ipxe\";",
        ];
        has_lines(&fs::read_to_string("/run/leases").unwrap(), &lines);
        // INIT-REBOOT: it asks for the address that it had.
        let said = lease();
        assert!(said.contains("DHCPREQUEST for 10.0.2.15") && !said.contains("DHCPDISCOVER"), "{said}");
        guest.set_address("tap0", "10.0.2.15/24");
        guest.run(&format!("dhclient -r {options} tap0"));
    });
}

#[test]
fn dhcpcd_gets_the_lease_that_the_boot_rom_had() {
    lab(|| {
        let (_plug, guest) = world(LEASE);
        // As a boot ROM does it: an identifier made of the MAC. dhcpcd has one of its own.
        let script = environment_script();
        guest.run(&format!("busybox udhcpc -i tap0 -n -q -f -s {script}"));
        fs::remove_file("/run/env").unwrap();
        fs::create_dir_all("/var/lib/dhcpcd").unwrap();
        run("mount -t tmpfs none /var/lib/dhcpcd");
        let config = "duid\noption domain_name_servers, domain_name, domain_search, host_name, interface_mtu\n\
             option tftp_server_name, bootfile_name, broadcast_address\n";
        fs::write("/run/conf", config).unwrap();
        let line = format!("dhcpcd -4 -1 -B -d --noarp -f /run/conf -c {script} tap0");
        let mut client = Process::start(&guest.line(&line));
        assert!(client.wait(PATIENCE).success(), "{}", client.said());
        let lines = [
            "new_ip_address=10.0.2.15",
            "new_subnet_mask=255.255.255.0",
            "new_broadcast_address=10.0.2.255",
            "new_routers=10.0.2.2",
            "new_domain_name_servers=10.0.2.3",
            "new_domain_name=lab.example",
            "new_domain_search=eng.lab.example lab.example",
            "new_host_name=alice",
            "new_interface_mtu=1400",
            "new_tftp_server_name=boot.example",
            "new_bootfile_name=pxe/boot.ipxe",
            "new_filename=pxe/boot.ipxe",
        ];
        has_lines(&fs::read_to_string("/run/env").unwrap(), &lines);
    });
}

#[test]
fn a_bootp_client_is_told_what_to_boot() {
    lab(|| {
        let (_plug, guest) = addressed("bootfile=kernel");
        guest.run("ip route add default dev tap0");
        let address = guest.run("cat /sys/class/net/tap0/address");
        let mac: Vec<u8> = address.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let answer = guest.spawn(move || {
            let socket = UdpSocket::bind("0.0.0.0:68").unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut question = [0; 300];
            question[..8].copy_from_slice(&[1, 1, 6, 0, 9, 8, 7, 6]);
            question[28..34].copy_from_slice(&mac);
            socket.send_to(&question, "255.255.255.255:67").unwrap();
            let mut answer = [0; 600];
            let (len, from) = socket.recv_from(&mut answer).unwrap();
            assert_eq!((len, from), (300, "10.0.2.2:67".parse().unwrap()));
            answer
        });
        let answer = answer.join().unwrap();
        assert_eq!(answer[..8], [2, 1, 6, 0, 9, 8, 7, 6]);
        assert_eq!(answer[16..24], [10, 0, 2, 15, 10, 0, 2, 2]);
        assert_eq!(answer[108..115], *b"kernel\0");
    });
}

/// The command lines of real clients that fetch a file to `/run/got`, with blocks of this size.
fn clients(name: &str, block: usize) -> [String; 5] {
    let get = if block == 512 { "tftp".to_owned() } else { format!("tftp -b {block}") };
    [
        format!("busybox {get} -g -r {name} -l /run/got 10.0.2.2 69"),
        format!("curl -sS --tftp-blksize {block} -o /run/got tftp://10.0.2.2/{name}"),
        format!("atftp --option blksize\u{a0}{block} --get -r {name} -l /run/got 10.0.2.2"),
        format!("atftp --option blksize\u{a0}{block} --option windowsize\u{a0}16 -g -r {name} -l /run/got 10.0.2.2"),
        // It knows no options; it asks for a text unless it is told.
        format!("tftp 10.0.2.2 -m binary -c get {name} /run/got"),
    ]
}

/// Runs such a line: a no-break space is one within a word.
fn fetch(guest: &Host, line: &str) {
    let line = guest.line(line);
    let mut words = line.split(' ').map(|word| word.replace('\u{a0}', " "));
    let mut process = command(&words.next().unwrap());
    let output = process.args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {}\n{said}", output.status);
}

/// Every client fetches a file that is served.
fn all_fetch(guest: &Host, name: &str, len: usize, block: usize) {
    for line in clients(name, block) {
        fetch(guest, &line);
        assert!(fs::read("/run/got").unwrap() == pattern(len), "{line}");
        fs::remove_file("/run/got").unwrap();
    }
}

#[test]
fn every_client_fetches_more_blocks_than_have_a_number() {
    lab(|| {
        let (_plug, guest) = addressed("tftp=/run/tftp");
        serve("long", 70_000 * 512 + 1);
        all_fetch(&guest, "long", 70_000 * 512 + 1, 512);
    });
}

#[test]
fn every_client_fetches_files_whole() {
    lab(|| {
        let (_plug, guest) = addressed("tftp=/run/tftp");
        let files = [("big", 10 << 20), ("empty", 0), ("multiple", 512 * 1468), ("one", 1)];
        files.iter().for_each(|(name, len)| serve(name, *len));
        for (name, len) in files {
            for block in [512, 1468, 8192] {
                all_fetch(&guest, name, len, block);
            }
        }
    });
}

#[test]
fn text_is_translated_there_and_back() {
    lab(|| {
        let (_plug, guest) = addressed("tftp=/run/tftp");
        let text = "a line\nand another\r\nthe end\r".repeat(1000);
        fs::write("/run/tftp/text", &text).unwrap();
        guest.run("tftp 10.0.2.2 -m netascii -c get text /run/got");
        assert!(fs::read_to_string("/run/got").unwrap() == text);
    });
}

#[test]
fn twenty_five_clients_fetch_at_once() {
    lab(|| {
        let (_plug, guest) = addressed("tftp=/run/tftp");
        serve("file", 3_000_000);
        let line = |n: usize| match n % 2 {
            0 => format!("busybox tftp -b 1468 -g -r file -l /run/got.{n} 10.0.2.2"),
            _ => format!("curl -sS -o /run/got.{n} tftp://10.0.2.2/file"),
        };
        let mut processes: Vec<_> = (0..25).map(|n| Process::start(&guest.line(&line(n)))).collect();
        for (n, process) in processes.iter_mut().enumerate() {
            assert!(process.wait(PATIENCE * 3).success(), "{}", process.said());
            assert!(fs::read(format!("/run/got.{n}")).unwrap() == pattern(3_000_000), "{n}");
        }
    });
}

#[test]
fn nothing_outside_of_the_folder_is_served_and_nothing_but_files() {
    lab(|| {
        let (mut plug, guest) = addressed("tftp=/run/tftp");
        fs::write("/run/secret", "secret").unwrap();
        serve("file", 100);
        fs::create_dir("/run/tftp/dir").unwrap();
        symlink("/run/secret", "/run/tftp/absolute").unwrap();
        symlink("../secret", "/run/tftp/relative").unwrap();
        symlink("../file", "/run/tftp/dir/inside").unwrap();
        run("mkfifo /run/tftp/fifo");
        run("mknod /run/tftp/null c 1 3");
        for (name, why) in [
            ("../secret", "access violation"),
            ("dir/../../secret", "access violation"),
            ("/run/secret", "file not found"),
            ("absolute", "access violation"),
            ("relative", "access violation"),
            ("dir", "access violation"),
            ("fifo", "access violation"),
            ("null", "access violation"),
            ("missing", "file not found"),
        ] {
            let output =
                command(&guest.line(&format!("busybox tftp -g -r {name} -l /run/got 10.0.2.2"))).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{name}");
            let code = if why == "access violation" { "(2)" } else { "(1)" };
            assert!(said.contains(code), "{name}: {said}");
        }
        let output = command(&guest.line("busybox tftp -p -l /run/secret -r new 10.0.2.2")).output().unwrap();
        assert!(!output.status.success() && !fs::exists("/run/tftp/new").unwrap());
        for name in ["/file", "dir/inside"] {
            guest.run(&format!("busybox tftp -g -r {name} -l /run/got 10.0.2.2"));
            assert!(fs::read("/run/got").unwrap() == pattern(100));
        }
        plug.wait_until("it runs", || true);
    });
}

#[test]
fn ipxe_boots_a_kernel_by_tftp() {
    lab(|| {
        fs::create_dir_all(ROOT).unwrap();
        // iPXE again, in the form of a Linux kernel: one that says so, and is small.
        fs::copy("/boot/ipxe.lkrn", "/run/tftp/kernel").unwrap();
        let script = "#!ipxe\necho next-server ${next-server} filename ${filename}\n\
             chain pxe/../kernel || echo no way up\nchain kernel echo the kernel is up\n";
        fs::create_dir("/run/tftp/pxe").unwrap();
        fs::write("/run/tftp/boot.ipxe", script).unwrap();
        let settings = "tftp=/run/tftp&bootfile=boot.ipxe";
        let plug = program("plug");
        let mut plug = Process::start(&format!("{} user://?{settings} listen:///run/socket", plug.display()));
        plug.wait_until("it listens", || fs::exists("/run/socket").unwrap());
        let qemu = Process::start(
            "qemu-system-x86_64 -M pc -accel tcg -m 64 -nographic -monitor none -boot n -no-reboot \
             -netdev stream,id=n,server=off,addr.type=unix,addr.path=/run/socket -device e1000,netdev=n",
        );
        // It takes ten seconds where the machine is idle.
        for words in ["next-server 10.0.2.2 filename boot.ipxe", "no way up", "the kernel is up"] {
            wait_until(words, PATIENCE * 4, || qemu.said().contains(words));
        }
    });
}
