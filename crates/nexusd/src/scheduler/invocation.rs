//! One event in one instance: delivered and awaited. Its answer is given by [`super::commit`].

use super::commit::{After, Ended, LONGEST_CHAIN, commit};
use super::failure::{complete, timed_out};
use super::instance::{Instance, Turn};
use super::job::{Job, Outcome};
use crate::clock::{iso_utc, monotonic_ns, unix_ms};
use crate::node::Node;
use crate::registry::Version;
use crate::registry::names::LATEST;
use nexus_backend::{EventHead, Finished, RuntimeMessage, Scope, WriteError};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Largest result, as in Lambda (6 MB and a little).
const MAX_RESULT: usize = 6_291_556;
/// For a result that was submitted just before the guest ended.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// What becomes of an event.
#[derive(Debug)]
pub struct End {
    pub outcome: Outcome,
    /// The instance may have another event.
    pub reusable: bool,
    /// For the REPORT line.
    pub status: Option<&'static str>,
    pub handler_ns: (u64, u64),
    /// The node learnt of it.
    pub ended_ns: u64,
}

/// Let `instance` handle `job` and see to its caller's answer. `false`: the instance must be ended.
pub async fn handle(
    node: &Arc<Node>,
    version: &Arc<Version>,
    instance: &mut Instance,
    mut job: Job,
    cold: bool,
) -> bool {
    let pending = instance.pending.take();
    if let Some(scope) = &pending
        && job.rerun
        && scope.barrier().await.is_err()
    {
        node.scheduler.take_back(node, version.key, job);
        return false;
    }
    let dispatched_ns = monotonic_ns();
    let exits = instance.channel.statistics().exits;
    let timeout_at = Instant::now() + version.timeout();
    instance.tail.clear();
    let start = format!("START RequestId: {} Version: {LATEST}\n", job.request_id);
    instance.tail.push_line(&start);
    version.log.append_line(&start);

    let head = EventHead {
        request_id: job.request_id.to_string(),
        deadline_ms: unix_ms() + version.deployment.timeout_s * 1000,
        function_arn: version.arn.clone(),
        client_context: job.client_context.clone(),
        identity: None,
        trace_id: job.trace_id.clone(),
    };
    let copies = job.copies.take();
    instance.channel.set_copies(copies.clone());
    let end = match instance.channel.deliver(&head, job.event.clone()).await {
        // What ran on the state of an invocation that failed has not happened.
        Ok(()) => tokio::select! {
            biased;
            end = await_end(version, instance, &job.request_id, timeout_at) => Some(end),
            () = has_failed(pending.as_deref()) => None,
        },
        Err(error) => Some(End::node(format!(
            "the event could not be delivered: {error}"
        ))),
    };
    let scope = instance.channel.end_invocation();
    let prefetch = copies.map(|copies| copies.finish()).unwrap_or_default();
    let Some(end) = end else {
        job.rerun = true;
        node.scheduler.take_back(node, version.key, job);
        return false;
    };
    instance.drain_log();
    if let Some(recording) = &mut instance.recording
        && end.reusable
    {
        recording.ask(&instance.child);
    }
    let ended = Ended {
        job,
        end,
        tail: std::mem::take(&mut instance.tail),
        resident_mib: instance.resident_mib(),
        cold,
        spawned_ns: instance.spawned_ns,
        ready_ns: instance.ready_ns,
        stages: std::mem::take(&mut instance.stages),
        exits: (instance.channel.statistics().exits).wrapping_sub(exits),
        dispatched_ns,
        prefetch,
        writes: 0,
    };
    let inline = instance.chain >= LONGEST_CHAIN;
    match commit(node, version, scope, ended, inline).await {
        After::End => false,
        After::Reuse => {
            instance.chain = 0;
            true
        }
        After::Pending(scope) => {
            instance.chain += 1;
            instance.pending = Some(scope);
            true
        }
    }
}

/// Until a write has failed that the instance's state rests on.
pub async fn has_failed(pending: Option<&Scope>) {
    match pending {
        Some(scope) => scope.failed().await,
        None => std::future::pending().await,
    }
}

async fn await_end(
    version: &Version,
    instance: &mut Instance,
    request_id: &str,
    timeout_at: Instant,
) -> End {
    match instance.turn(timeout_at).await {
        Turn::Message(message) => said(message, request_id),
        Turn::Deadline => {
            instance.child.kill();
            let seconds = version.deployment.timeout_s;
            let line = format!(
                "{} {request_id} Task timed out after {seconds}.00 seconds\n",
                iso_utc(unix_ms())
            );
            instance.last_words();
            instance.tail.push_line(&line);
            version.log.append_line(&line);
            End::function(timed_out(request_id, seconds), "timeout")
        }
        Turn::Exited => {
            if let Ok(message) = timeout(LAST_WORDS, instance.channel.receive()).await
                && let RuntimeMessage::Next(Some(finished)) = message
            {
                let mut end = finish(finished, request_id);
                end.reusable = false;
                return end;
            }
            instance.last_words();
            let (kind, body) = instance.ending.error(request_id);
            let mut line = format!("{}", String::from_utf8_lossy(&body));
            if let Some(detail) = instance.ending.detail() {
                let _ = write!(line, " [nexus] {detail}");
            }
            line.push('\n');
            instance.tail.push_line(&line);
            version.log.append_line(&line);
            End::function(
                body,
                if kind == "Runtime.OutOfMemory" {
                    "error\tError Type: Runtime.OutOfMemory"
                } else {
                    "error\tError Type: Runtime.ExitError"
                },
            )
        }
    }
}

