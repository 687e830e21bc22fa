//! Waiting for descriptors, and the descriptors made for that: poll, select, epoll, eventfd, timerfd, pipes.

use super::io::description;
use super::time::{duration, read_timespec, timespec};
use crate::errno::{EBADF, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM, Errno, SysResult, check};
use crate::files::description::{Duplicate, Registered, Registration, TimerSetting};
use crate::files::fifo::Side;
use crate::files::socket::Socket;
use crate::files::{Description, Object};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Descriptors in one call at most.
const MAX_POLLED: u64 = 1024;
/// What the host keeps for a descriptor that an epoll instance watches: `struct epitem` and `struct eppoll_entry`, with slack.
const WATCH_BYTES: u64 = 256;
/// Ready at once, always: files and devices.
const FILE_EVENTS: i16 = libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM;

fn owned(fd: i64) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(check(fd)?).map_err(|_| EBADF)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the host polls for a guest's descriptor: its own, or none where it is always ready. Of a FIFO that is open for
/// both it is one side: the reading one, if that is among what is asked for.
fn pollable(d: &Description, events: i16) -> Option<i32> {
    match &d.object {
        Object::Fifo(end) if events & (libc::POLLIN | libc::POLLRDNORM) == 0 => {
            end.host(Side::Writing)
        }
        Object::Standard(_)
        | Object::Pipe(..)
        | Object::Fifo(_)
        | Object::Socket(_)
        | Object::Event(_)
        | Object::Timer(..)
        | Object::Terminal(_)
        | Object::Poll(..) => d.host().ok(),
        _ => None,
    }
}

/// Put a mask in place of the signal mask for as long as the call lasts; whether a signal waits that it lets through.
fn replace_mask(t: &mut Thread, mask: Option<u64>) -> bool {
    let Some(mask) = mask else {
        return false;
    };
    t.saved_mask = Some(t.mask);
    t.set_mask(mask);
    crate::signal::pending(t) & !t.mask != 0
}

/// Wait with a relative limit; `mask` replaces the signal mask meanwhile. `at_once`: something is ready beside what is polled.
fn wait(
    t: &mut Thread,
    list: &mut [libc::pollfd],
    limit: Option<libc::timespec>,
    mask: Option<u64>,
    at_once: bool,
) -> SysResult {
    let signalled = replace_mask(t, mask);
    let limit = if at_once || signalled {
        Some(zero())
    } else {
        limit
    };
    let ready = poll_host(t, list, limit)?;
    // What is ready comes first, and leaves the signal where it is.
    if signalled && ready == 0 && !at_once {
        return Err(crate::errno::EINTR);
    }
    Ok(ready)
}

fn poll_host(
    t: &mut Thread,
    list: &mut [libc::pollfd],
    limit: Option<libc::timespec>,
) -> SysResult {
    let limit = t.limit(limit.as_ref().map(duration)).map(timespec);
    let pointer = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
    let arguments = [
        list.as_mut_ptr() as u64,
        list.len() as u64,
        pointer,
        0,
        0,
        0,
    ];
    // SAFETY: the list and the time live across the call.
    unsafe { t.shared.kick.block(libc::SYS_ppoll, arguments) }
}

fn zero() -> libc::timespec {
    libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    }
}

