//! What one invocation has pending: its barrier, and its commit.

use super::failure::WriteError;
use super::ledger::{Outcome, Write};
use super::{WriteMode, WriteOptions};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The invocation that an instance is in.
#[derive(Debug, Default)]
pub struct Current {
    scope: Mutex<Option<Arc<Scope>>>,
    /// It has had a socket of its own to the outside: what goes over that passes nobody.
    connected: AtomicBool,
}

impl Current {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Scope>>> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, options: WriteOptions, request_id: Arc<str>) {
        let mut scope = self.lock();
        *scope = Some(Scope::new(options, request_id, scope.take()));
    }

    pub fn scope(&self) -> Option<Arc<Scope>> {
        self.lock().clone()
    }

    /// It is about to be given a socket: from now on nothing is deferred, and what was is waited for.
    ///
    /// # Errors
    /// A write failed: there must be no socket.
    pub async fn connect(&self) -> Result<(), Arc<WriteError>> {
        self.connected.store(true, Ordering::Release);
        match self.scope() {
            Some(scope) => scope.barrier().await,
            None => Ok(()),
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }
}

/// The writes of one invocation.
#[derive(Debug)]
pub struct Scope {
    options: WriteOptions,
    /// Names the invocation in the journal.
    pub request_id: Arc<str>,
    /// The invocation before in the same instance, where its writes were pending when this one began: what this one
    /// does rests on a state in which they succeeded.
    previous: Option<Arc<Scope>>,
    state: Mutex<State>,
    /// Writes are to be given up.
    abort: watch::Sender<bool>,
    /// When the last write became terminal (CLOCK_MONOTONIC, nanoseconds).
    settled_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    writes: Vec<Arc<Write>>,
    /// The handler has ended: no more writes are deferred.
    sealed: bool,
}

/// How an invocation's writes ended.
#[derive(Clone, Debug)]
pub enum Commit {
    /// All are where the mode promises them to be.
    Done,
    /// One failed; the ones after it were not sent.
    Failed(Arc<WriteError>),
    /// The invocation before in this instance failed: this one ran on a state that must not be, and has to run again
    /// elsewhere. It has had no effect.
    Rerun,
}

