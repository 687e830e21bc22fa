//! Reading, writing and seeking. Buffers of the guest go to the host kernel as addresses in the window.

use crate::errno::{
    EAGAIN, EBADF, EFBIG, EINVAL, EISDIR, ENOSPC, ENOTSUP, ENXIO, ESPIPE, Errno, SysResult, check,
};
use crate::files::tmpfs::Inode;
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::memory::MAX_TRANSFER;
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Position that stands for "where the description stands".
const CURRENT: u64 = u64::MAX;

pub(super) fn description(t: &Thread, fd: u64) -> Result<Arc<Description>, Errno> {
    Ok(Arc::clone(&t.process.files().entry(fd)?.description))
}

/// Host buffers of a call, summed.
fn total(list: &[libc::iovec]) -> u64 {
    list.iter().map(|v| v.iov_len as u64).sum()
}

/// The one buffer of a call, as a list.
///
/// # Errors
/// EFAULT.
pub(super) fn one(t: &Thread, buffer: u64, length: u64) -> Result<[libc::iovec; 1], Errno> {
    let length = length.min(MAX_TRANSFER);
    let base = if length == 0 {
        0
    } else {
        t.process.memory.host(buffer, length)?
    };
    Ok([libc::iovec {
        iov_base: base as *mut libc::c_void,
        iov_len: length as usize,
    }])
}

/// A call of the host that takes buffers; may block, a kick ends it.
pub(super) fn host_vector(
    t: &Thread,
    number: libc::c_long,
    fd: i32,
    list: &[libc::iovec],
    position: u64,
) -> SysResult {
    let arguments = [
        fd as u64,
        list.as_ptr() as u64,
        list.len() as u64,
        position,
        0,
        0,
    ];
    // SAFETY: the list lives across the call and names ranges of the window only.
    unsafe { t.shared.kick.block(number, arguments) }
}

fn read_into(t: &Thread, d: &Description, list: &[libc::iovec], position: u64) -> SysResult {
    if !d.readable() {
        return Err(EBADF);
    }
    match &d.object {
        Object::Memory(inode) => {
            let fd = inode.host().ok_or(EISDIR)?;
            if position != CURRENT {
                return host_vector(t, libc::SYS_preadv, fd, list, position);
            }
            // Held across the call: of two that read at once each gets what the other does not.
            let mut state = d.state();
            let got = host_vector(t, libc::SYS_preadv, fd, list, state.position)?;
            state.position += got;
            Ok(got)
        }
        Object::Directory(_) => Err(EISDIR),
        Object::Null => Ok(0),
        Object::Zero | Object::Full => fill(t, list, true),
        Object::Random => fill(t, list, false),
        Object::Device => arena(t, libc::SYS_preadv, list, position),
        Object::Poll(..) => Err(EINVAL),
        Object::Terminal(side) if position == CURRENT => super::terminals::read(t, d, side, list),
        Object::Fifo(end) if position == CURRENT => super::fifo::read(t, d, end, list),
        Object::Socket(socket) if position == CURRENT => {
            super::messages::receive(t, socket, list, 0).map(|r| r.length)
        }
        _ if position != CURRENT && !matches!(d.object, Object::Host(_)) => Err(ESPIPE),
        _ => {
            let number = if position == CURRENT {
                libc::SYS_readv
            } else {
                libc::SYS_preadv
            };
            host_vector(
                t,
                number,
                d.host()?,
                list,
                if position == CURRENT { 0 } else { position },
            )
        }
    }
}

/// Copy from or to the arena at a place of it: what the guest's mapping of it does as well, without a fault for each page that
/// is touched first.
fn arena(t: &Thread, number: libc::c_long, list: &[libc::iovec], position: u64) -> SysResult {
    let device = t.process.config.device.ok_or(EINVAL)?;
    if position == CURRENT {
        return Err(EINVAL);
    }
    host_vector(t, number, device.arena, list, position)
}

