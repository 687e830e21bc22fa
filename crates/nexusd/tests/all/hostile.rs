//! Clients that misbehave.

use crate::common::{TestNode, read_reply};
use serde_json::json;
use std::io::Write;
use std::time::Duration;

#[test]
fn malformed_requests_do_not_take_the_node_down() {
    let mut node = TestNode::start("");
    node.deploy("f", &json!({}));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    let requests: Vec<&[u8]> = vec![
        b"",
        b"\0\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nshort",
        b"GET /%ff%00/../.. HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /nexus/v1/functions/f/logs?lines=x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"GET /nexus/v1/functions/..%2f..%2fetc/logs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"PUT /nexus/v1/functions/f HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\nconnection: close\r\n\r\n{",
        b"GET /nexus/v1/status HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ];
    for request in requests {
        let mut stream = node.connect();
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        if let Some(reply) = read_reply(stream) {
            let text = String::from_utf8_lossy(request)
                .chars()
                .take(80)
                .collect::<String>();
            assert!(
                (400..500).contains(&reply.status),
                "{} for {text}",
                reply.status
            );
        }
    }
    assert_eq!(node.invoke("f", &json!({})).status, 200);
    assert!(node.process.try_wait().unwrap().is_none());
}

#[test]
fn a_body_that_nobody_reads_does_not_cost_the_connection_or_is_told() {
    let node = TestNode::start("");
    let mut stream = node.connect();
    let path = "/2015-03-31/functions/none/invocations";
    let mut ask = |method: &str, path: &str, body: &[u8]| {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let _ = stream.write_all(body);
        read_reply(stream.try_clone().unwrap()).expect("a reply")
    };
    for size in [2, 100_000, 2 << 20] {
        let reply = ask("POST", path, &vec![b'1'; size]);
        assert_eq!((reply.status, reply.header("connection")), (404, ""));
        assert_eq!(ask("POST", "/metrics", &vec![b'1'; size]).status, 405);
    }
    // Too much to read for nothing: the client sends all of it, and has its answer.
    let reply = ask("POST", path, &vec![b'1'; 20 << 20]);
    assert_eq!((reply.status, reply.header("connection")), (404, "close"));
    assert!(read_reply(stream).is_none());
    // What does not come is not waited for long.
    let mut stream = node.connect();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let reply = read_reply(stream).expect("a reply");
    assert_eq!((reply.status, reply.header("connection")), (404, "close"));
}

#[test]
fn connections_beyond_the_limit_wait_for_a_place() {
    let node = TestNode::start("max_connections = 4");
    node.deploy("f", &json!({}));
    let held: Vec<_> = (0..4).map(|_| node.connect()).collect();
    let waiting = std::thread::scope(|scope| {
        let thread = scope.spawn(|| node.get("/healthz").status);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let waited = !thread.is_finished();
        drop(held);
        (waited, thread.join().unwrap())
    });
    assert_eq!(waiting, (true, 200));
}

#[test]
fn deployments_are_checked() {
    let node = TestNode::start("");
    for (change, word) in [
        (json!({"memory_mib": 1}), "memory_mib"),
        (json!({"handler": "x"}), "handler"),
        (json!({"code": "/nonexistent"}), "code"),
        (json!({"typo": 1}), "typo"),
        (json!({"isolation": "none"}), "none"),
    ] {
        let reply = node.try_deploy("f", &change);
        assert_eq!(reply.status, 400);
        assert!(
            reply.json()["message"].as_str().unwrap().contains(word),
            "{word}"
        );
    }
    assert_eq!(
        node.try_deploy("a%2Fb", &json!({})).error_type(),
        "ValidationException"
    );
    assert_eq!(node.get("/nexus/v1/functions").json(), json!([]));
}
