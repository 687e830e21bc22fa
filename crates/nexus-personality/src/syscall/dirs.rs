//! Names: directories, links, removal, renaming, modes and times.

use super::open::{base, naming, parent, resolve, resolve_name, vacant};
use super::stat::hidden;
use crate::errno::{
    EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, ERANGE, EROFS, EXDEV, Errno,
    SysResult, check,
};
use crate::files::description::{Entry, Listing};
use crate::files::names::Node;
use crate::files::resolve::{Last, Resolved, open_beneath, open_host, split};
use crate::files::tmpfs::{Content, Inode, Named, now};
use crate::files::{HostFile, Object};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const CWD: u64 = 0xffff_ff9c;
const AT_REMOVEDIR: u64 = 0x200;
const RENAME_NOREPLACE: u64 = 1;
const RENAME_EXCHANGE: u64 = 2;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_SYMLINK_FOLLOW: u64 = 0x400;
/// What the allocator takes for a name beside its bytes, at most.
const ALLOCATOR_BYTES: usize = 32;

pub fn getcwd(t: &mut Thread, _: &mut dyn Cpu, [to, size, ..]: [u64; 6]) -> SysResult {
    let mut path = t.process.cwd().clone();
    if path.is_empty() {
        path.push(b'/');
    }
    path.push(0);
    if path.len() as u64 > size {
        return Err(ERANGE);
    }
    t.process.memory.write_bytes(to, &path)?;
    Ok(path.len() as u64)
}

pub fn chdir(t: &mut Thread, _: &mut dyn Cpu, [path, ..]: [u64; 6]) -> SysResult {
    let resolved = resolve(t, CWD, path, true)?;
    let is_directory = match &resolved.node {
        Some(Node::Host {
            directory,
            relative,
        }) => open_beneath(*directory, relative, libc::O_PATH | libc::O_DIRECTORY).is_ok(),
        Some(Node::Memory(inode)) if inode.is_directory() => inode.permit(1).map(|()| true)?,
        Some(Node::Synthetic) => true,
        Some(_) => false,
        None => return Err(ENOENT),
    };
    if !is_directory {
        return Err(ENOTDIR);
    }
    *t.process.cwd() = resolved.path;
    Ok(0)
}

pub fn fchdir(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    let path = base(t, fd, b"")?;
    *t.process.cwd() = path;
    Ok(0)
}

pub fn readlink(t: &mut Thread, cpu: &mut dyn Cpu, [path, to, size, ..]: [u64; 6]) -> SysResult {
    readlinkat(t, cpu, [CWD, path, to, size, 0, 0])
}

pub fn readlinkat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, to, size, ..]: [u64; 6],
) -> SysResult {
    let resolved = resolve(t, directory, path, false)?;
    let target = match resolved.node.ok_or(ENOENT)? {
        Node::Link(target) => target,
        Node::Descriptor(fd) => {
            super::proc::target(&*super::io::description(t, fd).map_err(|_| ENOENT)?)
        }
        Node::Process("cwd") => t.process.cwd().clone(),
        Node::Memory(inode) => match &inode.content {
            Content::Link(target) => target.clone(),
            _ => return Err(EINVAL),
        },
        Node::Host {
            directory,
            relative,
        } => {
            let link = open_beneath(directory, &relative, libc::O_PATH)?;
            let mut target = vec![0u8; 4096];
            // SAFETY: an empty name reads the link that `link` is; the buffer is live.
            let n = unsafe {
                libc::readlinkat(
                    link.as_raw_fd(),
                    c"".as_ptr(),
                    target.as_mut_ptr().cast(),
                    target.len(),
                )
            };
            if n < 0 {
                return Err(EINVAL);
            }
            target.truncate(usize::try_from(n).map_err(|_| EINVAL)?);
            target
        }
        _ => return Err(EINVAL),
    };
    let length = target.len().min(usize::try_from(size).map_err(|_| EINVAL)?);
    t.process
        .memory
        .write_bytes(to, target.get(..length).unwrap_or_default())?;
    Ok(length as u64)
}

/// One `linux_dirent64`.
fn entry(out: &mut Vec<u8>, number: u64, next: u64, kind: u8, name: &[u8]) {
    let length = (19 + name.len() + 1).next_multiple_of(8);
    let start = out.len();
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(&(length as u16).to_le_bytes());
    out.push(kind);
    out.extend_from_slice(name);
    out.resize(start + length, 0);
}

