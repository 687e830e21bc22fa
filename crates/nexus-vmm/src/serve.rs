//! `nexus-vmm serve`: one guest, as a configuration describes it.

use crate::config::{Mode, Serve};
use crate::microvm::{self, Failure};
use crate::process;
use crate::report::{Report, now};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

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
    run_since(&config, started)
}

/// Do as a configuration says; the exit status of this process.
#[must_use]
pub fn run(config: &Serve) -> i32 {
    run_since(config, now())
}

fn run_since(config: &Serve, started: Duration) -> i32 {
    let report = Arc::new(Report::new(config.report));
    let result = match config.mode {
        Mode::Process => process::run(config, &report, started)
            .map(|never| match never {})
            .map_err(Failure::Failed),
        Mode::Initialise if config.base.is_some() => microvm::restore(config, &report, started),
        Mode::Run | Mode::Initialise => microvm::run(config, &report, started),
        Mode::Restore => microvm::restore(config, &report, started),
    };
    finished(result, &report)
}

/// The exit status for how it went; a failure is told on standard error and in the report.
pub(crate) fn finished(result: Result<i32, Failure>, report: &Report) -> i32 {
    match result {
        Ok(status) => status,
        Err(Failure::Refused(reason)) => {
            eprintln!("nexus-vmm: refused: {reason}");
            report.refused(&reason);
            STATUS_REFUSED
        }
        Err(Failure::Failed(reason)) => {
            eprintln!("nexus-vmm: {reason}");
            report.failed(&reason);
            STATUS_FAILED
        }
    }
}
