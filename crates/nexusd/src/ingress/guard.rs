//! Who may speak to a node without authentication: local programs, not web pages.
//!
//! A page in a local browser can send requests to loopback, and with DNS rebinding even read the
//! answers. Browsers mark cross-origin requests with Origin, and a rebound name shows in Host.

use super::errors::ApiError;
use hyper::header::{HOST, HeaderMap, ORIGIN};
use std::net::{IpAddr, SocketAddr};

/// # Errors
/// AccessDeniedException.
pub fn check(headers: &HeaderMap, listen: SocketAddr) -> Result<(), ApiError> {
    if headers.contains_key(ORIGIN) {
        return Err(ApiError::forbidden(
            "Requests from web pages (with an Origin header) are not served.",
        ));
    }
    if !listen.ip().is_loopback() {
        return Ok(());
    }
    let host = headers.get(HOST).map(|h| h.to_str().unwrap_or("?"));
    if host.is_none_or(is_local) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "The Host header does not name this machine: use localhost or a loopback address.",
    ))
}

fn is_local(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .or_else(|_| name.parse())
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_hosts_are_served() {
        for host in [
            "localhost",
            "LocalHost:9100",
            "127.0.0.1:9100",
            "127.1.2.3",
            "[::1]:80",
            "::1",
            "[::1]",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9100",
            "10.0.0.1",
            "127.0.0.1.evil.example",
            "?",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
