use std::fs;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use link::vde::wire::{Address, Reply, RequestError};
use link::{
    Checksum, DropReason, Fragment, FragmentMut, GsoType, Link, Offloads, RxBatch, TxBatch, Vde, VdeConfig, VnetHeader,
};
use mio::{Events, Poll, Token};

use super::listener::VdeError;
use super::*;
use crate::PortId;

const PATIENCE: Duration = Duration::from_secs(10);

/// Held by tests that close sockets, and by those that start processes while they do: a new process has every descriptor
/// of this one for a moment, and a socket is not closed before that.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

/// A directory that is gone when this is.
struct Scratch(PathBuf, #[allow(dead_code, reason = "held")] RwLockReadGuard<'static, ()>);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let guard = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("door-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(fs::canonicalize(path).unwrap(), guard)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn settings(&self) -> Settings {
        let (mode, dir_mode) = (Settings::DEFAULT_MODE, Settings::DEFAULT_DIR_MODE);
        Settings { dir: self.join("switch"), mode, dir_mode, group: None }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The switch's event loop, as far as it is about clients.
struct Door {
    listener: Listener,
    poll: Poll,
}

impl Door {
    fn open(scratch: &Scratch) -> Self {
        Self::with(scratch.settings())
    }

    fn with(settings: Settings) -> Self {
        let poll = Poll::new().unwrap();
        let mut listener = Listener::open(settings).unwrap();
        listener.register(poll.registry(), Token(0)).unwrap();
        Self { listener, poll }
    }

    fn wait(&mut self, end: Instant) {
        assert!(Instant::now() < end, "nothing within {PATIENCE:?}");
        self.poll.poll(&mut Events::with_capacity(8), Some(Duration::from_secs(1))).unwrap();
    }

    fn knock(&mut self) -> Knock {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(knock) = self.listener.accept().unwrap() {
                return knock;
            }
            self.wait(end);
        }
    }

    fn hear(&mut self, knock: &mut Knock) -> Result<Request, Refusal> {
        let end = Instant::now() + PATIENCE;
        knock.register(self.poll.registry(), Token(1)).unwrap();
        let heard = loop {
            match knock.hear() {
                Ok(None) => self.wait(end),
                Ok(Some(request)) => break Ok(request),
                Err(refusal) => break Err(refusal),
            }
        };
        knock.deregister(self.poll.registry()).unwrap();
        heard
    }

    /// What becomes of the next client.
    fn refusal(&mut self) -> Refusal {
        let mut knock = self.knock();
        self.hear(&mut knock).unwrap_err()
    }

    fn admit(&mut self, port: u32) -> Result<Member, VdeError> {
        let mut knock = self.knock();
        let request = self.hear(&mut knock).unwrap();
        self.listener.admit(knock, &request, PortId::new(port).unwrap())
    }

    /// One of our own clients, and the switch's end of it.
    fn join(&mut self, port: u32) -> (Vde, Member) {
        let config = VdeConfig { dir: Some(self.listener.dir().to_owned()), port, ..VdeConfig::default() };
        thread::scope(|scope| {
            let client = scope.spawn(|| Vde::open(&config));
            let member = self.admit(port.max(1)).unwrap();
            (client.join().unwrap().unwrap(), member)
        })
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.listener.dir().join("ctl")).unwrap()
    }

    /// A client that names this address, and what becomes of it.
    fn claim(&mut self, client: Address, offer: Option<Offloads>) -> (UnixStream, Result<Member, VdeError>) {
        let mut stream = self.connect();
        stream.write_all(&Request { port: 0, client, offer, description: Vec::new() }.encode()).unwrap();
        (stream, self.admit(1))
    }

    fn claim_path(&mut self, path: &Path) -> VdeError {
        self.claim(address(path), None).1.map(drop).unwrap_err()
    }

    fn names(&self) -> Vec<String> {
        names(self.listener.dir())
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn address(path: &Path) -> Address {
    Address::of_path(path).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn reply(stream: &mut UnixStream) -> Reply {
    let mut bytes = [0; Reply::LEN];
    stream.read_exact(&mut bytes).unwrap();
    Reply::parse(&bytes).unwrap()
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|place| (place % 251) as u8).collect()
}

fn segmented() -> VnetHeader {
    VnetHeader {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso_type: GsoType::TcpV4,
        gso_size: 1448,
        hdr_len: 54,
        ..VnetHeader::WHOLE
    }
}

fn send(link: &mut dyn Link, header: VnetHeader, bytes: &[u8]) {
    let mut batch = TxBatch::new();
    batch.push(header, [Fragment::new(bytes)]);
    assert_eq!(link.send(&batch).unwrap(), 1);
}

/// What has arrived. Datagrams between sockets of one process do so at once.
fn receive(link: &mut dyn Link) -> Option<(VnetHeader, Vec<u8>)> {
    let mut memory = vec![0; 70_000];
    let mut batch = RxBatch::new();
    batch.push([FragmentMut::new(&mut memory)]);
    link.receive(&mut batch).unwrap();
    let (header, len) = batch.frames().next()?;
    memory.truncate(len);
    Some((header, memory))
}

/// Runs a program, not while other tests close sockets.
fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let guard = DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner);
    let child = command.spawn().unwrap();
    drop(guard);
    child.wait_with_output().unwrap()
}

