//! Payloads that are too large for the database: one file each, named by its SHA-256 and a number of its own (one that is
//! being removed must not be one that was just found to be there already).

use crate::sigv4::hex;
use ring::digest::{SHA256, digest};
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    /// Numbers temporary files.
    next: AtomicU64,
    /// Names were added since the directory was last synced.
    dirty: AtomicBool,
}

impl Spool {
    /// # Errors
    /// The disk's.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(directory)
            .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            // Numbers of an earlier process are not given again.
            next: AtomicU64::new(crate::writes::replay::unix_ms() << 16),
            dirty: AtomicBool::new(false),
        })
    }

    /// Keep `bytes`; the name of their file. The name itself is durable after [`Spool::sync`].
    ///
    /// # Errors
    /// The disk's.
    pub fn put(&self, bytes: &[u8]) -> Result<String, String> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.{number}", hex(digest(&SHA256, bytes).as_ref()));
        let temporary = self.directory.join(format!("{number}.tmp"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, self.directory.join(&name))
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            format!("cannot write {}: {error}", temporary.display())
        })?;
        self.dirty.store(true, Ordering::Release);
        Ok(name)
    }

    /// Make the names durable.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> Result<(), String> {
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| {
                self.dirty.store(true, Ordering::Release);
                format!("cannot sync {}: {error}", self.directory.display())
            })
    }

    /// # Errors
    /// The file is not there, or not what its name says.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, String> {
        let path = self.directory.join(name);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let sum = name.split('.').next().unwrap_or_default();
        if hex(digest(&SHA256, &bytes).as_ref()) == sum {
            Ok(bytes)
        } else {
            Err(format!("{} is not what was written", path.display()))
        }
    }

    pub fn remove(&self, name: &str) {
        // A name comes from the database.
        if let Err(error) = fs::remove_file(self.directory.join(name)) {
            tracing::debug!(name, %error, "a spooled payload was not removed");
        }
    }

    /// Remove what no entry names: leavings of writes that were never acknowledged.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn sweep(&self, used: &HashSet<String>) -> Result<(), String> {
        let entries = fs::read_dir(&self.directory)
            .map_err(|error| format!("cannot read {}: {error}", self.directory.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !used.contains(&name) {
                self.remove(&name);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_or_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        let name = spool.put(b"payload").unwrap();
        spool.sync().unwrap();
        assert_eq!(spool.get(&name).unwrap(), b"payload");
        fs::write(directory.path().join(&name), b"payl").unwrap();
        assert!(
            spool
                .get(&name)
                .unwrap_err()
                .contains("not what was written")
        );
        fs::write(directory.path().join("7.tmp"), b"half").unwrap();
        let other = spool.put(b"other").unwrap();
        spool.sweep(&[other.clone()].into()).unwrap();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
        spool.get(&other).unwrap();
    }
}
