//! The system calls of the host that the hypervisor may make once it is jailed: data, from which the filter and docs/jail.md
//! are made. Whatever is not here fails with ENOSYS.

use libc::c_long;

/// What of a call's arguments is looked at.
#[derive(Clone, Copy)]
pub enum Only {
    /// Nothing.
    Any,
    /// Argument `0` is one of these; each with its name.
    OneOf(u8, &'static [(u64, &'static str)]),
    /// Of argument `0`, the bits of the mask have this value.
    Bits {
        argument: u8,
        mask: u64,
        value: u64,
        meaning: &'static str,
    },
    /// Arguments 1 and 2, a socket option's level and name, are a pair of these; each with its name.
    Options(&'static [(i32, i32, &'static str)]),
    /// Argument 0 is this process.
    Own,
}

/// One call.
pub struct Call {
    pub number: c_long,
    pub name: &'static str,
    pub only: Only,
}

/// Calls that are there for one reason.
pub struct Group {
    pub why: &'static str,
    pub calls: &'static [Call],
}

macro_rules! call {
    ($number:ident) => {
        call!($number, Only::Any)
    };
    ($number:ident, $only:expr) => {
        Call {
            number: libc::$number,
            name: stringify!($number),
            only: $only,
        }
    };
}

macro_rules! numbers {
    ($($name:ident),* $(,)?) => { &[$((libc::$name.cast_unsigned() as u64, stringify!($name))),*] };
}

/// What vCPUs and slots made on demand need, what the microVMs of child processes need, and bytes waiting in a pipe.
const REQUESTS: &[(u64, &str)] = &[
    (0xae80, "KVM_RUN"),
    (0xae41, "KVM_CREATE_VCPU"),
    (0x4020_ae46, "KVM_SET_USER_MEMORY_REGION"),
    (0x4008_ae90, "KVM_SET_CPUID2"),
    (0x8138_ae83, "KVM_GET_SREGS"),
    (0x4138_ae84, "KVM_SET_SREGS"),
    (0x4188_aea7, "KVM_SET_XCRS"),
    (0x4008_ae89, "KVM_SET_MSRS"),
    (0x9000_aea4, "KVM_GET_XSAVE"),
    (0x5000_aea5, "KVM_SET_XSAVE"),
    (0x4040_ae79, "KVM_IOEVENTFD"),
    (0x4018_aee1, "KVM_SET_DEVICE_ATTR"),
    (0xae01, "KVM_CREATE_VM"),
    (0xae03, "KVM_CHECK_EXTENSION"),
    (0xae04, "KVM_GET_VCPU_MMAP_SIZE"),
    (0x4068_aea3, "KVM_ENABLE_CAP"),
    (0x4188_aec6, "KVM_X86_SET_MSR_FILTER"),
    (0x541b, "FIONREAD"),
];

const COMMANDS: &[(u64, &str)] = numbers![
    F_GETFL,
    F_SETFL,
    F_GETFD,
    F_SETFD,
    F_DUPFD_CLOEXEC,
    F_GETPIPE_SZ,
    F_SETPIPE_SZ
];

macro_rules! options {
    ($($level:ident $name:ident),* $(,)?) => { &[$((libc::$level, libc::$name, stringify!($name))),*] };
}

/// Options that tune a connection of the backend's, and nothing else.
const OPTIONS: &[(i32, i32, &str)] = options![
    SOL_SOCKET SO_KEEPALIVE,
    SOL_SOCKET SO_OOBINLINE,
    SOL_SOCKET SO_RCVTIMEO,
    SOL_SOCKET SO_SNDTIMEO,
    IPPROTO_TCP TCP_NODELAY,
    IPPROTO_TCP TCP_CORK,
    IPPROTO_TCP TCP_KEEPIDLE,
    IPPROTO_TCP TCP_KEEPINTVL,
    IPPROTO_TCP TCP_KEEPCNT,
    IPPROTO_TCP TCP_USER_TIMEOUT,
    IPPROTO_TCP TCP_QUICKACK,
];

const THREAD: u64 = (libc::CLONE_THREAD | libc::CLONE_VM).cast_unsigned() as u64;

const NOT_EXECUTABLE: Only = Only::Bits {
    argument: 2,
    mask: libc::PROT_EXEC.cast_unsigned() as u64,
    value: 0,
    meaning: "without PROT_EXEC: nothing of this process becomes executable any more",
};

