//! Initialisation: a function's first run, to see that it imports and to take its snapshot.

use super::bases;
use super::drive::{broken, start_failure};
use super::failure::{StartFailure, complete, timed_out};
use super::instance::{Instance, Turn};
use crate::clock::monotonic_ns;
use crate::config::Isolation;
use crate::deploy;
use crate::node::Node;
use crate::process::launch::{Mode, Places};
use crate::registry::Version;
use crate::registry::store::Record;
use crate::snapshots::Kept;
use nexus_backend::RuntimeMessage;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Why a function could not be initialised.
#[derive(Debug)]
pub struct InitFailure {
    pub failure: StartFailure,
    /// The last 4 KiB of what it wrote.
    pub log: Vec<u8>,
}

/// Run `version` up to its readiness; the snapshot, kept, where its isolation has one.
///
/// # Errors
/// What went wrong, and the log's tail.
pub async fn initialise(node: &Node, version: &Version) -> Result<Option<Kept>, InitFailure> {
    let line = format!(
        "INIT_START Runtime Version: python (nexus {})\tDigest: {}",
        env!("CARGO_PKG_VERSION"),
        version.deployment.digest
    );
    version.log.append_line(&line);
    if version.isolation == Isolation::Process {
        return check_process(node, version).await.map(|()| None);
    }
    let began = monotonic_ns();
    let (kept, bytes) = match bases::of(node, version).await {
        None => snapshot(node, version, None).await?,
        Some(base) => match snapshot(node, version, Some(&base.path)).await {
            Err(failed) if bases::is_at_fault(node, &base.path, &failed.failure).await => {
                snapshot(node, version, None).await?
            }
            result => result?,
        },
    };
    let ms = monotonic_ns().saturating_sub(began) / 1_000_000;
    let mib = bytes >> 20;
    version.log.append_line(&format!(
        "INIT_REPORT Init Duration: {ms} ms\tSnapshot: {mib} MB"
    ));
    Ok(Some(kept))
}

/// Run `version`, from `base` where there is one, until its snapshot is taken, verify that and take it in; the size of
/// its own pages in bytes.
///
/// # Errors
/// What went wrong, and the log's tail.
pub async fn snapshot(
    node: &Node,
    version: &Version,
    base: Option<&Path>,
) -> Result<(Kept, u64), InitFailure> {
    let bare = |failure| InitFailure {
        failure,
        log: Vec::new(),
    };
    let unusable = |what: &str, e: &dyn std::fmt::Display| {
        bare(StartFailure::Node(format!("the snapshot {what}: {e}")))
    };
    let pending = node
        .snapshots
        .pending()
        .map_err(|e| unusable("has no place", &e))?;
    let places = Places {
        at: Some(pending.path()),
        base,
        working_set: None,
        likely: &[],
    };
    let mut instance = Instance::launch(node, version, Mode::Initialise, places)
        .await
        .map_err(bare)?;
    let failure = take_snapshot(node, &mut instance).await;
    let bytes = instance.snapshot_bytes;
    let log = close(version, instance, failure.as_ref()).await;
    if let Some(failure) = failure {
        return Err(InitFailure { failure, log });
    }
    // Its VMM is gone: nobody writes there any more.
    if let Some(base) = base {
        node.snapshots
            .rest_on(&pending, base)
            .map_err(|e| unusable("cannot rest on its base", &e))?;
    }
    deploy::verify(node, version, pending.path())
        .await
        .map_err(|e| unusable("is not one that could be restored", &e))?;
    let snapshots = Arc::clone(&node.snapshots);
    let kept = tokio::task::spawn_blocking(move || snapshots.admit(&pending))
        .await
        .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        .map_err(|e| unusable("cannot be kept", &e))?;
    Ok((kept, bytes.unwrap_or(0)))
}

/// With processes there is nothing to keep: it is seen to start, and ended.
async fn check_process(node: &Node, version: &Version) -> Result<(), InitFailure> {
    let mut instance = Instance::launch(node, version, Mode::Process, Places::default())
        .await
        .map_err(|failure| InitFailure {
            failure,
            log: Vec::new(),
        })?;
    let limit_s = node.config.init_timeout_s;
    let failure = match instance.turn(deadline(limit_s)).await {
        Turn::Message(RuntimeMessage::Next(None)) => None,
        turn => Some(unexpected(&instance, turn, limit_s)),
    };
    let log = close(version, instance, failure.as_ref()).await;
    match failure {
        None => Ok(()),
        Some(failure) => Err(InitFailure { failure, log }),
    }
}

