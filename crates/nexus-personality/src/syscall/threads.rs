//! Threads: clone, exit, and what identifies them.

use super::futex::{clear_and_wake, release_robust};
use super::processes::ends_in_making;
use crate::errno::{EAGAIN, EINVAL, ENOSYS, EPERM, SysResult};
use crate::machine::{Cpu, Outcome, ThreadState};
use crate::thread::Thread;
use std::io::ErrorKind;

const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
const USER_TOP: u64 = 1 << 47;

/// clone(2) for threads; what fork(3) and posix_spawn(3) ask for is a process.
#[allow(clippy::cast_sign_loss)]
pub fn clone(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [flags, stack, parent_tid, child_tid, tls, _]: [u64; 6],
) -> SysResult {
    if flags & THREAD_FLAGS != THREAD_FLAGS {
        let arguments = [flags, stack, parent_tid, child_tid, tls, 0];
        return super::processes::clone_process(t, cpu, arguments);
    }
    if t.making.is_some() {
        return Err(ENOSYS);
    }
    if stack == 0 || (flags & libc::CLONE_SETTLS as u64 != 0 && tls >= USER_TOP) {
        return Err(if stack == 0 { EINVAL } else { EPERM });
    }
    if t.process.threads().len() >= t.process.config.max_threads {
        return Err(EAGAIN);
    }
    let tid = t.process.next_tid();
    let mut regs = *cpu.regs();
    regs.rax = 0;
    regs.rsp = stack;
    if flags & libc::CLONE_SETTLS as u64 != 0 {
        regs.fs_base = tls;
    }
    if flags & libc::CLONE_PARENT_SETTID as u64 != 0 {
        t.process.memory.write(parent_tid, tid)?;
    }
    if flags & libc::CLONE_CHILD_SETTID as u64 != 0 {
        t.process.memory.write(child_tid, tid)?;
    }
    let state = ThreadState {
        tid,
        regs,
        xsave: cpu.xsave()?,
        resumed: None,
        pending: Vec::new(),
        clear_tid: if flags & libc::CLONE_CHILD_CLEARTID as u64 != 0 {
            child_tid
        } else {
            0
        },
        signal_mask: t.mask,
        alt_stack: (0, 0, 2),
        robust_list: 0,
        name: t.name(),
    };
    match t.process.machine.spawn(state) {
        Ok(()) => Ok(u64::from(tid.unsigned_abs())),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Err(EAGAIN),
        Err(e) => Err(e.into()),
    }
}

/// exit(2): this thread; the last one ends the guest.
pub fn exit(t: &mut Thread, cpu: &mut dyn Cpu, [status, ..]: [u64; 6]) -> SysResult {
    if ends_in_making(t, cpu, wait_status(status)) {
        return Ok(0);
    }
    release_robust(t);
    if t.clear_tid != 0 {
        clear_and_wake(t, t.clear_tid);
    }
    let last = t.process.threads().len() <= 1;
    t.control = Some(if last {
        Outcome::Exit(wait_status(status))
    } else {
        Outcome::ExitThread
    });
    Ok(0)
}

pub fn exit_group(t: &mut Thread, cpu: &mut dyn Cpu, [status, ..]: [u64; 6]) -> SysResult {
    if ends_in_making(t, cpu, wait_status(status)) {
        return Ok(0);
    }
    t.control = Some(Outcome::Exit(wait_status(status)));
    Ok(0)
}

fn wait_status(status: u64) -> i32 {
    i32::from((status & 0xff) as u8) << 8
}

pub fn set_tid_address(t: &mut Thread, _: &mut dyn Cpu, [address, ..]: [u64; 6]) -> SysResult {
    t.clear_tid = address;
    Ok(u64::from(t.tid().unsigned_abs()))
}

pub fn set_robust_list(t: &mut Thread, _: &mut dyn Cpu, [head, length, ..]: [u64; 6]) -> SysResult {
    if length != 24 {
        return Err(EINVAL);
    }
    t.robust_list = head;
    Ok(0)
}

pub fn gettid(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Ok(u64::from(t.tid().unsigned_abs()))
}

pub fn getpid(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Ok(u64::from(super::processes::own_pid(t).unsigned_abs()))
}

pub fn getppid(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    if t.making.is_some() {
        return Ok(u64::from(t.process.pid().unsigned_abs()));
    }
    let parent = t.process.parent().map_or(1, |p| p.pid());
    Ok(u64::from(parent.unsigned_abs()))
}

pub fn sched_yield(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}

pub fn arch_prctl(t: &mut Thread, cpu: &mut dyn Cpu, [code, address, ..]: [u64; 6]) -> SysResult {
    match code {
        ARCH_SET_FS | ARCH_SET_GS if address >= USER_TOP => Err(EPERM),
        ARCH_SET_FS => {
            cpu.regs_mut().fs_base = address;
            Ok(0)
        }
        ARCH_SET_GS => {
            cpu.regs_mut().gs_base = address;
            Ok(0)
        }
        ARCH_GET_FS => t
            .process
            .memory
            .write(address, cpu.regs().fs_base)
            .map(|()| 0),
        ARCH_GET_GS => t
            .process
            .memory
            .write(address, cpu.regs().gs_base)
            .map(|()| 0),
        _ => Err(EINVAL),
    }
}

pub fn getcpu(t: &mut Thread, _: &mut dyn Cpu, [cpu, node, ..]: [u64; 6]) -> SysResult {
    for address in [cpu, node].into_iter().filter(|a| *a != 0) {
        t.process.memory.write(address, 0u32)?;
    }
    Ok(0)
}
