//! Giving back what an instance at rest holds in double: pages of its own that show what the snapshot shows.
//! (unsafe: madvise and one page of mapping.)
//!
//! CPython counts references in the objects themselves, so a call makes hundreds of pages private without changing
//! them for good: measured, half of those that a small S3 handler leaves behind. Dropping the copies makes the mapping
//! show the snapshot again, that is, the same bytes.
//!
//! What is mapped where is read from the kernel's own table: a guest may long have put something else in a place.

use super::pages::Pagemap;
use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::process::Process;
use nexus_personality::window::{USER_END, Window};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Pages of the snapshot compared at a time.
const BATCH: u64 = 4;

/// Holds what the jail would no longer let it open.
pub struct Tidier {
    files: Vec<File>,
    table: File,
    pagemap: Pagemap,
}

/// A private mapping of one of the snapshot's files.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    host: u64,
    end: u64,
    offset: u64,
}

impl Mapping {
    fn of(line: &Line<'_>) -> Self {
        Self {
            host: line.start,
            end: line.end,
            offset: line.offset,
        }
    }
}

impl Tidier {
    /// For a process restored from these files, before the jail closes.
    ///
    /// # Errors
    /// No /proc.
    pub fn new(files: Vec<File>) -> io::Result<Self> {
        Ok(Self {
            files,
            table: File::open("/proc/self/maps")?,
            pagemap: Pagemap::open()?,
        })
    }

    /// Do it, if the whole guest rests. The stretches of host addresses given back.
    ///
    /// # Errors
    /// The host's; nothing of the guest's memory has changed then either.
    pub fn tidy(&self, process: &Process, window: Window) -> io::Result<Vec<Range<u64>>> {
        let mut kinds = Vec::new();
        for file in &self.files {
            kinds.push((file, self.identity(file)?));
        }
        process
            .at_rest(|| self.tidy_window(&kinds, window))
            .unwrap_or(Ok(Vec::new()))
    }

    fn tidy_window(
        &self,
        kinds: &[(&File, String)],
        window: Window,
    ) -> io::Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        let inside = window.base()..window.base() + USER_END;
        self.lines(|line| {
            let file = kinds
                .iter()
                .position(|(_, identity)| identity == line.identity);
            if let Some(file) = file.filter(|_| line.private)
                && inside.contains(&line.start)
                && line.end <= inside.end
            {
                found.push((file, Mapping::of(line)));
            }
        })?;
        let mut given = Vec::new();
        for (file, mapping) in found {
            self.tidy_mapping(kinds[file].0, &mapping, window, &mut given)?;
        }
        Ok(given)
    }

    /// Call `each` with every line of the table of mappings. Read in small pieces: this process exists thousands of times.
    fn lines(&self, mut each: impl FnMut(&Line<'_>)) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let (mut held, mut at) = (0, 0_u64);
        // In a line that is longer than the buffer: its path is none of the snapshot's.
        let mut skipping = false;
        loop {
            let count = self.table.read_at(&mut buffer[held..], at)?;
            if count == 0 {
                return Ok(());
            }
            at += count as u64;
            held += count;
            let last = buffer[..held].iter().rposition(|byte| *byte == b'\n');
            let whole = last.map_or(0, |end| end + 1);
            let text = String::from_utf8_lossy(&buffer[..whole]);
            let lines = text.lines().skip(usize::from(skipping));
            lines.filter_map(Line::parse).for_each(|line| each(&line));
            skipping &= whole == 0;
            buffer.copy_within(whole..held, 0);
            held -= whole;
            if held == buffer.len() {
                (held, skipping) = (0, true);
            }
        }
    }

    /// Device and inode as the table of mappings has them, which for some file systems is not as fstat(2) has them: seen
    /// on a page that is mapped for it.
    fn identity(&self, file: &File) -> io::Result<String> {
        // SAFETY: a fresh read-only page at an address of the kernel's choice, never looked into.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut found = None;
        let read = self.lines(|line| {
            if (line.start..line.end).contains(&(at as u64)) {
                found = Some(line.identity.to_owned());
            }
        });
        // SAFETY: the page just mapped, which nothing refers to.
        unsafe { libc::munmap(at, PAGE as usize) };
        read?;
        found.ok_or_else(|| io::Error::other("a mapping is not in the table of mappings"))
    }

    fn tidy_mapping(
        &self,
        file: &File,
        mapping: &Mapping,
        window: Window,
        given: &mut Vec<Range<u64>>,
    ) -> io::Result<()> {
        let count = (mapping.end - mapping.host) / PAGE;
        let own = self.pagemap.own_pages(mapping.host, count)?;
        let memory = Memory::new(window);
        let mut at = 0;
        while at < count {
            let length = run_length(&own, at);
            if length == 0 {
                at += 1;
                continue;
            }
            let size = (length * PAGE) as usize;
            let (mut kept, mut shown) = (vec![0; size], vec![0; size]);
            file.read_exact_at(&mut kept, mapping.offset + at * PAGE)?;
            let host = mapping.host + at * PAGE;
            // What cannot be read stays as it is.
            if memory.read_bytes(host - window.base(), &mut shown).is_ok() {
                drop_equal(host, &kept, &shown, given);
            }
            at += length;
        }
        Ok(())
    }
}

