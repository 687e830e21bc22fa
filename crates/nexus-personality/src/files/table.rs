//! The descriptor table.

use super::description::Description;
use crate::errno::{EBADF, EINVAL, EMFILE, Errno};
use std::sync::Arc;

/// One descriptor.
#[derive(Clone)]
pub struct Entry {
    /// What it refers to, shared by duplicates.
    pub description: Arc<Description>,
    /// FD_CLOEXEC.
    pub close_on_exec: bool,
}

/// The guest's descriptors, lowest free number first.
#[derive(Clone)]
pub struct FileTable {
    entries: Vec<Option<Entry>>,
    /// RLIMIT_NOFILE.
    pub limit: usize,
}

/// Descriptors a guest may have; each may cost the hypervisor one.
pub const MAX_DESCRIPTORS: usize = 1024;

impl Default for FileTable {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            limit: MAX_DESCRIPTORS,
        }
    }
}

impl FileTable {
    /// The entry of `fd`.
    ///
    /// # Errors
    /// EBADF.
    pub fn entry(&mut self, fd: u64) -> Result<&mut Entry, Errno> {
        // The kernel takes descriptors as 32-bit values.
        let index = usize::try_from(fd as u32).map_err(|_| EBADF)?;
        self.entries
            .get_mut(index)
            .and_then(Option::as_mut)
            .ok_or(EBADF)
    }

    /// Put a description at the lowest free number from `least` up.
    ///
    /// # Errors
    /// EMFILE at the limit.
    pub fn insert(
        &mut self,
        description: Arc<Description>,
        close_on_exec: bool,
        least: u64,
    ) -> Result<u64, Errno> {
        let least = usize::try_from(least).map_err(|_| EINVAL)?;
        let index = (least..self.limit)
            .find(|i| self.entries.get(*i).is_none_or(Option::is_none))
            .ok_or(if least >= self.limit { EINVAL } else { EMFILE })?;
        self.place(index, description, close_on_exec)
    }

    /// Put a description at exactly `fd`, closing what is there.
    ///
    /// # Errors
    /// EBADF beyond the limit.
    pub fn insert_at(
        &mut self,
        fd: u64,
        description: Arc<Description>,
        close_on_exec: bool,
    ) -> Result<u64, Errno> {
        let index = usize::try_from(fd).map_err(|_| EBADF)?;
        if index >= self.limit {
            return Err(EBADF);
        }
        self.place(index, description, close_on_exec)
    }

    fn place(
        &mut self,
        index: usize,
        description: Arc<Description>,
        close_on_exec: bool,
    ) -> Result<u64, Errno> {
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
        let slot = self.entries.get_mut(index).ok_or(EMFILE)?;
        *slot = Some(Entry {
            description,
            close_on_exec,
        });
        Ok(index as u64)
    }

    /// Close one.
    ///
    /// # Errors
    /// EBADF.
    pub fn close(&mut self, fd: u64) -> Result<(), Errno> {
        let index = usize::try_from(fd as u32).map_err(|_| EBADF)?;
        self.entries
            .get_mut(index)
            .and_then(Option::take)
            .map(|_| ())
            .ok_or(EBADF)
    }

    /// What a program that is executed has of it.
    #[must_use]
    pub fn inherited(&self) -> Self {
        let mut table = self.clone();
        for slot in &mut table.entries {
            if slot.as_ref().is_some_and(|e| e.close_on_exec) {
                *slot = None;
            }
        }
        table
    }

    /// Open descriptors in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(n, e)| e.as_ref().map(|e| (n as u64, e)))
    }
}
