//! Configuration of the node, one TOML file. Unknown keys are refused.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Which kind of wall instances get.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    #[default]
    Auto,
    Kvm,
    Process,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address to serve on. Port 0: any.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Directory of everything that outlives the process.
    pub state: PathBuf,
    /// Path of `nexus-vmm`.
    pub vmm: PathBuf,
    #[serde(default)]
    pub isolation: Isolation,
    /// With `isolation = "auto"`: fall back to processes where KVM does not work.
    #[serde(default)]
    pub allow_process: bool,
    #[serde(default = "default_region")]
    pub region: String,
    /// Live instances on the whole node.
    #[serde(default = "default_max_instances")]
    pub max_instances: usize,
    /// Milliseconds an invocation waits for an instance before it is throttled.
    #[serde(default = "default_queue_wait_ms")]
    pub queue_wait_ms: u64,
    /// Invocations of one function that may wait at a time.
    #[serde(default = "default_queue_length")]
    pub queue_length: usize,
    /// Seconds an initialisation may take.
    #[serde(default = "default_init_timeout_s")]
    pub init_timeout_s: u64,
    /// VMMs kept ready for cold starts.
    #[serde(default = "default_shells")]
    pub shells: usize,
    /// Milliseconds after which an instance at rest gives back memory that shows what its snapshot shows. 0: never.
    #[serde(default = "default_tidy_ms")]
    pub tidy_ms: u64,
    /// Seconds that SIGTERM leaves to invocations in flight.
    #[serde(default = "default_drain_s")]
    pub drain_s: u64,
    /// Open client connections.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Bytes of one function's log before it is rotated; one older part is kept.
    #[serde(default = "default_log_bytes")]
    pub log_bytes: u64,
    /// User id instances run under where the node runs as root.
    #[serde(default = "default_jail_uid")]
    pub jail_uid: u32,
    /// A control group for all instances together, and in it one for each, where the daemon may make them.
    #[serde(default)]
    pub cgroups: bool,
    #[serde(default)]
    pub endpoints: BTreeMap<String, String>,
    #[serde(default)]
    pub credentials: CredentialsConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsConfig {
    /// JSON file, mode 0600. Without it AWS's ordinary chain applies.
    pub file: Option<PathBuf>,
}

/// Each takes about 2 MiB.
const MAX_SHELLS: usize = 64;

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9100))
}
fn default_region() -> String {
    "us-east-1".to_owned()
}
fn default_max_instances() -> usize {
    100
}
fn default_shells() -> usize {
    2
}
fn default_tidy_ms() -> u64 {
    5000
}
fn default_queue_wait_ms() -> u64 {
    2000
}
fn default_queue_length() -> usize {
    1000
}
fn default_init_timeout_s() -> u64 {
    60
}
fn default_drain_s() -> u64 {
    10
}
fn default_max_connections() -> usize {
    1024
}
fn default_log_bytes() -> u64 {
    8 << 20
}
fn default_jail_uid() -> u32 {
    65534
}

impl Config {
    /// Read and check a configuration file.
    ///
    /// # Errors
    /// What is wrong with the file, naming it.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let config: Self = toml::from_str(text)?;
        if !config.state.is_absolute() {
            bail!(
                "state must be an absolute path, not {}",
                config.state.display()
            );
        }
        if !config.vmm.is_absolute() {
            bail!("vmm must be an absolute path, not {}", config.vmm.display());
        }
        if config.max_instances == 0 || config.max_connections == 0 {
            bail!("max_instances and max_connections must be at least 1");
        }
        if config.shells > MAX_SHELLS {
            bail!("shells must be at most {MAX_SHELLS}");
        }
        if config.region.is_empty() || config.region.len() > 64 {
            bail!("region must have 1 to 64 characters");
        }
        Ok(config)
    }

    /// User id for the jail: only root can change it.
    pub fn instance_uid(&self) -> Option<u32> {
        // SAFETY: geteuid has no preconditions.
        (unsafe { libc::geteuid() } == 0).then_some(self.jail_uid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_example_is_accepted() {
        let config = Config::parse(
            r#"
            listen = "127.0.0.1:0"
            state = "/state"
            vmm = "/bin/nexus-vmm"
            isolation = "kvm"
            max_instances = 7
            [endpoints]
            s3 = "http://127.0.0.1:9101"
            [credentials]
            file = "/state/credentials.json"
            "#,
        )
        .unwrap();
        assert_eq!(config.isolation, Isolation::Kvm);
        assert_eq!(config.max_instances, 7);
        assert_eq!(config.endpoints["s3"], "http://127.0.0.1:9101");
        assert_eq!(config.region, "us-east-1");
    }

    #[test]
    fn unknown_keys_and_relative_paths_are_refused() {
        assert!(Config::parse("state = '/s'\nvmm = '/v'\ntypo = 1").is_err());
        assert!(Config::parse("state = 's'\nvmm = '/v'").is_err());
        assert!(Config::parse("state = '/s'\nvmm = '/v'\nmax_instances = 0").is_err());
        assert!(Config::parse("state = '/s'\nvmm = '/v'\nshells = 65").is_err());
    }
}
