//! Signal calls; delivery is in `crate::signal`.

use super::info::UID;
use crate::errno::{EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ESRCH, Errno, SysResult};
use crate::heritage::with_others;
use crate::itimer::{self, Timers};
use crate::machine::Cpu;
use crate::pending::{Cause, Sent, bit};
use crate::process::Process;
use crate::signal::{self, Action, LAST};
use crate::thread::Thread;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub fn rt_sigaction(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [signal, new, old, size, ..]: [u64; 6],
) -> SysResult {
    if size != 8 || signal == 0 || signal > LAST {
        return Err(EINVAL);
    }
    let unchangeable = [libc::SIGKILL, libc::SIGSTOP]
        .iter()
        .any(|s| *s as u64 == signal);
    let action = if new == 0 {
        None
    } else {
        Some(t.process.memory.read::<Action>(new)?)
    };
    if action.is_some() && unchangeable {
        return Err(EINVAL);
    }
    let mut signals = t.process.signals();
    let before = signals.action(signal);
    if let Some(action) = action {
        signals.set_action(signal, action);
    }
    drop(signals);
    if action.is_some_and(|action| signal::is_ignored(signal, action)) {
        t.process.pending.discard(bit(signal));
        for thread in t.process.threads().values() {
            thread.pending.discard(bit(signal));
        }
    }
    if old != 0 {
        t.process.memory.write(old, before)?;
    }
    Ok(0)
}

pub fn rt_sigprocmask(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [how, new, old, size, ..]: [u64; 6],
) -> SysResult {
    if size != 8 {
        return Err(EINVAL);
    }
    let before = t.mask;
    if new != 0 {
        let set: u64 = t.process.memory.read(new)?;
        match how {
            0 => t.set_mask(before | set),
            1 => t.set_mask(before & !set),
            2 => t.set_mask(set),
            _ => return Err(EINVAL),
        }
    }
    if old != 0 {
        t.process.memory.write(old, before)?;
    }
    Ok(0)
}

pub fn rt_sigreturn(t: &mut Thread, cpu: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    let done = signal::sigreturn(t, cpu);
    if done.is_err() {
        // As the kernel: a frame that cannot be read is a segmentation fault.
        t.control = Some(crate::machine::Outcome::Exit(libc::SIGSEGV));
    }
    done
}

pub fn rt_sigpending(t: &mut Thread, _: &mut dyn Cpu, [set, size, ..]: [u64; 6]) -> SysResult {
    if size > 8 {
        return Err(EINVAL);
    }
    let pending = signal::pending(t) & t.mask;
    t.process.memory.write(set, pending).map(|()| 0)
}

#[allow(clippy::cast_possible_truncation)]
pub fn sigaltstack(t: &mut Thread, cpu: &mut dyn Cpu, [new, old, ..]: [u64; 6]) -> SysResult {
    let (base, size, _) = t.alt_stack;
    let rsp = cpu.regs().rsp;
    let inside = size != 0 && rsp > base && rsp <= base.wrapping_add(size);
    let shown = if size == 0 { 2 } else { u64::from(inside) };
    // Read before the old one is written, which may be to the same place.
    if new != 0 {
        let [base, flags, size]: [u64; 3] = t.process.memory.read(new)?;
        let flags = flags as u32;
        if inside {
            return Err(EPERM);
        }
        t.alt_stack = match flags & 3 {
            2 => (0, 0, 2),
            0 if size < 2048 => return Err(ENOMEM),
            0 if base.checked_add(size).is_none() => return Err(EFAULT),
            0 => (base, size, 0),
            _ => return Err(EINVAL),
        };
    }
    if old != 0 {
        t.process.memory.write(old, [base, shown, size])?;
    }
    Ok(0)
}

/// The process of this number; `None` for one that has ended and was not waited for, which takes a signal without effect.
fn process_of(t: &Thread, pid: i32) -> Result<Option<Arc<Process>>, Errno> {
    if pid == t.process.pid() {
        return Ok(Some(Arc::clone(&t.process)));
    }
    let groups = &t.process.groups;
    match groups.select(|number, _| number == pid).pop() {
        Some((_, process)) => Ok(Some(process)),
        None if groups.get(pid).is_err() && t.process.children.has(pid) => Ok(None),
        None => Err(ESRCH),
    }
}

/// To one thread of a process.
fn to_thread(t: &Thread, pid: i32, tid: i32, sent: Sent) -> SysResult {
    process_of(t, pid)?.map_or(Ok(0), |process| {
        with_others(|| signal::send(&process, Some(tid), sent))
    })
}

fn sent(t: &Thread, signal: u64, cause: Cause) -> Sent {
    Sent::new(u64::from(signal as u32), cause, t.process.pid(), UID)
}

