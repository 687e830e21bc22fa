//! Process groups and sessions.

use super::processes::own_pid;
use crate::errno::{EINVAL, ESRCH, Errno, SysResult};
use crate::groups::Member;
use crate::machine::{Cpu, Tid};
use crate::thread::Thread;

/// The process that a number means: 0 the caller.
fn member(t: &Thread, pid: u64) -> Result<(Tid, Member), Errno> {
    let pid = match pid as i32 {
        0 => own_pid(t),
        pid => pid,
    };
    Ok((pid, t.process.groups.get(pid)?))
}

fn number(tid: Tid) -> SysResult {
    Ok(u64::from(tid.unsigned_abs()))
}

pub fn getpgid(t: &mut Thread, _: &mut dyn Cpu, [pid, ..]: [u64; 6]) -> SysResult {
    number(member(t, pid)?.1.group)
}

pub fn getpgrp(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    number(member(t, 0)?.1.group)
}

pub fn getsid(t: &mut Thread, _: &mut dyn Cpu, [pid, ..]: [u64; 6]) -> SysResult {
    number(member(t, pid)?.1.session)
}

pub fn setpgid(t: &mut Thread, _: &mut dyn Cpu, [pid, group, ..]: [u64; 6]) -> SysResult {
    if (group as i32) < 0 {
        return Err(EINVAL);
    }
    let (pid, _) = member(t, pid)?;
    if pid != own_pid(t) && !t.process.children.has(pid) {
        return Err(ESRCH);
    }
    let group = if group as i32 == 0 { pid } else { group as i32 };
    t.process.groups.join(pid, group).map(|()| 0)
}

pub fn setsid(t: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    let pid = own_pid(t);
    t.process.groups.lead(pid)?;
    number(pid)
}
