//! How often the guest was left: counted where nexusd can read it, in the arena's control page. (unsafe: shared memory.)
//!
//! The guest can write there too, so the count is for measurement only, as its clock is.

use nexus_abi::arena::{self, control};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the control page; the guest may unmap its own mapping of it, or map something else there.
const LENGTH: usize = arena::SUBMIT_RING;
const _: () = assert!(control::EXITS.is_multiple_of(8) && control::EXITS + 8 <= LENGTH);

/// A mapping of the counter.
#[derive(Debug)]
pub struct Exits(NonNull<u8>);

// SAFETY: the mapping belongs to this value, and is only ever accessed as an atomic.
unsafe impl Send for Exits {}
// SAFETY: as above.
unsafe impl Sync for Exits {}

impl Exits {
    /// In this arena.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn new(arena: RawFd) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                access,
                libc::MAP_SHARED,
                arena,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(at.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// One more.
    pub fn count(&self) {
        // SAFETY: inside the mapping and aligned (checked above), which lives as long as this value; the arena is sealed
        // against shrinking beneath it. Other writers are allowed for by the atomic.
        let counter = unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(control::EXITS).cast()) };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Exits {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}
