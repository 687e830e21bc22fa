//! Bytes that somebody else may change meanwhile: addresses with a length, never references. `unsafe`: raw
//! pointers.

use bytes::Bytes;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use tokio::sync::{mpsc, oneshot};

type Owner = Arc<dyn Any + Send + Sync>;

/// Memory of [`RawRoom::own`].
#[derive(Debug)]
struct Own(Box<[AtomicU8]>);

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
        // Zeros that the kernel makes where they are written, not here.
        // SAFETY: zero is a value of an atomic integer.
        let owner: Box<[AtomicU8]> = unsafe { Box::new_zeroed_slice(len).assume_init() };
        let ptr = owner.as_ptr().cast_mut().cast();
        Self {
            ptr,
            len,
            owner: Some(Arc::new(Own(owner))),
        }
    }

    /// What is there, of memory of our own that nobody writes any more; a copy where somebody has another part of it.
    pub fn into_bytes(self) -> Bytes {
        let Self { ptr, len, owner } = self;
        let own = (owner.clone()).and_then(|owner| owner.downcast::<Own>().ok());
        let whole =
            own.filter(|own| own.0.as_ptr().cast() == ptr.cast_const() && own.0.len() == len);
        let Some(own) = whole else {
            return Bytes::from(Self { ptr, len, owner }.to_vec());
        };
        drop(owner);
        match Arc::try_unwrap(own) {
            Ok(Own(bytes)) => {
                let bytes = Box::into_raw(bytes) as *mut [u8];
                // SAFETY: the box just taken apart; bytes are laid out as atomic bytes are, and no room of it is left to write by.
                Bytes::from(unsafe { Box::from_raw(bytes) })
            }
            Err(own) => Bytes::from(
                Self {
                    ptr,
                    len,
                    owner: Some(own),
                }
                .to_vec(),
            ),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_our_own_becomes_bytes_without_a_copy_where_nobody_else_has_it() {
        let room = RawRoom::own(10_000);
        assert_eq!(room.skip(9_990).write(b"0123456789abc"), 10);
        let (ptr, bytes) = (room.ptr().cast_const(), room.into_bytes());
        assert_eq!(bytes.as_ptr(), ptr);
        assert!(bytes.starts_with(&[0; 9_990]) && bytes.ends_with(b"0123456789"));
        let room = RawRoom::own(4);
        let other = room.clone();
        let bytes = room.into_bytes();
        assert_ne!(bytes.as_ptr(), other.ptr().cast_const());
        other.write(b"late");
        assert_eq!(&bytes[..], [0; 4]);
        assert_eq!(&other.first(3).into_bytes()[..], b"lat");
        assert!(
            RawRoom::empty().into_bytes().is_empty() && RawRoom::own(0).into_bytes().is_empty()
        );
    }
}
