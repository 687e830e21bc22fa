//! What one thread at a time has.

use crate::guard::{Guard, this_thread};
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{PyGC_Disable, PyGC_Enable};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};

/// The quick half of `Mutex` in `device/mutex.py`, which waits. The interpreter's lock orders all that is done here.
///
/// While a quiet one is held no garbage is collected, and no handler of a signal runs: a finalizer could make a call, which would wait for
/// this thread.
#[pyclass(frozen, subclass, module = "nexus.guest.device._native")]
pub struct Latch {
    /// The thread that has it; 0: none.
    owner: AtomicI64,
    quiet: OnceLock<Py<Guard>>,
    /// Locks that those who wait have acquired, and wait for again.
    #[pyo3(get)]
    waiting: Py<PyList>,
}

#[pymethods]
impl Latch {
    #[new]
    #[pyo3(signature = (*_arguments))]
    fn new(py: Python<'_>, _arguments: &Bound<'_, PyTuple>) -> Self {
        Self {
            owner: AtomicI64::new(0),
            quiet: OnceLock::new(),
            waiting: PyList::empty(py).unbind(),
        }
    }

    /// Be a quiet one, and a section of `guard` each time.
    fn keep_quiet(&self, guard: Py<Guard>) {
        let _ = self.quiet.set(guard);
    }

    /// In a process that fork made: whoever held it is not there.
    fn abandon(&self) {
        if self.owner.swap(0, Relaxed) != 0 && self.quiet.get().is_some() {
            unhush();
        }
    }

    /// Take it if it is free.
    pub fn try_acquire(&self) -> bool {
        if self.owner.load(Relaxed) != 0 {
            return false;
        }
        self.owner.store(this_thread(), Relaxed);
        if let Some(guard) = self.quiet.get() {
            guard.get().__enter__();
            hush();
        }
        true
    }

    /// Give it back, and wake one who waits; nothing, where it is not held. An error is that of a handler which waited for this.
    pub fn release(&self, py: Python<'_>) -> PyResult<()> {
        if self.owner.swap(0, Relaxed) == 0 {
            return Ok(());
        }
        let quiet = self.quiet.get();
        if quiet.is_some() {
            unhush();
        }
        let waiting = self.waiting.bind(py);
        if !waiting.is_empty() {
            waiting.call_method0("pop")?.call_method0("release")?;
        }
        match quiet {
            Some(guard) => guard.get().leave(py),
            None => Ok(()),
        }
    }

    /// Raises RuntimeError in the thread that has it.
    pub fn __enter__(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().try_acquire() {
            if slf.get().owner.load(Relaxed) == this_thread() {
                return Err(PyRuntimeError::new_err(
                    "a call in the middle of another, of the same thread",
                ));
            }
            slf.call_method0("acquire")?;
        }
        Ok(())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release(py)
    }
}

/// Quiet latches that are held, and whether garbage is to be collected behind the last of them.
static HELD: AtomicUsize = AtomicUsize::new(0);
static COLLECTS: AtomicBool = AtomicBool::new(false);

fn hush() {
    if HELD.fetch_add(1, Relaxed) == 0 {
        // SAFETY: this thread has the interpreter's lock.
        COLLECTS.store(unsafe { PyGC_Disable() } != 0, Relaxed);
    }
}

fn unhush() {
    if HELD.fetch_sub(1, Relaxed) == 1 && COLLECTS.load(Relaxed) {
        // SAFETY: as above.
        unsafe { PyGC_Enable() };
    }
}
