//! One call at a time over an arena's two rings. `unsafe`: the arena is shared memory, which the host may write at any moment.

use crate::request::Head;
use nexus_abi::arena::{
    BODY_ALIGNMENT, COMPLETE_RING, ENTRY_SIZE, HEAP, RING_ENTRIES, SUBMIT_RING, completion,
    control, submission,
};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::ffi::{PyBytes_AsString, PyBytes_FromStringAndSize};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::ptr::null;
use std::sync::atomic::{AtomicU32, Ordering};

/// Status, flags, head (JSON), body where it was copied out, its offset and length in bytes, stream, length of the whole body.
type Taken<'py> = (
    i32,
    u32,
    Bound<'py, PyString>,
    Option<Bound<'py, PyBytes>>,
    usize,
    usize,
    u64,
    u64,
);

/// The rings and the heap of one arena, seen from the guest.
///
/// The interpreter's lock is held throughout, so what is done here is one step for every other thread.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Line {
    // Keeps the mapping where it is.
    arena: PyBuffer<u8>,
}

#[pymethods]
impl Line {
    /// `arena`: a writable buffer of the whole arena.
    #[new]
    fn new(arena: PyBuffer<u8>) -> PyResult<Self> {
        if arena.readonly() || !arena.is_c_contiguous() || arena.len_bytes() < HEAP {
            return Err(PyValueError::new_err("not an arena"));
        }
        Ok(Self { arena })
    }

    /// Write a request into the heap at `offset` and publish its submission; what is left of `held` bytes there, up to `room_max`,
    /// is the reply's room. A body that is lent is not copied, and has to stay. Returns the bytes that the request takes, or 0, and has
    /// done nothing, where not even `room_min` are left.
    #[expect(clippy::too_many_arguments, reason = "a submission has as many fields")]
    #[pyo3(signature = (identity, operation, offset, held, room_min, room_max, head, body, flags=0))]
    fn submit(
        &self,
        identity: u64,
        operation: u16,
        offset: usize,
        held: usize,
        room_min: usize,
        room_max: usize,
        head: &Bound<'_, PyAny>,
        body: PyBuffer<u8>,
        flags: u16,
    ) -> PyResult<usize> {
        let head = match head.cast_exact::<Head>() {
            Ok(made) => made.get().json.as_bytes(),
            Err(_) => head.cast::<PyBytes>()?.as_bytes(),
        };
        if !body.is_c_contiguous() {
            return Ok(0);
        }
        let bytes = match body.len_bytes() {
            0 => &[][..],
            // SAFETY: a contiguous buffer, which stays one while it is held; what lies in the arena is not looked at.
            length => unsafe { std::slice::from_raw_parts(body.buf_ptr().cast(), length) },
        };
        let own = if self.lies_in(bytes) { 0 } else { bytes.len() };
        let fixed = Self::taken_by(head.len(), own);
        if fixed == 0 || held.checked_sub(fixed).is_none_or(|room| room < room_min) {
            return Ok(0);
        }
        let kind = (operation, flags);
        self.publish(identity, kind, (offset, held), room_max, head, bytes)?;
        Ok(fixed)
    }

    /// The next completion, if it is that of `identity` and its reply lies between `start` and `end`; its body is copied out where it has
    /// up to `small` bytes and all of it is there. None, and nothing is done, for any other.
    fn take<'py>(
        &self,
        py: Python<'py>,
        identity: u64,
        start: usize,
        end: usize,
        small: usize,
    ) -> PyResult<Option<Taken<'py>>> {
        let Some(reply) = self.reply(identity, start, end)? else {
            return Ok(None);
        };
        let head = reply.head(self);
        let taken = (
            reply.status,
            reply.flags,
            PyString::from_bytes(py, &head)?,
            reply.small(py, self, small)?,
            reply.body,
            reply.length,
            reply.stream,
            reply.total,
        );
        self.taken();
        Ok(Some(taken))
    }
}

/// A completion, and where its reply lies, which is inside the heap.
struct Reply {
    status: i32,
    flags: u32,
    text: usize,
    text_length: usize,
    body: usize,
    length: usize,
    stream: u64,
    total: u64,
}

