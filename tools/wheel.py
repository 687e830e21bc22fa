"""Build hook: puts the release binaries into the wheel and names the platform it is for."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Below target/release, and below python/nexus.
BINARIES = {name: f"_bin/{name}" for name in ("nexusd", "nexus-vmm", "nexus-store")} | {
    "libnexus_guest.so": "guest/device/_native.abi3.so"
}


class RustBinaries(BuildHookInterface[Any]):
    """Runs cargo before a wheel is put together. A development install takes what `make binaries` has built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling; `version` is "standard" or "editable"."""
        # Any Python will do: the one extension module has CPython's stable interface, and is not needed. The binaries are the
        # platform's, linked with its C library.
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
        for name, inside in BINARIES.items():
            place = root / "python" / "nexus" / inside
            place.parent.mkdir(exist_ok=True)
            # A running daemon may have the old file open: replace it, do not write into it.
            fresh = place.with_name(f".{place.name}")
            shutil.copy(target / "release" / name, fresh)
            fresh.chmod(0o755)
            fresh.replace(place)
