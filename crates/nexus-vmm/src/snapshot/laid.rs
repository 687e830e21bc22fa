//! A snapshot that a shell has laid out in its window ahead of need, and what makes it the one that an instance goes on
//! from. (unsafe: reading files into the window.)
//!
//! A base is laid out, and a function's snapshot that rests on it differs in a few pages: these are copied over the base's,
//! where pages that the guest can reach already stay so. Mapping the function's own file there, as a restore
//! from nothing does, would make each of them a fault of the guest's. It is done once the instance rests: see
//! [`super::tidy`].

use super::differences::{Differences, Reader};
use super::plan::{self, Segment, Source};
use crate::kvm::vm::Vm;
use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::mm::Vma;
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file, whatever its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    device: u64,
    inode: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Zeros,
    File(Key, u64),
}

impl Shows {
    /// What is shown this many bytes further on.
    fn after(self, bytes: u64) -> Self {
        match self {
            Self::Zeros => Self::Zeros,
            Self::File(key, offset) => Self::File(key, offset + bytes),
        }
    }
}

/// A segment whose files are known beyond their descriptors.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    end: u64,
    prot: i32,
    shows: Shows,
}

/// Pages whose lines are fetched before they are written.
const AHEAD: usize = 4;

/// What of a window shows a snapshot.
pub struct Laid {
    shown: Shown,
    /// Whose memory is shown: it has its files open.
    process: Arc<Process>,
    /// Executable ranges.
    executable: Vec<(u64, u64)>,
    /// Working sets whose pages are present.
    prepared: Vec<PathBuf>,
}

/// What a window shows, and of which files that are open that is known.
#[derive(Default)]
pub struct Shown {
    pieces: Vec<Piece>,
    files: HashMap<RawFd, Key>,
}

/// Pages of a snapshot's own that are shown by copies over the base's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    pub start: u64,
    pub end: u64,
    /// Where they are in the snapshot's own file.
    pub offset: u64,
    /// And what the mapping below shows, in the base's.
    pub base: u64,
}

/// A snapshot's files of pages.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    pub own: RawFd,
    pub base: Option<RawFd>,
}

/// From what is laid out to a snapshot.
#[derive(Debug, Default)]
pub struct Turn {
    map: Vec<Segment>,
    copied: Vec<Copied>,
}