pub fn getdents64(t: &mut Thread, _: &mut dyn Cpu, [fd, to, size, ..]: [u64; 6]) -> SysResult {
    let d = super::io::description(t, fd)?;
    let size = size.min(64 << 10);
    match &d.object {
        Object::Host(file) => {
            // The host keeps the position; this lock, that what is read is read once, and again where it cannot be handed over.
            let _together = d.state();
            read_host(t, file, to, size)
        }
        Object::Directory(path) => {
            let mut state = d.state();
            let mut listing = d.listing();
            // Read once: what is removed meanwhile must not make others be passed over.
            if state.position == 0 {
                list(t, path, &mut listing)?;
            }
            let names = &listing.entries;
            let mut out = Vec::new();
            let skip = usize::try_from(state.position).map_err(|_| EINVAL)?;
            let mut next = state.position;
            for (n, (name, kind, number)) in names.iter().enumerate().skip(skip) {
                if out.len() + (19 + name.len() + 1).next_multiple_of(8) > size as usize {
                    break;
                }
                entry(&mut out, *number, n as u64 + 1, *kind, name);
                next = n as u64 + 1;
            }
            if out.is_empty() && skip < names.len() {
                return Err(EINVAL);
            }
            t.process.memory.write_bytes(to, &out)?;
            state.position = next;
            Ok(out.len() as u64)
        }
        _ => Err(ENOTDIR),
    }
}

/// Entries of a directory of the host, with the numbers that stat tells.
fn read_host(t: &Thread, file: &HostFile, to: u64, size: u64) -> SysResult {
    let directory = file.fd.as_raw_fd();
    let mut records = vec![0; size as usize];
    // SAFETY: a plain call on a descriptor of ours.
    let before = unsafe { libc::lseek(directory, 0, libc::SEEK_CUR) };
    let buffer = records.as_mut_ptr();
    // SAFETY: the buffer is live and of the length given.
    let got = unsafe { libc::syscall(libc::SYS_getdents64, directory, buffer, records.len()) };
    let got = check(got)?;
    records.truncate(got as usize);
    let device = file.identity.device;
    let key = t.process.number_key();
    let mut rest = records.as_mut_slice();
    // As in `entry`: the number, where to go on, the record's length.
    while let Some((number, length)) = rest.split_first_chunk_mut().and_then(|(number, more)| {
        let length = more.get(8..10)?.try_into().ok()?;
        Some((number, usize::from(u16::from_le_bytes(length))))
    }) {
        *number = hidden(u64::from_le_bytes(*number), device, key).to_le_bytes();
        rest = rest.get_mut(length.max(1)..).unwrap_or_default();
    }
    let done = t.process.memory.write_bytes(to, &records);
    if done.is_err() {
        // SAFETY: as above.
        unsafe { libc::lseek(directory, before, libc::SEEK_SET) };
    }
    done.map(|()| got)
}

/// Read a directory's entries. They are charged before they are copied.
fn list(t: &Thread, path: &[u8], listing: &mut Listing) -> Result<(), Errno> {
    listing.entries = Vec::new();
    listing.lent.0 = None;
    let lend = |bytes: usize| t.process.ledger.lend(bytes as u64);
    let taken = |name: &[u8]| size_of::<Entry>() + name.len() + ALLOCATOR_BYTES;
    let mut names = vec![
        (b".".to_vec(), libc::DT_DIR, 1),
        (b"..".to_vec(), libc::DT_DIR, 1),
    ];
    // Not under the lock of the directory itself: a parent's is taken first.
    let above = t.process.names.lookup(split(path).0);
    match t.process.names.lookup(path)? {
        Some(Node::Memory(inode)) => {
            let entries = inode.entries()?;
            listing.lent.0 = Some(lend(entries.keys().map(|name| taken(name)).sum())?);
            names.reserve_exact(entries.len());
            if let [own, parent] = names.as_mut_slice() {
                own.2 = inode.number;
                if let Ok(Some(Node::Memory(inode))) = above {
                    parent.2 = inode.number;
                }
            }
            for (name, named) in entries.iter() {
                let inode = &named.inode;
                let kind = match &inode.content {
                    Content::File(_) => libc::DT_REG,
                    Content::Directory(_) => libc::DT_DIR,
                    Content::Link(_) => libc::DT_LNK,
                    Content::Socket => libc::DT_SOCK,
                    Content::Fifo(_) => libc::DT_FIFO,
                };
                names.push((name.clone(), kind, inode.number));
            }
        }
        Some(_) if path == b"/proc/self/fd" => {
            let files = t.process.files();
            names.extend(
                files
                    .iter()
                    .map(|(fd, _)| (fd.to_string().into_bytes(), libc::DT_LNK, fd + 2)),
            );
        }
        Some(_) => {
            let children = t.process.names.children(path).into_iter();
            names.extend(children.map(|name| (name, libc::DT_UNKNOWN, 1)));
        }
        None => return Err(ENOENT),
    }
    if listing.lent.0.is_none() {
        listing.lent.0 = Some(lend(names.iter().map(|(name, ..)| taken(name)).sum())?);
    }
    listing.entries = names;
    Ok(())
}

