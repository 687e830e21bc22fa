//! What a request to AWS does, as far as the request itself tells: service, action, bucket and key.

use super::document::Access;
use super::{Denied, Policy, aws_labels, is_service};
use crate::http::head::values;
use crate::http::url::{Url, decode};

/// A request, as it is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// It is to be signed for this service; `None`: it comes signed, or is not.
    pub service: Option<&'a str>,
    pub method: &'a str,
    pub url: &'a Url,
    pub headers: &'a [(String, String)],
    /// Start of the body, where it is at hand.
    pub body: &'a [u8],
}

/// S3's operations on an object or a bucket that a member of the query names, by method.
const SUBRESOURCES: &[(&str, &str, &str, &str)] = &[
    // query, method, on an object, on a bucket
    ("uploadId", "GET", "ListParts", ""),
    ("uploadId", "PUT", "UploadPart", ""),
    ("uploadId", "POST", "CompleteMultipartUpload", ""),
    ("uploadId", "DELETE", "AbortMultipartUpload", ""),
    ("uploads", "POST", "CreateMultipartUpload", ""),
    ("uploads", "GET", "", "ListMultipartUploads"),
    ("tagging", "GET", "GetObjectTagging", "GetBucketTagging"),
    ("tagging", "PUT", "PutObjectTagging", "PutBucketTagging"),
    (
        "tagging",
        "DELETE",
        "DeleteObjectTagging",
        "DeleteBucketTagging",
    ),
    ("acl", "GET", "GetObjectAcl", "GetBucketAcl"),
    ("acl", "PUT", "PutObjectAcl", "PutBucketAcl"),
    ("attributes", "GET", "GetObjectAttributes", ""),
    ("restore", "POST", "RestoreObject", ""),
    ("select", "POST", "SelectObjectContent", ""),
    ("versions", "GET", "", "ListObjectVersions"),
    ("location", "GET", "", "GetBucketLocation"),
    ("versioning", "GET", "", "GetBucketVersioning"),
    ("versioning", "PUT", "", "PutBucketVersioning"),
    ("delete", "POST", "", "DeleteObjects"),
];

/// Members of a query that choose nothing else than their operation's details.
const DETAILS: &[&str] = &[
    "list-type",
    "prefix",
    "delimiter",
    "max-keys",
    "marker",
    "continuation-token",
    "start-after",
    "fetch-owner",
    "encoding-type",
    "versionId",
    "partNumber",
    "x-id",
];

/// The action of IAM under which S3 allows an operation, where it has another name.
fn permission(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "HeadObject" | "SelectObjectContent" => "GetObject",
        "CopyObject" | "CreateMultipartUpload" | "UploadPart" | "UploadPartCopy" => "PutObject",
        "CompleteMultipartUpload" => "PutObject",
        "DeleteObjects" => "DeleteObject",
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => "ListBucket",
        "ListObjectVersions" => "ListBucketVersions",
        "ListBuckets" => "ListAllMyBuckets",
        _ => return None,
    })
}

