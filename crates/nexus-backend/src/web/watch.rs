//! Following an HTTP/1.1 conversation from outside: where one exchange ends, so that its connection may serve another.
//!
//! Nothing is decoded or held back: the bytes are the guest's and the server's. What is not beyond doubt (RFC 9112
//! read strictly) makes the conversation opaque: it goes on, and its connection serves nobody else.

use crate::http::head::{self, Framing, values};
use std::time::{Duration, Instant};

/// Headers that a request may have and still be followed.
const MAX_HEADERS: usize = 128;
/// Bytes of a request that are kept to be sent again, and how long after it a connection's end may come to be taken for
/// one that was on its way before: an idle connection's end crosses the request on the network.
const MAX_KEPT: usize = 64 << 10;
const CROSSES_WITHIN: Duration = Duration::from_secs(1);
/// Schemes that authenticate a connection, and whoever uses it (RFC 4559).
const BINDING: [&str; 3] = ["negotiate", "ntlm", "kerberos"];

/// One direction of an exchange.
#[derive(Debug)]
pub(super) enum Side {
    /// A head so far.
    Head(Vec<u8>),
    /// This many bytes are to come.
    Length(u64),
    Chunked(Chunks),
    Done,
}

/// A conversation between the two heads of an exchange and its end.
#[derive(Debug)]
pub struct Watch {
    request: Side,
    response: Side,
    method: String,
    keep_alive: bool,
    opaque: bool,
    /// What was sent, where it may be sent again; and whether it was.
    kept: Option<Kept>,
    again: bool,
}

/// A request so far.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    last: Instant,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            request: Side::Head(Vec::new()),
            response: Side::Head(Vec::new()),
            method: String::new(),
            keep_alive: true,
            opaque: false,
            kept: None,
            again: false,
        }
    }
}

impl Watch {
    /// The conversation is no longer followed.
    pub fn give_up(&mut self) {
        *self = Self {
            opaque: true,
            ..Self::default()
        };
    }

    /// Whether another request may be sent now, and its answer be told from everything else.
    pub fn may_ask(&self) -> bool {
        let untouched = matches!(&self.request, Side::Head(seen) if seen.is_empty());
        !self.opaque && (untouched || self.at_rest())
    }

    /// Whether nothing of an answer is under way: whoever reads may be told something else.
    pub fn may_answer(&self) -> bool {
        !self.opaque
            && match (&self.request, &self.response) {
                (_, Side::Done) => true,
                (Side::Head(sent), Side::Head(_)) => sent.is_empty(),
                _ => false,
            }
    }

    /// Whether the answer to a request has come (its head, interim ones apart), or cannot be told.
    pub fn is_answered(&self) -> bool {
        self.opaque || !matches!(self.response, Side::Head(_))
    }

    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// The whole request has been sent.
    pub fn is_asked(&self) -> bool {
        !self.opaque && matches!(self.request, Side::Done)
    }

    /// Whether its connection may serve others later.
    pub fn is_shared(&self) -> bool {
        !self.opaque && self.keep_alive
    }

    /// Keep the request that will be sent: its connection has served others, and may be about to end.
    pub fn keep_request(&mut self) {
        self.kept = Some(Kept {
            bytes: Vec::new(),
            last: Instant::now(),
        });
    }

    /// Whether the end of the connection is not the end of the exchange: the whole request can be sent again, or was.
    pub fn goes_on(&self) -> bool {
        (self.kept.is_some() || self.again) && matches!(self.request, Side::Done)
    }

    /// The connection has ended. The request, if it is to be sent on another: nothing of an answer has come, and either
    /// it may be made twice (RFC 9110, 9.2.2), or the connection was reset, as by a server that has not read it.
    pub fn request_again(&mut self, reset: bool) -> Option<Vec<u8>> {
        const IDEMPOTENT: [&str; 6] = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
        if !self.goes_on() {
            return None;
        }
        let kept = self.kept.take()?;
        let twice = reset || IDEMPOTENT.contains(&self.method.as_str());
        self.again = twice && kept.last.elapsed() < CROSSES_WITHIN;
        self.again.then_some(kept.bytes)
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(kept) = &mut self.kept {
            if kept.bytes.len() + bytes.len() > MAX_KEPT {
                self.kept = None;
            } else {
                kept.bytes.extend_from_slice(bytes);
                kept.last = Instant::now();
            }
        }
    }

