//! What a snapshot keeps of a process beside its memory, and making a process of it again.
//!
//! A restored state was written by a tenant's hypervisor: it is parsed as hostile. Every address, descriptor and
//! path is checked as if a guest had asked for it.

use crate::children::{Found, Wanted};
use crate::config::Config;
use crate::errno::{EINVAL, Errno};
use crate::files::description::{Registration, TimerSetting};
use crate::files::lock::{FileId, file_of};
use crate::files::record_lock::{Owner, Record};
use crate::files::socket::Role;
use crate::files::tmpfs::{Content, Inode};
use crate::files::{Description, FileTable, HostFile, Identity, Object};
use crate::itimer::{self, Timers};
use crate::machine::Machine;
use crate::mm::{Backing, Vma};
use crate::pending::Sent;
use crate::process::{DeviceMap, Error, Process};
use crate::signal::Action;
use crate::syscall::polling;
use crate::window::Window;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of files in `/tmp` that a snapshot keeps at most.
const MAX_TMP: u64 = 64 << 20;

/// What a saved mapping shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedBacking {
    Anonymous,
    File {
        path: Vec<u8>,
        identity: Identity,
        offset: u64,
    },
    Arena,
    Doorbell,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMapping {
    pub start: u64,
    pub end: u64,
    pub prot: i32,
    pub backing: SavedBacking,
}

/// What a saved description refers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedObject {
    Standard(i32),
    Host {
        path: Vec<u8>,
        identity: Identity,
    },
    /// Index in the list of inodes.
    Memory(u64),
    Directory(Vec<u8>),
    Null,
    Zero,
    Random,
    Device,
    /// An eventfd with its count.
    Event(u64),
    /// An end of an empty pipe: which pipe, whether it writes.
    Pipe(u64, bool),
    /// An end of an empty pair: which pair, which end.
    Socket(u64, bool),
    Poll(Vec<Registration>),
    Full,
    /// A timerfd: its clock, how it is to be set, and whether it was due and nobody has read that.
    Timer {
        clock: i32,
        flags: i32,
        value: [i64; 4],
        due: bool,
    },
    /// A connection to the outside: it is reset.
    Reset,
    /// The same of IPv6.
    ResetV6,
}

/// One description with the descriptors that refer to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDescription {
    pub object: SavedObject,
    pub flags: i32,
    pub position: u64,
    /// Descriptor and close-on-exec.
    pub descriptors: Vec<(u64, bool)>,
    /// The `flock` that it holds: whether exclusive.
    pub lock: Option<bool>,
    /// Locks of parts of its file, its own and the process's; the process's are with one description of each file.
    pub records: Vec<SavedRecord>,
}

/// A locked range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRecord {
    /// Held by the process, not by the description.
    pub of_process: bool,
    pub exclusive: bool,
    pub start: u64,
    pub end: u64,
}

/// One inode of `/tmp` or a file without a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedInode {
    pub number: u64,
    pub meta: SavedMeta,
    /// Where it is, as names below `/tmp`: as many links does it have. None for one without a name.
    pub names: Vec<Vec<u8>>,
    pub kind: SavedContent,
}

/// Its mode, and its times: seconds, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedMeta {
    pub mode: u32,
    pub accessed: (i64, i64),
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

impl SavedMeta {
    fn of(inode: &Inode) -> Self {
        let meta = inode.meta();
        Self {
            mode: meta.mode,
            accessed: meta.accessed,
            modified: meta.modified,
            changed: meta.changed,
        }
    }

    /// Whether they can be an inode's.
    fn is_possible(&self) -> bool {
        let times = [self.accessed, self.modified, self.changed];
        times.iter().all(|(_, ns)| (0..1_000_000_000).contains(ns))
    }

    /// To be done when nothing touches it any more. The kind stays what it is.
    fn restore(&self, inode: &Inode) {
        let mut meta = inode.meta();
        meta.mode = meta.mode & libc::S_IFMT | self.mode & 0o7777;
        meta.accessed = self.accessed;
        meta.modified = self.modified;
        meta.changed = self.changed;
    }
}

/// Its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedContent {
    File(Vec<u8>),
    Directory,
    Link(Vec<u8>),
    Socket,
    Fifo,
}

