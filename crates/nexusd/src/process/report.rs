//! The lines a VMM reports, read from its pipe. It may be in a guest's hands: everything is bounded.

use super::pipe::PipeReader;
use serde::Deserialize;

/// One line of a report.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    Ready {
        isolation: String,
        #[serde(default)]
        machine: Option<String>,
        #[serde(default)]
        us: u64,
        /// Steps of the start and when each was done (CLOCK_MONOTONIC, nanoseconds).
        #[serde(default)]
        stages: Vec<(String, u64)>,
    },
    Snapshot {
        bytes: u64,
        #[serde(default)]
        mappings: u64,
    },
    WorkingSet {
        written: Vec<(u64, u64)>,
        read: Vec<(u64, u64)>,
        changed: Vec<(u64, u64)>,
        last: bool,
    },
    Refused {
        reason: String,
    },
    Failed {
        reason: String,
    },
    Fault {
        vector: u8,
        #[serde(default)]
        rip: String,
        #[serde(default)]
        address: String,
        #[serde(default)]
        signal: i32,
    },
    UnknownSyscall {
        number: i64,
        #[serde(default)]
        name: String,
        #[serde(default)]
        count: u64,
    },
    MemoryLimit {
        #[serde(default)]
        limit_mib: u64,
    },
    NotRenewed,
    Exit {
        status: i32,
    },
    #[serde(other)]
    Unknown,
}

/// A line is at most this long; a longer one is dropped.
const MAX_LINE: usize = 4096;
/// Lines taken from one VMM; what follows is dropped.
const MAX_LINES: u32 = 2048;

/// The read end of a report.
#[derive(Debug)]
pub struct ReportReader {
    pipe: PipeReader,
    lines: Lines,
    ended: bool,
}

impl ReportReader {
    pub fn new(pipe: PipeReader) -> Self {
        Self {
            pipe,
            lines: Lines::default(),
            ended: false,
        }
    }

    /// The next events, once there are some. Pending for ever at the end of the pipe. Cancel safe.
    pub async fn next(&mut self) -> Vec<Event> {
        loop {
            if self.ended {
                std::future::pending::<()>().await;
            }
            let mut events = Vec::new();
            let Self { pipe, lines, .. } = self;
            let open = pipe.read(|bytes| lines.feed(bytes, &mut events)).await;
            self.ended = !open;
            if !events.is_empty() {
                return events;
            }
        }
    }

    /// The events that are there now, for when the VMM has ended.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let Self { pipe, lines, .. } = self;
        pipe.drain(4, |bytes| lines.feed(bytes, &mut events));
        events
    }
}

/// Bytes into lines into events.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
    /// In the middle of a line that is too long.
    skipping: bool,
    count: u32,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], events: &mut Vec<Event>) {
        for &byte in bytes {
            if byte != b'\n' {
                if self.partial.len() < MAX_LINE {
                    self.partial.push(byte);
                } else {
                    self.skipping = true;
                }
                continue;
            }
            if !self.skipping && self.count < MAX_LINES {
                match serde_json::from_slice(&self.partial) {
                    Ok(event) => events.push(event),
                    Err(error) => tracing::warn!(%error, "a VMM reported what is not an event"),
                }
                self.count += 1;
            }
            self.partial.clear();
            self.skipping = false;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_become_events_and_rubbish_is_dropped() {
        let (pipe, writer) = PipeReader::new().unwrap();
        let mut reader = ReportReader::new(pipe);
        let mut writer = std::fs::File::from(writer);
        let long = "x".repeat(10_000);
        let text = format!(
            "{{\"event\":\"ready\",\"isolation\":\"kvm\",\"machine\":\"pvm\",\"us\":12}}\nrubbish\n{long}\n\
             {{\"event\":\"tomorrow\",\"x\":1}}\n{{\"event\":\"exit\",\"status\":139}}\n"
        );
        std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
        let mut events = Vec::new();
        while events.len() < 3 {
            events.extend(reader.next().await);
        }
        assert!(matches!(&events[0], Event::Ready { us: 12, .. }));
        assert_eq!(events[1..], [Event::Unknown, Event::Exit { status: 139 }]);
        drop(writer);
        assert!(reader.drain().is_empty());
    }
}
