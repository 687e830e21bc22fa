//! Program text in huge pages of the page cache, which all clones map: one fault of a guest's for 2 MiB instead of one
//! for each page, and no page tables. (unsafe: mmap and madvise of a mapping that nothing else uses.)
//!
//! What is cached in small pages stays so, whoever maps it how. So it is dropped from the cache and read again, once, before
//! anybody maps it. Where it is mapped already, or the file system keeps small pages only, starts are slower and
//! nothing else.

use super::plan::Segment;
use crate::layout::CHUNK;
use std::os::fd::RawFd;

/// Program text of one snapshot that is read anew, at most.
const MOST: u64 = 256 << 20;

/// Have the page cache hold what these show as huge pages, as far as it can.
pub fn read_anew(segments: &[Segment]) {
    let mut left = MOST;
    for (fd, offset, length) in segments.iter().filter_map(Segment::huge) {
        if length > left {
            return;
        }
        left -= length;
        read_range(fd, offset, length);
    }
}

fn read_range(fd: RawFd, offset: u64, length: u64) {
    let (Ok(from), Ok(count)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    let size = (length + CHUNK) as usize;
    // SAFETY: a fresh mapping of addresses, of which an aligned part is then replaced; only the kernel reads it.
    unsafe {
        libc::posix_fadvise(fd, from, count, libc::POSIX_FADV_DONTNEED);
        let room = libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if room == libc::MAP_FAILED {
            return;
        }
        let at = (room as u64).next_multiple_of(CHUNK) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
        if libc::mmap(at, length as usize, libc::PROT_READ, flags, fd, from) != libc::MAP_FAILED {
            libc::madvise(at, length as usize, libc::MADV_HUGEPAGE);
            libc::madvise(at, length as usize, libc::MADV_POPULATE_READ);
        }
        libc::munmap(room, size);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layout::{PAGE, USER_START};
    use crate::snapshot::plan::Source;
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    fn segment(file: &File, offset: u64, length: u64) -> Segment {
        Segment {
            start: USER_START + offset,
            end: USER_START + offset + length,
            prot: libc::PROT_READ,
            source: Source::File(file.as_raw_fd(), offset),
        }
    }

    #[test]
    fn what_is_read_anew_is_the_same() {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..2 * CHUNK).map(|n| (n / PAGE % 251) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        let beyond = segment(&file, 8 * CHUNK, CHUNK);
        let far = segment(&file, 1 << 62, CHUNK);
        read_anew(&[segment(&file, 0, 2 * CHUNK), beyond, far]);
        let mut got = vec![0; content.len()];
        file.read_exact_at(&mut got, 0).unwrap();
        assert!(got == content);
    }
}
