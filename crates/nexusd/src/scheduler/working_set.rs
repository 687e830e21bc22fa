//! What of its snapshot a function touches up to its first result, recorded once by its first clone: the VMMs after it
//! make these pages present ahead of need. A hint: without it, or with a wrong one, a start is slower and nothing else.

use crate::process::child::Child;
use std::io;
use std::path::{Path, PathBuf};

/// Stretches taken from a VMM; more are dropped.
const MAX_RANGES: usize = 4096;

/// One clone's record on its way to the disk.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    /// The VMM that was asked.
    asked: Option<i32>,
    /// First page and count of pages.
    ranges: Vec<(u64, u64)>,
}

impl Recording {
    /// To be kept at `path`; `None` where one is.
    pub fn of(path: &Path) -> Option<Self> {
        (!path.exists()).then(|| Self {
            path: path.to_owned(),
            asked: None,
            ranges: Vec::new(),
        })
    }

    /// Have the VMM report: the function has given its first result. By a signal that does nothing to a process which
    /// does not listen for it: a hint is no reason to end an instance.
    pub fn ask(&mut self, vmm: &Child) {
        if self.asked.is_none() {
            self.asked = Some(vmm.pid());
            vmm.signal(libc::SIGURG);
        }
    }

    /// One line of the report. `true`: it was the last, and is kept.
    pub fn take(&mut self, ranges: &[(u64, u64)], last: bool) -> bool {
        let room = MAX_RANGES.saturating_sub(self.ranges.len());
        self.ranges.extend(ranges.iter().take(room));
        let (true, Some(pid)) = (last, self.asked) else {
            return false;
        };
        let (path, ranges) = (self.path.clone(), std::mem::take(&mut self.ranges));
        tokio::task::spawn_blocking(move || match keep(&path, pid, &ranges) {
            Ok(()) => {
                tracing::debug!(path = %path.display(), stretches = ranges.len(), "a working set was recorded")
            }
            // The snapshot may be gone by now.
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a working set was not kept")
            }
        });
        true
    }
}

fn keep(path: &Path, vmm: i32, ranges: &[(u64, u64)]) -> io::Result<()> {
    let text = serde_json::to_vec(ranges)?;
    // Two clones may report at once.
    let temporary = path.with_extension(format!("{vmm}.tmp"));
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path)
}
