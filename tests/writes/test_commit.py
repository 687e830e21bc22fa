"""What a caller is told of an invocation with deferred writes, when, and what becomes of its instance (docs/writes.md)."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from crash.faulty_store import FaultyStore
from crash.killable import Killable

BUCKET = "bucket"
INVOKE = "/2015-03-31/functions/{}/invocations"


def _put(key: str, text: str = "v!", **more: object) -> dict[str, object]:
    return {"op": "PutObject", "bucket": BUCKET, "key": key, "text": text, **more}


def _invoke(node: Killable, name: str, *ops: dict[str, object], **event: object) -> tuple[dict[str, str], Any]:
    status, headers, answer = node.call("POST", INVOKE.format(name), {"do": "s3", "ops": list(ops), **event})
    assert status == 200, answer
    return headers, answer


def _ready(node: Killable, mode: str, **options: object) -> None:
    """Deploy, and let the node learn how the store answers."""
    node.deploy("f", writes=mode, **options)
    _invoke(node, "f", _put("first"))


def _timing(node: Killable) -> dict[str, Any]:
    return node.call("GET", "/nexus/v1/functions/f/timings?last=1")[2][-1]


def test_the_answer_waits_for_the_store_and_the_instance_does_not(node: Killable, store: FaultyStore) -> None:
    _ready(node, "commit")
    store.delay_s = 0.3
    began = time.monotonic()
    _invoke(node, "f", _put("k"))
    assert time.monotonic() - began >= 0.3
    timing = _timing(node)
    assert timing["writes"] == 1
    assert timing["committed_ns"] - timing["ended_ns"] > 200e6
    assert store.text(f"{BUCKET}/k") == "v!"
    # Two invocations one after the other in the one instance, while the first one's write is pending.
    with_first = threading.Thread(target=_invoke, args=(node, "f", _put("1")))
    with_first.start()
    while not node.writes()["pending"]:
        time.sleep(0.002)
    status, _, instances = node.call("GET", "/nexus/v1/instances")
    assert (status, [i["state"] for i in instances]) == (200, ["idle"])
    pid = instances[0]["pid"]
    _, answer = _invoke(node, "f", {"pause": 0})
    assert answer == [None]
    with_first.join()
    assert [i["pid"] for i in node.call("GET", "/nexus/v1/instances")[2]] == [pid]


def test_a_pending_invocation_counts_against_the_limit(node: Killable, store: FaultyStore) -> None:
    _ready(node, "commit", max_instances=1)
    store.delay_s = 0.4
    threads = [threading.Thread(target=_invoke, args=(node, "f", _put(f"k{n}"))) for n in range(3)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One at a time, though the instance was free each time at once.
    assert time.monotonic() - began >= 1.2


def test_journal_answers_at_once_and_tells_what_is_pending(node: Killable, store: FaultyStore) -> None:
    _ready(node, "journal")
    store.delay_s = 1.5
    began = time.monotonic()
    _invoke(node, "f", _put("k"))
    assert node.writes()["pending"] == 1
    assert time.monotonic() - began < 0.5
    # Somebody else's read through the node waits.
    node.deploy("g")
    _, answer = _invoke(node, "g", {"op": "GetObject", "bucket": BUCKET, "key": "k"})
    assert answer[0][2] == "v!"
    assert node.writes()["pending"] == 0


@pytest.mark.parametrize("mode", ["commit", "journal"])
def test_a_failed_write_fails_the_invocation_with_the_sdks_error(node: Killable, store: FaultyStore, mode: str) -> None:
    _ready(node, mode)
    pid = node.call("GET", "/nexus/v1/instances")[2][0]["pid"]
    store.refuse = 403
    headers, answer = _invoke(node, "f", _put("k"), {"pause": 0.3})
    assert headers["x-amz-function-error"] == "Unhandled"
    assert answer["errorType"] == "ClientError"
    assert answer["errorMessage"].startswith("An error occurred (AccessDenied) when calling the PutObject operation")
    assert answer["requestId"] == headers["x-amzn-requestid"]
    store.refuse = 0
    # What believed in that write is gone.
    _, answer = _invoke(node, "f", _put("k2"))
    assert answer[0][0] == 200
    assert pid not in [i["pid"] for i in node.call("GET", "/nexus/v1/instances")[2]]
    if mode == "journal":
        parked = node.writes()["parked"]
        assert [(w["key"], w["conflict"]) for w in parked] == [("k", False)]
        assert node.call("POST", f"/nexus/v1/writes/{parked[0]['id']}/retry")[0] == 204
        deadline = time.monotonic() + 20
        while store.text(f"{BUCKET}/k") != "v!":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert node.call("DELETE", f"/nexus/v1/writes/{parked[0]['id']}")[0] == 404


def test_what_ran_on_a_state_that_must_not_be_runs_again_elsewhere(node: Killable, store: FaultyStore) -> None:
    _ready(node, "commit")
    store.delay_s, store.refuse = 0.5, 403
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(_invoke(node, "f", _put("1"))[1]))
    first.start()
    while not node.writes()["pending"]:
        time.sleep(0.002)
    instance = node.call("GET", "/nexus/v1/instances")[2][0]["pid"]
    # This one is given to the same instance; its own write and its answer wait for the first one's.
    second = threading.Thread(target=lambda: results.append(_invoke(node, "f", _put("2"), {"pause": 0})[1]))
    second.start()
    first.join()
    store.delay_s, store.refuse = 0.0, 0
    second.join()
    assert results[0]["errorType"] == "ClientError"
    assert results[1][0][0] == 200
    assert store.text(f"{BUCKET}/2") == "v!"
    assert [write.key for write in store.history].count(f"{BUCKET}/2") == 1
    assert instance not in [i["pid"] for i in node.call("GET", "/nexus/v1/instances")[2]]


def test_time_outs_and_deaths_wait_for_the_writes_too(node: Killable, store: FaultyStore) -> None:
    _ready(node, "commit", timeout_s=1)
    store.delay_s = 1.6
    began = time.monotonic()
    headers, answer = _invoke(node, "f", _put("slow"), {"pause": 30})
    assert answer["errorType"] == "Sandbox.Timedout"
    assert time.monotonic() - began >= 1.6
    assert store.text(f"{BUCKET}/slow") == "v!"


def test_a_commit_deadline_says_that_it_may_have_been_done(node: Killable, store: FaultyStore) -> None:
    _ready(node, "commit", commit_deadline_s=1)
    store.delay_s = 15
    began = time.monotonic()
    _, answer = _invoke(node, "f", _put("k"))
    assert answer["errorType"] == "ReadTimeoutError"
    assert "may have been done" in answer["errorMessage"]
    assert time.monotonic() - began < 4.5
    assert node.writes()["pending"] == 0
