//! The pages that a clone of a snapshot writes and reads before its first result: recorded once by a restored guest. Those
//! after it make what is written present ahead of need: each first write costs a fault in the guest and one in the host, a list of
//! them one call per stretch. Shells have both within the guest's reach before there is one.
//! (unsafe: madvise on the window; a signal handler that stores a flag.)
//!
//! A hint and nothing more: what it names is checked against the snapshot's own mappings, and what fails is left to
//! the guest's faults.

use super::exact::Exact;
use super::pages::{Pagemap, There};
use super::plan::{Segment, Source};
use super::read::open;
use crate::kvm::touch::Touch;
use crate::layout::PAGE;
use crate::report::{Event, Report};
use nexus_personality::mm::Backing;
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use serde::Deserialize;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most bytes read of one.
const MAX_FILE: u64 = 256 << 10;
/// Most stretches recorded.
const MAX_RANGES: usize = 4096;
/// Most pages made present ahead: 16 MiB.
const MAX_PAGES: u64 = 4096;
/// Most pages brought within reach ahead: each may take a fault, 33 us under shadow paging.
const MOST_TOUCHED: usize = 8192;
/// Pages looked at in one step, and in all: a guest may reserve far more than it writes.
const STEP: u64 = 1 << 17;
const MAX_LOOK: u64 = 1 << 20;
/// Stretches in one line of the report.
const PER_LINE: usize = 100;

/// A first page's number and a count of pages.
pub type Range = (u64, u64);

/// Asked to record (`SIGURG`).
static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn asked(_: libc::c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// What is known of a snapshot's use.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WorkingSet {
    pub written: Vec<Range>,
    /// Beside what is written.
    pub read: Vec<Range>,
    /// What the snapshot changed of its base: see [`super::format::Metadata`].
    pub changed: Vec<Range>,
}

/// Records the working set once, when nexusd asks by `SIGURG`.
pub struct Recorder {
    pagemap: Pagemap,
    exact: Option<Exact>,
    changed: Vec<Range>,
}

impl Recorder {
    /// Before the jail closes and before another thread exists, which would inherit an open mask: no system call of
    /// the guest's is to be interrupted.
    ///
    /// # Errors
    /// No /proc.
    pub fn new() -> io::Result<Self> {
        let pagemap = Pagemap::open()?;
        mask(libc::SIG_BLOCK);
        // SAFETY: a zeroed action is valid; the handler only stores a flag.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = asked as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGURG, &raw const action, std::ptr::null_mut());
        }
        Ok(Self {
            pagemap,
            exact: None,
            changed: Vec::new(),
        })
    }

    /// Have the reads of these segments recorded as well, where the host can tell which there were; and tell what is changed.
    pub fn tell_all(&mut self, segments: &[Segment], window: Window, changed: Vec<Range>) {
        self.exact = Exact::new(segments, window).ok();
        self.changed = changed;
    }

    /// Let the calling thread take the signal.
    pub fn listen(&self) {
        mask(libc::SIG_UNBLOCK);
    }

    /// If asked since: report what the guest has written. `true`: done.
    pub fn poll(&self, process: &Process, window: Window, report: &Report) -> bool {
        if !ASKED.load(Ordering::Relaxed) {
            return false;
        }
        let set = self.record(process, window).unwrap_or_default();
        let none: &[Range] = &[];
        let written = set.written.chunks(PER_LINE).map(|line| [line, none, none]);
        let read = set.read.chunks(PER_LINE).map(|line| [none, line, none]);
        let changed = self.changed.get(..MAX_RANGES).unwrap_or(&self.changed);
        let changed = changed.chunks(PER_LINE).map(|line| [none, none, line]);
        let mut lines = written.chain(read).chain(changed).peekable();
        while let Some([written, read, changed]) = lines.next() {
            report.send(&Event::WorkingSet {
                written,
                read,
                changed,
                last: lines.peek().is_none(),
            });
        }
        true
    }

    fn record(&self, process: &Process, window: Window) -> io::Result<WorkingSet> {
        let mut set = WorkingSet::default();
        let mut looks = MAX_LOOK;
        let mm = process.mm();
        for (start, vma) in mm.vmas() {
            let private =
                matches!(vma.backing, Backing::Anonymous | Backing::File(..)) && !vma.shared;
            if !private || vma.prot & (libc::PROT_READ | libc::PROT_WRITE) == 0 {
                continue;
            }
            let mut at = start / PAGE;
            while at < vma.end / PAGE && looks > 0 {
                let count = (vma.end / PAGE - at).min(STEP).min(looks);
                let there = self.pagemap.there(window.base() + at * PAGE, count)?;
                for (page, there) in (at..).zip(there) {
                    match there {
                        There::Own if vma.prot & libc::PROT_WRITE != 0 => {
                            note(&mut set.written, page)
                        }
                        There::Shared if self.exact.as_ref().is_some_and(|e| e.tells(page)) => {
                            note(&mut set.read, page);
                        }
                        _ => {}
                    }
                }
                at += count;
                looks -= count;
            }
        }
        Ok(set)
    }
}

