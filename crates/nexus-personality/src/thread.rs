//! One guest thread: from an exit of its vCPU to what happens next.

use crate::errno::{EINTR, Errno, SysResult};
use crate::host::Kick;
use crate::machine::{Cpu, Exception, Outcome, ThreadState};
use crate::pending::bit;
use crate::process::{Process, ThreadShared};
use crate::syscall::processes::{self, Making};
use crate::syscall::time::monotonic;
use crate::{signal, table};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Length of the `syscall` instruction: a call is issued again by standing before it.
const SYSCALL_LENGTH: u64 = 2;
/// Faults at one instruction that the address space allows, before they count as real (SIGBUS: behind the
/// end of a file). A stale translation is gone after the first.
const MAX_SPURIOUS: u32 = 4;

/// A guest thread, owned by the host thread that runs it.
pub struct Thread {
    pub(crate) process: Arc<Process>,
    pub(crate) shared: Arc<ThreadShared>,
    pub(crate) mask: u64,
    pub(crate) alt_stack: (u64, u64, u32),
    pub(crate) clear_tid: u64,
    /// Head of the list of robust mutexes, or 0.
    pub(crate) robust_list: u64,
    /// What a handler decided about the thread itself.
    pub(crate) control: Option<Outcome>,
    /// Mask to put back after the signal that `sigsuspend`, `ppoll` and the like waited for.
    pub(crate) saved_mask: Option<u64>,
    /// When the call that is being served is to end at the latest (CLOCK_MONOTONIC), where it has a relative limit.
    deadline: Option<Duration>,
    /// The call that is issued again next, and its deadline.
    resumed: Option<(u64, Duration)>,
    /// A child between vfork and exec, which this thread carries.
    pub(crate) making: Option<Box<Making>>,
    spurious: (u64, u32),
}

impl Thread {
    pub(crate) fn new(
        process: Arc<Process>,
        shared: Arc<ThreadShared>,
        state: &ThreadState,
    ) -> Self {
        Self {
            process,
            shared,
            mask: state.signal_mask,
            alt_stack: state.alt_stack,
            clear_tid: state.clear_tid,
            robust_list: state.robust_list,
            control: None,
            saved_mask: None,
            deadline: None,
            resumed: state.resumed,
            making: None,
            spurious: (0, 0),
        }
    }

    /// Tie kicks to the calling host thread and its vCPU's `immediate_exit` byte. Valid until [`Thread::leave`].
    pub fn adopt(&self, immediate_exit: *mut u8) {
        self.shared.kick.adopt(immediate_exit);
    }

    /// Untie kicks: before the vCPU is given back.
    pub fn leave() {
        Kick::release();
    }

