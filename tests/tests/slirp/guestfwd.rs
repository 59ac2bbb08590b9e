//! What answers at addresses of the guests' network: commands, addresses, and a folder shared by Samba.

use std::fs;

use netlab::process::{Process, program};
use netlab::world::{Host, PATIENCE, command, has_interface, lab, run, wait_until};

/// A guest's namespace, whose one interface leads to the NAT with these settings.
fn world(settings: &str) -> (Process, Host) {
    let line = format!("{} user://?{settings} tap://tap0", program("plug").display());
    let mut plug = Process::start(&line);
    plug.wait_until("the TAP is there", || has_interface("tap0"));
    let guest = Host::with("guest", "tap0", "10.0.2.15/24");
    (plug, guest)
}

/// Sends a file to a port of 10.0.2.4, and its end; returns what comes back until the other end.
fn exchange(guest: &Host, port: u16, bytes: &[u8]) -> Vec<u8> {
    fs::write("/run/question", bytes).unwrap();
    guest.run(&format!("socat -t 20 OPEN:/run/question!!CREATE:/run/answer TCP:10.0.2.4:{port}"));
    fs::read("/run/answer").unwrap()
}

/// The processes that a process has started and not waited for.
fn children(process: &Process) -> String {
    fs::read_to_string(format!("/proc/{0}/task/{0}/children", process.pid())).unwrap()
}

#[test]
fn commands_and_addresses_answer_a_restricted_guest_and_leave_nothing() {
    lab(|| {
        let server = Process::start("socat TCP-LISTEN:8080,bind=127.0.0.1,reuseaddr,fork EXEC:rev");
        let rules = "guestfwd=::1-cmd:rev&guestfwd=tcp:10.0.2.4:2-tcp:127.0.0.1:8080&guestfwd=::3-unix:/run/unix";
        let (plug, guest) = world(&format!("restrict=on&{rules}"));
        let unix = Process::start("socat UNIX-LISTEN:/run/unix,fork EXEC:rev");
        wait_until("the servers are there", PATIENCE, || fs::exists("/run/unix").unwrap());
        let question = "a line of text\n".repeat(20_000);
        let answer = "txet fo enil a\n".repeat(20_000);
        for port in 1..=3 {
            assert!(exchange(&guest, port, question.as_bytes()) == answer.as_bytes(), "{port}");
        }
        wait_until("no process is left", PATIENCE, || children(&plug).is_empty());
        drop((server, unix));
    });
}

#[test]
fn a_hundred_commands_run_at_once_and_end_with_their_connections() {
    lab(|| {
        let (plug, guest) = world("guestfwd=::7-cmd:cat");
        let mut clients: Vec<_> = (0..100).map(|_| Process::start(&guest.line("socat STDIO TCP:10.0.2.4:7"))).collect();
        clients.iter_mut().for_each(|client| client.tell(b"hello\n"));
        clients.iter_mut().for_each(|client| client.wait_for("hello"));
        assert_eq!(children(&plug).split_whitespace().count(), 100);
        drop(clients);
        wait_until("no process is left", PATIENCE, || children(&plug).is_empty());
        assert_eq!(exchange(&guest, 7, b"more"), b"more");
    });
}

#[test]
fn a_shared_folder_is_read_and_written_and_leaves_nothing() {
    lab(|| {
        fs::create_dir("/run/share").unwrap();
        let bytes: Vec<u8> = (0..5_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write("/run/share/file", &bytes).unwrap();
        let (mut plug, guest) = world("restrict=on&smb=/run/share&smbserver=10.0.2.9");
        for port in [445, 139] {
            let mut client = command(&guest.line("smbclient --debuglevel=0 -N //10.0.2.9/qemu"));
            let commands = "get file /run/got; put /run/got back; ls";
            let output = client.args(["-p", &port.to_string(), "-c", commands]).output().unwrap();
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success() && said.contains("back"), "{port}: {said}");
            assert!(fs::read("/run/got").unwrap() == bytes && fs::read("/run/share/back").unwrap() == bytes, "{port}");
            fs::remove_file("/run/share/back").unwrap();
        }
        wait_until("no server is left", PATIENCE, || children(&plug).is_empty());
        let own = || fs::read_dir("/run/tmp").unwrap().count();
        assert_eq!(own(), 1);
        plug.signal(libc::SIGTERM);
        plug.wait(PATIENCE);
        assert_eq!(own(), 0);
    });
}

#[test]
fn without_samba_its_package_is_named() {
    lab(|| {
        // No smbd is on this machine any more.
        for place in ["/usr/sbin", "/usr/local/sbin"] {
            run(&format!("mount -t tmpfs none {place}"));
        }
        let mut plug = Process::start(&format!("{} user://?smb=/run null://", program("plug").display()));
        assert_eq!(plug.wait(PATIENCE).code(), Some(1));
        let said = plug.said();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("smb=/run: there is no smbd on this machine: install Samba (package samba)"), "{said}");
    });
}
