//! Which objects and buckets an operation is about, and whether anybody outside could notice it.

use super::ledger::{Ledger, ObjectName};
use crate::http::head::values;
use crate::http::url::Url;
use crate::operation::{http_op, s3};

/// What an operation reads or changes in S3.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub objects: Vec<ObjectName>,
    pub buckets: Buckets,
    /// It is more than a read: whoever looks can notice it.
    pub is_effect: bool,
    /// It is a PUT of an object.
    pub is_put: bool,
    /// It is a GET of one.
    pub is_get: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub enum Buckets {
    #[default]
    None,
    /// Those of these names, as wholes.
    Named(Vec<String>),
    /// It cannot be told which.
    Any,
}

impl Target {
    /// Of one of S3's operations.
    pub fn of_s3(head: &s3::Head) -> Self {
        let op = head.op.as_str();
        let is_effect = !["Get", "Head", "List"]
            .iter()
            .any(|verb| op.starts_with(verb));
        let mut target = Self {
            is_effect,
            is_put: op == "PutObject",
            is_get: op == "GetObject",
            ..Self::default()
        };
        match (&head.bucket, &head.key) {
            (Some(bucket), Some(key)) => target.objects.push(ObjectName {
                bucket: bucket.clone(),
                key: key.clone(),
            }),
            (Some(bucket), None) => target.buckets = Buckets::Named(vec![bucket.clone()]),
            (None, _) => {}
        }
        target.copied_from(&head.headers)
    }

    /// Of a request that an SDK made. One whose URL is none may be about anything.
    pub fn of_http(head: &http_op::Head) -> Self {
        match Url::parse(&head.url) {
            Ok(url) => Self::of_request(&url, &head.headers),
            Err(_) => Self {
                buckets: Buckets::Any,
                is_effect: true,
                ..Self::default()
            },
        }
    }

    /// Of any other request.
    pub fn of_request(url: &Url, headers: &[(String, String)]) -> Self {
        http(url).copied_from(headers)
    }

    fn copied_from(mut self, headers: &[(String, String)]) -> Self {
        for value in values(headers, "x-amz-copy-source") {
            match copy_source(value) {
                Some(object) => self.objects.push(object),
                None => self.buckets = Buckets::Any,
            }
        }
        self
    }

    /// Wait until what is pending for it has ended.
    pub async fn settle(&self, ledger: &Ledger) {
        for object in &self.objects {
            ledger.settle_object(object).await;
        }
        match &self.buckets {
            Buckets::None => {}
            Buckets::Named(names) => {
                ledger
                    .settle_buckets(|bucket| names.iter().any(|name| name == bucket))
                    .await;
            }
            Buckets::Any => ledger.settle_buckets(|_| true).await,
        }
    }

    /// Let the ledger know that it is being written to, or has been.
    pub fn touch(&self, ledger: &Ledger) {
        for object in &self.objects {
            ledger.touch_object(object);
        }
        match &self.buckets {
            Buckets::None => {}
            Buckets::Named(names) => names.iter().for_each(|n| ledger.touch_bucket(Some(n))),
            Buckets::Any => ledger.touch_bucket(None),
        }
    }
}

/// Any request may be one to S3, whatever its host is called: the bucket is the path's first segment or the host's first
/// label.
fn http(url: &Url) -> Target {
    let path = url.path.to_ascii_lowercase();
    let host = url.authority.host.as_str();
    let odd = path.starts_with("//")
        || path.contains("/.")
        || path.contains("%2e")
        || path.contains("%3a")
        || path.contains("arn:")
        || host.contains("s3-accesspoint")
        || host.contains("s3-object-lambda");
    let buckets = if odd {
        Buckets::Any
    } else {
        let segment = path.trim_start_matches('/').split('/').next();
        let mut names = vec![decode(segment.unwrap_or_default())];
        // A bucket's name may have dots: every beginning of the host may be one.
        names.extend(
            host.match_indices('.')
                .map(|(at, _)| host.get(..at).unwrap_or_default().to_owned()),
        );
        names.retain(|name| !name.is_empty());
        Buckets::Named(names)
    };
    Target {
        buckets,
        is_effect: true,
        ..Target::default()
    }
}

/// `[/]BUCKET/KEY[?versionId=...]`, encoded.
fn copy_source(value: &str) -> Option<ObjectName> {
    let value = value.strip_prefix('/').unwrap_or(value);
    let value = value.split("?versionId=").next()?;
    let plain = decode(value);
    let (bucket, key) = plain.split_once('/')?;
    (!bucket.contains(':')).then(|| ObjectName {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
    })
}

/// Percent-decoding; what is no UTF-8 then matches no bucket.
pub fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let pair = tail.get(..2).and_then(|p| std::str::from_utf8(p).ok());
        match pair.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;
    use crate::operation::Task;
    use nexus_abi::operation as abi;
    use serde_json::json;

    fn of(operation: u16, head: &serde_json::Value) -> Target {
        match Task::parse(operation, head.to_string().as_bytes()) {
            Ok(Task::S3(head)) => Target::of_s3(&head),
            Ok(Task::Http(head)) => Target::of_http(&head),
            other => panic!("{other:?}"),
        }
    }

    fn object(bucket: &str, key: &str) -> ObjectName {
        ObjectName {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn operations_name_their_objects() {
        let get = of(
            abi::S3,
            &json!({"op": "GetObject", "bucket": "b", "key": "k"}),
        );
        assert_eq!(get.objects, [object("b", "k")]);
        assert!(!get.is_effect && get.buckets == Buckets::None);
        let list = of(
            abi::S3,
            &json!({"op": "ListObjectsV2", "bucket": "b", "key": null}),
        );
        assert_eq!(list.buckets, Buckets::Named(vec!["b".to_owned()]));
        let headers = json!([["X-Amz-Copy-Source", "/c/a%20b%2Bc?versionId=1"]]);
        let copy = of(
            abi::S3,
            &json!({"op": "CopyObject", "bucket": "b", "key": "k", "headers": headers}),
        );
        assert_eq!(copy.objects, [object("b", "k"), object("c", "a b+c")]);
        assert!(copy.is_effect);
    }

    #[test]
    fn any_request_may_be_one_to_s3() {
        let named = |url: &str| match of(abi::HTTP, &json!({"method": "GET", "url": url})).buckets {
            Buckets::Named(names) => names,
            other => panic!("{other:?}"),
        };
        assert!(named("http://127.0.0.1:9101/photos/k?uploads").contains(&"photos".to_owned()));
        assert!(named("http://127.0.0.1:9101/pho%74os").contains(&"photos".to_owned()));
        assert!(
            named("https://my.photos.s3.us-east-1.amazonaws.com/k")
                .contains(&"my.photos".to_owned())
        );
        for url in [
            "http://h/a/../photos/k",
            "http://h//photos/k",
            "http://h/%2e/photos",
            "rubbish",
        ] {
            assert_eq!(
                of(abi::HTTP, &json!({"method": "GET", "url": url})).buckets,
                Buckets::Any
            );
        }
    }
}
