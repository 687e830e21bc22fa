//! What a process asks about itself and its machine. All of it is made up and the guest's own.

use crate::errno::{EINVAL, EPERM, ESRCH, Errno, SysResult, check};
use crate::machine::Cpu;
use crate::process::NAME;
use crate::thread::Thread;

/// The one user and group of a guest.
pub const UID: u64 = 1000;
/// Kernel release that a guest is told.
pub const RELEASE: &str = "6.1.0-nexus";

pub fn uname(t: &mut Thread, _: &mut dyn Cpu, [to, ..]: [u64; 6]) -> SysResult {
    let mut bytes = [0u8; 6 * 65];
    let texts = [
        "Linux",
        &t.process.config.hostname,
        RELEASE,
        "#1 SMP",
        "x86_64",
        "(none)",
    ];
    for (field, text) in bytes.chunks_exact_mut(65).zip(texts) {
        for (to, from) in field.iter_mut().take(64).zip(text.bytes()) {
            *to = from;
        }
    }
    t.process.memory.write_bytes(to, &bytes).map(|()| 0)
}

pub fn sysinfo(t: &mut Thread, _: &mut dyn Cpu, [to, ..]: [u64; 6]) -> SysResult {
    let total = t.process.config.memory_mib << 20;
    let free = total.saturating_sub(t.process.private_bytes().unwrap_or(0));
    let mut words = [0u64; 14];
    let values = [
        1,
        0,
        0,
        0,
        total,
        free,
        0,
        0,
        0,
        0,
        t.process.threads().len() as u64,
        0,
        0,
        1,
    ];
    words.copy_from_slice(&values);
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    t.process.memory.write_bytes(to, &bytes).map(|()| 0)
}

pub fn getuid(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Ok(UID)
}

pub fn getresuid(t: &mut Thread, _: &mut dyn Cpu, [a, b, c, ..]: [u64; 6]) -> SysResult {
    for to in [a, b, c] {
        t.process.memory.write(to, UID as u32)?;
    }
    Ok(0)
}

pub fn getgroups(t: &mut Thread, _: &mut dyn Cpu, [size, to, ..]: [u64; 6]) -> SysResult {
    if size > 0 {
        t.process.memory.write(to, UID as u32)?;
    }
    Ok(1)
}

/// Becoming somebody else: only oneself.
pub fn setuid(_: &mut Thread, _: &mut dyn Cpu, [id, ..]: [u64; 6]) -> SysResult {
    if id == UID { Ok(0) } else { Err(EPERM) }
}

fn own(t: &Thread, pid: u64) -> Result<(), Errno> {
    match pid as u32 {
        0 => Ok(()),
        pid if pid == t.process.pid().unsigned_abs() => Ok(()),
        _ => Err(ESRCH),
    }
}

pub fn getrlimit(t: &mut Thread, cpu: &mut dyn Cpu, [resource, to, ..]: [u64; 6]) -> SysResult {
    prlimit64(t, cpu, [0, resource, 0, to, 0, 0])
}

pub fn setrlimit(t: &mut Thread, cpu: &mut dyn Cpu, [resource, from, ..]: [u64; 6]) -> SysResult {
    prlimit64(t, cpu, [0, resource, from, 0, 0, 0])
}

/// Limits are the guest's own: those of descriptors and of files' length hold, the others are kept and shown.
pub fn prlimit64(
    t: &mut Thread,
    _: &mut dyn Cpu,
    [pid, resource, new, old, ..]: [u64; 6],
) -> SysResult {
    let resource = usize::try_from(resource as u32).map_err(|_| EINVAL)?;
    own(t, pid)?;
    let before = *t.process.limits().get(resource).ok_or(EINVAL)?;
    if new != 0 {
        let [soft, hard]: [u64; 2] = t.process.memory.read(new)?;
        if soft > hard {
            return Err(EINVAL);
        }
        // Raising a hard limit takes a privilege nobody has.
        if hard > before[1] {
            return Err(EPERM);
        }
        if let Some(limit) = t.process.limits().get_mut(resource) {
            *limit = [soft, hard];
        }
        if resource == libc::RLIMIT_NOFILE as usize {
            let most = crate::files::table::MAX_DESCRIPTORS;
            t.process.files().limit = usize::try_from(soft).unwrap_or(most).min(most);
        }
    }
    if old != 0 {
        t.process.memory.write(old, before)?;
    }
    Ok(0)
}

/// Changing ids: to what they are already, or not at all (-1).
pub fn set_ids(_: &mut Thread, _: &mut dyn Cpu, [a, b, c, ..]: [u64; 6]) -> SysResult {
    let same = |id: u64| id as u32 == u32::MAX || u64::from(id as u32) == UID;
    if same(a) && same(b) && same(c) {
        Ok(0)
    } else {
        Err(EPERM)
    }
}

pub fn set_two_ids(t: &mut Thread, cpu: &mut dyn Cpu, [a, b, ..]: [u64; 6]) -> SysResult {
    set_ids(t, cpu, [a, b, UID, 0, 0, 0])
}

/// What only a privileged process may do.
pub fn not_permitted(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(EPERM)
}

pub fn getrandom(t: &mut Thread, _: &mut dyn Cpu, [to, length, flags, ..]: [u64; 6]) -> SysResult {
    if flags & !7 != 0 {
        return Err(EINVAL);
    }
    let length = length.min(1 << 20);
    let at = if length == 0 {
        0
    } else {
        t.process.memory.host(to, length)?
    };
    // SAFETY: the buffer lies in the window, where the host kernel survives a fault.
    check(unsafe { libc::getrandom(at as *mut libc::c_void, length as usize, 0) } as i64)
}

/// prctl(2): names of threads, and what has no effect here.
pub fn prctl(t: &mut Thread, _: &mut dyn Cpu, [option, a, ..]: [u64; 6]) -> SysResult {
    match option as i32 {
        libc::PR_SET_NAME => {
            let mut name = Vec::new();
            for n in 0..NAME as u64 {
                match t.process.memory.read::<u8>(a.wrapping_add(n))? {
                    0 => break,
                    byte => name.push(byte),
                }
            }
            *t.shared.name() = name;
            Ok(0)
        }
        libc::PR_GET_NAME => {
            let mut name = super::proc::comm(t, &t.shared);
            name.resize(NAME + 1, 0);
            t.process.memory.write_bytes(a, &name).map(|()| 0)
        }
        libc::PR_SET_PDEATHSIG | libc::PR_SET_DUMPABLE | libc::PR_SET_NO_NEW_PRIVS => Ok(0),
        libc::PR_GET_DUMPABLE => Ok(0),
        libc::PR_GET_NO_NEW_PRIVS => Ok(1),
        _ => Err(EINVAL),
    }
}

/// Answers 0: scheduling and priorities have no meaning in a guest.
pub fn nothing(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Ok(0)
}

/// membarrier(2): QUERY says that there is none.
pub fn membarrier(_: &mut Thread, _: &mut dyn Cpu, [command, ..]: [u64; 6]) -> SysResult {
    if command == 0 { Ok(0) } else { Err(EINVAL) }
}

/// A call that is deliberately absent, without being counted as unknown: programs probe for it.
pub fn absent(_: &mut Thread, _: &mut dyn Cpu, _: [u64; 6]) -> SysResult {
    Err(crate::errno::ENOSYS)
}