fn note(ranges: &mut Vec<Range>, page: u64) {
    if let Some((first, count)) = ranges.last_mut()
        && *first + *count == page
    {
        *count += 1;
    } else if ranges.len() < MAX_RANGES {
        ranges.push((page, 1));
    }
}

fn mask(how: libc::c_int) {
    // SAFETY: live sets; plain calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGURG);
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// A working set that was kept; empty where there is none, or none that makes sense.
#[must_use]
pub fn read(path: &Path) -> WorkingSet {
    let mut text = Vec::new();
    open(path)
        .ok()
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut text).ok())
        .and_then(|_| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

/// Pages that shadow paging maps at one fault, where they are all the guest's own: an aligned group of them.
const GROUP: u64 = 8;
/// As many of a group, and the rest is made present as well: a page copied along costs 1 to 2 us, a fault of the
/// guest's 33. What it does not write after all it gives back at its first rest. CPU of a first call's hypervisor without
/// this and with 4, 3, 2 and 1: 63, 58, 54, 51 and 53 ms (medians); 3 adds 1.9 MiB until the rest, 2 another 3 MiB.
const ENOUGH: usize = 3;

/// `ranges`, which are in order, and the rest of those groups of which they have enough.
fn fill_groups(ranges: &[Range]) -> Vec<Range> {
    let mut filled: Vec<Range> = Vec::new();
    let mut push = |first: u64, count: u64| match filled.last_mut() {
        Some((start, length)) if start.saturating_add(*length) == first => *length += count,
        _ => filled.push((first, count)),
    };
    let pages: Vec<u64> = ranges
        .iter()
        .flat_map(|(first, count)| *first..first.saturating_add(*count))
        .take(MAX_PAGES as usize)
        .collect();
    for group in pages.chunk_by(|a, b| a / GROUP == b / GROUP) {
        match group.first() {
            Some(first) if group.len() >= ENOUGH => push(first - first % GROUP, GROUP),
            _ => group.iter().for_each(|page| push(*page, 1)),
        }
    }
    filled
}

/// Make present, as the guest's own copies, those pages of `ranges` that lie in writable `segments`; with `groups` the rest
/// of their groups too, where these show a file: what was zeros nothing would give back.
pub fn prefault(ranges: &[Range], groups: bool, segments: &[Segment], window: Window) {
    if !groups {
        return populate(ranges, segments, window);
    }
    let (zeros, files): (Vec<Segment>, Vec<Segment>) =
        segments.iter().partition(|s| s.source == Source::Zeros);
    populate(&fill_groups(ranges), &files, window);
    populate(ranges, &zeros, window);
}

/// The pages of working sets that a guest's own first touches would otherwise bring within its reach, of those that
/// `segments` show; of all sets together no more than [`MOST_TOUCHED`]. `groups`: as for [`prefault`].
///
/// # Errors
/// No /proc.
pub fn to_touch(
    sets: &[WorkingSet],
    groups: bool,
    segments: &[Segment],
    window: Window,
) -> io::Result<Vec<Touch>> {
    let pagemap = Pagemap::open()?;
    let mut pages: Vec<u64> = Vec::new();
    let used = sets.iter().flat_map(|set| {
        let written = match groups {
            true => fill_groups(&set.written),
            false => set.written.clone(),
        };
        [written, set.read.clone()]
    });
    let mut left = MOST_TOUCHED;
    for ranges in used {
        let parts = stretches(&ranges, segments, libc::PROT_READ);
        let all = parts
            .into_iter()
            .flat_map(|(start, end)| (start..end).step_by(PAGE as usize));
        let before = pages.len();
        pages.extend(all.take(left));
        left -= pages.len() - before;
    }
    pages.sort_unstable();
    pages.dedup();
    pages
        .into_iter()
        .map(|page| {
            // Where it is not the guest's own, a write would make it so.
            let own = pagemap.own_pages(window.base() + page, 1)? == [true];
            Ok(if own {
                Touch::Write(page)
            } else {
                Touch::Read(page)
            })
        })
        .collect()
}

fn populate(ranges: &[Range], segments: &[Segment], window: Window) {
    let mut left = MAX_PAGES;
    for (start, end) in stretches(ranges, segments, libc::PROT_WRITE) {
        let length = (end - start).min(left * PAGE);
        left -= length / PAGE;
        let Some(host) = window.host(start, length).filter(|_| length > 0) else {
            return;
        };
        // SAFETY: a part of a mapping in the window, which is the guest's; no Rust reference points there.
        unsafe {
            libc::madvise(
                host as *mut libc::c_void,
                length as usize,
                libc::MADV_POPULATE_WRITE,
            );
        }
    }
}

/// The parts of `ranges` in `segments` with this protection. Both are in order, or parts are missed.
fn stretches(ranges: &[Range], segments: &[Segment], prot: i32) -> Vec<(u64, u64)> {
    let mut segments = segments.iter().filter(|s| s.prot & prot != 0).peekable();
    let mut parts = Vec::new();
    for (first, count) in ranges {
        let bounds = first.checked_mul(PAGE).zip(
            first
                .checked_add(*count)
                .and_then(|end| end.checked_mul(PAGE)),
        );
        let Some((start, end)) = bounds else { break };
        while segments.next_if(|s| s.end <= start).is_some() {}
        while let Some(segment) = segments.peek() {
            let (from, to) = (start.max(segment.start), end.min(segment.end));
            if from < to {
                parts.push((from, to));
            }
            if segment.end >= end {
                break;
            }
            segments.next();
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn segment(first: u64, end: u64, prot: i32) -> Segment {
        Segment {
            start: first * PAGE,
            end: end * PAGE,
            prot,
            source: Source::Zeros,
        }
    }

    fn parts(ranges: &[Range]) -> Vec<Range> {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let segments = [
            segment(10, 20, writable),
            segment(20, 30, libc::PROT_READ),
            segment(30, 40, writable),
        ];
        stretches(ranges, &segments, libc::PROT_WRITE)
            .into_iter()
            .map(|(start, end)| (start / PAGE, end / PAGE))
            .collect()
    }

    #[test]
    fn only_writable_parts_are_touched() {
        assert_eq!(
            parts(&[(5, 6), (12, 1), (19, 12), (39, 9)]),
            [(10, 11), (12, 13), (19, 20), (30, 31), (39, 40)]
        );
    }

    #[test]
    fn groups_with_enough_are_filled_and_no_others() {
        assert_eq!(fill_groups(&[(1, 1), (3, 1)]), [(1, 1), (3, 1)]);
        assert_eq!(fill_groups(&[(9, 2), (15, 2), (24, 3)]), [(8, 9), (24, 8)]);
        assert_eq!(fill_groups(&[(6, 12)]), [(6, 12)]);
        assert_eq!(fill_groups(&[]), []);
    }

    #[test]
    fn groups_of_impossible_ranges_are_few() {
        let (pages, last) = (MAX_PAGES, u64::MAX / PAGE);
        assert_eq!(fill_groups(&[(0, u64::MAX), (1, u64::MAX)]), [(0, pages)]);
        assert_eq!(fill_groups(&[(u64::MAX, 9)]), []);
        fill_groups(&[(u64::MAX - 3, 3), (last, 9), (5, 0)]);
    }

    #[test]
    fn impossible_ranges_are_passed_over() {
        assert_eq!(parts(&[(u64::MAX, 1)]), []);
        assert_eq!(parts(&[(1, u64::MAX)]), []);
        assert_eq!(parts(&[(u64::MAX / PAGE, 9), (12, 1)]), []);
    }

    #[test]
    fn what_is_named_is_present_and_nothing_else() {
        let window = Window::reserve().unwrap();
        let first = nexus_personality::window::USER_START / PAGE;
        let segments = [segment(
            first,
            first + 8,
            libc::PROT_READ | libc::PROT_WRITE,
        )];
        crate::snapshot::plan::map(&segments, window).unwrap();
        prefault(&[(first + 1, 2), (first + 6, 9)], false, &segments, window);
        let pages = Pagemap::open()
            .unwrap()
            .own_pages(window.base() + first * PAGE, 10)
            .unwrap();
        let present: Vec<usize> = (0..10).filter(|n| pages[*n]).collect();
        assert_eq!(present, [1, 2, 6, 7]);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: a path of ours.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!(read(&path), WorkingSet::default());
    }

    #[test]
    fn a_damaged_file_is_no_working_set() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("working-set");
        assert_eq!(read(&path), WorkingSet::default());
        for text in [
            "",
            "[[1,2]]",
            "{}",
            r#"{"written":[[-1,2]],"read":[],"changed":[]}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path), WorkingSet::default(), "{text}");
        }
        std::fs::write(
            &path,
            r#"{"written":[[1,2],[9,1]],"read":[[4,1]],"changed":[[2,3]]}"#,
        )
        .unwrap();
        let set = WorkingSet {
            written: vec![(1, 2), (9, 1)],
            read: vec![(4, 1)],
            changed: vec![(2, 3)],
        };
        assert_eq!(read(&path), set);
    }
}
