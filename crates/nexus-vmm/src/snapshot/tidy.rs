//! Giving back what an instance at rest holds in double: pages of its own that show what the snapshot shows, or nearly.
//! (unsafe: one page of mapping, and the promise that nobody looks.)
//!
//! CPython counts references in the objects themselves, so a call makes hundreds of pages private and changes few words of
//! them for good: measured, half of those that a small S3 handler leaves behind differ in nothing, and most of the others in
//! less than 64 bytes. Dropping the copies makes the mapping show the snapshot again; the words that differ are put back
//! before the guest goes on.
//!
//! What is mapped where is read from the kernel's own table: a guest may long have put something else in a place.

use super::given::Given;
use super::laid::Copied;
use super::pages::Pagemap;
use super::plan::{self, Segment, Source};
use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::process::Process;
use nexus_personality::rest::Undo;
use nexus_personality::window::{USER_END, Window};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Pages of the snapshot compared at a time.
const BATCH: u64 = 4;

/// Holds what the jail would no longer let it open.
pub struct Tidier {
    /// Of pages: the snapshot's own, and its base's.
    files: Vec<File>,
    /// What is to show the snapshot's own file, and shows copies over the base's.
    copied: Vec<Copied>,
    table: File,
    pagemap: Pagemap,
}

/// A private mapping of one of the snapshot's files.
#[derive(Clone, Copy, Debug)]
struct Mapping {
    host: u64,
    end: u64,
    offset: u64,
    writable: bool,
}

impl Mapping {
    fn of(line: &Line<'_>) -> Self {
        Self {
            host: line.start,
            end: line.end,
            offset: line.offset,
            writable: line.writable,
        }
    }
}

impl Tidier {
    /// For a process restored from these files, before the jail closes.
    ///
    /// # Errors
    /// No /proc.
    pub fn new(files: Vec<File>, copied: Vec<Copied>) -> io::Result<Self> {
        Ok(Self {
            files,
            copied,
            table: File::open("/proc/self/maps")?,
            pagemap: Pagemap::open()?,
        })
    }

    /// Do it, if the whole guest rests; it is undone by the first of its threads that goes on. What fails is memory that stays
    /// in use, nothing else.
    pub fn tidy(&mut self, process: &Process, window: Window) {
        let kinds: io::Result<Vec<_>> = (self.files.iter())
            .map(|file| Ok((file, self.identity(file)?)))
            .collect();
        let Ok(kinds) = kinds else { return };
        let mut copied = std::mem::take(&mut self.copied);
        let rested = process.at_rest(|| {
            // What cannot be mapped stays copied.
            let _ = self.map_copied(&kinds, &copied, window);
            let mut given = Given::default();
            // What was given back before something failed is to be taken again as well.
            let _ = self.tidy_window(&kinds, window, &mut given);
            given.shrink();
            let any = !given.is_empty();
            let undo: Undo = Box::new(move || given.take_again(window));
            any.then_some(undo)
        });
        if rested {
            copied = Vec::new();
        }
        self.copied = copied;
    }

    /// Map the snapshot's own pages where they were copied over the base's, and the base's are still shown below.
    fn map_copied(
        &self,
        kinds: &[(&File, String)],
        copied: &[Copied],
        window: Window,
    ) -> io::Result<()> {
        let [(file, _), (_, base)] = kinds else {
            return Ok(());
        };
        let mut parts = Vec::new();
        self.lines(|line| {
            if line.identity != base || !line.private || !line.writable {
                return;
            }
            for part in copied {
                let host = |address: u64| window.base() + address;
                let (start, end) = (
                    line.start.max(host(part.start)),
                    line.end.min(host(part.end)),
                );
                let place = |at: u64| part.base + (at - host(part.start));
                if start < end && line.offset + (start - line.start) == place(start) {
                    let offset = part.offset + (start - host(part.start));
                    parts.push((start, end, offset));
                }
            }
        })?;
        for (start, end, offset) in parts {
            self.map_part(file, (start, end), offset, window)?;
        }
        Ok(())
    }

