//! Which pages of the stopped guest are its own, and copying them to the `pages` file.

use super::format::{PagesFile, Run};
use crate::layout::PAGE;
use nexus_personality::memory::Memory;
use nexus_personality::mm::Backing;
use nexus_personality::process::Process;
use nexus_personality::window::Window;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages without content between two with some, at most, that are kept as zeros so that one mapping serves: each
/// mapping costs a restore 5 us, a zero page in a file nothing.
const GAP: u64 = 64;
/// Private mappings of files up to this size are kept whole, if anything of them was written.
const WHOLE: u64 = 2 << 20;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

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
        let mut bytes = vec![0; count as usize * 8];
        self.0.read_exact_at(&mut bytes, at / PAGE * 8)?;
        Ok(bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| {
                let entry = u64::from_le_bytes(*entry);
                entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
            })
            .collect())
    }
}

struct Writer<'a> {
    file: &'a File,
    memory: Memory,
    offset: u64,
    checksum: crc32fast::Hasher,
    runs: Vec<Run>,
}

/// Copy what the guest wrote to `file`; where each run of pages went, and what the file then is.
///
/// # Errors
/// The host's: a full disk above all.
pub fn save(
    process: &Process,
    window: Window,
    pagemap: &Pagemap,
    file: &File,
) -> io::Result<(Vec<Run>, PagesFile)> {
    let mut writer = Writer {
        file,
        memory: Memory::new(window),
        offset: 0,
        checksum: crc32fast::Hasher::new(),
        runs: Vec::new(),
    };
    let mm = process.mm();
    for (start, vma) in mm.vmas() {
        let anonymous = match vma.backing {
            Backing::Anonymous => true,
            Backing::File(..) if !vma.shared => false,
            _ => continue,
        };
        let count = (vma.end - start) / PAGE;
        let own = pagemap.own_pages(window.base() + start, count)?;
        if !own.contains(&true) {
            continue;
        }
        if vma.prot & libc::PROT_READ == 0 && vma.prot & libc::PROT_WRITE == 0 {
            make_readable(window.base() + start, vma.end - start)?;
        }
        writer.mapping(*start, own, anonymous)?;
    }
    file.set_len(writer.offset)?;
    let pages = PagesFile {
        length: writer.offset,
        checksum: writer.checksum.finalize(),
    };
    Ok((writer.runs, pages))
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
    fn mapping(&mut self, start: u64, mut own: Vec<bool>, anonymous: bool) -> io::Result<()> {
        if anonymous {
            for (index, own) in own.iter_mut().enumerate() {
                *own = *own && !self.is_zero(start + index as u64 * PAGE);
            }
        } else if own.len() as u64 * PAGE <= WHOLE && self.readable(start, own.len() as u64) {
            own.fill(true);
        }
        let gap = if anonymous { GAP } else { 0 };
        let mut at = 0;
        while let Some(first) = own[at..].iter().position(|own| *own) {
            let first = at + first;
            let (mut end, mut next) = (first + 1, first + 1);
            while next < own.len() && (next - end) as u64 <= gap {
                next += 1;
                if own[next - 1] {
                    end = next;
                }
            }
            self.run(start + first as u64 * PAGE, start + end as u64 * PAGE)?;
            at = end;
        }
        Ok(())
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

    fn readable(&self, start: u64, pages: u64) -> bool {
        (0..pages).all(|index| self.page(start + index * PAGE).is_some())
    }

    fn run(&mut self, start: u64, end: u64) -> io::Result<()> {
        let first = self.offset;
        for address in (start..end).step_by(PAGE as usize) {
            let page = self.page(address).ok_or_else(|| {
                io::Error::other(format!("guest page {address:#x} cannot be read"))
            })?;
            self.checksum.update(&page);
            // A page of zeros stays a hole.
            if page.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(&page, self.offset)?;
            }
            self.offset += PAGE;
        }
        match self.runs.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => self.runs.push(Run {
                start,
                end,
                offset: first,
            }),
        }
        Ok(())
    }
}
