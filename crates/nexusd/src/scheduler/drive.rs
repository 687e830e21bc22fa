//! The life of an instance: start, events one at a time, keep-alive, end.

use super::bases;
use super::failure::{StartFailure, timed_out};
use super::initialise;
use super::instance::{Instance, Turn};
use super::invocation;
use super::job::Job;
use super::record::{Phase, Record};
use super::{Command, Offer, Slot};
use crate::clock::monotonic_ns;
use crate::config::Isolation;
use crate::node::Node;
use crate::process::launch::{Mode, Places};
use crate::registry::Version;
use nexus_backend::RuntimeMessage;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// One instance from its start to its end. Dropping `slot` gives its place back.
pub async fn run(slot: Slot, version: Arc<Version>, record: Arc<Record>) {
    let node = Arc::clone(&slot.node);
    let began = monotonic_ns();
    let instance = match start(&node, &version, &record).await {
        Ok(instance) => instance,
        Err(failure) => {
            tracing::warn!(function = %version.name, ?failure, "an instance did not start");
            node.scheduler.start_failed(version.key, &failure);
            return;
        }
    };
    metrics::counter!("nexus_cold_starts_total", "function" => version.name.to_string())
        .increment(1);
    metrics::histogram!("nexus_start_seconds")
        .record(Duration::from_nanos(monotonic_ns().saturating_sub(began)).as_secs_f64());
    let (commands, mut inbox) = mpsc::channel(1);
    let instance = serve(&slot, &version, &record, instance, &commands, &mut inbox).await;
    record.set_phase(Phase::Ending);
    inbox.close();
    while let Ok(command) = inbox.try_recv() {
        if let Command::Run(job) = command {
            node.scheduler.take_back(&node, version.key, *job);
        }
    }
    instance.end().await;
    drop(slot);
}

async fn serve(
    slot: &Slot,
    version: &Arc<Version>,
    record: &Record,
    mut instance: Instance,
    commands: &mpsc::Sender<Command>,
    inbox: &mut mpsc::Receiver<Command>,
) -> Instance {
    loop {
        record.set_phase(Phase::Idle);
        let job = match slot.node.scheduler.offer(version.key, slot.id, commands) {
            Offer::Run(job) => Some(job),
            Offer::Wait => wait(slot, version, &mut instance, inbox).await,
            Offer::End => None,
        };
        let Some(job) = job else {
            return instance;
        };
        if instance.child.has_ended() {
            // It died while idle, before anybody noticed: the event is none the worse for it.
            slot.node.scheduler.take_back(&slot.node, version.key, *job);
            return instance;
        }
        record.set_phase(Phase::Busy);
        let first = record.count() == 0;
        if !invocation::handle(&slot.node, version, &mut instance, *job, first).await {
            return instance;
        }
    }
}

/// Idle: until an event comes (`None`: the instance is to end, or has).
async fn wait(
    slot: &Slot,
    version: &Version,
    instance: &mut Instance,
    inbox: &mut mpsc::Receiver<Command>,
) -> Option<Box<Job>> {
    let mut deadline = Instant::now() + version.keep_alive();
    let pending = instance.pending.clone();
    let failed = invocation::has_failed(pending.as_deref());
    tokio::pin!(failed);
    loop {
        tokio::select! {
            biased;
            command = inbox.recv() => return match command {
                Some(Command::Run(job)) => Some(job),
                Some(Command::End) | None => None,
            },
            // It believes that a write succeeded which did not.
            () = &mut failed => return None,
            turn = instance.turn(deadline) => match turn {
                Turn::Deadline => {
                    if slot.node.scheduler.expire(slot.key, slot.id) {
                        return None;
                    }
                    deadline = Instant::now() + version.keep_alive().max(Duration::from_secs(1));
                }
                Turn::Exited => {
                    let detail = instance.ending.detail().unwrap_or_default();
                    tracing::warn!(function = %version.name, status = ?instance.ending.status, detail, "an idle instance ended");
                    return None;
                }
                Turn::Message(message) => {
                    tracing::warn!(function = %version.name, ?message, "an idle instance broke the contract");
                    return None;
                }
            },
        }
    }
}

