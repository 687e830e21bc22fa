//! From a handler's end to its caller's answer: the invocation's deferred writes come between.
//!
//! The instance is free when its handler has ended; the invocation counts against its function's limit until its writes are
//! terminal, and nothing of it is told before.

use super::failure::complete;
use super::invocation::{self, End};
use super::job::{Job, Outcome};
use crate::clock::monotonic_ns;
use crate::logs::Tail;
use crate::node::Node;
use crate::registry::Version;
use crate::timings::Timing;
use nexus_backend::{Commit, PrefetchReport, Scope, WriteError, WriteMode};
use serde_json::json;
use std::sync::Arc;

/// Invocations of one instance whose writes may be pending at a time: each rests on the ones before.
pub const LONGEST_CHAIN: usize = 8;

/// An invocation whose handler has ended.
#[derive(Debug)]
pub struct Ended {
    pub job: Job,
    pub end: End,
    pub tail: Tail,
    pub resident_mib: u64,
    pub cold: bool,
    pub spawned_ns: u64,
    pub ready_ns: u64,
    /// Steps of its instance's start, where this is the first invocation there.
    pub stages: Vec<(String, u64)>,
    /// Of its microVM's threads while it was handled.
    pub exits: u64,
    pub dispatched_ns: u64,
    pub prefetch: PrefetchReport,
    pub writes: usize,
}

/// What is to become of the instance.
#[derive(Debug)]
pub enum After {
    End,
    /// It may have another event.
    Reuse,
    /// It may, and what it does rests on the success of these writes.
    Pending(Arc<Scope>),
}

/// Answer the caller when the invocation's writes allow it. `inline`: before this returns, in any case.
pub async fn commit(
    node: &Arc<Node>,
    version: &Arc<Version>,
    scope: Option<Arc<Scope>>,
    mut ended: Ended,
    inline: bool,
) -> After {
    let reusable = ended.end.reusable;
    let Some(scope) = scope.filter(|scope| !scope.is_clean()) else {
        answer(node, version, ended, Commit::Done);
        return if reusable { After::Reuse } else { After::End };
    };
    ended.writes = scope.seal();
    // The journal has them already.
    if inline || scope.mode() == WriteMode::Journal {
        let commit = scope.commit().await;
        let fine = matches!(commit, Commit::Done);
        answer(node, version, ended, commit);
        return if reusable && fine {
            After::Reuse
        } else {
            After::End
        };
    }
    let held = node.scheduler.hold(node, version.key);
    let (node, version, pending) = (Arc::clone(node), Arc::clone(version), Arc::clone(&scope));
    tokio::spawn(async move {
        let commit = pending.commit().await;
        answer(&node, &version, ended, commit);
        drop(held);
    });
    if reusable {
        After::Pending(scope)
    } else {
        After::End
    }
}

fn answer(node: &Arc<Node>, version: &Version, mut ended: Ended, commit: Commit) {
    let error = match commit {
        Commit::Done => None,
        Commit::Failed(error) => Some(error),
        Commit::Rerun => {
            tracing::info!(function = %version.name, request = %ended.job.request_id, "an invocation runs again: it rested on one whose writes failed");
            metrics::counter!("nexus_reruns_total", "function" => version.name.to_string())
                .increment(1);
            ended.job.rerun = true;
            node.scheduler.take_back(node, version.key, ended.job);
            return;
        }
    };
    // How an instance died says more than what became of its writes.
    if let Some(error) = &error
        && ended.end.reusable
    {
        ended.end = failed(error, &ended.job.request_id, ended.end.handler_ns);
    }
    let now = monotonic_ns();
    invocation::close_log(version, &mut ended, now, error.as_deref());
    invocation::count(version, &ended.end, now.saturating_sub(ended.dispatched_ns));
    count_prefetch(version, &ended.prefetch);
    let Ended {
        job,
        end,
        tail,
        cold,
        spawned_ns,
        ready_ns,
        stages,
        exits,
        dispatched_ns,
        prefetch,
        writes,
        ..
    } = ended;
    version.timings.push(Timing {
        request_id: job.request_id.to_string(),
        cold,
        isolation: match version.isolation {
            crate::config::Isolation::Process => "process",
            _ => "kvm",
        },
        received_ns: job.received_ns,
        spawned_ns: if cold { spawned_ns } else { 0 },
        ready_ns: if cold { ready_ns } else { 0 },
        dispatched_ns,
        stages,
        exits,
        handler_ns: end.handler_ns.0,
        handler_end_ns: end.handler_ns.1,
        ended_ns: end.ended_ns,
        prefetch_begin_ns: prefetch.begin_ns,
        prefetch_end_ns: prefetch.end_ns,
        prefetch_used: prefetch.used,
        prefetch_revalidated: prefetch.revalidated,
        prefetch_wasted: prefetch.wasted,
        writes,
        committed_ns: if writes == 0 { 0 } else { now },
        responded_ns: now,
    });
    let tail = job.wants_tail.then(|| tail.bytes().to_vec());
    job.answer(end.outcome, tail);
}

/// Lambda's error object for the exception that the SDK would have raised.
fn failed(error: &WriteError, request_id: &str, handler_ns: (u64, u64)) -> End {
    let body =
        json!({"errorType": error.error_type, "errorMessage": error.message, "stackTrace": []});
    End {
        outcome: Outcome::FunctionError(complete(body.to_string().as_bytes(), Some(request_id))),
        reusable: false,
        status: Some("error\tError Type: DeferredWriteFailed"),
        handler_ns,
        ended_ns: monotonic_ns(),
    }
}

fn count_prefetch(version: &Version, report: &PrefetchReport) {
    if report.requests == 0 {
        return;
    }
    for (outcome, count) in [
        ("used", report.used),
        ("revalidated", report.revalidated),
        ("wasted", report.wasted),
    ] {
        metrics::counter!("nexus_prefetches_total", "function" => version.name.to_string(), "outcome" => outcome)
            .increment(count as u64);
    }
}
