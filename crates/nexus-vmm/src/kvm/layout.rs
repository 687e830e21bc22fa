//! Where things lie in guest physical memory, which is also guest virtual memory.
//!
//! ```text
//! 0x0000_0000  2 MiB  never present: null pointers fault
//! 0x0020_0000  2 MiB  system chunk: tables, stub, exception handlers, per-vCPU blocks
//! 0x0040_0000  ...    user space: the window of host memory
//! 0xc000_0000  1 GiB  never a slot: KVM and the APIC have pages of their own up there
//! 0x1_0000_0000 ...   user space again, up to `USER_END`
//! ```

/// Size of the unit of page directory entries, executability and memslots.
pub const CHUNK: u64 = 2 << 20;
/// Size of a page.
pub const PAGE: u64 = 4096;

/// Start of the system chunk. Its memory belongs to the hypervisor; it is no part of the window.
pub const SYSTEM: u64 = CHUNK;

/// Offsets in the system chunk.
pub mod system {
    /// Top-level page table.
    pub const PML4: u64 = 0x0000;
    /// Its only lower-level table: one entry per GiB.
    pub const PDPT: u64 = 0x1000;
    /// Page table of the system chunk itself: exact rights per page.
    pub const SYSTEM_PT: u64 = 0x2000;
    /// Interrupt descriptors, shared by all vCPUs.
    pub const IDT: u64 = 0x3000;
    /// The code at `LSTAR`.
    pub const STUB: u64 = 0x4000;
    /// Exception handlers (supervisor only).
    pub const HANDLERS: u64 = 0x5000;
    /// One block of [`super::BLOCK`] bytes per vCPU: GDT, TSS with I/O bitmap, exception stack.
    pub const BLOCKS: u64 = 0x1_0000;
    /// Page directories, handed out as GiBs come into use.
    pub const DIRECTORIES: u64 = 0x12_0000;
    /// Behind the last page directory.
    pub const END: u64 = 0x20_0000;
}

/// Size of a vCPU's block in the system chunk.
pub const BLOCK: u64 = PAGE;
/// Offsets in a vCPU's block.
pub mod block {
    /// Global descriptors.
    pub const GDT: u64 = 0;
    /// Task state: 104 bytes, then the I/O permission bitmap.
    pub const TSS: u64 = 0x100;
    /// The exception stack grows down from here to [`STACK_END`].
    pub const STACK: u64 = 0x1000;
    /// Lowest address of the exception stack.
    pub const STACK_END: u64 = 0x800;
}
/// vCPUs of a VM at most: as many as there are blocks.
pub const MAX_VCPUS: u64 = (system::DIRECTORIES - system::BLOCKS) / BLOCK;

/// Selectors. The order is what `SYSCALL` and `SYSRET` demand (Intel SDM vol. 2, SYSRET).
pub mod selector {
    /// Code at CPL 0.
    pub const KERNEL_CODE: u16 = 0x10;
    /// Stack at CPL 0.
    pub const KERNEL_DATA: u16 = 0x18;
    /// Stack and data at CPL 3.
    pub const USER_DATA: u16 = 0x28 | 3;
    /// 64-bit code at CPL 3.
    pub const USER_CODE: u16 = 0x30 | 3;
    /// The task register's.
    pub const TSS: u16 = 0x40;
}

/// Port of a system call: `out %al, $SYSCALL_PORT` in the stub.
pub const SYSCALL_PORT: u8 = 0x10;
/// Port of an exception: likewise in the exception handlers.
pub const EXCEPTION_PORT: u8 = 0x11;

const _: () = assert!(system::BLOCKS + MAX_VCPUS * BLOCK == system::DIRECTORIES);
