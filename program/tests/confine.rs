//! What a confined process can still do, and how it ends when it tries more.
//!
//! Each test forks, because the test's own process has threads, and cannot take confinement back. As root, each is done
//! once more by an unprivileged user. Neighbour: `tests/tests/confine`, for programs that carry frames while confined.

#![allow(clippy::unwrap_used, reason = "tests, also outside of #[test] functions")]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use program::confine::{Capability, Confinement, Family, confine};

const NOBODY: u32 = 65534;

/// How a child has ended, and what it has written to standard error.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    status: i32,
    said: String,
}

/// Confines a child, as the user who runs the test, and has it do something; an error is its end with status 3.
fn child(user: Option<u32>, confinement: &Confinement, act: impl FnOnce() -> io::Result<()>) -> Ended {
    let (mut read_end, write_end) = io::pipe().unwrap();
    // SAFETY: the child uses nothing that another thread may have locked: memory is the C library's, which can be forked.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: numbers only; what follows checks what it has done.
        unsafe { libc::dup2(write_end.as_raw_fd(), 2) };
        let say = |text: String| drop((&write_end).write_all(text.as_bytes()));
        if let Some(user) = user {
            become_user(user);
        }
        let status = match confine(confinement) {
            Err(error) => {
                say(format!("{error}\n"));
                2
            }
            Ok(report) => {
                // What this machine offers is all there; tests say what that means.
                report.missing().iter().for_each(|missing| say(format!("missing: {missing}\n")));
                act().map_or_else(
                    |error| {
                        say(format!("{}\n", link::reason(&error)));
                        3
                    },
                    |()| 0,
                )
            }
        };
        // SAFETY: ends the child without the harness's destructors.
        unsafe { libc::_exit(status) };
    }
    assert!(pid > 0, "{}", io::Error::last_os_error());
    drop(write_end);
    let mut said = String::new();
    read_end.read_to_string(&mut said).unwrap();
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "killed by signal {}: {said}", libc::WTERMSIG(status));
    Ended { status: libc::WEXITSTATUS(status), said }
}

/// Becomes an unprivileged user, as if it had started this.
fn become_user(user: u32) {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[]).unwrap();
    setresgid(group, group, group).unwrap();
    setresuid(user, user, user).unwrap();
    nix::sys::prctl::set_dumpable(true).unwrap();
}

/// Those as whom a test runs.
fn users() -> Vec<Option<u32>> {
    if geteuid().is_root() { vec![None, Some(NOBODY)] } else { vec![None] }
}

/// A confined child of each user does this and succeeds, with nothing missing.
fn succeeds(confinement: &Confinement, act: impl Fn() -> io::Result<()>) {
    for user in users() {
        let ended = child(user, confinement, &act);
        assert_eq!(ended, Ended { status: 0, said: String::new() }, "{user:?}");
    }
}

/// A confined child of each user is told this, and goes on.
fn is_refused(confinement: &Confinement, why: &[&str], act: impl Fn() -> io::Result<()>) {
    for user in users() {
        let ended = child(user, confinement, &act);
        assert_eq!(ended.status, 3, "{user:?}: {ended:?}");
        assert!(why.contains(&ended.said.trim_end()), "{user:?}: {ended:?}");
    }
}

/// A confined child of each user ends with one line that has the number of the call.
fn ends(confinement: &Confinement, call: libc::c_long, act: impl Fn() -> io::Result<()>) {
    for user in users() {
        let ended = child(user, confinement, &act);
        let tail = format!(": error: confinement: system call {call} is not allowed\n");
        assert_eq!(ended.status, 1, "{user:?}: {ended:?}");
        assert!(ended.said.ends_with(&tail) && ended.said.lines().count() == 1, "{user:?}: {ended:?}");
    }
}

/// A directory that everybody may use, removed when this is dropped.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("etherloom-confine-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn nothing() -> Confinement {
    Confinement::default()
}

fn reading(path: &Path) -> Confinement {
    Confinement { read: vec![path.to_owned()], ..nothing() }
}

