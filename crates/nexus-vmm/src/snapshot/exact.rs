//! Which pages of a file a guest has read. (unsafe: userfaultfd(2) has no safe interface here.)
//!
//! The page map tells which pages of a mapping the host has made present. At a read it makes sixteen of a file present for
//! one that is touched; not so in a range that is registered with a userfaultfd, whatever for. This one has nothing to do there:
//! nothing is protected against writes, and none would be waited for.

use super::plan::{Segment, Source};
use crate::layout::PAGE;
use nexus_personality::window::Window;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

// linux/userfaultfd.h.
const API: u64 = 0xaa;
const USER_MODE_ONLY: libc::c_int = 1;
const WRITES_ARE_NOT_WAITED_FOR: u64 = 1 << 15;
const PROTECTS_WRITES: u64 = 1 << 1;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)` and `_IOWR(0xaa, 0, struct uffdio_register)`.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    length: u64,
    mode: u64,
    ioctls: u64,
}

/// Ranges of a window in which a page of a file is present only if it was touched.
pub struct Exact {
    /// Guest addresses, in order.
    ranges: Vec<(u64, u64)>,
    _descriptor: OwnedFd,
}

impl Exact {
    /// For what of these segments shows files, but for what huge pages show. Just mapped: nothing was touched.
    ///
    /// # Errors
    /// The host's: it has no such thing, or not for this process.
    pub fn new(segments: &[Segment], window: Window) -> io::Result<Self> {
        let flags = libc::O_CLOEXEC | USER_MODE_ONLY;
        // SAFETY: numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: just made, owned by nobody else.
        let descriptor = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api {
            api: API,
            features: WRITES_ARE_NOT_WAITED_FOR,
            ioctls: 0,
        };
        // SAFETY: the structure that this call takes, live.
        check(unsafe { libc::ioctl(fd, UFFDIO_API, &raw mut api) })?;
        let mut ranges = Vec::new();
        for segment in segments {
            let of_file = matches!(segment.source, Source::File(..)) && segment.huge().is_none();
            let (start, length) = (segment.start, segment.end - segment.start);
            let Some(host) = window.host(start, length).filter(|_| of_file) else {
                continue;
            };
            let mut register = Register {
                start: host,
                length,
                mode: PROTECTS_WRITES,
                ioctls: 0,
            };
            // SAFETY: as above.
            check(unsafe {
                libc::ioctl(descriptor.as_raw_fd(), UFFDIO_REGISTER, &raw mut register)
            })?;
            ranges.push((start, segment.end));
        }
        Ok(Self {
            ranges,
            _descriptor: descriptor,
        })
    }

    /// Whether page number `page` is present only if it was touched.
    #[must_use]
    pub fn tells(&self, page: u64) -> bool {
        let at = page * PAGE;
        let next = self.ranges.partition_point(|(start, _)| *start <= at);
        let range = next.checked_sub(1).and_then(|index| self.ranges.get(index));
        range.is_some_and(|(_, end)| at < *end)
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::pages::{Pagemap, There};
    use crate::snapshot::plan::map;
    use nexus_personality::memory::Memory;
    use nexus_personality::window::USER_START;

    #[test]
    fn only_what_was_read_is_present() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * PAGE).unwrap();
        let window = Window::reserve().unwrap();
        let segments = [Segment {
            start: USER_START,
            end: USER_START + 64 * PAGE,
            prot: libc::PROT_READ | libc::PROT_WRITE,
            source: Source::File(file.as_raw_fd(), 0),
        }];
        map(&segments, window).unwrap();
        let exact = match Exact::new(&segments, window) {
            Ok(exact) => exact,
            Err(error) => {
                eprintln!("not on this host: {error}");
                return;
            }
        };
        let memory = Memory::new(window);
        // The page cache has all of it, as that of a snapshot in use has.
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut vec![0; 64 << 12], 0).unwrap();
        memory
            .read_bytes(USER_START + 20 * PAGE, &mut [0; 8])
            .unwrap();
        memory.write_bytes(USER_START + 30 * PAGE, &[1; 8]).unwrap();
        let there = Pagemap::open().unwrap();
        let there = there.there(window.base() + USER_START, 64).unwrap();
        for (page, there) in there.into_iter().enumerate() {
            let expected = match page {
                20 => There::Shared,
                30 => There::Own,
                _ => There::Nothing,
            };
            assert_eq!(there, expected, "{page}");
        }
        let first = USER_START / PAGE;
        assert!(exact.tells(first) && exact.tells(first + 63));
        assert!(!exact.tells(first + 64) && !exact.tells(first - 1));
    }
}
