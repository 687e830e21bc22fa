//! Pseudo-terminals: opening, reading, writing, and their ioctls (ioctl_tty(2)).

use crate::errno::{EAGAIN, EINVAL, EIO, ENOTTY, ENXIO, EPERM, Errno, SysResult};
use crate::files::discipline::{TERMIOS, Termios};
use crate::files::terminal::{Side, Terminal};
use crate::files::{Description, Object};
use crate::host;
use crate::thread::Thread;
use std::sync::Arc;

/// Bytes that one call moves at most.
const PART: usize = 4096;

/// A new terminal's master.
///
/// # Errors
/// ENOSPC.
pub fn open_master(t: &Thread) -> Result<Object, Errno> {
    let side = t.process.names.terminals.make(&t.process.groups)?;
    Ok(Object::Terminal(Arc::new(side)))
}

/// The slave of a terminal. A session's leader without a terminal is controlled by it from here on.
///
/// # Errors
/// ENXIO, EIO where it is locked.
pub fn open_slave(t: &Thread, number: u32, flags: i32) -> Result<Object, Errno> {
    let terminal = t.process.names.terminals.get(number).ok_or(ENXIO)?;
    if terminal.state().locked {
        return Err(EIO);
    }
    if flags & libc::O_NOCTTY == 0 {
        let _ = control(t, &terminal);
    }
    Ok(Object::Terminal(Arc::new(Side::new(&terminal, false))))
}

/// `/dev/tty`: the terminal that controls the caller's session.
///
/// # Errors
/// ENXIO: none does.
pub fn open_controlling(t: &Thread) -> Result<Object, Errno> {
    let session = own_session(t)?.0;
    let terminal = t.process.names.terminals.of_session(session);
    let side = Side::new(&terminal.ok_or(ENXIO)?, false);
    Ok(Object::Terminal(Arc::new(side)))
}

/// The caller's session and group.
fn own_session(t: &Thread) -> Result<(i32, i32), Errno> {
    let member = t.process.groups.get(super::processes::own_pid(t))?;
    Ok((member.session, member.group))
}

/// TIOCSCTTY.
fn control(t: &Thread, terminal: &Terminal) -> Result<(), Errno> {
    let (session, group) = own_session(t)?;
    if session != super::processes::own_pid(t) {
        return Err(EPERM);
    }
    let other = t.process.names.terminals.of_session(session);
    if other.is_some_and(|other| other.number != terminal.number) {
        return Err(EPERM);
    }
    let mut state = terminal.state();
    if state.session != 0 && state.session != session {
        return Err(EPERM);
    }
    (state.session, state.foreground) = (session, group);
    Ok(())
}

fn is_nonblocking(d: &Description) -> bool {
    d.state().flags & libc::O_NONBLOCK != 0
}

/// Wait until the host's end is ready, or for `tenths` of a second. False: the time is over.
fn wait(t: &Thread, fd: i32, events: i16, tenths: Option<u8>) -> Result<bool, Errno> {
    let mut polled = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let limit = tenths.map(|tenths| libc::timespec {
        tv_sec: i64::from(tenths / 10),
        tv_nsec: i64::from(tenths % 10) * 100_000_000,
    });
    let limit = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
    let arguments = [(&raw mut polled) as u64, 1, limit, 0, 0, 0];
    // SAFETY: the poll structure and the time live across the call.
    let ready = unsafe { t.shared.kick.block(libc::SYS_ppoll, arguments) }?;
    Ok(ready > 0)
}

fn read_host(fd: i32, to: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: a live buffer of the length given.
    let got = unsafe { libc::read(fd, to.as_mut_ptr().cast(), to.len()) };
    crate::errno::check(got as i64).map(|n| n as usize)
}

