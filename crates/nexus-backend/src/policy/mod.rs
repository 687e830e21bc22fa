//! Where a function's requests may go, and what they may do there: the node's configured endpoints, AWS's own, and
//! what the function's own policy names. Everything else is denied.
//!
//! A destination is checked twice: by its name before anything is resolved ([`Policy::egress`], [`Policy::check`]), and by
//! each address before it is connected to ([`Allowed::address`]). The connection is made to the address that was checked.

mod address;
mod aws;
mod document;
mod egress;
mod form;
mod refusal;

pub use aws::Call;
pub use document::{Access, Document, Rules};
pub use refusal::Refused;

use crate::http::url::{Authority, Url};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Zones of amazonaws.com whose names belong to customers' machines.
const CUSTOMERS: [&str; 6] = ["compute", "compute-1", "elb", "rds", "cache", "internal"];

/// Why something is not allowed, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

/// The endpoints of the node's configuration.
#[derive(Debug)]
pub struct Endpoints(BTreeMap<String, Url>);

impl Endpoints {
    /// A service's endpoint, where the node has one of its own.
    pub fn of(&self, service: &str) -> Option<&Url> {
        self.0.get(service)
    }

    /// # Errors
    /// A URL that is none.
    pub fn new(endpoints: &BTreeMap<String, String>) -> Result<Self, String> {
        let endpoints = endpoints
            .iter()
            .map(|(service, url)| match Url::parse(url) {
                Ok(url) => Ok((service.clone(), url)),
                Err(what) => Err(format!("endpoint of {service}: {what}")),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self(endpoints))
    }

    /// The services whose endpoint is at this host and port, by either scheme.
    fn services<'a>(&'a self, host: &'a str, port: u16) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(_, url)| url.authority.host == host && url.authority.port == port)
            .map(|(service, _)| service.as_str())
    }

    /// Whether one of them is at this address.
    pub fn at(&self, to: SocketAddr) -> bool {
        self.0.values().any(|url| {
            url.authority.port == to.port()
                && match url.authority.ip() {
                    Some(ip) => ip == to.ip(),
                    None => url.authority.host == "localhost" && to.ip().is_loopback(),
                }
        })
    }
}

/// How an allowed destination is reached.
#[derive(Clone, Debug)]
pub enum Allowed {
    /// The operator named it: it may be at any address.
    Configured,
    /// An endpoint of AWS, which may be in a private network.
    Aws,
    /// What the function's policy allows; `named`: by this name.
    Egress {
        rules: Arc<Rules>,
        endpoints: Arc<Endpoints>,
        named: bool,
    },
}

impl Allowed {
    /// Whether this address of the destination may be connected to.
    ///
    /// # Errors
    /// It may not.
    pub fn address(&self, ip: IpAddr, port: u16) -> Result<(), Denied> {
        match self {
            Self::Configured => Ok(()),
            Self::Aws if address::is_inside(ip) => Err(Denied(format!(
                "it resolves to {ip}, which no function may reach"
            ))),
            Self::Aws => Ok(()),
            // By another name, or by a socket, its requests would not be judged.
            Self::Egress { endpoints, .. } if endpoints.at((ip, port).into()) => {
                Err(Denied(format!(
                    "at {ip}, port {port}, is an endpoint of this node, which only requests to its own URL reach"
                )))
            }
            Self::Egress { rules, named, .. } => rules.address(ip, port, *named),
        }
    }
}

/// What one function may do on this node.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    endpoints: &'a Arc<Endpoints>,
    rules: &'a Arc<Rules>,
}

impl<'a> Policy<'a> {
    pub fn new(endpoints: &'a Arc<Endpoints>, rules: &'a Arc<Rules>) -> Self {
        Self { endpoints, rules }
    }

