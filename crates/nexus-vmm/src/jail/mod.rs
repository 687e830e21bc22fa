//! What confines this process before any guest code runs: the guest's escape from its VM must gain nothing.

pub mod calls;
pub mod files;
pub mod filter;
pub mod page;
pub mod privileges;

use crate::config::Serve;
use files::Rules;
use nexus_personality::config::Root;
use std::os::fd::RawFd;

const OPEN_FILES: u64 = 4096;

/// A step of the jail that did not succeed. The guest does not run then.
#[derive(Debug, thiserror::Error)]
#[error("jail: {step}: {reason}")]
pub struct Error {
    pub step: &'static str,
    pub reason: String,
}

impl Error {
    fn last(step: &'static str) -> Self {
        Self {
            step,
            reason: std::io::Error::last_os_error().to_string(),
        }
    }

    fn of(step: &'static str, reason: impl std::fmt::Display) -> Self {
        Self {
            step,
            reason: reason.to_string(),
        }
    }
}

/// Before a guest in a microVM runs: everything it needs is open.
///
/// # Errors
/// A step failed.
pub fn confine_microvm(config: &Serve) -> Result<(), Error> {
    privileges::limit(None, OPEN_FILES)?;
    privileges::give_up_gaining()?;
    if config.jail.landlock {
        // Before the change of user, who may not search what leads to the roots.
        beneath(Rules::new()?, &config.roots)?.restrict()?;
    }
    privileges::drop_all(config.jail.uid)?;
    filter::microvm()?.install()
}

/// Let through what lies beneath these roots as well.
///
/// # Errors
/// The kernel refuses a rule.
pub fn beneath<'a>(
    rules: Rules,
    roots: impl IntoIterator<Item = &'a Root>,
) -> Result<Rules, Error> {
    roots.into_iter().try_fold(rules, |rules, root| {
        rules.beneath(&root.host, root.writable)
    })
}

/// Of a VMM that has no function yet, for all of its threads: what even the one that is to open and map things can do without.
///
/// # Errors
/// A step failed.
pub fn confine_shell() -> Result<(), Error> {
    privileges::limit(None, OPEN_FILES)?;
    privileges::give_up_gaining()?;
    filter::confine_shell()
}

/// And the rest but for its function's roots, for the thread that calls and those that it starts: the guest's among them. What is
/// left to do for that function is another thread's, which has ended when the guest runs.
///
/// # Errors
/// A step failed.
pub fn confine_guests(uid: Option<u32>) -> Result<(), Error> {
    privileges::drop_all(uid)?;
    filter::microvm()?.install_here()
}

/// Close every descriptor above 2 but these. First of all.
///
/// # Errors
/// The host refuses.
pub fn close_others(keep: &[RawFd]) -> Result<(), Error> {
    privileges::close_others(keep)
}

/// Close what was inherited beside the descriptors that the configuration names. First of all.
///
/// # Errors
/// The host refuses.
pub fn close_inherited(config: &Serve, report: Option<RawFd>) -> Result<(), Error> {
    let device = config
        .device
        .map(|d| [Some(d.arena), Some(d.doorbell), d.completion, d.network]);
    let keep: Vec<RawFd> = (device.into_iter().flatten().flatten())
        .chain(report)
        .collect();
    privileges::close_others(&keep)
}