pub fn kill(t: &mut Thread, _: &mut dyn Cpu, [pid, signal, ..]: [u64; 6]) -> SysResult {
    let sent = sent(t, signal, Cause::User);
    let (own, groups) = (t.process.pid(), &t.process.groups);
    let others = match pid as i32 {
        pid if pid == own => return to_process(t, sent),
        // One that is in the making, or has ended and was not waited for, takes it without effect.
        pid if pid > 0 && groups.get(pid).is_err() && t.process.children.has(pid) => return Ok(0),
        pid if pid > 0 => groups.select(|number, _| number == pid),
        -1 => groups.select(|number, _| number != own),
        pid => {
            let group = match pid {
                0 => groups.get(own)?.group,
                pid => pid.checked_neg().ok_or(ESRCH)?,
            };
            groups.select(|_, member| member.group == group)
        }
    };
    let mut result = Err(ESRCH);
    for (_, process) in others.iter().filter(|(number, _)| *number != own) {
        result = signal::send(process, None, sent);
    }
    // Itself last, as the signal may end it.
    if others.iter().any(|(number, _)| *number == own) {
        result = to_process(t, sent);
    }
    result
}

/// To the process; by the caller itself, before the call returns, if it does not block it.
fn to_process(t: &Thread, sent: Sent) -> SysResult {
    let open = (1..=LAST).contains(&sent.signal) && t.mask & bit(sent.signal) == 0;
    signal::send(&t.process, open.then(|| t.tid()), sent)
}

pub fn tgkill(t: &mut Thread, _: &mut dyn Cpu, [pid, tid, signal, ..]: [u64; 6]) -> SysResult {
    if pid as i32 <= 0 || tid as i32 <= 0 {
        return Err(EINVAL);
    }
    let sent = sent(t, signal, Cause::Thread);
    to_thread(t, pid as i32, tid as i32, sent)
}

pub fn tkill(t: &mut Thread, _: &mut dyn Cpu, [tid, signal, ..]: [u64; 6]) -> SysResult {
    if tid as i32 <= 0 {
        return Err(EINVAL);
    }
    signal::send(&t.process, Some(tid as i32), sent(t, signal, Cause::Thread))
}

/// A signal with the sender's own words: to itself whatever they say; to another nothing that a kernel or kill(2) would say.
fn with_info(t: &Thread, pid: u64, signal: u64, info: u64) -> Result<Sent, Errno> {
    const SI_TKILL: i32 = -6;
    let mut words: [u64; 4] = t.process.memory.read(info)?;
    let code = words.get(1).map_or(0, |word| *word as i32);
    if pid as i32 != t.process.pid() && (code >= 0 || code == SI_TKILL) {
        return Err(EPERM);
    }
    let signal = u64::from(signal as u32);
    if let Some(first) = words.first_mut() {
        *first = *first & !0xffff_ffff | signal;
    }
    Ok(Sent { signal, words })
}

pub fn rt_sigqueueinfo(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, signal, info, ..]: [u64; 6],
) -> SysResult {
    let sent = with_info(t, pid, signal, info)?;
    if pid as i32 == t.process.pid() {
        return to_process(t, sent);
    }
    process_of(t, pid as i32)?.map_or(Ok(0), |process| {
        with_others(|| signal::send(&process, None, sent))
    })
}

pub fn rt_tgsigqueueinfo(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, tid, signal, info, ..]: [u64; 6],
) -> SysResult {
    if pid as i32 <= 0 || tid as i32 <= 0 {
        return Err(EINVAL);
    }
    let sent = with_info(t, pid, signal, info)?;
    to_thread(t, pid as i32, tid as i32, sent)
}

/// What a write beyond the limit of a file's length brings with its EFBIG.
pub fn too_large(t: &Thread) {
    let sent = Sent::new(libc::SIGXFSZ as u64, Cause::Kernel, 0, 0);
    let _ = signal::send(&t.process, Some(t.tid()), sent);
}

/// What a write to a pipe or socket without a reader brings with its EPIPE.
pub fn broken_pipe(t: &Thread) {
    let sent = Sent::new(libc::SIGPIPE as u64, Cause::Kernel, 0, 0);
    let _ = signal::send(&t.process, Some(t.tid()), sent);
}

pub fn rt_sigsuspend(t: &mut Thread, cpu: &mut dyn Cpu, [mask, size, ..]: [u64; 6]) -> SysResult {
    if size != 8 {
        return Err(EINVAL);
    }
    let mask: u64 = t.process.memory.read(mask)?;
    t.saved_mask = Some(t.mask);
    t.set_mask(mask);
    pause(t, cpu, [0; 6])
}

