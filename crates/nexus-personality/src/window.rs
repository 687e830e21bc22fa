//! The window: the range of host addresses that a guest's user space is.
//!
//! Guest virtual addresses, guest physical addresses and host addresses differ by constants. The whole
//! range is reserved at the start and never has a hole: what the guest unmaps is mapped `PROT_NONE`, so that
//! no allocation of the hypervisor's own can ever appear in it.

use std::io;

/// First guest address of user space: where programs that are not position independent are linked.
pub const USER_START: u64 = 0x40_0000;
/// Behind the last one.
pub const USER_END: u64 = 64 << 30;
/// Never mapped: KVM and the APIC have pages of their own below 4 GiB.
pub const RESERVED: std::ops::Range<u64> = 0xbf00_0000..0x1_0000_0000;
/// Page of the doorbell: below user space, where no mapping can be.
pub const DOORBELL: u64 = USER_START - PAGE;
/// The heap begins here, and grows up; all else is mapped from here down as long as there is room: a guest of the usual size
/// then lies in one piece, of one memory slot and few page tables. Programs, libraries and other files share chunks that
/// anonymous memory stays out of.
pub const HEAP: u64 = 0x2000_0000;
/// Lowest address of the memory below the heap. What is further down is left to programs that are linked there.
pub const NEAR: u64 = 0x1000_0000;
/// What is larger than this is mapped far away: reservations above all, of which little is used.
pub const NEAR_MOST: u64 = 64 << 20;
/// Far away, files and executable memory are mapped from here up.
pub const LIBRARIES: u64 = 0x1_0000_0000;
/// Far away, anonymous memory is mapped from here down.
pub const ANONYMOUS_TOP: u64 = USER_END;
/// Lowest address for anonymous memory there.
pub const ANONYMOUS_BOTTOM: u64 = 24 << 30;
/// Size of a page.
pub const PAGE: u64 = 4096;
/// Size of a page directory entry's reach: the unit of executability.
pub const CHUNK: u64 = 2 << 20;

/// The reserved range. It lives as long as the process.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    base: u64,
}

impl Window {
    /// Reserve the addresses; no memory is used.
    ///
    /// # Errors
    /// The host's limit on address space.
    pub fn reserve() -> io::Result<Self> {
        // SAFETY: a fresh inaccessible mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                (USER_END + CHUNK) as usize,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Aligned to a chunk, so that huge pages of guest and host can agree.
        Ok(Self {
            base: (base as u64).next_multiple_of(CHUNK),
        })
    }

    /// Give the addresses back. Nothing may show or use them any more; what a copy of this value would do then fails.
    pub fn release(self) {
        // SAFETY: the range that `reserve` made, rounded up as there. A stale use meets an address without memory, or
        // another window, which guests of one process may share.
        unsafe { libc::munmap(self.base as *mut libc::c_void, USER_END as usize) };
    }

    /// Host address of guest address 0 (which is itself not mapped).
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Host address of `[address, address + length)`, where all of it is user space.
    #[must_use]
    pub fn host(&self, address: u64, length: u64) -> Option<u64> {
        let end = address.checked_add(length)?;
        (address >= USER_START && end <= USER_END).then(|| self.base + address)
    }
}
