//! A guest's threads: one host thread and one pooled vCPU each, and the loop that serves their exits.

use crate::clock::Clock;
use crate::exits::Exits;
use crate::family;
use crate::fault;
use crate::hold::Hold;
use crate::kvm::Error;
use crate::kvm::touch::{self, Touch};
use crate::kvm::vcpu::{Exit, Vcpu};
use crate::kvm::vm::Vm;
use crate::report::{Event, Report};
use kvm_ioctls::Kvm;
use nexus_abi::device::HOLD_LIMIT_MS;
use nexus_personality::errno::Errno;
use nexus_personality::host::KICK_SIGNAL;
use nexus_personality::machine::{
    Cpu, Ended, Exception, Machine, Outcome, Start, ThreadState, Tid, UserRegs,
};
use nexus_personality::memory::Memory;
use nexus_personality::process::{Process, Stop};
use nexus_personality::rest::Undo;
use nexus_personality::thread::Thread;
use nexus_personality::window::Window;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::RawFd;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

const STACK: usize = 256 << 10;
/// What using a port that is closed comes to (Intel SDM 3A, 6.15, vector 13).
const GENERAL_PROTECTION: Exception = Exception {
    vector: 13,
    error_code: 0,
    address: 0,
};
/// A thread that was asked to stop and does not is asked again after this long.
const KICK_AGAIN: Duration = Duration::from_millis(5);

/// For threads to come to a call that waits, before they are stopped wherever they are.
const IN_WAITS: Duration = Duration::from_millis(50);

/// How a guest came to its end.
#[derive(Debug)]
pub enum End {
    /// Wait status.
    Exit(i32),
    /// The VM cannot go on.
    Failed(String),
    /// A thread asked for a snapshot: the one that renews a restored guest, where others are to wait for that.
    Snapshot { renews: Option<Tid> },
}

#[derive(Default)]
struct State {
    end: Option<End>,
    parked: BTreeMap<Tid, ThreadState>,
}

/// One guest.
pub struct Guest {
    vm: Vm,
    /// For the microVMs of its child processes.
    kvm: Arc<Kvm>,
    clock: Option<Clock>,
    window: Window,
    process: OnceLock<Weak<Process>>,
    pool: Mutex<Vec<Vcpu>>,
    /// Host thread of each guest thread.
    hosts: Mutex<BTreeMap<Tid, libc::pid_t>>,
    state: Mutex<State>,
    changed: Condvar,
    doorbell: AtomicI32,
    /// Threads inside the VM, and whether the watch over the guest sleeps until there is one.
    running: AtomicUsize,
    napping: AtomicBool,
    /// How often a thread entered the VM, and how often when the watch last looked.
    entries: AtomicU64,
    seen: AtomicU64,
    hold: Hold,
    /// Its threads are to leave for good.
    discarded: AtomicBool,
    /// Whether slots grow beyond what is asked for: not in a restore, which asks for all at once.
    growing: AtomicBool,
    report: Arc<Report>,
    /// Counts exits, where there is an arena.
    exits: OnceLock<Exits>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cpu for Vcpu {
    fn regs(&self) -> &UserRegs {
        Self::regs(self)
    }

    fn regs_mut(&mut self) -> &mut UserRegs {
        Self::regs_mut(self)
    }

    fn xsave(&mut self) -> io::Result<Vec<u8>> {
        Self::xsave(self)
    }

    fn set_xsave(&mut self, area: &[u8]) -> io::Result<()> {
        Self::set_xsave(self, area)
    }
}

impl Guest {
    #[must_use]
    pub fn new(
        vm: Vm,
        kvm: Arc<Kvm>,
        clock: Option<Clock>,
        window: Window,
        report: Arc<Report>,
    ) -> Arc<Self> {
        Arc::new(Self {
            vm,
            kvm,
            clock,
            window,
            process: OnceLock::new(),
            pool: Mutex::default(),
            hosts: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            doorbell: AtomicI32::new(-1),
            running: AtomicUsize::new(0),
            napping: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            hold: Hold::default(),
            discarded: AtomicBool::new(false),
            growing: AtomicBool::new(true),
            report,
            exits: OnceLock::new(),
        })
    }