fn do_poll(
    t: &mut Thread,
    at: u64,
    count: u64,
    limit: Option<libc::timespec>,
    mask: Option<u64>,
) -> SysResult {
    if count > MAX_POLLED {
        return Err(EINVAL);
    }
    let mut list = Vec::new();
    let mut ready = Vec::new();
    // Held so that no other thread's close can give the host's number to something else meanwhile.
    let mut held = Vec::new();
    for n in 0..count {
        let word: u64 = t.process.memory.read(at.wrapping_add(8 * n))?;
        let (fd, events) = (word as u32, (word >> 32) as i16);
        let found = description(t, u64::from(fd)).ok();
        let mut polled = libc::pollfd {
            fd: -1,
            events,
            revents: 0,
        };
        let mut now = 0;
        match &found {
            _ if fd.cast_signed() < 0 => {}
            None => now = libc::POLLNVAL,
            Some(d) => match pollable(d, events) {
                Some(host) => polled.fd = host,
                None => now = events & FILE_EVENTS,
            },
        }
        held.extend(found);
        list.push(polled);
        ready.push(now);
    }
    let at_once = ready.iter().any(|r| *r != 0);
    wait(t, &mut list, limit, mask, at_once)?;
    let mut total = 0;
    for (n, (polled, now)) in list.iter().zip(&ready).enumerate() {
        let events = polled.revents | now;
        total += u64::from(events != 0);
        t.process
            .memory
            .write(at.wrapping_add(8 * n as u64 + 6), events as u16)?;
    }
    Ok(total)
}

#[allow(clippy::cast_possible_truncation)]
pub fn poll(t: &mut Thread, _: &mut dyn Cpu, [list, count, timeout, ..]: [u64; 6]) -> SysResult {
    do_poll(t, list, count, milliseconds(timeout as i32), None)
}

fn milliseconds(timeout: i32) -> Option<libc::timespec> {
    (timeout >= 0).then(|| libc::timespec {
        tv_sec: i64::from(timeout / 1000),
        tv_nsec: i64::from(timeout % 1000) * 1_000_000,
    })
}

fn read_mask(t: &Thread, mask: u64, size: u64) -> Result<Option<u64>, Errno> {
    match mask {
        0 => Ok(None),
        _ if size != 8 => Err(EINVAL),
        at => t.process.memory.read(at).map(Some),
    }
}

pub fn ppoll(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [list, count, timeout, mask, size, _]: [u64; 6],
) -> SysResult {
    let limit = read_timespec(t, timeout)?;
    let mask = read_mask(t, mask, size)?;
    do_poll(t, list, count, limit, mask)
}

pub fn select(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [count, read, write, except, timeout, _]: [u64; 6],
) -> SysResult {
    let limit = if timeout == 0 {
        None
    } else {
        let [seconds, micros]: [i64; 2] = t.process.memory.read(timeout)?;
        if seconds < 0 || !(0..=1_000_000).contains(&micros) {
            return Err(EINVAL);
        }
        Some(libc::timespec {
            tv_sec: seconds + micros / 1_000_000,
            tv_nsec: micros % 1_000_000 * 1000,
        })
    };
    do_select(t, count, [read, write, except], limit, None)
}

pub fn pselect6(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [count, read, write, except, timeout, mask]: [u64; 6],
) -> SysResult {
    let limit = read_timespec(t, timeout)?;
    let mask = if mask == 0 {
        None
    } else {
        let [at, size]: [u64; 2] = t.process.memory.read(mask)?;
        read_mask(t, at, size)?
    };
    do_select(t, count, [read, write, except], limit, mask)
}