/// read(2).
///
/// # Errors
/// EIO where the other end is gone, EAGAIN, EINTR.
pub fn read(t: &Thread, d: &Description, side: &Side, list: &[libc::iovec]) -> SysResult {
    let room: usize = list.iter().map(|v| v.iov_len).sum();
    let room = room.min(PART);
    if room == 0 {
        return Ok(0);
    }
    let mut buffer = [0u8; PART + 1];
    loop {
        let got = if side.is_master {
            match read_host(side.host(), buffer.get_mut(..room).unwrap_or_default()) {
                Ok(0) => return Err(EIO),
                Ok(got) => Some(got),
                Err(e) if e == EAGAIN => None,
                Err(e) => return Err(e),
            }
        } else {
            take(side, room, &mut buffer)?
        };
        if let Some(got) = got {
            return scatter(buffer.get(..got).unwrap_or_default(), list);
        }
        if !side.is_master && side.is_alone() {
            return Ok(0);
        }
        let patience = if side.is_master {
            None
        } else {
            side.terminal.state().discipline.patience()
        };
        if is_nonblocking(d) {
            return Err(EAGAIN);
        }
        let tenths = match patience {
            Some((0, tenths)) => Some(tenths),
            _ => None,
        };
        if !wait(t, side.host(), libc::POLLIN, tenths)? {
            return Ok(0);
        }
    }
}

/// What the discipline lets a slave's read have; `None`: nothing yet.
fn take(side: &Side, room: usize, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
    let mut state = side.terminal.state();
    let Some((count, of_file)) = state.discipline.next(room) else {
        return Ok(None);
    };
    let all = buffer
        .get_mut(..count + usize::from(of_file))
        .unwrap_or_default();
    let mut done = 0;
    // It is there: what the discipline counts was put into the queue before.
    while let Some(rest) = all.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match read_host(side.host(), rest)? {
            0 => break,
            got => done += got,
        }
    }
    Ok(Some(done.min(count)))
}

fn scatter(mut from: &[u8], list: &[libc::iovec]) -> SysResult {
    let all = from.len() as u64;
    for v in list {
        let (part, rest) = from.split_at(v.iov_len.min(from.len()));
        // SAFETY: the target lies in the window; the source is a live slice.
        unsafe { host::copy(v.iov_base.cast(), part.as_ptr(), part.len() as u64)? };
        from = rest;
    }
    Ok(all)
}

fn gather(list: &[libc::iovec]) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    for v in list {
        let part = v.iov_len.min(PART - bytes.len());
        let at = bytes.len();
        bytes.resize(at + part, 0);
        let to = bytes.get_mut(at..).unwrap_or_default();
        // SAFETY: the source lies in the window; the target is a live slice.
        unsafe { host::copy(to.as_mut_ptr(), v.iov_base.cast(), part as u64)? };
    }
    Ok(bytes)
}

/// write(2).
///
/// # Errors
/// EIO where nobody reads, EAGAIN, EINTR.
pub fn write(t: &Thread, d: &Description, side: &Side, list: &[libc::iovec]) -> SysResult {
    let bytes = gather(list)?;
    if !side.is_master && side.is_alone() {
        return Err(EIO);
    }
    if is_nonblocking(d) {
        if !wait(t, side.host(), libc::POLLOUT, Some(0))? {
            return Err(EAGAIN);
        }
    } else {
        wait(t, side.host(), libc::POLLOUT, None)?;
    }
    let mut state = side.terminal.state();
    if !side.is_master {
        let out = state.discipline.print(&bytes);
        drop(state);
        put(side.host(), &out);
        return Ok(bytes.len() as u64);
    }
    if !state.discipline.has_room() {
        return Err(EAGAIN);
    }
    let typed = state.discipline.typed(&bytes);
    // Under the lock, so that the queue holds what the discipline counts.
    put(side.host(), &typed.to_slave);
    drop(state);
    put(side.terminal.slave_fd(), &typed.echo);
    for signal in typed.signals {
        side.terminal.signal(signal);
    }
    Ok(bytes.len() as u64)
}

/// Put bytes into a queue. What has no room there is lost, as in a terminal whose other end is not read.
fn put(fd: i32, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: a live buffer; the descriptor is ours and never blocks.
        let moved = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(moved) {
            Ok(moved) if moved > 0 => bytes = bytes.get(moved..).unwrap_or_default(),
            _ => return,
        }
    }
}

