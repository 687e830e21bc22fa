//! One instance's channel: takes submissions in order, and hands each to what serves it.

use crate::arena::Arena;
use crate::completer::{Answer, Completer};
use crate::operation::{Content, Engine, rpc, web};
use crate::prefetch::{Copies, Inputs};
use crate::raw::{RawSlice, RequestBody};
use crate::ring::{Submission, Submissions};
use crate::sockets;
use crate::stream::{Events, Source, Streams, no_stream};
use crate::upload::{self, Progress, Uploads};
use crate::writes::gate::{self, Circumstances};
use crate::writes::ledger::now_ns;
use crate::writes::scope::Current;
use crate::{
    Error, EventHead, Finished, FunctionIdentity, GuestDescriptors, RuntimeMessage, Scope,
    Statistics, Wake, WriteOptions,
};
use bytes::Bytes;
use nexus_abi::operation as abi;
use serde::Deserialize;
use std::collections::HashMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// Operations of one instance that are worked on at a time, of the 64 that it may have in flight.
const INSTANCE_OPERATIONS: usize = 32;
/// Bytes of a head that are looked at; a longer one is INVALID.
const MAX_HEAD: usize = 256 << 10;
/// Room that is left to the events of a call that is answered whole (bytes).
const HEAD_ROOM: usize = 32 << 10;
/// Bytes of an initialisation error that are kept.
const MAX_INIT_ERROR: usize = 256 << 10;

/// The host's end of one instance's arena. Dropping it cancels everything in flight.
#[derive(Debug)]
pub struct Channel {
    completer: Arc<Completer>,
    doorbell: AsyncFd<OwnedFd>,
    submissions: Submissions,
    streams: Arc<Streams>,
    uploads: Uploads,
    /// What cancels the calls in flight.
    calls: HashMap<u64, watch::Sender<bool>>,
    engine: Arc<Engine>,
    identity: Arc<FunctionIdentity>,
    writes: WriteOptions,
    /// The invocation that is being handled, and what was read ahead for it.
    current: Arc<Current>,
    copies: Option<Arc<Copies>>,
    inputs: Arc<Inputs>,
    /// When the last event was delivered; 0: none was.
    delivered_ns: u64,
    /// Operations in flight.
    tasks: JoinSet<()>,
    turns: Arc<Semaphore>,
    /// The NEXT that waits for an event.
    waiting: Option<Submission>,
    /// A NEXT whose outcome still comes in parts.
    collecting: Option<(Submission, bool, Times)>,
}

/// Head of NEXT.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Times {
    #[serde(default)]
    started_ns: u64,
    #[serde(default)]
    ended_ns: u64,
}

impl Channel {
    pub(crate) fn open(
        arena: Arc<Arena>,
        memfd: OwnedFd,
        engine: Arc<Engine>,
        identity: FunctionIdentity,
        wake: Wake,
    ) -> Result<(Self, GuestDescriptors), Error> {
        let (control, network) = sockets::pair()?;
        let doorbell = eventfd(libc::EFD_NONBLOCK)?;
        // Blocking: the guest's side waits by reading it. A write never blocks, since sums stay small.
        let completion = match wake {
            Wake::Futex => None,
            Wake::Eventfd => Some(eventfd(0)?),
        };
        let guest = GuestDescriptors {
            arena: memfd,
            doorbell: doorbell.try_clone()?,
            completion: completion.as_ref().map(OwnedFd::try_clone).transpose()?,
            network,
        };
        // SAFETY: an OwnedFd names one open descriptor for as long as it lives.
        let doorbell = unsafe { AsyncFd::register(doorbell) }.map_err(io::Error::from)?;
        let identity = Arc::new(identity);
        let mut tasks = JoinSet::new();
        let (current, inputs) = (Arc::<Current>::default(), Arc::<Inputs>::default());
        tasks.spawn(sockets::serve(
            control,
            Arc::clone(&engine),
            Arc::clone(&identity),
            Arc::clone(&current),
            Arc::clone(&inputs),
        )?);
        let channel = Self {
            completer: Arc::new(Completer::new(arena, completion)),
            doorbell,
            submissions: Submissions::default(),
            streams: Arc::default(),
            uploads: Uploads::default(),
            calls: HashMap::new(),
            engine,
            identity,
            writes: WriteOptions::default(),
            current,
            copies: None,
            inputs,
            delivered_ns: 0,
            tasks,
            turns: Arc::new(Semaphore::new(INSTANCE_OPERATIONS)),
            waiting: None,
            collecting: None,
        };
        Ok((channel, guest))
    }

