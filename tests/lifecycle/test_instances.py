"""Instances: made on demand, one event at a time, ended in time, each by itself."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.config import Config


def instances(node, name):
    status, found = node.admin("GET", "/nexus/v1/instances")
    assert status == 200
    return [one for one in found if one["function"] == name]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def plain(node, handlers):
    """A function of several instances."""
    node.deploy("plain", handlers / "lifecycle.py", memory_mib=128, max_instances=4, timeout_s=20)
    return "plain"


def test_scales_from_zero_and_stays_warm(node, plain):
    node.admin("POST", f"/nexus/v1/functions/{plain}/evict")
    until(lambda: not instances(node, plain))
    first, _ = node.invoke(plain, {})
    second, _ = node.invoke(plain, {})
    assert first["calls"] == 1
    assert (second["token"], second["calls"]) == (first["token"], 2)
    found = instances(node, plain)
    assert len(found) == 1
    assert found[0]["isolation"] == node.isolation
    assert found[0]["invocations"] >= 2


def test_one_event_at_a_time(node, plain):
    # Where starts take long, some are told to come again (429), as Lambda's clients are and do.
    client = node.nexus.lambda_client(config=Config(retries={"mode": "standard", "total_max_attempts": 10}))

    # So long that one instance cannot do all before the next has started, on a busy machine either.
    def call(_):
        return json.load(client.invoke(FunctionName=plain, Payload=b'{"sleep_s": 1}')["Payload"])

    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(call, range(12)))
    assert all(one["most"] == 1 for one in results), results
    assert 1 < len({one["token"] for one in results}) <= 4
    assert len(instances(node, plain)) <= 4


def test_idle_instances_are_ended(node, handlers):
    node.deploy("short", handlers / "lifecycle.py", memory_mib=128, keep_alive_s=1)
    first, _ = node.invoke("short", {})
    until(lambda: not instances(node, "short"))
    again, _ = node.invoke("short", {})
    assert again["token"] != first["token"]


@pytest.mark.parametrize("event", [{"sleep_s": 30}, {"spin": True}], ids=["asleep", "spinning"])
def test_a_timeout_ends_the_instance(node, handlers, event):
    name = "late-" + next(iter(event)).replace("_", "-")
    node.deploy(name, handlers / "lifecycle.py", memory_mib=128, timeout_s=1, max_instances=1)
    before, _ = node.invoke(name, {})
    started = time.monotonic()
    payload, response = node.invoke(name, event)
    assert time.monotonic() - started < 5
    assert response.get("FunctionError")
    assert "Task timed out after 1.00 seconds" in payload["errorMessage"]
    after, _ = node.invoke(name, {})
    assert after["token"] != before["token"]
    assert after["calls"] == 1


@pytest.mark.parametrize("event", [{"exit": 3}, {"signal": 11}, {"signal": 9}, {"recurse": True}], ids=json.dumps)
def test_a_crash_is_told_and_harms_no_other(node, plain, handlers, event):
    node.deploy("crashing", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    with ThreadPoolExecutor(2) as pool:
        steady = pool.submit(node.invoke, plain, {"sleep_s": 1})
        time.sleep(0.2)
        payload, response = node.invoke("crashing", event)
        assert response.get("FunctionError")
        assert payload["errorType"].startswith("Runtime.")
        result, good = steady.result()
    assert not good.get("FunctionError")
    assert result["most"] == 1
    recovered, response = node.invoke("crashing", {})
    assert not response.get("FunctionError")
    assert recovered["calls"] == 1


def test_a_damaged_snapshot_is_refused_and_made_anew(node, handlers):
    if node.isolation != "kvm":
        pytest.skip("there are no snapshots of processes")
    node.deploy("damaged", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    assert node.invoke("damaged", {})[0]["calls"] == 1
    node.admin("POST", "/nexus/v1/functions/damaged/evict")
    files = [path for path in (node.kept / "snapshots").rglob("*") if path.is_file() and path.stat().st_size]
    assert files, "the node keeps no snapshots"
    for path in files:
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        for at in (0, len(data) // 2, len(data) - 1):
            data[at] ^= 0x5A
        path.write_bytes(data)
    payload, response = node.invoke("damaged", {})
    assert not response.get("FunctionError"), payload
    assert payload["calls"] == 1
    assert "snapshot" in node.logs("damaged")
    node.admin("POST", "/nexus/v1/functions/damaged/evict")
    assert node.invoke("damaged", {})[0]["calls"] == 1


def test_a_working_set_is_recorded_once_and_a_wrong_one_does_no_harm(node, handlers):
    if node.isolation != "kvm":
        pytest.skip("there are no snapshots of processes")

    def snapshots():
        return {path.name for path in (node.kept / "snapshots" / "content").iterdir()}

    def again():
        node.admin("POST", "/nexus/v1/functions/working/evict")
        until(lambda: not instances(node, "working"))
        payload, response = node.invoke("working", {})
        assert not response.get("FunctionError"), payload
        assert payload["calls"] == 1

    node.deploy("sibling", handlers / "lifecycle.py", memory_mib=128)  # so that the base is there
    before = snapshots()
    node.deploy("working", handlers / "lifecycle.py", memory_mib=128, max_instances=1)
    (snapshot,) = snapshots() - before
    recorded = node.kept / "snapshots" / "working-sets" / snapshot
    assert not recorded.exists()
    node.invoke("working", {})
    until(recorded.exists)
    text = recorded.read_text()
    known = json.loads(text)
    assert set(known) == {"written", "read", "changed"}
    assert known["changed"]
    assert len(known["written"]) > 10
    pages = [set(range(first, first + count)) for kind in ("written", "read") for first, count in known[kind]]
    assert all(pages)
    assert len(set.union(*pages)) == sum(map(len, pages)), "a page is in it twice"
    again()
    assert recorded.read_text() == text
    lists = ("[[1,2", "[[0, 18446744073709551615]]", "[[4096, 99999999]]", "[[5, 1], [4, 1]]", "[" + "[1,1]," * 90_000)
    for wrong in ("", '{"a": 1}', *(f'{{"written": {part}, "read": {part}, "changed": {part}}}' for part in lists)):
        recorded.write_text(wrong)
        again()


def test_functions_run_with_the_native_module(node, handlers):
    node.deploy("native", handlers / "native.py", memory_mib=128)
    assert node.invoke("native", {})[0] is True
