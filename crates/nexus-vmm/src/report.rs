//! The report pipe: one JSON object per line, so that whoever started this process knows what became of it.

use serde::Serialize;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Longest line, in bytes: a write of no more than this to a pipe is atomic.
const MAX_LINE: usize = 4096;
/// Longest reason carried, in bytes.
const MAX_REASON: usize = 3000;

/// A step of a start, and when it was done (CLOCK_MONOTONIC, nanoseconds).
pub type Stage = (&'static str, u64);

/// The steps of one start.
#[derive(Debug, Default)]
pub struct Timeline(Vec<Stage>);

impl Timeline {
    /// With its first step.
    #[must_use]
    pub fn new(stage: &'static str, at: Duration) -> Self {
        Self(vec![(stage, nanoseconds(at))])
    }

    /// This step is done.
    pub fn mark(&mut self, stage: &'static str) {
        self.0.push((stage, nanoseconds(now())));
    }

    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.0
    }
}

fn nanoseconds(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event<'a> {
    Ready {
        isolation: &'a str,
        machine: &'a str,
        us: u64,
        stages: &'a [Stage],
    },
    Snapshot {
        bytes: u64,
        mappings: usize,
    },
    WorkingSet {
        written: &'a [(u64, u64)],
        read: &'a [(u64, u64)],
        changed: &'a [(u64, u64)],
        last: bool,
    },
    Refused {
        reason: &'a str,
    },
    Failed {
        reason: &'a str,
    },
    Fault {
        vector: u8,
        error_code: u64,
        rip: String,
        address: String,
        signal: i32,
    },
    UnknownSyscall {
        number: u64,
        name: &'a str,
        count: u64,
    },
    MemoryLimit {
        limit_mib: u64,
    },
    /// The threads that were held for the one that renews a restored guest go on without.
    NotRenewed,
    Exit {
        status: i32,
    },
}

/// Where lines go: a pipe, or nowhere.
pub struct Report(Mutex<Option<File>>);

impl Report {
    /// Take over the inherited descriptor.
    #[must_use]
    pub fn new(fd: Option<RawFd>) -> Self {
        let file = fd.filter(|fd| *fd > 2).map(|fd| {
            // SAFETY: the configuration names an inherited descriptor that nothing else owns.
            let file = unsafe { File::from_raw_fd(fd) };
            // SAFETY: plain descriptor flags; a program that is executed later must not hold the pipe.
            unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
            file
        });
        Self(Mutex::new(file))
    }

    /// As [`Report::new`], of one that had no descriptor.
    pub fn take_over(&self, fd: Option<RawFd>) {
        let Self(file) = Self::new(fd);
        let file = file.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }

    /// The descriptor, for whoever closes all others.
    #[must_use]
    pub fn fd(&self) -> Option<RawFd> {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Write one line. A reader that is gone does not matter.
    pub fn send(&self, event: &Event<'_>) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return;
        }
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = file.as_mut() {
            let _ = file.write_all(&line);
        }
    }

    /// The guest used more memory than it may, and is ended for it.
    pub fn memory_limit(&self, limit_mib: u64) {
        if self.fd().is_none() {
            eprintln!(
                "nexus-vmm: the guest used more than its {limit_mib} MiB of memory and was ended; --memory sets the limit"
            );
        }
        self.send(&Event::MemoryLimit { limit_mib });
    }

    /// A snapshot or a machine that cannot be used.
    pub fn refused(&self, reason: &str) {
        self.send(&Event::Refused {
            reason: shortened(reason),
        });
    }

    /// The hypervisor's own failure.
    pub fn failed(&self, reason: &str) {
        self.send(&Event::Failed {
            reason: shortened(reason),
        });
    }
}

fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// CLOCK_MONOTONIC.
#[must_use]
pub fn now() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live structure; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
