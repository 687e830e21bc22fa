//! A deferred write that failed, in the words that the SDK would have raised it with.

use crate::operation::Refusal;
use serde_json::Value;

/// What the function's caller is told: the exception that `put_object` would have raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteError {
    /// Name of the exception's class.
    pub error_type: String,
    pub message: String,
    /// The store may have taken the object all the same.
    pub ambiguous: bool,
    /// Another attempt may succeed.
    pub transient: bool,
    /// HTTP status; 0 where there was no answer.
    pub status: u16,
}

/// Error codes that are classes of their own in S3's model; every other is a ClientError.
const MODELLED: [&str; 7] = [
    "EncryptionTypeMismatch",
    "InvalidRequest",
    "InvalidWriteOffset",
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchUpload",
    "TooManyParts",
];

impl WriteError {
    /// An answer of the store that is not a success.
    pub fn answered(status: u16, retries: u64, body: &str) -> Self {
        let code = element(body, "Code").unwrap_or_else(|| status.to_string());
        let text = element(body, "Message").unwrap_or_default();
        let transient = matches!(status, 429 | 500 | 502 | 503 | 504);
        let reached = if transient && retries > 0 {
            format!(" (reached max retries: {retries})")
        } else {
            String::new()
        };
        let class = MODELLED.iter().find(|known| **known == code);
        Self {
            error_type: class.map_or("ClientError", |known| known).to_owned(),
            message: format!(
                "An error occurred ({code}) when calling the PutObject operation{reached}: {text}"
            ),
            ambiguous: status >= 500,
            transient,
            status,
        }
    }

    /// No answer.
    pub fn refused(refusal: &Refusal) -> Self {
        let head: Value = serde_json::from_slice(&refusal.head).unwrap_or_default();
        let text = |key: &str| head.get(key).and_then(Value::as_str).unwrap_or_default();
        let (class, url) = (text("error"), text("endpoint"));
        let message = match class {
            "EndpointConnectionError" => {
                format!("Could not connect to the endpoint URL: \"{url}\"")
            }
            "ConnectTimeoutError" => format!("Connect timeout on endpoint URL: \"{url}\""),
            "ReadTimeoutError" => format!("Read timeout on endpoint URL: \"{url}\""),
            "ConnectionClosedError" => format!(
                "Connection was closed before we received a valid response from endpoint URL: \"{url}\"."
            ),
            "SSLError" => format!("SSL validation failed for {url} {}", text("message")),
            _ => text("message").to_owned(),
        };
        let certain = matches!(
            class,
            "EndpointConnectionError" | "ConnectTimeoutError" | "SSLError"
        );
        let transient = !matches!(
            refusal.status,
            nexus_abi::operation::status::INVALID | nexus_abi::operation::status::DENIED
        ) || class == "NoCredentialsError";
        Self {
            error_type: if class.is_empty() {
                "BotoCoreError"
            } else {
                class
            }
            .to_owned(),
            message,
            ambiguous: transient && !certain,
            transient,
            status: 0,
        }
    }

    /// The commit deadline passed.
    pub fn late(seconds: f32) -> Self {
        Self {
            error_type: "ReadTimeoutError".to_owned(),
            message: format!(
                "The store did not confirm a deferred write within the commit deadline of {seconds} s; it may have been done."
            ),
            ambiguous: true,
            transient: true,
            status: 0,
        }
    }

    /// The store has the object under another ETag than the function was told.
    pub fn other_etag(told: &str, found: &str) -> Self {
        Self {
            error_type: "DeferredWriteMismatch".to_owned(),
            message: format!(
                "A deferred write was answered with the ETag {told}, but the store gave it {found}: the bucket's settings have \
                 changed. The object is stored; use --writes sync for such a bucket."
            ),
            ambiguous: false,
            transient: false,
            status: 200,
        }
    }
}

/// Text of the first element of this name, with XML's five entities resolved.
pub fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let mut plain = text.to_owned();
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ] {
        plain = plain.replace(entity, character);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_the_exceptions_of_the_sdk() {
        let body =
            "<Error><Code>AccessDenied</Code><Message>Access &lt;Denied&gt;</Message></Error>";
        let error = WriteError::answered(403, 0, body);
        assert_eq!(error.error_type, "ClientError");
        assert_eq!(
            error.message,
            "An error occurred (AccessDenied) when calling the PutObject operation: Access <Denied>"
        );
        assert!(!error.transient && !error.ambiguous);
        let error = WriteError::answered(503, 2, "<Error><Code>SlowDown</Code></Error>");
        assert!(error.message.contains("(reached max retries: 2)") && error.transient);
        let error = WriteError::answered(404, 0, "<Error><Code>NoSuchBucket</Code></Error>");
        assert_eq!(error.error_type, "NoSuchBucket");
    }
}
