//! Bodies that become `bytes` where they lie in the arena. `unsafe`: an object is made in memory that the interpreter's allocator
//! does not own. Its end is seen by a hook for the C library's allocations, where the interpreter takes large objects from.

use nexus_abi::arena::HEAP;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi::{PyBytes_AsString, PyObject};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::ffi::{c_int, c_void};
use std::ptr::{self, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// `PyMemAllocatorEx`, the same since Python 3.5.
#[repr(C)]
#[derive(Clone, Copy)]
struct Allocator {
    ctx: *mut c_void,
    malloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void,
    calloc: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void,
    realloc: unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void, *mut c_void),
}

// SAFETY: an allocator of this domain is for every thread, and what its pointer leads to is its own business.
unsafe impl Send for Allocator {}
// SAFETY: as above.
unsafe impl Sync for Allocator {}

/// `PYMEM_DOMAIN_RAW`: where the default allocator takes what is larger than 512 bytes from.
const RAW: c_int = 0;

// Public, but not of the stable interface; every CPython has them.
unsafe extern "C" {
    fn PyMem_GetAllocator(domain: c_int, allocator: *mut Allocator);
    fn PyMem_SetAllocator(domain: c_int, allocator: *const Allocator);
}

/// Words before an object's bytes: its count, type, length and hash.
const HEADER: usize = 4;
const HEADER_BYTES: usize = HEADER * size_of::<usize>();
const LENGTH: usize = 2;
/// Bytes of the object by which it is found out what objects are.
const PROBE: usize = 4096;
const DIFFERENT: &str = "this interpreter allocates in another way";

/// What is known of this interpreter.
struct Interpreter {
    /// The allocator that there was.
    inner: Allocator,
    /// The header of a `bytes` object that nobody else knows yet.
    header: [usize; HEADER],
}

static INTERPRETER: OnceLock<Interpreter> = OnceLock::new();
/// The arena that is lent from: its first address, and the one behind its last.
static FIRST: AtomicUsize = AtomicUsize::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);
/// Objects in it, those counted that have ended and were not told yet.
static LENT: AtomicUsize = AtomicUsize::new(0);
/// Objects that are no more: the first word of each is the address of the next.
static RETURNED: AtomicPtr<usize> = AtomicPtr::new(null_mut());
/// The object by which the allocator's ways are being found out; 0 once the allocator has been given it.
static AWAITED: AtomicUsize = AtomicUsize::new(0);
/// The allocator below the one that finds out.
static PROBED: OnceLock<Allocator> = OnceLock::new();

/// Makes `bytes` of what lies in an arena's heap, without a copy, and tells when they are no more.
///
/// A process lends from one arena at a time, which stays mapped from then on. The interpreter's lock is held throughout.
#[pyclass(frozen, module = "nexus.guest.device._native")]
pub struct Loans {
    arena: PyBuffer<u8>,
}

#[pymethods]
impl Loans {
    /// `arena`: a writable buffer of the whole arena. Raises RuntimeError where this interpreter's objects are not what they are known
    /// as here, or while objects lie in another arena.
    #[new]
    fn new(arena: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<u8>::get(arena)?;
        if buffer.readonly() || !buffer.is_c_contiguous() || buffer.len_bytes() < HEAP {
            return Err(PyValueError::new_err("not an arena"));
        }
        if INTERPRETER.get().is_none() {
            install(arena.py())?;
        }
        let first = buffer.buf_ptr() as usize;
        if FIRST.load(Ordering::Relaxed) != first {
            if LENT.load(Ordering::Relaxed) > 0 {
                return Err(PyRuntimeError::new_err("another arena lends"));
            }
            FIRST.store(first, Ordering::Relaxed);
            LAST.store(first + buffer.len_bytes(), Ordering::Relaxed);
            // A lent object may be the last that there is.
            std::mem::forget(PyBuffer::<u8>::get(arena)?);
        }
        Ok(Self { arena: buffer })
    }

    /// Bytes that an object needs behind its last byte.
    #[classattr]
    const BEHIND: usize = 1;

    /// The `length` bytes at `offset`, which with those before and behind them are the object's until `returned` tells `offset`.
    /// None while something else, a tracer perhaps, sees to what is freed.
    fn lend<'py>(
        &self,
        py: Python<'py>,
        offset: usize,
        length: usize,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let end = offset
            .checked_add(length)
            .filter(|end| *end < self.arena.len_bytes());
        let base = self.arena.buf_ptr().cast::<u8>();
        let (Some(interpreter), Some(end), true) = (
            INTERPRETER.get(),
            end,
            offset >= HEAP + HEADER_BYTES
                && offset.is_multiple_of(HEADER_BYTES)
                && FIRST.load(Ordering::Relaxed) == base as usize,
        ) else {
            return Err(PyValueError::new_err(format!(
                "{length} bytes at {offset:#x} cannot be lent"
            )));
        };
        if current().free as usize != give_back as *const () as usize {
            return Ok(None);
        }
        let mut header = interpreter.header;
        header[LENGTH] = length;
        LENT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the place is in the arena, as was just looked at, and the caller's. What is there then is an object of
        // one reference, which is handed on.
        unsafe {
            base.wrapping_add(end).write(0);
            let object = base.wrapping_add(offset - HEADER_BYTES);
            ptr::copy_nonoverlapping(header.as_ptr().cast(), object, HEADER_BYTES);
            Ok(Some(
                Bound::from_owned_ptr(py, object.cast::<PyObject>())
                    .cast_into_unchecked::<PyBytes>(),
            ))
        }
    }

    /// Offsets of what is not lent any more, since they were asked for last.
    fn returned(&self) -> Vec<usize> {
        let mut offsets = Vec::new();
        if FIRST.load(Ordering::Relaxed) != self.arena.buf_ptr() as usize {
            return offsets;
        }
        let mut object = RETURNED.swap(null_mut(), Ordering::Acquire);
        while !object.is_null() {
            offsets.push(object as usize - self.arena.buf_ptr() as usize + HEADER_BYTES);
            // SAFETY: `give_back` has put this object into the list, and it is nobody else's now.
            object = unsafe { object.read() } as *mut usize;
        }
        LENT.fetch_sub(offsets.len(), Ordering::Relaxed);
        offsets
    }

    /// The offset of an object that is lent, 0 for any other.
    fn offset(&self, object: &Bound<'_, PyAny>) -> usize {
        let first = self.arena.buf_ptr() as usize;
        match (object.as_ptr() as usize).checked_sub(first) {
            Some(offset) if offset < self.arena.len_bytes() => offset + HEADER_BYTES,
            _ => 0,
        }
    }
}

