//! Paths, TCP, abstract sockets and signals, by landlock(7).
//!
//! It names the same paths as the empty root does, and holds where no namespace is to be had. Invariant: as much is
//! restricted as this kernel knows of; all of it is what Linux 7.1 does.

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope,
};

use super::calls::Family;
use super::root::Places;
use super::{Confinement, Unavailable};

/// What is asked for at most.
const NEWEST: ABI = ABI::V9;

/// Restricts this thread and those it starts.
pub(super) fn restrict(confinement: &Confinement, places: &Places) -> Result<(), Unavailable> {
    match rules(confinement, places) {
        Ok(RulesetStatus::NotEnforced) => Err(Unavailable("this kernel does not offer it".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(Unavailable(error.to_string())),
    }
}

fn rules(confinement: &Confinement, places: &Places) -> Result<RulesetStatus, RulesetError> {
    let makes = |families: &[Family]| families.iter().any(|family| confinement.families.contains(family));
    let mut handled = AccessFs::from_all(NEWEST);
    if makes(&[Family::Unix]) {
        // Sockets are connected to wherever they can be seen.
        handled.remove(AccessFs::ResolveUnix);
    }
    let mut ruleset = Ruleset::default().handle_access(handled)?.scope(Scope::from_all(NEWEST))?;
    if !makes(&[Family::Inet, Family::Inet6]) {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut created = ruleset.create()?;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let writing = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir;
    for place in places.iter() {
        let access: BitFlags<AccessFs> = if place.is_writable { writing } else { reading };
        let access = if place.is_directory { access } else { access & AccessFs::from_file(NEWEST) };
        // One that has gone meanwhile is missed by nobody.
        if let Ok(path) = PathFd::new(&place.path) {
            created = created.add_rule(PathBeneath::new(path, access))?;
        }
    }
    created.restrict_self().map(|status| status.ruleset)
}
