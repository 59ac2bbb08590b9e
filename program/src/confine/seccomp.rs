//! The filter of system calls (seccomp(2)), from the lists in `calls`.
//!
//! Without other programs it is a list of what is allowed, and anything else traps (`violation`). Other programs need
//! anything, so with them it is a short list of what is refused, with `EPERM`: what they make of that is theirs.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Confinement, calls};

/// Sets up the filter for this thread and those it starts.
pub(super) fn apply(confinement: &Confinement) -> Result<(), Error> {
    if confinement.programs {
        let refused = SeccompAction::Errno(libc::EPERM as u32);
        return install(calls::refused()?, SeccompAction::Allow, refused);
    }
    if confinement.threads {
        // Its flags are in memory where no filter can look. The C library falls back on clone(2).
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        install(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))?;
    }
    install(calls::allowed(confinement)?, SeccompAction::Trap, SeccompAction::Allow)
}

fn install(
    rules: BTreeMap<libc::c_long, Vec<SeccompRule>>,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<(), Error> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let program: BpfProgram = SeccompFilter::new(rules, other, listed, architecture)?.try_into().map_err(backend)?;
    apply_filter(&program)
}

fn backend(error: BackendError) -> Error {
    Error::Backend(error)
}
