//! From saved mappings and runs to the fewest host mappings that show the same. (unsafe: mmap into the window.)

use super::format::{Content, Run};
use crate::layout::{CHUNK, PAGE};
use nexus_personality::mm::{Backing, Vma};
use nexus_personality::window::Window;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

/// What a stretch of the window shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Zeros,
    /// A file from an offset on: a file of the root table, or the snapshot's pages.
    File(RawFd, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    pub end: u64,
    /// The host's protection: never executable.
    pub prot: i32,
    pub source: Source,
}

impl Segment {
    /// Can one mapping serve for this and what follows it?
    fn joins(&self, next: &Self) -> bool {
        let continues = match (self.source, next.source) {
            (Source::Zeros, Source::Zeros) => true,
            (Source::File(a, from), Source::File(b, to)) => {
                a == b && from + (self.end - self.start) == to
            }
            _ => false,
        };
        self.end == next.start && self.prot == next.prot && continues
    }

    /// A part of it.
    #[must_use]
    pub fn part(&self, start: u64, end: u64) -> Self {
        let source = match self.source {
            Source::Zeros => Source::Zeros,
            Source::File(fd, offset) => Source::File(fd, offset + (start - self.start)),
        };
        Self {
            start,
            end,
            source,
            ..*self
        }
    }

    /// The whole chunks of it that huge pages of a file's could show: descriptor, offset and length there.
    #[must_use]
    pub fn huge(&self) -> Option<(RawFd, u64, u64)> {
        let Source::File(fd, offset) = self.source else {
            return None;
        };
        let first = self.start.next_multiple_of(CHUNK);
        let length = (self.end & !(CHUNK - 1)).checked_sub(first)?;
        let offset = offset + (first - self.start);
        let suits = self.prot == libc::PROT_READ && length > 0 && offset.is_multiple_of(CHUNK);
        suits.then_some((fd, offset, length))
    }
}

fn host_prot(prot: i32) -> i32 {
    match prot & (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) {
        0 => libc::PROT_NONE,
        p if p & libc::PROT_WRITE != 0 => libc::PROT_READ | libc::PROT_WRITE,
        _ => libc::PROT_READ,
    }
}

/// A file of pages: its descriptor and its length in bytes.
pub type Pages = (RawFd, u64);

/// The segments in order of their addresses; `pages` and `base` are what the runs lie in. Runs that lie in no mapping, or overlap, are refused.
///
/// # Errors
/// What of the runs is impossible.
pub fn plan(
    vmas: &BTreeMap<u64, Vma>,
    runs: &[Run],
    pages: Pages,
    base: Option<Pages>,
) -> Result<Vec<Segment>, String> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |segment: Segment| {
        if segment.start == segment.end {
            return;
        }
        // The window is inaccessible already.
        if segment.prot == libc::PROT_NONE && segment.source == Source::Zeros {
            return;
        }
        match segments.last_mut() {
            Some(last) if last.joins(&segment) => last.end = segment.end,
            _ => segments.push(segment),
        }
    };
    let mut rest = runs.iter().copied().peekable();
    let mut pending: Option<Run> = None;
    for (start, vma) in vmas {
        if matches!(
            vma.backing,
            Backing::Arena | Backing::Doorbell | Backing::Shared(_)
        ) {
            continue;
        }
        let prot = host_prot(vma.prot);
        let shows = |at: u64| match &vma.backing {
            Backing::File(file, offset) => Source::File(file.fd.as_raw_fd(), offset + (at - start)),
            _ => Source::Zeros,
        };
        let mut at = *start;
        while at < vma.end {
            let next = pending
                .take()
                .or_else(|| rest.next_if(|run| run.start < vma.end));
            let Some(run) = next else {
                push(Segment {
                    start: at,
                    end: vma.end,
                    prot,
                    source: shows(at),
                });
                break;
            };
            let (pages, length) = match run.content {
                Content::Own => pages,
                Content::Base => base.ok_or("the snapshot has pages of a base, but no base")?,
            };
            check(&run, at, length)?;
            push(Segment {
                start: at,
                end: run.start,
                prot,
                source: shows(at),
            });
            let end = run.end.min(vma.end);
            push(Segment {
                start: run.start,
                end,
                prot,
                source: Source::File(pages, run.offset),
            });
            if run.end > end {
                pending = Some(Run {
                    start: end,
                    offset: run.offset + (end - run.start),
                    ..run
                });
            }
            at = end;
        }
    }
    if pending.is_some() || rest.next().is_some() {
        return Err("the snapshot has pages where nothing is mapped".into());
    }
    Ok(segments)
}

fn check(run: &Run, from: u64, length: u64) -> Result<(), String> {
    let aligned = [run.start, run.end, run.offset]
        .iter()
        .all(|at| at.is_multiple_of(PAGE));
    let inside = run
        .end
        .checked_sub(run.start)
        .and_then(|size| run.offset.checked_add(size))
        .is_some_and(|end| end <= length);
    if aligned && inside && run.start >= from && run.start < run.end {
        Ok(())
    } else {
        Err(format!(
            "the snapshot's pages at {:#x} are impossible",
            run.start
        ))
    }
}