/// Does something in a process of its own, with another umask or limit: runs this test once more there.
fn in_child(test: &str, prepare: fn(u32), argument: u32, act: impl FnOnce()) {
    const MARK: &str = "DOOR_TEST_CHILD";
    if std::env::var_os(MARK).is_some_and(|value| value.to_str() == Some(&argument.to_string())) {
        act();
        return;
    }
    if std::env::var_os(MARK).is_some() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1"]).env(MARK, argument.to_string());
    // SAFETY: `prepare` makes system calls only.
    unsafe {
        command.pre_exec(move || {
            prepare(argument);
            Ok(())
        })
    };
    let output = run(&mut command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn our_client_and_our_switch_agree_on_offloads() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let (mut client, mut member) = door.join(3);
    assert!(client.has_header());
    assert_eq!(client.capabilities().offloads, Offloads::ALL);
    assert_eq!(member.link.capabilities().offloads, Offloads::ALL);
    for (header, len) in [(VnetHeader::WHOLE, 60), (VnetHeader::WHOLE, 9230), (segmented(), link::MAX_FRAME_LEN)] {
        send(&mut client, header, &frame(len));
        assert_eq!(receive(&mut member.link), Some((header, frame(len))));
        send(&mut member.link, header, &frame(len));
        assert_eq!(receive(&mut client), Some((header, frame(len))));
    }
    assert_eq!(door.names(), ["003.0", "ctl"], "the client's own socket file is gone");
    assert!(member.link.name().starts_with("vde:vswitch-"), "{}", member.link.name());
    assert!(member.link.name().ends_with(&format!(" pid={}", std::process::id())));
}

#[test]
fn the_switch_sends_what_the_client_receives() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let path = scratch.join("client");
    let client = UnixDatagram::bind(&path).unwrap();
    let checksum = Offloads { checksum: true, ..Offloads::NONE };
    let (mut stream, member) = door.claim(address(&path), Some(checksum));
    let mut member = member.unwrap();
    assert_eq!(reply(&mut stream).offer, Some(Offloads::ALL));
    assert_eq!(member.link.capabilities().offloads, checksum);
    send(&mut member.link, VnetHeader::WHOLE, &frame(60));
    let mut heard = [0; 200];
    let len = client.recv(&mut heard).unwrap();
    assert_eq!(heard[..len], [&VnetHeader::WHOLE.to_bytes()[..], &frame(60)].concat());
}

#[test]
fn a_client_without_an_offer_gets_bare_frames_and_no_trailer() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let path = scratch.join("client");
    let client = UnixDatagram::bind(&path).unwrap();
    let (mut stream, member) = door.claim(address(&path), None);
    let mut member = member.unwrap();
    let mut bytes = [0; 110];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, *address(&door.listener.dir().join("001.0")).as_bytes());
    client.connect(door.listener.dir().join("001.0")).unwrap();
    send(&mut member.link, VnetHeader::WHOLE, &frame(60));
    let mut heard = [0; 200];
    assert_eq!(client.recv(&mut heard).unwrap(), 60);
    client.send(&frame(80)).unwrap();
    assert_eq!(receive(&mut member.link), Some((VnetHeader::WHOLE, frame(80))));
    assert_eq!(member.link.name(), format!("vde:pid {}", std::process::id()));
}

