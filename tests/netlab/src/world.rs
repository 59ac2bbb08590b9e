//! What a lab is made of: namespaces of its own, hosts, and traffic between them.
//!
//! A test runs once more, as the first process of new network, mount and process namespaces: whatever it starts ends with
//! it, however it ends. Where it is not root it is so inside, by a user namespace. /run is empty, and its working directory.
//! Invariant: nothing here waits without a time limit.

use std::any::type_name;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long anything may take that takes milliseconds on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The variable that names the test which runs in its namespaces.
const MARK: &str = "NETLAB";
/// In the new namespaces: what the test needs to find there.
const PREPARE: &str = "mount -t sysfs none /sys && mount -t tmpfs none /run && cd /run && mkdir tmp home && export HOME=/run/home TMPDIR=/run/tmp && \
    echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 && ip link set lo up && ulimit -n $(ulimit -Hn) && exec \"$0\" --exact \"$1\" --nocapture";

/// Runs a test in a lab of its own, for two minutes at most.
pub fn lab<F: FnOnce()>(test: F) {
    lab_within(Duration::from_secs(120), test);
}

/// Runs a test in a lab of its own. It is known by the place of its closure, so that must be in the test function.
pub fn lab_within<F: FnOnce()>(limit: Duration, test: F) {
    let (_, name) = type_name::<F>().trim_end_matches("::{{closure}}").split_once("::").unwrap();
    if std::env::var(MARK).is_ok_and(|inside| inside == name) {
        return test();
    }
    // SAFETY: no pointers, and it cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let output = Command::new("timeout")
        .args(["--foreground", "--kill-after=5", &limit.as_secs().to_string()])
        .args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(if is_root { [].as_slice() } else { &["--map-root-user"] })
        .args(["sh", "-c", PREPARE])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(MARK, name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {}\n{text}", output.status);
    text.lines().filter(|line| line.starts_with("lab: ")).for_each(|line| println!("{line}"));
}

/// Runs a command line to its end; it must succeed. Returns what it wrote to standard output. Words are as between blanks,
/// without quotes.
pub fn run(line: &str) -> String {
    let output = command(line).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {}\n{said}{}", output.status, String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A command line, still to be run.
pub fn command(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// Waits until something holds.
pub fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience, "not after {patience:?}: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// Whether a network interface is there.
pub fn has_interface(name: &str) -> bool {
    fs::exists(format!("/sys/class/net/{name}")).unwrap()
}

/// A number that the kernel counts for an interface, as `rx_packets`. Those of a TAP are its host's: what the switch has
/// sent is received.
pub fn statistic(host: &Host, interface: &str, name: &str) -> u64 {
    host.run(&format!("cat /sys/class/net/{interface}/statistics/{name}")).trim().parse().unwrap()
}

/// A host: a network namespace.
pub struct Host {
    name: Option<&'static str>,
}

impl Host {
    /// The host that the lab begins with, where switches run.
    pub const HERE: Self = Self { name: None };

    /// A host that is there: a network namespace with this name.
    pub const fn there(name: &'static str) -> Self {
        Self { name: Some(name) }
    }

    /// A new host without interfaces. It has no IPv6, so it says nothing that it was not asked to.
    pub fn new(name: &'static str) -> Self {
        run(&format!("ip netns add {name}"));
        run(&format!("ip -n {name} link set lo up"));
        let host = Self { name: Some(name) };
        host.spawn(|| fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap()).join().unwrap();
        host
    }

    /// A new host, which gets an interface of this one, with an address such as `10.0.0.1/24`.
    pub fn with(name: &'static str, interface: &str, address: &str) -> Self {
        let host = Self::new(name);
        run(&format!("ip link set {interface} netns {name}"));
        host.set_address(interface, address);
        host
    }

    /// Gives an interface an address and brings it up.
    pub fn set_address(&self, interface: &str, address: &str) {
        self.run(&format!("ip addr add {address} dev {interface}"));
        self.run(&format!("ip link set {interface} up"));
    }

    /// A command line that does its work on this host.
    pub fn line(&self, line: &str) -> String {
        match self.name {
            Some(name) => format!("ip netns exec {name} {line}"),
            None => line.to_owned(),
        }
    }

    /// Runs a command line to its end; it must succeed.
    pub fn run(&self, line: &str) -> String {
        run(&self.line(line))
    }

    /// Pings; every ping must be answered. `options` are busybox's, as `-c 3`.
    pub fn ping(&self, options: &str, address: &str) {
        self.run(&format!("busybox ping -i 0.2 -W 5 {options} {address}"));
    }

    /// Whether one ping is answered within a second.
    pub fn reaches(&self, address: &str) -> bool {
        command(&self.line(&format!("busybox ping -c 1 -W 1 {address}"))).output().unwrap().status.success()
    }

    /// Has a thread of this process work on this host.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.name.map(|name| File::open(format!("/run/netns/{name}")).unwrap());
        thread::spawn(move || {
            if let Some(namespace) = namespace {
                enter(&namespace).unwrap();
            }
            work()
        })
    }
}

/// Moves the calling thread into a network namespace.
fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: no pointers; only the calling thread changes its network namespace.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A TCP connection that carries bytes of which the receiver checks each one.
pub struct Transfer {
    stop: &'static AtomicBool,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<u64>,
}

impl Transfer {
    /// Begins to send from one host to another, which has this address; ends of itself after `limit` bytes.
    pub fn start(from: &Host, to: &Host, address: &str, limit: u64) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let stop: &AtomicBool = Box::leak(Box::default());
        let (tell, listens) = channel();
        let receiver = to.spawn(move || {
            let listener = TcpListener::bind(address).unwrap();
            tell.send(()).unwrap();
            check_pattern(listener.accept().unwrap().0)
        });
        let sender = from.spawn(move || {
            wait_for(&listens);
            let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
            send_pattern(stream, limit, stop)
        });
        Self { stop, sender, receiver }
    }

    /// Waits for the last byte; returns how many there were.
    pub fn finish(self) -> u64 {
        let sent = self.sender.join().expect("the sender failed");
        let received = self.receiver.join().expect("the receiver failed");
        assert_eq!(sent, received, "bytes were lost on the way");
        sent
    }

    /// Ends it.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }
}

fn wait_for(listens: &Receiver<()>) {
    listens.recv_timeout(PATIENCE).unwrap();
}

/// The bytes of a transfer: no two words of a mebibyte are alike, so nothing can be lost or swapped unseen.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.chunks_exact_mut(8) {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

const CHUNK: usize = 64 * 1024;

fn send_pattern(mut stream: TcpStream, limit: u64, stop: &AtomicBool) -> u64 {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let (mut pattern, mut chunk, mut sent) = (Pattern(1), vec![0; CHUNK], 0);
    while sent < limit && !stop.load(Ordering::Relaxed) {
        pattern.fill(&mut chunk);
        stream.write_all(&chunk).unwrap();
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    // The end of the other side means that it has all.
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.read(&mut chunk);
    sent
}

fn check_pattern(mut stream: TcpStream) -> u64 {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut pattern, mut chunk, mut expected, mut received) = (Pattern(1), vec![0; CHUNK], vec![0; CHUNK], 0);
    loop {
        match stream.read_exact(&mut chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return received,
            Err(error) => panic!("after {received} bytes: {error}"),
        }
        pattern.fill(&mut expected);
        assert!(chunk == expected, "the bytes behind {received} are not those that were sent");
        received += CHUNK as u64;
    }
}
