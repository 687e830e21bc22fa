//! A channel as its guest meets it, and as a hostile guest would like it.

use bytes::Bytes;
use nexus_abi::arena::{self, completion as c, control, submission as s};
use nexus_abi::operation::{self as op, status};
use nexus_backend::{
    Backend, Channel, Config, EventHead, FunctionIdentity, GuestDescriptors, PolicyRules,
    RuntimeMessage, Wake,
};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::time::timeout;

/// The guest's side: the arena mapped once more, and the eventfds.
struct Guest {
    base: *mut u8,
    size: usize,
    descriptors: GuestDescriptors,
    made: u32,
    taken: u32,
}

// SAFETY: the mapping is this value's own.
unsafe impl Send for Guest {}

#[derive(Debug)]
struct Completion {
    id: u64,
    status: i32,
    flags: u32,
    head: Vec<u8>,
    body: Vec<u8>,
    stream: u64,
    total: u64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    id: u64,
    operation: u16,
    flags: u16,
    head: (u32, u32),
    body: (u32, u32),
    room: (u32, u32),
    stream: u64,
    reserved: u8,
}

const HEAP: u32 = arena::HEAP as u32;

fn open() -> (Channel, Guest) {
    let config = Config {
        region: "us-east-1".into(),
        endpoints: [("s3".to_owned(), "http://127.0.0.1:1".to_owned())].into(),
        credentials_file: None,
    };
    let backend = Backend::new(config).unwrap();
    let identity = FunctionIdentity::new("f", "us-east-1", PolicyRules::nothing("f").into());
    let size = arena::MIN_SIZE;
    let (channel, descriptors) = backend.open(identity, size, Wake::Futex).unwrap();
    // SAFETY: a fresh mapping of the arena, as the guest has one.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            descriptors.arena.as_raw_fd(),
            0,
        )
    };
    assert_ne!(base, libc::MAP_FAILED);
    let guest = Guest {
        base: base.cast(),
        size,
        descriptors,
        made: 0,
        taken: 0,
    };
    (channel, guest)
}