#[test]
fn a_switch_with_a_long_path_makes_no_offer() {
    let scratch = Scratch::new();
    let name = "d".repeat(86 - scratch.0.as_os_str().len());
    let mut door = Door::with(Settings { dir: scratch.join(&name), ..scratch.settings() });
    let path = scratch.join("client");
    let _client = UnixDatagram::bind(&path).unwrap();
    let (mut stream, member) = door.claim(address(&path), Some(Offloads::ALL));
    assert_eq!(reply(&mut stream).offer, None);
    assert_eq!(member.unwrap().link.capabilities().offloads, Offloads::NONE);
    let dir = scratch.join(&"d".repeat(100));
    let error = Listener::open(Settings { dir: dir.clone(), ..scratch.settings() }).unwrap_err();
    assert!(matches!(error, VdeError::TooLong(_)), "{error}");
    assert!(!dir.exists());
}

/// User-mode Linux's daemon transport: an abstract address over all 110 bytes, two bytes behind it, a socket that it
/// never connects.
#[test]
fn a_client_like_uml_is_served_at_its_abstract_address() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let mut name = [0; 107];
    name[..4].copy_from_slice(&std::process::id().to_ne_bytes());
    name[5] = 7;
    let client = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    let mut request = [0; 124];
    request[..12].copy_from_slice(&[0xce, 0xfa, 0xed, 0xfe, 3, 0, 0, 0, 0, 0, 0, 0]);
    request[12] = 1;
    request[15..122].copy_from_slice(&name);
    let mut stream = door.connect();
    stream.write_all(&request).unwrap();
    let mut member = door.admit(1).unwrap();
    let data = reply(&mut stream).switch;
    client.send_to(&frame(60), data.path().unwrap()).unwrap();
    assert_eq!(receive(&mut member.link), Some((VnetHeader::WHOLE, frame(60))));
    send(&mut member.link, VnetHeader::WHOLE, &frame(90));
    let mut heard = [0; 200];
    assert_eq!(client.recv(&mut heard).unwrap(), 90);
    // Only the client is heard.
    let stranger = UnixDatagram::unbound().unwrap();
    let error = stranger.send_to(&frame(60), data.path().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_client_of_version_1_is_served() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let path = scratch.join("client");
    let client = UnixDatagram::bind(&path).unwrap();
    let mut request = vec![0xce, 0xfa, 0xed, 0xfe, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9];
    request.extend(address(&path).as_bytes());
    request.extend(b"old");
    let mut stream = door.connect();
    stream.write_all(&request).unwrap();
    let mut member = door.admit(12).unwrap();
    assert_eq!(member.link.name(), "vde:old");
    assert!(reply(&mut stream).switch.path().unwrap().ends_with("switch/012.0"));
    send(&mut member.link, VnetHeader::WHOLE, &frame(60));
    assert_eq!(client.recv(&mut [0; 200]).unwrap(), 60);
}

#[test]
fn a_client_that_makes_no_sense_is_refused_in_words() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let client = address(&scratch.join("client"));
    let whole = Request { port: 0, client, offer: None, description: b"me".to_vec() }.encode();

    drop(door.connect());
    assert!(matches!(door.refusal(), Refusal::Gone));

    let mut stream = door.connect();
    stream.write_all(&whole[..60]).unwrap();
    let mut knock = door.knock();
    assert!(knock.hear().unwrap().is_none());
    drop(stream);
    let refusal = door.hear(&mut knock).unwrap_err();
    assert_eq!(refusal.to_string(), "it left after half a request (60 bytes)");

    let mut stream = door.connect();
    stream.write_all(&[0xce, 0xfa, 0xed, 0xfe, 3, 0, 0, 0].repeat(70_000 / 8)).unwrap();
    assert!(matches!(door.refusal(), Refusal::Malformed(RequestError::Long)));

    let mut stream = door.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(matches!(door.refusal(), Refusal::Malformed(RequestError::Magic(_))));
}

