//! A function's policy as it is written at its deployment, and what it is compiled to.

use super::Denied;
use super::address::is_public;
use super::egress::Rule;
use serde::{Deserialize, Serialize};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

/// Entries that one list may have.
const MAX_ENTRIES: usize = 256;

/// The document (docs/protocols.md). A list that is absent forbids nothing that the node allows; an empty one
/// forbids everything.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// `SERVICE:ACTION`, either with a `*` at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<Bucket>>,
    /// `HOST:PORT` and the like; absent: public addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}

/// A bucket that may be used.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    pub name: String,
    /// Of keys.
    #[serde(default)]
    pub prefix: String,
    #[serde(default)]
    pub access: Access,
}

/// What a request does to a bucket.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    Read,
    Write,
    #[default]
    All,
}

/// A policy, checked and ready for use.
#[derive(Debug)]
pub struct Rules {
    services: Option<Vec<(String, String)>>,
    buckets: Option<Vec<Bucket>>,
    egress: Option<Vec<Rule>>,
    /// Whose connections may be used again under these rules.
    owner: Arc<str>,
    /// It restricts nothing beyond what the node does.
    plain: bool,
}

impl Rules {
    /// # Errors
    /// Which entry is wrong, and how.
    pub fn new(function: &str, document: &Document) -> Result<Self, String> {
        let lengths = [
            ("services", document.services.as_ref().map(Vec::len)),
            ("buckets", document.buckets.as_ref().map(Vec::len)),
            ("egress", document.egress.as_ref().map(Vec::len)),
        ];
        for (list, length) in lengths {
            if length.is_some_and(|length| length > MAX_ENTRIES) {
                return Err(format!("{list} has more than {MAX_ENTRIES} entries"));
            }
        }
        let each = |list: &Option<Vec<String>>| list.clone().map(Vec::into_iter);
        let services = each(&document.services)
            .map(|entries| entries.map(|text| service(&text)).collect())
            .transpose()
            .map_err(|what| format!("services: {what}"))?;
        let egress = each(&document.egress)
            .map(|entries| entries.map(|text| Rule::parse(&text)).collect())
            .transpose()
            .map_err(|what| format!("egress: {what}"))?;
        for bucket in document.buckets.iter().flatten() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if !(1..=255).contains(&bucket.name.len()) || !bucket.name.bytes().all(plain) {
                return Err(format!("buckets: {:.80?} is no bucket's name", bucket.name));
            }
            if bucket.prefix.len() > 1024 {
                return Err(format!(
                    "buckets: the prefix in {} is longer than a key",
                    bucket.name
                ));
            }
        }
        let mut hasher = DefaultHasher::new();
        document.hash(&mut hasher);
        Ok(Self {
            services,
            buckets: document.buckets.clone(),
            egress,
            owner: format!("{function} {:016x}", hasher.finish()).into(),
            plain: *document == Document::default(),
        })
    }

    /// Everything is forbidden.
    pub fn nothing(function: &str) -> Self {
        Self {
            services: Some(Vec::new()),
            buckets: Some(Vec::new()),
            egress: Some(Vec::new()),
            owner: format!("{function} nothing").into(),
            plain: false,
        }
    }

    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether an action of a service is allowed under one of its names. No name: nobody can tell which action
    /// it is, so all of the service must be allowed.
    ///
    /// # Errors
    /// No entry names it.
    pub fn service(&self, service: &str, actions: &[&str]) -> Result<(), Denied> {
        let Some(services) = &self.services else {
            return Ok(());
        };
        let mut mine = services
            .iter()
            .filter(|(pattern, _)| matches(pattern, service))
            .peekable();
        if mine
            .clone()
            .any(|(_, action)| action == "*" || actions.iter().any(|name| matches(action, name)))
        {
            return Ok(());
        }
        let action = actions.first().copied().unwrap_or("*");
        let why = if actions.is_empty() && mine.peek().is_some() {
            " (which action this is cannot be told from the request, so all must be allowed)"
        } else {
            ""
        };
        Err(Denied(format!(
            "the policy of this function does not allow {service}:{action}{why}; add it to \"services\" of the policy"
        )))
    }

    /// Whether a bucket may be used: an object of it, what begins with a prefix, or (`None`) the bucket itself.
    ///
    /// # Errors
    /// No entry names it.
    pub fn bucket(&self, bucket: &str, key: Option<&str>, access: Access) -> Result<(), Denied> {
        let Some(buckets) = &self.buckets else {
            return Ok(());
        };
        // A server that resolves dots in a path would leave the prefix.
        let dots = key.is_some_and(|key| key.split('/').any(|part| matches!(part, "." | "..")));
        let allowed = buckets.iter().any(|rule| {
            rule.name == bucket
                && (rule.access == Access::All || rule.access == access)
                && (rule.prefix.is_empty()
                    || (!dots && key.is_some_and(|key| key.starts_with(&rule.prefix))))
        });
        if allowed {
            return Ok(());
        }
        let what = match access {
            Access::Read => "read",
            _ => "write",
        };
        let place = key.map_or_else(|| bucket.to_owned(), |key| format!("{bucket}/{key:.200}"));
        Err(Denied(format!(
            "the policy of this function does not allow it to {what} {place}; add it to \"buckets\" of the policy"
        )))
    }

    /// Whether buckets are restricted at all.
    pub fn has_buckets(&self) -> bool {
        self.buckets.is_some()
    }

    /// Whether a name (in lower case) may be looked up, and connected to at this port.
    ///
    /// # Errors
    /// No entry names it.
    pub fn name(&self, host: &str, port: Option<u16>) -> Result<(), Denied> {
        match &self.egress {
            None => Ok(()),
            Some(rules) if rules.iter().any(|rule| rule.names(host, port)) => Ok(()),
            Some(_) => Err(Denied(denial(
                host,
                port,
                "no entry of \"egress\" names it",
            ))),
        }
    }

    /// Whether an address may be connected to. `named`: under a name that is allowed at this port.
    ///
    /// # Errors
    /// It is not public, and no entry names it.
    pub fn address(&self, ip: IpAddr, port: u16, named: bool) -> Result<(), Denied> {
        let covered = self
            .egress
            .iter()
            .flatten()
            .any(|rule| rule.covers(ip, port));
        let public = is_public(ip);
        if covered || (public && (named || self.egress.is_none())) {
            return Ok(());
        }
        let why = if public {
            "no entry of \"egress\" names it"
        } else {
            "it is not a public address, and no entry of \"egress\" names it"
        };
        let host = ip.to_string();
        Err(Denied(denial(&host, Some(port), why)))
    }
}

