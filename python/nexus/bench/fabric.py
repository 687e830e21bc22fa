"""CPU time of the communication fabric: what one GET and one PUT of 64 KiB cost, offloaded and not."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from nexus.bench import cpu, report
from nexus.bench.session import BUCKET, Session, session

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus.bench.plain import PlainProcess

NAME = "s3-small"
_WARM_PAIRS = 30


def measure(isolation: str, rounds: int, pairs: int) -> report.Report:
    """CPU milliseconds per pair, the median of ``rounds`` interleaved rounds of both sides.

    Counted for Nexus: nexusd and the instance's hypervisor (guest time is inside its). For the baseline: the process.
    Listed apart: the store, which both sides load alike.
    """
    with session(isolation) as bench:
        package = bench.deploy("s3_small.py", NAME, max_instances=1, timeout_s=300)
        with bench.plain(package) as plain:
            _offloaded(bench, _WARM_PAIRS)
            _baseline(plain, _WARM_PAIRS)
            samples = [_round(bench, plain, pairs) for _ in range(rounds)]
        columns = [statistics.median(column) for column in zip(*samples, strict=True)]
        own, other, daemon, guest, store, other_store = columns
        rows = [
            report.Row("cpu per GET+PUT 64 KiB", own, "ms", other),
            report.Row("of it nexusd", daemon, "ms"),
            report.Row("of it instance (hypervisor and guest)", guest, "ms"),
            report.Row("not counted: store", store, "ms", other_store),
        ]
        notes = [
            f"medians of {rounds} interleaved rounds of {pairs} pairs each, one invocation a round (its cost is counted)",
            "user and system time, guest and host together; kernel threads are not counted on either side",
        ]
        return report.Report(
            "Fabric: CPU time per GET+PUT of 64 KiB",
            "real boto3 in a plain process: client made once and warm, connections kept alive",
            rows,
            report.machine(bench.isolation, bench.kind),
            notes,
        )


def _round(bench: Session, plain: PlainProcess, pairs: int) -> tuple[float, ...]:
    instances = bench.pids(NAME)
    daemon, guest, store = _spent([[bench.daemon], instances, [bench.store]], lambda: _offloaded(bench, pairs))
    other, other_store = _spent([[plain.pid], [bench.store]], lambda: _baseline(plain, pairs))
    scale = pairs * 1e6
    return tuple(ns / scale for ns in (daemon + guest, other, daemon, guest, store, other_store))


def _spent(groups: list[list[int]], work: Callable[[], None]) -> list[int]:
    """Nanoseconds of CPU that each group of processes used during the work."""
    before = [cpu.total_ns(group) for group in groups]
    work()
    return [cpu.total_ns(group) - start for group, start in zip(groups, before, strict=True)]


def _event(target: str, pairs: int) -> dict[str, object]:
    return {"bucket": BUCKET, "key": "in", "target": target, "count": pairs}


def _offloaded(bench: Session, pairs: int) -> None:
    bench.node.invoke(NAME, _event("out-nexus", pairs))


def _baseline(plain: PlainProcess, pairs: int) -> None:
    plain.call(_event("out-plain", pairs))