    /// Count exits in this arena from now on.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn count_exits(&self, arena: RawFd) -> io::Result<()> {
        let exits = Exits::new(arena)?;
        let _ = self.exits.set(exits);
        Ok(())
    }

    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Make vCPUs ahead of need.
    ///
    /// # Errors
    /// KVM's.
    pub fn prepare_vcpus(&self, count: usize) -> Result<(), Error> {
        for _ in 0..count {
            let vcpu = self.vm.create_vcpu()?;
            lock(&self.pool).push(vcpu);
        }
        Ok(())
    }

    /// Make pages reachable before anything runs; those that can be.
    ///
    /// # Errors
    /// As [`touch::touch`].
    pub fn touch(&self, pages: &[Touch]) -> Result<(), Error> {
        let pooled = lock(&self.pool).pop();
        let mut vcpu = pooled.map_or_else(|| self.vm.create_vcpu(), Ok)?;
        touch::touch(&self.vm, &mut vcpu, pages)?;
        lock(&self.pool).push(vcpu);
        Ok(())
    }

    /// See the field.
    pub fn set_growing(&self, growing: bool) {
        self.growing.store(growing, Ordering::Relaxed);
    }

    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// Tie the process to its machine. Once, before the first thread.
    pub fn attach(&self, process: &Arc<Process>) {
        let _ = self.process.set(Arc::downgrade(process));
    }

    fn process(&self) -> io::Result<Arc<Process>> {
        self.process
            .get()
            .and_then(Weak::upgrade)
            .ok_or_else(|| io::Error::other("the process is gone"))
    }

