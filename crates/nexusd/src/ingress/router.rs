//! From a request's path to what serves it.

use super::errors::ApiError;
use super::respond::{self, Reply};
use super::{admin, body, guard, invoke, lambda_api};
use crate::node::Node;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, Request};
use percent_encoding::percent_decode_str;
use std::convert::Infallible;
use std::sync::Arc;

/// Bytes of a deployment's description.
const MAX_ADMIN_BODY: usize = 1 << 20;

/// Serve one request.
///
/// # Errors
/// None: an error is a reply.
pub async fn route(node: Arc<Node>, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let id: Arc<str> = uuid::Uuid::new_v4().to_string().into();
    let (head, mut body) = request.into_parts();
    let mut reply = match dispatch(node, &head, &mut body, &id).await {
        Ok(reply) => reply,
        Err(error) => {
            metrics::counter!("nexus_request_errors_total", "type" => error.kind).increment(1);
            respond::error(&error)
        }
    };
    respond::header(&mut reply, "x-amzn-requestid", &*id);
    // What was answered before its body was read: without the rest of it there can be no next request.
    if !body::drain(&head.headers, &mut body).await {
        respond::header(&mut reply, "connection", "close");
    }
    Ok(reply)
}

async fn dispatch(
    node: Arc<Node>,
    head: &Parts,
    body: &mut Incoming,
    id: &Arc<str>,
) -> Result<Reply, ApiError> {
    guard::check(&head.headers, node.config.listen)?;
    let method = head.method.clone();
    let segments = segments(head.uri.path())?;
    let path: Vec<&str> = segments.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["2015-03-31", "functions", name, "invocations"] => {
            only(&method, &Method::POST)?;
            invoke::invoke(node, name, head, body, Arc::clone(id)).await
        }
        ["2015-03-31", "functions"] => {
            only(&method, &Method::GET)?;
            Ok(lambda_api::list(&node, head.uri.query()))
        }
        ["2015-03-31", "functions", name] => {
            only(&method, &Method::GET)?;
            lambda_api::get(&node, name, head.uri.query())
        }
        ["2015-03-31", "functions", name, "configuration"] => {
            only(&method, &Method::GET)?;
            lambda_api::configuration(&node, name, head.uri.query())
        }
        ["nexus", "v1", rest @ ..] => {
            let query = head.uri.query().unwrap_or("").to_owned();
            let body = if method == Method::PUT {
                body::read(body, MAX_ADMIN_BODY).await?
            } else {
                bytes::Bytes::new()
            };
            admin::serve(node, &method, rest, &query, &body).await
        }
        ["metrics"] => {
            only(&method, &Method::GET)?;
            Ok(admin::metrics(&node))
        }
        ["healthz"] => Ok(respond::bytes(200, "text/plain", "ok")),
        _ => Err(ApiError::unknown_path(
            "Nothing is served at this path; docs/protocols.md lists what is.",
        )),
    }
}

/// # Errors
/// Another method than the one served.
pub fn only(method: &Method, served: &Method) -> Result<(), ApiError> {
    if method == served {
        Ok(())
    } else {
        Err(ApiError::method_not_allowed())
    }
}

/// The path's parts, decoded; a slash at its end counts for nothing.
fn segments(path: &str) -> Result<Vec<String>, ApiError> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/')
        .map(|part| {
            percent_decode_str(part)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| ApiError::validation("The path is not UTF-8.".to_owned()))
        })
        .collect()
}

/// The first value of a query's parameter, decoded.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    query?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| {
            percent_decode_str(&value.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        assert_eq!(segments("/a/b%3Ac/").unwrap(), ["a", "b:c"]);
        assert_eq!(segments("/a%2Fb").unwrap(), ["a/b"]);
        assert!(segments("/%ff").is_err());
        assert_eq!(
            parameter(Some("x=1&Qualifier=%24LATEST"), "Qualifier").unwrap(),
            "$LATEST"
        );
        assert_eq!(parameter(Some("x=1"), "y"), None);
    }
}
