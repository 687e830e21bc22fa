//! What an instance at rest has given back, and how it becomes as it was. (unsafe: madvise.)
//!
//! A page that shows its snapshot's bytes is dropped: the mapping shows them still. Of a page that differs in little, as one
//! does in which references are counted, the differing words are kept, and the page is dropped too.

use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::window::Window;
use std::ops::Range;

/// Bytes that the difference of a page may take. Measured on a small S3 handler at rest: of 448 pages that differ, 421 stay
/// below, with 35 KiB together.
const MOST: usize = PAGE as usize / 4;
const WORD: usize = 8;

/// Stretches of host addresses, and what was written there.
#[derive(Default)]
pub struct Given {
    ranges: Vec<Range<u64>>,
    /// Host address of a page, and how many of the runs are its own.
    pages: Vec<(u64, u16)>,
    /// First word in the page, and how many words.
    runs: Vec<(u16, u16)>,
    /// The runs' words, one behind the other.
    bytes: Vec<u8>,
}

impl Given {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Drop the page at `host`, which shows `shown` where the mapping below has `kept`: where it is worth it, and, if they
    /// differ, where it could be written again (`writable`).
    ///
    /// # Safety
    /// The page is part of a private mapping that shows `kept` there, nobody looks at it until [`Given::take_again`], and no
    /// Rust reference points there.
    pub unsafe fn give(&mut self, host: u64, kept: &[u8], shown: &[u8], writable: bool) {
        let before = (self.runs.len(), self.bytes.len());
        let fits = kept == shown || (writable && self.note(kept, shown));
        let page = host..host + PAGE;
        if !fits || !advise(&page, libc::MADV_DONTNEED) {
            self.runs.truncate(before.0);
            self.bytes.truncate(before.1);
            return;
        }
        if self.runs.len() > before.0 {
            // At most one for each two words of a page.
            self.pages.push((host, (self.runs.len() - before.0) as u16));
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == host => last.end = page.end,
            _ => self.ranges.push(page),
        }
    }

    /// Keep where `shown` differs from `kept`. `false`: in too many places, and some of them are kept already.
    fn note(&mut self, kept: &[u8], shown: &[u8]) -> bool {
        let most = self.bytes.len() + MOST;
        let first = self.runs.len();
        let words = kept.chunks_exact(WORD).zip(shown.chunks_exact(WORD));
        for (at, (_, shown)) in words.enumerate().filter(|(_, (kept, shown))| kept != shown) {
            let at = at as u16;
            match self.runs.get_mut(first..).and_then(<[_]>::last_mut) {
                Some((start, length)) if *start + *length == at => *length += 1,
                _ => self.runs.push((at, 1)),
            }
            self.bytes.extend_from_slice(shown);
            if self.bytes.len() + (self.runs.len() - first) * size_of::<(u16, u16)>() > most {
                return false;
            }
        }
        true
    }

    /// Keep no more memory than is needed.
    pub fn shrink(&mut self) {
        self.ranges.shrink_to_fit();
        self.pages.shrink_to_fit();
        self.runs.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }

    /// Make what was given back the instance's own again, with what it had written there. In one go: its next event will write
    /// there as the last one did, at the price of a fault of the guest's and one of the host's for each page.
    ///
    /// Ends the process where the host lets it write there no more: a guest must not go on with memory of another time.
    pub fn take_again(&self, window: Window) {
        for range in &self.ranges {
            // Where this fails, the first access does it.
            advise(range, libc::MADV_POPULATE_WRITE);
        }
        let memory = Memory::new(window);
        let (mut runs, mut bytes) = (self.runs.iter(), self.bytes.as_slice());
        for &(host, count) in &self.pages {
            for &(at, length) in runs.by_ref().take(usize::from(count)) {
                let address = host - window.base() + u64::from(at) * WORD as u64;
                let written = bytes
                    .split_off(..usize::from(length) * WORD)
                    .is_some_and(|words| memory.write_bytes(address, words).is_ok());
                if !written {
                    std::process::abort();
                }
            }
        }
    }

    #[cfg(test)]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

fn advise(range: &Range<u64>, advice: libc::c_int) -> bool {
    let length = (range.end - range.start) as usize;
    // SAFETY: pages of the window, of which the caller of `give` promises what is needed to drop them; what is populated keeps
    // its content.
    unsafe { libc::madvise(range.start as *mut libc::c_void, length, advice) == 0 }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::plan::{Segment, Source, map};
    use nexus_personality::window::USER_START;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    const COUNT: u64 = 4;
    const SIZE: usize = (COUNT * PAGE) as usize;

    /// Words of the page, by their place; many, few or none.
    fn changes() -> impl Strategy<Value = Vec<(usize, u64)>> {
        let change = || (0..SIZE / WORD, any::<u64>());
        prop_oneof![vec(change(), 0..60), vec(change(), 0..2000)]
    }

    fn read(memory: &Memory) -> Vec<u8> {
        let mut shown = vec![0; SIZE];
        memory.read_bytes(USER_START, &mut shown).unwrap();
        shown
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn memory_is_as_it_was(content in any::<[u8; 32]>(), changes in changes(), writable: bool) {
            let kept = content.repeat(SIZE / content.len());
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&kept, 0).unwrap();
            let window = Window::reserve().unwrap();
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let (start, end) = (USER_START, USER_START + COUNT * PAGE);
            map(&[Segment { start, end, prot, source: Source::File(file.as_raw_fd(), 0) }], window).unwrap();
            let memory = Memory::new(window);
            for (place, word) in changes {
                memory.write(USER_START + (place * WORD) as u64, word).unwrap();
            }
            let shown = read(&memory);
            let mut given = Given::default();
            let pages = kept.chunks(PAGE as usize).zip(shown.chunks(PAGE as usize));
            for (host, (kept, shown)) in (window.base() + USER_START..).step_by(PAGE as usize).zip(pages) {
                // SAFETY: a page of the test's own window, mapped from what `kept` was written to.
                unsafe { given.give(host, kept, shown, writable) };
            }
            given.shrink();
            let dropped: u64 = given.ranges().iter().map(|r| (r.end - r.start) / PAGE).sum();
            let differ = |(kept, shown): &(&[u8], &[u8])| {
                kept.chunks(WORD).zip(shown.chunks(WORD)).filter(|(kept, shown)| kept != shown).count()
            };
            let pages = kept.chunks(PAGE as usize).zip(shown.chunks(PAGE as usize));
            // What takes at most 12 bytes for each changed word certainly fits; what takes 8 and is more does not.
            let certain = pages.clone().map(|p| differ(&p)).filter(|n| *n == 0 || (writable && n * 12 <= MOST)).count();
            let possible = pages.map(|p| differ(&p)).filter(|n| *n == 0 || (writable && n * 8 < MOST)).count();
            prop_assert!((certain..=possible).contains(&(dropped as usize)));
            for range in given.ranges() {
                let at = (range.start - window.base() - USER_START) as usize;
                let length = (range.end - range.start) as usize;
                prop_assert_eq!(&read(&memory)[at..at + length], &kept[at..at + length]);
            }
            given.take_again(window);
            prop_assert_eq!(read(&memory), shown);
        }
    }
}
