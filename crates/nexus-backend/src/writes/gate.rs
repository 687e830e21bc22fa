//! What every operation of a guest passes: deferred writes are kept from being noticed, prefetched reads from being stale.

use super::promise::{Fingerprint, ReplyHead};
use super::put::{self, Way};
use super::scope::{Current, Scope};
use super::target::Target;
use super::{PATIENCE, WriteMode};
use crate::FunctionIdentity;
use crate::operation::{self, Engine, Refusal, Reply, Task};
use crate::policy::Refused;
use crate::prefetch::{Copies, Inputs};
use crate::raw::{RawRoom, RawSlice, RequestBody};
use nexus_abi::operation as abi;
use std::sync::Arc;
use std::time::Instant;

/// The circumstances of an operation.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// The invocation it belongs to; none between two.
    pub scope: Option<Arc<Scope>>,
    /// What was read ahead for the invocation.
    pub copies: Option<Arc<Copies>>,
    /// Where the reply is to be written, where something was read ahead.
    pub room: Option<RawRoom>,
    pub inputs: Arc<Inputs>,
    /// Something is open that bytes can leave by at any time (a body in parts, a conversation, a socket): they would overtake a
    /// deferred write.
    pub open_ended: bool,
    pub current: Arc<Current>,
}

impl Circumstances {
    /// To be called before anything that somebody outside could notice and that is no operation of [`execute`]: waits
    /// until the invocation's deferred writes are in the store.
    ///
    /// # Errors
    /// A write failed; the effect must not happen.
    pub async fn barrier(&self) -> Result<(), Refusal> {
        match &self.scope {
            None => Ok(()),
            Some(scope) => scope
                .barrier()
                .await
                .map_err(|error| Refusal::write_failed(&error)),
        }
    }

    /// As [`Self::barrier`], but not for ever where the journal cannot be written.
    ///
    /// # Errors
    /// As there; a read that timed out.
    pub async fn clear(&self, engine: &Engine) -> Result<(), Refusal> {
        let cleared = engine.writes.patiently(self.barrier()).await;
        cleared.unwrap_or_else(|| Err(Refusal::late(PATIENCE)))
    }
}

/// Do an operation.
///
/// # Errors
/// It got no answer from a server.
pub async fn execute(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    around: &Circumstances,
    operation: u16,
    head: &[u8],
    mut body: RequestBody,
    timeout_ms: u32,
) -> Result<Reply, Refusal> {
    let task = Task::parse(operation, head)?;
    let target = match &task {
        Task::S3(head) => Target::of_s3(head),
        Task::Http(head) => Target::of_http(head),
        // A URL leaves the guest by an effect, or with the outcome.
        Task::Presign(_) => {
            return operation::execute(engine, identity, task, body, timeout_ms).await;
        }
    };
    let function = || -> Arc<str> { identity.name.as_str().into() };
    let mut learn = None;
    if let (Some(scope), RequestBody::Whole(bytes)) = (&around.scope, &body)
        && scope.mode() != WriteMode::Sync
        && operation == abi::S3
    {
        let function = function();
        match put::way(engine, identity, &function, head, bytes.len()) {
            Way::Defer(object, model) if scope.is_open() && !around.open_ended => {
                let about = (object, &*model);
                // Elsewhere, so that operations that are not deferred do not carry its state about.
                let deferred = put::defer(engine, identity, &function, scope, about, head, bytes);
                if let Some(reply) = Box::pin(deferred).await {
                    // A socket was opened meanwhile, for which this write was not waited for.
                    if around.current.is_connected() {
                        around.clear(engine).await?;
                    }
                    return reply;
                }
            }
            Way::Learn(object) => {
                // Learnt from the bytes that are really sent.
                let own = bytes.to_vec();
                learn = Some((object, Fingerprint::of(&own)));
                body = RequestBody::Whole(RawSlice::from_vec(own));
            }
            Way::Defer(..) | Way::Plain => {}
        }
    }
    let is_s3 = matches!(task, Task::S3(_));
    let limit = operation::limit(timeout_ms);
    let clear = async {
        if target.is_effect {
            around.barrier().await?;
        }
        target.settle(&engine.writes.ledger).await;
        Ok::<(), Refusal>(())
    };
    let began = Instant::now();
    let cleared = tokio::select! {
        biased;
        cleared = tokio::time::timeout(limit, clear) => cleared.ok(),
        () = engine.writes.behind_for(limit.min(PATIENCE)) => None,
    };
    match cleared {
        Some(cleared) => cleared?,
        None if is_s3 && engine.writes.is_behind() => {
            return Ok(operation::unsent(Refused::unavailable()));
        }
        None => return Err(Refusal::late(began.elapsed())),
    }
    if let (true, [object], Some(copies)) =
        (target.is_get, target.objects.as_slice(), &around.copies)
        && let Some(copy) = copies.of(object)
    {
        let asked = (object, copy);
        let room = around.room.clone();
        let taken = copies.take(engine, identity, asked, head, &around.inputs, room);
        if let Some(reply) = Box::pin(taken).await {
            return reply;
        }
    }
    if target.is_effect {
        target.touch(&engine.writes.ledger);
    }
    let reply = operation::execute(engine, identity, task, body, timeout_ms).await;
    if target.is_effect {
        target.touch(&engine.writes.ledger);
    }
    around.inputs.note();
    if let Ok(reply) = &reply
        && target.is_put
        && let Some(scope) = &around.scope
        && scope.mode() != WriteMode::Sync
        && let Ok(answer) = serde_json::from_slice::<ReplyHead>(&reply.head)
    {
        if let Some((object, fingerprint)) = learn {
            let profiles = &engine.writes.profiles;
            profiles.learn(&function(), &object.bucket, &answer, &fingerprint);
        }
        // A journalled write that follows replaces this object, and no other.
        if let (WriteMode::Journal, Some(journal), [object], Some(etag)) = (
            scope.mode(),
            engine.writes.journal(),
            target.objects.as_slice(),
            answer.value("etag"),
        ) {
            journal.note_stored(object, etag).await;
        }
    }
    reply
}
