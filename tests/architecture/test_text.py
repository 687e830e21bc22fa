"""Text in the repository is what somebody wrote."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
MARKER = re.compile(rb"^(?:<{7}|\|{7}|>{7}) ", re.MULTILINE)


def test_no_file_has_the_markers_of_a_merge() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.split(b"\0")
    files = [path for name in names if name and (path := ROOT / name.decode()).is_file()]
    assert len(files) > 100
    found = []
    for path in files:
        content = path.read_bytes()
        if b"\0" not in content and MARKER.search(content):
            found.append(str(path.relative_to(ROOT)))
    assert found == []
