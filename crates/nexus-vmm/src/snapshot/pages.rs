//! Which pages of the stopped guest are its own, and copying them to the `pages` file.

use super::base::{Base, Shown};
use super::differences::Builder;
use super::format::{Content, PagesFile, Run};
use crate::layout::{CHUNK, PAGE};
use nexus_personality::memory::Memory;
use nexus_personality::mm::{Backing, Vma};
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Pages without content between two with some, at most, that are kept as zeros so that one mapping serves: each
/// mapping costs a restore 5 us, a zero page in a file nothing.
const GAP: u64 = 64;
/// Pages of the base between two of the guest's own, at most, that are copied for the same reason.
const BASE_GAP: u64 = 32;
/// Private mappings of files up to this size are kept whole, if anything of them was written.
const WHOLE: u64 = 2 << 20;
/// Program text that is kept although its file has it: an interpreter's takes 4 MiB.
const MOST_TEXT: u64 = 16 << 20;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// What the host has put in the place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    Nothing,
    /// One of this process's own.
    Own,
    /// A file's.
    Shared,
}

/// Reads `/proc/self/pagemap`, opened before the jail closed.
pub struct Pagemap(File);

impl Pagemap {
    /// # Errors
    /// No /proc.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// For each page from the host address `at`: is there a page of this process's own?
    ///
    /// # Errors
    /// The host's.
    pub fn own_pages(&self, at: u64, count: u64) -> io::Result<Vec<bool>> {
        let there = self.there(at, count)?;
        Ok(there.iter().map(|there| *there == There::Own).collect())
    }

    /// For each page from the host address `at`: what is there?
    ///
    /// # Errors
    /// The host's.
    pub fn there(&self, at: u64, count: u64) -> io::Result<Vec<There>> {
        let mut bytes = vec![0; count as usize * 8];
        self.0.read_exact_at(&mut bytes, at / PAGE * 8)?;
        let entries = bytes.as_chunks::<8>().0.iter();
        Ok(entries
            .map(|entry| match u64::from_le_bytes(*entry) {
                entry if entry & (PRESENT | SWAPPED) == 0 => There::Nothing,
                entry if entry & OF_FILE == 0 => There::Own,
                _ => There::Shared,
            })
            .collect())
    }
}

/// Where a page's content is to come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Page {
    /// What the mapping shows by itself: zeros, or its file.
    Clean,
    Own,
    /// The base's page at this offset.
    Base(u64),
}

/// What the pages from the host address `at` are; `own`: of this process's own, by the page map.
fn pages(at: u64, own: &[bool], shown: &[Shown]) -> Vec<Page> {
    let mut rest = shown.iter().peekable();
    own.iter()
        .zip((at..).step_by(PAGE as usize))
        .map(|(own, at)| {
            while rest.next_if(|s| s.end <= at).is_some() {}
            match rest.peek() {
                _ if *own => Page::Own,
                Some(s) if s.start <= at => Page::Base(s.offset + (at - s.start)),
                _ => Page::Clean,
            }
        })
        .collect()
}

struct Writer<'a> {
    file: &'a File,
    memory: Memory,
    offset: u64,
    checksum: crc32fast::Hasher,
    runs: Vec<Run>,
    base: Option<&'a Base>,
    changed: Vec<(u64, u64)>,
}

/// Where the pages of a guest are, which of them its base has not, and where it is told how these differ.
pub struct Saved {
    pub runs: Vec<Run>,
    pub changed: Vec<(u64, u64)>,
    pub differences: u64,
}

