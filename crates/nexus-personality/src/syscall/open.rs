//! Opening, creating, and closing.

use crate::errno::{
    EACCES, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, ENXIO, EROFS, Errno, SysResult,
};
use crate::files::names::Node;
use crate::files::resolve::{Last, Resolved, host_stat, open_beneath, open_host};
use crate::files::tmpfs::{Content, Inode};
use crate::files::{Description, HostFile, Identity, Object};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, MutexGuard};

/// `AT_FDCWD` in the low half of a register.
const CWD: u32 = 0xffff_ff9c;

/// Flags that matter to the opening alone.
const MAKING: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_CLOEXEC;

/// Directory that a path of an `*at` call starts from.
///
/// # Errors
/// EBADF, ENOTDIR.
pub fn base(t: &Thread, directory: u64, path: &[u8]) -> Result<Vec<u8>, Errno> {
    if directory as u32 == CWD || path.starts_with(b"/") {
        return Ok(t.process.cwd().clone());
    }
    let description = Arc::clone(&t.process.files().entry(directory)?.description);
    match &description.object {
        Object::Directory(path) => Ok(path.clone()),
        Object::Host(file) => Ok(file.path.clone()),
        _ => Err(ENOTDIR),
    }
}

/// Resolve a path argument of an `*at` call.
///
/// # Errors
/// As `Namespace::resolve`.
pub fn resolve(t: &Thread, directory: u64, path: u64, follow: bool) -> Result<Resolved, Errno> {
    let path = own_pid(t, t.process.memory.read_path(path)?);
    let base = base(t, directory, &path)?;
    t.process.names.resolve(&base, &path, follow)
}

/// Resolve a path argument that names what is to be made, moved or removed: a link is not followed, not even for a slash behind
/// it. What the path ends in comes with it; what does not end in a name is there.
///
/// # Errors
/// As `Namespace::resolve`.
pub fn resolve_name(t: &Thread, directory: u64, path: u64) -> Result<(Resolved, Last), Errno> {
    let path = own_pid(t, t.process.memory.read_path(path)?);
    resolve_last(t, directory, &path)
}

fn resolve_last(t: &Thread, directory: u64, path: &[u8]) -> Result<(Resolved, Last), Errno> {
    let base = base(t, directory, path)?;
    let (last, named) = Last::of(path);
    let mut resolved = t.process.names.resolve(&base, named, false)?;
    resolved.directory_only = named.len() < path.len();
    if last != Last::Name && resolved.node.is_none() {
        return Err(ENOENT);
    }
    Ok((resolved, last))
}

/// Resolve a path argument that names what is to be made, and is not there: a directory, or something else.
///
/// # Errors
/// EEXIST; ENOENT for what is no directory with a slash behind its name; as `Namespace::resolve`.
pub fn vacant(t: &Thread, at: u64, path: u64, directory: bool) -> Result<Resolved, Errno> {
    let (resolved, _) = resolve_name(t, at, path)?;
    match resolved.node {
        Some(_) => Err(EEXIST),
        None if resolved.directory_only && !directory => Err(ENOENT),
        None => Ok(resolved),
    }
}

/// The lock of whoever makes, moves or removes names, from before it resolves them to the end: nobody else does meanwhile.
pub fn naming(t: &Thread) -> MutexGuard<'_, ()> {
    t.process.names.tmp.usage().naming()
}

/// `/proc/PID` of the guest itself is `/proc/self`.
pub fn own_pid(t: &Thread, path: Vec<u8>) -> Vec<u8> {
    let Some(rest) = path.strip_prefix(b"/proc/") else {
        return path;
    };
    let own = t.process.pid().to_string();
    match rest.strip_prefix(own.as_bytes()) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => {
            [b"/proc/self".as_slice(), rest].concat()
        }
        _ => path,
    }
}

/// Resolve a path that did not come as an argument.
///
/// # Errors
/// As `Namespace::resolve`.
pub fn resolve_path(t: &Thread, path: &[u8]) -> Result<Resolved, Errno> {
    let cwd = t.process.cwd().clone();
    t.process.names.resolve(&cwd, path, true)
}

