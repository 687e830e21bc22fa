//! Conversations with an endpoint of AWS's services: no request passes that the function could not have made by its SDK.
//!
//! A request's head is held back until it is whole. Then it is what every other request is: the policy judges it, deferred
//! writes that it could notice are waited for, and what it may change is noted. Bodies pass as they come.

use super::connection::Key;
use super::watch::{RequestHead, Side, request_head};
use crate::FunctionIdentity;
use crate::http::head::{MAX_HEAD, values};
use crate::http::url::{Authority, Url};
use crate::operation::Engine;
use crate::policy::{Call, Refused};
use crate::writes::target::Target;
use std::sync::Arc;

/// What a guest sends, from one request to the next.
#[derive(Debug)]
pub struct Judge {
    request: Side,
    /// One was refused: nothing more is passed on.
    pub over: bool,
}

/// What becomes of bytes that a guest sends.
#[derive(Debug)]
pub enum Step {
    /// They are part of a head that is not whole yet.
    Held,
    /// A head is whole, with so many of them.
    Head(Box<RequestHead>, Vec<u8>, usize),
    /// So many of them are a body's.
    Body(usize),
    /// Nobody can tell what they are.
    Unclear,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            request: Side::Head(Vec::new()),
            over: false,
        }
    }
}

impl Judge {
    /// Whether what comes next is a request's first byte.
    pub fn begins(&self) -> bool {
        match &self.request {
            Side::Done => true,
            Side::Head(seen) => seen.is_empty(),
            _ => false,
        }
    }

    /// Take bytes, as many as belong together. `bytes` has some.
    pub fn take(&mut self, bytes: &[u8]) -> Step {
        if matches!(self.request, Side::Done) {
            self.request = Side::Head(Vec::new());
        }
        let Side::Head(seen) = &mut self.request else {
            return self.request.body(bytes).map_or(Step::Unclear, Step::Body);
        };
        let before = seen.len();
        seen.extend_from_slice(bytes);
        match request_head(seen) {
            Some(None) if seen.len() <= MAX_HEAD => Step::Held,
            Some(Some(mut found)) if found.length <= MAX_HEAD => {
                let mut text = std::mem::take(seen);
                text.truncate(found.length);
                self.request = std::mem::replace(&mut found.body, Side::Done);
                self.request.settle();
                let used = found.length.saturating_sub(before);
                Step::Head(Box::new(found), text, used)
            }
            _ => Step::Unclear,
        }
    }

    /// The request whose head came last has no body.
    pub fn is_bodiless(&self) -> bool {
        matches!(self.request, Side::Done)
    }
}

/// What a request is under way to; when it is dropped, the answer has come or never will.
#[derive(Debug)]
pub struct Effect {
    engine: Arc<Engine>,
    target: Target,
}

impl Effect {
    /// Whatever was read before may be stale from now on.
    pub fn touch(&self) {
        self.target.touch(&self.engine.writes.ledger);
    }
}

impl Drop for Effect {
    fn drop(&mut self) {
        self.touch();
    }
}

/// Whether a request may be sent where `key` leads. What is pending and could be noticed by it has ended then.
///
/// # Errors
/// The answer to it, where it may not.
pub async fn admit(
    engine: &Arc<Engine>,
    identity: &FunctionIdentity,
    key: &Key,
    head: &RequestHead,
    bodiless: bool,
) -> Result<Effect, Refused> {
    let url = url(key, head).map_err(Refused::unclear)?;
    let policy = engine.policy(identity);
    let call = Call {
        service: None,
        method: &head.method,
        url: &url,
        headers: &head.headers,
        body: bodiless.then_some(b""),
    };
    if let Err(denied) = policy.call(&call) {
        tracing::info!(function = %identity.name, %denied, "a request of a web client was denied");
        let service = policy.service(&call);
        let service = service.as_deref();
        return Err(Refused::new(&Call { service, ..call }, &denied));
    }
    let target = Target::of_request(&url, &head.headers);
    let settled = engine
        .writes
        .patiently(target.settle(&engine.writes.ledger));
    settled.await.ok_or_else(Refused::unavailable)?;
    let effect = Effect {
        engine: Arc::clone(engine),
        target,
    };
    effect.touch();
    Ok(effect)
}

