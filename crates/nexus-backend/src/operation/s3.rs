//! S3's hot operations: the request is built, signed, sent and retried here.

use super::checksum::{Algorithm, Checksum};
use super::reader::BodyReader;
use super::s3_model::Operation;
use super::send::{Headers, clean, has, refused, reply, set};
use super::{Engine, Refusal, Reply};
use crate::FunctionIdentity;
use crate::http::error::Kind;
use crate::http::head::{Request, Sending, values};
use crate::http::url::{Url, encode};
use crate::http::{Response, Route};
use crate::policy::{Call, Policy};
use crate::raw::RequestBody;
use crate::sigv4::{EMPTY_SHA256, PayloadHash, UNSIGNED};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// botocore's standard mode.
const ATTEMPTS: u32 = 3;
const LONGEST_BACKOFF_S: f64 = 20.0;
const TIMEOUT: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("nexus/", env!("CARGO_PKG_VERSION"));

/// The submission's head (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub op: String,
    pub bucket: Option<String>,
    pub key: Option<String>,
    #[serde(default)]
    query: Vec<(String, String)>,
    #[serde(default)]
    pub headers: Headers,
    #[serde(default)]
    region: String,
    endpoint: Option<String>,
}

pub async fn execute(
    engine: &Engine,
    identity: &FunctionIdentity,
    mut head: Head,
    mut body: RequestBody,
) -> Result<Reply, Refusal> {
    let Some(operation) = Operation::find(&head.op) else {
        let what = format!("{:.60?} has no fast path", head.op);
        return Err(Refusal::invalid(&what));
    };
    operation.admit(&head.query, &head.headers)?;
    if head.region.is_empty() {
        head.region = [&identity.region, &engine.region]
            .into_iter()
            .find(|region| !region.is_empty())
            .map_or_else(|| "us-east-1".to_owned(), Clone::clone);
    }
    if !is_label(&head.region) {
        return Err(Refusal::invalid("the region is not a name"));
    }
    let guest_length = values(&head.headers, "content-length")
        .next()
        .map(str::parse);
    let guest_headers = std::mem::take(&mut head.headers);
    let policy = engine.policy(identity);
    let url = url(policy, operation, &head)?;
    let allowed = policy
        .check(&url.authority, Some("s3"))
        .map_err(|why| Refusal::denied(&why, &url.authority.to_string()))?;
    let mut headers = clean(guest_headers)?;
    let call = Call {
        service: Some("s3"),
        method: operation.method,
        url: &url,
        headers: &headers,
        body: Some(b""),
    };
    if let Err(denied) = policy.call(&call) {
        return Ok(refused(&call, &denied));
    }
    let sending = framing(operation, &body, guest_length)?;
    let hash = prepare(operation, &url, &body, &mut headers)?;
    let route = Route {
        authority: Arc::clone(&url.authority),
        owner: identity.owner(&allowed),
        allowed,
        connect_timeout: TIMEOUT,
        read_timeout: TIMEOUT,
    };
    let mut request = Request {
        method: operation.method.to_owned(),
        target: url.target(),
        headers,
    };
    let replayable = matches!(body, RequestBody::Whole(_));
    let mut retries = 0;
    loop {
        // Signed anew for each attempt: the date is part of it.
        let scope = ("s3", head.region.as_str());
        engine.sign(
            identity,
            &mut request.headers,
            &request.method,
            &url,
            scope,
            &hash,
        )?;
        let result = engine
            .client
            .send(&route, &request, sending, &mut body)
            .await;
        let again = replayable && retries + 1 < ATTEMPTS;
        match result {
            Ok(response) if !(again && is_transient(response.status)) => {
                let expected = checksum(operation, &response);
                return Ok(reply(response, &url.authority, retries, expected));
            }
            Ok(response) => {
                BodyReader::new(response.body, Arc::clone(&url.authority), None)
                    .discard()
                    .await;
            }
            Err(error) if again && !matches!(error.kind, Kind::Forbidden | Kind::Tls) => {}
            Err(error) => return Err(Refusal::transport(&error, &url.authority.to_string())),
        }
        let longest = f64::from(1_u32 << retries.min(16)).min(LONGEST_BACKOFF_S);
        tokio::time::sleep(Duration::from_secs_f64(fastrand::f64() * longest)).await;
        retries += 1;
    }
}

/// Whether the function's policy allows an operation; of one that is not plainly right it does not say so.
pub fn is_allowed(engine: &Engine, identity: &FunctionIdentity, head: &[u8]) -> bool {
    let Ok(head) = serde_json::from_slice::<Head>(head) else {
        return false;
    };
    let policy = engine.policy(identity);
    let Some(operation) = Operation::find(&head.op) else {
        return false;
    };
    let Ok(url) = url(policy, operation, &head) else {
        return false;
    };
    let call = Call {
        service: Some("s3"),
        method: operation.method,
        url: &url,
        headers: &head.headers,
        body: Some(b""),
    };
    policy.check(&url.authority, Some("s3")).is_ok() && policy.call(&call).is_ok()
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504 | 509)
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Path style at an endpoint that somebody named, virtual-host style at AWS's.
fn url(policy: Policy<'_>, operation: &Operation, head: &Head) -> Result<Url, Refusal> {
    let (wants_bucket, wants_key) = (operation.bucket, operation.key);
    let bucket = head.bucket.as_deref().unwrap_or_default();
    let key = head.key.as_deref().unwrap_or_default();
    if wants_bucket == bucket.is_empty() || wants_key == key.is_empty() {
        return Err(Refusal::invalid(
            "bucket and key do not go with the operation",
        ));
    }
    let named = match &head.endpoint {
        None => policy.endpoint("s3").cloned(),
        Some(text) => Some(Url::parse(text).map_err(|what| Refusal::invalid(&what))?),
    };
    let mut url = match named {
        Some(mut url) => {
            while url.path.ends_with('/') {
                url.path.pop();
            }
            if wants_bucket {
                url.path.push('/');
                encode(bucket, false, &mut url.path);
            }
            url
        }
        None => at_aws(bucket, &head.region)?,
    };
    if wants_key {
        url.path.push('/');
        encode(key, true, &mut url.path);
    }
    if url.path.is_empty() {
        url.path.push('/');
    }
    url.query.clear();
    let given = head
        .query
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let free = given.filter(|pair| !operation.fixed.contains(pair));
    for (name, value) in operation.fixed.iter().copied().chain(free) {
        if !url.query.is_empty() {
            url.query.push('&');
        }
        encode(name, false, &mut url.query);
        if !(value.is_empty() && operation.fixed.contains(&(name, value))) {
            url.query.push('=');
            encode(value, false, &mut url.query);
        }
    }
    Ok(url)
}

