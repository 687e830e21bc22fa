//! Rest: guest threads that wait for the host and read or write no memory of the guest's until they are woken, so that
//! the hypervisor may rearrange that memory meanwhile.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What puts a sleeping guest's memory back as its threads left it.
pub type Undo = Box<dyn FnOnce() + Send>;

/// How many threads rest, and what is to be done before one of them goes on.
#[derive(Default)]
pub struct Rest(Mutex<State>);

#[derive(Default)]
struct State {
    resting: usize,
    /// Of works done in this rest, the last one's last.
    undo: Vec<Undo>,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").finish_non_exhaustive()
    }
}

impl Rest {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rest for as long as `wait` takes. It returns only once nobody works on the sleeper's memory any more, and that memory
    /// is as it was.
    pub(crate) fn during<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.lock().resting += 1;
        let result = wait();
        let mut state = self.lock();
        state.resting -= 1;
        // Under the lock: whoever is woken beside this thread needs it as well.
        while let Some(undo) = state.undo.pop() {
            undo();
        }
        result
    }

    /// Do `work` if all of the guest's `threads` rest; the first that is woken undoes it, by what it returned, and the others
    /// go on behind that. Works of one rest are undone in reverse. Whether it was done: not all may rest.
    pub fn while_all(
        &self,
        threads: impl FnOnce() -> usize,
        work: impl FnOnce() -> Option<Undo>,
    ) -> bool {
        let mut state = self.lock();
        // Counted under the lock: with all at rest, none is there to start another.
        let all = state.resting > 0 && state.resting == threads();
        if all {
            state.undo.extend(work());
        }
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn no_work_while_a_thread_runs() {
        let rest = Rest::default();
        assert!(!rest.while_all(|| 0, || None));
        assert!(!rest.while_all(|| 1, || None));
        rest.during(|| {
            assert!(!rest.while_all(|| 2, || None));
            assert!(rest.while_all(|| 1, || None));
            assert!(rest.while_all(|| 1, || None), "nothing is to be undone");
        });
        assert!(!rest.while_all(|| 1, || None));
    }

    #[test]
    fn works_are_undone_once_and_in_reverse() {
        let (rest, undone) = (Rest::default(), Arc::new(Mutex::new(Vec::new())));
        let work = |name: u32| {
            let undone = Arc::clone(&undone);
            let undo: Undo = Box::new(move || undone.lock().unwrap().push(name));
            Some(undo)
        };
        for name in [1, 3] {
            rest.during(|| {
                assert!(rest.while_all(|| 1, || work(name)));
                assert!(rest.while_all(|| 1, || work(name + 1)));
                assert_eq!(undone.lock().unwrap().len(), name as usize - 1);
            });
        }
        assert_eq!(*undone.lock().unwrap(), [2, 1, 4, 3]);
    }

    #[test]
    fn woken_threads_go_on_behind_the_work_and_its_undoing() {
        let rest = Rest::default();
        let (worked, undone) = (AtomicBool::new(false), Arc::new(AtomicBool::new(false)));
        let (asleep, is_asleep) = channel();
        let (wakes, woken): (Vec<_>, Vec<_>) = (0..2).map(|_| channel::<()>()).unzip();
        std::thread::scope(|scope| {
            let sleepers: Vec<_> = woken
                .into_iter()
                .map(|woken| {
                    let (asleep, undone) = (asleep.clone(), Arc::clone(&undone));
                    let (rest, worked) = (&rest, &worked);
                    scope.spawn(move || {
                        rest.during(|| {
                            asleep.send(()).unwrap();
                            woken.recv().unwrap();
                        });
                        worked.load(Ordering::SeqCst) && undone.load(Ordering::SeqCst)
                    })
                })
                .collect();
            for _ in 0..2 {
                is_asleep.recv().unwrap();
            }
            let done = rest.while_all(
                || 2,
                || {
                    for wake in &wakes {
                        wake.send(()).unwrap();
                    }
                    std::thread::sleep(Duration::from_millis(20));
                    worked.store(true, Ordering::SeqCst);
                    let undone = Arc::clone(&undone);
                    Some(Box::new(move || {
                        std::thread::sleep(Duration::from_millis(20));
                        undone.store(true, Ordering::SeqCst);
                    }))
                },
            );
            assert!(done);
            for sleeper in sleepers {
                assert!(sleeper.join().unwrap());
            }
        });
    }
}
