//! URLs, as far as requests need them: where to connect, and what to ask for there.

use std::fmt::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

/// Scheme, host and port: what connections are pooled by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    pub https: bool,
    /// Lower case; IPv6 addresses without brackets.
    pub host: String,
    pub port: u16,
    /// Value of the Host header.
    header: String,
}

impl Authority {
    /// `host` in lower case, an IPv6 address without brackets.
    pub fn new(https: bool, host: String, port: u16) -> Self {
        let mut header = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        if port != default_port(https) {
            let _ = write!(header, ":{port}");
        }
        Self {
            https,
            host,
            port,
            header,
        }
    }

    /// Value of the Host header.
    pub fn host_header(&self) -> &str {
        &self.header
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_header())
    }
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// A URL whose every byte may stand in a request line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub authority: Arc<Authority>,
    /// Begins with a slash; encoded.
    pub path: String,
    /// Without the question mark; encoded.
    pub query: String,
}

impl Url {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a URL has characters that must be encoded".to_owned());
        }
        let (https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(format!("{text:.100} is neither http nor https")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, port) = split_port(authority)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        let good = if bare.len() < host.len() {
            bare.parse::<std::net::Ipv6Addr>().is_ok()
        } else {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        if !good {
            return Err(format!("{authority:.100} is not a host"));
        }
        Ok(Self {
            authority: Arc::new(Authority::new(
                https,
                bare.to_ascii_lowercase(),
                port.unwrap_or(default_port(https)),
            )),
            path: if path.is_empty() { "/" } else { path }.to_owned(),
            query: query.to_owned(),
        })
    }

    /// Path and query, as in a request line.
    pub fn target(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    match authority.get(after_bracket..).and_then(|t| t.rfind(':')) {
        None => Ok((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at(after_bracket + at);
            match port.get(1..).unwrap_or_default() {
                "" => Ok((host, None)),
                digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                    .parse()
                    .map(|port| (host, Some(port)))
                    .map_err(|_| format!("{digits:.20} is not a port")),
                other => Err(format!("{other:.20} is not a port")),
            }
        }
    }
}

/// What a percent-encoded text stands for; bytes that are no UTF-8 are replaced.
pub fn decode(text: &str) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let pair = match after {
            [high, low, ..] if byte == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            None => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encode everything but unreserved characters (RFC 3986), and the slash where `slash` is set.
pub fn encode(text: &str, slash: bool, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || (slash && byte == b'/');
        if plain {
            into.push(char::from(byte));
        } else {
            into.push('%');
            for nibble in [byte >> 4, byte & 15] {
                into.push(HEX.get(usize::from(nibble)).map_or('0', |b| char::from(*b)));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_url() {
        let url = Url::parse("https://Bucket.s3.amazonaws.com/a%20b?x=1&y#z").unwrap();
        assert_eq!(url.authority.to_string(), "https://bucket.s3.amazonaws.com");
        assert_eq!(url.target(), "/a%20b?x=1&y");
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (url.authority.host.as_str(), url.authority.port),
            ("::1", 8080)
        );
        assert_eq!(url.authority.host_header(), "[::1]:8080");
        assert_eq!(url.path, "/");
        assert_eq!(Url::parse("http://h?q").unwrap().target(), "/?q");
    }

    #[test]
    fn what_is_no_url() {
        for text in [
            "",
            "ftp://h/",
            "http://",
            "http://a b/",
            "http://h/\r\nx",
            "http://u:p@h/",
            "http://h:99999/",
            "http://h:+1/",
            "http://[::g]/",
            "http://h/\u{e9}",
            "http://h\\@x/",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn encoding_of_keys() {
        let mut out = String::new();
        encode("a b+c/ü~//.", true, &mut out);
        assert_eq!(out, "a%20b%2Bc/%C3%BC~//.");
        out.clear();
        encode("a/b", false, &mut out);
        assert_eq!(out, "a%2Fb");
        assert_eq!(decode("a%20b%2Bc/%C3%BC~//."), "a b+c/ü~//.");
        assert_eq!(decode("%4%zz%"), "%4%zz%");
    }
}
