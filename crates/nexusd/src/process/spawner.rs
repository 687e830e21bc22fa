//! Starting processes fast, and reaping them, from one thread that lives as long as the daemon. `unsafe`: clone.
//!
//! A plain fork would copy the page tables of a daemon that maps every instance's arena, so the child
//! shares the memory until it executes (CLONE_VM | CLONE_VFORK), as posix_spawn does; that function
//! itself is of no use here because it cannot set the parent-death signal. The signal is tied to
//! the *thread* that starts the child, hence the thread of its own.
//!
//! The same thread reaps what it has started: it knows every child before that can end, and `__WNOTHREAD` shows it none that
//! another part of the process has started. SIGCHLD only says that it is time to look.

use super::cgroup::{Group, Place};
use super::child::{self, Child, Ward};
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A program to start and the descriptors it is to have.
#[derive(Debug)]
pub struct Launch {
    pub program: CString,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// (ours, the number in the child). Every other descriptor is closed there.
    pub descriptors: Vec<(OwnedFd, RawFd)>,
}

enum Order {
    Start(Launch, oneshot::Sender<io::Result<Child>>),
    /// Some child may have ended.
    Reap,
}

/// Handle to the spawning thread. What it has started ends with it.
#[derive(Debug)]
pub struct Spawner {
    orders: mpsc::Sender<Order>,
    listener: AbortHandle,
}

/// Descriptors below this may be the number that another one is wanted at, so they are moved up first.
const LOW: RawFd = 32;
/// Stack of the child between clone and exec, in bytes.
const STACK: usize = 64 << 10;

/// Between two looks whether the last children have died, where the thread is to end.
const LAST_LOOKS: Duration = Duration::from_millis(5);

impl Spawner {
    /// Start the thread; what it starts is in `group`. To be called on a tokio runtime.
    ///
    /// # Errors
    /// Out of threads or memory.
    pub fn start(mut group: Option<Group>) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<Order>();
        let mut stack = Stack::new()?;
        // Before anything is started: a child's end must find its handler.
        let ends = signal(SignalKind::child())?;
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                if let Some(Err(error)) = group.as_ref().map(Group::enter) {
                    tracing::warn!(%error, "instances are in no control group of their own");
                }
                let mut children = Children::default();
                while let Ok(order) = queue.recv() {
                    match order {
                        Order::Start(launch, reply) => {
                            let place = group.as_mut().and_then(place);
                            let procs = place.as_ref().and_then(Place::procs);
                            let started = spawn(&launch, &mut stack, procs);
                            let started = children.take_in(started, place);
                            // Nobody waiting any more: the process is ended by dropping its Child.
                            drop(reply.send(started));
                        }
                        Order::Reap => children.reap(),
                    }
                }
                children.end();
            })?;
        let listener = tokio::spawn(listen(ends, orders.clone())).abort_handle();
        Ok(Self { orders, listener })
    }

    /// Start a program.
    ///
    /// # Errors
    /// What clone or execve failed with.
    pub async fn spawn(&self, launch: Launch) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawning thread has ended");
        self.orders
            .send(Order::Start(launch, reply))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Have the thread look whenever a child of the process has ended. Ends that come close together may be one signal.
async fn listen(mut ends: Signal, orders: mpsc::Sender<Order>) {
    while ends.recv().await.is_some() && orders.send(Order::Reap).is_ok() {}
}

/// A control group for the next child.
fn place(group: &mut Group) -> Option<Place> {
    // Without one it is in the spawning thread's (v1), or in the daemon's (v2): the hypervisor's own limits hold.
    group
        .place()
        .inspect_err(
            |error| tracing::warn!(%error, "an instance is in no control group of its own"),
        )
        .ok()
        .flatten()
}

/// What the spawning thread has started and not yet reaped.
#[derive(Debug, Default)]
struct Children {
    running: HashMap<i32, (Ward, Option<Place>)>,
    /// Control groups of some that have ended, which could not be removed.
    left: Vec<Place>,
}

impl Children {
    fn take_in(&mut self, started: io::Result<i32>, mut place: Option<Place>) -> io::Result<Child> {
        self.left = self
            .left
            .drain(..)
            .filter_map(|p| p.remove().err())
            .collect();
        let pid = match started {
            Ok(pid) => pid,
            Err(error) => {
                self.left.extend(place);
                return Err(error);
            }
        };
        if let Some(place) = &mut place {
            place.taken();
        }
        let (child, ward) = child::watched(pid);
        self.running.insert(pid, (ward, place));
        Ok(child)
    }

    /// Reap all that have ended.
    fn reap(&mut self) {
        // Of this thread's children, and no other's.
        while let Ok(Some(pid)) = child::ended(libc::P_ALL, 0, libc::__WNOTHREAD) {
            match self.running.remove(&pid) {
                Some((ward, place)) => {
                    ward.reap();
                    self.left
                        .extend(place.and_then(|place| place.remove().err()));
                }
                // None is unknown; it would be found again for ever.
                None => {
                    child::reap(pid);
                }
            }
        }
    }