    /// Map the file in place of what is there, and put back what of it differs.
    fn map_part(
        &self,
        file: &File,
        (start, end): (u64, u64),
        offset: u64,
        window: Window,
    ) -> io::Result<()> {
        let memory = Memory::new(window);
        let own = self.pagemap.own_pages(start, (end - start) / PAGE)?;
        let mut differing = Vec::new();
        for (at, _) in (start..)
            .step_by(PAGE as usize)
            .zip(&own)
            .filter(|(_, own)| **own)
        {
            let (mut kept, mut shown) = ([0; PAGE as usize], [0; PAGE as usize]);
            file.read_exact_at(&mut kept, offset + (at - start))?;
            let read = memory.read_bytes(at - window.base(), &mut shown);
            read.map_err(|_| io::Error::other("a page cannot be read"))?;
            if kept != shown {
                differing.push((at, Box::new(shown)));
            }
        }
        let segment = Segment {
            start: start - window.base(),
            end: end - window.base(),
            prot: libc::PROT_READ | libc::PROT_WRITE,
            source: Source::File(file.as_raw_fd(), offset),
        };
        plan::map(&[segment], window)?;
        for (at, shown) in differing {
            // The guest must not go on with memory of another time.
            if memory.write_bytes(at - window.base(), &*shown).is_err() {
                std::process::abort();
            }
        }
        Ok(())
    }

    fn tidy_window(
        &self,
        kinds: &[(&File, String)],
        window: Window,
        given: &mut Given,
    ) -> io::Result<()> {
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
        for (file, mapping) in found {
            self.tidy_mapping(kinds[file].0, &mapping, window, given)?;
        }
        Ok(())
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
        given: &mut Given,
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
                let pages = kept.chunks(PAGE as usize).zip(shown.chunks(PAGE as usize));
                for (host, (kept, shown)) in (host..).step_by(PAGE as usize).zip(pages) {
                    // SAFETY: a page of a private mapping, as the kernel says, of a file that has `kept` there and never
                    // changes; the guest rests, and goes on behind `take_again`. No Rust reference points into the window.
                    unsafe { given.give(host, kept, shown, mapping.writable) };
                }
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

/// One line of proc_pid_maps(5).
struct Line<'a> {
    start: u64,
    end: u64,
    private: bool,
    writable: bool,
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
            writable: flags.get(1..2) == Some("w"),
            offset: number(offset)?,
            identity: rest.get(..device.len() + 1 + inode.len())?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::plan::map;
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
    fn only_pages_that_show_the_snapshot_or_nearly_are_given_back() {
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
        store(page(1), 9);
        for byte in 0..PAGE {
            store(page(2) + byte, 9);
        }
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
        let tidier = Tidier::new(vec![file], Vec::new()).unwrap();
        let identity = tidier.identity(&tidier.files[0]).unwrap();
        let mut given = Given::default();
        tidier
            .tidy_window(&[(&tidier.files[0], identity)], window, &mut given)
            .unwrap();
        let pages: Vec<_> = given
            .ranges()
            .iter()
            .map(|r| (r.start - page(0)) / PAGE..(r.end - page(0)) / PAGE)
            .collect();
        assert_eq!(pages, [0..2, 3..4, 5..6]);
        let own = tidier.pagemap.own_pages(page(0), 8).unwrap();
        assert_eq!(own, [false, false, true, false, true, false, false, false]);
        let shown = || (0..8).map(|n| load(page(n))).collect::<Vec<_>>();
        assert_eq!(shown(), [7, 7, 9, 7, 7, 7, 7, 7]);
        given.take_again(window);
        let own = tidier.pagemap.own_pages(page(0), 8).unwrap();
        assert_eq!(own, [true, true, true, true, true, true, false, false]);
        assert_eq!(shown(), [7, 9, 9, 7, 7, 7, 7, 7]);
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = "7f0000000000-7f0000002000 rw-p 00003000 fe:00 1234 /a file (deleted)";
        let parsed = Line::parse(line).unwrap();
        assert_eq!(
            (parsed.start, parsed.end, parsed.offset),
            (0x7f00_0000_0000, 0x7f00_0000_2000, 0x3000)
        );
        assert!(parsed.private && parsed.writable);
        assert_eq!(parsed.identity, "fe:00 1234");
        assert!(
            Line::parse("7f00-7f01 rw-s 0 00:01 9 /memfd:x")
                .is_some_and(|l| !l.private && l.writable)
        );
        assert!(
            Line::parse("7f00-7f01 r-xp 0 00:01 9 /x").is_some_and(|l| l.private && !l.writable)
        );
        assert!(Line::parse("nonsense").is_none());
    }
}
