//! A copy of an address space in another window: what fork(2) leaves the child.
//!
//! Pages are copied at once. Two VMs that shared them until one writes would have to share host mappings, and a
//! window's private mappings cannot be shown in another window. So a fork costs what the parent has written, and
//! behaves as Linux's does.

use super::{AddressSpace, Backing, Vma, host_prot, is_charged};
use crate::errno::{EFAULT, ENOMEM, Errno, check};
use crate::host;
use crate::window::{CHUNK, PAGE};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
type Page = [u8; PAGE as usize];

/// On what terms a copy is made.
pub struct Terms<'a> {
    /// `/proc/self/pagemap`, opened before the jail; without it every page is looked at.
    pub pagemap: Option<RawFd>,
    /// Untouched pages of the parent may have content, a snapshot's.
    pub restored: bool,
    /// Asked before each piece of memory that the copy takes, in bytes.
    pub room: &'a dyn Fn(u64) -> Result<(), Errno>,
}

impl AddressSpace {
    /// Fill this one, which is empty, with a copy of `parent`: private memory is copied, shared memory is shared. The
    /// device stays the parent's: in place of its memory the copy has zeros.
    ///
    /// # Errors
    /// What `Terms::room` says; the host's.
    pub fn copy_from(&mut self, parent: &Self, terms: &Terms) -> Result<(), Errno> {
        for (start, vma) in &parent.vmas {
            let (start, length) = (*start, vma.end - start);
            let mut copy = vma.clone();
            if is_charged(&vma.backing, vma.shared, vma.prot) {
                self.ledger.commit(length)?;
                self.charged.insert(start, vma.end);
            }
            match &vma.backing {
                // The machine has a page there that rings nothing.
                Backing::Doorbell => continue,
                Backing::Arena => {
                    self.host_map(start, length, vma.prot, false, None)?;
                    (copy.backing, copy.shared) = (Backing::Anonymous, false);
                }
                Backing::Shared(_) => self.show(parent, start, vma)?,
                Backing::Anonymous => {
                    self.host_map(start, length, READ_WRITE, false, None)?;
                    self.copy_pages(parent, start, vma, terms)?;
                    self.seal(start, vma)?;
                }
                Backing::File(..) | Backing::Memory(..) if vma.shared => {
                    self.host_map(start, length, vma.prot, true, source(vma))?;
                }
                Backing::File(..) | Backing::Memory(..) => {
                    let prot = if vma.written { READ_WRITE } else { vma.prot };
                    self.host_map(start, length, prot, false, source(vma))?;
                    if vma.written {
                        self.copy_pages(parent, start, vma, terms)?;
                        self.seal(start, vma)?;
                    }
                }
            }
            self.vmas.insert(start, copy);
        }
        self.heap = parent.heap;
        self.stack = parent.stack;
        self.back_all()?;
        Ok(())
    }

    /// The protection that the guest asked for, in place of the one that let the pages be written.
    fn seal(&self, start: u64, vma: &Vma) -> Result<(), Errno> {
        if host_prot(vma.prot) == READ_WRITE {
            return Ok(());
        }
        self.set_host_prot(start, vma.end - start, host_prot(vma.prot))
    }

    fn set_host_prot(&self, start: u64, length: u64, prot: i32) -> Result<(), Errno> {
        let at = self.window.host(start, length).ok_or(ENOMEM)?;
        // SAFETY: the range lies in the window and is mapped by the guest; no Rust reference points there.
        let done = unsafe { libc::mprotect(at as *mut libc::c_void, length as usize, prot) };
        check(i64::from(done)).map(|_| ())
    }

    /// Show the parent's shared memory, which has no file.
    fn show(&self, parent: &Self, start: u64, vma: &Vma) -> Result<(), Errno> {
        let length = vma.end - start;
        let from = parent.window.host(start, length).ok_or(ENOMEM)?;
        let to = self.window.host(start, length).ok_or(ENOMEM)?;
        // SAFETY: both ranges lie in windows. An old length of 0 makes a second mapping of shared pages (mremap(2)).
        let shown = unsafe {
            libc::mremap(
                from as *mut libc::c_void,
                0,
                length as usize,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                to as *mut libc::c_void,
            )
        };
        if shown == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        Ok(())
    }

