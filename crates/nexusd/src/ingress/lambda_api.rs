//! What Lambda's API tells of functions.

use super::errors::ApiError;
use super::respond::{self, Reply};
use super::router::parameter;
use crate::clock::iso_utc;
use crate::node::Node;
use crate::registry::Version;
use crate::registry::names::{self, ACCOUNT, LATEST};
use serde_json::{Value, json};

/// ListFunctions, with Marker and MaxItems.
pub fn list(node: &Node, query: Option<&str>) -> Reply {
    let most = parameter(query, "MaxItems")
        .and_then(|n| n.parse().ok())
        .unwrap_or(50_usize)
        .clamp(1, 10_000);
    let after = parameter(query, "Marker").unwrap_or_default();
    let all = node.functions.list();
    let mut rest = all.iter().filter(|v| *v.name > *after);
    let page: Vec<_> = rest.by_ref().take(most).collect();
    let marker = rest
        .next()
        .and_then(|_| page.last())
        .map(|last| last.name.to_string());
    let functions: Vec<Value> = page.iter().map(|v| describe(v)).collect();
    respond::json(200, &json!({"Functions": functions, "NextMarker": marker}))
}

/// GetFunction.
///
/// # Errors
/// ResourceNotFoundException.
pub fn get(node: &Node, name: &str, query: Option<&str>) -> Result<Reply, ApiError> {
    let version = find(node, name, query)?;
    Ok(respond::json(
        200,
        &json!({
            "Configuration": describe(&version),
            "Code": {"RepositoryType": "nexus", "Location": format!("file://{}", version.deployment.code.display())},
            "Tags": {},
        }),
    ))
}

/// GetFunctionConfiguration.
///
/// # Errors
/// ResourceNotFoundException.
pub fn configuration(node: &Node, name: &str, query: Option<&str>) -> Result<Reply, ApiError> {
    Ok(respond::json(200, &describe(&*find(node, name, query)?)))
}

fn find(node: &Node, name: &str, query: Option<&str>) -> Result<std::sync::Arc<Version>, ApiError> {
    let qualifier = parameter(query, "Qualifier");
    let name = names::resolve(name, qualifier.as_deref(), &node.config.region)?;
    node.functions
        .get(&name)
        .ok_or_else(|| ApiError::not_found(&names::arn(&node.config.region, &name)))
}

fn describe(version: &Version) -> Value {
    let d = &version.deployment;
    let mut value = json!({
        "FunctionName": &*version.name,
        "FunctionArn": version.arn,
        "Runtime": "python3.11",
        "Role": format!("arn:aws:iam::{ACCOUNT}:role/nexus"),
        "Handler": d.handler,
        "CodeSize": 0,
        "CodeSha256": d.digest,
        "Description": "",
        "Timeout": d.timeout_s,
        "MemorySize": d.memory_mib,
        "LastModified": iso_utc(version.modified_ms),
        "Version": LATEST,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": d.digest,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": ["x86_64"],
        "EphemeralStorage": {"Size": d.tmp_mib},
    });
    if !d.environment.is_empty()
        && let Some(object) = value.as_object_mut()
    {
        object.insert(
            "Environment".to_owned(),
            json!({"Variables": d.environment}),
        );
    }
    value
}
