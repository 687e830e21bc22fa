//! Open file descriptions: what `open`, `pipe` and the like make, and duplicates share.

use super::HostFile;
use super::fifo::{End, Side as FifoSide};
use super::socket::Socket;
use super::terminal::Side;
use super::tmpfs::Inode;
use crate::errno::{EINVAL, Errno};
use crate::ledger::{Held, Lent};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a description refers to.
#[derive(Debug)]
pub enum Object {
    /// Descriptor 0, 1 or 2 of the hypervisor.
    Standard(RawFd),
    /// A file or directory behind the root table. The host keeps its position.
    Host(Arc<HostFile>),
    /// A file in memory: `/tmp`, `memfd_create`, made-up files. The position is ours.
    Memory(Arc<Inode>),
    /// A directory that only the guest has: `/tmp` and below, `/`, `/dev`, parents of roots.
    Directory(Vec<u8>),
    /// `/dev/null`.
    Null,
    /// `/dev/zero`.
    Zero,
    /// `/dev/full`.
    Full,
    /// `/dev/random`, `/dev/urandom`.
    Random,
    /// `/dev/nexus`.
    Device,
    /// One end of a pipe (true: the writing one).
    Pipe(OwnedFd, bool),
    /// A FIFO.
    Fifo(End),
    /// A socket.
    Socket(Arc<Socket>),
    /// One end of a pseudo-terminal.
    Terminal(Arc<Side>),
    /// eventfd.
    Event(OwnedFd),
    /// timerfd, with how it was last set.
    Timer(OwnedFd, Mutex<TimerSetting>),
    /// epoll instance, with what was registered.
    Poll(OwnedFd, Mutex<Vec<Registered>>),
}

/// What the host does not tell of a timerfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerSetting {
    /// `CLOCK_*`.
    pub clock: i32,
    /// Of timerfd_settime(2).
    pub flags: i32,
    /// Interval and value, as `struct itimerspec`.
    pub value: [i64; 4],
}

/// One registration with an epoll instance, as a snapshot keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registration {
    pub fd: u64,
    pub events: u32,
    pub data: u64,
}

/// A registration, and of what: the descriptor's number may be another's by now, and then it means that no more.
#[derive(Clone, Debug)]
pub struct Registered {
    pub target: Weak<Description>,
    pub registration: Registration,
}

/// A directory's entry: name, `DT_*`, inode number.
pub type Entry = (Vec<u8>, u8, u64);

/// What is kept for an open directory of ours: the hypervisor's memory, which counts as the guest's.
#[derive(Debug, Default)]
pub struct Listing {
    /// Its entries, as read when its position was last 0.
    pub entries: Vec<Entry>,
    /// For the entries, and for the directory's path.
    pub lent: (Option<Lent>, Option<Lent>),
}

/// An open file description.
#[derive(Debug)]
pub struct Description {
    /// Before the object, whose host's file these are too.
    duplicates: Mutex<Vec<Duplicate>>,
    /// What it refers to.
    pub object: Object,
    state: Mutex<State>,
    listing: Mutex<Listing>,
    /// What the host may have to keep for it; of a pipe both ends have it in common.
    held: Option<Arc<Held>>,
}

/// A descriptor of the host's by which an epoll instance has the description a second time: under another of the guest's numbers.
#[derive(Debug)]
pub struct Duplicate {
    pub poller: Weak<Description>,
    /// The guest's number.
    pub fd: u64,
    pub host: OwnedFd,
}

/// What of a description changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// `O_*` flags: access mode and status.
    pub flags: i32,
    /// Position, where the host does not keep it (entries, for directories of ours).
    pub position: u64,
}

impl Description {
    /// A description with these flags.
    #[must_use]
    pub fn new(object: Object, flags: i32) -> Arc<Self> {
        Arc::new(Self {
            duplicates: Mutex::default(),
            object,
            state: Mutex::new(State { flags, position: 0 }),
            listing: Mutex::default(),
            held: None,
        })
    }

    /// A description whose buffers are charged.
    #[must_use]
    pub fn holding(object: Object, flags: i32, held: Arc<Held>) -> Arc<Self> {
        Arc::new(Self {
            duplicates: Mutex::default(),
            object,
            state: Mutex::new(State { flags, position: 0 }),
            listing: Mutex::default(),
            held: Some(held),
        })
    }

    /// What its buffers are charged as.
    #[must_use]
    pub fn held(&self) -> Option<&Arc<Held>> {
        self.held.as_ref()
    }

    /// The changing part.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By what epoll instances have it more than once.
    pub fn duplicates(&self) -> MutexGuard<'_, Vec<Duplicate>> {
        (self.duplicates.lock()).unwrap_or_else(PoisonError::into_inner)
    }

    /// Of a directory of ours.
    pub fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Host descriptor that calls may be passed on to.
    ///
    /// # Errors
    /// EINVAL for what the host does not have.
    pub fn host(&self) -> Result<RawFd, Errno> {
        match &self.object {
            Object::Standard(fd) => Ok(*fd),
            Object::Host(file) => Ok(file.fd.as_raw_fd()),
            Object::Memory(inode) => inode.host().ok_or(EINVAL),
            Object::Socket(socket) => Ok(socket.host()),
            Object::Terminal(side) => Ok(side.host()),
            Object::Fifo(end) => end.host(FifoSide::Reading).ok_or(EINVAL),
            Object::Pipe(fd, _)
            | Object::Event(fd)
            | Object::Timer(fd, _)
            | Object::Poll(fd, _) => Ok(fd.as_raw_fd()),
            Object::Directory(_)
            | Object::Null
            | Object::Zero
            | Object::Full
            | Object::Random
            | Object::Device => Err(EINVAL),
        }
    }

    /// Whether the access mode allows reading.
    #[must_use]
    pub fn readable(&self) -> bool {
        let flags = self.state().flags;
        flags & libc::O_ACCMODE != libc::O_WRONLY && flags & libc::O_PATH == 0
    }

    /// Whether the access mode allows writing.
    #[must_use]
    pub fn writable(&self) -> bool {
        let flags = self.state().flags;
        flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0
    }
}
