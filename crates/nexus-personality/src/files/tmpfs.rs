//! Files in memory: `/tmp`, private to the guest and counted. Each file is a memfd, so that it can be mapped.

use crate::errno::{EACCES, EEXIST, EINVAL, EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, Errno};
use crate::files::fifo::Fifo;
use crate::ledger::{Ledger, Lent};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files, directories and links that the tree may have, and names in one directory.
const MAX_INODES: u64 = 100_000;

/// Descriptors the tree may hold at most, one per file; beyond it creating fails with ENOSPC.
const MAX_FILES: u64 = 4096;

/// Numbers that a snapshot may have given; what is left is more than will ever be.
const MAX_NUMBER: u64 = 1 << 62;

/// What an inode takes of the hypervisor's memory, and what a name does beside its bytes: at least the allocator's share.
const INODE_BYTES: u64 = 512;
const NAME_BYTES: u64 = 128;

/// One file, directory or link in memory.
#[derive(Debug)]
pub struct Inode {
    /// Its number, unique in the guest.
    pub number: u64,
    /// What it is.
    pub content: Content,
    meta: Mutex<Meta>,
    usage: Arc<Usage>,
    _lent: Lent,
}

/// Names of a directory.
pub type Entries = BTreeMap<Vec<u8>, Named>;

/// What a name stands for.
#[derive(Debug)]
pub struct Named {
    pub inode: Arc<Inode>,
    _lent: Lent,
}

impl Named {
    /// For a name of an inode, in the inode's own tree.
    ///
    /// # Errors
    /// ENOSPC: names take the guest's memory.
    pub fn new(name: &[u8], inode: Arc<Inode>) -> Result<Self, Errno> {
        Ok(Self {
            _lent: inode.usage.lend(NAME_BYTES + name.len() as u64)?,
            inode,
        })
    }
}

/// Content by kind.
#[derive(Debug)]
pub enum Content {
    /// A memfd.
    File(OwnedFd),
    /// Names to inodes.
    Directory(Mutex<Entries>),
    /// A symbolic link's target.
    Link(Vec<u8>),
    /// The name of a UNIX socket.
    Socket,
    /// The name of a FIFO.
    Fifo(Fifo),
}

/// Mode and times.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    pub mode: u32,
    /// Last access and change of content: seconds, nanoseconds.
    pub accessed: (i64, i64),
    pub modified: (i64, i64),
    /// Last change of anything.
    pub changed: (i64, i64),
    /// Names that refer to it.
    pub links: u32,
}

/// What the tree uses.
#[derive(Debug)]
pub struct Usage {
    next: AtomicU64,
    inodes: AtomicU64,
    files: AtomicU64,
    /// Bytes that files may have in sum; each file's size counts.
    pub limit: u64,
    bytes: AtomicU64,
    /// Names and inodes are the hypervisor's memory, and count as the guest's.
    ledger: Arc<Ledger>,
}

impl Usage {
    /// Nothing used yet, of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64, ledger: Arc<Ledger>) -> Self {
        Self {
            next: AtomicU64::new(0),
            inodes: AtomicU64::new(0),
            files: AtomicU64::new(0),
            limit,
            bytes: AtomicU64::new(0),
            ledger,
        }
    }

    /// The highest inode number that was given.
    #[must_use]
    pub fn last_number(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Give no number again that was given before a snapshot.
    ///
    /// # Errors
    /// EINVAL: so many cannot have been given.
    pub fn resume_numbers(&self, last: u64) -> Result<(), Errno> {
        if last > MAX_NUMBER {
            return Err(EINVAL);
        }
        self.next.fetch_max(last, Ordering::Relaxed);
        Ok(())
    }

    fn lend(&self, bytes: u64) -> Result<Lent, Errno> {
        self.ledger.lend(bytes).map_err(|_| ENOSPC)
    }

    /// Bytes in use: the lengths of files, and a page for each of them and the root.
    #[must_use]
    pub fn used(&self) -> u64 {
        let files = self.files.load(Ordering::Relaxed) + 1;
        (self.bytes.load(Ordering::Relaxed) + 4096 * files).min(self.limit)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.usage.inodes.fetch_sub(1, Ordering::Relaxed);
        match &mut self.content {
            Content::File(_) => {
                self.usage.files.fetch_sub(1, Ordering::Relaxed);
                self.usage.bytes.fetch_sub(self.size(), Ordering::Relaxed);
            }
            Content::Directory(entries) => take_down(entries),
            _ => {}
        }
    }
}