fn do_select(
    t: &mut Thread,
    count: u64,
    sets: [u64; 3],
    limit: Option<libc::timespec>,
    mask: Option<u64>,
) -> SysResult {
    if count > MAX_POLLED {
        return Err(EINVAL);
    }
    let words = count.div_ceil(64);
    let kinds = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
    let mut given = [const { Vec::new() }; 3];
    for (set, to) in sets.iter().zip(&mut given) {
        for n in 0..if *set == 0 { 0 } else { words } {
            to.push(t.process.memory.read::<u64>(set.wrapping_add(8 * n))?);
        }
    }
    let has = |set: &[u64], fd: u64| {
        set.get((fd / 64) as usize)
            .is_some_and(|w| w >> (fd % 64) & 1 == 1)
    };
    let mut list = Vec::new();
    let mut numbers = Vec::new();
    let mut held = Vec::new();
    let mut always = false;
    for fd in 0..count {
        let events = given
            .iter()
            .zip(kinds)
            .filter(|(s, _)| has(s, fd))
            .fold(0, |e, (_, k)| e | k);
        if events == 0 {
            continue;
        }
        let d = description(t, fd)?;
        let host = pollable(&d, events).unwrap_or(-1);
        always |= host < 0;
        held.push(d);
        list.push(libc::pollfd {
            fd: host,
            events,
            revents: 0,
        });
        numbers.push(fd);
    }
    wait(t, &mut list, limit, mask, always)?;
    let mut total = 0;
    let mut results = given.clone();
    results.iter_mut().flatten().for_each(|w| *w = 0);
    for (polled, fd) in list.iter().zip(&numbers) {
        let hit = if polled.fd < 0 {
            polled.events & FILE_EVENTS
        } else {
            polled.revents
        };
        let groups = [
            libc::POLLIN | libc::POLLHUP | libc::POLLERR,
            libc::POLLOUT | libc::POLLERR,
            libc::POLLPRI,
        ];
        for ((result, set), group) in results.iter_mut().zip(&given).zip(groups) {
            if has(set, *fd)
                && hit & group != 0
                && let Some(word) = result.get_mut((fd / 64) as usize)
            {
                *word |= 1 << (fd % 64);
                total += 1;
            }
        }
    }
    for (set, result) in sets.iter().zip(&results) {
        for (n, word) in result.iter().enumerate() {
            t.process
                .memory
                .write(set.wrapping_add(8 * n as u64), *word)?;
        }
    }
    Ok(total)
}

pub fn epoll_create1(t: &mut Thread, _: &mut dyn Cpu, [flags, ..]: [u64; 6]) -> SysResult {
    if flags & !(libc::O_CLOEXEC as u64) != 0 {
        return Err(EINVAL);
    }
    let held = Arc::new(t.process.ledger.hold(0)?);
    let object = Object::Poll(new_poller()?, Mutex::default());
    let d = Description::holding(object, libc::O_RDWR, held);
    t.process.files().insert(d, flags != 0, 0)
}

pub fn epoll_create(t: &mut Thread, cpu: &mut dyn Cpu, [size, ..]: [u64; 6]) -> SysResult {
    if size == 0 {
        Err(EINVAL)
    } else {
        epoll_create1(t, cpu, [0; 6])
    }
}

#[allow(clippy::cast_possible_truncation)]
pub fn epoll_ctl(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [epoll, op, fd, event, ..]: [u64; 6],
) -> SysResult {
    let (poller, target) = (description(t, epoll)?, description(t, fd)?);
    let op = op as i32;
    let mut registration = Registration {
        fd,
        events: 0,
        data: 0,
    };
    if op != libc::EPOLL_CTL_DEL {
        // struct epoll_event is packed: events, then data.
        registration.events = t.process.memory.read(event)?;
        registration.data = t.process.memory.read(event.wrapping_add(4))?;
    }
    control(&poller, &target, op, registration)
}

/// A new epoll instance of the host.
pub(crate) fn new_poller() -> Result<OwnedFd, Errno> {
    // SAFETY: no pointer is passed.
    owned(i64::from(unsafe {
        libc::epoll_create1(libc::EPOLL_CLOEXEC)
    }))
}

/// Register again what a snapshot kept.
pub(crate) fn register(
    poller: &Arc<Description>,
    target: &Arc<Description>,
    registration: Registration,
) -> SysResult {
    control(poller, target, libc::EPOLL_CTL_ADD, registration)
}

/// A socket has another host's socket in its place: whatever polled the old one polls the new one.
pub(super) fn register_again(t: &Thread, socket: &Arc<Socket>) {
    let files = t.process.files().clone();
    let is_it = |d: &Description| matches!(&d.object, Object::Socket(s) if Arc::ptr_eq(s, socket));
    for (_, entry) in files.iter() {
        let Object::Poll(_, list) = &entry.description.object else {
            continue;
        };
        let list = list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for Registered {
            target,
            registration,
        } in list
        {
            if let Some(target) = target.upgrade().filter(|target| is_it(target)) {
                // Of the old one.
                target.duplicates().clear();
                // Registered twice through a duplicate of the poller's descriptor: it is there.
                let _ = register(&entry.description, &target, registration);
            }
        }
    }
}

