//! The host's vDSO, shown to the guest, so that reading the clock is no exit. (unsafe: reads the vDSO's pages.)
//!
//! The kernel maps two things into every process: pages of data that it keeps up to date (`[vvar]`) and, right behind
//! them, a small library that reads them (`[vdso]`, vdso(7)). A read-only slot over both gives the guest the same clock
//! at the same price; where the host's clock source is not the TSC, the library itself falls back to a system call.

use serde::{Deserialize, Serialize};

const PAGE: u64 = crate::layout::PAGE;
/// Pages of data, and of code, at most. Linux 6.18 has 6 and 2.
const MAX_PAGES: u64 = crate::layout::system::CLOCK_PAGES / 2;
/// SHT_DYNSYM, and bytes of a symbol.
const DYNAMIC_SYMBOLS: u32 = 11;
const SYMBOL: usize = 24;

/// getcpu(2) as this hypervisor answers it: CPU 0 of node 0, which every guest has. What is not asked for is null.
const GETCPU: &[u8] = &[
    0x31, 0xc0, // xor %eax, %eax
    0x48, 0x85, 0xff, // test %rdi, %rdi
    0x74, 0x02, // je over
    0x89, 0x07, // mov %eax, (%rdi)
    0x48, 0x85, 0xf6, // over: test %rsi, %rsi
    0x74, 0x02, // je end
    0x89, 0x06, // mov %eax, (%rsi)
    0xc3, // end: ret
];

/// Which vDSO a guest was linked with: the same build has the same layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub data_pages: u64,
    pub code_pages: u64,
    pub checksum: u32,
}

/// The host's vDSO in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Host address of the data pages; the code follows.
    pub host: u64,
    pub identity: Identity,
}

/// Address of the vDSO's code, from the auxiliary vector.
fn code_address() -> Option<u64> {
    // SAFETY: no preconditions.
    Some(unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) })
        .filter(|a| *a != 0 && a.is_multiple_of(PAGE))
}

/// Sum of the code pages at `address`.
fn checksum(address: u64, pages: u64) -> u32 {
    let length = usize::try_from(pages * PAGE).unwrap_or(0);
    // SAFETY: the kernel mapped these pages, readable and for the process's life; they never change.
    crc32fast::hash(unsafe { std::slice::from_raw_parts(address as *const u8, length) })
}

impl Clock {
    /// Find it by the table of mappings. `None` where the host has none, or of a form this program does not know.
    #[must_use]
    pub fn find() -> Option<Self> {
        let code = code_address()?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let (mut host, mut data_end, mut code_end) = (None, 0, 0);
        for line in maps.lines() {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let (start, end) = (
                u64::from_str_radix(start, 16).ok()?,
                u64::from_str_radix(end, 16).ok()?,
            );
            if rest.contains("[vvar") {
                // The parts lie one behind another.
                if host.is_some() && start != data_end {
                    return None;
                }
                host = host.or(Some(start));
                data_end = end;
            } else if start == code {
                code_end = end;
            }
        }
        let host = host.filter(|_| data_end == code && code_end > code)?;
        let (data_pages, code_pages) = ((code - host) / PAGE, (code_end - code) / PAGE);
        if data_pages > MAX_PAGES || code_pages > MAX_PAGES {
            return None;
        }
        let identity = Identity {
            data_pages,
            code_pages,
            checksum: checksum(code, code_pages),
        };
        Some(Self { host, identity })
    }

    /// The one that a snapshot was taken with, without reading the table of mappings.
    ///
    /// # Errors
    /// This host's is another.
    pub fn known(identity: Identity) -> Result<Self, String> {
        let other = || "the snapshot was taken under another kernel (its vDSO differs)".to_owned();
        let code = code_address().ok_or_else(other)?;
        if identity.data_pages > MAX_PAGES
            || identity.code_pages == 0
            || identity.code_pages > MAX_PAGES
        {
            return Err(other());
        }
        // One page first: a shorter vDSO than the snapshot's is told by its own header, which has its size.
        let found = Self::find_pages(code)?;
        if found < identity.code_pages || checksum(code, identity.code_pages) != identity.checksum {
            return Err(other());
        }
        let host = code
            .checked_sub(identity.data_pages * PAGE)
            .ok_or_else(other)?;
        Ok(Self { host, identity })
    }

