//! Signals: who gets which, the frame on the guest's stack, and the way back.
//!
//! The layout of the frame is the kernel's (arch/x86/include/uapi/asm/sigcontext.h and ucontext.h).

use crate::errno::{EFAULT, Errno, SysResult};
use crate::machine::{Cpu, Exception, Outcome, Tid, UserRegs};
use crate::memory::{Plain, plain};
use crate::pending::{Sent, bit};
use crate::process::Process;
use crate::thread::Thread;
use std::sync::atomic::Ordering;

/// Signals are numbered 1 to 64.
pub const LAST: u64 = 64;
const RED_ZONE: u64 = 128;
const SA_RESTORER: u64 = 0x0400_0000;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
/// Bytes of extended state in a frame: up to the end of AVX-512 in the standard format.
const XSTATE: usize = 2688;
/// Where in an FXSAVE image software may keep its own: five words.
const SOFTWARE_BYTES: usize = 464;
const ON_STACK: u32 = 1;
const DISABLE: u32 = 2;

/// As rt_sigaction(2) has it for the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Action {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// What the process does at each signal.
#[derive(Clone, Default)]
pub struct Signals {
    actions: Vec<Action>,
}

impl Signals {
    /// The disposition of a signal.
    #[must_use]
    pub fn action(&self, signal: u64) -> Action {
        usize::try_from(signal)
            .ok()
            .and_then(|n| self.actions.get(n))
            .copied()
            .unwrap_or_default()
    }

    /// Change it.
    pub fn set_action(&mut self, signal: u64, action: Action) {
        self.actions.resize(LAST as usize + 1, Action::default());
        if let Some(slot) = usize::try_from(signal)
            .ok()
            .and_then(|n| self.actions.get_mut(n))
        {
            *slot = action;
        }
    }

    /// All of them, for a snapshot.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }
}

/// `struct sigcontext`, as integers.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Context {
    /// r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags.
    regs: [u64; 18],
    /// cs, gs, fs, ss.
    segments: [u16; 4],
    error_code: u64,
    vector: u64,
    old_mask: u64,
    address: u64,
    fpstate: u64,
    reserved: [u64; 8],
}

/// `struct rt_sigframe`, as far as it lies in one piece.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Frame {
    return_address: u64,
    flags: u64,
    link: u64,
    stack: u64,
    stack_flags: u32,
    padding: u32,
    stack_size: u64,
    context: Context,
    mask: u64,
    info: [u64; 16],
}
plain! { Action Frame }

/// Whether the default disposition is to do nothing. Stopping is among it: nobody could have the guest go on.
fn ignored_by_default(signal: u64) -> bool {
    [
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ]
    .iter()
    .any(|s| *s as u64 == signal)
}

/// Whether a signal with this disposition does nothing.
#[must_use]
pub fn is_ignored(signal: u64, action: Action) -> bool {
    action.handler == 1 || action.handler == 0 && ignored_by_default(signal)
}

/// Send a signal to one thread (`Some`) or to the process. 0 only checks.
///
/// # Errors
/// ESRCH, EINVAL; EAGAIN where too many wait.
pub fn send(process: &Process, tid: Option<Tid>, sent: Sent) -> SysResult {
    if sent.signal > LAST {
        return Err(crate::errno::EINVAL);
    }
    if let Some(successor) = process.successor() {
        return send(&successor, None, sent);
    }
    let wanted = if sent.signal == 0 {
        0
    } else {
        bit(sent.signal)
    };
    let target = {
        let threads = process.threads();
        match tid {
            Some(tid) => Some(threads.get(&tid).cloned().ok_or(crate::errno::ESRCH)?),
            // Whoever waits for it, or any thread that does not block it; else it waits for one to unblock it.
            None => threads
                .values()
                .find(|t| t.awaited.load(Ordering::SeqCst) & wanted != 0)
                .or_else(|| {
                    threads
                        .values()
                        .find(|t| t.mask.load(Ordering::Acquire) & wanted == 0)
                })
                .cloned(),
        }
    };
    if sent.signal == 0 {
        return Ok(0);
    }
    let blocked = target.as_ref().is_none_or(|t| {
        (t.mask.load(Ordering::Acquire) | t.awaited.load(Ordering::SeqCst)) & wanted != 0
    });
    if !blocked && is_ignored(sent.signal, process.signals().action(sent.signal)) {
        return Ok(0);
    }
    match (&target, tid) {
        (Some(thread), Some(_)) => thread.pending.push(sent)?,
        _ => process.pending.push(sent)?,
    }
    if let Some(thread) = target {
        process.machine.kick(thread.tid);
    }
    Ok(0)
}

/// What is pending for the thread, its own and the process's.
#[must_use]
pub fn pending(thread: &Thread) -> u64 {
    thread.shared.pending.mask() | thread.process.pending.mask()
}

