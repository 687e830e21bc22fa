//! The hypervisor: one KVM microVM per process, without a guest kernel.

pub mod clock;
pub mod config;
pub mod exits;
pub mod family;
pub mod fault;
pub mod forward;
pub mod front;
pub mod guest;
pub mod hold;
pub mod jail;
pub mod kvm;
pub mod layout;
pub mod microvm;
pub mod names;
pub mod process;
pub mod report;
pub mod serve;
pub mod shell;
pub mod snapshot;
pub mod syscalls;
pub mod xsave;
