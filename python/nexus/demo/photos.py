"""The demo's photographs: image files out of pinned wheels of well-known packages. Nothing of the packages is run."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nexus.errors import NexusError

# Path inside the wheels: what it shows. Drawings, test patterns and masks that lie beside them are left out.
PHOTOS = {
    "skimage/data/astronaut.png": "portrait of Eileen Collins",
    "skimage/data/brick.png": "brick wall",
    "skimage/data/camera.png": "photographer at work",
    "skimage/data/cell.png": "cell under a microscope",
    "skimage/data/chelsea.png": "a cat",
    "skimage/data/clock_motion.png": "clock, blurred by motion",
    "skimage/data/coffee.png": "cup of coffee",
    "skimage/data/coins.png": "Greek coins",
    "skimage/data/grass.png": "grass",
    "skimage/data/gravel.png": "gravel",
    "skimage/data/hubble_deep_field.jpg": "deep field, space telescope",
    "skimage/data/ihc.png": "stained tissue under a microscope",
    "skimage/data/microaneurysms.png": "detail of a retina",
    "skimage/data/moon.png": "surface of the moon",
    "skimage/data/motorcycle_left.png": "motorcycle, left half of a stereo pair",
    "skimage/data/motorcycle_right.png": "motorcycle, right half of the stereo pair",
    "skimage/data/page.png": "page of a book",
    "skimage/data/retina.jpg": "retina",
    "skimage/data/rocket.jpg": "rocket at its launch",
    "skimage/data/text.png": "handwriting on a whiteboard",
    "sklearn/datasets/images/china.jpg": "Summer Palace, Beijing",
    "sklearn/datasets/images/flower.jpg": "dahlia",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": "portrait of Grace Hopper",
}
_DEADLINE = 300


def collect(lock: Path, limit: int | None = None) -> list[Path]:
    """The photographs on disk, fetched once per lock file into the user's cache.

    :param lock: pinned requirements, with hashes, of the packages that carry them.
    :raises NexusError: the packages cannot be had, or lack a photograph.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "nexus" / f"photos-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not directory.is_dir():
        _fetch(lock, directory)
    found = [directory / Path(name).name for name in PHOTOS]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise NexusError(f"photographs are missing in {directory} ({', '.join(missing)})", "delete the directory and try again")
    return found[:limit]


def _fetch(lock: Path, directory: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".photos-") as name:
        unpacked = Path(name) / "wheels"
        result = subprocess.run(
            [
                str(uv) if uv.exists() else "uv",
                *("pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--only-binary", ":all:", "--python", sys.executable, "--target", str(unpacked), "--requirement", str(lock)),
            ],
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if result.returncode:
            raise NexusError(f"the packages with the photographs could not be had ({result.stderr.strip()[-500:]})")
        chosen = Path(name) / "photos"
        chosen.mkdir()
        for inner in PHOTOS:
            if (unpacked / inner).is_file():
                shutil.copy(unpacked / inner, chosen)
        try:
            chosen.rename(directory)
        except OSError:
            # Another run was first.
            if not directory.is_dir():
                raise
