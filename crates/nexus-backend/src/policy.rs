//! Where a function's requests may go: the endpoints of the configuration, and AWS's own for services that have
//! none there. Everything else is denied.

use crate::http::url::{Authority, Url};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Zones of amazonaws.com whose names belong to customers' machines.
const CUSTOMERS: [&str; 6] = ["compute", "compute-1", "elb", "rds", "cache", "internal"];

#[derive(Debug)]
pub struct Policy {
    endpoints: BTreeMap<String, Url>,
}

/// How an allowed endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// The operator named it: it may be at any address.
    Configured,
    Aws,
}

impl Policy {
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
        Ok(Self { endpoints })
    }

    /// The configured endpoint of a service.
    pub fn endpoint(&self, service: &str) -> Option<&Url> {
        self.endpoints.get(service)
    }

    /// # Errors
    /// Why a function may not talk to this host.
    pub fn check(
        &self,
        authority: &Arc<Authority>,
        service: Option<&str>,
    ) -> Result<Allowed, String> {
        if self
            .endpoints
            .values()
            .any(|url| url.authority == *authority)
        {
            return Ok(Allowed::Configured);
        }
        let host = authority.host.as_str();
        let denied = |why: &str| {
            Err(format!(
                "functions may not reach {authority}: {why}; name it under [endpoints] in the node's configuration \
                 if they should"
            ))
        };
        let Some(zone) = ["amazonaws.com", "amazonaws.com.cn"]
            .iter()
            .find_map(|zone| host.strip_suffix(zone)?.strip_suffix('.'))
        else {
            return denied("it is neither a configured endpoint nor one of AWS");
        };
        let labels: Vec<&str> = zone.split('.').collect();
        if labels.iter().any(|label| CUSTOMERS.contains(label)) {
            return denied("it may be anybody's machine");
        }
        if authority.port != if authority.https { 443 } else { 80 } {
            return denied("AWS has no endpoint at this port");
        }
        let elsewhere = self.endpoints.keys().find(|configured| {
            service == Some(configured.as_str())
                || labels.iter().any(|label| {
                    label
                        .strip_prefix(configured.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
                })
        });
        match elsewhere {
            Some(service) => denied(&format!(
                "this node has an endpoint of its own for {service}"
            )),
            None => Ok(Allowed::Aws),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn check(url: &str, service: Option<&str>) -> Result<Allowed, String> {
        let endpoints = [("s3".to_owned(), "http://127.0.0.1:9101".to_owned())].into();
        let policy = Policy::new(&endpoints).unwrap();
        policy.check(&Url::parse(url).unwrap().authority, service)
    }

    #[test]
    fn what_is_allowed() {
        assert_eq!(
            check("http://127.0.0.1:9101/b", Some("s3")).unwrap(),
            Allowed::Configured
        );
        assert_eq!(
            check("https://sqs.us-east-1.amazonaws.com", Some("sqs")).unwrap(),
            Allowed::Aws
        );
        assert_eq!(
            check("https://sts.cn-north-1.amazonaws.com.cn", None).unwrap(),
            Allowed::Aws
        );
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
    }
}
