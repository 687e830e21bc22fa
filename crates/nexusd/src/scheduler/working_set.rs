//! What of its snapshot a function touches up to its first result, recorded once by its first clone: the VMMs after it
//! make these pages present ahead of need. A hint: without it, or with a wrong one, a start is slower and nothing else.

use crate::process::child::Child;
use crate::process::shells::Renewal;
use serde::Serialize;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Stretches taken from a VMM; more are dropped.
const MAX_RANGES: usize = 4096;

/// Those that are being made.
#[derive(Debug)]
pub struct Recordings {
    open: Mutex<HashSet<PathBuf>>,
    /// Shells that are made once one is kept are better.
    renewal: Arc<Renewal>,
}

/// One clone's record on its way to the disk.
#[derive(Debug)]
pub struct Recording {
    all: Arc<Recordings>,
    path: PathBuf,
    /// The VMM that was asked.
    asked: Option<i32>,
    set: Set,
}

/// Stretches: first page and count of pages.
#[derive(Debug, Default, Serialize)]
struct Set {
    written: Vec<(u64, u64)>,
    read: Vec<(u64, u64)>,
    changed: Vec<(u64, u64)>,
}

impl Recordings {
    pub fn new(renewal: &Arc<Renewal>) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            renewal: Arc::clone(renewal),
        })
    }

    fn open(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One to be kept at `path`; `None` where one is, or is being made.
    pub fn begin(self: &Arc<Self>, path: &Path) -> Option<Recording> {
        let free = !path.exists() && self.open().insert(path.to_owned());
        free.then(|| Recording {
            all: Arc::clone(self),
            path: path.to_owned(),
            asked: None,
            set: Set::default(),
        })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.all.open().remove(&self.path);
    }
}

impl Recording {
    /// Have the VMM report: the function has given its first result. By a signal that does nothing to a process which
    /// does not listen for it: a hint is no reason to end an instance.
    pub fn ask(&mut self, vmm: &Child) {
        if self.asked.is_none() {
            self.asked = Some(vmm.pid());
            vmm.signal(libc::SIGURG);
        }
    }

    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// One line of the report: more of what is written, read, changed. `true`: it was the last, and is kept.
    pub fn take(&mut self, parts: [&[(u64, u64)]; 3], last: bool) -> bool {
        let set = &mut self.set;
        let kept = [&mut set.written, &mut set.read, &mut set.changed];
        for (kept, more) in kept.into_iter().zip(parts) {
            let room = MAX_RANGES.saturating_sub(kept.len());
            kept.extend(more.iter().take(room));
        }
        let (true, Some(pid)) = (last, self.asked) else {
            return false;
        };
        let (path, set) = (self.path.clone(), std::mem::take(&mut self.set));
        let all = Arc::clone(&self.all);
        tokio::task::spawn_blocking(move || match keep(&path, pid, &set) {
            Ok(()) => {
                all.renewal.ask();
                tracing::debug!(path = %path.display(), written = set.written.len(), read = set.read.len(), "a working set was recorded")
            }
            // The snapshot may be gone by now.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a working set was not kept")
            }
        });
        true
    }
}

fn keep(path: &Path, vmm: i32, set: &Set) -> io::Result<()> {
    let text = serde_json::to_vec(set)?;
    // Two clones may report at once.
    let temporary = path.with_extension(format!("{vmm}.tmp"));
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}
