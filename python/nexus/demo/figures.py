"""The demo's figures: cold start, warm latency and memory of both sides."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexus.bench import memory
from nexus.bench.report import quantile
from nexus.demo.work import BUCKET, NAME

if TYPE_CHECKING:
    from pathlib import Path

    from nexus.bench.session import Session
    from nexus.packaging.deployment import Package

COLD_STARTS = 7
INSTANCES = 6
_WARM_UPS = 2
_ROUNDS = 12


@dataclass(frozen=True)
class Figures:
    """One side's figures: milliseconds and MiB. ``instances``: how many the memory was measured over."""

    first_line_ms: float
    cold_ms: float
    warm_p50_ms: float
    warm_p99_ms: float
    available_mib: float
    pss_mib: float | None
    instances: int


def of_function(bench: Session, photos: list[Path]) -> Figures:
    """The function's figures, over the same few photographs as the process's."""
    first, response = [], []
    for _ in range(COLD_STARTS):
        bench.evict(NAME)
        bench.node.invoke(NAME, _event(photos[0]))
        timing = bench.node.timings(NAME, 1)[-1]
        first.append((timing["handler_ns"] - timing["received_ns"]) / 1e6)
        response.append((timing["responded_ns"] - timing["received_ns"]) / 1e6)
    client = bench.node.lambda_client()
    warm = _warm(photos, lambda event: client.invoke(FunctionName=NAME, Payload=json.dumps(event).encode())["Payload"].read())
    bench.evict(NAME)
    before = memory.settled_kib()
    with ThreadPoolExecutor(INSTANCES) as pool:
        for _ in range(4):
            list(pool.map(lambda photo: bench.node.invoke(NAME, _event(photo)), (photos * INSTANCES)[: INSTANCES * 2]))
            pids = bench.pids(NAME)
            if len(pids) >= INSTANCES:
                break
    return _figures(first, response, warm, before, pids)


def of_process(bench: Session, package: Package, photos: list[Path]) -> Figures:
    """The same of plain processes."""
    first, response = [], []
    for _ in range(3):
        with bench.plain(package) as process:
            answer = process.call(_event(photos[0]))
            first.append((answer.first_ns - process.started_ns) / 1e6)
            response.append((answer.end_ns - process.started_ns) / 1e6)
    with bench.plain(package) as process:
        warm = _warm(photos, process.call)
    before = memory.settled_kib()
    with ExitStack() as stack:
        processes = [stack.enter_context(bench.plain(package)) for _ in range(INSTANCES)]
        for _ in range(2):
            for process, photo in zip(processes, photos * INSTANCES, strict=False):
                process.send(_event(photo))
            for process in processes:
                process.receive()
        return _figures(first, response, warm, before, [process.pid for process in processes])


def _event(photo: Path) -> dict[str, str]:
    return {"bucket": BUCKET, "key": photo.name}


def _warm(photos: list[Path], call: Any) -> list[float]:
    """Latencies in ms of the same small set of photographs, over and over, after a warm-up."""
    latencies = []
    for number in range(_WARM_UPS + _ROUNDS):
        for photo in photos:
            began = time.monotonic_ns()
            call(_event(photo))
            if number >= _WARM_UPS:
                latencies.append((time.monotonic_ns() - began) / 1e6)
    return latencies


def _figures(first: list[float], response: list[float], warm: list[float], before_kib: int, pids: list[int]) -> Figures:
    available = (before_kib - memory.available_kib()) / 1024 / max(1, len(pids))
    pss = [memory.pss_kib(pid) / 1024 for pid in pids]
    return Figures(
        first_line_ms=quantile(first, 0.5),
        cold_ms=quantile(response, 0.5),
        warm_p50_ms=quantile(warm, 0.5),
        warm_p99_ms=quantile(warm, 0.99),
        available_mib=available,
        pss_mib=sum(pss) / len(pss) if pss and all(pss) else None,
        instances=len(pids),
    )
