//! The jail of a microVM's process, tried from inside: code that runs in its place, behind the same jail.
#![allow(clippy::unwrap_used, clippy::panic)]

use nexus_vmm::config::Serve;
use nexus_vmm::jail::{calls, close_inherited, confine_microvm, page};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI32, Ordering};

/// Where a jailed child finds its own arena.
const ARENA: i32 = 60;
const SECRET: &[u8] = b"what the other instance holds";
/// As nexusd's instances where it is root.
const NOBODY: u32 = 65534;

fn config() -> Serve {
    // SAFETY: no preconditions.
    let root = unsafe { libc::geteuid() } == 0;
    let document = json!({
        "version": 1, "mode": "run", "memory_mib": 64, "max_threads": 4, "tmp_mib": 8, "cpus": 1,
        "hostname": "nexus", "roots": [{"guest": "/usr", "host": "/usr", "writable": false}],
        "program": {"path": "/usr/bin/true", "argv": ["true"], "env": {}, "cwd": "/"},
        "device": {"arena": ARENA, "doorbell": ARENA + 1, "network": ARENA + 2}, "report": null, "snapshot": null,
        "jail": {"uid": root.then_some(NOBODY), "landlock": true}
    });
    Serve::parse(document.to_string().as_bytes()).unwrap()
}

/// Run `attempt` in a jailed child; its wait status.
fn behind_the_jail(attempt: impl FnOnce() -> i32) -> i32 {
    let config = config();
    // SAFETY: the child only calls what a single-threaded process may, and ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // SAFETY: an arena of its own at the numbers that the configuration names.
        unsafe {
            let own = libc::memfd_create(c"arena".as_ptr(), 0);
            libc::ftruncate(own, 4096);
            for number in ARENA..ARENA + 3 {
                libc::dup2(own, number);
            }
        }
        let confined = close_inherited(&config, None).and_then(|()| confine_microvm(&config));
        let status = if confined.is_ok() { attempt() } else { 99 };
        // SAFETY: no preconditions.
        unsafe { libc::_exit(status) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_ne!(status, 99 << 8, "the jail failed");
    status
}

/// One try: what it is, and whether it was refused.
type Attempt = (&'static str, fn() -> bool);

/// Each must be refused.
fn all_refused(attempts: &[Attempt]) {
    let status = behind_the_jail(|| {
        let first = attempts.iter().position(|(_, refused)| !refused());
        first.map_or(0, |at| i32::try_from(at).unwrap_or(97) + 1)
    });
    if status != 0 {
        let at = usize::try_from(status >> 8).unwrap();
        let name = at.checked_sub(1).and_then(|at| attempts.get(at));
        panic!(
            "wait status {status:#x}: not refused: {:?}",
            name.map(|n| n.0)
        );
    }
}

/// A raw call, with no more than it needs.
macro_rules! refused {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: numbers, literals, and structures that live across the call; it is to be refused.
        unsafe { libc::syscall(libc::$number $(, $argument)*) == -1 }
    };
}

fn path(text: &'static std::ffi::CStr) -> *const libc::c_char {
    text.as_ptr()
}

/// Whether openat2 of an absolute path is refused.
fn closed(path: &[u8], flags: i32) -> bool {
    let how = [
        u64::from(flags.cast_unsigned()),
        0o600 * u64::from(flags & libc::O_CREAT != 0),
        0,
    ];
    refused!(SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), 24)
}

/// A process of the same user with an arena of its own, and that arena's descriptor there.
static VICTIM: AtomicI32 = AtomicI32::new(0);
static OTHERS: AtomicI32 = AtomicI32::new(0);

fn victim() -> i32 {
    VICTIM.load(Ordering::SeqCst)
}

/// `/proc/VICTIM/what`, with its end.
fn of_victim(what: &str) -> Vec<u8> {
    format!("/proc/{}/{what}\0", victim()).into_bytes()
}

struct Victim(i32);

