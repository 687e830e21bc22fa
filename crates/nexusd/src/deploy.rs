//! Deploying, updating, deleting functions, and loading them at the node's start.

use crate::clock::unix_ms;
use crate::config::Isolation;
use crate::ingress::errors::ApiError;
use crate::logs::FunctionLog;
use crate::node::Node;
use crate::process::launch::{Mode, Places, document_fd, vmm_config};
use crate::registry::Version;
use crate::registry::deployment::{Deployment, Offload};
use crate::registry::names;
use crate::registry::store::Record;
use crate::scheduler::failure::StartFailure;
use crate::scheduler::initialise::{self, InitFailure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// A check of a snapshot reads all of it.
const VERIFY_LIMIT: Duration = Duration::from_secs(60);

/// Deploy a function, or a new version of it: initialised first, then switched to; what runs is
/// finished by the old one.
///
/// # Errors
/// InvalidParameterValueException, ResourceConflictException, and 400 with the function's own error where it does not
/// initialise.
pub async fn deploy(
    node: &Arc<Node>,
    name: &str,
    deployment: Deployment,
) -> Result<Arc<Version>, ApiError> {
    deployment.check()?;
    let _claim = claim(node, name)?;
    let isolation = decide(node, deployment.isolation)?;
    if isolation != Isolation::Kvm && deployment.offload == Offload::Coupled {
        return Err(ApiError::invalid_parameter(
            "offload: coupled needs sockets to the outside, which only microVMs have (isolation kvm)".to_owned(),
        ));
    }
    let previous = node.functions.get(name);
    let version = make(
        node,
        name,
        deployment,
        isolation,
        unix_ms(),
        previous.as_deref(),
    );
    let snapshot = initialise::initialise(node, &version)
        .await
        .map_err(|failure| refuse(name, failure))?;
    version.set_snapshot(snapshot.as_ref().map(|kept| kept.path.clone()));
    let record = Record::new(
        name.to_owned(),
        version.deployment.clone(),
        version.snapshot_name(),
        version.modified_ms,
    );
    if let Err(error) = node.store.put(&record) {
        drop(snapshot);
        collect(node);
        return Err(ApiError::service(format!(
            "{name} is not deployed: {error:#}"
        )));
    }
    let version = Arc::new(version);
    node.scheduler.install(node, &version);
    if let Some(old) = node.functions.switch(Arc::clone(&version)) {
        node.scheduler.retire(node, old.key, Some(version.key));
    }
    drop(snapshot);
    collect(node);
    tracing::info!(
        function = name,
        digest = version.deployment.digest,
        ?isolation,
        "deployed"
    );
    Ok(version)
}

/// Delete a function: it takes no more events, and what runs is finished.
///
/// # Errors
/// ResourceNotFoundException, ResourceConflictException.
pub async fn delete(node: &Arc<Node>, name: &str) -> Result<(), ApiError> {
    let _claim = claim(node, name)?;
    let missing = || ApiError::not_found(&names::arn(&node.config.region, name));
    node.functions.get(name).ok_or_else(missing)?;
    node.store
        .delete(name)
        .map_err(|e| ApiError::service(format!("{name} is not deleted: {e:#}")))?;
    let version = node.functions.remove(name).ok_or_else(missing)?;
    node.scheduler.retire(node, version.key, None);
    collect(node);
    version.log.delete();
    tracing::info!(function = name, "deleted");
    Ok(())
}

fn collect(node: &Arc<Node>) {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || node.collect());
}

fn claim(node: &Arc<Node>, name: &str) -> Result<crate::node::Claim, ApiError> {
    node.claim(name).ok_or_else(|| {
        ApiError::conflict(format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {}",
            names::arn(&node.config.region, name)
        ))
    })
}

/// What `auto` means on this node, and whether what was asked for is possible.
fn decide(node: &Node, asked: Isolation) -> Result<Isolation, ApiError> {
    let asked = match asked {
        Isolation::Auto => node.machine.isolation,
        Isolation::Process => Some(Isolation::Process),
        Isolation::Kvm => node.machine.isolation.filter(|i| *i == Isolation::Kvm),
    };
    asked.ok_or_else(|| {
        ApiError::invalid_parameter(format!(
            "isolation: microVMs cannot run here: {}. Mend that (nexus doctor explains), or deploy with \"isolation\": \
             \"process\", which walls functions off less.",
            node.machine.reason
        ))
    })
}

