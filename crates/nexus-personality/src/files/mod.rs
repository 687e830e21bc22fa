//! Files: what a descriptor refers to, and the guest's table of them.

pub mod description;
pub mod discipline;
pub mod fifo;
pub mod lock;
pub mod made_up;
pub mod names;
pub mod outside;
pub mod record_lock;
pub mod resolve;
pub mod socket;
pub mod table;
pub mod terminal;
pub mod tmpfs;

pub use description::{Description, Object};
pub use names::Node;
pub use table::FileTable;

use std::os::fd::{AsRawFd, OwnedFd};

/// A file or directory of the host that the root table shows, opened.
#[derive(Debug)]
pub struct HostFile {
    /// The host's descriptor.
    pub fd: OwnedFd,
    /// Guest path, without links: what a snapshot opens again.
    pub path: Vec<u8>,
    /// Which file it was, to see at restore that it is still the same.
    pub identity: Identity,
    /// Under a writable root.
    pub writable: bool,
}

impl HostFile {
    /// Whether it is this file now.
    #[must_use]
    pub fn is(&self, identity: &Identity) -> bool {
        // SAFETY: a zeroed structure of numbers is valid, and live during the call.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let known = unsafe { libc::fstat(self.fd.as_raw_fd(), &raw mut stat) } == 0;
        known && Identity::of(&stat) == *identity
    }
}

/// Identity of a host file's content. The time of the last change of its inode is set by the kernel alone, so that
/// nobody can change a file and leave this as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Length in bytes.
    pub size: u64,
    /// Time of last change of the content: seconds, nanoseconds.
    pub modified: (i64, i64),
    /// Time of the last change of content or attributes: seconds, nanoseconds.
    pub changed: (i64, i64),
    /// Inode number.
    pub inode: u64,
    /// Device number.
    pub device: u64,
}

impl Identity {
    /// From what the host's fstat said.
    #[must_use]
    pub fn of(stat: &libc::stat) -> Self {
        Self {
            size: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
            device: stat.st_dev,
        }
    }
}
