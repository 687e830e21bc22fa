//! Clocks and sleeping. Clocks are the host's; CPU clocks are the hypervisor's threads, which run nothing else.

use crate::errno::{EINVAL, Errno, SysResult, check};
use crate::machine::Cpu;
use crate::thread::Thread;
use std::time::Duration;

/// Copy a timespec in; `None` for a null pointer.
///
/// # Errors
/// EFAULT; EINVAL for one out of range.
pub fn read_timespec(t: &Thread, address: u64) -> Result<Option<libc::timespec>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let [tv_sec, tv_nsec]: [i64; 2] = t.process.memory.read(address)?;
    if tv_sec < 0 || !(0..1_000_000_000).contains(&tv_nsec) {
        return Err(EINVAL);
    }
    Ok(Some(libc::timespec { tv_sec, tv_nsec }))
}

/// As a duration, at most a year.
#[must_use]
pub fn duration(time: &libc::timespec) -> Duration {
    let seconds = time.tv_sec.clamp(0, 31_536_000).cast_unsigned();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// As the host takes it.
#[must_use]
pub fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// CLOCK_MONOTONIC.
#[must_use]
pub fn monotonic() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is live.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn is_clock(clock: u64) -> bool {
    clock <= 7 || clock == 11
}

/// The host's clock for a guest's. CPU clocks that name a process or thread (`~number << 3 | kind`) do for the caller.
fn clock_of(t: &Thread, clock: u64) -> Result<u64, Errno> {
    const THREAD: i32 = 4;
    let id = clock as i32;
    if id >= 0 {
        return is_clock(clock).then_some(clock).ok_or(EINVAL);
    }
    let number = !(id >> 3);
    if id & THREAD != 0 && (number == 0 || number == t.tid()) {
        Ok(libc::CLOCK_THREAD_CPUTIME_ID as u64)
    } else if id & THREAD == 0 && (number == 0 || number == t.process.pid()) {
        Ok(libc::CLOCK_PROCESS_CPUTIME_ID as u64)
    } else {
        Err(EINVAL)
    }
}

pub fn clock_gettime(t: &mut Thread, _: &mut dyn Cpu, [clock, to, ..]: [u64; 6]) -> SysResult {
    let clock = clock_of(t, clock)?;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is live.
    let done = unsafe { libc::clock_gettime(clock as libc::clockid_t, &raw mut time) };
    check(i64::from(done))?;
    t.process
        .memory
        .write(to, [time.tv_sec, time.tv_nsec])
        .map(|()| 0)
}

pub fn clock_getres(t: &mut Thread, _: &mut dyn Cpu, [clock, to, ..]: [u64; 6]) -> SysResult {
    clock_of(t, clock)?;
    if to != 0 {
        t.process.memory.write(to, [0i64, 1])?;
    }
    Ok(0)
}

pub fn gettimeofday(t: &mut Thread, _: &mut dyn Cpu, [to, zone, ..]: [u64; 6]) -> SysResult {
    let (seconds, nanoseconds) = crate::files::tmpfs::now();
    if to != 0 {
        t.process.memory.write(to, [seconds, nanoseconds / 1000])?;
    }
    if zone != 0 {
        t.process.memory.write(zone, 0u64)?;
    }
    Ok(0)
}

pub fn time(t: &mut Thread, _: &mut dyn Cpu, [to, ..]: [u64; 6]) -> SysResult {
    let (seconds, _) = crate::files::tmpfs::now();
    if to != 0 {
        t.process.memory.write(to, seconds)?;
    }
    Ok(seconds.cast_unsigned())
}

pub fn nanosleep(t: &mut Thread, cpu: &mut dyn Cpu, [request, remain, ..]: [u64; 6]) -> SysResult {
    clock_nanosleep(
        t,
        cpu,
        [libc::CLOCK_MONOTONIC as u64, 0, request, remain, 0, 0],
    )
}

pub fn clock_nanosleep(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [clock, flags, request, remain, ..]: [u64; 6],
) -> SysResult {
    if !is_clock(clock) || flags > 1 {
        return Err(EINVAL);
    }
    let mut time = read_timespec(t, request)?.ok_or(crate::errno::EFAULT)?;
    // Not of CPU time, which stands still meanwhile.
    if flags == 0 && clock != libc::CLOCK_PROCESS_CPUTIME_ID as u64 {
        time = t.limit(Some(duration(&time))).map_or(time, timespec);
    }
    let mut left = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let arguments = [
        clock,
        flags,
        (&raw const time) as u64,
        (&raw mut left) as u64,
        0,
        0,
    ];
    // SAFETY: both times live across the call.
    let slept = unsafe { t.shared.kick.block(libc::SYS_clock_nanosleep, arguments) };
    if slept == Err(crate::errno::EINTR) && flags == 0 && remain != 0 {
        t.process
            .memory
            .write(remain, [left.tv_sec, left.tv_nsec])?;
    }
    slept
}

pub fn times(t: &mut Thread, _: &mut dyn Cpu, [to, ..]: [u64; 6]) -> SysResult {
    let mut usage = [0i64; 4];
    // SAFETY: `usage` has the size of struct tms.
    let ticks = unsafe { libc::syscall(libc::SYS_times, usage.as_mut_ptr()) };
    if to != 0 {
        t.process.memory.write(to, usage)?;
    }
    check(ticks)
}

/// The hypervisor's own usage, which is the guest's plus the serving of its calls.
pub fn getrusage(t: &mut Thread, _: &mut dyn Cpu, [who, to, ..]: [u64; 6]) -> SysResult {
    let who = match who as u32 {
        0 => libc::RUSAGE_SELF,
        1 => libc::RUSAGE_THREAD,
        u32::MAX => return t.process.memory.write_bytes(to, &[0; 144]).map(|()| 0),
        _ => return Err(EINVAL),
    };
    let mut usage = [0u8; 144];
    // SAFETY: the buffer has the size of struct rusage.
    check(unsafe { libc::syscall(libc::SYS_getrusage, who, usage.as_mut_ptr()) })?;
    t.process.memory.write_bytes(to, &usage).map(|()| 0)
}