fn make(
    node: &Node,
    name: &str,
    deployment: Deployment,
    isolation: Isolation,
    modified_ms: u64,
    previous: Option<&Version>,
) -> Version {
    let (log, timings) = match previous {
        Some(old) => (Arc::clone(&old.log), Arc::clone(&old.timings)),
        None => (
            Arc::new(FunctionLog::new(&node.logs(), name, node.config.log_bytes)),
            Arc::default(),
        ),
    };
    let arn = names::arn(&node.config.region, name);
    Version::new(
        node.number(),
        name,
        arn,
        deployment,
        isolation,
        modified_ms,
        log,
        timings,
        None,
    )
}

/// A failed initialisation as an answer.
fn refuse(name: &str, failure: InitFailure) -> ApiError {
    let log = String::from_utf8_lossy(&failure.log).into_owned();
    let body = match failure.failure {
        StartFailure::Function(body) => body,
        StartFailure::Refused(reason) => {
            return ApiError::service(format!("{name} could not be initialised: {reason}"));
        }
        StartFailure::Node(reason) => {
            return ApiError::service(format!("{name} could not be initialised: {reason}"));
        }
    };
    let value: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    };
    let mut error = ApiError::invalid_parameter(format!(
        "{name} could not be initialised: {}: {}",
        text("errorType"),
        text("errorMessage")
    ));
    error
        .extra
        .insert("errorType".to_owned(), json!(text("errorType")));
    error
        .extra
        .insert("errorMessage".to_owned(), json!(text("errorMessage")));
    let trace = value.get("stackTrace").cloned().unwrap_or(json!([]));
    error.extra.insert("stackTrace".to_owned(), trace);
    error.extra.insert("log".to_owned(), json!(log));
    error
}

/// Serve what the registry holds, and check the snapshots in the background.
///
/// # Errors
/// The state directory cannot be read.
pub fn load(node: &Arc<Node>) -> anyhow::Result<()> {
    let mut loaded = Vec::new();
    for record in node.store.load()? {
        let isolation = match decide(node, record.deployment.isolation) {
            Ok(isolation) => isolation,
            Err(error) => {
                tracing::error!(
                    function = record.name,
                    error = error.message,
                    "a function is not served"
                );
                continue;
            }
        };
        let version = make(
            node,
            &record.name,
            record.deployment,
            isolation,
            record.modified_ms,
            None,
        );
        if isolation == Isolation::Kvm {
            version.set_snapshot(record.snapshot.as_deref().map(|s| node.snapshots.path(s)));
        }
        let version = Arc::new(version);
        node.scheduler.install(node, &version);
        node.functions.switch(Arc::clone(&version));
        loaded.push(version);
    }
    let checker = Arc::clone(node);
    tokio::spawn(async move {
        // One after the other: a check reads a whole snapshot, and requests come first.
        for version in loaded {
            check(&checker, &version).await;
        }
    });
    // Before anything is served, so before anything is deployed.
    node.collect();
    Ok(())
}

/// Verify a snapshot, and take it anew if it is refused.
async fn check(node: &Arc<Node>, version: &Arc<Version>) {
    if version.isolation != Isolation::Kvm {
        return;
    }
    let snapshot = version.snapshot();
    let refusal = match &snapshot {
        None => Some("there is no snapshot".to_owned()),
        Some(path) => verify_kept(node, version, path).await.err(),
    };
    if let Some(reason) = refusal
        && let Err(failure) = initialise::renew(node, version, snapshot.as_deref(), &reason).await
    {
        tracing::error!(function = %version.name, ?failure, "cannot initialise");
    }
}

/// Whether a snapshot is still what was taken in, and can be restored here and now.
///
/// # Errors
/// Why not: a sentence.
pub async fn verify_kept(node: &Node, version: &Version, path: &Path) -> Result<(), String> {
    let (snapshots, content) = (Arc::clone(&node.snapshots), path.to_owned());
    tokio::task::spawn_blocking(move || snapshots.check(&content))
        .await
        .unwrap_or_else(|e| Err(e.to_string()))?;
    verify(node, version, path).await
}

/// Ask the VMM whether it would restore this snapshot for `version`; else its reason.
///
/// # Errors
/// As above.
pub async fn verify(node: &Node, version: &Version, path: &Path) -> Result<(), String> {
    let places = Places {
        at: Some(path),
        ..Places::default()
    };
    let document = vmm_config(&node.config, version, Mode::Restore, places, false);
    let document = document_fd(&document).map_err(|e| format!("it could not be verified: {e}"))?;
    let mut command = Command::new(&node.config.vmm);
    command
        .args(["verify", "--config-stdin"])
        .stdin(Stdio::from(document))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match tokio::time::timeout(VERIFY_LIMIT, command.output()).await {
        Err(_) => return Err("its verification took too long".to_owned()),
        Ok(Err(error)) => return Err(format!("it could not be verified: {error}")),
        Ok(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    Err(text.trim().chars().take(1000).collect())
}
