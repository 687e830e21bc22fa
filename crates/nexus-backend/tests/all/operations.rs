//! S3 and HTTP operations, from a guest's ring to a server and back.

use crate::common;
use crate::common::guest::{BODY, Entry, at};
use crate::common::server::{Seen, Server, Step, ok, status};
use crate::common::{SECRET, node, node_under};
use nexus_abi::operation::{self as abi, status as code};
use serde_json::json;
use std::time::{Duration, Instant};

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| u8::try_from(i * 31 % 251).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_many_sizes_go_out_and_in_over_one_connection() {
    let server = Server::start(|_, seen: &Seen| match seen.method.as_str() {
        "GET" => ok(&pattern(
            seen.target.rsplit('/').next().unwrap().parse().unwrap(),
        )),
        _ => ok(b""),
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        for length in [0, 1, 5, 8191, 8192, 8193, 65_536, 1 << 20] {
            let body = pattern(length);
            let key = length.to_string();
            assert_eq!(guest.s3("PutObject", &key, &body).http_status(), 200);
            let got = guest.s3("GetObject", &key, b"");
            assert_eq!(got.http_status(), 200);
            assert!(got.body == body && !got.more && got.total == length as u64);
        }
    })
    .await;
    let seen = server.seen();
    assert!(seen.iter().all(|request| request.connection == 0));
    let put = seen.iter().find(|s| s.target == "/b/5").unwrap();
    assert_eq!(put.body, pattern(5));
    assert_eq!(put.header("x-amz-sdk-checksum-algorithm"), Some("CRC32"));
    assert!(
        put.header("authorization")
            .unwrap()
            .contains(common::KEY_ID)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_queries_are_encoded() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        guest.s3("GetObject", "a b+c/ü//x", b"").http_status();
        let head = json!({"op": "ListObjectsV2", "bucket": "b", "key": null, "query": [["prefix", "p/ q&"]],
            "headers": [], "region": "us-east-1", "endpoint": null});
        guest.call(abi::S3, &head, b"").http_status();
    })
    .await;
    let targets: Vec<String> = server.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(
        targets,
        [
            "/b/a%20b%2Bc/%C3%BC//x",
            "/b?list-type=2&prefix=p%2F%20q%26"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_waits_in_the_network_and_is_read_in_parts() {
    const LENGTH: usize = 64 << 20;
    let server = Server::start(|_, _: &Seen| ok(&pattern(LENGTH))).await;
    let mut node = node(&server.url);
    let sent = std::sync::Arc::clone(&server.sent);
    let whole = node
        .play(move |guest| {
            let first = guest.s3("GetObject", "k", b"");
            assert!(first.more && first.total == LENGTH as u64);
            std::thread::sleep(Duration::from_millis(300));
            // Nobody reads: the server is stuck behind the sockets' buffers.
            assert!(*sent.lock().unwrap() < 32 << 20);
            let mut whole = first.body;
            loop {
                let part = guest.read_stream(first.stream, 2 << 20);
                assert_eq!(part.status, 0);
                whole.extend_from_slice(&part.body);
                if !part.more {
                    break;
                }
            }
            assert_eq!(
                guest.read_stream(first.stream, 4096).status,
                code::NO_STREAM
            );
            whole
        })
        .await;
    assert!(whole == pattern(LENGTH));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunked_and_close_delimited_bodies() {
    let server = Server::start(|number, _: &Seen| match number {
        0 => vec![
            Step::Send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nWi".to_vec(),
            ),
            Step::Sleep(20),
            Step::Send(b"ki\r\n6\r\npedia \r\n0\r\nT: 1\r\n\r\n".to_vec()),
        ],
        1 => vec![
            Step::Send(b"HTTP/1.1 200 OK\r\n\r\nto the end".to_vec()),
            Step::Close,
        ],
        2 => vec![Step::Send(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 X\r\n\r\n".to_vec(),
        )],
        3 => vec![Step::Send(
            b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n".to_vec(),
        )],
        _ => ok(b"end"),
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        assert_eq!(guest.s3("GetObject", "k", b"").body, b"Wikipedia ");
        assert_eq!(guest.s3("GetObject", "k", b"").body, b"to the end");
        assert_eq!(guest.s3("DeleteObject", "k", b"").http_status(), 204);
        let head = guest.s3("HeadObject", "k", b"");
        assert!(head.http_status() == 200 && head.body.is_empty());
        assert_eq!(guest.s3("GetObject", "k", b"").body, b"end");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transient_answers_and_broken_connections_are_retried() {
    let server = Server::start(|number, _: &Seen| match number {
        0 => status(503, &[("Connection", "close")], b"<Code>SlowDown</Code>"),
        1 => vec![Step::Reset],
        _ => ok(b"third time"),
    })
    .await;
    let mut node = node(&server.url);
    let got = node.play(|guest| guest.s3("GetObject", "k", b"")).await;
    assert_eq!((got.http_status(), &got.head["retries"]), (200, &json!(2)));
    assert_eq!(got.body, b"third time");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_three_attempts_the_last_answer_counts() {
    let server = Server::start(|_, _: &Seen| status(500, &[], b"sorry")).await;
    let mut node = node(&server.url);
    let got = node.play(|guest| guest.s3("PutObject", "k", b"x")).await;
    assert_eq!(
        (got.http_status(), got.body.as_slice()),
        (500, &b"sorry"[..])
    );
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_was_closed_is_replaced_without_a_retry() {
    let server = Server::start(|number, _: &Seen| {
        let mut steps = ok(b"x");
        if number == 0 {
            steps.push(Step::Close);
        }
        steps
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        guest.s3("GetObject", "k", b"").http_status();
        std::thread::sleep(Duration::from_millis(50));
        let again = guest.s3("GetObject", "k", b"");
        assert_eq!(
            (again.http_status(), &again.head["retries"]),
            (200, &json!(0))
        );
    })
    .await;
    assert_eq!(server.seen().last().unwrap().connection, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_longer_than_it_says_spoils_only_its_connection() {
    let server = Server::start(|number, _: &Seen| match number {
        0 => vec![Step::Send(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 X\r\nContent-Length: 4\r\n\r\nevil".to_vec())],
        _ => ok(b"good"),
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        assert_eq!(guest.s3("GetObject", "k", b"").body, b"ok");
        assert_eq!(guest.s3("GetObject", "k", b"").body, b"good");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_off_or_are_damaged() {
    let server = Server::start(|number, _: &Seen| match number {
        0 => vec![
            Step::Send(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nhalf".to_vec()),
            Step::Close,
        ],
        1 => status(200, &[("x-amz-checksum-crc32", "AAAAAA==")], b"damaged"),
        2 => status(200, &[("x-amz-checksum-crc32", "y/Q5Jg==")], b"123456789"),
        _ => vec![Step::Send(b"garbage\r\n\r\n".to_vec())],
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        // The head has come, and what there was: the reads that follow say how it ended, once.
        for (came, error) in [
            (&b"half"[..], "IncompleteReadError"),
            (b"damaged", "FlexibleChecksumError"),
        ] {
            let first = guest.s3("GetObject", "k", b"");
            assert_eq!((first.http_status(), first.body.as_slice()), (200, came));
            assert!(first.more);
            let rest = guest.read_stream(first.stream, 4096);
            assert_eq!((rest.status, rest.error()), (code::TRANSPORT, error));
        }
        let intact = guest.s3("GetObject", "k", b"");
        // The published check value of CRC-32 is cbf43926.
        assert_eq!(
            (intact.http_status(), intact.body.as_slice()),
            (200, &b"123456789"[..])
        );
        let garbage = guest.s3("GetObject", "k", b"");
        assert_eq!(
            (garbage.status, garbage.error()),
            (code::TRANSPORT, "ConnectionClosedError")
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_nobody_answering() {
    let server = Server::start(|_, _: &Seen| vec![Step::Sleep(30_000)]).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        let head = json!({"op": "GetObject", "bucket": "b", "key": "k", "region": "us-east-1", "endpoint": null});
        let text = head.to_string();
        guest.write(common::guest::HEAD, text.as_bytes());
        let begun = Instant::now();
        guest.submit_entry(Entry {
            operation: abi::S3,
            head: (at(common::guest::HEAD), at(text.len())),
            timeout_ms: 300,
            ..Entry::default()
        });
        assert_eq!(guest.wait().status, code::TIMEOUT);
        assert!(begun.elapsed() < Duration::from_secs(5));
    })
    .await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let mut node = common::node(&url);
    let refused = node.play(|guest| guest.s3("GetObject", "k", b"")).await;
    assert_eq!(
        (refused.status, refused.error()),
        (code::TRANSPORT, "EndpointConnectionError")
    );
    assert_eq!(refused.head["endpoint"], json!(url));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_parts() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = node(&server.url);
    let url = server.url.clone();
    node.play(move |guest| {
        let head = json!({"method": "PUT", "url": format!("{url}/b/k"),
            "headers": [["Content-Length", "7"]], "sign": {"service": "s3", "region": "us-east-1"}});
        let text = head.to_string();
        guest.write(common::guest::HEAD, text.as_bytes());
        let id = guest.submit_entry(Entry {
            operation: abi::HTTP,
            flags: abi::STREAM_BODY,
            head: (at(common::guest::HEAD), at(text.len())),
            ..Entry::default()
        });
        for (part, flags) in [(b"abcd".as_slice(), abi::MORE_BODY), (b"efg", 0)] {
            guest.write(BODY, part);
            guest.submit_entry(Entry {
                operation: abi::BODY,
                flags,
                body: (at(BODY), at(part.len())),
                room: (at(BODY + 4096), 1024),
                stream: id,
                ..Entry::default()
            });
            if flags == abi::MORE_BODY {
                let used = guest.wait();
                assert_eq!(used.status, 0, "{:?}", used.head);
            }
        }
        // The last part's completion and the answer come in any order.
        let (mut used, mut answer) = (guest.wait(), guest.wait());
        if used.id == id {
            std::mem::swap(&mut used, &mut answer);
        }
        assert_eq!((used.status, answer.id), (0, id), "{:?}", used.head);
        assert_eq!(answer.http_status(), 200);
    })
    .await;
    let seen = server.seen();
    assert_eq!(seen[0].body, b"abcdefg");
    assert_eq!(
        seen[0].header("x-amz-content-sha256"),
        Some("UNSIGNED-PAYLOAD")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_given_up_is_never_whole() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = node(&server.url);
    let url = server.url.clone();
    node.play(move |guest| {
        let head = json!({"method": "PUT", "url": format!("{url}/b/k"), "headers": [["Transfer-Encoding", "chunked"]],
            "sign": {"service": "s3", "region": "us-east-1"}});
        let text = head.to_string();
        guest.write(common::guest::HEAD, text.as_bytes());
        let id = guest.submit_entry(Entry {
            operation: abi::HTTP,
            flags: abi::STREAM_BODY,
            head: (at(common::guest::HEAD), at(text.len())),
            ..Entry::default()
        });
        guest.write(BODY, b"abcd");
        let part = Entry {
            operation: abi::BODY,
            flags: abi::MORE_BODY,
            body: (at(BODY), 4),
            room: (at(BODY + 4096), 1024),
            stream: id,
            ..Entry::default()
        };
        guest.submit_entry(part);
        assert_eq!(guest.wait().status, 0);
        guest.submit_entry(Entry {
            operation: abi::CLOSE,
            flags: abi::STREAM_BODY,
            stream: id,
            room: (at(BODY + 4096), 1024),
            ..Entry::default()
        });
        let statuses = [guest.wait(), guest.wait()].map(|c| (c.id == id, c.status));
        assert!(statuses.contains(&(true, code::INVALID)) && statuses.contains(&(false, 0)));
    })
    .await;
    assert!(server.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_denied() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        for url in ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/", "http://10.0.0.1/"] {
            let got = guest.call(abi::HTTP, &json!({"method": "GET", "url": url}), b"");
            assert_eq!((got.status, got.error()), (code::DENIED, "EndpointDenied"));
            let head = json!({"op": "GetObject", "bucket": "b", "key": "k", "region": "us-east-1", "endpoint": url});
            assert_eq!(guest.call(abi::S3, &head, b"").status, code::DENIED);
        }
        let head = json!({"op": "GetObject", "bucket": "b", "key": "k", "region": "us-east-1", "endpoint": "https://example.com/"});
        assert_eq!(guest.call(abi::S3, &head, b"").status, code::DENIED);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_policy_forbids_is_refused_as_aws_refuses_it() {
    let server = Server::start(|_, _: &Seen| ok(b"fine")).await;
    let policy = json!({
        "services": ["s3:GetObject", "s3:ListBucket", "dynamodb:GetItem"],
        "buckets": [{"name": "b", "prefix": "in/", "access": "read"}],
    });
    let mut node = node_under(&server.url, &serde_json::from_value(policy).unwrap());
    let url = server.url.clone();
    node.play(move |guest| {
        assert_eq!(guest.s3("GetObject", "in/k", b"").http_status(), 200);
        for (op, key) in [("GetObject", "other"), ("PutObject", "in/k"), ("DeleteObject", "in/k")] {
            let got = guest.s3(op, key, b"");
            assert_eq!(got.http_status(), 403, "{op} {key}");
            let text = String::from_utf8_lossy(&got.body).into_owned();
            assert!(text.contains("<Code>AccessDenied</Code>") && text.contains("policy"), "{text}");
        }
        let sign = json!({"service": "s3", "region": "us-east-1"});
        for (method, path, status) in [("GET", "/b/in/k", 200), ("GET", "/c/in/k", 403), ("PUT", "/b/in/k", 403)] {
            for sign in [&sign, &json!(null)] {
                let head = json!({"method": method, "url": format!("{url}{path}"), "sign": sign});
                assert_eq!(guest.call(abi::HTTP, &head, b"").http_status(), status, "{method} {path}");
            }
        }
        let head = json!({"method": "POST", "url": "https://dynamodb.us-east-1.amazonaws.com/",
            "headers": [["X-Amz-Target", "DynamoDB_20120810.PutItem"]], "sign": {"service": "dynamodb", "region": "us-east-1"}});
        let got = guest.call(abi::HTTP, &head, b"{}");
        assert_eq!(got.http_status(), 403);
        assert!(String::from_utf8_lossy(&got.body).contains("AccessDeniedException"));
    })
    .await;
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.method == "GET" && seen.target == "/b/in/k")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_the_policy_names() {
    let server = Server::start(|_, _: &Seen| ok(b"fine")).await;
    let other = Server::start(|_, _: &Seen| ok(b"other")).await;
    let place = other.url.strip_prefix("http://").unwrap().to_owned();
    let policy = json!({"egress": [place]});
    let mut node = node_under(&server.url, &serde_json::from_value(policy).unwrap());
    let (url, configured) = (other.url.clone(), server.url.clone());
    node.play(move |guest| {
        for url in [&url, &url.replace("127.0.0.1", "localhost"), &configured] {
            let got = guest.call(abi::HTTP, &json!({"method": "GET", "url": url}), b"");
            assert_eq!(got.http_status(), 200, "{url}");
        }
        for url in [
            "http://127.0.0.1:1/",
            "http://localhost:1/",
            "https://example.com/",
            "http://1.1.1.1/",
        ] {
            let got = guest.call(abi::HTTP, &json!({"method": "GET", "url": url}), b"");
            assert_eq!(
                (got.status, got.error()),
                (code::DENIED, "EndpointDenied"),
                "{url}"
            );
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_placeholder_requests_are_signed() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = node(&server.url);
    let url = server.url.clone();
    node.play(move |guest| {
        let own = "AWS4-HMAC-SHA256 Credential=OWN/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let placeholder = own.replace("OWN", abi::PLACEHOLDER_KEY_ID);
        for (value, sign) in [(own, json!(null)), (&placeholder, json!(null))] {
            let head = json!({"method": "GET", "url": format!("{url}/b/k"), "headers": [["Authorization", value]], "sign": sign});
            guest.call(abi::HTTP, &head, b"").http_status();
        }
        let both = json!({"method": "GET", "url": format!("{url}/b/k"), "headers": [["Authorization", own]],
            "sign": {"service": "s3", "region": "us-east-1"}});
        assert_eq!(guest.call(abi::HTTP, &both, b"").status, code::INVALID);
        let smuggled = json!({"method": "GET", "url": format!("{url}/b/k"), "headers": [["X", "a\r\nB: c"]]});
        assert_eq!(guest.call(abi::HTTP, &smuggled, b"").status, code::INVALID);
    })
    .await;
    let seen = server.seen();
    assert!(seen[0].header("authorization").unwrap().contains("OWN/"));
    let signed = seen[1].header("authorization").unwrap();
    assert!(signed.contains(common::KEY_ID) && !signed.contains(abi::PLACEHOLDER_KEY_ID));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_is_never_in_the_arena() {
    let server = Server::start(|_, _: &Seen| ok(&pattern(100_000))).await;
    let mut node = node(&server.url);
    node.play(|guest| {
        for op in ["PutObject", "GetObject", "HeadObject", "DeleteObject"] {
            guest.s3(op, "k", b"");
        }
        let memory = guest.memory();
        let holds = |text: &[u8]| memory.windows(text.len()).any(|w| w == text);
        assert!(holds(b"GetObject") || holds(b"DeleteObject"));
        assert!(!holds(SECRET.as_bytes()) && !holds(b"AWS4"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_channel_cancels_what_is_under_way() {
    let server = Server::start(|_, _: &Seen| {
        vec![
            Step::Sleep(200),
            Step::Send(b"late".to_vec()),
            Step::Sleep(30_000),
        ]
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        let head = json!({"op": "GetObject", "bucket": "b", "key": "k", "region": "us-east-1", "endpoint": null});
        guest.submit(abi::S3, &head, b"");
        std::thread::sleep(Duration::from_millis(100));
    })
    .await;
    node.end();
    let (_, statistics) = node.message.await.unwrap();
    assert_eq!((statistics.operations, statistics.failures), (1, 0));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.guest.poll().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_much_waits_behind_itself() {
    const SLEEP_MS: u64 = 500;
    let arrivals = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&arrivals);
    let server = Server::start(move |_, _: &Seen| {
        log.lock().unwrap().push(Instant::now());
        let mut steps = vec![Step::Sleep(SLEEP_MS)];
        steps.extend(ok(b"late"));
        steps
    })
    .await;
    let mut node = node(&server.url);
    node.play(|guest| {
        let get = |key: String| json!({"op": "GetObject", "bucket": "b", "key": key, "region": "us-east-1"});
        let ids: Vec<u64> = (0..64)
            .map(|n| {
                let head = get(format!("greedy{n}"));
                let bytes = serde_json::to_vec(&head).unwrap();
                let place = BODY + 8192 * n;
                guest.write(place, &bytes);
                guest.submit_entry(Entry {
                    operation: abi::S3,
                    head: (at(place), u32::try_from(bytes.len()).unwrap()),
                    room: (at(place + 4096), 4096),
                    ..Entry::default()
                })
            })
            .collect();
        for _ in &ids {
            assert_eq!(guest.wait().status, 0);
        }
    })
    .await;
    // Nothing was answered before this moment, so these were under way at once.
    let arrivals = arrivals.lock().unwrap();
    let answered = *arrivals.first().unwrap() + Duration::from_millis(SLEEP_MS);
    let at_once = arrivals.iter().filter(|at| **at < answered).count();
    assert!((2..=32).contains(&at_once), "{at_once} at a time");
    assert_eq!(arrivals.len(), 64);
}