    /// Kill all, and reap them.
    fn end(mut self) {
        self.running.values().for_each(|(ward, _)| ward.kill());
        loop {
            self.reap();
            if self.running.is_empty() {
                return;
            }
            std::thread::sleep(LAST_LOOKS);
        }
    }
}

/// Memory for the child's stack, with a guard page below.
struct Stack {
    base: *mut c_void,
}

// SAFETY: the mapping is owned by this value alone and has no thread affinity.
unsafe impl Send for Stack {}

impl Stack {
    fn new() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STACK,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the first page of the mapping just made; nothing uses it.
        unsafe { libc::mprotect(base, 4096, libc::PROT_NONE) };
        Ok(Self { base })
    }

    fn top(&self) -> *mut c_void {
        // SAFETY: one past the end of the mapping; both it and STACK are multiples of 16.
        unsafe { self.base.byte_add(STACK) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no child runs on it: clone returned after exec.
        unsafe { libc::munmap(self.base, STACK) };
    }
}

/// What the child works on: plain pointers and numbers, all made before clone.
struct Plan {
    program: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    moves: *const (RawFd, RawFd),
    move_count: usize,
    close_from: RawFd,
    /// Where the child enters its control group, or -1.
    procs: RawFd,
    parent: libc::pid_t,
    /// Set by the child where it fails.
    error: c_int,
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn spawn(launch: &Launch, stack: &mut Stack, procs: Option<RawFd>) -> io::Result<i32> {
    let mut moved = Vec::new();
    let mut moves = Vec::with_capacity(launch.descriptors.len());
    for (ours, number) in &launch.descriptors {
        let mut source = ours.as_raw_fd();
        if source < LOW {
            // SAFETY: a valid descriptor of ours; the duplicate is owned at once.
            let high = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, LOW) };
            if high < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: just made, owned by nobody else.
            moved.push(unsafe { OwnedFd::from_raw_fd(high) });
            source = high;
        }
        moves.push((source, *number));
    }
    let (argv, envp) = (pointers(&launch.arguments), pointers(&launch.environment));
    let mut plan = Plan {
        program: launch.program.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        moves: moves.as_ptr(),
        move_count: moves.len(),
        close_from: moves.iter().map(|m| m.1 + 1).max().unwrap_or(3).max(3),
        procs: procs.unwrap_or(-1),
        // SAFETY: getpid has no preconditions.
        parent: unsafe { libc::getpid() },
        error: 0,
    };
    // SAFETY: signals are blocked around clone, so no handler of ours runs in the child, which
    // shares our memory; CLONE_VFORK suspends this thread until the child has executed or ended, so
    // everything `plan` points to outlives its use, and the stack is used by one child at a time.
    let pid = unsafe {
        let (mut all, mut old) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        let pid = libc::clone(
            child,
            stack.top(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut plan).cast(),
        );
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        if pid < 0 {
            return Err(error);
        }
        pid
    };
    // SAFETY: `plan` is alive; the child wrote it, if at all, before it ended, which clone waited for.
    let error = unsafe { std::ptr::read_volatile(&raw const plan.error) };
    if error != 0 {
        // SAFETY: the child has exited; this only reaps it.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(pid)
}

/// Runs in the child on its own stack, in memory shared with the suspended thread: system calls only.
extern "C" fn child(plan: *mut c_void) -> c_int {
    let plan: *mut Plan = plan.cast();
    // SAFETY: `plan` and all it points to stay alive until exec (see `spawn`); nothing here allocates,
    // locks or unwinds, and every call is a bare system call.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
        // The daemon may have died before the line above.
        if libc::getppid() != (*plan).parent {
            libc::_exit(127);
        }
        // Where the kernel refuses, the hypervisor's own limits hold.
        if (*plan).procs >= 0 {
            libc::write((*plan).procs, c"0".as_ptr().cast(), 1);
        }
        // A terminal's interrupt is for the daemon, which then ends its instances in order.
        libc::setsid();
        for index in 0..(*plan).move_count {
            let (source, number) = *(*plan).moves.add(index);
            if libc::dup2(source, number) < 0 {
                return fail(plan);
            }
        }
        if libc::syscall(libc::SYS_close_range, (*plan).close_from, c_int::MAX, 0) < 0 {
            return fail(plan);
        }
        for signal in [
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGHUP,
            libc::SIGPIPE,
            libc::SIGCHLD,
        ] {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::execve((*plan).program, (*plan).argv, (*plan).envp);
        fail(plan)
    }
}