#[test]
fn a_request_in_two_parts_is_heard() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let request =
        Request { port: 5, client: address(&scratch.join("client")), offer: None, description: b"me".to_vec() };
    let bytes = request.encode();
    let mut stream = door.connect();
    stream.write_all(&bytes[..121]).unwrap();
    let mut knock = door.knock();
    assert!(knock.hear().unwrap().is_none());
    stream.write_all(&bytes[121..]).unwrap();
    assert_eq!(door.hear(&mut knock).unwrap(), request);
}

#[test]
fn the_kernel_says_who_a_client_is() {
    let id = |option: &str| {
        let output = run(Command::new("id").arg(option));
        let mut ids: Vec<u32> =
            String::from_utf8(output.stdout).unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    let (user, group, all_groups) = (id("-u"), id("-g"), id("-G"));
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let _stream = door.connect();
    let peer = door.knock().peer().clone();
    assert_eq!((peer.pid, vec![peer.uid], vec![peer.gid]), (std::process::id() as i32, user, group));
    let mut groups = [peer.groups.clone(), vec![peer.gid]].concat();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups, all_groups);
}

#[test]
fn a_client_may_only_name_a_datagram_socket_of_its_own() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let path = scratch.join("client");
    let _client = UnixDatagram::bind(&path).unwrap();

    // Another user's, as the kernel names users.
    let mut stream = door.connect();
    stream
        .write_all(&Request { port: 0, client: address(&path), offer: None, description: Vec::new() }.encode())
        .unwrap();
    let mut knock = door.knock();
    let request = door.hear(&mut knock).unwrap();
    let owner = knock.peer().uid;
    let error = door.listener.admit(knock.of_user(owner + 1), &request, PortId::FIRST).map(drop).unwrap_err();
    let expected = format!("its socket '{}' belongs to user {owner}, and it is user {}", path.display(), owner + 1);
    assert_eq!(error.to_string(), expected);

    // Whatever is no datagram socket.
    fs::write(scratch.join("file"), "").unwrap();
    symlink(&path, scratch.join("link")).unwrap();
    for name in ["file", "link"] {
        let error = door.claim_path(&scratch.join(name));
        assert!(matches!(error, VdeError::ClientNotSocket(_)), "{name}: {error}");
    }
    let stream = UnixListener::bind(scratch.join("stream")).unwrap();
    let refused = |error: VdeError| match error {
        VdeError::Client { source, .. } => source.raw_os_error().unwrap(),
        other => panic!("{other}"),
    };
    assert_eq!(refused(door.claim_path(&scratch.join("stream"))), libc::EPROTOTYPE);
    drop(stream);
    assert_eq!(refused(door.claim_path(&scratch.join("none"))), libc::ENOENT);
    drop(UnixDatagram::bind(scratch.join("dead")).unwrap());
    assert_eq!(refused(door.claim_path(&scratch.join("dead"))), libc::ECONNREFUSED);
    let mut nobody = *address(&scratch.join("none")).as_bytes();
    nobody[2] = 0;
    let (_, member) = door.claim(Address::parse(&nobody).unwrap(), None);
    assert_eq!(refused(member.map(drop).unwrap_err()), libc::ECONNREFUSED);
    assert_eq!(door.names(), ["ctl"], "nothing stays behind");
}