fn writing(path: &Path) -> Confinement {
    Confinement { write: vec![path.to_owned()], ..nothing() }
}

fn nat() -> Confinement {
    Confinement::for_nat(Path::new("/etc/resolv.conf"), None, &[])
}

fn result(value: impl Into<i64>) -> io::Result<()> {
    if value.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn must(holds: bool, what: &str) -> io::Result<()> {
    if holds { Ok(()) } else { Err(io::Error::other(what.to_owned())) }
}

fn socket(family: i32, kind: i32) -> io::Result<()> {
    // SAFETY: numbers only.
    result(unsafe { libc::socket(family, kind, 0) })
}

#[test]
fn memory_time_and_open_descriptors_stay() {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    for user in users() {
        let (mut one, mut other) = (one.try_clone().unwrap(), other.try_clone().unwrap());
        let ended = child(user, &nothing(), || {
            let many: Vec<Vec<u8>> = (0..100).map(|_| vec![1; 1 << 20]).collect();
            must(many.iter().map(Vec::len).sum::<usize>() == 100 << 20, "memory")?;
            std::thread::sleep(std::time::Duration::from_millis(1));
            one.write_all(b"x")?;
            other.read_exact(&mut [0])
        });
        assert_eq!(ended, Ended { status: 0, said: String::new() });
    }
    one.write_all(b"y").unwrap();
    other.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_status_shows_what_was_given_up() {
    // Opened before, and read from the inside.
    for user in users() {
        for (kept, effective) in [(vec![], 0_u64), (vec![Capability::NetAdmin], 1 << 12)] {
            // Who has no capabilities keeps none.
            let is_root = user.is_none() && users().len() == 2;
            let effective = if is_root { effective } else { 0 };
            let confinement = Confinement { capabilities: kept.clone(), ..reading(Path::new("/proc")) };
            let ended = child(user, &confinement, || {
                let status = fs::read_to_string("/proc/self/status")?;
                let line = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|rest| rest.trim_start_matches(':').trim().to_owned()).unwrap_or_default()
                };
                must(line("Seccomp") == "2" && line("NoNewPrivs") == "1", "seccomp")?;
                for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                    let wanted = if ["CapPrm", "CapEff"].contains(&set) { effective } else { 0 };
                    must(u64::from_str_radix(&line(set), 16).ok() == Some(wanted), &format!("{set} {}", line(set)))?;
                }
                must(!is_root || kept.is_empty() == (line("CapBnd") == "0000000000000000"), "CapBnd")?;
                must(!is_root || line("Uid").starts_with("65534"), "it is root still")
            });
            // Without a user namespace an unprivileged user has no empty root.
            let lacks_root = !kept.is_empty() && !is_root;
            assert_eq!((ended.status, ended.said.contains("an empty root")), (0, lacks_root), "{user:?}: {ended:?}");
        }
    }
}

#[test]
fn the_root_holds_nothing_else_than_what_was_named() {
    let dir = Dir::new();
    dir.file("file", "text");
    let first = dir.0.components().nth(1).unwrap().as_os_str().to_owned();
    succeeds(&reading(&dir.0), || {
        must(fs::read_to_string(dir.0.join("file"))? == "text", "text")?;
        fs::read_dir(&dir.0)?.try_for_each(|entry| entry.map(drop))?;
        // Landlock lets nobody list what is above; what is there is seen by its name.
        must(fs::metadata(Path::new("/").join(&first)).is_ok(), "the way there")?;
        for name in ["/etc", "/proc", "/bin", "/usr", "/dev", "/sys"] {
            must(fs::metadata(name).is_err(), name)?;
        }
        Ok(())
    });
    is_refused(&reading(&dir.0), &["No such file or directory"], || File::open("/etc/passwd").map(drop));
}

