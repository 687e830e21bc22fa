//! Signatures that a function takes away: presigned URLs, forms for POST, and the tokens that databases accept.

use super::http_op::is_scope_part;
use super::send::{Headers, clean};
use super::{Content, Engine, Refusal, Reply};
use crate::FunctionIdentity;
use crate::http::head::is_token;
use crate::http::url::Url;
use crate::policy::{Call, Denied};
use crate::sigv4::{self, ALGORITHM, Scope, Signable, UNSIGNED, amz_date, iso_date};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The longest that a signature may be good for, in seconds: in Lambda, URLs end with the role's session at the latest.
const LONGEST_S: u64 = 12 * 3600;
/// A connection token's, as AWS has it.
const TOKEN_S: u64 = 900;
/// Services whose signed URL is a token for a server of the customer's own, and what it must ask for.
const TOKENS: [(&str, &[&str]); 4] = [
    ("rds-db", &["connect"]),
    ("dsql", &["DbConnect", "DbConnectAdmin"]),
    ("elasticache", &["connect"]),
    ("memorydb", &["connect"]),
];
/// Conditions of one POST policy.
const MAX_CONDITIONS: usize = 256;

/// The submission's head (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    method: String,
    url: String,
    #[serde(default)]
    headers: Headers,
    service: String,
    region: String,
    expires_s: u64,
    /// SHA-256 of the payload in hexadecimal digits; absent: unsigned.
    payload_hash: Option<String>,
    /// Conditions of a POST policy; absent: the URL is signed.
    conditions: Option<Vec<Value>>,
}

/// # Errors
/// INVALID; DENIED by the function's policy.
pub fn execute(engine: &Engine, identity: &FunctionIdentity, head: Head) -> Result<Reply, Refusal> {
    let url = Url::parse(&head.url).map_err(|what| Refusal::invalid(&what))?;
    if !is_token(&head.method) || !is_scope_part(&head.service) || !is_scope_part(&head.region) {
        return Err(Refusal::invalid("method, service or region is no name"));
    }
    let policy = engine.policy(identity);
    let denied = |why: &Denied| Refusal::denied(why, &url.authority.to_string());
    let longest = if is_connection_token(&head, &url)? {
        TOKEN_S
    } else {
        policy
            .check(&url.authority, Some(&head.service))
            .map_err(|why| denied(&why))?;
        LONGEST_S
    };
    let call = Call {
        service: Some(&head.service),
        method: &head.method,
        url: &url,
        headers: &head.headers,
        // Whoever sends it may send another one.
        body: matches!(head.method.as_str(), "GET" | "HEAD").then_some(b""),
    };
    match &head.conditions {
        Some(conditions) => policy.form(&url, conditions),
        None => policy.call(&call),
    }
    .map_err(|why| denied(&why))?;
    let expires_s = head.expires_s.clamp(1, longest);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let time = amz_date(now);
    let scope = Scope {
        region: &head.region,
        service: &head.service,
        time: &time,
    };
    let answer = match head.conditions {
        Some(conditions) => {
            let until = iso_date(now + expires_s);
            post(engine, identity, scope, &url, conditions, &until)?
        }
        None => {
            let mut headers = clean(head.headers)?;
            headers.push(("host".to_owned(), url.authority.host_header().to_owned()));
            let payload_hash = head.payload_hash.as_deref().unwrap_or(UNSIGNED);
            if !payload_hash.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Refusal::invalid("the payload's hash is none"));
            }
            let what = Signable {
                method: &head.method,
                path: &url.path,
                query: &url.query,
                headers: &headers,
                payload_hash,
            };
            let credentials = engine.credentials(identity, Some(&url.authority))?;
            let query = sigv4::presign(&credentials, scope, &what, expires_s);
            let base = head.url.split(['?', '#']).next().unwrap_or_default();
            json!({"url": format!("{base}?{query}")})
        }
    };
    Ok(Reply {
        head: answer.to_string().into_bytes(),
        body: Content::Memory(Bytes::new()),
    })
}

/// Whether the URL is no request to AWS but a token for a database.
fn is_connection_token(head: &Head, url: &Url) -> Result<bool, Refusal> {
    let Some((_, actions)) = TOKENS.iter().find(|(service, _)| *service == head.service) else {
        return Ok(false);
    };
    let action = url
        .query
        .split('&')
        .find_map(|pair| pair.strip_prefix("Action="));
    if head.method != "GET" || !action.is_some_and(|action| actions.contains(&action)) {
        return Ok(false);
    }
    if url.path != "/" || head.conditions.is_some() {
        return Err(Refusal::invalid("a connection token has no path"));
    }
    Ok(true)
}

/// The fields that a form for S3's POST gets: policy and signature.
fn post(
    engine: &Engine,
    identity: &FunctionIdentity,
    scope: Scope<'_>,
    url: &Url,
    mut conditions: Vec<Value>,
    until: &str,
) -> Result<Value, Refusal> {
    if scope.service != "s3" || conditions.len() > MAX_CONDITIONS {
        return Err(Refusal::invalid(
            "S3 alone takes forms, with 256 conditions",
        ));
    }
    let credentials = engine.credentials(identity, Some(&url.authority))?;
    let mut fields = vec![
        ("x-amz-algorithm", ALGORITHM.to_owned()),
        ("x-amz-credential", scope.credential(&credentials)),
        ("x-amz-date", scope.time.to_owned()),
    ];
    if let Some(token) = credentials.session_token() {
        fields.push(("x-amz-security-token", token.to_owned()));
    }
    for (name, value) in &fields {
        conditions.push(json!({ *name: value }));
    }
    let policy = json!({"expiration": until, "conditions": conditions}).to_string();
    let policy = STANDARD.encode(policy);
    let signature = sigv4::of_text(&credentials, scope, &policy);
    fields.push(("policy", policy));
    fields.push(("x-amz-signature", signature));
    Ok(json!({ "fields": fields }))
}