    /// The configured endpoint of a service.
    pub fn endpoint(&self, service: &str) -> Option<&'a Url> {
        self.endpoints.0.get(service)
    }

    /// Whether a connection may be made; the addresses that a name resolves to are to be checked with what this returns.
    ///
    /// # Errors
    /// It may not.
    pub fn egress(&self, host: &str, port: u16) -> Result<Allowed, Denied> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let allowed = |named| Allowed::Egress {
            rules: Arc::clone(self.rules),
            endpoints: Arc::clone(self.endpoints),
            named,
        };
        if let Ok(ip) = host.parse::<IpAddr>() {
            self.rules.address(ip, port, false)?;
            return Ok(allowed(false));
        }
        // The machine itself by its name: only its addresses count.
        if host == "localhost" || host.ends_with(".localhost") {
            return Ok(allowed(false));
        }
        self.rules.name(&host, Some(port))?;
        Ok(allowed(true))
    }

    /// Whether a name may be looked up.
    ///
    /// # Errors
    /// It may not.
    pub fn lookup(&self, host: &str) -> Result<(), Denied> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.rules.name(&host, None)
    }

    /// Whether what is sent to this host, over whatever connection, is to be judged request by request ([`Policy::call`]):
    /// it is a configured endpoint, or S3 is there.
    pub fn judges(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.endpoints.services(&host, port).next().is_some()
            || aws_labels(&host).is_some_and(|labels| is_s3_host(&labels))
    }

    /// Whether a request may be sent to this host. `service`: it is to be signed for this one, which only
    /// endpoints of the configuration for that service and of AWS are.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        authority: &Arc<Authority>,
        service: Option<&str>,
    ) -> Result<Allowed, Denied> {
        let denied = |why: &str| {
            Err(Denied(format!(
                "functions may not reach {authority}: {why}; name it under [endpoints] in the node's configuration \
                 if they should"
            )))
        };
        if self.is_configured(authority) {
            let mut services = self.endpoints.services(&authority.host, authority.port);
            return match service {
                Some(service) if !services.any(|one| one == service) => {
                    denied(&format!("it is no endpoint of {service}"))
                }
                _ => Ok(Allowed::Configured),
            };
        }
        let Some(labels) = aws_labels(&authority.host) else {
            return match service {
                None => self.egress(&authority.host, authority.port),
                Some(_) => denied("it is neither a configured endpoint nor one of AWS"),
            };
        };
        if labels.iter().any(|label| CUSTOMERS.contains(label)) {
            return match service {
                None => self.egress(&authority.host, authority.port),
                Some(_) => denied("it may be anybody's machine"),
            };
        }
        if authority.port != if authority.https { 443 } else { 80 } {
            return denied("AWS has no endpoint at this port");
        }
        // What the other services' hosts are called does not tell what they are signed for; AWS refuses what does not fit.
        if let Some(service) = service
            && is_s3(service) != is_s3_host(&labels)
        {
            return denied(&format!("it is no endpoint of {service}"));
        }
        let elsewhere = self.endpoints.0.keys().find(|configured| {
            service == Some(configured.as_str())
                || labels.iter().any(|label| is_service(label, configured))
        });
        match elsewhere {
            Some(service) => denied(&format!(
                "this node has an endpoint of its own for {service}"
            )),
            None => Ok(Allowed::Aws),
        }
    }

    fn is_configured(&self, authority: &Authority) -> bool {
        self.endpoints
            .0
            .values()
            .any(|url| *url.authority == *authority)
    }
}

/// What stands before `amazonaws.com` in the name of a host of AWS.
fn aws_labels(host: &str) -> Option<Vec<&str>> {
    ["amazonaws.com", "amazonaws.com.cn"]
        .iter()
        .find_map(|zone| host.strip_suffix(zone)?.strip_suffix('.'))
        .map(|zone| zone.split('.').collect())
}