/// # Safety
/// `plan` must be the live plan of this child.
unsafe fn fail(plan: *mut Plan) -> c_int {
    // SAFETY: by the contract; errno is this thread's (the child runs on the spawner's TLS).
    unsafe {
        std::ptr::write_volatile(&raw mut (*plan).error, *libc::__errno_location());
        libc::_exit(127)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;

    fn shell(script: &str, descriptors: Vec<(OwnedFd, RawFd)>) -> Launch {
        let text = |s: &str| CString::new(s).unwrap();
        Launch {
            program: text("/bin/sh"),
            arguments: vec![text("sh"), text("-c"), text(script)],
            environment: vec![text("COLOUR=blue")],
            descriptors,
        }
    }

    #[tokio::test]
    async fn descriptors_arrive_at_their_numbers_and_no_other() {
        let (mut out, write) = std::io::pipe().unwrap();
        let (config, mut feed) = std::io::pipe().unwrap();
        io::Write::write_all(&mut feed, b"hello").unwrap();
        drop(feed);
        let spawner = Spawner::start(None).unwrap();
        let script = "cat <&7; echo \" $COLOUR\"; ls /proc/self/fd | wc -l";
        let launch = shell(script, vec![(write.into(), 1), (config.into(), 7)]);
        let mut child = spawner.spawn(launch).await.unwrap();
        assert_eq!(child.wait().await.code(), Some(0));
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        // ls itself opens the directory: 0?, 1, 2, 7 and that one; standard input is the test's own.
        assert!(text.starts_with("hello blue\n"), "{text}");
        let count: u32 = text.lines().nth(1).unwrap().trim().parse().unwrap();
        assert!(count <= 5, "{text}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_an_error() {
        let spawner = Spawner::start(None).unwrap();
        let mut launch = shell("", vec![]);
        launch.program = CString::new("/nonexistent").unwrap();
        let error = spawner.spawn(launch).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_signal_is_reported_as_such() {
        let spawner = Spawner::start(None).unwrap();
        let mut child = spawner.spawn(shell("kill -SEGV $$", vec![])).await.unwrap();
        assert_eq!(child.wait().await.signal(), Some(libc::SIGSEGV));
    }

    #[tokio::test]
    async fn an_end_is_told_before_and_after_it_is_waited_for() {
        let spawner = Spawner::start(None).unwrap();
        let mut waited = spawner
            .spawn(shell("sleep 0.1; exit 3", vec![]))
            .await
            .unwrap();
        // Given up and taken up again: nothing is lost.
        let early = tokio::time::timeout(Duration::from_millis(10), waited.wait()).await;
        assert!(early.is_err() && !waited.has_ended());
        assert_eq!(waited.wait().await.code(), Some(3));
        assert_eq!(waited.wait().await.code(), Some(3));
        let mut over = spawner.spawn(shell("exit 4", vec![])).await.unwrap();
        while !over.is_reaped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(over.has_ended());
        over.kill();
        assert_eq!(over.wait().await.code(), Some(4));
    }

    #[tokio::test]
    async fn many_that_end_at_once_are_all_reaped() {
        let spawner = Spawner::start(None).unwrap();
        let (hold, release) = std::io::pipe().unwrap();
        let mut children = Vec::new();
        for number in 0..100 {
            let end = hold.try_clone().unwrap().into();
            let script = format!("read line <&7; exit {number}");
            children.push(spawner.spawn(shell(&script, vec![(end, 7)])).await.unwrap());
        }
        drop(release);
        let pids: Vec<i32> = children.iter().map(Child::pid).collect();
        for (number, mut child) in (0..).zip(children) {
            assert_eq!(child.wait().await.code(), Some(number));
        }
        for pid in pids {
            assert!(child::ended(libc::P_PID, pid.unsigned_abs(), 0).is_err());
        }
    }

    #[tokio::test]
    async fn what_is_dropped_is_killed_and_reaped() {
        let spawner = Spawner::start(None).unwrap();
        let child = spawner.spawn(shell("exec sleep 60", vec![])).await.unwrap();
        let pid = child.pid().unsigned_abs();
        drop(child);
        let mut looks = 0..1000;
        while child::ended(libc::P_PID, pid, 0).is_ok() {
            looks.next().unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn somebody_elses_zombie_is_left_alone_and_stops_nothing() {
        let spawner = Spawner::start(None).unwrap();
        let mut other = std::process::Command::new("/bin/sh")
            .args(["-c", "exit 5"])
            .spawn()
            .unwrap();
        while child::ended(libc::P_PID, other.id(), 0).unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for code in 0..3 {
            // A thread that spins does not start anything.
            let script = format!("exit {code}");
            let mut child = spawner.spawn(shell(&script, vec![])).await.unwrap();
            assert_eq!(child.wait().await.code(), Some(code));
        }
        assert_eq!(other.wait().unwrap().code(), Some(5));
    }

    #[tokio::test]
    async fn what_it_has_started_ends_with_the_spawner() {
        let spawner = Spawner::start(None).unwrap();
        let mut child = spawner.spawn(shell("exec sleep 60", vec![])).await.unwrap();
        drop(spawner);
        assert_eq!(child.wait().await.signal(), Some(libc::SIGKILL));
    }
}
