//! New privileges, capabilities and root's user (capabilities(7), `PR_SET_NO_NEW_PRIVS` of prctl(2)).
//!
//! Invariant: a capability that was not named is in none of the five sets afterwards: bounding, ambient, inheritable,
//! permitted, effective. There is no name for `CAP_NET_RAW`: nothing of ours keeps it.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use super::Unavailable;

/// A capability that a program may keep, with its number (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To bind ports below 1024.
    NetBindService = 10,
    /// To make and set up interfaces.
    NetAdmin = 12,
}

/// The user and the group that own nothing.
const NOBODY: u32 = 65534;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 for each set.
const VERSION: u32 = 0x2008_0522;

/// From here on nothing that is executed gains privileges.
pub(super) fn forbid_new() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs().map_err(Into::into)
}

/// Whether this process is root, at least of its user namespace.
pub(super) fn is_root() -> bool {
    geteuid().is_root()
}

/// Becomes nobody, so that root's files are no more ours than anybody's. Permitted capabilities are kept.
pub(super) fn become_nobody() -> Result<(), Unavailable> {
    nix::sys::prctl::set_keepcaps(true).map_err(Unavailable::new("PR_SET_KEEPCAPS"))?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).map_err(Unavailable::new("setgroups"))?;
    setresgid(group, group, group).map_err(Unavailable::new("setresgid"))?;
    setresuid(user, user, user).map_err(Unavailable::new("setresuid"))
}

/// Lets nothing that is executed from now on have other capabilities than these.
pub(super) fn bound(kept: &[Capability]) -> io::Result<()> {
    for number in 0.. {
        if kept.iter().any(|capability| *capability as libc::c_ulong == number) {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number) {
            Ok(()) => {}
            // Beyond the last; or this process has none, and what it executes gains none: that is forbidden.
            Err(Errno::EINVAL | Errno::EPERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Drops all capabilities but these. What this process does not have it cannot keep.
pub(super) fn drop_capabilities(kept: &[Capability]) -> io::Result<()> {
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong) {
        // Before Linux 4.3 there are none.
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let wanted = kept.iter().fold(0, |set, capability| set | 1 << *capability as u32);
    let mut sets = Sets::get()?;
    for (word, wanted) in [wanted, 0].into_iter().enumerate() {
        let permitted = sets.0[word].permitted & wanted;
        sets.0[word] = Set { effective: permitted, permitted, inheritable: 0 };
    }
    sets.set()
}

fn prctl(operation: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: these operations take numbers only.
    Errno::result(unsafe { libc::prctl(operation, argument, 0, 0, 0) }).map(drop)
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Set {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The sets of this thread.
struct Sets([Set; 2]);

impl Sets {
    fn get() -> io::Result<Self> {
        let mut header = Header { version: VERSION, pid: 0 };
        let mut sets = [Set::default(); 2];
        // SAFETY: this version fills two sets.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
        Ok(Errno::result(result).map(|_| Self(sets))?)
    }

    fn set(&self) -> io::Result<()> {
        let mut header = Header { version: VERSION, pid: 0 };
        // SAFETY: this version reads two sets.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, self.0.as_ptr()) };
        Ok(Errno::result(result).map(drop)?)
    }
}
