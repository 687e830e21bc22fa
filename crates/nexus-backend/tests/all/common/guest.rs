//! A guest in Rust: rings and heap by hand, so that it can also do what no honest guest does.

use nexus_abi::arena::{COMPLETE_RING, ENTRY_SIZE, HEAP, RING_ENTRIES, SUBMIT_RING, control};
use nexus_abi::operation::{MORE, OWN};
use nexus_backend::GuestDescriptors;
use serde_json::Value;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const SIZE: usize = 8 << 20;
/// Where things lie in the heap: heads, bodies, rooms.
pub const HEAD: usize = HEAP;
pub const BODY: usize = 1 << 20;
pub const ROOM: usize = 4 << 20;
pub const ROOM_LENGTH: usize = 2 << 20;

pub struct Guest {
    base: *mut u8,
    fds: Option<(OwnedFd, OwnedFd, OwnedFd)>,
    pub made: u32,
    taken: u32,
    next_id: u64,
}

// SAFETY: the mapping is the guest's; it moves between threads as a whole.
unsafe impl Send for Guest {}

#[derive(Clone, Debug)]
pub struct Entry {
    pub id: u64,
    pub operation: u16,
    pub flags: u16,
    pub head: (u32, u32),
    pub body: (u32, u32),
    pub room: (u32, u32),
    pub timeout_ms: u32,
    pub stream: u64,
    pub reserved: [u8; 16],
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            id: 0,
            operation: 0,
            flags: 0,
            head: (0, 0),
            body: (0, 0),
            room: (at(ROOM), at(ROOM_LENGTH)),
            timeout_ms: 10_000,
            stream: 0,
            reserved: [0; 16],
        }
    }
}

#[derive(Clone, Debug)]
pub struct Completion {
    pub id: u64,
    pub status: i32,
    pub more: bool,
    pub own: bool,
    pub head: Value,
    pub body: Vec<u8>,
    pub stream: u64,
    pub total: u64,
}

impl Completion {
    pub fn http_status(&self) -> u64 {
        assert_eq!(self.status, 0, "{:?}", self.head);
        self.head["status"].as_u64().unwrap()
    }

    pub fn error(&self) -> &str {
        self.head["error"].as_str().unwrap_or("")
    }
}

pub fn at(offset: usize) -> u32 {
    u32::try_from(offset).unwrap()
}

