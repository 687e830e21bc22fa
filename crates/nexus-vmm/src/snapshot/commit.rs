//! A small process that finishes a snapshot: this one, once jailed, may not rename a directory.
//! (unsafe: fork and plain calls in the child.)
//!
//! It does one thing: on one byte, make the prepared directory durable and give it its name; at the end of the
//! pipe without one, remove it.

use super::{BASE, METADATA, PAGES};
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// The files to fill, and the process that names them.
pub struct Pending {
    pub metadata: File,
    pub pages: File,
    order: PipeWriter,
    answer: PipeReader,
}

impl Pending {
    /// Make the temporary directory beside `target` and start the process. Before any thread exists. `base`: the
    /// snapshot whose pages are to be beside the new ones.
    ///
    /// # Errors
    /// The host refuses.
    pub fn new(target: &Path, base: Option<&Path>) -> io::Result<Self> {
        let parent = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let name = target
            .file_name()
            .ok_or(io::ErrorKind::InvalidInput)?
            .to_string_lossy();
        let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
        fs::DirBuilder::new().mode(0o755).create(&temporary)?;
        let create = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(temporary.join(name))
        };
        let (metadata, pages) = (create(METADATA)?, create(PAGES)?);
        if let Some(base) = base {
            fs::hard_link(base.join(PAGES), temporary.join(BASE))?;
        }
        let (child_order, order) = io::pipe()?;
        let (answer, child_answer) = io::pipe()?;
        // SAFETY: no other thread exists, so the child may allocate and use the library as it likes.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                drop((order, answer, metadata, pages));
                let status = child(child_order, child_answer, &temporary, target, parent);
                // SAFETY: nothing of the parent's is to be run at exit.
                unsafe { libc::_exit(status) }
            }
            _ => Ok(Self {
                metadata,
                pages,
                order,
                answer,
            }),
        }
    }

    /// Make it durable and visible under its name.
    ///
    /// # Errors
    /// The process could not.
    pub fn commit(mut self) -> Result<(), String> {
        let failed = |e: io::Error| format!("finishing the snapshot: {e}");
        self.metadata.sync_all().map_err(failed)?;
        self.pages.sync_all().map_err(failed)?;
        self.order.write_all(b"c").map_err(failed)?;
        let mut answer = String::new();
        self.answer.read_to_string(&mut answer).map_err(failed)?;
        match answer.as_str() {
            "ok" => Ok(()),
            "" => Err("the process that finishes a snapshot is gone".into()),
            other => Err(format!("naming the snapshot: {other}")),
        }
    }
}

fn child(
    mut order: PipeReader,
    mut answer: PipeWriter,
    temporary: &Path,
    target: &Path,
    parent: &Path,
) -> i32 {
    // The guest's output and the report must not be held open by this process.
    // SAFETY: descriptors 0 to 2 are closed on purpose; nothing prints here.
    unsafe {
        libc::close(0);
        libc::close(1);
        libc::close(2);
    }
    if crate::jail::privileges::close_others(&[order.as_raw_fd(), answer.as_raw_fd()]).is_err() {
        return 1;
    }
    let mut byte = [0];
    if order.read_exact(&mut byte).is_err() || byte != *b"c" {
        remove(temporary);
        return 1;
    }
    let result = publish(temporary, target, parent);
    let text = match &result {
        Ok(()) => "ok".to_owned(),
        Err(error) => {
            remove(temporary);
            error.to_string()
        }
    };
    let _ = answer.write_all(text.as_bytes());
    i32::from(result.is_err())
}

fn publish(temporary: &Path, target: &Path, parent: &Path) -> io::Result<()> {
    File::open(temporary)?.sync_all()?;
    fs::rename(temporary, target)?;
    File::open(parent)?.sync_all()
}

fn remove(temporary: &Path) {
    for name in [METADATA, PAGES, BASE] {
        let _ = fs::remove_file(temporary.join(name));
    }
    let _ = fs::remove_dir(temporary);
}
