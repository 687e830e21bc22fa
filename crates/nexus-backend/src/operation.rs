//! The operations that reach a server: from a submission's head to a reply and its body.

mod checksum;
pub mod http_op;
pub mod presign;
mod reader;
pub mod rpc;
pub mod s3;
mod s3_model;
mod s3_table;
mod send;
pub mod web;

pub use checksum::{Algorithm, Checksum};
pub use reader::BodyReader;
pub use send::unsent;

use crate::credentials::Store;
use crate::http::Client;
use crate::http::error::{Kind, TransportError};
use crate::http::url::Url;
use crate::policy::{Denied, Endpoints, Policy};
use crate::prefetch::Prefetcher;
use crate::raw::RequestBody;
use crate::web::connection::Pool;
use crate::web::rpc::Channels;
use crate::web::tls::Tls;
use crate::writes::Writes;
use crate::writes::failure::WriteError;
use crate::{Config, Error, FunctionIdentity};
use bytes::Bytes;
use nexus_abi::operation::{self as abi, status};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Longest time for one operation up to its reply's head: the longest that a Lambda function may run.
pub const LONGEST: Duration = Duration::from_secs(900);

/// What all operations share.
#[derive(Debug)]
pub struct Engine {
    client: Client,
    pub endpoints: Arc<Endpoints>,
    pub(crate) tls: Tls,
    /// Idle connections of web clients.
    pub(crate) idle: Pool,
    /// Connections of gRPC clients.
    pub(crate) channels: Channels,
    credentials: Store,
    region: String,
    pub writes: Writes,
    pub prefetch: Prefetcher,
}

impl Engine {
    /// # Errors
    /// Endpoints or credentials that cannot be used.
    pub fn new(config: &Config) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {
            tls: Tls::default(),
            idle: Pool::default(),
            channels: Channels::default(),
            client: Client::new().map_err(Error::Config)?,
            endpoints: Arc::new(Endpoints::new(&config.endpoints).map_err(Error::Config)?),
            credentials: Store::new(&config.credentials()).map_err(Error::Config)?,
            region: config.region.clone(),
            writes: Writes::default(),
            prefetch: Prefetcher::default(),
        }))
    }

    /// What this function may do.
    pub fn policy<'a>(&'a self, identity: &'a FunctionIdentity) -> Policy<'a> {
        Policy::new(&self.endpoints, &identity.policy)
    }

    /// Whether a URL is this node's own S3 endpoint.
    pub fn is_s3(&self, url: &str) -> bool {
        let own = self.endpoints.of("s3");
        own.is_some_and(|own| Url::parse(url).is_ok_and(|url| url.authority == own.authority))
    }

    /// The region of a function's clients.
    pub fn region_of(&self, identity: &FunctionIdentity) -> String {
        [&identity.region, &self.region]
            .into_iter()
            .find(|region| !region.is_empty())
            .map_or_else(|| "us-east-1".to_owned(), Clone::clone)
    }
}

#[derive(Debug)]
pub struct Reply {
    /// JSON.
    pub head: Vec<u8>,
    pub body: Content,
}

/// Where a reply's body comes from.
#[derive(Debug)]
pub enum Content {
    Http(Box<BodyReader>),
    Memory(Bytes),
    /// So many bytes are where the reply is to be already.
    Placed(usize),
}

/// A completion with a status below 0.
#[derive(Debug)]
pub struct Refusal {
    pub status: i32,
    /// JSON.
    pub head: Vec<u8>,
}

impl Refusal {
    fn new(status: i32, error: &str, message: &str, endpoint: &str) -> Self {
        let head = json!({"error": error, "message": message, "endpoint": endpoint});
        Self {
            status,
            head: head.to_string().into_bytes(),
        }
    }

    fn invalid(message: &str) -> Self {
        Self::new(status::INVALID, "InvalidSubmission", message, "")
    }

    fn denied(why: &Denied, endpoint: &str) -> Self {
        Self::new(status::DENIED, "EndpointDenied", &why.0, endpoint)
    }

    /// A deferred write failed: nothing that could be noticed may happen any more in its invocation.
    pub fn write_failed(error: &WriteError) -> Self {
        let message = format!(
            "a deferred write of this invocation failed: {}",
            error.message
        );
        Self::new(status::DENIED, "DeferredWriteFailed", &message, "")
    }

    /// It was not done in time.
    pub fn late(limit: Duration) -> Self {
        let message = format!("not done within {} s", limit.as_secs_f32());
        Self::new(status::TIMEOUT, "ReadTimeoutError", &message, "")
    }

    fn transport(error: &TransportError, endpoint: &str) -> Self {
        let status = match error.kind {
            Kind::Forbidden => status::DENIED,
            Kind::BadUpload => status::INVALID,
            _ => status::TRANSPORT,
        };
        Self::new(status, error.kind.name(), &error.message, endpoint)
    }
}

/// What a submission asks for, by its head.
#[derive(Debug)]
pub enum Task {
    S3(s3::Head),
    Presign(presign::Head),
    Http(http_op::Head),
}

impl Task {
    /// # Errors
    /// INVALID: the head is none of this operation's.
    pub fn parse(operation: u16, head: &[u8]) -> Result<Self, Refusal> {
        match operation {
            abi::S3 => parse(head).map(Self::S3),
            abi::PRESIGN => parse(head).map(Self::Presign),
            _ => parse(head).map(Self::Http),
        }
    }
}

/// How long an operation may take: what its submission says, or (0) the longest.
pub fn limit(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => LONGEST,
        ms => Duration::from_millis(u64::from(ms)).min(LONGEST),
    }
}

/// Do an operation.
///
/// # Errors
/// It got no answer from a server.
pub async fn execute(
    engine: &Engine,
    identity: &FunctionIdentity,
    task: Task,
    body: RequestBody,
    timeout_ms: u32,
) -> Result<Reply, Refusal> {
    let limit = limit(timeout_ms);
    let work = async {
        match task {
            Task::S3(head) => s3::execute(engine, identity, head, body).await,
            Task::Presign(head) => presign::execute(engine, identity, head),
            Task::Http(head) => http_op::execute(engine, identity, head, body).await,
        }
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Refusal::late(limit)))
}

fn parse<T: DeserializeOwned>(head: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(head).map_err(|error| Refusal::invalid(&format!("the head: {error}")))
}