fn deliverable(thread: &Thread) -> u64 {
    pending(thread) & !thread.mask
}

/// Take the first of `set`, the thread's own before the process's.
pub fn take(thread: &Thread, set: u64) -> Option<Sent> {
    thread
        .shared
        .pending
        .take(set)
        .or_else(|| thread.process.pending.take(set))
}

/// Whether an interrupted call is issued again: if no handler will run, or the handler wants it so.
#[must_use]
pub fn restarts(thread: &Thread, number: u64, regs: &UserRegs) -> bool {
    let pending = deliverable(thread);
    let signals = thread.process.signals();
    let handled = (1..=LAST)
        .filter(|s| pending & bit(*s) != 0)
        .map(|s| signals.action(s))
        .find(|a| a.handler > 1);
    match handled {
        None => true,
        // signal(7): these are never restarted behind a handler.
        Some(action) => {
            let never = [
                libc::SYS_poll,
                libc::SYS_ppoll,
                libc::SYS_select,
                libc::SYS_pselect6,
                libc::SYS_epoll_wait,
                libc::SYS_epoll_pwait,
                libc::SYS_nanosleep,
                libc::SYS_clock_nanosleep,
                libc::SYS_rt_sigtimedwait,
                libc::SYS_rt_sigsuspend,
                libc::SYS_pause,
            ];
            // Nor a wait for a futex that has a limit, which the fourth argument points to.
            let timed = number == libc::SYS_futex.cast_unsigned() && regs.r10 != 0;
            action.flags & libc::SA_RESTART as u64 != 0
                && !timed
                && !never.iter().any(|n| n.cast_unsigned() == number)
        }
    }
}

/// Deliver what is pending: run handlers, end the guest, or nothing.
pub fn deliver(thread: &mut Thread, cpu: &mut dyn Cpu) -> Outcome {
    while let Some(sent) = take(thread, !thread.mask) {
        let action = thread.process.signals().action(sent.signal);
        match act(thread, cpu, sent.signal, action, sent.info(), None) {
            Outcome::Resume => {}
            end => return end,
        }
    }
    Outcome::Resume
}

/// Turn an exception at CPL 3 into its signal.
pub fn raise(thread: &mut Thread, cpu: &mut dyn Cpu, exception: Exception) -> Outcome {
    let (signal, code) = match exception.vector {
        0 => (libc::SIGFPE, 1),
        16 | 19 => (libc::SIGFPE, 3),
        1 => (libc::SIGTRAP, 2),
        3 => (libc::SIGTRAP, 0x80),
        6 => (libc::SIGILL, 2),
        17 => (libc::SIGBUS, 1),
        14 => match thread.process.mm().find(exception.address) {
            // Allowed, and yet there is nothing: behind the end of a file.
            Some((_, vma)) if vma.prot & exception.access() != 0 => (libc::SIGBUS, 2),
            Some(_) => (libc::SIGSEGV, 2),
            None => (libc::SIGSEGV, 1),
        },
        _ => (libc::SIGSEGV, 0x80),
    };
    let signal = signal as u64;
    let blocked = thread.mask & bit(signal) != 0;
    let action = thread.process.signals().action(signal);
    let mut info = [0u64; 16];
    info[0] = signal;
    info[1] = code;
    info[2] = if exception.vector == 14 {
        exception.address
    } else {
        cpu.regs().rip
    };
    // A fault that is blocked or ignored cannot be put off: it is the end.
    let action = if blocked || action.handler == 1 {
        Action::default()
    } else {
        action
    };
    act(thread, cpu, signal, action, info, Some(exception))
}

fn act(
    thread: &mut Thread,
    cpu: &mut dyn Cpu,
    signal: u64,
    action: Action,
    info: [u64; 16],
    exception: Option<Exception>,
) -> Outcome {
    match action.handler {
        _ if is_ignored(signal, action) => Outcome::Resume,
        0 => Outcome::Exit(i32::try_from(signal).unwrap_or(libc::SIGKILL)),
        _ => match push_frame(thread, cpu, signal, action, info, exception) {
            Ok(()) => Outcome::Resume,
            // No stack to deliver on: as the kernel does, SIGSEGV with no handler.
            Err(_) => Outcome::Exit(libc::SIGSEGV),
        },
    }
}

