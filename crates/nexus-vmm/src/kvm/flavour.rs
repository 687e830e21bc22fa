//! What differs between KVM on hardware (VMX, SVM) and PVM. All of it is here.

use super::layout::{EXCEPTION_PORT, SYSCALL_PORT, selector};
use serde::{Deserialize, Serialize};

/// How the machine enters the code at `LSTAR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// VMX or SVM: at CPL 0, in supervisor memory, under SMEP and SMAP.
    Hardware,
    /// PVM: CPL 0 is emulated, so the stub runs at CPL 3, in a page that is user-accessible and read-only.
    Pvm,
}

impl Flavour {
    /// The stub. On hardware `out; sysretq`; on PVM, whose emulator has no `sysretq`, `out; jmp *%rcx`.
    #[must_use]
    pub fn stub(self) -> Vec<u8> {
        let mut code = vec![0xe6, SYSCALL_PORT];
        code.extend_from_slice(match self {
            Self::Hardware => &[0x48, 0x0f, 0x07],
            Self::Pvm => &[0xff, 0xe1],
        });
        code
    }

    /// Whether the stub's page may be reached from CPL 3.
    #[must_use]
    pub fn stub_is_user(self) -> bool {
        self == Self::Pvm
    }

    /// The code segment at the exit of a system call. Any other one means that the wrong stub runs: a
    /// CPL 3 stub under hardware KVM would run user code at CPL 0.
    #[must_use]
    pub fn syscall_cs(self) -> u16 {
        match self {
            Self::Hardware => selector::KERNEL_CODE,
            Self::Pvm => selector::USER_CODE,
        }
    }

    /// Ports that CPL 3 may write. On PVM the stub itself is CPL 3; exception handlers are CPL 0 on both.
    #[must_use]
    pub fn user_ports(self) -> &'static [u8] {
        match self {
            Self::Hardware => &[],
            Self::Pvm => &[SYSCALL_PORT],
        }
    }
}

const _: () = assert!(EXCEPTION_PORT < 0x20 && SYSCALL_PORT < 0x20);
