//! Functions: what is deployed, in memory and on disk.

pub mod deployment;
pub mod names;
pub mod store;

use crate::config::{Config, Isolation};
use crate::logs::FunctionLog;
use crate::timings::Timings;
use deployment::{Deployment, Offload};
use nexus_backend::{
    Connections, CredentialsStore, FUNCTION_CONNECTIONS, FUNCTION_OPERATIONS, FunctionIdentity,
    PolicyRules, PrefetchOptions, WriteOptions,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// One deployment of a function, ready to be started. A new deployment makes a new one.
#[derive(Debug)]
pub struct Version {
    /// Unique in this process; the scheduler's pools are keyed by it.
    pub key: u64,
    pub name: Arc<str>,
    pub arn: String,
    pub deployment: Deployment,
    pub policy: Arc<PolicyRules>,
    pub credentials: Option<Arc<CredentialsStore>>,
    /// Operations of its instances that are worked on at a time.
    pub turns: Arc<Semaphore>,
    /// Connections to the outside that its instances have open.
    pub connections: Arc<Connections>,
    /// What applies once `auto` is decided.
    pub isolation: Isolation,
    pub modified_ms: u64,
    pub prefetch: PrefetchOptions,
    pub log: Arc<FunctionLog>,
    pub timings: Arc<Timings>,
    /// Where to restore from; replaced when a snapshot was refused and taken anew.
    snapshot: Mutex<Option<PathBuf>>,
    /// Held while the snapshot is taken anew, so that this happens once.
    pub renewal: tokio::sync::Mutex<()>,
}

impl Version {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        key: u64,
        name: &str,
        arn: String,
        deployment: Deployment,
        isolation: Isolation,
        modified_ms: u64,
        log: Arc<FunctionLog>,
        timings: Arc<Timings>,
        snapshot: Option<PathBuf>,
    ) -> Self {
        // It was checked at the deployment; a record that was changed since allows nothing.
        let policy = deployment.policy(name).unwrap_or_else(|what| {
            tracing::error!(
                function = name,
                what,
                "the policy cannot be used: nothing is allowed"
            );
            PolicyRules::nothing(name)
        });
        let credentials = deployment.credentials.as_ref().map(|source| {
            Arc::new(CredentialsStore::new(source).unwrap_or_else(|what| {
                tracing::error!(function = name, what, "nothing is signed for it");
                CredentialsStore::nothing()
            }))
        });
        Self {
            key,
            name: name.into(),
            arn,
            prefetch: deployment.prefetch.options(),
            deployment,
            policy: Arc::new(policy),
            credentials,
            turns: Arc::new(Semaphore::new(FUNCTION_OPERATIONS)),
            connections: Arc::new(Connections::new(FUNCTION_CONNECTIONS)),
            isolation,
            modified_ms,
            log,
            timings,
            snapshot: Mutex::new(snapshot),
            renewal: tokio::sync::Mutex::new(()),
        }
    }

    pub fn snapshot(&self) -> Option<PathBuf> {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The digest that the snapshot is kept under.
    pub fn snapshot_name(&self) -> Option<String> {
        let path = self.snapshot()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    }

    pub fn set_snapshot(&self, path: Option<PathBuf>) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// Whom its I/O is done for.
    pub fn identity(&self, config: &Config) -> FunctionIdentity {
        FunctionIdentity {
            name: self.name.to_string(),
            region: config.region.clone(),
            policy: Arc::clone(&self.policy),
            credentials: self.credentials.clone(),
            turns: Arc::clone(&self.turns),
            connections: Arc::clone(&self.connections),
            coupled: self.deployment.offload == Offload::Coupled,
        }
    }

    pub fn writes(&self) -> WriteOptions {
        WriteOptions {
            mode: self.deployment.writes,
            deadline: Duration::from_secs(self.deployment.commit_deadline_s),
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.deployment.timeout_s)
    }

    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.deployment.keep_alive_s)
    }
}

/// The functions that are deployed, by name.
#[derive(Debug, Default)]
pub struct Functions(RwLock<BTreeMap<String, Arc<Version>>>);

impl Functions {
    pub fn get(&self, name: &str) -> Option<Arc<Version>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Make `version` the one that serves; the one before, if any, is returned.
    pub fn switch(&self, version: Arc<Version>) -> Option<Arc<Version>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(version.name.to_string(), version)
    }

    pub fn remove(&self, name: &str) -> Option<Arc<Version>> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name)
    }

    pub fn list(&self) -> Vec<Arc<Version>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}
