//! Which instance handles which event: queues, idle instances, limits.
//!
//! One lock guards the bookkeeping of the whole node; it is held for a few map operations at a time and
//! never across a wait. Instances are tasks of their own ([`instance`]) that offer themselves when
//! they are free; an event either goes straight to an idle instance (the one used last: LIFO) or waits in
//! its function's queue (FIFO) while instances are started as long as limits allow.

pub mod bases;
mod commit;
pub mod drive;
pub mod failure;
pub mod initialise;
pub mod instance;
mod invocation;
pub mod job;
mod pool;
pub mod record;
pub mod working_set;

use crate::node::Node;
use crate::registry::Version;
use failure::StartFailure;
use job::{Job, Outcome};
use pool::{Idle, Pool};
use record::Record;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What an idle instance is told.
#[derive(Debug)]
pub enum Command {
    Run(Box<Job>),
    End,
}

/// What a free instance does next.
#[derive(Debug)]
pub enum Offer {
    Run(Box<Job>),
    Wait,
    End,
}

/// Why an event was not accepted; it is handed back.
#[derive(Debug)]
pub enum Rejected {
    /// The version no longer serves: look the function up again.
    Stale(Box<Job>),
    QueueFull,
    /// The node is shutting down.
    Closing,
}

#[derive(Debug)]
pub struct Scheduler {
    state: Mutex<State>,
    /// Live instances of the node.
    max: usize,
    queue_length: usize,
}

#[derive(Debug, Default)]
struct State {
    pools: HashMap<u64, Pool>,
    records: HashMap<u64, Arc<Record>>,
    total: usize,
    /// Invocations whose handler has ended and whose writes are pending.
    committing: usize,
    closing: bool,
}

