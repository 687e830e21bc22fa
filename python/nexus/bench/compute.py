"""CPU-bound code: the same handler in an instance and in a plain process."""

from __future__ import annotations

import statistics

from nexus.bench import cpu, report
from nexus.bench.session import session
from nexus.errors import NexusError

NAME = "compute"
_WARM = 3


def measure(isolation: str, rounds: int, work: int) -> report.Report:
    """CPU milliseconds of one call of pure computation, medians of ``rounds`` interleaved rounds of both sides.

    :param work: loops in a call; 20 take about 0.7 s.
    :raises NexusError: the two sides computed different results.
    """
    event = {"rounds": work}
    with session(isolation) as bench:
        package = bench.deploy("compute.py", NAME, max_instances=1, timeout_s=300)
        with bench.plain(package) as plain:
            for _ in range(_WARM):
                bench.node.invoke(NAME, {"rounds": 1})
                plain.call({"rounds": 1})
            own, other = [], []
            for _ in range(rounds):
                instances = bench.pids(NAME)
                before = cpu.total_ns(instances)
                result = bench.node.invoke(NAME, event)
                own.append((cpu.total_ns(instances) - before) / 1e6)
                before = cpu.total_ns([plain.pid])
                answer = plain.call(event)
                other.append((cpu.total_ns([plain.pid]) - before) / 1e6)
                if result != answer.result:
                    raise NexusError("the instance and the plain process computed different results", "this is a defect")
        return report.Report(
            "Compute: CPU time of a CPU-bound call",
            "the same handler in a plain Python process",
            [
                report.Row("cpu per call p50", statistics.median(own), "ms", statistics.median(other)),
                report.Row("cpu per call least", min(own), "ms", min(other)),
            ],
            report.machine(bench.isolation, bench.kind),
            [
                f"{rounds} interleaved rounds; handler: examples/compute.py (loops, allocation, sorting, JSON, SHA-256)",
                "user and system time of the instance's hypervisor, guest included, and of the process",
            ],
        )
