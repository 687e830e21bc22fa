//! What a guest holds as its socket: both directions of one conversation with a server.
//!
//! Between two exchanges it holds no connection: that is in the pool, and whoever of the same function talks to that
//! server next takes it. So an idle client in an instance costs nothing, and a new instance finds connections made.
//!
//! Where AWS's services are, requests are judged one by one ([`super::judge`]).

use super::connection::{Boxed, Connection, Key, Peer};
use super::judge::{self, Effect, Judge, Step};
use super::options::Options;
use super::tls::Settings;
use super::watch::Watch;
use super::{Engine, Failure};
use crate::FunctionIdentity;
use crate::connections::Place;
use crate::policy::Refused;
use crate::raw::{Part, RawRoom};
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};

/// How long what was handed over before the end may take to be sent.
const LINGER: Duration = Duration::from_secs(10);
/// How long a reset may take that follows a connection's end.
const RESET_FOLLOWS: Duration = Duration::from_millis(50);
/// Bytes that pass through a buffer at a time.
const PIECE: usize = 64 << 10;

/// Both halves are taken and given back together, except while one of them is in use.
#[derive(Debug)]
pub struct Conversation {
    /// Room for it among the function's connections.
    _place: Place,
    engine: Arc<Engine>,
    identity: Arc<FunctionIdentity>,
    key: Mutex<Key>,
    connect_timeout: Duration,
    reader: tokio::sync::Mutex<Option<ReadHalf<Boxed>>>,
    writer: tokio::sync::Mutex<Option<WriteHalf<Boxed>>>,
    /// Where each request is judged.
    judge: Option<tokio::sync::Mutex<Judge>>,
    state: Mutex<State>,
    opened: Notify,
    closed: watch::Sender<bool>,
    refused: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    watch: Watch,
    /// How the connection broke: its socket says that once, and that it has ended from then on.
    broken: Option<io::Error>,
    peer: Arc<Peer>,
    /// Nothing has been sent on it.
    virgin: bool,
    ended: bool,
    /// A request that was let through and has not been answered yet.
    effect: Option<Effect>,
    /// What is left of the answer to one that was not.
    refusal: Option<Bytes>,
}