async fn take_snapshot(node: &Node, instance: &mut Instance) -> Option<StartFailure> {
    let limit_s = node.config.init_timeout_s;
    match instance.turn(deadline(limit_s)).await {
        Turn::Exited if instance.snapshot_bytes.is_some() => None,
        turn => Some(unexpected(instance, turn, limit_s)),
    }
}

fn deadline(limit_s: u64) -> Instant {
    Instant::now() + Duration::from_secs(limit_s)
}

fn unexpected(instance: &Instance, turn: Turn, limit_s: u64) -> StartFailure {
    match turn {
        Turn::Message(RuntimeMessage::InitError(body)) => {
            StartFailure::Function(complete(&body, None))
        }
        Turn::Message(RuntimeMessage::Next(_)) => StartFailure::Function(broken(
            "it asked for an event before its snapshot was taken",
        )),
        Turn::Message(RuntimeMessage::Broken(what)) => StartFailure::Function(broken(&what)),
        Turn::Deadline => StartFailure::Function(timed_out("init", limit_s)),
        Turn::Exited => start_failure(instance),
    }
}

/// End the instance; its last words.
async fn close(
    version: &Version,
    mut instance: Instance,
    failure: Option<&StartFailure>,
) -> Vec<u8> {
    instance.drain_log();
    if failure.is_some() {
        // The traceback may still be on its way through the pipe.
        let _ = instance
            .turn(Instant::now() + Duration::from_millis(50))
            .await;
        instance.last_words();
    }
    let log = instance.tail.bytes().to_vec();
    instance.end().await;
    match failure {
        Some(StartFailure::Function(body)) => version.log.append_line(&format!(
            "[ERROR] initialisation failed: {}",
            String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default())
        )),
        Some(StartFailure::Refused(reason) | StartFailure::Node(reason)) => version
            .log
            .append_line(&format!("[nexus] initialisation failed: {reason}")),
        None => {}
    }
    log
}

/// Take the snapshot of a deployed version anew because `refused` cannot be used; where it is now.
/// Several callers at once share one initialisation.
///
/// # Errors
/// What went wrong.
pub async fn renew(
    node: &Arc<Node>,
    version: &Arc<Version>,
    refused: Option<&Path>,
    reason: &str,
) -> Result<PathBuf, StartFailure> {
    let _alone = version.renewal.lock().await;
    if let Some(newer) = version.snapshot()
        && Some(newer.as_path()) != refused
    {
        return Ok(newer);
    }
    let replaced = || StartFailure::Node(format!("{} was replaced or deleted", version.name));
    if !is_deployed(node, version) {
        return Err(replaced());
    }
    tracing::warn!(function = %version.name, reason, "the snapshot is refused; initialising anew");
    version.log.append_line(&format!(
        "[nexus] the snapshot is refused: {reason}; initialising anew"
    ));
    metrics::counter!("nexus_snapshots_refused_total", "function" => version.name.to_string())
        .increment(1);
    version.set_snapshot(None);
    let kept = initialise(node, version)
        .await
        .map_err(|e| e.failure)?
        .ok_or_else(|| StartFailure::Node("no snapshot was taken".to_owned()))?;
    let path = kept.path.clone();
    let result = if is_deployed(node, version) {
        version.set_snapshot(Some(path.clone()));
        keep(node, version);
        Ok(path)
    } else {
        Err(replaced())
    };
    drop(kept);
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || node.collect());
    result
}

fn is_deployed(node: &Node, version: &Version) -> bool {
    let current = node.functions.get(&version.name);
    current.is_some_and(|current| current.key == version.key)
}

/// Let the registry know of a new snapshot.
fn keep(node: &Node, version: &Version) {
    let record = Record::new(
        version.name.to_string(),
        version.deployment.clone(),
        version.snapshot_name(),
        version.modified_ms,
    );
    if let Err(error) = node.store.put(&record) {
        // The snapshot serves; a restart of the node would take it anew.
        tracing::error!(function = %version.name, error = format!("{error:#}"), "the registry is behind");
    }
}
