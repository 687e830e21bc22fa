//! The guest's address space: what is mapped where, kept in step with the host's mappings of the window.

pub mod copy;

use crate::errno::{EACCES, EEXIST, EFAULT, EINVAL, ENOMEM, Errno};
use crate::files::HostFile;
use crate::files::tmpfs::Inode;
use crate::ledger::{Held, Ledger};
use crate::machine::Machine;
use crate::ranges::Ranges;
use crate::window::{
    ANONYMOUS_BOTTOM, ANONYMOUS_TOP, CHUNK, HEAP, LIBRARIES, NEAR, NEAR_MOST, PAGE, RESERVED,
    USER_END, USER_START, Window,
};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Memory that a guest asks for in pieces of at least this many bytes may be of huge pages: one fault then brings 2 MiB, where
/// under shadow paging each page of 4 KiB takes an exit of 4 us. At most a piece's last huge page is there for nothing, unless
/// the guest leaves a large piece mostly untouched; smaller pieces (stacks, heaps of allocators) often are.
pub const HUGE_FROM: u64 = 4 << 20;
/// glibc's allocator maps pieces of at least this many bytes by themselves, one for one allocation.
const POPULATE_FROM: u64 = 128 << 10;
/// Room between two mappings that one memory slot covers along with them: a slot costs 24 KiB, a chunk in it 5.
const BRIDGED: u64 = 4 * CHUNK;
/// Addresses below the first thread's stack where nothing is placed unless it is asked for exactly there, so that a stack that
/// overflows meets a fault and no other memory: as many as Linux keeps free (stack_guard_gap).
const GUARD: u64 = 256 * PAGE;
/// Mappings of one guest at most; each costs the host a VMA or more.
const MAX_MAPPINGS: usize = 16_000;

/// What a mapping shows.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Private zero-filled memory.
    Anonymous,
    /// A file from the root table, at an offset; private unless `Vma::shared`.
    File(Arc<HostFile>, u64),
    /// Shared memory without a file, which the host holds as long as any of it is mapped. Not kept by a snapshot.
    Shared(Arc<Held>),
    /// A file in memory, at an offset. Not kept by a snapshot.
    Memory(Arc<Inode>, u64),
    /// The arena.
    Arena,
    /// The doorbell page: no memory, no slot.
    Doorbell,
}

/// One mapping.
#[derive(Clone, Debug)]
pub struct Vma {
    /// Behind its last byte.
    pub end: u64,
    /// `PROT_*` as the guest asked.
    pub prot: i32,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// It was writable at some time, so that a private one may differ from its file.
    pub written: bool,
    /// Shared, from a descriptor that was open for reading alone: it never becomes writable.
    pub read_only: bool,
    /// What it shows.
    pub backing: Backing,
}

impl Vma {
    fn advanced(&self, by: u64) -> Backing {
        match &self.backing {
            Backing::File(file, offset) => Backing::File(Arc::clone(file), offset + by),
            Backing::Memory(inode, offset) => Backing::Memory(Arc::clone(inode), offset + by),
            other => other.clone(),
        }
    }
}

/// What a mapping without an address of its own shares its chunks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbours {
    /// Files and what is executable, or anonymous memory, as it is one or the other itself.
    Alike,
    /// Files and what is executable.
    Files,
    /// Nothing (the arena).
    None,
}

/// What to map, for [`AddressSpace::map`].
pub struct Request {
    /// Where exactly, or where if possible (0: anywhere).
    pub address: u64,
    pub length: u64,
    pub prot: i32,
    pub shared: bool,
    /// Replace what is there.
    pub fixed: bool,
    /// Fail if something is there.
    pub exclusive: bool,
    pub backing: Backing,
    /// Descriptor and offset for the host's mmap, if not anonymous.
    pub source: Option<(RawFd, u64)>,
    pub neighbours: Neighbours,
    /// Of its bytes, those that the guest asks for to use them; the rest it reserves, or moves there (see [`Ledger`]).
    pub used: u64,
}

/// The address space of one guest.
pub struct AddressSpace {
    window: Window,
    machine: Arc<dyn Machine>,
    vmas: BTreeMap<u64, Vma>,
    ledger: Arc<Ledger>,
    /// Private memory that is or was accessible, and so may be in use.
    charged: Ranges,
    /// Start of the heap, and its present end.
    pub heap: (u64, u64),
    /// Bottom of the first thread's stack, below which room is kept free; 0 where none is.
    pub stack: u64,
}

