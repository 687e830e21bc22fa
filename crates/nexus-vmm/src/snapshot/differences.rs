//! What of a snapshot's changed pages its base has not, by lines of 64 bytes: a twentieth of their bytes, where most of them
//! were changed by counts of references and links of lists. A shell that shows the base writes these alone.
//!
//! They lie behind the pages, in the same file: an index with an entry for each changed page in order (the base's page that
//! it was compared with, by its offset, or `NONE`; a mask of the lines that differ), then those lines, page by page. All
//! numbers are little-endian.

use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::window::Window;
use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a line, of which a page has as many as a mask has bits.
const LINE: usize = 64;
/// Bytes of an entry.
const ENTRY: u64 = 16;
/// In place of an offset: the base has no such page.
const NONE: u64 = u64::MAX;
/// Read at a time.
const BUFFER: usize = 64 << 10;

pub type Page = [u8; PAGE as usize];

/// Collects them.
#[derive(Default)]
pub struct Builder {
    index: Vec<u8>,
    lines: Vec<u8>,
}

impl Builder {
    /// The next changed page; `base`: the base's page there, and its offset.
    pub fn push(&mut self, page: &Page, base: Option<(u64, &Page)>) {
        let (mut offset, mut mask) = (NONE, 0_u64);
        if let Some((at, base)) = base {
            offset = at;
            let both = page.as_chunks::<LINE>().0.iter().zip(base.as_chunks().0);
            for (number, (line, _)) in both.enumerate().filter(|(_, (line, base))| line != base) {
                mask |= 1 << number;
                self.lines.extend_from_slice(line);
            }
        }
        self.index.extend_from_slice(&offset.to_le_bytes());
        self.index.extend_from_slice(&mask.to_le_bytes());
    }

    /// What is to lie behind the pages: whole pages as well.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut all = [self.index, self.lines].concat();
        all.resize(all.len().next_multiple_of(PAGE as usize), 0);
        all
    }
}

/// How one page differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    base: u64,
    mask: u64,
    /// Where its lines begin in the file.
    lines: u64,
}

/// The index of a snapshot's differences. It was written by a tenant's hypervisor.
#[derive(Debug, Default)]
pub struct Differences(Vec<Entry>);

impl Differences {
    /// Of so many pages, from `offset` on in a file of this length.
    ///
    /// # Errors
    /// They do not lie in the file; the host's.
    pub fn read(file: &File, length: u64, offset: u64, pages: u64) -> io::Result<Self> {
        let outside = || io::Error::other("the snapshot's differences do not lie in its file");
        let room = length.checked_sub(offset).ok_or_else(outside)?;
        let size = (pages.checked_mul(ENTRY))
            .filter(|size| *size <= room)
            .ok_or_else(outside)?;
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, offset)?;
        let mut at = offset + size;
        let entries: Vec<Entry> = (bytes.as_chunks::<8>().0.as_chunks::<2>().0.iter())
            .map(|[base, mask]| {
                let (base, mask) = (u64::from_le_bytes(*base), u64::from_le_bytes(*mask));
                let lines = at;
                // No more than 64 lines for each 16 bytes that were in the file.
                at += u64::from(mask.count_ones()) * LINE as u64;
                Entry { base, mask, lines }
            })
            .collect();
        if at > length {
            return Err(outside());
        }
        Ok(Self(entries))
    }
}

