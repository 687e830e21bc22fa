//! Modes, owners and times of files, and extended attributes, which none has.

use super::open::resolve;
use crate::errno::{EINVAL, ENOENT, ENOTSUP, EPERM, EROFS, Errno, SysResult};
use crate::files::Object;
use crate::files::names::Node;
use crate::files::tmpfs::{Inode, now};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::sync::Arc;

const CWD: u64 = 0xffff_ff9c;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_EMPTY_PATH: u64 = 0x1000;

/// The file in memory that a path names.
fn changeable(t: &Thread, directory: u64, path: u64, follow: bool) -> Result<Arc<Inode>, Errno> {
    match resolve(t, directory, path, follow)?.node {
        Some(Node::Memory(inode)) => Ok(inode),
        Some(Node::Descriptor(fd)) => changeable_open(t, fd),
        Some(_) => Err(EROFS),
        None => Err(ENOENT),
    }
}

/// The file in memory behind a descriptor; directories are opened by name.
fn changeable_open(t: &Thread, fd: u64) -> Result<Arc<Inode>, Errno> {
    match &super::io::description(t, fd)?.object {
        Object::Memory(inode) => Ok(Arc::clone(inode)),
        Object::Fifo(end) => Ok(Arc::clone(&end.inode)),
        Object::Directory(path) => match t.process.names.lookup(path)? {
            Some(Node::Memory(inode)) => Ok(inode),
            _ => Err(EROFS),
        },
        _ => Err(EROFS),
    }
}

fn change_mode(inode: &Inode, mode: u64) -> SysResult {
    let mut meta = inode.meta();
    meta.mode = meta.mode & libc::S_IFMT | mode as u32 & 0o7777;
    meta.changed = now();
    Ok(0)
}

pub fn chmod(t: &mut Thread, _: &mut dyn Cpu, [path, mode, ..]: [u64; 6]) -> SysResult {
    change_mode(&*changeable(t, CWD, path, true)?, mode)
}

pub fn fchmodat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, ..]: [u64; 6],
) -> SysResult {
    change_mode(&*changeable(t, directory, path, true)?, mode)
}

pub fn fchmod(t: &mut Thread, _: &mut dyn Cpu, [fd, mode, ..]: [u64; 6]) -> SysResult {
    change_mode(&*changeable_open(t, fd)?, mode)
}

/// There is one user, who owns what may be written; giving files away needs a privilege nobody has.
fn change_owner(inode: &Inode, user: u64, group: u64) -> SysResult {
    let own = |id: u64| id as u32 == u32::MAX || u64::from(id as u32) == super::info::UID;
    if !own(user) || !own(group) {
        return Err(EPERM);
    }
    inode.meta().changed = now();
    Ok(0)
}

pub fn chown(t: &mut Thread, _: &mut dyn Cpu, [path, user, group, ..]: [u64; 6]) -> SysResult {
    change_owner(&*changeable(t, CWD, path, true)?, user, group)
}

pub fn lchown(t: &mut Thread, _: &mut dyn Cpu, [path, user, group, ..]: [u64; 6]) -> SysResult {
    change_owner(&*changeable(t, CWD, path, false)?, user, group)
}

pub fn fchown(t: &mut Thread, _: &mut dyn Cpu, [fd, user, group, ..]: [u64; 6]) -> SysResult {
    change_owner(&*changeable_open(t, fd)?, user, group)
}

pub fn fchownat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, user, group, flags, _]: [u64; 6],
) -> SysResult {
    let empty = flags & AT_EMPTY_PATH != 0 && t.process.memory.read::<u8>(path)? == 0;
    let inode = if empty {
        changeable_open(t, directory)?
    } else {
        changeable(t, directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    change_owner(&inode, user, group)
}

/// Times as seconds and nanoseconds: of access, then of change. `None`: now.
fn set_times(inode: &Inode, given: Option<[i64; 4]>) -> SysResult {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let [as_, an, ms, mn] = given.unwrap_or([0, UTIME_NOW, 0, UTIME_NOW]);
    let valid = |n| matches!(n, UTIME_NOW | UTIME_OMIT | 0..1_000_000_000);
    if !valid(an) || !valid(mn) {
        return Err(EINVAL);
    }
    let chosen = |seconds, nanoseconds, before| match nanoseconds {
        UTIME_OMIT => before,
        UTIME_NOW => now(),
        _ => (seconds, nanoseconds),
    };
    let mut meta = inode.meta();
    meta.accessed = chosen(as_, an, meta.accessed);
    meta.modified = chosen(ms, mn, meta.modified);
    meta.changed = now();
    Ok(0)
}

pub fn utimensat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, times, flags, ..]: [u64; 6],
) -> SysResult {
    let inode = if path == 0 {
        changeable_open(t, directory)?
    } else {
        changeable(t, directory, path, flags & AT_SYMLINK_NOFOLLOW == 0)?
    };
    let given = if times == 0 {
        None
    } else {
        Some(t.process.memory.read(times)?)
    };
    set_times(&inode, given)
}

pub fn utimes(t: &mut Thread, cpu: &mut dyn Cpu, [path, times, ..]: [u64; 6]) -> SysResult {
    futimesat(t, cpu, [CWD, path, times, 0, 0, 0])
}

/// Times in seconds and microseconds.
pub fn futimesat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, times, ..]: [u64; 6],
) -> SysResult {
    let inode = changeable(t, directory, path, true)?;
    if times == 0 {
        return set_times(&inode, None);
    }
    let [accessed, au, modified, mu]: [i64; 4] = t.process.memory.read(times)?;
    if !(0..1_000_000).contains(&au) || !(0..1_000_000).contains(&mu) {
        return Err(EINVAL);
    }
    set_times(&inode, Some([accessed, au * 1000, modified, mu * 1000]))
}

/// Times in seconds.
pub fn utime(t: &mut Thread, _: &mut dyn Cpu, [path, times, ..]: [u64; 6]) -> SysResult {
    let inode = changeable(t, CWD, path, true)?;
    if times == 0 {
        return set_times(&inode, None);
    }
    let [accessed, modified]: [i64; 2] = t.process.memory.read(times)?;
    set_times(&inode, Some([accessed, 0, modified, 0]))
}

pub fn umask(t: &mut Thread, _: &mut dyn Cpu, [mask, ..]: [u64; 6]) -> SysResult {
    Ok(u64::from(t.process.set_umask(mask as u32)))
}

/// No file here has extended attributes.
pub fn xattr(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(ENOTSUP)
}
