//! The store: the index, and a directory of files for what is too large for it.
//!
//! A file is written under a temporary name, synced, renamed, its directory synced; only then does a transaction
//! refer to it. Files never change. What nothing refers to is removed: at once where a write replaced it (readers
//! keep it open), at the next start where a crash left it.

use crate::index::{Index, Refusal};
use crate::meta::Place;
use s3s::{S3Error, S3ErrorCode, s3_error};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A store in a directory of its own.
pub struct Store {
    index: Mutex<Index>,
    data: PathBuf,
    /// Locked for the life of the process.
    _lock: File,
}

/// Errors of the store as S3 names them.
pub fn refusal(refusal: Refusal) -> S3Error {
    match refusal {
        Refusal::NoBucket => S3Error::with_message(
            S3ErrorCode::NoSuchBucket,
            "The specified bucket does not exist",
        ),
        Refusal::NoKey => {
            S3Error::with_message(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
        }
        Refusal::Condition => S3Error::with_message(
            S3ErrorCode::PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold",
        ),
        Refusal::NoVersion => S3Error::with_message(
            S3ErrorCode::NoSuchVersion,
            "The specified version does not exist.",
        ),
        // As if there were nothing; the headers tell that there was.
        Refusal::Marker(version) => {
            let mut error =
                S3Error::with_message(S3ErrorCode::NoSuchKey, "The specified key does not exist.");
            let mut headers = hyper::HeaderMap::new();
            if let (Ok(yes), Ok(version)) = ("true".parse(), version.parse()) {
                headers.insert("x-amz-delete-marker", yes);
                headers.insert("x-amz-version-id", version);
            }
            error.set_headers(headers);
            error
        }
        Refusal::Database(error) => internal(error),
    }
}

/// Anything unexpected: logged, and a 500 that says no more.
pub fn internal(error: impl std::fmt::Display) -> S3Error {
    tracing::error!("{error}");
    s3_error!(
        InternalError,
        "We encountered an internal error. Please try again."
    )
}

impl Store {
    /// Open the store in `directory`, creating it if need be, and remove what a crash left behind.
    ///
    /// # Errors
    /// Another store has it, or the host refuses.
    pub fn open(directory: &Path) -> anyhow::Result<Arc<Self>> {
        let data = directory.join("data");
        std::fs::create_dir_all(&data)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join("lock"))?;
        lock.try_lock().map_err(|e| {
            anyhow::anyhow!(
                "{}: another store uses this directory ({e})",
                directory.display()
            )
        })?;
        let index = Index::open(&directory.join("index.sqlite"))?;
        let known = index.files()?;
        for entry in std::fs::read_dir(&data)? {
            let entry = entry?;
            if !known.contains(&entry.file_name().to_string_lossy().into_owned()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Arc::new(Self {
            index: Mutex::new(index),
            data,
            _lock: lock,
        }))
    }

    /// Work with the index, on a thread that may block.
    ///
    /// # Errors
    /// What `work` fails with.
    pub async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Index) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            work(&mut store.index.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|e| {
            Err(Refusal::Database(rusqlite::Error::ToSqlConversionFailure(
                Box::new(e),
            )))
        })
    }

    /// A fresh file: its name, and itself open for writing. It is not durable before [`Store::seal`].
    ///
    /// # Errors
    /// The host's.
    pub fn create(&self) -> io::Result<(String, File)> {
        let name = unique_name()?;
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(self.temporary(&name))?;
        Ok((name, file))
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.data.join(format!("{name}.new"))
    }

    /// Make a file durable under its name.
    ///
    /// # Errors
    /// The host's.
    pub fn seal(&self, name: &str, file: &File) -> io::Result<()> {
        file.sync_all()?;
        std::fs::rename(self.temporary(name), self.data.join(name))?;
        File::open(&self.data)?.sync_all()
    }

    /// Drop a file that never came to be.
    pub fn abandon(&self, name: &str) {
        let _ = std::fs::remove_file(self.temporary(name));
    }

    /// Open an object's file.
    ///
    /// # Errors
    /// The host's.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        File::open(self.data.join(name))
    }

    /// Remove files that nothing refers to any more. Readers that have them open keep them.
    pub fn discard(&self, files: impl IntoIterator<Item = String>) {
        for name in files {
            if let Err(error) = std::fs::remove_file(self.data.join(&name)) {
                tracing::warn!("removing {name}: {error}");
            }
        }
    }

    /// The file of an object, if it has one.
    #[must_use]
    pub fn file_of(place: &Place) -> Option<&str> {
        match place {
            Place::Inline => None,
            Place::File(name) => Some(name),
        }
    }
}

/// Sixteen random bytes in hexadecimal digits.
///
/// # Errors
/// The host has no randomness.
pub fn unique_name() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    // SAFETY: a live buffer of the length given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(got).ok() != Some(bytes.len()) {
        return Err(io::Error::last_os_error());
    }
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
