//! One VM: its memory slots and directory entries. (unsafe: handing host memory to KVM.)

use super::Error;
use super::cpuid::Template;
use super::flavour::Flavour;
use super::system_chunk::SystemChunk;
use super::vcpu::Vcpu;
use crate::clock::{Clock, Identity};
use crate::layout::{
    CHUNK, CHUNKS, CLOCK_FRAME, DOORBELL_FRAME, HOLE_END, HOLE_START, SYSTEM_BASE, USER_END,
    USER_START, is_user_range, system,
};
use kvm_bindings::{
    KVM_CAP_DISABLE_QUIRKS2, KVM_MEM_READONLY, KVM_X86_QUIRK_SLOT_ZAP_ALL, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{
    Cap, IoEventAddress, Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags,
    NoDatamatch, VmFd,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// A slot grows its neighbour's size twofold, up to this many chunks: one slot costs 78 us under shadow paging,
/// a needlessly large one 16 KiB per chunk.
const GROWTH_LIMIT: usize = 16;

/// Chunk states. A covered chunk lies in a slot and is present.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Absent,
    Covered { slot_size: u16, executable: bool },
}

struct Slots {
    chunks: Chunks,
    next: u32,
    clock: bool,
    /// Those of the window, for [`Vm::hide`] and [`Vm::show`].
    user: Vec<UserSlot>,
}

/// Number, guest address and size of a slot that shows the window.
type UserSlot = (u32, u64, u64);

/// Those that are not absent, by index: a few dozen of 32,768.
#[derive(Default)]
struct Chunks(BTreeMap<usize, Chunk>);

impl Chunks {
    fn at(&self, index: usize) -> Chunk {
        self.0.get(&index).copied().unwrap_or(Chunk::Absent)
    }

    fn set(&mut self, index: usize, chunk: Chunk) {
        self.0.insert(index, chunk);
    }
}

pub struct Vm {
    // Declared first so that it is dropped before the memory it refers to.
    fd: VmFd,
    window: u64,
    system: SystemChunk,
    flavour: Flavour,
    template: Template,
    slots: Mutex<Slots>,
    vcpus: Mutex<u64>,
    slot_limit: u32,
}

impl Vm {
    /// A VM whose user memory is the window at host address `window` (0: none, for the probe).
    ///
    /// # Errors
    /// KVM refuses a call; the reason names it.
    pub fn new(
        kvm: &Kvm,
        template: Template,
        flavour: Flavour,
        window: u64,
    ) -> Result<Self, Error> {
        let fd = kvm
            .create_vm()
            .map_err(|e| Error::Call("KVM_CREATE_VM", e))?;
        restrict(kvm, &fd)?;
        let system =
            SystemChunk::new(flavour).map_err(|e| Error::Io("allocate the system chunk", e))?;
        let vm = Self {
            fd,
            window,
            system,
            flavour,
            template,
            slots: Mutex::new(Slots {
                chunks: Chunks::default(),
                next: 1,
                clock: false,
                user: Vec::new(),
            }),
            vcpus: Mutex::new(0),
            slot_limit: u32::try_from(kvm.get_nr_memslots()).unwrap_or(509),
        };
        vm.set_slot(0, SYSTEM_BASE, CHUNK, vm.system.host_address())?;
        Ok(vm)
    }

    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    #[must_use]
    pub fn system(&self) -> &SystemChunk {
        &self.system
    }

    #[must_use]
    pub fn window(&self) -> u64 {
        self.window
    }

    #[must_use]
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Switch stubs. Only before the first vCPU has run with a guest's code.
    pub fn set_flavour(&mut self, flavour: Flavour) {
        self.flavour = flavour;
        self.system.set_flavour(flavour);
    }

    /// A fresh vCPU, at CPL 3 with nothing in its registers.
    ///
    /// # Errors
    /// The limit of vCPUs is reached, or KVM refuses a call.
    pub fn create_vcpu(&self) -> Result<Vcpu, Error> {
        let mut count = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        if *count >= system::VCPU_COUNT {
            return Err(Error::Io("create a vCPU", io::ErrorKind::WouldBlock.into()));
        }
        let index = *count;
        *count += 1;
        drop(count);
        let fd = self
            .fd
            .create_vcpu(index)
            .map_err(|e| Error::Call("KVM_CREATE_VCPU", e))?;
        let task = self.system.prepare_vcpu(index, self.flavour);
        Vcpu::new(fd, task, self.flavour, &self.template)
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_slot(&self, slot: u32, guest: u64, size: u64, host: u64) -> Result<(), Error> {
        self.set_slot_with(slot, guest, size, host, 0)
    }

    fn set_slot_with(
        &self,
        slot: u32,
        guest: u64,
        size: u64,
        host: u64,
        flags: u32,
    ) -> Result<(), Error> {
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host,
        };
        // SAFETY: the range is the system chunk's mapping, the kernel's own vDSO, or lies in the window; all outlive the
        // VM and never have a hole that something else could fill.
        unsafe { self.fd.set_user_memory_region(region) }
            .map_err(|e| Error::Call("KVM_SET_USER_MEMORY_REGION", e))
    }

    /// Cover the chunks that `[start, end)` touches with slots and make them present.
    ///
    /// # Errors
    /// `InvalidInput` outside user space; `OutOfMemory` when slots run out; what the ioctl failed with.
    pub fn back(&self, start: u64, end: u64, grow: bool) -> io::Result<()> {
        check(start, end)?;
        let (first, last) = chunk_range(start, end);
        let mut slots = self.slots();
        let mut at = first;
        while at < last {
            if slots.chunks.at(at) != Chunk::Absent {
                at += 1;
                continue;
            }
            let mut run_end = at + 1;
            while run_end < last && slots.chunks.at(run_end) == Chunk::Absent {
                run_end += 1;
            }
            let (low, high) = if grow {
                grown(&slots.chunks, at, run_end)
            } else {
                (at, run_end)
            };
            self.cover(&mut slots, low, high, grow)?;
            at = run_end;
        }
        Ok(())
    }

    fn cover(&self, slots: &mut Slots, low: usize, high: usize, grow: bool) -> io::Result<()> {
        if slots.next >= self.slot_limit {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let (guest, size) = (low as u64 * CHUNK, (high - low) as u64 * CHUNK);
        self.set_slot(slots.next, guest, size, self.window + guest)?;
        let made = (slots.next, guest, size);
        slots.user.push(made);
        slots.next += 1;
        // One that is as large as what is asked for says nothing about growth.
        let slot_size = if grow { high - low } else { 1 };
        let slot_size = u16::try_from(slot_size).unwrap_or(u16::MAX);
        for index in low..high {
            let chunk = Chunk::Covered {
                slot_size,
                executable: false,
            };
            slots.chunks.set(index, chunk);
            self.system.set_chunk(index as u64, Some(false));
        }
        Ok(())
    }

    /// Take the guest's memory from its sight, and with it what KVM keeps for each page and its shadow of the page tables: while no
    /// vCPU runs, until [`Vm::show`].
    ///
    /// # Errors
    /// What the ioctl failed with; some of it may be hidden.
    pub fn hide(&self) -> Result<(), Error> {
        let slots = self.slots();
        for &(number, guest, _) in &slots.user {
            self.set_slot(number, guest, 0, self.window + guest)?;
        }
        Ok(())
    }

    /// Show again what is hidden.
    ///
    /// # Errors
    /// What the ioctl failed with: the guest must not go on.
    pub fn show(&self) -> Result<(), Error> {
        let slots = self.slots();
        for &(number, guest, size) in &slots.user {
            self.set_slot(number, guest, size, self.window + guest)?;
        }
        Ok(())
    }

    /// Allow or forbid execution in the chunks that `[start, end)` touches. A permission taken away holds for a page
    /// from its next change in the host's mapping on, which is what takes it away.
    ///
    /// # Errors
    /// As [`Vm::back`].
    pub fn set_executable(&self, start: u64, end: u64, allow: bool) -> io::Result<()> {
        check(start, end)?;
        let (first, last) = chunk_range(start, end);
        let mut slots = self.slots();
        for (&index, chunk) in slots.chunks.0.range_mut(first..last) {
            if let Chunk::Covered { executable, .. } = chunk
                && *executable != allow
            {
                *executable = allow;
                self.system.set_chunk(index as u64, Some(allow));
            }
        }
        Ok(())
    }

    #[must_use]
    pub fn is_executable(&self, address: u64) -> bool {
        let index = (address / CHUNK) as usize;
        matches!(
            self.slots().chunks.at(index),
            Chunk::Covered {
                executable: true,
                ..
            }
        )
    }

    /// Show the host's vDSO to the guest, read-only, but for the function that tells the CPU. Before the guest runs.
    ///
    /// # Errors
    /// `AlreadyExists`, or KVM refuses the slot.
    pub fn map_clock(&self, clock: &Clock) -> Result<(), Error> {
        let mut slots = self.slots();
        if slots.clock {
            let taken = io::ErrorKind::AlreadyExists.into();
            return Err(Error::Io("map the vDSO", taken));
        }
        let Identity {
            data_pages,
            code_pages,
            ..
        } = clock.identity;
        let size = (data_pages + code_pages) * crate::layout::PAGE;
        self.set_slot_with(slots.next, CLOCK_FRAME, size, clock.host, KVM_MEM_READONLY)?;
        slots.next += 1;
        slots.clock = true;
        self.system.map_clock(data_pages, code_pages);
        for (number, (index, content)) in (0..).zip(clock.own_pages()) {
            let page = data_pages + index;
            self.system.replace_clock_page(number, page, &content);
        }
        Ok(())
    }

    /// Make a store to the doorbell's page signal `event`, without an exit to this process.
    ///
    /// # Errors
    /// `AlreadyExists` for a second doorbell, else what the ioctl failed with.
    pub fn map_doorbell(&self, event: RawFd) -> io::Result<()> {
        // Held until the page is there: one call makes it.
        let _slots = self.slots();
        if self.system.has_doorbell() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // SAFETY: the descriptor is borrowed for the duration of the call only; KVM takes its own reference.
        let event = unsafe { BorrowedFd::borrow_raw(event) };
        let event = event.try_clone_to_owned()?;
        // SAFETY: ownership of the duplicate passes on.
        let event = unsafe { EventFd::from_raw_fd(event.into_raw_fd()) };
        // Length 0: a store of any size at the page's first byte.
        self.fd
            .register_ioevent(&event, &IoEventAddress::Mmio(DOORBELL_FRAME), NoDatamatch)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        self.system.map_doorbell(true);
        Ok(())
    }

    /// Show a page of memory where a doorbell would be: a copy of a guest that has one may store there.
    pub fn map_silent_doorbell(&self) {
        let _slots = self.slots();
        if !self.system.has_doorbell() {
            self.system.map_doorbell(false);
        }
    }
}

fn check(start: u64, end: u64) -> io::Result<()> {
    if is_user_range(start, end) {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

fn chunk_range(start: u64, end: u64) -> (usize, usize) {
    ((start / CHUNK) as usize, end.div_ceil(CHUNK) as usize)
}

/// Extend the absent run `[low, high)` away from a covered neighbour, by twice that neighbour's slot.
fn grown(chunks: &Chunks, low: usize, high: usize) -> (usize, usize) {
    let size_of = |index: usize| match chunks.at(index) {
        Chunk::Covered { slot_size, .. } => Some(usize::from(slot_size)),
        _ => None,
    };
    let wanted = |size: usize| (size * 2).min(GROWTH_LIMIT);
    let free = |index: usize| {
        let address = index as u64 * CHUNK;
        (USER_START..USER_END).contains(&address)
            && !(HOLE_START..HOLE_END).contains(&address)
            && chunks.at(index) == Chunk::Absent
    };
    let (mut start, mut end) = (low, high);
    if let Some(size) = low.checked_sub(1).and_then(size_of) {
        while end - start < wanted(size) && end < CHUNKS && free(end) {
            end += 1;
        }
    } else if let Some(size) = size_of(high) {
        while end - start < wanted(size) && start > 0 && free(start - 1) {
            start -= 1;
        }
    }
    (start, end)
}

/// No MSR is the guest's business, and of KVM's quirks one is wanted: that nothing is kept of a slot that goes.
fn restrict(kvm: &Kvm, fd: &VmFd) -> Result<(), Error> {
    if kvm.check_extension(Cap::X86MsrFilter) {
        let bitmap = [0_u8; 1];
        let range = MsrFilterRange {
            flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
            base: 0,
            msr_count: 8,
            bitmap: &bitmap,
        };
        fd.set_msr_filter(MsrFilterDefaultAction::DENY, &[range])
            .map_err(|e| Error::Call("KVM_X86_SET_MSR_FILTER", e))?;
    }
    let quirks = kvm.check_extension_raw(u64::from(KVM_CAP_DISABLE_QUIRKS2))
        & !KVM_X86_QUIRK_SLOT_ZAP_ALL.cast_signed();
    if quirks > 0 {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_DISABLE_QUIRKS2,
            ..Default::default()
        };
        cap.args[0] = quirks.unsigned_abs().into();
        fd.enable_cap(&cap)
            .map_err(|e| Error::Call("KVM_CAP_DISABLE_QUIRKS2", e))?;
    }
    Ok(())
}
