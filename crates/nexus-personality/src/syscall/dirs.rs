//! Names: directories, links, removal, renaming, modes and times.

use super::open::{base, parent, resolve};
use crate::errno::{
    EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, ENOTSUP, EPERM, ERANGE, EROFS,
    Errno, SysResult, check,
};
use crate::files::Object;
use crate::files::names::Node;
use crate::files::resolve::{open_beneath, open_host};
use crate::files::tmpfs::{Content, Inode, now};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const CWD: u64 = 0xffff_ff9c;
const AT_REMOVEDIR: u64 = 0x200;
const RENAME_NOREPLACE: u64 = 1;

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
        Some(Node::Memory(inode)) => inode.is_directory(),
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
            let at = t.process.memory.host(to, size)?;
            // SAFETY: the buffer lies in the window; the host kernel survives a fault there.
            check(unsafe { libc::syscall(libc::SYS_getdents64, file.fd.as_raw_fd(), at, size) })
        }
        Object::Directory(path) => {
            let names = list(t, path)?;
            let mut state = d.state();
            let mut out = Vec::new();
            let skip = usize::try_from(state.position).map_err(|_| EINVAL)?;
            for (n, (name, kind, number)) in names.iter().enumerate().skip(skip) {
                if out.len() + (19 + name.len() + 1).next_multiple_of(8) > size as usize {
                    break;
                }
                entry(&mut out, *number, n as u64 + 1, *kind, name);
                state.position = n as u64 + 1;
            }
            if out.is_empty() && skip < names.len() {
                return Err(EINVAL);
            }
            t.process.memory.write_bytes(to, &out)?;
            Ok(out.len() as u64)
        }
        _ => Err(ENOTDIR),
    }
}

fn list(t: &Thread, path: &[u8]) -> Result<Vec<(Vec<u8>, u8, u64)>, Errno> {
    let mut names = vec![
        (b".".to_vec(), libc::DT_DIR, 1),
        (b"..".to_vec(), libc::DT_DIR, 1),
    ];
    match t.process.names.lookup(path)? {
        Some(Node::Memory(inode)) => {
            for (name, inode) in inode.entries()?.iter() {
                let kind = match &inode.content {
                    Content::File(_) => libc::DT_REG,
                    Content::Directory(_) => libc::DT_DIR,
                    Content::Link(_) => libc::DT_LNK,
                    Content::Socket => libc::DT_SOCK,
                };
                names.push((name.clone(), kind, inode.number));
            }
        }
        Some(_) => {
            let children = t.process.names.children(path).into_iter();
            names.extend(children.map(|name| (name, libc::DT_UNKNOWN, 1)));
        }
        None => return Err(ENOENT),
    }
    Ok(names)
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
    let resolved = resolve(t, directory, path, false)?;
    if resolved.node.is_some() {
        return Err(EEXIST);
    }
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
    let resolved = resolve(t, directory, path, false)?;
    if resolved.node.is_none() {
        return Err(ENOENT);
    }
    if resolved.path == b"/tmp" {
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
    let resolved = resolve(t, directory, path, false)?;
    if resolved.node.is_some() {
        return Err(EEXIST);
    }
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
    [from_directory, from, to_directory, to, ..]: [u64; 6],
) -> SysResult {
    let source = resolve(t, from_directory, from, false)?;
    let target = resolve(t, to_directory, to, false)?;
    match (source.node, &target.node) {
        (None, _) => Err(ENOENT),
        (_, Some(_)) => Err(EEXIST),
        (Some(Node::Memory(inode)), None) if !inode.is_directory() => {
            parent(t, &target)?.add(target.split().1, Arc::clone(&inode))?;
            inode.meta().links += 1;
            Ok(0)
        }
        _ => Err(EPERM),
    }
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
    if flags & !RENAME_NOREPLACE != 0 {
        return Err(EINVAL);
    }
    let (source, target) = (resolve(t, a, from, false)?, resolve(t, b, to, false)?);
    let inode = match &source.node {
        Some(Node::Memory(inode)) if source.path != b"/tmp" => Arc::clone(inode),
        Some(_) => return Err(EROFS),
        None => return Err(ENOENT),
    };
    if source.path == target.path {
        return Ok(0);
    }
    let inside = target
        .path
        .strip_prefix(source.path.as_slice())
        .is_some_and(|r| r.starts_with(b"/"));
    if inside {
        return Err(EINVAL);
    }
    let (old_parent, new_parent) = (parent(t, &source)?, parent(t, &target)?);
    if let Some(Node::Memory(existing)) = &target.node {
        if flags & RENAME_NOREPLACE != 0 {
            return Err(EEXIST);
        }
        match (inode.is_directory(), existing.is_directory()) {
            (true, false) => return Err(ENOTDIR),
            (false, true) => return Err(EISDIR),
            (true, true) if !existing.entries()?.is_empty() => return Err(ENOTEMPTY),
            _ => {}
        }
    }
    // The new name first: at no time is the file without one.
    new_parent
        .entries()?
        .insert(target.split().1.to_vec(), inode);
    old_parent.entries()?.remove(source.split().1);
    Ok(0)
}

fn change_mode(inode: &Inode, mode: u32) {
    let mut meta = inode.meta();
    meta.mode = meta.mode & libc::S_IFMT | mode & 0o7777;
}

pub fn chmod(t: &mut Thread, cpu: &mut dyn Cpu, [path, mode, ..]: [u64; 6]) -> SysResult {
    fchmodat(t, cpu, [CWD, path, mode, 0, 0, 0])
}

#[allow(clippy::cast_possible_truncation)]
pub fn fchmodat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, mode, ..]: [u64; 6],
) -> SysResult {
    match resolve(t, directory, path, true)?.node {
        Some(Node::Memory(inode)) => {
            change_mode(&inode, mode as u32);
            Ok(0)
        }
        Some(_) => Err(EROFS),
        None => Err(ENOENT),
    }
}

