//! fork(2), and clone(2) as it: the child is a copy of the caller's process in a microVM of its own.

use super::processes::with_place;
use crate::errno::{ENOSYS, SysResult};
use crate::heritage::Heritage;
use crate::machine::{Cpu, ThreadState};
use crate::mm::copy::Terms;
use crate::process::{Error, Process};
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const CHILD_SIGNAL: u64 = libc::SIGCHLD as u64;
const SET_TID: u64 = libc::CLONE_CHILD_SETTID as u64;
const CLEAR_TID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
const PARENT_SET_TID: u64 = libc::CLONE_PARENT_SETTID as u64;
const SET_TLS: u64 = libc::CLONE_SETTLS as u64;

/// fork(2).
pub fn fork(t: &mut Thread, cpu: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    clone_copy(t, cpu, [CHILD_SIGNAL, 0, 0, 0, 0, 0])
}

/// clone(2) of a process that shares nothing with its parent.
pub fn clone_copy(
    t: &mut Thread,
    cpu: &mut dyn Cpu,
    [flags, stack, parent_tid, child_tid, tls, _]: [u64; 6],
) -> SysResult {
    let options = SET_TID | CLEAR_TID | PARENT_SET_TID | SET_TLS;
    if t.making.is_some() || flags & !options != CHILD_SIGNAL {
        return Err(ENOSYS);
    }
    let mut regs = *cpu.regs();
    regs.rax = 0;
    if stack != 0 {
        regs.rsp = stack;
    }
    if flags & SET_TLS != 0 {
        regs.fs_base = tls;
    }
    let pid = t.process.next_tid();
    let state = ThreadState {
        tid: pid,
        regs,
        xsave: cpu.xsave()?,
        resumed: None,
        pending: Vec::new(),
        clear_tid: if flags & CLEAR_TID != 0 { child_tid } else { 0 },
        signal_mask: t.mask,
        alt_stack: t.alt_stack,
        robust_list: 0,
        name: t.name(),
    };
    if flags & PARENT_SET_TID != 0 {
        t.process.memory.write(parent_tid, pid)?;
    }
    let parent = Arc::clone(&t.process);
    let heritage = Heritage::copied(&parent, pid);
    t.process.children.add(pid)?;
    t.process.groups.enter(pid, t.process.pid());
    let made = with_place(
        t,
        Box::new(move |window, machine| {
            let child = Process::inherit(window, machine, heritage)?;
            child.copy_memory(&parent)?;
            if flags & SET_TID != 0 {
                // As on Linux, an address that is none is the child's own affair.
                let _ = child.memory.write(child_tid, pid);
            }
            Ok((child, state))
        }),
        move |parent, status| crate::children::ended(parent, pid, status),
    );
    if let Err(error) = made {
        t.process.children.forget(pid);
        t.process.groups.leave(pid);
        return Err(error);
    }
    Ok(u64::from(pid.unsigned_abs()))
}

impl Process {
    /// Fill the address space, which is empty, with a copy of `parent`'s.
    fn copy_memory(&self, parent: &Self) -> Result<(), Error> {
        // Of a restored guest the untouched pages lie in the snapshot.
        let terms = Terms {
            pagemap: parent.pagemap.as_ref().map(|fd| fd.as_raw_fd()),
            restored: parent.generation() > 0,
            room: &|more| self.ledger.room(more),
        };
        let copied = self.mm().copy_from(&parent.mm(), &terms);
        copied.map_err(|errno| Error::Guest {
            doing: "copying a process",
            errno,
        })
    }
}
