//! Journalled writes on their way to the store, at once or after a restart of the node.
//!
//! The first attempt is the PUT as the function made it. Every later one, and every one after a restart, is conditional on the
//! object that the write was to replace: what somebody else has put there since is never overwritten, but reported.

use super::failure::WriteError;
use super::journal::{Base, Entry, Journal};
use super::ledger::{Outcome, Write};
use super::promise::{Fingerprint, parse_date};
use super::put::{attempt, conclude, exchange, with_condition};
use super::{Writes, ledger};
use crate::FunctionIdentity;
use crate::operation::Engine;
use crate::raw::RawSlice;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between attempts while the store does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Clocks and `Last-Modified` agree to this many seconds.
const MARGIN_S: u64 = 2;

/// A write of the journal with what it has to follow.
#[derive(Debug)]
pub struct Order {
    pub entry: Entry,
    pub write: Arc<Write>,
    /// Of the same invocation.
    pub follows: Vec<Arc<Write>>,
    /// Of the same object.
    pub before: Option<Arc<Write>>,
    /// Whose it is; known by name only after a restart.
    pub identity: Option<Arc<FunctionIdentity>>,
    /// It was never sent.
    pub fresh: bool,
}

/// How a journalled write ends other than by success.
enum End {
    Conflict(String),
    Failed(WriteError),
}

/// Send a write in the background.
pub fn send(engine: Arc<Engine>, order: Order) {
    tokio::spawn(async move {
        let Some(journal) = engine.writes.journal().cloned() else {
            return;
        };
        let id = order.entry.id;
        let outcome = match carry_out(&engine, &journal, &order).await {
            Ok(etag) => match journal.done(id).await {
                Ok(()) => Outcome::Stored { etag },
                Err(error) => return stays_pending(id, &error),
            },
            Err(end) => {
                let (conflict, error) = match end {
                    End::Failed(error) => (false, error),
                    End::Conflict(reason) => (true, conflict_error(reason)),
                };
                if conflict {
                    Writes::count(&engine.writes.counters.conflicts);
                }
                tracing::error!(
                    id,
                    bucket = order.entry.object.bucket,
                    key = order.entry.object.key,
                    conflict,
                    reason = error.message,
                    "a journalled write is parked: see nexus writes"
                );
                match journal.park(id, conflict, &error.message).await {
                    Ok(()) => Outcome::Failed(Arc::new(error)),
                    Err(error) => return stays_pending(id, &error),
                }
            }
        };
        conclude(&engine, &order.write, outcome);
    });
}

/// A restart will send it again, so until then nobody may build on its end.
fn stays_pending(id: i64, error: &str) {
    tracing::error!(
        id,
        error,
        "the end of a journalled write cannot be written down"
    );
}

fn conflict_error(reason: String) -> WriteError {
    WriteError {
        error_type: "DeferredWriteConflict".to_owned(),
        message: reason,
        ambiguous: false,
        transient: false,
        status: 412,
    }
}

/// Take up what an earlier process left. When this returns, reads wait for those writes.
pub async fn start(engine: &Arc<Engine>) {
    let Some(journal) = engine.writes.journal().cloned() else {
        return;
    };
    match journal.pending().await {
        Ok(entries) => readmit(engine, entries),
        Err(error) => tracing::error!(error, "the journal of deferred writes"),
    }
}

fn readmit(engine: &Arc<Engine>, entries: Vec<Entry>) {
    if !entries.is_empty() {
        tracing::info!(count = entries.len(), "journalled writes go on");
    }
    let mut last: HashMap<String, Arc<Write>> = HashMap::new();
    for entry in entries {
        Writes::count(&engine.writes.counters.replayed);
        let function: Arc<str> = entry.function.as_str().into();
        let bytes = entry.payload.len();
        let ledger::Accepted { write, before } =
            engine
                .writes
                .ledger
                .readmit(&function, entry.object.clone(), bytes);
        let follows = last.insert(entry.invocation.clone(), Arc::clone(&write));
        let order = Order {
            entry,
            write,
            follows: follows.into_iter().collect(),
            before,
            identity: None,
            fresh: false,
        };
        send(Arc::clone(engine), order);
    }
}

