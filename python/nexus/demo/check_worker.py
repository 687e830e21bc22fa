"""Judges thumbnails by decoding them. Runs by path in the function's own Python, with its Pillow: ``check_worker.py FILE``.

FILE is JSON: a list of ``{"name", "photo", "thumb", "width", "height"}`` with paths. Prints a list of texts: what is wrong.
"""

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageStat

# Mean difference per channel (0 to 255) from the photograph, scaled by another filter. JPEG at quality 85 stays well below;
# another picture, or half of it missing, lies far above.
LARGEST_DIFFERENCE = 12.0
EDGE = 256


def judge(item: dict[str, Any]) -> str:
    """What is wrong with one thumbnail; an empty text if nothing is."""
    with Image.open(item["thumb"]) as thumb:
        if thumb.format != "JPEG":
            return f"is {thumb.format}, not JPEG"
        thumb.load()
        if thumb.size != (item["width"], item["height"]):
            return f"is {thumb.size}, but the handler returned {item['width']} x {item['height']}"
        if max(thumb.size) > EDGE:
            return f"is {thumb.size}, larger than {EDGE}"
        with Image.open(item["photo"]) as photo:
            expected = photo.convert("RGB").resize(thumb.size, Image.Resampling.BOX)
        difference = sum(ImageStat.Stat(ImageChops.difference(expected, thumb.convert("RGB"))).mean) / 3
    return "" if difference < LARGEST_DIFFERENCE else f"does not look like its photograph (mean difference {difference:.1f})"


def main() -> None:
    """Judge all; print what is wrong."""
    wrong = []
    for item in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            text = judge(item)
        except Exception as error:  # noqa: BLE001
            text = f"cannot be decoded ({error})"
        if text:
            wrong.append(f"{item['name']}: the thumbnail {text}")
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
