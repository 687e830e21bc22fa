//! Landlock: which files this process can reach at all from here on.

use super::Error;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use std::path::Path;

const NEWEST: ABI = ABI::V6;

const STEP: &str = "Landlock";

/// What is to be left of the file system; no TCP, and no signals and abstract sockets to the outside where the kernel can.
pub struct Rules(RulesetCreated);

impl Rules {
    /// Nothing yet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new() -> Result<Self, Error> {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(|r| r.scope(Scope::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .map(|rules| Self(rules.no_new_privs(false)))
            .map_err(|e| Error::of(STEP, e))
    }

    /// And what lies beneath this: to be read and executed, or `writable`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn beneath(self, path: &Path, writable: bool) -> Result<Self, Error> {
        let Ok(fd) = PathFd::new(path) else {
            return Ok(self); // what does not exist needs no permission
        };
        let access = match writable {
            true => AccessFs::from_all(NEWEST),
            false => AccessFs::from_read(NEWEST),
        };
        let access = match path.is_dir() {
            true => access,
            false => access & AccessFs::from_file(NEWEST),
        };
        (self.0.add_rule(PathBeneath::new(fd, access)))
            .map(Self)
            .map_err(|e| Error::of(STEP, format!("{}: {e}", path.display())))
    }

    /// For the calling thread and those that it starts. It must have given up to gain privileges.
    ///
    /// # Errors
    /// The kernel has no Landlock.
    pub fn restrict(self) -> Result<(), Error> {
        let status = self.0.restrict_self().map_err(|e| Error::of(STEP, e))?;
        if status.ruleset == RulesetStatus::NotEnforced {
            return Err(Error::of(
                STEP,
                "this kernel has no Landlock (set jail.landlock to false to run without it)",
            ));
        }
        Ok(())
    }
}
