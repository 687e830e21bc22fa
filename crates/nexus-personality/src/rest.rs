//! Rest: guest threads that wait for the host and read or write no memory of the guest's until they are woken, so that
//! the hypervisor may rearrange that memory meanwhile.

use std::sync::{Mutex, PoisonError};

/// How many threads rest.
#[derive(Debug, Default)]
pub struct Rest(Mutex<usize>);

impl Rest {
    /// Rest for as long as `wait` takes. It returns only once nobody works on the sleeper's memory any more.
    pub(crate) fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let result = wait();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        result
    }

    /// Do `work` if all of the guest's `threads` rest; those that are woken go on behind it. `None`: not all do.
    pub fn while_all<T>(
        &self,
        threads: impl FnOnce() -> usize,
        work: impl FnOnce() -> T,
    ) -> Option<T> {
        let resting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted under the lock: with all at rest, none is there to start another.
        (*resting > 0 && *resting == threads()).then(work)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;

    #[test]
    fn no_work_while_a_thread_runs() {
        let rest = Rest::default();
        assert_eq!(rest.while_all(|| 0, || ()), None);
        assert_eq!(rest.while_all(|| 1, || ()), None);
        rest.during(|| {
            assert_eq!(rest.while_all(|| 2, || ()), None);
            assert_eq!(rest.while_all(|| 1, || 7), Some(7));
        });
        assert_eq!(rest.while_all(|| 1, || ()), None);
    }

    #[test]
    fn a_woken_thread_goes_on_behind_the_work() {
        let (rest, done) = (Rest::default(), AtomicBool::new(false));
        let (asleep, is_asleep) = channel();
        let (wake, woken) = channel::<()>();
        std::thread::scope(|scope| {
            let (rest, done) = (&rest, &done);
            let sleeper = scope.spawn(move || {
                rest.during(|| {
                    asleep.send(()).unwrap();
                    woken.recv().unwrap();
                });
                done.load(Ordering::SeqCst)
            });
            is_asleep.recv().unwrap();
            let worked = rest.while_all(
                || 1,
                || {
                    wake.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(20));
                    done.store(true, Ordering::SeqCst);
                },
            );
            assert_eq!(worked, Some(()));
            assert!(sleeper.join().unwrap());
        });
    }
}