fn at_aws(bucket: &str, region: &str) -> Result<Url, Refusal> {
    let zone = if region.starts_with("cn-") { ".cn" } else { "" };
    let host = format!("s3.{region}.amazonaws.com{zone}");
    // A dot would not match AWS's certificate.
    let virtual_host = !bucket.is_empty() && is_label(bucket);
    let text = if virtual_host {
        format!("https://{bucket}.{host}")
    } else {
        format!("https://{host}")
    };
    let mut url = Url::parse(&text).map_err(|what| Refusal::invalid(&what))?;
    url.path.clear();
    if !bucket.is_empty() && !virtual_host {
        url.path.push('/');
        encode(bucket, false, &mut url.path);
    }
    Ok(url)
}

/// S3 wants every upload's length.
fn framing(
    operation: &Operation,
    body: &RequestBody,
    told: Option<Result<u64, std::num::ParseIntError>>,
) -> Result<Sending, Refusal> {
    match (body, told) {
        (RequestBody::Whole(bytes), _)
            if bytes.is_empty() && !matches!(operation.method, "PUT" | "POST") =>
        {
            Ok(Sending::Nothing)
        }
        (RequestBody::Whole(bytes), _) => Ok(Sending::Length(bytes.len() as u64)),
        (RequestBody::Parts(_), Some(Ok(length))) => Ok(Sending::Length(length)),
        (RequestBody::Parts(_), _) => Err(Refusal::invalid(
            "a body that comes in parts needs the header Content-Length",
        )),
    }
}

/// Complete the headers but for the signature; the payload's hash.
///
/// # Errors
/// INVALID: a checksum of a kind that nobody here can make.
fn prepare(
    operation: &Operation,
    url: &Url,
    body: &RequestBody,
    headers: &mut Headers,
) -> Result<String, Refusal> {
    if !has(headers, "user-agent") {
        set(headers, "User-Agent", USER_AGENT);
    }
    if !has(headers, "accept-encoding") {
        set(headers, "Accept-Encoding", "identity");
    }
    // As has_checksum_header in botocore: what says how the checksum is made is none.
    let told = headers.iter().any(|(name, _)| {
        let name = name.to_ascii_lowercase();
        name.strip_prefix("x-amz-checksum-")
            .is_some_and(|rest| !matches!(rest, "mode" | "type" | "algorithm"))
    });
    let mut sum = None;
    if let (true, RequestBody::Whole(_), false) = (operation.checksum, body, told) {
        let wanted = values(headers, "x-amz-sdk-checksum-algorithm").next();
        let wanted = wanted.unwrap_or("CRC32").to_owned();
        let Some(algorithm) = Algorithm::named(&wanted) else {
            let what = format!("no checksum {wanted:.20?} can be made here");
            return Err(Refusal::invalid(&what));
        };
        sum = Some((algorithm, wanted, Checksum::new(algorithm)));
    }
    let given = values(headers, "x-amz-content-sha256")
        .next()
        .map(str::to_owned);
    // Err: one that is still to be made.
    let mut hash = match (given, body) {
        (Some(given), _) => Ok(given),
        (None, RequestBody::Whole(bytes)) if bytes.is_empty() => Ok(EMPTY_SHA256.to_owned()),
        (None, RequestBody::Whole(_)) if !url.authority.https => Err(PayloadHash::default()),
        (None, _) => Ok(UNSIGNED.to_owned()),
    };
    // Both at once, while a piece is in the processor's cache.
    if let RequestBody::Whole(bytes) = body
        && (sum.is_some() || hash.is_err())
    {
        bytes.for_each_copy(|piece| {
            if let Some((_, _, sum)) = &mut sum {
                sum.update(piece);
            }
            if let Err(hash) = &mut hash {
                hash.update(piece);
            }
        });
    }
    if let Some((algorithm, wanted, sum)) = sum {
        set(headers, algorithm.header(), &sum.finish());
        set(headers, "x-amz-sdk-checksum-algorithm", &wanted);
    }
    let hash = hash.unwrap_or_else(PayloadHash::finish);
    set(headers, "X-Amz-Content-SHA256", &hash);
    Ok(hash)
}

/// What the server says that the body's checksum is: the whole object's, or the part's that was asked for.
fn checksum(operation: &Operation, response: &Response) -> Option<(Algorithm, String)> {
    if operation.name != "GetObject" || !matches!(response.status, 200 | 206) {
        return None;
    }
    Algorithm::ALL.iter().find_map(|algorithm| {
        values(&response.headers, algorithm.header())
            .next()
            // One of a multipart upload is made of its parts' checksums.
            .filter(|value| !value.contains('-'))
            .map(|value| (*algorithm, value.to_owned()))
    })
}
