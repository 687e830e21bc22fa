//! Request bodies: bounded in size and in time.

use super::errors::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{EXPECT, HeaderMap};
use std::time::Duration;
use tokio::time::timeout;

/// A whole body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read of a body that nobody wants, so that its connection can be used again: as large as an event may be.
const MAX_DRAINED: usize = 8 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Read a body of at most `limit` bytes.
///
/// # Errors
/// RequestTooLargeException, RequestTimeoutException, InvalidRequestContentException for a connection that breaks.
pub async fn read(body: &mut Incoming, limit: usize) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::too_large(limit));
    }
    let collect = async {
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| {
                ApiError::invalid_content(format!("The request's body could not be read: {e}"))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if first.len() + rest.len() + data.len() > limit {
                return Err(ApiError::too_large(limit));
            }
            // Most bodies are one frame, which is then never copied.
            if first.is_empty() && rest.is_empty() {
                first = data;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&std::mem::take(&mut first));
                }
                rest.extend_from_slice(&data);
            }
        }
        Ok(if rest.is_empty() {
            first
        } else {
            rest.freeze()
        })
    };
    timeout(BODY_TIMEOUT, collect)
        .await
        .unwrap_or_else(|_| Err(ApiError::request_timeout()))
}

/// Read what is left of a body and forget it. False: it is too large, does not arrive, or is not even sent yet.
pub async fn drain(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    if headers.contains_key(EXPECT) || body.size_hint().lower() > MAX_DRAINED as u64 {
        return false;
    }
    let rest = async {
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            length += frame.data_ref().map_or(0, Bytes::len);
            if length > MAX_DRAINED {
                return false;
            }
        }
        true
    };
    timeout(DRAIN_TIMEOUT, rest).await.unwrap_or(false)
}
