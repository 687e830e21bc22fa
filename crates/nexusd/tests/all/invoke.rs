//! Invoke, as Lambda answers it, with the fake VMM.

use crate::common::{TestNode, eventually, is_alive};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_cold_and_a_warm_invocation() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    assert!(node.instances().is_empty());
    let cold = node.invoke("f", &json!({"k": "v"}));
    assert_eq!(cold.status, 200);
    assert_eq!(cold.json()["event"], json!({"k": "v"}));
    assert_eq!(cold.header("x-amz-executed-version"), "$LATEST");
    assert_eq!(cold.header("x-amz-function-error"), "");
    assert_eq!(cold.header("x-amzn-requestid").len(), 36);
    let warm = node.invoke("f", &json!({"k": "v"}));
    assert_eq!(warm.json()["pid"], cold.json()["pid"]);
    let timings = node.get("/nexus/v1/functions/f/timings?last=5").json();
    assert_eq!(
        (&timings[0]["cold"], &timings[1]["cold"]),
        (&json!(true), &json!(false))
    );
    let order = [
        "received_ns",
        "spawned_ns",
        "ready_ns",
        "dispatched_ns",
        "handler_ns",
        "handler_end_ns",
        "responded_ns",
    ];
    let times: Vec<u64> = order
        .iter()
        .map(|k| timings[0][k].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted() && times[0] > 0, "{timings}");
    let instances = node.instances();
    assert_eq!(instances.len(), 1);
    assert_eq!(
        (&instances[0]["state"], &instances[0]["invocations"]),
        (&json!("idle"), &json!(2))
    );
    let metrics = String::from_utf8(node.get("/metrics").body).unwrap();
    assert!(
        metrics.contains("nexus_invocations_total{function=\"f\",outcome=\"success\"} 2"),
        "{metrics}"
    );
}

#[test]
fn errors_of_the_function_are_answered_in_lambdas_form() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"timeout_s": 1}));
    node.deploy("other", &json!({}));
    let bystander = node.invoke("other", &json!({})).json()["pid"].clone();
    let fails = |event: Value| {
        let reply = node.invoke("f", &event);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-amz-function-error"), "Unhandled");
        let id = reply.header("x-amzn-requestid").to_owned();
        let body = reply.json();
        let message = body["errorMessage"].as_str().unwrap().replace(&id, "ID");
        (body["errorType"].as_str().unwrap().to_owned(), message)
    };
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(
        fails(json!({"do": "raise"})),
        pair("ValueError", "went wrong")
    );
    assert_eq!(
        fails(json!({"do": "sleep", "s": 30})),
        pair(
            "Sandbox.Timedout",
            "RequestId: ID Error: Task timed out after 1.00 seconds"
        )
    );
    assert_eq!(
        fails(json!({"do": "exit", "status": 3})),
        pair(
            "Runtime.ExitError",
            "RequestId: ID Error: Runtime exited with error: exit status 3"
        )
    );
    assert_eq!(
        fails(json!({"do": "exit", "status": 0})),
        pair(
            "Runtime.ExitError",
            "RequestId: ID Error: Runtime exited without providing a reason"
        )
    );
    assert_eq!(
        fails(json!({"do": "signal", "name": "SIGSEGV"})),
        pair(
            "Runtime.ExitError",
            "RequestId: ID Error: Runtime exited with error: signal: segmentation fault"
        )
    );
    assert_eq!(
        fails(json!({"do": "memory"})),
        pair(
            "Runtime.OutOfMemory",
            "RequestId: ID Error: Runtime exited with error: signal: killed"
        )
    );
    assert_eq!(fails(json!({"do": "rubbish"})).0, "Runtime.BrokenContract");
    let log = node.logs("f");
    for line in [
        "Task timed out after 1.00 seconds",
        "signal: segmentation fault",
        "Status: timeout",
        "the memory limit of 256 MB",
    ] {
        assert!(log.contains(line), "{line} is not in\n{log}");
    }
    // The instance that raised was kept; the others are gone, and none of it touched another function.
    assert_eq!(node.invoke("other", &json!({})).json()["pid"], bystander);
    eventually("only the bystander lives", || node.instances().len() == 1);
}

