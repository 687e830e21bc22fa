//! What of the host's memory a guest is promised, and what it uses: one account for a process and its children.
//!
//! Two sums are kept exactly: private memory that the guest may touch (*committed*), and what the host keeps for it outside of its
//! private memory (*held*: shared memory without a file, pipes, sockets). As long as both together fit the limit, no access
//! can exceed it. Beyond that a guest is overcommitted, as programs are that reserve much and touch little: then what it asks
//! for must fit what it does not use yet, reservations may exceed it, and the hypervisor looks at what is really used, the
//! sooner the less is left. What other threads were granted a moment ago counts as used even where it is not yet: several that
//! ask at once are not all given the same room.

use crate::errno::{ENOMEM, Errno};
use crate::window::PAGE;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// What may be committed beyond the limit, in bytes. Nothing of it need ever be touched; read once, it costs page tables, 1/512.
const OVERCOMMIT: u64 = 8 << 30;
/// Bytes that a guest could touch in a millisecond, at most: 16 GiB/s, twice what two CPUs zero with huge pages.
const TOUCHED_PER_MS: u64 = 16 << 20;
/// Between looks, in milliseconds: while there is next to nothing left, and while there is plenty.
const LOOKS: (u64, u64) = (1, 100);
/// The same while the guest is not overcommitted: then only the hypervisor's own tables can grow, and each has its limit.
const SELDOM: Duration = Duration::from_secs(1);
/// For how long what a thread of an overcommitted guest was granted counts as used for the others, whether it is or not. Who asks
/// for the last room while others do waits as long.
const GRACE: Duration = Duration::from_millis(200);

/// The account.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    committed: AtomicU64,
    held: AtomicU64,
    /// Serialises grants, so that what is asked and what is promised are one step.
    recent: Mutex<Vec<Recent>>,
    refused: AtomicBool,
    statm: OwnedFd,
}

/// The last grant to a thread while the guest was overcommitted.
#[derive(Debug)]
struct Recent {
    thread: ThreadId,
    bytes: u64,
    granted: Instant,
}

/// Bytes of the hypervisor's own memory that a guest takes, until it is dropped.
#[derive(Debug)]
pub struct Lent {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.ledger.give_back(self.bytes);
    }
}

/// Bytes that the host holds for the guest, until it is dropped.
#[derive(Debug)]
pub struct Held {
    ledger: Arc<Ledger>,
    bytes: AtomicU64,
}

