//! What the table of S3's operations consists of, and the check of a guest's request against it.

use super::Refusal;
use super::s3_table::OPERATIONS;
use super::send::Headers;

/// One operation of S3: method, path, and what of it may be given where.
#[derive(Debug)]
pub struct Operation {
    pub name: &'static str,
    pub method: &'static str,
    /// Whether the path has a bucket, and a key.
    pub bucket: bool,
    pub key: bool,
    /// Query that makes a request this operation.
    pub fixed: &'static [(&'static str, &'static str)],
    /// Query and headers (lower case) that parameters become.
    pub query: &'static [&'static str],
    pub headers: &'static [&'static str],
    /// Those of them without which a request would be another operation, or none.
    pub required: &'static [&'static str],
    /// Whether headers `x-amz-meta-*` belong to it.
    pub metadata: bool,
    pub body: Body,
    /// Whether a recent SDK gives the body a checksum.
    pub checksum: bool,
}

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    /// An object's bytes.
    Object,
    /// XML.
    Document,
}

/// Headers that belong to no parameter.
const GENERAL: [&str; 7] = [
    "accept-encoding",
    "content-length",
    "content-md5",
    "user-agent",
    "x-amz-checksum-mode",
    "x-amz-content-sha256",
    "x-amz-sdk-checksum-algorithm",
];

impl Operation {
    pub fn find(name: &str) -> Option<&'static Self> {
        OPERATIONS
            .binary_search_by(|operation| operation.name.cmp(name))
            .ok()
            .and_then(|at| OPERATIONS.get(at))
    }

    /// Refuse what would make the request another operation: policy goes by the name.
    ///
    /// # Errors
    /// INVALID: a query or header that the operation does not have, or lacks.
    pub fn admit(&self, query: &[(String, String)], headers: &Headers) -> Result<(), Refusal> {
        let known = |name: &str, value: &str| {
            self.query.contains(&name) || self.fixed.contains(&(name, value))
        };
        if let Some((name, _)) = query.iter().find(|(name, value)| !known(name, value)) {
            let what = format!("{} has no query {name:.60?}", self.name);
            return Err(Refusal::invalid(&what));
        }
        for (name, _) in headers {
            let name = name.to_ascii_lowercase();
            let known = self.headers.contains(&name.as_str())
                || GENERAL.contains(&name.as_str())
                || (self.metadata && name.starts_with("x-amz-meta-"))
                // Of a later SDK; they change what is stored, not what is done.
                || (self.body != Body::None && name.starts_with("x-amz-checksum-"));
            if !known {
                let what = format!("{} has no header {name:.60?}", self.name);
                return Err(Refusal::invalid(&what));
            }
        }
        let given = |required: &str| {
            let pairs = query.iter().chain(headers);
            pairs
                .into_iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(required))
        };
        match self.required.iter().find(|name| !given(name)) {
            Some(name) => Err(Refusal::invalid(&format!("{} needs {name}", self.name))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn the_table_is_in_order_and_complete() {
        assert!(
            OPERATIONS
                .windows(2)
                .all(|pair| pair[0].name < pair[1].name)
        );
        let put = Operation::find("PutObject").unwrap();
        assert_eq!((put.method, put.body, put.key), ("PUT", Body::Object, true));
        assert!(Operation::find("PutBucketPolicy").is_none());
    }

    #[test]
    fn what_would_be_another_operation_is_refused() {
        let none = Vec::new();
        let get = Operation::find("GetObject").unwrap();
        get.admit(&pair("versionId", "1"), &pair("Range", "bytes=0-1"))
            .ok()
            .unwrap();
        for name in ["acl", "tagging", "uploads", "torrent"] {
            assert!(get.admit(&pair(name, ""), &none).is_err(), "{name}");
        }
        let put = Operation::find("PutObject").unwrap();
        assert!(put.admit(&none, &pair("X-Amz-Copy-Source", "b/k")).is_err());
        assert!(put.admit(&pair("uploadId", "1"), &none).is_err());
        // Without its upload this would delete the object.
        let abort = Operation::find("AbortMultipartUpload").unwrap();
        assert!(abort.admit(&none, &none).is_err());
        abort.admit(&pair("uploadId", "1"), &none).ok().unwrap();
        let copy = Operation::find("CopyObject").unwrap();
        assert!(copy.admit(&none, &none).is_err());
        let list = Operation::find("ListObjectsV2").unwrap();
        list.admit(&pair("list-type", "2"), &none).ok().unwrap();
        assert!(list.admit(&pair("list-type", "1"), &none).is_err());
    }
}
