//! Layout of the arena: offsets in bytes from its start. All integers are little endian.

/// First eight bytes of every arena.
pub const MAGIC: u64 = u64::from_le_bytes(*b"NEXUSARN");
/// Version of this layout. A peer that finds another one refuses to run.
pub const VERSION: u32 = 1;

/// Offsets in the control page. Each index has a cache line of its own.
pub mod control {
    /// `u64`: [`super::MAGIC`]. Written by the backend before the guest runs; never read back.
    pub const MAGIC: usize = 0x00;
    /// `u32`: [`super::VERSION`].
    pub const VERSION: usize = 0x08;
    /// `u32`: size of the whole arena in bytes.
    pub const ARENA_SIZE: usize = 0x0c;
    /// `u32`, written by the guest: number of submissions ever made (wraps).
    pub const SUBMIT_TAIL: usize = 0x40;
    /// `u32`, written by the backend: number of submissions ever taken (wraps).
    pub const SUBMIT_HEAD: usize = 0x80;
    /// `u32`, written by the backend: number of completions ever made (wraps).
    pub const COMPLETE_TAIL: usize = 0xc0;
    /// `u32`, written by the guest: number of completions ever taken (wraps).
    pub const COMPLETE_HEAD: usize = 0x100;
    /// `u64`, counted by the hypervisor: exits of the microVM's threads to it (wraps). The guest can write it: for measurement
    /// only.
    pub const EXITS: usize = 0x140;
    /// `u32`, counted by the backend: how often it has told a microVM's hypervisor of completions (wraps). A futex between the
    /// two. The guest can write it, and so lose or make up wake-ups of its own.
    pub const SIGNALS: usize = 0x180;
    /// `u32`, written by the guest: from this offset on the heap holds nothing, and the hypervisor may give its memory back when
    /// the guest rests. 0: the guest does not tell, or the hypervisor has done so since.
    pub const HELD_UNTIL: usize = 0x1c0;
}

/// Offset of the submission ring.
pub const SUBMIT_RING: usize = 0x1000;
/// Offset of the completion ring.
pub const COMPLETE_RING: usize = 0x2000;
/// Offset of the guest's last words: what its standard output and its standard error hold of a line that has not ended. The
/// backend logs them where the guest ends before it writes that line itself.
pub const LAST_WORDS: usize = 0x3000;
/// Bytes for each of the two: a `u32`, the text's length, then the text.
pub const LAST_WORDS_SIZE: usize = 0x800;
/// Entries in each ring. A guest keeps at most this many submissions in flight, so that the completion
/// ring can never overflow.
pub const RING_ENTRIES: u32 = 64;
/// Size in bytes of one entry of either ring.
pub const ENTRY_SIZE: usize = 64;
/// Offset of the payload heap, which reaches to the end of the arena.
pub const HEAP: usize = 0x4000;
/// Size in bytes of an arena where nobody asks for another. Pages cost memory only once touched.
pub const DEFAULT_SIZE: usize = 8 << 20;
/// Smallest and largest size of an arena; both multiples of 2 MiB, since a memslot covers it.
pub const MIN_SIZE: usize = 2 << 20;
/// See [`MIN_SIZE`].
pub const MAX_SIZE: usize = 1 << 30;

const _: () = assert!(LAST_WORDS + 2 * LAST_WORDS_SIZE == HEAP);
const _: () = assert!(RING_ENTRIES as usize * ENTRY_SIZE <= 0x1000);
const _: () = assert!(DEFAULT_SIZE.is_multiple_of(MIN_SIZE) && MAX_SIZE <= u32::MAX as usize);

/// Byte offsets of the fields of a submission entry.
pub mod submission {
    /// `u64`: the guest's tag, repeated in the completion. Unique among those in flight.
    pub const ID: usize = 0;
    /// `u16`: one of [`crate::operation`].
    pub const OPERATION: usize = 8;
    /// `u16`: flags of the operation.
    pub const FLAGS: usize = 10;
    /// `u32`: offset of the request's head (JSON) in the arena.
    pub const HEAD_OFFSET: usize = 12;
    /// `u32`: its length in bytes.
    pub const HEAD_LENGTH: usize = 16;
    /// `u32`: offset of the request's body.
    pub const BODY_OFFSET: usize = 20;
    /// `u32`: its length in bytes.
    pub const BODY_LENGTH: usize = 24;
    /// `u32`: offset of the room for the reply.
    pub const ROOM_OFFSET: usize = 28;
    /// `u32`: its length in bytes.
    pub const ROOM_LENGTH: usize = 32;
    /// `u32`: milliseconds after which the backend gives up; 0: the backend's own limit.
    pub const TIMEOUT_MS: usize = 36;
    /// `u64`: the stream that BODY, READ and CLOSE are about; else 0.
    pub const STREAM: usize = 40;
    /// Sixteen bytes that must be zero.
    pub const RESERVED: usize = 48;
}

/// Byte offsets of the fields of a completion entry.
pub mod completion {
    /// `u64`: the submission's tag.
    pub const ID: usize = 0;
    /// `i32`: 0, or one of [`crate::operation::status`].
    pub const STATUS: usize = 8;
    /// `u32`: [`crate::operation::MORE`] or 0.
    pub const FLAGS: usize = 12;
    /// `u32`: offset of the reply's head (JSON), inside the room.
    pub const HEAD_OFFSET: usize = 16;
    /// `u32`: its length in bytes.
    pub const HEAD_LENGTH: usize = 20;
    /// `u32`: offset of the reply's body, inside the room.
    pub const BODY_OFFSET: usize = 24;
    /// `u32`: its length in bytes.
    pub const BODY_LENGTH: usize = 28;
    /// `u64`: where MORE is set, the stream to READ the rest of the body from.
    pub const STREAM: usize = 32;
    /// `u64`: length of the whole body in bytes, or [`super::UNKNOWN_LENGTH`].
    pub const TOTAL_LENGTH: usize = 40;
}

/// A body's length that is not known before its end.
pub const UNKNOWN_LENGTH: u64 = u64::MAX;
/// In a room the head comes first; the body begins at the next multiple of this after the head.
pub const BODY_ALIGNMENT: usize = 64;