/// What is left of each interval timer, and its interval.
pub type SavedTimers = [(std::time::Duration, std::time::Duration); itimer::KINDS];

/// A process, saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    pub mappings: Vec<SavedMapping>,
    pub heap: (u64, u64),
    /// Bottom of the first thread's stack.
    pub stack: u64,
    pub cwd: Vec<u8>,
    pub actions: Vec<Action>,
    /// Signals sent to no thread in particular.
    pub pending: Vec<Sent>,
    pub umask: u32,
    /// Soft and hard limits, by number of resource.
    pub limits: [[u64; 2]; 16],
    /// What is left of each interval timer, and its interval.
    pub timers: SavedTimers,
    pub descriptions: Vec<SavedDescription>,
    pub inodes: Vec<SavedInode>,
    /// Of `/tmp` and `/dev/shm` themselves.
    pub trees: [SavedMeta; 2],
    /// Highest inode number that was given.
    pub last_inode: u64,
    pub device: DeviceMap,
    pub generation: u64,
    /// What hides the host's inode numbers, which programs may have kept.
    pub number_key: u64,
    /// Highest thread number in use.
    pub last_tid: i32,
}

fn refused(text: impl Into<String>) -> Error {
    Error::Refused(text.into())
}

/// Collects inodes by identity while descriptions and `/tmp` are walked.
#[derive(Default)]
struct Inodes {
    index: BTreeMap<u64, u64>,
    list: Vec<SavedInode>,
    bytes: u64,
}

impl Inodes {
    fn add(&mut self, inode: &Inode, name: Option<&[u8]>) -> Result<u64, Error> {
        if let Some(at) = self.index.get(&inode.number) {
            if let (Some(name), Some(saved)) = (name, self.list.get_mut(*at as usize)) {
                saved.names.push(name.to_vec());
            }
            return Ok(*at);
        }
        let kind = match &inode.content {
            Content::Directory(_) => SavedContent::Directory,
            Content::Link(target) => SavedContent::Link(target.clone()),
            Content::Socket => SavedContent::Socket,
            Content::Fifo(_) => SavedContent::Fifo,
            Content::File(fd) => {
                self.bytes += inode.size();
                if self.bytes > MAX_TMP {
                    return Err(refused(format!(
                        "files in /tmp exceed the {} MiB that a snapshot keeps",
                        MAX_TMP >> 20
                    )));
                }
                SavedContent::File(read_all(fd.as_raw_fd(), inode.size())?)
            }
        };
        let at = self.list.len() as u64;
        self.index.insert(inode.number, at);
        let names = name.map(<[u8]>::to_vec).into_iter().collect();
        self.list.push(SavedInode {
            number: inode.number,
            meta: SavedMeta::of(inode),
            names,
            kind,
        });
        Ok(at)
    }

    fn walk(&mut self, directory: &Inode, path: &[u8]) -> Result<(), Error> {
        let entries: Vec<(Vec<u8>, Arc<Inode>)> = match directory.entries() {
            Ok(entries) => entries
                .iter()
                .map(|(n, named)| (n.clone(), Arc::clone(&named.inode)))
                .collect(),
            Err(_) => return Ok(()),
        };
        for (name, inode) in entries {
            let mut full = path.to_vec();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(&name);
            self.add(&inode, Some(&full))?;
            self.walk(&inode, &full)?;
        }
        Ok(())
    }
}

fn read_all(fd: RawFd, size: u64) -> Result<Vec<u8>, Error> {
    let mut content =
        vec![0u8; usize::try_from(size).map_err(|_| refused("a file in /tmp is too large"))?];
    // SAFETY: a live buffer of the length given.
    let got = unsafe { libc::pread(fd, content.as_mut_ptr().cast(), content.len(), 0) };
    if got < 0 {
        return Err(Error::Host {
            doing: "reading a file of /tmp",
            source: io::Error::last_os_error(),
        });
    }
    content.truncate(got as usize);
    Ok(content)
}

/// Bytes waiting in a pipe or socket.
fn waiting(fd: RawFd) -> i32 {
    let mut count: i32 = 0;
    // SAFETY: `count` is live; FIONREAD stores an int.
    unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    count
}

fn is_readable(fd: RawFd) -> bool {
    let mut polled = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry is live.
    unsafe { libc::poll(&raw mut polled, 1, 0) > 0 }
}

