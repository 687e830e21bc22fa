//! futex(2): the host's, on the window's address, always private: two guests that share a library page must not
//! wake each other.

use crate::errno::{EINVAL, ENOSYS, SysResult};
use crate::machine::Cpu;
use crate::thread::Thread;

const WAIT: u64 = 0;
const WAKE: u64 = 1;
const REQUEUE: u64 = 3;
const CMP_REQUEUE: u64 = 4;
const WAKE_OP: u64 = 5;
const WAIT_BITSET: u64 = 9;
const WAKE_BITSET: u64 = 10;
const PRIVATE: u64 = 128;
const REALTIME: u64 = 256;

pub fn futex(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [address, op, value, timeout, second, value3]: [u64; 6],
) -> SysResult {
    let command = op & 0x7f;
    let clock = op & REALTIME;
    if address % 4 != 0 {
        return Err(EINVAL);
    }
    let at = t.process.memory.host(address, 4)?;
    match command {
        WAIT | WAIT_BITSET => {
            let limit = super::time::read_timespec(t, timeout)?;
            let pointer = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
            let arguments = [at, command | clock | PRIVATE, value, pointer, 0, value3];
            // SAFETY: `at` lies in the window, where the host kernel survives a fault; the time lives across the call.
            unsafe { t.shared.kick.block(libc::SYS_futex, arguments) }
        }
        WAKE | WAKE_BITSET => {
            // SAFETY: as above; a wake does not block.
            let woken = unsafe {
                libc::syscall(libc::SYS_futex, at, command | PRIVATE, value, 0, 0, value3)
            };
            crate::errno::check(woken)
        }
        REQUEUE | CMP_REQUEUE | WAKE_OP => {
            if second % 4 != 0 {
                return Err(EINVAL);
            }
            let to = t.process.memory.host(second, 4)?;
            // SAFETY: both addresses lie in the window; `timeout` is a count for these commands.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    at,
                    command | PRIVATE,
                    value,
                    timeout,
                    to,
                    value3,
                )
            };
            crate::errno::check(done)
        }
        _ => Err(ENOSYS),
    }
}

/// Clear the word a joiner waits for, and wake it. Errors are the guest's own doing.
pub fn clear_and_wake(t: &Thread, address: u64) {
    if !address.is_multiple_of(4) || t.process.memory.write(address, 0u32).is_err() {
        return;
    }
    if let Ok(at) = t.process.memory.host(address, 4) {
        // SAFETY: the address lies in the window; a wake does not block.
        unsafe { libc::syscall(libc::SYS_futex, at, WAKE | PRIVATE, 1, 0, 0, 0) };
    }
}
