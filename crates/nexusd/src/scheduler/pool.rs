//! The instances of one version and what waits for them.

use super::Command;
use super::job::Job;
use crate::registry::Version;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;

#[derive(Debug)]
pub(super) struct Idle {
    pub id: u64,
    pub commands: mpsc::Sender<Command>,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub version: Arc<Version>,
    pub waiting: VecDeque<Job>,
    /// The one used last is at the end.
    pub idle: Vec<Idle>,
    pub starting: HashSet<u64>,
    /// Starting, idle, busy and ending ones.
    pub live: usize,
    /// Invocations whose handler has ended and whose writes are pending.
    pub committing: usize,
    /// Requests whose body is still being read.
    pub arriving: usize,
    pub retired: bool,
    /// The last start failed: only an event makes another attempt.
    pub failing: bool,
}

impl Pool {
    pub fn new(version: Arc<Version>) -> Self {
        Self {
            version,
            waiting: VecDeque::new(),
            idle: Vec::new(),
            starting: HashSet::new(),
            live: 0,
            committing: 0,
            arriving: 0,
            retired: false,
            failing: false,
        }
    }

    /// Events wait, or are about to, that no instance is there or on its way for.
    pub fn needs_another(&self) -> bool {
        let wanted = self.waiting.len() + self.arriving;
        self.may_grow() && self.starting.len() + self.idle.len() < wanted
    }

    /// Fewer instances live than are to be kept warm.
    pub fn is_too_cold(&self) -> bool {
        self.may_grow() && self.live < self.version.deployment.prewarm && !self.failing
    }

    fn may_grow(&self) -> bool {
        !self.retired && self.live + self.committing < self.version.deployment.max_instances
    }

    /// Instances that handle an event, or are ending.
    pub fn busy(&self) -> usize {
        self.live
            .saturating_sub(self.idle.len() + self.starting.len())
    }

    /// Give what waits to idle instances, as far as the limit allows.
    pub fn run_waiting(&mut self) {
        while !self.idle.is_empty()
            && self.busy() + self.committing < self.version.deployment.max_instances
            && let Some(job) = self.waiting.pop_front()
        {
            if let Err(job) = self.run_idle(Box::new(job)) {
                self.waiting.push_front(*job);
                return;
            }
        }
    }

    /// Give the event to the idle instance used last; it comes back where there is none.
    pub fn run_idle(&mut self, job: Box<Job>) -> Result<(), Box<Job>> {
        let mut command = Command::Run(job);
        while let Some(idle) = self.idle.pop() {
            match idle.commands.try_send(command) {
                Ok(()) => return Ok(()),
                // It is ending; its task says so in a moment.
                Err(
                    mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back),
                ) => {
                    command = back;
                }
            }
        }
        match command {
            Command::Run(job) => Err(job),
            Command::End => Ok(()),
        }
    }

    pub fn started(&mut self, id: u64) {
        if self.starting.remove(&id) {
            self.failing = false;
        }
    }

    pub fn gone(&mut self, id: u64) {
        self.starting.remove(&id);
        self.forget_idle(id);
        self.live = self.live.saturating_sub(1);
    }

    pub fn forget_idle(&mut self, id: u64) -> bool {
        let before = self.idle.len();
        self.idle.retain(|idle| idle.id != id);
        self.idle.len() != before
    }

    pub fn end_idle(&mut self) -> usize {
        let idle = std::mem::take(&mut self.idle);
        idle.iter()
            .filter(|i| i.commands.try_send(Command::End).is_ok())
            .count()
    }

    pub fn end_oldest(&mut self) {
        if !self.idle.is_empty() {
            let _ = self.idle.remove(0).commands.try_send(Command::End);
        }
    }
}
