//! Guest memory as the handlers see it: typed copies in and out, never a reference.

use crate::errno::{EFAULT, EINVAL, ENAMETOOLONG, Errno};
use crate::host;
use crate::window::Window;

/// Plain data that may be copied from and to a guest: any bit pattern is a value, no padding matters.
///
/// # Safety
/// Implement it only for `repr(C)` types of integers.
pub unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($t:ty)*) => { $(
        // SAFETY: integers, and arrays and structures of integers.
        unsafe impl Plain for $t {}
    )* };
}
plain! { u8 u16 u32 u64 i32 i64 [u64; 2] [u32; 2] [i32; 2] [u64; 4] [i64; 2] [i64; 4] [u64; 3] [u16; 4] }
pub(crate) use plain;

/// Longest list of buffers in one call (`IOV_MAX`).
const IOV_MAX: u64 = 1024;
/// Longest transfer of one call, as Linux has it.
pub(crate) const MAX_TRANSFER: u64 = 0x7fff_f000;
/// Longest path, with its end.
const PATH_MAX: usize = 4096;

/// Access to the guest's memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    window: Window,
}

impl Memory {
    /// Memory behind `window`.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self { window }
    }

    /// Host address of a guest range, to hand to the host kernel (which survives what is not mapped).
    ///
    /// # Errors
    /// EFAULT outside of user space.
    pub fn host(&self, address: u64, length: u64) -> Result<u64, Errno> {
        self.window.host(address, length).ok_or(EFAULT)
    }

    /// Fill `to` from the guest.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read_bytes(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let from = self.host(address, to.len() as u64)?;
        // SAFETY: the source lies in the window, the target is a live slice.
        unsafe { host::copy(to.as_mut_ptr(), from as *const u8, to.len() as u64) }
    }

    /// Copy `from` to the guest.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write_bytes(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let to = self.host(address, from.len() as u64)?;
        // SAFETY: the target lies in the window, the source is a live slice.
        unsafe { host::copy(to as *mut u8, from.as_ptr(), from.len() as u64) }
    }

    /// Copy a value in.
    ///
    /// # Errors
    /// EFAULT.
    pub fn read<T: Plain>(&self, address: u64) -> Result<T, Errno> {
        let mut value = T::default();
        let size = size_of::<T>() as u64;
        let from = self.host(address, size)?;
        // SAFETY: the source lies in the window; any bit pattern is a `T`, as `Plain` promises.
        unsafe { host::copy((&raw mut value).cast(), from as *const u8, size)? };
        Ok(value)
    }

    /// Copy a value out.
    ///
    /// # Errors
    /// EFAULT.
    pub fn write<T: Plain>(&self, address: u64, value: T) -> Result<(), Errno> {
        let size = size_of::<T>() as u64;
        let to = self.host(address, size)?;
        // SAFETY: the target lies in the window; `value` is plain data.
        unsafe { host::copy(to as *mut u8, (&raw const value).cast(), size) }
    }

    /// Copy a path or name in: bytes up to a NUL, at most 4,095.
    ///
    /// # Errors
    /// EFAULT, ENAMETOOLONG.
    pub fn read_path(&self, address: u64) -> Result<Vec<u8>, Errno> {
        let mut path = Vec::new();
        let mut at = address;
        while path.len() < PATH_MAX {
            // Up to the end of the page, since the next one may not be mapped.
            let step = (4096 - at % 4096).min((PATH_MAX - path.len()) as u64);
            let mut part = vec![0; usize::try_from(step).map_err(|_| EFAULT)?];
            self.read_bytes(at, &mut part)?;
            if let Some(end) = part.iter().position(|b| *b == 0) {
                path.extend(part.iter().take(end));
                return Ok(path);
            }
            path.extend_from_slice(&part);
            at += step;
        }
        Err(ENAMETOOLONG)
    }

    /// Copy a list of buffers in and translate it for the host: each lies in user space.
    ///
    /// # Errors
    /// EFAULT, EINVAL for too many or a sum that overflows.
    pub fn read_iovec(&self, address: u64, count: u64) -> Result<Vec<libc::iovec>, Errno> {
        if count > IOV_MAX {
            return Err(EINVAL);
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        // The whole list is copied before any of it is judged, so that a list whose end is not there is EFAULT
        // whatever its beginning says.
        let mut raw = vec![0; usize::try_from(count * 16).map_err(|_| EINVAL)?];
        self.read_bytes(address, &mut raw)?;
        let words: Vec<u64> = (raw.as_chunks().0.iter())
            .map(|w| u64::from_le_bytes(*w))
            .collect();
        let mut list = Vec::with_capacity(words.len() / 2);
        let mut sum = 0u64;
        for [base, length] in words.as_chunks().0.iter().copied() {
            sum = sum
                .checked_add(length)
                .filter(|s| i64::try_from(*s).is_ok())
                .ok_or(EINVAL)?;
            let base = if length == 0 {
                0
            } else {
                self.host(base, length)?
            };
            // What is beyond the longest transfer is left out.
            let length = length.min(MAX_TRANSFER.saturating_sub(sum - length));
            list.push(libc::iovec {
                iov_base: base as *mut libc::c_void,
                iov_len: usize::try_from(length).map_err(|_| EINVAL)?,
            });
        }
        Ok(list)
    }
}
