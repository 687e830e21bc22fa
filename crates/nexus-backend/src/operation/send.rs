//! What S3 and HTTP operations have in common: headers, signatures, replies.

use super::checksum::Algorithm;
use super::{BodyReader, Content, Engine, Refusal, Reply};
use crate::FunctionIdentity;
use crate::credentials::Credentials;
use crate::http::Response;
use crate::http::head::{is_ours, is_sound, values};
use crate::http::url::{Authority, Url};
use crate::policy::{Call, Denied, Refused};
use crate::sigv4::{self, Scope, Signable, amz_date};
use nexus_abi::operation::{PLACEHOLDER_KEY_ID, status};
use serde::Serialize;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

pub type Headers = Vec<(String, String)>;

/// A guest's headers without those that are the connection's.
///
/// # Errors
/// INVALID: a header that is none.
pub fn clean(headers: Headers) -> Result<Headers, Refusal> {
    let mut kept = Vec::with_capacity(headers.len() + 8);
    for (name, value) in headers {
        if !is_sound(&name, &value) {
            return Err(Refusal::invalid(&format!(
                "{name:.60?} is not a header, or its value has control characters"
            )));
        }
        if !is_ours(&name) {
            kept.push((name, value));
        }
    }
    Ok(kept)
}

pub fn has(headers: &Headers, name: &str) -> bool {
    values(headers, name).next().is_some()
}

pub fn set(headers: &mut Headers, name: &str, value: &str) {
    headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    headers.push((name.to_owned(), value.to_owned()));
}

impl Engine {
    /// # Errors
    /// DENIED: there are none.
    pub fn credentials(
        &self,
        identity: &FunctionIdentity,
        endpoint: Option<&Authority>,
    ) -> Result<Arc<Credentials>, Refusal> {
        let own = identity.credentials.as_deref();
        own.unwrap_or(&self.credentials).current().ok_or_else(|| {
            let message = "the node has no credentials to sign with: give nexusd a credentials file, \
                           environment variables or ~/.aws/credentials";
            let endpoint = endpoint.map(Authority::to_string).unwrap_or_default();
            Refusal::new(status::DENIED, "NoCredentialsError", message, &endpoint)
        })
    }

    /// Add date, token and signature, the function's. `payload_hash` as it stands in the canonical request.
    ///
    /// # Errors
    /// DENIED: there are no credentials.
    pub fn sign(
        &self,
        identity: &FunctionIdentity,
        headers: &mut Headers,
        method: &str,
        url: &Url,
        (service, region): (&str, &str),
        payload_hash: &str,
    ) -> Result<(), Refusal> {
        let credentials = self.credentials(identity, Some(&url.authority))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = amz_date(now.map_or(0, |since| since.as_secs()));
        set(headers, "X-Amz-Date", &time);
        headers.retain(|(name, _)| {
            !name.eq_ignore_ascii_case("authorization")
                && !name.eq_ignore_ascii_case("x-amz-security-token")
        });
        if let Some(token) = credentials.session_token() {
            set(headers, "X-Amz-Security-Token", token);
        }
        // Host is signed, and written by the client.
        headers.push(("host".to_owned(), url.authority.host_header().to_owned()));
        let scope = Scope {
            region,
            service,
            time: &time,
        };
        let what = Signable {
            method,
            path: &url.path,
            query: &url.query,
            headers,
            payload_hash,
        };
        let value = sigv4::sign(&credentials, scope, &what);
        headers.retain(|(name, _)| name != "host");
        headers.push(("Authorization".to_owned(), value));
        Ok(())
    }
}

/// Whether an Authorization header bears the credentials that every guest is given.
pub fn is_placeholder(value: &str) -> bool {
    value.contains(PLACEHOLDER_KEY_ID)
}

/// Content type of answers whose events are sent as they happen.
const EVENT_STREAM: &str = "application/vnd.amazon.eventstream";

/// The reply for an answer of a server.
pub fn reply(
    response: Response,
    authority: &Arc<Authority>,
    retries: u32,
    checksum: Option<(Algorithm, String)>,
) -> Reply {
    let live = values(&response.headers, "content-type").any(|kind| kind == EVENT_STREAM);
    let reader = BodyReader::new(response.body, Arc::clone(authority), checksum).live(live);
    Reply {
        head: reply_head(response.status, &response.headers, retries),
        body: Content::Http(Box::new(reader)),
    }
}

/// The reply for a call to AWS that the function's policy does not allow.
pub fn refused(call: &Call<'_>, denied: &Denied) -> Reply {
    unsent(Refused::new(call, denied))
}

/// The reply for what was not sent.
pub fn unsent(answer: Refused) -> Reply {
    Reply {
        head: reply_head(answer.status, &answer.headers, 0),
        body: Content::Memory(answer.body.into()),
    }
}

fn reply_head(status: u16, headers: &[(String, String)], retries: u32) -> Vec<u8> {
    #[derive(Serialize)]
    struct ReplyHead<'a> {
        status: u16,
        headers: &'a [(String, String)],
        retries: u32,
    }
    let head = ReplyHead {
        status,
        headers,
        retries,
    };
    // Strings and numbers: it cannot fail.
    serde_json::to_vec(&head).unwrap_or_default()
}
