//! Which parts of the window still show the snapshot that the guest was restored from.
//! (unsafe: one page mapped and unmapped.)
//!
//! The kernel knows: whatever the guest has unmapped, moved or covered since, `/proc/self/maps` names the file that a
//! mapping shows. Which name it gives the file is seen from a mapping of our own, since file systems differ from `stat`
//! there.

use super::format::{PagesFile, Run};
use crate::layout::PAGE;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// `/proc/self/maps` of a process with all its mappings.
const MAX_MAPS: usize = 32 << 20;

/// A mapping of the base's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
}

/// The base of a running guest; opened before the jail closes.
pub struct Base {
    pub file: PagesFile,
    pages: File,
    maps: File,
    /// Device and inode, as `/proc/self/maps` writes them.
    name: String,
    /// Where its pages were at the restore, ascending by guest address.
    runs: Vec<Run>,
}

impl Base {
    /// For the base whose pages are open as `pages`.
    ///
    /// # Errors
    /// No /proc, or the file cannot be mapped.
    pub fn new(pages: &File, file: PagesFile, runs: Vec<Run>) -> io::Result<Self> {
        let maps = File::open("/proc/self/maps")?;
        let (size, no_hint) = (PAGE as usize, std::ptr::null_mut());
        // SAFETY: a fresh mapping where the kernel likes; nothing reads it.
        let probe = unsafe {
            libc::mmap(
                no_hint,
                size,
                libc::PROT_NONE,
                libc::MAP_PRIVATE,
                pages.as_raw_fd(),
                0,
            )
        };
        if probe == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let text = read(&maps);
        // SAFETY: the page mapped above.
        unsafe { libc::munmap(probe, size) };
        let at = probe as u64;
        let name = text?
            .lines()
            .filter_map(Line::parse)
            .find(|line| (line.start..line.end).contains(&at))
            .map(|line| line.name.to_owned())
            .ok_or_else(|| io::Error::other("/proc/self/maps lacks a mapping just made"))?;
        Ok(Self {
            file,
            pages: pages.try_clone()?,
            maps,
            name,
            runs,
        })
    }

    /// Where in its file the page is that a restore of the base shows at this guest address, if one of its own.
    pub fn offset(&self, address: u64) -> Option<u64> {
        Run::place(&self.runs, address).map(|(_, offset)| offset)
    }

    /// A page of the base.
    ///
    /// # Errors
    /// The host's.
    pub fn read(&self, offset: u64, page: &mut [u8; PAGE as usize]) -> io::Result<()> {
        self.pages.read_exact_at(page, offset)
    }

    /// Where the base's pages are mapped, by host address, ascending. A page there may have been written since.
    ///
    /// # Errors
    /// The host's.
    pub fn shown(&self) -> io::Result<Vec<Shown>> {
        let text = read(&self.maps)?;
        Ok(text
            .lines()
            .filter_map(Line::parse)
            .filter(|line| line.name == self.name)
            .map(|line| Shown {
                start: line.start,
                end: line.end,
                offset: line.offset,
            })
            .collect())
    }
}

/// The whole of `/proc/self/maps` as it is now.
fn read(maps: &File) -> io::Result<String> {
    let mut text = vec![];
    let mut part = vec![0; 1 << 16];
    loop {
        match maps.read_at(&mut part, text.len() as u64)? {
            0 => break,
            count => text.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
        if text.len() > MAX_MAPS {
            return Err(io::Error::other("/proc/self/maps is too long"));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct Line<'a> {
    start: u64,
    end: u64,
    offset: u64,
    name: &'a str,
}

impl<'a> Line<'a> {
    /// `start-end perms offset major:minor inode path`
    fn parse(line: &'a str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (_, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let inode = rest.find(' ')? + 1;
        let length = rest.get(inode..)?.find(' ').unwrap_or(rest.len() - inode);
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            offset: u64::from_str_radix(offset, 16).ok()?,
            name: rest.get(..inode + length)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn a_line_is_taken_apart() {
        let text = "7f01-7f03 r--p 0001c000 fd:01 1234     /a b/c (deleted)";
        let line = Line::parse(text).unwrap();
        assert_eq!(
            (line.start, line.end, line.offset),
            (0x7f01, 0x7f03, 0x1c000)
        );
        assert_eq!(line.name, "fd:01 1234");
        assert_eq!(
            Line::parse("7f01-7f03 r--p 00000000 00:00 0 ")
                .unwrap()
                .name,
            "00:00 0"
        );
        assert_eq!(
            Line::parse("7f01-7f03 r--p 00000000 00:00 0").unwrap().name,
            "00:00 0"
        );
        assert!(Line::parse("").is_none());
        assert!(Line::parse("x-y r--p 0 0:0 0").is_none());
    }

    #[test]
    fn mappings_of_the_file_are_found_and_no_others() {
        let mut file = tempfile();
        file.write_all(&vec![7; 3 * PAGE as usize]).unwrap();
        let pages = PagesFile {
            length: 3 * PAGE,
            checksum: 0,
        };
        let run = Run {
            start: 5 * PAGE,
            end: 7 * PAGE,
            content: super::super::format::Content::Own,
            offset: PAGE,
        };
        let base = Base::new(&file, pages, vec![run]).unwrap();
        let found = [4, 5, 6, 7].map(|page| base.offset(page * PAGE));
        assert_eq!(found, [None, Some(PAGE), Some(2 * PAGE), None]);
        assert_eq!(base.shown().unwrap(), []);
        let size = 2 * PAGE as usize;
        // SAFETY: a fresh mapping, unmapped below.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                PAGE as i64,
            )
        };
        let start = at as u64;
        assert_eq!(
            base.shown().unwrap(),
            [Shown {
                start,
                end: start + 2 * PAGE,
                offset: PAGE
            }]
        );
        // SAFETY: as above.
        unsafe { libc::munmap(at, size) };
        assert_eq!(base.shown().unwrap(), []);
    }

    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("nexus-base-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }
}