impl Guest {
    fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.size);
        // SAFETY: inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len());
        }
    }

    fn get(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.size);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(offset), bytes.as_mut_ptr(), length);
        }
        bytes
    }

    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.get(offset, 4).try_into().unwrap())
    }

    fn ring(&self) {
        let one = 1_u64;
        // SAFETY: eight bytes to an eventfd.
        unsafe {
            libc::write(
                self.descriptors.doorbell.as_raw_fd(),
                (&raw const one).cast(),
                8,
            )
        };
    }

    fn submit(&mut self, e: Entry) {
        let at = arena::SUBMIT_RING + (self.made % 64) as usize * 64;
        self.put(at, &[0; 64]);
        self.put(at + s::ID, &e.id.to_le_bytes());
        self.put(at + s::OPERATION, &e.operation.to_le_bytes());
        self.put(at + s::FLAGS, &e.flags.to_le_bytes());
        for (field, (offset, length)) in [
            (s::HEAD_OFFSET, e.head),
            (s::BODY_OFFSET, e.body),
            (s::ROOM_OFFSET, e.room),
        ] {
            self.put(at + field, &offset.to_le_bytes());
            self.put(at + field + 4, &length.to_le_bytes());
        }
        self.put(at + s::STREAM, &e.stream.to_le_bytes());
        self.put(at + s::RESERVED, &[e.reserved]);
        self.made = self.made.wrapping_add(1);
        self.put(control::SUBMIT_TAIL, &self.made.to_le_bytes());
        self.ring();
    }

    /// The next completion, which is there already.
    fn take(&mut self) -> Option<Completion> {
        if self.word(control::COMPLETE_TAIL) == self.taken {
            return None;
        }
        let at = arena::COMPLETE_RING + (self.taken % 64) as usize * 64;
        let long = |field: usize| u64::from_le_bytes(self.get(at + field, 8).try_into().unwrap());
        let word = |field: usize| self.word(at + field);
        let part =
            |offset: usize, length: usize| self.get(word(offset) as usize, word(length) as usize);
        let completion = Completion {
            id: long(c::ID),
            status: word(c::STATUS).cast_signed(),
            flags: word(c::FLAGS),
            head: part(c::HEAD_OFFSET, c::HEAD_LENGTH),
            body: part(c::BODY_OFFSET, c::BODY_LENGTH),
            stream: long(c::STREAM),
            total: long(c::TOTAL_LENGTH),
        };
        self.taken = self.taken.wrapping_add(1);
        self.put(control::COMPLETE_HEAD, &self.taken.to_le_bytes());
        Some(completion)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`.
        unsafe { libc::munmap(self.base.cast(), self.size) };
    }
}

/// Let the channel work until the guest has a completion.
async fn complete(channel: &mut Channel, guest: &mut Guest) -> Completion {
    for _ in 0..2000 {
        if let Some(completion) = guest.take() {
            return completion;
        }
        if let Ok(message) = timeout(Duration::from_millis(1), channel.receive()).await {
            panic!("{message:?} instead of a completion");
        }
    }
    panic!("no completion");
}

#[tokio::test]
async fn a_completion_wakes_who_waits_for_the_word() {
    let (mut channel, mut guest) = open();
    assert!(guest.descriptors.completion.is_none());
    let word = guest.base as usize + control::SIGNALS;
    let waiter = std::thread::spawn(move || {
        let limit = libc::timespec {
            tv_sec: 20,
            tv_nsec: 0,
        };
        let (none, wait) = (0_u32, libc::FUTEX_WAIT);
        // SAFETY: the word is mapped until the guest is dropped, which is after this thread; the time is live.
        let result = unsafe { libc::syscall(libc::SYS_futex, word, wait, none, &raw const limit) };
        (result, std::io::Error::last_os_error().raw_os_error())
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    guest.submit(Entry {
        id: 1,
        operation: 999,
        ..Entry::default()
    });
    assert_eq!(complete(&mut channel, &mut guest).await.id, 1);
    let (result, error) = waiter.join().unwrap();
    assert!(result == 0 || error == Some(libc::EAGAIN), "{error:?}");
    assert_eq!(guest.word(control::SIGNALS), 1);
}

async fn message(channel: &mut Channel) -> RuntimeMessage {
    timeout(Duration::from_secs(5), channel.receive())
        .await
        .expect("a message")
}

fn event_head() -> EventHead {
    EventHead {
        request_id: "r-1".into(),
        deadline_ms: 7,
        function_arn: "arn".into(),
        client_context: None,
        identity: None,
        trace_id: None,
    }
}

fn next(id: u64) -> Entry {
    Entry {
        id,
        operation: op::NEXT,
        room: (HEAP, 65536),
        ..Entry::default()
    }
}

#[tokio::test]
async fn an_event_goes_in_and_its_outcome_comes_out() {
    let (mut channel, mut guest) = open();
    guest.submit(next(1));
    assert_eq!(message(&mut channel).await, RuntimeMessage::Next(None));
    channel
        .deliver(&event_head(), Bytes::from_static(b"{\"a\":1}"))
        .await
        .unwrap();
    let got = complete(&mut channel, &mut guest).await;
    assert_eq!((got.id, got.status, got.flags, got.total), (1, 0, 0, 7));
    assert_eq!(got.body, b"{\"a\":1}");
    let head: serde_json::Value = serde_json::from_slice(&got.head).unwrap();
    assert_eq!(
        (&head["request_id"], &head["deadline_ms"]),
        (&"r-1".into(), &7.into())
    );
    let times = b"{\"started_ns\":5,\"ended_ns\":9}";
    guest.put(arena::HEAP, times);
    guest.put(arena::HEAP + 64, b"[2]");
    guest.submit(Entry {
        flags: op::NEXT_RESULT,
        head: (HEAP, times.len() as u32),
        body: (HEAP + 64, 3),
        ..next(2)
    });
    let RuntimeMessage::Next(Some(finished)) = message(&mut channel).await else {
        panic!("no outcome");
    };
    assert_eq!(finished.body, b"[2]");
    assert_eq!(
        (finished.is_error, finished.started_ns, finished.ended_ns),
        (false, 5, 9)
    );
    assert!(channel.deliver(&event_head(), Bytes::new()).await.is_ok());
    assert!(channel.deliver(&event_head(), Bytes::new()).await.is_err());
}

#[tokio::test]
async fn an_event_larger_than_its_room_is_read_on() {
    let (mut channel, mut guest) = open();
    guest.submit(next(1));
    message(&mut channel).await;
    let event: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    channel
        .deliver(&event_head(), Bytes::from(event.clone()))
        .await
        .unwrap();
    let mut got = complete(&mut channel, &mut guest).await;
    let mut body = got.body;
    assert_eq!(got.total, 1_000_000);
    let mut id = 1;
    while got.flags & op::MORE != 0 {
        id += 1;
        guest.submit(Entry {
            id,
            operation: op::READ,
            room: (HEAP, 300_000),
            stream: got.stream,
            ..Entry::default()
        });
        got = complete(&mut channel, &mut guest).await;
        assert_eq!((got.id, got.status), (id, 0));
        body.extend(&got.body);
    }
    assert!(body == event);
    // The stream ended with its last part.
    guest.submit(Entry {
        id: 99,
        operation: op::READ,
        room: (HEAP, 64),
        stream: 1,
        ..Entry::default()
    });
    assert_eq!(
        complete(&mut channel, &mut guest).await.status,
        status::NO_STREAM
    );
}

#[tokio::test]
async fn an_outcome_may_come_in_parts() {
    let (mut channel, mut guest) = open();
    guest.submit(Entry {
        flags: op::NEXT_ERROR | op::STREAM_BODY,
        ..next(1)
    });
    guest.put(arena::HEAP, b"abcdef");
    for (id, offset, flags) in [(2, 0, op::MORE_BODY), (3, 3, 0)] {
        guest.submit(Entry {
            id,
            operation: op::BODY,
            flags,
            body: (HEAP + offset, 3),
            stream: 1,
            ..Entry::default()
        });
    }
    let RuntimeMessage::Next(Some(finished)) = message(&mut channel).await else {
        panic!("no outcome");
    };
    assert_eq!(
        (finished.is_error, finished.body.as_slice()),
        (true, &b"abcdef"[..])
    );
    assert_eq!(guest.take().unwrap().id, 2);
    assert_eq!(guest.take().unwrap().id, 3);
    channel.deliver(&event_head(), Bytes::new()).await.unwrap();
    assert_eq!(guest.take().unwrap().id, 1);
}

#[tokio::test]
async fn an_initialisation_error_is_told() {
    let (mut channel, mut guest) = open();
    guest.put(arena::HEAP, b"{}");
    guest.submit(Entry {
        id: 1,
        operation: op::INIT_ERROR,
        body: (HEAP, 2),
        ..Entry::default()
    });
    assert_eq!(
        message(&mut channel).await,
        RuntimeMessage::InitError(b"{}".to_vec())
    );
    assert_eq!(guest.take().unwrap().status, 0);
}

#[tokio::test]
async fn submissions_that_break_the_contract_are_invalid() {
    let (mut channel, mut guest) = open();
    let size = guest.size as u32;
    let bad = [
        Entry {
            operation: 77,
            ..Entry::default()
        },
        Entry {
            operation: 0,
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            reserved: 1,
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            head: (0, 64),
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            head: (HEAP, 300 << 10),
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            body: (size - 1, 2),
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            body: (u32::MAX, u32::MAX),
            ..Entry::default()
        },
        Entry {
            operation: op::READ,
            room: (0, 4096),
            ..Entry::default()
        },
        Entry {
            operation: op::NEXT,
            room: (HEAP, size),
            ..Entry::default()
        },
        Entry {
            operation: op::S3,
            head: (HEAP, 4),
            room: (HEAP, 4096),
            ..Entry::default()
        },
    ];
    for (id, entry) in bad.into_iter().enumerate() {
        guest.submit(Entry {
            id: id as u64,
            ..entry
        });
        let got = complete(&mut channel, &mut guest).await;
        assert!(got.status < 0 && got.id == id as u64, "{id}: {got:?}");
    }
    guest.submit(Entry {
        id: 50,
        operation: op::BODY,
        stream: 9,
        ..Entry::default()
    });
    assert_eq!(
        complete(&mut channel, &mut guest).await.status,
        status::NO_STREAM
    );
    guest.submit(Entry {
        id: 51,
        operation: op::CLOSE,
        stream: 9,
        ..Entry::default()
    });
    assert_eq!(complete(&mut channel, &mut guest).await.status, 0);
    // The control page was not touched by any of these replies.
    assert_eq!(guest.get(0, 8), b"NEXUSARN");
}

#[tokio::test]
async fn rings_in_an_impossible_state_end_the_instance() {
    let broken = async |spoil: &dyn Fn(&mut Guest)| {
        let (mut channel, mut guest) = open();
        spoil(&mut guest);
        guest.ring();
        let message = message(&mut channel).await;
        assert!(matches!(message, RuntimeMessage::Broken(_)), "{message:?}");
    };
    broken(&|guest| guest.put(control::SUBMIT_TAIL, &65_u32.to_le_bytes())).await;
    broken(&|guest| guest.put(control::SUBMIT_TAIL, &u32::MAX.to_le_bytes())).await;
    broken(&|guest| {
        guest.put(control::COMPLETE_HEAD, &5_u32.to_le_bytes());
        guest.submit(Entry {
            id: 1,
            operation: op::CLOSE,
            ..Entry::default()
        });
    })
    .await;
    broken(&|guest| {
        let outcome = Entry {
            flags: op::NEXT_RESULT | op::STREAM_BODY,
            ..next(1)
        };
        guest.submit(outcome);
        guest.submit(Entry { id: 1, ..outcome });
    })
    .await;
    broken(&|guest| {
        guest.submit(Entry {
            flags: op::NEXT_RESULT | op::NEXT_ERROR,
            ..next(1)
        })
    })
    .await;
    broken(&|guest| {
        guest.put(arena::HEAP, b"{x}");
        guest.submit(Entry {
            flags: op::NEXT_RESULT,
            head: (HEAP, 3),
            ..next(1)
        });
    })
    .await;
}

#[tokio::test]
async fn completions_that_are_never_taken_end_the_instance() {
    let (mut channel, mut guest) = open();
    for id in 0..64 {
        guest.submit(Entry {
            id,
            operation: op::CLOSE,
            ..Entry::default()
        });
    }
    assert!(
        timeout(Duration::from_millis(50), channel.receive())
            .await
            .is_err()
    );
    guest.submit(Entry {
        id: 64,
        operation: op::CLOSE,
        ..Entry::default()
    });
    assert!(matches!(
        message(&mut channel).await,
        RuntimeMessage::Broken(_)
    ));
}

#[tokio::test]
async fn two_nexts_end_the_instance() {
    let (mut channel, mut guest) = open();
    guest.submit(next(1));
    assert_eq!(message(&mut channel).await, RuntimeMessage::Next(None));
    guest.submit(next(2));
    assert!(matches!(
        message(&mut channel).await,
        RuntimeMessage::Broken(_)
    ));
}

#[tokio::test]
async fn indices_wrap() {
    let (mut channel, mut guest) = open();
    for id in 0..1000 {
        guest.submit(Entry {
            id,
            operation: op::CLOSE,
            ..Entry::default()
        });
        assert_eq!(complete(&mut channel, &mut guest).await.id, id);
    }
}

#[tokio::test]
async fn random_entries_never_panic() {
    // A small generator of our own: the same entries in every run.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..100 {
        let (mut channel, mut guest) = open();
        for _ in 0..20 {
            let mut bytes = [0_u8; 64];
            bytes.iter_mut().for_each(|b| *b = (random() >> 20) as u8);
            // Half of them nearly right, to get further.
            if random() % 2 == 0 {
                bytes[s::RESERVED..].fill(0);
                bytes[s::OPERATION..s::OPERATION + 2]
                    .copy_from_slice(&((random() % 7) as u16).to_le_bytes());
                for field in [s::HEAD_OFFSET, s::BODY_OFFSET, s::ROOM_OFFSET] {
                    let offset = HEAP + (random() % 4096) as u32;
                    bytes[field..field + 4].copy_from_slice(&offset.to_le_bytes());
                    bytes[field + 4..field + 8]
                        .copy_from_slice(&((random() % 512) as u32).to_le_bytes());
                }
                bytes[s::STREAM..s::STREAM + 8].copy_from_slice(&(random() % 4).to_le_bytes());
            }
            guest.put(arena::SUBMIT_RING + (guest.made % 64) as usize * 64, &bytes);
            guest.made += 1;
            guest.put(control::SUBMIT_TAIL, &guest.made.to_le_bytes());
            guest.ring();
            let said = timeout(Duration::from_millis(1), channel.receive()).await;
            if matches!(said, Ok(RuntimeMessage::Broken(_))) {
                break;
            }
            let _ = channel
                .deliver(&event_head(), Bytes::from_static(b"{}"))
                .await;
            while guest.word(control::COMPLETE_TAIL) != guest.taken {
                guest.taken += 1;
            }
            guest.put(control::COMPLETE_HEAD, &guest.taken.to_le_bytes());
        }
    }
}
