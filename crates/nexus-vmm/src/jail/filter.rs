//! Seccomp: which system calls this process can make from here on, on every thread.

use super::Error;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// Calls the hypervisor and the personality make while a guest runs, whatever their arguments.
const SERVED: &[i64] = &[
    // Files, on descriptors or beneath the roots.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_dup,
    libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_shutdown,
    // What is sent is the hypervisor's own list, never the guest's; sockets are ends of pairs only.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Time, identity, randomness.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_times,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // Memory and threads.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// ioctl requests: what vCPUs and slots made on demand need, and bytes waiting in a pipe.
const REQUESTS: &[u64] = &[
    0xae80,      // KVM_RUN
    0xae41,      // KVM_CREATE_VCPU
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    0x4008_ae90, // KVM_SET_CPUID2
    0x8138_ae83, // KVM_GET_SREGS
    0x4138_ae84, // KVM_SET_SREGS
    0x4188_aea7, // KVM_SET_XCRS
    0x4008_ae89, // KVM_SET_MSRS
    0x9000_aea4, // KVM_GET_XSAVE
    0x5000_aea5, // KVM_SET_XSAVE
    0x4040_ae79, // KVM_IOEVENTFD
    0x4018_aee1, // KVM_SET_DEVICE_ATTR
    // The microVMs of child processes.
    0xae01,      // KVM_CREATE_VM
    0xae03,      // KVM_CHECK_EXTENSION
    0xae04,      // KVM_GET_VCPU_MMAP_SIZE
    0x4068_aea3, // KVM_ENABLE_CAP
    0x4188_aec6, // KVM_X86_SET_MSR_FILTER
    0x541b,      // FIONREAD
];

const FCNTL: &[i32] = &[
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn condition(argument: u8, operator: Op, value: u64) -> Result<Condition, Error> {
    Condition::new(argument, Len::Dword, operator, value).map_err(|e| Error::of("seccomp", e))
}

fn install(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<(), Error> {
    let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)
        .map_err(|e| Error::of("seccomp", e))?;
    let program: BpfProgram = filter
        .try_into()
        .map_err(|e| Error::of("seccomp", format!("{e:?}")))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|e| Error::of("seccomp", e))
}

fn one_of(argument: u8, values: impl Iterator<Item = u64>) -> Result<Vec<SeccompRule>, Error> {
    values.map(|value| only(argument, Op::Eq, value)).collect()
}

fn only(argument: u8, operator: Op, value: u64) -> Result<SeccompRule, Error> {
    let condition = condition(argument, operator, value)?;
    SeccompRule::new(vec![condition]).map_err(|e| Error::of("seccomp", e))
}

/// For a hypervisor with everything open: what serving a guest takes and nothing else. The rest fails with ENOSYS
/// (which the C library answers by older calls that are allowed).
///
/// # Errors
/// The kernel refuses the filter.
pub fn confine_microvm() -> Result<(), Error> {
    let mut rules: Rules = SERVED.iter().map(|call| (*call, Vec::new())).collect();
    let number = |n: i32| u64::from(n.cast_unsigned());
    rules.insert(libc::SYS_ioctl, one_of(1, REQUESTS.iter().copied())?);
    rules.insert(
        libc::SYS_fcntl,
        one_of(1, FCNTL.iter().map(|c| number(*c)))?,
    );
    rules.insert(
        libc::SYS_socketpair,
        vec![only(0, Op::Eq, number(libc::AF_UNIX))?],
    );
    rules.insert(
        libc::SYS_prctl,
        vec![only(0, Op::Eq, number(libc::PR_SET_NAME))?],
    );
    // Threads, never processes.
    let thread = number(libc::CLONE_THREAD | libc::CLONE_VM);
    rules.insert(
        libc::SYS_clone,
        vec![only(0, Op::MaskedEq(thread), thread)?],
    );
    // Nothing of this process becomes executable any more.
    let executable = number(libc::PROT_EXEC);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![only(2, Op::MaskedEq(executable), 0)?]);
    }
    // SAFETY: no preconditions.
    let own = unsafe { libc::getpid() };
    rules.insert(libc::SYS_tgkill, vec![only(0, Op::Eq, number(own))?]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    install(rules, missing, SeccompAction::Allow)
}

/// What opening and mapping a snapshot and the jail of its function take beyond [`SERVED`].
const SHELL: &[i64] = &[
    libc::SYS_ioctl,
    libc::SYS_fcntl,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_clone,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_readlink,
    libc::SYS_getcwd,
    libc::SYS_recvmsg,
    libc::SYS_dup3,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_capset,
    libc::SYS_getppid,
    libc::SYS_geteuid,
    libc::SYS_tgkill,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
];

/// For a hypervisor that waits for its function: no program, no socket, no other process.
///
/// # Errors
/// The kernel refuses the filter.
pub fn confine_shell() -> Result<(), Error> {
    let calls = SERVED.iter().chain(SHELL);
    let rules: Rules = calls.map(|call| (*call, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    install(rules, missing, SeccompAction::Allow)
}

/// Calls that a program jailed as a host process has no use for: they reach the kernel's less trodden paths or
/// other processes.
const REFUSED: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
];

/// For a program on the host itself: ordinary Python works, the network does not.
///
/// # Errors
/// The kernel refuses the filter.
pub fn confine_process() -> Result<(), Error> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let local = condition(0, Op::Ne, libc::AF_UNIX.unsigned_abs().into())?;
    let other_family = SeccompRule::new(vec![local]).map_err(|e| Error::of("seccomp", e))?;
    rules.insert(libc::SYS_socket, vec![other_family]);
    // New namespaces, by any bit of theirs.
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let rules_of_clone = namespaces
        .iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            let condition = condition(0, Op::MaskedEq(flag), flag)?;
            SeccompRule::new(vec![condition]).map_err(|e| Error::of("seccomp", e))
        })
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_clone, rules_of_clone);
    let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    install(rules, SeccompAction::Allow, refuse)?;
    // Its flags lie in memory, where no filter sees them; the C library then uses clone.
    let rules: Rules = [(libc::SYS_clone3, Vec::new())].into();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    install(rules, SeccompAction::Allow, missing)
}
