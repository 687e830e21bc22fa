//! The node's communication fabric: serves the arenas of all instances.
//!
//! A [`Channel`] is one instance's arena with its rings; the scheduler hands events to it and takes
//! results from it, and the backend itself serves every I/O operation the guest submits.

mod arena;
mod channel;
mod completer;
mod config;
mod connections;
mod credentials;
mod error;
#[cfg(test)]
mod fuzz;
mod http;
mod operation;
mod policy;
mod prefetch;
mod raw;
mod ring;
mod sigv4;
mod sockets;
mod stream;
mod upload;
mod web;
mod writes;

pub use channel::Channel;
pub use config::Config;
pub use connections::Connections;
pub use credentials::{Source as CredentialsSource, Store as CredentialsStore};
pub use error::Error;
pub use policy::{Document as PolicyDocument, Rules as PolicyRules};
pub use prefetch::{Copies, PrefetchOptions, PrefetchReport, Template};
pub use raw::{Part, RawRoom, RawSlice, RequestBody};
pub use writes::failure::WriteError;
pub use writes::journal::Parked;
pub use writes::scope::{Commit, Scope};
pub use writes::{WriteMode, WriteOptions, WritesStatus};

use arena::Arena;
use bytes::Bytes;
use operation::Engine;
use policy::Allowed;
use serde::Serialize;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What all channels of a node share: connections, credentials, policy.
#[derive(Debug)]
pub struct Backend {
    engine: Arc<Engine>,
}

impl Backend {
    /// # Errors
    /// Credentials or endpoints that cannot be used.
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        let engine = Engine::new(&config)?;
        Ok(Arc::new(Self { engine }))
    }

    /// A new instance's channel, and what its guest side is given. To be called on a tokio runtime.
    ///
    /// # Errors
    /// Out of memory or descriptors.
    pub fn open(
        self: &Arc<Self>,
        identity: FunctionIdentity,
        arena_bytes: usize,
        wake: Wake,
    ) -> Result<(Channel, GuestDescriptors), Error> {
        let (arena, memfd) = Arena::new(arena_bytes)?;
        Channel::open(arena, memfd, Arc::clone(&self.engine), identity, wake)
    }

    /// Keep the journal of deferred writes in `directory`, whose objects are waited for from now on. To be called before the
    /// first instance, on a tokio runtime. Without it, the mode `journal` works as `commit` does.
    ///
    /// # Errors
    /// The disk's, or a journal of another version.
    pub async fn open_journal(&self, directory: &Path) -> Result<(), Error> {
        self.engine
            .writes
            .open_journal(directory)
            .map_err(Error::Config)?;
        writes::replay::start(&self.engine).await;
        Ok(())
    }

    /// The functions are known now: send what the journal holds of an earlier process, each write for its function.
    pub fn resume_writes(
        &self,
        find: impl Fn(&str) -> Option<FunctionIdentity> + Send + Sync + 'static,
    ) {
        self.engine.writes.set_identities(Box::new(find));
    }

    pub fn writes(&self) -> WritesStatus {
        self.engine.writes.status()
    }

    /// Try a parked write again, whatever the object is by now. `false`: there is none of this id.
    ///
    /// # Errors
    /// The journal's.
    pub async fn retry_write(&self, id: i64) -> Result<bool, Error> {
        let done = writes::replay::retry(&self.engine, id).await;
        done.map_err(Error::Config)
    }

    /// Give a parked write up. `false`: there is none of this id.
    ///
    /// # Errors
    /// The journal's.
    pub async fn forget_write(&self, id: i64) -> Result<bool, Error> {
        match self.engine.writes.journal() {
            None => Ok(false),
            Some(journal) => journal.forget(id).await.map_err(Error::Config),
        }
    }

    /// Begin to read what an event lets expect that the function will read; see [`Channel::set_copies`]. `hint` is the
    /// request's `X-Nexus-Prefetch`. To be called on a tokio runtime.
    pub fn prefetch(
        &self,
        identity: &FunctionIdentity,
        options: &PrefetchOptions,
        event: &Bytes,
        hint: Option<&str>,
    ) -> Option<Arc<Copies>> {
        prefetch::begin(&self.engine, identity, options, event, hint)
    }
}