#[test]
fn what_is_read_cannot_be_written() {
    let dir = Dir::new();
    let file = dir.file("file", "text");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    ends(&reading(&dir.0), libc::SYS_openat, || OpenOptions::new().write(true).open(&file).map(drop));
    ends(&reading(&dir.0), libc::SYS_openat, || File::create(dir.0.join("new")).map(drop));
    ends(&reading(&dir.0), libc::SYS_unlink, || fs::remove_file(&file));
    // By the mount, where the system call is allowed for the sake of another directory.
    let other = Dir::new();
    let both = reading(&dir.0).and(writing(&other.0));
    let why = ["Read-only file system", "Permission denied"];
    is_refused(&both, &why, || OpenOptions::new().write(true).open(&file).map(drop));
    is_refused(&both, &why, || fs::remove_file(&file));
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn below_an_open_folder_files_are_found_and_read_only() {
    let dir = Dir::new();
    let file = dir.file("file", "text");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let folder = File::open(&dir.0).unwrap();
    let open = |flags: OFlag| {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_BENEATH);
        openat2(&folder, "file", how).map(File::from).map_err(io::Error::from)
    };
    let nat = Confinement::for_nat(Path::new("/etc/resolv.conf"), Some(&dir.0), &[]);
    succeeds(&nat, || must(io::read_to_string(open(OFlag::O_RDONLY)?)? == "text", "text"));
    is_refused(&nat, &["Permission denied"], || open(OFlag::O_RDWR).map(drop));
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn what_is_written_can_be_removed_and_nothing_beside_it() {
    let (dir, other) = (Dir::new(), Dir::new());
    let outside = other.file("file", "text");
    let confinement = writing(&dir.0).and(Confinement { families: vec![Family::Unix], ..nothing() });
    succeeds(&confinement, || {
        drop(UnixListener::bind(dir.0.join("socket"))?);
        fs::remove_file(dir.0.join("socket"))?;
        fs::write(dir.0.join("file"), "text")?;
        fs::remove_file(dir.0.join("file"))
    });
    is_refused(&confinement, &["No such file or directory"], || fs::remove_file(&outside));
    assert!(outside.exists());
}

#[test]
fn a_followed_file_is_read_again_when_another_takes_its_place() {
    let dir = Dir::new();
    fs::create_dir(dir.0.join("run")).unwrap();
    symlink("../run/resolv.conf", dir.0.join("link")).unwrap();
    for direct in [true, false] {
        fs::create_dir_all(dir.0.join("etc")).unwrap();
        fs::write(dir.0.join("run/resolv.conf"), "before").unwrap();
        let _ = fs::remove_file(dir.0.join("etc/resolv.conf"));
        symlink("../run/resolv.conf", dir.0.join("etc/resolv.conf")).unwrap();
        let secret = dir.file("etc/secret", "");
        let path = dir.0.join(if direct { "run/resolv.conf" } else { "etc/resolv.conf" });
        for user in users() {
            fs::write(dir.0.join("run/resolv.conf"), "before").unwrap();
            let (mut ask, mut answer) = UnixStream::pair().unwrap();
            let (mut hear, replaced) = (ask.try_clone().unwrap(), dir.0.join("run/resolv.conf"));
            let other = std::thread::spawn({
                let (new, mut end) = (dir.0.join("run/new"), answer.try_clone().unwrap());
                move || {
                    end.read_exact(&mut [0]).unwrap();
                    fs::write(&new, "after").unwrap();
                    fs::rename(&new, &replaced).unwrap();
                    end.write_all(b"x").unwrap();
                }
            });
            let confinement = Confinement { follow: vec![path.clone()], ..nothing() };
            let ended = child(user, &confinement, || {
                must(fs::read_to_string(&path)? == "before", "before")?;
                ask.write_all(b"x")?;
                hear.read_exact(&mut [0])?;
                must(fs::read_to_string(&path)? == "after", "after")?;
                must(fs::metadata(&secret).is_err(), "what is beside the link")
            });
            let _ = answer.shutdown(std::net::Shutdown::Both);
            assert_eq!(ended, Ended { status: 0, said: String::new() }, "{user:?} {direct}");
            answer.flush().unwrap();
            other.join().unwrap();
        }
    }
}

#[test]
fn who_stays_root_does_not_see_what_is_secret_beside_a_followed_file() {
    let (dir, other) = (Dir::new(), Dir::new());
    let (file, secret) = (dir.file("resolv.conf", "text"), dir.file("secret", "text"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let confinement = Confinement { follow: vec![file.clone()], ..writing(&other.0) };
    for user in users() {
        let ended = child(user, &confinement, || {
            must(fs::read_to_string(&file)? == "text", "text")?;
            let is_hidden = fs::read_to_string(&secret).is_err();
            // Who made it may read it, as before.
            must(is_hidden || !geteuid().is_root(), "the secret")
        });
        let said_so = ended.said.contains("another file in the place of ");
        assert_eq!((ended.status, said_so), (0, user.is_none() && geteuid().is_root()), "{user:?}: {ended:?}");
    }
}

#[test]
fn sockets_are_of_the_named_kinds_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    succeeds(&nat(), || TcpStream::connect(address).map(drop));
    succeeds(&nat(), || UdpSocket::bind("127.0.0.1:0").map(drop));
    for (family, kind) in [
        (libc::AF_PACKET, libc::SOCK_RAW),
        (libc::AF_PACKET, libc::SOCK_DGRAM),
        (libc::AF_NETLINK, libc::SOCK_RAW),
        (libc::AF_INET, libc::SOCK_RAW),
        (libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_CLOEXEC),
        (libc::AF_VSOCK, libc::SOCK_STREAM),
        (libc::AF_ALG, libc::SOCK_SEQPACKET),
    ] {
        ends(&nat(), libc::SYS_socket, || socket(family, kind));
    }
    ends(&nothing(), libc::SYS_socket, || socket(libc::AF_INET, libc::SOCK_STREAM));
}

#[test]
fn other_programs_and_processes_are_out_of_reach() {
    let parent = std::process::id() as i32;
    let none = std::ptr::null::<libc::c_char>();
    ends(&nat(), libc::SYS_execve, || {
        let path = CString::new("/bin/true").unwrap();
        // SAFETY: the path ends with a NUL; no arguments and no environment are allowed for.
        result(unsafe { libc::execve(path.as_ptr(), [none].as_ptr(), [none].as_ptr()) })
    });
    // SAFETY: numbers only.
    ends(&nat(), libc::SYS_kill, || result(unsafe { libc::kill(parent, 0) }));
    // SAFETY: numbers only.
    ends(&nat(), libc::SYS_ptrace, || result(unsafe { libc::ptrace(libc::PTRACE_ATTACH, parent, 0, 0) }));
    // SAFETY: numbers only; no child is made.
    ends(&nat(), libc::SYS_clone, || result(unsafe { libc::fork() }));
    ends(&nat(), libc::SYS_tgkill, || {
        // SAFETY: numbers only.
        result(unsafe { libc::syscall(libc::SYS_tgkill, parent, parent, libc::SIGABRT) })
    });
}

#[test]
fn the_system_cannot_be_changed() {
    let none = std::ptr::null::<libc::c_char>();
    ends(&nat(), libc::SYS_mount, || {
        // SAFETY: a path that ends with a NUL, and null pointers that this call takes.
        result(unsafe { libc::mount(none, c"/".as_ptr(), none, libc::MS_REMOUNT, std::ptr::null()) })
    });
    // SAFETY: numbers only.
    ends(&nat(), libc::SYS_unshare, || result(unsafe { libc::unshare(libc::CLONE_NEWUSER) }));
    ends(&nat(), libc::SYS_setresuid, || {
        // Not by the C library, which asks other threads.
        // SAFETY: numbers only.
        result(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })
    });
    ends(&nat(), libc::SYS_ioctl, || {
        let byte = 0_u8;
        // SAFETY: the byte is there; the call is not made.
        result(unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const byte) })
    });
    ends(&nat(), libc::SYS_prctl, || {
        // SAFETY: numbers only.
        result(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) })
    });
}

