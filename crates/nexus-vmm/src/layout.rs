//! The guest's memory map. Guest virtual and guest physical addresses are the same; the host address of
//! user memory is the window's base plus the guest address.
//!
//! ```text
//! 0        .. 2 MiB    never present (null pointers)
//! 2        .. 4 MiB    system chunk: tables, stubs, stacks; host memory of its own, never in the window. Its last pages
//!                      show the host's vDSO and the doorbell, which lie elsewhere in guest physical memory
//! 4 MiB    .. 64 GiB   user space; no slot ever lies in 3 .. 4 GiB (KVM's and the APIC's pages)
//! ```

pub const PAGE: u64 = 4096;
/// What one page directory entry maps: the granularity of slots and of execute permission.
pub const CHUNK: u64 = 2 << 20;
pub const SYSTEM_BASE: u64 = CHUNK;
pub const USER_START: u64 = 2 * CHUNK;
pub const USER_END: u64 = 64 << 30;
pub const HOLE_START: u64 = 3 << 30;
pub const HOLE_END: u64 = 4 << 30;
pub const CHUNKS: usize = (USER_END / CHUNK) as usize;

/// Offsets inside the system chunk.
pub mod system {
    use super::PAGE;
    pub const PML4: u64 = 0;
    pub const PDPT: u64 = PAGE;
    /// One directory per GiB; a page of it costs memory once an entry is written.
    pub const DIRECTORIES: u64 = 2 * PAGE;
    pub const DIRECTORY_COUNT: u64 = 64;
    /// 4 KiB entries of the system chunk itself.
    pub const SYSTEM_TABLE: u64 = DIRECTORIES + DIRECTORY_COUNT * PAGE;
    /// The vDSO's pages that are not the host's: those of one function.
    pub const CLOCK_CODE: u64 = SYSTEM_TABLE + PAGE;
    pub const CLOCK_CODE_PAGES: u64 = 2;
    /// One page for both tables of descriptors.
    pub const DESCRIPTORS: u64 = CLOCK_CODE + CLOCK_CODE_PAGES * PAGE;
    pub const GDT: u64 = DESCRIPTORS;
    pub const IDT: u64 = DESCRIPTORS + PAGE / 2;
    /// What LSTAR points to.
    pub const STUB: u64 = DESCRIPTORS + PAGE;
    pub const HANDLERS: u64 = STUB + PAGE;
    /// The program that the probe runs at CPL 3.
    pub const PROBE: u64 = HANDLERS + PAGE;
    /// One page per vCPU: task state segment at its start, exception stack growing down from its end.
    pub const VCPU_PAGES: u64 = PROBE + PAGE;
    pub const VCPU_COUNT: u64 = 400;
    /// What a guest without a doorbell of its own has in its place: a copy of one that has.
    pub const SILENT: u64 = VCPU_PAGES + VCPU_COUNT * PAGE;
    /// The program that touches pages, and their list: there while a shell makes ready only.
    pub const TOUCH: u64 = SILENT + PAGE;
    pub const TOUCH_LIST: u64 = TOUCH + PAGE;
    pub const END: u64 = TOUCH_LIST + PAGE;
    /// From here on no memory, but entries that show other things.
    pub const CLOCK: u64 = DOORBELL - CLOCK_PAGES * PAGE;
    pub const CLOCK_PAGES: u64 = 32;
    pub const DOORBELL: u64 = super::CHUNK - PAGE;
}
const _: () = assert!(system::END <= system::CLOCK);

/// The doorbell's page, and its guest physical address, where no slot may lie.
pub const DOORBELL: u64 = SYSTEM_BASE + system::DOORBELL;
pub const DOORBELL_FRAME: u64 = 0xbfe0_0000;
const _: () = assert!(DOORBELL == nexus_personality::window::DOORBELL);
const _: () = assert!(
    nexus_personality::window::RESERVED.start <= DOORBELL_FRAME
        && DOORBELL_FRAME < nexus_personality::window::RESERVED.end
);
/// Guest physical address of the vDSO's pages, which the guest sees at `CLOCK`.
pub const CLOCK_FRAME: u64 = 0x10_0000;
pub const CLOCK: u64 = SYSTEM_BASE + system::CLOCK;

/// Port of the system call stub, the only one that CPL 3 may reach (on PVM).
pub const PORT_SYSCALL: u16 = 0x10;
/// Port of the exception handlers, which run at CPL 0.
pub const PORT_EXCEPTION: u16 = 0x11;
/// Bytes between two exception handlers.
pub const HANDLER_STRIDE: u64 = 16;
pub const VECTORS: u64 = 32;

/// Selectors, the same as Linux's (PVM runs CPL 3 with the host's own).
pub mod selector {
    pub const KERNEL_CODE: u16 = 0x10;
    pub const KERNEL_DATA: u16 = 0x18;
    pub const USER_CODE32: u16 = 0x23;
    pub const USER_DATA: u16 = 0x2b;
    pub const USER_CODE: u16 = 0x33;
    pub const TASK: u16 = 0x40;
}

/// Does `[start, end)` lie in user space, chunk-aligned or not, clear of the hole?
#[must_use]
pub fn is_user_range(start: u64, end: u64) -> bool {
    start >= USER_START
        && start < end
        && end <= USER_END
        && (end <= HOLE_START || start >= HOLE_END)
}
