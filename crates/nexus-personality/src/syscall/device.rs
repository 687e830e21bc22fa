//! ioctls of `/dev/nexus`.

use crate::errno::{EINVAL, ENOTTY, SysResult, check};
use crate::machine::Outcome;
use crate::syscall::time::timespec;
use crate::thread::Thread;
use nexus_abi::device::{
    GENERATION, RENEWED, RING_AND_WAIT, SIZE, SNAPSHOT, SNAPSHOT_AND_HOLD, WAIT,
};
use std::sync::Arc;
use std::time::Duration;

/// Serve one.
///
/// # Errors
/// As `nexus_abi::device` says.
pub fn ioctl(t: &mut Thread, command: u32, argument: u64) -> SysResult {
    match command {
        WAIT => wait(t, argument as i32),
        RING_AND_WAIT => {
            ring(t)?;
            wait(t, argument as i32)
        }
        SNAPSHOT if argument != 0 => Err(EINVAL),
        SNAPSHOT | SNAPSHOT_AND_HOLD if t.process.config.wants_snapshot => {
            let hold = command == SNAPSHOT_AND_HOLD;
            t.control = Some(Outcome::Snapshot { hold });
            Ok(0)
        }
        SNAPSHOT | SNAPSHOT_AND_HOLD => Ok(0),
        SIZE => t.process.arena_size(),
        GENERATION => Ok(t.process.generation()),
        RENEWED => {
            t.process.machine.renewed();
            Ok(0)
        }
        _ => Err(ENOTTY),
    }
}

/// What a store to the doorbell's page does.
fn ring(t: &Thread) -> SysResult {
    let device = t.process.config.device.ok_or(ENOTTY)?;
    let one = 1u64;
    // SAFETY: eight bytes are live.
    let put = unsafe { libc::write(device.doorbell, (&raw const one).cast(), 8) };
    match check(put as i64) {
        // It has rung so often that nobody listens: it is on, which is all that it says.
        Err(e) if e.0 == libc::EAGAIN => Ok(0),
        done => done,
    }
}

/// Wait until the backend says that it has made completions.
fn wait(t: &mut Thread, timeout_ms: i32) -> SysResult {
    let process = Arc::clone(&t.process);
    let completions = process.completions()?;
    let asked = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    completions.wait(|mut arguments| {
        // What is left of it by now.
        let limit = t.limit(asked).map(timespec);
        arguments[3] = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
        // SAFETY: the word is mapped as long as the process is there, and the time lives across the call.
        let wait = || unsafe { t.shared.kick.block(libc::SYS_futex, arguments) };
        t.process.rest.during(wait)
    })
}