pub fn mkdir(t: &mut Thread, cpu: &mut dyn Cpu, [path, mode, ..]: [u64; 6]) -> SysResult {
    mkdirat(t, cpu, [CWD, path, mode, 0, 0, 0])
}

#[allow(clippy::cast_possible_truncation)]
pub fn mkdirat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, ..]: [u64; 6],
) -> SysResult {
    let _naming = naming(t);
    let resolved = vacant(t, directory, path, true)?;
    let parent = parent(t, &resolved)?;
    let inode = Inode::directory(parent.usage(), mode as u32 & !t.process.umask())?;
    parent.add(resolved.split().1, inode).map(|()| 0)
}

pub fn unlink(t: &mut Thread, _: &mut dyn Cpu, [path, ..]: [u64; 6]) -> SysResult {
    remove(t, CWD, path, false)
}

pub fn rmdir(t: &mut Thread, _: &mut dyn Cpu, [path, ..]: [u64; 6]) -> SysResult {
    remove(t, CWD, path, true)
}

pub fn unlinkat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, flags, ..]: [u64; 6],
) -> SysResult {
    remove(t, directory, path, flags & AT_REMOVEDIR != 0)
}

fn remove(t: &Thread, directory: u64, path: u64, is_directory: bool) -> SysResult {
    let _naming = naming(t);
    let (resolved, last) = resolve_name(t, directory, path)?;
    let node = resolved.node.as_ref().ok_or(ENOENT)?;
    match last {
        Last::Name => {}
        _ if !is_directory => return Err(EISDIR),
        Last::Dot => return Err(EINVAL),
        Last::DotDot => return Err(ENOTEMPTY),
        Last::Root => return Err(EBUSY),
    }
    if resolved.directory_only && !is_directory {
        let directory = matches!(node, Node::Memory(inode) if inode.is_directory());
        return Err(if directory { EISDIR } else { ENOTDIR });
    }
    if t.process.names.is_memory_root(&resolved.path) {
        return Err(EBUSY);
    }
    parent(t, &resolved)?
        .remove(resolved.split().1, is_directory)
        .map(|()| 0)
}

pub fn symlink(t: &mut Thread, cpu: &mut dyn Cpu, [target, path, ..]: [u64; 6]) -> SysResult {
    symlinkat(t, cpu, [target, CWD, path, 0, 0, 0])
}

pub fn symlinkat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [target, directory, path, ..]: [u64; 6],
) -> SysResult {
    let target = t.process.memory.read_path(target)?;
    if target.is_empty() {
        return Err(ENOENT);
    }
    let _naming = naming(t);
    let resolved = vacant(t, directory, path, false)?;
    let parent = parent(t, &resolved)?;
    parent
        .add(resolved.split().1, Inode::link(parent.usage(), target)?)
        .map(|()| 0)
}

pub fn link(t: &mut Thread, cpu: &mut dyn Cpu, [from, to, ..]: [u64; 6]) -> SysResult {
    linkat(t, cpu, [CWD, from, CWD, to, 0, 0])
}

pub fn linkat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [from_directory, from, to_directory, to, flags, _]: [u64; 6],
) -> SysResult {
    if flags & !(AT_EMPTY_PATH | AT_SYMLINK_FOLLOW) != 0 {
        return Err(EINVAL);
    }
    // A file without a name gets one: through its descriptor, or through /proc/self/fd.
    let unnamed = flags & AT_EMPTY_PATH != 0 && t.process.memory.read::<u8>(from)? == 0;
    let _naming = naming(t);
    if unnamed {
        let target = vacant(t, to_directory, to, false)?;
        let Object::Memory(inode) = &super::io::description(t, from_directory)?.object else {
            return Err(EPERM);
        };
        return give_name(t, inode, &target);
    }
    let source = resolve(t, from_directory, from, flags & AT_SYMLINK_FOLLOW != 0)?;
    let source = source.node.ok_or(ENOENT)?;
    let target = vacant(t, to_directory, to, false)?;
    match source {
        Node::Memory(inode) => give_name(t, &inode, &target),
        Node::Descriptor(fd) if flags & AT_SYMLINK_FOLLOW != 0 => {
            match &super::io::description(t, fd)?.object {
                Object::Memory(inode) => give_name(t, inode, &target),
                _ => Err(EXDEV),
            }
        }
        // Another file system than that of the new name.
        _ => Err(EXDEV),
    }
}

fn give_name(t: &Thread, inode: &Arc<Inode>, target: &Resolved) -> SysResult {
    if inode.is_directory() {
        return Err(EPERM);
    }
    parent(t, target)?.add(target.split().1, Arc::clone(inode))?;
    let mut meta = inode.meta();
    meta.links += 1;
    meta.changed = now();
    Ok(0)
}

