//! What confines this process before any guest code runs: the guest's escape from its VM must gain nothing.

pub mod files;
pub mod filter;
pub mod privileges;

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

/// Before a guest in a microVM runs.
///
/// # Errors
/// A step failed.
pub fn confine_microvm(config: &crate::config::Serve) -> Result<(), Error> {
    privileges::limit(None, 4096)?;
    privileges::drop_all(config.jail.uid)
}
