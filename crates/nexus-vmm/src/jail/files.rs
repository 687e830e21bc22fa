//! Landlock: which files this process can reach at all from here on.

use super::Error;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::path::Path;

const NEWEST: ABI = ABI::V6;

/// Deny the file system but for what lies beneath `readable` (read, execute) and `writable`; deny TCP, and
/// signals and abstract sockets to the outside where the kernel can.
///
/// # Errors
/// The kernel has no Landlock.
pub fn confine(readable: &[&Path], writable: &[&Path]) -> Result<(), Error> {
    let step = "Landlock";
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|r| r.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(|e| Error::of(step, e))?;
    for (paths, access) in [
        (readable, AccessFs::from_read(NEWEST)),
        (writable, AccessFs::from_all(NEWEST)),
    ] {
        for path in paths {
            let Ok(fd) = PathFd::new(path) else {
                continue; // what does not exist needs no permission
            };
            let access = if path.is_dir() {
                access
            } else {
                access & AccessFs::from_file(NEWEST)
            };
            rules = rules
                .add_rule(PathBeneath::new(fd, access))
                .map_err(|e| Error::of(step, format!("{}: {e}", path.display())))?;
        }
    }
    let status = rules.restrict_self().map_err(|e| Error::of(step, e))?;
    if status.ruleset == RulesetStatus::NotEnforced {
        return Err(Error::of(
            step,
            "this kernel has no Landlock (set jail.landlock to false to run without it)",
        ));
    }
    Ok(())
}
