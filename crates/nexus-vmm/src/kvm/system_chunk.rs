//! The guest's page tables, descriptor tables, stubs and exception stacks: host memory outside the window.
//! (unsafe: raw access to the anonymous mapping that backs it.)
//!
//! A guest that takes CPL 0 on hardware can write here, so nothing read back is believed.

use super::flavour::Flavour;
use crate::layout::{
    CHUNK, CLOCK_FRAME, DOORBELL_FRAME, HANDLER_STRIDE, PAGE, PORT_EXCEPTION, PORT_SYSCALL,
    SYSTEM_BASE, VECTORS, selector, system,
};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

const PRESENT: u64 = 1;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Set from the start, so that no page walk ever writes to the tables.
const ACCESSED_DIRTY: u64 = 0b11 << 5;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// Size of the I/O bitmap: ports 0 to 31 and the byte of ones that ends it.
const IO_BITMAP: u64 = 5;
pub const TSS_LIMIT: u32 = (0x68 + IO_BITMAP - 1) as u32;

pub struct SystemChunk {
    base: NonNull<u8>,
    doorbell: AtomicBool,
}

// SAFETY: the mapping is plain memory, written by volatile stores of whole entries only.
unsafe impl Send for SystemChunk {}
// SAFETY: as above; concurrent writers of one entry are serialised by the owner's locks.
unsafe impl Sync for SystemChunk {}

