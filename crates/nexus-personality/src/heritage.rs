//! What passes from one program to another: what a child in the making borrows, and what a program that is executed
//! begins with.

use crate::config::{Config, Program};
use crate::files::lock::Locks;
use crate::files::{FileTable, names::Namespace, socket::Net};
use crate::groups::Groups;
use crate::ledger::Ledger;
use crate::machine::Tid;
use crate::process::Process;
use crate::signal::Signals;
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// What a child in the making has of its own (see `syscall::processes`).
#[derive(Default)]
pub(crate) struct Lent {
    pub taken: AtomicBool,
    pub files: Mutex<FileTable>,
    pub cwd: Mutex<Vec<u8>>,
    pub signals: Mutex<Signals>,
    pub umask: AtomicU32,
    pub nice: AtomicI32,
    pub limits: Mutex<[[u64; 2]; 16]>,
}

thread_local! {
    /// Whether the calling host thread serves a child in the making.
    pub(crate) static IN_CHILD: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn in_child() -> bool {
    IN_CHILD.get()
}

/// Do something to another process, of which the calling thread carries no child.
pub(crate) fn with_others<R>(action: impl FnOnce() -> R) -> R {
    let carried = IN_CHILD.replace(false);
    let result = action();
    IN_CHILD.set(carried);
    result
}

/// What a process begins with.
pub struct Heritage {
    pub(crate) config: Config,
    pub(crate) names: Namespace,
    pub(crate) net: Arc<Net>,
    pub(crate) files: FileTable,
    pub(crate) cwd: Vec<u8>,
    pub(crate) umask: u32,
    pub(crate) nice: i32,
    pub(crate) limits: [[u64; 2]; 16],
    pub(crate) number_key: u64,
    pub(crate) locks: Arc<Mutex<Locks>>,
    pub(crate) signals: Signals,
    pub(crate) pid: Tid,
    pub(crate) next_tid: Arc<AtomicI32>,
    pub(crate) alive: Arc<AtomicUsize>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) parent: Weak<Process>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pagemap: Option<Arc<OwnedFd>>,
}

impl Heritage {
    /// What `parent` leaves the program that it executes as process `pid`.
    #[must_use]
    pub fn of(parent: &Arc<Process>, pid: Tid, program: Program) -> Self {
        let own = pid == parent.pid();
        let files = parent.files().inherited();
        let signals = crate::children::ignored(parent);
        let above = if own {
            Weak::clone(&parent.parent)
        } else {
            Arc::downgrade(parent)
        };
        Self::with(parent, pid, program, files, signals, above)
    }

    /// What `parent` leaves the copy of itself that goes on as process `pid`: all but the device.
    #[must_use]
    pub fn copied(parent: &Arc<Process>, pid: Tid) -> Self {
        let program = parent.config.program.clone();
        let files = parent.files().clone();
        let signals = parent.signals().clone();
        Self::with(parent, pid, program, files, signals, Arc::downgrade(parent))
    }

    fn with(
        from: &Process,
        pid: Tid,
        program: Program,
        files: FileTable,
        signals: Signals,
        parent: Weak<Process>,
    ) -> Self {
        Self {
            names: from.names.shared(&program.path),
            net: Arc::clone(&from.net),
            files,
            cwd: from.cwd().clone(),
            umask: from.umask(),
            nice: from.nice().load(Ordering::Relaxed),
            limits: *from.limits(),
            number_key: from.number_key(),
            locks: Arc::clone(&from.locks),
            signals,
            pid,
            next_tid: Arc::clone(&from.next_tid),
            alive: Arc::clone(&from.alive),
            groups: Arc::clone(&from.groups),
            parent,
            ledger: Arc::clone(&from.ledger),
            pagemap: from.pagemap.clone(),
            config: Config {
                program,
                device: None,
                wants_snapshot: false,
                ..from.config.clone()
            },
        }
    }
}