fn key(fd: RawFd) -> io::Result<Key> {
    // SAFETY: a zeroed structure of numbers is valid, and live during the call.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Key {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// `keys`: of files that stay open.
fn pieces(segments: &[Segment], keys: &HashMap<RawFd, Key>) -> io::Result<Vec<Piece>> {
    let mut keys = keys.clone();
    let mut shows = |source: Source| -> io::Result<Shows> {
        match source {
            Source::Zeros => Ok(Shows::Zeros),
            Source::File(fd, offset) => {
                let known = keys.get(&fd).copied();
                let key = known.map_or_else(|| key(fd), Ok)?;
                keys.insert(fd, key);
                Ok(Shows::File(key, offset))
            }
        }
    };
    segments
        .iter()
        .map(|s| {
            Ok(Piece {
                start: s.start,
                end: s.end,
                prot: s.prot,
                shows: shows(s.source)?,
            })
        })
        .collect()
}

impl Laid {
    /// Of a window that shows these segments, which are in order, for a process with these mappings, and where the pages of these
    /// working sets are present.
    ///
    /// # Errors
    /// The host's.
    pub fn new(
        segments: &[Segment],
        process: Arc<Process>,
        prepared: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let executable = |(start, vma): (&u64, &Vma)| {
            (vma.prot & libc::PROT_EXEC != 0).then_some((*start, vma.end))
        };
        let executable = process.mm().vmas().iter().filter_map(executable).collect();
        let files = (process.mapped_files().values())
            .map(|file| file.fd.as_raw_fd())
            .map(|fd| Ok((fd, key(fd)?)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            shown: Shown::new(segments, files)?,
            process,
            executable,
            prepared,
        })
    }

    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    #[must_use]
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    #[must_use]
    pub fn is_prepared(&self, working_set: &Path) -> bool {
        self.prepared.iter().any(|prepared| prepared == working_set)
    }

    /// Forbid what its process could execute: another one says for itself what it can.
    ///
    /// # Errors
    /// The host's.
    pub fn forbid_execution(&self, vm: &Vm) -> io::Result<()> {
        let mut ranges = self.executable.iter();
        ranges.try_for_each(|(start, end)| vm.set_executable(*start, *end, false))
    }
}

impl Shown {
    /// By a window that shows these segments, which are in order.
    ///
    /// # Errors
    /// The host's.
    pub fn new(segments: &[Segment], files: HashMap<RawFd, Key>) -> io::Result<Self> {
        Ok(Self {
            pieces: pieces(segments, &files)?,
            files,
        })
    }

    /// What makes it show `segments`, in which `files` are a snapshot's own pages and its base's: with `keep`, as far as it
    /// does not already, or copies of pages over the base's do.
    ///
    /// # Errors
    /// The host's.
    pub fn turn(&self, segments: &[Segment], files: Files, keep: bool) -> io::Result<Turn> {
        let own = key(files.own)?;
        let base = files.base.map(key).transpose()?;
        let mut turn = Turn::default();
        for (segment, piece) in segments.iter().zip(pieces(segments, &self.files)?) {
            let mut at = segment.start;
            for below in overlapping(&self.pieces, segment.start, segment.end, |l| {
                (l.start, l.end)
            }) {
                let (start, end) = (below.start.max(at), below.end.min(segment.end));
                turn.map(segment, at, start);
                let shows = piece.shows.after(start - piece.start);
                let shown = below.shows.after(start - below.start);
                let same_terms = keep && segment.prot == below.prot;
                match (shows, shown) {
                    _ if same_terms && shows == shown => {}
                    (Shows::File(file, offset), Shows::File(other, base_offset))
                        if same_terms
                            && segment.prot & libc::PROT_WRITE != 0
                            && (file, Some(other)) == (own, base) =>
                    {
                        turn.copied.push(Copied {
                            start,
                            end,
                            offset,
                            base: base_offset,
                        });
                    }
                    _ => turn.map(segment, start, end),
                }
                at = end;
            }
            turn.map(segment, at, segment.end);
        }
        for piece in &self.pieces {
            let mut at = piece.start;
            for above in overlapping(segments, piece.start, piece.end, |s| (s.start, s.end)) {
                turn.hide(at, above.start);
                at = above.end;
            }
            turn.hide(at, piece.end);
        }
        Ok(turn)
    }
}

/// Those of a list in order that have a part of a range.
fn overlapping<T>(
    list: &[T],
    start: u64,
    end: u64,
    range: impl Fn(&T) -> (u64, u64),
) -> impl Iterator<Item = &T> {
    let first = list.partition_point(|item| range(item).1 <= start);
    let rest = list.get(first..).unwrap_or_default();
    rest.iter().take_while(move |item| range(item).0 < end)
}

impl Turn {
    /// A part of a segment is to be mapped.
    fn map(&mut self, segment: &Segment, start: u64, end: u64) {
        if start < end {
            self.map.push(segment.part(start, end));
        }
    }

    /// Nothing is to be there.
    fn hide(&mut self, start: u64, end: u64) {
        if start < end {
            self.map.push(Segment {
                start,
                end,
                prot: libc::PROT_NONE,
                source: Source::Zeros,
            });
        }
    }

    /// Make the mappings.
    ///
    /// # Errors
    /// The host's.
    pub fn make_mappings(&self, window: Window) -> io::Result<()> {
        plan::map(&self.map, window)
    }

    /// Make those pages that differ from what the base shows what they are in the snapshot; the parts that show some of the
    /// snapshot's own by that.
    ///
    /// # Errors
    /// The host's; the file ends early; what it says of its differences is impossible.
    pub fn copy(self, changed: &Changed<'_>, window: Window) -> io::Result<Vec<Copied>> {
        if !self.copied.is_empty() {
            changed.copy(&self.copied, window)?;
        }
        Ok(self.copied)
    }
}

/// The pages of a snapshot's own that differ from its base's.
pub struct Changed<'a> {
    /// First page's number and count, in order.
    pub pages: &'a [(u64, u64)],
    /// The file of its own pages, and its length.
    pub own: (&'a File, u64),
    /// Where it tells how they differ.
    pub differences: u64,
}

impl Changed<'_> {
    /// How they differ.
    ///
    /// # Errors
    /// See [`Differences::read`].
    pub fn differences(&self) -> io::Result<Differences> {
        let ((file, length), counts) = (self.own, self.pages.iter().map(|(_, count)| *count));
        let pages = counts.fold(0, u64::saturating_add);
        Differences::read(file, length, self.differences, pages)
    }

    fn copy(&self, parts: &[Copied], window: Window) -> io::Result<()> {
        let mut before = 0_u64;
        let numbered: Vec<Numbered> = (self.pages.iter())
            .map(|(first, count)| {
                let end = first.saturating_add(*count);
                let number = before;
                before = before.saturating_add(*count);
                Numbered {
                    start: first.saturating_mul(PAGE),
                    end: end.saturating_mul(PAGE),
                    number,
                }
            })
            .collect();
        let (differences, own) = (self.differences()?, self.own.0);
        let mut reader = Reader::new(&differences, own);
        let memory = Memory::new(window);
        let each = || {
            parts.iter().flat_map(|part| {
                overlapping(&numbered, part.start, part.end, |n| (n.start, n.end)).flat_map(
                    move |pages| {
                        let (start, end) = (pages.start.max(part.start), pages.end.min(part.end));
                        (start..end)
                            .step_by(PAGE as usize)
                            .map(move |at| (pages.number + (at - pages.start) / PAGE, part, at))
                    },
                )
            })
        };
        let mut ahead = each();
        for (number, _, at) in ahead.by_ref().take(AHEAD) {
            reader.expect(number, at, window);
        }
        for (number, part, at) in each() {
            if let Some((number, _, at)) = ahead.next() {
                reader.expect(number, at, window);
            }
            let into = at - part.start;
            if !reader.write(number, part.base + into, at, memory)? {
                read(own, part.offset + into, window, at, at + PAGE)?;
            }
        }
        Ok(())
    }
}

