//! The real programs: Debian's VDE tools, QEMU, User-mode Linux; and our own link, to our switch and to Debian's.

use std::fs;
use std::io::Write;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Duration;

use crate::client::{Client, reply, request_head};
use netlab::process::{Process, Switch};
use netlab::station::{BROADCAST, Interface, Station, frame, new_address};
use netlab::world::{Host, PATIENCE, Transfer, has_interface, lab, statistic, wait_until};

/// Long enough for a frame that will not come.
const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn dpipe_and_two_vde_plugs_join_two_switches() {
    lab(|| {
        let _a = Switch::start("a", "-t tap0");
        let _b = Switch::start("b", "-t tap1");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        let _cable = Process::start("dpipe vde_plug /run/a = vde_plug /run/b");
        wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
        left.ping("-c 3", "10.0.0.2");
        right.ping("-c 3 -s 1472", "10.0.0.1");
        Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20).finish();
        Transfer::start(&right, &left, "10.0.0.1:5000", 8 << 20).finish();
    });
}

#[test]
fn dpipe_and_two_vde_plugs_join_our_switch_and_debians() {
    lab(|| {
        let _ours = Switch::start("a", "-t tap0");
        let _theirs = debians_switch("tap1");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let _right = Host::with("right", "tap1", "10.0.0.2/24");
        let _cable = Process::start("dpipe vde_plug /run/a = vde_plug /run/theirs");
        wait_until("the switches are joined", PATIENCE, || left.reaches("10.0.0.2"));
        left.ping("-c 3 -s 1472", "10.0.0.2");
    });
}

#[test]
fn vde_plug_carries_frames_as_a_stream_for_any_program() {
    lab(|| {
        let mut switch = Switch::start("a", "-t tap0");
        Host::HERE.set_address("tap0", "10.0.0.1/24");
        let mut tap = Interface::open(&Host::HERE, "tap0");
        let mut plug = Process::start("vde_plug /run/a");
        switch.process.wait_for_times(2, " joined");
        let question = frame(BROADCAST, new_address(), 1, 100);
        plug.tell(&[&[0, question.len() as u8], question.as_slice()].concat());
        assert_eq!(tap.listen(A_WHILE), [1]);
        let answer = frame(BROADCAST, tap.address(), 2, 100);
        tap.send(&answer);
        wait_until("the answer is there", PATIENCE, || plug.said_bytes().ends_with(&answer));
        // The end of the stream ends the plug, and the port is free again.
        plug.close_stdin();
        plug.wait(PATIENCE);
        wait_until("the switch knows", PATIENCE, || switch.process.said().contains(" left"));
    });
}

#[test]
fn the_test_network_of_nixos_runs_on_it() {
    lab(|| {
        symlink(env!("CARGO_BIN_EXE_vswitch"), "/run/vde_switch").unwrap();
        let mut switch = Process::start("/run/vde_switch --sock /run/vde1.ctl --dirmode 0700 --hub");
        switch.tell(b"showinfo\n");
        switch.wait_for("1000 Success");
        assert!(fs::exists("/run/vde1.ctl/ctl").unwrap());
        assert_eq!(fs::metadata("/run/vde1.ctl").unwrap().permissions().mode() & 0o7777, 0o700);
        let _plugs = ["tap0", "tap1"].map(|tap| Process::start(&format!("vde_plug2tap -s /run/vde1.ctl {tap}")));
        wait_until("the TAPs are there", PATIENCE, || has_interface("tap0") && has_interface("tap1"));
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 3", "10.0.0.2");
        Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20).finish();
        Transfer::start(&right, &left, "10.0.0.1:5000", 8 << 20).finish();
        switch.close_stdin();
        assert_eq!(switch.wait(PATIENCE).code(), Some(0));
        assert!(!fs::exists("/run/vde1.ctl").unwrap());
    });
}

#[test]
fn qemu_takes_a_lease_through_the_switch() {
    lab(|| {
        let _switch = Switch::start("a", "-t tap0");
        Host::HERE.set_address("tap0", "10.0.0.1/24");
        let mut server = Process::start(
            "dnsmasq --no-daemon --conf-file=/dev/null --user= --port=0 --interface=tap0 --bind-interfaces \
             --dhcp-range=10.0.0.50,10.0.0.60 --dhcp-leasefile=/run/leases --dhcp-boot=nothing",
        );
        // The boot ROM of the card asks for a lease: the cheapest guest that there is.
        let _qemu = Process::start(
            "qemu-system-x86_64 -M pc -accel tcg -m 32 -display none -serial none -monitor none -boot n \
             -netdev vde,id=n,sock=/run/a -device e1000,netdev=n,mac=52:54:00:00:00:77",
        );
        server.wait_for("DHCPACK(tap0) 10.0.0.50 52:54:00:00:00:77");
    });
}

#[test]
fn user_mode_linux_pings_through_the_switch() {
    lab(|| {
        let _switch = Switch::start("a", "-t tap0");
        Host::HERE.set_address("tap0", "10.0.0.1/24");
        let initrd = initramfs(
            "#!/bin/busybox sh
            /bin/busybox ip addr add 10.0.0.2/24 dev eth0
            /bin/busybox ip link set eth0 up
            /bin/busybox ping -c 3 -W 5 -s 1472 10.0.0.1 && echo all is well
            /bin/busybox poweroff -f
            ",
        );
        let line = format!(
            "linux.uml mem=64M initrd={initrd} rdinit=/init eth0=daemon,,unix,/run/a/ctl con=null con0=fd:0,fd:1 quiet",
        );
        let boot = || {
            let mut uml = Process::start(&line);
            uml.wait(PATIENCE);
            uml.said()
        };
        // On a busy machine it can happen that its first process cannot fork (EAGAIN), and it panics.
        let first = boot();
        let said = if first.contains("can't fork") { boot() } else { first };
        assert!(said.contains("all is well"), "{said}");
    });
}

