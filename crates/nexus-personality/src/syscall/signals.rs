//! Signal calls; delivery is in `crate::signal`.

use crate::errno::{EAGAIN, EFAULT, EINTR, EINVAL, ENOMEM, EPERM, ESRCH, SysResult};
use crate::machine::Cpu;
use crate::signal::{self, Action, LAST};
use crate::thread::Thread;
use std::sync::atomic::Ordering;

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
    let pending = (t.shared.pending.load(Ordering::Acquire) | t.process.signals().pending) & t.mask;
    t.process.memory.write(set, pending).map(|()| 0)
}

#[allow(clippy::cast_possible_truncation)]
pub fn sigaltstack(t: &mut Thread, cpu: &mut dyn Cpu, [new, old, ..]: [u64; 6]) -> SysResult {
    let (base, size, flags) = t.alt_stack;
    let rsp = cpu.regs().rsp;
    let inside = size != 0 && rsp > base && rsp <= base.wrapping_add(size);
    if old != 0 {
        let shown = if size == 0 { 2 } else { u64::from(inside) };
        t.process.memory.write(old, [base, shown, size])?;
    }
    let _ = flags;
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
    Ok(0)
}

#[allow(clippy::cast_possible_truncation)]
pub fn kill(t: &mut Thread, _: &mut dyn Cpu, [pid, signal, ..]: [u64; 6]) -> SysResult {
    let pid = pid as i32;
    if pid != t.process.pid() && pid != 0 && pid != -1 {
        return Err(ESRCH);
    }
    let signal = u64::from(signal as u32);
    // The caller gets it before the call returns, if it does not block it.
    if signal != 0 && signal <= LAST && t.mask & (1 << (signal - 1)) == 0 {
        t.shared
            .pending
            .fetch_or(1 << (signal - 1), Ordering::AcqRel);
        return Ok(0);
    }
    signal::send(&t.process, None, signal)
}

#[allow(clippy::cast_possible_truncation)]
pub fn tgkill(t: &mut Thread, _: &mut dyn Cpu, [pid, tid, signal, ..]: [u64; 6]) -> SysResult {
    if pid as i32 != t.process.pid() {
        return Err(ESRCH);
    }
    signal::send(&t.process, Some(tid as i32), u64::from(signal as u32))
}

#[allow(clippy::cast_possible_truncation)]
pub fn tkill(t: &mut Thread, _: &mut dyn Cpu, [tid, signal, ..]: [u64; 6]) -> SysResult {
    signal::send(&t.process, Some(tid as i32), u64::from(signal as u32))
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
    if (t.shared.pending.load(Ordering::Acquire) | t.process.signals().pending) & !t.mask != 0 {
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
    let limit = super::time::read_timespec(t, timeout)?;
    let deadline = limit.map(|l| std::time::Instant::now() + super::time::duration(&l));
    loop {
        let own = t.shared.pending.load(Ordering::Acquire) & set;
        let found = if own == 0 {
            t.process.signals().pending & set
        } else {
            own
        };
        if found != 0 {
            let signal = found.trailing_zeros();
            t.shared.pending.fetch_and(!(1 << signal), Ordering::AcqRel);
            t.process.signals().pending &= !(1 << signal);
            if info != 0 {
                t.process.memory.write_bytes(info, &[0; 128])?;
                t.process.memory.write(info, signal + 1)?;
            }
            return Ok(u64::from(signal) + 1);
        }
        let left = match deadline {
            Some(d) => match d.checked_duration_since(std::time::Instant::now()) {
                Some(left) => left,
                None => return Err(EAGAIN),
            },
            None => std::time::Duration::from_secs(3600),
        };
        let time = [left.as_secs(), left.subsec_nanos().into()];
        // SAFETY: the time lives across the call.
        let waited = unsafe {
            t.shared
                .kick
                .block(libc::SYS_ppoll, [0, 0, time.as_ptr() as u64, 0, 0, 0])
        };
        if waited == Err(EINTR) && t.process.stopping() {
            return Err(EINTR);
        }
        t.shared.kick.take();
    }
}