impl Victim {
    /// Holds its arena, as jailed as the attacker, until it is dropped.
    fn start() -> Self {
        // SAFETY: a new memfd, written to at once.
        let arena = unsafe {
            let fd = libc::memfd_create(c"others".as_ptr(), 0);
            assert_eq!(
                libc::write(fd, SECRET.as_ptr().cast(), SECRET.len()),
                SECRET.len() as isize
            );
            fd
        };
        // SAFETY: the child calls system calls only.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: numbers only.
            unsafe {
                libc::setresuid(NOBODY, NOBODY, NOBODY);
                libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
                libc::pause();
                libc::_exit(0);
            }
        }
        VICTIM.store(pid, Ordering::SeqCst);
        OTHERS.store(arena, Ordering::SeqCst);
        Self(pid)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // SAFETY: our child.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

#[test]
fn no_file() {
    all_refused(&[
        ("open", || {
            refused!(SYS_open, path(c"/usr/bin/env"), libc::O_RDONLY)
        }),
        ("openat", || {
            refused!(
                SYS_openat,
                libc::AT_FDCWD,
                path(c"/usr/bin/env"),
                libc::O_RDONLY
            )
        }),
        ("creat", || {
            refused!(SYS_creat, path(c"/tmp/of-the-jail"), 0o600)
        }),
        ("a file outside of the roots", || {
            closed(b"/etc/passwd\0", libc::O_RDONLY)
        }),
        ("its own memory", || {
            closed(b"/proc/self/mem\0", libc::O_RDWR)
        }),
        ("its own environment", || {
            closed(b"/proc/self/environ\0", libc::O_RDONLY)
        }),
        ("another VM", || closed(b"/dev/kvm\0", libc::O_RDWR)),
        ("a terminal", || closed(b"/dev/tty\0", libc::O_RDWR)),
        ("a new file in /tmp", || {
            closed(b"/tmp/of-the-jail\0", libc::O_WRONLY | libc::O_CREAT)
        }),
        ("a new file in a root", || {
            closed(b"/usr/of-the-jail\0", libc::O_WRONLY | libc::O_CREAT)
        }),
        ("writing in a root", || {
            closed(b"/usr/bin/env\0", libc::O_WRONLY)
        }),
        ("an unnamed file", || {
            closed(b"/tmp\0", libc::O_RDWR | libc::O_TMPFILE)
        }),
        ("mkdir", || {
            refused!(SYS_mkdir, path(c"/tmp/of-the-jail"), 0o700)
        }),
        ("mknodat", || {
            refused!(
                SYS_mknodat,
                libc::AT_FDCWD,
                path(c"/tmp/of-the-jail"),
                libc::S_IFIFO,
                0
            )
        }),
        ("unlinkat", || {
            refused!(SYS_unlinkat, libc::AT_FDCWD, path(c"/tmp/of-the-jail"), 0)
        }),
        ("renameat2", || {
            refused!(
                SYS_renameat2,
                libc::AT_FDCWD,
                path(c"/tmp"),
                libc::AT_FDCWD,
                path(c"/t"),
                0
            )
        }),
        ("linkat", || {
            refused!(
                SYS_linkat,
                ARENA,
                path(c""),
                libc::AT_FDCWD,
                path(c"/tmp/l"),
                libc::AT_EMPTY_PATH
            )
        }),
        ("symlink", || {
            refused!(SYS_symlink, path(c"/"), path(c"/tmp/of-the-jail"))
        }),
        ("chmod", || refused!(SYS_fchmod, ARENA, 0o777)),
        ("chown", || refused!(SYS_fchown, ARENA, 0, 0)),
        ("chdir", || refused!(SYS_chdir, path(c"/"))),
        ("chroot", || refused!(SYS_chroot, path(c"/usr"))),
        ("open_by_handle_at", || {
            refused!(SYS_open_by_handle_at, ARENA, [0_u64; 4].as_ptr(), 0)
        }),
        ("fanotify", || refused!(SYS_fanotify_init, 0, 0)),
        ("inotify", || refused!(SYS_inotify_init1, 0)),
    ]);
    // What the walls leave: reading beneath a root, by openat2.
    assert_eq!(
        behind_the_jail(|| i32::from(closed(b"/usr/bin/env\0", libc::O_RDONLY))),
        0
    );
}

#[test]
fn no_socket_to_the_outside() {
    all_refused(&[
        ("socket of any family and type", || {
            (0..64).all(|family| (0..8).all(|kind| refused!(SYS_socket, family, kind, 0)))
        }),
        ("pairs of other families", || {
            let mut ends = [0_i32; 2];
            (0..64)
                .filter(|f| *f != libc::AF_UNIX)
                .all(|f| refused!(SYS_socketpair, f, libc::SOCK_STREAM, 0, ends.as_mut_ptr()))
        }),
        ("connect", || {
            refused!(SYS_connect, 0, [2_u16; 8].as_ptr(), 16)
        }),
        ("bind", || refused!(SYS_bind, 0, [2_u16; 8].as_ptr(), 16)),
        ("listen", || refused!(SYS_listen, 0, 1)),
        ("accept4", || refused!(SYS_accept4, 0, 0, 0, 0)),
        ("sendto", || {
            refused!(SYS_sendto, 0, path(c"x"), 1, 0, [2_u16; 8].as_ptr(), 16)
        }),
        ("a message out of a pair by address", || {
            let mut ends = [0_i32; 2];
            // SAFETY: room for two descriptors.
            let made =
                unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM, 0, ends.as_mut_ptr()) };
            let name = *b"\x01\0/dev/log\0\0\0\0\0\0";
            let mut message = [0_u64; 7];
            (message[0], message[1]) = (name.as_ptr() as u64, 12);
            made == 0 && refused!(SYS_sendmsg, ends[0], message.as_ptr(), 0)
        }),
    ]);
}