/// A timerfd goes on with what was left of it, since its clones would otherwise all find it long overdue. One set to a
/// time of day keeps that.
fn save_timer(fd: &OwnedFd, setting: TimerSetting) -> Result<SavedObject, Error> {
    let failed = |errno: Errno| Error::Guest {
        doing: "looking at a timer",
        errno,
    };
    let left = polling::timer_left(fd).map_err(failed)?;
    let absolute = setting.flags & libc::TFD_TIMER_ABSTIME != 0;
    let pending = left[2..] != [0, 0];
    let at_a_time_of_day =
        absolute && pending && setting.clock == libc::CLOCK_REALTIME && left[..2] == [0, 0];
    let (flags, value) = if at_a_time_of_day {
        (setting.flags, setting.value)
    } else {
        (0, left)
    };
    Ok(SavedObject::Timer {
        clock: setting.clock,
        flags,
        value,
        due: is_readable(fd.as_raw_fd()),
    })
}

fn restore_timer(object: &SavedObject, status: i32) -> Result<Object, Errno> {
    let SavedObject::Timer {
        clock,
        flags,
        value,
        due,
    } = object
    else {
        return Err(EINVAL);
    };
    let timer = polling::new_timer(*clock, status & libc::O_NONBLOCK)?;
    let [interval_s, interval_ns, ..] = *value;
    if *due {
        // At once; then in its intervals.
        polling::set_timer(&timer, 0, [interval_s, interval_ns, 0, 1])?;
    } else {
        polling::set_timer(&timer, *flags, *value)?;
    }
    let setting = TimerSetting {
        clock: *clock,
        flags: *flags,
        value: *value,
    };
    Ok(Object::Timer(timer, Mutex::new(setting)))
}

/// Which pipe or pair an end belongs to: both ends of a pipe have one inode; a pair's are told apart by cookie.
fn save_object(
    d: &Description,
    files: &FileTable,
    inodes: &mut Inodes,
    sockets: &mut Vec<RawFd>,
) -> Result<SavedObject, Error> {
    Ok(match &d.object {
        Object::Standard(fd) => SavedObject::Standard(*fd),
        Object::Host(file) => SavedObject::Host {
            path: file.path.clone(),
            identity: file.identity,
        },
        Object::Memory(inode) => SavedObject::Memory(inodes.add(inode, None)?),
        Object::Directory(path) => SavedObject::Directory(path.clone()),
        Object::Null => SavedObject::Null,
        Object::Zero => SavedObject::Zero,
        Object::Full => SavedObject::Full,
        Object::Random => SavedObject::Random,
        Object::Device => SavedObject::Device,
        Object::Pipe(fd, writes) => {
            if waiting(fd.as_raw_fd()) != 0 {
                return Err(refused("a pipe holds bytes that nobody has read"));
            }
            let stat = crate::files::resolve::host_stat(fd.as_raw_fd());
            let stat = stat.map_err(|errno| Error::Guest {
                doing: "looking at a pipe",
                errno,
            })?;
            SavedObject::Pipe(stat.st_ino, *writes)
        }
        Object::Fifo(_) => return Err(refused("a FIFO is open")),
        Object::Event(fd) => {
            let mut count = 0u64;
            if is_readable(fd.as_raw_fd()) {
                // SAFETY: eight bytes are live, and the read cannot block.
                unsafe { libc::read(fd.as_raw_fd(), (&raw mut count).cast(), 8) };
            }
            SavedObject::Event(count)
        }
        Object::Socket(socket) if matches!(socket.state().role, Role::Outside) => {
            match socket.family {
                libc::AF_INET6 => SavedObject::ResetV6,
                _ => SavedObject::Reset,
            }
        }
        Object::Socket(socket) if !socket.is_plain_pair() => {
            return Err(refused(
                "a socket is open; make connections in the handler, not at import",
            ));
        }
        Object::Socket(socket) => {
            if waiting(socket.host()) != 0 {
                return Err(refused("a socket pair holds bytes that nobody has read"));
            }
            sockets.push(socket.host());
            // Ends are made in pairs, so they follow each other in the order of host descriptors.
            SavedObject::Socket(0, false)
        }
        Object::Poll(_, list) => {
            let list = list.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // Of what is closed, or has another number by now, nothing is kept.
            let known = list.iter().filter(|r| {
                files.iter().any(|(fd, entry)| {
                    fd == r.registration.fd && Arc::as_ptr(&entry.description) == r.target.as_ptr()
                })
            });
            SavedObject::Poll(known.map(|r| r.registration).collect())
        }
        Object::Terminal(_) => {
            return Err(refused(
                "a terminal is open; open it in the handler, not at import",
            ));
        }
        Object::Timer(fd, setting) => {
            let setting = *setting.lock().unwrap_or_else(PoisonError::into_inner);
            save_timer(fd, setting)?
        }
    })
}

