//! One instance's arena: a sealed memfd, mapped here and in the guest. `unsafe`: shared memory.
//!
//! The guest changes any byte at any time. So nothing here makes a reference to the mapping: indices go
//! through atomics, everything else is copied through raw pointers, once, and then checked.

use crate::raw::{RawRoom, RawSlice};
use nexus_abi::arena::{self, control};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The mapping on the host's side.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
    size: usize,
}

// SAFETY: the mapping belongs to this value until it is dropped; all access is by atomics or raw copies,
// and the other writer, the guest, is another process already.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// A new arena of `size` bytes with its control page filled in, and the memfd for the guest.
    ///
    /// # Errors
    /// A size out of bounds; out of memory or descriptors.
    pub fn new(size: usize) -> io::Result<(Arc<Self>, OwnedFd)> {
        if !(arena::MIN_SIZE..=arena::MAX_SIZE).contains(&size)
            || !size.is_multiple_of(arena::MIN_SIZE)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("an arena cannot have {size} bytes"),
            ));
        }
        let memfd = sealed_memfd(size)?;
        // SAFETY: a fresh shared mapping of the memfd just made, at an address of the kernel's choice; the
        // seals keep it from shrinking beneath us.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                memfd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let arena = Arc::new(Self {
            base: base.cast(),
            size,
        });
        arena.write(control::MAGIC, &arena::MAGIC.to_le_bytes());
        arena.write(control::VERSION, &arena::VERSION.to_le_bytes());
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        arena.write(control::ARENA_SIZE, &size.to_le_bytes());
        Ok((arena, memfd))
    }

    /// Load an index of the control page.
    pub fn load(&self, offset: usize) -> u32 {
        self.index(offset).load(Ordering::Acquire)
    }

    /// Store an index of the control page.
    pub fn store(&self, offset: usize, value: u32) {
        self.index(offset).store(value, Ordering::Release);
    }

    /// Wake whoever waits for the word of completions to change.
    pub fn signal(&self) {
        let word = self.index(control::SIGNALS);
        word.fetch_add(1, Ordering::Release);
        // SAFETY: the word lives in the mapping. Not a private futex: its waiters are in another process. Nobody is waited for.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Exits of the microVM so far; 0 where nobody counts them.
    pub fn exits(&self) -> u64 {
        let mut bytes = [0; 8];
        self.read(control::EXITS, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// What the guest's streams hold of lines that have not ended, once: at most 4 KiB, whatever it is.
    pub fn take_last_words(&self) -> Vec<u8> {
        let mut words = Vec::new();
        for stream in 0..2 {
            let at = arena::LAST_WORDS + stream * arena::LAST_WORDS_SIZE;
            let mut length = [0; 4];
            self.read(at, &mut length);
            let mut text = [0; arena::LAST_WORDS_SIZE - 4];
            let said = text.get_mut(..u32::from_le_bytes(length) as usize);
            // A length that is none says that the guest writes what it likes there.
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                self.read(at + 4, said);
                words.extend_from_slice(said);
                self.write(at, &[0; 4]);
            }
        }
        words
    }

    fn index(&self, offset: usize) -> &AtomicU32 {
        assert!(offset < arena::SUBMIT_RING && offset.is_multiple_of(4));
        // SAFETY: inside the mapping and aligned (checked above; the base is page aligned); only ever
        // accessed as an atomic on this side. The returned reference is to an atomic, which allows
        // for other writers.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    /// Copy an entry of a ring out of the arena.
    pub fn entry(&self, offset: usize) -> [u8; arena::ENTRY_SIZE] {
        let mut entry = [0; arena::ENTRY_SIZE];
        self.read(offset, &mut entry);
        entry
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(self.holds(offset, into.len()));
        // SAFETY: the range is inside the mapping (checked above); `into` is ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(offset), into.as_mut_ptr(), into.len());
        }
    }

    /// Copy bytes into the arena. Panics outside of it: callers have checked.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(self.holds(offset, bytes.len()));
        // SAFETY: the range is inside the mapping (checked above); `bytes` is ours alone.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len());
        }
    }

    fn holds(&self, offset: usize, length: usize) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.size)
    }

    /// Bytes of the heap to be read; `None` where they are not all inside it.
    pub fn slice(self: &Arc<Self>, offset: u32, length: u32) -> Option<RawSlice> {
        if length == 0 {
            return Some(RawSlice::empty());
        }
        let (offset, length) = self.in_heap(offset, length)?;
        // SAFETY: inside the mapping, which lives as long as the Arc that the slice keeps.
        Some(unsafe { RawSlice::new(self.base.add(offset), length, Arc::clone(self) as _) })
    }

    /// Bytes of the heap to be written; `None` where they are not all inside it.
    pub fn room(self: &Arc<Self>, offset: u32, length: u32) -> Option<RawRoom> {
        if length == 0 {
            return Some(RawRoom::empty());
        }
        let (offset, length) = self.in_heap(offset, length)?;
        // SAFETY: inside the mapping, which lives as long as the Arc that the room keeps.
        Some(unsafe { RawRoom::new(self.base.add(offset), length, Arc::clone(self) as _) })
    }

    fn in_heap(&self, offset: u32, length: u32) -> Option<(usize, usize)> {
        let (offset, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
        (offset >= arena::HEAP && self.holds(offset, length)).then_some((offset, length))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; every slice and room of it held the Arc, so none is left.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

fn sealed_memfd(size: usize) -> io::Result<OwnedFd> {
    // SAFETY: a NUL-terminated name and flags.
    let fd = unsafe {
        libc::memfd_create(
            c"nexus-arena".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    let memfd = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: a descriptor of ours and plain numbers.
    let failed = unsafe {
        libc::ftruncate(memfd.as_raw_fd(), length) < 0
            || libc::fcntl(memfd.as_raw_fd(), libc::F_ADD_SEALS, seals) < 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    Ok(memfd)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_cannot_be_resized() {
        let (_arena, memfd) = Arena::new(arena::DEFAULT_SIZE).unwrap();
        for length in [0, 4096, 1 << 30] {
            // SAFETY: a descriptor of ours.
            assert_eq!(unsafe { libc::ftruncate(memfd.as_raw_fd(), length) }, -1);
        }
        assert!(Arena::new(4096).is_err() && Arena::new(arena::MIN_SIZE + 1).is_err());
    }

    #[test]
    fn only_the_heap_is_handed_out() {
        let (arena, _memfd) = Arena::new(arena::MIN_SIZE).unwrap();
        let size = u32::try_from(arena::MIN_SIZE).unwrap();
        let heap = u32::try_from(arena::HEAP).unwrap();
        for (offset, length) in [
            (0, 1),
            (heap - 1, 2),
            (size, 1),
            (size - 1, 2),
            (u32::MAX, u32::MAX),
            (heap, u32::MAX),
        ] {
            assert!(arena.slice(offset, length).is_none() && arena.room(offset, length).is_none());
        }
        arena.room(size - 4, 4).unwrap().write(b"abcdef");
        assert_eq!(arena.slice(size - 4, 4).unwrap().to_vec(), b"abcd");
        assert!(arena.slice(0, 0).unwrap().is_empty());
    }
}
