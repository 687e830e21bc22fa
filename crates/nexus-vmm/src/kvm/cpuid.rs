//! The CPUID leaves a guest sees on hardware, and the native leaves a snapshot is judged by.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

/// XCR0: x87 and SSE, which every x86-64 CPU with XSAVE has.
const XCR0_LEGACY: u64 = 0x03;
/// The same, AVX, and AVX-512 where the machine has it. No AMX, no PKU.
const XCR0_AVX: u64 = 0x07;
const XCR0_AVX512: u64 = 0xe7;

#[derive(Clone)]
pub struct Template {
    pub leaves: CpuId,
    pub xcr0: u64,
    /// Bytes of a standard-format XSAVE area with these components.
    pub xsave_size: usize,
    pub has: Features,
}

/// Control register bits that need the CPU's support.
#[derive(Clone, Copy, Default)]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub xsave: bool,
}

/// The native leaves that tell whether a snapshot's code paths exist on this CPU. CPUID costs an exit where the
/// host is itself virtual, so it is few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeLeaves {
    pub vendor: [u32; 3],
    pub family: u32,
    pub features: [u32; 2],
    pub extended: [u32; 3],
}

impl NativeLeaves {
    #[must_use]
    pub fn read() -> Self {
        use core::arch::x86_64::{__cpuid, __cpuid_count};
        let (zero, one, seven) = (__cpuid(0), __cpuid(1), __cpuid_count(7, 0));
        Self {
            vendor: [zero.ebx, zero.ecx, zero.edx],
            family: one.eax,
            // OSXSAVE follows the host's CR4 and says nothing of the CPU.
            features: [one.ecx & !(1 << 27), one.edx],
            extended: [seven.ebx, seven.ecx & !(1 << 4), seven.edx],
        }
    }
}

impl Template {
    /// What KVM supports, without what a snapshot could not carry to another machine of the same kind.
    ///
    /// # Errors
    /// `KVM_GET_SUPPORTED_CPUID` failed.
    pub fn supported(kvm: &Kvm) -> Result<Self, super::Error> {
        let mut leaves = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|e| super::Error::Call("KVM_GET_SUPPORTED_CPUID", e))?;
        let mut available = 0;
        for entry in leaves.as_mut_slice() {
            available |= mask(entry);
        }
        let xcr0 = if available & XCR0_AVX512 == XCR0_AVX512 {
            XCR0_AVX512
        } else {
            available & XCR0_AVX
        };
        for entry in leaves.as_mut_slice() {
            match (entry.function, entry.index) {
                // XSAVE, and OSXSAVE since CR4 will have it, wherever there is state to save: KVM under PVM may leave XSAVE out
                // here though leaf 0xD, XCR0 and the instructions work, and a thread's state would then fit no vCPU.
                (1, _) if xcr0 & XCR0_LEGACY == XCR0_LEGACY => entry.ecx |= 1 << 26 | 1 << 27,
                (0xd, 0) => {
                    entry.eax = xcr0 as u32;
                    entry.edx = 0;
                }
                _ => {}
            }
        }
        Ok(Self::finished(leaves))
    }

    /// From leaves that are as the guest shall see them.
    #[must_use]
    pub fn finished(leaves: CpuId) -> Self {
        let mut has = Features::default();
        let mut xcr0 = 0;
        for entry in leaves.as_slice() {
            match (entry.function, entry.index) {
                (1, _) => has.xsave = entry.ecx & (1 << 26) != 0,
                (7, 0) => {
                    has.smep = entry.ebx & (1 << 7) != 0;
                    has.smap = entry.ebx & (1 << 20) != 0;
                    has.umip = entry.ecx & (1 << 2) != 0;
                }
                (0xd, 0) => xcr0 = u64::from(entry.eax) & XCR0_AVX512,
                _ => {}
            }
        }
        let xsave_size = leaves
            .as_slice()
            .iter()
            .filter(|leaf| leaf.function == 0xd && (2..63).contains(&leaf.index))
            .filter(|leaf| xcr0 & (1 << leaf.index) != 0)
            .map(|leaf| u64::from(leaf.ebx) + u64::from(leaf.eax))
            .fold(576, u64::max)
            .min(4096) as usize;
        Self {
            leaves,
            xcr0,
            xsave_size,
            has,
        }
    }
}

/// Take away what is masked from one leaf; returns the XCR0 bits that leaf 0xD offers.
fn mask(entry: &mut kvm_cpuid_entry2) -> u64 {
    match (entry.function, entry.index) {
        // MONITOR, VMX, x2APIC, TSC deadline. Which CPU this was asked on is nobody's business, and must not tell one
        // machine from itself: here, in the leaves of the topology and in AMD's.
        (1, _) => {
            entry.ecx &= !((1 << 3) | (1 << 5) | (1 << 21) | (1 << 24));
            entry.ebx &= 0x00ff_ffff;
        }
        (0xb | 0x1f, _) => entry.edx = 0,
        (0x8000_001e, _) => entry.eax = 0,
        (7, 0) => {
            entry.ebx &= !((1 << 2) | (1 << 4) | (1 << 11)); // SGX, HLE, RTM
            entry.ecx &= !((1 << 3) | (1 << 4)); // PKU, OSPKE
            entry.edx &= !((1 << 22) | (1 << 24) | (1 << 25)); // AMX
        }
        // Performance monitoring and KVM's own leaves: nothing of either is served.
        (0xa | 0x4000_0000..=0x4000_00ff, _) => {
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
        }
        (0xd, 0) => return u64::from(entry.eax),
        (0x1d | 0x1e, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_whichever_cpu_asks() {
        let entry = |function, ebx, edx| kvm_cpuid_entry2 {
            function,
            ebx,
            edx,
            eax: edx,
            ..Default::default()
        };
        // As asked on CPU `n`: the numbers of Intel's and AMD's leaves that name it.
        let asked = |n: u32| {
            let mut leaves = [
                entry(1, n << 24 | 0x0002_0800, 0),
                entry(0xb, 1, n),
                entry(0x1f, 1, n),
                entry(0x8000_001e, 0, n),
            ];
            leaves.iter_mut().for_each(|leaf| {
                mask(leaf);
            });
            // AMD's is in EAX, the topology's in EDX.
            leaves.map(|l| match l.function {
                0x8000_001e => (l.eax, l.ebx),
                _ => (l.edx, l.ebx),
            })
        };
        assert_eq!(asked(0), asked(1));
        assert_eq!(asked(1)[0], (0, 0x0002_0800), "the rest stays");
    }
}
