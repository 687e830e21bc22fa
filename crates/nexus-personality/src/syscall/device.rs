//! ioctls of `/dev/nexus`.

use crate::errno::{EINTR, EINVAL, ENOTTY, ETIMEDOUT, SysResult, check};
use crate::machine::Outcome;
use crate::syscall::time::timespec;
use crate::thread::Thread;
use nexus_abi::device::{
    GENERATION, RENEWED, RING_AND_WAIT, SIZE, SNAPSHOT, SNAPSHOT_AND_HOLD, WAIT,
};
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

/// Wait for the backend's eventfd, then clear it. It may be non-blocking, since the backend has it too.
fn wait(t: &mut Thread, timeout_ms: i32) -> SysResult {
    let device = t.process.config.device.ok_or(ENOTTY)?;
    let asked = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    let limit = t.limit(asked).map(timespec);
    let pointer = limit.as_ref().map_or(0, |l| std::ptr::from_ref(l) as u64);
    let mut count = 0u64;
    loop {
        let mut polled = libc::pollfd {
            fd: device.completion,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the entry and the time live across the call.
        let ready = unsafe {
            t.process.rest.during(|| {
                t.shared.kick.block(
                    libc::SYS_ppoll,
                    [(&raw mut polled) as u64, 1, pointer, 0, 0, 0],
                )
            })
        }?;
        if ready == 0 {
            return Err(ETIMEDOUT);
        }
        // SAFETY: eight bytes are live.
        let got = unsafe { libc::read(device.completion, (&raw mut count).cast(), 8) };
        match check(got as i64) {
            Ok(_) => return Ok(0),
            // Another thread of the guest was faster.
            Err(e) if e.0 == libc::EAGAIN => {}
            Err(e) if e == EINTR => return Err(e),
            Err(e) => return Err(e),
        }
    }
}
