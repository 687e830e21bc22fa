//! Bytes that somebody else may change meanwhile: addresses with a length, never references. `unsafe`: raw
//! pointers.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use tokio::sync::{mpsc, oneshot};

type Owner = Arc<dyn Any + Send + Sync>;

/// Bytes to read, once. Keeps the memory they are in.
#[derive(Clone, Debug)]
pub struct RawSlice {
    ptr: *const u8,
    len: usize,
    owner: Option<Owner>,
}

// SAFETY: only an address; what is there is read by copies, and the owner is Send and Sync.
unsafe impl Send for RawSlice {}
// SAFETY: as above.
unsafe impl Sync for RawSlice {}

impl RawSlice {
    /// # Safety
    /// `len` bytes at `ptr` must be readable for as long as `owner` lives.
    pub unsafe fn new(ptr: *const u8, len: usize, owner: Owner) -> Self {
        Self {
            ptr,
            len,
            owner: Some(owner),
        }
    }

    pub fn empty() -> Self {
        Self {
            ptr: std::ptr::NonNull::dangling().as_ptr(),
            len: 0,
            owner: None,
        }
    }

    /// Bytes of our own.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let (ptr, len) = (bytes.as_ptr(), bytes.len());
        // The buffer does not move when the vector does.
        Self {
            ptr,
            len,
            owner: Some(Arc::new(bytes)),
        }
    }

    pub fn ptr(&self) -> *const u8 {
        self.ptr
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A copy.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len);
        // SAFETY: readable by the constructor's contract; the vector has the capacity, and every byte of
        // the new length has been written.
        unsafe {
            std::ptr::copy_nonoverlapping(self.ptr, bytes.as_mut_ptr(), self.len);
            bytes.set_len(self.len);
        }
        bytes
    }

    /// Hand the bytes over in copies, a few KiB at a time: for checksums.
    pub fn for_each_copy(&self, mut f: impl FnMut(&[u8])) {
        let mut piece = [0_u8; 8 << 10];
        let mut at = 0;
        while at < self.len {
            let count = piece.len().min(self.len - at);
            // SAFETY: readable by the constructor's contract; `piece` is ours alone and as long.
            unsafe {
                std::ptr::copy_nonoverlapping(self.ptr.add(at), piece.as_mut_ptr(), count);
            }
            f(piece.get(..count).unwrap_or_default());
            at += count;
        }
    }

    /// At most `len` of the bytes from `from` on.
    #[must_use]
    pub fn slice(&self, from: usize, len: usize) -> Self {
        let from = from.min(self.len);
        Self {
            // SAFETY: at most one past the end.
            ptr: unsafe { self.ptr.add(from) },
            len: len.min(self.len - from),
            owner: self.owner.clone(),
        }
    }
}

/// Bytes to write. Keeps the memory they are in.
#[derive(Clone, Debug)]
pub struct RawRoom {
    ptr: *mut u8,
    len: usize,
    owner: Option<Owner>,
}

// SAFETY: only an address; what is there is written by copies, and the owner is Send and Sync.
unsafe impl Send for RawRoom {}
// SAFETY: as above.
unsafe impl Sync for RawRoom {}

impl RawRoom {
    /// # Safety
    /// `len` bytes at `ptr` must be writable for as long as `owner` lives, and nobody may hold a
    /// reference to them.
    pub unsafe fn new(ptr: *mut u8, len: usize, owner: Owner) -> Self {
        Self {
            ptr,
            len,
            owner: Some(owner),
        }
    }

    pub fn empty() -> Self {
        Self {
            ptr: std::ptr::NonNull::dangling().as_ptr(),
            len: 0,
            owner: None,
        }
    }

    /// Memory of our own.
    pub fn own(len: usize) -> Self {
        let owner: Vec<AtomicU8> = std::iter::repeat_with(AtomicU8::default)
            .take(len)
            .collect();
        let ptr = owner.as_ptr().cast_mut().cast();
        Self {
            ptr,
            len,
            owner: Some(Arc::new(owner)),
        }
    }

    pub fn ptr(&self) -> *mut u8 {
        self.ptr
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Without its first `count` bytes.
    #[must_use]
    pub fn skip(&self, count: usize) -> Self {
        let count = count.min(self.len);
        Self {
            // SAFETY: at most one past the end.
            ptr: unsafe { self.ptr.add(count) },
            len: self.len - count,
            owner: self.owner.clone(),
        }
    }

    /// At most its first `count` bytes.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        Self {
            len: count.min(self.len),
            ..self.clone()
        }
    }

    /// Its first `count` bytes, to be read.
    #[must_use]
    pub fn as_slice(&self, count: usize) -> RawSlice {
        RawSlice {
            ptr: self.ptr,
            len: count.min(self.len),
            owner: self.owner.clone(),
        }
    }

    /// Copy as much of `bytes` as fits; how much.
    pub fn write(&self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.len);
        // SAFETY: writable by the constructor's contract; `bytes` is not part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ptr, count) };
        count
    }

    /// What is there now.
    pub fn to_vec(&self) -> Vec<u8> {
        RawSlice {
            ptr: self.ptr,
            len: self.len,
            owner: None,
        }
        .to_vec()
    }
}

/// The body of a request that a guest makes.
#[derive(Debug)]
pub enum RequestBody {
    Whole(RawSlice),
    /// It comes in parts. The sender's end without a last part: given up, the request must not appear
    /// complete to its server.
    Parts(mpsc::Receiver<Part>),
}

/// One part of a body.
#[derive(Debug)]
pub struct Part {
    pub bytes: RawSlice,
    pub last: bool,
    done: oneshot::Sender<()>,
}

impl Part {
    pub(crate) fn new(bytes: RawSlice, last: bool) -> (Self, oneshot::Receiver<()>) {
        let (done, waiting) = oneshot::channel();
        (Self { bytes, last, done }, waiting)
    }

    /// Its bytes are needed no more: the guest may reuse their place.
    pub fn used(self) {
        let _ = self.done.send(());
    }
}
