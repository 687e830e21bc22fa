//! A function's log file. It is written by the node alone: guests write to a pipe that is always drained.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Two files at most: the current one and the one before.
#[derive(Debug)]
pub struct FunctionLog {
    path: PathBuf,
    limit: u64,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    file: Option<File>,
    length: u64,
    /// The last byte written was not the end of a line.
    open_line: bool,
    /// Position of the current file's first byte, once it is known.
    start: Option<u64>,
}

/// A part of a log. Positions count bytes, since before the oldest that is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub text: Vec<u8>,
    /// Position behind the text: where to read on.
    pub end: u64,
}

/// Bytes read back at most for one request.
const MAX_READ: u64 = 4 << 20;
/// Of these, for who reads on from a position.
const PAGE: u64 = 1 << 20;

impl FunctionLog {
    pub fn new(directory: &Path, name: &str, limit: u64) -> Self {
        Self {
            path: directory.join(format!("{name}.log")),
            limit: limit.max(4096),
            current: Mutex::default(),
        }
    }

    /// Append bytes as they are. A disk error loses them and is logged: no function fails for its log.
    pub fn append(&self, bytes: &[u8]) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(&mut current, bytes);
    }

    /// Append a line (or several) of the node's own, at the start of a line.
    pub fn append_line(&self, text: &str) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::with_capacity(text.len() + 2);
        if current.open_line {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(text.as_bytes());
        if !text.ends_with('\n') {
            bytes.push(b'\n');
        }
        self.write(&mut current, &bytes);
    }

    fn write(&self, current: &mut Current, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        if let Err(error) = self.try_write(current, bytes) {
            tracing::warn!(path = %self.path.display(), %error, "cannot write a log");
            current.file = None;
        }
        current.open_line = *last != b'\n';
    }

    fn try_write(&self, current: &mut Current, bytes: &[u8]) -> io::Result<()> {
        if current.file.is_some() && current.length + bytes.len() as u64 > self.limit {
            let start = self.start(current);
            current.file = None;
            fs::rename(&self.path, self.older())?;
            current.start = Some(start + current.length);
        }
        let file = match &mut current.file {
            Some(file) => file,
            empty => {
                let file = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(&self.path)?;
                current.length = file.metadata()?.len();
                empty.insert(file)
            }
        };
        file.write_all(bytes)?;
        current.length += bytes.len() as u64;
        Ok(())
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

    /// Position of the current file's first byte: behind what an earlier run of the node left in the older one.
    fn start(&self, current: &mut Current) -> u64 {
        *current.start.get_or_insert_with(|| length(&self.older()))
    }

    /// What comes after `position`, at most 1 MiB of it; after the oldest byte that is kept where that is later, or where
    /// `position` is none of this log's.
    pub fn after(&self, position: u64) -> Page {
        // With the lock held no rotation falls between looking and reading.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let start = self.start(&mut current);
        let end = start + length(&self.path);
        let oldest = start - length(&self.older()).min(start);
        let from = if position > end {
            oldest
        } else {
            position.max(oldest)
        };
        let text = if from < start {
            read(&self.older(), from - oldest, PAGE)
        } else {
            read(&self.path, from - start, PAGE)
        };
        Page {
            end: from + text.len() as u64,
            text,
        }
    }

    /// The last `lines` lines, of at most 4 MiB.
    pub fn last_lines(&self, lines: usize) -> Page {
        // With the lock held no rotation falls between the two reads.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.start(&mut current) + length(&self.path);
        let mut text = read_end(&self.path, MAX_READ);
        if (text.len() as u64) < MAX_READ && count_lines(&text) < lines {
            let mut older = read_end(&self.older(), MAX_READ - text.len() as u64);
            older.append(&mut text);
            text = older;
        }
        let skip = count_lines(&text).saturating_sub(lines);
        let mut start = 0;
        let mut ends: VecDeque<usize> = text
            .iter()
            .enumerate()
            .filter_map(|(i, b)| (*b == b'\n').then_some(i + 1))
            .take(skip)
            .collect();
        if skip > 0 {
            start = ends.pop_back().unwrap_or(0);
        }
        Page {
            text: text.split_off(start),
            end,
        }
    }

    /// Delete the files: the function is gone.
    pub fn delete(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Current::default();
        for path in [&self.path, &self.older()] {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot delete a log");
            }
        }
    }
}

fn count_lines(text: &[u8]) -> usize {
    let ends = text.iter().filter(|b| **b == b'\n').count();
    ends + usize::from(text.last().is_some_and(|b| *b != b'\n'))
}

/// A file's length; 0 where there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn read_end(path: &Path, most: u64) -> Vec<u8> {
    read(path, length(path).saturating_sub(most), most)
}

fn read(path: &Path, from: u64, most: u64) -> Vec<u8> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_is_rotated_and_bounded() {
        let directory = std::env::temp_dir().join(format!("nexusd-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let log = FunctionLog::new(&directory, "f", 10_000);
        for n in 0..5000 {
            log.append(format!("line {n}\n").as_bytes());
        }
        let size = |name: &str| fs::metadata(directory.join(name)).unwrap().len();
        assert!(size("f.log") <= 10_000 && size("f.log.1") <= 10_000);
        assert_eq!(log.last_lines(2).text, b"line 4998\nline 4999\n");
        assert_eq!(count_lines(&log.last_lines(1500).text), 1500);
        log.append(b"half");
        log.append_line("whole");
        assert_eq!(log.last_lines(3).text, b"line 4999\nhalf\nwhole\n");
        assert!(log.last_lines(0).text.is_empty());
        log.delete();
        assert!(log.last_lines(9).text.is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn it_is_read_on_from_a_position_over_rotations() {
        let directory = std::env::temp_dir().join(format!("nexusd-log-on-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let log = FunctionLog::new(&directory, "f", 10_000);
        let mut position = log.last_lines(5).end;
        let mut seen = Vec::new();
        let mut read_on = |log: &FunctionLog, seen: &mut Vec<u8>| {
            loop {
                let page = log.after(position);
                position = page.end;
                if page.text.is_empty() {
                    return position;
                }
                seen.extend(page.text);
            }
        };
        let mut written = Vec::new();
        for n in 0..5000 {
            let line = format!("line {n}\n");
            written.extend_from_slice(line.as_bytes());
            log.append(line.as_bytes());
            if n % 700 == 0 {
                read_on(&log, &mut seen);
            }
        }
        let end = read_on(&log, &mut seen);
        assert!(seen == written && end == written.len() as u64);
        assert_eq!(log.last_lines(5).end, end);
        // Who comes too late gets what is kept.
        let kept = length(&log.path) + length(&log.older());
        let first = log.after(0);
        assert_eq!(first.end - first.text.len() as u64, end - kept);
        // The node's next run counts from what is kept; a position that is none of its own is behind nothing.
        let next = FunctionLog::new(&directory, "f", 10_000);
        assert_eq!(next.last_lines(1).end, kept);
        let all = next.after(end);
        assert!(all.text.starts_with(b"line ") && all.end == length(&next.older()));
        fs::remove_dir_all(directory).unwrap();
    }
}
