//! Which objects have writes pending on this node, and when the node last wrote to which.

use super::failure::WriteError;
use super::{FUNCTION_BYTES, FUNCTION_WRITES, NODE_BYTES, NODE_WRITES};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// An object, by the names that S3 knows it by. Endpoints are left out: two with a bucket of one name wait for each other,
/// which costs time and never correctness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    pub bucket: String,
    pub key: String,
}

/// How a write ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The store has it, under this ETag (empty where it told none).
    Stored {
        etag: String,
    },
    Failed(Arc<WriteError>),
    /// Never sent: an earlier write that it had to follow did not succeed.
    Abandoned,
}

impl Outcome {
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Stored { .. })
    }
}

/// One accepted write.
#[derive(Debug)]
pub struct Write {
    pub id: u64,
    pub object: ObjectName,
    function: Arc<str>,
    bytes: usize,
    outcome: watch::Sender<Option<Outcome>>,
}

impl Write {
    /// Wait for its end.
    pub async fn terminal(&self) -> Outcome {
        let mut watched = self.outcome.subscribe();
        let found = watched.wait_for(Option::is_some).await;
        // The sender lives as long as `self`.
        found
            .ok()
            .and_then(|found| found.clone())
            .unwrap_or(Outcome::Abandoned)
    }

    /// Its end, if it has come.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome.borrow().clone()
    }
}

/// Objects whose last write through the node is remembered one by one.
const REMEMBERED: usize = 65_536;

#[derive(Debug, Default)]
pub struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    pending: HashMap<ObjectName, Vec<Arc<Write>>>,
    functions: HashMap<Arc<str>, (usize, usize)>,
    count: usize,
    bytes: usize,
    last_id: u64,
    touched: Touched,
}

/// When (CLOCK_MONOTONIC nanoseconds) a write through the node last began or ended.
#[derive(Debug, Default)]
struct Touched {
    objects: HashMap<ObjectName, u64>,
    buckets: HashMap<String, u64>,
    /// Of whatever is not in the maps.
    anything: u64,
}

/// A write that was let in, and what it has to follow.
#[derive(Debug)]
pub struct Accepted {
    pub write: Arc<Write>,
    /// The pending write of the same object that came before.
    pub before: Option<Arc<Write>>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let a write of `bytes` bytes in. From now on reads of its object wait. `None`: too much is pending.
    pub fn accept(
        &self,
        function: &Arc<str>,
        object: ObjectName,
        bytes: usize,
    ) -> Option<Accepted> {
        let mut state = self.lock();
        let (count, total) = state.functions.get(function).copied().unwrap_or_default();
        let full = state.count >= NODE_WRITES
            || state.bytes + bytes > NODE_BYTES
            || count >= FUNCTION_WRITES
            || total + bytes > FUNCTION_BYTES;
        (!full).then(|| state.insert(function, object, bytes))
    }

    /// As [`Ledger::accept`], without limits: what a journal holds was accepted once already.
    pub fn readmit(&self, function: &Arc<str>, object: ObjectName, bytes: usize) -> Accepted {
        self.lock().insert(function, object, bytes)
    }

    /// A write has ended.
    pub fn finish(&self, write: &Arc<Write>, outcome: Outcome) {
        {
            let mut state = self.lock();
            if let Some(queue) = state.pending.get_mut(&write.object) {
                queue.retain(|other| other.id != write.id);
                if queue.is_empty() {
                    state.pending.remove(&write.object);
                }
            }
            state.count = state.count.saturating_sub(1);
            state.bytes = state.bytes.saturating_sub(write.bytes);
            if let Some(entry) = state.functions.get_mut(&write.function) {
                entry.0 = entry.0.saturating_sub(1);
                entry.1 = entry.1.saturating_sub(write.bytes);
                if entry.0 == 0 {
                    state.functions.remove(&write.function);
                }
            }
            state.touched.object(&write.object);
        }
        write.outcome.send_replace(Some(outcome));
    }

    /// Writes pending, and their bytes.
    pub fn pending(&self) -> (usize, usize) {
        let state = self.lock();
        (state.count, state.bytes)
    }

    /// Wait until what is pending now for an object has ended.
    pub async fn settle_object(&self, object: &ObjectName) {
        let waiting = self.lock().pending.get(object).cloned();
        settle(waiting.unwrap_or_default()).await;
    }

    /// Wait until what is pending now in the buckets that `matches` has ended.
    pub async fn settle_buckets(&self, matches: impl Fn(&str) -> bool) {
        let waiting = {
            let state = self.lock();
            if state.count == 0 {
                return;
            }
            let found = state.pending.iter().filter(|(o, _)| matches(&o.bucket));
            found.flat_map(|(_, queue)| queue.iter().cloned()).collect()
        };
        settle(waiting).await;
    }

    /// A write to an object through the node begins, or ends.
    pub fn touch_object(&self, object: &ObjectName) {
        self.lock().touched.object(object);
    }

