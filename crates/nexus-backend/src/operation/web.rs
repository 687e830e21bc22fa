//! WEB_CONNECT, WEB_TUNE and WEB_TLS: a guest's conversation with a web server, its options, and its TLS.

use super::{Engine, Refusal, limit, parse};
use crate::FunctionIdentity;
use crate::raw::RawSlice;
use crate::web::connection::{Key, Peer};
use crate::web::conversation::Conversation;
use crate::web::options::Options;
use crate::web::tls::{MAX_SET_BYTES, Settings};
use nexus_abi::operation::status;
use serde::Deserialize;
use std::sync::Arc;

const MAX_HOST: usize = 255;

/// Head of WEB_CONNECT (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    host: String,
    port: u16,
    #[serde(default)]
    options: Options,
}

/// Head of WEB_TUNE.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tuning {
    options: Options,
}

/// # Errors
/// The server cannot be reached, or the policy forbids it.
pub async fn connect(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    head: &[u8],
    timeout_ms: u32,
) -> Result<Arc<Conversation>, Refusal> {
    let Target {
        host,
        port,
        options,
    } = parse(head)?;
    options.check()?;
    let key = Key {
        function: Arc::clone(identity.policy.owner()),
        host: self::host(&host)?,
        port,
        options,
        tls: None,
    };
    Ok(Conversation::open(engine, identity, key, limit(timeout_ms)).await?)
}

/// # Errors
/// As setsockopt(2).
pub fn tune(conversation: &Conversation, head: &[u8]) -> Result<(), Refusal> {
    let Tuning { options } = parse(head)?;
    options.check()?;
    conversation.tune(options);
    Ok(())
}

/// # Errors
/// The handshake failed, or the server is not who it should be. INVALID with the error UnknownAuthorities: they have
/// to be sent along.
pub async fn secure(
    engine: &Engine,
    conversation: &Conversation,
    head: &[u8],
    body: &RawSlice,
    timeout_ms: u32,
) -> Result<Vec<u8>, Refusal> {
    let settings: Settings = parse(head)?;
    authorities(engine, &settings, body)?;
    conversation.secure(settings, limit(timeout_ms)).await?;
    Ok(describe(&conversation.peer()))
}

/// A host's name or address, in lower case.
///
/// # Errors
/// INVALID: it is none.
pub fn host(text: &str) -> Result<String, Refusal> {
    if text.is_empty() || text.len() > MAX_HOST || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Refusal::invalid("the host is none"));
    }
    Ok(text.to_ascii_lowercase())
}

/// See that the authorities of `settings` are known; `sent_along` are they, or nothing.
///
/// # Errors
/// INVALID with the error UnknownAuthorities: they have to be sent along.
pub fn authorities(
    engine: &Engine,
    settings: &Settings,
    sent_along: &RawSlice,
) -> Result<(), Refusal> {
    if let Some(digest) = &settings.authorities
        && !engine.tls.knows(digest)
    {
        if sent_along.is_empty() || sent_along.len() > MAX_SET_BYTES {
            let what = "send the authorities along";
            return Err(Refusal::new(
                status::INVALID,
                "UnknownAuthorities",
                what,
                "",
            ));
        }
        engine
            .tls
            .learn(digest, &sent_along.to_vec())
            .map_err(|what| Refusal::invalid(&what))?;
    }
    Ok(())
}

/// The reply's head.
pub fn describe(peer: &Peer) -> Vec<u8> {
    // Strings and numbers: it cannot fail.
    serde_json::to_vec(peer).unwrap_or_default()
}
