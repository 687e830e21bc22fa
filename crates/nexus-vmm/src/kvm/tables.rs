//! The system chunk: page tables, descriptors, stub and exception handlers, in the hypervisor's own memory.
//!
//! The guest cannot reach it through the window, and nothing read back from it is trusted: CPL 0 is no
//! boundary here, the virtual machine is.

use super::flavour::Flavour;
use super::layout::{
    BLOCK, CHUNK, EXCEPTION_PORT, MAX_VCPUS, PAGE, SYSTEM, block, selector, system,
};
use std::io;
use std::ptr::NonNull;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 3 << 5;
const LARGE: u64 = 1 << 7;
const NX: u64 = 1 << 63;

/// Vectors that push an error code (Intel SDM vol. 3, table 6-1).
const WITH_ERROR_CODE: u32 =
    1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;
/// Exceptions have the first 32 vectors.
const VECTORS: u64 = 32;
/// Bytes between the handlers of two vectors.
const HANDLER_STRIDE: u64 = 16;

/// Two mebibytes of host memory that hold everything the guest's CPU needs but the guest must not write.
pub struct SystemChunk {
    memory: NonNull<u8>,
    next_directory: u64,
}

// SAFETY: the chunk is plain memory that this value alone owns; access goes through `&mut self` or copies.
unsafe impl Send for SystemChunk {}

