//! Requests that a real SDK made: signed where it asks for that, and sent as they are.

use super::send::{Headers, clean, has, is_placeholder, refused, reply, set};
use super::{Engine, Refusal, Reply};
use crate::FunctionIdentity;
use crate::http::Route;
use crate::http::head::{Request, Sending, is_token, values};
use crate::http::url::Url;
use crate::policy::{Call, is_s3};
use crate::raw::RequestBody;
use crate::sigv4::{EMPTY_SHA256, UNSIGNED, payload_hash};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// The longest time-outs that a guest may ask for, in seconds.
const LONGEST_S: f64 = 900.0;

/// Longest body that is looked at for what it asks for: the longest message of SNS and SQS, encoded.
const LONGEST_FORM: usize = 1 << 20;

/// The submission's head (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    method: String,
    pub url: String,
    #[serde(default)]
    pub headers: Headers,
    sign: Option<Sign>,
    #[serde(default = "sixty")]
    connect_timeout_s: f64,
    #[serde(default = "sixty")]
    read_timeout_s: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sign {
    service: String,
    region: String,
    /// SHA-256 of a body that comes in parts, in hexadecimal digits, or UNSIGNED-PAYLOAD.
    payload_hash: Option<String>,
}

fn sixty() -> f64 {
    60.0
}

pub async fn execute(
    engine: &Engine,
    identity: &FunctionIdentity,
    mut head: Head,
    mut body: RequestBody,
) -> Result<Reply, Refusal> {
    let url = Url::parse(&head.url).map_err(|what| Refusal::invalid(&what))?;
    if !is_token(&head.method) || head.method.eq_ignore_ascii_case("CONNECT") {
        return Err(Refusal::invalid("the method is none"));
    }
    let sign = scope(&mut head)?;
    let service = sign.as_ref().map(|sign| sign.service.as_str());
    let policy = engine.policy(identity);
    let allowed = policy
        .check(&url.authority, service)
        .map_err(|why| Refusal::denied(&why, &url.authority.to_string()))?;
    let sending = framing(&head, &body)?;
    let mut headers = clean(head.headers)?;
    let asked = if identity.policy.is_plain() {
        None
    } else {
        whole(&body)
    };
    let call = Call {
        service,
        method: &head.method,
        url: &url,
        headers: &headers,
        body: asked.as_deref(),
    };
    if let Err(denied) = policy.call(&call) {
        let service = service.map(str::to_owned).or_else(|| policy.service(&call));
        let service = service.as_deref();
        return Ok(refused(&Call { service, ..call }, &denied));
    }
    if let Some(sign) = &sign {
        let (service, region) = (&sign.service, &sign.region);
        let hash = hash(sign, &url, &body, &headers)?;
        if is_s3(service) {
            set(&mut headers, "X-Amz-Content-SHA256", &hash);
        }
        engine.sign(
            identity,
            &mut headers,
            &head.method,
            &url,
            (service, region),
            &hash,
        )?;
    }
    let route = Route {
        authority: Arc::clone(&url.authority),
        owner: identity.owner(&allowed),
        allowed,
        connect_timeout: seconds(head.connect_timeout_s)?,
        read_timeout: seconds(head.read_timeout_s)?,
    };
    let request = Request {
        method: head.method,
        target: url.target(),
        headers,
    };
    // Retries are the SDK's own.
    match engine
        .client
        .send(&route, &request, sending, &mut body)
        .await
    {
        Ok(response) => Ok(reply(response, &url.authority, 0, None)),
        Err(error) => Err(Refusal::transport(&error, &url.authority.to_string())),
    }
}

/// A body, where it is at hand and short enough to tell which action a form asks for.
fn whole(body: &RequestBody) -> Option<Vec<u8>> {
    match body {
        RequestBody::Whole(bytes) if bytes.len() <= LONGEST_FORM => Some(bytes.to_vec()),
        RequestBody::Whole(_) | RequestBody::Parts(_) => None,
    }
}