impl Conversation {
    /// Open one. Where the function has an idle connection to that server, it is used later.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(
        engine: &Arc<Engine>,
        identity: &Arc<FunctionIdentity>,
        key: Key,
        connect_timeout: Duration,
    ) -> Result<Arc<Self>, Failure> {
        let place = identity.connections.place().await.ok_or_else(|| {
            Failure::system(&std::io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
        })?;
        let judged = engine.policy(identity).judges(&key.host, key.port);
        let pool = &engine.idle;
        let reached = pool.reached(&key);
        let (peer, connection) = match reached {
            Some(peer) => (peer, None),
            None => {
                let work = engine.reach(identity, &key);
                let connection = within(connect_timeout, work).await?;
                (Arc::clone(&connection.peer), Some(connection))
            }
        };
        let (reader, writer) = connection.map_or((None, None), |connection| {
            let (reader, writer) = tokio::io::split(connection.io);
            (Some(reader), Some(writer))
        });
        Ok(Arc::new(Self {
            _place: place,
            engine: Arc::clone(engine),
            identity: Arc::clone(identity),
            key: Mutex::new(key),
            connect_timeout,
            reader: tokio::sync::Mutex::new(reader),
            writer: tokio::sync::Mutex::new(writer),
            state: Mutex::new(State {
                watch: Watch::default(),
                broken: None,
                peer,
                virgin: true,
                ended: false,
                effect: None,
                refusal: None,
            }),
            judge: judged.then(tokio::sync::Mutex::default),
            opened: Notify::new(),
            closed: watch::channel(false).0,
            refused: watch::channel(false).0,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self) -> Key {
        self.key
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether nobody else looks after its connection: between two exchanges the pool would.
    pub fn is_own(&self) -> bool {
        !self.state().watch.is_shared()
    }

    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.state().peer)
    }

    /// End it: whoever reads finds its end. What was handed over before is sent yet, for a while.
    pub fn close(&self) {
        self.state().ended = true;
        self.closed.send_replace(true);
        self.settle();
        if self.state().watch.at_rest() {
            return; // its sender settles it
        }
        // Where it is in use, its user drops it on noticing.
        if let Ok(mut reader) = self.reader.try_lock() {
            *reader = None;
        }
    }

    /// Have other options from the next connection on: at once, if nothing has been sent.
    pub fn tune(&self, options: Options) {
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if key.options == options {
            return;
        }
        let mut state = self.state();
        let halves = (self.reader.try_lock(), self.writer.try_lock());
        let at_rest =
            matches!(&halves, (Ok(reader), Ok(writer)) if reader.is_none() && writer.is_none());
        if state.virgin
            && key.tls.is_none()
            && let (Ok(mut reader), Ok(mut writer)) = halves
        {
            if let (Some(reader), Some(writer)) = (reader.take(), writer.take()) {
                let connection = Connection {
                    io: reader.unsplit(writer),
                    peer: Arc::clone(&state.peer),
                };
                self.engine.idle.put(key.clone(), connection);
            }
        } else if !at_rest {
            // It is no longer what its key says.
            state.watch.give_up();
        }
        key.options = options;
    }

    async fn until_closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    async fn until_refused(&self) {
        let _ = self.refused.subscribe().wait_for(|refused| *refused).await;
    }

    /// Secure it with TLS, or once more inside TLS.
    ///
    /// # Errors
    /// The handshake failed; the conversation is over then.
    pub async fn secure(&self, settings: Settings, patience: Duration) -> Result<(), Failure> {
        let result = tokio::select! {
            result = within(patience, self.secure_now(settings)) => result,
            () = self.until_closed() => Err(Failure::new("ConnectionResetError", libc::ECONNRESET, "closed")),
        };
        if result.is_err() {
            self.close();
        }
        result
    }

    async fn secure_now(&self, settings: Settings) -> Result<(), Failure> {
        let mut writer = self.writer.lock().await;
        let mut reader = self.reader.lock().await;
        let mut key = self.key();
        let virgin = self.state().virgin && key.tls.is_none();
        if self.judge.is_some() && !virgin {
            // Inside of it nothing could be judged.
            return Err(Failure::denied(
                "a connection to an endpoint of AWS's services is secured at its beginning, and once",
            ));
        }
        let mut secured = None;
        if virgin {
            key.tls = Some(settings.clone());
            secured = self.engine.idle.take(&key);
        }
        let pooled = secured.is_some();
        let connection = match (secured, writer.take(), reader.take()) {
            (Some(connection), _, _) => connection,
            (None, Some(writer), Some(reader)) => {
                let plain = Connection {
                    io: reader.unsplit(writer),
                    peer: self.peer(),
                };
                self.engine.secure(&key.function, plain, &settings).await?
            }
            (None, _, _) if virgin => {
                let plain = self.engine.reach(&self.identity, &key).await?;
                self.engine.secure(&key.function, plain, &settings).await?
            }
            (None, _, _) => {
                return Err(Failure::new(
                    "SSLEOFError",
                    8,
                    "UNEXPECTED_EOF_WHILE_READING",
                ));
            }
        };
        let mut state = self.state();
        state.peer = Arc::clone(&connection.peer);
        // What is judged is sent once, as it was judged.
        if pooled && self.judge.is_none() {
            state.watch.keep_request();
        }
        if !virgin {
            // A tunnel, or TLS inside TLS: it leads where its key does not say.
            state.watch.give_up();
        }
        drop(state);
        *self.key.lock().unwrap_or_else(PoisonError::into_inner) = key;
        let halves = tokio::io::split(connection.io);
        (*reader, *writer) = (Some(halves.0), Some(halves.1));
        self.opened.notify_waiters();
        Ok(())
    }

    /// Send what the guest hands over, until it has handed over the last part or the conversation ends.
    pub async fn pump(self: Arc<Self>, mut parts: mpsc::Receiver<Part>) {
        let lingered = async {
            self.until_closed().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            () = lingered => {}
            () = self.pump_all(&mut parts) => {}
        }
        self.close();
        *self.writer.lock().await = None;
        self.state().effect = None;
    }

    async fn pump_all(&self, parts: &mut mpsc::Receiver<Part>) {
        loop {
            let part = tokio::select! {
                biased;
                part = parts.recv() => part,
                () = self.until_closed() => None,
            };
            let Some(part) = part else {
                return;
            };
            if let Err(error) = self.send(&part).await {
                let mut state = self.state();
                // Who reads finds the connection's end, and sends it again.
                if !state.watch.goes_on() {
                    // The answer may have come before: it is still read.
                    if error.kind() == io::ErrorKind::ConnectionReset {
                        state.broken = Some(error);
                    }
                    break;
                }
            }
            let last = part.last;
            part.used();
            if !last {
                self.settle();
            } else {
                let mut writer = self.writer.lock().await;
                if let Some(half) = writer.as_mut() {
                    self.state().watch.give_up();
                    let _ = half.shutdown().await;
                }
                break;
            }
        }
        parts.close();
        while parts.try_recv().is_ok() {}
        self.until_closed().await;
    }

    async fn send(&self, part: &Part) -> io::Result<()> {
        if part.bytes.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        while at < part.bytes.len() {
            let piece = part.bytes.slice(at, PIECE).to_vec();
            match &self.judge {
                None => self.forward(&piece).await?,
                Some(judge) => self.send_judged(&mut *judge.lock().await, &piece).await?,
            }
            at += piece.len();
        }
        match self.writer.lock().await.as_mut() {
            Some(half) => half.flush().await,
            None => Ok(()),
        }
    }

    async fn forward(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.writer.lock().await;
        if writer.is_none() {
            self.lease(&mut writer).await?;
        }
        let half = writer.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        {
            let mut state = self.state();
            state.virgin = false;
            state.watch.sent(bytes);
        }
        half.write_all(bytes).await
    }

    /// Pass on what may pass. What follows a request that may not is swallowed: its client hears the answer once it listens.
    async fn send_judged(&self, judge: &mut Judge, mut bytes: &[u8]) -> io::Result<()> {
        self.state().virgin = false;
        while !bytes.is_empty() && !judge.over {
            if judge.begins() && !self.state().watch.may_ask() {
                let why = "it is sent before the one before it was answered, or on a connection that serves no other";
                self.refuse(judge, &Refused::unclear(why)).await;
                break;
            }
            match judge.take(bytes) {
                Step::Held => break,
                Step::Body(used) => {
                    let (own, rest) = bytes.split_at(used.min(bytes.len()));
                    self.forward(own).await?;
                    bytes = rest;
                }
                Step::Head(head, text, used) => {
                    let (bodiless, key) = (judge.is_bodiless(), self.key());
                    let admitted =
                        judge::admit(&self.engine, &self.identity, &key, &head, bodiless);
                    match admitted.await {
                        Ok(effect) => {
                            self.state().effect = Some(effect);
                            self.forward(&text).await?;
                        }
                        Err(refused) => self.refuse(judge, &refused).await,
                    }
                    bytes = bytes.get(used..).unwrap_or_default();
                }
                Step::Unclear => {
                    let why = "it is not plainly one of HTTP/1.1";
                    self.refuse(judge, &Refused::unclear(why)).await;
                }
            }
        }
        Ok(())
    }

    /// Answer a request that is not passed on, once the answers before it have been read.
    async fn refuse(&self, judge: &mut Judge, refused: &Refused) {
        judge.over = true;
        let goes_on = {
            let mut state = self.state();
            state.refusal = Some(judge::encode(refused).into());
            let goes_on = state.watch.is_asked() && !state.watch.may_answer();
            // Where an answer has begun that has no certain end, none can follow it.
            state.ended |= !goes_on && !state.watch.may_answer();
            goes_on
        };
        // The server has a request that is whole, and will answer it. Else it need not wait for more.
        if !goes_on && let Some(mut half) = self.writer.lock().await.take() {
            let _ = half.shutdown().await;
        }
        self.refused.send_replace(true);
    }

    /// Read of the answer to a request that was refused; `None` where there is none, or where it is not its turn.
    fn read_refusal(&self, room: &RawRoom) -> Option<usize> {
        let mut state = self.state();
        if !state.watch.may_answer() {
            return None;
        }
        let answer = state.refusal.as_mut()?;
        let count = room.write(answer);
        let _ = answer.split_to(count);
        Some(count)
    }

    /// A connection for the next exchange.
    async fn lease(&self, writer: &mut Option<WriteHalf<Boxed>>) -> io::Result<()> {
        let key = self.key();
        let made = match self.engine.idle.take(&key) {
            Some(connection) => {
                let mut state = self.state();
                // With a socket of its own, the first request would have had a new connection.
                if state.virgin && self.judge.is_none() {
                    state.watch.keep_request();
                }
                Ok(connection)
            }
            None => within(self.connect_timeout, self.connect(&key)).await,
        };
        match made {
            Ok(connection) => {
                let halves = tokio::io::split(connection.io);
                *writer = Some(halves.1);
                *self.reader.lock().await = Some(halves.0);
                self.opened.notify_waiters();
                Ok(())
            }
            Err(_) => {
                // As a server that hangs up: what its client does then is what it does here.
                self.state().ended = true;
                self.opened.notify_waiters();
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    /// Whether a connection that has ended was reset behind that: what was sent came to a socket that nobody reads.
    async fn was_reset(&self) -> bool {
        if !self.state().watch.goes_on() {
            return false;
        }
        tokio::time::sleep(RESET_FOLLOWS).await;
        let Ok(mut writer) = self.writer.try_lock() else {
            return false;
        };
        match writer.as_mut() {
            // Of TLS, only the last message is sent at once.
            Some(half) => half.write(&[]).await.is_err() || half.shutdown().await.is_err(),
            None => false,
        }
    }

    /// The request to send again, where a connection's end is not that of its exchange.
    fn request_again(&self, reset: bool) -> Option<Vec<u8>> {
        let mut state = self.state();
        if state.ended {
            return None;
        }
        let request = state.watch.request_again(reset)?;
        state.broken = None;
        Some(request)
    }

    /// Send a request again, on a new connection.
    async fn ask_again(&self, request: &[u8]) {
        let asked = async {
            let mut writer = self.writer.lock().await;
            *writer = None;
            let key = self.key();
            let made = within(self.connect_timeout, self.connect(&key)).await;
            let connection = made.map_err(|_| io::ErrorKind::BrokenPipe)?;
            let mut halves = tokio::io::split(connection.io);
            halves.1.write_all(request).await?;
            halves.1.flush().await?;
            *writer = Some(halves.1);
            *self.reader.lock().await = Some(halves.0);
            io::Result::Ok(())
        };
        let asked = tokio::select! {
            asked = asked => asked.is_ok(),
            () = self.until_closed() => false,
        };
        self.state().ended |= !asked;
        self.opened.notify_waiters();
    }

    async fn connect(&self, key: &Key) -> Result<Connection, Failure> {
        let plain = self.engine.reach(&self.identity, key).await?;
        match &key.tls {
            None => Ok(plain),
            Some(settings) => self.engine.secure(&key.function, plain, settings).await,
        }
    }

    /// Receive what is there into `room`, and wait where there is nothing; 0 at the end. Cancel safe.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn receive(self: &Arc<Self>, room: &RawRoom) -> Result<usize, Failure> {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            let refused = self.state().refusal.is_some();
            {
                let mut reader = self.reader.lock().await;
                if let Some(count) = self.read_refusal(room) {
                    *reader = None;
                    return Ok(count);
                }
                if let Some(half) = reader.as_mut() {
                    let result = tokio::select! {
                        result = self.receive_from(half, room) => result,
                        () = self.until_closed() => Ok(0),
                        () = self.until_refused(), if !refused => continue,
                    };
                    if !matches!(result, Ok(count) if count > 0) {
                        let reset = result.is_err() || self.was_reset().await;
                        if let Some(request) = self.request_again(reset) {
                            *reader = None;
                            drop(reader);
                            // In a task of its own: a READ may be given up.
                            let own = Arc::clone(self);
                            tokio::spawn(async move { own.ask_again(&request).await });
                            tokio::select! {
                                () = opened => continue,
                                () = self.until_closed() => return Ok(0),
                            }
                        }
                        let mut state = self.state();
                        // Where it is the guest that closes after a whole exchange, the connection is still good.
                        if !(state.ended && state.watch.at_rest()) {
                            *reader = None;
                        }
                        state.ended = true;
                        state.effect = None;
                    }
                    drop(reader);
                    self.settle();
                    return result.map_err(|error| Failure::system(&error));
                }
            }
            if self.state().ended {
                return Ok(0);
            }
            tokio::select! {
                () = opened => {}
                () = self.until_closed() => return Ok(0),
                () = self.until_refused(), if !refused => {}
            }
        }
    }

    async fn receive_from(&self, half: &mut ReadHalf<Boxed>, room: &RawRoom) -> io::Result<usize> {
        let mut buffer = vec![0_u8; PIECE.min(room.len())];
        let mut filled = match half.read(&mut buffer).await {
            Ok(count) => self.received(buffer.get(..count).unwrap_or_default(), room),
            // A peer that ends without close_notify: the framing decides whether that is an error.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        if filled == 0
            && let Some(error) = self.state().broken.take()
        {
            return Err(error);
        }
        let mut context = Context::from_waker(Waker::noop());
        while filled > 0 && filled < room.len() && !self.state().watch.at_rest() {
            let rest = room.skip(filled);
            let space = buffer.len().min(rest.len());
            let mut space = ReadBuf::new(buffer.get_mut(..space).unwrap_or_default());
            // An end shows again at the next receive, an error does not.
            match Pin::new(&mut *half).poll_read(&mut context, &mut space) {
                Poll::Ready(Ok(())) if !space.filled().is_empty() => {
                    filled += self.received(space.filled(), &rest);
                }
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                    self.state().broken = Some(error);
                    break;
                }
                _ => break,
            }
        }
        Ok(filled)
    }

    fn received(&self, bytes: &[u8], room: &RawRoom) -> usize {
        let mut state = self.state();
        state.watch.received(bytes);
        if state.watch.is_answered() {
            if !state.watch.is_opaque() {
                state.effect = None;
            } else if let Some(effect) = &state.effect {
                effect.touch();
            }
        }
        drop(state);
        room.write(bytes)
    }

    /// Give the connection to the pool where the exchange is over.
    ///
    /// Both its sender and its receiver end with this, having let go of their half: an answer may be received before
    /// the task that sent the request goes on. The later of them finds both halves free, since the writer's is taken
    /// first.
    fn settle(&self) {
        let Ok(mut writer) = self.writer.try_lock() else {
            return;
        };
        let Ok(mut reader) = self.reader.try_lock() else {
            return;
        };
        let mut state = self.state();
        if !state.watch.at_rest() {
            return;
        }
        if let (Some(reader), Some(writer)) = (reader.take(), writer.take()) {
            state.watch = Watch::default();
            let connection = Connection {
                io: reader.unsplit(writer),
                peer: Arc::clone(&state.peer),
            };
            drop(state);
            self.engine.idle.put(self.key(), connection);
        }
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Failure::new("TimeoutError", 0, "timed out")))
}
