//! Everything that differs between PVM (KVM without VMX or SVM) and hardware virtualisation.
//!
//! On hardware `syscall` enters the stub at CPL 0, so the stub lies in supervisor memory and SMEP and SMAP are
//! on. PVM emulates CPL 0 and leaves the code at LSTAR at CPL 3: there the stub is user-accessible, read-only, and the
//! I/O bitmap opens its one port. The PVM stub on hardware would run guest code at CPL 0, so the choice is checked
//! at every system call: the code segment must be the one that the flavour implies.

use crate::layout::{PORT_SYSCALL, selector};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    Pvm,
    Hardware,
}

const PORT: u8 = PORT_SYSCALL as u8;
/// `out %al, $port` is two bytes in both stubs.
pub const OUT_LENGTH: u64 = 2;

impl Flavour {
    /// `out; jmp *%rcx` or `out; sysretq`.
    #[must_use]
    pub fn stub(self) -> &'static [u8] {
        match self {
            Self::Pvm => &[0xe6, PORT, 0xff, 0xe1],
            Self::Hardware => &[0xe6, PORT, 0x48, 0x0f, 0x07],
        }
    }

    /// Code segment of the stub, and so of every system call's exit.
    #[must_use]
    pub fn syscall_cs(self) -> u16 {
        match self {
            Self::Pvm => selector::USER_CODE,
            Self::Hardware => selector::KERNEL_CODE,
        }
    }

    #[must_use]
    pub fn stub_is_user(self) -> bool {
        self == Self::Pvm
    }

    /// Supervisor-mode protections to ask for. PVM runs no guest code at CPL 0 natively.
    #[must_use]
    pub fn protections(self) -> bool {
        self == Self::Hardware
    }

    /// KVM keeps a TSC offset per VM on hardware; PVM shows the host's counter.
    #[must_use]
    pub fn has_tsc_offset(self) -> bool {
        self == Self::Hardware
    }

    /// May CPL 3 use the system call port (the I/O bitmap's one opening)?
    #[must_use]
    pub fn opens_port(self) -> bool {
        self == Self::Pvm
    }

    /// Does KVM map a page's neighbours along with it at a fault, where they are there to be written? Under shadow paging.
    #[must_use]
    pub fn maps_neighbours(self) -> bool {
        self == Self::Pvm
    }

    /// Name as `nexus-vmm probe` gives it: pvm, svm or vmx.
    #[must_use]
    pub fn machine(self) -> &'static str {
        if self == Self::Pvm {
            return "pvm";
        }
        let leaf = core::arch::x86_64::__cpuid(0);
        // "GenuineIntel" and compatible say VMX; AMD and Hygon say SVM.
        if leaf.ebx == u32::from_le_bytes(*b"Auth") || leaf.ebx == u32::from_le_bytes(*b"Hygo") {
            "svm"
        } else {
            "vmx"
        }
    }
}
