//! The jail of a microVM's process, tried from inside.
#![allow(clippy::unwrap_used)]

use nexus_vmm::config::Serve;
use nexus_vmm::jail::{close_inherited, confine_microvm};
use serde_json::json;

fn config() -> Serve {
    let document = json!({
        "version": 1, "mode": "run", "memory_mib": 64, "max_threads": 4, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": [{"guest": "/usr", "host": "/usr", "writable": false}],
        "program": {"path": "/usr/bin/true", "argv": ["true"], "env": {}, "cwd": "/"},
        "device": null, "report": null, "snapshot": null, "jail": {"uid": null, "landlock": true}
    });
    Serve::parse(document.to_string().as_bytes()).unwrap()
}

/// Run `attempt` in a jailed child: it must return true.
fn jailed(attempt: fn() -> bool) {
    let config = config();
    // SAFETY: the child only calls what a single-threaded process may, and ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let confined = close_inherited(&config, None).and_then(|()| confine_microvm(&config));
        let status = match confined {
            Ok(()) => i32::from(!attempt()),
            Err(_) => 2,
        };
        // SAFETY: no preconditions.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(
        status, 0,
        "wait status (256: the attempt was not stopped; 512: the jail failed)"
    );
}

fn fails(result: i64) -> bool {
    result == -1
}

#[test]
fn no_socket_to_the_outside() {
    jailed(|| {
        // SAFETY: numbers only.
        [
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_UNIX,
            libc::AF_NETLINK,
        ]
        .into_iter()
        .all(|family| fails(unsafe { libc::socket(family, libc::SOCK_STREAM, 0) }.into()))
    });
}

#[test]
fn no_program_no_process_no_signal_to_others() {
    jailed(|| {
        // SAFETY: literals; the calls are refused.
        unsafe {
            let null = std::ptr::null();
            fails(libc::execve(c"/usr/bin/true".as_ptr(), null, null).into())
                && fails(libc::fork().into())
                && fails(libc::kill(libc::getpid(), 0).into())
                && fails(libc::syscall(libc::SYS_tgkill, 1, 1, 0))
                && fails(libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0))
        }
    });
}

#[test]
fn no_executable_memory() {
    jailed(|| {
        // SAFETY: fresh mappings.
        unsafe {
            let null = std::ptr::null_mut();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let rwx = libc::mmap(null, 4096, libc::PROT_READ | libc::PROT_EXEC, flags, -1, 0);
            let rw = libc::mmap(null, 4096, libc::PROT_READ, flags, -1, 0);
            rwx == libc::MAP_FAILED
                && rw != libc::MAP_FAILED
                && fails(libc::mprotect(rw, 4096, libc::PROT_EXEC).into())
        }
    });
}

#[test]
fn files_open_beneath_roots_only_and_never_by_open() {
    jailed(|| {
        let how = [libc::O_RDONLY as u64, 0, 0];
        // SAFETY: `how` is an open_how and lives across the call.
        let beneath = |path: &std::ffi::CStr| unsafe {
            libc::syscall(
                libc::SYS_openat2,
                libc::AT_FDCWD,
                path.as_ptr(),
                how.as_ptr(),
                24,
            )
        };
        // SAFETY: a literal.
        let plain =
            unsafe { libc::syscall(libc::SYS_open, c"/usr/bin/true".as_ptr(), libc::O_RDONLY) };
        fails(plain)
            && fails(beneath(c"/etc/passwd"))
            && fails(beneath(c"/proc/self/mem"))
            && fails(beneath(c"/dev/kvm"))
            && beneath(c"/usr/bin/env") >= 0
    });
}

#[test]
fn no_privilege_and_no_way_back() {
    jailed(|| {
        let header = [0x2008_0522_u32, 0];
        let mut data = [0_u32; 6];
        // SAFETY: header and data in capget's layout; the rest is numbers.
        unsafe {
            // The filter hides even the question.
            fails(libc::syscall(
                libc::SYS_capget,
                header.as_ptr(),
                data.as_mut_ptr(),
            )) && fails(libc::setuid(0).into())
                && fails(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())
                && fails(libc::ioctl(0, 0x5412, c"x".as_ptr()).into()) // TIOCSTI
        }
    });
}
