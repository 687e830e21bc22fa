//! Web clients of guests: their own packages speak HTTP, the host has the connections and ends TLS.

pub mod connection;
pub mod conversation;
mod egress;
mod judge;
pub mod options;
pub mod rpc;
pub mod tls;
mod watch;
mod x509;

use crate::operation::Engine;
use crate::operation::Refusal;
use nexus_abi::operation::status;
use serde_json::json;
use std::io;

/// What a socket of the guest's own would have raised: Python's class, its number, its text.
#[derive(Clone, Debug)]
pub struct Failure {
    status: i32,
    error: &'static str,
    number: i32,
    message: String,
}

impl Failure {
    pub fn new(error: &'static str, number: i32, message: &str) -> Self {
        let status = if error == "TimeoutError" {
            status::TIMEOUT
        } else {
            status::TRANSPORT
        };
        Self {
            status,
            error,
            number,
            message: message.to_owned(),
        }
    }

    pub fn tls(message: &str) -> Self {
        Self::new("SSLError", 1, message)
    }

    pub fn denied(why: &str) -> Self {
        Self {
            status: status::DENIED,
            error: "PermissionError",
            number: libc::EACCES,
            message: why.to_owned(),
        }
    }

    pub fn is_denied(&self) -> bool {
        self.status == status::DENIED
    }

    /// As gRPC's core words it.
    pub fn as_core(&self, host: &str, port: u16) -> String {
        match self.error {
            "gaierror" => format!(
                "errors resolving {host}:{port}: [field:hostname lookup error:address lookup failed for {host}:{port}: \
                 Domain name not found]"
            ),
            _ if self.is_denied() => self.message.clone(),
            "OSError" => {
                let text = self.message.split(" (os error").next().unwrap_or_default();
                format!(
                    "failed to connect to all addresses; last error: UNKNOWN: ipv4:{host}:{port}: Failed to connect to \
                     remote host: {text}"
                )
            }
            _ => format!(
                "failed to connect to all addresses; last error: UNKNOWN: ipv4:{host}:{port}: {}",
                self.message
            ),
        }
    }

    pub fn system(error: &io::Error) -> Self {
        let number = error.raw_os_error().unwrap_or(libc::ECONNRESET);
        Self::new("OSError", number, &error.to_string())
    }

    /// A name that was not resolved, as getaddrinfo says it.
    pub fn name(error: &io::Error) -> Self {
        let text = error.to_string();
        let known = [
            (-3, "Temporary failure in name resolution"),
            (-5, "No address associated with hostname"),
            (-4, "Non-recoverable failure in name resolution"),
        ];
        let (number, text) = known
            .into_iter()
            .find(|(_, known)| text.ends_with(known))
            .unwrap_or((-2, "Name or service not known"));
        Self::new("gaierror", number, text)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        let head = json!({
            "error": failure.error,
            "errno": failure.number,
            "message": failure.message,
            "endpoint": "",
        });
        Self {
            status: failure.status,
            head: head.to_string().into_bytes(),
        }
    }
}
