//! Pseudo-terminals (pty(7)): two ends of a host's socket pair with a line discipline of ours between them.
//!
//! No terminal of the host is involved. Either end's host descriptor is readable when there is something to read, so
//! waiting and epoll are the host's.

use super::discipline::Discipline;
use crate::errno::Errno;
use crate::groups::Groups;
use crate::heritage::with_others;
use crate::machine::Tid;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Terminals of one instance that are open at once.
const MOST: usize = 64;

/// What of a terminal changes.
#[derive(Debug, Default)]
pub struct State {
    pub discipline: Discipline,
    /// `struct winsize`.
    pub window: [u16; 4],
    /// The slave may not be opened yet (unlockpt(3)).
    pub locked: bool,
    /// The session that it controls and the group in its foreground, or 0.
    pub session: Tid,
    pub foreground: Tid,
    masters: usize,
    slaves: usize,
}

/// A terminal.
#[derive(Debug)]
pub struct Terminal {
    pub number: u32,
    master: OwnedFd,
    slave: OwnedFd,
    groups: Weak<Groups>,
    state: Mutex<State>,
}

impl Terminal {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's descriptors of its two ends.
    #[must_use]
    pub fn master_fd(&self) -> RawFd {
        self.master.as_raw_fd()
    }

    #[must_use]
    pub fn slave_fd(&self) -> RawFd {
        self.slave.as_raw_fd()
    }

    /// Send a signal to the group in the foreground.
    pub fn signal(&self, signal: i32) {
        let foreground = self.state().foreground;
        let Some(groups) = self.groups.upgrade().filter(|_| foreground != 0) else {
            return;
        };
        for (_, process) in groups.select(|_, member| member.group == foreground) {
            with_others(|| process.signal(u64::from(signal.unsigned_abs())));
        }
    }
}

/// One end of a terminal, as an open file description holds it.
#[derive(Debug)]
pub struct Side {
    pub terminal: Arc<Terminal>,
    pub is_master: bool,
}

impl Side {
    #[must_use]
    pub fn new(terminal: &Arc<Terminal>, is_master: bool) -> Self {
        let mut state = terminal.state();
        if is_master {
            state.masters += 1;
        } else {
            state.slaves += 1;
        }
        drop(state);
        Self {
            terminal: Arc::clone(terminal),
            is_master,
        }
    }

    /// The host's descriptor of this end, which never blocks.
    #[must_use]
    pub fn host(&self) -> RawFd {
        if self.is_master {
            self.terminal.master_fd()
        } else {
            self.terminal.slave_fd()
        }
    }

    /// Whether nobody has the other end any more.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let state = self.terminal.state();
        (if self.is_master {
            state.slaves
        } else {
            state.masters
        }) == 0
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let mut state = self.terminal.state();
        let count = if self.is_master {
            &mut state.masters
        } else {
            &mut state.slaves
        };
        *count = count.saturating_sub(1);
        let last = *count == 0;
        drop(state);
        if !last {
            return;
        }
        // The other end learns of it; a terminal without a slave stays hung up.
        let how = if self.is_master {
            libc::SHUT_RDWR
        } else {
            libc::SHUT_WR
        };
        // SAFETY: a plain call on a descriptor of ours.
        unsafe { libc::shutdown(self.host(), how) };
        if self.is_master {
            self.terminal.signal(libc::SIGHUP);
        }
    }
}

/// The terminals of one instance, by number.
#[derive(Debug, Default)]
pub struct Terminals(Mutex<BTreeMap<u32, Weak<Terminal>>>);

impl Terminals {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Weak<Terminal>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, terminal| terminal.strong_count() > 0);
        all
    }

    /// A new one; its master end.
    ///
    /// # Errors
    /// ENOSPC at the limit; the host's.
    pub fn make(&self, groups: &Arc<Groups>) -> Result<Side, Errno> {
        let (master, slave) =
            crate::syscall::polling::new_pair(libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
        let mut all = self.lock();
        let number = (0..MOST as u32)
            .find(|n| !all.contains_key(n))
            .ok_or(crate::errno::ENOSPC)?;
        let terminal = Arc::new(Terminal {
            number,
            master,
            slave,
            groups: Arc::downgrade(groups),
            state: Mutex::new(State {
                locked: true,
                ..State::default()
            }),
        });
        all.insert(number, Arc::downgrade(&terminal));
        Ok(Side::new(&terminal, true))
    }

    /// By number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Arc<Terminal>> {
        self.lock().get(&number).and_then(Weak::upgrade)
    }

    /// The one that controls a session.
    #[must_use]
    pub fn of_session(&self, session: Tid) -> Option<Arc<Terminal>> {
        let all: Vec<_> = self.lock().values().filter_map(Weak::upgrade).collect();
        all.into_iter()
            .find(|terminal| terminal.state().session == session)
    }
}
