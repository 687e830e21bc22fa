//! Threads of a restored guest that wait for the one that renews it: until then nobody else may draw a random number
//! that another clone draws too.

use nexus_personality::machine::Tid;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whom the others wait for, and until when at the longest.
#[derive(Default)]
pub struct Hold {
    renewing: Mutex<Option<(Tid, Instant)>>,
    changed: Condvar,
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, Option<(Tid, Instant)>> {
        self.renewing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have all threads but this one wait, for `limit` at most. Before any thread starts.
    pub fn begin(&self, renewing: Tid, limit: Duration) {
        *self.lock() = Some((renewing, Instant::now() + limit));
    }

    /// Let them go on.
    pub fn end(&self) {
        if self.lock().take().is_some() {
            self.changed.notify_all();
        }
    }

    /// As [`Hold::end`], where `tid` is whom they wait for: it is gone.
    pub fn end_of(&self, tid: Tid) {
        if self.lock().is_some_and(|(renewing, _)| renewing == tid) {
            self.end();
        }
    }

    /// Wait for one's turn. `false`: the time ran out, and this thread is the first to see it.
    #[must_use]
    pub fn pass(&self, tid: Tid) -> bool {
        let mut renewing = self.lock();
        while let Some((first, deadline)) = *renewing {
            if first == tid {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *renewing = None;
                self.changed.notify_all();
                return false;
            }
            (renewing, _) = self
                .changed
                .wait_timeout(renewing, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn others_wait_until_it_ends() {
        let hold = Hold::default();
        assert!(hold.pass(7), "nobody is held at first");
        hold.begin(7, LONG);
        assert!(hold.pass(7));
        let renewed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| (hold.pass(8), renewed.load(Ordering::SeqCst)));
            std::thread::sleep(Duration::from_millis(20));
            hold.end_of(9);
            renewed.store(true, Ordering::SeqCst);
            hold.end_of(7);
            assert_eq!(other.join().unwrap(), (true, true));
        });
        assert!(hold.pass(8));
    }

    #[test]
    fn it_ends_by_itself_and_is_told_of_once() {
        let hold = Hold::default();
        hold.begin(7, Duration::from_millis(1));
        assert!(!hold.pass(8));
        assert!(hold.pass(9));
    }
}