/// Try a parked write again, as if it were made now. `false`: there is none of this id.
///
/// # Errors
/// The journal's.
pub async fn retry(engine: &Arc<Engine>, id: i64) -> Result<bool, String> {
    let journal = engine.writes.journal().ok_or("this node has no journal")?;
    let Some(entry) = journal.revive(id).await? else {
        return Ok(false);
    };
    let function: Arc<str> = entry.function.as_str().into();
    let bytes = entry.payload.len();
    let ledger = &engine.writes.ledger;
    let ledger::Accepted { write, before } = ledger.readmit(&function, entry.object.clone(), bytes);
    let order = Order {
        entry,
        write,
        follows: Vec::new(),
        before,
        identity: None,
        fresh: true,
    };
    send(Arc::clone(engine), order);
    Ok(true)
}

async fn carry_out(engine: &Engine, journal: &Journal, order: &Order) -> Result<String, End> {
    let entry = &order.entry;
    let identity = match &order.identity {
        Some(identity) => Arc::clone(identity),
        None => engine.writes.identity(&entry.function).await.ok_or_else(|| {
            End::Failed(WriteError {
                error_type: "DeferredWriteOrphaned".to_owned(),
                message: format!(
                    "the function {} is not deployed any more: there is nobody to write for. Deploy it, then retry",
                    entry.function
                ),
                ambiguous: false,
                transient: false,
                status: 0,
            })
        })?,
    };
    for earlier in &order.follows {
        if !earlier.terminal().await.is_stored() {
            let reason = "not sent: a write before it in the same invocation did not succeed";
            return Err(End::Conflict(reason.to_owned()));
        }
    }
    let mut base = entry.base.clone();
    if let Some(before) = &order.before {
        match before.terminal().await {
            Outcome::Stored { etag } if !etag.is_empty() => base = Some(Base::Etag(etag)),
            Outcome::Stored { .. } => {}
            // Made now it would replace whatever is there; made then, it would have replaced that write's object.
            _ if order.fresh || base.is_some() => {}
            _ => {
                let reason = "not sent: the write of this object before it did not succeed";
                return Err(End::Conflict(reason.to_owned()));
            }
        }
    }
    let (base, mut conditional) = match base {
        Some(base) => (base, !order.fresh),
        None => {
            let (base, late) = find_base(engine, journal, &identity, order).await?;
            (base, late)
        }
    };
    if entry.base.as_ref() != Some(&base) {
        journal.set_base(entry.id, base.clone());
    }
    let bytes = journal.load(&entry.payload).await.map_err(|error| {
        End::Failed(WriteError {
            error_type: "DeferredWriteLost".to_owned(),
            message: error,
            ambiguous: false,
            transient: false,
            status: 0,
        })
    })?;
    let mut pause = FIRST_PAUSE;
    loop {
        let head = match (&base, conditional) {
            (_, false) => entry.head.clone().into_bytes(),
            (Base::Absent, true) => with_condition(&entry.head, "If-None-Match", "*"),
            (Base::Etag(etag), true) => with_condition(&entry.head, "If-Match", etag),
        };
        match attempt(engine, &identity, &head, RawSlice::from_vec(bytes.to_vec())).await {
            Ok(answer) => {
                let function: Arc<str> = entry.function.as_str().into();
                let profiles = &engine.writes.profiles;
                let fingerprint = Fingerprint::of(&bytes);
                profiles.learn(&function, &entry.object.bucket, &answer, &fingerprint);
                return Ok(answer.value("etag").unwrap_or_default().to_owned());
            }
            Err(error) if conditional && matches!(error.status, 404 | 409 | 412) => {
                match look(engine, &identity, order).await {
                    // It arrived earlier; only the news of it did not.
                    Ok(Some(found)) if found.etag == entry.etag => return Ok(found.etag),
                    Ok(found) => {
                        let still = match (&found, &base) {
                            (None, Base::Absent) => true,
                            (Some(found), Base::Etag(etag)) => found.etag == *etag,
                            _ => false,
                        };
                        // Another conditional write was under way (409), and has not changed it; or the bucket is gone.
                        if !still {
                            return Err(End::Conflict(describe(&base, found.as_ref())));
                        }
                        if error.status != 409 {
                            return Err(End::Failed(error));
                        }
                    }
                    Err(error) if error.transient => {}
                    Err(error) => return Err(End::Failed(error)),
                }
            }
            Err(error) if error.transient => {}
            Err(error) => return Err(End::Failed(error)),
        }
        conditional = true;
        rest(&mut pause).await;
    }
}

