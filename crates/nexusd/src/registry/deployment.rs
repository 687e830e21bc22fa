//! A deployment: what a client asks to be deployed, checked before anything is done with it.

use crate::config::Isolation;
use crate::ingress::errors::ApiError;
use nexus_backend::{CredentialsSource, CredentialsStore, PolicyDocument, PolicyRules};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Body of `PUT /nexus/v1/functions/NAME` (docs/protocols.md).
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    pub handler: String,
    pub code: PathBuf,
    #[serde(default)]
    pub layers: Vec<PathBuf>,
    pub runtime: PathBuf,
    pub python: PathBuf,
    #[serde(default)]
    pub roots: Vec<PathBuf>,
    #[serde(default = "default_memory_mib")]
    pub memory_mib: u64,
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    #[serde(default = "default_tmp_mib")]
    pub tmp_mib: u64,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default = "default_max_instances")]
    pub max_instances: usize,
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u64,
    #[serde(default)]
    pub isolation: Isolation,
    #[serde(default)]
    pub offload: Offload,
    pub digest: String,
    #[serde(default)]
    pub prewarm: usize,
    /// What its I/O may reach. Absent: all that the node allows, and public addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyDocument>,
    /// Whose requests it makes. Absent: the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSource>,
}

/// Where AWS calls leave the guest.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    #[default]
    Api,
    Http,
    Coupled,
}

impl Offload {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Http => "http",
            Self::Coupled => "coupled",
        }
    }
}

fn default_memory_mib() -> u64 {
    256
}
fn default_timeout_s() -> u64 {
    3
}
fn default_tmp_mib() -> u64 {
    512
}
fn default_max_instances() -> usize {
    10
}
fn default_keep_alive_s() -> u64 {
    300
}

/// Names that only the node sets, as in Lambda.
const RESERVED: [&str; 18] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];
/// Bytes of all names and values together, as in Lambda.
const MAX_ENVIRONMENT: usize = 4096;

impl Deployment {
    /// Check everything that can be checked without running it.
    ///
    /// # Errors
    /// InvalidParameterValueException that names the field.
    pub fn check(&self) -> Result<(), ApiError> {
        self.check_ranges()?;
        self.check_handler()?;
        self.check_digest()?;
        self.check_environment()?;
        self.policy("").map_err(|what| invalid("policy", &what))?;
        self.check_credentials()?;
        for (field, path) in [("code", &self.code), ("runtime", &self.runtime)]
            .into_iter()
            .chain(self.layers.iter().map(|p| ("layers", p)))
            .chain(self.roots.iter().map(|p| ("roots", p)))
        {
            check_path(field, path)?;
            if !path.is_dir() {
                return Err(invalid(
                    field,
                    &format!("{} is not a directory", path.display()),
                ));
            }
        }
        check_path("python", &self.python)?;
        if !self.python.is_file() {
            return Err(invalid(
                "python",
                &format!("{} is not a file", self.python.display()),
            ));
        }
        let runtime = self.runtime.join("nexus/guest");
        if !runtime.is_dir() {
            return Err(invalid(
                "runtime",
                &format!("{} does not exist", runtime.display()),
            ));
        }
        Ok(())
    }

