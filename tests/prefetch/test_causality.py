"""Whatever the interleaving of writers, reads ahead and a function's reads: no read is stale, none contradicts another.

A writer writes data, then the manifest that names it. Who reads manifest n must find data n or later; and every read gives at
least what was there when the invocation was asked for.
"""

from __future__ import annotations

import threading
import time

import pytest
from crash.faulty_store import FaultyStore
from crash.killable import Killable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

BUCKET = "causal"
KEYS = ("data", "manifest")
_delay = st.sampled_from([0.0, 0.002, 0.006, 0.012])
_delays = st.tuples(_delay, _delay)
# Seconds into the invocation at which the writer writes the next pair, and whether the data goes through the node.
_writes = st.lists(st.tuples(st.sampled_from([0.0, 0.003, 0.008, 0.015, 0.025]), st.booleans()), max_size=3)
_reads = st.lists(st.sampled_from([*KEYS, "unrelated", "pause"]), min_size=2, max_size=5)


@pytest.fixture
def ready(node: Killable, store: FaultyStore) -> Killable:
    store.write(f"{BUCKET}/unrelated", "0!")
    node.deploy("reader", prefetch={"templates": [f"s3://{BUCKET}/{{a}}", f"s3://{BUCKET}/{{b}}"]}, max_instances=1)
    node.deploy("writer")
    return node


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(_delays, _delays, _writes, _reads, st.booleans())
@example((0.0, 0.0), (0.012, 0.0), [(0.003, False)], ["manifest", "data"], False)
@example((0.0, 0.012), (0.0, 0.0), [(0.003, False)], ["unrelated", "data"], False)
@example((0.0, 0.0), (0.0, 0.0), [(0.003, True)], ["pause", "data"], True)
def test_no_read_is_stale_or_contradicts_another(
    ready: Killable, store: FaultyStore, data: tuple[float, float], manifest: tuple[float, float], writes, reads, swapped: bool
) -> None:
    store.read_delays = {f"{BUCKET}/data": data, f"{BUCKET}/manifest": manifest}
    count = int((store.text(f"{BUCKET}/manifest") or "0").rstrip("!")) + 1
    for key in KEYS:
        store.write(f"{BUCKET}/{key}", f"{count}!")
    least = count
    finished = threading.Event()

    def write() -> None:
        began = time.monotonic()
        number = count
        for after, through_node in sorted(writes):
            time.sleep(max(0.0, began + after - time.monotonic()))
            number += 1
            if through_node:
                put = {"op": "PutObject", "bucket": BUCKET, "key": "data", "text": f"{number}!"}
                assert ready.invoke("writer", [put])
            else:
                store.write(f"{BUCKET}/data", f"{number}!")
            store.write(f"{BUCKET}/manifest", f"{number}!")
        finished.set()

    thread = threading.Thread(target=write)
    thread.start()
    ops = [{"pause": 0.01} if read == "pause" else {"op": "GetObject", "bucket": BUCKET, "key": read} for read in reads]
    first, second = reversed(KEYS) if swapped else KEYS
    status, _, answer = ready.call(
        "POST", "/2015-03-31/functions/reader/invocations", {"do": "s3", "ops": ops, "a": first, "b": second}
    )
    thread.join()
    assert finished.is_set()
    assert status == 200
    seen = dict.fromkeys(KEYS, least)
    for read, got in zip(reads, answer, strict=True):
        if read not in KEYS:
            continue
        assert got[0] == 200, answer
        number = int(got[2].rstrip("!"))
        assert number >= seen[read], f"{read} {number} after {seen}: {reads} gave {answer}"
        seen[read] = number
        if read == "manifest":
            # Its data was written before it.
            seen["data"] = max(seen["data"], number)