#[test]
fn no_program_and_no_process() {
    all_refused(&[
        ("execve", || {
            refused!(SYS_execve, path(c"/usr/bin/true"), 0, 0)
        }),
        ("execveat of a memfd", || {
            refused!(SYS_execveat, ARENA, path(c""), 0, 0, libc::AT_EMPTY_PATH)
        }),
        ("fork", || refused!(SYS_fork)),
        ("vfork", || refused!(SYS_vfork)),
        ("clone as fork", || {
            refused!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)
        }),
        ("clone with a user namespace", || {
            refused!(SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0)
        }),
        ("clone3", || refused!(SYS_clone3, [0_u64; 11].as_ptr(), 88)),
        ("unshare", || refused!(SYS_unshare, libc::CLONE_NEWUSER)),
        ("setns", || refused!(SYS_setns, ARENA, 0)),
    ]);
}

#[test]
fn nothing_done_to_other_processes() {
    let _victim = Victim::start();
    all_refused(&[
        ("kill", || refused!(SYS_kill, victim(), 0)),
        ("kill of all", || refused!(SYS_kill, -1, 0)),
        ("tkill", || refused!(SYS_tkill, victim(), 0)),
        ("tgkill", || refused!(SYS_tgkill, victim(), victim(), 0)),
        ("rt_sigqueueinfo", || {
            refused!(SYS_rt_sigqueueinfo, victim(), 0, [0_u64; 16].as_ptr())
        }),
        ("pidfd_open", || refused!(SYS_pidfd_open, victim(), 0)),
        ("pidfd_getfd", || refused!(SYS_pidfd_getfd, ARENA, 0, 0)),
        ("pidfd_send_signal", || {
            refused!(SYS_pidfd_send_signal, ARENA, 0, 0, 0)
        }),
        ("ptrace", || {
            refused!(SYS_ptrace, libc::PTRACE_SEIZE, victim(), 0, 0)
        }),
        ("process_vm_readv", || {
            refused!(SYS_process_vm_readv, victim(), 0, 0, 0, 0, 0)
        }),
        ("process_vm_writev", || {
            refused!(SYS_process_vm_writev, victim(), 0, 0, 0, 0, 0)
        }),
        ("process_madvise", || {
            refused!(SYS_process_madvise, ARENA, 0, 0, 0, 0)
        }),
        ("kcmp", || refused!(SYS_kcmp, victim(), victim(), 0, 0, 0)),
        ("prlimit", || refused!(SYS_prlimit64, victim(), 0, 0, 0)),
        ("setpriority", || refused!(SYS_setpriority, 0, victim(), 19)),
        ("sched_setaffinity", || {
            refused!(SYS_sched_setaffinity, victim(), 8, [1_u64].as_ptr())
        }),
        ("a signal by F_SETOWN", || {
            refused!(SYS_fcntl, ARENA, libc::F_SETOWN, victim())
        }),
        ("getsid", || refused!(SYS_getsid, victim())),
    ]);
}