/// Copy what the guest wrote since it was made, or restored from `base`, to `file`; where each run of pages went, and what the file then is.
///
/// # Errors
/// The host's: a full disk above all.
pub fn save(
    process: &Process,
    window: Window,
    pagemap: &Pagemap,
    base: Option<&Base>,
    file: &File,
) -> io::Result<(Saved, PagesFile)> {
    let mut writer = Writer {
        file,
        memory: Memory::new(window),
        offset: 0,
        checksum: crc32fast::Hasher::new(),
        runs: Vec::new(),
        base,
        changed: Vec::new(),
    };
    let shown = base.map(Base::shown).transpose()?.unwrap_or_default();
    let mm = process.mm();
    let text = match base {
        None => text_chunks(mm.vmas()),
        Some(_) => Vec::new(),
    };
    // First, so that it lies at multiples of a chunk.
    for range in &text {
        writer.run(range.start, range.end)?;
    }
    for (start, vma) in mm.vmas() {
        let anonymous = match vma.backing {
            Backing::Anonymous => true,
            Backing::File(..) if !vma.shared => false,
            _ => continue,
        };
        let count = (vma.end - start) / PAGE;
        let host = window.base() + start;
        if vma.prot & (libc::PROT_READ | libc::PROT_WRITE) == 0 {
            make_readable(host, vma.end - start)?;
        }
        let mut own = pagemap.own_pages(host, count)?;
        let first = shown.partition_point(|s| s.end <= host);
        let shown = shown.get(first..).unwrap_or_default();
        if let Some(base) = base {
            writer.forget_unchanged(*start, host, &mut own, (base, shown))?;
        }
        let pages = pages(host, &own, shown);
        if pages.iter().all(|page| *page == Page::Clean) {
            continue;
        }
        let has_text = text.iter().any(|t| t.start < vma.end && *start < t.end);
        writer.mapping(*start, pages, anonymous, has_text)?;
    }
    writer.runs.sort_unstable_by_key(|run| run.start);
    let differences = writer.offset;
    if let Some(base) = base {
        writer.differences(base)?;
    }
    file.set_len(writer.offset)?;
    let pages = PagesFile {
        length: writer.offset,
        checksum: writer.checksum.finalize(),
    };
    let saved = Saved {
        runs: writer.runs,
        changed: writer.changed,
        differences,
    };
    Ok((saved, pages))
}

/// Whole chunks that show nothing but read-only memory of files, program text among it. The file of pages has them at the
/// same place modulo a chunk, so that the page cache can hold them as huge pages: one fault of the guest's each,
/// where the libraries' own cached pages are as small as whoever read them first left them.
fn text_chunks(vmas: &BTreeMap<u64, Vma>) -> Vec<Range<u64>> {
    let mut chunks: Vec<Range<u64>> = Vec::new();
    let mut left = MOST_TEXT / CHUNK;
    // Mappings without a gap between them, and those of them with text.
    let (mut stretch, mut text) = (0..0, Vec::<Range<u64>>::new());
    let mut finish = |stretch: &Range<u64>, text: &[Range<u64>]| {
        let first = stretch.start.next_multiple_of(CHUNK);
        for at in (first..stretch.end).step_by(CHUNK as usize) {
            let end = at + CHUNK;
            if end > stretch.end || left == 0 || !text.iter().any(|t| t.start < end && at < t.end) {
                continue;
            }
            left -= 1;
            match chunks.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => chunks.push(at..end),
            }
        }
    };
    for (start, vma) in vmas {
        let access = vma.prot & (libc::PROT_READ | libc::PROT_WRITE);
        let suits = matches!(vma.backing, Backing::File(..))
            && !vma.shared
            && !vma.written
            && access == libc::PROT_READ;
        if !suits || stretch.end != *start {
            finish(&stretch, &text);
            stretch = *start..*start;
            text.clear();
        }
        if suits {
            stretch.end = vma.end;
            if vma.prot & libc::PROT_EXEC != 0 {
                text.push(*start..vma.end);
            }
        }
    }
    finish(&stretch, &text);
    chunks
}

