//! RPC: a gRPC call, from a submission's head to its events.

use super::web::{authorities, host};
use super::{Engine, Refusal, parse};
use crate::FunctionIdentity;
use crate::raw::{RawRoom, RawSlice, RequestBody};
use crate::web::connection::Key;
use crate::web::options::Options;
use crate::web::rpc::{Call, Event, Reader};
use crate::web::tls::Settings;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Largest answer that is handed over whole, whatever its room (bytes).
const MAX_WHOLE: usize = 256 << 10;

/// Head of RPC (docs/abi.md).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    host: String,
    port: u16,
    authority: String,
    path: String,
    metadata: Vec<(String, String)>,
    tls: Option<Settings>,
    deadline_ms: Option<u64>,
    wait_for_ready: bool,
    /// One completion for the whole call, where its answer fits.
    whole: bool,
    /// Bytes of the body that are authorities; the messages follow them.
    authorities: usize,
}

/// The call, and whether its answer is wanted whole.
///
/// # Errors
/// INVALID.
pub fn prepare(
    engine: &Arc<Engine>,
    identity: &Arc<FunctionIdentity>,
    head: &[u8],
    body: RequestBody,
    sent_along: &RawSlice,
    cancelled: watch::Receiver<bool>,
) -> Result<(Reader, bool), Refusal> {
    let head: Head = parse(head)?;
    let mut body = body;
    if let Some(settings) = &head.tls {
        let known = sent_along.slice(0, head.authorities);
        authorities(engine, settings, &known)?;
    }
    if let RequestBody::Whole(bytes) = &body {
        body = RequestBody::Whole(bytes.slice(head.authorities, usize::MAX));
    }
    let call = Call {
        path: head.path,
        authority: head.authority,
        metadata: head.metadata,
        key: Key {
            options: Options::default(),
            function: Arc::clone(identity.policy.owner()),
            host: host(&head.host)?,
            port: head.port,
            tls: head.tls,
        },
        deadline: head.deadline_ms.map(Duration::from_millis),
        wait_for_ready: head.wait_for_ready,
    };
    let whole = head.whole;
    let reader = Reader::new(engine, identity, call, body, cancelled);
    Ok((reader, whole))
}

/// All that happens to a call until it ends, or until its answer exceeds `limit` bytes: events, and the answer's bytes.
pub async fn collect(reader: &mut Reader, limit: usize) -> (Vec<Event>, Vec<u8>, bool) {
    let (mut events, mut bytes) = (Vec::new(), Vec::new());
    let scratch = RawRoom::own(16 << 10);
    let limit = limit.min(MAX_WHOLE);
    loop {
        if bytes.len() + scratch.len() > limit {
            return (events, bytes, true);
        }
        match reader.next(&scratch).await {
            Ok(count) => bytes.extend_from_slice(&scratch.as_slice(count).to_vec()),
            Err(event) => {
                let over = !matches!(event, Event::Headers(_));
                events.push(event);
                if over {
                    return (events, bytes, false);
                }
            }
        }
    }
}

/// A completion's head for events.
pub fn describe(events: &[Event]) -> Vec<u8> {
    // Strings and numbers: it cannot fail.
    json!({ "events": events }).to_string().into_bytes()
}
