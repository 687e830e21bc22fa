//! FIFOs: fifo(7) by a pipe of the host, for as long as anybody has the name open.
//!
//! The host makes both ends of a pipe at once and neither again later. So the end that nobody has opened yet waits here.
//! Where one side has been closed while the other stays, the host tells that side so (end of file, EPIPE); who then opens
//! the closed side again brings a new pipe, which takes the old one's place under the same descriptor, with what was
//! left in it, and the old one's registrations with epoll, which the host had for the pipe and not for the descriptor.

use crate::errno::{EINVAL, ENFILE, ENXIO, Errno};
use crate::ledger::{Held, Ledger};
use crate::syscall::polling::{PIPE_BYTES, new_pipe};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::Description;
use super::description::Registration;
use super::tmpfs::{Content, Inode};

/// Which side of a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Reading,
    Writing,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Reading => Self::Writing,
            Self::Writing => Self::Reading,
        }
    }
}

/// What the name of a FIFO stands for.
#[derive(Debug, Default)]
pub struct Fifo {
    state: Mutex<State>,
    /// How often either side was opened; who waits for the other side waits on this word.
    opened: AtomicU32,
}

#[derive(Debug, Default)]
struct State {
    reading: Part,
    writing: Part,
    /// What was in the pipe when the last reader left, for the next one.
    kept: Vec<u8>,
    held: Option<Arc<Held>>,
    watches: Vec<Watch>,
}

/// An epoll instance that a side is registered with.
#[derive(Debug)]
struct Watch {
    poller: Weak<Description>,
    side: Side,
    registration: Registration,
}

/// One side.
#[derive(Debug, Default)]
struct Part {
    /// Descriptions that have it open, or wait in open(2).
    users: usize,
    /// How often it was opened.
    opened: u64,
    /// All its users share one descriptor, which never blocks: whether a call waits is each description's own affair.
    end: Option<OwnedFd>,
}

impl State {
    fn part(&mut self, side: Side) -> &mut Part {
        match side {
            Side::Reading => &mut self.reading,
            Side::Writing => &mut self.writing,
        }
    }

    fn join(&mut self, side: Side) -> Result<(), Errno> {
        if self.part(side).end.is_none() {
            self.renew(side)?;
        }
        let part = self.part(side);
        part.users += 1;
        part.opened += 1;
        Ok(())
    }

    /// A pipe for a FIFO that nobody has open, or whose `side` nobody has.
    fn renew(&mut self, side: Side) -> Result<(), Errno> {
        let (read, write) = new_pipe(libc::O_NONBLOCK)?;
        if let Some(old) = &self.part(side.other()).end {
            let old = old.as_raw_fd();
            // SAFETY: plain calls on descriptors of ours.
            let (capacity, there) = unsafe {
                let capacity = libc::fcntl(old, libc::F_GETPIPE_SZ);
                libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, capacity);
                let there = libc::fcntl(write.as_raw_fd(), libc::F_GETPIPE_SZ);
                (capacity, there)
            };
            // A host that has many pipes makes small ones. Nothing has been taken out yet that might not fit.
            if there < capacity {
                return Err(ENFILE);
            }
            let left = match side {
                Side::Reading => std::mem::take(&mut self.kept),
                Side::Writing => drain(old)?,
            };
            std::fs::File::from(write.try_clone()?).write_all(&left)?;
            let theirs = if side == Side::Reading { &write } else { &read };
            // SAFETY: both are descriptors of ours; `old` is the other side's, whose file is replaced at once.
            if unsafe { libc::dup3(theirs.as_raw_fd(), old, libc::O_CLOEXEC) } < 0 {
                return Err(io::Error::last_os_error().into());
            }
            self.part(side).end = Some(if side == Side::Reading { read } else { write });
            self.watch_again(side.other(), old);
        } else {
            self.reading.end = Some(read);
            self.writing.end = Some(write);
        }
        Ok(())
    }

    /// Register a pipe that took the place of one with whoever watched that.
    fn watch_again(&mut self, side: Side, pipe: RawFd) {
        self.watches.retain(|watch| {
            let Some(poller) = watch
                .poller
                .upgrade()
                .and_then(|p| p.host().ok().map(|fd| (p, fd)))
            else {
                return false;
            };
            let mut event = libc::epoll_event {
                events: watch.registration.events,
                u64: watch.registration.data,
            };
            let (_held, poller) = poller;
            // SAFETY: the event is live; both descriptors are held open. Without room for it nothing more can be done.
            watch.side != side
                || unsafe { libc::epoll_ctl(poller, libc::EPOLL_CTL_ADD, pipe, &raw mut event) }
                    == 0
        });
    }

    fn leave(&mut self, side: Side) {
        let part = self.part(side);
        part.users -= 1;
        if part.users > 0 {
            return;
        }
        // With the last descriptor goes what was registered.
        self.watches.retain(|watch| watch.side != side);
        if self.part(side.other()).users == 0 {
            // With the last that has it open goes what is in it.
            let opened = [self.reading.opened, self.writing.opened];
            *self = Self::default();
            [self.reading.opened, self.writing.opened] = opened;
            return;
        }
        if let Some(end) = self.part(side).end.take()
            && side == Side::Reading
        {
            self.kept = drain(end.as_raw_fd()).unwrap_or_default();
        }
    }
}

/// What is in a pipe that does not block: bounded by what it can hold.
fn drain(pipe: RawFd) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // SAFETY: the descriptor is open: a side's, whose lock the caller holds.
    let pipe = unsafe { std::os::fd::BorrowedFd::borrow_raw(pipe) }.try_clone_to_owned()?;
    match std::fs::File::from(pipe).read_to_end(&mut content) {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(content),
    }
}

