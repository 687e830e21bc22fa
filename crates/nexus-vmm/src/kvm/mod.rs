//! The virtual machine: everything that talks to KVM.

pub mod flavour;
pub mod layout;
pub mod tables;
pub mod vcpu;
pub mod vm;

use std::fmt;

/// A KVM call that failed, with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct Error {
    doing: &'static str,
    source: kvm_ioctls::Error,
}

/// Say what was being done when an ioctl failed.
pub fn doing(doing: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |source| Error { doing, source }
}

/// Why a guest cannot go on: it did what no guest of this hypervisor may, or KVM could not carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
