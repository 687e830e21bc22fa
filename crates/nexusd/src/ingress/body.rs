//! Request bodies: bounded in size and in time.

use super::errors::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::time::Duration;
use tokio::time::timeout;

/// A whole body has to arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// Read a body of at most `limit` bytes.
///
/// # Errors
/// RequestTooLargeException, RequestTimeoutException, InvalidRequestContentException for a connection that breaks.
pub async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
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
