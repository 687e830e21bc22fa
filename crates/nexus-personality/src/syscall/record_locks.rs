//! fcntl(2)'s record locks.

use super::fdops::pause_for_lock;
use super::processes::own_pid;
use crate::errno::{EAGAIN, EBADF, EINVAL, ENOLCK, EOVERFLOW, Errno, SysResult};
use crate::files::lock::{FileId, file_of};
use crate::files::record_lock::{Owner, Record, Refused};
use crate::files::{Description, Object};
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const FREE: u16 = libc::F_UNLCK as u16;
const EXCLUSIVE: u16 = libc::F_WRLCK as u16;
const SHARED: u16 = libc::F_RDLCK as u16;

/// One of the six commands.
pub fn command(t: &Thread, d: &Arc<Description>, command: i32, argument: u64) -> SysResult {
    let [kinds, start, length, pid]: [u64; 4] = t.process.memory.read(argument)?;
    let (kind, whence) = (kinds as u16, (kinds >> 16) as u16);
    let of_description = matches!(
        command,
        libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW
    );
    if of_description && pid as u32 != 0 || ![FREE, EXCLUSIVE, SHARED].contains(&kind) {
        return Err(EINVAL);
    }
    let (start, end) = range(d, whence, start.cast_signed(), length.cast_signed())?;
    let wanted = Record {
        owner: if of_description {
            Owner::Description(Arc::downgrade(d))
        } else {
            Owner::Process(own_pid(t))
        },
        exclusive: kind == EXCLUSIVE,
        start,
        end,
    };
    let file = file_of(d);
    if matches!(command, libc::F_GETLK | libc::F_OFD_GETLK) {
        if kind == FREE {
            return Err(EINVAL);
        }
        return tell(t, file, &wanted, argument);
    }
    match kind {
        SHARED if !d.readable() => return Err(EBADF),
        EXCLUSIVE if !d.writable() => return Err(EBADF),
        _ => {}
    }
    // What cannot be opened twice excludes nobody.
    let Some(file) = file else { return Ok(0) };
    if kind == FREE {
        t.process.locks().records.release(file, &wanted);
        return Ok(0);
    }
    let waits = matches!(command, libc::F_SETLKW | libc::F_OFD_SETLKW);
    loop {
        let taken = t.process.locks().records.take(file, wanted.clone());
        match taken {
            Ok(()) => return Ok(0),
            Err(Refused::TooMany) => return Err(ENOLCK),
            Err(Refused::Held) if waits => pause_for_lock(t)?,
            Err(Refused::Held) => return Err(EAGAIN),
        }
    }
}

/// F_GETLK: the lock that is in the way, or that none is.
fn tell(t: &Thread, file: Option<FileId>, wanted: &Record, argument: u64) -> SysResult {
    let obstacle = file.and_then(|file| t.process.locks().records.obstacle(file, wanted));
    let Some(found) = obstacle else {
        return t.process.memory.write(argument, FREE).map(|()| 0);
    };
    let kind = if found.exclusive { EXCLUSIVE } else { SHARED };
    let length = match found.end {
        u64::MAX => 0,
        end => end - found.start,
    };
    let pid = match found.owner {
        Owner::Process(pid) => pid,
        Owner::Description(_) => -1,
    };
    let words = [
        u64::from(kind), // from the start of the file
        found.start,
        length,
        u64::from(pid.cast_unsigned()),
    ];
    t.process.memory.write(argument, words).map(|()| 0)
}

/// First byte, and the one behind the last.
fn range(d: &Description, whence: u16, start: i64, length: i64) -> Result<(u64, u64), Errno> {
    let from = match i32::from(whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => position(d),
        libc::SEEK_END => size(d)?,
        _ => return Err(EINVAL),
    };
    let start = from.checked_add(start).ok_or(EOVERFLOW)?;
    let (first, end) = match length {
        0 => (start, None),
        more if more > 0 => (start, Some(start.checked_add(more).ok_or(EOVERFLOW)?)),
        less => (start.checked_add(less).ok_or(EINVAL)?, Some(start)),
    };
    let unsigned = |n: i64| u64::try_from(n).map_err(|_| EINVAL);
    Ok((unsigned(first)?, end.map_or(Ok(u64::MAX), unsigned)?))
}

fn position(d: &Description) -> i64 {
    match &d.object {
        // SAFETY: a plain call on a descriptor of ours.
        Object::Host(file) => unsafe { libc::lseek(file.fd.as_raw_fd(), 0, libc::SEEK_CUR) }.max(0),
        _ => i64::try_from(d.state().position).unwrap_or(i64::MAX),
    }
}

fn size(d: &Description) -> Result<i64, Errno> {
    match &d.object {
        Object::Host(file) => Ok(crate::files::resolve::host_stat(file.fd.as_raw_fd())?.st_size),
        Object::Memory(inode) => i64::try_from(inode.size()).map_err(|_| EOVERFLOW),
        _ => Ok(0),
    }
}
