//! What a channel and its calls both keep account of.

use pyo3::prelude::*;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Who waits in the kernel, and the heap that is kept for the next call. The twin of `PythonSeat` in `device/seat.py`.
///
/// Changed under the channel's lock; the interpreter's orders what is done here.
#[pyclass(frozen, module = "nexus.guest.device._native")]
#[derive(Default)]
pub struct Seat {
    pub leader: AtomicI64,
    pub last_id: AtomicU64,
    pub start: AtomicUsize,
    pub held: AtomicUsize,
    pub mapped: AtomicUsize,
}

#[pymethods]
impl Seat {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// The thread that leads (ident); 0: none.
    #[getter]
    fn leader(&self) -> i64 {
        self.leader.load(Relaxed)
    }

    #[setter]
    fn set_leader(&self, thread: i64) {
        self.leader.store(thread, Relaxed);
    }

    /// The number of the last submission.
    #[getter]
    fn last_id(&self) -> u64 {
        self.last_id.load(Relaxed)
    }

    #[setter]
    fn set_last_id(&self, identity: u64) {
        self.last_id.store(identity, Relaxed);
    }

    /// Where the heap lies that is kept for the next call (bytes).
    #[getter]
    fn start(&self) -> usize {
        self.start.load(Relaxed)
    }

    /// Bytes that are kept there; 0: none.
    #[getter]
    fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Keep `held` bytes at `start`, where the heap is mapped up to `mapped`.
    pub fn keep(&self, start: usize, held: usize, mapped: usize) {
        self.start.store(start, Relaxed);
        self.held.store(held, Relaxed);
        self.mapped.store(mapped, Relaxed);
    }

    /// Keep nothing any more.
    pub fn leave(&self) {
        self.held.store(0, Relaxed);
    }
}