    /// Pages that the ELF image at `code` takes, by its section headers at its end.
    fn find_pages(code: u64) -> Result<u64, String> {
        let field = |offset: u64| {
            // SAFETY: within the ELF header, in the vDSO's first page.
            unsafe { ((code + offset) as *const u64).read_unaligned() }
        };
        // e_shoff, then e_shentsize and e_shnum (elf(5)).
        let sections = field(0x28);
        let entry = field(0x3a) & 0xffff;
        let count = field(0x3c) & 0xffff;
        let end = sections
            .checked_add(entry * count)
            .filter(|e| *e <= MAX_PAGES * PAGE);
        end.map(|e| e.div_ceil(PAGE))
            .ok_or_else(|| "the host's vDSO has an unknown form".to_owned())
    }

    /// The code pages that a guest gets in place of the host's, by their indices: those of getcpu(2), where the host's
    /// tells which of the host's CPUs it runs on.
    #[must_use]
    pub fn own_pages(&self) -> Vec<(u64, Vec<u8>)> {
        let length = usize::try_from(self.identity.code_pages * PAGE).unwrap_or(0);
        let code = self.host + self.identity.data_pages * PAGE;
        // SAFETY: the kernel mapped these pages, readable and for the process's life; they never change.
        let image = unsafe { std::slice::from_raw_parts(code as *const u8, length) };
        let Some((at, size)) = function(image, b"__vdso_getcpu") else {
            return Vec::new();
        };
        let end = at.saturating_add(GETCPU.len() as u64);
        if size < GETCPU.len() as u64 || end > length as u64 {
            return Vec::new();
        }
        let mut pages = Vec::new();
        for index in at / PAGE..end.div_ceil(PAGE) {
            let from = (index * PAGE) as usize;
            let mut page = image
                .get(from..from + PAGE as usize)
                .unwrap_or_default()
                .to_vec();
            for (offset, byte) in (at..)
                .zip(GETCPU)
                .filter(|(offset, _)| offset / PAGE == index)
            {
                if let Some(place) = page.get_mut((offset % PAGE) as usize) {
                    *place = *byte;
                }
            }
            pages.push((index, page));
        }
        pages
    }

    /// Guest address of the code: the value of AT_SYSINFO_EHDR.
    #[must_use]
    pub fn guest_code(&self) -> u64 {
        crate::layout::CLOCK + self.identity.data_pages * PAGE
    }
}

/// Offset and length of a function in an ELF image, by its table of dynamic symbols (elf(5)).
fn function(image: &[u8], name: &[u8]) -> Option<(u64, u64)> {
    let number = |at: u64, bytes: usize| {
        let at = usize::try_from(at).ok()?;
        let mut value = [0; 8];
        (value.get_mut(..bytes)?).copy_from_slice(image.get(at..at.checked_add(bytes)?)?);
        Some(u64::from_le_bytes(value))
    };
    let (sections, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let section = |index: u64| sections.checked_add(index.checked_mul(size)?);
    let table = (0..count)
        .filter_map(section)
        .find(|at| number(at + 4, 4) == Some(u64::from(DYNAMIC_SYMBOLS)))?;
    let (symbols, length) = (number(table + 0x18, 8)?, number(table + 0x20, 8)?);
    let strings = number(section(number(table + 0x28, 4)?)? + 0x18, 8)?;
    for symbol in (symbols..symbols.checked_add(length)?).step_by(SYMBOL) {
        let at = usize::try_from(strings.checked_add(number(symbol, 4)?)?).ok()?;
        if image
            .get(at..)?
            .strip_prefix(name)
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return Some((number(symbol + 8, 8)?, number(symbol + 16, 8)?));
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_known_again() {
        let found = Clock::find().unwrap();
        assert_eq!(Clock::known(found.identity), Ok(found));
    }

    #[test]
    fn another_build_is_refused() {
        let identity = Clock::find().unwrap().identity;
        for wrong in [
            Identity {
                checksum: identity.checksum ^ 1,
                ..identity
            },
            Identity {
                code_pages: 0,
                ..identity
            },
            Identity {
                code_pages: identity.code_pages + 20,
                ..identity
            },
            Identity {
                data_pages: u64::MAX,
                ..identity
            },
        ] {
            assert!(Clock::known(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_guest_s_getcpu_replaces_the_host_s() {
        let clock = Clock::find().unwrap();
        let pages = clock.own_pages();
        assert!((1..=2).contains(&pages.len()), "{}", pages.len());
        let code: Vec<u8> = pages.into_iter().flat_map(|(_, page)| page).collect();
        assert!(code.windows(GETCPU.len()).any(|bytes| bytes == GETCPU));
    }

    #[test]
    fn what_is_no_elf_image_has_no_functions() {
        assert_eq!(function(b"\x7fELF", b"x"), None);
        assert_eq!(function(&[0xff; 4096], b"x"), None);
    }
}
