//! Interval timers: setitimer(2) and alarm(2), by one host thread that sleeps until the next is due.

use crate::pending::{Cause, Sent};
use crate::process::Process;
use crate::signal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF. The last two count the CPU time of the hypervisor's threads, which run
/// nothing else.
pub const KINDS: usize = 3;
const SIGNALS: [i32; KINDS] = [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF];
/// The shortest interval that is kept: a guest cannot make this thread spin.
const LEAST: Duration = Duration::from_micros(50);
/// The longest sleep without a look whether the guest still is there.
const MOST: Duration = Duration::from_secs(10);
/// Longest time a timer can be set to.
pub const LIMIT: Duration = Duration::from_secs(100 * 365 * 86_400);

/// One timer: when it is due, in its own clock, and how long from then to the next time.
#[derive(Clone, Copy, Debug, Default)]
struct Armed {
    due: Duration,
    interval: Duration,
}

#[derive(Default)]
struct State {
    armed: [Option<Armed>; KINDS],
    thread: bool,
    stopped: bool,
    /// The thread sends signals of timers that were due.
    sending: bool,
}

/// The timers of one process.
pub struct Timers {
    state: Mutex<State>,
    changed: Condvar,
    began: Instant,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            began: Instant::now(),
        }
    }
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, kind: usize) -> Duration {
        if kind == 0 {
            self.began.elapsed()
        } else {
            cpu_time()
        }
    }

    /// Have the thread end: the process has.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// What is left of a timer, and its interval; zero where it is not armed.
    #[must_use]
    pub fn get(&self, kind: usize) -> (Duration, Duration) {
        let now = self.now(kind);
        self.lock()
            .armed
            .get(kind)
            .copied()
            .flatten()
            .map_or_else(Default::default, |t| left(t, now))
    }

    /// Arm or (with zero) disarm a timer; what it was before. `None`: no thread could be started for it.
    pub fn set(
        process: &Arc<Process>,
        kind: usize,
        first: Duration,
        interval: Duration,
    ) -> Option<(Duration, Duration)> {
        let timers = &process.timers;
        let now = timers.now(kind);
        let mut state = timers.lock();
        // A timer that is disarmed sends nothing any more: what it has begun is with the process before this call ends.
        while state.sending {
            state = (timers.changed.wait(state)).unwrap_or_else(PoisonError::into_inner);
        }
        if !first.is_zero() && !state.thread {
            let weak = Arc::downgrade(process);
            std::thread::Builder::new()
                .stack_size(128 << 10)
                .spawn(move || serve(&weak))
                .ok()?;
            state.thread = true;
        }
        let slot = state.armed.get_mut(kind)?;
        let before = slot.map_or_else(Default::default, |t| left(t, now));
        *slot = (!first.is_zero()).then(|| Armed {
            due: now.saturating_add(first.min(LIMIT)),
            interval: interval.min(LIMIT),
        });
        drop(state);
        timers.changed.notify_all();
        Some(before)
    }

    /// Take the signals of the timers that are due, and tell how long until the next.
    fn expire(&self, state: &mut State) -> (Vec<i32>, Duration) {
        let mut due = Vec::new();
        let mut next = MOST;
        for (kind, signal) in SIGNALS.iter().enumerate() {
            let now = self.now(kind);
            let Some(slot) = state.armed.get_mut(kind) else {
                continue;
            };
            let Some(timer) = slot else { continue };
            if timer.due <= now {
                due.push(*signal);
                if timer.interval.is_zero() {
                    *slot = None;
                    continue;
                }
                // The times that were missed are not made up for.
                timer.due = (timer.due + timer.interval).max(now + LEAST);
            }
            // CPU time passes no faster than the clock does for each thread that runs; one is the common case.
            next = next.min(timer.due.saturating_sub(now));
        }
        (due, next.max(LEAST))
    }
}

fn left(timer: Armed, now: Duration) -> (Duration, Duration) {
    let left = timer.due.saturating_sub(now);
    (left.max(Duration::from_micros(1)), timer.interval)
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is live.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    crate::syscall::time::duration(&time)
}

/// The timers' thread: as long as the process is there.
fn serve(process: &Weak<Process>) {
    while let Some(process) = process.upgrade() {
        let timers = &process.timers;
        let mut state = timers.lock();
        if state.stopped {
            return;
        }
        let (due, next) = timers.expire(&mut state);
        if due.is_empty() {
            drop(timers.changed.wait_timeout(state, next));
            continue;
        }
        state.sending = true;
        drop(state);
        for signal in due {
            let sent = Sent::new(signal.unsigned_abs().into(), Cause::Kernel, 0, 0);
            let _ = signal::send(&process, None, sent);
        }
        timers.lock().sending = false;
        timers.changed.notify_all();
    }
}
