//! From a path to what it names: links followed by us, one component at a time, so that no link of the host can
//! lead out of the root table.

use super::names::{Namespace, Node};
use super::{HostFile, Identity};
use crate::errno::{EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, Errno};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Links followed in one path at most, as on Linux.
const MAX_LINKS: usize = 40;
/// Longest name, as on Linux.
const NAME_MAX: usize = 255;
/// Longest canonical path, which is kept for what is open and for the working directory. What a call names may have 4,095 bytes;
/// step by step a program may get deeper.
const LONGEST: usize = 64 << 10;
/// openat2(2): nothing above the root, no link of any kind.
const RESOLVE: u64 = 0x08 | 0x04 | 0x02; // BENEATH, NO_SYMLINKS, NO_MAGICLINKS

/// A path, resolved.
#[derive(Debug)]
pub struct Resolved {
    /// Canonical guest path, absolute, without a slash at its end (empty for `/`).
    pub path: Vec<u8>,
    /// What it names; `None`: nothing, though its parent exists.
    pub node: Option<Node>,
    /// The path ended in a slash: only a directory will do.
    pub directory_only: bool,
}

impl Resolved {
    /// Parent path and last name.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        split(&self.path)
    }
}

/// Parent path and last name of a canonical path.
#[must_use]
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}

/// What a path ends in, for calls that make, move or remove a name: only a name can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    Name,
    Dot,
    DotDot,
    Root,
}

impl Last {
    /// Of this path, and the path without slashes behind a name.
    #[must_use]
    pub fn of(path: &[u8]) -> (Self, &[u8]) {
        let Some(end) = path.iter().rposition(|b| *b != b'/') else {
            return (Self::Root, path);
        };
        let named = path.get(..=end).unwrap_or_default();
        match named.rsplit(|b| *b == b'/').next() {
            Some(b".") => (Self::Dot, path),
            Some(b"..") => (Self::DotDot, path),
            _ => (Self::Name, named),
        }
    }
}