impl Policy<'_> {
    /// Whether a request to AWS, or to an endpoint that the node has for one of its services, may be made.
    ///
    /// # Errors
    /// The function's policy does not allow it.
    pub fn call(&self, call: &Call<'_>) -> Result<(), Denied> {
        let services = match call.service {
            Some(service) => vec![service.to_owned()],
            None => self.guess(call.url),
        };
        // Signed for S3 by whatever name: s3, s3express, s3-object-lambda.
        let (mut last, mut allowed) = (None, services.is_empty());
        for service in services {
            let one = if service.starts_with("s3") {
                self.s3(&service, call)
            } else {
                let action = action(call);
                let actions: Vec<&str> = action.iter().map(String::as_str).collect();
                self.rules.service(&service, &actions)
            };
            match one {
                Ok(()) => allowed = true,
                Err(denied) => last = Some(denied),
            }
        }
        match last {
            Some(denied) if !allowed => Err(denied),
            _ => Ok(()),
        }
    }

    /// Services that an unsigned request may be for, by its host.
    fn guess(&self, url: &Url) -> Vec<String> {
        let configured = self.endpoints.0.iter();
        let mut found: Vec<String> = configured
            .filter(|(_, endpoint)| endpoint.authority == url.authority)
            .map(|(service, _)| service.clone())
            .collect();
        if let Some(labels) = aws_labels(&url.authority.host) {
            if labels.iter().any(|label| is_service(label, "s3")) {
                return vec!["s3".to_owned()];
            }
            found.extend(labels.iter().map(|label| (*label).to_owned()));
        }
        found
    }

    fn s3(&self, service: &str, call: &Call<'_>) -> Result<(), Denied> {
        let place = Place::of(call.url);
        let query = query(&call.url.query);
        let operation = operation(call, &place, &query);
        let names: Vec<&str> = operation
            .into_iter()
            .flat_map(|name| [Some(name), permission(name)])
            .flatten()
            .collect();
        self.rules.service(service, &names)?;
        let source = values(call.headers, "x-amz-copy-source").next();
        if source.is_some() {
            self.rules.service(service, &["GetObject"])?;
        }
        if !self.rules.has_buckets() {
            return Ok(());
        }
        let odd = |what: &str| {
            Err(Denied(format!(
                "the policy of this function restricts buckets, and {what}"
            )))
        };
        if aws_labels(&call.url.authority.host).is_some() && !place.certain {
            return odd("the host of this request does not tell which bucket it is for");
        }
        if let Some(source) = source {
            let Some((bucket, key)) = copied(source) else {
                return odd("x-amz-copy-source does not name a bucket and a key");
            };
            self.rules.bucket(&bucket, Some(&key), Access::Read)?;
        }
        let access = match call.method {
            "GET" | "HEAD" => Access::Read,
            _ => Access::Write,
        };
        let Some(bucket) = &place.bucket else {
            return odd("this request is for all of them");
        };
        match &place.key {
            Some(key) => self.rules.bucket(bucket, Some(key), access),
            None if matches!(
                operation,
                Some("ListObjects" | "ListObjectsV2" | "ListObjectVersions")
            ) =>
            {
                let prefix = query.iter().find(|(name, _)| name == "prefix");
                let prefix = prefix.map_or("", |(_, value)| value.as_str());
                self.rules.bucket(bucket, Some(prefix), access)
            }
            None => self.rules.bucket(bucket, None, access),
        }
    }
}

/// The bucket and the key that a URL names.
struct Place {
    bucket: Option<String>,
    key: Option<String>,
    /// The host has one of the forms that S3's endpoints have.
    certain: bool,
}

impl Place {
    fn of(url: &Url) -> Self {
        let path = url.path.strip_prefix('/').unwrap_or(&url.path);
        let some = |text: &str| (!text.is_empty()).then(|| decode(text));
        let labels = aws_labels(&url.authority.host).unwrap_or_default();
        let at = labels
            .iter()
            .rposition(|label| *label == "s3" || label.starts_with("s3-"));
        let special = labels.iter().any(|label| {
            [
                "s3-control",
                "s3-object-lambda",
                "s3-accesspoint",
                "s3-outposts",
                "s3express",
            ]
            .iter()
            .any(|name| label.starts_with(name))
        });
        match at {
            Some(at) if at > 0 => Self {
                bucket: labels.get(..at).map(|labels| labels.join(".")),
                key: some(path),
                certain: !special,
            },
            _ => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                Self {
                    bucket: some(bucket),
                    key: some(key),
                    certain: at.is_some() && !special,
                }
            }
        }
    }
}

fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// The operation of S3 by method, path and query; `None` where that does not tell.
fn operation(call: &Call<'_>, place: &Place, query: &[(String, String)]) -> Option<&'static str> {
    let (on_object, on_bucket) = (place.key.is_some(), place.bucket.is_some());
    let copy = values(call.headers, "x-amz-copy-source").next().is_some();
    for (member, method, object, bucket) in SUBRESOURCES {
        if call.method == *method && query.iter().any(|(name, _)| name == member) {
            return match (on_object, *object, *bucket) {
                (true, "UploadPart", _) if copy => Some("UploadPartCopy"),
                (true, "", _) | (false, _, "") => None,
                (true, object, _) => Some(object),
                (false, _, bucket) => on_bucket.then_some(bucket),
            };
        }
    }
    let plain = query.iter().all(|(name, _)| {
        let lowered = name.to_ascii_lowercase();
        DETAILS.contains(&name.as_str())
            || lowered.starts_with("x-amz-")
            || lowered.starts_with("response-")
    });
    if !plain {
        return None;
    }
    let version_two = query.iter().any(|(name, _)| name == "list-type");
    match (call.method, on_bucket, on_object) {
        ("GET", _, true) => Some("GetObject"),
        ("HEAD", _, true) => Some("HeadObject"),
        ("PUT", _, true) if copy => Some("CopyObject"),
        ("PUT", _, true) => Some("PutObject"),
        ("DELETE", _, true) => Some("DeleteObject"),
        ("GET", true, false) if version_two => Some("ListObjectsV2"),
        ("GET", true, false) => Some("ListObjects"),
        ("HEAD", true, false) => Some("HeadBucket"),
        ("PUT", true, false) => Some("CreateBucket"),
        ("DELETE", true, false) => Some("DeleteBucket"),
        ("GET", false, false) => Some("ListBuckets"),
        _ => None,
    }
}

/// Bucket and key of `x-amz-copy-source`.
fn copied(source: &str) -> Option<(String, String)> {
    let source = decode(source.split('?').next().unwrap_or_default());
    let source = source.strip_prefix('/').unwrap_or(&source);
    let (bucket, key) = source.split_once('/')?;
    (!bucket.is_empty() && !bucket.contains(':') && !key.is_empty())
        .then(|| (bucket.to_owned(), key.to_owned()))
}

/// The action of another service: of the JSON protocols in `X-Amz-Target`, of the query protocols in `Action`, of CBOR in
/// the path. REST services' actions would take their models.
fn action(call: &Call<'_>) -> Option<String> {
    if let Some(target) = values(call.headers, "x-amz-target").next() {
        return target.rsplit('.').next().map(str::to_owned);
    }
    if values(call.headers, "smithy-protocol").next().is_some() {
        let name = call.url.path.rsplit("/operation/").next();
        return name.filter(|name| !name.contains('/')).map(str::to_owned);
    }
    let form = values(call.headers, "content-type")
        .any(|value| value.starts_with("application/x-www-form-urlencoded"));
    let body = std::str::from_utf8(call.body).unwrap_or_default();
    let mut members = query(&call.url.query);
    if form {
        members.extend(query(body));
    }
    let mut actions = members.into_iter().filter(|(name, _)| name == "Action");
    match (actions.next(), actions.next()) {
        (Some((_, action)), None) => Some(action),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Endpoints, Rules};
    use super::*;
    use std::sync::Arc;

    fn ask(document: &str, service: Option<&str>, request: &str, headers: &[(&str, &str)]) -> bool {
        let endpoints = [("s3".to_owned(), "http://127.0.0.1:9101".to_owned())].into();
        let endpoints = Endpoints::new(&endpoints).unwrap();
        let rules = Rules::new("f", &serde_json::from_str(document).unwrap()).unwrap();
        let rules = Arc::new(rules);
        let (method, url) = request.split_once(' ').unwrap();
        let (url, body) = url.split_once(' ').unwrap_or((url, ""));
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let call = Call {
            service,
            method,
            url: &Url::parse(url).unwrap(),
            headers: &headers,
            body: body.as_bytes(),
        };
        Policy::new(&endpoints, &rules).call(&call).is_ok()
    }

    #[test]
    fn actions_of_s3() {
        let may = |action: &str, request: &str| {
            let document = format!(r#"{{"services": ["s3:{action}"]}}"#);
            ask(
                &document,
                Some("s3"),
                &request.replace("//h", "//127.0.0.1:9101"),
                &[],
            )
        };
        for (action, request) in [
            ("GetObject", "GET http://h/b/k"),
            ("GetObject", "HEAD http://h/b/k"),
            ("HeadObject", "HEAD http://h/b/k"),
            (
                "GetObject",
                "GET http://h/b/k?X-Amz-Signature=x&response-content-type=y&versionId=1",
            ),
            ("PutObject", "PUT http://h/b/k?partNumber=1&uploadId=u"),
            ("ListBucket", "GET http://h/b?list-type=2"),
            ("ListObjectsV2", "GET http://h/b?list-type=2"),
            ("GetObjectTagging", "GET http://h/b/k?tagging"),
            ("DeleteObject", "POST http://h/b?delete"),
            ("*", "PUT http://h/b?cors"),
        ] {
            assert!(may(action, request), "{action} {request}");
        }
        for (action, request) in [
            ("GetObject", "PUT http://h/b/k"),
            ("GetObject", "GET http://h/b/k?tagging"),
            ("GetObject", "GET http://h/b/k?legal-hold"),
            ("GetObject", "GET http://h/b"),
            ("PutObject", "DELETE http://h/b/k"),
            ("CreateBucket", "PUT http://h/b?policy"),
        ] {
            assert!(!may(action, request), "{action} {request}");
        }
    }

    #[test]
    fn buckets_wherever_the_request_names_them() {
        let document =
            r#"{"buckets": [{"name": "b", "prefix": "in/", "access": "read"}, {"name": "out"}]}"#;
        let may = |request: &str, headers: &[(&str, &str)]| ask(document, None, request, headers);
        for request in [
            "GET http://127.0.0.1:9101/b/in/k",
            "GET http://127.0.0.1:9101/b?list-type=2&prefix=in%2Fx",
            "GET https://b.s3.us-east-1.amazonaws.com/in/k",
            "GET https://s3.us-east-1.amazonaws.com/b/in/k",
            "POST http://127.0.0.1:9101/out?delete",
        ] {
            assert!(may(request, &[]), "{request}");
        }
        for request in [
            "GET http://127.0.0.1:9101/b/other",
            "GET http://127.0.0.1:9101/b/in%2F..%2Fother",
            "PUT http://127.0.0.1:9101/b/in/k",
            "GET http://127.0.0.1:9101/b?list-type=2",
            "GET http://127.0.0.1:9101/",
            "GET https://other.s3.us-east-1.amazonaws.com/in/k",
            "GET https://s3.us-east-1.amazonaws.com/other/in/k",
            "GET https://x-123.s3-accesspoint.us-east-1.amazonaws.com/in/k",
            "GET https://b.s3-control.us-east-1.amazonaws.com/in/k",
            "POST http://127.0.0.1:9101/b?delete",
        ] {
            assert!(!may(request, &[]), "{request}");
        }
        let put = "PUT http://127.0.0.1:9101/out/k";
        assert!(may(put, &[("x-amz-copy-source", "b/in%2Fk")]));
        assert!(may(put, &[("X-Amz-Copy-Source", "/b/in/k?versionId=1")]));
        assert!(!may(put, &[("x-amz-copy-source", "b/other")]));
        assert!(!may(
            put,
            &[("x-amz-copy-source", "arn:aws:s3:r:1:accesspoint/a/object/k")]
        ));
    }

    #[test]
    fn actions_of_other_services() {
        let document = r#"{"services": ["dynamodb:GetItem", "sqs:*", "sns:Publish"]}"#;
        let may = |service, request: &str, headers: &[(&str, &str)]| {
            ask(document, Some(service), request, headers)
        };
        let dynamo = "POST https://dynamodb.us-east-1.amazonaws.com/";
        let target = |action| [("X-Amz-Target", action)];
        assert!(may(
            "dynamodb",
            dynamo,
            &target("DynamoDB_20120810.GetItem")
        ));
        assert!(!may(
            "dynamodb",
            dynamo,
            &target("DynamoDB_20120810.PutItem")
        ));
        assert!(!may("dynamodb", dynamo, &[]));
        assert!(may("sqs", "POST https://sqs.us-east-1.amazonaws.com/", &[]));
        let form = [(
            "Content-Type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let sns = |body| format!("POST https://sns.us-east-1.amazonaws.com/ {body}");
        assert!(may("sns", &sns("Action=Publish&Message=x"), &form));
        assert!(!may("sns", &sns("Action=Subscribe"), &form));
        assert!(!may("sns", &sns("Action=Publish&Action=Subscribe"), &form));
        assert!(!may("sns", &sns("Action=Publish"), &[]));
        assert!(!may(
            "kms",
            "POST https://kms.us-east-1.amazonaws.com/",
            &[]
        ));
        // Not signed by us: what the host says.
        assert!(!ask(
            document,
            None,
            "GET https://b.s3.amazonaws.com/k",
            &[]
        ));
        assert!(ask(
            document,
            None,
            "GET https://sqs.us-east-1.amazonaws.com/",
            &[]
        ));
    }
}