/// What a message means while an event is being handled.
fn said(message: RuntimeMessage, request_id: &str) -> End {
    match message {
        RuntimeMessage::Next(Some(finished)) => finish(finished, request_id),
        RuntimeMessage::Next(None) => {
            broken("it asked for another event without a result", request_id)
        }
        RuntimeMessage::InitError(_) => broken(
            "it reported an initialisation error while handling an event",
            request_id,
        ),
        RuntimeMessage::Broken(what) => broken(&what, request_id),
    }
}

fn broken(what: &str, request_id: &str) -> End {
    End::function(
        complete(&super::drive::broken(what), Some(request_id)),
        "error\tError Type: Runtime.BrokenContract",
    )
}

fn finish(finished: Finished, request_id: &str) -> End {
    let handler_ns = (finished.started_ns, finished.ended_ns);
    let (outcome, status) = if finished.body.len() > MAX_RESULT {
        let body = serde_json::json!({
            "errorType": "Function.ResponseSizeTooLarge",
            "errorMessage": format!("Response payload size exceeded maximum allowed payload size ({MAX_RESULT} bytes)."),
        });
        let status = "error\tError Type: Function.ResponseSizeTooLarge";
        (
            Outcome::FunctionError(body.to_string().into_bytes()),
            Some(status),
        )
    } else if finished.is_error {
        let body = complete(&finished.body, Some(request_id));
        (Outcome::FunctionError(body), None)
    } else {
        (Outcome::Returned(finished.body), None)
    };
    End {
        outcome,
        reusable: true,
        status,
        handler_ns,
        ended_ns: monotonic_ns(),
    }
}

impl End {
    fn function(body: Vec<u8>, status: &'static str) -> Self {
        Self {
            outcome: Outcome::FunctionError(body),
            reusable: false,
            status: Some(status),
            handler_ns: (0, 0),
            ended_ns: monotonic_ns(),
        }
    }

    fn node(what: String) -> Self {
        Self {
            outcome: Outcome::Node(what),
            reusable: false,
            status: Some("error\tError Type: Node"),
            handler_ns: (0, 0),
            ended_ns: monotonic_ns(),
        }
    }
}

/// END and REPORT, to the tail and the log.
pub fn close_log(version: &Version, ended: &mut Ended, now: u64, failure: Option<&WriteError>) {
    let id = &ended.job.request_id;
    let milliseconds = |ns: u64| {
        // Measurement for people: nanoseconds fit a double well enough.
        #[allow(clippy::cast_precision_loss)]
        let ms = ns as f64 / 1e6;
        ms
    };
    let ns = now.saturating_sub(ended.dispatched_ns);
    let mut text = String::new();
    if let Some(error) = failure {
        let _ = writeln!(text, "[ERROR] {}: {}", error.error_type, error.message);
    }
    let _ = write!(
        text,
        "END RequestId: {id}\nREPORT RequestId: {id}\tDuration: {:.2} ms\tBilled Duration: {} ms\tMemory Size: {} MB\t\
         Max Memory Used: {} MB",
        milliseconds(ns),
        ns.div_ceil(1_000_000),
        version.deployment.memory_mib,
        ended.resident_mib,
    );
    if ended.cold {
        let start_ms = milliseconds(ended.ready_ns.saturating_sub(ended.spawned_ns));
        let name = match version.isolation {
            crate::config::Isolation::Process => "Init",
            _ => "Restore",
        };
        let _ = write!(text, "\t{name} Duration: {start_ms:.2} ms");
    }
    if ended.writes > 0 {
        let commit_ms = milliseconds(now.saturating_sub(ended.end.ended_ns));
        let _ = write!(
            text,
            "\tDeferred Writes: {}\tCommit Duration: {commit_ms:.2} ms",
            ended.writes
        );
    }
    if let Some(status) = ended.end.status {
        let _ = write!(text, "\tStatus: {status}");
    }
    text.push('\n');
    ended.tail.push_line(&text);
    version.log.append_line(&text);
}

pub fn count(version: &Version, end: &End, ns: u64) {
    let outcome = match (&end.outcome, end.status) {
        (Outcome::Returned(_), _) => "success",
        (_, Some("timeout")) => "timeout",
        (Outcome::FunctionError(_), _) => "error",
        (Outcome::Node(_) | Outcome::Deleted, _) => "node-error",
    };
    metrics::counter!("nexus_invocations_total", "function" => version.name.to_string(), "outcome" => outcome)
        .increment(1);
    metrics::histogram!("nexus_invocation_seconds").record(Duration::from_nanos(ns).as_secs_f64());
}