fn control(
    poller: &Arc<Description>,
    target: &Arc<Description>,
    op: i32,
    registration: Registration,
) -> SysResult {
    let Object::Poll(host, registered) = &poller.object else {
        return Err(EINVAL);
    };
    let event = libc::epoll_event {
        events: registration.events,
        u64: registration.data,
    };
    let change = |polled| {
        let mut event = event;
        // SAFETY: the event is live; both descriptors are ours.
        check(i64::from(unsafe {
            libc::epoll_ctl(host.as_raw_fd(), op, polled, &raw mut event)
        }))
    };
    let mut list = registered.lock().unwrap_or_else(PoisonError::into_inner);
    // What is closed is registered no more (epoll(7)).
    list.retain(|r| r.target.strong_count() > 0);
    let watches = |count: usize| {
        let held = poller.held();
        held.map_or(Ok(()), |held| held.resize(count as u64 * WATCH_BYTES))
    };
    if op == libc::EPOLL_CTL_ADD {
        watches(list.len() + 1).map_err(|_| ENOSPC)?;
    }
    match &target.object {
        Object::Fifo(end) => end.watch(poller, (op, registration), change)?,
        _ => {
            let known = (list.iter()).any(|r| {
                r.registration.fd == registration.fd && r.target.as_ptr() == Arc::as_ptr(target)
            });
            change_one(poller, target, op, registration.fd, known, change)?
        }
    };
    list.retain(|r| {
        r.registration.fd != registration.fd || r.target.as_ptr() != Arc::as_ptr(target)
    });
    if op != libc::EPOLL_CTL_DEL {
        list.push(Registered {
            target: Arc::downgrade(target),
            registration,
        });
    }
    // No more than was charged.
    let _ = watches(list.len());
    Ok(0)
}

/// Descriptors of the host's for one description, beside its own.
const MAX_DUPLICATES: usize = 64;

/// Change what an epoll instance has of a description under one of the guest's numbers, of which the host's instance knows nothing:
/// where it has the description already, under another number, that takes a second descriptor of the host's. `known`: something is
/// registered under this number.
fn change_one(
    poller: &Arc<Description>,
    target: &Description,
    op: i32,
    fd: u64,
    known: bool,
    change: impl Fn(i32) -> SysResult,
) -> SysResult {
    let own = pollable(target, libc::POLLIN).ok_or(EPERM)?;
    let mut duplicates = target.duplicates();
    duplicates.retain(|d| d.poller.strong_count() > 0);
    let place = duplicates
        .iter()
        .position(|d| d.fd == fd && std::ptr::eq(d.poller.as_ptr(), Arc::as_ptr(poller)));
    match place {
        Some(_) if op == libc::EPOLL_CTL_ADD => Err(EEXIST),
        Some(at) if op == libc::EPOLL_CTL_DEL => {
            change(duplicates.swap_remove(at).host.as_raw_fd())
        }
        Some(at) => duplicates
            .get(at)
            .map_or(Err(ENOENT), |d| change(d.host.as_raw_fd())),
        None => match change(own) {
            Err(EEXIST) if op == libc::EPOLL_CTL_ADD && !known => {
                if duplicates.len() >= MAX_DUPLICATES {
                    return Err(ENOSPC);
                }
                // SAFETY: a plain call on a descriptor of ours.
                let host = owned(i64::from(unsafe {
                    libc::fcntl(own, libc::F_DUPFD_CLOEXEC, 3)
                }))?;
                change(host.as_raw_fd())?;
                duplicates.push(Duplicate {
                    poller: Arc::downgrade(poller),
                    fd,
                    host,
                });
                Ok(0)
            }
            other => other,
        },
    }
}

#[allow(clippy::cast_possible_truncation)]
pub fn epoll_wait(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [epoll, events, count, timeout, ..]: [u64; 6],
) -> SysResult {
    epoll_pwait(t, cpu, [epoll, events, count, timeout, 0, 8])
}