/// Drop a directory's entries one after another: a tree may be deeper than a stack.
fn take_down(entries: &mut Mutex<Entries>) {
    let taken = |entries: &mut Mutex<Entries>| {
        let entries = entries.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(entries).into_values().map(|e| e.inode)
    };
    let mut left: Vec<Arc<Inode>> = taken(entries).collect();
    while let Some(mut inode) = left.pop() {
        if let Some(Content::Directory(below)) = Arc::get_mut(&mut inode).map(|i| &mut i.content) {
            left.extend(taken(below));
        }
    }
}

/// Now, as timestamps have it.
#[must_use]
pub fn now() -> (i64, i64) {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    (time.tv_sec, time.tv_nsec)
}

impl Inode {
    fn make(usage: &Arc<Usage>, content: Content, mode: u32) -> Result<Arc<Self>, Errno> {
        let target = match &content {
            Content::Link(target) => target.len() as u64,
            _ => 0,
        };
        let full = usage.inodes.fetch_add(1, Ordering::Relaxed) >= MAX_INODES;
        let lent = usage.lend(INODE_BYTES + target).ok().filter(|_| !full);
        let Some(lent) = lent else {
            usage.inodes.fetch_sub(1, Ordering::Relaxed);
            if let Content::File(_) = content {
                usage.files.fetch_sub(1, Ordering::Relaxed);
            }
            return Err(ENOSPC);
        };
        let number = usage.next.fetch_add(1, Ordering::Relaxed) + 1;
        let meta = Meta {
            mode,
            accessed: now(),
            modified: now(),
            changed: now(),
            links: 1,
        };
        Ok(Arc::new(Self {
            number,
            content,
            meta: Mutex::new(meta),
            usage: Arc::clone(usage),
            _lent: lent,
        }))
    }

    /// A fresh inode, as the one of a snapshot that had this number and this many names.
    ///
    /// # Errors
    /// EINVAL: it is not fresh.
    pub fn renumbered(mut self: Arc<Self>, number: u64, links: u32) -> Result<Arc<Self>, Errno> {
        let inode = Arc::get_mut(&mut self).ok_or(EINVAL)?;
        inode.number = number;
        inode.meta().links = links;
        Ok(self)
    }

