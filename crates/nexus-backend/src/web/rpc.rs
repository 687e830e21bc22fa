//! gRPC calls: HTTP/2 streams by path, with metadata and trailers as they are. Messages are not decoded: what is between
//! the guest's serialiser and the server's is bytes.

use super::connection::Key;
use super::{Engine, Failure};
use crate::FunctionIdentity;
use crate::raw::{Part, RawRoom, RequestBody};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How much may be on its way to a guest that does not read: of one call, and of all on one connection (bytes).
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 8 << 20;
const MAX_FRAME: u32 = 64 << 10;
/// Metadata of one answer: gRPC's own default is 8 KiB (soft) to 16 KiB.
const MAX_HEADERS: u32 = 32 << 10;
/// Connections kept, and how long without a call.
const MAX_CHANNELS: usize = 256;
const IDLE_FOR: Duration = Duration::from_secs(60);
/// gRPC's numbers of statuses.
const CANCELLED: u32 = 1;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// Names and values; those of `-bin` names in base64, as they travel.
type Metadata = Vec<(String, String)>;

/// A call to make.
#[derive(Debug)]
pub struct Call {
    pub path: String,
    pub authority: String,
    pub metadata: Metadata,
    pub key: Key,
    pub deadline: Option<Duration>,
    pub wait_for_ready: bool,
}

/// One thing that happens to a call (docs/abi.md).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The server's initial metadata.
    Headers(Metadata),
    /// The end, as the server told it.
    Trailers(Metadata),
    /// The end, as it came about here: a status of gRPC's, and details.
    Status(u32, String),
}

/// The HTTP/2 connections of all functions.
#[derive(Default)]
pub struct Channels(Mutex<HashMap<Key, Open>>);

impl std::fmt::Debug for Channels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channels").finish_non_exhaustive()
    }
}

struct Open {
    sender: SendRequest<Bytes>,
    used: Instant,
}

impl Channels {
    fn get(&self, key: &Key) -> Option<SendRequest<Bytes>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = table.get_mut(key)?;
        open.used = Instant::now();
        Some(open.sender.clone())
    }

    fn put(&self, key: Key, sender: SendRequest<Bytes>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, open| open.used.elapsed() < IDLE_FOR);
        if table.len() < MAX_CHANNELS {
            let used = Instant::now();
            table.insert(key, Open { sender, used });
        }
    }

    fn forget(&self, key: &Key) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.remove(key);
    }
}

/// A ready HTTP/2 connection.
async fn channel(
    engine: &Engine,
    identity: &FunctionIdentity,
    key: &Key,
) -> Result<SendRequest<Bytes>, Failure> {
    // Its calls would not be judged; no service of AWS's that a node has itself speaks it.
    if engine.policy(identity).judges(&key.host, key.port) {
        return Err(Failure::denied(
            "functions may not make gRPC calls to an endpoint of AWS's services",
        ));
    }
    if let Some(sender) = engine.channels.get(key) {
        match sender.ready().await {
            Ok(sender) => return Ok(sender),
            Err(_) => engine.channels.forget(key),
        }
    }
    let mut connection = engine.reach(identity, key).await?;
    if let Some(settings) = &key.tls {
        connection = engine.secure(&key.function, connection, settings).await?;
        let alpn = connection
            .peer
            .tls
            .as_ref()
            .and_then(|tls| tls.alpn.clone());
        if alpn.as_deref() != Some("h2") {
            return Err(Failure::tls(
                "Cannot check peer: missing selected ALPN property.",
            ));
        }
    }
    let (sender, driver) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADERS)
        .enable_push(false)
        .handshake(connection.io)
        .await
        .map_err(|_| Failure::new("OSError", libc::ECONNRESET, "Socket closed"))?;
    // It ends once no call and no handle is left, or with the connection.
    tokio::spawn(async move {
        let _ = driver.await;
    });
    let sender = sender
        .ready()
        .await
        .map_err(|_| Failure::new("OSError", libc::ECONNRESET, "Socket closed"))?;
    engine.channels.put(key.clone(), sender.clone());
    Ok(sender)
}

