//! Record locks, as fcntl(2) has them: ranges of a file's bytes, held by a process or by an open file description.

use super::Description;
use super::lock::FileId;
use crate::machine::Tid;
use std::collections::BTreeMap;
use std::sync::Weak;

/// Ranges that are locked at once, over all files and programs of a guest.
const MOST: usize = 4096;

/// Who holds a lock.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A process: gone with it, and with the first of its descriptors of the file that is closed.
    Process(Tid),
    /// An open file description: gone with it.
    Description(Weak<Description>),
}

impl Owner {
    /// Whether both are one.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process(a), Self::Process(b)) => a == b,
            (Self::Description(a), Self::Description(b)) => a.ptr_eq(b),
            _ => false,
        }
    }

    fn lives(&self) -> bool {
        match self {
            Self::Process(_) => true,
            Self::Description(description) => description.strong_count() > 0,
        }
    }
}

/// A locked range: from its first byte to before its last; `u64::MAX` is the end of the file, wherever that comes to be.
#[derive(Clone, Debug)]
pub struct Record {
    pub owner: Owner,
    pub exclusive: bool,
    pub start: u64,
    pub end: u64,
}

impl Record {
    fn meets(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Why a lock was not had.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another holds one that excludes it.
    Held,
    /// There are too many.
    TooMany,
}

/// All record locks of a guest.
#[derive(Debug, Default)]
pub struct Records {
    files: BTreeMap<FileId, Vec<Record>>,
}

impl Records {
    /// All of a file.
    #[must_use]
    pub fn of(&self, file: FileId) -> &[Record] {
        self.files.get(&file).map_or(&[], Vec::as_slice)
    }

    /// The first lock that excludes this one.
    pub fn obstacle(&mut self, file: FileId, wanted: &Record) -> Option<Record> {
        let held = self.files.get_mut(&file)?;
        held.retain(|r| r.owner.lives());
        held.iter()
            .filter(|r| !r.owner.is(&wanted.owner) && r.meets(wanted))
            .find(|r| r.exclusive || wanted.exclusive)
            .cloned()
    }

    /// Take a lock, in place of what the owner holds of the range.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn take(&mut self, file: FileId, wanted: Record) -> Result<(), Refused> {
        if self.obstacle(file, &wanted).is_some() {
            return Err(Refused::Held);
        }
        if self.files.values().map(Vec::len).sum::<usize>() >= MOST {
            return Err(Refused::TooMany);
        }
        self.release(file, &wanted);
        self.files.entry(file).or_default().push(wanted);
        Ok(())
    }

    /// Give a range up: of a lock that reaches over its ends the rest stays.
    pub fn release(&mut self, file: FileId, range: &Record) {
        let Some(held) = self.files.get_mut(&file) else {
            return;
        };
        let mut left = Vec::with_capacity(held.len() + 1);
        for record in held.drain(..) {
            if !record.owner.is(&range.owner) || !record.meets(range) {
                left.push(record);
                continue;
            }
            if record.start < range.start {
                let end = range.start;
                left.push(Record {
                    end,
                    ..record.clone()
                });
            }
            if record.end > range.end {
                let start = range.end;
                left.push(Record { start, ..record });
            }
        }
        *held = left;
        if held.is_empty() {
            self.files.remove(&file);
        }
    }

    /// A process closes a descriptor of this file, whichever.
    pub fn closed(&mut self, file: FileId, pid: Tid) {
        let all = Record {
            owner: Owner::Process(pid),
            exclusive: false,
            start: 0,
            end: u64::MAX,
        };
        self.release(file, &all);
    }

    /// A process ends.
    pub fn ended(&mut self, pid: Tid) {
        let files: Vec<FileId> = self.files.keys().copied().collect();
        for file in files {
            self.closed(file, pid);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(pid: Tid, exclusive: bool, start: u64, end: u64) -> Record {
        Record {
            owner: Owner::Process(pid),
            exclusive,
            start,
            end,
        }
    }

    #[test]
    fn ranges_exclude_where_they_meet() {
        let mut records = Records::default();
        let file = (0, 1);
        records.take(file, record(1, true, 0, 10)).unwrap();
        assert_eq!(
            records.take(file, record(2, false, 9, 20)),
            Err(Refused::Held)
        );
        records.take(file, record(2, false, 10, u64::MAX)).unwrap();
        records.take(file, record(1, false, 10, 20)).unwrap();
        assert_eq!(
            records.take(file, record(1, true, 10, 20)),
            Err(Refused::Held)
        );
        records.take((0, 2), record(3, true, 0, u64::MAX)).unwrap();
    }

    #[test]
    fn what_is_given_up_in_the_middle_leaves_both_ends() {
        let mut records = Records::default();
        let file = (0, 1);
        records.take(file, record(1, true, 0, 100)).unwrap();
        records.release(file, &record(1, false, 40, 60));
        records.take(file, record(2, true, 40, 60)).unwrap();
        for (start, end) in [(39, 40), (60, 61)] {
            let taken = records.take(file, record(2, true, start, end));
            assert_eq!(taken, Err(Refused::Held));
        }
        let obstacle = records.obstacle(file, &record(3, true, 70, 80)).unwrap();
        assert_eq!((obstacle.start, obstacle.end), (60, 100));
        records.ended(1);
        records.take(file, record(2, true, 0, 40)).unwrap();
    }

    #[test]
    fn there_is_a_most_of_ranges() {
        let mut records = Records::default();
        let mut at = (0..).step_by(2).map(|s| record(1, true, s, s + 1));
        let failed = at.find_map(|r| records.take((0, 1), r).err());
        assert_eq!(failed, Some(Refused::TooMany));
        assert_eq!(records.files.values().map(Vec::len).sum::<usize>(), MOST);
    }
}
