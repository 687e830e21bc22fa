//! ioctls of `/dev/nexus`.

use crate::errno::{EINTR, EINVAL, ENOTTY, ETIMEDOUT, SysResult, check};
use crate::machine::Outcome;
use crate::thread::Thread;
use nexus_abi::device::{GENERATION, SIZE, SNAPSHOT, WAIT};

/// Serve one.
///
/// # Errors
/// As `nexus_abi::device` says.
pub fn ioctl(t: &mut Thread, command: u32, argument: u64) -> SysResult {
    match command {
        WAIT => wait(t, argument as i32),
        SNAPSHOT if argument != 0 => Err(EINVAL),
        SNAPSHOT if t.process.config.wants_snapshot && t.process.generation() == 0 => {
            t.control = Some(Outcome::Snapshot);
            Ok(0)
        }
        SNAPSHOT => Ok(0),
        SIZE => t.process.arena_size(),
        GENERATION => Ok(t.process.generation()),
        _ => Err(ENOTTY),
    }
}

/// Wait for the backend's eventfd, then clear it. It may be non-blocking, since the backend has it too.
fn wait(t: &Thread, timeout_ms: i32) -> SysResult {
    let device = t.process.config.device.ok_or(ENOTTY)?;
    let mut count = 0u64;
    loop {
        let mut polled = libc::pollfd {
            fd: device.completion,
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = libc::timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        let pointer = if timeout_ms < 0 {
            0
        } else {
            (&raw const limit) as u64
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
