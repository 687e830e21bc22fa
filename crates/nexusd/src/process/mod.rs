//! `nexus-vmm` processes: how they are started, told what to do, watched and ended.

pub mod cgroup;
pub mod child;
pub mod launch;
pub mod pipe;
pub mod report;
pub mod shells;
pub mod spawner;

/// Descriptor numbers in the VMM; the configuration names them.
pub mod numbers {
    use std::os::fd::RawFd;

    pub const ARENA: RawFd = 3;
    pub const DOORBELL: RawFd = 4;
    /// Of a host process only.
    pub const COMPLETION: RawFd = 5;
    pub const REPORT: RawFd = 6;
    pub const CONFIG: RawFd = 7;
    pub const NETWORK: RawFd = 8;
    /// Of a shell, above all that is handed to it.
    pub const CONTROL: RawFd = 16;
}
