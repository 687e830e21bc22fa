//! Deferred writes: a PUT is answered before the store has it, and nobody can tell (docs/writes.md).
//!
//! [`ledger`] knows what is pending on the node, [`scope`] what one invocation has pending; [`gate`] is what every operation
//! passes on its way out, [`put`] what a PUT that may be deferred goes through, and [`promise`] what it is answered.

pub mod failure;
pub mod gate;
pub mod journal;
pub mod ledger;
pub mod promise;
pub mod put;
pub mod replay;
pub mod scope;
pub mod target;

use crate::FunctionIdentity;
use journal::Journal;
use ledger::Ledger;
use promise::Profiles;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// Largest object that is deferred, in bytes.
pub const LARGEST: usize = 1 << 20;
/// Bytes of pending objects on the node; more are written at once, as in `sync`.
pub const NODE_BYTES: usize = 256 << 20;
/// Pending writes on the node.
pub const NODE_WRITES: usize = 16_384;
/// Bytes and writes of one function.
pub const FUNCTION_BYTES: usize = 64 << 20;
pub const FUNCTION_WRITES: usize = 4096;

/// How long an operation waits for a key whose write has ended, while the journal cannot write that down.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When a function's PUTs are answered.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteMode {
    /// When the store has answered.
    #[default]
    Sync,
    /// When the bytes are in the node's memory; the invocation's outcome waits for the store.
    Commit,
    /// When the bytes are in the node's journal on disk.
    Journal,
}

/// A function's choice.
#[derive(Clone, Copy, Debug)]
pub struct WriteOptions {
    pub mode: WriteMode,
    /// Longest wait for an invocation's writes after its handler's end.
    pub deadline: Duration,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            mode: WriteMode::Sync,
            deadline: Duration::from_secs(60),
        }
    }
}

/// Finds a function by its name.
type Find = Box<dyn Fn(&str) -> Option<FunctionIdentity> + Send + Sync>;

/// The functions that are deployed.
pub struct Identities(Find);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities").finish_non_exhaustive()
    }
}

/// What the deferred writes of a node share.
#[derive(Debug, Default)]
pub struct Writes {
    pub ledger: Ledger,
    pub profiles: Profiles,
    journal: OnceLock<Arc<Journal>>,
    identities: watch::Sender<Option<Identities>>,
    counters: Counters,
}

/// Counts since the node's start.
#[derive(Debug, Default)]
pub struct Counters {
    pub deferred: AtomicU64,
    pub stored: AtomicU64,
    pub failed: AtomicU64,
    pub conflicts: AtomicU64,
    pub replayed: AtomicU64,
}

/// What an operator sees of the writes of a node.
#[derive(Clone, Debug, Serialize)]
pub struct WritesStatus {
    /// Accepted, not yet in the store.
    pub pending: usize,
    pub pending_bytes: usize,
    /// Since the node's start: accepted, in the store, failed for good, in conflict, taken up again after a restart.
    pub deferred: u64,
    pub stored: u64,
    pub failed: u64,
    pub conflicts: u64,
    pub replayed: u64,
    /// Writes of mode `journal` that could not be done and wait for a decision.
    pub parked: Vec<journal::Parked>,
}

impl Writes {
    /// Open the journal in `directory`; without one, `journal` works as `commit` does.
    ///
    /// # Errors
    /// The disk's, or a journal of another version.
    pub fn open_journal(&self, directory: &Path) -> Result<(), String> {
        let journal = Journal::open(directory)?;
        self.journal
            .set(Arc::new(journal))
            .map_err(|_| "the journal is open already".to_owned())
    }

    /// The functions are known: what an earlier process left can be sent.
    pub fn set_identities(&self, find: Find) {
        self.identities.send_replace(Some(Identities(find)));
    }

    /// Whom a function's writes are made for, once the functions are known. `None`: it is not deployed.
    pub async fn identity(&self, function: &str) -> Option<Arc<FunctionIdentity>> {
        let mut known = self.identities.subscribe();
        let known = known.wait_for(Option::is_some).await.ok()?;
        known.as_ref()?.0(function).map(Arc::new)
    }

    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.get()
    }

    /// Whether the ends of journalled writes cannot be written down at the moment.
    pub fn is_behind(&self) -> bool {
        self.journal().is_some_and(|journal| journal.is_behind())
    }

    /// Until that has been so for `patience`.
    pub async fn behind_for(&self, patience: Duration) {
        match self.journal() {
            Some(journal) => journal.behind_for(patience).await,
            None => std::future::pending().await,
        }
    }

    /// What `waits` brings, unless that waits for [`PATIENCE`] behind a journal that cannot be written.
    pub async fn patiently<T>(&self, waits: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            brought = waits => Some(brought),
            () = self.behind_for(PATIENCE) => None,
        }
    }

    pub fn status(&self) -> WritesStatus {
        let (pending, pending_bytes) = self.ledger.pending();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WritesStatus {
            pending,
            pending_bytes,
            deferred: count(&self.counters.deferred),
            stored: count(&self.counters.stored),
            failed: count(&self.counters.failed),
            conflicts: count(&self.counters.conflicts),
            replayed: count(&self.counters.replayed),
            parked: self
                .journal()
                .and_then(|journal| journal.parked().ok())
                .unwrap_or_default(),
        }
    }

    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