/// What came of a submission, of which nothing is in the arena any more. Offset and length are where its body was.
pub struct Copied<'py> {
    pub status: i32,
    flags: u32,
    pub head: Vec<u8>,
    pub data: Option<Bound<'py, PyBytes>>,
    pub body: usize,
    pub length: usize,
    stream: u64,
    total: u64,
}

impl<'py> Copied<'py> {
    /// The same as Python has it.
    pub fn taken(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let taken: Taken<'py> = (
            self.status,
            self.flags,
            PyString::from_bytes(py, &self.head)?,
            self.data,
            self.body,
            self.length,
            self.stream,
            self.total,
        );
        Ok(taken.into_pyobject(py)?.into_any())
    }
}

impl Reply {
    fn head(&self, line: &Line) -> Vec<u8> {
        let mut bytes = vec![0u8; self.text_length];
        // SAFETY: `Line::reply` has looked at the place, where there is text; the target is fresh.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(line.at(self.text), self.text_length)
        };
        bytes
    }

    fn whole(&self) -> bool {
        self.flags & nexus_abi::operation::MORE == 0
    }

    /// The body's bytes, where it is there, is whole, and has not more than `most`.
    fn small<'py>(
        &self,
        py: Python<'py>,
        line: &Line,
        most: usize,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if self.length == 0 || self.length > most || !self.whole() {
            return Ok(None);
        }
        let length = self.length.try_into()?;
        // SAFETY: a new object, whose bytes nobody has seen: all of them are written before it is handed on. `Line::reply` has looked
        // at the place that they are from.
        unsafe {
            let object = PyBytes_FromStringAndSize(null(), length);
            let object = Bound::from_owned_ptr_or_err(py, object)?;
            PyBytes_AsString(object.as_ptr())
                .cast::<u8>()
                .copy_from_nonoverlapping(line.at(self.body), self.length);
            Ok(Some(object.cast_into_unchecked()))
        }
    }
}

impl Line {
    /// Bytes of the heap that a request takes.
    pub fn taken_by(head: usize, body: usize) -> usize {
        head.next_multiple_of(BODY_ALIGNMENT) + body.next_multiple_of(BODY_ALIGNMENT)
    }

    /// Whether a body lies in the arena, where it stays.
    pub fn lies_in(&self, body: &[u8]) -> bool {
        let at = (body.as_ptr() as usize).checked_sub(self.at(0) as usize);
        !body.is_empty() && at.is_some_and(|at| at < self.arena.len_bytes())
    }

    /// Write a request to the heap, `held` bytes at `start`, and publish its submission: an operation with its flags.
    pub fn publish(
        &self,
        identity: u64,
        (operation, flags): (u16, u16),
        (offset, held): (usize, usize),
        room_max: usize,
        head: &[u8],
        body: &[u8],
    ) -> PyResult<()> {
        let lent = self.lies_in(body);
        let own = if lent { 0 } else { body.len() };
        let fixed = Self::taken_by(head.len(), own);
        let body_start = offset + fixed - own.next_multiple_of(BODY_ALIGNMENT);
        let room = held.saturating_sub(fixed).min(room_max);
        self.inside(offset, held.max(fixed))?;
        self.put(offset, head);
        // SAFETY: `inside` has looked at the target. What does not lie in the arena does not overlap it.
        unsafe { self.at(body_start).copy_from(body.as_ptr(), own) };
        let tail = self.index(control::SUBMIT_TAIL);
        let position = tail.load(Ordering::Relaxed);
        let entry = SUBMIT_RING + slot(position);
        let placed = |at: usize, length: usize| if length == 0 { 0 } else { at };
        let body_at = if lent {
            body.as_ptr() as usize - self.at(0) as usize
        } else {
            body_start
        };
        let mut bytes = [0u8; ENTRY_SIZE];
        let mut set = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        set(submission::ID, &identity.to_le_bytes());
        set(submission::OPERATION, &operation.to_le_bytes());
        set(submission::FLAGS, &flags.to_le_bytes());
        for (at, value) in [
            (submission::HEAD_OFFSET, placed(offset, head.len())),
            (submission::HEAD_LENGTH, head.len()),
            (submission::BODY_OFFSET, placed(body_at, body.len())),
            (submission::BODY_LENGTH, body.len()),
            (submission::ROOM_OFFSET, placed(offset + fixed, room)),
            (submission::ROOM_LENGTH, room),
        ] {
            set(at, &u32::try_from(value)?.to_le_bytes());
        }
        self.put(entry, &bytes);
        tail.store(position.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// What came of `identity`, whose reply lies between `start` and `end`, where all of it can be copied out: its body has up to `small`
    /// bytes. None, and nothing is done, for any other.
    pub fn copied<'py>(
        &self,
        py: Python<'py>,
        identity: u64,
        start: usize,
        end: usize,
        small: usize,
    ) -> PyResult<Option<Copied<'py>>> {
        let Some(reply) = self.reply(identity, start, end)? else {
            return Ok(None);
        };
        if !reply.whole() || reply.length > small {
            return Ok(None);
        }
        let copied = Copied {
            status: reply.status,
            flags: reply.flags,
            head: reply.head(self),
            data: reply.small(py, self, small)?,
            body: reply.body,
            length: reply.length,
            stream: reply.stream,
            total: reply.total,
        };
        self.taken();
        Ok(Some(copied))
    }

