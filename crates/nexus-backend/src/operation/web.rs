//! WEB_CONNECT and WEB_TLS: a guest's conversation with a web server, and its TLS.

use super::{Engine, Refusal, parse};
use crate::FunctionIdentity;
use crate::raw::RequestBody;
use crate::web::connection::{Key, Peer};
use crate::web::conversation::Conversation;
use crate::web::tls::{MAX_SET_BYTES, Settings};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Where a guest's time-out is none or longer than that.
const LONGEST: Duration = Duration::from_secs(900);
const MAX_HOST: usize = 255;

/// Head of WEB_CONNECT (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    host: String,
    port: u16,
}

pub fn limit(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => LONGEST,
        ms => Duration::from_millis(u64::from(ms)).min(LONGEST),
    }
}

/// # Errors
/// The server cannot be reached, or the policy forbids it.
pub async fn connect(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    head: &[u8],
    timeout_ms: u32,
) -> Result<Arc<Conversation>, Refusal> {
    let Target { host, port } = parse(head)?;
    if host.is_empty() || host.len() > MAX_HOST || !host.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid("the host is none"));
    }
    let key = Key {
        function: Arc::clone(identity.policy.owner()),
        host: host.to_ascii_lowercase(),
        port,
        tls: None,
    };
    Ok(Conversation::open(engine, identity, key, limit(timeout_ms)).await?)
}

/// # Errors
/// The handshake failed, or the server is not who it should be. INVALID with the error UnknownAuthorities: they have
/// to be sent along.
pub async fn secure(
    engine: &Engine,
    conversation: &Conversation,
    head: &[u8],
    body: &RequestBody,
    timeout_ms: u32,
) -> Result<Vec<u8>, Refusal> {
    let settings: Settings = parse(head)?;
    if let Some(digest) = &settings.authorities
        && !engine.tls.knows(digest)
    {
        match body {
            RequestBody::Whole(bytes) if !bytes.is_empty() && bytes.len() <= MAX_SET_BYTES => engine
                .tls
                .learn(digest, &bytes.to_vec())
                .map_err(|what| Refusal::invalid(&what))?,
            _ => {
                let what = "send the authorities along";
                return Err(Refusal::new(
                    nexus_abi::operation::status::INVALID,
                    "UnknownAuthorities",
                    what,
                    "",
                ));
            }
        }
    }
    conversation.secure(settings, limit(timeout_ms)).await?;
    Ok(describe(&conversation.peer()))
}

/// The reply's head.
pub fn describe(peer: &Peer) -> Vec<u8> {
    // Strings and numbers: it cannot fail.
    serde_json::to_vec(peer).unwrap_or_default()
}