#[allow(clippy::cast_possible_truncation)]
pub fn fchmod(t: &mut Thread, _: &mut dyn Cpu, [fd, mode, ..]: [u64; 6]) -> SysResult {
    match &super::io::description(t, fd)?.object {
        Object::Memory(inode) => {
            change_mode(inode, mode as u32);
            Ok(0)
        }
        _ => Err(EROFS),
    }
}

/// There is one user, who owns what may be written; giving files away needs a privilege nobody has.
pub fn chown(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(EPERM)
}

pub fn utimensat(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [directory, path, times, flags, ..]: [u64; 6],
) -> SysResult {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let inode = if path == 0 {
        match &super::io::description(t, directory)?.object {
            Object::Memory(inode) => Arc::clone(inode),
            _ => return Err(EROFS),
        }
    } else {
        match resolve(t, directory, path, flags & 0x100 == 0)?.node {
            Some(Node::Memory(inode)) => inode,
            Some(_) => return Err(EROFS),
            None => return Err(ENOENT),
        }
    };
    let given: [i64; 4] = if times == 0 {
        [0, UTIME_NOW, 0, UTIME_NOW]
    } else {
        t.process.memory.read(times)?
    };
    let mut meta = inode.meta();
    let [as_, an, ms, mn] = given;
    for (seconds, nanoseconds, accessed) in [(as_, an, true), (ms, mn, false)] {
        let value = match nanoseconds {
            UTIME_OMIT => continue,
            UTIME_NOW => now(),
            n if (0..1_000_000_000).contains(&n) => (seconds, n),
            _ => return Err(EINVAL),
        };
        if accessed {
            meta.accessed = value;
        } else {
            meta.modified = value;
        }
    }
    Ok(0)
}

pub fn umask(t: &mut Thread, _: &mut dyn Cpu, [mask, ..]: [u64; 6]) -> SysResult {
    Ok(u64::from(t.process.set_umask(mask as u32)))
}

/// No file here has extended attributes.
pub fn xattr(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(ENOTSUP)
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
