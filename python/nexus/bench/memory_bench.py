"""Memory of warm instances, against as many plain processes that did the same work."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

from nexus.bench import memory, report
from nexus.bench.session import BUCKET, Session, session
from nexus.errors import NexusError
from nexus.packaging.deployment import Package

NAME = "s3-small"
IDLE = "s3-none"
_ATTEMPTS = 5
# How long an invocation stays after its work, so that as many run at once as there shall be instances.
_HOLD_S = 2.0
_CALLS = 6


@dataclass(frozen=True)
class Footprint:
    """MiB per instance.

    :param pss: None where the processes may not be looked at.
    :param private: median of what no other process maps; None likewise.
    """

    available: float
    pss: float | None
    private: float | None


def measure(isolation: str, instances: int) -> report.Report:
    """MiB per instance after one real invocation (GET+PUT of 64 KiB) and one full garbage collection each."""
    event = {"bucket": BUCKET, "key": "in", "target": "out", "collect": True}
    with session(isolation, max_instances=instances + 10) as bench:
        package = bench.deploy("s3_small.py", NAME, max_instances=instances, keep_alive_s=600, timeout_s=60)
        own, rest, long = of_function(bench, NAME, event, instances)
        behind_long = _call_ms(bench, NAME)
        if bench.isolation == "kvm":
            memory.await_rest(bench.pids(NAME))
        behind_rest = _call_ms(bench, NAME)
        bench.evict(NAME)
        bench.deploy("s3_small.py", IDLE, max_instances=instances, keep_alive_s=600, timeout_s=60)
        _, without, _ = of_function(bench, IDLE, {**event, "count": 0}, instances)
        bench.evict(IDLE)
        other = of_plain(bench, package, event, instances)
        rows = [
            report.Row("MemAvailable per instance", long.available, "MiB", other.available),
            report.Row("the same, before it has rested for long", rest.available, "MiB", other.available),
            report.Row("the same, before a rest", own.available, "MiB", other.available),
        ]
        notes = [
            f"{instances} instances alive at once, each after one invocation and one full gc; then as many plain processes"
        ]
        notes += [
            "at rest: five seconds after its last event an instance gives back pages that show what its snapshot shows",
            "a long rest: twenty seconds later KVM lets go of what it keeps for the instance's memory",
            f"the first call after a rest takes {behind_rest[0]:.1f} ms, after a long one {behind_long[0]:.1f} ms",
            f"the next calls take {statistics.median(behind_rest[1:] + behind_long[1:]):.1f} ms",
        ]
        if rest.pss is not None and other.pss is not None:
            rows.append(report.Row("PSS per instance", rest.pss, "MiB", other.pss))
            rows += of_s3(rest, without)
        else:
            notes.append("PSS and private memory are not shown: an instance's memory map can be read by root only")
        return report.Report(
            f"Memory per warm instance, of {instances}",
            "plain Python processes with real boto3, same handler, same work",
            rows,
            report.machine(bench.isolation, bench.kind),
            notes,
        )


def of_s3(using: Footprint, without: Footprint) -> list[report.Row]:
    """What the use of S3 costs in private memory: the same function's instances at rest, behind a GET+PUT and behind none."""
    if using.private is None or without.private is None:
        return []
    return [
        report.Row("private memory, having used S3", using.private, "MiB"),
        report.Row("private memory, having not", without.private, "MiB"),
        report.Row("what the use of S3 adds", using.private - without.private, "MiB"),
    ]


def of_function(bench: Session, name: str, event: dict[str, object], instances: int) -> tuple[Footprint, Footprint, Footprint]:
    """Footprint of ``instances`` warm instances of a function: right behind their call, at rest, and after a long rest.

    The handler must know ``hold`` where it is short.
    """
    bench.evict(name)
    before = memory.settled_kib()
    held = {**event, "hold": _HOLD_S}
    with ThreadPoolExecutor(instances) as pool:
        for _ in range(_ATTEMPTS):
            list(pool.map(lambda _: bench.node.invoke(name, held), range(instances)))
            pids = bench.pids(name)
            if len(pids) >= instances:
                break
            bench.evict(name)
            before = memory.settled_kib()
    if len(pids) < instances:
        raise NexusError(f"only {len(pids)} of {instances} instances of {name} came up", "look at the node's log")
    own = _footprint(before, pids)
    if bench.isolation != "kvm":
        return own, own, own
    memory.await_rest(pids)
    rest = _footprint(before, pids)
    memory.await_long_rest()
    return own, rest, _footprint(before, pids)


def _call_ms(bench: Session, name: str) -> list[float]:
    """Milliseconds of a few calls, one after another; all go to the instance used last."""
    times = []
    for _ in range(_CALLS):
        began = time.perf_counter_ns()
        bench.node.invoke(name, {"bucket": BUCKET, "key": "in", "target": "out"})
        times.append((time.perf_counter_ns() - began) / 1e6)
    return times


def of_plain(bench: Session, package: Package, event: dict[str, object], count: int) -> Footprint:
    """Footprint of as many plain processes."""
    before = memory.settled_kib()
    with ExitStack() as stack:
        processes = [stack.enter_context(bench.plain(package)) for _ in range(count)]
        for process in processes:
            process.send(event)
        for process in processes:
            process.receive()
        return _footprint(before, [process.pid for process in processes])


def _footprint(before_kib: int, pids: list[int]) -> Footprint:
    after = memory.available_kib()
    pss, private = ([of(pid) for pid in pids] for of in (memory.pss_kib, memory.private_kib))
    return Footprint(
        (before_kib - after) / 1024 / len(pids),
        statistics.fmean(pss) / 1024 if all(pss) else None,
        statistics.median(private) / 1024 if all(private) else None,
    )
