//! Handlers of signals wait while a call keeps account of what it holds.
//!
//! A handler may raise, anywhere between two calls of the interpreter: heap and tickets that were just taken would belong to nobody
//! then, or be half noted. And it may make a call of its own, in the middle of another. So none runs inside a guarded section but
//! while that waits for the backend; it runs at the section's end.

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A handler, and what it is called with: the signal and the frame.
type Late = (Py<PyAny>, Py<PyAny>, Py<PyAny>);

#[derive(Default)]
struct State {
    /// The thread that handlers run in (ident); 0: they are not wrapped, and nothing is guarded.
    thread: i64,
    /// Sections that it is in.
    depth: usize,
    /// The same of those that wait.
    outside: Vec<usize>,
    late: VecDeque<Late>,
}

/// One process's guard: a context manager, a section each. The interpreter's lock orders all that is done here; none of it is held
/// while Python runs.
#[pyclass(frozen, module = "nexus.guest.device._native")]
#[derive(Default)]
pub struct Guard {
    state: Mutex<State>,
}

#[pymethods]
impl Guard {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// From now on handlers are `Deferring`; they run in this thread, the main one.
    fn watch(&self) {
        self.state().thread = this_thread();
    }

    pub fn __enter__(&self) {
        if let Some(mut state) = self.here() {
            state.depth += 1;
        }
    }

    #[pyo3(signature = (*_exception))]
    pub fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.leave(py)
    }
}

impl Guard {
    pub fn leave(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(mut state) = self.here() {
            state.depth = state.depth.saturating_sub(1);
        }
        self.run_late(py)
    }

    /// A wait begins inside a section: handlers run at once. An error is a late handler's, and no wait has begun.
    pub fn wait(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(mut state) = self.here() {
            let depth = std::mem::take(&mut state.depth);
            state.outside.push(depth);
        }
        self.run_late(py).inspect_err(|_| self.waited())
    }

    /// It has ended.
    pub fn waited(&self) {
        if let Some(mut state) = self.here() {
            state.depth = state.outside.pop().unwrap_or(0);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, where this is the thread that counts.
    fn here(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state();
        (state.thread != 0 && state.thread == this_thread()).then_some(state)
    }

    fn run_late(&self, py: Python<'_>) -> PyResult<()> {
        loop {
            let late = match self.here() {
                Some(mut state) if state.depth == 0 => state.late.pop_front(),
                _ => None,
            };
            let Some((handler, signal, frame)) = late else {
                return Ok(());
            };
            handler.call1(py, (signal, frame))?;
        }
    }
}

pub fn this_thread() -> i64 {
    // SAFETY: it asks for nothing.
    unsafe { libc::pthread_self() }.cast_signed()
}

/// A wait inside a section of `guard`: a context manager.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Waiting {
    guard: Py<Guard>,
}

#[pymethods]
impl Waiting {
    #[new]
    fn new(guard: Py<Guard>) -> Self {
        Self { guard }
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        self.guard.get().wait(py)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.guard.get().waited();
    }
}

/// A handler of a signal that waits for the end of a section.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Deferring {
    guard: Py<Guard>,
    /// What the program has set.
    #[pyo3(get)]
    handler: Py<PyAny>,
}

#[pymethods]
impl Deferring {
    #[new]
    fn new(guard: Py<Guard>, handler: Py<PyAny>) -> Self {
        Self { guard, handler }
    }

    fn __call__(&self, py: Python<'_>, signal: Py<PyAny>, frame: Py<PyAny>) -> PyResult<()> {
        if let Some(mut state) = self.guard.get().here()
            && state.depth > 0
        {
            let late = (self.handler.clone_ref(py), signal, frame);
            state.late.push_back(late);
            return Ok(());
        }
        self.handler.call1(py, (signal, frame)).map(|_| ())
    }
}