    /// As above, where it may be any object of a bucket (`None`: of any).
    pub fn touch_bucket(&self, bucket: Option<&str>) {
        self.lock().touched.bucket(bucket);
    }

    /// Whether a write through the node touched an object at or after `since` (nanoseconds), or is under way.
    pub fn touched_since(&self, object: &ObjectName, since: u64) -> bool {
        let state = self.lock();
        state.pending.contains_key(object) || state.touched.last(object) >= since
    }
}

impl State {
    fn insert(&mut self, function: &Arc<str>, object: ObjectName, bytes: usize) -> Accepted {
        self.last_id += 1;
        let write = Arc::new(Write {
            id: self.last_id,
            object: object.clone(),
            function: Arc::clone(function),
            bytes,
            outcome: watch::Sender::new(None),
        });
        self.count += 1;
        self.bytes += bytes;
        let entry = self.functions.entry(Arc::clone(function)).or_default();
        entry.0 += 1;
        entry.1 += bytes;
        self.touched.object(&object);
        let queue = self.pending.entry(object).or_default();
        let before = queue.last().cloned();
        queue.push(Arc::clone(&write));
        Accepted { write, before }
    }
}

impl Touched {
    fn object(&mut self, object: &ObjectName) {
        if self.objects.len() >= REMEMBERED && !self.objects.contains_key(object) {
            // Forgetting must err towards "touched".
            self.anything = now_ns();
            self.objects.clear();
        }
        self.objects.insert(object.clone(), now_ns());
    }

    fn bucket(&mut self, bucket: Option<&str>) {
        match bucket {
            Some(bucket) if self.buckets.len() < REMEMBERED => {
                self.buckets.insert(bucket.to_owned(), now_ns());
            }
            _ => self.anything = now_ns(),
        }
    }

    fn last(&self, object: &ObjectName) -> u64 {
        let own = self.objects.get(object).copied().unwrap_or(0);
        let bucket = self.buckets.get(&object.bucket).copied().unwrap_or(0);
        own.max(bucket).max(self.anything)
    }
}

async fn settle(writes: Vec<Arc<Write>>) {
    for write in writes {
        write.terminal().await;
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the struct is the kernel's to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanoseconds
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn name(key: &str) -> ObjectName {
        ObjectName {
            bucket: "b".to_owned(),
            key: key.to_owned(),
        }
    }

    fn stored() -> Outcome {
        Outcome::Stored {
            etag: String::new(),
        }
    }

    #[tokio::test]
    async fn whoever_asks_for_a_pending_object_waits_and_nobody_else_does() {
        let ledger = Ledger::default();
        let function: Arc<str> = "f".into();
        let first = ledger.accept(&function, name("k"), 1).unwrap();
        assert!(first.before.is_none());
        let second = ledger.accept(&function, name("k"), 1).unwrap();
        assert_eq!(second.before.unwrap().id, first.write.id);
        ledger.settle_object(&name("other")).await;
        ledger.settle_buckets(|bucket| bucket == "c").await;
        let waits = async {
            ledger.settle_object(&name("k")).await;
            ledger.settle_buckets(|bucket| bucket == "b").await;
        };
        tokio::pin!(waits);
        assert!(futures_pending(&mut waits).await);
        ledger.finish(&first.write, stored());
        assert!(futures_pending(&mut waits).await);
        ledger.finish(&second.write, Outcome::Abandoned);
        waits.await;
        assert_eq!(ledger.pending(), (0, 0));
    }

    async fn futures_pending(future: &mut (impl Future<Output = ()> + Unpin)) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(5), future)
            .await
            .is_err()
    }

    #[test]
    fn what_is_too_much_is_not_let_in() {
        let ledger = Ledger::default();
        let function: Arc<str> = "f".into();
        let half = FUNCTION_BYTES / 2;
        let first = ledger.accept(&function, name("1"), half).unwrap();
        ledger.accept(&function, name("2"), half).unwrap();
        assert!(ledger.accept(&function, name("3"), 1).is_none());
        assert!(ledger.accept(&"g".into(), name("3"), 1).is_some());
        ledger.finish(&first.write, stored());
        assert!(ledger.accept(&function, name("3"), 1).is_some());
    }

    #[test]
    fn touches_are_remembered_or_overestimated() {
        let ledger = Ledger::default();
        let before = now_ns();
        assert!(!ledger.touched_since(&name("k"), before));
        ledger.touch_object(&name("k"));
        assert!(ledger.touched_since(&name("k"), before));
        assert!(!ledger.touched_since(&name("k"), now_ns() + 1));
        assert!(!ledger.touched_since(&name("l"), before));
        ledger.touch_bucket(Some("b"));
        assert!(ledger.touched_since(&name("l"), before));
        ledger.touch_bucket(None);
        let elsewhere = ObjectName {
            bucket: "x".to_owned(),
            key: "y".to_owned(),
        };
        assert!(ledger.touched_since(&elsewhere, before));
    }
}