fn make_readable(host: u64, length: u64) -> io::Result<()> {
    // SAFETY: a range of the window; the guest is stopped for good.
    if unsafe { libc::mprotect(host as *mut libc::c_void, length as usize, libc::PROT_READ) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Writer<'_> {
    fn mapping(
        &mut self,
        start: u64,
        mut pages: Vec<Page>,
        anonymous: bool,
        has_text: bool,
    ) -> io::Result<()> {
        let address = |index: usize| start + index as u64 * PAGE;
        // What the base shows it shows here as well, whatever else is stored for it.
        let shown = pages.clone();
        if anonymous {
            for (index, page) in pages.iter_mut().enumerate() {
                if *page == Page::Own && self.is_zero(address(index)) {
                    *page = Page::Clean;
                }
            }
        } else if !has_text
            && pages.contains(&Page::Own)
            && pages.len() as u64 * PAGE <= WHOLE
            && self.readable(start, pages.len() as u64)
        {
            pages.fill(Page::Own);
        }
        let mut at = 0;
        while let Some(page) = pages.get(at) {
            let next = match page {
                Page::Clean => at + 1,
                Page::Own => {
                    let end = own_end(&pages, at, anonymous);
                    self.run(address(at), address(end))?;
                    for (index, page) in shown.iter().enumerate().take(end).skip(at) {
                        self.note(address(index), *page);
                    }
                    end
                }
                Page::Base(offset) => {
                    let end = base_end(&pages, at, *offset);
                    self.base_run(address(at), address(end), *offset);
                    end
                }
            };
            at = next;
        }
        Ok(())
    }

    /// Of the pages that were written, those whose content is the base's all the same: most were touched by counts of
    /// references that went up and down.
    fn forget_unchanged(
        &self,
        start: u64,
        host: u64,
        own: &mut [bool],
        (base, shown): (&Base, &[Shown]),
    ) -> io::Result<()> {
        let as_shown = pages(host, &vec![false; own.len()], shown);
        let mut content = [0; PAGE as usize];
        for (index, (own, page)) in own.iter_mut().zip(as_shown).enumerate() {
            let (true, Page::Base(offset)) = (*own, page) else {
                continue;
            };
            base.read(offset, &mut content)?;
            *own = self.page(start + index as u64 * PAGE) != Some(content);
        }
        Ok(())
    }

    /// Note the page at `address`, which is stored, as changed, unless the base shows it there.
    fn note(&mut self, address: u64, page: Page) {
        let Some(base) = self.base else { return };
        if matches!(page, Page::Base(offset) if base.offset(address) == Some(offset)) {
            return;
        }
        let number = address / PAGE;
        match self.changed.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => self.changed.push((number, 1)),
        }
    }

    fn base_run(&mut self, start: u64, end: u64, offset: u64) {
        self.push(Run {
            start,
            end,
            content: Content::Base,
            offset,
        });
    }

    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last)
                if last.end == run.start
                    && last.content == run.content
                    && last.offset + (last.end - last.start) == run.offset =>
            {
                last.end = run.end;
            }
            _ => self.runs.push(run),
        }
    }

    fn page(&self, address: u64) -> Option<[u8; PAGE as usize]> {
        let mut page = [0; PAGE as usize];
        self.memory
            .read_bytes(address, &mut page)
            .ok()
            .map(|()| page)
    }

    fn is_zero(&self, address: u64) -> bool {
        self.page(address)
            .is_some_and(|page| page.iter().all(|byte| *byte == 0))
    }

    /// How the changed pages differ from what the base shows there, behind all pages.
    fn differences(&mut self, base: &Base) -> io::Result<()> {
        let mut differences = Builder::default();
        let mut below = [0; PAGE as usize];
        for number in (self.changed.iter()).flat_map(|(first, count)| *first..first + count) {
            let address = number * PAGE;
            let page = self.page(address).ok_or_else(|| unreadable(address))?;
            let offset = base.offset(address);
            if let Some(offset) = offset {
                base.read(offset, &mut below)?;
            }
            differences.push(&page, offset.map(|offset| (offset, &below)));
        }
        let bytes = differences.finish();
        self.checksum.update(&bytes);
        self.file.write_all_at(&bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn readable(&self, start: u64, pages: u64) -> bool {
        (0..pages).all(|index| self.page(start + index * PAGE).is_some())
    }

    fn run(&mut self, start: u64, end: u64) -> io::Result<()> {
        let first = self.offset;
        for address in (start..end).step_by(PAGE as usize) {
            let page = self.page(address).ok_or_else(|| unreadable(address))?;
            self.checksum.update(&page);
            // A page of zeros stays a hole.
            if page.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(&page, self.offset)?;
            }
            self.offset += PAGE;
        }
        self.push(Run {
            start,
            end,
            content: Content::Own,
            offset: first,
        });
        Ok(())
    }
}

fn unreadable(address: u64) -> io::Error {
    io::Error::other(format!("guest page {address:#x} cannot be read"))
}

/// Where a run that begins with an own page ends, small gaps included.
fn own_end(pages: &[Page], first: usize, anonymous: bool) -> usize {
    let (mut end, mut clean, mut of_base) = (first + 1, 0, 0);
    for (index, page) in pages.iter().enumerate().skip(first + 1) {
        match page {
            Page::Own => (end, clean, of_base) = (index + 1, 0, 0),
            // The file's own content would have to be read to be kept.
            Page::Clean if !anonymous => break,
            Page::Clean => clean += 1,
            Page::Base(_) => of_base += 1,
        }
        if clean > GAP || of_base > BASE_GAP {
            break;
        }
    }
    end
}

