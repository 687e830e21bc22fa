//! Which flavour of KVM is this? Asked by running a system call, starting with the stub that is safe everywhere.

use super::Error;
use super::cpuid::Template;
use super::flavour::Flavour;
use super::vcpu::Exit;
use super::vm::Vm;
use crate::layout::{SYSTEM_BASE, system};
use kvm_ioctls::{Cap, Kvm};
use serde::Serialize;

/// What `nexus-vmm probe` tells.
#[derive(Serialize)]
pub struct Report {
    /// The same twice: two readers, two names.
    pub usable: bool,
    pub kvm: bool,
    pub machine: &'static str,
    pub reason: String,
}

impl Report {
    #[must_use]
    pub fn make() -> Self {
        match open().and_then(|kvm| {
            let template = Template::supported(&kvm)?;
            flavour(&kvm, &template)
        }) {
            Ok(flavour) => Self {
                usable: true,
                kvm: true,
                machine: flavour.machine(),
                reason: match flavour {
                    Flavour::Pvm => "KVM works by PVM: software isolation, no VMX or SVM".into(),
                    Flavour::Hardware => "KVM works by hardware virtualisation".into(),
                },
            },
            Err(error) => Self {
                usable: false,
                kvm: false,
                machine: "none",
                reason: error.to_string(),
            },
        }
    }
}

/// Open /dev/kvm and check what nothing works without.
///
/// # Errors
/// No KVM, no permission, or too old.
pub fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|e| Error::Call("open /dev/kvm", e))?;
    if kvm.get_api_version() != 12 {
        return Err(Error::Stopped(format!(
            "KVM API {} is not 12",
            kvm.get_api_version()
        )));
    }
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
        (Cap::Xsave, "KVM_CAP_XSAVE"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(Error::Stopped(format!("this KVM lacks {name}")));
        }
    }
    Ok(kvm)
}

/// Run one system call with the hardware stub. Where it arrives at CPL 0, this is hardware. Where fetching the
/// stub faults because CPL 3 may not, this is PVM, and the same call must then arrive at CPL 3 with PVM's stub.
///
/// # Errors
/// Anything else: the machine is not one that this program knows to be safe.
pub fn flavour(kvm: &Kvm, template: &Template) -> Result<Flavour, Error> {
    match try_flavour(kvm, template, Flavour::Hardware)? {
        Exit::Syscall => Ok(Flavour::Hardware),
        Exit::Exception(e) if e.vector == 14 && e.address == SYSTEM_BASE + system::STUB => {
            match try_flavour(kvm, template, Flavour::Pvm)? {
                Exit::Syscall => Ok(Flavour::Pvm),
                exit => Err(Error::Unsafe(format!(
                    "the probe of PVM ended with {exit:x?}"
                ))),
            }
        }
        exit => Err(Error::Unsafe(format!(
            "the probe of hardware ended with {exit:x?}"
        ))),
    }
}

/// One system call with the stub of `flavour`: the first exit that is not an interruption.
///
/// # Errors
/// As [`flavour`]; a stub that is wrong for the machine is [`Error::Unsafe`].
pub fn try_flavour(kvm: &Kvm, template: &Template, flavour: Flavour) -> Result<Exit, Error> {
    let vm = Vm::new(kvm, template.clone(), flavour, 0)?;
    let mut vcpu = vm.create_vcpu()?;
    vcpu.regs_mut().rip = vm.system().map_probe();
    loop {
        match vcpu.run(vm.system())? {
            Exit::Interrupted => {}
            exit => return Ok(exit),
        }
    }
}
