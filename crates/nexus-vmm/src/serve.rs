//! `nexus-vmm serve`: one guest, as a configuration describes it.

use crate::config::{Mode, Serve};
use crate::process;
use crate::report::{Report, now};
use std::os::fd::RawFd;

/// The hypervisor itself failed.
pub const STATUS_FAILED: i32 = 124;
/// A snapshot or the machine cannot be used.
pub const STATUS_REFUSED: i32 = 125;

/// Read the configuration and do as it says; the exit status of this process.
#[must_use]
pub fn serve(config_fd: RawFd) -> i32 {
    let started = now();
    let config = match Serve::read(config_fd) {
        Ok(config) => config,
        Err(reason) => {
            eprintln!("nexus-vmm: {reason}");
            return STATUS_FAILED;
        }
    };
    let report = Report::new(config.report);
    let result: Result<i32, String> = match config.mode {
        Mode::Process => process::run(&config, &report, started).map(|never| match never {}),
        Mode::Run | Mode::Initialise | Mode::Restore => {
            Err("microVMs are not served by this build; use isolation=process".into())
        }
    };
    result.unwrap_or_else(|reason| {
        eprintln!("nexus-vmm: {reason}");
        report.failed(&reason);
        STATUS_FAILED
    })
}
