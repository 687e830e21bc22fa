//! A PUT that may be deferred: taken out of the guest's memory, answered, and sent.

use super::failure::WriteError;
use super::journal::{Entry, Journal, NotKept, Payload};
use super::ledger::{Accepted, ObjectName, Outcome, Write};
use super::promise::{self, Fingerprint, Profile, ReplyHead};
use super::scope::Scope;
use super::{LARGEST, PATIENCE, WriteMode, Writes, replay};
use crate::FunctionIdentity;
use crate::operation::{self, Content, Engine, Refusal, Reply, Task, s3};
use crate::raw::{RawRoom, RawSlice, RequestBody};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// Headers that change nothing in the answer, or that the answer's model already has.
const HARMLESS: [&str; 9] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "expires",
    "user-agent",
    "x-amz-storage-class",
];
/// Bytes of an error's document that are read.
const MAX_ERROR: usize = 64 << 10;

/// How a PUT is done.
#[derive(Debug)]
pub enum Way {
    /// It is answered ahead, like this.
    Defer(ObjectName, Arc<ReplyHead>),
    /// At once, and what the store answers is learnt.
    Learn(ObjectName),
    /// At once.
    Plain,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    op: String,
    bucket: Option<String>,
    key: Option<String>,
    #[serde(default)]
    query: Vec<(String, String)>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default, rename = "region")]
    _region: String,
    endpoint: Option<String>,
}

/// Which way an S3 operation with a whole body goes.
pub fn way(
    engine: &Engine,
    identity: &FunctionIdentity,
    function: &Arc<str>,
    bytes: &[u8],
    length: usize,
) -> Way {
    let Ok(head) = serde_json::from_slice::<Head>(bytes) else {
        return Way::Plain;
    };
    let harmless = |(name, value): &(String, String)| {
        let name = name.to_ascii_lowercase();
        if name == "x-amz-sdk-checksum-algorithm" {
            // What the node makes by itself.
            return value == "CRC32";
        }
        HARMLESS.contains(&name.as_str()) || name.starts_with("x-amz-meta-")
    };
    let plain = head.op == "PutObject"
        && length <= LARGEST
        && head.query.is_empty()
        && head.headers.iter().all(harmless)
        && head.endpoint.as_deref().is_none_or(|url| engine.is_s3(url));
    let (true, Some(bucket), Some(key)) = (plain, head.bucket, head.key) else {
        return Way::Plain;
    };
    match engine.writes.profiles.get(function, &bucket) {
        Profile::Never => Way::Plain,
        Profile::Unknown => Way::Learn(ObjectName { bucket, key }),
        // What the policy denies is refused at once.
        Profile::Plain(model) if s3::is_allowed(engine, identity, bytes) => {
            Way::Defer(ObjectName { bucket, key }, model)
        }
        Profile::Plain(_) => Way::Plain,
    }
}

/// One write on its way.
#[derive(Debug)]
struct Order {
    write: Arc<Write>,
    head: Vec<u8>,
    bytes: Arc<Vec<u8>>,
    fingerprint: Fingerprint,
    /// Pending writes of its invocation: without their success it is not sent.
    follows: Vec<Arc<Write>>,
    /// Pending write of the same object.
    before: Option<Arc<Write>>,
}

/// Accept a PUT and answer it. `None`: it is to be done at once after all.
pub async fn defer(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    function: &Arc<str>,
    scope: &Arc<Scope>,
    (object, model): (ObjectName, &ReplyHead),
    head: &[u8],
    body: &RawSlice,
) -> Option<Result<Reply, Refusal>> {
    // The guest may change its copy from now on.
    let bytes = Arc::new(body.to_vec());
    let ledger = &engine.writes.ledger;
    let journal = engine
        .writes
        .journal()
        .filter(|_| scope.mode() == WriteMode::Journal)
        .cloned();
    // Behind, it would accept nothing, and what it waits for has a bound only where it is done at once.
    let declines = |journal: &Arc<Journal>| journal.is_full() || journal.is_behind();
    if journal.as_ref().is_some_and(declines) {
        return None;
    }
    let (accepted, follows) = scope.add(|| {
        let accepted = ledger.accept(function, object.clone(), bytes.len())?;
        Some((Arc::clone(&accepted.write), accepted))
    })?;
    let fingerprint = Fingerprint::of(&bytes);
    let Accepted { write, before } = accepted;
    Writes::count(&engine.writes.counters.deferred);
    let reply = promise::answer(model, &fingerprint, write.id);
    let order = Order {
        write,
        head: head.to_vec(),
        bytes,
        fingerprint,
        follows,
        before,
    };
    let Some(journal) = journal else {
        let (engine, identity, scope) =
            (Arc::clone(engine), Arc::clone(identity), Arc::clone(scope));
        let function = Arc::clone(function);
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = carry_out(&engine, &identity, &function, &order) => outcome,
                () = scope.aborted() => {
                    Outcome::Failed(Arc::new(WriteError::late(scope.deadline_s())))
                }
            };
            conclude(&engine, &order.write, outcome);
        });
        return Some(as_reply(&reply));
    };
    let entry = Entry {
        id: 0,
        function: function.to_string(),
        region: identity.region.clone(),
        invocation: scope.request_id.to_string(),
        object: order.write.object.clone(),
        head: String::from_utf8_lossy(&order.head).into_owned(),
        etag: order.fingerprint.etag.clone(),
        base: None,
        accepted_ms: replay::unix_ms(),
        payload: Payload::Bytes(Arc::clone(&order.bytes)),
    };
    match journal.append(entry).await {
        Ok(entry) => {
            replay::send(
                Arc::clone(engine),
                replay::Order {
                    entry,
                    write: Arc::clone(&order.write),
                    follows: order.follows,
                    before: order.before,
                    identity: Some(Arc::clone(identity)),
                    fresh: true,
                },
            );
            Some(as_reply(&reply))
        }
        Err(NotKept { reason, perhaps }) => {
            // Without a journal it is done before it is answered.
            tracing::error!(
                error = reason,
                "the journal of deferred writes cannot be written"
            );
            let done = carry_out(engine, identity, function, &order);
            let outcome = engine.writes.patiently(done).await.unwrap_or_else(|| {
                Outcome::Failed(Arc::new(WriteError::late(PATIENCE.as_secs_f32())))
            });
            let answer = match &outcome {
                Outcome::Stored { .. } => as_reply(&reply),
                Outcome::Failed(error) => Err(Refusal::write_failed(error)),
                Outcome::Abandoned => Err(Refusal::write_failed(&WriteError::late(0.0))),
            };
            if perhaps {
                // A restart must not find it once others may have written the object.
                let (engine, write) = (Arc::clone(engine), order.write);
                tokio::spawn(async move {
                    if journal.fence().await.is_ok() {
                        conclude(&engine, &write, outcome);
                    }
                });
            } else {
                conclude(engine, &order.write, outcome);
            }
            Some(answer)
        }
    }
}