/// Whether a label of a host of AWS names this service: `s3`, or `s3-us-west-2`.
fn is_service(label: &str, service: &str) -> bool {
    label
        .strip_prefix(service)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Whether a name that requests are signed for is one of S3's.
pub fn is_s3(service: &str) -> bool {
    matches!(
        service,
        "s3" | "s3express" | "s3-object-lambda" | "s3-outposts"
    )
}

/// Whether S3 answers at a host of AWS.
fn is_s3_host(labels: &[&str]) -> bool {
    labels
        .iter()
        .any(|label| is_service(label, "s3") || is_service(label, "s3express"))
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::All => "all",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with<T>(document: &str, ask: impl FnOnce(Policy<'_>) -> T) -> T {
        let endpoints = [("s3".to_owned(), "http://127.0.0.1:9101".to_owned())].into();
        let endpoints = Arc::new(Endpoints::new(&endpoints).unwrap());
        let rules = Rules::new("f", &serde_json::from_str(document).unwrap()).unwrap();
        let rules = Arc::new(rules);
        ask(Policy::new(&endpoints, &rules))
    }

    fn check(url: &str, service: Option<&str>) -> Result<Allowed, Denied> {
        with("{}", |policy| {
            policy.check(&Url::parse(url).unwrap().authority, service)
        })
    }

    #[test]
    fn what_is_allowed() {
        assert!(matches!(
            check("http://127.0.0.1:9101/b", Some("s3")),
            Ok(Allowed::Configured)
        ));
        for (url, service) in [
            ("https://sqs.us-east-1.amazonaws.com", Some("sqs")),
            ("https://sts.cn-north-1.amazonaws.com.cn", None),
        ] {
            assert!(matches!(check(url, service), Ok(Allowed::Aws)), "{url}");
        }
        assert!(matches!(
            check("https://example.com/", None),
            Ok(Allowed::Egress { named: true, .. })
        ));
    }

    #[test]
    fn what_is_denied() {
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:9100/",
            "https://127.0.0.1:9101/",
            "http://localhost:9101/",
            "http://[::1]:9101/",
            "https://example.com/",
            "https://evilamazonaws.com/",
            "https://amazonaws.com/",
            "https://amazonaws.com.evil.com/",
            "https://sqs.us-east-1.amazonaws.com.:443/",
            "https://ec2-1-2-3-4.compute-1.amazonaws.com/",
            "https://x.us-east-1.elb.amazonaws.com/",
            "https://bucket.s3.us-east-1.amazonaws.com/",
            "https://s3-us-west-2.amazonaws.com/",
            "https://sqs.us-east-1.amazonaws.com:22/",
        ] {
            assert!(check(url, Some("sqs")).is_err(), "{url}");
        }
        assert!(check("https://other.amazonaws.com", Some("s3")).is_err());
        for service in ["sts", "foo", "s3express"] {
            let denied = check("http://127.0.0.1:9101/b", Some(service)).unwrap_err();
            assert!(denied.0.contains("no endpoint of"), "{denied}");
        }
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://127.0.0.1:9100/",
            "http://10.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(check(url, None).is_err(), "{url}");
        }
    }

    #[test]
    fn names_are_checked_and_then_their_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        with("{}", |policy| {
            let allowed = policy.egress("example.com", 80).unwrap();
            assert!(allowed.address(ip("1.1.1.1"), 80).is_ok());
            assert!(allowed.address(ip("127.0.0.1"), 80).is_err());
            let this = policy.egress("localhost", 80).unwrap();
            assert!(this.address(ip("127.0.0.1"), 80).is_err());
        });
        with(
            r#"{"egress": ["127.0.0.1:80", "*.example.com:443"]}"#,
            |policy| {
                let this = policy.egress("LOCALHOST.", 80).unwrap();
                assert!(this.address(ip("127.0.0.1"), 80).is_ok());
                assert!(this.address(ip("::1"), 80).is_err());
                assert!(policy.egress("127.0.0.1", 80).is_ok());
                assert!(policy.egress("127.0.0.1", 81).is_err());
                assert!(policy.egress("a.example.com", 443).is_ok());
                assert!(policy.egress("a.example.org", 443).is_err());
                assert!(policy.lookup("a.example.com.").is_ok());
                assert!(policy.lookup("secret.example.org").is_err());
            },
        );
    }

    #[test]
    fn a_service_counts_where_it_is() {
        let endpoints = [
            ("s3", "http://127.0.0.1:9101"),
            ("sts", "http://127.0.0.1:9101"),
            ("sns", "http://127.0.0.1:9102"),
        ]
        .map(|(service, url)| (service.to_owned(), url.to_owned()))
        .into();
        let endpoints = Arc::new(Endpoints::new(&endpoints).unwrap());
        let rules = Arc::new(Rules::new("f", &Document::default()).unwrap());
        let policy = Policy::new(&endpoints, &rules);
        let may = |url: &str, service| {
            policy
                .check(&Url::parse(url).unwrap().authority, Some(service))
                .is_ok()
        };
        assert!(may("http://127.0.0.1:9101", "s3") && may("http://127.0.0.1:9101", "sts"));
        assert!(!may("http://127.0.0.1:9101", "sns") && !may("http://127.0.0.1:9102", "s3"));
        assert!(may("https://sqs.us-east-1.amazonaws.com", "sqs"));
        assert!(may("https://email.us-east-1.amazonaws.com", "ses"));
        assert!(!may("https://sqs.us-east-1.amazonaws.com", "s3express"));
        // The node has neither of these names itself, and S3 is there.
        assert!(!may(
            "https://b.s3express-use1-az4.us-east-1.amazonaws.com",
            "sqs"
        ));
    }

    #[test]
    fn an_endpoint_is_reached_by_its_own_url_alone() {
        let document = r#"{"egress": ["127.0.0.1:*", "localhost:*"]}"#;
        with(document, |policy| {
            let loopback = "127.0.0.1".parse().unwrap();
            for host in ["localhost", "127.0.0.1"] {
                let Ok(allowed) = policy.egress(host, 9101) else {
                    continue;
                };
                let denied = allowed.address(loopback, 9101).unwrap_err();
                assert!(denied.0.contains("endpoint of this node"), "{denied}");
                assert!(allowed.address(loopback, 9102).is_ok());
            }
            for (host, port) in [
                ("127.0.0.1", 9101),
                ("b.s3.us-east-1.amazonaws.com", 443),
                ("S3.amazonaws.com.", 443),
                ("b.s3express-use1-az4.us-east-1.amazonaws.com", 443),
            ] {
                assert!(policy.judges(host, port), "{host}");
            }
            for (host, port) in [
                ("127.0.0.1", 9102),
                ("sqs.us-east-1.amazonaws.com", 443),
                ("s3.example.com", 443),
            ] {
                assert!(!policy.judges(host, port), "{host}");
            }
        });
    }
}
