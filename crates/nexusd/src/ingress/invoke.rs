//! Lambda's Invoke.

use super::body;
use super::errors::ApiError;
use super::respond::{self, Reply};
use super::router::parameter;
use crate::clock::monotonic_ns;
use crate::node::Node;
use crate::registry::Version;
use crate::registry::names::{self, LATEST};
use crate::scheduler::job::{Answer, Job, Outcome};
use crate::scheduler::{Arrival, Rejected};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Largest event, as in Lambda (6 MB).
const MAX_EVENT: usize = 6_291_456;
/// Bytes of X-Amz-Client-Context, encoded, as in Lambda.
const MAX_CLIENT_CONTEXT: usize = 3583;

/// # Errors
/// Everything Invoke is documented to answer other than 200 and 204.
pub async fn invoke(
    node: Arc<Node>,
    name: &str,
    head: &Parts,
    body: &mut Incoming,
    request_id: Arc<str>,
) -> Result<Reply, ApiError> {
    let received_ns = monotonic_ns();
    let qualifier = parameter(head.uri.query(), "Qualifier");
    let name = names::resolve(name, qualifier.as_deref(), &node.config.region)?;
    let version = current(&node, &name)?;
    let options = Options::read(&head.headers)?;
    if options.dry_run {
        return Ok(respond::no_content());
    }
    // The VM starts while the body is still on its way.
    let mut arrival = node.scheduler.expect(&node, &version);
    let event = body::read(body, MAX_EVENT).await?;
    let event = check_event(event)?;
    // So do the reads that it is going to make.
    let identity = version.identity(&node.config);
    let hint = options.prefetch.as_deref();
    let copies = node
        .backend
        .prefetch(&identity, &version.prefetch, &event, hint);
    let (reply, answer) = oneshot::channel();
    let job = Job {
        id: node.number(),
        request_id: Arc::clone(&request_id),
        event,
        client_context: options.client_context,
        trace_id: options.trace_id.clone(),
        received_ns,
        wants_tail: options.wants_tail,
        copies,
        rerun: false,
        reply,
    };
    let id = job.id;
    submit(&node, version, job, &mut arrival)?;
    let answer = wait(&node, id, answer).await?;
    if matches!(answer.outcome, Outcome::Deleted) {
        current(&node, &name)?;
    }
    present(answer, options.trace_id)
}

/// What the headers ask for.
struct Options {
    dry_run: bool,
    wants_tail: bool,
    client_context: Option<serde_json::Value>,
    trace_id: Option<String>,
    /// URLs of objects that the caller expects to be read.
    prefetch: Option<String>,
}

impl Options {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = |name: &str| match headers.get(name).map(|v| v.to_str()) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(ApiError::invalid_parameter(format!(
                "{name} is not plain text"
            ))),
        };
        let dry_run = match text("x-amz-invocation-type")? {
            None | Some("RequestResponse") => false,
            Some("DryRun") => true,
            Some("Event") => {
                return Err(ApiError::invalid_parameter(
                    "X-Amz-Invocation-Type Event: asynchronous invocation is not implemented yet. Use RequestResponse.".to_owned(),
                ));
            }
            Some(other) => {
                let other: String = other.chars().take(64).collect();
                return Err(ApiError::validation(format!(
                    "1 validation error detected: Value '{other}' at 'invocationType' failed to satisfy constraint: \
                     Member must satisfy enum value set: [Event, RequestResponse, DryRun]"
                )));
            }
        };
        let wants_tail = match text("x-amz-log-type")? {
            None | Some("None") => false,
            Some("Tail") => true,
            Some(other) => {
                let other: String = other.chars().take(64).collect();
                return Err(ApiError::validation(format!(
                    "1 validation error detected: Value '{other}' at 'logType' failed to satisfy constraint: Member must \
                     satisfy enum value set: [None, Tail]"
                )));
            }
        };
        let trace_id = text("x-amzn-trace-id")?
            .filter(|t| t.len() <= 512)
            .map(str::to_owned);
        Ok(Self {
            dry_run,
            wants_tail,
            client_context: text("x-amz-client-context")?
                .map(client_context)
                .transpose()?,
            trace_id,
            prefetch: text("x-nexus-prefetch")?
                .filter(|t| t.len() <= 8192)
                .map(str::to_owned),
        })
    }
}

fn client_context(text: &str) -> Result<serde_json::Value, ApiError> {
    let fail = |what: &str| {
        ApiError::invalid_content(format!("Could not parse the client context: {what}"))
    };
    if text.len() > MAX_CLIENT_CONTEXT {
        return Err(fail("it is longer than 3583 bytes"));
    }
    let bytes = STANDARD
        .decode(text)
        .map_err(|e| fail(&format!("it is not base64: {e}")))?;
    match serde_json::from_slice(&bytes) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(value),
        Ok(_) => Err(fail("it is not a JSON object")),
        Err(e) => Err(fail(&format!("it is not JSON: {e}"))),
    }
}