/// Find out whether large `bytes` are what they are known as, and whether their end can be seen; if so, see it from now on.
fn install(py: Python<'_>) -> PyResult<()> {
    // Its end would take our hook away.
    let tracer = py.import("_tracemalloc");
    if tracer.is_ok_and(|tracer| is_tracing(&tracer)) {
        return Err(PyRuntimeError::new_err("allocations are traced"));
    }
    let inner = current();
    // Once: what it hands on to may be another allocator the next time.
    if PROBED.set(inner).is_err() {
        return Err(PyRuntimeError::new_err(DIFFERENT));
    }
    let seen = Allocator { free: see, ..inner };
    // SAFETY: it differs from what was there by handing on what it was given.
    unsafe { PyMem_SetAllocator(RAW, &raw const seen) };
    let object = PyBytes::new(py, &[0; PROBE]);
    let address = object.as_ptr();
    // SAFETY: an object with so many bytes behind its words, whichever they are.
    let (header, bytes) = unsafe {
        (
            address.cast::<[usize; HEADER]>().read(),
            PyBytes_AsString(address) as usize,
        )
    };
    let kind = object.get_type().as_ptr() as usize;
    AWAITED.store(address as usize, Ordering::Relaxed);
    drop(object);
    let known = bytes == address as usize + HEADER_BYTES
        && header[0] as u32 == 1
        && header[1] == kind
        && header[LENGTH] == PROBE
        && AWAITED.load(Ordering::Relaxed) == 0;
    if !known {
        // SAFETY: it was there before.
        unsafe { PyMem_SetAllocator(RAW, &raw const inner) };
        return Err(PyRuntimeError::new_err(DIFFERENT));
    }
    INTERPRETER.get_or_init(|| Interpreter { inner, header });
    let lending = Allocator {
        realloc: move_out,
        free: give_back,
        ..inner
    };
    // SAFETY: it differs from what was there for what lies in the arena alone, where the other allocates nothing.
    unsafe { PyMem_SetAllocator(RAW, &raw const lending) };
    Ok(())
}

fn is_tracing(tracer: &Bound<'_, PyModule>) -> bool {
    let answer = tracer.call_method0("is_tracing");
    answer.and_then(|answer| answer.extract()).unwrap_or(true)
}

/// The allocator of the moment.
fn current() -> Allocator {
    let mut allocator = std::mem::MaybeUninit::<Allocator>::uninit();
    // SAFETY: it fills in all of its argument.
    unsafe {
        PyMem_GetAllocator(RAW, allocator.as_mut_ptr());
        allocator.assume_init()
    }
}

unsafe extern "C" fn see(ctx: *mut c_void, memory: *mut c_void) {
    // Other threads free things meanwhile.
    if memory as usize == AWAITED.load(Ordering::Relaxed) {
        AWAITED.store(0, Ordering::Relaxed);
    }
    if let Some(inner) = PROBED.get() {
        // SAFETY: as we were called.
        unsafe { (inner.free)(ctx, memory) };
    }
}

/// Bytes from an object to the end of the arena that it lies in; `None`: it lies elsewhere.
fn lent(memory: *mut c_void) -> Option<usize> {
    let address = memory as usize;
    let last = LAST.load(Ordering::Relaxed);
    (address >= FIRST.load(Ordering::Relaxed) && address < last).then(|| last - address)
}

unsafe extern "C" fn give_back(ctx: *mut c_void, memory: *mut c_void) {
    if lent(memory).is_none() {
        if let Some(interpreter) = INTERPRETER.get() {
            // SAFETY: as we were called; it is not ours.
            unsafe { (interpreter.inner.free)(ctx, memory) };
        }
        return;
    }
    let object = memory.cast::<usize>();
    let mut next = RETURNED.load(Ordering::Relaxed);
    loop {
        // SAFETY: an object of ours that has ended: its words are free.
        unsafe { object.write(next as usize) };
        match RETURNED.compare_exchange_weak(next, object, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => next = other,
        }
    }
}

unsafe extern "C" fn move_out(ctx: *mut c_void, memory: *mut c_void, size: usize) -> *mut c_void {
    let Some(interpreter) = INTERPRETER.get() else {
        return null_mut(); // never: it was there before this function was
    };
    let Some(readable) = lent(memory) else {
        // SAFETY: as we were called; it is not ours.
        return unsafe { (interpreter.inner.realloc)(ctx, memory, size) };
    };
    // SAFETY: as any allocation; what is copied lies in the arena and in what was allocated; and then the object has moved.
    unsafe {
        let moved = (interpreter.inner.malloc)(ctx, size);
        if !moved.is_null() {
            moved
                .cast::<u8>()
                .copy_from_nonoverlapping(memory.cast(), size.min(readable));
            give_back(ctx, memory);
        }
        moved
    }
}
