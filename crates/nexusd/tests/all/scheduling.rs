//! Instances come, are shared out, and go.

use crate::common;
use crate::common::{TestNode, eventually};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Invoke `count` times at once.
fn together(node: &TestNode, name: &str, event: &Value, count: usize) -> Vec<common::Reply> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| node.invoke(name, event)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn an_instance_has_one_event_at_a_time() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"max_instances": 3}));
    let replies = together(&node, "f", &json!({"do": "sleep", "s": 0.3}), 3);
    let pids: HashSet<_> = replies
        .iter()
        .map(|r| r.json()["pid"].as_i64().unwrap())
        .collect();
    assert_eq!(pids.len(), 3);
    // One at a time, the one used last is used again.
    let first = node.invoke("f", &json!({})).json()["pid"].clone();
    for _ in 0..5 {
        assert_eq!(node.invoke("f", &json!({})).json()["pid"], first);
    }
}

#[test]
fn above_the_maximum_events_wait_and_then_are_throttled() {
    let node = TestNode::start("queue_wait_ms = 500");
    node.deploy("f", &json!({"max_instances": 1, "timeout_s": 10}));
    let replies = together(&node, "f", &json!({"do": "sleep", "s": 0.1}), 3);
    assert!(replies.iter().all(|r| r.status == 200));
    assert_eq!(node.instances().len(), 1);
    let replies = together(&node, "f", &json!({"do": "sleep", "s": 2}), 2);
    let mut statuses: Vec<_> = replies.iter().map(|r| r.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429]);
    let throttled = replies.iter().find(|r| r.status == 429).unwrap();
    assert_eq!(throttled.error_type(), "TooManyRequestsException");
    assert_eq!(throttled.json()["message"], "Rate Exceeded.");
    assert_eq!(
        throttled.json()["Reason"],
        "ReservedFunctionConcurrentInvocationLimitExceeded"
    );
}

#[test]
fn events_that_wait_for_a_function_that_is_deleted_are_told() {
    let node = TestNode::start("queue_wait_ms = 20000");
    node.deploy("f", &json!({"max_instances": 1, "timeout_s": 10}));
    thread::scope(|scope| {
        let invoke = || node.invoke("f", &json!({"do": "sleep", "s": 2}));
        let runs = scope.spawn(invoke);
        thread::sleep(Duration::from_millis(800));
        let waits = scope.spawn(invoke);
        thread::sleep(Duration::from_millis(400));
        assert!(
            node.send("DELETE", "/nexus/v1/functions/f", &[], b"")
                .status
                < 300
        );
        let told = waits.join().unwrap();
        assert_eq!(
            (told.status, told.error_type()),
            (404, "ResourceNotFoundException")
        );
        assert_eq!(runs.join().unwrap().status, 200);
    });
}

#[test]
fn a_full_node_makes_room_for_another_function() {
    let node = TestNode::start("max_instances = 1\nqueue_wait_ms = 5000");
    node.deploy("a", &json!({}));
    node.deploy("b", &json!({}));
    for name in ["a", "b", "a"] {
        assert_eq!(node.invoke(name, &json!({})).status, 200, "{name}");
    }
    // Also when the other one is busy at first.
    thread::scope(|scope| {
        let busy = scope.spawn(|| node.invoke("a", &json!({"do": "sleep", "s": 1})));
        thread::sleep(Duration::from_millis(200));
        assert_eq!(node.invoke("b", &json!({})).status, 200);
        assert_eq!(busy.join().unwrap().status, 200);
    });
}

#[test]
fn idle_instances_end_after_their_keep_alive() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"keep_alive_s": 1}));
    node.invoke("f", &json!({}));
    assert_eq!(node.instances().len(), 1);
    eventually("it has ended", || node.instances().is_empty());
    assert_eq!(node.invoke("f", &json!({})).status, 200);
    let reply = node.send("POST", "/nexus/v1/functions/f/evict", &[], b"");
    assert_eq!(reply.json(), json!({"ended": 1}));
    eventually("it was evicted", || node.instances().is_empty());
}

#[test]
fn prewarmed_instances_stay() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"prewarm": 2, "keep_alive_s": 1}));
    let idle = || {
        node.instances()
            .iter()
            .filter(|i| i["state"] == "idle")
            .count()
    };
    eventually("two are warm", || idle() == 2);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(idle(), 2);
    node.send("POST", "/nexus/v1/functions/f/evict", &[], b"");
    eventually("they are replaced", || idle() == 2);
}

#[test]
fn functions_that_want_more_warm_instances_than_there_are_do_not_take_turns() {
    let node = TestNode::start("max_instances = 2");
    for name in ["a", "b"] {
        node.deploy(name, &json!({"prewarm": 2}));
    }
    eventually("two are warm", || node.instances().len() == 2);
    let ids = || {
        node.instances()
            .iter()
            .map(|i| i["id"].clone())
            .collect::<Vec<_>>()
    };
    let before = ids();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(ids(), before);
    assert_eq!(node.invoke("b", &json!({})).status, 200);
}

#[test]
fn an_idle_instance_that_dies_is_replaced() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    for _ in 0..5 {
        let pid = node.invoke("f", &json!({})).json()["pid"].as_i64().unwrap();
        // SAFETY: a process that this test's node started.
        unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGKILL) };
        let reply = node.invoke("f", &json!({}));
        // Either it was seen dead, or it died with the event: never a hang, never another's error.
        assert_eq!(reply.status, 200);
    }
    let reply = node.invoke("f", &json!({}));
    assert_eq!(
        (reply.status, reply.header("x-amz-function-error")),
        (200, "")
    );
    // One serves, and at no time another; the last that died is listed until its process has been waited for.
    let serves = |one: &&Value| one["state"] != "ending";
    assert_eq!(node.instances().iter().filter(serves).count(), 1);
    eventually("the dead are gone", || node.instances().len() == 1);
}

