"""The benchmarks run and write what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from framework import kvm
from framework.cli import run

# They measure each isolation in its own way.
EACH = [
    (("fabric", "--rounds", "1", "--pairs", "10"), {"cpu per GET+PUT 64 KiB", "cpu per GET+PUT 16 MiB"}),
    (("cold", "--starts", "5"), {"first line p50", "first line p99", "response p50", "without shells: first line p50"}),
    (("compute", "--rounds", "2", "--work", "1"), {"cpu per call p50"}),
    (("memory", "--instances", "3"), {"MemAvailable per instance", "PSS per instance"}),
]
# These do the same with both.
OTHERS = [
    (("writes", "--calls", "5"), {"handler time, commit", "handler time, journal"}),
    (("prefetch", "--starts", "5"), {"cold start that reads, read ahead"}),
]


@pytest.mark.parametrize(("arguments", "names"), EACH)
def test_benchmark_writes_its_rows(isolation: str, arguments: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
    _measures(isolation, arguments, names, tmp_path)


@pytest.mark.parametrize(("arguments", "names"), OTHERS)
def test_another_benchmark_writes_its_rows(arguments: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
    _measures("process" if kvm.reason_missing() else "kvm", arguments, names, tmp_path)


def _measures(isolation: str, arguments: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = run("bench", *arguments, "--isolation", isolation, "--json", str(file))
    assert result.returncode == 0, result.stderr
    document = json.loads(file.read_text())
    rows = {row["name"]: row for row in document["rows"]}
    assert names <= set(rows)
    assert document["machine"]["isolation"] == isolation
    # What a few instances take of MemAvailable drowns in what a busy machine does meanwhile.
    for name in names - {"MemAvailable per instance"}:
        assert rows[name]["baseline"] > 0
        assert rows[name]["value"] > 0
        assert rows[name]["ratio"] == pytest.approx(rows[name]["baseline"] / rows[name]["value"])


@pytest.mark.kvm
def test_density_counts_live_instances(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    result = run(
        "bench", "density", "--instances", "8", "--functions", "2", "--calls", "16", "--isolation", "kvm", "--json", str(file)
    )
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["live instances"]["value"] == 8
    for side in ("value", "baseline"):
        assert 0 < rows["warm call, in the node, p50"][side] < rows["warm call p50"][side]
    # Two functions on one base, which each would have to itself.
    disk = rows["snapshot on disk per function"]
    assert 0 < disk["value"] < disk["baseline"]
    # Of one CPU: eight instances that wait for events take next to nothing.
    assert rows["CPU of all idle instances and nexusd"]["value"] < 5
