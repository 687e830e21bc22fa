//! A virtual machine: memslots over the window, the system chunk, and its vCPUs.

use super::flavour::Flavour;
use super::layout::{CHUNK, PAGE, SYSTEM};
use super::tables::SystemChunk;
use super::vcpu::Vcpu;
use super::{Error, doing};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VmFd};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{FromRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Largest growth of a memslot beyond what was asked for. Under shadow paging a slot costs memory by its
/// size (64 MiB: 0.35 MiB), on any machine by its number.
const MAX_GROWTH: u64 = 32 << 20;
/// No slot here: KVM and the APIC have pages of their own below 4 GiB.
const RESERVED: std::ops::Range<u64> = 0xc000_0000..0x1_0000_0000;

/// One microVM.
pub struct Vm {
    fd: VmFd,
    flavour: Flavour,
    cpuid: CpuId,
    window: u64,
    end: u64,
    memory: Mutex<Memory>,
}

struct Memory {
    chunk: SystemChunk,
    /// Start and end of each memslot.
    slots: BTreeMap<u64, u64>,
    /// Chunks that are present in the guest's tables, and whether they are executable.
    present: BTreeMap<u64, bool>,
    vcpus: u64,
    doorbell: Option<u64>,
    numbers: u32,
}

impl Vm {
    /// Create a machine whose user space `[4 MiB, end)` is at host address `window` + guest address.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(kvm: &Kvm, flavour: Flavour, window: u64, end: u64) -> Result<Self, Error> {
        let fd = kvm
            .create_vm()
            .map_err(doing("creating the virtual machine"))?;
        // Needed on Intel hardware before the first vCPU runs; the pages lie in the reserved GiB.
        let _ = fd.set_tss_address(0xfffb_d000);
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(doing("reading the supported CPUID leaves"))?;
        let chunk = SystemChunk::new(flavour).map_err(|e| Error {
            doing: "allocating the guest's tables",
            source: kvm_ioctls::Error::new(e.raw_os_error().unwrap_or(libc::ENOMEM)),
        })?;
        let vm = Self {
            fd,
            flavour,
            cpuid,
            window,
            end,
            memory: Mutex::new(Memory {
                chunk,
                slots: BTreeMap::new(),
                present: BTreeMap::new(),
                vcpus: 0,
                doorbell: None,
                numbers: 0,
            }),
        };
        let mut memory = vm.memory();
        let host = memory.chunk.host_address();
        vm.add_slot(&mut memory, SYSTEM, SYSTEM + CHUNK, host)
            .map_err(doing("mapping the system chunk"))?;
        drop(memory);
        Ok(vm)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How this machine enters its stub.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// CPUID leaves for the vCPUs.
    #[must_use]
    pub fn cpuid(&self) -> &CpuId {
        &self.cpuid
    }

    /// Read eight bytes of the system chunk, at an offset in it.
    #[must_use]
    pub fn system_word(&self, offset: u64) -> u64 {
        self.memory().chunk.get(offset)
    }

    /// Create a vCPU. They are never freed before the machine is: pool them.
    ///
    /// # Errors
    /// The limit of vCPUs, or KVM's.
    pub fn create_vcpu(&self) -> io::Result<Vcpu<'_>> {
        let index = {
            let mut memory = self.memory();
            let index = memory.vcpus;
            memory.chunk.write_block(index, self.flavour)?;
            memory.vcpus += 1;
            index
        };
        let fd = self
            .fd
            .create_vcpu(index)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        Vcpu::new(self, fd, index).map_err(io::Error::other)
    }

    fn add_slot(
        &self,
        memory: &mut Memory,
        start: u64,
        end: u64,
        host: u64,
    ) -> Result<(), kvm_ioctls::Error> {
        let region = kvm_userspace_memory_region {
            slot: memory.numbers,
            flags: 0,
            guest_phys_addr: start,
            memory_size: end - start,
            userspace_addr: host,
        };
        // SAFETY: the host range is the system chunk or a part of the window; both outlive the machine, are
        // reserved for the guest, and no Rust reference ever points into them.
        unsafe { self.fd.set_user_memory_region(region)? };
        memory.numbers += 1;
        memory.slots.insert(start, end);
        Ok(())
    }

    /// Cover `[start, end)` with slots; grow beyond it, geometrically, in the direction away from a neighbour.
    fn cover(&self, memory: &mut Memory, start: u64, end: u64) -> Result<(), kvm_ioctls::Error> {
        let mut at = start;
        while at < end {
            let below = memory.slots.range(..=at).next_back().map(|(s, e)| (*s, *e));
            if let Some((_, covered)) = below.filter(|(_, e)| *e > at) {
                at = covered;
                continue;
            }
            let next = memory.slots.range(at..).next().map(|(s, e)| (*s, *e));
            let ceiling = next.map_or(self.end, |(s, _)| s);
            let mut low = at;
            let mut high = end.min(ceiling);
            if let Some((s, e)) = below.filter(|(_, e)| *e == at && at != SYSTEM + CHUNK) {
                high = high.max(at + (e - s).min(MAX_GROWTH)).min(ceiling);
            } else if let Some((s, e)) = next.filter(|(s, _)| *s == high) {
                let floor = below.map_or(SYSTEM + CHUNK, |(_, e)| e);
                low = low
                    .min(at.saturating_sub((e - s).min(MAX_GROWTH)))
                    .max(floor);
            }
            if low < RESERVED.end && high > RESERVED.start {
                (low, high) = (at, end.min(ceiling));
            }
            self.add_slot(memory, low, high, self.window + low)?;
            at = high;
        }
        Ok(())
    }

    /// As `Machine::back`.
    ///
    /// # Errors
    /// Beyond the window, in the reserved GiB, or KVM has no slot left.
    pub fn back(&self, start: u64, end: u64) -> io::Result<()> {
        let (start, end) = (start & !(CHUNK - 1), end.next_multiple_of(CHUNK));
        if start < SYSTEM + CHUNK
            || end > self.end
            || (start < RESERVED.end && end > RESERVED.start)
        {
            return Err(io::Error::other("address outside of what a guest may map"));
        }
        let mut memory = self.memory();
        self.cover(&mut memory, start, end)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        for address in (start..end).step_by(CHUNK as usize) {
            if !memory.present.contains_key(&address) {
                memory.chunk.map_chunk(address, false)?;
                memory.present.insert(address, false);
            }
        }
        Ok(())
    }

    /// As `Machine::set_executable`.
    ///
    /// # Errors
    /// As [`Vm::back`].
    pub fn set_executable(&self, start: u64, end: u64, executable: bool) -> io::Result<()> {
        let mut memory = self.memory();
        let range = start & !(CHUNK - 1)..end.next_multiple_of(CHUNK);
        let stale: BTreeSet<u64> = memory
            .present
            .range(range)
            .filter(|(_, x)| **x != executable)
            .map(|(a, _)| *a)
            .collect();
        for address in stale {
            memory.chunk.map_chunk(address, executable)?;
            memory.present.insert(address, executable);
        }
        Ok(())
    }

    /// Whether the chunk of `address` is present and executable in the guest's tables.
    #[must_use]
    pub fn executable(&self, address: u64) -> bool {
        self.memory()
            .present
            .get(&(address & !(CHUNK - 1)))
            .copied()
            .unwrap_or(false)
    }

    /// As `Machine::map_doorbell`: the page must lie in a chunk that has no slot.
    ///
    /// # Errors
    /// The chunk is in use, there is a doorbell already, or KVM refuses.
    pub fn map_doorbell(&self, address: u64, event: RawFd) -> io::Result<()> {
        let mut memory = self.memory();
        let chunk = address & !(CHUNK - 1);
        let covered = memory
            .slots
            .range(..=chunk)
            .next_back()
            .is_some_and(|(_, e)| *e > chunk);
        if covered || memory.doorbell.is_some() || address >= self.end || address % PAGE != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        // SAFETY: the duplicate is a new descriptor that nobody else owns.
        let duplicate = unsafe { libc::fcntl(event, libc::F_DUPFD_CLOEXEC, 0) };
        if duplicate < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; it is closed when `event` drops, KVM keeps a reference of its own.
        let event = unsafe { EventFd::from_raw_fd(duplicate) };
        self.fd
            .register_ioevent(&event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        memory.chunk.map_chunk(chunk, false)?;
        memory.doorbell = Some(address);
        Ok(())
    }
}