    /// Serve the guest until its runtime has something to say. Cancel safe. Operations of the guest are
    /// taken up only while this runs; those under way go on without.
    pub async fn receive(&mut self) -> RuntimeMessage {
        loop {
            match self.take_all() {
                Ok(None) => {}
                Ok(Some(message)) => return message,
                Err(what) => return RuntimeMessage::Broken(what),
            }
            while self.tasks.try_join_next().is_some() {}
            tokio::select! {
                ready = self.doorbell.readable() => match ready {
                    // It is not read: every ring is an event of its own (EPOLLET), whatever its count.
                    Ok(mut guard) => guard.clear_ready(),
                    Err(error) => return RuntimeMessage::Broken(format!("the doorbell failed: {error}")),
                },
                () = self.completer.failed.notified() => {
                    let what = self.completer.broken().unwrap_or_default();
                    return RuntimeMessage::Broken(what);
                }
            }
        }
    }

    /// Answer the waiting NEXT with an event.
    ///
    /// # Errors
    /// [`Error::Broken`]: the guest has not asked for one.
    pub async fn deliver(&mut self, head: &EventHead, body: Bytes) -> Result<(), Error> {
        let Some(submission) = self.waiting.take() else {
            return Err(Error::Broken("it has not asked for an event".to_owned()));
        };
        // A read ahead of this event that is older than the last one may contradict what the instance learnt from that.
        self.inputs.note_at(self.delivered_ns);
        self.delivered_ns = now_ns();
        let request_id = head.request_id.as_str().into();
        self.current.begin(self.writes, request_id);
        let head = serde_json::to_vec(head).map_err(io::Error::from)?;
        self.streams
            .answer(
                &self.completer,
                &submission,
                &head,
                Source::Memory(body),
                None,
            )
            .await;
        Ok(())
    }

    /// When the function's PUTs are answered.
    pub fn set_writes(&mut self, options: WriteOptions) {
        self.writes = options;
    }

    /// What was read ahead for the next event.
    pub fn set_copies(&mut self, copies: Option<Arc<Copies>>) {
        self.copies = copies;
    }