/// What a guest reads of a call.
#[derive(Debug)]
pub struct Reader {
    state: State,
    deadline: Option<tokio::time::Instant>,
    cancelled: watch::Receiver<bool>,
    /// Sends the messages.
    upload: Option<JoinHandle<()>>,
}

/// A call that the server has got, and the task that sends its messages.
type Begun = Result<(ResponseFuture, JoinHandle<()>), Event>;

#[derive(Debug)]
enum State {
    /// On its way to the server, whether or not the guest reads.
    Beginning(JoinHandle<Begun>),
    Sent(ResponseFuture),
    /// With what did not fit into the room before.
    Body(RecvStream, Bytes),
    Over,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.end();
    }
}

impl Reader {
    /// Begin a call. To be called on a tokio runtime.
    pub fn new(
        engine: &Arc<Engine>,
        identity: &Arc<FunctionIdentity>,
        call: Call,
        body: RequestBody,
        cancelled: watch::Receiver<bool>,
    ) -> Self {
        let deadline = call.deadline.map(|left| tokio::time::Instant::now() + left);
        let (engine, identity) = (Arc::clone(engine), Arc::clone(identity));
        let task = async move { begin(&engine, &identity, &call, deadline, body).await };
        Self {
            state: State::Beginning(tokio::spawn(task)),
            deadline,
            cancelled,
            upload: None,
        }
    }

    fn end(&mut self) {
        if let State::Beginning(task) = &self.state {
            task.abort();
        }
        if let Some(upload) = self.upload.take() {
            upload.abort();
        }
        self.state = State::Over;
    }

    /// The next thing that happens: an event, or bytes in `room`. Not to be called after the end.
    pub async fn next(&mut self, room: &RawRoom) -> Result<usize, Event> {
        let deadline = self.deadline;
        let mut cancelled = self.cancelled.clone();
        let over = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => {
                Err(Event::Status(CANCELLED, "Locally cancelled by application!".to_owned()))
            }
            () = over => Err(Event::Status(DEADLINE_EXCEEDED, "Deadline Exceeded".to_owned())),
            result = self.step(room) => result,
        };
        if let Err(Event::Trailers(_) | Event::Status(..)) = result {
            self.end();
        }
        result
    }

    async fn step(&mut self, room: &RawRoom) -> Result<usize, Event> {
        loop {
            match &mut self.state {
                State::Beginning(task) => {
                    let lost = |_| Event::Status(INTERNAL, "the call was lost".to_owned());
                    let (response, upload) = task.await.map_err(lost)??;
                    self.upload = Some(upload);
                    self.state = State::Sent(response);
                }
                State::Sent(response) => {
                    let response = response.await.map_err(|error| broken(&error))?;
                    let (head, body) = response.into_parts();
                    let metadata = plain(&head.headers);
                    if body.is_end_stream() && head.headers.contains_key("grpc-status") {
                        return Err(Event::Trailers(metadata));
                    }
                    if head.status != http::StatusCode::OK
                        && !head.headers.contains_key("grpc-status")
                    {
                        return Err(refused(head.status.as_u16()));
                    }
                    self.state = State::Body(body, Bytes::new());
                    return Err(Event::Headers(metadata));
                }
                State::Body(body, left) => {
                    if left.is_empty() {
                        match body.data().await {
                            Some(Ok(bytes)) => *left = bytes,
                            Some(Err(error)) => return Err(broken(&error)),
                            None => {
                                let trailers =
                                    body.trailers().await.map_err(|error| broken(&error))?;
                                return Err(match trailers {
                                    Some(trailers) => Event::Trailers(plain(&trailers)),
                                    None => Event::Status(UNKNOWN, String::new()),
                                });
                            }
                        }
                        continue;
                    }
                    let count = room.write(left);
                    let _ = left.split_to(count);
                    let _ = body.flow_control().release_capacity(count);
                    return Ok(count);
                }
                State::Over => return Err(Event::Status(UNKNOWN, String::new())),
            }
        }
    }
}

