//! One event in one instance: delivered, awaited, answered, logged.

use super::failure::{complete, timed_out};
use super::instance::{Instance, Turn};
use super::job::{Job, Outcome};
use crate::clock::{iso_utc, monotonic_ns, unix_ms};
use crate::registry::Version;
use crate::registry::names::LATEST;
use crate::timings::Timing;
use nexus_backend::{EventHead, Finished, RuntimeMessage};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Largest result, as in Lambda (6 MB and a little).
const MAX_RESULT: usize = 6_291_556;
/// For a result that was submitted just before the guest ended.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// What becomes of an event.
struct End {
    outcome: Outcome,
    /// The instance may have another event.
    reusable: bool,
    /// For the REPORT line.
    status: Option<&'static str>,
    handler_ns: (u64, u64),
}

/// Let `instance` handle `job` and answer its caller. `false`: the instance must be ended.
pub async fn handle(version: &Version, instance: &mut Instance, mut job: Job, cold: bool) -> bool {
    let dispatched_ns = monotonic_ns();
    let exits = instance.channel.statistics().exits;
    let timeout_at = Instant::now() + version.timeout();
    instance.tail.clear();
    let start = format!("START RequestId: {} Version: {LATEST}\n", job.request_id);
    instance.tail.push_line(&start);
    version.log.append_line(&start);

    let event = std::mem::take(&mut job.event);
    let head = EventHead {
        request_id: job.request_id.to_string(),
        deadline_ms: unix_ms() + version.deployment.timeout_s * 1000,
        function_arn: version.arn.clone(),
        client_context: job.client_context.take(),
        identity: None,
        trace_id: job.trace_id.take(),
    };
    let end = match instance.channel.deliver(&head, event).await {
        Ok(()) => await_end(version, instance, &job.request_id, timeout_at).await,
        Err(error) => End::node(format!("the event could not be delivered: {error}")),
    };
    let now = monotonic_ns();
    instance.drain_log();
    close_log(
        version,
        instance,
        &job,
        &end,
        now.saturating_sub(dispatched_ns),
        cold,
    );
    count(version, &end, now.saturating_sub(dispatched_ns));
    version.timings.push(Timing {
        request_id: job.request_id.to_string(),
        cold,
        isolation: match version.isolation {
            crate::config::Isolation::Process => "process",
            _ => "kvm",
        },
        received_ns: job.received_ns,
        spawned_ns: if cold { instance.spawned_ns } else { 0 },
        ready_ns: if cold { instance.ready_ns } else { 0 },
        dispatched_ns,
        handler_ns: end.handler_ns.0,
        handler_end_ns: end.handler_ns.1,
        responded_ns: now,
        exits: (instance.channel.statistics().exits).wrapping_sub(exits),
    });
    if let Some(recording) = &mut instance.recording
        && end.reusable
    {
        recording.ask(&instance.child);
    }
    let tail = job.wants_tail.then(|| instance.tail.bytes().to_vec());
    job.answer(end.outcome, tail);
    end.reusable
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
            instance.drain_log();
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
    }
}

impl End {
    fn function(body: Vec<u8>, status: &'static str) -> Self {
        Self {
            outcome: Outcome::FunctionError(body),
            reusable: false,
            status: Some(status),
            handler_ns: (0, 0),
        }
    }

    fn node(what: String) -> Self {
        Self {
            outcome: Outcome::Node(what),
            reusable: false,
            status: Some("error\tError Type: Node"),
            handler_ns: (0, 0),
        }
    }
}

/// END and REPORT, to the tail and the log.
fn close_log(
    version: &Version,
    instance: &mut Instance,
    job: &Job,
    end: &End,
    ns: u64,
    cold: bool,
) {
    let id = &job.request_id;
    // Measurement for people: nanoseconds fit a double well enough.
    #[allow(clippy::cast_precision_loss)]
    let ms = ns as f64 / 1e6;
    let mut text = format!(
        "END RequestId: {id}\nREPORT RequestId: {id}\tDuration: {ms:.2} ms\tBilled Duration: {} ms\tMemory Size: {} MB\t\
         Max Memory Used: {} MB",
        ns.div_ceil(1_000_000),
        version.deployment.memory_mib,
        instance.resident_mib(),
    );
    if cold {
        #[allow(clippy::cast_precision_loss)]
        let start_ms = instance.ready_ns.saturating_sub(instance.spawned_ns) as f64 / 1e6;
        let name = match version.isolation {
            crate::config::Isolation::Process => "Init",
            _ => "Restore",
        };
        let _ = write!(text, "\t{name} Duration: {start_ms:.2} ms");
    }
    if let Some(status) = end.status {
        let _ = write!(text, "\tStatus: {status}");
    }
    text.push('\n');
    instance.tail.push_line(&text);
    version.log.append_line(&text);
}

fn count(version: &Version, end: &End, ns: u64) {
    let outcome = match (&end.outcome, end.status) {
        (Outcome::Returned(_), _) => "success",
        (_, Some("timeout")) => "timeout",
        (Outcome::FunctionError(_), _) => "error",
        (Outcome::Node(_), _) => "node-error",
    };
    metrics::counter!("nexus_invocations_total", "function" => version.name.to_string(), "outcome" => outcome)
        .increment(1);
    metrics::histogram!("nexus_invocation_seconds").record(Duration::from_nanos(ns).as_secs_f64());
}
