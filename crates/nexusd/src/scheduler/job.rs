//! One invocation on its way to an instance, and what comes of it.

use bytes::Bytes;
use nexus_backend::Copies;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An event that waits for an instance, or is handled by one.
#[derive(Debug)]
pub struct Job {
    /// Unique in this process, to find it in a queue again.
    pub id: u64,
    pub request_id: Arc<str>,
    pub event: Bytes,
    pub client_context: Option<serde_json::Value>,
    pub trace_id: Option<String>,
    pub received_ns: u64,
    pub wants_tail: bool,
    /// What is being read ahead for it.
    pub copies: Option<Arc<Copies>>,
    /// It ran before on a state that turned out not to be: now it waits for a certain one.
    pub rerun: bool,
    pub reply: oneshot::Sender<Answer>,
}

/// What the caller is told.
#[derive(Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// Present where the caller asked for it.
    pub tail: Option<Vec<u8>>,
}

#[derive(Debug)]
pub enum Outcome {
    /// What the handler returned (JSON).
    Returned(Vec<u8>),
    /// Lambda's `Unhandled`: an error object (JSON).
    FunctionError(Vec<u8>),
    /// The node failed; the text says how.
    Node(String),
    /// The function was deleted while the event waited.
    Deleted,
}

impl Job {
    pub fn answer(self, outcome: Outcome, tail: Option<Vec<u8>>) {
        // A caller that has gone needs no answer.
        let _ = self.reply.send(Answer { outcome, tail });
    }
}
