"""``nexus bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

F = TypeVar("F", bound=Callable[..., None])


def _common(command: F) -> F:
    """What every measurement is told."""
    isolation = click.option("--isolation", type=click.Choice(("auto", "kvm", "process")), default="auto", show_default=True)
    file = click.option(
        "--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to this file too."
    )
    return isolation(file(command))


def _distant(command: F) -> F:
    """What measurements over a distant store are told."""
    away = click.option(
        "--round-trip",
        type=click.FloatRange(0.1, 1000),
        default=20.0,
        show_default=True,
        help="Milliseconds to the store and back.",
    )
    size = click.option("--mib", type=click.FloatRange(0.01, 1.0), default=1.0, show_default=True, help="Size of the object.")
    return away(size(command))


@click.group()
def bench() -> None:
    """Measure. Every figure is a ratio: both sides in one run, on this machine."""


@bench.command()
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=7,
    show_default=True,
    help="Interleaved rounds of both sides; medians are shown.",
)
@click.option(
    "--pairs",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="GET+PUT pairs of 64 KiB in a round; fewer of larger ones.",
)
@_common
def fabric(*, rounds: int, pairs: int, isolation: str, file: Path | None) -> None:
    """CPU time of a GET+PUT of several sizes: offloaded, against coupled, and against real boto3 in a plain process."""
    from nexus.bench.fabric import measure
    from nexus.bench.report import publish

    publish(measure(isolation, rounds, pairs), file)


@bench.command()
@click.option("--instances", type=click.IntRange(1, 1000), default=32, show_default=True)
@click.option("--gets", type=click.IntRange(1), default=300, show_default=True, help="GETs that each instance makes.")
@_common
def ops(*, instances: int, gets: int, isolation: str, file: Path | None) -> None:
    """Small GETs by many instances at once: how many a core of the backend serves."""
    from nexus.bench.ops import measure
    from nexus.bench.report import publish

    publish(measure(isolation, instances, gets), file)


@bench.command()
@click.option("--starts", type=click.IntRange(5), default=50, show_default=True)
@_common
def cold(*, starts: int, isolation: str, file: Path | None) -> None:
    """Cold start: request to the handler's first line and to the response."""
    from nexus.bench.cold import measure
    from nexus.bench.report import publish

    publish(measure(isolation, starts), file)


@bench.command()
@click.option("--instances", type=click.IntRange(2), default=30, show_default=True)
@_common
def memory(*, instances: int, isolation: str, file: Path | None) -> None:
    """Memory of a warm instance, after one real invocation and one full collection each."""
    from nexus.bench.memory_bench import measure
    from nexus.bench.report import publish

    publish(measure(isolation, instances), file)


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Interleaved rounds of both sides.")
@click.option("--work", type=click.IntRange(1), default=20, show_default=True, help="Loops in a call.")
@_common
def compute(*, rounds: int, work: int, isolation: str, file: Path | None) -> None:
    """CPU-bound code: a call in an instance, against the same in a plain process."""
    from nexus.bench.compute import measure
    from nexus.bench.report import publish

    publish(measure(isolation, rounds, work), file)


@bench.command()
@click.option("--starts", type=click.IntRange(5), default=25, show_default=True)
@_distant
@_common
def prefetch(*, starts: int, round_trip: float, mib: float, isolation: str, file: Path | None) -> None:
    """Cold starts that need an object of a distant store: read ahead, and not."""
    from nexus.bench.ahead import measure_prefetch
    from nexus.bench.report import publish

    publish(measure_prefetch(isolation, starts, round_trip, mib), file)


@bench.command()
@click.option("--calls", type=click.IntRange(5), default=50, show_default=True)
@_distant
@_common
def writes(*, calls: int, round_trip: float, mib: float, isolation: str, file: Path | None) -> None:
    """A handler's PUT to a distant store: deferred, and not; and when its instance is free."""
    from nexus.bench.ahead import measure_writes
    from nexus.bench.report import publish

    publish(measure_writes(isolation, calls, round_trip, mib), file)


@bench.command()
@click.option("--starts", type=click.IntRange(5), default=25, show_default=True)
@_distant
@_common
def ladder(*, starts: int, round_trip: float, mib: float, isolation: str, file: Path | None) -> None:
    """One function that reads and writes an object, cold, one step at a time: offload, prefetch, deferred writes."""
    from nexus.bench.ahead import measure_ladder
    from nexus.bench.report import publish

    publish(measure_ladder(isolation, starts, round_trip, mib), file)


@bench.command()
@click.option("--instances", type=click.IntRange(8, 20_000), default=1000, show_default=True)
@click.option("--calls", type=click.IntRange(10), default=1000, show_default=True, help="Warm calls, alone and among them.")
@click.option("--functions", type=click.IntRange(1), default=8, show_default=True, help="Among which they are shared.")
@_common
def density(*, instances: int, calls: int, functions: int, isolation: str, file: Path | None) -> None:
    """Many live instances: memory of each, disk of each function, warm calls among them, what they cost when idle."""
    from nexus.bench.density import measure
    from nexus.bench.report import publish

    publish(measure(isolation, instances, calls, functions), file)