    /// An empty file.
    ///
    /// # Errors
    /// ENOSPC at the limit of files, the host's error numbers.
    pub fn file(usage: &Arc<Usage>, mode: u32) -> Result<Arc<Self>, Errno> {
        if usage.files.fetch_add(1, Ordering::Relaxed) >= MAX_FILES {
            usage.files.fetch_sub(1, Ordering::Relaxed);
            return Err(ENOSPC);
        }
        // SAFETY: a static name; the result is checked.
        let fd = unsafe { libc::memfd_create(c"tmp".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            usage.files.fetch_sub(1, Ordering::Relaxed);
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        Self::make(
            usage,
            Content::File(unsafe { OwnedFd::from_raw_fd(fd) }),
            libc::S_IFREG | mode & 0o7777,
        )
    }

    /// A file with this content.
    ///
    /// # Errors
    /// As [`Inode::file`].
    pub fn with_content(usage: &Arc<Usage>, mode: u32, content: &[u8]) -> Result<Arc<Self>, Errno> {
        let inode = Self::file(usage, mode)?;
        inode.resize(content.len() as u64)?;
        if let Some(fd) = inode.host() {
            // SAFETY: the buffer is live; a memfd takes all or fails.
            let done = unsafe { libc::pwrite(fd, content.as_ptr().cast(), content.len(), 0) };
            if done < 0 {
                return Err(io::Error::last_os_error().into());
            }
        }
        Ok(inode)
    }

    /// An empty directory.
    ///
    /// # Errors
    /// ENOSPC at the limit, as of the others below.
    pub fn directory(usage: &Arc<Usage>, mode: u32) -> Result<Arc<Self>, Errno> {
        Self::make(
            usage,
            Content::Directory(Mutex::default()),
            libc::S_IFDIR | mode & 0o7777,
        )
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn link(usage: &Arc<Usage>, target: Vec<u8>) -> Result<Arc<Self>, Errno> {
        Self::make(usage, Content::Link(target), libc::S_IFLNK | 0o777)
    }

    /// The name of a UNIX socket.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn socket(usage: &Arc<Usage>, mode: u32) -> Result<Arc<Self>, Errno> {
        Self::make(usage, Content::Socket, libc::S_IFSOCK | mode & 0o7777)
    }

    /// The name of a FIFO.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn fifo(usage: &Arc<Usage>, mode: u32) -> Result<Arc<Self>, Errno> {
        let content = Content::Fifo(Fifo::default());
        Self::make(usage, content, libc::S_IFIFO | mode & 0o7777)
    }

    /// Note a change of the content, or of a directory's entries.
    pub fn touch(&self) {
        let mut meta = self.meta();
        meta.modified = now();
        meta.changed = meta.modified;
    }

    /// The memfd of a file.
    #[must_use]
    pub fn host(&self) -> Option<RawFd> {
        match &self.content {
            Content::File(fd) => Some(fd.as_raw_fd()),
            _ => None,
        }
    }

    /// Mode and times.
    pub fn meta(&self) -> MutexGuard<'_, Meta> {
        self.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the one user may do this: 4 read, 2 write, 1 search or execute.
    ///
    /// # Errors
    /// EACCES.
    pub fn permit(&self, wanted: u32) -> Result<(), Errno> {
        if self.meta().mode >> 6 & wanted == wanted {
            Ok(())
        } else {
            Err(EACCES)
        }
    }

    /// The tree's usage, for making more inodes.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File(fd) => {
                // SAFETY: zero is a valid stat, and `stat` is live.
                let stat = unsafe {
                    let mut stat: libc::stat = std::mem::zeroed();
                    libc::fstat(fd.as_raw_fd(), &raw mut stat);
                    stat
                };
                stat.st_size.cast_unsigned()
            }
            Content::Link(target) => target.len() as u64,
            Content::Directory(_) => 4096,
            Content::Socket | Content::Fifo(_) => 0,
        }
    }

    /// Set the length, within the limit of the tree. Growing is how space is had, so a write grows first.
    ///
    /// # Errors
    /// ENOSPC; EISDIR, EINVAL for what is no file.
    pub fn resize(&self, size: u64) -> Result<(), Errno> {
        let other = if self.is_directory() { EISDIR } else { EINVAL };
        let fd = self.host().ok_or(other)?;
        let old = self.size();
        if size > old {
            let more = size - old;
            let used = self.usage.bytes.fetch_add(more, Ordering::Relaxed);
            if used.saturating_add(more) > self.usage.limit {
                self.usage.bytes.fetch_sub(more, Ordering::Relaxed);
                return Err(ENOSPC);
            }
        } else {
            self.usage.bytes.fetch_sub(old - size, Ordering::Relaxed);
        }
        let length = i64::try_from(size).map_err(|_| ENOSPC)?;
        // SAFETY: a plain call on a descriptor of ours.
        if unsafe { libc::ftruncate(fd, length) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(())
    }

    /// Entries of a directory.
    ///
    /// # Errors
    /// ENOTDIR.
    pub fn entries(&self) -> Result<MutexGuard<'_, Entries>, Errno> {
        match &self.content {
            Content::Directory(entries) => {
                Ok(entries.lock().unwrap_or_else(PoisonError::into_inner))
            }
            _ => Err(ENOTDIR),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// Add a name.
    ///
    /// # Errors
    /// EEXIST, ENOTDIR, ENOSPC.
    pub fn add(&self, name: &[u8], inode: Arc<Self>) -> Result<(), Errno> {
        let mut entries = self.entries()?;
        if entries.len() as u64 >= MAX_INODES {
            return Err(ENOSPC);
        }
        if entries.contains_key(name) {
            return Err(EEXIST);
        }
        entries.insert(name.to_vec(), Named::new(name, inode)?);
        drop(entries);
        self.touch();
        Ok(())
    }

    /// Remove a name: `directory` says which kind is meant.
    ///
    /// # Errors
    /// ENOENT, EISDIR, ENOTDIR, ENOTEMPTY.
    pub fn remove(&self, name: &[u8], directory: bool) -> Result<(), Errno> {
        let mut entries = self.entries()?;
        let inode = &entries.get(name).ok_or(ENOENT)?.inode;
        match (directory, inode.is_directory()) {
            (false, true) => return Err(EISDIR),
            (true, false) => return Err(ENOTDIR),
            (true, true) if !inode.entries()?.is_empty() => return Err(ENOTEMPTY),
            _ => {}
        }
        if let Some(gone) = entries.remove(name) {
            let mut meta = gone.inode.meta();
            meta.links = meta.links.saturating_sub(1);
            meta.changed = now();
        }
        drop(entries);
        self.touch();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn usage() -> Arc<Usage> {
        Arc::new(Usage::new(1 << 20, Ledger::new(1 << 30).unwrap()))
    }

    #[test]
    fn names_and_links_count_as_memory_until_they_are_gone() {
        let ledger = Ledger::new(512 << 20).unwrap();
        let usage = Arc::new(Usage::new(1 << 20, Arc::clone(&ledger)));
        let root = Inode::directory(&usage, 0o700).unwrap();
        let link = Inode::link(&usage, vec![b'x'; 4000]).unwrap();
        let before = ledger.promised();
        assert!(before > 4000);
        root.add(&[b'n'; 255], link).unwrap();
        assert!(ledger.promised() > before + 255);
        root.remove(&[b'n'; 255], false).unwrap();
        drop(root);
        assert_eq!(ledger.promised(), 0);
        let all: Result<Vec<_>, _> = (0..MAX_INODES)
            .map(|_| Inode::link(&usage, vec![b'x'; 8192]))
            .collect();
        assert_eq!(all.unwrap_err(), ENOSPC);
    }

    #[test]
    fn a_tree_deeper_than_any_stack_is_taken_down() {
        let usage = usage();
        let mut top = Inode::directory(&usage, 0o700).unwrap();
        for _ in 0..90_000 {
            let above = Inode::directory(&usage, 0o700).unwrap();
            above.add(b"d", top).unwrap();
            top = above;
        }
        let small = std::thread::Builder::new().stack_size(64 << 10);
        small.spawn(move || drop(top)).unwrap().join().unwrap();
        assert_eq!(usage.inodes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_are_only_so_many_inodes_in_all() {
        let usage = usage();
        let all: Vec<_> = (0..MAX_INODES)
            .map(|_| Inode::link(&usage, b"x".to_vec()).unwrap())
            .collect();
        assert_eq!(Inode::directory(&usage, 0o700).unwrap_err(), ENOSPC);
        assert_eq!(Inode::file(&usage, 0o600).unwrap_err(), ENOSPC);
        assert_eq!(usage.files.load(Ordering::Relaxed), 0);
        drop(all);
        Inode::file(&usage, 0o600).unwrap();
    }
}