#[test]
fn memory_that_can_be_executed_is_not_to_be_had() {
    let map = |protection| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping that nothing points into.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(memory) }
    };
    ends(&nat(), libc::SYS_mmap, || map(libc::PROT_READ | libc::PROT_EXEC).map(drop));
    ends(&nat(), libc::SYS_mprotect, || {
        let memory = map(libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the mapping is ours, and nothing points into it.
        result(unsafe { libc::mprotect(memory, 4096, libc::PROT_READ | libc::PROT_EXEC) })
    });
}

#[test]
fn threads_start_where_they_are_named_and_processes_do_not() {
    let threads = Confinement { threads: true, ..nothing() };
    succeeds(&threads, || {
        std::thread::Builder::new()
            .name("second".to_owned())
            .spawn(|| ())?
            .join()
            .map_err(|_| io::Error::other("panic"))
    });
    // SAFETY: numbers only.
    ends(&threads, libc::SYS_clone, || result(unsafe { libc::fork() }));
    // SAFETY: the call is not made.
    ends(&nothing(), libc::SYS_clone3, || result(unsafe { libc::syscall(libc::SYS_clone3, 0, 0) }));
}

#[test]
fn landlock_alone_refuses_what_the_empty_root_would_not_have() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = SocketAddr::from_abstract_name(format!("etherloom-{}", std::process::id())).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    // Who would keep a capability has no user namespace, and an unprivileged user no other.
    let user = users().pop().unwrap();
    let confinement = Confinement {
        capabilities: vec![Capability::NetAdmin],
        families: vec![Family::Unix],
        ..reading(Path::new("/proc/self"))
    };
    // SAFETY: numbers only.
    let tcp = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    let attempts: [(&str, &dyn Fn() -> io::Result<()>); 3] = [
        ("Permission denied", &|| File::open("/etc/passwd").map(drop)),
        ("Permission denied", &|| connect_ipv4(tcp, port)),
        ("Operation not permitted", &|| UnixStream::connect_addr(&name).map(drop)),
    ];
    for (why, attempt) in attempts {
        let ended = child(user, &confinement, attempt);
        assert!(ended.said.starts_with("missing: an empty root (no namespaces: "), "{ended:?}");
        assert!(ended.status == 3 && ended.said.lines().nth(1) == Some(why), "{ended:?}");
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(tcp) };
}