    /// Whether an exchange has ended and the connection may serve another.
    pub fn at_rest(&self) -> bool {
        !self.opaque
            && self.keep_alive
            && matches!((&self.request, &self.response), (Side::Done, Side::Done))
    }

    /// The guest sent these bytes.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        self.keep(bytes);
        while !bytes.is_empty() && !self.opaque {
            if self.at_rest() {
                *self = Self::default();
            }
            match &mut self.request {
                // The next request before the answer to this one.
                Side::Done => self.give_up(),
                Side::Head(seen) => {
                    let before = seen.len();
                    seen.extend_from_slice(bytes);
                    let whole = seen.len() <= head::MAX_HEAD;
                    match request_head(seen).filter(|_| whole) {
                        None => self.give_up(),
                        Some(None) => return,
                        Some(Some(found)) if found.binds => self.give_up(),
                        Some(Some(found)) => {
                            bytes = bytes
                                .get(found.length.saturating_sub(before)..)
                                .unwrap_or_default();
                            self.method = found.method;
                            self.keep_alive &= found.keep_alive;
                            self.request = found.body;
                        }
                    }
                }
                side => match side.body(bytes) {
                    Some(used) => bytes = bytes.get(used..).unwrap_or_default(),
                    None => self.give_up(),
                },
            }
        }
        self.request.settle();
    }

    /// The server sent these bytes.
    pub fn received(&mut self, mut bytes: &[u8]) {
        if !bytes.is_empty() {
            self.kept = None;
        }
        while !bytes.is_empty() && !self.opaque {
            if matches!(self.request, Side::Head(_)) {
                self.give_up(); // unasked
                return;
            }
            match &mut self.response {
                Side::Done => self.give_up(),
                Side::Head(seen) => {
                    let before = seen.len();
                    seen.extend_from_slice(bytes);
                    let (found, length) = match head::parse(seen, &self.method) {
                        Err(_) => return self.give_up(),
                        Ok(None) => return,
                        Ok(Some(found)) => found,
                    };
                    bytes = bytes
                        .get(length.saturating_sub(before)..)
                        .unwrap_or_default();
                    match found.status {
                        101 => self.give_up(),
                        100..=199 => seen.clear(),
                        _ if binds(&found.headers, CHALLENGES) => return self.give_up(),
                        _ => {
                            self.keep_alive &= found.keep_alive;
                            self.response = match found.framing {
                                Framing::Length(length) => Side::Length(length),
                                Framing::Chunked => Side::Chunked(Chunks::default()),
                                Framing::Close => return self.give_up(),
                            };
                        }
                    }
                }
                side => match side.body(bytes) {
                    Some(used) => bytes = bytes.get(used..).unwrap_or_default(),
                    None => self.give_up(),
                },
            }
        }
        self.response.settle();
        // Answered before it was asked in full: the server may not read the rest.
        if matches!(self.response, Side::Done) && !matches!(self.request, Side::Done) {
            self.keep_alive = false;
        }
    }
}

impl Side {
    /// Take what belongs to the body; how many bytes. `None` where it is none.
    pub fn body(&mut self, bytes: &[u8]) -> Option<usize> {
        let used = match self {
            Self::Length(left) => {
                let used = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= used as u64;
                used
            }
            Self::Chunked(chunks) => chunks.take(bytes)?,
            Self::Head(_) | Self::Done => return None,
        };
        self.settle();
        Some(used)
    }

    pub fn settle(&mut self) {
        let over = match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.state == Chunk::Over,
            _ => false,
        };
        if over {
            *self = Self::Done;
        }
    }
}

/// A request's head.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Its own, in bytes.
    pub length: usize,
    pub body: Side,
    keep_alive: bool,
    /// It authenticates the connection.
    binds: bool,
}

/// Headers with credentials, and with what asks for them.
const CREDENTIALS: [&str; 2] = ["authorization", "proxy-authorization"];
const CHALLENGES: [&str; 2] = ["www-authenticate", "proxy-authenticate"];

/// Whether headers speak of a scheme that authenticates a connection.
fn binds(headers: &[(String, String)], names: [&str; 2]) -> bool {
    // A challenge may follow another behind a comma.
    names
        .into_iter()
        .flat_map(|name| values(headers, name))
        .flat_map(|value| value.split(','))
        .filter_map(|one| one.split_ascii_whitespace().next())
        .any(|scheme| BINDING.iter().any(|b| scheme.eq_ignore_ascii_case(b)))
}

