//! One entry of a policy's `egress`: a host or a network, and ports.

use super::address::{embedded, is_public, plain};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Shortest prefix of a network that can name addresses which are not public: `10.0.0.0/8`, `fc00::/7`. A wider one, such
/// as `0.0.0.0/0`, means the public addresses in it.
const NAMES_PRIVATE: (u8, u8) = (8, 7);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    target: Target,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// A name, in lower case.
    Host(String),
    /// `.example.com`: every name that ends so.
    Beneath(String),
    Network(IpAddr, u8),
}

impl Rule {
    /// `HOST:PORT`, `*.HOST:PORT`, `ADDRESS[/BITS]:PORT`, `[ADDRESS[/BITS]]:PORT` for IPv6. PORT is a number, a range
    /// `LOW-HIGH`, or `*`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            Err(format!(
                "{text:.80?} {what}; write HOST:PORT, *.HOST:PORT, ADDRESS/BITS:PORT or [IPV6/BITS]:PORT"
            ))
        };
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong("has no port");
        };
        let Some(ports) = ports(port) else {
            return wrong("has a port that is none");
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let bare = bracketed.unwrap_or(host);
        let target = match network(bare) {
            Some(Ok((ip, bits))) if ip.is_ipv6() == bracketed.is_some() => {
                Target::Network(ip, bits)
            }
            Some(Ok(_)) => return wrong("puts brackets where none belong, or leaves them out"),
            Some(Err(what)) => return wrong(what),
            None if bracketed.is_some() => return wrong("has no address between its brackets"),
            None => match host.strip_prefix("*.") {
                Some(rest) if is_name(rest) => {
                    Target::Beneath(format!(".{}", rest.to_ascii_lowercase()))
                }
                None if is_name(host) => Target::Host(host.to_ascii_lowercase()),
                _ => return wrong("is neither a host nor a network"),
            },
        };
        Ok(Self { target, ports })
    }

    /// Whether it names this host (in lower case, no address), at any port or at this one.
    pub fn names(&self, host: &str, port: Option<u16>) -> bool {
        let same = match &self.target {
            Target::Host(name) => name == host,
            Target::Beneath(end) => host.len() > end.len() && host.ends_with(end.as_str()),
            Target::Network(..) => false,
        };
        same && port.is_none_or(|port| self.ports.contains(&port))
    }

    /// Whether it names this address.
    pub fn covers(&self, ip: IpAddr, port: u16) -> bool {
        let ip = plain(ip);
        match &self.target {
            Target::Host(name) => {
                name == "localhost" && ip.is_loopback() && self.ports.contains(&port)
            }
            Target::Network(network, bits) => {
                self.ports.contains(&port)
                    && within(ip, *network, *bits)
                    && (is_public(ip) || names_private(ip, *network, *bits))
            }
            Target::Beneath(_) => false,
        }
    }
}

fn names_private(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let least = match embedded(ip) {
        // As long as IPv4's own would be.
        Some((_, before)) => before + NAMES_PRIVATE.0,
        None if network.is_ipv4() => NAMES_PRIVATE.0,
        None => NAMES_PRIVATE.1,
    };
    bits >= least && !is_public(network)
}

fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| -> Option<u16> {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port > 0)
    };
    match text.split_once('-') {
        _ if text == "*" => Some(1..=u16::MAX),
        None => number(text).map(|port| port..=port),
        Some((low, high)) => {
            let (low, high) = (number(low)?, number(high)?);
            (low <= high).then_some(low..=high)
        }
    }
}

/// `None`: it is no address at all.
fn network(text: &str) -> Option<Result<(IpAddr, u8), &'static str>> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let ip: IpAddr = address.parse().ok()?;
    if plain(ip) != ip {
        return Some(Err("is an IPv4 address in IPv6's clothes"));
    }
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let bits = match bits.map(str::parse::<u8>) {
        None => most,
        Some(Ok(bits)) if bits <= most => bits,
        Some(_) => return Some(Err("has a number of bits that is none")),
    };
    Some(if number(ip) & !mask(bits, most) == 0 {
        Ok((ip, bits))
    } else {
        Err("has address bits beyond its prefix")
    })
}

fn within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    let most = if ip.is_ipv4() { 32 } else { 128 };
    ip.is_ipv4() == network.is_ipv4() && number(ip) & mask(bits, most) == number(network)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The upper `bits` of an address of `most` bits.
fn mask(bits: u8, most: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(most));
    all & !all.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn is_name(text: &str) -> bool {
    // All digits and dots would be an address, or a mistaken one.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    text.len() <= 253
        && text.split('.').all(label)
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::parse(text).unwrap()
    }

    #[test]
    fn names() {
        let exact = rule("Example.com:443");
        assert!(exact.names("example.com", Some(443)) && exact.names("example.com", None));
        assert!(!exact.names("example.com", Some(80)) && !exact.names("x.example.com", Some(443)));
        let beneath = rule("*.example.com:*");
        assert!(beneath.names("a.b.example.com", Some(1)));
        assert!(!beneath.names("example.com", None) && !beneath.names("badexample.com", None));
        assert!(!exact.covers("1.1.1.1".parse().unwrap(), 443));
    }

    #[test]
    fn networks() {
        let covers = |text: &str, ip: &str, port| rule(text).covers(ip.parse().unwrap(), port);
        assert!(covers("10.1.0.0/16:5432", "10.1.200.3", 5432));
        assert!(covers("10.1.0.0/16:5432", "::ffff:10.1.0.1", 5432));
        assert!(!covers("10.1.0.0/16:5432", "10.2.0.1", 5432));
        assert!(!covers("10.1.0.0/16:5432", "10.1.0.1", 5433));
        assert!(covers("127.0.0.1:8000-8080", "127.0.0.1", 8080));
        assert!(covers("[::1]:80", "::1", 80) && covers("[fd00::/8]:80", "fd00:ec2::254", 80));
        assert!(covers("localhost:80", "127.0.0.1", 80) && covers("localhost:80", "::1", 80));
        // Wide networks mean public addresses.
        assert!(covers("0.0.0.0/0:80", "1.1.1.1", 80));
        for ip in ["127.0.0.1", "169.254.169.254", "10.0.0.1"] {
            assert!(!covers("0.0.0.0/0:80", ip, 80), "{ip}");
        }
        assert!(!covers("[::/0]:80", "::1", 80));
        assert!(!covers("[2000::/3]:80", "fe80::1", 80));
        // What would come out as another address is named as that would have to be.
        for ip in ["64:ff9b::a9fe:a9fe", "64:ff9b::a00:1"] {
            assert!(!covers("[64:ff9b::/96]:80", ip, 80), "{ip}");
        }
        assert!(!covers("[2002::/16]:80", "2002:a9fe:a9fe::1", 80));
        assert!(!covers("[::/8]:80", "::127.0.0.1", 80) && !covers("[::/8]:80", "::1", 80));
        assert!(covers("[64:ff9b::a00:0/104]:80", "64:ff9b::a01:203", 80));
    }

    #[test]
    fn what_is_no_rule() {
        for text in [
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:70000",
            "example.com:9-8",
            "*:443",
            "a.*.com:443",
            "*example.com:443",
            "10.1.0.0/33:1",
            "10.1.0.1/16:1",
            "10.1:80",
            "::1:80",
            "[10.0.0.1]:80",
            "[::ffff:10.0.0.1]:80",
            "[x]:80",
            "http://example.com:80",
            "a b:80",
            ":80",
        ] {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
    }
}