impl Guest {
    pub fn new(descriptors: GuestDescriptors) -> Self {
        // SAFETY: a fresh shared mapping of an 8 MiB memfd.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                descriptors.arena.as_raw_fd(),
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED);
        Self {
            base: base.cast(),
            fds: Some((
                descriptors.arena,
                descriptors.doorbell,
                descriptors.completion.unwrap(),
            )),
            made: 0,
            taken: 0,
            next_id: 0,
        }
    }

    pub fn gone() -> Self {
        Self {
            base: std::ptr::null_mut(),
            fds: None,
            made: 0,
            taken: 0,
            next_id: 0,
        }
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= SIZE);
        // SAFETY: inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len());
        }
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= SIZE);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(offset), bytes.as_mut_ptr(), length);
        }
        bytes
    }

    pub fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: an aligned word of the control page.
        unsafe { AtomicU32::from_ptr(self.base.add(offset).cast()) }
    }

    /// Put an entry into the ring without ringing.
    pub fn push(&mut self, entry: &Entry) {
        let mut bytes = Vec::with_capacity(ENTRY_SIZE);
        bytes.extend(entry.id.to_le_bytes());
        bytes.extend(entry.operation.to_le_bytes());
        bytes.extend(entry.flags.to_le_bytes());
        for (offset, length) in [entry.head, entry.body, entry.room] {
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
        }
        bytes.extend(entry.timeout_ms.to_le_bytes());
        bytes.extend(entry.stream.to_le_bytes());
        bytes.extend(entry.reserved);
        let slot = SUBMIT_RING + (self.made % RING_ENTRIES) as usize * ENTRY_SIZE;
        self.write(slot, &bytes);
        self.made = self.made.wrapping_add(1);
        self.index(control::SUBMIT_TAIL)
            .store(self.made, Ordering::Release);
    }

    pub fn ring(&self) {
        let one = 1_u64;
        let doorbell = self.fds.as_ref().unwrap().1.as_raw_fd();
        // SAFETY: eight bytes of ours.
        let n = unsafe { libc::write(doorbell, (&raw const one).cast(), 8) };
        assert_eq!(n, 8);
    }

    /// The next completion, waited for.
    pub fn wait(&mut self) -> Completion {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(completion) = self.poll() {
                return completion;
            }
            assert!(Instant::now() < until, "no completion");
            let fd = self.fds.as_ref().unwrap().2.as_raw_fd();
            let mut poll = libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
            let mut count = 0_u64;
            // SAFETY: one pollfd, and eight bytes of ours.
            unsafe {
                if libc::poll(&raw mut poll, 1, 1000) == 1 {
                    libc::read(fd, (&raw mut count).cast(), 8);
                }
            }
        }
    }

    pub fn poll(&mut self) -> Option<Completion> {
        if self.index(control::COMPLETE_TAIL).load(Ordering::Acquire) == self.taken {
            return None;
        }
        let slot = COMPLETE_RING + (self.taken % RING_ENTRIES) as usize * ENTRY_SIZE;
        let entry = self.read(slot, ENTRY_SIZE);
        self.taken = self.taken.wrapping_add(1);
        self.index(control::COMPLETE_HEAD)
            .store(self.taken, Ordering::Release);
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
        let part = |at: usize| self.read(word(at) as usize, word(at + 4) as usize);
        Some(Completion {
            id: long(0),
            status: word(8).cast_signed(),
            more: word(12) & MORE != 0,
            own: word(12) & OWN != 0,
            head: serde_json::from_slice(&part(16)).unwrap_or(Value::Null),
            body: part(24),
            stream: long(32),
            total: long(40),
        })
    }

    /// Acknowledge what is complete without reading it: the entries may be the guest's own scribbles by now.
    pub fn acknowledge(&mut self) {
        self.taken = self.index(control::COMPLETE_TAIL).load(Ordering::Acquire);
        self.index(control::COMPLETE_HEAD)
            .store(self.taken, Ordering::Release);
    }

    /// Submit an operation with a head and a body in one piece.
    pub fn submit(&mut self, operation: u16, head: &Value, body: &[u8]) -> u64 {
        let text = head.to_string();
        self.write(HEAD, text.as_bytes());
        self.write(BODY, body);
        self.submit_entry(Entry {
            operation,
            head: (at(HEAD), at(text.len())),
            body: (at(BODY), at(body.len())),
            ..Entry::default()
        })
    }

    pub fn submit_entry(&mut self, entry: Entry) -> u64 {
        self.next_id += 1;
        let id = self.next_id;
        self.push(&Entry { id, ..entry });
        self.ring();
        id
    }

    pub fn call(&mut self, operation: u16, head: &Value, body: &[u8]) -> Completion {
        let id = self.submit(operation, head, body);
        let completion = self.wait();
        assert_eq!(completion.id, id);
        completion
    }

    /// As [`Guest::call`], with a time limit and no body.
    pub fn call_within(&mut self, operation: u16, head: &Value, ms: u32) -> Completion {
        let text = head.to_string();
        self.write(HEAD, text.as_bytes());
        self.submit_entry(Entry {
            operation,
            head: (at(HEAD), at(text.len())),
            timeout_ms: ms,
            ..Entry::default()
        });
        self.wait()
    }

    /// An S3 operation.
    pub fn s3(&mut self, op: &str, key: &str, body: &[u8]) -> Completion {
        self.s3_with(op, key, body, &[])
    }

    pub fn s3_with(
        &mut self,
        op: &str,
        key: &str,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Completion {
        let key = Some(key).filter(|key| !key.is_empty());
        let head = serde_json::json!({
            "op": op, "bucket": "b", "key": key, "query": [], "headers": headers,
            "region": "us-east-1", "endpoint": null,
        });
        self.call(nexus_abi::operation::S3, &head, body)
    }

    /// READ a stream into a room of this size.
    pub fn read_stream(&mut self, stream: u64, room: usize) -> Completion {
        self.submit_entry(Entry {
            operation: nexus_abi::operation::READ,
            stream,
            room: (at(ROOM), at(room)),
            ..Entry::default()
        });
        self.wait()
    }

    /// Everything in the arena.
    pub fn memory(&self) -> Vec<u8> {
        self.read(0, SIZE)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.base.is_null() {
            // SAFETY: our own mapping, used no more.
            unsafe { libc::munmap(self.base.cast(), SIZE) };
        }
    }
}