/// Open beneath a directory of the host without following any link.
///
/// # Errors
/// The host's error numbers.
pub fn open_beneath(directory: RawFd, relative: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
    let mut name = relative.to_vec();
    name.push(0);
    let how: [u64; 3] = [
        (flags | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u32 as u64,
        0,
        RESOLVE,
    ];
    // SAFETY: a NUL-terminated name and a live open_how of the size given.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            directory,
            name.as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    let fd = RawFd::try_from(fd).map_err(|_| ENOENT)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// fstat(2) of the host.
///
/// # Errors
/// The host's error numbers.
pub fn host_stat(fd: RawFd) -> Result<libc::stat, Errno> {
    // SAFETY: zero is a valid stat, and `stat` is live.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &raw mut stat) != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(stat)
    }
}

fn read_host_link(fd: RawFd) -> Result<Vec<u8>, Errno> {
    let mut target = vec![0u8; 4096];
    // SAFETY: an empty name reads the link that `fd` itself is; the buffer is live.
    let length =
        unsafe { libc::readlinkat(fd, c"".as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    let length = usize::try_from(length).map_err(|_| Errno::from(io::Error::last_os_error()))?;
    target.truncate(length);
    Ok(target)
}

/// One step: a link to follow, a node, or nothing.
enum Step {
    Link(Vec<u8>),
    Node(Node),
    Nothing,
}

impl Namespace {
    /// Resolve `path` against the directory `cwd`.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP, EACCES, ENAMETOOLONG.
    pub fn resolve(&self, cwd: &[u8], path: &[u8], follow: bool) -> Result<Resolved, Errno> {
        if path.is_empty() {
            return Err(ENOENT);
        }
        let must_be_directory = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut current: Vec<u8> = if path.starts_with(b"/") {
            Vec::new()
        } else {
            cwd.to_vec()
        };
        let mut todo: VecDeque<Vec<u8>> = components(path);
        let mut links = 0;
        let mut node = self.step(&current)?;
        if !must_be_directory && let Some(resolved) = self.at_once(&current, &todo)? {
            return Ok(resolved);
        }
        while let Some(name) = todo.pop_front() {
            let is_file = || matches!(&node, Step::Node(node) if self.is_file(node));
            if name == b".." {
                if is_file() {
                    return Err(ENOTDIR);
                }
                let keep = current.iter().rposition(|b| *b == b'/').unwrap_or(0);
                current.truncate(keep);
                node = self.step(&current)?;
                continue;
            }
            if name.len() > NAME_MAX {
                return Err(if is_file() { ENOTDIR } else { ENAMETOOLONG });
            }
            current.push(b'/');
            current.extend_from_slice(&name);
            if current.len() > LONGEST {
                return Err(ENAMETOOLONG);
            }
            let last = todo.is_empty();
            match self.step(&current)? {
                Step::Link(target) if !last || follow || must_be_directory => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ELOOP);
                    }
                    let keep = current.len() - name.len() - 1;
                    current.truncate(if target.starts_with(b"/") { 0 } else { keep });
                    for part in components(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                    node = self.step(&current)?;
                }
                Step::Nothing if last => {
                    return Ok(Resolved {
                        path: current,
                        node: None,
                        directory_only: must_be_directory,
                    });
                }
                Step::Nothing => return Err(ENOENT),
                found => node = found,
            }
        }
        match node {
            Step::Node(node) if must_be_directory && self.is_file(&node) => Err(ENOTDIR),
            Step::Node(node) => Ok(Resolved {
                path: current,
                node: Some(node),
                directory_only: must_be_directory,
            }),
            Step::Link(target) => {
                let node = self.lookup(&current)?.unwrap_or(Node::Link(target));
                Ok(Resolved {
                    path: current,
                    node: Some(node),
                    directory_only: must_be_directory,
                })
            }
            Step::Nothing => Err(ENOENT),
        }
    }

    /// The common case: no `..`, no link, all of it behind one root. One call of the host.
    fn at_once(&self, base: &[u8], todo: &VecDeque<Vec<u8>>) -> Result<Option<Resolved>, Errno> {
        if todo.iter().any(|c| c == b"..") {
            return Ok(None);
        }
        let mut path = base.to_vec();
        for name in todo {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        let Ok(Some(node)) = self.lookup(&path) else {
            return Ok(None);
        };
        let Node::Host {
            directory,
            relative,
        } = &node
        else {
            return Ok(None);
        };
        // A path that enters this root only by way of another one's link has that link in `base` or before.
        match open_beneath(*directory, relative, libc::O_PATH) {
            Ok(fd) if host_stat(fd.as_raw_fd())?.st_mode & libc::S_IFMT != libc::S_IFLNK => {
                Ok(Some(Resolved {
                    path,
                    node: Some(node),
                    directory_only: false,
                }))
            }
            _ => Ok(None),
        }
    }

    /// Whether a node is certainly no directory. Of the host's, opening as one tells.
    fn is_file(&self, node: &Node) -> bool {
        match node {
            Node::Memory(inode) => !inode.is_directory(),
            Node::Host {
                directory,
                relative,
            } => {
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                matches!(open_beneath(*directory, relative, flags), Err(e) if e == ENOTDIR)
            }
            Node::Synthetic => false,
            _ => true,
        }
    }

    fn step(&self, path: &[u8]) -> Result<Step, Errno> {
        let Some(node) = self.lookup(path)? else {
            return Ok(Step::Nothing);
        };
        match &node {
            Node::Link(target) => Ok(Step::Link(target.clone())),
            Node::Memory(inode) => match &inode.content {
                super::tmpfs::Content::Link(target) => Ok(Step::Link(target.clone())),
                _ => Ok(Step::Node(node)),
            },
            Node::Host {
                directory,
                relative,
            } => match open_beneath(*directory, relative, libc::O_PATH) {
                Ok(fd) => match host_stat(fd.as_raw_fd())?.st_mode & libc::S_IFMT {
                    libc::S_IFLNK => Ok(Step::Link(read_host_link(fd.as_raw_fd())?)),
                    _ => Ok(Step::Node(node)),
                },
                Err(e) if e == ENOENT || e == ENOTDIR => Ok(if self.is_parent(path) {
                    Step::Node(Node::Synthetic)
                } else {
                    Step::Nothing
                }),
                Err(e) => Err(e),
            },
            _ => Ok(Step::Node(node)),
        }
    }
}

/// Names of a path, without empty ones and dots.
fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Open a host node for reading: regular files and directories only, never blocking on what it is.
///
/// # Errors
/// EACCES for FIFOs, sockets and devices; the host's error numbers.
pub fn open_host(
    directory: RawFd,
    relative: &[u8],
    path: &[u8],
) -> Result<(HostFile, libc::stat), Errno> {
    let fd = open_beneath(
        directory,
        relative,
        libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
    )?;
    let stat = host_stat(fd.as_raw_fd())?;
    if !matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR) {
        return Err(EACCES);
    }
    let identity = Identity::of(&stat);
    Ok((
        HostFile {
            fd,
            path: path.to_vec(),
            identity,
            writable: false,
        },
        stat,
    ))
}
