"""An instance at rest gives back what it holds in double, and notices nothing of it."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path

import pytest
from framework import kvm
from nexus import Node

TIDY_MS = 300


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    kvm.require()
    with Node.start(tmp_path_factory.mktemp("rest"), port=0, store_port=0, isolation="kvm", tidy_ms=TIDY_MS) as node:
        yield node


def anonymous_kib(pid):
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)[1])


def expected(calls):
    before = b"".join(bytes([number % 251]) * 600 for number in range(4000))
    changed = bytearray(1 << 20)
    for call in range(1, calls + 1):
        start = (call % 16) << 16
        changed[start : start + 4096] = bytes([call % 256]) * 4096
    return {"calls": calls, "before": hashlib.sha256(before).hexdigest(), "changed": hashlib.sha256(changed).hexdigest()}


@pytest.mark.kvm
@pytest.mark.parametrize("thread", [False, True])
def test_memory_like_the_snapshots_is_given_back_and_nothing_is_lost(node, handlers, thread):
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's memory map")
    name = f"rest-{thread}".lower()
    node.deploy(f"{handlers}/at_rest.py:handler", name, max_instances=1, memory_mib=256, timeout_s=60)
    event = {"thread": thread}
    # The first clone is watched for its working set, and tidied after that.
    for call in range(1, 4):
        assert node.invoke(name, event) == expected(call)
        (pid,) = [one["pid"] for one in node.instances() if one["function"] == name]
        used = anonymous_kib(pid)
        end = time.monotonic() + 20
        while anonymous_kib(pid) > used - 1500:
            assert time.monotonic() < end, f"call {call}: {used} KiB, {anonymous_kib(pid)} KiB at rest"
            time.sleep(0.05)