/// What to sign for. An Authorization header with the placeholder's key id means the same as `sign`.
fn scope(head: &mut Head) -> Result<Option<Sign>, Refusal> {
    let placeholder = values(&head.headers, "authorization")
        .find(|value| is_placeholder(value))
        .map(str::to_owned);
    let sign = match (head.sign.take(), placeholder) {
        (None, None) => None,
        (Some(sign), _) => {
            if has(&head.headers, "authorization")
                && !values(&head.headers, "authorization").all(is_placeholder)
            {
                return Err(Refusal::invalid("the request is signed already"));
            }
            Some(sign)
        }
        (None, Some(value)) => {
            // Credential=ID/DAY/REGION/SERVICE/aws4_request
            let scope = value.split("Credential=").nth(1).unwrap_or_default();
            let scope = scope.split(',').next().unwrap_or_default();
            match scope.trim().rsplit('/').collect::<Vec<_>>().as_slice() {
                ["aws4_request", service, region, ..] => Some(Sign {
                    service: (*service).to_owned(),
                    region: (*region).to_owned(),
                    payload_hash: None,
                }),
                _ => return Err(Refusal::invalid("Authorization names no scope")),
            }
        }
    };
    match &sign {
        Some(sign) if !is_scope_part(&sign.service) || !is_scope_part(&sign.region) => {
            Err(Refusal::invalid("the scope to sign for has odd characters"))
        }
        _ => Ok(sign),
    }
}

/// Whether a text may be a service or a region.
pub fn is_scope_part(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// The payload's hash, as it is signed.
fn hash(sign: &Sign, url: &Url, body: &RequestBody, headers: &Headers) -> Result<String, Refusal> {
    if let Some(given) = values(headers, "x-amz-content-sha256").next() {
        return Ok(given.to_owned());
    }
    if let (RequestBody::Parts(_), Some(told)) = (body, &sign.payload_hash) {
        let is_hash = told.len() == 64 && told.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash || told == UNSIGNED {
            return Ok(told.clone());
        }
        return Err(Refusal::invalid("the payload's hash is none"));
    }
    let s3 = is_s3(&sign.service);
    match body {
        RequestBody::Whole(bytes) if bytes.is_empty() => Ok(EMPTY_SHA256.to_owned()),
        RequestBody::Whole(_) if s3 && url.authority.https => Ok(UNSIGNED.to_owned()),
        RequestBody::Whole(bytes) => Ok(payload_hash(bytes)),
        RequestBody::Parts(_) if s3 => Ok(UNSIGNED.to_owned()),
        RequestBody::Parts(_) => Err(Refusal::invalid(
            "a body that comes in parts can be signed for S3 only, or with its hash",
        )),
    }
}

fn framing(head: &Head, body: &RequestBody) -> Result<Sending, Refusal> {
    let mut codings = values(&head.headers, "transfer-encoding");
    let chunked = match (codings.next(), codings.next()) {
        (None, _) => false,
        (Some(coding), None) if coding.trim().eq_ignore_ascii_case("chunked") => true,
        _ => return Err(Refusal::invalid("Transfer-Encoding is not chunked")),
    };
    let mut lengths = values(&head.headers, "content-length");
    let told = match (lengths.next().map(str::parse::<u64>), lengths.next()) {
        (None, _) => None,
        (Some(Ok(length)), None) => Some(length),
        _ => return Err(Refusal::invalid("Content-Length is not one number")),
    };
    match body {
        _ if chunked => Ok(Sending::Chunked),
        // A server would take less than there is, or wait for more.
        RequestBody::Whole(bytes) if told.is_some_and(|told| told != bytes.len() as u64) => Err(
            Refusal::invalid("Content-Length is not the length of the body"),
        ),
        RequestBody::Whole(bytes) if bytes.is_empty() => {
            let bodied = matches!(head.method.as_str(), "POST" | "PUT" | "PATCH");
            Ok(if bodied {
                Sending::Length(0)
            } else {
                Sending::Nothing
            })
        }
        RequestBody::Whole(bytes) => Ok(Sending::Length(bytes.len() as u64)),
        RequestBody::Parts(_) => Ok(told.map_or(Sending::Chunked, Sending::Length)),
    }
}

fn seconds(value: f64) -> Result<Duration, Refusal> {
    if value.is_finite() && value > 0.0 {
        Ok(Duration::from_secs_f64(value.min(LONGEST_S)))
    } else {
        Err(Refusal::invalid("a time-out is not above 0"))
    }
}