impl Scheduler {
    pub fn new(max: usize, queue_length: usize) -> Self {
        Self {
            state: Mutex::default(),
            max,
            queue_length,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let a version serve, and start the instances it wants warm.
    pub fn install(&self, node: &Arc<Node>, version: &Arc<Version>) {
        let mut state = self.lock();
        state
            .pools
            .insert(version.key, Pool::new(Arc::clone(version)));
        self.start_needed(&mut state, node, version.key);
    }

    /// Let a version serve no more. What waits for it goes to `successor`, or is answered as for a
    /// function that does not exist; what runs is finished.
    pub fn retire(&self, node: &Arc<Node>, key: u64, successor: Option<u64>) {
        let mut state = self.lock();
        let Some(pool) = state.pools.get_mut(&key) else {
            return;
        };
        pool.retired = true;
        let waiting = std::mem::take(&mut pool.waiting);
        pool.end_idle();
        if pool.live == 0 {
            state.pools.remove(&key);
        }
        match successor.and_then(|key| state.pools.get_mut(&key)) {
            Some(next) => {
                next.waiting.extend(waiting);
                let key = next.version.key;
                self.start_needed(&mut state, node, key);
            }
            None => {
                for job in waiting {
                    job.answer(Outcome::Deleted, None);
                }
            }
        }
    }

    /// A request for `version` arrives: an instance is started now if none is free, while its body is
    /// still being read. The guard ends with the request's submission.
    pub fn expect(&self, node: &Arc<Node>, version: &Arc<Version>) -> Arrival {
        let mut state = self.lock();
        if let Some(pool) = state.pools.get_mut(&version.key) {
            pool.arriving += 1;
            self.start_needed(&mut state, node, version.key);
        }
        Arrival {
            node: Arc::clone(node),
            key: version.key,
            over: false,
        }
    }

    /// Give an event to an instance, now or as soon as one is free.
    ///
    /// # Errors
    /// See [`Rejected`].
    pub fn submit(
        &self,
        node: &Arc<Node>,
        version: &Version,
        job: Job,
        arrival: &mut Arrival,
    ) -> Result<(), Rejected> {
        let mut state = self.lock();
        // From here on it counts as waiting, or not at all.
        arrival.end(&mut state);
        if state.closing {
            return Err(Rejected::Closing);
        }
        let Some(pool) = state.pools.get_mut(&version.key).filter(|p| !p.retired) else {
            return Err(Rejected::Stale(Box::new(job)));
        };
        let mut job = Box::new(job);
        if pool.busy() + pool.committing < pool.version.deployment.max_instances {
            match pool.run_idle(job) {
                Ok(()) => return Ok(()),
                Err(back) => job = back,
            }
        }
        if pool.waiting.len() >= self.queue_length {
            return Err(Rejected::QueueFull);
        }
        pool.waiting.push_back(*job);
        self.start_needed(&mut state, node, version.key);
        Ok(())
    }

    /// Take back an event that still waits. `false`: an instance has it.
    pub fn withdraw(&self, id: u64) -> bool {
        let mut state = self.lock();
        for pool in state.pools.values_mut() {
            if let Some(at) = pool.waiting.iter().position(|job| job.id == id) {
                pool.waiting.remove(at);
                return true;
            }
        }
        false
    }

    /// Whether an instance of any function is being started that an event of this one waits for.
    pub fn is_starting(&self, job: u64) -> bool {
        let state = self.lock();
        state.pools.values().any(|p| {
            let served = p.waiting.iter().take(p.starting.len());
            served.map(|j| j.id).any(|id| id == job)
        })
    }

    /// A free instance asks what to do.
    pub fn offer(&self, key: u64, id: u64, commands: &mpsc::Sender<Command>) -> Offer {
        let mut state = self.lock();
        let crowded = state.total >= self.max && state.someone_starves(key);
        let closing = state.closing;
        let Some(pool) = state.pools.get_mut(&key) else {
            return Offer::End;
        };
        pool.started(id);
        if pool.retired {
            return Offer::End;
        }
        // It is no longer among the starting and not among the idle, so it counts as busy itself.
        if pool.busy() + pool.committing <= pool.version.deployment.max_instances
            && let Some(job) = pool.waiting.pop_front()
        {
            return Offer::Run(Box::new(job));
        }
        if crowded || closing {
            return Offer::End;
        }
        pool.idle.push(Idle {
            id,
            commands: commands.clone(),
        });
        Offer::Wait
    }

    /// An event that came to an instance just as that ended: it goes first.
    pub fn take_back(&self, node: &Arc<Node>, key: u64, job: Job) {
        let mut state = self.lock();
        let Some(pool) = state.pools.get_mut(&key) else {
            job.answer(Outcome::Deleted, None);
            return;
        };
        pool.waiting.push_front(job);
        pool.run_waiting();
        self.start_needed(&mut state, node, key);
    }

    /// The keep-alive of an idle instance is over. `false`: it was given an event meanwhile, or is to
    /// stay warm.
    pub fn expire(&self, key: u64, id: u64) -> bool {
        let mut state = self.lock();
        let Some(pool) = state.pools.get_mut(&key) else {
            return true;
        };
        if !pool.retired && pool.live <= pool.version.deployment.prewarm {
            return false;
        }
        pool.forget_idle(id)
    }

    /// An instance could not be started: whoever has waited longest learns why.
    pub fn start_failed(&self, key: u64, failure: &StartFailure) {
        let job = self.lock().pools.get_mut(&key).and_then(|pool| {
            pool.failing = true;
            pool.waiting.pop_front()
        });
        if let Some(job) = job {
            let outcome = match failure {
                StartFailure::Function(body) => {
                    Outcome::FunctionError(failure::complete(body, Some(&job.request_id)))
                }
                StartFailure::Refused(reason) | StartFailure::Node(reason) => {
                    Outcome::Node(reason.clone())
                }
            };
            job.answer(outcome, None);
        }
    }

    /// Count an invocation against its function's limit although its instance is free: until the guard is dropped.
    pub fn hold(&self, node: &Arc<Node>, key: u64) -> Held {
        let mut state = self.lock();
        state.committing += 1;
        if let Some(pool) = state.pools.get_mut(&key) {
            pool.committing += 1;
        }
        Held {
            node: Arc::clone(node),
            key,
        }
    }

    fn release(&self, node: &Arc<Node>, key: u64) {
        let mut state = self.lock();
        state.committing = state.committing.saturating_sub(1);
        if let Some(pool) = state.pools.get_mut(&key) {
            pool.committing = pool.committing.saturating_sub(1);
            pool.run_waiting();
        }
        self.start_needed(&mut state, node, key);
    }

    /// Invocations that are not answered yet, and instances.
    pub fn unfinished(&self) -> usize {
        let state = self.lock();
        state.total + state.committing
    }

    /// An instance has ended and its memory is free again.
    fn gone(&self, node: &Arc<Node>, key: u64, id: u64) {
        let mut state = self.lock();
        state.records.remove(&id);
        state.total = state.total.saturating_sub(1);
        if let Some(pool) = state.pools.get_mut(&key) {
            pool.gone(id);
            if pool.retired && pool.live == 0 && pool.waiting.is_empty() {
                state.pools.remove(&key);
            }
        }
        // Who waits comes before who wants to be warm, and who has waited longest before all.
        if let Some(first) = state.starving(None) {
            self.start_needed(&mut state, node, first);
        }
        self.start_needed(&mut state, node, key);
    }

    /// Start as many instances as what waits and arrives needs and the limits allow.
    fn start_needed(&self, state: &mut State, node: &Arc<Node>, key: u64) {
        if state.closing {
            return;
        }
        while let Some(pool) = state.pools.get_mut(&key) {
            let needed = pool.needs_another();
            if !needed && !pool.is_too_cold() {
                return;
            }
            if state.total >= self.max {
                // Ask the idle instance of another function to make room; its end starts ours. Not for
                // warmth alone: two functions would take turns for ever.
                if needed {
                    state.evict_one(key);
                }
                return;
            }
            let id = node.number();
            pool.starting.insert(id);
            pool.live += 1;
            let version = Arc::clone(&pool.version);
            let record = Arc::new(Record::new(id, &version));
            state.total += 1;
            state.records.insert(id, Arc::clone(&record));
            let slot = Slot {
                node: Arc::clone(node),
                key,
                id,
            };
            tokio::spawn(drive::run(slot, version, record));
        }
    }

    /// End a function's idle instances; how many.
    pub fn evict(&self, key: u64) -> usize {
        self.lock().pools.get_mut(&key).map_or(0, Pool::end_idle)
    }

    pub fn records(&self) -> Vec<Arc<Record>> {
        let mut records: Vec<_> = self.lock().records.values().cloned().collect();
        records.sort_by_key(|r| r.id);
        records
    }

    pub fn total(&self) -> usize {
        self.lock().total
    }

    /// Accept no more events; instances end as they become free.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        for pool in state.pools.values_mut() {
            pool.end_idle();
        }
    }
}

