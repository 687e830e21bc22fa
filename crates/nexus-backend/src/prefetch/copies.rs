//! What was read ahead for one invocation, and whether it may stand for a read that the function makes.

use super::predict::{Predictor, Source};
use super::{MAX_BYTES, MAX_OBJECT, PrefetchOptions, Prefetcher};
use crate::FunctionIdentity;
use crate::completer::body_start;
use crate::operation::{self, Content as Body, Engine, Refusal, Reply, Task};
use crate::raw::{RawRoom, RawSlice, RequestBody};
use crate::writes::ledger::{ObjectName, now_ns};
use crate::writes::promise::{ReplyHead, parse_date};
use crate::writes::put::with_condition;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Reads of an invocation that are remembered for its function's predictor.
const MAX_OBSERVED: usize = 16;

/// When an instance last learnt something from outside (CLOCK_MONOTONIC, nanoseconds; 0: never). A read that began before
/// that may be older than what the function knows.
#[derive(Debug, Default)]
pub struct Inputs(AtomicU64);

impl Inputs {
    /// An answer from outside is about to reach the instance.
    pub fn note(&self) {
        self.note_at(now_ns());
    }

    /// As above, of an answer that was true at `ns`.
    pub fn note_at(&self, ns: u64) {
        self.0.fetch_max(ns, Ordering::AcqRel);
    }

