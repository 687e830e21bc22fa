"""The demo and the benchmarks run, check themselves, and write what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from framework import kvm
from framework.cli import run


@pytest.fixture(params=["kvm", "process"])
def isolation(request: pytest.FixtureRequest) -> str:
    if request.param == "kvm":
        kvm.require()
    return str(request.param)


def test_demo_makes_right_thumbnails_of_a_few_photographs(isolation: str) -> None:
    result = run("demo", "--photos", "6", "--isolation", isolation)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all 6 thumbnails are right" in result.stdout
    assert f"isolation {isolation}" in result.stdout
    assert "memory per instance" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("fabric", "--rounds", "2", "--pairs", "20"), {"cpu per GET+PUT 64 KiB", "cpu per GET+PUT 16 MiB"}),
        (("cold", "--starts", "5"), {"first line p50", "first line p99", "response p50", "without shells: first line p50"}),
        (("compute", "--rounds", "2", "--work", "1"), {"cpu per call p50"}),
        (("memory", "--instances", "3"), {"MemAvailable per instance", "PSS per instance"}),
    ],
)
def test_benchmark_writes_its_rows(isolation: str, arguments: tuple[str, ...], names: set[str], tmp_path: Path) -> None:
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
    result = run("bench", "density", "--instances", "8", "--calls", "16", "--isolation", "kvm", "--json", str(file))
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    assert rows["live instances"]["value"] == 8
    assert rows["warm call p50"]["value"] > 0
    # Of one CPU: eight instances that wait for events take next to nothing.
    assert rows["CPU of all idle instances and nexusd"]["value"] < 5


def test_every_photograph_of_the_list_is_there_and_is_its_own_picture() -> None:
    import hashlib

    from nexus.bench.session import examples
    from nexus.demo import photos

    found = photos.collect(examples() / "photos.lock")
    assert len(found) >= 20
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in found}) == len(found)


def test_checker_finds_wrong_thumbnails(tmp_path: Path) -> None:
    from nexus.bench.session import examples
    from nexus.demo import photos
    from nexus.demo.check_worker import judge
    from PIL import Image

    cat, coffee = (p for p in photos.collect(examples() / "photos.lock") if p.name in ("chelsea.png", "coffee.png"))
    with Image.open(cat) as image:
        small = image.convert("RGB")
        small.thumbnail((256, 256))
    item = {"thumb": str(tmp_path / "t.jpg"), "photo": str(cat), "width": small.width, "height": small.height}
    small.save(item["thumb"], "JPEG", quality=85)
    assert judge(item) == ""
    assert "does not look" in judge({**item, "photo": str(coffee)})
    assert "returned" in judge({**item, "width": 1})
    small.save(item["thumb"], "PNG")
    assert "not JPEG" in judge(item)