impl Ledger {
    /// An empty account. Opens the hypervisor's own use of memory, before the jail.
    ///
    /// # Errors
    /// There is no /proc.
    pub fn new(limit: u64) -> io::Result<Arc<Self>> {
        // SAFETY: a static name; the result is checked.
        let statm = unsafe {
            libc::open(
                c"/proc/self/statm".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        if statm < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Arc::new(Self {
            limit,
            committed: AtomicU64::new(0),
            held: AtomicU64::new(0),
            recent: Mutex::default(),
            refused: AtomicBool::new(false),
            // SAFETY: a fresh descriptor that nobody else owns.
            statm: unsafe { OwnedFd::from_raw_fd(statm) },
        }))
    }

    /// In bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is promised in all, in bytes.
    pub(crate) fn promised(&self) -> u64 {
        let committed = self.committed.load(Ordering::Relaxed);
        committed.saturating_add(self.held.load(Ordering::Relaxed))
    }

    /// Whether more is promised than the limit allows to be used.
    #[must_use]
    pub fn overcommitted(&self) -> bool {
        self.promised() > self.limit
    }

    /// Whether there is room for `more` bytes that the guest will use; the lock under which to promise them.
    fn admit(&self, more: u64) -> Result<MutexGuard<'_, Vec<Recent>>, Errno> {
        let (asked, thread) = (Instant::now(), std::thread::current().id());
        loop {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if more == 0 || self.promised().saturating_add(more) <= self.limit {
                return Ok(recent);
            }
            let after = self.used().saturating_add(more);
            if after > self.limit {
                self.refused.store(true, Ordering::Relaxed);
                return Err(ENOMEM);
            }
            recent.retain(|r| r.thread != thread && r.granted.elapsed() < GRACE);
            let others = recent.iter().map(|r| r.bytes).sum();
            // Who has waited once is served: others' grants meanwhile do not starve it.
            if after.saturating_add(others) <= self.limit || asked.elapsed() >= GRACE {
                recent.push(Recent {
                    thread,
                    bytes: more,
                    granted: Instant::now(),
                });
                return Ok(recent);
            }
            drop(recent);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether there is room now for `more` bytes, promised already, that are about to be used.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn room(&self, more: u64) -> Result<(), Errno> {
        self.admit(more).map(drop)
    }

    /// Promise private memory that the guest asks for and will use.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn grant(&self, bytes: u64) -> Result<(), Errno> {
        let _together = self.admit(bytes)?;
        self.commit(bytes)
    }

    /// Promise private memory that may never be used: a reservation.
    ///
    /// # Errors
    /// ENOMEM, far beyond the limit.
    pub fn commit(&self, bytes: u64) -> Result<(), Errno> {
        let before = self.committed.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit.saturating_add(OVERCOMMIT) {
            self.committed.fetch_sub(bytes, Ordering::Relaxed);
            self.refused.store(true, Ordering::Relaxed);
            return Err(ENOMEM);
        }
        Ok(())
    }

    /// Promise what is there already: a snapshot's.
    pub fn note(&self, bytes: u64) {
        self.committed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Private memory is unmapped.
    pub fn give_back(&self, bytes: u64) {
        self.committed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Promise memory that the hypervisor itself takes for the guest, until what is returned is dropped.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn lend(self: &Arc<Self>, bytes: u64) -> Result<Lent, Errno> {
        self.grant(bytes)?;
        Ok(Lent {
            ledger: Arc::clone(self),
            bytes,
        })
    }

    /// Have the host hold memory.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Result<Held, Errno> {
        let held = Held {
            ledger: Arc::clone(self),
            bytes: AtomicU64::new(0),
        };
        held.resize(bytes)?;
        Ok(held)
    }

    /// Memory in use, in bytes: what the host counts as private to the hypervisor, its own included, and what it holds.
    #[must_use]
    pub fn used(&self) -> u64 {
        let private = self.private_bytes().unwrap_or(0);
        private.saturating_add(self.held.load(Ordering::Relaxed))
    }

    /// Private memory in use, in bytes, the hypervisor's own included.
    ///
    /// # Errors
    /// The host's.
    pub fn private_bytes(&self) -> io::Result<u64> {
        let mut text = [0u8; 128];
        // SAFETY: a live buffer of the length given.
        let length = unsafe {
            libc::pread(
                self.statm.as_raw_fd(),
                text.as_mut_ptr().cast(),
                text.len(),
                0,
            )
        };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        let mut fields = text
            .split_whitespace()
            .skip(1)
            .map_while(|f| f.parse::<u64>().ok());
        let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        Ok(resident.saturating_sub(shared) * PAGE)
    }

    /// Whether what is used exceeds the limit by more than `slack`; else when to look again.
    ///
    /// # Errors
    /// The bytes used: the guest has to end.
    pub fn look(&self, slack: u64) -> Result<Duration, u64> {
        let used = self.used();
        let left = (self.limit.saturating_add(slack))
            .checked_sub(used)
            .ok_or(used)?;
        if !self.overcommitted() {
            return Ok(SELDOM);
        }
        let pause = (left / TOUCHED_PER_MS).clamp(LOOKS.0, LOOKS.1);
        Ok(Duration::from_millis(pause))
    }

    /// Whether the guest was ever refused memory.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Hold this much instead.
    ///
    /// # Errors
    /// ENOMEM; it stays as it was.
    pub fn resize(&self, bytes: u64) -> Result<(), Errno> {
        let old = self.bytes.load(Ordering::Relaxed);
        if let Some(more) = bytes.checked_sub(old) {
            let _together = self.ledger.admit(more)?;
            self.ledger.held.fetch_add(more, Ordering::Relaxed);
        } else {
            self.ledger.held.fetch_sub(old - bytes, Ordering::Relaxed);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.ledger.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_is_promised_within_the_limit_can_never_exceed_it() {
        let ledger = Ledger::new(4096 * MIB).unwrap();
        ledger.commit(4000 * MIB).unwrap();
        assert!(!ledger.overcommitted());
        assert_eq!(ledger.look(0), Ok(SELDOM));
        // Asked for beyond: nothing is used of it yet, so it may be had, and is watched.
        ledger.grant(200 * MIB).unwrap();
        assert!(ledger.overcommitted());
        assert_eq!(ledger.look(0), Ok(Duration::from_millis(100)));
        ledger.give_back(200 * MIB);
        assert!(!ledger.overcommitted());
    }

    #[test]
    fn what_is_held_counts_as_used() {
        let ledger = Ledger::new(2048 * MIB).unwrap();
        let held = ledger.hold(1500 * MIB).unwrap();
        assert_eq!(ledger.hold(600 * MIB).unwrap_err(), ENOMEM);
        assert!(ledger.refused());
        held.resize(100 * MIB).unwrap();
        let other = ledger.hold(600 * MIB).unwrap();
        assert_eq!(held.resize(1500 * MIB), Err(ENOMEM));
        drop((held, other));
        assert_eq!(ledger.promised(), 0);
    }

    #[test]
    fn the_less_is_left_the_sooner_it_is_looked_at() {
        let ledger = Ledger::new(PAGE).unwrap();
        ledger.note(64 * MIB);
        assert!(ledger.look(0).is_err(), "this test alone uses more");
        let used = ledger.used();
        let soon = ledger.look(used + 40 * MIB).unwrap();
        assert!(soon < Duration::from_millis(30), "{soon:?}");
    }

    #[test]
    fn what_was_granted_counts_before_it_is_used_for_a_while() {
        let ledger = Ledger::new(2048 * MIB).unwrap();
        ledger.commit(4096 * MIB).unwrap();
        // Of many that ask at once, three are served at once, for which there is room; the others have waited.
        let served = std::thread::scope(|scope| {
            let ask = || {
                let asked = Instant::now();
                ledger.admit(600 * MIB).map(drop).unwrap();
                (asked, Instant::now())
            };
            let all: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            all.into_iter()
                .map(|one| one.join().unwrap())
                .collect::<Vec<_>>()
        });
        let mut at_once: Vec<_> = served
            .into_iter()
            .filter(|(asked, got)| *got - *asked < GRACE)
            .collect();
        at_once.sort_unstable();
        assert!(!at_once.is_empty());
        for (four, (asked, _)) in at_once.windows(4).zip(&at_once) {
            let until = four.iter().map(|(_, got)| *got).max().unwrap();
            assert!(until - *asked >= GRACE, "{four:?}");
        }
        // One that asks again and again waits for nobody.
        let ledger = Ledger::new(2048 * MIB).unwrap();
        ledger.commit(4096 * MIB).unwrap();
        let asked = Instant::now();
        for _ in 0..8 {
            ledger.grant(600 * MIB).unwrap();
        }
        assert!(asked.elapsed() < GRACE);
    }

    #[test]
    fn what_is_lent_is_promised() {
        let ledger = Ledger::new(2048 * MIB).unwrap();
        let lent = ledger.lend(MIB).unwrap();
        assert_eq!(ledger.promised(), MIB);
        drop(lent);
        assert_eq!(ledger.promised(), 0);
    }

    #[test]
    fn reservations_have_an_end() {
        let ledger = Ledger::new(64 * MIB).unwrap();
        ledger.commit(OVERCOMMIT).unwrap();
        assert_eq!(ledger.commit(65 * MIB), Err(ENOMEM));
        ledger.commit(64 * MIB).unwrap();
    }
}