/// ioctl(2).
///
/// # Errors
/// ENOTTY for what is not a terminal's.
pub fn ioctl(t: &Thread, side: &Side, command: u32, argument: u64) -> SysResult {
    const TCGETS: u32 = 0x5401;
    const TCSETSF: u32 = 0x5404;
    const TIOCGPTN: u32 = 0x8004_5430;
    const TIOCSPTLCK: u32 = 0x4004_5431;
    const TIOCGPTLCK: u32 = 0x8004_5439;
    const TIOCGPTPEER: u32 = 0x5441;
    let (terminal, memory) = (&side.terminal, &t.process.memory);
    match command {
        TCGETS => {
            let bytes = terminal.state().discipline.termios.bytes();
            memory.write_bytes(argument, &bytes).map(|()| 0)
        }
        0x5402..=TCSETSF => {
            let mut bytes = [0; TERMIOS];
            memory.read_bytes(argument, &mut bytes)?;
            let mut state = terminal.state();
            if command == TCSETSF {
                forget(terminal, &mut state);
            }
            let typed = state.discipline.set(Termios::parse(&bytes));
            put(terminal.master_fd(), &typed);
            Ok(0)
        }
        0x540a if argument > 3 => Err(EINVAL),
        // TCSBRK, TCXONC, TCSBRKP: there is no wire; what is printed has gone out.
        0x5409 | 0x540a | 0x5425 => Ok(0),
        // TCFLSH: 0 and 2 forget what has been typed.
        0x540b if argument > 2 => Err(EINVAL),
        0x540b => {
            if argument != 1 {
                forget(terminal, &mut terminal.state());
            }
            Ok(0)
        }
        0x540e => control(t, terminal).map(|()| 0),
        0x540f => group(t, side).and_then(|group| memory.write(argument, group).map(|()| 0)),
        0x5410 => {
            let group: i32 = memory.read(argument)?;
            group_exists(t, group)?;
            terminal.state().foreground = group;
            Ok(0)
        }
        0x5411 => memory.write(argument, 0u32).map(|()| 0),
        0x5413 => memory.write(argument, terminal.state().window).map(|()| 0),
        0x5414 => {
            let window: [u16; 4] = memory.read(argument)?;
            let changed = std::mem::replace(&mut terminal.state().window, window) != window;
            if changed {
                terminal.signal(libc::SIGWINCH);
            }
            Ok(0)
        }
        // FIONREAD
        0x541b => {
            let mut count: i32 = 0;
            // SAFETY: `count` is live; FIONREAD stores an int.
            crate::errno::check(i64::from(unsafe {
                libc::ioctl(side.host(), libc::FIONREAD, &raw mut count)
            }))?;
            memory.write(argument, count).map(|()| 0)
        }
        // TIOCNOTTY
        0x5422 => {
            let mut state = terminal.state();
            if state.session == own_session(t)?.0 {
                (state.session, state.foreground) = (0, 0);
            }
            Ok(0)
        }
        0x5429 => match terminal.state().session {
            0 => Err(ENOTTY),
            session => memory.write(argument, session).map(|()| 0),
        },
        TIOCGPTN if side.is_master => memory.write(argument, terminal.number).map(|()| 0),
        TIOCSPTLCK if side.is_master => {
            terminal.state().locked = memory.read::<u32>(argument)? != 0;
            Ok(0)
        }
        TIOCGPTLCK if side.is_master => {
            let locked = u32::from(terminal.state().locked);
            memory.write(argument, locked).map(|()| 0)
        }
        TIOCGPTPEER if side.is_master => {
            let flags = argument as i32;
            let slave = Object::Terminal(Arc::new(Side::new(terminal, false)));
            let description = Description::new(slave, flags & !libc::O_CLOEXEC);
            let close_on_exec = flags & libc::O_CLOEXEC != 0;
            t.process.files().insert(description, close_on_exec, 0)
        }
        _ => Err(ENOTTY),
    }
}

/// TIOCGPGRP: of the slave only while it controls the caller's session.
fn group(t: &Thread, side: &Side) -> Result<i32, Errno> {
    let state = side.terminal.state();
    if side.is_master || state.session != 0 && state.session == own_session(t)?.0 {
        Ok(state.foreground)
    } else {
        Err(ENOTTY)
    }
}

fn group_exists(t: &Thread, group: i32) -> Result<(), Errno> {
    let found = t.process.groups.select(|_, member| member.group == group);
    if found.is_empty() { Err(EPERM) } else { Ok(()) }
}

/// Throw away what has been typed and not read.
fn forget(terminal: &Terminal, state: &mut crate::files::terminal::State) {
    let mut left = state.discipline.flush();
    let mut buffer = [0u8; PART];
    while left > 0 {
        let part = left.min(PART);
        match read_host(
            terminal.slave_fd(),
            buffer.get_mut(..part).unwrap_or_default(),
        ) {
            Ok(got) if got > 0 => left -= got,
            _ => return,
        }
    }
}
