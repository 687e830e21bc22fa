"""Rows of a measurement, as a table and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline; None where there is no baseline.

    ``ratio`` is baseline / value: how many times less Nexus needs.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None

    @property
    def ratio(self) -> float | None:
        """Baseline over value."""
        if self.baseline is None or self.value <= 0:
            return None
        return self.baseline / self.value


@dataclass(frozen=True)
class Report:
    """A measurement.

    :param baseline: what the baseline column is.
    :param notes: what a reader must know to judge the figures.
    """

    title: str
    baseline: str
    rows: list[Row]
    machine: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        rows = [{**asdict(row), "ratio": row.ratio} for row in self.rows]
        return {"title": self.title, "baseline": self.baseline, "machine": self.machine, "rows": rows, "notes": self.notes}


def machine(isolation: str, kind: str) -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    return {
        "cpu": model[1] if model else "unknown",
        "cpus": os.cpu_count(),
        "memory_mib": int(memory[1]) >> 10 if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nexus": __version__,
        "isolation": isolation,
        "kvm": kind,
        "load_1min": os.getloadavg()[0],
    }


def quantile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank quantile: a value that was really measured."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def publish(report: Report, file: Path | None) -> None:
    """Print the table; write the JSON where a file is named."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=report.title, title_justify="left")
    table.add_column("")
    for name in ("Nexus", "baseline", "", "baseline / Nexus"):
        table.add_column(name, justify="right" if name else "left")
    for row in report.rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.2f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
        table.add_row(row.name, f"{row.value:.2f}", baseline, row.unit, ratio)
    console = Console(soft_wrap=True)
    console.print(table)
    m = report.machine
    console.print(f"baseline: {report.baseline}", highlight=False)
    console.print(
        f"machine: {m['cpus']} x {m['cpu']}, Linux {m['kernel']}, Python {m['python']}, isolation {m['isolation']} "
        f"{m['kvm']}, load {m['load_1min']:.1f}",
        highlight=False,
    )
    for note in report.notes:
        console.print(f"note: {note}", highlight=False)
    if file is not None:
        file.write_text(json.dumps(report.document(), indent=2) + "\n", encoding="utf-8")
        click.echo(f"written to {file}")
