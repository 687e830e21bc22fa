//! The node's snapshots (docs/snapshots.md): made in `pending`, kept in `content` under the digest of what is in them.
//!
//! A VMM writes into a directory of `pending` that is its own, by descriptors that it opened before its jail closed. Once
//! it has ended, the snapshot is verified and moved into `content`, by one rename, read-only. Nothing changes there
//! afterwards: a snapshot is there whole, or not at all.

mod admit;

use anyhow::Context;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names of a snapshot's files.
const METADATA: &str = "metadata";
const PAGES: &str = "pages";
const BASE: &str = "base";
/// Bases that no function rests on, kept for functions to come.
const SPARE_BASES: usize = 4;

/// The directory `snapshots/` of the state.
#[derive(Debug)]
pub struct Snapshots {
    directory: PathBuf,
    /// How often each digest is held by something that is not in the registry yet.
    held: Mutex<HashMap<String, usize>>,
    hashes: admit::Hashes,
    next: AtomicU64,
}

/// A directory for one VMM to write its snapshot to; removed with this.
#[derive(Debug)]
pub struct Pending(PathBuf);

impl Pending {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "cannot delete a snapshot in the making");
            }
            _ => {}
        }
    }
}

/// A snapshot that is kept, at least as long as this lives.
#[derive(Debug)]
pub struct Kept {
    pub path: PathBuf,
    digest: String,
    snapshots: Arc<Snapshots>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut held = self.snapshots.held();
        if let Some(count) = held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.digest);
            }
        }
    }
}

impl Snapshots {
    /// Open the directories, made where they are missing. What was in the making is deleted.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn open(state: &Path) -> anyhow::Result<Arc<Self>> {
        let snapshots = Self {
            directory: state.join("snapshots"),
            held: Mutex::default(),
            hashes: admit::Hashes::default(),
            next: AtomicU64::new(1),
        };
        let pending = snapshots.part("pending");
        if pending.exists() {
            fs::remove_dir_all(&pending)
                .with_context(|| format!("cannot empty {}", pending.display()))?;
        }
        for name in ["pending", "content", "bases", "working-sets"] {
            let part = snapshots.part(name);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        Ok(Arc::new(snapshots))
    }

    fn part(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the snapshot with this digest is, if it is kept.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.part("content").join(digest)
    }

    /// Where what is known of a snapshot's use is noted: a hint, and so no part of it.
    pub fn working_set(&self, snapshot: &Path) -> PathBuf {
        self.part("working-sets")
            .join(snapshot.file_name().unwrap_or_default())
    }

