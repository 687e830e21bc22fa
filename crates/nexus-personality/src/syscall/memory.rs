//! mmap and its relatives.

use crate::errno::{EACCES, EBADF, EINVAL, ENODEV, ENOMEM, Errno, SysResult};
use crate::files::Object;
use crate::machine::Cpu;
use crate::mm::{Backing, Neighbours, Request};
use crate::thread::Thread;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const MAP_FIXED_NOREPLACE: i32 = 0x10_0000;
/// Flags that are served or may be ignored: SHARED, PRIVATE, FIXED, ANONYMOUS, NORESERVE, POPULATE, NONBLOCK, STACK,
/// DENYWRITE, EXECUTABLE, FIXED_NOREPLACE. The rest (HUGETLB, LOCKED, GROWSDOWN, 32BIT...) is refused.
const ALLOWED: i32 = 0x01
    | 0x02
    | 0x10
    | 0x20
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000
    | 0x0800
    | 0x1000
    | MAP_FIXED_NOREPLACE;

#[allow(clippy::cast_possible_truncation)]
pub fn mmap(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [address, length, prot, flags, fd, offset]: [u64; 6],
) -> SysResult {
    let (prot, flags) = (prot as i32, flags as i32);
    let shared = match flags & 3 {
        1 => true,
        2 => false,
        _ => return Err(EINVAL),
    };
    if flags & !ALLOWED != 0 || prot & !7 != 0 || length == 0 || offset % 4096 != 0 {
        return Err(EINVAL);
    }
    let exclusive = flags & MAP_FIXED_NOREPLACE == MAP_FIXED_NOREPLACE;
    let mut request = Request {
        address,
        length,
        prot,
        shared,
        fixed: flags & libc::MAP_FIXED != 0 && !exclusive,
        exclusive,
        backing: Backing::Anonymous,
        source: None,
        neighbours: Neighbours::Alike,
        used: 0,
    };
    // What is only reserved, as stacks of threads are, counts when it is touched.
    let reserved = flags & (libc::MAP_NORESERVE | libc::MAP_STACK) != 0;
    let used = !reserved && !shared && prot & libc::PROT_WRITE != 0;
    if used {
        request.used = crate::mm::pages(length)?;
    }
    if flags & libc::MAP_ANONYMOUS != 0 {
        if shared {
            request.backing = shared_memory(t, length)?;
        }
        let mut mm = t.process.mm();
        let address = mm.map(request)?;
        if used {
            let length = crate::mm::pages(length)?;
            mm.prefer_huge_pages(address, length);
            // A power of two is an allocator's own stock, which it uses bit by bit.
            if !length.is_power_of_two() {
                mm.prefer_pages(address, length);
            }
        }
        return Ok(address);
    }
    let description = Arc::clone(&t.process.files().entry(fd)?.description);
    if !description.readable()
        || (shared && prot & libc::PROT_WRITE != 0 && !description.writable())
    {
        return Err(EACCES);
    }
    match &description.object {
        Object::Host(file) => {
            request.backing = Backing::File(Arc::clone(file), offset);
            request.source = Some((file.fd.as_raw_fd(), offset));
        }
        Object::Memory(inode) => {
            request.backing = Backing::Memory(Arc::clone(inode), offset);
            request.source = Some((inode.host().ok_or(ENODEV)?, offset));
        }
        Object::Zero if shared => request.backing = shared_memory(t, length)?,
        Object::Zero => {}
        Object::Device if offset == 0 && shared => return t.process.map_arena(0, length),
        Object::Device
            if offset == nexus_abi::device::DOORBELL_OFFSET && shared && length == 4096 =>
        {
            return t.process.map_doorbell();
        }
        Object::Device => return Err(EINVAL),
        Object::Standard(_) => return Err(ENODEV),
        _ => return Err(EBADF),
    }
    let read_only =
        shared && matches!(description.object, Object::Memory(_)) && !description.writable();
    let mut mm = t.process.mm();
    let address = mm.map(request)?;
    if read_only {
        mm.keep_read_only(address);
    }
    Ok(address)
}