/// All of them.
pub static ALLOWED: &[Group] = &[
    Group {
        why: "the guest's files: descriptors that are open, and what Landlock leaves reachable beneath the roots",
        calls: &[
            call!(SYS_read),
            call!(SYS_write),
            call!(SYS_readv),
            call!(SYS_writev),
            call!(SYS_pread64),
            call!(SYS_pwrite64),
            call!(SYS_preadv),
            call!(SYS_pwritev),
            call!(SYS_lseek),
            call!(SYS_close),
            call!(SYS_fstat),
            call!(SYS_newfstatat),
            call!(SYS_statx),
            call!(SYS_openat2),
            call!(SYS_readlinkat),
            call!(SYS_getdents64),
            call!(SYS_ftruncate),
            call!(SYS_fsync),
            call!(SYS_fdatasync),
            call!(SYS_dup),
            call!(SYS_fcntl, Only::OneOf(1, COMMANDS)),
        ],
    },
    Group {
        why: "files in the guest's /tmp; each is a memfd",
        calls: &[call!(SYS_memfd_create)],
    },
    Group {
        why: "the guest's pipes, and its sockets, which are ends of pairs, or connections that the backend made and passed over, which take \
              the place of such an end; what is sent is the hypervisor's own list, never the guest's",
        calls: &[
            call!(SYS_pipe2),
            call!(SYS_socketpair, Only::OneOf(0, numbers![AF_UNIX])),
            call!(
                SYS_sendmsg,
                Only::Bits {
                    argument: 2,
                    mask: libc::MSG_FASTOPEN.cast_unsigned() as u64,
                    value: 0,
                    meaning: "without MSG_FASTOPEN: sending must not connect",
                }
            ),
            call!(SYS_recvmsg),
            call!(SYS_shutdown),
            call!(SYS_dup3),
            call!(SYS_getsockopt, Only::Options(options![SOL_SOCKET SO_ERROR])),
            call!(SYS_setsockopt, Only::Options(OPTIONS)),
        ],
    },
    Group {
        why: "waiting, for the guest and between the hypervisor's threads",
        calls: &[
            call!(SYS_eventfd2),
            call!(SYS_epoll_create1),
            call!(SYS_epoll_ctl),
            call!(SYS_epoll_wait),
            call!(SYS_epoll_pwait),
            call!(SYS_timerfd_create),
            call!(SYS_timerfd_settime),
            call!(SYS_timerfd_gettime),
            call!(SYS_poll),
            call!(SYS_ppoll),
            call!(SYS_futex),
            call!(SYS_nanosleep),
            call!(SYS_clock_nanosleep),
            call!(SYS_restart_syscall),
        ],
    },
    Group {
        why: "time, usage and randomness that the guest asks for",
        calls: &[
            call!(SYS_clock_gettime),
            call!(SYS_clock_getres),
            call!(SYS_gettimeofday),
            call!(SYS_time),
            call!(SYS_times),
            call!(SYS_getrusage),
            call!(SYS_getrandom),
            call!(SYS_getpid),
            call!(SYS_gettid),
        ],
    },
    Group {
        why: "the guest's memory, which is mapped in the window, and the hypervisor's own heap",
        calls: &[
            call!(SYS_mmap, NOT_EXECUTABLE),
            call!(SYS_mprotect, NOT_EXECUTABLE),
            call!(SYS_munmap),
            call!(SYS_mremap),
            call!(SYS_madvise),
            call!(SYS_brk),
        ],
    },
    Group {
        why: "a host thread for each of the guest's, and signals that make one leave a blocking call",
        calls: &[
            call!(
                SYS_clone,
                Only::Bits {
                    argument: 0,
                    mask: THREAD,
                    value: THREAD,
                    meaning: "with CLONE_THREAD and CLONE_VM: threads, never processes. clone3, whose flags no filter sees, is refused",
                }
            ),
            call!(SYS_tgkill, Only::Own),
            call!(SYS_rt_sigaction),
            call!(SYS_rt_sigprocmask),
            call!(SYS_rt_sigreturn),
            call!(SYS_rt_sigtimedwait),
            call!(SYS_sigaltstack),
            call!(SYS_sched_yield),
            call!(SYS_sched_getaffinity),
            call!(SYS_set_robust_list),
            call!(SYS_rseq),
            call!(SYS_prctl, Only::OneOf(0, numbers![PR_SET_NAME])),
            call!(SYS_exit),
            call!(SYS_exit_group),
        ],
    },
    Group {
        why: "in a shell, the function's roots, once there is one",
        calls: &[call!(SYS_landlock_restrict_self)],
    },
    Group {
        why: "the machine: running vCPUs, and what is made on demand",
        calls: &[call!(SYS_ioctl, Only::OneOf(1, REQUESTS))],
    },
];

/// What a shell may do besides, until its function comes: opening and mapping the snapshot, and the rest of the jail. It runs no
/// guest meanwhile. Of the calls above the arguments are not looked at yet.
pub static SHELL: &[Group] = &[
    Group {
        why: "opening the snapshot and what its roots name",
        calls: &[
            call!(SYS_open),
            call!(SYS_openat),
            call!(SYS_readlink),
            call!(SYS_getcwd),
        ],
    },
    Group {
        why: "the rest of the jail: limits, user, capabilities, Landlock, the filter above",
        calls: &[
            call!(SYS_prlimit64),
            call!(SYS_getrlimit),
            call!(SYS_setrlimit),
            call!(SYS_getppid),
            call!(SYS_geteuid),
            call!(SYS_setgroups),
            call!(SYS_setresgid),
            call!(SYS_setresuid),
            call!(SYS_capset),
            call!(SYS_landlock_create_ruleset),
            call!(SYS_landlock_add_rule),
            call!(SYS_seccomp),
        ],
    },
];

/// The calls of some groups.
pub fn of(groups: &'static [Group]) -> impl Iterator<Item = &'static Call> {
    groups.iter().flat_map(|group| group.calls)
}
