//! What a request to AWS does, as far as the request itself tells: service, action, bucket and key.

use super::document::Access;
use super::{Denied, Policy, aws_labels, is_s3, is_s3_host};
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
    /// The body; `None` where it is not at hand, whole.
    pub body: Option<&'a [u8]>,
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

const COPY_SOURCE: &str = "x-amz-copy-source";

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
    "key-marker",
    "version-id-marker",
    "upload-id-marker",
    "part-number-marker",
    "max-parts",
    "max-uploads",
    "max-buckets",
    "bucket-region",
    "select-type",
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
        if let Some(service) = call.service {
            return self.as_service(service, call);
        }
        let configured: Vec<&str> = self.at(call.url).collect();
        if !configured.is_empty() {
            return match scope(call).filter(|told| configured.contains(&told.as_str())) {
                Some(told) => self.as_service(&told, call),
                // Nobody can tell which of them it is for.
                None => configured
                    .iter()
                    .try_for_each(|service| self.as_service(service, call)),
            };
        }
        let Some(labels) = aws_labels(&call.url.authority.host) else {
            return Ok(());
        };
        if is_s3_host(&labels) {
            return self.as_service("s3", call);
        }
        // One of the labels is the service.
        let judged = labels.iter().map(|label| self.as_service(label, call));
        judged.reduce(Result::or).unwrap_or(Ok(()))
    }

    /// The service that an unsigned request is for, as it is answered by.
    pub fn service(&self, call: &Call<'_>) -> Option<String> {
        let configured: Vec<&str> = self.at(call.url).collect();
        let told = scope(call).filter(|told| configured.contains(&told.as_str()));
        told.or_else(|| configured.first().map(|service| (*service).to_owned()))
    }

    /// Services that have their endpoint where a request goes.
    fn at<'a>(&'a self, url: &'a Url) -> impl Iterator<Item = &'a str> {
        self.endpoints
            .services(&url.authority.host, url.authority.port)
    }

    fn as_service(&self, service: &str, call: &Call<'_>) -> Result<(), Denied> {
        if is_s3(service) {
            return self.s3(service, call);
        }
        let action = action(call);
        let actions: Vec<&str> = action.iter().map(String::as_str).collect();
        self.rules.service(service, &actions)
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
        // Of several, nobody can tell which one counts.
        let sources: Vec<&str> = values(call.headers, COPY_SOURCE)
            .chain(values(&query, COPY_SOURCE))
            .collect();
        if !sources.is_empty() {
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
        for source in sources {
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
                let mut prefixes = values(&query, "prefix");
                let prefix = prefixes.next().unwrap_or_default();
                if prefixes.next().is_some() {
                    return odd("this request names several prefixes");
                }
                self.rules.bucket(bucket, Some(prefix), access)
            }
            None => self.rules.bucket(bucket, None, access),
        }
    }
}

/// The bucket and the key that a URL names.
pub(super) struct Place {
    pub bucket: Option<String>,
    pub key: Option<String>,
    /// The host has one of the forms that S3's endpoints have.
    pub certain: bool,
}