/// A running instance that has asked for its first event.
async fn start(
    node: &Arc<Node>,
    version: &Arc<Version>,
    record: &Record,
) -> Result<Instance, StartFailure> {
    if version.isolation == Isolation::Process {
        return start_once(node, version, Some(record), Mode::Process, None).await;
    }
    let mut snapshot = match version.snapshot() {
        Some(path) => path,
        None => initialise::renew(node, version, None, "there is no snapshot").await?,
    };
    for _ in 0..2 {
        match start_once(node, version, Some(record), Mode::Restore, Some(&snapshot)).await {
            Err(StartFailure::Refused(reason)) => {
                snapshot = initialise::renew(node, version, Some(&snapshot), &reason).await?;
            }
            other => return other,
        }
    }
    Err(StartFailure::Node(format!(
        "the snapshot of {} is refused although it was just taken; see the function's log",
        version.name
    )))
}

/// Start a VMM and wait until its guest asks for an event.
pub async fn start_once(
    node: &Node,
    version: &Version,
    record: Option<&Record>,
    mode: Mode,
    snapshot: Option<&Path>,
) -> Result<Instance, StartFailure> {
    let word = if mode == Mode::Restore {
        "RESTORE_START"
    } else {
        "INIT_START"
    };
    let working_set = snapshot.map(|at| node.snapshots.working_set(at));
    let places = Places {
        at: snapshot,
        base: None,
        working_set: working_set.as_deref(),
        likely: &[],
    };
    let mut instance = Instance::launch(node, version, mode, places).await?;
    if let (Mode::Restore, Some(snapshot)) = (mode, snapshot) {
        bases::note_start(node, version, snapshot);
    }
    version.log.append_line(&format!(
        "{word} Runtime Version: python (nexus {})",
        env!("CARGO_PKG_VERSION")
    ));
    if let Some(record) = record {
        record.set_pid(instance.child.pid());
    }
    let limit_s = node.config.init_timeout_s;
    let deadline = Instant::now() + Duration::from_secs(limit_s);
    let failure = match instance.turn(deadline).await {
        Turn::Message(RuntimeMessage::Next(None)) => {
            instance.ready_ns = monotonic_ns();
            return Ok(instance);
        }
        Turn::Message(RuntimeMessage::InitError(body)) => StartFailure::Function(body),
        Turn::Message(RuntimeMessage::Next(Some(_))) => {
            StartFailure::Function(broken("it returned a result before it was given an event"))
        }
        Turn::Message(RuntimeMessage::Broken(what)) => StartFailure::Function(broken(&what)),
        Turn::Deadline => StartFailure::Function(timed_out("init", limit_s)),
        Turn::Exited => start_failure(&instance),
    };
    instance.last_words();
    if let StartFailure::Function(body) = &failure {
        let text = String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default())
            .into_owned();
        version
            .log
            .append_line(&format!("[ERROR] initialisation failed: {text}"));
    }
    instance.end().await;
    Err(failure)
}

/// What the end of an instance means that was not ready yet.
pub fn start_failure(instance: &Instance) -> StartFailure {
    let ending = &instance.ending;
    if let Some(reason) = &ending.refused {
        return StartFailure::Refused(reason.clone());
    }
    if let Some(reason) = &ending.failed {
        return StartFailure::Node(format!("the VMM failed: {reason}"));
    }
    StartFailure::Function(ending.error("init").1)
}

/// Lambda's error object for a guest that broke the contract.
pub fn broken(what: &str) -> Vec<u8> {
    serde_json::json!({
        "errorType": "Runtime.BrokenContract",
        "errorMessage": format!("The runtime broke the contract with the node: {what}"),
    })
    .to_string()
    .into_bytes()
}
