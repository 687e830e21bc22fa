//! The state directory: one node at a time, and where it can be found.

use anyhow::{Context, bail};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    /// The lock lives as long as this descriptor.
    _lock: File,
}

impl State {
    /// Make the directory where it is missing, and take it for this process.
    ///
    /// # Errors
    /// Another node has it, or it cannot be made.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot use the state directory {}", directory.display());
        for part in ["logs", "snapshots"] {
            fs::create_dir_all(directory.join(part)).with_context(what)?;
        }
        // Logs are the functions' own; snapshots hold their memory.
        for part in ["logs", "functions"] {
            fs::create_dir_all(directory.join(part)).with_context(what)?;
            fs::set_permissions(directory.join(part), fs::Permissions::from_mode(0o700))
                .with_context(what)?;
        }
        let path = directory.join("nexusd.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(what)?;
        // SAFETY: a descriptor of ours.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            bail!(
                "another nexusd serves the state directory {}; end it first (nexus down), or use another directory",
                directory.display()
            );
        }
        let state = Self {
            directory: directory.to_path_buf(),
            _lock: lock,
        };
        state.withdraw();
        Ok(state)
    }

    /// Write `nexusd.json`: requests are served from now on.
    ///
    /// # Errors
    /// The disk's.
    pub fn announce(&self, address: SocketAddr) -> anyhow::Result<()> {
        let path = self.directory.join("nexusd.json");
        let temporary = self.directory.join("nexusd.json.tmp");
        let text = serde_json::json!({"address": address, "pid": std::process::id()}).to_string();
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Remove it again.
    pub fn withdraw(&self) {
        let path = self.directory.join("nexusd.json");
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove");
        }
    }
}

/// Files for thousands of instances.
const FILES: libc::rlim_t = 1 << 18;

/// Every instance keeps four descriptors, and takes a dozen at its start: use all the kernel allows.
pub fn raise_file_limit() {
    // SAFETY: the struct is valid for the kernel to fill and to read.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            // Root may raise the hard limit as well.
            let more = libc::rlimit {
                rlim_cur: limit.rlim_max.max(FILES),
                rlim_max: limit.rlim_max.max(FILES),
            };
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const more) != 0 {
                libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_node() {
        let directory = std::env::temp_dir().join(format!("nexusd-state-{}", std::process::id()));
        let first = State::open(&directory).unwrap();
        let error = State::open(&directory).unwrap_err().to_string();
        assert!(error.contains("another nexusd"), "{error}");
        first.announce("127.0.0.1:7".parse().unwrap()).unwrap();
        assert!(directory.join("nexusd.json").exists());
        drop(first);
        State::open(&directory).unwrap();
        assert!(!directory.join("nexusd.json").exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
