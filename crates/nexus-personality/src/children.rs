//! Processes that a guest has started: each in a microVM of its own beside this one, in the same hypervisor.

use crate::errno::{EAGAIN, Errno};
use crate::groups::Groups;
use crate::machine::Tid;
use crate::pending::Sent;
use crate::process::Process;
use crate::signal::{self, Action, Signals};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Microvms beside the first one that live at once, over all generations.
pub const MOST_ALIVE: usize = 32;
/// Children of one process that nobody has waited for yet.
const MOST_WAITED_FOR: usize = 1024;
const SA_NOCLDWAIT: u64 = 2;

/// A child that has ended, or not yet.
struct Child {
    /// Wait status, and the group that it was in.
    ended: Option<(i32, Tid)>,
}

/// Whom a wait is for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    Any,
    One(Tid),
    Group(Tid),
}

/// One process's children.
#[derive(Default)]
pub struct Children(Mutex<BTreeMap<Tid, Child>>);

/// What a wait found.
pub enum Found {
    /// This one has ended, with this wait status.
    Ended(Tid, i32),
    /// None yet.
    Running,
    /// There is none that could.
    Nobody,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Tid, Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Note one that is about to run.
    ///
    /// # Errors
    /// EAGAIN: too many.
    pub fn add(&self, pid: Tid) -> Result<(), Errno> {
        let mut children = self.lock();
        if children.len() >= MOST_WAITED_FOR {
            return Err(EAGAIN);
        }
        children.insert(pid, Child { ended: None });
        Ok(())
    }

    /// It could not be made.
    pub fn forget(&self, pid: Tid) {
        self.lock().remove(&pid);
    }

    /// Whether there is such a child, ended or not.
    #[must_use]
    pub fn has(&self, pid: Tid) -> bool {
        self.lock().contains_key(&pid)
    }

    /// The first of those wanted that has ended; taken out of the table unless it is to `stay`.
    pub fn find(&self, wanted: Wanted, groups: &Groups, stay: bool) -> Found {
        let mut children = self.lock();
        let is_wanted = |pid: Tid, child: &Child| match (wanted, child.ended) {
            (Wanted::Any, _) => true,
            (Wanted::One(one), _) => one == pid,
            (Wanted::Group(group), Some((_, was))) => was == group,
            (Wanted::Group(group), None) => groups.get(pid).is_ok_and(|m| m.group == group),
        };
        let mut found = Found::Nobody;
        for (pid, child) in children.iter().filter(|(pid, c)| is_wanted(**pid, c)) {
            found = Found::Running;
            if let Some((status, _)) = child.ended {
                found = Found::Ended(*pid, status);
                break;
            }
        }
        if let Found::Ended(pid, _) = found
            && !stay
        {
            children.remove(&pid);
        }
        found
    }
}

/// A place among the microVMs that may live, given back when dropped.
pub struct Place(Arc<AtomicUsize>);

impl Place {
    /// # Errors
    /// EAGAIN: all are taken.
    pub fn take(alive: &Arc<AtomicUsize>) -> Result<Self, Errno> {
        let place = Self(Arc::clone(alive));
        if alive.fetch_add(1, Ordering::SeqCst) >= MOST_ALIVE {
            return Err(EAGAIN);
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A child has ended: who waits for it learns of it.
pub fn ended(parent: &Process, pid: Tid, status: i32) {
    parent.locks().records.ended(pid);
    let group = parent.groups.leave(pid);
    let chld = libc::SIGCHLD as u64;
    let action = parent.signals().action(chld);
    // Who ignores the signal by name wants no zombies either.
    let forget = action.handler == 1 || action.flags & SA_NOCLDWAIT != 0;
    {
        let mut children = parent.children.lock();
        if forget {
            children.remove(&pid);
        } else if let Some(child) = children.get_mut(&pid) {
            child.ended = Some((status, group));
        }
    }
    let _ = signal::send(parent, None, about(pid, status));
    // Whoever waits looks again.
    for tid in parent.tids() {
        parent.machine.kick(tid);
    }
}

/// SIGCHLD with what waitid(2) tells as well.
#[must_use]
pub fn about(pid: Tid, status: i32) -> Sent {
    let (code, value) = if status & 0x7f == 0 {
        (1u64, status >> 8 & 0xff)
    } else {
        (2, status & 0x7f)
    };
    let sender = u64::from(pid.cast_unsigned()) | crate::syscall::info::UID << 32;
    Sent {
        signal: libc::SIGCHLD as u64,
        words: [
            libc::SIGCHLD as u64,
            code,
            sender,
            u64::from(value.cast_unsigned()),
        ],
    }
}

/// Dispositions of a program that is executed: signals go on being ignored; handlers do not outlive their code.
#[must_use]
pub fn ignored(process: &Process) -> Signals {
    let signals = process.signals();
    let mut left = Signals::default();
    for signal in (1..=signal::LAST).filter(|s| signals.action(*s).handler == 1) {
        let action = Action {
            handler: 1,
            ..Action::default()
        };
        left.set_action(signal, action);
    }
    left
}
