//! System calls without a handler, on purpose, and why: data, from which the documentation is made.
//!
//! They answer ENOSYS as any unknown number does. A test asserts that this list and the table together name every
//! call that Linux has up to [`LAST`].

/// Number of the last call that the lists account for (Linux 6.1's).
pub const LAST: u64 = 450;
/// Numbers that x86-64 leaves free: behind the old calls, up to those that all architectures share.
pub const GAP: std::ops::Range<u64> = 335..424;

/// Calls of one kind, with the reason that they have in common.
pub struct Group {
    /// Why none of them is served.
    pub reason: &'static str,
    /// Numbers and names.
    pub calls: &'static [(u64, &'static str)],
}

/// All of them.
pub static UNSERVED: &[Group] = &[
    Group {
        reason: "programs of an instance share memory by mmap and talk through pipes and sockets: nothing lives on under a key",
        calls: &[
            (29, "shmget"),
            (30, "shmat"),
            (31, "shmctl"),
            (64, "semget"),
            (65, "semop"),
            (66, "semctl"),
            (67, "shmdt"),
            (68, "msgget"),
            (69, "msgsnd"),
            (70, "msgrcv"),
            (71, "msgctl"),
            (220, "semtimedop"),
            (240, "mq_open"),
            (241, "mq_unlink"),
            (242, "mq_timedsend"),
            (243, "mq_timedreceive"),
            (244, "mq_notify"),
            (245, "mq_getsetattr"),
        ],
    },
    Group {
        reason: "no program looks into another",
        calls: &[
            (101, "ptrace"),
            (310, "process_vm_readv"),
            (311, "process_vm_writev"),
            (312, "kcmp"),
            (424, "pidfd_send_signal"),
            (434, "pidfd_open"),
            (438, "pidfd_getfd"),
            (440, "process_madvise"),
            (448, "process_mrelease"),
        ],
    },
    Group {
        reason: "one user, who has no privileges to give up or take",
        calls: &[
            (122, "setfsuid"),
            (123, "setfsgid"),
            (125, "capget"),
            (126, "capset"),
        ],
    },
    Group {
        reason: "changes the machine; a guest has none to change",
        calls: &[
            (103, "syslog"),
            (136, "ustat"),
            (139, "sysfs"),
            (153, "vhangup"),
            (155, "pivot_root"),
            (159, "adjtimex"),
            (161, "chroot"),
            (163, "acct"),
            (164, "settimeofday"),
            (165, "mount"),
            (166, "umount2"),
            (167, "swapon"),
            (168, "swapoff"),
            (169, "reboot"),
            (170, "sethostname"),
            (171, "setdomainname"),
            (172, "iopl"),
            (173, "ioperm"),
            (175, "init_module"),
            (176, "delete_module"),
            (179, "quotactl"),
            (246, "kexec_load"),
            (305, "clock_adjtime"),
            (313, "finit_module"),
            (320, "kexec_file_load"),
            (443, "quotactl_fd"),
        ],
    },
    Group {
        reason: "namespaces, mounts and filters: the microVM is the sandbox",
        calls: &[
            (272, "unshare"),
            (308, "setns"),
            (317, "seccomp"),
            (428, "open_tree"),
            (429, "move_mount"),
            (430, "fsopen"),
            (431, "fsconfig"),
            (432, "fsmount"),
            (433, "fspick"),
            (442, "mount_setattr"),
            (444, "landlock_create_ruleset"),
            (445, "landlock_add_rule"),
            (446, "landlock_restrict_self"),
        ],
    },
    Group {
        reason: "large kernel surface; programs fall back to plain calls",
        calls: &[
            (206, "io_setup"),
            (207, "io_destroy"),
            (208, "io_getevents"),
            (209, "io_submit"),
            (210, "io_cancel"),
            (248, "add_key"),
            (249, "request_key"),
            (250, "keyctl"),
            (298, "perf_event_open"),
            (300, "fanotify_init"),
            (301, "fanotify_mark"),
            (321, "bpf"),
            (323, "userfaultfd"),
            (333, "io_pgetevents"),
            (425, "io_uring_setup"),
            (426, "io_uring_enter"),
            (427, "io_uring_register"),
        ],
    },
    Group {
        reason: "no watches: what a guest reads does not change under it",
        calls: &[
            (253, "inotify_init"),
            (254, "inotify_add_watch"),
            (255, "inotify_rm_watch"),
            (294, "inotify_init1"),
        ],
    },
    Group {
        reason: "no memory policy, protection keys or pages outside the kernel's view",
        calls: &[
            (216, "remap_file_pages"),
            (238, "set_mempolicy"),
            (256, "migrate_pages"),
            (279, "move_pages"),
            (325, "mlock2"),
            (329, "pkey_mprotect"),
            (330, "pkey_alloc"),
            (331, "pkey_free"),
            (447, "memfd_secret"),
            (450, "set_mempolicy_home_node"),
        ],
    },
    Group {
        reason: "no devices, FIFOs or handles can be made",
        calls: &[(303, "name_to_handle_at"), (304, "open_by_handle_at")],
    },
    Group {
        reason: "obsolete: no present C library makes it",
        calls: &[
            (78, "getdents"),
            (134, "uselib"),
            (154, "modify_ldt"),
            (156, "_sysctl"),
            (174, "create_module"),
            (177, "get_kernel_syms"),
            (178, "query_module"),
            (180, "nfsservctl"),
            (181, "getpmsg"),
            (182, "putpmsg"),
            (183, "afs_syscall"),
            (184, "tuxcall"),
            (185, "security"),
            (205, "set_thread_area"),
            (211, "get_thread_area"),
            (212, "lookup_dcookie"),
            (214, "epoll_ctl_old"),
            (215, "epoll_wait_old"),
            (219, "restart_syscall"),
            (236, "vserver"),
        ],
    },
    Group {
        reason: "no effect in a guest; programs do without",
        calls: &[
            (135, "personality"),
            (187, "readahead"),
            (251, "ioprio_set"),
            (252, "ioprio_get"),
            (277, "sync_file_range"),
            (314, "sched_setattr"),
            (315, "sched_getattr"),
        ],
    },
    Group {
        reason: "programs fall back to reading and writing",
        calls: &[(275, "splice"), (276, "tee"), (278, "vmsplice")],
    },
    Group {
        reason: "not yet: programs seen so far do without, or go another way",
        calls: &[
            (222, "timer_create"),
            (223, "timer_settime"),
            (224, "timer_gettime"),
            (225, "timer_getoverrun"),
            (226, "timer_delete"),
            (274, "get_robust_list"),
            (282, "signalfd"),
            (289, "signalfd4"),
            (299, "recvmmsg"),
            (437, "openat2"),
            (441, "epoll_pwait2"),
            (449, "futex_waitv"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::find;

    #[test]
    fn every_number_is_served_or_has_a_reason_and_none_is_both() {
        let listed = |number| {
            UNSERVED
                .iter()
                .flat_map(|g| g.calls)
                .filter(|(n, _)| *n == number)
                .count()
        };
        for number in (0..=LAST).filter(|n| !GAP.contains(n)) {
            let here = usize::from(find(number).is_some()) + listed(number);
            assert_eq!(here, 1, "call {number} is accounted for {here} times");
        }
    }
}
