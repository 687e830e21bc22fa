//! Bodies that go on: what did not fit into a room waits here for READ.

use crate::completer::{Answer, Completer, body_start};
use crate::operation::{BodyReader, Refusal, rpc};
use crate::prefetch::Inputs;
use crate::raw::RawRoom;
use crate::ring::Submission;
use crate::web::conversation::Conversation;
use crate::web::rpc::{Event, Reader};
use bytes::Bytes;
use nexus_abi::arena::UNKNOWN_LENGTH;
use nexus_abi::operation::status;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Streams one instance may leave open.
const MAX_STREAMS: usize = 256;

/// Where a reply's body comes from.
#[derive(Debug)]
pub enum Source {
    /// An event.
    Memory(Bytes),
    /// It is in its room already.
    Placed(usize),
    /// A server's answer.
    Http(Box<BodyReader>),
    /// One that has broken off: what whoever reads on is told, once.
    Broken(Option<Refusal>),
    Conversation(Held),
    /// A gRPC call.
    Call(Events),
}

/// A conversation that ends with its stream.
#[derive(Debug)]
pub struct Held {
    conversation: Arc<Conversation>,
    /// The stream's first answer has no bytes: nothing has been asked yet.
    announced: bool,
}

/// What happens to a call. Each fill gives an event or some bytes.
#[derive(Debug)]
pub struct Events {
    reader: Box<Reader>,
    /// Bytes that were received already.
    early: Bytes,
    /// The stream's first answer has no bytes, unless there are some already.
    announced: bool,
}

impl Events {
    pub fn new(reader: Reader, early: Vec<u8>) -> Self {
        Self {
            announced: !early.is_empty(),
            reader: Box::new(reader),
            early: Bytes::from(early),
        }
    }

    async fn fill(&mut self, room: &RawRoom) -> Filled {
        if !self.announced {
            self.announced = true;
            return Filled::bytes(0, true);
        }
        if !self.early.is_empty() {
            let count = room.write(&self.early);
            let _ = self.early.split_to(count);
            return Filled::bytes(count, true);
        }
        match self.reader.next(room).await {
            Ok(count) => Filled::bytes(count, true),
            Err(event) => Filled {
                more: matches!(event, Event::Headers(_)),
                head: rpc::describe(&[event]),
                count: 0,
            },
        }
    }
}

/// What a fill gave.
struct Filled {
    /// Instead of bytes: a head.
    head: Vec<u8>,
    count: usize,
    /// Something may follow.
    more: bool,
}

impl Filled {
    fn bytes(count: usize, more: bool) -> Self {
        let head = Vec::new();
        Self { head, count, more }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.conversation.close();
    }
}

impl Source {
    pub fn conversation(conversation: &Arc<Conversation>) -> Self {
        Self::Conversation(Held {
            conversation: Arc::clone(conversation),
            announced: false,
        })
    }

    fn total(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::Placed(length) => *length as u64,
            Self::Http(reader) => reader.total().unwrap_or(UNKNOWN_LENGTH),
            Self::Conversation(_) | Self::Call(_) | Self::Broken(_) => UNKNOWN_LENGTH,
        }
    }

    /// It still comes from a server.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Memory(_) | Self::Placed(_))
    }

    /// Fill `room`.
    async fn fill(&mut self, room: &RawRoom) -> Result<Filled, Refusal> {
        match self {
            Self::Call(events) => Ok(events.fill(room).await),
            other => other
                .fill_bytes(room)
                .await
                .map(|(count, more)| Filled::bytes(count, more)),
        }
    }

    /// How much was filled, and whether more may follow.
    async fn fill_bytes(&mut self, room: &RawRoom) -> Result<(usize, bool), Refusal> {
        match self {
            Self::Call(_) => Ok((0, false)),
            Self::Memory(bytes) => {
                let count = room.write(bytes);
                let _ = bytes.split_to(count);
                Ok((count, !bytes.is_empty()))
            }
            Self::Placed(length) => Ok(((*length).min(room.len()), false)),
            Self::Conversation(held) if !held.announced => {
                held.announced = true;
                Ok((0, true))
            }
            Self::Conversation(held) => {
                let count = held.conversation.receive(room).await?;
                Ok((count, count > 0))
            }
            Self::Http(reader) => {
                let mut filled = 0;
                match fill_from(reader, room, &mut filled).await {
                    Ok(more) => Ok((filled, more)),
                    // What has come is the guest's: the head at least. The reads that follow say how it ended.
                    Err(refusal) => {
                        *self = Self::Broken(Some(refusal));
                        Ok((filled, true))
                    }
                }
            }
            Self::Broken(refusal) => match refusal.take() {
                Some(refusal) => Err(refusal),
                None => Ok((0, false)),
            },
        }
    }
}

/// Fill `room` with what comes of an answer's body; whether more may follow.
async fn fill_from(
    reader: &mut BodyReader,
    room: &RawRoom,
    filled: &mut usize,
) -> Result<bool, Refusal> {
    if reader.announces() {
        return Ok(true);
    }
    loop {
        if reader.remaining() == Some(0) {
            // The end is read too: it carries the verdict on the checksum.
            *filled += reader.read_into(&RawRoom::empty()).await?;
            return Ok(false);
        }
        let rest = room.skip(*filled);
        if rest.is_empty() {
            return Ok(true);
        }
        match reader.read_into(&rest).await? {
            0 => return Ok(false),
            count => *filled += count.min(rest.len()),
        }
        if reader.is_live() {
            return Ok(true);
        }
    }
}

