//! Conversations of web clients: bytes both ways, and connections that serve one function's exchanges.

use crate::common::guest::{BODY, Completion, Entry, Guest, HEAD, ROOM, at};
use crate::common::server::{Seen, Server, Step, ok};
use crate::common::{Node, node, node_under};
use nexus_abi::operation::{self as abi, status};
use nexus_backend::PolicyDocument;
use serde_json::json;

const GET: &[u8] = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n";

/// Where a server is: what WEB_CONNECT asks for.
fn target(url: &str) -> serde_json::Value {
    let (host, port) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once(':')
        .unwrap();
    json!({"host": host, "port": port.parse::<u16>().unwrap()})
}

/// A node whose function may reach a server that is no endpoint of AWS's services.
fn reaching(server: &Server) -> Node {
    let place = server.url.strip_prefix("http://").unwrap();
    let policy = PolicyDocument {
        egress: Some(vec![place.to_owned()]),
        ..PolicyDocument::default()
    };
    node_under("http://127.0.0.1:1", &policy)
}

/// A conversation's id for what is sent, and its stream.
pub fn connect(guest: &mut Guest, url: &str) -> (u64, u64) {
    let id = guest.submit(abi::WEB_CONNECT, &target(url), b"");
    let reply = guest.wait();
    assert_eq!(
        (reply.id, reply.status, reply.more),
        (id, 0, true),
        "{:?}",
        reply.head
    );
    (id, reply.stream)
}

/// Submit one part without waiting.
pub fn send(guest: &mut Guest, id: u64, bytes: &[u8], place: usize, flags: u16) -> u64 {
    guest.write(BODY + place, bytes);
    guest.submit_entry(Entry {
        operation: abi::BODY,
        flags,
        body: (at(BODY + place), at(bytes.len())),
        room: (0, 0),
        stream: id,
        ..Entry::default()
    })
}

pub fn say(guest: &mut Guest, id: u64, bytes: &[u8]) {
    let part = send(guest, id, bytes, 0, abi::MORE_BODY);
    let reply = guest.wait();
    assert_eq!((reply.id, reply.status), (part, 0));
}

pub fn hear(guest: &mut Guest, stream: u64) -> Completion {
    guest.read_stream(stream, 1 << 16)
}

