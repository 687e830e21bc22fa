//! Scheduling: one class, and priorities that are kept and shown but change nothing.

use crate::errno::{EINVAL, EPERM, ESRCH, Errno, SysResult};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::sync::atomic::Ordering;

/// SCHED_OTHER, SCHED_BATCH, SCHED_IDLE: what needs no privilege.
const PLAIN: [i32; 3] = [0, 3, 5];
/// SCHED_FIFO, SCHED_RR.
const REAL_TIME: [i32; 2] = [1, 2];

/// A process or thread of the guest, by number; 0 is the caller, 1 the parent it is told of.
fn exists(t: &Thread, pid: u64) -> Result<(), Errno> {
    match pid as i32 {
        n if n < 0 => Err(EINVAL),
        0 => Ok(()),
        1 => Ok(()),
        n if n == t.process.pid() || t.process.tids().contains(&n) => Ok(()),
        _ => Err(ESRCH),
    }
}

pub fn getpriority(t: &mut Thread, _: &mut dyn Cpu, [which, who, ..]: [u64; 6]) -> SysResult {
    if which > 2 {
        return Err(EINVAL);
    }
    if which == 0 {
        exists(t, who).map_err(|_| ESRCH)?;
    }
    // The call tells 20 - nice, so that no value looks like an error.
    Ok((20 - i64::from(t.process.nice().load(Ordering::Relaxed))).cast_unsigned())
}

pub fn setpriority(t: &mut Thread, _: &mut dyn Cpu, [which, who, nice, ..]: [u64; 6]) -> SysResult {
    if which > 2 {
        return Err(EINVAL);
    }
    if which == 0 {
        exists(t, who).map_err(|_| ESRCH)?;
    }
    let nice = (nice as i32).clamp(-20, 19);
    // To be nicer is free; to take it back is a privilege.
    if nice < t.process.nice().load(Ordering::Relaxed) {
        return Err(crate::errno::EACCES);
    }
    t.process.nice().store(nice, Ordering::Relaxed);
    Ok(0)
}

pub fn sched_getscheduler(t: &mut Thread, _: &mut dyn Cpu, [pid, ..]: [u64; 6]) -> SysResult {
    exists(t, pid).map(|()| 0)
}

pub fn sched_setscheduler(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, policy, parameter, ..]: [u64; 6],
) -> SysResult {
    exists(t, pid)?;
    let priority: i32 = t.process.memory.read(parameter)?;
    match policy as i32 & !0x4000_0000 {
        p if PLAIN.contains(&p) && priority == 0 => Ok(0),
        p if REAL_TIME.contains(&p) && (1..=99).contains(&priority) => Err(EPERM),
        _ => Err(EINVAL),
    }
}

pub fn sched_getparam(t: &mut Thread, _: &mut dyn Cpu, [pid, to, ..]: [u64; 6]) -> SysResult {
    exists(t, pid)?;
    t.process.memory.write(to, 0u32).map(|()| 0)
}

pub fn sched_setparam(t: &mut Thread, _: &mut dyn Cpu, [pid, from, ..]: [u64; 6]) -> SysResult {
    exists(t, pid)?;
    let priority: i32 = t.process.memory.read(from)?;
    if priority == 0 { Ok(0) } else { Err(EINVAL) }
}

fn highest(policy: u64, real_time: u64) -> SysResult {
    match policy as i32 {
        p if PLAIN.contains(&p) => Ok(0),
        p if REAL_TIME.contains(&p) => Ok(real_time),
        _ => Err(EINVAL),
    }
}

pub fn sched_get_priority_max(
    _: &mut Thread,
    _: &mut dyn Cpu,
    [policy, ..]: [u64; 6],
) -> SysResult {
    highest(policy, 99)
}

pub fn sched_get_priority_min(
    _: &mut Thread,
    _: &mut dyn Cpu,
    [policy, ..]: [u64; 6],
) -> SysResult {
    highest(policy, 1)
}

pub fn sched_rr_get_interval(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, to, ..]: [u64; 6],
) -> SysResult {
    exists(t, pid)?;
    t.process.memory.write(to, [0i64, 100_000_000]).map(|()| 0)
}

fn all_cpus(t: &Thread) -> u64 {
    (1 << t.process.config.cpus.clamp(1, 63)) - 1
}

pub fn sched_getaffinity(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, length, mask, ..]: [u64; 6],
) -> SysResult {
    exists(t, pid).map_err(|_| ESRCH)?;
    if length < 8 || length % 8 != 0 {
        return Err(EINVAL);
    }
    t.process.memory.write(mask, all_cpus(t))?;
    Ok(8)
}

/// Taken where it leaves a CPU to run on; what runs where is the host's business.
pub fn sched_setaffinity(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, length, mask, ..]: [u64; 6],
) -> SysResult {
    exists(t, pid).map_err(|_| ESRCH)?;
    let mut bytes = [0u8; 8];
    let part = bytes.get_mut(..length.min(8) as usize).unwrap_or_default();
    t.process.memory.read_bytes(mask, part)?;
    if u64::from_le_bytes(bytes) & all_cpus(t) == 0 {
        return Err(EINVAL);
    }
    Ok(0)
}
