//! The arena's control page, as the hypervisor sees it: words that it shares with nexusd and the guest. (unsafe: shared memory.)
//!
//! The guest can write there too.

use nexus_abi::arena::{self, control};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The guest may unmap its own mapping of it, or map something else there.
const LENGTH: usize = arena::SUBMIT_RING;
const _: () = assert!(control::SIGNALS.is_multiple_of(4) && control::SIGNALS + 4 <= LENGTH);
const _: () = assert!(control::HELD_UNTIL.is_multiple_of(4) && control::HELD_UNTIL + 4 <= LENGTH);
const _: () = assert!(control::EXITS.is_multiple_of(8) && control::EXITS + 8 <= LENGTH);

/// A mapping of it.
#[derive(Debug)]
pub struct ControlPage(NonNull<u8>);

// SAFETY: the mapping belongs to this value, and is only ever accessed as atomics.
unsafe impl Send for ControlPage {}
// SAFETY: as above.
unsafe impl Sync for ControlPage {}

impl ControlPage {
    /// Of this arena.
    ///
    /// # Errors
    /// It cannot be mapped.
    pub fn new(arena: RawFd) -> io::Result<Self> {
        // For writing too: counting is, and for a futex's page the kernel would otherwise look twice.
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

    /// How often the backend has told of completions.
    #[must_use]
    pub fn signals(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping and aligned (checked above), which lives as long as this value; the arena is sealed
        // against shrinking beneath it. Other writers are allowed for by the atomic.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(control::SIGNALS).cast()) }
    }

    /// Where the part of the heap ends that holds something, as the guest says.
    #[must_use]
    pub fn held_until(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.0.as_ptr().add(control::HELD_UNTIL).cast()) }
    }

    /// How often the guest was left.
    #[must_use]
    pub fn exits(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().add(control::EXITS).cast()) }
    }
}

impl Drop for ControlPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), LENGTH) };
    }
}
