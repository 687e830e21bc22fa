//! One guest process: what its threads share.

use crate::children::Children;
use crate::completions::Completions;
use crate::config::Config;
use crate::errno::{EINVAL, ENOENT, ENOTTY, Errno};
use crate::files::lock::Locks;
use crate::files::{Description, FileTable, Object, names::Namespace, socket::Net};
use crate::groups::Groups;
use crate::heritage::{Heritage, IN_CHILD, Lent, in_child};
use crate::host::{self, Kick};
use crate::itimer::Timers;
use crate::ledger::Ledger;
use crate::machine::{Machine, ThreadState, Tid};
use crate::memory::Memory;
use crate::mm::{AddressSpace, Backing, Neighbours, Request};
use crate::pending::{Cause, Pending, Sent};
use crate::rest::{Rest, Undo};
use crate::signal::{self, Signals};
use crate::thread::Thread;
use crate::window::{CHUNK, DOORBELL, PAGE, Window};
use nexus_abi::arena;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Why a guest could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sentence of its own.
    #[error("{0}")]
    Refused(String),
    /// A host call failed.
    #[error("{doing}: {source}")]
    Host {
        doing: &'static str,
        source: io::Error,
    },
    /// A call on the guest's behalf failed.
    #[error("{doing}: error {}", .errno.0)]
    Guest { doing: &'static str, errno: Errno },
}

/// What others may know of a thread.
pub struct ThreadShared {
    /// Its number.
    pub tid: Tid,
    /// Set to make it leave a blocking call.
    pub kick: Kick,
    /// Signals sent to it and not yet taken.
    pub pending: Pending,
    /// Its signal mask, as last set.
    pub mask: AtomicU64,
    /// What it waits for in sigtimedwait(2), blocked or not.
    pub awaited: AtomicU64,
    /// See [`ThreadState`].
    name: Mutex<Vec<u8>>,
}

impl ThreadShared {
    /// Its name; empty where it is the program's.
    pub(crate) fn name(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.name)
    }
}

/// Longest name of a thread, in bytes.
pub(crate) const NAME: usize = 15;

/// Addresses of the device's mappings, 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceMap {
    pub arena: u64,
    pub doorbell: u64,
}

/// Where threads park that are asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    No,
    /// In calls that wait: such a thread holds nothing that others need to get anywhere, as malloc's locks.
    InWaits,
    Anywhere,
}

/// A guest process.
pub struct Process {
    pub(crate) config: Config,
    pub(crate) memory: Memory,
    pub(crate) machine: Arc<dyn Machine>,
    mm: Mutex<AddressSpace>,
    files: Mutex<FileTable>,
    lent: Lent,
    pub(crate) children: Children,
    /// MicroVMs beside the first one, over all generations.
    pub(crate) alive: Arc<AtomicUsize>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) parent: Weak<Self>,
    /// The program that was executed in place of this one, and its wait status.
    successor: Mutex<(Weak<Self>, Option<i32>)>,
    pub(crate) names: Namespace,
    pub(crate) net: Arc<Net>,
    cwd: Mutex<Vec<u8>>,
    umask: AtomicU32,
    nice: AtomicI32,
    limits: Mutex<[[u64; 2]; 16]>,
    number_key: AtomicU64,
    pub(crate) locks: Arc<Mutex<Locks>>,
    signals: Mutex<Signals>,
    /// Signals sent to no thread in particular.
    pub(crate) pending: Pending,
    pub(crate) timers: Timers,
    threads: Mutex<BTreeMap<Tid, Arc<ThreadShared>>>,
    pub(crate) next_tid: Arc<AtomicI32>,
    pid: AtomicI32,
    stopping: AtomicU8,
    abandoned: AtomicBool,
    generation: AtomicU64,
    completions: OnceLock<Completions>,
    device: Mutex<DeviceMap>,
    unknown: Mutex<BTreeMap<u64, u64>>,
    pub(crate) ledger: Arc<Ledger>,
    /// Which pages are its own; absent where the host does not tell.
    pub(crate) pagemap: Option<Arc<OwnedFd>>,
    pub(crate) rest: Rest,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process id for a new instance: small, and different in each (OpenSSL notices a fork by it).
fn fresh_pid() -> i32 {
    let mut bytes = [0u8; 4];
    // SAFETY: a live buffer of the length given; short reads do not happen for 4 bytes.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    i32::from_le_bytes(bytes).rem_euclid(30_000) + 2
}

