//! Guests that break the contract: each harms itself only.

use crate::common;
use crate::common::guest::{BODY, Entry, HEAD, SIZE, at};
use crate::common::node;
use crate::common::server::{Seen, Server, Step, ok};
use nexus_abi::arena::{SUBMIT_RING, control};
use nexus_abi::operation::{self as abi, status as code};
use nexus_backend::RuntimeMessage;
use std::sync::atomic::Ordering;
use std::time::Duration;

const NOWHERE: &str = "http://127.0.0.1:1";

/// What the backend says about a guest that does `part`.
async fn verdict(part: impl FnOnce(&mut common::guest::Guest) + Send + 'static) -> RuntimeMessage {
    let mut node = node(NOWHERE);
    node.play(part).await;
    let (message, _) = tokio::time::timeout(Duration::from_secs(5), node.message)
        .await
        .expect("the backend has to notice")
        .unwrap();
    message
}

fn is_broken(message: &RuntimeMessage, what: &str) {
    assert!(
        matches!(message, RuntimeMessage::Broken(text) if text.contains(what)),
        "{message:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_indices() {
    for tail in [65, 1 << 20, u32::MAX] {
        let message = verdict(move |guest| {
            guest
                .index(control::SUBMIT_TAIL)
                .store(tail, Ordering::Release);
            guest.ring();
        })
        .await;
        is_broken(&message, "submissions wait in a ring of 64");
    }
    let message = verdict(|guest| {
        guest
            .index(control::COMPLETE_HEAD)
            .store(7, Ordering::Release);
        guest.submit_entry(Entry {
            operation: abi::CLOSE,
            ..Entry::default()
        });
    })
    .await;
    is_broken(&message, "completions wait in a ring of 64");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_flight_twice() {
    let message = verdict(|guest| {
        for _ in 0..2 {
            guest.push(&Entry {
                id: 9,
                operation: abi::NEXT,
                flags: abi::STREAM_BODY | abi::NEXT_RESULT,
                ..Entry::default()
            });
        }
        guest.ring();
    })
    .await;
    is_broken(&message, "two submissions in flight have the id 9");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_in_flight_than_completions_have_room() {
    let server = Server::start(|_, _: &Seen| vec![Step::Sleep(60_000)]).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        let head = br#"{"op": "GetObject", "bucket": "b", "key": "k", "endpoint": null}"#;
        guest.write(HEAD, head);
        for id in 1..=65 {
            guest.push(&Entry {
                id,
                operation: abi::S3,
                head: (at(HEAD), at(head.len())),
                ..Entry::default()
            });
            guest.ring();
            std::thread::sleep(Duration::from_millis(1));
        }
    })
    .await;
    let (message, statistics) = tokio::time::timeout(Duration::from_secs(5), node.message)
        .await
        .unwrap()
        .unwrap();
    is_broken(&message, "more submissions are in flight");
    assert_eq!(statistics.operations, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_complete_with_invalid() {
    let mut node = node(NOWHERE);
    node.play(|guest| {
        let end = at(SIZE);
        let entries = [
            Entry {
                head: (0, 8),
                ..Entry::default()
            },
            Entry {
                head: (at(SUBMIT_RING), 64),
                ..Entry::default()
            },
            Entry {
                head: (end, 1),
                ..Entry::default()
            },
            Entry {
                body: (u32::MAX, u32::MAX),
                ..Entry::default()
            },
            Entry {
                room: (end - 1, 2),
                ..Entry::default()
            },
            Entry {
                room: (8, 8),
                ..Entry::default()
            },
            Entry {
                reserved: [1; 16],
                ..Entry::default()
            },
            Entry {
                head: (at(HEAD), 1 << 20),
                ..Entry::default()
            },
            Entry {
                head: (at(HEAD), 0),
                ..Entry::default()
            },
        ];
        for entry in entries {
            guest.submit_entry(Entry {
                operation: abi::S3,
                ..entry
            });
            assert_eq!(guest.wait().status, code::INVALID);
        }
        for operation in [0, 6, 15, 18, u16::MAX] {
            guest.submit_entry(Entry {
                operation,
                ..Entry::default()
            });
            assert_eq!(guest.wait().status, code::INVALID);
        }
        for operation in [abi::READ, abi::BODY] {
            guest.submit_entry(Entry {
                operation,
                stream: 77,
                ..Entry::default()
            });
            assert_eq!(guest.wait().status, code::NO_STREAM);
        }
        // It is still served.
        guest.submit_entry(Entry {
            operation: abi::CLOSE,
            ..Entry::default()
        });
        assert_eq!(guest.wait().status, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_no_requests() {
    let mut node = node(NOWHERE);
    node.play(|guest| {
        let deep = "[".repeat(10_000);
        let heads = [
            "", "{", "null", "[]", "{\"op\": \"DropTable\"}", deep.as_str(), "\u{0}",
            r#"{"op": "GetObject", "bucket": "b", "key": "k", "extra": 1}"#,
            r#"{"op": "GetObject", "bucket": null, "key": "k"}"#,
            r#"{"op": "ListBuckets", "bucket": "b", "key": null}"#,
            r#"{"op": "GetObject", "bucket": "b", "key": "k", "region": "a/b"}"#,
            r#"{"op": "GetObject", "bucket": "b", "key": "k", "headers": [["a\r\n", "b"]]}"#,
            r#"{"op": "GetObject", "bucket": "b", "key": "k", "endpoint": "file:///etc/passwd"}"#,
        ];
        for head in heads {
            guest.write(HEAD, head.as_bytes());
            guest.submit_entry(Entry { operation: abi::S3, head: (at(HEAD), at(head.len())), ..Entry::default() });
            assert_eq!(guest.wait().status, code::INVALID, "{head:.60}");
        }
        for head in [
            r#"{"method": "GET", "url": "x"}"#,
            r#"{"method": "G T", "url": "http://127.0.0.1:1/"}"#,
            r#"{"method": "GET", "url": "http://127.0.0.1:1/", "sign": {"service": "s3\n", "region": "r"}}"#,
            r#"{"method": "GET", "url": "http://127.0.0.1:1/", "read_timeout_s": -1}"#,
            r#"{"method": "GET", "url": "http://127.0.0.1:1/", "headers": [["Transfer-Encoding", "gzip"]]}"#,
        ] {
            guest.write(HEAD, head.as_bytes());
            guest.submit_entry(Entry { operation: abi::HTTP, head: (at(HEAD), at(head.len())), ..Entry::default() });
            assert_eq!(guest.wait().status, code::INVALID, "{head}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_too_small_for_the_head() {
    let server = Server::start(|_, _: &Seen| ok(b"body")).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        let head = br#"{"op": "GetObject", "bucket": "b", "key": "k", "endpoint": null}"#;
        guest.write(HEAD, head);
        for length in [0, 1, 40] {
            let room = (at(BODY), length);
            guest.submit_entry(Entry {
                operation: abi::S3,
                head: (at(HEAD), at(head.len())),
                room,
                ..Entry::default()
            });
            assert_eq!(guest.wait().status, code::NO_ROOM);
        }
    })
    .await;
}

/// While requests run, another thread scribbles over everything the guest can write.
#[tokio::test(flavor = "multi_thread")]
async fn racing_changes_end_this_instance_at_most() {
    let server = Server::start(|_, _: &Seen| ok(&[7; 50_000])).await;
    for seed in 0..8 {
        let mut node = node(&server.url);
        node.play(move |guest| {
            let head = br#"{"op": "PutObject", "bucket": "b", "key": "k", "endpoint": null}"#;
            guest.write(HEAD, head);
            let mut random = fastrand::Rng::with_seed(seed);
            for id in 0..200 {
                guest.push(&Entry {
                    id,
                    operation: abi::S3,
                    head: (at(HEAD), at(head.len())),
                    body: (at(BODY), 100_000),
                    timeout_ms: 500,
                    ..Entry::default()
                });
                guest.ring();
                for _ in 0..random.usize(..50) {
                    let offset = if random.bool() {
                        random.usize(0x1000..0x3000)
                    } else {
                        random.usize(HEAD..HEAD + 200)
                    };
                    guest.write(offset, &[random.u8(..)]);
                }
                guest.acknowledge();
            }
        })
        .await;
        node.end();
        let ended = tokio::time::timeout(Duration::from_secs(5), node.message).await;
        ended.expect("it still answers").expect("it did not panic");
    }
    // Another instance of the same process works.
    let mut node = node(&server.url);
    assert_eq!(
        node.play(|guest| guest.s3("GetObject", "k", b""))
            .await
            .http_status(),
        200
    );
}