    /// Its number.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.shared.tid
    }

    /// Its name, empty where it is the program's.
    pub(crate) fn name(&self) -> Vec<u8> {
        self.shared.name().clone()
    }

    /// It is gone for good: who waits for a robust mutex that it holds learns of that. To be called before its memory is taken down.
    pub fn release_robust(&mut self) {
        crate::syscall::futex::release_robust(self);
    }

    /// Canonical state, for a snapshot or a new thread.
    ///
    /// # Errors
    /// The vCPU's.
    pub fn state(&self, cpu: &mut dyn Cpu) -> std::io::Result<ThreadState> {
        Ok(ThreadState {
            tid: self.shared.tid,
            regs: *cpu.regs(),
            xsave: cpu.xsave()?,
            resumed: self.resumed,
            pending: self.shared.pending.list(),
            clear_tid: self.clear_tid,
            signal_mask: self.mask,
            alt_stack: self.alt_stack,
            robust_list: self.robust_list,
            name: self.name(),
        })
    }

    /// Serve the system call in the registers.
    pub fn syscall(&mut self, cpu: &mut dyn Cpu) -> Outcome {
        let regs = *cpu.regs();
        let arguments = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        self.deadline = self
            .resumed
            .take()
            .and_then(|(number, deadline)| (number == regs.rax).then_some(deadline));
        let result = match table::handler(regs.rax) {
            Some(handler) => handler(self, cpu, arguments),
            None => {
                self.process.count_unknown(regs.rax);
                Err(crate::errno::ENOSYS)
            }
        };
        self.finish(cpu, regs.rax, result)
    }

    fn finish(&mut self, cpu: &mut dyn Cpu, number: u64, result: SysResult) -> Outcome {
        match self.control.take() {
            Some(snapshot @ Outcome::Snapshot { .. }) => {
                cpu.regs_mut().rax = 1;
                return snapshot;
            }
            // The registers are as sigreturn put them.
            Some(Outcome::Resume) => return self.after(cpu, false),
            Some(other) => return other,
            None => {}
        }
        self.shared.kick.take();
        let interrupted = result == Err(EINTR);
        cpu.regs_mut().rax = match result {
            Ok(value) => value,
            Err(Errno(number)) => i64::from(-number).cast_unsigned(),
        };
        // Only a call that was cut short leaves its temporary mask to the signals.
        if !interrupted && let Some(mask) = self.saved_mask.take() {
            self.set_mask(mask);
        }
        if interrupted && signal::restarts(self, number, cpu.regs()) {
            let regs = cpu.regs_mut();
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LENGTH);
            regs.rax = number;
            self.resumed = self.deadline.map(|deadline| (number, deadline));
        }
        self.after(cpu, interrupted)
    }

    /// How long the call may wait that asks for a relative limit: what is left where it was begun before, so that a
    /// wait cut short ends when it would have. A snapshot's clones too go by the host's clock, which never stops.
    pub(crate) fn limit(&mut self, asked: Option<Duration>) -> Option<Duration> {
        let asked = asked?;
        let now = monotonic();
        let deadline = self.deadline.unwrap_or_else(|| now.saturating_add(asked));
        self.deadline = Some(deadline);
        Some(deadline.saturating_sub(now).min(asked))
    }

    /// Before going back to the guest: signals, and the wish to stop. `waiting`: it was in a call that waits.
    fn after(&mut self, cpu: &mut dyn Cpu, waiting: bool) -> Outcome {
        // What is for the parent waits until its thread is its own again.
        if self.making.is_some() {
            let killed = signal::pending(self) & bit(libc::SIGKILL as u64) != 0;
            return if killed {
                Outcome::Exit(libc::SIGKILL)
            } else {
                Outcome::Resume
            };
        }
        if self.process.stops(waiting) {
            if self.process.successor().is_some() {
                // Another thread has executed a program: this one is gone.
                self.release_robust();
            }
            if let Some(mask) = self.saved_mask.take() {
                self.set_mask(mask);
            }
            return Outcome::Park;
        }
        let before = cpu.regs().rip;
        let outcome = signal::deliver(self, cpu);
        if cpu.regs().rip != before {
            // A handler comes first, and what it calls is another call.
            self.resumed = None;
        }
        if let Some(mask) = self.saved_mask.take() {
            self.set_mask(mask);
        }
        outcome
    }

    /// The vCPU came back without a reason of the guest's: a kick.
    pub fn interrupted(&mut self, cpu: &mut dyn Cpu) -> Outcome {
        self.shared.kick.take();
        self.after(cpu, false)
    }

    /// Serve an exception: a stale translation, a handler of the guest's, or its end.
    pub fn exception(&mut self, cpu: &mut dyn Cpu, exception: Exception) -> Outcome {
        if exception.vector == 14 && self.is_spurious(cpu.regs().rip, exception) {
            return Outcome::Resume;
        }
        let outcome = signal::raise(self, cpu, exception);
        self.ended(cpu, outcome)
    }

    /// A fault that no handler can be told of.
    pub fn killed(&mut self, cpu: &mut dyn Cpu, signal: i32) -> Outcome {
        self.ended(cpu, Outcome::Exit(signal))
    }

    /// Where it is a child in the making that has ended, its parent goes on.
    fn ended(&mut self, cpu: &mut dyn Cpu, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Exit(status) if processes::ends_in_making(self, cpu, status) => {
                self.control = None;
                self.after(cpu, false)
            }
            outcome => outcome,
        }
    }

    fn is_spurious(&mut self, rip: u64, exception: Exception) -> bool {
        if !(self.process.mm()).allows(exception.address, exception.access()) {
            return false;
        }
        self.spurious = if self.spurious.0 == rip {
            (rip, self.spurious.1 + 1)
        } else {
            (rip, 1)
        };
        self.spurious.1 <= MAX_SPURIOUS
    }

    pub(crate) fn set_mask(&mut self, mask: u64) {
        // SIGKILL and SIGSTOP cannot be blocked.
        self.mask = mask & !(1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1));
        self.shared.mask.store(self.mask, Ordering::Release);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if self.making.take().is_some() {
            self.process.take_back();
        }
        self.process.threads().remove(&self.shared.tid);
    }
}
