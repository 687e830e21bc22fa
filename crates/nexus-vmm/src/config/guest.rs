//! The parts of the configuration that describe the guest.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// One entry of the root table: a guest path prefix and the host directory or file behind it.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// eventfd, backend to guest.
    pub completion: RawFd,
}