/// What the host tells of the hypervisor's own memory, opened before the jail.
fn open_own(name: &CStr) -> Result<OwnedFd, Error> {
    // SAFETY: a static name; the result is checked.
    let fd = unsafe { libc::open(name.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        let source = io::Error::last_os_error();
        return Err(Error::Host {
            doing: "opening what /proc/self tells of memory",
            source,
        });
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fresh_key() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: a live buffer of the length given; short reads do not happen for 8 bytes.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_le_bytes(bytes)
}

/// What a guest is told of its limits before it changes them.
fn first_limits(config: &Config) -> [[u64; 2]; 16] {
    let mut limits = [[u64::MAX; 2]; 16];
    for (resource, value) in [
        (libc::RLIMIT_STACK, [8 << 20, u64::MAX]),
        (libc::RLIMIT_CORE, [0, 0]),
        (libc::RLIMIT_NPROC, [config.max_threads as u64; 2]),
        (
            libc::RLIMIT_NOFILE,
            [crate::files::table::MAX_DESCRIPTORS as u64; 2],
        ),
    ] {
        if let Some(limit) = limits.get_mut(resource as usize) {
            *limit = value;
        }
    }
    limits
}

impl Process {
    /// A process with an empty address space. Installs the process-wide signal handlers.
    ///
    /// # Errors
    /// What is wrong with the configuration, or what the host refused.
    pub fn new(
        window: Window,
        config: Config,
        machine: Arc<dyn Machine>,
    ) -> Result<Arc<Self>, Error> {
        Self::beside(window, config, machine, None)
    }

    /// As [`Process::new`], with what `other` has open of the same roots.
    pub(crate) fn beside(
        window: Window,
        config: Config,
        machine: Arc<dyn Machine>,
        other: Option<&Self>,
    ) -> Result<Arc<Self>, Error> {
        host::install_handlers().map_err(|source| Error::Host {
            doing: "installing signal handlers",
            source,
        })?;
        let ledger = Ledger::new(config.memory_mib << 20).map_err(|source| Error::Host {
            doing: "opening /proc/self/statm",
            source,
        })?;
        let names = Namespace::new(
            &config,
            Arc::clone(&ledger),
            other.map(|other| &other.names),
        )
        .map_err(Error::Refused)?;
        let mut files = FileTable::default();
        for (fd, flags) in [
            (0, libc::O_RDONLY),
            (1, libc::O_WRONLY),
            (2, libc::O_WRONLY),
        ] {
            let description = Description::new(Object::Standard(fd), flags);
            files
                .insert(description, false, 0)
                .map_err(|errno| Error::Guest {
                    doing: "standard streams",
                    errno,
                })?;
        }
        let pid = fresh_pid();
        let heritage = Heritage {
            names,
            net: Arc::new(Net::new(config.device.and_then(|d| d.network))),
            files,
            cwd: config.program.cwd.trim_end_matches('/').as_bytes().to_vec(),
            umask: 0o022,
            nice: 0,
            limits: first_limits(&config),
            number_key: fresh_key(),
            locks: Arc::default(),
            signals: Signals::default(),
            pid,
            next_tid: Arc::new(AtomicI32::new(pid)),
            alive: Arc::default(),
            groups: Arc::default(),
            parent: Weak::new(),
            ledger,
            pagemap: open_own(c"/proc/self/pagemap").ok().map(Arc::new),
            config,
        };
        Self::inherit(window, machine, heritage)
    }

    /// A process with an empty address space and what another one leaves it.
    ///
    /// # Errors
    /// As [`Process::new`].
    pub fn inherit(
        window: Window,
        machine: Arc<dyn Machine>,
        heritage: Heritage,
    ) -> Result<Arc<Self>, Error> {
        let process = Arc::new(Self {
            memory: Memory::new(window),
            mm: Mutex::new(AddressSpace::new(
                window,
                Arc::clone(&machine),
                Arc::clone(&heritage.ledger),
            )),
            machine,
            files: Mutex::new(heritage.files),
            lent: Lent::default(),
            children: Children::default(),
            alive: heritage.alive,
            groups: heritage.groups,
            parent: heritage.parent,
            successor: Mutex::default(),
            names: heritage.names,
            net: heritage.net,
            completions: OnceLock::new(),
            umask: AtomicU32::new(heritage.umask),
            nice: AtomicI32::new(heritage.nice),
            limits: Mutex::new(heritage.limits),
            number_key: AtomicU64::new(heritage.number_key),
            locks: heritage.locks,
            cwd: Mutex::new(heritage.cwd),
            signals: Mutex::new(heritage.signals),
            pending: Pending::default(),
            timers: Timers::default(),
            threads: Mutex::default(),
            next_tid: heritage.next_tid,
            pid: AtomicI32::new(heritage.pid),
            stopping: AtomicU8::new(Stop::No as u8),
            abandoned: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            device: Mutex::default(),
            unknown: Mutex::default(),
            ledger: heritage.ledger,
            pagemap: heritage.pagemap,
            rest: Rest::default(),
            config: heritage.config,
        });
        process.groups.attach(process.pid(), &process);
        Ok(process)
    }

    /// [`Process::load`] for a program whose first thread blocks these signals.
    ///
    /// # Errors
    /// As there.
    pub fn load_with_mask(self: &Arc<Self>, mask: u64) -> Result<ThreadState, Error> {
        let mut state = self.load()?;
        state.signal_mask = mask;
        Ok(state)
    }

    /// Load the program; the first thread's state.
    ///
    /// # Errors
    /// The program or its interpreter is missing or no ELF executable for x86-64.
    pub fn load(self: &Arc<Self>) -> Result<ThreadState, Error> {
        crate::loader::load(self)
    }

    /// Take up a thread; call it on the host thread that will run it.
    #[must_use]
    pub fn enter(self: &Arc<Self>, state: &ThreadState) -> Thread {
        let shared = Arc::new(ThreadShared {
            tid: state.tid,
            kick: Kick::default(),
            pending: Pending::of(&state.pending),
            mask: AtomicU64::new(state.signal_mask),
            awaited: AtomicU64::new(0),
            name: Mutex::new(state.name.iter().copied().take(NAME).collect()),
        });
        lock(&self.threads).insert(state.tid, Arc::clone(&shared));
        Thread::new(Arc::clone(self), shared, state)
    }

    /// The address space.
    pub fn mm(&self) -> MutexGuard<'_, AddressSpace> {
        lock(&self.mm)
    }

    /// The descriptor table.
    pub fn files(&self) -> MutexGuard<'_, FileTable> {
        lock(if in_child() {
            &self.lent.files
        } else {
            &self.files
        })
    }

    pub(crate) fn cwd(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(if in_child() {
            &self.lent.cwd
        } else {
            &self.cwd
        })
    }

    fn umask_cell(&self) -> &AtomicU32 {
        if in_child() {
            &self.lent.umask
        } else {
            &self.umask
        }
    }

    /// Mode bits that new files do not get.
    pub(crate) fn umask(&self) -> u32 {
        self.umask_cell().load(Ordering::Relaxed)
    }

    /// `getpriority`'s value: kept and shown, no more.
    pub(crate) fn nice(&self) -> &AtomicI32 {
        if in_child() {
            &self.lent.nice
        } else {
            &self.nice
        }
    }

    /// Soft and hard limits, by number of resource.
    pub(crate) fn limits(&self) -> MutexGuard<'_, [[u64; 2]; 16]> {
        lock(if in_child() {
            &self.lent.limits
        } else {
            &self.limits
        })
    }

    /// What hides the host's inode numbers.
    pub(crate) fn number_key(&self) -> u64 {
        self.number_key.load(Ordering::Relaxed)
    }

    pub(crate) fn set_number_key(&self, key: u64) {
        self.number_key.store(key, Ordering::Relaxed);
    }

    /// Locks of whole files.
    pub(crate) fn locks(&self) -> MutexGuard<'_, Locks> {
        lock(&self.locks)
    }

    pub(crate) fn set_umask(&self, mask: u32) -> u32 {
        self.umask_cell().swap(mask & 0o777, Ordering::Relaxed)
    }

    pub(crate) fn signals(&self) -> MutexGuard<'_, Signals> {
        lock(if in_child() {
            &self.lent.signals
        } else {
            &self.signals
        })
    }

    /// Have the calling thread go on as a child in the making, with a copy of what the parent has. `false`: another
    /// thread's child is.
    pub(crate) fn lend(&self) -> bool {
        if self.lent.taken.swap(true, Ordering::AcqRel) {
            return false;
        }
        let lent = &self.lent;
        *lock(&lent.files) = self.files().clone();
        *lock(&lent.cwd) = self.cwd().clone();
        *lock(&lent.signals) = self.signals().clone();
        *lock(&lent.limits) = *self.limits();
        lent.umask.store(self.umask(), Ordering::Relaxed);
        lent.nice
            .store(self.nice().load(Ordering::Relaxed), Ordering::Relaxed);
        IN_CHILD.set(true);
        true
    }

    /// The calling thread is the parent's again.
    pub(crate) fn take_back(&self) {
        IN_CHILD.set(false);
        *lock(&self.lent.files) = FileTable::default();
        self.lent.taken.store(false, Ordering::Release);
    }

    /// Close everything and stop the timers: others learn that this process is gone.
    pub fn close_files(&self) {
        self.timers.stop();
        let gone = std::mem::take(&mut *lock(&self.files));
        drop(gone);
    }

    /// The process that started it, while that lives.
    pub(crate) fn parent(&self) -> Option<Arc<Self>> {
        self.parent.upgrade().filter(|parent| !parent.abandoned())
    }

    /// The program that was executed in place of this one.
    pub(crate) fn successor(&self) -> Option<Arc<Self>> {
        lock(&self.successor).0.upgrade()
    }

    pub(crate) fn set_successor(&self, process: &Arc<Self>) {
        lock(&self.successor).0 = Arc::downgrade(process);
    }

    /// Have every thread let go of what it waits for: the machine is about to be taken down. A program that was
    /// executed in place of this one is ended too.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.set_stopping(Stop::Anywhere);
        if let Some(successor) = self.successor() {
            successor.signal(libc::SIGKILL as u64);
        }
    }

    pub(crate) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    pub(crate) fn set_succeeded(&self, status: i32) {
        lock(&self.successor).1 = Some(status);
    }

    pub(crate) fn succeeded(&self) -> Option<i32> {
        lock(&self.successor).1
    }

    pub(crate) fn threads(&self) -> MutexGuard<'_, BTreeMap<Tid, Arc<ThreadShared>>> {
        lock(&self.threads)
    }

    pub(crate) fn device(&self) -> MutexGuard<'_, DeviceMap> {
        lock(&self.device)
    }

    /// The process id that the guest sees.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub(crate) fn renew_pid(&self, generation: u64) {
        let pid = fresh_pid();
        self.groups.rename(self.pid(), pid);
        self.pid.store(pid, Ordering::Relaxed);
        self.next_tid.fetch_max(pid, Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
    }

    pub(crate) fn reserve_tids(&self, highest: Tid) {
        self.next_tid.fetch_max(highest, Ordering::Relaxed);
    }

    /// Restores that lie between this instance and its first initialisation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    pub(crate) fn next_tid(&self) -> Tid {
        self.next_tid.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Ask all threads to park (for a snapshot), or let them go on.
    pub fn set_stopping(&self, stop: Stop) {
        self.stopping.store(stop as u8, Ordering::SeqCst);
    }

    /// Whether a thread is to park that is in a call that waits, or anywhere else.
    pub(crate) fn stops(&self, waiting: bool) -> bool {
        let least = if waiting {
            Stop::InWaits
        } else {
            Stop::Anywhere
        };
        self.stopping.load(Ordering::SeqCst) >= least as u8
    }

    /// Send the process a signal from outside the guest, as a terminal does.
    pub fn signal(&self, signal: u64) {
        let _ = signal::send(self, None, Sent::new(signal, Cause::Kernel, 0, 0));
    }

    /// Numbers of all threads.
    #[must_use]
    pub fn tids(&self) -> Vec<Tid> {
        self.threads().keys().copied().collect()
    }

    /// Do `work` on the guest's memory while every thread waits for the host: what it returns is done before one goes on, in reverse
    /// where several were done.
    /// Whether it was done: a thread may not wait, or wait for something that would write there.
    pub fn at_rest(&self, work: impl FnOnce() -> Option<Undo>) -> bool {
        self.rest.while_all(|| self.threads().len(), work)
    }

    /// System calls that are not served, with how often each was made.
    #[must_use]
    pub fn unknown_calls(&self) -> Vec<(u64, u64)> {
        lock(&self.unknown).iter().map(|(n, c)| (*n, *c)).collect()
    }

    pub(crate) fn count_unknown(&self, number: u64) {
        let mut unknown = lock(&self.unknown);
        // Numbers are the guest's to choose: remember a bounded set of them.
        if unknown.len() < 512 || unknown.contains_key(&number) {
            *unknown.entry(number).or_default() += 1;
        }
    }

    /// Most memory of this process and its children together, in bytes.
    #[must_use]
    pub fn memory_limit(&self) -> u64 {
        self.ledger.limit()
    }

    /// Private memory in use, in bytes: what the host counts as anonymous, the hypervisor's own included.
    ///
    /// # Errors
    /// The host's.
    pub fn private_bytes(&self) -> io::Result<u64> {
        self.ledger.private_bytes()
    }

    /// What this process and its children use together.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Whether the guest was ever refused memory.
    #[must_use]
    pub fn memory_refused(&self) -> bool {
        self.ledger.refused()
    }

    /// Map the arena, at `address` or (0) anywhere.
    pub(crate) fn map_arena(&self, address: u64, length: u64) -> Result<u64, Errno> {
        let device = self.config.device.ok_or(ENOENT)?;
        let size = self.arena_size()?;
        if length != size || self.device().arena != 0 {
            return Err(EINVAL);
        }
        // Who maps it is about to wait; in a restore, before the jail closes.
        self.completions()?;
        let at = self.mm().map(Request {
            address,
            length,
            prot: libc::PROT_READ | libc::PROT_WRITE,
            shared: true,
            fixed: address != 0,
            exclusive: address != 0,
            backing: Backing::Arena,
            source: Some((device.arena, 0)),
            neighbours: Neighbours::None,
            used: 0,
        })?;
        self.device().arena = at;
        Ok(at)
    }

    /// Give the memory of the arena's heap back from where the guest says that it holds nothing. To be called while the guest
    /// rests: it looks, once it goes on, whether this was done.
    pub fn give_back_arena(&self) {
        let (Some(completions), Ok(size)) = (self.completions.get(), self.arena_size()) else {
            return;
        };
        let told = u64::from(completions.take_held_until());
        let start = told.max(arena::HEAP as u64).next_multiple_of(PAGE);
        if told == 0 || start >= size {
            return;
        }
        let at = self.device().arena + start;
        let mm = self.mm();
        // The guest may have something else there by now.
        let ours = (mm.find(at)).is_some_and(|(_, v)| {
            v.end - at >= size - start && matches!(v.backing, Backing::Arena)
        });
        if let (true, Ok(host)) = (ours, self.memory.host(at, size - start)) {
            // SAFETY: the range lies in the window, in the arena's mapping, which is the guest's to write; what fails is
            // memory that stays in use, nothing else.
            unsafe {
                libc::madvise(
                    host as *mut libc::c_void,
                    (size - start) as usize,
                    libc::MADV_REMOVE,
                )
            };
        }
    }

    /// What tells of the backend's completions; mapped when it is first asked for.
    pub(crate) fn completions(&self) -> Result<&Completions, Errno> {
        if self.completions.get().is_none() {
            let device = self.config.device.ok_or(ENOTTY)?;
            // Where another thread was faster, its mapping is the one.
            let _ = self.completions.set(Completions::of(device.arena)?);
        }
        self.completions.get().ok_or(ENOTTY)
    }

    /// Map the doorbell page: present for the guest, without memory behind it.
    pub(crate) fn map_doorbell(&self) -> Result<u64, Errno> {
        let device = self.config.device.ok_or(ENOENT)?;
        if self.device().doorbell != 0 {
            return Err(EINVAL);
        }
        self.machine.map_doorbell(device.doorbell)?;
        let vma = crate::mm::Vma {
            end: DOORBELL + PAGE,
            prot: libc::PROT_READ | libc::PROT_WRITE,
            shared: true,
            written: true,
            read_only: false,
            backing: Backing::Doorbell,
        };
        self.mm().adopt(DOORBELL, vma)?;
        self.device().doorbell = DOORBELL;
        Ok(DOORBELL)
    }

    /// Size of the arena in bytes, which is sealed.
    pub(crate) fn arena_size(&self) -> Result<u64, Errno> {
        let device = self.config.device.ok_or(ENOENT)?;
        let size = crate::files::resolve::host_stat(device.arena)?
            .st_size
            .cast_unsigned();
        if size == 0 || size % CHUNK != 0 || size > nexus_abi::arena::MAX_SIZE as u64 {
            return Err(EINVAL);
        }
        Ok(size)
    }
}
