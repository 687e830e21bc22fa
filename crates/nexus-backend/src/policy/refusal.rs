//! A denied call as AWS answers one: status 403, in the shape of the service's protocol.

use super::{Call, Denied, is_s3};
use crate::http::head::values;

/// An answer that no server gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Refused {
    /// As the service that `call` is for would refuse it.
    pub fn new(call: &Call<'_>, denied: &Denied) -> Self {
        let message = denied.to_string();
        let has = |name: &str| values(call.headers, name).next().is_some();
        let service = call.service.unwrap_or("s3");
        let (kind, body) = if is_s3(service) {
            let body = xml("AccessDenied", &message);
            ("application/xml", body.into_bytes())
        } else if has("smithy-protocol") {
            ("application/cbor", cbor(&message))
        } else if service == "ec2" {
            let body = format!(
                "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>{}</Message></Error></Errors>\
                 <RequestID>nexus</RequestID></Response>",
                escape(&message)
            );
            ("text/xml", body.into_bytes())
        } else if !has("x-amz-target")
            && values(call.headers, "content-type")
                .any(|value| value.starts_with("application/x-www-form-urlencoded"))
        {
            let body = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{}</Message></Error>\
                 <RequestId>nexus</RequestId></ErrorResponse>",
                escape(&message)
            );
            ("text/xml", body.into_bytes())
        } else {
            let body = serde_json::json!({"__type": "AccessDeniedException", "message": message});
            ("application/x-amz-json-1.0", body.to_string().into_bytes())
        };
        let mut headers: Vec<(String, String)> =
            [("Content-Type", kind), ("x-amzn-RequestId", "nexus")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        if is_s3(service) {
            headers.truncate(1);
            headers.push(("x-amz-request-id".to_owned(), "nexus".to_owned()));
        } else {
            headers.push((
                "x-amzn-ErrorType".to_owned(),
                "AccessDeniedException".to_owned(),
            ));
        }
        if kind == "application/cbor" {
            headers.push(("smithy-protocol".to_owned(), "rpc-v2-cbor".to_owned()));
        }
        let body = if call.method == "HEAD" {
            Vec::new()
        } else {
            body
        };
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
        Self {
            status: 403,
            headers,
            body,
        }
    }

    /// As S3 answers what is no request that it takes.
    pub fn unclear(why: &str) -> Self {
        Self::of_s3(400, "InvalidRequest", why)
    }

    /// As S3 answers what it cannot do at the moment: a key stays pending because the journal's disk fails. Clients try again.
    pub fn unavailable() -> Self {
        let why = "A deferred write waits for the node's journal, which cannot be written. Its log says why; nothing was done.";
        Self::of_s3(503, "ServiceUnavailable", why)
    }

    fn of_s3(status: u16, code: &str, message: &str) -> Self {
        let body = xml(code, message).into_bytes();
        let headers = [
            ("Content-Type", "application/xml"),
            ("x-amz-request-id", "nexus"),
            ("Content-Length", &body.len().to_string()),
        ];
        Self {
            status,
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            body,
        }
    }
}

fn xml(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{}</Message>\
         <RequestId>nexus</RequestId></Error>",
        escape(message)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A map of two texts (RFC 8949).
fn cbor(message: &str) -> Vec<u8> {
    let mut bytes = vec![0xa2];
    for text in ["__type", "AccessDeniedException", "message", message] {
        let text: String = text.chars().take(4096).collect();
        // A text whose length takes two bytes; chars are at most four bytes each.
        bytes.push(0x79);
        bytes.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::http::url::Url;

    fn refused(service: &str, headers: &[(&str, &str)]) -> (String, Refused) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let call = Call {
            service: Some(service),
            method: "POST",
            url: &Url::parse("http://h/").unwrap(),
            headers: &headers,
            body: Some(b""),
        };
        let refused = Refused::new(&call, &Denied("no <way>".to_owned()));
        (String::from_utf8_lossy(&refused.body).into_owned(), refused)
    }

    #[test]
    fn shapes() {
        let (s3, whole) = refused("s3", &[]);
        assert!(s3.contains("<Code>AccessDenied</Code><Message>no &lt;way&gt;</Message>"));
        assert_eq!(whole.status, 403);
        let (json, _) = refused("dynamodb", &[("X-Amz-Target", "a.B")]);
        assert!(json.contains("AccessDeniedException") && json.contains("no <way>"));
        let (form, _) = refused(
            "sns",
            &[("content-type", "application/x-www-form-urlencoded")],
        );
        assert!(form.starts_with("<ErrorResponse><Error><Type>Sender"));
        let (_, cbor) = refused("monitoring", &[("smithy-protocol", "rpc-v2-cbor")]);
        assert!(cbor.body.starts_with(b"\xa2\x79\x00\x06__type"));
    }
}
