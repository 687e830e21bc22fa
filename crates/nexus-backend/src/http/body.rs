//! A response's body, received into rooms.

use super::error::{Kind, TransportError};
use super::head::Framing;
use super::pool::{Connection, Pool};
use super::url::Authority;
use crate::raw::RawRoom;
use std::sync::Arc;
use std::time::Duration;

/// Bytes taken at a time: others' small answers wait for no more than this.
const QUANTUM: usize = 256 << 10;
/// Longest line between chunks (size and extensions), and longest trailer section.
const MAX_LINE: usize = 8 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This many bytes are to come.
    Length(u64),
    /// A chunk's size is next.
    ChunkSize,
    /// This many bytes of a chunk are to come.
    Chunk(u64),
    /// The line end after a chunk is next.
    ChunkEnd,
    Trailers,
    Close,
    Done,
}

/// Reads one body; gives its connection back when that is whole.
#[derive(Debug)]
pub struct ResponseBody {
    connection: Option<Connection>,
    state: State,
    total: Option<u64>,
    keep_alive: bool,
    authority: Arc<Authority>,
    owner: Option<Arc<str>>,
    pool: Arc<Pool>,
    patience: Duration,
}

impl ResponseBody {
    pub fn new(
        connection: Connection,
        framing: Framing,
        keep_alive: bool,
        authority: Arc<Authority>,
        owner: Option<Arc<str>>,
        pool: Arc<Pool>,
        patience: Duration,
    ) -> Self {
        let (state, total) = match framing {
            Framing::Length(length) => (State::Length(length), Some(length)),
            Framing::Chunked => (State::ChunkSize, None),
            Framing::Close => (State::Close, None),
        };
        let mut body = Self {
            connection: Some(connection),
            state,
            total,
            keep_alive,
            authority,
            owner,
            pool,
            patience,
        };
        if state == State::Length(0) {
            body.finish();
        }
        body
    }

    /// Bytes to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(remaining) => Some(remaining),
            State::Done => Some(0),
            _ => None,
        }
    }

    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Receive some bytes into `room`; 0 at the end, or where the room is empty.
    ///
    /// # Errors
    /// The connection broke. The body is of no use then.
    pub async fn read_into(&mut self, room: &RawRoom) -> Result<usize, TransportError> {
        if room.is_empty() {
            return Ok(0);
        }
        let result = self.read_some(room).await;
        if result.is_err() {
            self.connection = None;
            self.state = State::Done;
        }
        result
    }

    async fn read_some(&mut self, room: &RawRoom) -> Result<usize, TransportError> {
        loop {
            match self.state {
                State::Done => return Ok(0),
                State::Length(left) => {
                    let count = self.take(room, left).await?;
                    if count == 0 {
                        return Err(incomplete(&format!("{left} bytes were to come")));
                    }
                    self.state = State::Length(left.saturating_sub(count as u64));
                    if self.state == State::Length(0) {
                        self.finish();
                    }
                    return Ok(count);
                }
                State::Chunk(left) => {
                    let count = self.take(room, left).await?;
                    if count == 0 {
                        return Err(incomplete("inside a chunk"));
                    }
                    self.state = match left.saturating_sub(count as u64) {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    return Ok(count);
                }
                State::Close => {
                    let count = self.take(room, u64::MAX).await?;
                    if count == 0 {
                        self.finish();
                    }
                    return Ok(count);
                }
                State::ChunkSize => {
                    let line = self.line().await?;
                    self.state = match chunk_size(&line).map_err(|what| incomplete(&what))? {
                        0 => State::Trailers,
                        size => State::Chunk(size),
                    };
                }
                State::ChunkEnd => {
                    if !self.line().await?.is_empty() {
                        return Err(incomplete("a chunk is longer than its size"));
                    }
                    self.state = State::ChunkSize;
                }
                State::Trailers => {
                    let mut left = MAX_LINE;
                    loop {
                        let line = self.line().await?;
                        if line.is_empty() {
                            break;
                        }
                        left = left
                            .checked_sub(line.len() + 2)
                            .ok_or_else(|| incomplete("too many trailers"))?;
                    }
                    self.finish();
                }
            }
        }
    }

    /// At most `limit` bytes of what is received already, else from the socket straight into the room.
    async fn take(&mut self, room: &RawRoom, limit: u64) -> Result<usize, TransportError> {
        let exact = matches!(self.state, State::Length(_));
        let connection = self.connection.as_mut().ok_or_else(|| incomplete("over"))?;
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let ready = connection.buffered();
        if !ready.is_empty() {
            let count = room.write(ready.get(..ready.len().min(most)).unwrap_or_default());
            connection.start += count;
            return Ok(count);
        }
        let target = room.first(most.min(QUANTUM));
        // A byte more than there should be: it shows whether the server keeps to its own length.
        let mut spare = [0_u8; 1];
        let beyond = if exact && target.len() == most { 1 } else { 0 };
        let spare = spare.get_mut(..beyond).unwrap_or_default();
        let count = connection
            .socket
            .receive_raw(&target, spare, self.patience)
            .await?;
        if count > target.len() {
            self.keep_alive = false;
        }
        if count >= QUANTUM {
            // Whoever else is ready has a turn before the next piece.
            tokio::task::yield_now().await;
        }
        Ok(count.min(target.len()))
    }

    /// The next line without its end.
    async fn line(&mut self) -> Result<Vec<u8>, TransportError> {
        let patience = self.patience;
        let connection = self.connection.as_mut().ok_or_else(|| incomplete("over"))?;
        loop {
            let ready = connection.buffered();
            if let Some(at) = ready.iter().position(|b| *b == b'\n') {
                let line = ready.get(..at).unwrap_or_default();
                let line = line
                    .strip_suffix(b"\r")
                    .ok_or_else(|| incomplete("a line between chunks ends badly"))?
                    .to_vec();
                connection.start += at + 1;
                return Ok(line);
            }
            if ready.len() >= MAX_LINE {
                return Err(incomplete("a line between chunks is too long"));
            }
            if connection.fill(MAX_LINE, patience).await? == 0 {
                return Err(incomplete("between chunks"));
            }
        }
    }

    fn finish(&mut self) {
        self.state = State::Done;
        if let Some(connection) = self.connection.take()
            && self.keep_alive
        {
            self.pool
                .put(&self.authority, self.owner.clone(), connection);
        }
    }
}

fn incomplete(what: &str) -> TransportError {
    TransportError::new(Kind::Incomplete, format!("the body ended early: {what}"))
}

fn chunk_size(line: &[u8]) -> Result<u64, String> {
    let digits = line
        .split(|b| *b == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    if digits.is_empty() || digits.len() > 15 {
        return Err("a chunk's size is not a number".to_owned());
    }
    let mut size = 0_u64;
    for digit in digits {
        let value = char::from(*digit)
            .to_digit(16)
            .ok_or("a chunk's size is not a number")?;
        size = size * 16 + u64::from(value);
    }
    Ok(size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes() {
        assert_eq!(chunk_size(b"1aF").unwrap(), 0x1af);
        assert_eq!(chunk_size(b"0;name=value").unwrap(), 0);
        for line in [
            &b""[..],
            b"-1",
            b"+1",
            b"0x1",
            b"1 1",
            b"1111111111111111",
            b";x",
        ] {
            assert!(chunk_size(line).is_err());
        }
    }
}
