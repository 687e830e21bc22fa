//! An HTTP/1.1 client whose bodies go between sockets and raw memory.

pub mod body;
pub mod error;
pub mod head;
pub mod pool;
pub mod socket;
pub mod url;

use crate::policy::Allowed;
use crate::raw::{Part, RawSlice, RequestBody};
use body::ResponseBody;
use error::{Kind, TransportError};
use head::{Framing, Head, Request, Sending};
use pool::{Connection, Pool};
use socket::Sent;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use url::Authority;

/// What is read at a time while a head is looked for. Body bytes among it are copied once.
const READ_AHEAD: usize = 8 << 10;
/// Interim (1xx) responses before the real one.
const MAX_INTERIM: usize = 8;

/// Where and how a request is sent.
#[derive(Clone, Debug)]
pub struct Route {
    pub authority: Arc<Authority>,
    /// Which of its addresses may be connected to.
    pub allowed: Allowed,
    /// Whose connections it uses; `None`: those that all share.
    pub owner: Option<Arc<str>>,
    pub connect_timeout: Duration,
    /// Longest silence.
    pub read_timeout: Duration,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: ResponseBody,
}

/// The node's HTTP client.
#[derive(Debug)]
pub struct Client {
    pool: Arc<Pool>,
}

impl Client {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new() -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // A machine without certificates can still speak http; https then says that the issuer is unknown.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            pool: Arc::new(Pool::new(TlsConnector::from(Arc::new(config)))),
        })
    }

    /// Send a request and receive the head of its response. A kept connection that turns out to be closed is
    /// replaced, where the request can be sent again.
    ///
    /// # Errors
    /// No whole head of a response arrived.
    pub async fn send(
        &self,
        route: &Route,
        request: &Request,
        sending: Sending,
        body: &mut RequestBody,
    ) -> Result<Response, TransportError> {
        let head = head::encode(request, &route.authority, sending);
        let again = matches!(body, RequestBody::Whole(_))
            && matches!(
                request.method.as_str(),
                "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS"
            );
        if let Some(mut connection) = self.pool.take(&route.authority, route.owner.clone()) {
            match exchange(&mut connection, route, request, &head, sending, body).await {
                Ok((found, whole)) => return Ok(self.response(connection, found, whole, route)),
                Err(error) if !(again && error.kind == Kind::Closed && connection.end == 0) => {
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        // Rare, and its state large: not a part of every operation's.
        let made = self
            .pool
            .connect(&route.authority, &route.allowed, route.connect_timeout);
        let mut connection = Box::pin(made).await?;
        let (found, whole) =
            exchange(&mut connection, route, request, &head, sending, body).await?;
        Ok(self.response(connection, found, whole, route))
    }

    fn response(&self, connection: Connection, head: Head, whole: bool, route: &Route) -> Response {
        let body = ResponseBody::new(
            connection,
            head.framing,
            head.keep_alive && whole,
            Arc::clone(&route.authority),
            route.owner.clone(),
            Arc::clone(&self.pool),
            route.read_timeout,
        );
        Response {
            status: head.status,
            headers: head.headers,
            body,
        }
    }
}

/// The head of the response, and whether the whole request was sent.
async fn exchange(
    connection: &mut Connection,
    route: &Route,
    request: &Request,
    head: &[u8],
    sending: Sending,
    body: &mut RequestBody,
) -> Result<(Head, bool), TransportError> {
    (connection.start, connection.end) = (0, 0);
    let sent = match body {
        RequestBody::Whole(bytes) => send_whole(connection, route, head, sending, bytes).await,
        RequestBody::Parts(parts) => {
            Box::pin(send_parts(connection, route, head, sending, parts)).await
        }
    };
    let broken = match sent {
        Ok(Sent::All) => None,
        Ok(Sent::Interrupted) => Some(TransportError::new(Kind::Closed, "the server hung up")),
        // A server that refuses a body may answer and close at once: its answer counts.
        Err(error) if error.kind == Kind::Closed => Some(error),
        Err(error) => return Err(error),
    };
    match (receive_head(connection, route, request).await, broken) {
        (Ok(head), None) => Ok((head, true)),
        (Ok(head), Some(_)) => Ok((head, false)),
        (Err(error), None) => Err(error),
        (Err(error), Some(broken)) if error.kind == Kind::Closed => Err(broken),
        (Err(error), Some(_)) => Err(error),
    }
}

async fn send_whole(
    connection: &mut Connection,
    route: &Route,
    head: &[u8],
    sending: Sending,
    bytes: &RawSlice,
) -> Result<Sent, TransportError> {
    let patience = route.read_timeout;
    match sending {
        Sending::Nothing => {
            let nothing = RawSlice::empty();
            connection.socket.send(head, &nothing, patience).await
        }
        Sending::Length(_) => connection.socket.send(head, bytes, patience).await,
        Sending::Chunked => {
            let mut start = head.to_vec();
            if !bytes.is_empty() {
                start.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
            }
            if connection.socket.send(&start, bytes, patience).await? == Sent::Interrupted {
                return Ok(Sent::Interrupted);
            }
            let end: &[u8] = if bytes.is_empty() {
                b"0\r\n\r\n"
            } else {
                b"\r\n0\r\n\r\n"
            };
            connection
                .socket
                .send(end, &RawSlice::empty(), patience)
                .await
        }
    }
}

async fn send_parts(
    connection: &mut Connection,
    route: &Route,
    head: &[u8],
    sending: Sending,
    parts: &mut tokio::sync::mpsc::Receiver<Part>,
) -> Result<Sent, TransportError> {
    let patience = route.read_timeout;
    let bad = |what: &str| TransportError::new(Kind::BadUpload, what);
    let mut left = match sending {
        Sending::Length(length) => Some(length),
        _ => None,
    };
    let mut prefix = head.to_vec();
    loop {
        let part = tokio::time::timeout(UPLOAD_PATIENCE, parts.recv())
            .await
            .map_err(|_| bad("no part of the body came in time"))?
            .ok_or_else(|| bad("the upload was given up"))?;
        let (size, last) = (part.bytes.len(), part.last);
        if let Some(left) = &mut left {
            *left = left
                .checked_sub(size as u64)
                .filter(|rest| *rest == 0 || !last)
                .ok_or_else(|| bad("the body is not as long as its Content-Length says"))?;
        } else if size > 0 {
            prefix.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        }
        if connection
            .socket
            .send(&prefix, &part.bytes, patience)
            .await?
            == Sent::Interrupted
        {
            return Ok(Sent::Interrupted);
        }
        part.used();
        prefix.clear();
        if left.is_none() && size > 0 {
            prefix.extend_from_slice(b"\r\n");
        }
        if last {
            break;
        }
    }
    if left.is_none() {
        prefix.extend_from_slice(b"0\r\n\r\n");
        return connection
            .socket
            .send(&prefix, &RawSlice::empty(), patience)
            .await;
    }
    Ok(Sent::All)
}

/// Longest wait for the guest's next part.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(300);

async fn receive_head(
    connection: &mut Connection,
    route: &Route,
    request: &Request,
) -> Result<Head, TransportError> {
    let closed = |what: String| TransportError::new(Kind::Closed, what);
    let mut interim = 0;
    loop {
        if connection.fill(READ_AHEAD, route.read_timeout).await? == 0 {
            return Err(closed(format!(
                "{} closed the connection before it answered",
                route.authority
            )));
        }
        while let Some((head, length)) =
            head::parse(connection.buffered(), &request.method).map_err(closed)?
        {
            connection.start += length;
            match head.status {
                101 => return Err(closed("the server switches protocols unasked".to_owned())),
                100..=199 if interim < MAX_INTERIM => interim += 1,
                100..=199 => return Err(closed("too many interim responses".to_owned())),
                _ => return Ok(early_end(head, connection)),
            }
            if connection.buffered().is_empty() {
                break;
            }
        }
    }
}

/// A response without a body must not be followed by anything.
fn early_end(mut head: Head, connection: &Connection) -> Head {
    if head.framing == Framing::Length(0) && !connection.buffered().is_empty() {
        head.keep_alive = false;
    }
    head
}

impl Connection {
    /// Receive more into the buffer, which grows by up to `most` bytes and never beyond what a head may have.
    async fn fill(&mut self, most: usize, patience: Duration) -> Result<usize, TransportError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let size = (self.end + most).min(head::MAX_HEAD.max(self.end + 1));
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
        let space = self.buffer.get_mut(self.end..size).unwrap_or_default();
        let count = self.socket.receive(space, patience).await?;
        self.end += count;
        Ok(count)
    }
}
