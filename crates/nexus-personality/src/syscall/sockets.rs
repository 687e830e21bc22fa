//! Sockets: none but pairs. A guest has no network; its I/O goes through the arena.

use super::io::description;
use crate::errno::{EAFNOSUPPORT, EINVAL, ENOTSOCK, SysResult};
use crate::files::Object;
use crate::machine::Cpu;
use crate::thread::Thread;

pub fn socket(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(EAFNOSUPPORT)
}

/// Calls on a socket that a pair's end does not take either.
pub fn on_socket(t: &mut Thread, _: &mut dyn Cpu, [fd, ..]: [u64; 6]) -> SysResult {
    match &description(t, fd)?.object {
        Object::Socket(_) => Err(EINVAL),
        _ => Err(ENOTSOCK),
    }
}

/// send without an address, on a pair's end.
pub fn sendto(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, flags, address, _]: [u64; 6],
) -> SysResult {
    transfer(t, libc::SYS_sendto, fd, buffer, length, flags, address)
}

/// recv without an address, on a pair's end.
pub fn recvfrom(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [fd, buffer, length, flags, address, _]: [u64; 6],
) -> SysResult {
    transfer(t, libc::SYS_recvfrom, fd, buffer, length, flags, address)
}

fn transfer(
    t: &Thread,
    number: libc::c_long,
    fd: u64,
    buffer: u64,
    length: u64,
    flags: u64,
    address: u64,
) -> SysResult {
    let d = description(t, fd)?;
    let Object::Socket(_) = &d.object else {
        return Err(ENOTSOCK);
    };
    if address != 0 {
        return Err(EINVAL);
    }
    let length = length.min(1 << 20);
    let at = t.process.memory.host(buffer, length)?;
    let flags = flags & (libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_WAITALL) as u64
        | libc::MSG_NOSIGNAL as u64;
    // SAFETY: the buffer lies in the window, where the host kernel survives a fault.
    unsafe {
        t.shared
            .kick
            .block(number, [d.host()? as u64, at, length, flags, 0, 0])
    }
}

pub fn shutdown(t: &mut Thread, _: &mut dyn Cpu, [fd, how, ..]: [u64; 6]) -> SysResult {
    let d = description(t, fd)?;
    let Object::Socket(_) = &d.object else {
        return Err(ENOTSOCK);
    };
    // SAFETY: a plain call on a descriptor of ours.
    crate::errno::check(i64::from(unsafe {
        libc::shutdown(d.host()?, (how & 3) as i32)
    }))
}
