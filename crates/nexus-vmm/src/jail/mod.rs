//! What confines this process before any guest code runs: the guest's escape from its VM must gain nothing.

pub mod calls;
pub mod files;
pub mod filter;
pub mod page;
pub mod privileges;

use crate::config::Serve;
use filter::Filter;
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

/// Before a guest in a microVM runs: everything it needs is open. `filter`: [`filter::microvm`], where it was made ahead of need.
///
/// # Errors
/// A step failed.
pub fn confine_microvm(config: &Serve, filter: Option<&Filter>) -> Result<(), Error> {
    privileges::limit(None, OPEN_FILES)?;
    if config.jail.landlock {
        // Before the change of user, who may not search what leads to the roots.
        let beneath = |writable: bool| {
            let roots = config
                .roots
                .iter()
                .filter(move |root| root.writable == writable);
            roots.map(|root| root.host.as_path()).collect::<Vec<_>>()
        };
        files::confine(&beneath(false), &beneath(true))?;
    }
    privileges::drop_all(config.jail.uid)?;
    match filter {
        Some(filter) => filter.install(),
        None => filter::microvm()?.install(),
    }
}

/// Of a VMM that has no function yet: all of the jail that does not depend on one. It runs no guest.
///
/// # Errors
/// A step failed.
pub fn confine_shell() -> Result<(), Error> {
    privileges::limit(None, OPEN_FILES)?;
    privileges::give_up_gaining()?;
    filter::confine_shell()
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