/// Who a channel's I/O is done for. Identity comes from here, never from a message.
#[derive(Clone, Debug)]
pub struct FunctionIdentity {
    pub name: String,
    pub region: String,
    pub policy: Arc<PolicyRules>,
    /// Its own, where it does not use the node's.
    pub credentials: Option<Arc<CredentialsStore>>,
    /// Of all its instances together: operations that may be worked on at a time.
    pub turns: Arc<Semaphore>,
    /// Of all its instances together: connections to the outside that are open.
    pub connections: Arc<Connections>,
    /// Its SDK works in the guest: it reaches the node's endpoints itself, and is handed its credentials.
    pub coupled: bool,
}

impl FunctionIdentity {
    /// One that uses the node's credentials.
    pub fn new(name: &str, region: &str, policy: Arc<PolicyRules>) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            policy,
            credentials: None,
            turns: Arc::new(Semaphore::new(FUNCTION_OPERATIONS)),
            connections: Arc::new(Connections::new(FUNCTION_CONNECTIONS)),
            coupled: false,
        }
    }

    /// Whose kept connections it uses for what is allowed so. `None`: those to the node's endpoints that functions share
    /// which have neither a policy nor credentials of their own.
    pub(crate) fn owner(&self, allowed: &Allowed) -> Option<Arc<str>> {
        let shared = matches!(allowed, Allowed::Configured | Allowed::Aws)
            && self.policy.is_plain()
            && self.credentials.is_none();
        (!shared).then(|| Arc::clone(self.policy.owner()))
    }
}

/// Connections to the outside that one function may have open.
pub const FUNCTION_CONNECTIONS: usize = 4096;
/// Operations of one function that are worked on at a time; more wait for their turn.
pub const FUNCTION_OPERATIONS: usize = 256;

/// How the guest's side is woken for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// By a futex in the arena, which takes no descriptor: a microVM's hypervisor waits for it.
    Futex,
    /// By an eventfd: the guest in a host process polls it itself.
    Eventfd,
}

/// The ends of a channel that belong to the guest side; given to the VMM by inheritance.
#[derive(Debug)]
pub struct GuestDescriptors {
    /// Sealed memfd.
    pub arena: OwnedFd,
    /// eventfd, guest to backend.
    pub doorbell: OwnedFd,
    /// eventfd, backend to guest ([`Wake::Eventfd`]).
    pub completion: Option<OwnedFd>,
    /// SEQPACKET socket: connections to the outside.
    pub network: OwnedFd,
}

/// Head of the reply to NEXT: the invocation (docs/abi.md).
#[derive(Clone, Debug, Serialize)]
pub struct EventHead {
    pub request_id: String,
    /// Unix milliseconds.
    pub deadline_ms: u64,
    pub function_arn: String,
    pub client_context: Option<Value>,
    pub identity: Option<Value>,
    pub trace_id: Option<String>,
}

/// What the guest runtime tells the scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeMessage {
    /// It asks for an event; with the outcome of the one before, if there was one.
    Next(Option<Finished>),
    /// The function could not be initialised (JSON error object).
    InitError(Vec<u8>),
    /// The guest broke the contract; the instance must be ended. The text says how.
    Broken(String),
}

/// Outcome of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The handler raised; `body` is Lambda's error object.
    pub is_error: bool,
    /// JSON.
    pub body: Vec<u8>,
    /// Guest clock, for measurement only.
    pub started_ns: u64,
    pub ended_ns: u64,
}

/// What an instance has asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// S3 and HTTP operations begun.
    pub operations: u64,
    /// Those that failed without an answer from a server.
    pub failures: u64,
    /// Bytes of requests' bodies, and of replies' bodies.
    pub bytes_out: u64,
    pub bytes_in: u64,
    /// Exits of its microVM to the hypervisor; 0 where there is none. The guest can write it: for measurement only.
    pub exits: u64,
}