/// The directory in memory that a new name would be made in.
///
/// # Errors
/// EROFS where only the host could make it, EACCES where the directory's mode forbids it.
pub fn parent(t: &Thread, resolved: &Resolved) -> Result<Arc<Inode>, Errno> {
    match t.process.names.lookup(resolved.split().0)? {
        Some(Node::Memory(inode)) if inode.is_directory() => inode.permit(3).map(|()| inode),
        Some(Node::Memory(_)) => Err(ENOTDIR),
        _ => Err(EROFS),
    }
}

pub fn open(t: &mut Thread, cpu: &mut dyn Cpu, [path, flags, mode, ..]: [u64; 6]) -> SysResult {
    openat(t, cpu, [u64::from(CWD), path, flags, mode, 0, 0])
}

pub fn creat(t: &mut Thread, cpu: &mut dyn Cpu, [path, mode, ..]: [u64; 6]) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    openat(t, cpu, [u64::from(CWD), path, flags as u64, mode, 0, 0])
}

#[allow(clippy::cast_possible_truncation)]
pub fn openat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, flags, mode, ..]: [u64; 6],
) -> SysResult {
    let mut flags = flags as i32;
    if flags & libc::O_PATH != 0 {
        // The others mean nothing then.
        flags &= libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    }
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return open_unnamed(t, directory, path, flags, mode as u32);
    }
    let path = own_pid(t, t.process.memory.read_path(path)?);
    let (resolved, created) = find(t, directory, &path, flags, mode as u32)?;
    if let Some(inode) = fifo_of(t, &resolved)
        && flags & (libc::O_PATH | libc::O_DIRECTORY) == 0
        && flags & (libc::O_CREAT | libc::O_EXCL) != libc::O_CREAT | libc::O_EXCL
    {
        permit(&inode, flags)?;
        let description = super::fifo::open(t, &inode, flags & !MAKING)?;
        let close_on_exec = flags & libc::O_CLOEXEC != 0;
        return t.process.files().insert(description, close_on_exec, 0);
    }
    let object = match &resolved.node {
        Some(_) if flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL => {
            return Err(EEXIST);
        }
        Some(node) => open_node(t, &resolved, node, flags)?,
        None => Object::Memory(created.ok_or(ENOENT)?),
    };
    let lent = match &object {
        Object::Directory(path) => Some(t.process.ledger.lend(path.len() as u64)?),
        _ => None,
    };
    let description = Description::new(object, flags & !MAKING);
    description.listing().lent.1 = lent;
    t.process
        .files()
        .insert(description, flags & libc::O_CLOEXEC != 0, 0)
}

/// What is to be opened, or else the file that was made there.
fn find(
    t: &Thread,
    directory: u64,
    path: &[u8],
    flags: i32,
    mode: u32,
) -> Result<(Resolved, Option<Arc<Inode>>), Errno> {
    let creates = flags & libc::O_CREAT != 0;
    let follow = flags & libc::O_NOFOLLOW == 0
        && flags & (libc::O_CREAT | libc::O_EXCL) != libc::O_CREAT | libc::O_EXCL;
    if creates && flags & libc::O_DIRECTORY != 0 {
        return Err(EINVAL);
    }
    if creates && path.ends_with(b"/") {
        return resolve_last(t, directory, path).and(Err(EISDIR));
    }
    let look = || {
        let base = base(t, directory, path)?;
        t.process.names.resolve(&base, path, follow)
    };
    let resolved = look()?;
    if resolved.node.is_some() || !creates {
        return Ok((resolved, None));
    }
    let _naming = naming(t);
    // Whoever was faster has made it.
    let resolved = look()?;
    if resolved.node.is_some() {
        return Ok((resolved, None));
    }
    if resolved.directory_only {
        return Err(ENOENT);
    }
    let parent = parent(t, &resolved)?;
    let inode = Inode::file(parent.usage(), mode & !t.process.umask())?;
    parent.add(resolved.split().1, Arc::clone(&inode))?;
    Ok((resolved, Some(inode)))
}

