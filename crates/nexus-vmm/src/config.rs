//! The configuration that `nexus-vmm serve` reads: docs/protocols.md, "nexusd to nexus-vmm".

use nexus_personality::config::{DeviceDescriptors, Program, Root};
use serde::Deserialize;
use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, RawFd};
use std::path::PathBuf;

/// Largest document accepted, in bytes.
pub const MAX_DOCUMENT: u64 = 4 << 20;
const VERSION: u32 = 1;
/// Limits on limits: what the layout can carry.
const MAX_THREADS: usize = 390;
const MAX_MEMORY_MIB: u64 = 60 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Run,
    Initialise,
    Restore,
    Process,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// User and group to become, where started as root.
    pub uid: Option<u32>,
    pub landlock: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    pub version: u32,
    pub mode: Mode,
    pub memory_mib: u64,
    pub max_threads: usize,
    pub tmp_mib: u64,
    pub cpus: u32,
    pub hostname: String,
    #[serde(default)]
    pub roots: Vec<Root>,
    #[serde(default)]
    pub program: Program,
    pub device: Option<DeviceDescriptors>,
    pub report: Option<RawFd>,
    pub snapshot: Option<PathBuf>,
    /// The snapshot to initialise from, which the one that is taken rests on.
    #[serde(default)]
    pub base: Option<PathBuf>,
    /// What is known of the pages that the snapshot's clones write: a hint.
    #[serde(default)]
    pub working_set: Option<PathBuf>,
    /// For a shell: the same of snapshots that rest on `snapshot`, any of which it may become.
    #[serde(default)]
    pub likely: Vec<PathBuf>,
    /// Record the working set when asked.
    #[serde(default)]
    pub record: bool,
    /// Milliseconds at rest after which memory that shows what the snapshot shows is given back. Absent: never.
    #[serde(default)]
    pub tidy_ms: Option<u64>,
    pub jail: Jail,
}

impl Serve {
    /// Read the document from an inherited descriptor, which is closed.
    ///
    /// # Errors
    /// A sentence that names what is wrong.
    pub fn read(fd: RawFd) -> Result<Self, String> {
        if fd < 3 {
            return Err(format!(
                "--config-fd {fd}: a standard stream cannot carry the configuration"
            ));
        }
        // SAFETY: the caller names an inherited descriptor that nothing else in this process owns.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut text = Vec::new();
        file.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut text)
            .map_err(|e| format!("reading the configuration from descriptor {fd}: {e}"))?;
        if text.len() as u64 > MAX_DOCUMENT {
            return Err(format!(
                "the configuration is larger than {MAX_DOCUMENT} bytes"
            ));
        }
        Self::parse(&text)
    }

    /// Parse and check a document.
    ///
    /// # Errors
    /// As [`Serve::read`].
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Self =
            serde_json::from_slice(text).map_err(|e| format!("the configuration: {e}"))?;
        if config.version != VERSION {
            return Err(format!(
                "configuration version {} is not {VERSION}: nexusd and nexus-vmm are of different releases",
                config.version
            ));
        }
        let bounded = |name: &str, value: u64, most: u64| {
            (1..=most)
                .contains(&value)
                .then_some(())
                .ok_or_else(|| format!("{name} is {value}; it must be 1 to {most}"))
        };
        bounded("memory_mib", config.memory_mib, MAX_MEMORY_MIB)?;
        bounded("max_threads", config.max_threads as u64, MAX_THREADS as u64)?;
        bounded("cpus", u64::from(config.cpus), 64)?;
        let needs_snapshot = matches!(config.mode, Mode::Initialise | Mode::Restore);
        if needs_snapshot && config.snapshot.is_none() {
            return Err("this mode needs a `snapshot` directory".into());
        }
        if config.base.is_some() && config.mode != Mode::Initialise {
            return Err("`base` is for the mode `initialise`".into());
        }
        let has_eventfd = config.device.map(|device| device.completion.is_some());
        if has_eventfd.is_some_and(|has| has != (config.mode == Mode::Process)) {
            return Err("`device.completion` is for the mode `process`, which needs it".into());
        }
        if config.mode != Mode::Restore && config.program.argv.is_empty() {
            return Err("`program.argv` is empty".into());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn document() -> Value {
        json!({
            "version": 1, "mode": "run", "memory_mib": 64, "max_threads": 4, "tmp_mib": 8, "cpus": 1,
            "hostname": "nexus", "roots": [{"guest": "/usr", "host": "/usr", "writable": false}],
            "program": {"path": "/bin/true", "argv": ["true"], "env": {}, "cwd": "/"},
            "device": null, "report": null, "snapshot": null, "jail": {"uid": null, "landlock": true}
        })
    }

    fn parse(value: &Value) -> Result<Serve, String> {
        Serve::parse(value.to_string().as_bytes())
    }

    #[test]
    fn the_documented_document_is_accepted() {
        assert_eq!(parse(&document()).unwrap().mode, Mode::Run);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, word) in [
            ("version", json!(2), "version"),
            ("memory_mib", json!(0), "memory_mib"),
            ("max_threads", json!(100_000), "max_threads"),
            ("mode", json!("restore"), "snapshot"),
            ("colour", json!(1), "colour"),
            (
                "device",
                json!({"arena": 3, "doorbell": 4, "completion": 5}),
                "completion",
            ),
        ] {
            let mut wrong = document();
            wrong[key] = value;
            let error = parse(&wrong).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
