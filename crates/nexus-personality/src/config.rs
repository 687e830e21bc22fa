//! What a guest is: its program, files and limits.

use crate::ledger::Lent;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

/// One entry of the root table: a guest path prefix and the host directory or file behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// Absolute guest path.
    pub guest: String,
    /// Host directory or regular file.
    pub host: PathBuf,
    /// Whether the guest may change what is there.
    #[serde(default)]
    pub writable: bool,
}

/// The program to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Guest path of an ELF executable.
    pub path: String,
    /// Argument vector.
    pub argv: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, a guest path.
    #[serde(default = "root_directory")]
    pub cwd: String,
    /// Arguments and environment as a guest gave them, which need not be text; they replace those above.
    #[serde(skip)]
    pub exact: Option<Arc<Exact>>,
}

/// Strings of an `execve`, byte by byte.
#[derive(Debug)]
pub struct Exact {
    /// Argument vector.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE`, in the order given.
    pub env: Vec<Vec<u8>>,
    /// What keeping them is charged as, once for all copies of the process.
    pub charge: Lent,
}

impl Program {
    /// The argument vector.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        match &self.exact {
            Some(exact) => exact.argv.clone(),
            None => self.argv.iter().map(|a| a.clone().into_bytes()).collect(),
        }
    }

    /// The environment, `NAME=VALUE`.
    #[must_use]
    pub fn environment(&self) -> Vec<Vec<u8>> {
        match &self.exact {
            Some(exact) => exact.env.clone(),
            None => (self.env.iter())
                .map(|(name, value)| format!("{name}={value}").into_bytes())
                .collect(),
        }
    }
}

fn root_directory() -> String {
    "/".to_owned()
}

/// Descriptors of the device, inherited by the hypervisor.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDescriptors {
    /// Sealed memfd.
    pub arena: RawFd,
    /// eventfd, guest to backend.
    pub doorbell: RawFd,
    /// eventfd, backend to guest: of a host process. A hypervisor waits for a word of the arena.
    #[serde(default)]
    pub completion: Option<RawFd>,
    /// Channel to the backend for connections to the outside.
    #[serde(default)]
    pub network: Option<RawFd>,
}

/// Everything the personality must know of a guest.
#[derive(Clone, Debug)]
pub struct Config {
    /// Limit of private memory in MiB.
    pub memory_mib: u64,
    /// Limit of `/tmp` in MiB.
    pub tmp_mib: u64,
    /// Threads at most.
    pub max_threads: usize,
    /// CPUs that the guest is told of.
    pub cpus: u32,
    /// Host name that the guest is told of.
    pub hostname: String,
    /// Root table.
    pub roots: Vec<Root>,
    /// Program.
    pub program: Program,
    /// Guest address of a vDSO that the machine shows, or 0.
    pub vdso: u64,
    /// Device, if the guest has one.
    pub device: Option<DeviceDescriptors>,
    /// Whether the device's SNAPSHOT call takes one; else it returns 0.
    pub wants_snapshot: bool,
}