/// Protection for the host's mapping: the hypervisor never executes guest memory, and a guest that may
/// write or execute may also read (as on x86).
fn host_prot(prot: i32) -> i32 {
    match prot & (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) {
        0 => libc::PROT_NONE,
        p if p & libc::PROT_WRITE != 0 => libc::PROT_READ | libc::PROT_WRITE,
        _ => libc::PROT_READ,
    }
}

/// Whether memory of this kind is the guest's own once it is accessible: anonymous memory in any way (what is read takes page
/// tables), a private copy of a file where it may be written.
fn is_charged(backing: &Backing, shared: bool, prot: i32) -> bool {
    match backing {
        Backing::Anonymous => host_prot(prot) != libc::PROT_NONE,
        Backing::File(..) | Backing::Memory(..) => !shared && prot & libc::PROT_WRITE != 0,
        Backing::Shared(_) | Backing::Arena | Backing::Doorbell => false,
    }
}

/// What is of files, or executable, shares no chunk with anonymous memory.
fn is_file(vma: &Vma) -> bool {
    vma.prot & libc::PROT_EXEC != 0 || matches!(vma.backing, Backing::File(..))
}

/// What a mapping keeps others from: whole chunks, where it is of files.
fn taken(start: u64, vma: &Vma) -> Range<u64> {
    if is_file(vma) {
        start & !(CHUNK - 1)..vma.end.next_multiple_of(CHUNK)
    } else {
        start..vma.end
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.ledger.give_back(self.charged.total());
    }
}

/// Round up to pages.
///
/// # Errors
/// ENOMEM if that overflows, EINVAL for 0.
pub fn pages(length: u64) -> Result<u64, Errno> {
    match length {
        0 => Err(EINVAL),
        l if l > USER_END => Err(ENOMEM),
        l => Ok(l.next_multiple_of(PAGE)),
    }
}

impl AddressSpace {
    /// An empty one.
    #[must_use]
    pub fn new(window: Window, machine: Arc<dyn Machine>, ledger: Arc<Ledger>) -> Self {
        Self {
            window,
            machine,
            vmas: BTreeMap::new(),
            ledger,
            charged: Ranges::default(),
            heap: (0, 0),
            stack: 0,
        }
    }

    /// All mappings in order of their starts.
    #[must_use]
    pub fn vmas(&self) -> &BTreeMap<u64, Vma> {
        &self.vmas
    }

