//! What one thread at a time has.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The quick half of `Mutex` in `device/mutex.py`, which waits. The interpreter's lock orders all that is done here.
#[pyclass(frozen, subclass, module = "nexus.guest.device._native")]
pub struct Latch {
    taken: AtomicBool,
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
            taken: AtomicBool::new(false),
            waiting: PyList::empty(py).unbind(),
        }
    }

    /// Take it if it is free.
    pub fn try_acquire(&self) -> bool {
        !self.taken.swap(true, Relaxed)
    }

    /// Give it back, and wake one who waits.
    pub fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.taken.store(false, Relaxed);
        let waiting = self.waiting.bind(py);
        if !waiting.is_empty() {
            waiting.call_method0("pop")?.call_method0("release")?;
        }
        Ok(())
    }

    pub fn __enter__(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().try_acquire() {
            slf.call_method0("acquire")?;
        }
        Ok(())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release(py)
    }
}