impl Process {
    /// Save everything but memory and threads. All threads must be parked.
    ///
    /// # Errors
    /// A sentence that names what cannot be kept.
    pub fn save(&self) -> Result<ProcessState, Error> {
        let mut inodes = Inodes::default();
        inodes.walk(&self.names.tmp, b"")?;
        let mut sockets = Vec::new();
        let mut locked: BTreeSet<Option<FileId>> = BTreeSet::new();
        let mut seen: Vec<(*const Description, usize)> = Vec::new();
        let mut descriptions: Vec<SavedDescription> = Vec::new();
        let files = self.files();
        for (fd, entry) in files.iter() {
            let pointer = Arc::as_ptr(&entry.description);
            let known = seen.iter().find(|(p, _)| *p == pointer).map(|(_, at)| *at);
            if let Some(saved) = known.and_then(|at| descriptions.get_mut(at)) {
                saved.descriptors.push((fd, entry.close_on_exec));
                continue;
            }
            let object = save_object(&entry.description, &files, &mut inodes, &mut sockets)?;
            let (lock, mut records) = self.save_locks(&entry.description);
            // Closing any descriptor of the file gives the process's up, so a description that has them is there.
            if !locked.insert(file_of(&entry.description)) {
                records.retain(|record| !record.of_process);
            }
            let state = *entry.description.state();
            let position = match &entry.description.object {
                Object::Host(file) => host_position(file.fd.as_raw_fd()),
                _ => state.position,
            };
            seen.push((pointer, descriptions.len()));
            let descriptors = vec![(fd, entry.close_on_exec)];
            descriptions.push(SavedDescription {
                object,
                flags: state.flags,
                position,
                descriptors,
                lock,
                records,
            });
        }
        drop(files);
        pair_sockets(&mut descriptions, &sockets)?;
        if !matches!(
            self.children.find(Wanted::Any, &self.groups, true),
            Found::Nobody
        ) {
            return Err(refused(
                "a process was started and not waited for; start it in the handler, not at import",
            ));
        }
        let mappings = self.save_mappings()?;
        let mm = self.mm();
        Ok(ProcessState {
            mappings,
            heap: mm.heap,
            stack: mm.stack,
            cwd: self.cwd().clone(),
            actions: self.signals().actions().to_vec(),
            pending: self.pending.list(),
            umask: self.umask(),
            limits: *self.limits(),
            timers: std::array::from_fn(|kind| self.timers.get(kind)),
            descriptions,
            inodes: inodes.list,
            trees: self.trees().map(|tree| SavedMeta::of(tree)),
            last_inode: self.names.tmp.usage().last_number(),
            device: *self.device(),
            generation: self.generation() + 1,
            number_key: self.number_key(),
            last_tid: self.tids().into_iter().max().unwrap_or(0),
        })
    }

    /// The locks of a file that are held by a description of it, or by the process.
    fn save_locks(&self, d: &Arc<Description>) -> (Option<bool>, Vec<SavedRecord>) {
        let locks = self.locks();
        let Some(file) = file_of(d) else {
            return (None, Vec::new());
        };
        let own = Owner::Description(Arc::downgrade(d));
        let process = Owner::Process(self.pid());
        let records = locks.records.of(file).iter().filter_map(|record| {
            let of_process = record.owner.is(&process);
            (of_process || record.owner.is(&own)).then_some(SavedRecord {
                of_process,
                exclusive: record.exclusive,
                start: record.start,
                end: record.end,
            })
        });
        (locks.held(d), records.collect())
    }