/// Connects a socket to a port of this host.
fn connect_ipv4(socket: i32, port: u16) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(std::net::Ipv4Addr::LOCALHOST).to_be() },
        sin_zero: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is as long as stated.
    result(unsafe { libc::connect(socket, (&raw const address).cast(), len) })
}

#[test]
fn other_programs_run_without_privileges() {
    let programs = Confinement { programs: true, ..nothing() };
    succeeds(&programs, || {
        let output = std::process::Command::new("cat").arg("/proc/self/status").output()?;
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        must(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"), &status)
    });
    is_refused(&programs, &["Operation not permitted"], || socket(libc::AF_PACKET, libc::SOCK_RAW));
    // SAFETY: numbers only.
    is_refused(&programs, &["Operation not permitted"], || result(unsafe { libc::unshare(libc::CLONE_NEWNS) }));
}

#[test]
fn a_process_with_threads_is_left_alone() {
    // The harness has threads: this one, at least, and the one that waits for it.
    let error = confine(&nothing()).unwrap_err().to_string();
    assert!(error.starts_with("confinement: the process has ") && error.ends_with(" threads already"), "{error}");
}

#[test]
fn the_ends_own_signal_still_works() {
    for user in users() {
        // As the standard library's abort, without its core dump.
        let ended = std::panic::catch_unwind(|| child(user, &nothing(), || std::process::abort()));
        let why = ended.map(drop).unwrap_err();
        let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(why.contains(&format!("killed by signal {}", libc::SIGABRT)), "{why}");
    }
}