fn open_unnamed(t: &Thread, directory: u64, path: u64, flags: i32, mode: u32) -> SysResult {
    let resolved = resolve(t, directory, path, true)?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY {
        return Err(EINVAL);
    }
    match resolved.node {
        Some(Node::Memory(inode)) if inode.is_directory() => {
            let file = Inode::file(inode.usage(), mode & !t.process.umask())?;
            file.meta().links = 0;
            let description = Description::new(
                Object::Memory(file),
                flags & !(libc::O_TMPFILE | libc::O_CLOEXEC),
            );
            t.process
                .files()
                .insert(description, flags & libc::O_CLOEXEC != 0, 0)
        }
        Some(_) => Err(EROFS),
        None => Err(ENOENT),
    }
}

/// The FIFO that a path names, itself or by a descriptor's link in `/proc/self/fd`.
fn fifo_of(t: &Thread, resolved: &Resolved) -> Option<Arc<Inode>> {
    match &resolved.node {
        Some(Node::Memory(inode)) if matches!(inode.content, Content::Fifo(_)) => {
            Some(Arc::clone(inode))
        }
        Some(Node::Descriptor(fd)) => match &super::io::description(t, *fd).ok()?.object {
            Object::Fifo(end) => Some(Arc::clone(&end.inode)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the mode of something in memory allows this way of opening it.
fn permit(inode: &Inode, flags: i32) -> Result<(), Errno> {
    let reads = flags & libc::O_ACCMODE != libc::O_WRONLY;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    inode.permit(u32::from(reads) * 4 + u32::from(writes && !inode.is_directory()) * 2)
}

fn open_node(t: &Thread, resolved: &Resolved, node: &Node, flags: i32) -> Result<Object, Errno> {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    let wants_directory = flags & libc::O_DIRECTORY != 0;
    let creates = flags & libc::O_CREAT != 0;
    if let Node::Memory(inode) = node
        && flags & libc::O_PATH == 0
    {
        permit(inode, flags)?;
    }
    match node {
        Node::Host { .. } if writes => Err(EROFS),
        Node::Host {
            directory,
            relative,
        } => {
            let (file, stat) = match open_host(*directory, relative, &resolved.path) {
                Err(ELOOP) if flags & libc::O_PATH != 0 => {
                    open_link(*directory, relative, &resolved.path)?
                }
                other => other?,
            };
            let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
            if wants_directory && !is_directory {
                return Err(ENOTDIR);
            }
            if creates && is_directory {
                return Err(EISDIR);
            }
            Ok(Object::Host(Arc::new(file)))
        }
        Node::Synthetic if writes || creates => Err(EISDIR),
        Node::Synthetic => Ok(Object::Directory(resolved.path.clone())),
        Node::Memory(inode) if inode.is_directory() => {
            if writes || creates {
                Err(EISDIR)
            } else {
                Ok(Object::Directory(resolved.path.clone()))
            }
        }
        _ if wants_directory => Err(ENOTDIR),
        Node::Memory(inode) => {
            if flags & libc::O_PATH == 0 {
                openable(inode)?;
            }
            if flags & libc::O_TRUNC != 0 {
                inode.resize(0)?;
                inode.touch();
            }
            Ok(Object::Memory(Arc::clone(inode)))
        }
        Node::Device("null") => Ok(Object::Null),
        Node::Device("zero") => Ok(Object::Zero),
        Node::Device("full") => Ok(Object::Full),
        Node::Device("tty") => super::terminals::open_controlling(t),
        Node::Device("ptmx") => super::terminals::open_master(t),
        Node::Terminal(number) => super::terminals::open_slave(t, *number, flags),
        Node::Device("nexus") => Ok(Object::Device),
        Node::Device(_) => Ok(Object::Random),
        Node::MadeUp(_) | Node::Process(_) if writes => Err(EACCES),
        Node::Shadow => Err(EACCES),
        Node::MadeUp(content) => made_up(t, content),
        Node::Process(name) => made_up(t, &super::proc::content(t, name)?),
        Node::Descriptor(fd) => open_again(t, *fd, flags),
        Node::Link(_) => Err(ELOOP),
    }
}

/// Sockets are connected to, not opened, and links are followed; but all can be referred to by O_PATH.
fn openable(inode: &Inode) -> Result<(), Errno> {
    match inode.content {
        _ if inode.host().is_some() => Ok(()),
        Content::Link(_) => Err(ELOOP),
        _ => Err(ENXIO),
    }
}

/// A link of the host's itself, to look at.
fn open_link(
    directory: RawFd,
    relative: &[u8],
    path: &[u8],
) -> Result<(HostFile, libc::stat), Errno> {
    let fd = open_beneath(directory, relative, libc::O_PATH)?;
    let stat = host_stat(fd.as_raw_fd())?;
    let file = HostFile {
        fd,
        path: path.to_vec(),
        identity: Identity::of(&stat),
        writable: false,
    };
    Ok((file, stat))
}

fn made_up(t: &Thread, content: &[u8]) -> Result<Object, Errno> {
    let usage = t.process.names.tmp.usage();
    Ok(Object::Memory(Inode::made_up(usage, 0o444, content)?))
}

/// Open what a descriptor refers to, by its link in `/proc/self/fd`: a file anew, the rest as a duplicate.
fn open_again(t: &Thread, fd: u64, flags: i32) -> Result<Object, Errno> {
    let d = super::io::description(t, fd).map_err(|_| ENOENT)?;
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
    Ok(match &d.object {
        Object::Memory(inode) => {
            openable(inode)?;
            if flags & libc::O_TRUNC != 0 {
                inode.resize(0)?;
                inode.touch();
            }
            Object::Memory(Arc::clone(inode))
        }
        Object::Host(_) if writes => return Err(EROFS),
        Object::Host(file) => Object::Host(Arc::new(super::dirs::reopen(&t.process, &file.path)?)),
        Object::Directory(path) => Object::Directory(path.clone()),
        Object::Null => Object::Null,
        Object::Zero => Object::Zero,
        Object::Full => Object::Full,
        Object::Random => Object::Random,
        Object::Standard(fd) => Object::Standard(*fd),
        Object::Terminal(side) if !side.is_master => {
            super::terminals::open_slave(t, side.terminal.number, flags)?
        }
        Object::Pipe(end, writing) => Object::Pipe(end.try_clone()?, *writing),
        _ => return Err(ENXIO),
    })
}

pub fn close(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    let d = super::io::description(t, fd)?;
    t.process.files().close(fd)?;
    super::fdops::closes(t, &d);
    Ok(0)
}

pub fn close_range(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [first, last, flags, ..]: [u64; 6],
) -> SysResult {
    const CLOEXEC: u64 = 4;
    if first > last || flags & !(CLOEXEC | 2) != 0 {
        return Err(EINVAL);
    }
    let mut files = t.process.files();
    let mut closed = Vec::new();
    let inside: Vec<u64> = files
        .iter()
        .map(|(n, _)| n)
        .filter(|n| (first..=last).contains(n))
        .collect();
    for fd in inside {
        if flags & CLOEXEC != 0 {
            files.entry(fd)?.close_on_exec = true;
        } else {
            closed.push(Arc::clone(&files.entry(fd)?.description));
            files.close(fd)?;
        }
    }
    drop(files);
    for description in closed {
        super::fdops::closes(t, &description);
    }
    Ok(0)
}

pub fn memfd_create(t: &mut Thread, _: &mut dyn Cpu, [name, flags, ..]: [u64; 6]) -> SysResult {
    t.process.memory.read_path(name)?;
    if flags & !3 != 0 {
        return Err(EINVAL);
    }
    let inode = Inode::file(t.process.names.tmp.usage(), 0o777)?;
    inode.meta().links = 0;
    let description = Description::new(Object::Memory(inode), libc::O_RDWR);
    t.process.files().insert(description, flags & 1 != 0, 0)
}