    /// Copy what of a private mapping differs from what a fresh mapping of it shows. As on Linux, what another
    /// thread of the parent writes meanwhile may be in the copy or not.
    fn copy_pages(&self, parent: &Self, start: u64, vma: &Vma, terms: &Terms) -> Result<(), Errno> {
        let hidden = host_prot(vma.prot) == libc::PROT_NONE;
        for from in (start..vma.end).step_by(CHUNK as usize) {
            let length = CHUNK.min(vma.end - from);
            // What nobody may read is mostly a reservation, and large: of a restored parent's, too, only what it has
            // touched counts.
            let there = match terms.pagemap {
                Some(pagemap) if hidden || !terms.restored => {
                    let there = parent.own_pages(pagemap, from, length)?;
                    if !there.contains(&true) {
                        continue;
                    }
                    Some(there)
                }
                _ => None,
            };
            (terms.room)(length)?;
            if hidden {
                parent.set_host_prot(from, length, libc::PROT_READ)?;
            }
            let copied = self.copy_chunk(parent, from, length, there.as_deref());
            if hidden {
                parent.set_host_prot(from, length, libc::PROT_NONE)?;
            }
            copied?;
        }
        Ok(())
    }

    fn copy_chunk(
        &self,
        parent: &Self,
        from: u64,
        length: u64,
        there: Option<&[bool]>,
    ) -> Result<(), Errno> {
        let (mut page, mut fresh): (Page, Page) = ([0; PAGE as usize], [0; PAGE as usize]);
        for (index, address) in (from..from + length).step_by(PAGE as usize).enumerate() {
            if there.is_some_and(|t| t.get(index) != Some(&true)) {
                continue;
            }
            let old = parent.window.host(address, PAGE).ok_or(EFAULT)?;
            let new = self.window.host(address, PAGE).ok_or(EFAULT)?;
            // SAFETY: pages of windows on one side, live arrays on the other; a fault ends the copy.
            unsafe {
                // Behind the end of its file a mapping has no pages, in neither window.
                if host::copy(page.as_mut_ptr(), old as *const u8, PAGE).is_err() {
                    continue;
                }
                // Of fresh anonymous memory this reads zeros without making a page.
                host::copy(fresh.as_mut_ptr(), new as *const u8, PAGE)?;
                if page != fresh {
                    host::copy(new as *mut u8, page.as_ptr(), PAGE)?;
                }
            }
        }
        Ok(())
    }

    /// Which pages of a range are this process's own, in memory or swapped out.
    fn own_pages(&self, pagemap: RawFd, from: u64, length: u64) -> Result<Vec<bool>, Errno> {
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        const OF_FILE: u64 = 1 << 61;
        let at = self.window.host(from, length).ok_or(EFAULT)?;
        let mut entries = vec![0u64; (length / PAGE) as usize];
        let size = entries.len() * 8;
        let offset = i64::try_from(at / PAGE * 8).map_err(|_| EFAULT)?;
        // SAFETY: a live buffer of the size given.
        let got = unsafe { libc::pread(pagemap, entries.as_mut_ptr().cast(), size, offset) };
        if check(got as i64)? != size as u64 {
            return Err(EFAULT);
        }
        let own = |entry: &u64| entry & PRESENT_OR_SWAPPED != 0 && entry & OF_FILE == 0;
        Ok(entries.iter().map(own).collect())
    }
}

/// Descriptor and offset of what a mapping shows.
fn source(vma: &Vma) -> Option<(i32, u64)> {
    match &vma.backing {
        Backing::File(file, offset) => Some((file.fd.as_raw_fd(), *offset)),
        Backing::Memory(inode, offset) => inode.host().map(|fd| (fd, *offset)),
        _ => None,
    }
}
