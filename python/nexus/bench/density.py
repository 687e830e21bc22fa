"""Density: many live instances on one node, what each takes, and how a warm call does among them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from nexus.bench import cpu, limits, memory, report
from nexus.bench.session import BUCKET, Session, session
from nexus.errors import NexusError

_ABREAST = 64
_IDLE_S = 3.0
_ATTEMPTS = 4
# Seconds that one start takes at most, of many at once on a busy machine.
_SLOW_START_S = 0.1


def measure(isolation: str, instances: int, calls: int, functions: int) -> report.Report:
    """Bring up ``instances`` warm instances of a small S3 handler, then call them one after another.

    They are shared among ``functions``: each its own snapshot, as on a node of many tenants.

    The baseline of a call is the same call when one instance is alone on the node. All instances do one real GET+PUT
    before anything is measured.

    :raises NexusError: fewer came up; the machine's memory ended first, or the node's limits.
    """
    with session(isolation, max_instances=instances + 16) as bench:
        names = [f"s3-{number}" for number in range(min(functions, instances))]
        per_function = -(-instances // len(names))
        for name in names:
            bench.deploy("s3_small.py", name, max_instances=per_function, keep_alive_s=3600, timeout_s=900)
        alone = _calls(bench, names[:1], calls)
        for name in names[:1]:
            bench.evict(name)
        before = memory.settled_kib()
        limits.check(instances, bench.daemon, before)
        began = time.monotonic()
        each = _SLOW_START_S
        for name in names:
            each = _fill(bench, name, per_function, each)
        filled_s = time.monotonic() - began
        pids = [pid for name in names for pid in bench.pids(name)]
        memory.await_rest(pids)
        memory.await_long_rest()
        taken = (before - memory.available_kib()) / 1024
        idle = _idle(bench, pids)
        among = _calls(bench, names, calls)
        rows = [
            report.Row("live instances", len(pids), ""),
            report.Row("MemAvailable per instance", taken / len(pids), "MiB"),
            *(
                report.Row(f"{what} p{share}", report.quantile(here, share / 100), "ms", report.quantile(there, share / 100))
                for what, here, there in zip(("warm call", "warm call, in the node,"), among, alone, strict=True)
                for share in (50, 99)
            ),
            report.Row("CPU of all idle instances and nexusd", idle, "%"),
            report.Row("time to bring them up", filled_s, "s"),
            *_disk(bench, len(names)),
        ]
        return report.Report(
            f"Density: {len(pids)} live instances",
            "the same calls with one instance alone on the node",
            rows,
            report.machine(bench.isolation, bench.kind),
            [
                f"{len(names)} functions, examples/s3_small.py; each instance did one GET+PUT of 64 KiB before",
                "memory is looked at when all have rested for half a minute",
                f"{calls} warm calls (GET+PUT of 64 KiB), one after another, by turns among the functions; client to client",
                "in the node: from request to response, by its own clock",
                "a function's calls go to the instance used last: the others are idle but alive",
                "what the store keeps lies in memory",
            ],
        )


def _disk(bench: Session, functions: int) -> list[report.Row]:
    """What a function's snapshot takes on disk, against what it would if it shared no file with the others'."""
    content = bench.node.state.rglob("snapshots/content/*/*")
    files = [path.stat() for path in content if path.is_file() and not path.is_symlink()]
    if not files:
        return []
    once = {(found.st_dev, found.st_ino): found.st_blocks for found in files}
    mib = [sum(blocks) / 2048 / functions for blocks in (once.values(), (found.st_blocks for found in files))]
    return [report.Row("snapshot on disk per function", mib[0], "MiB", mib[1])]


def _event(until: float = 0) -> dict[str, object]:
    return {"bucket": BUCKET, "key": "in", "target": "out", "until": until}


def _calls(bench: Session, names: list[str], count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of ``count`` warm calls for the client, and for the node (of as many as it remembers)."""
    for name in names:
        bench.node.invoke(name, _event())
    times = []
    for number in range(count):
        began = time.perf_counter_ns()
        bench.node.invoke(names[number % len(names)], _event())
        times.append((time.perf_counter_ns() - began) / 1e6)
    taken = (timing for name in names for timing in bench.node.timings(name, max(count // len(names), 1)))
    return times, [(timing["responded_ns"] - timing["received_ns"]) / 1e6 for timing in taken]


def _fill(bench: Session, name: str, wanted: int, each: float) -> float:
    """Have ``wanted`` instances of a function live, each with one call behind it.

    A call stays until all are there, so that none serves two; the next ones are sent when those before have an instance.

    :param each: seconds that one start is expected to take.
    :returns: seconds that one took.
    """
    for _ in range(_ATTEMPTS):
        live = len(bench.pids(name))
        if live >= wanted:
            return each
        began = time.monotonic()
        until = time.time() + 2 + 1.5 * each * wanted
        # Instances that live take a call each as well.
        with ThreadPoolExecutor(wanted) as pool:
            calls = [pool.submit(bench.node.invoke, name, _event(until)) for _ in range(live)]
            while live < wanted and time.time() < until - 1:
                _check_memory(name, live)
                calls += [pool.submit(bench.node.invoke, name, _event(until)) for _ in range(min(_ABREAST, wanted - live))]
                _await_busy(bench, name, len(calls), until - 1)
                live = len(calls)
            each = max((time.monotonic() - began) / live, 0.01) if live >= wanted else 2 * each
            for call in calls:
                call.result()
    if (live := len(bench.pids(name))) < wanted:
        raise NexusError(f"no more than {live} of {wanted} instances of {name} come up", "look at the node's log")
    return each


def _await_busy(bench: Session, name: str, wanted: int, until: float) -> None:
    while time.time() < until:
        busy = sum(1 for one in bench.node.instances() if one["function"] == name and one["state"] == "busy")
        if busy >= wanted:
            return
        time.sleep(0.1)


def _check_memory(name: str, live: int) -> None:
    left = memory.available_kib() >> 10
    if left < limits.RESERVE_MIB:
        raise NexusError(
            f"the machine is too small: {left} MiB of memory are left with {live} instances of {name}",
            "ask for fewer: --instances",
        )


def _idle(bench: Session, pids: list[int]) -> float:
    """Percent of one CPU that the node takes while nothing is asked of it."""
    everyone = [bench.daemon, *pids]
    before = cpu.total_ns(everyone)
    began = time.monotonic_ns()
    time.sleep(_IDLE_S)
    return 100 * (cpu.total_ns(everyone) - before) / (time.monotonic_ns() - began)
