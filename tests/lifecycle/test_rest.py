"""An instance at rest gives back what it holds in double, and notices nothing of it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
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


def settled_kib(pid):
    """What is left when a rest is over: `call_and_rest` may return in the middle of it."""
    samples = [anonymous_kib(pid)]
    end = time.monotonic() + 20
    while len(samples) < 8 or len(set(samples[-8:])) > 1:
        assert time.monotonic() < end, f"it does not settle: {samples[-8:]} KiB"
        time.sleep(0.1)
        samples.append(anonymous_kib(pid))
    return samples[-1]


def expected(calls):
    before = b"".join(bytes([number % 251]) * 600 for number in range(4000))
    changed, sparse = bytearray(1 << 20), bytearray(1 << 20)
    for call in range(1, calls + 1):
        start = (call % 16) << 16
        changed[start : start + 4096] = bytes([call % 256]) * 4096
        for page in range(0, 1 << 20, 4096):
            sparse[page + call * 50 % 4096] += 1
    digests = {"before": before, "changed": changed, "sparse": sparse}
    return {"calls": calls, **{name: hashlib.sha256(content).hexdigest() for name, content in digests.items()}}


# Of 2.3 MiB that show the snapshot again, 1 MiB that differs from it in a few bytes of each page, and what the runtime touches.
GIVEN_BACK_KIB = 3000


def call_and_rest(node, name, way, calls, **more):
    """Each call finds memory as it was, and each rest gives back; the process."""
    ticks = 0
    for call in calls:
        answer = node.invoke(name, {"way": way, **more})
        before, (ticks, right) = ticks, answer.pop("ticks")
        assert answer == expected(call)
        assert right
        # With its thread the guest wakes every second, and rests again.
        assert (ticks > before) == (way == "ticks" and call > 1)
        (pid,) = [one["pid"] for one in node.instances() if one["function"] == name]
        used = anonymous_kib(pid)
        end = time.monotonic() + 20
        while anonymous_kib(pid) > used - GIVEN_BACK_KIB:
            assert time.monotonic() < end, f"call {call}: {used} KiB, {anonymous_kib(pid)} KiB at rest"
            time.sleep(0.05)
        if way == "ticks":
            time.sleep(2.5)
    return pid


def process_of(thread):
    """Whose thread this is; None: it has ended."""
    try:
        status = Path(f"/proc/{thread}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(re.search(r"^Tgid:\s+(\d+)", status, re.MULTILINE)[1])


def mapped_by_kvm(pid):
    """Pages that KVM maps for its microVM, by its statistics, which bear the name of the thread that made it; None where they are
    not shown."""
    if os.geteuid() != 0:
        return None
    machines = {int(path.name.partition("-")[0]): path for path in Path("/sys/kernel/debug/kvm").glob("*-*")}
    mine = min((thread for thread in machines if pid <= thread < pid + 20 and process_of(thread) in {pid, None}), default=None)
    return None if mine is None else int((machines[mine] / "pages_4k").read_text(encoding="ascii"))


@pytest.mark.kvm
def test_a_long_rest_lets_go_of_what_kvm_keeps_and_nothing_is_lost(node, handlers):
    node.deploy(f"{handlers}/at_rest.py:handler", "rest-long", max_instances=1, memory_mib=256, timeout_s=60)
    for call in range(1, 4):
        answer = node.invoke("rest-long", {"way": "alone"})
        assert answer.pop("ticks")[1]
        assert answer == expected(call)
        (pid,) = [one["pid"] for one in node.instances() if one["function"] == "rest-long"]
        if mapped_by_kvm(pid) is None:
            node.evict("rest-long")
            pytest.skip("the kernel shows no statistics of KVM's")
        assert mapped_by_kvm(pid) > 100
        # What is left is the hypervisor's own part of the guest.
        end = time.monotonic() + 20
        while (mapped := mapped_by_kvm(pid)) > 20:
            assert time.monotonic() < end, f"call {call}: {mapped} pages are mapped"
            time.sleep(0.05)
    node.evict("rest-long")


@pytest.mark.kvm
@pytest.mark.parametrize("way", ["alone", "thread", "ticks"])
def test_memory_like_the_snapshots_is_given_back_and_nothing_is_lost(node, handlers, way):
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's memory map")
    name = f"rest-{way}"
    node.deploy(f"{handlers}/at_rest.py:handler", name, max_instances=1, memory_mib=256, timeout_s=60)
    # The first clone is watched for its working set, and tidied after that.
    call_and_rest(node, name, way, range(1, 5))
    node.evict(name)


@pytest.mark.kvm
def test_a_call_that_sleeps_is_followed_by_a_rest_as_well(node, handlers):
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's memory map")
    node.deploy(f"{handlers}/at_rest.py:handler", "rest-slept", max_instances=1, memory_mib=256, timeout_s=60)
    # Asleep for longer than a rest takes to be one: nothing is given back yet. On a busy machine, what watches for a rest is late.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        call_and_rest(node, "rest-slept", "alone", range(1, 3), sleep=TIDY_MS / 1000 + 0.2)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    node.evict("rest-slept")


@pytest.mark.kvm
def test_pages_that_were_copied_are_mapped_at_the_first_rest(node, handlers):
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's memory map")
    name, way = "rest-copied", "thread"
    node.deploy(f"{handlers}/at_rest.py:handler", name, max_instances=1, memory_mib=256, timeout_s=60)
    first = call_and_rest(node, name, way, range(1, 4))
    settled = settled_kib(first)
    resting = own_pages(first), settled
    # The next one runs in a shell, where the snapshot's own pages are copied over the base's.
    node.evict(name)
    end = time.monotonic() + 20
    while node.instances() or node.status()["shells"] < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert node.invoke(name, {"way": way})["calls"] == 1
    (pid,) = [one["pid"] for one in node.instances()]
    assert b"shell" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert own_pages(pid) < resting[0] / 2
    assert call_and_rest(node, name, way, range(2, 4)) == pid
    settled = settled_kib(pid)
    assert own_pages(pid) == resting[0]
    assert settled == pytest.approx(resting[1], rel=0.1, abs=100)
    node.evict(name)


def arena_kib(pid):
    """Memory behind the arena, and the arena's size."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "arena" in os.readlink(entry):
            return entry.stat().st_blocks // 2, entry.stat().st_size >> 10
    raise AssertionError(f"process {pid} has no arena")