#[test]
fn no_other_instances_arena() {
    let _victim = Victim::start();
    all_refused(&[
        (
            "by its number, which the attacker's parent has open",
            || {
                let mut text = [0_u8; 64];
                refused!(
                    SYS_pread64,
                    OTHERS.load(Ordering::SeqCst),
                    text.as_mut_ptr(),
                    64,
                    0
                )
            },
        ),
        ("by the other's descriptor", || {
            let number = OTHERS.load(Ordering::SeqCst);
            closed(&of_victim(&format!("fd/{number}")), libc::O_RDONLY)
        }),
        ("by the parent's descriptor", || {
            let name = format!("/proc/{}/fd/{}\0", parent(), OTHERS.load(Ordering::SeqCst));
            closed(name.as_bytes(), libc::O_RDWR)
        }),
        ("by mapped files", || {
            closed(&of_victim("map_files"), libc::O_RDONLY | libc::O_DIRECTORY)
        }),
        ("by the other's memory", || {
            closed(&of_victim("mem"), libc::O_RDONLY)
        }),
        ("by the other's mappings", || {
            closed(&of_victim("maps"), libc::O_RDONLY)
        }),
        ("the other's environment", || {
            closed(&of_victim("environ"), libc::O_RDONLY)
        }),
        ("where its descriptors lead", || {
            let name = of_victim(&format!("fd/{}", OTHERS.load(Ordering::SeqCst)));
            let mut target = [0_u8; 256];
            refused!(
                SYS_readlinkat,
                libc::AT_FDCWD,
                name.as_ptr(),
                target.as_mut_ptr(),
                256
            )
        }),
        ("shared memory by name", || {
            closed(b"/dev/shm\0", libc::O_RDONLY | libc::O_DIRECTORY)
        }),
        ("shared memory by key", || refused!(SYS_shmget, 1, 4096, 0)),
        ("any descriptor beside its own", || {
            (3..1024)
                .filter(|fd| !(ARENA..ARENA + 3).contains(fd))
                .all(|fd| refused!(SYS_fcntl, fd, libc::F_GETFD))
        }),
    ]);
    // Its own is there.
    assert_eq!(
        behind_the_jail(|| i32::from(refused!(SYS_fcntl, ARENA, libc::F_GETFD))),
        0
    );
}

fn parent() -> i32 {
    PARENT.load(Ordering::SeqCst)
}

static PARENT: std::sync::LazyLock<AtomicI32> =
    std::sync::LazyLock::new(|| AtomicI32::new(std::process::id().cast_signed()));