/// A write has ended: whoever waits for it goes on.
pub fn conclude(engine: &Engine, write: &Arc<Write>, outcome: Outcome) {
    let counters = &engine.writes.counters;
    match &outcome {
        Outcome::Stored { .. } => Writes::count(&counters.stored),
        Outcome::Failed(error) => {
            Writes::count(&counters.failed);
            tracing::warn!(
                bucket = write.object.bucket,
                key = write.object.key,
                error.message,
                "a deferred write failed"
            );
        }
        Outcome::Abandoned => Writes::count(&counters.failed),
    }
    engine.writes.ledger.finish(write, outcome);
}

/// Send it, once what comes before is done.
async fn carry_out(
    engine: &Engine,
    identity: &FunctionIdentity,
    function: &Arc<str>,
    order: &Order,
) -> Outcome {
    for earlier in &order.follows {
        if !earlier.terminal().await.is_stored() {
            return Outcome::Abandoned;
        }
    }
    if let Some(before) = &order.before {
        before.terminal().await;
    }
    let bytes = RawSlice::from_vec(order.bytes.to_vec());
    match attempt(engine, identity, &order.head, bytes).await {
        Err(error) => Outcome::Failed(Arc::new(error)),
        Ok(answer) => {
            let bucket = &order.write.object.bucket;
            let profiles = &engine.writes.profiles;
            profiles.learn(function, bucket, &answer, &order.fingerprint);
            let etag = answer.value("etag").unwrap_or_default().to_owned();
            if etag == order.fingerprint.etag {
                Outcome::Stored { etag }
            } else {
                let error = WriteError::other_etag(&order.fingerprint.etag, &etag);
                Outcome::Failed(Arc::new(error))
            }
        }
    }
}

/// One PUT, with the retries that the SDK would make; the store's answer to it.
///
/// # Errors
/// It did not succeed.
pub async fn attempt(
    engine: &Engine,
    identity: &FunctionIdentity,
    head: &[u8],
    bytes: RawSlice,
) -> Result<ReplyHead, WriteError> {
    let (answer, body) = exchange(engine, identity, head, bytes)
        .await
        .map_err(|refusal| WriteError::refused(&refusal))?;
    if answer.status == 200 {
        return Ok(answer);
    }
    Err(WriteError::answered(answer.status, answer.retries, &body))
}

/// An S3 operation of the node's own: the answer's head, and its document.
pub async fn exchange(
    engine: &Engine,
    identity: &FunctionIdentity,
    head: &[u8],
    bytes: RawSlice,
) -> Result<(ReplyHead, String), Refusal> {
    let task = Task::parse(nexus_abi::operation::S3, head)?;
    let body = RequestBody::Whole(bytes);
    let reply = operation::execute(engine, identity, task, body, 0).await?;
    let answer: ReplyHead = serde_json::from_slice(&reply.head).unwrap_or(ReplyHead {
        status: 0,
        headers: Vec::new(),
        retries: 0,
    });
    let mut reader = match reply.body {
        Content::Http(reader) => reader,
        Content::Memory(bytes) => {
            return Ok((answer, String::from_utf8_lossy(&bytes).into_owned()));
        }
        // Of reads ahead alone.
        Content::Placed(_) => return Ok((answer, String::new())),
    };
    let room = RawRoom::own(MAX_ERROR);
    let mut filled = 0;
    loop {
        let rest = room.skip(filled);
        if rest.is_empty() {
            break;
        }
        match reader.read_into(&rest).await {
            Ok(count) if count > 0 => filled += count,
            _ => break,
        }
    }
    let document = room.as_slice(filled).to_vec();
    Ok((answer, String::from_utf8_lossy(&document).into_owned()))
}

/// The head of a PUT with a condition added.
pub fn with_condition(head: &str, name: &str, value: &str) -> Vec<u8> {
    let mut head: Value = serde_json::from_str(head).unwrap_or_default();
    if let Some(object) = head.as_object_mut() {
        let headers = object
            .entry("headers")
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = headers.as_array_mut() {
            list.push(serde_json::json!([name, value]));
        }
    }
    head.to_string().into_bytes()
}

fn as_reply(head: &ReplyHead) -> Result<Reply, Refusal> {
    Ok(Reply {
        // Strings and numbers: it cannot fail.
        head: serde_json::to_vec(head).unwrap_or_default(),
        body: Content::Memory(bytes::Bytes::new()),
    })
}