fn push_frame(
    thread: &mut Thread,
    cpu: &mut dyn Cpu,
    signal: u64,
    action: Action,
    info: [u64; 16],
    exception: Option<Exception>,
) -> Result<(), Errno> {
    let regs = *cpu.regs();
    let (base, size, flags) = thread.alt_stack;
    let on_alternate = regs.rsp > base && regs.rsp <= base.wrapping_add(size);
    let switch = action.flags & libc::SA_ONSTACK as u64 != 0
        && size != 0
        && flags & DISABLE == 0
        && !on_alternate;
    let top = if switch {
        base.wrapping_add(size)
    } else {
        regs.rsp.wrapping_sub(RED_ZONE)
    };
    let mut xsave = cpu.xsave()?;
    xsave.resize(XSTATE, 0);
    let words = [FP_XSTATE_MAGIC1, XSTATE as u32 + 4, 0xe7, 0, XSTATE as u32];
    for (n, word) in words.iter().enumerate() {
        let at = SOFTWARE_BYTES + 4 * n;
        xsave.splice(at..at + 4, word.to_le_bytes());
    }
    xsave.extend_from_slice(&FP_XSTATE_MAGIC2.to_le_bytes());
    let fpstate = top.wrapping_sub(xsave.len() as u64) & !63;
    // The ABI wants RSP + 8 aligned to 16 at a function's entry.
    let at = (fpstate.wrapping_sub(size_of::<Frame>() as u64) & !15).wrapping_sub(8);
    let frame = Frame {
        return_address: if action.flags & SA_RESTORER != 0 {
            action.restorer
        } else {
            0
        },
        flags: 1 | 2 | 4, // UC_FP_XSTATE, UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS
        link: 0,
        stack: base,
        stack_flags: if size == 0 {
            DISABLE
        } else if on_alternate {
            ON_STACK
        } else {
            flags
        },
        padding: 0,
        stack_size: size,
        context: Context {
            regs: [
                regs.r8,
                regs.r9,
                regs.r10,
                regs.r11,
                regs.r12,
                regs.r13,
                regs.r14,
                regs.r15,
                regs.rdi,
                regs.rsi,
                regs.rbp,
                regs.rbx,
                regs.rdx,
                regs.rax,
                regs.rcx,
                regs.rsp,
                regs.rip,
                regs.rflags,
            ],
            segments: [0x33, 0, 0, 0x2b],
            error_code: exception.map_or(0, |e| e.error_code),
            vector: exception.map_or(0, |e| e.vector.into()),
            old_mask: thread.mask,
            address: exception.map_or(0, |e| e.address),
            fpstate,
            reserved: [0; 8],
        },
        mask: thread.saved_mask.unwrap_or(thread.mask),
        info,
    };
    thread.process.memory.write_bytes(fpstate, &xsave)?;
    thread.process.memory.write(at, frame)?;
    let new = cpu.regs_mut();
    new.rsp = at;
    new.rip = action.handler;
    new.rdi = signal;
    new.rsi = at + std::mem::offset_of!(Frame, info) as u64;
    new.rdx = at + 8;
    new.rax = 0;
    // TF, DF and RF are clear in a handler.
    new.rflags = regs.rflags & !0x0001_0500;
    let own = if action.flags & libc::SA_NODEFER as u64 == 0 {
        bit(signal)
    } else {
        0
    };
    thread.saved_mask = None;
    thread.set_mask(thread.mask | action.mask | own);
    if action.flags & libc::SA_RESETHAND as u64 != 0 {
        thread
            .process
            .signals()
            .set_action(signal, Action::default());
    }
    Ok(())
}

/// rt_sigreturn(2): everything from the frame, which is the guest's to forge; it can only make user state of it.
///
/// # Errors
/// EFAULT where no frame can be read.
pub fn sigreturn(thread: &mut Thread, cpu: &mut dyn Cpu) -> SysResult {
    let at = cpu.regs().rsp.wrapping_sub(8);
    let frame: Frame = thread.process.memory.read(at)?;
    if frame.context.fpstate != 0 {
        let mut xsave = vec![0u8; XSTATE];
        thread
            .process
            .memory
            .read_bytes(frame.context.fpstate, &mut xsave)?;
        for byte in xsave.iter_mut().skip(SOFTWARE_BYTES).take(48) {
            *byte = 0;
        }
        xsave.resize(4096, 0);
        cpu.set_xsave(&xsave).map_err(|_| EFAULT)?;
    }
    let [
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rdi,
        rsi,
        rbp,
        rbx,
        rdx,
        rax,
        rcx,
        rsp,
        rip,
        rflags,
    ] = frame.context.regs;
    let regs = cpu.regs_mut();
    let (fs_base, gs_base) = (regs.fs_base, regs.gs_base);
    *regs = crate::machine::UserRegs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
        fs_base,
        gs_base,
    };
    thread.set_mask(frame.mask);
    thread.alt_stack = (frame.stack, frame.stack_size, frame.stack_flags & DISABLE);
    thread.control = Some(Outcome::Resume);
    Ok(0)
}

const _: () = assert!(size_of::<Context>() == 256 && std::mem::offset_of!(Frame, mask) == 304);
