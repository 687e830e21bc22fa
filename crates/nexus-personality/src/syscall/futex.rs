//! futex(2): the host's, on the window's address. Private, but for memory that this instance's programs share: two guests
//! that share a library page must not wake each other.

use super::time::{duration, timespec};
use crate::errno::{EINVAL, ENOSYS, SysResult};
use crate::machine::Cpu;
use crate::mm::Backing;
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

/// The flag that says who may meet at an address: this process alone, or also those it shares memory with. Only memory
/// that nobody outside the instance can map counts as shared.
fn scope(t: &Thread, op: u64, addresses: &[u64]) -> u64 {
    if op & PRIVATE != 0 {
        return PRIVATE;
    }
    let mm = t.process.mm();
    let shared = |address: &u64| {
        mm.find(*address).is_some_and(|(_, vma)| {
            vma.shared && matches!(vma.backing, Backing::Memory(..) | Backing::Shared(_))
        })
    };
    if addresses.iter().all(shared) {
        0
    } else {
        PRIVATE
    }
}

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
            let mut limit = super::time::read_timespec(t, timeout)?;
            if command == WAIT {
                // The other one's is a point in time.
                limit = t.limit(limit.as_ref().map(duration)).map(timespec);
            }
            let pointer = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
            let private = scope(t, op, &[address]);
            let arguments = [at, command | clock | private, value, pointer, 0, value3];
            let wait = || {
                // SAFETY: `at` lies in the window, where the host kernel survives a fault; the time lives across the call.
                unsafe { t.shared.kick.block(libc::SYS_futex, arguments) }
            };
            t.process.rest.during(wait)
        }
        WAKE | WAKE_BITSET => {
            let operation = command | scope(t, op, &[address]);
            // SAFETY: as above; a wake does not block.
            let woken =
                unsafe { libc::syscall(libc::SYS_futex, at, operation, value, 0, 0, value3) };
            crate::errno::check(woken)
        }
        REQUEUE | CMP_REQUEUE | WAKE_OP => {
            if second % 4 != 0 {
                return Err(EINVAL);
            }
            let to = t.process.memory.host(second, 4)?;
            let operation = command | scope(t, op, &[address, second]);
            // SAFETY: both addresses lie in the window; `timeout` is a count for these commands.
            let done = unsafe {
                libc::syscall(libc::SYS_futex, at, operation, value, timeout, to, value3)
            };
            crate::errno::check(done)
        }
        _ => Err(ENOSYS),
    }
}

/// Clear the word a joiner waits for, and wake it. Errors are the guest's own doing.
pub fn clear_and_wake(t: &Thread, address: u64) {
    if address.is_multiple_of(4) && t.process.memory.write(address, 0u32).is_ok() {
        wake_one(t, address);
    }
}

fn wake_one(t: &Thread, address: u64) {
    if let Ok(at) = t.process.memory.host(address, 4) {
        let operation = WAKE | scope(t, 0, &[address]);
        // SAFETY: the address lies in the window; a wake does not block.
        unsafe { libc::syscall(libc::SYS_futex, at, operation, 1, 0, 0, 0) };
    }
}

/// Most entries of a robust list that are looked at, as Linux does.
const ROBUST_MOST: usize = 2048;
const OWNER: u32 = 0x3fff_ffff;
const OWNER_DIED: u32 = 0x4000_0000;
const WAITERS: u32 = 0x8000_0000;

/// Mark the mutexes that the ending thread holds, and wake who waits for them. The list lies in the guest's memory:
/// whatever of it cannot be read ends the walk.
pub fn release_robust(t: &mut Thread) {
    let head = std::mem::take(&mut t.robust_list);
    if head == 0 {
        return;
    }
    let Ok([first, offset, operation]) = t.process.memory.read::<[u64; 3]>(head) else {
        return;
    };
    let mut entry = first;
    for _ in 0..ROBUST_MOST {
        // Bit 0 marks mutexes with priority inheritance.
        let at = entry & !1;
        if at == head & !1 {
            break;
        }
        let next = t.process.memory.read::<u64>(at);
        if at != operation & !1 {
            owner_died(t, at.wrapping_add(offset));
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => break,
        }
    }
    if operation != 0 {
        owner_died(t, (operation & !1).wrapping_add(offset));
    }
}

fn owner_died(t: &Thread, address: u64) {
    if !address.is_multiple_of(4) {
        return;
    }
    let Ok(word) = t.process.memory.read::<u32>(address) else {
        return;
    };
    if word & OWNER != t.tid().unsigned_abs() & OWNER {
        return;
    }
    let died = word & WAITERS | OWNER_DIED;
    if t.process.memory.write(address, died).is_ok() {
        wake_one(t, address);
    }
}