/// An event as it goes to the guest: JSON; an empty one is `{}`.
fn check_event(event: Bytes) -> Result<Bytes, ApiError> {
    if event.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    let parsed = std::str::from_utf8(&event)
        .map_err(|e| e.to_string())
        .and_then(|text| serde_json::from_str::<IgnoredAny>(text).map_err(|e| e.to_string()));
    match parsed {
        Ok(IgnoredAny) => Ok(event),
        Err(what) => Err(ApiError::invalid_content(format!(
            "Could not parse request body into json: {what}"
        ))),
    }
}

fn current(node: &Node, name: &str) -> Result<Arc<Version>, ApiError> {
    node.functions
        .get(name)
        .ok_or_else(|| ApiError::not_found(&names::arn(&node.config.region, name)))
}

/// Hand the event to the version that serves now.
fn submit(
    node: &Arc<Node>,
    mut version: Arc<Version>,
    mut job: Job,
    arrival: &mut Arrival,
) -> Result<(), ApiError> {
    // A second look-up meets a version that was replaced meanwhile; more replacements than these
    // cannot fall between two lines.
    for _ in 0..4 {
        match node.scheduler.submit(node, &version, job, arrival) {
            Ok(()) => return Ok(()),
            Err(Rejected::Stale(back)) => job = *back,
            Err(Rejected::QueueFull) => {
                return Err(ApiError::throttled("CallerRateLimitExceeded"));
            }
            Err(Rejected::Closing) => {
                return Err(ApiError::unavailable("The node is shutting down."));
            }
        }
        version = current(node, &version.name)?;
    }
    Err(ApiError::service(format!(
        "{} is being replaced; try again",
        version.name
    )))
}

/// The answer; or throttled, when no instance was free in time.
async fn wait(
    node: &Node,
    id: u64,
    mut answer: oneshot::Receiver<Answer>,
) -> Result<Answer, ApiError> {
    let lost = |_| ApiError::service("the instance's task ended without an answer".to_owned());
    let patience = Duration::from_millis(node.config.queue_wait_ms);
    loop {
        match timeout(patience.max(Duration::from_millis(1)), &mut answer).await {
            Ok(answer) => return answer.map_err(lost),
            // An instance is being started for it: that has its own limit.
            Err(_) if node.scheduler.is_starting(id) => {}
            Err(_) if node.scheduler.withdraw(id) => {
                metrics::counter!("nexus_throttled_total").increment(1);
                return Err(ApiError::throttled(
                    "ReservedFunctionConcurrentInvocationLimitExceeded",
                ));
            }
            // An instance has it: the function's time-out bounds what is left.
            Err(_) => return answer.await.map_err(lost),
        }
    }
}

fn present(answer: Answer, trace_id: Option<String>) -> Result<Reply, ApiError> {
    let (body, is_error) = match answer.outcome {
        Outcome::Returned(body) => (body, false),
        Outcome::FunctionError(body) => (body, true),
        Outcome::Node(what) => return Err(ApiError::service(what)),
        Outcome::Deleted => {
            let what = "the function was deleted, and deployed again, while the event waited";
            return Err(ApiError::service(what.to_owned()));
        }
    };
    let mut reply = respond::bytes(200, "application/json", body);
    respond::header(&mut reply, "x-amz-executed-version", LATEST);
    if is_error {
        respond::header(&mut reply, "x-amz-function-error", "Unhandled");
    }
    if let Some(tail) = answer.tail {
        respond::header(&mut reply, "x-amz-log-result", STANDARD.encode(tail));
    }
    if let Some(trace_id) = trace_id {
        respond::header(&mut reply, "x-amzn-trace-id", trace_id);
    }
    Ok(reply)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json() {
        assert_eq!(check_event(Bytes::new()).unwrap(), "{}");
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for good in [
            "1",
            "null",
            "\"x\"",
            " {\"a\": [1, 2.5e3, \"\\ud83d\"]} ",
            &deep,
        ] {
            check_event(Bytes::copy_from_slice(good.as_bytes())).unwrap();
        }
        let cut = "[".repeat(100_000);
        for bad in [
            &b"{"[..],
            b"nan",
            b"{'a': 1}",
            b"\"\xff\"",
            b"1 2",
            b"\0",
            cut.as_bytes(),
        ] {
            let error = check_event(Bytes::copy_from_slice(bad)).unwrap_err();
            assert_eq!(error.kind, "InvalidRequestContentException");
            assert!(
                error
                    .message
                    .starts_with("Could not parse request body into json: ")
            );
        }
    }

    #[test]
    fn client_contexts_are_checked() {
        assert_eq!(
            client_context(&STANDARD.encode("{\"a\":1}")).unwrap()["a"],
            1
        );
        for bad in [
            "***",
            &STANDARD.encode("[]"),
            &STANDARD.encode("{"),
            &"A".repeat(4000),
        ] {
            assert!(client_context(bad).is_err());
        }
    }
}
