//! What an operator sees of an instance.

use crate::config::Isolation;
use crate::registry::Version;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting,
    Idle,
    Busy,
    Ending,
}

#[derive(Debug)]
pub struct Record {
    pub id: u64,
    function: Arc<str>,
    digest: String,
    isolation: Isolation,
    began: Instant,
    pid: AtomicI32,
    phase: AtomicU8,
    invocations: AtomicU64,
}

impl Record {
    pub fn new(id: u64, version: &Version) -> Self {
        Self {
            id,
            function: Arc::clone(&version.name),
            digest: version.deployment.digest.clone(),
            isolation: version.isolation,
            began: Instant::now(),
            pid: AtomicI32::new(0),
            phase: AtomicU8::new(Phase::Starting as u8),
            invocations: AtomicU64::new(0),
        }
    }

    pub fn set_pid(&self, pid: i32) {
        self.pid.store(pid, Ordering::Relaxed);
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Count an invocation; how many there were before.
    pub fn count(&self) -> u64 {
        self.invocations.fetch_add(1, Ordering::Relaxed)
    }

    pub fn show(&self) -> Value {
        let state = match self.phase.load(Ordering::Relaxed) {
            0 => "starting",
            1 => "idle",
            2 => "busy",
            _ => "ending",
        };
        json!({
            "id": self.id,
            "function": &*self.function,
            "digest": self.digest,
            "pid": self.pid.load(Ordering::Relaxed),
            "state": state,
            "isolation": self.isolation,
            "invocations": self.invocations.load(Ordering::Relaxed),
            "age_s": self.began.elapsed().as_secs_f64(),
        })
    }
}
