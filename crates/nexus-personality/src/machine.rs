//! What the personality asks of the machine beneath it, and the state they hand each other.

use crate::errno::{ENOSYS, Errno};
use crate::pending::Sent;
use crate::process::{self, Process};
use crate::window::Window;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// Number of a guest thread, as `gettid` shows it. The first thread's is the process id.
pub type Tid = i32;

/// General state of a thread at CPL 3, in canonical form: the state *after* the instruction that left
/// the guest. After a system call `rip` is the address behind `syscall` (RCX) and `rflags` are the
/// caller's (R11), whatever the machine showed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRegs {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// The virtual CPU that carries the current thread. `regs` is cheap (a copy the hypervisor holds);
/// the extended state is fetched only when a signal frame or a snapshot needs it.
pub trait Cpu {
    fn regs(&self) -> &UserRegs;
    /// Changes take effect when the guest next runs.
    fn regs_mut(&mut self) -> &mut UserRegs;
    /// XSAVE area in the standard (non-compacted) format.
    ///
    /// # Errors
    /// What the hypervisor's ioctl failed with.
    fn xsave(&mut self) -> io::Result<Vec<u8>>;
    /// Replace the extended state. The area may be the guest's own bytes: reserved bits are cleared, and
    /// what the CPU would fault on is refused.
    ///
    /// # Errors
    /// `InvalidInput` for an area that no XSAVE could have written.
    fn set_xsave(&mut self, area: &[u8]) -> io::Result<()>;
}

/// Everything of a thread that a snapshot keeps or a new thread starts from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ThreadState {
    pub tid: Tid,
    pub regs: UserRegs,
    /// Empty: the initial state of a fresh process.
    pub xsave: Vec<u8>,
    /// The call that is issued again next, and when it is to end at the latest: CLOCK_MONOTONIC.
    pub resumed: Option<(u64, Duration)>,
    /// Signals sent to it and not yet taken.
    pub pending: Vec<Sent>,
    /// Address to clear and wake at thread exit (CLONE_CHILD_CLEARTID, set_tid_address), or 0.
    pub clear_tid: u64,
    /// Blocked signals, bit n-1 for signal n.
    pub signal_mask: u64,
    /// Alternate signal stack: base, size, flags.
    pub alt_stack: (u64, u64, u32),
    /// Head of the list of robust mutexes (set_robust_list), or 0.
    pub robust_list: u64,
    /// As prctl(2) or its creator named it, without the zeros behind; empty: after the program.
    pub name: Vec<u8>,
}

/// Makes the process of another microVM, and its first thread's state.
pub type Start = Box<
    dyn FnOnce(Window, Arc<dyn Machine>) -> Result<(Arc<Process>, ThreadState), process::Error>
        + Send,
>;
/// Told its wait status, once.
pub type Ended = Box<dyn FnOnce(i32) + Send>;

/// What the hypervisor does for the personality. All addresses are guest virtual ones and page aligned.
pub trait Machine: Send + Sync {
    /// Make the chunks (2 MiB) that `[start, end)` touches reachable for the guest: memslots and page
    /// directory entries. Idempotent. Called with the host mapping already in place.
    ///
    /// # Errors
    /// Out of slots or memory.
    fn back(&self, start: u64, end: u64) -> io::Result<()>;
    /// Allow (or forbid) execution in the chunks that `[start, end)` touches.
    ///
    /// # Errors
    /// As [`Machine::back`].
    fn set_executable(&self, start: u64, end: u64, executable: bool) -> io::Result<()>;
    /// Make a store to the page at [`crate::window::DOORBELL`] signal `event` (an ioeventfd): the one page that is present
    /// in the guest's tables without a memslot. One doorbell per machine.
    ///
    /// # Errors
    /// Taken already, or the ioctl failed.
    fn map_doorbell(&self, event: RawFd) -> io::Result<()>;
    /// Start a thread on a pooled vCPU and a host thread of its own.
    ///
    /// # Errors
    /// `WouldBlock` at the limit of threads.
    fn spawn(&self, thread: ThreadState) -> io::Result<()>;
    /// Make another microVM beside this one, in the same hypervisor, with what `start` makes of its window and
    /// machine; `ended` gets the wait status when it is gone.
    ///
    /// # Errors
    /// ENOSYS where there can be only one; what `start` or the host refused.
    fn launch(&self, start: Start, ended: Ended) -> Result<(), Errno> {
        let _ = (start, ended);
        Err(ENOSYS)
    }
    /// Make thread `tid` leave the guest, or the host call it blocks in, soon and without loss.
    fn kick(&self, tid: Tid);
    /// Let the threads go on that were held for the one that renews a restored instance.
    fn renewed(&self) {}
}

/// An exception at CPL 3, as the guest's IDT handlers or a failed `KVM_RUN` report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    pub vector: u8,
    pub error_code: u64,
    /// The address of a page fault (CR2, or decoded from the instruction), else 0.
    pub address: u64,
}

impl Exception {
    /// Of a page fault, the access that failed: `PROT_*`.
    #[must_use]
    pub fn access(&self) -> i32 {
        match self.error_code {
            code if code & 16 != 0 => libc::PROT_EXEC,
            code if code & 2 != 0 => libc::PROT_WRITE,
            _ => libc::PROT_READ,
        }
    }
}

/// How a thread goes on after [`crate`] has served what it left the guest for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Run on; registers are already as they must be (the result of a call is in `rax`).
    Resume,
    /// This thread ends.
    ExitThread,
    /// The whole guest ends with this wait status (as `wait4` gives it).
    Exit(i32),
    /// The thread must wait until the hypervisor lets it go on; its state is canonical.
    Park,
    /// The guest asked for a snapshot at this call; its result is already in place for after the restore.
    Snapshot {
        /// The other threads are to wait in a restored instance until the caller has renewed it.
        hold: bool,
    },
}
