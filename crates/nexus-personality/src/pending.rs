//! Signals that were sent and not yet taken, with what they carry.

use crate::errno::{EAGAIN, Errno};
use crate::signal::LAST;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The first of the real-time signals, of which each one sent is kept.
const FIRST_QUEUED: u64 = 32;
/// Most real-time signals kept for one receiver.
const MOST: usize = 1024;
/// Signals that the instruction itself causes: delivered before all others, as Linux does.
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV as u64)
    | bit(libc::SIGBUS as u64)
    | bit(libc::SIGILL as u64)
    | bit(libc::SIGTRAP as u64)
    | bit(libc::SIGFPE as u64)
    | bit(libc::SIGSYS as u64);

/// The signal's place in a mask.
#[must_use]
pub const fn bit(signal: u64) -> u64 {
    1 << (signal.wrapping_sub(1) & 63)
}

/// Why a signal was sent (`si_code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// kill(2).
    User,
    /// tkill(2), tgkill(2).
    Thread,
    /// A timer, a broken pipe, a terminal.
    Kernel,
}

/// A signal and the first four words of its `siginfo_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// 1 to 64.
    pub signal: u64,
    /// Number and error; code; sender's process and user; value.
    pub words: [u64; 4],
}

impl Sent {
    /// By the guest itself (`pid`), or by nobody in it.
    #[must_use]
    pub fn new(signal: u64, cause: Cause, pid: i32, uid: u64) -> Self {
        let (code, sender) = match cause {
            Cause::User => (0, u64::from(pid.cast_unsigned()) | uid << 32),
            Cause::Thread => (-6i32, u64::from(pid.cast_unsigned()) | uid << 32),
            Cause::Kernel => (0x80, 0),
        };
        let code = u64::from(code.cast_unsigned());
        Self {
            signal,
            words: [signal, code, sender, 0],
        }
    }

    /// As a whole `siginfo_t`.
    #[must_use]
    pub fn info(&self) -> [u64; 16] {
        let mut info = [0; 16];
        for (to, from) in info.iter_mut().zip(self.words) {
            *to = from;
        }
        info
    }
}

/// What one thread, or the process as a whole, has yet to take.
#[derive(Default)]
pub struct Pending {
    /// The queue's signals, to look at without the lock.
    mask: AtomicU64,
    queue: Mutex<VecDeque<Sent>>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Sent>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bit n-1 for signal n.
    #[must_use]
    pub fn mask(&self) -> u64 {
        self.mask.load(Ordering::Acquire)
    }

    /// Add one. A standard signal that is there already is not added again.
    ///
    /// # Errors
    /// EAGAIN: too many real-time signals wait.
    pub fn push(&self, sent: Sent) -> Result<(), Errno> {
        let mut queue = self.lock();
        if sent.signal < FIRST_QUEUED && self.mask() & bit(sent.signal) != 0 {
            return Ok(());
        }
        // Standard signals are few, and must come through: SIGKILL is one.
        if sent.signal >= FIRST_QUEUED && queue.len() >= MOST {
            return Err(EAGAIN);
        }
        queue.push_back(sent);
        self.mask.fetch_or(bit(sent.signal), Ordering::AcqRel);
        Ok(())
    }

    /// All of them as they came, for a snapshot.
    #[must_use]
    pub fn list(&self) -> Vec<Sent> {
        self.lock().iter().copied().collect()
    }

    /// Those of a snapshot, of which more than would have been kept are dropped.
    #[must_use]
    pub fn of(list: &[Sent]) -> Self {
        let pending = Self::default();
        for sent in list {
            pending.restore(*sent);
        }
        pending
    }

    /// Add one of a snapshot, if it is possible.
    pub fn restore(&self, sent: Sent) {
        if (1..=LAST).contains(&sent.signal) {
            let _ = self.push(sent);
        }
    }

    /// Take the first of `set` in Linux's order: faults, then by number, equal ones as they came.
    pub fn take(&self, set: u64) -> Option<Sent> {
        if self.mask() & set == 0 {
            return None;
        }
        let mut queue = self.lock();
        let found = self.mask() & set;
        let first = if found & SYNCHRONOUS == 0 {
            found
        } else {
            found & SYNCHRONOUS
        };
        if first == 0 {
            return None;
        }
        let signal = u64::from(first.trailing_zeros()) + 1;
        let at = queue.iter().position(|s| s.signal == signal)?;
        let sent = queue.remove(at);
        if !queue.iter().any(|s| s.signal == signal) {
            self.mask.fetch_and(!bit(signal), Ordering::AcqRel);
        }
        sent
    }

    /// Forget all of `set`.
    pub fn discard(&self, set: u64) {
        if self.mask() & set != 0 {
            let mut queue = self.lock();
            queue.retain(|s| bit(s.signal) & set == 0);
            self.mask.fetch_and(!set, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sent(signal: u64) -> Sent {
        Sent::new(signal, Cause::User, 1, 0)
    }

    #[test]
    fn standard_signals_are_kept_once_and_queued_ones_each() {
        let pending = Pending::default();
        for signal in [10, 10, 34, 34] {
            pending.push(sent(signal)).unwrap();
        }
        let taken: Vec<u64> =
            std::iter::from_fn(|| pending.take(u64::MAX).map(|s| s.signal)).collect();
        assert_eq!(taken, [10, 34, 34]);
        assert_eq!(pending.mask(), 0);
    }

    #[test]
    fn faults_come_first_and_blocked_ones_stay() {
        let pending = Pending::default();
        for signal in [2, 11, 40] {
            pending.push(sent(signal)).unwrap();
        }
        assert_eq!(pending.take(u64::MAX).unwrap().signal, 11);
        assert_eq!(pending.take(!bit(2)).unwrap().signal, 40);
        assert!(pending.take(!bit(2)).is_none());
        assert_eq!(pending.mask(), bit(2));
    }

    #[test]
    fn a_full_queue_refuses() {
        let pending = Pending::default();
        for _ in 0..MOST {
            pending.push(sent(34)).unwrap();
        }
        assert_eq!(pending.push(sent(34)), Err(EAGAIN));
        pending.push(sent(9)).unwrap();
        assert_eq!(pending.take(u64::MAX).unwrap().signal, 9);
    }
}