/// Fill buffers with zeros or at random; returns how much. A signal cuts it short, as on Linux.
fn fill(t: &Thread, list: &[libc::iovec], zero: bool) -> SysResult {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut filled = 0;
    for v in list {
        let mut done = 0;
        while done < v.iov_len {
            let ends = t.process.abandoned() || crate::signal::pending(t) & !t.mask != 0;
            if filled > 0 && ends {
                return Ok(filled);
            }
            let step = (v.iov_len - done).min(ZEROS.len());
            // SAFETY: `done` is less than the buffer's length.
            let to = unsafe { v.iov_base.cast::<u8>().add(done) };
            let got = if zero {
                // SAFETY: the target lies in the window, the source is a constant of at least `step` bytes.
                unsafe { crate::host::copy(to, ZEROS.as_ptr(), step as u64) }.map(|()| step as u64)
            } else {
                // SAFETY: the target lies in the window; the host kernel survives a fault there.
                check(unsafe { libc::getrandom(to.cast(), step, 0) } as i64)
            };
            match got {
                Ok(got) => {
                    done += got as usize;
                    filled += got;
                }
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(filled)
}

fn write_from(t: &Thread, d: &Description, list: &[libc::iovec], position: u64) -> SysResult {
    if !d.writable() {
        return Err(EBADF);
    }
    match &d.object {
        Object::Memory(inode) => write_memory(t, d, inode, list, position),
        Object::Null | Object::Zero | Object::Random => Ok(total(list)),
        Object::Full => Err(ENOSPC),
        Object::Device => arena(t, libc::SYS_pwritev, list, position),
        _ if position != CURRENT => Err(ESPIPE),
        Object::Terminal(side) => super::terminals::write(t, d, side, list),
        Object::Fifo(end) => super::fifo::write(t, d, end, list),
        Object::Socket(socket) => super::messages::send(t, socket, list, 0, None, Vec::new()),
        _ => {
            let result = host_vector(t, libc::SYS_writev, d.host()?, list, 0);
            if result == Err(crate::errno::EPIPE) {
                super::signals::broken_pipe(t);
            }
            result
        }
    }
}

/// How long a file may become (RLIMIT_FSIZE).
fn length_limit(t: &Thread) -> u64 {
    let limits = *t.process.limits();
    limits
        .get(libc::RLIMIT_FSIZE as usize)
        .map_or(u64::MAX, |[soft, _]| *soft)
}

/// Whether a file may be given this length.
fn permit_length(t: &Thread, inode: &Inode, length: u64) -> Result<(), Errno> {
    if length > inode.size() && length > length_limit(t) {
        super::signals::too_large(t);
        return Err(EFBIG);
    }
    Ok(())
}

/// The first `most` bytes of buffers.
fn first_of(list: &[libc::iovec], mut most: u64) -> Vec<libc::iovec> {
    let first = list.iter().map(|v| {
        let length = most.min(v.iov_len as u64);
        most -= length;
        libc::iovec {
            iov_base: v.iov_base,
            iov_len: length as usize,
        }
    });
    first.collect()
}

fn write_memory(
    t: &Thread,
    d: &Description,
    inode: &Arc<Inode>,
    list: &[libc::iovec],
    position: u64,
) -> SysResult {
    let bytes = total(list).min(MAX_TRANSFER);
    if bytes == 0 {
        return Ok(0);
    }
    let most = length_limit(t);
    let call = |fd, at, allowed| {
        let shorter = (allowed < total(list)).then(|| first_of(list, allowed));
        let list = shorter.as_deref().unwrap_or(list);
        host_vector(t, libc::SYS_pwritev, fd, list, at)
    };
    let write = |flags: i32, at: u64| {
        let at = (flags & libc::O_APPEND == 0).then_some(at);
        if at.is_some_and(|at| i64::try_from(at.saturating_add(bytes)).is_err()) {
            return Err(EFBIG);
        }
        let written = inode.write(at, bytes, most, call);
        if written == Err(EFBIG) {
            super::signals::too_large(t);
        }
        written
    };
    let wrote = if position == CURRENT {
        // Held across the call, as in reading.
        let mut state = d.state();
        let (at, wrote) = write(state.flags, state.position)?;
        state.position = at + wrote;
        wrote
    } else {
        let flags = d.state().flags;
        write(flags, position)?.1
    };
    if wrote > 0 {
        inode.touch();
    }
    Ok(wrote)
}

pub fn read(t: &mut Thread, _: &mut dyn Cpu, [fd, buffer, length, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    read_into(t, &d, &one(t, buffer, length)?, CURRENT)
}

pub fn write(t: &mut Thread, _: &mut dyn Cpu, [fd, buffer, length, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    write_from(t, &d, &one(t, buffer, length)?, CURRENT)
}

pub fn pread64(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, position, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    read_into(t, &d, &one(t, buffer, length)?, checked(position)?)
}

pub fn pwrite64(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, position, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    write_from(t, &d, &one(t, buffer, length)?, checked(position)?)
}

fn checked(position: u64) -> Result<u64, Errno> {
    if i64::try_from(position).is_ok() {
        Ok(position)
    } else {
        Err(EINVAL)
    }
}

pub fn readv(t: &mut Thread, _: &mut dyn Cpu, [fd, list, count, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    read_into(t, &d, &t.process.memory.read_iovec(list, count)?, CURRENT)
}

pub fn writev(t: &mut Thread, _: &mut dyn Cpu, [fd, list, count, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    write_from(t, &d, &t.process.memory.read_iovec(list, count)?, CURRENT)
}

pub fn preadv(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, list, count, position, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    read_into(
        t,
        &d,
        &t.process.memory.read_iovec(list, count)?,
        checked(position)?,
    )
}

pub fn pwritev(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, list, count, position, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    write_from(
        t,
        &d,
        &t.process.memory.read_iovec(list, count)?,
        checked(position)?,
    )
}

/// Flags of preadv2 and pwritev2 that change nothing here: high priority, synchronous.
const HINTS: u64 = 0x01 | 0x02 | 0x04;

pub fn preadv2(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [fd, list, count, position, high, flags]: [u64; 6],
) -> SysResult {
    match flags {
        f if f & !HINTS != 0 => Err(ENOTSUP),
        _ if position == CURRENT => readv(t, cpu, [fd, list, count, 0, 0, 0]),
        _ => preadv(t, cpu, [fd, list, count, position, high, 0]),
    }
}

pub fn pwritev2(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [fd, list, count, position, high, flags]: [u64; 6],
) -> SysResult {
    match flags {
        f if f & !HINTS != 0 => Err(ENOTSUP),
        _ if position == CURRENT => writev(t, cpu, [fd, list, count, 0, 0, 0]),
        _ => pwritev(t, cpu, [fd, list, count, position, high, 0]),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
pub fn lseek(t: &mut Thread, _: &mut dyn Cpu, [fd, offset, whence, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    let offset = offset as i64;
    match &d.object {
        Object::Host(file) => {
            if file_is_directory(&file.fd) {
                d.state().position = 0;
            }
            // SAFETY: a plain call on a descriptor of ours.
            check(unsafe { libc::lseek(file.fd.as_raw_fd(), offset, whence as i32) })
        }
        Object::Memory(inode) => {
            let mut state = d.state();
            let from = match whence as i32 {
                libc::SEEK_SET => 0,
                libc::SEEK_CUR => state.position.cast_signed(),
                libc::SEEK_END => inode.size().cast_signed(),
                libc::SEEK_DATA if offset.cast_unsigned() < inode.size() => 0,
                libc::SEEK_HOLE if offset.cast_unsigned() < inode.size() => {
                    inode.size().cast_signed().saturating_sub(offset)
                }
                libc::SEEK_DATA | libc::SEEK_HOLE => return Err(ENXIO),
                _ => return Err(EINVAL),
            };
            let to = from.checked_add(offset).filter(|p| *p >= 0).ok_or(EINVAL)?;
            state.position = to.cast_unsigned();
            Ok(state.position)
        }
        Object::Directory(_) if offset >= 0 && whence == 0 => {
            d.state().position = offset.cast_unsigned();
            Ok(offset.cast_unsigned())
        }
        Object::Null | Object::Zero | Object::Full => Ok(0),
        _ => Err(ESPIPE),
    }
}

fn file_is_directory(fd: &std::os::fd::OwnedFd) -> bool {
    crate::files::resolve::host_stat(fd.as_raw_fd())
        .is_ok_and(|s| s.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Bytes moved by the kernel at a time between two descriptors.
const STEP: u64 = 64 << 10;

/// Where a file stands that has a position.
fn place(d: &Description) -> Result<u64, Errno> {
    match &d.object {
        Object::Host(file) => {
            // SAFETY: a plain call on a descriptor of ours.
            check(unsafe { libc::lseek(file.fd.as_raw_fd(), 0, libc::SEEK_CUR) })
        }
        Object::Memory(_) => Ok(d.state().position),
        _ => Ok(CURRENT),
    }
}

fn set_place(d: &Description, at: u64) -> Result<(), Errno> {
    match &d.object {
        Object::Host(file) => {
            let at = at.cast_signed();
            // SAFETY: a plain call on a descriptor of ours.
            check(unsafe { libc::lseek(file.fd.as_raw_fd(), at, libc::SEEK_SET) }).map(drop)
        }
        _ => {
            d.state().position = at;
            Ok(())
        }
    }
}

/// sendfile and copy_file_range: through a buffer, since positions of files in memory are ours. The position of `from` is moved
/// at the end, as on Linux, by what `to` has taken: what it has not can be read again.
fn transfer(
    t: &Thread,
    to: &Description,
    from: &Description,
    at: &mut u64,
    to_at: &mut u64,
    length: u64,
) -> SysResult {
    let moves = *at == CURRENT;
    let mut read_at = if moves { place(from)? } else { *at };
    let done = transfer_from(t, to, from, &mut read_at, to_at, length);
    if !moves {
        *at = read_at;
    } else if read_at != CURRENT && done.is_ok_and(|done| done > 0) {
        set_place(from, read_at)?;
    }
    done
}

fn transfer_from(
    t: &Thread,
    to: &Description,
    from: &Description,
    at: &mut u64,
    to_at: &mut u64,
    length: u64,
) -> SysResult {
    let mut buffer = vec![0u8; STEP as usize];
    let mut done = 0;
    while done < length {
        let step = (length - done).min(STEP);
        let list = [libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: step as usize,
        }];
        let got = match read_into(t, from, &list, *at) {
            Ok(got) => got,
            Err(EAGAIN) if done > 0 => break,
            Err(e) => return if done > 0 { Ok(done) } else { Err(e) },
        };
        if got == 0 {
            break;
        }
        let list = [libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: got as usize,
        }];
        let put = match write_from(t, to, &list, *to_at) {
            Ok(put) => put,
            Err(e) => return if done > 0 { Ok(done) } else { Err(e) },
        };
        done += put;
        for position in [&mut *at, &mut *to_at] {
            if *position != CURRENT {
                *position += put;
            }
        }
        if put < got {
            break;
        }
    }
    Ok(done)
}

pub fn sendfile(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [to, from, position, length, ..]: [u64; 6],
) -> SysResult {
    let (to, from) = (description(t, to)?, description(t, from)?);
    if !from.readable() || !to.writable() {
        return Err(EBADF);
    }
    // A pipe could not take back what was read of it and not sent.
    if matches!(from.object, Object::Pipe(..) | Object::Fifo(_))
        || to.state().flags & libc::O_APPEND != 0
    {
        return Err(EINVAL);
    }
    let mut at = if position == 0 {
        CURRENT
    } else {
        checked(t.process.memory.read(position)?)?
    };
    let done = transfer(
        t,
        &to,
        &from,
        &mut at,
        &mut { CURRENT },
        length.min(MAX_TRANSFER),
    )?;
    if position != 0 {
        t.process.memory.write(position, at)?;
    }
    Ok(done)
}

/// copy_file_range(2) between files: a position that is given is used and moved, else the description's.
pub fn copy_file_range(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [from, from_at, to, to_at, length, flags]: [u64; 6],
) -> SysResult {
    let (from, to) = (description(t, from)?, description(t, to)?);
    if flags != 0 {
        return Err(EINVAL);
    }
    if !matches!(from.object, Object::Host(_) | Object::Memory(_)) {
        return Err(EINVAL);
    }
    let Object::Memory(target) = &to.object else {
        return Err(if to.writable() { EINVAL } else { EBADF });
    };
    if to.state().flags & libc::O_APPEND != 0 {
        return Err(EBADF);
    }
    let given = |at: u64| match at {
        0 => Ok(CURRENT),
        at => checked(t.process.memory.read(at)?),
    };
    let (mut read_at, mut write_at) = (given(from_at)?, given(to_at)?);
    let length = length.min(MAX_TRANSFER);
    if let Object::Memory(source) = &from.object
        && Arc::ptr_eq(source, target)
    {
        let start = |d: &Description, at| {
            if at == CURRENT {
                d.state().position
            } else {
                at
            }
        };
        let (a, b) = (start(&from, read_at), start(&to, write_at));
        if a < b.saturating_add(length) && b < a.saturating_add(length) {
            return Err(EINVAL);
        }
    }
    let done = transfer(t, &to, &from, &mut read_at, &mut write_at, length)?;
    for (place, at) in [(from_at, read_at), (to_at, write_at)] {
        if place != 0 {
            t.process.memory.write(place, at)?;
        }
    }
    Ok(done)
}

pub fn ftruncate(t: &mut Thread, _: &mut dyn Cpu, [fd, length, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    match &d.object {
        Object::Memory(inode) if d.writable() => {
            permit_length(t, inode, checked(length)?)?;
            inode.resize(length)?;
            inode.touch();
            Ok(0)
        }
        _ => Err(EINVAL),
    }
}

pub fn truncate(t: &mut Thread, _: &mut dyn Cpu, [path, length, ..]: [u64; 6]) -> SysResult {
    let resolved = super::open::resolve(t, 0xffff_ff9c, path, true)?;
    match resolved.node {
        Some(crate::files::Node::Memory(inode)) => {
            inode.permit(2)?;
            permit_length(t, &inode, checked(length)?)?;
            inode.resize(length)?;
            inode.touch();
            Ok(0)
        }
        Some(_) => Err(crate::errno::EROFS),
        None => Err(crate::errno::ENOENT),
    }
}

pub fn fallocate(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, mode, offset, length, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    let end = checked(offset)?
        .checked_add(checked(length)?)
        .ok_or(EFBIG)?;
    if length == 0 {
        return Err(EINVAL);
    }
    match &d.object {
        Object::Memory(inode) if mode == 0 && d.writable() => {
            permit_length(t, inode, end)?;
            inode.grow(end)?;
            inode.touch();
            Ok(0)
        }
        _ => Err(crate::errno::ENOTSUP),
    }
}

/// Everything in memory is as durable as it will ever be.
pub fn fsync(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    description(t, fd).map(|_| 0)
}