/// Make the mappings.
///
/// # Errors
/// The host's.
pub fn map(segments: &[Segment], window: Window) -> io::Result<()> {
    for segment in segments {
        let length = segment.end - segment.start;
        let host = window
            .host(segment.start, length)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (flags, fd, offset) = match segment.source {
            Source::Zeros => (libc::MAP_ANONYMOUS, -1, 0),
            Source::File(fd, offset) => (0, fd, i64::try_from(offset).map_err(io::Error::other)?),
        };
        // SAFETY: the target lies in the window, which is the guest's; no Rust reference points there.
        let at = unsafe {
            libc::mmap(
                host as *mut libc::c_void,
                length as usize,
                segment.prot,
                flags | libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if segment.huge().is_some() {
            // What has to be read is read in huge pages, where the file system has them. Advice that is refused changes nothing.
            // SAFETY: the range just mapped.
            unsafe { libc::madvise(at, length as usize, libc::MADV_HUGEPAGE) };
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn vmas(list: &[(u64, u64, i32)]) -> BTreeMap<u64, Vma> {
        list.iter()
            .map(|(start, end, prot)| {
                let vma = Vma {
                    end: *end,
                    prot: *prot,
                    shared: false,
                    written: false,
                    read_only: false,
                    backing: Backing::Anonymous,
                };
                (*start, vma)
            })
            .collect()
    }

    fn run(start: u64, end: u64, offset: u64) -> Run {
        Run {
            start,
            end,
            content: Content::Own,
            offset,
        }
    }

    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

    #[test]
    fn runs_split_zeros_and_neighbours_join() {
        let map = vmas(&[(0x40_0000, 0x41_0000, RW), (0x41_0000, 0x42_0000, RW)]);
        let runs = [run(0x40_f000, 0x41_1000, 0)];
        let got = plan(&map, &runs, (9, 0x2000), None).unwrap();
        let kinds: Vec<_> = got.iter().map(|s| (s.start, s.end, s.source)).collect();
        assert_eq!(
            kinds,
            [
                (0x40_0000, 0x40_f000, Source::Zeros),
                (0x40_f000, 0x41_1000, Source::File(9, 0)),
                (0x41_1000, 0x42_0000, Source::Zeros),
            ]
        );
    }

    #[test]
    fn a_run_across_a_change_of_protection_is_split_there() {
        let map = vmas(&[
            (0x40_0000, 0x40_2000, libc::PROT_READ),
            (0x40_2000, 0x40_4000, RW),
        ]);
        let runs = [run(0x40_0000, 0x40_4000, 0x1000)];
        let got = plan(&map, &runs, (9, 0x5000), None).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!(got[1].source, Source::File(9, 0x3000));
    }

    #[test]
    fn huge_pages_need_whole_chunks_at_the_same_place_of_the_file() {
        let segment = |start: u64, end: u64, offset: u64| Segment {
            start,
            end,
            prot: libc::PROT_READ,
            source: Source::File(9, offset),
        };
        let whole = segment(2 * CHUNK, 4 * CHUNK, CHUNK);
        assert_eq!(whole.huge(), Some((9, CHUNK, 2 * CHUNK)));
        let part = segment(2 * CHUNK - PAGE, 3 * CHUNK + PAGE, CHUNK - PAGE);
        assert_eq!(part.huge(), Some((9, CHUNK, CHUNK)));
        assert_eq!(segment(2 * CHUNK, 3 * CHUNK, PAGE).huge(), None);
        assert_eq!(
            segment(2 * CHUNK + PAGE, 4 * CHUNK - PAGE, PAGE).huge(),
            None
        );
        assert_eq!(Segment { prot: RW, ..whole }.huge(), None);
        let zeros = Source::Zeros;
        assert_eq!(
            Segment {
                source: zeros,
                ..whole
            }
            .huge(),
            None
        );
    }

    #[test]
    fn impossible_runs_are_refused() {
        let map = vmas(&[(0x40_0000, 0x41_0000, RW)]);
        for run in [
            run(0x3f_0000, 0x40_1000, 0),
            run(0x40_f000, 0x41_1000, 0),
            run(0x50_0000, 0x50_1000, 0),
            run(0x40_0000, 0x40_1000, 0x2000),
            run(0x40_0800, 0x40_1800, 0),
            run(0x40_2000, 0x40_1000, 0),
            run(0x40_0000, 0x40_1000, u64::MAX - 0xfff),
        ] {
            assert!(plan(&map, &[run], (9, 0x2000), None).is_err(), "{run:x?}");
        }
        let twice = run(0x40_0000, 0x40_1000, 0);
        assert!(plan(&map, &[twice, twice], (9, 0x2000), None).is_err());
    }

    #[test]
    fn runs_of_the_base_show_its_file_and_need_one() {
        let map = vmas(&[(0x40_0000, 0x42_0000, RW)]);
        let based = Run {
            content: Content::Base,
            ..run(0x40_1000, 0x40_2000, 0x3000)
        };
        let runs = [run(0x40_0000, 0x40_1000, 0), based];
        let got = plan(&map, &runs, (9, 0x1000), Some((8, 0x4000))).unwrap();
        assert_eq!(got[0].source, Source::File(9, 0));
        assert_eq!(got[1].source, Source::File(8, 0x3000));
        assert!(plan(&map, &runs, (9, 0x1000), Some((8, 0x3000))).is_err());
        assert!(plan(&map, &runs, (9, 0x4000), None).is_err());
    }
}