    /// The policy, ready for use.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn policy(&self, function: &str) -> Result<PolicyRules, String> {
        let document = self.policy.clone().unwrap_or_default();
        PolicyRules::new(function, &document)
    }

    fn check_credentials(&self) -> Result<(), ApiError> {
        match &self.credentials {
            Some(source) => CredentialsStore::new(source)
                .map(drop)
                .map_err(|what| invalid("credentials", &what)),
            None if self.offload == Offload::Coupled => Err(invalid(
                "offload",
                "coupled hands credentials to the function: name its own, scoped and short-lived, in \"credentials\"",
            )),
            None => Ok(()),
        }
    }

    fn check_ranges(&self) -> Result<(), ApiError> {
        let ranges = [
            ("memory_mib", self.memory_mib, 32, 10_240),
            ("timeout_s", self.timeout_s, 1, 900),
            ("tmp_mib", self.tmp_mib, 0, 10_240),
            ("max_instances", self.max_instances as u64, 1, 1000),
            ("keep_alive_s", self.keep_alive_s, 0, 86_400),
            ("prewarm", self.prewarm as u64, 0, self.max_instances as u64),
            ("layers", self.layers.len() as u64, 0, 16),
            ("roots", self.roots.len() as u64, 0, 64),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(invalid(
                    field,
                    &format!("{value} is not between {low} and {high}"),
                ));
            }
        }
        Ok(())
    }

    fn check_handler(&self) -> Result<(), ApiError> {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let handler = &self.handler;
        if handler.len() > 128 || !handler.contains('.') || !handler.chars().all(plain) {
            return Err(invalid(
                "handler",
                "it must be MODULE.FUNCTION, at most 128 characters",
            ));
        }
        Ok(())
    }

    fn check_digest(&self) -> Result<(), ApiError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b':' | b'=');
        if !(8..=128).contains(&self.digest.len()) || !self.digest.bytes().all(plain) {
            return Err(invalid(
                "digest",
                "it must have 8 to 128 letters, digits or -_:=",
            ));
        }
        Ok(())
    }

    fn check_environment(&self) -> Result<(), ApiError> {
        let reserved: Vec<&str> = self
            .environment
            .keys()
            .map(String::as_str)
            .filter(|k| RESERVED.contains(k) || k.starts_with("NEXUS_"))
            .collect();
        if !reserved.is_empty() {
            return Err(ApiError::invalid_parameter(format!(
                "Lambda was unable to configure your environment variables because the environment variables you have \
                 provided contains reserved keys that are currently not supported for modification. Reserved keys used \
                 in this request: {}",
                reserved.join(", ")
            )));
        }
        for (key, value) in &self.environment {
            let mut bytes = key.bytes();
            let fine = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fine || value.contains('\0') {
                let key: String = key.chars().take(64).collect();
                return Err(invalid(
                    "environment",
                    &format!("{key:?} is not a name with a value"),
                ));
            }
        }
        let size: usize = self
            .environment
            .iter()
            .map(|(k, v)| k.len() + v.len())
            .sum();
        if size > MAX_ENVIRONMENT {
            return Err(ApiError::invalid_parameter(
                "Lambda was unable to configure your environment variables because the environment variables you have \
                 provided exceeded the 4KB limit."
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Whether it is what functions are initialised from, and none itself: it has no handler and no code.
    pub fn is_base(&self) -> bool {
        self.handler.is_empty()
    }
}

fn check_path(field: &str, path: &Path) -> Result<(), ApiError> {
    let plain = path.is_absolute()
        && path
            .components()
            .all(|c| !matches!(c, Component::ParentDir))
        && path.to_str().is_some_and(|p| !p.contains(['\0', ':']));
    if plain {
        return Ok(());
    }
    Err(invalid(
        field,
        &format!(
            "{} is not an absolute path without .. and colons",
            path.display()
        ),
    ))
}

fn invalid(field: &str, what: &str) -> ApiError {
    ApiError::invalid_parameter(format!("{field}: {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;

    pub fn deployment(directory: &Path) -> Deployment {
        std::fs::create_dir_all(directory.join("nexus/guest")).unwrap();
        serde_json::from_value(serde_json::json!({
            "handler": "m.handler", "code": directory, "runtime": directory, "python": "/bin/sh",
            "digest": "sha256:0123456789abcdef",
        }))
        .unwrap()
    }

    #[test]
    fn reserved_names_are_refused_as_lambda_does() {
        let directory = std::env::temp_dir().join(format!("nexusd-dep-{}", std::process::id()));
        let mut d = deployment(&directory);
        d.check().unwrap();
        for name in ["AWS_REGION", "_HANDLER", "NEXUS_OFFLOAD"] {
            d.environment = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            let error = d.check().unwrap_err();
            assert_eq!(error.kind, "InvalidParameterValueException");
            assert!(error.message.contains(name), "{}", error.message);
        }
        d.environment = BTreeMap::from([("BIG".to_owned(), "x".repeat(4096))]);
        assert!(d.check().unwrap_err().message.contains("4KB"));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn every_field_is_checked() {
        let directory = std::env::temp_dir().join(format!("nexusd-dep2-{}", std::process::id()));
        let good = deployment(&directory);
        let refused = |change: &dyn Fn(&mut Deployment), field: &str| {
            let mut d = good.clone();
            change(&mut d);
            let error = d.check().unwrap_err();
            assert!(error.message.starts_with(field), "{}", error.message);
        };
        refused(&|d| d.memory_mib = 1, "memory_mib");
        refused(&|d| d.timeout_s = 0, "timeout_s");
        refused(&|d| d.max_instances = 0, "max_instances");
        refused(&|d| d.prewarm = 11, "prewarm");
        refused(&|d| d.handler = "handler".into(), "handler");
        refused(&|d| d.digest = "../../../x".into(), "digest");
        refused(&|d| d.code = "relative".into(), "code");
        refused(&|d| d.code = "/nonexistent".into(), "code");
        refused(&|d| d.python = "/tmp".into(), "python");
        refused(&|d| d.roots = vec!["/tmp/../etc".into()], "roots");
        let policy = serde_json::json!({"egress": ["example.com"]});
        let policy: PolicyDocument = serde_json::from_value(policy).unwrap();
        refused(&|d| d.policy = Some(policy.clone()), "policy: egress");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