impl Scope {
    pub fn new(
        options: WriteOptions,
        request_id: Arc<str>,
        previous: Option<Arc<Scope>>,
    ) -> Arc<Self> {
        // A chain is as long as what is really pending.
        let previous = previous.filter(|scope| !scope.is_done());
        Arc::new(Self {
            options,
            request_id,
            previous,
            state: Mutex::default(),
            abort: watch::Sender::new(false),
            settled_ns: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn mode(&self) -> WriteMode {
        self.options.mode
    }

    /// Whether a PUT may be deferred now.
    pub fn is_open(&self) -> bool {
        self.options.mode != WriteMode::Sync && !self.lock().sealed
    }

    /// Add a write that `accept` makes; `None`: the handler has ended, or `accept` declines. The write that it has to
    /// follow, of this invocation or the one before, is given with it.
    pub fn add<T>(
        &self,
        accept: impl FnOnce() -> Option<(Arc<Write>, T)>,
    ) -> Option<(T, Vec<Arc<Write>>)> {
        let earlier = self.previous.as_ref().map(|scope| scope.writes());
        let mut state = self.lock();
        if state.sealed {
            return None;
        }
        let (write, rest) = accept()?;
        let mut follows = match state.writes.last() {
            Some(last) => vec![Arc::clone(last)],
            None => earlier.unwrap_or_default(),
        };
        follows.retain(|other| !other.outcome().is_some_and(|o| o.is_stored()));
        state.writes.push(write);
        Some((rest, follows))
    }

    /// Everything pending, of the invocations before too.
    fn writes(&self) -> Vec<Arc<Write>> {
        let mut all = self
            .previous
            .as_ref()
            .map(|scope| scope.writes())
            .unwrap_or_default();
        all.extend(self.lock().writes.iter().cloned());
        all
    }

    /// Nothing is pending, and nothing failed.
    fn is_done(&self) -> bool {
        self.previous.as_ref().is_none_or(|scope| scope.is_done())
            && self
                .lock()
                .writes
                .iter()
                .all(|w| w.outcome().is_some_and(|o| o.is_stored()))
    }

    /// Whether its outcome must wait for anything.
    pub fn is_clean(&self) -> bool {
        self.is_done()
    }

    /// Wait until everything that was deferred is in the store: to be called before any effect that somebody outside
    /// could notice.
    ///
    /// # Errors
    /// A write failed: the effect must not happen.
    pub async fn barrier(&self) -> Result<(), Arc<WriteError>> {
        for write in self.writes() {
            match write.terminal().await {
                Outcome::Stored { .. } => {}
                Outcome::Failed(error) => return Err(error),
                Outcome::Abandoned => return Err(Arc::new(abandoned())),
            }
        }
        Ok(())
    }

    /// The handler has ended: nothing more is deferred. How many writes it has.
    pub fn seal(&self) -> usize {
        let mut state = self.lock();
        state.sealed = true;
        state.writes.len()
    }

    /// Wait until the invocation may be answered. Writes that are not done by the deadline are given up.
    pub async fn commit(&self) -> Commit {
        self.seal();
        // In the journal they are safe already; what failed meanwhile is told nevertheless.
        let waits = self.options.mode != WriteMode::Journal;
        let all = async {
            let earlier = self.previous.as_ref().map(|scope| scope.writes());
            let own: Vec<Arc<Write>> = self.lock().writes.clone();
            // Each is waited for, behind a failure too: what was not sent has to be let go of before anything is told.
            let mut result = Commit::Done;
            if waits {
                for write in earlier.unwrap_or_default() {
                    if !write.terminal().await.is_stored() {
                        result = Commit::Rerun;
                    }
                }
            }
            for write in own {
                let outcome = if waits {
                    Some(write.terminal().await)
                } else {
                    write.outcome()
                };
                let failure = match outcome {
                    None | Some(Outcome::Stored { .. }) => continue,
                    Some(Outcome::Failed(error)) => error,
                    Some(Outcome::Abandoned) => Arc::new(abandoned()),
                };
                if matches!(result, Commit::Done) {
                    result = Commit::Failed(failure);
                }
            }
            result
        };
        let result = match tokio::time::timeout(self.options.deadline, all).await {
            Ok(commit) => commit,
            Err(_) => {
                let _ = self.abort.send_replace(true);
                // Their tasks end at once now; the outcome is told only when nothing is under way any more.
                for write in self.writes() {
                    write.terminal().await;
                }
                Commit::Failed(Arc::new(WriteError::late(
                    self.options.deadline.as_secs_f32(),
                )))
            }
        };
        self.settled_ns
            .store(super::ledger::now_ns(), Ordering::Relaxed);
        result
    }

    /// Until the writes are to be given up.
    pub async fn aborted(&self) {
        let mut abort = self.abort.subscribe();
        if abort.wait_for(|abort| *abort).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub fn deadline_s(&self) -> f32 {
        self.options.deadline.as_secs_f32()
    }

    /// Until a write of this invocation, or of one before it, has failed. Never ends otherwise.
    pub async fn failed(&self) {
        if self.barrier().await.is_ok() {
            std::future::pending::<()>().await;
        }
    }
}

fn abandoned() -> WriteError {
    WriteError {
        error_type: "DeferredWriteAbandoned".to_owned(),
        message: "A deferred write was not sent because one before it failed.".to_owned(),
        ambiguous: false,
        transient: false,
        status: 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::writes::ledger::{Ledger, ObjectName};
    use std::time::Duration;

    #[tokio::test]
    async fn a_failure_is_told_when_the_writes_behind_it_have_ended() {
        let (ledger, function) = (Ledger::default(), Arc::from("f"));
        let options = WriteOptions {
            mode: WriteMode::Commit,
            deadline: Duration::from_secs(60),
        };
        let scope = Scope::new(options, "r".into(), None);
        let add = |key: &str| {
            let object = ObjectName {
                bucket: "b".to_owned(),
                key: key.to_owned(),
            };
            let write = ledger.accept(&function, object, 1).unwrap().write;
            scope.add(|| Some((Arc::clone(&write), ()))).unwrap();
            write
        };
        let (first, second) = (add("1"), add("2"));
        let failure = Arc::new(abandoned());
        ledger.finish(&first, Outcome::Failed(Arc::clone(&failure)));
        let mut commit = Box::pin(scope.commit());
        let early = tokio::time::timeout(Duration::from_millis(20), &mut commit).await;
        assert!(early.is_err(), "{early:?}");
        ledger.finish(&second, Outcome::Abandoned);
        // The first failure, not what followed from it.
        match commit.await {
            Commit::Failed(told) => assert!(Arc::ptr_eq(&told, &failure)),
            other => panic!("{other:?}"),
        }
        assert_eq!(ledger.pending(), (0, 0));
    }
}