    /// The mapping that contains `address`, with its start.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(u64, &Vma)> {
        self.vmas
            .range(..=address)
            .next_back()
            .filter(|(_, v)| v.end > address)
            .map(|(s, v)| (*s, v))
    }

    /// Whether an access of this kind is allowed at `address`.
    #[must_use]
    pub fn allows(&self, address: u64, prot: i32) -> bool {
        self.find(address)
            .is_some_and(|(_, v)| v.prot & prot == prot)
    }

    /// Whether all of the range is user space and outside of the reserved hole.
    fn usable(start: u64, length: u64) -> bool {
        start.checked_add(length).is_some_and(|end| {
            start >= USER_START
                && end <= USER_END
                && (end <= RESERVED.start || start >= RESERVED.end)
        })
    }

    fn free(&self, start: u64, end: u64) -> bool {
        self.vmas
            .range(..end)
            .next_back()
            .is_none_or(|(_, v)| v.end <= start)
    }

    /// What is kept free below the first thread's stack.
    fn guard(&self) -> Range<u64> {
        self.stack.saturating_sub(GUARD)..self.stack
    }

    /// Whether something may be placed there that was not asked for exactly there.
    fn is_open(&self, start: u64, end: u64) -> bool {
        let guard = self.guard();
        self.free(start, end) && (end <= guard.start || start >= guard.end)
    }

    /// Look for a gap on both sides of the guard, in the order of the addresses or (`down`) against it.
    fn beside_guard(
        &self,
        range: &Range<u64>,
        down: bool,
        find: impl Fn(&Range<u64>) -> Option<u64>,
    ) -> Option<u64> {
        let guard = self.guard();
        if guard.is_empty() || guard.end <= range.start || guard.start >= range.end {
            return find(range);
        }
        let below = range.start..guard.start.max(range.start);
        let above = guard.end.min(range.end)..range.end;
        let (first, second) = if down { (above, below) } else { (below, above) };
        find(&first).or_else(|| find(&second))
    }

    /// Lowest gap of `length` at or above `from`, at a multiple of `align`.
    fn lowest_gap(&self, from: u64, to: u64, length: u64, align: u64) -> Option<u64> {
        let mut at = from.next_multiple_of(align);
        let first = self.find(from).map_or(from, |(start, _)| start);
        for (start, vma) in self.vmas.range(first..to) {
            if *start >= at + length {
                break;
            }
            if vma.end > at {
                at = vma.end.next_multiple_of(align);
            }
        }
        (at + length <= to).then_some(at)
    }

    /// Highest gap of `length` in a range, at a multiple of `align`, a power of two, and out of chunks that files are in.
    fn highest_gap(&self, range: &Range<u64>, length: u64, align: u64) -> Option<u64> {
        let place = |top: u64| top.checked_sub(length).map(|at| at & !(align - 1));
        let bottom = self
            .find(range.start)
            .map_or(range.start, |(start, vma)| taken(start, vma).end);
        let mut at = place(range.end)?;
        for (start, vma) in self.vmas.range(range.clone()).rev() {
            let taken = taken(*start, vma);
            if taken.end > at {
                at = place(taken.start.min(at + length))?;
            } else if taken.end <= at & !(CHUNK - 1) {
                // Below it, nothing reaches up to here.
                break;
            }
        }
        Some(at).filter(|at| *at >= bottom)
    }

    /// Lowest gap of `length` in a chunk that files are in already.
    fn gap_among_files(&self, range: &Range<u64>, length: u64) -> Option<u64> {
        let mut run: Option<Range<u64>> = None;
        for (start, vma) in self.vmas.range(range.clone()) {
            if !is_file(vma) {
                continue;
            }
            let taken = taken(*start, vma);
            run = match run {
                Some(run) if taken.start <= run.end => Some(run.start..run.end.max(taken.end)),
                Some(run) => match self.lowest_gap(run.start, run.end, length, PAGE) {
                    Some(at) => return Some(at),
                    None => Some(taken),
                },
                None => Some(taken),
            };
        }
        run.and_then(|run| self.lowest_gap(run.start, run.end.min(range.end), length, PAGE))
    }

    /// Where it lies close to everything else.
    fn near(&self, length: u64, neighbours: Neighbours, align: u64) -> Option<u64> {
        if length > NEAR_MOST {
            return None;
        }
        let range = NEAR..HEAP;
        let highest = |length, align| {
            self.beside_guard(&range, true, |part| self.highest_gap(part, length, align))
        };
        if neighbours != Neighbours::Files {
            return highest(length, align);
        }
        self.gap_among_files(&range, length)
            .filter(|at| at.is_multiple_of(align) && self.is_open(*at, at + length))
            .or_else(|| highest(length.next_multiple_of(CHUNK), CHUNK))
    }

    fn far(&self, length: u64, neighbours: Neighbours, align: u64) -> Option<u64> {
        let top = LIBRARIES + (8 << 30);
        let lowest = |range| {
            self.beside_guard(&range, false, |part| {
                self.lowest_gap(part.start, part.end, length, align)
            })
        };
        match neighbours {
            Neighbours::Alike => {
                let range = ANONYMOUS_BOTTOM..ANONYMOUS_TOP;
                self.beside_guard(&range, true, |part| self.highest_gap(part, length, align))
            }
            Neighbours::Files => lowest(LIBRARIES..top),
            Neighbours::None => lowest(top..ANONYMOUS_BOTTOM),
        }
    }

    fn choose(&self, request: &Request) -> Result<u64, Errno> {
        let length = request.length;
        if request.fixed || request.exclusive {
            if !request.address.is_multiple_of(PAGE) {
                return Err(EINVAL);
            }
            if !Self::usable(request.address, length) {
                return Err(ENOMEM);
            }
            if request.exclusive && !self.free(request.address, request.address + length) {
                return Err(EEXIST);
            }
            return Ok(request.address);
        }
        let hint = request.address & !(PAGE - 1);
        if hint != 0 && Self::usable(hint, length) && self.is_open(hint, hint + length) {
            return Ok(hint);
        }
        let of_files =
            request.prot & libc::PROT_EXEC != 0 || matches!(request.backing, Backing::File(..));
        let neighbours = match request.neighbours {
            Neighbours::Alike if of_files => Neighbours::Files,
            other => other,
        };
        let whole_chunks = match neighbours {
            // Pages of a large piece are huge in whole chunks only, and move as such.
            Neighbours::Alike => length >= HUGE_FROM && request.prot & libc::PROT_WRITE != 0,
            // So that what it shows of a file can be huge pages of the page cache: the program text of an interpreter above all.
            Neighbours::Files => length >= CHUNK,
            Neighbours::None => true,
        };
        let align = if whole_chunks { CHUNK } else { PAGE };
        self.near(length, neighbours, align)
            .or_else(|| self.far(length, neighbours, align))
            .ok_or(ENOMEM)
    }

    /// Map the first thread's stack, with room below it that is kept free from then on; returns its bottom.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map_stack(&mut self, mut request: Request) -> Result<u64, Errno> {
        let length = pages(request.length)?;
        // A whole chunk more, so that the stack itself lies as it would without.
        request.length = length + CHUNK;
        let bottom = self.choose(&request)? + CHUNK;
        self.map(Request {
            address: bottom,
            length,
            exclusive: true,
            ..request
        })?;
        self.stack = bottom;
        Ok(bottom)
    }

    /// What was mapped at `start` never becomes writable.
    pub fn keep_read_only(&mut self, start: u64) {
        if let Some(vma) = self.vmas.get_mut(&start) {
            vma.read_only = true;
        }
    }

    /// Map; returns the address.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map(&mut self, mut request: Request) -> Result<u64, Errno> {
        request.length = pages(request.length)?;
        if self.vmas.len() >= MAX_MAPPINGS {
            return Err(ENOMEM);
        }
        let address = self.choose(&request)?;
        let end = address + request.length;
        let charge = is_charged(&request.backing, request.shared, request.prot);
        if charge {
            let there = self.charged.bytes_in(address, end);
            let more = request.length - there;
            let granted = request.used.min(more);
            self.ledger.grant(granted)?;
            if let Err(error) = self.ledger.commit(more - granted) {
                self.ledger.give_back(granted);
                return Err(error);
            }
        }
        if !matches!(request.backing, Backing::Doorbell) {
            let mapped = self.host_map(
                address,
                request.length,
                request.prot,
                request.shared,
                request.source,
            );
            if let Err(error) = mapped {
                if charge {
                    let there = self.charged.bytes_in(address, end);
                    self.ledger.give_back(request.length - there);
                }
                return Err(error);
            }
            self.carve(address, end);
            if charge {
                self.charged.insert(address, end);
            } else {
                self.ledger.give_back(self.charged.remove(address, end));
            }
            if let Err(error) = self.back(address, end, request.prot) {
                self.host_map(address, request.length, libc::PROT_NONE, false, None)?;
                self.ledger.give_back(self.charged.remove(address, end));
                return Err(error.into());
            }
        } else {
            self.carve(address, end);
        }
        let vma = Vma {
            end,
            prot: request.prot,
            shared: request.shared,
            written: request.prot & libc::PROT_WRITE != 0,
            read_only: false,
            backing: request.backing,
        };
        self.vmas.insert(address, vma);
        self.merge(address);
        self.update_execution(address, end)?;
        Ok(address)
    }

    /// Let a large piece of private anonymous memory that the guest asked for to use it be of huge pages.
    pub fn prefer_huge_pages(&self, address: u64, length: u64) {
        let Some(at) = self.window.host(address, length) else {
            return;
        };
        if length < HUGE_FROM {
            return;
        }
        // A host without huge pages refuses; then all stays as it is.
        // SAFETY: the range lies in the window and is mapped by the guest; advice changes no contents.
        unsafe {
            libc::madvise(
                at as *mut libc::c_void,
                length as usize,
                libc::MADV_HUGEPAGE,
            )
        };
    }

    /// Let a piece of private anonymous memory that the guest asked for to use it have its pages now, where it is of the
    /// size of one allocation. A guest's first touch of a page costs a fault of 35 us on PVM, and a whole page's contents
    /// are made for it; with the pages there, KVM maps eight at a fault, and making one costs 0.5 us.
    pub fn prefer_pages(&self, address: u64, length: u64) {
        if (POPULATE_FROM..HUGE_FROM).contains(&length) {
            // What is not there is made at its first touch.
            let _ = self.populate(address, length);
        }
    }

    /// Make every page of a range present that is mapped writable.
    ///
    /// # Errors
    /// As madvise(2).
    pub fn populate(&self, address: u64, length: u64) -> Result<(), Errno> {
        let at = self.window.host(address, length).ok_or(ENOMEM)?;
        // SAFETY: the range lies in the window, which belongs to the guest; no Rust reference points there.
        let done = unsafe {
            libc::madvise(
                at as *mut libc::c_void,
                length as usize,
                libc::MADV_POPULATE_WRITE,
            )
        };
        crate::errno::check(i64::from(done)).map(|_| ())
    }

    /// Map again what a snapshot recorded, at its place, without touching the host's mapping there.
    ///
    /// # Errors
    /// EINVAL for a range that is not usable or overlaps another.
    pub fn adopt(&mut self, start: u64, vma: Vma) -> Result<(), Errno> {
        let length = vma
            .end
            .checked_sub(start)
            .filter(|l| *l > 0 && l % PAGE == 0)
            .ok_or(EINVAL)?;
        let doorbell = matches!(vma.backing, Backing::Doorbell);
        let fits = if doorbell {
            start == crate::window::DOORBELL
        } else {
            Self::usable(start, length)
        };
        if !start.is_multiple_of(PAGE)
            || !fits
            || !self.free(start, vma.end)
            || self.vmas.len() >= MAX_MAPPINGS
        {
            return Err(EINVAL);
        }
        if is_charged(&vma.backing, vma.shared, vma.prot) {
            self.ledger.note(self.charged.insert(start, vma.end));
        }
        self.vmas.insert(start, vma);
        Ok(())
    }

    /// Keep the table of mappings in as little memory as it takes: made in order, its nodes are half empty.
    pub fn compact(&mut self) {
        self.vmas = std::mem::take(&mut self.vmas).into_iter().collect();
    }

    /// Make what may be accessed reachable for the guest. What may not needs no slot: without one the guest's access faults as well.
    fn back(&self, start: u64, end: u64, prot: i32) -> io::Result<()> {
        if host_prot(prot) == libc::PROT_NONE {
            return Ok(());
        }
        self.machine.back(start, end)
    }

    /// Map what the mapping at `start` showed when it was made: its file, or zeros.
    ///
    /// # Errors
    /// EINVAL where none starts; the host's.
    pub fn map_contents(&self, start: u64) -> Result<(), Errno> {
        use std::os::fd::AsRawFd;
        let vma = self.vmas.get(&start).ok_or(EINVAL)?;
        let source = match &vma.backing {
            Backing::File(file, offset) => Some((file.fd.as_raw_fd(), *offset)),
            Backing::Anonymous => None,
            _ => return Err(EINVAL),
        };
        self.host_map(start, vma.end - start, vma.prot, vma.shared, source)
    }

    /// Make everything that is mapped reachable for the guest: after a restore, in one go.
    ///
    /// # Errors
    /// The machine's.
    pub fn back_all(&self) -> io::Result<()> {
        let mut run: Option<(u64, u64)> = None;
        for (start, vma) in self.vmas.iter().filter(|(_, v)| {
            !matches!(v.backing, Backing::Doorbell) && host_prot(v.prot) != libc::PROT_NONE
        }) {
            run = match run {
                Some((s, e)) if *start & !(CHUNK - 1) <= e.next_multiple_of(CHUNK) + BRIDGED => {
                    Some((s, e.max(vma.end)))
                }
                Some((s, e)) => {
                    self.machine.back(s, e)?;
                    Some((*start, vma.end))
                }
                None => Some((*start, vma.end)),
            };
        }
        if let Some((s, e)) = run {
            self.machine.back(s, e)?;
        }
        for (start, vma) in self
            .vmas
            .iter()
            .filter(|(_, v)| v.prot & libc::PROT_EXEC != 0)
        {
            self.machine.set_executable(*start, vma.end, true)?;
        }
        Ok(())
    }

    /// Map a range of the host's: file, anonymous, or nothing.
    fn host_map(
        &self,
        address: u64,
        length: u64,
        prot: i32,
        shared: bool,
        source: Option<(RawFd, u64)>,
    ) -> Result<(), Errno> {
        let at = self.window.host(address, length).ok_or(ENOMEM)?;
        let kind = if shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        let (flags, fd, offset) = match source {
            Some((fd, offset)) => (kind, fd, i64::try_from(offset).map_err(|_| EINVAL)?),
            None => (kind | libc::MAP_ANONYMOUS, -1, 0),
        };
        // SAFETY: the target lies in the window, which belongs to the guest; no Rust reference points there.
        let got = unsafe {
            libc::mmap(
                at as *mut libc::c_void,
                usize::try_from(length).map_err(|_| ENOMEM)?,
                host_prot(prot),
                flags | libc::MAP_FIXED | libc::MAP_NORESERVE,
                fd,
                offset,
            )
        };
        if got == libc::MAP_FAILED {
            Err(io::Error::last_os_error().into())
        } else {
            Ok(())
        }
    }

    /// Forget what is mapped in the range; split mappings that reach over its ends.
    fn carve(&mut self, start: u64, end: u64) -> Vec<(u64, Vma)> {
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self.vmas.range(start..end).map(|(s, _)| *s).collect();
        inside
            .into_iter()
            .filter_map(|s| self.vmas.remove(&s).map(|v| (s, v)))
            .collect()
    }

    fn split(&mut self, at: u64) {
        let Some((start, vma)) = self.find(at).map(|(s, v)| (s, v.clone())) else {
            return;
        };
        if start < at {
            let upper = Vma {
                backing: vma.advanced(at - start),
                ..vma.clone()
            };
            self.vmas.insert(start, Vma { end: at, ..vma });
            self.vmas.insert(at, upper);
        }
    }

    /// Join anonymous neighbours of the mapping at `start` that are alike.
    fn merge(&mut self, start: u64) {
        let alike = |a: &Vma, b: &Vma| {
            a.prot == b.prot
                && a.shared == b.shared
                && matches!(
                    (&a.backing, &b.backing),
                    (Backing::Anonymous, Backing::Anonymous)
                )
        };
        let Some(mut vma) = self.vmas.get(&start).cloned() else {
            return;
        };
        if let Some(next) = self.vmas.get(&vma.end).filter(|n| alike(&vma, n)).cloned() {
            self.vmas.remove(&vma.end);
            vma.end = next.end;
            self.vmas.insert(start, vma.clone());
        }
        let below = self
            .vmas
            .range(..start)
            .next_back()
            .map(|(s, v)| (*s, v.clone()));
        if let Some((s, lower)) = below.filter(|(_, l)| l.end == start && alike(l, &vma)) {
            self.vmas.remove(&start);
            self.vmas.insert(
                s,
                Vma {
                    end: vma.end,
                    ..lower
                },
            );
        }
    }

    /// A chunk is executable iff something in it is.
    fn update_execution(&self, start: u64, end: u64) -> Result<(), Errno> {
        for chunk in (start & !(CHUNK - 1)..end).step_by(CHUNK as usize) {
            let first = self.find(chunk).map_or(chunk, |(s, _)| s);
            let executable = self
                .vmas
                .range(first..chunk + CHUNK)
                .any(|(_, v)| v.end > chunk && v.prot & libc::PROT_EXEC != 0);
            self.machine
                .set_executable(chunk, chunk + CHUNK, executable)?;
        }
        Ok(())
    }

    /// munmap(2): the range becomes inaccessible, never a hole.
    ///
    /// # Errors
    /// EINVAL.
    pub fn unmap(&mut self, address: u64, length: u64) -> Result<(), Errno> {
        let length = pages(length).map_err(|_| EINVAL)?;
        if !address.is_multiple_of(PAGE) || !Self::usable(address, length) {
            return Err(EINVAL);
        }
        let gone = self.carve(address, address + length);
        if !gone.is_empty() {
            self.host_map(address, length, libc::PROT_NONE, false, None)?;
            self.ledger
                .give_back(self.charged.remove(address, address + length));
        }
        if gone.iter().any(|(_, v)| v.prot & libc::PROT_EXEC != 0) {
            self.update_execution(address, address + length)?;
        }
        Ok(())
    }

    /// Unmap everything.
    ///
    /// # Errors
    /// The host's.
    pub fn clear(&mut self) -> Result<(), Errno> {
        let all: Vec<(u64, u64)> = self.vmas.iter().map(|(at, v)| (*at, v.end - at)).collect();
        for (at, length) in all {
            if Self::usable(at, length) {
                self.unmap(at, length)?;
            }
        }
        Ok(())
    }

    /// mprotect(2).
    ///
    /// # Errors
    /// ENOMEM where nothing is mapped, EACCES where the file forbids it.
    pub fn protect(&mut self, address: u64, length: u64, prot: i32) -> Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        let length = pages(length)?;
        let end = address.checked_add(length).ok_or(ENOMEM)?;
        if !address.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        if !self.covered(address, end) || self.vmas.len() + 2 > MAX_MAPPINGS {
            return Err(ENOMEM);
        }
        let first = self.find(address).map_or(address, |(start, _)| start);
        if prot & libc::PROT_WRITE != 0 && self.vmas.range(first..end).any(|(_, v)| v.read_only) {
            return Err(EACCES);
        }
        let at = self.window.host(address, length).ok_or(ENOMEM)?;
        self.charge(address, end, prot)?;
        self.back(address, end, prot)?;
        // SAFETY: the range lies in the window and is mapped by the guest; no reference points there.
        let done = unsafe {
            libc::mprotect(
                at as *mut libc::c_void,
                usize::try_from(length).map_err(|_| ENOMEM)?,
                host_prot(prot),
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error().into());
        }
        let mut touched = Vec::new();
        let mut executable = prot & libc::PROT_EXEC != 0;
        for (start, vma) in self.carve(address, end) {
            executable |= vma.prot & libc::PROT_EXEC != 0;
            let written = vma.written || prot & libc::PROT_WRITE != 0;
            let vma = Vma {
                prot,
                written,
                ..vma
            };
            self.vmas.insert(start, vma);
            touched.push(start);
        }
        for start in touched {
            if self.vmas.contains_key(&start) {
                self.merge(start);
            }
        }
        if executable {
            self.update_execution(address, end)
        } else {
            Ok(())
        }
    }

    /// Charge what becomes accessible. It stays charged until it is unmapped, since it may be in use.
    fn charge(&mut self, address: u64, end: u64, prot: i32) -> Result<(), Errno> {
        let first = self.find(address).map_or(address, |(start, _)| start);
        let pieces: Vec<(u64, u64)> = self
            .vmas
            .range(first..end)
            .filter(|(_, v)| is_charged(&v.backing, v.shared, prot))
            .map(|(start, v)| ((*start).max(address), v.end.min(end)))
            .collect();
        let mut more = 0;
        for (from, to) in &pieces {
            more += (to - from) - self.charged.bytes_in(*from, *to);
        }
        self.ledger.commit(more)?;
        for (from, to) in pieces {
            self.charged.insert(from, to);
        }
        Ok(())
    }

    /// Whether every page of the range is mapped.
    #[must_use]
    pub fn covered(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        while at < end {
            match self.find(at) {
                Some((_, vma)) => at = vma.end,
                None => return false,
            }
        }
        true
    }

    /// mremap(2) of one mapping, in place or by moving its pages.
    ///
    /// # Errors
    /// EINVAL, ENOMEM, EFAULT as there.
    pub fn remap(
        &mut self,
        old: u64,
        old_length: u64,
        new_length: u64,
        may_move: bool,
    ) -> Result<u64, Errno> {
        let (old_length, new_length) = (pages(old_length)?, pages(new_length)?);
        if !old.is_multiple_of(PAGE) {
            return Err(EINVAL);
        }
        let (start, vma) = self.find(old).map(|(s, v)| (s, v.clone())).ok_or(EFAULT)?;
        // What shrinks may be several mappings.
        if new_length <= old_length {
            if new_length < old_length {
                self.unmap(old + new_length, old_length - new_length)?;
            }
            return Ok(old);
        }
        if vma.end < old + old_length {
            return Err(EFAULT);
        }
        match (&vma.backing, vma.shared) {
            (Backing::Anonymous, false) => {}
            (Backing::Memory(inode, offset), true) => {
                let source = (inode, offset + (old - start));
                let range = old..old + old_length;
                let new = self.remap_shared(range, new_length, may_move, vma.prot, source)?;
                if vma.read_only {
                    self.keep_read_only(new);
                }
                return Ok(new);
            }
            _ => return Err(EINVAL),
        }
        let more = Request {
            address: old + old_length,
            length: new_length - old_length,
            prot: vma.prot,
            shared: false,
            fixed: false,
            exclusive: true,
            backing: Backing::Anonymous,
            source: None,
            neighbours: Neighbours::Alike,
            used: new_length - old_length,
        };
        if vma.end == old + old_length
            && Self::usable(more.address, more.length)
            && self.is_open(more.address, more.address + more.length)
            && self.map(more).is_ok()
        {
            self.prefer_huge_pages(old, new_length);
            return Ok(old);
        }
        if !may_move {
            return Err(ENOMEM);
        }
        let new = self.map(Request {
            address: 0,
            length: new_length,
            prot: vma.prot,
            shared: false,
            fixed: false,
            exclusive: false,
            backing: Backing::Anonymous,
            source: None,
            neighbours: Neighbours::Alike,
            used: new_length - old_length,
        })?;
        self.prefer_huge_pages(new, new_length);
        self.move_pages(old, old_length, new)?;
        self.unmap(old, old_length)?;
        Ok(new)
    }

    /// Grow a shared mapping of a file in memory: the file is mapped anew, since what it shows is the file's.
    fn remap_shared(
        &mut self,
        old: Range<u64>,
        new_length: u64,
        may_move: bool,
        prot: i32,
        (inode, offset): (&Arc<Inode>, u64),
    ) -> Result<u64, Errno> {
        let room =
            self.is_open(old.end, old.start + new_length) && Self::usable(old.start, new_length);
        if !room && !may_move {
            return Err(ENOMEM);
        }
        let new = self.map(Request {
            address: if room { old.start } else { 0 },
            length: new_length,
            prot,
            shared: true,
            fixed: room,
            exclusive: false,
            backing: Backing::Memory(Arc::clone(inode), offset),
            source: Some((inode.host().ok_or(EINVAL)?, offset)),
            neighbours: Neighbours::Alike,
            used: 0,
        })?;
        if new != old.start {
            self.unmap(old.start, old.end - old.start)?;
        }
        Ok(new)
    }

    /// Move page table entries between two mappings of the guest; the source stays mapped and empty.
    fn move_pages(&self, old: u64, length: u64, new: u64) -> Result<(), Errno> {
        let (from, to) = (
            self.window.host(old, length).ok_or(ENOMEM)?,
            self.window.host(new, length).ok_or(ENOMEM)?,
        );
        let size = usize::try_from(length).map_err(|_| ENOMEM)?;
        // SAFETY: both ranges lie in the window. DONTUNMAP leaves the source mapped, so no hole appears.
        let moved = unsafe {
            libc::mremap(
                from as *mut libc::c_void,
                size,
                size,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
                to as *mut libc::c_void,
            )
        };
        if moved == libc::MAP_FAILED {
            Err(io::Error::last_os_error().into())
        } else {
            Ok(())
        }
    }

    /// brk(2): move the end of the heap; returns where it then is.
    pub fn brk(&mut self, end: u64) -> u64 {
        let (start, now) = self.heap;
        let (old, new) = (now.next_multiple_of(PAGE), end.next_multiple_of(PAGE));
        if end < start || end > RESERVED.start && start < RESERVED.start {
            return now;
        }
        let done = match new.cmp(&old) {
            std::cmp::Ordering::Greater => {
                let request = Request {
                    address: old,
                    length: new - old,
                    prot: libc::PROT_READ | libc::PROT_WRITE,
                    shared: false,
                    fixed: false,
                    exclusive: true,
                    backing: Backing::Anonymous,
                    source: None,
                    neighbours: Neighbours::Alike,
                    used: new - old,
                };
                self.is_open(old, new) && self.map(request).is_ok()
            }
            std::cmp::Ordering::Less => self.unmap(new, old - new).is_ok(),
            std::cmp::Ordering::Equal => true,
        };
        if done {
            self.heap.1 = end;
            let grown = new.saturating_sub(old);
            self.prefer_huge_pages(old, grown);
            // An allocator that asks for little more than it needs does so in steps below this.
            if grown >= 2 * POPULATE_FROM {
                self.prefer_pages(old, grown);
            }
        }
        self.heap.1
    }
}