impl State {
    /// The pool, other than `except`, whose first event has waited longest and that may grow.
    fn starving(&self, except: Option<u64>) -> Option<u64> {
        self.pools
            .values()
            .filter(|p| Some(p.version.key) != except && p.needs_another())
            .min_by_key(|p| p.waiting.front().map_or(u64::MAX, |job| job.received_ns))
            .map(|p| p.version.key)
    }

    fn someone_starves(&self, except: u64) -> bool {
        self.starving(Some(except)).is_some()
    }

    /// Tell one idle instance of a function other than `except` to end: the one idle longest in
    /// the pool that has most of them.
    fn evict_one(&mut self, except: u64) {
        let fullest = self
            .pools
            .values_mut()
            .filter(|p| p.version.key != except && !p.idle.is_empty())
            .max_by_key(|p| p.idle.len());
        if let Some(pool) = fullest {
            pool.end_oldest();
        }
    }
}

/// An instance's place in the node's limits; given back when dropped.
#[derive(Debug)]
pub struct Slot {
    pub node: Arc<Node>,
    pub key: u64,
    pub id: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.node.scheduler.gone(&self.node, self.key, self.id);
    }
}

/// An invocation's place in its function's limit, while its writes are pending.
#[derive(Debug)]
pub struct Held {
    node: Arc<Node>,
    key: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.node.scheduler.release(&self.node, self.key);
    }
}

/// A request whose body is still being read.
#[derive(Debug)]
pub struct Arrival {
    node: Arc<Node>,
    key: u64,
    over: bool,
}

impl Arrival {
    fn end(&mut self, state: &mut State) {
        if !std::mem::replace(&mut self.over, true)
            && let Some(pool) = state.pools.get_mut(&self.key)
        {
            pool.arriving = pool.arriving.saturating_sub(1);
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if !self.over {
            let node = Arc::clone(&self.node);
            self.end(&mut node.scheduler.lock());
        }
    }
}
