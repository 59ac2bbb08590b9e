//! System calls, by what they are for.
//!
//! Invariant: nothing here runs a program, makes a process, maps memory that can be executed, looks into another process,
//! sends a signal to one, makes a raw socket, or changes what this process is confined by.
//!
//! Where a call's numbers matter they are compared; what it points to cannot be.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::Confinement;

/// A kind of sockets (socket(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4: TCP, UDP, and ICMP echo for those who may.
    Inet,
    /// IPv6, the same.
    Inet6,
    /// Sockets with files.
    Unix,
    /// What the kernel says of interfaces and routes.
    Netlink,
}

/// Each call, and when it matches: always if there is no rule, else if one of its rules does.
type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What an open TAP is asked and told.
pub(super) const TAP_REQUESTS: [u64; 4] =
    [libc::SIOCGIFFLAGS, libc::SIOCGIFMTU, libc::TUNSETCARRIER, libc::TUNSETOFFLOAD];

/// On open descriptors, memory, time and events.
const ALWAYS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // On open sockets.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_shutdown,
];

/// What this architecture has besides, for the same purposes.
#[cfg(target_arch = "x86_64")]
const ALWAYS_OLD: &[c_long] = &[
    libc::SYS_accept,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ALWAYS_OLD: &[c_long] = &[libc::SYS_accept];

/// To find a file and what is below a directory; opening it is restricted.
const READ: &[c_long] = &[
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_getcwd,
];
#[cfg(target_arch = "x86_64")]
const READ_OLD: &[c_long] = &[libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const READ_OLD: &[c_long] = &[];

/// To make and remove files.
const WRITE: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_flock,
];
#[cfg(target_arch = "x86_64")]
const WRITE_OLD: &[c_long] = &[libc::SYS_unlink, libc::SYS_rmdir, libc::SYS_mkdir, libc::SYS_chmod, libc::SYS_rename];
#[cfg(not(target_arch = "x86_64"))]
const WRITE_OLD: &[c_long] = &[libc::SYS_renameat2];

/// To make sockets, besides socket(2) itself.
const SOCKETS: &[c_long] = &[libc::SYS_bind, libc::SYS_connect, libc::SYS_listen];

/// To start threads, besides clone(2) itself. `clone3` is answered by another filter, before which this has to let it pass.
const THREADS: &[c_long] = &[libc::SYS_clone3, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity];

/// Commands of fcntl(2): flags of descriptors, copies, and the size of a pipe.
const FCNTL: &[u64] = &[
    libc::F_GETFD as u64,
    libc::F_SETFD as u64,
    libc::F_GETFL as u64,
    libc::F_SETFL as u64,
    libc::F_DUPFD_CLOEXEC as u64,
    libc::F_GETPIPE_SZ as u64,
    libc::F_SETPIPE_SZ as u64,
];

/// Requests of ioctl(2) that the standard library makes of any descriptor, and how much is queued in it.
const IOCTLS: &[u64] = &[libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD, libc::TIOCOUTQ];

/// With other programs: what changes the system, or looks into other processes.
const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// The calls that this program may make; all of them end otherwise.
pub(super) fn allowed(confinement: &Confinement) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let mut allow = |calls: &[c_long]| calls.iter().for_each(|call| drop(rules.insert(*call, Vec::new())));
    allow(ALWAYS);
    allow(ALWAYS_OLD);
    let (reads, writes) = (
        !confinement.read.is_empty() || !confinement.follow.is_empty() || !confinement.write.is_empty(),
        !confinement.write.is_empty(),
    );
    if reads {
        allow(READ);
        allow(READ_OLD);
    }
    if writes {
        allow(WRITE);
        allow(WRITE_OLD);
    } else if reads {
        rules.insert(libc::SYS_openat, vec![rule([without(2, WRITING)])?]);
    }
    if !confinement.read.is_empty() {
        // How it opens is in memory where no filter can look: writing is barred by the mount and by landlock.
        rules.insert(libc::SYS_openat2, Vec::new());
    }
    let executable = libc::PROT_EXEC as u64;
    rules.insert(libc::SYS_mmap, vec![rule([without(2, executable)])?]);
    rules.insert(libc::SYS_mprotect, vec![rule([without(2, executable)])?]);
    rules.insert(libc::SYS_fcntl, one_of(1, FCNTL)?);
    rules.insert(libc::SYS_ioctl, one_of(1, &[IOCTLS, &confinement.ioctls].concat())?);
    // abort(3): a signal to itself, whatever handled it.
    let abort = libc::SIGABRT as u64;
    rules.insert(libc::SYS_rt_sigaction, vec![rule([is(0, abort)])?]);
    rules.insert(libc::SYS_tgkill, vec![rule([is(0, std::process::id().into()), is(2, abort)])?]);
    if !confinement.families.is_empty() {
        SOCKETS.iter().for_each(|call| drop(rules.insert(*call, Vec::new())));
        let mut sockets = Vec::new();
        for family in &confinement.families {
            let (domain, kinds) = family.numbers();
            for kind in kinds {
                let type_bits = SeccompCmpOp::MaskedEq(0xf);
                sockets.push(rule([is(0, domain as u64), condition(1, type_bits, *kind as u64)])?);
            }
        }
        rules.insert(libc::SYS_socket, sockets);
    }
    if confinement.threads {
        THREADS.iter().for_each(|call| drop(rules.insert(*call, Vec::new())));
        let thread = (libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;
        let only_these = SeccompCmpOp::MaskedEq(thread | NAMESPACES);
        rules.insert(libc::SYS_clone, vec![rule([condition(0, only_these, thread)])?]);
        rules.insert(libc::SYS_prctl, one_of(0, &[libc::PR_SET_NAME as u64])?);
    }
    Ok(rules)
}

/// The calls that are refused where other programs are started.
pub(super) fn refused() -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_socket, one_of(0, &[libc::AF_PACKET as u64])?);
    Ok(rules)
}

/// Flags of openat(2) by which something is written or made.
const WRITING: u64 =
    (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u64;

/// Flags of clone(2) by which namespaces are made.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

impl Family {
    /// Its number, and the types of sockets that are made of it.
    fn numbers(self) -> (libc::c_int, &'static [libc::c_int]) {
        const PLAIN: &[libc::c_int] = &[libc::SOCK_STREAM, libc::SOCK_DGRAM];
        match self {
            Self::Inet => (libc::AF_INET, PLAIN),
            Self::Inet6 => (libc::AF_INET6, PLAIN),
            Self::Unix => (libc::AF_UNIX, &[libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET]),
            Self::Netlink => (libc::AF_NETLINK, &[libc::SOCK_RAW, libc::SOCK_DGRAM]),
        }
    }
}

type Condition = Result<SeccompCondition, BackendError>;

fn rule<const N: usize>(conditions: [Condition; N]) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions.into_iter().collect::<Result<_, _>>()?)
}

/// All of these are `int` in the kernel, or flags of which the lower half matters.
fn condition(argument: u8, how: SeccompCmpOp, value: u64) -> Condition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, how, value)
}

fn is(argument: u8, value: u64) -> Condition {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn without(argument: u8, flags: u64) -> Condition {
    condition(argument, SeccompCmpOp::MaskedEq(flags), 0)
}

fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    values.iter().map(|value| rule([is(argument, *value)])).collect()
}