#[test]
fn a_timed_out_instance_is_gone() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"timeout_s": 1}));
    let pid = node.invoke("f", &json!({})).json()["pid"].as_i64().unwrap();
    let began = Instant::now();
    node.invoke("f", &json!({"do": "sleep", "s": 30}));
    assert!(began.elapsed() < Duration::from_secs(3));
    eventually("it is dead", || !is_alive(pid));
}

#[test]
fn requests_that_are_wrong_are_refused() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    let refused = |headers: &[(&str, &str)], body: &[u8], status: u16, kind: &str| {
        let reply = node.invoke_with("f", headers, body);
        assert_eq!((reply.status, reply.error_type()), (status, kind));
        reply.json()
    };
    let body = refused(&[], b"{'not': json}", 400, "InvalidRequestContentException");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.starts_with("Could not parse request body into json: "),
        "{message}"
    );
    assert_eq!(body["Type"], "User");
    let big = vec![b' '; 6_291_457];
    refused(&[], &big, 413, "RequestTooLargeException");
    let body = refused(
        &[("x-amz-invocation-type", "Event")],
        b"{}",
        400,
        "InvalidParameterValueException",
    );
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .contains("not implemented yet")
    );
    refused(
        &[("x-amz-invocation-type", "Other")],
        b"{}",
        400,
        "ValidationException",
    );
    refused(
        &[("x-amz-log-type", "Head")],
        b"{}",
        400,
        "ValidationException",
    );
    refused(
        &[("x-amz-client-context", "!")],
        b"{}",
        400,
        "InvalidRequestContentException",
    );
    refused(
        &[("origin", "http://evil.example")],
        b"{}",
        403,
        "AccessDeniedException",
    );
    assert_eq!(
        node.invoke_with("f", &[("x-amz-invocation-type", "DryRun")], b"")
            .status,
        204
    );
    let missing = node.invoke("missing", &json!({}));
    assert_eq!(
        (missing.status, missing.error_type()),
        (404, "ResourceNotFoundException")
    );
    assert_eq!(
        missing.json()["Message"],
        "Function not found: arn:aws:lambda:us-east-1:000000000000:function:missing"
    );
    assert_eq!(node.invoke("f:7", &json!({})).status, 404);
    assert_eq!(
        node.invoke("a%20b", &json!({})).error_type(),
        "ValidationException"
    );
    assert_eq!(node.get("/nothing").status, 404);
    assert_eq!(
        node.send("DELETE", "/2015-03-31/functions/f/invocations", &[], b"")
            .status,
        405
    );
    assert_eq!(node.invoke("f", &json!({})).status, 200);
}

#[test]
fn names_may_be_arns_and_bodies_empty() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    for name in [
        "f",
        "f:$LATEST",
        "f?Qualifier=%24LATEST",
        "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Af",
    ] {
        let path = name.split_once('?').map_or(
            format!("/2015-03-31/functions/{name}/invocations"),
            |(n, q)| format!("/2015-03-31/functions/{n}/invocations?{q}"),
        );
        let reply = node.send("POST", &path, &[], b"");
        assert_eq!(
            (reply.status, &reply.json()["event"]),
            (200, &json!({})),
            "{name}"
        );
    }
}