    /// Lock what was locked, by the process's present number.
    fn restore_locks(&self, saved: &SavedDescription, d: &Arc<Description>) -> Result<(), Error> {
        let impossible = || refused("the saved locks exclude each other");
        let mut locks = self.locks();
        if let Some(exclusive) = saved.lock
            && !locks.take(d, exclusive)
        {
            return Err(impossible());
        }
        if saved.records.is_empty() {
            return Ok(());
        }
        let file = file_of(d).ok_or_else(|| refused("a saved lock is of no file"))?;
        for record in &saved.records {
            let owner = if record.of_process {
                Owner::Process(self.pid())
            } else {
                Owner::Description(Arc::downgrade(d))
            };
            if record.start >= record.end {
                return Err(refused("a saved lock is of nothing"));
            }
            let wanted = Record {
                owner,
                exclusive: record.exclusive,
                start: record.start,
                end: record.end,
            };
            locks.records.take(file, wanted).map_err(|_| impossible())?;
        }
        Ok(())
    }

    fn trees(&self) -> [&Arc<Inode>; 2] {
        [&self.names.tmp, &self.names.shm]
    }

    fn save_mappings(&self) -> Result<Vec<SavedMapping>, Error> {
        let mm = self.mm();
        let mut list = Vec::with_capacity(mm.vmas().len());
        for (start, vma) in mm.vmas() {
            let backing = match &vma.backing {
                Backing::Anonymous => SavedBacking::Anonymous,
                Backing::File(file, offset) => SavedBacking::File {
                    path: file.path.clone(),
                    identity: file.identity,
                    offset: *offset,
                },
                Backing::Arena => SavedBacking::Arena,
                Backing::Doorbell => SavedBacking::Doorbell,
                Backing::Shared(_) | Backing::Memory(..) => {
                    return Err(refused(format!(
                        "shared memory is mapped at {start:#x}; map it in the handler, not at import"
                    )));
                }
            };
            list.push(SavedMapping {
                start: *start,
                end: vma.end,
                prot: vma.prot,
                backing,
            });
        }
        Ok(list)
    }

    /// Make a process of a saved state. The host's mappings are not made: the caller maps contents, each mapping
    /// by its own means or with [`Process::map_contents`], and the device's with [`Process::restore_device`]. No thread is started: timers
    /// go on with [`Process::restore_timers`].
    ///
    /// `other`: a process of which files that are open and the same still are not opened again, where both have the root that
    /// they lie beneath.
    ///
    /// # Errors
    /// A sentence that says what of the state is wrong, or no longer as it was.
    pub fn restore(
        window: Window,
        config: Config,
        machine: Arc<dyn Machine>,
        state: &ProcessState,
        other: Option<&Self>,
    ) -> Result<Arc<Self>, Error> {
        let process = Self::beside(window, config, machine, other)?;
        // Locks are held in the number that the process is going to have.
        process.renew_pid(state.generation.max(1));
        let inodes = process.restore_inodes(state)?;
        process.restore_descriptions(state, &inodes)?;
        process.restore_mappings(state, other)?;
        {
            let mut signals = process.signals();
            for (number, action) in state
                .actions
                .iter()
                .enumerate()
                .take(crate::signal::LAST as usize + 1)
            {
                signals.set_action(number as u64, *action);
            }
        }
        for sent in &state.pending {
            process.pending.restore(*sent);
        }
        process.set_umask(state.umask);
        *process.limits() = state.limits;
        *process.cwd() = state.cwd.clone();
        let (start, end) = state.heap;
        if start > end || end > crate::window::USER_END {
            return Err(refused("the saved heap is impossible"));
        }
        process.mm().heap = state.heap;
        if state.stack > crate::window::USER_END {
            return Err(refused("the saved stack is impossible"));
        }
        process.mm().stack = state.stack;
        process.set_number_key(state.number_key);
        process.reserve_tids(state.last_tid);
        Ok(process)
    }

    /// Have the interval timers go on, which takes a thread: to be called behind the jail, of which every thread must be.
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn restore_timers(self: &Arc<Self>, timers: &SavedTimers) -> Result<(), Error> {
        for (kind, (left, interval)) in timers.iter().enumerate() {
            if !left.is_zero() {
                Timers::set(self, kind, *left, *interval)
                    .ok_or_else(|| refused("its timers cannot be set"))?;
            }
        }
        Ok(())
    }