    pub fn last(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The room of the reply in which a read ahead is to end: whoever asks for it while it is under way gets it straight there.
#[derive(Debug, Default)]
struct Wanted(Mutex<Option<RawRoom>>);

impl Wanted {
    fn at(&self, room: Option<RawRoom>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = room;
    }

    /// The place of a body of this length behind a head of that length, where the room is known and large enough.
    fn place(&self, head: usize, length: usize) -> Option<RawRoom> {
        let room = (self.0.lock().unwrap_or_else(PoisonError::into_inner)).take()?;
        let place = room.skip(body_start(head));
        (place.len() >= length).then(|| place.first(length))
    }
}

/// An object as it was read.
#[derive(Debug)]
struct Content {
    head: Vec<u8>,
    answer: ReplyHead,
    body: Body,
    /// The store had answered: the read was true between its beginning and now.
    answered_ns: u64,
    _reserved: Option<Reserved>,
}

/// One read ahead.
#[derive(Debug)]
pub(crate) struct Copy {
    began_ns: Arc<AtomicU64>,
    /// Where it is wanted, once somebody waits for it.
    wanted: Arc<Wanted>,
    content: oneshot::Receiver<Option<Content>>,
    task: AbortHandle,
    source: Source,
}

/// The reads ahead of one invocation. Dropping it ends those under way.
#[derive(Debug)]
pub struct Copies {
    copies: Mutex<HashMap<ObjectName, Copy>>,
    reads: Mutex<Vec<ObjectName>>,
    predictor: Arc<Predictor>,
    event: Value,
    region: String,
    learn: bool,
    requests: usize,
    begin_ns: u64,
    end_ns: Arc<AtomicU64>,
    used: AtomicUsize,
    revalidated: AtomicUsize,
    stale: AtomicUsize,
}

/// What became of an invocation's reads ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchReport {
    pub requests: usize,
    /// Copies that stood for a read as they were.
    pub used: usize,
    /// Copies that did after the store had confirmed them.
    pub revalidated: usize,
    /// Requests for nothing.
    pub wasted: usize,
    /// CLOCK_MONOTONIC nanoseconds: the first began, the last ended (0: none did).
    pub begin_ns: u64,
    pub end_ns: u64,
}

impl Copies {
    pub fn start(
        engine: &Arc<Engine>,
        identity: &FunctionIdentity,
        predictor: Arc<Predictor>,
        event: Value,
        wanted: Vec<(ObjectName, Source)>,
        options: &PrefetchOptions,
    ) -> Arc<Self> {
        let region = engine.region_of(identity);
        let end_ns = Arc::new(AtomicU64::new(0));
        let requests = wanted.len();
        let mut copies = HashMap::new();
        for (object, source) in wanted {
            let (sender, content) = oneshot::channel();
            let wanted_at = Arc::new(Wanted::default());
            let began_ns = Arc::new(AtomicU64::new(0));
            let (engine, identity) = (Arc::clone(engine), identity.clone());
            let (name, region) = (object.clone(), region.clone());
            let (began, ended) = (Arc::clone(&began_ns), Arc::clone(&end_ns));
            let place = Arc::clone(&wanted_at);
            let task = tokio::spawn(async move {
                let content = read(&engine, &identity, &name, &region, &began, &place).await;
                ended.fetch_max(now_ns(), Ordering::Relaxed);
                let _ = sender.send(content);
            });
            let copy = Copy {
                began_ns,
                wanted: wanted_at,
                content,
                task: task.abort_handle(),
                source,
            };
            copies.insert(object, copy);
        }
        Arc::new(Self {
            copies: Mutex::new(copies),
            reads: Mutex::default(),
            predictor,
            event,
            region,
            learn: options.learn,
            requests,
            begin_ns: if requests == 0 { 0 } else { now_ns() },
            end_ns,
            used: AtomicUsize::new(0),
            revalidated: AtomicUsize::new(0),
            stale: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectName, Copy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy of an object that is asked for; it is for this one read.
    pub(crate) fn of(&self, object: &ObjectName) -> Option<Copy> {
        {
            let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            if reads.len() < MAX_OBSERVED {
                reads.push(object.clone());
            }
        }
        self.lock().remove(object)
    }

    /// The answer to the GET of an object, where its copy may give it; it will be written to `room`. `None`: ask the store.
    pub(crate) async fn take(
        &self,
        engine: &Engine,
        identity: &FunctionIdentity,
        (object, copy): (&ObjectName, Copy),
        head: &[u8],
        inputs: &Inputs,
        room: Option<RawRoom>,
    ) -> Option<Result<Reply, Refusal>> {
        if !self.is_as_read(engine, head) {
            // Read with other parameters: this copy is of no use to anybody.
            copy.task.abort();
            return None;
        }
        let Copy {
            began_ns,
            wanted,
            content,
            source,
            ..
        } = copy;
        wanted.at(room);
        let content = content.await.ok().flatten()?;
        let began = began_ns.load(Ordering::Acquire);
        // Nothing that the function may know is younger than this read.
        let fresh = began > inputs.last() && !engine.writes.ledger.touched_since(object, began);
        tracing::debug!(
            bucket = object.bucket,
            key = object.key,
            ?source,
            fresh,
            "a read was made ahead"
        );
        if fresh {
            self.used.fetch_add(1, Ordering::Relaxed);
            inputs.note_at(content.answered_ns);
            return Some(Ok(content.into_reply()));
        }
        let Some(etag) = content.answer.value("etag") else {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let text = String::from_utf8_lossy(head);
        let conditional = with_condition(&text, "If-None-Match", etag);
        let reply = ask(engine, identity, &conditional).await;
        inputs.note();
        let Ok(reply) = reply else {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return Some(reply);
        };
        let answer: ReplyHead = serde_json::from_slice(&reply.head).ok()?;
        if answer.status != 304 {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return Some(Ok(reply));
        }
        if let Body::Http(reader) = reply.body {
            reader.discard().await;
        }
        if !content.is_same(&answer) {
            self.stale.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.revalidated.fetch_add(1, Ordering::Relaxed);
        Some(Ok(content.into_reply()))
    }

    /// Whether an object is asked for exactly as it was read ahead.
    fn is_as_read(&self, engine: &Engine, head: &[u8]) -> bool {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Get {
            #[serde(rename = "op")]
            _op: IgnoredAny,
            #[serde(rename = "bucket")]
            _bucket: IgnoredAny,
            #[serde(rename = "key")]
            _key: IgnoredAny,
            #[serde(default)]
            query: Vec<(String, String)>,
            #[serde(default)]
            headers: Vec<(String, String)>,
            #[serde(default)]
            region: String,
            endpoint: Option<String>,
        }
        let Ok(get) = serde_json::from_slice::<Get>(head) else {
            return false;
        };
        get.query.is_empty()
            && (get.region.is_empty() || get.region == self.region)
            && get.endpoint.is_none_or(|url| engine.is_s3(&url))
            && get
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .eq([CHECKSUM])
    }

    /// The invocation has ended: end what is under way, learn, and say what came of it.
    pub fn finish(&self) -> PrefetchReport {
        for copy in self.lock().drain() {
            copy.1.task.abort();
        }
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let (used, revalidated) = (count(&self.used), count(&self.revalidated));
        let wasted = self.requests.saturating_sub(used + revalidated);
        let reads = std::mem::take(&mut *self.reads.lock().unwrap_or_else(PoisonError::into_inner));
        self.predictor
            .observe(&self.event, &reads, wasted, self.learn);
        PrefetchReport {
            requests: self.requests,
            used,
            revalidated,
            wasted,
            begin_ns: self.begin_ns,
            end_ns: self.end_ns.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for (_, copy) in self.lock().drain() {
            copy.task.abort();
        }
    }
}

/// As boto3 asks for an object.
const CHECKSUM: (&str, &str) = ("x-amz-checksum-mode", "ENABLED");

async fn ask(engine: &Engine, identity: &FunctionIdentity, head: &[u8]) -> Result<Reply, Refusal> {
    let task = Task::parse(nexus_abi::operation::S3, head)?;
    let body = RequestBody::Whole(RawSlice::empty());
    operation::execute(engine, identity, task, body, 0).await
}

/// Read an object ahead; `None`: it is not there, or too large, or the store does not answer.
async fn read(
    engine: &Arc<Engine>,
    identity: &FunctionIdentity,
    object: &ObjectName,
    region: &str,
    began_ns: &AtomicU64,
    wanted: &Wanted,
) -> Option<Content> {
    engine.writes.ledger.settle_object(object).await;
    began_ns.store(now_ns(), Ordering::Release);
    let head = json!({
        "op": "GetObject", "bucket": object.bucket, "key": object.key, "query": [], "headers": [CHECKSUM],
        "region": region, "endpoint": null,
    });
    let reply = ask(engine, identity, head.to_string().as_bytes())
        .await
        .ok()?;
    let answered_ns = now_ns();
    let answer: ReplyHead = serde_json::from_slice(&reply.head).ok()?;
    let Body::Http(mut reader) = reply.body else {
        // The node's own answer: it is denied.
        return None;
    };
    if answer.status != 200 {
        reader.discard().await;
        return None;
    }
    let total = reader.total().filter(|total| *total <= MAX_OBJECT)?;
    let length = usize::try_from(total).ok()?;
    let (room, reserved) = match wanted.place(reply.head.len(), length) {
        Some(room) => (room, None),
        None => (
            RawRoom::own(length),
            Some(Reserved::of(&engine.prefetch, length)?),
        ),
    };
    let mut filled = 0;
    while filled < length {
        match reader.read_into(&room.skip(filled)).await {
            Ok(count) if count > 0 => filled += count,
            _ => return None,
        }
    }
    // The end carries the verdict on the checksum.
    reader.read_into(&RawRoom::empty()).await.ok()?;
    Some(Content {
        head: reply.head,
        answer,
        body: match &reserved {
            Some(_) => Body::Memory(room.into_bytes()),
            None => Body::Placed(length),
        },
        answered_ns,
        _reserved: reserved,
    })
}

impl Content {
    /// Whether what a store says with 304 is about the object as it was read: two versions with the same bytes may differ in
    /// their metadata, and have the same ETag.
    fn is_same(&self, now: &ReplyHead) -> bool {
        let then = self.answer.value("last-modified");
        let read = self.answer.value("date").and_then(parse_date);
        // Within a second of its writing an object may have been written twice.
        let settled = match (then.and_then(parse_date), read) {
            (Some(modified), Some(read)) => modified + 1 < read,
            _ => false,
        };
        settled && then.is_some() && now.value("last-modified") == then
    }

    fn into_reply(self) -> Reply {
        Reply {
            head: self.head,
            body: self.body,
        }
    }
}

/// A part of the node's memory for copies; given back when dropped.
#[derive(Debug)]
struct Reserved(Arc<AtomicUsize>, usize);

impl Reserved {
    fn of(prefetcher: &Prefetcher, length: usize) -> Option<Self> {
        let bytes = Arc::clone(&prefetcher.bytes);
        let before = bytes.fetch_add(length, Ordering::Relaxed);
        let reserved = Self(bytes, length);
        (before + length <= MAX_BYTES).then_some(reserved)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}
