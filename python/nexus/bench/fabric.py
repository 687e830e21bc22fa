"""CPU time of the communication fabric: what one GET and one PUT cost, offloaded, coupled, and in a plain process.

Coupled is the same hypervisor with the whole fabric in the guest: real boto3, TLS where the endpoint has it, TCP on a socket
that the backend connected. Its snapshot was taken with the client made, and its connections stay open between invocations.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nexus.bench import cpu, report
from nexus.bench.session import BUCKET, SIZE, Session, session
from nexus.node import credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from nexus.bench.plain import PlainProcess

NAME = "s3-small"
COUPLED = "s3-small-coupled"
SIZES = {"1 KiB": 1 << 10, "64 KiB": SIZE, "1 MiB": 1 << 20, "16 MiB": 16 << 20}
_WARM_PAIRS = 30
# Of an exit to user space: on PVM (docs of the design), and what recomputed figures assume, as on hardware.
_EXIT_US = {"pvm": 26.0}
_HARDWARE_EXIT_US = 1.5


@dataclass(frozen=True)
class Sample:
    """Milliseconds of CPU per pair, and exits to user space."""

    daemon: float
    guest: float
    store: float
    exits: float

    @property
    def total(self) -> float:
        """Host and guest, without the store."""
        return self.daemon + self.guest


def measure(isolation: str, rounds: int, pairs: int) -> report.Report:
    """CPU milliseconds per pair, the median of ``rounds`` interleaved rounds of all sides.

    Counted for Nexus: nexusd and the instance's hypervisor (guest time is inside its). For the baseline: the process.
    Listed apart: the store, which all sides load alike.
    """
    with session(isolation) as bench:
        package = bench.deploy("s3_small.py", NAME, max_instances=1, timeout_s=300)
        sides = [NAME]
        if bench.isolation == "kvm":
            _deploy_coupled(bench)
            sides.append(COUPLED)
        s3 = bench.node.s3()
        for name, size in SIZES.items():
            s3.put_object(Bucket=BUCKET, Key=f"in {name}", Body=bytes(range(256)) * (size // 256))
        for side in sides:
            bench.node.invoke(side, {"bucket": BUCKET, "key": "in", "target": None})
        with bench.plain(package) as plain:
            rows = [row for size in SIZES for row in _of_size(bench, plain, sides, size, (rounds, _count(pairs, SIZES[size])))]
        notes = [
            "exits to user space are the hypervisor's own count of its first process",
            f"medians of {rounds} interleaved rounds of {pairs} pairs each (fewer of more than 64 KiB)",
            "one invocation a round, whose cost is counted; another before it, which is not, ends the rest of an instance",
            "user and system time, guest and host together; kernel threads are not counted on any side",
        ]
        return report.Report(
            "Fabric: CPU time per GET+PUT",
            "real boto3 in a plain process, or (where it says so) coupled; client made once and warm, connections kept",
            rows,
            report.machine(bench.isolation, bench.kind),
            notes,
        )


def _deploy_coupled(bench: Session) -> None:
    """The same function with everything in the guest, with the store's credentials."""
    key, secret = credentials.load(bench.node.state)
    file = bench.node.state / "coupled.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"access_key_id": key, "secret_access_key": secret}), encoding="utf-8")
    bench.deploy("s3_small.py", COUPLED, max_instances=1, timeout_s=300, offload="coupled", credentials=str(file))


def _count(pairs: int, size: int) -> int:
    return max(2, pairs * SIZE // max(size, SIZE))


def _of_size(bench: Session, plain: PlainProcess, sides: list[str], size: str, counts: tuple[int, int]) -> list[report.Row]:
    rounds, pairs = counts
    event = {"bucket": BUCKET, "key": f"in {size}", "count": pairs}

    def invoke(side: str, count: int) -> object:
        return bench.node.invoke(side, {**event, "target": f"out {side}", "count": count})

    def call_plain(count: int) -> object:
        return plain.call({**event, "target": "out plain", "count": count})

    calls: dict[str, Callable[[int], object]] = {side: partial(invoke, side) for side in sides}
    calls["plain"] = call_plain
    for call in calls.values():
        call(min(_WARM_PAIRS, pairs))
    samples: dict[str, list[Sample]] = {side: [] for side in calls}
    for _ in range(rounds):
        for side, call in calls.items():
            # An instance that has rested while the others had their turns wakes here: what that costs is another benchmark's.
            call(1)
            samples[side].append(_sample(bench, side, plain.pid if side == "plain" else None, partial(call, pairs), pairs))
    found = {side: _median(of_side) for side, of_side in samples.items()}
    own, other = found[NAME], found["plain"]
    rows = [
        report.Row(f"cpu per GET+PUT {size}", own.total, "ms", other.total),
        report.Row(f"  {size}: of it nexusd", own.daemon, "ms"),
        report.Row(f"  {size}: of it instance (hypervisor and guest)", own.guest, "ms"),
        report.Row(f"  {size}: not counted: store", own.store, "ms", other.store),
    ]
    if COUPLED in found:
        coupled = found[COUPLED]
        rows.append(report.Row(f"  {size}: against coupled", own.total, "ms", coupled.total))
        if own.exits and coupled.exits:
            rows.append(report.Row(f"  {size}: exits to user space", own.exits, "", coupled.exits))
            if bench.kind in _EXIT_US:
                saved = (_EXIT_US[bench.kind] - _HARDWARE_EXIT_US) / 1000
                less = [side.total - side.exits * saved for side in (own, coupled)]
                rows.append(report.Row(f"  {size}: against coupled, at {_HARDWARE_EXIT_US} us an exit", less[0], "ms", less[1]))
    return rows


def _median(samples: list[Sample]) -> Sample:
    fields = ("daemon", "guest", "store", "exits")
    return Sample(*(statistics.median(getattr(sample, field) for sample in samples) for field in fields))


def _sample(bench: Session, side: str, plain: int | None, work: Callable[[], object], pairs: int) -> Sample:
    groups = [[bench.daemon], bench.pids(side) if plain is None else [plain], [bench.store]]
    before = [cpu.total_ns(group) for group in groups]
    work()
    spent = [cpu.total_ns(group) - start for group, start in zip(groups, before, strict=True)]
    scale = pairs * 1e6
    if plain is not None:
        return Sample(0.0, spent[1] / scale, spent[2] / scale, 0.0)
    exits = int(bench.node.timings(side, 1)[-1]["exits"])
    return Sample(spent[0] / scale, spent[1] / scale, spent[2] / scale, exits / pairs)
