"""What is read ahead, when, and at what cost (docs/prefetch.md)."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from crash.faulty_store import FaultyStore
from crash.killable import Killable

BUCKET = "ahead"


def _get(key: str, **more: object) -> dict[str, object]:
    return {"op": "GetObject", "bucket": BUCKET, "key": key, **more}


def _invoke(node: Killable, name: str, event: dict[str, Any], header: str | None = None) -> Any:
    import http.client

    connection = http.client.HTTPConnection(*node.address, timeout=60)
    headers = {} if header is None else {"X-Nexus-Prefetch": header}
    connection.request("POST", f"/2015-03-31/functions/{name}/invocations", json.dumps({"do": "s3", **event}), headers)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    assert reply.status == 200, content
    return content


def _timing(node: Killable, name: str) -> dict[str, Any]:
    return node.call("GET", f"/nexus/v1/functions/{name}/timings?last=1")[2][-1]


def _outcome(node: Killable, name: str) -> tuple[int, int, int]:
    timing = _timing(node, name)
    return timing["prefetch_used"], timing["prefetch_revalidated"], timing["prefetch_wasted"]


@pytest.fixture
def filled(store: FaultyStore) -> FaultyStore:
    for n in range(20):
        store.write(f"{BUCKET}/in/{n}", f"{n}!")
    return store


def test_a_template_is_read_while_the_instance_starts(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{id}}"]})
    filled.read_delays[f"{BUCKET}/in/7"] = (0.02, 0)
    answer = _invoke(node, "f", {"id": "7", "ops": [_get("in/7")]})
    assert answer[0][0] == 200
    assert answer[0][2] == "7!"
    timing = _timing(node, "f")
    assert timing["cold"]
    assert (timing["prefetch_used"], timing["prefetch_wasted"]) == (1, 0)
    # It began before the instance was there.
    assert timing["received_ns"] <= timing["prefetch_begin_ns"] < timing["dispatched_ns"]
    assert timing["prefetch_end_ns"] < timing["handler_end_ns"]
    assert filled.reads == 1


def test_s3_records_are_read_ahead(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f")
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": BUCKET}, "object": {"key": "in%2F3"}}}
    _invoke(node, "f", {"Records": [record], "ops": [_get("in/3")]})
    assert _outcome(node, "f") == (1, 0, 0)


def test_other_parameters_are_another_read(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{id}}"]})
    answer = _invoke(node, "f", {"id": "5", "ops": [_get("in/5", headers=[["Range", "bytes=0-0"]])]})
    assert answer[0][0] == 200
    assert _outcome(node, "f") == (0, 0, 1)


def test_an_input_since_makes_it_ask_again_and_a_write_makes_it_read_again(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{id}}"]})
    filled.objects[f"{BUCKET}/in/5"].modified -= 100
    answer = _invoke(node, "f", {"id": "5", "ops": [{"pause": 0.05}, _get("in/6"), _get("in/5")]})
    assert [a and a[2] for a in answer] == [None, "6!", "5!"]
    assert _outcome(node, "f") == (0, 1, 0)
    put = {"op": "PutObject", "bucket": BUCKET, "key": "in/5", "text": "new!"}
    answer = _invoke(node, "f", {"id": "5", "ops": [{"pause": 0.05}, put, _get("in/5")]})
    assert answer[2][2] == "new!"
    assert _outcome(node, "f") == (0, 0, 1)


@pytest.mark.parametrize("length", [0, 1, 100_000, 1_000_000, 3_000_000])
def test_a_read_that_is_under_way_is_as_good_as_one_that_has_ended(node: Killable, filled: FaultyStore, length: int) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{id}}"]})
    body = "".join(f"{n:09}\n" for n in range(length // 10 + 1))[:length]
    filled.write(f"{BUCKET}/in/long", body)
    filled.objects[f"{BUCKET}/in/long"].modified -= 100
    _invoke(node, "f", {"ops": []})
    filled.read_delays[f"{BUCKET}/in/long"] = (0, 0.3)
    answer = _invoke(node, "f", {"id": "long", "ops": [_get("in/long"), _get("in/6")]})
    assert [a[2] for a in answer] == [body, "6!"]
    assert _outcome(node, "f") == (1, 0, 0)
    # Something is learnt meanwhile: it is asked for again, whether it is the same or not.
    answer = _invoke(node, "f", {"id": "long", "ops": [_get("in/6"), _get("in/long")]})
    assert [a[2] for a in answer] == ["6!", body]
    assert _outcome(node, "f") == (0, 1, 0)
    timer = threading.Timer(0.15, filled.write, (f"{BUCKET}/in/long", "short"))
    timer.start()
    answer = _invoke(node, "f", {"id": "long", "ops": [_get("in/6"), _get("in/long")]})
    timer.join()
    assert [a[2] for a in answer] == ["6!", "short"]
    assert _outcome(node, "f") == (0, 0, 1)


def test_the_header_counts_within_templates_only(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{id}}"], "records": False})
    url = f"s3://{BUCKET}/in/9"
    _invoke(node, "f", {"ops": [_get("in/9")]}, header=url)
    assert _outcome(node, "f") == (1, 0, 0)
    filled.write(f"{BUCKET}/secret", "s!")
    _invoke(node, "f", {"ops": [_get("in/9")]}, header=f"s3://{BUCKET}/secret, s3://other/in/9")
    assert _outcome(node, "f") == (0, 0, 0)
    node.deploy("plain")
    _invoke(node, "plain", {"ops": [_get("in/9")]}, header=url)
    assert _outcome(node, "plain") == (0, 0, 0)


def test_patterns_are_learnt_and_forgotten(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"learn": True, "records": False})
    for n in range(4):
        _invoke(node, "f", {"order": {"id": f"{n}"}, "ops": [_get(f"in/{n}")]})
        assert _outcome(node, "f") == (0, 0, 0)
    # One digit is too short to be found inside a key: the name of all of it is what repeats.
    for n in range(8):
        filled.write(f"{BUCKET}/in/item-{n}", f"{n}!")
        _invoke(node, "f", {"order": {"id": f"item-{n}"}, "ops": [_get(f"in/item-{n}")]})
    assert _outcome(node, "f") == (1, 0, 0)
    for _ in range(5):
        _invoke(node, "f", {"order": {"id": "item-1"}, "ops": []})
    assert _outcome(node, "f") == (0, 0, 0)


def test_what_is_not_used_is_ended_and_paid_for(node: Killable, filled: FaultyStore) -> None:
    node.deploy("f", prefetch={"templates": [f"s3://{BUCKET}/in/{{ids.{n}}}" for n in range(8)]})
    for n in range(20):
        filled.read_delays[f"{BUCKET}/in/{n}"] = (0, 5)
    began = time.monotonic()
    for _ in range(20):
        _invoke(node, "f", {"ids": [str(n) for n in range(8)], "ops": []})
    assert time.monotonic() - began < 30
    # 8 a time, until a hundred were for nothing.
    timings = node.call("GET", "/nexus/v1/functions/f/timings?last=20")[2]
    wasted = [timing["prefetch_wasted"] for timing in timings]
    assert wasted[:12] == [8] * 12
    assert sum(wasted) < 140
    metrics = _metrics(node)
    assert f'nexus_prefetches_total{{function="f",outcome="wasted"}} {sum(wasted)}' in metrics


def _metrics(node: Killable) -> str:
    import http.client

    connection = http.client.HTTPConnection(*node.address, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text
