"""What reading ahead and writing behind save, over a store that is some milliseconds away."""

from __future__ import annotations

from statistics import median
from typing import Any

from nexus.bench import report
from nexus.bench.session import BUCKET, Session, session
from nexus.errors import NexusError

KEY = "large"
_EXAMPLE = "s3_once.py"
_TEMPLATE = f"s3://{BUCKET}/{{key}}"
_WARM_CALLS = 4
Timing = dict[str, Any]


def measure_prefetch(isolation: str, starts: int, round_trip_ms: float, mib: float) -> report.Report:
    """Cold starts of a handler that reads one object, with and without prefetch, beside what they are made of."""
    with session(isolation, store_round_trip_ms=round_trip_ms) as bench:
        _prepare(bench, mib)
        bench.deploy(_EXAMPLE, "plain", max_instances=1)
        bench.deploy(_EXAMPLE, "ahead", max_instances=1, prefetch=(_TEMPLATE,))
        read = {"bucket": BUCKET, "key": KEY}
        look = {**read, "look": True}
        restore, behind, ahead, warm, ahead_looking, warm_looking = [], [], [], [], [], []
        for _ in range(starts):
            restore.append(_response(_cold(bench, "plain", {})))
            behind.append(_response(_cold(bench, "plain", read)))
            warm.append(_handler(_call(bench, "plain", read)))
            warm_looking.append(_handler(_call(bench, "plain", look)))
            ahead.append(_response(_ahead(bench, read)))
            ahead_looking.append(_response(_ahead(bench, look)))
        bound = max(median(restore), median(warm))
        bound_looking = max(median(restore), median(warm_looking))
        rows = [
            report.Row("cold start that reads, read ahead", median(ahead), "ms", median(behind)),
            report.Row("over max(restore, GET)", median(ahead) - bound, "ms"),
            report.Row("cold start that reads nothing (restore)", median(restore), "ms"),
            report.Row("GET alone, in a warm instance", median(warm), "ms"),
            report.Row("read ahead, of a handler that looks at each byte", median(ahead_looking), "ms"),
            report.Row("over max(restore, GET and look)", median(ahead_looking) - bound_looking, "ms"),
        ]
        titles = (f"Prefetch: cold start with an input of {mib:g} MiB", "the same without prefetch")
        return _report(bench, titles, rows, starts, round_trip_ms)


def measure_writes(isolation: str, calls: int, round_trip_ms: float, mib: float) -> report.Report:
    """Handler time of a PUT by the mode of the function's writes."""
    with session(isolation, store_round_trip_ms=round_trip_ms) as bench:
        modes = ("sync", "commit", "journal")
        for mode in modes:
            bench.deploy(_EXAMPLE, mode, writes=mode)
            for _ in range(_WARM_CALLS):
                _call(bench, mode, _put(mode, mib))
        taken: dict[str, list[Timing]] = {mode: [] for mode in modes}
        for _ in range(calls):
            for mode in modes:
                taken[mode].append(_call(bench, mode, _put(mode, mib)))
        for mode in modes[1:]:
            if any(timing["writes"] != 1 for timing in taken[mode]):
                raise NexusError(f"a write of the mode {mode} was not deferred", "this is a defect; see the node's log")
        sync = median(map(_handler, taken["sync"]))
        free = [(timing["ended_ns"] - timing["handler_end_ns"]) / 1e6 for timing in taken["commit"]]
        commit = [(timing["committed_ns"] - timing["ended_ns"]) / 1e6 for timing in taken["commit"]]
        rows = [
            *(report.Row(f"handler time, {mode}", median(map(_handler, taken[mode])), "ms", sync) for mode in modes[1:]),
            report.Row("commit: instance free after the handler's end", median(free), "ms"),
            report.Row("commit: answer after that", median(commit), "ms"),
            *(
                report.Row(
                    f"request to response, {mode}",
                    median(map(_response, taken[mode])),
                    "ms",
                    median(map(_response, taken["sync"])),
                )
                for mode in modes[1:]
            ),
        ]
        titles = (f"Deferred writes: one PUT of {mib:g} MiB", "sync")
        return _report(bench, titles, rows, calls, round_trip_ms)


def measure_ladder(isolation: str, starts: int, round_trip_ms: float, mib: float) -> report.Report:
    """Cold and warm latency of one read and one write, each step with all before it."""
    steps: dict[str, dict[str, Any]] = {
        "SDK offload": {},
        "+ prefetch": {"prefetch": (_TEMPLATE,)},
        "+ deferred writes": {"prefetch": (_TEMPLATE,), "writes": "commit"},
        "+ deferred writes, journal": {"prefetch": (_TEMPLATE,), "writes": "journal"},
    }
    with session(isolation, store_round_trip_ms=round_trip_ms) as bench:
        _prepare(bench, mib)
        samples: dict[str, list[tuple[float, ...]]] = {}
        for number, (step, options) in enumerate(steps.items()):
            bench.deploy(_EXAMPLE, f"step{number}", max_instances=2, **options)
            samples[step] = []
        for _ in range(starts):
            for number, step in enumerate(steps):
                event = {**_put(f"out{number}", mib), "key": KEY}
                cold, warm = _cold(bench, f"step{number}", event), _call(bench, f"step{number}", event)
                samples[step].append((_response(cold), _handler(warm), _response(warm)))
        columns = {step: [median(column) for column in zip(*rows, strict=True)] for step, rows in samples.items()}
        first = columns["SDK offload"]
        rows = [
            report.Row(f"{step}: {what}", values[index], "ms", first[index])
            for index, what in enumerate(("cold start", "warm handler", "warm call"))
            for step, values in columns.items()
        ]
        titles = (f"Ladder: GET and PUT of {mib:g} MiB", "SDK offload alone")
        return _report(bench, titles, rows, starts, round_trip_ms)


def _prepare(bench: Session, mib: float) -> None:
    bench.node.s3().put_object(Bucket=BUCKET, Key=KEY, Body=b"\x5a" * int(mib * (1 << 20)))


def _put(target: str, mib: float) -> dict[str, object]:
    return {"bucket": BUCKET, "target": target, "size": int(mib * (1 << 20))}


def _call(bench: Session, name: str, event: object) -> Timing:
    bench.node.invoke(name, event)
    return bench.node.timings(name, 1)[-1]


def _cold(bench: Session, name: str, event: object) -> Timing:
    bench.evict(name)
    bench.await_shells()
    timing = _call(bench, name, event)
    if not timing["cold"]:
        raise NexusError(
            f"an invocation of {name} after an eviction was not a cold start", "this is a defect; see the node's log"
        )
    return timing


def _ahead(bench: Session, event: object) -> Timing:
    timing = _cold(bench, "ahead", event)
    if timing["prefetch_used"] != 1:
        raise NexusError("an object that was read ahead was not used", "this is a defect; see the node's log")
    return timing


def _response(timing: Timing) -> float:
    return float(timing["responded_ns"] - timing["received_ns"]) / 1e6


def _handler(timing: Timing) -> float:
    return float(timing["handler_end_ns"] - timing["handler_ns"]) / 1e6


def _report(bench: Session, titles: tuple[str, str], rows: list[report.Row], count: int, round_trip_ms: float) -> report.Report:
    notes = [
        f"medians of {count} each, alternating; the store is {round_trip_ms:g} ms away (a relay delays both directions)",
        "times are nexusd's and the guest's, on one clock",
    ]
    return report.Report(*titles, rows, report.machine(bench.isolation, bench.kind), notes)