pub fn rename(t: &mut Thread, cpu: &mut dyn Cpu, [from, to, ..]: [u64; 6]) -> SysResult {
    renameat2(t, cpu, [CWD, from, CWD, to, 0, 0])
}

pub fn renameat(t: &mut Thread, cpu: &mut dyn Cpu, [a, from, b, to, ..]: [u64; 6]) -> SysResult {
    renameat2(t, cpu, [a, from, b, to, 0, 0])
}

pub fn renameat2(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [a, from, b, to, flags, _]: [u64; 6],
) -> SysResult {
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0
        || flags == RENAME_NOREPLACE | RENAME_EXCHANGE
    {
        return Err(EINVAL);
    }
    let _naming = naming(t);
    let (source, source_last) = resolve_name(t, a, from)?;
    let (target, target_last) = resolve_name(t, b, to)?;
    if source_last != Last::Name || target_last != Last::Name {
        return Err(EBUSY);
    }
    let inode = match &source.node {
        Some(Node::Memory(inode)) if !t.process.names.is_memory_root(&source.path) => {
            Arc::clone(inode)
        }
        Some(_) => return Err(EROFS),
        None => return Err(ENOENT),
    };
    let inside = |outer: &[u8], inner: &[u8]| {
        inner
            .strip_prefix(outer)
            .is_some_and(|r| r.starts_with(b"/"))
    };
    if flags & RENAME_EXCHANGE != 0 && target.node.is_none() {
        return Err(ENOENT);
    }
    if inside(&source.path, &target.path) {
        return Err(EINVAL);
    }
    if !inode.is_directory() && (source.directory_only || target.directory_only) {
        return Err(ENOTDIR);
    }
    let (old_parent, new_parent) = (parent(t, &source)?, parent(t, &target)?);
    let (old_name, new_name) = (source.split().1, target.split().1);
    match &target.node {
        Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(EEXIST),
        Some(Node::Memory(existing)) if flags & RENAME_EXCHANGE != 0 => {
            if inside(&target.path, &source.path) {
                return Err(EINVAL);
            }
            let existing = Arc::clone(existing);
            let (new, old) = (
                Named::new(new_name, inode)?,
                Named::new(old_name, existing)?,
            );
            new_parent.entries()?.insert(new_name.to_vec(), new);
            old_parent.entries()?.insert(old_name.to_vec(), old);
            old_parent.touch();
            new_parent.touch();
            return Ok(0);
        }
        Some(Node::Memory(existing)) => {
            // Two names of one file: nothing happens, as POSIX has it.
            if Arc::ptr_eq(existing, &inode) {
                return Ok(0);
            }
            match (inode.is_directory(), existing.is_directory()) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                (true, true) if !existing.entries()?.is_empty() => return Err(ENOTEMPTY),
                _ => {}
            }
        }
        _ => {}
    }
    let entry = Named::new(new_name, Arc::clone(&inode))?;
    if let Some(Node::Memory(existing)) = &target.node {
        let mut meta = existing.meta();
        meta.links = meta.links.saturating_sub(1);
    }
    inode.meta().changed = now();
    // The new name first: at no time is the file without one.
    new_parent.entries()?.insert(new_name.to_vec(), entry);
    old_parent.entries()?.remove(old_name);
    old_parent.touch();
    new_parent.touch();
    Ok(0)
}

pub fn mknod(t: &mut Thread, cpu: &mut dyn Cpu, [path, mode, device, ..]: [u64; 6]) -> SysResult {
    mknodat(t, cpu, [CWD, path, mode, device, 0, 0])
}

/// mknod(2) of what needs no privilege: files, FIFOs, and names of sockets.
pub fn mknodat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, ..]: [u64; 6],
) -> SysResult {
    let mode = mode as u32;
    let _naming = naming(t);
    let resolved = vacant(t, directory, path, false)?;
    let parent = parent(t, &resolved)?;
    let bits = mode & !t.process.umask();
    let inode = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Inode::file(parent.usage(), bits)?,
        libc::S_IFIFO => Inode::fifo(parent.usage(), bits)?,
        libc::S_IFSOCK => Inode::socket(parent.usage(), bits)?,
        libc::S_IFCHR | libc::S_IFBLK => return Err(EPERM),
        _ => return Err(EINVAL),
    };
    parent.add(resolved.split().1, inode).map(|()| 0)
}

/// Open what a host node names, for a snapshot's sake.
///
/// # Errors
/// As `open_host`.
pub fn reopen(t: &crate::process::Process, path: &[u8]) -> Result<crate::files::HostFile, Errno> {
    match t.names.lookup(path)? {
        Some(Node::Host {
            directory,
            relative,
        }) => open_host(directory, &relative, path).map(|(f, _)| f),
        _ => Err(ENOENT),
    }
}
