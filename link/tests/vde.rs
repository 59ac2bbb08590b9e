//! The client of a VDE switch against Debian's: vde_switch, and vde_plug at another of its ports.

#![allow(clippy::unwrap_used, reason = "outside of #[test] functions, but tests all the same")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use link::{
    Fragment, FragmentMut, Link, LinkState, Offloads, RxBatch, Soft, TxBatch, Vde, VdeConfig, VdeError, VnetHeader,
};
use mio::{Events, Poll, Token};

const PATIENCE: Duration = Duration::from_secs(10);

/// A directory that is gone when this is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vde-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that does not outlive the test.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// vde_switch with its directory in `scratch`. It ends with its standard input.
fn vde_switch(scratch: &Scratch, options: &[&str]) -> (Process, PathBuf) {
    let dir = scratch.join("switch");
    let child = Command::new("vde_switch")
        .arg("-s")
        .arg(&dir)
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("vde_switch (package vde2) is needed");
    let process = Process(child);
    let ctl = dir.join("ctl");
    wait_until("vde_switch listens", || is_listening(&ctl));
    (process, dir)
}

/// Whether somebody listens on a socket, without connecting: vde_switch 2.3.2 forgets to close the data socket of the
/// client that comes after one who left without a word.
fn is_listening(path: &Path) -> bool {
    let path = path.to_str().unwrap();
    // The flags say __SO_ACCEPTCON (proc_net(5)).
    fs::read_to_string("/proc/net/unix")
        .unwrap()
        .lines()
        .any(|line| line.ends_with(path) && line.contains(" 00010000 "))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn config(dir: &Path) -> VdeConfig {
    VdeConfig { dir: Some(dir.to_owned()), ..VdeConfig::default() }
}

fn open_error(config: &VdeConfig) -> VdeError {
    Vde::open(config).map(drop).unwrap_err()
}

fn frame(source: u8, destination: u8, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|place| (place % 253) as u8).collect();
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source, 0x88, 0xb5]);
    bytes
}

fn send(link: &mut impl Link, bytes: &[u8]) {
    let mut batch = TxBatch::new();
    batch.push(VnetHeader::WHOLE, [Fragment::new(bytes)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

/// An owner: an event loop with one link.
struct Owner<L> {
    link: L,
    poll: Poll,
}

impl<L: Link> Owner<L> {
    fn new(mut link: L) -> Self {
        let poll = Poll::new().unwrap();
        link.register(poll.registry(), Token(7)).unwrap();
        Self { link, poll }
    }

    /// The next frame, as the loop of an owner gets it.
    fn receive(&mut self) -> Vec<u8> {
        let mut events = Events::with_capacity(8);
        let end = Instant::now() + PATIENCE;
        loop {
            let mut memory = vec![0; 10_000];
            let mut batch = RxBatch::new();
            batch.push([FragmentMut::new(&mut memory)]);
            if self.link.receive(&mut batch).unwrap() == 1 {
                let len = batch.frames().next().unwrap().1;
                memory.truncate(len);
                return memory;
            }
            assert!(Instant::now() < end, "no frame within {PATIENCE:?}");
            self.poll.poll(&mut events, Some(Duration::from_secs(1))).unwrap();
            if !events.is_empty() {
                self.link.service(Instant::now()).unwrap();
            }
        }
    }
}

#[test]
fn frames_pass_both_ways_through_vde_switch() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &[]);
    let mut a = Owner::new(Vde::open(&config(&dir)).unwrap());
    let mut b = Owner::new(Vde::open(&VdeConfig { port: 7, ..config(&dir) }).unwrap());
    assert_eq!(b.link.name(), format!("vde://{}[7]", dir.display()));
    for len in [60, 1514, 1518] {
        send(&mut a.link, &frame(1, 2, len));
        assert_eq!(b.receive(), frame(1, 2, len));
        send(&mut b.link, &frame(2, 1, len));
        assert_eq!(a.receive(), frame(2, 1, len));
    }
    assert_eq!(a.link.counters().drops.total() + b.link.counters().drops.total(), 0);
    assert_eq!((a.link.counters().tx_frames, a.link.counters().rx_frames), (3, 3));
}

#[test]
fn vde_switch_never_notices_the_offer_of_offloads() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &[]);
    let mut link = Vde::open(&config(&dir)).unwrap();
    assert!(!link.has_header());
    assert_eq!(link.capabilities().offloads, Offloads::NONE);
    assert_eq!(link.capabilities().mtu, 1500);
    assert!(link.accept(Offloads::NONE).is_ok());
}

#[test]
fn nothing_of_the_client_stays_in_the_directory_of_a_running_switch() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &[]);
    let link = Vde::open(&VdeConfig { port: 5, mode: Some(0o666), ..config(&dir) }).unwrap();
    let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let data = names.iter().find(|entry| entry.file_name() != "ctl").unwrap();
    assert!(data.file_name().to_str().unwrap().starts_with("005."));
    assert!(data.file_type().unwrap().is_socket());
    assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    drop(link);
    wait_until("the switch lets its client go", || fs::read_dir(&dir).unwrap().count() == 1);
}