pub fn close(guest: &mut Guest, stream: u64) {
    guest.submit_entry(Entry {
        operation: abi::CLOSE,
        stream,
        ..Entry::default()
    });
    assert_eq!(guest.wait().status, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exchanges_take_turns_on_one_connection() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        for _ in 0..3 {
            let (id, stream) = connect(guest, &url);
            for _ in 0..2 {
                say(guest, id, GET);
                let heard = hear(guest, stream);
                assert!(heard.body.ends_with(b"\r\n\r\nhello") && heard.more);
            }
            close(guest, stream);
        }
    })
    .await;
    let seen = server.seen();
    assert_eq!(seen.len(), 6);
    assert!(seen.iter().all(|one| one.connection == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ambiguous_serves_nobody_else() {
    let server = Server::start(|_, _: &Seen| ok(b"hello")).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        // Two requests in one breath: the second answer would reach whoever comes next.
        let (id, stream) = connect(guest, &url);
        say(guest, id, &[GET, GET].concat());
        hear(guest, stream);
        close(guest, stream);
        let (id, stream) = connect(guest, &url);
        say(guest, id, GET);
        hear(guest, stream);
        close(guest, stream);
    })
    .await;
    assert_eq!(server.seen().last().unwrap().connection, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_keep_their_order() {
    let server = Server::start(|_, _: &Seen| ok(b"")).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        say(
            guest,
            id,
            b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n",
        );
        for number in 0_u8..40 {
            send(
                guest,
                id,
                &[number; 1000],
                usize::from(number) * 1000,
                abi::MORE_BODY,
            );
        }
        for _ in 0..40 {
            assert_eq!(guest.wait().status, 0);
        }
        hear(guest, stream);
    })
    .await;
    let expected: Vec<u8> = (0_u8..40).flat_map(|number| [number; 1000]).collect();
    assert_eq!(server.seen()[0].body, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_times_out_loses_nothing() {
    let slow = |_: usize, _: &Seen| vec![Step::Sleep(400), ok(b"late").remove(0)];
    let server = Server::start(slow).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        say(guest, id, GET);
        guest.submit_entry(Entry {
            operation: abi::READ,
            stream,
            room: (at(ROOM), 4096),
            timeout_ms: 50,
            ..Entry::default()
        });
        assert_eq!(guest.wait().status, status::TIMEOUT);
        assert!(hear(guest, stream).body.ends_with(b"late"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_ends_a_read_that_waits() {
    let server = Server::start(|_, _: &Seen| vec![Step::Sleep(60_000)]).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        say(guest, id, GET);
        let read = guest.submit_entry(Entry {
            operation: abi::READ,
            stream,
            room: (at(ROOM), 4096),
            ..Entry::default()
        });
        guest.submit_entry(Entry {
            operation: abi::CLOSE,
            stream,
            ..Entry::default()
        });
        let replies = [guest.wait(), guest.wait()];
        let ended = replies.iter().find(|reply| reply.id == read).unwrap();
        assert!(ended.status == 0 && ended.body.is_empty() && !ended.more);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_never_end_cost_nothing_but_what_is_read() {
    let endless = |_: usize, _: &Seen| {
        let mut steps = vec![Step::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec())];
        steps.extend(std::iter::repeat_n(Step::Send(vec![b'a'; 1 << 20]), 64));
        steps
    };
    let server = Server::start(endless).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    let sent = server.sent.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        say(guest, id, GET);
        let mut total = 0;
        while total < 4 << 20 {
            total += hear(guest, stream).body.len();
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        // What the kernel's buffers hold, and not the whole of it.
        assert!(*sent.lock().unwrap() < 40 << 20);
        close(guest, stream);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_what_a_socket_would_say() {
    let mut node = node("http://127.0.0.1:1");
    node.play(|guest| {
        let refused = guest.call(
            abi::WEB_CONNECT,
            &json!({"host": "127.0.0.1", "port": 1}),
            b"",
        );
        assert_eq!(
            (refused.status, refused.error()),
            (status::TRANSPORT, "OSError")
        );
        assert_eq!(refused.head["errno"], libc::ECONNREFUSED);
        for (host, port) in [("169.254.169.254", 80), ("localhost", 1), ("127.0.0.1", 2)] {
            let denied = guest.call(abi::WEB_CONNECT, &json!({"host": host, "port": port}), b"");
            assert_eq!(
                (denied.status, denied.error()),
                (status::DENIED, "PermissionError")
            );
        }
        for host in ["", "a b", "h\u{e9}"] {
            let invalid = guest.call(abi::WEB_CONNECT, &json!({"host": host, "port": 1}), b"");
            assert_eq!(invalid.status, status::INVALID);
        }
        // Options that are the host's affair, and values that the kernel does not like.
        for (option, expected) in [
            (json!([libc::SOL_SOCKET, libc::SO_MARK, 1]), status::INVALID),
            (
                json!([libc::SOL_SOCKET, libc::SO_KEEPALIVE]),
                status::INVALID,
            ),
            (
                json!([libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 0]),
                status::TRANSPORT,
            ),
        ] {
            let target = json!({"host": "127.0.0.1", "port": 1, "options": [option]});
            let refused = guest.call(abi::WEB_CONNECT, &target, b"");
            assert_eq!(refused.status, expected, "{option}");
            if expected == status::TRANSPORT {
                assert_eq!(refused.head["errno"], libc::EINVAL);
            }
        }
        // TLS and options for a stream that is none.
        let lost = guest.submit_entry(Entry {
            operation: abi::WEB_TLS,
            head: (at(HEAD), 2),
            stream: 77,
            ..Entry::default()
        });
        let reply = guest.wait();
        assert_eq!((reply.id, reply.status), (lost, status::NO_STREAM));
        let lost = guest.submit_entry(Entry {
            operation: abi::WEB_TUNE,
            head: (at(HEAD), 2),
            stream: 77,
            ..Entry::default()
        });
        let reply = guest.wait();
        assert_eq!((reply.id, reply.status), (lost, status::NO_STREAM));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_exchanges_with_its_own_options_alone() {
    let server = Server::start(|_, seen: &Seen| ok(seen.connection.to_string().as_bytes())).await;
    let mut node = reaching(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let kept = json!([[libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1]]);
        let mut exchange = |options: &serde_json::Value| {
            let mut target = target(&url);
            target["options"] = options.clone();
            let id = guest.submit(abi::WEB_CONNECT, &target, b"");
            let stream = guest.wait().stream;
            say(guest, id, GET);
            let heard = hear(guest, stream).body;
            close(guest, stream);
            let text = String::from_utf8(heard).unwrap();
            text.rsplit("\r\n").next().unwrap().to_owned()
        };
        let (usual, other) = (exchange(&json!([])), exchange(&kept));
        assert_ne!(usual, other);
        assert_eq!(exchange(&kept), other);
        assert_eq!(exchange(&json!([])), usual);
    })
    .await;
}

/// A node whose function may reach a server that is no endpoint of its configuration.
fn outside(server: &Server) -> Node {
    let policy = PolicyDocument {
        egress: Some(vec![server.url.strip_prefix("http://").unwrap().to_owned()]),
        ..PolicyDocument::default()
    };
    node_under("http://127.0.0.1:1", &policy)
}

/// What one conversation hears of one exchange.
fn exchange(guest: &mut Guest, url: &str, request: &[u8]) -> Completion {
    let (id, stream) = connect(guest, url);
    say(guest, id, request);
    let heard = hear(guest, stream);
    close(guest, stream);
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_behind_the_last_bytes_is_told() {
    let cut = |_: usize, _: &Seen| {
        let rows = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrows".to_vec();
        vec![Step::Send(rows), Step::Reset]
    };
    let server = Server::start(cut).await;
    let mut node = outside(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        say(guest, id, GET);
        // Both are there: bytes, and the reset.
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert!(hear(guest, stream).body.ends_with(b"rows"));
        let end = hear(guest, stream);
        assert_eq!((end.status, end.error()), (status::TRANSPORT, "OSError"));
        assert_eq!(end.head["errno"], libc::ECONNRESET);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_authenticates_serves_nobody_else() {
    let server = Server::start(|_, seen: &Seen| ok(seen.connection.to_string().as_bytes())).await;
    let mut node = outside(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let (id, stream) = connect(guest, &url);
        let negotiate = b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM abc=\r\n\r\n";
        say(guest, id, negotiate);
        assert!(hear(guest, stream).body.ends_with(b"\r\n0"));
        // Another, while its client has it and after that: a connection of its own.
        assert!(exchange(guest, &url, GET).body.ends_with(b"\r\n1"));
        say(guest, id, negotiate);
        let heard = hear(guest, stream);
        assert!(heard.body.ends_with(b"\r\n0") && heard.own);
        close(guest, stream);
        let heard = exchange(guest, &url, GET);
        assert!(heard.body.ends_with(b"\r\n1") && !heard.own);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_ends_is_no_new_clients_affair() {
    // Connections of even numbers end, or all of them too late, where a request asks for it.
    let script = |_: usize, seen: &Seen| match (seen.target.as_str(), seen.connection % 2) {
        ("/reset", 0) => vec![Step::Reset],
        ("/close", 0) => vec![Step::Close],
        ("/late", _) => vec![Step::Sleep(1200), Step::Reset],
        _ => ok(seen.connection.to_string().as_bytes()),
    };
    let server = Server::start(script).await;
    let mut node = outside(&server);
    let url = server.url.clone();
    node.play(move |guest| {
        let asked = |method: &str, target: &str| {
            format!("{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        };
        let hears = |guest: &mut Guest, method: &str, target: &str| {
            exchange(guest, &url, asked(method, target).as_bytes())
        };
        assert!(hears(guest, "PUT", "/").body.ends_with(b"\r\n0"));
        let (id, stream) = connect(guest, &url);
        let text = asked("POST", "/reset");
        let (head, body) = text.split_at(text.len() - 1);
        say(guest, id, head.as_bytes());
        say(guest, id, body.as_bytes());
        assert!(hear(guest, stream).body.ends_with(b"\r\n1"));
        say(guest, id, text.as_bytes());
        assert!(hear(guest, stream).body.ends_with(b"\r\n1"));
        close(guest, stream);
        // What comes after a while is no end that crossed the request.
        assert_eq!(hears(guest, "PUT", "/late").status, status::TRANSPORT);
        assert!(hears(guest, "PUT", "/").body.ends_with(b"\r\n2"));
        assert!(hears(guest, "PUT", "/close").body.ends_with(b"\r\n3"));
        assert_eq!(hears(guest, "PUT", "/late").status, status::TRANSPORT);
        assert!(hears(guest, "PUT", "/").body.ends_with(b"\r\n4"));
        // It may have been read, and is not made twice.
        let end = hears(guest, "POST", "/close");
        assert!(end.status == 0 && end.body.is_empty() && !end.more);
        assert!(hears(guest, "PUT", "/").body.ends_with(b"\r\n5"));
    })
    .await;
    let seen = server.seen();
    let count = |target: &str| seen.iter().filter(|one| one.target == target).count();
    assert_eq!((count("/reset"), count("/close")), (3, 3));
}