#[test]
fn an_update_serves_at_once_and_what_runs_is_finished() {
    let node = TestNode::start("");
    let version = |n: u32| json!({"environment": {"VERSION": n.to_string()}, "digest": format!("0000000{n}"), "timeout_s": 20});
    node.deploy("f", &version(1));
    let updated = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| node.invoke("f", &json!({"do": "sleep", "s": 1.5})));
        thread::sleep(Duration::from_millis(300));
        let load: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    let mut last = false;
                    while !last {
                        // One more after the update.
                        last = updated.load(Ordering::Acquire);
                        let reply = node.invoke("f", &json!({}));
                        let body = String::from_utf8_lossy(&reply.body);
                        assert_eq!(
                            (reply.status, reply.header("x-amz-function-error")),
                            (200, ""),
                            "{body}"
                        );
                        seen.push(reply.json()["version"].as_str().unwrap().to_owned());
                    }
                    seen
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        node.deploy("f", &version(2));
        assert_eq!(node.invoke("f", &json!({})).json()["version"], "2");
        updated.store(true, Ordering::Release);
        assert_eq!(running.join().unwrap().json()["version"], "1");
        for seen in load {
            let seen = seen.join().unwrap();
            assert!(seen.is_sorted() && seen.last().unwrap() == "2", "{seen:?}");
        }
    });
    eventually("no old instance is left", || {
        node.instances().iter().all(|i| i["digest"] == "00000002")
    });
    let kept = |part: &str| {
        let directory = node.state().join("snapshots").join(part);
        std::fs::read_dir(directory).unwrap().count()
    };
    // The new version's, and what it rests on.
    assert_eq!(kept("content"), 1 + kept("bases"));
}

#[test]
fn a_client_that_goes_away_does_not_stop_the_function() {
    use std::io::Write;
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    let body = json!({"do": "sleep", "s": 0.5}).to_string();
    let mut stream = node.connect();
    write!(
        stream,
        "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    thread::sleep(Duration::from_millis(200));
    drop(stream);
    eventually("it has finished", || {
        node.logs("f").contains("REPORT RequestId")
    });
    assert!(!node.logs("f").contains("Status:"));
}

fn shells(node: &TestNode) -> u64 {
    node.get("/nexus/v1/status").json()["shells"]
        .as_u64()
        .unwrap()
}

/// Whether the process was made as a shell, by its command line.
fn was_shell(pid: &Value) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    line.contains("shell")
}

#[test]
fn cold_starts_take_shells_and_shells_are_made_again() {
    let node = TestNode::start("shells = 2");
    node.deploy("f", &json!({"max_instances": 5}));
    eventually("two shells are ready", || shells(&node) == 2);
    // One of them records what the function uses, and does without.
    let replies = together(&node, "f", &json!({"do": "sleep", "s": 0.5}), 5);
    let pids: HashSet<_> = replies
        .iter()
        .map(|r| r.json()["pid"].as_i64().unwrap())
        .collect();
    assert_eq!(pids.len(), 5, "a burst beyond the shells starts as well");
    let in_shells = pids.iter().filter(|pid| was_shell(&json!(pid))).count();
    assert!((2..5).contains(&in_shells), "{in_shells} of 5");
    eventually("two shells are ready", || shells(&node) == 2);
    assert_eq!(node.instances().len(), 5, "shells are no instances");
}

#[test]
fn a_shell_that_has_ended_is_passed_over() {
    let node = TestNode::start("shells = 1");
    node.deploy("f", &json!({}));
    let first = node.invoke("f", &json!({}));
    assert!(!was_shell(&first.json()["pid"]), "it records");
    eventually("what it uses is known", || {
        let known = node.state().join("snapshots/working-sets");
        std::fs::read_dir(known).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|f| f.path().extension().is_none()))
        })
    });
    node.send("POST", "/nexus/v1/functions/f/evict", &[], b"");
    eventually("it has ended", || node.instances().is_empty());
    eventually("a shell is ready", || shells(&node) == 1);
    let daemon = node.process.id();
    let children = std::fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"));
    let spawned: Vec<String> = std::fs::read_dir(format!("/proc/{daemon}/task"))
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok())
        .chain(children.ok())
        .flat_map(|text| text.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .filter(|pid| !pid.is_empty() && was_shell(&json!(pid.parse::<i64>().unwrap())))
        .collect();
    let shell = spawned.first().expect("one shell is a child of the node");
    let dead: i32 = shell.parse().unwrap();
    // SAFETY: a child of the node that this test started, which has not reaped it.
    let killed = unsafe { libc::kill(dead, libc::SIGKILL) };
    assert_eq!(killed, 0);
    eventually("it is dead", || !common::is_alive(dead.into()));
    let reply = node.invoke("f", &json!({}));
    assert_eq!(reply.status, 200);
    assert!(!was_shell(&reply.json()["pid"]));
    eventually("a shell is ready", || shells(&node) == 1);
    node.send("POST", "/nexus/v1/functions/f/evict", &[], b"");
    eventually("it has ended", || node.instances().is_empty());
    assert!(was_shell(&node.invoke("f", &json!({})).json()["pid"]));
}

#[test]
fn without_shells_every_start_is_from_nothing() {
    let node = TestNode::start("shells = 0");
    node.deploy("f", &json!({}));
    assert_eq!(shells(&node), 0);
    let reply = node.invoke("f", &json!({}));
    assert!(!was_shell(&reply.json()["pid"]));
}