#[test]
fn a_client_with_an_abstract_address_that_never_connects_is_served() {
    lab(|| {
        let switch = Switch::start("a", "-t tap0");
        Host::HERE.set_address("tap0", "10.0.0.1/24");
        let mut tap = Interface::open(&Host::HERE, "tap0");
        // As User-mode Linux does it: an abstract address that has all 108 bytes, and a request of 124.
        let data =
            UnixDatagram::from(bind_abstract([&[0, b'u', b'm', b'l'][..], &[0; 104]].concat().try_into().unwrap()));
        let mut request = request_head();
        request.extend(1_u16.to_ne_bytes());
        request.extend([0, b'u', b'm', b'l']);
        request.resize(124, 0);
        let mut ctl = UnixStream::connect(switch.dir().join("ctl")).unwrap();
        ctl.write_all(&request).unwrap();
        let to = reply(&mut ctl).unwrap();
        let own = new_address();
        for number in 0..20 {
            data.send_to(&frame(BROADCAST, own, number, 100), &to).unwrap();
        }
        assert_eq!(tap.listen(A_WHILE), (0..20).collect::<Vec<_>>());
        data.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 2000];
        for number in 0..5 {
            let answer = frame(own, tap.address(), number, 100);
            tap.send(&answer);
            let len = data.recv(&mut buffer).unwrap();
            assert!(buffer[..len] == answer);
        }
    });
}

#[test]
fn our_link_joins_debians_switch() {
    lab(|| {
        let _theirs = debians_switch("tap0");
        let _ours = Switch::start("a", "-t tap1 --port vde:///run/theirs");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 3", "10.0.0.2");
        right.ping("-c 3 -s 1472", "10.0.0.1");
        // Long segments are cut and checksums filled in where they leave for a switch that takes neither.
        Transfer::start(&left, &right, "10.0.0.2:5000", 8 << 20).finish();
        Transfer::start(&right, &left, "10.0.0.1:5000", 8 << 20).finish();
    });
}

#[test]
fn our_link_joins_our_switch_and_long_segments_cross_uncut() {
    lab(|| {
        let mut b = Switch::start("b", "-t tap1");
        let _a = Switch::start("a", "-t tap0 --port vde:///run/b");
        b.process.wait_for_times(2, " joined");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 3", "10.0.0.2");
        let bytes = Transfer::start(&left, &right, "10.0.0.2:5000", 256 << 20).finish();
        let frames = statistic(&right, "tap1", "rx_packets");
        println!("lab: {} bytes a frame across two switches", bytes / frames);
        assert!(bytes / frames > 9216, "{bytes} bytes in {frames} frames");
    });
}

#[test]
fn jumbo_frames_cross_two_switches_and_longer_ones_are_dropped_whole() {
    lab(|| {
        let mut b = Switch::start("b", "--port tap://tap1?mtu=9000");
        let _a = Switch::start("a", "--port tap://tap0?mtu=9000 --port vde:///run/b?mtu=9000");
        b.process.wait_for_times(2, " joined");
        let left = Host::with("left", "tap0", "10.0.0.1/24");
        let right = Host::with("right", "tap1", "10.0.0.2/24");
        left.ping("-c 3 -s 8972", "10.0.0.2");
        right.ping("-c 3 -s 8972", "10.0.0.1");

        let (mut sender, mut receiver) = (Client::join(b.dir()), Client::join(b.dir()));
        let own = sender.address();
        sender.send(&frame(BROADCAST, own, 1, 9216));
        assert_eq!(receiver.receive().map(|frame| frame.len()), Some(9230));
        sender.send(&frame(BROADCAST, own, 2, 9300));
        sender.send(&frame(BROADCAST, own, 3, 70_000));
        sender.send(&frame(BROADCAST, own, 4, 46));
        assert_eq!(receiver.listen(A_WHILE), [4]);
        assert_eq!(b.port(3)["drops"]["oversized"], 2);
    });
}

/// Debian's vde_switch in /run/theirs, with a TAP.
fn debians_switch(tap: &str) -> Process {
    let mut switch = Process::start(&format!("vde_switch -s /run/theirs -t {tap}"));
    switch.wait_until("it is there", || fs::exists("/run/theirs/ctl").unwrap() && has_interface(tap));
    switch
}

/// Packs what User-mode Linux boots: busybox, and this script for its first process. Returns the file.
fn initramfs(init: &str) -> &'static str {
    for dir in ["dev", "proc", "bin"] {
        fs::create_dir_all(format!("/run/root/{dir}")).unwrap();
    }
    fs::copy("/bin/busybox", "/run/root/bin/busybox").unwrap();
    fs::write("/run/root/init", init).unwrap();
    fs::set_permissions("/run/root/init", fs::Permissions::from_mode(0o755)).unwrap();
    run_shell("cd /run/root && find . | busybox cpio -o -H newc >/run/initrd");
    "/run/initrd"
}

fn run_shell(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).output().unwrap().status.success(), "{script}");
}

/// A datagram socket with an abstract address of the full length.
fn bind_abstract(name: [u8; 108]) -> OwnedFd {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: the descriptor is new and ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: name.map(|byte| byte as i8) };
    let len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as stated.
    assert_eq!(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }, 0);
    fd
}