/// The URL of a request, as its server will understand it.
fn url(key: &Key, head: &RequestHead) -> Result<Url, &'static str> {
    let https = key.tls.is_some();
    let asked = Authority::new(https, key.host.clone(), key.port);
    let hosts: Vec<&str> = values(&head.headers, "host").collect();
    let is_own = |host: &str| {
        let name = host.strip_suffix(&format!(":{}", key.port)).unwrap_or(host);
        host.eq_ignore_ascii_case(asked.host_header())
            || (name.len() < host.len() && name.eq_ignore_ascii_case(&key.host))
    };
    match hosts.as_slice() {
        [host] if is_own(host) => {}
        _ => return Err("its Host header is not the name of the server that it is sent to"),
    }
    if !head.target.starts_with('/') || head.target.contains('#') {
        return Err("its target is not a path");
    }
    let host = key.host.trim_end_matches('.').to_owned();
    let authority = Authority::new(https, host, key.port);
    Url::parse(&format!("{authority}{}", head.target)).map_err(|_| "its target is not a path")
}

/// The bytes of an answer that no server gave; the conversation ends with it.
pub fn encode(refused: &Refused) -> Vec<u8> {
    let reason = match refused.status {
        403 => "Forbidden",
        503 => "Service Unavailable",
        _ => "Bad Request",
    };
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", refused.status);
    for (name, value) in &refused.headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("Connection: close\r\n\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&refused.body);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::options::Options;
    use super::*;

    const PUT: &str = "PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n";

    /// Heads and bodies that were let through, of bytes that come in pieces of this size.
    fn passed(text: &str, size: usize) -> Option<Vec<String>> {
        let mut judge = Judge::default();
        let mut out: Vec<String> = Vec::new();
        for mut piece in text.as_bytes().chunks(size) {
            while !piece.is_empty() {
                match judge.take(piece) {
                    Step::Held => break,
                    Step::Head(head, text, used) => {
                        assert_eq!(text.len(), head.length);
                        out.push(format!("{} {}", head.method, head.target));
                        piece = &piece[used..];
                    }
                    Step::Body(used) => {
                        out.push(String::from_utf8_lossy(&piece[..used]).into_owned());
                        piece = &piece[used..];
                    }
                    Step::Unclear => return None,
                }
            }
        }
        Some(out)
    }

    #[test]
    fn heads_are_held_back_and_bodies_are_not() {
        let two = format!("{PUT}abc{PUT}def");
        let whole = passed(&two, 4096).unwrap();
        assert_eq!(whole, ["PUT /b/k", "abc", "PUT /b/k", "def"]);
        let dripping = passed(&two, 1).unwrap();
        assert_eq!(
            dripping,
            ["PUT /b/k", "a", "b", "c", "PUT /b/k", "d", "e", "f"]
        );
        let mut judge = Judge::default();
        assert!(judge.begins() && matches!(judge.take(b"GET "), Step::Held) && !judge.begins());
    }

    #[test]
    fn what_nobody_can_tell_is_unclear() {
        for text in [
            "CONNECT h:1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\nHost: h\n\n",
            "GET / HTTP/1.1\r\nHost: h\r\n folded: a\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "\x16\x03\x01",
        ] {
            assert_eq!(passed(text, 4096), None, "{text:?}");
        }
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(passed(&endless, 1000), None);
    }

    fn at(host: &str, port: u16, head: &str) -> Result<String, &'static str> {
        let key = Key {
            function: "f".into(),
            host: host.to_owned(),
            port,
            options: Options::default(),
            tls: None,
        };
        let head = request_head(head.as_bytes()).unwrap().unwrap();
        url(&key, &head).map(|url| format!("{}{}", url.authority, url.target()))
    }

    #[test]
    fn a_request_is_for_the_server_that_it_is_sent_to() {
        let get =
            |host: &str, target: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for (host, port, header) in [
            ("127.0.0.1", 9101, "127.0.0.1:9101"),
            ("s3.amazonaws.com", 80, "S3.amazonaws.com"),
            ("s3.amazonaws.com", 80, "s3.amazonaws.com:80"),
        ] {
            let found = at(host, port, &get(header, "/b/k?x=y")).unwrap();
            assert!(
                found.ends_with("/b/k?x=y") && found.contains(host),
                "{found}"
            );
        }
        for (header, target) in [
            ("denied.s3.amazonaws.com", "/k"),
            ("127.0.0.1", "/b/k"),
            ("127.0.0.1:9101/x", "/b/k"),
            ("127.0.0.1:9101", "http://127.0.0.1:9101/b/k"),
            ("127.0.0.1:9101", "*"),
            ("127.0.0.1:9101", "/b/k#x"),
            ("127.0.0.1:9101\r\nHost: 127.0.0.1:9101", "/b/k"),
        ] {
            assert!(
                at("127.0.0.1", 9101, &get(header, target)).is_err(),
                "{header} {target}"
            );
        }
        assert!(at("127.0.0.1", 9101, "GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