/// `None`: it cannot be followed. `Some(None)`: more is to come.
pub(super) fn request_head(bytes: &[u8]) -> Option<Option<RequestHead>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Some(None),
        Err(_) => return None,
    };
    let text = bytes.get(..length)?;
    let bare = |at: usize| at == 0 || text.get(at - 1) != Some(&b'\r');
    if text
        .iter()
        .enumerate()
        .any(|(at, b)| *b == b'\n' && bare(at))
    {
        return None;
    }
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|h| {
            let value = h.value.iter().copied().map(char::from).collect();
            (h.name.to_owned(), value)
        })
        .collect();
    let method = request.method?.to_owned();
    if request.version != Some(1)
        || method == "CONNECT"
        || values(&headers, "upgrade").next().is_some()
    {
        return None;
    }
    let codings: Vec<&str> = values(&headers, "transfer-encoding").collect();
    let lengths: Vec<&str> = values(&headers, "content-length").collect();
    let body = match (codings.as_slice(), lengths.as_slice()) {
        ([], []) => Side::Length(0),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => {
            Side::Chunked(Chunks::default())
        }
        ([], [digits]) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Side::Length(digits.parse().ok()?)
        }
        _ => return None,
    };
    let close = values(&headers, "connection")
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("close"));
    let target = request.path?.to_owned();
    Some(Some(RequestHead {
        method,
        target,
        binds: binds(&headers, CREDENTIALS),
        headers,
        length,
        body,
        keep_alive: !close,
    }))
}

/// Where in a chunked body its reader is (RFC 9112, 7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Chunk {
    #[default]
    Size,
    Extension,
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    /// At the start of a trailer's line, inside one, before its end, before the last end.
    Trailers,
    Trailer,
    TrailerEnd,
    LastEnd,
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: Chunk,
    size: u64,
    digits: u8,
}

