//! What goes wrong on the way to a server, by the names that botocore gives it.

use std::io;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No connection could be made.
    Connect,
    ConnectTimeout,
    ReadTimeout,
    /// The connection ended, or what came was not HTTP.
    Closed,
    Tls,
    /// A body ended early.
    Incomplete,
    /// A body arrived whole and is not what its checksum says.
    Checksum,
    /// The address is one that no guest may reach.
    Forbidden,
    /// The guest gave up its own upload, or sent another number of bytes than it said.
    BadUpload,
}

impl Kind {
    /// botocore's exception class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "EndpointConnectionError",
            Self::ConnectTimeout => "ConnectTimeoutError",
            Self::ReadTimeout => "ReadTimeoutError",
            Self::Closed => "ConnectionClosedError",
            Self::Tls => "SSLError",
            Self::Incomplete => "IncompleteReadError",
            Self::Checksum => "FlexibleChecksumError",
            Self::Forbidden => "EndpointDenied",
            Self::BadUpload => "BadUpload",
        }
    }
}

#[derive(Clone, Debug)]
pub struct TransportError {
    pub kind: Kind,
    pub message: String,
}

impl TransportError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub fn closed(error: &io::Error) -> Self {
        Self::new(Kind::Closed, error.to_string())
    }
}