impl SystemChunk {
    /// Build the tables for `flavour`. No user chunk is present yet.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn new(flavour: Flavour) -> io::Result<Self> {
        // SAFETY: a fresh private anonymous mapping, at an address of the kernel's choice.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                CHUNK as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(io::Error::last_os_error)?;
        let mut chunk = Self {
            memory,
            next_directory: system::DIRECTORIES,
        };
        chunk.put(
            system::PML4,
            SYSTEM + system::PDPT | PRESENT | WRITABLE | USER | ACCESSED_DIRTY,
        );
        chunk.map_system_pages(flavour);
        let table = SYSTEM + system::SYSTEM_PT | PRESENT | WRITABLE | USER | ACCESSED_DIRTY;
        chunk.set_entry(SYSTEM, table)?;
        chunk.write_code(flavour);
        Ok(chunk)
    }

    /// Host address of the chunk, for its memslot.
    #[must_use]
    pub fn host_address(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    fn map_system_pages(&mut self, flavour: Flavour) {
        for page in (0..CHUNK).step_by(PAGE as usize) {
            let rights = match page {
                system::STUB if flavour.stub_is_user() => PRESENT | USER,
                system::STUB | system::HANDLERS => PRESENT,
                _ => PRESENT | WRITABLE | NX,
            };
            self.put(
                system::SYSTEM_PT + page / PAGE * 8,
                SYSTEM + page | rights | ACCESSED_DIRTY,
            );
        }
    }

    fn write_code(&mut self, flavour: Flavour) {
        self.write(system::STUB, &flavour.stub());
        // Each handler pushes a zero where the CPU pushed no error code, then its vector, and tells the VMM.
        // The VMM never lets it go on: it sets the thread's whole state anew.
        for vector in 0..VECTORS {
            let mut code = Vec::with_capacity(HANDLER_STRIDE as usize);
            if WITH_ERROR_CODE >> vector & 1 == 0 {
                code.extend_from_slice(&[0x6a, 0x00]);
            }
            code.extend_from_slice(&[0x6a, vector as u8, 0xe6, EXCEPTION_PORT, 0x0f, 0x0b]);
            self.write(system::HANDLERS + vector * HANDLER_STRIDE, &code);
            self.write_gate(vector);
        }
    }

    /// An interrupt gate on stack 1. Breakpoint and overflow may be raised from CPL 3 (`int3`, `into`).
    fn write_gate(&mut self, vector: u64) {
        let handler = SYSTEM + system::HANDLERS + vector * HANDLER_STRIDE;
        let dpl: u64 = if vector == 3 || vector == 4 { 3 } else { 0 };
        let low = handler & 0xffff
            | u64::from(selector::KERNEL_CODE) << 16
            | 1 << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        self.put(system::IDT + vector * 16, low);
        self.put(system::IDT + vector * 16 + 8, handler >> 32);
    }

    /// Fill the block of vCPU `index`: descriptors, task state, I/O bitmap.
    ///
    /// # Errors
    /// `index` is not below [`MAX_VCPUS`].
    pub fn write_block(&mut self, index: u64, flavour: Flavour) -> io::Result<()> {
        if index >= MAX_VCPUS {
            return Err(io::Error::other(
                "more vCPUs than the system chunk has room for",
            ));
        }
        let base = system::BLOCKS + index * BLOCK;
        let tss = SYSTEM + base + block::TSS;
        let gdt = base + block::GDT;
        self.put(
            gdt + u64::from(selector::KERNEL_CODE),
            0x00af_9b00_0000_ffff,
        );
        self.put(
            gdt + u64::from(selector::KERNEL_DATA),
            0x00cf_9300_0000_ffff,
        );
        self.put(
            gdt + u64::from(selector::USER_DATA & !3),
            0x00cf_f300_0000_ffff,
        );
        self.put(
            gdt + u64::from(selector::USER_CODE & !3),
            0x00af_fb00_0000_ffff,
        );
        let limit = u64::from(TSS_LIMIT);
        self.put(
            gdt + u64::from(selector::TSS),
            limit | (tss & 0xff_ffff) << 16 | 0x8b << 40 | (tss >> 24 & 0xff) << 56,
        );
        self.put(gdt + u64::from(selector::TSS) + 8, tss >> 32);
        self.put(base + block::TSS + 0x04, SYSTEM + base + block::STACK); // RSP0
        self.put(base + block::TSS + 0x24, SYSTEM + base + block::STACK); // IST1
        self.write(base + block::TSS + 0x66, &104u16.to_le_bytes());
        let mut bitmap = [0xff_u8; IO_BITMAP];
        for port in flavour.user_ports() {
            if let Some(byte) = bitmap.get_mut(usize::from(port / 8)) {
                *byte &= !(1 << (port % 8));
            }
        }
        self.write(base + block::TSS + 104, &bitmap);
        Ok(())
    }

    /// Make the chunk at `address` present for CPL 3.
    ///
    /// # Errors
    /// No page directory is left.
    pub fn map_chunk(&mut self, address: u64, executable: bool) -> io::Result<()> {
        let rights = PRESENT | WRITABLE | USER | LARGE | ACCESSED_DIRTY;
        self.set_entry(address, address | rights | if executable { 0 } else { NX })
    }

    /// Store the directory entry of the chunk at `address`.
    fn set_entry(&mut self, address: u64, entry: u64) -> io::Result<()> {
        let slot = system::PDPT + (address >> 30 & 511) * 8;
        let mut directory = self.get(slot);
        if directory == 0 {
            if address >> 39 != 0 || self.next_directory >= system::END {
                return Err(io::Error::other(
                    "address beyond what the page directories can map",
                ));
            }
            directory = SYSTEM + self.next_directory;
            self.next_directory += PAGE;
            self.put(slot, directory | PRESENT | WRITABLE | USER | ACCESSED_DIRTY);
        }
        let offset = (directory & 0x000f_ffff_ffff_f000).wrapping_sub(SYSTEM);
        if !(system::DIRECTORIES..system::END).contains(&offset) {
            return Err(io::Error::other(
                "the guest's page directory pointers were overwritten",
            ));
        }
        self.put(offset + (address >> 21 & 511) * 8, entry);
        Ok(())
    }

    /// Copy out of the chunk; zeros beyond its end.
    #[must_use]
    pub fn get(&self, offset: u64) -> u64 {
        if offset > CHUNK - 8 {
            return 0;
        }
        // SAFETY: in bounds as checked; the chunk lives as long as `self`; unaligned and volatile since the
        // guest's CPU may write it.
        unsafe {
            self.memory
                .as_ptr()
                .add(offset as usize)
                .cast::<u64>()
                .read_volatile()
        }
    }

    fn put(&mut self, offset: u64, value: u64) {
        self.write(offset, &value.to_le_bytes());
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        if offset + bytes.len() as u64 > CHUNK {
            return;
        }
        // SAFETY: in bounds as checked; the source is Rust memory and does not overlap the chunk.
        unsafe {
            let to = self.memory.as_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }
}

impl Drop for SystemChunk {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size and nothing else points to it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), CHUNK as usize) };
    }
}

/// Bytes of the I/O bitmap: ports 0 to 0xff; every port beyond the TSS limit is forbidden.
const IO_BITMAP: usize = 33;
/// Limit of the task state segment: state and bitmap.
pub const TSS_LIMIT: u32 = 104 + IO_BITMAP as u32 - 1;