/// A FIFO, opened.
#[derive(Debug)]
pub struct End {
    /// Its name's.
    pub inode: Arc<Inode>,
    reads: bool,
    writes: bool,
}

/// What an open has to wait for: that the side is opened once more than it was.
#[derive(Clone, Copy, Debug)]
pub struct Awaited(Side, u64);

/// What became of one try to read or write.
pub enum Tried {
    /// The host's answer.
    Done(u64),
    /// Nothing now: this descriptor tells when.
    Later(RawFd),
}

impl End {
    /// Open the FIFO of `inode` and, where that is not complete before the other side is open, say what it waits for.
    ///
    /// # Errors
    /// ENXIO for writing without a reader, unless it `waits`; ENOMEM, and the host's.
    pub fn open(
        inode: &Arc<Inode>,
        (reads, writes): (bool, bool),
        waits: bool,
        ledger: &Arc<Ledger>,
    ) -> Result<(Self, Arc<Held>, Option<Awaited>), Errno> {
        let fifo = fifo(inode)?;
        let mut state = fifo.state();
        if writes && !reads && !waits && state.reading.users == 0 {
            return Err(ENXIO);
        }
        let held = match &state.held {
            Some(held) => Arc::clone(held),
            None => Arc::new(ledger.hold(PIPE_BYTES)?),
        };
        if reads {
            state.join(Side::Reading)?;
        }
        if writes && let Err(error) = state.join(Side::Writing) {
            if reads {
                state.leave(Side::Reading);
            }
            return Err(error);
        }
        state.held = Some(Arc::clone(&held));
        let other = if writes { Side::Reading } else { Side::Writing };
        let part = state.part(other);
        let awaited =
            (reads != writes && waits && part.users == 0).then_some(Awaited(other, part.opened));
        drop(state);
        fifo.opened.fetch_add(1, Ordering::Release);
        // SAFETY: the word is live; a wake touches nothing else.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                fifo.opened.as_ptr(),
                libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                i32::MAX,
            )
        };
        let end = Self {
            inode: Arc::clone(inode),
            reads,
            writes,
        };
        Ok((end, held, awaited))
    }

    /// Whether the other side has not been opened; then the word to wait on, and the value that it has meanwhile.
    #[must_use]
    pub fn still(&self, Awaited(side, before): Awaited) -> Option<(&AtomicU32, u32)> {
        let fifo = fifo(&self.inode).ok()?;
        let value = fifo.opened.load(Ordering::Acquire);
        let opened = fifo.state().part(side).opened;
        (opened == before).then_some((&fifo.opened, value))
    }

    /// The host's descriptor to poll, of the side that is wanted if both are open. It stays the same while this lives.
    #[must_use]
    pub fn host(&self, side: Side) -> Option<RawFd> {
        let side = match side {
            Side::Reading if !self.reads => Side::Writing,
            Side::Writing if !self.writes => Side::Reading,
            side => side,
        };
        let mut state = fifo(&self.inode).ok()?.state();
        state.part(side).end.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Change what an epoll instance watches of this, by `call`, which is given the host's descriptor of it.
    ///
    /// # Errors
    /// `call`'s.
    pub fn watch(
        &self,
        poller: &Arc<Description>,
        (operation, registration): (i32, Registration),
        call: impl FnOnce(RawFd) -> Result<u64, Errno>,
    ) -> Result<u64, Errno> {
        let side = if self.reads {
            Side::Reading
        } else {
            Side::Writing
        };
        // The lock is held so that no pipe takes another's place between the call and the note of it.
        let mut state = fifo(&self.inode)?.state();
        let end = state.part(side).end.as_ref().map(AsRawFd::as_raw_fd);
        let done = call(end.ok_or(EINVAL)?)?;
        state.watches.retain(|watch| {
            watch.poller.strong_count() > 0
                && (watch.side != side || watch.poller.as_ptr() != Arc::as_ptr(poller))
        });
        if operation != libc::EPOLL_CTL_DEL {
            state.watches.push(Watch {
                poller: Arc::downgrade(poller),
                side,
                registration,
            });
        }
        Ok(done)
    }

    /// Read or write once by `call`, which is given a descriptor that does not block.
    ///
    /// # Errors
    /// `call`'s.
    pub fn attempt(
        &self,
        side: Side,
        call: impl FnOnce(RawFd) -> Result<u64, Errno>,
    ) -> Result<Tried, Errno> {
        // The lock is held so that no pipe takes another's place between the look at it and the look at who is there.
        let mut state = fifo(&self.inode)?.state();
        let end = state.part(side).end.as_ref().map(AsRawFd::as_raw_fd);
        let end = end.ok_or(EINVAL)?;
        match call(end) {
            Err(crate::errno::EAGAIN) => match side {
                Side::Reading if state.writing.users == 0 => Ok(Tried::Done(0)),
                _ => Ok(Tried::Later(end)),
            },
            other => other.map(Tried::Done),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Ok(fifo) = fifo(&self.inode) {
            let mut state = fifo.state();
            for (side, open) in [(Side::Reading, self.reads), (Side::Writing, self.writes)] {
                if open {
                    state.leave(side);
                }
            }
        }
    }
}

impl Fifo {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fifo(inode: &Inode) -> Result<&Fifo, Errno> {
    match &inode.content {
        Content::Fifo(fifo) => Ok(fifo),
        _ => Err(EINVAL),
    }
}
