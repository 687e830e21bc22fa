//! A reply's body on its way into rooms, verified where the server told its checksum.

use super::Refusal;
use crate::http::body::ResponseBody;
use crate::http::error::{Kind, TransportError};
use crate::raw::RawRoom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    endpoint: String,
    checksum: Option<Checksum>,
}

#[derive(Debug)]
enum Body {
    Network(ResponseBody),
    /// It has been read, and verified, already: what is left, and how much it was.
    Memory(Bytes, u64),
}

impl Body {
    async fn read_into(&mut self, room: &RawRoom) -> Result<usize, TransportError> {
        match self {
            Self::Network(body) => body.read_into(room).await,
            Self::Memory(bytes, _) => {
                let count = room.write(bytes);
                let _ = bytes.split_to(count);
                Ok(count)
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        match self {
            Self::Network(body) => body.remaining(),
            Self::Memory(bytes, _) => Some(bytes.len() as u64),
        }
    }

    fn total(&self) -> Option<u64> {
        match self {
            Self::Network(body) => body.total(),
            Self::Memory(_, total) => Some(*total),
        }
    }
}

/// CRC-32 of what has been read so far, and what it should become (base64).
#[derive(Debug)]
struct Checksum {
    so_far: crc32fast::Hasher,
    expected: String,
}

impl BodyReader {
    pub fn new(body: ResponseBody, endpoint: String, crc32: Option<String>) -> Self {
        let checksum = crc32.map(|expected| Checksum {
            so_far: crc32fast::Hasher::new(),
            expected,
        });
        Self {
            body: Body::Network(body),
            endpoint,
            checksum,
        }
    }

    /// Of a body that was read already.
    pub fn of_bytes(bytes: Bytes) -> Self {
        let total = bytes.len() as u64;
        Self {
            body: Body::Memory(bytes, total),
            endpoint: String::new(),
            checksum: None,
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.body, Body::Network(_))
    }

    /// Receive some bytes into `room`; 0 at the end. A read at the end gives the verdict on the checksum, an
    /// empty room will do for that.
    ///
    /// # Errors
    /// The body broke off, or is not what its checksum says.
    pub async fn read_into(&mut self, room: &RawRoom) -> Result<usize, Refusal> {
        let result = self.read(room).await;
        result.map_err(|error| Refusal::transport(&error, &self.endpoint))
    }

    async fn read(&mut self, room: &RawRoom) -> Result<usize, TransportError> {
        let count = self.body.read_into(room).await?;
        if let Some(checksum) = &mut self.checksum {
            room.as_slice(count)
                .for_each_copy(|piece| checksum.so_far.update(piece));
        }
        if count == 0
            && self.body.remaining() == Some(0)
            && let Some(Checksum { so_far, expected }) = self.checksum.take()
        {
            let actual = crc32_text(so_far);
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

/// A checksum as S3 writes it.
pub fn crc32_text(hasher: crc32fast::Hasher) -> String {
    STANDARD.encode(hasher.finalize().to_be_bytes())
}