#[test]
fn a_client_cannot_take_over_the_socket_of_another() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    // One that has joined a switch is connected to it, and the kernel keeps others away.
    let path = scratch.join("client");
    let client = UnixDatagram::bind(&path).unwrap();
    let (mut stream, member) = door.claim(address(&path), None);
    let mut member = member.unwrap();
    client.connect(reply(&mut stream).switch.path().unwrap()).unwrap();
    let refused = |error: VdeError| match error {
        VdeError::Client { source, .. } => source.raw_os_error().unwrap(),
        other => panic!("{other}"),
    };
    assert_eq!(refused(door.claim_path(&path)), libc::EPERM);
    // The switch's own.
    let dir = door.listener.dir().to_owned();
    assert_eq!(refused(door.claim_path(&dir.join("ctl"))), libc::EPROTOTYPE);
    assert_eq!(refused(door.claim_path(&dir.join("001.0"))), libc::EPERM);
    // Even if it is no longer connected, and by another path.
    drop(client);
    send(&mut member.link, VnetHeader::WHOLE, &frame(60));
    assert_eq!(member.link.counters().drops.get(DropReason::LinkDown), 1);
    fs::hard_link(dir.join("001.0"), scratch.join("alias")).unwrap();
    for path in [dir.join("001.0"), scratch.join("alias")] {
        let error = door.claim_path(&path);
        assert!(matches!(error, VdeError::ClientNamesSwitch(_)), "{error}");
    }
}

#[test]
fn clients_words_are_escaped_in_names() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let path = scratch.join("client");
    let _client = UnixDatagram::bind(&path).unwrap();
    let mut stream = door.connect();
    let description = b"\x1b[2J\xff\nport 1: all is well".to_vec();
    stream.write_all(&Request { port: 0, client: address(&path), offer: None, description }.encode()).unwrap();
    assert_eq!(door.admit(1).unwrap().link.name(), r"vde:\x1b[2J\xff\x0aport 1: all is well");
    let error = door.claim_path(Path::new("/nowhere/\x1b[2J"));
    assert_eq!(error.to_string(), r"its socket '/nowhere/\x1b[2J': No such file or directory");
}

#[test]
fn modes_and_group_are_what_was_asked_for_whatever_the_umask() {
    for umask in [0o000, 0o777] {
        let act = || {
            let scratch = Scratch::new();
            // SAFETY: no pointers.
            let group = if unsafe { libc::geteuid() } == 0 { Some(4242) } else { None };
            let mut door = Door::with(Settings { mode: 0o660, dir_mode: 0o2710, group, ..scratch.settings() });
            let (_client, _member) = door.join(1);
            let dir = door.listener.dir();
            assert_eq!((mode(dir), mode(&dir.join("ctl")), mode(&dir.join("001.0"))), (0o2710, 0o660, 0o660));
            for path in [dir.to_owned(), dir.join("ctl"), dir.join("001.0")] {
                let gid = std::os::unix::fs::MetadataExt::gid(&fs::metadata(path).unwrap());
                assert!(group.is_none_or(|group| group == gid), "{gid}");
            }
        };
        let prepare = |umask| {
            // SAFETY: no pointers.
            unsafe { libc::umask(umask) };
        };
        in_child("vde::tests::modes_and_group_are_what_was_asked_for_whatever_the_umask", prepare, umask, act);
    }
}

#[test]
fn a_ctl_left_behind_is_recovered_with_what_lies_beside_it() {
    let scratch = Scratch::new();
    let dir = scratch.join("switch");
    fs::create_dir(&dir).unwrap();
    drop(UnixListener::bind(dir.join("ctl")).unwrap());
    drop(UnixDatagram::bind(dir.join("001.0")).unwrap());
    fs::write(dir.join("002.0"), "a file of somebody's").unwrap();
    drop(UnixDatagram::bind(dir.join("other")).unwrap());
    let mut door = Door::open(&scratch);
    assert_eq!(door.names(), ["002.0", "ctl", "other"]);
    assert_eq!(mode(&dir), 0o2700);
    let (_client, _member) = door.join(2);
    assert_eq!(door.names(), ["002.0", "002.1", "ctl", "other"]);
}

