"""Runs the demo and tells how it goes."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nexus.bench.session import Session, choose, examples
from nexus.demo import figures, photos, work
from nexus.sdk.node import Node

if TYPE_CHECKING:
    from rich.console import Console

_MEMORY_MIB = 256


def run(isolation: str, limit: int | None, state: Path | None) -> int:
    """Do it all; 0 where every result is right."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    chosen, kind, warning = choose(isolation)
    if warning:
        console.print(f"[yellow]warning:[/] {warning}")
    directory = examples()
    pictures = photos.collect(directory / "photos.lock", limit)
    # Packages are shared between runs; the node's own state is not.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nexus" / "packages"
    os.environ.setdefault("NEXUS_PACKAGES", str(cache))
    with (
        tempfile.TemporaryDirectory(prefix="nexus-demo-") as scratch,
        Node.start(state or Path(scratch) / "state", port=0, store_port=0, isolation=chosen) as node,
    ):
        bench = Session(node, chosen, kind)
        console.print(f"node {node.url}, store {node.store_url}: isolation [bold]{chosen}[/] {_why(node, kind)}")
        wrong = _work(console, bench, directory, pictures, Path(scratch))
    for text in wrong:
        console.print(f"[red]wrong:[/] {text}")
    verdict = f"[red]{len(wrong)} results are wrong[/]" if wrong else f"all {len(pictures)} thumbnails are right"
    console.print(f"{verdict}; {time.monotonic() - began:.0f} s in all")
    return 1 if wrong else 0


def _why(node: Node, kind: str) -> str:
    reason = str(node.status().get("reason") or "")
    return f"({reason or kind})" if kind or reason else ""


def _work(console: Console, bench: Session, directory: Path, pictures: list[Path], scratch: Path) -> list[str]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    size = work.upload(bench.node.s3(), pictures)
    console.print(
        f"{len(pictures)} photographs, {size / 1e6:.1f} MB, uploaded (from scikit-image, scikit-learn and matplotlib; "
        "among them microscope, retina and telescope pictures and both halves of a stereo pair)"
    )
    began = time.monotonic()
    options = {"requirements": directory / "requirements.txt", "memory_mib": _MEMORY_MIB, "max_instances": figures.INSTANCES}
    package = bench.deploy("thumbnail.py", work.NAME, **options)
    console.print(f"thumbnail.py (boto3, Pillow) deployed and initialised once, in {time.monotonic() - began:.1f} s")

    columns = (TextColumn("thumbnails"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(pictures))
        outcome, wrong = work.through_function(bench, pictures, lambda name: progress.update(task, advance=1, description=name))
    wrong += work.decode(package, pictures, outcome, scratch)
    reference = work.through_process(bench, package, pictures)
    wrong += work.compare(pictures, outcome, reference)
    console.print("every thumbnail decoded and compared with its photograph, and with what the plain process made of it")
    if not wrong:
        few = sorted(pictures, key=lambda photo: photo.stat().st_size)[len(pictures) // 2 :][:4]
        _report(console, bench, figures.of_function(bench, few), figures.of_process(bench, package, few))
    return wrong


def _report(console: Console, bench: Session, own: figures.Figures, other: figures.Figures) -> None:
    from rich.table import Table

    table = Table(title="thumbnail.py, the same file twice", title_justify="left")
    for name, justify in (("", "left"), (f"Nexus ({bench.isolation})", "right"), ("plain process", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, mine, theirs, unit in (
        ("cold start to the first line, p50", own.first_line_ms, other.first_line_ms, "ms"),
        ("cold start to the response, p50", own.cold_ms, other.cold_ms, "ms"),
        ("warm, p50", own.warm_p50_ms, other.warm_p50_ms, "ms"),
        ("warm, p99", own.warm_p99_ms, other.warm_p99_ms, "ms"),
        ("memory per instance, MemAvailable", own.available_mib, other.available_mib, "MiB"),
        ("memory per instance, PSS", own.pss_mib, other.pss_mib, "MiB"),
    ):
        table.add_row(name, _figure(mine), _figure(theirs), unit)
    console.print(table)
    console.print(
        f"cold: {figures.COLD_STARTS} starts; Nexus from the request, the process from its exec (it imports boto3 and Pillow). "
        f"Memory over {own.instances} and {other.instances} instances. Warm Nexus calls go through boto3 and HTTP, "
        "the process's through a pipe. Credentials: in the process, yes; in the microVM, none."
    )


def _figure(value: float | None) -> str:
    return "not readable" if value is None else f"{value:.1f}"