/// Changed pages in a row, and the number of the first among all of them.
struct Numbered {
    start: u64,
    end: u64,
    number: u64,
}

/// Read a file's bytes from `offset` on into `[start, end)` of the window.
fn read(file: &File, offset: u64, window: Window, start: u64, end: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(left) = (end - start).checked_sub(done).filter(|left| *left > 0) {
        let host = window
            .host(start + done, left)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let from = i64::try_from(offset + done).map_err(io::Error::other)?;
        // SAFETY: the target lies in the window, which is the guest's, and where it is not mapped the call fails; no Rust
        // reference points there.
        let count = unsafe {
            libc::pread(
                file.as_raw_fd(),
                host as *mut libc::c_void,
                left as usize,
                from,
            )
        };
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if count > 0 => done += count.unsigned_abs() as u64,
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::differences;
    use crate::snapshot::pages::Pagemap;
    use nexus_personality::window::USER_START;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;

    const COUNT: usize = 24;
    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

    /// What a page shows: a file's page of the same number, or zeros, or nothing is there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Page {
        Nothing,
        Zeros,
        Library(i32),
        Base(i32),
        /// Of the snapshot's own, and whether the base has something else there.
        Own(i32, bool),
    }

    fn file(mark: u8) -> File {
        let file = tempfile::tempfile().unwrap();
        for page in 0..COUNT {
            let content = [mark.wrapping_add(page as u8); PAGE as usize];
            file.write_all_at(&content, page as u64 * PAGE).unwrap();
        }
        file
    }

    fn pages() -> impl Strategy<Value = Vec<(Page, Page)>> {
        let prot = || prop_oneof![3 => Just(RW), 1 => Just(libc::PROT_READ)];
        let base = prop_oneof![
            1 => Just(Page::Nothing),
            1 => Just(Page::Zeros),
            1 => prot().prop_map(Page::Library),
            4 => prot().prop_map(Page::Base),
        ];
        let other = prop_oneof![
            1 => Just(Page::Nothing),
            1 => Just(Page::Zeros),
            1 => prot().prop_map(Page::Library),
            1 => prot().prop_map(Page::Base),
            4 => (prot(), any::<bool>()).prop_map(|(prot, changed)| Page::Own(prot, changed)),
        ];
        let pair = (base, proptest::option::weighted(0.6, other))
            .prop_map(|(base, other)| (base, other.unwrap_or(base)));
        vec(pair, COUNT)
    }

    struct Bench {
        own: File,
        base: File,
        library: File,
    }

    impl Bench {
        fn new(pages: &[(Page, Page)]) -> Self {
            let (own, base, library) = (file(1), file(100), file(200));
            for (number, pair) in pages.iter().enumerate() {
                // Stored again, for one mapping's sake.
                if let (Page::Base(_), Page::Own(_, false)) = pair {
                    let mut content = [0; PAGE as usize];
                    base.read_exact_at(&mut content, number as u64 * PAGE)
                        .unwrap();
                    own.write_all_at(&content, number as u64 * PAGE).unwrap();
                }
            }
            Self { own, base, library }
        }

        /// Their own file tells how these differ, but for every third, which was not compared with the base's.
        fn changed<'a>(&'a self, pages: &'a [(u64, u64)]) -> Changed<'a> {
            let mut builder = differences::Builder::default();
            let numbers = pages
                .iter()
                .flat_map(|(first, count)| *first..first + count);
            for number in numbers {
                let offset = number * PAGE - USER_START;
                let page = |file: &File| {
                    let mut page = [0; PAGE as usize];
                    file.read_exact_at(&mut page, offset).unwrap();
                    page
                };
                let (own, base) = (page(&self.own), page(&self.base));
                let compared = number % 3 > 0;
                builder.push(&own, compared.then_some((offset, &base)));
            }
            let at = COUNT as u64 * PAGE;
            let bytes = builder.finish();
            self.own.write_all_at(&bytes, at).unwrap();
            Changed {
                pages,
                own: (&self.own, at + bytes.len() as u64),
                differences: at,
            }
        }

        fn segments(&self, pages: impl Iterator<Item = Page>) -> Vec<Segment> {
            let mut segments = Vec::<Segment>::new();
            for (number, page) in pages.enumerate() {
                let offset = number as u64 * PAGE;
                let of = |file: &File| Source::File(file.as_raw_fd(), offset);
                let (prot, source) = match page {
                    Page::Nothing => continue,
                    Page::Zeros => (RW, Source::Zeros),
                    Page::Library(prot) => (prot, of(&self.library)),
                    Page::Base(prot) => (prot, of(&self.base)),
                    Page::Own(prot, _) => (prot, of(&self.own)),
                };
                let start = USER_START + offset;
                let end = start + PAGE;
                let segment = Segment {
                    start,
                    end,
                    prot,
                    source,
                };
                match segments.last_mut() {
                    Some(last)
                        if last.end == start
                            && last.part(start, end) == segment
                            && last.source != Source::Zeros =>
                    {
                        last.end = end;
                    }
                    _ => segments.push(segment),
                }
            }
            segments
        }
    }

    /// Each page's first byte, `None` where it cannot be read; and whether it can be written.
    fn shown(window: Window) -> Vec<(Option<u8>, bool)> {
        let memory = Memory::new(window);
        let page = |number: u64| {
            let at = USER_START + number * PAGE;
            let mut bytes = [0; PAGE as usize];
            let read = memory.read_bytes(at, &mut bytes).ok().map(|()| bytes[0]);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            (
                read,
                read.is_some_and(|byte| memory.write_bytes(at, &[byte]).is_ok()),
            )
        };
        (0..COUNT as u64).map(page).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn it_shows_what_a_fresh_mapping_shows(pages in pages(), touched in vec(any::<bool>(), COUNT), keep: bool) {
            nexus_personality::host::install_handlers().unwrap();
            let bench = Bench::new(&pages);
            let from = bench.segments(pages.iter().map(|(base, _)| *base));
            let to = bench.segments(pages.iter().map(|(_, other)| *other));
            let fresh = Window::reserve().unwrap();
            plan::map(&to, fresh).unwrap();
            let window = Window::reserve().unwrap();
            plan::map(&from, window).unwrap();
            let memory = Memory::new(window);
            // What a shell makes the guest's own ahead of need.
            for (number, _) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
                let at = USER_START + number as u64 * PAGE;
                let mut byte = [0];
                if memory.read_bytes(at, &mut byte).is_ok() {
                    let _ = memory.write_bytes(at, &byte);
                }
            }
            let first = USER_START / PAGE;
            let changed: Vec<(u64, u64)> = pages.iter().enumerate()
                .filter(|(_, (base, other))| match (base, other) {
                    (Page::Base(_), Page::Own(_, changed)) => *changed,
                    (_, Page::Own(..)) => true,
                    _ => false,
                })
                .map(|(number, _)| (first + number as u64, 1))
                .collect();
            let files = Files { own: bench.own.as_raw_fd(), base: Some(bench.base.as_raw_fd()) };
            let turn = Shown::new(&from, HashMap::new()).unwrap().turn(&to, files, keep).unwrap();
            turn.make_mappings(window).unwrap();
            let copied = turn.copy(&bench.changed(&changed), window).unwrap();
            prop_assert!(keep || copied.is_empty());
            prop_assert_eq!(shown(window), shown(fresh));
            fresh.release();
            window.release();
        }
    }

    #[test]
    fn what_is_the_same_stays_as_it_is() {
        let pages = [
            (Page::Base(RW), Page::Base(RW)),
            (Page::Base(RW), Page::Own(RW, true)),
            (Page::Base(RW), Page::Own(RW, false)),
            (Page::Library(RW), Page::Library(RW)),
            (Page::Zeros, Page::Own(RW, true)),
        ];
        let bench = Bench::new(&pages);
        let from = bench.segments(pages.iter().map(|(base, _)| *base));
        let to = bench.segments(pages.iter().map(|(_, other)| *other));
        let window = Window::reserve().unwrap();
        plan::map(&from, window).unwrap();
        let host = window.base() + USER_START;
        let own = || Pagemap::open().unwrap().own_pages(host, 5).unwrap();
        let memory = Memory::new(window);
        for page in [0, 1, 2, 3] {
            let mut byte = [0];
            memory
                .read_bytes(USER_START + page * PAGE, &mut byte)
                .unwrap();
            memory.write_bytes(USER_START + page * PAGE, &byte).unwrap();
        }
        let files = Files {
            own: bench.own.as_raw_fd(),
            base: Some(bench.base.as_raw_fd()),
        };
        let laid = Shown::new(&from, HashMap::new()).unwrap();
        let turn = laid.turn(&to, files, true).unwrap();
        turn.make_mappings(window).unwrap();
        let changed = [(USER_START / PAGE + 1, 1), (USER_START / PAGE + 4, 1)];
        let copied = turn.copy(&bench.changed(&changed), window).unwrap();
        assert_eq!(own(), [true, true, true, true, false]);
        let part = Copied {
            start: USER_START + PAGE,
            end: USER_START + 3 * PAGE,
            offset: PAGE,
            base: PAGE,
        };
        assert_eq!(copied, [part]);
    }
}
