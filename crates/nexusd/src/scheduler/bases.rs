//! Bases: snapshots of the runtime with the SDK loaded and no function, which functions are initialised from. What a
//! function does not change of its base it shares with all others that rest on it, in memory and on disk
//! (docs/decisions/0012-base-snapshots.md).
//!
//! A base depends on what all of its functions have in common: the key that it is found by. A function's snapshot has a hard
//! link to its base's pages, so that a base can be deleted at any time.

use super::failure::StartFailure;
use super::initialise;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::deploy;
use crate::logs::FunctionLog;
use crate::node::Node;
use crate::process::launch::{Mode, Places, vmm_config};
use crate::process::shells::Base;
use crate::registry::Version;
use crate::registry::deployment::Deployment;
use crate::snapshots::Kept;
use nexus_abi::operation::UNSUITABLE_BASE;
use ring::digest;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Name and digest of what a base runs, as a function has one.
const NAME: &str = "base";
/// In MiB. A function is held to its own limit.
const MEMORY: u64 = 512;
/// Variables that act when the interpreter starts, or when the SDK is loaded.
const EARLY: [&str; 12] = [
    "AWS_", "BOTO", "GLIBC_", "HOME", "LANG", "LC_", "LD_", "MALLOC_", "OPENSSL_", "PYTHON",
    "SSL_", "TZ",
];

#[derive(Debug, Default)]
pub struct Bases {
    /// Those of this node that can be used, by key; `None` for one that cannot be made.
    known: tokio::sync::Mutex<HashMap<String, Option<PathBuf>>>,
    /// What was started last comes first.
    recent: Mutex<Vec<Recent>>,
}

/// Functions that a shell makes ready for, at the most: what each of them uses takes the shell memory and time. And bases that are
/// remembered.
const LIKELY: usize = 4;
const BASES: usize = 8;

/// A base, and functions on it that were started.
#[derive(Debug)]
struct Recent {
    base: Arc<Base>,
    /// Their working sets.
    likely: Vec<PathBuf>,
}

impl Bases {
    /// What a shell that is made now is to show: the base of the function that was started last.
    pub fn for_shells(&self) -> Option<Arc<Base>> {
        let recent = self.recent();
        recent.first().map(|recent| Arc::clone(&recent.base))
    }

    /// The base of a function that was started lately and has this working set.
    pub fn of_recent(&self, working_set: &Path) -> Option<Arc<Base>> {
        let recent = self.recent();
        let mut found = recent
            .iter()
            .filter(|r| r.likely.iter().any(|l| l == working_set));
        found.next().map(|recent| Arc::clone(&recent.base))
    }