#[allow(clippy::cast_possible_truncation)]
pub fn epoll_pwait(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [epoll, events, count, timeout, mask, size]: [u64; 6],
) -> SysResult {
    let poller = description(t, epoll)?;
    let Object::Poll(host, _) = &poller.object else {
        return Err(EINVAL);
    };
    if count == 0 || count > MAX_POLLED {
        return Err(EINVAL);
    }
    let to = t.process.memory.host(events, count * 12)?;
    let mask = read_mask(t, mask, size)?;
    let signalled = replace_mask(t, mask);
    let asked = u64::try_from(timeout as i32)
        .ok()
        .map(Duration::from_millis);
    let waits = asked != Some(Duration::ZERO);
    let asked = if signalled {
        Some(Duration::ZERO)
    } else {
        asked
    };
    // Rounded up: it must not end early.
    let limit = t.limit(asked).map_or(-1, |left| {
        i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    let arguments = [host.as_raw_fd() as u64, to, count, limit as u64, 0, 8];
    // SAFETY: the buffer lies in the window, where the host kernel survives a fault.
    let ready = unsafe { t.shared.kick.block(libc::SYS_epoll_pwait, arguments) }?;
    // As in `wait`; who would not have waited is told of nothing.
    if signalled && ready == 0 && waits {
        return Err(crate::errno::EINTR);
    }
    Ok(ready)
}

#[allow(clippy::cast_possible_truncation)]
pub fn eventfd2(t: &mut Thread, _: &mut dyn Cpu, [value, flags, ..]: [u64; 6]) -> SysResult {
    let flags = flags as i32;
    let fd = new_event(u64::from(value as u32), flags)?;
    let d = Description::new(Object::Event(fd), libc::O_RDWR | flags & libc::O_NONBLOCK);
    t.process
        .files()
        .insert(d, flags & libc::EFD_CLOEXEC != 0, 0)
}

/// A new eventfd of the host.
pub(crate) fn new_event(count: u64, flags: i32) -> Result<OwnedFd, Errno> {
    let flags = flags & (libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) | libc::EFD_CLOEXEC;
    // SAFETY: no pointer is passed.
    owned(i64::from(unsafe {
        libc::eventfd(u32::try_from(count).unwrap_or(u32::MAX), flags)
    }))
}

pub fn eventfd(t: &mut Thread, cpu: &mut dyn Cpu, [value, ..]: [u64; 6]) -> SysResult {
    eventfd2(t, cpu, [value, 0, 0, 0, 0, 0])
}

#[allow(clippy::cast_possible_truncation)]
pub fn timerfd_create(t: &mut Thread, _: &mut dyn Cpu, [clock, flags, ..]: [u64; 6]) -> SysResult {
    let flags = flags as i32;
    let setting = TimerSetting {
        clock: clock as i32,
        ..TimerSetting::default()
    };
    let fd = new_timer(setting.clock, flags)?;
    let object = Object::Timer(fd, Mutex::new(setting));
    let d = Description::new(object, libc::O_RDWR | flags & libc::O_NONBLOCK);
    t.process
        .files()
        .insert(d, flags & libc::TFD_CLOEXEC != 0, 0)
}

#[allow(clippy::cast_possible_truncation)]
pub fn timerfd_settime(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, flags, new, old, ..]: [u64; 6],
) -> SysResult {
    let d = description(t, fd)?;
    let Object::Timer(host, setting) = &d.object else {
        return Err(EINVAL);
    };
    let value: [i64; 4] = t.process.memory.read(new)?;
    let mut setting = setting.lock().unwrap_or_else(PoisonError::into_inner);
    let before = set_timer(host, flags as i32, value)?;
    (setting.flags, setting.value) = (flags as i32, value);
    drop(setting);
    if old != 0 {
        t.process.memory.write(old, before)?;
    }
    Ok(0)
}

pub fn timerfd_gettime(t: &mut Thread, _: &mut dyn Cpu, [fd, to, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    let Object::Timer(host, _) = &d.object else {
        return Err(EINVAL);
    };
    let left = timer_left(host)?;
    t.process.memory.write(to, left).map(|()| 0)
}

/// A new timerfd of the host.
pub(crate) fn new_timer(clock: i32, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointer is passed.
    owned(i64::from(unsafe {
        libc::timerfd_create(clock, flags | libc::TFD_CLOEXEC)
    }))
}

/// Set a timerfd of the host: interval, then value; what was left of it.
pub(crate) fn set_timer(timer: &OwnedFd, flags: i32, value: [i64; 4]) -> Result<[i64; 4], Errno> {
    let mut before = [0i64; 4];
    // SAFETY: both have the size of struct itimerspec.
    check(unsafe {
        libc::syscall(
            libc::SYS_timerfd_settime,
            timer.as_raw_fd(),
            flags,
            value.as_ptr(),
            before.as_mut_ptr(),
        )
    })?;
    Ok(before)
}

/// What is left of a timerfd of the host: interval, then value.
pub(crate) fn timer_left(timer: &OwnedFd) -> Result<[i64; 4], Errno> {
    let mut left = [0i64; 4];
    // SAFETY: the buffer has the size of struct itimerspec.
    check(unsafe {
        libc::syscall(
            libc::SYS_timerfd_gettime,
            timer.as_raw_fd(),
            left.as_mut_ptr(),
        )
    })?;
    Ok(left)
}

pub fn pipe(t: &mut Thread, cpu: &mut dyn Cpu, [to, ..]: [u64; 6]) -> SysResult {
    pipe2(t, cpu, [to, 0, 0, 0, 0, 0])
}

#[allow(clippy::cast_possible_truncation)]
pub fn pipe2(t: &mut Thread, _: &mut dyn Cpu, [to, flags, ..]: [u64; 6]) -> SysResult {
    let flags = flags as i32;
    if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
        return Err(EINVAL);
    }
    let held = Arc::new(t.process.ledger.hold(PIPE_BYTES)?);
    let (read, write) = new_pipe(flags)?;
    let status = flags & libc::O_NONBLOCK;
    let (read, write) = (Object::Pipe(read, false), Object::Pipe(write, true));
    let read = Description::holding(read, libc::O_RDONLY | status, Arc::clone(&held));
    let write = Description::holding(write, libc::O_WRONLY | status, held);
    give_pair(t, to, read, write, flags & libc::O_CLOEXEC != 0)
}

/// What a pipe can hold at first, in bytes.
pub(crate) const PIPE_BYTES: u64 = 64 << 10;

/// A new pipe of the host: reading end, writing end.
pub(crate) fn new_pipe(flags: i32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [0i32; 2];
    // SAFETY: two ints are live.
    check(i64::from(unsafe {
        libc::pipe2(ends.as_mut_ptr(), flags | libc::O_CLOEXEC)
    }))?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// A new pair of UNIX sockets of the host; `kind` is the type with its flags.
pub(crate) fn new_pair(kind: i32) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [0i32; 2];
    // SAFETY: two ints are live.
    let made = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            ends.as_mut_ptr(),
        )
    };
    check(i64::from(made))?;
    Ok((owned(ends[0].into())?, owned(ends[1].into())?))
}

/// Put both ends of something in the table and tell the guest their numbers.
pub(super) fn give_pair(
    t: &Thread,
    to: u64,
    a: std::sync::Arc<Description>,
    b: std::sync::Arc<Description>,
    close_on_exec: bool,
) -> SysResult {
    let mut files = t.process.files();
    let first = files.insert(a, close_on_exec, 0)?;
    let second = match files.insert(b, close_on_exec, 0) {
        Ok(fd) => fd,
        Err(e) => {
            files.close(first)?;
            return Err(e);
        }
    };
    if let Err(e) = t.process.memory.write(to, [first as u32, second as u32]) {
        files.close(first)?;
        files.close(second)?;
        return Err(e);
    }
    Ok(0)
}