#[test]
fn what_is_in_use_or_not_ours_is_left_alone() {
    let scratch = Scratch::new();
    let dir = scratch.join("switch");
    let error = |settings| Listener::open(settings).map(drop).unwrap_err().to_string();
    let door = Door::open(&scratch);
    let running = format!("{}: another switch is running there", dir.display());
    assert_eq!(error(scratch.settings()), running);
    assert_eq!(door.names(), ["ctl"]);
    drop(door);
    assert!(!dir.exists());

    fs::create_dir(&dir).unwrap();
    let other = UnixListener::bind(dir.join("ctl")).unwrap();
    assert_eq!(error(scratch.settings()), running);
    drop(other);
    fs::remove_file(dir.join("ctl")).unwrap();
    fs::write(dir.join("ctl"), "text").unwrap();
    assert_eq!(
        error(scratch.settings()),
        format!("{}/ctl: it exists and is no socket; it is left alone", dir.display())
    );
    assert_eq!(fs::read_to_string(dir.join("ctl")).unwrap(), "text");

    symlink(&dir, scratch.join("link")).unwrap();
    fs::write(scratch.join("file"), "").unwrap();
    for name in ["link", "file"] {
        let path = scratch.join(name);
        let expected = format!("{}: it exists and is no directory", path.display());
        assert_eq!(error(Settings { dir: path, ..scratch.settings() }), expected);
    }
    let lost = scratch.join("no/parent");
    let expected = format!("cannot make the directory {}: No such file or directory", lost.display());
    assert_eq!(error(Settings { dir: lost, ..scratch.settings() }), expected);
}

#[test]
fn nothing_stays_behind_but_what_is_not_ours() {
    let scratch = Scratch::new();
    let dir = scratch.join("switch");
    let mut door = Door::open(&scratch);
    let (client, member) = door.join(1);
    let (_other, other_member) = door.join(2);
    assert_eq!(door.names(), ["001.0", "002.1", "ctl"]);
    drop((client, member));
    assert_eq!(door.names(), ["002.1", "ctl"]);
    drop(door);
    assert!(!dir.exists(), "made by the switch");
    drop(other_member);

    fs::create_dir(&dir).unwrap();
    drop(Door::open(&scratch));
    assert_eq!(names(&dir), [""; 0], "not made by the switch");

    fs::remove_dir(&dir).unwrap();
    let door = Door::open(&scratch);
    fs::remove_file(dir.join("ctl")).unwrap();
    let another = UnixListener::bind(dir.join("ctl")).unwrap();
    drop(door);
    assert_eq!(names(&dir), ["ctl"], "another's ctl");
    drop(another);
}

#[test]
fn a_client_is_gone_when_its_control_connection_ends() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let (client, mut member) = door.join(1);
    member.control.register(door.poll.registry(), Token(5)).unwrap();
    assert!(!member.control.is_gone());
    drop(client);
    let end = Instant::now() + PATIENCE;
    door.wait(end);
    assert!(member.control.is_gone());
    member.control.deregister(door.poll.registry()).unwrap();

    // Whatever it says before.
    let path = scratch.join("client");
    let _client = UnixDatagram::bind(&path).unwrap();
    let (mut stream, member) = door.claim(address(&path), None);
    let mut member = member.unwrap();
    reply(&mut stream);
    stream.write_all(&[7; 50_000]).unwrap();
    assert!(!member.control.is_gone());
    stream.write_all(&[7; 50_000]).unwrap();
    drop(stream);
    assert!(member.control.is_gone());
}

#[test]
fn the_end_of_the_switch_reaches_its_clients() {
    let scratch = Scratch::new();
    let mut door = Door::open(&scratch);
    let (mut client, member) = door.join(1);
    assert!(client.service(Instant::now()).is_ok());
    drop(member);
    assert!(client.service(Instant::now()).is_err());
}

#[test]
fn without_descriptors_clients_are_sent_off_and_later_ones_let_in() {
    let prepare = |limit: u32| {
        let limit = libc::rlimit { rlim_cur: limit.into(), rlim_max: limit.into() };
        // SAFETY: the limit lives through the call.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    };
    in_child("vde::tests::without_descriptors_clients_are_sent_off_and_later_ones_let_in", prepare, 64, || {
        let scratch = Scratch::new();
        let door = Door::open(&scratch);
        let mut clients = [door.connect(), door.connect(), door.connect()];
        let mut ballast = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            ballast.push(file);
        }
        let error = door.listener.accept().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "the client is told");
        }
        assert!(door.listener.accept().unwrap().is_none(), "nobody is left at the door");
        ballast.truncate(ballast.len() - 4);
        let _client = door.connect();
        assert!(door.listener.accept().unwrap().is_some());
    });
}
