//! Everything of the node that its parts share.

use crate::config::{Config, Isolation};
use crate::process::shells::Shells;
use crate::process::spawner::Spawner;
use crate::registry::Functions;
use crate::registry::store::Store;
use crate::scheduler::Scheduler;
use crate::scheduler::bases::Bases;
use crate::scheduler::working_set::Recordings;
use crate::snapshots::Snapshots;
use metrics_exporter_prometheus::PrometheusHandle;
use nexus_backend::Backend;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What this machine can do, as `nexus-vmm probe` found it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What `auto` means here; `None`: functions must say `process`, or the machine be mended.
    pub isolation: Option<Isolation>,
    /// Why.
    pub reason: String,
}

#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub machine: Machine,
    pub backend: Arc<Backend>,
    pub spawner: Spawner,
    pub shells: Shells,
    pub bases: Bases,
    pub recordings: Arc<Recordings>,
    pub functions: Functions,
    pub scheduler: Scheduler,
    pub store: Store,
    pub snapshots: Arc<Snapshots>,
    pub metrics: PrometheusHandle,
    next: AtomicU64,
    deploying: Mutex<HashSet<String>>,
}

impl Node {
    pub fn new(
        config: Config,
        machine: Machine,
        backend: Arc<Backend>,
        spawner: Spawner,
        (store, snapshots): (Store, Arc<Snapshots>),
        metrics: PrometheusHandle,
    ) -> Arc<Self> {
        let scheduler = Scheduler::new(config.max_instances, config.queue_length);
        let shells = Shells::default();
        Arc::new(Self {
            config,
            machine,
            backend,
            spawner,
            recordings: Recordings::new(&shells.renewal),
            shells,
            bases: Bases::default(),
            functions: Functions::default(),
            scheduler,
            store,
            snapshots,
            metrics,
            next: AtomicU64::new(1),
            deploying: Mutex::default(),
        })
    }

    /// A number never given before.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Delete the snapshots that no function refers to, here or in the registry.
    pub fn collect(&self) {
        let records = match self.store.load() {
            Ok(records) => records,
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "unused snapshots are not deleted"
                );
                return;
            }
        };
        let registered = records.into_iter().filter_map(|record| record.snapshot);
        let served = self
            .functions
            .list()
            .into_iter()
            .filter_map(|version| version.snapshot_name());
        self.snapshots.collect(&registered.chain(served).collect());
    }

    pub fn logs(&self) -> PathBuf {
        self.config.state.join("logs")
    }

    /// The right to change function `name`; `None` while somebody else has it.
    pub fn claim(self: &Arc<Self>, name: &str) -> Option<Claim> {
        let mut deploying = self
            .deploying
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        deploying.insert(name.to_owned()).then(|| Claim {
            node: Arc::clone(self),
            name: name.to_owned(),
        })
    }
}

/// Held while a function is deployed or deleted.
#[derive(Debug)]
pub struct Claim {
    node: Arc<Node>,
    name: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.node
            .deploying
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.name);
    }
}
