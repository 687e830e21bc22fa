//! Seccomp: which system calls this process can make from here on, on every thread.

use super::Error;
use super::calls::{self, ALLOWED, Only, SHELL};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn condition(argument: u8, operator: Op, value: u64) -> Result<Condition, Error> {
    Condition::new(argument, Len::Dword, operator, value).map_err(|e| Error::of("seccomp", e))
}

/// A filter, ready to be installed.
pub struct Filter(BpfProgram);

impl Filter {
    fn new(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<Self, Error> {
        let filter = SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)
            .map_err(|e| Error::of("seccomp", e))?;
        let program = filter.try_into();
        program
            .map(Self)
            .map_err(|e| Error::of("seccomp", format!("{e:?}")))
    }

    /// On every thread, for good.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn install(&self) -> Result<(), Error> {
        seccompiler::apply_filter_all_threads(&self.0).map_err(|e| Error::of("seccomp", e))
    }

    /// On the calling thread and those that it starts, for good.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn install_here(&self) -> Result<(), Error> {
        seccompiler::apply_filter(&self.0).map_err(|e| Error::of("seccomp", e))
    }
}

fn condition_rule(argument: u8, operator: Op, value: u64) -> Result<SeccompRule, Error> {
    let condition = condition(argument, operator, value)?;
    SeccompRule::new(vec![condition]).map_err(|e| Error::of("seccomp", e))
}

/// What of a call's arguments is let through: none where all are.
fn rules(only: Only) -> Result<Vec<SeccompRule>, Error> {
    match only {
        Only::Any => Ok(Vec::new()),
        Only::OneOf(argument, values) => values
            .iter()
            .map(|(value, _)| condition_rule(argument, Op::Eq, *value))
            .collect(),
        Only::Bits {
            argument,
            mask,
            value,
            ..
        } => Ok(vec![condition_rule(argument, Op::MaskedEq(mask), value)?]),
        Only::Options(pairs) => pairs
            .iter()
            .map(|(level, name, _)| {
                let conditions = vec![
                    condition(1, Op::Eq, u64::from(level.cast_unsigned()))?,
                    condition(2, Op::Eq, u64::from(name.cast_unsigned()))?,
                ];
                SeccompRule::new(conditions).map_err(|e| Error::of("seccomp", e))
            })
            .collect(),
        Only::Own => {
            // SAFETY: no preconditions.
            let own = unsafe { libc::getpid() };
            Ok(vec![condition_rule(
                0,
                Op::Eq,
                u64::from(own.cast_unsigned()),
            )?])
        }
    }
}

/// For a hypervisor with everything open: what serving a guest takes and nothing else (docs/jail.md). The rest fails with
/// ENOSYS, which the C library answers by older calls that are allowed. Of this process, which it names.
///
/// # Errors
/// A defect.
pub fn microvm() -> Result<Filter, Error> {
    let allowed = calls::of(ALLOWED)
        .map(|call| Ok((call.number, rules(call.only)?)))
        .collect::<Result<Rules, Error>>()?;
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Filter::new(allowed, missing, SeccompAction::Allow)
}

/// For a hypervisor that waits for its function: no program, no socket, no other process.
///
/// # Errors
/// The kernel refuses the filter.
pub fn confine_shell() -> Result<(), Error> {
    let calls = calls::of(ALLOWED).chain(calls::of(SHELL));
    let rules: Rules = calls.map(|call| (call.number, Vec::new())).collect();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Filter::new(rules, missing, SeccompAction::Allow)?.install()
}

/// Calls that a program jailed as a host process has no use for: they reach the kernel's less trodden paths or
/// other processes.
pub(super) const REFUSED: &[i64] = &[
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
    Filter::new(rules, SeccompAction::Allow, refuse)?.install()?;
    // Its flags lie in memory, where no filter sees them; the C library then uses clone.
    let rules: Rules = [(libc::SYS_clone3, Vec::new())].into();
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    Filter::new(rules, SeccompAction::Allow, missing)?.install()
}
