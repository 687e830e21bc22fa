//! Identity, capabilities, limits, descriptors. (unsafe: plain system calls on the calling process.)

use super::Error;
use std::os::fd::RawFd;

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Highest capability that could exist.
const LAST_CAPABILITY: libc::c_ulong = 63;

/// Close every descriptor above 2 that is not in `keep`.
///
/// # Errors
/// close_range is missing.
pub fn close_others(keep: &[RawFd]) -> Result<(), Error> {
    let mut keep: Vec<u32> = keep
        .iter()
        .filter_map(|fd| u32::try_from(*fd).ok())
        .filter(|fd| *fd > 2)
        .collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from = 3_u32;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > from {
            let to = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: nothing of this process owns a descriptor in the range yet.
            if unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } != 0 {
                return Err(Error::last("close inherited descriptors"));
            }
        }
        from = fd.saturating_add(1);
    }
    Ok(())
}

/// Limits that a fault of the guest or the hypervisor meets before the host does.
///
/// # Errors
/// The host refuses.
pub fn limit(data_bytes: Option<u64>, files: u64) -> Result<(), Error> {
    // The first to go when memory runs out. A host without /proc loses only that preference.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    set_limit(libc::RLIMIT_CORE, 0, "limit core dumps")?;
    set_limit(libc::RLIMIT_NOFILE, files, "limit open files")?;
    set_limit(libc::RLIMIT_MEMLOCK, 0, "limit locked memory")?;
    if let Some(bytes) = data_bytes {
        set_limit(libc::RLIMIT_DATA, bytes, "limit memory")?;
    }
    Ok(())
}

fn set_limit(
    resource: libc::__rlimit_resource_t,
    value: u64,
    step: &'static str,
) -> Result<(), Error> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a live structure.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    let value = value.min(limit.rlim_max);
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: a live structure.
    if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
        return Err(Error::last(step));
    }
    Ok(())
}

/// Have the calling thread become `uid` (where root), without capabilities, never to gain privileges again, not to be traced by others,
/// and to end with the process that started this one.
///
/// # Errors
/// The host refuses a step.
pub fn drop_all(uid: Option<u32>) -> Result<(), Error> {
    // SAFETY: no preconditions.
    let (parent, root) = unsafe { (libc::getppid(), libc::geteuid() == 0) };
    if root {
        // While it is still allowed: an executed program gets no capability either.
        for capability in 0..=LAST_CAPABILITY {
            // SAFETY: a number; the kernel refuses the first that it does not know.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
                break;
            }
        }
        if let Some(uid) = uid {
            change_user(uid)?;
        }
    }
    clear_capabilities()?;
    give_up_gaining()?;
    // A change of user clears it. The parent may have died before this line.
    // SAFETY: numbers only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        if libc::getppid() != parent {
            libc::_exit(124);
        }
    }
    Ok(())
}

/// Never to gain privileges again, and not to be traced by others.
///
/// # Errors
/// The host refuses a step.
pub fn give_up_gaining() -> Result<(), Error> {
    // SAFETY: numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(Error::last("no_new_privs"));
    }
    // SAFETY: numbers only.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(Error::last("not dumpable"));
    }
    Ok(())
}

fn change_user(uid: u32) -> Result<(), Error> {
    // Not by the C library, which changes all threads: where there is another one it has work left that takes root.
    // SAFETY: no pointers but an empty list.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0 {
            return Err(Error::last("drop supplementary groups"));
        }
        if libc::syscall(libc::SYS_setresgid, uid, uid, uid) != 0 {
            return Err(Error::last("change group"));
        }
        if libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0 {
            return Err(Error::last("change user"));
        }
    }
    Ok(())
}

fn clear_capabilities() -> Result<(), Error> {
    let header = [CAPABILITY_VERSION, 0];
    let none = [0_u32; 6];
    // SAFETY: header and data in the layout of capset(2), version 3.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } != 0 {
        return Err(Error::last("clear capabilities"));
    }
    Ok(())
}