def await_arena(pid, below):
    end = time.monotonic() + 20
    while arena_kib(pid)[0] > below:
        assert time.monotonic() < end, f"{arena_kib(pid)[0]} KiB of the arena at rest"
        time.sleep(0.05)


@pytest.mark.kvm
def test_a_heap_that_was_used_is_given_back_at_rest_and_not_before(node, handlers):
    if Path("/proc/self").stat().st_uid != 0:
        pytest.skip("only root may look at an instance's arena")
    s3 = node.s3()
    s3.create_bucket(Bucket="arena")
    objects = {
        name: os.urandom(1 << 10) * (size >> 10)
        for name, size in {"small": 2 << 10, "large": 1 << 20, "kept": 300 << 10}.items()
    }
    for name, content in objects.items():
        s3.put_object(Bucket="arena", Key=name, Body=content)

    def call(keys, *more, **event):
        answer = node.invoke("arena", {"keys": keys, **event})
        assert answer == [hashlib.sha256(objects[name]).hexdigest() for name in (*keys, *more)]
        for name in keys:
            assert s3.get_object(Bucket="arena", Key=f"{name} copy")["Body"].read() == objects[name]

    node.deploy(f"{handlers}/arena.py:handler", "arena", max_instances=1, timeout_s=60)
    call(["small"])
    (pid,) = [one["pid"] for one in node.instances() if one["function"] == "arena"]
    await_arena(pid, 300)
    for _ in range(3):
        call(["large", "small", "large"])
        # Not at the end of each event: the next one would have to get it again.
        assert arena_kib(pid)[0] > 1000
        await_arena(pid, 300)
    # What is held stays, and what lies behind it goes.
    call(["large"], keep="kept")
    await_arena(pid, 1700)
    time.sleep(3 * TIDY_MS / 1000)
    assert arena_kib(pid)[0] > 300
    call(["large"], "kept")
    # Whatever is told is taken for what it can be: a place in the heap.
    size = arena_kib(pid)[1] << 10
    for told in (1, 0x4001, size - 1, size, 0xFFFFFFFF, 0):
        call(["large"], tell=told)
        time.sleep(3 * TIDY_MS / 1000)
        call(["small"])
    node.evict("arena")


def own_pages(pid):
    """Bytes that are mapped of the snapshot's own file: the one that lies beside the base's."""
    size = 0
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="ascii").splitlines():
        if line.endswith("/pages") and Path(line.split()[5]).with_name("base").exists():
            start, end = line.split(" ")[0].split("-")
            size += int(end, 16) - int(start, 16)
    return size
