"""Cold starts: from the request's arrival to the handler's first line and to the response."""

from __future__ import annotations

from dataclasses import dataclass, field

from nexus.bench import report
from nexus.bench.session import BUCKET, Session, session
from nexus.errors import NexusError
from nexus.packaging.deployment import Package


@dataclass
class _Side:
    """Milliseconds of one side's starts."""

    first: list[float] = field(default_factory=list)
    response: list[float] = field(default_factory=list)

    def add(self, begin_ns: int, first_ns: int, end_ns: int) -> None:
        self.first.append((first_ns - begin_ns) / 1e6)
        self.response.append((end_ns - begin_ns) / 1e6)


def measure(isolation: str, starts: int) -> report.Report:
    """Cold starts of a boto3 handler that does one GET+PUT of 64 KiB, and of one that does nothing.

    Every start follows the complete end of the instance before it; no instance is kept ready. Shells are (empty microVMs of
    no function: the node's ordinary setting), and then not. The baseline is a new Python
    process that imports the same handler and calls it.
    """
    event = {"bucket": BUCKET, "key": "in", "target": "out"}
    s3, s3_plain, hello, hello_plain = _Side(), _Side(), _Side(), _Side()
    bare_s3, bare_hello = _Side(), _Side()
    with session(isolation, shells=0) as bench:
        bench.deploy("s3_small.py", "s3-small", max_instances=1)
        bench.deploy("hello.py", "hello", max_instances=1)
        for _ in range(starts):
            _cold(bench, "s3-small", event, bare_s3)
            _cold(bench, "hello", {}, bare_hello)
    with session(isolation) as bench:
        s3_package = bench.deploy("s3_small.py", "s3-small", max_instances=1)
        hello_package = bench.deploy("hello.py", "hello", max_instances=1)
        for _ in range(starts):
            _cold(bench, "s3-small", event, s3)
            _cold(bench, "hello", {}, hello)
        for _ in range(max(5, starts // 5)):
            _plain(bench, s3_package, event, s3_plain)
            _plain(bench, hello_package, {}, hello_plain)
        rows = [
            *_rows("", s3, s3_plain),
            *_rows("empty handler: ", hello, hello_plain),
            *_rows("without shells: ", bare_s3, s3_plain),
            *_rows("without shells, empty handler: ", bare_hello, hello_plain),
        ]
        notes = [
            f"{starts} cold starts of each handler, alternating; baseline {len(s3_plain.first)}",
            "handler: examples/s3_small.py (imports boto3; one GET and one PUT of 64 KiB); empty: examples/hello.py",
            "times are nexusd's: request received, first line, response handed to the connection",
        ]
        return report.Report(
            "Cold start: request to first line and to response",
            "a new Python process: start, import the handler (boto3 with it), call it",
            rows,
            report.machine(bench.isolation, bench.kind),
            notes,
        )


def _cold(bench: Session, name: str, event: object, side: _Side) -> None:
    bench.evict(name)
    bench.await_shells()
    bench.node.invoke(name, event)
    timing = bench.node.timings(name, 1)[-1]
    if not timing["cold"]:
        raise NexusError(
            f"an invocation of {name} after an eviction was not a cold start", "this is a defect; see the node's log"
        )
    side.add(timing["received_ns"], timing["handler_ns"], timing["responded_ns"])


def _plain(bench: Session, package: Package, event: object, side: _Side) -> None:
    with bench.plain(package) as process:
        answer = process.call(event)
        side.add(process.started_ns, answer.first_ns, answer.end_ns)


def _rows(prefix: str, own: _Side, other: _Side) -> list[report.Row]:
    return [
        report.Row(f"{prefix}{what} {label}", report.quantile(mine, fraction), "ms", report.quantile(theirs, fraction))
        for what, mine, theirs in (("first line", own.first, other.first), ("response", own.response, other.response))
        for label, fraction in (("p50", 0.5), ("p99", 0.99))
    ]
