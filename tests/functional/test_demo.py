"""The demo runs and checks itself."""

from __future__ import annotations

from pathlib import Path

from framework.cli import run


def test_demo_makes_right_thumbnails_of_a_few_photographs(isolation: str) -> None:
    result = run("demo", "--photos", "4", "--isolation", isolation)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all 4 thumbnails are right" in result.stdout
    assert f"isolation {isolation}" in result.stdout
    assert "memory per instance" in result.stdout


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