/// Reads lines, which are asked for in order as a rule.
pub struct Reader<'a> {
    differences: &'a Differences,
    file: &'a File,
    buffer: Vec<u8>,
    /// Where what is buffered begins in the file, and how much it is.
    buffered: (u64, usize),
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(differences: &'a Differences, file: &'a File) -> Self {
        Self {
            differences,
            file,
            buffer: vec![0; BUFFER],
            buffered: (0, 0),
        }
    }

    /// Make the page at `address`, which shows the base's at `base`, the changed page of this number. `false`: that was not
    /// compared with it.
    ///
    /// # Errors
    /// The host's; the page is not the guest's to write.
    pub fn write(
        &mut self,
        number: u64,
        base: u64,
        address: u64,
        memory: Memory,
    ) -> io::Result<bool> {
        let found = usize::try_from(number).ok();
        let found = found.and_then(|number| self.differences.0.get(number));
        let Some(entry) = found.filter(|entry| entry.base == base).copied() else {
            return Ok(false);
        };
        let (mut mask, mut at) = (entry.mask, entry.lines);
        while mask != 0 {
            let first = mask.trailing_zeros();
            let count = (mask >> first).trailing_ones();
            mask &= !((u64::MAX >> (u64::BITS - count)) << first);
            let length = count as usize * LINE;
            let bytes = self.bytes(at, length)?;
            memory
                .write_bytes(address + u64::from(first) * LINE as u64, bytes)
                .map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
            at += length as u64;
        }
        Ok(true)
    }

    /// Have the processor fetch the lines that this page's differences will be written to: they have lain there since a shell was made.
    pub fn expect(&self, number: u64, address: u64, window: Window) {
        let found = usize::try_from(number).ok();
        let found = found.and_then(|number| self.differences.0.get(number));
        let Some(host) = window.host(address, PAGE) else {
            return;
        };
        let mut mask = found.map_or(0, |entry| entry.mask);
        while mask != 0 {
            let at = host + u64::from(mask.trailing_zeros()) * LINE as u64;
            // SAFETY: a hint, whatever is there.
            unsafe {
                _mm_prefetch::<_MM_HINT_ET0>(at as *const i8);
            };
            mask &= mask - 1;
        }
    }

    /// Bytes of the file, a page of them at the most.
    fn bytes(&mut self, at: u64, length: usize) -> io::Result<&[u8]> {
        let (start, count) = self.buffered;
        let held = |start: u64, count: usize| {
            let skip = usize::try_from(at.checked_sub(start)?).ok()?;
            (skip.checked_add(length)? <= count).then_some(skip)
        };
        let skip = match held(start, count) {
            Some(skip) => skip,
            None => {
                self.buffered = (at, 0);
                while self.buffered.1 < length {
                    let (start, count) = self.buffered;
                    let rest = self.buffer.get_mut(count..).unwrap_or_default();
                    match self.file.read_at(rest, start + count as u64) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(more) => self.buffered.1 += more,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                0
            }
        };
        (self.buffer.get(skip..skip + length)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// Whether the pages of the snapshot, each at its offset, are what the base's pages become with their differences. `pages`: in
/// order, where each lies in the snapshot's file.
///
/// # Errors
/// Which is not; the host's.
pub fn verify(
    differences: &Differences,
    pages: impl Iterator<Item = Option<u64>>,
    own: &File,
    base: &File,
) -> io::Result<()> {
    let mut reader = Reader::new(differences, own);
    let (mut page, mut made): (Page, Page) = ([0; PAGE as usize], [0; PAGE as usize]);
    for (entry, offset) in differences.0.iter().zip(pages) {
        if entry.base == NONE {
            continue;
        }
        let offset = offset
            .ok_or_else(|| io::Error::other("a changed page of the snapshot is not stored"))?;
        own.read_exact_at(&mut page, offset)?;
        base.read_exact_at(&mut made, entry.base)?;
        let mut at = entry.lines;
        for (number, line) in made.as_chunks_mut::<LINE>().0.iter_mut().enumerate() {
            if entry.mask & (1 << number) != 0 {
                line.copy_from_slice(reader.bytes(at, LINE)?);
                at += LINE as u64;
            }
        }
        if page != made {
            return Err(io::Error::other(
                "the snapshot's differences are not those of its pages",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nexus_personality::window::USER_START;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::os::fd::AsRawFd;

    const FIRST: u64 = 3 * PAGE;

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn length(file: &File) -> u64 {
        file.metadata().unwrap().len()
    }

    /// A base's page and what became of it.
    fn pair() -> impl Strategy<Value = (bool, Vec<(usize, u8)>)> {
        (any::<bool>(), vec((0..PAGE as usize, any::<u8>()), 0..40))
    }

    /// Three pages, and behind them the differences of two that lie at the second and third.
    fn made(pairs: &[(bool, Vec<(usize, u8)>)]) -> (File, File, Vec<Page>, u64) {
        let count = pairs.len();
        let (mut own, mut base) = (Vec::new(), Vec::new());
        let (mut pages, mut builder) = (Vec::new(), Builder::default());
        for (number, (compared, writes)) in pairs.iter().enumerate() {
            let before: Page = std::array::from_fn(|at| (at / 7 + number) as u8);
            let mut page = before;
            writes.iter().for_each(|(at, byte)| page[*at] = *byte);
            let offset = number as u64 * PAGE;
            builder.push(&page, compared.then_some((offset, &before)));
            own.extend_from_slice(&page);
            base.extend_from_slice(&before);
            pages.push(page);
        }
        let behind = builder.finish();
        assert!(
            behind.len() as u64 >= count as u64 * ENTRY
                && (behind.len() as u64).is_multiple_of(PAGE)
        );
        own.extend_from_slice(&behind);
        (file(&own), file(&base), pages, count as u64 * PAGE)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_bases_page_becomes_the_snapshots(pairs in vec(pair(), 1..12)) {
            nexus_personality::host::install_handlers().unwrap();
            let (own, base, pages, offset) = made(&pairs);
            let count = pairs.len() as u64;
            let differences = Differences::read(&own, length(&own), offset, count).unwrap();
            let places = || (0..count).map(|number| Some(number * PAGE));
            verify(&differences, places(), &own, &base).unwrap();
            let window = Window::reserve().unwrap();
            let host = (window.base() + USER_START) as *mut libc::c_void;
            let bytes = (count * PAGE) as usize;
            // SAFETY: a part of the window, which is this test's.
            let at = unsafe {
                libc::mmap(host, bytes, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED, base.as_raw_fd(), 0)
            };
            prop_assert_eq!(at, host);
            let memory = Memory::new(window);
            let mut reader = Reader::new(&differences, &own);
            for (number, ((compared, _), page)) in pairs.iter().zip(&pages).enumerate() {
                let at = number as u64 * PAGE;
                let number = number as u64;
                prop_assert!(!reader.write(number, at + PAGE, USER_START + at, memory).unwrap(), "another page of the base's");
                let written = reader.write(number, at, USER_START + at, memory).unwrap();
                prop_assert_eq!(written, *compared);
                let mut found = [0; PAGE as usize];
                memory.read_bytes(USER_START + at, &mut found).unwrap();
                if written {
                    prop_assert!(found == *page);
                }
            }
            window.release();
        }

        #[test]
        fn whatever_the_index_says_no_byte_outside_the_file_is_asked_for(
            index in vec(any::<u64>(), 0..24), offset in 0..2 * FIRST, pages in prop_oneof![0..40_u64, any::<u64>()],
        ) {
            let mut bytes = vec![0; FIRST as usize];
            index.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
            let file = file(&bytes);
            if let Ok(differences) = Differences::read(&file, length(&file), offset, pages) {
                prop_assert!(differences.0.len() as u64 == pages);
                let end = differences.0.last().map_or(0, |e| e.lines + u64::from(e.mask.count_ones()) * LINE as u64);
                prop_assert!(end <= length(&file));
            }
        }
    }

    #[test]
    fn differences_of_other_pages_are_found_out() {
        let pairs = [(true, vec![(70, 1), (4000, 2)]), (true, vec![(0, 9)])];
        let (own, base, _, offset) = made(&pairs);
        let places = || [Some(0), Some(PAGE)].into_iter();
        let check = || {
            let differences = Differences::read(&own, length(&own), offset, 2).unwrap();
            verify(&differences, places(), &own, &base)
        };
        check().unwrap();
        let differences = Differences::read(&own, length(&own), offset, 2).unwrap();
        assert!(verify(&differences, [Some(0), None].into_iter(), &own, &base).is_err());
        // A bit of a line; the mask.
        for at in [offset + 2 * ENTRY + 6, offset + 8] {
            let mut byte = [0];
            own.read_exact_at(&mut byte, at).unwrap();
            own.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert!(check().is_err());
            own.write_all_at(&byte, at).unwrap();
        }
        check().unwrap();
    }
}
