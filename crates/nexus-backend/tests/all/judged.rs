//! Conversations with an endpoint of AWS's services: each request is judged, and what is not plainly one is refused.

use crate::common::guest::{Completion, Entry, Guest};
use crate::common::server::{Seen, Server, Step, ok};
use crate::common::{Node, node_under};
use crate::web::{close, connect, hear, say, send};
use nexus_abi::operation::{self as abi, status};
use nexus_backend::PolicyDocument;
use serde_json::{Value, json};

fn under(server: &Server, policy: Value) -> Node {
    let policy: PolicyDocument = serde_json::from_value(policy).unwrap();
    node_under(&server.url, &policy)
}

fn buckets() -> Value {
    json!({"buckets": [{"name": "allowed"}]})
}

fn place(url: &str) -> String {
    url.strip_prefix("http://").unwrap().to_owned()
}

fn text(heard: &Completion) -> String {
    String::from_utf8_lossy(&heard.body).into_owned()
}

/// Everything that is heard until the end.
fn rest(guest: &mut Guest, stream: u64) -> String {
    let mut all = String::new();
    loop {
        let heard = hear(guest, stream);
        all += &text(&heard);
        if !heard.more {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_where_the_policy_allows_it() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = under(&server, buckets());
    let url = server.url.clone();
    node.play(move |guest| {
        let host = place(&url);
        let (id, stream) = connect(guest, &url);
        for _ in 0..2 {
            let get = format!("GET /allowed/k HTTP/1.1\r\nHost: {host}\r\n\r\n");
            say(guest, id, get.as_bytes());
            assert!(text(&hear(guest, stream)).ends_with("\r\n\r\nhello"));
        }
        // In pieces, with a body that comes on its own.
        for piece in ["PUT /allowed/k HT", "TP/1.1\r\nHost: ", &host, "\r\nContent-Length: 6\r\n\r", "\nabc", "def"] {
            say(guest, id, piece.as_bytes());
        }
        assert!(text(&hear(guest, stream)).ends_with("hello"));
        let chunked = format!("PUT /allowed/k HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        say(guest, id, chunked.as_bytes());
        assert!(text(&hear(guest, stream)).ends_with("hello"));
        close(guest, stream);
    })
    .await;
    let seen = server.seen();
    assert_eq!((seen.len(), seen[2].body.as_slice()), (4, &b"abcdef"[..]));
    assert!(seen.iter().all(|one| one.connection == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_policy_denies_is_answered_and_never_sent() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = under(&server, buckets());
    let url = server.url.clone();
    node.play(move |guest| {
        let host = place(&url);
        let first = format!("GET /allowed/k HTTP/1.1\r\nHost: {host}\r\n\r\n");
        for denied in [
            "GET /denied/secret HTTP/1.1\r\nHost: HOST\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n",
            "PUT /allowed/k HTTP/1.1\r\nHost: HOST\r\nx-amz-copy-source: denied/secret\r\nContent-Length: 0\r\n\r\n",
            "GET /denied/k?X-Amz-Credential=a/b/c/sts/aws4_request HTTP/1.1\r\nHost: HOST\r\n\r\n",
        ] {
            for behind in [false, true] {
                let (id, stream) = connect(guest, &url);
                if behind {
                    say(guest, id, first.as_bytes());
                    hear(guest, stream);
                }
                say(guest, id, denied.replace("HOST", &host).as_bytes());
                // What follows is swallowed.
                say(guest, id, b"a body of its own");
                let answer = rest(guest, stream);
                assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
                assert!(answer.contains("Connection: close\r\n"), "{answer}");
                assert!(answer.contains("<Code>AccessDenied</Code>"), "{answer}");
            }
        }
    })
    .await;
    assert!(server.seen().iter().all(|one| one.target == "/allowed/k"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_waits_hears_of_a_refusal() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = under(&server, buckets());
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        let read = guest.submit_entry(Entry {
            operation: abi::READ,
            stream,
            ..Entry::default()
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        let denied = format!("GET /denied/k HTTP/1.1\r\nHost: {}\r\n\r\n", place(&url));
        send(guest, id, denied.as_bytes(), 0, abi::MORE_BODY);
        let replies = [guest.wait(), guest.wait()];
        let heard = replies.iter().find(|reply| reply.id == read).unwrap();
        assert!(text(heard).starts_with("HTTP/1.1 403"), "{heard:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_is_refused() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = under(&server, json!({}));
    let url = server.url.clone();
    node.play(move |guest| {
        let host = place(&url);
        for odd in [
            "GET /b/k HTTP/1.0\r\nHost: HOST\r\n\r\n",
            "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
            "GET /b/k HTTP/1.1\r\nHost: HOST\r\nUpgrade: websocket\r\n\r\n",
            "GET /b/k HTTP/1.1\r\nHost: other.s3.amazonaws.com\r\n\r\n",
            "GET /b/k HTTP/1.1\r\n\r\n",
            "GET http://HOST/b/k HTTP/1.1\r\nHost: HOST\r\n\r\n",
            "GET /b/k HTTP/1.1\nHost: HOST\n\n",
            "PUT /b/k HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            let (id, stream) = connect(guest, &url);
            say(guest, id, odd.replace("HOST", &host).as_bytes());
            let answer = rest(guest, stream);
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{odd}: {answer}"
            );
            assert!(answer.contains("<Code>InvalidRequest</Code>"), "{answer}");
        }
        // A head without an end.
        let (id, stream) = connect(guest, &url);
        for _ in 0..80 {
            say(guest, id, &[b'a'; 1000]);
        }
        assert!(rest(guest, stream).starts_with("HTTP/1.1 400"));
    })
    .await;
    assert!(server.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ahead_of_its_turn_is_refused_behind_the_answer_before_it() {
    let slow = |_: usize, _: &Seen| vec![Step::Sleep(200), ok(b"hello").remove(0)];
    let server = Server::start(slow).await;
    let mut node = under(&server, json!({}));
    let url = server.url.clone();
    node.play(move |guest| {
        let get = format!("GET /b/k HTTP/1.1\r\nHost: {}\r\n\r\n", place(&url));
        let (id, stream) = connect(guest, &url);
        say(guest, id, get.repeat(2).as_bytes());
        let heard = rest(guest, stream);
        let (first, second) = heard.split_once("hello").unwrap();
        assert!(first.starts_with("HTTP/1.1 200"), "{heard}");
        assert!(second.starts_with("HTTP/1.1 400"), "{heard}");
        // A body that is none ends it without an answer: its request is with the server.
        let (id, stream) = connect(guest, &url);
        let odd = format!(
            "PUT /b/k HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            place(&url)
        );
        say(guest, id, odd.as_bytes());
        say(guest, id, b"1\r\nxyGET /denied HTTP/1.1\r\n\r\n");
        assert_eq!(rest(guest, stream), "");
    })
    .await;
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_not_reached_by_grpc_nor_by_another_name() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = under(&server, json!({"egress": ["localhost:*", "127.0.0.1:*"]}));
    let url = server.url.clone();
    node.play(move |guest| {
        let port: u16 = place(&url).rsplit(':').next().unwrap().parse().unwrap();
        let target = json!({"host": "localhost", "port": port});
        let denied = guest.call(abi::WEB_CONNECT, &target, b"");
        assert_eq!(denied.status, status::DENIED, "{:?}", denied.head);
        let call = json!({
            "host": "127.0.0.1", "port": port, "authority": "h", "path": "/b/k", "metadata": [], "tls": null,
            "deadline_ms": 5000, "wait_for_ready": false, "whole": true, "authorities": 0,
        });
        let reply = guest.call(abi::RPC, &call, b"");
        assert_eq!(reply.head["events"][0]["status"][0], 7, "{:?}", reply.head);
    })
    .await;
    assert!(server.seen().is_empty());
}