impl Place {
    pub fn of(url: &Url) -> Self {
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

/// The operation of S3 by method, path and query; `None` where that does not tell, or tells two.
fn operation(call: &Call<'_>, place: &Place, query: &[(String, String)]) -> Option<&'static str> {
    let (on_object, on_bucket) = (place.key.is_some(), place.bucket.is_some());
    let copy = values(call.headers, COPY_SOURCE).next().is_some();
    let is_member = |name: &str| SUBRESOURCES.iter().any(|(member, ..)| *member == name);
    let mut members: Vec<&str> = query.iter().map(|(name, _)| name.as_str()).collect();
    members.retain(|name| is_member(name));
    members.sort_unstable();
    members.dedup();
    let plain = query.iter().all(|(name, _)| {
        let lowered = name.to_ascii_lowercase();
        is_member(name)
            || DETAILS.contains(&name.as_str())
            || (lowered.starts_with("x-amz-") && lowered != COPY_SOURCE)
            || lowered.starts_with("response-")
    });
    let listed = query.iter().any(|(name, _)| name == "list-type");
    if !plain || members.len() > 1 || (listed && !members.is_empty()) {
        return None;
    }
    if let [member] = members.as_slice() {
        let (.., object, bucket) = SUBRESOURCES
            .iter()
            .find(|(name, method, ..)| name == member && *method == call.method)?;
        return match (on_object, *object, *bucket) {
            (true, "UploadPart", _) if copy => Some("UploadPartCopy"),
            (true, "", _) | (false, _, "") => None,
            (true, object, _) => Some(object),
            (false, _, bucket) => on_bucket.then_some(bucket),
        };
    }
    // Its key is in its body.
    let is_form =
        values(call.headers, "content-type").any(|kind| kind.starts_with("multipart/form-data"));
    match (call.method, on_bucket, on_object) {
        ("GET", _, true) => Some("GetObject"),
        ("HEAD", _, true) => Some("HeadObject"),
        ("PUT", _, true) if copy => Some("CopyObject"),
        ("PUT", _, true) => Some("PutObject"),
        ("DELETE", _, true) => Some("DeleteObject"),
        ("GET", true, false) if listed => Some("ListObjectsV2"),
        ("GET", true, false) => Some("ListObjects"),
        ("HEAD", true, false) => Some("HeadBucket"),
        ("POST", true, false) if is_form => Some("PutObject"),
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

/// The service that a request says it is signed for, in one place alone.
fn scope(call: &Call<'_>) -> Option<String> {
    let query = query(&call.url.query);
    let in_header = values(call.headers, "authorization").map(|value| {
        let rest = value.split("Credential=").nth(1).unwrap_or_default();
        rest.split(',').next().unwrap_or_default().trim()
    });
    let mut told = in_header.chain(values(&query, "x-amz-credential"));
    let credential = told.next().filter(|_| told.next().is_none())?;
    // ID/DAY/REGION/SERVICE/aws4_request
    match credential.rsplit('/').collect::<Vec<_>>().as_slice() {
        ["aws4_request", service, ..] => Some((*service).to_owned()),
        _ => None,
    }
}

/// The action of another service: of the JSON protocols in `X-Amz-Target`, of the query protocols in `Action`, of CBOR in
/// the path. REST services' actions would take their models. `None` where it is not told, or where two are: which of them
/// counts is the service's choice.
fn action(call: &Call<'_>) -> Option<String> {
    let mut told: Vec<String> = values(call.headers, "x-amz-target")
        .map(|target| target.rsplit('.').next().unwrap_or_default().to_owned())
        .collect();
    if values(call.headers, "smithy-protocol").next().is_some() {
        let name = call.url.path.rsplit("/operation/").next();
        told.push(name.filter(|name| !name.contains('/'))?.to_owned());
    }
    let is = |kinds: &[&str]| {
        values(call.headers, "content-type").any(|value| {
            let value = value.trim().to_ascii_lowercase();
            kinds.iter().any(|kind| value.starts_with(kind))
        })
    };
    let actions = |text: &str| -> Vec<String> {
        let members = query(text).into_iter();
        members
            .filter_map(|(name, value)| (name == "Action").then_some(value))
            .collect()
    };
    told.extend(actions(&call.url.query));
    let form = is(&["application/x-www-form-urlencoded"]);
    match call.body {
        Some(body) => {
            let own = actions(&String::from_utf8_lossy(body));
            if !form && !own.is_empty() {
                return None;
            }
            told.extend(own);
        }
        // It might be a form.
        None if form
            || !is(&[
                "application/json",
                "application/x-amz-json",
                "application/cbor",
            ]) =>
        {
            return None;
        }
        None => {}
    }
    let first = told.pop()?;
    told.iter().all(|other| *other == first).then_some(first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Endpoints, Rules};
    use super::*;
    use std::sync::Arc;

    fn ask(document: &str, service: Option<&str>, request: &str, headers: &[(&str, &str)]) -> bool {
        let endpoints = [("s3".to_owned(), "http://127.0.0.1:9101".to_owned())].into();
        let endpoints = Arc::new(Endpoints::new(&endpoints).unwrap());
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
            body: Some(body.as_bytes()),
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

    #[test]
    fn what_tells_two_actions_tells_none() {
        let document =
            r#"{"services": ["sns:ListTopics", "s3:PutObject", "s3:AbortMultipartUpload"]}"#;
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        let sns = |query: &str, body: &str, headers: &[(&str, &str)]| {
            let request = format!("POST https://sns.us-east-1.amazonaws.com/{query} {body}");
            ask(document, Some("sns"), &request, headers)
        };
        let kind = ("Content-Type", form);
        let target = ("X-Amz-Target", "x.ListTopics");
        assert!(sns("", "Action=ListTopics", &[kind]));
        assert!(sns("", "Action=ListTopics", &[kind, target]));
        assert!(sns("", "{}", &[target]));
        assert!(!sns("", "Action=Publish", &[kind, target]));
        assert!(!sns("", "Action=Publish", &[target]));
        assert!(!sns("", "Acti%6fn=Publish&x=%FF", &[kind, target]));
        assert!(!sns("?Action=ListTopics", "Action=Publish", &[kind]));
        assert!(!sns("?Action=ListTopics", "Action=Publish", &[]));
        assert!(!sns("", "{}", &[target, ("x-amz-target", "x.Publish")]));
        let s3 = |request: &str| ask(document, Some("s3"), request, &[]);
        for request in [
            "PUT http://127.0.0.1:9101/b/k?uploadId=u&partNumber=1",
            "DELETE http://127.0.0.1:9101/b/k?uploadId=u&x-id=AbortMultipartUpload",
        ] {
            assert!(s3(request), "{request}");
        }
        for request in [
            "PUT http://127.0.0.1:9101/b/k?tagging=&uploadId=u",
            "DELETE http://127.0.0.1:9101/b/k?tagging=&uploadId=u",
            "PUT http://127.0.0.1:9101/b/k?uploadId=u&legal-hold",
            "PUT http://127.0.0.1:9101/b/k?x-amz-copy-source=b/k",
            "PUT http://127.0.0.1:9101/b/k?uploadId=u&list-type=2",
        ] {
            assert!(!s3(request), "{request}");
        }
        let form = [("Content-Type", "multipart/form-data; boundary=x")];
        let post = "POST http://127.0.0.1:9101/b";
        assert!(ask(document, None, post, &form) && !ask(document, None, post, &[]));
        let prefixed = r#"{"buckets": [{"name": "b", "prefix": "in/"}]}"#;
        assert!(!ask(prefixed, None, post, &form));
        let list = "GET http://127.0.0.1:9101/b?list-type=2&prefix=in/";
        assert!(ask(prefixed, None, list, &[]));
        assert!(!ask(prefixed, None, &format!("{list}&prefix="), &[]));
        let sources = [
            ("x-amz-copy-source", "b/in/k"),
            ("X-Amz-Copy-Source", "c/k"),
        ];
        assert!(!ask(
            prefixed,
            None,
            "PUT http://127.0.0.1:9101/b/in/k",
            &sources
        ));
    }

    #[test]
    fn a_body_that_is_not_at_hand_may_ask_for_anything() {
        let rules = r#"{"services": ["sns:ListTopics", "dynamodb:GetItem"]}"#;
        let rules = Arc::new(Rules::new("f", &serde_json::from_str(rules).unwrap()).unwrap());
        let endpoints = Arc::new(Endpoints::new(&std::collections::BTreeMap::new()).unwrap());
        let may = |service, headers: &[(&str, &str)]| {
            let own = |text: &&str| (*text).to_owned();
            let headers: Vec<_> = headers.iter().map(|(n, v)| (own(n), own(v))).collect();
            let url = format!("https://{service}.us-east-1.amazonaws.com/?Action=ListTopics");
            let url = if service == "sns" {
                &url
            } else {
                url.split('?').next().unwrap()
            };
            let call = Call {
                service: Some(service),
                method: "POST",
                url: &Url::parse(url).unwrap(),
                headers: &headers,
                body: None,
            };
            Policy::new(&endpoints, &rules).call(&call).is_ok()
        };
        assert!(!may("sns", &[]));
        assert!(!may(
            "sns",
            &[("Content-Type", "application/x-www-form-urlencoded")]
        ));
        let get = ("X-Amz-Target", "DynamoDB_20120810.GetItem");
        assert!(may(
            "dynamodb",
            &[get, ("Content-Type", "application/x-amz-json-1.0")]
        ));
        assert!(!may("dynamodb", &[get]));
    }

    #[test]
    fn an_endpoint_of_several_services_is_judged_as_the_one_that_is_told_or_as_all() {
        let url = "http://127.0.0.1:5000".to_owned();
        let endpoints = [("s3".to_owned(), url.clone()), ("sns".to_owned(), url)].into();
        let endpoints = Arc::new(Endpoints::new(&endpoints).unwrap());
        let rules = r#"{"services": ["sns:*", "s3:GetObject"], "buckets": [{"name": "b"}]}"#;
        let rules = Arc::new(Rules::new("f", &serde_json::from_str(rules).unwrap()).unwrap());
        let may = |url: &str, authorization: Option<&str>| {
            let headers: Vec<_> = authorization
                .iter()
                .map(|value| ("Authorization".to_owned(), (*value).to_owned()))
                .collect();
            let call = Call {
                service: None,
                method: "GET",
                url: &Url::parse(&format!("http://127.0.0.1:5000{url}")).unwrap(),
                headers: &headers,
                body: Some(b""),
            };
            Policy::new(&endpoints, &rules).call(&call).is_ok()
        };
        let signed = |service: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
            )
        };
        assert!(may("/b/k", None) && !may("/denied/k", None));
        assert!(may("/", Some(&signed("sns"))) && !may("/", Some(&signed("s3"))));
        // A service that is not there, or two at a time, tell nothing.
        assert!(!may("/denied/k", Some(&signed("sts"))));
        let query = "/denied/k?X-Amz-Credential=x%2F20260101%2Fus-east-1%2Fsns%2Faws4_request";
        assert!(!may(query, Some(&signed("sns"))));
    }
}
