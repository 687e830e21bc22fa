//! Bodies that come in parts: BODY submissions on their way to the request they belong to.

use crate::completer::{Answer, Completer};
use crate::raw::{Part, RawSlice};
use crate::ring::Submission;
use crate::stream::no_stream;
use nexus_abi::operation::{MORE_BODY, status};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Parts of one body that may wait for the network: they lie in the guest's heap, and it can have no more in flight.
const WAITING_PARTS: usize = nexus_abi::arena::RING_ENTRIES as usize;

/// What the parts of one body go to.
#[derive(Debug)]
enum Target {
    /// A request to a server.
    Request(mpsc::Sender<Part>),
    /// The outcome of an event, collected here.
    Outcome(Vec<u8>),
}

/// The bodies in parts of one channel, by the id of the submission they belong to.
#[derive(Debug, Default)]
pub struct Uploads(HashMap<u64, Target>);

/// Largest outcome that is collected, in bytes: beyond Lambda's limit, so that the runtime can say so.
const MAX_OUTCOME: usize = 8 << 20;

/// What came of a BODY submission.
#[derive(Debug)]
pub enum Progress {
    /// It is completed, or a task of its own will complete it.
    Done,
    /// It will be completed once this part is used.
    Waiting(oneshot::Receiver<()>),
    /// An outcome is whole; the id is its NEXT's.
    Outcome(u64, Vec<u8>),
}

impl Uploads {
    /// A request whose body will follow.
    pub fn request(&mut self, id: u64) -> mpsc::Receiver<Part> {
        let (sender, receiver) = mpsc::channel(WAITING_PARTS);
        self.0
            .retain(|_, target| !matches!(target, Target::Request(s) if s.is_closed()));
        self.0.insert(id, Target::Request(sender));
        receiver
    }

    /// An outcome that will follow.
    pub fn outcome(&mut self, id: u64) {
        self.0.insert(id, Target::Outcome(Vec::new()));
    }

    /// CLOSE with STREAM_BODY: the request never becomes whole.
    pub fn give_up(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// A part. `bytes` is its place in the arena.
    ///
    /// # Errors
    /// An outcome that is too large.
    pub fn part(
        &mut self,
        completer: &Completer,
        submission: &Submission,
        bytes: RawSlice,
    ) -> Result<Progress, String> {
        let id = submission.stream;
        let last = submission.flags & MORE_BODY == 0;
        match self.0.get_mut(&id) {
            None => {
                no_stream(completer, submission);
                Ok(Progress::Done)
            }
            Some(Target::Outcome(collected)) => {
                if collected.len() + bytes.len() > MAX_OUTCOME {
                    return Err(format!(
                        "the outcome of an event has more than {MAX_OUTCOME} bytes"
                    ));
                }
                collected.extend_from_slice(&bytes.to_vec());
                completer.complete(submission, &Answer::default());
                if !last {
                    return Ok(Progress::Done);
                }
                match self.0.remove(&id) {
                    Some(Target::Outcome(collected)) => Ok(Progress::Outcome(id, collected)),
                    _ => Ok(Progress::Done),
                }
            }
            Some(Target::Request(sender)) => {
                // In the order of the submissions, whatever becomes of their tasks.
                let (part, used) = Part::new(bytes, last);
                let accepted = sender.try_send(part).is_ok();
                if last {
                    self.0.remove(&id);
                }
                if accepted {
                    return Ok(Progress::Waiting(used));
                }
                no_stream(completer, submission);
                Ok(Progress::Done)
            }
        }
    }
}

/// Complete a part's submission when it has been used.
pub async fn deliver(
    completer: Arc<Completer>,
    submission: Submission,
    used: oneshot::Receiver<()>,
) {
    let done = async { used.await.is_ok() };
    let done = match submission.timeout_ms {
        0 => Ok(done.await),
        ms => tokio::time::timeout(Duration::from_millis(u64::from(ms)), done).await,
    };
    match done {
        Ok(true) => completer.complete(&submission, &Answer::default()),
        // The request has ended, and its own completion says why.
        Ok(false) => no_stream(&completer, &submission),
        // The part is on its way still: whoever gives up on it gives the whole body up.
        Err(_) => completer.refuse(&submission, status::TIMEOUT, "TimeoutError", "timed out"),
    }
}
