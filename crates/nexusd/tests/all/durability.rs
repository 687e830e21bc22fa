//! What outlives a node, and what does not.

use crate::common;
use crate::common::{TestNode, eventually, is_alive};
use serde_json::json;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

fn pid_of_one(node: &TestNode) -> i64 {
    node.instances()[0]["pid"].as_i64().unwrap()
}

/// Snapshots in the store, once it does not change any more.
fn kept(node: &TestNode) -> usize {
    let count = || {
        fs::read_dir(node.state().join("snapshots/content"))
            .unwrap()
            .count()
    };
    let mut last = count();
    loop {
        thread::sleep(Duration::from_millis(200));
        let now = count();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// Spoil every snapshot in the store.
fn damage(node: &TestNode) {
    for entry in fs::read_dir(node.state().join("snapshots/content")).unwrap() {
        let pages = entry.unwrap().path().join("pages");
        // Read-only files, even to root in some sandboxes: written anew beside, and moved over.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(pages.parent().unwrap(), mode).unwrap();
        let other = pages.with_extension("other");
        fs::write(&other, "spoilt").unwrap();
        fs::rename(other, pages).unwrap();
    }
}

#[test]
fn sigterm_lets_what_runs_finish_and_leaves_no_process() {
    let mut node = TestNode::start("");
    node.deploy("f", &json!({"timeout_s": 10}));
    thread::scope(|scope| {
        let running = scope.spawn(|| node.invoke("f", &json!({"do": "sleep", "s": 1})));
        thread::sleep(Duration::from_millis(300));
        let pid = pid_of_one(&node);
        node.signal(libc::SIGTERM);
        assert_eq!(running.join().unwrap().status, 200);
        eventually("its VMM has ended", || !is_alive(pid));
    });
    assert_eq!(node.process.wait().unwrap().code(), Some(0));
    assert!(!node.state().join("nexusd.json").exists());
}

#[test]
fn sigterm_waits_no_longer_than_it_may() {
    let mut node = TestNode::start("drain_s = 1");
    node.deploy("f", &json!({"timeout_s": 60}));
    thread::scope(|scope| {
        scope.spawn(|| {
            let body = json!({"do": "sleep", "s": 60}).to_string();
            let mut stream = node.connect();
            let head = format!("POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
            common::read_reply(stream)
        });
        eventually("it runs", || {
            node.instances().iter().any(|i| i["state"] == "busy")
        });
        let pid = pid_of_one(&node);
        let began = Instant::now();
        node.signal(libc::SIGTERM);
        eventually("its VMM has ended", || !is_alive(pid));
        assert!(began.elapsed() < Duration::from_secs(5));
    });
    assert_eq!(node.process.wait().unwrap().code(), Some(0));
}

#[test]
fn killed_it_leaves_no_vmm_and_an_intact_registry() {
    let mut node = TestNode::start("");
    for n in 0..5 {
        node.deploy(&format!("f{n}"), &json!({"digest": format!("digest-{n}")}));
        node.invoke(&format!("f{n}"), &json!({}));
    }
    let pids: Vec<i64> = node
        .instances()
        .iter()
        .map(|i| i["pid"].as_i64().unwrap())
        .collect();
    assert_eq!(pids.len(), 5);
    node.signal(libc::SIGKILL);
    eventually("no VMM is left", || pids.iter().all(|pid| !is_alive(*pid)));
    node.restart();
    let functions = node.get("/nexus/v1/functions").json();
    let digests: Vec<_> = functions
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["digest"].as_str().unwrap())
        .collect();
    assert_eq!(
        digests,
        ["digest-0", "digest-1", "digest-2", "digest-3", "digest-4"]
    );
    for n in 0..5 {
        assert_eq!(node.invoke(&format!("f{n}"), &json!({})).status, 200);
    }
    assert!(!node.logs("f0").contains("refused"));
}

#[test]
fn a_second_node_on_the_same_state_is_refused() {
    let node = TestNode::start("");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nexusd"))
        .arg("--config")
        .arg(node.directory.join("nexusd.toml"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another nexusd"));
}

#[test]
fn a_refused_snapshot_is_taken_anew_and_the_caller_served() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    damage(&node);
    assert_eq!(node.invoke("f", &json!({})).status, 200);
    let log = node.logs("f");
    assert!(
        log.contains(
            "the snapshot is refused: the snapshot's checksum is wrong; initialising anew"
        ),
        "{log}"
    );
    assert_eq!(kept(&node), 2, "the function's and its base");
}

#[test]
fn snapshots_are_verified_at_the_start() {
    let mut node = TestNode::start("");
    node.deploy("f", &json!({}));
    node.signal(libc::SIGKILL);
    damage(&node);
    let leavings = ["pending/7", "content/leaving", "working-sets/leaving"];
    for name in leavings {
        fs::create_dir(node.state().join("snapshots").join(name)).unwrap();
    }
    node.restart();
    eventually("it is taken anew without an invocation", || {
        node.logs("f").contains("INIT_REPORT") && node.logs("f").matches("INIT_START").count() == 2
    });
    for name in leavings {
        assert!(!node.state().join("snapshots").join(name).exists());
    }
    assert_eq!(node.invoke("f", &json!({})).status, 200);
}

#[test]
fn a_deployment_that_does_not_initialise_leaves_the_old_one() {
    let node = TestNode::start("init_timeout_s = 2");
    node.deploy("f", &json!({"environment": {"VERSION": "1"}}));
    let reply = node.try_deploy("f", &json!({"environment": {"FAKE_INIT": "error"}}));
    assert_eq!(reply.status, 400);
    let body = reply.json();
    assert_eq!(body["errorType"], "Runtime.ImportModuleError");
    assert_eq!(body["errorMessage"], "No module named 'x'");
    assert_eq!(
        (&body["Type"], &body["log"]),
        (&json!("User"), &json!("initialising\n"))
    );
    let reply = node.try_deploy("f", &json!({"environment": {"FAKE_INIT": "exit"}}));
    assert_eq!(
        (reply.status, &reply.json()["errorType"]),
        (400, &json!("Runtime.ExitError"))
    );
    assert!(
        reply.json()["errorMessage"]
            .as_str()
            .unwrap()
            .ends_with("exit status 3")
    );
    assert_eq!(node.invoke("f", &json!({})).json()["version"], "1");
    assert_eq!(
        node.try_deploy("g", &json!({"environment": {"FAKE_INIT": "error"}}))
            .status,
        400
    );
    assert_eq!(node.invoke("g", &json!({})).status, 404);
    assert_eq!(kept(&node), 2, "the function's and its base");
}

#[test]
fn an_initialisation_that_fails_at_a_cold_start_is_told_to_the_caller() {
    let node = TestNode::start("isolation = \"process\"");
    node.deploy("f", &json!({}));
    // With processes every cold start initialises; break it after the deployment.
    fs::write(node.directory.join("code/broken"), "").unwrap();
    let vmm = node.directory.join("vmm");
    let script = fs::read_to_string(&vmm)
        .unwrap()
        .replace("FAKE_INIT\", \"\"", "FAKE_INIT\", \"error\"");
    fs::write(&vmm, script).unwrap();
    let reply = node.invoke("f", &json!({}));
    assert_eq!(
        (reply.status, reply.header("x-amz-function-error")),
        (200, "Unhandled")
    );
    assert_eq!(reply.json()["errorType"], "Runtime.ImportModuleError");
    assert_eq!(reply.json()["requestId"], reply.header("x-amzn-requestid"));
    eventually("nothing is left", || node.instances().is_empty());
}

#[test]
fn a_deleted_function_is_gone_for_good() {
    let mut node = TestNode::start("");
    node.deploy("f", &json!({}));
    node.invoke("f", &json!({}));
    assert_eq!(
        node.send("DELETE", "/nexus/v1/functions/f", &[], b"")
            .status,
        204
    );
    assert_eq!(
        node.send("DELETE", "/nexus/v1/functions/f", &[], b"")
            .status,
        404
    );
    assert_eq!(node.invoke("f", &json!({})).status, 404);
    eventually("its instance has ended", || node.instances().is_empty());
    assert_eq!(kept(&node), 1, "the base");
    assert_eq!(fs::read_dir(node.state().join("logs")).unwrap().count(), 0);
    node.signal(libc::SIGKILL);
    node.restart();
    assert_eq!(node.get("/nexus/v1/functions").json(), json!([]));
}

/// At some moment of a deployment, again and again: what is kept is whole, and what is deployed is served.
#[test]
fn killed_while_it_deploys_it_leaves_all_or_nothing() {
    let mut node = TestNode::start("");
    node.deploy("makes-the-base", &json!({}));
    node.signal(libc::SIGKILL);
    node.restart();
    // The first deployment of a node's run verifies the base, as all below do.
    let began = Instant::now();
    node.deploy("is-measured", &json!({}));
    let usual = began.elapsed();
    let (mut done, mut undone) = (0, 0);
    for round in 0..8_u32 {
        let name = format!("f{round}");
        let body = node
            .deployment(&json!({"digest": format!("digest-{round}")}))
            .to_string();
        let head = format!(
            "PUT /nexus/v1/functions/{name} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            node.address,
            body.len()
        );
        let mut stream = node.connect();
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        thread::sleep(usual * round * 2 / 5);
        node.signal(libc::SIGKILL);
        node.restart();
        let snapshots = node.state().join("snapshots");
        assert_eq!(fs::read_dir(snapshots.join("pending")).unwrap().count(), 0);
        for entry in fs::read_dir(snapshots.join("content")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.file_name().len(), 64);
            assert_eq!(fs::read(entry.path().join("pages")).unwrap(), b"good");
            assert_eq!(fs::read(entry.path().join("metadata")).unwrap().len(), 32);
        }
        match node.invoke(&name, &json!({})).status {
            200 => done += 1,
            404 => undone += 1,
            status => panic!("{status}"),
        }
        assert!(!node.logs(&name).contains("refused"));
    }
    assert!(
        done > 0 && undone > 0,
        "{done} done, {undone} not: the moments were not spread"
    );
}