fn denial(host: &str, port: Option<u16>, why: &str) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.chars().take(255).collect()
    };
    let place = port.map_or(host.clone(), |port| format!("{host}:{port}"));
    format!("the policy of this function does not allow connections to {place}: {why}")
}

fn service(text: &str) -> Result<(String, String), String> {
    let sound = |part: &str, extra: &[u8]| {
        let body = part.strip_suffix('*').unwrap_or(part);
        !part.is_empty()
            && part.len() <= 128
            && body
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
    };
    match text.split_once(':') {
        _ if text == "*" => Ok(("*".to_owned(), "*".to_owned())),
        Some((service, action)) if sound(service, b"-._") && sound(action, b"_") => {
            Ok((service.to_owned(), action.to_owned()))
        }
        _ => Err(format!(
            "{text:.80?} is not SERVICE:ACTION, such as s3:GetObject, s3:Get* or dynamodb:*"
        )),
    }
}

/// IAM's actions are compared without regard to case.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some(start) => text
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Rules {
        Rules::new("f", &serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn services_and_actions() {
        let rules = rules(r#"{"services": ["s3:GetObject", "s3:List*", "dynamodb:*"]}"#);
        assert!(rules.service("s3", &["HeadObject", "GetObject"]).is_ok());
        assert!(rules.service("s3", &["ListObjectsV2"]).is_ok());
        assert!(rules.service("dynamodb", &[]).is_ok());
        let denied = rules.service("s3", &["PutObject"]).unwrap_err();
        assert!(denied.to_string().contains("s3:PutObject"), "{denied}");
        assert!(
            rules
                .service("s3", &[])
                .unwrap_err()
                .to_string()
                .contains("cannot be told")
        );
        assert!(rules.service("sqs", &["SendMessage"]).is_err());
        assert!(super::tests::rules("{}").service("sqs", &[]).is_ok());
        assert!(
            super::tests::rules(r#"{"services": []}"#)
                .service("s3", &["GetObject"])
                .is_err()
        );
    }

    #[test]
    fn buckets_and_prefixes() {
        let rules = rules(
            r#"{"buckets": [{"name": "in", "access": "read"}, {"name": "out", "prefix": "a/", "access": "write"}]}"#,
        );
        assert!(rules.bucket("in", Some("k"), Access::Read).is_ok());
        assert!(rules.bucket("in", None, Access::Read).is_ok());
        assert!(rules.bucket("in", Some("k"), Access::Write).is_err());
        assert!(rules.bucket("out", Some("a/k"), Access::Write).is_ok());
        assert!(rules.bucket("out", Some("a/../k"), Access::Write).is_err());
        assert!(rules.bucket("out", Some("b"), Access::Write).is_err());
        assert!(rules.bucket("out", None, Access::Write).is_err());
        assert!(rules.bucket("other", Some("k"), Access::Read).is_err());
    }

    #[test]
    fn egress() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let open = rules("{}");
        assert!(open.name("example.com", Some(25)).is_ok());
        assert!(open.address(ip("1.1.1.1"), 25, false).is_ok());
        for inside in [
            "127.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "::1",
            "fd00:ec2::254",
        ] {
            assert!(open.address(ip(inside), 80, true).is_err(), "{inside}");
        }
        let named = rules(r#"{"egress": ["db.internal:5432", "10.1.0.0/16:5432"]}"#);
        assert!(named.name("db.internal", Some(5432)).is_ok());
        assert!(named.name("db.internal", Some(80)).is_err());
        assert!(named.name("other", None).is_err());
        assert!(named.address(ip("10.1.2.3"), 5432, true).is_ok());
        assert!(named.address(ip("10.2.2.3"), 5432, true).is_err());
        assert!(named.address(ip("1.1.1.1"), 5432, true).is_ok());
        assert!(named.address(ip("1.1.1.1"), 5432, false).is_err());
        assert!(
            rules(r#"{"egress": []}"#)
                .address(ip("1.1.1.1"), 80, false)
                .is_err()
        );
    }

    #[test]
    fn what_is_no_policy() {
        let wrong = |json: &str, what: &str| {
            let document: Document = serde_json::from_str(json).unwrap();
            let error = Rules::new("f", &document).unwrap_err();
            assert!(error.starts_with(what), "{error}");
        };
        wrong(r#"{"services": ["s3"]}"#, "services: \"s3\"");
        wrong(r#"{"services": ["s3:Get*Object"]}"#, "services:");
        wrong(r#"{"buckets": [{"name": "a/b"}]}"#, "buckets:");
        wrong(
            r#"{"egress": ["example.com"]}"#,
            "egress: \"example.com\" has no port",
        );
        assert!(serde_json::from_str::<Document>(r#"{"servces": []}"#).is_err());
        assert!(
            serde_json::from_str::<Document>(r#"{"buckets": [{"name": "a", "access": "x"}]}"#)
                .is_err()
        );
    }
}