/// An open stream; one READ at a time uses it.
#[derive(Debug)]
pub struct Stream {
    source: tokio::sync::Mutex<Source>,
    conversation: Option<Arc<Conversation>>,
    total: u64,
}

/// The streams of one channel.
#[derive(Debug, Default)]
pub struct Streams(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Stream>>,
    last: u64,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Complete `submission` with `head` and as much of `source` as its room holds; the rest becomes a stream. `inputs`
    /// where that comes from outside.
    pub async fn answer(
        &self,
        completer: &Completer,
        submission: &Submission,
        head: &[u8],
        mut source: Source,
        inputs: Option<&Inputs>,
    ) {
        let Some(room) = completer.body_room(submission, head.len()) else {
            let message = format!("the reply's head has {} bytes", head.len());
            completer.refuse(submission, status::NO_ROOM, "NoRoom", &message);
            return;
        };
        let total = source.total();
        match source.fill(&room).await {
            Err(refusal) => completer.refuse_with(submission, refusal.status, &refusal.head),
            Ok(filled) => {
                let body_length = filled.count;
                let more = if filled.more {
                    match self.insert(source, total) {
                        Some(id) => Some(id),
                        None => {
                            completer.refuse(
                                submission,
                                status::BUSY,
                                "TooManyStreams",
                                "too many bodies are open: read or close some",
                            );
                            return;
                        }
                    }
                } else {
                    None
                };
                if let Some(inputs) = inputs {
                    inputs.note();
                }
                let answer = Answer {
                    head,
                    body_length,
                    more,
                    total_length: total,
                    ..Answer::default()
                };
                completer.complete(submission, &answer);
            }
        }
    }

    fn insert(&self, source: Source, total: u64) -> Option<u64> {
        let mut table = self.lock();
        if table.open.len() >= MAX_STREAMS {
            return None;
        }
        table.last += 1;
        let id = table.last;
        let conversation = match &source {
            Source::Conversation(held) => Some(Arc::clone(&held.conversation)),
            _ => None,
        };
        let stream = Stream {
            conversation,
            source: tokio::sync::Mutex::new(source),
            total,
        };
        table.open.insert(id, Arc::new(stream));
        Some(id)
    }

    /// READ.
    pub async fn read(
        &self,
        stream: Option<Arc<Stream>>,
        completer: &Completer,
        submission: &Submission,
        inputs: &Inputs,
    ) {
        let id = submission.stream;
        let Some(stream) = stream else {
            no_stream(completer, submission);
            return;
        };
        let Some(room) = completer.body_room(submission, 0).filter(|r| !r.is_empty()) else {
            completer.refuse(submission, status::NO_ROOM, "NoRoom", "READ needs a room");
            return;
        };
        debug_assert_eq!(body_start(0), 0);
        let filling = async { stream.source.lock().await.fill(&room).await };
        let filled = match submission.timeout_ms {
            0 => filling.await,
            // Conversations alone: their receive may be given up, and nothing is lost.
            ms if stream.conversation.is_some() => {
                let limit = Duration::from_millis(u64::from(ms));
                match tokio::time::timeout(limit, filling).await {
                    Ok(filled) => filled,
                    Err(_) => {
                        completer.refuse(submission, status::TIMEOUT, "TimeoutError", "timed out");
                        return;
                    }
                }
            }
            _ => filling.await,
        };
        match filled {
            Err(refusal) => {
                self.close(id);
                completer.refuse_with(submission, refusal.status, &refusal.head);
            }
            Ok(filled) => {
                if !filled.more {
                    self.close(id);
                }
                inputs.note();
                let answer = Answer {
                    head: &filled.head,
                    body_length: filled.count,
                    more: filled.more.then_some(id),
                    own: stream.conversation.as_ref().is_some_and(|c| c.is_own()),
                    total_length: stream.total,
                    ..Answer::default()
                };
                completer.complete(submission, &answer);
            }
        }
    }

    /// Forget a stream, if it is open. Its connection is dropped with it.
    /// What a READ is about: to be looked up when it is submitted, so that a CLOSE behind it does not overtake it.
    pub fn find(&self, id: u64) -> Option<Arc<Stream>> {
        self.lock().open.get(&id).cloned()
    }

    pub fn close(&self, id: u64) {
        let stream = self.lock().open.remove(&id);
        if let Some(conversation) = stream.and_then(|stream| stream.conversation.clone()) {
            conversation.close(); // a READ may be waiting on it
        }
    }

    /// The conversation of a stream, if it is one.
    pub fn conversation(&self, id: u64) -> Option<Arc<Conversation>> {
        self.lock().open.get(&id)?.conversation.clone()
    }
}

/// Complete with NO_STREAM.
pub fn no_stream(completer: &Completer, submission: &Submission) {
    let message = format!("there is no stream {}", submission.stream);
    completer.refuse(submission, status::NO_STREAM, "NoStream", &message);
}
