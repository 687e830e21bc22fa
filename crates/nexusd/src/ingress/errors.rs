//! Errors as Lambda's API shapes them: a status, `x-amzn-ErrorType`, and a JSON body.

use serde_json::{Map, Value, json};

/// An error on its way to a client.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: u16,
    /// The exception's name, in `x-amzn-ErrorType`.
    pub kind: &'static str,
    pub message: String,
    /// Further members of the body.
    pub extra: Map<String, Value>,
    /// Lambda writes `message` here and `Message` there; SDKs read both.
    lower_case: bool,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, message: String) -> Self {
        Self {
            status,
            kind,
            message,
            extra: Map::new(),
            lower_case: false,
        }
    }

    pub fn validation(message: String) -> Self {
        Self {
            lower_case: true,
            ..Self::new(400, "ValidationException", message)
        }
    }

    pub fn invalid_parameter(message: String) -> Self {
        Self {
            lower_case: true,
            ..Self::new(400, "InvalidParameterValueException", message)
        }
    }

    pub fn invalid_content(message: String) -> Self {
        Self {
            lower_case: true,
            ..Self::new(400, "InvalidRequestContentException", message)
        }
    }

    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestTooLargeException",
            format!("Request must be smaller than {limit} bytes for the InvokeFunction operation"),
        )
    }

    pub fn not_found(arn: &str) -> Self {
        Self::new(
            404,
            "ResourceNotFoundException",
            format!("Function not found: {arn}"),
        )
    }

    pub fn unknown_path(what: &str) -> Self {
        Self::new(404, "UnknownOperationException", what.to_owned())
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowedException",
            "This path has no such method; docs/protocols.md lists them.".to_owned(),
        )
    }

    pub fn forbidden(message: &str) -> Self {
        Self::new(403, "AccessDeniedException", message.to_owned())
    }

    pub fn request_timeout() -> Self {
        Self::new(
            408,
            "RequestTimeoutException",
            "The request's body did not arrive in time.".to_owned(),
        )
    }

    pub fn throttled(reason: &str) -> Self {
        let mut error = Self {
            lower_case: true,
            ..Self::new(429, "TooManyRequestsException", "Rate Exceeded.".to_owned())
        };
        error.extra.insert("Reason".to_owned(), json!(reason));
        error
    }

    /// Another deployment of the same function is under way.
    pub fn conflict(message: String) -> Self {
        Self::new(409, "ResourceConflictException", message)
    }

    /// The node's own fault.
    pub fn service(message: String) -> Self {
        Self::new(500, "ServiceException", message)
    }

    pub fn unavailable(message: &str) -> Self {
        Self::new(503, "ServiceUnavailableException", message.to_owned())
    }

    /// The document for the client.
    pub fn body(&self) -> Vec<u8> {
        let mut body = self.extra.clone();
        let origin = if self.status < 500 { "User" } else { "Service" };
        body.insert("Type".to_owned(), json!(origin));
        let key = if self.lower_case {
            "message"
        } else {
            "Message"
        };
        body.insert(key.to_owned(), json!(self.message));
        if self.lower_case {
            body.insert("Message".to_owned(), json!(self.message));
        }
        Value::Object(body).to_string().into_bytes()
    }
}