#[test]
fn payloads_of_six_megabytes_pass_and_larger_results_do_not() {
    let node = TestNode::start("");
    node.deploy("f", &json!({"timeout_s": 60}));
    let mut event = json!({"do": "print", "text": ""}).to_string().into_bytes();
    event.resize(6_291_456, b' ');
    let reply = node.invoke_with("f", &[], &event);
    assert_eq!(
        (reply.status, reply.header("x-amz-function-error")),
        (200, "")
    );
    let reply = node.invoke("f", &json!({"do": "big", "size": 6_291_456}));
    assert_eq!(
        (reply.body.len(), reply.header("x-amz-function-error")),
        (6_291_456, "")
    );
    let reply = node.invoke("f", &json!({"do": "big", "size": 7_000_000}));
    assert_eq!(reply.json()["errorType"], "Function.ResponseSizeTooLarge");
    assert_eq!(node.invoke("f", &json!({})).status, 200);
}

#[test]
fn the_tail_holds_what_was_written_before_the_response() {
    let node = TestNode::start("");
    node.deploy("f", &json!({}));
    for n in 0..20 {
        let text = format!("line {n}");
        let event = json!({"do": "print", "text": text}).to_string();
        let reply = node.invoke_with("f", &[("x-amz-log-type", "Tail")], event.as_bytes());
        let tail = STANDARD.decode(reply.header("x-amz-log-result")).unwrap();
        let tail = String::from_utf8(tail).unwrap();
        let lines: Vec<&str> = tail.lines().collect();
        assert!(lines[0].starts_with("START RequestId: "), "{tail}");
        assert_eq!(lines[1], text);
        assert!(
            lines[2].starts_with("END RequestId: ") && lines[3].starts_with("REPORT RequestId: "),
            "{tail}"
        );
        assert!(lines[3].contains("Max Memory Used: "), "{tail}");
    }
    assert!(node.logs("f").contains("line 19\nEND"));
}

#[test]
fn a_flood_of_output_is_bounded_and_blocks_nobody() {
    let node = TestNode::start("log_bytes = 1000000");
    node.deploy("f", &json!({"timeout_s": 60}));
    let event = json!({"do": "flood", "mib": 50}).to_string();
    let reply = node.invoke_with("f", &[("x-amz-log-type", "Tail")], event.as_bytes());
    assert_eq!(
        (reply.status, reply.header("x-amz-function-error")),
        (200, "")
    );
    assert_eq!(
        STANDARD
            .decode(reply.header("x-amz-log-result"))
            .unwrap()
            .len(),
        4096
    );
    let size: u64 = std::fs::read_dir(node.state().join("logs"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= 2_000_000, "{size}");
}

#[test]
fn the_guest_is_told_what_lambda_tells() {
    let node = TestNode::start("region = \"eu-west-3\"\n[endpoints]\ns3 = \"http://127.0.0.1:9\"");
    node.deploy(
        "f",
        &json!({"environment": {"COLOUR": "blue", "PYTHONPATH": "/x"}}),
    );
    let env = node.invoke("f", &json!({"do": "env"})).json();
    let expected = json!({
        "COLOUR": "blue", "AWS_REGION": "eu-west-3", "_HANDLER": "m.handler", "LAMBDA_TASK_ROOT": "/var/task",
        "AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "PYTHONPATH": "/x:/opt/nexus", "NEXUS_MODULE_PATH": "/x:/var/task:/opt/nexus", "NEXUS_OFFLOAD": "api", "AWS_ACCESS_KEY_ID": nexus_abi::operation::PLACEHOLDER_KEY_ID,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&env[key], value, "{key}");
    }
    let context = STANDARD.encode("{\"client\": {\"x\": 1}}");
    let event = json!({"do": "context"}).to_string();
    let reply = node.invoke_with("f", &[("x-amz-client-context", &context)], event.as_bytes());
    let head = reply.json();
    assert_eq!(head["client_context"]["client"]["x"], 1);
    assert_eq!(head["request_id"], reply.header("x-amzn-requestid"));
    assert_eq!(
        head["function_arn"],
        "arn:aws:lambda:eu-west-3:000000000000:function:f"
    );
    let refused = node.try_deploy("f", &json!({"environment": {"AWS_REGION": "x"}}));
    assert_eq!(
        (refused.status, refused.error_type()),
        (400, "InvalidParameterValueException")
    );
}
