//! What of a signature s3s leaves unchecked: the service that it is for, and the headers that it must cover.

use percent_encoding::percent_decode_str;
use s3s::{S3Request, S3Result, s3_error};

/// Signed by nobody's SDK in a presigned URL, and no header that changes what is asked for.
const FREE: &str = "x-amz-content-sha256";

/// # Errors
/// AuthorizationHeaderMalformed: it is for another service. AccessDenied: a header of AWS's is not signed.
pub fn check<T>(request: &S3Request<T>) -> S3Result<()> {
    if let Some(service) = request.service.as_deref().filter(|name| *name != "s3") {
        return Err(s3_error!(
            AuthorizationHeaderMalformed,
            "The authorization header is malformed; incorrect service \"{service}\". This endpoint belongs to \"s3\"."
        ));
    }
    // Of version 2, each of these headers is part of the signature; of a form, none counts.
    let query = request.uri.query().unwrap_or_default();
    let Some(signed) = member(query, "X-Amz-SignedHeaders") else {
        return Ok(());
    };
    if member(query, "X-Amz-Signature").is_none() {
        return Ok(());
    }
    let is_signed = |name: &str| signed.split(';').any(|one| one.eq_ignore_ascii_case(name));
    let names = request.headers.keys().map(|name| name.as_str());
    let mut own = names.filter(|name| name.starts_with("x-amz-") && *name != FREE);
    match own.find(|name| !is_signed(name)) {
        Some(name) => Err(s3_error!(
            AccessDenied,
            "There were headers present in the request which were not signed: {name}"
        )),
        None => Ok(()),
    }
}

/// A query's member, decoded.
fn member(query: &str, wanted: &str) -> Option<String> {
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name) == wanted).then(|| decode(value))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hyper::{HeaderMap, Method, Uri};

    fn may(service: Option<&str>, target: &str, headers: &[&'static str]) -> bool {
        let mut map = HeaderMap::new();
        for name in headers {
            map.insert(*name, "x".parse().unwrap());
        }
        check(&S3Request {
            input: (),
            method: Method::PUT,
            uri: target.parse::<Uri>().unwrap(),
            headers: map,
            extensions: Default::default(),
            credentials: None,
            region: None,
            service: service.map(str::to_owned),
            trailing_headers: None,
        })
        .is_ok()
    }

    #[test]
    fn signatures_are_for_s3_and_cover_its_headers() {
        let url = "/b/k?X-Amz-Signature=0&X-Amz-SignedHeaders=host%3Bx-amz-acl";
        assert!(may(None, "/b/k", &["x-amz-copy-source"]) && may(Some("s3"), "/b/k", &[]));
        assert!(!may(Some("sts"), "/b/k", &[]) && !may(Some("s3express"), url, &[]));
        assert!(may(
            Some("s3"),
            url,
            &["x-amz-acl", "content-type", "x-amz-content-sha256"]
        ));
        assert!(!may(Some("s3"), url, &["x-amz-copy-source"]));
    }
}
