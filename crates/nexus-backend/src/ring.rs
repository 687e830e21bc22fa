//! The two rings of an arena, from the host's side.

use crate::arena::Arena;
use nexus_abi::arena::{
    COMPLETE_RING, ENTRY_SIZE, RING_ENTRIES, SUBMIT_RING, completion, control, submission,
};

/// A submission entry as the guest wrote it; its fields are not checked yet.
#[derive(Clone, Copy, Debug)]
pub struct Submission {
    pub id: u64,
    pub operation: u16,
    pub flags: u16,
    pub head: (u32, u32),
    pub body: (u32, u32),
    pub room: (u32, u32),
    pub timeout_ms: u32,
    pub stream: u64,
    pub reserved_is_zero: bool,
}

/// What a completion entry says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Completion {
    pub id: u64,
    pub status: i32,
    pub flags: u32,
    pub head: (u32, u32),
    pub body: (u32, u32),
    pub stream: u64,
    pub total_length: u64,
}

fn slot(ring: usize, index: u32) -> usize {
    ring + (index % RING_ENTRIES) as usize * ENTRY_SIZE
}

/// Consumer of the submission ring. The count of entries taken is ours: the copy in the arena is for the guest.
#[derive(Debug, Default)]
pub struct Submissions {
    taken: u32,
}

impl Submissions {
    /// The next submission, if there is one.
    ///
    /// # Errors
    /// The ring is in an impossible state.
    pub fn take(&mut self, arena: &Arena) -> Result<Option<Submission>, String> {
        let tail = arena.load(control::SUBMIT_TAIL);
        let waiting = tail.wrapping_sub(self.taken);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > RING_ENTRIES {
            return Err(format!(
                "{waiting} submissions wait in a ring of {RING_ENTRIES}"
            ));
        }
        let entry = arena.entry(slot(SUBMIT_RING, self.taken));
        self.taken = self.taken.wrapping_add(1);
        arena.store(control::SUBMIT_HEAD, self.taken);
        Ok(Some(parse(&entry)))
    }
}

fn parse(entry: &[u8; ENTRY_SIZE]) -> Submission {
    let bytes = |at: usize, n: usize| {
        let mut value = [0_u8; 8];
        for (to, from) in value.iter_mut().zip(entry.iter().skip(at).take(n)) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    };
    // Four bytes fit.
    let word = |at: usize| u32::try_from(bytes(at, 4)).unwrap_or(0);
    let half = |at: usize| u16::try_from(bytes(at, 2)).unwrap_or(0);
    Submission {
        id: bytes(submission::ID, 8),
        operation: half(submission::OPERATION),
        flags: half(submission::FLAGS),
        head: (word(submission::HEAD_OFFSET), word(submission::HEAD_LENGTH)),
        body: (word(submission::BODY_OFFSET), word(submission::BODY_LENGTH)),
        room: (word(submission::ROOM_OFFSET), word(submission::ROOM_LENGTH)),
        timeout_ms: word(submission::TIMEOUT_MS),
        stream: bytes(submission::STREAM, 8),
        reserved_is_zero: entry.iter().skip(submission::RESERVED).all(|b| *b == 0),
    }
}

/// Producer of the completion ring.
#[derive(Debug, Default)]
pub struct Completions {
    made: u32,
}

impl Completions {
    /// Completions that the guest has not taken yet.
    ///
    /// # Errors
    /// The ring is in an impossible state.
    pub fn waiting(&self, arena: &Arena) -> Result<u32, String> {
        let waiting = self.made.wrapping_sub(arena.load(control::COMPLETE_HEAD));
        if waiting > RING_ENTRIES {
            return Err(format!(
                "{waiting} completions wait in a ring of {RING_ENTRIES}"
            ));
        }
        Ok(waiting)
    }

    /// Make a completion.
    ///
    /// # Errors
    /// There is no place: the guest had more in flight than it may.
    pub fn push(&mut self, arena: &Arena, c: &Completion) -> Result<(), String> {
        if self.waiting(arena)? >= RING_ENTRIES {
            return Err("the completion ring is full".to_owned());
        }
        let mut entry = [0_u8; ENTRY_SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            for (to, from) in entry.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        put(completion::ID, &c.id.to_le_bytes());
        put(completion::STATUS, &c.status.to_le_bytes());
        put(completion::FLAGS, &c.flags.to_le_bytes());
        put(completion::HEAD_OFFSET, &c.head.0.to_le_bytes());
        put(completion::HEAD_LENGTH, &c.head.1.to_le_bytes());
        put(completion::BODY_OFFSET, &c.body.0.to_le_bytes());
        put(completion::BODY_LENGTH, &c.body.1.to_le_bytes());
        put(completion::STREAM, &c.stream.to_le_bytes());
        put(completion::TOTAL_LENGTH, &c.total_length.to_le_bytes());
        arena.write(slot(COMPLETE_RING, self.made), &entry);
        self.made = self.made.wrapping_add(1);
        arena.store(control::COMPLETE_TAIL, self.made);
        Ok(())
    }
}
