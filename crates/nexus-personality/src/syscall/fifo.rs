//! Opening, reading and writing FIFOs.

use crate::errno::{EAGAIN, EINTR, EINVAL, EPIPE, Errno, SysResult};
use crate::files::fifo::{End, Side, Tried};
use crate::files::tmpfs::Inode;
use crate::files::{Description, Object};
use crate::thread::Thread;
use std::os::fd::RawFd;
use std::sync::Arc;

/// open(2) of a FIFO: without O_NONBLOCK it waits until the other side is open as well.
///
/// # Errors
/// As [`End::open`]; EINTR.
pub fn open(t: &Thread, inode: &Arc<Inode>, flags: i32) -> Result<Arc<Description>, Errno> {
    let sides = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => (true, false),
        libc::O_WRONLY => (false, true),
        libc::O_RDWR => (true, true),
        _ => return Err(EINVAL),
    };
    let waits = flags & libc::O_NONBLOCK == 0;
    let (end, held, awaited) = End::open(inode, sides, waits, &t.process.ledger)?;
    while let Some((word, value)) = awaited.and_then(|awaited| end.still(awaited)) {
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        let arguments = [
            word.as_ptr() as u64,
            operation as u64,
            value.into(),
            0,
            0,
            0,
        ];
        // SAFETY: `end` keeps the word alive across the call; there is no time limit.
        if unsafe { t.shared.kick.block(libc::SYS_futex, arguments) } == Err(EINTR) {
            return Err(EINTR);
        }
    }
    Ok(Description::holding(Object::Fifo(end), flags, held))
}

/// Wait for a side to be ready for `events`.
fn wait(t: &Thread, end: RawFd, events: i16) -> Result<(), Errno> {
    let mut polled = libc::pollfd {
        fd: end,
        events,
        revents: 0,
    };
    let arguments = [(&raw mut polled) as u64, 1, 0, 0, 0, 0];
    // SAFETY: the entry lives across the call; there is no time limit and no mask.
    unsafe { t.shared.kick.block(libc::SYS_ppoll, arguments) }.map(|_| ())
}

/// Read what is there, or wait for it.
///
/// # Errors
/// EAGAIN where the description does not wait; the host's.
pub fn read(t: &Thread, d: &Description, end: &End, list: &[libc::iovec]) -> SysResult {
    loop {
        let call = |fd| super::io::host_vector(t, libc::SYS_readv, fd, list, 0);
        match end.attempt(Side::Reading, call)? {
            Tried::Done(length) => return Ok(length),
            Tried::Later(_) if d.state().flags & libc::O_NONBLOCK != 0 => return Err(EAGAIN),
            Tried::Later(fd) => wait(t, fd, libc::POLLIN)?,
        }
    }
}

/// Write all of it, waiting for room; what does not wait writes as much as there is room for.
///
/// # Errors
/// EPIPE without a reader, with its signal; EAGAIN as above.
pub fn write(t: &Thread, d: &Description, end: &End, list: &[libc::iovec]) -> SysResult {
    let mut list = list.to_vec();
    let mut done = 0;
    let result = loop {
        let call = |fd| super::io::host_vector(t, libc::SYS_writev, fd, &list, 0);
        match end.attempt(Side::Writing, call) {
            Ok(Tried::Done(length)) => {
                done += length;
                advance(&mut list, length as usize);
                if list.is_empty() || d.state().flags & libc::O_NONBLOCK != 0 {
                    break Ok(());
                }
            }
            Ok(Tried::Later(_)) if d.state().flags & libc::O_NONBLOCK != 0 => break Err(EAGAIN),
            Ok(Tried::Later(fd)) => {
                if let Err(error) = wait(t, fd, libc::POLLOUT) {
                    break Err(error);
                }
            }
            Err(error) => break Err(error),
        }
    };
    if result == Err(EPIPE) {
        super::signals::broken_pipe(t);
    }
    match result {
        // What has been written cannot be taken back, whatever came after.
        Err(error) if done == 0 => Err(error),
        _ => Ok(done),
    }
}

/// Leave out the first `length` bytes, and buffers without any.
fn advance(list: &mut Vec<libc::iovec>, mut length: usize) {
    list.retain_mut(|v| {
        let step = length.min(v.iov_len);
        length -= step;
        v.iov_base = v.iov_base.cast::<u8>().wrapping_add(step).cast();
        v.iov_len -= step;
        v.iov_len > 0
    });
}
