//! Locks of whole files, as `flock` takes them: held by open file descriptions, gone with them.

use super::record_lock::Records;
use super::{Description, Object};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Files with locks at most; beyond it the oldest dead entries are swept, and a lock is refused if none is dead.
const MAX_LOCKED: usize = 4096;

/// Which file: a file of the host by device and inode, one in memory by 0 and its number.
pub type FileId = (u64, u64);

#[derive(Debug, Default)]
struct Lock {
    exclusive: bool,
    holders: Vec<Weak<Description>>,
}

/// All locks of a guest.
#[derive(Debug, Default)]
pub struct Locks {
    /// Those of parts of files.
    pub records: Records,
    files: BTreeMap<FileId, Lock>,
}

/// The file that a description's locks are about; `None` for what cannot be opened twice.
#[must_use]
pub fn file_of(d: &Description) -> Option<FileId> {
    match &d.object {
        Object::Memory(inode) => Some((0, inode.number)),
        Object::Host(file) => Some((file.identity.device.wrapping_add(1), file.identity.inode)),
        _ => None,
    }
}

impl Locks {
    /// Take a lock, or change the one held. False: another description holds one that excludes it.
    pub fn take(&mut self, d: &Arc<Description>, exclusive: bool) -> bool {
        let Some(file) = file_of(d) else {
            // What cannot be opened twice excludes nobody.
            return true;
        };
        if self.files.len() >= MAX_LOCKED {
            self.files
                .retain(|_, l| l.holders.iter().any(|h| h.strong_count() > 0));
            if self.files.len() >= MAX_LOCKED {
                return false;
            }
        }
        let lock = self.files.entry(file).or_default();
        let own = Arc::downgrade(d);
        lock.holders
            .retain(|h| h.strong_count() > 0 && !h.ptr_eq(&own));
        if lock.holders.is_empty() {
            lock.exclusive = exclusive;
        } else if lock.exclusive || exclusive {
            return false;
        }
        lock.holders.push(own);
        true
    }

    /// The lock that a description holds: whether exclusive.
    #[must_use]
    pub fn held(&self, d: &Arc<Description>) -> Option<bool> {
        let lock = self.files.get(&file_of(d)?)?;
        let own = Arc::downgrade(d);
        let holds = lock.holders.iter().any(|holder| holder.ptr_eq(&own));
        holds.then_some(lock.exclusive)
    }

    /// Give a lock up, if one is held.
    pub fn release(&mut self, d: &Arc<Description>) {
        let own = Arc::downgrade(d);
        if let Some(file) = file_of(d)
            && let Some(lock) = self.files.get_mut(&file)
        {
            lock.holders.retain(|h| !h.ptr_eq(&own));
            if lock.holders.is_empty() {
                self.files.remove(&file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::files::tmpfs::{Inode, Usage};
    use crate::ledger::Ledger;

    #[test]
    fn a_lock_excludes_others_until_it_or_its_holder_is_gone() {
        let usage = Arc::new(Usage::new(1 << 20, Ledger::new(1 << 30).unwrap()));
        let inode = Inode::file(&usage, 0o600).unwrap();
        let open = || Description::new(Object::Memory(Arc::clone(&inode)), libc::O_RDWR);
        let (a, b, c) = (open(), open(), open());
        let mut locks = Locks::default();
        assert!(
            locks.take(&a, false) && locks.take(&b, false),
            "readers share"
        );
        assert!(
            !locks.take(&c, true) && !locks.take(&a, true),
            "a writer shares with nobody"
        );
        // As on Linux, a failed change gives up what was held.
        assert!(locks.take(&b, true));
        assert!(!locks.take(&c, false));
        drop(b);
        assert!(locks.take(&c, true), "a closed description holds nothing");
        locks.release(&c);
        assert!(locks.take(&a, true));
    }
}
