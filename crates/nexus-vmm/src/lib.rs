//! The hypervisor: one KVM microVM per process, without a guest kernel.

pub mod kvm;
pub mod layout;
pub mod xsave;
