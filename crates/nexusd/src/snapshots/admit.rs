//! The steps by which a snapshot is taken in.

use super::{BASE, METADATA, PAGES};
use ring::digest::{Context, Digest, SHA256};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// What comes next, for tests that end in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read-only, and on the disk.
    Seal,
    /// Its place, by one rename.
    Name,
    /// The rename on the disk.
    Settle,
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other(format!(
            "{} is not a file",
            path.display()
        )))
    }
}

/// The files that are there, in a fixed order; nothing else may be.
fn files(directory: &Path) -> io::Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let known = [BASE, METADATA, PAGES].into_iter().find(|n| *n == name);
        found.push(known.ok_or_else(|| {
            io::Error::other(format!("{} is no part of a snapshot", name.display()))
        })?);
    }
    found.sort_unstable();
    Ok(found)
}

fn sha256(mut file: File) -> io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(context.finish()),
            count => context.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Device, inode, length, and the time of the content's last change.
type Identity = (u64, u64, u64, (i64, i64));
/// Of which so many are remembered.
const MOST: usize = 256;

/// What is known of the content of bases, of which many snapshots have the same file.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<HashMap<Identity, Digest>>);

impl Hashes {
    /// SHA-256 over each file's name and own SHA-256, in order; in hexadecimal.
    ///
    /// # Errors
    /// What is there is not what a VMM writes; the disk's.
    pub fn digest(&self, directory: &Path) -> io::Result<String> {
        let mut all = Context::new(&SHA256);
        for name in files(directory)? {
            all.update(name.as_bytes());
            all.update(&[0]);
            let file = open(&directory.join(name))?;
            let hash = if name == BASE {
                self.of_base(file)?
            } else {
                sha256(file)?
            };
            all.update(hash.as_ref());
        }
        Ok(all
            .finish()
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    /// Read once for each content: its names come and go, so its inode's own time says nothing.
    fn of_base(&self, file: File) -> io::Result<Digest> {
        let stat = file.metadata()?;
        let modified = (stat.mtime(), stat.mtime_nsec());
        let identity = (stat.dev(), stat.ino(), stat.len(), modified);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = known.get(&identity) {
            return Ok(*hash);
        }
        let hash = sha256(file)?;
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(identity, hash);
        Ok(hash)
    }
}

/// Make the files read-only, and durable.
///
/// # Errors
/// The disk's.
pub fn seal(directory: &Path) -> io::Result<()> {
    for name in files(directory)? {
        let file = open(&directory.join(name))?;
        file.set_permissions(Permissions::from_mode(0o444))?;
        file.sync_all()?;
    }
    File::open(directory)?.sync_all()
}

/// Give it its place. Where the same content is already, that stays.
///
/// # Errors
/// The disk's.
pub fn name(directory: &Path, place: &Path) -> io::Result<()> {
    match fs::rename(directory, place) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

/// Make its place durable, and read-only too: moved it could not be before, but by root.
///
/// # Errors
/// The disk's.
pub fn settle(place: &Path) -> io::Result<()> {
    fs::set_permissions(place, Permissions::from_mode(0o555))?;
    match place.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// So that it can be moved away. The move itself tells where that fails.
pub fn unseal(place: &Path) {
    let _ = fs::set_permissions(place, Permissions::from_mode(0o755));
}
