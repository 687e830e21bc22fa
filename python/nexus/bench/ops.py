"""Small GETs by many instances at once: how many one core of the backend, and of the store, serves."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from nexus.bench import cpu, report
from nexus.bench.session import BUCKET, session
from nexus.errors import NexusError

NAME = "s3-small"
_SIZE = 1 << 10
_ATTEMPTS = 5
_HOLD_S = 2.0


def measure(isolation: str, instances: int, gets: int) -> report.Report:
    """GETs of 1 KiB per second of CPU, by ``instances`` instances that make ``gets`` each."""
    with session(isolation, max_instances=instances + 10) as bench:
        bench.deploy("s3_small.py", NAME, max_instances=instances, keep_alive_s=600, timeout_s=600)
        bench.node.s3().put_object(Bucket=BUCKET, Key="small", Body=bytes(_SIZE))
        event = {"bucket": BUCKET, "key": "small", "target": None}
        with ThreadPoolExecutor(instances) as pool:
            for _ in range(_ATTEMPTS):
                list(pool.map(lambda _: bench.node.invoke(NAME, {**event, "hold": _HOLD_S}), range(instances)))
                if len(bench.pids(NAME)) >= instances:
                    break
            pids = bench.pids(NAME)
            if len(pids) < instances:
                raise NexusError(f"only {len(pids)} of {instances} instances came up", "look at the node's log")
            groups = [[bench.daemon], [bench.store], pids]
            before, began = [cpu.total_ns(group) for group in groups], time.monotonic()
            list(pool.map(lambda _: bench.node.invoke(NAME, {**event, "count": gets}), range(instances)))
            wall = time.monotonic() - began
            daemon, store, guests = ((cpu.total_ns(group) - start) / 1e9 for group, start in zip(groups, before, strict=True))
        total = instances * gets
        rows = [
            report.Row("GETs per second of nexusd's CPU", total / daemon, "1/s"),
            report.Row("GETs per second of the store's CPU", total / store, "1/s"),
            report.Row("GETs per second of the instances' CPU", total / guests, "1/s"),
            report.Row("GETs per second of wall time, all of them on this machine", total / wall, "1/s"),
        ]
        notes = [f"{instances} instances at once, {gets} GETs of 1 KiB each by boto3's own API; invocations are counted"]
        machine = report.machine(bench.isolation, bench.kind)
        return report.Report("Operations: GETs of 1 KiB from many rings", "none", rows, machine, notes)