    /// The invocation delivered last, with its deferred writes. Its handler has ended: nothing more is deferred, and
    /// nothing that was read ahead is used.
    pub fn end_invocation(&mut self) -> Option<Arc<Scope>> {
        self.copies = None;
        let scope = self.current.scope();
        if let Some(scope) = &scope {
            scope.seal();
        }
        scope
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            scope: self.current.scope(),
            copies: self.copies.clone(),
            room: None,
            inputs: Arc::clone(&self.inputs),
            open_ended: self.uploads.is_busy() || self.current.is_connected(),
            current: Arc::clone(&self.current),
        }
    }

    /// What the guest has written of lines that it has not ended: for a guest that has ended. Given once.
    pub fn take_last_words(&self) -> Vec<u8> {
        self.completer.arena.take_last_words()
    }

    pub fn statistics(&self) -> Statistics {
        self.completer.statistics()
    }

    /// Take submissions until one is a message to the scheduler.
    fn take_all(&mut self) -> Result<Option<RuntimeMessage>, String> {
        while let Some(submission) = self.submissions.take(&self.completer.arena)? {
            self.completer.begin(submission.id)?;
            if let Some(message) = self.serve(&submission)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn serve(&mut self, s: &Submission) -> Result<Option<RuntimeMessage>, String> {
        let arena = &self.completer.arena;
        let (head, body, room) = (
            arena.slice(s.head.0, s.head.1),
            arena.slice(s.body.0, s.body.1),
            arena.room(s.room.0, s.room.1),
        );
        let (Some(head), Some(body), Some(_)) = (head, body, room) else {
            // Not even the reply has a place that is certain.
            let roomless = Submission { room: (0, 0), ..*s };
            self.completer
                .invalid(&roomless, "an offset is outside the heap");
            return Ok(None);
        };
        if !s.reserved_is_zero || head.len() > MAX_HEAD {
            self.completer
                .invalid(s, "a reserved byte is not zero, or the head is too long");
            return Ok(None);
        }
        match s.operation {
            abi::NEXT => return self.next(s, &head, &body),
            abi::INIT_ERROR => {
                let body = body.slice(0, MAX_INIT_ERROR).to_vec();
                self.completer.complete(s, &Answer::default());
                return Ok(Some(RuntimeMessage::InitError(body)));
            }
            abi::BODY => return self.body(s, body),
            abi::READ => {
                let (streams, completer, s) =
                    (Arc::clone(&self.streams), Arc::clone(&self.completer), *s);
                let inputs = Arc::clone(&self.inputs);
                let stream = streams.find(s.stream);
                self.tasks
                    .spawn(async move { streams.read(stream, &completer, &s, &inputs).await });
            }
            abi::CLOSE => {
                if s.flags & abi::STREAM_BODY == 0 {
                    self.streams.close(s.stream);
                } else {
                    self.uploads.give_up(s.stream);
                    if let Some(cancel) = self.calls.remove(&s.stream) {
                        cancel.send_replace(true);
                    }
                }
                self.completer.complete(s, &Answer::default());
            }
            abi::S3 | abi::HTTP | abi::PRESIGN => self.operate(s, &head, body),
            abi::WEB_CONNECT => self.converse(s, &head),
            abi::WEB_TUNE => self.tune(s, &head),
            abi::WEB_TLS => self.secure(s, &head, body),
            abi::RPC => self.call(s, &head, body),
            other => self
                .completer
                .invalid(s, &format!("there is no operation {other}")),
        }
        Ok(None)
    }

    fn next(
        &mut self,
        s: &Submission,
        head: &RawSlice,
        body: &RawSlice,
    ) -> Result<Option<RuntimeMessage>, String> {
        if self.waiting.is_some() || self.collecting.is_some() {
            return Err("it asks for two events at a time".to_owned());
        }
        let times = if head.is_empty() {
            Times::default()
        } else {
            serde_json::from_slice(&head.to_vec()).map_err(|e| format!("NEXT's head: {e}"))?
        };
        let is_error = match s.flags & (abi::NEXT_RESULT | abi::NEXT_ERROR) {
            0 => {
                self.waiting = Some(*s);
                return Ok(Some(RuntimeMessage::Next(None)));
            }
            abi::NEXT_RESULT => false,
            abi::NEXT_ERROR => true,
            _ => return Err("an outcome is both a result and an error".to_owned()),
        };
        if s.flags & abi::STREAM_BODY != 0 {
            self.uploads.outcome(s.id);
            self.collecting = Some((*s, is_error, times));
            return Ok(None);
        }
        self.waiting = Some(*s);
        Ok(Some(finished(is_error, body.to_vec(), times)))
    }

    fn body(&mut self, s: &Submission, bytes: RawSlice) -> Result<Option<RuntimeMessage>, String> {
        match self.uploads.part(&self.completer, s, bytes)? {
            Progress::Done => Ok(None),
            Progress::Waiting(used) => {
                let completer = Arc::clone(&self.completer);
                self.tasks.spawn(upload::deliver(completer, *s, used));
                Ok(None)
            }
            Progress::Outcome(id, body) => match self.collecting.take() {
                Some((next, is_error, times)) if next.id == id => {
                    self.waiting = Some(next);
                    Ok(Some(finished(is_error, body, times)))
                }
                _ => Err("an outcome's parts belong to no NEXT".to_owned()),
            },
        }
    }

    /// Open a conversation, and send what the guest hands over for it.
    fn converse(&mut self, s: &Submission, head: &RawSlice) {
        self.completer.count_operation(0);
        let parts = self.uploads.request(s.id);
        let head = head.to_vec();
        let (engine, identity) = (Arc::clone(&self.engine), Arc::clone(&self.identity));
        let (completer, streams, s) = (Arc::clone(&self.completer), Arc::clone(&self.streams), *s);
        let around = self.circumstances();
        self.tasks.spawn(async move {
            if let Err(refusal) = around.clear(&engine).await {
                completer.refuse_with(&s, refusal.status, &refusal.head);
                return;
            }
            match web::connect(&engine, &identity, &head, s.timeout_ms).await {
                Ok(conversation) => {
                    let head = web::describe(&conversation.peer());
                    let source = Source::conversation(&conversation);
                    let inputs = Some(&*around.inputs);
                    streams.answer(&completer, &s, &head, source, inputs).await;
                    conversation.pump(parts).await;
                }
                Err(refusal) => completer.refuse_with(&s, refusal.status, &refusal.head),
            }
        });
    }

    /// A gRPC call. It answers at once with the stream of its events, or with all of them where it is wanted whole.
    fn call(&mut self, s: &Submission, head: &RawSlice, body: RawSlice) {
        self.completer.count_operation(body.len());
        let cancel = watch::Sender::new(false);
        let cancelled = cancel.subscribe();
        self.calls.retain(|_, cancel| !cancel.is_closed());
        self.calls.insert(s.id, cancel);
        let request = if s.flags & abi::STREAM_BODY == 0 {
            RequestBody::Whole(body.clone())
        } else {
            RequestBody::Parts(self.uploads.request(s.id))
        };
        let (engine, identity) = (Arc::clone(&self.engine), Arc::clone(&self.identity));
        let (head, around) = (head.to_vec(), self.circumstances());
        let (completer, streams, s) = (Arc::clone(&self.completer), Arc::clone(&self.streams), *s);
        self.tasks.spawn(async move {
            if let Err(refusal) = around.clear(&engine).await {
                completer.refuse_with(&s, refusal.status, &refusal.head);
                return;
            }
            let inputs = Some(&*around.inputs);
            let prepared = rpc::prepare(&engine, &identity, &head, request, &body, cancelled);
            let (mut reader, whole) = match prepared {
                Ok(prepared) => prepared,
                Err(refusal) => {
                    completer.refuse_with(&s, refusal.status, &refusal.head);
                    return;
                }
            };
            if !whole {
                let source = Source::Call(Events::new(reader, Vec::new()));
                streams.answer(&completer, &s, b"{}", source, inputs).await;
                return;
            }
            // The events' own room; what exceeds it is told with NO_ROOM.
            let limit = (s.room.1 as usize).saturating_sub(HEAD_ROOM);
            let (events, bytes, more) = rpc::collect(&mut reader, limit).await;
            let head = rpc::describe(&events);
            let source = if more {
                Source::Call(Events::new(reader, bytes))
            } else {
                Source::Memory(Bytes::from(bytes))
            };
            streams.answer(&completer, &s, &head, source, inputs).await;
        });
    }

    fn tune(&self, s: &Submission, head: &RawSlice) {
        let Some(conversation) = self.streams.conversation(s.stream) else {
            no_stream(&self.completer, s);
            return;
        };
        match web::tune(&conversation, &head.to_vec()) {
            Ok(()) => self.completer.complete(s, &Answer::default()),
            Err(refusal) => (self.completer).refuse_with(s, refusal.status, &refusal.head),
        }
    }

    fn secure(&mut self, s: &Submission, head: &RawSlice, body: RawSlice) {
        let Some(conversation) = self.streams.conversation(s.stream) else {
            no_stream(&self.completer, s);
            return;
        };
        let head = head.to_vec();
        let (engine, completer, s) = (Arc::clone(&self.engine), Arc::clone(&self.completer), *s);
        self.tasks.spawn(async move {
            match web::secure(&engine, &conversation, &head, &body, s.timeout_ms).await {
                Ok(head) => completer.complete(
                    &s,
                    &Answer {
                        head: &head,
                        ..Answer::default()
                    },
                ),
                Err(refusal) => completer.refuse_with(&s, refusal.status, &refusal.head),
            }
        });
    }

    fn operate(&mut self, s: &Submission, head: &RawSlice, body: RawSlice) {
        self.completer.count_operation(body.len());
        let mut around = self.circumstances();
        if around.copies.is_some() {
            around.room = self.completer.arena.room(s.room.0, s.room.1);
        }
        let body = if s.flags & abi::STREAM_BODY == 0 {
            RequestBody::Whole(body)
        } else {
            RequestBody::Parts(self.uploads.request(s.id))
        };
        let head = head.to_vec();
        let (engine, identity) = (Arc::clone(&self.engine), Arc::clone(&self.identity));
        let turns = Arc::clone(&self.turns);
        let (completer, streams, s) = (Arc::clone(&self.completer), Arc::clone(&self.streams), *s);
        // In a box of its own: its state is large, and a spawned future is moved several times.
        self.tasks.spawn(Box::pin(async move {
            // In order, so that who asks for much waits behind itself.
            let own = turns.acquire().await;
            let shared = identity.turns.acquire().await;
            let reply = gate::execute(
                &engine,
                &identity,
                &around,
                s.operation,
                &head,
                body,
                s.timeout_ms,
            )
            .await;
            drop((own, shared));
            match reply {
                Ok(reply) => {
                    let source = match reply.body {
                        Content::Http(reader) => Source::Http(reader),
                        Content::Memory(bytes) => Source::Memory(bytes),
                        Content::Placed(length) => Source::Placed(length),
                    };
                    // What was read ahead, and what was deferred, tells nothing that is new.
                    let inputs = source.is_live().then_some(&*around.inputs);
                    streams
                        .answer(&completer, &s, &reply.head, source, inputs)
                        .await;
                }
                Err(refusal) => completer.refuse_with(&s, refusal.status, &refusal.head),
            }
        }));
    }
}

fn finished(is_error: bool, body: Vec<u8>, times: Times) -> RuntimeMessage {
    RuntimeMessage::Next(Some(Finished {
        is_error,
        body,
        started_ns: times.started_ns,
        ended_ns: times.ended_ns,
    }))
}

fn eventfd(flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