    fn restore_mappings(&self, state: &ProcessState, other: Option<&Self>) -> Result<(), Error> {
        let known = other.map(Self::mapped_files).unwrap_or_default();
        let known = |path: &[u8], identity: &Identity| {
            let file = known.get(path)?;
            let same = self.names.agrees(&other?.names, path) && file.is(identity);
            same.then(|| Arc::clone(file))
        };
        let mut files: BTreeMap<&[u8], Arc<HostFile>> = BTreeMap::new();
        for mapping in &state.mappings {
            let backing = match &mapping.backing {
                SavedBacking::Anonymous => Backing::Anonymous,
                // Made anew by `restore_device`, in the places that `device` names.
                SavedBacking::Arena | SavedBacking::Doorbell => continue,
                SavedBacking::File {
                    path,
                    identity,
                    offset,
                } => {
                    let file = match files.get(path.as_slice()) {
                        Some(file) => Arc::clone(file),
                        None => {
                            let file = match known(path, identity) {
                                Some(file) => file,
                                None => Arc::new(self.reopen(path, identity)?),
                            };
                            files.insert(path, Arc::clone(&file));
                            file
                        }
                    };
                    Backing::File(file, *offset)
                }
            };
            let vma = Vma {
                end: mapping.end,
                prot: mapping.prot & 7,
                shared: false,
                written: true,
                read_only: false,
                backing,
            };
            let failed = |_| {
                refused(format!(
                    "the saved mapping at {:#x} is impossible",
                    mapping.start
                ))
            };
            self.mm().adopt(mapping.start, vma).map_err(failed)?;
        }
        self.mm().compact();
        Ok(())
    }

    /// The host's files that are mapped, by guest path.
    #[must_use]
    pub fn mapped_files(&self) -> BTreeMap<Vec<u8>, Arc<HostFile>> {
        let files = self.mm();
        let files = files.vmas().values().filter_map(|vma| match &vma.backing {
            Backing::File(file, _) => Some((file.path.clone(), Arc::clone(file))),
            _ => None,
        });
        files.collect()
    }

    fn reopen(&self, path: &[u8], identity: &Identity) -> Result<HostFile, Error> {
        let name = String::from_utf8_lossy(path).into_owned();
        let file = crate::syscall::dirs::reopen(self, path).map_err(|e| {
            refused(format!(
                "{name} can no longer be opened: {}",
                io::Error::from_raw_os_error(e.0)
            ))
        })?;
        if file.identity != *identity {
            return Err(refused(format!(
                "{name} is no longer the file that the snapshot was taken with"
            )));
        }
        Ok(file)
    }

    /// Map what a mapping showed when it was made: file or zeros. The snapshot's own pages come on top.
    ///
    /// # Errors
    /// The host's.
    pub fn map_contents(&self, start: u64) -> Result<(), Error> {
        self.mm().map_contents(start).map_err(|errno| Error::Guest {
            doing: "mapping a file of the snapshot",
            errno,
        })
    }

    /// Map the fresh arena and doorbell where the old ones were.
    ///
    /// # Errors
    /// No device, or the places are taken.
    pub fn restore_device(&self, device: DeviceMap) -> Result<(), Error> {
        let failed = |errno: Errno| Error::Guest {
            doing: "mapping the device",
            errno,
        };
        if device.arena != 0 {
            let size = self.arena_size().map_err(failed)?;
            self.map_arena(device.arena, size).map_err(failed)?;
        }
        if device.doorbell != 0 {
            self.map_doorbell().map_err(failed)?;
        }
        Ok(())
    }