    /// The next completion, if it is that of `identity` and its reply lies between `start` and `end`.
    fn reply(&self, identity: u64, start: usize, end: usize) -> PyResult<Option<Reply>> {
        let position = self.index(control::COMPLETE_HEAD).load(Ordering::Relaxed);
        if self.index(control::COMPLETE_TAIL).load(Ordering::Acquire) == position {
            return Ok(None);
        }
        let entry = COMPLETE_RING + slot(position);
        let small_field = |at: usize| u32::from_le_bytes(self.get(entry + at));
        let large_field = |at: usize| u64::from_le_bytes(self.get(entry + at));
        if large_field(completion::ID) != identity {
            return Ok(None);
        }
        let reply = Reply {
            status: i32::from_le_bytes(self.get(entry + completion::STATUS)),
            flags: small_field(completion::FLAGS),
            text: small_field(completion::HEAD_OFFSET) as usize,
            text_length: small_field(completion::HEAD_LENGTH) as usize,
            body: small_field(completion::BODY_OFFSET) as usize,
            length: small_field(completion::BODY_LENGTH) as usize,
            stream: large_field(completion::STREAM),
            total: large_field(completion::TOTAL_LENGTH),
        };
        let apart = |at: usize, length: usize| length > 0 && (at < start || at + length > end);
        if apart(reply.text, reply.text_length) || apart(reply.body, reply.length) {
            return Ok(None); // whoever takes it next says so
        }
        self.inside(start, end.saturating_sub(start))?;
        Ok(Some(reply))
    }

    /// The next completion is done with.
    fn taken(&self) {
        let head = self.index(control::COMPLETE_HEAD);
        head.store(
            head.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Release,
        );
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.arena.buf_ptr().cast::<u8>().wrapping_add(offset)
    }

    fn inside(&self, offset: usize, length: usize) -> PyResult<()> {
        let end = offset.checked_add(length);
        if offset < HEAP || end.is_none_or(|end| end > self.arena.len_bytes()) {
            return Err(PyValueError::new_err(format!(
                "no {length} bytes of heap at {offset:#x}"
            )));
        }
        Ok(())
    }

    /// An index in the control page.
    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the arena is page-aligned, larger than its control page, and mapped as long as `self` is there.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: callers have looked at the place: the heap's by `inside`, a ring's by `slot`.
        unsafe {
            self.at(offset)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    fn get<const N: usize>(&self, offset: usize) -> [u8; N] {
        // SAFETY: only called for fields of a ring's entry.
        unsafe { self.at(offset).cast::<[u8; N]>().read_volatile() }
    }
}

/// Where a ring's entry lies in it.
fn slot(position: u32) -> usize {
    (position % RING_ENTRIES) as usize * ENTRY_SIZE
}
