//! Duplicating descriptors, their flags, ioctl.

use super::io::description;
use crate::errno::{EAGAIN, EBADF, EINVAL, ENOTTY, EPERM, Errno, SysResult, check};
use crate::files::lock::file_of;
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::sync::Arc;

/// Largest pipe, as `/proc/sys/fs/pipe-max-size` has it.
const MAX_PIPE: u64 = 1 << 20;
/// Status flags that may be changed.
const CHANGEABLE: i32 = libc::O_APPEND | libc::O_NONBLOCK;

pub fn dup(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    t.process.files().insert(d, false, 0)
}

pub fn dup2(t: &mut Thread, _: &mut dyn Cpu, [from, to, ..]: [u64; 6]) -> SysResult {
    let d = description(t, from)?;
    if from as u32 == to as u32 {
        return Ok(to);
    }
    replace(t, to, d, false)
}

pub fn dup3(t: &mut Thread, _: &mut dyn Cpu, [from, to, flags, ..]: [u64; 6]) -> SysResult {
    if from as u32 == to as u32 || flags & !(libc::O_CLOEXEC as u64) != 0 {
        return Err(EINVAL);
    }
    let d = description(t, from)?;
    replace(t, to, d, flags != 0)
}

/// Put a description at a number, closing what is there.
fn replace(t: &Thread, to: u64, d: Arc<Description>, close_on_exec: bool) -> SysResult {
    let closed = description(t, to).ok();
    let placed = (t.process.files()).insert_at(u64::from(to as u32), d, close_on_exec)?;
    if let Some(closed) = closed {
        closes(t, &closed);
    }
    Ok(placed)
}

/// The process closes a descriptor: its record locks of that file go.
pub fn closes(t: &Thread, d: &Description) {
    if let Some(file) = file_of(d) {
        let pid = super::processes::own_pid(t);
        t.process.locks().records.closed(file, pid);
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn fcntl(t: &mut Thread, _: &mut dyn Cpu, [fd, command, argument, ..]: [u64; 6]) -> SysResult {
    match command as i32 {
        libc::F_DUPFD => {
            let d = description(t, fd)?;
            t.process.files().insert(d, false, argument)
        }
        libc::F_DUPFD_CLOEXEC => {
            let d = description(t, fd)?;
            t.process.files().insert(d, true, argument)
        }
        libc::F_GETFD => Ok(u64::from(t.process.files().entry(fd)?.close_on_exec)),
        libc::F_SETFD => {
            t.process.files().entry(fd)?.close_on_exec = argument & 1 != 0;
            Ok(0)
        }
        libc::F_GETFL => Ok(description(t, fd)?.state().flags as u64),
        libc::F_SETFL => {
            let d = description(t, fd)?;
            set_status(&d, argument as i32)
        }
        libc::F_GETLK
        | libc::F_SETLK
        | libc::F_SETLKW
        | libc::F_OFD_GETLK
        | libc::F_OFD_SETLK
        | libc::F_OFD_SETLKW => {
            let d = description(t, fd)?;
            super::record_locks::command(t, &d, command as i32, argument)
        }
        libc::F_GETPIPE_SZ | libc::F_SETPIPE_SZ => {
            let d = description(t, fd)?;
            let (Object::Pipe(..) | Object::Fifo(_)) = &d.object else {
                return Err(EBADF);
            };
            if argument > MAX_PIPE {
                return Err(EPERM);
            }
            if let Some(held) = d.held().filter(|_| command as i32 == libc::F_SETPIPE_SZ) {
                // As the host rounds it.
                held.resize(argument.max(4096).next_power_of_two())?;
            }
            // SAFETY: a plain call on a descriptor of ours; the size is bounded.
            check(i64::from(unsafe {
                libc::fcntl(d.host()?, command as i32, argument as i32)
            }))
        }
        _ => {
            description(t, fd)?;
            Err(EINVAL)
        }
    }
}

fn set_status(d: &Description, flags: i32) -> SysResult {
    let mut state = d.state();
    state.flags = state.flags & !CHANGEABLE | flags & CHANGEABLE;
    let nonblocking = state.flags & libc::O_NONBLOCK;
    drop(state);
    // Only on what is the guest's own: the standard streams are shared with whoever passed them.
    if let Object::Pipe(..) | Object::Socket(_) | Object::Event(_) | Object::Timer(..) = &d.object {
        // SAFETY: a plain call on a descriptor of ours.
        return check(i64::from(unsafe {
            libc::fcntl(d.host()?, libc::F_SETFL, nonblocking)
        }));
    }
    Ok(0)
}

/// flock(2). Who waits looks again every few milliseconds; a signal ends the wait.
pub fn flock(t: &mut Thread, _: &mut dyn Cpu, [fd, how, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    let how = how as i32;
    let exclusive = match how & !libc::LOCK_NB {
        libc::LOCK_UN => {
            t.process.locks().release(&d);
            return Ok(0);
        }
        libc::LOCK_SH => false,
        libc::LOCK_EX => true,
        _ => return Err(EINVAL),
    };
    loop {
        if t.process.locks().take(&d, exclusive) {
            return Ok(0);
        }
        if how & libc::LOCK_NB != 0 {
            return Err(EAGAIN);
        }
        pause_for_lock(t)?;
    }
}

/// Before another look whether a lock can be had; a signal ends the wait.
pub fn pause_for_lock(t: &Thread) -> Result<(), Errno> {
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    let arguments = [
        libc::CLOCK_MONOTONIC as u64,
        0,
        (&raw const pause) as u64,
        0,
        0,
        0,
    ];
    // SAFETY: the time lives across the call.
    unsafe { t.shared.kick.block(libc::SYS_clock_nanosleep, arguments) }.map(|_| ())
}

#[allow(clippy::cast_possible_truncation)]
pub fn ioctl(t: &mut Thread, _: &mut dyn Cpu, [fd, command, argument, ..]: [u64; 6]) -> SysResult {
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIOCLEX: u32 = 0x5451;
    const FIONCLEX: u32 = 0x5450;
    let command = command as u32;
    if command == FIOCLEX || command == FIONCLEX {
        t.process.files().entry(fd)?.close_on_exec = command == FIOCLEX;
        return Ok(0);
    }
    let d = description(t, fd)?;
    match (&d.object, command) {
        (Object::Device, _) => super::device::ioctl(t, command, argument),
        (Object::Terminal(side), _) if command != FIONBIO => {
            super::terminals::ioctl(t, side, command, argument)
        }
        (_, FIONBIO) => {
            let on: u32 = t.process.memory.read(argument)?;
            let flags =
                d.state().flags & !libc::O_NONBLOCK | if on == 0 { 0 } else { libc::O_NONBLOCK };
            set_status(&d, flags)
        }
        (Object::Pipe(..) | Object::Fifo(_) | Object::Socket(_), FIONREAD) => {
            let mut count: i32 = 0;
            // SAFETY: `count` is live; FIONREAD stores an int.
            check(i64::from(unsafe {
                libc::ioctl(d.host().map_err(|_| EBADF)?, libc::FIONREAD, &raw mut count)
            }))?;
            t.process.memory.write(argument, count).map(|()| 0)
        }
        _ => Err(ENOTTY),
    }
}