    fn recent(&self) -> MutexGuard<'_, Vec<Recent>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Note that an instance of `version` is started from `snapshot`: others like it may follow.
pub fn note_start(node: &Node, version: &Version, snapshot: &Path) {
    let working_set = node.snapshots.working_set(snapshot);
    let mut recent = node.bases.recent();
    let found = (recent.iter()).position(|r| r.likely.contains(&working_set));
    if let Some(index) = found {
        recent.get_mut(..=index).unwrap_or_default().rotate_right(1);
        return;
    }
    let key = suits(&version.deployment).then(|| key(&node.config, &version.deployment));
    let Some(path) = key.and_then(|key| node.snapshots.base(&key)) else {
        return;
    };
    let index = recent.iter().position(|r| r.base.snapshot == path);
    let mut likely = index.map_or_else(Vec::new, |index| recent.remove(index).likely);
    likely.insert(0, working_set);
    likely.truncate(LIKELY);
    let places = Places {
        at: Some(&path),
        likely: &likely,
        ..Places::default()
    };
    let version = base(node, version);
    let document = vmm_config(&node.config, &version, Mode::Restore, places, false);
    let base = Arc::new(Base {
        snapshot: path,
        document,
    });
    recent.insert(0, Recent { base, likely });
    recent.truncate(BASES);
    if index.is_none() {
        node.shells.renewal.ask();
    }
}

/// The base to initialise `version` from, made if it is not there yet; `None` where it has to do without.
pub async fn of(node: &Node, version: &Version) -> Option<Kept> {
    if !suits(&version.deployment) {
        return None;
    }
    let key = key(&node.config, &version.deployment);
    // Held while one is made, so that it is made once.
    let mut bases = node.bases.known.lock().await;
    match bases.get(&key) {
        Some(None) => return None,
        Some(Some(known)) => {
            let base = node.snapshots.hold(known);
            // It may have been collected before it was held.
            if known.is_dir() {
                return Some(base);
            }
        }
        None => {}
    }
    let base = match ready(node, version, &key).await {
        Ok(base) => Some(base),
        Err(reason) => {
            tracing::warn!(reason, "no base can be made; functions share less");
            None
        }
    };
    bases.insert(key, base.as_ref().map(|base| base.path.clone()));
    base
}

/// Whether a function could not be initialised for `base`'s sake. One that is refused is given up: the next function gets
/// a new one.
pub async fn is_at_fault(node: &Node, base: &Path, failure: &StartFailure) -> bool {
    match failure {
        StartFailure::Function(body) => {
            let document: Value = serde_json::from_slice(body).unwrap_or_default();
            document.get("errorType").and_then(Value::as_str) == Some(UNSUITABLE_BASE)
        }
        StartFailure::Refused(reason) => {
            tracing::warn!(base = %base.display(), reason, "a base is refused; it is made anew");
            let mut bases = node.bases.known.lock().await;
            bases.retain(|key, path| {
                let refused = path.as_deref() == Some(base);
                if refused {
                    node.snapshots.forget_base(key);
                }
                !refused
            });
            true
        }
        StartFailure::Node(_) => false,
    }
}

fn suits(deployment: &Deployment) -> bool {
    let early =
        |name: &str| name != "PYTHONPATH" && EARLY.iter().any(|early| name.starts_with(early));
    !deployment.environment.keys().any(|name| early(name))
}

/// Everything that a base's content depends on, digested.
fn key(config: &Config, d: &Deployment) -> String {
    let depends = json!([
        env!("CARGO_PKG_VERSION"),
        d.python,
        d.runtime,
        d.layers,
        d.roots,
        d.offload.as_str(),
        config.region,
        config.endpoints,
    ]);
    let digest = digest::digest(&digest::SHA256, depends.to_string().as_bytes());
    let hex: String = digest
        .as_ref()
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect();
    hex
}

/// The base with this key: kept from an earlier run of the node, and sound; or made now.
async fn ready(node: &Node, version: &Version, key: &str) -> Result<Kept, String> {
    let version = base(node, version);
    if let Some(path) = node.snapshots.base(key) {
        let kept = node.snapshots.hold(&path);
        match deploy::verify_kept(node, &version, &path).await {
            Ok(()) => return Ok(kept),
            Err(reason) => tracing::warn!(reason, "a base is not as it was; it is made anew"),
        }
    }
    let made = initialise::snapshot(node, &version, None).await;
    version.log.delete();
    let (kept, bytes) = made.map_err(|failed| {
        let log = String::from_utf8_lossy(&failed.log).into_owned();
        format!("{:?}: {log}", failed.failure)
    })?;
    if let Err(error) = node.snapshots.set_base(key, &kept) {
        // It serves; the node's next run makes another.
        tracing::warn!(%error, "a base cannot be noted");
    }
    tracing::info!(path = %kept.path.display(), mib = bytes >> 20, "a base was made");
    Ok(kept)
}

/// What a base runs: all that `version` shares with other functions.
fn base(node: &Node, version: &Version) -> Version {
    let deployment = Deployment {
        handler: String::new(),
        environment: BTreeMap::new(),
        memory_mib: MEMORY,
        digest: NAME.to_owned(),
        ..version.deployment.clone()
    };
    let log = FunctionLog::new(&node.logs(), ".base", node.config.log_bytes);
    Version::new(
        node.number(),
        NAME,
        String::new(),
        deployment,
        version.isolation,
        unix_ms(),
        Arc::new(log),
        Arc::default(),
        None,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::registry::deployment::tests::deployment;

    #[test]
    fn what_acts_before_the_handler_keeps_a_function_from_a_base() {
        let directory = std::env::temp_dir().join(format!("nexusd-base-{}", std::process::id()));
        let mut d = deployment(&directory);
        for (name, expected) in [
            ("PYTHONPATH", true),
            ("TABLE", true),
            ("PYTHONHASHSEED", false),
            ("LD_PRELOAD", false),
            ("AWS_ENDPOINT_URL", false),
            ("TZ", false),
        ] {
            d.environment = BTreeMap::from([(name.to_owned(), "0".to_owned())]);
            assert_eq!(suits(&d), expected, "{name}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
}
