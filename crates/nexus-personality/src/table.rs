//! The system call table: data, from which the documentation is made.

use crate::errno::SysResult;
use crate::machine::Cpu;
use crate::syscall::{
    attributes, dirs, fdops, fork, futex, groups, info, io, memory, messages, open, polling,
    processes, scheduling, signals, socket_options, sockets, stat, threads, time,
};
use crate::thread::Thread;

/// How much of a call is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As Linux does it, for one process.
    Full,
    /// In part: the text says what is different.
    Partial(&'static str),
    /// On purpose not at all: the text says why.
    Absent(&'static str),
}

/// A handler: the thread, its vCPU, the six arguments.
pub type Handler = fn(&mut Thread, &mut dyn Cpu, [u64; 6]) -> SysResult;

/// One system call.
#[derive(Clone, Copy)]
pub struct Call {
    /// Number in RAX.
    pub number: u64,
    /// Linux's name.
    pub name: &'static str,
    /// The file of handlers it belongs to, under `syscall/`.
    pub family: &'static str,
    /// How much of it is served.
    pub state: State,
}

/// The table: each line a state, a number, a name, a handler, and the reason where one is due. What is only told is one text:
/// references are relocated at every start, into pages of each instance's own.
macro_rules! calls {
    ($($state:ident($number:literal, $name:literal, $family:ident::$handler:ident $(, $reason:literal)? $(,)?)),* $(,)?) => {
        static NUMBERS: &[u16] = &[$($number),*];
        static HANDLERS: &[Handler] = &[$($family::$handler),*];
        const TOLD: &str = concat!($(
            stringify!($state), "\t", $name, "\t", stringify!($family), "\t", $($reason,)? "\n"
        ),*);
    };
}

fn place(number: u64) -> Option<usize> {
    let number = u16::try_from(number).ok()?;
    NUMBERS.binary_search(&number).ok()
}

/// What serves the call with this number.
#[must_use]
pub fn handler(number: u64) -> Option<Handler> {
    HANDLERS.get(place(number)?).copied()
}

/// The call with this number.
#[must_use]
pub fn find(number: u64) -> Option<Call> {
    let told = TOLD.lines().nth(place(number)?)?;
    let mut fields = told.split('\t');
    let state = fields.next()?;
    let (name, family) = (fields.next()?, fields.next()?);
    let reason = fields.next()?;
    Some(Call {
        number,
        name,
        family,
        state: match state {
            "full" => State::Full,
            "partial" => State::Partial(reason),
            _ => State::Absent(reason),
        },
    })
}

/// All calls that have a handler, in order of their numbers.
pub fn all() -> impl Iterator<Item = Call> {
    NUMBERS.iter().filter_map(|number| find((*number).into()))
}

// All calls that have a handler, in order of their numbers. What is not here answers ENOSYS and is counted;
// `crate::unserved` says why it is not here.
calls![
    full(0, "read", io::read),
    full(1, "write", io::write),
    full(2, "open", open::open),
    full(3, "close", open::close),
    full(4, "stat", stat::stat),
    full(5, "fstat", stat::fstat),
    full(6, "lstat", stat::lstat),
    full(7, "poll", polling::poll),
    full(8, "lseek", io::lseek),
    partial(
        9,
        "mmap",
        memory::mmap,
        "no huge pages, locking or growing down"
    ),
    full(10, "mprotect", memory::mprotect),
    full(11, "munmap", memory::munmap),
    full(12, "brk", memory::brk),
    full(13, "rt_sigaction", signals::rt_sigaction),
    full(14, "rt_sigprocmask", signals::rt_sigprocmask),
    full(15, "rt_sigreturn", signals::rt_sigreturn),
    partial(
        16,
        "ioctl",
        fdops::ioctl,
        "FIONREAD, FIONBIO, FIOCLEX and /dev/nexus; there are no terminals"
    ),
    full(17, "pread64", io::pread64),
    full(18, "pwrite64", io::pwrite64),
    full(19, "readv", io::readv),
    full(20, "writev", io::writev),
    full(21, "access", stat::access),
    full(22, "pipe", polling::pipe),
    partial(
        23,
        "select",
        polling::select,
        "the time that is left is not written back",
    ),
    full(24, "sched_yield", threads::sched_yield),
    partial(
        25,
        "mremap",
        memory::mremap,
        "anonymous private memory and shared files in memory, no fixed target"
    ),
    full(26, "msync", memory::msync),
    absent(
        27,
        "mincore",
        info::absent,
        "tells what the host has cached",
    ),
    full(28, "madvise", memory::madvise),
    full(32, "dup", fdops::dup),
    full(33, "dup2", fdops::dup2),
    full(34, "pause", signals::pause),
    full(35, "nanosleep", time::nanosleep),
    full(36, "getitimer", signals::getitimer),
    full(37, "alarm", signals::alarm),
    full(38, "setitimer", signals::setitimer),
    full(39, "getpid", threads::getpid),
    full(40, "sendfile", io::sendfile),
    partial(41, "socket", sockets::socket, "UNIX, IPv4 and IPv6"),
    partial(
        42,
        "connect",
        sockets::connect,
        "inside the instance; to the outside as the function's policy allows"
    ),
    full(43, "accept", sockets::accept),
    full(44, "sendto", messages::sendto),
    full(45, "recvfrom", messages::recvfrom),
    partial(
        46,
        "sendmsg",
        messages::sendmsg,
        "of control data: descriptors, on connected UNIX sockets"
    ),
    partial(
        47,
        "recvmsg",
        messages::recvmsg,
        "of control data: descriptors, on connected UNIX sockets"
    ),
    full(48, "shutdown", sockets::shutdown),
    partial(
        49,
        "bind",
        sockets::bind,
        "loopback addresses, names in /tmp, abstract names"
    ),
    partial(
        50,
        "listen",
        sockets::listen,
        "at most 128 connections wait to be accepted, as each takes room of a host's socket; connect then answers EAGAIN at once",
    ),
    full(51, "getsockname", sockets::getsockname),
    full(52, "getpeername", sockets::getpeername),
    partial(53, "socketpair", sockets::socketpair, "UNIX only"),
    partial(
        54,
        "setsockopt",
        socket_options::setsockopt,
        "kept and shown; no effect"
    ),
    partial(
        55,
        "getsockopt",
        socket_options::getsockopt,
        "what was set; SO_TYPE, SO_ERROR and the like"
    ),
    partial(
        56,
        "clone",
        threads::clone,
        "threads, and processes as fork and vfork make them",
    ),
    partial(57, "fork", fork::fork, "the device is not inherited"),
    full(58, "vfork", processes::vfork),
    partial(
        59,
        "execve",
        processes::execve,
        "a program's name is UTF-8; the device and children are not inherited; 2 MiB of arguments and environment",
    ),
    full(60, "exit", threads::exit),
    partial(
        61,
        "wait4",
        processes::wait4,
        "children only end, never stop; no usage",
    ),
    partial(
        62,
        "kill",
        signals::kill,
        "programs of the instance only; nothing stops them, as nobody could have them go on",
    ),
    full(63, "uname", info::uname),
    partial(
        72,
        "fcntl",
        fdops::fcntl,
        "a wait for a record lock does not see deadlocks; no leases, no watches"
    ),
    full(73, "flock", fdops::flock),
    full(74, "fsync", io::fsync),
    full(75, "fdatasync", io::fsync),
    partial(76, "truncate", io::truncate, "/tmp and /dev/shm"),
    full(77, "ftruncate", io::ftruncate),
    full(79, "getcwd", dirs::getcwd),
    full(80, "chdir", dirs::chdir),
    full(81, "fchdir", dirs::fchdir),
    partial(82, "rename", dirs::rename, "/tmp and /dev/shm"),
    partial(83, "mkdir", dirs::mkdir, "/tmp and /dev/shm"),
    partial(84, "rmdir", dirs::rmdir, "/tmp and /dev/shm"),
    partial(85, "creat", open::creat, "/tmp and /dev/shm"),
    partial(86, "link", dirs::link, "/tmp and /dev/shm"),
    partial(87, "unlink", dirs::unlink, "/tmp and /dev/shm"),
    partial(88, "symlink", dirs::symlink, "/tmp and /dev/shm"),
    full(89, "readlink", dirs::readlink),
    partial(
        90,
        "chmod",
        attributes::chmod,
        "/tmp and /dev/shm; the owner's bits hold for the one user"
    ),
    partial(
        91,
        "fchmod",
        attributes::fchmod,
        "/tmp and /dev/shm; the owner's bits hold for the one user"
    ),
    partial(
        92,
        "chown",
        attributes::chown,
        "to oneself: there is one user"
    ),
    partial(
        93,
        "fchown",
        attributes::fchown,
        "to oneself: there is one user"
    ),
    partial(
        94,
        "lchown",
        attributes::lchown,
        "to oneself: there is one user"
    ),
    full(95, "umask", attributes::umask),
    full(96, "gettimeofday", time::gettimeofday),
    partial(97, "getrlimit", info::getrlimit, "the guest's own limits"),
    full(98, "getrusage", time::getrusage),
    partial(99, "sysinfo", info::sysinfo, "the guest's own figures"),
    full(100, "times", time::times),
    full(102, "getuid", info::getuid),
    full(104, "getgid", info::getuid),
    partial(105, "setuid", info::setuid, "to oneself"),
    partial(106, "setgid", info::setuid, "to oneself"),
    full(107, "geteuid", info::getuid),
    full(108, "getegid", info::getuid),
    full(109, "setpgid", groups::setpgid),
    full(110, "getppid", threads::getppid),
    full(111, "getpgrp", groups::getpgrp),
    full(112, "setsid", groups::setsid),
    partial(113, "setreuid", info::set_two_ids, "to oneself"),
    partial(114, "setregid", info::set_two_ids, "to oneself"),
    full(115, "getgroups", info::getgroups),
    absent(116, "setgroups", info::not_permitted, "needs a privilege"),
    partial(117, "setresuid", info::set_ids, "to oneself"),
    full(118, "getresuid", info::getresuid),
    partial(119, "setresgid", info::set_ids, "to oneself"),
    full(120, "getresgid", info::getresuid),
    full(121, "getpgid", groups::getpgid),
    full(124, "getsid", groups::getsid),
    full(127, "rt_sigpending", signals::rt_sigpending),
    full(128, "rt_sigtimedwait", signals::rt_sigtimedwait),
    full(129, "rt_sigqueueinfo", signals::rt_sigqueueinfo),
    full(130, "rt_sigsuspend", signals::rt_sigsuspend),
    full(131, "sigaltstack", signals::sigaltstack),
    partial(132, "utime", attributes::utime, "/tmp and /dev/shm"),
    partial(
        133,
        "mknod",
        dirs::mknod,
        "files, FIFOs and names of sockets"
    ),
    partial(137, "statfs", stat::statfs, "made up"),
    partial(138, "fstatfs", stat::fstatfs, "made up"),
    partial(
        140,
        "getpriority",
        scheduling::getpriority,
        "kept, no effect"
    ),
    partial(
        141,
        "setpriority",
        scheduling::setpriority,
        "kept, no effect"
    ),
    partial(
        142,
        "sched_setparam",
        scheduling::sched_setparam,
        "priority 0 only"
    ),
    full(143, "sched_getparam", scheduling::sched_getparam),
    partial(
        144,
        "sched_setscheduler",
        scheduling::sched_setscheduler,
        "checked, no effect; no real time"
    ),
    full(145, "sched_getscheduler", scheduling::sched_getscheduler),
    full(
        146,
        "sched_get_priority_max",
        scheduling::sched_get_priority_max
    ),
    full(
        147,
        "sched_get_priority_min",
        scheduling::sched_get_priority_min
    ),
    full(
        148,
        "sched_rr_get_interval",
        scheduling::sched_rr_get_interval
    ),
    partial(149, "mlock", memory::mlock, "guests are never swapped"),
    partial(150, "munlock", memory::mlock, "guests are never swapped"),
    partial(151, "mlockall", memory::mlock, "guests are never swapped"),
    partial(152, "munlockall", memory::mlock, "guests are never swapped"),
    partial(
        157,
        "prctl",
        info::prctl,
        "thread names; the rest has no effect",
    ),
    full(158, "arch_prctl", threads::arch_prctl),
    partial(
        160,
        "setrlimit",
        info::setrlimit,
        "descriptors and file length hold, the others are kept and shown"
    ),
    full(162, "sync", info::nothing),
    full(186, "gettid", threads::gettid),
    absent(188, "setxattr", attributes::xattr, "no extended attributes"),
    absent(
        189,
        "lsetxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        190,
        "fsetxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(191, "getxattr", attributes::xattr, "no extended attributes"),
    absent(
        192,
        "lgetxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        193,
        "fgetxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        194,
        "listxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        195,
        "llistxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        196,
        "flistxattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        197,
        "removexattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        198,
        "lremovexattr",
        attributes::xattr,
        "no extended attributes"
    ),
    absent(
        199,
        "fremovexattr",
        attributes::xattr,
        "no extended attributes"
    ),
    full(200, "tkill", signals::tkill),
    full(201, "time", time::time),
    partial(
        202,
        "futex",
        futex::futex,
        "shared between programs in shared memory only; no priority inheritance",
    ),
    partial(
        203,
        "sched_setaffinity",
        scheduling::sched_setaffinity,
        "checked, no effect"
    ),
    full(204, "sched_getaffinity", scheduling::sched_getaffinity),
    full(213, "epoll_create", polling::epoll_create),
    full(217, "getdents64", dirs::getdents64),
    full(218, "set_tid_address", threads::set_tid_address),
    partial(221, "fadvise64", info::nothing, "no effect"),
    absent(
        227,
        "clock_settime",
        info::not_permitted,
        "clocks are the host's"
    ),
    full(228, "clock_gettime", time::clock_gettime),
    full(229, "clock_getres", time::clock_getres),
    full(230, "clock_nanosleep", time::clock_nanosleep),
    full(231, "exit_group", threads::exit_group),
    full(232, "epoll_wait", polling::epoll_wait),
    full(233, "epoll_ctl", polling::epoll_ctl),
    full(234, "tgkill", signals::tgkill),
    partial(235, "utimes", attributes::utimes, "/tmp and /dev/shm"),
    absent(237, "mbind", info::absent, "no memory policy"),
    absent(239, "get_mempolicy", info::absent, "no memory policy"),
    partial(
        247,
        "waitid",
        processes::waitid,
        "children only end, never stop; no usage",
    ),
    full(257, "openat", open::openat),
    partial(258, "mkdirat", dirs::mkdirat, "/tmp and /dev/shm"),
    partial(
        259,
        "mknodat",
        dirs::mknodat,
        "files, FIFOs and names of sockets"
    ),
    partial(
        260,
        "fchownat",
        attributes::fchownat,
        "to oneself: there is one user"
    ),
    partial(261, "futimesat", attributes::futimesat, "/tmp and /dev/shm"),
    full(262, "newfstatat", stat::newfstatat),
    partial(263, "unlinkat", dirs::unlinkat, "/tmp and /dev/shm"),
    partial(264, "renameat", dirs::renameat, "/tmp and /dev/shm"),
    partial(265, "linkat", dirs::linkat, "/tmp and /dev/shm"),
    partial(266, "symlinkat", dirs::symlinkat, "/tmp and /dev/shm"),
    full(267, "readlinkat", dirs::readlinkat),
    partial(
        268,
        "fchmodat",
        attributes::fchmodat,
        "/tmp and /dev/shm; the owner's bits hold for the one user"
    ),
    full(269, "faccessat", stat::faccessat),
    full(270, "pselect6", polling::pselect6),
    full(271, "ppoll", polling::ppoll),
    full(273, "set_robust_list", threads::set_robust_list),
    partial(280, "utimensat", attributes::utimensat, "/tmp and /dev/shm"),
    full(281, "epoll_pwait", polling::epoll_pwait),
    full(283, "timerfd_create", polling::timerfd_create),
    full(284, "eventfd", polling::eventfd),
    partial(
        285,
        "fallocate",
        io::fallocate,
        "/tmp and /dev/shm, no holes"
    ),
    full(286, "timerfd_settime", polling::timerfd_settime),
    full(287, "timerfd_gettime", polling::timerfd_gettime),
    full(288, "accept4", sockets::accept4),
    full(290, "eventfd2", polling::eventfd2),
    full(291, "epoll_create1", polling::epoll_create1),
    full(292, "dup3", fdops::dup3),
    partial(293, "pipe2", polling::pipe2, "no packet mode"),
    full(295, "preadv", io::preadv),
    full(296, "pwritev", io::pwritev),
    full(297, "rt_tgsigqueueinfo", signals::rt_tgsigqueueinfo),
    partial(
        302,
        "prlimit64",
        info::prlimit64,
        "descriptors and file length hold, the others are kept and shown"
    ),
    full(306, "syncfs", io::fsync),
    full(307, "sendmmsg", messages::sendmmsg),
    partial(
        309,
        "getcpu",
        threads::getcpu,
        "CPU 0, which every guest has; in the vDSO too"
    ),
    partial(
        316,
        "renameat2",
        dirs::renameat2,
        "/tmp and /dev/shm, no whiteouts"
    ),
    full(318, "getrandom", info::getrandom),
    partial(319, "memfd_create", open::memfd_create, "no seals"),
    partial(
        322,
        "execveat",
        processes::execveat,
        "as execve; of descriptors those of the host's files",
    ),
    absent(324, "membarrier", info::membarrier, "none of its commands"),
    full(326, "copy_file_range", io::copy_file_range),
    partial(327, "preadv2", io::preadv2, "flags that are hints only"),
    partial(328, "pwritev2", io::pwritev2, "flags that are hints only"),
    full(332, "statx", stat::statx),
    absent(
        334,
        "rseq",
        info::absent,
        "addresses of a guest are never registered with the host",
    ),
    absent(435, "clone3", info::absent, "programs fall back to clone"),
    full(436, "close_range", open::close_range),
    full(439, "faccessat2", stat::faccessat2),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_so_that_the_search_finds_every_call() {
        assert!(NUMBERS.is_sorted_by(|a, b| a < b));
        assert_eq!(
            (HANDLERS.len(), all().count()),
            (NUMBERS.len(), NUMBERS.len())
        );
        assert!(
            NUMBERS
                .iter()
                .all(|number| handler((*number).into()).is_some())
        );
    }

    #[test]
    fn what_is_not_in_the_table_is_not_found() {
        assert!(find(u64::MAX).is_none() && handler(u64::MAX).is_none());
        assert!(find(101).is_none(), "ptrace has number 101");
    }

    #[test]
    fn every_call_names_its_family() {
        assert_eq!(find(0).map(|c| c.family), Some("io"));
        assert_eq!(find(9).map(|c| c.family), Some("memory"));
        assert_eq!(find(9).map(|c| c.name), Some("mmap"));
        let states = [334, 0].map(|number| find(number).map(|c| c.state));
        assert!(
            matches!(states, [Some(State::Absent(why)), Some(State::Full)] if why.contains("host"))
        );
    }
}
