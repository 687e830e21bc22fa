"""Build hook: puts the release binaries into the wheel and names the platform it is for."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BINARIES = ("nexusd", "nexus-vmm", "nexus-store")


class RustBinaries(BuildHookInterface[Any]):
    """Runs cargo before a wheel is put together. A development install takes what `make binaries` has built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling; `version` is "standard" or "editable"."""
        # No compiled extension, so any Python will do; the binaries are the platform's, linked with its C library.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{platform.machine()}"
        if version == "editable":
            return
        root = Path(self.root)
        target = Path(os.environ.get("CARGO_TARGET_DIR") or Path.home() / ".cache" / "nexus" / "target")
        subprocess.run(
            ["sh", "tools/binaries.sh"],
            cwd=root,
            check=True,
            env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        )
        place = root / "python" / "nexus" / "_bin"
        place.mkdir(exist_ok=True)
        for name in BINARIES:
            # A running daemon may have the old file open: replace it, do not write into it.
            fresh = place / f".{name}"
            shutil.copy(target / "release" / name, fresh)
            fresh.chmod(0o755)
            fresh.replace(place / name)
