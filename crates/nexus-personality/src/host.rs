//! The few places where registers and faults matter: copying guest memory, and blocking host calls.
//!
//! This file is unsafe by nature. Both routines are assembly with a fixed shape, and one signal handler knows
//! their addresses: a fault inside the copy ends the copy, a kick before a blocking call's `syscall`
//! instruction cancels it. So no pointer of a guest can crash the hypervisor, and no kick is ever lost.

use crate::errno::{EFAULT, EINTR, Errno, SysResult};
use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// Signal that makes a host thread leave `KVM_RUN` or a blocking call.
pub const KICK_SIGNAL: libc::c_int = 35;

core::arch::global_asm!(
    // u64 nexus_copy(void *to, const void *from, u64 length): bytes not copied
    ".global nexus_copy",
    "nexus_copy:",
    "mov rcx, rdx",
    ".global nexus_copy_access",
    "nexus_copy_access:",
    "rep movsb",
    ".global nexus_copy_fixup",
    "nexus_copy_fixup:",
    "mov rax, rcx",
    "ret",
    // i64 nexus_block(const u32 *kicked, u64 number, const u64 arguments[6])
    ".global nexus_block",
    "nexus_block:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, rsi",
    "mov r11, rdx",
    "mov rdi, [r11]",
    "mov rsi, [r11+8]",
    "mov rdx, [r11+16]",
    "mov r10, [r11+24]",
    "mov r8, [r11+32]",
    "mov r9, [r11+40]",
    ".global nexus_block_begin",
    "nexus_block_begin:",
    "cmp dword ptr [rbx], 0",
    "jne nexus_block_cancel",
    "syscall",
    ".global nexus_block_end",
    "nexus_block_end:",
    "pop rbx",
    "ret",
    ".global nexus_block_cancel",
    "nexus_block_cancel:",
    "mov rax, -4",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn nexus_copy(to: *mut u8, from: *const u8, length: u64) -> u64;
    fn nexus_copy_access();
    fn nexus_copy_fixup();
    fn nexus_block(kicked: *const u32, number: u64, arguments: *const u64) -> i64;
    fn nexus_block_begin();
    fn nexus_block_end();
    fn nexus_block_cancel();
}

/// Set by a kick, cleared by the thread itself once it has looked.
pub struct Kick {
    flag: AtomicU32,
}

thread_local! {
    static CURRENT: Cell<(*const AtomicU32, *mut u8)> = const { Cell::new((std::ptr::null(), std::ptr::null_mut())) };
}

impl Default for Kick {
    fn default() -> Self {
        Self {
            flag: AtomicU32::new(0),
        }
    }
}

impl Kick {
    /// Make this the kick flag of the calling host thread; `immediate_exit`, if not null, is the byte in the
    /// vCPU's run page that the handler sets too. Both must stay valid until `release`.
    pub fn adopt(&self, immediate_exit: *mut u8) {
        CURRENT.with(|c| c.set((&raw const self.flag, immediate_exit)));
    }

    /// Forget the calling thread's flag: call before the run page or the flag goes away.
    pub fn release() {
        CURRENT.with(|c| c.set((std::ptr::null(), std::ptr::null_mut())));
    }

    /// Whether there was a kick; forget it.
    pub fn take(&self) -> bool {
        self.flag.swap(0, Ordering::AcqRel) != 0
    }

    /// Note a kick. The signal that makes the thread look must be sent by the caller, after this.
    pub fn set(&self) {
        self.flag.store(1, Ordering::Release);
    }

    /// A host system call that may block, cut short by a kick with EINTR.
    ///
    /// # Errors
    /// The host's error number.
    ///
    /// # Safety
    /// The arguments must be valid for that call as for any raw system call: pointers into the window
    /// (where the host kernel itself survives a fault) or to live memory of the hypervisor.
    pub unsafe fn block(&self, number: libc::c_long, arguments: [u64; 6]) -> SysResult {
        // SAFETY: the flag and the arguments live across the call; the rest is the caller's promise.
        let value = unsafe {
            nexus_block(
                self.flag.as_ptr(),
                number.cast_unsigned(),
                arguments.as_ptr(),
            )
        };
        if value < 0 {
            Err(Errno(i32::try_from(-value).unwrap_or(libc::EIO)))
        } else {
            Ok(value.cast_unsigned())
        }
    }
}

/// Copy where either side may be guest memory that is unmapped, protected, truncated or changing.
///
/// # Errors
/// EFAULT if not all could be copied; a prefix may have been.
///
/// # Safety
/// Both ranges must lie in the window, or be live memory of the hypervisor's own.
pub unsafe fn copy(to: *mut u8, from: *const u8, length: u64) -> Result<(), Errno> {
    // SAFETY: a fault in the window ends the copy by way of the handler; other ranges are live as promised.
    if unsafe { nexus_copy(to, from, length) } == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Install the handlers of SIGSEGV, SIGBUS and the kick. Once per process, before any guest runs.
///
/// # Errors
/// The host refuses.
pub fn install_handlers() -> io::Result<()> {
    for signal in [libc::SIGSEGV, libc::SIGBUS, KICK_SIGNAL] {
        // SAFETY: zero is a valid sigaction; the handler has the three-argument shape that SA_SIGINFO asks for.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            if libc::sigaction(signal, &raw const action, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

// The index is a constant within the array.
#[allow(clippy::indexing_slicing)]
extern "C" fn handler(
    signal: libc::c_int,
    _info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes the interrupted thread's ucontext, which the handler may change.
    let rip = unsafe {
        &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize]
    };
    let at = rip.cast_unsigned();
    if signal == KICK_SIGNAL {
        let (flag, immediate_exit) = CURRENT.with(Cell::get);
        if !flag.is_null() {
            // SAFETY: `adopt` promises that both are valid until `release`.
            unsafe { (*flag).store(1, Ordering::Release) };
        }
        if !immediate_exit.is_null() {
            // SAFETY: as above; the kernel reads this byte, so a plain volatile store is what it takes.
            unsafe { immediate_exit.write_volatile(1) };
        }
        let (begin, end) = (
            nexus_block_begin as *const () as u64,
            nexus_block_end as *const () as u64,
        );
        if at >= begin && at < end {
            *rip = (nexus_block_cancel as *const () as u64).cast_signed();
        }
        return;
    }
    if at == nexus_copy_access as *const () as u64 {
        *rip = (nexus_copy_fixup as *const () as u64).cast_signed();
        return;
    }
    // A fault of the hypervisor's own: die of it, as without a handler, at the same instruction.
    // SAFETY: SIG_DFL is a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// EINTR of a blocking call, told apart from others.
#[must_use]
pub fn interrupted(result: &SysResult) -> bool {
    *result == Err(EINTR)
}