async fn rest(pause: &mut Duration) {
    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
    *pause = (*pause * 2).min(LONGEST_PAUSE);
}

fn describe(base: &Base, found: Option<&Found>) -> String {
    let was = match base {
        Base::Absent => "did not exist".to_owned(),
        Base::Etag(etag) => format!("had the ETag {etag}"),
    };
    let is = match found {
        None => "does not exist".to_owned(),
        Some(found) => format!("has {}", found.etag),
    };
    format!("somebody else wrote the object: when the write was accepted it {was}, now it {is}")
}

/// What a HEAD says.
struct Found {
    etag: String,
    /// Seconds since 1970, by the store's clock.
    modified: Option<u64>,
}

/// The object as it is; `None`: there is none.
async fn look(
    engine: &Engine,
    identity: &FunctionIdentity,
    order: &Order,
) -> Result<Option<Found>, WriteError> {
    let put: Value = serde_json::from_str(&order.entry.head).unwrap_or_default();
    let field = |name: &str| put.get(name).cloned().unwrap_or(Value::Null);
    let head = json!({
        "op": "HeadObject", "bucket": field("bucket"), "key": field("key"), "query": [], "headers": [],
        "region": field("region"), "endpoint": field("endpoint"),
    });
    let head = head.to_string().into_bytes();
    let (answer, _) = exchange(engine, identity, &head, RawSlice::empty())
        .await
        .map_err(|refusal| WriteError::refused(&refusal))?;
    match answer.status {
        200 => Ok(Some(Found {
            etag: answer.value("etag").unwrap_or_default().to_owned(),
            modified: answer.value("last-modified").and_then(parse_date),
        })),
        404 => Ok(None),
        status => Err(WriteError::answered(status, answer.retries, "")),
    }
}

/// The object that a write replaces, where nothing was recorded; and whether that comes late, so that it is no base for an
/// unconditional write.
async fn find_base(
    engine: &Engine,
    journal: &Journal,
    identity: &FunctionIdentity,
    order: &Order,
) -> Result<(Base, bool), End> {
    let entry = &order.entry;
    let mut late = !order.fresh;
    let mut pause = FIRST_PAUSE;
    loop {
        match look(engine, identity, order).await {
            Ok(None) => return Ok((Base::Absent, late)),
            Ok(Some(found)) if !late => return Ok((Base::Etag(found.etag), false)),
            Ok(Some(found)) => {
                // Ours from before, or older than the acceptance: then it was there at acceptance.
                let ours = journal.last_stored(&entry.object).await.as_ref() == Some(&found.etag);
                let accepted = entry.accepted_ms / 1000;
                let old = found
                    .modified
                    .is_some_and(|modified| modified + MARGIN_S < accepted);
                if ours || old || found.etag == entry.etag {
                    return Ok((Base::Etag(found.etag), true));
                }
                return Err(End::Conflict(format!(
                    "the object was written (ETag {}) at about the time when this write was accepted, and the node was \
                     cut off before it had looked",
                    found.etag
                )));
            }
            // Some stores answer 403 to a HEAD that may not list: then the write itself will tell.
            Err(error) if error.status == 403 && !late => return Ok((Base::Absent, false)),
            Err(error) if error.transient => late = true,
            Err(error) => return Err(End::Failed(error)),
        }
        rest(&mut pause).await;
    }
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.map_or(0, |d| d.as_millis())).unwrap_or(u64::MAX)
}