/// Where a run of the base's pages ends that begins at its `offset`.
fn base_end(pages: &[Page], first: usize, offset: u64) -> usize {
    let follows = |(index, page): &(usize, &Page)| {
        **page == Page::Base(offset + (index - first) as u64 * PAGE)
    };
    first
        + pages
            .iter()
            .enumerate()
            .skip(first)
            .take_while(follows)
            .count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nexus_personality::files::{HostFile, Identity};

    #[test]
    fn a_page_is_own_or_the_bases_or_clean() {
        let shown = [
            Shown {
                start: 0x1000,
                end: 0x3000,
                offset: 0x8000,
            },
            Shown {
                start: 0x4000,
                end: 0x5000,
                offset: 0,
            },
        ];
        let got = pages(0x1000, &[false, true, false, false, true], &shown);
        let expected = [
            Page::Base(0x8000),
            Page::Own,
            Page::Clean,
            Page::Base(0),
            Page::Own,
        ];
        assert!(got == expected);
    }

    #[test]
    fn gaps_are_bridged_up_to_their_bounds() {
        let gap = |page: Page, count: u64| {
            let mut pages = vec![Page::Own];
            pages.extend((0..count).map(|_| page));
            pages.extend([Page::Own, Page::Clean]);
            pages
        };
        let end = |pages: &[Page], anonymous| own_end(pages, 0, anonymous);
        assert_eq!(end(&gap(Page::Clean, GAP), true), GAP as usize + 2);
        assert_eq!(end(&gap(Page::Clean, GAP + 1), true), 1);
        assert_eq!(end(&gap(Page::Clean, 1), false), 1);
        assert_eq!(
            end(&gap(Page::Base(0), BASE_GAP), false),
            BASE_GAP as usize + 2
        );
        assert_eq!(end(&gap(Page::Base(0), BASE_GAP + 1), true), 1);
    }

    /// Mappings, each from where the one before ends (after `gap` pages): pages, protection, of a file?
    fn vmas(list: &[(u64, u64, i32, bool)]) -> BTreeMap<u64, Vma> {
        // SAFETY: plain numbers.
        let stat: libc::stat = unsafe { std::mem::zeroed() };
        let file = std::sync::Arc::new(HostFile {
            fd: tempfile::tempfile().unwrap().into(),
            path: Vec::new(),
            identity: Identity::of(&stat),
            writable: false,
        });
        let mut at = 0x1_0000_0000;
        let mut map = BTreeMap::new();
        for (gap, count, prot, of_file) in list {
            let start = at + gap * PAGE;
            at = start + count * PAGE;
            let backing = if *of_file {
                Backing::File(std::sync::Arc::clone(&file), 0)
            } else {
                Backing::Anonymous
            };
            let written = prot & libc::PROT_WRITE != 0;
            let vma = Vma {
                end: at,
                prot: *prot,
                shared: false,
                written,
                read_only: false,
                backing,
            };
            map.insert(start, vma);
        }
        map
    }

    #[test]
    fn text_is_kept_by_whole_chunks_of_read_only_files() {
        const CHUNK_PAGES: u64 = CHUNK / PAGE;
        let (r, w) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
        let x = r | libc::PROT_EXEC;
        let kept = |list: &[(u64, u64, i32, bool)]| -> Vec<(u64, u64)> {
            let chunk = |at: u64| (at - 0x1_0000_0000) / CHUNK;
            text_chunks(&vmas(list))
                .into_iter()
                .map(|c| (chunk(c.start), chunk(c.end)))
                .collect()
        };
        // A library: two chunks, of which the second shares its end with data.
        assert_eq!(
            kept(&[
                (0, 100, r, true),
                (0, 800, x, true),
                (0, 60, r, true),
                (0, 90, w, true)
            ]),
            [(0, 1)]
        );
        assert_eq!(kept(&[(0, 100, r, true), (0, 924, x, true)]), [(0, 2)]);
        assert_eq!(kept(&[(1, CHUNK_PAGES, x, true)]), [], "no whole chunk");
        assert_eq!(kept(&[(0, 500, x, true), (1, 520, x, true)]), [], "a gap");
        assert_eq!(kept(&[(0, 2 * CHUNK_PAGES, r, true)]), [], "no text");
        assert_eq!(kept(&[(0, CHUNK_PAGES, x, false)]), [], "no file");
        assert_eq!(kept(&[(0, CHUNK_PAGES, w, true)]), [], "written");
        // The last chunk has no text.
        assert_eq!(kept(&[(0, 600, x, true), (0, 1000, r, true)]), [(0, 2)]);
        let most = MOST_TEXT / CHUNK;
        assert_eq!(kept(&[(0, (most + 3) * CHUNK_PAGES, x, true)]), [(0, most)]);
    }

    #[test]
    fn a_run_of_the_base_ends_where_its_offsets_jump() {
        let pages = [
            Page::Base(0x1000),
            Page::Base(0x2000),
            Page::Base(0x4000),
            Page::Own,
        ];
        assert_eq!(base_end(&pages, 0, 0x1000), 2);
        assert_eq!(base_end(&pages, 2, 0x4000), 3);
    }
}
