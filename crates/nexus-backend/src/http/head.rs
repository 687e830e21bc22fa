//! Heads of requests and responses (RFC 9112), strict where leniency would let two parties disagree on where a
//! message ends.

use super::url::Authority;
use std::mem::MaybeUninit;

/// Largest head of a response, and most headers in it.
pub const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 128;

/// A request but for its body.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query, encoded.
    pub target: String,
    /// Without Host, framing and hop-by-hop headers: those are ours.
    pub headers: Vec<(String, String)>,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    Nothing,
    Length(u64),
    Chunked,
}

/// Headers that belong to one connection, or that frame the message: never taken from a guest.
pub fn is_ours(name: &str) -> bool {
    const OURS: [&str; 12] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "proxy-connection",
        "proxy-authorization",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "expect",
        "http2-settings",
    ];
    OURS.iter().any(|ours| name.eq_ignore_ascii_case(ours))
}

/// Whether a name is a token and a value has no control characters.
pub fn is_sound(name: &str, value: &str) -> bool {
    is_token(name)
        && value
            .bytes()
            .all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

/// RFC 9110, section 5.6.2.
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The bytes of a request's head.
pub fn encode(request: &Request, authority: &Authority, sending: Sending) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut put = |parts: &[&str]| {
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    };
    put(&[&request.method, " ", &request.target, " HTTP/1.1\r\nHost: "]);
    put(&[authority.host_header(), "\r\n"]);
    for (name, value) in &request.headers {
        put(&[name, ": ", value, "\r\n"]);
    }
    match sending {
        Sending::Nothing => {}
        Sending::Length(length) => put(&["Content-Length: ", &length.to_string(), "\r\n"]),
        Sending::Chunked => put(&["Transfer-Encoding: chunked\r\n"]),
    }
    put(&["\r\n"]);
    out
}

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    Close,
}

#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    /// As received, in order.
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    /// The connection may serve another request.
    pub keep_alive: bool,
}

/// Parse a response's head; `None` where more bytes are needed. With it, its length in bytes.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], method: &str) -> Result<Option<(Head, usize)>, String> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => {
            return Err(format!("a response's head exceeds {MAX_HEAD} bytes"));
        }
        Err(error) => return Err(format!("what came is not HTTP: {error}")),
    };
    let status = response.code.unwrap_or(0);
    let headers: Vec<(String, String)> = response
        .headers
        .iter()
        .map(|h| (h.name.to_owned(), text(h.value)))
        .collect();
    let modern = response.version == Some(1);
    let (framing, clear) = framing(&headers, method, status)?;
    let token = |wanted: &str| {
        values(&headers, "connection")
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    let keep_alive =
        clear && framing != Framing::Close && !token("close") && (modern || token("keep-alive"));
    let head = Head {
        status,
        headers,
        framing,
        keep_alive,
    };
    Ok(Some((head, length)))
}

/// Headers are Latin-1 where they are not ASCII, as Python's HTTP client takes them.
fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(ascii) if ascii.is_ascii() => ascii.to_owned(),
        _ => value.iter().copied().map(char::from).collect(),
    }
}

pub fn values<'a>(
    headers: &'a [(String, String)],
    name: &'a str,
) -> impl Iterator<Item = &'a str> + 'a {
    headers
        .iter()
        .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// RFC 9112, section 6.3; and whether the end is beyond doubt.
fn framing(
    headers: &[(String, String)],
    method: &str,
    status: u16,
) -> Result<(Framing, bool), String> {
    if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok((Framing::Length(0), true));
    }
    let mut lengths = values(headers, "content-length").flat_map(|value| value.split(','));
    let first = lengths.next().map(str::trim);
    if lengths.any(|other| Some(other.trim()) != first) {
        return Err("a response has two lengths".to_owned());
    }
    let codings: Vec<&str> = values(headers, "transfer-encoding").collect();
    if let [coding] = codings.as_slice() {
        if !coding.trim().eq_ignore_ascii_case("chunked") {
            return Err(format!("a response has the transfer coding {coding:.40}"));
        }
        return Ok((Framing::Chunked, first.is_none()));
    }
    if !codings.is_empty() {
        return Err("a response has several transfer codings".to_owned());
    }
    match first {
        None => Ok((Framing::Close, true)),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits
            .parse()
            .map(|length| (Framing::Length(length), true))
            .map_err(|_| format!("a response's length is {digits:.40}")),
        Some(other) => Err(format!("a response's length is {other:.40}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn whole(text: &str, method: &str) -> Result<Head, String> {
        parse(text.as_bytes(), method).map(|found| found.unwrap().0)
    }

    #[test]
    fn framings() {
        let get = |text: &str| whole(text, "GET").unwrap();
        let head = get("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\r\nx: b\r\n\r\n");
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(5), true));
        assert_eq!(head.headers.len(), 3);
        let head = get("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n");
        assert_eq!((head.framing, head.keep_alive), (Framing::Chunked, true));
        let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(
            (get(both).framing, get(both).keep_alive),
            (Framing::Chunked, false)
        );
        let head = get("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((head.framing, head.keep_alive), (Framing::Close, false));
        assert!(!get("HTTP/1.1 204 x\r\nConnection: a, Close\r\n\r\n").keep_alive);
        assert!(!get("HTTP/1.0 204 x\r\n\r\n").keep_alive);
        let head = whole("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD").unwrap();
        assert_eq!(head.framing, Framing::Length(0));
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded: a\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(whole(text, "GET").is_err(), "{text}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(MAX_HEAD));
        assert!(parse(endless.as_bytes(), "GET").is_err());
        let many = format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            "X: a\r\n".repeat(MAX_HEADERS + 1)
        );
        assert!(parse(many.as_bytes(), "GET").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nX", "GET").unwrap().is_none());
    }

    #[test]
    fn headers_of_a_guest() {
        assert!(is_ours("HOST") && is_ours("Transfer-Encoding") && !is_ours("x-amz-date"));
        assert!(is_sound("X-A", "b \t\u{fc}"));
        for (name, value) in [
            ("", "a"),
            ("a b", "c"),
            ("a", "b\r\nc"),
            ("a", "\0"),
            ("a:", "b"),
        ] {
            assert!(!is_sound(name, value));
        }
    }
}
