//! Completions: made by whatever task served a submission, one at a time.

use crate::Statistics;
use crate::arena::Arena;
use crate::raw::RawRoom;
use crate::ring::{Completion, Completions, Submission};
use nexus_abi::arena::BODY_ALIGNMENT;
use nexus_abi::operation::{MORE, OWN, status};
use serde_json::json;
use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The completion side of one channel.
#[derive(Debug)]
pub struct Completer {
    pub arena: Arc<Arena>,
    /// An eventfd; where there is none, a word of the arena.
    completion: Option<OwnedFd>,
    state: Mutex<State>,
    /// Something here broke; [`Completer::broken`] says what.
    pub failed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ring: Completions,
    in_flight: HashSet<u64>,
    broken: Option<String>,
    statistics: Statistics,
}

/// What a completion carries beside its status.
#[derive(Debug, Default)]
pub struct Answer<'a> {
    pub status: i32,
    /// JSON, or empty.
    pub head: &'a [u8],
    /// Bytes of the body that are in the room already, from [`body_start`] on.
    pub body_length: usize,
    /// The stream with the rest of the body.
    pub more: Option<u64>,
    /// See [`OWN`].
    pub own: bool,
    pub total_length: u64,
}

/// Where in a room the body begins behind a head of this length.
pub fn body_start(head_length: usize) -> usize {
    head_length.next_multiple_of(BODY_ALIGNMENT)
}

impl Completer {
    pub fn new(arena: Arc<Arena>, completion: Option<OwnedFd>) -> Self {
        Self {
            arena,
            completion,
            state: Mutex::default(),
            failed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Take note of a submission.
    ///
    /// # Errors
    /// Its id is in flight, or there would be no place for its completion.
    pub fn begin(&self, id: u64) -> Result<(), String> {
        let mut state = self.lock();
        let waiting = state.ring.waiting(&self.arena)? as usize;
        if waiting + state.in_flight.len() >= nexus_abi::arena::RING_ENTRIES as usize {
            return Err("more submissions are in flight than the completion ring holds".to_owned());
        }
        if !state.in_flight.insert(id) {
            return Err(format!("two submissions in flight have the id {id}"));
        }
        Ok(())
    }

    /// Complete a submission. Its room was checked to be in the heap.
    pub fn complete(&self, submission: &Submission, answer: &Answer<'_>) {
        let (room_offset, room_length) = submission.room;
        let body_offset = body_start(answer.head.len());
        let head = answer
            .head
            .get(..answer.head.len().min(room_length as usize))
            .unwrap_or_default();
        if let Some(room) = self.arena.room(room_offset, room_length) {
            room.write(head);
        }
        // All of these lie in a room, whose length is 32 bits.
        let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let part = |offset: usize, length: usize| match length {
            0 => (0, 0),
            _ => (room_offset.wrapping_add(word(offset)), word(length)),
        };
        let completion = Completion {
            id: submission.id,
            status: answer.status,
            flags: if answer.more.is_some() { MORE } else { 0 } | if answer.own { OWN } else { 0 },
            head: part(0, head.len()),
            body: part(body_offset, answer.body_length),
            stream: answer.more.unwrap_or(0),
            total_length: answer.total_length,
        };
        let mut state = self.lock();
        state.in_flight.remove(&submission.id);
        state.statistics.bytes_in += answer.body_length as u64;
        if let Err(what) = state.ring.push(&self.arena, &completion) {
            state.broken.get_or_insert(what);
            self.failed.notify_one();
            return;
        }
        drop(state);
        self.signal();
    }

    /// Complete a submission with a status below 0.
    pub fn refuse(&self, submission: &Submission, status: i32, error: &str, message: &str) {
        let head = json!({"error": error, "message": message, "endpoint": ""}).to_string();
        self.refuse_with(submission, status, head.as_bytes());
    }

    /// As [`Completer::refuse`], with the head as it is. A head that does not fit is left out.
    pub fn refuse_with(&self, submission: &Submission, status: i32, head: &[u8]) {
        let fits = head.len() <= submission.room.1 as usize;
        let answer = Answer {
            status,
            head: if fits { head } else { &[] },
            ..Answer::default()
        };
        self.lock().statistics.failures += 1;
        self.complete(submission, &answer);
    }

    /// Complete with INVALID.
    pub fn invalid(&self, submission: &Submission, message: &str) {
        self.refuse(submission, status::INVALID, "InvalidSubmission", message);
    }

    /// The room behind a head of this length; `None` where the head does not fit.
    pub fn body_room(&self, submission: &Submission, head_length: usize) -> Option<RawRoom> {
        let (offset, length) = submission.room;
        if head_length > length as usize {
            return None;
        }
        let room = self.arena.room(offset, length)?;
        Some(room.skip(body_start(head_length)))
    }

    fn signal(&self) {
        let Some(eventfd) = &self.completion else {
            return self.arena.signal();
        };
        let one = 1_u64;
        // SAFETY: eight bytes of ours, to an eventfd of ours.
        unsafe {
            libc::write(
                eventfd.as_raw_fd(),
                (&raw const one).cast(),
                size_of::<u64>(),
            );
        }
    }

    /// How the completion side broke, once.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }

    pub fn count_operation(&self, bytes_out: usize) {
        let mut state = self.lock();
        state.statistics.operations += 1;
        state.statistics.bytes_out += bytes_out as u64;
    }

    pub fn statistics(&self) -> Statistics {
        Statistics {
            exits: self.arena.exits(),
            ..self.lock().statistics
        }
    }
}
