//! Deferred writes: what a function is told, what others see meanwhile, and what becomes of an invocation (docs/writes.md).

use crate::common::guest::{BODY, Guest};
use crate::common::store::{Store, etag};
use crate::common::world::{Instance, World};
use crate::web;
use nexus_abi::operation::{self as abi, status as code};
use nexus_backend::{Commit, WriteMode};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const SLOW: u64 = 400;

/// A store, a node, and an instance in an invocation that has learnt how the store answers.
async fn begun(mode: WriteMode) -> (Store, World, Instance) {
    let store = Store::start().await;
    let world = World::new(&store.server.url, None).await;
    let mut instance = world.instance("f", mode, 10_000);
    instance.begin().await;
    assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
    (store, world, instance)
}

fn slow(store: &Store, ms: u64) {
    store.behaviour.put_ms.store(ms, Ordering::SeqCst);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_answered_before_the_store_has_and_as_the_store_will() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    slow(&store, SLOW);
    let began = Instant::now();
    let reply = instance.play(|g| g.s3("PutObject", "k", b"hello")).await;
    assert!(began.elapsed() < Duration::from_millis(SLOW), "it waited");
    assert_eq!(reply.http_status(), 200);
    let headers = reply.head["headers"].to_string();
    assert!(
        headers.contains(&etag(b"hello").replace('"', "\\\"")),
        "{headers}"
    );
    assert!(headers.contains("NhCmhg=="), "{headers}");
    let scope = instance.end().await;
    assert!(!scope.is_clean());
    assert!(matches!(scope.commit().await, Commit::Done));
    assert!(began.elapsed() >= Duration::from_millis(SLOW));
    assert_eq!(store.get("/b/k").unwrap(), b"hello");
    assert_eq!(world.backend.writes().pending, 0);
    assert_eq!(world.backend.writes().stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sync_is_what_it_was() {
    let (store, _world, mut instance) = begun(WriteMode::Sync).await;
    slow(&store, SLOW);
    let began = Instant::now();
    assert_eq!(instance.s3("PutObject", "k", b"hello").await, 200);
    assert!(began.elapsed() >= Duration::from_millis(SLOW));
    assert!(instance.end().await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_on_the_node_sees_a_pending_object_by_any_route() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    let url = store.server.url.clone();
    type Look = Box<dyn FnOnce(&mut Guest) -> u64 + Send>;
    let via_http = |method: &'static str, path: &'static str| -> Look {
        let url = format!("{url}{path}");
        Box::new(move |g: &mut Guest| {
            let sign = json!({"service": "s3", "region": "us-east-1"});
            let head = json!({"method": method, "url": url, "sign": sign});
            g.call(abi::HTTP, &head, b"").http_status()
        })
    };
    let via_web = |method: &'static str, target: &'static str| -> Look {
        let url = url.clone();
        Box::new(move |g: &mut Guest| talk(g, &url, method, target, ""))
    };
    let looks: Vec<(&str, Look)> = vec![
        (
            "GET by a web client",
            via_web("GET", "/b/k?X-Amz-Signature=0"),
        ),
        ("LIST by a web client", via_web("GET", "/b?list-type=2")),
        ("odd path by a web client", via_web("GET", "/x/../b/k")),
        (
            "GET",
            Box::new(|g| g.s3("GetObject", "k", b"").http_status()),
        ),
        (
            "HEAD",
            Box::new(|g| g.s3("HeadObject", "k", b"").http_status()),
        ),
        (
            "LIST",
            Box::new(|g| {
                let head = json!({"op": "ListObjectsV2", "bucket": "b", "key": null, "query": [], "headers": [],
                "region": "us-east-1", "endpoint": null});
                g.call(abi::S3, &head, b"").http_status()
            }),
        ),
        (
            "COPY from",
            Box::new(|g| {
                g.s3_with("CopyObject", "copy", b"", &[("x-amz-copy-source", "b/k")])
                    .http_status()
            }),
        ),
        (
            "PUT",
            Box::new(|g| {
                g.s3_with("PutObject", "k", b"y", &[("x-amz-acl", "private")])
                    .http_status()
            }),
        ),
        ("GET by HTTP", via_http("GET", "/b/k")),
        ("LIST by HTTP", via_http("GET", "/b?list-type=2")),
        ("multipart by HTTP", via_http("POST", "/b/k?uploads")),
        ("odd path by HTTP", via_http("GET", "/./b/k")),
        (
            "DELETE",
            Box::new(|g| g.s3("DeleteObject", "k", b"").http_status()),
        ),
    ];
    let mut other = world.instance("g", WriteMode::Sync, 10_000);
    other.begin().await;
    for (what, look) in looks {
        slow(&store, 200);
        assert_eq!(instance.s3("PutObject", "k", b"pending").await, 200);
        assert_eq!(world.backend.writes().pending, 1, "{what}");
        slow(&store, 0);
        other.play(look).await;
        assert_eq!(world.backend.writes().pending, 0, "{what} did not wait");
    }
    // And what is of no concern does not wait.
    slow(&store, SLOW);
    store.put("/b/other", b"z");
    assert_eq!(instance.s3("PutObject", "k", b"pending").await, 200);
    assert_eq!(other.s3("GetObject", "other", b"").await, 200);
    assert_eq!(instance.s3("GetObject", "other", b"").await, 200);
    assert_eq!(world.backend.writes().pending, 1);
}

/// One exchange of a web client; the status.
fn talk(g: &mut Guest, url: &str, method: &str, target: &str, body: &str) -> u64 {
    let host = url.strip_prefix("http://").unwrap();
    let (id, stream) = web::connect(g, url);
    let length = body.len();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    web::say(g, id, text.as_bytes());
    let heard = web::hear(g, stream).body;
    web::close(g, stream);
    let text = String::from_utf8(heard).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_client_writes_behind_what_is_pending() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    let mut other = world.instance("g", WriteMode::Sync, 10_000);
    other.begin().await;
    // The first write keeps the second one from being sent.
    slow(&store, SLOW);
    assert_eq!(instance.s3("PutObject", "slow", b"x").await, 200);
    assert_eq!(instance.s3("PutObject", "k", b"first").await, 200);
    let url = store.server.url.clone();
    let status = other
        .play(move |g| talk(g, &url, "PUT", "/b/k", "second"))
        .await;
    assert_eq!(status, 200);
    assert!(matches!(instance.end().await.commit().await, Commit::Done));
    assert_eq!(store.get("/b/k").unwrap(), b"second");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_other_effect_is_a_barrier() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    let url = store.server.url.clone();
    type Effect = Box<dyn FnOnce(&mut Guest) -> u64 + Send>;
    let effects: Vec<Effect> = vec![
        Box::new(|g| g.s3("DeleteObject", "other", b"").http_status()),
        Box::new(|g| {
            g.s3_with("PutObject", "other", b"", &[("If-None-Match", "*")])
                .http_status()
        }),
        Box::new(move |g| {
            let head = json!({"method": "POST", "url": format!("{url}/elsewhere/x"), "sign": null});
            g.call(abi::HTTP, &head, b"").http_status()
        }),
        Box::new(|g| {
            g.s3("PutObject", "large", &vec![1; (1 << 20) + 1])
                .http_status()
        }),
    ];
    for effect in effects {
        slow(&store, 200);
        assert_eq!(instance.s3("PutObject", "k", b"pending").await, 200);
        slow(&store, 0);
        instance.play(effect).await;
        assert_eq!(world.backend.writes().pending, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_an_invocation_arrive_in_order_and_stop_at_a_failure() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    slow(&store, 30);
    for key in ["1", "2", "3", "4"] {
        assert_eq!(instance.s3("PutObject", key, b"v").await, 200);
    }
    assert!(matches!(instance.end().await.commit().await, Commit::Done));
    let puts: Vec<String> = store.log().into_iter().skip(1).collect();
    assert_eq!(puts, ["PUT /b/1", "PUT /b/2", "PUT /b/3", "PUT /b/4"]);

    instance.begin().await;
    store.behaviour.put_status.store(403, Ordering::SeqCst);
    let before = store.log().len();
    for key in ["5", "6"] {
        assert_eq!(instance.s3("PutObject", key, b"v").await, 200);
    }
    let refused = instance.play(|g| g.s3("DeleteObject", "1", b"")).await;
    assert_eq!(
        (refused.status, refused.error()),
        (code::DENIED, "DeferredWriteFailed")
    );
    match instance.end().await.commit().await {
        Commit::Failed(error) => {
            assert_eq!(error.error_type, "ClientError");
            assert_eq!(
                error.message,
                "An error occurred (AccessDenied) when calling the PutObject operation: told so"
            );
        }
        other => panic!("{other:?}"),
    }
    // Neither the write behind the failed one nor the deletion was sent.
    assert_eq!(store.log()[before..], ["PUT /b/5"]);
    assert!(store.get("/b/1").is_some());
    assert_eq!(world.backend.writes().pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_on_the_state_of_a_failed_one_has_no_effect() {
    let (store, _world, mut instance) = begun(WriteMode::Commit).await;
    slow(&store, 200);
    assert_eq!(instance.s3("PutObject", "1", b"v").await, 200);
    let first = instance.end().await;
    instance.begin().await;
    assert_eq!(instance.s3("PutObject", "2", b"v").await, 200);
    let second = instance.end().await;
    assert!(matches!(second.commit().await, Commit::Done));
    assert!(matches!(first.commit().await, Commit::Done));

    instance.begin().await;
    store.behaviour.put_status.store(403, Ordering::SeqCst);
    assert_eq!(instance.s3("PutObject", "3", b"v").await, 200);
    let third = instance.end().await;
    instance.begin().await;
    let status = instance.s3("PutObject", "4", b"v").await;
    assert_eq!(status, 200);
    let fourth = instance.end().await;
    assert!(matches!(third.commit().await, Commit::Failed(_)));
    assert!(matches!(fourth.commit().await, Commit::Rerun));
    assert!(!store.log().contains(&"PUT /b/4".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_leave_the_guest_before_the_answer() {
    let (store, _world, mut instance) = begun(WriteMode::Commit).await;
    slow(&store, 100);
    // The one before keeps this one from being sent until the guest has scribbled over it.
    assert_eq!(instance.s3("PutObject", "k0", b"v").await, 200);
    instance
        .play(|g| {
            assert_eq!(g.s3("PutObject", "k", b"original").http_status(), 200);
            g.write(BODY, b"scribble");
        })
        .await;
    assert!(matches!(instance.end().await.commit().await, Commit::Done));
    assert_eq!(store.get("/b/k").unwrap(), b"original");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_known_ahead_is_not_deferred() {
    let store = Store::start().await;
    store.behaviour.versioned.store(1, Ordering::SeqCst);
    let world = World::new(&store.server.url, None).await;
    let mut instance = world.instance("f", WriteMode::Commit, 10_000);
    instance.begin().await;
    for _ in 0..3 {
        let reply = instance.play(|g| g.s3("PutObject", "k", b"x")).await;
        assert!(
            reply.head["headers"]
                .to_string()
                .contains("x-amz-version-id")
        );
    }
    let sse = ("x-amz-server-side-encryption", "aws:kms");
    instance
        .play(move |g| g.s3_with("PutObject", "k", b"x", &[sse]).http_status())
        .await;
    assert_eq!(world.backend.writes().deferred, 0);
    assert!(instance.end().await.is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_has_a_deadline() {
    let store = Store::start().await;
    let world = World::new(&store.server.url, None).await;
    let mut instance = world.instance("f", WriteMode::Commit, 150);
    instance.begin().await;
    assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
    slow(&store, 5000);
    assert_eq!(instance.s3("PutObject", "k", b"x").await, 200);
    let began = Instant::now();
    match instance.end().await.commit().await {
        Commit::Failed(error) => {
            assert_eq!(error.error_type, "ReadTimeoutError");
            assert!(error.ambiguous);
        }
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < Duration::from_secs(3));
    // Nothing is under way any more.
    assert_eq!(world.backend.writes().pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_written_at_once() {
    let (store, world, mut instance) = begun(WriteMode::Commit).await;
    slow(&store, 3000);
    // 64 MiB pending of one function are the limit.
    for n in 0..64 {
        let reply = instance
            .play(move |g| g.s3("PutObject", &format!("k{n}"), &vec![1; 1 << 20]))
            .await;
        assert_eq!(reply.http_status(), 200);
    }
    assert_eq!(world.backend.writes().pending, 64);
    slow(&store, 0);
    assert_eq!(instance.s3("PutObject", "one more", b"x").await, 200);
    // It was done at once, so after everything before it.
    assert_eq!(world.backend.writes().pending, 0);
    assert_eq!(world.backend.writes().deferred, 64);
}

mod journal {
    use super::*;
    use std::path::Path;

    async fn node(store: &Store, directory: &Path) -> (World, Instance) {
        let world = World::new(&store.server.url, Some(directory)).await;
        let mut instance = world.instance("f", WriteMode::Journal, 10_000);
        instance.begin().await;
        (world, instance)
    }

    /// What a node does until it ends as by a crash, nothing of it going on afterwards; the journal that it leaves.
    async fn until_a_crash(
        store: &Arc<Store>,
        what: impl AsyncFnOnce(&Store, &mut Instance) + Send + 'static,
    ) -> tempfile::TempDir {
        let store = Arc::clone(store);
        let life = move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let left = runtime.block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let (_world, mut instance) = node(&store, directory.path()).await;
                what(&store, &mut instance).await;
                crash_copy(directory.path())
            });
            runtime.shutdown_timeout(Duration::from_secs(10));
            left
        };
        tokio::task::spawn_blocking(life).await.unwrap()
    }

    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A copy of the journal as a crash would leave it.
    fn crash_copy(from: &Path) -> tempfile::TempDir {
        let to = tempfile::tempdir().unwrap();
        std::fs::create_dir(to.path().join("spool")).unwrap();
        for part in ["", "spool"] {
            for entry in std::fs::read_dir(from.join(part)).unwrap().flatten() {
                if entry.file_type().unwrap().is_file() {
                    let name = entry.file_name();
                    std::fs::copy(entry.path(), to.path().join(part).join(name)).unwrap();
                }
            }
        }
        to
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_outcome_need_not_wait_and_reads_of_the_node_do() {
        let store = Store::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (world, mut instance) = node(&store, directory.path()).await;
        assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
        slow(&store, SLOW);
        let began = Instant::now();
        assert_eq!(instance.s3("PutObject", "k", b"hello").await, 200);
        assert!(matches!(instance.end().await.commit().await, Commit::Done));
        assert!(began.elapsed() < Duration::from_millis(SLOW));
        assert_eq!(instance.s3("GetObject", "k", b"").await, 200);
        assert_eq!(world.backend.writes().pending, 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_acknowledged_survives_the_node_and_is_written_once_the_store_is_back() {
        let store = Arc::new(Store::start().await);
        let copy = until_a_crash(&store, async |store, instance| {
            assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
            store.behaviour.put_status.store(503, Ordering::SeqCst);
            for _ in 0..2 {
                let large = instance
                    .play(|g| g.s3("PutObject", "large", &vec![7; 1 << 20]).http_status())
                    .await;
                assert_eq!(large, 200);
                assert_eq!(instance.s3("PutObject", "small", b"v").await, 200);
            }
        })
        .await;
        // The WAL's tail is torn, and a payload was half written.
        let wal = copy.path().join("journal.db-wal");
        let mut tail = std::fs::read(&wal).unwrap();
        tail.extend_from_slice(&[0x5a; 3000]);
        std::fs::write(&wal, tail).unwrap();
        std::fs::write(copy.path().join("spool/9.tmp"), b"half").unwrap();
        store.behaviour.put_status.store(0, Ordering::SeqCst);
        let (second, _instance) = node(&store, copy.path()).await;
        assert_eq!(second.backend.writes().replayed, 4);
        eventually("replayed", || second.backend.writes().pending == 0).await;
        assert_eq!(store.get("/b/small").unwrap(), b"v");
        assert_eq!(store.get("/b/large").unwrap(), vec![7; 1 << 20]);
        assert!(second.backend.writes().parked.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replay_never_overwrites_what_somebody_else_wrote() {
        let store = Arc::new(Store::start().await);
        let copy = until_a_crash(&store, async |store, instance| {
            store.put("/b/k", b"base");
            assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
            store.behaviour.put_status.store(503, Ordering::SeqCst);
            assert_eq!(instance.s3("PutObject", "k", b"ours").await, 200);
            // Its base is looked up in the background, and noted.
            eventually("looked", || store.log().contains(&"HEAD /b/k".to_owned())).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        })
        .await;
        store.behaviour.put_status.store(0, Ordering::SeqCst);
        store.put("/b/k", b"somebody else's");
        let (second, _instance) = node(&store, copy.path()).await;
        eventually("decided", || second.backend.writes().pending == 0).await;
        let parked = second.backend.writes().parked;
        assert_eq!(parked.len(), 1, "{parked:?}");
        assert!(
            parked[0].conflict && parked[0].reason.contains("somebody else"),
            "{parked:?}"
        );
        assert_eq!(store.get("/b/k").unwrap(), b"somebody else's");
        // An operator may decide for it.
        assert!(second.backend.retry_write(parked[0].id).await.unwrap());
        eventually("retried", || second.backend.writes().pending == 0).await;
        assert_eq!(store.get("/b/k").unwrap(), b"ours");
        assert!(second.backend.writes().parked.is_empty());
        assert!(!second.backend.forget_write(parked[0].id).await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_fails_for_good_is_kept_and_told() {
        let store = Store::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (world, mut instance) = node(&store, directory.path()).await;
        assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
        store.behaviour.put_status.store(403, Ordering::SeqCst);
        assert_eq!(instance.s3("PutObject", "k", b"v").await, 200);
        eventually("parked", || world.backend.writes().parked.len() == 1).await;
        let parked = &world.backend.writes().parked[0];
        assert!(
            !parked.conflict && parked.reason.contains("AccessDenied"),
            "{parked:?}"
        );
        match instance.end().await.commit().await {
            Commit::Failed(error) => assert_eq!(error.error_type, "ClientError"),
            other => panic!("{other:?}"),
        }
        assert!(world.backend.forget_write(parked.id).await.unwrap());
        assert!(world.backend.writes().parked.is_empty());
    }

    /// The journal's database by another hand, which can make it fail.
    fn by_hand(directory: &Path, sql: &str) {
        let database = rusqlite::Connection::open(directory.join("journal.db")).unwrap();
        database.execute_batch(sql).unwrap();
    }

    /// What a full disk does, without one.
    fn fail(directory: &Path, what: &str) {
        by_hand(
            directory,
            &format!(
                "CREATE TRIGGER broken BEFORE {what} ON writes BEGIN SELECT RAISE(FAIL, 'the disk is full'); END"
            ),
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_whose_end_is_not_on_disk_is_pending_and_nothing_overtakes_it() {
        let store = Store::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (world, mut instance) = node(&store, directory.path()).await;
        assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
        slow(&store, SLOW);
        assert_eq!(instance.s3("PutObject", "k", b"v").await, 200);
        fail(directory.path(), "DELETE");
        eventually("stored", || store.get("/b/k").is_some()).await;
        tokio::time::sleep(Duration::from_millis(2 * SLOW)).await;
        assert_eq!(world.backend.writes().pending, 1);
        let delete = |ms: u32| {
            move |g: &mut Guest| {
                let head = json!({"op": "DeleteObject", "bucket": "b", "key": "k"});
                g.call_within(abi::S3, &head, ms)
            }
        };
        // Neither this invocation's effects nor another's come through: they are told to try again.
        let mut other = world.instance("g", WriteMode::Sync, 10_000);
        other.begin().await;
        for who in [&mut instance, &mut other] {
            let reply = who.play(delete(300)).await;
            assert_eq!(reply.http_status(), 503, "{:?}", reply.head);
            assert!(String::from_utf8_lossy(&reply.body).contains("ServiceUnavailable"));
        }
        // What has nothing to do with the key goes on, at once instead of deferred.
        assert_eq!(other.s3("PutObject", "l", b"w").await, 200);
        assert_eq!(store.get("/b/k").unwrap(), b"v");
        // A crash now replays what nobody was told of.
        let copy = crash_copy(directory.path());
        by_hand(copy.path(), "DROP TRIGGER broken");
        let (second, _instance) = node(&store, copy.path()).await;
        assert_eq!(second.backend.writes().replayed, 1);
        eventually("replayed", || second.backend.writes().pending == 0).await;
        assert!(second.backend.writes().parked.is_empty());
        // There is room again.
        by_hand(directory.path(), "DROP TRIGGER broken");
        eventually("written down", || world.backend.writes().pending == 0).await;
        assert_eq!(instance.play(delete(5000)).await.http_status(), 204);
        let copy = crash_copy(directory.path());
        let (third, _instance) = node(&store, copy.path()).await;
        assert_eq!(third.backend.writes().replayed, 0);
        assert_eq!(store.get("/b/k"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_that_cannot_be_parked_is_pending() {
        let store = Store::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (world, mut instance) = node(&store, directory.path()).await;
        assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
        fail(directory.path(), "UPDATE OF state");
        store.behaviour.put_status.store(403, Ordering::SeqCst);
        assert_eq!(instance.s3("PutObject", "k", b"v").await, 200);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(world.backend.writes().pending, 1);
        assert!(world.backend.writes().parked.is_empty());
        by_hand(directory.path(), "DROP TRIGGER broken");
        eventually("parked", || world.backend.writes().parked.len() == 1).await;
        eventually("let go of", || world.backend.writes().pending == 0).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_journal_does_not_take_is_done_at_once() {
        let store = Store::start().await;
        let directory = tempfile::tempdir().unwrap();
        let (world, mut instance) = node(&store, directory.path()).await;
        assert_eq!(instance.s3("PutObject", "first", b"x").await, 200);
        fail(directory.path(), "INSERT");
        assert_eq!(instance.s3("PutObject", "k", b"v").await, 200);
        assert_eq!(store.get("/b/k").unwrap(), b"v");
        assert_eq!(world.backend.writes().pending, 0);
        assert_eq!(instance.s3("DeleteObject", "k", b"").await, 204);
        assert_eq!(store.get("/b/k"), None);
    }
}