#[test]
fn no_executable_memory() {
    all_refused(&[
        ("mmap", || {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            refused!(
                SYS_mmap,
                0,
                4096,
                libc::PROT_READ | libc::PROT_EXEC,
                flags,
                -1,
                0
            )
        }),
        ("mmap of a memfd", || {
            refused!(
                SYS_mmap,
                0,
                4096,
                libc::PROT_EXEC,
                libc::MAP_SHARED,
                ARENA,
                0
            )
        }),
        ("mprotect", || {
            // SAFETY: a fresh mapping.
            let page = unsafe {
                libc::syscall(
                    libc::SYS_mmap,
                    0,
                    4096,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            page > 0 && refused!(SYS_mprotect, page, 4096, libc::PROT_READ | libc::PROT_EXEC)
        }),
        ("pkey_mprotect", || {
            refused!(SYS_pkey_mprotect, 0, 0, libc::PROT_EXEC, -1)
        }),
        ("remap_file_pages", || {
            refused!(SYS_remap_file_pages, 0, 0, 0, 0, 0)
        }),
        ("uselib", || {
            refused!(SYS_uselib, path(c"/usr/lib/x86_64-linux-gnu/libc.so.6"))
        }),
    ]);
}

#[test]
fn no_privilege_and_no_way_back() {
    all_refused(&[
        ("setuid", || refused!(SYS_setuid, 0)),
        ("setresuid", || refused!(SYS_setresuid, 0, 0, 0)),
        ("setgroups", || refused!(SYS_setgroups, 0, 0)),
        ("capset", || {
            refused!(
                SYS_capset,
                [0x2008_0522_u32, 0].as_ptr(),
                [u32::MAX; 6].as_ptr()
            )
        }),
        ("dumpable", || {
            refused!(SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0)
        }),
        ("a tracer", || {
            refused!(SYS_prctl, libc::PR_SET_PTRACER, -1, 0, 0, 0)
        }),
        ("survival of the parent", || {
            refused!(SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0)
        }),
        ("ambient capabilities", || {
            refused!(SYS_prctl, libc::PR_CAP_AMBIENT, 2, 0, 0, 0)
        }),
        ("PR_SET_MM", || {
            refused!(SYS_prctl, libc::PR_SET_MM, 1, 0, 0, 0)
        }),
        ("another filter", || refused!(SYS_seccomp, 1, 0, 0)),
        ("setrlimit", || {
            refused!(
                SYS_setrlimit,
                libc::RLIMIT_NOFILE,
                [1_u64 << 20; 2].as_ptr()
            )
        }),
        ("personality", || refused!(SYS_personality, 0)),
        ("iopl", || refused!(SYS_iopl, 3)),
        ("ioperm", || refused!(SYS_ioperm, 0, 1024, 1)),
        ("modify_ldt", || refused!(SYS_modify_ldt, 0, 0, 0)),
        ("arch_prctl", || refused!(SYS_arch_prctl, 0x1003, 0)),
    ]);
}

#[test]
fn none_of_the_kernels_large_interfaces() {
    all_refused(&[
        ("bpf", || refused!(SYS_bpf, 0, [0_u64; 16].as_ptr(), 128)),
        ("io_uring", || {
            refused!(SYS_io_uring_setup, 8, [0_u64; 15].as_ptr())
        }),
        ("perf_event_open", || {
            refused!(SYS_perf_event_open, [0_u64; 16].as_ptr(), 0, -1, -1, 0)
        }),
        ("userfaultfd", || refused!(SYS_userfaultfd, 0)),
        ("keyctl", || refused!(SYS_keyctl, 0, -3, 0)),
        ("add_key", || {
            refused!(SYS_add_key, path(c"user"), path(c"x"), path(c"x"), 1, -3)
        }),
        ("mount", || {
            refused!(SYS_mount, path(c"x"), path(c"/mnt"), path(c"tmpfs"), 0, 0)
        }),
        ("umount2", || refused!(SYS_umount2, path(c"/tmp"), 0)),
        ("pivot_root", || {
            refused!(SYS_pivot_root, path(c"/tmp"), path(c"/tmp"))
        }),
        ("fsopen", || refused!(SYS_fsopen, path(c"tmpfs"), 0)),
        ("open_tree", || {
            refused!(SYS_open_tree, libc::AT_FDCWD, path(c"/"), 1)
        }),
        ("init_module", || refused!(SYS_init_module, 0, 0, 0)),
        ("kexec_load", || refused!(SYS_kexec_load, 0, 0, 0, 0)),
        ("reboot", || refused!(SYS_reboot, 0, 0, 0, 0)),
        ("settimeofday", || {
            refused!(SYS_settimeofday, [0_u64; 2].as_ptr(), 0)
        }),
        ("clock_settime", || {
            refused!(SYS_clock_settime, 0, [0_u64; 2].as_ptr())
        }),
        ("sethostname", || refused!(SYS_sethostname, path(c"x"), 1)),
        ("syslog", || refused!(SYS_syslog, 10, 0, 0)),
        ("swapoff", || refused!(SYS_swapoff, path(c"/"))),
        ("splice", || refused!(SYS_splice, 0, 0, 1, 0, 1, 0)),
        ("memfd_secret", || refused!(SYS_memfd_secret, 0)),
        ("mq_open", || refused!(SYS_mq_open, path(c"x"), 0)),
        ("TIOCSTI", || refused!(SYS_ioctl, 0, 0x5412, path(c"x"))),
        ("TIOCLINUX", || {
            refused!(SYS_ioctl, 0, 0x541c, path(c"\x02"))
        }),
        ("SIOCGIFCONF", || refused!(SYS_ioctl, 0, 0x8912, 0)),
        ("FS_IOC_SETFLAGS", || {
            refused!(SYS_ioctl, ARENA, 0x4008_6602, 0)
        }),
        ("KVM_SET_TSS_ADDR", || refused!(SYS_ioctl, ARENA, 0xae47, 0)),
        ("seals", || refused!(SYS_fcntl, ARENA, libc::F_ADD_SEALS, 0)),
        ("leases", || {
            refused!(SYS_fcntl, ARENA, libc::F_SETLEASE, libc::F_RDLCK)
        }),
        ("F_NOTIFY", || refused!(SYS_fcntl, ARENA, libc::F_NOTIFY, 1)),
    ]);
}

/// Of all numbers that a kernel could know, those of the list pass the filter and no other, in either numbering.
#[test]
fn what_is_not_on_the_list_is_not_there() {
    const X32: i64 = 0x4000_0000;
    // uretprobe and uprobe: the kernel's own trampolines, which pass every filter and end whoever else calls them.
    const TRAMPOLINES: [i64; 2] = [335, 336];
    let listed: BTreeSet<i64> = calls::of(calls::ALLOWED).map(|call| call.number).collect();
    let status = behind_the_jail(move || {
        let missing = |number: i64| {
            // SAFETY: the filter answers before any argument is looked at.
            let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
            // SAFETY: this thread's errno.
            result == -1 && unsafe { *libc::__errno_location() } == libc::ENOSYS
        };
        let stray = (0..600)
            .filter(|n| !listed.contains(n) && !TRAMPOLINES.contains(n))
            .find(|n| !missing(*n));
        let other = (0..600).map(|n| n | X32).find(|n| !missing(*n));
        i32::from(stray.is_some()) | i32::from(other.is_some()) << 1
    });
    assert_eq!(
        status, 0,
        "256: a number beside the list passes; 512: one of the x32 ABI does"
    );
}

#[test]
fn the_32_bit_interface_ends_the_process() {
    let status = behind_the_jail(|| {
        // SAFETY: getpid of the 32-bit ABI; the filter ends the process instead.
        unsafe { std::arch::asm!("int 0x80", inout("rax") 20_u64 => _) };
        1
    });
    assert_eq!(status & 0x7f, libc::SIGSYS, "{status:#x}");
}

#[test]
fn the_page_is_what_the_filter_says_today() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/jail.md");
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        page::markdown(),
        "run `make docs`"
    );
}