impl Chunks {
    /// How many of these bytes belong to the body; `None` where they are none.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if self.state == Chunk::Over {
                break;
            }
            if self.state == Chunk::Data {
                let here = usize::try_from(self.size)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                self.size -= here as u64;
                at += here;
                if self.size == 0 {
                    self.state = Chunk::DataReturn;
                }
                continue;
            }
            self.step(byte)?;
            at += 1;
        }
        Some(at)
    }

    fn step(&mut self, byte: u8) -> Option<()> {
        self.state = match (self.state, byte) {
            (Chunk::Size, b'\r') if self.digits > 0 => Chunk::SizeEnd,
            (Chunk::Size, b';') if self.digits > 0 => Chunk::Extension,
            (Chunk::Size, digit) => {
                self.digits += 1;
                let value = char::from(digit).to_digit(16)?;
                if self.digits > 15 {
                    return None;
                }
                self.size = self.size * 16 + u64::from(value);
                Chunk::Size
            }
            (Chunk::Extension, b'\r') => Chunk::SizeEnd,
            (Chunk::Extension, b'\n') => return None,
            (Chunk::Extension, _) => Chunk::Extension,
            (Chunk::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.size == 0 {
                    Chunk::Trailers
                } else {
                    Chunk::Data
                }
            }
            (Chunk::DataReturn, b'\r') => Chunk::DataEnd,
            (Chunk::DataEnd, b'\n') => Chunk::Size,
            (Chunk::Trailers, b'\r') => Chunk::LastEnd,
            (Chunk::Trailers | Chunk::Trailer, b'\n') => return None,
            (Chunk::Trailer, b'\r') => Chunk::TrailerEnd,
            (Chunk::Trailers | Chunk::Trailer, _) => Chunk::Trailer,
            (Chunk::TrailerEnd, b'\n') => Chunk::Trailers,
            (Chunk::LastEnd, b'\n') => Chunk::Over,
            _ => return None,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An exchange, whole and byte by byte; whether it ends at rest.
    fn rests(request: &str, response: &str) -> bool {
        let mut whole = Watch::default();
        whole.sent(request.as_bytes());
        whole.received(response.as_bytes());
        let mut dripping = Watch::default();
        for byte in request.as_bytes() {
            dripping.sent(&[*byte]);
        }
        for byte in response.as_bytes() {
            dripping.received(&[*byte]);
        }
        assert_eq!(
            whole.at_rest(),
            dripping.at_rest(),
            "{request:?} {response:?}"
        );
        whole.at_rest()
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab";

    #[test]
    fn exchanges_that_leave_a_connection() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc";
        let parts =
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        for request in [GET, post, parts] {
            for response in [OK, chunked, "HTTP/1.1 204 x\r\n\r\n"] {
                assert!(rests(request, response), "{request:?} {response:?}");
                let interim = format!("HTTP/1.1 100 Continue\r\n\r\n{response}");
                assert!(rests(request, &interim));
            }
        }
        assert!(rests(
            "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
        ));
    }

    #[test]
    fn exchanges_that_leave_none() {
        let two =
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        for (request, response) in [
            (GET, "HTTP/1.1 200 OK\r\n\r\n"),
            (GET, "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
            (
                GET,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            ),
            (GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na"),
            (GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"),
            (GET, "HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\n"),
            (
                GET,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            ),
            (
                GET,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab0\r\n\r\n",
            ),
            (GET, "SSH-2.0\r\n\r\n"),
            ("", OK),
            (two, OK),
            ("GET / HTTP/1.0\r\n\r\n", OK),
            ("GET / HTTP/1.1\nHost: h\n\n", OK),
            ("CONNECT h:1 HTTP/1.1\r\n\r\n", OK),
            ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", OK),
            (
                "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
                OK,
            ),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", OK),
            ("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc", OK),
        ] {
            assert!(!rests(request, response), "{request:?} {response:?}");
        }
        // A second request in the same breath: its answer could reach whoever comes next.
        assert!(!rests(&format!("{GET}{GET}"), OK));
    }

    #[test]
    fn what_authenticates_a_connection_leaves_none() {
        for scheme in ["NTLM", "negotiate", "Kerberos"] {
            for name in ["Authorization", "Proxy-Authorization"] {
                let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{name}: {scheme} abc=\r\n\r\n");
                assert!(!rests(&request, OK), "{request:?}");
            }
            for name in ["WWW-Authenticate", "proxy-authenticate"] {
                for value in [scheme.to_owned(), format!("Basic realm=\"x\", {scheme}")] {
                    let response =
                        format!("HTTP/1.1 401 x\r\n{name}: {value}\r\nContent-Length: 2\r\n\r\nab");
                    assert!(!rests(GET, &response), "{response:?}");
                }
            }
        }
        let basic = "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Basic NTLM\r\n\r\n";
        let asked = "HTTP/1.1 401 x\r\nWWW-Authenticate: Digest realm=\"NTLM\"\r\nContent-Length: 0\r\n\r\n";
        assert!(rests(basic, OK) && rests(GET, asked));
    }

    /// What is sent again of a request behind which a connection ends.
    fn again(request: &[&str], response: &str, reset: bool) -> Option<String> {
        let mut watch = Watch::default();
        watch.keep_request();
        for part in request {
            watch.sent(part.as_bytes());
        }
        watch.received(response.as_bytes());
        let found = watch.request_again(reset);
        assert!(watch.request_again(reset).is_none());
        found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    #[test]
    fn requests_that_may_be_sent_again() {
        let head = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(again(&[GET], "", false).as_deref(), Some(GET));
        assert_eq!(again(&[GET], "", true).as_deref(), Some(GET));
        assert_eq!(again(&[head, "abc"], "", true), Some(format!("{head}abc")));
        // Its server may have read it.
        assert_eq!(again(&[head, "abc"], "", false), None);
        assert_eq!(again(&[head, "ab"], "", true), None);
        assert_eq!(again(&[GET], "H", true), None);
        assert_eq!(again(&[GET, GET], "", true), None);
        let large = format!("PUT / HTTP/1.1\r\nContent-Length: {MAX_KEPT}\r\n\r\n");
        assert_eq!(again(&[&large, &"a".repeat(MAX_KEPT)], "", true), None);
        let mut fresh = Watch::default();
        fresh.sent(GET.as_bytes());
        assert!(fresh.request_again(true).is_none());
    }

    #[test]
    fn one_exchange_after_another() {
        let mut watch = Watch::default();
        for _ in 0..3 {
            watch.sent(GET.as_bytes());
            assert!(!watch.at_rest());
            watch.received(OK.as_bytes());
            assert!(watch.at_rest());
        }
        watch.received(b"HTTP/1.1 200 OK\r\n\r\n");
        assert!(!watch.at_rest());
    }

    #[test]
    fn endless_heads_are_not_collected() {
        let mut watch = Watch::default();
        watch.sent(GET.as_bytes());
        for _ in 0..100 {
            watch.received(&[b'a'; 4096]);
        }
        assert!(watch.opaque && matches!(watch.response, Side::Head(ref seen) if seen.is_empty()));
    }
}