fn shared_memory(t: &Thread, length: u64) -> Result<Backing, Errno> {
    let held = t.process.ledger.hold(crate::mm::pages(length)?)?;
    Ok(Backing::Shared(Arc::new(held)))
}

pub fn munmap(t: &mut Thread, _: &mut dyn Cpu, [address, length, ..]: [u64; 6]) -> SysResult {
    t.process.mm().unmap(address, length).map(|()| 0)
}

#[allow(clippy::cast_possible_truncation)]
pub fn mprotect(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [address, length, prot, ..]: [u64; 6],
) -> SysResult {
    let prot = prot as i32;
    if prot & !7 != 0 {
        return Err(EINVAL);
    }
    t.process.mm().protect(address, length, prot).map(|()| 0)
}

pub fn brk(t: &mut Thread, _: &mut dyn Cpu, [end, ..]: [u64; 6]) -> SysResult {
    Ok(t.process.mm().brk(end))
}

pub fn mremap(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [old, old_length, new_length, flags, ..]: [u64; 6],
) -> SysResult {
    if flags & !1 != 0 || old_length == 0 {
        return Err(EINVAL);
    }
    t.process
        .mm()
        .remap(old, old_length, new_length, flags & 1 != 0)
}

/// Advice that changes contents or may be ignored; the rest is refused, as by a kernel without it.
#[allow(clippy::cast_possible_truncation)]
pub fn madvise(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [address, length, advice, ..]: [u64; 6],
) -> SysResult {
    let advice = advice as i32;
    if address % 4096 != 0 {
        return Err(EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let length = crate::mm::pages(length)?;
    let end = address.checked_add(length).ok_or(EINVAL)?;
    let mm = t.process.mm();
    let covered = mm.covered(address, end);
    match advice {
        libc::MADV_DONTNEED | libc::MADV_FREE => {
            // FREE is DONTNEED here: the same contract, and memory goes back to the node at once. What is shared keeps its
            // contents.
            let first = mm.find(address).map_or(address, |(start, _)| start);
            for (start, vma) in mm.vmas().range(first..end).filter(|(_, v)| !v.shared) {
                let (from, to) = ((*start).max(address), vma.end.min(end));
                let at = t.process.memory.host(from, to - from)?;
                // SAFETY: the range lies in the window and belongs to the guest.
                let done = unsafe {
                    libc::madvise(
                        at as *mut libc::c_void,
                        (to - from) as usize,
                        libc::MADV_DONTNEED,
                    )
                };
                crate::errno::check(i64::from(done))?;
            }
            if covered { Ok(0) } else { Err(ENOMEM) }
        }
        _ if !covered => Err(ENOMEM),
        libc::MADV_REMOVE | libc::MADV_POPULATE_WRITE => {
            // Gives an idle arena's payload memory back, and has it mapped before it is used; of others neither is taken.
            let arena = mm
                .find(address)
                .filter(|(_, v)| v.end >= end && matches!(v.backing, Backing::Arena));
            if arena.is_none() {
                return Err(EINVAL);
            }
            if advice == libc::MADV_POPULATE_WRITE {
                return mm.populate(address, length).map(|()| 0);
            }
            let at = t.process.memory.host(address, length)?;
            // SAFETY: the range lies in the window, in the arena's mapping, which is the guest's to write.
            let done = unsafe {
                libc::madvise(at as *mut libc::c_void, length as usize, libc::MADV_REMOVE)
            };
            crate::errno::check(i64::from(done))
        }
        0..=3 | 10..=17 => Ok(0),
        _ => Err(EINVAL),
    }
}

pub fn msync(t: &mut Thread, _: &mut dyn Cpu, [address, length, flags, ..]: [u64; 6]) -> SysResult {
    const SYNC_AND_ASYNC: u64 = 5;
    if address % 4096 != 0 || flags & !7 != 0 || flags & SYNC_AND_ASYNC == SYNC_AND_ASYNC {
        return Err(EINVAL);
    }
    let end = address.checked_add(length).ok_or(ENOMEM)?;
    if t.process.mm().covered(address, end) {
        Ok(0)
    } else {
        Err(ENOMEM)
    }
}

/// mlock and its relatives: pages of a guest are never swapped, so it holds already.
pub fn mlock(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Ok(0)
}
