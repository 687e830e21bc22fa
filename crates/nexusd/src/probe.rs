//! What this machine can do, and the backend that serves its functions.

use crate::config::{Config, Isolation};
use crate::node::Machine;
use anyhow::Context;
use nexus_backend::Backend;
use serde_json::Value;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// Probing makes a microVM and runs a few instructions in it.
const LIMIT: Duration = Duration::from_secs(20);

/// Ask the VMM whether KVM works here, and decide what `auto` means.
pub async fn probe(config: &Config) -> Machine {
    if config.isolation == Isolation::Process {
        return Machine {
            isolation: Some(Isolation::Process),
            reason: "the configuration asks for isolation = \"process\"".to_owned(),
        };
    }
    match ask(config).await {
        Ok(reason) => Machine {
            isolation: Some(Isolation::Kvm),
            reason,
        },
        Err(reason) => {
            let fall_back = config.isolation == Isolation::Auto && config.allow_process;
            Machine {
                isolation: fall_back.then_some(Isolation::Process),
                reason: if fall_back {
                    format!("KVM cannot be used: {reason}; allow_process is set")
                } else {
                    format!("KVM cannot be used: {reason}")
                },
            }
        }
    }
}

async fn ask(config: &Config) -> Result<String, String> {
    let mut command = Command::new(&config.vmm);
    command
        .args(["probe", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = match timeout(LIMIT, command.output()).await {
        Err(_) => return Err("the probe took too long".to_owned()),
        Ok(Err(error)) => return Err(format!("{}: {error}", config.vmm.display())),
        Ok(Ok(output)) => output,
    };
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let usable = value.get("usable").or_else(|| value.get("kvm"));
    if output.status.success() && usable.and_then(Value::as_bool) == Some(true) {
        let machine = text("machine").unwrap_or("kvm");
        return Ok(format!("KVM works here ({machine})"));
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let reason = text("reason").unwrap_or_else(|| stderr.trim());
    if reason.is_empty() {
        return Err(format!("the probe ended with {}", output.status));
    }
    Err(reason.chars().take(1000).collect())
}

/// The backend, as the configuration has it.
///
/// # Errors
/// Credentials that cannot be used, endpoints that are not URLs.
pub fn backend(config: &Config) -> anyhow::Result<Arc<Backend>> {
    Backend::new(nexus_backend::Config {
        region: config.region.clone(),
        endpoints: config.endpoints.clone(),
        credentials_file: config.credentials.file.clone(),
    })
    .context("cannot start the backend")
}