pub fn pause(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    if signal::pending(t) & !t.mask != 0 {
        return Err(EINTR);
    }
    // SAFETY: no pointer is passed but null.
    unsafe { t.shared.kick.block(libc::SYS_ppoll, [0; 6]) }
}

/// Take a pending signal of the set, or wait for one.
pub fn rt_sigtimedwait(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [set, info, timeout, size, ..]: [u64; 6],
) -> SysResult {
    if size != 8 {
        return Err(EINVAL);
    }
    let set: u64 = t.process.memory.read(set)?;
    let unwaitable = bit(libc::SIGKILL as u64) | bit(libc::SIGSTOP as u64);
    let set = set & !unwaitable;
    let limit = super::time::read_timespec(t, timeout)?;
    let limit = t.limit(limit.as_ref().map(super::time::duration));
    let deadline = limit.map(|l| Instant::now() + l);
    t.shared.awaited.store(set, Ordering::SeqCst);
    let waited = wait_for(t, set, deadline);
    t.shared.awaited.store(0, Ordering::SeqCst);
    let sent = waited?;
    if info != 0 {
        let bytes: Vec<u8> = sent.info().iter().flat_map(|w| w.to_le_bytes()).collect();
        t.process.memory.write_bytes(info, &bytes)?;
    }
    Ok(sent.signal)
}

fn wait_for(t: &Thread, set: u64, deadline: Option<Instant>) -> Result<Sent, Errno> {
    loop {
        if let Some(sent) = signal::take(t, set) {
            return Ok(sent);
        }
        if signal::pending(t) & !t.mask != 0 {
            return Err(EINTR);
        }
        let left = match deadline {
            Some(d) => d
                .checked_duration_since(Instant::now())
                .ok_or(crate::errno::EAGAIN)?,
            None => Duration::from_secs(3600),
        };
        let time = [left.as_secs(), left.subsec_nanos().into()];
        // SAFETY: the time lives across the call.
        let waited = unsafe {
            t.shared
                .kick
                .block(libc::SYS_ppoll, [0, 0, time.as_ptr() as u64, 0, 0, 0])
        };
        if waited == Err(EINTR) && t.process.stops(true) {
            return Err(EINTR);
        }
        t.shared.kick.take();
    }
}

/// As in `struct itimerval`: interval, then value, in microseconds.
fn read_timer(t: &Thread, address: u64) -> Result<(Duration, Duration), Errno> {
    let [interval_s, interval_us, first_s, first_us]: [i64; 4] = t.process.memory.read(address)?;
    let duration = |s: i64, us: i64| {
        if s < 0 || !(0..1_000_000).contains(&us) {
            return Err(EINVAL);
        }
        Ok(Duration::new(s.cast_unsigned(), us as u32 * 1000))
    };
    Ok((
        duration(first_s, first_us)?,
        duration(interval_s, interval_us)?,
    ))
}

fn write_timer(t: &Thread, address: u64, (left, interval): (Duration, Duration)) -> SysResult {
    let words = [interval, left]
        .map(|d| [d.as_secs(), u64::from(d.subsec_micros())])
        .concat();
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    t.process.memory.write_bytes(address, &bytes).map(|()| 0)
}

fn kind(which: u64) -> Result<usize, Errno> {
    usize::try_from(which)
        .ok()
        .filter(|kind| *kind < itimer::KINDS)
        .ok_or(EINVAL)
}

pub fn setitimer(t: &mut Thread, _: &mut dyn Cpu, [which, new, old, ..]: [u64; 6]) -> SysResult {
    let kind = kind(which)?;
    let (first, interval) = if new == 0 {
        Default::default()
    } else {
        read_timer(t, new)?
    };
    let before = Timers::set(&t.process, kind, first, interval).ok_or(crate::errno::EAGAIN)?;
    if old != 0 {
        write_timer(t, old, before)?;
    }
    Ok(0)
}

pub fn getitimer(t: &mut Thread, _: &mut dyn Cpu, [which, to, ..]: [u64; 6]) -> SysResult {
    let left = t.process.timers.get(kind(which)?);
    write_timer(t, to, left)
}

/// alarm(2): what was left of the one before, in seconds, never rounded down to none.
pub fn alarm(t: &mut Thread, _: &mut dyn Cpu, [seconds, ..]: [u64; 6]) -> SysResult {
    let first = Duration::from_secs(u64::from(seconds as u32));
    let (left, _) =
        Timers::set(&t.process, 0, first, Duration::ZERO).ok_or(crate::errno::EAGAIN)?;
    let rounded = left.as_secs() + u64::from(left.subsec_millis() >= 500);
    Ok(if left.is_zero() { 0 } else { rounded.max(1) })
}