impl SystemChunk {
    /// Allocate the chunk and fill the parts that never change.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(flavour: Flavour) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping, aliasing nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                CHUNK as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(io::Error::other("mmap gave address 0"));
        };
        // SAFETY: the range is ours. A huge page here would cost 2 MiB per instance.
        unsafe { libc::madvise(base.as_ptr().cast(), CHUNK as usize, libc::MADV_NOHUGEPAGE) };
        let chunk = Self {
            base,
            doorbell: AtomicBool::new(false),
        };
        chunk.link_tables();
        chunk.write_descriptors();
        chunk.write_handlers();
        chunk.set_flavour(flavour);
        Ok(chunk)
    }

    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    fn link_tables(&self) {
        let table = |offset: u64| (SYSTEM_BASE + offset) | PRESENT | WRITE | USER | ACCESSED_DIRTY;
        self.put(system::PML4, table(system::PDPT));
        self.put(system::PDPT, table(system::DIRECTORIES));
        let own = SYSTEM_BASE / CHUNK;
        self.put(system::DIRECTORIES + own * 8, table(system::SYSTEM_TABLE));
        // Read-only and executable; the tables themselves are not mapped at all.
        self.map_system(system::DESCRIPTORS, NO_EXECUTE);
        self.map_system(system::HANDLERS, 0);
    }

    fn map_system(&self, offset: u64, flags: u64) {
        let entry = (SYSTEM_BASE + offset) | PRESENT | ACCESSED_DIRTY | flags;
        self.put(system::SYSTEM_TABLE + offset / PAGE * 8, entry);
    }

    /// The stub and its page's permission.
    pub fn set_flavour(&self, flavour: Flavour) {
        self.bytes(system::STUB, flavour.stub());
        self.map_system(system::STUB, if flavour.stub_is_user() { USER } else { 0 });
    }

    fn write_descriptors(&self) {
        let code = 0x00af_9b00_0000_ffff_u64;
        let data = 0x00cf_9300_0000_ffff_u64;
        let user = 3 << 45;
        let at = |sel: u16| system::GDT + u64::from(sel & !7);
        self.put(at(selector::KERNEL_CODE), code);
        self.put(at(selector::KERNEL_DATA), data);
        // None for USER_CODE32, which only STAR names: a 32-bit `syscall` would enter CPL 0 by another door.
        self.put(at(selector::USER_DATA), data | user);
        self.put(at(selector::USER_CODE), code | user);
        for vector in 0..VECTORS {
            let handler = SYSTEM_BASE + system::HANDLERS + vector * HANDLER_STRIDE;
            // Only int3 and into may be raised by an instruction at CPL 3.
            let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
            let low = (handler & 0xffff)
                | (u64::from(selector::KERNEL_CODE) << 16)
                | (1 << 32)
                | ((0x8e | (dpl << 5)) << 40)
                | ((handler >> 16 & 0xffff) << 48);
            self.put(system::IDT + vector * 16, low);
            self.put(system::IDT + vector * 16 + 8, handler >> 32);
        }
    }

    fn write_handlers(&self) {
        for vector in 0..VECTORS {
            // out %al, $port; hlt. The VMM never resumes behind the `out`: it loads the state to go on from.
            self.bytes(
                system::HANDLERS + vector * HANDLER_STRIDE,
                &[0xe6, PORT_EXCEPTION as u8, 0xf4],
            );
        }
    }

    /// The program that the probe runs; returns its guest address.
    pub fn map_probe(&self) -> u64 {
        // syscall; hlt (which faults at CPL 3).
        self.bytes(system::PROBE, &[0x0f, 0x05, 0xf4]);
        self.map_system(system::PROBE, USER);
        SYSTEM_BASE + system::PROBE
    }

    /// Let CPL 3 run the program that touches pages, and read its list.
    pub fn map_touch(&self, program: &[u8]) {
        self.bytes(
            system::TOUCH,
            program.get(..PAGE as usize).unwrap_or(program),
        );
        self.map_system(system::TOUCH, USER);
        self.map_system(system::TOUCH_LIST, USER | NO_EXECUTE);
    }

    /// Its list, which a zero ends: of as many entries as fit.
    pub fn set_touch_list(&self, list: &[u64]) {
        let room = PAGE / 8 - 1;
        for (index, entry) in (0..room).zip(list.iter().chain([&0])) {
            self.put(system::TOUCH_LIST + index * 8, *entry);
        }
        self.put(system::TOUCH_LIST + room * 8, 0);
    }

    /// Take both away, for good.
    ///
    /// # Errors
    /// The host's: they could still be there.
    pub fn unmap_touch(&self) -> io::Result<()> {
        for page in [system::TOUCH, system::TOUCH_LIST] {
            self.put(system::SYSTEM_TABLE + page / PAGE * 8, 0);
        }
        // What KVM has made of the entries goes with the pages.
        // SAFETY: two pages of our mapping, which nothing refers to.
        let dropped = unsafe {
            let first = self.base.as_ptr().add(system::TOUCH as usize);
            libc::madvise(first.cast(), 2 * PAGE as usize, libc::MADV_DONTNEED)
        };
        if dropped == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Task state segment and exception stack of vCPU `index`; returns the guest address of the segment.
    pub fn prepare_vcpu(&self, index: u64, flavour: Flavour) -> u64 {
        let page = system::VCPU_PAGES + index * PAGE;
        let entry = (SYSTEM_BASE + page) | PRESENT | WRITE | ACCESSED_DIRTY | NO_EXECUTE;
        self.put(system::SYSTEM_TABLE + page / PAGE * 8, entry);
        let top = SYSTEM_BASE + page + PAGE;
        self.bytes(page + 4, &top.to_le_bytes()); // RSP0
        self.bytes(page + 0x24, &top.to_le_bytes()); // IST1
        self.bytes(page + 0x66, &0x68_u16.to_le_bytes());
        let mut bitmap = [0xff_u8; IO_BITMAP as usize];
        if flavour.opens_port() {
            bitmap[usize::from(PORT_SYSCALL / 8)] &= !(1 << (PORT_SYSCALL % 8));
        }
        self.bytes(page + 0x68, &bitmap);
        SYSTEM_BASE + page
    }

    /// Make a user chunk present (`Some(executable)`) or absent.
    pub fn set_chunk(&self, chunk: u64, state: Option<bool>) {
        let base = chunk * CHUNK;
        let directory = base >> 30;
        if directory >= system::DIRECTORY_COUNT || base < crate::layout::USER_START {
            return;
        }
        let offset = system::DIRECTORIES + directory * PAGE;
        let link = (SYSTEM_BASE + offset) | PRESENT | WRITE | USER | ACCESSED_DIRTY;
        let entry = match state {
            None => 0,
            Some(executable) => {
                base | PRESENT
                    | WRITE
                    | USER
                    | LARGE
                    | ACCESSED_DIRTY
                    | if executable { 0 } else { NO_EXECUTE }
            }
        };
        self.put(offset + (chunk & 511) * 8, entry);
        self.put(system::PDPT + directory * 8, link);
    }

    #[must_use]
    pub fn has_doorbell(&self) -> bool {
        self.doorbell.load(Ordering::Relaxed)
    }

    /// Make the doorbell's page present: where no slot is, or (not `rings`) as memory of this chunk.
    pub fn map_doorbell(&self, rings: bool) {
        self.doorbell.store(true, Ordering::Relaxed);
        let frame = if rings {
            DOORBELL_FRAME
        } else {
            SYSTEM_BASE + system::SILENT
        };
        self.map_page(system::DOORBELL, frame | WRITE | NO_EXECUTE);
    }

    /// Show the vDSO's pages, read-only: `data` of them, then `code` executable ones.
    pub fn map_clock(&self, data: u64, code: u64) {
        for page in 0..(data + code).min(system::CLOCK_PAGES) {
            let execute = if page < data { NO_EXECUTE } else { 0 };
            let frame = CLOCK_FRAME + page * PAGE;
            self.map_page(system::CLOCK + page * PAGE, frame | execute);
        }
    }

    /// Show `content` in place of the vDSO's page `page`, which [`Self::map_clock`] has mapped: the `number`th such page.
    pub fn replace_clock_page(&self, number: u64, page: u64, content: &[u8]) {
        let fits = number < system::CLOCK_CODE_PAGES
            && page < system::CLOCK_PAGES
            && content.len() as u64 <= PAGE;
        if !fits {
            return;
        }
        let own = system::CLOCK_CODE + number * PAGE;
        self.bytes(own, content);
        self.map_page(system::CLOCK + page * PAGE, SYSTEM_BASE + own);
    }

    /// Let the guest see a frame at this place of the chunk.
    fn map_page(&self, offset: u64, entry: u64) {
        let entry = entry | PRESENT | USER | ACCESSED_DIRTY;
        self.put(system::SYSTEM_TABLE + offset / PAGE * 8, entry);
    }

    /// Copy bytes out, for the frame that an exception pushed. `None` outside the chunk.
    #[must_use]
    pub fn read_u64(&self, guest: u64) -> Option<u64> {
        let offset = guest.checked_sub(SYSTEM_BASE)?;
        if offset % 8 != 0 || offset + 8 > CHUNK {
            return None;
        }
        // SAFETY: in bounds of our mapping and aligned; volatile because a guest may write meanwhile.
        Some(unsafe {
            self.base
                .as_ptr()
                .add(offset as usize)
                .cast::<u64>()
                .read_volatile()
        })
    }

    fn put(&self, offset: u64, value: u64) {
        debug_assert!(offset.is_multiple_of(8) && offset < CHUNK);
        // SAFETY: every caller's offset is a constant of the layout plus a bounded index, inside the chunk.
        unsafe {
            self.base
                .as_ptr()
                .add(offset as usize)
                .cast::<u64>()
                .write_volatile(value);
        }
    }

    fn bytes(&self, offset: u64, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: as in `put`.
            unsafe {
                self.base
                    .as_ptr()
                    .add(offset as usize + index)
                    .write_volatile(*byte);
            }
        }
    }
}

impl Drop for SystemChunk {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`; the VM that used it as a slot is gone or going.
        unsafe { libc::munmap(self.base.as_ptr().cast(), CHUNK as usize) };
    }
}
