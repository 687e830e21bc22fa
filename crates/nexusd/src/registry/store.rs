//! The registry on disk: one JSON file per function, replaced atomically and fsynced
//! (docs/decisions/0005-registry-files.md).

use super::deployment::Deployment;
use super::names;
use crate::snapshots::is_digest;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// What is kept of a function.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub format: u32,
    pub name: String,
    pub deployment: Deployment,
    /// Digest of the snapshot under `snapshots/content`; none with `isolation=process`.
    pub snapshot: Option<String>,
    pub modified_ms: u64,
}

impl Record {
    pub fn new(
        name: String,
        deployment: Deployment,
        snapshot: Option<String>,
        modified_ms: u64,
    ) -> Self {
        Self {
            format: FORMAT,
            name,
            deployment,
            snapshot,
            modified_ms,
        }
    }
}

/// The directory `functions/` of the state.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Open the directory, made where it is missing.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(state: &Path) -> anyhow::Result<Self> {
        let directory = state.join("functions");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory })
    }

    /// Every function kept. A file that cannot be used is left alone and named in the log.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(&self) -> anyhow::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)
            .with_context(|| format!("cannot read {}", self.directory.display()))?
        {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), error = format!("{error:#}"), "a function is not loaded");
                }
            }
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Keep a function: once this returns, it survives a crash.
    ///
    /// # Errors
    /// The disk's.
    pub fn put(&self, record: &Record) -> anyhow::Result<()> {
        let path = self.path(&record.name);
        let temporary = path.with_extension("tmp");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Forget a function, durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn delete(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot delete {}", path.display()));
            }
            _ => {}
        }
        File::open(&self.directory)?.sync_all()?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

fn read(path: &Path) -> anyhow::Result<Record> {
    let mut record: Record = serde_json::from_slice(&fs::read(path)?)?;
    anyhow::ensure!(
        record.format == FORMAT,
        "format {} is not {FORMAT}; deploy the function again",
        record.format
    );
    anyhow::ensure!(
        names::is_valid(&record.name)
            && path.file_stem().is_some_and(|s| s == record.name.as_str()),
        "the file does not bear the function's name"
    );
    // What is not a digest names no snapshot, and the function is initialised anew.
    record.snapshot = record.snapshot.filter(|name| is_digest(name));
    Ok(record)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::registry::deployment::tests::deployment;

    #[test]
    fn what_was_put_is_loaded_and_damage_harms_no_other() {
        let state = std::env::temp_dir().join(format!("nexusd-store-{}", std::process::id()));
        let store = Store::open(&state).unwrap();
        let record =
            |name: &str| Record::new(name.into(), deployment(&state), Some("0a".repeat(32)), 7);
        store.put(&record("b")).unwrap();
        store.put(&record("a")).unwrap();
        store.put(&record("gone")).unwrap();
        store.delete("gone").unwrap();
        store.delete("never").unwrap();
        fs::write(state.join("functions/bad.json"), "{").unwrap();
        fs::write(state.join("functions/c.tmp"), "{").unwrap();
        let mut evil = record("evil");
        evil.snapshot = Some("../../etc".into());
        store.put(&evil).unwrap();
        evil.snapshot = None;
        assert_eq!(store.load().unwrap(), [record("a"), record("b"), evil]);
        fs::remove_dir_all(state).unwrap();
    }
}
