//! One call at a time over an arena's two rings. `unsafe`: the arena is shared memory, which the host may write at any moment.

use nexus_abi::arena::{
    BODY_ALIGNMENT, COMPLETE_RING, ENTRY_SIZE, HEAP, RING_ENTRIES, SUBMIT_RING, completion,
    control, submission,
};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
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
    fn submit(
        &self,
        identity: u64,
        operation: u16,
        offset: usize,
        held: usize,
        room_min: usize,
        room_max: usize,
        head: &[u8],
        body: PyBuffer<u8>,
    ) -> PyResult<usize> {
        let length = body.len_bytes();
        let body_start = head.len().next_multiple_of(BODY_ALIGNMENT);
        // A body that lies in the arena stays there.
        let lent = (body.buf_ptr() as usize)
            .checked_sub(self.at(0) as usize)
            .filter(|at| length > 0 && *at < self.arena.len_bytes());
        let own = if lent.is_some() { 0 } else { length };
        let fixed = body_start + own.next_multiple_of(BODY_ALIGNMENT);
        if fixed == 0
            || held.checked_sub(fixed).is_none_or(|room| room < room_min)
            || !body.is_c_contiguous()
        {
            return Ok(0);
        }
        let room = (held - fixed).min(room_max);
        self.inside(offset, held)?;
        self.put(offset, head);
        // SAFETY: a contiguous buffer of `length` bytes, which it keeps while it is held; `inside` has looked at the target.
        unsafe {
            self.at(offset + body_start)
                .copy_from(body.buf_ptr().cast(), own)
        };
        let tail = self.index(control::SUBMIT_TAIL);
        let position = tail.load(Ordering::Relaxed);
        let entry = SUBMIT_RING + slot(position);
        let placed = |at: usize, length: usize| if length == 0 { 0 } else { at };
        let mut bytes = [0u8; ENTRY_SIZE];
        let mut set = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        set(submission::ID, &identity.to_le_bytes());
        set(submission::OPERATION, &operation.to_le_bytes());
        for (at, value) in [
            (submission::HEAD_OFFSET, placed(offset, head.len())),
            (submission::HEAD_LENGTH, head.len()),
            (
                submission::BODY_OFFSET,
                placed(lent.unwrap_or(offset + body_start), length),
            ),
            (submission::BODY_LENGTH, length),
            (submission::ROOM_OFFSET, placed(offset + fixed, room)),
            (submission::ROOM_LENGTH, room),
        ] {
            set(at, &u32::try_from(value)?.to_le_bytes());
        }
        self.put(entry, &bytes);
        tail.store(position.wrapping_add(1), Ordering::Release);
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
        let head = self.index(control::COMPLETE_HEAD);
        let position = head.load(Ordering::Relaxed);
        if self.index(control::COMPLETE_TAIL).load(Ordering::Acquire) == position {
            return Ok(None);
        }
        let entry = COMPLETE_RING + slot(position);
        let small_field = |at: usize| u32::from_le_bytes(self.get(entry + at));
        let large_field = |at: usize| u64::from_le_bytes(self.get(entry + at));
        if large_field(completion::ID) != identity {
            return Ok(None);
        }
        let place = |offset: usize, length: usize| {
            (small_field(offset) as usize, small_field(length) as usize)
        };
        let (text, text_length) = place(completion::HEAD_OFFSET, completion::HEAD_LENGTH);
        let (body, length) = place(completion::BODY_OFFSET, completion::BODY_LENGTH);
        let apart = |at: usize, length: usize| length > 0 && (at < start || at + length > end);
        if apart(text, text_length) || apart(body, length) {
            return Ok(None); // whoever takes it next says so
        }
        self.inside(start, end.saturating_sub(start))?;
        let flags = small_field(completion::FLAGS);
        let mut bytes = vec![0u8; text_length];
        // SAFETY: `inside` and `apart` have looked at the place, where there is text; the target is fresh.
        unsafe {
            bytes
                .as_mut_ptr()
                .copy_from_nonoverlapping(self.at(text), text_length)
        };
        let text = PyString::from_bytes(py, &bytes)?;
        let copied = length > 0 && length <= small && flags & nexus_abi::operation::MORE == 0;
        let data = copied.then(|| {
            PyBytes::new_with(py, length, |target| {
                // SAFETY: as above; `target` is fresh.
                unsafe {
                    target
                        .as_mut_ptr()
                        .copy_from_nonoverlapping(self.at(body), length)
                };
                Ok(())
            })
        });
        let taken = (
            i32::from_le_bytes(self.get(entry + completion::STATUS)),
            flags,
            text,
            data.transpose()?,
            body,
            length,
            large_field(completion::STREAM),
            large_field(completion::TOTAL_LENGTH),
        );
        head.store(position.wrapping_add(1), Ordering::Release);
        Ok(Some(taken))
    }
}

impl Line {
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