#[test]
fn the_end_of_the_switch_is_noticed() {
    let scratch = Scratch::new();
    let (mut switch, dir) = vde_switch(&scratch, &[]);
    let mut owner = Owner::new(Soft::new(Vde::open(&config(&dir)).unwrap()));
    owner.link.service(Instant::now()).unwrap();
    assert_eq!(owner.link.state(), LinkState::Up);
    switch.end();
    let mut events = Events::with_capacity(8);
    let end = Instant::now() + PATIENCE;
    let error = loop {
        owner.poll.poll(&mut events, Some(Duration::from_secs(1))).unwrap();
        if let Some(error) = events.iter().find_map(|_| owner.link.service(Instant::now()).err()) {
            break error;
        }
        assert!(Instant::now() < end, "not noticed within {PATIENCE:?}");
    };
    assert_eq!(error.to_string(), "the switch is gone, or has put this client out");
    assert_eq!(owner.link.state(), LinkState::Down);
    send(&mut owner.link, &frame(1, 2, 60));
    assert_eq!(owner.link.counters().drops.get(link::DropReason::LinkDown), 1);
    // What it left behind says so to the next client.
    let error = open_error(&config(&dir));
    let expected =
        format!("vde://{}: no switch is running there (its ctl was left behind by one that has died)", dir.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn vde_plug_hears_the_link_and_answers_it() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &[]);
    let mut plug = Command::new("vde_plug")
        .arg(format!("vde://{}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("vde_plug (package vdeplug) is needed");
    let (mut into, mut out) = (plug.stdin.take().unwrap(), plug.stdout.take().unwrap());
    let _plug = Process(plug);
    wait_until("vde_plug joins", || {
        fs::read_dir(&dir).unwrap().filter(|entry| entry.as_ref().unwrap().file_name() != "ctl").count() == 1
    });
    let mut owner = Owner::new(Vde::open(&config(&dir)).unwrap());
    send(&mut owner.link, &frame(1, 2, 100));
    let mut heard = [0; 102];
    out.read_exact(&mut heard).unwrap();
    assert_eq!(heard[..2], [0, 100]);
    assert_eq!(heard[2..], frame(1, 2, 100));
    into.write_all(&[&[0, 200][..], &frame(2, 1, 200)].concat()).unwrap();
    assert_eq!(owner.receive(), frame(2, 1, 200));
}

#[test]
fn a_port_that_does_not_exist_is_refused_in_time() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &["-n", "4"]);
    let began = Instant::now();
    let error = open_error(&VdeConfig { port: 99, ..config(&dir) });
    assert!(matches!(error, VdeError::Silent { .. } | VdeError::Refused { .. }), "{error}");
    assert!(began.elapsed() < link::vde::PATIENCE + PATIENCE);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "its socket file is removed");
}

#[test]
fn a_switch_that_hangs_up_refuses() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.join("ctl")).unwrap();
    let thread = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let error = open_error(&VdeConfig { port: 2, ..config(&scratch.0) });
    thread.join().unwrap();
    assert!(matches!(error, VdeError::Refused { .. }), "{error}");
    let expected = "the switch refuses this client: it closed the connection without a reply (the port may be in use, or \
                    not exist)";
    assert_eq!(error.to_string(), format!("vde://{}[2]: {expected}", scratch.0.display()));
}

#[test]
fn what_is_no_switch_is_named() {
    let scratch = Scratch::new();
    let name = format!("vde://{}", scratch.0.display());
    assert_eq!(
        open_error(&config(&scratch.0)).to_string(),
        format!("{name}: no switch is running there (it has no ctl)")
    );
    let error = open_error(&config(&scratch.join("none"))).to_string();
    assert_eq!(error, format!("{name}/none: no switch is running there (no such directory)"));
    fs::write(scratch.join("file"), "tap://tap0\n").unwrap();
    assert!(matches!(open_error(&config(&scratch.join("file"))), VdeError::NotDirectory(_)));
    let error = open_error(&VdeConfig { group: Some("no-such-group".to_owned()), ..config(&scratch.0) });
    assert!(matches!(error, VdeError::NoSwitch { .. }), "the switch comes first: {error}");
}

#[test]
fn a_file_in_the_place_of_the_directory_names_it() {
    let scratch = Scratch::new();
    let (_switch, dir) = vde_switch(&scratch, &[]);
    for (name, text) in [("url", format!("vde://{}\n", dir.display())), ("path", dir.display().to_string())] {
        fs::write(scratch.join(name), text).unwrap();
        Vde::open(&config(&scratch.join(name))).unwrap();
    }
}

#[test]
fn a_port_with_a_socket_of_its_own_is_joined_there() {
    let scratch = Scratch::new();
    let listener = UnixListener::bind(scratch.join("3")).unwrap();
    let data = UnixDatagram::bind(scratch.join("data")).unwrap();
    let path = scratch.join("data");
    let switch = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 256];
        let len = stream.read(&mut request).unwrap();
        let request = link::vde::wire::Request::parse(&request[..len]).unwrap();
        let client = request.client.path().unwrap();
        // Made with the mode asked for, whatever the umask.
        let metadata = fs::metadata(client).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        assert_eq!(metadata.gid(), 4242);
        data.connect(client).unwrap();
        let address = link::vde::wire::Address::of_path(&path).unwrap();
        stream.write_all(address.as_bytes()).unwrap();
        let mut bytes = [0; 2000];
        let len = data.recv(&mut bytes).unwrap();
        (request.port, bytes[..len].to_vec(), stream)
    });
    let config = VdeConfig { port: 3, mode: Some(0o640), group: Some("4242".to_owned()), ..config(&scratch.0) };
    let mut link = Vde::open(&config).unwrap();
    send(&mut link, &frame(1, 2, 64));
    let (port, heard, _stream) = switch.join().unwrap();
    assert_eq!((port, heard), (3, frame(1, 2, 64)));
}
