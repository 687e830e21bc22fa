//! The node's communication fabric: serves the arenas of all instances.
//!
//! A [`Channel`] is one instance's arena with its rings; the scheduler hands events to it and takes
//! results from it, and the backend itself serves every I/O operation the guest submits.

use std::os::fd::OwnedFd;

/// Who a channel's I/O is done for. Identity comes from here, never from a message.
#[derive(Clone, Debug)]
pub struct FunctionIdentity {
    pub name: String,
    pub region: String,
}

/// The ends of a channel that belong to the guest side; given to the VMM by inheritance.
#[derive(Debug)]
pub struct GuestDescriptors {
    /// Sealed memfd.
    pub arena: OwnedFd,
    /// eventfd, guest to backend.
    pub doorbell: OwnedFd,
    /// eventfd, backend to guest.
    pub completion: OwnedFd,
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
// Agreed surface, to be filled in:
//
//   Backend::new(Config) -> Result<Arc<Backend>, Error>
//   Backend::open(&Arc<Self>, FunctionIdentity, arena_bytes) -> Result<(Channel, GuestDescriptors), Error>
//   Channel::receive(&mut self) -> RuntimeMessage            (async, cancel safe)
//   Channel::deliver(&mut self, head: &EventHead, body: Bytes) -> Result<(), Error>   (async)
//   Channel::statistics(&self) -> Statistics                  operations, bytes, retries
//   drop(Channel): everything in flight of this instance is cancelled