    fn restore_inodes(&self, state: &ProcessState) -> Result<Vec<Arc<Inode>>, Error> {
        let failed = |errno: Errno| Error::Guest {
            doing: "making the files of /tmp",
            errno,
        };
        let saved = &state.inodes;
        let usage = self.names.tmp.usage();
        let mut numbers: BTreeSet<u64> = self.trees().map(|tree| tree.number).into();
        let mut list = Vec::with_capacity(saved.len().min(4096));
        for inode in saved {
            let mode = inode.meta.mode;
            let made = match &inode.kind {
                SavedContent::File(content) => Inode::with_content(usage, mode, content),
                SavedContent::Directory => Inode::directory(usage, mode),
                SavedContent::Link(target) => Inode::link(usage, target.clone()),
                SavedContent::Socket => Inode::socket(usage, mode),
                SavedContent::Fifo => Inode::fifo(usage, mode),
            };
            if !numbers.insert(inode.number)
                || inode.number > state.last_inode
                || !inode.meta.is_possible()
                || inode.names.len() > 1 && matches!(inode.kind, SavedContent::Directory)
            {
                return Err(refused("a saved file of /tmp is impossible"));
            }
            let links = u32::try_from(inode.names.len()).map_err(|_| failed(EINVAL))?;
            list.push(
                made.and_then(|made| made.renumbered(inode.number, links))
                    .map_err(failed)?,
            );
        }
        usage
            .resume_numbers(state.last_inode)
            .map_err(|_| refused("the saved inode numbers are impossible"))?;
        // Parents come before their children, as they were walked.
        for (inode, made) in saved.iter().zip(&list) {
            for name in &inode.names {
                let (parent, last) = match name.iter().rposition(|b| *b == b'/') {
                    Some(at) => (
                        name.get(..at).unwrap_or_default(),
                        name.get(at + 1..).unwrap_or_default(),
                    ),
                    None => (&[][..], name.as_slice()),
                };
                let mut directory = Arc::clone(&self.names.tmp);
                for part in parent.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
                    let entries = directory.entries().map_err(failed)?;
                    let next = entries.get(part).map(|e| Arc::clone(&e.inode));
                    drop(entries);
                    directory =
                        next.ok_or_else(|| refused("a saved file of /tmp has no directory"))?;
                }
                directory.add(last, Arc::clone(made)).map_err(failed)?;
            }
        }
        if !state.trees.iter().all(SavedMeta::is_possible) {
            return Err(refused("the saved times of /tmp are impossible"));
        }
        // At last: each name that was added touched its directory.
        for (tree, meta) in self.trees().into_iter().zip(&state.trees) {
            meta.restore(tree);
        }
        for (inode, made) in saved.iter().zip(&list) {
            inode.meta.restore(made);
        }
        Ok(list)
    }

    fn restore_descriptions(
        &self,
        state: &ProcessState,
        inodes: &[Arc<Inode>],
    ) -> Result<(), Error> {
        let failed = |errno: Errno| Error::Guest {
            doing: "opening what was open",
            errno,
        };
        let mut ends = Ends::default();
        let mut pollers = Vec::new();
        for fd in [0, 1, 2] {
            let _ = self.files().close(fd);
        }
        for saved in &state.descriptions {
            let object = match &saved.object {
                SavedObject::Standard(fd @ 0..=2) => Object::Standard(*fd),
                SavedObject::Standard(_) => return Err(refused("a saved standard stream is none")),
                SavedObject::Host { path, identity } => {
                    let file = self.reopen(path, identity)?;
                    let position = i64::try_from(saved.position).map_err(|_| failed(EINVAL))?;
                    // SAFETY: a plain call on a descriptor of ours.
                    unsafe { libc::lseek(file.fd.as_raw_fd(), position, libc::SEEK_SET) };
                    Object::Host(Arc::new(file))
                }
                SavedObject::Memory(at) => {
                    let inode = usize::try_from(*at).ok().and_then(|at| inodes.get(at));
                    Object::Memory(Arc::clone(
                        inode.ok_or_else(|| refused("a saved file has no content"))?,
                    ))
                }
                SavedObject::Directory(path) => Object::Directory(path.clone()),
                SavedObject::Null => Object::Null,
                SavedObject::Zero => Object::Zero,
                SavedObject::Full => Object::Full,
                timer @ SavedObject::Timer { .. } => {
                    restore_timer(timer, saved.flags).map_err(failed)?
                }
                SavedObject::Random => Object::Random,
                SavedObject::Device => Object::Device,
                SavedObject::Event(count) => Object::Event(
                    crate::syscall::polling::new_event(*count, saved.flags).map_err(failed)?,
                ),
                SavedObject::Pipe(number, writes) => Object::Pipe(
                    ends.pipe(*number, *writes, saved.flags).map_err(failed)?,
                    *writes,
                ),
                SavedObject::Socket(number, second) => {
                    let end = ends.socket(*number, *second, saved.flags).map_err(failed)?;
                    let (family, kind) = (libc::AF_UNIX, libc::SOCK_STREAM);
                    let socket = self.net.socket(end, family, kind, Role::Connected);
                    Object::Socket(socket.map_err(failed)?)
                }
                reset @ (SavedObject::Reset | SavedObject::ResetV6) => {
                    let end = crate::files::outside::reset(saved.flags).map_err(failed)?;
                    let family = match reset {
                        SavedObject::ResetV6 => libc::AF_INET6,
                        _ => libc::AF_INET,
                    };
                    let kind = libc::SOCK_STREAM;
                    let socket = self.net.socket(end, family, kind, Role::Connected);
                    Object::Socket(socket.map_err(failed)?)
                }
                SavedObject::Poll(_) => Object::Poll(
                    crate::syscall::polling::new_poller().map_err(failed)?,
                    Mutex::default(),
                ),
            };
            let description = Description::new(object, saved.flags);
            description.state().position = saved.position;
            self.restore_locks(saved, &description)?;
            if let SavedObject::Poll(list) = &saved.object {
                pollers.push((Arc::clone(&description), list));
            }
            for (fd, close_on_exec) in &saved.descriptors {
                self.files()
                    .insert_at(*fd, Arc::clone(&description), *close_on_exec)
                    .map_err(failed)?;
            }
        }
        for (poller, list) in pollers {
            for registration in list {
                let target = self
                    .files()
                    .entry(registration.fd)
                    .map(|e| Arc::clone(&e.description))
                    .map_err(failed)?;
                crate::syscall::polling::register(&poller, &target, *registration)
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn host_position(fd: RawFd) -> u64 {
    // SAFETY: a plain call on a descriptor of ours.
    unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) }
        .max(0)
        .cast_unsigned()
}

/// Tell a pair's two ends from other pairs: the host made both at once, so their descriptors follow each other.
fn pair_sockets(descriptions: &mut [SavedDescription], sockets: &[RawFd]) -> Result<(), Error> {
    let mut order: Vec<(RawFd, usize)> = sockets
        .iter()
        .copied()
        .enumerate()
        .map(|(n, fd)| (fd, n))
        .collect();
    order.sort_unstable();
    if !order.len().is_multiple_of(2) {
        return Err(refused("one end of a socket pair is closed"));
    }
    let mut place = vec![(0u64, false); sockets.len()];
    for (n, (_, at)) in order.iter().enumerate() {
        if let Some(slot) = place.get_mut(*at) {
            *slot = (n as u64 / 2, n % 2 == 1);
        }
    }
    let mut next = place.into_iter();
    for d in descriptions.iter_mut() {
        if let SavedObject::Socket(number, second) = &mut d.object
            && let Some((n, s)) = next.next()
        {
            (*number, *second) = (n, s);
        }
    }
    Ok(())
}

/// Ends of pipes and pairs that were made for one description and wait for the other.
#[derive(Default)]
struct Ends {
    pipes: BTreeMap<(u64, bool), std::os::fd::OwnedFd>,
    sockets: BTreeMap<(u64, bool), std::os::fd::OwnedFd>,
}

impl Ends {
    fn pipe(
        &mut self,
        number: u64,
        writes: bool,
        flags: i32,
    ) -> Result<std::os::fd::OwnedFd, Errno> {
        if let Some(end) = self.pipes.remove(&(number, writes)) {
            return Ok(end);
        }
        let (read, write) = crate::syscall::polling::new_pipe(flags & libc::O_NONBLOCK)?;
        let (mine, other) = if writes { (write, read) } else { (read, write) };
        self.pipes.insert((number, !writes), other);
        Ok(mine)
    }

    fn socket(
        &mut self,
        number: u64,
        second: bool,
        flags: i32,
    ) -> Result<std::os::fd::OwnedFd, Errno> {
        if let Some(end) = self.sockets.remove(&(number, second)) {
            return Ok(end);
        }
        let (a, b) =
            crate::syscall::polling::new_pair(libc::SOCK_STREAM | flags & libc::SOCK_NONBLOCK)?;
        self.sockets.insert((number, !second), b);
        Ok(a)
    }
}
