//! A reply's body on its way into rooms, verified where the server told its checksum.

use super::Refusal;
use super::checksum::{Algorithm, Checksum};
use crate::http::body::ResponseBody;
use crate::http::error::{Kind, TransportError};
use crate::http::url::Authority;
use crate::raw::RawRoom;
use std::sync::Arc;

#[derive(Debug)]
pub struct BodyReader {
    body: ResponseBody,
    endpoint: Arc<Authority>,
    /// Its parts are wanted as they come, not in full rooms.
    live: bool,
    announced: bool,
    /// Of what has been read so far, and what it should become.
    checksum: Option<(Checksum, String)>,
}

impl BodyReader {
    pub fn new(
        body: ResponseBody,
        endpoint: Arc<Authority>,
        expected: Option<(Algorithm, String)>,
    ) -> Self {
        let checksum = expected.map(|(algorithm, value)| (Checksum::new(algorithm), value));
        Self {
            body,
            endpoint,
            live: false,
            announced: false,
            checksum,
        }
    }

    /// The same, whose parts are wanted as they come.
    pub fn live(self, live: bool) -> Self {
        Self { live, ..self }
    }

    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the reply that comes first is to be without a part, since one may be long in coming: once, where live.
    pub fn announces(&mut self) -> bool {
        self.live && !std::mem::replace(&mut self.announced, true)
    }

    /// Receive some bytes into `room`; 0 at the end. A read at the end gives the verdict on the checksum, an
    /// empty room will do for that.
    ///
    /// # Errors
    /// The body broke off, or is not what its checksum says.
    pub async fn read_into(&mut self, room: &RawRoom) -> Result<usize, Refusal> {
        let result = self.read(room).await;
        result.map_err(|error| Refusal::transport(&error, &self.endpoint.to_string()))
    }

    async fn read(&mut self, room: &RawRoom) -> Result<usize, TransportError> {
        let count = self.body.read_into(room).await?;
        if let Some((checksum, _)) = &mut self.checksum {
            room.as_slice(count)
                .for_each_copy(|piece| checksum.update(piece));
        }
        if count == 0
            && self.body.remaining() == Some(0)
            && let Some((so_far, expected)) = self.checksum.take()
        {
            let actual = so_far.finish();
            if actual != expected {
                let message = format!(
                    "Expected checksum {expected} did not match calculated checksum: {actual}"
                );
                return Err(TransportError::new(Kind::Checksum, message));
            }
        }
        Ok(count)
    }

    /// Bytes to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    /// Length of the whole body, where the server told it.
    pub fn total(&self) -> Option<u64> {
        self.body.total()
    }

    /// Read what is left, if that is little, so that its connection can serve another request.
    pub async fn discard(mut self) {
        let scratch = RawRoom::own(DISCARD);
        let mut left = DISCARD;
        while left > 0 {
            match self.body.read_into(&scratch).await {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }
}

/// Most bytes of an unwanted body that are read.
const DISCARD: usize = 16 << 10;