/// Pages of one's own from `at` on, in a row.
fn run_length(own: &[bool], at: u64) -> u64 {
    own.iter()
        .skip(at as usize)
        .take(BATCH as usize)
        .take_while(|own| **own)
        .count() as u64
}

/// Drop those of the pages at `host` that are alike in both.
fn drop_equal(host: u64, kept: &[u8], shown: &[u8], given: &mut Vec<Range<u64>>) {
    let page = PAGE as usize;
    for (from, (kept, shown)) in (host..)
        .step_by(page)
        .zip(kept.chunks(page).zip(shown.chunks(page)))
    {
        if kept != shown || !advise(&(from..from + PAGE), libc::MADV_DONTNEED) {
            continue;
        }
        match given.last_mut() {
            Some(last) if last.end == from => last.end += PAGE,
            _ => given.push(from..from + PAGE),
        }
    }
}

/// Make what was given back the instance's own again, in one go: its next event will write there as the last one did, at
/// the price of a fault of the guest's and one of the host's for each page.
pub fn take_again(given: &[Range<u64>]) {
    for range in given {
        advise(range, libc::MADV_POPULATE_WRITE);
    }
}

fn advise(range: &Range<u64>, advice: libc::c_int) -> bool {
    let length = (range.end - range.start) as usize;
    // SAFETY: a part of the window, where no Rust reference points. What is dropped belongs to a private mapping of a file
    // that shows the same bytes there, while the guest rests; what is populated keeps its content.
    unsafe { libc::madvise(range.start as *mut libc::c_void, length, advice) == 0 }
}

/// One line of proc_pid_maps(5).
struct Line<'a> {
    start: u64,
    end: u64,
    private: bool,
    offset: u64,
    /// Device and inode.
    identity: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (flags, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        let (device, path) = rest.split_once(' ')?;
        let inode = path.split(' ').next()?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        Some(Self {
            start: number(start)?,
            end: number(end)?,
            private: flags.ends_with('p'),
            offset: number(offset)?,
            identity: rest.get(..device.len() + 1 + inode.len())?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::plan::{Segment, Source, map};
    use nexus_personality::window::USER_START;

    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

    fn store(host: u64, byte: u8) {
        // SAFETY: a page of the test's own window.
        unsafe { (host as *mut u8).write_volatile(byte) };
    }

    fn load(host: u64) -> u8 {
        // SAFETY: as above.
        unsafe { (host as *const u8).read_volatile() }
    }

    #[test]
    fn only_unchanged_pages_of_the_snapshot_are_given_back() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8 * PAGE as usize], 0).unwrap();
        let window = Window::reserve().unwrap();
        let segment = Segment {
            start: USER_START,
            end: USER_START + 8 * PAGE,
            prot: RW,
            source: Source::File(file.as_raw_fd(), 0),
        };
        map(&[segment], window).unwrap();
        let page = |n: u64| window.base() + USER_START + n * PAGE;
        for n in 0..6 {
            store(page(n), 7);
        }
        store(page(2), 9);
        // The guest put zeros of its own where the snapshot was, and made them look like it.
        let zeros = Segment {
            start: USER_START + 4 * PAGE,
            end: USER_START + 5 * PAGE,
            prot: RW,
            source: Source::Zeros,
        };
        map(&[zeros], window).unwrap();
        for byte in 0..PAGE {
            store(page(4) + byte, 7);
        }
        let tidier = Tidier::new(vec![file]).unwrap();
        let identity = tidier.identity(&tidier.files[0]).unwrap();
        let given = tidier
            .tidy_window(&[(&tidier.files[0], identity)], window)
            .unwrap();
        let pages: Vec<_> = given
            .iter()
            .map(|r| (r.start - page(0)) / PAGE..(r.end - page(0)) / PAGE)
            .collect();
        assert_eq!(pages, [0..2, 3..4, 5..6]);
        let own = tidier.pagemap.own_pages(page(0), 8).unwrap();
        assert_eq!(own, [false, false, true, false, true, false, false, false]);
        assert_eq!(
            (0..8).map(|n| load(page(n))).collect::<Vec<_>>(),
            [7, 7, 9, 7, 7, 7, 7, 7]
        );
        take_again(&given);
        let own = tidier.pagemap.own_pages(page(0), 8).unwrap();
        assert_eq!(own, [true, true, true, true, true, true, false, false]);
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "7f0000000000-7f0000002000 rw-p 00003000 fe:00 1234 /a file (deleted)";
        let parsed = Line::parse(line).unwrap();
        assert_eq!(
            (parsed.start, parsed.end, parsed.offset),
            (0x7f00_0000_0000, 0x7f00_0000_2000, 0x3000)
        );
        assert!(parsed.private);
        assert_eq!(parsed.identity, "fe:00 1234");
        assert!(Line::parse("7f00-7f01 rw-s 0 00:01 9 /memfd:x").is_some_and(|l| !l.private));
        assert!(Line::parse("nonsense").is_none());
    }
}