/// Connect where there is no connection, and send the call's head; its messages follow by themselves.
async fn begin(
    engine: &Engine,
    identity: &FunctionIdentity,
    call: &Call,
    deadline: Option<tokio::time::Instant>,
    body: RequestBody,
) -> Begun {
    let mut delay = Duration::from_millis(200);
    let mut sender = loop {
        match channel(engine, identity, &call.key).await {
            Ok(sender) => break sender,
            Err(failure) if call.wait_for_ready && !failure.is_denied() => {
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(5));
            }
            Err(failure) => return Err(unreachable(&call.key, &failure)),
        }
    };
    let request = request(call, deadline)?;
    let (response, stream) = sender
        .send_request(request, false)
        .map_err(|error| broken(&error))?;
    Ok((response, tokio::spawn(upload(stream, body))))
}

fn request(call: &Call, deadline: Option<tokio::time::Instant>) -> Result<Request<()>, Event> {
    let bad = |what: &str| Event::Status(INTERNAL, what.to_owned());
    let scheme = if call.key.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(call.authority.as_str())
        .path_and_query(call.path.as_str())
        .build()
        .map_err(|_| bad("the method or the authority is none"))?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .version(http::Version::HTTP_2)
        .body(())
        .map_err(|_| bad("the request is none"))?;
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(at) = deadline {
        let left = at.saturating_duration_since(tokio::time::Instant::now());
        let text = format!("{}m", left.as_millis().clamp(1, 99_999_999));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert("grpc-timeout", value);
        }
    }
    for (name, value) in &call.metadata {
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) else {
            return Err(bad("metadata was invalid"));
        };
        headers.append(name, value);
    }
    Ok(request)
}

/// Send the messages, as fast as the server takes them.
async fn upload(mut stream: SendStream<Bytes>, body: RequestBody) {
    match body {
        RequestBody::Whole(bytes) => {
            let whole = Bytes::from(bytes.to_vec());
            let _ = send(&mut stream, whole, true).await;
        }
        RequestBody::Parts(mut parts) => loop {
            let Some(part): Option<Part> = parts.recv().await else {
                stream.send_reset(Reason::CANCEL);
                return;
            };
            let last = part.last;
            let bytes = Bytes::from(part.bytes.to_vec());
            if !send(&mut stream, bytes, last).await {
                return;
            }
            part.used();
            if last {
                return;
            }
        },
    }
}

async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, last: bool) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let granted = std::future::poll_fn(|context| stream.poll_capacity(context)).await;
        let Some(Ok(count)) = granted else {
            return false;
        };
        let piece = bytes.split_to(count.min(bytes.len()));
        let end = last && bytes.is_empty();
        if stream.send_data(piece, end).is_err() || end {
            return end;
        }
    }
    !last || stream.send_data(Bytes::new(), true).is_ok()
}

fn plain(headers: &HeaderMap) -> Metadata {
    headers
        .iter()
        .map(|(name, value)| {
            let text = value.as_bytes().iter().copied().map(char::from).collect();
            (name.as_str().to_owned(), text)
        })
        .collect()
}

/// What a broken stream means (gRPC's document on HTTP/2 transport mapping).
fn broken(error: &h2::Error) -> Event {
    match error.reason() {
        Some(reason) if error.is_remote() && error.is_reset() => {
            let status = match reason {
                Reason::CANCEL => CANCELLED,
                Reason::REFUSED_STREAM => UNAVAILABLE,
                Reason::ENHANCE_YOUR_CALM => 8,
                Reason::INADEQUATE_SECURITY => 7,
                _ => INTERNAL,
            };
            let number = u32::from(reason);
            Event::Status(
                status,
                format!("Received RST_STREAM with error code {number}"),
            )
        }
        Some(_) if error.is_library() => Event::Status(INTERNAL, error.to_string()),
        _ => Event::Status(UNAVAILABLE, "Socket closed".to_owned()),
    }
}

fn refused(status: u16) -> Event {
    let code = match status {
        400 => INTERNAL,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    Event::Status(code, format!("Received http2 header with status: {status}"))
}

fn unreachable(key: &Key, failure: &Failure) -> Event {
    let details = failure.as_core(&key.host, key.port);
    Event::Status(if failure.is_denied() { 7 } else { UNAVAILABLE }, details)
}