    /// A directory for one VMM.
    ///
    /// # Errors
    /// The disk's.
    pub fn pending(&self) -> io::Result<Pending> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.part("pending").join(number.to_string());
        fs::create_dir(&path)?;
        Ok(Pending(path))
    }

    /// Put the base's pages beside those in the making: a second name of the same file, so that all map the same
    /// memory, and deleting either leaves the other whole.
    ///
    /// # Errors
    /// The disk's.
    pub fn rest_on(&self, pending: &Pending, base: &Path) -> io::Result<()> {
        fs::hard_link(base.join(PAGES), pending.0.join(BASE))
    }

    /// Hold what is kept at `path` against collection.
    pub fn hold(self: &Arc<Self>, path: &Path) -> Kept {
        let digest = name(path);
        *self.held().entry(digest.clone()).or_default() += 1;
        Kept {
            path: path.to_owned(),
            digest,
            snapshots: Arc::clone(self),
        }
    }

    /// Take a verified snapshot in. Once this returns it survives a crash. Reads all of it: not for an asynchronous
    /// thread.
    ///
    /// # Errors
    /// It is not what a VMM writes; the disk's.
    pub fn admit(self: &Arc<Self>, pending: &Pending) -> io::Result<Kept> {
        self.admit_stepwise(pending, &mut |_| Ok(()))
    }

    fn admit_stepwise(
        self: &Arc<Self>,
        pending: &Pending,
        before: &mut dyn FnMut(admit::Step) -> io::Result<()>,
    ) -> io::Result<Kept> {
        before(admit::Step::Seal)?;
        let digest = self.hashes.digest(&pending.0)?;
        // Held first: a collection in between must not take an equal one that is there already.
        let kept = self.hold(&self.path(&digest));
        admit::seal(&pending.0)?;
        before(admit::Step::Name)?;
        admit::name(&pending.0, &kept.path)?;
        before(admit::Step::Settle)?;
        admit::settle(&kept.path)?;
        Ok(kept)
    }

    /// Whether the content at `path` is still what its name says. Reads all of it, but for a base that was read before.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self, path: &Path) -> Result<(), String> {
        let found = self
            .hashes
            .digest(path)
            .map_err(|e| format!("it cannot be read: {e}"))?;
        if found == name(path) {
            Ok(())
        } else {
            Err("its content is not what its name says (SHA-256)".to_owned())
        }
    }

    /// The digest that base `key` was kept under.
    pub fn base(&self, key: &str) -> Option<PathBuf> {
        let text = fs::read_to_string(self.part("bases").join(key)).ok()?;
        let path = self.path(text.trim());
        (is_digest(text.trim()) && path.is_dir()).then_some(path)
    }

    /// Note which snapshot is base `key`.
    ///
    /// # Errors
    /// The disk's.
    pub fn set_base(&self, key: &str, base: &Kept) -> io::Result<()> {
        let path = self.part("bases").join(key);
        let temporary = self.part("pending").join(key);
        fs::write(&temporary, &base.digest)?;
        fs::File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(self.part("bases"))?.sync_all()
    }

    /// Forget base `key`: the functions that rest on it keep its pages.
    pub fn forget_base(&self, key: &str) {
        let _ = fs::remove_file(self.part("bases").join(key));
    }

    /// Delete every snapshot but `referenced`, those held, and bases that something rests on or that are among the
    /// newest few. Instances restored from one keep their mappings.
    pub fn collect(&self, referenced: &HashSet<String>) {
        let bases = self.bases_to_keep();
        let held = self.held();
        let is_kept = |name: &str| {
            referenced.contains(name) || held.contains_key(name) || bases.contains(name)
        };
        for part in ["content", "working-sets"] {
            let Ok(entries) = fs::read_dir(self.part(part)) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // A working set on its way to its name has another suffix.
                let digest = name.split('.').next().unwrap_or_default();
                if !is_kept(digest)
                    && let Err(error) = self.remove(&entry.path())
                {
                    tracing::warn!(path = %entry.path().display(), %error, "cannot delete a snapshot");
                }
            }
        }
    }

    /// Out of its place at once, then deleted: half of it is never seen there.
    fn remove(&self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            return fs::remove_file(path);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let away = self.part("pending").join(format!("{number}.old"));
        admit::unseal(path);
        fs::rename(path, &away)?;
        fs::remove_dir_all(&away)
    }

    /// Digests of bases in use and of the newest others; the names of all others are forgotten.
    fn bases_to_keep(&self) -> HashSet<String> {
        let mut keep = HashSet::new();
        let mut spare = Vec::new();
        for entry in fs::read_dir(self.part("bases"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let key = entry.file_name().to_string_lossy().into_owned();
            let Some(path) = self.base(&key) else {
                self.forget_base(&key);
                continue;
            };
            match path.join(PAGES).metadata() {
                Ok(pages) if pages.nlink() > 1 => {
                    keep.insert(name(&path));
                }
                Ok(_) => spare.push((entry.metadata().and_then(|m| m.modified()).ok(), key, path)),
                Err(_) => self.forget_base(&key),
            }
        }
        spare.sort();
        for (index, (_, key, path)) in spare.into_iter().rev().enumerate() {
            if index < SPARE_BASES {
                keep.insert(name(&path));
            } else {
                self.forget_base(&key);
            }
        }
        keep
    }
}

/// The last part of a path: a kept snapshot's digest.
fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Whether a text is what snapshots are named by.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
