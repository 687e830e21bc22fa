//! The microVM: memory slots, tables, virtual CPUs, and what differs between PVM and hardware.

pub mod cpuid;
pub mod flavour;
pub mod probe;
mod setup;
pub mod system_chunk;
pub mod touch;
pub mod vcpu;
pub mod vm;

use std::io;

/// A KVM call that failed, with what it was for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: {1}")]
    Call(&'static str, kvm_ioctls::Error),
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// The machine does not behave as the chosen stub needs; running on would not be safe.
    #[error("{0}")]
    Unsafe(String),
    /// The guest did what no program at CPL 3 can do by mistake of ours or KVM gave up on it.
    #[error("the virtual machine stopped: {0}")]
    Stopped(String),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Call(_, errno) => Self::from_raw_os_error(errno.errno()),
            Error::Io(_, error) => error,
            other => Self::other(other.to_string()),
        }
    }
}
