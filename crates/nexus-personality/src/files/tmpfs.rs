//! Files in memory: `/tmp`, private to the guest and counted. Each file is a memfd, so that it can be mapped.
//!
//! All processes of an instance have these inodes in common, in one process of the host, so locks here hold between them.
//! They are taken in this order: the position of a description, the tree's names ([`Usage::naming`]), a directory's entries
//! (the parent's before the child's), a file's length, its mode and times. None is held while a call waits for a guest or for
//! anything that a guest may keep waiting: what happens under them is copying and lookups.

use crate::errno::{
    EACCES, EEXIST, EFBIG, EINVAL, EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, Errno,
};
use crate::files::fifo::Fifo;
use crate::ledger::{Ledger, Lent};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files, directories and links that the tree may have, and names in one directory.
const MAX_INODES: u64 = 100_000;

/// Files that the tree may have: each holds a descriptor of the hypervisor, whose jail allows it 4,096. The rest is for what is open.
pub const MAX_FILES: u64 = 3000;

/// What made-up files may have beyond the limits of files and of bytes: a full `/tmp` does not keep `/proc` from being read.
const SPARE_FILES: u64 = 64;
const SPARE_BYTES: u64 = 1 << 20;

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
    /// Of a file: its length, all of which is counted. Who holds this is the only one to write or to change the length.
    length: Mutex<u64>,
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
    naming: Mutex<()>,
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
            naming: Mutex::default(),
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

    /// The lock that every call holds which makes, moves or removes a name, from before it looks at what is there.
    pub fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Count one more file, of `most`.
    fn count_file(&self, most: u64) -> Result<(), Errno> {
        let one_more = |files| (files < most).then_some(files + 1);
        let counted = (self.files).fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        counted.map(drop).map_err(|_| ENOSPC)
    }

    /// Count this many bytes more, of `limit`.
    fn count(&self, more: u64, limit: u64) -> Result<(), Errno> {
        let sum = |used: u64| used.checked_add(more).filter(|sum| *sum <= limit);
        let counted = (self.bytes).fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum);
        counted.map(drop).map_err(|_| ENOSPC)
    }

    /// Count this many bytes less.
    fn give_back(&self, bytes: u64) {
        let rest = |used: u64| {
            debug_assert!(used >= bytes, "{bytes} of {used} bytes given back");
            Some(used.saturating_sub(bytes))
        };
        let _ = (self.bytes).fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }

    /// Files that may still be made.
    #[must_use]
    pub fn files_left(&self) -> u64 {
        let left = |most: u64, used: &AtomicU64| most.saturating_sub(used.load(Ordering::Relaxed));
        left(MAX_FILES, &self.files).min(left(MAX_INODES, &self.inodes))
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
                let length = *self
                    .length
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner);
                self.usage.files.fetch_sub(1, Ordering::Relaxed);
                self.usage.give_back(length);
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

/// Length of a file of the host.
fn host_size(fd: RawFd) -> u64 {
    // SAFETY: zero is a valid stat, and `stat` is live.
    let stat = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &raw mut stat);
        stat
    };
    stat.st_size.cast_unsigned()
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
            length: Mutex::default(),
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
        Self::file_of(usage, mode, MAX_FILES)
    }

    fn file_of(usage: &Arc<Usage>, mode: u32, most: u64) -> Result<Arc<Self>, Errno> {
        usage.count_file(most)?;
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
        inode.fill(content, usage.limit)?;
        Ok(inode)
    }

    /// A file of the process's own, as `/proc` has them: one can be had where there is no room for others.
    ///
    /// # Errors
    /// As [`Inode::file`].
    pub fn made_up(usage: &Arc<Usage>, mode: u32, content: &[u8]) -> Result<Arc<Self>, Errno> {
        let inode = Self::file_of(usage, mode, MAX_FILES + SPARE_FILES)?;
        inode.fill(content, usage.limit.saturating_add(SPARE_BYTES))?;
        Ok(inode)
    }

    fn fill(&self, content: &[u8], limit: u64) -> Result<(), Errno> {
        let fd = self.host().ok_or(EINVAL)?;
        self.set_length(&mut self.length(), content.len() as u64, limit)?;
        // SAFETY: the buffer is live; a memfd takes all or fails.
        let done = unsafe { libc::pwrite(fd, content.as_ptr().cast(), content.len(), 0) };
        if done < 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(())
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

    /// Length in bytes, of a file as the host tells it: nobody waits for who writes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File(fd) => host_size(fd.as_raw_fd()),
            Content::Link(target) => target.len() as u64,
            Content::Directory(_) => 4096,
            Content::Socket | Content::Fifo(_) => 0,
        }
    }

    fn length(&self) -> MutexGuard<'_, u64> {
        self.length.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change the length that is locked, within the limit: counted before it is had, and had no more before it is given back.
    fn set_length(&self, length: &mut u64, size: u64, limit: u64) -> Result<(), Errno> {
        let other = if self.is_directory() { EISDIR } else { EINVAL };
        let fd = self.host().ok_or(other)?;
        let new = i64::try_from(size).map_err(|_| ENOSPC)?;
        let more = size.saturating_sub(*length);
        self.usage.count(more, limit)?;
        // SAFETY: a plain call on a descriptor of ours.
        if unsafe { libc::ftruncate(fd, new) } != 0 {
            let error = io::Error::last_os_error();
            self.usage.give_back(more);
            return Err(error.into());
        }
        self.usage.give_back(length.saturating_sub(size));
        *length = size;
        Ok(())
    }

    /// Set the length, within the limit of the tree.
    ///
    /// # Errors
    /// ENOSPC; EISDIR, EINVAL for what is no file.
    pub fn resize(&self, size: u64) -> Result<(), Errno> {
        self.set_length(&mut self.length(), size, self.usage.limit)
    }

    /// Have the file be at least this long.
    ///
    /// # Errors
    /// As [`Inode::resize`].
    pub fn grow(&self, size: u64) -> Result<(), Errno> {
        let mut length = self.length();
        let longer = size.max(*length);
        self.set_length(&mut length, longer, self.usage.limit)
    }

    /// Write up to `bytes` bytes at `at`, or (`None`) behind the end, by `call`, which is given the memfd, the place, and how
    /// many they are: none lies beyond `most`. Where it wrote, and how much. The file grows by what was written, however much that was to be.
    ///
    /// # Errors
    /// EFBIG from `most` on, ENOSPC, EISDIR for what is no file, `call`'s.
    pub fn write(
        &self,
        at: Option<u64>,
        bytes: u64,
        most: u64,
        call: impl FnOnce(RawFd, u64, u64) -> Result<u64, Errno>,
    ) -> Result<(u64, u64), Errno> {
        let fd = self.host().ok_or(EISDIR)?;
        let mut length = self.length();
        let at = at.unwrap_or(*length);
        let room = most.checked_sub(at).filter(|room| *room > 0).ok_or(EFBIG)?;
        let bytes = bytes.min(room);
        let end = at.checked_add(bytes).ok_or(EFBIG)?;
        let Some(more) = end.checked_sub(*length).filter(|more| *more > 0) else {
            return Ok((at, call(fd, at, bytes)?));
        };
        self.usage.count(more, self.usage.limit)?;
        let done = call(fd, at, bytes);
        // The host has let the file grow by what it took, also where it then failed.
        let new = host_size(fd).clamp(*length, end);
        self.usage.give_back(end - new);
        *length = new;
        Ok((at, done?))
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