    /// Start a thread; returns when it is known to the process, before its first instruction.
    ///
    /// # Errors
    /// `WouldBlock` without a vCPU or host thread for it.
    pub fn start(self: &Arc<Self>, state: ThreadState) -> io::Result<()> {
        let process = self.process()?;
        let pooled = lock(&self.pool).pop();
        let mut vcpu = match pooled {
            Some(vcpu) => vcpu,
            None => self.vm.create_vcpu()?,
        };
        *vcpu.regs_mut() = state.regs;
        vcpu.set_xsave(&state.xsave)?;
        let (entered, wait) = sync_channel(1);
        let guest = Arc::clone(self);
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || guest.run(&process, vcpu, &state, &entered))
            .map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        wait.recv().map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    fn run(
        &self,
        process: &Arc<Process>,
        mut vcpu: Vcpu,
        state: &ThreadState,
        entered: &SyncSender<()>,
    ) {
        let mut thread = process.enter(state);
        let immediate_exit = vcpu.immediate_exit();
        thread.adopt(immediate_exit);
        // SAFETY: no preconditions.
        let host = unsafe { libc::gettid() };
        lock(&self.hosts).insert(state.tid, host);
        let _ = entered.send(());
        if !self.hold.pass(state.tid) {
            self.report.send(&Event::NotRenewed);
        }
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| {
            // Signals that were sent before the snapshot.
            let outcome = thread.interrupted(&mut vcpu);
            if self.follow(outcome, &mut thread, &mut vcpu) {
                self.serve(&mut thread, &mut vcpu, immediate_exit);
            }
        }));
        if served.is_err() {
            // A defect of the hypervisor's: this guest ends, rather than wait for a thread that is gone.
            self.end(End::Failed(format!(
                "a defect in serving thread {}",
                state.tid
            )));
        }
        // Before anybody is told that the guest has ended.
        thread.release_robust();
        Thread::leave();
        self.hold.end_of(state.tid);
        lock(&self.hosts).remove(&state.tid);
        // SAFETY: the page belongs to `vcpu`; no handler of this thread writes to it any more.
        unsafe { immediate_exit.write_volatile(0) };
        drop(thread);
        lock(&self.pool).push(vcpu);
    }

    /// Run the guest thread until it ends.
    fn serve(&self, thread: &mut Thread, vcpu: &mut Vcpu, immediate_exit: *mut u8) {
        loop {
            if self.discarded.load(Ordering::SeqCst) {
                return;
            }
            self.enter();
            let exit = vcpu.run(self.vm.system());
            self.running.fetch_sub(1, Ordering::SeqCst);
            if let Some(exits) = self.exits.get() {
                exits.count();
            }
            let outcome = match exit {
                Ok(Exit::Syscall) => thread.syscall(vcpu),
                Ok(Exit::Interrupted) => {
                    // Before the flag is looked at, so that a kick in between is not lost.
                    // SAFETY: the page belongs to `vcpu`, which is alive.
                    unsafe { immediate_exit.write_volatile(0) };
                    thread.interrupted(vcpu)
                }
                Ok(Exit::Exception(exception)) => self.exception(thread, vcpu, exception),
                Ok(Exit::HostFault { page, .. }) => {
                    let exception = self.host_fault(vcpu.regs(), page);
                    self.exception(thread, vcpu, exception)
                }
                Ok(Exit::Port) => {
                    self.tell(&GENERAL_PROTECTION, vcpu.regs().rip, libc::SIGSEGV);
                    thread.killed(vcpu, libc::SIGSEGV)
                }
                Ok(Exit::Doorbell { write }) => {
                    self.ring(write);
                    Outcome::Resume
                }
                Err(error) => {
                    self.end(End::Failed(error.to_string()));
                    return;
                }
            };
            if !self.follow(outcome, thread, vcpu) {
                return;
            }
        }
    }

    /// Do as the personality decided. `false`: the thread has ended.
    fn follow(&self, outcome: Outcome, thread: &mut Thread, vcpu: &mut Vcpu) -> bool {
        match outcome {
            Outcome::Resume => {}
            Outcome::ExitThread => return false,
            Outcome::Exit(status) => {
                self.end(End::Exit(status));
                return false;
            }
            Outcome::Park => self.park(thread, vcpu),
            Outcome::Snapshot { hold } => {
                // Others may still be held from the restore of this guest itself.
                self.hold.end();
                let renews = hold.then(|| thread.tid());
                self.end(End::Snapshot { renews });
                self.park(thread, vcpu);
            }
        }
        true
    }

    fn exception(&self, thread: &mut Thread, vcpu: &mut Vcpu, exception: Exception) -> Outcome {
        let rip = vcpu.regs().rip;
        let outcome = thread.exception(vcpu, exception);
        if let Outcome::Exit(status) = outcome
            && status & 0x7f != 0
        {
            self.tell(&exception, rip, status & 0x7f);
        }
        outcome
    }

    /// Report the exception that a guest ends with.
    fn tell(&self, exception: &Exception, rip: u64, signal: i32) {
        self.report.send(&Event::Fault {
            vector: exception.vector,
            error_code: exception.error_code,
            rip: format!("{rip:#x}"),
            address: format!("{:#x}", exception.address),
            signal,
        });
    }

    fn host_fault(&self, regs: &UserRegs, page: Option<u64>) -> Exception {
        let memory = Memory::new(self.window);
        let process = self.process().ok();
        let allows = |address: u64, write: bool| {
            let prot = if write {
                libc::PROT_WRITE
            } else {
                libc::PROT_READ
            };
            process
                .as_ref()
                .is_some_and(|p| p.mm().allows(address, prot))
        };
        let read = |address: u64, to: &mut [u8]| memory.read_bytes(address, to).is_ok();
        fault::exception(regs, page, read, allows)
    }

    /// A store to the doorbell's page that was not at its first byte.
    fn ring(&self, write: bool) {
        let fd = self.doorbell.load(Ordering::Relaxed);
        let one = 1_u64;
        if write && fd >= 0 {
            // SAFETY: eight live bytes to an eventfd.
            unsafe { libc::write(fd, (&raw const one).cast(), 8) };
        }
    }

    fn end(&self, end: End) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.end = Some(end);
        }
        self.changed.notify_all();
    }

    /// Publish the thread's state and stay here until the process ends (a snapshot ends it).
    fn park(&self, thread: &mut Thread, vcpu: &mut Vcpu) {
        let state = match thread.state(vcpu) {
            Ok(state) => state,
            Err(error) => return self.end(End::Failed(format!("thread state: {error}"))),
        };
        let mut shared = lock(&self.state);
        shared.parked.insert(state.tid, state);
        self.changed.notify_all();
        while shared.parked.contains_key(&thread.tid()) && !self.discarded.load(Ordering::SeqCst) {
            shared = self
                .changed
                .wait(shared)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread is about to run: the watch wakes.
    fn enter(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.entries.fetch_add(1, Ordering::SeqCst);
        if self.napping.load(Ordering::SeqCst) {
            // The lock makes it certain that the watch waits already, or looks again.
            let _state = lock(&self.state);
            self.changed.notify_all();
        }
    }

    /// Wait for the guest's end, or until `timeout`. With `nap` the time begins when a thread runs, or has run since the last call: a
    /// guest of which every thread waits for the host changes nothing, and thousands of such guests must cost nothing.
    #[must_use]
    pub fn wait(&self, timeout: Duration, nap: bool) -> Option<End> {
        let mut state = lock(&self.state);
        if nap {
            self.napping.store(true, Ordering::SeqCst);
            let seen = self.seen.load(Ordering::Relaxed);
            // A thread may have left again before this one was woken.
            while state.end.is_none()
                && self.running.load(Ordering::SeqCst) == 0
                && self.entries.load(Ordering::SeqCst) == seen
            {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            self.napping.store(false, Ordering::SeqCst);
        }
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, timeout, |s| s.end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.load(Ordering::SeqCst);
        self.seen.store(entries, Ordering::Relaxed);
        state.end.take()
    }

    /// Wait until no thread has run for `quiet`. `false`: one runs, or the guest has ended.
    #[must_use]
    pub fn nap(&self, quiet: Duration) -> bool {
        let state = lock(&self.state);
        self.napping.store(true, Ordering::SeqCst);
        let still = |s: &mut State| s.end.is_none() && self.running.load(Ordering::SeqCst) == 0;
        let (_state, timeout) = self
            .changed
            .wait_timeout_while(state, quiet, still)
            .unwrap_or_else(PoisonError::into_inner);
        self.napping.store(false, Ordering::SeqCst);
        timeout.timed_out()
    }

    /// Make every thread leave for good. The guest has ended.
    pub fn discard(&self) {
        self.discarded.store(true, Ordering::SeqCst);
        loop {
            let tids: Vec<Tid> = lock(&self.hosts).keys().copied().collect();
            if tids.is_empty() {
                return;
            }
            for tid in tids {
                self.kick(tid);
            }
            let state = lock(&self.state);
            self.changed.notify_all();
            drop(self.changed.wait_timeout(state, KICK_AGAIN));
            self.hold.end();
        }
    }

    /// Let go of what KVM keeps for the memory of a guest at rest, for as long as no thread of it goes on: what undoes it.
    pub fn hide(self: &Arc<Self>) -> Undo {
        // What fails stays shown, and in use.
        let _ = self.vm.hide();
        let guest = Arc::clone(self);
        Box::new(move || {
            if guest.vm.show().is_err() {
                // A guest without its memory must not go on.
                std::process::abort();
            }
        })
    }

    /// The parts that another microVM of this process is made of.
    #[must_use]
    pub fn parts(&self) -> (Arc<Kvm>, Option<Clock>, Arc<Report>) {
        let report = Arc::clone(&self.report);
        (Arc::clone(&self.kvm), self.clock, report)
    }

    /// Have the threads of a restored guest wait for this one, once they are started.
    pub fn hold_for(&self, renews: Tid) {
        self.hold
            .begin(renews, Duration::from_millis(HOLD_LIMIT_MS));
    }

    /// Stop every thread at a canonical state, within `timeout`: in a call that waits, if it comes to one soon.
    ///
    /// # Errors
    /// Which threads did not stop.
    pub fn stop_all(
        &self,
        process: &Process,
        timeout: Duration,
    ) -> Result<Vec<ThreadState>, String> {
        let began = Instant::now();
        let deadline = began + timeout;
        process.set_stopping(Stop::InWaits);
        loop {
            if began.elapsed() > IN_WAITS {
                process.set_stopping(Stop::Anywhere);
            }
            let tids = process.tids();
            let state = lock(&self.state);
            let running: Vec<Tid> = tids
                .into_iter()
                .filter(|t| !state.parked.contains_key(t))
                .collect();
            if running.is_empty() {
                return Ok(state.parked.values().cloned().collect());
            }
            if Instant::now() > deadline {
                return Err(format!("threads {running:?} did not stop"));
            }
            drop(state);
            for tid in running {
                self.kick(tid);
            }
            let state = lock(&self.state);
            drop(self.changed.wait_timeout(state, KICK_AGAIN));
        }
    }
}

/// The handle that the personality holds. A restore makes the process and the machine side by side, so the machine
/// comes later; until then every call is refused.
#[derive(Default)]
pub struct Handle(OnceLock<Arc<Guest>>);

impl Handle {
    /// Once.
    pub fn set(&self, guest: &Arc<Guest>) {
        let _ = self.0.set(Arc::clone(guest));
    }

    fn guest(&self) -> io::Result<&Arc<Guest>> {
        self.0
            .get()
            .ok_or_else(|| io::Error::other("the machine is not there yet"))
    }
}

impl Machine for Handle {
    fn back(&self, start: u64, end: u64) -> io::Result<()> {
        let guest = self.guest()?;
        let grow = guest.growing.load(Ordering::Relaxed);
        guest.vm.back(start, end, grow)
    }

    fn set_executable(&self, start: u64, end: u64, executable: bool) -> io::Result<()> {
        self.guest()?.vm.set_executable(start, end, executable)
    }

    fn map_doorbell(&self, event: RawFd) -> io::Result<()> {
        let guest = self.guest()?;
        guest.vm.map_doorbell(event)?;
        guest.doorbell.store(event, Ordering::Relaxed);
        Ok(())
    }

    fn spawn(&self, thread: ThreadState) -> io::Result<()> {
        self.guest()?.start(thread)
    }

    fn launch(&self, start: Start, ended: Ended) -> Result<(), Errno> {
        family::launch(self.guest()?, start, ended)
    }

    fn kick(&self, tid: Tid) {
        if let Ok(guest) = self.guest() {
            guest.kick(tid);
        }
    }

    fn renewed(&self) {
        if let Ok(guest) = self.guest() {
            guest.hold.end();
        }
    }
}

impl Guest {
    fn kick(&self, tid: Tid) {
        let hosts = lock(&self.hosts);
        if let Some(host) = hosts.get(&tid) {
            // SAFETY: a thread of this process that removes itself from the table, under the lock, before it ends.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), *host, KICK_SIGNAL) };
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::kvm::cpuid::Template;
    use crate::kvm::flavour::Flavour;
    use crate::kvm::probe;
    use std::sync::mpsc::channel;

    #[test]
    fn the_watch_notices_a_thread_that_has_left_again() {
        let Ok(kvm) = probe::open() else { return };
        let template = Template::supported(&kvm).unwrap();
        let window = Window::reserve().unwrap();
        let vm = Vm::new(&kvm, template, Flavour::Pvm, window.base()).unwrap();
        let report = Arc::new(Report::new(None));
        let guest = Guest::new(vm, Arc::new(kvm), None, window, report);
        let (returned, ends) = channel();
        let wait = || {
            let (guest, returned) = (Arc::clone(&guest), returned.clone());
            std::thread::spawn(move || {
                let ended = guest.wait(Duration::from_millis(1), true).is_some();
                returned.send(ended).unwrap();
            });
            ends.recv_timeout(Duration::from_millis(500))
        };
        guest.enter();
        guest.running.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(wait(), Ok(false), "one ran since the last look");
        assert!(wait().is_err(), "none has run since");
        guest.end(End::Exit(0));
        assert_eq!(ends.recv(), Ok(true));
    }
}
