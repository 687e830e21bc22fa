//! The admin API (docs/protocols.md).

use super::errors::ApiError;
use super::respond::{self, Reply};
use super::router::{only, parameter};
use crate::clock::iso_utc;
use crate::config::Isolation;
use crate::deploy;
use crate::node::Node;
use crate::registry::Version;
use crate::registry::deployment::Deployment;
use crate::registry::names;
use hyper::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// Serve what is below `/nexus/v1`.
///
/// # Errors
/// As shaped for Lambda.
pub async fn serve(
    node: Arc<Node>,
    method: &Method,
    path: &[&str],
    query: &str,
    body: &[u8],
) -> Result<Reply, ApiError> {
    match path {
        ["status"] => {
            only(method, &Method::GET)?;
            Ok(status(&node))
        }
        ["instances"] => {
            only(method, &Method::GET)?;
            let shown: Vec<Value> = node.scheduler.records().iter().map(|r| r.show()).collect();
            Ok(respond::json(200, &shown))
        }
        ["functions"] => {
            only(method, &Method::GET)?;
            let shown: Vec<Value> = node.functions.list().iter().map(|v| describe(v)).collect();
            Ok(respond::json(200, &shown))
        }
        ["writes"] => {
            only(method, &Method::GET)?;
            Ok(respond::json(200, &node.backend.writes()))
        }
        ["writes", id] => {
            only(method, &Method::DELETE)?;
            let found = node.backend.forget_write(number(id)?).await;
            decided(id, found)
        }
        ["writes", id, "retry"] => {
            only(method, &Method::POST)?;
            let found = node.backend.retry_write(number(id)?).await;
            decided(id, found)
        }
        ["functions", name] => function(node, method, name, body).await,
        ["functions", name, part] => part_of(&node, method, name, part, query),
        _ => Err(ApiError::unknown_path(
            "Nothing is served at this path; docs/protocols.md lists what is.",
        )),
    }
}

fn number(id: &str) -> Result<i64, ApiError> {
    id.parse()
        .map_err(|_| ApiError::invalid_parameter("the id of a write is a number".to_owned()))
}

fn decided(id: &str, found: Result<bool, nexus_backend::Error>) -> Result<Reply, ApiError> {
    match found {
        Ok(true) => Ok(respond::no_content()),
        Ok(false) => Err(ApiError::unknown_path(
            "There is no parked write of this id; GET /nexus/v1/writes lists them.",
        )),
        Err(error) => Err(ApiError::service(format!("write {id}: {error}"))),
    }
}

async fn function(
    node: Arc<Node>,
    method: &Method,
    name: &str,
    body: &[u8],
) -> Result<Reply, ApiError> {
    let name = names::resolve(name, None, &node.config.region)?;
    match *method {
        Method::PUT => {
            let deployment: Deployment = serde_json::from_slice(body).map_err(|e| {
                ApiError::invalid_content(format!("Could not parse request body into json: {e}"))
            })?;
            // In a task of its own: a client that goes away does not leave it half done.
            let task = tokio::spawn(async move { deploy::deploy(&node, &name, deployment).await });
            let version = task
                .await
                .map_err(|e| ApiError::service(format!("the deployment ended early: {e}")))??;
            Ok(respond::json(200, &describe(&version)))
        }
        Method::GET => Ok(respond::json(200, &describe(&*find(&node, &name)?))),
        Method::DELETE => {
            let task = tokio::spawn(async move { deploy::delete(&node, &name).await });
            task.await
                .map_err(|e| ApiError::service(format!("the deletion ended early: {e}")))??;
            Ok(respond::no_content())
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn part_of(
    node: &Arc<Node>,
    method: &Method,
    name: &str,
    part: &str,
    query: &str,
) -> Result<Reply, ApiError> {
    let name = names::resolve(name, None, &node.config.region)?;
    let version = find(node, &name)?;
    let number = |key: &str, default: usize| {
        parameter(Some(query), key).map_or(Ok(default), |text| {
            text.parse()
                .map_err(|_| ApiError::invalid_parameter(format!("{key} is not a number")))
        })
    };
    match part {
        "logs" => {
            only(method, &Method::GET)?;
            let page = match parameter(Some(query), "after") {
                Some(text) => version.log.after(text.parse().map_err(|_| {
                    ApiError::invalid_parameter("after is not a position".to_owned())
                })?),
                None => version.log.last_lines(number("lines", 200)?.min(100_000)),
            };
            let mut reply = respond::bytes(200, "text/plain; charset=utf-8", page.text);
            respond::header(&mut reply, "x-nexus-log-position", page.end);
            Ok(reply)
        }
        "timings" => {
            only(method, &Method::GET)?;
            Ok(respond::json(
                200,
                &version.timings.last(number("last", 100)?),
            ))
        }
        "evict" => {
            only(method, &Method::POST)?;
            Ok(respond::json(
                200,
                &json!({"ended": node.scheduler.evict(version.key)}),
            ))
        }
        _ => Err(ApiError::unknown_path(
            "A function has logs, timings and evict.",
        )),
    }
}

fn find(node: &Node, name: &str) -> Result<Arc<Version>, ApiError> {
    node.functions
        .get(name)
        .ok_or_else(|| ApiError::not_found(&names::arn(&node.config.region, name)))
}

fn describe(version: &Version) -> Value {
    let mut value = serde_json::to_value(&version.deployment).unwrap_or_default();
    if let Some(object) = value.as_object_mut() {
        object.insert("name".to_owned(), json!(&*version.name));
        object.insert("arn".to_owned(), json!(version.arn));
        object.insert("isolation_used".to_owned(), json!(version.isolation));
        object.insert("modified".to_owned(), json!(iso_utc(version.modified_ms)));
        object.insert("snapshot".to_owned(), json!(version.snapshot()));
    }
    value
}

fn status(node: &Node) -> Reply {
    let isolation = node
        .machine
        .isolation
        .map_or(json!(null), |i: Isolation| json!(i));
    respond::json(
        200,
        &json!({
            "version": env!("CARGO_PKG_VERSION"),
            "isolation": isolation,
            "reason": node.machine.reason,
            "functions": node.functions.list().len(),
            "instances": node.scheduler.total(),
            "shells": node.shells.count(),
            "endpoints": node.config.endpoints,
            "pid": std::process::id(),
        }),
    )
}

/// Prometheus text.
#[allow(clippy::cast_precision_loss)]
pub fn metrics(node: &Node) -> Reply {
    metrics::gauge!("nexus_instances").set(node.scheduler.total() as f64);
    metrics::gauge!("nexus_shells").set(node.shells.count() as f64);
    metrics::gauge!("nexus_functions").set(node.functions.list().len() as f64);
    let writes = node.backend.writes();
    metrics::gauge!("nexus_writes_pending").set(writes.pending as f64);
    metrics::gauge!("nexus_writes_pending_bytes").set(writes.pending_bytes as f64);
    metrics::gauge!("nexus_writes_parked").set(writes.parked.len() as f64);
    for (outcome, count) in [
        ("deferred", writes.deferred),
        ("stored", writes.stored),
        ("failed", writes.failed),
        ("conflict", writes.conflicts),
        ("replayed", writes.replayed),
    ] {
        metrics::counter!("nexus_writes_total", "outcome" => outcome).absolute(count);
    }
    respond::bytes(
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        node.metrics.render(),
    )
}
